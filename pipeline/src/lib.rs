//! The packet line: frames in, judged, out again, counted.
//!
//! Read the modules in the order in which a packet passes through them:
//!
//! 1. [`port`]: where bursts of frames come from and go to.
//! 2. [`worker`]: the table of contents of the packet path; every stage below is called from it.
//! 3. [`parse`]: bytes to the fields that the later stages need.
//! 4. [`fragment`]: later fragments follow their first one.
//! 5. [`flow_table`] and [`conntrack`]: the packet's flow and the state of its connection.
//! 6. [`snapshot`]: the policy that judges the packets without a flow, and how it is replaced.
//! 7. [`verdict`]: what becomes of a packet, and every reason for a drop.
//! 8. [`reject`]: the answers that the gateway originates.
//! 9. [`counters`] and [`observe`]: what the worker did, readable without disturbing it.
//!
//! [`frames`] makes frames to order for tests, the simulator and benchmarks.

pub mod checksum;
pub mod conntrack;
pub mod counters;
pub mod flow_table;
pub mod frames;
pub mod observe;
pub mod parse;
pub mod port;
pub mod prefetch;
pub mod reject;
pub mod snapshot;
pub mod verdict;
