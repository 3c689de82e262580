//! The policy reader, resolution and the printer.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run policy --fuzz-dir tests/fuzz -- -max_len=4096` from the root of
//! the repository; an ordinary test of `rules` replays `corpus/policy`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../rules/tests/text/invariants.rs"]
mod invariants;

fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
