//! The console before a running gateway over in-memory ports, asked as browsers and programs do. Who may
//! ask for what is tested for every route that the OpenAPI document has, so that a new one cannot be
//! forgotten.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod answers;
mod door;
mod events;
mod flood;
mod machine;
mod signing;
mod site;
mod tls;
