//! What the wall clock says, and whether it can be believed.
//!
//! Unsafe: one system call that the standard library does not offer.
#![allow(unsafe_code)]

use std::io;
use std::sync::Once;
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_pipeline::snapshot::WallClock;
use bulkhead_pipeline::worker::{Clock, MonotonicClock};
use tracing::error;

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

/// Whether an NTP daemon has told the kernel that the clock is synchronised. A kernel that will not
/// say counts as one that was told nothing, and that is logged: it is never so by itself.
fn kernel_is_synchronised() -> bool {
    static TOLD: Once = Once::new();
    kernel_says(ask_kernel()).unwrap_or_else(|error| {
        TOLD.call_once(|| error!("{}", refusal(&error)));
        false
    })
}

/// The state and the status of the kernel's clock.
fn ask_kernel() -> io::Result<(libc::c_int, libc::c_int)> {
    // SAFETY: `timex` is a plain C struct for which all zeros is a valid value, and says with
    // `modes == 0` that nothing is to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `timex` that nothing else refers to.
    let state = unsafe { libc::adjtimex(&mut timex) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok((state, timex.status)) }
}

fn kernel_says(answer: io::Result<(libc::c_int, libc::c_int)>) -> io::Result<bool> {
    let (state, status) = answer?;
    Ok(state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0)
}

fn refusal(error: &io::Error) -> String {
    format!(
        "the kernel does not let the gateway ask whether the clock is synchronised (adjtimex: \
         {error}), so it counts as not synchronised and no `allow` with `starts` or `expires` \
         allows anything; remove `ProtectClock=yes`, or whatever else blocks adjtimex, from \
         the service, or, where the clock is right all the same, write `clock = \"trusted\"`"
    )
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
    fn a_kernel_that_refuses_is_not_one_whose_clock_is_unsynchronised() {
        assert!(kernel_says(Ok((libc::TIME_OK, 0))).unwrap());
        assert!(!kernel_says(Ok((libc::TIME_ERROR, libc::STA_UNSYNC))).unwrap());
        assert!(!kernel_says(Ok((libc::TIME_OK, libc::STA_UNSYNC))).unwrap());
        let blocked = io::Error::from_raw_os_error(libc::EPERM);
        let error = kernel_says(Err(blocked)).unwrap_err();
        let message = refusal(&error);
        assert!(message.contains("ProtectClock") && message.contains("not permitted"), "{message}");
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
