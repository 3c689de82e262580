//! A seeded world that misbehaves: lost, doubled, reordered, damaged, cut and late frames, transmit
//! queues that refuse, buffers that run out, a clock that jumps, policies that change. Whatever
//! happens, nothing that the policy in force forbids passes, and every frame is accounted for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::parse::{Kind, parse};
use bulkhead_pipeline::port::fault::{FaultPort, Faults};
use bulkhead_pipeline::port::loopback;
use bulkhead_pipeline::snapshot::{Mode, Publisher};
use bulkhead_pipeline::worker::{VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::{PolicyTime, WireId};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Action, Policy};

use crate::common::{ZERO_MS, content, received};

const STEPS: usize = 3_000;

/// Policies over a tiny universe, so that everything meets everything.
const POLICIES: [&str; 3] = [
    "
version: 1
rules:
  - {name: a, from: 10.0.0.0-10.0.0.3, to: 10.0.0.4/30, service: [udp/1-4, tcp/1-4, icmp], action: allow}
  - {name: b, from: 'fd00::/126', to: 'fd00::4/126', service: [udp, tcp/1-4, icmpv6], action: allow}
",
    "
version: 1
rules:
  - {name: c, from: 10.0.0.1, to: any, service: any, action: reject}
  - {name: d, from: 10.0.0.0/29, to: 10.0.0.0/29, service: [udp/2-8, tcp/2-8], action: allow, expires: 2026-11-24T06:00:40Z}
  - {name: e, between: ['fd00::1', 'fd00::5'], service: any, action: allow}
",
    "
version: 1
rules:
  - {name: f, from: 10.0.0.5, to: any, service: any, action: allow, starts: 2026-11-24T06:00:10Z}
  - {name: g, from: any, to: 10.0.0.6, service: tcp, action: reject}
",
];

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn frame(chance: &mut Chance) -> Vec<u8> {
    let (src, dst) = (chance.below(8) as u8, chance.below(8) as u8);
    let (src, dst) = if chance.below(2) == 0 {
        (IpAddr::from(Ipv4Addr::new(10, 0, 0, src)), IpAddr::from(Ipv4Addr::new(10, 0, 0, dst)))
    } else {
        let v6 = |host: u8| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into());
        (IpAddr::from(v6(src)), IpAddr::from(v6(dst)))
    };
    let builder = FrameBuilder::new().ip(src, dst);
    let (sport, dport) = (1 + chance.below(8) as u16, 1 + chance.below(8) as u16);
    match chance.below(8) {
        0..3 => builder.udp(sport, dport).payload(&[0; 20]).build(),
        3..6 => {
            let flags = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14][chance.below(7) as usize];
            let numbers = (chance.below(64) as u32, chance.below(64) as u32);
            builder.tcp(sport, dport, flags).seq(numbers.0, numbers.1).build()
        }
        6 => builder.echo_request(sport, dport).build(),
        _ => builder.echo_reply(sport, dport).build(),
    }
}

/// Whether the policy permits the packet, as one that opens or as a reply. What the gateway passes on
/// other grounds (ARP, ND, ICMP errors, later fragments) is outside of this check.
fn is_explained(frame: &[u8], policy: &Policy, at: PolicyTime) -> bool {
    let parsed = parse(frame, WireId(0)).expect("what passes an enforcing wire parses");
    if !matches!(parsed.kind, Kind::Tcp | Kind::IcmpQuery | Kind::Dhcp | Kind::Other) {
        return true;
    }
    let mut back = parsed.headers.reversed();
    if parsed.kind == Kind::IcmpQuery {
        back.dst_port = if back.ether_type == 0x0800 { 8 << 8 } else { 128 << 8 };
    }
    [parsed.headers, back]
        .iter()
        .any(|headers| policy.action(oracle::classify(policy, headers, at)) == Action::Allow)
}

fn run(seed: u64) -> u64 {
    let faults = Faults {
        seed,
        drop_permille: 20,
        duplicate_permille: 30,
        reorder_permille: 50,
        corrupt_permille: 50,
        truncate_permille: 20,
        delay_permille: 10,
        refuse_transmit_permille: 100,
        refuse_originate_permille: 100,
        delay_calls: 3,
    };
    let mut chance = Chance(seed);
    let (inside_port, inside) = loopback::pair(loopback::Options::default());
    let (outside_port, outside) = loopback::pair(loopback::Options::default());
    let ports = WirePorts {
        wire: WireId(0),
        group: 0,
        inside: FaultPort::new(inside_port, faults),
        outside: FaultPort::new(outside_port, Faults { seed: !seed, ..faults }),
    };
    let mut config = WorkerConfig { transmit_patience_ns: 3_000_000, ..WorkerConfig::default() };
    config.flows.capacity = 64; // Small enough to be full all the time.
    config.flows.seed = Some([seed; 4]);
    let mut published = content(POLICIES[0], Mode::Enforce, 0);
    let (mut publisher, mut readers) = Publisher::new(published.clone(), 1);
    let (recorder, _observer) = observe::channel(1);
    let clock = VirtualClock::default();
    let counters = Arc::new(WorkerCounters::new(1));
    let reader = readers.remove(0);
    let mut worker =
        Worker::new(&config, vec![ports], reader, counters.clone(), recorder, clock.clone());

    let (mut now_ms, mut passed, mut answers) = (0, 0, 0);
    for step in 0..STEPS {
        for _ in 0..chance.below(40) {
            let (from, frame) = (chance.below(2), frame(&mut chance));
            let _ = if from == 0 { inside.send(&frame) } else { outside.send(&frame) };
        }
        if chance.below(50) == 0 {
            // A publication between two loops: from the next one on the new policy is in force.
            published = content(POLICIES[chance.below(3) as usize], Mode::Enforce, 0);
            publisher.publish(published.clone());
            publisher.collect();
        }
        now_ms += [0, 1, 1, 2, 30, 500][chance.below(6) as usize];
        clock.advance_to(now_ms * 1_000_000);
        worker.poll();
        let at = PolicyTime { unix_ms: ZERO_MS + now_ms as i64, synchronised: true };
        // Held frames leave at a later loop than they were judged in: they are checked against what
        // was in force when they came by sending everything out before anything changes.
        while counters.balance().held > 0 {
            worker.poll();
        }
        for frame in received(&inside).iter().chain(&received(&outside)) {
            passed += 1;
            if !is_explained(frame, &published.policy, at) {
                assert!(is_answer(frame), "seed {seed}, step {step}: passed: {frame:02x?}");
                answers += 1;
            }
        }
        assert!(
            counters.balance().is_exact(),
            "seed {seed}, step {step}: {:?}",
            counters.balance()
        );
    }
    worker.shut_down();
    let balance = counters.balance();
    assert!(balance.is_exact(), "{balance:?}");
    assert!(answers <= balance.originated, "{answers} frames are explained by no policy");
    let undecided = &counters.wires[0].inside.dropped;
    let undecided = undecided.of(bulkhead_pipeline::verdict::DropReason::Undecided);
    assert_eq!(undecided.packets.value(), 0, "every branch decides");
    passed
}

/// An answer that the gateway originated: a RST or an ICMP unreachable.
fn is_answer(frame: &[u8]) -> bool {
    parse(frame, WireId(0)).is_ok_and(|p| p.kind == Kind::IcmpError || p.tcp.flags & 0x04 != 0)
}

#[test]
fn whatever_happens_nothing_forbidden_passes_and_nothing_is_lost_uncounted() {
    for seed in 0..8 {
        let passed = run(seed);
        assert!(passed > 1_000, "seed {seed} proves little: {passed} frames passed");
    }
}
