//! The gateway, asked over its control socket: every second what it does, its policies whenever they
//! changed, and whatever a request wants to know or to have changed.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_rules::syntax::Source;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::Console;
use super::access::Caller;
use super::notes::Notes;
use super::overview::{Moment, Overview};
use super::problem::Problem;
use crate::audit::Entry;
use crate::candidate::{self, Candidate};
use crate::config::Limits;
use crate::control::client::{ANOTHER_QUESTION, ask};
use crate::control::questions::{About, AuditPage, Note, PolicyShown, Which};
use crate::control::{Answer, Ask};
use crate::map::Groups;
use crate::policy_files::PolicyFiles;
use crate::status::Status;
use crate::workflow::commands::Exceptions;
use crate::workflow::stage::StageReport;
use crate::workflow::{Change, ChangeReport};

/// How often the gateway is asked what it does.
const INTERVAL: Duration = Duration::from_secs(1);

/// Every how many such rounds what changes seldom is asked for.
const SELDOM: u64 = 5;

/// Questions of requests at a time: the gateway has places for 16 in all.
const MAX_QUESTIONS: usize = 6;

/// Moments that are kept: an hour.
const HISTORY: usize = 3600;

/// A gateway that has said nothing for so long counts as gone.
const STALE: Duration = Duration::from_secs(10);

/// Every how many rounds a policy is tried again that could not be read.
const RETRY: u64 = 30;

/// Entries of the audit log that are kept at hand.
const RECENT: usize = 100;

/// Flows of the staged policy that are listed in its event.
const STAGED_FLOWS: usize = 20;

/// The gateway at the other end of the socket.
#[derive(Debug)]
pub struct Gateway {
    socket: PathBuf,
    questions: Arc<Semaphore>,
    notes: Notes,
    state: Mutex<Known>,
}

/// What is known of it.
#[derive(Debug, Default)]
struct Known {
    moment: Option<Moment>,
    history: VecDeque<Arc<Overview>>,
    gone: Option<(Timestamp, String)>,
    exceptions: Option<Arc<Exceptions>>,
    recent: Arc<Vec<Entry>>,
    policies: Option<Arc<Policies>>,
}

/// The policies, compiled.
#[derive(Debug, Default)]
pub struct Policies {
    /// The one in force.
    pub active: Option<Arc<Compiled>>,
    /// The staged one.
    pub staged: Option<Arc<Compiled>>,
}

/// A policy as the gateway told it, compiled here.
#[derive(Debug)]
pub struct Compiled {
    /// Its texts.
    pub shown: PolicyShown,
    /// What they make.
    pub candidate: Candidate,
    /// Its groups as they are written.
    pub groups: Groups,
}

impl Compiled {
    /// Compiles what the gateway told.
    ///
    /// # Errors
    ///
    /// What is wrong with it, which it should not be.
    pub fn of(shown: PolicyShown, limits: &Limits) -> Result<Self, String> {
        let sources: Vec<Source> =
            shown.files.iter().map(|file| Source::new(&*file.name, file.text.clone())).collect();
        let groups = Groups::of_texts(&sources);
        let files = PolicyFiles { sources, left_out: Vec::new() };
        let wires: Vec<Arc<str>> = shown.wires.iter().map(|wire| Arc::from(&**wire)).collect();
        let candidate = candidate::make(&files, Some(&wires), limits).map_err(|found| {
            found.first().map_or_else(String::new, |finding| finding.rendered.clone())
        })?;
        Ok(Self { shown, candidate, groups })
    }
}

impl Gateway {
    /// The gateway that answers at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        let questions = Arc::new(Semaphore::new(MAX_QUESTIONS));
        let notes = Notes::start(socket.clone());
        Self { socket, questions, notes, state: Mutex::default() }
    }

    /// Asks on behalf of a request.
    ///
    /// # Errors
    ///
    /// 503 where the gateway does not answer, or answers that it cannot.
    pub async fn ask(&self, question: Ask) -> Result<Answer, Problem> {
        let place = Arc::clone(&self.questions).acquire_owned().await;
        let place = place.map_err(|_| Problem::unavailable("stopping"))?;
        let socket = self.socket.clone();
        let answer = tokio::task::spawn_blocking(move || {
            // Held until there is an answer, whether anybody waits for it still or not.
            let _place = place;
            ask(&socket, question)
        });
        match answer.await.map_err(|error| Problem::internal(error.to_string()))? {
            Ok(Answer::Error(error)) | Err(error) => Err(Problem::unavailable(error)),
            Ok(answer) => Ok(answer),
        }
    }

    /// Has something changed for a caller.
    ///
    /// # Errors
    ///
    /// 409 where the gateway refuses, 503 where it does not answer.
    pub async fn change(
        &self,
        caller: &Caller,
        change: Change,
        reason: String,
        force: bool,
    ) -> Result<ChangeReport, Problem> {
        let on_behalf_of = Some(caller.audit_name());
        let order = Ask::Change { change, reason: Some(reason), force, on_behalf_of };
        match self.ask(order).await? {
            Answer::Change(report) if report.done => Ok(*report),
            Answer::Change(report) => Err(Problem::refused(*report)),
            _ => Err(Problem::unavailable(ANOTHER_QUESTION)),
        }
    }

    /// The texts of a policy.
    ///
    /// # Errors
    ///
    /// 404 where there is no such policy; else see [`Self::ask`].
    pub async fn policy(&self, which: Which) -> Result<PolicyShown, Problem> {
        match self.ask(Ask::Policy { which }).await {
            Ok(Answer::Policy(shown)) => Ok(*shown),
            Ok(_) => Err(Problem::unavailable(ANOTHER_QUESTION)),
            Err(problem) if problem.detail.contains("no gateway answers") => Err(problem),
            Err(problem) => Err(Problem::not_found(problem.detail)),
        }
    }

    /// Entries of the audit log.
    ///
    /// # Errors
    ///
    /// See [`Self::ask`].
    pub async fn audit(&self, before: Option<u64>, limit: usize) -> Result<AuditPage, Problem> {
        match self.ask(Ask::Audit { before, limit }).await? {
            Answer::Audit(page) => Ok(*page),
            _ => Err(Problem::unavailable(ANOTHER_QUESTION)),
        }
    }

    /// What the staged policy would change.
    ///
    /// # Errors
    ///
    /// See [`Self::ask`].
    pub async fn staged(&self, limit: usize) -> Result<StageReport, Problem> {
        match self.ask(Ask::Staged { limit }).await? {
            Answer::Staged(report) => Ok(*report),
            _ => Err(Problem::unavailable(ANOTHER_QUESTION)),
        }
    }

    /// Grants and quarantines.
    ///
    /// # Errors
    ///
    /// See [`Self::ask`].
    pub async fn exceptions(&self) -> Result<Exceptions, Problem> {
        match self.ask(Ask::Exceptions {}).await? {
            Answer::Exceptions(all) => Ok(*all),
            _ => Err(Problem::unavailable(ANOTHER_QUESTION)),
        }
    }

    /// Enters into the gateway's audit log what somebody did at the console. Where that cannot be, the
    /// console's own log has it.
    pub fn note(&self, about: About, user: &str, detail: String) {
        info!(user, "{detail}");
        self.notes.enter(Note { about, on_behalf_of: user.to_owned(), detail });
    }

    /// How much of that could not be entered.
    pub fn notes_lost(&self) -> u64 {
        self.notes.lost()
    }

    /// Waits until all of it is entered, or for `limit`: the process is about to end.
    pub fn finish_notes(&self, limit: Duration) {
        self.notes.finish(limit);
    }

    /// What it does now, or since when it does not answer, and why.
    pub fn moment(&self) -> Result<Moment, (Timestamp, String)> {
        let state = self.state();
        match (&state.moment, &state.gone) {
            (Some(moment), None) if moment.age() > STALE => {
                let seconds = moment.age().as_secs();
                let since = Timestamp::now() - moment.age();
                Err((since, format!("it has said nothing for {seconds} s")))
            }
            (Some(moment), None) => Ok(moment.clone()),
            (_, Some(gone)) => Err(gone.clone()),
            (None, None) => Err((Timestamp::now(), "it was not asked yet".to_owned())),
        }
    }

    /// What was shown in the last `seconds`, the oldest first.
    pub fn history(&self, seconds: usize) -> Vec<Arc<Overview>> {
        let state = self.state();
        let skipped = state.history.len().saturating_sub(seconds);
        state.history.iter().skip(skipped).cloned().collect()
    }

    /// The policies, compiled; absent until it has answered.
    pub fn policies(&self) -> Option<Arc<Policies>> {
        self.state().policies.clone()
    }

    /// The latest known grants and quarantines.
    pub fn known_exceptions(&self) -> Option<Arc<Exceptions>> {
        self.state().exceptions.clone()
    }

    /// The latest entries of the audit log, the latest first.
    pub fn recent(&self) -> Arc<Vec<Entry>> {
        Arc::clone(&self.state().recent)
    }

    fn state(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Result<Status, String> {
        match ask(&self.socket, Ask::Status {})? {
            Answer::Status(status) => Ok(*status),
            Answer::Error(error) => Err(error),
            _ => Err(ANOTHER_QUESTION.to_owned()),
        }
    }
}

/// By what it is known that the policies are the same: hashes, and what commands have added.
type PolicyKey = (Option<String>, Option<u64>, Option<String>, Vec<String>);

/// Watches the gateway for as long as the process lives.
pub fn watch(console: &Console) {
    let gateway = &console.gateway;
    let mut key: Option<PolicyKey> = None;
    let mut tried: Option<PolicyKey> = None;
    for round in 0_u64.. {
        let begun = Instant::now();
        match gateway.status() {
            Ok(status) => {
                let was_gone = gateway.state().gone.take().is_some();
                if was_gone || round % SELDOM == 0 {
                    learn_seldom(gateway);
                }
                let staged = match ask(&gateway.socket, Ask::Staged { limit: STAGED_FLOWS }) {
                    Ok(Answer::Staged(report)) => Some(*report),
                    _ => None,
                };
                let policy_key = policy_key(&status, staged.as_ref());
                let is_known = key.as_ref() == Some(&policy_key);
                let is_due = tried.as_ref() != Some(&policy_key) || round % RETRY == 0;
                if !is_known && is_due {
                    tried = Some(policy_key.clone());
                    if learn_policies(console) {
                        key = Some(policy_key);
                    }
                }
                let moment = {
                    let mut state = gateway.state();
                    let moment = Moment::new(status, staged, state.moment.as_ref());
                    state.moment = Some(moment.clone());
                    moment
                };
                let overview = Overview::of(console, Ok(moment));
                let mut state = gateway.state();
                state.history.push_back(Arc::new(overview.without_lists()));
                if state.history.len() > HISTORY {
                    state.history.pop_front();
                }
                drop(state);
                console.events.put(Arc::new(overview), was_gone.then_some(true));
            }
            Err(error) => {
                let first = {
                    let mut state = gateway.state();
                    let first = state.gone.is_none();
                    let since = state.gone.as_ref().map_or_else(Timestamp::now, |gone| gone.0);
                    state.gone = Some((since, error));
                    first
                };
                if first {
                    console.metrics.gateway_error();
                }
                let overview = Overview::of(console, gateway.moment());
                console.events.put(Arc::new(overview), first.then_some(false));
            }
        }
        std::thread::sleep(INTERVAL.saturating_sub(begun.elapsed()));
    }
}

fn learn_seldom(gateway: &Gateway) {
    if let Ok(Answer::Exceptions(all)) = ask(&gateway.socket, Ask::Exceptions {}) {
        gateway.state().exceptions = Some(Arc::new(*all));
    }
    if let Ok(Answer::Audit(page)) =
        ask(&gateway.socket, Ask::Audit { before: None, limit: RECENT })
    {
        gateway.state().recent = Arc::new(page.entries);
    }
}

fn policy_key(status: &Status, staged: Option<&StageReport>) -> PolicyKey {
    let policy = status.policy.as_ref();
    let staged = staged.and_then(|report| report.staged.as_ref());
    // How long something is staged is in these words too.
    let standing = status.standing.iter().filter(|line| !line.contains("is staged for"));
    (
        policy.map(|policy| policy.hash.clone()),
        policy.and_then(|policy| policy.epoch),
        staged.map(|staged| staged.hash.clone()),
        standing.cloned().collect(),
    )
}

/// Fetches and compiles the policies. Returns whether that worked.
fn learn_policies(console: &Console) -> bool {
    let gateway = &console.gateway;
    let fetch = |which: Which| -> Result<Option<Arc<Compiled>>, String> {
        let is_staged = which == Which::Staged;
        match ask(&gateway.socket, Ask::Policy { which }) {
            Ok(Answer::Policy(shown)) => {
                let before = gateway.policies();
                let before = before.and_then(|policies| match is_staged {
                    true => policies.staged.clone(),
                    false => policies.active.clone(),
                });
                if let Some(same) = before.filter(|before| before.shown.files == shown.files) {
                    return Ok(Some(same));
                }
                Compiled::of(*shown, &console.settings.limits).map(|made| Some(Arc::new(made)))
            }
            Ok(Answer::Error(_)) => Ok(None),
            Ok(_) => Err(ANOTHER_QUESTION.to_owned()),
            Err(error) => Err(error),
        }
    };
    match (fetch(Which::InForce), fetch(Which::Staged)) {
        (Ok(active), Ok(staged)) => {
            gateway.state().policies = Some(Arc::new(Policies { active, staged }));
            true
        }
        (Err(error), _) | (_, Err(error)) => {
            warn!("the gateway's policy cannot be shown: {error}");
            false
        }
    }
}
