//! The first of many wide rules that stand in the order of their services.
//!
//! Two rows have a bit for each rule both of whose sides are wide: those of the source's class and of the
//! destination's. The class of the service has runs of such rules, see [`crate::compile`]. The first
//! bit that the rows have in common in a run is the run's first rule; of several runs the rule that
//! comes first decides. A run is a few words of rows that are long: asked for ahead for all frames of a
//! batch.

use super::choice::{Choice, Frame};
use super::tables::{NONE, Rows};
use super::{Classifier, Column, MAX_BATCH};
use crate::intrinsics::prefetch;
use crate::lanes::{Eight, LANES};

/// Runs of a frame whose words are asked for ahead.
const RUNS_AHEAD: usize = 2;

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
    let [src, dst, services] = starts.map(<[Eight]>::as_flattened);
    for frame in 0..frames {
        for &[start, end] in classifier.wide_runs_of(services[frame]).iter().take(RUNS_AHEAD) {
            for (rows, row) in [(&classifier.src.rows, src), (&classifier.dst.rows, dst)] {
                prefetch_wide(rows, row[frame], start);
                prefetch_wide(rows, row[frame], end - 1);
            }
        }
    }
    let mut first = [[NONE; LANES]; MAX_BATCH / LANES];
    for (frame, first) in first.as_flattened_mut().iter_mut().enumerate().take(frames) {
        let rows = [(&classifier.src.rows, src), (&classifier.dst.rows, dst)];
        let rows = rows.map(|(rows, row)| rows.wide_words(row[frame]));
        let mut best = u64::from(choice.rank(frame)) << 32;
        for &run in classifier.wide_runs_of(services[frame]) {
            if classifier.wide_rules[run[0] as usize] >= best {
                // Nor does any run behind it begin with a rule that comes before.
                break;
            }
            let Some(place) = common(rows, run).next() else { continue };
            let candidate = classifier.wide_rules[place as usize];
            if candidate < best {
                (best, *first) = (candidate, place);
            }
        }
    }
    first
}

fn prefetch_wide(rows: &Rows, start: u32, bit: u32) {
    if let Some(word) = rows.wide_words(start).get(bit as usize / 64) {
        prefetch(word);
    }
}

/// The bits of a run that two rows have in common, ascending.
#[inline(always)]
fn common([src, dst]: [&[u64]; 2], [start, end]: [u32; 2]) -> impl Iterator<Item = u32> {
    let (low, high) = (start as usize / 64, (end as usize).div_ceil(64));
    let src = src.get(low..high).unwrap_or_default().chunks(TOGETHER);
    let dst = dst.get(low..high).unwrap_or_default().chunks(TOGETHER);
    let in_run = move |word: usize| {
        let first = (word * 64) as u32;
        let behind = u64::MAX.checked_shl(end.saturating_sub(first)).unwrap_or(0);
        u64::MAX.checked_shl(start.saturating_sub(first)).unwrap_or(0) & !behind
    };
    src.zip(dst).enumerate().flat_map(move |(chunk, (src, dst))| {
        let any = src.iter().zip(dst).fold(0, |any, (s, d)| any | s & d);
        let words = if any == 0 { 0 } else { src.len() };
        (0..words).flat_map(move |nth| {
            let word = low + chunk * TOGETHER + nth;
            super::ones(src[nth] & dst[nth] & in_run(word)).map(move |bit| (word * 64 + bit) as u32)
        })
    })
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

    /// Lowers `best` to the first of the rules both of whose sides are wide that matches, where these
    /// stand in the order of their services: the rows begin at the words `starts`.
    #[cold]
    #[inline(never)]
    pub(super) fn consider_runs(&self, starts: [u32; 3], frame: &Frame<'_>, best: &mut u64) {
        let [src, dst, services] = starts;
        let rows = [self.src.rows.wide_words(src), self.dst.rows.wide_words(dst)];
        for &run in self.wide_runs_of(services) {
            for place in common(rows, run) {
                let candidate = self.wide_rules[place as usize];
                if candidate >= *best {
                    break;
                }
                self.consider(candidate, frame, best);
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
            let found: Vec<u32> = common([&src, &dst], [start, end]).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
