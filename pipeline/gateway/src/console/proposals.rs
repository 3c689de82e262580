//! Policies that learning proposes: made in the background, kept for a while, approved and staged.

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bulkhead_rules::syntax::Source;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::Console;
use super::access::secret;
use super::api::policy::own_files;
use super::gateway::Compiled;
use super::model::blast::Classes;
use super::model::network::Network;
use super::problem::Problem;
use super::settings::Settings;
use crate::cli::exit;
use crate::control::questions::{PolicyShown, TextShown};
use crate::learning::model::Model;
use crate::learning::proposal::{self, FILE, HEAD, Learned, Surroundings};
use crate::learning::report::{Range, Reader, Refusal};
use crate::propose::kind;
use crate::status::WireStatus;

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
    /// Its hash (SHA-256), which says when staging it that it was looked at; absent until it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
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
    /// The latest answer to what hosts would reach.
    reach: Mutex<Option<Known>>,
}

/// What hosts would reach, and of which texts and network that is so.
#[derive(Debug)]
struct Known {
    files: Vec<TextShown>,
    network: Weak<Network>,
    reach: Reach,
}

/// A policy, and what it lets hosts reach.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The policy.
    pub policy: Arc<Compiled>,
    /// Hosts that it cannot tell apart, and what they reach.
    pub classes: Arc<Classes>,
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
        shown: PolicyShown,
        range: Range,
    ) -> Result<String, Problem> {
        let mut kept = self.kept();
        if kept.iter().any(|proposal| matches!(*proposal.made(), Made::Pending)) {
            return Err(Problem::too_many("another proposal is being made", 5));
        }
        let place = Arc::clone(&console.learning).try_acquire_owned();
        let place = place.map_err(|_| Problem::too_many("something else is being learnt", 10))?;
        let id = secret::id()?;
        let made = Mutex::new(Made::Pending);
        let (at, reach) = (Timestamp::now(), Mutex::default());
        let proposal = Arc::new(Proposal { id: id.clone(), at, made, reach });
        if kept.len() >= MAX_PROPOSALS {
            kept.remove(0);
        }
        kept.push(Arc::clone(&proposal));
        drop(kept);
        let console = Arc::clone(console);
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let make = || make(&console, &shown, range);
            // One that comes to no end would keep all others waiting.
            let made = panic::catch_unwind(AssertUnwindSafe(make));
            *proposal.made() = match made {
                Ok(Ok(made)) => Made::Ready(Box::new(made)),
                Ok(Err(problem)) => Made::Failed(problem.detail),
                Err(_) => Made::Failed("making it failed; the console's log says how".to_owned()),
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

    /// The latest proposal that is made.
    ///
    /// # Errors
    ///
    /// 404 where there is none.
    pub fn latest(&self) -> Result<Arc<Proposal>, Problem> {
        let kept = self.kept();
        let found = kept.iter().rev().find(|one| matches!(*one.made(), Made::Ready(_)));
        found.cloned().ok_or_else(|| {
            Problem::not_found("no proposal is made")
                .remedy("begin one: POST /api/v1/learning/proposals")
        })
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Arc<Proposal>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(
    console: &Console,
    shown: &PolicyShown,
    range: Range,
) -> Result<(Learned, Surroundings), Problem> {
    let reader = Reader::open_path(&console.settings.store, range);
    let reader = reader.map_err(|error| Problem::unavailable(error.to_string()))?;
    let model = Model::read(&reader).map_err(|error| Problem::unavailable(error.to_string()))?;
    let around = surroundings(console, shown)?;
    let learned = proposal::learn(model, &around, &[]).map_err(refused)?;
    around.check(FILE, &learned.text.to_string()).map_err(refused)?;
    Ok((learned, around))
}

/// What else the gateway is told, as it told the console.
///
/// # Errors
///
/// What is wrong with its policy, or that it does not tell which wires are redundant: what is learnt must
/// hold on each of them.
pub fn surroundings(console: &Console, shown: &PolicyShown) -> Result<Surroundings, Problem> {
    let sources =
        own_files(shown).into_iter().map(|(name, text)| Source::new(name, text)).collect();
    let moment = console.gateway.moment().map_err(|(_, why)| Problem::unavailable(why))?;
    let wires = redundancy(&shown.wires, &moment.status.wires)?;
    Surroundings::of_texts(sources, wires, console.settings.limits.clone()).map_err(refused)
}

/// Wires, each with its redundancy group by the first wire in it.
fn redundancy(names: &[String], wires: &[WireStatus]) -> Result<Vec<(Arc<str>, usize)>, Problem> {
    let group = |name: &String| {
        let wire = wires.iter().find(|wire| wire.name == *name);
        wire.map(|wire| wire.redundancy_group.as_ref()).ok_or_else(|| {
            Problem::unavailable(format!("the gateway does not tell of the wire {name} just now"))
        })
    };
    let groups: Vec<Option<&String>> = names.iter().map(group).collect::<Result<_, _>>()?;
    let of = |at: usize| match groups[at] {
        Some(_) => groups.iter().position(|other| *other == groups[at]).unwrap_or(at),
        None => at,
    };
    Ok(names.iter().zip(0..).map(|(name, at)| (Arc::from(name.as_str()), of(at))).collect())
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

    /// What the proposal would let hosts reach, in the place of what was learned before, with grants and
    /// quarantines as they are.
    ///
    /// # Errors
    ///
    /// 409 while it is being made, or where the policy cannot be compiled with it.
    pub fn reach(
        &self,
        settings: &Settings,
        shown: &PolicyShown,
        network: &Arc<Network>,
    ) -> Result<Reach, Problem> {
        let own = self.with(own_files(shown))?.into_iter();
        let own = own.map(|(name, text)| TextShown { name, text, added: false });
        let is_before = |file: &&TextShown| file.added;
        let before: Vec<TextShown> = shown.files.iter().take_while(is_before).cloned().collect();
        let after = shown.files.iter().skip(before.len()).filter(|file| file.added).cloned();
        let files: Vec<TextShown> = before.into_iter().chain(own).chain(after).collect();
        // Whoever asks for the same meanwhile waits, and has the answer then.
        let mut known = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &&Known| {
            known.files == files && std::ptr::eq(known.network.as_ptr(), Arc::as_ptr(network))
        };
        if let Some(known) = known.as_ref().filter(is_same) {
            return Ok(known.reach.clone());
        }
        let shown = PolicyShown { files: files.clone(), ..shown.clone() };
        let policy = Arc::new(Compiled::of(shown, &settings.limits).map_err(Problem::conflict)?);
        let classes = Arc::new(Classes::of(network, &policy));
        let reach = Reach { policy, classes };
        *known = Some(Known { files, network: Arc::downgrade(network), reach: reach.clone() });
        Ok(reach)
    }

    /// Refuses where the text is another one than that with this hash.
    ///
    /// # Errors
    ///
    /// 409 for that, and while it is being made.
    pub fn expect(&self, expected: &str) -> Result<(), Problem> {
        match &*self.made() {
            Made::Ready(made) if hash(&made.0.text.to_string()) == expected => Ok(()),
            Made::Ready(_) => Err(Problem::conflict("the proposal was changed meanwhile")
                .remedy("look at it again: somebody approved something")),
            _ => Err(Problem::conflict("the proposal is not made")),
        }
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
            hash: None,
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

fn hash(text: &str) -> String {
    secret::hex(&Sha256::digest(text))
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
    shown.hash = Some(hash(&shown.text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wires_of_one_redundancy_group_are_one_and_an_unknown_one_is_refused() {
        let wire = |name: &str, group: Option<&str>| WireStatus {
            name: name.to_owned(),
            mode: "observe".to_owned(),
            redundancy_group: group.map(str::to_owned),
            inside: Default::default(),
            outside: Default::default(),
            fail: "closed".to_owned(),
        };
        let ring = Some("ring");
        let wires = [wire("a", None), wire("b", ring), wire("c", None), wire("d", ring)];
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        let found = redundancy(&names, &wires).unwrap_or_else(|e| panic!("{e:?}"));
        let groups: Vec<usize> = found.into_iter().map(|(_, group)| group).collect();
        assert_eq!(groups, [0, 1, 2, 1]);
        assert_eq!(redundancy(&names, &wires[..3]).map_err(|p| p.status), Err(503));
    }
}
