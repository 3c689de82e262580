//! Rules of few addresses in blocks of eight, which are compared at once.
//!
//! A table names some leading bits of the source and of the destination. Its rules, whose prefixes
//! are at least as long, stand under those bits, up to eight in a place: a block. What finds no
//! place in a table goes to the next one, and what tests too few bits for any stands under the classes
//! of its service. A place says what the first rule of its block is, too: tables are gone through one
//! after the other, and what cannot come before the rule that is found already is not looked at.
//! The rules of a block whose addresses match are few. Of those the services are compared, and the first
//! one decides.
//!
//! So a lookup compares one block or two of the largest policies, where classes and the lists that
//! they lead to take ten cache lines. Groups of many addresses multiply, and stay in lists. Related to
//! tuple space search with merged tuples (TupleMerge: Daly and others, 2019) and to tables by
//! discriminating bits (DBTable: Liao and others, 2024).
//!
//! Addresses of IPv6 are looked up by the 32 bits that tell most of them apart, taken out and put side
//! by side, and compared in full where those bits and the service match.

use bytemuck::{Pod, Zeroable};

use super::choice::where_set;
use super::several::{PACKED, put};
use super::store::{Log, Store};
use super::tables::{CHECKED, NONE, Rows, join};
use super::{Classifier, Column, EMPTY_COLUMN, FOOTPRINTS, MAX_BATCH, ones, services};
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers, PolicyTime};
use crate::lanes::{Eight, Kernel, LANES, Lanes, Words};
use crate::policy::RuleId;

/// Tables of a family that there are at most, the lists by service among them.
pub(crate) const MOST_TABLES: usize = 16;

/// Rows of eight words that a block takes: sources, destinations, how much of them counts and the
/// service, and the ranks, [`NONE`] where there is no rule.
pub(crate) const BLOCK_ROWS: usize = 4;

/// The rows of a block, by name.
pub(crate) mod row {
    pub(crate) const SRC: usize = 0;
    pub(crate) const DST: usize = 1;
    pub(crate) const CONDITION: usize = 2;
    pub(crate) const RANK: usize = 3;
}

/// A block: two cache lines, which a lookup asks for before it reads them.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(128))]
pub(crate) struct Block(pub(crate) [Eight; BLOCK_ROWS]);

impl Block {
    pub(crate) const EMPTY: Self = {
        let mut rows = [[0; LANES]; BLOCK_ROWS];
        rows[row::RANK] = [NONE; LANES];
        Self(rows)
    };
}

/// What a block of IPv6 has besides: both addresses of each rule, how many of their bits count, and the
/// lower halves of the candidates. Those two share a line: what is compared in full mostly decides.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Full(pub(crate) [Eight; FULL_ROWS]);

/// Rows of eight words of a [`Full`].
pub(crate) const FULL_ROWS: usize = LANES + 2;

/// Bytes of a cache line: blocks and what they have besides take whole ones.
const LINE: usize = 64;

const _: () = assert!(size_of::<Block>() == 2 * LINE && align_of::<Block>() == 2 * LINE);
const _: () = assert!(size_of::<Full>() == 5 * LINE && align_of::<Full>() == LINE);

/// The rows of a [`Full`] behind the addresses, by name.
pub(crate) mod full_row {
    use crate::lanes::LANES;

    pub(crate) const SHIFTS: usize = LANES;
    pub(crate) const RULES: usize = LANES + 1;
}

/// Bits of the number of a block; above them a place has the upper bits of the least rank in it. The last
/// number stands for none.
pub(crate) const BLOCK_BITS: u32 = 20;
pub(crate) const BLOCK_MASK: u32 = (1 << BLOCK_BITS) - 1;

/// A place without a block.
pub(crate) const VACANT: u32 = u32::MAX;

/// A policy in blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks {
    /// Of IPv4 and of IPv6.
    pub(crate) families: [Family; 2],
    /// For frames that are not IP: the candidates with their services, in deciding order.
    pub(crate) others: Vec<(u64, u32)>,
}

/// The rules of one family of addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Family {
    /// What is taken out of addresses of IPv6, of sources and of destinations.
    pub(crate) masks: [u128; 2],
    pub(crate) tables: Vec<Table>,
    /// The places of all tables.
    pub(crate) slots: Store<u32>,
    /// The same of the lists by service: a place for each service class, as often as the longest has
    /// blocks.
    pub(crate) lists: Store<u32>,
    /// Service classes.
    pub(crate) classes: u32,
    /// Tables, and behind them lists, are gone through in rounds: up to which table each but the last
    /// one goes.
    pub(crate) rounds: Vec<usize>,
    /// The first block is empty, and in no place.
    pub(crate) rows: Store<Block>,
    /// Of IPv4 for each block the lower halves of its candidates.
    pub(crate) rules: Store<Eight>,
    /// Of IPv6 for each block.
    pub(crate) full: Store<Full>,
}

/// Where the places of a table are: the sum of the sides' leading bits, each times a factor, shifted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Table {
    /// How far addresses are shifted to the right, below 32.
    pub(crate) shifts: [u32; 2],
    /// Zero where no bits count.
    pub(crate) factors: [u32; 2],
    pub(crate) shift: u32,
    /// The first place in [`Family::slots`].
    pub(crate) first: u32,
}

impl Table {
    /// The place of a frame, or of a rule whose prefixes are long enough.
    pub(crate) fn place(&self, [src, dst]: [u32; 2]) -> u32 {
        let [src, dst] = [src >> self.shifts[0], dst >> self.shifts[1]];
        let sum = src.wrapping_mul(self.factors[0]).wrapping_add(dst.wrapping_mul(self.factors[1]));
        (sum >> self.shift) + self.first
    }

    #[inline(always)]
    fn places<L: Lanes>(&self, lanes: L, src: L::W, dst: L::W) -> L::W {
        let src = lanes
            .mul(lanes.shr_far(src, lanes.splat(self.shifts[0])), lanes.splat(self.factors[0]));
        let dst = lanes
            .mul(lanes.shr_far(dst, lanes.splat(self.shifts[1])), lanes.splat(self.factors[1]));
        let sum = lanes.add(src, dst);
        lanes.add(lanes.shr_far(sum, lanes.splat(self.shift)), lanes.splat(self.first))
    }
}

/// The key of an address of IPv6, leading bits first, from the bits that `mask` takes out of its upper
/// and its lower half. The mask has 32 bits at most.
#[inline(always)]
fn joined(upper: u64, lower: u64, mask: u128) -> u32 {
    let key = upper << ((mask as u64).count_ones() % 64) | lower;
    (key << (32 - mask.count_ones().min(32))) as u32
}

/// The same of a whole address.
pub(crate) fn key_of(address: u128, mask: u128) -> u32 {
    let taken = |shift: u32| {
        let (word, mask) = ((address >> shift) as u64, (mask >> shift) as u64);
        ones(mask).zip(0..).fold(0, |taken, (bit, place)| taken | (word >> bit & 1) << place)
    };
    joined(taken(64), taken(0), mask)
}

/// The footprints of addresses: flows keep them, so that an edit says by them which flows it is about.
/// Those of IPv4 are told apart by 24 bits, those of IPv6 by 48; what is not IP has the footprint 0.
pub(crate) const FOOTPRINT_BITS: [u32; 2] = [24, 48];

const MIX: u32 = 0x9e37_79b1;
const FOOTPRINT_SHIFT: u32 = 32 - FOOTPRINTS.ilog2();

/// The footprint of an address of IPv4 by its leading 24 bits, or of one of IPv6 by its leading 48.
#[inline(always)]
pub(crate) fn footprint(leading: u64) -> u32 {
    let mixed = (leading as u32) ^ ((leading >> 32) as u32).wrapping_mul(0x85eb_ca77);
    mixed.wrapping_mul(MIX) >> FOOTPRINT_SHIFT
}

/// Frames and blocks that are compared in one round: what is written beyond is not read.
const PAIRS: usize = MAX_BATCH * MOST_TABLES + LANES;

/// Rules whose addresses match, until their services are looked at.
const CANDIDATES: usize = 512;
const GROUPS: usize = CANDIDATES / LANES;

/// Bits of the number of a frame in a batch.
const FRAME_BITS: u32 = MAX_BATCH.ilog2();

const _: () = assert!(BLOCK_BITS + LANES.ilog2() + FRAME_BITS <= 32, "a candidate is one word");

/// The rules of a block, as candidates.
const EACH_RULE: Eight = {
    let mut each = [0; LANES];
    let mut place = 0;
    while place < LANES {
        each[place] = (place as u32) << FRAME_BITS;
        place += 1;
    }
    each
};

/// The working memory of a lookup.
#[repr(align(64))]
pub(super) struct Work {
    /// What is in the place of each frame in each table.
    places: [Column; MOST_TABLES],
    /// Which frames are to be compared with which blocks.
    frames: [u32; PAIRS],
    blocks: [u32; PAIRS],
    /// Rules whose addresses match: the frame below [`FRAME_BITS`], above it the block and the place of
    /// the rule in it.
    candidates: [u32; CANDIDATES],
    /// The same in columns: the frames, the ranks where the services are met, and the rules.
    frames_of: [Eight; GROUPS],
    ranks: [Eight; GROUPS],
    rules: [Eight; GROUPS],
    /// The least rank of each frame, and whose it is.
    best: Column,
    best_rules: Column,
    /// The addresses, or what is taken out of them.
    keys: [Column; 2],
    classes: Column,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            places: [EMPTY_COLUMN; MOST_TABLES],
            frames: [0; PAIRS],
            blocks: [0; PAIRS],
            candidates: [0; CANDIDATES],
            frames_of: [[0; LANES]; GROUPS],
            ranks: [[0; LANES]; GROUPS],
            rules: [[0; LANES]; GROUPS],
            best: EMPTY_COLUMN,
            best_rules: EMPTY_COLUMN,
            keys: [EMPTY_COLUMN; 2],
            classes: EMPTY_COLUMN,
        }
    }
}

/// Looks frames up: writes the lower halves of the candidates that decide to `rules`, [`NONE`] where
/// there is none, and footprints to `footprints`. Returns which frames are not IP: those are not
/// looked up.
pub(super) struct LookUp<'a> {
    pub(super) blocks: &'a Blocks,
    pub(super) map: &'a services::ServiceMap,
    pub(super) headers: &'a [Headers],
    pub(super) services: &'a mut Column,
    pub(super) footprints: &'a mut [Column; 2],
    pub(super) rules: &'a mut Column,
    pub(super) work: &'a mut Work,
}

impl Kernel for LookUp<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let Self { blocks, map, headers, services, footprints, rules, work } = self;
        let headers = &headers[..headers.len().min(MAX_BATCH)];
        let in_batch = u64::MAX >> (MAX_BATCH - headers.len().max(1));
        let others = read_fields(lanes, map, headers, services, footprints, work) & in_batch;
        let (v4, mut v6) = (in_batch & !others, 0);
        if v4 != 0 {
            look_up::<L, false>(lanes, &blocks.families[0], &map.rows, headers, v4, services, work);
        }
        if others != 0 {
            v6 = read_long(lanes, &blocks.families[1].masks, headers, others, footprints, work);
        }
        if v6 != 0 {
            look_up::<L, true>(lanes, &blocks.families[1], &map.rows, headers, v6, services, work);
        }
        for group in 0..headers.len().div_ceil(LANES) {
            let place = lanes.load(&work.best_rules[group]);
            let is_v6 = lanes.load(&SET_LANES[(v6 >> (group * LANES)) as usize & 0xff]);
            let is_none = lanes.equal(lanes.load(&work.best[group]), lanes.splat(NONE));
            let [short, long] = &blocks.families;
            let mut found = lanes.gather(short.rules.words(), place);
            if v6 != 0 {
                let of_block = lanes.mul(lanes.shr::<3>(place), lanes.splat(FULL_WORDS));
                let lane = lanes.and(place, lanes.splat(LANES as u32 - 1));
                let word = lanes.add(of_block, lanes.add(lane, lanes.splat(FULL_RULES_WORD)));
                found = lanes.select(is_v6, lanes.gather(long.full.words(), word), found);
            }
            lanes.store(lanes.or(found, is_none), &mut rules[group]);
        }
        others & !v6
    }
}

/// For each set of bits the words whose bits are set, as masks.
const SET_LANES: [Eight; 1 << LANES] = {
    let mut all = [[0; LANES]; 1 << LANES];
    let mut bits = 0;
    while bits < all.len() {
        let mut lane = 0;
        while lane < LANES {
            all[bits][lane] = if bits >> lane & 1 == 1 { u32::MAX } else { 0 };
            lane += 1;
        }
        bits += 1;
    }
    all
};

/// Puts the fields of frames in columns, as if all were of IPv4. Returns which are not.
#[inline(always)]
fn read_fields<L: Lanes>(
    lanes: L,
    map: &services::ServiceMap,
    headers: &[Headers],
    services: &mut Column,
    footprints: &mut [Column; 2],
    work: &mut Work,
) -> u64 {
    let stride = lanes.splat(map.rows.stride as u32);
    let mix = lanes.splat(MIX);
    let [of_src, of_dst] = footprints;
    let mut others = 0;
    for group in 0..headers.len().div_ceil(LANES) {
        let fields = lanes.fields(headers, group * LANES);
        others |= services::other_frames(lanes, fields.kind) << (group * LANES);
        let class = services::classes(lanes, map, &fields);
        lanes.store(class, &mut work.classes[group]);
        lanes.store(lanes.mul(class, stride), &mut services[group]);
        lanes.store(fields.src, &mut work.keys[0][group]);
        lanes.store(fields.dst, &mut work.keys[1][group]);
        for (of_side, address) in [(&mut *of_src, fields.src), (&mut *of_dst, fields.dst)] {
            let mixed = lanes.mul(lanes.shr::<8>(address), mix);
            lanes.store(lanes.shr::<{ FOOTPRINT_SHIFT as i32 }>(mixed), &mut of_side[group]);
        }
        lanes.store(lanes.splat(NONE), &mut work.best[group]);
        lanes.store(lanes.splat(0), &mut work.best_rules[group]);
    }
    others
}

/// Takes what is looked up out of the addresses of those of the frames `of` that are of IPv6, and
/// returns which are.
#[inline(always)]
fn read_long<L: Lanes>(
    lanes: L,
    masks: &[u128; 2],
    headers: &[Headers],
    of: u64,
    footprints: &mut [Column; 2],
    work: &mut Work,
) -> u64 {
    let mut v6 = 0;
    for frame in ones(of) {
        let Some(h) = headers.get(frame) else { continue };
        let is_v6 = h.ether_type == ETHER_IPV6;
        v6 |= u64::from(is_v6) << frame;
        for (side, address) in [h.src, h.dst].into_iter().enumerate() {
            let leading = (address >> (128 - FOOTPRINT_BITS[1])) as u64;
            let footprint = if is_v6 { footprint(leading) } else { 0 };
            footprints[side].as_flattened_mut()[frame] = footprint;
            let mask = masks[side];
            let upper = lanes.take_bits((address >> 64) as u64, (mask >> 64) as u64);
            let lower = lanes.take_bits(address as u64, mask as u64);
            work.keys[side].as_flattened_mut()[frame] = joined(upper, lower, mask);
        }
    }
    v6
}

/// Looks up the frames `of`, all of one family.
#[inline(always)]
fn look_up<L: Lanes, const FULL: bool>(
    lanes: L,
    family: &Family,
    service_rows: &Rows,
    headers: &[Headers],
    of: u64,
    services: &Column,
    work: &mut Work,
) {
    let groups = headers.len().div_ceil(LANES);
    let (slots, lists) = (family.slots.words(), family.lists.words());
    let chunks = family.lists.len() / (family.classes as usize).max(1);
    let tables = family.tables.len().min(MOST_TABLES);
    let all = (tables + chunks).min(MOST_TABLES);
    for group in 0..groups {
        let src = lanes.load(&work.keys[0][group]);
        let dst = lanes.load(&work.keys[1][group]);
        for (table, places) in family.tables.iter().zip(&mut work.places) {
            let place = table.places(lanes, src, dst);
            lanes.store(lanes.gather(slots, place), &mut places[group]);
        }
        let mut class = lanes.load(&work.classes[group]);
        for places in &mut work.places[tables..all] {
            lanes.store(lanes.gather(lists, class), &mut places[group]);
            class = lanes.add(class, lanes.splat(family.classes));
        }
    }
    let mut first = 0;
    for &end in family.rounds.iter().chain([&all]) {
        let count = find_blocks::<L, FULL>(lanes, family, groups, of, first..end.min(all), work);
        let mut done = 0;
        while done < count {
            let found;
            (done, found) = compare(lanes, family, work, done, count);
            choose::<L, FULL>(lanes, family, service_rows, headers, services, work, found);
        }
        first = end;
    }
}

/// Writes down which frames are to be compared with which blocks of some tables, and asks for those, and
/// for the numbers of their rules. Returns how many there are.
#[inline(always)]
fn find_blocks<L: Lanes, const FULL: bool>(
    lanes: L,
    family: &Family,
    groups: usize,
    of: u64,
    tables: std::ops::Range<usize>,
    work: &mut Work,
) -> usize {
    let mask = lanes.splat(BLOCK_MASK);
    let mut count = 0;
    for group in 0..groups {
        let of_group = (of >> (group * LANES)) as u32 & 0xff;
        let best = lanes.or(lanes.load(&work.best[group]), mask);
        let frames = lanes.add(lanes.load(&LANE_NUMBERS), lanes.splat((group * LANES) as u32));
        for places in work.places.get(tables.clone()).unwrap_or_default() {
            let place = lanes.load(&places[group]);
            let is_before = lanes.bits(lanes.below(place, best)) & of_group;
            let order = lanes.load(&PACKED[is_before as usize]);
            let block = lanes.and(place, mask);
            put(lanes, &mut work.frames, count, lanes.permute(frames, order));
            put(lanes, &mut work.blocks, count, lanes.permute(block, order));
            count += is_before.count_ones() as usize;
        }
    }
    let (rows, rules) = (family.rows.words(), family.rules.words());
    put(lanes, &mut work.blocks, count, lanes.splat(0));
    for group in 0..count.div_ceil(LANES) {
        let block = lanes.load(column(&work.blocks, group));
        let row = lanes.shl::<2>(block);
        lanes.prefetch_rows(rows, row);
        lanes.prefetch_rows(rows, lanes.add(row, lanes.splat(2)));
        // Those of IPv6 are beside what is compared in full, which `choose` asks for.
        if !FULL {
            lanes.prefetch_rows(rules, block);
        }
    }
    count
}

const LANE_NUMBERS: Eight = [0, 1, 2, 3, 4, 5, 6, 7];

/// Compares frames with their blocks, from pair `from` on up to `to`, and writes down the candidates.
/// Returns the next pair, as there may be no room for all, and how many candidates there are.
#[inline(always)]
fn compare<L: Lanes>(
    lanes: L,
    family: &Family,
    work: &mut Work,
    from: usize,
    to: usize,
) -> (usize, usize) {
    let mut found = 0;
    let Work { frames, blocks, candidates, keys: [src, dst], .. } = work;
    let (src, dst) = (src.as_flattened(), dst.as_flattened());
    let all = family.rows.items();
    let (low, each) = (lanes.splat(0x3f), lanes.load(&EACH_RULE));
    let pairs = frames.iter().zip(&*blocks).enumerate().take(to).skip(from);
    for (pair, (&frame, &block)) in pairs {
        if found > CANDIDATES - 2 * LANES {
            return (pair, found);
        }
        let Some(Block([sources, destinations, condition, _])) = all.get(block as usize) else {
            continue;
        };
        let lane = frame as usize % MAX_BATCH;
        let condition = lanes.load(condition);
        let s = lanes.xor(lanes.load(sources), lanes.splat(src[lane]));
        let d = lanes.xor(lanes.load(destinations), lanes.splat(dst[lane]));
        let s = lanes.shr_far(s, lanes.and(condition, low));
        let d = lanes.shr_far(d, lanes.and(lanes.shr::<8>(condition), low));
        let is_held = lanes.bits(lanes.equal(lanes.or(s, d), lanes.splat(0)));
        let first = lanes.splat(block << (FRAME_BITS + LANES.ilog2()) | frame);
        let order = lanes.load(&PACKED[is_held as usize]);
        put(lanes, candidates, found, lanes.permute(lanes.or(first, each), order));
        found += is_held.count_ones() as usize;
    }
    (to, found)
}

/// Lowers the best ranks to those of the candidates whose services are met.
#[inline(always)]
fn choose<L: Lanes, const FULL: bool>(
    lanes: L,
    family: &Family,
    service_rows: &Rows,
    headers: &[Headers],
    services: &Column,
    work: &mut Work,
    count: usize,
) {
    let candidates = &mut work.candidates;
    // Those behind the last one are of the empty block.
    put(lanes, candidates, count, lanes.splat(0));
    let services = Words::new(services.as_flattened());
    let rows = family.rows.words();
    let frame_bits = lanes.splat((1 << FRAME_BITS) - 1);
    for group in 0..count.div_ceil(LANES) {
        let candidate = lanes.load(column(&work.candidates, group));
        let frame = lanes.and(candidate, frame_bits);
        let rule = lanes.shr::<{ FRAME_BITS as i32 }>(candidate);
        // A block is four rows of eight words, and the rule's are in the last two.
        let lane = lanes.and(rule, lanes.splat(7));
        let word = lanes.add(lanes.shl::<2>(lanes.without(rule, lanes.splat(7))), lane);
        let condition = lanes.gather(rows, lanes.add(word, lanes.splat(CONDITION_WORD)));
        let rank = lanes.gather(rows, lanes.add(word, lanes.splat(RANK_WORD)));
        let service = lanes.gather(services, frame);
        let holds = service_rows.are_set(lanes, service, lanes.shr::<16>(condition));
        let rank = where_set(lanes, holds, rank);
        lanes.store(frame, &mut work.frames_of[group % GROUPS]);
        lanes.store(rank, &mut work.ranks[group % GROUPS]);
        lanes.store(rule, &mut work.rules[group % GROUPS]);
        if FULL {
            // What does not match is asked for too: that costs less than a branch.
            let first = lanes.mul(lanes.shr::<3>(rule), lanes.splat(FULL_ROWS as u32));
            let shifts = lanes.add(first, lanes.splat(full_row::SHIFTS as u32));
            lanes.prefetch_rows(family.full.words(), lanes.add(first, lane));
            lanes.prefetch_rows(family.full.words(), shifts);
        }
    }
    let Work { best, best_rules, frames_of, ranks, rules, .. } = work;
    let (best, best_rules) = (best.as_flattened_mut(), best_rules.as_flattened_mut());
    let words = count.div_ceil(LANES) * LANES;
    let found = frames_of.as_flattened().iter().zip(ranks.as_flattened());
    for ((&frame, &rank), &rule) in found.zip(rules.as_flattened()).take(words) {
        let frame = frame as usize % MAX_BATCH;
        // Not `&&`: which of them come first, no branch predictor can tell.
        let is_first =
            (rank < best[frame]) & (!FULL || family.holds_in_full(rule, headers.get(frame)));
        best_rules[frame] = if is_first { rule } else { best_rules[frame] };
        best[frame] = if is_first { rank } else { best[frame] };
    }
}

const CONDITION_WORD: u32 = (row::CONDITION * LANES) as u32;
const RANK_WORD: u32 = (row::RANK * LANES) as u32;
const FULL_WORDS: u32 = (FULL_ROWS * LANES) as u32;
const FULL_RULES_WORD: u32 = (full_row::RULES * LANES) as u32;

/// Eight words of a column.
#[inline(always)]
fn column<const N: usize>(words: &[u32; N], group: usize) -> &Eight {
    let groups: &[Eight] = bytemuck::cast_slice(&words[..N / LANES * LANES]);
    &groups[group % groups.len()]
}

impl Family {
    /// Whether the prefixes of a rule, by its block and its place in it, hold a frame's addresses of
    /// IPv6.
    #[inline(always)]
    fn holds_in_full(&self, rule: u32, headers: Option<&Headers>) -> bool {
        let block = self.full.items().get(rule as usize / LANES);
        let (Some(Full(block)), Some(headers)) = (block, headers) else {
            return false;
        };
        let lane = rule as usize % LANES;
        let [src, dst]: [u128; 2] = bytemuck::cast(block[lane]);
        let counts = |shift: u32, differing: u128| differing.checked_shr(shift).unwrap_or(0) == 0;
        let shifts = block[full_row::SHIFTS][lane];
        counts(shifts & 0xff, src ^ headers.src) && counts(shifts >> 8, dst ^ headers.dst)
    }

    /// What is in the places where rules for such a frame may stand.
    pub(crate) fn places_of(&self, keys: [u32; 2], class: u32) -> impl Iterator<Item = u32> + '_ {
        let slots = self.slots.items();
        let in_tables =
            self.tables.iter().filter_map(move |table| slots.get(table.place(keys) as usize));
        let lists = self.lists.items().iter().skip(class as usize);
        in_tables.chain(lists.step_by((self.classes as usize).max(1))).copied()
    }

    /// The rules of a block whose prefixes hold such a frame, of IPv6 as far as the keys say: where they
    /// stand, their services and candidates.
    pub(crate) fn held_in(
        &self,
        block: u32,
        keys: [u32; 2],
    ) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        let rows = self.rows.items().get(block as usize).into_iter();
        rows.flat_map(move |Block(rows)| {
            (0..LANES).filter_map(move |lane| {
                let (condition, rank) = (rows[row::CONDITION][lane], rows[row::RANK][lane]);
                let holds = |side: usize, shift: u32| {
                    (rows[side][lane] ^ keys[side]).checked_shr(shift & 0x3f).unwrap_or(0) == 0
                };
                if rank == NONE || !holds(row::SRC, condition) || !holds(row::DST, condition >> 8) {
                    return None;
                }
                let of_long =
                    || self.full.items().get(block as usize).map(|full| &full.0[full_row::RULES]);
                let rule = self.rules.items().get(block as usize).or_else(of_long)?[lane];
                let place = block * LANES as u32 + lane as u32;
                Some((place, condition >> 16, join(rank, rule)))
            })
        })
    }

    /// Takes the logs of all tables, see [`Store::take_written`].
    pub(super) fn take_written(&mut self) -> FamilyWritten {
        FamilyWritten {
            slots: self.slots.take_written(),
            lists: self.lists.take_written(),
            rows: self.rows.take_written(),
            rules: self.rules.take_written(),
            full: self.full.take_written(),
        }
    }

    /// Makes this copy equal to `other`, from which its tables differ at the places of `written`.
    fn catch_up(&mut self, other: &Self, written: &FamilyWritten) {
        self.classes = other.classes;
        self.rounds.clone_from(&other.rounds);
        self.slots.catch_up(&other.slots, &written.slots);
        self.lists.catch_up(&other.lists, &written.lists);
        self.rows.catch_up(&other.rows, &written.rows);
        self.rules.catch_up(&other.rules, &written.rules);
        self.full.catch_up(&other.full, &written.full);
    }

    fn size_bytes(&self) -> usize {
        size_of_val(&*self.tables)
            + self.slots.size_bytes()
            + self.lists.size_bytes()
            + self.rows.size_bytes()
            + self.rules.size_bytes()
            + self.full.size_bytes()
    }
}

/// The places of a family's tables that were written.
#[derive(Clone, Debug, Default)]
pub(super) struct FamilyWritten {
    slots: Log,
    lists: Log,
    rows: Log,
    rules: Log,
    full: Log,
}

impl FamilyWritten {
    /// Adds what was written later.
    pub(super) fn extend(&mut self, later: &Self) {
        self.slots.extend(&later.slots);
        self.lists.extend(&later.lists);
        self.rows.extend(&later.rows);
        self.rules.extend(&later.rules);
        self.full.extend(&later.full);
    }
}

impl Blocks {
    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        let families: usize = self.families.iter().map(Family::size_bytes).sum();
        size_of::<Self>() + families + size_of_val(&*self.others)
    }

    /// Makes its large tables as fast to read as they can be.
    pub(super) fn settle(&mut self) {
        for family in &mut self.families {
            family.slots.settle();
            family.rows.settle();
            family.rules.settle();
            family.full.settle();
        }
    }

    /// Makes this copy equal to `other`, from which its tables differ at the places of `written`.
    pub(super) fn catch_up(&mut self, other: &Self, written: &[FamilyWritten; 2]) {
        self.others.clone_from(&other.others);
        let families = self.families.iter_mut().zip(&other.families).zip(written);
        families.for_each(|((mine, other), written)| mine.catch_up(other, written));
    }
}

impl Classifier {
    /// The rule that decides a frame, whatever has to be compared exactly.
    #[inline(never)]
    pub(super) fn judge_exactly<'a>(
        &self,
        blocks: &'a Blocks,
        h: &Headers,
        at: PolicyTime,
    ) -> RuleId {
        let class = self.services.class_of(h);
        let row = class * self.services.rows.stride as u32;
        let holds = |candidate: u64, service: u32| {
            let rule = candidate as u32;
            let check = || self.checks.get((rule & !CHECKED) as usize).and_then(Option::as_ref);
            self.services.rows.is_set(row, service)
                && (rule & CHECKED == 0 || check().is_some_and(|check| check.holds(h, at)))
        };
        let [short, long] = &blocks.families;
        let held = |family: &'a Family, keys: [u32; 2]| {
            let places = family.places_of(keys, class).filter(|&place| place != VACANT);
            places.flat_map(move |place| family.held_in(place & BLOCK_MASK, keys))
        };
        let first = match h.ether_type {
            ETHER_IPV4 => {
                let found = held(short, [h.src as u32, h.dst as u32]);
                let held = found.filter(|&(_, service, candidate)| holds(candidate, service));
                held.map(|(_, _, candidate)| candidate).min()
            }
            ETHER_IPV6 => {
                let [src, dst] = long.masks;
                let found = held(long, [key_of(h.src, src), key_of(h.dst, dst)]);
                let held = found.filter(|&(place, service, candidate)| {
                    long.holds_in_full(place, Some(h)) && holds(candidate, service)
                });
                held.map(|(_, _, candidate)| candidate).min()
            }
            _ => {
                let mut found = blocks.others.iter();
                let first = found.find(|&&(candidate, service)| holds(candidate, service));
                first.map(|&(candidate, _)| candidate)
            }
        };
        first.map_or(RuleId::DEFAULT, |candidate| RuleId(candidate as u32 & !CHECKED))
    }
}
