//! The policy's files to the policy in force, all or nothing.
//!
//! One thread reads, checks, compiles and publishes; triggers queue up in front of it, so that two
//! reloads never overlap. Whatever is wrong leaves the policy in force as it is.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_pipeline::snapshot::Content;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};
use tracing::{debug, error, info, warn};

use crate::audit::{Draft, What, Who};
use crate::candidate::{self, Candidate, Cost, Finding, micros, unix_now_ms};
use crate::policy_files::{PolicyFiles, PolicyHash};
use crate::state::{Current, Gateway};
use crate::watch::{Signature, Watch};
use crate::{accepted, bindings, notice};

/// How long a worker may take to judge by a new policy before it is reported as stalled.
const PUBLICATION_LIMIT: Duration = Duration::from_secs(5);

/// After the first change of a file, how long nothing may change before the files are read.
const QUIET: Duration = Duration::from_millis(100);

/// How long a file that keeps changing may put off its reading.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(2);

/// How often the files are looked at even though nobody said that they changed: the file system may
/// be one that tells nobody.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The most findings that one report carries.
const MAX_FINDINGS: usize = 100;

/// Why a reload is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// The gateway starts.
    Start,
    /// A file changed.
    File,
    /// SIGHUP.
    Signal,
    /// `bulkhead reload`.
    Command,
}

impl Trigger {
    /// The words in the log and in `status`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file change",
            Self::Signal => "SIGHUP",
            Self::Command => "command",
        }
    }
}

/// What became of a reload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadOutcome {
    /// The files are in force.
    Accepted,
    /// The files are what is in force already.
    Unchanged,
    /// The files are wrong; what was in force still is.
    Refused,
    /// The files could not be read; what was in force still is.
    Unreadable,
}

impl ReloadOutcome {
    /// Every outcome.
    pub const ALL: &'static [Self] =
        &[Self::Accepted, Self::Unchanged, Self::Refused, Self::Unreadable];

    /// The word in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
        }
    }

    /// Whether the files as they are now are in force.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Accepted | Self::Unchanged)
    }
}

/// What a reload did, for the command, the log and `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReloadReport {
    /// What became of it.
    pub outcome: ReloadOutcome,
    /// Why it was tried.
    pub trigger: Trigger,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: Option<i64>,
    /// The hash of the files, where they could be read.
    pub hash: Option<String>,
    /// Rules of the policy, where it was accepted.
    pub rules: Option<usize>,
    /// The first epoch of the policy, where it was published.
    pub epoch: Option<u64>,
    /// What it took to read and compile the policy, where it was accepted.
    pub cost: Option<Cost>,
    /// Microseconds from publication until the last worker judged by the policy.
    pub publish_us: Option<u64>,
    /// A worker that did not judge by the policy in time.
    pub stalled_worker: Option<usize>,
    /// Errors and warnings.
    pub findings: Vec<Finding>,
}

/// A trigger with whoever waits for the report.
pub struct Request {
    /// Why.
    pub trigger: Trigger,
    /// Who wants it.
    pub who: Who,
    /// Where the report goes, if anyone waits.
    pub reply: Option<Sender<ReloadReport>>,
}

/// The queue in front of the reload thread. A trigger that finds it full is one of many: the ones
/// before it will read the same files.
pub fn queue() -> (Sender<Request>, Receiver<Request>) {
    bounded(32)
}

/// The one who reloads.
pub struct Reloader {
    gateway: Arc<Gateway>,
    seen: Option<Signature>,
    watch: Option<Watch>,
}

impl Reloader {
    /// A reloader that has not read anything yet.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, seen: None, watch: None }
    }

    /// Puts a policy into place at start: the files, or, where they are bad, the last accepted one.
    pub fn start(&mut self) {
        let report = self.reload(Trigger::Start, &Who::gateway());
        if report.outcome.is_success() {
            return;
        }
        let started = |detail: String| Draft::new(Who::gateway(), What::Start, detail);
        let config = &self.gateway.config;
        let kept = accepted::read(&config.state_dir, &config.limits).and_then(|files| {
            let candidate = self.candidate(&files).map_err(|found| first_message(&found))?;
            Ok((files, candidate))
        });
        match kept {
            Ok((_, candidate)) => {
                error!(
                    hash = %candidate.hash.short(),
                    "the policy's files are bad: the last accepted policy stands in for them"
                );
                let source = accepted::path(&config.state_dir).display().to_string();
                let detail = "started; the policy's files are bad and the last accepted policy stands \
                              in for them";
                let hash = candidate.hash.to_string();
                self.gateway
                    .audit
                    .enter_anyway(started(detail.to_owned()).policies(None, Some(hash)));
                self.install(candidate, source, true);
            }
            Err(why) => {
                let detail = "started without a policy: the ports stay down".to_owned();
                self.gateway.audit.enter_anyway(started(detail));
                error!(
                    "no policy is in force and the ports stay down: the policy's files are bad, and \
                     {why}; correct {} and it will be taken at once",
                    config.policy.display()
                );
            }
        }
    }

    /// Serves the queue, and watches the files through `sender`, until the gateway stops.
    pub fn run(&mut self, sender: &Sender<Request>, requests: &Receiver<Request>) {
        self.watch(sender);
        while !self.gateway.is_stopping() {
            match requests.recv_timeout(LOOK_INTERVAL) {
                Ok(request) => {
                    self.serve(request, requests);
                    // What was watched may have been replaced, links above all.
                    self.watch(sender);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.gateway.audit.catch_up();
                    if self.seen != Some(Signature::of(&self.gateway.config.policy)) {
                        self.reload(Trigger::File, &Who::thing("file"));
                        self.watch(sender);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn watch(&mut self, sender: &Sender<Request>) {
        match Watch::new(&self.gateway.config.policy, sender.clone()) {
            Ok(watch) => self.watch = Some(watch),
            // The files are still looked at every now and then.
            Err(error) => debug!("the policy's files cannot be watched: {error}"),
        }
    }

    /// Reads the files and, if they are a policy, takes it into force.
    pub fn reload(&mut self, trigger: Trigger, who: &Who) -> ReloadReport {
        let report = self.attempt(trigger, who);
        log(&report);
        let mut state = self.gateway.policy();
        *state.outcomes.entry(report.outcome).or_default() += 1;
        state.last = Some(report.clone());
        drop(state);
        self.gateway.wake.notify_all();
        report
    }

    /// Serves one request and all that came while the files settled; they share one reload.
    fn serve(&mut self, request: Request, requests: &Receiver<Request>) {
        let (mut trigger, mut who) = (request.trigger, request.who);
        let mut waiting: Vec<_> = request.reply.into_iter().collect();
        let begun = Instant::now();
        // Whoever commands is not made to wait; a file that changed may still be being written.
        while trigger == Trigger::File && begun.elapsed() < LONGEST_DEBOUNCE {
            match requests.recv_timeout(QUIET) {
                Ok(next) => {
                    waiting.extend(next.reply);
                    if next.trigger != Trigger::File {
                        (trigger, who) = (next.trigger, next.who);
                    }
                }
                Err(_) => break,
            }
        }
        let signature = Signature::of(&self.gateway.config.policy);
        if trigger == Trigger::File && self.seen.as_ref() == Some(&signature) {
            debug!("a change near the policy's files left them as they are");
            return;
        }
        notice::reloading(&self.gateway);
        let report = self.reload(trigger, &who);
        notice::reloaded(&self.gateway, &report);
        for reply in waiting {
            // Whoever no longer waits has no use for the report.
            let _ = reply.try_send(report.clone());
        }
    }

    fn attempt(&mut self, trigger: Trigger, who: &Who) -> ReloadReport {
        let mut report = ReloadReport {
            outcome: ReloadOutcome::Unreadable,
            trigger,
            at_unix_ms: unix_now_ms(),
            hash: None,
            rules: None,
            epoch: None,
            cost: None,
            publish_us: None,
            stalled_worker: None,
            findings: Vec::new(),
        };
        let gateway = self.gateway.clone();
        let path = gateway.config.policy.as_path();
        // The signature first: a change while the files are read is then seen afterwards.
        self.seen = Some(Signature::of(path));
        let files = match PolicyFiles::read(path, &gateway.config.limits) {
            Ok(files) => files,
            Err(error) => {
                report.findings.push(Finding::error("unreadable", error.to_string(), None));
                return report;
            }
        };
        let hash = files.hash();
        report.hash = Some(hash.to_string());
        if self.is_in_force(hash) {
            report.outcome = ReloadOutcome::Unchanged;
            return report;
        }
        match self.candidate(&files) {
            Ok(candidate) => {
                if let Err(error) = self.enter(&candidate, path, trigger, who) {
                    report.outcome = ReloadOutcome::Refused;
                    report.findings.push(Finding::error("not-audited", error, None));
                    return report;
                }
                report.outcome = ReloadOutcome::Accepted;
                report.rules = Some(candidate.policy.rule_count());
                report.cost = Some(candidate.cost);
                report.findings = candidate.warnings.iter().take(MAX_FINDINGS).cloned().collect();
                self.install(candidate, path.display().to_string(), false);
                self.publication(&mut report);
                self.keep(path, &files, &mut report);
            }
            Err(mut found) => {
                found.truncate(MAX_FINDINGS);
                report.outcome = ReloadOutcome::Refused;
                report.findings = found;
            }
        }
        report
    }

    fn candidate(&self, files: &PolicyFiles) -> Result<Candidate, Vec<Finding>> {
        candidate::make(files, Some(&self.gateway.wire_names()), &self.gateway.config.limits)
    }

    /// Enters into the audit log that `candidate` is about to be in force. A start is not refused for
    /// want of room: it would leave the wires cut.
    fn enter(
        &self,
        candidate: &Candidate,
        path: &Path,
        trigger: Trigger,
        who: &Who,
    ) -> Result<(), String> {
        let gateway = &self.gateway;
        let before = gateway.policy().current.as_ref().map(|c| c.candidate.hash.to_string());
        let rules = candidate.policy.rule_count();
        let (what, verb) = match trigger {
            Trigger::Start => (What::Start, "started with"),
            _ => (What::Policy, "took up"),
        };
        let cause = trigger.label();
        let detail = format!("{verb} the policy {} with {rules} rules ({cause})", path.display());
        let after = Some(candidate.hash.to_string());
        let draft = Draft::new(who.clone(), what, detail).policies(before, after);
        if trigger == Trigger::Start {
            gateway.audit.enter_anyway(draft);
            return Ok(());
        }
        gateway.audit.enter(draft)
    }

    /// Whether exactly these files are in force, and not merely standing in.
    fn is_in_force(&self, hash: PolicyHash) -> bool {
        let state = self.gateway.policy();
        !state.fallback && state.current.as_ref().is_some_and(|c| c.candidate.hash == hash)
    }

    /// Publishes to the workers, or, where they do not run yet, leaves the policy for their start.
    fn install(&self, candidate: Candidate, source: String, fallback: bool) {
        let gateway = &*self.gateway;
        let prepared = bindings::prepare(gateway, &candidate);
        // Until it is published nobody else publishes what was in force before.
        let mut followed = gateway.bindings();
        let (policy, classifier) = followed.take_up(prepared, &candidate, gateway.uptime_ms());
        let mut state = gateway.policy();
        if let Some(publisher) = &mut state.publisher {
            let before = publisher.current().content.wires.clone();
            let content = gateway.content(&candidate, Some(&before));
            publisher.publish(Content { policy, classifier, ..content });
        }
        state.current = Some(Current {
            candidate,
            source,
            since: Instant::now(),
            since_unix_ms: unix_now_ms(),
            revoked_before: gateway.flows_revoked(),
        });
        state.fallback = fallback;
        drop((state, followed));
        gateway.wake.notify_all();
    }

    /// Waits until every worker judges by what was published, and frees what came before. Others may
    /// look at the state meanwhile.
    fn publication(&self, report: &mut ReloadReport) {
        let begun = Instant::now();
        loop {
            let mut state = self.gateway.policy();
            let Some(publisher) = &mut state.publisher else { return };
            report.epoch = Some(publisher.current().first_epoch());
            match publisher.wait(Duration::from_micros(500)) {
                Ok(_) => {
                    report.publish_us = Some(micros(begun.elapsed()));
                    publisher.collect();
                    state.last_publish_us = report.publish_us;
                    return;
                }
                Err(stalled) if begun.elapsed() > PUBLICATION_LIMIT => {
                    report.stalled_worker = Some(stalled.worker);
                    return;
                }
                Err(_) => drop(state),
            }
            thread::yield_now();
        }
    }

    fn keep(&self, path: &Path, files: &PolicyFiles, report: &mut ReloadReport) {
        let state_dir = &self.gateway.config.state_dir;
        if let Err(error) = accepted::keep(state_dir, files) {
            let message = format!(
                "{} is in force but could not be kept in {}: {error}; should it be bad at the next \
                 start, there is nothing to fall back to",
                path.display(),
                state_dir.display()
            );
            let mut finding = Finding::error("not-kept", message, None);
            finding.severity = "warning".to_owned();
            finding.rendered = format!("warning[not-kept]: {}", finding.message);
            report.findings.push(finding);
        }
    }
}

fn first_message(found: &[Finding]) -> String {
    let message = found.first().map_or("it was refused", |finding| finding.message.as_str());
    format!("the last accepted policy no longer is one: {message}")
}

fn log(report: &ReloadReport) {
    let trigger = report.trigger.label();
    let hash = report.hash.as_deref().map_or("", |hash| &hash[..12]);
    match report.outcome {
        ReloadOutcome::Accepted => {
            let cost = report.cost.unwrap_or_default();
            info!(
                trigger,
                hash,
                rules = report.rules,
                epoch = report.epoch,
                load_us = cost.load_us,
                assert_us = cost.assert_us,
                compile_us = cost.compile_us,
                classifier_bytes = cost.classifier_bytes,
                publish_us = report.publish_us,
                "the policy is in force"
            );
        }
        ReloadOutcome::Unchanged => info!(trigger, hash, "the policy is unchanged"),
        ReloadOutcome::Refused | ReloadOutcome::Unreadable => {
            error!(trigger, hash, "the policy was refused; what was in force stays in force");
        }
    }
    if let Some(worker) = report.stalled_worker {
        error!(worker, "a worker does not judge by the new policy: it hangs");
    }
    for finding in report.findings.iter().take(20) {
        match finding.severity.as_str() {
            "error" => error!("{}", finding.rendered),
            _ => warn!("{}", finding.rendered),
        }
    }
}
