//! Questions about a policy: does it keep its promises ([`check_assertions`]), why does it decide as
//! it does ([`explain()`]), and which packets are worth asking it about ([`Probes`]).

mod assertions;
mod explain;
mod probes;
mod space;
#[cfg(test)]
mod tests;

pub use assertions::{AssertionResult, Failure, check_assertions};
pub use explain::{Condition, Explanation, Miss, explain};
pub use probes::Probes;
