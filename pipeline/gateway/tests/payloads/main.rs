//! Applications and names by the captures of the data folder, and by payloads that mean ill.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bulkhead_gateway::learning::captures;
use bulkhead_gateway::learning::report::{Range, Reader};

mod invariants;

/// The folder of captures. Its absence is a skip that says so, and in CI a failure.
fn data(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("BULKHEAD_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = data.join("captures");
    if folder.is_dir() {
        return Some(folder);
    }
    let absent = format!("no captures at {}; set BULKHEAD_DATA", folder.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{absent}");
    println!("SKIPPED: {test}: {absent}");
    None
}

/// The applications that are recognised in the captures of a folder, each with its service.
fn applications(folder: &Path) -> BTreeSet<(String, String)> {
    let store = tempfile::tempdir().unwrap();
    captures::import(&[folder.to_owned()], &[], store.path()).unwrap();
    let reader = Reader::open_path(store.path(), Range::ALL).unwrap();
    let services = reader.services().unwrap().into_iter();
    services.map(|(_, service, application)| (application, service.to_string())).collect()
}

#[test]
fn applications_of_the_captures_are_recognised() {
    let Some(folder) = data("applications_of_the_captures_are_recognised") else { return };
    for (captures, application, service) in [
        ("icsnpp-modbus", "modbus", "tcp/502"),
        ("icsnpp-s7comm", "s7comm", "tcp/102"),
        ("icsnpp-enip", "ethernet-ip", "tcp/44818"),
        ("icsnpp-dnp3", "dnp3", "tcp/20000"),
        ("icsnpp-bacnet", "bacnet", "udp/47808"),
        ("icsnpp-opcua-binary", "opc-ua", "tcp/4840"),
    ] {
        let found = applications(&folder.join(captures));
        let wanted = (application.to_owned(), service.to_owned());
        assert!(found.contains(&wanted), "{captures}: {found:?}");
    }
}

#[test]
fn whatever_is_sent_is_survived() {
    let mut seen = 0_u64;
    // Every length up to a few headers, of patterns that lengths and counts are made of.
    for length in 0..64 {
        for value in [0, 1, 2, 0x0c, 0x7f, 0x80, 0xc0, 0xff] {
            invariants::check(&vec![value; length]);
            seen += 1;
        }
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/payload");
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        (0..=bytes.len()).for_each(|end| invariants::check(&bytes[..end]));
        files += 1;
    }
    assert!(seen > 0 && files >= 10, "{files} files");
}
