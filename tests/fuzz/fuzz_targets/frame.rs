//! The frame parser, its reading of quoted packets, and the answers to rejected frames.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run frame --fuzz-dir tests/fuzz -- -max_len=512` from the root of
//! the repository; an ordinary test of the pipeline replays `corpus/frame`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pipeline/tests/parse/invariants.rs"]
mod invariants;

fuzz_target!(|frame: &[u8]| {
    let _ = invariants::check(frame);
    // Mutations seldom hit the one right IPv4 header checksum in 65,536.
    let mut frame = frame.to_vec();
    if frame.len() >= 34 && frame[12..14] == [0x08, 0x00] {
        let header_end = (14 + usize::from(frame[14] & 0xf) * 4).clamp(34, frame.len());
        frame[24..26].fill(0);
        let sum = bulkhead_pipeline::checksum::add(0, &frame[14..header_end]);
        frame[24..26].copy_from_slice(&bulkhead_pipeline::checksum::finish(sum).to_be_bytes());
        let _ = invariants::check(&frame);
    }
});
