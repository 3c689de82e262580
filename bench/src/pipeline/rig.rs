//! A worker, what it is fed, and how its time is taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bulkhead_pipeline::counters::{VolumeByReason, WorkerCounters};
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::frames::MIN_FRAME_LEN;
use bulkhead_pipeline::observe::{self, ByFate};
use bulkhead_pipeline::port::{Burst, MAX_BURST, Port};
use bulkhead_pipeline::record::{self, Event, RecordConfig, RecordSource};
use bulkhead_pipeline::snapshot::Reader;
use bulkhead_pipeline::trace;
use bulkhead_pipeline::worker::{Clock, MonotonicClock, Stage, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::WireId;

use super::memory::{MemoryPort, Slot};
use super::traffic::{self, Flow, Sizes, Step};
use super::{Case, Kind};
use crate::random::Random;
use crate::tsc;

/// Packets that are written, then judged with the clock running: 16 bursts.
pub(crate) const BLOCK: usize = 1024;

/// Of a hundred packets of a flood, those that belong to established connections.
const CHERISHED_PERCENT: u32 = 10;

/// The worker's clock: the machine's, which can be moved on, and which if told so takes the time of
/// each stage.
#[derive(Debug)]
pub(super) struct StageClock {
    base: MonotonicClock,
    profile: Arc<Profile>,
}

/// What the clock and the rig share. Written by the worker's thread only.
#[derive(Debug, Default)]
struct Profile {
    ahead_ns: AtomicU64,
    is_staged: AtomicBool,
    last: AtomicU64,
    stages: [AtomicU64; Stage::ALL.len()],
}

impl Clock for StageClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.base.now_ns() + self.profile.ahead_ns.load(Relaxed)
    }

    /// Where stages are not measured, a branch that is always predicted: eight for a burst.
    #[inline]
    fn passed(&self, stage: Stage) {
        if !self.profile.is_staged.load(Relaxed) {
            return;
        }
        let now = tsc::now();
        let since = now.saturating_sub(self.profile.last.load(Relaxed));
        self.profile.last.store(now, Relaxed);
        let spent = &self.profile.stages[stage as usize];
        spent.store(spent.load(Relaxed) + since, Relaxed);
    }
}

/// See the module's description.
pub(super) struct Rig<'a> {
    case: &'a Case,
    flows: &'a [Flow],
    worker: Worker<MemoryPort, StageClock>,
    /// The other end of its records, where it tells any.
    source: Option<RecordSource>,
    counters: Arc<WorkerCounters>,
    spare: Vec<Slot>,
    random: Random,
    opened: usize,
    profile: Arc<Profile>,
    stopped: Stopped,
    cherished: u64,
}

/// Frames that did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Stopped {
    all: u64,
    cherished: u64,
}

/// What one turn came to.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Turn {
    /// Ticks of the time-stamp counter a packet.
    pub(super) ticks: f64,
    /// The same by stage; zero where stages were not measured.
    pub(super) stages: [f64; Stage::ALL.len()],
}

impl<'a> Rig<'a> {
    /// A worker for a case. `flows` are those that the case draws from, where it draws from any.
    pub(super) fn new(case: &'a Case, flows: &'a [Flow], reader: Reader, seed: u64) -> Self {
        let counters = Arc::new(WorkerCounters::new(1));
        let wire = WirePorts {
            wire: WireId(0),
            group: 0,
            inside: MemoryPort::default(),
            outside: MemoryPort::default(),
        };
        let profile: Arc<Profile> = Arc::default();
        let clock = StageClock { base: MonotonicClock::start(), profile: profile.clone() };
        let table = FlowTableConfig {
            capacity: case.capacity,
            per_source_limit: u32::MAX,
            ..FlowTableConfig::default()
        };
        // One host may stand for many: the budget is asked, and refuses nothing.
        let new_flows_per_source = u32::MAX;
        let config = WorkerConfig { flows: table, new_flows_per_source, ..WorkerConfig::default() };
        let (recorder, _) = observe::channel(1);
        // Nobody traces, as nearly always; a gateway's workers can be asked to.
        let worker = Worker::new(&config, vec![wire], reader, counters.clone(), recorder, clock)
            .with_tracer(trace::channel().0);
        Self {
            case,
            flows,
            worker,
            source: None,
            counters,
            spare: Slot::pool(BLOCK),
            random: Random::new(seed),
            opened: 0,
            profile,
            stopped: Stopped::default(),
            cherished: 0,
        }
    }

    /// The same, whose worker tells what becomes of flows. Before anything else.
    pub(super) fn recording(self, config: &RecordConfig) -> Self {
        let (records, source) = record::channel(config);
        Self { worker: self.worker.with_records(records), source: Some(source), ..self }
    }

    /// The other end of the records, for a thread that empties it.
    pub(super) fn take_source(&mut self) -> Option<RecordSource> {
        self.source.take()
    }

    /// Flow records that were told, and that were lost.
    pub(super) fn records_told(&self) -> (u64, u64) {
        self.source.as_ref().map_or((0, 0), |source| {
            let counters = source.counters();
            let told = Event::ALL.iter().map(|&event| counters.told(event).value()).sum();
            (told, counters.lost_in_all())
        })
    }

    /// Opens a block of new flows. Returns how many.
    pub(super) fn open_block(&mut self) -> usize {
        self.fill();
        self.run();
        self.collect();
        BLOCK
    }

    /// Empties the rings of records.
    fn take_records(&mut self) {
        if let Some(source) = &mut self.source {
            while source.flow().is_some() {}
            while source.short_copy().is_some() || source.long_copy().is_some() {}
        }
    }

    /// Opens all flows that are to be there, through the worker, and fills the table of a flood.
    pub(super) fn prepare(&mut self) {
        let mut first = 0;
        while first < self.case.flows {
            let numbers = first..self.case.flows.min(first + BLOCK);
            for step in [Step::Open, Step::Answer, Step::Data] {
                for number in numbers.clone() {
                    self.send(step != Step::Answer, self.flow(number), step);
                }
                self.run();
                self.collect();
            }
            first = numbers.end;
        }
        self.opened = self.case.flows;
        if self.case.kind == Kind::Flood {
            for _ in 0..2 * self.case.capacity / BLOCK {
                self.fill();
                self.run();
                self.collect();
            }
        }
        self.stopped = Stopped::default();
        self.cherished = 0;
    }

    /// Judges about `packets` packets, block by block.
    pub(super) fn turn(&mut self, packets: usize, staged: bool) -> Turn {
        self.profile.is_staged.store(staged, Relaxed);
        let blocks = packets.div_ceil(BLOCK);
        let mut ticks = Vec::with_capacity(blocks);
        let mut of_stages = Stage::ALL.map(|_| Vec::with_capacity(blocks));
        for _ in 0..blocks {
            self.fill();
            ticks.push(self.timed_run());
            for (stage, ticks) in self.profile.stages.iter().zip(&mut of_stages) {
                ticks.push(stage.swap(0, Relaxed));
            }
            self.collect();
        }
        // Every stage is told once a burst: what telling costs is not theirs.
        let telling = tsc::cost() as f64 / MAX_BURST as f64;
        let stages = of_stages.map(|ticks| (middle(ticks) - telling).max(0.0));
        self.profile.is_staged.store(false, Relaxed);
        if self.case.kind == Kind::Miss {
            self.forget();
        }
        Turn { ticks: middle(ticks), stages }
    }

    /// The ports alone: frames received and sent, without a look at them.
    pub(super) fn bare_turn(&mut self, packets: usize) -> f64 {
        let blocks = packets.div_ceil(BLOCK);
        let mut ticks = Vec::with_capacity(blocks);
        let mut burst = Burst::new();
        for _ in 0..blocks {
            self.fill();
            let Some((inside, outside)) = self.worker.ports_mut(0) else { continue };
            let began = tsc::now();
            bare(inside, outside, &mut burst);
            bare(outside, inside, &mut burst);
            ticks.push(tsc::now() - began);
            self.collect();
        }
        middle(ticks)
    }

    /// Frames that did not pass and should have: all, but for those of a flood.
    pub(super) fn wrongly_stopped(&self) -> u64 {
        if self.case.kind == Kind::Flood { self.stopped.cherished } else { self.stopped.all }
    }

    /// Frames that did not pass since the worker began, by why. Of a flood most are its own.
    pub(super) fn stopped_by(&self) -> BTreeMap<&'static str, u64> {
        let wires = self.counters.wires.iter();
        let dropped = wires.flat_map(|wire| [&wire.inside.dropped, &wire.outside.dropped]);
        let mut by_reason = BTreeMap::new();
        for (reason, volume) in dropped.flat_map(VolumeByReason::iter) {
            if volume.packets.value() > 0 {
                *by_reason.entry(reason.label()).or_default() += volume.packets.value();
            }
        }
        by_reason
    }

    /// Of a flood, the share of the established connections' frames that did not pass.
    pub(super) fn cherished_lost(&self) -> Option<f64> {
        (self.case.kind == Kind::Flood)
            .then(|| self.stopped.cherished as f64 / self.cherished.max(1) as f64)
    }

    /// Flows in the table, and what it has room for.
    pub(super) fn flows(&self) -> (u64, u64) {
        (self.counters.flows.value(), self.counters.flow_capacity.value())
    }

    /// Writes a block of frames.
    fn fill(&mut self) {
        for place in 0..BLOCK {
            match self.case.kind {
                Kind::Hit => self.send_known(place),
                Kind::Miss => self.send_new(),
                Kind::Mixed if self.random.percent(1) => self.send_new(),
                Kind::Mixed => self.send_known(place),
                Kind::Flood if self.random.percent(CHERISHED_PERCENT) => {
                    self.cherished += 1;
                    self.send_known(place);
                }
                Kind::Flood => {
                    let flow = traffic::flood(self.case.family, &mut self.random);
                    self.send(true, flow, Step::Open);
                }
            }
        }
    }

    /// A packet of one of the flows that are there, in either direction.
    fn send_known(&mut self, place: usize) {
        let number = self.random.below(self.case.flows);
        let flow = self.flow(number);
        if place % 2 == 0 {
            self.send(true, flow, Step::Data);
        } else {
            self.send(false, flow, Step::Reply);
        }
    }

    /// The first packet of a flow that was never there.
    fn send_new(&mut self) {
        let flow = self.flow(self.opened);
        self.opened += 1;
        self.send(true, flow, Step::Open);
    }

    fn flow(&self, number: usize) -> Flow {
        match self.flows.len() {
            0 => traffic::numbered(number, self.case.family, self.case.sizes == Sizes::Imix),
            count => {
                // Flows of one round differ from those of others by the port that they come from.
                let flow = self.flows[number % count];
                let port = (number / count) % (usize::from(u16::MAX) - 1024);
                Flow { src_port: 1024 + port as u16, ..flow }
            }
        }
    }

    fn send(&mut self, from_inside: bool, flow: Flow, step: Step) {
        let len = match step {
            Step::Data | Step::Reply => self.case.sizes.draw(&mut self.random),
            Step::Open | Step::Answer => MIN_FRAME_LEN,
        };
        // As many as are ever under way at once.
        let Some(mut slot) = self.spare.pop() else { return };
        slot.fill(|out| traffic::write(out, &flow, self.case.family, step, len));
        slot.is_cherished = matches!(step, Step::Data | Step::Reply);
        if let Some((inside, outside)) = self.worker.ports_mut(0) {
            let port = if from_inside { inside } else { outside };
            port.deliver(slot);
        }
    }

    /// Judges what has arrived, with the clock running. Not inlined, so that a profiler finds it by
    /// name.
    #[inline(never)]
    fn timed_run(&mut self) -> u64 {
        let began = tsc::now();
        self.profile.last.store(began, Relaxed);
        self.run();
        tsc::now() - began
    }

    /// Judges what has arrived.
    fn run(&mut self) {
        let Some((inside, outside)) = self.worker.ports_mut(0) else { return };
        for _ in 0..inside.bursts().max(outside.bursts()) {
            self.worker.poll();
        }
    }

    /// Takes the frames back.
    fn collect(&mut self) {
        self.take_records();
        let Some((inside, outside)) = self.worker.ports_mut(0) else { return };
        for port in [inside, outside] {
            let (released, sent) = port.drain();
            for slot in released {
                self.stopped.all += 1;
                self.stopped.cherished += u64::from(slot.is_cherished);
                self.spare.push(slot);
            }
            self.spare.extend(sent);
        }
    }

    /// Lets so much time pass that flows which nobody answered are forgotten.
    fn forget(&mut self) {
        const LONGEST_UNANSWERED_NS: u64 = 31_000_000_000;
        const SWEEP_NS: u64 = 4_000_000_000;
        const AGED_AT_ONCE: u64 = 64;
        let (_, capacity) = self.flows();
        let steps = (capacity / AGED_AT_ONCE).max(1);
        self.profile.ahead_ns.fetch_add(LONGEST_UNANSWERED_NS, Relaxed);
        for _ in 0..2 * steps {
            if self.counters.flows.value() == 0 {
                return;
            }
            self.profile.ahead_ns.fetch_add(SWEEP_NS / steps + 1, Relaxed);
            self.worker.poll();
            self.take_records();
        }
    }
}

#[inline(never)]
fn bare(from: &mut MemoryPort, to: &mut MemoryPort, burst: &mut Burst<Slot>) {
    loop {
        from.receive(burst);
        if burst.is_empty() {
            return;
        }
        to.transmit(burst);
    }
}

/// What the histograms of latency cost: ticks a packet of full bursts, for telling whether a burst is
/// to be timed, reading the clock where it is, and recording.
pub(super) fn cost_of_latency() -> f64 {
    const FULL: ByFate = [MAX_BURST as u64, 0, 0];
    let (mut recorder, _observer) = observe::channel(1);
    let clock = MonotonicClock::start();
    let bursts = BLOCK / MAX_BURST;
    let blocks = (0..1000).map(|_| {
        let began = tsc::now();
        for _ in 0..bursts {
            // At worst the clock is read for nothing else.
            let received_ns = recorder.is_due().then(|| clock.now_ns());
            let took_ns = received_ns.map(|received_ns| clock.now_ns() - received_ns);
            recorder.record_burst(std::hint::black_box(FULL), took_ns);
        }
        tsc::now() - began
    });
    middle(blocks.collect())
}

/// Ticks a packet in the middle block: those that another process interrupted are not like it.
pub(crate) fn middle(mut blocks: Vec<u64>) -> f64 {
    let count = blocks.len();
    if count == 0 {
        return f64::NAN;
    }
    let (_, &mut middle, _) = blocks.select_nth_unstable(count / 2);
    middle as f64 / BLOCK as f64
}
