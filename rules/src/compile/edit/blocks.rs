//! A policy in blocks after an edit: the prefixes of rules that changed leave their blocks, and new
//! ones find a place.

use std::collections::HashSet;

use super::super::blocks::{Entry, LISTED_BYTES, OTHERS, V4, V6, entries_of};
use super::super::budget::{Budget, MOST_NUMBERS};
use super::super::lists::{Compiler, DST, SRC, tests_mac};
use super::{Touched, Whole};
use crate::classifier::blocks::{FOOTPRINT_BITS, footprint};
use crate::policy::edit::Delta;
use crate::policy::{Policy, RuleId};

/// Footprints of one prefix that flows are told one by one, as a power of two.
const MOST_FOOTPRINT_BITS: u32 = 8;

impl Compiler {
    /// As [`Self::try_edit`], in blocks.
    pub(super) fn try_edit_blocks(
        &mut self,
        policy: &Policy,
        before: &Policy,
        delta: &Delta,
    ) -> Result<Touched, Whole> {
        if delta.respread {
            return Err(Whole::Needed);
        }
        let mut budget = Budget::resume(self.limits, self.spent.bytes);
        let entries = self.blocks.as_ref().map_or(0, |blocks| blocks.entries());
        if !budget.is_ample() || budget.left_bytes() / LISTED_BYTES < entries {
            return Err(Whole::Needed);
        }
        let mut touched = Touched::default();
        let moved = moved_rules(policy, delta);
        let [left, entered] = [&delta.rules_removed, &delta.rules_added]
            .map(|rules| rules.iter().chain(&moved).copied());
        let mut gone = entries_of(before, left.clone(), &mut budget).ok_or(Whole::Needed)?;
        let mut new = entries_of(policy, entered.clone(), &mut budget).ok_or(Whole::Needed)?;
        for id in left {
            self.mac_ranks.remove(&before.rank(id));
            self.drop_check(id, &mut budget);
        }
        // Their numbers are taken again.
        for id in delta.endpoints_removed.iter().chain(&delta.endpoints_added) {
            if let Some(boxes) = self.boxes.remove(&id.0) {
                budget.release(boxes.size_bytes());
            }
        }
        for change in &delta.endpoints {
            self.renew_boxes(policy, change.endpoint.0, &mut budget)?;
        }
        for &id in &delta.rules_removed {
            self.service_uses[before.rules()[id.0 as usize].service.0 as usize] -= 1;
        }
        for &id in &delta.rules_added {
            touched.services |= self.use_service(policy, id)?;
        }
        for id in entered {
            let rule = &policy.rules()[id.0 as usize];
            if tests_mac(policy, rule) {
                self.mac_ranks.insert(policy.rank(id));
            }
            self.set_check(policy, id, rule, &mut budget)?;
        }
        self.finish(policy, delta, &touched, &mut budget)?;
        let tests_more = delta.endpoints.iter().any(|change| change.other);
        keep_differing(&mut gone, &mut new, tests_more.then_some(&mut touched));
        gone.iter().chain(&new).for_each(|entry| entry.touch(&mut touched));
        let (Some(blocks), Some(rules)) = (&mut self.out.blocks, &mut self.blocks) else {
            return Err(Whole::Needed);
        };
        let bytes = blocks.size_bytes();
        let map = &self.out.services;
        rules.replace(policy, blocks, map, [&gone, &new], touched.services).ok_or(Whole::Needed)?;
        budget.release(bytes);
        budget.spend(1, blocks.size_bytes())?;
        self.spent.bytes = budget.spent_bytes();
        Ok(touched)
    }

    /// Counts a new rule's use of its service. Whether it is the first.
    fn use_service(&mut self, policy: &Policy, id: RuleId) -> Result<bool, Whole> {
        self.service_uses.resize(policy.services().len(), 0);
        let service = policy.rules()[id.0 as usize].service.0 as usize;
        if service >= MOST_NUMBERS {
            return Err(Whole::Needed);
        }
        let uses = &mut self.service_uses[service];
        *uses += 1;
        Ok(*uses == 1)
    }
}

/// The rules that stay and whose endpoints may hold other hosts than before.
fn moved_rules(policy: &Policy, delta: &Delta) -> Vec<RuleId> {
    if delta.endpoints.is_empty() {
        return Vec::new();
    }
    let changed: HashSet<u32> = delta.endpoints.iter().map(|change| change.endpoint.0).collect();
    let added: HashSet<RuleId> = delta.rules_added.iter().copied().collect();
    let stays = policy.order().filter(|id| !added.contains(id));
    let is_moved = |id: &RuleId| {
        policy
            .rule(*id)
            .is_some_and(|rule| changed.contains(&rule.from.0) || changed.contains(&rule.to.0))
    };
    stays.filter(is_moved).collect()
}

/// Leaves only those entries that are not in both. What those that are in both decide is touched
/// where their endpoints test something else than before.
fn keep_differing(gone: &mut Vec<Entry>, new: &mut Vec<Entry>, mut touched: Option<&mut Touched>) {
    let all: HashSet<Entry> = new.iter().copied().collect();
    let both: HashSet<Entry> = gone.iter().copied().filter(|entry| all.contains(entry)).collect();
    if let Some(touched) = &mut touched {
        both.iter().for_each(|entry| entry.touch(touched));
    }
    gone.retain(|entry| !both.contains(entry));
    new.retain(|entry| !both.contains(entry));
}

impl Entry {
    /// Notes which flows it may decide.
    fn touch(&self, touched: &mut Touched) {
        if self.family == OTHERS {
            // The footprint of all that is not IP.
            touched.classes[SRC].push(0);
            return;
        }
        const { assert!(V4 == 0 && V6 == 1, "the families of footprints") };
        let bits = FOOTPRINT_BITS[self.family];
        let unknown = |side: usize| bits.saturating_sub(self.lengths[side].into());
        let side = if unknown(SRC) <= unknown(DST) { SRC } else { DST };
        let unknown = unknown(side);
        if unknown > MOST_FOOTPRINT_BITS {
            touched.everything = true;
            return;
        }
        let leading = (self.addresses[side] >> (128 - bits)) as u64;
        let all = leading..leading + (1 << unknown);
        touched.classes[side].extend(all.map(footprint));
    }
}
