//! The reader of pcap and pcapng files, plain and in gzip.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run capture --fuzz-dir tests/fuzz -- -max_len=4096` from the root of
//! the repository; an ordinary test of the pipeline replays `corpus/capture`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pipeline/tests/capture/invariants.rs"]
mod invariants;

fuzz_target!(|file: &[u8]| {
    invariants::check(file);
});
