//! The answers that the gateway originates: to a packet that a `reject` rule denies, what the denied
//! host would say. TCP hears RST, everything else that communication is administratively prohibited.
//!
//! An [`Answer`] is first measured, so that the worker can ask the port for a frame of that length,
//! and then written. It leaves by the port on which the denied packet came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_rules::headers::{ETHER_IPV4, protocol};

use crate::checksum;
use crate::parse::{Kind, Parsed};

/// The answer to one denied packet.
///
/// Nothing is answered (RFC 1122 §3.2.2, RFC 4443 §2.4, RFC 9293 §3.5.2): RST, ICMP errors and ICMP
/// messages that may be errors, neighbour discovery and MLD, fragments, packets within a tunnel, frames
/// that are not IP, and whatever goes to or comes from a group, broadcast or unspecified address.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What precedes the IP header in the denied frame.
    link: &'a [u8],
    /// Where in `link` the 802.3 length is, if the frame has one.
    llc_length_at: Option<usize>,
    /// The source and destination of the answer.
    addresses: Addresses,
    message: Message<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

#[derive(Clone, Copy, Debug)]
enum Message<'a> {
    Reset {
        src_port: u16,
        dst_port: u16,
        seq: u32,
        ack: Option<u32>,
    },
    /// With as much of the denied packet as fits.
    Prohibited(&'a [u8]),
}

impl<'a> Answer<'a> {
    /// The answer to the frame from which `parsed` came; [`None`] where there must be none.
    pub fn to(frame: &'a [u8], parsed: &Parsed) -> Option<Self> {
        let h = &parsed.headers;
        // An answer would have to be wrapped as its VTEP expects it.
        let is_within = parsed.tunnel != 0;
        if !h.is_ip()
            || is_within
            || parsed.fragment.is_some()
            || h.dst_mac.is_group()
            || h.src_mac.is_group()
        {
            return None;
        }
        let addresses = if h.ether_type == ETHER_IPV4 {
            Addresses::v4(h.dst as u32, h.src as u32)?
        } else {
            Addresses::v6(h.dst, h.src)?
        };
        let (link, packet) = frame
            .get(..usize::from(parsed.packet_end))?
            .split_at_checked(parsed.network_offset.into())?;
        let message = match (parsed.kind, h.protocol) {
            (Kind::Tcp, _) => reset(parsed)?,
            (Kind::Other, protocol::ICMP | protocol::ICMPV6) => return None,
            (Kind::Other | Kind::Dhcp | Kind::IcmpQuery, _) => {
                Message::Prohibited(&packet[..packet.len().min(addresses.max_quotation_len())])
            }
            _ => return None,
        };
        Some(Self { link, llc_length_at: llc_length_at(link), addresses, message })
    }

    /// Bytes of the answering frame, padding included.
    #[allow(clippy::len_without_is_empty, reason = "no answer is empty")]
    pub fn len(&self) -> usize {
        const MIN_FRAME_LEN: usize = 60;
        (self.link.len() + self.packet_len()).max(MIN_FRAME_LEN)
    }

    /// Writes the frame to the front of `out`. Returns false, and writes nothing, where `out` is
    /// shorter than [`Answer::len`].
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> bool {
        let Some(out) = out.get_mut(..self.len()) else { return false };
        let (link, packet_and_padding) = out.split_at_mut(self.link.len());
        let (packet, padding) = packet_and_padding.split_at_mut(self.packet_len());
        self.write_link(link);
        let (header, upper) = packet.split_at_mut(self.addresses.header_len());
        self.write_ip(header, upper.len());
        self.write_message(upper);
        padding.fill(0);
        true
    }

    fn packet_len(&self) -> usize {
        self.addresses.header_len() + self.message.len()
    }

    fn write_link(&self, out: &mut [u8]) {
        out.copy_from_slice(self.link);
        out[..6].copy_from_slice(&self.link[6..12]);
        out[6..12].copy_from_slice(&self.link[..6]);
        if let Some(at) = self.llc_length_at {
            let len = self.link.len() - (at + 2) + self.packet_len();
            out[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
        }
    }

    fn write_ip(&self, out: &mut [u8], upper_len: usize) {
        const HOP_LIMIT: u8 = 64;
        const DONT_FRAGMENT: u8 = 0x40;
        let protocol = self.upper_protocol();
        match self.addresses {
            Addresses::V4(src, dst) => {
                // ICMP errors have precedence "internetwork control" (RFC 1812 §4.3.2.5).
                let service = if protocol == protocol::ICMP { 0xc0 } else { 0 };
                let total_len = ((out.len() + upper_len) as u16).to_be_bytes();
                out[..4].copy_from_slice(&[0x45, service, total_len[0], total_len[1]]);
                out[4..12].copy_from_slice(&[0, 0, DONT_FRAGMENT, 0, HOP_LIMIT, protocol, 0, 0]);
                out[12..16].copy_from_slice(&src.octets());
                out[16..20].copy_from_slice(&dst.octets());
                let sum = checksum::finish(checksum::add(0, out));
                out[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Addresses::V6(src, dst) => {
                out[..4].copy_from_slice(&[0x60, 0, 0, 0]);
                out[4..6].copy_from_slice(&(upper_len as u16).to_be_bytes());
                out[6..8].copy_from_slice(&[protocol, HOP_LIMIT]);
                out[8..24].copy_from_slice(&src.octets());
                out[24..40].copy_from_slice(&dst.octets());
            }
        }
    }

    fn write_message(&self, out: &mut [u8]) {
        let checksum_at = match self.message {
            Message::Reset { src_port, dst_port, seq, ack } => {
                out[..2].copy_from_slice(&src_port.to_be_bytes());
                out[2..4].copy_from_slice(&dst_port.to_be_bytes());
                out[4..8].copy_from_slice(&seq.to_be_bytes());
                out[8..12].copy_from_slice(&ack.unwrap_or(0).to_be_bytes());
                let flags = if ack.is_some() { RST | ACK } else { RST };
                out[12..].copy_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
                16
            }
            Message::Prohibited(quotation) => {
                // Destination unreachable, communication administratively prohibited.
                let (kind, code) = match self.addresses {
                    Addresses::V4(..) => (3, 13),
                    Addresses::V6(..) => (1, 1),
                };
                out[..ICMP_HEADER_LEN].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
                out[ICMP_HEADER_LEN..].copy_from_slice(quotation);
                2
            }
        };
        let protocol = self.upper_protocol();
        let pseudo = match protocol {
            protocol::ICMP => 0,
            _ => self.addresses.pseudo_header(protocol, out.len()),
        };
        let sum = checksum::finish(checksum::add(pseudo, out));
        out[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn upper_protocol(&self) -> u8 {
        match (self.message, self.addresses) {
            (Message::Reset { .. }, _) => protocol::TCP,
            (Message::Prohibited(_), Addresses::V4(..)) => protocol::ICMP,
            (Message::Prohibited(_), Addresses::V6(..)) => protocol::ICMPV6,
        }
    }
}

/// A token bucket for answers: a flood of denied packets must not become one of answers.
///
/// Each worker has its own; the clock is the worker's.
#[derive(Clone, Copy, Debug)]
pub struct RejectLimiter {
    /// Nanoseconds that one answer takes to earn; [`None`] where none is ever allowed.
    interval_ns: Option<u64>,
    /// How far ahead of the clock `earned_at_ns` may run.
    tolerance_ns: u64,
    /// When the answers given so far will have been earned (the virtual scheduling form of the
    /// bucket: one number holds its level, and nothing is added up between answers).
    earned_at_ns: u64,
}

impl RejectLimiter {
    /// At most `per_second` answers on the long run, at most `burst` at once. Zero of either allows
    /// none; above 10^9 per second the rate counts as 10^9.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval_ns = match (per_second, burst) {
            (0, _) | (_, 0) => None,
            _ => Some((1_000_000_000 / u64::from(per_second)).max(1)),
        };
        let tolerance_ns = interval_ns.unwrap_or(0) * u64::from(burst.saturating_sub(1));
        Self { interval_ns, tolerance_ns, earned_at_ns: 0 }
    }

    /// Whether an answer may go out at `now_ns`, nanoseconds on a clock that does not go back; if
    /// so, it is taken from the bucket.
    pub fn admit(&mut self, now_ns: u64) -> bool {
        let Some(interval_ns) = self.interval_ns else { return false };
        let start_ns = self.earned_at_ns.max(now_ns);
        if start_ns - now_ns > self.tolerance_ns {
            return false;
        }
        self.earned_at_ns = start_ns.saturating_add(interval_ns);
        true
    }
}

const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const TCP_HEADER_LEN: usize = 20;
const ICMP_HEADER_LEN: usize = 8;

impl Message<'_> {
    fn len(&self) -> usize {
        match self {
            Message::Reset { .. } => TCP_HEADER_LEN,
            Message::Prohibited(quotation) => ICMP_HEADER_LEN + quotation.len(),
        }
    }
}

impl Addresses {
    fn v4(src: u32, dst: u32) -> Option<Self> {
        let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
        let is_host =
            |addr: Ipv4Addr| !(addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast());
        (is_host(src) && is_host(dst)).then_some(Self::V4(src, dst))
    }

    fn v6(src: u128, dst: u128) -> Option<Self> {
        let (src, dst) = (Ipv6Addr::from(src), Ipv6Addr::from(dst));
        let is_host = |addr: Ipv6Addr| !(addr.is_unspecified() || addr.is_multicast());
        (is_host(src) && is_host(dst)).then_some(Self::V6(src, dst))
    }

    fn header_len(&self) -> usize {
        match self {
            Self::V4(..) => 20,
            Self::V6(..) => 40,
        }
    }

    /// How much of the denied packet an error quotes: as much as the largest error packet holds
    /// that every network carries (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
    fn max_quotation_len(&self) -> usize {
        let max_packet_len = match self {
            Self::V4(..) => 576,
            Self::V6(..) => 1280,
        };
        max_packet_len - self.header_len() - ICMP_HEADER_LEN
    }

    fn pseudo_header(&self, protocol: u8, upper_len: usize) -> u64 {
        let (src, dst) = match *self {
            Self::V4(src, dst) => (IpAddr::V4(src), IpAddr::V4(dst)),
            Self::V6(src, dst) => (IpAddr::V6(src), IpAddr::V6(dst)),
        };
        checksum::pseudo_header(src, dst, protocol, upper_len as u32)
    }
}

/// RFC 9293 §3.5.2: a segment with ACK names the sequence number that its sender takes for valid;
/// one without is acknowledged whole, SYN and FIN included.
fn reset<'a>(parsed: &Parsed) -> Option<Message<'a>> {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    let tcp = &parsed.tcp;
    if tcp.flags & RST != 0 {
        return None;
    }
    let (seq, ack) = if tcp.flags & ACK != 0 {
        (tcp.ack, None)
    } else {
        let control = u32::from(tcp.flags & SYN != 0) + u32::from(tcp.flags & FIN != 0);
        (0, Some(tcp.seq.wrapping_add(u32::from(tcp.payload_len)).wrapping_add(control)))
    };
    let (src_port, dst_port) = (parsed.headers.dst_port, parsed.headers.src_port);
    Some(Message::Reset { src_port, dst_port, seq, ack })
}

/// Where the 802.3 length is in the link header of a frame with LLC and SNAP.
fn llc_length_at(link: &[u8]) -> Option<usize> {
    const SNAP_LEN: usize = 8;
    let at = link.len().checked_sub(2 + SNAP_LEN)?;
    let snap = link.get(at + 2..at + 8)? == [0xaa, 0xaa, 0x03, 0, 0, 0];
    let length = u16::from_be_bytes([*link.get(at)?, *link.get(at + 1)?]);
    (snap && at >= 12 && length < 0x0600).then_some(at)
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::headers::{Mac, WireId};

    use super::*;
    use crate::frames::{FrameBuilder, tcp_flags};
    use crate::parse::{parse, parse_quoted};

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];
    const A6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 1];
    const B6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 2];

    fn v4() -> FrameBuilder {
        FrameBuilder::new().ip(A, B)
    }

    fn v6() -> FrameBuilder {
        FrameBuilder::new().ip(A6, B6)
    }

    fn answer(denied: &[u8]) -> Option<Vec<u8>> {
        let parsed = parse(denied, WireId(0)).expect("the denied frame is well formed");
        let answer = Answer::to(denied, &parsed)?;
        let mut out = vec![0xff; answer.len()];
        assert!(answer.write(&mut out));
        assert!(!answer.write(&mut vec![0; answer.len() - 1]), "too short a buffer is refused");
        Some(out)
    }

    /// Parses the answer, and checks what all answers have in common.
    fn checked(denied: &FrameBuilder) -> (Vec<u8>, Parsed) {
        let denied = denied.build();
        let out = answer(&denied).expect("the frame is answered");
        let (was, is) = (parse(&denied, WireId(0)), parse(&out, WireId(0)));
        let (was, is) = (was.expect("well formed"), is.expect("well formed"));
        assert_eq!(is.headers.src, was.headers.dst);
        assert_eq!(is.headers.dst, was.headers.src);
        assert_eq!(is.headers.src_mac, was.headers.dst_mac);
        assert_eq!(is.headers.dst_mac, was.headers.src_mac);
        assert_eq!(is.headers.tags, was.headers.tags);
        assert_eq!(
            out[12..usize::from(is.network_offset)].len(),
            usize::from(was.network_offset) - 12
        );
        let upper = &out[usize::from(is.upper_offset)..usize::from(is.packet_end)];
        let pseudo = match (is.headers.protocol, is.headers.ether_type) {
            (protocol::ICMP, _) => 0,
            (protocol, ETHER_IPV4) => {
                let [src, dst] = [is.headers.src, is.headers.dst].map(|a| Ipv4Addr::from(a as u32));
                checksum::pseudo_header(src.into(), dst.into(), protocol, upper.len() as u32)
            }
            (protocol, _) => {
                let [src, dst] = [is.headers.src, is.headers.dst].map(Ipv6Addr::from);
                checksum::pseudo_header(src.into(), dst.into(), protocol, upper.len() as u32)
            }
        };
        assert_eq!(checksum::finish(checksum::add(pseudo, upper)), 0, "the checksum is right");
        assert!(out.len() >= 60);
        (out, is)
    }

    #[test]
    fn a_syn_is_acknowledged_and_reset() {
        for builder in [v4(), v6(), v4().vlan(30), v4().vlan(30).vlan(7), v4().snap()] {
            let syn = builder.tcp(40000, 502, tcp_flags::SYN).seq(u32::MAX, 0).payload(b"abc");
            let (_, reset) = checked(&syn);
            assert_eq!((reset.headers.src_port, reset.headers.dst_port), (502, 40000));
            assert_eq!(reset.tcp.flags, RST | ACK);
            assert_eq!((reset.tcp.seq, reset.tcp.ack), (0, 3));
        }
    }

    #[test]
    fn a_segment_with_ack_is_reset_where_it_expects() {
        let segment =
            v4().tcp(40000, 502, tcp_flags::ACK | tcp_flags::FIN).seq(5, 77).payload(b"x");
        let (_, reset) = checked(&segment);
        assert_eq!((reset.tcp.flags, reset.tcp.seq, reset.tcp.ack), (RST, 77, 0));
    }

    #[test]
    fn datagrams_hear_that_they_are_prohibited() {
        let (out, p) = checked(&v4().vlan(30).udp(1000, 53).payload(b"query"));
        assert_eq!(p.headers.dst_port, 3 << 8 | 13);
        assert_eq!(p.headers.tags.outer, 30);
        assert_eq!(out.len(), 18 + 20 + 8 + 20 + 8 + 5);
        let (out, p) = checked(&v6().udp(1000, 53).payload_len(2000));
        assert_eq!(p.headers.dst_port, 1 << 8 | 1);
        assert_eq!(out.len(), 14 + 1280);
        let (out, _) = checked(&v4().udp(1000, 53).payload_len(2000));
        assert_eq!(out.len(), 14 + 576);
    }

    #[test]
    fn the_quotation_names_the_denied_flow() {
        let denied = [
            v4().udp(1000, 53),
            v4().ipv4_options(&[1, 1, 1]).sctp(5, 6),
            v4().echo_request(9, 1),
            v4().protocol(47).payload(&[0; 8]),
            v6().options_extension(60, &[]).udp(1000, 53),
            v6().echo_request(9, 1),
        ];
        for builder in denied {
            let frame = builder.build();
            let was = parse(&frame, WireId(0)).expect("well formed");
            let (out, is) = checked(&builder);
            assert_eq!(is.kind, Kind::IcmpError);
            let (quoted, flow_ports) = parse_quoted(&out, &is).expect("the quotation parses");
            assert_eq!((quoted.src, quoted.dst), (was.headers.src, was.headers.dst));
            assert_eq!(quoted.protocol, was.headers.protocol);
            assert_eq!(
                (quoted.src_port, quoted.dst_port),
                (was.headers.src_port, was.headers.dst_port)
            );
            assert_eq!(flow_ports, was.flow_ports);
        }
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let to_group = |ip: FrameBuilder| ip.macs(Mac([2, 0, 0, 0, 0, 1]), Mac([0xff; 6]));
        let silent = [
            v4().tcp(1, 2, tcp_flags::RST),
            v4().tcp(1, 2, tcp_flags::RST | tcp_flags::ACK),
            v4().icmp(3, 1, 0).payload(&[0; 28]),
            v4().icmp(5, 1, 0).payload(&[0; 28]),
            v4().icmp(9, 0, 0).payload(&[0; 28]),
            v6().icmp(1, 1, 0).payload(&[0; 48]),
            v6().icmp(150, 1, 0),
            v6().hop_limit(255).icmp(133, 0, 0),
            v4().fragment(1, 0, true).udp(1, 2).payload_len(16),
            v4().fragment(1, 64, false).udp(1, 2).payload_len(16),
            to_group(v4().udp(1, 2)),
            FrameBuilder::new().ip(A, [255; 4]).udp(1, 2),
            FrameBuilder::new().ip(A, [224, 0, 0, 1]).udp(1, 2),
            FrameBuilder::new().ip([0; 4], B).udp(1, 2),
            FrameBuilder::new().ip(A6, [0xff02, 0, 0, 0, 0, 0, 0, 1]).udp(1, 2),
            FrameBuilder::new().ip([0; 8], B6).udp(1, 2),
            FrameBuilder::new().ether_type(0x8892).payload(&[0; 46]),
            FrameBuilder::new().arp(1, A.into(), B.into()),
        ];
        for builder in silent {
            assert_eq!(answer(&builder.build()), None, "{builder:?}");
        }
    }

    #[test]
    fn the_limiter_allows_a_burst_and_then_its_rate() {
        let mut limiter = RejectLimiter::new(10, 3);
        let start_ns = 5_000_000_000;
        let admitted =
            |limiter: &mut RejectLimiter, now| (0..100).filter(|_| limiter.admit(now)).count();
        assert_eq!(admitted(&mut limiter, start_ns), 3);
        assert_eq!(admitted(&mut limiter, start_ns + 99_999_999), 0);
        assert_eq!(admitted(&mut limiter, start_ns + 100_000_000), 1);
        assert_eq!(admitted(&mut limiter, start_ns + 10_000_000_000), 3);
        // A clock that went back must not lock the limiter or overflow it.
        assert_eq!(admitted(&mut limiter, start_ns), 0);
        assert_eq!(admitted(&mut RejectLimiter::new(0, 5), start_ns), 0);
        assert_eq!(admitted(&mut RejectLimiter::new(5, 0), start_ns), 0);
        assert_eq!(admitted(&mut RejectLimiter::new(u32::MAX, 2), start_ns), 2);
    }
}
