//! A quarantine holds on a wire that observes, whatever else is wrong with a frame.

use std::net::Ipv4Addr;

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::frames::{DEFAULT_SRC_MAC, FrameBuilder};
use bulkhead_pipeline::snapshot::{Content, Mode, TcpPickup, WirePolicy};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::headers::Mac;

use crate::common::{Gateway, content};

const SICK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
const SOUND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const RULES: &str = "
  - {name: web, from: any, to: any, service: [tcp/80, udp/80], action: allow}
";
/// What a quarantine of one host adds, with one service that is left to it.
const QUARANTINE: &str = "
  - {name: left, from: 10.0.0.66, to: any, service: tcp/443, action: allow}
  - {name: from, from: 10.0.0.66, to: any, service: any, action: deny}
  - {name: to, from: any, to: 10.0.0.66, service: any, action: deny}
";

/// An observing wire with `rules`, of which so many are a quarantine's.
fn observing(quarantine: &str, quarantine_rules: u32) -> Content {
    let text = format!("version: 1\nrules:{quarantine}{RULES}");
    let tcp = TcpPickup::Strict;
    let wire = WirePolicy { quarantine_rules, tcp, ..WirePolicy::new(Mode::Observe, 0) };
    Content { wires: vec![wire], ..content(&text, Mode::Observe, 0) }
}

fn quarantining() -> Gateway {
    Gateway::with(observing(QUARANTINE, 3), &WorkerConfig::default())
}

fn segment(from: Ipv4Addr, to: Ipv4Addr, ports: [u16; 2], flags: u8) -> FrameBuilder {
    FrameBuilder::new().ip(from, to).tcp(ports[0], ports[1], flags).seq(101, 901).payload_len(20)
}

fn offer(from: Ipv4Addr) -> Vec<u8> {
    let broadcast = FrameBuilder::new().macs(DEFAULT_SRC_MAC, Mac([0xff; 6]));
    broadcast.ip(from, Ipv4Addr::BROADCAST).udp(67, 68).payload_len(240).build()
}

/// The same of either host; only that of the sound one passes, as what the wire would drop for `reason`.
fn holds_the_sick_only(gateway: &mut Gateway, sick: &[u8], sound: &[u8], reason: DropReason) {
    let held = gateway.dropped(DropReason::Quarantine);
    assert!(!gateway.passes_out(sick), "{reason:?}");
    assert_eq!(gateway.dropped(DropReason::Quarantine), held + 1, "{reason:?}");
    assert!(gateway.passes_out(sound), "{reason:?}");
    let would_drop = gateway.inside_counters().would_drop.of(reason);
    assert_eq!(would_drop.packets.value(), 1, "{reason:?}");
}

#[test]
fn what_no_rule_is_asked_about_is_held_as_well() {
    let of_each = |frame: &dyn Fn(Ipv4Addr) -> Vec<u8>| [frame(SICK), frame(SOUND)];
    let cases = [
        (DropReason::DhcpServerSide, of_each(&offer)),
        (
            DropReason::TcpNoFlow,
            of_each(&|from| segment(from, PEER, [1000, 80], flag::ACK).build()),
        ),
        (
            DropReason::FragmentOrphan,
            of_each(&|from| {
                let whole = FrameBuilder::new().ip(from, PEER).udp(1, 80).payload_len(2000);
                whole.build_fragments(7, 1400).remove(1)
            }),
        ),
        (
            DropReason::IcmpNoFlow,
            of_each(&|from| FrameBuilder::new().ip(from, PEER).icmp(0, 0, 7).build()),
        ),
        // What the parser drops, too, as far as it has read.
        (
            DropReason::UdpPort,
            of_each(&|from| FrameBuilder::new().ip(from, PEER).udp(1, 0).build()),
        ),
    ];
    for (reason, [sick, sound]) in cases {
        holds_the_sick_only(&mut quarantining(), &sick, &sound, reason);
        // Without a quarantine the wire observes.
        let mut gateway = Gateway::with(observing("", 0), &WorkerConfig::default());
        assert!(gateway.passes_out(&sick) && gateway.passes_out(&sound), "{reason:?}");
    }
}

#[test]
fn a_live_connection_and_a_packet_under_way_end_with_a_quarantine() {
    let mut gateway = Gateway::with(observing("", 0), &WorkerConfig::default());
    let syn = FrameBuilder::new().ip(SICK, PEER).tcp(1000, 80, flag::SYN).seq(100, 0).build();
    assert!(gateway.passes_out(&syn));
    let packet = FrameBuilder::new().ip(SICK, PEER).udp(1, 80).payload_len(4000);
    let fragments = packet.build_fragments(9, 1400);
    assert!(gateway.passes_out(&fragments[0]) && gateway.passes_out(&fragments[1]));
    gateway.publisher.publish(observing(QUARANTINE, 3));
    assert!(!gateway.passes_out(&fragments[2]));
    // The first one ends the flow; for those after it there is none.
    let next = segment(SICK, PEER, [1000, 80], flag::ACK).build();
    for _ in 0..3 {
        assert!(!gateway.passes_out(&next));
    }
    let back = segment(PEER, SICK, [80, 1000], flag::ACK).build();
    assert!(!gateway.passes_in(&back));
    assert_eq!(gateway.dropped(DropReason::Quarantine), 4);
    assert_eq!(gateway.hits("from"), 4);
}

#[test]
fn a_sender_that_floods_is_not_let_out_by_its_own_budget() {
    let config = WorkerConfig { new_flows_per_source: 1, ..WorkerConfig::default() };
    let mut gateway = Gateway::with(observing(QUARANTINE, 3), &config);
    let datagram =
        |port: u16| FrameBuilder::new().ip(SICK, PEER).udp(port, 80).payload_len(9).build();
    let flood: Vec<Vec<u8>> = (1000..3000).map(datagram).collect();
    for some in flood.chunks(64) {
        assert_eq!(gateway.outward(some).len(), 0);
    }
    assert_eq!(gateway.dropped(DropReason::Quarantine), flood.len() as u64);
}

#[test]
fn what_a_quarantine_leaves_to_its_device_is_observed_like_the_rest() {
    let mut gateway = quarantining();
    let sent = segment(SICK, PEER, [1000, 443], flag::ACK).build();
    let answer = segment(PEER, SICK, [443, 1000], flag::ACK).build();
    assert!(gateway.passes_out(&sent) && gateway.passes_in(&answer));
    assert_eq!(gateway.dropped(DropReason::Quarantine), 0);
    let would_drop = gateway.inside_counters().would_drop.of(DropReason::TcpNoFlow);
    assert_eq!(would_drop.packets.value(), 1);
}
