//! What a worker does for a trace, burst by burst: the second loop body's additions.

use arrayvec::ArrayVec;
use bulkhead_rules::headers::{PolicyTime, WireId, protocol};
use bulkhead_rules::policy::RuleId;
use rtrb::Producer;

use super::{Classified, Fate, Filter, HEADERS_AT_MOST, Lookup, Rings, Snap, Step, Story, Wanted};
use crate::burst::{Columns, Places};
use crate::conntrack::Phase;
use crate::judge::{Judge, Moment};
use crate::parse::{Kind, Parsed};
use crate::port::{Burst, Frame, MAX_BURST};
use crate::snapshot::Mode;
use crate::verdict::{DropReason, Verdict};
use crate::worker::is_sent;

/// Frames that wait for transmission, over all ports, and are remembered.
const MAX_HELD: usize = 4096;

/// How a burst came.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) wire: WireId,
    pub(crate) from_inside: bool,
    /// So many from the front came from other workers.
    pub(crate) handed_in: usize,
    pub(crate) resumed: bool,
    pub(crate) mode: Mode,
    pub(crate) at: PolicyTime,
    pub(crate) epoch: u64,
    /// The wire's place in its worker.
    pub(crate) place: usize,
}

/// What the stages before the verdict knew of a frame.
#[derive(Clone, Copy)]
struct Before {
    lookup: Lookup,
    classified: Classified,
}

/// What is known of the frames of a burst once all are decided.
pub(crate) struct Decision<'a> {
    pub(crate) columns: &'a Columns,
    /// Whether the other port has carrier.
    pub(crate) link_up: bool,
}

/// A transmit queue at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queued {
    /// Frames in it.
    pub(crate) held: usize,
    /// Frames that left it so far.
    pub(crate) transmitted: u64,
}

/// A frame in a transmit queue.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: u64,
    /// The queue: the wire's place in its worker, and whether its frames come by the inside port.
    queue: (usize, bool),
    /// Frames before it.
    before: u64,
}

/// An order, with all the memory that it takes.
#[derive(Debug)]
pub(crate) struct Follower {
    filter: Filter,
    snap: Snap,
    left: u64,
    next_id: u64,
    rule: Option<RuleId>,
    rings: Rings,
    /// The places of the burst at hand that match by their headers, and those that were handed in.
    mask: u64,
    handed_in: u64,
    /// Those that did not parse.
    malformed: u64,
    arrival: Option<Arrival>,
    before: Box<[Before; MAX_BURST]>,
    /// Of the burst at hand: stories whose end is not known yet, with their places.
    pending: Box<ArrayVec<(usize, Story), MAX_BURST>>,
    held: Vec<Held>,
    matched: u64,
    lost: u64,
}

impl std::fmt::Debug for Before {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {:?}", self.lookup, self.classified)
    }
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, inside: {}", self.wire, self.from_inside)
    }
}

impl Follower {
    pub(super) fn new(wanted: &Wanted, steps: Producer<Step>, bytes: Producer<u8>) -> Self {
        let before = Before { lookup: Lookup::NotByFlow, classified: Classified::No };
        Self {
            filter: wanted.filter,
            snap: wanted.snap,
            left: wanted.packets,
            next_id: 0,
            rule: None,
            rings: Rings { steps, bytes },
            mask: 0,
            handed_in: 0,
            malformed: 0,
            arrival: None,
            before: Box::new([before; MAX_BURST]),
            pending: Box::default(),
            held: Vec::with_capacity(MAX_HELD),
            matched: 0,
            lost: 0,
        }
    }

    pub(super) fn rule_is(&mut self, rule: Option<RuleId>) {
        self.rule = rule;
    }

    pub(super) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.matched), std::mem::take(&mut self.lost))
    }

    /// A burst came and was parsed.
    pub(crate) fn parsed(&mut self, columns: &Columns, arrival: Arrival) {
        self.pending.clear();
        self.arrival = Some(arrival);
        self.handed_in = (1_u64.checked_shl(arrival.handed_in as u32)).map_or(u64::MAX, |b| b - 1);
        (self.mask, self.malformed) = (0, 0);
        if self.left > 0 {
            for place in 0..columns.count {
                let matches = self.filter.matches(&columns.parsed[place], arrival.from_inside);
                self.mask |= u64::from(matches) << place;
                self.malformed |= u64::from(!columns.is_undecided(place)) << place;
            }
        }
    }

    /// Some of the burst are about to be handed over: `owner` tells to whom. Their stories begin here,
    /// and end with [`Self::handed_over`].
    pub(crate) fn sorted<F: Frame>(
        &mut self,
        columns: &Columns,
        burst: &Burst<F>,
        own: usize,
        owner: impl Fn(usize) -> usize,
    ) {
        if self.mask == 0 {
            return;
        }
        let mut stay = 0_u64;
        for (place, frame) in burst.iter().enumerate() {
            let to = owner(place);
            if to == own {
                stay |= 1 << place;
            } else if self.mask >> place & 1 != 0 {
                let before = Before { lookup: Lookup::NotByFlow, classified: Classified::No };
                let fate = Fate::HandedOver { to };
                if let Some(story) = self.story(columns, place, before, None, fate) {
                    if self.suits(&story, None) {
                        self.keep(place, story, frame.bytes());
                    }
                }
            }
        }
        // Each owner's frames went in order: the story's place becomes its turn among these.
        for (place, story) in self.pending.iter_mut() {
            if let Fate::HandedOver { to } = story.fate {
                *place = (0..*place).filter(|&before| owner(before) == to).count();
            }
        }
        self.move_together(stay);
    }

    /// The ring to a worker took so many, from the front.
    pub(crate) fn handed_over(&mut self, owner: usize, taken: usize) {
        for (turn, story) in self.pending.iter_mut() {
            if story.fate == (Fate::HandedOver { to: owner }) && *turn >= taken {
                story.fate = Fate::Dropped(DropReason::HandoverFull);
            }
        }
    }

    /// Tells what was handed over.
    pub(crate) fn leave_handed_over(&mut self) {
        for (_, story) in self.pending.iter() {
            self.lost += u64::from(self.rings.steps.push(Step::Story(*story)).is_err());
        }
        self.pending.clear();
    }

    /// The burst's flows are about to be looked up.
    pub(crate) fn before_lookup(
        &mut self,
        judge: &mut Judge,
        columns: &Columns,
        moment: &Moment<'_>,
    ) {
        for place in Places(self.mask) {
            self.before[place].lookup = judge.flow_seen(columns, place, moment);
        }
    }

    /// The classifier was asked.
    pub(crate) fn classified(&mut self, judge: &Judge) {
        for place in Places(self.mask) {
            self.before[place].classified = judge.asked_about(place);
        }
    }

    /// Fragments of the burst, a bit for each place, may be kept back: their stories are begun, in case.
    pub(crate) fn before_keeping(&mut self, columns: &Columns, early: u64) {
        for place in Places(self.mask & early) {
            let story = self.story(columns, place, self.before[place], None, Fate::KeptBack);
            if let Some(story) = story.filter(|story| self.suits(story, None)) {
                self.pending.push((place, story));
            }
        }
    }

    /// Those in these places were. Their bytes come with the story of how they go on.
    pub(crate) fn kept_back(&mut self, kept: u64, count: usize) {
        for (place, story) in std::mem::take(&mut *self.pending) {
            if kept >> place & 1 != 0 {
                let story = Story { verdict: Verdict::UNDECIDED, ..story };
                self.tell(story);
            }
        }
        let stay = !kept & low(count + kept.count_ones() as usize);
        for (to, place) in Places(stay).enumerate() {
            self.before[to] = self.before[place];
        }
        self.move_together(stay);
    }

    /// Every frame of the burst is decided, and about to be queued or dropped.
    pub(crate) fn decided<F: Frame>(
        &mut self,
        judge: &mut Judge,
        burst: &Burst<F>,
        decision: &Decision<'_>,
        moment: &Moment<'_>,
    ) {
        let Some(arrival) = self.arrival else { return };
        let columns = decision.columns;
        for place in Places(self.mask & columns.all()) {
            let verdict = columns.verdict[place];
            let fate = match (is_sent(verdict, arrival.mode), verdict) {
                (true, _) if !decision.link_up => Fate::NotSent(DropReason::LinkDown),
                (true, _) => Fate::Sent,
                (false, Verdict::Drop(reason)) => Fate::Dropped(reason),
                (false, Verdict::Reject | Verdict::Forward) => Fate::Dropped(DropReason::Policy),
            };
            let after = judge.phase_now(columns, place, moment);
            let before = self.before[place];
            let Some(story) = self.story(columns, place, before, after, fate) else { return };
            let late = match fate {
                Fate::NotSent(reason) => Some(reason),
                _ => None,
            };
            if self.suits(&story, late) {
                let bytes = burst.get(place).map_or(&[][..], |frame| frame.bytes());
                self.keep(place, story, bytes);
            }
        }
    }

    /// The burst's frames were queued behind nothing, and as many as may were sent.
    pub(crate) fn flushed(
        &mut self,
        columns: &Columns,
        (before, now): (Queued, Queued),
        reason: DropReason,
    ) {
        let Some(arrival) = self.arrival.filter(|_| !self.pending.is_empty()) else { return };
        let sent = (now.transmitted - before.transmitted) as usize;
        let gone = before.held.saturating_sub(now.held);
        for (place, story) in std::mem::take(&mut *self.pending) {
            if !matches!(story.fate, Fate::Sent | Fate::NotSent(_)) {
                self.tell(story);
                continue;
            }
            let earlier = &columns.verdict[..place];
            let turn = earlier.iter().filter(|&&v| is_sent(v, arrival.mode)).count();
            let fate = match turn {
                turn if turn < sent => Fate::Sent,
                turn if turn < gone => Fate::NotSent(reason),
                _ => Fate::Held,
            };
            self.tell(Story { fate, ..story });
            if fate == Fate::Held && self.held.len() < MAX_HELD {
                let queue = (arrival.place, arrival.from_inside);
                self.held.push(Held { id: story.id, queue, before: (turn - gone) as u64 });
            } else {
                self.lost += u64::from(fate == Fate::Held);
            }
        }
    }

    /// A transmit queue that held frames was served: what it was before, and what it is now.
    pub(crate) fn served(
        &mut self,
        queue: (usize, bool),
        (before, now): (Queued, Queued),
        reason: DropReason,
    ) {
        if before == now || self.held.is_empty() {
            return;
        }
        let sent = now.transmitted - before.transmitted;
        let (lost, steps) = (&mut self.lost, &mut self.rings.steps);
        self.held.retain_mut(|held| {
            if held.queue != queue {
                return true;
            }
            let fate = if held.before < sent {
                Fate::Sent
            } else if now.held == 0 {
                Fate::NotSent(reason)
            } else {
                held.before -= sent;
                return true;
            };
            *lost += u64::from(steps.push(Step::Later { id: held.id, fate }).is_err());
            false
        });
    }

    /// A frame that waited for the first fragment of its packet is dropped.
    pub(crate) fn gave_up(
        &mut self,
        parsed: &Parsed,
        frame: &[u8],
        from: (WireId, bool, DropReason),
    ) {
        let (wire, from_inside, reason) = from;
        let Some(arrival) = self.arrival else { return };
        if self.left == 0 || !self.filter.matches(parsed, from_inside) {
            return;
        }
        let story = Story {
            id: 0,
            at: arrival.at,
            wire,
            from_inside,
            handed_in: false,
            resumed: true,
            len: frame.len() as u32,
            parsed: *parsed,
            malformed: None,
            // Only a wire that enforces keeps fragments back.
            mode: Mode::Enforce,
            epoch: arrival.epoch,
            lookup: Lookup::NotByFlow,
            classified: Classified::No,
            verdict: Verdict::Drop(reason),
            decided_by: None,
            phase_after: None,
            fate: Fate::Dropped(reason),
            kept: 0,
        };
        if self.suits(&story, None) {
            self.keep(0, story, frame);
            for (_, story) in std::mem::take(&mut *self.pending) {
                self.tell(story);
            }
        }
    }

    /// Only these places of the burst are left.
    fn move_together(&mut self, stay: u64) {
        self.mask = compacted(self.mask, stay);
        self.handed_in = compacted(self.handed_in, stay);
        self.malformed = compacted(self.malformed, stay);
    }

    fn story(
        &self,
        columns: &Columns,
        place: usize,
        before: Before,
        phase_after: Option<Phase>,
        fate: Fate,
    ) -> Option<Story> {
        let arrival = self.arrival?;
        let verdict = columns.verdict[place];
        let malformed = match verdict {
            Verdict::Drop(reason) if self.malformed >> place & 1 != 0 => Some(reason),
            _ => None,
        };
        Some(Story {
            id: 0,
            at: arrival.at,
            wire: arrival.wire,
            from_inside: arrival.from_inside,
            handed_in: self.handed_in >> place & 1 != 0,
            resumed: arrival.resumed,
            len: columns.len[place],
            parsed: columns.parsed[place],
            malformed,
            mode: arrival.mode,
            epoch: arrival.epoch,
            lookup: before.lookup,
            classified: before.classified,
            verdict,
            decided_by: columns.decided_by[place],
            phase_after,
            fate,
            kept: 0,
        })
    }

    fn suits(&self, story: &Story, late: Option<DropReason>) -> bool {
        let of_flow = match story.lookup {
            Lookup::Hit(flow) => Some(flow.rule),
            _ => None,
        };
        // What is handed over or kept back is judged later: then it shows.
        let is_judged = !matches!(story.fate, Fate::HandedOver { .. } | Fate::KeptBack);
        let asks_for_more = self.filter.by_rule || self.filter.outcome != super::Outcome::Any;
        match (is_judged, asks_for_more) {
            (_, false) => true,
            (false, true) => false,
            (true, true) => {
                self.filter.suits(story.verdict, late, [story.decided_by, of_flow], self.rule)
            }
        }
    }

    /// Begins a story whose end is not known yet, with the frame's bytes.
    fn keep(&mut self, place: usize, story: Story, frame: &[u8]) {
        if self.left == 0 {
            return;
        }
        self.matched += 1;
        let wanted = match self.snap {
            Snap::Headers => headers_of(&story, frame),
            Snap::Bytes(bytes) => frame.len().min(bytes as usize),
        };
        let has_room = self.rings.steps.slots() > self.pending.len();
        let chunk = has_room.then(|| self.rings.bytes.write_chunk_uninit(wanted));
        let Some(Ok(chunk)) = chunk else {
            self.lost += 1;
            return;
        };
        let kept = chunk.fill_from_iter(frame[..wanted].iter().copied()) as u32;
        self.left -= 1;
        let id = self.next_id;
        self.next_id += 1;
        self.pending.push((place, Story { id, kept, ..story }));
    }

    /// Hands a story over. One that was begun by [`Self::keep`] has room.
    fn tell(&mut self, story: Story) {
        let mut story = story;
        if story.fate == Fate::KeptBack {
            self.matched += 1;
            story.id = self.next_id;
            self.next_id += 1;
        }
        self.lost += u64::from(self.rings.steps.push(Step::Story(story)).is_err());
    }
}

/// The bits of `bits` in the places of `stay`, moved together.
fn compacted(bits: u64, stay: u64) -> u64 {
    let mut out = 0;
    for (to, place) in Places(stay).enumerate() {
        out |= (bits >> place & 1) << to;
    }
    out
}

/// So many bits from the lowest on.
fn low(count: usize) -> u64 {
    1_u64.checked_shl(count as u32).map_or(u64::MAX, |bit| bit - 1)
}

/// Bytes up to the end of the headers: nothing that an application said.
fn headers_of(story: &Story, frame: &[u8]) -> usize {
    const QUOTED_V4: usize = 20 + 8;
    const QUOTED_V6: usize = 40 + 8;
    let parsed = &story.parsed;
    let (network, upper) = (usize::from(parsed.network_offset), usize::from(parsed.upper_offset));
    let headers = &parsed.headers;
    let end = match (story.malformed, parsed.kind) {
        // As far as anybody can say: the parser did not get to the end.
        (Some(_), _) => upper.max(network).max(14) + 8,
        (None, Kind::LaterFragment) => upper,
        (None, Kind::Arp) => network + 28,
        (None, Kind::LinkControl) => network,
        (None, Kind::NeighbourDiscovery) => upper + 32,
        (None, Kind::IcmpError) if headers.protocol == protocol::ICMP => upper + 8 + QUOTED_V4,
        (None, Kind::IcmpError) => upper + 8 + QUOTED_V6,
        (None, Kind::Tcp) => {
            let words = frame.get(upper + 12).map_or(5, |byte| usize::from(byte >> 4));
            upper + words * 4
        }
        (None, _) if !headers.is_ip() => network,
        (None, _) if headers.protocol == protocol::SCTP => upper + 12,
        (None, _) => upper + 8,
    };
    end.min(HEADERS_AT_MOST).min(frame.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_move_together() {
        assert_eq!(compacted(0b1010_1100, 0b1111_0011), 0b10_1000);
        assert_eq!(compacted(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!((low(0), low(3), low(64)), (0, 7, u64::MAX));
    }
}
