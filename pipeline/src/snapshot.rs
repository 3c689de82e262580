//! The policy that judges, and how it is replaced while packets flow.
//!
//! The control thread publishes a snapshot with one atomic pointer swap. A worker looks at a
//! generation number once per burst, takes the new snapshot when it has changed, and then says which
//! generation it has reached. The [`Publisher`] keeps every snapshot until all workers have reached
//! a later one, so the last reference is always dropped on the control thread: no destructor runs on
//! a worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bulkhead_rules::classifier::Classifier;
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::policy::{Policy, RuleId};

use crate::counters::Counter;

/// What a wire does with what it judges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Forward everything that is a frame at all, and count what `Enforce` would have dropped.
    Observe,
    /// Forward what the policy permits and nothing else.
    Enforce,
}

/// How a wire is to be judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WirePolicy {
    /// Observe or enforce.
    pub mode: Mode,
    /// Until this instant of the workers' clock, in nanoseconds, TCP connections that the gateway
    /// did not see opening are adopted in the direction that the policy permits.
    pub grace_until_ns: u64,
}

/// How the workers' monotonic clock reads as wall-clock time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Milliseconds since the Unix epoch at the zero of the workers' clock.
    pub offset_ms: i64,
    /// Whether the wall clock is known to be synchronised.
    pub synchronised: bool,
}

impl WallClock {
    /// The wall-clock time at an instant of the workers' clock.
    pub fn at(&self, now_ns: u64) -> PolicyTime {
        let unix_ms = self.offset_ms.saturating_add((now_ns / 1_000_000) as i64);
        PolicyTime { unix_ms, synchronised: self.synchronised }
    }
}

/// What the control thread publishes.
#[derive(Clone, Debug)]
pub struct Content {
    /// The checked policy, for names and for people.
    pub policy: Arc<Policy>,
    /// Its compiled form.
    pub classifier: Arc<Classifier>,
    /// One for each wire of the gateway, by [`bulkhead_rules::headers::WireId`].
    pub wires: Vec<WirePolicy>,
    /// The wall clock.
    pub clock: WallClock,
}

/// How often a rule decided: flows that it opened, and packets that it kept from opening one.
#[derive(Debug, Default)]
pub struct RuleHits {
    /// On enforcing wires.
    pub enforced: Counter,
    /// On observing wires.
    pub observed: Counter,
}

/// One whole policy, as workers see it. Immutable but for the hit counters, of which each worker has
/// its own row.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    first_epoch: u32,
    schedule: Vec<i64>,
    logs: Vec<bool>,
    hits: Vec<Box<[RuleHits]>>,
    /// What was published.
    pub content: Content,
}

impl Snapshot {
    fn new(content: Content, generation: u64, first_epoch: u32, workers: usize) -> Self {
        let rules = content.policy.rules().len();
        let row = || (0..=rules).map(|_| RuleHits::default()).collect();
        Self {
            generation,
            first_epoch,
            schedule: content.policy.schedule(),
            logs: content.policy.rules().iter().map(|rule| rule.log).collect(),
            hits: (0..workers).map(|_| row()).collect(),
            content,
        }
    }

    /// The epoch in which a flow is judged at `at`. It advances at every instant at which a rule
    /// comes into force or ceases to be, and with every snapshot, so that an entry of an older epoch
    /// is known to need another look. Within a snapshot the workers' clock never goes back; a wall
    /// clock that does is published anew.
    pub fn epoch_at(&self, at: PolicyTime) -> u32 {
        let passed = self.schedule.partition_point(|&instant| instant <= at.unix_ms);
        self.first_epoch.wrapping_add(passed as u32)
    }

    /// The epoch of the snapshot's first moment, for metrics.
    pub fn first_epoch(&self) -> u32 {
        self.first_epoch
    }

    /// Whether the verdicts of a rule are to be logged.
    pub fn is_logged(&self, rule: RuleId) -> bool {
        self.logs.get(rule.0 as usize).copied().unwrap_or(false)
    }

    /// Where `worker` counts the decisions of `rule`; the default has the last place.
    pub fn hits(&self, worker: usize, rule: RuleId) -> &RuleHits {
        let row = &self.hits[worker];
        &row[(rule.0 as usize).min(row.len() - 1)]
    }
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Snapshot>,
    generation: AtomicU64,
    reached: Box<[Reached]>,
}

/// The generation that a worker has reached, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Reached(AtomicU64);

/// A worker's view.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    worker: usize,
    snapshot: Arc<Snapshot>,
}

impl Reader {
    /// The snapshot to judge the next burst by. Says to the publisher that this worker has passed
    /// all older ones. One atomic load and one store where nothing has changed.
    pub fn refresh(&mut self) -> &Arc<Snapshot> {
        if self.shared.generation.load(Ordering::Acquire) != self.snapshot.generation {
            // The publisher still holds the old one: this drop frees nothing.
            self.snapshot = self.shared.current.load_full();
        }
        let reached = &self.shared.reached[self.worker].0;
        reached.store(self.snapshot.generation, Ordering::Release);
        &self.snapshot
    }

    /// The index of this worker, for [`Snapshot::hits`].
    pub fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // A worker that has ended holds nothing back.
        self.shared.reached[self.worker].0.store(u64::MAX, Ordering::Release);
    }
}

/// A worker that did not reach the published snapshot in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stalled {
    /// Its index.
    pub worker: usize,
}

/// How often a rule decided since the gateway started, for as long as a rule of that name has been
/// in every policy since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleTotals {
    /// On enforcing wires.
    pub enforced: u64,
    /// On observing wires.
    pub observed: u64,
}

/// The control thread's end: publishes snapshots and frees those that no worker can see any more.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// Every snapshot that a worker may still read, oldest first; the last is the current one.
    live: Vec<Arc<Snapshot>>,
    /// Hits of snapshots that were freed.
    retired: HashMap<Arc<str>, RuleTotals>,
}

impl Publisher {
    /// Publishes the first snapshot to `workers` workers.
    pub fn new(content: Content, workers: usize) -> (Self, Vec<Reader>) {
        let first = Arc::new(Snapshot::new(content, 1, 1, workers));
        let shared = Arc::new(Shared {
            current: ArcSwap::new(first.clone()),
            generation: AtomicU64::new(first.generation),
            reached: (0..workers).map(|_| Reached::default()).collect(),
        });
        let readers = (0..workers)
            .map(|worker| Reader { shared: shared.clone(), worker, snapshot: first.clone() })
            .collect();
        (Self { shared, live: vec![first], retired: HashMap::new() }, readers)
    }

    /// The snapshot that was published last.
    pub fn current(&self) -> &Arc<Snapshot> {
        &self.live[self.live.len() - 1]
    }

    /// Replaces the snapshot. Workers judge their next burst by the new one.
    pub fn publish(&mut self, content: Content) -> &Arc<Snapshot> {
        let before = self.current();
        let epochs = before.schedule.len() as u32 + 1;
        let first_epoch = before.first_epoch.wrapping_add(epochs);
        let workers = self.shared.reached.len();
        let next = Snapshot::new(content, before.generation + 1, first_epoch, workers);
        let next = Arc::new(next);
        self.live.push(next.clone());
        self.shared.current.store(next.clone());
        self.shared.generation.store(next.generation, Ordering::Release);
        self.current()
    }

    /// Waits until every worker judges by the current snapshot, or `timeout` is over.
    ///
    /// # Errors
    ///
    /// The first worker that has not reached it.
    pub fn wait(&self, timeout: Duration) -> Result<Duration, Stalled> {
        let start = Instant::now();
        let generation = self.current().generation;
        loop {
            let behind = (self.shared.reached.iter())
                .position(|reached| reached.0.load(Ordering::Acquire) < generation);
            match behind {
                None => return Ok(start.elapsed()),
                Some(worker) if start.elapsed() >= timeout => return Err(Stalled { worker }),
                Some(_) => std::thread::sleep(Duration::from_micros(20)),
            }
        }
    }

    /// Frees, here and now, the snapshots that all workers have passed. Returns how many.
    pub fn collect(&mut self) -> usize {
        let reached = (self.shared.reached.iter())
            .map(|reached| reached.0.load(Ordering::Acquire))
            .min()
            .unwrap_or(u64::MAX);
        let last = self.live.len() - 1;
        let free = self.live[..last].iter().take_while(|s| s.generation < reached).count();
        let freed: Vec<_> = self.live.drain(..free).collect();
        for snapshot in &freed {
            add_hits(&mut self.retired, snapshot);
        }
        if free > 0 {
            // Names that no live policy has are forgotten, or endless edits would fill the memory.
            let live: std::collections::HashSet<&str> = (self.live.iter())
                .flat_map(|s| s.content.policy.rules())
                .map(|rule| &*rule.name)
                .collect();
            self.retired.retain(|name, _| &**name == DEFAULT_NAME || live.contains(&**name));
        }
        freed.len()
    }

    /// The decisions of each rule of the current policy, the default last under the name `default`.
    pub fn rule_totals(&self) -> Vec<(Arc<str>, RuleTotals)> {
        let mut totals = self.retired.clone();
        for snapshot in &self.live {
            add_hits(&mut totals, snapshot);
        }
        let names = self.current().content.policy.rules().iter().map(|rule| rule.name.clone());
        (names.chain([Arc::from(DEFAULT_NAME)]))
            .map(|name| {
                let total = totals.get(&name).copied().unwrap_or_default();
                (name, total)
            })
            .collect()
    }
}

/// What the default is called where rules are named. No rule may have this name.
const DEFAULT_NAME: &str = "default";

fn add_hits(totals: &mut HashMap<Arc<str>, RuleTotals>, snapshot: &Snapshot) {
    let policy = &snapshot.content.policy;
    for worker in 0..snapshot.hits.len() {
        for index in 0..=policy.rules().len() {
            let (name, id) = match policy.rules().get(index) {
                Some(rule) => (rule.name.clone(), RuleId(index as u32)),
                None => (Arc::from(DEFAULT_NAME), RuleId::DEFAULT),
            };
            let hits = snapshot.hits(worker, id);
            let total = totals.entry(name).or_default();
            total.enforced += hits.enforced.value();
            total.observed += hits.observed.value();
        }
    }
}
