//! Which judgements of the past still hold.
//!
//! Epochs are counted in 64 bits and never wrap; a flow entry keeps the low 32 of the one in which
//! it was judged. An entry of the present epoch holds. An older one holds if nothing that concerns
//! it has happened since: no whole policy was published, no rule's time came or went, and no edit
//! touched its footprint. The first two are one number for all entries of a worker, the oldest
//! trusted epoch, which is kept here; the third is asked of the snapshot.
//!
//! 32 bits tell an entry's epoch as long as it is less than 2^32 epochs old. So entries that are no
//! longer trusted are moved up to just below the oldest trusted epoch by ageing, which passes the
//! whole flow table every few seconds, and no entry is trusted after 2^30 epochs.

use bulkhead_rules::headers::PolicyTime;

use crate::flow_table::{FlowEntry, TrustedEpochs};
use crate::snapshot::Snapshot;

/// No judgement holds for more epochs than this.
const LONGEST_TRUST: u64 = 1 << 30;
/// So many epochs between two looks at an entry leave its age beyond doubt.
const LONGEST_PASS: u64 = 1 << 31;

/// The epochs that a worker has come through.
#[derive(Debug)]
pub(super) struct Epochs {
    generation: u64,
    at: PolicyTime,
    now: u64,
    oldest_trusted: u64,
    /// The epochs in which this pass of ageing over the flow table began, and the one before.
    passes_began: [u64; 2],
}

impl Epochs {
    /// Before the first snapshot.
    pub(super) fn new() -> Self {
        let at = PolicyTime { unix_ms: 0, synchronised: false };
        Self { generation: 0, at, now: 0, oldest_trusted: 0, passes_began: [0; 2] }
    }

    /// Moves on to `snapshot` at the instant `at`, which is not before the last one if no whole
    /// policy lies between. False where nothing has changed.
    pub(super) fn advance(&mut self, snapshot: &Snapshot, at: PolicyTime) -> bool {
        let now = snapshot.epoch_at(at);
        let changed = now != self.now || snapshot.generation() != self.generation;
        if changed {
            // An edit leaves equal what it does not touch, at every instant: so it is enough to ask
            // the edited policy whether a rule's time has come or gone since this worker last looked.
            let holds = snapshot.is_edited_from(self.generation)
                && snapshot.is_constant_between(self.at, at);
            if !holds {
                self.oldest_trusted = now;
            }
            self.oldest_trusted = self.oldest_trusted.max(now.saturating_sub(LONGEST_TRUST));
            (self.generation, self.now) = (snapshot.generation(), now);
        }
        self.at = at;
        changed
    }

    /// The present epoch.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// Whether so much has happened since ageing saw every entry that their epochs could be taken
    /// for later ones.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.now - self.passes_began[1] > LONGEST_PASS
    }

    /// Notes that ageing has seen every entry since it last was here.
    pub(super) fn seen_all(&mut self) {
        self.passes_began = [self.now, self.passes_began[0]];
    }

    /// The epochs that ageing leaves in entries.
    pub(super) fn trusted(&self) -> TrustedEpochs {
        TrustedEpochs { oldest: self.oldest_trusted as u32, newest: self.now as u32 }
    }

    /// Whether `snapshot`, to which this worker has moved on, would judge a flow as its entry says.
    #[inline]
    pub(super) fn holds(&self, entry: &FlowEntry, snapshot: &Snapshot) -> bool {
        let age = (self.now as u32).wrapping_sub(entry.epoch());
        let judged = self.now.saturating_sub(age.into());
        judged >= self.oldest_trusted && !snapshot.has_changed_since(entry.footprint(), judged)
    }
}
