//! Questions about a policy.

mod probes;

pub use probes::Probes;
