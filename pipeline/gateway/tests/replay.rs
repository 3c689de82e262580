//! `bulkhead replay` on captures that the test makes itself.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::port::capture::{CaptureReader, CaptureWriter, Format};
use bulkhead_rules::headers::Mac;
use serde_json::Value;
use tempfile::TempDir;

const S: u64 = 1_000_000_000;
/// 2026-11-24T05:59:00Z.
const START: u64 = 1_795_499_940 * S;

const SYN: u8 = 0x02;
const RST_ACK: u8 = 0x14;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;

const POLICY: &str = r#"
version: 1
default: deny
groups:
  hmi: [10.20.0.11]
  plc: [10.30.3.11]
rules:
  - {name: modbus, from: hmi, to: plc, service: tcp/502, action: allow}
  - {name: ssh, from: any, to: plc, service: tcp/22, action: reject}
  - name: commissioning
    from: any
    to: plc
    service: udp/161
    action: allow
    starts: 2026-11-24T06:00:00Z
    expires: 2026-11-24T06:01:00Z
"#;

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// A frame from one host of the test's network to another, by the last octets of their addresses.
fn frame(src: &str, dst: &str) -> FrameBuilder {
    let host = |address: &str| mac(address.rsplit('.').next().unwrap().parse().unwrap());
    let ip = |address: &str| address.parse::<std::net::Ipv4Addr>().unwrap();
    FrameBuilder::new().macs(host(src), host(dst)).ip(ip(src), ip(dst))
}

const HMI: &str = "10.20.0.11";
const PLC: &str = "10.30.3.12";
const REAL_PLC: &str = "10.30.3.11";

/// One record: time, bytes on the wire, and the bytes.
type Record = (u64, u32, Vec<u8>);

fn record(at: u64, frame: &FrameBuilder) -> Record {
    let bytes = frame.build();
    (at, bytes.len() as u32, bytes)
}

/// A folder with a policy, to which a test adds captures.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("policy.yaml"), policy).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn capture(&self, name: &str, records: &[Record]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer = CaptureWriter::create(&path, Format::for_path(&path)).unwrap();
        for (at, original_len, bytes) in records {
            writer.write(*at, *original_len, bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    /// Runs the binary in the folder.
    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .current_dir(self.dir.path())
            .args(["replay", "--policy", "policy.yaml"])
            .args(args)
            .output()
            .unwrap()
    }

    /// The report of a replay that succeeds.
    fn report(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn records_of(path: &Path) -> Vec<Record> {
    let mut reader = CaptureReader::open(path).unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        records.push((record.timestamp_ns, record.original_len, record.bytes.to_vec()));
    }
    records
}

/// A permitted connection, and what an intruder tries meanwhile.
fn mixed_traffic() -> Vec<Record> {
    vec![
        record(START, &frame(HMI, REAL_PLC).tcp(40000, 502, SYN).seq(100, 0)),
        record(START + 1, &frame("10.99.0.66", REAL_PLC).tcp(40001, 502, SYN)),
        record(START + 2, &frame(REAL_PLC, HMI).tcp(502, 40000, SYN_ACK).seq(900, 101)),
        record(START + 3, &frame(HMI, REAL_PLC).tcp(40000, 502, ACK).seq(101, 901)),
        record(START + 4, &frame("10.99.0.66", REAL_PLC).tcp(40002, 22, SYN)),
        record(START + 5, &frame(HMI, PLC).tcp(40003, 502, ACK).seq(5, 5)),
        record(START + 6, &frame(REAL_PLC, HMI).tcp(502, 40000, ACK).seq(901, 101).payload(b"42")),
        record(START + 7, &frame("10.99.0.66", REAL_PLC).tcp(40001, 502, SYN)),
    ]
}

#[test]
fn verdicts_rules_reasons_and_flows_are_reported() {
    let place = Place::new(POLICY);
    place.capture("a.pcap", &mixed_traffic());
    let report = place.report(&["a.pcap"]);
    let total = &report["total"];
    assert_eq!(total["records"], 8);
    assert_eq!(total["allowed"]["frames"], 4);
    assert_eq!(total["denied"]["frames"], 4);
    assert_eq!(total["drops"]["policy"]["frames"], 3);
    assert_eq!(total["drops"]["tcp_no_flow"]["frames"], 1);
    assert_eq!(total["answers"]["frames"], 1, "a RST for the SYN to port 22");
    let hits: Vec<_> = (report["rules"].as_array().unwrap().iter())
        .map(|rule| (rule["name"].as_str().unwrap(), rule["hits"].as_u64().unwrap()))
        .collect();
    assert_eq!(hits, [("modbus", 1), ("ssh", 1), ("commissioning", 0), ("default", 2)]);
    let flow = &report["blocked_flows"][0];
    assert_eq!((&flow["from"], &flow["from_port"]), (&"10.99.0.66".into(), &40001.into()));
    assert_eq!((&flow["to"], &flow["to_port"]), (&REAL_PLC.into(), &502.into()));
    assert_eq!((&flow["packets"], &flow["rule"]), (&2.into(), &"default".into()));
    assert_eq!(flow["first"], "2026-11-24T05:59:00.000000001Z");
    assert_eq!(flow["first_frame"], 2);
    assert_eq!(report["blocked_flows"][1]["rule"], "ssh");
    assert_eq!(report["blocked_flows"][2]["reason"], "tcp_no_flow");

    let text = place.run(&["a.pcap"]);
    let text = String::from_utf8(text.stdout).unwrap();
    for line in [
        "policy policy.yaml (3 rules), enforce",
        "  modbus         allow            1  policy.yaml:8",
        "  tcp_no_flow           1 frames",
        "tcp 10.99.0.66:40001 -> 10.30.3.11:502: 2 packets by default",
        "reject rules: 1 answer would have gone back to senders",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn outputs_share_the_input_out_in_its_order() {
    let place = Place::new(POLICY);
    let traffic = mixed_traffic();
    for (name, kind) in [("in.pcap", "pcap"), ("in.pcapng", "pcapng")] {
        place.capture(name, &traffic);
        let (allowed, denied) = (format!("allowed.{kind}"), format!("denied.{kind}"));
        place.report(&["--out-allowed", &allowed, "--out-denied", &denied, name]);
        let pick =
            |places: &[usize]| places.iter().map(|&at| traffic[at].clone()).collect::<Vec<_>>();
        assert_eq!(records_of(&place.path(&allowed)), pick(&[0, 2, 3, 6]));
        assert_eq!(records_of(&place.path(&denied)), pick(&[1, 4, 5, 7]));
    }
}

#[test]
fn observe_lets_all_through_and_says_what_enforce_would_drop() {
    let place = Place::new(POLICY);
    place.capture("in.pcap", &mixed_traffic());
    let report = place.report(&["--mode", "observe", "--out-allowed", "out.pcap", "in.pcap"]);
    assert_eq!(records_of(&place.path("out.pcap")), mixed_traffic());
    assert_eq!(report["total"]["denied"]["frames"], 0);
    assert_eq!(report["total"]["would_drop"]["policy"]["frames"], 4);
    assert_eq!(report["total"]["answers"]["frames"], 0, "an observer says nothing");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let place = Place::new(POLICY);
    for n in 0..20u64 {
        let mut traffic = mixed_traffic();
        for port in 0..100 {
            let intruder = frame("10.99.0.67", PLC).udp(1000 + port, 53);
            traffic.push(record(START + 10 + u64::from(port) * n, &intruder));
        }
        place.capture(&format!("captures/{n}.pcap"), &traffic);
    }
    let run = |out: &str| {
        let output = place.run(&["--json", "--out-denied", out, "captures"]);
        (output.stdout, fs::read(place.path(out)).unwrap())
    };
    assert_eq!(run("one.pcap"), run("two.pcap"));
}

#[test]
fn each_capture_begins_with_no_flow_known() {
    let place = Place::new(POLICY);
    let traffic = mixed_traffic();
    place.capture("1.pcap", &traffic[..1]);
    place.capture("2.pcap", &traffic[2..4]);
    let report = place.report(&["1.pcap", "2.pcap"]);
    assert_eq!(report["files"][0]["allowed"]["frames"], 1);
    assert_eq!(report["files"][1]["drops"]["tcp_no_flow"]["frames"], 2);
}

#[test]
fn timed_rules_go_by_the_time_of_the_capture() {
    let place = Place::new(POLICY);
    let ask = |at: u64, port: u16| record(START + at * S, &frame(HMI, REAL_PLC).udp(port, 161));
    // Time stamps that go back do not turn the clock back.
    let traffic = [ask(59, 1), ask(60, 2), ask(119, 3), ask(30, 4), ask(120, 5), ask(119, 6)];
    place.capture("in.pcap", &traffic);
    place.report(&["--out-allowed", "out.pcap", "in.pcap"]);
    assert_eq!(records_of(&place.path("out.pcap")), traffic[1..4]);
}

#[test]
fn flows_end_when_they_were_silent_for_too_long() {
    let policy = "version: 1\ndefault: deny\nrules:\n  - {name: ask, from: 10.20.0.11, \
                  to: any, service: udp/161, action: allow}\n";
    let place = Place::new(policy);
    let answer = |at: u64| record(START + at * S, &frame(PLC, HMI).udp(161, 4000));
    let traffic =
        [record(START, &frame(HMI, PLC).udp(4000, 161)), answer(20), answer(190), answer(900)];
    place.capture("in.pcap", &traffic);
    place.report(&["--out-allowed", "out.pcap", "in.pcap"]);
    assert_eq!(records_of(&place.path("out.pcap")), traffic[..3]);
}

#[test]
fn a_frame_that_the_capture_cut_is_judged_by_its_headers() {
    let place = Place::new(POLICY);
    let (at, original_len, bytes) =
        record(START, &frame(HMI, REAL_PLC).udp(1, 161).payload_len(900));
    let cut = |at: u64, len: usize| (at, original_len, bytes[..len].to_vec());
    let traffic = [cut(at + 60 * S, 60), cut(at + 61 * S, 30), cut(at + 62 * S, 9)];
    place.capture("in.pcap", &traffic);
    let args = ["--out-allowed", "yes.pcap", "--out-denied", "no.pcap", "in.pcap"];
    let report = place.report(&args);
    assert_eq!(report["total"]["cut_by_capture"], 3);
    assert_eq!(report["total"]["restored"], 1);
    assert_eq!(records_of(&place.path("yes.pcap")), traffic[..1]);
    assert_eq!(records_of(&place.path("no.pcap")), traffic[1..]);
    assert_eq!(report["total"]["drops"]["ipv4_truncated"]["frames"], 1);
    assert_eq!(report["total"]["drops"]["ethernet_too_short"]["frames"], 1);
}

#[test]
fn folders_are_searched_and_what_is_no_capture_is_passed_over() {
    let place = Place::new(POLICY);
    place.capture("day/b/2.pcap", &mixed_traffic());
    place.capture("day/a/1.pcapng", &mixed_traffic());
    fs::write(place.path("day/README"), "notes").unwrap();
    let report = place.report(&["day"]);
    let names: Vec<_> =
        report["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["day/a/1.pcapng", "day/b/2.pcap"]);
    assert_eq!(report["other_files"], 1);
    assert_eq!(report["total"]["records"], 16);
}

#[test]
fn other_link_types_are_skipped_and_counted() {
    let place = Place::new(POLICY);
    place.capture("in.pcap", &mixed_traffic());
    let mut bytes = fs::read(place.path("in.pcap")).unwrap();
    bytes[20..24].copy_from_slice(&113u32.to_le_bytes());
    fs::write(place.path("cooked.pcap"), bytes).unwrap();
    let report = place.report(&["cooked.pcap"]);
    assert_eq!(report["total"]["skipped"]["Linux cooked capture (link type 113)"], 8);
    assert_eq!(report["total"]["received"]["frames"], 0);
}

#[test]
fn a_damaged_capture_counts_up_to_the_damage_and_fails() {
    let place = Place::new(POLICY);
    place.capture("in.pcap", &mixed_traffic());
    place.capture("whole.pcap", &mixed_traffic());
    let bytes = fs::read(place.path("in.pcap")).unwrap();
    fs::write(place.path("in.pcap"), &bytes[..bytes.len() - 5]).unwrap();
    let output = place.run(&["--json", "in.pcap", "whole.pcap"]);
    assert_eq!(output.status.code(), Some(4));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: in.pcap: at byte "), "{stderr}");
    assert!(stderr.contains("the file ends within a pcap record"), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["files"][0]["records"], 7);
    assert_eq!(report["files"][1]["records"], 8);
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_overwritten() {
    let place = Place::new(POLICY);
    place.capture("in.pcap", &mixed_traffic());
    let before = fs::read(place.path("in.pcap")).unwrap();
    fs::write(place.path("notes.txt"), "notes").unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--out-allowed", "in.pcap", "in.pcap"], 1, "in.pcap is an input"),
        (&["--out-allowed", "x", "--out-denied", "./x", "in.pcap"], 1, "or the other output"),
        (&["--out-allowed", "no/such/dir", "in.pcap"], 4, "no/such/dir: No such file"),
        (&["missing.pcap"], 4, "cannot read missing.pcap: No such file"),
        (&["notes.txt"], 4, "notes.txt: neither a pcap nor a pcapng file"),
        (&["--policy", "missing.yaml", "in.pcap"], 2, "cannot be used multiple times"),
        (&["--inside", "10.0.0.1/8", "in.pcap"], 2, "write 10.0.0.0/8"),
    ];
    for (args, code, message) in cases {
        let output = place.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
    assert_eq!(fs::read(place.path("in.pcap")).unwrap(), before);
    fs::write(place.path("policy.yaml"), "version: 1\ndefault: deny\nrulez: []\n").unwrap();
    let output = place.run(&["in.pcap"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("policy.yaml:3"));
}

#[test]
fn a_policy_that_tells_wires_apart_needs_to_know_the_wire() {
    let rule = |name, wire| {
        format!(
            "  - {{name: {name}, from: any, to: any, service: any, action: allow, wire: {wire}}}\n"
        )
    };
    let place = Place::new(&format!(
        "version: 1\ndefault: deny\nrules:\n{}{}",
        rule("one", "line1"),
        rule("two", "line2")
    ));
    place.capture("in.pcap", &mixed_traffic()[..1]);
    let output = place.run(&["in.pcap"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("line1, line2"));
    for (wire, hits) in [("line1", [1, 0, 0]), ("line2", [0, 1, 0]), ("line3", [0, 0, 1])] {
        let report = place.report(&["--wire", wire, "in.pcap"]);
        let seen: Vec<_> = report["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["hits"].as_u64().unwrap())
            .collect();
        assert_eq!(seen, hits, "{wire}");
    }
}

#[test]
fn an_answer_does_not_count_as_a_frame_of_the_capture() {
    let place = Place::new(POLICY);
    let traffic = [
        record(START, &frame(HMI, REAL_PLC).tcp(1, 22, SYN)),
        record(START + 1, &frame(HMI, REAL_PLC).tcp(2, 22, RST_ACK)),
        record(START + 2, &frame(REAL_PLC, HMI).tcp(3, 99, SYN)),
    ];
    place.capture("in.pcap", &traffic);
    let report = place.report(&["--out-allowed", "yes.pcap", "--out-denied", "no.pcap", "in.pcap"]);
    assert_eq!(report["total"]["answers"]["frames"], 1);
    assert_eq!(records_of(&place.path("yes.pcap")), []);
    assert_eq!(records_of(&place.path("no.pcap")), traffic);
}
