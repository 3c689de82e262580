//! What came of it: a line for each phase, a table, plots.

use std::io;

use serde::Serialize;

use super::Options;
use super::tester::{Held, Outcome};
use crate::machine::{self, Machine};
use crate::plot::{Bar, Group};
use crate::rfc::report::{self, Percentiles};

/// One phase's figures.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub(super) struct Line {
    pub(super) test: &'static str,
    /// None for the mix.
    pub(super) object_bytes: Option<u32>,
    pub(super) over: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub(super) rates: Option<Rates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_byte: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_byte: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub(super) concurrent: Option<Concurrent>,
}

/// Of a phase in which connections come and go.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub(super) struct Rates {
    pub(super) seconds: f64,
    pub(super) connections: u64,
    pub(super) connections_per_second: f64,
    pub(super) transactions_per_second: f64,
    /// Bits of objects, without headers.
    pub(super) goodput_mbps: f64,
    pub(super) attempted: u64,
    pub(super) failed: u64,
    /// Fewer than one failure in 100,000 (RFC 9411, 7.1.3.4).
    pub(super) is_valid: bool,
    /// The share of time in which the worker had frames to judge, and what each connection took of it.
    pub(super) worker_busy_percent: f64,
    pub(super) worker_us_per_connection: f64,
    pub(super) waited_us: f64,
}

/// Of connections that are held.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub(super) struct Concurrent {
    pub(super) flow_capacity: u64,
    pub(super) concurrent_connections: u64,
    pub(super) first_refused_at: Option<u64>,
    /// Whether more could have been opened, had there been time.
    pub(super) ended_by_time: bool,
    pub(super) opened_per_second: f64,
    /// Those that made room for others before the gateway had seen their handshake's end.
    pub(super) evicted_half_open: u64,
    pub(super) first_byte_while_open: Percentiles,
    pub(super) waited_us: f64,
}

impl From<Held> for Concurrent {
    fn from(held: Held) -> Self {
        Self {
            flow_capacity: held.capacity,
            concurrent_connections: held.open,
            first_refused_at: held.first_refused_at,
            ended_by_time: held.ended_by_time,
            opened_per_second: held.opened_per_second,
            evicted_half_open: held.evicted_half_open,
            first_byte_while_open: Percentiles::of(&held.first_byte_ns),
            waited_us: held.waited_ns as f64 / 1e3,
        }
    }
}

impl Line {
    /// With the rates of an outcome.
    pub(super) fn with(self, outcome: &Outcome) -> Self {
        let per_second = |count: u64| count as f64 / outcome.seconds;
        let rates = Rates {
            seconds: outcome.seconds,
            connections: outcome.connections,
            connections_per_second: outcome.connections_per_second(),
            transactions_per_second: per_second(outcome.transactions),
            goodput_mbps: per_second(outcome.bytes) * 8.0 / 1e6,
            attempted: outcome.attempted,
            failed: outcome.failed,
            is_valid: outcome.failed * 100_000 < outcome.attempted.max(1),
            worker_busy_percent: (outcome.busy_ns as f64 / 1e7 / outcome.seconds).min(100.0),
            worker_us_per_connection: outcome.busy_ns as f64
                / 1e3
                / outcome.connections.max(1) as f64,
            waited_us: outcome.waited_ns as f64 / 1e3,
        };
        Self { rates: Some(rates), ..self }
    }

    fn object(&self) -> String {
        self.object_bytes.map_or("mix".to_owned(), |bytes| bytes.to_string())
    }

    fn row(&self) -> String {
        if let Some(held) = &self.concurrent {
            let refused = match (held.first_refused_at, held.ended_by_time) {
                (Some(at), _) => format!("at {at}"),
                (None, false) => "none".to_owned(),
                (None, true) => "none, and time ended before the table was full".to_owned(),
            };
            return format!(
                "{} connections open at once in a table of {} (first refusal: {refused}), opened at {:.0} \
                 a second; {} more made room for others while half open; first byte of {} bytes with all of them open: \
                 {:.1} µs median, {:.1} µs at 99 %.\n",
                held.concurrent_connections,
                held.flow_capacity,
                held.opened_per_second,
                held.evicted_half_open,
                self.object(),
                held.first_byte_while_open.p50_us,
                held.first_byte_while_open.p99_us,
            );
        }
        let Some(rates) = &self.rates else { return String::new() };
        format!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {} of {} | {:.0} % | {:.2} |",
            self.test,
            self.object(),
            rates.connections_per_second,
            rates.transactions_per_second,
            rates.goodput_mbps,
            rates.failed,
            rates.attempted,
            rates.worker_busy_percent,
            rates.worker_us_per_connection,
        )
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    seconds: f64,
    rules: u32,
    lines: Vec<Line>,
    #[serde(skip)]
    is_json: bool,
}

const HEAD: &str = "| test | object | connections/s | objects/s | Mbit/s of objects | failed | busy | worker µs each |\n\
                    |---|---|---|---|---|---|---|---|";

impl Report {
    /// None yet.
    ///
    /// # Errors
    ///
    /// Where the machine does not say what it is.
    pub(super) fn new(options: &Options, load_before: String) -> io::Result<Self> {
        Ok(Self {
            machine: Machine::read(load_before)?,
            command: report::command(),
            seconds: options.seconds,
            rules: options.rules + 1,
            lines: Vec::new(),
            is_json: options.json,
        })
    }

    /// Takes a phase's figures, and prints them.
    ///
    /// # Errors
    ///
    /// Where they cannot be written as JSON.
    pub(super) fn add(&mut self, line: Line) -> io::Result<()> {
        if self.is_json {
            println!("{}", serde_json::to_string(&line)?);
        } else {
            println!("{}", line.row());
            if line.concurrent.is_some() {
                println!("{HEAD}");
            }
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
            println!("\n{}", self.times());
        }
        let Some(folder) = &options.record else { return Ok(()) };
        let name = match options.over.name() {
            "memory" => "rfc9411".to_owned(),
            over => format!("rfc9411-{over}"),
        };
        let plots = [
            ("rates", "Connections a second by object (bytes)", self.rates()),
            ("times", "Time in ns to a byte at half of the connections a second", self.time_bars()),
        ];
        report::write(folder, &name, &self, &self.text(), &plots)
    }

    fn text(&self) -> String {
        let (held, others): (Vec<_>, Vec<_>) =
            self.lines.iter().partition(|line| line.concurrent.is_some());
        let rows =
            |lines: &[&Line]| lines.iter().map(|line| line.row()).collect::<Vec<_>>().join("\n");
        format!(
            "# RFC 9411 over {}\n\n`{}`\n\n{}\n\nPhases of {} s after a tenth of that; {} rules, of which \
             the last permits the connections. `busy` is the share of time in which the worker had \
             frames: where it is far from 100 % the tester, which is both ends of every connection, set \
             the pace. What follows the RFC and what departs from it is in `bench/README.md`.\n\n\
             ## Concurrent connections\n\n{}\n\n## Connections, objects, throughput\n\n{HEAD}\n{}\n\n\
             ## Response time\n\nFrom the instant at which the connection was due.\n\n{}",
            self.lines.first().map_or("", |line| line.over),
            self.command,
            report::conditions(&self.machine),
            self.seconds,
            self.rules,
            rows(&held).trim_end(),
            rows(&others),
            self.times(),
        )
    }

    fn times(&self) -> String {
        let mut out = "| object | byte | connections/s | p50 µs | p90 | p99 | p99.9 | max |\n\
                       |---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for line in &self.lines {
            let Some(rates) = &line.rates else { continue };
            let times = [("first", &line.first_byte), ("last", &line.last_byte)];
            for (name, time) in times.into_iter().filter_map(|(name, time)| Some((name, (*time)?)))
            {
                out += &format!(
                    "| {} | {name} | {:.0} | {} |\n",
                    line.object(),
                    rates.connections_per_second,
                    time.cells()
                );
            }
        }
        out
    }

    fn rates(&self) -> Vec<Group> {
        let value = |line: &Line| line.rates.as_ref().map(|rates| rates.connections_per_second);
        let group = |line: &Line| Group {
            name: line.object(),
            bars: vec![Bar {
                engine: "one object each".to_owned(),
                value: value(line).filter(|&value| value > 0.0),
                spread: (f64::INFINITY, f64::NEG_INFINITY),
            }],
        };
        self.lines.iter().filter(|line| line.test == "connections-per-second").map(group).collect()
    }

    fn time_bars(&self) -> Vec<Group> {
        let bar = |name: &str, time: Percentiles| Bar {
            engine: format!("{name} byte: median, to p99"),
            value: Some(time.p50_us * 1e3).filter(|&ns| ns > 0.0),
            spread: (time.p50_us * 1e3, time.p99_us * 1e3),
        };
        let group = |line: &Line| {
            let bars = vec![bar("first", line.first_byte?), bar("last", line.last_byte?)];
            Some(Group { name: line.object(), bars })
        };
        self.lines.iter().filter_map(group).collect()
    }
}
