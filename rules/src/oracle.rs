//! The slow, obviously right linear scan that every engine is compared with.

use crate::headers::{Headers, PolicyTime};
use crate::policy::{Policy, Rule, RuleId};

/// The first rule, in the order of the policy, that matches `headers` at the instant `at`;
/// [`RuleId::DEFAULT`] where none does.
pub fn classify(policy: &Policy, headers: &Headers, at: PolicyTime) -> RuleId {
    let matches = |rule: &Rule| rule.is_active(at) && rule.matches(policy, headers);
    (policy.order()).find(|&id| policy.rule(id).is_some_and(matches)).unwrap_or(RuleId::DEFAULT)
}
