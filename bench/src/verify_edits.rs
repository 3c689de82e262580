//! Edited classifiers against the linear scan and against whole compilations.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_rules::analyze::Probes;
use bulkhead_rules::classifier::{Classifier, MAX_BATCH, Scratch};
use bulkhead_rules::compile::{Compiler, Limits, compile};
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::edit::RandomEdits;
use bulkhead_rules::policy::{Policy, RuleId};

use crate::five_tuples::Family;
use crate::segmentation::{self, Families, Shape};
use crate::{classbench, data};

/// What to verify.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Random edits: four of five add or remove a member of a group, one a rule.
    #[arg(long, default_value_t = 100_000)]
    edits: usize,
    /// Rules of the segmentation policy; it has a twentieth as many groups and half as many
    /// addresses.
    #[arg(long, default_value_t = 2_000)]
    rules: usize,
    /// A ClassBench set, plain or gzip, to edit instead of a segmentation policy: all edits are of rules
    /// then.
    #[arg(long, value_name = "FILE", conflicts_with = "rules")]
    set: Option<PathBuf>,
    /// The set as it is, or its IPv6 version.
    #[arg(long, value_enum, default_value_t = Family::V4, requires = "set")]
    family: Family,
    /// Edits between two comparisons with a whole compilation.
    #[arg(long, default_value_t = 500)]
    every: usize,
    /// Headers for each of those comparisons, and for each edit a hundredth of them against the
    /// linear scan.
    #[arg(long, default_value_t = 2_000)]
    headers: usize,
    /// Add addresses, prefixes and ranges only: no MAC addresses, devices and groups.
    #[arg(long)]
    addresses_only: bool,
    /// Seed of the policy and of the edits.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Applies the edits, prints what came of it, and returns the number of wrong verdicts.
///
/// # Errors
///
/// Where a policy does not load, compile or take an edit that is valid.
pub fn run(options: &Options) -> io::Result<u64> {
    let mut policy = load(options)?;
    policy.prepare_edits();
    let mut compiler = Compiler::new(&policy, &Limits::default()).map_err(io::Error::other)?;
    let mut stream = RandomEdits::new(&policy, options.seed);
    if options.addresses_only {
        stream = stream.with_addresses_only();
    }
    let mut compared = Compared::default();
    let (mut members, mut rules) = (Vec::new(), Vec::new());
    for step in 1..=options.edits {
        let edit = stream.next(&policy);
        let edited = policy.edited(&edit);
        let (edited, delta) =
            edited.map_err(|found| failed(&found.first().map(ToString::to_string)))?;
        let wholes = compiler.edits().whole;
        let begun = Instant::now();
        compiler.edit(&edited, &delta).map_err(io::Error::other)?;
        let published = compiler.publish();
        if compiler.edits().whole == wholes {
            let is_rule = !delta.rules_added.is_empty() || !delta.rules_removed.is_empty();
            let times = if is_rule { &mut rules } else { &mut members };
            times.push(begun.elapsed());
        }
        policy = edited;
        let seed = options.seed.wrapping_add(step as u64);
        let few = options.headers.div_ceil(100);
        compared.with_scan(&policy, &published, seed, few);
        if step % options.every == 0 || step == options.edits {
            compared.with_whole(&policy, &published, seed, options.headers)?;
        }
        if step % 10_000 == 0 {
            eprintln!("{step} edits, {} wrong", compared.wrong);
        }
    }
    let whole = compile(&policy, &Limits::default()).map_err(io::Error::other)?;
    let ratio = compiler.publish().size_bytes() as f64 / whole.size_bytes() as f64;
    let edits = compiler.edits();
    println!(
        "{} edits, {} rules in the end: {} for what they changed, {} as a whole; {} verdicts compared with the \
         linear scan, {} with whole compilations, {} wrong; {ratio:.3} times the bytes of a whole \
         compilation in the end",
        options.edits,
        whole.rules(),
        edits.incremental,
        edits.whole,
        compared.scanned,
        compared.compiled,
        compared.wrong,
    );
    print_times("member", members);
    print_times("rule", rules);
    Ok(compared.wrong)
}

/// The policy that is edited.
fn load(options: &Options) -> io::Result<Policy> {
    if let Some(set) = &options.set {
        let text = classbench::policy_text(&classbench::read(set)?, options.family);
        return data::load(&set.to_string_lossy(), text.map_err(io::Error::other)?);
    }
    let shape = Shape {
        groups: (options.rules / 20).max(2),
        addresses: (options.rules / 2).max(2),
        rules: options.rules,
        ..Shape::large(Families::Mixed)
    };
    data::load("segmentation.yaml", segmentation::text(options.seed, &shape))
}

#[derive(Default)]
struct Compared {
    scanned: u64,
    compiled: u64,
    wrong: u64,
}

impl Compared {
    fn with_scan(&mut self, policy: &Policy, classifier: &Classifier, seed: u64, count: usize) {
        let (headers, at) = probes(policy, seed, count);
        for (headers, found) in headers.iter().zip(verdicts(classifier, &headers, at)) {
            self.scanned += 1;
            let expected = oracle::classify(policy, headers, at);
            self.note(found == expected, headers, found, expected);
        }
    }

    fn with_whole(
        &mut self,
        policy: &Policy,
        classifier: &Classifier,
        seed: u64,
        count: usize,
    ) -> io::Result<()> {
        let whole = compile(policy, &Limits::default()).map_err(io::Error::other)?;
        let (headers, at) = probes(policy, !seed, count);
        let expected = verdicts(&whole, &headers, at);
        let found = verdicts(classifier, &headers, at);
        for ((headers, found), expected) in headers.iter().zip(found).zip(expected) {
            self.compiled += 1;
            self.note(found == expected, headers, found, expected);
        }
        Ok(())
    }

    fn note(&mut self, is_right: bool, headers: &Headers, found: RuleId, expected: RuleId) {
        if !is_right {
            if self.wrong == 0 {
                eprintln!("wrong: {headers:?}: {found:?} instead of {expected:?}");
            }
            self.wrong += 1;
        }
    }
}

fn probes(policy: &Policy, seed: u64, count: usize) -> (Vec<Headers>, PolicyTime) {
    let mut probes = Probes::new(policy, seed);
    let at = probes.instant();
    ((0..count).map(|_| probes.headers()).collect(), at)
}

fn verdicts(classifier: &Classifier, headers: &[Headers], at: PolicyTime) -> Vec<RuleId> {
    let mut scratch = Scratch::default();
    let mut out = vec![RuleId::DEFAULT; headers.len()];
    for (batch, out) in headers.chunks(MAX_BATCH).zip(out.chunks_mut(MAX_BATCH)) {
        classifier.classify(batch, at, &mut scratch, out);
    }
    out
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied();
    if let (Some(median), Some(p99), Some(worst)) = (at(0.5), at(0.99), times.last()) {
        println!(
            "{what} edits compiled and copied: median {} us, p99 {} us, worst {} us of {}",
            median.as_micros(),
            p99.as_micros(),
            worst.as_micros(),
            times.len(),
        );
    }
}

fn failed(found: &Option<String>) -> io::Error {
    io::Error::other(found.clone().unwrap_or_else(|| "refused".to_owned()))
}
