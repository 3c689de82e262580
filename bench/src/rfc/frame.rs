//! The tester's datagrams, as RFC 2544 has them, with real headers.

use std::net::Ipv4Addr;

use bulkhead_pipeline::frames::FrameBuilder;

/// Bytes that the length of an Ethernet frame counts and that no port hands over.
pub(crate) const FCS_BYTES: usize = 4;

/// Where a UDP datagram's payload begins.
pub(crate) const UDP_PAYLOAD_AT: usize = 14 + 20 + 8;

/// Where the clients are: the first half of 198.18.0.0/15, RFC 2544's network (appendix C).
pub(crate) const CLIENTS: u32 = 0xc612_0000;
/// Where the servers are: its second half.
pub(crate) const SERVERS: u32 = 0xc613_0000;

/// An IPv4 datagram of `frame_bytes` with FCS, of the `number`th flow, from its initiator or to it.
/// It has no UDP checksum (RFC 768 lets it): what is written into its payload changes nothing else.
pub(crate) fn datagram(number: u16, from_inside: bool, frame_bytes: usize) -> Vec<u8> {
    let client = Ipv4Addr::from(CLIENTS + 2 + u32::from(number));
    let server = Ipv4Addr::from(SERVERS + 2 + u32::from(number % 251));
    let (src, dst, ports) = if from_inside {
        (client, server, [49_152 + number % 16_384, 7])
    } else {
        (server, client, [7, 49_152 + number % 16_384])
    };
    let payload = frame_bytes.saturating_sub(FCS_BYTES + UDP_PAYLOAD_AT);
    let builder = FrameBuilder::new().ip(src, dst).udp(ports[0], ports[1]).payload_len(payload);
    let mut frame = builder.build();
    frame[UDP_PAYLOAD_AT - 2..UDP_PAYLOAD_AT].fill(0);
    frame
}

#[cfg(test)]
mod tests {
    use bulkhead_pipeline::parse::parse;
    use bulkhead_rules::headers::{WireId, protocol};

    use super::*;

    #[test]
    fn datagrams_have_the_size_and_both_directions_are_one_flow() {
        for frame_bytes in [64, 594, 1518] {
            let [there, back] = [true, false].map(|inside| datagram(700, inside, frame_bytes));
            assert_eq!((there.len(), back.len()), (frame_bytes - 4, frame_bytes - 4));
            let [there, back] = [&there, &back].map(|frame| parse(frame, WireId(0)).unwrap());
            assert_eq!(there.headers.protocol, protocol::UDP);
            assert_eq!(
                (there.headers.src, there.headers.dst, there.headers.src_port),
                (back.headers.dst, back.headers.src, back.headers.dst_port)
            );
        }
    }
}
