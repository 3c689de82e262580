//! The ordinary frame: untagged IP in Ethernet II without options, extension headers or fragments, with
//! TCP or UDP, between ordinary addresses. Nearly every frame is one.
//!
//! All that is needed stands at fixed places, so that one straight line of comparisons reads it and
//! writes what was learnt at once: half the work of going layer by layer. What is not ordinary, right or
//! wrong, is left to [`super::parse_unusual`], which says the same of every frame that is.

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags, WireId, protocol};

use super::ethernet;
use super::upper::{SYN, are_tcp_flags_sane, is_plain_port, segment, window_scale};
use super::{EMPTY, Kind, MAX_FRAME_LEN, Parsed, be16, be32, field, ipv4, ipv6};

const IPV4_LEN: usize = ipv4::MIN_HEADER_LEN;
const IPV6_LEN: usize = ipv6::HEADER_LEN;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
/// Where IP begins.
const NETWORK: usize = ethernet::HEADER_LEN;

/// Parses an ordinary frame that came on `wire` into `out`, all of which it overwrites, and returns its
/// kind: [`Kind::Tcp`] or, for UDP, [`Kind::Other`]. [`None`], and nothing meant in `out`, where the frame
/// is not ordinary.
#[inline(always)]
pub(crate) fn parse_plain(frame: &[u8], wire: WireId, out: &mut Parsed) -> Option<Kind> {
    // As long as the shortest frame with TCP: on a wire none is shorter.
    let header = frame.first_chunk::<{ NETWORK + IPV4_LEN + TCP_LEN }>()?;
    if frame.len() > MAX_FRAME_LEN || header[6] & 1 == 1 {
        return None;
    }
    match be16(header, 12) {
        ETHER_IPV4 => parse_ipv4(header, frame, wire, out),
        ETHER_IPV6 => parse_ipv6(frame, wire, out),
        _ => None,
    }
}

#[inline(always)]
fn parse_ipv4(
    header: &[u8; NETWORK + IPV4_LEN + TCP_LEN],
    frame: &[u8],
    wire: WireId,
    out: &mut Parsed,
) -> Option<Kind> {
    const UPPER: usize = NETWORK + IPV4_LEN;
    let fixed: &[u8; IPV4_LEN] = header[NETWORK..].first_chunk()?;
    let (src, dst) = (be32(fixed, 12), be32(fixed, 16));
    let is_plain = fixed[0] == 0x45
        && ipv4::is_checksum_right(fixed)
        && be16(fixed, 6) & 0x3fff == 0
        && src != dst
        && !ipv4::is_unusual(src)
        && dst >> 24 != 127;
    // Where the packet is too short for its header this is a very large number.
    let upper_len = usize::from(be16(fixed, 2)).wrapping_sub(IPV4_LEN);
    if !is_plain || upper_len > frame.len() - UPPER {
        return None;
    }
    let upper: &[u8; TCP_LEN] = header[UPPER..].first_chunk()?;
    let (src, dst) = (u128::from(src), u128::from(dst));
    let ip = Headers { src, dst, ether_type: ETHER_IPV4, protocol: fixed[9], ..EMPTY.headers };
    fill_in(header, ip, wire, upper, (UPPER, UPPER + upper_len), out);
    parse_upper(fixed[9], upper, &frame[UPPER..UPPER + upper_len], out)
}

/// Not inlined: what the other one does would have to make room for it.
#[inline(never)]
fn parse_ipv6(frame: &[u8], wire: WireId, out: &mut Parsed) -> Option<Kind> {
    const UPPER: usize = NETWORK + IPV6_LEN;
    let header = frame.first_chunk::<{ UPPER + UDP_LEN }>()?;
    let fixed: &[u8; IPV6_LEN] = header[NETWORK..].first_chunk()?;
    let (src, dst) = (ipv6::address(fixed, 8), ipv6::address(fixed, 24));
    let is_plain =
        fixed[0] >> 4 == 6 && src != dst && !ipv6::is_unusual(src) && !ipv6::is_unusual(dst);
    let upper_len = usize::from(be16(fixed, 4));
    if !is_plain || upper_len > frame.len() - UPPER {
        return None;
    }
    let ip = Headers { src, dst, ether_type: ETHER_IPV6, protocol: fixed[6], ..EMPTY.headers };
    // Of a datagram without room for a TCP header no more than a UDP header is read.
    let mut upper = [0; TCP_LEN];
    match frame[UPPER..].first_chunk() {
        Some(whole) => upper = *whole,
        None => upper[..UDP_LEN].copy_from_slice(&header[UPPER..]),
    }
    fill_in(header, ip, wire, &upper, (UPPER, UPPER + upper_len), out);
    parse_upper(fixed[6], &upper, &frame[UPPER..UPPER + upper_len], out)
}

/// Fills in what TCP or UDP says: `bytes`, which begin with `header` where they are long enough.
#[inline(always)]
fn parse_upper(number: u8, header: &[u8; TCP_LEN], bytes: &[u8], out: &mut Parsed) -> Option<Kind> {
    let len = bytes.len();
    match number {
        protocol::UDP => {
            let own_len = usize::from(be16(header, 4));
            // No length is right where the upper layer is too short for its header.
            let is_plain = own_len >= UDP_LEN && own_len <= len && is_plain_port(be16(header, 2));
            is_plain.then_some(Kind::Other)
        }
        protocol::TCP => {
            let header_len = usize::from(header[12] >> 4) * 4;
            let flags = header[13];
            let is_plain = header_len >= TCP_LEN
                && header_len <= len
                && are_tcp_flags_sane(flags)
                && be16(header, 0) != 0
                && be16(header, 2) != 0;
            if !is_plain {
                return None;
            }
            let window_scale = match flags & SYN {
                0 => None,
                _ => window_scale(bytes.get(TCP_LEN..header_len).unwrap_or_default()),
            };
            out.kind = Kind::Tcp;
            out.tcp = segment(header, flags, window_scale, len - header_len);
            Some(Kind::Tcp)
        }
        _ => None,
    }
}

/// Fills in all that is known before the upper layer is looked into, but for its ports. `ends` are the
/// offset of that layer and the packet's end.
#[inline(always)]
fn fill_in<const N: usize>(
    link: &[u8; N],
    ip: Headers,
    wire: WireId,
    upper: &[u8; TCP_LEN],
    ends: (usize, usize),
    out: &mut Parsed,
) {
    let ports = (be16(upper, 0), be16(upper, 2));
    out.headers = Headers {
        src_port: ports.0,
        dst_port: ports.1,
        wire,
        tags: VlanTags::UNTAGGED,
        src_mac: Mac(field(link, 6)),
        dst_mac: Mac(field(link, 0)),
        ..ip
    };
    // One by one: a whole value would be put together elsewhere and then copied, by loads of what was
    // stored in pieces just before, which cost more than all the rest.
    let Parsed { headers: _, kind, flow_ports, network_offset, upper_offset, packet_end, .. } = out;
    (*kind, *flow_ports, *network_offset) = (Kind::Other, ports, NETWORK as u16);
    (*upper_offset, *packet_end) = (ends.0 as u16, ends.1 as u16);
    (out.tcp, out.fragment, out.tunnel) = (EMPTY.tcp, None, 0);
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, parse_unusual};
    use super::*;
    use crate::checksum;
    use crate::frames::{FrameBuilder, tcp_flags};

    const WIRE: WireId = WireId(3);

    fn ordinary() -> Vec<Vec<u8>> {
        let v4 = FrameBuilder::new().ip([10, 0, 0, 1], [10, 0, 0, 2]);
        let v6 =
            FrameBuilder::new().ip([0xfd00, 0, 0, 0, 0, 0, 0, 1], [0xfd00, 0, 0, 0, 0, 0, 0, 2]);
        let of = |ip: FrameBuilder| {
            let tcp = ip.clone().tcp(1024, 80, tcp_flags::ACK).seq(7, 9).window(11);
            [ip.clone().udp(1024, 53), ip.udp(1024, 53).payload_len(40), tcp.clone(), {
                tcp.tcp_options(&[1; 8]).payload_len(9)
            }]
        };
        [of(v4), of(v6)].concat().iter().map(FrameBuilder::build).collect()
    }

    /// Makes the checksum of an IPv4 header right that is long enough to have one.
    fn mend(frame: &mut [u8]) {
        if frame.len() >= 34 && frame[12..14] == [8, 0] {
            frame[24..26].fill(0);
            let sum = checksum::finish(checksum::add(0, &frame[14..34]));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Whether the frame is ordinary; then both parsers must say the same of it.
    fn is_plain(frame: &[u8]) -> bool {
        let (mut plain, mut whole) = (Parsed { tunnel: 77, ..EMPTY }, EMPTY);
        let kind = parse_plain(frame, WIRE, &mut plain);
        let said = parse_unusual(frame, WIRE, Origin::Wire, &mut whole);
        let Some(kind) = kind else { return false };
        assert_eq!((said, plain, kind), (Ok(()), whole, whole.kind), "{frame:02x?}");
        true
    }

    #[test]
    fn ordinary_frames_are_plain() {
        for frame in ordinary() {
            assert!(is_plain(&frame), "{frame:02x?}");
        }
    }

    #[test]
    fn with_any_byte_changed_both_parsers_say_the_same() {
        let mut plain = 0;
        for frame in ordinary() {
            for at in 0..frame.len().min(80) {
                for value in 0..=u8::MAX {
                    let mut changed = frame.clone();
                    changed[at] = value;
                    plain += u32::from(is_plain(&changed));
                    mend(&mut changed);
                    plain += u32::from(is_plain(&changed));
                }
            }
        }
        assert!(plain > 100_000, "{plain} frames were ordinary");
    }

    #[test]
    fn to_any_port_both_parsers_say_the_same() {
        for frame in ordinary() {
            let upper_at = if frame[12] == 8 { 34 } else { 54 };
            let plain = (0..=u16::MAX).filter(|port| {
                let mut changed = frame.clone();
                changed[upper_at + 2..upper_at + 4].copy_from_slice(&port.to_be_bytes());
                is_plain(&changed)
            });
            // But for port 0, and in UDP those of DHCP.
            assert!([65_535, 65_531].contains(&plain.count()));
        }
    }

    #[test]
    fn with_any_lengths_both_parsers_say_the_same() {
        let mut plain = 0;
        for frame in ordinary() {
            let is_v4 = frame[12] == 8;
            let (length_at, upper_at) = if is_v4 { (16, 34) } else { (18, 54) };
            for packet_len in 0..=frame.len() as u8 {
                for upper_len in 0..=frame.len() as u8 {
                    let mut changed = frame.clone();
                    changed[length_at + 1] = packet_len;
                    changed[upper_at + 5] = upper_len;
                    if let Some(offset) = changed.get_mut(upper_at + 12) {
                        *offset = upper_len << 4;
                    }
                    mend(&mut changed);
                    plain += u32::from(is_plain(&changed));
                }
            }
            for len in 0..=frame.len() {
                plain += u32::from(is_plain(&frame[..len]));
            }
        }
        assert!(plain > 1000, "{plain} frames were ordinary");
    }
}
