//! Endpoints that come, go, or change in more than their addresses.
//!
//! What an endpoint asks for besides addresses (MAC addresses, VLANs) decides into which parts its
//! boxes fall. As long as the parts stay, an edit moves what enters them and leaves them; where a
//! part appears or vanishes, as with the first MAC address of a group, the rules of the endpoint are
//! listed anew, and no others.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::budget::{Budget, Exceeded};
use super::super::lists::{Compiler, DST, SRC, directions};
use super::super::plan::Alternative;
use super::super::side::{
    self, KINDS, Kind, Part, PartChange, Treatment, addresses_of, kinds_of, macs_of,
};
use super::{Touched, Whole};
use crate::classifier::checks::Boxes;
use crate::headers::Mac;
use crate::policy::edit::Delta;
use crate::policy::{Endpoint, EndpointId, Policy, Rule, RuleId};
use crate::sets::AddrSet;

impl Compiler {
    /// Whether all that an endpoint is listed by is its addresses.
    pub(super) fn moves_alone(&self, endpoint: u32) -> bool {
        let is_alone = |side: usize| match *self.sides[side].parts_of(endpoint) {
            [part] => self.part(side, part).kind == Kind::Address,
            _ => false,
        };
        let has_parts = |side: &usize| !self.sides[*side].parts_of(endpoint).is_empty();
        [SRC, DST].iter().any(has_parts) && [SRC, DST].into_iter().filter(has_parts).all(is_alone)
    }

    /// Takes over the boxes of an endpoint that may differ from those before in anything.
    pub(super) fn change_boxes(
        &mut self,
        policy: &Policy,
        before: &Policy,
        delta: &Delta,
        endpoint: u32,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let place = endpoint as usize;
        let (old, new) = (&before.endpoints()[place], &policy.endpoints()[place]);
        if old.boxes == new.boxes {
            return Ok(());
        }
        let (old_kinds, new_kinds) = (kinds_of(old), kinds_of(new));
        let stays = old_kinds == new_kinds && old.tests_mac() == new.tests_mac();
        let rules = if stays { Vec::new() } else { self.rules_of(policy, before, delta, endpoint) };
        for &id in &rules {
            self.detach(before, id, touched, budget)?;
        }
        let mut used = [SRC, DST].map(|side| !self.sides[side].parts_of(endpoint).is_empty());
        for (from, to) in rules.iter().flat_map(|id| directions(&policy.rules()[id.0 as usize])) {
            used[SRC] |= from == endpoint;
            used[DST] |= to == endpoint;
        }
        for side in [SRC, DST].into_iter().filter(|&side| used[side]) {
            for (kind, (before, after)) in
                KINDS.into_iter().zip(old_kinds.into_iter().zip(new_kinds))
            {
                let parts = self.sides[side].parts_of(endpoint).iter().copied();
                let part = parts.into_iter().find(|&part| self.part(side, part).kind == kind);
                match (part, after) {
                    (Some(part), Some(_)) if before == after => {
                        self.change_part(policy, side, part, [old, new], touched, budget)?;
                        continue;
                    }
                    (Some(part), _) => {
                        self.drop_part(policy, side, part, old, touched, budget)?;
                        self.sides[side].remove_part(part, budget);
                    }
                    (None, _) => {}
                }
                if let Some(exact) = after {
                    let part = self.sides[side].add_part(endpoint, kind, exact, budget)?;
                    self.fill_part(policy, side, part, touched, budget)?;
                }
            }
        }
        if !rules.is_empty() {
            // No check has them now.
            let boxes = self.boxes.remove(&endpoint);
            budget.release(boxes.map_or(0, |boxes| boxes.size_bytes()));
        }
        for &id in &rules {
            self.attach_anew(policy, id, touched, budget)?;
        }
        Ok(())
    }

    /// The rules of an endpoint that both policies have.
    fn rules_of(
        &self,
        policy: &Policy,
        before: &Policy,
        delta: &Delta,
        endpoint: u32,
    ) -> Vec<RuleId> {
        let parts = [SRC, DST].map(|side| {
            let parts = self.sides[side].parts_of(endpoint).iter();
            parts.map(|&part| self.part(side, part)).collect::<Vec<_>>()
        });
        let is_listed = |parts: &Vec<&Part>| {
            parts.is_empty() || parts.iter().any(|part| part.treatment.is_narrow())
        };
        let had_boxes = !before.endpoint(EndpointId(endpoint)).boxes.is_empty();
        let mut rules: Vec<u32> = if had_boxes && parts.iter().all(is_listed) {
            let of_part = |part: &&Part| {
                let pairs = part.pairs.iter().map(|&(rule, _)| rule);
                pairs.chain(part.lists.iter().map(|listed| listed.rule)).collect::<Vec<u32>>()
            };
            parts.iter().flatten().flat_map(of_part).collect()
        } else {
            // Wide parts do not know their rules, and what holds nothing has no part.
            let is_of = |rule: &Rule| [rule.from, rule.to].contains(&EndpointId(endpoint));
            let rules = (0u32..).zip(policy.rules().iter());
            rules.filter(|(_, rule)| is_of(rule)).map(|(id, _)| id).collect()
        };
        rules.sort_unstable();
        rules.dedup();
        let both_have = |id: &RuleId| {
            policy.rule(*id).is_some_and(|rule| !rule.is_removed())
                && before.rule(*id).is_some_and(|rule| !rule.is_removed())
                && !delta.rules_added.contains(id)
        };
        rules.into_iter().map(RuleId).filter(both_have).collect()
    }

    /// Moves what entered and left a part that stays.
    fn change_part(
        &mut self,
        policy: &Policy,
        side: usize,
        part: u32,
        [old, new]: [&Arc<Endpoint>; 2],
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let kind = self.part(side, part).kind;
        if side::boxes_of(old, kind).eq(side::boxes_of(new, kind)) {
            return Ok(());
        }
        if kind != Kind::Address {
            self.touch_part(side, part, touched);
        }
        if kind == Kind::Mac {
            // What was named before and is no longer, and what is named now.
            let mut changes: HashMap<Mac, bool> = macs_of(old).map(|mac| (mac, false)).collect();
            changes.extend(macs_of(new).map(|mac| (mac, true)));
            return self.move_macs(policy, side, part, changes.into_iter(), budget);
        }
        let (before, after) = (side::addresses(old, kind), side::addresses(new, kind));
        let left = before.intersection(&after.complement());
        let entered = after.intersection(&before.complement());
        let region = left.union(&entered);
        let change = PartChange { part, region: &region, members: &after };
        self.move_addresses(policy, side, &[change], touched, budget)?;
        if kind != Kind::Address {
            self.touch_part(side, part, touched);
        }
        Ok(())
    }

    /// Notes which flows a part may decide whose boxes change.
    fn touch_part(&self, side: usize, id: u32, touched: &mut Touched) {
        let part = self.part(side, id);
        if !part.treatment.is_narrow() {
            touched.everything = true;
        } else if part.kind == Kind::Mac {
            let listed = part.lists.iter().map(|listed| (listed.rule, listed.other));
            for (rule, other) in part.pairs.iter().copied().chain(listed) {
                let (src, dst) = if side == SRC { (id, other) } else { (other, id) };
                self.touch(&Alternative { rule, src, dst }, touched);
            }
        } else {
            touched.classes[side].extend(&part.classes);
        }
    }

    fn move_macs(
        &mut self,
        policy: &Policy,
        side: usize,
        part: u32,
        changes: impl Iterator<Item = (Mac, bool)>,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let macs = if side == SRC { &mut self.out.src.macs } else { &mut self.out.dst.macs };
        let moves = self.sides[side].change_macs(Arc::make_mut(macs), part, changes);
        self.list_moves(policy, side, &moves, budget)
    }

    /// Fills a new part, which no rule uses yet.
    fn fill_part(
        &mut self,
        policy: &Policy,
        side: usize,
        part: u32,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let (kind, endpoint) = (self.part(side, part).kind, self.part(side, part).endpoint);
        let moves = if kind == Kind::Mac {
            let macs = if side == SRC { &mut self.out.src.macs } else { &mut self.out.dst.macs };
            let members = macs_of(&policy.endpoints()[endpoint as usize]).map(|mac| (mac, true));
            self.sides[side].change_macs(Arc::make_mut(macs), part, members)
        } else {
            let addresses = addresses_of(policy, self.part(side, part)).into_owned();
            let map = if side == SRC { &mut self.out.src.map } else { &mut self.out.dst.map };
            // A whole compilation does not invert: where memory is scarce, what it would take counts.
            let inverted = budget.is_ample() && self.sides[side].is_most(map, &addresses);
            self.sides[side].parts[part as usize].inverted = inverted;
            let (others, none);
            let (region, members) = if inverted {
                (others, none) = (addresses.complement(), AddrSet::default());
                (&others, &none)
            } else {
                (&addresses, &addresses)
            };
            let moves = self.sides[side].change(map, &[PartChange { part, region, members }]);
            touched.classes[side].extend(moves.changed());
            moves
        };
        budget.spend(1, moves.bytes)?;
        let inverted = self.part(side, part).inverted;
        // All classes that hold a new part are new, or have it as a new part.
        let mut treatment = match inverted {
            true => Treatment::Wide(0),
            false => self.plan.treatment(kind, moves.created.len() + moves.renamed.len()),
        };
        if let Treatment::Wide(bit) = &mut treatment {
            *bit = self.bits[side].take_place();
            if inverted {
                self.wide[side].inverted.insert(*bit);
                touched.rows = true;
            }
        }
        self.out.is_all_wide &= !treatment.is_narrow();
        self.sides[side].parts[part as usize].treatment = treatment;
        self.list_moves(policy, side, &moves, budget)
    }

    /// Empties a part that no rule uses any more, of an endpoint as it was.
    fn drop_part(
        &mut self,
        policy: &Policy,
        side: usize,
        part: u32,
        old: &Endpoint,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let kind = self.part(side, part).kind;
        if kind == Kind::Mac {
            let members = macs_of(old).map(|mac| (mac, false));
            self.move_macs(policy, side, part, members, budget)?;
        } else {
            let held = side::addresses(old, kind).into_owned();
            let (region, members) = match self.part(side, part).inverted {
                // All others are members too: it is a part of no class then.
                true => (held.complement(), held.complement()),
                false => (held, AddrSet::default()),
            };
            let change = PartChange { part, region: &region, members: &members };
            self.move_addresses(policy, side, &[change], touched, budget)?;
        }
        if let Treatment::Wide(bit) = self.part(side, part).treatment {
            self.bits[side].give_back(bit);
            touched.rows |= self.wide[side].inverted.remove(&bit);
        }
        Ok(())
    }

    /// Forgets an endpoint that no rule has on that side any more.
    pub(super) fn drop_unused(
        &mut self,
        policy: &Policy,
        before: &Policy,
        side: usize,
        endpoint: u32,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let parts = self.sides[side].parts_of(endpoint).to_vec();
        if parts.iter().any(|&part| self.part(side, part).uses > 0) {
            return Ok(());
        }
        for part in parts {
            let old = &before.endpoints()[endpoint as usize];
            self.drop_part(policy, side, part, old, touched, budget)?;
        }
        self.sides[side].remove_endpoint(endpoint, budget);
        if [SRC, DST].iter().all(|&side| self.sides[side].parts_of(endpoint).is_empty()) {
            let boxes = self.boxes.remove(&endpoint);
            budget.release(boxes.map_or(0, |boxes| boxes.size_bytes()));
        }
        Ok(())
    }

    pub(super) fn add_endpoint(
        &mut self,
        policy: &Policy,
        side: usize,
        endpoint: u32,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        self.sides[side].add_endpoint(policy, endpoint, budget)?;
        for part in self.sides[side].parts_of(endpoint).to_vec() {
            self.fill_part(policy, side, part, touched, budget)?;
        }
        Ok(())
    }

    /// Compares rules exactly with what an endpoint holds now.
    pub(super) fn renew_boxes(
        &mut self,
        policy: &Policy,
        endpoint: u32,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let Some(old) = self.boxes.get(&endpoint).cloned() else { return Ok(()) };
        let new = Arc::new(Boxes::new(policy.endpoints()[endpoint as usize].boxes.to_vec()));
        let is_old = |boxes: &Arc<Boxes>| Arc::ptr_eq(boxes, &old);
        let with = |boxes: &Arc<Boxes>| if is_old(boxes) { new.clone() } else { Arc::clone(boxes) };
        for rule in 0..self.out.checks.len() {
            let Some(check) = self.out.checks[rule].clone() else { continue };
            if is_old(&check.from) || is_old(&check.to) {
                let renewed = check.with_boxes(with(&check.from), with(&check.to));
                *self.out.checks.get_mut(rule) = Some(Arc::new(renewed));
            }
        }
        budget.release(old.size_bytes());
        budget.spend(1, new.size_bytes())?;
        self.boxes.insert(endpoint, new);
        Ok(())
    }
}
