//! The parser over every real capture of the data folder.
//!
//! `cargo test -p bulkhead-pipeline --test parse_captures -- --nocapture` prints what it counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bulkhead_pipeline::parse::{Kind, Parsed, parse, parse_quoted};
use bulkhead_pipeline::port::capture::{CaptureReader, LinkType};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_rules::headers::WireId;

/// The folder of captures; [`None`] is a skip that says so, and a failure in CI.
fn captures() -> Option<PathBuf> {
    let data = std::env::var_os("BULKHEAD_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let folder = data.join("captures");
    if folder.is_dir() {
        return Some(folder);
    }
    let absent = format!("no captures at {} (set BULKHEAD_DATA)", folder.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{absent}");
    println!("SKIPPED: {absent}");
    None
}

fn capture_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder can be read")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            capture_files(&path, files);
        } else if path.extension().is_none_or(|extension| extension != "tsv") {
            files.push(path);
        }
    }
}

/// Calls `look` with every Ethernet frame of the captures and whether the capture cut it short.
fn each_frame(folder: &Path, mut look: impl FnMut(&Path, &[u8], bool)) {
    let mut files = Vec::new();
    capture_files(folder, &mut files);
    assert!(files.len() > 2000, "{} files in {}", files.len(), folder.display());
    for path in files {
        let Ok(mut reader) = CaptureReader::open(&path) else { continue };
        while let Ok(Some(record)) = reader.next_record() {
            if record.link_type == LinkType::ETHERNET {
                look(&path, record.bytes, record.is_cut());
            }
        }
    }
}

/// What every result must keep to, whatever the frame.
fn check_invariants(frame: &[u8], result: &Result<Parsed, DropReason>) {
    let Ok(parsed) = result else { return };
    let (network, upper, end) = (
        usize::from(parsed.network_offset),
        usize::from(parsed.upper_offset),
        usize::from(parsed.packet_end),
    );
    assert!(14 <= network && network <= upper && upper <= end && end <= frame.len());
    // What follows the packet is padding, of which nothing may depend.
    if parsed.headers.is_ip() {
        let mut other = frame[..end].to_vec();
        assert_eq!(parse(&other, WireId(0)), *result);
        other.resize((end + 46).min(usize::from(u16::MAX)), 0xa5);
        assert_eq!(parse(&other, WireId(0)), *result);
    }
    if parsed.kind == Kind::IcmpError {
        if let Ok((quoted, _)) = parse_quoted(frame, parsed) {
            assert_eq!(quoted.src, parsed.headers.dst);
        }
    }
}

#[test]
fn every_capture_parses_as_it_should() {
    let Some(folder) = captures() else { return };
    let mut results: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut places: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    each_frame(&folder, |path, frame, is_cut| {
        let result = parse(frame, WireId(0));
        check_invariants(frame, &result);
        let name = match &result {
            Ok(parsed) => format!("{:?}", parsed.kind),
            Err(reason) => format!("drop {}", reason.label()),
        };
        let counts = results.entry(name.clone()).or_default();
        if is_cut {
            counts.1 += 1
        } else {
            counts.0 += 1
        }
        if result.is_err() && !is_cut {
            *places
                .entry(name)
                .or_default()
                .entry(path.strip_prefix(&folder).unwrap().display().to_string())
                .or_default() += 1;
        }
    });
    println!("{:<32} {:>9} {:>9}", "result", "whole", "cut");
    for (name, (whole, cut)) in &results {
        println!("{name:<32} {whole:>9} {cut:>9}");
    }
    if std::env::var_os("PLACES").is_some() {
        for (n, p) in places {
            println!("== {n}");
            let mut v: Vec<_> = p.into_iter().collect();
            v.sort_by_key(|x| std::cmp::Reverse(x.1));
            for (f, c) in v.iter().take(12) {
                println!("   {c:>7} {f}");
            }
        }
    }
}
