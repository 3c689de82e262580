//! Reload under load: issue figures of publication time, nothing lost, no verdict of a mix.
//!
//! Policies A and B are made such that any mix of the two would let a packet pass that both deny:
//!
//! | packet (from, to port) | A | B | a mix that would permit it |
//! |---|---|---|---|
//! | .1 to 53 | allow | allow | |
//! | .1 to 1000 | allow | deny | |
//! | .2 to 2000 | deny | allow | |
//! | .1 to 2000 | deny | deny | A's group with B's service |
//! | .2 to 1000 | deny | deny | B's group with A's service |
//! | .3 to 3000 | deny, by the guard before the rule that allows it | deny, by default | A's rule without A's guard |
//! | .3 to 4000 | deny, by default | deny, by the guard | B's rule with A's guard |

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::frames::{ethernet, udp4};
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::{Driver, Gateway, Metrics, Rig, Settings, is_full};

use crate::over_both_drivers;

over_both_drivers!(reloads_under_load_lose_nothing_and_mix_nothing);

const CLIENTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 77, 2, 1), Ipv4Addr::new(10, 77, 2, 2), Ipv4Addr::new(10, 77, 2, 3)];

/// Client, port, whether A permits it, whether B does; and of how many frames it is sent.
const PACKETS: [(usize, u16, bool, bool); 7] = [
    (0, 53, true, true),
    (0, 1000, true, false),
    (1, 2000, false, true),
    (0, 2000, false, false),
    (1, 1000, false, false),
    (2, 3000, false, false),
    (2, 4000, false, false),
];

/// Flows of each kind: frames go round them, so that every reload meets flows to judge again.
const FLOWS: u16 = 32;

/// The offered rate is never above this, in frames a second: the capture must keep up too.
const FASTEST: u32 = 60_000;

/// Frames that are sent at once at most: what a sleep that is never exact makes necessary, and
/// a small part of what a veth pair queues (256).
const BURST: u64 = 64;

fn policy(client: Ipv4Addr, port: u16, guarded: u16) -> String {
    format!(
        "version: 1\ndefault: deny\ngroups:\n  client: [{client}]\n  late: [10.77.2.3]\nservices:\n  \
         work: udp/{port}\n  guarded: udp/{guarded}\nrules:\n  - {{name: guard, from: late, to: any, \
         service: guarded, action: deny}}\n  - {{name: always, from: 10.77.2.1, to: any, service: \
         udp/53, action: allow}}\n  - {{name: work, from: client, to: any, service: work, action: \
         allow}}\n  - {{name: late, from: late, to: any, service: guarded, action: allow}}\n"
    )
}

fn reloads_under_load_lose_nothing_and_mix_nothing(rig: &Rig, driver: Driver) {
    let a = policy(CLIENTS[0], 1000, 3000);
    let b = policy(CLIENTS[1], 2000, 4000);
    let reloads = if is_full() { 1000 } else { 50 };
    // What a busy machine does to the sender or the capture must not be laid at the gateway's door:
    // a loss counts if it comes again with the rate measured anew. A leak counts at once.
    for attempt in 1.. {
        let gateway = Gateway::start(rig, Settings::new(driver, &a));
        let rate = no_loss_rate(rig) * 7 / 10;
        let before = gateway.quiescent_metrics();
        let begin = Instant::now();
        let (load, mut publications) = under_load(rig, rate, || {
            let mut publications = Vec::new();
            for round in 0..reloads {
                let (code, said) = gateway.reload(if round % 2 == 0 { &b } else { &a });
                assert_eq!(code, 0, "{said}");
                publications.push(gateway.metrics().sum("bulkhead_policy_publish_seconds", &[]));
            }
            publications
        });
        let took = begin.elapsed();
        let after = gateway.quiescent_metrics();
        let crossed = after.received() - before.received();
        publications.sort_by(f64::total_cmp);
        let p99 = publications[(publications.len() * 99 / 100).min(publications.len() - 1)];
        println!(
            "{driver:?}: {reloads} reloads in {took:.1?} at {rate} frames/s (70 % of no-loss): {} \
             frames sent, {crossed} received by the gateway, {} of the permitted lost; publication \
             p99 {:.0} µs, worst {:.0} µs",
            load.sent(),
            load.lost(),
            p99 * 1e6,
            publications[publications.len() - 1] * 1e6,
        );
        load.assert_no_mix();
        assert_every_reload_happened(&before, &after, reloads);
        let metrics = gateway.stop();
        assert_drops_are_verdicts(&metrics, load.lost());
        if load.lost() == 0 {
            return;
        }
        assert!(attempt < 3, "{} permitted frames were lost, for the third time", load.lost());
    }
}

fn assert_every_reload_happened(before: &Metrics, after: &Metrics, reloads: u64) {
    let accepted = |metrics: &Metrics| {
        metrics.count("bulkhead_policy_reload_total", &[("result", "accepted")])
    };
    assert_eq!(accepted(after) - accepted(before), reloads);
}

/// Whatever the gateway dropped, it dropped for the policy: never for want of room.
fn assert_drops_are_verdicts(metrics: &Metrics, lost: u64) {
    let others: BTreeMap<_, _> = (metrics.drops().into_iter())
        .filter(|(reason, _)| reason != "policy" && reason != "revoked")
        .collect();
    assert!(others.is_empty() || lost > 0, "{others:?}");
}

/// Frames by what was sent and what arrived.
#[derive(Default, Debug)]
struct Load {
    sent: BTreeMap<(Ipv4Addr, u16), u64>,
    arrived: BTreeMap<(Ipv4Addr, u16), u64>,
}

impl Load {
    fn sent(&self) -> u64 {
        self.sent.values().sum()
    }

    /// Frames that both policies permit and that did not arrive.
    fn lost(&self) -> u64 {
        let always = (CLIENTS[0], 53);
        self.sent.get(&always).unwrap_or(&0) - self.arrived.get(&always).unwrap_or(&0)
    }

    /// Nothing passed that both deny; what one of them permits passed some of the time.
    fn assert_no_mix(&self) {
        for (client, port, a, b) in PACKETS {
            let key = (CLIENTS[client], port);
            let sent = self.sent.get(&key).copied().unwrap_or(0);
            let arrived = self.arrived.get(&key).copied().unwrap_or(0);
            assert!(sent > 0, "{key:?} was never sent");
            match (a, b) {
                (false, false) => assert_eq!(arrived, 0, "{key:?} passed, which both deny"),
                (true, true) => assert!(arrived <= sent, "{key:?} arrived twice"),
                _ => assert!(
                    arrived > sent / 10 && arrived < sent - sent / 10,
                    "{key:?}: {arrived} of {sent} passed, which only one of the two permits"
                ),
            }
        }
    }
}

/// The highest rate at which two seconds of load lose nothing, found from above.
fn no_loss_rate(rig: &Rig) -> u32 {
    let mut rate = FASTEST;
    loop {
        let (load, ()) = under_load(rig, rate, || std::thread::sleep(Duration::from_secs(2)));
        if load.lost() == 0 {
            return rate;
        }
        rate = rate * 4 / 5;
        assert!(rate > 500, "not even {rate} frames a second pass without loss");
    }
}

/// Sends every kind of packet in turn at a rate, in all, while `work` runs; counts what arrives.
fn under_load<T>(rig: &Rig, rate: u32, work: impl FnOnce() -> T) -> (Load, T) {
    let (from, to) = (RawPort::open(rig.outside(0)), RawPort::open(rig.inside(0)));
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(rig, &from, rate, &stop));
        let receiver = scope.spawn(|| receive(&to, &done));
        let outcome = work();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender ends well");
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        let arrived = receiver.join().expect("the capture ends well");
        (Load { sent, arrived }, outcome)
    })
}

fn send(rig: &Rig, port: &RawPort, rate: u32, stop: &AtomicBool) -> BTreeMap<(Ipv4Addr, u16), u64> {
    let frames: Vec<_> = (0..FLOWS)
        .flat_map(|flow| PACKETS.map(|packet| (flow, packet)))
        .map(|(flow, (client, service, ..))| {
            let client = CLIENTS[client];
            let packet = udp4((client, 20_000 + flow), (rig.inside(0).v4, service), b"reload");
            let (to, from) = (rig.inside(0).mac, rig.outside(0).mac);
            ((client, service), ethernet(to, from, &[], 0x0800, &packet))
        })
        .collect();
    let mut sent = BTreeMap::new();
    let (mut begin, mut count, mut next) = (Instant::now(), 0_u64, 0_usize);
    while !stop.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let burst = due.saturating_sub(count).min(BURST);
        for _ in 0..burst {
            let (key, frame) = &frames[next];
            next = (next + 1) % frames.len();
            // A full queue of the sender's own interface: it was not sent.
            if port.try_send(frame).is_ok() {
                *sent.entry(*key).or_insert(0) += 1;
            }
        }
        count += burst;
        // Whoever was kept from sending does not make up for it with a burst that no queue holds.
        if due > count {
            (begin, count) = (Instant::now(), 0);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    sent
}

fn receive(port: &RawPort, done: &AtomicBool) -> BTreeMap<(Ipv4Addr, u16), u64> {
    let mut arrived = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        let Some(frame) = port.receive(Duration::from_millis(20)) else { continue };
        if let Some(key) = udp4_key(&frame) {
            *arrived.entry(key).or_insert(0) += 1;
        }
    }
    arrived
}

/// Source address and destination port of an untagged UDP packet over IPv4 without options.
fn udp4_key(frame: &[u8]) -> Option<(Ipv4Addr, u16)> {
    if frame.get(12..15)? != [0x08, 0x00, 0x45] || frame.get(23) != Some(&17) {
        return None;
    }
    let source: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
    let port: [u8; 2] = frame.get(36..38)?.try_into().ok()?;
    Some((source.into(), u16::from_be_bytes(port)))
}
