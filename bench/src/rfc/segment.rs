//! The tester's TCP segments: headers are written into frames whose payload is zeros and stays so.

use bulkhead_pipeline::checksum;
use bulkhead_rules::headers::{ETHER_IPV4, protocol};

use super::frame::{CLIENTS, SERVERS};

/// Where a TCP segment's payload begins.
pub(crate) const TCP_PAYLOAD_AT: usize = 14 + 20 + 20;

/// The most payload of a segment.
pub(crate) const SEGMENT_BYTES: usize = 1460;

/// One TCP segment whose payload is zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    /// The client's host and port: they name the connection.
    pub(crate) client: Client,
    /// Whether the client sends it.
    pub(crate) from_client: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) payload: usize,
}

/// Who opened a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Client {
    pub(crate) host: u16,
    pub(crate) port: u16,
}

/// The servers' port.
const HTTPS: u16 = 443;

/// Servers that clients spread over.
const SERVER_HOSTS: u16 = 64;

impl Segment {
    /// Bytes of its frame, without FCS.
    pub(crate) fn frame_len(&self) -> usize {
        (TCP_PAYLOAD_AT + self.payload).max(60)
    }

    /// Writes all headers to the front of a frame of [`Segment::frame_len`] whose other bytes are zero.
    /// The checksums are right because of these zeros.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let Some(out) = out.first_chunk_mut::<TCP_PAYLOAD_AT>() else { return };
        let Client { host, port } = self.client;
        let client = (CLIENTS + 2 + u32::from(host)).to_be_bytes();
        let server = (SERVERS + 2 + u32::from(host % SERVER_HOSTS)).to_be_bytes();
        let (src, dst, ports, macs) = if self.from_client {
            (client, server, [port, HTTPS], [2, 1])
        } else {
            (server, client, [HTTPS, port], [1, 2])
        };
        let length = (20 + 20 + self.payload) as u16;
        out[..12].copy_from_slice(&[2, 0, 0, 0, 0, macs[0], 2, 0, 0, 0, 0, macs[1]]);
        out[12..14].copy_from_slice(&ETHER_IPV4.to_be_bytes());
        out[14..26].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
        out[16..18].copy_from_slice(&length.to_be_bytes());
        out[26..30].copy_from_slice(&src);
        out[30..34].copy_from_slice(&dst);
        let sum = checksum::finish(checksum::add(0, &out[14..34]));
        out[24..26].copy_from_slice(&sum.to_be_bytes());
        out[34..36].copy_from_slice(&ports[0].to_be_bytes());
        out[36..38].copy_from_slice(&ports[1].to_be_bytes());
        out[38..42].copy_from_slice(&self.seq.to_be_bytes());
        out[42..46].copy_from_slice(&self.ack.to_be_bytes());
        out[46..54].copy_from_slice(&[0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = u64::from(protocol::TCP) + (20 + self.payload) as u64;
        let sum = checksum::finish(checksum::add(pseudo, &out[26..54]));
        out[50..52].copy_from_slice(&sum.to_be_bytes());
    }

    /// Reads what [`Segment::write`] wrote; [`None`] where the frame is none of these.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let bytes = frame.first_chunk::<TCP_PAYLOAD_AT>()?;
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        if half(12) != ETHER_IPV4 || bytes[23] != protocol::TCP {
            return None;
        }
        let from_client = half(36) == HTTPS;
        let (address, port) = if from_client { (word(26), half(34)) } else { (word(30), half(36)) };
        let host = u16::try_from(address.checked_sub(CLIENTS + 2)?).ok()?;
        Some(Self {
            client: Client { host, port },
            from_client,
            seq: word(38),
            ack: word(42),
            flags: bytes[47],
            payload: usize::from(half(16)).checked_sub(40)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
    use bulkhead_pipeline::parse::parse;
    use bulkhead_rules::headers::WireId;

    use super::*;

    #[test]
    fn segments_are_those_that_the_builder_makes() {
        for payload in [0, 1, 300, SEGMENT_BYTES] {
            for from_client in [true, false] {
                let segment = Segment {
                    client: Client { host: 513, port: 1_025 },
                    from_client,
                    seq: 0x1234_5678,
                    ack: 0xfedc_ba98,
                    flags: tcp_flags::ACK | tcp_flags::PSH,
                    payload,
                };
                let mut frame = vec![0; segment.frame_len()];
                segment.write(&mut frame);
                assert_eq!(Segment::read(&frame), Some(segment));
                let headers = parse(&frame, WireId(0)).unwrap().headers;
                let address = |bits: u128| Ipv4Addr::from(bits as u32);
                let built = FrameBuilder::new()
                    .macs(headers.src_mac, headers.dst_mac)
                    .ip(address(headers.src), address(headers.dst))
                    .dont_fragment()
                    .tcp(headers.src_port, headers.dst_port, segment.flags)
                    .seq(segment.seq, segment.ack)
                    .window(0xffff)
                    .payload(&vec![0; payload])
                    .build();
                assert_eq!(frame, built, "{segment:?}");
            }
        }
    }
}
