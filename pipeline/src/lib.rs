//! The packet line: frames in, judged, out again, counted.
//!
//! Read the modules in the order in which a packet passes through them:
//!
//! 1. [`port`]: where bursts of frames come from and go to.
//! 2. [`worker`]: the table of contents of the packet path; every stage below is called from it.
//! 3. [`burst`] and [`parse`]: bytes to the fields that the later stages need, column by column.
//! 4. [`judge`]: the stages that turn those into verdicts, over
//!    [`flow_table`] and [`conntrack`] (the packet's flow and the state of its connection),
//!    [`fragment`] (later fragments follow their first one) and
//!    [`snapshot`] (the policy that judges packets without a flow, and how it is replaced).
//! 5. [`verdict`]: what becomes of a packet, and every reason for a drop.
//! 6. [`reject`]: the answers that the gateway originates.
//! 7. [`owner`] and [`handover`]: which worker judges a frame, and how it gets there.
//! 8. [`counters`] and [`observe`]: what the worker did, readable without disturbing it.
//! 9. [`record`]: what became of flows, and copies of frames, for those that keep records.
//! 10. [`bindings`]: who has which address, by what passes in ARP, neighbour discovery and DHCP.
//! 11. [`trace`]: what each stage made of single frames, while somebody asks.
//!
//! [`frames`] makes frames to order for tests, the simulator and benchmarks.

pub mod bindings;
pub mod burst;
pub mod checksum;
pub mod conntrack;
pub mod counters;
pub mod flow_table;
pub mod fragment;
pub mod frames;
pub mod handover;
pub mod intrinsics;
pub mod judge;
pub mod observe;
pub mod owner;
pub mod parse;
pub mod port;
pub mod record;
pub mod reject;
pub mod snapshot;
pub mod trace;
pub mod verdict;
mod waiting;
pub mod worker;
