//! What `check` says about rules that do nothing, or not what they say.

use bulkhead_rules::analyze::{self, FindingKind};
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::packet;
use bulkhead_rules::policy::{Action, Policy, RuleId};
use serde::Serialize;

use crate::candidate::Finding;
use crate::diagnostic::Diagnostic;
use crate::policy_files::PolicyFiles;

/// The most findings that are shown with their line of the policy; each searches its file for it.
const MAX_EXCERPTS: usize = 100;

/// The most rules that a sentence names.
const MAX_NAMED: usize = 4;

/// What is odd about the rules of a policy.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Analysis {
    /// In the order of the rules.
    pub findings: Vec<RuleFinding>,
    /// The names of rules about which nothing is known, because it takes too much work.
    pub not_analysed: Vec<String>,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// A finding about a rule.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RuleFinding {
    /// As every finding is shown; `severity` is `warning` or `note`.
    #[serde(flatten)]
    pub finding: Finding,
    /// The rule's name.
    pub rule: String,
    /// The rules that cause it, in the order in which they decide.
    pub causes: Vec<Cause>,
    /// How many more there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_causes: usize,
    /// For a redundant rule whether it may be removed together with all others that are reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub independently: Option<bool>,
    /// A packet that shows it, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// A rule that causes a finding.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Cause {
    /// Its name, or `default`.
    pub rule: String,
    /// What it does.
    pub action: &'static str,
    /// Where it is written; nothing for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Analyses a policy for people.
pub fn analyse(policy: &Policy, files: &PolicyFiles, correlations: bool) -> Analysis {
    let begun = std::time::Instant::now();
    let found = analyze::findings(policy, correlations);
    let writer = Writer { policy, files };
    let findings = found.findings.iter().enumerate();
    Analysis {
        findings: findings.map(|(n, found)| writer.finding(found, n < MAX_EXCERPTS)).collect(),
        not_analysed: found
            .not_analysed
            .iter()
            .map(|&id| policy.rule_name(id).to_owned())
            .collect(),
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

struct Writer<'a> {
    policy: &'a Policy,
    files: &'a PolicyFiles,
}

impl Writer<'_> {
    fn finding(&self, found: &analyze::Finding, with_excerpt: bool) -> RuleFinding {
        let (code, severity) = match found.kind {
            FindingKind::Impossible => ("impossible", "warning"),
            FindingKind::Shadowed => ("shadowed", "warning"),
            FindingKind::Contradicted => ("contradicted", "warning"),
            FindingKind::Redundant { .. } => ("redundant", "note"),
            FindingKind::Correlated => ("correlated", "note"),
        };
        let (message, help) = self.words(found);
        let name = self.policy.rule_name(found.rule);
        let place = self.policy.rule(found.rule).map(|rule| &rule.location);
        let excerpt = place.map(|at| {
            if !with_excerpt {
                return format!(" --> {}:{}:{}", at.file, at.line, at.column);
            }
            let text = self.files.sources.iter().find(|source| source.name == at.file);
            let text = text.map_or("", |source| source.text.as_str());
            let length = name.chars().count();
            Diagnostic::at_place(&at.file, text, (at.line, at.column), length, "").excerpt()
        });
        let rendered = format!(
            "{severity}[{code}]: {message}\n{}{}\n  = help: {help}",
            excerpt.unwrap_or_default(),
            self.places(&found.causes),
        );
        let independently = match found.kind {
            FindingKind::Redundant { independently } => Some(independently),
            _ => None,
        };
        RuleFinding {
            finding: Finding {
                severity: severity.to_owned(),
                code: code.to_owned(),
                message,
                file: place.map(|at| at.file.to_string()),
                line: place.map(|at| at.line),
                column: place.map(|at| at.column),
                help: Some(help),
                rendered,
            },
            rule: name.to_owned(),
            causes: found.causes.iter().map(|&id| self.cause(id)).collect(),
            more_causes: found.more_causes,
            independently,
            witness: found.witness.map(|witness| self.packet(witness)),
        }
    }

    /// What is wrong and what to do.
    fn words(&self, found: &analyze::Finding) -> (String, String) {
        let name = self.policy.rule_name(found.rule);
        let action = action_word(self.policy.action(found.rule));
        let causes = self.names(found);
        let several = found.causes.len() + found.more_causes > 1;
        let (matches, together) = if several { ("match", " together") } else { ("matches", "") };
        match found.kind {
            FindingKind::Impossible => (
                format!(
                    "rule `{name}` matches no packet at all: its conditions exclude each other"
                ),
                "compare the address families of both sides and of the service, and the VLANs; \
                 then correct or remove the rule"
                    .to_owned(),
            ),
            FindingKind::Shadowed => (
                format!(
                    "rule `{name}` never decides: {causes} before it{together} {matches} all that \
                     it matches"
                ),
                format!("remove it: {action} is what they get without it too"),
            ),
            FindingKind::Contradicted => {
                let what = self.opposed(found);
                (
                    format!(
                        "rule `{name}` says {action} and never decides: {causes} before \
                         it{together} {matches} all that it matches"
                    ),
                    format!("{what}; move the rule above if it is meant to decide, else remove it"),
                )
            }
            FindingKind::Redundant { independently } => {
                self.redundant(found, name, &causes, several, independently)
            }
            FindingKind::Correlated => {
                let other = found.causes.first().map_or(RuleId::DEFAULT, |&id| id);
                let theirs = action_word(self.policy.action(other));
                let witness = found.witness.map(|witness| self.packet(witness));
                (
                    format!(
                        "rule `{name}` says {action} and {causes} before it says {theirs}: neither \
                         matches all that the other does, and what both match goes to {causes}"
                    ),
                    format!(
                        "see that {theirs} is meant for what both match, such as {}",
                        witness.unwrap_or_default()
                    ),
                )
            }
        }
    }

    fn redundant(
        &self,
        found: &analyze::Finding,
        name: &str,
        causes: &str,
        several: bool,
        independently: bool,
    ) -> (String, String) {
        let action = action_word(self.policy.action(found.rule));
        let message = match found.causes.as_slice() {
            [RuleId::DEFAULT] => {
                format!(
                    "rule `{name}` makes no difference: without it the default says {action} too"
                )
            }
            _ => format!(
                "rule `{name}` makes no difference: without it {causes} after it {} {action} too",
                if several { "say" } else { "says" }
            ),
        };
        let logs = |id: &RuleId| self.policy.rule(*id).is_some_and(|r| r.log);
        let mut help = if logs(&found.rule) && !found.causes.iter().all(logs) {
            "removing it changes no verdict, but what it decides would be logged no more".to_owned()
        } else {
            "remove it, unless its name is wanted in logs and counters".to_owned()
        };
        if !independently {
            help.push_str(
                "; of those that are reported before it some may be needed then: check again once \
                 they are gone",
            );
        }
        (message, help)
    }

    /// Which causes do something else than the rule says.
    fn opposed(&self, found: &analyze::Finding) -> String {
        let action = self.policy.action(found.rule);
        let opposed = found.causes.iter().filter(|&&id| self.policy.action(id) != action);
        let words: Vec<String> = opposed
            .take(MAX_NAMED)
            .map(|&id| {
                let name = self.policy.rule_name(id);
                format!("`{name}` says {}", action_word(self.policy.action(id)))
            })
            .collect();
        words.join(", ")
    }

    fn names(&self, found: &analyze::Finding) -> String {
        let mut names: Vec<String> = (found.causes.iter().take(MAX_NAMED))
            .map(|&id| format!("`{}`", self.policy.rule_name(id)))
            .collect();
        let more = found.causes.len() + found.more_causes - names.len();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        match names.pop() {
            Some(last) if !names.is_empty() => format!("{} and {last}", names.join(", ")),
            last => last.unwrap_or_default(),
        }
    }

    /// A line for each cause: what it does and where it is.
    fn places(&self, causes: &[RuleId]) -> String {
        let line = |&id: &RuleId| {
            let rule = self.policy.rule(id)?;
            let (at, action) = (&rule.location, action_word(rule.action));
            Some(format!("\n  = `{}`: {action}, {}:{}:{}", rule.name, at.file, at.line, at.column))
        };
        causes.iter().filter_map(line).collect()
    }

    fn cause(&self, id: RuleId) -> Cause {
        let place = self.policy.rule(id).map(|rule| &rule.location);
        Cause {
            rule: self.policy.rule_name(id).to_owned(),
            action: action_word(self.policy.action(id)),
            file: place.map(|at| at.file.to_string()),
            line: place.map(|at| at.line),
        }
    }

    fn packet(&self, (headers, at): (Headers, PolicyTime)) -> String {
        packet_at(self.policy, &headers, at)
    }
}

/// A packet in words, with its instant where that matters.
pub fn packet_at(policy: &Policy, headers: &Headers, at: PolicyTime) -> String {
    let words = packet::in_words(headers, policy.wires());
    if policy.schedule().is_empty() {
        return words;
    }
    format!("{words} {}", instant_words(at))
}

/// When, in words that follow a packet.
pub fn instant_words(at: PolicyTime) -> String {
    match jiff::Timestamp::from_millisecond(at.unix_ms) {
        _ if !at.synchronised => "while the clock is not synchronised".to_owned(),
        Ok(instant) => format!("at {instant}"),
        Err(_) => format!("at {} ms", at.unix_ms),
    }
}

/// An action as it is written in a policy.
pub fn action_word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    }
}
