//! `bulkhead explain`: what a policy does with a packet, which rule decides, and where it is written.

use std::sync::Arc;

use bulkhead_rules::analyze::{self, Condition, Miss};
use bulkhead_rules::classifier::Scratch;
use bulkhead_rules::headers::{Headers, PolicyTime, VlanTags, WireId};
use bulkhead_rules::packet::Packet;
use bulkhead_rules::policy::{Action, Policy, Rule, RuleId};
use bulkhead_rules::sets::FiniteSet;
use bulkhead_rules::{oracle, packet};
use serde::Serialize;

use crate::analysis::action_word;
use crate::candidate::{self, Candidate, unix_now_ms};
use crate::cli::{Expectation, ExplainArgs, exit};
use crate::config::{Config, Limits};
use crate::control::client::print_json;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::policy_files::PolicyFiles;

/// The most rules that are listed beside the one that decides.
const MAX_OTHERS: usize = 5;

/// The most rules that are listed because they nearly decided otherwise.
const MAX_NEAREST: usize = 2;

/// The most rules whose misses a report for programs lists unless it is asked for all.
const MAX_MISSES: usize = 5;

/// What a policy does with a packet, for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct ExplainReport {
    /// `allow`, `deny` or `reject`.
    pub verdict: &'static str,
    /// The packet in words, as `bulkhead explain` reads it.
    pub packet: String,
    /// The rule that decides, or `default`.
    pub rule: String,
    /// Its number in the policy, from 1; null for the default, and so are the next four.
    pub number: Option<u32>,
    /// The file that it is written in.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<u32>,
    /// Its column in characters, from 1.
    pub column: Option<u32>,
    /// Why it exists, where it says so.
    pub reason: Option<String>,
    /// Rules that match as well, but come later or are not in force; at most five.
    pub also: Vec<AlsoMatches>,
    /// Rules that would have decided otherwise but for one condition or two; at most two.
    pub almost: Vec<AlmostMatches>,
    /// Earlier rules, or all where the default decides: why each does not match.
    pub misses: Misses,
    /// What the packet's words left open, and was taken for granted.
    pub assumed: Vec<String>,
}

/// A rule that matches as well.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct AlsoMatches {
    /// Its name.
    pub rule: String,
    /// Why it does not decide.
    pub why: &'static str,
    /// `allow`, `deny` or `reject`.
    pub action: &'static str,
}

/// A rule that nearly decided otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct AlmostMatches {
    /// Its name.
    pub rule: String,
    /// What does not match, such as `source and service`.
    pub but_for: String,
    /// `allow`, `deny` or `reject`.
    pub action: &'static str,
}

/// The rules before the one that decides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct Misses {
    /// How many there are.
    pub count: usize,
    /// Those that fail in the fewest conditions, at most five, nearest first; with `--all` all of them,
    /// in the order of the policy.
    pub some: Vec<RuleMiss>,
}

/// Why a rule does not match.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct RuleMiss {
    /// Its name.
    pub rule: String,
    /// Its number in the policy, from 1.
    pub number: u32,
    /// The file that it is written in.
    pub file: String,
    /// Its line, from 1.
    pub line: u32,
    /// `allow`, `deny` or `reject`.
    pub action: &'static str,
    /// What does not hold: `from`, `from-mac`, `from-vlan`, `to`, `to-mac`, `to-vlan`, `service`, `vlan`,
    /// `wire`, `time`.
    pub failed: Vec<&'static str>,
    /// The same in words.
    pub why: String,
}

/// Explains what the command line names. Returns the exit code.
pub fn main(args: &ExplainArgs) -> u8 {
    match explain(args) {
        Ok(explanation) => {
            if args.json {
                print_json(&explanation.report(args.all));
            } else {
                println!("{}", explanation.text(args.all));
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
    /// Why no rule before it decides.
    misses: analyze::Explanation,
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
    let misses = analyze::explain(&candidate.policy, &packet.headers, at);
    Ok(Explanation { candidate, files, packet, at, rule, others, misses, notes })
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

    /// The rules that fail in at most two conditions where another verdict was near.
    fn nearest(&self) -> Vec<&Miss> {
        let misses = self.misses.nearest(&self.candidate.policy, MAX_NEAREST);
        let is_near = |miss: &&Miss| miss.failed.len() <= 2 && miss.failed != [Condition::Time];
        misses.into_iter().filter(is_near).collect()
    }

    fn text(&self, all: bool) -> String {
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
        for miss in self.nearest() {
            let Some(rule) = policy.rule(miss.rule) else { continue };
            let at = &rule.location;
            out.push_str(&format!(
                "  almost: {} ({}:{}) matches but for its {} ({}): {}\n",
                rule.name,
                at.file,
                at.line,
                conditions(miss),
                self.why(rule, miss),
                action_word(rule.action)
            ));
        }
        out.push_str(&self.misses_text(all));
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

    /// Why each earlier rule does not match, or how many there are.
    fn misses_text(&self, all: bool) -> String {
        let policy = &self.candidate.policy;
        let mut out = String::new();
        let misses = &self.misses.misses;
        if !all {
            if misses.len() > self.nearest().len() {
                let before = if self.rule == RuleId::DEFAULT { "" } else { " before it" };
                let many = if misses.len() == 1 { "rule" } else { "rules" };
                out.push_str(&format!(
                    "  not:    {} {many}{before}; --all says of each why it does not match\n",
                    misses.len()
                ));
            }
            return out;
        }
        for miss in misses {
            let Some(rule) = policy.rule(miss.rule) else { continue };
            let (at, why) = (&rule.location, self.why(rule, miss));
            out.push_str(&format!("  not:    {} ({}:{}): {why}\n", rule.name, at.file, at.line));
        }
        out
    }

    /// What of a rule does not hold, in words.
    fn why(&self, rule: &Rule, miss: &Miss) -> String {
        let each = miss.failed.iter().map(|&condition| self.why_one(rule, condition));
        each.collect::<Vec<_>>().join("; ")
    }

    fn why_one(&self, rule: &Rule, condition: Condition) -> String {
        let (policy, h) = (&self.candidate.policy, &self.packet.headers);
        let label = |id| policy.endpoint(id).label.as_str();
        // Either side of a rule with `between` may be meant.
        let sides = format!("{} or {}", label(rule.from), label(rule.to));
        let (from, to) = match rule.between {
            true => (sides.as_str(), sides.as_str()),
            false => (label(rule.from), label(rule.to)),
        };
        let [src, dst] = hosts(h);
        let instant =
            |ms| jiff::Timestamp::from_millisecond(ms).map_or(String::new(), |at| at.to_string());
        match condition {
            Condition::From => format!("source {src} is not in {from}"),
            Condition::FromMac => {
                format!("source {src} with MAC address {} is not the host in {from}", h.src_mac)
            }
            Condition::FromVlan => {
                format!("source {src} in VLAN {} is not the host in {from}", vlan(h.tags))
            }
            Condition::To => format!("destination {dst} is not in {to}"),
            Condition::ToMac => {
                format!("destination {dst} with MAC address {} is not the host in {to}", h.dst_mac)
            }
            Condition::ToVlan => {
                format!("destination {dst} in VLAN {} is not the host in {to}", vlan(h.tags))
            }
            Condition::Service => {
                format!("service {} is not {}", service(h), policy.service(rule.service).label)
            }
            Condition::Vlan => format!("VLAN {} is not {}", vlan(h.tags), named(&rule.vlans, vlan)),
            Condition::Wire => {
                let name = |wire: WireId| match policy.wires().get(usize::from(wire.0)) {
                    Some(name) => name.to_string(),
                    None => "that no rule names".to_owned(),
                };
                format!("wire {} is not {}", name(h.wire), named(&rule.wires, name))
            }
            Condition::Time => match (rule.starts, rule.expires) {
                (Some(starts), _) if starts > self.at.unix_ms => {
                    format!("it starts at {}", instant(starts))
                }
                (_, Some(expires)) => format!("it expired at {}", instant(expires)),
                _ => "it is not in force".to_owned(),
            },
        }
    }

    fn report(&self, all: bool) -> ExplainReport {
        let policy = &self.candidate.policy;
        let rule = policy.rule(self.rule);
        let name = |id| policy.rule_name(id).to_owned();
        let mut misses: Vec<&Miss> = self.misses.misses.iter().collect();
        if !all {
            misses.sort_by_key(|miss| miss.failed.len());
            misses.truncate(MAX_MISSES);
        }
        let misses = misses.into_iter().filter_map(|miss| {
            let rule = policy.rule(miss.rule)?;
            Some(RuleMiss {
                rule: rule.name.to_string(),
                number: miss.rule.0 + 1,
                file: rule.location.file.to_string(),
                line: rule.location.line,
                action: action_word(rule.action),
                failed: miss.failed.iter().map(|condition| condition.label()).collect(),
                why: self.why(rule, miss),
            })
        });
        let also = self.others.iter().map(|&(id, why)| AlsoMatches {
            rule: name(id),
            why,
            action: action_word(policy.action(id)),
        });
        let almost = self.nearest().into_iter().map(|miss| AlmostMatches {
            rule: name(miss.rule),
            but_for: conditions(miss),
            action: action_word(policy.action(miss.rule)),
        });
        ExplainReport {
            verdict: action_word(self.action()),
            packet: self.packet_in_words(),
            rule: name(self.rule),
            number: rule.map(|_| self.rule.0 + 1),
            file: rule.map(|rule| rule.location.file.to_string()),
            line: rule.map(|rule| rule.location.line),
            column: rule.map(|rule| rule.location.column),
            reason: rule.and_then(|rule| rule.reason.as_deref()).map(str::to_owned),
            also: also.collect(),
            almost: almost.collect(),
            misses: Misses { count: self.misses.misses.len(), some: misses.collect() },
            assumed: self.notes.clone(),
        }
    }
}

/// What of a rule does not hold, as it reads after "but for its".
fn conditions(miss: &Miss) -> String {
    miss.failed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Source and destination in words: addresses, or the MAC addresses of what is not IP.
fn hosts(headers: &Headers) -> [String; 2] {
    if !headers.is_ip() {
        return [headers.src_mac.to_string(), headers.dst_mac.to_string()];
    }
    let address =
        |headers: &Headers| headers.dst_address().map_or(String::new(), |a| a.to_string());
    [address(&headers.reversed()), address(headers)]
}

/// What a packet asks for, as a rule would name it: `tcp/502`, `icmp/8/0`, `ip/47`, `eth/0x8892`.
fn service(headers: &Headers) -> String {
    let words = packet::in_words(headers, &[]);
    let protocol = words.split(' ').next().unwrap_or_default();
    match protocol {
        "tcp" | "udp" | "sctp" => format!("{protocol}/{}", headers.dst_port),
        protocol => protocol.to_owned(),
    }
}

fn vlan(tags: VlanTags) -> String {
    match tags {
        VlanTags::UNTAGGED => "untagged".to_owned(),
        VlanTags { outer, inner: 0 } => outer.to_string(),
        VlanTags { outer, inner } => format!("{outer}.{inner}"),
    }
}

/// The values of a condition in words.
fn named<T: Copy>(set: &FiniteSet<T>, word: impl Fn(T) -> String) -> String {
    let all = |values: &[T]| values.iter().map(|&value| word(value)).collect::<Vec<_>>().join(", ");
    match set {
        FiniteSet::Only(values) => all(values),
        FiniteSet::AllBut(values) => format!("other than {}", all(values)),
    }
}

fn because(policy: &Policy, rule: &Rule) -> String {
    let (from, to) = (&policy.endpoint(rule.from).label, &policy.endpoint(rule.to).label);
    let service = &policy.service(rule.service).label;
    let verb = if rule.between { "between" } else { "from" };
    let joint = if rule.between { "and" } else { "to" };
    format!("{verb} {from} {joint} {to}, service {service}: {}", action_word(rule.action))
}
