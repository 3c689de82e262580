//! The command itself: in a pseudo terminal, and into a pipe.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::common::{Running, policy, wait};

const BULKHEAD: &str = env!("CARGO_BIN_EXE_bulkhead");

fn started() -> (tempfile::TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    (dir, running)
}

#[test]
fn in_a_terminal_it_draws_takes_keys_and_gives_the_terminal_back() {
    let (dir, running) = started();
    // `script` of util-linux makes a pseudo terminal; what is written to its input is typed.
    let shown = dir.path().join("shown");
    let watch = format!("{BULKHEAD} status --watch --interval 0.2 --socket control.sock");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command"])
        .arg(format!("stty rows 24 cols 80; {watch}"))
        .arg(&shown)
        .current_dir(dir.path())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    let seen =
        |text: &str| fs::read(&shown).is_ok_and(|b| String::from_utf8_lossy(&b).contains(text));
    wait("the overview is drawn", || seen("guarding") && seen("line3"));
    keys.write_all(b"6").unwrap();
    wait("the workers are drawn", || seen("WORKER"));
    let (ended, _) = running.stop();
    ended.unwrap();
    wait("it says that the gateway is gone", || seen("GONE"));
    keys.write_all(b"q").unwrap();
    let ended = child.wait().unwrap();
    assert!(ended.success(), "{ended:?}");
    assert!(seen("\u{1b}[?1049h") && seen("\u{1b}[?1049l"), "the screen before is back");
}

#[test]
fn into_a_pipe_it_writes_lines() {
    let (dir, _running) = started();
    for json in [false, true] {
        let mut command = Command::new(BULKHEAD);
        command.args(["status", "--watch", "--interval", "0.1", "--socket", "control.sock"]);
        if json {
            command.arg("--json");
        }
        command.current_dir(dir.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<String> = lines.take(3).map(Result::unwrap).collect();
        for line in &lines {
            match json {
                true => assert!(line.starts_with("{\"version\"") && line.contains("\"attention\"")),
                false => assert!(line.contains("guarding in 0/s"), "{line}"),
            }
        }
        // Its reader is gone now: it ends by itself.
        let mut ended = None;
        wait("it has ended", || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        thread::sleep(Duration::from_millis(1));
    }
}
