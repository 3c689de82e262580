//! What edits of the policy cost the flows that are there: packets of known flows, with and without
//! edits published meanwhile, in turns.
//!
//! One worker runs the whole packet path over in-memory ports; 10,000 flows that the policy permits
//! are hit in random order, and only the worker's own loop is timed. Another thread edits the policy
//! a hundred times a second, member by member, and publishes what comes of it. Both threads have a
//! processor of their own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::port::MAX_BURST;
use bulkhead_pipeline::port::loopback::{self, Host, LoopbackPort};
use bulkhead_pipeline::snapshot::{
    Content, EditedContent, Mode, Publisher, Reader, WallClock, WirePolicy,
};
use bulkhead_pipeline::worker::{MonotonicClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::classifier::{Classifier, MAX_BATCH, Scratch};
use bulkhead_rules::compile::{self, Compiler};
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, PolicyTime, WireId, protocol};
use bulkhead_rules::policy::edit::{Edit, RandomEdits};
use bulkhead_rules::policy::{Action, LoadOptions, Policy, RuleId};
use bulkhead_rules::syntax::Source;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::machine::{self, Machine, median};
use crate::random::Random;
use crate::segmentation::{self, Families, Shape};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rules of the segmentation policy; it has a twentieth as many groups and half as many
    /// addresses.
    #[arg(long, default_value_t = 200_000)]
    rules: usize,
    /// Flows that are hit.
    #[arg(long, default_value_t = 10_000)]
    flows: usize,
    /// Edits a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How many of a hundred edits add or remove a rule; the others add or remove a member of a
    /// group.
    #[arg(long, default_value_t = 0)]
    rule_percent: u32,
    /// Rounds: one turn without edits and one with them each.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Milliseconds of a turn.
    #[arg(long, default_value_t = 500)]
    turn_ms: u64,
    /// Seed of the policy, the flows and the edits.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    rules: usize,
    flows: usize,
    edits_per_second: u32,
    rule_percent: u32,
    rounds: usize,
    /// The worker's time for a packet of a known flow, median over the turns.
    ns_per_packet: f64,
    ns_per_packet_with_edits: f64,
    /// The median over the rounds of the second by the first, with the extremes.
    ratio: f64,
    ratio_least: f64,
    ratio_most: f64,
    edits: usize,
    packets: u64,
    /// Packets that did not pass: their flow had lost a member of its groups to an edit.
    stopped: u64,
    reaffirmed: u64,
    reclassified: u64,
    /// Editing the policy, compiling the edit, and publishing it, in microseconds of processor time.
    edit_us: Spread,
    compile_us: Spread,
    publish_us: Spread,
    /// All three together.
    published_us: Spread,
    /// From the beginning until the worker judges by the edit, in microseconds of a clock on the
    /// wall, whatever else the machine does.
    in_force_us: Spread,
    /// Processor time for freeing what no worker judges by any more.
    collect_us: Spread,
    machine: Machine,
}

/// Of many durations, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    p99: f64,
    most: f64,
}

impl Spread {
    fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |share: f64| {
            let last = durations.len().saturating_sub(1);
            let index = (last as f64 * share).round() as usize;
            durations.get(index).map_or(f64::NAN, |d| d.as_secs_f64() * 1e6)
        };
        Self { median: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

/// Runs the benchmark.
///
/// # Errors
///
/// Where the policy does not load or compile, or has too few permitted flows.
pub fn run(options: &Options) -> io::Result<()> {
    let load = machine::load();
    let policy = policy(options)?;
    let mut compiler =
        Compiler::new(&policy, &compile::Limits::default()).map_err(io::Error::other)?;
    let classifier = compiler.publish();
    let edits = edits(&policy, options)?;
    let frames = frames(&policy, &classifier, options)?;
    let content = Content {
        policy: Arc::new(policy),
        classifier,
        wires: vec![WirePolicy::new(Mode::Enforce, u64::MAX)],
        clock: WallClock::default(),
    };
    let (publisher, mut readers) = Publisher::new(content, 1);
    let mut rig = Rig::new(readers.remove(0), frames, options.seed);
    let mut editor = Editor::new(publisher, compiler, edits, options.rate);
    let (editing, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let turns = thread::scope(|scope| {
        let editor = scope.spawn(|| editor.run(&editing, &over));
        pin(1);
        let turns = rig.turns(options, &editing);
        over.store(true, Ordering::Relaxed);
        // While the editor waits for the worker, the worker has to run.
        while !editor.is_finished() {
            rig.worker.poll();
        }
        turns
    });
    let outcome = outcome(options, &editor, &rig, &turns, Machine::read(load)?);
    print(&outcome, options.json)
}

fn outcome(
    options: &Options,
    editor: &Editor,
    rig: &Rig,
    turns: &[[f64; 2]],
    machine: Machine,
) -> Outcome {
    let mut ratios: Vec<f64> = turns.iter().map(|[without, with]| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    let counters = rig.worker.counters();
    let of = |times: &[Duration]| Spread::of(times.to_vec());
    Outcome {
        rules: editor.policy.rule_count(),
        flows: rig.frames.len(),
        edits_per_second: options.rate,
        rule_percent: options.rule_percent,
        rounds: turns.len(),
        ns_per_packet: median(turns.iter().map(|[without, _]| *without).collect()),
        ns_per_packet_with_edits: median(turns.iter().map(|[_, with]| *with).collect()),
        ratio: median(ratios.clone()),
        ratio_least: ratios.first().copied().unwrap_or(f64::NAN),
        ratio_most: ratios.last().copied().unwrap_or(f64::NAN),
        edits: editor.published,
        packets: rig.packets,
        stopped: rig.packets - rig.passed,
        reaffirmed: counters.flow_reaffirmed.value(),
        reclassified: counters.flow_reclassified.value(),
        edit_us: of(&editor.edit),
        compile_us: of(&editor.compile),
        publish_us: of(&editor.publish),
        published_us: of(&editor.published_after),
        in_force_us: of(&editor.in_force),
        collect_us: of(&editor.collect),
        machine,
    }
}

fn print(outcome: &Outcome, json: bool) -> io::Result<()> {
    if json {
        println!("{}", serde_json::to_string(outcome)?);
        return Ok(());
    }
    let Outcome { rules, flows, edits_per_second, rule_percent, .. } = outcome;
    println!(
        "{flows} flows under {rules} rules, {edits_per_second} edits a second, {rule_percent} % of \
         them of rules"
    );
    println!(
        "ns per packet: {:.1} without edits, {:.1} with; ratio {:.3} ({:.3} to {:.3}) in {} rounds",
        outcome.ns_per_packet,
        outcome.ns_per_packet_with_edits,
        outcome.ratio,
        outcome.ratio_least,
        outcome.ratio_most,
        outcome.rounds,
    );
    println!(
        "{} edits; {} packets, {} of them stopped; flows reaffirmed {}, classified again {}",
        outcome.edits, outcome.packets, outcome.stopped, outcome.reaffirmed, outcome.reclassified,
    );
    for (what, spread) in [
        ("edit", outcome.edit_us),
        ("compile", outcome.compile_us),
        ("publish", outcome.publish_us),
        ("until published", outcome.published_us),
        ("until in force", outcome.in_force_us),
        ("collect", outcome.collect_us),
    ] {
        let Spread { median, p99, most } = spread;
        println!("{what:<16} {median:>8.1} µs median, {p99:>8.1} p99, {most:>8.1} at most");
    }
    let Machine { processor, kernel, commit, load_before, .. } = &outcome.machine;
    println!("{processor}, Linux {kernel}, commit {commit}, load {load_before} at the start");
    Ok(())
}

fn policy(options: &Options) -> io::Result<Policy> {
    let shape = Shape {
        groups: (options.rules / 20).max(10),
        addresses: (options.rules / 2).max(100),
        rules: options.rules,
        ..Shape::large(Families::V4)
    };
    let source = Source::new("policy.yaml", segmentation::text(options.seed, &shape));
    match Policy::load(&[source], &LoadOptions::default()) {
        Ok(loaded) => Ok(loaded.policy),
        Err(found) => {
            Err(io::Error::other(found.first().map(ToString::to_string).unwrap_or_default()))
        }
    }
}

/// All edits that there will be, each valid after those before it: looking for valid ones takes
/// longer than making them.
fn edits(policy: &Policy, options: &Options) -> io::Result<Vec<Edit>> {
    let seconds = options.rounds as u64 * options.turn_ms / 1000 + 1;
    let count = seconds * u64::from(options.rate) * 2;
    let mut random = RandomEdits::new(policy, options.seed)
        .with_rule_percent(options.rule_percent)
        .with_addresses_only();
    let mut policy = policy.clone();
    let mut edits = Vec::new();
    for _ in 0..count {
        let edit = random.next(&policy);
        policy = policy.edited(&edit).map_err(|_| io::Error::other("an edit is not valid"))?.0;
        edits.push(edit);
    }
    Ok(edits)
}

/// A frame of each flow.
fn frames(policy: &Policy, classifier: &Classifier, options: &Options) -> io::Result<Vec<Vec<u8>>> {
    let at = PolicyTime { unix_ms: 0, synchronised: false };
    let (mut scratch, mut rules) = (Scratch::default(), [RuleId::DEFAULT; MAX_BATCH]);
    let mut frames = Vec::with_capacity(options.flows);
    let candidates = segmentation::headers(policy, options.seed, options.flows * 8);
    for batch in candidates.chunks(MAX_BATCH) {
        classifier.classify(batch, at, &mut scratch, &mut rules);
        let permitted = batch.iter().zip(&rules).filter(|(headers, rule)| {
            classifier.action(**rule) == Action::Allow && headers.src != headers.dst
        });
        frames.extend(permitted.filter_map(|(headers, _)| frame(headers)));
    }
    frames.truncate(options.flows);
    if frames.len() < options.flows {
        let message = format!("the policy permits {} of {} flows", frames.len(), options.flows);
        return Err(io::Error::other(message));
    }
    Ok(frames)
}

/// A shortest frame with these headers; [`None`] for protocols other than TCP and UDP.
fn frame(headers: &Headers) -> Option<Vec<u8>> {
    let address = |bits: u128| match headers.ether_type {
        ETHER_IPV4 => Some(IpAddr::V4(Ipv4Addr::from(bits as u32))),
        ETHER_IPV6 => Some(IpAddr::V6(Ipv6Addr::from(bits))),
        _ => None,
    };
    let builder = FrameBuilder::new().ip(address(headers.src)?, address(headers.dst)?);
    let (src, dst) = (headers.src_port, headers.dst_port);
    match headers.protocol {
        protocol::UDP => Some(builder.udp(src, dst).build()),
        // Taken up in mid-stream, as after a start.
        protocol::TCP => Some(builder.tcp(src, dst, flag::ACK).seq(1, 1).build()),
        _ => None,
    }
}

/// The worker, what it is fed, and what it did.
struct Rig {
    worker: Worker<LoopbackPort, MonotonicClock>,
    inside: Host,
    outside: Host,
    frames: Vec<Vec<u8>>,
    random: Random,
    packets: u64,
    passed: u64,
}

impl Rig {
    fn new(reader: Reader, frames: Vec<Vec<u8>>, seed: u64) -> Self {
        let (inside_port, inside) = loopback::pair(loopback::Options::default());
        let (outside_port, outside) = loopback::pair(loopback::Options::default());
        let wire =
            WirePorts { wire: WireId(0), group: 0, inside: inside_port, outside: outside_port };
        let (recorder, _) = observe::channel(1);
        let counters = Arc::new(WorkerCounters::new(1));
        let clock = MonotonicClock::start();
        let config = WorkerConfig::default();
        let worker = Worker::new(&config, vec![wire], reader, counters, recorder, clock);
        let random = Random::new(seed);
        Self { worker, inside, outside, frames, random, packets: 0, passed: 0 }
    }

    /// For each round what a packet takes without edits and with them, in nanoseconds.
    fn turns(&mut self, options: &Options, editing: &AtomicBool) -> Vec<[f64; 2]> {
        let turn = Duration::from_millis(options.turn_ms);
        // Opens every flow, and warms up.
        for place in 0..self.frames.len() {
            self.send(place);
            if place % MAX_BURST == 0 {
                self.poll();
            }
        }
        self.turn(turn);
        (0..options.rounds)
            .map(|round| {
                let mut times = [0.0; 2];
                // Which comes first alternates, against drift.
                for which in [round % 2, 1 - round % 2] {
                    editing.store(which == 1, Ordering::Relaxed);
                    times[which] = self.turn(turn);
                }
                times
            })
            .collect()
    }

    /// Nanoseconds of the worker for each packet.
    fn turn(&mut self, turn: Duration) -> f64 {
        let begun = Instant::now();
        let (mut spent, mut packets) = (Duration::ZERO, 0);
        while begun.elapsed() < turn {
            for _ in 0..MAX_BURST {
                let place = self.random.below(self.frames.len());
                self.send(place);
            }
            spent += self.poll();
            packets += MAX_BURST;
        }
        spent.as_secs_f64() * 1e9 / packets as f64
    }

    fn send(&mut self, place: usize) {
        // The queue was emptied before this burst.
        self.packets += u64::from(self.inside.send(&self.frames[place]).is_ok());
    }

    fn poll(&mut self) -> Duration {
        let begun = processor_time();
        self.worker.poll();
        let spent = processor_time().saturating_sub(begun);
        while self.outside.receive().is_some() {
            self.passed += 1;
        }
        spent
    }
}

/// The thread that edits.
struct Editor {
    publisher: Publisher,
    policy: Policy,
    compiler: Compiler,
    edits: Vec<Edit>,
    interval: Duration,
    published: usize,
    edit: Vec<Duration>,
    compile: Vec<Duration>,
    publish: Vec<Duration>,
    published_after: Vec<Duration>,
    in_force: Vec<Duration>,
    collect: Vec<Duration>,
}

impl Editor {
    fn new(publisher: Publisher, compiler: Compiler, edits: Vec<Edit>, rate: u32) -> Self {
        let times = || Vec::with_capacity(edits.len());
        Self {
            policy: (*publisher.current().content.policy).clone(),
            publisher,
            compiler,
            interval: Duration::from_secs(1) / rate.max(1),
            published: 0,
            edit: times(),
            compile: times(),
            publish: times(),
            published_after: times(),
            in_force: times(),
            collect: times(),
            edits,
        }
    }

    /// Publishes an edit every interval while `editing` is set, until it is all over.
    fn run(&mut self, editing: &AtomicBool, over: &AtomicBool) {
        pin(0);
        let mut due = Instant::now();
        while !over.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now < due {
                thread::sleep(due - now);
            }
            due = due.max(now) + self.interval;
            if editing.load(Ordering::Relaxed) && self.published < self.edits.len() {
                self.publish_next();
            }
        }
    }

    fn publish_next(&mut self) {
        let (begun, asked) = (processor_time(), Instant::now());
        let Ok((policy, delta)) = self.policy.edited(&self.edits[self.published]) else { return };
        let edited = processor_time();
        let Ok(changes) = self.compiler.edit(&policy, &delta) else { return };
        let classifier = self.compiler.publish();
        let compiled = processor_time();
        self.policy = policy.clone();
        self.publisher.publish_edit(EditedContent {
            policy: Arc::new(policy),
            classifier,
            changes,
            rules_added: delta.rules_added,
            rules_removed: delta.rules_removed,
        });
        let published = processor_time();
        if self.publisher.wait(Duration::from_secs(1)).is_ok() {
            self.in_force.push(asked.elapsed());
        }
        let collecting = processor_time();
        self.publisher.collect();
        self.collect.push(processor_time().saturating_sub(collecting));
        self.published += 1;
        self.edit.push(edited.saturating_sub(begun));
        self.compile.push(compiled.saturating_sub(edited));
        self.publish.push(published.saturating_sub(compiled));
        self.published_after.push(published.saturating_sub(begun));
    }
}

/// What this thread has had of its processor: other threads that take it count for nothing.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Binds this thread to one of the processors, where there are several.
fn pin(place: usize) {
    if let Some(cores) = core_affinity::get_core_ids().filter(|cores| cores.len() > place) {
        core_affinity::set_for_current(cores[place]);
    }
}
