//! The immutable compiled form of a policy and its batched lookup.
//!
//! A classifier is made by [`crate::compile::compile`]. It owns all that it needs: the policy that
//! it came from may be dropped.
//!
//! Each field group of a frame is first replaced by its class: source, destination and service each
//! become one small number, equal for all values that the same endpoints or services hold. Groups
//! thus cost what they tell apart, not how many addresses they have, and are never multiplied out
//! into address pairs. The rules stand in lists ([`parts`]) under the classes that they name: those
//! with two narrow sides under the pair, those with one narrow side under that side's class, the
//! others under the service class. What a list does not imply is compared exactly, so that the
//! choice of the list is a matter of speed only.

use std::fmt;

use crate::headers::{Headers, PolicyTime};
use crate::policy::{Action, RuleId};

mod changes;
pub(crate) mod hosts;
pub(crate) mod parts;
pub(crate) mod services;

pub use changes::{Changes, FOOTPRINTS, Footprint};

/// The largest batch that one call of [`Classifier::classify`] takes: a worker's burst.
pub const MAX_BATCH: usize = 64;

/// A compiled policy.
#[derive(Debug)]
pub struct Classifier {
    pub(crate) default: Action,
    pub(crate) actions: Vec<Action>,
    /// The first rule that tests a MAC address.
    pub(crate) first_mac_rule: Option<RuleId>,
    pub(crate) src: hosts::HostMap,
    pub(crate) dst: hosts::HostMap,
    pub(crate) services: services::ServiceMap,
    pub(crate) parts: parts::Parts,
}

/// A worker's working memory for lookups, so that the classifier itself is shared read-only. Its
/// size is fixed by [`MAX_BATCH`], not by the policy: one serves every classifier that a worker will
/// ever see, and [`Classifier::classify`] never allocates.
pub struct Scratch {
    keys: [parts::Keys; MAX_BATCH],
}

impl Default for Scratch {
    fn default() -> Self {
        Self { keys: [parts::Keys::default(); MAX_BATCH] }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl Scratch {
    /// Where the frame at `place` of the last batch was judged. Holds for [`Changes`] of the
    /// classifier that judged it and of those that edits make of it.
    pub fn footprint(&self, place: usize) -> Footprint {
        let keys = &self.keys[place];
        Footprint::of_classes(keys.src[0], keys.dst[0])
    }
}

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
        assert!(headers.len() <= MAX_BATCH, "a batch of {} headers", headers.len());
        let out = &mut out[..headers.len()];
        // One stage over the whole batch after the other, so that the loads of a stage, which do
        // not depend on each other, overlap.
        for (keys, h) in scratch.keys.iter_mut().zip(headers) {
            keys.src[0] = self.src.address_key(h.ether_type, h.src);
        }
        for (keys, h) in scratch.keys.iter_mut().zip(headers) {
            keys.dst[0] = self.dst.address_key(h.ether_type, h.dst);
        }
        for (keys, h) in scratch.keys.iter_mut().zip(headers) {
            keys.src[1] = self.src.mac_key(h.src_mac);
            keys.dst[1] = self.dst.mac_key(h.dst_mac);
        }
        for (keys, h) in scratch.keys.iter_mut().zip(headers) {
            keys.service = self.services.class(h);
        }
        for ((keys, h), out) in scratch.keys.iter().zip(headers).zip(out) {
            *out = RuleId(self.parts.first_match(keys, h, at, &self.services));
        }
    }

    /// The action of a rule, or of the default.
    pub fn action(&self, rule: RuleId) -> Action {
        self.actions.get(rule.0 as usize).copied().unwrap_or(self.default)
    }

    /// Whether `rule`, or a rule before it, tests a MAC address: a flow that `rule` decided has then
    /// to be classified again when its MAC addresses change.
    pub fn is_mac_sensitive(&self, rule: RuleId) -> bool {
        self.first_mac_rule.is_some_and(|first| first <= rule)
    }

    /// The number of rules.
    pub fn rules(&self) -> usize {
        self.actions.len()
    }

    /// Heap bytes that the compiled form takes.
    pub fn size_bytes(&self) -> usize {
        size_of_val(&*self.actions)
            + self.src.size_bytes()
            + self.dst.size_bytes()
            + self.services.size_bytes()
            + self.parts.size_bytes()
    }
}
