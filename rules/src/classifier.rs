//! The immutable compiled form of a policy and its batched lookup.
//!
//! A classifier is made by [`crate::compile::compile`]. It owns all that it needs: the policy that
//! it came from may be dropped.

use crate::headers::{Headers, PolicyTime};
use crate::policy::{Action, RuleId};

/// The largest batch that one call of [`Classifier::classify`] takes: a worker's burst.
pub const MAX_BATCH: usize = 64;

/// A compiled policy.
#[derive(Debug)]
pub struct Classifier {
    default: Action,
    actions: Vec<Action>,
}

/// A worker's working memory for lookups, so that the classifier itself is shared read-only. Its
/// size is fixed by [`MAX_BATCH`], not by the policy: one serves every classifier that a worker will
/// ever see, and [`Classifier::classify`] never allocates.
#[derive(Debug, Default)]
pub struct Scratch {}

impl Classifier {
    /// Finds, for each of `headers` (at most [`MAX_BATCH`]), the first rule that is active at `at`
    /// and matches, and writes it to the same place of `out`, [`RuleId::DEFAULT`] where there is
    /// none. Equal to [`crate::oracle::classify`] for every input.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than `headers` or the batch is too large.
    pub fn classify(
        &self,
        headers: &[Headers],
        at: PolicyTime,
        scratch: &mut Scratch,
        out: &mut [RuleId],
    ) {
        let _ = (headers, at, scratch, out);
        unreachable!("the compiler comes next");
    }

    /// The action of a rule, or of the default.
    pub fn action(&self, rule: RuleId) -> Action {
        self.actions.get(rule.0 as usize).copied().unwrap_or(self.default)
    }

    /// Whether `rule`, or a rule before it, tests a MAC address: a flow that `rule` decided has then
    /// to be classified again when its MAC addresses change.
    pub fn is_mac_sensitive(&self, rule: RuleId) -> bool {
        let _ = rule;
        true
    }

    /// The number of rules.
    pub fn rules(&self) -> usize {
        self.actions.len()
    }

    /// Heap bytes that the compiled form takes.
    pub fn size_bytes(&self) -> usize {
        0
    }
}
