//! `bulkhead diff`: what two policies judge differently.

use std::path::Path;
use std::sync::Arc;

use bulkhead_rules::analyze::{self, Diff, Difference};
use bulkhead_rules::packet;
use bulkhead_rules::policy::{Action, Policy, RuleId};
use serde::Serialize;

use crate::analysis::{action_word, instant_words};
use crate::candidate;
use crate::cli::DiffArgs;
use crate::config::{Config, Limits};
use crate::control::client::print_json;
use crate::policy_files::PolicyFiles;

/// Exit codes as those of diff(1).
mod exit {
    pub(super) const SAME: u8 = 0;
    pub(super) const DIFFERENT: u8 = 1;
    pub(super) const TROUBLE: u8 = 2;
}

/// Compares what the command line names. Returns the exit code.
pub fn main(args: &DiffArgs) -> u8 {
    match compare(args) {
        Ok(answer) => {
            if args.json {
                print_json(&answer.report());
            } else {
                print!("{}", answer.text());
            }
            answer.exit_code()
        }
        Err(message) => {
            eprintln!("{message}");
            exit::TROUBLE
        }
    }
}

struct Answer {
    policies: [Policy; 2],
    paths: [String; 2],
    diff: Diff,
}

fn compare(args: &DiffArgs) -> Result<Answer, String> {
    let config = args.config.as_deref().map(Config::load).transpose().map_err(|e| e.to_string())?;
    let wires: Option<Vec<Arc<str>>> = (config.as_ref())
        .map(|config| config.wires.iter().map(|wire| Arc::from(wire.name.as_str())).collect());
    let limits = config.map_or_else(Limits::default, |config| config.limits);
    let policies = [
        policy(&args.old, wires.as_deref(), &limits)?,
        policy(&args.new, wires.as_deref(), &limits)?,
    ];
    let diff = analyze::diff(&policies[0], &policies[1], args.limit);
    let paths = [&args.old, &args.new].map(|path| path.display().to_string());
    Ok(Answer { policies, paths, diff })
}

/// The policy at `path`, checked, whatever its assertions say.
pub(crate) fn policy(
    path: &Path,
    wires: Option<&[Arc<str>]>,
    limits: &Limits,
) -> Result<Policy, String> {
    let files = PolicyFiles::read(path, limits).map_err(|error| format!("error: {error}"))?;
    let loaded = candidate::load(&files.sources, wires, limits).map_err(|found| {
        let all: Vec<String> = found.into_iter().map(|finding| finding.rendered).collect();
        all.join("\n\n")
    })?;
    Ok(loaded.policy)
}

impl Answer {
    fn exit_code(&self) -> u8 {
        match (self.diff.differences.is_empty(), self.diff.is_incomplete) {
            (false, _) => exit::DIFFERENT,
            (true, false) => exit::SAME,
            (true, true) => exit::TROUBLE,
        }
    }

    fn text(&self) -> String {
        let Diff { differences, more, is_incomplete, .. } = &self.diff;
        let mut out = String::new();
        for difference in differences {
            out.push_str(&self.difference(difference));
        }
        let [old, new] = &self.paths;
        let count = differences.len() + more;
        if *more > 0 {
            out.push_str(&format!("and {more} more: --limit shows them\n\n"));
        }
        if *is_incomplete {
            out.push_str(&format!(
                "{old} and {new} could not be compared whole: it takes too much work; {} what is \
                 not listed nothing is claimed\n",
                if count > 0 { "about" } else { "no difference was found so far, and about" }
            ));
        } else if count == 0 {
            out.push_str(&format!("{old} and {new} judge every packet alike, at every instant\n"));
        } else {
            let noun = if count == 1 { "difference" } else { "differences" };
            out.push_str(&format!(
                "{old} and {new}: {count} {noun}; all other packets are judged alike\n"
            ));
        }
        out
    }

    fn difference(&self, difference: &Difference) -> String {
        let [old, new] = &self.policies;
        let (before, after) = (old.action(difference.before), new.action(difference.after));
        let what = match (before, after) {
            (Action::Allow, _) => "no longer allowed",
            (_, Action::Allow) => "newly allowed",
            (_, Action::Reject) => "denied with an answer now",
            (_, Action::Deny) => "denied in silence now",
        };
        format!(
            "{what}: {}\n  before:      {}\n  after:       {}\n  for example: {}\n\n",
            difference.packets,
            decision(old, difference.before),
            decision(new, difference.after),
            self.witness(difference),
        )
    }

    fn witness(&self, difference: &Difference) -> String {
        let (headers, at) = difference.witness;
        let words = packet::in_words(&headers, &self.diff.wires);
        if self.policies.iter().all(|policy| policy.schedule().is_empty()) {
            return words;
        }
        format!("{words} {}", instant_words(at))
    }

    fn report(&self) -> DiffReport {
        let side = |policy: &Policy, id: RuleId| {
            let place = policy.rule(id).map(|rule| &rule.location);
            Decision {
                verdict: action_word(policy.action(id)),
                rule: policy.rule_name(id).to_owned(),
                file: place.map(|at| at.file.to_string()),
                line: place.map(|at| at.line),
            }
        };
        let [old, new] = &self.policies;
        let differences = self.diff.differences.iter().map(|difference| DifferenceReport {
            packets: PacketsReport::of(&difference.packets),
            before: side(old, difference.before),
            after: side(new, difference.after),
            witness: self.witness(difference),
        });
        DiffReport {
            old: self.paths[0].clone(),
            new: self.paths[1].clone(),
            same: self.diff.is_same(),
            complete: !self.diff.is_incomplete,
            differences: differences.collect(),
            more: self.diff.more,
            exit_code: self.exit_code(),
        }
    }
}

/// What two policies judge differently, for programs.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct DiffReport {
    /// Where the policy before is.
    pub old: String,
    /// And the one after.
    pub new: String,
    /// Whether they judge every packet alike.
    pub same: bool,
    /// Whether the comparison is complete; where it is not, it took too much work.
    pub complete: bool,
    /// The differences, at most as many as --limit says.
    pub differences: Vec<DifferenceReport>,
    /// How many more there are.
    pub more: usize,
    /// What the command exits with.
    pub exit_code: u8,
}

/// Packets that two policies judge differently.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct DifferenceReport {
    /// Which packets.
    #[serde(flatten)]
    pub packets: PacketsReport,
    /// What becomes of them before.
    pub before: Decision,
    /// And after.
    pub after: Decision,
    /// One of them, in words that `bulkhead explain` reads.
    pub witness: String,
}

/// What a policy decides, and by which rule.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct Decision {
    /// `allow`, `deny` or `reject`.
    pub verdict: &'static str,
    /// The rule, or `default`.
    pub rule: String,
    /// The file that it is written in; null for the default.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<u32>,
}

/// Packets; what is any is left out.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct PacketsReport {
    /// In words.
    pub packets: String,
    /// Sources.
    pub from: WordsReport,
    /// Destinations.
    pub to: WordsReport,
    /// Services.
    pub service: WordsReport,
    /// VLAN tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<WordsReport>,
    /// Wires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire: Option<WordsReport>,
    /// Periods of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<WordsReport>,
    /// `IPv4` or `IPv6`, where only these are meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<&'static str>,
}

/// Values of a field.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct WordsReport {
    /// Any of these,
    pub r#in: Vec<String>,
    /// but none of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

impl PacketsReport {
    /// The packets of an analysis.
    pub(crate) fn of(packets: &analyze::Packets) -> Self {
        let words = |words: &analyze::Words| WordsReport {
            r#in: words.items.clone(),
            except: words.except.clone(),
        };
        Self {
            packets: packets.to_string(),
            from: words(&packets.from),
            to: words(&packets.to),
            service: words(&packets.service),
            vlan: packets.vlans.as_ref().map(words),
            wire: packets.wires.as_ref().map(words),
            when: packets.when.as_ref().map(words),
            family: packets.family,
        }
    }
}

/// What a rule does, its name and its place.
fn decision(policy: &Policy, id: RuleId) -> String {
    let action = action_word(policy.action(id));
    match policy.rule(id) {
        Some(rule) => {
            let at = &rule.location;
            format!("{action} by `{}` ({}:{})", rule.name, at.file, at.line)
        }
        None => format!("{action} by the default"),
    }
}
