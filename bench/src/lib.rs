//! Side-by-side benchmarks and the generators that feed them.
//!
//! 1. [`data`]: where the data folder is, and the rule sets in it.
//! 2. [`classbench`]: ClassBench rule sets to policy text.
//! 3. [`verify`]: the classifier against the linear scan, packet by packet.
//! 4. [`forwarding`]: the gateway against `dpdk-testpmd` on the same devices.

pub mod classbench;
pub mod data;
pub mod forwarding;
pub mod verify;
