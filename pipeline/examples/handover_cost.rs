//! What it costs to hand frames from one worker to another.
//!
//! ```text
//! cargo run --release -p bulkhead-pipeline --example handover_cost
//! ```
//!
//! The best of many repetitions of each, side by side in turns, because what else the machine does
//! only adds. On two threads both spin, so give them two cores.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::handover;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::owner::{OwnerRule, SymmetricRss};
use bulkhead_pipeline::parse::parse;
use bulkhead_pipeline::port::loopback::{LoopbackPort, Options};
use bulkhead_pipeline::port::rss::{self, ASYMMETRIC_KEY, Fields, Rss, RssHost, SYMMETRIC_KEY};
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, WallClock, WirePolicy};
use bulkhead_pipeline::worker::{VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::Policy;
use crossbeam::queue::ArrayQueue;

const BURST: usize = 32;
const REPETITIONS: usize = 200;
/// As large as a frame is.
type Item = [u64; 3];

fn main() {
    owner_rules();
    rings_of_one_thread();
    rings_of_two_threads();
    workers();
}

/// Something to be measured.
struct Case<'a> {
    name: &'static str,
    /// Does it, and says how long what matters took.
    work: Box<dyn FnMut() -> Duration + 'a>,
    /// Of how many things that is the time.
    count: usize,
}

impl<'a> Case<'a> {
    fn new(name: &'static str, count: usize, mut work: impl FnMut() + 'a) -> Self {
        let timed = move || {
            let begun = Instant::now();
            work();
            begun.elapsed()
        };
        Self { name, work: Box::new(timed), count }
    }
}

/// Prints the best time of each for one of its things.
fn print_best_of(mut cases: Vec<Case<'_>>) {
    let mut best = vec![f64::INFINITY; cases.len()];
    for _ in 0..REPETITIONS {
        for (best, case) in best.iter_mut().zip(&mut cases) {
            *best = best.min((case.work)().as_nanos() as f64 / case.count as f64);
        }
    }
    for (case, best) in cases.iter().zip(best) {
        println!("{:<58} {best:>7.1} ns", case.name);
    }
}

fn owner_rules() {
    let frames: Vec<Vec<u8>> = (0..=255)
        .map(|host| FrameBuilder::new().ip([10, 0, 0, host], [10, 0, 1, 1]).udp(1, 502).build())
        .collect();
    let parsed: Vec<_> =
        frames.iter().filter_map(|frame| Some((frame, parse(frame, WireId(0)).ok()?))).collect();
    let keyed = OwnerRule::keyed(2, None);
    let nic = OwnerRule::like_nic(2, SymmetricRss::random(), 128);
    let judge = |rule: &OwnerRule| {
        parsed.iter().for_each(|(frame, parsed)| {
            black_box(rule.of(frame, parsed));
        });
    };
    print_best_of(vec![
        Case::new("owner of a frame, keyed hash", frames.len(), || judge(&keyed)),
        Case::new("owner of a frame, the NIC's hash", frames.len(), || judge(&nic)),
    ]);
}

fn rings_of_one_thread() {
    const ROUNDS: usize = 100;
    let queue = ArrayQueue::<Item>::new(1024);
    let (mut sender, mut receiver) = rtrb::RingBuffer::<Item>::new(1024);
    print_best_of(vec![
        Case::new("ring, one thread: one by one (ArrayQueue)", ROUNDS * BURST, || {
            for _ in 0..ROUNDS {
                for n in 0..BURST {
                    let _ = black_box(queue.push([n as u64; 3]));
                }
                for _ in 0..BURST {
                    black_box(queue.pop());
                }
            }
        }),
        Case::new("ring, one thread: whole bursts (rtrb)", ROUNDS * BURST, || {
            for _ in 0..ROUNDS {
                if let Ok(chunk) = sender.write_chunk_uninit(BURST) {
                    chunk.fill_from_iter((0..BURST).map(|n| [n as u64; 3]));
                }
                take(&mut receiver, BURST);
            }
        }),
    ]);
}

fn take(receiver: &mut rtrb::Consumer<Item>, count: usize) {
    if let Ok(chunk) = receiver.read_chunk(count) {
        for item in chunk {
            black_box(item);
        }
    }
}

/// From one thread to another that does nothing but take: nanoseconds for each item of a stream.
fn rings_of_two_threads() {
    const ITEMS: usize = 64_000;
    let stop = AtomicBool::new(false);
    let queue = ArrayQueue::<Item>::new(1024);
    let (mut sender, mut receiver) = rtrb::RingBuffer::<Item>::new(1024);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                while let Some(item) = queue.pop() {
                    black_box(item);
                }
                let count = receiver.slots();
                take(&mut receiver, count);
            }
        });
        print_best_of(vec![
            Case::new("ring, two threads: one by one (ArrayQueue)", ITEMS, || {
                for n in 0..ITEMS {
                    while queue.push([n as u64; 3]).is_err() {
                        std::hint::spin_loop();
                    }
                }
            }),
            Case::new("ring, two threads: whole bursts (rtrb)", ITEMS, || {
                for _ in 0..ITEMS / BURST {
                    let chunk = loop {
                        if let Ok(chunk) = sender.write_chunk_uninit(BURST) {
                            break chunk;
                        }
                        std::hint::spin_loop();
                    };
                    chunk.fill_from_iter((0..BURST).map(|n| [n as u64; 3]));
                }
            }),
        ]);
        stop.store(true, Ordering::Relaxed);
    });
}

/// Two workers in turn on one thread, so that what is compared is work and not cores.
struct Plant {
    workers: Vec<Worker<LoopbackPort, VirtualClock>>,
    _publisher: Publisher,
    inside: RssHost,
    outside: RssHost,
    frames: Vec<Vec<u8>>,
}

impl Plant {
    fn new(count: usize, rss: Rss, rule: OwnerRule) -> Self {
        let options = Options { pool_frames: 8192, ..Options::default() };
        let (inside_ports, inside) = rss::pair(options, rss.clone(), count);
        let (outside_ports, outside) = rss::pair(options, rss, count);
        let text =
            "version: 1\nrules: [{name: all, from: any, to: any, service: any, action: allow}]";
        let policy = Policy::parse(text).unwrap_or_else(|errors| panic!("{errors:?}"));
        let classifier = compile(&policy, &Limits::default()).unwrap_or_else(|e| panic!("{e}"));
        let (publisher, readers) = Publisher::new(
            Content {
                policy: Arc::new(policy),
                classifier: Arc::new(classifier),
                wires: vec![WirePolicy::new(Mode::Enforce, 0)],
                clock: WallClock::default(),
            },
            count,
        );
        let peers = handover::connect(&rule, &[WireId(0)], 1024);
        let workers = (inside_ports.into_iter().zip(outside_ports))
            .zip(readers.into_iter().zip(peers))
            .map(|((inside, outside), (reader, peers))| {
                let ports = WirePorts { wire: WireId(0), group: 0, inside, outside };
                let counters = Arc::new(WorkerCounters::new(1));
                let (recorder, clock) = (observe::channel(1).0, VirtualClock::default());
                let config = WorkerConfig::default();
                let worker = Worker::new(&config, vec![ports], reader, counters, recorder, clock);
                if count > 1 { worker.with_peers(peers) } else { worker }
            })
            .collect();
        let frames = (0..=255)
            .map(|host| FrameBuilder::new().ip([10, 0, 0, host], [10, 0, 1, 1]).udp(7, 502).build())
            .collect();
        Self { workers, _publisher: publisher, inside, outside, frames }
    }

    /// Sends every frame through. How long the workers took.
    fn round(&mut self) -> Duration {
        for frame in &self.frames {
            let _ = self.inside.send(frame);
        }
        let begun = Instant::now();
        while self.workers.iter_mut().map(Worker::poll).sum::<usize>() > 0 {}
        let took = begun.elapsed();
        while let Some(frame) = self.outside.receive() {
            black_box(frame);
        }
        took
    }

    fn case(&mut self, name: &'static str) -> Case<'_> {
        Case { name, count: self.frames.len(), work: Box::new(|| self.round()) }
    }

    fn handed_over(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counters().balance().handed_out).sum()
    }
}

fn workers() {
    let by_addresses = Rss::new(&SYMMETRIC_KEY, Fields::Addresses);
    let astray = Rss::new(&ASYMMETRIC_KEY, Fields::AddressesAndPorts);
    let like_nic =
        |count| OwnerRule::like_nic(count, SymmetricRss::new(SymmetricRss::WELL_KNOWN), 128);
    let mut one = Plant::new(1, by_addresses.clone(), like_nic(1));
    let mut none = Plant::new(2, by_addresses, like_nic(2));
    let mut half = Plant::new(2, astray, OwnerRule::keyed(2, None));
    let count = one.frames.len();
    print_best_of(vec![
        one.case("a frame through one worker"),
        none.case("through two workers, every frame at its owner"),
        half.case("through two workers, frames anywhere"),
    ]);
    let all = (REPETITIONS * count) as f64;
    println!(
        "handed over: {:.0} % and {:.0} %",
        none.handed_over() as f64 / all * 100.0,
        half.handed_over() as f64 / all * 100.0
    );
}
