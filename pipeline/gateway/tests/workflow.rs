//! From observing to enforcing and back, over in-memory ports: the control side is the production one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_gateway::audit::verify::Verifier;
use bulkhead_gateway::audit::{Entry, LOG_FILE, read_head};
use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::workflow::commands::{Exceptions, HistoryReport};
use bulkhead_gateway::workflow::stage::StageReport;
use bulkhead_gateway::workflow::{Change, ChangeReport, PolicyTexts};
use common::{Running, policy, wait};

/// No waiting before a lockdown.
const AT_ONCE: &str = "[lockdown]\nmin-staged-s = 0\n";

fn texts(text: &str) -> PolicyTexts {
    let files = vec![("/home/somebody/new.yaml".to_owned(), text.to_owned())];
    PolicyTexts { source: "/home/somebody/new.yaml".to_owned(), files, envelope: None }
}

fn try_change(running: &Running, change: Change, force: bool) -> ChangeReport {
    let reason = Some("CHG-1".to_owned());
    match ask(&running.socket(), Ask::Change { change, reason, force, on_behalf_of: None }) {
        Ok(Answer::Change(report)) => *report,
        other => panic!("no report: {other:?}"),
    }
}

fn change(running: &Running, change: Change) -> ChangeReport {
    let report = try_change(running, change, false);
    assert!(report.done, "{report:?}");
    report
}

fn stage(running: &Running, text: &str) -> ChangeReport {
    change(running, Change::Stage { policy: texts(text) })
}

fn staged(running: &Running) -> StageReport {
    match ask(&running.socket(), Ask::Staged { limit: 10 }) {
        Ok(Answer::Staged(report)) => *report,
        other => panic!("no report: {other:?}"),
    }
}

fn lockdown() -> Change {
    Change::Lockdown { wires: Vec::new(), policy: None, expect: None }
}

fn grant(service: &str, for_s: u64) -> Change {
    let [from, to] = ["hmi", "10.30.3.11"].map(str::to_owned);
    Change::Grant { from, to, service: service.to_owned(), for_s }
}

fn quarantine(device: &str) -> Change {
    Change::Quarantine { device: device.to_owned(), allow: Vec::new() }
}

fn history(running: &Running) -> HistoryReport {
    match ask(&running.socket(), Ask::History {}) {
        Ok(Answer::History(report)) => *report,
        other => panic!("no report: {other:?}"),
    }
}

fn exceptions(running: &Running) -> Exceptions {
    match ask(&running.socket(), Ask::Exceptions {}) {
        Ok(Answer::Exceptions(all)) => *all,
        other => panic!("no report: {other:?}"),
    }
}

/// The entries of a whole audit log.
fn audit(folder: &Path) -> Vec<Entry> {
    let state = folder.join("state");
    let (mut verifier, mut entries) = (Verifier::new(None), Vec::new());
    let log = BufReader::new(fs::File::open(state.join(LOG_FILE)).unwrap());
    verifier.read(log, |entry, _| entries.push(entry.clone())).unwrap();
    verifier.finish(read_head(&state.join("audit.head")).as_ref()).unwrap();
    entries
}

fn whats(folder: &Path) -> Vec<String> {
    audit(folder).into_iter().map(|entry| entry.what).collect()
}

fn start(folder: &Path, mode: &str, text: &str) -> Running {
    fs::write(folder.join("policy.yaml"), text).unwrap();
    let running = Running::start(folder, mode, AT_ONCE);
    running.wait_ready();
    running
}

#[test]
fn a_policy_is_staged_locked_down_and_stays_so_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "observe", &policy(502));
    assert!(running.passes(40_000, 502), "a session that was there before");
    let nothing = try_change(&running, lockdown(), false);
    assert!(!nothing.done && nothing.obstacles[0].contains("nothing is staged"), "{nothing:?}");

    // What would cut the session is shown, with the rule that nearly permits it, and refused.
    stage(&running, &policy(503));
    assert!(running.passes(40_000, 502) && running.passes(40_001, 503));
    wait("the flows were asked about", || staged(&running).flows == 2);
    let report = staged(&running);
    assert_eq!((report.passing, report.cut, report.cut_permitted), (2, 1, 1));
    let [cut] = &report.differing[..] else { panic!("{report:?}") };
    assert!(cut.flow.contains("10.20.0.11:40000 -> 10.30.3.11:502"), "{cut:?}");
    assert_eq!((cut.rule.as_str(), cut.staged_rule.as_str()), ("only", "default"));
    assert!(cut.nearest.as_deref().is_some_and(|near| near.starts_with("only, but")), "{cut:?}");
    assert!(cut.open_s.is_some() && cut.passes);
    let refused = try_change(&running, lockdown(), false);
    assert!(!refused.done && refused.obstacles[0].contains("max-denied-ratio"), "{refused:?}");
    assert!(running.passes(40_000, 502) && running.passes(40_001, 503), "nothing has changed");

    // A sound one is put in force, and the session goes on.
    let sound = policy(502).replace("tcp/502", "[tcp/502, tcp/503]");
    stage(&running, &sound);
    assert!(running.passes(40_000, 502) && running.passes(40_001, 503));
    wait("the flows were asked about", || staged(&running).passing == 2);
    assert_eq!(staged(&running).obstacles, Vec::<String>::new());
    let done = change(&running, lockdown());
    assert!(done.publish_us.is_some(), "{done:?}");
    assert!(running.passes(40_000, 502) && running.passes(40_001, 503));
    assert!(!running.passes(40_002, 22), "whoever has no rule reaches nothing");
    assert!(staged(&running).staged.is_none());
    assert_eq!(running.metric("bulkhead_wire_mode{wire=\"line3\",mode=\"enforce\"}"), Some(1.0));
    running.stop().0.unwrap();

    // Neither the policy's file nor the configuration knows of it.
    let running = Running::start(dir.path(), "observe", AT_ONCE);
    running.wait_ready();
    assert!(running.passes(41_000, 503) && !running.passes(41_001, 22));
    assert!(history(&running).pinned);
    change(&running, Change::Observe { wires: vec!["line3".to_owned()] });
    assert!(running.passes(41_002, 22));
    running.stop().0.unwrap();
    let expected = [
        "start", "refused", "stage", "refused", "stage", "lockdown", "stop", "start", "mode",
        "stop",
    ];
    assert_eq!(whats(dir.path()), expected);
    let entries = audit(dir.path());
    let locked = entries.iter().find(|entry| entry.what == "lockdown").unwrap();
    assert_eq!(locked.reason.as_deref(), Some("CHG-1"));
    assert!(locked.who.uid.is_some() && locked.policy_before != locked.policy_after);
}

#[test]
fn what_a_staged_policy_would_cut_is_forgotten_by_no_change_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "observe", &policy(502));
    stage(&running, &policy(503));
    // One that would be cut, and is silent from then on, and one that would not.
    assert!(running.passes(40_000, 502) && running.passes(40_001, 503));
    wait("the flows were asked about", || staged(&running).flows == 2);
    let is_refused = |after: &str| {
        let flows = (40_100..40_110).all(|port| running.passes(port, 503));
        assert!(flows, "the wire observes");
        wait("the flows were asked about", || staged(&running).passing >= 10);
        let report = try_change(&running, lockdown(), false);
        let why = report.obstacles.iter().any(|why| why.contains("max-denied-ratio"));
        assert!(!report.done && why, "{after}: {report:?}");
        let report = staged(&running);
        assert_eq!((report.cut, report.cut_by_default), (1, 1), "{after}: {report:?}");
        assert!(report.differing.iter().any(|flow| flow.flow.contains(":502")), "{report:?}");
    };
    is_refused("nothing");
    let name = change(&running, grant("tcp/24", 3600)).name.unwrap();
    is_refused("a grant");
    change(&running, Change::Revoke { name });
    is_refused("its end");
    change(&running, quarantine("10.20.0.99"));
    is_refused("a quarantine");
    running.write_policy(&policy(504));
    assert!(running.reload().outcome.is_success());
    is_refused("a reload");
    change(&running, Change::Rollback { version: None });
    is_refused("a rollback");
    // What is granted is cut no more, and the hours of staging still count.
    let name = change(&running, grant("tcp/502", 3600)).name.unwrap();
    let report = staged(&running);
    assert_eq!((report.cut, report.obstacles.len()), (0, 0), "{report:?}");
    assert!(report.differing.iter().all(|flow| !flow.flow.contains(":502")), "{report:?}");
    // With the grant's end, or its time's, it is cut again, though it is still silent.
    change(&running, Change::Revoke { name });
    let report = staged(&running);
    assert_eq!((report.cut, report.cut_by_default, report.obstacles.len()), (1, 1, 1));
    assert!(report.differing.iter().any(|flow| flow.flow.contains(":502")), "{report:?}");
    change(&running, grant("tcp/502", 4));
    assert_eq!(staged(&running).obstacles, Vec::<String>::new());
    wait("the time of the grant is over", || staged(&running).obstacles.len() == 1);
    let report = staged(&running);
    assert!(report.passing >= 10 && report.staged.is_some_and(|staged| staged.restarts == 0));
    // Whoever stages anew begins anew.
    stage(&running, &policy(503));
    assert_eq!(staged(&running).passing, 0);
}

#[test]
fn a_staged_policy_survives_a_restart_with_what_was_seen_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "observe", &policy(502));
    stage(&running, &policy(503));
    assert!(running.passes(40_000, 502) && running.passes(40_001, 503));
    wait("the flows were asked about", || staged(&running).flows == 2);
    thread::sleep(Duration::from_millis(1100));
    let before = staged(&running);
    running.stop().0.unwrap();

    let running = Running::start(dir.path(), "observe", AT_ONCE);
    running.wait_ready();
    wait("it is staged again", || staged(&running).staged.is_some());
    let report = staged(&running);
    assert_eq!((report.flows, report.passing, report.cut_by_default), (2, 2, 1), "{report:?}");
    assert_eq!(report.rules, before.rules);
    let shown = report.staged.unwrap();
    assert_eq!(shown.hash, before.staged.unwrap().hash);
    assert!(shown.age_s >= 1 && shown.restarts == 1, "{shown:?}");
    let refused = try_change(&running, lockdown(), false);
    assert!(!refused.done && refused.obstacles[0].contains("max-denied-ratio"), "{refused:?}");
    // What was cut in an earlier run is no more than a figure: no grant takes it out.
    let name = change(&running, grant("tcp/502", 3600)).name.unwrap();
    let report = staged(&running);
    assert_eq!((report.cut_by_default, report.cut_in_earlier_runs), (1, 1), "{report:?}");
    assert!(report.obstacles[0].contains("`bulkhead stage` once more"), "{report:?}");
    change(&running, Change::Revoke { name });
    // The workers ask it, too.
    assert!((41_000..41_003).all(|port| running.passes(port, 502)));
    wait("the flows were asked about", || staged(&running).cut == 3);
    running.stop().0.unwrap();

    // What was damaged meanwhile is not what anybody has staged.
    fs::write(dir.path().join("state/staged/new.yaml"), policy(1)).unwrap();
    let running = Running::start(dir.path(), "observe", AT_ONCE);
    running.wait_ready();
    wait("that is told", || {
        audit(dir.path()).iter().any(|entry| entry.detail.contains("staged no longer"))
    });
    assert!(staged(&running).staged.is_none());
    // Nor does what was put in force, or dropped, come back.
    stage(&running, &policy(503));
    change(&running, Change::Unstage {});
    running.stop().0.unwrap();
    let running = Running::start(dir.path(), "observe", AT_ONCE);
    running.wait_ready();
    assert!(running.passes(42_000, 502) && staged(&running).staged.is_none());
    assert!(!dir.path().join("state/staged.json").exists());
}

#[test]
fn a_staged_text_that_could_not_be_kept_is_kept_later() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, file) = (dir.path().join("state/staged"), dir.path().join("state/staged.json"));
    let running = start(dir.path(), "observe", &policy(502));
    fs::write(&texts, "no folder").unwrap();
    let report = stage(&running, &policy(503));
    assert!(report.findings.iter().any(|finding| finding.code == "not-kept"), "{report:?}");
    let report = change(&running, grant("tcp/24", 3600));
    assert!(report.findings.iter().any(|finding| finding.code == "not-kept"), "{report:?}");
    assert!(!file.exists(), "it would say that something is kept");
    fs::remove_file(&texts).unwrap();
    change(&running, grant("tcp/25", 3600));
    assert!(file.exists() && texts.join("new.yaml").exists());
    running.stop().0.unwrap();
    let running = Running::start(dir.path(), "observe", AT_ONCE);
    running.wait_ready();
    wait("it is staged again", || staged(&running).staged.is_some());
    running.stop().0.unwrap();

    // That the texts are gone is said once.
    fs::remove_dir_all(&texts).unwrap();
    for _ in 0..2 {
        let running = Running::start(dir.path(), "observe", AT_ONCE);
        running.wait_ready();
        wait("it was looked for", || !file.exists());
        assert!(staged(&running).staged.is_none());
        running.stop().0.unwrap();
    }
    let told = audit(dir.path()).iter().filter(|e| e.detail.contains("staged no longer")).count();
    assert_eq!(told, 1);
}

#[test]
fn what_is_forced_is_entered_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "observe", &policy(502));
    stage(&running, &policy(22));
    assert!(running.passes(40_000, 502));
    let order = Ask::Change { change: lockdown(), reason: None, force: true, on_behalf_of: None };
    let Ok(Answer::Change(refused)) = ask(&running.socket(), order) else { panic!("no answer") };
    assert!(!refused.done && refused.what.contains("--reason"), "{refused:?}");
    assert!(try_change(&running, lockdown(), true).done);
    assert!(!running.passes(40_000, 502) && running.passes(40_001, 22));
    running.stop().0.unwrap();
    let entries = audit(dir.path());
    let forced = entries.iter().find(|entry| entry.what == "lockdown").unwrap();
    assert!(forced.detail.contains("forced although"), "{forced:?}");
}

#[test]
fn a_bad_policy_is_not_staged_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "observe", &policy(502));
    let bad = policy(22).replace("to: plc", "to: plcs");
    let report = try_change(&running, Change::Stage { policy: texts(&bad) }, false);
    assert!(!report.done && report.findings[0].rendered.contains("did you mean `plc`?"));
    assert!(staged(&running).staged.is_none());
    // A long one comes over the socket whole; what is longer than any policy does not.
    let long = format!("{}{}", policy(502), "# a line\n".repeat(20_000));
    stage(&running, &long);
    let mut stream = UnixStream::connect(running.socket()).unwrap();
    let endless = vec![b'x'; 1 << 20];
    while stream.write_all(&endless).is_ok() {}
    assert!(running.gateway.is_ready() && staged(&running).staged.is_some());
}

#[test]
fn a_grant_ends_in_the_worker_and_guardrails_outrank_it() {
    let dir = tempfile::tempdir().unwrap();
    let guarded = policy(502).replace(
        "rules:\n",
        "rules:\n  - {name: no-telnet, from: any, to: any, service: tcp/23, action: deny}\n",
    );
    let running = start(dir.path(), "enforce", &guarded);
    assert!(!running.passes(40_000, 22));
    let refused = try_change(&running, grant("tcp/23", 60), false);
    assert!(!refused.done && refused.what.contains("no-telnet"), "{refused:?}");
    let refused = try_change(&running, grant("tcp/22", 31 * 86_400), false);
    assert!(!refused.done, "{refused:?}");
    for injected in ["tcp/22, action: allow}", "\"any\"\n  - name: x", "[tcp/22"] {
        let report = try_change(&running, grant(injected, 60), false);
        assert!(!report.done, "{injected}: {report:?}");
    }

    let report = change(&running, grant("tcp/22", 3));
    let begun = Instant::now();
    let name = report.name.unwrap();
    assert!(running.passes(40_001, 22));
    assert_eq!(exceptions(&running).grants[0].name, name);
    change(&running, grant("tcp/24", 3600));
    assert!(running.passes(40_002, 24));
    // A restart knows of both.
    running.stop().0.unwrap();
    let running = Running::start(dir.path(), "enforce", AT_ONCE);
    running.wait_ready();
    assert!(running.passes(40_002, 24));
    thread::sleep(Duration::from_millis(3100).saturating_sub(begun.elapsed()));
    assert!(!running.passes(40_003, 22), "its time is over");
    assert!(running.passes(40_002, 24), "the other one's is not");
    change(&running, Change::Revoke { name: "grant-2".to_owned() });
    assert!(!running.passes(40_002, 24), "a flow ends with the grant that permitted it");
    wait("the end of the grant is entered", || whats(dir.path()).contains(&"expired".to_owned()));
    assert!(exceptions(&running).grants.is_empty());
}

#[test]
fn a_grant_that_is_over_is_gone_even_for_a_clock_that_is_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    let name = change(&running, grant("tcp/22", 1)).name.unwrap();
    let rules = || {
        let state = running.gateway.policy();
        let policy = &state.publisher.as_ref().unwrap().current().content.policy;
        policy.order().map(|rule| policy.rule_name(rule).to_owned()).collect::<Vec<_>>()
    };
    assert!(running.passes(40_000, 22) && rules().contains(&name));
    wait("the end of the grant is entered", || whats(dir.path()).contains(&"expired".to_owned()));
    wait("the workers judge without it", || !rules().contains(&name));
    {
        let mut state = running.gateway.policy();
        let publisher = state.publisher.as_mut().unwrap();
        let mut content = publisher.current().content.clone();
        content.clock.offset_ms -= 3_600_000;
        publisher.publish(content);
    }
    assert!(!running.passes(40_001, 22) && running.passes(40_002, 502));
    let entries = audit(dir.path());
    let expired = entries.iter().find(|entry| entry.what == "expired").unwrap();
    assert!(expired.policy_before != expired.policy_after, "{expired:?}");
}

#[test]
fn a_quarantine_stands_in_the_way_of_no_grant_but_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    // A frame of the engineer's address with this MAC address would be denied: that is no reason.
    change(&running, quarantine("02:00:00:00:66:66"));
    change(&running, grant("tcp/22", 60));
    change(&running, quarantine("10.20.0.11"));
    let refused = try_change(&running, grant("tcp/24", 60), false);
    assert!(!refused.done && refused.what.contains("quarantine"), "{refused:?}");
}

#[test]
fn a_grant_that_a_new_policy_does_not_admit_keeps_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    change(&running, grant("tcp/22", 3600));
    assert!(running.passes(40_000, 22));
    running.write_policy(&policy(502).replace("hmi", "panel"));
    let report = running.reload();
    assert!(report.outcome.is_success(), "{report:?}");
    assert!(report.findings.iter().any(|finding| finding.code == "grant-suspended"), "{report:?}");
    assert!(!running.passes(40_000, 22) && running.passes(40_001, 502));
    assert!(exceptions(&running).grants[0].suspended);
    running.write_policy(&policy(502));
    assert!(running.reload().outcome.is_success());
    assert!(running.passes(40_002, 22), "it makes sense again");
}

#[test]
fn a_quarantine_holds_at_once_on_an_observing_wire_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "observe", &policy(502));
    assert!(running.passes(40_000, 502));
    let unknown = try_change(&running, quarantine("plc-99"), false);
    assert!(!unknown.done, "{unknown:?}");
    change(&running, quarantine("10.20.0.11"));
    assert!(!running.passes(40_000, 502), "what it had open ends");
    assert!(!running.passes(40_001, 22));
    running.stop().0.unwrap();
    let running = Running::start(dir.path(), "observe", AT_ONCE);
    running.wait_ready();
    assert!(!running.passes(40_002, 22));
    // No change of the files lifts it, nor does a rollback.
    running.write_policy(&policy(22));
    assert!(running.reload().outcome.is_success());
    assert!(!running.passes(40_003, 22));
    change(&running, Change::Rollback { version: None });
    assert!(!running.passes(40_004, 502));
    change(&running, Change::Release { device: "10.20.0.11".to_owned() });
    assert!(running.passes(40_005, 502));
}

#[test]
fn a_quarantine_leaves_others_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    let long = "2001:db8:1234:5678:9abc:def0:1234:567";
    let devices: Vec<String> = (0..3).map(|last| format!("{long}{last}")).collect();
    for device in &devices {
        change(&running, quarantine(device));
    }
    // Another way to write it is the same device.
    change(&running, quarantine(&devices[0].to_ascii_uppercase()));
    assert_eq!(exceptions(&running).quarantines.len(), 3);
    change(&running, Change::Release { device: devices[0].clone() });
    let left = exceptions(&running).quarantines;
    let left: Vec<&str> = left.iter().map(|quarantine| quarantine.device.as_str()).collect();
    assert_eq!(left, [&devices[1], &devices[2]]);
}

#[test]
fn a_rollback_stands_until_the_files_change() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    running.write_policy(&policy(22));
    assert!(running.reload().outcome.is_success());
    assert!(running.passes(40_000, 22) && !running.passes(40_001, 502));
    assert_eq!(history(&running).versions.len(), 2);
    change(&running, Change::Rollback { version: Some(1) });
    assert!(!running.passes(40_000, 22) && running.passes(40_002, 502));
    let after = history(&running);
    assert!(after.pinned && after.in_force == 3, "{after:?}");
    assert_eq!(fs::read_to_string(dir.path().join("policy.yaml")).unwrap(), policy(22));
    running.stop().0.unwrap();
    let running = Running::start(dir.path(), "enforce", AT_ONCE);
    running.wait_ready();
    assert!(running.passes(40_003, 502) && !running.passes(40_004, 22));
    let none = try_change(&running, Change::Rollback { version: Some(99) }, false);
    assert!(!none.done, "{none:?}");
    running.write_policy(&policy(503));
    wait("the changed file is in force", || running.passes(40_005, 503));
    let after = history(&running);
    assert!(!after.pinned && after.in_force == 4, "{after:?}");
    // Whoever asks for the files gets them, though they have not changed.
    change(&running, Change::Rollback { version: None });
    assert!(!running.passes(40_006, 503));
    assert!(running.reload().outcome.is_success());
    assert!(running.passes(40_007, 503));
}

#[test]
fn a_version_that_is_gone_leaves_the_files_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    running.write_policy(&policy(22));
    assert!(running.reload().outcome.is_success());
    change(&running, Change::Rollback { version: Some(1) });
    assert!(running.passes(40_000, 502));
    running.stop().0.unwrap();
    fs::remove_dir_all(dir.path().join("state/history")).unwrap();
    let running = Running::start(dir.path(), "enforce", AT_ONCE);
    running.wait_ready();
    assert!(running.passes(40_001, 22) && !running.passes(40_002, 502));
    assert!(!history(&running).pinned);
    running.stop().0.unwrap();
    let entries = audit(dir.path());
    let told = |entry: &&Entry| entry.detail.starts_with("version 3, which stood");
    assert!(entries.iter().any(|entry| told(&entry)), "{entries:?}");
}

#[test]
fn a_lockdown_that_the_history_cannot_take_survives_a_restart() {
    for breaks in [
        |state: &Path| fs::write(state.join("history/versions.json"), "[").unwrap(),
        |state: &Path| {
            fs::remove_dir_all(state.join("history")).unwrap();
            fs::write(state.join("history"), "no folder").unwrap();
        },
    ] {
        let dir = tempfile::tempdir().unwrap();
        let running = start(dir.path(), "observe", &policy(502));
        breaks(&dir.path().join("state"));
        stage(&running, &policy(503));
        let report = try_change(&running, lockdown(), true);
        assert!(report.done && report.findings.iter().any(|f| f.code == "not-kept"), "{report:?}");
        assert!(running.passes(40_000, 503) && !running.passes(40_001, 22));
        running.stop().0.unwrap();
        // The version that was kept before is not what was locked down: the files are in force.
        let running = Running::start(dir.path(), "observe", AT_ONCE);
        running.wait_ready();
        let mode = "bulkhead_wire_mode{wire=\"line3\",mode=\"enforce\"}";
        assert_eq!(running.metric(mode), Some(1.0));
        assert!(running.passes(40_002, 502) && !running.passes(40_003, 22));
    }
}

#[test]
fn exceptions_that_cannot_be_read_now_are_neither_lost_nor_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    change(&running, grant("tcp/24", 3600));
    change(&running, quarantine("10.20.0.11"));
    running.stop().0.unwrap();
    // A link to itself is an error of the file system, and no damage.
    let (file, away) = (dir.path().join("state/exceptions.json"), dir.path().join("away"));
    fs::rename(&file, &away).unwrap();
    symlink(&file, &file).unwrap();
    let running = Running::start(dir.path(), "enforce", AT_ONCE);
    running.wait_ready();
    assert!(running.passes(40_000, 502), "nobody knows of the quarantine");
    let report = change(&running, grant("tcp/22", 3600));
    assert!(report.findings.iter().any(|finding| finding.code == "not-kept"), "{report:?}");
    assert!(running.passes(40_001, 22));
    assert!(fs::symlink_metadata(&file).unwrap().is_symlink(), "it was written over");
    fs::remove_file(&file).unwrap();
    fs::rename(&away, &file).unwrap();
    wait("the quarantine holds again", || !running.passes(40_002, 502));
    let names: Vec<_> = exceptions(&running).grants.into_iter().map(|grant| grant.name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    change(&running, Change::Release { device: "10.20.0.11".to_owned() });
    assert!(running.passes(40_003, 22) && running.passes(40_004, 24));
}

#[test]
fn a_quarantine_that_is_read_late_holds_even_where_its_services_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let named = policy(502).replace("rules:\n", "services:\n  upkeep: tcp/22\nrules:\n");
    let running = start(dir.path(), "enforce", &named);
    let (device, allow) = ("10.20.0.11".to_owned(), vec!["upkeep".to_owned()]);
    change(&running, Change::Quarantine { device, allow });
    assert!(running.passes(40_000, 22) && !running.passes(40_001, 502));
    running.stop().0.unwrap();
    let (file, away) = (dir.path().join("state/exceptions.json"), dir.path().join("away"));
    fs::rename(&file, &away).unwrap();
    symlink(&file, &file).unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    assert!(running.passes(40_002, 502), "nobody knows of the quarantine");
    fs::remove_file(&file).unwrap();
    fs::rename(&away, &file).unwrap();
    wait("the quarantine holds again", || !running.passes(40_003, 502));
    assert!(!running.passes(40_004, 22), "nobody knows what `upkeep` is");
    let told = |entry: &Entry| entry.detail.contains("1 quarantines; they hold, but what");
    wait("that is entered", || audit(dir.path()).iter().any(told));
}

#[test]
fn without_a_log_what_loosens_is_refused_and_what_tightens_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "enforce", &policy(502));
    let log = dir.path().join("state").join(LOG_FILE);
    let kept = fs::read(&log).unwrap();
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    for loosening in [grant("tcp/22", 60), Change::Observe { wires: Vec::new() }] {
        let report = try_change(&running, loosening, false);
        assert!(!report.done && report.what.contains("audit log"), "{report:?}");
    }
    running.write_policy(&policy(22));
    let report = running.reload();
    assert!(!report.outcome.is_success() && report.findings[0].code == "not-audited", "{report:?}");
    assert!(!running.passes(40_000, 22) && running.passes(40_001, 502));
    change(&running, quarantine("10.20.0.11"));
    assert!(!running.passes(40_002, 502));
    assert_eq!(running.metric("bulkhead_audit_entries_missing"), Some(1.0));
    fs::remove_dir(&log).unwrap();
    fs::write(&log, &kept).unwrap();
    wait("the entry is written", || whats(dir.path()).contains(&"quarantine".to_owned()));
}
