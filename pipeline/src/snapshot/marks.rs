//! When edits last touched each footprint.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bulkhead_rules::classifier::{Changes, FOOTPRINTS, Footprint};

/// For each footprint of either side the first epoch of the last edit that touched it.
///
/// One table serves all snapshots: the control thread writes it before it publishes the edit, and
/// a worker that takes up the edit sees it, because the generation is stored after and loaded
/// before. A worker that still judges by an older snapshot may see the mark too early. To it the
/// mark is of a later epoch than any of its entries, so it judges such flows again by its own
/// policy, which is right if needless, and once more when it takes up the edit.
pub(super) struct Marks {
    src: [AtomicU64; FOOTPRINTS],
    dst: [AtomicU64; FOOTPRINTS],
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marks").finish_non_exhaustive()
    }
}

impl Marks {
    /// Nothing was ever touched.
    pub(super) fn new() -> Self {
        let side = || [const { AtomicU64::new(0) }; FOOTPRINTS];
        Self { src: side(), dst: side() }
    }

    /// Notes that the edit whose first epoch is `epoch` made `changes`. False where that is
    /// everything, which marks cannot say.
    pub(super) fn note(&self, changes: &Changes, epoch: u64) -> bool {
        let Changes::Footprints { src, dst } = changes else { return false };
        for (side, touched) in [(&self.src, src), (&self.dst, dst)] {
            for &half in touched {
                side[usize::from(half) % FOOTPRINTS].store(epoch, Relaxed);
            }
        }
        true
    }

    /// Whether an edit has touched `footprint` after `epoch`.
    #[inline]
    pub(super) fn is_touched_after(&self, footprint: Footprint, epoch: u64) -> bool {
        let mark = |side: &[AtomicU64; FOOTPRINTS], half: u16| {
            side[usize::from(half) % FOOTPRINTS].load(Relaxed)
        };
        mark(&self.src, footprint.src).max(mark(&self.dst, footprint.dst)) > epoch
    }
}
