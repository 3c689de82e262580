//! TCP, UDP, SCTP and the other upper layers; ICMP has a file of its own.

use bulkhead_rules::headers::protocol;

use super::{Kind, Parsed, TcpSegment, be16, be32, icmp};
use crate::verdict::DropReason;

/// Parses what follows the IP headers. `whole` is false for a first
/// fragment, which must hold the whole upper-layer header too: else a later fragment could supply
/// what is judged here.
#[inline(always)]
pub(super) fn parse(
    protocol: u8,
    bytes: &[u8],
    whole: bool,
    out: &mut Parsed,
) -> Result<(), DropReason> {
    match protocol {
        protocol::TCP => parse_tcp(bytes, whole, out),
        protocol::UDP => parse_udp(bytes, whole, out),
        _ => parse_other(protocol, bytes, whole, out),
    }
}

/// Source and destination port.
type Ports = (u16, u16);

/// Ports as the classifier reads them, and those of the flow key, of a quoted packet. Eight bytes of
/// the upper-layer header suffice, and of a protocol without ports none are needed: the packet may
/// not have had more.
pub(super) fn parse_quoted(protocol: u8, bytes: &[u8]) -> Result<(Ports, Ports), DropReason> {
    let header = bytes.first_chunk::<8>().ok_or(DropReason::IcmpMalformed);
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            let header = header?;
            let ports = (be16(header, 0), be16(header, 2));
            Ok((ports, ports))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header = header?;
            match icmp::parse(protocol, header) {
                // No error answers an error.
                (Kind::IcmpError, _) => Err(DropReason::IcmpMalformed),
                (_, flow_ports) => Ok(((0, icmp::type_and_code(header)), flow_ports)),
            }
        }
        _ => Ok(((0, 0), (0, 0))),
    }
}

#[inline(always)]
fn set_ports<const N: usize>(header: &[u8; N], out: &mut Parsed) {
    out.flow_ports = (be16(header, 0), be16(header, 2));
    (out.headers.src_port, out.headers.dst_port) = out.flow_ports;
}

/// A header that ends too early.
#[inline(always)]
fn short(whole: bool) -> DropReason {
    if whole { DropReason::UpperTruncated } else { DropReason::FragmentTiny }
}

#[inline(always)]
fn parse_udp(bytes: &[u8], whole: bool, out: &mut Parsed) -> Result<(), DropReason> {
    let Some(header) = bytes.first_chunk::<8>() else { return Err(short(whole)) };
    // Bytes of the packet after the datagram are UDP options (RFC 9868) or nothing to anyone.
    let len = usize::from(be16(header, 4));
    if len < header.len() || (whole && len > bytes.len()) {
        return Err(DropReason::UdpLength);
    }
    set_ports(header, out);
    // One comparison for nearly every datagram.
    if out.headers.dst_port > DHCPV6_SERVER { Ok(()) } else { parse_low_port(whole, out) }
}

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DHCPV6_CLIENT: u16 = 546;
const DHCPV6_SERVER: u16 = 547;

/// Whether a datagram to this port is nothing but a datagram: to no port that is none, or DHCP's.
#[inline(always)]
pub(super) fn is_plain_port(port: u16) -> bool {
    port > DHCPV6_SERVER
        || !matches!(port, 0 | DHCP_SERVER | DHCP_CLIENT | DHCPV6_CLIENT | DHCPV6_SERVER)
}

fn parse_low_port(whole: bool, out: &mut Parsed) -> Result<(), DropReason> {
    match out.headers.dst_port {
        0 => return Err(DropReason::UdpPort),
        DHCP_SERVER | DHCP_CLIENT | DHCPV6_CLIENT | DHCPV6_SERVER if whole => {
            out.kind = Kind::Dhcp;
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn parse_tcp(bytes: &[u8], whole: bool, out: &mut Parsed) -> Result<(), DropReason> {
    let Some(header) = bytes.first_chunk::<TCP_MIN_HEADER_LEN>() else { return Err(short(whole)) };
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < header.len() {
        return Err(DropReason::TcpHeaderLength);
    }
    let Some(payload) = bytes.get(header_len..) else {
        return Err(if whole { DropReason::TcpHeaderLength } else { DropReason::FragmentTiny });
    };
    set_ports(header, out);
    if out.headers.src_port == 0 || out.headers.dst_port == 0 {
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
    out.kind = Kind::Tcp;
    out.tcp = segment(header, flags, window_scale, payload.len());
    Ok(())
}

/// What a TCP header says, its options and what was read of it before left out.
#[inline(always)]
pub(super) fn segment(
    header: &[u8; TCP_MIN_HEADER_LEN],
    flags: u8,
    window_scale: Option<u8>,
    payload_len: usize,
) -> TcpSegment {
    TcpSegment {
        seq: be32(header, 4),
        ack: be32(header, 8),
        window: be16(header, 14),
        flags,
        window_scale,
        payload_len: payload_len as u16,
    }
}

const TCP_MIN_HEADER_LEN: usize = 20;
const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Exactly one of SYN, RST, FIN with ACK, or ACK alone; SYN and RST with or without ACK. PSH, URG
/// and the ECN bits say nothing here. Every other combination comes from scanners.
#[inline(always)]
pub(super) fn are_tcp_flags_sane(flags: u8) -> bool {
    const SANE: u32 =
        1 << SYN | 1 << (SYN | ACK) | 1 << RST | 1 << (RST | ACK) | 1 << (FIN | ACK) | 1 << ACK;
    SANE >> (flags & (FIN | SYN | RST | ACK)) & 1 == 1
}

/// The shift of a window scale option (RFC 7323 §2.3: above 14 it counts as 14). Options that do not
/// parse end the search, as they do in hosts.
#[inline]
pub(super) fn window_scale(options: &[u8]) -> Option<u8> {
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

fn parse_other(
    protocol: u8,
    bytes: &[u8],
    whole: bool,
    out: &mut Parsed,
) -> Result<(), DropReason> {
    let min_header_len = match protocol {
        protocol::SCTP | protocol::AH => 12,
        protocol::ICMP | protocol::ICMPV6 | protocol::ESP => 8,
        protocol::GRE => 4,
        _ => 0,
    };
    if bytes.len() < min_header_len {
        return Err(short(whole));
    }
    match (protocol, bytes.first_chunk::<8>()) {
        (protocol::SCTP, Some(header)) => set_ports(header, out),
        (protocol @ (protocol::ICMP | protocol::ICMPV6), Some(header)) => {
            (out.kind, out.flow_ports) = icmp::parse(protocol, header);
            out.headers.dst_port = icmp::type_and_code(header);
        }
        _ => {}
    }
    Ok(())
}
