#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_rules::headers::Mac;

use super::*;
use crate::flow_stream::{
    End, Event, Flow, Frame, FrameKind, Hello, Lost, MacAddress, Reached, Side, VERSION,
};

fn hello() -> Message {
    let wires = vec!["line1".to_owned(), "line3".to_owned()];
    Message::Hello(Hello {
        version: VERSION,
        software: "0".to_owned(),
        wires,
        at: Reached::default(),
    })
}

fn flow(event: Event, client: &str, server: &str, packets: [u64; 2]) -> Flow {
    Flow {
        event,
        first_ms: 1_700_000_000_000,
        last_ms: 1_700_000_001_500,
        wire: "line3".to_owned(),
        client_side: Side::Outside,
        vlan: [30, 0],
        ether_type: 0x0800,
        protocol: 6,
        client: Some(client.parse().unwrap()),
        server: Some(server.parse().unwrap()),
        client_port: 40_000,
        server_port: 502,
        client_mac: MacAddress(Mac([2, 0x1b, 0x1d, 0, 0x30, 1])),
        server_mac: MacAddress(Mac([2, 0x1b, 0x1d, 0, 0x30, 2])),
        opening_seen: true,
        answered: true,
        client_packets: packets[0],
        server_packets: packets[1],
        client_bytes: packets[0] * 100,
        server_bytes: packets[1] * 100,
        end: (event == Event::Ended).then_some(End::Closed),
        allowed: event != Event::Denied,
        reason: None,
        rule: "hmi-to-plc".to_owned(),
        epoch: 3,
        enforced: true,
        staged: None,
    }
}

fn told(flow: Flow) -> Message {
    Message::Flow(Box::new(flow))
}

fn denied_frame(rule: &str) -> Message {
    let bytes = FrameBuilder::new().ip([10, 66, 0, 66], [10, 30, 3, 11]).tcp(4000, 502, 2).build();
    Message::Frame(Box::new(Frame {
        kind: FrameKind::Denied,
        unix_ms: 1_700_000_000_123,
        wire: "line3".to_owned(),
        from: Side::Outside,
        rule: Some(rule.to_owned()),
        reason: Some("policy".to_owned()),
        len: bytes.len() as u32,
        bytes,
    }))
}

fn ring(folder: &Path, most_bytes: u64, most_files: usize) -> FileRing {
    FileRing { folder: folder.to_path_buf(), most_bytes, most_files }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn text_of(path: &Path) -> String {
    let mut text = String::new();
    let file = fs::File::open(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    } else {
        std::io::BufReader::new(file).read_to_string(&mut text).unwrap();
    }
    text
}

/// Whether the program is installed; if not, the test is skipped, unless everything has to be there.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(found || std::env::var_os("CI").is_none(), "{program} is missing");
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

#[test]
fn json_lines_are_rotated_compressed_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made/by the sink");
    let most_bytes = 4096;
    let config =
        ExportConfig { json: Some(ring(&folder, most_bytes, 3)), ..ExportConfig::default() };
    let mut exports = Exports::new(&config);
    assert!(!folder.exists(), "nothing is made before there is something to write");
    for nth in 0..100 {
        exports.write(&told(flow(Event::Ended, "10.20.0.11", "10.30.3.11", [nth, 5])));
        exports.write(&denied_frame("any"));
    }
    exports.write(&Message::Lost(Lost { flows: 7, frames: 0 }));
    let name = format!("json {}", folder.display());
    exports.tend(Instant::now());
    assert_eq!(exports.counts(), [(name, SinkCounts { written: 101, lost: 0 })]);
    drop(exports);
    let names = names(&folder);
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|name| name.ends_with(".json.gz")), "{names:?}");
    let mut packets = Vec::new();
    let mut lost = 0;
    for name in &names {
        for line in text_of(&folder.join(name)).lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            if value["type"] == "lost" {
                lost += value["flows"].as_u64().unwrap();
                continue;
            }
            assert_eq!(value["type"], "flow");
            assert_eq!(value["client-mac"], "02:1b:1d:00:30:01");
            assert_eq!(value["community-id"].as_str().unwrap().len(), 30);
            packets.push(value["client-packets"].as_u64().unwrap());
        }
    }
    assert_eq!((packets.last(), lost), (Some(&99), 7));
    assert!(packets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "the oldest ones are gone");
}

#[test]
fn files_of_others_and_links_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    let folder = dir.path().join("flows");
    fs::create_dir(&folder).unwrap();
    let others = ["notes.txt", "flows-1.json", "flows-00000000000x.json", "flows-000000000001.csv"];
    for other in others {
        fs::write(folder.join(other), "theirs").unwrap();
    }
    // Where the first file would be.
    symlink(&victim, folder.join("flows-000000000001.json")).unwrap();
    let config = ExportConfig { json: Some(ring(&folder, 1, 1)), ..ExportConfig::default() };
    let mut exports = Exports::new(&config);
    exports.write(&told(flow(Event::Ended, "10.20.0.11", "10.30.3.11", [1, 1])));
    assert_eq!(exports.counts()[0].1, SinkCounts { written: 0, lost: 1 });
    drop(exports);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    for other in others {
        assert_eq!(fs::read_to_string(folder.join(other)).unwrap(), "theirs");
    }
    fs::remove_file(folder.join("flows-000000000001.json")).unwrap();
    let mut exports = Exports::new(&config);
    for _ in 0..3 {
        exports.write(&told(flow(Event::Ended, "10.20.0.11", "10.30.3.11", [1, 1])));
    }
    drop(exports);
    let kept = names(&folder);
    assert!(kept.contains(&"flows-000000000003.json.gz".to_owned()), "{kept:?}");
    assert_eq!(kept.len(), others.len() + 1, "{kept:?}");
}

#[test]
fn a_full_disk_loses_whole_records_and_they_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be stands for everything that cannot be written to.
    let folder = dir.path().join("flows");
    fs::write(&folder, "").unwrap();
    let config = ExportConfig {
        json: Some(ring(&folder, 1 << 20, 3)),
        evidence: Some(ring(&dir.path().join("evidence"), 1 << 20, 3)),
        ..ExportConfig::default()
    };
    let mut exports = Exports::new(&config);
    for _ in 0..10 {
        exports.write(&told(flow(Event::Ended, "10.20.0.11", "10.30.3.11", [1, 1])));
        exports.write(&denied_frame("any"));
    }
    exports.tend(Instant::now());
    let counts: Vec<_> = exports.counts().into_iter().map(|(_, counts)| counts).collect();
    assert_eq!(counts, [SinkCounts { written: 0, lost: 10 }, SinkCounts { written: 10, lost: 0 }]);
}

#[test]
fn tshark_reads_the_evidence_and_its_comments() {
    if !has("tshark") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config =
        ExportConfig { evidence: Some(ring(dir.path(), 1 << 20, 2)), ..ExportConfig::default() };
    let mut exports = Exports::new(&config);
    exports.write(&denied_frame("intruder"));
    exports.write(&denied_frame("rule 7 of an earlier policy"));
    exports.write(&told(flow(Event::Denied, "10.20.0.11", "10.30.3.11", [1, 0])));
    drop(exports);
    let path = dir.path().join("denied-000000000001.pcapng");
    let fields = ["frame.comment", "frame.interface_name", "ip.src", "frame.time_epoch"];
    let mut command = Command::new("tshark");
    command.args(["-r".as_ref(), path.as_os_str()]).args(["-T", "fields"]);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let first: Vec<_> = lines[0].split('\t').collect();
    assert_eq!(first[..3], ["rule: intruder, reason: policy", "line3 outside", "10.66.0.66"]);
    assert!(first[3].starts_with("1700000000.123"), "{text}");
    assert!(lines[1].starts_with("rule: rule 7 of an earlier policy"), "{text}");
}

/// A port of this machine that nobody has just now.
fn free_port(transport: Transport) -> SocketAddr {
    match transport {
        Transport::Udp => UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
        Transport::Tcp => TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
    }
}

/// What a collector read: a line of CSV for each record.
fn collected(folder: &Path) -> Vec<String> {
    let format = "fmt:%sa,%da,%sp,%dp,%pr,%ipkt,%opkt,%ibyt,%obyt,%ismc,%svln";
    let output = Command::new("nfdump")
        .args(["-R".as_ref(), folder.as_os_str()])
        .args(["-q", "-N", "-6", "-o", format])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let squeezed = |line: &str| line.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    text.lines().filter(|line| line.contains(',')).map(squeezed).collect()
}

#[test]
fn a_collector_reads_what_is_sent_over_udp() {
    if !has("nfcapd") || !has("nfdump") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let address = free_port(Transport::Udp);
    let port = address.port().to_string();
    let mut collector = Command::new("nfcapd")
        .args(["-b", "127.0.0.1", "-p", &port, "-w"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It answers nothing: once its port is taken it listens.
    let begun = Instant::now();
    while UdpSocket::bind(address).is_ok() && begun.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(20));
    }
    let ipfix = vec![Collector { transport: Transport::Udp, address }];
    let mut exports = Exports::new(&ExportConfig { ipfix, ..ExportConfig::default() });
    exports.write(&hello());
    let v4 = |event, packets| told(flow(event, "10.20.0.11", "10.30.3.11", packets));
    exports.write(&v4(Event::Started, [1, 0]));
    exports.write(&v4(Event::Continues, [10, 8]));
    exports.write(&v4(Event::Ended, [16, 15]));
    exports.write(&told(flow(Event::Ended, "fd00:20::11", "fd00:30::11", [3, 2])));
    exports.tend(Instant::now());
    let sent = exports.counts()[0].1;
    thread::sleep(Duration::from_millis(500));
    // SIGTERM: it writes down what it has.
    let _ = Command::new("kill").arg(collector.id().to_string()).status();
    collector.wait().unwrap();
    assert_eq!(sent, SinkCounts { written: 3, lost: 0 });
    let lines = collected(dir.path());
    assert_eq!(lines.len(), 3, "{lines:?}");
    let all = lines.join("\n");
    assert!(all.contains("10.20.0.11,10.30.3.11,40000,502,"), "{all}");
    assert!(all.contains("fd00:20::11,fd00:30::11,40000,502,"), "{all}");
    // The second record tells what came since the first.
    for packets in [",10,8,1000,800,", ",6,7,600,700,", ",3,2,300,200,"] {
        assert!(all.contains(packets), "{packets}: {all}");
    }
}

/// Reads IPFIX messages off a connection: their sequence numbers and the numbers of their sets.
fn messages(mut stream: impl Read, count: usize) -> Vec<(u32, u16)> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let mut header = [0; 16];
        stream.read_exact(&mut header).unwrap();
        let length = u16::from_be_bytes([header[2], header[3]]);
        let mut rest = vec![0; usize::from(length) - 16];
        stream.read_exact(&mut rest).unwrap();
        assert_eq!(u16::from_be_bytes([header[0], header[1]]), 10);
        assert_eq!(header[12..], 7_u32.to_be_bytes());
        let sequence = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        messages.push((sequence, u16::from_be_bytes([rest[0], rest[1]])));
        assert_eq!(usize::from(u16::from_be_bytes([rest[2], rest[3]])), rest.len());
    }
    messages
}

#[test]
fn over_tcp_each_connection_begins_with_templates_and_a_collector_may_be_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ipfix = vec![Collector { transport: Transport::Tcp, address }];
    let config = ExportConfig { ipfix, ipfix_domain: 7, ..ExportConfig::default() };
    let mut exports = Exports::new(&config);
    exports.write(&hello());
    for nth in 0..40 {
        exports.write(&told(flow(Event::Ended, "10.20.0.11", "10.30.3.11", [nth, 5])));
    }
    exports.tend(Instant::now());
    let (stream, _) = listener.accept().unwrap();
    let first = messages(&stream, 4);
    let (templates, records) = first.split_first().unwrap();
    assert_eq!(*templates, (0, 2));
    assert!(records.iter().all(|&(_, set)| set == 256), "{first:?}");
    assert_eq!(records[0].0, 0);
    assert!(records[1].0 > 0 && records[2].0 == 2 * records[1].0, "{first:?}");
    drop(stream);
    drop(listener);
    // Nobody listens any more: what is sent is lost and counted, sooner or later.
    let begun = Instant::now();
    while exports.counts()[0].1.lost == 0 && begun.elapsed() < Duration::from_secs(20) {
        exports.write(&told(flow(Event::Denied, "10.20.0.11", "10.30.3.11", [1, 0])));
        exports.tend(begun + begun.elapsed() + Duration::from_secs(2));
        thread::sleep(Duration::from_millis(20));
    }
    assert!(exports.counts()[0].1.lost > 0);
}

#[test]
fn folders_of_sinks_are_distinct_paths() {
    let parse = |text: &str| {
        let head =
            "policy = \"p\"\n[[wire]]\nname = \"a\"\ninside = \"x\"\noutside = \"y\"\n[export]\n";
        crate::config::Config::parse("gateway.toml", Path::new("/etc"), &format!("{head}{text}"))
    };
    let config =
        parse("json = \"flows\"\nipfix = [\"udp://192.0.2.1:4739\", \"tcp://[::1]:4740\"]\n");
    let export = config.unwrap().export;
    assert_eq!(export.json.unwrap().folder, PathBuf::from("/etc/flows"));
    assert_eq!(
        export.ipfix.iter().map(Collector::to_string).collect::<Vec<_>>(),
        ["udp://192.0.2.1:4739", "tcp://[::1]:4740"]
    );
    for (wrong, message) in [
        ("json = \"a\"\npcapng = \"a\"\n", "one folder"),
        ("ipfix = [\"http://192.0.2.1:4739\"]\n", "no collector"),
        ("ipfix = [\"udp://collector:4739\"]\n", "no collector"),
        ("ipfix = [\"udp://192.0.2.1:0\"]\n", "no collector"),
        ("ipfix = [\"udp://192.0.2.1:1\", \"udp://192.0.2.1:1\"]\n", "twice"),
        ("json-files = 0\n", "json-files"),
        ("jsonl = \"x\"\n", "unknown key"),
    ] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.contains(message), "{wrong}: {error}");
    }
}
