//! Side-by-side benchmarks and the generators that feed them.
//!
//! 1. [`data`]: where the data folder is, and the rule sets in it.
//! 2. [`classbench`]: ClassBench rule sets to policy text; [`trace`]: headers for them.
//! 3. [`segmentation`]: policies of groups and services at scale, and headers for them.
//! 4. [`five_tuples`]: policies multiplied out to what other engines can load.
//! 5. [`tuple_space`]: tuple space search, a baseline and a second opinion.
//! 6. [`classify`]: the classifier beside its competitors; [`contest`] measures them in turns,
//!    [`external`] those that run in processes of their own, [`instructions`] counts, [`report`]
//!    and [`plot`] tell, [`shows`] judges.
//! 7. [`verify`]: the classifier against the linear scan, packet by packet.
//!    [`verify_edits`]: edited classifiers against both the scan and whole compilations.
//! 8. [`forwarding`]: the gateway against `dpdk-testpmd` on the same devices.
//! 9. [`edits`]: what edits of the policy cost the flows that are there.
//! 10. [`pipeline`]: the whole packet path in one process, without a NIC.
//!     [`attacks`]: what attackers can do to it.
//! 11. [`rfc2544`]: throughput, latency, loss and bursts as that RFC has them, between the ends of
//!     [`rfc`]; [`rfc9411`]: TCP connections as that one has them.
//! 12. [`learn`]: learning judged forward in time beside its baselines.
//!
//! [`random`] is where all of them get their seeded numbers from, [`heap`] how peaks of memory are
//! measured, [`huge_pages`] where DPDK keeps its tries, [`machine`] what figures were measured on,
//! [`tsc`] the clock that costs least.

pub mod analysis;
pub mod attacks;
pub mod classbench;
pub mod classify;
pub mod contest;
pub mod data;
pub mod edits;
pub mod external;
pub mod five_tuples;
pub mod forwarding;
pub mod heap;
pub mod huge_pages;
pub mod instructions;
pub mod learn;
pub mod machine;
pub mod pipeline;
pub mod plot;
pub mod random;
pub mod report;
pub mod rfc;
pub mod rfc2544;
pub mod rfc9411;
pub mod segmentation;
pub mod shows;
pub mod trace;
pub mod tsc;
pub mod tuple_space;
pub mod verify;
pub mod verify_edits;
