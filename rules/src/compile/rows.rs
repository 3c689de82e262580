//! Which wide parts hold the classes of a side, and which wide rules those and the service classes:
//! rows of bits.
//!
//! Edits write the words that change and no others, since what they write is copied for the workers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::budget::{Budget, Exceeded, MOST_NUMBERS};
use super::lists::{Compiler, DST, SRC};
use super::runs::{self, Runs};
use crate::classifier::tables::{ROW, Rows, wide_words};

/// The sets of wide parts that classes of one side are in: the rows of its [`Rows`].
#[derive(Debug, Default)]
pub(super) struct WideSets {
    /// The bits of parts that are inverted: set in the rows that do not name them, and in no other.
    pub(super) inverted: BTreeSet<u32>,
    /// Those when all rows were written last.
    inverted_before: BTreeSet<u32>,
    ids: HashMap<Box<[u32]>, u32>,
    /// The bits of each row, and how many classes have it.
    rows: Vec<(Box<[u32]>, u32)>,
    free: Vec<u32>,
    /// Rows that are not written yet.
    new: Vec<u32>,
}

/// A rule whose sides are both wide, in deciding order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WideRule {
    pub(super) candidate: u64,
    pub(super) src: u32,
    pub(super) dst: u32,
    pub(super) service: u32,
}

impl Compiler {
    /// Brings all rows up to date, since the wide rules, the services, the number of wide parts or
    /// those that are inverted changed.
    pub(super) fn write_rows(&mut self, budget: &mut Budget) -> Result<(), Exceeded> {
        budget.release(std::mem::take(&mut self.spent.rows));
        let before = budget.spent_bytes();
        let mut rules: Vec<WideRule> = self.wide_rules.iter().copied().collect();
        let wide = wide_words(rules.len());
        let services = &self.out.services.rows;
        let runs = runs::by_service(&mut rules, services, self.service_uses.len());
        let same_rules = rules == self.wide_order;
        for side in [SRC, DST] {
            if self.bits[side].len() > MOST_NUMBERS {
                return Err(Exceeded::Numbers);
            }
            let bits = self.bits[side].len().div_ceil(64).max(1).next_multiple_of(ROW);
            if !same_rules || bits * 64 != self.rules_of_parts[side].len() {
                let of = |rule: &WideRule| if side == SRC { rule.src } else { rule.dst };
                self.rules_of_parts[side] = rules_of(&rules, of, bits * 64, wide);
            }
            self.write_side(side, [bits, bits + wide], same_rules, budget)?;
        }
        self.write_services(&rules, same_rules, runs, wide, budget)?;
        self.out.wide_rules = Arc::new(rules.iter().map(|rule| rule.candidate).collect());
        self.wide_order = rules;
        self.spent.rows = budget.spent_bytes() - before;
        Ok(())
    }

    /// Brings the rows of one side up to date, which have so many words of bits of parts and so many in
    /// all.
    fn write_side(
        &mut self,
        side: usize,
        [bits, stride]: [usize; 2],
        same_rules: bool,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let sets = &mut self.wide[side];
        let count = sets.rows.len().max(1);
        budget.spend(count * stride, count.saturating_mul(stride * size_of::<u64>()))?;
        let before = std::mem::replace(&mut sets.inverted_before, sets.inverted.clone());
        let turned: Vec<(u32, bool)> = (before.symmetric_difference(&sets.inverted))
            .map(|&part| (part, sets.inverted.contains(&part)))
            .collect();
        let has_rules = |&(part, _): &(u32, bool)| {
            self.rules_of_parts[side].get(part as usize).is_some_and(|rules| !rules.is_empty())
        };
        let is_bare = !turned.iter().any(has_rules);
        let new = std::mem::take(&mut sets.new);
        let out = if side == SRC { &mut self.out.src } else { &mut self.out.dst };
        let (old, is_same) = (out.rows.stride, [out.rows.bits, out.rows.stride] == [bits, stride]);
        if is_same && same_rules && is_bare {
            self.turn_over(side, &turned);
            self.write_some(side, new.into_iter());
        } else if is_same {
            self.write_some(side, 0..count as u32);
        } else {
            (out.rows.bits, out.rows.stride) = (bits, stride);
            let mut words = vec![0; count * stride];
            let writer = RowWriter::new(&self.wide[side], &self.rules_of_parts[side], bits, stride);
            for (words, (parts, _)) in words.chunks_exact_mut(stride).zip(&self.wide[side].rows) {
                writer.write(words, parts);
            }
            out.rows.words.replace(words);
            // Records say where their rows begin.
            for class in 0..out.records.len() as u32 {
                if old != stride && out.records.get(class).wide != 0 {
                    let record = out.records.get_mut(class);
                    record.wide = record.wide / old.max(1) as u32 * stride as u32;
                }
            }
        }
        Ok(())
    }

    /// Brings the bits of parts that are inverted now, or no longer, up to date in all rows of one side
    /// but those that are to be written: no other row names such a part.
    fn turn_over(&mut self, side: usize, parts: &[(u32, bool)]) {
        let out = if side == SRC { &mut self.out.src } else { &mut self.out.dst };
        let Rows { words, stride, .. } = &mut out.rows;
        for row in (0..words.len()).step_by((*stride).max(1)) {
            for &(part, is_inverted) in parts {
                let (place, bit) = (row as u32 + part / 64, 1 << (part % 64));
                if (words.get(place) & bit != 0) != is_inverted {
                    *words.get_mut(place) ^= bit;
                }
            }
        }
    }

    /// Brings some rows of one side up to date.
    fn write_some(&mut self, side: usize, rows: impl Iterator<Item = u32>) {
        let sets = &self.wide[side];
        let out = if side == SRC { &mut self.out.src } else { &mut self.out.dst };
        let Rows { words: all, bits, stride } = &mut out.rows;
        let stride = *stride;
        all.grow(sets.rows.len() * stride, 0);
        let writer = RowWriter::new(sets, &self.rules_of_parts[side], *bits, stride);
        let mut words = vec![0; stride];
        for row in rows {
            let Some((parts, _)) = sets.rows.get(row as usize) else { continue };
            writer.write(&mut words, parts);
            let start = row as usize * stride;
            for (place, &word) in (start..).zip(&words) {
                if all.items()[place] != word {
                    *all.get_mut(place as u32) = word;
                }
            }
        }
    }

    /// Writes which wide rules hold the service classes, unless the rules are the same and so are the
    /// services: those that were told apart anew have nothing but services in their rows.
    fn write_services(
        &mut self,
        rules: &[WideRule],
        same_rules: bool,
        runs: Option<Runs>,
        wide: usize,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let Rows { stride: old, bits, .. } = self.out.services.rows;
        let stride = bits + if runs.is_some() { ROW } else { wide };
        let count = self.out.services.rows.words.len() / old;
        budget.spend(count * stride, count.saturating_mul(stride * size_of::<u64>()))?;
        let of_runs = runs.iter().map(|runs| runs.all.len()).sum::<usize>();
        budget.spend(of_runs, of_runs * size_of::<[u32; 2]>())?;
        if same_rules && old == stride && old > bits {
            return Ok(());
        }
        let of_services = match &runs {
            Some(_) => Vec::new(),
            None => rules_of(rules, |rule| rule.service, self.service_uses.len(), wide),
        };
        let map = Arc::make_mut(&mut self.out.services);
        let mut words = vec![0; count * stride];
        for (row, words) in words.chunks_exact_mut(stride).enumerate() {
            let old = &map.rows.words.items()[row * old..][..bits];
            words[..bits].copy_from_slice(old);
            if let Some(runs) = &runs {
                let [first, count] = runs.of_classes[row];
                words[bits] = u64::from(first) | u64::from(count) << 32;
                continue;
            }
            for service in ones(old) {
                or(&mut words[bits..], of_services.get(service as usize));
            }
        }
        map.rows = Rows { words: words.into(), bits, stride };
        self.out.wide_runs = runs.map(|runs| Arc::new(runs.all));
        Ok(())
    }

    /// Writes the rows of new sets of wide parts, see [`Self::write_rows`].
    pub(super) fn write_new_rows(&mut self, budget: &mut Budget) -> Result<(), Exceeded> {
        for side in [SRC, DST] {
            let rows = &self.side(side).rows;
            let (bits, stride) = (rows.bits, rows.stride);
            if self.bits[side].len() > bits * 64 {
                return self.write_rows(budget);
            }
            let new = std::mem::take(&mut self.wide[side].new);
            let rows = self.wide[side].rows.len();
            let more = (rows * stride).saturating_sub(self.side(side).rows.words.len());
            budget.spend(new.len() * stride, more * size_of::<u64>())?;
            self.spent.rows += more * size_of::<u64>();
            self.write_some(side, new.into_iter());
        }
        Ok(())
    }
}

/// What the rows of one side are made of.
struct RowWriter<'a> {
    /// Words for the bits of parts.
    bits: usize,
    inverted: &'a BTreeSet<u32>,
    /// The same as bits.
    is_inverted: Vec<u64>,
    /// The row of those that name no inverted part, but for what they name.
    base: Vec<u64>,
    rules_of_parts: &'a [Vec<u64>],
}

impl<'a> RowWriter<'a> {
    fn new(sets: &'a WideSets, rules_of_parts: &'a [Vec<u64>], bits: usize, stride: usize) -> Self {
        let (is_inverted, base) = (vec![0; bits], vec![0; stride]);
        let inverted = &sets.inverted;
        let mut writer = Self { bits, inverted, is_inverted, base, rules_of_parts };
        let mut base = std::mem::take(&mut writer.base);
        for &part in inverted {
            writer.is_inverted[(part / 64) as usize] |= 1 << (part % 64);
            writer.add(&mut base, part);
        }
        writer.base = base;
        writer
    }

    /// Writes the row of a set of wide parts, which are ascending.
    fn write(&self, words: &mut [u64], parts: &[u32]) {
        let is_inverted =
            |part: &&u32| self.is_inverted[(**part / 64) as usize] >> (**part % 64) & 1 != 0;
        if parts.iter().any(|part| is_inverted(&part)) {
            words.fill(0);
            let unnamed = self.inverted.iter().filter(|part| parts.binary_search(part).is_err());
            unnamed.for_each(|&part| self.add(words, part));
        } else {
            words.copy_from_slice(&self.base);
        }
        for &part in parts.iter().filter(|part| !is_inverted(part)) {
            self.add(words, part);
        }
    }

    fn add(&self, words: &mut [u64], part: u32) {
        let (of_parts, of_rules) = words.split_at_mut(self.bits);
        of_parts[(part / 64) as usize] |= 1 << (part % 64);
        or(of_rules, self.rules_of_parts.get(part as usize));
    }
}

fn or(words: &mut [u64], others: Option<&Vec<u64>>) {
    words.iter_mut().zip(others.into_iter().flatten()).for_each(|(word, other)| *word |= other);
}

/// The bits that are set.
pub(super) fn ones(words: &[u64]) -> impl Iterator<Item = u32> {
    words.iter().zip(0u32..).flat_map(|(&word, place)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| place * 64 + left.trailing_zeros());
            left &= left.wrapping_sub(1);
            bit
        })
    })
}

/// For each of `count` parts or services its wide rules, as bits in deciding order; nothing for those
/// without.
fn rules_of(
    rules: &[WideRule],
    of: impl Fn(&WideRule) -> u32,
    count: usize,
    words: usize,
) -> Vec<Vec<u64>> {
    let mut out = vec![Vec::new(); count];
    for (place, rule) in rules.iter().enumerate() {
        let of_this = &mut out[of(rule) as usize];
        of_this.resize(words, 0);
        of_this[place / 64] |= 1 << (place % 64);
    }
    out
}

impl WideSets {
    /// The row with these bits, for one more class.
    pub(super) fn take(&mut self, bits: Vec<u32>) -> u32 {
        if let Some(&row) = self.ids.get(&*bits) {
            self.rows[row as usize].1 += 1;
            return row;
        }
        let bits: Box<[u32]> = bits.into();
        let row = match self.free.pop() {
            Some(row) => {
                self.rows[row as usize] = (bits.clone(), 1);
                row
            }
            None => {
                self.rows.push((bits.clone(), 1));
                self.rows.len() as u32 - 1
            }
        };
        self.ids.insert(bits, row);
        self.new.push(row);
        row
    }

    pub(super) fn give_back(&mut self, row: u32) {
        let (bits, uses) = &mut self.rows[row as usize];
        *uses -= 1;
        if *uses == 0 {
            self.ids.remove(bits);
            self.free.push(row);
        }
    }
}
