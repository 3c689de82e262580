//! The commands that need no gateway, as a person or a script runs them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

const POLICY: &str = r#"version: 1
default: deny
groups:
  hmi: [10.20.0.11, 10.20.0.12]
  plc: [10.30.3.0/24, "fd00:30:3::/64"]
rules:
  - name: hmi-to-plc
    from: hmi
    to: plc
    service: tcp/502
    action: allow
    reason: CHG-1042
  - name: later
    from: any
    to: plc
    service: tcp/22
    action: reject
    starts: 2126-01-01T00:00:00Z
assert:
  - {from: hmi, to: plc, service: tcp/502, must: reach}
"#;

const CONFIG: &str =
    "policy = \"policy.yaml\"\n[[wire]]\nname = \"line3\"\ninside = \"a\"\noutside = \"b\"\n";

struct Output {
    code: i32,
    out: String,
    err: String,
}

/// Runs `bulkhead` with `arguments` in `folder`.
fn bulkhead(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .args(arguments)
        .current_dir(folder)
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The reader has gone before the command writes its first byte.
#[test]
fn a_command_ends_quietly_when_nobody_reads() {
    let dir = folder();
    let commands: [&[&str]; 3] = [
        &["check", "policy.yaml"],
        &["check", "--json", "policy.yaml"],
        &["explain", "--policy", "policy.yaml", "tcp 10.20.0.11 -> 10.30.3.11:502"],
    ];
    for arguments in commands {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .args(arguments)
            .current_dir(dir.path())
            .stdout(OwnedFd::from(writer))
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGPIPE), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    fs::write(dir.path().join("gateway.toml"), CONFIG).unwrap();
    dir
}

#[test]
fn check_accepts_with_zero_and_says_what_it_saw() {
    let dir = folder();
    let output = bulkhead(dir.path(), &["check", "policy.yaml"]);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    for expected in ["accepted with 0 warnings", "2 rules", "1 assertion;", "must reach", "hash "] {
        assert!(output.out.contains(expected), "{}", output.out);
    }
    let output = bulkhead(dir.path(), &["check", "--config", "gateway.toml", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(output.code, 0);
    assert_eq!(json["config"]["wires"][0], "line3");
    assert_eq!(json["policies"][0]["summary"]["rules"], 2);
    assert_eq!(json["policies"][0]["summary"]["assertions"][0]["holds"], true);
}

#[test]
fn check_refuses_with_one_and_shows_where() {
    let dir = folder();
    fs::write(dir.path().join("bad.yaml"), POLICY.replace("to: plc\n", "to: plk\n")).unwrap();
    let output = bulkhead(dir.path(), &["check", "policy.yaml", "bad.yaml"]);
    assert_eq!(output.code, 1);
    let expected = "  --> bad.yaml:9:9\n   |\n9 |     to: plk\n";
    assert!(
        output.out.contains(&expected.replace("  -->", " -->").replace("   |", "  |")),
        "{}",
        output.out
    );
    assert!(output.out.contains("did you mean `plc`?"), "{}", output.out);
    assert!(
        output.out.contains("bad.yaml: refused with 2 errors and 0 warnings"),
        "{}",
        output.out
    );
}

#[test]
fn check_tells_unreadable_from_wrong_and_warnings_from_errors() {
    let dir = folder();
    assert_eq!(bulkhead(dir.path(), &["check", "nowhere.yaml"]).code, 4);
    assert_eq!(bulkhead(dir.path(), &["check", "."]).code, 0);
    fs::write(dir.path().join("lax.yaml"), POLICY.replace("default: deny", "default: allow"))
        .unwrap();
    assert_eq!(bulkhead(dir.path(), &["check", "lax.yaml"]).code, 0);
    assert_eq!(bulkhead(dir.path(), &["check", "--deny-warnings", "lax.yaml"]).code, 3);
    fs::write(dir.path().join("gateway.toml"), CONFIG.replace("inside", "inisde")).unwrap();
    let output = bulkhead(dir.path(), &["check", "--config", "gateway.toml"]);
    assert_eq!(output.code, 1);
    assert!(output.out.contains("did you mean `inside`?"), "{}", output.out);
    assert_eq!(bulkhead(dir.path(), &["check"]).code, 2);
}

#[test]
fn explain_names_the_rule_and_its_line() {
    let dir = folder();
    let packet = "tcp 10.20.0.11:40000 -> 10.30.3.11:502 from-mac 02:00:00:00:00:01 to-mac 02:00:00:00:00:02 vlan 30";
    let output = bulkhead(dir.path(), &["explain", "--policy", "policy.yaml", packet]);
    assert_eq!(
        output.out,
        "ALLOW: may open a flow; its replies pass too\n  \
         packet: tcp 10.20.0.11:40000 -> 10.30.3.11:502 vlan 30 from-mac 02:00:00:00:00:01 to-mac \
         02:00:00:00:00:02\n  \
         rule:   hmi-to-plc (number 1)\n  \
         because from hmi to plc, service tcp/502: allow\n  \
         reason: CHG-1042\n   \
         --> policy.yaml:7:11\n    \
         |\n  \
         7 |   - name: hmi-to-plc\n    \
         |           ^^^^^^^^^^\n  \
         taken for granted: a synchronised clock: without one, timed allow rules match nothing and timed denials always\n  \
         a packet of a flow that exists already is judged by the flow's state\n"
    );
    assert_eq!(output.code, 0);
}

#[test]
fn explain_serves_scripts() {
    let dir = folder();
    let explain = |arguments: &[&str]| {
        let head = ["explain", "--policy", "policy.yaml"];
        bulkhead(dir.path(), &[&head[..], arguments].concat())
    };
    let blocked = "tcp 10.9.9.9 -> 10.30.3.11:22";
    assert_eq!(explain(&["--expect", "deny", blocked]).code, 0);
    assert_eq!(explain(&["--expect", "allow", blocked]).code, 1);
    let output = explain(&["--json", blocked]);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!((&json["verdict"], &json["rule"]), (&"deny".into(), &"default".into()));
    assert_eq!(json["also"][0]["rule"], "later");
    let output = explain(&["--json", blocked, "at", "2126-02-01T00:00:00Z"]);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!((&json["verdict"], &json["line"]), (&"reject".into(), &13.into()));
}

#[test]
fn explain_says_of_each_earlier_rule_why_it_does_not_match() {
    let dir = folder();
    let text = r#"version: 1
devices:
  plc-1: {mac: "02:00:00:00:00:07", ip: 10.30.3.7}
groups:
  hmi: [10.20.0.11]
rules:
  - {name: elsewhere, from: hmi, to: 10.40.0.0/16, service: tcp/502, action: deny}
  - {name: other-vlan, from: hmi, to: any, service: any, action: deny, vlan: [30, 5]}
  - {name: other-wire, from: hmi, to: any, service: any, action: deny, wire: line4}
  - {name: ended, from: hmi, to: any, service: any, action: deny, expires: 2020-01-01T00:00:00Z}
  - {name: bound, from: any, to: plc-1, service: tcp/502, action: deny}
  - {name: pair, between: [10.1.0.1, 10.1.0.2], service: udp/53, action: allow}
  - {name: work, from: hmi, to: 10.30.0.0/16, service: tcp/502, action: allow}
"#;
    fs::write(dir.path().join("p.yaml"), text).unwrap();
    let packet = "tcp 10.20.0.11 -> 10.30.3.7:502 vlan 30 wire line4 to-mac 02:00:00:00:00:66";
    let with = |more: &[&str]| {
        let packet =
            packet.replace("line4", if more.contains(&"--all") { "line3" } else { "line4" });
        let config = CONFIG.replace("policy.yaml", "p.yaml")
            + "[[wire]]\nname = \"line4\"\ninside = \"c\"\noutside = \"d\"\n";
        fs::write(dir.path().join("g.toml"), config).unwrap();
        let head = ["explain", "--config", "g.toml"];
        bulkhead(dir.path(), &[&head[..], more, &[packet.as_str()]].concat())
    };
    let output = with(&["--all"]);
    for expected in [
        "ALLOW",
        "not:    elsewhere (p.yaml:7): destination 10.30.3.7 is not in 10.40.0.0/16\n",
        "not:    other-vlan (p.yaml:8): VLAN 30 is not 30.5\n",
        "not:    other-wire (p.yaml:9): wire line3 is not line4\n",
        "not:    ended (p.yaml:10): it expired at 2020-01-01T00:00:00Z\n",
        "not:    bound (p.yaml:11): destination 10.30.3.7 with MAC address 02:00:00:00:00:66 is not the \
         host in plc-1\n",
        "not:    pair (p.yaml:12): source 10.20.0.11 is not in 10.1.0.1 or 10.1.0.2; destination \
         10.30.3.7 is not in 10.1.0.1 or 10.1.0.2; service tcp/502 is not udp/53\n",
    ] {
        assert!(output.out.contains(expected), "no {expected} in {}{}", output.out, output.err);
    }
    let output = with(&["--all", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    let failed: Vec<String> = json["misses"]["some"]
        .as_array()
        .unwrap()
        .iter()
        .map(|miss| miss["failed"].to_string())
        .collect();
    assert_eq!(
        failed,
        [
            "[\"to\"]",
            "[\"vlan\"]",
            "[\"wire\"]",
            "[\"time\"]",
            "[\"to-mac\"]",
            "[\"from\",\"to\",\"service\"]"
        ]
    );
    // On the other wire an earlier rule decides, and it is short.
    let output = with(&[]);
    assert!(output.out.contains("rule:   other-wire (number 3)"), "{}", output.out);
    assert!(output.out.contains("2 rules before it; --all says of each"), "{}", output.out);
    assert!(!output.out.contains("elsewhere"), "{}", output.out);
}

#[test]
fn explain_says_what_it_did_not_understand() {
    let dir = folder();
    let output = bulkhead(dir.path(), &["explain", "-p", "policy.yaml", "tcp 10.0.0.1 -> plc:502"]);
    assert_eq!((output.code, output.out.as_str()), (1, ""));
    assert!(
        output.err.contains("names of devices and groups have no meaning here"),
        "{}",
        output.err
    );
    let packet = "tcp 10.20.0.11 -> 10.30.3.11:502 wire lin3";
    let output = bulkhead(dir.path(), &["explain", "-c", "gateway.toml", packet]);
    assert!(output.err.contains("did you mean `line3`?"), "{}", output.err);
}

#[test]
fn commands_for_a_gateway_say_where_they_looked() {
    let dir = folder();
    for command in ["status", "reload"] {
        let output = bulkhead(dir.path(), &[command, "--socket", "nowhere.sock"]);
        assert_eq!(output.code, 4);
        assert!(output.err.contains("no gateway answers at nowhere.sock"), "{}", output.err);
    }
    let output = bulkhead(dir.path(), &["run", "--config", "nowhere.toml"]);
    assert_eq!(output.code, 4);
    assert!(output.err.contains("cannot read nowhere.toml"), "{}", output.err);
}

/// Without DPDK there is no `run` that could tell anything.
#[cfg(feature = "dpdk")]
mod service_manager {
    use std::os::unix::net::UnixDatagram;
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// A child that is killed where the test ends without it.
    struct Gateway(Child);

    impl Drop for Gateway {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Reads what a service manager is told until `wanted` is among it.
    fn told_until(manager: &UnixDatagram, wanted: &str) -> String {
        let mut told = String::new();
        let mut buffer = [0; 4096];
        let begun = Instant::now();
        while !told.contains(wanted) {
            assert!(begun.elapsed() < Duration::from_secs(20), "no {wanted:?} in {told:?}");
            if let Ok(length) = manager.recv(&mut buffer) {
                told += &String::from_utf8_lossy(&buffer[..length]);
                told.push('\n');
            }
        }
        told
    }

    #[test]
    fn a_gateway_without_a_policy_is_alive_but_not_ready() {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        let head = "state-dir = \"state\"\ncontrol-socket = \"control.sock\"\n";
        let tail = "[metrics]\nlisten = \"off\"\n";
        fs::write(path("gateway.toml"), format!("{head}{CONFIG}{tail}")).unwrap();
        fs::write(path("policy.yaml"), "version: 9\n").unwrap();
        let manager = UnixDatagram::bind(path("notify.sock")).unwrap();
        manager.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .args(["run", "--config", "gateway.toml"])
            .current_dir(dir.path())
            .env("NOTIFY_SOCKET", path("notify.sock"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Gateway(child);
        let mut told = told_until(&manager, "STATUS=no policy is in force");
        told += &told_until(&manager, "WATCHDOG=1");
        let reload = bulkhead(dir.path(), &["reload", "--socket", "control.sock"]);
        assert_eq!(reload.code, 1, "{}{}", reload.out, reload.err);
        told += &told_until(&manager, "WATCHDOG=1");
        told += &told_until(&manager, "WATCHDOG=1");
        assert!(!told.contains("READY=1") && !told.contains("RELOADING=1"), "{told}");

        let begun = Instant::now();
        let id = child.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(child.0.wait().unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    /// In a mount namespace of its own, where the journal's socket is the test's.
    #[test]
    fn the_journal_gets_fields_and_an_identifier_of_what_matters() {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        let head = "state-dir = \"state\"\ncontrol-socket = \"control.sock\"\n";
        fs::write(path("gateway.toml"), format!("{head}{CONFIG}[metrics]\nlisten = \"off\"\n"))
            .unwrap();
        fs::write(path("policy.yaml"), "version: 9\n").unwrap();
        fs::create_dir(path("journal")).unwrap();
        let journal = UnixDatagram::bind(path("journal/socket")).unwrap();
        journal.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let stderr = fs::File::create(path("stderr")).unwrap();
        let stream = {
            use std::os::unix::fs::MetadataExt as _;
            let metadata = stderr.metadata().unwrap();
            format!("{}:{}", metadata.dev(), metadata.ino())
        };
        let inside = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                      mount --bind journal /run/systemd/journal && exec \"$0\" run --config gateway.toml";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", inside, env!("CARGO_BIN_EXE_bulkhead")])
            .current_dir(dir.path())
            .env("JOURNAL_STREAM", stream)
            .stderr(stderr)
            .spawn();
        let mut child = match child {
            Ok(child) => Gateway(child),
            Err(error) => return println!("SKIPPED: the journal's fields: unshare: {error}"),
        };
        let mut entries = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let begun = Instant::now();
        let refused = loop {
            if let Ok(Some(status)) = child.0.try_wait() {
                let said = fs::read_to_string(path("stderr")).unwrap();
                assert!(said.contains("unshare") || said.contains("mount"), "{status}: {said}");
                return println!("SKIPPED: the journal's fields: {said}");
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no entry of it in {entries:#?}");
            let Ok(length) = journal.recv(&mut buffer) else { continue };
            let entry = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if entry.contains("MESSAGE_ID") {
                break entry;
            }
            entries.push(entry);
        };
        let (_, id) = bulkhead_gateway::log::kind::ALL[0];
        for expected in [
            id,
            "PRIORITY\n",
            "SYSLOG_IDENTIFIER\n",
            "BULKHEAD_TRIGGER\n",
            "MESSAGE\n",
            "the policy was refused",
        ] {
            assert!(refused.contains(expected), "no {expected:?} in {refused:?}");
        }
        // What is no event of a kind comes without an identifier, and nothing comes as a line.
        assert!(entries.iter().any(|entry| entry.contains("bulkhead starts")), "{entries:#?}");
        assert_eq!(fs::read_to_string(path("stderr")).unwrap(), "");
    }
}
