//! Policy texts to a policy that may be published: loaded, its assertions held, compiled.
//!
//! `check`, `explain`, a start and a reload all come through here, so that what `check` accepts is
//! what a gateway accepts.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead_rules::analyze::{AssertionResult, check_assertions};
use bulkhead_rules::classifier::Classifier;
use bulkhead_rules::compile::{self, compile};
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::policy::{self, LoadOptions, Loaded, Must, Policy};
use bulkhead_rules::syntax::{self, Source};
use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::diagnostic::Diagnostic;
use crate::headroom;
use crate::policy_files::{PolicyFiles, PolicyHash};

/// A policy that may be published.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The checked policy.
    pub policy: Arc<Policy>,
    /// Its compiled form.
    pub classifier: Arc<Classifier>,
    /// By which it is known.
    pub hash: PolicyHash,
    /// What a person should look at.
    pub warnings: Vec<Finding>,
    /// What became of each assertion, in their order.
    pub assertions: Vec<Assertion>,
    /// What it took to make.
    pub cost: Cost,
}

/// What it took to make a [`Candidate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Cost {
    /// Microseconds from text to checked policy.
    pub load_us: u64,
    /// Microseconds for the proof of the assertions.
    pub assert_us: u64,
    /// Microseconds from checked policy to classifier.
    pub compile_us: u64,
    /// Heap bytes of the classifier.
    pub classifier_bytes: u64,
}

/// What became of an assertion.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct Assertion {
    /// In words, with its place.
    pub text: String,
    /// Whether it holds now and at every later change of the policy.
    pub holds: bool,
    /// For how many instants that is proved: now, and after each later change that could matter.
    pub instants: usize,
}

/// A finding as it is printed and as it travels over the control socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// `error` or `warning`.
    pub severity: String,
    /// The stable name of the kind of finding.
    pub code: String,
    /// What is wrong, one sentence.
    pub message: String,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// Line, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub help: Option<String>,
    /// All of it as a person wants it shown, with the source line and a caret.
    pub rendered: String,
}

impl Finding {
    /// An error about the policy as a whole, or about a file that could not be read.
    pub fn error(code: &str, message: String, help: Option<String>) -> Self {
        let mut rendered = format!("error[{code}]: {message}");
        if let Some(help) = &help {
            rendered.push_str(&format!("\n  = help: {help}"));
        }
        Self {
            severity: "error".to_owned(),
            code: code.to_owned(),
            message,
            file: None,
            line: None,
            column: None,
            help,
            rendered,
        }
    }
}

impl Finding {
    /// Something that a person should look at, and that is no reason to refuse.
    pub fn warning(code: &str, message: String) -> Self {
        let rendered = format!("warning[{code}]: {message}");
        Self { severity: "warning".to_owned(), rendered, ..Self::error(code, message, None) }
    }

    /// A warning: `path` lies in the policy's folder and is not part of the policy.
    fn left_out(path: &Path) -> Self {
        let path = path.display();
        let message = format!("{path} is not part of the policy: only *.yaml and *.yml files are");
        let rendered = format!("warning[left-out]: {message}");
        let finding = Self::error("left-out", message, None);
        Self { severity: "warning".to_owned(), rendered, ..finding }
    }
}

impl From<&syntax::Diagnostic> for Finding {
    fn from(diagnostic: &syntax::Diagnostic) -> Self {
        let location = diagnostic.location();
        Self {
            severity: match diagnostic.severity() {
                syntax::Severity::Error => "error".to_owned(),
                syntax::Severity::Warning => "warning".to_owned(),
            },
            code: diagnostic.code().label().to_owned(),
            message: diagnostic.message().to_owned(),
            file: location.as_ref().map(|l| l.file.to_string()),
            line: location.as_ref().map(|l| l.line),
            column: location.as_ref().map(|l| l.column),
            help: diagnostic.help().map(str::to_owned),
            rendered: diagnostic.to_string(),
        }
    }
}

/// Makes a candidate of `files`. `wires` are the gateway's wires, [`None`] where there is none.
///
/// # Errors
///
/// Everything that is wrong; never empty.
pub fn make(
    files: &PolicyFiles,
    wires: Option<&[Arc<str>]>,
    limits: &Limits,
) -> Result<Candidate, Vec<Finding>> {
    let mut left_out: Vec<Finding> =
        files.left_out.iter().map(|path| Finding::left_out(path)).collect();
    match make_of_what_was_read(files, wires, limits) {
        Ok(mut candidate) => {
            left_out.append(&mut candidate.warnings);
            candidate.warnings = left_out;
            Ok(candidate)
        }
        Err(mut found) => {
            found.append(&mut left_out);
            Err(found)
        }
    }
}

fn make_of_what_was_read(
    files: &PolicyFiles,
    wires: Option<&[Arc<str>]>,
    limits: &Limits,
) -> Result<Candidate, Vec<Finding>> {
    headroom::suffices(files.text_bytes()).map_err(no_memory)?;
    let begun = Instant::now();
    let loaded = load(&files.sources, wires, limits)?;
    let load = begun.elapsed();
    let policy = loaded.policy;
    let mut warnings: Vec<Finding> = loaded.warnings.iter().map(Finding::from).collect();
    let begun = Instant::now();
    let assertions = check_promises(&policy, files, &mut warnings)?;
    let assert = begun.elapsed();
    let begun = Instant::now();
    let within_reach = within_reach(&limits.compile);
    let classifier = compile(&policy, &within_reach).map_err(|error| {
        if error.is_for_memory() && within_reach.memory_bytes < limits.compile.memory_bytes {
            return no_memory(format!("there is too little memory left to compile it: {error}"));
        }
        let help = "split what it names, or raise `compile-mib` or `compile-s` under `[limits]`";
        vec![Finding::error("limit-exceeded", format!("{error}; {help}"), None)]
    })?;
    let compile = begun.elapsed();
    let cost = Cost {
        load_us: micros(load),
        assert_us: micros(assert),
        compile_us: micros(compile),
        classifier_bytes: classifier.size_bytes() as u64,
    };
    Ok(Candidate {
        policy: Arc::new(policy),
        classifier: Arc::new(classifier),
        hash: files.hash(),
        warnings,
        assertions,
        cost,
    })
}

fn no_memory(why: String) -> Vec<Finding> {
    let help = "make room, give the gateway more (`MemoryMax=`), or name groups where rules repeat; the \
                gateway tries its policy's files again once there is enough";
    vec![Finding::error(headroom::NO_MEMORY, why, Some(help.to_owned()))]
}

/// The limits of a compilation, none above the memory that there is.
fn within_reach(limits: &compile::Limits) -> compile::Limits {
    let left = headroom::left().and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
    compile::Limits { memory_bytes: limits.memory_bytes.min(left), ..*limits }
}

/// Texts to a checked policy, whatever its assertions say.
///
/// # Errors
///
/// Everything that is wrong; never empty.
pub fn load(
    sources: &[Source],
    wires: Option<&[Arc<str>]>,
    limits: &Limits,
) -> Result<Loaded, Vec<Finding>> {
    let options = LoadOptions {
        wires: wires.map(<[_]>::to_vec),
        now_unix_ms: unix_now_ms(),
        limits: policy::Limits {
            text_bytes: usize::try_from(limits.policy_bytes).unwrap_or(usize::MAX),
            ..policy::Limits::default()
        },
    };
    Policy::load(sources, &options)
        .map_err(|found| found.iter().map(Finding::from).collect::<Vec<_>>())
}

/// The most assertions that do not hold and are shown.
const MAX_SHOWN: usize = 50;

/// Checks what the policy promises about itself, from now on and for a synchronised clock. Before
/// the clock is, timed allow rules match nothing and timed denials always: nothing is allowed then
/// that is not allowed later, and what is closed no promise can help.
///
/// A broken promise that something is closed refuses the policy, however far away. A promise that
/// something is open refuses it when it is broken now; that it ends with a rule's `expires` is worth
/// a warning and no more, because time is what such a rule is for.
fn check_promises(
    policy: &Policy,
    files: &PolicyFiles,
    warnings: &mut Vec<Finding>,
) -> Result<Vec<Assertion>, Vec<Finding>> {
    let now = PolicyTime { unix_ms: unix_now_ms().unwrap_or_default(), synchronised: true };
    let results = check_assertions(policy, now);
    let mut broken = Vec::new();
    broken.extend(undecided(policy, &results));
    let (mut lapsing, mut unshown, mut unshown_broken) = (0, 0, false);
    for result in &results {
        let (Some(failure), Some(assertion)) =
            (&result.failure, policy.assertions().get(result.assertion))
        else {
            continue;
        };
        if broken.len() + lapsing >= MAX_SHOWN {
            unshown += 1;
            unshown_broken |= assertion.must == Must::NotReach || failure.at == now;
            continue;
        }
        let at = &assertion.location;
        let text = files.sources.iter().find(|source| source.name == at.file);
        let text = text.map_or("", |source| source.text.as_str());
        let excerpt = Diagnostic::at_place(&at.file, text, (at.line, at.column), 1, "").excerpt();
        let lapses = assertion.must == Must::Reach && failure.at != now;
        let (severity, message) = match lapses {
            true => ("warning", "this assertion will no longer hold once a rule expires"),
            false => ("error", "this assertion does not hold"),
        };
        let described = result.describe(policy);
        let finding = Finding {
            severity: severity.to_owned(),
            code: "assertion".to_owned(),
            message: format!("{message}: {described}"),
            file: Some(at.file.to_string()),
            line: Some(at.line),
            column: Some(at.column),
            help: None,
            rendered: format!("{severity}[assertion]: {message}\n{excerpt}\n{described}"),
        };
        if lapses {
            lapsing += 1;
            warnings.push(finding);
        } else {
            broken.push(finding);
        }
    }
    if unshown > 0 {
        let message = format!("{unshown} more assertions do not hold, now or later");
        let mut finding = Finding::error("too-many-findings", message, None);
        if unshown_broken {
            broken.push(finding);
        } else {
            finding.severity = "warning".to_owned();
            finding.rendered = finding.rendered.replacen("error", "warning", 1);
            warnings.push(finding);
        }
    }
    if !broken.is_empty() {
        return Err(broken);
    }
    let assertion = |result: &AssertionResult| Assertion {
        text: result.describe(policy),
        holds: result.holds(),
        instants: result.instants.len(),
    };
    Ok(results.iter().map(assertion).collect())
}

/// The error for promises whose proof is too much work: one that is not proved must not pass for
/// kept.
fn undecided(policy: &Policy, results: &[AssertionResult]) -> Option<Finding> {
    let mut undecided = results.iter().filter(|result| !result.is_decided());
    let first = undecided.next()?;
    let message = format!(
        "{} of {} assertions could not be decided; the first: {}",
        1 + undecided.count(),
        results.len(),
        first.describe(policy),
    );
    let help = "assert narrower endpoints and services, state fewer assertions, or remove timed \
                rules that have expired";
    Some(Finding::error("limit-exceeded", message, Some(help.to_owned())))
}

/// Whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since the Unix epoch, unless the clock stands before it.
pub fn unix_now_ms() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}
