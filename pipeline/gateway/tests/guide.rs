//! The operator's guide, `deploy/guide.md`: each of its commands is run, in its order, beside a running
//! gateway, and what it prints has the shape that the guide shows.
//!
//! A block ```` ```sh ```` is a script; a block ```` ```text ```` after it shows lines of its output, in
//! their order: numbers stand for any number, and `…` for anything. Comments before a script say
//! otherwise: `<!-- not run: why -->`, `<!-- exits 1: why -->`, `<!-- needs: program -->`, and
//! `<!-- first: … -->` for what happens before it in the story (see [`Site::happen`]).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Write as _, stderr};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
use bulkhead_rules::headers::Mac;
use common::{Running, wait};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}

/// A script of the guide.
#[derive(Debug, Default)]
struct Script {
    line: usize,
    text: String,
    /// Lines of its output.
    shown: Vec<String>,
    not_run: Option<String>,
    needs: Option<String>,
    first: Option<String>,
    exits: i32,
}

/// The scripts of a guide, in their order.
fn scripts(guide: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    let mut next = Script::default();
    let mut lines = guide.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(marker) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) {
            let (key, value) = marker.split_once(": ").unwrap_or((marker, ""));
            match key.split_once(' ').map_or((key, ""), |(a, b)| (a, b)) {
                ("not", "run") => next.not_run = Some(value.to_owned()),
                ("needs", _) => next.needs = Some(value.to_owned()),
                ("first", _) => next.first = Some(value.to_owned()),
                ("exits", code) => next.exits = code.parse().unwrap(),
                _ => panic!("line {}: what is `{marker}`?", number + 1),
            }
        } else if let Some(kind) = line.strip_prefix("```") {
            let body = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let body: Vec<String> = body.map(str::to_owned).collect();
            match kind {
                "sh" => {
                    let text = body.join("\n");
                    scripts.push(Script { line: number + 1, text, ..std::mem::take(&mut next) });
                }
                "text" => scripts.last_mut().unwrap().shown = body,
                _ => panic!("line {}: a block is sh or text", number + 1),
            }
        }
    }
    scripts
}

/// A line without what differs from one run to the next: numbers, and how wide columns are.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for word in line.split_whitespace() {
        let mut digits = false;
        for c in word.chars() {
            if c.is_ascii_digit() && !digits {
                shape.push('#');
            } else if !c.is_ascii_digit() {
                shape.push(c);
            }
            digits = c.is_ascii_digit();
        }
        shape.push(' ');
    }
    shape
}

/// Whether a line of output has in it what a shown line has, in its order.
fn shows(output: &str, shown: &str) -> bool {
    let output = shape(output);
    let mut rest = output.as_str();
    shape(shown).split('…').map(str::trim).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// The first of the shown lines that is not in the output after those before it.
fn missing<'s>(output: &str, shown: &'s [String]) -> Option<&'s String> {
    let mut lines = output.lines();
    shown.iter().find(|shown| !lines.by_ref().any(|line| shows(line, shown)))
}

/// A machine with a gateway as the guide's is, in a folder: `/etc` and so on are below it.
struct Site {
    root: PathBuf,
    metrics: u16,
    running: Running,
    learner: Child,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.learner.kill();
        let _ = self.learner.wait();
    }
}

const LINE: &str = "version: 1\ngroups:\n  hmis: [10.20.0.11]\n  plcs: [10.30.3.0/24]\nservices:\n  \
                    modbus: tcp/502\nrules:\n  - {name: hmi-to-plc, from: hmis, to: plcs, service: \
                    modbus, action: allow}\n";
const GUARDRAILS: &str = "version: 1\nrules:\n  - {name: no-telnet, from: any, to: any, service: \
                          tcp/23, action: deny}\n";

impl Site {
    fn new(root: &Path) -> Self {
        let etc = root.join("etc/bulkhead");
        for folder in
            [&etc.join("policy"), &root.join("srv/plant"), &root.join("var/lib"), &root.join("bin")]
        {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(etc.join("policy/00-guardrails.yaml"), GUARDRAILS).unwrap();
        fs::write(etc.join("policy/10-line.yaml"), LINE).unwrap();
        // The gateway of the tests has its files beside one another.
        symlink(etc.join("policy"), root.join("policy.yaml")).unwrap();
        symlink(root.join("state"), root.join("var/lib/bulkhead")).unwrap();
        let config = "policy = \"policy\"\nstate-dir = \"../../state\"\nlearn-dir = \"../../learning\"\n\
                      control-socket = \"../../control.sock\"\nclock = \"trusted\"\n\
                      [[wire]]\nname = \"line3\"\ninside = \"a\"\noutside = \"b\"\n";
        fs::write(etc.join("gateway.toml"), config).unwrap();
        script(&root.join("bin/sudo"), "#!/bin/sh\nexec \"$@\"\n");
        // The place of the configuration, where it is not said, is the machine's.
        let bulkhead = format!(
            "#!/bin/sh\ncase \"$1 $*\" in\n  *--config*|version*|check*|diff*) set -- \"$@\" ;;\n  \
             *) set -- \"$@\" --config {}/gateway.toml ;;\nesac\nexec {} \"$@\"\n",
            etc.display(),
            env!("CARGO_BIN_EXE_bulkhead")
        );
        script(&root.join("bin/bulkhead"), &bulkhead);
        fs::write(root.join("a.pcap"), capture()).unwrap();
        let learnt = ["learn", "--from-capture", "a.pcap", "--dir", "learning"];
        assert!(bulkhead_in(root, &learnt).status().unwrap().success());

        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let more =
            format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n[lockdown]\nmin-staged-s = 0\n");
        let running = Running::start(root, "observe", &more);
        running.wait_ready();
        let learner = bulkhead_in(root, &["learn", "--config", "etc/bulkhead/gateway.toml"])
            .args(["--socket", "records.sock"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let site = Self { root: root.to_path_buf(), metrics, running, learner };
        site.happen("traffic");
        wait("the learning process is connected", || {
            site.shell("bulkhead learn --status").1.contains("connected, version")
        });
        site
    }

    /// What happens before a script.
    fn happen(&self, what: &str) {
        let bad = self.root.join("etc/bulkhead/policy/99-bad.yaml");
        match what {
            "traffic" => {
                self.running.passes(40_000, 502);
                self.running.passes(40_001, 22);
            }
            "work" => assert!(self.running.passes(40_002, 502)),
            "quarantine" => {
                let line = "bulkhead quarantine 10.30.3.12 --reason 'scans the plant'";
                let (code, said) = self.shell(line);
                assert_eq!(code, 0, "{said}");
            }
            "bad policy" => fs::write(bad, "version: 1\nrulez: []\n").unwrap(),
            "good policy" => fs::remove_file(bad).unwrap(),
            _ => panic!("nobody knows how `{what}` happens"),
        }
    }

    /// Runs a script; its exit code, and what it printed.
    fn shell(&self, text: &str) -> (i32, String) {
        let root = self.root.display().to_string();
        let mut text = text.replace("127.0.0.1:10469", &format!("127.0.0.1:{}", self.metrics));
        text = text.replace("-C / ", &format!("-C {root} "));
        for place in ["/etc/bulkhead", "/srv/plant", "/var/lib/bulkhead"] {
            text = text.replace(place, &format!("{root}{place}"));
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("bash")
            .args(["-e", "-c", &format!("exec 2>&1\n{text}")])
            .env("PATH", format!("{root}/bin:{path}"))
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).replace(&root, "");
        (output.status.code().unwrap_or(-1), said)
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn bulkhead_in(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
fn every_command_of_the_guide_does_what_it_says() {
    let guide = fs::read_to_string(deploy("guide.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().canonicalize().unwrap());
    let (mut run, mut not_run, mut wrong) = (0, 0, Vec::new());
    for script in scripts(&guide) {
        let Script { line, text, shown, not_run: excuse, needs, first, exits } = &script;
        if let Some(why) = excuse {
            assert!(why.len() > 10, "line {line}: why is it not run?");
            not_run += 1;
            continue;
        }
        if let Some(what) = first {
            site.happen(what);
        }
        if let Some(program) = needs {
            if Command::new(program).arg("--version").output().is_err() {
                let _ = writeln!(stderr(), "SKIPPED guide.md:{line}: {program} is not installed");
                continue;
            }
        }
        let (code, said) = site.shell(text);
        if code != *exits {
            wrong.push(format!("guide.md:{line} exits with {code}: {text}\nsaid:\n{said}"));
        } else if let Some(missing) = missing(&said, shown) {
            wrong.push(format!("guide.md:{line}: {text}\nno {missing:?} in:\n{said}"));
        }
        run += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    println!("{run} scripts of the guide are run, {not_run} are not");
    assert!(run > 30 && not_run < run / 3, "{run} run, {not_run} not");
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_the_other_way_round() {
    let alerts = fs::read_to_string(deploy("alerts.yml")).unwrap();
    let guide = fs::read_to_string(deploy("guide.md")).unwrap();
    let alerts: BTreeSet<&str> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let sections: BTreeSet<&str> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|s| s.starts_with("Bulkhead"))
        .collect();
    assert_eq!(alerts, sections);
    for section in guide.split("\n### Bulkhead").skip(1) {
        let name = section.lines().next().unwrap();
        for part in ["**You see**", "**It means**"] {
            let flat = section.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(part), "Bulkhead{name} has no {part}");
        }
    }
}

#[test]
fn what_is_shown_is_looked_for() {
    assert!(shows("line3            observe  inside  a", "line3 observe"));
    assert!(shows("policy   /x (hash 0a1b), 3 rules, epoch 7", "policy … 12 rules…"));
    assert!(!shows("line3            enforce", "line3 observe"));
    assert!(!shows("whole: 4 entries", "whole: … entries, the last"));
    let shown = ["b".to_owned(), "a".to_owned()];
    assert_eq!(missing("a\nb", &shown), Some(&shown[1]));
    assert_eq!(missing("b\nx\na", &shown), None);
    let scripts =
        scripts("<!-- exits 1: so -->\n```sh\nfalse\n```\n```text\nno\n```\n```sh\ntrue\n```\n");
    assert_eq!((scripts[0].exits, scripts[0].shown.len(), scripts[1].exits), (1, 1, 0));
}

/// A capture of three days: a panel reads six controllers, and an engineering station asks them.
fn capture() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
    let mut add = |at: u32, frame: Vec<u8>| {
        let length = frame.len() as u32;
        for word in [at, 0, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    };
    for hour in 0..72_u32 {
        let mut at = now - 73 * 3600 + hour * 3600;
        for (client, port) in [([10, 20, 0, 11], 502), ([10, 20, 0, 20], 102)] {
            for plc in 11..=16 {
                let (server, from) = ([10, 30, 3, plc], 40_000 + hour as u16);
                let [one, two] = [client, server].map(|[_, a, b, c]| Mac([2, 0, 0, a, b, c]));
                let there = || FrameBuilder::new().macs(one, two).ip(client, server);
                let back = || FrameBuilder::new().macs(two, one).ip(server, client);
                let (syn, ack) = (tcp_flags::SYN, tcp_flags::ACK);
                add(at, there().tcp(from, port, syn).build());
                add(at, back().tcp(port, from, syn | ack).seq(0, 1).build());
                add(at, there().tcp(from, port, ack).seq(1, 1).payload(b"ask").build());
                add(at, back().tcp(port, from, ack).seq(1, 4).payload(b"tell").build());
                add(at + 1, there().tcp(from, port, tcp_flags::RST | ack).seq(4, 5).build());
                at += 2;
            }
        }
    }
    bytes
}
