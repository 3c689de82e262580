//! The immutable compiled form of a policy and its batched lookup.
//!
//! A classifier is made by [`crate::compile`]. It owns all that it needs: the policy that it came
//! from may be dropped. Edits write to a copy of it: see [`crate::compile::Compiler`].
//!
//! Each field group of a frame is first replaced by its class: source ([`addresses`]), destination
//! and service ([`services`]) each become one small number, equal for all values that the same
//! parts of rules hold. The class of a side leads to a [`tables::Record`]. There each part that a
//! rule has on that side is dealt with in one of three ways, whichever the compiler found cheapest:
//!
//! - *by class*: its rules are listed under every class that it holds;
//! - *by key*: its rules are listed once, under a key of its own, which every class that it holds
//!   names: what keeps groups of many members from being multiplied out;
//! - *wide*: its rules are listed under their other side, and compared by a bit of the class.
//!
//! Rules with two narrow sides stand in a hash table by the pair of their keys, rules with one
//! narrow side in the lines of that side's classes, and rules without one are found by intersecting
//! bits. What classes cannot say (VLANs, wires, times, combined conditions) is compared exactly,
//! by [`checks`]. All of it goes stage by stage over a batch, eight frames at a time
//! ([`crate::lanes`]), each stage asking for the cache lines that the next one reads.
//!
//! Small policies are crossed out as well, and then looked up in [`crossed`] tables, or in lists that
//! those lead to ([`shortlists`]). Policies of many rules with few addresses each have none of this: they
//! are put in [`blocks`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::headers::{ETHER_IPV6, Headers, Mac, PolicyTime};
use crate::lanes::{self, Eight, Kernel, LANES, Lanes};
use crate::policy::{Action, Pages, RuleId};

pub(crate) mod addresses;
pub(crate) mod blocks;
mod changes;
pub(crate) mod checks;
mod choice;
pub(crate) mod crossed;
pub(crate) mod prefixes;
pub(crate) mod services;
mod several;
pub(crate) mod shortlists;
pub(crate) mod store;
pub(crate) mod tables;
mod wide;

use addresses::AddressMap;
use blocks::{Blocks, FamilyWritten, LookUp, Work};
use checks::Check;
use choice::{Choice, Found};
use crossed::{Cross, Crossed, Decided, ReadClasses};
use prefixes::{FindRows, ReadRows};
use several::Several;
use shortlists::FindFirst;
use store::{Log, Store};
use tables::{CHECKED, Keys, Line, NONE, Pairs, Record, Rows};

pub use changes::{Changes, FOOTPRINTS, Footprint};

/// The largest batch that one call of [`Classifier::classify`] takes: a worker's burst.
pub const MAX_BATCH: usize = 64;

/// A compiled policy.
#[derive(Clone, Debug)]
pub struct Classifier {
    pub(crate) default: Action,
    pub(crate) actions: Store<Action>,
    pub(crate) ranks: Store<u32>,
    /// The rank of the first rule that tests a MAC address.
    pub(crate) first_mac_rank: Option<u32>,
    pub(crate) rules: usize,
    pub(crate) src: Side,
    pub(crate) dst: Side,
    pub(crate) services: Arc<services::ServiceMap>,
    pub(crate) pairs: Pairs,
    pub(crate) lines: Store<Line>,
    /// Whether every rule has two wide sides.
    pub(crate) is_all_wide: bool,
    /// The rules both of whose sides are wide: the bits of all [`Rows`]. In deciding order, or in that
    /// of their services first.
    pub(crate) wide_rules: Arc<Vec<u64>>,
    /// In the latter case the runs of rules, from the first up to the one behind the last, of the
    /// services that hold each service class.
    pub(crate) wide_runs: Option<Arc<Vec<[u32; 2]>>>,
    /// By the number of the rule, as far as there are any.
    pub(crate) checks: Pages<Option<Arc<Check>>>,
    /// The same policy in tables that are faster to look up, if it is small and was not edited.
    pub(crate) crossed: Option<Arc<Crossed>>,
    /// The policy in blocks of rules, if its rules have few addresses each. There is nothing in all
    /// the tables above but services and checks then.
    pub(crate) blocks: Option<Box<Blocks>>,
}

/// One side of a frame: its classes, and what they lead to.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) map: AddressMap,
    /// The classes of MAC addresses that rules name. Other ones have none.
    pub(crate) macs: Arc<HashMap<Mac, u32>>,
    /// By class.
    pub(crate) records: Store<Record>,
    pub(crate) keys: Store<Keys>,
    pub(crate) rows: Rows,
}

impl Side {
    fn size_bytes(&self) -> usize {
        self.map.size_bytes()
            + self.macs.capacity() * (size_of::<(Mac, u32)>() + 1)
            + self.records.size_bytes()
            + self.keys.size_bytes()
            + self.rows.size_bytes()
    }
}

/// One word for each lane of a batch.
type Column = [Eight; MAX_BATCH / LANES];

const EMPTY_COLUMN: Column = [[0; LANES]; MAX_BATCH / LANES];

/// A worker's working memory for lookups, so that the classifier itself is shared read-only. Its
/// size is fixed by [`MAX_BATCH`], not by the policy: one serves every classifier that a worker will
/// ever see, and [`Classifier::classify`] never allocates.
#[repr(align(64))]
pub struct Scratch {
    /// The addresses of IPv4 that are asked for, or what is taken out of those of IPv6.
    addresses: [Column; 2],
    /// Where the [`prefixes`] of IPv6 addresses are.
    rows: [Column; 2],
    /// The classes of the sides.
    classes: [Column; 2],
    /// Where the rows of the service classes begin, or in [`Crossed`] the classes themselves.
    services: Column,
    /// The rules that were found.
    rules: Column,
    choice: Choice,
    pairs: Several,
    work: Work,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            addresses: [EMPTY_COLUMN; 2],
            rows: [EMPTY_COLUMN; 2],
            classes: [EMPTY_COLUMN; 2],
            services: EMPTY_COLUMN,
            rules: EMPTY_COLUMN,
            choice: Choice::default(),
            pairs: Several::default(),
            work: Work::default(),
        }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl Scratch {
    /// Where the frame at `place` of the last batch was judged. Holds for [`Changes`] of the
    /// classifier that judged it and of those that edits make of it.
    pub fn footprint(&self, place: usize) -> Footprint {
        let [src, dst] = [0, 1].map(|side| self.classes[side].as_flattened()[place]);
        Footprint::of_classes(src, dst)
    }
}

/// Puts the addresses of a batch in columns, and takes the rest to where the rows of the service
/// classes begin, as if all were IP. Returns which frames are not IPv4, a bit for each.
struct Pack<'a> {
    map: &'a services::ServiceMap,
    headers: &'a [Headers],
    addresses: &'a mut [Column; 2],
    services: &'a mut Column,
}

impl Kernel for Pack<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let Self { map, headers, addresses, services } = self;
        let [src, dst] = addresses;
        let stride = map.rows.stride as u32;
        let mut others = 0;
        for group in 0..headers.len().min(MAX_BATCH).div_ceil(LANES) {
            let fields = lanes.fields(headers, group * LANES);
            others |= services::other_frames(lanes, fields.kind) << (group * LANES);
            let class = services::classes(lanes, map, &fields);
            lanes.store(lanes.mul(class, lanes.splat(stride)), &mut services[group]);
            lanes.store(fields.src, &mut src[group]);
            lanes.store(fields.dst, &mut dst[group]);
        }
        others
    }
}

/// Where frames that are not IPv4 are looked up.
struct Others<'a> {
    keys: &'a mut [Column; 2],
    rows: &'a mut [Column; 2],
    classes: &'a mut [Column; 2],
    services: &'a mut Column,
}

/// Puts the words of addresses in columns, the greatest first, and which are of IPv6, as masks.
struct Unpack6<'a> {
    headers: &'a [Headers],
    addresses: &'a mut [[Column; 4]; 2],
    is_v6: &'a mut Column,
}

impl Kernel for Unpack6<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { headers, addresses: [src, dst], is_v6 } = self;
        for group in 0..headers.len().min(MAX_BATCH).div_ceil(LANES) {
            let words = lanes.addresses(headers, group * LANES);
            for (place, (src, dst)) in src.iter_mut().zip(dst.iter_mut()).enumerate() {
                lanes.store(words[3 - place], &mut src[group]);
                lanes.store(words[7 - place], &mut dst[group]);
            }
            let kind = lanes.fields(headers, group * LANES).kind;
            let ether_type = lanes.and(kind, lanes.splat(0xffff));
            let of_group = lanes.equal(ether_type, lanes.splat(ETHER_IPV6.into()));
            lanes.store(of_group, &mut is_v6[group]);
        }
    }
}

/// The places of the bits that are set, ascending.
#[inline(always)]
pub(crate) fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (place < 64).then_some(place)
    })
}

/// The places of a classifier's tables that were written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    actions: Log,
    ranks: Log,
    sides: [SideWritten; 2],
    buckets: Log,
    marks: Log,
    lines: Log,
    blocks: [FamilyWritten; 2],
}

#[derive(Clone, Debug, Default)]
struct SideWritten {
    slots4: Log,
    tables4: Log,
    nodes4: Log,
    nodes6: Log,
    records: Log,
    keys: Log,
    rows: Log,
}

impl Written {
    /// How many words of rows of either side were written, unless all were.
    #[cfg(test)]
    pub(crate) fn row_words(&self) -> [Option<usize>; 2] {
        self.sides.each_ref().map(|side| side.rows.len())
    }

    /// Adds what was written later.
    pub(crate) fn extend(&mut self, later: &Self) {
        self.actions.extend(&later.actions);
        self.ranks.extend(&later.ranks);
        self.buckets.extend(&later.buckets);
        self.marks.extend(&later.marks);
        self.lines.extend(&later.lines);
        let families = self.blocks.iter_mut().zip(&later.blocks);
        families.for_each(|(mine, later)| mine.extend(later));
        for (mine, later) in self.sides.iter_mut().zip(&later.sides) {
            mine.slots4.extend(&later.slots4);
            mine.tables4.extend(&later.tables4);
            mine.nodes4.extend(&later.nodes4);
            mine.nodes6.extend(&later.nodes6);
            mine.records.extend(&later.records);
            mine.keys.extend(&later.keys);
            mine.rows.extend(&later.rows);
        }
    }
}

impl Classifier {
    /// Finds, for each of `headers` (at most [`MAX_BATCH`]), the first rule that is active at `at`
    /// and matches, and writes it to the same place of `out`, [`RuleId::DEFAULT`] where there is
    /// none. Equal to [`crate::oracle::classify`] for every input.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than `headers` or the batch is too large.
    pub fn classify(
        &self,
        headers: &[Headers],
        at: PolicyTime,
        scratch: &mut Scratch,
        out: &mut [RuleId],
    ) {
        assert!(headers.len() <= MAX_BATCH, "a batch of {} headers", headers.len());
        let out = &mut out[..headers.len()];
        if headers.is_empty() {
            return;
        }
        if let Some(blocks) = &self.blocks {
            return self.classify_blocks(blocks, headers, at, scratch, out);
        }
        let is_found = match &self.crossed {
            Some(crossed) => self.classify_crossed(crossed, headers, scratch, out),
            None => false,
        };
        if !is_found {
            self.classify_listed(headers, at, scratch, out);
        }
    }

    /// Looks a batch up in crossed tables. Whether they say what decides.
    pub(crate) fn classify_crossed(
        &self,
        crossed: &Crossed,
        headers: &[Headers],
        scratch: &mut Scratch,
        out: &mut [RuleId],
    ) -> bool {
        let Scratch { addresses, rows, classes, services, rules, .. } = scratch;
        let map = &self.services;
        let maps = &crossed.maps;
        let read = ReadClasses { maps, map, headers, addresses, classes, services };
        let others = lanes::run(read);
        let in_batch = u64::MAX >> (MAX_BATCH - headers.len());
        if others & in_batch != 0 {
            let columns = Others { keys: addresses, rows, classes: &mut *classes, services };
            self.find_others(headers, others & in_batch, 1, columns);
        }
        let (pairs, frames) = (&crossed.pairs, headers.len());
        let general = match &crossed.decided {
            Decided::ByService(of_pairs) => {
                lanes::run(Cross { pairs, of_pairs, classes, services, rules, frames })
            }
            Decided::ByLists(lists) => {
                let places = [addresses, rows];
                lanes::run(FindFirst { lists, pairs, classes, services, places, rules, frames })
            }
        };
        out.copy_from_slice(&bytemuck::cast_slice(rules.as_flattened())[..headers.len()]);
        general & in_batch == 0
    }

    /// Looks a batch up in blocks. Its footprints take the place of classes.
    fn classify_blocks(
        &self,
        blocks: &Blocks,
        headers: &[Headers],
        at: PolicyTime,
        scratch: &mut Scratch,
        out: &mut [RuleId],
    ) {
        let Scratch { services, classes: footprints, rules, work, .. } = scratch;
        let map = &*self.services;
        let others = lanes::run(LookUp { blocks, map, headers, services, footprints, rules, work });
        let mut exact = others;
        for ((frame, out), &rule) in out.iter_mut().enumerate().zip(rules.as_flattened()) {
            let is_checked = rule != NONE && rule & CHECKED != 0;
            exact |= u64::from(is_checked) << frame;
            *out = if rule == NONE { RuleId::DEFAULT } else { RuleId(rule & !CHECKED) };
        }
        for frame in ones(exact & (u64::MAX >> (MAX_BATCH - headers.len()))) {
            out[frame] = self.judge_exactly(blocks, &headers[frame], at);
        }
    }

    /// Looks a batch up in the lists of rules.
    fn classify_listed(
        &self,
        headers: &[Headers],
        at: PolicyTime,
        scratch: &mut Scratch,
        out: &mut [RuleId],
    ) {
        let groups = ..headers.len().div_ceil(LANES);
        let Scratch { addresses, rows, classes, services, choice, pairs, .. } = scratch;
        let map = &self.services;
        let in_batch = u64::MAX >> (MAX_BATCH - headers.len());
        let others = lanes::run(Pack { map, headers, addresses, services }) & in_batch;
        if others != in_batch {
            let sides = [&self.src, &self.dst].into_iter().zip(&*addresses).zip(&mut *classes);
            for ((side, addresses), classes) in sides {
                side.map.v4.find(&addresses[groups], &mut classes[groups]);
            }
        }
        if others != 0 {
            let stride = self.services.rows.stride as u32;
            let columns = Others { keys: addresses, rows, classes: &mut *classes, services };
            self.find_others(headers, others, stride, columns);
        }
        let [src, dst] = classes;
        let found = Found { src: &src[groups], dst: &dst[groups], services: &services[groups] };
        choice::choose(self, headers, at, found, choice, pairs, out);
    }

    /// The classes of frames that are not IPv4, those of services times `scale`.
    #[inline(never)]
    fn find_others(&self, headers: &[Headers], others: u64, scale: u32, columns: Others<'_>) {
        let Others { keys, rows, classes, services } = columns;
        let maps = [&self.src.map, &self.dst.map];
        let sides = maps.map(|map| map.prefixes6.as_deref());
        let v6 = lanes::run(FindRows { headers, sides, keys, found: &mut *rows });
        lanes::run(ReadRows { headers, sides, found: rows, classes });
        if sides.iter().any(Option::is_none) {
            self.find_in_trees(headers, classes);
        }
        for lane in ones(others & !v6) {
            let of_sides = maps.into_iter().zip(&mut *classes);
            of_sides.for_each(|(map, column)| column.as_flattened_mut()[lane] = map.non_ip);
            services.as_flattened_mut()[lane] = self.services.class_of(&headers[lane]) * scale;
        }
    }

    /// The classes of IPv6 addresses of the sides without [`prefixes`].
    #[inline(never)]
    fn find_in_trees(&self, headers: &[Headers], classes: &mut [Column; 2]) {
        let groups = headers.len().div_ceil(LANES);
        let (mut addresses, mut is_v6) = ([[EMPTY_COLUMN; 4]; 2], EMPTY_COLUMN);
        lanes::run(Unpack6 { headers, addresses: &mut addresses, is_v6: &mut is_v6 });
        let sides = [&self.src.map, &self.dst.map].into_iter().zip(&addresses).zip(classes);
        for ((map, addresses), classes) in sides.filter(|((map, _), _)| map.prefixes6.is_none()) {
            let addresses = addresses.each_ref().map(|column| &column[..groups]);
            map.find6(addresses, &is_v6[..groups], &mut classes[..groups]);
        }
    }

    /// Makes its large tables as fast to read as they can be, and forgets which places of them were
    /// written.
    pub(crate) fn settle(&mut self) {
        self.take_written();
        self.actions.settle();
        self.ranks.settle();
        self.pairs.buckets.settle();
        self.pairs.marks.settle();
        self.lines.settle();
        self.blocks.iter_mut().for_each(|blocks| blocks.settle());
        for side in [&mut self.src, &mut self.dst] {
            side.map.v4.slots.settle();
            side.map.v4.tables.settle();
            side.map.v4.nodes.settle();
            side.map.nodes6.settle();
            side.records.settle();
            side.keys.settle();
            side.rows.words.settle();
        }
    }

    /// Takes the logs of all tables, see [`Store::take_written`].
    pub(crate) fn take_written(&mut self) -> Written {
        let side = |side: &mut Side| SideWritten {
            slots4: side.map.v4.slots.take_written(),
            tables4: side.map.v4.tables.take_written(),
            nodes4: side.map.v4.nodes.take_written(),
            nodes6: side.map.nodes6.take_written(),
            records: side.records.take_written(),
            keys: side.keys.take_written(),
            rows: side.rows.words.take_written(),
        };
        let blocks = match &mut self.blocks {
            Some(blocks) => blocks.families.each_mut().map(blocks::Family::take_written),
            None => Default::default(),
        };
        Written {
            actions: self.actions.take_written(),
            ranks: self.ranks.take_written(),
            blocks,
            sides: [side(&mut self.src), side(&mut self.dst)],
            buckets: self.pairs.buckets.take_written(),
            marks: self.pairs.marks.take_written(),
            lines: self.lines.take_written(),
        }
    }

    /// Makes this copy equal to `other`, from which its tables differ at the places of `written`.
    pub(crate) fn catch_up(&mut self, other: &Self, written: &Written) {
        self.default = other.default;
        self.actions.catch_up(&other.actions, &written.actions);
        self.ranks.catch_up(&other.ranks, &written.ranks);
        self.first_mac_rank = other.first_mac_rank;
        self.rules = other.rules;
        self.services.clone_from(&other.services);
        self.is_all_wide = other.is_all_wide;
        self.wide_rules.clone_from(&other.wide_rules);
        self.wide_runs.clone_from(&other.wide_runs);
        self.checks.clone_from(&other.checks);
        self.crossed.clone_from(&other.crossed);
        match (&mut self.blocks, &other.blocks) {
            (Some(mine), Some(other)) => mine.catch_up(other, &written.blocks),
            (mine, other) => mine.clone_from(other),
        }
        self.pairs.homes = other.pairs.homes;
        self.pairs.buckets.catch_up(&other.pairs.buckets, &written.buckets);
        self.pairs.marks.catch_up(&other.pairs.marks, &written.marks);
        self.lines.catch_up(&other.lines, &written.lines);
        let sides = [(&mut self.src, &other.src), (&mut self.dst, &other.dst)];
        for ((mine, other), written) in sides.into_iter().zip(&written.sides) {
            mine.map.prefixes6.clone_from(&other.map.prefixes6);
            mine.map.root6 = other.map.root6;
            mine.map.non_ip = other.map.non_ip;
            mine.map.v4.slots.catch_up(&other.map.v4.slots, &written.slots4);
            mine.map.v4.tables.catch_up(&other.map.v4.tables, &written.tables4);
            mine.map.v4.nodes.catch_up(&other.map.v4.nodes, &written.nodes4);
            mine.map.nodes6.catch_up(&other.map.nodes6, &written.nodes6);
            mine.macs.clone_from(&other.macs);
            mine.records.catch_up(&other.records, &written.records);
            mine.keys.catch_up(&other.keys, &written.keys);
            (mine.rows.bits, mine.rows.stride) = (other.rows.bits, other.rows.stride);
            mine.rows.words.catch_up(&other.rows.words, &written.rows);
        }
    }

    /// The action of a rule, or of the default.
    pub fn action(&self, rule: RuleId) -> Action {
        self.actions.items().get(rule.0 as usize).copied().unwrap_or(self.default)
    }

    /// Whether `rule`, or a rule before it, tests a MAC address: a flow that `rule` decided has then
    /// to be classified again when its MAC addresses change.
    pub fn is_mac_sensitive(&self, rule: RuleId) -> bool {
        let rank = || self.ranks.items().get(rule.0 as usize).copied().unwrap_or(u32::MAX);
        self.first_mac_rank.is_some_and(|first| first <= rank())
    }

    /// The number of rules.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// Heap bytes of the tables whose entries edits take and give back.
    pub(crate) fn tables_bytes(&self) -> usize {
        self.src.size_bytes()
            + self.dst.size_bytes()
            + self.pairs.buckets.size_bytes()
            + self.pairs.marks.size_bytes()
            + self.lines.size_bytes()
    }

    /// Heap bytes that the compiled form takes.
    pub fn size_bytes(&self) -> usize {
        self.actions.size_bytes()
            + self.ranks.size_bytes()
            + self.tables_bytes()
            + self.services.size_bytes()
            + size_of_val(&**self.wide_rules)
            + self.wide_runs.iter().map(|runs| size_of_val(&***runs)).sum::<usize>()
            + self.checks.len() * size_of::<Option<Arc<Check>>>()
            + self.checks.iter().flatten().map(|check| check.size_bytes()).sum::<usize>()
            + self.crossed.iter().map(|crossed| crossed.size_bytes()).sum::<usize>()
            + self.blocks.iter().map(|blocks| blocks.size_bytes()).sum::<usize>()
    }
}
