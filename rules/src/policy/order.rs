//! Which rule decides first, and when rules come and go, over edits.

use super::pages::{Pages, Sorted};
use super::{Rule, RuleId};

/// Ranks below this and above its mirror image are left to rules that are put first or last.
const MARGIN: u32 = 1 << 30;

/// The deciding order of a policy's rules, and the instants at which some come into force or cease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Order {
    /// By rule.
    ranks: Pages<u32>,
    /// Rules that are not removed, by rank.
    by_rank: Sorted<(u32, RuleId)>,
    /// `starts` and `expires` of rules that are not removed.
    instants: Sorted<(i64, RuleId)>,
}

impl Order {
    /// Rules that decide in the order of the list.
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut instants: Vec<(i64, RuleId)> = (rules.iter().zip(0..))
            .flat_map(|(rule, id)| instants(rule).map(move |at| (at, RuleId(id))))
            .collect();
        instants.sort_unstable();
        let ranks = || spread(rules.len());
        Self {
            ranks: ranks().collect(),
            by_rank: Sorted::from_ascending(ranks().zip((0..).map(RuleId))),
            instants: Sorted::from_ascending(instants),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_rank.len()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = RuleId> + Clone {
        self.by_rank.iter().map(|&(_, id)| id)
    }

    pub(super) fn rank(&self, rule: RuleId) -> u32 {
        self.ranks.get(rule.0 as usize).copied().unwrap_or(u32::MAX)
    }

    /// Ascending and distinct.
    pub(super) fn schedule(&self) -> Vec<i64> {
        let mut instants: Vec<i64> = self.instants.iter().map(|&(at, _)| at).collect();
        instants.dedup();
        instants
    }
}

/// The distinct instants at which the rule comes into force or ceases to be, ascending or not.
fn instants(rule: &Rule) -> impl Iterator<Item = i64> {
    let expires = rule.expires.filter(|expires| rule.starts != Some(*expires));
    rule.starts.into_iter().chain(expires)
}

/// Ascending ranks for so many rules, with room before, between and after them.
fn spread(rules: usize) -> impl Iterator<Item = u32> {
    let room = u64::from(u32::MAX - 2 * MARGIN);
    (0..rules as u64).map(move |place| MARGIN + (room * place / (rules as u64).max(1)) as u32)
}
