//! `bulkhead reach`: who may open what to a group, service by service.

use std::sync::Arc;

use bulkhead_rules::analyze::{self, Access, Reach};
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::packet;
use bulkhead_rules::policy::Policy;
use bulkhead_rules::syntax::Source;
use serde_json::json;

use crate::analysis::instant_words;
use crate::candidate::{self, unix_now_ms};
use crate::cli::{ReachArgs, exit};
use crate::config::{Config, Limits};
use crate::diff::packets_json;
use crate::policy_files::PolicyFiles;

/// What the question is called where it has mistakes.
const QUESTION: &str = "the command line";

/// Answers what the command line asks. Returns the exit code.
pub fn main(args: &ReachArgs) -> u8 {
    match ask(args) {
        Ok(answer) => {
            if args.json {
                println!("{:#}", answer.json());
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

    fn json(&self) -> serde_json::Value {
        let access = |access: &Access| {
            let place = self.policy.rule(access.rule).map(|rule| &rule.location);
            let mut value = packets_json(&access.packets);
            value["rule"] = self.policy.rule_name(access.rule).into();
            value["file"] = place.map(|at| &*at.file).into();
            value["line"] = place.map(|at| at.line).into();
            value["witness"] = packet::in_words(&access.witness, self.policy.wires()).into();
            value
        };
        let services: Vec<serde_json::Value> = (self.reach.services.iter())
            .map(|service| {
                let all: Vec<_> = service.access.iter().map(access).collect();
                json!({"service": service.service.to_string(), "access": all})
            })
            .collect();
        json!({
            "to": self.args.to,
            "from": self.args.from,
            "service": self.args.service,
            "at": jiff::Timestamp::from_millisecond(self.at.unix_ms).ok().map(|at| at.to_string()),
            "complete": !self.reach.is_incomplete,
            "services": services,
        })
    }
}
