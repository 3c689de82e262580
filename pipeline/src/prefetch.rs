//! Hints that bring memory into the cache before it is read.
//!
//! A burst hides the latency of memory behind its own packets: a stage asks for the lines of all
//! packets, the next stage reads them. This is the only place of the crate with unsafe code.

/// Asks for the cache line at the start of `place` to be loaded into every level of the cache.
/// A hint: it has no effect on what the program computes, and none at all on machines other than
/// x86-64.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "the intrinsic takes a raw pointer")]
    // SAFETY: SSE is part of x86-64, the pointer comes from a reference, and the instruction
    // neither faults nor changes memory.
    // JUSTIFICATION: there is no safe prefetch in stable Rust; without it a hit among a million
    // flows waits for memory twice (measured by `examples/flow_table_cost.rs`).
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::prefetch;

    #[test]
    fn prefetch_leaves_memory_alone() {
        let line = [7_u64; 8];
        prefetch(&line);
        assert_eq!(line, [7; 8]);
    }
}
