//! Small policies crossed out: what decides each pair of classes, for each service, in tables.
//!
//! A pair of a source class and a destination class leads to a number, equal for all pairs that the
//! same rules hold, and that number and the service class lead to the rule that decides: recursive
//! flow classification (Gupta and McKeown, 1999), over the classes that there are anyway. Nothing is
//! compared, and so addresses are looked up in a plain trie, too. What only an exact check can decide
//! is marked, and goes the general way.
//!
//! The tables grow with the product of what rules tell apart. The compiler makes them for policies
//! for which they stay small, and edits drop them. Where they do not, the numbers of pairs may be those of
//! [`super::shortlists`].

use super::services::{self, ServiceMap};
use super::shortlists::Shortlists;
use super::{Column, MAX_BATCH};
use crate::headers::Headers;
use crate::lanes::{Eight, Halves, Kernel, LANES, Lanes};
use crate::policy::RuleId;

/// In the place of a rule: none matches.
pub(crate) const NO_RULE: u16 = u16::MAX;
/// In the place of a rule: the first one that may match has to be compared exactly.
pub(crate) const GENERAL: u16 = u16::MAX - 1;
/// Rules have numbers below this.
pub(crate) const MOST_RULES: usize = GENERAL as usize;

/// A policy in tables.
#[derive(Debug)]
pub(crate) struct Crossed {
    /// The IPv4 addresses of sources and destinations.
    pub(crate) maps: [FlatMap; 2],
    /// Source class × destination class to what `decided` says.
    pub(crate) pairs: Grid,
    pub(crate) decided: Decided,
}

/// How what decides a pair is found.
#[derive(Debug)]
pub(crate) enum Decided {
    /// A pair has a row here: … × service class to the number of a rule, [`NO_RULE`] or [`GENERAL`].
    ByService(Grid),
    /// A pair has a list here; its classes have numbers of their own.
    ByLists(Box<Shortlists>),
}

/// IPv4 addresses to classes, or other words to numbers: a trie over the leading 16 bits, the next 8,
/// and the last 8.
#[derive(Debug)]
pub(crate) struct FlatMap {
    /// By the leading 16 bits: a class, or [`FlatMap::TABLE`] and the number of a table. One more.
    pub(crate) slots: Vec<u16>,
    /// Tables of 256 of the same, of which equal ones are shared. One number more.
    pub(crate) tables: Vec<u16>,
    /// How many of the three steps any word takes: one without tables, two where no table names another.
    pub(crate) steps: usize,
}

impl FlatMap {
    pub(crate) const TABLE: u16 = 1 << 15;

    /// Takes words to classes. Each step goes over all of them before the next one does, so that what one
    /// of them waits for has been asked for by the others.
    #[inline(always)]
    pub(super) fn find_all<L: Lanes>(&self, lanes: L, words: &[Eight], found: &mut [Eight]) {
        for (word, found) in words.iter().zip(&mut *found) {
            lanes.store(self.first(lanes, lanes.load(word)), found);
        }
        if self.steps < 2 {
            return;
        }
        for (word, found) in words.iter().zip(&mut *found) {
            let byte = lanes.shr::<8>(lanes.load(word));
            lanes.store(self.next(lanes, byte, lanes.load(found)), found);
        }
        if self.steps < 3 {
            return;
        }
        for (word, found) in words.iter().zip(&mut *found) {
            lanes.store(self.next(lanes, lanes.load(word), lanes.load(found)), found);
        }
    }

    /// The first of three steps: what the leading 16 bits of addresses lead to.
    #[inline(always)]
    fn first<L: Lanes>(&self, lanes: L, addresses: L::W) -> L::W {
        lanes.gather_halves(Halves::new(&self.slots), lanes.shr::<16>(addresses))
    }

    /// One of the others: where that is a table, what the lowest byte leads to in it.
    #[inline(always)]
    fn next<L: Lanes>(&self, lanes: L, bytes: L::W, found: L::W) -> L::W {
        // The bit of a table is the lowest one of the upper half then, and the sign.
        let is_table = lanes.signs(lanes.shl::<16>(found));
        let table = lanes.shl::<8>(lanes.and(found, lanes.splat(u32::from(Self::TABLE) - 1)));
        let byte = lanes.and(bytes, lanes.splat(0xff));
        let place = lanes.and(lanes.or(table, byte), is_table);
        lanes.select(is_table, lanes.gather_halves(Halves::new(&self.tables), place), found)
    }

    pub(crate) fn size_bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.tables)
    }
}

/// The columns of a block of a [`Grid`], as a power of two.
pub(crate) const BLOCK_SHIFT: u32 = 4;

/// Numbers by row and column.
#[derive(Debug)]
pub(crate) struct Grid {
    /// By row, and column divided by that of a block: the block. One more. Empty where all numbers
    /// stand in `numbers` one row after the other.
    pub(crate) blocks: Vec<u16>,
    /// Blocks or numbers that a row has.
    pub(crate) pitch: u32,
    /// The numbers, or those of distinct blocks. One more.
    pub(crate) numbers: Vec<u16>,
}

impl Grid {
    /// Takes rows, in place, to numbers, step by step as in [`FlatMap::find_all`].
    #[inline(always)]
    pub(super) fn find<L: Lanes>(&self, lanes: L, rows: &mut [Eight], columns: &[Eight]) {
        let (blocks, numbers) = (Halves::new(&self.blocks), Halves::new(&self.numbers));
        let pitch = lanes.splat(self.pitch);
        if self.blocks.is_empty() {
            for (row, column) in rows.iter_mut().zip(columns) {
                let place = lanes.add(lanes.mul(lanes.load(row), pitch), lanes.load(column));
                lanes.store(lanes.gather_halves(numbers, place), row);
            }
            return;
        }
        const SHIFT: i32 = BLOCK_SHIFT as i32;
        for (row, column) in rows.iter_mut().zip(columns) {
            let first = lanes.mul(lanes.load(row), pitch);
            let block = lanes.add(first, lanes.shr::<SHIFT>(lanes.load(column)));
            lanes.store(lanes.gather_halves(blocks, block), row);
        }
        for (row, column) in rows.iter_mut().zip(columns) {
            let within = lanes.and(lanes.load(column), lanes.splat((1 << BLOCK_SHIFT) - 1));
            let place = lanes.add(lanes.shl::<SHIFT>(lanes.load(row)), within);
            lanes.store(lanes.gather_halves(numbers, place), row);
        }
    }

    fn size_bytes(&self) -> usize {
        size_of_val(&*self.blocks) + size_of_val(&*self.numbers)
    }
}

/// Takes frames to their classes, as if all were IPv4 where any is, step by step as in
/// [`FlatMap::find_all`]. Returns which are not, a bit for each.
pub(super) struct ReadClasses<'a> {
    pub(super) maps: &'a [FlatMap; 2],
    pub(super) map: &'a ServiceMap,
    pub(super) headers: &'a [Headers],
    pub(super) addresses: &'a mut [Column; 2],
    pub(super) classes: &'a mut [Column; 2],
    pub(super) services: &'a mut Column,
}

impl Kernel for ReadClasses<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let Self { maps, map, headers, addresses, classes, services } = self;
        let groups = headers.len().min(MAX_BATCH).div_ceil(LANES);
        let mut others = 0;
        for group in 0..groups {
            let fields = lanes.fields(headers, group * LANES);
            others |= services::other_frames(lanes, fields.kind) << (group * LANES);
            lanes.store(services::cells(lanes, map, &fields), &mut services[group]);
            lanes.store(fields.src, &mut addresses[0][group]);
            lanes.store(fields.dst, &mut addresses[1][group]);
        }
        for service in &mut services[..groups] {
            lanes.store(services::classes_in(lanes, map, lanes.load(service)), service);
        }
        if others.count_ones() as usize == groups * LANES {
            return others;
        }
        let of_sides = addresses.iter().zip(classes);
        for (map, (addresses, classes)) in maps.iter().zip(of_sides) {
            map.find_all(lanes, &addresses[..groups], &mut classes[..groups]);
        }
        others
    }
}

/// Takes classes to the numbers of rules. Returns which frames have to go the general way.
pub(super) struct Cross<'a> {
    pub(super) pairs: &'a Grid,
    pub(super) of_pairs: &'a Grid,
    pub(super) classes: &'a [Column; 2],
    pub(super) services: &'a Column,
    pub(super) rules: &'a mut Column,
    pub(super) frames: usize,
}

impl Kernel for Cross<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let Self { pairs, of_pairs, classes, services, rules, frames } = self;
        let groups = frames.min(MAX_BATCH).div_ceil(LANES);
        let ([src, dst], rules) = (classes, &mut rules[..groups]);
        rules.copy_from_slice(&src[..groups]);
        pairs.find(lanes, rules, dst);
        of_pairs.find(lanes, rules, services);
        let mut general = 0;
        for (group, row) in rules.iter_mut().enumerate() {
            let rule = lanes.load(row);
            let is_general = lanes.equal(rule, lanes.splat(GENERAL.into()));
            general |= u64::from(lanes.bits(is_general)) << (group * LANES);
            let is_none = lanes.equal(rule, lanes.splat(NO_RULE.into()));
            let rule = lanes.select(is_none, lanes.splat(RuleId::DEFAULT.0), rule);
            lanes.store(rule, row);
        }
        general
    }
}

impl Crossed {
    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        let [src, dst] = &self.maps;
        size_of::<Self>()
            + src.size_bytes()
            + dst.size_bytes()
            + self.pairs.size_bytes()
            + match &self.decided {
                Decided::ByService(rules) => rules.size_bytes(),
                Decided::ByLists(lists) => size_of::<Shortlists>() + lists.size_bytes(),
            }
    }
}
