//! What came of it: a line for each size, a table, plots.

use std::io;

use serde::Serialize;

use super::Options;
use crate::machine::{self, Machine};
use crate::plot::{Bar, Group};
use crate::rfc::report::{self, Percentiles};

/// One size's figures. Rates are frames a second, both directions together.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub(super) struct Line {
    pub(super) size: String,
    /// The mean, with FCS.
    pub(super) frame_bytes: f64,
    pub(super) over: &'static str,
    pub(super) throughput_fps: f64,
    /// Bits of the frames, FCS included, without what a wire has between frames.
    pub(super) throughput_mbps: f64,
    /// The share of time in which the worker had frames to judge, at the throughput.
    pub(super) worker_busy_percent: f64,
    pub(super) limited_by_tester: bool,
    /// What stands for the medium's highest rate.
    pub(super) highest_fps: f64,
    pub(super) latency: Vec<LatencyAt>,
    pub(super) back_to_back_frames: u64,
    pub(super) back_to_back_limited_by_tester: bool,
    pub(super) loss: Vec<LossAt>,
    pub(super) trials: usize,
    /// Trials that the machine disturbed, and that were repeated where that was allowed.
    pub(super) void_trials: usize,
    /// Steps of the searches that a void trial decided, because attempts or time had run out.
    pub(super) undecided: usize,
    /// What all of it took.
    pub(super) seconds: f64,
}

/// Latency at a share of the throughput.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub(super) struct LatencyAt {
    pub(super) load_percent: u32,
    pub(super) offered_fps: f64,
    pub(super) lost: u64,
    /// For how long the machine kept a thread from its processor in this trial.
    pub(super) waited_us: f64,
    #[serde(flatten)]
    pub(super) latency: Percentiles,
}

/// Loss at a share of the tester's highest rate.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub(super) struct LossAt {
    pub(super) rate_percent: u32,
    pub(super) offered_fps: f64,
    pub(super) received_fps: f64,
    pub(super) lost_percent: f64,
    pub(super) waited_us: f64,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    seconds: f64,
    flows: u16,
    lines: Vec<Line>,
    #[serde(skip)]
    is_json: bool,
}

impl Report {
    /// None yet.
    ///
    /// # Errors
    ///
    /// Where the machine does not say what it is.
    pub(super) fn new(options: &Options, load_before: String) -> io::Result<Self> {
        let report = Self {
            machine: Machine::read(load_before)?,
            command: report::command(),
            seconds: options.seconds,
            flows: options.flows,
            lines: Vec::new(),
            is_json: options.json,
        };
        if !report.is_json {
            println!("{}", HEAD.trim_end());
        }
        Ok(report)
    }

    /// Takes a size's figures, and prints them.
    ///
    /// # Errors
    ///
    /// Where they cannot be written as JSON.
    pub(super) fn add(&mut self, line: Line) -> io::Result<()> {
        if self.is_json {
            println!("{}", serde_json::to_string(&line)?);
        } else {
            println!("{}", line.row());
        }
        self.lines.push(line);
        Ok(())
    }

    /// Prints or writes the rest.
    ///
    /// # Errors
    ///
    /// Where files cannot be written.
    pub(super) fn finish(&mut self, options: &Options) -> io::Result<()> {
        self.machine.load_after = machine::load();
        if !self.is_json {
            println!("\n{}\n{}", self.latencies(), self.losses());
        }
        let Some(folder) = &options.record else { return Ok(()) };
        let name = match options.over.name() {
            "memory" => "rfc2544".to_owned(),
            over => format!("rfc2544-{over}"),
        };
        let plots = [
            ("throughput", "Frames a second without loss, by frame size (bytes)", self.rates()),
            ("latency", "Latency in ns at a share of the throughput", self.latency_bars()),
        ];
        report::write(folder, &name, &self, &self.text(), &plots)
    }

    fn text(&self) -> String {
        let rows: Vec<String> = self.lines.iter().map(Line::row).collect();
        format!(
            "# RFC 2544 over {}\n\n`{}`\n\n{}\n\nTrials of {} s, {} flows, both directions at once. \
             Rates are of both together. `busy` is the share of time in which the worker had frames at \
             the throughput; 100 % is a quarter more than comes through when the tester \
             floods. A throughput marked `+` is the tester's limit and not the gateway's, and a burst so \
             marked the longest that was tried. `void` trials lost \
             frames while the machine kept a thread from its processor, and were repeated; `undecided` is how \
             often attempts or time ran out, so that the void trial that lost least had to do. What \
             follows the RFC and what departs from it is in `bench/README.md`.\n\n{HEAD}{}\n\n\
             ## Latency\n\n{}\n## Frame loss\n\n{}",
            self.lines.first().map_or("", |line| line.over),
            self.command,
            report::conditions(&self.machine),
            self.seconds,
            self.flows,
            rows.join("\n"),
            self.latencies(),
            self.losses(),
        )
    }

    fn latencies(&self) -> String {
        let mut out = "| size | load | frames/s | p50 µs | p90 | p99 | p99.9 | max | waited µs |\n\
                       |---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for line in &self.lines {
            for at in &line.latency {
                out += &format!(
                    "| {} | {} % | {:.0} | {} | {:.0} |\n",
                    line.size,
                    at.load_percent,
                    at.offered_fps,
                    at.latency.cells(),
                    at.waited_us
                );
            }
        }
        out
    }

    fn losses(&self) -> String {
        let mut out =
            "| size | rate | offered/s | received/s | lost |\n|---|---|---|---|---|\n".to_owned();
        for line in &self.lines {
            for at in &line.loss {
                out += &format!(
                    "| {} | {} % | {:.0} | {:.0} | {:.4} % |\n",
                    line.size, at.rate_percent, at.offered_fps, at.received_fps, at.lost_percent
                );
            }
        }
        out
    }

    fn rates(&self) -> Vec<Group> {
        let bar = |engine: &str, value| Bar {
            engine: engine.to_owned(),
            value: Some(value).filter(|&value| value > 0.0),
            spread: (f64::INFINITY, f64::NEG_INFINITY),
        };
        let bars = |line: &Line| {
            vec![bar("without loss", line.throughput_fps), bar("100 %", line.highest_fps)]
        };
        let group = |line| Group { name: line_name(line), bars: bars(line) };
        self.lines.iter().map(group).collect()
    }

    fn latency_bars(&self) -> Vec<Group> {
        let group = |line: &Line| Group {
            name: line_name(line),
            bars: (line.latency.iter())
                .map(|at| Bar {
                    engine: format!("median at {} %, to p99", at.load_percent),
                    value: Some(at.latency.p50_us * 1e3).filter(|&ns| ns > 0.0),
                    spread: (at.latency.p50_us * 1e3, at.latency.p99_us * 1e3),
                })
                .collect(),
        };
        self.lines.iter().map(group).collect()
    }
}

fn line_name(line: &Line) -> String {
    line.size.clone()
}

const HEAD: &str = "| size | frames/s without loss | Mbit/s | busy | 100 % | back-to-back | trials | void | undecided |\n\
                    |---|---|---|---|---|---|---|---|---|\n";

impl Line {
    fn row(&self) -> String {
        let mark = |limited: bool| if limited { "+" } else { "" };
        format!(
            "| {} | {:.0}{} | {:.0} | {:.0} % | {:.0} | {}{} | {} | {} | {} |",
            self.size,
            self.throughput_fps,
            mark(self.limited_by_tester),
            self.throughput_mbps,
            self.worker_busy_percent,
            self.highest_fps,
            self.back_to_back_frames,
            mark(self.back_to_back_limited_by_tester),
            self.trials,
            self.void_trials,
            self.undecided,
        )
    }
}
