//! The immutable compiled form of a policy and its batched lookup.
//!
//! A classifier is made by [`crate::compile`]. It owns all that it needs: the policy that it came
//! from may be dropped. A clone shares its tables, and an edit of one copies only the pages that it
//! changes: see [`crate::compile::Compiler`].
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
//! by [`checks`]. All of it goes stage by stage over a batch, each stage asking for the cache lines
//! that the next one reads.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::headers::{Headers, Mac, PolicyTime};
use crate::intrinsics::{equal_pairs, prefetch};
use crate::policy::{Action, RuleId};

pub(crate) mod addresses;
mod changes;
pub(crate) mod checks;
pub(crate) mod services;
pub(crate) mod store;
pub(crate) mod tables;

use addresses::{AddressMap, Search, Target};
use checks::Check;
use store::Store;
use tables::{Bucket, CHECKED, Keys, LINES, Line, NONE, NOTHING, Pairs, Record, Rows};

pub use changes::{Changes, FOOTPRINTS, Footprint};

/// The largest batch that one call of [`Classifier::classify`] takes: a worker's burst.
pub const MAX_BATCH: usize = 64;

/// A compiled policy.
#[derive(Clone, Debug)]
pub struct Classifier {
    pub(crate) default: Action,
    pub(crate) actions: Arc<Vec<Action>>,
    pub(crate) ranks: Arc<Vec<u32>>,
    /// The rank of the first rule that tests a MAC address.
    pub(crate) first_mac_rank: Option<u32>,
    pub(crate) rules: usize,
    pub(crate) src: Side,
    pub(crate) dst: Side,
    pub(crate) services: Arc<services::ServiceMap>,
    pub(crate) pairs: Pairs,
    pub(crate) lines: Store<Line>,
    /// The rules both of whose sides are wide, in deciding order: the bits of all [`Rows`].
    pub(crate) wide_rules: Arc<Vec<u64>>,
    /// By the number of the rule.
    pub(crate) checks: Arc<Vec<Option<Arc<Check>>>>,
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

/// A worker's working memory for lookups, so that the classifier itself is shared read-only. Its
/// size is fixed by [`MAX_BATCH`], not by the policy: one serves every classifier that a worker will
/// ever see, and [`Classifier::classify`] never allocates.
pub struct Scratch {
    src: Search,
    dst: Search,
    services: [u32; MAX_BATCH],
    probes: [Probe; PROBES],
}

/// Pairs of keys of a batch that there is room for.
const PROBES: usize = 8 * MAX_BATCH;

/// A pair of keys to look up, and where.
#[derive(Clone, Copy, Default)]
struct Probe {
    src: u32,
    dst: u32,
    home: u32,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            src: Search::default(),
            dst: Search::default(),
            services: [0; MAX_BATCH],
            probes: [Probe::default(); PROBES],
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
        Footprint::of_classes(self.src.found[place].place(), self.dst.found[place].place())
    }
}

/// The places of a classifier's tables that were written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    sides: [SideWritten; 2],
    buckets: Vec<u32>,
    lines: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct SideWritten {
    slots4: Vec<u32>,
    tables4: Vec<u32>,
    nodes4: Vec<u32>,
    nodes6: Vec<u32>,
    records: Vec<u32>,
    keys: Vec<u32>,
    rows: Vec<u32>,
}

impl Written {
    /// Adds what was written later.
    pub(crate) fn extend(&mut self, later: &Self) {
        self.buckets.extend(&later.buckets);
        self.lines.extend(&later.lines);
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

/// Where the rules for one frame stand.
#[derive(Clone)]
struct Lists<'a> {
    src: &'a Record,
    dst: &'a Record,
    /// Where there is one pair of keys, the start of its chain.
    bucket: Option<&'a Bucket>,
    lines: [&'a Line; 2],
    /// Where there are several, which probes they are.
    probes: Range<usize>,
}

impl Lists<'_> {
    const EMPTY: Self = Self {
        src: &Record::EMPTY,
        dst: &Record::EMPTY,
        bucket: None,
        lines: [&Line::EMPTY; 2],
        probes: 0..0,
    };
}

/// A frame and what its candidates are compared with.
#[derive(Clone, Copy)]
struct Frame<'a> {
    headers: &'a Headers,
    at: PolicyTime,
    /// Where its row of services begins.
    services: u32,
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
        // Each stage is a function of its own: together they would have more to keep at hand than
        // there are registers.
        let Scratch { src, dst, services, probes } = scratch;
        self.src.map.enter(headers, |h| h.src, src);
        self.dst.map.enter(headers, |h| h.dst, dst);
        self.services.rows_of(headers, services);
        self.src.map.finish(headers, |h| h.src, src);
        self.dst.map.finish(headers, |h| h.dst, dst);
        let mut lists = [const { Lists::EMPTY }; MAX_BATCH];
        let lists = &mut lists[..headers.len()];
        self.read_classes(&src.found, &dst.found, lists);
        self.read_records(lists);
        self.read_keys(lists, probes);
        self.decide_all(headers, at, services, lists, probes, out);
    }

    /// Which pairs of keys have to be looked up for classes of several; asks for them.
    #[inline(never)]
    fn read_keys(&self, lists: &mut [Lists<'_>], probes: &mut [Probe; PROBES]) {
        let mut count = 0;
        for lists in lists.iter_mut().filter(|lists| lists.bucket.is_none()) {
            let first = count;
            self.for_each_pair(lists.src, lists.dst, |src, dst| {
                let home = self.pairs.home(src, dst);
                self.pairs.buckets.prefetch(home);
                // Those for which there is no room count too, and are looked up without this help.
                if let Some(probe) = probes.get_mut(count) {
                    *probe = Probe { src, dst, home };
                }
                count += 1;
            });
            lists.probes = first..count;
        }
    }

    /// What the classes lead to.
    #[inline(never)]
    fn read_classes<'c>(
        &'c self,
        src: &[Target; MAX_BATCH],
        dst: &[Target; MAX_BATCH],
        lists: &mut [Lists<'c>],
    ) {
        for ((lists, s), d) in lists.iter_mut().zip(src).zip(dst) {
            lists.src = self.src.records.get(s.place());
            lists.dst = self.dst.records.get(d.place());
            prefetch(lists.src);
            prefetch(lists.dst);
        }
    }

    /// Where the rules for the records stand.
    #[inline(never)]
    fn read_records<'c>(&'c self, lists: &mut [Lists<'c>]) {
        for lists in lists {
            self.read_record(lists);
        }
    }

    #[inline(never)]
    fn decide_all(
        &self,
        headers: &[Headers],
        at: PolicyTime,
        services: &[u32; MAX_BATCH],
        lists: &[Lists<'_>],
        probes: &[Probe; PROBES],
        out: &mut [RuleId],
    ) {
        let has_macs = !self.src.macs.is_empty() || !self.dst.macs.is_empty();
        for (((headers, lists), service), out) in headers.iter().zip(lists).zip(services).zip(out) {
            let frame = Frame { headers, at, services: *service };
            let mut best = NOTHING;
            self.decide(lists, probes, &frame, &mut best);
            if has_macs {
                self.look_up_macs(lists.src, lists.dst, &frame, &mut best);
            }
            *out = if best == NOTHING { RuleId::DEFAULT } else { RuleId(best as u32 & !CHECKED) };
        }
    }

    /// Where the rules for two classes stand; asks for it.
    #[inline(always)]
    fn read_record<'c>(&'c self, lists: &mut Lists<'c>) {
        let (s, d) = (lists.src, lists.dst);
        lists.lines = [self.lines.get(s.lines), self.lines.get(d.lines)];
        prefetch(lists.lines[0]);
        prefetch(lists.lines[1]);
        if (s.keys & d.keys) == NONE {
            let bucket = self.pairs.buckets.get(self.pairs.home(s.key, d.key));
            prefetch(bucket);
            lists.bucket = Some(bucket);
        } else {
            if s.keys != NONE {
                self.src.keys.prefetch(s.keys);
            }
            if d.keys != NONE {
                self.dst.keys.prefetch(d.keys);
            }
        }
    }

    /// Lowers `best` to the first rule that two classes lead to and that matches.
    ///
    /// What is there most often, one rule or none in each place, is looked at without a branch: which
    /// of the two it is, no branch predictor can tell, and a wrong guess costs more than the look.
    #[inline(always)]
    fn decide<'c>(
        &'c self,
        lists: &Lists<'c>,
        probes: &[Probe; PROBES],
        frame: &Frame<'_>,
        best: &mut u64,
    ) {
        let (s, d) = (lists.src, lists.dst);
        let [from_src, from_dst] = lists.lines;
        let of_src = self.first_of_line(from_src, &self.dst.rows, d.wide, frame);
        let of_dst = self.first_of_line(from_dst, &self.src.rows, s.wide, frame);
        // All conditions are computed and then joined, not asked for one after the other.
        let is_checked =
            |candidate: u64| (candidate as u32 & CHECKED != 0) & (candidate != NOTHING);
        let mut is_rare = is_checked(of_src) | is_checked(of_dst);
        let mut least = of_src.min(of_dst);
        match lists.bucket {
            Some(bucket) => {
                let hits = equal_pairs(&bucket.0, s.key, d.key);
                let slot = (hits | 1 << (tables::BUCKET - 1)).trailing_zeros() as usize;
                let service = bucket.service(slot);
                let holds = (hits != 0) & self.services.rows.is_set(frame.services, service);
                let candidate = bucket.candidate(slot) | u64::from(holds).wrapping_sub(1);
                least = least.min(candidate);
                is_rare |= is_checked(candidate)
                    | (hits & hits.wrapping_sub(1) != 0)
                    | (bucket.next() != NONE)
                    | ((hits != 0) & (service == LINES));
            }
            None => is_rare = true,
        }
        is_rare |= (from_src.candidates[1] < least) | (from_dst.candidates[1] < least);
        if is_rare {
            match lists.bucket {
                Some(bucket) => self.look_up_pair(bucket, s.key, d.key, frame, best),
                None => self.look_up_probes(lists, probes, frame, best),
            }
            self.scan(from_src, &self.dst.rows, d.wide, frame, best);
            self.scan(from_dst, &self.src.rows, s.wide, frame, best);
        } else {
            *best = least;
        }
        if !self.wide_rules.is_empty() {
            self.intersect(s, d, frame, best);
        }
    }

    /// The first candidate of a line, if it matches but for what has to be checked.
    #[inline(always)]
    fn first_of_line(&self, line: &Line, rows: &Rows, wide: u32, frame: &Frame<'_>) -> u64 {
        let conditions = line.conditions[0];
        let holds = self.services.rows.is_set(frame.services, conditions & 0xffff)
            & rows.is_set(wide, conditions >> 16);
        line.candidates[0] | u64::from(holds).wrapping_sub(1)
    }

    /// Lowers `best` to the first rule that is listed under any of the probes of a lane and matches.
    fn look_up_probes(
        &self,
        lists: &Lists<'_>,
        probes: &[Probe; PROBES],
        frame: &Frame<'_>,
        best: &mut u64,
    ) {
        match probes.get(lists.probes.clone()) {
            Some(probes) => {
                for probe in probes {
                    let bucket = self.pairs.buckets.get(probe.home);
                    self.look_up_pair(bucket, probe.src, probe.dst, frame, best);
                }
            }
            None => self.look_up_pairs(lists.src, lists.dst, frame, best),
        }
    }

    /// Lowers `best` to the first rule that is listed under any pair of keys of two classes and
    /// matches.
    #[inline(never)]
    fn look_up_pairs(&self, s: &Record, d: &Record, frame: &Frame<'_>, best: &mut u64) {
        self.for_each_pair(s, d, |src, dst| {
            let bucket = self.pairs.buckets.get(self.pairs.home(src, dst));
            self.look_up_pair(bucket, src, dst, frame, best);
        });
    }

    /// Lowers `best` to the first rule that is listed under a pair of keys and matches.
    #[inline(always)]
    fn look_up_pair<'c>(
        &'c self,
        mut bucket: &'c Bucket,
        src: u32,
        dst: u32,
        frame: &Frame<'_>,
        best: &mut u64,
    ) {
        loop {
            let mut slots = equal_pairs(&bucket.0, src, dst);
            while slots != 0 {
                let slot = slots.trailing_zeros() as usize;
                let service = bucket.service(slot);
                let candidate = bucket.candidate(slot);
                if service == LINES {
                    self.scan_services(self.lines.get(candidate as u32), frame, best);
                } else if self.services.rows.is_set(frame.services, service) {
                    self.consider(candidate, frame, best);
                }
                slots &= slots - 1;
            }
            if bucket.next() == NONE {
                return;
            }
            bucket = self.pairs.buckets.get(bucket.next());
        }
    }

    /// Calls `found` for every pair of keys of two classes that may be listed.
    #[inline(always)]
    fn for_each_pair(&self, src: &Record, dst: &Record, mut found: impl FnMut(u32, u32)) {
        // A class without a block of keys stands for a block of at most one.
        let single = |record: &Record| {
            let mut keys = Keys { meets: [u64::MAX; 8], ..Keys::EMPTY };
            keys.keys[0] = record.key;
            keys
        };
        let (src_single, dst_single) = (single(src), single(dst));
        let mut src_place = src.keys;
        loop {
            let s = if src_place == NONE { &src_single } else { self.src.keys.get(src_place) };
            let mut dst_place = dst.keys;
            loop {
                let d = if dst_place == NONE { &dst_single } else { self.dst.keys.get(dst_place) };
                let (mut some, mut count) = ([0; tables::KEYS + 1], 0);
                for &key in d.keys.iter().take_while(|&&key| key != NONE) {
                    some[count & 15] = key;
                    count += usize::from(s.may_meet(key));
                }
                for &key in s.keys.iter().take_while(|&&key| key != NONE && count > 0) {
                    if d.may_meet(key) {
                        some[..count].iter().for_each(|&other| found(key, other));
                    }
                }
                dst_place = d.next;
                if dst_place == NONE {
                    break;
                }
            }
            src_place = s.next;
            if src_place == NONE {
                return;
            }
        }
    }

    /// Lowers `best` to `candidate` if what is left to compare holds.
    #[inline(always)]
    fn consider(&self, candidate: u64, frame: &Frame<'_>, best: &mut u64) {
        if candidate < *best && (candidate as u32 & CHECKED == 0 || self.check(candidate, frame)) {
            *best = candidate;
        }
    }

    #[cold]
    fn check(&self, candidate: u64, frame: &Frame<'_>) -> bool {
        let rule = (candidate as u32 & !CHECKED) as usize;
        let check = self.checks.get(rule).and_then(Option::as_ref);
        check.is_none_or(|check| check.holds(frame.headers, frame.at))
    }

    /// Lowers `best` to the first candidate of a list that matches; the row of `rows` that begins at
    /// `wide` has the wide parts that hold the frame's other side.
    #[inline(always)]
    fn scan<'c>(
        &'c self,
        line: &'c Line,
        rows: &Rows,
        wide: u32,
        frame: &Frame<'_>,
        best: &mut u64,
    ) {
        self.scan_if(line, frame, best, |conditions| {
            self.services.rows.is_set(frame.services, conditions & 0xffff)
                & rows.is_set(wide, conditions >> 16)
        });
    }

    /// The same where candidates ask for a service alone.
    fn scan_services<'c>(&'c self, line: &'c Line, frame: &Frame<'_>, best: &mut u64) {
        self.scan_if(line, frame, best, |service| {
            self.services.rows.is_set(frame.services, service)
        });
    }

    #[inline(always)]
    fn scan_if<'c>(
        &'c self,
        mut line: &'c Line,
        frame: &Frame<'_>,
        best: &mut u64,
        holds: impl Fn(u32) -> bool,
    ) {
        loop {
            for (&candidate, &conditions) in line.candidates.iter().zip(&line.conditions) {
                if candidate >= *best {
                    return;
                }
                if holds(conditions) {
                    self.consider(candidate, frame, best);
                }
            }
            if line.next == 0 {
                return;
            }
            line = self.lines.get(line.next);
        }
    }

    /// Lowers `best` to the first rule both of whose sides are wide and that matches.
    #[inline(always)]
    fn intersect(&self, s: &Record, d: &Record, frame: &Frame<'_>, best: &mut u64) {
        let (src, dst) = (self.src.rows.wide(s.wide), self.dst.rows.wide(d.wide));
        let services = self.services.rows.wide(frame.services);
        for (word, ((s, d), v)) in src.iter().zip(dst).zip(services).enumerate() {
            let bits = s & d & v;
            // The first, or any where there is none; without a branch, as above.
            let first = self.wide_rules
                [(word * 64 + bits.trailing_zeros() as usize % 64).min(self.wide_rules.len() - 1)];
            let first = first | u64::from(bits != 0).wrapping_sub(1);
            if (first < *best) & (first as u32 & CHECKED != 0) {
                self.consider_all(word, bits, frame, best);
            } else {
                *best = first.min(*best);
            }
        }
    }

    /// Lowers `best` to the first of the wide rules that a word of bits stands for and that matches.
    #[cold]
    fn consider_all(&self, word: usize, mut bits: u64, frame: &Frame<'_>, best: &mut u64) {
        while bits != 0 {
            let candidate = self.wide_rules[word * 64 + bits.trailing_zeros() as usize];
            self.consider(candidate, frame, best);
            bits &= bits - 1;
        }
    }

    /// Lowers `best` to the first rule that names the MAC address of either side and matches.
    #[cold]
    fn look_up_macs(&self, s: &Record, d: &Record, frame: &Frame<'_>, best: &mut u64) {
        let of_mac =
            |side: &'_ Side, mac| side.macs.get(&mac).map(|&class| *side.records.get(class));
        let src_mac = of_mac(&self.src, frame.headers.src_mac);
        let dst_mac = of_mac(&self.dst, frame.headers.dst_mac);
        for (src, dst) in [(src_mac, Some(*d)), (Some(*s), dst_mac), (src_mac, dst_mac)] {
            if let (Some(src), Some(dst)) = (src, dst) {
                self.look_up_pairs(&src, &dst, frame, best);
            }
        }
        if let Some(record) = src_mac {
            self.scan(self.lines.get(record.lines), &self.dst.rows, d.wide, frame, best);
        }
        if let Some(record) = dst_mac {
            self.scan(self.lines.get(record.lines), &self.src.rows, s.wide, frame, best);
        }
    }

    /// Forgets which places of its tables were written.
    pub(crate) fn forget_written(&mut self) {
        self.take_written();
    }

    /// Takes the logs of all tables, see [`Store::take_written`].
    pub(crate) fn take_written(&mut self) -> Written {
        let side = |side: &mut Side| SideWritten {
            slots4: side.map.slots4.take_written(),
            tables4: side.map.tables4.take_written(),
            nodes4: side.map.nodes4.take_written(),
            nodes6: side.map.nodes6.take_written(),
            records: side.records.take_written(),
            keys: side.keys.take_written(),
            rows: side.rows.words.take_written(),
        };
        Written {
            sides: [side(&mut self.src), side(&mut self.dst)],
            buckets: self.pairs.buckets.take_written(),
            lines: self.lines.take_written(),
        }
    }

    /// Makes this copy equal to `other`, from which its tables differ at the places of `written`.
    pub(crate) fn catch_up(&mut self, other: &Self, written: &Written) {
        self.default = other.default;
        self.actions.clone_from(&other.actions);
        self.ranks.clone_from(&other.ranks);
        self.first_mac_rank = other.first_mac_rank;
        self.rules = other.rules;
        self.services.clone_from(&other.services);
        self.wide_rules.clone_from(&other.wide_rules);
        self.checks.clone_from(&other.checks);
        self.pairs.homes = other.pairs.homes;
        self.pairs.buckets.catch_up(&other.pairs.buckets, &written.buckets);
        self.lines.catch_up(&other.lines, &written.lines);
        let sides = [(&mut self.src, &other.src), (&mut self.dst, &other.dst)];
        for ((mine, other), written) in sides.into_iter().zip(&written.sides) {
            mine.map.root6 = other.map.root6;
            mine.map.non_ip = other.map.non_ip;
            mine.map.slots4.catch_up(&other.map.slots4, &written.slots4);
            mine.map.tables4.catch_up(&other.map.tables4, &written.tables4);
            mine.map.nodes4.catch_up(&other.map.nodes4, &written.nodes4);
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
        self.actions.get(rule.0 as usize).copied().unwrap_or(self.default)
    }

    /// Whether `rule`, or a rule before it, tests a MAC address: a flow that `rule` decided has then
    /// to be classified again when its MAC addresses change.
    pub fn is_mac_sensitive(&self, rule: RuleId) -> bool {
        let rank = || self.ranks.get(rule.0 as usize).copied().unwrap_or(u32::MAX);
        self.first_mac_rank.is_some_and(|first| first <= rank())
    }

    /// The number of rules.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// Heap bytes that the compiled form takes.
    pub fn size_bytes(&self) -> usize {
        size_of_val(&**self.actions)
            + size_of_val(&**self.ranks)
            + self.src.size_bytes()
            + self.dst.size_bytes()
            + self.services.size_bytes()
            + self.pairs.buckets.size_bytes()
            + self.lines.size_bytes()
            + size_of_val(&**self.wide_rules)
            + size_of_val(&**self.checks)
            + self.checks.iter().flatten().map(|check| check.size_bytes()).sum::<usize>()
    }
}
