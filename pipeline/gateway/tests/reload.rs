//! The policy's files to the policy in force: all or nothing, whatever the files are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_gateway::reload::{ReloadOutcome, Trigger};
use bulkhead_pipeline::port::Frame;
use common::{Loopback, PATIENCE, Running, policy, syn, wait};

#[test]
fn what_is_accepted_is_enforced_and_what_is_not_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    assert!(running.passes(40_000, 502));
    assert!(!running.passes(40_001, 22));

    running.write_policy(&policy(22));
    let report = running.reload();
    assert!(report.outcome.is_success(), "{report:?}");
    assert!(running.passes(40_002, 22));
    assert!(!running.passes(40_003, 502));

    let good = running.metric("bulkhead_policy_epoch");
    for (text, message) in [
        (policy(22).replace("to: plc", "to: plcs"), "did you mean `plc`?"),
        (policy(22).replace("rules:", "rules: ["), ""),
        (
            policy(22) + "assert:\n  - {from: any, to: plc, service: tcp/22, must: not-reach}\n",
            "witness",
        ),
        (String::new(), ""),
        (format!("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n{}", policy(22)), ""),
    ] {
        running.write_policy(&text);
        let report = running.reload();
        assert_eq!(report.outcome, ReloadOutcome::Refused, "{text}");
        let shown: String = report.findings.iter().map(|f| f.rendered.as_str()).collect();
        assert!(shown.contains(message) && !shown.is_empty(), "{shown}");
        assert_eq!(running.metric("bulkhead_policy_last_reload_successful"), Some(0.0));
        assert_eq!(running.metric("bulkhead_policy_epoch"), good);
        assert!(running.passes(40_010, 22));
        assert!(!running.passes(40_011, 502));
    }
    let refused = running.metric("bulkhead_policy_reload_total{result=\"refused\"}");
    assert!(refused >= Some(5.0), "{refused:?}");

    running.write_policy(&policy(502));
    assert!(running.reload().outcome.is_success());
    assert_eq!(running.metric("bulkhead_policy_last_reload_successful"), Some(1.0));
    assert!(running.passes(40_020, 502));
    assert_eq!(running.reload().outcome, ReloadOutcome::Unchanged);
}

#[test]
fn a_gigabyte_a_fifo_and_a_missing_file_are_unreadable_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    let path = dir.path().join("policy.yaml");
    let replace = |make: &dyn Fn()| {
        fs::remove_file(&path).unwrap();
        make();
        let begun = Instant::now();
        let report = running.reload();
        assert_eq!(report.outcome, ReloadOutcome::Unreadable, "{report:?}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(running.passes(40_000, 502));
    };
    replace(&|| File::create(&path).unwrap().set_len(1 << 30).unwrap());
    replace(&|| {
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success())
    });
    replace(&|| ());
    let unreadable = running.metric("bulkhead_policy_reload_total{result=\"unreadable\"}");
    assert!(unreadable >= Some(3.0));
}

#[test]
fn changes_are_noticed_without_being_told() {
    let dir = tempfile::tempdir().unwrap();
    // As a config map is mounted: a link to a file through a link to a folder.
    for (version, port) in [("..1", 502), ("..2", 22)] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("policy.yaml"), policy(port)).unwrap();
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/policy.yaml", dir.path().join("policy.yaml")).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    assert!(running.passes(40_000, 502));
    symlink("..2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    wait("the swapped link is in force", || running.passes(40_001, 22));
    // In place, as the simplest editors write.
    fs::write(dir.path().join("..2/policy.yaml"), policy(503)).unwrap();
    wait("the edited file is in force", || running.passes(40_002, 503));
    let last = running.gateway.policy().last.clone().unwrap();
    assert_eq!(last.trigger, Trigger::File);
}

#[test]
fn a_bad_file_at_the_start_falls_back_to_the_last_accepted_policy() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    assert_eq!(running.metric("bulkhead_policy_fallback"), Some(0.0));
    let (ended, _) = running.stop();
    ended.unwrap();

    fs::write(dir.path().join("policy.yaml"), "rules: nonsense").unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    assert_eq!(running.metric("bulkhead_policy_fallback"), Some(1.0));
    assert_eq!(running.metric("bulkhead_policy_last_reload_successful"), Some(0.0));
    assert!(running.passes(40_000, 502));
    assert!(!running.passes(40_001, 22));
    // Even the very policy that stands in is now taken from the file again.
    running.write_policy(&policy(502));
    assert!(running.reload().outcome.is_success());
    assert_eq!(running.metric("bulkhead_policy_fallback"), Some(0.0));
}

#[test]
fn without_any_policy_the_ports_stay_down_until_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    wait("the start is reported", || running.gateway.policy().last.is_some());
    thread::sleep(Duration::from_millis(300));
    assert!(!running.gateway.is_ready());
    assert_eq!(running.metric("bulkhead_ready"), Some(0.0));
    running.write_policy(&policy(502));
    running.wait_ready();
    assert!(running.passes(40_000, 502));
}

#[test]
fn a_stop_without_a_policy_is_clean_too() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    wait("the socket is there", || running.socket().exists());
    let (ended, took) = running.stop();
    ended.unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_forbidden_flow_ends_at_its_next_packet_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    assert!(running.passes(40_000, 502));
    running.write_policy(&policy(22));
    assert!(running.reload().outcome.is_success());
    assert!(!running.passes(40_000, 502));
    wait("the worker has said so", || running.gateway.flows_revoked() == 1);
    let ends = "bulkhead_flow_ends_total{worker=\"0\",reason=\"revoked\"}";
    assert_eq!(running.metric(ends), Some(1.0));
}

#[test]
fn a_stop_takes_less_than_a_second_and_closes_the_ports() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    let cables = running.with_ends(|ends| ends.each_ref().map(|end| end.cable.clone()));
    let socket = running.socket();
    let (ended, took) = running.stop();
    ended.unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(cables.iter().all(|cable| cable.closed.load(SeqCst)));
    assert!(!socket.exists());
}

#[test]
fn a_stop_during_the_launch_takes_less_than_a_second_and_raises_no_port() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let backend = Arc::new(Loopback::default());
    backend.stalls.store(true, SeqCst);
    let running = Running::start_over(backend.clone(), dir.path(), "enforce", "");
    wait("a worker stalls", || backend.stalled.load(SeqCst));
    let cables = running.with_ends(|ends| [ends[0].cable.clone(), ends[1].cable.clone()]);
    // The worker comes to itself after the stop, and before it is given up.
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_millis(150));
        backend.stalls.store(false, SeqCst);
    });
    let (ended, took) = running.stop();
    release.join().unwrap();
    ended.unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for cable in cables {
        assert!(!cable.started.load(SeqCst), "a port was raised after the stop");
        assert!(cable.closed.load(SeqCst));
    }
}

#[test]
fn observe_forwards_what_it_would_drop_and_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "observe", "");
    running.wait_ready();
    assert!(running.passes(40_000, 22));
    let would = "bulkhead_would_drop_packets_total\
                 {wire=\"line3\",port=\"outside\",reason=\"policy\"}";
    wait("it is counted", || running.metric(would) == Some(1.0));
    assert_eq!(
        running.metric("bulkhead_rule_hits_total{rule=\"default\",mode=\"observe\"}"),
        Some(1.0)
    );
}

#[test]
fn lost_carrier_crosses_the_wire_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    let [inside, outside] = running.with_ends(|ends| ends.each_ref().map(|end| end.cable.clone()));
    let up =
        |port: &str| running.metric(&format!("bulkhead_link_up{{wire=\"line3\",port=\"{port}\"}}"));
    wait("both are up", || up("inside") == Some(1.0) && up("outside") == Some(1.0));
    inside.cut.store(true, SeqCst);
    wait("the other port is held down", || outside.held.load(SeqCst));
    wait("it is shown", || up("outside") == Some(0.0));
    assert!(!inside.held.load(SeqCst));
    inside.cut.store(false, SeqCst);
    wait("the other port is released", || !outside.held.load(SeqCst));
    wait("it is shown", || up("outside") == Some(1.0));
}

/// Two policies of which any mixture would permit what both deny: under A the HMI may reach port 502
/// and the historian port 22, under B the names are the other way round, so that the HMI may reach
/// 502 and never 22 under both, but would reach 22 by a group of one and a service of the other.
fn alternatives() -> [String; 2] {
    let policy = |x: &str, y: &str, s: u16, t: u16| {
        format!(
            "version: 1\ngroups:\n  x: [{x}]\n  y: [{y}]\nservices:\n  s: tcp/{s}\n  \
             t: tcp/{t}\nrules:\n  \
             - {{name: one, from: x, to: 10.30.3.11, service: s, action: allow}}\n  \
             - {{name: two, from: y, to: 10.30.3.11, service: t, action: allow}}\n"
        )
    };
    let (hmi, historian) = ("10.20.0.11", "10.20.0.12");
    [policy(hmi, historian, 502, 22), policy(historian, hmi, 22, 502)]
}

/// New flows at the rate that the worker takes, while the policy is replaced again and again: what
/// both policies permit all comes through, what both deny does not, and nothing is uncounted.
/// 1,000 reloads with `BULKHEAD_FULL=1`, else 100.
#[test]
fn reloads_at_full_rate_lose_nothing_and_mix_nothing() {
    let reloads = if std::env::var_os("BULKHEAD_FULL").is_some() { 1000 } else { 100 };
    let policies = alternatives();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), &policies[0]).unwrap();
    // All packets are of one source, and each may open a flow.
    let budget = "[flows]\nnew-flows-per-source = 1000000";
    let running = Running::start(dir.path(), "enforce", budget);
    running.wait_ready();
    let finished = AtomicBool::new(false);
    let (sent, mut publications) = thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&running, &finished));
        let mut publications = Vec::new();
        for round in 1..=reloads {
            running.write_policy(&policies[round % 2]);
            let report = running.reload();
            // The watcher may have been faster than the command.
            assert!(report.outcome.is_success(), "{report:?}");
            publications.extend(report.publish_us);
        }
        finished.store(true, SeqCst);
        (traffic.join().unwrap(), publications)
    });
    let balance = running.gateway.workers()[0].counters.balance();
    assert!(balance.is_exact(), "{balance:?}");
    assert_eq!(balance.received, 2 * sent);
    assert_eq!((balance.transmitted, balance.dropped), (sent, sent), "of {sent} pairs");
    publications.sort_unstable();
    let at = |percent| publications.get(publications.len() * percent / 100);
    println!(
        "{reloads} reloads under {} frames: publication median {:?} us, p99 {:?} us",
        2 * sent,
        at(50),
        at(99)
    );
    assert!(sent > 1000, "{sent} pairs are no load");
}

/// Sends pairs of a permitted and a forbidden SYN until `finished`, and takes in what comes through.
/// Returns how many pairs were sent.
fn traffic(running: &Running, finished: &AtomicBool) -> u64 {
    running.with_ends(|[inside, outside]| {
        let (mut sent, mut received) = (0_u64, 0_u64);
        let take_in = |received: &mut u64| {
            while let Some(frame) = inside.host.receive() {
                let port = u16::from_be_bytes([frame.bytes()[36], frame.bytes()[37]]);
                assert_eq!(port, 502, "a packet that both policies deny came through");
                *received += 1;
            }
        };
        while !finished.load(SeqCst) {
            // So few sources that their flows, all half-open, do not fill the table.
            let source_port = 1024 + (sent % 10_000) as u16;
            for port in [502, 22] {
                let frame = syn(source_port, port);
                while outside.host.send(&frame).is_err() {
                    take_in(&mut received);
                    thread::yield_now();
                }
            }
            sent += 1;
            take_in(&mut received);
        }
        let begun = Instant::now();
        while received < sent {
            take_in(&mut received);
            assert!(begun.elapsed() < PATIENCE, "{} of {sent} were lost", sent - received);
            thread::yield_now();
        }
        let done = || running.total_dropped() == sent;
        wait("the last forbidden packets are counted", done);
        sent
    })
}
