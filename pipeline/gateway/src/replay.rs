//! `bulkhead replay`: what would this policy have done to the traffic of these captures?
//!
//! Every capture goes through the gateway's own worker, over ports that read a file, with a clock
//! that goes by the capture's time stamps and never back. Each begins with no flow known and no grace
//! time: a TCP connection whose beginning is not in the capture is denied as `tcp_no_flow`. Tables are
//! as large as the capture needs, so a replay does not show what a table that is too small would.
//!
//! A frame that the capture cut short is judged at its original length where its headers are whole,
//! and as it stands in the file where they are not. Frames come out as they stand in the file.
//!
//! Read on in [`inputs`], [`sides`], [`engine`] and [`report`]; [`flows`] judges recorded flows.

pub mod copies;
pub mod engine;
pub mod flows;
pub mod inputs;
pub mod report;
pub mod sides;

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_pipeline::port::capture::{CaptureError, CaptureReader, CaptureWriter, Format};
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::{Action, Policy, RuleId};
use clap::{Args, ValueEnum};

use crate::candidate::{self, Candidate};
use crate::cli::exit;
use crate::config::Limits;
use crate::policy_files::PolicyFiles;
use engine::{Engine, MAX_BLOCKED_FLOWS, Outputs, Stopped};
use inputs::Input;
use report::{Counts, FileReport, PolicySummary, Report, RuleReport};
use sides::Inside;

/// What `replay` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Each capture begins with no flow known: TCP connections that began before \
    it are denied as tcp_no_flow."
)]
pub struct ReplayArgs {
    /// The policy: a file or a folder of *.yaml files
    #[arg(long, short, value_name = "POLICY")]
    pub policy: PathBuf,
    /// Who is on the inside port, repeatable; without it, a host is on the side on which it is
    /// first seen, the first sender inside
    #[arg(long, value_name = "CIDR|MAC")]
    pub inside: Vec<Inside>,
    /// The wire on which the captures were taken, where the policy tells wires apart
    #[arg(long, value_name = "NAME")]
    pub wire: Option<String>,
    /// Drop what the policy denies, or forward it and say what would have been dropped
    #[arg(long, value_name = "MODE", value_enum, default_value = "enforce")]
    pub mode: ReplayMode,
    /// Write the frames that were sent on here (.pcapng: pcapng, else pcap with nanoseconds)
    #[arg(long, value_name = "FILE")]
    pub out_allowed: Option<PathBuf>,
    /// Write the frames that were not sent on here
    #[arg(long, value_name = "FILE")]
    pub out_denied: Option<PathBuf>,
    /// Recorded flows in place of captures, as JSON lines, plain or in gzip; repeatable
    #[arg(long, value_name = "FILE", conflicts_with_all = ["captures", "inside", "wire", "out_allowed",
          "out_denied"])]
    pub flows: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Captures: pcap or pcapng, plain or in gzip, or folders of them
    #[arg(value_name = "FILE", required_unless_present = "flows")]
    pub captures: Vec<PathBuf>,
}

/// What a replay does with what the policy denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReplayMode {
    /// Drop it.
    Enforce,
    /// Forward it and count it.
    Observe,
}

impl ReplayMode {
    fn mode(self) -> Mode {
        match self {
            Self::Enforce => Mode::Enforce,
            Self::Observe => Mode::Observe,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// Replays what the command line names, and prints the report. Returns the exit code.
pub fn main(args: &ReplayArgs) -> u8 {
    if !args.flows.is_empty() {
        return flows::main(args);
    }
    match replay(args) {
        Ok(report) => print(&report, args.json),
        Err(Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

fn print(report: &Report, json: bool) -> u8 {
    let text = if json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => text + "\n",
            Err(error) => {
                eprintln!("error: the report cannot be written as JSON: {error}");
                return exit::UNAVAILABLE;
            }
        }
    } else {
        report.text()
    };
    let mut stdout = std::io::stdout().lock();
    // A reader that closes the pipe (`head`) has seen enough.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    let mut code = exit::OK;
    for error in report.files.iter().filter_map(|file| file.error.as_ref()) {
        eprintln!("error: {error}");
        code = exit::UNAVAILABLE;
    }
    code
}

/// Why nothing was replayed, or not all.
#[derive(Debug)]
pub struct Refusal {
    /// For people.
    pub message: String,
    /// Of the process.
    pub code: u8,
}

impl Refusal {
    fn refused(message: impl std::fmt::Display) -> Self {
        Self { message: format!("error: {message}"), code: exit::REFUSED }
    }

    fn unavailable(message: impl std::fmt::Display) -> Self {
        Self { message: format!("error: {message}"), code: exit::UNAVAILABLE }
    }
}

/// Replays what the command line names.
///
/// # Errors
///
/// The policy is refused, a named file is no capture, or an output cannot be written.
pub fn replay(args: &ReplayArgs) -> Result<Report, Refusal> {
    let limits = Limits::default();
    let files = PolicyFiles::read(&args.policy, &limits).map_err(Refusal::unavailable)?;
    let candidate = candidate::make(&files, None, &limits).map_err(|found| {
        let all: Vec<String> = found.into_iter().map(|finding| finding.rendered).collect();
        Refusal { message: all.join("\n\n"), code: exit::REFUSED }
    })?;
    let engine = Engine {
        policy: candidate.policy.clone(),
        classifier: candidate.classifier.clone(),
        mode: args.mode.mode(),
        wire: wire(&candidate.policy, args.wire.as_deref()).map_err(Refusal::refused)?,
        inside: args.inside.clone(),
    };
    let inputs = inputs::collect(&args.captures).map_err(|failed| {
        Refusal::unavailable(format!("cannot read {}: {}", failed.path.display(), failed.error))
    })?;
    let mut outputs = open_outputs(args, &inputs)?;
    let mut report = empty_report(args, &candidate);
    let mut progress = Progress::new(inputs.len());
    for input in &inputs {
        add_capture(&engine, input, &mut outputs, &mut report, &mut progress)?;
    }
    progress.clear();
    for writer in [outputs.allowed, outputs.denied].into_iter().flatten() {
        writer.finish().map_err(Refusal::unavailable)?;
    }
    Ok(report)
}

/// Replays one file into the report.
fn add_capture(
    engine: &Engine,
    input: &Input,
    outputs: &mut Outputs,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<(), Refusal> {
    let name = input.path.display().to_string();
    progress.begin(&name);
    let reader = match CaptureReader::open(&input.path) {
        Ok(reader) => reader,
        Err(error) if error.is_not_a_capture() && !input.named => {
            report.other_files += 1;
            return Ok(());
        }
        Err(error) => {
            let (counts, error) = (Counts::default(), Some(error.to_string()));
            report.files.push(FileReport { path: name, counts, error });
            return Ok(());
        }
    };
    let flows = flows_of(&input.path, reader.is_compressed());
    let outcome = engine
        .replay(&name, reader, flows, outputs, &mut |records| progress.show(records))
        .map_err(|stopped| match stopped {
            Stopped::Output(error) => Refusal::unavailable(error),
            Stopped::Accounting(error) => Refusal {
                message: format!(
                    "error: {}\nThis is a defect of Bulkhead; please report it with the capture.",
                    error.0
                ),
                code: exit::UNAVAILABLE,
            },
        })?;
    for (rule, hits) in report.rules.iter_mut().zip(&outcome.hits) {
        rule.hits += hits;
    }
    report.total.merge(&outcome.counts);
    report.blocked_flows.extend(outcome.blocked);
    report.packets_of_more_flows += outcome.packets_of_more_flows;
    report.files.push(FileReport {
        path: name,
        counts: outcome.counts,
        error: outcome.error.as_ref().map(CaptureError::to_string),
    });
    Ok(())
}

/// How many flows a capture may hold, by its size: none is shorter than a record of 64 bytes. What
/// is compressed, and what is no regular file, may hold more.
pub fn flows_of(path: &Path, compressed: bool) -> usize {
    const COMPRESSION: u64 = 16;
    const MAX_FLOWS: usize = 1 << 20;
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => return MAX_FLOWS,
    };
    let bytes = if compressed { bytes.saturating_mul(COMPRESSION) } else { bytes };
    usize::try_from(bytes / 64).unwrap_or(MAX_FLOWS).clamp(256, MAX_FLOWS)
}

/// The wire that is meant: the one that is named, or the only one that the policy knows.
fn wire(policy: &Policy, name: Option<&str>) -> Result<WireId, String> {
    let known = || policy.wires().iter().map(|wire| &**wire).collect::<Vec<_>>().join(", ");
    match (name, policy.wires().len()) {
        (None, 0 | 1) => Ok(WireId(0)),
        (None, _) => Err(format!(
            "the policy has rules for single wires: say with --wire on which the captures were \
             taken: {}",
            known()
        )),
        // A wire of which no rule speaks has an index of its own.
        (Some(_), 0) => Ok(WireId(0)),
        (Some(name), wires) => match policy.wires().iter().position(|wire| &**wire == name) {
            Some(index) => Ok(WireId(index as u16)),
            None if wires < usize::from(u16::MAX) => Ok(WireId(wires as u16)),
            None => Err(format!("the policy knows no wire {name:?}, only {}", known())),
        },
    }
}

/// Creates the output files, unless that would overwrite what is to be read.
fn open_outputs(args: &ReplayArgs, inputs: &[Input]) -> Result<Outputs, Refusal> {
    let paths = [&args.out_allowed, &args.out_denied];
    let mut taken: Vec<PathBuf> =
        inputs.iter().filter_map(|input| fs::canonicalize(&input.path).ok()).collect();
    let mut writers = Vec::new();
    for path in paths {
        let Some(path) = path else {
            writers.push(None);
            continue;
        };
        if fs::canonicalize(path).is_ok_and(|real| taken.contains(&real)) {
            let path = path.display();
            let text = format!("{path} is an input or the other output: name another output file");
            return Err(Refusal::refused(text));
        }
        let writer = CaptureWriter::create(path, Format::for_path(path));
        writers.push(Some(writer.map_err(Refusal::unavailable)?));
        taken.extend(fs::canonicalize(path).ok());
    }
    let denied = writers.pop().flatten();
    let allowed = writers.pop().flatten();
    Ok(Outputs { allowed, denied, flows_left: MAX_BLOCKED_FLOWS, copies: None })
}

fn empty_report(args: &ReplayArgs, candidate: &Candidate) -> Report {
    let policy = &candidate.policy;
    let ids = (0..policy.rules().len() as u32).map(RuleId).chain([RuleId::DEFAULT]);
    let rule = |id: RuleId| RuleReport {
        name: policy.rule_name(id).to_owned(),
        action: match policy.action(id) {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Reject => "reject",
        },
        location: (policy.rules().get(id.0 as usize))
            .map(|rule| format!("{}:{}", rule.location.file, rule.location.line)),
        hits: 0,
    };
    Report {
        policy: PolicySummary {
            path: args.policy.display().to_string(),
            sha256: candidate.hash.to_string(),
            rules: policy.rules().len(),
        },
        mode: args.mode.label(),
        files: Vec::new(),
        other_files: 0,
        total: Counts::default(),
        rules: ids.map(rule).collect(),
        blocked_flows: Vec::new(),
        packets_of_more_flows: 0,
    }
}

/// A line on the terminal that says how far a long replay is.
struct Progress {
    terminal: bool,
    files: usize,
    begun: usize,
    name: String,
    next: Instant,
    shown: bool,
}

impl Progress {
    /// How long a replay may take before it says anything.
    const PATIENCE: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_millis(200);

    fn new(files: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let next = Instant::now() + Self::PATIENCE;
        Self { terminal, files, begun: 0, name: String::new(), next, shown: false }
    }

    fn begin(&mut self, name: &str) {
        self.begun += 1;
        if self.terminal {
            name.clone_into(&mut self.name);
            self.show(0);
        }
    }

    fn show(&mut self, records: u64) {
        if self.terminal && Instant::now() >= self.next {
            let (begun, files, name) = (self.begun, self.files, &self.name);
            eprint!("\r\x1b[Kfile {begun} of {files}, {records} records: {name}");
            self.next = Instant::now() + Self::INTERVAL;
            self.shown = true;
        }
    }

    fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
