//! Instructions of a packet, counted by callgrind: what no other load disturbs. They do not depend on
//! how many flows there are, so that few are opened; and they know nothing of caches.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;

use super::{Case, Kind, Options};
use crate::instructions::said_collected;

/// Packets that are counted.
pub(super) const PACKETS: usize = 8_192;

/// Instructions a packet.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) all: f64,
    /// Of the stages that are functions of their own.
    pub(super) stages: BTreeMap<&'static str, f64>,
}

/// The stages, and the functions that they are.
const STAGES: [(&str, &str); 4] = [
    ("parse", "Columns::parse"),
    ("look_up", "::look_up"),
    ("classify", "Judge::classify"),
    ("decide", "Judge::decide"),
];

/// The case with as few flows as its instructions need.
pub(super) fn reduced(case: &Case) -> Case {
    const FLOWS: usize = 10_000;
    const CAPACITY: usize = 1 << 15;
    Case { flows: case.flows.min(FLOWS), capacity: CAPACITY, ..case.clone() }
}

/// Runs this program again under callgrind. Takes some seconds, with a large policy a minute.
///
/// # Errors
///
/// Where `valgrind` is not installed or fails.
pub(super) fn count(case: &Case, options: &Options) -> io::Result<Counts> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*Rig*timed_run*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["pipeline", "--count-only", "--seed", &options.seed.to_string(), &case.name])
        .output()
        .map_err(|error| io::Error::other(format!("valgrind: {error}")))?;
    let instructions = said_collected(&String::from_utf8_lossy(&output.stderr))?;
    let annotated = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--auto=no"])
        .arg(&out)
        .output()
        .map_err(|error| io::Error::other(format!("callgrind_annotate: {error}")))?;
    let listing = String::from_utf8_lossy(&annotated.stdout).into_owned();
    let each = |count: f64| count / PACKETS as f64;
    let stages = STAGES.iter().filter_map(|&(stage, function)| {
        inclusive(&listing, function).map(|count| (stage, each(count)))
    });
    Ok(Counts { all: each(instructions), stages: stages.collect() })
}

/// The inclusive cost of a function. It stands in the listing once for each file that some of its
/// code comes from; the largest is what its callers paid.
fn inclusive(listing: &str, function: &str) -> Option<f64> {
    let is_it = |line: &&str| {
        let name = line.split(" [").next().unwrap_or_default().trim_end();
        name.ends_with(function)
    };
    let costs = listing.lines().filter(is_it).filter_map(|line| {
        let cost = line.trim_start().split(' ').next()?;
        cost.replace(',', "").parse::<f64>().ok()
    });
    costs.max_by(f64::total_cmp)
}

/// How a case is counted: as few blocks as its kind needs.
pub(super) fn is_countable(case: &Case) -> bool {
    // Floods fill their table first, which takes minutes under callgrind.
    case.kind != Kind::Flood
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_is_read() {
        let listing = "\
21,870,752 (17.70%)  /src/judge.rs:bulkhead_pipeline::judge::Judge::classify
20,950,304 (16.96%)  src/judge.rs:bulkhead_pipeline::judge::Judge::classify [/bin/bulkhead-bench]
   345,000 ( 0.28%)  src/judge.rs:bulkhead_pipeline::judge::Judge::classify_one";
        assert_eq!(inclusive(listing, "Judge::classify"), Some(21_870_752.0));
        assert_eq!(inclusive(listing, "Judge::decide"), None);
    }
}
