//! Packets that were denied, summed by what they tried.
//!
//! The first packet of a tuple is told at once, and those that repeat it are counted here: they are
//! told as one record after some seconds, or when another tuple needs their place. Attempts that differ
//! in the client's port only are one tuple: a client that tries again does so from another port.

use std::time::Instant;

use ahash::RandomState;
use bulkhead_rules::headers::Headers;
use bulkhead_rules::policy::RuleId;

use super::{Event, FlowRecord, Out};
use crate::verdict::Verdict;

/// Tuples that are remembered.
const SLOTS: usize = 1024;
/// How long repetitions are summed, in nanoseconds.
const SUMMED_NS: u64 = 5_000_000_000;
/// After so long without a repetition a tuple is forgotten: its next packet is told at once.
const FORGOTTEN_NS: u64 = 30_000_000_000;
/// Slots that are looked at together, and how often that happens: all of them twice a second.
const AGED_AT_ONCE: usize = 16;
const AGEING_NS: u64 = 500_000_000 / (SLOTS / AGED_AT_ONCE) as u64;

/// A packet that opened no flow.
pub(super) struct Attempt {
    pub(super) headers: Headers,
    pub(super) verdict: Verdict,
    pub(super) rule: Option<RuleId>,
    pub(super) client_inside: bool,
    pub(super) opening_seen: bool,
    pub(super) enforced: bool,
    pub(super) len: u32,
    pub(super) epoch: u64,
    pub(super) now_ns: u64,
    pub(super) unix_ms: i64,
}

/// What is the same in attempts that are summed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Tuple {
    /// Without the client's port.
    headers: Headers,
    client_inside: bool,
    verdict: Verdict,
    rule: Option<RuleId>,
    enforced: bool,
}

impl Attempt {
    fn tuple(&self) -> Tuple {
        let Self { headers, client_inside, verdict, rule, enforced, .. } = *self;
        Tuple {
            headers: Headers { src_port: 0, ..headers },
            client_inside,
            verdict,
            rule,
            enforced,
        }
    }

    fn record(&self) -> FlowRecord {
        FlowRecord {
            event: Event::Denied,
            ending: None,
            headers: self.headers,
            client_inside: self.client_inside,
            opening_seen: self.opening_seen,
            answered: false,
            first_ms: self.unix_ms,
            last_ms: self.unix_ms,
            packets: [1, 0],
            bytes: [u64::from(self.len), 0],
            verdict: self.verdict,
            rule: self.rule,
            epoch: self.epoch,
            enforced: self.enforced,
            staged: None,
        }
    }
}

/// A tuple, and the record of its repetitions.
struct Slot {
    tuple: Tuple,
    /// Of what was not told yet; no packets where there is nothing.
    untold: FlowRecord,
    told_ns: u64,
    last_ns: u64,
}

/// See the module's description.
pub(super) struct DeniedTable {
    slots: Box<[Option<Slot>]>,
    hash: RandomState,
    hand: usize,
    age_next_ns: u64,
}

impl DeniedTable {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| None).collect(),
            hash: RandomState::new(),
            hand: 0,
            age_next_ns: 0,
        }
    }

    /// Counts an attempt. Returns whether it is the first of its tuple, which is told at once.
    pub(super) fn note(&mut self, attempt: &Attempt, out: &mut Out) -> bool {
        let tuple = attempt.tuple();
        let first = self.hash.hash_one(tuple) as usize % SLOTS;
        let pair = [first, first ^ 1];
        for place in pair {
            if let Some(slot) = self.slots[place].as_mut().filter(|slot| slot.tuple == tuple) {
                slot.add(attempt);
                return false;
            }
        }
        // An empty place, or the one that was quiet for longer.
        let last_ns = |place: usize| self.slots[place].as_ref().map_or(0, |slot| slot.last_ns + 1);
        let place = if last_ns(pair[1]) < last_ns(pair[0]) { pair[1] } else { pair[0] };
        if let Some(mut evicted) = self.slots[place].take() {
            evicted.tell(attempt.now_ns, out);
        }
        let record = attempt.record();
        out.tell(record);
        let untold = FlowRecord { packets: [0; 2], bytes: [0; 2], ..record };
        let (told_ns, last_ns) = (attempt.now_ns, attempt.now_ns);
        self.slots[place] = Some(Slot { tuple, untold, told_ns, last_ns });
        true
    }

    #[inline]
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.age_next_ns
    }

    /// Looks at the next few tuples.
    pub(super) fn age(&mut self, now_ns: u64, out: &mut Out) {
        self.age_next_ns = now_ns + AGEING_NS;
        for _ in 0..AGED_AT_ONCE {
            let place = self.hand;
            self.hand = (place + 1) % SLOTS;
            let Some(slot) = &mut self.slots[place] else { continue };
            // What finds no room now does so later: the sum is kept.
            if now_ns.saturating_sub(slot.told_ns) >= SUMMED_NS && out.has_room() {
                slot.tell(now_ns, out);
            }
            if slot.untold.packets[0] == 0 && now_ns.saturating_sub(slot.last_ns) >= FORGOTTEN_NS {
                self.slots[place] = None;
            }
        }
    }

    /// Tells what was not told yet, for a worker that began to stop at `begun`.
    pub(super) fn tell_all(&mut self, out: &mut Out, begun: Instant) {
        let untold = |slot: &&mut Slot| slot.untold.packets[0] > 0;
        for slot in self.slots.iter_mut().flatten().filter(untold) {
            out.wait_for_room(begun);
            slot.tell(slot.last_ns, out);
        }
    }
}

impl Slot {
    fn add(&mut self, attempt: &Attempt) {
        let untold = &mut self.untold;
        if untold.packets[0] == 0 {
            (untold.first_ms, untold.headers) = (attempt.unix_ms, attempt.headers);
            (untold.epoch, untold.opening_seen) = (attempt.epoch, attempt.opening_seen);
        }
        untold.packets[0] += 1;
        untold.bytes[0] += u64::from(attempt.len);
        untold.last_ms = attempt.unix_ms;
        self.last_ns = attempt.now_ns;
    }

    /// Tells the repetitions, if there are any; what finds no room is counted as lost.
    fn tell(&mut self, now_ns: u64, out: &mut Out) {
        if self.untold.packets[0] > 0 {
            out.tell(self.untold);
            (self.untold.packets, self.untold.bytes) = ([0; 2], [0; 2]);
        }
        self.told_ns = now_ns;
    }
}
