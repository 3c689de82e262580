//! How many members of a list hold each address: what a union of ranges needs to know to be edited.
//!
//! Members overlap. When one is taken out, what no other one holds leaves the union, and only that;
//! a count for each address tells at once. Lists contain lists, so what enters and leaves the union
//! of one is what is counted in the next: an edit costs what it changes, not what it is a part of.

use std::fmt;

use crate::policy::pages::Sorted;
use crate::sets::RangeSet;

/// An address of one family as a number.
pub(super) trait Address: Copy + Ord + fmt::Debug {
    /// The highest one.
    const LAST: Self;
    /// The lowest one.
    const FIRST: Self;

    /// The one after it.
    fn after(self) -> Option<Self>;

    /// The one before it, which there is.
    fn before(self) -> Self;

    /// The set of the ranges.
    fn set(ranges: Vec<(Self, Self)>) -> RangeSet<Self>;
}

macro_rules! address {
    ($t:ty) => {
        impl Address for $t {
            const LAST: Self = <$t>::MAX;
            const FIRST: Self = 0;

            fn after(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn before(self) -> Self {
                self - 1
            }

            fn set(ranges: Vec<(Self, Self)>) -> RangeSet<Self> {
                RangeSet::<$t>::from_ranges(ranges)
            }
        }
    };
}

address!(u32);
address!(u128);

/// Counts of addresses. Versions of it share what they have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cover<T> {
    /// Where the count changes, and to what. It is 0 before the first place.
    steps: Sorted<(T, u32)>,
    /// The ranges of the union: maximal runs of counts above 0.
    ranges: usize,
}

impl<T> Default for Cover<T> {
    fn default() -> Self {
        Self { steps: Sorted::default(), ranges: 0 }
    }
}

impl<T: Address> Cover<T> {
    /// The counts of all ranges.
    pub(super) fn of(ranges: &[(T, T)]) -> Self {
        let mut starts: Vec<T> = ranges.iter().map(|range| range.0).collect();
        let mut ends: Vec<T> = ranges.iter().filter_map(|range| range.1.after()).collect();
        starts.sort_unstable();
        ends.sort_unstable();
        let (mut steps, mut count, mut runs) = (Vec::with_capacity(2 * starts.len()), 0u32, 0);
        let (mut starts, mut ends) = (starts.into_iter().peekable(), ends.into_iter().peekable());
        while let Some(at) = [starts.peek(), ends.peek()].into_iter().flatten().min().copied() {
            let before = count;
            while starts.next_if_eq(&at).is_some() {
                count += 1;
            }
            while ends.next_if_eq(&at).is_some() {
                count -= 1;
            }
            if count != before {
                steps.push((at, count));
                runs += usize::from(before == 0);
            }
        }
        Self { steps: Sorted::from_ascending(steps), ranges: runs }
    }

    /// How many ranges the union has.
    pub(super) fn ranges(&self) -> usize {
        self.ranges
    }

    /// The union.
    pub(super) fn union(&self) -> RangeSet<T> {
        T::set(self.held(T::FIRST, T::LAST))
    }

    /// What of the range `low` to `high` is in the union.
    pub(super) fn held(&self, low: T, high: T) -> Vec<(T, T)> {
        let mut held = Vec::new();
        let mut open = (self.count(low) > 0).then_some(low);
        let within = self.steps.from(|step| step.0 <= low).take_while(|step| step.0 <= high);
        for &(at, count) in within {
            match open {
                None if count > 0 => open = Some(at),
                Some(start) if count == 0 => {
                    held.push((start, at.before()));
                    open = None;
                }
                _ => {}
            }
        }
        held.extend(open.map(|start| (start, high)));
        held
    }

    /// What of the range `low` to `high` is not in the union.
    pub(super) fn free(&self, low: T, high: T) -> Vec<(T, T)> {
        let (mut free, mut next) = (Vec::new(), Some(low));
        for (start, end) in self.held(low, high) {
            if let Some(low) = next.filter(|&low| low < start) {
                free.push((low, start.before()));
            }
            next = end.after();
        }
        free.extend(next.filter(|&low| low <= high).map(|low| (low, high)));
        free
    }

    /// Counts a range once more, or once less. Returns what thereby entered or left the union.
    pub(super) fn change(&mut self, (low, high): (T, T), adds: bool) -> Vec<(T, T)> {
        let before = self.steps.last_below(|step| step.0 < low).map_or(0, |step| step.1);
        self.split(low);
        let after = high.after();
        if let Some(after) = after {
            self.split(after);
        }
        let steps: Vec<(T, u32)> =
            self.steps.from(|s| s.0 < low).take_while(|s| s.0 <= high).copied().collect();
        let changed = |count: u32| if adds { count + 1 } else { count.saturating_sub(1) };
        self.steps.update(|s| s.0 < low, |s| s.0 <= high, |s| s.1 = changed(s.1));
        let next = after.map(|after| self.count(after));
        let counts = || steps.iter().map(|step| step.1);
        let runs_before = runs(before, counts().chain(next));
        let runs_after = runs(before, counts().map(changed).chain(next));
        self.ranges = self.ranges + runs_after - runs_before;
        // The places that no longer tell two counts apart.
        if let Some(&(at, count)) = steps.first() {
            if changed(count) == before {
                self.steps.remove(&(at, before));
            }
        }
        if let (Some(after), Some(next), Some(last)) = (after, next, steps.last()) {
            if changed(last.1) == next {
                self.steps.remove(&(after, next));
            }
        }
        let mut moved: Vec<(T, T)> = Vec::new();
        for (place, &(at, count)) in steps.iter().enumerate() {
            if (count == 0) == (changed(count) == 0) {
                continue;
            }
            let end = steps.get(place + 1).map_or(high, |next| next.0.before());
            match moved.last_mut().filter(|last| last.1.after() == Some(at)) {
                Some(last) => last.1 = end,
                None => moved.push((at, end)),
            }
        }
        moved
    }

    fn count(&self, at: T) -> u32 {
        self.steps.last_below(|step| step.0 <= at).map_or(0, |step| step.1)
    }

    /// Makes `at` a place of its own.
    fn split(&mut self, at: T) {
        let step = self.steps.last_below(|step| step.0 <= at).copied();
        if step.is_none_or(|step| step.0 != at) {
            self.steps.insert((at, step.map_or(0, |step| step.1)));
        }
    }
}

/// How many runs of counts above 0 begin in the sequence that follows `before`.
fn runs(mut before: u32, counts: impl Iterator<Item = u32>) -> usize {
    let begins = |count: u32| std::mem::replace(&mut before, count) == 0 && count > 0;
    counts.map(begins).filter(|&begins| begins).count()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = (u32, u32)> {
        let end = || prop_oneof![0..20u32, u32::MAX - 6..=u32::MAX];
        (end(), end()).prop_map(|(a, b)| (a.min(b), a.max(b)))
    }

    fn union(members: &[(u32, u32)]) -> RangeSet<u32> {
        RangeSet::<u32>::from_ranges(members.iter().copied())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn a_cover_is_the_union_of_what_was_added_and_not_removed(
            start in vec(range(), 0..8),
            edits in vec((any::<prop::sample::Index>(), range(), any::<bool>()), 1..20),
            asked in range(),
        ) {
            let mut members = start.clone();
            let mut cover = Cover::of(&start);
            for (which, range, adds) in edits {
                let before = union(&members);
                let moved = if adds || members.is_empty() {
                    members.push(range);
                    cover.change(range, true)
                } else {
                    let member = members.swap_remove(which.index(members.len()));
                    cover.change(member, false)
                };
                let after = union(&members);
                let entered = after.intersection(&before.complement());
                let left = before.intersection(&after.complement());
                prop_assert!(entered.is_empty() || left.is_empty());
                prop_assert_eq!(u32::set(moved), entered.union(&left));
                prop_assert_eq!(&cover.union(), &after);
                prop_assert_eq!(cover.ranges(), after.ranges().len());
                prop_assert_eq!(&cover, &Cover::of(&members), "the counts are in normal form");
                let range = u32::set(vec![asked]);
                let held = cover.held(asked.0, asked.1);
                prop_assert_eq!(u32::set(held), after.intersection(&range));
                let free = cover.free(asked.0, asked.1);
                prop_assert_eq!(u32::set(free), range.intersection(&after.complement()));
            }
        }
    }
}
