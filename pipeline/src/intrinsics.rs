//! What the machine can do and safe Rust cannot say: hints about memory, and vectors. The only
//! module of the crate with unsafe code. Where a machine lacks something, plain code does the same.

use bulkhead_rules::intrinsics::advise_huge_pages;
pub use bulkhead_rules::intrinsics::prefetch;

/// The lanes that equal `value`: bit n stands for `lanes[n]`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn equal_lanes(lanes: &[u16; 32], value: u16) -> u32 {
    #[allow(unsafe_code, reason = "the intrinsics load through raw pointers")]
    // SAFETY: SSE2 is part of x86-64; the four unaligned loads of 16 bytes read exactly the 64 bytes
    // of the array.
    // JUSTIFICATION: what the compiler makes of the plain loop changes with how it is written: six
    // wordings became 60 to 320 instructions for two sets of tags, this is 40.
    unsafe {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16,
            _mm_set1_epi16,
        };
        let at = lanes.as_ptr().cast::<__m128i>();
        let wanted = _mm_set1_epi16(value as i16);
        let equal = |place: usize| _mm_cmpeq_epi16(_mm_loadu_si128(at.add(place)), wanted);
        // A mask of 16 bits a lane narrows to one of 8, of which the top bits are gathered.
        let low = _mm_movemask_epi8(_mm_packs_epi16(equal(0), equal(1)));
        let high = _mm_movemask_epi8(_mm_packs_epi16(equal(2), equal(3)));
        low as u32 | (high as u32) << 16
    }
}

/// The lanes that equal `value`: bit n stands for `lanes[n]`.
#[cfg(not(target_arch = "x86_64"))]
pub fn equal_lanes(lanes: &[u16; 32], value: u16) -> u32 {
    lanes.iter().rev().fold(0, |bits, &lane| bits << 1 | u32::from(lane == value))
}

/// A vector of `len` copies of `value`, in huge pages where the system has them to give: random
/// access to a big table then misses the TLB less often.
pub fn filled_vec<T: Copy>(value: T, len: usize) -> Vec<T> {
    let mut filled = Vec::with_capacity(len);
    advise_huge_pages(filled.spare_capacity_mut());
    filled.resize(len, value);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_leaves_memory_alone() {
        let line = [7_u64; 8];
        prefetch(&line);
        assert_eq!(line, [7; 8]);
    }

    #[test]
    fn a_filled_vec_is_filled_whatever_its_size() {
        for len in [0, 1, 1000, 3 << 20] {
            let filled = filled_vec(0x5a_u8, len);
            assert_eq!((filled.len(), filled.capacity()), (len, len));
            assert!(filled.iter().all(|&byte| byte == 0x5a));
        }
        let wide = filled_vec([3_u64; 16], 70_000);
        assert!(wide.len() == 70_000 && wide.iter().all(|line| *line == [3; 16]));
    }

    #[test]
    fn lanes_are_compared_one_by_one() {
        for value in [0, 1, 0x7fff, 0x8000, 0xff00, 0x00ff, u16::MAX] {
            for lane in 0..32 {
                let mut lanes = [value ^ 0x0100; 32];
                lanes[lane] = value;
                assert_eq!(equal_lanes(&lanes, value), 1 << lane);
                lanes[lane / 2] = value;
                assert_eq!(equal_lanes(&lanes, value), 1 << lane | 1 << (lane / 2));
            }
            assert_eq!(equal_lanes(&[value; 32], value), u32::MAX);
            assert_eq!(equal_lanes(&[value ^ 1; 32], value), 0);
        }
    }
}
