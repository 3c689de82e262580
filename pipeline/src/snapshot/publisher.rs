//! The control thread's end: what workers judge by is replaced, and freed, here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bulkhead_rules::policy::RuleId;

use super::hits::{DEFAULT_NAME, RuleTotals, name_of};
use super::marks::Marks;
use super::staged::{Staged, Staging};
use super::{Content, EditedContent, Place, Reached, Reader, Shared, Snapshot};

/// A worker that did not reach the published snapshot in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stalled {
    /// Its index.
    pub worker: usize,
}

/// The control thread's end: publishes snapshots and frees those that no worker can see any more.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// Every snapshot that a worker may still read, oldest first; the last is the current one.
    live: Vec<Arc<Snapshot>>,
    /// Decisions that were counted where no live snapshot counts, by the rule's name.
    settled: HashMap<Arc<str>, RuleTotals>,
    /// Names that edits took away and none brought back, and the first generation without them.
    departed: HashMap<Arc<str>, u64>,
    /// Rules that edits brought or took since the last whole publication, and the first epoch in
    /// which they were there or not.
    changed_rules: HashMap<RuleId, u64>,
    loaded_epoch: u64,
    edits: u64,
}

impl Publisher {
    /// Publishes the first snapshot to `workers` workers.
    pub fn new(content: Content, workers: usize) -> (Self, Vec<Reader>) {
        Self::starting_at(content, workers, 1)
    }

    /// [`Self::new`] with another first epoch than 1, so that tests can meet large ones.
    pub fn starting_at(content: Content, workers: usize, first_epoch: u64) -> (Self, Vec<Reader>) {
        let place = Place { generation: 1, loaded_generation: 1, whole_generation: 1, first_epoch };
        let first =
            Arc::new(Snapshot::whole(content, None, place, Arc::new(Marks::new()), workers));
        let shared = Arc::new(Shared {
            current: ArcSwap::new(first.clone()),
            generation: AtomicU64::new(place.generation),
            reached: (0..workers).map(|_| Reached::default()).collect(),
        });
        let readers = (0..workers)
            .map(|worker| Reader { shared: shared.clone(), worker, snapshot: first.clone() })
            .collect();
        let publisher = Self {
            shared,
            live: vec![first],
            settled: HashMap::new(),
            departed: HashMap::new(),
            changed_rules: HashMap::new(),
            loaded_epoch: first_epoch,
            edits: 0,
        };
        (publisher, readers)
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
        self.publish_with(content, Staging::Keep)
    }

    /// Stages a policy beside the one in force, or no longer. Every flow is judged again at its next
    /// packet.
    pub fn stage(&mut self, staging: Staging) -> &Arc<Snapshot> {
        self.publish_with(self.current().content.clone(), staging)
    }

    /// [`Self::publish`] and [`Self::stage`] in one: no packet is judged between the two.
    pub fn publish_with(&mut self, content: Content, staging: Staging) -> &Arc<Snapshot> {
        let staged = self.staged(staging);
        let place = self.next_place();
        let generation = place.generation;
        let place = Place { loaded_generation: generation, whole_generation: generation, ..place };
        let (marks, workers) = (self.current().marks.clone(), self.shared.reached.len());
        for rule in content.policy.rules().iter().filter(|rule| !rule.is_removed()) {
            self.departed.remove(&rule.name);
        }
        self.changed_rules.clear();
        self.loaded_epoch = place.first_epoch;
        self.install(Snapshot::whole(content, staged, place, marks, workers))
    }

    /// Replaces the snapshot by one that an edit made of it. Workers judge their next burst by the
    /// new one; at its next packet a flow is judged again only if its footprint is among the
    /// changes, of this edit or of another since the flow was last judged.
    ///
    /// Takes microseconds, however many rules there are.
    pub fn publish_edit(&mut self, edited: EditedContent) -> &Arc<Snapshot> {
        let before = self.live[self.live.len() - 1].clone();
        let mut place = self.next_place();
        // Before the generation: who sees that sees the marks.
        if !before.marks.note(&edited.changes, place.first_epoch) {
            place.whole_generation = place.generation;
        }
        for &rule in &edited.rules_removed {
            if let Some(name) = name_of(&before.content.policy, rule) {
                self.departed.insert(name, place.generation);
            }
        }
        for &rule in &edited.rules_added {
            self.departed.remove(edited.policy.rule_name(rule));
        }
        for &rule in edited.rules_removed.iter().chain(&edited.rules_added) {
            self.changed_rules.insert(rule, place.first_epoch);
        }
        self.edits += 1;
        self.install(before.edited(edited, place))
    }

    fn staged(&self, staging: Staging) -> Option<Arc<Staged>> {
        let workers = self.shared.reached.len();
        let (now, number) = (self.current().staged(), self.next_place().first_epoch);
        match (staging, now) {
            (Staging::Keep, now) => now.cloned(),
            (Staging::Put(policy), _) => Some(Arc::new(Staged::new(policy, workers, number))),
            (Staging::Renew, Some(now)) => {
                Some(Arc::new(Staged::new(now.content.clone(), workers, number)))
            }
            (Staging::Follow(content), Some(now)) => {
                Some(Arc::new(Staged { content, tally: now.tally.clone() }))
            }
            (Staging::Drop | Staging::Renew | Staging::Follow(_), _) => None,
        }
    }

    /// The place of an edit of the current snapshot.
    fn next_place(&self) -> Place {
        let before = self.current();
        Place {
            generation: before.place.generation + 1,
            loaded_generation: before.place.loaded_generation,
            whole_generation: before.place.whole_generation,
            // Wherever in its schedule a worker still judges by the one before, its epoch is older.
            first_epoch: before.place.first_epoch + before.schedule.len() as u64 + 1,
        }
    }

    fn install(&mut self, next: Snapshot) -> &Arc<Snapshot> {
        let (generation, next) = (next.place.generation, Arc::new(next));
        self.live.push(next.clone());
        self.shared.current.store(next);
        self.shared.generation.store(generation, Ordering::Release);
        self.current()
    }

    /// Waits until every worker judges by the current snapshot, or `timeout` is over.
    ///
    /// # Errors
    ///
    /// The first worker that has not reached it.
    pub fn wait(&self, timeout: Duration) -> Result<Duration, Stalled> {
        let start = Instant::now();
        let generation = self.current().place.generation;
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
        let free = self.live[..last].iter().take_while(|s| s.place.generation < reached).count();
        for pair in self.live[..=free].windows(2) {
            settle(&pair[0], &pair[1], &mut self.settled);
        }
        let freed: Vec<_> = self.live.drain(..free).collect();
        self.forget(&freed);
        freed.len()
    }

    /// Forgets the decisions under names that no live policy has, or endless changes would fill the
    /// memory.
    fn forget(&mut self, freed: &[Arc<Snapshot>]) {
        let oldest = self.live[0].place.generation;
        let settled = &mut self.settled;
        self.departed.retain(|name, first_without| {
            let is_gone = *first_without <= oldest;
            if is_gone {
                settled.remove(name);
            }
            !is_gone
        });
        let loaded = self.live[0].place.loaded_generation;
        if freed.iter().any(|s| s.place.loaded_generation != loaded) {
            let live: HashSet<Arc<str>> = (self.live.iter())
                .flat_map(|s| s.content.policy.rules())
                .filter(|rule| !rule.is_removed())
                .map(|rule| rule.name.clone())
                .chain([Arc::from(DEFAULT_NAME)])
                .collect();
            self.settled.retain(|name, _| live.contains(name));
        }
    }

    /// The name that a rule had in the policy that judged in `epoch`; [`None`] where nobody knows any
    /// more.
    pub fn rule_name(&self, rule: RuleId, epoch: u64) -> Option<&str> {
        // Snapshots are freed in their order: where an older one lives, the one that judged does.
        let judged = self.live.iter().rev().find(|snapshot| snapshot.first_epoch() <= epoch);
        let snapshot = judged.or_else(|| {
            let oldest = &self.live[0];
            let is_same_load = self.current().place.loaded_generation
                == oldest.place.loaded_generation
                && epoch >= self.loaded_epoch;
            let is_same_rule = self.changed_rules.get(&rule).is_none_or(|&since| since <= epoch);
            (is_same_load && is_same_rule).then_some(oldest)
        });
        snapshot.map(|snapshot| snapshot.content.policy.rule_name(rule))
    }

    /// The decisions of each rule of the current policy, in the order in which they decide; the
    /// default is last, under the name `default`.
    pub fn rule_totals(&self) -> Vec<(Arc<str>, RuleTotals)> {
        let mut unsettled = HashMap::new();
        for pair in self.live.windows(2) {
            settle(&pair[0], &pair[1], &mut unsettled);
        }
        let current = self.current();
        let policy = &current.content.policy;
        (policy.order().chain([RuleId::DEFAULT]))
            .filter_map(|rule| Some((rule, name_of(policy, rule)?)))
            .map(|(rule, name)| {
                let mut total = current.hits.total(rule);
                for earlier in [&self.settled, &unsettled] {
                    total.add(earlier.get(&name).copied().unwrap_or_default());
                }
                (name, total)
            })
            .collect()
    }
}

/// Adds up what was counted in `snapshot` where `successor` does not count.
fn settle(snapshot: &Snapshot, successor: &Snapshot, totals: &mut HashMap<Arc<str>, RuleTotals>) {
    snapshot.hits.settle(&successor.hits, |rule, total| {
        if let Some(name) = name_of(&snapshot.content.policy, rule) {
            totals.entry(name).or_default().add(total);
        }
    });
}

#[cfg(test)]
mod tests;
