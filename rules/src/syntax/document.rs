//! The syntax tree: what a file says, with places, before any name is looked up.
//!
//! Equality leaves places aside, so that `parse(print(document)) == document`.

use std::net::IpAddr;
use std::sync::Arc;

use super::span::{Span, Spanned};
use crate::headers::{Mac, VlanTags};
use crate::policy::{Action, Must};

/// A name as it is written.
pub type Name = Spanned<Arc<str>>;

/// One file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Document {
    /// `version`, always 1.
    pub version: Option<Spanned<u32>>,
    /// `default`.
    pub default: Option<Spanned<Action>>,
    /// `devices`, in the order of the text, like all that follows.
    pub devices: Vec<Device>,
    /// `groups`.
    pub groups: Vec<Group>,
    /// `services`.
    pub services: Vec<Service>,
    /// `rules`.
    pub rules: Vec<Rule>,
    /// `assert`.
    pub assertions: Vec<Assertion>,
}

/// `plc-7: {mac: …, ip: …, vlan: …, labels: …}`; the fields are ANDed, the lists ORed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its key.
    pub name: Name,
    /// `mac`.
    pub macs: Vec<Spanned<Mac>>,
    /// `ip`.
    pub addresses: Vec<Spanned<Addresses>>,
    /// `vlan`.
    pub vlans: Option<Spanned<Vec<VlanTags>>>,
    /// `labels`: free text by key.
    pub labels: Vec<(Name, Spanned<Arc<str>>)>,
}

/// `hmi: [10.20.0.11, 10.20.0.12]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its key.
    pub name: Name,
    /// What belongs to it.
    pub members: Selector,
}

/// What may stand for hosts: a name, an address, a list of them, or `{in: …, except: …}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selector {
    /// Any of these…
    pub members: Vec<Spanned<Member>>,
    /// …and none of these.
    pub except: Vec<Spanned<Member>>,
    /// Where the whole is written. Two selectors in different places are still equal.
    pub span: Spanned<()>,
}

impl Selector {
    /// Where the whole is written.
    pub fn span(&self) -> Span {
        self.span.span
    }
}

/// One member of a selector.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Member {
    /// A device, a group or a built-in name.
    Name(Arc<str>),
    /// Network addresses.
    Addresses(Addresses),
    /// A MAC address.
    Mac(Mac),
}

/// Network addresses as they are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Addresses {
    /// `10.0.0.1`.
    One(IpAddr),
    /// `10.0.0.0/8`: no bits are set beyond the length.
    Prefix(IpAddr, u8),
    /// `10.0.0.1-10.0.0.9`: one family, first not above last.
    Range(IpAddr, IpAddr),
}

impl Addresses {
    /// The first and the last address.
    pub fn ends(self) -> (IpAddr, IpAddr) {
        match self {
            Self::One(address) => (address, address),
            Self::Prefix(base, length) => (base, last_of(base, length)),
            Self::Range(first, last) => (first, last),
        }
    }
}

fn last_of(base: IpAddr, length: u8) -> IpAddr {
    match base {
        IpAddr::V4(a) => {
            let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(a) | host).into())
        }
        IpAddr::V6(a) => {
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(a) | host).into())
        }
    }
}

/// `dns: [udp/53, tcp/53]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its key.
    pub name: Name,
    /// Its alternatives.
    pub terms: Terms,
}

/// What may stand for services: a name, a term, or a list of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The alternatives.
    pub terms: Vec<Spanned<Term>>,
    /// Where the whole is written.
    pub span: Spanned<()>,
}

/// One alternative of a service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Term {
    /// A service or a built-in name.
    Name(Arc<str>),
    /// `tcp/502`, `{udp: 53, from-port: 1024-65535}`.
    Ports {
        /// Which protocol's ports.
        protocol: PortProtocol,
        /// Destination ports, inclusive.
        to: Ports,
        /// Source ports, inclusive.
        from: Ports,
    },
    /// `icmp/8`, `icmpv6/1/4`.
    Icmp {
        /// Whether it is ICMPv6.
        v6: bool,
        /// ICMP type.
        kind: u8,
        /// ICMP code; any where it is absent.
        code: Option<u8>,
    },
    /// `ip/47`: an IP protocol number, in IPv4 and IPv6.
    Ip(u8),
    /// `eth/0x8892`: an EtherType; below 0x0100 `llc/0x82`: the DSAP of an 802.2 frame.
    Ether(u16),
}

/// Inclusive port ranges in the order of the text; empty for every port.
pub type Ports = Vec<(u16, u16)>;

/// A transport protocol with ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PortProtocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl PortProtocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As it is written.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The two sides of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sides {
    /// `from` opens to `to`; [`None`] where the key is not written, which only deny and reject may
    /// leave out.
    Directed {
        /// `from`.
        from: Option<Selector>,
        /// `to`.
        to: Option<Selector>,
    },
    /// `between`: either side may open.
    Between(Selector, Selector),
}

/// One entry of `rules`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// `name`.
    pub name: Name,
    /// `from` and `to`, or `between`.
    pub sides: Sides,
    /// `service`; [`None`] where it is not written.
    pub service: Option<Terms>,
    /// `vlan`.
    pub vlans: Option<Spanned<Vec<VlanTags>>>,
    /// `wire`.
    pub wires: Vec<Name>,
    /// `action`.
    pub action: Spanned<Action>,
    /// `log`.
    pub log: Option<bool>,
    /// `starts`, milliseconds since the Unix epoch.
    pub starts: Option<Spanned<i64>>,
    /// `expires`, milliseconds since the Unix epoch.
    pub expires: Option<Spanned<i64>>,
    /// `reason`.
    pub reason: Option<Spanned<Arc<str>>>,
}

/// One entry of `assert`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assertion {
    /// `from`.
    pub from: Selector,
    /// `to`.
    pub to: Selector,
    /// `service`.
    pub service: Terms,
    /// `must`.
    pub must: Spanned<Must>,
    /// Where the entry is written.
    pub span: Spanned<()>,
}
