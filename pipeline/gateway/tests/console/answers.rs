//! What is answered, and that changes are entered with who, for whom and why.

use bulkhead_gateway::console::access::Role;
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
    let refused = site.post("/lockdown", &operator, json!({"reason": "now"}));
    assert_eq!(refused.status, 409, "nothing is staged: {}", refused.body);
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
