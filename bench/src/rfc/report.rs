//! What both reports need: latencies in figures, conditions in words, files in a folder.

use std::path::Path;
use std::{fs, io};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::rig;
use crate::machine::Machine;
use crate::plot::{self, Group};

/// The longest latency that is told from longer ones: ten seconds.
const MAX_LATENCY_NS: u64 = 10_000_000_000;

/// An empty histogram of nanoseconds whose values are within 0.1 %.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants within the crate's limits: {error}"),
    }
}

/// A distribution in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    /// How many were measured.
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Percentiles {
    pub(crate) fn of(latency_ns: &Histogram<u64>) -> Self {
        let at = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: latency_ns.len(),
            mean_us: latency_ns.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: latency_ns.max() as f64 / 1e3,
        }
    }

    /// Median, 90 %, 99 %, 99.9 % and maximum as cells of a table.
    pub(crate) fn cells(&self) -> String {
        let Self { p50_us, p90_us, p99_us, p999_us, max_us, .. } = self;
        format!("{p50_us:.1} | {p90_us:.1} | {p99_us:.1} | {p999_us:.1} | {max_us:.1}")
    }
}

/// On what figures were measured, for the head of a report.
pub(crate) fn conditions(machine: &Machine) -> String {
    let Machine { processor, mhz, kernel, dpdk, commit, load_before, load_after, .. } = machine;
    let alone = if rig::has_two_processors() {
        "tester and worker have a processor each"
    } else {
        "tester and worker share one processor: rates and latencies are of no use"
    };
    format!(
        "{processor} at {mhz:.0} MHz; Linux {kernel}, {dpdk}, commit {commit}, load {load_before} at \
         the start and {load_after} at the end; {alone}."
    )
}

/// The command line that began this process, without the folder that results go to: where files are
/// on this machine is nobody else's matter.
pub(crate) fn command() -> String {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--record") {
        arguments.drain(at..arguments.len().min(at + 2));
    }
    format!("cargo run --release -p bulkhead-bench -- {}", arguments.join(" "))
}

/// Writes `NAME.json`, `NAME.md`, and a plot `NAME-KIND.svg` for each of `plots`.
///
/// # Errors
///
/// Where they cannot be written.
pub(crate) fn write(
    folder: &Path,
    name: &str,
    figures: &impl Serialize,
    text: &str,
    plots: &[(&str, &str, Vec<Group>)],
) -> io::Result<()> {
    fs::write(folder.join(format!("{name}.json")), serde_json::to_vec_pretty(figures)?)?;
    fs::write(folder.join(format!("{name}.md")), text)?;
    for (kind, title, groups) in plots {
        fs::write(folder.join(format!("{name}-{kind}.svg")), plot::svg(title, groups))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = latency_histogram();
        (1..=1000).for_each(|us| histogram.saturating_record(us * 1000));
        let found = Percentiles::of(&histogram);
        assert_eq!(found.count, 1000);
        for (value, expected) in [
            (found.p50_us, 500.0),
            (found.p90_us, 900.0),
            (found.p99_us, 990.0),
            (found.p999_us, 999.0),
            (found.max_us, 1000.0),
            (found.mean_us, 500.5),
        ] {
            assert!((value - expected).abs() <= expected * 0.002, "{found:?}");
        }
    }
}
