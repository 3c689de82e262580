//! A worker between two in-memory hosts, with a clock that the test moves.

use std::sync::Arc;

use bulkhead_pipeline::bindings::Tap;
use bulkhead_pipeline::counters::{PortCounters, WorkerCounters};
use bulkhead_pipeline::observe::{self, Observer};
use bulkhead_pipeline::port::Frame;
use bulkhead_pipeline::port::loopback::{self, Host, LoopbackPort};
use bulkhead_pipeline::record::Records;
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, WallClock, WirePolicy};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::{VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::Policy;

/// Milliseconds since the Unix epoch at the zero of the tests' clock: 2026-11-24T06:00:00Z.
pub(crate) const ZERO_MS: i64 = 1_795_500_000_000;

/// What a publisher needs for `text` on one wire.
pub(crate) fn content(text: &str, mode: Mode, grace_until_ns: u64) -> Content {
    let policy = Policy::parse(text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let classifier = compile(&policy, &Limits::default()).expect("the test's policy compiles");
    Content {
        policy: Arc::new(policy),
        classifier: Arc::new(classifier),
        wires: vec![WirePolicy::new(mode, grace_until_ns)],
        clock: WallClock { offset_ms: ZERO_MS, synchronised: true },
    }
}

type LoopbackWorker = Worker<LoopbackPort, VirtualClock>;

/// One wire, one worker, a host on either side.
pub(crate) struct Gateway {
    pub(crate) worker: LoopbackWorker,
    pub(crate) publisher: Publisher,
    pub(crate) observer: Observer,
    pub(crate) clock: VirtualClock,
    pub(crate) inside: Host,
    pub(crate) outside: Host,
}

impl Gateway {
    /// A gateway that judges by `text` in `mode`, without a grace time.
    pub(crate) fn new(text: &str, mode: Mode) -> Self {
        Self::with(content(text, mode, 0), &WorkerConfig::default())
    }

    /// A gateway with all that can be chosen.
    pub(crate) fn with(content: Content, config: &WorkerConfig) -> Self {
        Self::starting_at(content, config, 1)
    }

    /// A gateway whose epochs begin elsewhere.
    pub(crate) fn starting_at(content: Content, config: &WorkerConfig, first_epoch: u64) -> Self {
        Self::made(content, config, first_epoch, |worker| worker)
    }

    fn made(
        content: Content,
        config: &WorkerConfig,
        first_epoch: u64,
        fit_out: impl FnOnce(LoopbackWorker) -> LoopbackWorker,
    ) -> Self {
        let (inside_port, inside) = loopback::pair(loopback::Options::default());
        let (outside_port, outside) = loopback::pair(loopback::Options::default());
        let ports =
            WirePorts { wire: WireId(0), group: 0, inside: inside_port, outside: outside_port };
        let (publisher, mut readers) = Publisher::starting_at(content, 1, first_epoch);
        let (recorder, observer) = observe::channel(64);
        let clock = VirtualClock::default();
        let counters = Arc::new(WorkerCounters::new(1));
        let reader = readers.remove(0);
        let worker = Worker::new(config, vec![ports], reader, counters, recorder, clock.clone());
        let worker = fit_out(worker);
        Self { worker, publisher, observer, clock, inside, outside }
    }

    /// The same, whose worker hands on what is claimed of addresses.
    pub(crate) fn with_tap(content: Content, config: &WorkerConfig, tap: Tap) -> Self {
        Self::made(content, config, 1, |worker| worker.with_tap(tap))
    }

    /// The same, whose worker tells what becomes of flows.
    pub(crate) fn with_records(content: Content, config: &WorkerConfig, records: Records) -> Self {
        Self::made(content, config, 1, |worker| worker.with_records(records))
    }

    /// Moves the clock by milliseconds.
    pub(crate) fn wait_ms(&self, ms: u64) {
        use bulkhead_pipeline::worker::Clock;
        self.clock.advance_to(self.clock.now_ns() + ms * 1_000_000);
    }

    /// Sends frames from the inside host and returns what reached the outside one.
    pub(crate) fn outward(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        Self::through(&mut self.worker, &self.inside, &self.outside, frames)
    }

    /// Sends frames from the outside host and returns what reached the inside one.
    pub(crate) fn inward(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        Self::through(&mut self.worker, &self.outside, &self.inside, frames)
    }

    /// Whether this one frame from the inside gets out unchanged.
    pub(crate) fn passes_out(&mut self, frame: &[u8]) -> bool {
        match &self.outward(&[frame.to_vec()])[..] {
            [] => false,
            [out] => out == frame,
            more => panic!("one frame in, {} out", more.len()),
        }
    }

    /// Whether this one frame from the outside gets in unchanged.
    pub(crate) fn passes_in(&mut self, frame: &[u8]) -> bool {
        match &self.inward(&[frame.to_vec()])[..] {
            [] => false,
            [out] => out == frame,
            more => panic!("one frame in, {} out", more.len()),
        }
    }

    fn through(
        worker: &mut LoopbackWorker,
        from: &Host,
        to: &Host,
        frames: &[Vec<u8>],
    ) -> Vec<Vec<u8>> {
        for frame in frames {
            from.send(frame).expect("the loopback has room");
        }
        while worker.poll() > 0 {}
        worker.poll(); // Answers go out at the next turn of their direction.
        received(to)
    }

    /// Counters of the inside port.
    pub(crate) fn inside_counters(&self) -> &PortCounters {
        &self.worker.counters().wires[0].inside
    }

    /// Counters of the outside port.
    pub(crate) fn outside_counters(&self) -> &PortCounters {
        &self.worker.counters().wires[0].outside
    }

    /// Frames from the inside dropped for `reason`.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.inside_counters().dropped.of(reason).packets.value()
    }

    /// How often a rule decided.
    pub(crate) fn hits(&self, rule: &str) -> u64 {
        let totals = self.publisher.rule_totals();
        let (_, total) = totals.iter().find(|(name, _)| &**name == rule).expect("a known rule");
        total.enforced + total.observed
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let balance = self.worker.counters().balance();
            assert!(balance.is_exact(), "something was lost uncounted: {balance:?}");
        }
    }
}

/// What a host has received, in order.
pub(crate) fn received(host: &Host) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| host.receive()).map(|frame| frame.bytes().to_vec()).collect()
}
