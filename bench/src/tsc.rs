//! The processor's time-stamp counter: what time costs least to tell.
//!
//! Unsafe: reading the counter is an intrinsic.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// Ticks of the counter, which runs at the processor's nominal frequency whatever its real one is.
/// On machines without one, nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of x86-64, and touches no memory.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Ticks in a second, by the machine's clock. Takes 50 ms.
pub fn hertz() -> f64 {
    let (ticks, began) = (now(), Instant::now());
    while began.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
    let elapsed = began.elapsed();
    (now() - ticks) as f64 / elapsed.as_secs_f64()
}

/// What one reading costs in ticks: the least of many.
pub fn cost() -> u64 {
    let pairs = (0..1000).map(|_| {
        let first = now();
        now() - first
    });
    pairs.min().unwrap_or(0)
}
