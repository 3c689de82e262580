//! The slow, obviously right linear scan that every engine is compared with.

use crate::headers::{Headers, PolicyTime};
use crate::policy::{Policy, RuleId};

/// The first rule, in the order of the policy, that matches `headers` at the instant `at`;
/// [`RuleId::DEFAULT`] where none does.
pub fn classify(policy: &Policy, headers: &Headers, at: PolicyTime) -> RuleId {
    (policy.rules().iter().enumerate())
        .find(|(_, rule)| rule.is_active(at) && rule.matches(policy, headers))
        .map_or(RuleId::DEFAULT, |(index, _)| RuleId(index as u32))
}
