//! `bulkhead explain`: what a policy does with a packet, which rule decides, and where it is written.

use std::sync::Arc;

use bulkhead_rules::analyze::{self, Condition};
use bulkhead_rules::classifier::Scratch;
use bulkhead_rules::headers::{Headers, PolicyTime, WireId};
use bulkhead_rules::oracle;
use bulkhead_rules::packet::Packet;
use bulkhead_rules::policy::{Action, Policy, Rule, RuleId};
use serde_json::json;

use crate::analysis::action_word;
use crate::candidate::{self, Candidate, unix_now_ms};
use crate::cli::{Expectation, ExplainArgs, exit};
use crate::config::{Config, Limits};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::policy_files::PolicyFiles;

/// The most rules that are listed beside the one that decides.
const MAX_OTHERS: usize = 5;

/// The most rules that are listed because they nearly decided otherwise.
const MAX_NEAREST: usize = 2;

/// Explains what the command line names. Returns the exit code.
pub fn main(args: &ExplainArgs) -> u8 {
    match explain(args) {
        Ok(explanation) => {
            if args.json {
                println!("{:#}", explanation.json());
            } else {
                println!("{}", explanation.text());
            }
            explanation.exit_code(args.expect)
        }
        Err((message, code)) => {
            eprintln!("{message}");
            code
        }
    }
}

/// The answer.
struct Explanation {
    candidate: Candidate,
    files: PolicyFiles,
    packet: Packet,
    at: PolicyTime,
    rule: RuleId,
    /// Rules after the deciding one that match too, and rules that match at other times.
    others: Vec<(RuleId, &'static str)>,
    /// Rules that would have decided otherwise but for the conditions named.
    nearest: Vec<(RuleId, String)>,
    notes: Vec<String>,
}

fn explain(args: &ExplainArgs) -> Result<Explanation, (String, u8)> {
    let words = args.packet.join(" ");
    let mut packet = Packet::read(&words).map_err(|e| (e.to_string(), exit::REFUSED))?;
    let config = match &args.config {
        Some(path) => Some(Config::load(path).map_err(|e| (e.to_string(), exit::REFUSED))?),
        None => None,
    };
    let wires: Option<Vec<Arc<str>>> = (config.as_ref())
        .map(|config| config.wires.iter().map(|wire| Arc::from(wire.name.as_str())).collect());
    let Some(path) = crate::check::policy_of(args.policy.as_ref(), config.as_ref()) else {
        return Err(("error: which policy? --policy names it".to_owned(), exit::REFUSED));
    };
    let limits = config.as_ref().map_or_else(Limits::default, |config| config.limits.clone());
    let files = PolicyFiles::read(&path, &limits)
        .map_err(|error| (format!("error: {error}"), exit::UNAVAILABLE))?;
    let candidate = candidate::make(&files, wires.as_deref(), &limits).map_err(|found| {
        let all: Vec<String> = found.into_iter().map(|finding| finding.rendered).collect();
        (all.join("\n\n"), exit::REFUSED)
    })?;

    let mut notes = std::mem::take(&mut packet.assumed);
    if !candidate.policy.endpoints().iter().any(|e| e.tests_mac()) {
        notes.retain(|note| !note.starts_with("MAC addresses"));
    }
    packet.headers.wire = wire(&candidate.policy, packet.wire.as_deref(), &mut notes)
        .map_err(|message| (message, exit::REFUSED))?;
    let unix_ms = packet.at_ms.or_else(unix_now_ms).unwrap_or_default();
    let at = PolicyTime { unix_ms, synchronised: true };
    if !candidate.policy.schedule().is_empty() {
        let note = "a synchronised clock: without one, timed allow rules match nothing and timed \
                    denials always";
        notes.push(note.to_owned());
    }
    let rule = decide(&candidate, &packet.headers, at)?;
    let others = others(&candidate.policy, &packet.headers, at, rule);
    let nearest = nearest(&candidate.policy, &packet.headers, at);
    Ok(Explanation { candidate, files, packet, at, rule, others, nearest, notes })
}

/// Asks the classifier, which is what workers ask, and the linear scan, which is obviously right.
fn decide(
    candidate: &Candidate,
    headers: &Headers,
    at: PolicyTime,
) -> Result<RuleId, (String, u8)> {
    let mut out = [RuleId::DEFAULT];
    let headers = std::slice::from_ref(headers);
    candidate.classifier.classify(headers, at, &mut Scratch::default(), &mut out);
    let right = oracle::classify(&candidate.policy, &headers[0], at);
    if out[0] == right {
        return Ok(right);
    }
    let name = |rule| candidate.policy.rule_name(rule);
    let message = format!(
        "error: the compiled policy says `{}` and the policy itself says `{}`: this is a defect of \
         bulkhead; please report it with the policy",
        name(out[0]),
        name(right)
    );
    Err((message, exit::UNAVAILABLE))
}

/// The wire that the packet names, else the only one, else one that no rule names.
fn wire(policy: &Policy, name: Option<&str>, notes: &mut Vec<String>) -> Result<WireId, String> {
    let wires = policy.wires();
    let id = |index: usize| WireId(u16::try_from(index).unwrap_or(u16::MAX));
    match name {
        Some(name) => match wires.iter().position(|wire| **wire == *name) {
            Some(index) => Ok(id(index)),
            None => {
                let near = did_you_mean(name, wires.iter().map(|wire| &**wire));
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if wires.is_empty() => "the policy names no wire; --config tells of the \
                                                 gateway's"
                        .to_owned(),
                    None => format!("there are {}", wires.join(", ")),
                };
                Err(format!("error: there is no wire `{name}`\n  = help: {help}"))
            }
        },
        None => {
            if let [only] = wires {
                notes.push(format!("wire {only}"));
                return Ok(WireId(0));
            }
            if !wires.is_empty() {
                notes.push("a wire that no rule names".to_owned());
            }
            Ok(id(wires.len()))
        }
    }
}

fn others(
    policy: &Policy,
    headers: &Headers,
    at: PolicyTime,
    decided: RuleId,
) -> Vec<(RuleId, &'static str)> {
    let matching = (policy.order())
        .filter_map(|id| policy.rule(id).map(|rule| (id, rule)))
        .filter(|(id, rule)| *id != decided && rule.matches(policy, headers));
    matching
        .map(|(id, rule)| match why_not(rule, at) {
            Some(why) => (id, why),
            None => (id, "matches too, but comes later"),
        })
        .take(MAX_OTHERS)
        .collect()
}

/// The rules that fail in at most two conditions where another verdict was near.
fn nearest(policy: &Policy, headers: &Headers, at: PolicyTime) -> Vec<(RuleId, String)> {
    let explanation = analyze::explain(policy, headers, at);
    let misses = explanation.nearest(policy, MAX_NEAREST);
    misses
        .into_iter()
        .filter(|miss| miss.failed.len() <= 2 && miss.failed != [Condition::Time])
        .map(|miss| {
            let failed: Vec<String> = miss.failed.iter().map(ToString::to_string).collect();
            (miss.rule, failed.join(" and "))
        })
        .collect()
}

fn why_not(rule: &Rule, at: PolicyTime) -> Option<&'static str> {
    if rule.is_active(at) {
        None
    } else if rule.starts.is_some_and(|starts| at.unix_ms < starts) {
        Some("would match, but is not in force yet")
    } else {
        Some("would match, but has expired")
    }
}

impl Explanation {
    fn action(&self) -> Action {
        self.candidate.policy.action(self.rule)
    }

    fn exit_code(&self, expect: Option<Expectation>) -> u8 {
        let allowed = self.action() == Action::Allow;
        match expect {
            Some(Expectation::Allow) if !allowed => exit::REFUSED,
            Some(Expectation::Deny) if allowed => exit::REFUSED,
            _ => exit::OK,
        }
    }

    fn text(&self) -> String {
        let policy = &self.candidate.policy;
        let verdict = match self.action() {
            Action::Allow => "ALLOW: may open a flow; its replies pass too",
            Action::Deny => "DENY: dropped in silence",
            Action::Reject => "REJECT: dropped, and answered as the denied host would",
        };
        let mut out = format!("{verdict}\n  packet: {}\n", self.packet_in_words());
        match policy.rule(self.rule) {
            Some(rule) => {
                out.push_str(&format!("  rule:   {} (number {})\n", rule.name, self.rule.0 + 1));
                out.push_str(&format!("  because {}\n", because(policy, rule)));
                if let Some(reason) = &rule.reason {
                    out.push_str(&format!("  reason: {reason}\n"));
                }
                out.push_str(&self.source(rule));
            }
            None => out.push_str("  rule:   none matches, so the policy's default decides\n"),
        }
        for (id, why) in &self.others {
            let Some(rule) = policy.rule(*id) else { continue };
            let at = &rule.location;
            out.push_str(&format!(
                "  also:   {} ({}:{}) {why}: {}\n",
                rule.name,
                at.file,
                at.line,
                action_word(rule.action)
            ));
        }
        for (id, failed) in &self.nearest {
            let Some(rule) = policy.rule(*id) else { continue };
            let at = &rule.location;
            out.push_str(&format!(
                "  almost: {} ({}:{}) matches but for its {failed}: {}\n",
                rule.name,
                at.file,
                at.line,
                action_word(rule.action)
            ));
        }
        if !self.notes.is_empty() {
            out.push_str(&format!("  taken for granted: {}\n", self.notes.join("; ")));
        }
        out.push_str("  a packet of a flow that exists already is judged by the flow's state");
        out
    }

    /// The rule's line with a caret.
    fn source(&self, rule: &Rule) -> String {
        let at = &rule.location;
        let Some(source) = self.files.sources.iter().find(|source| source.name == at.file) else {
            return String::new();
        };
        let (place, length) = ((at.line, at.column), rule.name.chars().count());
        let shown = Diagnostic::at_place(&at.file, &source.text, place, length, "");
        let place: Vec<String> =
            shown.excerpt().lines().map(|line| format!("  {line}\n")).collect();
        place.concat()
    }

    fn packet_in_words(&self) -> String {
        let policy = &self.candidate.policy;
        let mut words = bulkhead_rules::packet::in_words(&self.packet.headers, policy.wires());
        if self.packet.at_ms.is_some() {
            let at = jiff::Timestamp::from_millisecond(self.at.unix_ms);
            words.push_str(&at.map(|at| format!(" at {at}")).unwrap_or_default());
        }
        words
    }

    fn json(&self) -> serde_json::Value {
        let policy = &self.candidate.policy;
        let rule = policy.rule(self.rule);
        json!({
            "verdict": action_word(self.action()),
            "packet": self.packet_in_words(),
            "rule": policy.rule_name(self.rule),
            "number": rule.map(|_| self.rule.0 + 1),
            "file": rule.map(|rule| &*rule.location.file),
            "line": rule.map(|rule| rule.location.line),
            "column": rule.map(|rule| rule.location.column),
            "reason": rule.and_then(|rule| rule.reason.as_deref()),
            "also": self.others.iter().map(|(id, why)| json!({
                "rule": policy.rule_name(*id), "why": why,
                "action": action_word(policy.action(*id)),
            })).collect::<Vec<_>>(),
            "almost": self.nearest.iter().map(|(id, failed)| json!({
                "rule": policy.rule_name(*id), "but_for": failed,
                "action": action_word(policy.action(*id)),
            })).collect::<Vec<_>>(),
            "assumed": self.notes,
        })
    }
}

fn because(policy: &Policy, rule: &Rule) -> String {
    let (from, to) = (&policy.endpoint(rule.from).label, &policy.endpoint(rule.to).label);
    let service = &policy.service(rule.service).label;
    let verb = if rule.between { "between" } else { "from" };
    let joint = if rule.between { "and" } else { "to" };
    format!("{verb} {from} {joint} {to}, service {service}: {}", action_word(rule.action))
}
