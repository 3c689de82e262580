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

/// Where a new rule goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    First,
    Last,
    Before(RuleId),
    After(RuleId),
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

    /// Takes in a rule in a new place or a free one. True where all ranks had to change for it.
    pub(super) fn insert(&mut self, id: RuleId, rule: &Rule, slot: Slot) -> bool {
        let mut respread = false;
        let rank = loop {
            if let Some(rank) = self.free_rank(slot) {
                break rank;
            }
            self.respread();
            respread = true;
        };
        match self.ranks.len() == id.0 as usize {
            true => self.ranks.push(rank),
            false => *self.ranks.get_mut(id.0 as usize) = rank,
        }
        self.by_rank.insert((rank, id));
        for at in instants(rule) {
            self.instants.insert((at, id));
        }
        respread
    }

    /// Takes out a rule.
    pub(super) fn remove(&mut self, id: RuleId, rule: &Rule) {
        self.by_rank.remove(&(self.rank(id), id));
        for at in instants(rule) {
            self.instants.remove(&(at, id));
        }
    }

    /// A rank for the slot; [`None`] where there is none left.
    fn free_rank(&self, slot: Slot) -> Option<u32> {
        let below = |rank: u32| self.by_rank.last_below(|entry| entry.0 < rank);
        let above = |rank: u32| self.by_rank.from(|entry| entry.0 <= rank).next();
        let (low, high) = match slot {
            Slot::First => (None, above(0)),
            Slot::Last => (below(u32::MAX), None),
            Slot::Before(id) => (below(self.rank(id)), Some(&(self.rank(id), id))),
            Slot::After(id) => (Some(&(self.rank(id), id)), above(self.rank(id))),
        };
        if low.is_none() && high.is_none() {
            return Some(u32::MAX / 2);
        }
        let room_before = low.is_none();
        // No rule has the rank 0, and the default has the highest of all.
        let (low, high) = (low.map_or(0, |low| low.0), high.map_or(u32::MAX, |high| high.0));
        let gap = high - low;
        if gap < 2 {
            return None;
        }
        // Rules are put before the same one, or after, again and again: far from it there is room
        // for more of them.
        let step = (gap / 16).clamp(1, 1 << 16);
        let is_near_low = match slot {
            Slot::First => false,
            Slot::Last => true,
            Slot::Before(_) => !room_before,
            Slot::After(_) => high == u32::MAX,
        };
        Some(if is_near_low { low + step } else { high - step })
    }

    fn respread(&mut self) {
        let ids: Vec<RuleId> = self.iter().collect();
        for (rank, &id) in spread(ids.len()).zip(&ids) {
            *self.ranks.get_mut(id.0 as usize) = rank;
        }
        self.by_rank = Sorted::from_ascending(spread(ids.len()).zip(ids));
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
