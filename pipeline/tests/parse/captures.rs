//! The parser over every real capture of the data folder.
//!
//! `cargo test -p bulkhead-pipeline --test parse captures -- --nocapture` prints what it counted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bulkhead_pipeline::parse::{Kind, Origin, Parsed, parse, parse_into, parse_quoted};
use bulkhead_rules::headers::WireId;

use crate::{data, invariants};

#[test]
fn captures_parse_to_what_is_consistent() {
    let Some(folder) = data::captures("captures_parse_to_what_is_consistent") else { return };
    let mut results: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (mut frames, mut passed, mut unfinished, mut quoted) = (0_u64, 0_u64, 0_u64, 0_u64);
    data::each_frame(&folder, |_, frame, is_cut| {
        let result = invariants::check(frame);
        let name = match &result {
            Ok(parsed) => format!("{:?}", parsed.kind),
            Err(reason) => format!("drop {}", reason.label()),
        };
        let counts = results.entry(name).or_default();
        if is_cut {
            counts.1 += 1;
            return;
        }
        counts.0 += 1;
        frames += 1;
        let passes_as_capture =
            parse_into(frame, WireId(0), Origin::Capture, &mut Parsed::default()).is_ok();
        unfinished += u64::from(result.is_err() && passes_as_capture);
        passed += u64::from(passes_as_capture);
        if let Ok(parsed) = &result {
            let is_quoting = parsed.kind == Kind::IcmpError && parse_quoted(frame, parsed).is_ok();
            quoted += u64::from(is_quoting);
        }
    });
    println!("{:<32} {:>9} {:>9}", "result", "whole", "cut");
    for (name, (whole, cut)) in &results {
        println!("{name:<32} {whole:>9} {cut:>9}");
    }
    println!(
        "of {frames} whole frames {passed} pass as a capture's, {unfinished} of them for their"
    );
    println!("IPv4 checksum of zero; {quoted} ICMP errors quote a flow");
    // Most of what does not pass are packets from 127.0.0.1 and ::1, recorded on loopback.
    assert!(passed * 3 > frames * 2, "{passed} of {frames} pass");
    for kind in ["Arp", "IcmpError", "IcmpQuery", "LaterFragment", "LinkControl", "Tcp", "Other"] {
        assert!(results[kind].0 > 100, "{} of kind {kind}", results[kind].0);
    }
    assert!(quoted > 50);
}

/// Every frame of every 40th file, and of each the beginning of every length.
#[test]
fn no_beginning_of_a_frame_misleads() {
    let Some(folder) = data::captures("no_beginning_of_a_frame_misleads") else { return };
    let (mut last, mut files, mut of_file, mut tried) = (PathBuf::new(), 0, 0, 0_u64);
    data::each_frame(&folder, |path, frame, _| {
        if path != last {
            (last, files, of_file) = (path.to_path_buf(), files + 1, 0);
        }
        of_file += 1;
        if files % 40 != 0 || of_file > 20 {
            return;
        }
        let whole = parse(frame, WireId(0));
        for len in 0..frame.len() {
            let result = invariants::check(&frame[..len]);
            tried += 1;
            if let Ok(whole) = &whole {
                let is_short = whole.headers.is_ip() && len < usize::from(whole.packet_end);
                assert!(!(is_short && result.is_ok()), "{len} of {} bytes: {whole:?}", frame.len());
            }
        }
    });
    println!("{tried} beginnings of frames");
    assert!(tried > 10_000);
}
