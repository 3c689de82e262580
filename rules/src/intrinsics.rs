//! What the machine can do and safe Rust cannot say. With `lanes::avx2` the only unsafe code of the
//! crate.

use std::mem::MaybeUninit;

/// Asks for the cache line at the start of `place` to be loaded, so that a batch hides the latency
/// of memory behind its own work: one stage asks for the lines of all, the next reads them. A
/// hint: it has no effect on what the program computes, and none at all on machines other than
/// x86-64.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "the intrinsic takes a raw pointer")]
    // SAFETY: SSE is part of x86-64, the pointer comes from a reference, and the instruction
    // neither faults nor changes memory.
    // JUSTIFICATION: there is no safe prefetch in stable Rust. See `bench/results/classify.md`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Asks for huge pages in memory that was not touched yet. A hint: what comes of it is the kernel's
/// affair (`/sys/kernel/mm/transparent_hugepage`), and a refusal changes nothing but speed.
pub fn advise_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE: usize = 2 << 20;
        let start = memory.as_mut_ptr().cast::<u8>();
        let skipped = start.align_offset(HUGE_PAGE);
        let len = size_of_val(memory).saturating_sub(skipped) & !(HUGE_PAGE - 1);
        if len == 0 {
            return;
        }
        #[allow(unsafe_code, reason = "a call to the C library")]
        // SAFETY: the range lies in `memory`, which is borrowed exclusively; `madvise` with this
        // advice neither reads nor writes it.
        // JUSTIFICATION: a hit among a million flows takes 38 ns instead of 43 (measured by the
        // pipeline's `examples/flow_table_cost.rs` on a 2.6 GHz Xeon), a lookup in 30 MiB of groups
        // nine tenths of the time (`bulkhead-bench classify --segmentation`).
        unsafe {
            libc::madvise(start.add(skipped).cast(), len, libc::MADV_HUGEPAGE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// Which of the first three words equal `first` where the word three further on equals `second`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn equal_pairs(words: &[u32; 16], first: u32, second: u32) -> u32 {
    #[allow(unsafe_code, reason = "the intrinsics load through raw pointers")]
    // SAFETY: SSE2 is part of x86-64; the two unaligned loads of 16 bytes read bytes 0 to 15 and 12
    // to 27 of 64.
    // JUSTIFICATION: 25 instructions become 9. See `bench/results/classify.md`.
    unsafe {
        use std::arch::x86_64::{
            __m128i, _mm_and_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_loadu_si128,
            _mm_movemask_ps, _mm_set1_epi32,
        };
        let equal = |from: usize, value: u32| {
            let four = _mm_loadu_si128(words.as_ptr().add(from).cast::<__m128i>());
            _mm_cmpeq_epi32(four, _mm_set1_epi32(value as i32))
        };
        let both = _mm_and_si128(equal(0, first), equal(3, second));
        _mm_movemask_ps(_mm_castsi128_ps(both)) as u32 & 0b111
    }
}

/// Which of the first three words equal `first` where the word three further on equals `second`.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn equal_pairs(words: &[u32; 16], first: u32, second: u32) -> u32 {
    plain::equal_pairs(words, first, second)
}

/// The same without vectors: for other machines, and to test against.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod plain {
    pub(super) fn equal_pairs(words: &[u32; 16], first: u32, second: u32) -> u32 {
        let equal = |n: usize| words[n] == first && words[n + 3] == second;
        (0..3).fold(0, |bits, n| bits | u32::from(equal(n)) << n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn vectors_and_plain_code_agree(
            words in any::<[u32; 16]>(),
            planted in 0..3usize,
            second: u32,
        ) {
            let mut words = words;
            words[planted + 3] = second;
            for first in [words[planted], words[0], words[3]] {
                let expected = plain::equal_pairs(&words, first, second);
                prop_assert_eq!(equal_pairs(&words, first, second), expected);
            }
        }
    }
}
