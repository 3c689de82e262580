//! `bulkhead trace` over the control socket of a whole gateway.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::{fs, path::Path};

use bulkhead_gateway::control::client::send;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::trace::capture::CaptureFile;
use bulkhead_gateway::trace::story::text;
use bulkhead_gateway::trace::{TraceEnded, TraceMessage, TraceOrder, TracedPacket};
use common::{Running, policy};

fn started(mode: &str, more: &str) -> (tempfile::TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), mode, more);
    running.wait_ready();
    (dir, running)
}

fn order(filter: &str, count: u64) -> TraceOrder {
    let filter = filter.to_owned();
    TraceOrder { filter, count, seconds: 20, payload_bytes: None, reason: None, on_behalf_of: None }
}

/// A trace that runs.
struct Trace(BufReader<UnixStream>);

impl Trace {
    fn begin(running: &Running, order: TraceOrder) -> Result<Self, String> {
        let stream = send(&running.socket(), &Ask::Trace(order))?;
        let mut trace = Self(BufReader::new(stream));
        match trace.answer() {
            Answer::Trace(message) if matches!(*message, TraceMessage::Began(_)) => Ok(trace),
            Answer::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Every packet until the end.
    fn rest(mut self) -> (Vec<TracedPacket>, TraceEnded) {
        let mut packets = Vec::new();
        loop {
            match self.answer() {
                Answer::Trace(message) => match *message {
                    TraceMessage::Packet(packet) => packets.push(*packet),
                    TraceMessage::Ended(ended) => return (packets, ended),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
    }
}

fn says(packet: &TracedPacket, stage: &str) -> String {
    let told = packet.stages.iter().find(|told| told.stage == stage);
    told.map_or_else(|| panic!("no {stage}: {packet:?}"), |told| told.says.clone())
}

#[test]
fn packets_are_followed_from_port_to_port() {
    let (_dir, running) = started("enforce", "");
    let trace = Trace::begin(&running, order("tcp 10.20.0.11 -> 10.30.3.11", 3)).unwrap();
    assert!(running.passes(40_000, 502));
    assert!(running.passes(40_000, 502), "the SYN again");
    assert!(!running.passes(40_001, 22));
    let (packets, ended) = trace.rest();
    assert_eq!((ended.why.as_str(), ended.packets, ended.matched, ended.lost), ("count", 3, 3, 0));
    let [opens, again, denied] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(
        opens.packet.split(" from-mac").next(),
        Some("tcp 10.20.0.11:40000 -> 10.30.3.11:502")
    );
    assert_eq!(
        (opens.wire.as_str(), opens.side.as_str(), opens.port.as_str()),
        ("line3", "outside", "b")
    );
    assert_eq!((opens.verdict.as_deref(), opens.fate.as_str()), (Some("forward"), "sent"));
    assert_eq!(opens.rule.as_deref(), Some("only"));
    assert_eq!(says(opens, "looked-up"), "no flow");
    assert!(says(opens, "classified").starts_with("rule only: allow"));
    let at = opens.stages.iter().find_map(|told| told.at.clone()).unwrap();
    assert!(at.ends_with("policy.yaml:6"), "{at}");
    assert!(says(opens, "parsed").contains("TCP SYN"));
    assert_eq!(says(opens, "sent"), "by a");
    assert!(says(again, "looked-up").contains("tcp_syn_sent"));
    assert_eq!((denied.fate.as_str(), denied.reason.as_deref()), ("dropped", Some("policy")));
    assert!(denied.stages.iter().all(|told| told.stage != "sent"));
    for stage in ["received", "parsed", "looked-up", "classified", "decided", "dropped"] {
        assert!(text(denied).contains(stage), "{}", text(denied));
    }
}

#[test]
fn on_an_observing_wire_the_story_says_what_would_be() {
    let (_dir, running) = started("observe", "");
    let trace = Trace::begin(&running, order("reason policy rule default", 1)).unwrap();
    assert!(running.passes(40_000, 502));
    assert!(running.passes(40_001, 22));
    let (packets, _) = trace.rest();
    assert_eq!((packets[0].fate.as_str(), packets[0].reason.as_deref()), ("sent", Some("policy")));
    assert!(says(&packets[0], "decided").contains("observes"));
}

#[test]
fn one_trace_runs_at_a_time_and_ends_with_its_client() {
    let (_dir, running) = started("enforce", "workers = 2\n");
    let first = Trace::begin(&running, order("", 10)).unwrap();
    let refused = Trace::begin(&running, order("", 10)).err().unwrap();
    assert!(refused.contains("one at a time"), "{refused}");
    drop(first);
    common::wait("the place is free", || Trace::begin(&running, order("", 1)).is_ok());
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_the_place_free() {
    let (_dir, running) = started("enforce", "");
    for (filter, count, message) in [
        ("tcp plc-7", 1, "names of devices"),
        ("wire line4", 1, "did you mean `line3`?"),
        ("rule onyl", 1, "no rule of the policy in force is called `onyl`"),
        ("", 0, "1 to 100000"),
    ] {
        let error = Trace::begin(&running, order(filter, count)).err().unwrap();
        assert!(error.contains(message), "{error}");
    }
    assert!(Trace::begin(&running, order("rule only", 1)).is_ok());
}

#[test]
fn a_rule_is_followed_through_reloads_that_move_it() {
    let (_dir, running) = started("enforce", "");
    let trace = Trace::begin(&running, order("rule only", 2)).unwrap();
    assert!(running.passes(40_000, 502));
    running.write_policy(&policy(502).replace(
        "rules:\n",
        "rules:\n  - {name: before, from: hmi, to: plc, service: tcp/80, action: allow}\n",
    ));
    assert!(running.reload().outcome.is_success());
    // The trace tells the workers the rule's new number at its next turn.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(running.passes(40_001, 80));
    assert!(running.passes(40_002, 502));
    let (packets, _) = trace.rest();
    assert!(packets.iter().all(|packet| packet.rule.as_deref() == Some("only")), "{packets:?}");
}

#[test]
fn headers_alone_leave_the_gateway_unless_more_is_asked_for_and_every_trace_is_on_record() {
    let (dir, running) = started("enforce", "");
    let frame = common::syn(40_000, 502);
    let mut lengths = Vec::new();
    for payload_bytes in [None, Some(65_535)] {
        let reason = Some("CHG-7".to_owned());
        let order = TraceOrder { payload_bytes, reason, ..order("", 1) };
        let trace = Trace::begin(&running, order).unwrap();
        assert!(running.passes(40_000, 502));
        let (packets, _) = trace.rest();
        lengths.push(capture(dir.path(), &packets));
    }
    assert_eq!(lengths, [54, frame.len()], "Ethernet, IPv4 and TCP; and all of it");
    let log = fs::read_to_string(dir.path().join("state/audit.jsonl")).unwrap();
    let entries: Vec<&str> = log.lines().filter(|line| line.contains("\"trace\"")).collect();
    assert_eq!(entries.len(), 2, "{log}");
    assert!(entries[0].contains("headers only") && entries[1].contains("65535 bytes"), "{log}");
    assert!(entries.iter().all(|entry| entry.contains("CHG-7")));
    assert_eq!(running.metric("bulkhead_trace_packets_total"), Some(2.0));
}

/// Writes a capture, lets tshark read it where it is installed, and returns the bytes of the packet.
fn capture(folder: &Path, packets: &[TracedPacket]) -> usize {
    let path = folder.join("trace.pcapng");
    let mut file = CaptureFile::create(&path).unwrap();
    for packet in packets {
        assert!(file.append(packet).unwrap());
    }
    file.flush().unwrap();
    let fields =
        ["frame.cap_len", "frame.len", "tcp.dstport", "frame.comment", "frame.interface_name"];
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-r"]).arg(&path);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let Ok(output) = command.output() else {
        assert!(std::env::var_os("CI").is_none(), "tshark is part of the tests");
        println!("skipped: tshark is not installed");
        return 0;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told: Vec<&str> = text.trim_end_matches('\n').split('\t').collect();
    let [bytes, len, port, comment, interface] = told[..] else { panic!("{text}{output:?}") };
    assert_eq!((port, interface), ("502", "line3 outside"));
    assert_eq!(len, packets[0].len.to_string());
    assert!(comment.contains("forward, rule: only, sent"), "{comment}");
    bytes.parse().unwrap()
}
