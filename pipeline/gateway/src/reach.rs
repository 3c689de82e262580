//! `bulkhead reach`: who may open what to a group, service by service.

use std::sync::Arc;

use bulkhead_rules::analyze::{self, Access, Reach};
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::packet;
use bulkhead_rules::policy::Policy;
use bulkhead_rules::syntax::Source;
use serde::Serialize;

use crate::analysis::instant_words;
use crate::candidate::{self, unix_now_ms};
use crate::cli::{ReachArgs, exit};
use crate::config::{Config, Limits};
use crate::control::client::print_json;
use crate::diff::PacketsReport;
use crate::policy_files::PolicyFiles;

/// What the question is called where it has mistakes.
const QUESTION: &str = "the command line";

/// Answers what the command line asks. Returns the exit code.
pub fn main(args: &ReachArgs) -> u8 {
    match ask(args) {
        Ok(answer) => {
            if args.json {
                print_json(&answer.report());
            } else {
                print!("{}", answer.text());
            }
            if answer.reach.is_incomplete { exit::UNAVAILABLE } else { exit::OK }
        }
        Err((message, code)) => {
            eprintln!("{message}");
            code
        }
    }
}

/// Who may open what, for programs.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct ReachReport {
    /// Who is reached, as asked.
    pub to: String,
    /// Who reaches, as asked.
    pub from: String,
    /// By what, as asked.
    pub service: String,
    /// The instant that is looked at (RFC 3339).
    pub at: Option<String>,
    /// Whether the answer is complete; where it is not, it took too much work.
    pub complete: bool,
    /// What may be opened, service by service.
    pub services: Vec<ServiceReach>,
}

/// Who may open a service.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct ServiceReach {
    /// The service.
    pub service: String,
    /// Who may, rule by rule.
    pub access: Vec<AccessReport>,
}

/// What a rule permits.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct AccessReport {
    /// Which packets.
    #[serde(flatten)]
    pub packets: PacketsReport,
    /// The rule, or `default`.
    pub rule: String,
    /// The file that it is written in; null for the default.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<u32>,
    /// One of the packets, in words that `bulkhead explain` reads.
    pub witness: String,
}

struct Answer {
    policy: Policy,
    reach: Reach,
    at: PolicyTime,
    args: ReachArgs,
}

fn ask(args: &ReachArgs) -> Result<Answer, (String, u8)> {
    let refused = |message: String| (message, exit::REFUSED);
    let config = args.config.as_deref().map(Config::load).transpose();
    let config = config.map_err(|error| refused(error.to_string()))?;
    let wires: Option<Vec<Arc<str>>> = (config.as_ref())
        .map(|config| config.wires.iter().map(|wire| Arc::from(wire.name.as_str())).collect());
    let Some(path) = crate::check::policy_of(args.policy.as_ref(), config.as_ref()) else {
        return Err(refused("error: which policy? --policy names it".to_owned()));
    };
    let limits = config.map_or_else(Limits::default, |config| config.limits);
    let files = PolicyFiles::read(&path, &limits)
        .map_err(|error| (format!("error: {error}"), exit::UNAVAILABLE))?;
    let unix_ms = match &args.at {
        Some(written) => packet::instant_ms(written).ok_or_else(|| {
            refused(format!(
                "error: `{written}` is no instant; write one such as 2026-11-24T06:00:00Z"
            ))
        })?,
        None => unix_now_ms().unwrap_or_default(),
    };
    let mut sources = files.sources;
    sources.push(Source::new(QUESTION, question(args)));
    let loaded = candidate::load(&sources, wires.as_deref(), &limits).map_err(|found| {
        let all: Vec<String> = found.into_iter().map(|finding| finding.rendered).collect();
        refused(all.join("\n\n"))
    })?;
    let policy = loaded.policy;
    let at = PolicyTime { unix_ms, synchronised: true };
    let reach = analyze::reach(&policy, policy.assertions().len().saturating_sub(1), at);
    Ok(Answer { policy, reach, at, args: args.clone() })
}

/// The question as a text of the policy language: an assertion, which nobody checks.
fn question(args: &ReachArgs) -> String {
    let ReachArgs { from, to, service, .. } = args;
    let (from, to, service) = (written(from), written(to), written(service));
    format!(
        "version: 1\nassert:\n  - from: {from}\n    to: {to}\n    service: {service}\n    \
         must: not-reach\n"
    )
}

/// Lists and maps as they are; whatever else it is, one value.
fn written(value: &str) -> String {
    let value: String =
        value.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.starts_with(['[', '{']) {
        return value;
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Answer {
    fn text(&self) -> String {
        let ReachArgs { from, to, service, .. } = &self.args;
        let when = instant_words(self.at);
        let mut out = String::new();
        for service in &self.reach.services {
            out.push_str(&format!("{}\n", service.service));
            for access in &service.access {
                out.push_str(&format!("  {}\n    {}\n", self.who(access), self.by(access)));
            }
        }
        if self.reach.is_incomplete {
            out.push_str(
                "this is not all: finding the rest takes too much work; ask more narrowly\n",
            );
        } else if self.reach.services.is_empty() {
            let what = if service == "any" { "anything" } else { service };
            out.push_str(&format!("nobody of {from} may open {what} to {to} {when}\n"));
        } else {
            out.push_str(&format!("nobody else of {from} may open anything else to {to} {when}\n"));
        }
        out
    }

    /// The source, and what else narrows it.
    fn who(&self, access: &Access) -> String {
        let packets = &access.packets;
        let mut out = format!("from {}", packets.from);
        let to = packets.to.to_string();
        if to != self.args.to {
            out.push_str(&format!(" to {to}"));
        }
        if let Some(family) = packets.family {
            out.push_str(&format!(", {family} only"));
        }
        for (name, words) in [("VLAN", &packets.vlans), ("wire", &packets.wires)] {
            if let Some(words) = words {
                out.push_str(&format!(", {name} {words}"));
            }
        }
        out
    }

    fn by(&self, access: &Access) -> String {
        match self.policy.rule(access.rule) {
            Some(rule) => {
                let at = &rule.location;
                let until = rule.expires.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
                let until = until.map_or_else(String::new, |at| format!(", until {at}"));
                format!("by `{}` ({}:{}){until}", rule.name, at.file, at.line)
            }
            None => "by the default".to_owned(),
        }
    }

    fn report(&self) -> ReachReport {
        let access = |access: &Access| {
            let place = self.policy.rule(access.rule).map(|rule| &rule.location);
            AccessReport {
                packets: PacketsReport::of(&access.packets),
                rule: self.policy.rule_name(access.rule).to_owned(),
                file: place.map(|at| at.file.to_string()),
                line: place.map(|at| at.line),
                witness: packet::in_words(&access.witness, self.policy.wires()),
            }
        };
        let services = self.reach.services.iter().map(|service| ServiceReach {
            service: service.service.to_string(),
            access: service.access.iter().map(access).collect(),
        });
        let at = jiff::Timestamp::from_millisecond(self.at.unix_ms);
        ReachReport {
            to: self.args.to.clone(),
            from: self.args.from.clone(),
            service: self.args.service.clone(),
            at: at.ok().map(|at| at.to_string()),
            complete: !self.reach.is_incomplete,
            services: services.collect(),
        }
    }
}
