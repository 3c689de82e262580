//! The whole pipeline in one process, without a NIC: production workers between ports in memory.
//!
//! A case is a kind of traffic: packets of known flows (`hit`), first packets of flows that a
//! policy of 10,000 rules permits (`miss`), known flows with one new one in a hundred packets
//! (`mixed`), and a flood of connection attempts from random hosts around established connections
//! (`synflood`). Frames are written in blocks of 1,024, untimed, into buffers that come round again,
//! as those of a NIC's memory pool do; then the workers judge the block with the clock running. Known
//! flows are hit in uniformly random order, from both sides in turns, and were opened through the
//! same path. In turns with it the ports are measured alone, and the pipeline with a reading of the
//! time-stamp counter at the end of every stage; the figures of a case are from turns without.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;

use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, Reader, Sides, WallClock, WirePolicy};
use bulkhead_pipeline::worker::Stage;
use bulkhead_rules::classifier::Classifier;
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::policy::Policy;

use crate::classbench::Family;
use crate::data;
use crate::machine::{self, Machine, median};
use crate::segmentation::{self, Families, Shape};
use crate::tsc;

mod instructions;
pub(crate) mod memory;
pub mod records;
mod report;
pub(crate) mod rig;
pub(crate) mod traffic;

use report::{Line, Report};
use rig::{Rig, Turn};
use traffic::{Flow, Sizes};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Cases, by name; all of them where none is named. `hit-10k`, `hit-1m`, `hit-10m`,
    /// `miss-10k-rules`, `mixed`, `synflood`; each also with `-imix`, `-v6` or `-imix-v6`.
    cases: Vec<String>,
    /// Workers, each on a processor of its own. With more than one, one of them alone is measured in
    /// turns with all.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Turns that are measured, after one that is not.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Packets of a turn, for each worker.
    #[arg(long, default_value_t = 1 << 18)]
    packets: usize,
    /// Seed of the policy and the traffic.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Count instructions as well, with callgrind: takes some seconds for each case, a minute for
    /// those with a large policy.
    #[arg(long)]
    instructions: bool,
    /// What runs under callgrind: the named case with few flows, once.
    #[arg(long, hide = true)]
    count_only: bool,
    /// Print one line of JSON for each case.
    #[arg(long)]
    json: bool,
    /// Write table and figures to this folder as well.
    #[arg(long)]
    record: Option<PathBuf>,
}

impl Options {
    /// Those of a case by itself.
    fn for_records(seed: u64) -> Self {
        Self {
            cases: Vec::new(),
            workers: 1,
            rounds: 1,
            packets: 1,
            seed,
            instructions: false,
            count_only: false,
            json: false,
            record: None,
        }
    }
}

/// What a packet does to the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It belongs to a known flow.
    Hit,
    /// It opens a flow.
    Miss,
    /// One in a hundred opens a flow.
    Mixed,
    /// Nine in ten are attempts that nobody will answer.
    Flood,
}

/// One line of the result.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Case {
    name: String,
    kind: Kind,
    /// Flows that are there from the beginning.
    flows: usize,
    /// Flows that a worker's table has room for.
    capacity: usize,
    sizes: Sizes,
    family: Family,
}

/// Name, kind, flows, capacity.
const KINDS: [(&str, Kind, usize, usize); 6] = [
    ("hit-10k", Kind::Hit, 10_000, 1 << 15),
    ("hit-1m", Kind::Hit, 1_000_000, 1 << 21),
    ("hit-10m", Kind::Hit, 10_000_000, 1 << 24),
    ("miss-10k-rules", Kind::Miss, 0, 1 << 20),
    ("mixed", Kind::Mixed, 100_000, 1 << 18),
    ("synflood", Kind::Flood, 10_000, 1 << 18),
];

fn all_cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (sizes, sizes_suffix) in [(Sizes::Shortest, ""), (Sizes::Imix, "-imix")] {
        for (family, family_suffix) in [(Family::V4, ""), (Family::V6, "-v6")] {
            out.extend(KINDS.map(|(name, kind, flows, capacity)| Case {
                name: format!("{name}{sizes_suffix}{family_suffix}"),
                kind,
                flows,
                capacity,
                sizes,
                family,
            }));
        }
    }
    out
}

fn chosen_cases(names: &[String]) -> io::Result<Vec<Case>> {
    let all = all_cases();
    if names.is_empty() {
        return Ok(all);
    }
    let find = |name: &String| {
        let found = all.iter().find(|case| case.name == *name).cloned();
        found.ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|case| case.name.as_str()).collect();
            io::Error::other(format!("no case `{name}`; there are {}", names.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// Measures, prints, and returns how many frames were stopped that should have passed.
///
/// # Errors
///
/// A case that there is not, fewer processors than workers, a folder that cannot be made, or a policy
/// that does not compile.
pub fn run(options: &Options) -> io::Result<u64> {
    let cases = chosen_cases(&options.cases)?;
    let processors = core_affinity::get_core_ids().map_or(1, |cores| cores.len());
    if options.workers == 0 || options.workers > processors {
        let message = format!("{} workers; there are {processors} processors", options.workers);
        return Err(io::Error::other(message));
    }
    if options.count_only {
        for case in &cases {
            count_only(&instructions::reduced(case), options)?;
        }
        return Ok(0);
    }
    crate::report::make_folder(options.record.as_deref())?;
    let load_before = machine::load();
    let mut report = Report::new(Machine::read(load_before)?, options);
    report.print_head();
    let mut stopped = 0;
    for case in &cases {
        let mut line = measure(case, options)?;
        if options.instructions && instructions::is_countable(case) {
            let counts = instructions::count(case, options)?;
            line.instructions_per_packet = Some(counts.all);
            line.instructions = counts.stages;
        }
        stopped += line.stopped;
        report.add(line)?;
    }
    report.print_tail();
    if let Some(folder) = &options.record {
        report.write(folder)?;
    }
    Ok(stopped)
}

fn count_only(case: &Case, options: &Options) -> io::Result<()> {
    let (_, flows, mut readers) = prepared(case, options, 1)?;
    let mut rig = Rig::new(case, &flows, readers.remove(0), options.seed);
    rig.prepare();
    rig.turn(instructions::PACKETS, false);
    Ok(())
}

/// The rules of the case's policy, the flows that are drawn from it, and a view of it for each worker.
fn prepared(
    case: &Case,
    options: &Options,
    workers: usize,
) -> io::Result<(usize, Vec<Flow>, Vec<Reader>)> {
    let policy = policy(case, options.seed)?;
    let classifier = compile(&policy, &Limits::default()).map_err(io::Error::other)?;
    let flows = match case.kind {
        Kind::Hit | Kind::Flood => Vec::new(),
        Kind::Miss | Kind::Mixed => {
            traffic::permitted(&policy, &classifier, case.family, options.seed, DRAWN_FLOWS)?
        }
    };
    Ok((policy.rule_count(), flows, publish(policy, classifier, workers)))
}

/// What the workers did in all turns.
#[derive(Default)]
struct Figures {
    /// For each turn, what each worker took with all of them at work.
    together: Vec<Vec<Turn>>,
    /// What the first one took alone.
    alone: Vec<Turn>,
    staged: Vec<Turn>,
    bare: Vec<f64>,
    flows: (u64, u64),
    stopped: u64,
    stopped_by: BTreeMap<&'static str, u64>,
    cherished_lost: Option<f64>,
}

fn measure(case: &Case, options: &Options) -> io::Result<Line> {
    let (rules, flows, readers) = prepared(case, options, options.workers)?;
    let figures = Mutex::new(Figures::default());
    let barrier = Barrier::new(options.workers);
    thread::scope(|scope| {
        for (worker, reader) in readers.into_iter().enumerate() {
            let (flows, figures, barrier) = (&flows, &figures, &barrier);
            scope.spawn(move || {
                pin(worker);
                let rig = Rig::new(case, flows, reader, options.seed + worker as u64);
                take_turns(rig, worker, options, barrier, figures);
            });
        }
    });
    let figures = figures.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(line(case, rules, options, figures))
}

/// The turns of one worker. All of them wait for each other before each.
fn take_turns(
    mut rig: Rig<'_>,
    worker: usize,
    options: &Options,
    barrier: &Barrier,
    figures: &Mutex<Figures>,
) {
    let of_all = || figures.lock().unwrap_or_else(PoisonError::into_inner);
    rig.prepare();
    rig.turn(options.packets, false);
    for round in 0..options.rounds {
        if worker == 0 {
            of_all().together.push(Vec::new());
        }
        barrier.wait();
        let turn = rig.turn(options.packets, false);
        of_all().together[round].push(turn);
        barrier.wait();
        if worker == 0 {
            let alone = (options.workers > 1).then(|| rig.turn(options.packets, false));
            let staged = rig.turn(options.packets, true);
            let bare = rig.bare_turn(options.packets);
            let mut figures = of_all();
            figures.alone.extend(alone);
            figures.staged.push(staged);
            figures.bare.push(bare);
        }
    }
    barrier.wait();
    let mut figures = of_all();
    figures.stopped += rig.wrongly_stopped();
    for (reason, frames) in rig.stopped_by() {
        *figures.stopped_by.entry(reason).or_default() += frames;
    }
    if worker == 0 {
        figures.flows = rig.flows();
        figures.cherished_lost = rig.cherished_lost();
    }
}

fn line(case: &Case, rules: usize, options: &Options, figures: Figures) -> Line {
    let hertz = tsc::hertz();
    // Packets a tick, of all workers together.
    let rate = |turns: &Vec<Turn>| turns.iter().map(|turn| 1.0 / turn.ticks).sum::<f64>();
    let rates: Vec<f64> = figures.together.iter().map(rate).collect();
    let ratios = rates.iter().zip(&figures.alone).map(|(rate, alone)| rate * alone.ticks);
    let workers = options.workers as f64;
    let ticks: Vec<f64> = rates.iter().map(|rate| workers / rate).collect();
    let stage = |stage: Stage| {
        median(figures.staged.iter().map(|turn| turn.stages[stage as usize]).collect())
    };
    let cycles = median(ticks.clone());
    Line {
        case: case.name.clone(),
        cycles_per_packet: cycles,
        ns_per_packet: cycles / hertz * 1e9,
        packets_per_second: median(rates.clone()) * hertz,
        workers: options.workers,
        ratio_to_one_worker: (options.workers > 1).then(|| median(ratios.collect())),
        ports_cycles: median(figures.bare),
        latency_cycles: rig::cost_of_latency(),
        stages: Stage::ALL.map(|each| (report::stage_name(each), stage(each))).into(),
        cycles_rounds: ticks,
        rules,
        flows: figures.flows.0,
        flow_capacity: figures.flows.1,
        stopped: figures.stopped,
        stopped_by: figures.stopped_by,
        established_lost: figures.cherished_lost,
        ..Line::default()
    }
}

/// Flows that are drawn for a policy. Their ports make many of each.
const DRAWN_FLOWS: usize = 1 << 16;

/// The rules of a policy that counts as large.
const RULES: usize = 10_000;

fn policy(case: &Case, seed: u64) -> io::Result<Policy> {
    let text = match case.kind {
        Kind::Hit | Kind::Flood => traffic::PERMISSIVE.to_owned(),
        Kind::Miss | Kind::Mixed => {
            let families = match case.family {
                Family::V4 => Families::V4,
                Family::V6 => Families::V6,
            };
            let shape = Shape {
                groups: RULES / 20,
                addresses: RULES / 2,
                rules: RULES,
                ..Shape::large(families)
            };
            segmentation::text(seed, &shape)
        }
    };
    data::load("policy.yaml", text)
}

fn publish(policy: Policy, classifier: Classifier, workers: usize) -> Vec<Reader> {
    // Generated policies permit DHCP from hosts of either side.
    let wire = WirePolicy { dhcp_servers: Sides::BOTH, ..WirePolicy::new(Mode::Enforce, 0) };
    let content = Content {
        policy: Arc::new(policy),
        classifier: Arc::new(classifier),
        wires: vec![wire],
        clock: WallClock::default(),
    };
    Publisher::new(content, workers).1
}

/// Binds this thread to a processor of its own; the first is left for last, for it has the most to do
/// besides.
pub(crate) fn pin(worker: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = cores.iter().rev().nth(worker) {
        core_affinity::set_for_current(*core);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_chosen_by_name() {
        assert_eq!(all_cases().len(), 24);
        let names = ["synflood-v6", "hit-10k-imix"].map(str::to_owned);
        let chosen = chosen_cases(&names).expect("they exist");
        assert_eq!(chosen[0].kind, Kind::Flood);
        assert_eq!((chosen[1].sizes, chosen[1].family), (Sizes::Imix, Family::V4));
        assert!(chosen_cases(&["hit-11".to_owned()]).is_err());
    }
}
