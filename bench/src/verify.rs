//! The classifier against other engines, packet by packet: the linear scan, which is slow and
//! obviously right, and tuple space search and `librte_acl`, which look millions up.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_dpdk::{AclLimits, Eal};
use bulkhead_rules::analyze::Probes;
use bulkhead_rules::classifier::{Classifier, MAX_BATCH, Scratch};
use bulkhead_rules::compile::{CompileError, Limits, compile};
use bulkhead_rules::headers::{ETHER_IPV6, Headers, PolicyTime};
use bulkhead_rules::oracle;
use bulkhead_rules::packet::in_words;
use bulkhead_rules::policy::{Policy, RuleId};

use crate::contest::{AT, Rival};
use crate::five_tuples::{Family, FiveTuple, expand, key};
use crate::huge_pages::Environment;
use crate::random::Random;
use crate::segmentation::{self, Families, Shape};
use crate::trace::{self, Order};
use crate::tuple_space::TupleSpace;
use crate::{data, machine};

/// What to compare.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Packets for each policy against the linear scan: on the edges of its rules, and random ones.
    #[arg(long, default_value_t = 200_000)]
    pub packets: u64,
    /// Packets for each ClassBench set against tuple space search and librte_acl.
    #[arg(long, default_value_t = 10_000_000)]
    pub second_engine: u64,
    /// Seed of the packets.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave librte_acl out: without it neither DPDK nor gigabytes of memory are needed.
    #[arg(long)]
    pub without_acl: bool,
}

/// What a comparison came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Packets that were compared.
    pub packets: u64,
    /// Of those, the ones that a rule matched.
    pub matched: u64,
    /// Of those, the ones that the classifier gave another rule than the other engine.
    pub wrong: u64,
    /// The first of the wrong ones: the packet, when, what the classifier found, what it should.
    pub first_wrong: Option<(Headers, PolicyTime, RuleId, RuleId)>,
    /// How long the compilation took.
    pub compile: Duration,
    /// Bytes of the compiled classifier.
    pub size_bytes: usize,
}

/// Streams of packets that are compared side by side.
const STREAMS: u64 = 16;

/// Packets of the second engines that are held at once.
const CHUNK: u64 = 1 << 16;

/// Five-tuples that the second engines load at most.
const MOST_TUPLES: u64 = 1_000_000;

/// What a build of librte_acl may take.
const ACL_BUILD_BYTES: u64 = 10 << 30;

/// Huge pages that are reserved for it as root.
const ACL_HUGE_BYTES: u64 = 2 << 30;

/// Compares on the example policies, the ClassBench sets of both families and segmentation policies;
/// prints a line for each and returns the number of wrong packets.
///
/// # Errors
///
/// A policy cannot be read or compiled, or DPDK does not start.
pub fn run(options: &Options) -> io::Result<u64> {
    let environment =
        if options.without_acl { None } else { Some(Environment::start(ACL_HUGE_BYTES)?) };
    println!(
        "{:<36} {:<20} {:>7} {:>9} {:>9} {:>6} {:>10} {:>9}",
        "set", "against", "rules", "packets", "matched", "wrong", "compile ms", "size KiB"
    );
    let mut wrong = 0;
    let mut tell = |name: &str, against: &str, policy: &Policy, report: &Report| {
        print(name, against, policy, report);
        wrong += report.wrong;
    };
    let scan = |policy: &Policy, packets, wanted: fn(&Headers) -> bool| {
        compare(policy, packets, options.seed, wanted).map_err(io::Error::other)
    };
    for (name, policy) in data::examples()? {
        tell(&name, "scan", &policy, &scan(&policy, options.packets, |_| true)?);
        let v6 = scan(&policy, options.packets, |h| h.ether_type == ETHER_IPV6)?;
        tell(&format!("{name}, IPv6"), "scan", &policy, &v6);
    }
    for families in [Families::V4, Families::V6, Families::Mixed] {
        let name = format!("segmentation, 1,000 groups, {families:?}");
        let shape =
            Shape { groups: 1_000, addresses: 10_000, rules: 20_000, ..Shape::large(families) };
        let policy = data::load(&name, segmentation::text(options.seed, &shape))?;
        tell(&name, "scan", &policy, &scan(&policy, options.packets, |_| true)?);
        let members = segmentation::headers(&policy, options.seed, options.packets as usize);
        let report = compare_all(&policy, &members).map_err(io::Error::other)?;
        tell(&format!("{name}, members"), "scan", &policy, &report);
    }
    let Some(folder) = data::folder() else {
        println!("skipped: ClassBench sets: no data folder; BULKHEAD_DATA names it");
        return Ok(wrong);
    };
    for (family, label) in [(Family::V4, ""), (Family::V6, ", IPv6")] {
        for rules in [1_000, 10_000, 100_000] {
            for kind in data::CLASSBENCH_KINDS {
                let policy = data::classbench(&folder, kind, rules, family)?;
                let name = format!("{kind} {rules}{label}");
                tell(&name, "scan", &policy, &scan(&policy, options.packets, |_| true)?);
                let second =
                    SecondEngine::new(&policy, family, environment.as_ref().map(|e| &e.eal))?;
                let report = second.compare(&policy, options.second_engine, options.seed)?;
                tell(&name, second.name(), &policy, &report);
            }
        }
    }
    Ok(wrong)
}

/// Compares with the linear scan on `packets` boundary-biased packets of the streams of `seed` for
/// which `wanted` holds, which has to be one in a few.
///
/// # Errors
///
/// Where the policy does not compile within the default limits.
pub fn compare(
    policy: &Policy,
    packets: u64,
    seed: u64,
    wanted: impl Fn(&Headers) -> bool + Sync,
) -> Result<Report, CompileError> {
    let (classifier, empty) = compiled(policy)?;
    let workers = thread::available_parallelism().map_or(1, usize::from) as u64;
    // The streams do not depend on how many processors there are.
    let stream = |stream: u64, report: &mut Report| {
        let mut probes = Probes::new(policy, Random::new(seed ^ stream << 32).bits());
        let mut scratch = Scratch::default();
        let share = packets / STREAMS + u64::from(stream < packets % STREAMS);
        let mut left = share;
        while left > 0 {
            let size = left.min(MAX_BATCH as u64) as usize;
            let at = probes.instant();
            let all = std::iter::repeat_with(|| probes.headers());
            let batch: Vec<Headers> = all.filter(&wanted).take(size).collect();
            let found = classified(&classifier, &batch, at, &mut scratch);
            for (headers, found) in batch.iter().zip(found) {
                report.count(headers, at, found, oracle::classify(policy, headers, at));
            }
            left -= size as u64;
        }
    };
    let reports = side_by_side(workers.min(STREAMS), |worker| {
        let mut report = empty.clone();
        (worker..STREAMS).step_by(workers as usize).for_each(|s| stream(s, &mut report));
        report
    });
    Ok(reports.into_iter().fold(empty, Report::and))
}

/// Compares with the linear scan on these packets.
///
/// # Errors
///
/// Where the policy does not compile within the default limits.
pub fn compare_all(policy: &Policy, packets: &[Headers]) -> Result<Report, CompileError> {
    let (classifier, empty) = compiled(policy)?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let reports = side_by_side(workers as u64, |worker| {
        let mut report = empty.clone();
        let mut scratch = Scratch::default();
        for batch in packets.chunks(MAX_BATCH).skip(worker as usize).step_by(workers) {
            let found = classified(&classifier, batch, AT, &mut scratch);
            for (headers, found) in batch.iter().zip(found) {
                report.count(headers, AT, found, oracle::classify(policy, headers, AT));
            }
        }
        report
    });
    Ok(reports.into_iter().fold(empty, Report::and))
}

/// What `work` returns for each of so many workers, a thread each.
fn side_by_side(workers: u64, work: impl Fn(u64) -> Report + Sync) -> Vec<Report> {
    thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> =
            (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        // A panic of a worker is this thread's too.
        let join = |handle: thread::ScopedJoinHandle<'_, Report>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(join).collect()
    })
}

/// Tuple space search, and `librte_acl` where it is wanted and can build.
#[derive(Debug)]
pub struct SecondEngine {
    family: Family,
    tuples: Vec<FiveTuple>,
    space: TupleSpace,
    rival: Option<Rival>,
}

impl SecondEngine {
    /// Multiplies the policy out for one family.
    ///
    /// # Errors
    ///
    /// Where it has no form in five-tuples. That librte_acl cannot build is printed.
    pub fn new(policy: &Policy, family: Family, eal: Option<&Eal>) -> io::Result<Self> {
        let tuples = expand(policy, family, MOST_TUPLES)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let space = TupleSpace::new(family, &tuples);
        let build_bytes = ACL_BUILD_BYTES.min(machine::available_bytes() / 8 * 7);
        let limits = AclLimits { max_size: 0, build_bytes };
        let rival = eal.and_then(|eal| {
            let built = Rival::build(eal, family, &tuples, limits);
            built.inspect_err(|error| println!("librte_acl: {error}")).ok()
        });
        Ok(Self { family, tuples, space, rival })
    }

    /// Which engines it is.
    pub fn name(&self) -> &'static str {
        if self.rival.is_some() { "librte_acl, tuples" } else { "tuple space search" }
    }

    /// Compares on packets of the family: on the edges of rules, at corners of and anywhere in rules,
    /// between the sides of different rules.
    ///
    /// # Errors
    ///
    /// Where the policy does not compile within the default limits.
    pub fn compare(&self, policy: &Policy, packets: u64, seed: u64) -> io::Result<Report> {
        let (classifier, mut report) = compiled(policy).map_err(io::Error::other)?;
        let mut probes = Probes::new(policy, seed);
        let mut random = Random::new(seed);
        let mut scratch = Scratch::default();
        while report.packets < packets {
            let size = (packets - report.packets).min(CHUNK) as usize;
            let chunk = self.chunk(size, &mut probes, &mut random);
            let rival = self.rival.as_ref().map(|rival| rival.rules_of(&chunk));
            for (index, batch) in chunk.chunks(MAX_BATCH).enumerate() {
                let found = classified(&classifier, batch, AT, &mut scratch);
                for (place, (headers, &found)) in batch.iter().zip(&found).enumerate() {
                    let place = index * MAX_BATCH + place;
                    let first = self.space.classify(&key(headers));
                    // Where the engines differ from one another, ours is wrong for one of them.
                    let other = rival.as_ref().map_or(first, |rules| rules[place]);
                    report.count(headers, AT, found, if other == found { first } else { other });
                }
            }
        }
        Ok(report)
    }

    fn chunk(&self, size: usize, probes: &mut Probes<'_>, random: &mut Random) -> Vec<Headers> {
        let wanted = |h: &Headers| h.ether_type == self.family.ether_type();
        let edges = std::iter::repeat_with(|| probes.headers().normalised()).filter(wanted);
        let mut chunk: Vec<Headers> = edges.take(size / 2).collect();
        let points =
            trace::headers(&self.tuples, self.family, Order::Uniform, random.bits(), size + 1);
        let rest = size - chunk.len();
        chunk.extend_from_slice(&points[..rest / 2]);
        // The source of one rule, the destination of another.
        chunk.extend(points.windows(2).rev().take(rest - rest / 2).map(|pair| {
            let &[Headers { src, .. }, second] = pair else { unreachable!("windows of two") };
            Headers { src, ..second }
        }));
        chunk
    }
}

impl Report {
    fn count(&mut self, headers: &Headers, at: PolicyTime, found: RuleId, expected: RuleId) {
        self.packets += 1;
        self.matched += u64::from(expected != RuleId::DEFAULT);
        if found != expected {
            self.wrong += 1;
            self.first_wrong.get_or_insert((*headers, at, found, expected));
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.packets += other.packets;
        self.matched += other.matched;
        self.wrong += other.wrong;
        self.first_wrong = self.first_wrong.or(other.first_wrong);
        self
    }
}

fn compiled(policy: &Policy) -> Result<(Classifier, Report), CompileError> {
    let started = Instant::now();
    let classifier = compile(policy, &Limits::default())?;
    let report = Report {
        packets: 0,
        matched: 0,
        wrong: 0,
        first_wrong: None,
        compile: started.elapsed(),
        size_bytes: classifier.size_bytes(),
    };
    Ok((classifier, report))
}

fn classified(
    classifier: &Classifier,
    batch: &[Headers],
    at: PolicyTime,
    scratch: &mut Scratch,
) -> [RuleId; MAX_BATCH] {
    // What is not written must not pass for the default.
    let mut found = [RuleId(u32::MAX - 1); MAX_BATCH];
    classifier.classify(batch, at, scratch, &mut found);
    found
}

fn print(name: &str, against: &str, policy: &Policy, report: &Report) {
    println!(
        "{name:<36} {against:<20} {:>7} {:>9} {:>9} {:>6} {:>10} {:>9}",
        policy.rules().len(),
        report.packets,
        report.matched,
        report.wrong,
        report.compile.as_millis(),
        report.size_bytes >> 10,
    );
    if let Some((headers, at, found, expected)) = &report.first_wrong {
        let (found, expected) = (policy.rule_name(*found), policy.rule_name(*expected));
        let packet = in_words(headers, policy.wires());
        println!("  {packet} at {at:?}: {found} instead of {expected}; {headers:?}");
    }
}
