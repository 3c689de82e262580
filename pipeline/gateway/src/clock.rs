//! What the wall clock says, and whether it can be believed.
//!
//! Unsafe: one system call that the standard library does not offer.
#![allow(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_pipeline::snapshot::WallClock;
use bulkhead_pipeline::worker::{Clock, MonotonicClock};

use crate::config::ClockTrust;

/// By how much the wall clock may drift against the workers' clock before it is published anew, in
/// milliseconds: below what a person would notice at a rule's `starts` or `expires`.
const TOLERATED_DRIFT_MS: u64 = 100;

/// The wall clock as it is now, in terms of the workers' clock.
pub fn read(workers: &MonotonicClock, trust: ClockTrust) -> WallClock {
    // The two are read one after the other; what lies between is far below a millisecond.
    let unix_ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    };
    let worker_ms = i64::try_from(workers.now_ns() / 1_000_000).unwrap_or(i64::MAX);
    WallClock {
        offset_ms: unix_ms.saturating_sub(worker_ms),
        synchronised: match trust {
            ClockTrust::Kernel => kernel_is_synchronised(),
            ClockTrust::Trusted => true,
        },
    }
}

/// Whether workers that go by `published` have to be told of `now`.
pub fn has_changed(published: WallClock, now: WallClock) -> bool {
    published.synchronised != now.synchronised
        || published.offset_ms.abs_diff(now.offset_ms) > TOLERATED_DRIFT_MS
}

/// Whether an NTP daemon has told the kernel that the clock is synchronised. A kernel that does not
/// answer is one that was told nothing.
fn kernel_is_synchronised() -> bool {
    // SAFETY: `timex` is a plain C struct for which all zeros is a valid value, and says with
    // `modes == 0` that nothing is to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `timex` that nothing else refers to.
    let state = unsafe { libc::adjtimex(&mut timex) };
    state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_leads_back_to_now() {
        let workers = MonotonicClock::start();
        let clock = read(&workers, ClockTrust::Trusted);
        assert!(clock.synchronised);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        assert!(clock.at(workers.now_ns()).unix_ms.abs_diff(now_ms) < 1000);
    }

    #[test]
    fn steps_and_synchronisation_are_changes_and_slewing_is_not() {
        let clock = |offset_ms, synchronised| WallClock { offset_ms, synchronised };
        assert!(!has_changed(clock(0, true), clock(100, true)));
        assert!(has_changed(clock(0, true), clock(-101, true)));
        assert!(has_changed(clock(0, true), clock(0, false)));
        assert!(has_changed(clock(i64::MIN, true), clock(i64::MAX, true)));
    }
}
