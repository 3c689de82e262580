//! Bytes to the fields that the later stages need.

use bulkhead_rules::headers::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6, Headers, WireId, protocol};

use self::ethernet::{ETHER_PAUSE, Link};
use self::ipv4::Ipv4;
use self::ipv6::{Chain, Ipv6};
use self::upper::Upper;
use crate::verdict::DropReason;

mod arp;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod upper;

/// What kind of frame it is: which stages judge it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// Link-local control that crosses untouched: STP, LACP, LLDP. Not classified.
    LinkControl,
    /// ARP that passed its guard. Not classified.
    Arp,
    /// ICMPv6 neighbour discovery (types 133 to 137) and MLD that passed its guard. Not classified.
    NeighbourDiscovery,
    /// An ICMP or ICMPv6 error: judged by the flow that it quotes, see [`parse_quoted`].
    IcmpError,
    /// A non-first fragment: judged by its first one. `headers` has no ports, and in IPv6 its
    /// protocol is the one that the fragment header names: an extension header perhaps, where the
    /// first fragment's is the upper layer.
    LaterFragment,
    /// TCP: judged by flow, with connection state.
    Tcp,
    /// ICMP echo request or reply and the other query pairs: judged by flow, by identifier.
    IcmpQuery,
    /// Every other packet or frame: judged by flow.
    #[default]
    Other,
}

/// The fields of a TCP segment that connection tracking needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpSegment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window as it stands in the header, unscaled.
    pub window: u16,
    /// The flag byte: CWR ECE URG ACK PSH RST SYN FIN from high to low.
    pub flags: u8,
    /// Window scale option of a SYN: the shift, at most 14; [`None`] where it is absent.
    pub window_scale: Option<u8>,
    /// Payload bytes (of this fragment, where it is one).
    pub payload_len: u16,
}

/// Where a fragment stands in its packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentPlace {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// First byte of the packet's fragmentable part that the fragment carries.
    pub offset: u16,
    /// Bytes of the fragmentable part that the fragment carries.
    pub len: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// What the parser learnt of one frame. Offsets count from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    /// The classifier's key.
    pub headers: Headers,
    /// Which stages judge the frame.
    pub kind: Kind,
    /// Source and destination port of the flow key: those of `headers`, but for ICMP queries the
    /// identifier in both.
    pub flow_ports: (u16, u16),
    /// Start of the network header.
    pub network_offset: u16,
    /// Start of the upper-layer header, or of the fragment's data in a later fragment.
    pub upper_offset: u16,
    /// End of the IP packet by its own length field: padding follows.
    pub packet_end: u16,
    /// TCP fields where `kind` is [`Kind::Tcp`].
    pub tcp: TcpSegment,
    /// Set where the packet is a fragment, first or later. An IPv6 atomic fragment (RFC 6946) is none.
    pub fragment: Option<FragmentPlace>,
}

/// Parses one frame that came on `wire`. Every length is checked here; what is returned can be used
/// without checking again.
///
/// # Errors
///
/// The reason for which an enforcing wire drops the frame.
#[inline]
pub fn parse(frame: &[u8], wire: WireId) -> Result<Parsed, DropReason> {
    // Offsets are 16 bits wide.
    if frame.len() > MAX_FRAME_LEN {
        return Err(DropReason::FrameTooLong);
    }
    let link = Link::parse(frame)?;
    match link.ether_type {
        ETHER_IPV4 => parse_ipv4(frame, &link, wire),
        ETHER_IPV6 => parse_ipv6(frame, &link, wire),
        _ => parse_other(frame, &link, wire),
    }
}

/// The packet that an ICMP or ICMPv6 error quotes, for a frame that parsed as [`Kind::IcmpError`]:
/// its headers as its sender wrote them (`src` is the host that the error is addressed to; MAC
/// addresses are zero) and its flow ports.
///
/// # Errors
///
/// [`DropReason::IcmpMalformed`] where the quotation is too short to name a flow, is a later
/// fragment or an error itself, or was not sent by the host that the error is addressed to.
pub fn parse_quoted(frame: &[u8], parsed: &Parsed) -> Result<(Headers, (u16, u16)), DropReason> {
    let start = usize::from(parsed.upper_offset) + icmp::HEADER_LEN;
    let quoted = frame.get(start..usize::from(parsed.packet_end)).unwrap_or_default();
    let (src, dst, protocol, upper) = match parsed.headers.ether_type {
        ETHER_IPV4 => ipv4::parse_quoted(quoted)?,
        ETHER_IPV6 => ipv6::parse_quoted(quoted)?,
        _ => return Err(DropReason::IcmpMalformed),
    };
    if src != parsed.headers.dst {
        return Err(DropReason::IcmpMalformed);
    }
    let upper = upper::parse_quoted(protocol, upper)?;
    let headers = Headers {
        src,
        dst,
        src_port: upper.ports.0,
        dst_port: upper.ports.1,
        ether_type: parsed.headers.ether_type,
        protocol,
        wire: parsed.headers.wire,
        tags: parsed.headers.tags,
        ..Headers::default()
    };
    Ok((headers, upper.flow_ports))
}

/// The longest frame whose offsets fit 16 bits.
const MAX_FRAME_LEN: usize = u16::MAX as usize;

impl FragmentPlace {
    /// `before` is the length of what precedes the fragmentable part and counts to the 65,535 bytes
    /// of the whole packet.
    ///
    /// Fragments that are neither first nor last may be as short as 8 bytes: routers cut fragments
    /// again. A TCP header that is whole fills the first 24 bytes, so that a fragment which starts
    /// among them can only be meant to overwrite it (RFC 1858, RFC 3128).
    #[cold]
    fn check(&self, before: usize, is_tcp: bool) -> Result<(), DropReason> {
        if (self.more && self.len % 8 != 0)
            || before + usize::from(self.offset) + usize::from(self.len) > usize::from(u16::MAX)
        {
            return Err(DropReason::FragmentOverrun);
        }
        if self.len == 0 || (is_tcp && matches!(self.offset, 8 | 16)) {
            return Err(DropReason::FragmentTiny);
        }
        Ok(())
    }
}

/// What the network layer says of a packet.
struct Network {
    src: u128,
    dst: u128,
    protocol: u8,
    upper_offset: usize,
    packet_end: usize,
    fragment: Option<FragmentPlace>,
}

#[inline(always)]
fn parse_ipv4(frame: &[u8], link: &Link, wire: WireId) -> Result<Parsed, DropReason> {
    let ip = Ipv4::new_checked(frame.get(link.network..link.end).unwrap_or_default())?;
    let fragment = if ip.is_whole() { None } else { Some(ip.fragment()?) };
    let upper = parse_upper(ip.protocol(), ip.payload, fragment)?;
    let network = Network {
        src: u128::from(ip.src()),
        dst: u128::from(ip.dst()),
        protocol: ip.protocol(),
        upper_offset: link.network + ip.header_len,
        packet_end: link.network + ip.total_len,
        fragment,
    };
    Ok(assemble(link, wire, &network, &upper))
}

#[inline(always)]
fn parse_ipv6(frame: &[u8], link: &Link, wire: WireId) -> Result<Parsed, DropReason> {
    let ip = Ipv6::new_checked(frame.get(link.network..link.end).unwrap_or_default())?;
    let chain = Chain::follow(ip.next_header(), ip.payload)?;
    let bytes = ip.payload.get(chain.len..).unwrap_or_default();
    let mut upper = parse_upper(chain.protocol, bytes, chain.fragment)?;
    if chain.protocol == protocol::ICMPV6 && upper.kind != Kind::LaterFragment {
        upper.kind = icmp::guard(&ip, bytes, chain.has_fragment_header, upper.kind)?;
    }
    let payload_at = link.network + ipv6::HEADER_LEN;
    let network = Network {
        src: ip.src(),
        dst: ip.dst(),
        protocol: chain.protocol,
        upper_offset: payload_at + chain.len,
        packet_end: payload_at + ip.payload.len(),
        fragment: chain.fragment,
    };
    Ok(assemble(link, wire, &network, &upper))
}

#[inline(always)]
fn parse_upper(
    protocol: u8,
    bytes: &[u8],
    fragment: Option<FragmentPlace>,
) -> Result<Upper, DropReason> {
    match fragment {
        None => upper::parse(protocol, bytes, true),
        Some(FragmentPlace { offset: 0, .. }) => upper::parse(protocol, bytes, false),
        Some(_) => Ok(Upper { kind: Kind::LaterFragment, ..Upper::default() }),
    }
}

/// ARP, link-local control, and every EtherType that the gateway does not look into.
fn parse_other(frame: &[u8], link: &Link, wire: WireId) -> Result<Parsed, DropReason> {
    let kind = match link.ether_type {
        _ if link.control => Kind::LinkControl,
        ETHER_PAUSE => return Err(DropReason::Pause),
        ETHER_ARP => {
            arp::check(frame, link)?;
            Kind::Arp
        }
        _ => Kind::Other,
    };
    let network = Network {
        src: 0,
        dst: 0,
        protocol: 0,
        upper_offset: link.network,
        packet_end: link.end,
        fragment: None,
    };
    Ok(assemble(link, wire, &network, &Upper { kind, ..Upper::default() }))
}

/// Puts together what the layers found. The casts hold: every offset is within the frame.
#[inline(always)]
fn assemble(link: &Link, wire: WireId, network: &Network, upper: &Upper) -> Parsed {
    Parsed {
        headers: Headers {
            src: network.src,
            dst: network.dst,
            src_port: upper.ports.0,
            dst_port: upper.ports.1,
            ether_type: link.ether_type,
            protocol: network.protocol,
            wire,
            tags: link.tags,
            src_mac: link.src_mac,
            dst_mac: link.dst_mac,
        },
        kind: upper.kind,
        flow_ports: upper.flow_ports,
        network_offset: link.network as u16,
        upper_offset: network.upper_offset as u16,
        packet_end: network.packet_end as u16,
        tcp: upper.tcp,
        fragment: network.fragment,
    }
}

#[inline(always)]
fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
