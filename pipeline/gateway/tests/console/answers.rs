//! What is answered, and that changes are entered with who, for whom and why.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bulkhead_gateway::console::access::Role;
use bulkhead_gateway::report::Report;
use serde_json::{Value, json};

use crate::site::{Site, Visitor};

#[test]
fn a_change_is_entered_with_who_and_why() {
    let site = Site::new();
    let operator = site.visitor(Role::Operator);
    let path = "/devices/10.20.0.12/quarantine";
    assert_eq!(site.post(path, &operator, json!({})).status, 400, "a reason is asked for");
    assert_eq!(site.post(path, &operator, json!({"reason": "  "})).status, 400);
    let done = site.post(path, &operator, json!({"reason": "CHG-7 it scans"}));
    assert_eq!((done.status, &done.body["done"]), (200, &json!(true)), "{}", done.body);
    assert_eq!(site.running.gateway.policy().standing.overlay.quarantines.len(), 1);
    let audit = site.get("/audit", &operator);
    assert_eq!(audit.body["verified"], true, "{}", audit.body);
    let entries = audit.body["entries"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["what"] == "quarantine").unwrap();
    assert_eq!(entry["who"]["on-behalf-of"], "the.operator", "{entry}");
    assert_eq!(entry["reason"], "CHG-7 it scans");
    let released =
        site.ask("DELETE", &format!("/api/v1{path}"), &operator, Some(json!({"reason": "clean"})));
    assert_eq!(released.status, 200, "{}", released.body);
    assert_eq!(site.post("/lockdown", &operator, json!({"reason": "now"})).status, 400);
    let refused =
        site.post("/lockdown", &operator, json!({"reason": "now", "expect": "0".repeat(64)}));
    assert_eq!(refused.status, 409, "nothing is staged: {}", refused.body);
    let lines = site.post(path, &operator, json!({"reason": "CHG-8\n  812  root  rollback"}));
    assert_eq!(lines.status, 400, "a reason is one line: {}", lines.body);
}

#[test]
fn a_lockdown_is_of_what_was_looked_at_forced_or_not() {
    let site = Site::new();
    let operator = site.visitor(Role::Operator);
    let stage = |port: u16| {
        let files = json!([{"name": "policy.yaml", "text": crate::common::policy(port)}]);
        let staged =
            site.post("/policy/stage", &operator, json!({"reason": "CHG-9", "files": files}));
        assert_eq!(staged.status, 200, "{}", staged.body);
        site.get("/staged", &operator).body["staged"]["hash"].as_str().unwrap().to_owned()
    };
    let lock_down = |expect: &str| {
        let body = json!({"reason": "CHG-9", "force": true, "expect": expect});
        site.post("/lockdown", &operator, body)
    };
    let enforces = || site.get("/overview", &operator).body["gateway"]["wires"][0]["mode"].clone();
    let looked_at = stage(503);
    let other = stage(504);
    let refused = lock_down(&looked_at);
    assert_eq!(refused.status, 409, "another one was staged meanwhile: {}", refused.body);
    let gone = site.post("/policy/unstage", &operator, json!({"reason": "CHG-9"}));
    assert_eq!(gone.status, 200, "{}", gone.body);
    let refused = lock_down(&other);
    assert_eq!(refused.status, 409, "nothing is staged any more: {}", refused.body);
    assert!(refused.body["detail"].as_str().unwrap().contains("nothing is staged"));
    assert_eq!(enforces(), "observe");
    let done = lock_down(&stage(504));
    assert_eq!(done.status, 200, "{}", done.body);
    crate::common::wait("the wire enforces", || enforces() == "enforce");
}

#[test]
fn files_are_taken_in_the_order_of_their_names_and_none_twice() {
    let site = Site::new();
    let operator = site.visitor(Role::Operator);
    let rest = "version: 1\nrules:\n  - {name: last, from: hmi, to: plc, service: tcp/503, action: allow}\n";
    let file = |name: &str, text: &str| json!({"name": name, "text": text});
    let stage = |files: Value| {
        site.post("/policy/stage", &operator, json!({"reason": "CHG-9", "files": files}))
    };
    let policy = crate::common::policy(502);
    let staged = stage(json!([file("80-b.yaml", rest), file("00-a.yaml", &policy)]));
    assert_eq!(staged.status, 200, "{}", staged.body);
    let hash = |site: &Site| site.get("/staged", &operator).body["staged"]["hash"].clone();
    let first = hash(&site);
    stage(json!([file("00-a.yaml", &policy), file("80-b.yaml", rest)]));
    assert_eq!(hash(&site), first, "the same policy");
    for names in [["a/x.yaml", "b/x.yaml"], ["x.yaml", &"x".repeat(252)]] {
        let refused = stage(json!([file(names[0], &policy), file(names[1], rest)]));
        assert_eq!(refused.status, 409, "{}", refused.body);
    }
}

#[test]
fn the_map_shows_what_is_used_and_what_would_be_blocked() {
    let site = Site::new();
    let viewer = site.visitor(Role::Viewer);
    let matrix = site.get("/map/matrix", &viewer).body;
    let cells = matrix["cells"].as_array().unwrap();
    let cell = |from: &str, to: &str| -> Value {
        let found = cells.iter().find(|cell| cell["from"] == from && cell["to"] == to);
        found.unwrap_or_else(|| panic!("{from} -> {to} in {matrix}")).clone()
    };
    let used = cell("hmi", "plc");
    assert_eq!((&used["state"], &used["connections"]), (&json!("used"), &json!(1)));
    assert_eq!(used["services"], json!(["tcp/502"]));
    let stranger = cell("net-10.20.0.0-24", "plc");
    assert_eq!(stranger["state"], "would-block", "no rule names it, and the wire observes");
    let edges = site.get("/map/cell?from=hmi&to=plc", &viewer).body;
    let edge = &edges["items"][0];
    assert_eq!((&edge["client"], &edge["rule"]), (&json!("10.20.0.11"), &json!("only")), "{edges}");
    assert_eq!(edges["total"], 1);
    let blast = site.get("/map/blast?device=10.20.0.11", &viewer).body;
    assert_eq!((&blast["before"], &blast["after"]), (&json!(2), &json!(1)), "{blast}");
    assert_eq!(blast["steps"][0]["via"], json!(["only"]));
    let stranger = site.get("/map/blast?device=10.20.0.12", &viewer).body;
    assert_eq!(stranger["after"], 0, "{stranger}");
    for path in ["/map/cell?from=hmi&to=nobody", "/devices/nobody", "/map/group/nobody"] {
        assert_eq!(site.get(path, &viewer).status, 404, "{path}");
    }
    let device = site.get("/devices/10.30.3.11", &viewer).body;
    assert_eq!(
        (&device["role"], &device["groups"]),
        (&json!("server"), &json!(["plc"])),
        "{device}"
    );
    let flows = site.get("/flows?verdict=would-block&service=502", &viewer).body;
    assert_eq!(flows["total"], 1, "{flows}");
    // Of a stretch of time, its periods count; of another one, nothing.
    for (path, total) in [
        ("/flows?since=2026-01-01T00:00:00Z", 2),
        ("/flows?device=10.20.0.11&since=2026-01-01T00:00:00Z", 1),
        ("/flows?until=2026-01-01T00:00:00Z", 0),
        ("/flows?device=10.20.0.11&until=2026-01-01T00:00:00Z", 0),
        ("/map/cell?from=hmi&to=plc&since=2026-01-01T00:00:00Z", 1),
        ("/map/cell?from=hmi&to=plc&until=2026-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(site.get(path, &viewer).body["total"], total, "{path}");
    }
}

#[test]
fn the_policy_is_shown_checked_compared_and_explained() {
    let site = Site::new();
    let viewer = site.visitor(Role::Viewer);
    let policy = site.get("/policy", &viewer).body;
    assert_eq!(policy["rules"], 1, "{policy}");
    let text = policy["files"][0]["text"].as_str().unwrap().to_owned();
    let wrong = json!({"files": [{"name": "p.yaml", "text": text.replace("to: plc", "to: plx")}]});
    let checked = site.post("/policy/check", &viewer, wrong).body;
    assert_eq!(checked["ok"], false);
    assert_eq!(checked["diagnostics"][0]["line"], 6, "{checked}");
    let wider = json!({"files": [{"name": "p.yaml", "text": text.replace("502", "[502, 503]")}]});
    let wider = match site.post("/policy/check", &viewer, wider.clone()).body["ok"] == json!(true) {
        true => wider,
        false => {
            json!({"files": [{"name": "p.yaml", "text": text.replace("tcp/502", "[tcp/502, tcp/503]")}]})
        }
    };
    let diff = site.post("/policy/diff", &viewer, wider).body;
    let difference = &diff["differences"][0];
    assert_eq!(
        (&difference["before"], &difference["after"]),
        (&json!("deny"), &json!("allow")),
        "{diff}"
    );
    assert!(difference["witness"].as_str().unwrap().contains("503"), "{diff}");
    let packet = json!({"packet": "tcp 10.20.0.12 -> 10.30.3.11:502"});
    let explained = site.post("/policy/explain", &viewer, packet).body;
    assert_eq!((&explained["verdict"], &explained["rule"]), (&json!("deny"), &json!("default")));
    assert_eq!(explained["nearest"][0]["rule"], "only", "{explained}");
    let rules = site.get("/policy/rules?search=hmi", &viewer).body;
    assert_eq!((&rules["total"], &rules["items"][0]["line"]), (&json!(1), &json!(6)), "{rules}");
}

#[test]
fn a_gateway_that_is_gone_is_told_and_what_was_learnt_is_still_shown() {
    let site = Site::new();
    let viewer = site.visitor(Role::Viewer);
    assert_eq!(site.get("/overview", &viewer).body["gateway"]["wires"][0]["mode"], "observe");
    site.running.gateway.stop();
    crate::common::wait("the console sees that the gateway is gone", || {
        site.get("/overview", &viewer).body["gateway"].is_null()
    });
    let overview = site.get("/overview", &viewer).body;
    assert!(overview["unreachable"].as_str().unwrap().contains("no gateway answers"), "{overview}");
    assert_eq!(site.get("/policy/history", &viewer).status, 503);
    assert_eq!(site.get("/map/matrix", &viewer).status, 200);
    // A store that is damaged leaves the picture that there was.
    let store = site.folder.path().join("store/communication.db");
    std::fs::write(&store, vec![7; 8192]).unwrap();
    bulkhead_gateway::console::model::refresh(&site.console, None);
    let matrix = site.get("/map/matrix", &viewer);
    assert_eq!(matrix.status, 200);
    assert!(
        matrix.body["trouble"].as_str().is_some_and(|why| why.contains("damaged")),
        "{}",
        matrix.body
    );
    assert_eq!(site.get("/health", &Visitor::default()).body, json!({"ok": true}));
}

#[test]
fn a_blast_radius_is_known_of_what_is_proposed() {
    let site = Site::new();
    let operator = site.visitor(Role::Operator);
    let proposed = "/map/blast?device=10.20.0.11&policy=proposed";
    assert_eq!(site.get(proposed, &operator).status, 404, "nothing is proposed");
    let begun = site.post("/learning/proposals", &operator, json!({}));
    let id = begun.body["id"].as_str().unwrap().to_owned();
    crate::common::wait("the proposal is made", || {
        site.get(&format!("/learning/proposals/{id}"), &operator).body["state"] != "pending"
    });
    // Two periods are too short to learn a rule from: what the operator wrote stays.
    for path in [proposed.to_owned(), format!("{proposed}&proposal={id}")] {
        let blast = site.get(&path, &operator).body;
        assert_eq!((&blast["policy"], &blast["after"]), (&json!("proposed"), &json!(1)), "{blast}");
        assert_eq!(blast["steps"][0]["via"][0], "only");
    }
    assert_eq!(site.get(&format!("{proposed}&proposal=x"), &operator).status, 404);
    let shown = site.get(&format!("/learning/proposals/{id}"), &operator).body;
    let stage = |expect: &str| {
        let body = json!({"reason": "CHG-9", "proposal-id": id, "expect": expect});
        site.post("/policy/stage", &operator, body).status
    };
    assert_eq!(stage(&"0".repeat(64)), 409, "that is not what was looked at");
    assert_eq!(stage(shown["hash"].as_str().unwrap()), 200);
    let unclear = format!("/map/blast?device=10.20.0.11&policy=staged&proposal={id}");
    assert_eq!(site.get(&unclear, &operator).status, 400);
}

#[test]
fn learning_runs_once_at_a_time_and_pages_share_what_it_makes() {
    let site = Site::new();
    let operator = site.visitor(Role::Operator);
    assert_eq!(site.get("/drift", &operator).status, 409, "no wire enforces");
    let since = "/drift?since=2026-01-01T00:00:00Z";
    let place = site.console.learning.try_acquire().unwrap();
    assert_eq!(site.get(since, &operator).status, 503, "something else is learnt");
    assert_eq!(site.post("/learning/proposals", &operator, json!({})).status, 429);
    drop(place);
    let made = site.get(since, &operator);
    assert_eq!(made.status, 200, "{}", made.body);
    let _place = site.console.learning.try_acquire().unwrap();
    assert_eq!(site.get(since, &operator).body, made.body, "it is there already");
}

#[test]
fn the_report_is_that_of_the_command_and_of_the_time_asked_for() {
    let site = Site::new();
    let viewer = site.visitor(Role::Viewer);
    assert!(site.running.passes(40_000, 502));
    let answer = site.get("/report?since=2026-01-01T00:00:00Z", &viewer);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let report: Report = serde_json::from_value(answer.body).unwrap();
    assert_eq!(report.scope.wires[0].mode, "observe");
    assert_eq!(report.scope.wires[0].fail.as_deref(), Some("closed"), "by the configuration");
    assert_eq!(report.conduits[0].rule, "only");
    assert_eq!(report.observed.as_ref().unwrap().conversations, 2);
    assert!(report.audit.as_ref().unwrap().verified && !report.assets.is_empty());
    assert_eq!(report.unavailable, [], "nothing is missing");
    let before = site.get("/report?until=2026-01-01T00:00:00Z", &viewer).body;
    assert_eq!(before["observed"]["conversations"], 0, "{before}");
    assert_eq!(before["changes"], json!([]));
    assert_eq!(site.get("/report?since=yesterday", &viewer).status, 400);
}

#[test]
fn an_operator_captures_packets_and_the_audit_log_says_why() {
    let site = Site::new();
    let operator = site.visitor(Role::Operator);
    let wanted = json!({"filter": "tcp 10.20.0.11 -> 10.30.3.11", "seconds": 20, "packets": 3,
        "payload-bytes": 2000, "reason": "OPS-9 does it ask?"});
    for (key, wrong) in [
        ("seconds", json!(61)),
        ("packets", json!(10_001)),
        ("packets", json!(0)),
        ("payload-bytes", json!(65_536)),
        ("filter", json!("wire nowhere")),
        ("reason", json!(" ")),
    ] {
        let mut other = wanted.clone();
        other[key] = wrong;
        let refused = site.post("/captures", &operator, other);
        assert_eq!(refused.status, 400, "{key}: {}", refused.body);
    }
    let done = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            for port in (40_000..60_000).take_while(|_| !done.load(Relaxed)) {
                assert!(site.running.passes(port, 502));
            }
        });
        let answer = site.post("/captures", &operator, wanted.clone());
        done.store(true, Relaxed);
        answer
    });
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/x-pcapng");
    assert!(answer.headers["content-disposition"].starts_with("attachment; filename=\"bulkhead-"));
    let counted = |name: &str| answer.headers[name].parse::<u64>().unwrap();
    assert_eq!((counted("x-bulkhead-packets"), counted("x-bulkhead-lost")), (3, 0));
    assert!(counted("x-bulkhead-matched") >= 3 && answer.headers["x-bulkhead-ended"] == "count");
    assert_eq!(packets_of(&answer.bytes), 3);
    let entries = site.get("/audit", &operator).body["entries"].clone();
    let entries: Vec<&Value> =
        entries.as_array().unwrap().iter().filter(|entry| entry["what"] == "trace").collect();
    let [entry] = entries[..] else { panic!("{entries:?}") };
    assert_eq!(entry["who"]["on-behalf-of"], "the.operator", "{entry}");
    assert_eq!(entry["reason"], "OPS-9 does it ask?");
    // Nothing that matches: an empty capture, once the time is over.
    let nothing = json!({"filter": "udp", "seconds": 1, "packets": 3, "reason": "OPS-9"});
    let answer = site.post("/captures", &operator, nothing.clone());
    assert_eq!((answer.status, packets_of(&answer.bytes)), (200, 0));
    assert_eq!(answer.headers["x-bulkhead-ended"], "seconds");
    let _runs = site.console.captures.try_acquire().unwrap();
    assert_eq!(site.post("/captures", &operator, nothing).status, 409, "one at a time");
}

/// Packets (enhanced packet blocks) of a pcapng file, whose blocks have to fill it.
fn packets_of(file: &[u8]) -> usize {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(8)), (0x0a0d_0d0a, 0x1a2b_3c4d), "a section in little-endian order");
    let (mut at, mut packets) = (0, 0);
    while at < file.len() {
        packets += usize::from(word(at) == 6);
        at += word(at + 4) as usize;
    }
    assert_eq!(at, file.len());
    packets
}
