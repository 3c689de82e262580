//! Where rules are listed: what a lookup reads once it has the classes of a frame.
//!
//! A candidate is known by its place in the policy's order above the rule's number, so that the
//! least candidate decides. Bit 31 of the rule's number says that more has to be compared.

use bytemuck::{Pod, Zeroable};

use super::store::Store;
use crate::intrinsics::equal_pairs;
use crate::lanes::{Eight, LANES, Lanes};

/// No line, no key.
pub(crate) const NONE: u32 = u32::MAX;
/// Set in a rule's number where more than classes has to be compared.
pub(crate) const CHECKED: u32 = 1 << 31;
/// No candidate.
pub(crate) const NOTHING: u64 = u64::MAX;
/// Set in the key of a part; the key of a class is the class.
pub(crate) const PART_KEY: u32 = 1 << 31;

/// What one class of one side leads to: half a cache line. Its rules whose other side is wide stand
/// here and in lines, in deciding order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(32))]
pub(crate) struct Record {
    /// The only key, or [`NONE`].
    pub(crate) key: u32,
    /// The [`Keys`] of a class that has more than one, or has a part's key; else [`NONE`].
    pub(crate) keys: u32,
    /// The number of its row of [`Rows`]: which wide parts hold the class.
    pub(crate) wide: u32,
    /// The first rule's rank, or [`NONE`].
    pub(crate) rank: u32,
    /// The lower half of its candidate.
    pub(crate) rule: u32,
    /// Its service below, the wide part of the other side above.
    pub(crate) condition: u32,
    /// The second rule's rank, or [`NONE`].
    pub(crate) next_rank: u32,
    /// First of the [`Line`]s with the rules from the second on, or 0.
    pub(crate) lines: u32,
}

/// The words of a [`Record`], by name.
pub(crate) mod record {
    pub(crate) const KEY: usize = 0;
    pub(crate) const KEYS: usize = 1;
    pub(crate) const WIDE: usize = 2;
    pub(crate) const RANK: usize = 3;
    pub(crate) const RULE: usize = 4;
    pub(crate) const CONDITION: usize = 5;
    pub(crate) const NEXT_RANK: usize = 6;
    pub(crate) const LINES: usize = 7;
}

impl Record {
    pub(crate) const EMPTY: Self = Self {
        key: NONE,
        keys: NONE,
        wide: 0,
        rank: NONE,
        rule: NONE,
        condition: 0,
        next_rank: NONE,
        lines: 0,
    };

    /// The first rule whose other side is wide, or [`NOTHING`].
    pub(crate) fn first(&self) -> u64 {
        join(self.rank, self.rule)
    }
}

/// The keys of [`Keys`] in one block.
pub(crate) const KEYS: usize = 7;

/// The keys of a class of many: one line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Keys {
    /// [`NONE`] from the first unused on.
    pub(crate) keys: [u32; KEYS],
    /// Where more are, or [`NONE`].
    pub(crate) next: u32,
    /// Which keys of parts these ones may be listed with. There may be more than are.
    pub(crate) reach: Reach,
}

impl Keys {
    pub(crate) const EMPTY: Self = Self { keys: [NONE; KEYS], next: NONE, reach: Reach::ALL };

    /// A block of one key or none.
    #[inline(always)]
    pub(crate) fn of(key: u32) -> Self {
        let mut block = Self::EMPTY;
        block.keys[0] = key;
        block
    }

    /// The keys in a vector; the last word is not a key.
    #[inline(always)]
    pub(crate) fn words(&self) -> &Eight {
        let [keys, _]: &[Eight; 2] = bytemuck::cast_ref(self);
        keys
    }
}

/// A set of parts, of each the low bits of its number: with a few dozen of 256 bits set, of four parts
/// that are not in it hardly one is taken for one that may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Reach(Eight);

impl Reach {
    /// All parts.
    pub(crate) const ALL: Self = Self([u32::MAX; LANES]);

    pub(crate) fn insert(&mut self, part: u32) {
        self.0[(part >> 5) as usize % LANES] |= 1 << (part & 31);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
    }

    /// Which of the keys in a vector may be in it, as bits. Those of classes may always be.
    #[inline(always)]
    pub(crate) fn meets<L: Lanes>(&self, lanes: L, keys: L::W) -> u32 {
        let words = lanes.permute(lanes.load(&self.0), lanes.shr::<5>(keys));
        let is_in = lanes.bits(lanes.shl::<31>(lanes.shr_by(words, keys)));
        let is_unused = lanes.bits(lanes.equal(keys, lanes.splat(NONE)));
        (is_in | !lanes.bits(keys)) & !is_unused & ((1 << KEYS) - 1)
    }
}

/// Candidates of a [`Line`].
pub(crate) const LINE: usize = 5;

/// Rules in deciding order: a cache line. Line 0 is empty, so that there is always one to read.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line {
    /// The upper halves of candidates, [`NONE`] from the first unused on.
    pub(crate) ranks: [u32; LINE],
    /// The lower halves.
    pub(crate) rules: [u32; LINE],
    /// Service below, wide part of the other side above.
    pub(crate) conditions: [u32; LINE],
    /// Where more are, or 0.
    pub(crate) next: u32,
}

/// Where the words of a [`Line`] begin, by name.
pub(crate) mod line {
    use super::LINE;

    pub(crate) const RANKS: u32 = 0;
    pub(crate) const RULES: u32 = LINE as u32;
    pub(crate) const CONDITIONS: u32 = 2 * LINE as u32;
    pub(crate) const NEXT: u32 = 3 * LINE as u32;
    /// In [`super::Line::last_words`].
    pub(crate) const FIRST_CONDITION: u32 = CONDITIONS - crate::lanes::LANES as u32;
}

impl Line {
    pub(crate) const EMPTY: Self =
        Self { ranks: [NONE; LINE], rules: [NONE; LINE], conditions: [0; LINE], next: 0 };

    /// The candidates that there are, each with its condition.
    #[inline(always)]
    pub(crate) fn candidates(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let candidates = self.ranks.iter().zip(&self.rules).zip(&self.conditions);
        let candidates =
            candidates.map(|((&rank, &rule), &condition)| (join(rank, rule), condition));
        candidates.take_while(|&(candidate, _)| candidate != NOTHING)
    }

    /// Its ranks and more.
    #[inline(always)]
    pub(crate) fn first_words(&self) -> &Eight {
        let [first, _]: &[Eight; 2] = bytemuck::cast_ref(self);
        first
    }

    /// Its conditions and more.
    #[inline(always)]
    pub(crate) fn last_words(&self) -> &Eight {
        let [_, last]: &[Eight; 2] = bytemuck::cast_ref(self);
        last
    }

    pub(crate) fn set(&mut self, slot: usize, candidate: u64, condition: u32) {
        (self.ranks[slot], self.rules[slot]) = ((candidate >> 32) as u32, candidate as u32);
        self.conditions[slot] = condition;
    }
}

/// A candidate from its halves.
#[inline(always)]
pub(crate) fn join(rank: u32, rule: u32) -> u64 {
    u64::from(rank) << 32 | u64::from(rule)
}

/// Pairs of a [`Bucket`].
pub(crate) const BUCKET: usize = 3;

/// Up to three pairs of keys and their rules, in no order: a cache line of the words of three source
/// keys, three destination keys, three [`PairEntry`]s of three words each, and the number of the
/// next bucket, or [`NONE`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Bucket(pub(crate) [u32; 16]);

/// Where the words of a [`Bucket`] begin, by name.
pub(crate) mod bucket {
    use super::BUCKET;

    pub(crate) const ENTRIES: u32 = 2 * BUCKET as u32;
    pub(crate) const NEXT: u32 = 5 * BUCKET as u32;
}

/// What a [`Bucket`] holds of a pair: its only rule, or where its rules are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PairEntry {
    /// The upper half of the candidate, of the first one where there are several.
    pub(crate) rank: u32,
    /// The lower half, or the first of the [`Line`]s with all of them.
    pub(crate) rule: u32,
    /// The service, or [`LINES`].
    pub(crate) service: u32,
}

/// [`PairEntry::service`] of a pair whose rules stand in lines.
pub(crate) const LINES: u32 = u32::MAX;

impl PairEntry {
    pub(crate) const VACANT: Self = Self { rank: NONE, rule: NONE, service: 0 };
}

impl Bucket {
    pub(crate) const EMPTY: Self = {
        let mut words = [NONE; 16];
        (words[8], words[11], words[14]) = (0, 0, 0);
        Self(words)
    };

    /// The place of a pair of keys.
    #[inline(always)]
    pub(crate) fn find(&self, src: u32, dst: u32) -> Option<usize> {
        let found = equal_pairs(&self.0, src, dst);
        (found != 0).then_some(found.trailing_zeros() as usize)
    }

    #[inline(always)]
    pub(crate) fn entry(&self, slot: usize) -> PairEntry {
        let first = bucket::ENTRIES as usize + 3 * slot;
        PairEntry { rank: self.0[first], rule: self.0[first + 1], service: self.0[first + 2] }
    }

    #[inline(always)]
    pub(crate) fn next(&self) -> u32 {
        self.0[bucket::NEXT as usize]
    }

    pub(crate) fn set_next(&mut self, next: u32) {
        self.0[bucket::NEXT as usize] = next;
    }

    /// A place without a pair.
    pub(crate) fn vacant(&self) -> Option<usize> {
        (0..BUCKET).find(|&slot| self.entry(slot) == PairEntry::VACANT)
    }

    pub(crate) fn set(&mut self, slot: usize, src: u32, dst: u32, entry: PairEntry) {
        let first = bucket::ENTRIES as usize + 3 * slot;
        (self.0[slot], self.0[BUCKET + slot]) = (src, dst);
        (self.0[first], self.0[first + 1], self.0[first + 2]) =
            (entry.rank, entry.rule, entry.service);
    }

    pub(crate) fn clear(&mut self, slot: usize) {
        self.set(slot, NONE, NONE, PairEntry::VACANT);
    }
}

const _: () = assert!(size_of::<Record>() == 32 && size_of::<Keys>() == 64);
const _: () = assert!(size_of::<Line>() == 64 && size_of::<Bucket>() == 64);

/// Rules by pairs of keys: a hash table of buckets, each the start of a chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    pub(crate) buckets: Store<Bucket>,
    /// Buckets that keys hash to; those behind them continue chains.
    pub(crate) homes: u32,
    /// A bit for the hash of each pair, so that most of those that are not listed are known from
    /// little memory: a power of two of bits. More bits than these may be set; where no lookup has
    /// use for them, there is one word of them, all set.
    pub(crate) marks: Store<u32>,
}

impl Pairs {
    /// The bucket in which the chain of a pair begins. There is none where [`Self::homes`] is zero.
    #[inline(always)]
    pub(crate) fn home(&self, src: u32, dst: u32) -> u32 {
        ((u64::from(mixed(src, dst)) * u64::from(self.homes)) >> 32) as u32
    }

    /// [`Self::home`] of eight pairs.
    #[inline(always)]
    pub(crate) fn homes<L: Lanes>(&self, lanes: L, src: L::W, dst: L::W) -> L::W {
        lanes.fraction(Self::mixed_lanes(lanes, src, dst), self.homes)
    }

    /// The hashes of eight pairs.
    #[inline(always)]
    pub(crate) fn mixed_lanes<L: Lanes>(lanes: L, src: L::W, dst: L::W) -> L::W {
        let [a, b, c] = MIX;
        let (a, b, c) = (lanes.splat(a), lanes.splat(b), lanes.splat(c));
        let mixed = lanes.mul(src, a);
        let mixed = lanes.mul(lanes.add(lanes.xor(mixed, lanes.shr::<15>(mixed)), dst), b);
        lanes.mul(lanes.xor(mixed, lanes.shr::<13>(mixed)), c)
    }

    /// How far a hash is shifted right to be the number of its mark.
    #[inline(always)]
    pub(crate) fn mark_shift(&self) -> u32 {
        const MOST: u32 = u32::BITS - u32::BITS.ilog2();
        MOST - self.marks.len().max(1).ilog2().min(MOST)
    }

    /// The word of the mark of a pair, and its bit there.
    #[inline(always)]
    pub(crate) fn mark(&self, src: u32, dst: u32) -> (u32, u32) {
        let mark = mixed(src, dst) >> self.mark_shift();
        (mark >> 5, 1 << (mark & 31))
    }

    /// Whether a pair may be listed.
    #[inline(always)]
    pub(crate) fn is_marked(&self, src: u32, dst: u32) -> bool {
        let (word, bit) = self.mark(src, dst);
        self.marks.items().get(word as usize).is_some_and(|word| word & bit != 0)
    }
}

/// The hash of a pair.
#[inline(always)]
fn mixed(src: u32, dst: u32) -> u32 {
    let [a, b, c] = MIX;
    let mixed = src.wrapping_mul(a);
    let mixed = (mixed ^ mixed >> 15).wrapping_add(dst).wrapping_mul(b);
    (mixed ^ mixed >> 13).wrapping_mul(c)
}

/// Odd numbers with their bits in no order: the fractions of the golden ratio, and two primes.
const MIX: [u32; 3] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d];

/// Rows come in multiples of so many words of 64 bits: in vectors.
pub(crate) const ROW: usize = LANES / 2;

/// Up to so many words of 32 bits for rules both of whose sides are wide are gone through for eight
/// frames at once. More of them come in blocks, and are gone through frame by frame.
pub(crate) const FEW_WORDS: usize = 12;

/// Vectors of a block, whose words are told apart by the bits of one word.
pub(crate) const BLOCK: usize = 4;

/// Rules whose bits are a block.
pub(crate) const BLOCK_RULES: usize = BLOCK * LANES * 32;

/// Words of 64 bits that bits for so many rules both of whose sides are wide take in a row of a service
/// class.
pub(crate) fn wide_words(rules: usize) -> usize {
    let words = rules.div_ceil(64);
    words.next_multiple_of(if words * 2 > FEW_WORDS { BLOCK * ROW } else { ROW })
}

/// How many words of a row of a side are for so many parts, and how many there are with those for so
/// many rules both of whose sides are wide. What few rules leave of the last vector is for more of
/// either.
pub(crate) fn row_words(parts: usize, rules: usize) -> [usize; 2] {
    let parts = parts.div_ceil(64).max(1);
    if rules.div_ceil(32) > FEW_WORDS {
        let bits = parts.next_multiple_of(ROW);
        return [bits, bits + wide_words(rules)];
    }
    let words = parts + rules.div_ceil(64);
    let stride = words.next_multiple_of(ROW);
    [parts + (stride - words).div_ceil(2), stride]
}

/// How many rules both of whose sides are wide such a row has room for.
pub(crate) fn row_room([parts, words]: [usize; 2]) -> usize {
    let words = words - parts;
    let is_blocks = words >= BLOCK * ROW;
    if is_blocks { words * 64 } else { (words * 64).min(FEW_WORDS * 32) }
}

/// Rows of bits, one row for each of the things that they tell apart: first `bits` words of bits of
/// one kind, then the rest of `stride` words with a bit for each of
/// [`crate::classifier::Classifier::wide_rules`]; or, in a row of a service class where there are
/// [`crate::classifier::Classifier::wide_runs`], the place of the first of its runs, and above it their
/// number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) words: Store<u64>,
    pub(crate) bits: usize,
    pub(crate) stride: usize,
}

impl Rows {
    /// Whether `bit` of the row that begins at the word `start` is set. It is below 64 times
    /// [`Self::bits`].
    #[inline(always)]
    pub(crate) fn is_set(&self, start: u32, bit: u32) -> bool {
        let word = self.words.items().get(start as usize + (bit >> 6) as usize);
        word.is_some_and(|word| word >> (bit & 63) & 1 != 0)
    }

    /// Whether bits of rows that begin at words are set, as the lowest bits of what is returned.
    #[inline(always)]
    pub(crate) fn are_set<L: Lanes>(&self, lanes: L, starts: L::W, bits: L::W) -> L::W {
        let word = lanes.add(lanes.shl::<1>(starts), lanes.shr::<5>(bits));
        lanes.shr_by(lanes.gather(self.words.words(), word), bits)
    }

    /// The same where all bits are of one row, which begins at the word `start`.
    #[inline(always)]
    pub(crate) fn are_set_in<L: Lanes>(&self, lanes: L, start: u32, bits: L::W) -> L::W {
        if self.bits > ROW {
            return self.are_set(lanes, lanes.splat(start), bits);
        }
        // They are in its first vector.
        let row = self.words.items().get(start as usize..start as usize + ROW).unwrap_or(&[0; ROW]);
        let [row]: &[Eight] = bytemuck::cast_slice(row) else { return lanes.splat(0) };
        lanes.shr_by(lanes.permute(lanes.load(row), lanes.shr::<5>(bits)), bits)
    }

    /// The word at which the row of a number begins.
    #[inline(always)]
    pub(crate) fn start(&self, row: u32) -> u32 {
        row * self.stride as u32
    }

    /// The bits for [`crate::classifier::Classifier::wide_rules`] of the row that begins at the word
    /// `start`, the first lowest.
    #[inline(always)]
    pub(crate) fn wide_words(&self, start: u32) -> &[u64] {
        let start = start as usize;
        self.words.items().get(start + self.bits..start + self.stride).unwrap_or_default()
    }

    /// The same in blocks.
    #[inline(always)]
    pub(crate) fn blocks(&self, start: u32) -> &[[Eight; BLOCK]] {
        let words = self.wide_words(start);
        bytemuck::cast_slice(&words[..words.len() / (BLOCK * ROW) * (BLOCK * ROW)])
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.words.size_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lanes::{self, Kernel};

    struct Homes<'a>(&'a Pairs, Eight, Eight);

    impl Kernel for Homes<'_> {
        type Output = Eight;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> Eight {
            let Self(pairs, src, dst) = self;
            let mut homes = [0; LANES];
            lanes.store(pairs.homes(lanes, lanes.load(&src), lanes.load(&dst)), &mut homes);
            homes
        }
    }

    struct Meets<'a>(&'a Reach, Eight);

    impl Kernel for Meets<'_> {
        type Output = u32;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> u32 {
            self.0.meets(lanes, lanes.load(&self.1))
        }
    }

    proptest! {
        #[test]
        fn a_reach_meets_all_that_is_in_it_and_every_class(
            parts in proptest::collection::vec(0..1u32 << 20, 0..40),
            others in proptest::collection::vec(0..1u32 << 20, KEYS),
            plain in any::<bool>(),
        ) {
            lanes::tests::force_plain(plain);
            let mut reach = Reach::default();
            parts.iter().for_each(|&part| reach.insert(part));
            let is_in = |part: u32| parts.iter().any(|other| other % 256 == part % 256);
            let mut keys = Keys::EMPTY;
            for (key, &part) in keys.keys.iter_mut().zip(&others) {
                *key = PART_KEY | part;
            }
            let expected = (0..KEYS).filter(|&key| is_in(others[key])).fold(0, |m, k| m | 1 << k);
            prop_assert_eq!(lanes::run(Meets(&reach, *keys.words())), expected);
            prop_assert_eq!(lanes::run(Meets(&Reach::ALL, *keys.words())), (1 << KEYS) - 1);
            (keys.keys[0], keys.keys[1]) = (others[0], NONE);
            let expected = expected & !0b10 | 1;
            prop_assert_eq!(lanes::run(Meets(&reach, *keys.words())), expected);
            lanes::tests::force_plain(false);
        }

        #[test]
        fn eight_homes_are_those_of_each_pair(src: Eight, dst: Eight, homes in 1..u32::MAX / 2) {
            let pairs = Pairs { homes, ..Pairs::default() };
            let each: Vec<u32> = src.iter().zip(&dst).map(|(&s, &d)| pairs.home(s, d)).collect();
            prop_assert_eq!(lanes::run(Homes(&pairs, src, dst)).to_vec(), each);
        }
    }
}
