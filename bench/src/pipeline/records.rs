//! What flow records cost the packet path, and whether any are lost.
//!
//! For each kind of traffic three workers take turns on the same frames: one that tells nothing, one
//! that tells flow records, and one that copies frames besides. Their rings are emptied between blocks,
//! so that a record is never cheap because it is lost. Then new flows come at a fixed rate, while
//! another thread empties the rings every 10 ms as the gateway's does; what finds them full is counted.
//! At last they come as fast as the worker opens them: a flood is to lose records, and to count each.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_pipeline::record::{Event, RecordConfig, RecordSource};
use serde::Serialize;

use super::rig::Rig;
use super::{Case, Options, chosen_cases, pin, prepared};
use crate::machine::{self, Machine, median};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct RecordOptions {
    /// Cases, by name, as `bulkhead-bench pipeline` has them.
    #[arg(default_values_t = ["hit-10k", "miss-10k-rules", "mixed"].map(str::to_owned))]
    cases: Vec<String>,
    /// Turns of each worker that are measured.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Packets of a turn.
    #[arg(long, default_value_t = 1 << 17)]
    packets: usize,
    /// New flows in a second, for the second part.
    #[arg(long, default_value_t = 100_000)]
    rate: usize,
    /// How long they come, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seed of the policy and the traffic.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON for each case, and one for the losses.
    #[arg(long)]
    json: bool,
}

/// What one kind of traffic came to.
#[derive(Serialize)]
struct Cost {
    case: String,
    /// Cycles a packet of the worker that tells nothing.
    cycles: f64,
    /// By how much more the others take, in percent: the medians of what turns side by side came to.
    records_percent: f64,
    copies_percent: f64,
    told: u64,
    lost: u64,
}

/// What came of new flows.
#[derive(Serialize)]
struct Losses {
    /// Whether they came as fast as the worker opens them.
    flood: bool,
    flows: u64,
    seconds: f64,
    flows_per_second: f64,
    told: u64,
    lost: u64,
    /// After how many of them, to a block, the first record was lost.
    first_lost_after: Option<u64>,
}

/// New flows of a flood: half of what its table has room for, so that none ends meanwhile.
const FLOOD_FLOWS: u64 = 1 << 19;

/// Measures, prints, and returns how many records were lost, but for those of a flood, and how many of a
/// flood's are in no count.
///
/// # Errors
///
/// A case that there is not, or a policy that does not compile.
pub fn run(options: &RecordOptions) -> io::Result<u64> {
    if !options.json {
        let machine = Machine::read(machine::load())?;
        let Machine { processor, mhz, kernel, commit, load_before, .. } = &machine;
        println!("{processor}, {mhz} MHz, Linux {kernel}, commit {commit}, load {load_before}\n");
        println!("| case | cycles | records | and copies | told | lost |");
        println!("|---|---|---|---|---|---|");
    }
    let mut lost = 0;
    for case in chosen_cases(&options.cases)? {
        let cost = cost(&case, options)?;
        lost += cost.lost;
        if options.json {
            println!("{}", serde_json::to_string(&cost)?);
            continue;
        }
        let Cost { case, cycles, records_percent, copies_percent, told, lost } = cost;
        println!(
            "| {case} | {cycles:.1} | {records_percent:+.1} % | {copies_percent:+.1} % | {told} | {lost} |"
        );
    }
    for flood in [false, true] {
        let losses = losses(options, flood)?;
        let Losses { flows, seconds, flows_per_second, told, lost: of_these, .. } = losses;
        lost += if flood { flows.saturating_sub(told + of_these) } else { of_these };
        if options.json {
            println!("{}", serde_json::to_string(&losses)?);
            continue;
        }
        let first = losses.first_lost_after;
        println!(
            "\n{flows} new flows in {seconds:.2} s ({flows_per_second:.0} a second): {told} records told, \
             {of_these} lost{}",
            first.map_or(String::new(), |first| format!(", the first after {first} flows")),
        );
    }
    Ok(lost)
}

fn cost(case: &Case, options: &RecordOptions) -> io::Result<Cost> {
    pin(0);
    let pipeline = Options::for_records(options.seed);
    let kinds = [None, Some(false), Some(true)];
    let mut rigs = Vec::new();
    let prepared = prepared(case, &pipeline, 1)?;
    for copies in kinds {
        let (_, flows, mut readers) = self::prepared(case, &pipeline, 1)?;
        drop(flows);
        let rig = Rig::new(case, &prepared.1, readers.remove(0), options.seed);
        let mut rig = match copies {
            None => rig,
            Some(copies) => rig.recording(&RecordConfig { copies, ..RecordConfig::default() }),
        };
        rig.prepare();
        rig.turn(options.packets, false);
        rigs.push(rig);
    }
    let mut ticks = [const { Vec::new() }; 3];
    for round in 0..options.rounds {
        for nth in 0..rigs.len() {
            // Who goes first changes.
            let nth = (nth + round) % rigs.len();
            ticks[nth].push(rigs[nth].turn(options.packets, false).ticks);
        }
    }
    let percent = |of: &[f64]| {
        let ratios = of.iter().zip(&ticks[0]).map(|(with, without)| with / without);
        (median(ratios.collect()) - 1.0) * 100.0
    };
    let told = |nth: usize| rigs[nth].records_told();
    Ok(Cost {
        case: case.name.clone(),
        cycles: median(ticks[0].clone()),
        records_percent: percent(&ticks[1]),
        copies_percent: percent(&ticks[2]),
        told: told(1).0 + told(2).0,
        lost: told(1).1 + told(2).1,
    })
}

/// The worker's own thread opens flows, at a fixed rate or as a flood, this one empties the ring.
fn losses(options: &RecordOptions, flood: bool) -> io::Result<Losses> {
    let case = chosen_cases(&["miss-10k-rules".to_owned()])?.remove(0);
    let (_, flows, mut readers) = prepared(&case, &Options::for_records(options.seed), 1)?;
    let reader = readers.remove(0);
    let ended = AtomicBool::new(false);
    let (sender, receiver) = std::sync::mpsc::channel::<RecordSource>();
    let (worked, counters) = thread::scope(|scope| {
        let (case, flows, ended) = (&case, &flows, &ended);
        let worker = scope.spawn(move || {
            pin(0);
            let rig = Rig::new(case, flows, reader, options.seed);
            let mut rig = rig.recording(&RecordConfig::default());
            let source = rig.take_source();
            let counters = source.as_ref().map(|source| source.counters().clone());
            // The receiver lives as long as the scope.
            source.map(|source| sender.send(source));
            let began = Instant::now();
            let (mut opened, mut first_lost) = (0, None);
            while began.elapsed() < Duration::from_secs(options.seconds)
                && !(flood && opened >= FLOOD_FLOWS)
            {
                let due = began.elapsed().as_secs_f64() * options.rate as f64;
                if !flood && opened as f64 >= due {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                opened += rig.open_block() as u64;
                if counters.as_ref().is_some_and(|counters| counters.lost_in_all() > 0) {
                    first_lost.get_or_insert(opened);
                }
            }
            let seconds = began.elapsed().as_secs_f64();
            ended.store(true, Relaxed);
            (opened, seconds, first_lost)
        });
        pin(1);
        let mut counters = None;
        if let Ok(mut source) = receiver.recv() {
            let mut is_last = false;
            while !is_last {
                is_last = ended.load(Relaxed);
                while source.flow().is_some() {}
                while source.short_copy().is_some() || source.long_copy().is_some() {}
                thread::sleep(Duration::from_millis(10));
            }
            counters = Some(source.counters().clone());
        }
        (worker.join().unwrap_or_default(), counters)
    });
    let (opened, seconds, first_lost_after) = worked;
    let counters = counters.ok_or_else(|| io::Error::other("the worker did not start"))?;
    Ok(Losses {
        flood,
        flows: opened,
        seconds,
        flows_per_second: opened as f64 / seconds,
        told: Event::ALL.iter().map(|&event| counters.told(event).value()).sum(),
        lost: counters.lost_in_all(),
        first_lost_after,
    })
}
