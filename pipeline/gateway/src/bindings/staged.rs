//! Rules of the staged policy follow bindings as those of the policy in force do.

use std::sync::Arc;

use bulkhead_pipeline::snapshot::staged::{StagedPolicy, Staging};
use bulkhead_rules::compile::Compiler;
use bulkhead_rules::headers::Mac;
use tracing::error;

use super::Followed;
use crate::candidate::Candidate;
use crate::state::Gateway;
use crate::workflow::apply::staged_policy;

/// A staged policy that names MAC addresses.
pub struct StagedFollowed {
    named: Vec<Mac>,
    compiler: Compiler,
    latest: StagedPolicy,
}

/// What is published of a policy that is about to be staged. Takes as long as compiling it did where
/// it names MAC addresses, and nothing where it does not.
pub fn prepare(gateway: &Gateway, candidate: &Candidate) -> StagedPolicy {
    let plain = staged_policy(candidate);
    let named = candidate.policy.named_macs();
    if named.is_empty() {
        gateway.bindings().staged = None;
        return plain;
    }
    let told = gateway.bindings().told(&named);
    let (bound, _) = candidate.policy.bound(&told);
    let made = Compiler::new(&bound, &gateway.config.limits.compile);
    let mut followed = gateway.bindings();
    match made {
        Ok(mut compiler) => {
            let classifier = compiler.publish();
            let latest = StagedPolicy { policy: Arc::new(bound), classifier };
            let staged = StagedFollowed { named, compiler, latest: latest.clone() };
            followed.staged = Some(staged);
            latest
        }
        Err(error) => {
            error!("{error}: the staged policy does not follow the addresses of MAC addresses");
            followed.staged = None;
            plain
        }
    }
}

impl Followed {
    /// What is published about the staged policy together with something else: with the bindings that
    /// hold now.
    pub fn up_to_date(&mut self, staging: Staging) -> Staging {
        match (staging, &self.staged) {
            (Staging::Put(_), Some(staged)) => Staging::Put(staged.latest.clone()),
            (Staging::Drop, _) => {
                self.staged = None;
                Staging::Drop
            }
            (staging, _) => staging,
        }
    }

    /// The staged policy with the bindings that hold now; [`None`] where that is no change.
    pub(super) fn bring_staged_up_to_date(&mut self) -> Option<StagedPolicy> {
        let told = self.told(&self.staged.as_ref()?.named);
        let staged = self.staged.as_mut()?;
        if told == *staged.latest.policy.bindings() {
            return None;
        }
        let (policy, delta) = staged.latest.policy.bound(&told);
        if let Err(error) = staged.compiler.edit(&policy, &delta) {
            if self.not_followed_staged.is_due() {
                error!("{error}: the staged policy does not follow what has just changed");
            }
            return None;
        }
        let classifier = staged.compiler.publish();
        staged.latest = StagedPolicy { policy: Arc::new(policy), classifier };
        Some(staged.latest.clone())
    }
}
