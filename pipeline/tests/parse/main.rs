//! The parser against arbitrary bytes, mutated frames, real captures, and another dissector.

mod captures;
mod claims;
mod data;
mod fuzz_corpus;
mod invariants;
mod properties;
mod tshark;
