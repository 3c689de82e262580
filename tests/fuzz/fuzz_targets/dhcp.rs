//! What DHCP messages say about addresses, alone and in frames.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run dhcp --fuzz-dir tests/fuzz -- -max_len=600` from the root of the
//! repository; an ordinary test of the pipeline replays `corpus/dhcp`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pipeline/tests/parse/claims.rs"]
mod claims;

fuzz_target!(|message: &[u8]| claims::check(message));
