//! The policy that judges, and how it is replaced while packets flow.
//!
//! The control thread publishes a snapshot with one atomic pointer swap. A worker looks at a
//! generation number once per burst, takes the new snapshot when it has changed, and then says which
//! generation it has reached. The [`Publisher`] keeps every snapshot until all workers have reached
//! a later one, so the last reference is always dropped on the control thread: no destructor runs on
//! a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bulkhead_rules::classifier::{Changes, Classifier, Footprint};
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::policy::{Policy, RuleId};

use crate::parse::Tunnels;

mod hits;
mod marks;
mod publisher;
pub mod staged;

use self::hits::HitTable;
pub use self::hits::{RuleHits, RuleTotals};
use self::marks::Marks;
pub use self::publisher::{Publisher, Stalled};
use self::staged::Staged;

/// What a wire does with what it judges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Forward everything that is a frame at all, and count what `Enforce` would have dropped.
    Observe,
    /// Forward what the policy permits and nothing else.
    Enforce,
}

/// What becomes of TCP connections that the gateway did not see opening.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TcpPickup {
    /// Adopted in the direction that the policy permits: during the grace time where the wire
    /// enforces, always where it observes.
    #[default]
    Loose,
    /// Dropped; an observing wire reports that they would be.
    Strict,
}

/// Some of the two sides of a wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sides {
    /// The side of the inside port.
    pub inside: bool,
    /// The side of the outside port.
    pub outside: bool,
}

impl Sides {
    /// Neither side.
    pub const NONE: Self = Self { inside: false, outside: false };
    /// The inside alone.
    pub const INSIDE: Self = Self { inside: true, outside: false };
    /// The outside alone.
    pub const OUTSIDE: Self = Self { inside: false, outside: true };
    /// Either side.
    pub const BOTH: Self = Self { inside: true, outside: true };

    /// Whether the side that frames come from is among them.
    pub fn has(self, from_inside: bool) -> bool {
        if from_inside { self.inside } else { self.outside }
    }
}

/// How a wire is to be judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WirePolicy {
    /// Observe or enforce.
    pub mode: Mode,
    /// Until this instant of the workers' clock, in nanoseconds, TCP connections that the gateway
    /// did not see opening are adopted in the direction that the policy permits.
    pub grace_until_ns: u64,
    /// Whether they are adopted at all.
    pub tcp: TcpPickup,
    /// Where routers are: router advertisements and ICMPv6 redirects come from there only.
    pub routers: Sides,
    /// Where DHCP servers are: what servers send to clients comes from there only, whatever the
    /// policy permits.
    pub dhcp_servers: Sides,
    /// Whether every host stays on its side of the wire for as long as its flows live: what comes with
    /// the MAC addresses of a flow from the other side is not its flow's then.
    pub fixed_sides: bool,
    /// The tunnels whose inner packets are judged in place of the outer ones, where there are any.
    pub tunnels: Option<Arc<Tunnels>>,
    /// So many of the policy's rules, from the first one on, keep out what they deny even where the
    /// wire observes: a quarantine does not wait for a lockdown.
    pub quarantine_rules: u32,
}

impl WirePolicy {
    /// A wire in `mode`, with a grace time, and the defaults for everything else.
    pub const fn new(mode: Mode, grace_until_ns: u64) -> Self {
        let (routers, dhcp_servers) = (Sides::OUTSIDE, Sides::OUTSIDE);
        let (tcp, tunnels) = (TcpPickup::Loose, None);
        let (fixed_sides, quarantine_rules) = (true, 0);
        Self {
            mode,
            grace_until_ns,
            tcp,
            routers,
            dhcp_servers,
            fixed_sides,
            tunnels,
            quarantine_rules,
        }
    }

    /// Whether a TCP connection may be taken up in its middle at `now_ns`.
    pub fn adopts(&self, now_ns: u64) -> bool {
        // An observing wire adopts always: a lockdown brings its own grace time, and until then a
        // session that was there before the gateway is no denial to report.
        self.tcp == TcpPickup::Loose && (self.mode == Mode::Observe || now_ns < self.grace_until_ns)
    }
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
    /// The rules that the edit brought, in free places or at the end.
    pub rules_added: Vec<RuleId>,
    /// The rules that it took away; one in the same place may be among the added ones.
    pub rules_removed: Vec<RuleId>,
}

/// One whole policy, as workers see it. Immutable but for the hit counters, of which each worker has
/// its own, and for the marks of later edits.
#[derive(Debug)]
pub struct Snapshot {
    place: Place,
    marks: Arc<Marks>,
    schedule: Arc<[i64]>,
    /// A bit for each rule.
    logs: Arc<[u64]>,
    hits: HitTable,
    /// What was published.
    pub content: Content,
    staged: Option<Arc<Staged>>,
}

/// A snapshot's place in the sequence of all.
#[derive(Clone, Copy, Debug)]
struct Place {
    generation: u64,
    /// The generation of the last snapshot that was published whole.
    loaded_generation: u64,
    /// That of the last from which on there were only edits that marks tell: the same one, or an
    /// edit that touched everything.
    whole_generation: u64,
    first_epoch: u64,
}

impl Snapshot {
    /// A snapshot that owes nothing to another. Costs time and memory for every rule.
    fn whole(
        content: Content,
        staged: Option<Arc<Staged>>,
        place: Place,
        marks: Arc<Marks>,
        workers: usize,
    ) -> Self {
        let policy = &content.policy;
        let mut logs = vec![0; policy.rules().len().div_ceil(64)];
        for (rule, _) in policy.rules().iter().enumerate().filter(|(_, rule)| rule.log) {
            logs[rule / 64] |= 1 << (rule % 64);
        }
        Self {
            place,
            marks,
            schedule: schedule(policy, staged.as_deref()),
            logs: logs.into(),
            hits: HitTable::new(policy.rules().len(), workers),
            content,
            staged,
        }
    }

    /// The snapshot that an edit makes of this one. Shares all that the edit leaves alone.
    fn edited(&self, edited: EditedContent, place: Place) -> Self {
        let EditedContent { policy, classifier, rules_added, rules_removed, .. } = edited;
        let touched = rules_added.iter().filter_map(|&rule| policy.rule(rule));
        let gone = rules_removed.iter().filter_map(|&rule| self.content.policy.rule(rule));
        let (mut timed, mut logged) = (false, false);
        for rule in touched.chain(gone) {
            timed |= rule.starts.is_some() || rule.expires.is_some();
            logged |= rule.log;
        }
        let mut logs = self.logs.clone();
        if logged {
            let mut words = logs.to_vec();
            words.resize(words.len().max(policy.rules().len().div_ceil(64)), 0);
            for &rule in rules_removed.iter().chain(&rules_added) {
                let (word, bit) = (rule.0 as usize / 64, 1 << (rule.0 % 64));
                let logs = policy.rule(rule).is_some_and(|rule| rule.log && !rule.is_removed());
                if let Some(word) = words.get_mut(word) {
                    *word = if logs { *word | bit } else { *word & !bit };
                }
            }
            logs = words.into();
        }
        Self {
            place,
            marks: self.marks.clone(),
            schedule: match timed {
                true => schedule(&policy, self.staged.as_deref()),
                false => self.schedule.clone(),
            },
            logs,
            hits: self.hits.edited(policy.rules().len(), &rules_removed),
            content: Content {
                policy,
                classifier,
                wires: self.content.wires.clone(),
                clock: self.content.clock,
            },
            staged: self.staged.clone(),
        }
    }

    /// The policy that is staged beside this one, if there is one.
    #[inline]
    pub fn staged(&self) -> Option<&Arc<Staged>> {
        self.staged.as_ref()
    }

    /// The epoch in which a flow is judged at `at`. It advances at every instant at which a rule
    /// comes into force or ceases to be, and with every snapshot, so that an entry of an older epoch
    /// is known to need another look. Within a snapshot the workers' clock never goes back; a wall
    /// clock that does is published anew.
    pub fn epoch_at(&self, at: PolicyTime) -> u64 {
        self.place.first_epoch + self.passed_at(at) as u64
    }

    /// The epoch of the snapshot's first moment.
    pub fn first_epoch(&self) -> u64 {
        self.place.first_epoch
    }

    /// The number of the snapshot: each has one more than its predecessor.
    pub fn generation(&self) -> u64 {
        self.place.generation
    }

    /// Whether nothing but edits made this snapshot of the one with this generation.
    pub fn is_edited_from(&self, generation: u64) -> bool {
        generation >= self.place.whole_generation
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
        let word = self.logs.get(rule.0 as usize / 64).copied().unwrap_or(0);
        word >> (rule.0 % 64) & 1 != 0
    }

    /// Where `worker` counts the decisions of `rule`.
    pub fn hits(&self, worker: usize, rule: RuleId) -> &RuleHits {
        self.hits.of(worker, rule)
    }
}

/// The instants at which a rule of either policy comes into force or ceases to be, ascending.
fn schedule(policy: &Policy, staged: Option<&Staged>) -> Arc<[i64]> {
    let mut instants = policy.schedule();
    if let Some(staged) = staged {
        instants.extend(staged.content.policy.schedule());
        instants.sort_unstable();
        instants.dedup();
    }
    instants.into()
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
        if self.shared.generation.load(Ordering::Acquire) != self.snapshot.place.generation {
            // The publisher still holds the old one: this drop frees nothing.
            self.snapshot = self.shared.current.load_full();
        }
        let reached = &self.shared.reached[self.worker].0;
        reached.store(self.snapshot.place.generation, Ordering::Release);
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
