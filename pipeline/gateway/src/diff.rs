//! `bulkhead diff`: what two policies judge differently.

use std::path::Path;
use std::sync::Arc;

use bulkhead_rules::analyze::{self, Diff, Difference};
use bulkhead_rules::packet;
use bulkhead_rules::policy::{Action, Policy, RuleId};
use serde_json::json;

use crate::analysis::{action_word, instant_words};
use crate::candidate;
use crate::cli::DiffArgs;
use crate::config::{Config, Limits};
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
                println!("{:#}", answer.json());
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

    fn json(&self) -> serde_json::Value {
        let side = |policy: &Policy, id: RuleId| {
            let place = policy.rule(id).map(|rule| &rule.location);
            json!({
                "verdict": action_word(policy.action(id)),
                "rule": policy.rule_name(id),
                "file": place.map(|at| &*at.file),
                "line": place.map(|at| at.line),
            })
        };
        let [old, new] = &self.policies;
        let differences: Vec<serde_json::Value> = (self.diff.differences.iter())
            .map(|difference| {
                let mut value = packets_json(&difference.packets);
                value["before"] = side(old, difference.before);
                value["after"] = side(new, difference.after);
                value["witness"] = self.witness(difference).into();
                value
            })
            .collect();
        json!({
            "old": self.paths[0],
            "new": self.paths[1],
            "same": self.diff.is_same(),
            "complete": !self.diff.is_incomplete,
            "differences": differences,
            "more": self.diff.more,
            "exit_code": self.exit_code(),
        })
    }
}

/// Packets as JSON; what is any is left out.
pub(crate) fn packets_json(packets: &analyze::Packets) -> serde_json::Value {
    let words = |words: &analyze::Words| match words.except.as_slice() {
        [] => json!({"in": words.items}),
        except => json!({"in": words.items, "except": except}),
    };
    let mut value = json!({
        "packets": packets.to_string(),
        "from": words(&packets.from),
        "to": words(&packets.to),
        "service": words(&packets.service),
    });
    let narrowed = [("vlan", &packets.vlans), ("wire", &packets.wires), ("when", &packets.when)];
    for (key, some) in narrowed {
        if let Some(some) = some {
            value[key] = words(some);
        }
    }
    if let Some(family) = packets.family {
        value["family"] = family.into();
    }
    value
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
