//! The policy's files to the policy in force, all or nothing.
//!
//! One thread reads, checks, compiles and publishes; triggers queue up in front of it, so that two
//! reloads never overlap. Whatever is wrong leaves the policy in force as it is.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_pipeline::snapshot::Content;
use bulkhead_pipeline::snapshot::staged::Staging;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};
use tracing::{debug, error, info, warn};

use crate::audit::{Draft, What, Who};
use crate::candidate::{Candidate, Cost, Finding, micros, unix_now_ms};
use crate::log::kind;
use crate::policy_files::{PolicyFiles, PolicyHash};
use crate::signature::Seal;
use crate::signature::gate::{self, Age};
use crate::state::{Current, Gateway};
use crate::watch::{Signature, Watch};
use crate::workflow::history::History;
use crate::workflow::stage;
use crate::workflow::standing::{self, Base, Pinned, Standing};
use crate::workflow::{ChangeReport, Order};
use crate::{accepted, bindings, headroom, notice};

/// How long a worker may take to judge by a new policy before it is reported as stalled.
const PUBLICATION_LIMIT: Duration = Duration::from_secs(5);

/// After the first change of a file, how long nothing may change before the files are read.
const QUIET: Duration = Duration::from_millis(100);

/// How long a file that keeps changing may put off its reading.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(2);

/// How often the files are looked at even though nobody said that they changed: the file system may
/// be one that tells nobody.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long to leave alone what there was too little memory for, though there seems to be enough.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// The most findings that one report carries.
const MAX_FINDINGS: usize = 100;

/// Why a reload is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
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
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema,
)]
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
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
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

impl ReloadReport {
    /// Of a reload that has not read anything yet.
    fn new(trigger: Trigger) -> Self {
        Self {
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
        }
    }
}

/// What the reload thread is asked for.
pub enum Request {
    /// Take the files into force.
    Reload {
        /// Why.
        trigger: Trigger,
        /// Who wants it.
        who: Who,
        /// Where the report goes, if anyone waits.
        reply: Option<Sender<ReloadReport>>,
    },
    /// Make a change.
    Change {
        /// The change.
        order: Box<Order>,
        /// Where the report goes.
        reply: Sender<ChangeReport>,
    },
}

/// How a publication went.
#[derive(Default)]
pub(crate) struct Publication {
    /// The first epoch of what was published.
    pub(crate) epoch: Option<u64>,
    /// Microseconds until the last worker judged by it.
    pub(crate) publish_us: Option<u64>,
    /// A worker that did not in time.
    pub(crate) stalled_worker: Option<usize>,
}

/// The queue in front of the reload thread. A trigger that finds it full is one of many: the ones
/// before it will read the same files.
pub fn queue() -> (Sender<Request>, Receiver<Request>) {
    bounded(32)
}

/// The one who reloads.
pub struct Reloader {
    pub(crate) gateway: Arc<Gateway>,
    seen: Option<Signature>,
    watch: Option<Watch>,
    /// What is in force and could not be kept.
    pub(crate) unkept: Option<Unkept>,
    /// When it was last tried in vain to put exceptions in force that were read late.
    pub(crate) late_tried: Option<Instant>,
    /// When it was last kept what is staged.
    pub(crate) staged_kept: Instant,
    /// The policy that there was too little memory for.
    short: Option<Short>,
    /// The same of what was staged when an earlier run ended.
    staged_short: Option<Short>,
}

/// What there was too little memory for: the texts are as good as before, and are tried again.
struct Short {
    text_bytes: u64,
    tried: Instant,
}

impl Short {
    fn new(text_bytes: u64) -> Self {
        Self { text_bytes, tried: Instant::now() }
    }

    fn is_due(&self) -> bool {
        self.tried.elapsed() >= MEMORY_INTERVAL && headroom::suffices(self.text_bytes).is_ok()
    }
}

/// What is to be said of a version once it can be kept.
pub(crate) struct Unkept {
    pub(crate) who: Who,
    pub(crate) by: String,
    pub(crate) brought_back: Option<u64>,
    pub(crate) tried: Instant,
}

impl Reloader {
    /// A reloader that has not read anything yet.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self {
            gateway,
            seen: None,
            watch: None,
            unkept: None,
            late_tried: None,
            staged_kept: Instant::now(),
            short: None,
            staged_short: None,
        }
    }

    /// Puts a policy into place at start: the files, or, where they are bad, the last accepted one; and
    /// what was staged beside it again.
    pub fn start(&mut self) {
        self.start_policy();
        self.start_staged();
    }

    fn start_staged(&mut self) {
        self.staged_short = stage::kept::restore(&self.gateway).map(Short::new);
    }

    /// Tries again what there was too little memory for, once there is enough: nobody touches a file
    /// because memory is back.
    fn try_again_with_memory(&mut self) {
        if self.short.as_ref().is_some_and(Short::is_due) {
            if self.gateway.policy().current.is_none() {
                self.start_policy();
            } else {
                self.reload(Trigger::File, &Who::gateway());
            }
        }
        if self.staged_short.as_ref().is_some_and(Short::is_due) {
            self.staged_short = None;
            // Whoever has staged something since wants that.
            if self.gateway.policy().staged.is_none() {
                self.start_staged();
            }
        }
    }

    fn start_policy(&mut self) {
        if self.start_pinned() {
            return;
        }
        let report = self.reload(Trigger::Start, &Who::gateway());
        if report.outcome.is_success() {
            return;
        }
        let started = |detail: String| Draft::new(Who::gateway(), What::Start, detail);
        let config = &self.gateway.config;
        let mut standing = self.gateway.policy().standing.clone();
        let kept = accepted::read(&config.state_dir, &config.limits).and_then(|files| {
            let made = standing::make(&self.gateway, &files, &mut standing.overlay);
            let wrong = |found: Vec<Finding>| {
                format!("the last accepted policy no longer is one: {}", first_message(&found))
            };
            Ok((files, made.map_err(wrong)?))
        });
        match kept {
            Ok((files, candidate)) => {
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
                standing.base = Some(Base::seen(&self.gateway, files, source.clone()));
                self.install(candidate, source, true, standing, Staging::Keep, stage::Next::Keep);
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
                // Whoever has stopped leaves what there is to the next one.
                _ if self.gateway.is_stopping() => return,
                Ok(request) => {
                    self.serve(request, requests);
                    // What was watched may have been replaced, links above all.
                    self.watch(sender);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.gateway.audit.catch_up();
                    self.end_expired_grants();
                    self.take_up_unread_exceptions();
                    self.keep_again();
                    self.keep_staged_now_and_then();
                    self.try_again_with_memory();
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
        self.reload_of(Age::Newest, trigger, who)
    }

    /// The same, also where the files were signed earlier than what was in force, if `age` says so.
    pub(crate) fn reload_of(&mut self, age: Age, trigger: Trigger, who: &Who) -> ReloadReport {
        let report = self.attempt(age, trigger, who);
        self.note(&report);
        report
    }

    fn note(&self, report: &ReloadReport) {
        log(report);
        let mut state = self.gateway.policy();
        *state.outcomes.entry(report.outcome).or_default() += 1;
        state.last = Some(report.clone());
        drop(state);
        self.gateway.wake.notify_all();
    }

    /// Serves one request, and where it is for a reload, all such that came while the files settled:
    /// they share one reload.
    fn serve(&mut self, request: Request, requests: &Receiver<Request>) {
        let (mut trigger, mut who, reply) = match request {
            Request::Reload { trigger, who, reply } => (trigger, who, reply),
            Request::Change { order, reply } => return self.serve_change(&order, &reply),
        };
        let mut waiting: Vec<_> = reply.into_iter().collect();
        let mut change = None;
        let begun = Instant::now();
        // Whoever commands is not made to wait; a file that changed may still be being written.
        while trigger == Trigger::File && begun.elapsed() < LONGEST_DEBOUNCE {
            match requests.recv_timeout(QUIET) {
                Ok(Request::Reload { trigger: next, who: by, reply }) => {
                    waiting.extend(reply);
                    if next != Trigger::File {
                        (trigger, who) = (next, by);
                    }
                }
                Ok(Request::Change { order, reply }) => {
                    // The files come first, as they were changed first.
                    change = Some((order, reply));
                    break;
                }
                Err(_) => break,
            }
        }
        let signature = Signature::of(&self.gateway.config.policy);
        if trigger == Trigger::File && self.seen.as_ref() == Some(&signature) {
            debug!("a change near the policy's files left them as they are");
        } else {
            notice::reloading(&self.gateway);
            let report = self.reload(trigger, &who);
            notice::reloaded(&self.gateway, &report);
            for reply in waiting {
                // Whoever no longer waits has no use for the report.
                let _ = reply.try_send(report.clone());
            }
        }
        if let Some((order, reply)) = change {
            self.serve_change(&order, &reply);
        }
    }

    fn serve_change(&mut self, order: &Order, reply: &Sender<ChangeReport>) {
        let report = self.change(order);
        // Whoever no longer waits finds it in the log, and in the audit log.
        let _ = reply.try_send(report);
    }

    /// Starts with the version that an earlier run was told to stand by, where the files have not
    /// changed since. False where there is none, or it is no policy any more. Where there is only too little
    /// memory for it, nothing takes its place: it is tried again.
    fn start_pinned(&mut self) -> bool {
        let gateway = self.gateway.clone();
        let config = &gateway.config;
        let mut standing = gateway.policy().standing.clone();
        let Some(Pinned { version, files: known }) = standing.pinned.clone() else { return false };
        let seen = Signature::of(&config.policy);
        let files = PolicyFiles::read(&config.policy, &config.limits).ok();
        let there = files.map(|files| files.hash().to_string());
        if there.is_some() && there != known {
            warn!(
                "the policy's files were changed since version {version} took their place: they are \
                 in force now"
            );
            return false;
        }
        let mut short = None;
        let made = History::read(&config.state_dir).and_then(|history| {
            let gone = || format!("version {version} is not kept any more");
            let version = history.version(version).ok_or_else(gone)?;
            let files = History::files(&config.state_dir, version, &config.limits)?;
            let made = standing::make(&gateway, &files, &mut standing.overlay);
            let wrong = |found: Vec<Finding>| {
                if headroom::is_short(&found) {
                    short = Some((files.text_bytes(), found));
                    return String::new();
                }
                format!("it no longer is a policy: {}", first_message(&found))
            };
            let candidate = made.map_err(wrong)?;
            Ok((candidate, Base::seen(&gateway, files, version.source.clone())))
        });
        if let Some((text_bytes, found)) = short {
            self.short = Some(Short::new(text_bytes));
            self.seen = Some(seen);
            let mut report = ReloadReport::new(Trigger::Start);
            (report.outcome, report.findings) = (ReloadOutcome::Refused, found);
            self.note(&report);
            return true;
        }
        let (candidate, base) = match made {
            Ok(made) => made,
            Err(why) => {
                let detail = format!(
                    "version {version}, which stood in the place of the policy's files, cannot be in \
                     force: {why}; the files are tried in its place"
                );
                error!("{detail}");
                gateway.audit.enter_anyway(Draft::new(Who::gateway(), What::Start, detail));
                return false;
            }
        };
        (self.seen, self.short) = (Some(seen), None);
        let detail =
            format!("started with version {version}, which stands in the place of the files");
        let hash = candidate.hash.to_string();
        let draft =
            Draft::new(Who::gateway(), What::Start, &detail).policies(None, Some(hash.clone()));
        gateway.audit.enter_anyway(draft);
        warn!("{detail}; `bulkhead reload` takes the files into force");
        let mut report = ReloadReport::new(Trigger::Start);
        report.outcome = ReloadOutcome::Accepted;
        (report.hash, report.rules) = (Some(hash), Some(candidate.policy.rule_count()));
        let source = base.source.clone();
        standing.base = Some(base);
        self.install(candidate, source, false, standing, Staging::Keep, stage::Next::Keep);
        let mut state = gateway.policy();
        *state.outcomes.entry(report.outcome).or_default() += 1;
        state.last = Some(report);
        drop(state);
        gateway.wake.notify_all();
        true
    }

    fn attempt(&mut self, age: Age, trigger: Trigger, who: &Who) -> ReloadReport {
        let mut report = ReloadReport::new(trigger);
        let gateway = self.gateway.clone();
        let path = gateway.config.policy.as_path();
        self.short = None;
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
        let seal = match gate::admit_files(&gateway, path, &files, age, who) {
            Ok(seal) => seal,
            Err(finding) => {
                report.outcome = ReloadOutcome::Refused;
                report.findings.push(*finding);
                return report;
            }
        };
        if self.is_in_force(hash, trigger) {
            report.outcome = ReloadOutcome::Unchanged;
            report.findings.extend(self.signed_again(hash, seal));
            return report;
        }
        let mut standing = gateway.policy().standing.clone();
        match standing::make(&gateway, &files, &mut standing.overlay) {
            Ok(candidate) => {
                if let Err(error) = self.enter(&candidate, path, seal.as_ref(), (trigger, who)) {
                    report.outcome = ReloadOutcome::Refused;
                    report.findings.push(Finding::error("not-audited", error, None));
                    return report;
                }
                report.outcome = ReloadOutcome::Accepted;
                report.rules = Some(candidate.policy.rule_count());
                report.cost = Some(candidate.cost);
                report.findings = candidate.warnings.iter().take(MAX_FINDINGS).cloned().collect();
                if let Some(pinned) = standing.pinned.take() {
                    let what = match pinned.version {
                        0 => "a policy that could not be kept".to_owned(),
                        version => format!("version {version}"),
                    };
                    let message = format!("{what} stood in the place of the files until now");
                    report.findings.push(Finding::warning("superseded", message));
                }
                let source = path.display().to_string();
                let base = Base::new(files.clone(), source.clone());
                standing.base = Some(base.sealed(seal.clone()));
                let by = trigger.label();
                report.findings.extend(self.versioned(&mut standing, &candidate, who, by, None));
                let staging = self.renewed();
                self.install(candidate, source, false, standing, staging, stage::Next::Keep);
                let publication = self.publication();
                report.epoch = publication.epoch;
                report.publish_us = publication.publish_us;
                report.stalled_worker = publication.stalled_worker;
                self.keep(path, &files, &mut report);
                report.findings.extend(gate::in_force(&gateway, seal.as_ref()));
            }
            Err(mut found) => {
                if headroom::is_short(&found) {
                    self.short = Some(Short::new(files.text_bytes()));
                }
                found.truncate(MAX_FINDINGS);
                report.outcome = ReloadOutcome::Refused;
                report.findings = found;
            }
        }
        report
    }

    /// Enters into the audit log that `candidate` is about to be in force. A start is not refused for
    /// want of room: it would leave the wires cut.
    fn enter(
        &self,
        candidate: &Candidate,
        path: &Path,
        seal: Option<&Seal>,
        (trigger, who): (Trigger, &Who),
    ) -> Result<(), String> {
        let gateway = &self.gateway;
        let before = gateway.policy().current.as_ref().map(|c| c.candidate.hash.to_string());
        let rules = candidate.policy.rule_count();
        let (what, verb) = match trigger {
            Trigger::Start => (What::Start, "started with"),
            _ => (What::Policy, "took up"),
        };
        let cause = trigger.label();
        let signed = gate::words(seal);
        let path = path.display();
        let detail = format!("{verb} the policy {path} with {rules} rules ({cause}){signed}");
        let after = Some(candidate.hash.to_string());
        let draft = Draft::new(who.clone(), what, detail).policies(before, after);
        if trigger == Trigger::Start {
            gateway.audit.enter_anyway(draft);
            return Ok(());
        }
        gateway.audit.enter(draft)
    }

    /// Whether exactly these files are in force, and not merely standing in; or, where a version
    /// stands in their place, whether they have not changed since and nobody asks for them.
    fn is_in_force(&self, hash: PolicyHash, trigger: Trigger) -> bool {
        let state = self.gateway.policy();
        if state.current.is_none() || state.fallback {
            return false;
        }
        if let Some(pinned) = &state.standing.pinned {
            let is_asked_for = matches!(trigger, Trigger::Command | Trigger::Signal);
            return !is_asked_for && pinned.files == Some(hash.to_string());
        }
        let base = state.standing.base.as_ref();
        base.is_some_and(|base| base.hash == hash)
    }

    /// Notes who has signed what is in force already, where its files were signed once more.
    fn signed_again(&self, hash: PolicyHash, seal: Option<Seal>) -> Option<Finding> {
        let mut state = self.gateway.policy();
        let base = state.standing.base.as_mut().filter(|base| base.hash == hash)?;
        base.seal.clone_from(&seal);
        drop(state);
        gate::in_force(&self.gateway, seal.as_ref())
    }

    /// Publishes to the workers, or, where they do not run yet, leaves the policy for their start.
    /// `next` is what control keeps of the staged policy from then on.
    pub(crate) fn install(
        &self,
        candidate: Candidate,
        source: String,
        fallback: bool,
        standing: Standing,
        staging: Staging,
        next: stage::Next,
    ) {
        let gateway = &*self.gateway;
        let prepared = bindings::prepare(gateway, &candidate);
        // Until it is published nobody else publishes what was in force before.
        let mut followed = gateway.bindings();
        let (policy, classifier) = followed.take_up(prepared, &candidate, gateway.uptime_ms());
        let staging = followed.up_to_date(staging);
        let mut held = gateway.policy();
        let state = &mut *held;
        let begins_anew = !matches!(staging, Staging::Keep);
        if let Some(publisher) = &mut state.publisher {
            let before = publisher.current().content.wires.clone();
            let counted = publisher.current().staged().cloned();
            let content = gateway.content(&candidate, &standing, Some(&before));
            publisher.publish_with(Content { policy, classifier, ..content }, staging);
            if let (Some(staged), true) = (&mut state.staged, begins_anew) {
                staged.leave(counted.as_ref(), publisher);
            }
        }
        state.standing = standing;
        match (next, &mut state.staged) {
            (stage::Next::Put(staged), _) => state.staged = Some(*staged),
            (stage::Next::Drop, _) => state.staged = None,
            (stage::Next::Adapt(candidate), Some(staged)) => staged.adapt(*candidate),
            (stage::Next::Adapt(_), None) | (stage::Next::Keep, _) => {}
        }
        state.current = Some(Current {
            candidate,
            source,
            since: Instant::now(),
            since_unix_ms: unix_now_ms(),
            revoked_before: gateway.flows_revoked(),
        });
        state.fallback = fallback;
        drop((held, followed));
        gateway.wake.notify_all();
    }

    /// Waits until every worker judges by what was published, and frees what came before. Others may
    /// look at the state meanwhile.
    pub(crate) fn publication(&self) -> Publication {
        let begun = Instant::now();
        let mut publication = Publication::default();
        loop {
            let mut state = self.gateway.policy();
            let Some(publisher) = &mut state.publisher else { return publication };
            publication.epoch = Some(publisher.current().first_epoch());
            match publisher.wait(Duration::from_micros(500)) {
                Ok(_) => {
                    publication.publish_us = Some(micros(begun.elapsed()));
                    publisher.collect();
                    state.last_publish_us = publication.publish_us;
                    drop(state);
                    stage::settle(&self.gateway);
                    return publication;
                }
                Err(stalled) if begun.elapsed() > PUBLICATION_LIMIT => {
                    publication.stalled_worker = Some(stalled.worker);
                    return publication;
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
            let finding = Finding::warning("not-kept", message);
            report.findings.push(finding);
        }
    }
}

fn first_message(found: &[Finding]) -> &str {
    found.first().map_or("it was refused", |finding| finding.message.as_str())
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
            error!(
                target: kind::RELOAD_REFUSED,
                trigger,
                hash,
                "the policy was refused; what was in force stays in force"
            );
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
