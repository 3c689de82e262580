//! What `check`, `diff` and `reach` say, word for word, and how they exit.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;
use std::process::Command;

const POLICY: &str = r#"version: 1
groups:
  hmi: [10.20.0.11, 10.20.0.12, "fd00:20::11"]
  plc: [10.30.3.0/24, "fd00:30:3::/64"]
services:
  modbus: tcp/502
rules:
  - {name: guard, from: any, to: plc, service: tcp/22, action: deny}
  - {name: control, from: hmi, to: plc, service: [modbus, tcp/102], action: allow, reason: CHG-1}
  - {name: panel-1, from: 10.20.0.11, to: plc, service: modbus, action: allow}
  - {name: repair, from: hmi, to: plc, service: tcp/22, action: allow}
  - {name: six, from: 10.20.0.11, to: "fd00:30:3::1", service: udp/1, action: allow}
  - {name: bits, from: 10.20.0.0/24, to: plc, service: modbus, action: allow}
  - {name: last, from: any, to: any, service: any, action: deny, log: true}
"#;

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
        .output()
        .unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn folder(policies: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in policies {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

const FINDINGS: &str = r#"warning[shadowed]: rule `panel-1` never decides: `control` before it matches all that it matches
  --> p.yaml:10:12
   |
10 |   - {name: panel-1, from: 10.20.0.11, to: plc, service: modbus, action: allow}
   |            ^^^^^^^
  = `control`: allow, p.yaml:9:12
  = help: remove it: allow is what they get without it too

warning[contradicted]: rule `repair` says allow and never decides: `guard` before it matches all that it matches
  --> p.yaml:11:12
   |
11 |   - {name: repair, from: hmi, to: plc, service: tcp/22, action: allow}
   |            ^^^^^^
  = `guard`: deny, p.yaml:8:12
  = help: `guard` says deny; move the rule above if it is meant to decide, else remove it

warning[impossible]: rule `six` matches no packet at all: its conditions exclude each other
  --> p.yaml:12:12
   |
12 |   - {name: six, from: 10.20.0.11, to: "fd00:30:3::1", service: udp/1, action: allow}
   |            ^^^
  = help: compare the address families of both sides and of the service, and the VLANs; then correct or remove the rule

note[redundant]: rule `last` makes no difference: without it the default says deny too
  --> p.yaml:14:12
   |
14 |   - {name: last, from: any, to: any, service: any, action: deny, log: true}
   |            ^^^^
  = help: removing it changes no verdict, but what it decides would be logged no more

"#;

#[test]
fn check_shows_rules_that_do_nothing_with_their_causes() {
    let dir = folder(&[("p.yaml", POLICY)]);
    let output = bulkhead(dir.path(), &["check", "p.yaml"]);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    let (findings, summary) = output.out.split_at(output.out.find("p.yaml: accepted").unwrap());
    assert_eq!(findings, FINDINGS);
    assert!(summary.starts_with("p.yaml: accepted with 3 warnings and 1 note: "), "{summary}");
    assert_eq!(bulkhead(dir.path(), &["check", "--deny-warnings", "p.yaml"]).code, 3);
}

#[test]
fn check_gives_scripts_the_causes() {
    let dir = folder(&[("p.yaml", POLICY)]);
    let output = bulkhead(dir.path(), &["check", "--json", "p.yaml"]);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    let found = &json["policies"][0]["analysis"]["findings"];
    let line =
        |n: usize| (found[n]["code"].clone(), found[n]["rule"].clone(), found[n]["line"].clone());
    assert_eq!(line(0), ("shadowed".into(), "panel-1".into(), 10.into()));
    assert_eq!(line(1), ("contradicted".into(), "repair".into(), 11.into()));
    assert_eq!(found[1]["causes"][0]["rule"], "guard");
    assert_eq!(found[1]["causes"][0]["line"], 8);
    assert_eq!(found[3]["independently"], true);
    assert_eq!(found[4], serde_json::Value::Null);
}

#[test]
fn check_tells_of_quarrels_when_asked() {
    let text = "version: 1\nrules:\n  \
         - {name: a, from: 10.0.0.0/24, to: any, service: tcp/1-9, action: deny}\n  \
         - {name: b, from: 10.0.0.0/16, to: any, service: tcp/5, action: allow}\n";
    let dir = folder(&[("p.yaml", text)]);
    let output = bulkhead(dir.path(), &["check", "p.yaml"]);
    assert!(!output.out.contains("correlated"), "{}", output.out);
    let output = bulkhead(dir.path(), &["check", "--deny-warnings", "--correlations", "p.yaml"]);
    assert_eq!(output.code, 0);
    for expected in [
        "note[correlated]: rule `b` says allow and `a` before it says deny: neither matches all that \
         the other does, and what both match goes to `a`\n",
        "such as tcp 10.0.0.1:49152 -> 0.0.0.1:5\n",
    ] {
        assert!(output.out.contains(expected), "{}", output.out);
    }
}

#[test]
fn diff_says_what_changed_for_packets_and_exits_as_diff_does() {
    let new = POLICY
        .replace("10.20.0.12, ", "")
        .replace("to: plc, service: udp/1", "to: plc, service: udp/2");
    // Another order of rules that decide alike, and another name, are no difference.
    let same = POLICY.replace("- {name: panel-1", "- {name: panel");
    let dir = folder(&[
        ("old.yaml", POLICY),
        ("new.yaml", &new),
        ("same.yaml", &same),
        ("bad.yaml", "x"),
    ]);
    let output = bulkhead(dir.path(), &["diff", "old.yaml", "same.yaml"]);
    assert_eq!(output.out, "old.yaml and same.yaml judge every packet alike, at every instant\n");
    assert_eq!(output.code, 0);
    let output = bulkhead(dir.path(), &["diff", "old.yaml", "new.yaml"]);
    assert_eq!(
        output.out,
        "no longer allowed: from 10.20.0.12 to plc, service tcp/102\n  \
           before:      allow by `control` (old.yaml:9)\n  \
           after:       deny by `last` (new.yaml:14)\n  \
           for example: tcp 10.20.0.12:49152 -> 10.30.3.1:102\n\n\
         old.yaml and new.yaml: 1 difference; all other packets are judged alike\n"
    );
    assert_eq!(output.code, 1);
    for wrong in ["bad.yaml", "nowhere.yaml"] {
        let output = bulkhead(dir.path(), &["diff", "old.yaml", wrong]);
        assert_eq!((output.code, output.out.as_str()), (2, ""));
        assert!(output.err.contains(wrong), "{}", output.err);
    }
}

#[test]
fn diff_counts_what_it_does_not_print() {
    let rules = |action: &str| -> String {
        (0..9).map(|n| format!("  - {{name: r{n}, from: 10.{n}.0.0/16, to: 10.9.0.{n}, service: tcp/1, action: {action}}}\n")).collect()
    };
    let text = |action: &str| format!("version: 1\nrules:\n{}", rules(action));
    let dir = folder(&[("old.yaml", &text("allow")), ("new.yaml", &text("deny"))]);
    let output = bulkhead(dir.path(), &["diff", "--limit", "2", "old.yaml", "new.yaml"]);
    assert!(output.out.contains("and 7 more: --limit shows them\n"), "{}", output.out);
    assert!(output.out.contains("old.yaml and new.yaml: 9 differences;"), "{}", output.out);
    let output = bulkhead(dir.path(), &["diff", "--json", "old.yaml", "new.yaml"]);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!((json["differences"].as_array().unwrap().len(), output.code), (9, 1));
    let first = &json["differences"][0];
    assert_eq!(first["from"]["in"][0], "10.0.0.0/16");
    assert_eq!(
        (&first["before"]["verdict"], &first["after"]["line"]),
        (&"allow".into(), &3.into())
    );
}

#[test]
fn reach_tells_who_may_open_what_by_which_rule() {
    let dir = folder(&[("p.yaml", POLICY)]);
    let at = "2026-11-24T06:00:00Z";
    let output = bulkhead(dir.path(), &["reach", "-p", "p.yaml", "--to", "plc", "--at", at]);
    assert_eq!(
        output.out,
        "tcp/102\n  \
           from hmi\n    \
             by `control` (p.yaml:9)\n\
         modbus\n  \
           from hmi\n    \
             by `control` (p.yaml:9)\n  \
           from 10.20.0.0/24 except hmi\n    \
             by `bits` (p.yaml:13)\n\
         nobody else of any may open anything else to plc at 2026-11-24T06:00:00Z\n"
    );
    assert_eq!(output.code, 0);
    let narrow = ["--to", "10.30.3.7", "--from", "{in: any, except: hmi}", "--service", "ssh"];
    let output = bulkhead(dir.path(), &[&["reach", "-p", "p.yaml"], &narrow[..]].concat());
    assert_eq!(output.code, 1);
    assert!(output.err.contains("--> the command line:5:14"), "{}", output.err);
    let narrow = ["--to", "10.30.3.7", "--from", "[10.9.9.9, 'fd00::9']", "--at", at];
    let output = bulkhead(dir.path(), &[&["reach", "-p", "p.yaml"], &narrow[..]].concat());
    assert_eq!(
        output.out,
        "nobody of [10.9.9.9, 'fd00::9'] may open anything to 10.30.3.7 at 2026-11-24T06:00:00Z\n"
    );
    let output = bulkhead(dir.path(), &["reach", "-p", "p.yaml", "--to", "plc", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(json["services"][1]["access"][1]["rule"], "bits");
    assert_eq!(json["services"][1]["access"][1]["from"]["except"][0], "hmi");
}
