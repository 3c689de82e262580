//! What came of measuring the pipeline: a line for each case, and what it promises.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use bulkhead_pipeline::worker::Stage;
use serde::Serialize;

use super::Options;
use crate::machine::{self, Machine};
use crate::shows::Show;

/// One case's figures. Cycles are those of the time-stamp counter, medians of the rounds.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub(super) struct Line {
    pub(super) case: String,
    /// Of one worker, everything included: the ports too.
    pub(super) cycles_per_packet: f64,
    pub(super) ns_per_packet: f64,
    /// Of all workers together.
    pub(super) packets_per_second: f64,
    pub(super) workers: usize,
    pub(super) ratio_to_one_worker: Option<f64>,
    /// What the ports alone take of it.
    pub(super) ports_cycles: f64,
    /// What the histograms of latency take of it.
    pub(super) latency_cycles: f64,
    /// Cycles a packet by stage, from turns of their own.
    pub(super) stages: BTreeMap<&'static str, f64>,
    pub(super) instructions_per_packet: Option<f64>,
    /// Those of the stages that are functions of their own.
    pub(super) instructions: BTreeMap<&'static str, f64>,
    pub(super) cycles_rounds: Vec<f64>,
    pub(super) rules: usize,
    pub(super) flows: u64,
    pub(super) flow_capacity: u64,
    /// Frames that should have passed and did not.
    pub(super) stopped: u64,
    /// Why the workers dropped frames, these and those of a flood.
    pub(super) stopped_by: BTreeMap<&'static str, u64>,
    /// Of a flood, the share of the established connections' frames that did not pass.
    pub(super) established_lost: Option<f64>,
    pub(super) machine: String,
    pub(super) commit: String,
}

/// How figures and tables name a stage.
pub(super) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Loop => "loop",
        Stage::Receive => "receive",
        Stage::Parse => "parse",
        Stage::LookUp => "look_up",
        Stage::Classify => "classify",
        Stage::Decide => "decide",
        Stage::Account => "account",
        Stage::Transmit => "transmit",
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    rounds: usize,
    lines: Vec<Line>,
    #[serde(skip)]
    json: bool,
}

impl Report {
    /// None yet.
    pub(super) fn new(machine: Machine, options: &Options) -> Self {
        // Where files are on this machine is nobody else's matter.
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        if let Some(at) = arguments.iter().position(|argument| argument == "--record") {
            arguments.drain(at..arguments.len().min(at + 2));
        }
        Self {
            machine,
            command: format!("cargo run --release -p bulkhead-bench -- {}", arguments.join(" ")),
            rounds: options.rounds,
            json: options.json,
            lines: Vec::new(),
        }
    }

    /// Prints what comes before the table.
    pub(super) fn print_head(&self) {
        if self.json {
            return;
        }
        println!("{}\n\n{}", self.conditions(), head());
    }

    fn conditions(&self) -> String {
        let Machine { processor, mhz, kernel, commit, load_before, .. } = &self.machine;
        format!(
            "{processor} at {mhz:.0} MHz; Linux {kernel}, commit {commit}, load {load_before} at the \
             start.\nCycles of the time-stamp counter a packet, medians of {} rounds; `ports` is what \
             the ports in memory take alone, stages are from turns of their own.",
            self.rounds
        )
    }

    /// Writes table and figures to the folder.
    ///
    /// # Errors
    ///
    /// Where they cannot be written.
    pub(super) fn write(&mut self, folder: &Path) -> io::Result<()> {
        self.machine.load_after = machine::load();
        fs::write(folder.join("pipeline.json"), serde_json::to_vec_pretty(self)?)?;
        let rows: Vec<String> = self.lines.iter().map(row).collect();
        let shows: Vec<String> = shows(&self.lines).iter().map(Show::line).collect();
        let text = format!(
            "# The packet path in one process\n\n`{}`\n\n{} Load {} at the end.\n\n```text\n{}\n{}\n```\n\n\
             ## Promises\n\n```text\n{}\n```\n",
            self.command,
            self.conditions(),
            self.machine.load_after,
            head(),
            rows.join("\n"),
            shows.join("\n"),
        );
        fs::write(folder.join("pipeline.md"), text)
    }

    /// Takes a case's figures, and prints them.
    ///
    /// # Errors
    ///
    /// Where they cannot be written as JSON.
    pub(super) fn add(&mut self, mut line: Line) -> io::Result<()> {
        line.machine = format!("{}, {} MHz", self.machine.processor, self.machine.mhz);
        line.commit = self.machine.commit.clone();
        if self.json {
            println!("{}", serde_json::to_string(&line)?);
        } else {
            println!("{}", row(&line));
        }
        self.lines.push(line);
        Ok(())
    }

    /// Prints what comes after the table.
    pub(super) fn print_tail(&self) {
        if !self.json {
            println!();
            shows(&self.lines).iter().for_each(|show| println!("{}", show.line()));
        }
    }
}

fn head() -> String {
    format!(
        "{:<24} {:>7} {:>13} {:>6} {:>6} {:>5} {:>6} | {}",
        "case",
        "cycles",
        "(spread)",
        "ns",
        "Mpps",
        "ports",
        "instr.",
        Stage::ALL.map(|stage| format!("{:>8}", stage_name(stage))).join(" ")
    )
}

fn row(line: &Line) -> String {
    let least = line.cycles_rounds.iter().copied().fold(f64::INFINITY, f64::min);
    let most = line.cycles_rounds.iter().copied().fold(0.0, f64::max);
    let stages = Stage::ALL.map(|stage| {
        format!("{:>8.1}", line.stages.get(stage_name(stage)).copied().unwrap_or(f64::NAN))
    });
    let ratio = line
        .ratio_to_one_worker
        .map(|ratio| format!("  {} workers: {ratio:.2} times the packets of one", line.workers));
    format!(
        "{:<24} {:>7.1} {:>13} {:>6.1} {:>6.1} {:>5.1} {:>6} | {}{}",
        line.case,
        line.cycles_per_packet,
        format!("({least:.0}-{most:.0})"),
        line.ns_per_packet,
        line.packets_per_second / 1e6,
        line.ports_cycles,
        line.instructions_per_packet.map_or_else(|| "-".to_owned(), |count| format!("{count:.0}")),
        stages.join(" "),
        ratio.unwrap_or_default(),
    )
}

/// The most cycles that a packet of a case may take.
const MOST_CYCLES: [(&str, f64); 4] =
    [("hit-10k", 60.0), ("hit-1m", 120.0), ("hit-10m", 200.0), ("miss-10k-rules", 400.0)];

/// The promises that the lines are about, and whether they are kept.
fn shows(lines: &[Line]) -> Vec<Show> {
    let mut out = Vec::new();
    for line in lines {
        let Line { case, cycles_per_packet: cycles, ports_cycles: ports, .. } = line;
        if let Some((_, most)) = MOST_CYCLES.iter().find(|(name, _)| name == case) {
            let text = format!(
                "{case}: {cycles:.1} cycles a packet, {ports:.1} of them for the ports; at most {most}"
            );
            out.push(Show { text, kept: Some(cycles <= most) });
        }
        if case == "hit-10k" {
            let share = line.latency_cycles / cycles;
            let text = format!(
                "{case}: {:.2} cycles a packet for the histograms of latency, {:.2} % of it; below 1 %",
                line.latency_cycles,
                share * 100.0
            );
            out.push(Show { text, kept: Some(share < 0.01) });
        }
        if let Some(ratio) = line.ratio_to_one_worker {
            let text = format!(
                "{case}: {} workers carry {ratio:.2} times the packets of one; at least {:.1}",
                line.workers,
                0.95 * line.workers as f64
            );
            out.push(Show { text, kept: Some(ratio >= 0.95 * line.workers as f64) });
        }
        if let Some(lost) = line.established_lost {
            let text = format!(
                "{case}: established connections lose {:.3} % of their frames; under 1",
                lost * 100.0
            );
            out.push(Show { text, kept: Some(lost < 0.01) });
        }
        if line.established_lost.is_none() {
            let mut text =
                format!("{case}: {} frames stopped that should have passed", line.stopped);
            if line.stopped > 0 {
                text.push_str(&format!("; dropped: {:?}", line.stopped_by));
            }
            out.push(Show { text, kept: Some(line.stopped == 0) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_judged_by_the_case() {
        let line = |case: &str, cycles| Line {
            case: case.to_owned(),
            cycles_per_packet: cycles,
            ..Line::default()
        };
        let of = |line: Line, words: &str| {
            let all = shows(&[line]);
            all.into_iter().find(|show| show.text.contains(words)).and_then(|show| show.kept)
        };
        assert_eq!(of(line("hit-10k", 60.0), "at most 60"), Some(true));
        assert_eq!(of(line("hit-10k", 60.1), "at most 60"), Some(false));
        assert_eq!(of(line("hit-10k-v6", 500.0), "at most"), None);
        let two = Line { workers: 2, ratio_to_one_worker: Some(1.89), ..line("hit-1m", 1.0) };
        assert_eq!(of(two, "at least 1.9"), Some(false));
        let flood = Line { established_lost: Some(0.02), ..line("synflood", 1.0) };
        assert_eq!(of(flood, "under 1"), Some(false));
        let stopped = Line { stopped: 1, ..line("mixed", 1.0) };
        assert_eq!(of(stopped, "should have passed"), Some(false));
    }
}
