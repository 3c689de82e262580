//! TCP, UDP, SCTP and the other upper layers; ICMP has a file of its own.

use bulkhead_rules::headers::protocol;

use super::{Kind, TcpSegment, be16, be32, icmp};
use crate::verdict::DropReason;

/// What the upper-layer header says of a packet.
#[derive(Clone, Copy, Default)]
pub(super) struct Upper {
    pub(super) kind: Kind,
    /// Source and destination port as the classifier reads them.
    pub(super) ports: (u16, u16),
    /// Source and destination port of the flow key.
    pub(super) flow_ports: (u16, u16),
    pub(super) tcp: TcpSegment,
}

impl Upper {
    fn with_ports(kind: Kind, header: &[u8; 4]) -> Self {
        let ports = (be16(header, 0), be16(header, 2));
        Self { kind, ports, flow_ports: ports, tcp: TcpSegment::default() }
    }
}

/// Parses what follows the IP headers. `whole` is false for a first fragment, which must hold the
/// whole upper-layer header too: else a later fragment could supply what is judged here.
#[inline(always)]
pub(super) fn parse(protocol: u8, bytes: &[u8], whole: bool) -> Result<Upper, DropReason> {
    match protocol {
        protocol::TCP => parse_tcp(bytes, whole),
        protocol::UDP => parse_udp(bytes, whole),
        _ => parse_other(protocol, bytes, whole),
    }
}

/// The ports and flow ports of a quoted packet, of whose upper-layer header eight bytes suffice.
pub(super) fn parse_quoted(protocol: u8, bytes: &[u8]) -> Result<Upper, DropReason> {
    let header = bytes.first_chunk::<8>().ok_or(DropReason::IcmpMalformed)?;
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            Ok(Upper::with_ports(Kind::Other, &[header[0], header[1], header[2], header[3]]))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let upper = icmp::parse(protocol, header);
            match upper.kind {
                // No error answers an error.
                Kind::IcmpError => Err(DropReason::IcmpMalformed),
                _ => Ok(upper),
            }
        }
        _ => Ok(Upper::default()),
    }
}

/// A header that ends too early.
#[inline(always)]
fn short(whole: bool) -> DropReason {
    if whole { DropReason::UpperTruncated } else { DropReason::FragmentTiny }
}

#[inline(always)]
fn parse_udp(bytes: &[u8], whole: bool) -> Result<Upper, DropReason> {
    let Some(header) = bytes.first_chunk::<8>() else { return Err(short(whole)) };
    // Bytes of the packet after the datagram are UDP options (RFC 9868) or nothing to anyone.
    let len = usize::from(be16(header, 4));
    if len < header.len() || (whole && len > bytes.len()) {
        return Err(DropReason::UdpLength);
    }
    let ports = (be16(header, 0), be16(header, 2));
    if ports.1 == 0 {
        return Err(DropReason::UdpPort);
    }
    Ok(Upper { kind: Kind::Other, ports, flow_ports: ports, tcp: TcpSegment::default() })
}

#[inline(always)]
fn parse_tcp(bytes: &[u8], whole: bool) -> Result<Upper, DropReason> {
    let Some(header) = bytes.first_chunk::<TCP_MIN_HEADER_LEN>() else { return Err(short(whole)) };
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < header.len() {
        return Err(DropReason::TcpHeaderLength);
    }
    let Some(payload) = bytes.get(header_len..) else {
        return Err(if whole { DropReason::TcpHeaderLength } else { DropReason::FragmentTiny });
    };
    let ports = (be16(header, 0), be16(header, 2));
    if ports.0 == 0 || ports.1 == 0 {
        return Err(DropReason::TcpPort);
    }
    let flags = header[13];
    if !are_tcp_flags_sane(flags) {
        return Err(DropReason::TcpFlags);
    }
    let window_scale = match flags & SYN {
        0 => None,
        _ => window_scale(bytes.get(TCP_MIN_HEADER_LEN..header_len).unwrap_or_default()),
    };
    let tcp = TcpSegment {
        seq: be32(header, 4),
        ack: be32(header, 8),
        window: be16(header, 14),
        flags,
        window_scale,
        payload_len: payload.len() as u16,
    };
    Ok(Upper { kind: Kind::Tcp, ports, flow_ports: ports, tcp })
}

const TCP_MIN_HEADER_LEN: usize = 20;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Exactly one of SYN, RST, FIN with ACK, or ACK alone; SYN and RST with or without ACK. PSH, URG
/// and the ECN bits say nothing here. Every other combination comes from scanners.
#[inline(always)]
fn are_tcp_flags_sane(flags: u8) -> bool {
    const SANE: u32 =
        1 << SYN | 1 << (SYN | ACK) | 1 << RST | 1 << (RST | ACK) | 1 << (FIN | ACK) | 1 << ACK;
    SANE >> (flags & (FIN | SYN | RST | ACK)) & 1 == 1
}

/// The shift of a window scale option (RFC 7323 §2.3: above 14 it counts as 14). Options that do not
/// parse end the search, as they do in hosts.
#[inline]
fn window_scale(options: &[u8]) -> Option<u8> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    let mut scale = None;
    let mut rest = options;
    loop {
        match *rest {
            [NO_OPERATION, ..] => rest = &rest[1..],
            [] | [END, ..] => return scale,
            [kind, len, ..] if len >= 2 && usize::from(len) <= rest.len() => {
                if let ([_, _, shift, ..], WINDOW_SCALE, 3) = (rest, kind, len) {
                    scale = Some((*shift).min(14));
                }
                rest = &rest[usize::from(len)..];
            }
            _ => return scale,
        }
    }
}

fn parse_other(protocol: u8, bytes: &[u8], whole: bool) -> Result<Upper, DropReason> {
    let min_header_len = match protocol {
        protocol::SCTP => 12,
        protocol::ICMP | protocol::ICMPV6 => 8,
        protocol::GRE => 4,
        protocol::ESP => 8,
        protocol::AH => 12,
        _ => 0,
    };
    if bytes.len() < min_header_len {
        return Err(short(whole));
    }
    match (protocol, bytes) {
        (protocol::SCTP, [a, b, c, d, ..]) => Ok(Upper::with_ports(Kind::Other, &[*a, *b, *c, *d])),
        (protocol::ICMP | protocol::ICMPV6, _) => match bytes.first_chunk() {
            Some(header) => Ok(icmp::parse(protocol, header)),
            None => Err(short(whole)),
        },
        _ => Ok(Upper::default()),
    }
}
