//! What a rule can see of a frame.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A 48-bit IEEE 802 MAC address in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether the group bit is set: multicast, or broadcast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The VLAN identifiers of a frame, outermost first. A priority tag (VID 0) counts as untagged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VlanTags {
    /// VID of the outer tag, 1 to 4094; 0 where there is none.
    pub outer: u16,
    /// VID of the inner tag, 1 to 4094; 0 where there is none.
    pub inner: u16,
}

impl VlanTags {
    /// A frame without a tag.
    pub const UNTAGGED: Self = Self { outer: 0, inner: 0 };

    /// A frame with one tag.
    pub const fn single(vid: u16) -> Self {
        Self { outer: vid, inner: 0 }
    }
}

/// The index of a wire in the gateway's configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WireId(pub u16);

/// EtherType of IPv4.
pub const ETHER_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHER_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHER_IPV6: u16 = 0x86dd;

/// IP protocol numbers that the language knows by name (IANA protocol-numbers).
pub mod protocol {
    #![allow(missing_docs, reason = "the names are IANA's")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// The header fields of one frame that rules test: the classifier's key.
///
/// `ether_type` decides how the other fields read: for [`ETHER_IPV4`] the addresses are in the low
/// 32 bits of `src` and `dst`, for [`ETHER_IPV6`] they take all 128; for every other type the
/// addresses, the protocol and the ports are zero. `src_port` and `dst_port` are those of TCP, UDP
/// and SCTP; for ICMP and ICMPv6 `dst_port` is `type << 8 | code` and `src_port` is zero; for every
/// other protocol both are zero.
///
/// A batch of frames is read by rows of words: the layout is fixed for that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Headers {
    /// Source address, see the type's description.
    pub src: u128,
    /// Destination address, see the type's description.
    pub dst: u128,
    /// Source port, see the type's description.
    pub src_port: u16,
    /// Destination port or ICMP type and code, see the type's description.
    pub dst_port: u16,
    /// EtherType after all VLAN tags and SNAP; of a frame with plain 802.2 LLC its DSAP, 0x01 to 0xff.
    pub ether_type: u16,
    /// IP protocol number after all extension headers.
    pub protocol: u8,
    /// Source MAC address.
    pub src_mac: Mac,
    /// Destination MAC address.
    pub dst_mac: Mac,
    /// The wire on which the frame came.
    pub wire: WireId,
    /// VLAN tags of the frame.
    pub tags: VlanTags,
}

/// What a rule calls frames of an EtherType, or of an LLC DSAP where it is below 0x0100: `eth/0x8892`,
/// `llc/0x82`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameType(pub u16);

impl std::fmt::Display for FrameType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            dsap @ 0..=0xff => write!(f, "llc/0x{dsap:02x}"),
            ether_type => write!(f, "eth/0x{ether_type:04x}"),
        }
    }
}

impl Headers {
    /// Whether the addresses, protocol and ports mean anything.
    pub fn is_ip(&self) -> bool {
        self.ether_type == ETHER_IPV4 || self.ether_type == ETHER_IPV6
    }

    /// The destination address of an IP packet.
    pub fn dst_address(&self) -> Option<IpAddr> {
        match self.ether_type {
            ETHER_IPV4 => Some(Ipv4Addr::from(self.dst as u32).into()),
            ETHER_IPV6 => Some(Ipv6Addr::from(self.dst).into()),
            _ => None,
        }
    }

    /// The same with the fields cleared that mean nothing in such a frame, see the type's
    /// description: what a parser produces.
    pub fn normalised(&self) -> Self {
        let mut h = *self;
        match h.ether_type {
            ETHER_IPV4 => (h.src, h.dst) = (h.src & 0xffff_ffff, h.dst & 0xffff_ffff),
            ETHER_IPV6 => {}
            _ => (h.src, h.dst, h.protocol) = (0, 0, 0),
        }
        match h.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {}
            protocol::ICMP | protocol::ICMPV6 => h.src_port = 0,
            _ => (h.src_port, h.dst_port) = (0, 0),
        }
        h
    }

    /// The headers that the same flow's packets carry in the other direction. ICMP type and code
    /// stay: which type answers which is a matter of the flow's state.
    pub fn reversed(&self) -> Self {
        let icmp = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        let (src_port, dst_port) =
            if icmp { (self.src_port, self.dst_port) } else { (self.dst_port, self.src_port) };
        Self {
            src: self.dst,
            dst: self.src,
            src_port,
            dst_port,
            src_mac: self.dst_mac,
            dst_mac: self.src_mac,
            ..*self
        }
    }
}

/// The instant at which a policy is evaluated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyTime {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// Whether the clock is known to be synchronised; while it is not, allow rules with `starts`
    /// or `expires` match nothing.
    pub synchronised: bool,
}
