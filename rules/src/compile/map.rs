//! Intervals of addresses to the nodes of an [`AddressMap`], and back.

use super::partition::Coordinate;
use std::sync::Arc;

use super::prefixes;
use crate::classifier::addresses::{
    AddressMap, BOUNDS4, BOUNDS6, SLOTS, Target, Unit, Units, WordMap,
};
use crate::classifier::store::Store;
use crate::sets::AddrSet;

/// A range of addresses that changes, and the number of how it does.
pub(super) type Piece<T> = (T, T, u32);

/// Places of a table that are free, and how many there are in all.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    free: Vec<u32>,
    end: u32,
}

impl Places {
    /// A place in `store`, which grows where it has to; `value` stands there then.
    pub(super) fn take<T: Copy>(&mut self, store: &mut Store<T>, value: T) -> u32 {
        let place = self.take_place();
        store.grow(place as usize + 1, value);
        *store.get_mut(place) = value;
        place
    }

    /// A place.
    pub(super) fn take_place(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        })
    }

    /// Leaves out one place: it is in use already.
    pub(super) fn skip(&mut self) {
        self.end += 1;
    }

    pub(super) fn give_back(&mut self, place: u32) {
        self.free.push(place);
    }

    /// Places in use and free ones.
    pub(super) fn len(&self) -> usize {
        self.end as usize
    }
}

/// Where the units of nodes are free.
#[derive(Clone, Debug, Default)]
struct UnitPlaces {
    /// By the half of the number: a big node takes two units.
    pairs: Places,
    single: Vec<u32>,
}

impl UnitPlaces {
    fn take(&mut self, units: &mut Units, node: [u32; 16], is_big: bool) -> u32 {
        let mut halves = node.chunks_exact(8).map(|half| {
            let mut unit = [0; 8];
            unit.copy_from_slice(half);
            unit
        });
        let unit = match self.single.pop() {
            Some(single) if !is_big => single,
            popped => {
                self.single.extend(popped);
                let first = 2 * self.pairs.take_place();
                units.grow(first as usize + 2, Unit([0; 8]));
                if !is_big {
                    self.single.push(first + 1);
                }
                first
            }
        };
        for place in unit..=unit + u32::from(is_big) {
            units.get_mut(place).0 = halves.next().unwrap_or_default();
        }
        unit
    }

    fn give_back(&mut self, target: Target) {
        match target.is_big() {
            true => self.pairs.give_back(target.place() / 2),
            false => self.single.push(target.place()),
        }
    }
}

/// A bound of a node.
trait Bound: Copy {
    /// How many bounds a small and a big node have.
    const BOUNDS: [usize; 2];
    const GREATEST: Self;
    /// Writes the bound of a node.
    fn write(self, node: &mut [u32; 16], place: usize);
    /// Reads the bound of a node.
    fn read(node: &[u32; 16], place: usize) -> Self;
    /// Words that so many bounds take.
    fn words(bounds: usize) -> usize;
}

impl Bound for u16 {
    const BOUNDS: [usize; 2] = BOUNDS4;
    const GREATEST: Self = Self::MAX;

    fn write(self, node: &mut [u32; 16], place: usize) {
        let shift = 16 * (place % 2);
        node[place / 2] = node[place / 2] & !(0xffff << shift) | u32::from(self) << shift;
    }

    fn read(node: &[u32; 16], place: usize) -> Self {
        (node[place / 2] >> (16 * (place % 2))) as Self
    }

    fn words(bounds: usize) -> usize {
        bounds / 2
    }
}

impl Bound for u64 {
    const BOUNDS: [usize; 2] = BOUNDS6;
    const GREATEST: Self = Self::MAX;

    fn write(self, node: &mut [u32; 16], place: usize) {
        (node[2 * place], node[2 * place + 1]) = (self as u32, (self >> 32) as u32);
    }

    fn read(node: &[u32; 16], place: usize) -> Self {
        Self::from(node[2 * place]) | Self::from(node[2 * place + 1]) << 32
    }

    fn words(bounds: usize) -> usize {
        2 * bounds
    }
}

/// From so many intervals on a slot gets a table of 1 KiB, and so does a byte of that table: nodes of as
/// many intervals would be two behind each other, and of about five times as many take as much memory.
const TABLE_FROM: usize = 12;
const LAST_TABLE_FROM: usize = 24;

/// The places in a [`WordMap`], and how it is written.
#[derive(Debug, Default)]
pub(super) struct WordMapBuilder {
    tables: Places,
    free: UnitPlaces,
    /// Intervals of all slots.
    intervals: usize,
}

/// The places in an [`AddressMap`], and how it is written.
#[derive(Debug, Default)]
pub(super) struct MapBuilder {
    pub(super) v4: WordMapBuilder,
    free6: UnitPlaces,
    /// All of IPv6: where each interval begins, ascending from zero, and its class.
    cut6: Vec<(u128, u32)>,
}

/// The tree over intervals, of which the first begins at or below everything that comes this way.
fn tree<B: Bound>(
    intervals: &[(B, Target)],
    is_lower: bool,
    units: &mut Units,
    free: &mut UnitPlaces,
) -> Target {
    let [small, big] = B::BOUNDS;
    if let [(_, only)] = intervals {
        return *only;
    }
    if intervals.len() > big + 1 {
        let groups = intervals.len().div_ceil(small + 1).min(big + 1);
        let children: Vec<(B, Target)> = (intervals.chunks(intervals.len().div_ceil(groups)))
            .map(|group| (group[0].0, tree(group, is_lower, units, free)))
            .collect();
        return tree(&children, is_lower, units, free);
    }
    let is_big = intervals.len() > small + 1;
    let bounds = B::BOUNDS[usize::from(is_big)];
    let mut node = [0; 16];
    (0..bounds).for_each(|place| B::GREATEST.write(&mut node, place));
    let last = intervals[intervals.len() - 1].1;
    node[B::words(bounds)..=B::words(bounds) + bounds].fill(last.word());
    for (place, &(start, target)) in intervals.iter().enumerate() {
        if place > 0 {
            start.write(&mut node, place - 1);
        }
        node[B::words(bounds) + place] = target.word();
    }
    Target::node(free.take(units, node, is_big), is_big, is_lower)
}

/// Calls `left` with the nodes below a target, and `found` with each interval's start and class, in
/// order; `start` is that of the first.
fn go_through<B: Bound>(
    target: Target,
    start: B,
    units: &Units,
    left: &mut dyn FnMut(Target),
    found: &mut dyn FnMut(B, Target),
) {
    if !target.is_node() {
        return found(start, target);
    }
    let node = AddressMap::node(units, target);
    left(target);
    let bounds = B::BOUNDS[usize::from(target.is_big())];
    let mut start = start;
    for place in 0..=bounds {
        let child = Target::from_word(node[B::words(bounds) + place]);
        go_through(child, start, units, left, found);
        if place < bounds {
            start = B::read(&node, place);
            // Nothing but repetitions of the last target follows: a bound is used once, and the
            // greatest value only where its target differs.
            let next = Target::from_word(node[B::words(bounds) + place + 1]);
            if next == child {
                return;
            }
        }
    }
}

/// The same for what a slot leads to, of which each value of the next eight bits is `step` words: a
/// slot's byte is 256 of them, and what is left of that byte is one.
fn go_through_slot(
    map: &WordMap,
    target: Target,
    (start, step): (u16, u16),
    left: &mut dyn FnMut(Target),
    found: &mut dyn FnMut(u16, Target),
) {
    if !target.is_table() {
        return go_through(target, start, &map.nodes, left, found);
    }
    left(target);
    for (byte, &target) in map.tables.get(target.place()).iter().enumerate() {
        go_through_slot(map, target, (start + byte as u16 * step, step >> 8), left, found);
    }
}

/// Of a whole slot.
const SLOT: (u16, u16) = (0, 1 << 8);

/// The intervals of one slot: where each begins, and its number.
pub(super) fn intervals_of_slot(map: &WordMap, slot: u32, out: &mut Vec<(u16, u32)>) {
    out.clear();
    let mut push = |start: u16, target: Target| {
        if out.last().is_none_or(|&(_, class)| class != target.place()) {
            out.push((start, target.place()));
        }
    };
    go_through_slot(map, *map.slots.get(slot), SLOT, &mut |_| {}, &mut push);
}

/// The intervals of one slot that a range overlaps, and those beside them: where each begins, of the
/// first no later than before the range, and its number.
fn intervals_around(map: &WordMap, slot: u32, (low, high): (u16, u16), out: &mut Vec<(u16, u32)>) {
    out.clear();
    let mut push = |start: u16, target: Target| {
        if out.last().is_none_or(|&(_, class)| class != target.place()) {
            out.push((start, target.place()));
        }
    };
    let within = (low.saturating_sub(1), high.saturating_add(1));
    go_through_range(map, *map.slots.get(slot), SLOT, within, &mut push);
}

/// Calls `found` with at least those intervals of what a slot leads to that a range overlaps.
fn go_through_range(
    map: &WordMap,
    target: Target,
    (start, step): (u16, u16),
    (low, high): (u16, u16),
    found: &mut dyn FnMut(u16, Target),
) {
    if !target.is_table() {
        return go_through(target, start, &map.nodes, &mut |_| {}, found);
    }
    let place = |word: u16| (word.saturating_sub(start) / step).min(255);
    for byte in place(low)..=place(high) {
        let target = map.tables.get(target.place())[usize::from(byte)];
        go_through_range(map, target, (start + byte * step, step >> 8), (low, high), found);
    }
}

impl WordMapBuilder {
    /// Sets the numbers of all words that have so many slots. `cut` begins with zero. `used` is told
    /// of the number of each interval of each slot.
    pub(super) fn set(
        &mut self,
        map: &mut WordMap,
        slots: usize,
        cut: &[(u32, u32)],
        mut used: impl FnMut(u32),
    ) {
        let mut at = 0;
        let mut of_slot = Vec::new();
        map.slots.grow(slots, Target::class(0));
        for slot in 0..slots {
            of_slot.clear();
            of_slot.push((0, Target::class(cut[at].1)));
            let of_this = |next: &&(u32, u32)| next.0 as usize >> 16 <= slot;
            while let Some(&(start, class)) = cut.get(at + 1).filter(of_this) {
                at += 1;
                if start as usize == slot << 16 {
                    of_slot.clear();
                }
                of_slot.push((start as u16, Target::class(class)));
            }
            of_slot.iter().for_each(|(_, target)| used(target.place()));
            self.intervals += of_slot.len();
            let target = self.slot(map, &of_slot);
            *map.slots.get_mut(slot as u32) = target;
        }
    }

    /// What stands for the intervals of one slot.
    fn slot(&mut self, map: &mut WordMap, intervals: &[(u16, Target)]) -> Target {
        if intervals.len() < TABLE_FROM {
            return tree(intervals, false, &mut map.nodes, &mut self.free);
        }
        let mut table = [intervals[0].1; 256];
        let (mut at, mut of_byte) = (0, Vec::new());
        for (byte, target) in table.iter_mut().enumerate() {
            of_byte.clear();
            of_byte.push((0, intervals[at].1));
            while let Some(&(start, class)) =
                intervals.get(at + 1).filter(|next| usize::from(next.0) >> 8 <= byte)
            {
                at += 1;
                if usize::from(start) == byte << 8 {
                    of_byte.clear();
                }
                of_byte.push((start, class));
            }
            *target = self.byte(map, &of_byte);
        }
        Target::table(self.tables.take(&mut map.tables, table))
    }

    /// What stands for the intervals of one byte of a slot.
    fn byte(&mut self, map: &mut WordMap, intervals: &[(u16, Target)]) -> Target {
        if intervals.len() < LAST_TABLE_FROM {
            return tree(intervals, false, &mut map.nodes, &mut self.free);
        }
        let mut table = [intervals[0].1; 256];
        for (&(start, target), &(end, _)) in intervals[1..].iter().zip(&intervals[2..]) {
            table[usize::from(start) % 256..usize::from(end) % 256].fill(target);
        }
        let (start, target) = intervals[intervals.len() - 1];
        table[usize::from(start) % 256..].fill(target);
        Target::table(self.tables.take(&mut map.tables, table))
    }

    /// Changes the numbers of the words in `pieces`, ascending and disjoint: to what
    /// `change` makes of the old number and the piece's number. `used` is told how many intervals of
    /// slots a number has more (or fewer) of.
    pub(super) fn change(
        &mut self,
        map: &mut WordMap,
        pieces: &[Piece<u32>],
        change: &mut dyn FnMut(u32, u32) -> u32,
        used: &mut dyn FnMut(u32, i32),
    ) {
        let of_slots = pieces.iter().flat_map(|&(low, high, piece)| {
            (low >> 16..=high >> 16).map(move |slot| {
                let (first, last) = (slot << 16, slot << 16 | 0xffff);
                (slot, (low.max(first) & 0xffff, high.min(last) & 0xffff, piece))
            })
        });
        let of_slots: Vec<(u32, Piece<u32>)> = of_slots.collect();
        for of_slot in of_slots.chunk_by(|a, b| a.0 == b.0) {
            let pieces: Vec<Piece<u32>> = of_slot.iter().map(|&(_, piece)| piece).collect();
            self.change_slot(map, of_slot[0].0, &pieces, change, used);
        }
    }

    fn change_slot(
        &mut self,
        map: &mut WordMap,
        slot: u32,
        pieces: &[Piece<u32>],
        change: &mut dyn FnMut(u32, u32) -> u32,
        used: &mut dyn FnMut(u32, i32),
    ) {
        let old = self.take_slot(map, slot);
        old.iter().for_each(|&(_, class)| used(class, -1));
        let new = changed(&old, 0xffff, pieces, change);
        new.iter().for_each(|&(_, class)| used(class, 1));
        self.intervals = (self.intervals + new.len()).saturating_sub(old.len());
        let targets: Vec<(u16, Target)> =
            new.iter().map(|&(start, class)| (start as u16, Target::class(class))).collect();
        let target = self.slot(map, &targets);
        *map.slots.get_mut(slot) = target;
    }

    /// The intervals of a slot, whose nodes are given back.
    fn take_slot(&mut self, map: &mut WordMap, slot: u32) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        intervals_of_slot(map, slot, &mut out);
        let mut give_back = |target: Target| match target.is_table() {
            true => self.tables.give_back(target.place()),
            false => self.free.give_back(target),
        };
        go_through_slot(map, *map.slots.get(slot), SLOT, &mut give_back, &mut |_, _| {});
        out.into_iter().map(|(start, class)| (start.into(), class)).collect()
    }
}

impl MapBuilder {
    /// A map in which every address is of class `class`.
    pub(super) fn empty_map(class: u32, non_ip: u32) -> AddressMap {
        let mut v4 = WordMap::default();
        v4.slots.grow(SLOTS, Target::class(class));
        let (root6, nodes6) = (Target::class(class), Units::default());
        AddressMap { v4, prefixes6: None, root6, nodes6, non_ip }
    }

    /// Calls `found` with each interval that pieces, ascending, overlap: the place of the piece, those of
    /// IPv6 behind those of IPv4, the interval's class, the piece's number, and whether all of the
    /// interval is in the piece.
    pub(super) fn overlaps(
        &self,
        map: &AddressMap,
        pieces4: &[Piece<u32>],
        pieces6: &[Piece<u128>],
        found: &mut dyn FnMut(usize, u32, u32, bool),
    ) {
        let mut around = Vec::new();
        for (place, &(low, high, number)) in pieces4.iter().enumerate() {
            for slot in low >> 16..=high >> 16 {
                let first = slot << 16;
                let (low, high) = (low.max(first) as u16, high.min(first | 0xffff) as u16);
                intervals_around(&map.v4, slot, (low, high), &mut around);
                overlap(&around, (low, high), high.saturating_add(1), &mut |class, is_whole| {
                    found(place, class, number, is_whole);
                });
            }
        }
        for (place, &(low, high, number)) in (pieces4.len()..).zip(pieces6) {
            overlap(&self.cut6, (low, high), u128::MAX, &mut |class, is_whole| {
                found(place, class, number, is_whole);
            });
        }
    }

    /// Whether more intervals begin in `addresses` than outside.
    pub(super) fn is_most(&self, map: &AddressMap, addresses: &AddrSet) -> bool {
        let all = self.v4.intervals + self.cut6.len();
        // No more begin in a set than it has addresses: to count them takes long.
        let is_few = |set: &AddrSet| {
            let size4 = set.v4.ranges().iter().map(|&(low, high)| u128::from(high - low) + 1);
            let sizes6 = set.v6.ranges().iter().map(|&(low, high)| (high - low).saturating_add(1));
            size4.chain(sizes6).fold(0, u128::saturating_add) < (all / 2) as u128
        };
        if is_few(addresses) || is_few(&addresses.complement()) {
            return !is_few(addresses);
        }
        let (inside, outside) = self.intervals_in(map, addresses);
        debug_assert_eq!(inside + outside, all, "intervals are counted");
        outside < inside
    }

    /// How many intervals begin in `addresses`, and how many do not.
    fn intervals_in(&self, map: &AddressMap, addresses: &AddrSet) -> (usize, usize) {
        let (mut inside, mut all) = (0, 0);
        let mut of_slot = Vec::new();
        let mut ranges = addresses.v4.ranges();
        for slot in 0..SLOTS as u32 {
            intervals_of_slot(&map.v4, slot, &mut of_slot);
            all += of_slot.len();
            for &(start, _) in &of_slot {
                let address = slot << 16 | u32::from(start);
                while let [(_, high), rest @ ..] = ranges {
                    if *high >= address {
                        break;
                    }
                    ranges = rest;
                }
                inside += usize::from(ranges.first().is_some_and(|&(low, _)| low <= address));
            }
        }
        all += self.cut6.len();
        inside += addresses.v6.ranges().iter().fold(0, |sum, &(low, high)| {
            let before = self.cut6.partition_point(|&(start, _)| start < low);
            sum + self.cut6.partition_point(|&(start, _)| start <= high) - before
        });
        (inside, all - inside)
    }

    /// Sets the classes of all IPv6 addresses. `cut` begins with zero.
    pub(super) fn set6(&mut self, map: &mut AddressMap, cut: Vec<(u128, u32)>) {
        map.prefixes6 = prefixes::of_cut(&cut).map(Arc::new);
        if map.prefixes6.is_none() {
            self.set_tree6(map, &cut);
        }
        self.cut6 = cut;
    }

    /// Makes the tree of all IPv6 addresses.
    fn set_tree6(&mut self, map: &mut AddressMap, cut: &[(u128, u32)]) {
        self.free6 = UnitPlaces::default();
        let mut upper: Vec<(u64, Target)> = Vec::new();
        let mut before = cut[0].1;
        let upper_of = |start: u128| (start >> 64) as u64;
        let runs: Vec<&[(u128, u32)]> =
            cut.chunk_by(|a, b| upper_of(a.0) == upper_of(b.0)).collect();
        for (place, run) in runs.iter().enumerate() {
            let (half, last) = (upper_of(run[0].0), run[run.len() - 1].1);
            if run.len() == 1 && run[0].0 as u64 == 0 {
                upper.push((half, Target::class(last)));
            } else {
                let mut lower: Vec<(u64, Target)> = Vec::with_capacity(run.len() + 1);
                if run[0].0 as u64 != 0 {
                    lower.push((0, Target::class(before)));
                }
                lower
                    .extend(run.iter().map(|&(start, class)| (start as u64, Target::class(class))));
                let target = tree(&lower, true, &mut map.nodes6, &mut self.free6);
                upper.push((half, target));
                let next = runs.get(place + 1).map(|run| upper_of(run[0].0));
                if let Some(after) = half.checked_add(1).filter(|&after| next != Some(after)) {
                    upper.push((after, Target::class(last)));
                }
            }
            before = last;
        }
        map.root6 = tree(&upper, false, &mut map.nodes6, &mut self.free6);
    }

    /// The same as [`WordMapBuilder::change`] for IPv6 addresses.
    pub(super) fn change6(
        &mut self,
        map: &mut AddressMap,
        pieces: &[Piece<u128>],
        change: &mut dyn FnMut(u32, u32) -> u32,
        used: &mut dyn FnMut(u32, i32),
    ) {
        let (Some(&(low, _, _)), Some(&(_, high, _))) = (pieces.first(), pieces.last()) else {
            return;
        };
        // One interval more on either side, for those that the pieces begin or end in.
        let first = self.cut6.partition_point(|&(start, _)| start <= low).saturating_sub(2);
        let end = (self.cut6.partition_point(|&(start, _)| start <= high) + 1).min(self.cut6.len());
        let last = self.cut6.get(end).map_or(u128::MAX, |&(start, _)| start - 1);
        let old = &self.cut6[first..end];
        old.iter().for_each(|&(_, class)| used(class, -1));
        let new = changed(old, last, pieces, change);
        new.iter().for_each(|&(_, class)| used(class, 1));
        let mut cut = std::mem::take(&mut self.cut6);
        cut.splice(first..end, new);
        // To make them anew takes longer than an edit may.
        map.prefixes6 = None;
        self.set_tree6(map, &cut);
        self.cut6 = cut;
    }
}

/// Calls `found` with the class of each of `intervals`, ascending from zero to `last`, that a range
/// overlaps, and whether all of the interval is in it.
fn overlap<T: Coordinate>(
    intervals: &[(T, u32)],
    (low, high): (T, T),
    last: T,
    found: &mut dyn FnMut(u32, bool),
) {
    let from = intervals.partition_point(|&(start, _)| start <= low).saturating_sub(1);
    let mut intervals = intervals[from..].iter().peekable();
    while let Some(&(start, class)) = intervals.next_if(|&&(start, _)| start <= high) {
        let end = intervals.peek().map_or(last, |(next, _)| next.before());
        found(class, low <= start && end <= high);
    }
}

/// `intervals`, the last of which ends with `last`, with the classes changed in `pieces`.
fn changed<T: Coordinate>(
    intervals: &[(T, u32)],
    last: T,
    pieces: &[Piece<T>],
    change: &mut dyn FnMut(u32, u32) -> u32,
) -> Vec<(T, u32)> {
    let mut out: Vec<(T, u32)> = Vec::with_capacity(intervals.len() + 2 * pieces.len());
    let mut push = |start: T, class: u32| {
        if out.last().is_none_or(|&(_, before)| before != class) {
            out.push((start, class));
        }
    };
    let mut pieces = pieces.iter().peekable();
    for (place, &(start, class)) in intervals.iter().enumerate() {
        let next = intervals.get(place + 1).map(|&(next, _)| next);
        let mut at = Some(start);
        while let Some(from) = at.filter(|&from| next.is_none_or(|next| from < next)) {
            if next.is_none() && from > last {
                break;
            }
            while pieces.next_if(|piece| piece.1 < from).is_some() {}
            match pieces.peek() {
                Some(&&(low, high, piece)) if low <= from => {
                    push(from, change(class, piece));
                    at = high.next();
                }
                Some(&&(low, _, _)) if next.is_none_or(|next| low < next) => {
                    push(from, class);
                    at = Some(low);
                }
                _ => {
                    push(from, class);
                    at = None;
                }
            }
        }
    }
    out
}
