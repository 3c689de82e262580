//! The whole packet line between two in-memory hosts. Every test ends with exact accounting: the
//! harness asserts it.

use std::net::{IpAddr, Ipv4Addr};

use crate::common::{Gateway, content, received};
use bulkhead_pipeline::conntrack::{Phase, flag};
use bulkhead_pipeline::counters::PortCounters;
use bulkhead_pipeline::frames::{DEFAULT_DST_MAC, DEFAULT_SRC_MAC, FrameBuilder};
use bulkhead_pipeline::parse::parse;
use bulkhead_pipeline::snapshot::{Content, EditedContent, Mode, TcpPickup};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::classifier::Changes;
use bulkhead_rules::headers::{Mac, WireId};

const HMI: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 11);
const PLC: Ipv4Addr = Ipv4Addr::new(10, 30, 3, 11);

const PLANT: &str = "
version: 1
groups:
  hmi: [10.20.0.11]
  plc: [10.30.3.0/24]
rules:
  - {name: hmi-to-plc, from: hmi, to: plc, service: [tcp/502, udp/502, icmp/echo-request], action: allow}
  - {name: refuse-ssh, from: any, to: plc, service: [tcp/22, udp/22], action: reject}
  - {name: watch, from: any, to: plc, service: tcp/80, action: deny, log: true}
";

fn udp(src: impl Into<IpAddr>, sport: u16, dst: impl Into<IpAddr>, dport: u16) -> Vec<u8> {
    FrameBuilder::new().ip(src, dst).udp(sport, dport).payload(b"measured").build()
}

fn tcp(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    FrameBuilder::new().ip(HMI, PLC).tcp(40_000, 502, flags).seq(seq, ack).build()
}

fn tcp_back(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let builder = FrameBuilder::new().macs(DEFAULT_DST_MAC, DEFAULT_SRC_MAC);
    builder.ip(PLC, HMI).tcp(502, 40_000, flags).seq(seq, ack).build()
}

#[test]
fn a_rule_permits_the_side_that_opens_and_state_permits_the_replies() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let (there, back) = (udp(HMI, 40_000, PLC, 502), udp(PLC, 502, HMI, 40_000));
    assert!(!gateway.passes_in(&back), "nobody has opened this flow");
    assert!(gateway.passes_out(&there));
    assert!(gateway.passes_in(&back));
    assert!(!gateway.passes_in(&udp(PLC, 502, HMI, 40_001)), "another port is another flow");
    assert!(!gateway.passes_out(&udp(HMI, 40_000, PLC, 503)));
    assert_eq!(gateway.hits("hmi-to-plc"), 1, "one flow");
    assert_eq!(gateway.hits("default"), 3, "each denied packet");
    assert_eq!(gateway.dropped(DropReason::Policy), 1);
}

#[test]
fn tcp_opens_by_syn_only() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    assert!(!gateway.passes_out(&tcp(flag::ACK, 1, 1)));
    assert_eq!(gateway.dropped(DropReason::TcpNoFlow), 1);
    assert!(gateway.passes_out(&tcp(flag::SYN, 100, 0)));
    assert!(gateway.passes_in(&tcp_back(flag::SYN | flag::ACK, 900, 101)));
    assert!(gateway.passes_out(&tcp(flag::ACK, 101, 901)));
    assert!(!gateway.passes_in(&tcp_back(flag::SYN, 5, 0)), "the PLC may not open");
}

#[test]
fn in_the_grace_time_connections_are_adopted_in_the_permitted_direction() {
    let grace_ns = 1_000_000_000;
    let config = WorkerConfig::default();
    let mut gateway = Gateway::with(content(PLANT, Mode::Enforce, grace_ns), &config);
    assert!(gateway.passes_in(&tcp_back(flag::ACK, 900, 101)), "a reply came first");
    assert!(gateway.passes_out(&tcp(flag::ACK, 101, 900)));
    let wrong_way = FrameBuilder::new().ip(HMI, PLC).tcp(502, 40_000, flag::ACK).seq(1, 1).build();
    assert!(!gateway.passes_out(&wrong_way), "neither direction of this one is permitted");
    assert_eq!(gateway.dropped(DropReason::Policy), 1);
    gateway.wait_ms(1000);
    let late = FrameBuilder::new().ip(HMI, PLC).tcp(40_001, 502, flag::ACK).seq(1, 1).build();
    assert!(!gateway.passes_out(&late));
    assert_eq!(gateway.dropped(DropReason::TcpNoFlow), 1);
    assert!(gateway.passes_out(&tcp(flag::ACK, 101, 900)), "what was adopted lives on");
}

#[test]
fn a_strict_wire_adopts_nothing_and_says_so_while_it_observes() {
    for mode in [Mode::Observe, Mode::Enforce] {
        let mut strict = content(PLANT, mode, u64::MAX);
        strict.wires[0].tcp = TcpPickup::Strict;
        let mut gateway = Gateway::with(strict, &WorkerConfig::default());
        let observes = mode == Mode::Observe;
        assert_eq!(gateway.passes_out(&tcp(flag::ACK, 101, 900)), observes);
        assert_eq!(gateway.dropped(DropReason::TcpNoFlow), u64::from(!observes));
        let would_drop = gateway.inside_counters().would_drop.of(DropReason::TcpNoFlow);
        assert_eq!(would_drop.packets.value(), u64::from(observes));
        assert_eq!(gateway.worker.counters().flow_adopted.value(), 0);
        assert!(gateway.passes_out(&tcp(flag::SYN, 100, 0)), "a handshake opens as ever");
    }
}

#[test]
fn observing_forwards_everything_and_says_what_it_would_have_dropped() {
    let mut gateway = Gateway::new(PLANT, Mode::Observe);
    let mut malformed = udp(HMI, 1, PLC, 502);
    malformed[14] = 0x55; // IP version 5.
    let frames = vec![
        udp(HMI, 40_000, PLC, 502),
        udp(HMI, 40_000, PLC, 503),
        udp(HMI, 40_000, PLC, 22),
        malformed,
        FrameBuilder::new().ether_type(0x1234).payload(b"?").build(),
    ];
    assert!(gateway.outward(&frames) == frames);
    assert!(received(&gateway.inside).is_empty(), "an observing wire answers nobody");
    let would_drop = &gateway.inside_counters().would_drop;
    assert_eq!(would_drop.of(DropReason::Policy).packets.value(), 3);
    assert_eq!(would_drop.of(DropReason::Ipv4Version).packets.value(), 1);
    assert_eq!(gateway.inside_counters().dropped.packets(), 0);
    assert_eq!(gateway.hits("refuse-ssh"), 1);
}

#[test]
fn pause_never_crosses_and_link_control_always_does() {
    let pause = {
        let to = Mac([1, 0x80, 0xc2, 0, 0, 1]);
        FrameBuilder::new().macs(DEFAULT_SRC_MAC, to).ether_type(0x8808).payload(&[0, 1]).build()
    };
    let lldp = {
        let to = Mac([1, 0x80, 0xc2, 0, 0, 14]);
        FrameBuilder::new().macs(DEFAULT_SRC_MAC, to).ether_type(0x88cc).payload(&[2, 4]).build()
    };
    for mode in [Mode::Observe, Mode::Enforce] {
        let mut gateway = Gateway::new(PLANT, mode);
        assert!(!gateway.passes_out(&pause));
        assert!(gateway.passes_out(&lldp));
        assert_eq!(gateway.dropped(DropReason::Pause), 1);
    }
}

#[test]
fn a_flow_that_the_new_policy_forbids_ends_at_its_next_packet() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let (there, back) = (udp(HMI, 40_000, PLC, 502), udp(PLC, 502, HMI, 40_000));
    let kept = udp(HMI, 40_001, PLC, 502);
    assert!(gateway.passes_out(&there) && gateway.passes_in(&back) && gateway.passes_out(&kept));
    let narrower = PLANT.replace(
        "rules:",
        "rules:\n  - {name: stop, from: hmi, to: plc, service: {udp: 502, from-port: 40000}, action: deny}",
    );
    gateway.publisher.publish(content(&narrower, Mode::Enforce, 0));
    assert!(!gateway.passes_in(&back), "the reply, too, is judged by the side that opened");
    assert!(!gateway.passes_out(&there));
    assert!(gateway.passes_out(&kept));
    let counters = gateway.worker.counters();
    assert_eq!(counters.flow_revoked.value(), 1);
    assert_eq!(counters.flow_reclassified.value(), 2);
    let revoked = gateway.outside_counters().dropped.of(DropReason::Revoked);
    assert_eq!(revoked.packets.value(), 1);
}

#[test]
fn rules_start_and_expire_in_the_worker() {
    // The tests' clock reads 06:00:00 at zero.
    let text = "
version: 1
rules:
  - {name: freeze, from: any, to: any, service: udp/502, action: deny, starts: 2026-11-24T06:00:20Z, expires: 2026-11-24T06:00:30Z}
  - {name: visit, from: any, to: any, service: udp/502, action: allow, expires: 2026-11-24T06:00:40Z}
";
    let mut gateway = Gateway::new(text, Mode::Enforce);
    let frame = udp(HMI, 40_000, PLC, 502);
    let mut passes_at_s = |second: u64| {
        gateway.clock.advance_to(second * 1_000_000_000);
        gateway.passes_out(&frame)
    };
    assert!(passes_at_s(0));
    assert!(passes_at_s(19));
    assert!(!passes_at_s(20), "a deny that starts ends the flow of an allow below it");
    assert!(!passes_at_s(29));
    assert!(passes_at_s(30));
    assert!(passes_at_s(39));
    assert!(!passes_at_s(40));
}

#[test]
fn a_timed_allow_needs_a_synchronised_clock() {
    let text = "
version: 1
rules:
  - {name: visit, from: any, to: any, service: udp/502, action: allow, expires: 2027-01-01T00:00:00Z}
";
    let mut published = content(text, Mode::Enforce, 0);
    published.clock.synchronised = false;
    let mut gateway = Gateway::with(published, &WorkerConfig::default());
    let frame = udp(HMI, 40_000, PLC, 502);
    assert!(!gateway.passes_out(&frame));
    gateway.publisher.publish(content(text, Mode::Enforce, 0));
    assert!(gateway.passes_out(&frame));
}

#[test]
fn reject_answers_as_the_denied_host_would_and_not_too_often() {
    let config = WorkerConfig { rejects_per_second: 2, ..WorkerConfig::default() };
    let mut gateway = Gateway::with(content(PLANT, Mode::Enforce, 0), &config);
    let syn = FrameBuilder::new().ip(HMI, PLC).tcp(40_000, 22, flag::SYN).seq(7, 0).build();
    assert!(!gateway.passes_out(&syn));
    let answers = received(&gateway.inside);
    assert_eq!(answers.len(), 1);
    let answer = parse(&answers[0], WireId(0)).expect("a well-formed answer");
    assert_eq!(answer.headers.src, u128::from(u32::from(PLC)));
    assert_eq!((answer.headers.src_port, answer.headers.dst_port), (22, 40_000));
    assert_eq!(answer.tcp.flags & flag::RST, flag::RST);
    assert_eq!(answer.tcp.ack, 8);
    assert!(!gateway.passes_out(&udp(HMI, 1, PLC, 22)));
    assert_eq!(received(&gateway.inside).len(), 1, "port unreachable");
    assert!(!gateway.passes_out(&syn));
    assert!(received(&gateway.inside).is_empty(), "two a second are enough");
    assert_eq!(gateway.inside_counters().originated.packets.value(), 2);
    assert_eq!(gateway.inside_counters().answers_suppressed.value(), 1);
    assert_eq!(gateway.inside_counters().rejected.packets.value(), 3);
    gateway.wait_ms(1000);
    assert!(!gateway.passes_out(&syn));
    assert_eq!(received(&gateway.inside).len(), 1);
}

#[test]
fn a_port_that_cannot_send_holds_then_drops_and_counts() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let frame = udp(HMI, 40_000, PLC, 502);
    gateway.outside.refuse_transmit(true);
    assert!(!gateway.passes_out(&frame));
    assert_eq!(gateway.worker.counters().balance().held, 1);
    gateway.inside.send(&frame).expect("room");
    gateway.worker.poll();
    assert_eq!(gateway.inside.pending(), 1, "nothing is taken for a port that cannot send");
    gateway.outside.refuse_transmit(false);
    gateway.worker.poll();
    gateway.worker.poll();
    assert_eq!(received(&gateway.outside).len(), 2, "what was held goes out in order");

    gateway.outside.refuse_transmit(true);
    assert!(!gateway.passes_out(&frame));
    gateway.wait_ms(10);
    gateway.worker.poll();
    let dropped = &gateway.outside_counters().dropped;
    assert_eq!(dropped.of(DropReason::TransmitFull).packets.value(), 1);

    gateway.worker.counters().wires[0].outside_link.set(false);
    assert!(!gateway.passes_out(&frame));
    let dropped = &gateway.outside_counters().dropped;
    assert_eq!(dropped.of(DropReason::LinkDown).packets.value(), 1);
    gateway.worker.counters().wires[0].outside_link.set(true);
    assert!(!gateway.passes_out(&frame), "it still refuses");
    gateway.worker.shut_down();
    let dropped = &gateway.outside_counters().dropped;
    assert_eq!(dropped.of(DropReason::Shutdown).packets.value(), 1);
}

#[test]
fn what_a_worker_transmits_is_what_its_port_can_send() {
    let mut gateway = Gateway::new(PLANT, Mode::Observe);
    let longest = FrameBuilder::new().ether_type(0x1234).payload_len(1522 - 14).build();
    assert!(gateway.passes_out(&longest));
}

#[test]
fn a_spoofed_mac_neither_passes_nor_ends_the_flow() {
    let text = "
version: 1
devices:
  hmi: {mac: \"02:00:00:00:00:01\", ip: 10.20.0.11}
rules:
  - {name: hmi, from: hmi, to: any, service: udp/502, action: allow}
";
    let mut gateway = Gateway::new(text, Mode::Enforce);
    let from = |mac: Mac| {
        let builder = FrameBuilder::new().macs(mac, DEFAULT_DST_MAC);
        builder.ip(HMI, PLC).udp(40_000, 502).build()
    };
    let (right, wrong) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    assert!(!gateway.passes_out(&from(wrong)));
    assert!(gateway.passes_out(&from(right)));
    assert!(!gateway.passes_out(&from(wrong)));
    assert!(gateway.passes_out(&from(right)));
    assert_eq!(gateway.dropped(DropReason::Policy), 2);
}

#[test]
fn a_segment_that_is_dropped_does_not_move_the_flow_to_its_mac() {
    let policy = |second: &str| {
        format!(
            "version: 1\ndevices:\n  hmi: {{mac: \"{DEFAULT_SRC_MAC}\"}}\nrules:\n  \
             - {{name: own, from: hmi, to: any, service: tcp/502, action: allow}}\n  \
             - {{name: rest, from: any, to: any, service: tcp/502, action: {second}}}\n"
        )
    };
    let mut gateway = Gateway::new(&policy("allow"), Mode::Enforce);
    assert!(gateway.passes_out(&tcp(flag::SYN, 99, 0)));
    assert!(gateway.passes_in(&tcp_back(flag::SYN | flag::ACK, 499, 100)));
    assert!(gateway.passes_out(&tcp(flag::ACK, 100, 500)));
    // Another host, which may open connections too, writes into this one, and misses the window.
    let blind = FrameBuilder::new().macs(Mac([2, 0, 0, 0, 0, 9]), DEFAULT_DST_MAC).ip(HMI, PLC);
    let blind = blind.tcp(40_000, 502, flag::ACK).seq(1 << 30, 500).payload(b"x").build();
    assert!(!gateway.passes_out(&blind));
    assert_eq!(gateway.dropped(DropReason::TcpWindow), 1);
    gateway.publisher.publish(content(&policy("deny"), Mode::Enforce, 0));
    assert!(gateway.passes_out(&tcp(flag::ACK, 100, 500)), "the flow is still its own");
}

#[test]
fn a_forbidden_syn_does_not_end_what_is_left_of_a_connection() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    assert!(gateway.passes_out(&tcp(flag::SYN, 99, 0)));
    assert!(gateway.passes_in(&tcp_back(flag::SYN | flag::ACK, 499, 100)));
    assert!(gateway.passes_out(&tcp(flag::ACK, 100, 500)));
    assert!(gateway.passes_out(&tcp(flag::FIN | flag::ACK, 100, 500)));
    assert!(gateway.passes_in(&tcp_back(flag::FIN | flag::ACK, 500, 101)));
    assert!(gateway.passes_out(&tcp(flag::ACK, 101, 501)));
    assert!(!gateway.passes_in(&tcp_back(flag::SYN, 9_000_000, 0)), "nothing permits this way");
    assert!(gateway.passes_in(&tcp_back(flag::FIN | flag::ACK, 500, 101)), "the last ACK was lost");
    assert!(gateway.passes_out(&tcp(flag::ACK, 101, 501)));
}

#[test]
fn an_icmp_error_belongs_to_the_flow_that_it_quotes() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let there = udp(HMI, 40_000, PLC, 502);
    let router = Ipv4Addr::new(10, 1, 1, 1);
    let error_to = |host: Ipv4Addr| {
        let quote = &there[14..14 + 28];
        FrameBuilder::new().ip(router, host).icmp(3, 1, 0).payload(quote).build()
    };
    assert!(!gateway.passes_in(&error_to(HMI)), "no flow yet");
    assert!(gateway.passes_out(&there));
    assert!(gateway.passes_in(&error_to(HMI)), "any router may report");
    assert!(!gateway.passes_in(&error_to(PLC)), "but only to the sender of what it quotes");
}

#[test]
fn fragments_follow_their_first_one() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let permitted = FrameBuilder::new().ip(HMI, PLC).udp(1, 502).payload_len(3000);
    let fragments = permitted.build_fragments(7, 1480);
    assert!(gateway.outward(&fragments) == fragments, "all of them, unchanged");
    let denied = FrameBuilder::new().ip(HMI, PLC).udp(1, 503).payload_len(3000);
    let fragments = denied.build_fragments(8, 1480);
    assert!(gateway.outward(&fragments).is_empty());
    assert_eq!(gateway.dropped(DropReason::Policy), 1);
    assert_eq!(gateway.dropped(DropReason::FragmentOrphan), fragments.len() as u64 - 1);
}

#[test]
fn later_fragments_end_with_their_flow() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let fragments =
        FrameBuilder::new().ip(HMI, PLC).udp(1, 502).payload_len(3000).build_fragments(7, 1480);
    assert!(gateway.passes_out(&fragments[0]) && gateway.passes_out(&fragments[1]));
    // A copy, which might differ from what passed, does not pass, and nothing comes of it.
    assert!(!gateway.passes_out(&fragments[1]));
    assert_eq!(gateway.dropped(DropReason::FragmentDuplicate), 1);
    let narrower = PLANT.replace("tcp/502, udp/502", "tcp/502");
    gateway.publisher.publish(content(&narrower, Mode::Enforce, 0));
    assert!(!gateway.passes_out(&fragments[2]));
    assert_eq!(gateway.dropped(DropReason::Revoked), 1);
}

#[test]
fn a_fragmented_segment_is_acknowledged_in_full() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    assert!(gateway.passes_out(&tcp(flag::SYN, 1, 0)));
    assert!(gateway.passes_in(&tcp_back(flag::SYN | flag::ACK, 7, 2)));
    let segment = FrameBuilder::new().ip(HMI, PLC).tcp(40_000, 502, flag::ACK).seq(2, 8);
    let fragments = segment.payload_len(4000).build_fragments(9, 1480);
    assert!(gateway.outward(&fragments) == fragments);
    assert!(gateway.passes_in(&tcp_back(flag::ACK, 8, 4002)));
    assert!(!gateway.passes_in(&tcp_back(flag::ACK, 8, 4_000_000)), "never sent");
    let out_of_window = gateway.outside_counters().dropped.of(DropReason::TcpWindow);
    assert_eq!(out_of_window.packets.value(), 1);
}

#[test]
fn a_packet_of_one_burst_can_change_what_the_next_one_meets() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let frames = vec![
        tcp(flag::SYN, 100, 0),
        tcp(flag::SYN, 100, 0),
        udp(HMI, 40_000, PLC, 502),
        udp(HMI, 40_000, PLC, 502),
    ];
    assert!(gateway.outward(&frames) == frames);
    assert_eq!(gateway.worker.counters().flow_inserts.value(), 2);
    // A reset and a new connection in one burst.
    let frames = vec![tcp(flag::RST, 101, 0), tcp(flag::SYN, 5000, 0), udp(HMI, 40_000, PLC, 502)];
    assert!(gateway.outward(&frames) == frames);
    assert_eq!(gateway.worker.counters().flow_inserts.value(), 3);
}

#[test]
fn verdicts_of_a_logging_rule_reach_the_control_thread_or_are_counted_as_lost() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let syn = FrameBuilder::new().ip(HMI, PLC).tcp(40_000, 80, flag::SYN).build();
    for _ in 0..70 {
        assert!(!gateway.passes_out(&syn));
    }
    let events: Vec<_> = std::iter::from_fn(|| gateway.observer.event()).collect();
    assert_eq!(events.len(), 64, "the ring's size");
    assert!(events[0].from_inside && events[0].enforced);
    assert_eq!(events[0].headers.dst_port, 80);
    assert_eq!(gateway.worker.counters().events_lost.value(), 6);
}

#[test]
fn no_snapshot_is_freed_on_a_worker() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let old = std::sync::Arc::downgrade(gateway.publisher.current());
    gateway.publisher.publish(content(PLANT, Mode::Enforce, 0));
    assert_eq!(gateway.publisher.collect(), 0, "the worker may still read it");
    gateway.worker.poll();
    assert!(old.upgrade().is_some(), "passing it on the worker must not free it");
    assert_eq!(gateway.publisher.collect(), 1);
    assert!(old.upgrade().is_none(), "the control thread frees it");

    let first = std::sync::Arc::downgrade(gateway.publisher.current());
    for _ in 0..3 {
        let Content { policy, classifier, .. } = gateway.publisher.current().content.clone();
        gateway.publisher.publish_edit(EditedContent {
            policy,
            classifier,
            changes: Changes::Everything,
            rules_added: Vec::new(),
            rules_removed: Vec::new(),
        });
    }
    assert_eq!(gateway.publisher.collect(), 0, "the worker may still read what was edited");
    gateway.worker.poll();
    assert!(first.upgrade().is_some(), "nor does passing edits free anything");
    assert_eq!(gateway.publisher.collect(), 3);
    assert!(first.upgrade().is_none());
}

#[test]
fn hits_survive_a_reload_and_go_with_their_rule() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    gateway.passes_out(&udp(HMI, 40_000, PLC, 502));
    gateway.publisher.publish(content(PLANT, Mode::Enforce, 0));
    gateway.passes_out(&udp(HMI, 40_001, PLC, 502));
    gateway.publisher.collect();
    assert_eq!(gateway.hits("hmi-to-plc"), 2);
}

#[test]
fn a_slow_transmit_queue_is_not_a_stuck_one() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let frame = udp(HMI, 40_000, PLC, 502);
    let mut sent = 0;
    while gateway.worker.counters().balance().held == 0 {
        gateway.inside.send(&frame).expect("room");
        sent += 1;
        gateway.worker.poll();
    }
    let mut taken = 0;
    for _ in 0..20 {
        // Twice the patience in all, but something moves in each of its halves.
        gateway.wait_ms(1);
        taken += usize::from(gateway.outside.receive().is_some());
        gateway.inside.send(&frame).expect("room");
        sent += 1;
        gateway.worker.poll();
    }
    assert_eq!(gateway.outside_counters().dropped.packets(), 0);
    while gateway.worker.counters().balance().held > 0 || gateway.inside.pending() > 0 {
        taken += received(&gateway.outside).len();
        gateway.worker.poll();
    }
    taken += received(&gateway.outside).len();
    assert_eq!(taken, sent);
}

#[test]
fn an_icmp_redirect_needs_a_rule_and_is_answered_by_none() {
    let text = "
version: 1
rules:
  - {name: work, from: 10.20.0.11, to: any, service: udp/502, action: allow}
  - {name: rest, from: any, to: any, service: any, action: reject}
";
    let mut gateway = Gateway::new(text, Mode::Enforce);
    let there = udp(HMI, 40_000, PLC, 502);
    assert!(gateway.passes_out(&there));
    let redirect =
        FrameBuilder::new().ip(PLC, HMI).icmp(5, 1, 0x0a14_0063).payload(&there[14..42]).build();
    assert!(!gateway.passes_in(&redirect), "it quotes a live flow, but steers its sender");
    assert!(received(&gateway.outside).is_empty(), "RFC 1122 section 3.2.2");
}

#[test]
fn what_became_of_fragmented_packets_and_silent_flows_is_published() {
    let mut gateway = Gateway::new(PLANT, Mode::Enforce);
    let packet = FrameBuilder::new().ip(HMI, PLC).udp(1, 502).payload_len(3000);
    let whole = packet.build_fragments(7, 1480);
    assert!(gateway.outward(&whole) == whole);
    assert!(gateway.passes_out(&packet.build_fragments(8, 1480)[0]));
    let counters = gateway.worker.counters().clone();
    let fragments = &counters.fragments;
    assert_eq!((fragments.started.value(), fragments.completed.value()), (2, 1));
    assert_eq!(fragments.followed.value(), 1);
    assert!(fragments.capacity.value() >= 4096);
    // Ageing passes both tables a little with each loop.
    for _ in 0..20_000 {
        gateway.wait_ms(5);
        gateway.worker.poll();
    }
    assert_eq!((fragments.expired.value(), fragments.followed.value()), (1, 0));
    let expired: Vec<_> = counters.flow_expired.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(expired, [(Phase::UdpUnanswered, 1)], "nobody answered the datagrams");
    assert_eq!(counters.flow_expired.total(), 1);
}

#[test]
fn a_source_that_opens_too_many_flows_keeps_those_it_has_and_harms_no_other() {
    let policy = "
version: 1
rules:
  - {name: open, from: any, to: any, service: udp, action: allow}
  - {name: never, from: any, to: any, service: tcp, action: reject}
";
    let config = WorkerConfig { new_flows_per_source: 100, ..WorkerConfig::default() };
    let mut gateway = Gateway::with(content(policy, Mode::Enforce, 0), &config);
    let flow = |port| udp(HMI, port, PLC, 502);
    let passed = (1..=300).filter(|&port| gateway.passes_out(&flow(port))).count();
    assert_eq!(passed, 200, "two seconds' worth");
    assert_eq!(gateway.dropped(DropReason::NewFlowRate), 100);
    assert_eq!(gateway.hits("open"), 200, "the classifier is not asked any more");
    for port in 1..=200 {
        assert!(gateway.passes_out(&flow(port)), "what is open goes on");
    }
    let other = Ipv4Addr::new(10, 20, 0, 12);
    assert!(gateway.passes_out(&udp(other, 1, PLC, 502)));
    assert!(gateway.passes_in(&udp(HMI, 999, PLC, 502)), "whoever forges its address outside");
    gateway.wait_ms(1000);
    let passed = (301..=600).filter(|&port| gateway.passes_out(&flow(port))).count();
    assert_eq!(passed, 100);

    let syn = |port| FrameBuilder::new().ip(other, PLC).tcp(port, 502, flag::SYN).build();
    gateway.wait_ms(5000);
    // Until less than a whole token is left.
    let denied = 199 * 16 + 1;
    for port in 1..=denied + 500 {
        assert!(!gateway.passes_out(&syn(port)));
    }
    assert_eq!(gateway.hits("never"), u64::from(denied));
    assert!(!gateway.passes_out(&udp(other, 2, PLC, 502)), "a flood has spent it, too");
    assert!(gateway.passes_out(&udp(other, 1, PLC, 502)));
}

#[test]
fn nobody_rides_a_flow_that_rests_on_macs_from_the_other_side_of_the_wire() {
    let (hmi, plc, router) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]), Mac([2; 6]));
    let text =
        PLANT.replace("hmi: [10.20.0.11]", "hmi: ['02:00:00:00:00:01', '02:02:02:02:02:02']");
    for fixed_sides in [true, false] {
        let mut content = content(&text, Mode::Enforce, 0);
        content.wires[0].fixed_sides = fixed_sides;
        let mut gateway = Gateway::with(content, &WorkerConfig::default());
        let frame = |macs: (Mac, Mac)| FrameBuilder::new().macs(macs.0, macs.1);
        let there = |macs, port| frame(macs).ip(HMI, PLC).udp(port, 502).build();
        let back = |macs, port| frame(macs).ip(PLC, HMI).udp(502, port).build();
        assert!(gateway.passes_out(&there((hmi, plc), 1)));
        assert!(gateway.passes_in(&back((plc, hmi), 1)));
        // With all that is right but where they come from.
        assert_eq!(gateway.passes_in(&there((hmi, plc), 1)), !fixed_sides);
        assert_eq!(gateway.passes_out(&back((plc, hmi), 1)), !fixed_sides);
        assert!(
            gateway.passes_out(&there((hmi, plc), 1)) && gateway.passes_in(&back((plc, hmi), 1))
        );
        // Segments likewise, and later fragments.
        let syn = frame((hmi, plc)).ip(HMI, PLC).tcp(40_001, 502, flag::SYN).build();
        assert!(gateway.passes_out(&syn) && gateway.passes_in(&syn) != fixed_sides);
        let big = frame((hmi, plc)).ip(HMI, PLC).udp(1, 502).payload_len(2000);
        let parts = big.build_fragments(7, 1000);
        assert!(gateway.passes_out(&parts[0]) && gateway.passes_in(&parts[1]) != fixed_sides);
        let wire = &gateway.worker.counters().wires[0];
        let of_side = |side: &PortCounters| side.dropped.of(DropReason::FlowSide).packets.value();
        let expected = if fixed_sides { (1, 3) } else { (0, 0) };
        assert_eq!((of_side(&wire.inside), of_side(&wire.outside)), expected);
        // A router sends back by the same wire, with its own address.
        assert!(gateway.passes_out(&there((hmi, router), 2)));
        for _ in 0..2 {
            assert!(gateway.passes_in(&there((router, plc), 2)));
            assert!(gateway.passes_out(&back((plc, router), 2)));
            assert!(gateway.passes_in(&back((router, hmi), 2)));
            assert!(gateway.passes_out(&there((hmi, router), 2)));
        }
    }
}
