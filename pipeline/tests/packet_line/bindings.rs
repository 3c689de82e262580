//! From an announcement on the wire to the rules that follow it: worker, tap, table, publication.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bulkhead_pipeline::bindings::table::{Network, Outcome};
use bulkhead_pipeline::bindings::{self, BindingTable, Source, TableConfig};
use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::snapshot::{EditedContent, Mode};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::compile::{Compiler, Limits};
use bulkhead_rules::headers::{Mac, VlanTags, WireId};

use crate::common::{Gateway, content};

const POLICY: &str = "
version: 1
devices:
  plc: {mac: '02:00:00:00:00:07'}
  neighbour: {mac: '02:00:00:00:00:66'}
rules:
  - {name: log, from: [plc, neighbour], to: any, service: udp/514, action: allow}
  - {name: report, from: plc, to: any, service: tcp/443, action: allow}
  - {name: work, vlan: 20, from: any, to: plc, service: tcp/502, action: allow}
";
const PLC: Mac = Mac([2, 0, 0, 0, 0, 7]);
const FORGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HMI: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const HOME: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 8);
const NETWORK: Network = Network { group: 0, tags: VlanTags::single(30) };

/// A gateway with what its control side keeps.
struct Followed {
    gateway: Gateway,
    source: Source,
    table: BindingTable,
    compiler: Compiler,
}

impl Followed {
    fn new(mode: Mode) -> Self {
        let content = content(POLICY, mode, 0);
        let compiler = Compiler::new(&content.policy, &Limits::default()).expect("it compiles");
        let (tap, source) = bindings::channel(64);
        let gateway = Gateway::with_tap(content, &WorkerConfig::default(), tap);
        Self { gateway, source, table: BindingTable::new(TableConfig::default()), compiler }
    }

    /// What the control side does every few milliseconds.
    fn follow(&mut self) -> Vec<Outcome> {
        let claims = std::iter::from_fn(|| self.source.take());
        let outcomes = claims.map(|claim| self.table.observe(&claim, 0, 0)).collect();
        let wires = [WireId(0)];
        let told = Arc::new(self.table.bindings(&[PLC], true, |_| &wires));
        let (policy, delta) = self.compiler.policy().bound(&told);
        let changes = self.compiler.edit(&policy, &delta).expect("it compiles");
        self.gateway.publisher.publish_edit(EditedContent {
            policy: Arc::new(policy),
            classifier: self.compiler.publish(),
            changes,
            rules_added: Vec::new(),
            rules_removed: Vec::new(),
        });
        outcomes
    }

    /// Whether the HMI's network, beyond a router on a stick, opens a connection to an address.
    fn reaches(&mut self, address: Ipv4Addr) -> bool {
        let port = self.gateway.hits("work") as u16 + 40_000;
        let syn = FrameBuilder::new().macs(FORGER, ROUTER).vlan(20).ip(HMI, address);
        self.gateway.passes_in(&syn.tcp(port, 502, flag::SYN).build())
    }
}

fn arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    FrameBuilder::new().macs(mac, Mac([0xff; 6])).vlan(30).arp(1, address, address).build()
}

#[test]
fn rules_follow_a_device_and_nobody_who_says_to_be_it() {
    let mut followed = Followed::new(Mode::Enforce);
    assert!(!followed.reaches(HOME));
    assert!(followed.gateway.passes_out(&arp(PLC, HOME)));
    assert_eq!(followed.follow(), [Outcome::Bound]);
    assert!(followed.reaches(HOME) && !followed.reaches(OTHER));
    // Another host claims the address, and somebody else the device's own name: dropped, and told.
    assert!(!followed.gateway.passes_in(&arp(FORGER, HOME)));
    assert!(!followed.gateway.passes_in(&arp(PLC, HOME)));
    assert!(followed.gateway.passes_in(&arp(PLC, OTHER)), "the guard knows addresses only");
    assert!(followed.follow().iter().all(|outcome| matches!(outcome, Outcome::Conflict(_))));
    let holder = followed.table.get(NETWORK, IpAddr::V4(HOME)).expect("it is bound");
    assert_eq!((holder.mac, holder.inside), (PLC, true));
    assert!(followed.reaches(HOME) && !followed.reaches(OTHER));
    let dropped = &followed.gateway.outside_counters().dropped;
    assert_eq!(dropped.of(DropReason::AddressConflict).packets.value(), 2);
    // It takes another address, and is found there.
    assert!(followed.gateway.passes_out(&arp(PLC, OTHER)));
    followed.follow();
    assert!(followed.reaches(OTHER));
}

#[test]
fn whoever_forges_a_device_has_its_rules_from_nowhere() {
    let mut followed = Followed::new(Mode::Enforce);
    followed.gateway.passes_out(&arp(PLC, HOME));
    followed.follow();
    let report = |mac, port| {
        let syn = FrameBuilder::new().macs(mac, ROUTER).vlan(30).ip(HOME, HMI);
        syn.tcp(port, 443, flag::SYN).build()
    };
    assert!(followed.gateway.passes_out(&report(PLC, 1)));
    assert!(!followed.gateway.passes_out(&report(FORGER, 2)), "another MAC address");
    assert!(!followed.gateway.passes_in(&report(PLC, 3)), "another side");
    let dropped = &followed.gateway.outside_counters().dropped;
    assert_eq!(dropped.of(DropReason::AddressSpoofed).packets.value(), 1);
}

#[test]
fn nobody_takes_over_the_flows_of_a_device_whose_address_he_forges() {
    let mut followed = Followed::new(Mode::Enforce);
    followed.gateway.passes_out(&arp(PLC, HOME));
    followed.follow();
    let log = |mac, from, port| {
        let frame = FrameBuilder::new().macs(mac, ROUTER).vlan(30).ip(from, HMI);
        frame.udp(port, 514).build()
    };
    assert!(followed.gateway.passes_out(&log(PLC, HOME, 1)));
    assert!(followed.gateway.passes_out(&log(FORGER, OTHER, 1)), "it may log as itself");
    assert!(!followed.gateway.passes_out(&log(FORGER, HOME, 2)), "not as another");
    assert!(!followed.gateway.passes_out(&log(FORGER, HOME, 1)), "nor in another's flow");
    assert!(followed.gateway.passes_out(&log(PLC, HOME, 1)));
    let dropped = &followed.gateway.inside_counters().dropped;
    assert_eq!(dropped.of(DropReason::AddressSpoofed).packets.value(), 2);
}

#[test]
fn who_used_an_address_before_its_device_was_known_stops_with_the_binding() {
    let mut followed = Followed::new(Mode::Enforce);
    let log = |mac, port| {
        let frame = FrameBuilder::new().macs(mac, ROUTER).vlan(30).ip(HOME, HMI);
        frame.udp(port, 514).build()
    };
    assert!(followed.gateway.passes_out(&log(FORGER, 1)), "nobody knows better");
    assert!(followed.gateway.passes_out(&log(PLC, 2)));
    assert!(followed.gateway.passes_out(&arp(PLC, HOME)));
    assert_eq!(followed.follow(), [Outcome::Bound]);
    assert!(!followed.gateway.passes_out(&log(FORGER, 1)), "its flow has ended");
    assert!(!followed.gateway.passes_out(&log(FORGER, 1)), "and it opens no other");
    assert!(followed.gateway.passes_out(&log(PLC, 2)));
    let dropped = &followed.gateway.inside_counters().dropped;
    assert_eq!(dropped.of(DropReason::AddressSpoofed).packets.value(), 2);
}

#[test]
fn an_observing_wire_forwards_what_contradicts_and_says_so() {
    let mut followed = Followed::new(Mode::Observe);
    followed.gateway.passes_out(&arp(PLC, HOME));
    followed.follow();
    assert!(followed.gateway.passes_in(&arp(FORGER, HOME)));
    let would_drop = &followed.gateway.outside_counters().would_drop;
    assert_eq!(would_drop.of(DropReason::AddressConflict).packets.value(), 1);
    assert!(matches!(followed.follow()[..], [Outcome::Conflict(_)]));
}

#[test]
fn addresses_of_hosts_that_no_rule_names_move_freely() {
    let mut followed = Followed::new(Mode::Enforce);
    // A cluster's active member announces its address, and the standby takes it over.
    assert!(followed.gateway.passes_out(&arp(ROUTER, OTHER)));
    assert!(followed.gateway.passes_out(&arp(PLC, HOME)));
    followed.follow();
    assert!(followed.gateway.passes_in(&arp(FORGER, OTHER)));
    assert!(followed.gateway.passes_out(&arp(FORGER, OTHER)));
    assert!(followed.follow().iter().all(|outcome| matches!(outcome, Outcome::Conflict(_))));
    assert!(!followed.gateway.passes_in(&arp(FORGER, HOME)), "but the device's does not");
}

#[test]
fn who_takes_an_address_before_its_device_does_not_cut_it_off() {
    let mut followed = Followed::new(Mode::Enforce);
    assert!(followed.gateway.passes_out(&arp(FORGER, HOME)));
    followed.follow();
    assert!(followed.gateway.passes_out(&arp(PLC, HOME)));
    assert!(matches!(followed.follow()[..], [Outcome::Conflict(_)]));
    assert!(!followed.reaches(HOME), "nor does anybody reach the other for it");
    let syn = FrameBuilder::new().macs(PLC, ROUTER).vlan(30).ip(HOME, HMI);
    assert!(followed.gateway.passes_out(&syn.tcp(1, 443, flag::SYN).build()));
}

#[test]
fn who_asks_whether_an_address_is_taken_is_heard_by_who_has_it() {
    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 7);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let neighbour = |mac, kind, from: Ipv6Addr, to: Ipv6Addr| {
        let frame = FrameBuilder::new().macs(mac, ROUTER).vlan(30).ip(from, to).hop_limit(255);
        frame.icmp(kind, 0, 0).payload(&ADDRESS.octets()).build()
    };
    let probe = |mac| neighbour(mac, 135, Ipv6Addr::UNSPECIFIED, solicited);
    let claim = |mac| neighbour(mac, 136, ADDRESS, all_nodes);
    let mut followed = Followed::new(Mode::Enforce);
    assert!(followed.gateway.passes_out(&probe(PLC)));
    assert_eq!(followed.follow(), [Outcome::Bound]);
    assert!(followed.gateway.passes_in(&probe(FORGER)), "it asks");
    assert!(matches!(followed.follow()[..], [Outcome::Conflict(_)]), "and people hear of it");
    assert!(followed.gateway.passes_out(&claim(PLC)), "the answer: it is taken");
    assert!(!followed.gateway.passes_in(&claim(FORGER)), "it says that it has it");
    assert!(followed.gateway.passes_in(&arp_probe(FORGER)));
}

/// RFC 5227: the sender has no address yet.
fn arp_probe(mac: Mac) -> Vec<u8> {
    let frame = FrameBuilder::new().macs(mac, Mac([0xff; 6])).vlan(30);
    frame.arp(1, Ipv4Addr::UNSPECIFIED, HOME).build()
}
