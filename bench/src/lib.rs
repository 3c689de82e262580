//! Side-by-side benchmarks and the generators that feed them.
//!
//! 1. [`data`]: where the data folder is, and the rule sets in it.
//! 2. [`classbench`]: ClassBench rule sets to policy text.
//! 3. [`verify`]: the classifier against the linear scan, packet by packet.
//! 4. [`segmentation`]: policies of groups and services at scale, and headers for them.
//! 5. [`forwarding`]: the gateway against `dpdk-testpmd` on the same devices.
//!
//! [`random`] is where all of them get their seeded numbers from.

pub mod classbench;
pub mod data;
pub mod five_tuples;
pub mod forwarding;
pub mod random;
pub mod segmentation;
pub mod verify;
