//! The packet line as a whole, over in-memory ports.

mod common;
#[path = "../parse/data.rs"]
mod data;

#[allow(unsafe_code, reason = "a global allocator that counts is an unsafe trait")]
mod allocation;
mod attacks;
mod bindings;
mod edits;
mod faults;
mod fragments;
mod guards;
mod handover;
mod quarantine;
mod records;
mod reload;
mod staged;
mod tcp;
mod trace;
mod tunnels;
mod worker;
