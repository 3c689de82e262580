//! The readers of manifests, signatures and trusted keys.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run signature --fuzz-dir tests/fuzz` from the root of the repository; an
//! ordinary test of the gateway replays `corpus/signature`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pipeline/gateway/tests/signature/invariants.rs"]
mod invariants;

fuzz_target!(|text: &str| {
    invariants::check(text);
});
