//! What the end-to-end tests share: hosts in network namespaces, the gateway as a process between
//! them, frames and flows through it, and the metrics that it answers with.
//!
//! A test reads:
//!
//! ```no_run
//! use bulkhead_tests::{Driver, Gateway, Rig, Settings};
//! let Some(rig) = Rig::or_skip("example", 1) else { return };
//! let gateway = Gateway::start(&rig, Settings::new(Driver::AfXdp, "version: 1\n"));
//! // … traffic between rig.inside(0) and rig.outside(0) …
//! gateway.stop();
//! ```
//!
//! Everything that a test makes is named after its process and is removed when it ends, panics or
//! is interrupted; what a killed process left behind is removed by the next one.
//!
//! 1. [`namespace`]: one network namespace and the threads that work inside it.
//! 2. [`rig`]: hosts, wires, and the namespace of the gateway.
//! 3. [`gateway`]: the gateway's process, from its configuration to its exit status.
//! 4. [`metrics`]: what it says that it did, and whether that adds up.
//! 5. [`frames`] and [`raw`]: frames by hand, sent and captured.
//! 6. [`flows`] and [`load`]: TCP, UDP and ICMP as ordinary programs speak them, once or for long;
//!    [`dhcp`]: a client for one lease.
//! 7. [`memory`]: the quickstart's plant without namespaces.
//! 8. [`simulator`]: a world from a seed around the production worker, and what it promises.

#[path = "harness/dhcp.rs"]
pub mod dhcp;
#[path = "harness/flows.rs"]
pub mod flows;
#[path = "harness/frames.rs"]
pub mod frames;
#[path = "harness/gateway.rs"]
pub mod gateway;
#[path = "harness/load.rs"]
pub mod load;
#[path = "harness/memory.rs"]
pub mod memory;
#[path = "harness/metrics.rs"]
pub mod metrics;
#[path = "harness/namespace.rs"]
pub mod namespace;
#[path = "harness/raw.rs"]
pub mod raw;
#[path = "harness/rig.rs"]
pub mod rig;
pub mod simulator;

pub use gateway::{Driver, Gateway, Mode, Settings};
pub use metrics::Metrics;
pub use namespace::Namespace;
pub use rig::{Host, Rig};

/// Says that a test cannot run here, in the form that `tests/run.sh` counts and lists.
pub fn skip(test: &str, reason: &str) {
    println!("SKIPPED: {test}: {reason}");
}

/// Whether the long variants are wanted: `tests/run.sh --full`.
pub fn is_full() -> bool {
    std::env::var("BULKHEAD_FULL").is_ok_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::policy::Policy;

    #[test]
    fn the_policy_that_the_readme_shows_is_one() {
        let readme = include_str!("../README.md");
        let begin = readme.find("```yaml\n").expect("the README shows a policy") + 8;
        let length = readme[begin..].find("```").expect("its end");
        let policy = Policy::parse(&readme[begin..begin + length]);
        assert!(policy.is_ok_and(|policy| policy.rules().len() == 1));
    }
}
