//! How a configuration names a port.

use std::fmt;

/// A port's name, understood.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PortName {
    /// A PCI device: `0000:03:00.0` or `03:00.0`. Kept with its domain.
    Pci(String),
    /// A DPDK device string: the driver's name with a number, then `key=value` pairs:
    /// `net_af_xdp0,iface=eth1`.
    Device(String),
    /// A kernel interface: `eth1`.
    Interface(String),
}

impl PortName {
    /// Understands a name. What looks like a PCI address is one; what begins with `net_` or holds a
    /// comma is a device string; everything else is an interface.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        if let Some(address) = pci_address(name) {
            Self::Pci(address)
        } else if name.starts_with("net_") || name.contains(',') {
            Self::Device(name.to_owned())
        } else {
            Self::Interface(name.to_owned())
        }
    }

    /// The kernel interface behind the port, where there is one that exists before the port does.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Pci(_) => None,
            Self::Interface(name) => Some(name),
            Self::Device(device) => {
                let mut parts = device.split(',');
                let driver = parts.next().unwrap_or_default();
                (driver.starts_with("net_af_xdp") || driver.starts_with("net_af_packet"))
                    .then(|| parts.find_map(|part| part.strip_prefix("iface=")))
                    .flatten()
            }
        }
    }

    /// Whether the port is a PCI device, so that DPDK must look at the PCI bus.
    #[must_use]
    pub fn is_pci(&self) -> bool {
        matches!(self, Self::Pci(_))
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Pci(name) | Self::Device(name) | Self::Interface(name)) = self;
        f.write_str(name)
    }
}

/// `[dddd:]bb:dd.f`, all hexadecimal, with the domain filled in.
fn pci_address(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split(':').collect();
    let (domain, bus, rest) = match parts[..] {
        [domain, bus, rest] => (domain, bus, rest),
        [bus, rest] => ("0000", bus, rest),
        _ => return None,
    };
    let (device, function) = rest.split_once('.')?;
    let hex =
        |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1))
        .then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let pci = |name: &str| PortName::Pci(name.to_owned());
        assert_eq!(PortName::parse("0000:03:00.0"), pci("0000:03:00.0"));
        assert_eq!(PortName::parse("3B:00.1"), pci("0000:3b:00.1"));
        for device in ["net_null0", "net_af_xdp0,iface=eth1", "eth_bond0,mode=1"] {
            assert_eq!(PortName::parse(device), PortName::Device(device.to_owned()));
        }
        for interface in ["eth1", "eth0:1", "br-lan", "03:00", "enp3s0f1np1", "eth1.10"] {
            assert_eq!(PortName::parse(interface), PortName::Interface(interface.to_owned()));
        }
    }

    #[test]
    fn the_interface_behind_a_device_string_is_found() {
        let of = |name: &str| PortName::parse(name).interface().map(str::to_owned);
        assert_eq!(of("net_af_xdp0,start_queue=0,iface=eth1").as_deref(), Some("eth1"));
        assert_eq!(of("net_af_packet3,iface=lan").as_deref(), Some("lan"));
        assert_eq!(of("eth7").as_deref(), Some("eth7"));
        assert_eq!(of("net_tap0,iface=tap0"), None);
        assert_eq!(of("net_pcap0,iface=eth1"), None);
        assert_eq!(of("0000:03:00.0"), None);
    }
}
