//! Questions about a policy: does it keep its promises ([`check_assertions`]), which of its rules do
//! nothing ([`findings()`]), why does it decide as it does ([`explain()`]), and which packets are worth
//! asking it about ([`Probes`]).

mod assertions;
mod diff;
mod explain;
mod findings;
mod model;
mod packets;
mod probes;
mod reach;
mod region;
#[cfg(test)]
mod tests;
mod universe;
mod work;

pub use assertions::{AssertionResult, Failure, check_assertions};
pub use diff::{Diff, Difference, diff};
pub use explain::{Condition, Explanation, Miss, explain, failed};
pub use findings::{Finding, FindingKind, Findings, findings};
pub use packets::{Packets, Words};
pub use probes::Probes;
pub use reach::{Access, Reach, ServiceAccess, reach};

pub(crate) use probes::split_mix;
