//! Values to equivalence classes: two values are in one class when the same sets hold both.

use super::budget::{Budget, Exceeded};
use super::mixer::ByNumbers;
use crate::sets::FiniteSet;

/// The classes met so far: a class is known by the sets that hold its values.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    pub(super) ids: ByNumbers<Box<[u32]>, u32>,
    /// For each class the sets that hold it, ascending.
    pub(crate) members: Vec<Box<[u32]>>,
}

impl Classes {
    /// The class of the values that exactly the sets `members` (ascending, distinct) hold.
    pub(crate) fn id(&mut self, members: &[u32], budget: &mut Budget) -> Result<u32, Exceeded> {
        if let Some(&id) = self.ids.get(members) {
            budget.spend(members.len(), 0)?;
            return Ok(id);
        }
        budget.spend(members.len(), Self::class_bytes(members))?;
        let id = self.members.len() as u32;
        self.ids.insert(members.into(), id);
        self.members.push(members.into());
        Ok(id)
    }

    /// Bytes that the classes hold while they are being made.
    pub(crate) fn size_bytes(&self) -> usize {
        self.members.iter().map(|members| Self::class_bytes(members)).sum()
    }

    /// Bytes that a class takes while it is kept here.
    pub(super) fn class_bytes(members: &[u32]) -> usize {
        2 * (size_of_val(members) + size_of::<Box<[u32]>>()) + 2 * size_of::<u32>()
    }
}

/// An ordered type whose whole range is cut into intervals.
pub(crate) trait Coordinate: Ord + Copy {
    /// The least value.
    const ZERO: Self;
    /// The greatest value.
    const LAST: Self;
    /// The value after this one, if there is one.
    fn next(self) -> Option<Self>;
    /// The value before this one, which is not the least.
    fn before(self) -> Self;
}

macro_rules! coordinate {
    ($($t:ty)*) => {$(
        impl Coordinate for $t {
            const ZERO: Self = 0;
            const LAST: Self = <$t>::MAX;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn before(self) -> Self {
                self - 1
            }
        }
    )*};
}

coordinate!(u16 u32 u128);

/// Cuts the whole range of `T` where any set begins or ends: ascending interval starts, the first
/// of which is zero, each with its class. Neighbouring intervals differ in class.
///
/// `ranges` are `(low, high, set)`, inclusive; the ranges of one set do not touch each other.
pub(crate) fn intervals<T: Coordinate>(
    ranges: impl Iterator<Item = (T, T, u32)>,
    classes: &mut Classes,
    budget: &mut Budget,
) -> Result<Vec<(T, u32)>, Exceeded> {
    let cuts = cuts(ranges);
    budget.spend(cuts.len(), 0)?;
    intervals_between(cuts.into_iter(), classes, budget)
}

/// Where each range of a set begins, and what comes behind it, in ascending order.
pub(crate) fn cuts<T: Coordinate>(ranges: impl Iterator<Item = (T, T, u32)>) -> Vec<(T, u32)> {
    let mut cuts = Vec::new();
    for (low, high, set) in ranges {
        cuts.push((low, set));
        if let Some(after) = high.next() {
            cuts.push((after, set));
        }
    }
    cuts.sort_unstable();
    cuts
}

/// The [`intervals`] of [`cuts`].
pub(crate) fn intervals_between<T: Coordinate>(
    cuts: impl Iterator<Item = (T, u32)>,
    classes: &mut Classes,
    budget: &mut Budget,
) -> Result<Vec<(T, u32)>, Exceeded> {
    let mut cuts = cuts.peekable();
    let (mut out, mut holding, mut start) = (Vec::<(T, u32)>::new(), Vec::new(), T::ZERO);
    loop {
        while let Some((_, set)) = cuts.next_if(|&(at, _)| at == start) {
            toggle(&mut holding, set);
        }
        let class = classes.id(&holding, budget)?;
        if out.last().is_none_or(|&(_, last)| last != class) {
            budget.spend(1, size_of::<(T, u32)>())?;
            out.push((start, class));
        }
        match cuts.peek() {
            Some(&(at, _)) => start = at,
            None => return Ok(out),
        }
    }
}

/// The classes of single values.
#[derive(Debug)]
pub(crate) struct Points<T> {
    /// Every value that some set names, ascending, with its class.
    pub(crate) named: Vec<(T, u32)>,
    /// The class of every other value.
    pub(crate) other: u32,
}

/// Sorts the values that `sets` name into classes. The number of a set is its place in `sets`.
pub(crate) fn points<'a, T: Ord + Copy + 'a>(
    sets: impl Iterator<Item = &'a FiniteSet<T>>,
    classes: &mut Classes,
    budget: &mut Budget,
) -> Result<Points<T>, Exceeded> {
    let (mut names, mut elsewhere) = (Vec::new(), Vec::new());
    for (id, set) in sets.enumerate() {
        if matches!(set, FiniteSet::AllBut(_)) {
            elsewhere.push(id as u32);
        }
        names.extend(set.named().iter().map(|&value| (value, id as u32)));
    }
    names.sort_unstable();
    let other = classes.id(&elsewhere, budget)?;
    let mut named = Vec::new();
    for of_value in names.chunk_by(|a, b| a.0 == b.0) {
        // A set that names a value treats it the other way than the values it does not name.
        let mut holding = elsewhere.clone();
        for &(_, set) in of_value {
            toggle(&mut holding, set);
        }
        named.push((of_value[0].0, classes.id(&holding, budget)?));
    }
    Ok(Points { named, other })
}

/// Adds `set` to the ascending `holding`, or removes it.
fn toggle(holding: &mut Vec<u32>, set: u32) {
    match holding.binary_search(&set) {
        Ok(place) => {
            holding.remove(place);
        }
        Err(place) => holding.insert(place, set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Limits;

    #[test]
    fn values_that_the_same_sets_hold_are_in_one_class() {
        let (mut classes, mut budget) = (Classes::default(), Budget::new(Limits::default()));
        let ranges = [(10u16, 19, 0), (30, 39, 0), (15, 34, 1), (65000, u16::MAX, 0)];
        let cut = intervals(ranges.into_iter(), &mut classes, &mut budget).unwrap();
        let starts: Vec<u16> = cut.iter().map(|&(start, _)| start).collect();
        assert_eq!(starts, [0, 10, 15, 20, 30, 35, 40, 65000]);
        let sets: Vec<&[u32]> =
            cut.iter().map(|&(_, class)| &*classes.members[class as usize]).collect();
        let expected: [&[u32]; 8] = [&[], &[0], &[0, 1], &[1], &[0, 1], &[0], &[], &[0]];
        assert_eq!(sets, expected);
        assert_eq!(classes.members.len(), 4);
    }

    #[test]
    fn complements_hold_what_nobody_names() {
        let (mut classes, mut budget) = (Classes::default(), Budget::new(Limits::default()));
        let sets = [FiniteSet::only([1u16, 2]), FiniteSet::AllBut(vec![2, 3])];
        let cut = points(sets.iter(), &mut classes, &mut budget).unwrap();
        let members = |class: u32| classes.members[class as usize].to_vec();
        assert_eq!(members(cut.other), [1]);
        let named: Vec<_> = cut.named.iter().map(|&(v, class)| (v, members(class))).collect();
        assert_eq!(named, [(1, vec![0, 1]), (2, vec![0]), (3, vec![])]);
    }
}
