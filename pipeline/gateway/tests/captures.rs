//! Every real capture of the data folder through the worker: the accounts balance, and what comes out
//! is what went in, byte for byte and in order, but for frames that are dropped for a reason on a
//! list that was reviewed: `tests/golden/captures-dropped.tsv`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bulkhead_gateway::replay::report::{Report, Volume};
use bulkhead_gateway::replay::{ReplayArgs, ReplayMode, inputs, replay};
use bulkhead_pipeline::port::capture::{CaptureReader, LinkType};
use bulkhead_pipeline::verdict::DropReason;

#[path = "common/captures.rs"]
mod data;

const ALLOW_EVERYTHING: &str = "version: 1\ndefault: deny\nrules:\n  - {name: everything, \
                                from: any, to: any, service: any, action: allow}\n";

/// The reviewed drops of a mode: frames by reason.
fn reviewed(mode: &str) -> BTreeMap<String, u64> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/captures-dropped.tsv");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut list = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [of_mode, reason, frames, why] = fields[..] else { panic!("four fields in {line:?}") };
        assert!(DropReason::ALL.iter().any(|known| known.label() == reason), "{reason}");
        assert!(!why.is_empty(), "{reason} is not explained");
        if of_mode == mode {
            let frames = frames.parse().unwrap_or_else(|e| panic!("{line:?}: {e}"));
            assert!(list.insert(reason.to_owned(), frames).is_none(), "{reason} stands twice");
        }
    }
    list
}

/// Replays all captures under the policy that allows everything. What the replay itself checks, frame
/// by frame and byte by byte for each capture, is that the worker's accounts balance.
fn replay_all(folder: &Path, mode: ReplayMode, out: &Path) -> Report {
    let policy = out.join("policy.yaml");
    std::fs::write(&policy, ALLOW_EVERYTHING).unwrap();
    let args = ReplayArgs {
        policy,
        inside: Vec::new(),
        wire: None,
        mode,
        out_allowed: Some(out.join("allowed.pcapng")),
        out_denied: Some(out.join("denied.pcapng")),
        json: false,
        flows: Vec::new(),
        captures: vec![folder.to_owned()],
    };
    replay(&args).unwrap_or_else(|refusal| panic!("{}", refusal.message))
}

/// Walks the captures beside the outputs: each Ethernet record is the next one of exactly one of the
/// two. Returns how many records of each kind there were: skipped, allowed, denied.
fn compare_outputs(folder: &Path, out: &Path) -> [u64; 3] {
    let mut counts = [0; 3];
    let mut allowed = CaptureReader::open(&out.join("allowed.pcapng")).unwrap();
    let mut denied = CaptureReader::open(&out.join("denied.pcapng")).unwrap();
    type Owned = (u64, u32, Vec<u8>);
    let next = |reader: &mut CaptureReader| -> Option<Owned> {
        let record = reader.next_record().unwrap()?;
        Some((record.timestamp_ns, record.original_len, record.bytes.to_vec()))
    };
    let (mut next_allowed, mut next_denied) = (next(&mut allowed), next(&mut denied));
    for input in inputs::collect(&[folder.to_owned()]).unwrap() {
        let Ok(mut reader) = CaptureReader::open(&input.path) else { continue };
        while let Ok(Some(record)) = reader.next_record() {
            if record.link_type != LinkType::ETHERNET {
                counts[0] += 1;
                continue;
            }
            let is = |other: &Option<Owned>| {
                other.as_ref().is_some_and(|(at, original_len, bytes)| {
                    (*at, *original_len) == (record.timestamp_ns, record.original_len)
                        && bytes == record.bytes
                })
            };
            if is(&next_allowed) {
                counts[1] += 1;
                next_allowed = next(&mut allowed);
            } else if is(&next_denied) {
                counts[2] += 1;
                next_denied = next(&mut denied);
            } else {
                let at = record.timestamp_ns;
                panic!(
                    "{}: the record at {at} ns is in no output, or not here",
                    input.path.display()
                );
            }
        }
    }
    assert!(next_allowed.is_none() && next_denied.is_none(), "an output has more than went in");
    counts
}

fn check(mode: ReplayMode, name: &str) {
    let Some(folder) = data::folder(name) else { return };
    let out = tempfile::tempdir().unwrap();
    let report = replay_all(&folder, mode, out.path());
    assert!(report.files.len() > 2000, "{} captures", report.files.len());
    for file in &report.files {
        assert_eq!(file.error, None, "{}", file.path);
    }
    let total = &report.total;
    let [skipped, allowed, denied] = compare_outputs(&folder, out.path());
    assert_eq!(
        [skipped, allowed, denied],
        [total.skipped_records(), total.allowed.frames, total.denied.frames]
    );
    assert_eq!(total.records, skipped + allowed + denied);
    println!(
        "{name}: {} captures, {} records: {allowed} allowed, {denied} denied, {skipped} of other link types",
        report.files.len(),
        total.records
    );
    compare_with_list(name, &total.drops);
}

fn compare_with_list(mode: &str, drops: &BTreeMap<&'static str, Volume>) {
    let list = reviewed(mode);
    let reasons: BTreeSet<&str> = drops.keys().copied().chain(list.keys().map(|r| &**r)).collect();
    let differences: Vec<String> = (reasons.into_iter())
        .map(|reason| (reason, drops.get(reason).map_or(0, |drop| drop.frames), list.get(reason)))
        .filter(|(_, frames, listed)| *frames != listed.copied().unwrap_or(0))
        .map(|(reason, frames, listed)| {
            format!("{mode}\t{reason}\t{frames}\t(listed: {})", listed.copied().unwrap_or(0))
        })
        .collect();
    assert!(
        differences.is_empty(),
        "these differ from tests/golden/captures-dropped.tsv; look at the frames before the list is \
         changed:\n{}",
        differences.join("\n")
    );
}

#[test]
fn observe_forwards_all_but_what_is_no_frame() {
    check(ReplayMode::Observe, "observe");
}

#[test]
fn a_policy_that_allows_everything_drops_only_what_was_reviewed() {
    check(ReplayMode::Enforce, "allow");
}
