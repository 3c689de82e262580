//! Lanes as arrays, for every machine.

use super::{Eight, Fields, Halves, LANES, Lanes, Words, last_group};
use crate::headers::Headers;
use crate::intrinsics::prefetch;

/// Plain code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

#[inline(always)]
fn each(a: Eight, b: Eight, f: impl Fn(u32, u32) -> u32) -> Eight {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Lanes for Plain {
    type W = Eight;

    #[inline(always)]
    fn splat(self, word: u32) -> Eight {
        [word; LANES]
    }

    #[inline(always)]
    fn add(self, a: Eight, b: Eight) -> Eight {
        each(a, b, u32::wrapping_add)
    }

    #[inline(always)]
    fn sub(self, a: Eight, b: Eight) -> Eight {
        each(a, b, u32::wrapping_sub)
    }

    #[inline(always)]
    fn mul(self, a: Eight, b: Eight) -> Eight {
        each(a, b, u32::wrapping_mul)
    }

    #[inline(always)]
    fn and(self, a: Eight, b: Eight) -> Eight {
        each(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or(self, a: Eight, b: Eight) -> Eight {
        each(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn without(self, a: Eight, b: Eight) -> Eight {
        each(a, b, |a, b| a & !b)
    }

    #[inline(always)]
    fn shl<const BITS: i32>(self, a: Eight) -> Eight {
        a.map(|word| word << BITS)
    }

    #[inline(always)]
    fn shr<const BITS: i32>(self, a: Eight) -> Eight {
        a.map(|word| word >> BITS)
    }

    #[inline(always)]
    fn shr_by(self, a: Eight, bits: Eight) -> Eight {
        each(a, bits, |a, bits| a >> (bits & 31))
    }

    #[inline(always)]
    fn shr_far(self, a: Eight, bits: Eight) -> Eight {
        each(a, bits, |a, bits| a.checked_shr(bits).unwrap_or(0))
    }

    #[inline(always)]
    fn min(self, a: Eight, b: Eight) -> Eight {
        each(a, b, Ord::min)
    }

    #[inline(always)]
    fn equal(self, a: Eight, b: Eight) -> Eight {
        each(a, b, |a, b| u32::from(a == b).wrapping_neg())
    }

    #[inline(always)]
    fn signs(self, words: Eight) -> Eight {
        words.map(|word| (word >> 31).wrapping_neg())
    }

    #[inline(always)]
    fn select(self, mask: Eight, a: Eight, b: Eight) -> Eight {
        std::array::from_fn(|lane| a[lane] & mask[lane] | b[lane] & !mask[lane])
    }

    #[inline(always)]
    fn permute(self, words: Eight, places: Eight) -> Eight {
        places.map(|place| words[place as usize % LANES])
    }

    #[inline(always)]
    fn bits(self, mask: Eight) -> u32 {
        (0..LANES).fold(0, |bits, lane| bits | mask[lane] >> 31 << lane)
    }

    #[inline(always)]
    fn gather(self, table: Words<'_>, places: Eight) -> Eight {
        places.map(|place| table.words[place.min(table.last()) as usize])
    }

    #[inline(always)]
    fn shl_by(self, a: Eight, bits: Eight) -> Eight {
        each(a, bits, |a, bits| a << bits)
    }

    #[inline(always)]
    fn gather_halves(self, table: Halves<'_>, places: Eight) -> Eight {
        places.map(|place| table.halves[place.min(table.last()) as usize].into())
    }

    #[inline(always)]
    fn gather_two(self, table: Words<'_>, places: Eight) -> [Eight; 2] {
        let words = table.rows().as_flattened();
        [0, 1].map(|place| places.map(|two| words[2 * two.min(table.last_two()) as usize + place]))
    }

    #[inline(always)]
    fn fields(self, headers: &[Headers], first: usize) -> Fields<Eight> {
        let frames = last_group(headers, first);
        Fields {
            src: frames.map(|h| h.src as u32),
            dst: frames.map(|h| h.dst as u32),
            ports: frames.map(|h| u32::from(h.src_port) | u32::from(h.dst_port) << 16),
            kind: frames.map(|h| u32::from(h.ether_type) | u32::from(h.protocol) << 16),
        }
    }

    #[inline(always)]
    fn addresses(self, headers: &[Headers], first: usize) -> [Eight; LANES] {
        let frames = last_group(headers, first);
        std::array::from_fn(|word| {
            frames.map(|frame| {
                let address = if word < 4 { frame.src } else { frame.dst };
                (address >> (32 * (word % 4))) as u32
            })
        })
    }

    #[inline(always)]
    fn load(self, words: &Eight) -> Eight {
        *words
    }

    #[inline(always)]
    fn store(self, vector: Eight, words: &mut Eight) {
        *words = vector;
    }

    #[inline(always)]
    fn xor(self, a: Eight, b: Eight) -> Eight {
        each(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn halves_at_most(self, a: Eight, b: Eight) -> Eight {
        let half = |a: u32, b: u32| if a as u16 <= b as u16 { 0xffff } else { 0 };
        each(a, b, |a, b| half(a, b) | half(a >> 16, b >> 16) << 16)
    }

    #[inline(always)]
    fn count_halves(self, counts: Eight, mask: Eight) -> Eight {
        let half = |counts: u32, mask: u32| u32::from((counts as u16).wrapping_sub(mask as u16));
        each(counts, mask, |counts, mask| half(counts, mask) | half(counts >> 16, mask >> 16) << 16)
    }

    #[inline(always)]
    fn trailing_zeros(self, words: Eight) -> Eight {
        words.map(|word| word.trailing_zeros() & 31)
    }

    #[inline(always)]
    fn leading_zeros(self, words: Eight) -> Eight {
        words.map(u32::leading_zeros)
    }

    #[inline(always)]
    fn gather_rows(self, table: Words<'_>, rows: Eight) -> [Eight; LANES] {
        let rows = rows.map(|row| table.rows()[row.min(table.last_row()) as usize]);
        std::array::from_fn(|word| rows.map(|row| row[word]))
    }

    #[inline(always)]
    fn prefetch_rows(self, table: Words<'_>, rows: Eight) {
        rows.iter().filter_map(|&row| table.rows().get(row as usize)).for_each(prefetch);
    }

    #[inline(always)]
    fn take_bits(self, word: u64, mut mask: u64) -> u64 {
        let (mut taken, mut place) = (0, 0);
        // A run of bits at a time.
        while mask != 0 {
            let start = mask.trailing_zeros();
            let len = (mask >> start).trailing_ones();
            let run = u64::MAX >> (u64::BITS - len);
            taken |= (word >> start & run) << place;
            place += len;
            mask &= !(run << start);
        }
        taken
    }

    #[inline(always)]
    fn fraction(self, words: Eight, of: u32) -> Eight {
        words.map(|word| ((u64::from(word) * u64::from(of)) >> 32) as u32)
    }
}
