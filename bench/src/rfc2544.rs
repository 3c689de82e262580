//! An RFC 2544-style test of the packet path: throughput, latency, back-to-back frames, loss.
//!
//! For each frame size, and a mix of three, a tester sends datagrams of many flows through a
//! production worker in both directions at once and counts what comes back. What follows the RFC and
//! where it is left:
//!
//! - **Throughput** (26.1): the highest rate at which no frame of a trial is lost, by binary search.
//!   Trials are shorter than its 60 seconds by default (`--seconds`).
//! - **Latency** (26.2): at 10, 50 and 90 % of that, of every frame instead of one in a trial, and
//!   from the instant at which the frame was due (see [`crate::rfc`]); percentiles beside the mean.
//! - **Frame loss rate** (26.3): from 100 % down in steps of a tenth until two
//!   successive trials lose nothing.
//! - **Back-to-back frames** (26.4, and RFC 9004): the longest burst, sent as fast as the tester can, of
//!   which no frame is lost, by binary search.
//! - **No tester of its own**: it is a thread on another core, not another machine, and has no wire
//!   that sets a highest rate: 100 % is a quarter more than comes through when the tester floods.
//!   Where nothing is lost at all that the tester can make, the figure is marked as its limit.
//! - **A machine that is shared**: a trial that lost frames while the kernel or the hypervisor kept
//!   one of the two threads from its processor is void and repeated, as long as there is time
//!   (`--minutes`); void trials are counted, and so are the steps that one had to decide.

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
use crate::rfc::rig::{Links, Rig};

mod report;
mod search;
mod tester;

use report::{Line, Report};
use search::Search;
use tester::Tester;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Frame sizes in bytes with FCS, 64 to 1,518, or `imix` (7:4:1 frames of 64, 594 and 1,518).
    #[arg(long, value_delimiter = ',', default_value = "64,128,256,512,1024,1280,1518,imix")]
    sizes: Vec<Size>,
    /// What carries frames between the tester and the gateway.
    #[arg(long, value_enum, default_value = "memory")]
    over: Over,
    /// How long a trial lasts, in seconds. RFC 2544 asks for 60.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// About how long all sizes may take together, in minutes: when a size's share of it runs out, void
    /// trials are repeated no more.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Flows that the frames belong to.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=4096))]
    flows: u16,
    /// The search for the throughput ends when it is known to so many percent.
    #[arg(long, default_value_t = 1.0)]
    resolution_percent: f64,
    /// How often a trial is made, at most, where the machine disturbs it.
    #[arg(long, default_value_t = 4)]
    attempts: usize,
    /// Print one line of JSON for each size.
    #[arg(long)]
    json: bool,
    /// Write table, figures and plots to this folder as well.
    #[arg(long)]
    record: Option<PathBuf>,
}

/// The size of a test's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    /// Bytes with FCS.
    Bytes(u16),
    /// Seven of 64 bytes to four of 594 and one of 1,518.
    Imix,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        match text.parse() {
            Ok(bytes @ 64..=1518) => Ok(Self::Bytes(bytes)),
            _ => Err(format!("`{text}` is neither `imix` nor a number from 64 to 1518")),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

impl Size {
    /// The size of the `nth` frame, in bytes with FCS.
    fn of(self, nth: usize) -> usize {
        /// Spread so that long ones do not come together.
        const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594];
        match self {
            Self::Bytes(bytes) => usize::from(bytes),
            Self::Imix => IMIX[nth % IMIX.len()],
        }
    }

    /// The mean, in bytes with FCS.
    fn mean_bytes(self) -> f64 {
        (0..12).map(|nth| self.of(nth) as f64).sum::<f64>() / 12.0
    }
}

/// Measures, prints, and returns how many frames the gateway dropped for any reason but that it
/// could not keep up: none should be.
///
/// # Errors
///
/// Where DPDK does not start, or results cannot be written.
pub fn run(options: &Options) -> io::Result<u64> {
    let is_positive = |value: f64| value.is_finite() && value > 0.0;
    if !is_positive(options.seconds)
        || !is_positive(options.minutes)
        || !is_positive(options.resolution_percent)
        || options.attempts == 0
    {
        return Err(io::Error::other(
            "seconds, minutes, resolution and attempts are more than zero",
        ));
    }
    crate::report::make_folder(options.record.as_deref())?;
    let load_before = machine::load();
    let mut report = Report::new(options, load_before)?;
    let wrong = match options.over {
        Over::Memory => measure(Links::memory(), options, &mut report)?,
        Over::Memif => measure(Links::memif()?, options, &mut report)?,
    };
    report.finish(options)?;
    Ok(wrong)
}

fn measure<P: Port + Send + 'static>(
    links: Links<P>,
    options: &Options,
    report: &mut Report,
) -> io::Result<u64> {
    let flows = FlowTableConfig { capacity: 1 << 16, ..FlowTableConfig::default() };
    let config = WorkerConfig { flows, ..WorkerConfig::default() };
    let rig = Rig::start(links, policy()?, config)?;
    let mut tester = Tester::new(rig, options.flows, options.seconds);
    let (began, time) = (Instant::now(), Duration::from_secs_f64(options.minutes * 60.0));
    for (nth, size) in options.sizes.iter().enumerate() {
        let left = time.saturating_sub(began.elapsed());
        let share = left / (options.sizes.len() - nth) as u32;
        tester.load(*size)?;
        let line: Line = Search::new(&mut tester, options, *size, share).line();
        report.add(line)?;
    }
    let wrong = tester.wrongly_dropped();
    for (reason, count) in &wrong {
        eprintln!("the gateway dropped {count} frames: {}", reason.label());
    }
    Ok(wrong.iter().map(|(_, count)| count).sum())
}

/// Everything that the tester sends, whichever side is first, and nothing else.
fn policy() -> io::Result<Policy> {
    let text = "version: 1\ngroups:\n  clients: [198.18.0.0/16]\n  servers: [198.19.0.0/16]\nrules:\n  \
                - {name: test, between: [clients, servers], service: udp/1-65535, action: allow}\n";
    data::load("policy.yaml", text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_mix_as_said() {
        assert_eq!("64".parse(), Ok(Size::Bytes(64)));
        assert_eq!("imix".parse(), Ok(Size::Imix));
        assert!("63".parse::<Size>().is_err() && "1519".parse::<Size>().is_err());
        let count = |bytes| (0..12).filter(|&nth| Size::Imix.of(nth) == bytes).count();
        assert_eq!([64, 594, 1518].map(count), [7, 4, 1]);
        assert!((Size::Imix.mean_bytes() - 361.83).abs() < 0.01);
    }

    #[test]
    fn the_policy_is_one() {
        assert_eq!(policy().expect("it loads").rule_count(), 1);
    }
}
