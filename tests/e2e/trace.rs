//! `bulkhead trace` over real interfaces: what it tells of packets is what the hosts saw and what the
//! gateway counted, and its capture is one that tshark reads.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead_tests::flows::{Echo, Outcome, try_tcp};
use bulkhead_tests::{Driver, Gateway, Rig, Settings};
use serde_json::Value;

use crate::{over_both_drivers, policies};

over_both_drivers!(a_trace_tells_what_hosts_see);

fn a_trace_tells_what_hosts_see(rig: &Rig, driver: Driver) {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let mut gateway = Gateway::start(rig, Settings::new(driver, policies::BASIC));
    let _server = Echo::tcp(inside, 502);
    let capture = gateway.folder().join("trace.pcapng");
    let trace = Command::new(bulkhead_tests::gateway::binary())
        .args(["trace", "--json", "--seconds", "20", "--count", "1000", "--socket", "control.sock"])
        .args(["--pcap", "trace.pcapng", "--payload=2000", &format!("tcp {}", inside.v4)])
        .current_dir(gateway.folder())
        .stdout(Stdio::piped())
        .spawn();
    let mut trace = trace.expect("the built binary starts");
    gateway.wait_until("the trace is on record", Duration::from_secs(10), |gateway| {
        let log = std::fs::read_to_string(gateway.folder().join("state/audit.jsonl"));
        log.is_ok_and(|log| log.contains("the first 2000 bytes of each"))
    });
    // The workers take the order within a loop.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(try_tcp(outside, SocketAddr::new(inside.v4.into(), 502)), Outcome::Answered);
    assert_ne!(try_tcp(outside, SocketAddr::new(inside.v4.into(), 999)), Outcome::Answered);
    std::thread::sleep(Duration::from_millis(300));
    // Interrupting it ends it; what it wrote by then is whole.
    let _ = trace.kill();
    let output = trace.wait_with_output().expect("it was ours");
    let packets = packets(&String::from_utf8_lossy(&output.stdout));
    let of = |fate: &str| packets.iter().filter(|packet| packet["fate"] == fate).count();
    assert!(of("sent") >= 8, "a handshake, an exchange and an end: {packets:#?}");
    assert!(of("dropped") >= 1, "{packets:#?}");
    let dropped = packets.iter().find(|packet| packet["fate"] == "dropped").expect("counted above");
    assert_eq!((&dropped["reason"], &dropped["verdict"]), (&"policy".into(), &"drop".into()));
    assert_eq!((&dropped["side"], &dropped["wire"]), (&"outside".into(), &"w0".into()));
    for stage in ["received", "parsed", "looked-up", "classified", "decided", "dropped"] {
        let stages = dropped["stages"].as_array().expect("stages");
        assert!(stages.iter().any(|told| told["stage"] == stage), "{stage}: {dropped:#}");
    }
    read_by_tshark(&capture.display().to_string(), packets.len());
    let metrics = gateway.stop();
    let drops = metrics.drops();
    let told = of("dropped") as u64;
    assert!(told <= drops.values().sum(), "{told} of {drops:?}");
    assert_eq!(metrics.count("bulkhead_trace_lost_total", &[]), 0);
}

fn packets(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["trace"].get("packet").cloned()).collect()
}

fn read_by_tshark(capture: &str, packets: usize) {
    let output = Command::new("tshark").args(["-n", "-r", capture]).output();
    let Ok(output) = output else {
        return bulkhead_tests::skip("a_trace_tells_what_hosts_see", "tshark is not installed");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.lines().count(), packets, "{text}");
    assert!(text.contains("[SYN, ACK]") && !text.contains("Malformed"), "{text}");
}
