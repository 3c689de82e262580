//! How often each rule decided, counted where workers and the control thread both can reach it.
//!
//! The counters of neighbouring rules stand in chunks, in each chunk a row for each worker. A
//! snapshot and those that edits make of it share their chunks, so that a publication costs no work
//! for rules that it leaves alone. A chunk in which a rule is removed is replaced: workers that still
//! judge by an older snapshot go on counting for the removed rule, in the old chunk, and whoever
//! takes its place later starts from zero. So the counters of a chunk belong to the rules that its
//! newest snapshot names, and when that snapshot is freed they are added up under these names.

use std::sync::Arc;

use bulkhead_rules::policy::{Policy, RuleId};

use crate::counters::Counter;

/// How often a rule decided: flows that it opened, and packets that it kept from opening one.
#[derive(Debug, Default)]
pub struct RuleHits {
    /// On enforcing wires.
    pub enforced: Counter,
    /// On observing wires.
    pub observed: Counter,
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

impl RuleTotals {
    pub(super) fn add(&mut self, other: Self) {
        self.enforced += other.enforced;
        self.observed += other.observed;
    }
}

/// Rules of a chunk.
const CHUNK: usize = 256;
const LINE: usize = 8;

/// A pair of cache lines: what one worker counts in shares none with what another does.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line([RuleHits; LINE]);

const _: () = assert!(size_of::<Line>() == 128 && CHUNK % LINE == 0);

/// The counters of [`CHUNK`] places: one row for each worker after the other.
#[derive(Debug)]
struct Chunk(Box<[Line]>);

impl Chunk {
    fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self((0..workers * CHUNK / LINE).map(|_| Line::default()).collect()))
    }

    fn hits(&self, worker: usize, place: usize) -> &RuleHits {
        let index = worker * CHUNK + place % CHUNK;
        &self.0[index / LINE].0[index % LINE]
    }
}

/// The counters of a snapshot's rules.
#[derive(Clone, Debug)]
pub(super) struct HitTable {
    chunks: Arc<[Arc<Chunk>]>,
    workers: usize,
}

impl HitTable {
    /// Zero for every one of `rules` rules and the default.
    pub(super) fn new(rules: usize, workers: usize) -> Self {
        let chunks = (0..chunks_for(rules)).map(|_| Chunk::new(workers)).collect();
        Self { chunks, workers }
    }

    /// The counters after an edit that leaves `rules` places and empties those of `removed`.
    pub(super) fn edited(&self, rules: usize, removed: &[RuleId]) -> Self {
        let wanted = chunks_for(rules).max(self.chunks.len());
        if removed.is_empty() && wanted == self.chunks.len() {
            return self.clone();
        }
        let mut chunks = self.chunks.to_vec();
        chunks.resize_with(wanted, || Chunk::new(self.workers));
        let mut fresh: Vec<usize> = removed.iter().map(|&rule| place(rule) / CHUNK).collect();
        fresh.sort_unstable();
        fresh.dedup();
        for index in fresh.into_iter().filter(|&index| index < wanted) {
            chunks[index] = Chunk::new(self.workers);
        }
        Self { chunks: chunks.into(), workers: self.workers }
    }

    /// Where `worker` counts the decisions of `rule`.
    #[inline]
    pub(super) fn of(&self, worker: usize, rule: RuleId) -> &RuleHits {
        let place = place(rule);
        // Every rule of the policy has a chunk. What is none counts as the default.
        let (chunk, place) = match self.chunks.get(place / CHUNK) {
            Some(chunk) => (chunk, place),
            None => (&self.chunks[0], 0),
        };
        chunk.hits(worker, place)
    }

    /// The decisions of `rule` over all workers.
    pub(super) fn total(&self, rule: RuleId) -> RuleTotals {
        let mut total = RuleTotals::default();
        for worker in 0..self.workers {
            let hits = self.of(worker, rule);
            let (enforced, observed) = (hits.enforced.value(), hits.observed.value());
            total.add(RuleTotals { enforced, observed });
        }
        total
    }

    /// Calls `add` with every rule (or the default) that decided anything and whose counters
    /// `successor` does not have.
    pub(super) fn settle(&self, successor: &Self, mut add: impl FnMut(RuleId, RuleTotals)) {
        if Arc::ptr_eq(&self.chunks, &successor.chunks) {
            return;
        }
        for (index, chunk) in self.chunks.iter().enumerate() {
            if successor.chunks.get(index).is_some_and(|other| Arc::ptr_eq(chunk, other)) {
                continue;
            }
            for place in index * CHUNK..(index + 1) * CHUNK {
                let rule = RuleId((place as u32).wrapping_sub(1));
                let total = self.total(rule);
                if total != RuleTotals::default() {
                    add(rule, total);
                }
            }
        }
    }
}

/// The default comes first, then the rules.
fn place(rule: RuleId) -> usize {
    rule.0.wrapping_add(1) as usize
}

fn chunks_for(rules: usize) -> usize {
    (rules + 1).div_ceil(CHUNK)
}

/// The name under which the decisions of `rule` are shown; [`None`] where it has none any more.
pub(super) fn name_of(policy: &Policy, rule: RuleId) -> Option<Arc<str>> {
    if rule == RuleId::DEFAULT {
        return Some(Arc::from(DEFAULT_NAME));
    }
    let rule = policy.rules().get(rule.0 as usize)?;
    (!rule.is_removed()).then(|| rule.name.clone())
}

/// What the default is called where rules are named. No rule may have this name.
pub(super) const DEFAULT_NAME: &str = "default";
