//! The classifier and its competitors on the same headers, in turns.

use std::io;
use std::time::Duration;

use bulkhead_dpdk::{
    Acl, AclAlgorithm, AclFamily, AclKey, AclKeys, AclLimits, AclRule, Eal, Error,
};
use bulkhead_rules::classifier::{Classifier, Scratch};
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::policy::RuleId;
use rustix::time::{ClockId, clock_gettime};
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
                let took = busy(|| acl_pass(&self.acl, keys, trial, batch, &mut out));
                let each = nanoseconds(took, trial);
                if best.is_none_or(|(_, least)| each < least) {
                    best = Some((algorithm, each));
                }
            }
        }
        best
    }

    /// All keys, in batches of `batch`.
    pub fn pass(&self, keys: &AclKeys, batch: usize, out: &mut [u32]) {
        acl_pass(&self.acl, keys, keys.len(), batch, out);
    }

    /// The keys of headers, as this context takes them.
    pub fn keys(&self, headers: &[Headers]) -> AclKeys {
        AclKeys::new(self.acl.family(), headers.iter().map(key))
    }

    /// The first rules that match the headers.
    pub fn rules_of(&self, headers: &[Headers]) -> Vec<RuleId> {
        let mut answers = vec![u32::MAX; headers.len()];
        self.pass(&self.keys(headers), ACL_BATCHES[1], &mut answers);
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
        let took = busy(|| our_pass(classifier, headers, &mut scratch, &mut found));
        outcome.ours.0.push(nanoseconds(took, headers.len()));
        if let (Some(rival), Some(acl_keys)) = (&mut rival, &acl_keys) {
            for AclRounds { batch, algorithm, rounds } in &mut outcome.acl {
                rival.choose(*algorithm);
                let took =
                    busy(|| acl_pass(&rival.acl, acl_keys, keys.len(), *batch, &mut answers));
                rounds.0.push(nanoseconds(took, keys.len()));
            }
        }
        if let (Some(space), Some(rounds)) = (tuple_space, &mut outcome.tuple_space) {
            // One packet at a time on a quarter of them: it is here for orientation.
            let few = &keys[..keys.len().div_ceil(4)];
            let took = busy(|| space_pass(space, few, &mut answers));
            rounds.0.push(nanoseconds(took, few.len()));
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

/// All headers, in batches of [`OUR_BATCH`]. Not inlined, so that a profiler finds it by name.
#[inline(never)]
pub fn our_pass(
    classifier: &Classifier,
    headers: &[Headers],
    scratch: &mut Scratch,
    out: &mut [RuleId],
) {
    for (batch, out) in headers.chunks(OUR_BATCH).zip(out.chunks_mut(OUR_BATCH)) {
        classifier.classify(batch, AT, scratch, out);
    }
}

/// The first `count` keys, in batches.
#[inline(never)]
fn acl_pass(acl: &Acl, keys: &AclKeys, count: usize, batch: usize, out: &mut [u32]) {
    for start in (0..count).step_by(batch) {
        let range = start..count.min(start + batch);
        acl.classify(keys, range.clone(), &mut out[range]);
    }
}

/// All keys, one by one.
#[inline(never)]
fn space_pass(space: &TupleSpace, keys: &[AclKey], out: &mut [u32]) {
    for (key, out) in keys.iter().zip(out) {
        *out = space.classify(key).0;
    }
}

/// The processor time of this thread that `work` takes. Linux takes it from the processor's
/// time-stamp counter where that is constant; what other processes take meanwhile is left out, but
/// not what they do to the caches.
fn busy(work: impl FnOnce()) -> Duration {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
    };
    let before = now();
    work();
    now() - before
}

fn nanoseconds(took: Duration, lookups: usize) -> f64 {
    took.as_nanos() as f64 / lookups.max(1) as f64
}
