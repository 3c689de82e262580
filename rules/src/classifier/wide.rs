//! The first of many wide rules that stand in the order of their services.
//!
//! Two rows have a bit for each rule both of whose sides are wide: those of the source's class and of the
//! destination's. The class of the service has runs of such rules, see [`crate::compile`]. The first
//! bit that the rows have in common in a run is the run's first rule; of several runs the rule that
//! comes first decides. A run is a few words of rows that are long: asked for ahead for all frames of a
//! batch.

use super::choice::{Choice, Frame};
use super::tables::NONE;
use super::{Classifier, Column, MAX_BATCH};
use crate::intrinsics::prefetch;
use crate::lanes::{Eight, LANES};

/// Runs of a frame whose words are asked for ahead, and by how many frames.
const RUNS_AHEAD: usize = 2;
const FRAMES_AHEAD: usize = 12;

/// Words that are looked at together.
const TOGETHER: usize = 4;

/// For each of so many frames, whose three rows begin at the words `starts`, the place of the first rule
/// that its rows have in common and that comes before what was chosen, or [`NONE`].
#[inline(always)]
pub(super) fn first_in_runs(
    classifier: &Classifier,
    starts: [&[Eight]; 3],
    frames: usize,
    choice: &Choice,
) -> Column {
    let starts = starts.map(<[Eight]>::as_flattened);
    let of_frame = |frame: usize| starts.map(|column| column[frame]);
    for frame in 0..frames.min(FRAMES_AHEAD) {
        classifier.prefetch_runs(of_frame(frame));
    }
    let mut first = [[NONE; LANES]; MAX_BATCH / LANES];
    for (frame, first) in first.as_flattened_mut().iter_mut().enumerate().take(frames) {
        if frame + FRAMES_AHEAD < frames {
            classifier.prefetch_runs(of_frame(frame + FRAMES_AHEAD));
        }
        *first = classifier.first_in_runs(of_frame(frame), choice.rank(frame));
    }
    first
}

/// The first bit of a run that two rows have in common.
#[inline(always)]
fn first_common([src, dst]: [&[u64]; 2], run: [u32; 2]) -> Option<u32> {
    let (low, high) = words_of(run);
    let src = src.get(low..high).unwrap_or_default().chunks(TOGETHER);
    let dst = dst.get(low..high).unwrap_or_default().chunks(TOGETHER);
    for (chunk, (src, dst)) in src.zip(dst).enumerate() {
        // Without a branch on any of them.
        if src.iter().zip(dst).fold(0, |any, (s, d)| any | s & d) == 0 {
            continue;
        }
        for (nth, (s, d)) in src.iter().zip(dst).enumerate() {
            let word = low + chunk * TOGETHER + nth;
            let common = s & d & in_run(run, word);
            if common != 0 {
                return Some((word * 64) as u32 + common.trailing_zeros());
            }
        }
    }
    None
}

/// The words that hold a run: the first, and the one behind the last.
#[inline(always)]
fn words_of([start, end]: [u32; 2]) -> (usize, usize) {
    (start as usize / 64, (end as usize).div_ceil(64))
}

/// The bits of a word, one of [`words_of`], that belong to the run.
#[inline(always)]
fn in_run([start, end]: [u32; 2], word: usize) -> u64 {
    let first = (word * 64) as u32;
    let behind = u64::MAX.checked_shl(end.saturating_sub(first)).unwrap_or(0);
    u64::MAX.checked_shl(start.saturating_sub(first)).unwrap_or(0) & !behind
}

impl Classifier {
    /// The runs of the service class whose row begins at the word `start`.
    #[inline(always)]
    fn wide_runs_of(&self, start: u32) -> &[[u32; 2]] {
        let words = self.services.rows.wide_words(start);
        let (first, count) = words.first().map_or((0, 0), |&word| (word as u32, word >> 32));
        let first = first as usize;
        let runs = self.wide_runs.as_ref().map_or(&[][..], |runs| runs);
        runs.get(first..first + count as usize).unwrap_or_default()
    }

    /// Asks for the words of the first runs of a frame.
    #[inline(always)]
    fn prefetch_runs(&self, [src, dst, services]: [u32; 3]) {
        for &run in self.wide_runs_of(services).iter().take(RUNS_AHEAD) {
            let (low, high) = words_of(run);
            for row in [self.src.rows.wide_words(src), self.dst.rows.wide_words(dst)] {
                if let Some(words @ [first, .., last]) = row.get(low..high) {
                    prefetch(first);
                    if words.len() > TOGETHER {
                        prefetch(last);
                    }
                } else if let Some(word) = row.get(low) {
                    prefetch(word);
                }
            }
        }
    }

    /// The place of the first rule that three rows have in common and whose rank is lower.
    #[inline(always)]
    fn first_in_runs(&self, [src, dst, services]: [u32; 3], rank: u32) -> u32 {
        let rows = [self.src.rows.wide_words(src), self.dst.rows.wide_words(dst)];
        let mut runs = self.wide_runs_of(services);
        let (mut best, mut first) = (u64::from(rank) << 32, NONE);
        while let Some((&run, others)) = runs.split_first() {
            let is_nothing = best >> 32 == u64::from(NONE);
            if !is_nothing && self.wide_rules[run[0] as usize] >= best {
                // Nor does any run behind it begin with a rule that comes before.
                break;
            }
            runs = others;
            let Some(place) = first_common(rows, run) else { continue };
            if is_nothing && others.is_empty() {
                // Nothing to compare it with.
                return place;
            }
            let candidate = self.wide_rules[place as usize];
            if candidate < best {
                (best, first) = (candidate, place);
            }
        }
        first
    }

    /// Lowers `best` to the first of the rules both of whose sides are wide that matches, where these
    /// stand in the order of their services: the rows begin at the words `starts`.
    #[cold]
    #[inline(never)]
    pub(super) fn consider_runs(&self, starts: [u32; 3], frame: &Frame<'_>, best: &mut u64) {
        let [src, dst, services] = starts;
        let rows = [self.src.rows.wide_words(src), self.dst.rows.wide_words(dst)];
        for &[start, end] in self.wide_runs_of(services) {
            let mut from = start;
            while let Some(place) = first_common(rows, [from, end]) {
                let candidate = self.wide_rules[place as usize];
                if candidate >= *best {
                    break;
                }
                self.consider(candidate, frame, best);
                from = place + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_rows_have_in_common_in_a_run_is_found_in_order(
            src in prop::collection::vec(any::<u64>(), 12),
            dst in prop::collection::vec(any::<u64>(), 12),
            sparse in any::<bool>(),
            start in 0..700_u32,
            len in 1..300_u32,
        ) {
            let thin = |word: &u64| if sparse { word & word >> 7 & word << 9 & word >> 23 } else { *word };
            let (src, dst): (Vec<u64>, Vec<u64>) =
                (src.iter().map(thin).collect(), dst.iter().map(thin).collect());
            let end = (start + len).min(12 * 64);
            let is_set = |row: &[u64], bit: u32| row[bit as usize / 64] >> (bit % 64) & 1 != 0;
            let expected: Vec<u32> =
                (start..end).filter(|&bit| is_set(&src, bit) && is_set(&dst, bit)).collect();
            let mut found = Vec::new();
            let mut from = start;
            while let Some(bit) = first_common([&src, &dst], [from, end]) {
                found.push(bit);
                from = bit + 1;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
