//! `bulkhead check`: is a policy, or a configuration, sound? For people and for CI.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::analysis::{self, Analysis};
use crate::candidate::{self, Assertion, Candidate, Cost, Finding};
use crate::cli::{CheckArgs, exit};
use crate::config::{Config, ConfigError, Limits, Signatures};
use crate::control::client::print_json;
use crate::policy_files::PolicyFiles;
use crate::signature::{self, Envelope};

/// What is known of everything that was checked, for programs.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CheckReport {
    /// The configuration; null where none was checked.
    config: Option<ConfigChecked>,
    policies: Vec<Report>,
    /// What the command exits with.
    exit_code: u8,
}

/// What is known of a configuration after its check.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ConfigChecked {
    path: String,
    /// `accepted`, `refused` or `unreadable`.
    result: &'static str,
    /// The names of the wires of one that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    wires: Option<Vec<String>>,
    /// What is wrong with one that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<ConfigFinding>>,
}

/// What is wrong with a configuration.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ConfigFinding {
    /// Always `error`.
    severity: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// All of it as it is shown to a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    rendered: Option<String>,
}

/// What is known of one policy after its check.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Report {
    path: String,
    /// `accepted`, `refused` or `unreadable`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
    findings: Vec<Finding>,
    /// Of an accepted policy what is odd about its rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    analysis: Option<Analysis>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Summary {
    hash: String,
    files: usize,
    text_bytes: usize,
    rules: usize,
    endpoints: usize,
    services: usize,
    assertions: Vec<Assertion>,
    scheduled_changes: usize,
    #[serde(flatten)]
    cost: Cost,
}

/// Checks what the command line names. Returns the exit code.
pub fn main(args: &CheckArgs) -> u8 {
    let mut worst = exit::OK;
    let mut limits = Limits::default();
    let mut wires = None;
    let mut paths = args.policies.clone();
    let mut config_report = None;
    let mut trust = Signatures::default();
    if let Some(path) = &args.config {
        match Config::load(path) {
            Ok(config) => {
                if paths.is_empty() {
                    paths.push(config.policy.clone());
                }
                let names = config.wires.iter().map(|wire| Arc::from(wire.name.as_str()));
                wires = Some(names.collect::<Vec<Arc<str>>>());
                limits = config.limits.clone();
                trust = config.signatures.clone();
                config_report = Some(config_accepted(path, wires.as_deref().unwrap_or_default()));
            }
            Err(error) => {
                worst = error.exit_code();
                config_report = Some(config_refused(path, &error));
            }
        }
    }
    let reports: Vec<Report> =
        paths.iter().map(|path| check(path, wires.as_deref(), (&limits, &trust), args)).collect();
    for report in &reports {
        worst = worse(worst, exit_code(report, args.deny_warnings));
    }
    if args.json {
        let document = CheckReport {
            config: config_report.map(|report| report.json),
            policies: reports,
            exit_code: worst,
        };
        print_json(&document);
    } else {
        if let Some(report) = config_report {
            println!("{}", report.text);
        }
        reports.iter().for_each(print);
    }
    worst
}

fn check(
    path: &Path,
    wires: Option<&[Arc<str>]>,
    (limits, trust): (&Limits, &Signatures),
    args: &CheckArgs,
) -> Report {
    let shown = path.display().to_string();
    let files = match PolicyFiles::read(path, limits) {
        Ok(files) => files,
        Err(error) => {
            let finding = Finding::error("unreadable", error.to_string(), None);
            let result = "unreadable";
            let findings = vec![finding];
            return Report { path: shown, result, summary: None, findings, analysis: None };
        }
    };
    let signed = match trust.trusted_keys {
        Some(_) => Envelope::read(path)
            .and_then(|envelope| signature::verify(trust, &files, envelope.as_ref(), None)),
        None => Ok(None),
    };
    let made = candidate::make(&files, wires, limits);
    let made = match (made, signed) {
        (Ok(_), Err(refusal)) => Err(vec![Finding::from(&refusal)]),
        (Err(mut found), Err(refusal)) => {
            found.push(Finding::from(&refusal));
            Err(found)
        }
        (made, Ok(_)) => made,
    };
    match made {
        Ok(candidate) => Report {
            path: shown,
            result: "accepted",
            summary: Some(summary(&files, &candidate)),
            analysis: Some(analysis::analyse(&candidate.policy, &files, args.correlations)),
            findings: candidate.warnings,
        },
        Err(findings) => {
            Report { path: shown, result: "refused", summary: None, findings, analysis: None }
        }
    }
}

fn summary(files: &PolicyFiles, candidate: &Candidate) -> Summary {
    let policy = &candidate.policy;
    Summary {
        hash: candidate.hash.to_string(),
        files: files.sources.len(),
        text_bytes: files.sources.iter().map(|source| source.text.len()).sum(),
        rules: policy.rule_count(),
        endpoints: policy.endpoints().len(),
        services: policy.services().len(),
        assertions: candidate.assertions.clone(),
        scheduled_changes: policy.schedule().len(),
        cost: candidate.cost,
    }
}

fn print(report: &Report) {
    for finding in &report.findings {
        println!("{}\n", finding.rendered);
    }
    if let Some(analysis) = &report.analysis {
        print_analysis(analysis);
    }
    for assertion in report.summary.iter().flat_map(|summary| &summary.assertions) {
        println!("{}", assertion.text);
    }
    let count = |severity| all_findings(report).filter(|f| f.severity == severity).count();
    let (errors, warnings, notes) = (count("error"), count("warning"), count("note"));
    let analysed = report.analysis.as_ref().map_or(0, |analysis| analysis.took_ms);
    match &report.summary {
        Some(summary) => println!(
            "{}: accepted with {} and {}: {}, {}, {}, {}; loaded in {}, asserted in {}, compiled in \
             {} to {} KiB, analysed in {analysed} ms; hash {}",
            report.path,
            counted(warnings, "warning"),
            counted(notes, "note"),
            counted(summary.rules, "rule"),
            counted(summary.endpoints, "distinct endpoint"),
            counted(summary.services, "distinct service"),
            counted(summary.assertions.len(), "assertion"),
            milliseconds(summary.cost.load_us),
            milliseconds(summary.cost.assert_us),
            milliseconds(summary.cost.compile_us),
            summary.cost.classifier_bytes.div_ceil(1024),
            &summary.hash[..12],
        ),
        None => println!(
            "{}: {} with {} and {}",
            report.path,
            report.result,
            counted(errors, "error"),
            counted(warnings, "warning"),
        ),
    }
}

/// The most findings about rules that are printed.
const MAX_PRINTED: usize = 50;

/// The most rules that are named one by one.
const MAX_NAMED: usize = 10;

fn print_analysis(analysis: &Analysis) {
    for found in analysis.findings.iter().take(MAX_PRINTED) {
        println!("{}\n", found.finding.rendered);
    }
    if let Some(more @ 1..) = analysis.findings.len().checked_sub(MAX_PRINTED) {
        println!("{more} more findings about rules: --json lists them all\n");
    }
    let unknown = &analysis.not_analysed;
    if !unknown.is_empty() {
        let mut names: Vec<&str> = unknown.iter().take(MAX_NAMED).map(String::as_str).collect();
        if unknown.len() > names.len() {
            names.push("…");
        }
        println!(
            "{} not analysed, because deciding it takes too much work; nothing is claimed about: \
             {}\n",
            counted(unknown.len(), "rule"),
            names.join(", "),
        );
    }
}

/// The findings about the text and those about the rules.
fn all_findings(report: &Report) -> impl Iterator<Item = &Finding> {
    let analysis = report.analysis.iter().flat_map(|analysis| &analysis.findings);
    report.findings.iter().chain(analysis.map(|found| &found.finding))
}

struct ConfigReport {
    text: String,
    json: ConfigChecked,
}

fn config_accepted(path: &Path, wires: &[Arc<str>]) -> ConfigReport {
    let names: Vec<&str> = wires.iter().map(|name| &**name).collect();
    ConfigReport {
        text: format!("{}: accepted; wires: {}", path.display(), names.join(", ")),
        json: ConfigChecked {
            path: path.display().to_string(),
            result: "accepted",
            wires: Some(wires.iter().map(ToString::to_string).collect()),
            findings: None,
        },
    }
}

fn config_refused(path: &Path, error: &ConfigError) -> ConfigReport {
    let (result, findings) = match error {
        ConfigError::Unreadable(why) => {
            let finding = ConfigFinding {
                severity: "error",
                message: why.clone(),
                file: None,
                line: None,
                column: None,
                help: None,
                rendered: None,
            };
            ("unreadable", vec![finding])
        }
        ConfigError::Invalid(diagnostics) => (
            "refused",
            (diagnostics.0.iter())
                .map(|d| ConfigFinding {
                    severity: "error",
                    message: d.message.clone(),
                    file: Some(d.file.clone()),
                    line: Some(d.line),
                    column: Some(d.column),
                    help: d.help.clone(),
                    rendered: Some(d.to_string()),
                })
                .collect(),
        ),
    };
    ConfigReport {
        text: format!("{error}\n\n{}: {result}", path.display()),
        json: ConfigChecked {
            path: path.display().to_string(),
            result,
            wires: None,
            findings: Some(findings),
        },
    }
}

fn exit_code(report: &Report, deny_warnings: bool) -> u8 {
    match report.result {
        "accepted" if deny_warnings && all_findings(report).any(|f| f.severity == "warning") => {
            exit::WARNINGS
        }
        "accepted" => exit::OK,
        "refused" => exit::REFUSED,
        _ => exit::UNAVAILABLE,
    }
}

/// Of two exit codes the one that a script must not miss.
fn worse(a: u8, b: u8) -> u8 {
    let rank = |code| match code {
        exit::REFUSED => 3,
        exit::UNAVAILABLE => 2,
        exit::WARNINGS => 1,
        _ => 0,
    };
    if rank(b) > rank(a) { b } else { a }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:01} ms", micros / 1000, micros % 1000 / 100)
}

/// The path that a command without a policy means.
pub(crate) fn policy_of(policy: Option<&PathBuf>, config: Option<&Config>) -> Option<PathBuf> {
    policy.cloned().or_else(|| config.map(|config| config.policy.clone()))
}
