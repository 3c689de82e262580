//! Tuple space search with merged tuples, as TupleMerge does it (Daly, Bruschi, Linguaglossa, Pontarelli,
//! Rossi, Tollet, Torng and Yourtchenko, 2019): a second opinion on every answer, and a second baseline.
//!
//! Rules are hashed by as many leading bits of both addresses as the table has; rules with longer
//! prefixes share a table with shorter ones as long as few of them collide. Tables are searched in the
//! order of their first rule, until no later table can hold an earlier rule than what was found.

use ahash::{HashMap, RandomState};
use bulkhead_dpdk::AclKey;
use bulkhead_rules::policy::RuleId;

use crate::five_tuples::{Family, FiveTuple};

/// Rules of one hash bucket, beyond which a new table is opened.
const MOST_COLLISIONS: usize = 10;

/// The tables.
#[derive(Debug)]
pub struct TupleSpace {
    family: Family,
    tuples: Vec<FiveTuple>,
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    lens: (u8, u8),
    masks: (u128, u128),
    /// The tuple that decides earliest.
    first: u32,
    buckets: HashMap<(u128, u128), Vec<u32>>,
}

impl TupleSpace {
    /// Files the tuples, which are in the order in which they decide.
    pub fn new(family: Family, tuples: &[FiveTuple]) -> Self {
        let mut space = Self { family, tuples: tuples.to_vec(), tables: Vec::new() };
        for index in 0..tuples.len() {
            space.insert(index as u32);
        }
        // Tables were opened in the order of their first tuple, which is that of the search.
        space
    }

    /// The first rule that matches, or [`RuleId::DEFAULT`].
    pub fn classify(&self, key: &AclKey) -> RuleId {
        let first = self.first_tuple(key);
        first.map_or(RuleId::DEFAULT, |index| self.tuples[index].rule)
    }

    /// The index of the first tuple that matches.
    pub fn first_tuple(&self, key: &AclKey) -> Option<usize> {
        let mut best = u32::MAX;
        for table in &self.tables {
            if table.first >= best {
                break;
            }
            let bucket = table.buckets.get(&(key.src & table.masks.0, key.dst & table.masks.1));
            let earlier = bucket.into_iter().flatten().take_while(|&&tuple| tuple < best);
            let found = earlier
                .copied()
                .find(|&tuple| self.tuples[tuple as usize].matches(self.family, key));
            best = found.unwrap_or(best);
        }
        (best != u32::MAX).then_some(best as usize)
    }

    /// How many tables there are.
    pub fn tables(&self) -> usize {
        self.tables.len()
    }

    fn insert(&mut self, index: u32) {
        let rule = &self.tuples[index as usize].tuple;
        let (src, dst) = (rule.src, rule.dst);
        let mut full = false;
        for table in &mut self.tables {
            let fits = table.lens.0 <= src.1 && table.lens.1 <= dst.1;
            if !fits {
                continue;
            }
            let bucket =
                table.buckets.entry((src.0 & table.masks.0, dst.0 & table.masks.1)).or_default();
            // Nothing tells these rules apart better than their whole prefixes.
            let exact = table.lens == (src.1, dst.1);
            if exact || bucket.len() < MOST_COLLISIONS {
                bucket.push(index);
                return;
            }
            full = true;
        }
        let lens = if full { (src.1, dst.1) } else { (self.relaxed(src.1), self.relaxed(dst.1)) };
        let masks = (self.family.mask(lens.0), self.family.mask(lens.1));
        let mut buckets = HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        buckets.insert((src.0 & masks.0, dst.0 & masks.1), vec![index]);
        self.tables.push(Table { lens, masks, first: index, buckets });
    }

    /// The length of a new table for a prefix: some bits less, so that others fit in as well.
    fn relaxed(&self, len: u8) -> u8 {
        let step = self.family.width() / 8;
        if len > step { (len - 1) / step * step } else { len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classbench::policy_text;
    use crate::five_tuples::{expand, key};
    use crate::random::Random;
    use crate::trace::{Order, headers};
    use bulkhead_rules::policy::Policy;
    use std::fmt::Write as _;

    /// Rules with nested prefixes, more of them alike than a bucket takes.
    fn set() -> String {
        let mut random = Random::new(1);
        let mut out = String::new();
        for _ in 0..500 {
            let mut prefix = || {
                let len = *random.pick(&[0, 8, 15, 16, 24, 31, 32]);
                format!("10.{}.1.{}/{len}", random.below(3), random.below(4))
            };
            let (from, to) = (prefix(), prefix());
            let low = random.below(100);
            let _ = writeln!(out, "@{from} {to} 0 : 65535 {low} : {} 0x06/0xFF 0x0/0x0", low + 9);
        }
        out
    }

    #[test]
    fn the_first_matching_tuple_is_found() {
        for family in [Family::V4, Family::V6] {
            let policy = Policy::parse(&policy_text(&set(), family).unwrap()).unwrap();
            let tuples = expand(&policy, family, 1_000).unwrap();
            let space = TupleSpace::new(family, &tuples);
            assert!((3..200).contains(&space.tables()), "{}", space.tables());
            for h in headers(&tuples, family, Order::Uniform, 1, 20_000) {
                let first = tuples.iter().find(|tuple| tuple.matches(family, &key(&h)));
                let expected = first.map_or(RuleId::DEFAULT, |tuple| tuple.rule);
                assert_eq!(space.classify(&key(&h)), expected, "{h:?}");
            }
        }
    }
}
