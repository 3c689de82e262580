//! The metrics as Prometheus itself sees them.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Outcome, try_tcp};
use bulkhead_tests::gateway::http_get;
use bulkhead_tests::{Driver, Gateway, Rig, Settings, skip};

use crate::{over_af_xdp, policies};

over_af_xdp!(promtool_finds_nothing_to_complain_about, prometheus_scrapes_a_gateway);

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

fn promtool_finds_nothing_to_complain_about(rig: &Rig) {
    if !is_installed("promtool") {
        return skip(
            "scrape::promtool_finds_nothing_to_complain_about",
            "promtool is not installed",
        );
    }
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC));
    let _server = Echo::tcp(rig.inside(0), 502);
    try_tcp(rig.outside(0), SocketAddr::new(rig.inside(0).v4.into(), 502));
    let (status, text) = gateway.get("/metrics");
    assert_eq!(status, 200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut input = promtool.stdin.take().expect("its input is ours");
    input.write_all(text.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    assert_eq!(gateway.get("/nothing").0, 404);
    gateway.stop();
}

fn prometheus_scrapes_a_gateway(rig: &Rig) {
    if !is_installed("prometheus") {
        return skip("scrape::prometheus_scrapes_a_gateway", "prometheus is not installed");
    }
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC));
    let server: SocketAddr = "127.0.0.1:9090".parse().expect("an address");
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus.yml");
    let log = std::fs::File::create(gateway.folder().join("prometheus.log")).expect("a log");
    let mut prometheus = (rig.gateway().command("prometheus"))
        .args(["--config.file", config, "--web.listen-address", &server.to_string()])
        .arg("--storage.tsdb.path")
        .arg(gateway.folder().join("prometheus"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("prometheus starts");
    let _echo = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    assert_eq!(try_tcp(rig.outside(0), to), Outcome::Answered);
    let deadline = Instant::now() + Duration::from_secs(60);
    let query = "/api/v1/query?query=sum(bulkhead_received_packets_total)%20%3E%200";
    loop {
        let (_, answer) = http_get(rig.gateway(), server, query).unwrap_or_default();
        if answer.contains("\"value\":[") {
            break;
        }
        let log = std::fs::read_to_string(gateway.folder().join("prometheus.log"));
        assert!(Instant::now() < deadline, "no scrape: {answer}\n{}", log.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(500));
    }
    let _ = prometheus.kill();
    let _ = prometheus.wait();
    gateway.stop();
}
