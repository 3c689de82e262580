//! Policies as boxes: for every rule the boxes of the frames that it matches, and which boxes of
//! other rules overlap them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::region::{Classes, Cut, Dimension, Region};
use super::universe::{Matter, Universe};
use super::work::{TooMuchWork, Work};
use crate::policy::{Action, Assertion, Policy, Rule, RuleId};
use crate::sets::RangeSet;

/// Bytes that the remembered rows of an index may take.
const MAX_ROW_BYTES: usize = 64 << 20;

/// The rules of a policy in the order in which they decide.
pub(super) fn in_order(policy: &Policy) -> impl Iterator<Item = (RuleId, &Rule)> {
    policy.order().filter_map(|id| policy.rule(id).map(|rule| (id, rule)))
}

/// One or two policies as boxes.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) universe: Universe,
    /// The boxes of all rules, ascending by policy and by rule.
    pub(super) boxes: Vec<Region>,
    /// The rules in the order in which they decide; those of the second policy after the first's.
    pub(super) rules: Vec<RuleBoxes>,
    /// For each policy its rules.
    pub(super) policies: Vec<Range<usize>>,
    /// What no rule matches belongs to the default: all frames, a box for each family.
    pub(super) everything: Vec<Region>,
    /// For each box its rule.
    pub(super) owners: Vec<u32>,
    index: Index,
}

/// A rule and its boxes.
#[derive(Clone, Debug)]
pub(super) struct RuleBoxes {
    pub(super) id: RuleId,
    pub(super) action: Action,
    pub(super) boxes: Range<usize>,
}

/// Boxes that are not those of a rule, with what finds the rules' boxes that overlap them.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) region: Region,
    sets: SetIds,
}

/// The sets of a box in the dimensions of [`INDEXED`].
type SetIds = [u32; INDEXED.len()];

/// The dimensions in which overlapping boxes are found by an index.
const INDEXED: [Dimension; 3] = [Dimension::Destination, Dimension::Source, Dimension::Service];

impl Model {
    pub(super) fn new(policies: &[&Policy], work: &mut Work) -> Result<Self, TooMuchWork> {
        let universe = Universe::new(policies, work)?;
        let mut index = Index::default();
        let (mut boxes, mut rules, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        let mut owners = Vec::new();
        for (place, policy) in policies.iter().enumerate() {
            let first = rules.len();
            for (id, rule) in in_order(policy) {
                let times = universe.instants.of_rule(rule);
                let begin = boxes.len();
                let matter = Matter::of_rule(rule);
                let made =
                    universe.regions(place, matter, &times, &mut |d, set| index.intern(d, set));
                // Sets are copied and looked up.
                work.spend(8 + made.iter().map(|region| 8 + 4 * region.ranges()).sum::<usize>())?;
                owners.extend(made.iter().map(|_| rules.len() as u32));
                boxes.extend(made);
                rules.push(RuleBoxes { id, action: rule.action, boxes: begin..boxes.len() });
            }
            ranges.push(first..rules.len());
        }
        let everything = universe.everything(&mut |d, set| index.intern(d, set));
        index.finish(&boxes, work)?;
        Ok(Self { universe, boxes, rules, policies: ranges, everything, owners, index })
    }

    pub(super) fn cut(&self) -> Cut<'_> {
        Cut { boxes: &self.boxes }
    }

    /// The boxes of what an assertion of the policy at `place` speaks of, during `times`.
    pub(super) fn assertion(
        &mut self,
        place: usize,
        assertion: &Assertion,
        times: &RangeSet<u32>,
    ) -> Vec<Query> {
        let index = &mut self.index;
        let matter = Matter::of_assertion(assertion);
        let made = self.universe.regions(place, matter, times, &mut |d, set| index.intern(d, set));
        let query = |region: Region| Query { sets: self.index.ids(&region), region };
        made.into_iter().map(query).collect()
    }

    /// The boxes of the rules `among` that overlap `region`, whose sets are those of `like` or
    /// smaller.
    pub(super) fn overlapping(
        &mut self,
        region: &Region,
        like: &[usize],
        among: Range<usize>,
        work: &mut Work,
    ) -> Result<Vec<u32>, TooMuchWork> {
        let sets: Vec<SetIds> = like.iter().map(|&place| self.index.of_boxes[place]).collect();
        self.find(region, &sets, among, work)
    }

    /// [`Self::overlapping`] for a query.
    pub(super) fn overlapping_query(
        &mut self,
        query: &Query,
        among: Range<usize>,
        work: &mut Work,
    ) -> Result<Vec<u32>, TooMuchWork> {
        self.find(&query.region, &[query.sets], among, work)
    }

    fn find(
        &mut self,
        region: &Region,
        like: &[SetIds],
        among: Range<usize>,
        work: &mut Work,
    ) -> Result<Vec<u32>, TooMuchWork> {
        let boxes = self.boxes_of(among);
        let (first, last) = (boxes.start / 64, boxes.end.div_ceil(64));
        let mut held = vec![u64::MAX; last.saturating_sub(first)];
        for sets in like {
            for (dimension, &set) in sets.iter().enumerate() {
                let row = self.index.row(dimension, set, work)?;
                held.iter_mut().zip(&row[first..last]).for_each(|(word, row)| *word &= row);
            }
        }
        work.spend(held.len())?;
        let mut found = Vec::new();
        for (place, mut word) in (first..).zip(held) {
            while word != 0 {
                let at = place * 64 + word.trailing_zeros() as usize;
                word &= word - 1;
                if boxes.contains(&at) {
                    found.push(at as u32);
                }
            }
        }
        work.spend(found.len())?;
        // The other dimensions rarely tell boxes apart; where they do, compare.
        let rest = [Dimension::Tags, Dimension::Wire, Dimension::Time];
        let meets = |&at: &u32| {
            let other = &self.boxes[at as usize];
            rest.iter().all(|&d| {
                let (a, b) = (region.get(d), other.get(d));
                Arc::ptr_eq(a, b) || !a.is_disjoint(b)
            })
        };
        found.retain(meets);
        Ok(found)
    }

    /// The boxes of consecutive rules.
    pub(super) fn boxes_of(&self, rules: Range<usize>) -> Range<usize> {
        let start =
            |place: usize| self.rules.get(place).map_or(self.boxes.len(), |rule| rule.boxes.start);
        start(rules.start)..start(rules.end)
    }
}

/// Which boxes overlap which, in the dimensions of [`INDEXED`].
#[derive(Debug, Default)]
struct Index {
    /// For each dimension the sets that boxes have in it.
    known: [HashMap<Classes, u32>; 6],
    /// For each box its sets.
    of_boxes: Vec<SetIds>,
    /// For each indexed dimension and each set the boxes that have it.
    owners: [Vec<Vec<u32>>; INDEXED.len()],
    /// For each indexed dimension and each class the sets that hold it, but for those of `wide`.
    holding: [Vec<Vec<u32>>; INDEXED.len()],
    /// Sets that hold so many classes that they are compared instead.
    wide: [Vec<u32>; INDEXED.len()],
    sets: [Vec<Classes>; INDEXED.len()],
    rows: HashMap<(usize, u32), Arc<[u64]>>,
}

impl Index {
    /// The one value that equal sets share.
    fn intern(&mut self, dimension: Dimension, set: RangeSet<u32>) -> Classes {
        let known = &mut self.known[dimension as usize];
        if let Some((same, _)) = known.get_key_value(&set) {
            return same.clone();
        }
        let shared = Arc::new(set);
        known.insert(shared.clone(), known.len() as u32);
        shared
    }

    fn ids(&self, region: &Region) -> SetIds {
        INDEXED.map(|d| self.known[d as usize].get(region.get(d)).copied().unwrap_or(u32::MAX))
    }

    fn finish(&mut self, boxes: &[Region], work: &mut Work) -> Result<(), TooMuchWork> {
        self.of_boxes = boxes.iter().map(|region| self.ids(region)).collect();
        for (place, &dimension) in INDEXED.iter().enumerate() {
            let known = &self.known[dimension as usize];
            let mut sets: Vec<(u32, Classes)> =
                known.iter().map(|(set, &id)| (id, set.clone())).collect();
            sets.sort_unstable_by_key(|&(id, _)| id);
            let mut owners = vec![Vec::new(); sets.len()];
            for (at, ids) in self.of_boxes.iter().enumerate() {
                owners[ids[place] as usize].push(at as u32);
            }
            let end = sets.iter().filter_map(|(_, set)| set.ranges().last()).map(|&(_, high)| high);
            let mut holding = vec![Vec::new(); end.max().map_or(0, |end| end as usize + 1)];
            let mut wide = Vec::new();
            let limit = (holding.len() / 4).max(64);
            for (id, set) in &sets {
                if size(set) > limit {
                    wide.push(*id);
                    continue;
                }
                work.spend(size(set))?;
                for class in set.ranges().iter().flat_map(|&(low, high)| low..=high) {
                    holding[class as usize].push(*id);
                }
            }
            self.sets[place] = sets.into_iter().map(|(_, set)| set).collect();
            (self.owners[place], self.holding[place], self.wide[place]) = (owners, holding, wide);
        }
        Ok(())
    }

    /// The boxes whose set in the dimension overlaps `set`, one bit each.
    fn row(&mut self, place: usize, set: u32, work: &mut Work) -> Result<Arc<[u64]>, TooMuchWork> {
        if let Some(row) = self.rows.get(&(place, set)) {
            return Ok(row.clone());
        }
        let words = self.of_boxes.len().div_ceil(64);
        let mut row = vec![0u64; words];
        let mut met = vec![false; self.sets[place].len()];
        let known = &self.known[INDEXED[place] as usize];
        let of_query;
        let classes: &RangeSet<u32> = match self.sets[place].get(set as usize) {
            Some(classes) => classes,
            None => {
                // The set of a query that no rule has.
                of_query = known.iter().find(|&(_, &id)| id == set).map(|(set, _)| set.clone());
                match &of_query {
                    Some(classes) => classes,
                    None => return Ok(row.into()),
                }
            }
        };
        if size(classes) > (self.holding[place].len() / 4).max(64) {
            for (other, met) in self.sets[place].iter().zip(&mut met) {
                work.spend(1 + other.ranges().len().min(classes.ranges().len()))?;
                *met = !classes.is_disjoint(other);
            }
        } else {
            for class in classes.ranges().iter().flat_map(|&(low, high)| low..=high) {
                let Some(holding) = self.holding[place].get(class as usize) else { break };
                work.spend(1 + holding.len())?;
                holding.iter().for_each(|&other| met[other as usize] = true);
            }
            for &other in &self.wide[place] {
                work.spend(1)?;
                met[other as usize] = !classes.is_disjoint(&self.sets[place][other as usize]);
            }
        }
        let mut marked = 0;
        for (owners, _) in self.owners[place].iter().zip(&met).filter(|(_, met)| **met) {
            owners.iter().for_each(|&at| row[at as usize / 64] |= 1 << (at % 64));
            marked += owners.len();
        }
        work.spend(marked + met.len() / 8)?;
        if (self.rows.len() + 1) * words * 8 > MAX_ROW_BYTES {
            self.rows.clear();
        }
        let row: Arc<[u64]> = row.into();
        self.rows.insert((place, set), row.clone());
        Ok(row)
    }
}

fn size(set: &RangeSet<u32>) -> usize {
    set.ranges().iter().map(|&(low, high)| (high - low) as usize + 1).sum()
}
