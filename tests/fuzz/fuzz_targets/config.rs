//! The reader of `gateway.toml`.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run config --fuzz-dir tests/fuzz` from the root of the repository; an
//! ordinary test of the gateway replays `corpus/config`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pipeline/gateway/tests/config/invariants.rs"]
mod invariants;

fuzz_target!(|text: &str| {
    invariants::check(text);
});
