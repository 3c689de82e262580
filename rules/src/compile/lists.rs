//! Rules to where lookups find them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::blocks::{self, BlockRules};
use super::budget::{Budget, Cost, Exceeded};
use super::copies::Copies;
use super::cross;
use super::growth::{Compact, ListPlaces};
use super::map::Places;
use super::plan::{Alternative, Plan};
use super::rows::WideSets;
use super::services;
use super::shortlists;
use super::side::{self, Cuts, Listed, Part, Side, Treatment};
use super::wide::{WideBits, WideRule};
use super::{CompileError, Limits};
use crate::classifier::addresses::AddressMap;
use crate::classifier::blocks::Blocks;
use crate::classifier::checks::{Boxes, Check, Times};
use crate::classifier::tables::{
    BUCKET, Bucket, CHECKED, KEYS, Keys, LINE, LINES, Line, NONE, NOTHING, PART_KEY, PairEntry,
    Pairs, Reach, Record, Rows, join,
};
use crate::classifier::{self, Classifier};
use crate::headers::Mac;
use crate::policy::{Action, EndpointId, Pages, Policy, Rule, RuleId};

/// A policy's compiled form, and what it takes to keep it up to date.
#[derive(Debug)]
pub struct Compiler {
    pub(super) limits: Limits,
    pub(super) policy: Policy,
    pub(super) plan: Plan,
    /// The plan to keep, in tests of each.
    pub(super) fixed_plan: Option<Plan>,
    pub(super) edits: Edits,
    pub(super) sides: [Side; 2],
    pub(super) wide: [WideSets; 2],
    /// For each wide part of either side its wide rules, as bits.
    pub(super) rules_of_parts: [Vec<Vec<u64>>; 2],
    /// Bits of wide parts.
    pub(super) bits: [Places; 2],
    pub(super) wide_rules: BTreeSet<WideRule>,
    /// The same with their bits, as they were written last.
    pub(super) wide_bits: WideBits,
    /// The ranks of the rules that test a MAC address.
    pub(super) mac_ranks: BTreeSet<u32>,
    /// Rules of each service set.
    pub(super) service_uses: Vec<u32>,
    pub(super) boxes: HashMap<u32, Arc<Boxes>>,
    pub(super) places: ListPlaces,
    /// What the budget was charged for all of it, and in that for what is made anew as a whole.
    pub(super) spent: Spent,
    /// If it is in blocks: there is nothing in any of the lists then.
    pub(super) blocks: Option<BlockRules>,
    /// What the tables took when they were compiled as a whole, and for how many rules.
    pub(super) compact: Compact,
    pub(super) out: Classifier,
    pub(super) copies: Copies,
    /// Whether the tables hold what [`Self::policy`] says: not after an edit that failed halfway.
    pub(super) is_sound: bool,
}

/// How edits were compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edits {
    /// For what they changed.
    pub incremental: u64,
    /// As a whole: the tables had to be planned anew, or all ranks were new.
    pub whole: u64,
}

/// Bytes that the budget was charged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    pub(super) bytes: usize,
    /// By telling services apart.
    pub(super) services: usize,
    /// By the rows of bits.
    pub(super) rows: usize,
}

/// The sides of a frame.
pub(super) const SRC: usize = 0;
pub(super) const DST: usize = 1;

impl Compiler {
    /// Compiles a policy, see [`super::compile`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn new(policy: &Policy, limits: &Limits) -> Result<Self, CompileError> {
        Self::with_plan(policy, limits, None)
    }

    /// The same with a plan that was made elsewhere.
    pub(super) fn with_plan(
        policy: &Policy,
        limits: &Limits,
        plan: Option<Plan>,
    ) -> Result<Self, CompileError> {
        Self::since(Instant::now(), policy, limits, plan)
    }

    /// The same within a time that began at `started`, whatever is tried in it.
    pub(super) fn since(
        started: Instant,
        policy: &Policy,
        limits: &Limits,
        plan: Option<Plan>,
    ) -> Result<Self, CompileError> {
        let budget = || Budget::new(*limits).since(started);
        let blocks_first =
            plan.map_or(policy.rule_count() >= blocks::MANY_RULES, |plan| plan.blocks);
        let listed = Self::with_form(policy, limits, plan, blocks_first, None, budget())?;
        let is_in_doubt = plan.is_none() && !blocks_first && listed.out.crossed.is_none();
        if !is_in_doubt {
            return Ok(listed);
        }
        let mut beside = Budget::resume(*limits, listed.spent.bytes).since(started);
        let built = blocks::build(policy, &listed.out.services, false, &mut beside);
        let in_blocks =
            built.map(|built| Self::with_form(policy, limits, plan, false, Some(built), budget()));
        // What did not come about in time is no reason to go without what has.
        Ok(in_blocks.and_then(Result::ok).unwrap_or(listed))
    }

    /// The same in blocks, if they are `built` already or can be where they are tried first.
    fn with_form(
        policy: &Policy,
        limits: &Limits,
        plan: Option<Plan>,
        blocks_first: bool,
        built: Option<(Blocks, BlockRules)>,
        mut budget: Budget,
    ) -> Result<Self, CompileError> {
        let mut used = Used::of(policy);
        let services = services::build(policy, &in_use(&used.service_uses), &mut budget).map_err(
            |exceeded| {
                budget.error(exceeded, "telling its services apart", services::costs(policy))
            },
        )?;
        let spent = Spent { services: budget.spent_bytes(), ..Spent::default() };
        let in_blocks = match built {
            Some((mut blocks, mut rules)) => {
                rules.list(&mut blocks, &services.map).map(|()| (blocks, rules))
            }
            None if blocks_first => {
                blocks::build(policy, &services.map, plan.is_some(), &mut budget)
            }
            None => None,
        };
        let fits = |of: &(Blocks, BlockRules)| budget.spend(1, of.0.size_bytes()).is_ok();
        let (blocks, block_rules) = in_blocks.filter(fits).unzip();
        if blocks.is_some() {
            used.keep_services_only();
        }
        // Most endpoints are used on both sides: their addresses are sorted once.
        let cuts = Cuts::of(policy, |id| used.sources[id] || used.destinations[id]);
        let mut side = |used: &[bool], stage| {
            Side::new(policy, used, &cuts, &mut budget)
                .map_err(|exceeded| budget.error(exceeded, stage, side::size_costs(policy)))
        };
        let (src, src_map, src_macs) = side(&used.sources, "telling its sources apart")?;
        let (dst, dst_map, dst_macs) = side(&used.destinations, "telling its destinations apart")?;
        drop(cuts);
        let alternatives = alternatives(policy, &src, &dst);
        let mac_ranks = mac_ranks(policy);
        let out = Classifier {
            default: policy.default_action(),
            actions: policy.rules().iter().map(|rule| rule.action).collect::<Vec<_>>().into(),
            ranks: (0..policy.rules().len() as u32)
                .map(|id| policy.rank(RuleId(id)))
                .collect::<Vec<_>>()
                .into(),
            first_mac_rank: mac_ranks.first().copied(),
            rules: policy.rule_count(),
            src: classifier_side(src_map, src_macs),
            dst: classifier_side(dst_map, dst_macs),
            services: Arc::new(services.map),
            pairs: Pairs::default(),
            lines: Default::default(),
            is_all_wide: false,
            crossed: None,
            blocks: blocks.map(Box::new),
            wide_rules: Arc::default(),
            wide_runs: None,
            checks: Pages::default(),
        };
        let mut compiler = Self {
            limits: *limits,
            policy: policy.clone(),
            plan: plan.unwrap_or(Plan::NONE),
            fixed_plan: plan,
            edits: Edits::default(),
            sides: [src, dst],
            wide: Default::default(),
            rules_of_parts: Default::default(),
            bits: Default::default(),
            wide_rules: BTreeSet::new(),
            wide_bits: WideBits::default(),
            mac_ranks,
            service_uses: used.service_uses,
            boxes: HashMap::new(),
            places: ListPlaces::default(),
            spent,
            blocks: block_rules,
            compact: Compact::default(),
            out,
            copies: Copies::default(),
            is_sound: true,
        };
        compiler.list(policy, &alternatives, &mut budget).map_err(|exceeded| {
            let mut costs = compiler.rule_costs(policy, &alternatives);
            let [src, dst] = compiler.sides.each_ref().map(|side| side.costs(policy));
            let both = src.into_iter().zip(dst);
            costs.extend(both.map(|(s, d)| Cost { amount: s.amount + d.amount, ..s }));
            // Wide parts are in no list.
            if costs.iter().all(|cost| cost.amount == 0) {
                costs = side::size_costs(policy);
            }
            budget.error(exceeded, "listing its rules", costs)
        })?;
        compiler.compact = Compact::of(&compiler.out, policy.rules().len());
        // Edits drop what is crossed out, and so may a compilation.
        compiler.spent.bytes = budget.spent_bytes();
        if compiler.plan.crossed && compiler.blocks.is_none() {
            let crossed = cross::build(&compiler, &alternatives, &mut budget);
            let crossed =
                crossed.or_else(|| shortlists::build(&compiler, &alternatives, &mut budget));
            compiler.out.crossed = crossed.map(Arc::new);
        }
        compiler.out.settle();
        Ok(compiler)
    }

    /// The compiled form alone.
    pub fn into_classifier(self) -> Classifier {
        self.out
    }

    pub(super) fn part(&self, side: usize, part: u32) -> &Part {
        &self.sides[side].parts[part as usize]
    }

    fn list(
        &mut self,
        policy: &Policy,
        alternatives: &[Alternative],
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        budget.spend(1, policy.rules().len() * RULE_BYTES)?;
        for (id, rule) in policy.rules().iter().enumerate() {
            if !rule.is_removed() {
                self.set_check(policy, RuleId(id as u32), rule, budget)?;
            }
        }
        // All that does not depend on the plan is accounted for.
        if self.fixed_plan.is_none() {
            let [src, dst] = &self.sides;
            let services = self.out.services.rows.words.len() / self.out.services.rows.stride;
            self.plan = Plan::of(src, dst, alternatives, services, budget.left_bytes());
        }
        for side in [SRC, DST] {
            for id in 0..self.sides[side].parts.len() {
                let part = &mut self.sides[side].parts[id];
                part.treatment = self.plan.treatment(part.kind, part.classes.len());
                if let Treatment::Wide(bit) = &mut part.treatment {
                    *bit = self.bits[side].take_place();
                    part.classes = Vec::new();
                }
            }
        }
        let mut parts = self.sides.iter().flat_map(|side| &side.parts);
        self.out.is_all_wide = !parts.any(|part| part.treatment.is_narrow());
        self.places.lines.take(&mut self.out.lines, Line::EMPTY);
        let mut pairs = 0usize;
        for alternative in alternatives {
            self.attach(policy, alternative);
            pairs = pairs.saturating_add(self.pair_entries(alternative));
        }
        budget.spend(pairs, pairs.saturating_mul(PAIR_BYTES))?;
        self.out.pairs.homes = homes_for(pairs);
        self.out.pairs.buckets.grow(self.out.pairs.homes as usize, Bucket::EMPTY);
        // They are accounted for in any case: what edits make has to fit as a whole, too.
        let marks = mark_words_for(pairs);
        budget.spend(1, marks * size_of::<u32>())?;
        let mut parts = self.sides.iter().flat_map(|side| &side.parts);
        match parts.any(|part| part.treatment == Treatment::ByKey) {
            true => self.out.pairs.marks.grow(marks, 0),
            // Classes have one key at most: their pairs are looked up without being asked for.
            false => self.out.pairs.marks.grow(1, u32::MAX),
        }
        for _ in 0..self.out.pairs.homes {
            self.places.overflow.skip();
        }
        for side in [SRC, DST] {
            for class in 0..self.sides[side].classes.all.len() as u32 {
                self.record(side, class, budget)?;
            }
        }
        self.write_pairs(policy, alternatives, pairs);
        self.places.marks_planned = self.places.marks;
        self.places.wide_planned = self.wide_rules.len();
        self.write_rows(budget)
    }

    /// Tells the parts of an alternative about it.
    pub(super) fn attach(&mut self, policy: &Policy, alternative: &Alternative) {
        let &Alternative { rule, src, dst } = alternative;
        let (s, d) = (self.part(SRC, src).treatment, self.part(DST, dst).treatment);
        let candidate = self.candidate(policy, alternative);
        let service = policy.rules()[rule as usize].service.0;
        let listed = |other, bit| Listed { rule, other, candidate, condition: service | bit << 16 };
        let [src_side, dst_side] = &mut self.sides;
        let (s_part, d_part) =
            (&mut src_side.parts[src as usize], &mut dst_side.parts[dst as usize]);
        s_part.uses += 1;
        d_part.uses += 1;
        match (s, d) {
            (Treatment::Wide(src), Treatment::Wide(dst)) => {
                self.wide_rules.insert(WideRule { candidate, src, dst, service });
            }
            (Treatment::Wide(bit), _) => d_part.lists.push(listed(src, bit)),
            (_, Treatment::Wide(bit)) => s_part.lists.push(listed(dst, bit)),
            _ => {
                s_part.pairs.push((rule, dst));
                d_part.pairs.push((rule, src));
                if d_part.treatment == Treatment::ByKey {
                    s_part.reach.insert(dst);
                }
                if s_part.treatment == Treatment::ByKey {
                    d_part.reach.insert(src);
                }
            }
        }
    }

    /// What lists hold of an alternative.
    pub(super) fn candidate(&self, policy: &Policy, alternative: &Alternative) -> u64 {
        let rule = alternative.rule;
        let exact = self.part(SRC, alternative.src).exact
            && self.part(DST, alternative.dst).exact
            && is_plain(&policy.rules()[rule as usize]);
        let rank = policy.rank(RuleId(rule));
        u64::from(rank) << 32 | u64::from(rule) | if exact { 0 } else { u64::from(CHECKED) }
    }

    /// How often an alternative stands in [`Pairs`].
    fn pair_entries(&self, alternative: &Alternative) -> usize {
        let keys = |side, part| match self.part(side, part) {
            Part { treatment: Treatment::ByClass, classes, .. } => classes.len(),
            Part { treatment: Treatment::ByKey, .. } => 1,
            Part { treatment: Treatment::Wide(_), .. } => 0,
        };
        keys(SRC, alternative.src).saturating_mul(keys(DST, alternative.dst))
    }

    /// The keys under which the rules of a narrow part stand.
    pub(super) fn keys(&self, side: usize, part: u32) -> Vec<u32> {
        match self.part(side, part) {
            Part { treatment: Treatment::ByClass, classes, .. } => classes.clone(),
            Part { treatment: Treatment::ByKey, .. } => vec![PART_KEY | part],
            Part { treatment: Treatment::Wide(_), .. } => Vec::new(),
        }
    }

    /// Writes all alternatives with two narrow sides.
    fn write_pairs(&mut self, policy: &Policy, alternatives: &[Alternative], pairs: usize) {
        let mut all: Vec<(u64, u64, u32)> = Vec::with_capacity(pairs);
        for alternative in alternatives {
            let (src, dst) = (self.keys(SRC, alternative.src), self.keys(DST, alternative.dst));
            let candidate = self.candidate(policy, alternative);
            let service = policy.rules()[alternative.rule as usize].service.0;
            for &s in &src {
                all.extend(
                    dst.iter().map(|&d| (u64::from(s) << 32 | u64::from(d), candidate, service)),
                );
            }
        }
        all.sort_unstable();
        all.dedup();
        let mut rules = Vec::new();
        for of_pair in all.chunk_by(|a, b| a.0 == b.0) {
            let key = of_pair[0].0;
            rules.clear();
            rules.extend(of_pair.iter().map(|&(_, candidate, service)| (candidate, service)));
            self.write_pair((key >> 32) as u32, key as u32, &rules);
        }
    }

    /// Writes what belongs to one pair of keys: candidates in deciding order, each with its service.
    fn write_pair(&mut self, src: u32, dst: u32, rules: &[(u64, u32)]) {
        let &[(first, service), ref rest @ ..] = rules else { return };
        let rank = (first >> 32) as u32;
        let entry = match rest {
            [] => PairEntry { rank, rule: first as u32, service },
            _ => PairEntry { rank, rule: self.write_lines(rules), service: LINES },
        };
        let pairs = &mut self.out.pairs;
        let (word, bit) = pairs.mark(src, dst);
        if !pairs.is_marked(src, dst) {
            *pairs.marks.get_mut(word) |= bit;
            self.places.marks += 1;
        }
        let mut place = pairs.home(src, dst);
        loop {
            let bucket = pairs.buckets.get(place);
            if let Some(slot) = bucket.vacant() {
                pairs.buckets.get_mut(place).set(slot, src, dst, entry);
                self.places.entries += 1;
                return;
            }
            if bucket.next() == NONE {
                let next = self.places.overflow.take(&mut pairs.buckets, Bucket::EMPTY);
                pairs.buckets.get_mut(place).set_next(next);
            }
            place = pairs.buckets.get(place).next();
        }
    }

    /// Writes all that a class leads to but its pairs.
    pub(super) fn record(
        &mut self,
        side: usize,
        class: u32,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let record = self.membership(side, class, budget)?;
        let record = self.with_list(side, class, record, budget)?;
        let records = &mut self.side_mut(side).records;
        records.grow(class as usize + 1, Record::EMPTY);
        *records.get_mut(class) = record;
        Ok(())
    }

    /// A record with the rules of the class whose other side is wide.
    fn with_list(
        &mut self,
        side: usize,
        class: u32,
        record: Record,
        budget: &mut Budget,
    ) -> Result<Record, Exceeded> {
        let parts = &self.sides[side].classes.all[class as usize].parts;
        let mut entries = Vec::new();
        for &id in parts {
            let lists = &self.sides[side].parts[id as usize].lists;
            entries.extend(lists.iter().map(|listed| (listed.candidate, listed.condition)));
        }
        entries.sort_unstable();
        entries.dedup();
        budget.spend(parts.len() + entries.len(), record_bytes(entries.len()))?;
        let (first, condition) = entries.first().copied().unwrap_or((NOTHING, 0));
        let (next, _) = entries.get(1).copied().unwrap_or((NOTHING, 0));
        Ok(Record {
            rank: (first >> 32) as u32,
            rule: first as u32,
            condition,
            next_rank: (next >> 32) as u32,
            lines: self.write_lines(entries.get(1..).unwrap_or_default()),
            ..record
        })
    }

    /// Writes the rules of a class anew whose other side is wide; what it is in stays.
    pub(super) fn renew_list(
        &mut self,
        side: usize,
        class: u32,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let record = *self.side(side).records.get(class);
        self.give_back_list(record, budget);
        let record = self.with_list(side, class, record, budget)?;
        *self.side_mut(side).records.get_mut(class) = record;
        Ok(())
    }

    fn give_back_list(&mut self, record: Record, budget: &mut Budget) {
        let first = usize::from(record.first() != NOTHING);
        let entries = first + self.give_back_lines(record.lines).len();
        budget.release(record_bytes(entries));
    }

    /// A record of what a class is in, without rules.
    fn membership(
        &mut self,
        side: usize,
        class: u32,
        budget: &mut Budget,
    ) -> Result<Record, Exceeded> {
        let parts = &self.sides[side].classes.all[class as usize].parts;
        let (mut wide, mut keys) = (Vec::new(), Vec::with_capacity(parts.len()));
        for &id in parts {
            let part = &self.sides[side].parts[id as usize];
            match part.treatment {
                Treatment::Wide(bit) => wide.push(bit),
                Treatment::ByKey => keys.push(PART_KEY | id),
                Treatment::ByClass if !part.pairs.is_empty() => keys.push(class),
                Treatment::ByClass => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        wide.sort_unstable();
        let has_block = !matches!(*keys, [] | [0..PART_KEY]);
        if has_block {
            budget.spend(1, key_bytes(keys.len().div_ceil(KEYS)))?;
        }
        Ok(Record {
            wide: self.wide[side].take(wide),
            key: match *keys {
                [key] if key & PART_KEY == 0 => key,
                _ => NONE,
            },
            keys: match has_block {
                true => self.write_keys(side, class, &keys),
                false => NONE,
            },
            ..Record::EMPTY
        })
    }

    /// Writes what a class is in anew, whose rules stay.
    pub(super) fn renew_membership(
        &mut self,
        side: usize,
        class: u32,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let old = *self.side(side).records.get(class);
        self.clear_membership(side, old, budget);
        let Record { wide, key, keys, .. } = self.membership(side, class, budget)?;
        *self.side_mut(side).records.get_mut(class) = Record { wide, key, keys, ..old };
        Ok(())
    }

    fn clear_membership(&mut self, side: usize, record: Record, budget: &mut Budget) {
        let (mut keys, mut blocks) = (record.keys, 0);
        while keys != NONE {
            self.places.keys[side].give_back(keys);
            keys = self.side(side).keys.get(keys).next;
            blocks += 1;
        }
        budget.release(key_bytes(blocks));
        self.wide[side].give_back(record.wide);
    }

    /// Gives back what the record of a class has, but its pairs.
    pub(super) fn clear_record(&mut self, side: usize, class: u32, budget: &mut Budget) {
        let records = &self.side(side).records;
        if class as usize >= records.len() {
            return;
        }
        let record = *records.get(class);
        self.give_back_list(record, budget);
        self.clear_membership(side, record, budget);
        *self.side_mut(side).records.get_mut(class) = Record::EMPTY;
    }

    pub(super) fn side(&self, side: usize) -> &classifier::Side {
        if side == SRC { &self.out.src } else { &self.out.dst }
    }

    fn side_mut(&mut self, side: usize) -> &mut classifier::Side {
        if side == SRC { &mut self.out.src } else { &mut self.out.dst }
    }

    fn give_back_lines(&mut self, mut line: u32) -> Vec<(u64, u32)> {
        let mut entries = Vec::new();
        while line != 0 {
            let of_line = self.out.lines.get(line);
            entries.extend(of_line.candidates());
            self.places.lines.give_back(line);
            line = of_line.next;
        }
        entries
    }

    /// Changes what belongs to one pair of keys: candidates, each with its service.
    pub(super) fn edit_pair(
        &mut self,
        src: u32,
        dst: u32,
        edit: impl FnOnce(&mut Vec<(u64, u32)>),
    ) {
        let mut rules = Vec::new();
        let mut place = self.out.pairs.home(src, dst);
        while place != NONE {
            let bucket = *self.out.pairs.buckets.get(place);
            if let Some(slot) = bucket.find(src, dst) {
                let PairEntry { rank, rule, service } = bucket.entry(slot);
                self.out.pairs.buckets.get_mut(place).clear(slot);
                self.places.entries -= 1;
                match service {
                    LINES => rules = self.give_back_lines(rule),
                    _ => rules.push((join(rank, rule), service)),
                }
                break;
            }
            place = bucket.next();
        }
        edit(&mut rules);
        rules.sort_unstable();
        rules.dedup();
        self.write_pair(src, dst, &rules);
    }

    fn write_lines(&mut self, entries: &[(u64, u32)]) -> u32 {
        let mut next = 0;
        for chunk in entries.chunks(LINE).rev() {
            let mut line = Line { next, ..Line::EMPTY };
            for (slot, &(candidate, condition)) in chunk.iter().enumerate() {
                line.set(slot, candidate, condition);
            }
            next = self.places.lines.take(&mut self.out.lines, line);
        }
        next
    }

    fn write_keys(&mut self, side: usize, class: u32, keys: &[u32]) -> u32 {
        let mut next = NONE;
        for chunk in keys.chunks(KEYS).rev() {
            let mut reach = Reach::default();
            for &key in chunk {
                reach.extend(self.reach(side, class, key));
            }
            let mut block = Keys { next, reach, ..Keys::EMPTY };
            block.keys[..chunk.len()].copy_from_slice(chunk);
            let table = match side {
                SRC => &mut self.out.src.keys,
                _ => &mut self.out.dst.keys,
            };
            next = self.places.keys[side].take(table, block);
        }
        next
    }

    /// The keys of parts that one key of a class may be listed with.
    fn reach(&self, side: usize, class: u32, key: u32) -> Reach {
        if key & PART_KEY != 0 {
            return self.part(side, key & !PART_KEY).reach;
        }
        let mut reach = Reach::default();
        for &part in &self.sides[side].classes.all[class as usize].parts {
            let part = self.part(side, part);
            if part.treatment == Treatment::ByClass {
                reach.extend(part.reach);
            }
        }
        reach
    }

    /// Tells the classes of one side's part that it is listed with a part of the other side.
    pub(super) fn reach_more(&mut self, side: usize, part: u32, other: u32) {
        if self.part(1 - side, other).treatment != Treatment::ByKey {
            return;
        }
        for class in self.part(side, part).classes.clone() {
            let table = self.side_mut(side);
            let mut keys = table.records.get(class).keys;
            while keys != NONE {
                let block = table.keys.get_mut(keys);
                block.reach.insert(other);
                keys = block.next;
            }
        }
    }

    /// Keeps what has to be compared of a rule where its classes do not say it all.
    pub(super) fn set_check(
        &mut self,
        policy: &Policy,
        id: RuleId,
        rule: &Rule,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let in_blocks = self.blocks.is_some();
        let exact = |side: usize, endpoint: u32| {
            if in_blocks {
                return blocks::is_plain(policy, endpoint);
            }
            let side = &self.sides[side];
            side.parts_of(endpoint).iter().all(|&part| side.parts[part as usize].exact)
        };
        let sides_exact = exact(SRC, rule.from.0)
            && exact(DST, rule.to.0)
            && (!rule.between || exact(SRC, rule.to.0) && exact(DST, rule.from.0));
        if sides_exact && is_plain(rule) {
            return Ok(());
        }
        let mut boxes = |endpoint: u32| {
            if let Some(boxes) = self.boxes.get(&endpoint) {
                return Ok(boxes.clone());
            }
            let boxes = Boxes::new(policy.endpoints()[endpoint as usize].boxes.to_vec());
            budget.spend(1, boxes.size_bytes())?;
            let boxes = Arc::new(boxes);
            self.boxes.insert(endpoint, boxes.clone());
            Ok(boxes)
        };
        let check = Check {
            from: boxes(rule.from.0)?,
            to: boxes(rule.to.0)?,
            between: rule.between,
            vlans: rule.vlans.clone(),
            wires: rule.wires.clone(),
            times: times(rule),
        };
        budget.spend(1, check.size_bytes())?;
        let checks = &mut self.out.checks;
        if checks.len() <= id.0 as usize {
            let more = policy.rules().len() - checks.len();
            budget.spend(1, more * size_of::<Option<Arc<Check>>>())?;
            (0..more).for_each(|_| checks.push(None));
        }
        *checks.get_mut(id.0 as usize) = Some(Arc::new(check));
        Ok(())
    }

    /// How many entries each rule takes.
    fn rule_costs(&self, policy: &Policy, alternatives: &[Alternative]) -> Vec<Cost> {
        let mut costs: Vec<Cost> = (policy.rules().iter())
            .map(|rule| Cost { what: format!("rule `{}`", rule.name), amount: 0, unit: "entries" })
            .collect();
        for alternative in alternatives {
            let lists = |side, part| {
                let part = self.part(side, part);
                if part.treatment.is_narrow() { part.classes.len() } else { 0 }
            };
            let entries = match self.pair_entries(alternative) {
                0 => lists(SRC, alternative.src) + lists(DST, alternative.dst),
                pairs => pairs,
            };
            costs[alternative.rule as usize].amount += entries as u64;
        }
        costs
    }
}

/// What a rule takes besides what lists hold of it.
pub(super) const RULE_BYTES: usize = size_of::<Action>() + size_of::<u32>();

/// What a pair of keys takes in a table that is half full.
pub(super) const PAIR_BYTES: usize = size_of::<Bucket>() * 2 / BUCKET;

/// What a class takes with so many rules whose other side is wide.
fn record_bytes(rules: usize) -> usize {
    size_of::<Record>() + rules.saturating_sub(1).div_ceil(LINE) * size_of::<Line>()
}

/// What so many blocks of keys take.
fn key_bytes(blocks: usize) -> usize {
    blocks * size_of::<Keys>()
}

/// Buckets that so many entries call for: half full.
fn homes_for(pairs: usize) -> u32 {
    (pairs * 2 / BUCKET + 1).min(u32::MAX as usize / 2) as u32
}

/// Words of marks that so many entries call for: 16 bits each, so that one in 16 to 32 pairs that are
/// not listed is taken for one that may be, or few enough to stay in the second cache.
pub(super) fn mark_words_for(pairs: usize) -> usize {
    let bits = pairs.saturating_mul(16).clamp(1 << 14, 1 << 22).next_power_of_two();
    bits / u32::BITS as usize
}

fn classifier_side(map: AddressMap, macs: HashMap<Mac, u32>) -> classifier::Side {
    classifier::Side {
        map,
        macs: Arc::new(macs),
        records: Default::default(),
        keys: Default::default(),
        rows: Rows::default(),
    }
}

pub(super) fn alternatives(policy: &Policy, src: &Side, dst: &Side) -> Vec<Alternative> {
    let mut out = Vec::with_capacity(policy.rules().len());
    for (id, rule) in policy.rules().iter().enumerate().filter(|(_, rule)| !rule.is_removed()) {
        alternatives_of(id as u32, rule, src, dst, &mut out);
    }
    out
}

/// Appends the alternatives of one rule.
pub(super) fn alternatives_of(
    id: u32,
    rule: &Rule,
    src: &Side,
    dst: &Side,
    out: &mut Vec<Alternative>,
) {
    for (from, to) in directions(rule) {
        for &src in src.parts_of(from) {
            out.extend(dst.parts_of(to).iter().map(|&dst| Alternative { rule: id, src, dst }));
        }
    }
}

/// The endpoints that may open and be opened to, in each way that the rule allows.
pub(super) fn directions(rule: &Rule) -> impl Iterator<Item = (u32, u32)> {
    let swapped = rule.between.then_some((rule.to.0, rule.from.0));
    [(rule.from.0, rule.to.0)].into_iter().chain(swapped)
}

/// Whether classes say all about a rule but what its sides ask for.
fn is_plain(rule: &Rule) -> bool {
    rule.vlans.is_any() && rule.wires.is_any() && times(rule).is_none()
}

fn times(rule: &Rule) -> Option<Times> {
    let timed = rule.starts.is_some() || rule.expires.is_some();
    timed.then(|| Times {
        starts: rule.starts,
        expires: rule.expires,
        unsynchronised: rule.action != Action::Allow,
    })
}

/// The ranks of the rules that test a MAC address.
fn mac_ranks(policy: &Policy) -> BTreeSet<u32> {
    let tests: Vec<bool> = policy.endpoints().iter().map(|endpoint| endpoint.tests_mac()).collect();
    let tests = |id: EndpointId| tests[id.0 as usize];
    let rules = policy.rules().iter().enumerate();
    let rules =
        rules.filter(|(_, rule)| !rule.is_removed() && (tests(rule.from) || tests(rule.to)));
    rules.map(|(id, _)| policy.rank(RuleId(id as u32))).collect()
}

/// Whether a rule tests a MAC address.
pub(super) fn tests_mac(policy: &Policy, rule: &Rule) -> bool {
    policy.endpoint(rule.from).tests_mac() || policy.endpoint(rule.to).tests_mac()
}

/// Which services are used at all.
pub(super) fn in_use(uses: &[u32]) -> Vec<bool> {
    uses.iter().map(|&uses| uses > 0).collect()
}

/// Which endpoints and services the rules use, and on which side. Assertions use some too, which
/// are not to split classes.
struct Used {
    sources: Vec<bool>,
    destinations: Vec<bool>,
    service_uses: Vec<u32>,
}

impl Used {
    fn of(policy: &Policy) -> Self {
        let mut used = Self {
            sources: vec![false; policy.endpoints().len()],
            destinations: vec![false; policy.endpoints().len()],
            service_uses: vec![0; policy.services().len()],
        };
        for rule in policy.rules().iter().filter(|rule| !rule.is_removed()) {
            let (from, to) = (rule.from.0 as usize, rule.to.0 as usize);
            used.sources[from] = true;
            used.destinations[to] = true;
            if rule.between {
                used.sources[to] = true;
                used.destinations[from] = true;
            }
            used.service_uses[rule.service.0 as usize] += 1;
        }
        used
    }

    /// Forgets the endpoints: nothing has to tell them apart.
    fn keep_services_only(&mut self) {
        self.sources.fill(false);
        self.destinations.fill(false);
    }
}
