//! The stream of flow records: what a gateway did, told to those who read, at no cost to packets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bulkhead_gateway::flow_stream::{
    self, End, Event, Flow, FrameKind, Hello, Message, Side, VERSION,
};
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::port::Frame;
use common::{PATIENCE, Running, policy, syn, wait};

/// A reader of the stream.
struct Reader {
    stream: UnixStream,
    scratch: Vec<u8>,
}

impl Reader {
    fn connect(folder: &Path) -> Self {
        let stream = UnixStream::connect(folder.join("records.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = Self { stream, scratch: Vec::new() };
        let Some(Message::Hello(Hello { version, wires, .. })) = reader.next() else {
            panic!("the first message says who speaks");
        };
        assert_eq!((version, wires), (VERSION, vec!["line3".to_owned()]));
        reader
    }

    fn next(&mut self) -> Option<Message> {
        flow_stream::read(&mut self.stream, &mut self.scratch).unwrap()
    }

    /// The flow records up to the first that `is_last`.
    fn flows_until(&mut self, is_last: impl Fn(&Flow) -> bool) -> Vec<Flow> {
        let mut flows = Vec::new();
        while let Some(message) = self.next() {
            let Message::Flow(flow) = message else { continue };
            let ends = is_last(&flow);
            flows.push(*flow);
            if ends {
                return flows;
            }
        }
        panic!("the stream ended first: {flows:?}");
    }
}

fn start(folder: &Path, mode: &str, more: &str) -> Running {
    fs::write(folder.join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(folder, mode, more);
    running.wait_ready();
    running
}

#[test]
fn a_flow_is_told_when_it_begins_and_when_the_gateway_stops() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", "");
    let mode = fs::metadata(dir.path().join("records.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut reader = Reader::connect(dir.path());
    assert!(running.passes(40_000, 502));
    let [flow] = &reader.flows_until(|_| true)[..] else { panic!() };
    assert_eq!((flow.event, flow.rule.as_str(), flow.allowed), (Event::Started, "only", true));
    assert_eq!((flow.wire.as_str(), flow.client_side), ("line3", Side::Outside));
    assert_eq!(flow.client, Some([10, 20, 0, 11].into()));
    assert_eq!((flow.server, flow.server_port), (Some([10, 30, 3, 11].into()), 502));
    assert_eq!((flow.client_packets, flow.server_packets), (1, 0));
    assert_eq!(flow.client_bytes, syn(40_000, 502).len() as u64);
    assert!(flow.opening_seen && !flow.answered && flow.enforced && flow.end.is_none());

    for port in 0..3 {
        assert!(!running.passes(41_000 + port, 22));
    }
    let denied = reader.flows_until(|flow| flow.event == Event::Denied).pop().unwrap();
    assert_eq!(
        (denied.client_packets, denied.allowed, denied.rule.as_str()),
        (1, false, "default")
    );
    assert_eq!(denied.reason.as_deref(), Some("policy"));
    assert_eq!(running.metric("bulkhead_flow_records_total{event=\"started\"}"), Some(1.0));
    wait("the reader is counted", || running.metric("bulkhead_record_readers") == Some(1.0));

    // The rest of what was denied, and the flow's end, come when the gateway stops.
    let (stopped, _) = running.stop();
    stopped.unwrap();
    let mut rest = Vec::new();
    while let Some(message) = reader.next() {
        rest.push(message);
    }
    let flows: Vec<_> = (rest.iter())
        .filter_map(|message| match message {
            Message::Flow(flow) => Some(flow),
            _ => None,
        })
        .collect();
    let ended = flows.iter().find(|flow| flow.event == Event::Ended).unwrap();
    assert_eq!((ended.end, ended.client_packets), (Some(End::Stopped), 1));
    let repeated: u64 =
        flows.iter().filter(|f| f.event == Event::Denied).map(|f| f.client_packets).sum();
    assert_eq!(repeated, 2, "{flows:?}");
}

#[test]
fn what_is_forbidden_and_only_observed_is_told_as_a_flow() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "observe", "");
    let mut reader = Reader::connect(dir.path());
    let there = |port: u16, bytes: &[u8]| {
        FrameBuilder::new()
            .ip([10, 20, 0, 99], [10, 30, 3, 11])
            .udp(port, 161)
            .payload(bytes)
            .build()
    };
    let back = |port: u16| {
        FrameBuilder::new()
            .ip([10, 30, 3, 11], [10, 20, 0, 99])
            .udp(161, port)
            .payload(b"yes")
            .build()
    };
    running.with_ends(|[inside, outside]| {
        outside.host.send(&there(5000, b"question")).unwrap();
        wait("the question came through", || {
            inside.host.receive().is_some_and(|frame| frame.bytes() == there(5000, b"question"))
        });
        inside.host.send(&back(5000)).unwrap();
        wait("the answer came through", || outside.host.receive().is_some());
    });
    let mut payloads = HashSet::new();
    let mut started = None;
    while payloads.len() < 2 || started.is_none() {
        match reader.next().expect("the stream goes on") {
            Message::Flow(flow) => started = Some(flow),
            Message::Frame(frame) => {
                assert_eq!(
                    (frame.kind, frame.reason.as_deref()),
                    (FrameKind::FirstPayload, Some("policy"))
                );
                payloads.insert(frame.bytes);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(payloads.contains(&there(5000, b"question")) && payloads.contains(&back(5000)));
    let started = started.unwrap();
    assert_eq!((started.event, started.allowed, started.enforced), (Event::Started, false, false));
    running.stop().0.unwrap();
    let ended = reader.flows_until(|flow| flow.event == Event::Ended).pop().unwrap();
    assert_eq!((ended.client_packets, ended.server_packets, ended.answered), (1, 1, true));
    assert_eq!((ended.allowed, ended.rule.as_str()), (false, "default"));
}

#[test]
fn a_reader_that_comes_again_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", "");
    // Before anybody reads.
    assert!(running.passes(40_000, 502));
    let mut seen = Vec::new();
    for port in 40_001..40_004 {
        let mut reader = Reader::connect(dir.path());
        let is_before = |flow: &Flow| flow.client_port == port - 1;
        seen.extend(reader.flows_until(is_before).iter().map(|flow| flow.client_port));
        drop(reader);
        assert!(running.passes(port, 502));
        wait("the gateway notices that the reader left", || {
            running.metric("bulkhead_record_readers") == Some(0.0)
        });
    }
    assert_eq!(seen, [40_000, 40_001, 40_002]);
}

#[test]
fn a_slow_reader_is_told_what_it_lost_and_others_lose_nothing() {
    const PORTS: u16 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let more = "[records]\nbacklog-mib = 1\nring = 65536\n\
                [flows]\nnew-flows-per-source = 1000000\n";
    let running = start(dir.path(), "enforce", more);
    let mut slow = Reader::connect(dir.path());
    let mut fast = Reader::connect(dir.path());
    let first_port = 10_000;
    let reads = std::thread::spawn(move || {
        let mut ports = HashSet::new();
        while ports.len() < usize::from(PORTS) {
            if let Some(Message::Flow(flow)) = fast.next() {
                ports.insert(flow.client_port);
            }
        }
    });
    running.with_ends(|[inside, outside]| {
        for port in first_port..first_port + PORTS {
            while outside.host.send(&syn(port, 502)).is_err() {
                std::thread::yield_now();
            }
            while inside.host.receive().is_some() {}
            if port % 64 == 0 {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    });
    reads.join().unwrap();
    let (mut told, mut lost) = (0, 0);
    while told + lost < u64::from(PORTS) {
        match slow.next().expect("the stream goes on") {
            Message::Flow(_) => told += 1,
            Message::Lost(more) => lost += more.flows,
            _ => {}
        }
    }
    assert_eq!(told + lost, u64::from(PORTS));
    assert!(lost > 0, "20,000 records fit one MiB");
    wait("the loss is counted", || {
        running.metric("bulkhead_record_readers_lost_total{message=\"flow\"}") == Some(lost as f64)
    });
}

#[test]
fn who_writes_is_no_reader_and_a_fifth_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", "");
    let mut four: Vec<_> = (0..4).map(|_| Reader::connect(dir.path())).collect();
    let mut fifth = UnixStream::connect(dir.path().join("records.sock")).unwrap();
    fifth.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(flow_stream::read(&mut fifth, &mut Vec::new()), Ok(None) | Err(_)));
    four[0].stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    wait("the one that wrote is gone", || running.metric("bulkhead_record_readers") == Some(3.0));
    assert_eq!(running.metric("bulkhead_record_readers_refused_total"), Some(1.0));
    Reader::connect(dir.path());
}
