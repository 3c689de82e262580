//! Which wide parts hold the classes of a side, and which wide rules those and the service classes:
//! rows of bits.
//!
//! Edits write the words that change and no others, since what they write is copied for the workers.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::budget::{Budget, Exceeded, MOST_NUMBERS};
use super::lists::{Compiler, DST, SRC};
use super::mixer::ByNumbers;
use super::runs::{self, Runs};
use super::wide::{WideBits, WideRule};
use crate::classifier::tables::{ROW, Rows, row_room, row_words, wide_words};

/// The sets of wide parts that classes of one side are in: the rows of its [`Rows`].
#[derive(Debug, Default)]
pub(super) struct WideSets {
    /// The bits of parts that are inverted: set in the rows that do not name them, and in no other.
    pub(super) inverted: BTreeSet<u32>,
    /// Those when all rows were brought up to date last.
    inverted_before: BTreeSet<u32>,
    ids: ByNumbers<Box<[u32]>, u32>,
    /// The bits of each row, and how many classes have it.
    rows: Vec<(Box<[u32]>, u32)>,
    free: Vec<u32>,
    /// Rows that are not written yet.
    new: Vec<u32>,
}

impl Compiler {
    /// Brings all rows up to date, since the wide rules, the services, the number of wide parts or
    /// those that are inverted changed.
    pub(super) fn write_rows(&mut self, budget: &mut Budget) -> Result<(), Exceeded> {
        budget.release(std::mem::take(&mut self.spent.rows));
        let before = budget.spent_bytes();
        self.check_numbers()?;
        let mut rules: Vec<WideRule> = self.wide_rules.iter().copied().collect();
        let services = self.service_uses.len();
        let by_service = runs::pay(&rules, &self.out.services.rows, services);
        if by_service {
            // Stable: rules of one service stay in deciding order.
            rules.sort_by_key(|rule| rule.service);
        }
        let layouts = [SRC, DST].map(|side| self.layout(side, rules.len()));
        let [src_room, dst_room] = layouts.map(row_room);
        let same_rules = !self.wide_bits.set(&rules, by_service, src_room.min(dst_room));
        for (side, layout) in [SRC, DST].into_iter().zip(layouts) {
            self.write_side(side, layout, same_rules, budget)?;
        }
        let rows = &self.out.services.rows;
        let runs = by_service.then(|| Runs::of(&self.wide_bits, rows, services));
        self.write_services(same_rules, runs, budget)?;
        self.out.wide_rules = Arc::new(self.wide_bits.candidates());
        self.spent.rows = budget.spent_bytes() - before;
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), Exceeded> {
        match self.bits.iter().any(|bits| bits.len() > MOST_NUMBERS) {
            true => Err(Exceeded::Numbers),
            false => Ok(()),
        }
    }

    /// How many words of a row of one side are for parts, and how many there are: as they are, unless
    /// that is too few, or more than three times as many as it takes.
    fn layout(&self, side: usize, rules: usize) -> [usize; 2] {
        let Rows { bits, stride, .. } = self.side(side).rows;
        let parts = self.bits[side].len();
        let least = row_words(parts, rules);
        let fits = parts <= bits * 64 && rules <= row_room([bits, stride]);
        let is_fit = fits && (least[1]..=3 * least[1]).contains(&stride);
        if is_fit { [bits, stride] } else { least }
    }

    /// Brings the rows of one side up to date, whose words are divided so.
    fn write_side(
        &mut self,
        side: usize,
        layout: [usize; 2],
        same_rules: bool,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let [bits, stride] = layout;
        let sets = &mut self.wide[side];
        let count = sets.rows.len().max(1);
        budget.spend(count * stride, count.saturating_mul(stride * size_of::<u64>()))?;
        let before = std::mem::replace(&mut sets.inverted_before, sets.inverted.clone());
        let turned: Vec<(u32, bool)> = (before.symmetric_difference(&sets.inverted))
            .map(|&part| (part, sets.inverted.contains(&part)))
            .collect();
        let new = std::mem::take(&mut sets.new);
        let out = if side == SRC { &mut self.out.src } else { &mut self.out.dst };
        let same_layout = [out.rows.bits, out.rows.stride] == layout;
        let mut before = Vec::new();
        let held = |rules: &[Vec<u64>]| rules.iter().map(Vec::len).sum::<usize>();
        let held_before = held(&self.rules_of_parts[side]);
        if same_rules && same_layout {
            budget.spend(held_before, held_before * size_of::<u64>())?;
        } else {
            let of = |rule: &WideRule| if side == SRC { rule.src } else { rule.dst };
            let mut has_rules = vec![false; bits * 64];
            self.wide_bits.iter().for_each(|(_, rule)| has_rules[of(rule) as usize] = true);
            let parts = has_rules.iter().filter(|has| **has).count();
            let words = parts.saturating_mul(stride - bits);
            // Those of before are there until they have been compared.
            budget.spend(held_before, held_before * size_of::<u64>())?;
            budget.spend(words, words.saturating_mul(size_of::<u64>()))?;
            budget.release(held_before * size_of::<u64>());
            let rules = rules_of(&self.wide_bits, of, bits * 64, stride - bits);
            before = std::mem::replace(&mut self.rules_of_parts[side], rules);
        }
        let rules_of_parts = &self.rules_of_parts[side];
        if same_layout {
            let mut changed = 0..0;
            for (before, now) in before.iter().zip(rules_of_parts) {
                add_differing(&mut changed, before, now);
            }
            for &(part, _) in &turned {
                add_differing(&mut changed, &rules_of_parts[part as usize], &[]);
            }
            self.change_rows(side, &turned, changed);
            self.write_some(side, new.into_iter());
        } else {
            (out.rows.bits, out.rows.stride) = (bits, stride);
            let mut words = vec![0; count * stride];
            let sets = &self.wide[side];
            let writer = RowWriter::new(sets, rules_of_parts, bits, 0..stride - bits);
            for (words, (parts, _)) in words.chunks_exact_mut(stride).zip(&sets.rows) {
                writer.write(words, parts);
            }
            out.rows.words.replace(words);
        }
        Ok(())
    }

    /// Brings the bits of parts that are inverted now, or no longer, and the words of wide rules that
    /// `changed`, up to date in all rows of one side but those that are to be written: no other row
    /// names such a part.
    fn change_rows(&mut self, side: usize, turned: &[(u32, bool)], changed: Range<usize>) {
        if turned.is_empty() && changed.is_empty() {
            return;
        }
        let out = if side == SRC { &mut self.out.src } else { &mut self.out.dst };
        let Rows { words, bits, stride } = &mut out.rows;
        let (bits, mut rules) = (*bits, vec![0; changed.len()]);
        let first = bits + changed.start;
        let writer = RowWriter::new(&self.wide[side], &self.rules_of_parts[side], bits, changed);
        for row in (0..words.len()).step_by((*stride).max(1)) {
            for &(part, is_inverted) in turned {
                let (place, bit) = (row as u32 + part / 64, 1 << (part % 64));
                if (words.get(place) & bit != 0) != is_inverted {
                    *words.get_mut(place) ^= bit;
                }
            }
            writer.write_rules(&mut rules, &words.items()[row..row + bits]);
            for (place, &rules) in (row + first..).zip(&rules) {
                if words.items()[place] != rules {
                    *words.get_mut(place as u32) = rules;
                }
            }
        }
    }

    /// Brings some rows of one side up to date.
    fn write_some(&mut self, side: usize, rows: impl Iterator<Item = u32>) {
        let sets = &self.wide[side];
        let out = if side == SRC { &mut self.out.src } else { &mut self.out.dst };
        let Rows { words: all, bits, stride } = &mut out.rows;
        let (bits, stride) = (*bits, *stride);
        all.grow(sets.rows.len() * stride, 0);
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return;
        }
        let writer = RowWriter::new(sets, &self.rules_of_parts[side], bits, 0..stride - bits);
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
        same_rules: bool,
        runs: Option<Runs>,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let Rows { stride: old, bits, .. } = self.out.services.rows;
        let wide = wide_words(self.wide_bits.len());
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
            None => rules_of(&self.wide_bits, |rule| rule.service, self.service_uses.len(), wide),
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
                or(&mut words[bits..], &of_services[service as usize]);
            }
        }
        map.rows = Rows { words: words.into(), bits, stride };
        self.out.wide_runs = runs.map(|runs| Arc::new(runs.all));
        Ok(())
    }

    /// Writes the rows of new sets of wide parts, see [`Self::write_rows`].
    pub(super) fn write_new_rows(&mut self, budget: &mut Budget) -> Result<(), Exceeded> {
        // Rows may have bits to spare that rules of lists cannot name.
        self.check_numbers()?;
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
    /// The words of wide rules that are written.
    words: Range<usize>,
    rules_of_parts: &'a [Vec<u64>],
    /// Parts that are inverted, as bits, and the rules of all of them.
    inverted: Vec<u64>,
    base: Vec<u64>,
    /// Parts that have rules in these words.
    with_rules: Vec<u64>,
}

impl<'a> RowWriter<'a> {
    fn new(
        sets: &WideSets,
        rules_of_parts: &'a [Vec<u64>],
        bits: usize,
        words: Range<usize>,
    ) -> Self {
        let (mut inverted, mut with_rules) = (vec![0; bits], vec![0; bits]);
        let mut base = vec![0; words.len()];
        sets.inverted.iter().for_each(|&part| flip(&mut inverted, part));
        for (part, rules) in (0..).zip(rules_of_parts) {
            let Some(rules) = rules.get(words.clone()) else { continue };
            if rules.iter().any(|&word| word != 0) {
                flip(&mut with_rules, part);
            }
            if sets.inverted.contains(&part) {
                or(&mut base, rules);
            }
        }
        Self { bits, words, rules_of_parts, inverted, base, with_rules }
    }

    /// Writes the row of a set of wide parts.
    fn write(&self, words: &mut [u64], named: &[u32]) {
        let (parts, rules) = words.split_at_mut(self.bits);
        parts.copy_from_slice(&self.inverted);
        named.iter().for_each(|&part| flip(parts, part));
        self.write_rules(rules, parts);
    }

    /// Writes the words of wide rules of the row that has these bits of parts.
    fn write_rules(&self, rules: &mut [u64], parts: &[u64]) {
        // Most rows name nothing that is inverted.
        let has_all = parts.iter().zip(&self.inverted).all(|(parts, all)| all & !parts == 0);
        match has_all {
            true => rules.copy_from_slice(&self.base),
            false => rules.fill(0),
        }
        for (place, parts) in parts.iter().enumerate() {
            let done = if has_all { self.inverted[place] } else { 0 };
            for part in ones(&[parts & self.with_rules[place] & !done]) {
                let of_part = &self.rules_of_parts[place * 64 + part as usize];
                or(rules, &of_part[self.words.clone()]);
            }
        }
    }
}

fn or(words: &mut [u64], others: &[u64]) {
    words.iter_mut().zip(others).for_each(|(word, other)| *word |= other);
}

fn flip(bits: &mut [u64], bit: u32) {
    bits[(bit / 64) as usize] ^= 1 << (bit % 64);
}

/// Widens a range of words to hold those in which two of equal length differ; nothing stands for zeros.
fn add_differing(range: &mut Range<usize>, one: &[u64], other: &[u64]) {
    let at = |words: &[u64], place: usize| words.get(place).copied().unwrap_or(0);
    for place in 0..one.len().max(other.len()) {
        if at(one, place) != at(other, place) {
            let start = if range.end == 0 { place } else { range.start.min(place) };
            *range = start..range.end.max(place + 1);
        }
    }
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

/// For each of `count` parts or services its wide rules, as bits; nothing for those without.
fn rules_of(
    rules: &WideBits,
    of: impl Fn(&WideRule) -> u32,
    count: usize,
    words: usize,
) -> Vec<Vec<u64>> {
    let mut out = vec![Vec::new(); count];
    for (bit, rule) in rules.iter() {
        let of_this = &mut out[of(rule) as usize];
        of_this.resize(words, 0);
        flip(of_this, bit);
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
