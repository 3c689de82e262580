//! What stands in the way of a lockdown: evidence that it would cut what should go on.

use std::time::Duration;

use bulkhead_rules::policy::{Action, Policy, RuleId};

use super::stage::StageReport;

/// The mark that learning puts into the reason of a rule that somebody has to look at.
const UNREVIEWED: &str = "APPROVE OR REMOVE";

/// The most rules that are named.
const MAX_NAMED: usize = 5;

/// When a lockdown is refused.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    /// The largest share of the flows that pass now which the staged policy's default may cut.
    pub max_denied_ratio: f64,
    /// How long a policy must have been staged.
    pub min_staged: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_denied_ratio: 0.001, min_staged: Duration::from_secs(3600) }
    }
}

/// What stands in the way, in sentences; empty where nothing does.
pub fn obstacles(report: &StageReport, bounds: &Bounds) -> Vec<String> {
    let Some(staged) = &report.staged else {
        return vec![
            "nothing is staged: `bulkhead stage POLICY` shows what it would change".to_owned(),
        ];
    };
    let mut obstacles = Vec::new();
    let min_s = bounds.min_staged.as_secs();
    if staged.age_s < min_s {
        obstacles.push(format!(
            "the policy has been staged for {} s, and at least {min_s} s are asked for \
             (`min-staged-s`)",
            staged.age_s
        ));
    }
    if report.passing == 0 {
        obstacles.push("no flow has passed since it was staged: nothing is known".to_owned());
    } else if report.denied_ratio > bounds.max_denied_ratio {
        let kept = match report.cut_in_earlier_runs {
            0 if report.unlisted == 0 => "",
            _ => {
                "; what was cut before the gateway's last start, or could not be listed, counts whatever \
                 is granted: `bulkhead stage` once more begins anew"
            }
        };
        obstacles.push(format!(
            "{} of {} flows that pass now match no rule of the staged policy: {:.3} %, and at most \
             {:.3} % are asked for (`max-denied-ratio`); `bulkhead stage --status` lists them{kept}",
            report.cut_by_default,
            report.passing,
            report.denied_ratio * 100.0,
            bounds.max_denied_ratio * 100.0
        ));
    }
    if !staged.unreviewed.is_empty() {
        let mut named = staged.unreviewed.clone();
        named.truncate(MAX_NAMED);
        obstacles.push(format!(
            "{} exceptions that learning found wait for somebody to approve or remove them ({UNREVIEWED} \
             in their reason): {}",
            staged.unreviewed.len(),
            named.join(", ")
        ));
    }
    obstacles
}

/// The rules that somebody has to look at.
pub fn unreviewed(policy: &Policy) -> Vec<String> {
    let rules = policy.order().filter_map(|rule| policy.rule(rule));
    let waits = |reason: &str| reason.contains(UNREVIEWED);
    let waiting = rules.filter(|rule| rule.reason.as_deref().is_some_and(waits));
    waiting.map(|rule| rule.name.to_string()).collect()
}

/// Whether what `rule` denies is denied for want of a rule: by the default, or by one that says the
/// same of everything. What a rule denies by name was meant.
pub fn is_default(policy: &Policy, rule: RuleId) -> bool {
    let Some(rule) = policy.rule(rule) else { return true };
    let is_any = |id| policy.endpoint(id).boxes.iter().any(|b| b.is_any());
    let any_service = policy
        .service(rule.service)
        .terms
        .iter()
        .any(|term| term.protocols.is_any() && term.ether_types.is_any());
    rule.action != Action::Allow && is_any(rule.from) && is_any(rule.to) && any_service
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::stage::StagedShown;

    fn report(age_s: u64, passing: u64, cut_by_default: u64) -> StageReport {
        let staged = StagedShown { age_s, ..StagedShown::default() };
        StageReport {
            staged: Some(staged),
            passing,
            cut_by_default,
            denied_ratio: cut_by_default as f64 / passing.max(1) as f64,
            ..StageReport::default()
        }
    }

    #[test]
    fn each_obstacle_is_named_and_none_without_one() {
        let bounds = Bounds::default();
        assert_eq!(obstacles(&report(3600, 1000, 1), &bounds), Vec::<String>::new());
        for (report, says) in [
            (StageReport::default(), "nothing is staged"),
            (report(3599, 1000, 0), "min-staged-s"),
            (report(3600, 0, 0), "nothing is known"),
            (report(3600, 999, 1), "max-denied-ratio"),
        ] {
            let found = obstacles(&report, &bounds);
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        let mut unreviewed = report(3600, 1000, 0);
        if let Some(staged) = &mut unreviewed.staged {
            staged.unreviewed = vec!["learned-7".to_owned()];
        }
        let found = obstacles(&unreviewed, &bounds);
        assert!(found.len() == 1 && found[0].contains("learned-7"), "{found:?}");
    }

    #[test]
    fn only_a_denial_of_everything_counts_as_the_default() {
        let text = "version: 1\nrules:\n  - {name: telnet, from: any, to: any, service: tcp/23, action: \
                    deny}\n  - {name: host, from: 10.0.0.1, to: any, service: any, action: deny}\n  - \
                    {name: odd, from: 10.0.0.2, to: any, service: any, action: allow, reason: \"x; \
                    APPROVE OR REMOVE: y\"}\n  - {name: all, from: any, to: any, service: any, action: \
                    deny}\n";
        let policy = Policy::parse(text).unwrap_or_else(|found| panic!("{found:?}"));
        let by_default = (0..4).map(|rule| is_default(&policy, RuleId(rule)));
        assert_eq!(by_default.collect::<Vec<_>>(), [false, false, false, true]);
        assert!(is_default(&policy, RuleId::DEFAULT));
        assert_eq!(unreviewed(&policy), ["odd"]);
    }
}
