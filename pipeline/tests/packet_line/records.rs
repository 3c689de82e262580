//! Flow records: nothing that a worker counts is missing in them, or counted as lost.

use std::collections::HashMap;

use bulkhead_pipeline::conntrack::Timeouts;
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
use bulkhead_pipeline::record::{
    CopyKind, Ending, Event, FlowRecord, RecordConfig, RecordSource, channel, is_denial,
};
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_pipeline::verdict::Verdict;
use bulkhead_pipeline::worker::WorkerConfig;
use proptest::prelude::*;

use crate::common::{Gateway, content};

const POLICY: &str = "
version: 1
rules:
  - {name: web, from: 10.0.0.0/30, to: 10.1.0.0/16, service: [tcp/80, udp/53], action: allow}
  - {name: back, from: 10.1.0.0/31, to: 10.0.0.0/16, service: [udp/5000-5001], action: allow}
  - {name: ping, from: any, to: any, service: icmp/echo-request, action: allow}
  - {name: rude, from: any, to: any, service: tcp/22, action: reject}
";

/// Another policy, under which some flows of the first are forbidden and others are not.
const OTHER: &str = "
version: 1
rules:
  - {name: dns, from: 10.0.0.0/31, to: any, service: udp/53, action: allow}
";

/// One packet, or what happens between two.
#[derive(Clone, Debug)]
enum Step {
    Packet { outward: bool, hosts: (u8, u8), kind: u8, port: u16, flags: u8, payload: usize },
    Wait { ms: u64 },
    Reload { other: bool, enforce: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let packet = (any::<bool>(), (0..6_u8, 0..4_u8), 0..5_u8, 0..3_u16, 0..6_u8, 0..40_usize)
        .prop_map(|(outward, hosts, kind, port, flags, payload)| Step::Packet {
            outward,
            hosts,
            kind,
            port,
            flags,
            payload,
        });
    prop_oneof![
        40 => packet,
        3 => (0..40_000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(other, enforce)| Step::Reload { other, enforce }),
    ]
}

fn frame(step: &Step) -> Option<(bool, Vec<u8>)> {
    let Step::Packet { outward, hosts, kind, port, flags, payload } = *step else { return None };
    let (a, b) = ([10, 0, 0, hosts.0], [10, 1, 0, hosts.1]);
    let client = 5000 + port;
    let (src, dst) = if outward { (a, b) } else { (b, a) };
    let builder = FrameBuilder::new().ip(src, dst);
    let ports = |server: u16| if outward { (client, server) } else { (server, client) };
    let builder = match kind {
        0 | 1 => {
            let flags = [
                tcp_flags::SYN,
                tcp_flags::SYN | tcp_flags::ACK,
                tcp_flags::ACK,
                tcp_flags::RST,
                tcp_flags::FIN | tcp_flags::ACK,
                tcp_flags::ACK,
            ][usize::from(flags)];
            let (src, dst) = ports(if kind == 0 { 80 } else { 22 });
            builder.tcp(src, dst, flags).seq(u32::from(flags), 3)
        }
        2 | 3 => {
            let (src, dst) = ports(if kind == 2 { 53 } else { 161 });
            builder.udp(src, dst)
        }
        _ if outward => builder.echo_request(client, 1),
        _ => builder.echo_reply(client, 1),
    };
    Some((outward, builder.payload_len(payload).build()))
}

fn recording(mode: Mode, ring: usize) -> (Gateway, RecordSource) {
    let config = WorkerConfig {
        flows: FlowTableConfig {
            capacity: 64,
            timeouts: Timeouts { udp_unanswered_s: 5, tcp_syn_sent_s: 5, ..Timeouts::default() },
            per_source_limit: 6,
            seed: Some([1, 2, 3, 4]),
        },
        new_flows_per_source: 8,
        ..WorkerConfig::default()
    };
    let records = RecordConfig { ring, interval_s: 10, ..RecordConfig::default() };
    let (records, source) = channel(&records);
    let gateway = Gateway::with_records(content(POLICY, mode, 0), &config, records);
    (gateway, source)
}

/// Packets and bytes of all frames that came, and of those that no flow is told of: neither forwarded
/// by a flow nor denied for a reason that is told.
fn counted(gateway: &Gateway) -> ([u64; 2], u64) {
    let (mut received, mut untold) = ([0; 2], 0);
    for port in [gateway.inside_counters(), gateway.outside_counters()] {
        received[0] += port.received.packets.value();
        received[1] += port.received.bytes.value();
        for volumes in [&port.dropped, &port.would_drop] {
            let others = volumes.iter().filter(|(reason, _)| !is_denial(Verdict::Drop(*reason)));
            untold += others.map(|(_, volume)| volume.packets.value()).sum::<u64>();
        }
    }
    (received, untold)
}

fn run(mode: Mode, ring: usize, steps: &[Step]) -> (Gateway, RecordSource) {
    let (mut gateway, source) = recording(mode, ring);
    for step in steps {
        match step {
            Step::Wait { ms } => {
                gateway.wait_ms(*ms);
                // The whole table is aged.
                (0..8).for_each(|_| {
                    gateway.wait_ms(2_001);
                    gateway.worker.poll();
                });
            }
            Step::Reload { other, enforce } => {
                let mode = if *enforce { Mode::Enforce } else { Mode::Observe };
                gateway.publisher.publish(content(if *other { OTHER } else { POLICY }, mode, 0));
            }
            Step::Packet { .. } => match frame(step) {
                Some((true, frame)) => {
                    gateway.outward(&[frame]);
                }
                Some((false, frame)) => {
                    gateway.inward(&[frame]);
                }
                None => {}
            },
        }
    }
    gateway.worker.shut_down();
    (gateway, source)
}

fn all(source: &mut RecordSource) -> Vec<FlowRecord> {
    std::iter::from_fn(|| source.flow()).collect()
}

fn of(records: &[FlowRecord], event: Event) -> impl Iterator<Item = &FlowRecord> {
    records.iter().filter(move |record| record.event == event)
}

fn check(mode: Mode, steps: &[Step]) {
    let (gateway, mut source) = run(mode, 1 << 14, steps);
    let records = all(&mut source);
    assert_eq!(source.counters().lost_in_all(), 0);
    let (received, untold) = counted(&gateway);
    let (mut packets, mut bytes) = (0, 0);
    for record in of(&records, Event::Ended).chain(of(&records, Event::Denied)) {
        packets += record.packets.iter().sum::<u64>();
        bytes += record.bytes.iter().sum::<u64>();
    }
    assert_eq!(packets + untold, received[0]);
    assert!(bytes <= received[1] && (untold > 0 || bytes == received[1]));
    // A flow is told to begin, then perhaps to go on, then to end; its counters never go back.
    let mut open: HashMap<_, FlowRecord> = HashMap::new();
    for record in records.iter().filter(|record| record.event != Event::Denied) {
        let headers = record.headers;
        let key = (headers.src.min(headers.dst), headers.src.max(headers.dst), headers.protocol, {
            let ports = (headers.src_port, headers.dst_port);
            if headers.protocol == 1 {
                (0, 0)
            } else {
                (ports.0.min(ports.1), ports.0.max(ports.1))
            }
        });
        // Echo requests from several identifiers share what headers tell of them.
        if headers.protocol == 1 {
            continue;
        }
        match record.event {
            Event::Started => {
                assert_eq!(record.packets.iter().sum::<u64>(), 1);
                assert!(open.insert(key, *record).is_none(), "begun twice: {record:?}");
            }
            _ => {
                let before = open.remove(&key).unwrap_or_else(|| panic!("not begun: {record:?}"));
                for way in 0..2 {
                    assert!(record.packets[way] >= before.packets[way]);
                    assert!(record.bytes[way] >= before.bytes[way]);
                }
                assert!(record.first_ms <= record.last_ms + 17, "{record:?}");
                if record.event == Event::Continues {
                    open.insert(key, *record);
                }
            }
        }
    }
    assert!(open.is_empty(), "never ended: {open:?}");
    let counters = source.counters();
    assert_eq!(counters.told(Event::Started).value(), counters.told(Event::Ended).value());
}

/// The same with a ring that is soon full: what is lost is counted.
fn check_losses(mode: Mode, steps: &[Step]) {
    let (_, mut whole) = run(mode, 1 << 14, steps);
    let (_, mut source) = run(mode, 5, steps);
    let expected = all(&mut whole);
    let told = all(&mut source);
    let counters = source.counters();
    for event in Event::ALL {
        let count = of(&told, event).count() as u64;
        assert_eq!(counters.told(event).value(), count);
    }
    for event in [Event::Started, Event::Continues, Event::Ended] {
        let in_all = of(&expected, event).count() as u64;
        assert_eq!(counters.told(event).value() + counters.lost(event).value(), in_all);
    }
    let denied =
        |records: &[FlowRecord]| of(records, Event::Denied).map(|r| r.packets[0]).sum::<u64>();
    assert_eq!(denied(&told) + counters.denied_packets_lost.value(), denied(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_is_in_a_record(
        enforce in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        check(if enforce { Mode::Enforce } else { Mode::Observe }, &steps);
    }

    #[test]
    fn what_finds_no_room_is_counted(
        enforce in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        check_losses(if enforce { Mode::Enforce } else { Mode::Observe }, &steps);
    }
}

fn udp(outward: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let (a, b) = ([10, 0, 0, 1], [10, 1, 0, 1]);
    let (src, dst) = if outward { (a, b) } else { (b, a) };
    let (from, to) = if outward { (port, 53) } else { (53, port) };
    FrameBuilder::new().ip(src, dst).udp(from, to).payload(payload).build()
}

#[test]
fn a_flow_that_goes_on_is_told_of_now_and_then() {
    let (mut gateway, mut source) = recording(Mode::Enforce, 1024);
    for _ in 0..60 {
        assert!(
            gateway.passes_out(&udp(true, 5000, b"q"))
                && gateway.passes_in(&udp(false, 5000, b"a"))
        );
        gateway.wait_ms(1_000);
        gateway.worker.poll();
    }
    let records = all(&mut source);
    let packets: Vec<_> = records.iter().map(|record| record.packets[0]).collect();
    let going_on = of(&records, Event::Continues).count();
    assert!((4..=8).contains(&going_on), "every 10 s, to a sweep of 4 s: {packets:?}");
    assert!(packets.windows(2).all(|pair| pair[0] < pair[1]), "{packets:?}");
    let last = records.last().expect("there are records");
    assert!(last.answered && last.opening_seen && last.client_inside && last.enforced);
    assert_eq!(last.rule, records[0].rule);
    // Then it is silent: nothing is told until it is over.
    for _ in 0..50 {
        gateway.wait_ms(4_000);
        for _ in 0..4 {
            gateway.worker.poll();
        }
    }
    let rest = all(&mut source);
    let events: Vec<_> = rest.iter().map(|record| (record.event, record.ending)).collect();
    assert_eq!(events.last(), Some(&(Event::Ended, Some(Ending::Idle))), "{events:?}");
    assert!(events.len() <= 2, "{events:?}");
}

#[test]
fn a_flood_of_one_tuple_is_a_handful_of_records_and_a_scan_one_for_each() {
    let (mut gateway, mut source) = recording(Mode::Enforce, 4096);
    let denied = |port: u16| {
        FrameBuilder::new().ip([10, 9, 9, 9], [10, 1, 0, 1]).udp(40_000 + port % 100, port).build()
    };
    for nth in 0..1000 {
        assert!(!gateway.passes_out(&denied(7)), "{nth}");
    }
    gateway.worker.shut_down();
    let records = all(&mut source);
    let packets: u64 = records.iter().map(|record| record.packets[0]).sum();
    // By the policy at first, then because of the source's budget.
    assert!(records.len() <= 4, "{records:?}");
    assert_eq!(packets, 1000);
    let (mut gateway, mut source) = recording(Mode::Observe, 4096);
    for port in 1000..1500 {
        let frame = FrameBuilder::new()
            .ip([10, 9, (port % 250) as u8, 9], [10, 1, 0, 1])
            .udp(40_000, port)
            .build();
        assert!(gateway.passes_out(&frame));
    }
    gateway.worker.shut_down();
    let records = all(&mut source);
    let mut ports: Vec<_> = records
        .iter()
        .filter(|record| matches!(record.event, Event::Started | Event::Denied))
        .map(|record| record.headers.dst_port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 500);
    assert!(records.iter().all(|record| record.verdict != Verdict::Forward && !record.enforced));
}

#[test]
fn the_first_payload_of_each_direction_is_copied_and_announcements_always() {
    let (mut gateway, mut source) = recording(Mode::Enforce, 64);
    let short = |source: &mut RecordSource| {
        std::iter::from_fn(|| source.short_copy())
            .map(|copy| (copy.kind, copy.bytes().to_vec()))
            .collect::<Vec<_>>()
    };
    let syn = |src, sport, dst, dport, flags, seq, ack, payload: &[u8]| {
        FrameBuilder::new()
            .ip(src, dst)
            .tcp(sport, dport, flags)
            .seq(seq, ack)
            .payload(payload)
            .build()
    };
    let (a, b) = ([10, 0, 0, 1], [10, 1, 0, 1]);
    let (ack, push) = (tcp_flags::ACK, tcp_flags::ACK);
    assert!(gateway.passes_out(&syn(a, 5000, b, 80, tcp_flags::SYN, 100, 0, b"")));
    assert!(gateway.passes_in(&syn(b, 80, a, 5000, tcp_flags::SYN | ack, 900, 101, b"")));
    assert!(gateway.passes_out(&syn(a, 5000, b, 80, ack, 101, 901, b"")));
    assert_eq!(short(&mut source), [], "nothing carries anything yet");
    let request = syn(a, 5000, b, 80, push, 101, 901, b"GET / HTTP/1.1\r\n");
    let reply = syn(b, 80, a, 5000, push, 901, 117, b"HTTP/1.1 200 OK\r\n");
    assert!(gateway.passes_out(&request) && gateway.passes_in(&reply));
    assert!(gateway.passes_in(&syn(b, 80, a, 5000, push, 918, 117, b"more")));
    assert_eq!(
        short(&mut source),
        [(CopyKind::FirstPayload, request), (CopyKind::FirstPayload, reply)]
    );
    for nth in 0..20 {
        let answer = udp(false, 5000, &[nth; 400]);
        assert!(gateway.passes_out(&udp(true, 5000, b"question")) && gateway.passes_in(&answer));
    }
    let long: Vec<_> = std::iter::from_fn(|| source.long_copy()).collect();
    assert_eq!(long.len(), 20, "every answer");
    assert!(long.iter().all(|copy| copy.kind == CopyKind::Announcement));
    assert_eq!(long[19].bytes(), udp(false, 5000, &[19; 400]));
    assert_eq!(short(&mut source), [(CopyKind::FirstPayload, udp(true, 5000, b"question"))]);
    let denied = FrameBuilder::new().ip(a, b).udp(5000, 9).payload(b"x").build();
    assert!(!gateway.passes_out(&denied) && !gateway.passes_out(&denied));
    assert_eq!(short(&mut source), [(CopyKind::Denied, denied)]);
}
