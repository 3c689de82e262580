//! `bulkhead drift`: what was denied since the wires enforce, and what to make of it.
//!
//! Nothing is widened here: every line is advice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bulkhead_learn::drift::{Advice, Triage};
use bulkhead_learn::observe::HostKey;
use bulkhead_learn::store::HostId;
use clap::Args;
use serde::Serialize;

use crate::cli::exit;
use crate::learning::model::Model;
use crate::learning::proposal::{self, Learned, Surroundings};
use crate::learning::report::{Range, Reader, Refusal, StoreArgs};
use crate::learning::time_text;
use crate::propose;

/// What `drift` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Without --since, what was denied since the first wire enforces. What was learnt \
    before is compared with; a rule that nobody used since then is proposed to be narrowed."
)]
pub struct DriftArgs {
    /// The store and the time whose denials are looked at
    #[command(flatten)]
    pub store: StoreArgs,
    /// The policy: a file or a folder; without it, the one that the configuration names
    #[arg(long, short, value_name = "POLICY")]
    pub policy: Option<PathBuf>,
    /// The most denials that are printed; the others are counted
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What was denied, and what to make of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DriftReport {
    /// Since when.
    pub since: String,
    /// What was denied, what needs somebody first.
    pub denials: Vec<Denial>,
    /// Learned rules that nobody used since then.
    pub unused_rules: Vec<String>,
}

/// A denial, and what to make of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Denial {
    /// Who tried.
    pub client: String,
    /// To whom.
    pub server: String,
    /// What.
    pub service: String,
    /// Packets.
    pub packets: u64,
    /// When it was tried first.
    pub first: String,
    /// And last.
    pub last: String,
    /// The rule that denied.
    pub rule: String,
    /// Why it was dropped.
    pub reason: String,
    /// `quarantine`, `ask`, `place`, `propose` or `permitted`.
    pub advice: &'static str,
    /// The advice in words.
    pub text: String,
}

/// Reports. Returns the exit code.
pub fn main(args: &DriftArgs) -> u8 {
    match drift(args) {
        Ok(drift) => {
            if args.json {
                crate::control::client::print_json(&drift);
            } else {
                print!("{}", text(&drift, args.limit));
            }
            exit::OK
        }
        Err(Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

fn drift(args: &DriftArgs) -> Result<DriftReport, Refusal> {
    let reader = Reader::open(&args.store)?;
    let since_ms = args.store.since.is_some().then_some(reader.range.since_ms);
    let around = propose::surroundings(&args.store, args.policy.as_deref(), None)?;
    of(reader, &around, since_ms)
}

/// What was denied since `since_ms` (Unix milliseconds), or since the first wire enforces, beside what was
/// learnt before.
///
/// # Errors
///
/// That no wire enforces, or what is wrong with the store.
pub fn of(
    mut reader: Reader,
    around: &Surroundings,
    since_ms: Option<i64>,
) -> Result<DriftReport, Refusal> {
    let since_ms = match since_ms {
        Some(since_ms) => since_ms,
        None => {
            let enforcing = reader.enforcing_since()?;
            enforcing.values().copied().min().ok_or_else(|| {
                Refusal::refused(
                    "no wire enforces, as far as the store knows: nothing was denied\n  = help: \
                     --since asks about a time all the same",
                )
            })?
        }
    };
    let until_ms = reader.range.until_ms;
    reader.range = Range { since_ms: i64::MIN, until_ms: since_ms };
    let learned = proposal::learn(Model::read(&reader)?, around, &[])?;
    reader.range = Range { since_ms, until_ms };
    let later = Model::read(&reader)?;
    Ok(triage(learned, later, since_ms))
}

fn triage(mut learned: Learned, later: Model, since_ms: i64) -> DriftReport {
    let learnt = learned.model.store.hosts().len();
    let hour = |ms: i64| {
        let period = ms.div_euclid(1000).div_euclid(i64::from(later.period_s));
        u32::try_from(period).unwrap_or(0)
    };
    // The later time's hosts and edges, beside those that were learnt: what a new host does says
    // what role it has.
    let mut ids: BTreeMap<HostKey, HostId> = BTreeMap::new();
    let store = &mut learned.model.store;
    let keys = later.store.hosts().iter().map(|host| host.key.clone());
    let denied = later.denied.iter().flat_map(|d| [d.client.clone(), d.server.clone()]);
    for key in keys.chain(denied) {
        if let Some(id) = store.host(&key, hour(since_ms)) {
            ids.insert(key, id);
        }
    }
    let id = |key: &HostKey| ids.get(key).copied();
    for edge in later.store.edges() {
        let key = |host: HostId| &later.store.hosts()[host.0 as usize].key;
        if let (Some(client), Some(server)) = (id(key(edge.client)), id(key(edge.server))) {
            let outcome = bulkhead_learn::observe::Outcome::Unknown;
            store.add(client, server, edge.service, edge.last, outcome);
        }
    }
    for d in &later.denied {
        if let (Some(client), Some(server)) = (id(&d.client), id(&d.server)) {
            let outcome = bulkhead_learn::observe::Outcome::Failed;
            store.add(client, server, d.service, hour(d.seen.last_ms), outcome);
        }
    }
    let triage = Triage::new(&learned.proposal, learnt);
    let rule_name = |rule: u32| {
        let name = learned.text.rules.get(rule as usize).and_then(Option::as_deref);
        name.unwrap_or("a rule written by hand").to_owned()
    };
    let label = |key: &HostKey| {
        let name = later.identities.name(key).or_else(|| learned.model.identities.name(key));
        name.map_or_else(|| key.to_string(), ToString::to_string)
    };
    let mut denials = Vec::new();
    for d in &later.denied {
        let (Some(client), Some(server)) = (id(&d.client), id(&d.server)) else { continue };
        let advice = triage.judge(&learned.model.store, client, server, d.service);
        let (advice, text) = in_words(advice, &learned, &rule_name);
        let (client, server) = (label(&d.client), label(&d.server));
        denials.push(Denial {
            client,
            server,
            service: d.service.to_string(),
            packets: d.packets,
            first: instant(d.seen.first_ms),
            last: instant(d.seen.last_ms),
            rule: d.rule.clone(),
            reason: d.reason.clone(),
            advice,
            text,
        });
    }
    denials.sort_by_key(|t| (order(t.advice), std::cmp::Reverse(t.packets)));
    let unused = triage.unused_since(&learned.model.store, hour(since_ms));
    let unused_rules = unused.into_iter().map(rule_name).collect();
    DriftReport { since: instant(since_ms), denials, unused_rules }
}

fn in_words(
    advice: Advice,
    learned: &Learned,
    rule_name: &impl Fn(u32) -> String,
) -> (&'static str, String) {
    match advice {
        Advice::Permitted { rule } => {
            ("permitted", format!("rule {} permits it by now", rule_name(rule)))
        }
        Advice::AsItsRole { rule } => (
            "propose",
            format!("its role does it by rule {}: propose to let this one too", rule_name(rule)),
        ),
        Advice::PlaceNew { role: Some(role) } => {
            let hosts = learned.proposal.hosts(&[role]);
            let like = hosts.first().map_or_else(String::new, |&host| learned.model.label(host));
            ("place", format!("a new device that does as {like} and its role do: place it there"))
        }
        Advice::PlaceNew { role: None } => (
            "quarantine",
            "a new device that is like none: `bulkhead quarantine` leaves it the essentials"
                .to_owned(),
        ),
        Advice::Ask => ("ask", "nobody of its role does this: ask who is responsible".to_owned()),
    }
}

/// What needs somebody first.
fn order(advice: &str) -> usize {
    ["quarantine", "ask", "place", "propose", "permitted"]
        .iter()
        .position(|known| *known == advice)
        .unwrap_or(usize::MAX)
}

fn text(drift: &DriftReport, limit: usize) -> String {
    let mut text =
        format!("{} kinds of denied flows since {}\n", drift.denials.len(), plain(&drift.since));
    for t in drift.denials.iter().take(limit) {
        text.push_str(&format!(
            "{:<10} {} {} -> {}  {} packets, last {}, by {}\n           {}\n",
            t.advice,
            t.service,
            t.client,
            t.server,
            t.packets,
            plain(&t.last),
            t.rule,
            t.text,
        ));
    }
    if drift.denials.len() > limit {
        text.push_str(&format!("and {} more: --limit shows them\n", drift.denials.len() - limit));
    }
    for rule in &drift.unused_rules {
        text.push_str(&format!("unused     {rule}: nobody used it since; propose to narrow it\n"));
    }
    text
}

/// An instant for people: UTC, to the second.
fn plain(instant: &str) -> String {
    let time = instant.parse::<jiff::Timestamp>();
    time.map_or_else(|_| instant.to_owned(), |time| time_text(time.as_millisecond()))
}

fn instant(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| unix_ms.to_string(), |instant| instant.to_string())
}
