//! The simulator's worlds as a test: no promise is broken in a million steps, a seed replays, and
//! each planted defect is found.

use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_pipeline::verdict::DropReason;
use bulkhead_tests::is_full;
use bulkhead_tests::simulator::{Defect, Figures, Options, run};

/// Frames that are judged in each world.
const STEPS: u64 = 25_000;

fn run_all(seeds: impl Iterator<Item = u64>) -> Figures {
    let mut sum = Figures::default();
    for seed in seeds {
        let report = run(Options { seed, steps: STEPS, defect: None });
        if let Some(violation) = report.violation {
            panic!("{violation}");
        }
        sum.add(&report.figures);
    }
    sum
}

#[test]
fn a_million_steps_break_no_promise() {
    let worlds = if is_full() { 400 } else { 42 };
    let figures = run_all(1..=worlds);
    println!("{figures}\nviolations 0");
    assert!(figures.steps >= 1_000_000, "{} steps", figures.steps);
    // Worlds in which little happens prove little.
    let (network, published) = (figures.network, figures.published);
    for (what, count, least) in [
        ("forwarded", figures.forwarded, 150_000),
        ("owed", figures.owed, 40_000),
        ("hostile", figures.hostile, 150_000),
        ("ended by a newer policy", figures.revoked, 500),
        ("answers", figures.answers, 10_000),
        ("connections", figures.closed_connections, 2_000),
        ("lost", network.lost, 2_000),
        ("doubled", network.duplicated, 2_000),
        ("corrupted", network.corrupted, 2_000),
        ("truncated", network.truncated, 2_000),
        ("late", network.delayed, 20_000),
        ("full queues", figures.full_queues, 2_000),
        ("stalls", figures.stalls, 1_000),
        ("links down", figures.links_down, 500),
        ("reloads", published.reloads, 300),
        ("edits", published.edits, 800),
        ("incremental edits", published.incremental, 500),
        ("published in mid-loop", figures.published_at_work, 300),
        ("changes of mode", published.mode_changes, 100),
        ("changes of the clock", published.clock_changes, 100),
        ("expired", figures.expired, 5_000),
        ("evicted", figures.evicted, 2_000),
        ("refused", figures.refused, 500),
        ("handed over", figures.handed_over, 50_000),
        ("worlds with flow records", figures.with_records, 20),
    ] {
        assert!(count >= least, "{what}: {count}, and at least {least} are expected\n{figures}");
    }
    for reason in [
        DropReason::Policy,
        DropReason::Revoked,
        DropReason::Ipv4Checksum,
        DropReason::VlanTooDeep,
        DropReason::TcpFlags,
        DropReason::TcpNoFlow,
        DropReason::TcpWindow,
        DropReason::IcmpNoFlow,
        DropReason::IcmpMalformed,
        DropReason::FragmentOverlap,
        DropReason::FragmentDuplicate,
        DropReason::FragmentOrphan,
        DropReason::FragmentWaitFull,
        DropReason::FlowSourceLimit,
        DropReason::NewFlowRate,
        DropReason::Multisegment,
        DropReason::Pause,
    ] {
        assert!(figures.dropped(reason) > 0, "nothing was dropped as {}", reason.label());
    }
}

#[test]
fn worlds_that_nobody_has_seen_break_no_promise() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let first = now.map_or(0, |since| since.as_nanos() as u64);
    println!("seeds from {first}");
    run_all(first..first + 4);
}

#[test]
fn a_seed_replays() {
    for seed in [3, 6, 14] {
        let options = Options { seed, steps: 10_000, defect: None };
        let (one, other) = (run(options), run(options));
        assert_eq!(one, other, "seed {seed}");
        assert_ne!(one.figures.digest, run(Options { seed: seed + 100, ..options }).figures.digest);
    }
    // A violation replays as well, in every word.
    let options = Options { seed: 1, steps: STEPS, defect: Some(Defect::AnyResetCloses) };
    assert_eq!(run(options), run(options));
}

#[test]
fn every_planted_defect_is_found() {
    println!("{:<22} {:>6} {:>8}  shown by", "defect", "worlds", "steps");
    for &defect in Defect::ALL {
        let mut steps = 0;
        let found = (1..=12).find_map(|seed| {
            let report = run(Options { seed, steps: STEPS, defect: Some(defect) });
            steps += report.figures.steps;
            report.violation.map(|violation| (seed, violation.what))
        });
        let (worlds, what) = found.unwrap_or_else(|| panic!("{defect} goes unnoticed"));
        println!("{:<22} {worlds:>6} {steps:>8}  {what:.80}", defect.name());
    }
}
