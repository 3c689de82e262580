//! The classifier beside `librte_acl` and tuple space search: the same rules, the same headers in the
//! same order, in turns, every answer compared.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_dpdk::{AclAlgorithm, AclLimits, Eal};
use bulkhead_rules::classifier::Classifier;
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::Headers;
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{LoadOptions, Policy, RuleId};
use bulkhead_rules::syntax::Source;

use crate::contest::{AT, OUR_BATCH, Outcome, Rival, measure};
use crate::external::{External, Program};
use crate::five_tuples::{Family, FiveTuple, expand, key};
use crate::huge_pages::Environment;
use crate::machine::{self, Machine, median};
use crate::report::{self, Line, Report};
use crate::segmentation::{self, Families, Shape};
use crate::trace::{self, Order};
use crate::tuple_space::TupleSpace;
use crate::{classbench, data, heap, instructions};

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// ClassBench rule sets, plain or gzip. By default those of the data folder (BULKHEAD_DATA).
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub rules: Vec<PathBuf>,
    /// The sets as they are, their IPv6 versions (every prefix spread over /19 to /128), or both.
    #[arg(long, value_enum, default_value_t = FamilyChoice::V4)]
    pub family: FamilyChoice,
    /// Measure segmentation policies (groups and services) too; alone unless sets are named.
    #[arg(long)]
    pub segmentation: bool,
    /// Rules of the segmentation policies that other engines are asked to load too: 60 groups of 20
    /// hosts, 400 five-tuples a rule.
    #[arg(long, num_args = 1.., default_values_t = [250], value_name = "RULES")]
    pub expanded: Vec<usize>,
    /// Headers for each set, in uniformly random order and again with locality.
    #[arg(long, default_value_t = 1_000_000)]
    pub headers: usize,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// Seed of headers and policies.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// One JSON object a line for each set, instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write the table, the lines and a plot to this folder: classify.md, classify.json, classify.svg.
    #[arg(long, value_name = "FOLDER")]
    pub record: Option<PathBuf>,
    /// Leave librte_acl out.
    #[arg(long)]
    pub without_acl: bool,
    /// Another engine in a program of its own, called once a round for IPv4: see the module
    /// `external` of this crate for what it is given and has to print.
    #[arg(long, value_name = "NAME=PROGRAM")]
    pub external: Vec<Program>,
    /// Memory in MiB that one build of librte_acl may take before it counts as failed.
    #[arg(long, default_value_t = 10_240, value_name = "MIB")]
    pub acl_build_mib: u64,
    /// Huge pages in MiB to reserve while measuring, as root: librte_acl keeps its tries in them.
    #[arg(long, default_value_t = 2_048, value_name = "MIB")]
    pub huge_pages_mib: u64,
    /// Count the instructions of a lookup under callgrind too, which no other load disturbs.
    #[arg(long)]
    pub instructions: bool,
    /// Of the segmentation policies only the one of this number, from 0.
    #[arg(long, hide = true)]
    pub only: Option<usize>,
    /// Have one engine look the headers up once and end: what `--instructions` runs under callgrind.
    #[arg(long, hide = true)]
    pub count_only: Option<instructions::Engine>,
}

/// Address families to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum FamilyChoice {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// One after the other.
    Both,
}

/// A policy to measure, and how it came to be.
#[derive(Debug)]
pub struct Case {
    /// As tables name it.
    pub set: String,
    /// `v4`, `v6` or `mixed`.
    pub family: &'static str,
    /// The policy.
    pub policy: Policy,
    /// What it took to read the text and check it.
    pub load: Duration,
    /// Its five-tuples, or why there are none.
    pub tuples: Result<(Family, Vec<FiveTuple>), String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a policy comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A ClassBench set.
    File(PathBuf),
    /// The segmentation policy of this number, whose headers go between members of its groups.
    Segmentation(usize),
}

impl Case {
    /// Headers for it.
    pub fn headers(&self, order: Order, seed: u64, count: usize) -> Vec<Headers> {
        match &self.tuples {
            Ok((family, tuples)) if matches!(self.origin, Origin::File(_)) => {
                trace::headers(tuples, *family, order, seed, count)
            }
            _ => segmentation::headers(&self.policy, seed, count),
        }
    }
}

/// Five-tuples that other engines are asked to load at most: librte_acl's build takes minutes then.
const MOST_TUPLES: u64 = 1_000_000;

/// Headers that are compared with the linear scan where no other engine can load the policy.
const ORACLE_SAMPLE: usize = 1_000;

/// Measures, prints, and returns the number of wrong answers.
///
/// # Errors
///
/// A file cannot be read or is no rule set, the folder to record in cannot be made, or DPDK does not
/// start.
pub fn run(options: &Options) -> io::Result<u64> {
    if let Some(engine) = options.count_only {
        return instructions::count_only(options, engine).map(|()| 0);
    }
    report::make_folder(options.record.as_deref())?;
    let load_before = machine::load();
    let environment = if options.without_acl {
        Err("left out".to_owned())
    } else {
        let started = Environment::start(options.huge_pages_mib << 20);
        started.map_err(|error| format!("left out: {error}"))
    };
    let mut report = Report::new(Machine::read(load_before)?, options);
    report.print_head(options.json);
    for_each_case(options, |case| {
        let line = measure_case(&case, environment.as_ref().map(|started| &started.eal), options)?;
        report.add(line, options.json)
    })?;
    report.print_tail(options.json);
    report.machine.load_after = machine::load();
    if let Some(folder) = &options.record {
        report.write(folder)?;
    }
    Ok(report.lines.iter().map(|line| line.wrong as u64).sum())
}

/// Calls `each` with one policy after the other: the large ones are not held together.
///
/// # Errors
///
/// Where a policy cannot be read, and what `each` returns.
pub fn for_each_case(
    options: &Options,
    mut each: impl FnMut(Case) -> io::Result<()>,
) -> io::Result<()> {
    let families: &[Family] = match options.family {
        FamilyChoice::V4 => &[Family::V4],
        FamilyChoice::V6 => &[Family::V6],
        FamilyChoice::Both => &[Family::V4, Family::V6],
    };
    let mut files = options.rules.clone();
    if files.is_empty() && !options.segmentation {
        files = data::classbench_files()?;
    }
    for family in families {
        for file in &files {
            each(classbench_case(file, *family)?)?;
        }
    }
    if options.segmentation {
        let mut shapes = Vec::new();
        for families in [Families::V4, Families::V6, Families::Mixed] {
            shapes.push(("segmentation, 1-6 groups each", Shape::large_counted(families)));
            shapes.push(("segmentation, nested on top", Shape::large(families)));
        }
        let expandable = Shape::expandable(Families::V4);
        let expanded = options.expanded.iter().map(|&rules| Shape { rules, ..expandable });
        shapes.extend(expanded.map(|shape| ("segmentation, 60 groups", shape)));
        for (number, (name, shape)) in shapes.into_iter().enumerate() {
            if options.only.is_none_or(|only| only == number) {
                each(segmentation_case(name, &shape, options.seed, number)?)?;
            }
        }
    }
    Ok(())
}

fn classbench_case(file: &Path, family: Family) -> io::Result<Case> {
    let context =
        |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", file.display()));
    let set = classbench::read(file).map_err(|error| context(&error))?;
    let text = classbench::policy_text(&set, family).map_err(|error| context(&error))?;
    let (policy, load) = load(text).map_err(|error| context(&error))?;
    let left_out =
        set.lines().filter(|line| !line.trim().is_empty()).count() - policy.rules().len();
    if left_out > 0 {
        eprintln!("{}: {left_out} rules on port 0 alone are left out", file.display());
    }
    let tuples = expand(&policy, family, MOST_TUPLES);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Ok(Case {
        set: name.trim_end_matches(".gz").to_owned(),
        family: if family == Family::V4 { "v4" } else { "v6" },
        policy,
        load,
        tuples: tuples.map(|tuples| (family, tuples)).map_err(|error| error.to_string()),
        origin: Origin::File(file.to_owned()),
    })
}

fn segmentation_case(name: &str, shape: &Shape, seed: u64, number: usize) -> io::Result<Case> {
    let (policy, load) = load(segmentation::text(seed, shape))?;
    let (family, tuples) = match shape.families {
        Families::V4 => ("v4", expand(&policy, Family::V4, MOST_TUPLES).map(|t| (Family::V4, t))),
        Families::V6 => ("v6", expand(&policy, Family::V6, MOST_TUPLES).map(|t| (Family::V6, t))),
        Families::Mixed => ("mixed", expand(&policy, Family::V4, 0).map(|t| (Family::V4, t))),
    };
    let tuples = tuples.map_err(|error| match shape.families {
        // Engines of five-tuples take one family at a time.
        Families::Mixed => format!("IPv4 and IPv6 in one policy; of IPv4 alone {error}"),
        _ => error.to_string(),
    });
    Ok(Case {
        set: name.to_owned(),
        family,
        policy,
        load,
        tuples,
        origin: Origin::Segmentation(number),
    })
}

fn load(text: String) -> io::Result<(Policy, Duration)> {
    let started = Instant::now();
    match Policy::load(&[Source::new("policy.yaml", text)], &LoadOptions::default()) {
        Ok(loaded) => Ok((loaded.policy, started.elapsed())),
        Err(diagnostics) => {
            let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
            Err(io::Error::other(first))
        }
    }
}

fn measure_case(case: &Case, eal: Result<&Eal, &String>, options: &Options) -> io::Result<Line> {
    let built = Built::new(case)?;
    let failed = |reason: &String| RivalBuild { error: Some(reason.clone()), ..Default::default() };
    let (mut rival, rival_build) = match (&case.tuples, eal) {
        (Ok((family, tuples)), Ok(eal)) => {
            let few = options.headers.min(100_000);
            let headers = case.headers(Order::Uniform, options.seed ^ 1, few);
            best_rival(eal, *family, tuples, &headers, options)
        }
        (Err(reason), _) | (_, Err(reason)) => (None, failed(reason)),
    };
    let space = case.tuples.as_ref().ok().map(|(family, tuples)| TupleSpace::new(*family, tuples));
    let mut outcomes = Vec::new();
    let orders: &[Order] = match case.origin {
        Origin::File(_) => &[Order::Uniform, Order::Pareto],
        Origin::Segmentation(_) => &[Order::Uniform],
    };
    for order in orders {
        let headers = case.headers(*order, options.seed, options.headers);
        let mut external = match (order, &case.tuples, &space) {
            (Order::Uniform, Ok((Family::V4, tuples)), Some(space)) => {
                let keys: Vec<_> = headers.iter().map(key).collect();
                let programs = options.external.iter();
                programs
                    .map(|p| External::new(p, tuples, space, &keys))
                    .collect::<io::Result<_>>()?
            }
            _ => Vec::new(),
        };
        let mut outcome = measure(
            &built.classifier,
            rival.as_mut(),
            space.as_ref(),
            &mut external,
            &headers,
            options.rounds,
        )?;
        if rival.is_none() && space.is_none() {
            outcome.wrong = wrong_by_scan(case, &built.classifier, &headers);
        }
        outcomes.push(outcome);
    }
    let counts = if options.instructions {
        Some(instructions::count(case, options, rival.is_some())?)
    } else {
        None
    };
    Ok(Line::new(case, &built, rival.as_ref(), &rival_build, &outcomes, counts))
}

/// Our compiled form, and what it took.
#[derive(Debug)]
pub struct Built {
    /// It.
    pub classifier: Classifier,
    /// Median of the time that compiling takes, on the clock on the wall.
    pub build: Duration,
    /// The most heap that was live while compiling, beyond what was before.
    pub peak_bytes: usize,
}

impl Built {
    fn new(case: &Case) -> io::Result<Self> {
        let mut times = Vec::new();
        let mut peak_bytes = 0;
        loop {
            let started = Instant::now();
            let (compiled, peak) = heap::peak_during(|| compile(&case.policy, &Limits::default()));
            times.push(started.elapsed().as_secs_f64());
            peak_bytes = peak_bytes.max(peak);
            let classifier = compiled.map_err(io::Error::other)?;
            if times.len() == 5 || times.iter().sum::<f64>() > 5.0 {
                let build = Duration::from_secs_f64(median(times));
                return Ok(Self { classifier, build, peak_bytes });
            }
        }
    }
}

/// What building `librte_acl` took, or why it could not.
#[derive(Clone, Debug, Default)]
pub struct RivalBuild {
    /// On the clock on the wall.
    pub build: Duration,
    /// How much the process's resident memory grew at most meanwhile.
    pub peak_bytes: u64,
    /// Why there is none.
    pub error: Option<String>,
}

/// Builds `librte_acl` both ways that it has: one trie as large as it may be, or many smaller ones.
/// The one that looks up faster counts.
fn best_rival(
    eal: &Eal,
    family: Family,
    tuples: &[FiveTuple],
    headers: &[Headers],
    options: &Options,
) -> (Option<Rival>, RivalBuild) {
    let largest = (options.huge_pages_mib << 20) as usize / 2;
    let mut best: Option<(f64, Rival, RivalBuild)> = None;
    let mut failed = RivalBuild::default();
    for max_size in [0, largest] {
        // A machine that has less must not end with us.
        let build_bytes = machine::available_bytes() / 8 * 7;
        let build_bytes = build_bytes.min(options.acl_build_mib << 20);
        let limits = AclLimits { max_size, build_bytes };
        let watch = machine::PeakMemory::start();
        let started = Instant::now();
        let built = Rival::build(eal, family, tuples, limits);
        let mut cost = RivalBuild { build: started.elapsed(), ..Default::default() };
        cost.peak_bytes = watch.bytes();
        match built {
            Ok(mut rival) => {
                let keys = rival.keys(headers);
                let fastest = rival.fastest(&keys, 256, &AclAlgorithm::ALL);
                let each = fastest.map_or(f64::INFINITY, |(_, each)| each);
                if best.as_ref().is_none_or(|(least, ..)| each < *least) {
                    best = Some((each, rival, cost));
                }
            }
            Err(error) => {
                cost.error = Some(format!("could not build: {error}"));
                failed = cost;
            }
        }
    }
    match best {
        Some((_, rival, cost)) => (Some(rival), cost),
        None => (None, failed),
    }
}

/// How many of a sample the linear scan decides otherwise.
fn wrong_by_scan(case: &Case, classifier: &Classifier, headers: &[Headers]) -> usize {
    let mut scratch = bulkhead_rules::classifier::Scratch::default();
    let mut found = [RuleId(u32::MAX - 1); OUR_BATCH];
    let mut wrong = 0;
    for batch in headers[..headers.len().min(ORACLE_SAMPLE)].chunks(OUR_BATCH) {
        classifier.classify(batch, AT, &mut scratch, &mut found);
        wrong += batch
            .iter()
            .zip(&found)
            .filter(|(headers, found)| oracle::classify(&case.policy, headers, AT) != **found)
            .count();
    }
    wrong
}

/// What the outcome was checked against, in words.
pub fn checked(outcome: &Outcome) -> &'static str {
    match (outcome.acl.is_empty(), outcome.tuple_space.is_some()) {
        (false, true) => "librte_acl and tuple space search, every header",
        (false, false) => "librte_acl, every header",
        (true, true) => "tuple space search, every header",
        (true, false) => "the linear scan, 1,000 headers",
    }
}
