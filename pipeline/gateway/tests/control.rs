//! The control socket and the metrics endpoint, towards friends and enemies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask, questions_beside};
use bulkhead_gateway::status;
use common::{Running, policy, wait};

fn started(more: &str) -> (tempfile::TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", more);
    running.wait_ready();
    (dir, running)
}

fn exchange(running: &Running, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(running.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The gateway may hang up in the middle of nonsense.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn nonsense_gets_an_error_and_harms_nobody() {
    let (_dir, running) = started("");
    let endless = vec![b'x'; 1 << 20];
    let nested = "[".repeat(4000);
    for request in [
        &b""[..],
        b"\n",
        b"status\n",
        b"{\"command\":\"shutdown\"}\n",
        b"{\"command\":\"status\",\"and\":1}\n",
        b"\xff\xfe\x00\n",
        nested.as_bytes(),
        &endless,
    ] {
        let answer = exchange(&running, request);
        // Whoever is hung up on while still sending may see nothing at all.
        assert!(answer.is_empty() || answer.contains("not a request"), "{answer}");
    }
    assert!(exchange(&running, b"{\"command\":\"status\"}\n").contains("\"ready\":true"));
}

#[test]
fn silent_clients_do_not_keep_others_out_for_long() {
    let (_dir, running) = started("");
    let silent: Vec<_> = (0..24).map(|_| UnixStream::connect(running.socket()).unwrap()).collect();
    let begun = Instant::now();
    assert!(exchange(&running, b"{\"command\":\"status\"}\n").contains("\"ready\":true"));
    // More than there are places, each freed after five seconds.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn who_may_only_ask_is_answered_and_changes_nothing() {
    use std::os::unix::fs::MetadataExt;

    let dir = tempfile::tempdir().unwrap();
    // A group that this process may give files to.
    let own = fs::metadata(dir.path()).unwrap().gid();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let groups = format!("control-group = \"{own}\"\ncontrol-read-group = \"{own}\"\n");
    let running = Running::start(dir.path(), "enforce", &groups);
    running.wait_ready();
    let questions = questions_beside(&running.socket());
    let mode = fs::metadata(&questions).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(ask(&questions, Ask::Status {}), Ok(Answer::Status(_))));
    assert!(matches!(ask(&questions, Ask::History {}), Ok(Answer::History(_))));
    let forget = Some("192.0.2.1".parse().unwrap());
    for change in [Ask::Reload { reason: None, on_behalf_of: None }, Ask::Bindings { forget }] {
        match ask(&questions, change) {
            Ok(Answer::Error(error)) => assert!(error.contains("control-group"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    // On the other one the same is done, and the kernel's word for who did it is kept.
    let forget = Ask::Bindings { forget };
    assert!(matches!(ask(&running.socket(), forget), Ok(Answer::Bindings(_))));
    let log = fs::read_to_string(dir.path().join("state/audit.jsonl")).unwrap();
    let pid = format!("\"pid\":{}", std::process::id());
    assert!(log.lines().any(|line| line.contains("forget") && line.contains(&pid)), "{log}");
    running.stop().0.unwrap();
    assert!(!questions.exists());
}

#[test]
fn only_user_and_group_may_connect_and_a_second_gateway_may_not_start() {
    let (dir, running) = started("");
    let mode = fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let second = Running::start(dir.path(), "enforce", "");
    let (ended, _) = second.stop();
    assert!(ended.unwrap_err().contains("another gateway answers"));
    assert!(running.socket().exists(), "the first one's socket stays");
}

#[test]
fn an_abandoned_socket_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    bulkhead_gateway::control::bind(&path, None).unwrap();
    let file = dir.path().join("precious");
    fs::write(&file, "data").unwrap();
    assert!(bulkhead_gateway::control::bind(&file, None).unwrap_err().contains("no socket"));
    assert_eq!(fs::read(&file).unwrap(), b"data");
}

#[test]
fn the_status_is_complete_and_readable() {
    let (_dir, running) = started("");
    assert!(running.passes(40_000, 502));
    assert!(!running.passes(40_001, 22));
    let Ok(Answer::Status(status)) = ask(&running.socket(), Ask::Status {}) else {
        panic!("no status");
    };
    assert_eq!((status.wires[0].outside.received, status.wires[0].inside.transmitted), (2, 1));
    assert_eq!((status.drops[0].name.as_str(), status.drops[0].count), ("policy", 1));
    assert!(status.rules.iter().any(|rule| rule.name == "only" && rule.count == 1));
    let text = status::text(&status);
    for expected in ["guarding", "line3", "enforce", "policy.yaml", "DROPPED", "DECIDED BY RULE"] {
        assert!(text.contains(expected), "{text}");
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn the_endpoint_answers_what_it_knows_and_nothing_else() {
    let address = free_address();
    let (_dir, running) = started(&format!("[metrics]\nlisten = \"{address}\""));
    let path = |path: &str| {
        get(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    };
    assert!(path("/healthz").starts_with("HTTP/1.1 200"));
    assert!(path("/readyz").starts_with("HTTP/1.1 200"));
    assert!(path("/metrics").contains("bulkhead_build_info{version="));
    assert!(path("/etc/passwd").starts_with("HTTP/1.1 404"));
    assert!(
        get(address, "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .starts_with("HTTP/1.1 405")
    );
    assert!(get(address, "\0\0\0\r\n\r\n").starts_with("HTTP/1.1 400"));
    let begun = Instant::now();
    let slow = TcpStream::connect(address).unwrap();
    let mut rest = Vec::new();
    let _ = (&slow).read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(15), "a silent client is left");
    drop(running);
}

#[test]
fn promtool_finds_nothing_to_criticise() {
    let (_dir, running) = started("");
    assert!(running.passes(40_000, 502));
    assert!(!running.passes(40_001, 22));
    wait("histograms have travelled", || {
        ["forward", "drop"].into_iter().all(|verdict| {
            let labels = format!("worker=\"0\",verdict=\"{verdict}\"");
            let count = format!("bulkhead_packet_latency_seconds_count{{{labels}}}");
            running.metric(&count) >= Some(1.0)
        })
    });
    let text = bulkhead_gateway::telemetry::render(&running.gateway).unwrap();
    for reason in bulkhead_pipeline::verdict::DropReason::ALL {
        assert!(text.contains(&format!("reason=\"{}\"", reason.label())), "{}", reason.label());
    }
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED promtool check metrics: {error}");
            return;
        }
    };
    let mut stdin = promtool.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = promtool.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}
