//! A start at a moment when memory is short. What was in force and what was staged are as good as before: they
//! are kept, and taken up when there is memory again, though nobody touches a file.
//!
//! One test, in a process of its own, whose address space it limits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::workflow::{Change, PolicyTexts};
use common::{Running, policy, wait};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes of text for which reading is reckoned to take 256 MiB.
const TEXT_BYTES: usize = 4 << 20;

/// What is left to the process: less than that, and more than a gateway with a small table takes.
const LEFT_BYTES: u64 = 160 << 20;

fn large(port: u16) -> String {
    let line = format!("# {}\n", "x".repeat(97));
    policy(port) + &line.repeat(TEXT_BYTES / line.len())
}

fn limit(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::As).maximum;
    setrlimit(Resource::As, Rlimit { current: bytes, maximum }).unwrap();
}

/// Limits the process to what it has and `more`.
fn leave(more: u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kb: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    limit(Some((kb << 10) + more));
}

fn staged(running: &Running) -> Option<String> {
    match ask(&running.socket(), Ask::Staged { limit: 0 }) {
        Ok(Answer::Staged(report)) => report.staged.map(|staged| staged.hash),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_there_is_no_memory_for_is_kept_and_taken_up_later() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Running::start(dir.path(), "enforce", "[flows]\ncapacity = 1024");
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    // The first run also makes the arenas of the allocator, which later threads use again.
    let running = start();
    running.wait_ready();
    let files = vec![("next.yaml".to_owned(), large(503))];
    let policy = PolicyTexts { source: "next".to_owned(), files, envelope: None };
    let (change, reason) = (Change::Stage { policy }, None);
    let order = Ask::Change { change, reason, force: false, on_behalf_of: None };
    let Ok(Answer::Change(report)) = ask(&running.socket(), order) else { panic!("no report") };
    assert!(report.done, "{report:?}");
    let hash = staged(&running);
    assert!(hash.is_some());
    running.stop().0.unwrap();

    fs::write(dir.path().join("policy.yaml"), large(502)).unwrap();
    // Nothing stands in for it.
    fs::remove_dir_all(dir.path().join("state/accepted")).unwrap();
    leave(LEFT_BYTES);
    let running = start();
    wait("the policy is refused", || running.gateway.policy().last.is_some());
    let found = running.gateway.policy().last.clone().unwrap().findings;
    assert_eq!(found.first().map(|finding| finding.code.as_str()), Some("no-memory"), "{found:?}");
    // What is not staged for now is told in this log, and not lost.
    let log = dir.path().join("state/audit.jsonl");
    wait("it is told what is staged no longer", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("it is kept, and tried again"))
    });
    assert_eq!(staged(&running), None);
    assert!(!running.gateway.is_ready());

    limit(None);
    running.wait_ready();
    assert!(running.passes(40_000, 502));
    wait("it is staged again", || staged(&running) == hash);
    running.stop().0.unwrap();
}
