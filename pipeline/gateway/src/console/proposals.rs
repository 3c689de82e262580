//! Policies that learning proposes: made in the background, kept for a while, approved and staged.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_rules::syntax::Source;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::Console;
use super::access::secret;
use super::api::policy::own_files;
use super::problem::Problem;
use super::settings::Settings;
use crate::cli::exit;
use crate::control::questions::PolicyShown;
use crate::learning::model::Model;
use crate::learning::proposal::{self, FILE, HEAD, Learned, Surroundings};
use crate::learning::report::{Range, Reader, Refusal};
use crate::propose::kind;

/// Proposals that are kept: the latest ones.
const MAX_PROPOSALS: usize = 4;

/// Witnesses, and pairs that nobody used, that are listed of a rule.
const MAX_EXAMPLES: usize = 10;

/// Where a proposal stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProposalState {
    /// It is being made.
    Pending,
    /// It is made.
    Ready,
    /// It could not be made.
    Failed,
}

/// A proposal.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProposalShown {
    /// By which it is asked for.
    pub id: String,
    /// Where it stands.
    pub state: ProposalState,
    /// When it was begun.
    #[schema(format = DateTime)]
    pub at: String,
    /// Why it could not be made, where it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its rules, but for exceptions, each with its evidence.
    pub rules: Vec<ProposedRule>,
    /// What one member of a role does and its fellows do not: to be approved one by one.
    pub exceptions: Vec<ProposedRule>,
    /// Ready-made rules for broadcasts and their like.
    pub templates: Vec<String>,
    /// What is expected to be denied by mistake, where enough was seen to say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// Edges that were seen and make no rule, because it is doubtful what they are.
    pub makes_no_rule: u64,
    /// Devices that it was learnt from.
    pub devices: u64,
    /// Edges that it was learnt from.
    pub edges: u64,
    /// Periods that it was learnt from.
    pub periods: u64,
    /// The policy text.
    pub text: String,
}

/// What is expected to be denied by mistake.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Prediction {
    /// The share of what is used, from 0 to 1.
    pub denied: f64,
    /// No less, with 95 % confidence.
    pub low: f64,
    /// No more, likewise.
    pub high: f64,
    /// Periods ahead that this is about.
    pub ahead_periods: u32,
}

/// A rule and why it is proposed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProposedRule {
    /// Its name.
    pub name: String,
    /// `roles`, `mesh` or `exception`.
    pub kind: &'static str,
    /// Devices that may open.
    pub clients: Vec<String>,
    /// Devices that are opened to.
    pub servers: Vec<String>,
    /// What is opened.
    pub services: Vec<String>,
    /// Edges that were seen.
    pub witnesses: u64,
    /// Some of them.
    pub witness: Vec<String>,
    /// Pairs that it permits and nobody used.
    pub unused: u64,
    /// Some of them.
    pub unused_some: Vec<String>,
    /// In how many periods the witness that was seen most was seen.
    pub periods: u32,
    /// The merge with another role that would have cost least, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest_rejected_merge: Option<String>,
    /// Whether somebody approved it; rules that need no approval are.
    pub approved: bool,
}

/// The proposals.
#[derive(Debug, Default)]
pub struct Proposals {
    kept: Mutex<Vec<Arc<Proposal>>>,
}

/// A proposal that is kept.
#[derive(Debug)]
pub struct Proposal {
    id: String,
    at: Timestamp,
    made: Mutex<Made>,
}

#[derive(Debug)]
enum Made {
    Pending,
    Ready(Box<(Learned, Surroundings)>),
    Failed(String),
}

impl Proposals {
    /// Begins to make one beside the policy in force, from a stretch of time. Returns its id.
    ///
    /// # Errors
    ///
    /// 429 while another one is being made.
    pub fn begin(
        &self,
        console: &Arc<Console>,
        shown: Option<PolicyShown>,
        range: Range,
    ) -> Result<String, Problem> {
        let mut kept = self.kept();
        if kept.iter().any(|proposal| matches!(*proposal.made(), Made::Pending)) {
            return Err(Problem::too_many("another proposal is being made", 5));
        }
        let id = secret::id()?;
        let made = Mutex::new(Made::Pending);
        let proposal = Arc::new(Proposal { id: id.clone(), at: Timestamp::now(), made });
        if kept.len() >= MAX_PROPOSALS {
            kept.remove(0);
        }
        kept.push(Arc::clone(&proposal));
        drop(kept);
        let console = Arc::clone(console);
        tokio::task::spawn_blocking(move || {
            let made = make(&console.settings, shown.as_ref(), range);
            *proposal.made() = match made {
                Ok(made) => Made::Ready(Box::new(made)),
                Err(problem) => Made::Failed(problem.detail),
            };
        });
        Ok(id)
    }

    /// The proposal with this id.
    ///
    /// # Errors
    ///
    /// 404 where there is none, or no more.
    pub fn find(&self, id: &str) -> Result<Arc<Proposal>, Problem> {
        let kept = self.kept();
        let found = kept.iter().find(|proposal| proposal.id == id);
        found.cloned().ok_or_else(|| {
            Problem::not_found(format!("there is no proposal `{id}`, or no more"))
                .remedy(format!("the latest {MAX_PROPOSALS} are kept: begin another"))
        })
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Arc<Proposal>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(
    settings: &Settings,
    shown: Option<&PolicyShown>,
    range: Range,
) -> Result<(Learned, Surroundings), Problem> {
    let reader = Reader::open_path(&settings.store, range);
    let reader = reader.map_err(|error| Problem::unavailable(error.to_string()))?;
    let model = Model::read(&reader).map_err(|error| Problem::unavailable(error.to_string()))?;
    let around = surroundings(settings, shown)?;
    let learned = proposal::learn(model, &around, &[]).map_err(refused)?;
    around.check(FILE, &learned.text.to_string()).map_err(refused)?;
    Ok((learned, around))
}

/// What else the gateway is told, as it told the console.
///
/// # Errors
///
/// What is wrong with its policy.
pub fn surroundings(
    settings: &Settings,
    shown: Option<&PolicyShown>,
) -> Result<Surroundings, Problem> {
    let files = shown.map(own_files).unwrap_or_default();
    let sources = files.into_iter().map(|(name, text)| Source::new(name, text)).collect();
    let wires = shown.into_iter().flat_map(|shown| &shown.wires).zip(0..);
    // Which wires are redundant the gateway does not tell: each stands by itself.
    let wires = wires.map(|(wire, at)| (Arc::from(wire.as_str()), at)).collect();
    Surroundings::of_texts(sources, wires, settings.limits.clone()).map_err(refused)
}

/// What a command refuses, as the API says it.
pub fn refused(Refusal { message, code }: Refusal) -> Problem {
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    match code {
        exit::REFUSED => Problem::conflict(message),
        _ => Problem::unavailable(message),
    }
}

impl Proposal {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Approves exceptions.
    ///
    /// # Errors
    ///
    /// 409 while it is being made, or for a name that is no waiting exception's.
    pub fn approve(&self, names: &[String]) -> Result<(), Problem> {
        match &mut *self.made() {
            Made::Ready(made) => made.0.approve(names).map_err(refused),
            Made::Pending => Err(Problem::conflict("the proposal is still being made")),
            Made::Failed(why) => Err(Problem::conflict(why.clone())),
        }
    }

    /// The files of a policy with this proposal in the place of what was learned before.
    ///
    /// # Errors
    ///
    /// 409 while it is being made.
    pub fn with(&self, files: Vec<(String, String)>) -> Result<Vec<(String, String)>, Problem> {
        let made = self.made();
        let Made::Ready(made) = &*made else {
            return Err(Problem::conflict("the proposal is not made"));
        };
        let text = made.0.text.to_string();
        let learned = files.iter().find(|(_, text)| text.starts_with(HEAD));
        let name = learned.map_or_else(|| FILE.to_owned(), |(name, _)| name.clone());
        let mut all: Vec<(String, String)> =
            files.into_iter().filter(|(_, text)| !text.starts_with(HEAD)).collect();
        // Files are read in the order of their names.
        let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let at = all.iter().position(|(other, _)| last(other) > last(&name));
        all.insert(at.unwrap_or(all.len()), (name, text));
        Ok(all)
    }

    /// As the API shows it.
    pub fn shown(&self) -> ProposalShown {
        let mut shown = ProposalShown {
            id: self.id.clone(),
            state: ProposalState::Pending,
            at: self.at.to_string(),
            error: None,
            rules: Vec::new(),
            exceptions: Vec::new(),
            templates: Vec::new(),
            prediction: None,
            makes_no_rule: 0,
            devices: 0,
            edges: 0,
            periods: 0,
            text: String::new(),
        };
        match &*self.made() {
            Made::Pending => {}
            Made::Failed(why) => {
                shown.state = ProposalState::Failed;
                shown.error = Some(why.clone());
            }
            Made::Ready(made) => {
                shown.state = ProposalState::Ready;
                show(&mut shown, &made.0);
            }
        }
        shown
    }
}

fn show(shown: &mut ProposalShown, learned: &Learned) {
    let model = &learned.model;
    let waiting: BTreeSet<&str> = learned.unreviewed().map(|name| &**name).collect();
    let label = |host| model.label(host);
    let all = learned.proposal.rules.iter().zip(&learned.explanations).zip(&learned.text.rules);
    for ((rule, why), name) in all {
        let Some(name) = name else { continue };
        let edge = |&(client, server, service): &(_, _, bulkhead_learn::observe::Service)| {
            format!("{service} {} -> {}", label(client), label(server))
        };
        let hosts = |units: &[u32]| learned.proposal.hosts(units).into_iter().map(label).collect();
        let role = |unit: u32| {
            let hosts = learned.proposal.hosts(&[unit]);
            hosts.into_iter().take(3).map(label).collect::<Vec<_>>().join(", ")
        };
        let proposed = ProposedRule {
            name: name.to_string(),
            kind: kind(rule.kind),
            clients: hosts(&rule.clients),
            servers: hosts(&rule.servers),
            services: rule.services.iter().map(ToString::to_string).collect(),
            witnesses: why.witnesses,
            witness: why.seen.iter().take(MAX_EXAMPLES).map(edge).collect(),
            unused: why.unused,
            unused_some: why.unseen.iter().take(MAX_EXAMPLES).map(edge).collect(),
            periods: why.hours,
            nearest_rejected_merge: why.nearest.map(|(role_of, other, bits)| {
                format!("{} with {}, for {bits} bits more", role(role_of), role(other))
            }),
            approved: !waiting.contains(&**name),
        };
        match proposed.kind {
            "exception" => shown.exceptions.push(proposed),
            _ => shown.rules.push(proposed),
        }
    }
    let learnt: BTreeSet<&str> = learned.text.rules.iter().flatten().map(|name| &**name).collect();
    let rules = learned.text.document.rules.iter().map(|rule| &*rule.name.value);
    shown.templates = rules.filter(|name| !learnt.contains(name)).map(str::to_owned).collect();
    shown.prediction = learned.confidence.map(|confidence| Prediction {
        denied: confidence.denied,
        low: confidence.least,
        high: confidence.most,
        ahead_periods: confidence.ahead,
    });
    shown.makes_no_rule = learned.proposal.doubtful.len() as u64;
    shown.devices = model.store.hosts().len() as u64;
    shown.edges = model.store.edges().len() as u64;
    shown.periods = u64::from(model.store.hours());
    shown.text = learned.text.to_string();
}
