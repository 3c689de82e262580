//! `bulkhead explain-rule`: why the learner proposes a rule.

use std::path::PathBuf;

use bulkhead_learn::explain::Explanation;
use bulkhead_learn::observe::Service;
use bulkhead_learn::store::HostId;
use clap::Args;
use serde::Serialize;

use crate::cli::exit;
use crate::control::client::print_json;
use crate::diagnostic::did_you_mean;
use crate::learning::proposal::Learned;
use crate::learning::report::{Refusal, StoreArgs};
use crate::propose;

/// Hosts of a role that are listed.
const MAX_HOSTS: usize = 12;

/// What `explain-rule` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The rule is looked for in what would be proposed now, from the same time of the \
    store."
)]
pub struct ExplainRuleArgs {
    /// The store and the time that is learnt from
    #[command(flatten)]
    pub store: StoreArgs,
    /// The policy: a file or a folder; without it, the one that the configuration names
    #[arg(long, short, value_name = "POLICY")]
    pub policy: Option<PathBuf>,
    /// The learner's file, where it is not in the policy's folder
    #[arg(long, value_name = "FILE")]
    pub learned: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The rule's name
    #[arg(value_name = "RULE")]
    pub rule: String,
}

/// Explains. Returns the exit code.
pub fn main(args: &ExplainRuleArgs) -> u8 {
    match explain(args) {
        Ok((learned, at)) => {
            if args.json {
                print_json(&report(&learned, at));
            } else {
                print!("{}", text(&learned, at));
            }
            exit::OK
        }
        Err(Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

fn explain(args: &ExplainRuleArgs) -> Result<(Learned, usize), Refusal> {
    let (policy, learned) = (args.policy.as_deref(), args.learned.as_deref());
    let (learned, _) = propose::learn(&args.store, policy, learned, &[])?;
    match learned.find(&args.rule) {
        Some(at) => Ok((learned, at)),
        None => {
            let names = learned.text.rules.iter().flatten().map(|name| &**name);
            let help = match did_you_mean(&args.rule, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None if args.rule.starts_with("template-") => {
                    "rules for broadcasts are ready-made: \
                     their reason is all that there is to say"
                        .to_owned()
                }
                None => "`bulkhead propose` lists what would be proposed now".to_owned(),
            };
            let rule = &args.rule;
            Err(Refusal::refused(format!("no rule `{rule}` would be proposed\n  = help: {help}")))
        }
    }
}

/// What is shown of one rule.
struct Shown<'l> {
    learned: &'l Learned,
    at: usize,
}

impl Shown<'_> {
    fn why(&self) -> &Explanation {
        &self.learned.explanations[self.at]
    }

    fn name(&self) -> &str {
        self.learned.text.rules[self.at].as_deref().unwrap_or_default()
    }

    fn hosts(&self, units: &[u32]) -> Vec<String> {
        let hosts = self.learned.proposal.hosts(units);
        hosts.into_iter().map(|host| self.learned.model.label(host)).collect()
    }

    fn unit(&self, unit: u32) -> Vec<String> {
        self.hosts(&[unit])
    }

    fn edge(&self, (client, server, service): (HostId, HostId, Service)) -> String {
        let model = &self.learned.model;
        format!("{service} {} -> {}", model.label(client), model.label(server))
    }
}

fn text(learned: &Learned, at: usize) -> String {
    let shown = Shown { learned, at };
    let rule = &learned.proposal.rules[at];
    let why = shown.why();
    let services: Vec<String> = rule.services.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{} ({})\n  from {}\n  to   {}\n  over {}\n",
        shown.name(),
        propose::kind(rule.kind),
        listed(&shown.hosts(&rule.clients)),
        listed(&shown.hosts(&rule.servers)),
        services.join(", "),
    );
    let period = period(learned.model.period_s);
    text.push_str(&format!(
        "\n{} edges witness it, the steadiest in {} {period}; it saves {} bits beside a rule for \
         each\n",
        why.witnesses, why.hours, why.saved
    ));
    for &edge in &why.seen {
        text.push_str(&format!("  {}\n", shown.edge(edge)));
    }
    more(&mut text, why.witnesses, why.seen.len());
    text.push_str(&format!("\n{} pairs are permitted that nobody used\n", why.unused));
    for &edge in &why.unseen {
        text.push_str(&format!("  {}\n", shown.edge(edge)));
    }
    more(&mut text, why.unused, why.unseen.len());
    match why.nearest {
        Some((role, other, bits)) => text.push_str(&format!(
            "\nnearest merge that was rejected: {}\n  with {}, for {bits} bits more\n",
            listed(&shown.unit(role)),
            listed(&shown.unit(other)),
        )),
        None => text.push_str("\nno other role was near enough to merge with\n"),
    }
    text
}

/// Why a rule is proposed, for programs.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainRuleReport {
    /// Its name.
    pub name: String,
    /// `roles`, `mesh` or `exception`.
    pub kind: &'static str,
    /// Who may open.
    pub clients: Vec<String>,
    /// To whom.
    pub servers: Vec<String>,
    /// What.
    pub services: Vec<String>,
    /// What it permits and was seen.
    pub witnesses: SomeEdges,
    /// What it permits and nobody used.
    pub unused: SomeEdges,
    /// Periods in which the witness that was seen most was seen.
    pub periods: u32,
    /// Seconds in a period.
    pub period_s: u32,
    /// Bits that the rule saves beside one rule for each of its edges.
    pub saved_bits: i64,
    /// The merge of one of its roles with another that would have cost least; null where there is none.
    pub nearest_rejected_merge: Option<RejectedMerge>,
}

/// Edges, some of them named.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SomeEdges {
    /// How many.
    pub count: u64,
    /// Some of them: client, server, service.
    pub some: Vec<String>,
}

/// Two roles that stay apart.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RejectedMerge {
    /// The hosts of a role of the rule.
    pub role: Vec<String>,
    /// Those of the other one.
    pub other: Vec<String>,
    /// Bits that it would cost to take them for one.
    pub bits: i64,
}

fn report(learned: &Learned, at: usize) -> ExplainRuleReport {
    let shown = Shown { learned, at };
    let rule = &learned.proposal.rules[at];
    let why = shown.why();
    let edges = |count, edges: &[(HostId, HostId, Service)]| SomeEdges {
        count,
        some: edges.iter().map(|&edge| shown.edge(edge)).collect(),
    };
    ExplainRuleReport {
        name: shown.name().to_string(),
        kind: propose::kind(rule.kind),
        clients: shown.hosts(&rule.clients),
        servers: shown.hosts(&rule.servers),
        services: rule.services.iter().map(ToString::to_string).collect(),
        witnesses: edges(why.witnesses, &why.seen),
        unused: edges(why.unused, &why.unseen),
        periods: why.hours,
        period_s: learned.model.period_s,
        saved_bits: why.saved,
        nearest_rejected_merge: why.nearest.map(|(role, other, bits)| RejectedMerge {
            role: shown.unit(role),
            other: shown.unit(other),
            bits,
        }),
    }
}

/// What a period is called.
pub fn period(period_s: u32) -> String {
    match period_s {
        3600 => "hours".to_owned(),
        seconds => format!("periods of {seconds} s"),
    }
}

fn listed(hosts: &[String]) -> String {
    let mut text = hosts[..hosts.len().min(MAX_HOSTS)].join(", ");
    if hosts.len() > MAX_HOSTS {
        text.push_str(&format!(" and {} more", hosts.len() - MAX_HOSTS));
    }
    text
}

fn more(text: &mut String, all: u64, shown: usize) {
    let left = all.saturating_sub(shown as u64);
    if left > 0 {
        text.push_str(&format!("  and {left} more\n"));
    }
}
