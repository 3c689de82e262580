//! The bits of the rules both of whose sides are wide: in order, with free ones between.
//!
//! A rule that comes takes a free bit between those before and behind it. Where there is none, the
//! rules up to the nearest free bit move by one: a few words of each row hold all of that, whatever
//! comes behind.

use crate::classifier::tables::{BLOCK_RULES, FEW_WORDS};

/// A rule whose sides are both wide, in deciding order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WideRule {
    pub(super) candidate: u64,
    pub(super) src: u32,
    pub(super) dst: u32,
    pub(super) service: u32,
}

/// Which bit each wide rule has: in deciding order, or in that of their services first.
#[derive(Debug, Default)]
pub(super) struct WideBits {
    /// By bit; the last one is a rule's.
    rules: Vec<Option<WideRule>>,
    by_service: bool,
}

/// Of many rules one bit in so many is free.
const FREE: usize = 16;

/// Bits that may be looked at to find free ones: some milliseconds. Beyond that all rules are spread anew.
const MOST_LOOKS: usize = 1 << 22;

/// Bits that so many rules are spread over: no more words, or blocks of them, than without free ones.
fn bits_for(rules: usize) -> usize {
    if rules.div_ceil(32) <= FEW_WORDS {
        return rules.next_multiple_of(32);
    }
    (rules + rules / FREE).min(rules.next_multiple_of(BLOCK_RULES))
}

impl WideBits {
    /// Gives a bit below `room` to each of `rules`, which are in order and no more than that. Whether
    /// any has another one than before, or is new or gone.
    pub(super) fn set(&mut self, rules: &[WideRule], by_service: bool, room: usize) -> bool {
        let before = self.len();
        let is_same = by_service == self.by_service && before <= room;
        if is_same && self.rules.iter().flatten().eq(rules) {
            return false;
        }
        let key = |rule: &WideRule| (if by_service { rule.service } else { 0 }, *rule);
        if is_same && before > 0 {
            for bit in &mut self.rules {
                let is_gone =
                    |rule: WideRule| rules.binary_search_by_key(&key(&rule), key).is_err();
                if bit.is_some_and(is_gone) {
                    *bit = None;
                }
            }
            let mut stay = self.rules.iter().flatten().peekable();
            let new: Vec<WideRule> =
                rules.iter().filter(|rule| stay.next_if_eq(rule).is_none()).copied().collect();
            let end = bits_for(rules.len()).max(before).min(room);
            // Each looks at all bits.
            let work = new.len().saturating_mul(end);
            if new.len() <= 2 + rules.len() / 8 && work <= MOST_LOOKS {
                self.trim();
                new.iter().for_each(|rule| self.insert(rule, end, &key));
                return true;
            }
        }
        self.by_service = by_service;
        self.spread(rules, bits_for(rules.len()).min(room));
        true
    }

    /// Bits up to that of the last rule.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// The rules with their bits, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &WideRule)> {
        (0..).zip(&self.rules).filter_map(|(bit, rule)| Some((bit, rule.as_ref()?)))
    }

    /// The candidates of all bits, of a free one that of the next rule.
    pub(super) fn candidates(&self) -> Vec<u64> {
        let mut next = u64::MAX;
        let mut all: Vec<u64> = (self.rules.iter().rev())
            .map(|rule| {
                next = rule.map_or(next, |rule| rule.candidate);
                next
            })
            .collect();
        all.reverse();
        all
    }

    fn spread(&mut self, rules: &[WideRule], bits: usize) {
        self.rules = vec![None; bits];
        for (place, rule) in rules.iter().enumerate() {
            self.rules[(place * bits + bits / 2) / rules.len()] = Some(*rule);
        }
        self.trim();
    }

    /// Gives a bit below `end` to one more rule, if there is one.
    fn insert<K: Ord>(&mut self, rule: &WideRule, end: usize, key: &impl Fn(&WideRule) -> K) {
        let is_behind =
            |other: &Option<WideRule>| other.is_some_and(|other| key(&other) > key(rule));
        let next = self.rules.iter().position(is_behind).unwrap_or(self.rules.len());
        // Behind the rule before it.
        let first = self.rules[..next].iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let is_free = |bit: &usize| self.rules.get(*bit).is_none_or(Option::is_none);
        let bit = if next == self.rules.len() && next < end {
            next
        } else if first < next {
            if first == 0 { next - 1 } else { (first + next) / 2 }
        } else {
            let above = (next..end).find(is_free);
            let below = (0..first).rev().find(is_free);
            let is_nearer = |above: usize| below.is_none_or(|below| above - next < first - below);
            match (above.filter(|&above| is_nearer(above)), below) {
                (Some(above), _) => {
                    self.rules.resize(self.rules.len().max(above + 1), None);
                    self.rules[next..=above].rotate_right(1);
                    next
                }
                (None, Some(below)) => {
                    self.rules[below..first].rotate_left(1);
                    first - 1
                }
                (None, None) => {
                    self.rules.insert(next, None);
                    next
                }
            }
        };
        self.rules.resize(self.rules.len().max(bit + 1), None);
        self.rules[bit] = Some(*rule);
    }

    fn trim(&mut self) {
        let end = self.rules.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.rules.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn rule(candidate: u64) -> WideRule {
        WideRule { candidate, src: 0, dst: 0, service: (candidate % 7) as u32 }
    }

    /// Rules in the order that is asked for.
    fn ordered(candidates: impl IntoIterator<Item = u64>, by_service: bool) -> Vec<WideRule> {
        let mut rules: Vec<WideRule> = candidates.into_iter().map(rule).collect();
        rules.sort_by_key(|rule| (if by_service { rule.service } else { 0 }, rule.candidate));
        rules
    }

    /// How many bits differ in who has them.
    fn moved(before: &[Option<WideRule>], after: &[Option<WideRule>]) -> usize {
        let at = |rules: &[Option<WideRule>], bit: usize| rules.get(bit).copied().flatten();
        let bits = before.len().max(after.len());
        (0..bits).filter(|&bit| at(before, bit) != at(after, bit)).count()
    }

    proptest! {
        #[test]
        fn rules_keep_their_order_whatever_comes_and_goes(
            sets in proptest::collection::vec((btree_set(0..500_u64, 0..450), any::<bool>()), 1..8),
            room in select_room(),
        ) {
            let mut bits = WideBits::default();
            for (set, by_service) in sets {
                let rules = ordered(set.into_iter().take(room), by_service);
                bits.set(&rules, by_service, room);
                let found: Vec<WideRule> = bits.iter().map(|(_, rule)| *rule).collect();
                prop_assert_eq!(&found, &rules);
                prop_assert!(bits.len() <= room);
                let before = bits.rules.clone();
                prop_assert!(!bits.set(&rules, by_service, room), "nothing changes");
                prop_assert_eq!(&before, &bits.rules);
                let candidates = bits.candidates();
                prop_assert_eq!(candidates.len(), bits.len());
                for (bit, rule) in bits.iter() {
                    prop_assert_eq!(candidates[bit as usize], rule.candidate);
                }
            }
        }
    }

    fn select_room() -> impl Strategy<Value = usize> {
        proptest::sample::select(vec![64, 192, 384, 1024])
    }

    #[test]
    fn a_free_bit_has_the_candidate_of_the_next_rule() {
        let mut bits = WideBits::default();
        bits.set(&ordered([10, 20], false), false, 64);
        let of: Vec<u32> = bits.iter().map(|(bit, _)| bit).collect();
        assert_eq!(of, [8, 24], "of 32");
        let expected: Vec<u64> = (0..=24).map(|bit| if bit <= 8 { 10 } else { 20 }).collect();
        assert_eq!(bits.candidates(), expected);
    }

    #[test]
    fn rules_that_come_and_go_move_few_others() {
        for by_service in [false, true] {
            let mut all: Vec<u64> = (0..900).map(|n| n * 1000).collect();
            let mut bits = WideBits::default();
            bits.set(&ordered(all.iter().copied(), by_service), by_service, 2048);
            // In places that have nothing to do with each other.
            for n in 0..40 {
                let before = bits.rules.clone();
                all.push(n * 7919 % 900 * 1000 + 7);
                assert!(bits.set(&ordered(all.iter().copied(), by_service), by_service, 2048));
                let moved = moved(&before, &bits.rules);
                assert!(moved <= 6 * FREE, "{moved} for rule {n}");
                let before = bits.rules.clone();
                let gone = all.remove(n as usize * 17);
                assert!(bits.set(&ordered(all.iter().copied(), by_service), by_service, 2048));
                let moved = self::moved(&before, &bits.rules);
                assert_eq!(moved, 1, "{gone} leaves a free bit");
            }
        }
    }
}
