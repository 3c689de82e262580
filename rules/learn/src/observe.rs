//! What a caller tells the learner: who spoke to whom, over what, when, and with what success.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_rules::headers::{Mac, VlanTags};
pub use bulkhead_rules::syntax::document::PortProtocol;

/// What a host is known by for as long as it is the same host. The caller decides which: a MAC
/// address or a DHCP name where the device is on-link, an address where it is static or behind a
/// router, a number where data are anonymised. See [`crate::identity`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostKey {
    /// A device with this MAC address.
    Mac(Mac),
    /// A device with this name: a DHCP client identifier or a hostname.
    Name(Arc<str>),
    /// Whoever has this address.
    Address(IpAddr),
    /// Host number so-and-so of anonymised data.
    Number(u32),
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
            Self::Number(number) => write!(f, "host-{number}"),
        }
    }
}

/// What is opened on a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Service {
    /// A destination port.
    Port(PortProtocol, u16),
    /// Whatever port from this one up, of a server that chooses them as it goes. Callers never
    /// observe it; it is recognised.
    Dynamic(PortProtocol, u16),
    /// An ICMP type; of ICMPv6 if so.
    Icmp {
        /// Whether it is ICMPv6.
        v6: bool,
        /// ICMP type.
        kind: u8,
    },
    /// An IP protocol without ports.
    Ip(u8),
    /// An EtherType that is not IP.
    Ether(u16),
}

impl Service {
    /// Whether a rule for this service lets `other` pass.
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Dynamic(ours, first), Self::Port(theirs, port)) => {
                ours == theirs && port >= first
            }
            (Self::Dynamic(ours, first), Self::Dynamic(theirs, other)) => {
                ours == theirs && other >= first
            }
            _ => self == other,
        }
    }

    /// How many ports or kinds of message it stands for.
    pub fn width(self) -> u64 {
        match self {
            Self::Dynamic(_, first) => 65_536 - u64::from(first),
            _ => 1,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Port(protocol, port) => write!(f, "{}/{port}", protocol.label()),
            Self::Dynamic(protocol, first) => write!(f, "{}/{first}-65535", protocol.label()),
            Self::Icmp { v6: false, kind } => write!(f, "icmp/{kind}"),
            Self::Icmp { v6: true, kind } => write!(f, "icmpv6/{kind}"),
            Self::Ip(number) => write!(f, "ip/{number}"),
            Self::Ether(number) => write!(f, "eth/{number:#06x}"),
        }
    }
}

/// A text that is no service as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoService;

impl fmt::Display for NoService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a service such as tcp/502, udp/1024-65535, icmp/8, ip/47 or eth/0x8892")
    }
}

impl std::error::Error for NoService {}

impl std::str::FromStr for Service {
    type Err = NoService;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, NoService> {
        let (kind, value) = text.split_once('/').ok_or(NoService)?;
        let number = |text: &str| text.parse::<u16>().map_err(|_| NoService);
        let byte = |text: &str| text.parse::<u8>().map_err(|_| NoService);
        if let Some(&protocol) = PortProtocol::ALL.iter().find(|p| p.label() == kind) {
            return match value.split_once('-') {
                None => Ok(Self::Port(protocol, number(value)?)),
                Some((first, "65535")) => Ok(Self::Dynamic(protocol, number(first)?)),
                Some(_) => Err(NoService),
            };
        }
        match kind {
            "icmp" => Ok(Self::Icmp { v6: false, kind: byte(value)? }),
            "icmpv6" => Ok(Self::Icmp { v6: true, kind: byte(value)? }),
            "ip" => Ok(Self::Ip(byte(value)?)),
            "eth" => {
                let digits = value.strip_prefix("0x").ok_or(NoService)?;
                u16::from_str_radix(digits, 16).map(Self::Ether).map_err(|_| NoService)
            }
            _ => Err(NoService),
        }
    }
}

/// How much is known of who opened a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// The client's first packet was seen (a pure SYN), or the protocol says who asks.
    Seen,
    /// Seen in mid-stream: which side serves has to be found out. The port of the side that is
    /// told as the client; the server's is in the service.
    Unknown {
        /// The port of the side that is told as the client.
        client_port: u16,
    },
}

/// What came of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Payload, or at least an opened connection, in both directions.
    BothWays,
    /// No answer, or a refusal.
    Failed,
    /// The source of the data does not say.
    Unknown,
}

/// One flow, or several alike within one hour.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    /// Hours since an epoch of the caller's choice, commonly Unix's.
    pub hour: u32,
    /// Who opened it.
    pub client: HostKey,
    /// To whom. A broadcast or multicast address is told as a template, never as a host.
    pub server: HostKey,
    /// What was opened.
    pub service: Service,
    /// How sure the sides are.
    pub opening: Opening,
    /// What came of it.
    pub outcome: Outcome,
}

/// What is known of a host besides its key, for the text of the policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostFacts {
    /// A name that people know it by.
    pub name: Option<Arc<str>>,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its addresses of now. More than [`crate::limits::ADDRESSES_PER_HOST`] are not kept.
    pub addresses: Vec<IpAddr>,
    /// The VLAN that its frames carry.
    pub vlan: Option<VlanTags>,
    /// The wire that it is on.
    pub wire: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_as_they_are_written() {
        for service in [
            Service::Port(PortProtocol::Tcp, 502),
            Service::Port(PortProtocol::Sctp, 0),
            Service::Dynamic(PortProtocol::Udp, 49_152),
            Service::Icmp { v6: false, kind: 8 },
            Service::Icmp { v6: true, kind: 128 },
            Service::Ip(47),
            Service::Ether(0x8892),
            Service::Ether(0x42),
        ] {
            assert_eq!(service.to_string().parse(), Ok(service));
        }
        for wrong in ["", "tcp", "tcp/", "tcp/65536", "tcp/1-2", "gre/1", "eth/8892", "icmp/256"] {
            assert_eq!(wrong.parse::<Service>(), Err(NoService), "{wrong}");
        }
    }
}
