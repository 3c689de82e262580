//! What every command prints with `--json` is what `bulkhead schema` says, and every exit code is the one
//! that its help promises: real commands beside a running gateway, a communication store, captures.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Write as _, stderr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bulkhead_gateway::{exit_codes, schema};
use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
use common::{Running, policy, wait};
use serde_json::{Value, json};

/// Validates every case of its input, `[[name, schema, document], …]`. A key that the schema does not
/// know is a mistake as well: definitions that are part of no other one are closed.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator

def parts(node, into, inside=False):
    if isinstance(node, dict):
        if inside and "$ref" in node:
            into.add(node["$ref"].rsplit("/", 1)[1])
        for key, value in node.items():
            parts(value, into, key == "allOf" or (inside and key == ""))
    elif isinstance(node, list):
        for value in node:
            parts(value, into, inside)

def close(schema):
    shared = set()
    parts(schema, shared)
    whole = [schema] + [d for name, d in schema.get("$defs", {}).items() if name not in shared]
    for one in whole:
        if "properties" in one or "allOf" in one:
            one["unevaluatedProperties"] = False

wrong = 0
for name, schema, document in json.load(sys.stdin):
    Draft202012Validator.check_schema(schema)
    close(schema)
    for error in Draft202012Validator(schema).iter_errors(document):
        wrong += 1
        print(f"{name}: {error.json_path}: {error.message[:300]}")
sys.exit(1 if wrong else 0)
"#;

/// A command as it is run, and its exit code; its answer has the schema of this name, where it has one.
struct Case {
    line: &'static str,
    code: i32,
    schema: Option<&'static str>,
}

const fn case(schema: &'static str, code: i32, line: &'static str) -> Case {
    Case { line, code, schema: Some(schema) }
}

/// One that has no answer: nothing is printed but to standard error.
const fn silent(code: i32, line: &'static str) -> Case {
    Case { line, code, schema: None }
}

/// In this order, as later ones need what earlier ones did.
const CASES: &[Case] = &[
    case("check", 0, "check policy.yaml --json"),
    case("check", 0, "check --config gateway.toml --correlations --json odd.yaml"),
    case("check", 1, "check bad.yaml --json"),
    case("check", 1, "check --config bad.toml --json"),
    case("check", 3, "check --deny-warnings odd.yaml --json"),
    case("check", 4, "check --config nowhere.toml nowhere.yaml --json"),
    silent(2, "check --json"),
    case("explain", 0, "explain --json --all -p odd.yaml tcp 10.20.0.11 -> 10.30.3.11:503"),
    case("explain", 0, "explain --json -p policy.yaml tcp 10.20.0.11 -> 10.30.3.11:502"),
    case(
        "explain",
        1,
        "explain --json --expect allow -p policy.yaml tcp 10.9.9.9 -> 10.30.3.11:502",
    ),
    silent(1, "explain --json -p bad.yaml tcp 10.9.9.9 -> 10.30.3.11:502"),
    silent(2, "explain --json -p policy.yaml"),
    silent(4, "explain --json -p nowhere.yaml tcp 10.9.9.9 -> 10.30.3.11:502"),
    case("diff", 0, "diff policy.yaml policy.yaml --json"),
    case("diff", 1, "diff policy.yaml odd.yaml --json"),
    silent(2, "diff policy.yaml bad.yaml --json"),
    case("reach", 0, "reach -p odd.yaml --to plc --json"),
    silent(1, "reach -p policy.yaml --to nobody --json"),
    silent(4, "reach -p nowhere.yaml --to plc --json"),
    case("replay", 0, "replay -p policy.yaml a.pcap --json"),
    silent(1, "replay -p bad.yaml a.pcap --json"),
    silent(4, "replay -p policy.yaml nowhere.pcap --json"),
    case("replay --flows", 0, "replay -p policy.yaml --flows flows.jsonl --json"),
    case("learn --from-capture", 0, "learn --from-capture a.pcap --dir store --json"),
    case("learn --status", 0, "learn --status --config gateway.toml --dir learning --json"),
    silent(4, "learn --status --config gateway.toml --dir nowhere --json"),
    case("map", 0, "map --store store --json"),
    silent(4, "map --store nowhere --json"),
    case("devices", 0, "devices --store store --json"),
    silent(4, "devices --store nowhere --json"),
    case("propose", 0, "propose --config gateway.toml --store store --json"),
    silent(1, "propose --config gateway.toml --store store --out policy.yaml --json"),
    silent(4, "propose --config gateway.toml --store nowhere --json"),
    silent(1, "explain-rule --config gateway.toml --store store --json no-such-rule"),
    silent(4, "explain-rule --config gateway.toml --store nowhere --json no-such-rule"),
    case(
        "drift",
        0,
        "drift --config gateway.toml --store store --since 2020-01-01T00:00:00Z --json",
    ),
    silent(4, "drift --config gateway.toml --store nowhere --json"),
    #[cfg(feature = "dpdk")]
    case("doctor", 1, "doctor --config gateway.toml --json"),
    #[cfg(feature = "dpdk")]
    silent(4, "doctor --config nowhere.toml --json"),
    silent(1, "run --config bad.toml"),
    silent(4, "run --config nowhere.toml"),
    case("reload", 0, "reload --config gateway.toml --json"),
    silent(4, "reload --socket nowhere.sock --json"),
    case("bypass", 4, "bypass --config gateway.toml --json"),
    case("bindings", 0, "bindings --config gateway.toml --json"),
    silent(4, "bindings --socket nowhere.sock --json"),
    case("stage --status", 1, "stage --status --config gateway.toml --json"),
    case("stage", 1, "stage bad.yaml --config gateway.toml --json"),
    case("stage", 0, "stage odd.yaml --config gateway.toml --json"),
    case("stage --status", 0, "stage --status --config gateway.toml --json"),
    silent(4, "stage --status --socket nowhere.sock --json"),
    case("lockdown", 1, "lockdown no-such-wire --config gateway.toml --reason test --json"),
    case("lockdown", 0, "lockdown --config gateway.toml --force --reason test --json"),
    silent(4, "lockdown --socket nowhere.sock --json"),
    case("observe", 1, "observe no-such-wire --config gateway.toml --reason test --json"),
    case("observe", 0, "observe --config gateway.toml --reason test --json"),
    silent(4, "observe --socket nowhere.sock --json"),
    case("history", 0, "history --config gateway.toml --json"),
    silent(4, "history --socket nowhere.sock --json"),
    case("rollback", 1, "rollback 999 --config gateway.toml --reason test --json"),
    case("rollback", 0, "rollback --config gateway.toml --reason test --json"),
    silent(4, "rollback --socket nowhere.sock --json"),
    case(
        "grant",
        0,
        "grant --from 10.9.9.9 --to plc --service tcp/23 --for 1h --reason test --config gateway.toml --json",
    ),
    case(
        "grant",
        1,
        "grant --from 10.9.9.9 --to nobody --service tcp/23 --for 1h --reason test --config gateway.toml --json",
    ),
    silent(4, "grant --revoke g --socket nowhere.sock --json"),
    case("quarantine", 0, "quarantine 10.9.9.8 --config gateway.toml --reason test --json"),
    case("quarantine", 1, "quarantine nobody --config gateway.toml --reason test --json"),
    silent(4, "quarantine 10.9.9.8 --socket nowhere.sock --json"),
    case("grants", 0, "grants --config gateway.toml --json"),
    silent(4, "grants --socket nowhere.sock --json"),
    case("status", 0, "status --config gateway.toml --json"),
    silent(4, "status --socket nowhere.sock --json"),
    silent(2, "status --jsn"),
    silent(1, "restart --config gateway.toml --json"),
    silent(4, "restart --socket nowhere.sock --json"),
    case("report", 0, "report --config gateway.toml --store store --json"),
    silent(1, "report --config gateway.toml --since nonsense --json"),
    silent(4, "report --socket nowhere.sock --store nowhere --json"),
    case("trace", 0, "trace --config gateway.toml --seconds 1 --json"),
    silent(1, "trace --config gateway.toml --json no-such-word"),
    silent(4, "trace --socket nowhere.sock --json"),
    case("audit", 0, "audit --config gateway.toml --json"),
    silent(4, "audit --config nowhere.toml --json"),
    case("audit verify", 0, "audit verify --config gateway.toml --json"),
    case("audit verify", 1, "audit verify broken.jsonl --json"),
    silent(4, "audit verify nowhere.jsonl --json"),
    case("version", 0, "version --json"),
];

/// Cases whose output is no answer with a schema.
const PLAIN: &[(i32, &str)] = &[
    (0, "console --openapi"),
    (1, "console --config bad.toml"),
    (0, "sign policy.yaml"),
    (4, "sign nowhere.yaml"),
    (4, "bypass --config gateway.toml"),
    (1, "bypass --config bad.toml"),
    (4, "bypass --config nowhere.toml"),
    (0, "schema"),
    (0, "schema audit verify"),
    (1, "schema run"),
    (0, "completions bash"),
    (2, "completions nosh"),
    (0, "manual --out man"),
    (4, "manual --out policy.yaml/man"),
];

/// Exit codes that no case can bring about here, and why.
const UNSHOWN: &[(&str, u8, &str)] = &[
    ("run", 0, "it would need ports: tests/cli.rs and the end-to-end tests end one with SIGTERM"),
    ("learn", 1, "shown in tests/learning.rs"),
    ("map", 1, "shown in tests/learning.rs"),
    ("devices", 1, "shown in tests/learning.rs"),
    ("drift", 1, "a policy in whose place there is none: tests/learning.rs"),
    ("explain-rule", 0, "the store of this test knows no rule: tests/learning.rs"),
    ("reload", 1, "the files would stay bad: tests/reload.rs"),
    ("doctor", 0, "no machine of a test is fit"),
    ("bypass", 0, "there are no interfaces: tests/e2e shows it"),
    ("sign", 1, "shown in tests/signatures.rs"),
    ("console", 4, "shown in tests/console.rs"),
    ("restart", 0, "it would need a supervisor: tests/e2e shows it"),
    ("completions", 4, "standard output does not fail"),
];

#[test]
fn every_answer_has_its_schema_and_every_exit_code_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let running = Running::start(dir.path(), "enforce", "[lockdown]\nmin-staged-s = 0\n");
    running.wait_ready();
    assert!(running.passes(40_000, 502) && !running.passes(40_001, 22));
    let _learner = start_learner(dir.path());

    let mut shown = BTreeSet::new();
    let mut documents = Vec::new();
    for Case { line, code, schema } in CASES {
        let (found, out, err) = bulkhead(dir.path(), line);
        assert_eq!(found, *code, "{line}: {out}{err}");
        shown.insert((line.split(' ').next().unwrap(), found));
        let Some(name) = schema else {
            assert!(out.is_empty() && !err.is_empty(), "{line}: {out}");
            continue;
        };
        let schema = schema::of(name).unwrap_or_else(|| panic!("no schema of {name}"));
        // A trace tells one document a line.
        let before = documents.len();
        for document in serde_json::Deserializer::from_str(&out).into_iter::<Value>() {
            let document = document.unwrap_or_else(|error| panic!("{line}: {error}\n{out}"));
            documents.push(json!([line, schema, document]));
        }
        let told = documents.len() - before;
        assert!(told == 1 || (*name == "trace" && told > 1), "{line}: {told} documents");
    }
    for (code, line) in PLAIN {
        let (found, out, err) = bulkhead(dir.path(), line);
        assert_eq!(found, *code, "{line}: {out}{err}");
        shown.insert((line.split(' ').next().unwrap(), found));
    }
    // A build may lack a command.
    let commands = exit_codes::ALL.iter().map(|(command, _)| *command);
    let is_absent = |command: &&str| bulkhead(dir.path(), &format!("{command} --help")).0 != 0;
    assert_all_shown(&shown, &commands.filter(is_absent).collect());
    validate(&documents);
    running.stop().0.unwrap();
}

/// Each code of the table is brought about by a case, and no case brings about another.
fn assert_all_shown(shown: &BTreeSet<(&str, i32)>, absent: &BTreeSet<&str>) {
    for (command, meanings) in exit_codes::ALL {
        for (code, meaning) in *meanings {
            let is_shown = shown.contains(&(*command, i32::from(*code)));
            let is_excused = UNSHOWN.iter().any(|(c, n, _)| c == command && n == code);
            let is_absent = absent.contains(command);
            assert!(is_shown != is_excused || is_absent, "{command}: {code} {meaning}");
        }
    }
    for (command, code) in shown {
        let (_, meanings) = exit_codes::ALL.iter().find(|(known, _)| known == command).unwrap();
        let is_known = *code == 2 || meanings.iter().any(|(known, _)| i32::from(*known) == *code);
        assert!(is_known, "{command} exits with {code}, which its help does not say");
    }
    let cases = CASES.iter().filter_map(|case| case.schema).collect::<BTreeSet<_>>();
    let excused = |name: &str| UNSHOWN.iter().any(|(c, n, _)| *c == name && *n == 0);
    let unseen: Vec<&str> =
        schema::names().filter(|name| !cases.contains(name) && !excused(name)).collect();
    assert!(unseen.is_empty(), "no answer is validated of {unseen:?}");
}

fn validate(documents: &[Value]) {
    let known = Command::new("python3").args(["-c", "import jsonschema"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no python3-jsonschema");
        let _ =
            writeln!(stderr(), "SKIPPED validation of JSON: python3-jsonschema is not installed");
        return;
    }
    let mut python = Command::new("python3")
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = serde_json::to_vec(documents).unwrap();
    python.stdin.take().unwrap().write_all(&input).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    println!("{} answers are as their schemas say", documents.len());
}

fn bulkhead(folder: &Path, line: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .args(line.split(' '))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A process that is ended with the test.
struct Learner(Child);

impl Drop for Learner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_learner(folder: &Path) -> Learner {
    let child = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .args([
            "learn",
            "--config",
            "gateway.toml",
            "--socket",
            "records.sock",
            "--dir",
            "learning",
        ])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let learner = Learner(child);
    wait("the learning process answers", || {
        bulkhead(folder, "learn --status --config gateway.toml --dir learning").0 == 0
    });
    learner
}

fn write_files(folder: &Path) {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("policy.yaml", &policy(502));
    // Rules that never decide, times, VLANs, wires and an assertion.
    write(
        "odd.yaml",
        "version: 1\ngroups:\n  hmi: [10.20.0.11]\n  plc: [10.30.3.0/24]\nrules:\n  \
         - {name: wide, from: any, to: plc, service: tcp/502-504, action: allow, vlan: 30}\n  \
         - {name: shadowed, from: hmi, to: plc, service: tcp/503, action: deny, vlan: 30}\n  \
         - {name: later, from: hmi, to: plc, service: tcp/503, action: allow, wire: line3, \
         starts: 2126-01-01T00:00:00Z, reason: CHG-1}\n  \
         - {name: no-echo, from: any, to: {in: plc, except: 10.30.3.9}, service: icmp/echo-request, \
         action: reject}\nassert:\n  - {from: any, to: plc, service: tcp/22, must: not-reach}\n",
    );
    write("bad.yaml", "version: 1\nrules:\n  - {name: a, from: nobody, to: any, service: any}\n");
    let head =
        "policy = \"policy.yaml\"\nstate-dir = \"state\"\ncontrol-socket = \"control.sock\"\n";
    let wire = "[[wire]]\nname = \"line3\"\ninside = \"a\"\noutside = \"b\"\n";
    write("gateway.toml", &format!("{head}{wire}"));
    write("bad.toml", &format!("{head}{}", wire.replace("inside", "inisde")));
    write("broken.jsonl", "{\"entry\":1}\n");
    let record = json!({
        "event": "started", "first-ms": 1000, "last-ms": 1000, "wire": "line3",
        "client-side": "outside", "vlan": [0, 0], "ether-type": 0x0800, "protocol": 6,
        "client": "10.20.0.11", "server": "10.30.3.11", "client-port": 40_000, "server-port": 503,
        "client-mac": "02:00:00:00:00:01", "server-mac": "02:00:00:00:00:02",
        "opening-seen": true, "answered": true, "client-packets": 1, "server-packets": 1,
        "client-bytes": 60, "server-bytes": 60, "end": null, "allowed": true, "reason": null,
        "rule": "old", "epoch": 1, "enforced": true, "staged": null, "community-id": "1:x",
    });
    write("flows.jsonl", &format!("{record}\n"));
    fs::write(folder.join("a.pcap"), capture()).unwrap();
}

/// A capture (pcap, microseconds) of a conversation that is permitted and of one that is not.
fn capture() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    let ends = |port: u16| ([10, 20, 0, 11], 40_000 + port, [10, 30, 3, 11], port);
    for (second, port) in [(0, 502), (10, 22)] {
        let (client, from, server, to) = ends(port);
        let opening = FrameBuilder::new().ip(client, server).tcp(from, to, tcp_flags::SYN);
        let answer = (FrameBuilder::new().ip(server, client))
            .tcp(to, from, tcp_flags::SYN | tcp_flags::ACK)
            .seq(0, 1);
        for (at, frame) in [(second, opening.build()), (second + 1, answer.build())] {
            let length = frame.len() as u32;
            for word in [1_790_000_000 + at, 0, length, length] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(frame);
        }
    }
    bytes
}
