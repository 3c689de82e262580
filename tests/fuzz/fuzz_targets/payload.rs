//! First payloads and announcements: what applications and names are known by.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run payload --fuzz-dir tests/fuzz -- -max_len=600` from the root of the
//! repository; an ordinary test of the gateway replays `corpus/payload`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pipeline/gateway/tests/payloads/invariants.rs"]
mod invariants;

fuzz_target!(|payload: &[u8]| invariants::check(payload));
