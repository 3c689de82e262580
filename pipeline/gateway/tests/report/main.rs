//! `bulkhead report`: of a real gateway with its learning process, of nothing, and as it is printed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::learning::report::StoreArgs;
use bulkhead_gateway::report::collect::collect;
use bulkhead_gateway::report::{
    Assertion, Asset, AuditState, Change, Conduit, Conversation, DefaultDeny, Exception, Observed,
    PolicyInForce, Report, ReportArgs, ReportFormat, Scope, Telemetry, Unavailable, WireInScope,
    Zone, ZoneAccess, ZoneReach, html, page, standards,
};
use bulkhead_gateway::workflow::Change as Order;
use common::{Running, wait};
use serde_json::Value;

const POLICY: &str = "\
version: 1
groups:
  hmi: [10.20.0.11]
  plc: [10.30.3.0/24]
rules:
  - {name: only, from: hmi, to: plc, service: tcp/502, action: allow, reason: CHG-1042 line 3}
  - {name: spare, from: hmi, to: plc, service: tcp/102, action: allow}
assert:
  - {from: any, to: plc, service: tcp/22, must: not-reach}
";

/// A running process, ended with the test.
struct Learner(Child);

impl Drop for Learner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bulkhead(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

fn asked(folder: &Path, socket: Option<PathBuf>) -> ReportArgs {
    let store = Some(folder.join("learn"));
    let config = folder.join("none.toml");
    let store = StoreArgs { config, store, since: None, until: None };
    ReportArgs { store, socket, format: ReportFormat::Text, json: false }
}

#[test]
fn a_report_says_what_the_gateway_did() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    let running = Running::start(dir.path(), "enforce", "records-socket = \"records.sock\"\n");
    running.wait_ready();
    let learn = ["learn", "--config", "none.toml", "--socket", "records.sock", "--dir", "learn"];
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let _learner = Learner(bulkhead(dir.path(), &learn).stderr(log).spawn().unwrap());
    assert!(running.passes(40_000, 502));
    assert!(!running.passes(40_001, 22));
    let (from, to) = ("10.20.0.11".to_owned(), "10.30.3.11".to_owned());
    let change = Order::Grant { from, to, service: "tcp/80".to_owned(), for_s: 600 };
    let reason = Some("OPS-7 firmware".to_owned());
    let order = Ask::Change { change, reason, force: false, on_behalf_of: None };
    let answer = ask(&running.socket(), order);
    assert!(matches!(&answer, Ok(Answer::Change(report)) if report.done), "{answer:?}");
    let status = ["learn", "--config", "none.toml", "--socket", "x", "--dir", "learn", "--status"];
    wait("both conversations are stored", || {
        let output = bulkhead(dir.path(), &status).arg("--json").output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["counters"]["flows-read"].as_u64() >= Some(2)
            && status["edges-waiting"] == 0
            && status["batches"].as_u64() > Some(0)
    });
    let report = collect(&asked(dir.path(), Some(running.socket()))).unwrap();
    assert_eq!(report.scope.wires[0].mode, "enforce");
    assert_eq!((report.scope.wires[0].received, report.scope.wires[0].dropped), (2, 1));
    let names: Vec<&str> = report.zones.iter().map(|zone| zone.name.as_str()).collect();
    assert_eq!(names, ["hmi", "plc"]);
    let conduit = |name: &str| report.conduits.iter().find(|c| c.rule == name).unwrap().clone();
    let only = conduit("only");
    assert_eq!((only.hits, only.tickets.as_slice()), (Some(1), &["CHG-1042".to_owned()][..]));
    assert!(only.last_hit.is_some() && only.owner.is_none());
    assert_eq!((conduit("spare").hits, conduit("spare").last_hit), (Some(0), None));
    let observed = report.observed.as_ref().unwrap();
    assert!(observed.unused.contains(&"spare".to_owned()), "{observed:?}");
    let [refused] = &observed.not_permitted[..] else { panic!("{observed:?}") };
    assert_eq!((refused.service.as_str(), refused.denied_packets), ("tcp/22", 1));
    let denial = report.default_deny.as_ref().unwrap();
    assert_eq!((denial.default.as_str(), denial.hits), ("deny", Some(1)));
    assert!(denial.assertions[0].holds);
    let plc = denial.reach.iter().find(|reach| reach.zone == "plc").unwrap();
    let services: Vec<&str> = plc.access.iter().map(|access| access.service.as_str()).collect();
    assert!(plc.complete && !services.iter().any(|service| service.contains("22")), "{plc:?}");
    assert_eq!(report.exceptions[0].reason.as_deref(), Some("OPS-7 firmware"));
    assert!(report.assets.iter().any(|asset| asset.zones == ["plc"]), "{:?}", report.assets);
    assert!(report.events.iter().any(|event| event.about == "start"));
    assert!(report.changes.iter().any(|change| change.about == "grant"));
    let audit = report.audit.as_ref().unwrap();
    assert!(audit.verified && !audit.more);
    assert_eq!(audit.entries as usize, report.events.len() + report.changes.len());
    // No configuration was to be had, and that is said.
    assert_eq!(report.unavailable.len(), 1, "{:?}", report.unavailable);
    assert_eq!(report.unavailable[0].what, "the configuration");
    let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again, report, "the JSON form is whole");
    // The command prints it, and a time without anything leaves changes out.
    let arguments =
        ["report", "--config", "none.toml", "--store", "learn", "--socket", "control.sock"];
    let run = |more: &[&str]| bulkhead(dir.path(), &arguments).args(more).output().unwrap();
    let html = run(&["--format", "html"]);
    assert!(html.status.success() && html.stdout.starts_with(b"<!doctype html>"), "{html:?}");
    let future = run(&["--json", "--since", "2100-01-01T00:00:00Z"]);
    let future: Report = serde_json::from_slice(&future.stdout).unwrap();
    assert!(future.changes.is_empty() && future.events.is_empty() && !future.conduits.is_empty());
    assert_eq!(run(&["--since", "yesterday"]).status.code(), Some(1));
}

#[test]
fn without_a_gateway_it_says_what_is_missing_and_without_anything_it_fails() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = collect(&asked(dir.path(), None)).unwrap_err();
    assert!(nothing.message.contains("the communication store"), "{}", nothing.message);
    fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    let running = Running::start(dir.path(), "enforce", "");
    running.wait_ready();
    // A gateway, and no store.
    let report = collect(&asked(dir.path(), Some(running.socket()))).unwrap();
    assert!(report.observed.is_none() && !report.conduits.is_empty());
    assert!(report.unavailable.iter().any(|u| u.what.contains("communication store")));
    assert!(page::text(&report).contains("Not available."));
}

fn text(text: &str) -> String {
    text.to_owned()
}

/// A report with something in every part.
fn sample() -> Report {
    let at = || Some(text("2026-11-24T06:00:00Z"));
    let change = |sequence, about: &str, detail: &str| Change {
        sequence,
        time: text("2026-11-24T05:00:00Z"),
        who: text("ada (by bulkhead-console)"),
        about: text(about),
        detail: text(detail),
        reason: Some(text("CHG-1042")),
        policies: Some([text(""), text("5f0c3a9d2b7e1144")]),
    };
    Report {
        format: 1,
        made: text("2026-11-24T06:00:00Z"),
        made_by: text("bulkhead 0.1.0"),
        host: Some(text("gw-3")),
        since: at(),
        until: None,
        scope: Scope {
            gateway: Some(text("0.1.0")),
            uptime_s: Some(86_400),
            clock_source: Some(text("kernel")),
            clock_synchronised: Some(true),
            wires: vec![WireInScope {
                name: text("plc-1"),
                mode: text("enforce"),
                fail: Some(text("closed")),
                inside: [text("ens1f0"), text("net_ixgbe"), text("up")],
                outside: [text("ens1f1"), text("net_ixgbe"), text("up")],
                received: 1_000,
                dropped: 7,
                would_drop: 0,
            }],
        },
        policy: Some(PolicyInForce {
            source: text("/etc/bulkhead/policy"),
            hash: text("5f0c3a9d2b7e1144"),
            rules: 2,
            age_s: 3_600,
            fallback: false,
            standing: vec![text("1 grants (`bulkhead grants`)")],
        }),
        assets: vec![Asset {
            name: Some(text("plc-a")),
            mac: Some(text("02:1b:1d:00:30:01")),
            vendor: None,
            addresses: vec![text("10.30.3.11")],
            role: text("server"),
            place: text("plc-1 inside"),
            zones: vec![text("plc")],
            first_seen: at(),
            last_seen: at(),
        }],
        zones: vec![Zone {
            name: text("plc"),
            kind: text("group"),
            members: vec![text("10.30.3.0/24")],
            except: vec![text("10.30.3.99")],
        }],
        conduits: vec![Conduit {
            rule: text("hmi-to-plc"),
            at: text("policy.yaml:6"),
            from: text("hmi"),
            to: text("plc"),
            service: text("tcp/502"),
            purpose: Some(text("CHG-1042 line 3")),
            tickets: vec![text("CHG-1042")],
            hits: Some(12),
            last_hit: at(),
            expires: at(),
            ..Conduit::default()
        }],
        default_deny: Some(DefaultDeny {
            default: text("deny"),
            hits: Some(7),
            assertions: vec![Assertion {
                holds: true,
                says: text("holds, proved for every packet"),
            }],
            reach: vec![
                ZoneReach {
                    zone: text("plc"),
                    access: vec![ZoneAccess {
                        from: text("10.20.0.11"),
                        service: text("tcp/502"),
                        rule: text("hmi-to-plc"),
                    }],
                    complete: true,
                },
                ZoneReach { zone: text("hmi"), access: Vec::new(), complete: true },
            ],
        }),
        observed: Some(Observed {
            conversations: 3,
            permitted: 2,
            unused: vec![text("spare")],
            not_permitted: vec![Conversation {
                client: text("10.66.0.66"),
                server: text("plc-a (10.30.3.11)"),
                service: text("tcp/22"),
                denied_packets: 7,
                let_through: 0,
                rule: text("default"),
                last_seen: at(),
            }],
            more: 0,
        }),
        exceptions: vec![Exception {
            kind: text("grant"),
            what: text("grant-1: 10.20.0.11 to 10.30.3.11, tcp/80"),
            who: text("root"),
            reason: Some(text("OPS-7")),
            since: at(),
            until: at(),
        }],
        events: vec![change(3, "mode", "plc-1 enforces")],
        changes: vec![change(4, "policy", "the policy's files were taken into force")],
        audit: Some(AuditState { verified: true, broken: None, entries: 2, more: false }),
        telemetry: Some(Telemetry {
            in_flight: Some(0),
            gateway_lost: Some(0),
            store: [(text("flows-read"), 120), (text("flows-lost"), 1)].into(),
        }),
        unavailable: vec![Unavailable { what: text("x"), why: text("y") }],
        not_shown: standards::not_shown(),
        standards: standards::requirements(),
    }
}

#[test]
fn it_is_printed_as_it_was_looked_at() {
    let shown = page::text(&sample());
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/sample.txt");
    if fs::read_to_string(&kept).unwrap_or_default() != shown {
        let now = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sample.txt");
        fs::write(&now, &shown).unwrap();
        panic!("{} is not what is printed now, {}:\n{shown}", kept.display(), now.display());
    }
}

#[test]
fn it_judges_nobody() {
    let report = sample();
    let json = serde_json::to_string(&report).unwrap();
    for form in [page::text(&report), html::html(&report), json] {
        let lower = form.to_lowercase();
        for word in ["complian", "certif", "conform"] {
            assert!(!lower.contains(word), "{word}: that is for people to judge");
        }
        for standard in ["SR 5.1", "SR 5.2", "SEMI E187", "800-82r3"] {
            assert!(form.contains(standard), "{standard}");
        }
    }
}

#[test]
fn an_audit_log_that_is_not_whole_is_the_first_thing_that_is_said_of_it() {
    let mut report = sample();
    let broken = Some(text("line 3: the hash is wrong"));
    report.audit = Some(AuditState { verified: false, broken, entries: 1, more: false });
    assert!(page::text(&report).contains("THE AUDIT LOG IS NOT WHOLE: line 3"));
}
