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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bulkhead_rules::compile::{Limits, compile};
    use bulkhead_rules::policy::{Policy, RuleId};

    use super::*;
    use crate::conntrack::Connection;
    use crate::flow_table::{FlowKey, NewFlow};
    use crate::judge::{Answer, Judge};
    use crate::parse::{Kind, Parsed};
    use crate::snapshot::{Content, Mode, Publisher, WallClock, WirePolicy};
    use crate::worker::WorkerConfig;

    const AT: PolicyTime = PolicyTime { unix_ms: 0, synchronised: true };
    static WIRE: WirePolicy = WirePolicy::new(Mode::Enforce, 0);

    fn publisher(first_epoch: u64) -> Publisher {
        let text =
            "version: 1\nrules:\n  - {name: a, from: any, to: any, service: any, action: allow}\n";
        let policy = Policy::parse(text).expect("the test's policy is one");
        let classifier = compile(&policy, &Limits::default()).expect("it compiles");
        let content = Content {
            policy: Arc::new(policy),
            classifier: Arc::new(classifier),
            wires: vec![WIRE.clone()],
            clock: WallClock::default(),
        };
        Publisher::starting_at(content, 1, first_epoch).0
    }

    #[test]
    fn no_entry_is_trusted_for_epochs_that_come_round_again() {
        // From the first publisher to the second is a jump that no sequence of edits is likely to
        // make; to the worker it looks like one edit.
        for (jump, holds) in
            [(0, true), (1, true), (1 << 30, true), ((1 << 30) + 1, false)].into_iter().chain(
                [1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 3 << 32]
                    .map(|j| (j, false)),
            )
        {
            let (one, other) = (publisher(7), publisher(7 + jump));
            let mut judge = Judge::new(&WorkerConfig::default());
            let moment = judge.enter(one.current(), AT, 0, &WIRE, 0, true);
            let parsed = Parsed { kind: Kind::Other, ..Parsed::default() };
            let (key, initiator) = FlowKey::of(&parsed, 0);
            let answer = Answer { rule: RuleId(0), ..Answer::DEFAULT };
            let new = NewFlow {
                initiator,
                headers: &parsed.headers,
                judgement: moment.judgement(answer),
                connection: Connection::of_first(&parsed, None).expect("it opens a flow"),
                client_inside: true,
                opening_seen: true,
            };
            let hash = judge.flows.hash(&key);
            let index = judge.flows.insert(hash, &key, &new, 0).expect("there is room");
            assert!(judge.is_current(index, &moment));
            let later = judge.enter(other.current(), AT, 0, &WIRE, 0, true);
            assert_eq!(judge.is_current(index, &later), holds, "after {jump} epochs");
        }
    }
}
