//! The value sets that rules test, in normal form.
//!
//! Ranges are inclusive, sorted, disjoint and not adjacent, so that equal sets are equal values.

use crate::headers::{ETHER_IPV4, ETHER_IPV6, Mac, VlanTags};

/// Inclusive, sorted, disjoint, non-adjacent ranges of an unsigned type.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct RangeSet<T>(Vec<(T, T)>);

macro_rules! range_set {
    ($t:ty) => {
        impl RangeSet<$t> {
            /// The set of every value.
            pub fn full() -> Self {
                Self(vec![(0, <$t>::MAX)])
            }

            /// The set of the values that any of `ranges` (inclusive, any order) holds. A range
            /// whose start is above its end is empty.
            pub fn from_ranges(ranges: impl IntoIterator<Item = ($t, $t)>) -> Self {
                let mut all: Vec<_> = ranges.into_iter().filter(|(lo, hi)| lo <= hi).collect();
                all.sort_unstable();
                let mut out: Vec<($t, $t)> = Vec::with_capacity(all.len());
                for (lo, hi) in all {
                    match out.last_mut() {
                        Some(last) if lo <= last.1 || lo - last.1 == 1 => last.1 = last.1.max(hi),
                        _ => out.push((lo, hi)),
                    }
                }
                Self(out)
            }

            /// The ranges in ascending order.
            pub fn ranges(&self) -> &[($t, $t)] {
                &self.0
            }

            /// Whether no value is in the set.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }

            /// Whether every value is in the set.
            pub fn is_full(&self) -> bool {
                self.0 == [(0, <$t>::MAX)]
            }

            /// Whether `value` is in the set.
            pub fn contains(&self, value: $t) -> bool {
                let after = self.0.partition_point(|&(lo, _)| lo <= value);
                after > 0 && value <= self.0[after - 1].1
            }

            /// The values in either set.
            pub fn union(&self, other: &Self) -> Self {
                Self::from_ranges(self.0.iter().chain(&other.0).copied())
            }

            /// The values that are not in the set.
            pub fn complement(&self) -> Self {
                let mut out = Vec::with_capacity(self.0.len() + 1);
                let mut next: $t = 0;
                for &(lo, hi) in &self.0 {
                    if lo > next {
                        out.push((next, lo - 1));
                    }
                    match hi.checked_add(1) {
                        Some(after) => next = after,
                        None => return Self(out),
                    }
                }
                out.push((next, <$t>::MAX));
                Self(out)
            }

            /// The values in both sets.
            pub fn intersection(&self, other: &Self) -> Self {
                let (a, b) = (&self.0, &other.0);
                let (mut i, mut j, mut out) = (0, 0, Vec::new());
                while i < a.len() && j < b.len() {
                    let (lo, hi) = (a[i].0.max(b[j].0), a[i].1.min(b[j].1));
                    if lo <= hi {
                        out.push((lo, hi));
                    }
                    if a[i].1 < b[j].1 { i += 1 } else { j += 1 }
                }
                Self(out)
            }

            /// The values of the set that are not in `other`.
            pub fn difference(&self, other: &Self) -> Self {
                let mut out = Vec::new();
                let mut holes = other.0.as_slice();
                for &(lo, hi) in &self.0 {
                    holes = &holes[holes.partition_point(|&(_, end)| end < lo)..];
                    let (mut next, mut rest) = (Some(lo), holes);
                    while let (Some(start), Some(&(low, high))) = (next, rest.first()) {
                        if start > hi || low > hi {
                            break;
                        }
                        if low > start {
                            out.push((start, low - 1));
                        }
                        (next, rest) = (high.checked_add(1), &rest[1..]);
                    }
                    out.extend(next.filter(|&start| start <= hi).map(|start| (start, hi)));
                }
                Self(out)
            }

            /// Whether no value is in both sets.
            pub fn is_disjoint(&self, other: &Self) -> bool {
                let (few, many) =
                    if self.0.len() < other.0.len() { (self, other) } else { (other, self) };
                let mut many = many.0.as_slice();
                few.0.iter().all(|&(lo, hi)| {
                    many = &many[many.partition_point(|&(_, end)| end < lo)..];
                    many.first().is_none_or(|&(low, _)| low > hi)
                })
            }

            /// Whether every value of the set is in `other`.
            pub fn is_subset(&self, other: &Self) -> bool {
                let mut many = other.0.as_slice();
                self.0.iter().all(|&(lo, hi)| {
                    many = &many[many.partition_point(|&(_, end)| end < lo)..];
                    many.first().is_some_and(|&(low, high)| low <= lo && hi <= high)
                })
            }

            /// The set as it is outside of `region`, with `inside`, of which all is in `region`,
            /// within it. Takes a copy of the set and a few steps for each range of the other two.
            pub fn replaced(&self, region: &Self, inside: &Self) -> Self {
                let mut out = Vec::with_capacity(self.0.len() + region.0.len() + inside.0.len());
                let (mut rest, mut inside) = (&self.0[..], &inside.0[..]);
                // What the last range of `region` left of a range that it cut.
                let mut cut: Option<($t, $t)> = None;
                for &(low, high) in &region.0 {
                    if let Some((start, end)) = cut.take() {
                        join_range(&mut out, (start, end.min(low - 1)));
                        if end > high {
                            cut = Some((high + 1, end));
                        }
                    }
                    let before = rest.partition_point(|&(_, end)| end < low);
                    join_ranges(&mut out, &rest[..before]);
                    rest = &rest[before..];
                    let hit = rest.partition_point(|&(start, _)| start <= high);
                    if let Some(&(start, _)) = rest[..hit].first().filter(|first| first.0 < low) {
                        join_range(&mut out, (start, low - 1));
                    }
                    if let Some(&(_, end)) = rest[..hit].last().filter(|last| last.1 > high) {
                        cut = Some((high + 1, end));
                    }
                    rest = &rest[hit..];
                    let here = inside.partition_point(|&(start, _)| start <= high);
                    join_ranges(&mut out, &inside[..here]);
                    inside = &inside[here..];
                }
                if let Some(cut) = cut {
                    join_range(&mut out, cut);
                }
                join_ranges(&mut out, rest);
                return Self(out);

                /// Appends ranges of which the first is after the last of `out`.
                fn join_ranges(out: &mut Vec<($t, $t)>, ranges: &[($t, $t)]) {
                    let Some((&first, others)) = ranges.split_first() else { return };
                    join_range(out, first);
                    out.extend_from_slice(others);
                }

                fn join_range(out: &mut Vec<($t, $t)>, range: ($t, $t)) {
                    match out.last_mut() {
                        Some(last) if last.1.checked_add(1) == Some(range.0) => last.1 = range.1,
                        _ => out.push(range),
                    }
                }
            }
        }
    };
}

range_set!(u16);
range_set!(u32);
range_set!(u128);

/// A set of network addresses of both families, and whether frames without one belong to it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct AddrSet {
    /// IPv4 addresses.
    pub v4: RangeSet<u32>,
    /// IPv6 addresses.
    pub v6: RangeSet<u128>,
    /// Whether a frame that is neither IPv4 nor IPv6 is in the set.
    pub non_ip: bool,
}

impl AddrSet {
    /// Every address, and frames without one.
    pub fn any() -> Self {
        Self { v4: RangeSet::<u32>::full(), v6: RangeSet::<u128>::full(), non_ip: true }
    }

    /// Whether the address of a frame with this EtherType is in the set. An IPv4 address is in the
    /// low 32 bits of `addr`.
    pub fn contains(&self, ether_type: u16, addr: u128) -> bool {
        match ether_type {
            ETHER_IPV4 => self.v4.contains(addr as u32),
            ETHER_IPV6 => self.v6.contains(addr),
            _ => self.non_ip,
        }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && !self.non_ip
    }

    /// Whether everything is in the set.
    pub fn is_any(&self) -> bool {
        self.v4.is_full() && self.v6.is_full() && self.non_ip
    }

    /// What is in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            v4: self.v4.union(&other.v4),
            v6: self.v6.union(&other.v6),
            non_ip: self.non_ip || other.non_ip,
        }
    }

    /// What is in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self {
            v4: self.v4.intersection(&other.v4),
            v6: self.v6.intersection(&other.v6),
            non_ip: self.non_ip && other.non_ip,
        }
    }

    /// What is not in the set.
    pub fn complement(&self) -> Self {
        Self { v4: self.v4.complement(), v6: self.v6.complement(), non_ip: !self.non_ip }
    }
}

/// A finite set of values, or the complement of one. The values are sorted and distinct.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum FiniteSet<T> {
    /// Exactly these.
    Only(Vec<T>),
    /// All but these; `AllBut` of nothing is everything.
    AllBut(Vec<T>),
}

impl<T: Ord + Copy> FiniteSet<T> {
    /// Everything.
    pub fn any() -> Self {
        Self::AllBut(Vec::new())
    }

    /// Exactly the given values.
    pub fn only(values: impl IntoIterator<Item = T>) -> Self {
        let mut values: Vec<T> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        Self::Only(values)
    }

    /// Whether `value` is in the set.
    pub fn contains(&self, value: T) -> bool {
        match self {
            Self::Only(values) => values.binary_search(&value).is_ok(),
            Self::AllBut(values) => values.binary_search(&value).is_err(),
        }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Only(values) if values.is_empty())
    }

    /// Whether everything is in the set.
    pub fn is_any(&self) -> bool {
        matches!(self, Self::AllBut(values) if values.is_empty())
    }

    /// What is not in the set.
    pub fn complement(&self) -> Self {
        match self {
            Self::Only(values) => Self::AllBut(values.clone()),
            Self::AllBut(values) => Self::Only(values.clone()),
        }
    }

    /// What is in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Only(values), set) | (set, Self::Only(values)) => {
                Self::Only(values.iter().copied().filter(|&v| set.contains(v)).collect())
            }
            (Self::AllBut(a), Self::AllBut(b)) => match Self::only(a.iter().chain(b).copied()) {
                Self::Only(values) => Self::AllBut(values),
                all_but => all_but,
            },
        }
    }

    /// What is in either set.
    pub fn union(&self, other: &Self) -> Self {
        self.complement().intersection(&other.complement()).complement()
    }

    /// What is in any of the sets.
    pub fn union_all(sets: Vec<Self>) -> Self {
        if sets.iter().all(|set| matches!(set, Self::Only(_))) {
            return Self::only(sets.iter().flat_map(|set| set.named()).copied());
        }
        sets.iter().fold(Self::Only(Vec::new()), |all, set| all.union(set))
    }

    /// The values that the set names, whether it holds them or all others.
    pub fn named(&self) -> &[T] {
        match self {
            Self::Only(values) | Self::AllBut(values) => values,
        }
    }
}

/// A set of MAC addresses.
pub type MacSet = FiniteSet<Mac>;

/// A set of VLAN tag stacks, each compared whole: `vlan: 30` is one tag with VID 30.
pub type VlanSet = FiniteSet<VlanTags>;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = RangeSet<u16>> {
        let edge =
            (0..12u16, any::<bool>()).prop_map(|(n, low)| if low { n } else { u16::MAX - n });
        vec((edge.clone(), edge), 0..6).prop_map(RangeSet::<u16>::from_ranges)
    }

    proptest! {
        #[test]
        fn range_sets_agree_with_their_definitions(a in ranges(), b in ranges()) {
            let outside = a.intersection(&b.complement());
            prop_assert_eq!(a.is_subset(&b), outside.is_empty());
            prop_assert_eq!(a.is_disjoint(&b), a.intersection(&b).is_empty());
            prop_assert_eq!(a.difference(&b), outside);
            let either = a.union(&b);
            for value in (0..16).chain(u16::MAX - 16..=u16::MAX) {
                prop_assert_eq!(either.contains(value), a.contains(value) || b.contains(value));
            }
        }

        #[test]
        fn a_region_is_replaced_and_nothing_else(
            before in ranges(),
            region in ranges(),
            inside in ranges(),
        ) {
            let inside = inside.intersection(&region);
            let expected = before.intersection(&region.complement()).union(&inside);
            prop_assert_eq!(before.replaced(&region, &inside), expected);
        }
    }
}
