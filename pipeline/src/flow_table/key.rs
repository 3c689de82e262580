//! The key of a flow.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use bulkhead_rules::headers::{ETHER_IPV4, Headers, VlanTags, WireId, protocol};

use crate::conntrack::icmp_query;
use crate::parse::{Kind, Parsed};

/// One of the two endpoints of a key: the one that orders first by address and port, or the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum End {
    /// The endpoint that orders first.
    Low = 0,
    /// The other.
    High = 1,
}

impl End {
    /// The other end.
    pub fn opposite(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }

    #[inline]
    fn high_if(condition: bool) -> Self {
        if condition { Self::High } else { Self::Low }
    }
}

/// What tells one flow from another; equal for both directions. See the module's description.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FlowKey {
    /// The lower halves of the addresses, of the low end and of the high end.
    pub(super) addresses: [u64; 2],
    /// From the low bits: low port, high port, outer and inner VLAN.
    pub(super) ports_and_tags: u64,
    /// From the low bits: group (16), EtherType (16), protocol (8), one (1), tunnelled (1), the upper
    /// four bits of the network identifier (6); the upper 16 are zero.
    pub(super) tail: u64,
    /// The upper halves of the addresses: zero in IPv4. Side by side, to be written at once.
    pub(super) upper: [u64; 2],
}

/// The bits of [`FlowKey::tail`]; an entry keeps its wire in the others.
pub(super) const TAIL_MASK: u64 = (1 << 48) - 1;
/// Set in every key, so that a vacant entry equals none.
const LIVE: u64 = 1 << 40;
/// Set where the flow is one within a tunnel. Its frames have one VLAN tag at most: in place of the
/// inner one stand 16 bits of the network identifier, above the outer one (12 bits) four, and the
/// last four here.
const TUNNELLED: u64 = 1 << 41;
const TUNNEL_HIGH_SHIFT: u32 = 42;
/// An odd number whose bits look random (of the golden ratio): what it multiplies reaches all bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const VID_MASK: u16 = 0x0fff;

impl FlowKey {
    /// Equals the key of no packet.
    pub(crate) const NONE: Self =
        Self { addresses: [0; 2], ports_and_tags: 0, tail: 0, upper: [0; 2] };

    /// The key of a packet's flow and the end that sent the packet. `group` is the redundancy group
    /// of its wire.
    #[inline(always)]
    pub fn of(parsed: &Parsed, group: u16) -> (Self, End) {
        // Most frames there are: the compiler would rather call for them, too.
        let is_plain = parsed.kind != Kind::IcmpQuery && parsed.tunnel == 0;
        if is_plain && parsed.headers.ether_type == ETHER_IPV4 {
            return Self::ordered_ipv4(&parsed.headers, parsed.flow_ports, group);
        }
        let (key, sender) = Self::of_frame(parsed, group);
        (key.within(parsed.tunnel), sender)
    }

    /// The same of TCP or UDP over IPv4, without tags and in no tunnel.
    #[inline(always)]
    pub fn of_plain_ipv4(headers: &Headers, group: u16) -> (Self, End) {
        let (ether_type, tags) = (ETHER_IPV4, VlanTags::UNTAGGED);
        let headers = Headers { ether_type, tags, ..*headers };
        Self::ordered_ipv4(&headers, (headers.src_port, headers.dst_port), group)
    }

    #[inline]
    fn of_frame(parsed: &Parsed, group: u16) -> (Self, End) {
        let headers = &parsed.headers;
        if parsed.kind == Kind::IcmpQuery {
            return Self::of_query(headers, parsed.flow_ports.0, group);
        }
        if headers.ether_type == ETHER_IPV4 {
            return Self::ordered_ipv4(headers, parsed.flow_ports, group);
        }
        let (src, dst) = if headers.is_ip() {
            (headers.src, headers.dst)
        } else {
            (mac_bits(headers.src_mac.0), mac_bits(headers.dst_mac.0))
        };
        Self::ordered(headers, (src, dst), parsed.flow_ports, headers.tags, group)
    }

    /// The key within a tunnel, as [`Parsed::tunnel`] tells it; the same one where that is 0.
    #[must_use]
    pub fn within(mut self, tunnel: u32) -> Self {
        if let Some(id) = tunnel.checked_sub(1) {
            let id = u64::from(id);
            self.ports_and_tags |= (id & 0xffff) << 48 | (id >> 16 & 0xf) << 44;
            self.tail |= TUNNELLED | (id >> 20 & 0xf) << TUNNEL_HIGH_SHIFT;
        }
        self
    }

    /// The key of the flow that an ICMP error quotes, from what [`crate::parse::parse_quoted`]
    /// returns, and the end that sent the quoted packet. `tags` and `group` are those of the frame
    /// that carries the error.
    pub fn of_quoted(
        quoted: &Headers,
        flow_ports: (u16, u16),
        group: u16,
        tags: VlanTags,
    ) -> (Self, End) {
        let headers = Headers { tags, ..*quoted };
        let icmp_type = (headers.dst_port >> 8) as u8;
        if is_icmp(&headers) && is_query(headers.protocol, icmp_type) {
            return Self::of_query(&headers, flow_ports.0, group);
        }
        Self::ordered(&headers, (headers.src, headers.dst), flow_ports, tags, group)
    }

    /// An ICMP query has one identifier, so the other port tells the request's type and who asks.
    fn of_query(headers: &Headers, identifier: u16, group: u16) -> (Self, End) {
        let icmp_type = (headers.dst_port >> 8) as u8;
        let (request, is_request) = icmp_query(headers.protocol, icmp_type);
        let sender = End::high_if(headers.src > headers.dst);
        let asker = if is_request { sender } else { sender.opposite() };
        let asks = u16::from(request) << 8 | asker as u16;
        let (low, high) = (headers.src.min(headers.dst), headers.src.max(headers.dst));
        (Self::packed(headers, low, high, (identifier, asks), headers.tags, group), sender)
    }

    /// As [`Self::ordered`]: address and port of an end fit a word, so that one comparison orders
    /// both.
    #[inline(always)]
    fn ordered_ipv4(headers: &Headers, ports: (u16, u16), group: u16) -> (Self, End) {
        let end = |address: u128, port: u16| u64::from(address as u32) << 16 | u64::from(port);
        let (src, dst) = (end(headers.src, ports.0), end(headers.dst, ports.1));
        let (low, high) = (src.min(dst), src.max(dst));
        let addresses = (u128::from(low >> 16), u128::from(high >> 16));
        let ports = (low as u16, high as u16);
        let key = Self::packed(headers, addresses.0, addresses.1, ports, headers.tags, group);
        (key, End::high_if(src > dst))
    }

    #[inline]
    fn ordered(
        headers: &Headers,
        (src, dst): (u128, u128),
        (src_port, dst_port): (u16, u16),
        tags: VlanTags,
        group: u16,
    ) -> (Self, End) {
        let swap = src > dst || (src == dst && src_port > dst_port);
        let (low, high) = if swap { (dst, src) } else { (src, dst) };
        let ports = if swap { (dst_port, src_port) } else { (src_port, dst_port) };
        (Self::packed(headers, low, high, ports, tags, group), End::high_if(swap))
    }

    #[inline(always)]
    fn packed(
        headers: &Headers,
        low: u128,
        high: u128,
        (low_port, high_port): (u16, u16),
        tags: VlanTags,
        group: u16,
    ) -> Self {
        let ports_and_tags = u64::from(low_port)
            | u64::from(high_port) << 16
            | u64::from(tags.outer) << 32
            | u64::from(tags.inner) << 48;
        let tail = u64::from(group)
            | u64::from(headers.ether_type) << 16
            | u64::from(headers.protocol) << 32
            | LIVE;
        Self {
            addresses: [low as u64, high as u64],
            ports_and_tags,
            tail,
            upper: [(low >> 64) as u64, (high >> 64) as u64],
        }
    }

    #[inline(always)]
    pub(super) fn hash_with(&self, hasher: &RandomState) -> u64 {
        let ([low, high], [low_upper, high_upper]) = (self.addresses, self.upper);
        let mut state = hasher.build_hasher();
        if self.is_plain_ipv4() {
            // Both addresses fit one word and all else another: one step instead of three. That a flow
            // of another protocol or group may share a hash does no harm: there are few such flows,
            // and the whole key is compared. In a tunnel there may be many: sender's choice are all
            // bits of ports and tags, and some of the tail, too.
            let rest = self.ports_and_tags ^ self.tail.wrapping_mul(SPREAD);
            state.write_u128(two_words(low | high << 32, rest));
            return state.finish();
        }
        state.write_u128(two_words(low, low_upper));
        state.write_u128(two_words(high, high_upper));
        state.write_u128(two_words(self.ports_and_tags, self.tail));
        state.finish()
    }

    /// Whether the flow is one within a tunnel.
    pub fn is_tunnelled(&self) -> bool {
        self.tail & TUNNELLED != 0
    }

    /// Whether it is IPv4 in no tunnel.
    #[inline]
    fn is_plain_ipv4(&self) -> bool {
        self.tail & (TUNNELLED | 0xffff_0000) == u64::from(ETHER_IPV4) << 16
    }

    /// The hash of the host at an end: its address in its VLAN and tunnel.
    pub(super) fn host_hash(&self, end: End, hasher: &RandomState) -> u64 {
        let mut state = hasher.build_hasher();
        state.write_u128(self.address(end));
        // Group, VLAN tags, tunnel.
        let scope = (self.tail & 0xffff) | (self.tail >> 41 & 0x1f) << 16;
        state.write_u64(scope | (self.ports_and_tags >> 32) << 32);
        state.finish()
    }

    /// Address of an end: of IP, or the 48 bits of a MAC address.
    pub(super) fn address(&self, end: End) -> u128 {
        two_words(self.addresses[end as usize], self.upper[end as usize])
    }

    /// What follows from the key about the packets that `initiator` sends, but for MAC addresses,
    /// wire, and the type and code of an ICMP query, which `icmp` gives.
    pub(super) fn headers(&self, initiator: End, icmp: u16) -> Headers {
        let ports = [self.ports_and_tags as u16, (self.ports_and_tags >> 16) as u16];
        let mut headers = Headers {
            ether_type: (self.tail >> 16) as u16,
            protocol: (self.tail >> 32) as u8,
            tags: self.tags(),
            wire: WireId::default(),
            ..Headers::default()
        };
        if headers.is_ip() {
            headers.src = self.address(initiator);
            headers.dst = self.address(initiator.opposite());
            if is_icmp(&headers) {
                headers.dst_port = icmp;
            } else {
                headers.src_port = ports[initiator as usize];
                headers.dst_port = ports[initiator.opposite() as usize];
            }
        }
        headers
    }

    pub(super) fn tags(&self) -> VlanTags {
        let outer = (self.ports_and_tags >> 32) as u16 & VID_MASK;
        let inner = (self.ports_and_tags >> 48) as u16;
        let inner = if self.tail & TUNNELLED == 0 { inner } else { 0 };
        VlanTags { outer, inner }
    }
}

fn two_words(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

fn is_icmp(headers: &Headers) -> bool {
    headers.is_ip() && matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6)
}

/// Whether the type belongs to a request and reply pair.
fn is_query(ip_protocol: u8, icmp_type: u8) -> bool {
    let requests: &[u8] =
        if ip_protocol == protocol::ICMP { &[8, 13, 15, 17, 42] } else { &[128, 160] };
    requests.contains(&icmp_query(ip_protocol, icmp_type).0)
}

fn mac_bits(mac: [u8; 6]) -> u128 {
    let [a, b, c, d, e, f] = mac;
    u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
}
