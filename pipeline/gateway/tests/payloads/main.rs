//! Applications and names by the captures of the data folder, and by payloads that mean ill.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;

use bulkhead_gateway::learning::captures;
use bulkhead_gateway::learning::model::Model;
use bulkhead_gateway::learning::proposal::{self, Surroundings};
use bulkhead_gateway::learning::report::{Range, Reader};
use bulkhead_rules::policy::Policy;

#[path = "../common/captures.rs"]
mod data;
mod invariants;

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
    let Some(folder) = data::folder("applications_of_the_captures_are_recognised") else { return };
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

/// The edges of a capture's second half that the policy denies which its first half gave.
fn denied_of_second_half(capture: &Path) -> (usize, Vec<String>) {
    let store = tempfile::tempdir().unwrap();
    captures::import(&[capture.to_owned()], &[], store.path()).unwrap();
    let mut reader = Reader::open_path(store.path(), Range::ALL).unwrap();
    let mut ends = (i64::MAX, i64::MIN);
    reader
        .edges(|edge| {
            ends = (ends.0.min(edge.seen.first_ms), ends.1.max(edge.seen.last_ms));
        })
        .unwrap();
    let middle = (ends.0 + ends.1) / 2;
    reader.range = Range { until_ms: middle, ..Range::ALL };
    let around = Surroundings::default();
    let learned = proposal::learn(Model::read(&reader).unwrap(), &around, &[]).unwrap();
    let text = learned.text.to_string();
    around.check("80-learned.yaml", &text).unwrap_or_else(|e| panic!("{}\n{text}", e.message));
    let policy = Policy::parse(&text).unwrap_or_else(|e| panic!("{}", e[0]));
    reader.range = Range { since_ms: middle, ..Range::ALL };
    let later = Model::read(&reader).unwrap();
    let edges = later.store.edges();
    let denied = edges
        .iter()
        .filter(|edge| {
            let (client, server) = (edge.client, edge.server);
            !proposal::is_permitted(&policy, &later, client, server, edge.service)
        })
        .map(|edge| {
            let (client, server) = (later.label(edge.client), later.label(edge.server));
            format!("{} {client} -> {server}", edge.service)
        });
    (edges.len(), denied.collect())
}

/// What is learnt from the first half of a capture of several hosts, tested on its second half: where
/// the plant does in both what it always does, nothing is denied.
#[test]
fn captures_of_plants_are_learnt_by_halves() {
    let Some(folder) = data::folder("captures_of_plants_are_learnt_by_halves") else { return };
    let tools = "ICS-Security-Tools/pcaps";
    for capture in [
        format!("{tools}/ModbusTCP/ModbusTCP.pcap"),
        format!("{tools}/EthernetIP/EthernetIP-CIP.pcap"),
    ] {
        let (edges, denied) = denied_of_second_half(&folder.join(&capture));
        println!("{capture}: {} of {edges} edges denied {denied:?}", denied.len());
        assert!(edges > 0 && denied.is_empty(), "{capture}: {denied:#?}");
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
