//! Wireshark's dissectors as a second opinion on addresses, ports and checksums.

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_pipeline::parse::{Kind, Parsed, parse};
use bulkhead_pipeline::port::capture::{CaptureWriter, Format};
use bulkhead_pipeline::reject::Answer;
use bulkhead_rules::headers::{ETHER_IPV4, WireId, protocol};

use crate::data;

/// The most frames of one capture file that are compared: more of one conversation teach nothing.
const FRAMES_PER_FILE: usize = 25;

/// Cisco FabricPath, whose switch identifiers stand where tshark then shows no MAC addresses.
const FABRIC_PATH: u16 = 0x8903;
/// What frames in Cisco's ISL are sent to: tshark shows the addresses of the frame within.
const ISL: &str = "01:00:0c:00:00:";

/// A capture file of our own, gone at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn write(name: &str, frames: &[Vec<u8>]) -> Self {
        let name = format!("bulkhead-{name}-{}.pcap", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut writer =
            CaptureWriter::create(&path, Format::PcapMicro).expect("it can be written");
        for frame in frames {
            writer.write(0, frame.len() as u32, frame).expect("it can be written");
        }
        writer.finish().expect("it can be written");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn has_tshark(test: &str) -> bool {
    let found = Command::new("tshark").arg("--version").output().is_ok();
    if !found {
        data::skip(test, "tshark is not installed");
    }
    found
}

/// One line of fields for every frame of the file; of a field that occurs often, the outermost.
fn fields(file: &Path, names: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]);
    for preference in [
        "ip.defragment:FALSE",
        "ipv6.defragment:FALSE",
        "tcp.desegment_tcp_streams:FALSE",
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
    ] {
        command.args(["-o", preference]);
    }
    for name in names {
        command.args(["-e", name]);
    }
    let output = command.arg("-r").arg(file).output().expect("tshark runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

/// Frames from all captures, a few of each.
fn sample(folder: &Path) -> Vec<Vec<u8>> {
    let (mut frames, mut last, mut of_file) = (Vec::new(), PathBuf::new(), 0);
    data::each_frame(folder, |path, frame, _| {
        if path != last {
            (last, of_file) = (path.to_path_buf(), 0);
        }
        of_file += 1;
        if of_file <= FRAMES_PER_FILE {
            frames.push(frame.to_vec());
        }
    });
    frames
}

#[test]
fn tshark_reads_the_same_addresses_and_ports() {
    const TEST: &str = "tshark_reads_the_same_addresses_and_ports";
    if !has_tshark(TEST) {
        return;
    }
    let Some(folder) = data::captures(TEST) else { return };
    let frames = sample(&folder);
    let file = Scratch::write("frames", &frames);
    let names = [
        "eth.src",
        "eth.dst",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.srcport",
        "tcp.dstport",
        "udp.srcport",
        "udp.dstport",
        "tcp.seq_raw",
        "tcp.window_size_value",
        "tcp.len",
    ];
    let lines = fields(&file.0, &names);
    assert_eq!(lines.len(), frames.len());
    let (mut compared, mut wrong) = (0, Vec::new());
    for (index, (frame, line)) in frames.iter().zip(&lines).enumerate() {
        let Ok(parsed) = parse(frame, WireId(0)) else { continue };
        let dst_mac = parsed.headers.dst_mac.to_string();
        if parsed.headers.ether_type == FABRIC_PATH || dst_mac.starts_with(ISL) {
            continue;
        }
        compared += 1;
        if let Some(difference) = difference(&parsed, line) {
            wrong.push(format!("frame {}: {difference}: {parsed:?}", index + 1));
        }
    }
    println!("{compared} of {} frames compared with tshark, {} differ", frames.len(), wrong.len());
    assert!(compared > 5_000);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first field that tshark reads otherwise.
fn difference(parsed: &Parsed, line: &[String]) -> Option<String> {
    let h = &parsed.headers;
    let mut expected = vec![(0, h.src_mac.to_string()), (1, h.dst_mac.to_string())];
    if h.is_ip() {
        let (at, src, dst) = if h.ether_type == ETHER_IPV4 {
            let text = |addr: u128| std::net::Ipv4Addr::from(addr as u32).to_string();
            (2, text(h.src), text(h.dst))
        } else {
            let text = |addr: u128| std::net::Ipv6Addr::from(addr).to_string();
            (4, text(h.src), text(h.dst))
        };
        expected.extend([(at, src), (at + 1, dst)]);
    }
    let ports_at = match (parsed.kind, h.protocol) {
        (Kind::Tcp, _) => Some(6),
        (Kind::Other | Kind::Dhcp, protocol::UDP) if h.is_ip() => Some(8),
        _ => None,
    };
    if let Some(at) = ports_at {
        expected.extend([(at, h.src_port.to_string()), (at + 1, h.dst_port.to_string())]);
    }
    if parsed.kind == Kind::Tcp {
        let tcp = &parsed.tcp;
        expected.extend([(10, tcp.seq.to_string()), (11, tcp.window.to_string())]);
        if parsed.fragment.is_none() {
            expected.push((12, tcp.payload_len.to_string()));
        }
    }
    let (at, ours) = expected.into_iter().find(|(at, ours)| line[*at] != *ours)?;
    Some(format!("field {at} is {ours} to us and {:?} to tshark", line[at]))
}

#[test]
fn tshark_finds_no_fault_in_answers() {
    const TEST: &str = "tshark_finds_no_fault_in_answers";
    if !has_tshark(TEST) {
        return;
    }
    let Some(folder) = data::captures(TEST) else { return };
    let answers: Vec<Vec<u8>> = sample(&folder)
        .iter()
        .filter_map(|frame| {
            let parsed = parse(frame, WireId(0)).ok()?;
            let answer = Answer::to(frame, &parsed)?;
            let mut out = vec![0; answer.len()];
            answer.write(&mut out).then_some(out)
        })
        .collect();
    let file = Scratch::write("answers", &answers);
    let names = [
        "ip.checksum.status",
        "tcp.checksum.status",
        "icmp.checksum.status",
        "icmpv6.checksum.status",
        "tcp.flags.reset",
        "icmp.type",
        "icmp.code",
        "icmpv6.type",
        "icmpv6.code",
    ];
    let lines = fields(&file.0, &names);
    assert_eq!(lines.len(), answers.len());
    let mut counts = [0; 3];
    for (index, line) in lines.iter().enumerate() {
        const GOOD: &str = "1";
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        // The first ip.checksum and the first ICMP header are the answer's own, not the quotation's.
        let kind = match line[..] {
            [GOOD | "", GOOD, "", "", "1" | "True", ..] => 0,
            [GOOD, _, GOOD, _, _, "3", "13", ..] => 1,
            [_, _, _, GOOD, _, _, _, "1", "1"] => 2,
            _ => panic!("answer {}: {line:?}", index + 1),
        };
        counts[kind] += 1;
    }
    println!("answers without fault: {} RST, {} ICMP, {} ICMPv6", counts[0], counts[1], counts[2]);
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}
