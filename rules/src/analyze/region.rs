//! Boxes of classes, and whether some of them cover another.
//!
//! Everything that is asked of a policy comes down to one question: what is left of a box once
//! other boxes are cut out of it? [`Cut`] answers it piece by piece. That is hard in the worst case
//! (it is the complement of satisfiability), so its work is bounded; on policies as people and
//! generators write them it takes a few passes over the boxes that overlap.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use super::work::{TooMuchWork, Work};
use crate::sets::RangeSet;

/// A set of classes of one dimension. Equal sets of the boxes of a policy are one value.
pub(super) type Classes = Arc<RangeSet<u32>>;

/// The dimensions of a box, those first in which rules differ most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dimension {
    Destination,
    Source,
    Service,
    Tags,
    Wire,
    Time,
}

impl Dimension {
    pub(super) const ALL: [Self; DIMENSIONS] =
        [Self::Destination, Self::Source, Self::Service, Self::Tags, Self::Wire, Self::Time];
}

pub(super) const DIMENSIONS: usize = 6;

/// A product of sets of classes, none of them empty.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Region {
    sets: [Classes; DIMENSIONS],
}

/// How a box lies to another one.
enum Position {
    /// They have nothing in common.
    Apart,
    /// The other reaches beyond it in these dimensions, one bit each.
    Beyond(u8),
}

impl Region {
    pub(super) fn new(sets: [Classes; DIMENSIONS]) -> Self {
        Self { sets }
    }

    pub(super) fn get(&self, dimension: Dimension) -> &Classes {
        &self.sets[dimension as usize]
    }

    /// The same but for one dimension, in which it may not be empty.
    pub(super) fn with(&self, dimension: Dimension, classes: Classes) -> Self {
        let mut sets = self.sets.clone();
        sets[dimension as usize] = classes;
        Self { sets }
    }

    /// What is in both boxes.
    pub(super) fn intersection(&self, other: &Self) -> Option<Self> {
        let mut sets = self.sets.clone();
        for (set, with) in sets.iter_mut().zip(&other.sets) {
            if !Arc::ptr_eq(set, with) && !set.is_subset(with) {
                *set = Arc::new(set.intersection(with));
                if set.is_empty() {
                    return None;
                }
            }
        }
        Some(Self { sets })
    }

    /// The lowest class of every dimension.
    pub(super) fn first(&self) -> [u32; DIMENSIONS] {
        std::array::from_fn(|d| self.sets[d].ranges().first().map_or(0, |&(low, _)| low))
    }

    /// How `self` lies to `cutter`.
    fn position(&self, cutter: &Self) -> Position {
        let mut beyond = 0;
        for (d, (set, cut)) in self.sets.iter().zip(&cutter.sets).enumerate() {
            if Arc::ptr_eq(set, cut) {
                continue;
            }
            if set.is_disjoint(cut) {
                return Position::Apart;
            }
            if !set.is_subset(cut) {
                beyond |= 1 << d;
            }
        }
        Position::Beyond(beyond)
    }

    /// A number that grows with the number of points.
    pub(super) fn weight(&self) -> f32 {
        let count = |set: &Classes| -> u64 {
            set.ranges().iter().map(|&(low, high)| u64::from(high - low) + 1).sum()
        };
        self.sets.iter().map(|set| (count(set) as f32).log2()).sum()
    }

    /// What comparing it with another costs, in steps.
    pub(super) fn cost(&self, other: &Self) -> usize {
        // Of two sets the one of fewer ranges is gone through, often not to its end.
        let of_sets = |d: usize| {
            let (set, with) = (&self.sets[d], &other.sets[d]);
            if Arc::ptr_eq(set, with) { 0 } else { set.ranges().len().min(with.ranges().len()) }
        };
        1 + (of_sets(0) + of_sets(1)) / 4
    }

    /// The ranges of its addresses.
    pub(super) fn ranges(&self) -> usize {
        self.sets[0].ranges().len() + self.sets[1].ranges().len()
    }
}

/// Cuts boxes out of a box.
pub(super) struct Cut<'r> {
    /// All boxes; what is cut out is named by its place among them.
    pub(super) boxes: &'r [Region],
}

impl Cut<'_> {
    /// A point of `whole` that is in none of `cutters`, as a box all of whose points are such; the
    /// cutters that were needed to see that there is none are added to `used`.
    pub(super) fn uncovered(
        &self,
        whole: &Region,
        cutters: &[u32],
        used: &mut Vec<u32>,
        work: &mut Work,
    ) -> Result<Option<Region>, TooMuchWork> {
        let mut found = None;
        self.walk(whole, cutters, used, true, work, &mut |piece| {
            found = Some(piece);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// What is left of `whole` without `cutters`, as boxes that have nothing in common, until
    /// `take` breaks.
    pub(super) fn pieces(
        &self,
        whole: &Region,
        cutters: &[u32],
        work: &mut Work,
        take: &mut impl FnMut(Region) -> ControlFlow<()>,
    ) -> Result<(), TooMuchWork> {
        self.walk(whole, cutters, &mut Vec::new(), false, work, take)
    }

    /// Goes through the pieces that are left. With `any` one will do, and it may be smaller than it
    /// could be.
    fn walk(
        &self,
        whole: &Region,
        cutters: &[u32],
        used: &mut Vec<u32>,
        any: bool,
        work: &mut Work,
        take: &mut impl FnMut(Region) -> ControlFlow<()>,
    ) -> Result<(), TooMuchWork> {
        let mut open: Vec<(Region, Rc<[u32]>)> = vec![(whole.clone(), cutters.into())];
        while let Some((piece, cutters)) = open.pop() {
            let Some((piece, left)) = self.reduce(piece, &cutters, used, work)? else { continue };
            let Some(split) = left.split else {
                if take(piece).is_break() {
                    return Ok(());
                }
                continue;
            };
            if any {
                if let Some(point) = self.probe(&piece, &left.cutters, work)? {
                    let _ = take(point);
                    return Ok(());
                }
            }
            let cutter = &self.boxes[split as usize];
            used.push(split);
            let rest: Rc<[u32]> = left.cutters.into();
            let mut inside = piece;
            for dimension in Dimension::ALL {
                let set = inside.get(dimension);
                work.spend(set.ranges().len() + cutter.get(dimension).ranges().len())?;
                let outside = set.difference(cutter.get(dimension));
                if outside.is_empty() {
                    continue;
                }
                let kept = Arc::new(set.difference(&outside));
                open.push((inside.with(dimension, Arc::new(outside)), rest.clone()));
                inside = inside.with(dimension, kept);
            }
        }
        Ok(())
    }

    /// Cuts out everything that leaves one box. [`None`] if nothing is left.
    fn reduce(
        &self,
        mut piece: Region,
        cutters: &[u32],
        used: &mut Vec<u32>,
        work: &mut Work,
    ) -> Result<Option<(Region, Left)>, TooMuchWork> {
        let mut cutters = cutters.to_vec();
        loop {
            let mut left = Left { cutters: Vec::with_capacity(cutters.len()), split: None };
            let mut slices: [Vec<(u32, u32)>; DIMENSIONS] = Default::default();
            let mut least = (u32::MAX, 0.0);
            for &place in &cutters {
                let cutter = &self.boxes[place as usize];
                work.spend(piece.cost(cutter))?;
                match piece.position(cutter) {
                    Position::Apart => {}
                    Position::Beyond(0) => {
                        used.push(place);
                        return Ok(None);
                    }
                    Position::Beyond(beyond) if beyond.is_power_of_two() => {
                        let dimension = beyond.trailing_zeros() as usize;
                        slices[dimension].extend_from_slice(cutter.sets[dimension].ranges());
                        used.push(place);
                    }
                    Position::Beyond(beyond) => {
                        left.cutters.push(place);
                        let rank = (beyond.count_ones(), -cutter.weight());
                        if rank < least {
                            least = rank;
                            left.split = Some(place);
                        }
                    }
                }
            }
            if slices.iter().all(Vec::is_empty) {
                return Ok(Some((piece, left)));
            }
            for (dimension, slices) in Dimension::ALL.into_iter().zip(slices) {
                if slices.is_empty() {
                    continue;
                }
                work.spend(4 * slices.len() + piece.get(dimension).ranges().len())?;
                let rest = piece.get(dimension).difference(&RangeSet::<u32>::from_ranges(slices));
                if rest.is_empty() {
                    return Ok(None);
                }
                piece = piece.with(dimension, Arc::new(rest));
            }
            cutters = left.cutters;
        }
    }

    /// Looks for a point of `piece` in no cutter by going, in each dimension, where the fewest
    /// cutters are: mostly there is one where there is any.
    fn probe(
        &self,
        piece: &Region,
        cutters: &[u32],
        work: &mut Work,
    ) -> Result<Option<Region>, TooMuchWork> {
        let mut point = piece.clone();
        let mut cutters = cutters.to_vec();
        for dimension in [Dimension::Source, Dimension::Destination].into_iter().chain([
            Dimension::Service,
            Dimension::Tags,
            Dimension::Wire,
            Dimension::Time,
        ]) {
            let sets = cutters.iter().map(|&c| self.boxes[c as usize].get(dimension));
            work.spend(sets.clone().map(|set| 4 * set.ranges().len()).sum())?;
            let class = emptiest(point.get(dimension), sets);
            point = point.with(dimension, Arc::new(RangeSet::<u32>::from_ranges([(class, class)])));
            cutters.retain(|&c| self.boxes[c as usize].get(dimension).contains(class));
            if cutters.is_empty() {
                return Ok(Some(point));
            }
        }
        Ok(None)
    }
}

/// What may still cut a piece.
struct Left {
    cutters: Vec<u32>,
    /// The cutter that leaves the fewest pieces, and of those the largest.
    split: Option<u32>,
}

/// The class of `within` that the fewest of `sets` hold.
fn emptiest<'a>(within: &RangeSet<u32>, sets: impl Iterator<Item = &'a Classes>) -> u32 {
    let mut changes: Vec<(u32, i32)> = Vec::new();
    for set in sets {
        for &(low, high) in set.ranges() {
            changes.push((low, 1));
            changes.extend(high.checked_add(1).map(|after| (after, -1)));
        }
    }
    changes.sort_unstable();
    let (mut best, mut holding, mut next) = ((i32::MAX, 0), 0, 0);
    for &(low, high) in within.ranges() {
        while changes.get(next).is_some_and(|&(at, _)| at <= low) {
            holding += changes[next].1;
            next += 1;
        }
        best = best.min((holding, low));
        while changes.get(next).is_some_and(|&(at, _)| at <= high) {
            let at = changes[next].0;
            while changes.get(next).is_some_and(|&(same, _)| same == at) {
                holding += changes[next].1;
                next += 1;
            }
            best = best.min((holding, at));
        }
    }
    best.1
}
