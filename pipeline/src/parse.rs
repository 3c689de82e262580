//! Bytes to the fields that the later stages need.
//!
//! A frame must mean the same to the gateway and to the host that receives it; where hosts may
//! differ, it is dropped, and every way to be malformed has a reason of its own. What had to be
//! decided, and is shown by the tests:
//!
//! - Bytes after the packet's own length are padding: allowed at any length, as real networks have
//!   them, and never read. A UDP datagram, too, may end before its packet does (RFC 9868).
//! - AH and ESP are upper layers in IPv4 and IPv6 alike: a rule names them, and what AH covers is
//!   not looked into.
//! - Source routes, routing headers with segments left and home address options are refused: they
//!   lead to, or speak for, hosts other than those that the addresses name.
//! - Of TCP, UDP and ICMP no checksum is verified here: a wrong one only makes its receiver drop the
//!   packet. The IPv4 header's is, as a router would; TCP's later, where a segment would move state.
//! - Frames to reserved bridge groups cross where they are STP (also Cisco's per VLAN), LACP or LLDP;
//!   what else has an EtherType there is for the policy, and the rest is dropped.
//!
//! A header is a view over a fixed-size array, made once its length is known, so that what reads it
//! afterwards cannot fail. The ordinary frame takes one straight line through `plain`, everything else
//! goes layer by layer through the rest.

use bulkhead_rules::headers::{
    ETHER_ARP, ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags, WireId, protocol,
};

use self::ethernet::{ETHER_PAUSE, Link, is_tag};
use self::ipv4::Ipv4;
use self::ipv6::{Chain, Ipv6};
use crate::verdict::DropReason;

mod arp;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod plain;
mod tunnel;
mod upper;

pub(crate) use self::plain::parse_plain;
pub use self::tunnel::{Tunnels, enter as enter_tunnel};

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
    /// A UDP datagram to the port of DHCP clients or servers, IPv4 or IPv6: judged by flow.
    Dhcp,
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
    /// One more than the network identifier (24 bits) of the tunnel whose inner packet all of this
    /// describes; 0 where it is no tunnel's. See [`enter_tunnel`].
    pub tunnel: u32,
}

/// Where frames come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// A wire: what is wrong with a frame is wrong.
    #[default]
    Wire,
    /// A capture, which may have been taken on a sender whose NIC was yet to fill in checksums: an
    /// IPv4 header checksum of zero counts as such.
    Capture,
}

/// Parses one frame that came on `wire`, see [`parse_into`].
///
/// # Errors
///
/// The reason for which an enforcing wire drops the frame.
pub fn parse(frame: &[u8], wire: WireId) -> Result<Parsed, DropReason> {
    let mut parsed = EMPTY;
    parse_into(frame, wire, Origin::Wire, &mut parsed)?;
    Ok(parsed)
}

/// Parses one frame that came on `wire` into `out`, all of which it overwrites. Every length is
/// checked here; what stands in `out` afterwards can be used without checking again.
///
/// Bytes after the packet that its own length field does not cover are padding: they are allowed,
/// as short frames need them, and never looked at.
///
/// # Errors
///
/// The reason for which an enforcing wire drops the frame; `out` then holds the fields of the layers
/// before the one that failed.
#[inline]
pub fn parse_into(
    frame: &[u8],
    wire: WireId,
    origin: Origin,
    out: &mut Parsed,
) -> Result<(), DropReason> {
    match parse_plain(frame, wire, out) {
        Some(_) => Ok(()),
        None => parse_unusual(frame, wire, origin, out),
    }
}

/// As [`parse_into`], for a frame that [`parse_plain`] has not parsed.
///
/// # Errors
///
/// See [`parse_into`].
#[inline(never)]
pub(crate) fn parse_unusual(
    frame: &[u8],
    wire: WireId,
    origin: Origin,
    out: &mut Parsed,
) -> Result<(), DropReason> {
    // Each layer fills in what it finds.
    *out = EMPTY;
    out.headers.wire = wire;
    // Offsets are 16 bits wide.
    if frame.len() > MAX_FRAME_LEN {
        return Err(DropReason::FrameTooLong);
    }
    let (ether_type, packet) = ethernet::parse(frame, out)?;
    match ether_type {
        ETHER_IPV4 => parse_ipv4(packet, ethernet::HEADER_LEN, origin, out),
        ETHER_IPV6 => parse_ipv6(packet, ethernet::HEADER_LEN, out),
        _ if is_tag(ether_type) => parse_tagged(packet, origin, out),
        _ => parse_other(Link { ether_type, offset: ethernet::HEADER_LEN, packet }, origin, out),
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
    let (ports, flow_ports) = upper::parse_quoted(protocol, upper)?;
    let headers = Headers {
        src,
        dst,
        src_port: ports.0,
        dst_port: ports.1,
        ether_type: parsed.headers.ether_type,
        protocol,
        wire: parsed.headers.wire,
        tags: parsed.headers.tags,
        ..Headers::default()
    };
    Ok((headers, flow_ports))
}

/// Nothing learnt yet: a constant, because it is written over with every frame.
const EMPTY: Parsed = Parsed {
    headers: Headers {
        src: 0,
        dst: 0,
        src_port: 0,
        dst_port: 0,
        ether_type: 0,
        protocol: 0,
        wire: WireId(0),
        tags: VlanTags::UNTAGGED,
        src_mac: Mac([0; 6]),
        dst_mac: Mac([0; 6]),
    },
    kind: Kind::Other,
    flow_ports: (0, 0),
    network_offset: 0,
    upper_offset: 0,
    packet_end: 0,
    tcp: TcpSegment { seq: 0, ack: 0, window: 0, flags: 0, window_scale: None, payload_len: 0 },
    fragment: None,
    tunnel: 0,
};

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

/// A frame with one VLAN tag, or two; `packet` follows the outer TPID.
///
/// Here and in [`parse_into`] the parsers of IP are inlined, each with the offset that the link layer
/// then has: what the compiler knows of lengths so stays known.
#[inline(never)]
fn parse_tagged(packet: &[u8], origin: Origin, out: &mut Parsed) -> Result<(), DropReason> {
    const OFFSET: usize = ethernet::HEADER_LEN + ethernet::TAG_LEN;
    let (ether_type, packet) = ethernet::strip_outer_tag(packet, out)?;
    match ether_type {
        ETHER_IPV4 => parse_ipv4(packet, OFFSET, origin, out),
        ETHER_IPV6 => parse_ipv6(packet, OFFSET, out),
        _ if is_tag(ether_type) => {
            let (ether_type, packet) = ethernet::strip_inner_tag(packet, out)?;
            parse_other(
                Link { ether_type, offset: OFFSET + ethernet::TAG_LEN, packet },
                origin,
                out,
            )
        }
        _ => parse_other(Link { ether_type, offset: OFFSET, packet }, origin, out),
    }
}

#[inline(always)]
fn parse_ipv4(
    packet: &[u8],
    offset: usize,
    origin: Origin,
    out: &mut Parsed,
) -> Result<(), DropReason> {
    out.headers.ether_type = ETHER_IPV4;
    out.network_offset = offset as u16;
    let ip = Ipv4::new_checked(packet, origin)?;
    out.headers.src = u128::from(ip.src());
    out.headers.dst = u128::from(ip.dst());
    out.headers.protocol = ip.protocol();
    out.upper_offset = (offset + ip.header_len) as u16;
    out.packet_end = (offset + ip.total_len) as u16;
    if ip.is_whole() {
        return upper::parse(ip.protocol(), ip.payload, true, out);
    }
    parse_fragment(ip.payload, ip.fragment()?, out)
}

#[inline(always)]
fn parse_ipv6(packet: &[u8], offset: usize, out: &mut Parsed) -> Result<(), DropReason> {
    out.headers.ether_type = ETHER_IPV6;
    out.network_offset = offset as u16;
    let ip = Ipv6::new_checked(packet)?;
    out.headers.src = ip.src();
    out.headers.dst = ip.dst();
    out.headers.protocol = ip.next_header();
    let payload_at = offset + ipv6::HEADER_LEN;
    out.upper_offset = payload_at as u16;
    out.packet_end = (payload_at + ip.payload.len()) as u16;
    match ip.next_header() {
        next @ (protocol::TCP | protocol::UDP) => upper::parse(next, ip.payload, true, out),
        _ => parse_ipv6_chain(&ip, out),
    }
}

/// Extension headers, ICMPv6, and the less usual upper layers.
fn parse_ipv6_chain(ip: &Ipv6<'_>, out: &mut Parsed) -> Result<(), DropReason> {
    let chain = Chain::follow(ip.next_header(), ip.payload)?;
    let bytes = ip.payload.get(chain.len..).unwrap_or_default();
    out.headers.protocol = chain.protocol;
    out.upper_offset += chain.len as u16;
    match chain.fragment {
        None => upper::parse(chain.protocol, bytes, true, out)?,
        Some(place) => parse_fragment(bytes, place, out)?,
    }
    if chain.protocol == protocol::ICMPV6 && out.kind != Kind::LaterFragment {
        let fragmented = chain.has_fragment_header;
        out.kind = icmp::guard(ip, bytes, out.headers.src_mac, fragmented, out.kind)?;
    }
    Ok(())
}

#[cold]
fn parse_fragment(bytes: &[u8], place: FragmentPlace, out: &mut Parsed) -> Result<(), DropReason> {
    out.fragment = Some(place);
    if place.offset == 0 {
        return upper::parse(out.headers.protocol, bytes, false, out);
    }
    out.kind = Kind::LaterFragment;
    Ok(())
}

/// ARP, link-local control, every EtherType that the gateway does not look into, and the less usual
/// ways to frame IP.
#[inline(never)]
fn parse_other(link: Link<'_>, origin: Origin, out: &mut Parsed) -> Result<(), DropReason> {
    let link = ethernet::finish_other(link, out)?;
    match link.ether_type {
        ETHER_IPV4 => return parse_ipv4(link.packet, link.offset, origin, out),
        ETHER_IPV6 => return parse_ipv6(link.packet, link.offset, out),
        _ => {}
    }
    out.headers.ether_type = link.ether_type;
    out.network_offset = link.offset as u16;
    out.upper_offset = out.network_offset;
    out.packet_end = (link.offset + link.packet.len()) as u16;
    match link.ether_type {
        ETHER_PAUSE => return Err(DropReason::Pause),
        ETHER_ARP => {
            arp::check(link.packet, out.headers.src_mac)?;
            out.kind = Kind::Arp;
        }
        // The link layer knows link-local control by its addresses.
        _ => {}
    }
    Ok(())
}

/// `M` bytes of a header, at a place that the compiler can check.
#[inline(always)]
fn field<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    let mut field = [0; M];
    field.copy_from_slice(&bytes[at..at + M]);
    field
}

#[inline(always)]
fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes(field(bytes, at))
}

#[inline(always)]
fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

impl Kind {
    /// Whether frames of this kind open flows and ride them.
    #[inline]
    pub(crate) fn is_judged_by_flow(self) -> bool {
        matches!(self, Self::Tcp | Self::IcmpQuery | Self::Dhcp | Self::Other)
    }
}

#[cfg(test)]
mod tests;
