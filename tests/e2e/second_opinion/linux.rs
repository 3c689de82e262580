//! The bridge with nftables.

use std::time::{Duration, Instant};

use bulkhead_pipeline::parse::parse;
use bulkhead_rules::headers::WireId;
use bulkhead_tests::flows::open_in;
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::rig::HOST_INTERFACE;
use bulkhead_tests::{Namespace, Rig};
use socket2::{Domain, Protocol, Socket, Type};

use super::rules::Rules;

/// EtherType of the frames that follow each frame, to say that what it caused has arrived: one of those
/// for experiments.
const FENCE: u16 = 0x88b6;

/// The kernel's names of what is needed from libc.
const NETLINK_NETFILTER: i32 = 12;

/// What a port of the gateway can send at most. The interfaces here could send 14 bytes more.
const LONGEST_FRAME: usize = 65_535;

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It arrived as it was sent.
    Passed,
    /// Another frame of the same hosts arrived in its place.
    Changed,
    /// Nothing did.
    Dropped,
}

/// A bridge between a rig's hosts, in the place of the gateway.
pub(crate) struct Bridge<'a> {
    gateway: &'a Namespace,
    inside: RawPort,
    outside: RawPort,
    conntrack: Socket,
    rules: String,
    others_pass: bool,
    serial: u64,
    zone: u16,
}

impl<'a> Bridge<'a> {
    /// Why this machine cannot have one.
    pub(crate) fn why_not(rig: &Rig) -> Option<String> {
        let gateway = rig.gateway();
        let try_it = |program: &str, argument: &str| {
            let run = gateway.command(program).arg(argument).output();
            run.is_ok_and(|output| output.status.success())
        };
        if !try_it("nft", "--version") {
            return Some("the program nft is not installed".to_owned());
        }
        let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if !gateway.inside(|| std::path::Path::new(setting).exists()) {
            return Some(
                "this kernel has no br_netfilter: its bridges track no connections".into(),
            );
        }
        None
    }

    /// Builds it. The hosts lose their addresses: their kernels are to be silent.
    pub(crate) fn new(rig: &'a Rig) -> Self {
        let gateway = rig.gateway();
        gateway.ip(&[
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "stp_state",
            "0",
            "mcast_snooping",
            "0",
        ]);
        for (host, port) in [(rig.inside(0), "in0"), (rig.outside(0), "out0")] {
            host.namespace.ip(&["addr", "flush", "dev", HOST_INTERFACE]);
            host.namespace.ip(&["link", "set", HOST_INTERFACE, "arp", "off", "mtu", "65535"]);
            set(&host.namespace, "net/ipv6/conf/all/disable_ipv6", "1");
            gateway.ip(&["link", "set", port, "mtu", "65535", "master", "br0"]);
            // Whatever comes in at one side goes out at the other.
            gateway.ip(&["link", "set", port, "type", "bridge_slave", "learning", "off"]);
        }
        gateway.ip(&["link", "set", "br0", "mtu", "65535", "up"]);
        for setting in ["call-iptables", "call-ip6tables", "filter-vlan-tagged"] {
            set(gateway, &format!("net/bridge/bridge-nf-{setting}"), "1");
        }
        let conntrack = open_in(gateway, || {
            let netlink = Domain::from(libc::AF_NETLINK);
            Socket::new(netlink, Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))
        });
        Self {
            gateway,
            inside: RawPort::open(rig.inside(0)),
            outside: RawPort::open(rig.outside(0)),
            conntrack,
            rules: String::new(),
            others_pass: false,
            serial: 0,
            zone: 1,
        }
    }

    /// Takes other rules.
    pub(crate) fn load(&mut self, rules: &Rules) {
        (self.rules, self.others_pass) = (rules.nft(), rules.others_pass);
        self.forget(true);
        // Strict, as the gateway is after its time of grace; only tracking makes the setting exist.
        set(self.gateway, "net/netfilter/nf_conntrack_tcp_loose", "0");
    }

    /// Forgets every connection, and every fragment that waits for others.
    pub(crate) fn forget(&mut self, fragments: bool) {
        if fragments {
            // The queues of fragments cannot be emptied, but those of another zone are others.
            self.zone = self.zone % 60_000 + 1;
            self.load_ruleset();
        }
        self.flush_connections();
    }

    fn load_ruleset(&self) {
        let (zone, rules) = (self.zone, &self.rules);
        let others = if self.others_pass { "accept" } else { "drop" };
        // Neighbour discovery and MLD pass the gateway under guard. Nothing is for the bridge's own host:
        // what would be delivered there were tracked as if it had been permitted.
        let text = format!(
            "add table bridge b\ndelete table bridge b\nadd table inet t\ndelete table inet t\n\
             table bridge b {{\n  chain f {{\n    type filter hook forward priority 0; policy {others};\n    \
             ether type {{ arp, ip, ip6, {FENCE:#06x} }} accept\n    \
             vlan type {{ arp, ip, ip6 }} accept\n  }}\n  chain i {{\n    type filter hook input priority 0; \
             policy drop;\n  }}\n}}\n\
             table inet t {{\n  chain z {{\n    type filter hook prerouting priority -500; policy accept;\n    \
             ct zone set {zone}\n  }}\n  chain f {{\n    type filter hook forward priority 0; policy drop;\n    \
             ct state invalid drop\n    ct state established,related accept\n    \
             icmpv6 type {{ 130-137, 143 }} accept\n{rules}  }}\n}}\n"
        );
        let path = std::env::temp_dir().join(format!("{}.nft", self.gateway.name()));
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.gateway.exec(&["nft", "-f", &path.to_string_lossy()]);
        let _ = std::fs::remove_file(&path);
    }

    /// A message of ctnetlink that deletes all connections.
    fn flush_connections(&self) {
        const DELETE: u16 = 1 << 8 | 2;
        const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
        let mut message = Vec::with_capacity(20);
        message.extend(20_u32.to_ne_bytes());
        message.extend(DELETE.to_ne_bytes());
        message.extend(REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
        // Sequence number, port; family, version and resource of the netfilter header.
        message.extend([0; 12]);
        let sent = self.conntrack.send(&message).unwrap_or_else(|e| panic!("ctnetlink: {e}"));
        assert_eq!(sent, message.len());
        let mut answer = [std::mem::MaybeUninit::<u8>::uninit(); 64];
        let length = self.conntrack.recv(&mut answer).unwrap_or_else(|e| panic!("ctnetlink: {e}"));
        assert!(length >= 20, "an acknowledgement of {length} bytes");
    }

    /// What becomes of a frame; [`None`] where no interface sends it.
    pub(crate) fn judge(&mut self, frame: &[u8], from_inside: bool) -> Option<Fate> {
        let (from, to) =
            if from_inside { (&self.inside, &self.outside) } else { (&self.outside, &self.inside) };
        if frame.len() > LONGEST_FRAME {
            return None;
        }
        from.try_send(frame).ok()?;
        self.serial += 1;
        let fence = fence(self.serial);
        from.send(&fence);
        let mut fate = Fate::Dropped;
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Some(seen) = to.receive(deadline.saturating_duration_since(Instant::now())) {
            if seen == fence {
                return Some(fate);
            }
            if seen == frame || is_without_padding(&seen, frame) {
                fate = Fate::Passed;
            } else if fate == Fate::Dropped && seen.get(..12) == frame.get(..12) {
                fate = Fate::Changed;
            }
        }
        panic!("the frame that says that all has arrived did not arrive itself")
    }
}

/// Whether only padding is missing: what is bridged through the hooks for IP loses it.
fn is_without_padding(seen: &[u8], sent: &[u8]) -> bool {
    let parsed = parse(seen, WireId(0));
    sent.starts_with(seen)
        && parsed.is_ok_and(|parsed| usize::from(parsed.packet_end) == seen.len())
}

fn fence(serial: u64) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(FENCE.to_be_bytes());
    frame.extend(serial.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// One of the kernel's settings, of a namespace.
fn set(namespace: &Namespace, setting: &str, value: &str) {
    let path = format!("/proc/sys/{setting}");
    let written = namespace.inside(|| std::fs::write(&path, value));
    written.unwrap_or_else(|e| panic!("{path} of {}: {e}", namespace.name()));
}
