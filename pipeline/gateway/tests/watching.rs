//! What `deploy` gives an operator to watch a gateway with asks only for series that there are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::learning::service::Status;
use bulkhead_gateway::telemetry::{self, Format, render_as};
use bulkhead_gateway::workflow::{Change, PolicyTexts};
use common::{Running, policy};

/// What a gateway in a test does not expose: after a renewal, and where the process has given up its
/// rights. The end-to-end tests `failure` and `confined` read them.
const ONLY_IN_PRODUCTION: [&str; 2] = ["bulkhead_update_gap_seconds", "bulkhead_confined"];

/// The labels of each series of a metric, by the metric's name.
type Exposed = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// What is asked of one metric: its name, and by label the values of which at least one must exist.
type Wanted = (String, Vec<(String, Vec<String>)>);

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}

/// Everything that a gateway and its learning process can expose, a staged policy's figures included.
fn exposed() -> Exposed {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let open = "[[wire]]\nname = \"line4\"\ninside = \"c\"\noutside = \"d\"\nfail = \"open\"\n";
    let running = Running::start(dir.path(), "enforce", open);
    running.wait_ready();
    let files = vec![("/home/somebody/new.yaml".to_owned(), policy(503))];
    let policy =
        PolicyTexts { source: "/home/somebody/new.yaml".to_owned(), files, envelope: None };
    let change = Change::Stage { policy };
    let answer = ask(
        &running.socket(),
        Ask::Change { change, reason: None, force: false, on_behalf_of: None },
    );
    assert!(matches!(&answer, Ok(Answer::Change(report)) if report.done), "{answer:?}");
    assert_is_openmetrics(&render_as(Format::OpenMetrics, &running.gateway).unwrap());
    let learning = telemetry::learning::render_as(Format::OpenMetrics, &Status::default());
    assert_is_openmetrics(&learning.unwrap());
    let mut text = telemetry::render(&running.gateway).unwrap();
    text += &telemetry::learning::render(&Status::default()).unwrap();
    let mut all = Exposed::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, matchers) = split_series(series);
        all.entry(name).or_default().push(
            matchers.into_iter().map(|(label, mut values)| (label, values.remove(0))).collect(),
        );
    }
    all
}

/// Each sample belongs to the family declared before it, no family comes twice, and the end is marked.
fn assert_is_openmetrics(text: &str) {
    let body = text.strip_suffix("# EOF\n").expect("it ends with its mark");
    let (mut families, mut declared) = (BTreeSet::new(), ("", ""));
    let mut samples = BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            declared = rest.split_once(' ').unwrap();
            assert!(families.insert(declared.0.to_owned()), "{line}: twice");
            continue;
        }
        let (name, kind) = declared;
        if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (family, unit) = rest.split_once(' ').unwrap();
            assert!(family == name && name.ends_with(&format!("_{unit}")), "{line}");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.starts_with(name), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(samples.insert(series.to_owned()), "{line}: twice");
            let suffix = split_series(series).0.strip_prefix(name).map(str::to_owned);
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_count", "_sum"],
                _ => &[],
            };
            assert!(suffix.is_some_and(|s| suffixes.contains(&s.as_str())), "{kind}: {line}");
            let value: f64 = value.parse().unwrap();
            assert!(kind == "gauge" || value >= 0.0, "{line}");
        }
    }
    assert!(families.len() > 10, "{families:?}");
}

/// A series or a selector: its name, and by label the values between `|`.
fn split_series(series: &str) -> Wanted {
    let (name, rest) = series.split_once('{').unwrap_or((series, ""));
    let mut matchers = Vec::new();
    for part in rest.trim_end_matches('}').split("\",") {
        let Some((label, value)) = part.split_once("=~\"").or_else(|| part.split_once("=\""))
        else {
            continue;
        };
        let values = value.trim_end_matches('"').split('|').map(str::to_owned).collect();
        matchers.push((label.trim().to_owned(), values));
    }
    (name.to_owned(), matchers)
}

/// The gateway's metrics that `text` names, with what is asked of their labels.
fn wanted(text: &str) -> Vec<Wanted> {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut all = Vec::new();
    for (at, _) in text.match_indices("bulkhead_") {
        if text[..at].ends_with(is_of_name) {
            continue;
        }
        let rest = &text[at..];
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        // `bulkhead_…` stands for many, and `bulkhead_0.1.0-1_amd64.deb` is the package.
        let is_metric = rest["bulkhead_".len()..end].starts_with(|c: char| c.is_ascii_lowercase());
        if !is_metric || ONLY_IN_PRODUCTION.contains(&&rest[..end]) {
            continue;
        }
        let selector = match rest[end..].strip_prefix('{') {
            Some(inner) => &rest[..end + 1 + inner.find('}').unwrap_or(0) + 1],
            None => &rest[..end],
        };
        all.push(split_series(selector));
    }
    all
}

/// What `wanted` asks for and `exposed` has not.
fn missing(exposed: &Exposed, wanted: &Wanted) -> Option<String> {
    let (name, matchers) = wanted;
    let Some(series) = exposed.get(name) else { return Some(format!("no metric {name}")) };
    for (label, values) in matchers.iter().filter(|(label, _)| label != "instance") {
        for value in values.iter().filter(|value| !value.contains('$')) {
            // The test's gateway has its own wires and rules.
            let is_free =
                matches!(label.as_str(), "wire" | "by" | "rule" | "worker" | "hash" | "source");
            let found = series
                .iter()
                .any(|labels| labels.get(label).is_some_and(|known| is_free || known == value));
            if !found {
                return Some(format!("no {name} with {label}=\"{value}\""));
            }
        }
    }
    None
}

/// The texts of all queries in a dashboard.
fn queries(value: &serde_json::Value, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    serde_json::Value::String(text) if key == "expr" || key == "query" => {
                        into.insert(text.clone());
                    }
                    other => queries(other, into),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| queries(item, into)),
        _ => {}
    }
}

fn assert_all_there(exposed: &Exposed, place: &str, text: &str) -> usize {
    let all = wanted(text);
    let missing: Vec<String> = all.iter().filter_map(|one| missing(exposed, one)).collect();
    assert!(missing.is_empty(), "{place}: {missing:#?}");
    all.len()
}

#[test]
fn a_series_that_is_not_there_is_found() {
    let mut exposed = Exposed::new();
    let labels = BTreeMap::from([("reason".to_owned(), "policy".to_owned())]);
    exposed.insert("bulkhead_x_total".to_owned(), vec![labels]);
    let lacks = |text: &str| wanted(text).iter().filter_map(|one| missing(&exposed, one)).count();
    assert_eq!(lacks("rate(bulkhead_x_total{reason=\"policy\"}[5m]) > bulkhead_x_total"), 0);
    assert_eq!(
        lacks("rate(bulkhead_x_total{instance=~\"$instance\",reason=~\"policy|none\"}[5m])"),
        1
    );
    assert_eq!(lacks("bulkhead_y"), 1);
    assert_eq!(lacks("bulkhead_x_total{side=\"a\"}"), 1);
}

#[test]
fn alerts_dashboard_and_guide_name_series_that_exist() {
    let exposed = exposed();
    let alerts = fs::read_to_string(deploy("alerts.yml")).unwrap();
    assert!(assert_all_there(&exposed, "alerts.yml", &alerts) > 20);
    let tests = fs::read_to_string(deploy("alerts.test.yml")).unwrap();
    assert_all_there(&exposed, "alerts.test.yml", &tests);
    let guide = fs::read_to_string(deploy("README.md")).unwrap();
    assert!(assert_all_there(&exposed, "README.md", &guide) > 3);
    let dashboard = fs::read_to_string(deploy("dashboards/bulkhead.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut found = BTreeSet::new();
    queries(&dashboard, &mut found);
    let asked: usize =
        found.iter().map(|query| assert_all_there(&exposed, "bulkhead.json", query)).sum();
    assert!(found.len() > 40 && asked > 40, "{} queries, {asked} series", found.len());
}

#[test]
fn every_alert_has_a_runbook_and_a_test() {
    let alerts = fs::read_to_string(deploy("alerts.yml")).unwrap();
    let tests = fs::read_to_string(deploy("alerts.test.yml")).unwrap();
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() > 10);
    for rule in rules {
        let name = rule.lines().next().unwrap();
        assert!(rule.contains("runbook:") && rule.contains("summary:"), "{name}");
        assert!(rule.contains("severity:"), "{name}");
        assert!(tests.contains(name), "{name} is in no test");
    }
}

#[test]
fn promtool_accepts_the_alerts_and_their_tests() {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let [one, two, file] = arguments;
        match Command::new("promtool").args([one, two]).arg(deploy(file)).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{file}: {said}");
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
                let _ = writeln!(io::stderr(), "SKIPPED promtool {one} {two}: not installed");
            }
        }
    }
}
