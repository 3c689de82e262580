//! Questions about a policy.

mod assertions;
mod probes;
mod space;
#[cfg(test)]
mod tests;

pub use assertions::{AssertionResult, Failure, check_assertions};
pub use probes::Probes;
