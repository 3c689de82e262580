//! The choice among the rules that the classes of a frame lead to.
//!
//! Most often there is one rule or none in each place: that is looked at for eight frames at once and
//! without a branch, because which of the two it is, no branch predictor can tell. What is left goes
//! frame by frame.

use super::several::{ReadKeys, Several};
use super::tables::{
    BLOCK, BUCKET, CHECKED, FEW_WORDS, LINE, LINES, Line, NONE, NOTHING, PairEntry, ROW, Record,
    Rows, bucket, join, line, record,
};
use super::wide::first_in_runs;
use super::{Classifier, Column, EMPTY_COLUMN, MAX_BATCH, Side, ones};
use crate::headers::{Headers, PolicyTime};
use crate::intrinsics::prefetch;
use crate::lanes::{self, Eight, Kernel, LANES, Lanes, Words};
use crate::policy::RuleId;

/// The classes of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) src: &'a [Eight],
    pub(super) dst: &'a [Eight],
    /// Where the rows of the service classes begin.
    pub(super) services: &'a [Eight],
}

/// What is chosen so far, and what is needed to go on.
#[repr(align(64))]
pub(super) struct Choice {
    /// The best candidates: their upper halves, [`NONE`] where there is none, and their lower ones.
    ranks: Column,
    rules: Column,
    /// The least rank of those that were not looked at.
    unseen: Column,
    /// The only keys of the sides, and the bucket of the pair.
    keys: [Column; 2],
    homes: Column,
    /// The first rules of the sides: their ranks, numbers and conditions.
    first: [[Column; 3]; 2],
    /// Where the rows of wide parts begin.
    wide: [Column; 2],
    /// The lines with the rules from the second on, of either side.
    lines: [Column; 2],
    /// Lanes with several keys, and those that have to be gone through one by one.
    several: u64,
    rare: u64,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            ranks: EMPTY_COLUMN,
            rules: EMPTY_COLUMN,
            unseen: EMPTY_COLUMN,
            keys: [EMPTY_COLUMN; 2],
            homes: EMPTY_COLUMN,
            first: [[EMPTY_COLUMN; 3]; 2],
            wide: [EMPTY_COLUMN; 2],
            lines: [EMPTY_COLUMN; 2],
            several: 0,
            rare: 0,
        }
    }
}

impl Choice {
    pub(super) fn rank(&self, lane: usize) -> u32 {
        self.ranks.as_flattened()[lane]
    }

    pub(super) fn best(&self, lane: usize) -> u64 {
        let rank = self.ranks.as_flattened()[lane];
        join(rank, self.rules.as_flattened()[lane])
    }

    pub(super) fn set_best(&mut self, lane: usize, best: u64) {
        self.ranks.as_flattened_mut()[lane] = (best >> 32) as u32;
        self.rules.as_flattened_mut()[lane] = best as u32;
    }

    /// Takes a rule where it comes before. Without a branch.
    #[inline(always)]
    pub(super) fn lower(&mut self, lane: usize, rank: u32, rule: u32) {
        let (best, rules) = (self.ranks.as_flattened_mut(), self.rules.as_flattened_mut());
        rules[lane] = if rank < best[lane] { rule } else { rules[lane] };
        best[lane] = rank.min(best[lane]);
    }
}

/// A frame and what its candidates are compared with.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) headers: &'a Headers,
    pub(super) at: PolicyTime,
    /// Where its row of services begins.
    pub(super) services: u32,
}

/// Takes the classes of a batch to the rules that decide.
pub(super) fn choose(
    classifier: &Classifier,
    headers: &[Headers],
    at: PolicyTime,
    found: Found<'_>,
    choice: &mut Choice,
    pairs: &mut Several,
    out: &mut [RuleId],
) {
    if classifier.is_all_wide {
        lanes::run(ReadRows { classifier, found, choice });
    } else {
        look_up_narrow(classifier, headers, at, found, choice, pairs);
    }
    if !classifier.wide_rules.is_empty() {
        lanes::run(Intersect { classifier, found, headers, at, choice });
    }
    if !classifier.src.macs.is_empty() || !classifier.dst.macs.is_empty() {
        for (lane, headers) in headers.iter().enumerate() {
            let (s, d) = classifier.records(found, lane);
            let frame = Frame { headers, at, services: found.services.as_flattened()[lane] };
            let mut best = choice.best(lane);
            classifier.look_up_macs(s, d, &frame, &mut best);
            choice.set_best(lane, best);
        }
    }
    let (ranks, rules) = (choice.ranks.as_flattened(), choice.rules.as_flattened());
    for ((out, &rank), &rule) in out.iter_mut().zip(ranks).zip(rules) {
        *out = if rank == NONE { RuleId::DEFAULT } else { RuleId(rule & !CHECKED) };
    }
}

/// Chooses among the rules that have a narrow side.
fn look_up_narrow(
    classifier: &Classifier,
    headers: &[Headers],
    at: PolicyTime,
    found: Found<'_>,
    choice: &mut Choice,
    pairs: &mut Several,
) {
    lanes::run(ReadRecords { classifier, found, choice });
    let lanes_used = u64::MAX >> (MAX_BATCH - headers.len().clamp(1, MAX_BATCH));
    lanes::run(ReadPairs { classifier, found, choice });
    for lane in ones(choice.rare & lanes_used) {
        let services = found.services.as_flattened()[lane];
        let frame = Frame { headers: &headers[lane], at, services };
        // What was found has to be checked, and may have hidden what does not.
        let (s, d) = classifier.records(found, lane);
        let mut best = NOTHING;
        classifier.go_through(s, d, &frame, &mut best);
        choice.set_best(lane, best);
    }
    let several = choice.several & lanes_used;
    if several != 0 {
        lanes::run(ReadKeys { classifier, headers, at, found, several, choice, pairs });
    }
    lanes::run(ReadLines { classifier, headers, at, found, choice });
}

/// Takes classes to the rows of wide parts, where there is nothing else to choose from.
struct ReadRows<'a> {
    classifier: &'a Classifier,
    found: Found<'a>,
    choice: &'a mut Choice,
}

impl Kernel for ReadRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { classifier, found, choice } = self;
        let Classifier { src, dst, .. } = classifier;
        for (group, (s, d)) in found.src.iter().zip(found.dst).enumerate().take(MAX_BATCH / LANES) {
            for (wide, (side, class)) in choice.wide.iter_mut().zip([(src, s), (dst, d)]) {
                let place = lanes.shl::<3>(lanes.load(class));
                let place = lanes.add(place, lanes.splat(record::WIDE as u32));
                let row = lanes.gather(side.records.words(), place);
                let start = lanes.mul(row, lanes.splat(side.rows.stride as u32));
                lanes.store(start, &mut wide[group]);
            }
            lanes.store(lanes.splat(NONE), &mut choice.ranks[group]);
        }
    }
}

/// Takes classes to what their records say, and asks for all that it leads to.
struct ReadRecords<'a> {
    classifier: &'a Classifier,
    found: Found<'a>,
    choice: &'a mut Choice,
}

impl Kernel for ReadRecords<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { classifier, found, choice } = self;
        let Classifier { src, dst, pairs, .. } = classifier;
        let (src_records, dst_records) = (src.records.words(), dst.records.words());
        for (s, d) in found.src.iter().zip(found.dst) {
            lanes.prefetch_rows(src_records, lanes.load(s));
            lanes.prefetch_rows(dst_records, lanes.load(d));
        }
        let (buckets, lines) = (pairs.buckets.words(), classifier.lines.words());
        let (src_keys, dst_keys) = (src.keys.words(), dst.keys.words());
        let none = lanes.splat(NONE);
        let mut several = 0;
        let groups = found.src.iter().zip(found.dst);
        for (group, (s, d)) in groups.enumerate().take(MAX_BATCH / LANES) {
            let s = lanes.gather_rows(src_records, lanes.load(s));
            let d = lanes.gather_rows(dst_records, lanes.load(d));
            let unseen = lanes.min(s[record::NEXT_RANK], d[record::NEXT_RANK]);
            let has_one = lanes.equal(lanes.and(s[record::KEYS], d[record::KEYS]), none);
            let has_several = lanes.bits(has_one) ^ 0xff;
            several |= u64::from(has_several) << (LANES * group);
            if has_several != 0 {
                for (keys, place) in [(src_keys, s[record::KEYS]), (dst_keys, d[record::KEYS])] {
                    let place = lanes.without(place, lanes.equal(place, none));
                    lanes.prefetch_rows(keys, lanes.shl::<1>(place));
                }
            }
            let (src_key, dst_key) = (s[record::KEY], d[record::KEY]);
            let home = pairs.homes(lanes, src_key, dst_key);
            lanes.prefetch_rows(buckets, lanes.shl::<1>(home));
            lanes.store(unseen, &mut choice.unseen[group]);
            for (side, (of_side, rows)) in
                [(&s, &src.rows), (&d, &dst.rows)].into_iter().enumerate()
            {
                let vectors = lanes.splat((rows.stride / ROW) as u32);
                let wide = lanes.mul(of_side[record::WIDE], vectors);
                lanes.prefetch_rows(rows.words.words(), wide);
                lanes.prefetch_rows(lines, lanes.shl::<1>(of_side[record::LINES]));
                lanes.store(of_side[record::LINES], &mut choice.lines[side][group]);
                lanes.store(lanes.shl::<2>(wide), &mut choice.wide[side][group]);
                let [rank, rule, condition] = &mut choice.first[side];
                lanes.store(of_side[record::RANK], &mut rank[group]);
                lanes.store(of_side[record::RULE], &mut rule[group]);
                lanes.store(of_side[record::CONDITION], &mut condition[group]);
            }
            lanes.store(src_key, &mut choice.keys[0][group]);
            lanes.store(dst_key, &mut choice.keys[1][group]);
            lanes.store(home, &mut choice.homes[group]);
        }
        choice.several = several;
    }
}

/// `ranks` of the first rules of one side, where the conditions are met: the row of `rows` that begins
/// at `wide` says which wide parts hold the other side.
#[inline(always)]
fn first_ranks<L: Lanes>(
    lanes: L,
    (services, service): (&Rows, L::W),
    (rows, wide): (&Rows, L::W),
    ranks: L::W,
    condition: L::W,
) -> L::W {
    if lanes.bits(lanes.equal(ranks, lanes.splat(NONE))) == 0xff {
        return ranks;
    }
    let asked = lanes.and(condition, lanes.splat(0xffff));
    let is_served = services.are_set(lanes, service, asked);
    let is_held = rows.are_set(lanes, wide, lanes.shr::<16>(condition));
    where_set(lanes, lanes.and(is_served, is_held), ranks)
}

/// `ranks` where the lowest bits are set, else [`NONE`].
#[inline(always)]
pub(super) fn where_set<L: Lanes>(lanes: L, bits: L::W, ranks: L::W) -> L::W {
    let one = lanes.splat(1);
    lanes.or(ranks, lanes.sub(lanes.and(bits, one), one))
}

/// Chooses among the first rules of either side and those of the pairs of keys.
struct ReadPairs<'a> {
    classifier: &'a Classifier,
    found: Found<'a>,
    choice: &'a mut Choice,
}

impl Kernel for ReadPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { classifier, found, choice } = self;
        let services = &classifier.services.rows;
        let lines = classifier.lines.words();
        let mut rare = 0;
        for (group, service) in found.services.iter().enumerate().take(MAX_BATCH / LANES) {
            let service = lanes.load(service);
            let (src, dst) =
                (lanes.load(&choice.keys[0][group]), lanes.load(&choice.keys[1][group]));
            let home = lanes.load(&choice.homes[group]);
            let (rank, rule, condition) =
                look_up_pairs(lanes, classifier.pairs.buckets.words(), src, dst, home);
            let is_list = lanes.equal(condition, lanes.splat(LINES));
            let holds = services.are_set(lanes, service, condition);
            let of_pair = lanes.or(where_set(lanes, holds, rank), is_list);
            let mut best = Best { rank: of_pair, rule };
            for (side, rows) in [&classifier.dst.rows, &classifier.src.rows].into_iter().enumerate()
            {
                let [ranks, rules, conditions] = choice.first[side].each_ref();
                let other = (rows, lanes.load(&choice.wide[1 - side][group]));
                let (ranks, condition) =
                    (lanes.load(&ranks[group]), lanes.load(&conditions[group]));
                let ranks = first_ranks(lanes, (services, service), other, ranks, condition);
                best.lower(lanes, ranks, lanes.load(&rules[group]));
            }
            let is_list = lanes.and(is_list, lanes.below(rank, best.rank));
            if lanes.bits(is_list) != 0 {
                let list = List { lines, first: lanes.and(rule, is_list) };
                list.scan(lanes, services, service, &mut best);
            }
            lanes.store(best.rank, &mut choice.ranks[group]);
            lanes.store(best.rule, &mut choice.rules[group]);
            let is_nothing = lanes.equal(best.rank, lanes.splat(NONE));
            let is_checked = lanes.without(best.rule, is_nothing);
            rare |= u64::from(lanes.bits(is_checked)) << (LANES * group);
        }
        choice.rare = rare;
    }
}

/// The entries of pairs of keys, [`PairEntry::VACANT`] where there is none: ranks, rules and
/// services. `homes` are the buckets in which their chains begin.
#[inline(always)]
pub(super) fn look_up_pairs<L: Lanes>(
    lanes: L,
    buckets: Words<'_>,
    src: L::W,
    dst: L::W,
    homes: L::W,
) -> (L::W, L::W, L::W) {
    const { assert!(BUCKET == 3, "three places are compared") };
    let none = lanes.splat(NONE);
    let (mut rank, mut rule, mut service) = (none, none, lanes.splat(0));
    // Nothing stands under no key.
    let mut is_sought =
        lanes.without(none, lanes.or(lanes.equal(src, none), lanes.equal(dst, none)));
    // As where all classes have several.
    if lanes.bits(is_sought) == 0 {
        return (rank, rule, service);
    }
    let mut home = homes;
    loop {
        let words = lanes.gather_rows(buckets, lanes.shl::<1>(home));
        let first = lanes.and(lanes.equal(words[0], src), lanes.equal(words[3], dst));
        let second = lanes.and(lanes.equal(words[1], src), lanes.equal(words[4], dst));
        let third = lanes.and(lanes.equal(words[2], src), lanes.equal(words[5], dst));
        let is_here = lanes.and(lanes.or(lanes.or(first, second), third), is_sought);
        let start = lanes.shl::<4>(home);
        // Three words for each place before; masks are minus one.
        let before = lanes.add(second, lanes.add(third, third));
        let entry = lanes.sub(start, lanes.add(before, lanes.add(before, before)));
        let entry = lanes.add(entry, lanes.splat(bucket::ENTRIES));
        rank = lanes.select(is_here, lanes.gather(buckets, entry), rank);
        let place = lanes.add(entry, lanes.splat(1));
        rule = lanes.select(is_here, lanes.gather(buckets, place), rule);
        let place = lanes.add(entry, lanes.splat(2));
        service = lanes.select(is_here, lanes.gather(buckets, place), service);
        let next = lanes.gather(buckets, lanes.add(start, lanes.splat(bucket::NEXT)));
        is_sought = lanes.without(is_sought, lanes.or(is_here, lanes.equal(next, none)));
        if lanes.bits(is_sought) == 0 {
            return (rank, rule, service);
        }
        home = lanes.select(is_sought, next, home);
    }
}

/// The first rules that were found so far: the halves of their candidates.
struct Best<W> {
    rank: W,
    rule: W,
}

impl<W: Copy> Best<W> {
    /// Takes the rules with these ranks where they come before.
    #[inline(always)]
    fn lower<L: Lanes<W = W>>(&mut self, lanes: L, rank: W, rule: W) {
        self.rule = lanes.select(lanes.at_most(rank, self.rank), rule, self.rule);
        self.rank = lanes.min(rank, self.rank);
    }
}

/// Candidates in lines that ask for a service alone.
struct List<'a, W> {
    lines: Words<'a>,
    /// The first line of each lane, or 0.
    first: W,
}

impl<W: Copy> List<'_, W> {
    /// Lowers `best` to the first candidates that match but for what has to be checked.
    #[inline(always)]
    fn scan<L: Lanes<W = W>>(&self, lanes: L, services: &Rows, service: W, best: &mut Best<W>) {
        let one = lanes.splat(1);
        let mut number = self.first;
        loop {
            let start = lanes.shl::<4>(number);
            for place in 0..LINE as u32 {
                let at = lanes.add(start, lanes.splat(line::RANKS + place));
                let rank = lanes.gather(self.lines, at);
                let is_before = lanes.below(rank, best.rank);
                if lanes.bits(is_before) == 0 {
                    return;
                }
                let at = lanes.add(start, lanes.splat(line::CONDITIONS + place));
                let condition = lanes.gather(self.lines, at);
                let holds = services.are_set(lanes, service, condition);
                let holds = lanes.and(lanes.equal(lanes.and(holds, one), one), is_before);
                if lanes.bits(holds) != 0 {
                    let at = lanes.add(start, lanes.splat(line::RULES + place));
                    let rule = lanes.gather(self.lines, at);
                    best.rank = lanes.select(holds, rank, best.rank);
                    best.rule = lanes.select(holds, rule, best.rule);
                }
            }
            number = lanes.gather(self.lines, lanes.add(start, lanes.splat(line::NEXT)));
        }
    }
}

/// Lowers what was chosen to the rules of either side from the second on: a line of them at once, since
/// how many a frame has to go through no branch predictor can tell.
struct ReadLines<'a> {
    classifier: &'a Classifier,
    headers: &'a [Headers],
    at: PolicyTime,
    found: Found<'a>,
    choice: &'a mut Choice,
}

impl Kernel for ReadLines<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { classifier, headers, at, found, choice } = self;
        let mut unseen = 0_u64;
        for (group, (ranks, next)) in choice.ranks.iter().zip(&choice.unseen).enumerate() {
            let is_before = lanes.below(lanes.load(next), lanes.load(ranks));
            unseen |= u64::from(lanes.bits(is_before)) << (LANES * group);
        }
        // Of what is behind the batch another classifier may have spoken.
        unseen &= u64::MAX >> (MAX_BATCH - headers.len().clamp(1, MAX_BATCH));
        for lane in ones(unseen) {
            for of_side in &choice.lines {
                let line = classifier.lines.get(of_side.as_flattened()[lane]);
                prefetch(classifier.lines.get(line.next));
            }
        }
        let rows = [&classifier.dst.rows, &classifier.src.rows];
        for lane in ones(unseen) {
            let Some(headers) = headers.get(lane) else { break };
            let services = found.services.as_flattened()[lane];
            for (side, rows) in rows.into_iter().enumerate() {
                let wide = choice.wide[1 - side].as_flattened()[lane];
                let mut place = choice.lines[side].as_flattened()[lane];
                while place != 0 {
                    let line = classifier.lines.get(place);
                    let conditions = lanes.load(line.last_words());
                    let asked = lanes.and(conditions, lanes.splat(0xffff));
                    let holds = lanes.and(
                        classifier.services.rows.are_set_in(lanes, services, asked),
                        rows.are_set_in(lanes, wide, lanes.shr::<16>(conditions)),
                    );
                    let holds = lanes.bits(lanes.shl::<31>(holds)) >> line::FIRST_CONDITION;
                    let rank = choice.rank(lane);
                    let is_before = lanes.below(lanes.load(line.first_words()), lanes.splat(rank));
                    let is_before = lanes.bits(is_before);
                    let matching = holds & is_before & ((1 << LINE) - 1);
                    if matching != 0 {
                        let first = matching.trailing_zeros() as usize;
                        let mut best = join(line.ranks[first], line.rules[first]);
                        if best as u32 & CHECKED != 0 {
                            // It may not match, and those behind it may.
                            let frame = Frame { headers, at, services };
                            let (s, d) = classifier.records(found, lane);
                            let record = if side == 0 { s } else { d };
                            best = choice.best(lane);
                            classifier.scan_side(record, rows, wide, &frame, &mut best);
                        }
                        choice.set_best(lane, best);
                        break;
                    }
                    // Ranks rise, and only the last line has room left: behind what was chosen nothing counts.
                    place = if is_before >> (LINE - 1) & 1 == 1 { line.next } else { 0 };
                }
            }
        }
    }
}

/// Chooses between what was chosen and the rules both of whose sides are wide: a row of the source,
/// one of the destination and one of the service have a bit for each of them.
struct Intersect<'a> {
    classifier: &'a Classifier,
    found: Found<'a>,
    headers: &'a [Headers],
    at: PolicyTime,
    choice: &'a mut Choice,
}

impl Kernel for Intersect<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { classifier, found, headers, at, choice } = self;
        let Classifier { src, dst, services, wide_rules, .. } = classifier;
        let rows = [&src.rows, &dst.rows, &services.rows];
        let words = wide_rules.len().div_ceil(32);
        let candidates = Words::new(bytemuck::cast_slice(wide_rules));
        let of_runs = classifier.wide_runs.is_some().then(|| {
            let starts = [&choice.wide[0], &choice.wide[1], found.services];
            first_in_runs(classifier, starts, headers.len(), choice)
        });
        for (group, service) in found.services.iter().enumerate().take(MAX_BATCH / LANES) {
            let starts = [choice.wide[0][group], choice.wide[1][group], *service];
            let first = if let Some(first) = &of_runs {
                lanes.load(&first[group])
            } else if words <= FEW_WORDS {
                first_of_few(lanes, rows, &starts, words as u32)
            } else {
                let mut first = [NONE; LANES];
                for (lane, first) in first.iter_mut().enumerate() {
                    let starts = starts.map(|starts| starts[lane]);
                    *first = first_of_many(lanes, rows, starts, |start| {
                        let rank = choice.ranks[group][lane];
                        wide_rules.get(start).is_some_and(|next| next >> 32 < u64::from(rank))
                    });
                }
                lanes.load(&first)
            };
            let is_nothing = lanes.equal(first, lanes.splat(NONE));
            let place = lanes.shl::<1>(first);
            let rule = lanes.gather(candidates, place);
            let rank = lanes.gather(candidates, lanes.add(place, lanes.splat(1)));
            let mut best = Best {
                rank: lanes.load(&choice.ranks[group]),
                rule: lanes.load(&choice.rules[group]),
            };
            let is_before = lanes.without(lanes.below(rank, best.rank), is_nothing);
            // The sign of a word says whether it is checked.
            let is_checked = lanes.bits(lanes.and(rule, is_before));
            let is_before = lanes.without(is_before, lanes.signs(rule));
            best.rank = lanes.select(is_before, rank, best.rank);
            best.rule = lanes.select(is_before, rule, best.rule);
            lanes.store(best.rank, &mut choice.ranks[group]);
            lanes.store(best.rule, &mut choice.rules[group]);
            for lane in ones(is_checked.into()) {
                let Some(headers) = headers.get(group * LANES + lane) else { break };
                let frame = Frame { headers, at, services: service[lane] };
                let starts = starts.map(|starts| starts[lane]);
                let lane = group * LANES + lane;
                let mut best = choice.best(lane);
                if of_runs.is_some() {
                    classifier.consider_runs(starts, &frame, &mut best);
                } else {
                    let rows = [0, 1, 2].map(|row: usize| rows[row].wide_words(starts[row]));
                    classifier.consider_wide(rows, &frame, &mut best);
                }
                choice.set_best(lane, best);
            }
        }
    }
}

/// The first bits that three rows of few words have in common, or [`NONE`].
#[inline(always)]
fn first_of_few<L: Lanes>(lanes: L, rows: [&Rows; 3], starts: &[Eight; 3], words: u32) -> L::W {
    let [src, dst, services] = rows;
    let [s, d, v] = starts;
    let s = lanes.add(lanes.shl::<1>(lanes.load(s)), lanes.splat(2 * src.bits as u32));
    let d = lanes.add(lanes.shl::<1>(lanes.load(d)), lanes.splat(2 * dst.bits as u32));
    let v = lanes.add(lanes.shl::<1>(lanes.load(v)), lanes.splat(2 * services.bits as u32));
    let (src, dst, services) = (src.words.words(), dst.words.words(), services.words.words());
    let (zero, none) = (lanes.splat(0), lanes.splat(NONE));
    let (mut bits, mut first) = (zero, none);
    for word in (0..words).rev() {
        let at = lanes.splat(word);
        let both =
            lanes.and(lanes.gather(src, lanes.add(s, at)), lanes.gather(dst, lanes.add(d, at)));
        let all = lanes.and(both, lanes.gather(services, lanes.add(v, at)));
        let is_zero = lanes.equal(all, zero);
        bits = lanes.select(is_zero, bits, all);
        first = lanes.select(is_zero, first, lanes.splat(word * 32));
    }
    let is_none = lanes.equal(first, none);
    lanes.or(lanes.add(first, lanes.trailing_zeros(bits)), is_none)
}

/// The first bit that three rows of many words have in common, or [`NONE`]. `goes_on` is asked before
/// each block but the first, by the number of its first bit.
#[inline(always)]
fn first_of_many<L: Lanes>(
    lanes: L,
    rows: [&Rows; 3],
    starts: [u32; 3],
    goes_on: impl Fn(usize) -> bool,
) -> u32 {
    let [src, dst, services] = rows;
    let [s, d, v] = starts;
    let (src, dst, services) = (src.blocks(s), dst.blocks(d), services.blocks(v));
    for (block, ((s, d), v)) in src.iter().zip(dst).zip(services).enumerate() {
        let start = block * BLOCK * LANES;
        if block > 0 && !goes_on(start * 32) {
            break;
        }
        // A bit for each word that is not zero, found without a branch on any of them.
        let mut words = 0;
        for vector in 0..BLOCK {
            let both = lanes.and(lanes.load(&s[vector]), lanes.load(&d[vector]));
            let all = lanes.and(both, lanes.load(&v[vector]));
            let is_zero = lanes.bits(lanes.equal(all, lanes.splat(0)));
            words |= (is_zero ^ 0xff) << (LANES * vector);
        }
        if words != 0 {
            let word = words.trailing_zeros() as usize;
            let [s, d, v] = [s, d, v].map(|block| block[word / LANES][word % LANES]);
            return (start + word) as u32 * 32 + (s & d & v).trailing_zeros();
        }
    }
    NONE
}

impl Classifier {
    #[inline(always)]
    pub(super) fn records(&self, found: Found<'_>, lane: usize) -> (&Record, &Record) {
        let (src, dst) = (found.src.as_flattened()[lane], found.dst.as_flattened()[lane]);
        (self.src.records.get(src), self.dst.records.get(dst))
    }

    /// Lowers `best` to the first rule that two classes lead to, but for those whose sides are both
    /// wide and those of classes of several keys.
    fn go_through(&self, s: &Record, d: &Record, frame: &Frame<'_>, best: &mut u64) {
        if s.keys & d.keys == NONE {
            self.look_up_pair(self.pairs.home(s.key, d.key), s.key, d.key, frame, best);
        }
        self.scan_side(s, &self.dst.rows, self.dst.rows.start(d.wide), frame, best);
        self.scan_side(d, &self.src.rows, self.src.rows.start(s.wide), frame, best);
    }

    /// Lowers `best` to the first rule that is listed under a pair of keys and matches.
    pub(super) fn look_up_pair(
        &self,
        home: u32,
        src: u32,
        dst: u32,
        frame: &Frame<'_>,
        best: &mut u64,
    ) {
        let mut bucket = self.pairs.buckets.get(home);
        loop {
            if let Some(slot) = bucket.find(src, dst) {
                let PairEntry { rank, rule, service } = bucket.entry(slot);
                if service == LINES {
                    self.scan_services(self.lines.get(rule), frame, best);
                } else if self.services.rows.is_set(frame.services, service) {
                    self.consider(join(rank, rule), frame, best);
                }
                return;
            }
            if bucket.next() == NONE {
                return;
            }
            bucket = self.pairs.buckets.get(bucket.next());
        }
    }

    /// Lowers `best` to `candidate` if what is left to compare holds.
    #[inline(always)]
    pub(super) fn consider(&self, candidate: u64, frame: &Frame<'_>, best: &mut u64) {
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

    /// Lowers `best` to the first rule of one side, with the other side wide, that matches; the row of
    /// `rows` that begins at `wide` has the wide parts that hold the frame's other side.
    #[inline(always)]
    fn scan_side(
        &self,
        record: &Record,
        rows: &Rows,
        wide: u32,
        frame: &Frame<'_>,
        best: &mut u64,
    ) {
        let holds = |conditions: u32| {
            self.services.rows.is_set(frame.services, conditions & 0xffff)
                & rows.is_set(wide, conditions >> 16)
        };
        if record.first() < *best && holds(record.condition) {
            self.consider(record.first(), frame, best);
        }
        if record.lines != 0 {
            self.scan_if(self.lines.get(record.lines), frame, best, holds);
        }
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
            for (candidate, condition) in line.candidates() {
                if candidate >= *best {
                    return;
                }
                if holds(condition) {
                    self.consider(candidate, frame, best);
                }
            }
            if line.next == 0 {
                return;
            }
            line = self.lines.get(line.next);
        }
    }

    /// Lowers `best` to the first of the rules both of whose sides are wide that matches: `rows` have a
    /// bit for each of them, of the source, the destination and the service.
    #[cold]
    #[inline(never)]
    fn consider_wide(&self, rows: [&[u64]; 3], frame: &Frame<'_>, best: &mut u64) {
        let [src, dst, services] = rows;
        for (word, ((s, d), v)) in src.iter().zip(dst).zip(services).enumerate() {
            for bit in ones(s & d & v) {
                let candidate = self.wide_rules[word * 64 + bit];
                if candidate >= *best {
                    return;
                }
                self.consider(candidate, frame, best);
            }
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
            self.scan_side(&record, &self.dst.rows, self.dst.rows.start(d.wide), frame, best);
        }
        if let Some(record) = dst_mac {
            self.scan_side(&record, &self.src.rows, self.src.rows.start(s.wide), frame, best);
        }
    }
}
