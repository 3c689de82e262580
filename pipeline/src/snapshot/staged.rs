//! A policy beside the one in force: what it would do differently, packet by packet, before it does.
//!
//! A publication that stages a policy begins a new epoch, so that every live flow is judged again at
//! its next packet, as after a reload. Wherever a worker asks the policy in force it then asks the
//! staged one too: when a flow is opened, when an older epoch judged it, when a packet is denied. A
//! packet of a flow that was asked costs nothing more, and nothing anywhere costs more while no
//! policy is staged.
//!
//! What counts is what a lockdown would change: what passes now (because the policy permits it, or
//! because its wire observes) and would not, and what does not and would. Each worker counts for
//! itself, without a lock; differences also go into a bounded ring of its own, so that people see
//! them flow by flow. Flows are counted once, and once more whenever all are judged again: after a
//! change of the policy in force, when a rule's time comes or goes, when the clock is set.

use std::sync::Arc;

use bulkhead_rules::classifier::{Classifier, Scratch};
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::policy::{Action, Policy, RuleId};
use crossbeam::queue::ArrayQueue;

use super::hits::HitTable;
use crate::counters::Counter;

/// Differences of one worker that may wait for the control thread.
const DIFFERENCES: usize = 1024;

/// A policy to be staged.
#[derive(Clone, Debug)]
pub struct StagedPolicy {
    /// The checked policy.
    pub policy: Arc<Policy>,
    /// Its compiled form.
    pub classifier: Arc<Classifier>,
}

/// What a publication does about the staged policy.
#[derive(Clone, Debug)]
pub enum Staging {
    /// What is staged stays so, and its tally goes on.
    Keep,
    /// What is staged stays so, and its tally begins anew.
    Renew,
    /// Another policy is staged.
    Put(StagedPolicy),
    /// What is staged follows what its MAC addresses are bound to; its rules are the same ones.
    Follow(StagedPolicy),
    /// Nothing is staged any more.
    Drop,
}

/// A staged policy as workers see it.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The policy.
    pub content: StagedPolicy,
    /// What it would change.
    pub tally: Arc<Tally>,
}

/// The staged policy's word on some headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StagedWord {
    /// Whether it permits them.
    pub permitted: bool,
    /// The rule that decides.
    pub rule: RuleId,
}

/// What staged rules would change, counted by the workers.
#[derive(Debug)]
pub struct Tally {
    number: u64,
    rules: HitTable,
    workers: Box<[WorkerTally]>,
}

/// One worker's part of a [`Tally`].
#[derive(Debug)]
#[repr(align(128))] // A cache line pair of its own: neighbours must not share what they write.
pub struct WorkerTally {
    /// Flows that were asked about: live, new and denied ones.
    pub flows: Counter,
    /// Of these, those that pass now.
    pub passing: Counter,
    /// Of these, those that would not.
    pub cut: Counter,
    /// Of the cut ones, those that the policy in force permits: the others pass because their wire
    /// observes.
    pub cut_permitted: Counter,
    /// Flows that do not pass now, and would.
    pub opened: Counter,
    /// Packets that were denied, the staged policy having been asked about each.
    pub denied_packets: Counter,
    /// Differences that found the ring full.
    pub lost: Counter,
    differences: ArrayQueue<Difference>,
}

/// A flow that the staged policy would treat otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// The headers that opened the flow, or would have.
    pub headers: Headers,
    /// Whether it passes now.
    pub passes: bool,
    /// The rule of the policy in force that decides, in the policy of `epoch`.
    pub rule: RuleId,
    /// Whether the policy in force permits it.
    pub permitted: bool,
    /// The epoch of the snapshot that judged.
    pub epoch: u64,
    /// The rule of the staged policy that decides.
    pub staged_rule: RuleId,
    /// What the flow has carried so far, where it was open already.
    pub live: Option<Live>,
}

/// What a flow that is open has carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Live {
    /// Nanoseconds since it was opened.
    pub age_ns: u64,
    /// Packets both ways.
    pub packets: u64,
    /// Bytes of their frames, both ways.
    pub bytes: u64,
}

/// What the rules of a staged policy would change, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StagedTotals {
    /// Flows that pass now and that the rule would not let pass.
    pub cut: u64,
    /// Flows that do not pass now and that the rule would let pass.
    pub opened: u64,
}

impl Staged {
    /// With a tally of zero, which is told from others by its number.
    pub(super) fn new(content: StagedPolicy, workers: usize, number: u64) -> Self {
        let tally = Arc::new(Tally::new(content.policy.rules().len(), workers, number));
        Self { content, tally }
    }

    /// What the policy says of a packet with these headers that would open a flow at `at`.
    pub fn ask(&self, headers: &Headers, at: PolicyTime, scratch: &mut Scratch) -> StagedWord {
        let (classifier, mut rule) = (&self.content.classifier, [RuleId::DEFAULT]);
        classifier.classify(std::slice::from_ref(headers), at, scratch, &mut rule);
        let [rule] = rule;
        StagedWord { permitted: classifier.action(rule) == Action::Allow, rule }
    }
}

impl Tally {
    fn new(rules: usize, workers: usize, number: u64) -> Self {
        let each = (0..workers).map(|_| WorkerTally::new()).collect();
        Self { number, rules: HitTable::new(rules, workers), workers: each }
    }

    /// What tells this tally from others of the gateway.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Every worker's part.
    pub fn workers(&self) -> &[WorkerTally] {
        &self.workers
    }

    /// What one rule, or the default, would change.
    pub fn totals(&self, rule: RuleId) -> StagedTotals {
        let total = self.rules.total(rule);
        StagedTotals { cut: total.enforced, opened: total.observed }
    }

    /// Counts a flow, and tells of it if the staged policy would treat it otherwise.
    pub(crate) fn count(&self, worker: usize, difference: Difference, staged: StagedWord) {
        let Some(mine) = self.workers.get(worker) else { return };
        let hits = self.rules.of(worker, staged.rule);
        mine.flows.add(1);
        match (difference.passes, staged.permitted) {
            (true, true) => mine.passing.add(1),
            (true, false) => {
                mine.passing.add(1);
                mine.cut.add(1);
                mine.cut_permitted.add(u64::from(difference.permitted));
                hits.enforced.add(1);
                mine.tell(difference);
            }
            (false, true) => {
                mine.opened.add(1);
                hits.observed.add(1);
                mine.tell(difference);
            }
            (false, false) => {}
        }
    }
}

impl WorkerTally {
    fn new() -> Self {
        Self {
            flows: Counter::default(),
            passing: Counter::default(),
            cut: Counter::default(),
            cut_permitted: Counter::default(),
            opened: Counter::default(),
            denied_packets: Counter::default(),
            lost: Counter::default(),
            differences: ArrayQueue::new(DIFFERENCES),
        }
    }

    /// The next flow that the staged policy would treat otherwise.
    pub fn difference(&self) -> Option<Difference> {
        self.differences.pop()
    }

    fn tell(&self, difference: Difference) {
        if self.differences.push(difference).is_err() {
            self.lost.add(1);
        }
    }
}
