//! The classifier and its competitors on the same headers, in turns.

use std::io;
use std::time::Instant;

use bulkhead_dpdk::{
    Acl, AclAlgorithm, AclFamily, AclKey, AclKeys, AclLimits, AclRule, Eal, Error,
};
use bulkhead_rules::classifier::{Classifier, Scratch};
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::policy::RuleId;
use serde::Serialize;

use crate::external::{External, Figures};
use crate::five_tuples::{Family, FiveTuple, key};
use crate::machine::median;
use crate::tuple_space::TupleSpace;

/// The instant at which everything is classified: no generated rule is timed.
pub const AT: PolicyTime = PolicyTime { unix_ms: 0, synchronised: true };

/// Packets that we are given at once.
pub const OUR_BATCH: usize = 32;

/// The batches that `librte_acl` is tried with; the better one counts.
pub const ACL_BATCHES: [usize; 2] = [32, 256];

/// Lookups that are timed at once: a multiple of all batches.
pub const BLOCK: usize = 256;

/// Headers on which the implementations of `librte_acl`'s lookup are compared.
const TRIAL: usize = 100_000;

/// What one engine took, in nanoseconds a lookup, round by round.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    /// The median.
    pub fn median(&self) -> f64 {
        median(self.0.clone())
    }

    /// The fastest and the slowest.
    pub fn spread(&self) -> (f64, f64) {
        let low = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        (low, self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }
}

/// `librte_acl` with a rule set.
#[derive(Debug)]
pub struct Rival {
    acl: Acl,
    /// `max_size` of the build that looks up faster.
    pub max_size: usize,
    /// The rules of its answers.
    rules: Vec<RuleId>,
}

impl Rival {
    /// Builds a context of the tuples.
    ///
    /// # Errors
    ///
    /// What the library says, or that it takes more than `limits`.
    pub fn build(
        eal: &Eal,
        family: Family,
        tuples: &[FiveTuple],
        limits: AclLimits,
    ) -> Result<Self, Error> {
        let rules: Vec<AclRule> = tuples.iter().map(|tuple| tuple.tuple).collect();
        let acl = Acl::build(eal, acl_family(family), &rules, limits)?;
        let rules = tuples.iter().map(|tuple| tuple.rule).collect();
        Ok(Self { acl, max_size: limits.max_size, rules })
    }

    /// Bytes of the built context, its copy of the rules included.
    pub fn size_bytes(&self) -> usize {
        self.acl.size_bytes()
    }

    /// The fastest of the implementations for batches of this size, and what it takes, in
    /// nanoseconds; none where this processor has none of them.
    pub fn fastest(
        &mut self,
        keys: &AclKeys,
        batch: usize,
        among: &[AclAlgorithm],
    ) -> Option<(AclAlgorithm, f64)> {
        let mut out = vec![0; keys.len()];
        let trial = keys.len().min(TRIAL);
        let mut best: Option<(AclAlgorithm, f64)> = None;
        for &algorithm in among {
            if self.acl.set_algorithm(algorithm).is_err() {
                continue;
            }
            for _ in 0..3 {
                let each = acl_pass(&self.acl, keys, trial, batch, &mut out);
                if best.is_none_or(|(_, least)| each < least) {
                    best = Some((algorithm, each));
                }
            }
        }
        best
    }

    /// All keys, in batches of `batch`.
    pub fn look_up(&self, keys: &AclKeys, batch: usize, out: &mut [u32]) {
        acl_batches(&self.acl, keys, batch, out);
    }

    /// The keys of headers, as this context takes them.
    pub fn keys(&self, headers: &[Headers]) -> AclKeys {
        AclKeys::new(self.acl.family(), headers.iter().map(key))
    }

    /// The first rules that match the headers.
    pub fn rules_of(&self, headers: &[Headers]) -> Vec<RuleId> {
        let mut answers = vec![u32::MAX; headers.len()];
        self.look_up(&self.keys(headers), ACL_BATCHES[1], &mut answers);
        answers.into_iter().map(|answer| self.rule_of(answer)).collect()
    }

    fn choose(&mut self, algorithm: AclAlgorithm) {
        // It was chosen because it works here.
        let chosen = self.acl.set_algorithm(algorithm);
        debug_assert!(chosen.is_ok(), "{chosen:?}");
    }

    fn rule_of(&self, answer: u32) -> RuleId {
        let found = (answer as usize).checked_sub(1).and_then(|index| self.rules.get(index));
        found.copied().unwrap_or(RuleId::DEFAULT)
    }
}

/// `librte_acl` at one size of batches.
#[derive(Clone, Debug)]
pub struct AclRounds {
    /// Packets at once.
    pub batch: usize,
    /// The fastest implementation for them.
    pub algorithm: AclAlgorithm,
    /// What it took.
    pub rounds: Rounds,
}

/// How everybody did on one sequence of headers.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Ours.
    pub ours: Rounds,
    /// `librte_acl`'s, for each of [`ACL_BATCHES`], with the best SIMD and with AVX2; none where it
    /// could not build.
    pub acl: Vec<AclRounds>,
    /// Tuple space search; none where there are no five-tuples.
    pub tuple_space: Option<Rounds>,
    /// What programs outside said.
    pub external: Vec<Figures>,
    /// Headers of which a rule decided.
    pub matched: usize,
    /// Headers on which another engine found another rule than ours.
    pub wrong: usize,
}

impl Outcome {
    /// `librte_acl` at its best.
    pub fn best_acl(&self) -> Option<&AclRounds> {
        self.acl.iter().min_by(|a, b| a.rounds.median().total_cmp(&b.rounds.median()))
    }

    /// `librte_acl` at its best with AVX2, which more processors have than what may be faster.
    pub fn best_avx2(&self) -> Option<&AclRounds> {
        let avx2 = self.acl.iter().filter(|acl| acl.algorithm == AclAlgorithm::Avx2);
        avx2.min_by(|a, b| a.rounds.median().total_cmp(&b.rounds.median()))
    }

    /// How many times the lookups of `librte_acl` ours makes in the same time.
    pub fn ratio(&self) -> Option<f64> {
        self.best_acl().map(|acl| acl.rounds.median() / self.ours.median())
    }
}

/// Measures in turns, `rounds` times each, after one round that is not counted and whose answers are
/// compared one by one.
///
/// # Errors
///
/// Where a program outside fails.
pub fn measure(
    classifier: &Classifier,
    mut rival: Option<&mut Rival>,
    tuple_space: Option<&TupleSpace>,
    external: &mut [External],
    headers: &[Headers],
    rounds: usize,
) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut scratch = Scratch::default();
    let mut found = vec![RuleId(u32::MAX - 1); headers.len()];
    let mut answers = vec![u32::MAX; headers.len()];
    our_pass(classifier, headers, &mut scratch, &mut found);
    outcome.matched = found.iter().filter(|rule| **rule != RuleId::DEFAULT).count();
    let mut differs = vec![false; headers.len()];

    let keys: Vec<AclKey> = headers.iter().map(key).collect();
    let acl_keys = rival.as_ref().map(|rival| rival.keys(headers));
    if let (Some(rival), Some(acl_keys)) = (&mut rival, &acl_keys) {
        for batch in ACL_BATCHES {
            for among in [&AclAlgorithm::ALL[..], &[AclAlgorithm::Avx2]] {
                let Some((algorithm, _)) = rival.fastest(acl_keys, batch, among) else { continue };
                let known = |acl: &AclRounds| (acl.batch, acl.algorithm) == (batch, algorithm);
                if !outcome.acl.iter().any(known) {
                    outcome.acl.push(AclRounds { batch, algorithm, rounds: Rounds::default() });
                }
            }
        }
        for AclRounds { batch, algorithm, .. } in &outcome.acl {
            rival.choose(*algorithm);
            acl_pass(&rival.acl, acl_keys, keys.len(), *batch, &mut answers);
            for ((found, answer), differs) in found.iter().zip(&answers).zip(&mut differs) {
                *differs |= *found != rival.rule_of(*answer);
            }
        }
    }
    if let Some(space) = tuple_space {
        space_pass(space, &keys, &mut answers);
        for ((found, answer), differs) in found.iter().zip(&answers).zip(&mut differs) {
            *differs |= found.0 != *answer;
        }
        outcome.tuple_space = Some(Rounds::default());
    }
    outcome.wrong = differs.iter().filter(|differs| **differs).count();

    for _ in 0..rounds {
        outcome.ours.0.push(our_pass(classifier, headers, &mut scratch, &mut found));
        if let (Some(rival), Some(acl_keys)) = (&mut rival, &acl_keys) {
            for AclRounds { batch, algorithm, rounds } in &mut outcome.acl {
                rival.choose(*algorithm);
                let pass = acl_pass(&rival.acl, acl_keys, keys.len(), *batch, &mut answers);
                rounds.0.push(pass);
            }
        }
        if let (Some(space), Some(rounds)) = (tuple_space, &mut outcome.tuple_space) {
            // One packet at a time on a quarter of them: it is here for orientation.
            let few = &keys[..keys.len().div_ceil(4)];
            rounds.0.push(space_pass(space, few, &mut answers));
        }
        for program in &mut *external {
            program.round()?;
        }
    }
    outcome.external = external.iter().map(|program| program.figures.clone()).collect();
    Ok(outcome)
}

fn acl_family(family: Family) -> AclFamily {
    match family {
        Family::V4 => AclFamily::V4,
        Family::V6 => AclFamily::V6,
    }
}

/// Looks all headers up, and returns the nanoseconds that each took.
fn our_pass(
    classifier: &Classifier,
    headers: &[Headers],
    scratch: &mut Scratch,
    out: &mut [RuleId],
) -> f64 {
    let mut burst = [Headers::default(); BLOCK];
    let mut clock = Clock::default();
    for (block, out) in headers.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        let burst = &mut burst[..block.len()];
        burst.copy_from_slice(block);
        clock.time(|| our_batches(classifier, burst, scratch, out));
    }
    clock.each(headers.len())
}

/// Headers in batches of [`OUR_BATCH`]. Not inlined, so that a profiler finds it by name.
#[inline(never)]
pub fn our_batches(
    classifier: &Classifier,
    headers: &[Headers],
    scratch: &mut Scratch,
    out: &mut [RuleId],
) {
    for (batch, out) in headers.chunks(OUR_BATCH).zip(out.chunks_mut(OUR_BATCH)) {
        classifier.classify(batch, AT, scratch, out);
    }
}

/// Looks the first `count` keys up, and returns the nanoseconds that each took.
fn acl_pass(acl: &Acl, keys: &AclKeys, count: usize, batch: usize, out: &mut [u32]) -> f64 {
    let mut burst = AclKeys::room(acl.family(), BLOCK);
    let mut clock = Clock::default();
    for start in (0..count).step_by(BLOCK) {
        let range = start..count.min(start + BLOCK);
        burst.copy_from(keys, range.clone());
        let out = &mut out[range];
        clock.time(|| acl_batches(acl, &burst, batch, out));
    }
    clock.each(count)
}

/// Keys in batches. Not inlined, so that a profiler finds it by name.
#[inline(never)]
pub fn acl_batches(acl: &Acl, keys: &AclKeys, batch: usize, out: &mut [u32]) {
    for start in (0..out.len()).step_by(batch) {
        let range = start..out.len().min(start + batch);
        acl.classify(keys, range.clone(), &mut out[range]);
    }
}

/// Looks all keys up one by one, and returns the nanoseconds that each took.
fn space_pass(space: &TupleSpace, keys: &[AclKey], out: &mut [u32]) -> f64 {
    let mut clock = Clock::default();
    let mut burst = Vec::with_capacity(BLOCK);
    for (block, out) in keys.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        burst.clear();
        burst.extend_from_slice(block);
        clock.time(|| {
            for (key, out) in burst.iter().zip(out) {
                *out = space.classify(key).0;
            }
        });
    }
    clock.each(keys.len())
}

/// The time of one pass, block by block. What stands in memory is copied into the processor's first
/// cache before each block: a worker has just parsed the frames that it classifies, and how wide an
/// engine's keys are is not the question. The clock is CLOCK_MONOTONIC, which Linux reads from the
/// processor's time-stamp counter without a system call.
#[derive(Debug, Default)]
struct Clock {
    blocks_ns: Vec<u64>,
}

/// A block that takes so many times as long as the middle one was interrupted by another process.
const INTERRUPTED: u64 = 10;

impl Clock {
    fn time(&mut self, work: impl FnOnce()) {
        let begin = Instant::now();
        work();
        self.blocks_ns.push(begin.elapsed().as_nanos() as u64);
    }

    /// Nanoseconds a lookup; an interrupted block counts as the middle one.
    fn each(mut self, lookups: usize) -> f64 {
        let count = self.blocks_ns.len();
        if count == 0 {
            return f64::NAN;
        }
        let (_, &mut middle, _) = self.blocks_ns.select_nth_unstable(count / 2);
        let whole = self
            .blocks_ns
            .iter()
            .map(|&block| if block > middle.saturating_mul(INTERRUPTED) { middle } else { block });
        whole.sum::<u64>() as f64 / lookups as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_block_counts_as_the_middle_one() {
        let clock = Clock { blocks_ns: vec![100, 130, 120, 5_000, 110] };
        assert_eq!(clock.each(10), (100 + 130 + 120 + 120 + 110) as f64 / 10.0);
    }

    #[test]
    fn rounds_are_told_by_their_middle_and_their_ends() {
        let rounds = Rounds(vec![3.0, 1.0, 2.0]);
        assert_eq!((rounds.median(), rounds.spread()), (2.0, (1.0, 3.0)));
    }
}
