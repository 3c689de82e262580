//! The staged policy's word on what the policy in force has just judged: see
//! [`crate::snapshot::staged`].

use bulkhead_rules::headers::{Headers, protocol};
use bulkhead_rules::policy::RuleId;

use super::{Judge, Moment};
use crate::conntrack::Direction;
use crate::flow_table::{FlowHash, FlowIndex};
use crate::snapshot::Mode;
use crate::snapshot::staged::{Difference, Live};

/// Denied tuples that are remembered: what is denied has no flow, and its packets should not count as
/// one flow each.
const REMEMBERED: usize = 4096;

/// The tuples that were denied last, by some bits of their hash: one in each place. Another in the
/// same place makes the first one count anew.
pub(super) struct RecentlyDenied {
    tags: Box<[u16; REMEMBERED]>,
    /// The tally in which they were counted: each begins anew.
    tally: u64,
}

impl RecentlyDenied {
    pub(super) fn new() -> Self {
        Self { tags: Box::new([0; REMEMBERED]), tally: 0 }
    }

    /// Whether a tuple is new to the tally with this number. Remembers it.
    fn is_new(&mut self, hash: FlowHash, tally: u64) -> bool {
        if self.tally != tally {
            self.tally = tally;
            self.tags.fill(0);
        }
        let place = &mut self.tags[hash.some_other_bits() as usize % REMEMBERED];
        std::mem::replace(place, hash.some_bits()) != hash.some_bits()
    }
}

impl Judge {
    /// Asks about a flow that `rule` has just judged: a new one, or the one at `index`.
    #[cold]
    pub(super) fn ask_staged(
        &mut self,
        headers: &Headers,
        rule: RuleId,
        index: Option<FlowIndex>,
        moment: &Moment<'_>,
    ) {
        let Some(staged) = moment.snapshot.staged() else { return };
        let permitted = moment.permits(rule);
        let mut asked = *headers;
        let mut word = staged.ask(&asked, moment.at, &mut self.scratch);
        // Of a connection whose beginning was not seen, and of a datagram that no rule let through, nobody
        // knows which end opened it: it is enough that one of the two ways is permitted.
        let is_certain = index.is_none_or(|index| {
            let (entry, is_tcp) = (self.flows.entry(index), headers.protocol == protocol::TCP);
            entry.is_opening_seen() && (permitted || is_tcp)
        });
        if !word.permitted && !is_certain {
            let backward = headers.reversed();
            let other = staged.ask(&backward, moment.at, &mut self.scratch);
            if other.permitted {
                (asked, word) = (backward, other);
            }
        }
        let live = index.map(|index| {
            let entry = self.flows.entry(index);
            let ways = [Direction::FromInitiator, Direction::FromResponder];
            Live {
                age_ns: entry.age_ns(moment.now_ns),
                packets: ways.map(|way| entry.packets(way)).iter().sum(),
                bytes: ways.map(|way| entry.bytes(way)).iter().sum(),
            }
        });
        let difference = Difference {
            unix_ms: moment.at.unix_ms,
            headers: asked,
            passes: permitted || moment.observes(rule),
            rule,
            permitted,
            epoch: moment.snapshot.first_epoch(),
            staged_rule: word.rule,
            live,
        };
        staged.tally.count(self.worker, difference, word);
    }

    /// Asks about a packet that `rule` has just denied. Unless it `opens` a connection beyond doubt it
    /// may be an answer, where the wire observes: then it is enough that one of the two ways is
    /// permitted, as a flow would have been opened that way.
    #[cold]
    pub(super) fn ask_staged_of_denied(
        &mut self,
        place: usize,
        (headers, opens): (&Headers, bool),
        rule: RuleId,
        moment: &Moment<'_>,
    ) {
        let Some(staged) = moment.snapshot.staged() else { return };
        if let Some(mine) = staged.tally.workers().get(self.worker) {
            mine.denied_packets.add(1);
        }
        if !self.recently_denied.is_new(self.hashes[place], staged.tally.number()) {
            return;
        }
        let backward = headers.reversed();
        let is_answer = !opens
            && !staged.ask(headers, moment.at, &mut self.scratch).permitted
            && staged.ask(&backward, moment.at, &mut self.scratch).permitted;
        self.ask_staged(if is_answer { &backward } else { headers }, rule, None, moment);
    }
}

impl Moment<'_> {
    /// Whether the wire forwards what `rule` denies.
    fn observes(&self, rule: RuleId) -> bool {
        self.wire.mode == Mode::Observe && rule.0 >= self.wire.quarantine_rules
    }
}
