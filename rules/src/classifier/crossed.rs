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
use crate::lanes::{Halves, Kernel, LANES, Lanes};
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
}

impl FlatMap {
    pub(crate) const TABLE: u16 = 1 << 15;

    #[inline(always)]
    pub(super) fn find<L: Lanes>(&self, lanes: L, addresses: L::W) -> L::W {
        let (slots, tables) = (Halves::new(&self.slots), Halves::new(&self.tables));
        let mut found = lanes.gather_halves(slots, lanes.shr::<16>(addresses));
        let low = lanes.splat(0xff);
        for byte in [lanes.and(lanes.shr::<8>(addresses), low), lanes.and(addresses, low)] {
            // The bit of a table is the lowest one of the upper half then, and the sign.
            let is_table = lanes.signs(lanes.shl::<16>(found));
            let table = lanes.shl::<8>(lanes.and(found, lanes.splat(u32::from(Self::TABLE) - 1)));
            let place = lanes.and(lanes.or(table, byte), is_table);
            found = lanes.select(is_table, lanes.gather_halves(tables, place), found);
        }
        found
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
    #[inline(always)]
    pub(super) fn find<L: Lanes>(&self, lanes: L, rows: L::W, columns: L::W) -> L::W {
        let numbers = Halves::new(&self.numbers);
        let row = lanes.mul(rows, lanes.splat(self.pitch));
        if self.blocks.is_empty() {
            return lanes.gather_halves(numbers, lanes.add(row, columns));
        }
        let block = lanes.add(row, lanes.shr::<{ BLOCK_SHIFT as i32 }>(columns));
        let block = lanes.gather_halves(Halves::new(&self.blocks), block);
        let within = lanes.and(columns, lanes.splat((1 << BLOCK_SHIFT) - 1));
        let place = lanes.add(lanes.shl::<{ BLOCK_SHIFT as i32 }>(block), within);
        lanes.gather_halves(numbers, place)
    }

    fn size_bytes(&self) -> usize {
        size_of_val(&*self.blocks) + size_of_val(&*self.numbers)
    }
}

/// Takes frames to their classes, as if all were IPv4 where any of eight is. Returns which are not, a
/// bit for each.
pub(super) struct ReadClasses<'a> {
    pub(super) maps: &'a [FlatMap; 2],
    pub(super) map: &'a ServiceMap,
    pub(super) headers: &'a [Headers],
    pub(super) classes: &'a mut [Column; 2],
    pub(super) services: &'a mut Column,
}

impl Kernel for ReadClasses<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let Self { maps: [src_map, dst_map], map, headers, classes, services } = self;
        let [src, dst] = classes;
        let mut others = 0;
        for group in 0..headers.len().min(MAX_BATCH).div_ceil(LANES) {
            let fields = lanes.fields(headers, group * LANES);
            let of_group = services::other_frames(lanes, fields.kind);
            others |= of_group << (group * LANES);
            lanes.store(services::classes(lanes, map, &fields), &mut services[group]);
            if of_group != u64::from(u8::MAX) {
                lanes.store(src_map.find(lanes, fields.src), &mut src[group]);
                lanes.store(dst_map.find(lanes, fields.dst), &mut dst[group]);
            }
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
        let [src, dst] = classes;
        let mut general = 0;
        for group in 0..frames.min(MAX_BATCH).div_ceil(LANES) {
            let (src, dst) = (lanes.load(&src[group]), lanes.load(&dst[group]));
            let row = pairs.find(lanes, src, dst);
            let rule = of_pairs.find(lanes, row, lanes.load(&services[group]));
            let is_general = lanes.equal(rule, lanes.splat(GENERAL.into()));
            general |= u64::from(lanes.bits(is_general)) << (group * LANES);
            let is_none = lanes.equal(rule, lanes.splat(NO_RULE.into()));
            let rule = lanes.select(is_none, lanes.splat(RuleId::DEFAULT.0), rule);
            lanes.store(rule, &mut rules[group]);
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
