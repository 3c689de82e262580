//! How many flows each source holds, in fixed memory.
//!
//! Each source adds to one counter in each of two rows, chosen by its keyed hash, when a flow of its
//! begins, and takes it back when the flow ends. Its count is the smaller of its two counters: never
//! less than what it holds, so that no greedy host escapes its limit. It is more only by what those
//! sources hold that share *both* counters with it: with `n` sources at their limit an innocent one
//! is refused with probability `(n / width)^2`, and outsiders cannot aim, since the hash is keyed.

use crate::intrinsics::prefetch;

/// See the module's description.
pub(super) struct SourceCounts {
    rows: [Vec<u32>; 2],
    mask: usize,
}

impl SourceCounts {
    /// Counters for a table of `capacity` flows: an eighth of them in each row, but at least 4,096
    /// and at most a million.
    pub(super) fn new(capacity: usize) -> Self {
        let width = (capacity / 8).next_power_of_two().clamp(1 << 12, 1 << 20);
        Self { rows: [vec![0; width], vec![0; width]], mask: width - 1 }
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.rows.iter().map(|row| size_of_val(row.as_slice())).sum()
    }

    /// Asks for the source's counters.
    #[inline]
    pub(super) fn prefetch(&self, source: u64) {
        let [a, b] = self.places(source);
        prefetch(&self.rows[0][a]);
        prefetch(&self.rows[1][b]);
    }

    /// At least the number of flows that the source holds.
    pub(super) fn count(&self, source: u64) -> u32 {
        let [a, b] = self.places(source);
        self.rows[0][a].min(self.rows[1][b])
    }

    pub(super) fn increment(&mut self, source: u64) {
        for (row, place) in self.rows.iter_mut().zip(places(source, self.mask)) {
            row[place] += 1;
        }
    }

    pub(super) fn decrement(&mut self, source: u64) {
        for (row, place) in self.rows.iter_mut().zip(places(source, self.mask)) {
            row[place] -= 1;
        }
    }

    fn places(&self, source: u64) -> [usize; 2] {
        places(source, self.mask)
    }
}

fn places(source: u64, mask: usize) -> [usize; 2] {
    [source as usize & mask, (source >> 32) as usize & mask]
}
