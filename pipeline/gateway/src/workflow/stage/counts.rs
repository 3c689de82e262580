//! What tallies have counted, over all that a staged policy went through.
//!
//! A tally begins anew whenever the policy in force changes, when an exception is made or ends, and
//! with every start of the gateway. What the ones before have counted must not be forgotten then: a
//! flow that the staged policy would cut may be silent for hours. Nor can it be added up, as every
//! flow that lives is counted again. So of each figure the largest that any tally reached counts.

use std::collections::BTreeMap;

use bulkhead_pipeline::snapshot::staged::Staged;
use bulkhead_rules::policy::RuleId;
use serde::{Deserialize, Serialize};

use crate::workflow::lockdown::is_default;

/// The figures of a tally, or the largest ones of several.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// Flows that were asked about.
    pub flows: u64,
    /// Of these, those that passed.
    pub passing: u64,
    /// Of these, those that would not.
    pub cut: u64,
    /// Of these, those that no rule of the staged policy names.
    pub cut_by_default: u64,
    /// Of the cut ones, those that the policy in force permitted.
    pub cut_permitted: u64,
    /// Flows that did not pass, and would.
    pub opened: u64,
    /// Denied packets that were asked about.
    pub denied_packets: u64,
    /// Differences that were counted and not told.
    pub untold: u64,
    /// What its rules would change, by their names; those that would change nothing are left out.
    pub rules: BTreeMap<String, RuleCounts>,
}

/// What one rule would change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleCounts {
    /// Flows that it would cut.
    pub cut: u64,
    /// Flows that it would open.
    pub opened: u64,
    /// Whether it is the default, or denies everything as the default does.
    pub by_default: bool,
}

/// Flows that would have been cut, sorted by whether they still would be.
#[derive(Clone, Default)]
pub struct Remembered {
    /// By the rule that cut them: those that are not cut any more, and those that still are.
    rules: BTreeMap<String, [u64; 2]>,
}

impl Remembered {
    /// Adds `count` flows of `rule`, which are still cut or not.
    pub fn add(&mut self, rule: &str, is_cut: bool, count: u64) {
        if let Some(counts) = self.rules.get_mut(rule) {
            counts[usize::from(is_cut)] += count;
        } else {
            let counts = if is_cut { [0, count] } else { [count, 0] };
            self.rules.insert(rule.to_owned(), counts);
        }
    }
}

impl Counts {
    /// What workers have counted so far. Takes a moment for many rules.
    pub fn of(staged: &Staged) -> Self {
        let (policy, tally) = (&staged.content.policy, &staged.tally);
        let mut counts = Self::default();
        for worker in tally.workers() {
            counts.flows += worker.flows.value();
            counts.passing += worker.passing.value();
            counts.cut += worker.cut.value();
            counts.cut_permitted += worker.cut_permitted.value();
            counts.opened += worker.opened.value();
            counts.denied_packets += worker.denied_packets.value();
            counts.untold += worker.lost.value();
        }
        for rule in policy.order().chain([RuleId::DEFAULT]) {
            let totals = tally.totals(rule);
            if (totals.cut, totals.opened) == (0, 0) {
                continue;
            }
            let by_default = is_default(policy, rule);
            counts.cut_by_default += if by_default { totals.cut } else { 0 };
            let rule = policy.rule_name(rule).to_owned();
            let (cut, opened) = (totals.cut, totals.opened);
            counts.rules.insert(rule, RuleCounts { cut, opened, by_default });
        }
        counts
    }

    /// Takes of each figure the larger one.
    pub fn raise_to(&mut self, other: &Self) {
        let mine = [
            &mut self.flows,
            &mut self.passing,
            &mut self.cut,
            &mut self.cut_by_default,
            &mut self.cut_permitted,
            &mut self.opened,
            &mut self.denied_packets,
            &mut self.untold,
        ];
        let others = [
            other.flows,
            other.passing,
            other.cut,
            other.cut_by_default,
            other.cut_permitted,
            other.opened,
            other.denied_packets,
            other.untold,
        ];
        for (mine, other) in mine.into_iter().zip(others) {
            *mine = (*mine).max(other);
        }
        for (name, other) in &other.rules {
            let mine = self.rules.entry(name.clone()).or_default();
            (mine.cut, mine.opened) = (mine.cut.max(other.cut), mine.opened.max(other.opened));
            mine.by_default = other.by_default;
        }
    }

    /// Takes away flows that would be cut once and are not any more, because something was granted.
    /// Never so much that less is left than what is still cut or was never told. As the figures are the
    /// largest of several tallies, and `remembered` is of all, more may be left than in any of them, but
    /// not less: each flow of the largest was granted, is still cut, or was not told.
    pub fn lower_by(&mut self, remembered: &Remembered) {
        let untold = self.untold;
        let lower = |figure: &mut u64, [gone, left]: [u64; 2]| {
            let floor = left.saturating_add(untold);
            *figure = (*figure).min(figure.saturating_sub(gone).max(floor));
        };
        let (mut all, mut by_default) = ([0; 2], [0; 2]);
        for (name, &counts) in &remembered.rules {
            let Some(rule) = self.rules.get_mut(name) else { continue };
            lower(&mut rule.cut, counts);
            for (sum, count) in all.iter_mut().zip(counts) {
                *sum += count;
            }
            for (sum, count) in by_default.iter_mut().zip(counts).filter(|_| rule.by_default) {
                *sum += count;
            }
        }
        lower(&mut self.cut, all);
        lower(&mut self.cut_by_default, by_default);
        self.cut_permitted = self.cut_permitted.min(self.cut);
        self.rules.retain(|_, rule| (rule.cut, rule.opened) != (0, 0));
    }

    /// The share of the flows that pass which no rule of the staged policy names.
    pub fn denied_ratio(&self) -> f64 {
        self.cut_by_default as f64 / self.passing.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passing: u64, rules: &[(&str, u64, bool)]) -> Counts {
        let rule = |&(name, cut, by_default): &(&str, u64, bool)| {
            (name.to_owned(), RuleCounts { cut, opened: 0, by_default })
        };
        let cut = rules.iter().map(|rule| rule.1).sum();
        let cut_by_default = rules.iter().filter(|rule| rule.2).map(|rule| rule.1).sum();
        let rules = rules.iter().map(rule).collect();
        Counts { passing, cut, cut_by_default, rules, ..Counts::default() }
    }

    #[test]
    fn the_larger_of_each_figure_is_kept() {
        let mut carried = counts(1000, &[("default", 5, true), ("telnet", 1, false)]);
        carried.raise_to(&counts(10, &[("telnet", 3, false)]));
        let expected = counts(1000, &[("default", 5, true), ("telnet", 3, false)]);
        assert_eq!(carried.rules, expected.rules);
        assert_eq!((carried.passing, carried.cut, carried.cut_by_default), (1000, 6, 5));
        assert!((carried.denied_ratio() - 0.005).abs() < 1e-9);
    }

    #[test]
    fn what_was_granted_counts_no_more_but_what_is_left_does() {
        let mut carried = counts(100, &[("default", 5, true), ("telnet", 2, false)]);
        let mut remembered = Remembered::default();
        remembered.add("default", false, 3);
        carried.lower_by(&remembered);
        assert_eq!((carried.cut, carried.cut_by_default), (4, 2));
        // Two flows of two tallies, of which the larger one counted: only one of them was granted.
        remembered.add("default", true, 2);
        carried.lower_by(&remembered);
        assert_eq!((carried.cut, carried.cut_by_default, carried.rules["default"].cut), (2, 2, 2));
        // What nobody was told of was not granted.
        let mut carried = counts(100, &[("default", 5, true)]);
        carried.untold = 3;
        remembered.add("default", false, 3);
        carried.lower_by(&remembered);
        assert_eq!((carried.cut, carried.cut_by_default, carried.rules["default"].cut), (5, 5, 5));
    }
}
