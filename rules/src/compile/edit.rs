//! A compiled policy after an edit.
//!
//! Whatever holds a changed address moves to the class of its new parts; classes that are new are
//! listed as a whole compilation would list them, and those that nothing is of any more are taken
//! out. A class all of which changes alike gets its new parts where it stands: nothing moves.
//! `endpoints` does so for endpoints that come, go, or test more than addresses. A whole compilation is
//! due only where the tables have outgrown their plan or all ranks are new.

use std::sync::Arc;
use std::time::Instant;

mod blocks;
mod endpoints;

use super::CompileError;
use super::budget::{Budget, Exceeded, MOST_NUMBERS};
use super::lists::{
    Compiler, DST, Edits, PAIR_BYTES, RULE_BYTES, SRC, alternatives_of, directions, in_use,
    tests_mac,
};
use super::plan::Alternative;
use super::services;
use super::side::{self, Class, Kind, Moves, PartChange, Treatment};
use super::wide::WideRule;
use crate::classifier::{Changes, Classifier, Footprint};
use crate::policy::edit::{Delta, EndpointChange};
use crate::policy::{Action, Policy, RuleId};
use crate::sets::AddrSet;

/// Why an edit is compiled as a whole.
enum Whole {
    /// The tables were not planned for so much, or all ranks are new.
    Needed,
    /// More than the limits grant; compiling it as a whole says what costs most.
    Exceeded,
}

impl From<Exceeded> for Whole {
    fn from(_: Exceeded) -> Self {
        Self::Exceeded
    }
}

/// What became of a class, or of all.
#[derive(Default)]
struct Touched {
    classes: [Vec<u32>; 2],
    everything: bool,
    /// Whether all rows have to be brought up to date: a rule both of whose sides are wide came or went,
    /// or a part that is inverted.
    rows: bool,
    /// Whether a rule came with a service that no other one has.
    services: bool,
}

impl Compiler {
    /// How edits were compiled so far.
    pub fn edits(&self) -> Edits {
        self.edits
    }

    /// The policy that is compiled.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// A copy of the compiled form that stays as it is.
    pub fn publish(&mut self) -> Arc<Classifier> {
        if !self.is_sound {
            if let Some(last) = self.copies.last() {
                return last;
            }
        }
        let written = self.out.take_written();
        self.copies.publish(&self.out, &written)
    }

    /// Takes over `policy`, which an edit made of [`Self::policy`] and which `delta` compares with
    /// it. Equal to compiling it as a whole, but costs what the edit changed. Returns which flows
    /// have to be judged again.
    ///
    /// A small policy that was crossed out, or put in short lists, is looked up in those of its classes
    /// from its first edit on, a third to half as fast, and IPv6 addresses of a side in a tree, half as
    /// fast, from the first edit on that moves some of them to another class, until it is compiled as a
    /// whole again, as a reload does. A policy in blocks
    /// stays in blocks.
    ///
    /// # Errors
    ///
    /// When the policy needs more memory or time than the limits grant. The policy before then stays
    /// in force: [`Self::policy`] and [`Self::publish`] go on to give it, and the next edit has to be
    /// one of it.
    pub fn edit(&mut self, policy: &Policy, delta: &Delta) -> Result<Changes, CompileError> {
        if self.copies.last().is_none() {
            // What is in force until an edit has succeeded.
            self.publish();
        }
        let before = self.policy.clone();
        let started = Instant::now();
        if self.is_sound {
            let edited = match self.blocks {
                Some(_) => self.try_edit_blocks(policy, &before, delta),
                None => self.try_edit(policy, &before, delta),
            };
            if let Ok(touched) = edited {
                self.policy = policy.clone();
                self.edits.incremental += 1;
                return Ok(touched.into_changes());
            }
            // Half an edit is of no use.
            self.is_sound = false;
        }
        let whole = Self::since(started, policy, &self.limits, self.fixed_plan)?;
        let edits = Edits { whole: self.edits.whole + 1, ..self.edits };
        *self = Self { edits, ..whole };
        Ok(Changes::Everything)
    }

    fn try_edit(
        &mut self,
        policy: &Policy,
        before: &Policy,
        delta: &Delta,
    ) -> Result<Touched, Whole> {
        if delta.respread {
            return Err(Whole::Needed);
        }
        // What the policy before takes counts too: what edits add up to has to load again.
        let mut budget = Budget::resume(self.limits, self.spent.bytes);
        let mut touched = Touched::default();
        // The lists say all, too, and are brought up to date for what changed.
        self.out.crossed = None;
        for &id in &delta.rules_removed {
            self.remove_rule(policy, before, id, &mut touched, &mut budget)?;
        }
        let mut alone = Vec::new();
        for change in &delta.endpoints {
            let endpoint = change.endpoint.0;
            if change.other || !self.moves_alone(endpoint) {
                self.change_boxes(policy, before, delta, endpoint, &mut touched, &mut budget)?;
            } else {
                alone.push(change);
            }
        }
        self.move_together(policy, &alone, &mut touched, &mut budget)?;
        for change in &delta.endpoints {
            self.renew_boxes(policy, change.endpoint.0, &mut budget)?;
        }
        for &id in &delta.rules_added {
            self.add_rule(policy, id, &mut touched, &mut budget)?;
        }
        self.finish(policy, delta, &touched, &mut budget)?;
        if self.is_overgrown(policy.rules().len()) {
            return Err(Whole::Needed);
        }
        self.spent.bytes = budget.spent_bytes();
        Ok(touched)
    }

    /// Moves what entered and left endpoints that are listed by their addresses alone. An address
    /// enters or leaves a group and all that hold it: its classes are made and listed once for all.
    fn move_together(
        &mut self,
        policy: &Policy,
        changes: &[&EndpointChange],
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let sets: Vec<_> = (changes.iter())
            .map(|change| {
                let (v4, v6) = (change.v4.clone(), change.v6.clone());
                let region = AddrSet { v4, v6, non_ip: change.non_ip };
                (region, side::addresses(policy.endpoint(change.endpoint), Kind::Address))
            })
            .collect();
        for side in [SRC, DST] {
            let mut of_side = Vec::with_capacity(changes.len());
            for (change, (region, members)) in changes.iter().zip(&sets) {
                let parts = self.sides[side].parts_of(change.endpoint.0).iter();
                of_side.extend(parts.map(|&part| PartChange { part, region, members }));
            }
            if !of_side.is_empty() {
                self.move_addresses(policy, side, &of_side, touched, budget)?;
            }
        }
        Ok(())
    }

    fn move_addresses(
        &mut self,
        policy: &Policy,
        side: usize,
        changes: &[PartChange<'_>],
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let map = if side == SRC { &mut self.out.src.map } else { &mut self.out.dst.map };
        let moves = self.sides[side].change(map, changes);
        budget.spend(1, moves.bytes)?;
        self.list_moves(policy, side, &moves, budget)?;
        touched.classes[side].extend(moves.changed());
        Ok(())
    }

    /// Lists the classes that a change made, and takes out those that it left empty.
    fn list_moves(
        &mut self,
        policy: &Policy,
        side: usize,
        moves: &Moves,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        for &class in &moves.created {
            let parts = self.sides[side].classes.all[class as usize].parts.clone();
            budget.spend(parts.len(), Class::bytes(&parts))?;
            self.enter_class(side, class, &parts)?;
        }
        let mut gone = Vec::new();
        let (mut listed, mut unlisted) = (moves.created.clone(), Vec::new());
        for (class, before) in &moves.renamed {
            let class = *class;
            let parts = self.sides[side].classes.all[class as usize].parts.clone();
            budget.release(Class::bytes(before));
            budget.spend(parts.len(), Class::bytes(&parts))?;
            let without = |all: &[u32], others: &[u32]| -> Vec<u32> {
                let is_other = |part: &&u32| others.binary_search(part).is_ok();
                all.iter().filter(|part| !is_other(part)).copied().collect()
            };
            let (left, entered) = (without(before, &parts), without(&parts, before));
            let has_rules = |&part: &u32| {
                let part = self.part(side, part);
                !part.pairs.is_empty() || !part.lists.is_empty()
            };
            if left.iter().chain(&entered).any(has_rules) {
                self.unlist_class(side, class, before, budget);
                listed.push(class);
            } else {
                // As where an endpoint is new, or goes: what the class leads to stays.
                unlisted.push(class);
            }
            gone.extend(left.into_iter().map(|part| (part, class)));
            self.enter_class(side, class, &entered)?;
        }
        for &class in &moves.left {
            if self.sides[side].classes.all[class as usize].uses == 0 {
                let parts = self.sides[side].classes.all[class as usize].parts.clone();
                self.unlist_class(side, class, &parts, budget);
                self.sides[side].classes.remove(class);
                budget.release(Class::bytes(&parts));
                gone.extend(parts.iter().map(|&part| (part, class)));
            }
        }
        self.leave_parts(side, gone);
        for class in unlisted {
            self.renew_membership(side, class, budget)?;
        }
        for class in listed {
            self.record(side, class, budget)?;
            let parts = self.sides[side].classes.all[class as usize].parts.clone();
            let mut pairs = 0;
            self.for_each_pair_of(side, class, &parts, |compiler, rule, src, dst, alternative| {
                let candidate = compiler.candidate(policy, &alternative);
                let service = policy.rules()[rule as usize].service.0;
                compiler.edit_pair(src, dst, |rules| rules.push((candidate, service)));
                pairs += 1;
            });
            budget.spend(pairs, pairs * PAIR_BYTES)?;
        }
        if self.is_crowded() { Err(Whole::Needed) } else { Ok(()) }
    }

    /// Tells parts that they hold a class.
    fn enter_class(&mut self, side: usize, class: u32, parts: &[u32]) -> Result<(), Whole> {
        for &part in parts {
            let part = &mut self.sides[side].parts[part as usize];
            if part.treatment.is_narrow() {
                part.classes.push(class);
                if part.classes.len() > self.plan.most_classes(part.treatment) {
                    return Err(Whole::Needed);
                }
            }
        }
        Ok(())
    }

    /// Tells parts which classes they hold no longer.
    fn leave_parts(&mut self, side: usize, mut gone: Vec<(u32, u32)>) {
        gone.sort_unstable();
        for of_part in gone.chunk_by(|a, b| a.0 == b.0) {
            let classes = &mut self.sides[side].parts[of_part[0].0 as usize].classes;
            if let &[(_, only)] = of_part {
                let place = classes.iter().position(|&class| class == only);
                place.map(|place| classes.swap_remove(place));
            } else {
                let is_gone =
                    |class: &u32| of_part.binary_search_by_key(class, |one| one.1).is_ok();
                classes.retain(|class| !is_gone(class));
            }
        }
    }

    /// Takes a class with these parts out of all lists.
    fn unlist_class(&mut self, side: usize, class: u32, parts: &[u32], budget: &mut Budget) {
        self.for_each_pair_of(side, class, parts, |compiler, _, src, dst, _| {
            compiler.edit_pair(src, dst, Vec::clear);
            budget.release(PAIR_BYTES);
        });
        self.clear_record(side, class, budget);
    }

    /// Calls `found` with each rule that stands under the class itself by these parts, and the pair of
    /// keys.
    fn for_each_pair_of(
        &mut self,
        side: usize,
        class: u32,
        parts: &[u32],
        mut found: impl FnMut(&mut Self, u32, u32, u32, Alternative),
    ) {
        for &id in parts {
            let part = self.part(side, id);
            if part.treatment != Treatment::ByClass {
                continue;
            }
            for (rule, other) in part.pairs.clone() {
                let (src_part, dst_part) = if side == SRC { (id, other) } else { (other, id) };
                let alternative = Alternative { rule, src: src_part, dst: dst_part };
                for key in self.keys(1 - side, other) {
                    let (src, dst) = if side == SRC { (class, key) } else { (key, class) };
                    found(self, rule, src, dst, alternative);
                }
            }
        }
    }

    fn remove_rule(
        &mut self,
        policy: &Policy,
        before: &Policy,
        id: RuleId,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let rule = &before.rules()[id.0 as usize];
        self.detach(before, id, touched, budget)?;
        self.service_uses[rule.service.0 as usize] -= 1;
        for (from, to) in directions(rule) {
            for (side, endpoint) in [(SRC, from), (DST, to)] {
                self.drop_unused(policy, before, side, endpoint, touched, budget)?;
            }
        }
        Ok(())
    }

    /// Takes a rule out of all lists.
    fn detach(
        &mut self,
        before: &Policy,
        id: RuleId,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let rule = &before.rules()[id.0 as usize];
        let mut alternatives = Vec::new();
        alternatives_of(id.0, rule, &self.sides[SRC], &self.sides[DST], &mut alternatives);
        for alternative in &alternatives {
            let &Alternative { src, dst, .. } = alternative;
            self.touch(alternative, touched);
            let (s, d) = (self.part(SRC, src).treatment, self.part(DST, dst).treatment);
            if let (Treatment::Wide(src), Treatment::Wide(dst)) = (s, d) {
                let candidate = self.candidate(before, alternative);
                let service = rule.service.0;
                self.wide_rules.remove(&WideRule { candidate, src, dst, service });
            }
            if s.is_narrow() && d.is_narrow() {
                for s in self.keys(SRC, src) {
                    for d in self.keys(DST, dst) {
                        self.edit_pair(s, d, |rules| {
                            rules.retain(|&(candidate, _)| !is_of(candidate, id));
                        });
                        budget.release(PAIR_BYTES);
                    }
                }
            }
            for (side, part) in [(SRC, src), (DST, dst)] {
                let part = &mut self.sides[side].parts[part as usize];
                part.uses -= 1;
                part.pairs.retain(|&(rule, _)| rule != id.0);
                part.lists.retain(|listed| listed.rule != id.0);
            }
            self.renew_lists(alternative, budget)?;
        }
        self.mac_ranks.remove(&before.rank(id));
        self.drop_check(id, budget);
        Ok(())
    }

    fn drop_check(&mut self, id: RuleId, budget: &mut Budget) {
        if let Some(Some(check)) = self.out.checks.get(id.0 as usize) {
            budget.release(check.size_bytes());
            *self.out.checks.get_mut(id.0 as usize) = None;
        }
    }

    fn add_rule(
        &mut self,
        policy: &Policy,
        id: RuleId,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let rule = &policy.rules()[id.0 as usize];
        for (from, to) in directions(rule) {
            for (side, endpoint) in [(SRC, from), (DST, to)] {
                if self.sides[side].parts_of(endpoint).is_empty() {
                    self.add_endpoint(policy, side, endpoint, touched, budget)?;
                }
            }
        }
        self.service_uses.resize(policy.services().len(), 0);
        let uses = &mut self.service_uses[rule.service.0 as usize];
        touched.services |= *uses == 0;
        *uses += 1;
        if rule.service.0 as usize >= MOST_NUMBERS {
            return Err(Whole::Needed);
        }
        self.attach_anew(policy, id, touched, budget)
    }

    /// Lists a rule whose endpoints have their parts.
    fn attach_anew(
        &mut self,
        policy: &Policy,
        id: RuleId,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let rule = &policy.rules()[id.0 as usize];
        if tests_mac(policy, rule) {
            self.mac_ranks.insert(policy.rank(id));
        }
        self.drop_check(id, budget);
        self.set_check(policy, id, rule, budget)?;
        let mut alternatives = Vec::new();
        alternatives_of(id.0, rule, &self.sides[SRC], &self.sides[DST], &mut alternatives);
        for alternative in &alternatives {
            self.attach(policy, alternative);
            self.touch(alternative, touched);
            let &Alternative { src, dst, .. } = alternative;
            let narrow = |side, part| self.part(side, part).treatment.is_narrow();
            if narrow(SRC, src) && narrow(DST, dst) {
                self.add_pairs(policy, alternative, budget)?;
            }
            self.renew_lists(alternative, budget)?;
        }
        if self.is_crowded() { Err(Whole::Needed) } else { Ok(()) }
    }

    /// Lists a new alternative both of whose sides are narrow.
    fn add_pairs(
        &mut self,
        policy: &Policy,
        alternative: &Alternative,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        let &Alternative { rule, src, dst } = alternative;
        for (side, part) in [(SRC, src), (DST, dst)] {
            let part = self.part(side, part);
            // The classes of a part without a pair have no key.
            if part.treatment == Treatment::ByClass && part.pairs.len() == 1 {
                let classes = part.classes.clone();
                self.renew_records(side, &classes, budget)?;
            }
        }
        self.reach_more(SRC, src, dst);
        self.reach_more(DST, dst, src);
        let candidate = self.candidate(policy, alternative);
        let service = policy.rules()[rule as usize].service.0;
        let (src, dst) = (self.keys(SRC, src), self.keys(DST, dst));
        let pairs = src.len().saturating_mul(dst.len());
        budget.spend(pairs, pairs.saturating_mul(PAIR_BYTES))?;
        for &s in &src {
            for &d in &dst {
                self.edit_pair(s, d, |rules| rules.push((candidate, service)));
            }
        }
        Ok(())
    }

    /// Lists anew the rules of the classes of an alternative with one narrow side.
    fn renew_lists(&mut self, alternative: &Alternative, budget: &mut Budget) -> Result<(), Whole> {
        let (src, dst) = (self.part(SRC, alternative.src), self.part(DST, alternative.dst));
        let (side, classes) = match (src.treatment.is_narrow(), dst.treatment.is_narrow()) {
            (true, false) => (SRC, src.classes.clone()),
            (false, true) => (DST, dst.classes.clone()),
            _ => return Ok(()),
        };
        for class in classes {
            self.renew_list(side, class, budget)?;
        }
        Ok(())
    }

    fn renew_records(
        &mut self,
        side: usize,
        classes: &[u32],
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        for &class in classes {
            self.clear_record(side, class, budget);
            self.record(side, class, budget)?;
        }
        Ok(())
    }

    /// Notes which flows an alternative that comes or goes may decide.
    fn touch(&self, alternative: &Alternative, touched: &mut Touched) {
        let (src, dst) = (self.part(SRC, alternative.src), self.part(DST, alternative.dst));
        let sides = [(SRC, src), (DST, dst)];
        // Flows keep the classes of their addresses only.
        let narrow = sides
            .into_iter()
            .filter(|(_, part)| part.treatment.is_narrow() && part.kind != Kind::Mac);
        match narrow.min_by_key(|(_, part)| part.classes.len()) {
            Some((side, part)) => touched.classes[side].extend(&part.classes),
            None => touched.everything = true,
        }
        touched.rows |= sides.iter().all(|(_, part)| !part.treatment.is_narrow());
    }

    /// Brings up to date what is not listed by class.
    fn finish(
        &mut self,
        policy: &Policy,
        delta: &Delta,
        touched: &Touched,
        budget: &mut Budget,
    ) -> Result<(), Whole> {
        self.out.first_mac_rank = self.mac_ranks.first().copied();
        let rules_changed = !delta.rules_added.is_empty() || !delta.rules_removed.is_empty();
        if rules_changed {
            let len = policy.rules().len();
            let more = len.saturating_sub(self.out.actions.len());
            budget.spend(1, more * RULE_BYTES)?;
            let Classifier { actions, ranks, .. } = &mut self.out;
            actions.grow(len, Action::Deny);
            ranks.grow(len, u32::MAX);
            for &id in &delta.rules_added {
                *actions.get_mut(id.0) = policy.action(id);
                *ranks.get_mut(id.0) = policy.rank(id);
            }
            self.out.rules = policy.rule_count();
            if touched.services {
                let used = in_use(&self.service_uses);
                budget.release(std::mem::take(&mut self.spent.services));
                let before = budget.spent_bytes();
                self.out.services = Arc::new(services::build(policy, &used, budget)?.map);
                self.spent.services = budget.spent_bytes() - before;
                self.write_rows(budget)?;
                return Ok(());
            }
        }
        if touched.rows {
            self.write_rows(budget)?
        } else {
            self.write_new_rows(budget)?
        }
        Ok(())
    }
}

/// Whether a candidate is of a rule.
fn is_of(candidate: u64, rule: RuleId) -> bool {
    candidate as u32 & !crate::classifier::tables::CHECKED == rule.0
}

impl Touched {
    fn into_changes(self) -> Changes {
        if self.everything {
            return Changes::Everything;
        }
        let [src, dst] = self.classes.map(|classes| {
            let of = |class| Footprint::of_classes(class, 0).src;
            let mut footprints: Vec<u16> = classes.into_iter().map(of).collect();
            footprints.sort_unstable();
            footprints.dedup();
            footprints
        });
        Changes::Footprints { src, dst }
    }
}
