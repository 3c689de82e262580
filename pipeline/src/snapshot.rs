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
use bulkhead_rules::classifier::{Changes, Classifier, Footprint};
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::policy::{Policy, RuleId};

use self::marks::Marks;
use crate::counters::Counter;

mod marks;

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

/// What the control thread publishes when an edit was made to the policy in force. Wires and clock
/// stay as they are.
#[derive(Clone, Debug)]
pub struct EditedContent {
    /// The edited policy. A rule that the edit left alone keeps its [`RuleId`].
    pub policy: Arc<Policy>,
    /// Its compiled form.
    pub classifier: Arc<Classifier>,
    /// The footprints, by the classifier in force, of every frame that the two judge differently at
    /// any time or that the new one gives another footprint.
    pub changes: Changes,
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
    /// The generation of the whole policy of which edits made this one.
    whole_generation: u64,
    first_epoch: u64,
    marks: Arc<Marks>,
    schedule: Vec<i64>,
    logs: Vec<bool>,
    hits: Vec<Box<[RuleHits]>>,
    /// What was published.
    pub content: Content,
}

/// A snapshot's place in the sequence of all.
#[derive(Clone, Copy, Debug)]
struct Place {
    generation: u64,
    whole_generation: u64,
    first_epoch: u64,
}

impl Snapshot {
    fn new(content: Content, place: Place, marks: Arc<Marks>, workers: usize) -> Self {
        let rules = content.policy.rules().len();
        let row = || (0..=rules).map(|_| RuleHits::default()).collect();
        let Place { generation, whole_generation, first_epoch } = place;
        Self {
            generation,
            whole_generation,
            first_epoch,
            marks,
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
    pub fn epoch_at(&self, at: PolicyTime) -> u64 {
        self.first_epoch + self.passed_at(at) as u64
    }

    /// The epoch of the snapshot's first moment.
    pub fn first_epoch(&self) -> u64 {
        self.first_epoch
    }

    /// The number of the snapshot: each has one more than its predecessor.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether nothing but edits made this snapshot of the one with this generation.
    pub fn is_edited_from(&self, generation: u64) -> bool {
        generation >= self.whole_generation
    }

    /// Whether no rule comes into force or ceases to be after `earlier` and up to `later`.
    pub fn is_constant_between(&self, earlier: PolicyTime, later: PolicyTime) -> bool {
        self.passed_at(earlier) == self.passed_at(later)
    }

    /// Whether an edit after `epoch`, up to this snapshot or later, may have changed the verdict of
    /// flows with this footprint.
    #[inline]
    pub fn has_changed_since(&self, footprint: Footprint, epoch: u64) -> bool {
        self.marks.is_touched_after(footprint, epoch)
    }

    fn passed_at(&self, at: PolicyTime) -> usize {
        self.schedule.partition_point(|&instant| instant <= at.unix_ms)
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
    edits: u64,
}

impl Publisher {
    /// Publishes the first snapshot to `workers` workers.
    pub fn new(content: Content, workers: usize) -> (Self, Vec<Reader>) {
        Self::starting_at(content, workers, 1)
    }

    /// [`Self::new`] with another first epoch than 1, so that tests can meet large ones.
    pub fn starting_at(content: Content, workers: usize, first_epoch: u64) -> (Self, Vec<Reader>) {
        let place = Place { generation: 1, whole_generation: 1, first_epoch };
        let first = Arc::new(Snapshot::new(content, place, Arc::new(Marks::new()), workers));
        let shared = Arc::new(Shared {
            current: ArcSwap::new(first.clone()),
            generation: AtomicU64::new(first.generation),
            reached: (0..workers).map(|_| Reached::default()).collect(),
        });
        let readers = (0..workers)
            .map(|worker| Reader { shared: shared.clone(), worker, snapshot: first.clone() })
            .collect();
        (Self { shared, live: vec![first], retired: HashMap::new(), edits: 0 }, readers)
    }

    /// The snapshot that was published last.
    pub fn current(&self) -> &Arc<Snapshot> {
        &self.live[self.live.len() - 1]
    }

    /// How often [`Self::publish_edit`] was called.
    pub fn edits(&self) -> u64 {
        self.edits
    }

    /// Replaces the snapshot. Workers judge their next burst by the new one, and every flow again at
    /// its next packet.
    pub fn publish(&mut self, content: Content) -> &Arc<Snapshot> {
        let place = self.next_place();
        let place = Place { whole_generation: place.generation, ..place };
        self.install(content, place)
    }

    /// Replaces the snapshot by one that an edit made of it. Workers judge their next burst by the
    /// new one; at its next packet a flow is judged again only if its footprint is among the
    /// changes, of this edit or of another since the flow was last judged.
    pub fn publish_edit(&mut self, edited: EditedContent) -> &Arc<Snapshot> {
        let EditedContent { policy, classifier, changes } = edited;
        let before = self.current();
        let mut place = self.next_place();
        // Before the generation: who sees that sees the marks.
        if !before.marks.note(&changes, place.first_epoch) {
            place.whole_generation = place.generation;
        }
        let wires = before.content.wires.clone();
        let content = Content { policy, classifier, wires, clock: before.content.clock };
        self.edits += 1;
        self.install(content, place)
    }

    /// The place of an edit of the current snapshot.
    fn next_place(&self) -> Place {
        let before = self.current();
        Place {
            generation: before.generation + 1,
            whole_generation: before.whole_generation,
            // Wherever in its schedule a worker still judges by the one before, its epoch is older.
            first_epoch: before.first_epoch + before.schedule.len() as u64 + 1,
        }
    }

    fn install(&mut self, content: Content, place: Place) -> &Arc<Snapshot> {
        let (marks, workers) = (self.current().marks.clone(), self.shared.reached.len());
        let next = Arc::new(Snapshot::new(content, place, marks, workers));
        self.live.push(next.clone());
        self.shared.current.store(next);
        self.shared.generation.store(place.generation, Ordering::Release);
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
