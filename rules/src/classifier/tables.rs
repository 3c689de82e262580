//! Where rules are listed: what a lookup reads once it has the classes of a frame.
//!
//! A candidate is known by its place in the policy's order above the rule's number, so that the
//! least candidate decides. Bit 31 of the rule's number says that more has to be compared.

use super::store::Store;

/// No line, no key.
pub(crate) const NONE: u32 = u32::MAX;
/// Set in a rule's number where more than classes has to be compared.
pub(crate) const CHECKED: u32 = 1 << 31;
/// No candidate.
pub(crate) const NOTHING: u64 = u64::MAX;
/// Set in the key of a part; the key of a class is the class.
pub(crate) const PART_KEY: u32 = 1 << 31;

/// What one class of one side leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// First of the [`Line`]s with the rules whose other side is wide, or 0.
    pub(crate) lines: u32,
    /// Where its row of [`Rows`] begins: which wide parts hold the class.
    pub(crate) wide: u32,
    /// The only key, or [`NONE`].
    pub(crate) key: u32,
    /// The [`Keys`] of a class that has more than one, or has a part's key; else [`NONE`].
    pub(crate) keys: u32,
}

impl Record {
    pub(crate) const EMPTY: Self = Self { lines: 0, wide: 0, key: NONE, keys: NONE };
}

/// The keys of [`Keys`] in one block.
pub(crate) const KEYS: usize = 15;

/// The keys of a class of many, and which keys of the other side they meet: one line each.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Keys {
    /// A bit for each key of a part of the other side that some rule pairs with a key of this class,
    /// by [`Keys::bit`]; other bits may be set too.
    pub(crate) meets: [u64; 8],
    /// [`NONE`] from the first unused on.
    pub(crate) keys: [u32; KEYS],
    /// Where more are, or [`NONE`].
    pub(crate) next: u32,
}

impl Keys {
    pub(crate) const EMPTY: Self = Self { meets: [0; 8], keys: [NONE; KEYS], next: NONE };

    #[inline(always)]
    pub(crate) fn bit(key: u32) -> u32 {
        key.wrapping_mul(0x9e37_79b1) >> 23
    }

    /// Whether a pair with `key` of the other side may be listed.
    #[inline(always)]
    pub(crate) fn may_meet(&self, key: u32) -> bool {
        let bit = Self::bit(key);
        key & PART_KEY == 0 || self.meets[(bit >> 6) as usize] >> (bit & 63) & 1 != 0
    }
}

/// Candidates of a [`Line`].
pub(crate) const LINE: usize = 5;

/// Rules in deciding order: a cache line. Line 0 is empty, so that there is always one to read.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Line {
    /// [`NOTHING`] from the first unused on.
    pub(crate) candidates: [u64; LINE],
    /// Service below, wide part of the other side above.
    pub(crate) conditions: [u32; LINE],
    /// Where more are, or 0.
    pub(crate) next: u32,
}

impl Line {
    pub(crate) const EMPTY: Self =
        Self { candidates: [NOTHING; LINE], conditions: [0; LINE], next: 0 };
}

/// Rules of a [`Bucket`].
pub(crate) const BUCKET: usize = 3;

/// Up to three rules by the pair of their keys, in no order: a cache line of the words of three
/// source keys, three destination keys, three candidates ([`NOTHING`] where unused; lower word
/// first), three services, and the number of the next bucket, or [`NONE`]. Where a pair has many
/// rules it has one entry here, whose service is [`LINES`] and whose candidate is the number of the
/// first of their lines.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Bucket(pub(crate) [u32; 16]);

impl Bucket {
    pub(crate) const EMPTY: Self = {
        let mut words = [NONE; 16];
        (words[12], words[13], words[14]) = (0, 0, 0);
        Self(words)
    };

    #[inline(always)]
    pub(crate) fn candidate(&self, slot: usize) -> u64 {
        u64::from(self.0[6 + 2 * slot]) | u64::from(self.0[7 + 2 * slot]) << 32
    }

    #[inline(always)]
    pub(crate) fn service(&self, slot: usize) -> u32 {
        self.0[12 + slot]
    }

    #[inline(always)]
    pub(crate) fn next(&self) -> u32 {
        self.0[15]
    }

    pub(crate) fn set_next(&mut self, next: u32) {
        self.0[15] = next;
    }

    pub(crate) fn set(&mut self, slot: usize, entry: PairEntry) {
        let PairEntry { src, dst, candidate, service } = entry;
        (self.0[slot], self.0[3 + slot], self.0[12 + slot]) = (src, dst, service);
        (self.0[6 + 2 * slot], self.0[7 + 2 * slot]) = (candidate as u32, (candidate >> 32) as u32);
    }
}

/// [`PairEntry::service`] of a pair whose rules stand in lines.
pub(crate) const LINES: u32 = u32::MAX;

/// What a [`Bucket`] holds of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PairEntry {
    pub(crate) src: u32,
    pub(crate) dst: u32,
    pub(crate) candidate: u64,
    pub(crate) service: u32,
}

impl PairEntry {
    pub(crate) const VACANT: Self = Self { src: NONE, dst: NONE, candidate: NOTHING, service: 0 };
}

const _: () = assert!(size_of::<Record>() == 16 && size_of::<Keys>() == 128);
const _: () = assert!(size_of::<Line>() == 64 && size_of::<Bucket>() == 64);

/// Rules by pairs of keys: a hash table of buckets, each the start of a chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    pub(crate) buckets: Store<Bucket>,
    /// Buckets that keys hash to; those behind them continue chains.
    pub(crate) homes: u32,
}

impl Pairs {
    /// The bucket in which the chain of a pair begins. There is none where [`Self::homes`] is zero.
    #[inline(always)]
    pub(crate) fn home(&self, src: u32, dst: u32) -> u32 {
        let mixed = u64::from(src).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ u64::from(dst).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (((mixed >> 32) * u64::from(self.homes)) >> 32) as u32
    }
}

/// Rows of bits, one row for each of the things that they tell apart: first `bits` words of bits of
/// one kind, then the rest of `stride` words with a bit for each of [`WideRules`].
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

    /// The bits for [`crate::classifier::Classifier::wide_rules`] of the row that begins at the word
    /// `start`.
    #[inline(always)]
    pub(crate) fn wide(&self, start: u32) -> &[u64] {
        let start = start as usize;
        &self.words.items()[start + self.bits..start + self.stride]
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.words.size_bytes()
    }
}
