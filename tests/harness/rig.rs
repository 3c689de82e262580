//! Hosts, wires, and the namespace of the gateway.
//!
//! Wire `i` has one host on each side: `inside(i)` — `in{i}` [gateway] `out{i}` — `outside(i)`. All
//! hosts of a rig share one subnet, because the gateway is a bump in the wire.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};

use nix::fcntl::{Flock, FlockArg};

use crate::namespace::{self, Namespace};
use crate::{frames::Mac, skip};

/// The interface by which a host reaches its wire.
pub const HOST_INTERFACE: &str = "eth0";

/// A host: a namespace with one interface, a fixed MAC address, and an address of each family.
#[derive(Debug)]
pub struct Host {
    /// Where its programs run.
    pub namespace: Namespace,
    /// Its MAC address.
    pub mac: Mac,
    /// Its IPv4 address, in a /16.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in a /64.
    pub v6: Ipv6Addr,
}

/// The hosts and wires of one test, with a namespace between them in which the gateway runs.
#[derive(Debug)]
pub struct Rig {
    hosts: Vec<(Host, Host)>,
    gateway: Namespace,
    // Measurements disturb each other and huge pages are few: one rig at a time on a machine.
    _turn: Flock<File>,
}

impl Rig {
    /// A rig of `wires` wires, or [`None`], said and counted, where this machine does not permit it.
    pub fn or_skip(test: &str, wires: u8) -> Option<Self> {
        if let Some(reason) = namespace::why_not() {
            skip(test, &reason);
            return None;
        }
        Some(Self::new(wires))
    }

    /// The same, whose hosts spread what they send over `queues` queues of the gateway's ports, each
    /// flow and direction by itself.
    pub fn with_queues_or_skip(test: &str, wires: u8, queues: u8) -> Option<Self> {
        let rig = Self::or_skip(test, wires)?;
        let queues = queues.to_string();
        for (inside, outside) in &rig.hosts {
            for host in [inside, outside] {
                host.namespace.exec(&["ethtool", "-L", HOST_INTERFACE, "tx", &queues]);
            }
        }
        Some(rig)
    }

    fn new(wires: u8) -> Self {
        let turn = take_turn();
        namespace::remove_leftovers();
        let gateway = Namespace::new("gw");
        let hosts = (0..wires)
            .map(|wire| {
                let inside = Host::new(&gateway, &format!("in{wire}"), 1, wire);
                let outside = Host::new(&gateway, &format!("out{wire}"), 2, wire);
                (inside, outside)
            })
            .collect();
        Self { hosts, gateway, _turn: turn }
    }

    /// The host behind the gateway on a wire: 10.77.1.(wire + 1), fd77::1:(wire + 1).
    pub fn inside(&self, wire: usize) -> &Host {
        &self.hosts[wire].0
    }

    /// The host before the gateway on a wire: 10.77.2.(wire + 1), fd77::2:(wire + 1).
    pub fn outside(&self, wire: usize) -> &Host {
        &self.hosts[wire].1
    }

    /// Where the gateway runs; its ports there are `in0`, `out0`, `in1`, …
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// Whether every host's interface is up and knows it: the kernel takes up to a second to tell a
    /// host that it has carrier, and until then the host sends into nothing.
    pub fn is_connected(&self) -> bool {
        self.hosts.iter().flat_map(|(inside, outside)| [inside, outside]).all(|host| {
            let shown = host.namespace.ip(&["-o", "link", "show", HOST_INTERFACE]);
            shown.contains("state UP")
        })
    }

    /// How many wires there are.
    pub fn wires(&self) -> usize {
        self.hosts.len()
    }
}

impl Host {
    /// Makes the host and the veth pair to `port` in the gateway's namespace.
    fn new(gateway: &Namespace, port: &str, side: u8, wire: u8) -> Self {
        let namespace = Namespace::new(port);
        let mac = Mac([0x02, 0x77, 0, 0, side, wire + 1]);
        let v4 = Ipv4Addr::new(10, 77, side, wire + 1);
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, side.into(), u16::from(wire) + 1);
        let host = Self { namespace, mac, v4, v6 };
        let ns = &host.namespace;
        let peer = ["peer", "name", port, "netns", gateway.name()];
        ns.ip(&[&["link", "add", HOST_INTERFACE, "type", "veth"], &peer[..]].concat());
        // The gateway's ends must not speak: no address, no IPv6 autoconfiguration.
        set_ipv6(gateway, port, "disable_ipv6", "1");
        gateway.ip(&["link", "set", port, "up"]);
        // What a veth leaves to hardware that is not there: checksums, segmentation, VLAN tags.
        // Every frame reaches the gateway as it would stand on a cable.
        for (inside, interface) in [(ns, HOST_INTERFACE), (gateway, port)] {
            let off = ["ethtool", "-K", interface];
            let off = off.into_iter().chain(OFFLOADS.iter().flat_map(|name| [*name, "off"]));
            inside.exec(&off.collect::<Vec<_>>());
        }
        for setting in ["accept_dad", "accept_ra", "router_solicitations"] {
            set_ipv6(ns, HOST_INTERFACE, setting, "0");
        }
        ns.ip(&["link", "set", HOST_INTERFACE, "address", &host.mac.to_string()]);
        ns.ip(&["link", "set", HOST_INTERFACE, "up"]);
        // After the link is up: an IPv6 address that was there before answers nobody for a second.
        ns.ip(&["addr", "add", &format!("{v4}/16"), "dev", HOST_INTERFACE]);
        ns.ip(&["addr", "add", &format!("{v6}/64"), "dev", HOST_INTERFACE, "nodad"]);
        host
    }

    /// Adds another IPv4 address, for a host that plays several.
    pub fn add_address(&self, address: Ipv4Addr) {
        self.namespace.ip(&["addr", "add", &format!("{address}/16"), "dev", HOST_INTERFACE]);
    }

    /// Whether the interface has carrier.
    pub fn has_carrier(&self) -> bool {
        carrier(&self.namespace, HOST_INTERFACE)
    }
}

/// Whether an interface of a namespace has carrier, as `ip` reports it.
pub fn carrier(namespace: &Namespace, interface: &str) -> bool {
    namespace.ip(&["-o", "link", "show", interface]).contains("LOWER_UP")
}

/// One of the kernel's settings of IPv6 on an interface. Whoever writes decides which namespace's.
fn set_ipv6(namespace: &Namespace, interface: &str, setting: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/{setting}");
    let written = namespace.inside(|| std::fs::write(&path, value));
    written.unwrap_or_else(|e| panic!("{path} of {}: {e}", namespace.name()));
}

const OFFLOADS: [&str; 7] = ["rx", "tx", "gso", "gro", "tso", "rxvlan", "txvlan"];

/// Waits until no other test of this machine uses a rig.
fn take_turn() -> Flock<File> {
    let path = std::env::temp_dir().join("bulkhead-tests.lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Flock::lock(file, FlockArg::LockExclusive)
        .unwrap_or_else(|(_, e)| panic!("{}: {e}", path.display()))
}
