//! Rules to blocks of eight: see [`crate::classifier::blocks`].
//!
//! Tables are chosen one after the other: of all pairs of numbers of leading bits the one under which
//! most of the rules find a place that the tables before have left.

use std::collections::HashMap;

use super::budget::Budget;
use super::lists::{DST, SRC, directions};
use super::map::Places;
use super::rows::ones;
use crate::classifier::blocks::{
    BLOCK_BITS, BLOCK_MASK, Block, Blocks, FULL_ROWS, Family, Full, MOST_TABLES, Table, VACANT,
    full_row, key_of, row,
};
use crate::classifier::services::ServiceMap;
use crate::classifier::tables::{CHECKED, NONE, join};
use crate::lanes::{Eight, LANES};
use crate::policy::{EndpointId, Policy, RuleId};
use crate::sets::{AddrSet, FiniteSet};

/// Rules that are too few for blocks to be worth it: lists stay in the second cache.
const FEW_RULES: usize = 5_000;

/// From so many on blocks are tried first; of fewer rules lists may be the faster form, and are where
/// more than one in [`FEW_LONG`] is of IPv6.
pub(super) const MANY_RULES: usize = 20_000;
const FEW_LONG: usize = 16;

/// Pairs of prefixes for each rule, on average, and beyond: with more, lists are smaller.
const ENTRIES_A_RULE: usize = 2;
const MORE_ENTRIES: usize = 256;

/// Rules for frames that are not IP: those are gone through one by one.
const MOST_OTHERS: usize = 64;

/// Leading bits that tables may name.
const LENGTHS: [u8; 13] = [0, 4, 8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32];

/// Leading bits of both sides up to which places need no hashing.
const DIRECT_BITS: u32 = 17;

/// Tables besides the lists by service, and of a policy of fewer than [`MANY_RULES`].
const MOST_HASHED: usize = 12;
const FEW_HASHED: usize = 4;

/// Entries that are left for the lists by service: so few are not worth a table, and more are too long
/// a list.
const LEFT: usize = 16;
const MOST_LEFT: usize = 512;

/// What blocks may take before lists are taken instead.
#[derive(Clone, Copy)]
struct Most {
    tables: usize,
    left: usize,
}

/// What a round and what a table costs, in blocks that a frame is compared with.
const ROUND: f64 = 0.3;
const TABLE: f64 = 0.1;

/// What a lookup may cost, in blocks, for it to be faster than lists.
const MOST_BLOCKS: f64 = 4.0;

/// Memory for each entry that has to be left for an edit: whatever it makes can then be compiled as
/// lists, too.
pub(super) const LISTED_BYTES: usize = 1 << 10;

/// The families of addresses, and what has none.
pub(super) const V4: usize = 0;
pub(super) const V6: usize = 1;
pub(super) const OTHERS: usize = 2;

/// A rule's prefix of sources and its prefix of destinations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Entry {
    /// [`V4`], [`V6`], or [`OTHERS`], which has no prefixes.
    pub(super) family: usize,
    /// From the highest bit on.
    pub(super) addresses: [u128; 2],
    pub(super) lengths: [u8; 2],
    pub(super) service: u32,
    /// The rank above the rule, with [`CHECKED`].
    pub(super) candidate: u64,
}

/// What it takes to keep blocks up to date.
#[derive(Debug)]
pub(super) struct BlockRules {
    families: [FamilyRules; 2],
    entries: usize,
    /// How many entries took how many bytes when all was compiled.
    planned: [usize; 2],
}

#[derive(Debug, Default)]
struct FamilyRules {
    /// The leading bits that each table names.
    lengths: Vec<[u8; 2]>,
    /// What stands in the lists by service, in deciding order.
    left: Vec<Entry>,
    /// How many those were when all was compiled.
    left_planned: usize,
    blocks: Places,
    of_lists: Vec<u32>,
}

/// Puts a policy in blocks, if that makes it faster, or in any case that it can be.
pub(super) fn build(
    policy: &Policy,
    map: &ServiceMap,
    in_any_case: bool,
    budget: &mut Budget,
) -> Option<(Blocks, BlockRules)> {
    if policy.rule_count() < FEW_RULES && !in_any_case {
        return None;
    }
    let entries = all_entries(policy, budget)?;
    let count: usize = entries.iter().map(Vec::len).sum();
    let is_large = policy.rule_count() >= MANY_RULES;
    if !in_any_case && !is_large && entries[V6].len() > count / FEW_LONG {
        return None;
    }
    let most = match (in_any_case, is_large) {
        (true, _) => Most { tables: MOST_HASHED, left: usize::MAX },
        (false, true) => Most { tables: MOST_HASHED, left: MOST_LEFT },
        (false, false) => Most { tables: FEW_HASHED, left: MOST_LEFT },
    };
    // What they are here and in a family that is being built.
    let held = count * (size_of::<Entry>() + size_of::<Keyed>());
    budget.spend(count, held).ok()?;
    let built = from_entries(entries, map, most, budget);
    budget.release(held);
    let (compared, blocks, rules) = built?;
    (compared <= MOST_BLOCKS || in_any_case).then_some((blocks, rules))
}

/// Puts entries in blocks. Returns how many of those a frame is compared with, on average, too.
fn from_entries(
    [short, long, others]: [Vec<Entry>; 3],
    map: &ServiceMap,
    most: Most,
    budget: &mut Budget,
) -> Option<(f64, Blocks, BlockRules)> {
    let count = short.len() + long.len() + others.len();
    let mut blocks = Blocks::default();
    let mut rules =
        BlockRules { families: Default::default(), entries: count, planned: [count, 0] };
    let mut compared = 0.0;
    for (number, entries) in [short, long].into_iter().enumerate() {
        let (family, of_family) = (&mut blocks.families[number], &mut rules.families[number]);
        let share = entries.len() as f64 / count.max(1) as f64;
        compared += share * of_family.build(family, number, entries, map, most, budget)?;
    }
    for entry in others {
        blocks.others.push((entry.candidate, entry.service));
    }
    rules.planned[1] = blocks.size_bytes();
    Some((compared, blocks, rules))
}

/// The entries of rules, those of each once and in an order that says nothing; [`None`] where they are
/// too many, for the budget too, or found by MAC addresses.
pub(super) fn entries_of(
    policy: &Policy,
    rules: impl IntoIterator<Item = RuleId>,
    budget: &mut Budget,
) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for_each_entry(policy, rules, budget, |entry| entries.push(entry))?;
    Some(entries)
}

/// Calls `found` with what [`entries_of`] gives. The budget is charged for what that takes meanwhile.
fn for_each_entry(
    policy: &Policy,
    rules: impl IntoIterator<Item = RuleId>,
    budget: &mut Budget,
    mut found: impl FnMut(Entry),
) -> Option<()> {
    let (mut prefixes, mut left) = (Prefixes::default(), most_entries(policy));
    let done = rules.into_iter().try_for_each(|id| {
        let entries = prefixes.entries_of(policy, id, budget)?;
        left = left.checked_sub(entries.len())?;
        entries.into_iter().for_each(&mut found);
        Some(())
    });
    budget.release(prefixes.bytes);
    done
}

/// Whether addresses are all that the sides of an endpoint ask for.
pub(super) fn is_plain(policy: &Policy, endpoint: u32) -> bool {
    policy.endpoint(EndpointId(endpoint)).boxes.iter().all(|of_box| of_box.is_plain())
}

/// The entries of all rules, by family and in deciding order.
fn all_entries(policy: &Policy, budget: &mut Budget) -> Option<[Vec<Entry>; 3]> {
    let mut entries = [const { Vec::new() }; 3];
    for_each_entry(policy, policy.order(), budget, |entry| entries[entry.family].push(entry))?;
    (entries[OTHERS].len() <= MOST_OTHERS).then_some(entries)
}

fn most_entries(policy: &Policy) -> usize {
    policy.rule_count() * ENTRIES_A_RULE + MORE_ENTRIES
}

/// The prefixes of one side.
#[derive(Debug)]
struct SidePrefixes {
    /// Of IPv4 and of IPv6: addresses from the highest bit on, and how many bits count. [`None`] where
    /// nobody has asked for them.
    families: [Option<Vec<(u128, u8)>>; 2],
    /// Whether there are any.
    has: [bool; 2],
    others: bool,
    is_plain: bool,
}

/// The prefixes of the endpoints that rules were found to use. Those of a family are made where the
/// other side of a rule has some too: they are then no more than the entries of that rule, and all of
/// them no more than twice all entries.
#[derive(Debug, Default)]
struct Prefixes {
    places: HashMap<u32, usize>,
    sides: Vec<SidePrefixes>,
    /// What the budget was charged.
    bytes: usize,
}

impl Prefixes {
    fn entries_of(
        &mut self,
        policy: &Policy,
        id: RuleId,
        budget: &mut Budget,
    ) -> Option<Vec<Entry>> {
        let rule = policy.rule(id)?;
        let most = most_entries(policy);
        let is_timed = rule.starts.is_some() || rule.expires.is_some();
        let is_plain = rule.vlans.is_any() && rule.wires.is_any() && !is_timed;
        let mut out = Vec::new();
        for (from, to) in directions(rule) {
            let [src, dst] = [self.side(policy, from)?, self.side(policy, to)?];
            let has = [src, dst].map(|side| self.sides[side].has);
            let shared = [V4, V6].map(|family| has[SRC][family] && has[DST][family]);
            for family in [V4, V6].into_iter().filter(|&family| shared[family]) {
                self.split(policy, (src, from), family, budget)?;
                self.split(policy, (dst, to), family, budget)?;
            }
            let [from, to] = [&self.sides[src], &self.sides[dst]];
            let is_checked = !(is_plain && from.is_plain && to.is_plain);
            let rule_number = id.0 | if is_checked { CHECKED } else { 0 };
            let entry = |family, [src, dst]: [(u128, u8); 2]| Entry {
                family,
                addresses: [src.0, dst.0],
                lengths: [src.1, dst.1],
                service: rule.service.0,
                candidate: join(policy.rank(id), rule_number),
            };
            for family in [V4, V6] {
                let (Some(from), Some(to)) = (&from.families[family], &to.families[family]) else {
                    continue;
                };
                if out.len() + from.len().saturating_mul(to.len()) > most {
                    return None;
                }
                for &src in from {
                    out.extend(to.iter().map(|&dst| entry(family, [src, dst])));
                }
            }
            if from.others && to.others {
                out.push(entry(OTHERS, [(0, 0); 2]));
            }
        }
        if out.len() > 1 {
            out.sort_unstable();
            out.dedup();
        }
        let bytes = out.len() * size_of::<Entry>();
        budget.spend(1 + out.len(), bytes).ok()?;
        self.bytes += bytes;
        Some(out)
    }

    /// Where the prefixes of an endpoint are.
    fn side(&mut self, policy: &Policy, endpoint: u32) -> Option<usize> {
        if let Some(&place) = self.places.get(&endpoint) {
            return Some(place);
        }
        let place = self.sides.len();
        self.sides.push(SidePrefixes::of(policy, endpoint)?);
        self.places.insert(endpoint, place);
        Some(place)
    }

    /// Makes the prefixes of a side in one family, unless they are there.
    fn split(
        &mut self,
        policy: &Policy,
        (side, endpoint): (usize, u32),
        family: usize,
        budget: &mut Budget,
    ) -> Option<()> {
        if self.sides[side].families[family].is_some() {
            return Some(());
        }
        let (most, mut out) = (most_entries(policy), Vec::new());
        for of_box in policy.endpoint(EndpointId(endpoint)).boxes.iter() {
            let AddrSet { v4, v6, .. } = &of_box.addrs;
            let v4 = v4.ranges().iter().map(|&(first, last)| {
                (u128::from(first) << 96, u128::from(last) << 96 | u128::MAX >> 32)
            });
            let v4 = v4.filter(|_| family == V4);
            let v6 = v6.ranges().iter().copied().filter(|_| family == V6);
            for (first, last) in v4.chain(v6) {
                let before = out.len();
                split(first, last, most, &mut out)?;
                let more = out.len() - before;
                let bytes = more * size_of::<(u128, u8)>();
                budget.spend(more, bytes).ok()?;
                self.bytes += bytes;
            }
        }
        // What several devices have is there once.
        out.sort_unstable();
        out.dedup();
        out.shrink_to_fit();
        self.sides[side].families[family] = Some(out);
        Some(())
    }
}

impl SidePrefixes {
    /// Without any prefixes yet; [`None`] where there are some that only MAC addresses tell.
    fn of(policy: &Policy, endpoint: u32) -> Option<Self> {
        let boxes = &policy.endpoint(EndpointId(endpoint)).boxes;
        if boxes.iter().any(|of_box| matches!(of_box.macs, FiniteSet::Only(_))) {
            return None;
        }
        let has_v4 = boxes.iter().any(|of_box| !of_box.addrs.v4.is_empty());
        let has_v6 = boxes.iter().any(|of_box| !of_box.addrs.v6.is_empty());
        Some(Self {
            families: [None, None],
            has: [has_v4, has_v6],
            others: boxes.iter().any(|of_box| of_box.addrs.non_ip),
            is_plain: is_plain(policy, endpoint),
        })
    }
}

/// Appends the prefixes that a range is made of.
fn split(first: u128, last: u128, most: usize, out: &mut Vec<(u128, u8)>) -> Option<()> {
    let mut next = Some(first);
    while let Some(start) = next.filter(|&start| start <= last) {
        let left = last - start;
        // One less than a power of two is all of a prefix.
        let fitting = if left == u128::MAX { 128 } else { (left + 1).ilog2() };
        let host_bits = start.trailing_zeros().min(fitting);
        out.push((start, (128 - host_bits) as u8));
        if out.len() > most {
            return None;
        }
        next = 1u128.checked_shl(host_bits).and_then(|size| start.checked_add(size));
    }
    Some(())
}

fn mask(length: u8) -> u128 {
    !u128::MAX.checked_shr(length.into()).unwrap_or(0)
}

impl Entry {
    /// Whether nothing that comes later and is in `other` can decide.
    fn covers(&self, other: &Self) -> bool {
        self.candidate as u32 & CHECKED == 0
            && (0..2).all(|side| {
                self.lengths[side] <= other.lengths[side]
                    && (self.addresses[side] ^ other.addresses[side]) & mask(self.lengths[side])
                        == 0
            })
    }

    fn rank(&self) -> u32 {
        (self.candidate >> 32) as u32
    }
}

/// An entry with the words that it is looked up by.
#[derive(Clone, Copy, Debug)]
struct Keyed {
    entry: Entry,
    keys: [u32; 2],
    lengths: [u8; 2],
}

impl Keyed {
    fn new(entry: Entry, masks: &[u128; 2]) -> Self {
        if entry.family == V4 {
            let keys = entry.addresses.map(|address| (address >> 96) as u32);
            return Self { entry, keys, lengths: entry.lengths };
        }
        let key = |side: usize| key_of(entry.addresses[side], masks[side]);
        let length = |side: usize| (masks[side] & mask(entry.lengths[side])).count_ones() as u8;
        Self { entry, keys: [key(0), key(1)], lengths: [length(0), length(1)] }
    }
}

/// The 32 bits, or fewer, that tell most of the addresses of one side apart: of neighbours the first
/// bits in which they differ.
fn telling_bits(entries: &[Entry], side: usize) -> u128 {
    let mut addresses: Vec<u128> = entries.iter().map(|entry| entry.addresses[side]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let mut counts = [(0u32, 0u32); 128];
    (0..).zip(&mut counts).for_each(|(bit, count)| count.1 = bit);
    for pair in addresses.windows(2) {
        counts[(pair[0] ^ pair[1]).leading_zeros() as usize].0 += 1;
    }
    counts.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let telling = counts.iter().take(32).filter(|(count, _)| *count > 0);
    telling.fold(0, |mask, (_, bit)| mask | 1 << (127 - bit))
}

/// A table before it has a place.
#[derive(Clone, Copy, Debug)]
struct Draft {
    lengths: [u8; 2],
    bits: u32,
    table: Table,
}

impl Draft {
    fn new([src, dst]: [u8; 2], entries: usize) -> Self {
        let direct = u32::from(src) + u32::from(dst);
        let wanted = (entries / 3).max(16).ilog2() + 1;
        let shifts = [src, dst].map(|length| 32 - u32::from(length.max(1)));
        let factor = |length: u8, factor: u32| if length == 0 { 0 } else { factor };
        let (bits, table) = if direct <= DIRECT_BITS.min(wanted + 1) {
            let factors = [factor(src, 1 << dst), factor(dst, 1)];
            (direct, Table { shifts, factors, ..Table::default() })
        } else {
            let bits = wanted.min(DIRECT_BITS);
            let factors = [factor(src, 0x9e37_79b1), factor(dst, 0x85eb_ca77)];
            (bits, Table { shifts, factors, shift: 32 - bits, ..Table::default() })
        };
        Self { lengths: [src, dst], bits, table }
    }

    /// The one that most entries find a place in, and how many do. Blocks of IPv6 are large: of two
    /// that hold about as many the one with fuller blocks is better.
    fn best(entries: &[Keyed], is_long: bool, budget: &mut Budget) -> Option<(Self, usize)> {
        let mut lengths = [[0usize; 33]; 33];
        for Keyed { lengths: [src, dst], .. } in entries {
            lengths[*src as usize][*dst as usize] += 1;
        }
        let mut drafts = Vec::new();
        for src in LENGTHS {
            for dst in LENGTHS {
                let of_src = lengths[src as usize..].iter();
                let eligible: usize = of_src.flat_map(|row| &row[dst as usize..]).sum();
                drafts.push((eligible, [src, dst]));
            }
        }
        drafts.sort_by_key(|&(eligible, [src, dst])| (std::cmp::Reverse(eligible), src + dst));
        let (mut best, mut most) = (None, 0);
        for (eligible, lengths) in drafts {
            if eligible <= most {
                break;
            }
            budget.spend(entries.len(), 0).ok()?;
            let draft = Self::new(lengths, eligible);
            let mut counts = vec![0u8; 1 << draft.bits];
            let (mut placed, mut blocks) = (0, 0);
            for entry in entries.iter().filter(|entry| takes(lengths, entry)) {
                let count = &mut counts[draft.table.place(entry.keys) as usize];
                if usize::from(*count) < LANES {
                    blocks += usize::from(*count == 0);
                    *count += 1;
                    placed += 1;
                }
            }
            let worth = placed - if is_long { blocks } else { 0 };
            if worth > most {
                (best, most) = (Some((draft, placed)), worth);
            }
        }
        best
    }
}

/// Whether the prefixes of an entry are as long as a table asks for.
fn takes(lengths: [u8; 2], entry: &Keyed) -> bool {
    lengths.into_iter().zip(entry.lengths).all(|(table, entry)| entry >= table)
}

impl FamilyRules {
    /// Puts entries in blocks. Returns how many of those a frame is compared with, on average.
    fn build(
        &mut self,
        family: &mut Family,
        number: usize,
        entries: Vec<Entry>,
        map: &ServiceMap,
        most: Most,
        budget: &mut Budget,
    ) -> Option<f64> {
        if number == V6 {
            family.masks = [0, 1].map(|side| telling_bits(&entries, side));
        }
        // The first block is that of no place.
        self.take_block(family, number)?;
        let masks = family.masks;
        let mut left: Vec<Keyed> =
            entries.into_iter().map(|entry| Keyed::new(entry, &masks)).collect();
        let samples = samples(&left, map);
        while left.len() > LEFT && self.lengths.len() < most.tables {
            let (draft, placed) = Draft::best(&left, number == V6, budget)?;
            if placed < left.len() / 3 {
                break;
            }
            let first = family.slots.len() as u32;
            let table = Table { first, ..draft.table };
            family.slots.grow(first as usize + (1 << draft.bits), VACANT);
            family.tables.push(table);
            self.lengths.push(draft.lengths);
            left.retain(|entry| {
                !takes(draft.lengths, entry)
                    || !self.insert_at(family, table.place(entry.keys), entry)
            });
        }
        if left.len() > most.left {
            return None;
        }
        self.left = left.into_iter().map(|keyed| keyed.entry).collect();
        self.left_planned = self.left.len();
        self.list(family, map)?;
        family.slots.forget_written();
        family.rows.forget_written();
        family.rules.forget_written();
        family.full.forget_written();
        Some(self.choose_rounds(family, &samples, map))
    }

    /// Chooses the rounds: with more of them fewer blocks are compared, as what is found in one may
    /// leave nothing to look for in the next. Returns what a lookup costs, in blocks.
    fn choose_rounds(&self, family: &mut Family, samples: &[Sample], map: &ServiceMap) -> f64 {
        let mut least = (f64::MAX, Vec::new());
        const ROUNDS: [&[usize]; 6] = [&[], &[1], &[2], &[1, 2], &[1, 3], &[1, 2, 3]];
        for rounds in ROUNDS {
            if rounds.last().is_some_and(|&last| last > self.lengths.len()) {
                continue;
            }
            let compared = samples.iter().map(|sample| sample.compared(family, rounds, map));
            let compared = compared.sum::<usize>() as f64 / samples.len().max(1) as f64;
            let cost = compared + ROUND * (rounds.len() + 1) as f64;
            if cost < least.0 {
                least = (cost, rounds.to_vec());
            }
        }
        family.rounds = least.1;
        let lists = family.lists.len() / (family.classes as usize).max(1);
        least.0 + TABLE * (self.lengths.len() + lists) as f64
    }

    /// Puts an entry in the first table with room for it, else in the lists by service, which have to
    /// be made anew then: whether that is so.
    fn insert(&mut self, family: &mut Family, entry: Entry) -> bool {
        let keyed = Keyed::new(entry, &family.masks);
        for (table, lengths) in self.lengths.clone().into_iter().enumerate() {
            let place = family.tables[table].place(keyed.keys);
            if takes(lengths, &keyed) && self.insert_at(family, place, &keyed) {
                return false;
            }
        }
        let place = self.left.partition_point(|left| left.candidate < entry.candidate);
        self.left.insert(place, entry);
        true
    }

    /// Takes an entry out. Whether the lists by service have to be made anew.
    fn remove(&mut self, family: &mut Family, entry: &Entry) -> bool {
        let keyed = Keyed::new(*entry, &family.masks);
        for (table, lengths) in self.lengths.clone().into_iter().enumerate() {
            let place = family.tables[table].place(keyed.keys);
            if takes(lengths, &keyed) && self.remove_at(family, place, &keyed) {
                return false;
            }
        }
        self.left.retain(|left| {
            left.candidate >> 32 != entry.candidate >> 32
                || (left.addresses, left.lengths) != (entry.addresses, entry.lengths)
        });
        true
    }

    /// Puts an entry in the block of a place, if that has room for it.
    fn insert_at(&mut self, family: &mut Family, place: u32, entry: &Keyed) -> bool {
        let mut word = *family.slots.get(place);
        if word == VACANT {
            let Some(block) = self.take_block(family, entry.entry.family) else { return false };
            word = !BLOCK_MASK | block;
        }
        let block = word & BLOCK_MASK;
        let ranks = &family.rows.get(block).0[row::RANK];
        let Some(lane) = ranks.iter().position(|&rank| rank == NONE) else { return false };
        write(family, block, lane, Some(entry));
        let word = word.min(entry.entry.rank() & !BLOCK_MASK | block);
        *family.slots.get_mut(place) = word;
        true
    }

    /// Takes an entry out of the block of a place, if it is there.
    fn remove_at(&mut self, family: &mut Family, place: u32, entry: &Keyed) -> bool {
        let word = *family.slots.get(place);
        if word == VACANT {
            return false;
        }
        let block = word & BLOCK_MASK;
        let held = (0..LANES).find(|&lane| is_at(family, block, lane, entry));
        let Some(lane) = held else { return false };
        write(family, block, lane, None);
        let ranks = &family.rows.get(block).0[row::RANK];
        let least = ranks.iter().copied().min().unwrap_or(NONE);
        *family.slots.get_mut(place) = if least == NONE {
            self.blocks.give_back(block);
            VACANT
        } else {
            least & !BLOCK_MASK | block
        };
        true
    }

    /// An empty block; [`None`] where there is no number left.
    fn take_block(&mut self, family: &mut Family, number: usize) -> Option<u32> {
        let block = self.blocks.take_place();
        if block >= BLOCK_MASK {
            return None;
        }
        let blocks = block as usize + 1;
        family.rows.grow(blocks, Block::EMPTY);
        if number == V6 {
            family.full.grow(blocks, Full([[0; LANES]; FULL_ROWS]));
        } else {
            family.rules.grow(blocks, [0; LANES]);
        }
        Some(block)
    }

    /// Puts what is left under the classes of its services, those that earlier ones cover left out.
    /// [`None`] where a class has more than there is room for.
    fn list(&mut self, family: &mut Family, map: &ServiceMap) -> Option<()> {
        for block in std::mem::take(&mut self.of_lists) {
            (0..LANES).for_each(|lane| write(family, block, lane, None));
            self.blocks.give_back(block);
        }
        let rows = &map.rows;
        let mut by_service: HashMap<u32, Vec<u32>> = HashMap::new();
        for (place, entry) in (0..).zip(&self.left) {
            by_service.entry(entry.service).or_default().push(place);
        }
        let mut lists: Vec<Vec<u32>> = Vec::new();
        // Classes of few services among many share their lists.
        let mut shared: HashMap<Vec<u32>, Vec<u32>> = HashMap::new();
        for words in rows.words.items().chunks_exact(rows.stride.max(1)) {
            let of_class = ones(&words[..rows.bits]).filter_map(|bit| by_service.get(&bit));
            let mut all: Vec<u32> = of_class.flatten().copied().collect();
            all.sort_unstable();
            if let Some(blocks) = shared.get(&all) {
                lists.push(blocks.clone());
                continue;
            }
            let mut list: Vec<Entry> = Vec::new();
            for &place in &all {
                let entry = &self.left[place as usize];
                if list.len() > LANES * MOST_TABLES {
                    return None;
                }
                if !list.iter().any(|earlier| earlier.covers(entry)) {
                    list.push(*entry);
                }
            }
            let mut places = Vec::new();
            for chunk in list.chunks(LANES) {
                let block = self.take_block(family, chunk[0].family)?;
                self.of_lists.push(block);
                for (lane, &entry) in chunk.iter().enumerate() {
                    let keyed = Keyed::new(entry, &family.masks);
                    write(family, block, lane, Some(&keyed));
                }
                places.push(chunk[0].rank() & !BLOCK_MASK | block);
            }
            lists.push(places.clone());
            shared.insert(all, places);
        }
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        if longest + self.lengths.len() > MOST_TABLES {
            return None;
        }
        let chunk =
            |chunk: usize| lists.iter().map(move |list| list.get(chunk).copied().unwrap_or(VACANT));
        family.lists.replace((0..longest).flat_map(chunk).collect());
        family.classes = lists.len() as u32;
        Some(())
    }
}

/// Writes an entry to a place of a block, or that there is none.
fn write(family: &mut Family, block: u32, lane: usize, entry: Option<&Keyed>) {
    let mut words = [0, 0, 0, NONE];
    let mut rule = 0;
    let mut full = ([0; LANES], 0);
    if let Some(Keyed { entry, keys, lengths }) = entry {
        let [src, dst] = lengths.map(|length| 32 - u32::from(length));
        words = [keys[0], keys[1], src | dst << 8 | entry.service << 16, entry.rank()];
        rule = entry.candidate as u32;
        let [src, dst] = entry.lengths.map(|length| 128 - u32::from(length));
        full = (bytemuck::cast(entry.addresses), src | dst << 8);
    }
    let Block(rows) = family.rows.get_mut(block);
    rows.iter_mut().zip(words).for_each(|(row, word)| row[lane] = word);
    if family.full.len() == 0 {
        family.rules.get_mut(block)[lane] = rule;
        return;
    }
    let Full(rows) = family.full.get_mut(block);
    (rows[lane], rows[full_row::SHIFTS][lane]) = full;
    rows[full_row::RULES][lane] = rule;
}

/// Whether an entry stands at a place of a block.
fn is_at(family: &Family, block: u32, lane: usize, entry: &Keyed) -> bool {
    let word = |row: usize| family.rows.get(block).0[row][lane];
    let [src, dst] = entry.lengths.map(|length| 32 - u32::from(length));
    let is_same = word(row::RANK) == entry.entry.rank()
        && [word(row::SRC), word(row::DST)] == entry.keys
        && word(row::CONDITION) & 0xffff == src | dst << 8;
    if !is_same || entry.entry.family != V6 {
        return is_same;
    }
    let Full(full) = family.full.get(block);
    let addresses: [u128; 2] = bytemuck::cast::<Eight, _>(full[lane]);
    let [src, dst] = entry.entry.lengths.map(|length| 128 - u32::from(length));
    addresses == entry.entry.addresses && full[full_row::SHIFTS][lane] == src | dst << 8
}

/// A frame that some rule holds.
struct Sample {
    keys: [u32; 2],
    class: u32,
}

/// Addresses in rules, as frames have them, and services.
fn samples(entries: &[Keyed], map: &ServiceMap) -> Vec<Sample> {
    let rows = &map.rows;
    let mut classes: HashMap<u32, u32> = HashMap::new();
    for (class, words) in (0..).zip(rows.words.items().chunks_exact(rows.stride.max(1))) {
        ones(&words[..rows.bits]).for_each(|service| {
            classes.insert(service, class);
        });
    }
    let step = (entries.len() / 1024).max(1);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let sample = |entry: &Keyed| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let host = [(random >> 32) as u32, (random >> 16) as u32];
        let key = |side: usize| {
            let host_bits = u32::MAX.checked_shr(entry.lengths[side].into()).unwrap_or(0);
            entry.keys[side] | host[side] & host_bits
        };
        let class = *classes.get(&entry.entry.service)?;
        Some(Sample { keys: [key(0), key(1)], class })
    };
    entries.iter().step_by(step).filter_map(sample).collect()
}

impl Sample {
    /// How many blocks it is compared with.
    fn compared(&self, family: &Family, rounds: &[usize], map: &ServiceMap) -> usize {
        let row = self.class * map.rows.stride as u32;
        let (mut best, mut next, mut compared) = (NONE, NONE, 0);
        for (table, word) in family.places_of(self.keys, self.class).enumerate() {
            if rounds.contains(&table) {
                best = next;
            }
            if word >= best | BLOCK_MASK {
                continue;
            }
            compared += 1;
            for (_, service, candidate) in family.held_in(word & BLOCK_MASK, self.keys) {
                if map.rows.is_set(row, service) {
                    next = next.min((candidate >> 32) as u32);
                }
            }
        }
        compared
    }
}

impl BlockRules {
    /// Takes out and puts in entries of rules. [`None`] where all has to be compiled as a whole.
    pub(super) fn replace(
        &mut self,
        policy: &Policy,
        blocks: &mut Blocks,
        map: &ServiceMap,
        [gone, new]: [&[Entry]; 2],
        services_changed: bool,
    ) -> Option<()> {
        let mut is_listed = [services_changed; 2];
        for entry in gone {
            if entry.family == OTHERS {
                blocks.others.retain(|other| other.0 >> 32 != entry.candidate >> 32);
                continue;
            }
            let family = &mut blocks.families[entry.family];
            is_listed[entry.family] |= self.families[entry.family].remove(family, entry);
        }
        for &entry in new {
            if entry.family == OTHERS {
                let place = blocks.others.partition_point(|other| other.0 < entry.candidate);
                blocks.others.insert(place, (entry.candidate, entry.service));
                continue;
            }
            let family = &mut blocks.families[entry.family];
            is_listed[entry.family] |= self.families[entry.family].insert(family, entry);
        }
        self.entries = (self.entries + new.len()).saturating_sub(gone.len());
        if self.entries > most_entries(policy) || blocks.others.len() > MOST_OTHERS {
            return None;
        }
        let families = self.families.iter_mut().zip(&mut blocks.families);
        for ((rules, family), _) in families.zip(is_listed).filter(|(_, is_listed)| *is_listed) {
            if rules.left.len() > 2 * rules.left_planned + 64 {
                return None;
            }
            rules.list(family, map)?;
        }
        let [entries, bytes] = self.planned.map(|planned| planned as u128);
        let needed = bytes * (self.entries as u128 + 64) / (entries + 64);
        (blocks.size_bytes() as u128 <= needed * 6 / 5 + (1 << 14)).then_some(())
    }

    /// Makes the lists by service anew. [`None`] where they are too long.
    pub(super) fn list(&mut self, blocks: &mut Blocks, map: &ServiceMap) -> Option<()> {
        let mut families = self.families.iter_mut().zip(&mut blocks.families);
        families.try_for_each(|(rules, family)| rules.list(family, map))
    }

    /// Entries that there are.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }
}

const _: () = assert!(BLOCK_BITS < 32, "ranks are above the numbers of blocks");

#[cfg(test)]
pub(super) mod tests;
