//! An RFC 9411-style test of the packet path under stateful traffic: TCP connections with whole
//! handshakes and teardowns, requests and responses.
//!
//! - **Connections per second** (7.2): as many as can be opened, used for one object and closed, by
//!   object size.
//! - **Throughput** (7.3, and 7.1 for the mix): objects of one size, or of several, ten on each
//!   connection.
//! - **Response time** (7.4): time to the first and to the last byte at half of the connections per
//!   second, from the instant at which each connection was due (see [`crate::rfc`]).
//! - **Concurrent connections** (7.5): opened and held up to what the flow table holds; then each one
//!   carries an object, while all the others are open.
//!
//! Where it departs from the RFC: clients and servers are one thread beside the gateway's, and not
//! machines. They speak TCP as segments and acknowledgements, with a window of 16 segments and neither
//! congestion control nor retransmission: a connection that loses a frame is a failed one, which is
//! stricter. There is no TLS, whose records a gateway of this kind sees as bytes. Phases are shorter
//! than its five minutes by default (`--seconds`). The tester may cost more than the worker: the
//! worker's share of busy time stands beside each rate, and says what limits it.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::port::Port;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::policy::Policy;

use crate::data;
use crate::machine;
use crate::rfc::Over;
use crate::rfc::report::Percentiles;
use crate::rfc::rig::{Links, Rig};

mod connection;
mod report;
mod tester;

use report::{Line, Report};
use tester::{Load, Outcome, Tester};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What carries frames between the tester and the gateway.
    #[arg(long, value_enum, default_value = "memory")]
    over: Over,
    /// About how long all phases may take together, in minutes: connections are opened to be held for a
    /// third of it at most, and disturbed phases are repeated as long as there is time.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// How long each phase lasts, in seconds. RFC 9411 asks for 300.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Objects that are asked for, in bytes.
    #[arg(long, value_delimiter = ',', default_value = "1024,16384,65536,262144")]
    objects: Vec<u32>,
    /// Flows that the gateway's table holds: a power of two, at most 1,048,576.
    #[arg(long, default_value_t = 1 << 20)]
    capacity: u32,
    /// Rules that no packet matches, in front of the one that permits the connections.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    rules: u32,
    /// How often a phase is run, at most, where the machine disturbs it.
    #[arg(long, default_value_t = 3)]
    attempts: usize,
    /// Print one line of JSON for each phase.
    #[arg(long)]
    json: bool,
    /// Write table, figures and plots to this folder as well.
    #[arg(long)]
    record: Option<PathBuf>,
}

/// Connections at once where the tester goes as fast as it can: their windows fit a ring.
const AT_ONCE: usize = 64;

/// The same where connections come by a schedule: more than ever come together.
const SCHEDULED_AT_ONCE: usize = 1 << 14;

/// Transactions of a connection where throughput is measured (RFC 9411, 7.3.3.2).
const TRANSACTIONS: u16 = 10;

/// What the mix's objects weigh: mostly small ones, and a few that carry most bytes.
const MIX: [u32; 16] = [
    256, 1024, 512, 4096, 256, 16_384, 1024, 2048, 512, 65_536, 256, 8192, 1024, 262_144, 2048,
    4096,
];

/// Measures and prints. Connections that failed are in the figures.
///
/// # Errors
///
/// Where DPDK does not start, or results cannot be written.
pub fn run(options: &Options) -> io::Result<()> {
    let is_sized = options.capacity.is_power_of_two() && options.capacity <= 1 << 20;
    if !is_sized || options.objects.contains(&0) || options.attempts == 0 {
        let message = "the capacity is a power of two, up to 1048576; objects have bytes; and there is \
                       an attempt at least";
        return Err(io::Error::other(message));
    }
    let is_positive = |value: f64| value.is_finite() && value > 0.0;
    if !is_positive(options.seconds) || !is_positive(options.minutes) {
        return Err(io::Error::other("a phase lasts more than zero seconds, and all some minutes"));
    }
    crate::report::make_folder(options.record.as_deref())?;
    let mut report = Report::new(options, machine::load())?;
    match options.over {
        Over::Memory => measure(Links::memory(), options, &mut report)?,
        Over::Memif => measure(Links::memif()?, options, &mut report)?,
    }
    report.finish(options)
}

fn measure<P: Port + Send + 'static>(
    links: Links<P>,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    let flows =
        FlowTableConfig { capacity: options.capacity as usize, ..FlowTableConfig::default() };
    let config = WorkerConfig { flows, ..WorkerConfig::default() };
    let policy = policy(options.rules)?;
    let mut tester = Tester::new(Rig::start(links, policy, config)?);
    let line = |test, object| Line {
        test,
        object_bytes: object,
        over: options.over.name(),
        ..Line::default()
    };
    let phases = 3 * options.objects.len() + 1;
    let mut time = Time::new(options, phases);
    // First, while no connection of the other phases is left in the table.
    time.tell(&format!("opening {} connections", options.capacity));
    let held = tester.hold(options.capacity, time.for_holding());
    time.tell(&format!("{} were held", held.open));
    report.add(Line {
        concurrent: Some(held.into()),
        ..line("concurrent-connections", Some(1024))
    })?;
    for &object in &options.objects {
        let load =
            Load { rate: f64::INFINITY, at_once: AT_ONCE, transactions: 1, objects: &[object] };
        let fastest = sustained(&mut tester, &load, options, &mut time);
        report.add(line("connections-per-second", Some(object)).with(&fastest))?;
        let half = Load {
            rate: fastest.connections_per_second() / 2.0,
            at_once: SCHEDULED_AT_ONCE,
            ..load
        };
        let at_half = sustained(&mut tester, &half, options, &mut time);
        let line = line("response-time", Some(object)).with(&at_half);
        report.add(Line {
            first_byte: Some(Percentiles::of(&at_half.first_byte_ns)),
            last_byte: Some(Percentiles::of(&at_half.last_byte_ns)),
            ..line
        })?;
    }
    let sizes = options.objects.iter().map(|object| (std::slice::from_ref(object), Some(*object)));
    for (objects, object) in sizes.chain([(&MIX[..], None)]) {
        let rate = f64::INFINITY;
        let load = Load { rate, at_once: AT_ONCE, transactions: TRANSACTIONS, objects };
        let outcome = sustained(&mut tester, &load, options, &mut time);
        report.add(line("throughput", object).with(&outcome))?;
    }
    for (reason, count) in tester.drops() {
        eprintln!("the gateway dropped {count} frames: {}", reason.label());
    }
    Ok(())
}

/// The first outcome in which nothing failed, or which the machine did not disturb; else the one with
/// the fewest failures.
fn sustained<P: Port + Send + 'static>(
    tester: &mut Tester<P>,
    load: &Load<'_>,
    options: &Options,
    time: &mut Time,
) -> Outcome {
    let mut best = tester.run(load, options.seconds);
    for _ in 1..options.attempts {
        if best.failed == 0 || !best.is_disturbed() || !time.has_more_than_enough() {
            break;
        }
        let next = tester.run(load, options.seconds);
        if next.failed < best.failed {
            best = next;
        }
    }
    time.phases -= 1;
    let what = match load.objects {
        [bytes] => format!("objects of {bytes} bytes"),
        _ => "the mix".to_owned(),
    };
    time.tell(&format!("{what}: {} connections, {} failed", best.attempted, best.failed));
    best
}

/// How far the test is.
struct Time {
    began: Instant,
    ends: Instant,
    /// What one phase takes, the patience at its end included.
    phase: Duration,
    /// Phases that are left.
    phases: usize,
}

impl Time {
    fn new(options: &Options, phases: usize) -> Self {
        let began = Instant::now();
        let ends = began + Duration::from_secs_f64(options.minutes * 60.0);
        let phase = Duration::from_secs_f64(options.seconds * 1.1 + tester::PATIENCE_SECONDS);
        Self { began, ends, phase, phases }
    }

    /// What is left beside one of each phase.
    fn spare(&self) -> Duration {
        let left = self.ends.saturating_duration_since(Instant::now());
        left.saturating_sub(self.phase * self.phases as u32)
    }

    /// Opening takes a third of it: each connection is then used, and closed.
    fn for_holding(&self) -> Duration {
        self.spare() / 3
    }

    /// Whether a phase may be repeated.
    fn has_more_than_enough(&self) -> bool {
        self.spare() > self.phase
    }

    fn tell(&self, what: &str) {
        let (seconds, most) = (self.began.elapsed().as_secs(), self.ends - self.began);
        eprintln!("{what}; {} phases left, {seconds} s of about {}", self.phases, most.as_secs());
    }
}

/// Rules of other networks, then the one that permits the connections.
fn policy(rules: u32) -> io::Result<Policy> {
    use std::fmt::Write as _;

    let mut text = "version: 1\nrules:\n".to_owned();
    for rule in 0..rules {
        let (high, low) = (rule / 250, rule % 250);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  - {{name: other-{rule}, from: 10.{high}.{low}.0/24, to: 172.16.{low}.0/24, service: \
             tcp/{}, action: deny}}",
            1 + rule
        );
    }
    text += "  - {name: clients-to-servers, from: 198.18.0.0/16, to: 198.19.0.0/16, service: tcp/443, \
             action: allow}\n";
    data::load("policy.yaml", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_has_its_rules() {
        assert_eq!(policy(600).expect("it loads").rule_count(), 601);
        assert_eq!(policy(0).expect("it loads").rule_count(), 1);
    }
}
