//! Promise 3: every packet is judged by one whole policy, and no packet is lost by a reload.
//!
//! Policies A and B are made such that taking any group, service or rule of one into the other would
//! permit a packet that both deny. They alternate while a worker runs at full rate.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::content;
use bulkhead_pipeline::counters::{Balance, WorkerCounters};
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::handover;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::owner::OwnerRule;
use bulkhead_pipeline::port::Frame;
use bulkhead_pipeline::port::loopback;
use bulkhead_pipeline::port::rss::{self, ASYMMETRIC_KEY, Fields, Rss, RssHost};
use bulkhead_pipeline::snapshot::{Mode, Publisher};
use bulkhead_pipeline::worker::{MonotonicClock, PollMode, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::WireId;

const A: &str = "
version: 1
groups:
  left: [10.0.0.1]
  right: [10.0.1.1]
services:
  work: udp/1000
rules:
  - {name: hole, from: 10.0.0.9, to: 10.0.1.9, service: udp/900, action: deny}
  - {name: wide, from: 10.0.0.9, to: 10.0.1.0/24, service: udp/900, action: allow}
  - {name: pair, from: left, to: right, service: work, action: allow}
  - {name: always, from: 10.0.0.100, to: 10.0.1.100, service: udp/53, action: allow}
";

const B: &str = "
version: 1
groups:
  left: [10.0.0.2]
  right: [10.0.1.2]
services:
  work: udp/2000
rules:
  - {name: wide, from: 10.0.0.9, to: 10.0.1.0/24, service: udp/900, action: deny}
  - {name: hole, from: 10.0.0.9, to: 10.0.1.10, service: udp/901, action: allow}
  - {name: pair, from: left, to: right, service: work, action: allow}
  - {name: always, from: 10.0.0.100, to: 10.0.1.100, service: udp/53, action: allow}
";

/// How often the policies alternate; the whole number of the promise is quick enough to be the test.
const RELOADS: usize = 1000;

/// The destination port identifies a packet: its flow is (class, variant) and its verdict follows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Expect {
    Always,
    OnlyA,
    OnlyB,
    Never,
}

fn frame(src: u8, dst: u8, port: u16, src_port: u16) -> Vec<u8> {
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, src), Ipv4Addr::new(10, 0, 1, dst));
    FrameBuilder::new().ip(src, dst).udp(src_port, port).payload(&[0; 18]).build()
}

fn traffic() -> Vec<(Expect, Vec<u8>)> {
    let mut traffic = Vec::new();
    // The source port tells the class at the receiver.
    for src in [1, 2] {
        for dst in [1, 2] {
            for port in [1000, 2000] {
                let expect = match (src, dst, port) {
                    (1, 1, 1000) => Expect::OnlyA,
                    (2, 2, 2000) => Expect::OnlyB,
                    _ => Expect::Never,
                };
                traffic.push((expect, (src, dst, port)));
            }
        }
    }
    traffic.push((Expect::Never, (9, 9, 900)));
    traffic.push((Expect::OnlyA, (9, 10, 900)));
    traffic.push((Expect::OnlyB, (9, 10, 901)));
    traffic.push((Expect::Never, (9, 9, 901)));
    traffic.push((Expect::Always, (100, 100, 53)));
    let frame = |(expect, (src, dst, port))| (expect, frame(src, dst, port, 1 + expect as u16));
    traffic.into_iter().map(frame).collect()
}

fn class_of(frame: &[u8]) -> Expect {
    match u16::from_be_bytes([frame[34], frame[35]]) {
        1 => Expect::Always,
        2 => Expect::OnlyA,
        3 => Expect::OnlyB,
        _ => Expect::Never,
    }
}

/// Sends round after round until told to stop and drains the other side. Returns what was sent and
/// what arrived, by class.
fn drive(from: &RssHost, to: &RssHost, stop: &AtomicBool) -> [BTreeMap<Expect, u64>; 2] {
    let traffic = traffic();
    let [mut sent, mut arrived] = [BTreeMap::new(), BTreeMap::new()];
    let drain = |arrived: &mut BTreeMap<Expect, u64>| {
        while let Some(frame) = to.receive() {
            *arrived.entry(class_of(frame.bytes())).or_insert(0) += 1;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        for (expect, frame) in &traffic {
            while from.send(frame).is_err() {
                drain(&mut arrived);
                thread::yield_now();
            }
            *sent.entry(*expect).or_insert(0) += 1;
        }
        drain(&mut arrived);
    }
    // The always permitted packets in flight are awaited; a lost one is found by the deadline.
    let deadline = Instant::now() + Duration::from_secs(10);
    while arrived.get(&Expect::Always) != sent.get(&Expect::Always) && Instant::now() < deadline {
        drain(&mut arrived);
        thread::yield_now();
    }
    [sent, arrived]
}

#[test]
fn a_thousand_reloads_mix_nothing_and_lose_nothing() {
    reload_under_load(1, RELOADS);
}

/// Of the packets of a pair of hosts nearly half reach the other worker first, and may wait in a ring
/// while the policy changes.
#[test]
fn reloads_mix_nothing_and_lose_nothing_where_workers_hand_over() {
    reload_under_load(2, RELOADS / 5);
}

fn reload_under_load(workers: usize, reloads: usize) {
    let rss = Rss::new(&ASYMMETRIC_KEY, Fields::AddressesAndPorts);
    let (inside_ports, inside) = rss::pair(loopback::Options::default(), rss.clone(), workers);
    let (outside_ports, outside) = rss::pair(loopback::Options::default(), rss, workers);
    let (mut publisher, readers) = Publisher::new(content(A, Mode::Enforce, 0), workers);
    // The threads share two cores with everything else on the machine: nobody may lose patience.
    let config = WorkerConfig { transmit_patience_ns: u64::MAX, ..WorkerConfig::default() };
    let clock = MonotonicClock::start();
    // Rings that hold all that can be under way never fill.
    let rule = OwnerRule::keyed(workers, Some([1, 2, 3, 4]));
    let peers = handover::connect(&rule, &[WireId(0)], 4096);
    let mut workers: Vec<_> = (inside_ports.into_iter().zip(outside_ports))
        .zip(readers.into_iter().zip(peers))
        .map(|((inside, outside), (reader, peers))| {
            let ports = WirePorts { wire: WireId(0), group: 0, inside, outside };
            let counters = Arc::new(WorkerCounters::new(1));
            let recorder = observe::channel(1).0;
            Worker::new(&config, vec![ports], reader, counters, recorder, clock).with_peers(peers)
        })
        .collect();
    let counters: Vec<_> = workers.iter().map(|worker| worker.counters().clone()).collect();

    let (stop_traffic, stop_worker) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut publication = Vec::with_capacity(reloads);
    let [sent, arrived] = thread::scope(|scope| {
        for worker in &mut workers {
            let stop = &stop_worker;
            scope.spawn(move || worker.run(stop, PollMode::Adaptive));
        }
        let traffic = scope.spawn(|| drive(&inside, &outside, &stop_traffic));
        for reload in 0..reloads {
            let policy = if reload % 2 == 0 { B } else { A };
            publisher.publish(content(policy, Mode::Enforce, 0));
            let passed = publisher.wait(Duration::from_secs(60));
            publication.push(passed.expect("the workers run"));
            publisher.collect();
        }
        stop_traffic.store(true, Ordering::Relaxed);
        let result = traffic.join().expect("the traffic thread ends");
        stop_worker.store(true, Ordering::Relaxed);
        result
    });

    publication.sort_unstable();
    println!(
        "sent {sent:?}, arrived {arrived:?}; publication p50 {:?}, p99 {:?}, max {:?}",
        publication[reloads / 2],
        publication[reloads * 99 / 100],
        publication[reloads - 1]
    );
    let count = |of: &BTreeMap<Expect, u64>, class| of.get(&class).copied().unwrap_or(0);
    assert_eq!(count(&arrived, Expect::Never), 0, "a mix of both policies judged a packet");
    assert_eq!(count(&arrived, Expect::Always), count(&sent, Expect::Always), "lost by a reload");
    for class in [Expect::OnlyA, Expect::OnlyB] {
        let (sent, arrived) = (count(&sent, class), count(&arrived, class));
        assert!(0 < arrived && arrived < sent, "both policies judged: {arrived} of {sent}");
    }
    let revoked: u64 = counters.iter().map(|counters| counters.flow_revoked.value()).sum();
    assert!(revoked > 0, "flows of the old policy ended");
    let balances: Vec<_> = counters.iter().map(|counters| counters.balance()).collect();
    assert!(balances.iter().all(|balance| balance.is_exact()), "{balances:?}");
    let total = balances.into_iter().fold(Balance::default(), |sum, each| sum + each);
    assert_eq!(total.handed_in, total.handed_out);
    assert_eq!(total.handed_out > 0, workers.len() > 1, "{total:?}");
}
