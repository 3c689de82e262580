//! The classifier against the linear scan, packet by packet.

use std::time::{Duration, Instant};

use bulkhead_rules::analyze::Probes;
use bulkhead_rules::classifier::{Classifier, MAX_BATCH, Scratch};
use bulkhead_rules::compile::{CompileError, Limits, compile};
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Policy, RuleId};

/// What a comparison came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Packets that were compared.
    pub packets: u64,
    /// Of those, the ones that a rule matched.
    pub matched: u64,
    /// Of those, the ones that the classifier gave another rule than the linear scan.
    pub wrong: u64,
    /// The first of the wrong ones: the packet, when, what the classifier found, what it should.
    pub first_wrong: Option<(Headers, PolicyTime, RuleId, RuleId)>,
    /// How long the compilation took.
    pub compile: Duration,
    /// Bytes of the compiled classifier.
    pub size_bytes: usize,
}

/// Compares on `packets` boundary-biased packets of the stream of `seed` for which `wanted` holds,
/// which has to be one in a few.
///
/// # Errors
///
/// Where the policy does not compile within the default limits.
pub fn compare(
    policy: &Policy,
    packets: u64,
    seed: u64,
    wanted: impl Fn(&Headers) -> bool,
) -> Result<Report, CompileError> {
    let started = Instant::now();
    let classifier = compile(policy, &Limits::default())?;
    let mut report = Report {
        packets: 0,
        matched: 0,
        wrong: 0,
        first_wrong: None,
        compile: started.elapsed(),
        size_bytes: classifier.size_bytes(),
    };
    let mut probes = Probes::new(policy, seed);
    let mut scratch = Scratch::default();
    while report.packets < packets {
        let size = (packets - report.packets).min(MAX_BATCH as u64) as usize;
        let at = probes.instant();
        let stream = std::iter::repeat_with(|| probes.headers());
        let batch: Vec<Headers> = stream.filter(&wanted).take(size).collect();
        compare_batch(policy, &classifier, &batch, at, &mut scratch, &mut report);
    }
    Ok(report)
}

fn compare_batch(
    policy: &Policy,
    classifier: &Classifier,
    batch: &[Headers],
    at: PolicyTime,
    scratch: &mut Scratch,
    report: &mut Report,
) {
    // What is not written must not pass for the default.
    let mut found = [RuleId(u32::MAX - 1); MAX_BATCH];
    classifier.classify(batch, at, scratch, &mut found);
    for (headers, &found) in batch.iter().zip(&found) {
        let expected = oracle::classify(policy, headers, at);
        report.packets += 1;
        report.matched += u64::from(expected != RuleId::DEFAULT);
        if found != expected {
            report.wrong += 1;
            report.first_wrong.get_or_insert((*headers, at, found, expected));
        }
    }
}
