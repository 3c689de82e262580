//! A world from a seed, around the workers that run in production, and what they promise.
//!
//! Hosts talk TCP, UDP, ICMP and more over wires in VLANs; the network between them and the gateway
//! loses, doubles, damages, cuts and delays frames; attackers scan, flood and forge; transmit queues
//! fill up, links go down, workers stall; the control thread reloads, edits, changes modes and the
//! wall clock; some worlds have tables so small that they are always full, and some several workers
//! whose ports spread frames so badly that most are handed over. Time is virtual, and all chance
//! comes from the seed: a seed replays exactly.
//!
//! Around the worker (`Worker::poll`, the one that the gateway runs) three things watch:
//!
//! - the model (`model.rs`): what may pass, and what must;
//! - the books (`books.rs`): every frame is forwarded, dropped or held exactly once, left as it
//!   was, by the right port, in order within its conversation, and every counter agrees;
//! - the reader (`reader.rs`): what a host would understand of a frame, written apart from the
//!   gateway's parser.
//!
//! `README.md` beside this file says what is checked and what was found. Read on in `world.rs`, which has the loop. `hosts.rs`, `tcp.rs` and `attackers.rs` are who
//! sends; `cable.rs` is the network; `port.rs` is what the worker is plugged into; `policies.rs` and
//! `control.rs` are what it judges by; `defects.rs` plants defects, each of which has to be found.
//!
//! ```
//! use bulkhead_tests::simulator::{Options, run};
//!
//! let report = run(Options { seed: 1, steps: 2_000, defect: None });
//! assert_eq!(report.violation, None);
//! ```

mod attackers;
mod books;
mod cable;
mod control;
mod defects;
mod frame;
mod hosts;
mod model;
mod policies;
mod port;
mod random;
mod reader;
mod report;
mod tcp;
mod world;

pub use cable::NetworkFaults;
pub use control::Publications;
pub use defects::Defect;
pub use report::{Figures, Report, Violation};
pub use world::{Options, run};
