//! Policy to classifier.
//!
//! Read the modules in the order in which a [`Compiler`] calls them:
//!
//! 1. `services`: EtherTypes, protocols and ports to service classes;
//! 2. `side`: the endpoints of one side in parts, and those to classes; `map` keeps their addresses,
//!    those of IPv6 by their `prefixes`;
//! 3. `plan`: how the rules of each part are listed;
//! 4. `lists`: each rule where a lookup finds it; `rows`: what is wide; `wide`: rules of two wide
//!    sides, `runs`: those by their services;
//! 5. `cross`: small policies crossed out, which is faster to look up; `shortlists`: larger ones, as far
//!    as that;
//! 6. `edit`: the same again, for what an edit of the policy changed; `growth` says when that has left
//!    too much behind;
//! 7. `copies`: the compiled form as workers read it;
//!
//! over `partition`, which finds equivalence classes, with the hashes of `mixer`, and `budget`, which keeps
//! the limits.

mod blocks;
pub(crate) mod budget;
mod copies;
mod cross;
mod edit;
mod growth;
mod lists;
mod map;
mod mixer;
pub(crate) mod partition;
mod plan;
mod prefixes;
mod rows;
mod runs;
pub(crate) mod services;
mod shortlists;
mod side;
#[cfg(test)]
pub(crate) mod tests;
mod wide;

use crate::classifier::Classifier;
use crate::policy::Policy;
pub use budget::{CompileError, Limits};
pub use lists::{Compiler, Edits};

/// Compiles a policy. Rules that are not in force now are compiled too: [`Classifier::classify`]
/// is told the time.
///
/// # Errors
///
/// When the policy needs more memory or time than `limits` grants; the error names what costs most.
pub fn compile(policy: &Policy, limits: &Limits) -> Result<Classifier, CompileError> {
    Ok(Compiler::new(policy, limits)?.into_classifier())
}
