//! `bulkhead propose`: a policy learnt from the communication store, with its evidence.
//!
//! It goes to standard output, or into the learner's own file: a file that a person wrote is never
//! touched, and nothing is written that `bulkhead check` would refuse. What somebody has to decide
//! comes last, as exceptions, and `bulkhead lockdown` waits for it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bulkhead_learn::learn::Kind;
use bulkhead_learn::text;
use clap::Args;
use serde::Serialize;

use crate::cli::exit;
use crate::control::client::print_json;
use crate::learning::database::vlan_text;
use crate::learning::model::Model;
use crate::learning::proposal::{self, Learned, Surroundings};
use crate::learning::report::{Reader, Refusal, StoreArgs};

/// What `propose` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Rules of the policy's other files are not repeated. Names of groups stay from one \
    proposal to the next. Exceptions (what one member of a role does and its fellows do not) come \
    last and wait for --approve, or for a person to write a rule of their own."
)]
pub struct ProposeArgs {
    /// The store and the time that is learnt from
    #[command(flatten)]
    pub store: StoreArgs,
    /// The policy: a file or a folder; without it, the one that the configuration names
    #[arg(long, short, value_name = "POLICY")]
    pub policy: Option<PathBuf>,
    /// Write the proposal into this file, commonly 80-learned.yaml in the policy's folder
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Approve the exception with this name; repeatable
    #[arg(long, value_name = "RULE")]
    pub approve: Vec<String>,
    /// Print JSON: rules with their evidence, exceptions, what makes no rule, what is expected
    #[arg(long)]
    pub json: bool,
}

/// Proposes. Returns the exit code.
pub fn main(args: &ProposeArgs) -> u8 {
    match propose(args) {
        Ok(learned) => {
            warn_of_reuse(&learned);
            if args.json {
                print_json(&report(&learned, args.out.as_deref()));
            } else if args.out.is_none() {
                print!("{}", learned.text);
            } else {
                print!("{}", summary(&learned));
            }
            exit::OK
        }
        Err(Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

/// Learns what the command line asks for: the learner's file is where it is written, or in the
/// policy's folder.
///
/// # Errors
///
/// See [`Refusal`].
pub fn learn(
    store: &StoreArgs,
    policy: Option<&Path>,
    out: Option<&Path>,
    approve: &[String],
) -> Result<(Learned, Surroundings), Refusal> {
    let reader = Reader::open(store)?;
    let around = surroundings(store, policy, out)?;
    let model = Model::read(&reader)?;
    Ok((proposal::learn(model, &around, approve)?, around))
}

/// What else the gateway is told, as the command line says where.
///
/// # Errors
///
/// See [`Refusal`].
pub fn surroundings(
    store: &StoreArgs,
    policy: Option<&Path>,
    out: Option<&Path>,
) -> Result<Surroundings, Refusal> {
    // With a store and a policy (or none) there need not be a configuration.
    let config = (store.config.exists()).then_some(store.config.as_path());
    let learned = match (out, policy) {
        (Some(out), _) => Some(out.to_owned()),
        (None, Some(policy)) if policy.is_dir() => Some(policy.join(proposal::FILE)),
        (None, Some(_)) => None,
        (None, None) => configured_folder(config)?.map(|folder| folder.join(proposal::FILE)),
    };
    Surroundings::read(config, policy, learned.as_deref())
}

fn configured_folder(config: Option<&Path>) -> Result<Option<PathBuf>, Refusal> {
    let Some(config) = config else { return Ok(None) };
    let config = crate::config::Config::load(config)
        .map_err(|error| Refusal { message: error.to_string(), code: exit::REFUSED })?;
    Ok(Some(config.policy).filter(|policy| policy.is_dir()))
}

fn propose(args: &ProposeArgs) -> Result<Learned, Refusal> {
    if let Some(out) = &args.out {
        proposal::may_write(out)?;
    }
    let (learned, around) =
        learn(&args.store, args.policy.as_deref(), args.out.as_deref(), &args.approve)?;
    let text = learned.text.to_string();
    let name = args.out.as_ref().map_or(proposal::FILE.to_owned(), |out| out.display().to_string());
    around.check(&name, &text)?;
    if let Some(out) = &args.out {
        write(out, &text)
            .map_err(|e| Refusal::unavailable(format!("cannot write {}: {e}", out.display())))?;
    }
    Ok(learned)
}

/// Puts the whole text in the file's place, or nothing: a gateway that watches the folder never sees
/// half of it.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    // A name that no gateway reads, whatever happens.
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let hidden = path.with_file_name(hidden);
    let mut file = fs::File::create(&hidden)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&hidden, path)
}

/// Says which addresses are several devices'.
fn warn_of_reuse(learned: &Learned) {
    let reused = learned.model.identities.reused();
    let Some((address, vlans)) = reused.first() else { return };
    let vlans: Vec<String> = vlans.iter().map(|&vlan| vlan_name(vlan)).collect();
    let others = match reused.len() - 1 {
        0 => String::new(),
        more => format!(", and so are {more} other addresses in theirs"),
    };
    eprintln!(
        "warning: {address} is another device in each of {}{others}: devices with one address count as \
         one host\n  = help: give the rules for them a `vlan` by hand, or learn each VLAN from a store \
         of its own",
        vlans.join(" and "),
    );
}

fn vlan_name(vlan: [u16; 2]) -> String {
    match vlan_text(vlan).as_str() {
        "" => "no VLAN".to_owned(),
        vlan => format!("VLAN {vlan}"),
    }
}

fn summary(learned: &Learned) -> String {
    let rules = learned.text.document.rules.len();
    let waiting: Vec<&str> = learned.unreviewed().map(|name| &**name).collect();
    let mut text = format!("{rules} rules");
    if let Some(confidence) = learned.confidence {
        text.push_str(&format!(
            "; expected to deny {:.3} % of what is used in the next {} ({:.3} % to {:.3} %)",
            confidence.denied * 100.0,
            text::periods(confidence.ahead, learned.model.period_s),
            confidence.least * 100.0,
            confidence.most * 100.0,
        ));
    }
    text.push('\n');
    for name in waiting {
        text.push_str(&format!("to approve: {name}\n"));
    }
    text
}

/// What is proposed, for programs.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProposeReport {
    /// The file that it was written to; null without --out.
    pub file: Option<String>,
    /// The policy's text.
    pub policy: String,
    /// What it was learnt from.
    pub learnt_from: LearntFrom,
    /// The rules, in their order.
    pub rules: Vec<ProposedRule>,
    /// The names of rules for broadcasts and multicasts.
    pub templates: Vec<String>,
    /// The names of exceptions that wait for somebody to approve them.
    pub unreviewed: Vec<String>,
    /// What was seen and makes no rule.
    pub makes_no_rule: Vec<DoubtfulEdge>,
    /// Flows of which nobody knows who opened them.
    pub unknown_direction: usize,
    /// Broadcasts and multicasts that make no rule.
    pub broadcasts_left_out: usize,
    /// Hosts that no rule can name.
    pub without_address: usize,
    /// Addresses that were seen in several VLANs.
    pub addresses_in_several_vlans: Vec<ReusedAddress>,
    /// What the proposal is expected to deny; null where too little was seen to tell.
    pub expected_denials: Option<ExpectedDenials>,
    /// What there was no room for.
    pub no_room: NoRoom,
}

/// What a proposal was learnt from.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LearntFrom {
    /// Hosts.
    pub hosts: usize,
    /// Who talks to whom by what, each once.
    pub edges: usize,
    /// Periods of time.
    pub periods: u32,
    /// Seconds in a period.
    pub period_s: u32,
}

/// A rule that is proposed.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProposedRule {
    /// Its name.
    pub name: String,
    /// `roles`, `mesh` or `exception`.
    pub kind: &'static str,
    /// Hosts that may open.
    pub clients: usize,
    /// Hosts that are opened to.
    pub servers: usize,
    /// What is opened.
    pub services: Vec<String>,
    /// Edges that it permits and that were seen.
    pub witnesses: u64,
    /// What it permits and nobody used.
    pub unused: u64,
    /// Periods in which the witness that was seen most was seen.
    pub periods: u32,
    /// Bits that it saves beside one rule for each of its edges.
    pub saved_bits: i64,
    /// Whether somebody approved it.
    pub approved: bool,
}

/// What was seen and makes no rule.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DoubtfulEdge {
    /// Who opened.
    pub client: String,
    /// To whom.
    pub server: String,
    /// What.
    pub service: String,
    /// Periods in which it was seen.
    pub periods: u32,
    /// Why it makes no rule.
    pub why: &'static str,
}

/// An address in several VLANs.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ReusedAddress {
    /// The address.
    pub address: String,
    /// The VLANs; empty for none.
    pub vlans: Vec<String>,
}

/// What a proposal is expected to deny of what is used later.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ExpectedDenials {
    /// The share, from 0 to 1.
    pub share: f64,
    /// At least so much.
    pub least: f64,
    /// At most so much.
    pub most: f64,
    /// Of it what hosts do that come to stay.
    pub newcomers: f64,
    /// The share that was denied of what was held out.
    pub held_out: f64,
    /// Periods that were learnt from.
    pub periods: u32,
    /// Periods that it looks ahead.
    pub ahead_periods: u32,
}

/// What there was no room for in memory.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NoRoom {
    /// Observations of hosts.
    pub hosts: u64,
    /// Observations of edges.
    pub edges: u64,
    /// Flows of unknown direction.
    pub unknown_direction: u64,
    /// Observations that were too old.
    pub too_old: u64,
}

fn report(learned: &Learned, out: Option<&Path>) -> ProposeReport {
    let model = &learned.model;
    let rules = learned.proposal.rules.iter().zip(&learned.explanations).zip(&learned.text.rules);
    let rules = rules.filter_map(|((rule, why), name)| {
        let name = name.as_ref()?;
        Some(ProposedRule {
            name: name.to_string(),
            kind: kind(rule.kind),
            clients: learned.proposal.hosts(&rule.clients).len(),
            servers: learned.proposal.hosts(&rule.servers).len(),
            services: rule.services.iter().map(ToString::to_string).collect(),
            witnesses: why.witnesses,
            unused: why.unused,
            periods: why.hours,
            saved_bits: why.saved,
            approved: learned.approved.contains(name),
        })
    });
    let templates =
        learned.text.document.rules.iter().filter(|rule| {
            !learned.text.rules.iter().flatten().any(|name| *name == rule.name.value)
        });
    let doubtful = learned.proposal.doubtful.iter().map(|edge| DoubtfulEdge {
        client: model.label(edge.client),
        server: model.label(edge.server),
        service: edge.service.to_string(),
        periods: edge.hours,
        why: edge.doubt.label(),
    });
    let reused = model.identities.reused().into_iter().map(|(address, vlans)| ReusedAddress {
        address: address.to_string(),
        vlans: vlans.into_iter().map(vlan_text).collect(),
    });
    let losses = model.store.losses();
    ProposeReport {
        file: out.map(|out| out.display().to_string()),
        policy: learned.text.to_string(),
        learnt_from: LearntFrom {
            hosts: model.store.hosts().len(),
            edges: model.store.edges().len(),
            periods: model.store.hours(),
            period_s: model.period_s,
        },
        rules: rules.collect(),
        templates: templates.map(|rule| rule.name.value.to_string()).collect(),
        unreviewed: learned.unreviewed().map(ToString::to_string).collect(),
        makes_no_rule: doubtful.collect(),
        unknown_direction: model.store.held_back(),
        broadcasts_left_out: learned.templates_left_out,
        without_address: learned.text.nameless,
        addresses_in_several_vlans: reused.collect(),
        expected_denials: learned.confidence.map(|confidence| ExpectedDenials {
            share: confidence.denied,
            least: confidence.least,
            most: confidence.most,
            newcomers: confidence.newcomers,
            held_out: confidence.held_out,
            periods: confidence.hours,
            ahead_periods: confidence.ahead,
        }),
        no_room: NoRoom {
            hosts: losses.hosts,
            edges: losses.edges,
            unknown_direction: losses.held_back,
            too_old: losses.too_old,
        },
    }
}

/// The word for a kind of rule.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Roles => "roles",
        Kind::Mesh => "mesh",
        Kind::Exception => "exception",
    }
}
