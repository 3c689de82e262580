//! From parsed frames to verdicts: flow lookup, classification of the misses, connection state.
//!
//! Three stages over a burst. [`Judge::look_up`] finds every frame's flow, prefetching over the
//! burst, and decides datagrams whose flow needs no judgement. [`Judge::classify`] asks the
//! classifier, as one batch, about the frames that belong to no known flow and about flows that an
//! older epoch judged. [`Judge::decide`] then goes through the others in their order, because a frame
//! can change what a later one of the same burst meets.

use bulkhead_rules::classifier::{Footprint, MAX_BATCH, Scratch};
use bulkhead_rules::headers::{Headers, Mac, PolicyTime};
use bulkhead_rules::policy::{Action, RuleId};

use crate::burst::{Columns, Places};
use crate::conntrack::evidence::has_few_hops;
use crate::conntrack::{Connection, Direction, Outcome};
use crate::counters::WorkerCounters;
use crate::flow_table::{
    Candidate, End, FlowHash, FlowIndex, FlowKey, FlowTable, InsertError, Judgement, NewFlow, Room,
};
use crate::fragment::FragmentTable;
use crate::parse::{Kind, Parsed};
use crate::port::{Burst, Frame, MAX_BURST};
use crate::record::{Ending, is_announcement};
use crate::snapshot::{Mode, Snapshot, WirePolicy};
use crate::verdict::{DropReason, Verdict};
use crate::worker::WorkerConfig;

mod budget;
mod epochs;
mod guard;
mod inserted;
mod look_up;
mod packet;
mod quarantine;
mod recording;
mod related;
mod staged;
mod traced;

pub use self::budget::DENIED_PER_TOKEN;
use self::budget::NewFlowBudget;
use self::epochs::Epochs;
use self::inserted::Inserted;
use self::packet::Packet;
use self::staged::RecentlyDenied;

const _: () = assert!(MAX_BATCH >= MAX_BURST, "a burst is classified as one batch");

/// Flow table entries that are examined for their timeout at once.
const AGED_AT_ONCE: usize = 64;
/// The time in which ageing passes the whole flow table: a small part of the shortest timeouts. A
/// lookup judges a timeout exactly, whether or not ageing came by.
const AGEING_SWEEP_NS: u64 = 4_000_000_000;
/// Fragmented packets that are examined for their timeout after each loop.
const FRAGMENTS_AGED_PER_LOOP: usize = 8;

/// Under what a burst is judged.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    snapshot: &'a Snapshot,
    at: PolicyTime,
    epoch: u64,
    now_ns: u64,
    group: u16,
    wire: &'a WirePolicy,
    /// Whether TCP connections may be taken up in their middle.
    adopts: bool,
    from_inside: bool,
}

impl Moment<'_> {
    /// The epoch that judges.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    fn permits(&self, rule: RuleId) -> bool {
        self.snapshot.content.classifier.action(rule) == Action::Allow
    }

    /// Whether the initiator of a flow is inside, by a packet of this direction.
    fn has_initiator_inside(&self, direction: Direction) -> bool {
        (direction == FROM_INITIATOR) == self.from_inside
    }

    /// What a flow's entry is to say of a permitted flow.
    fn judgement(&self, answer: Answer) -> Judgement {
        let Answer { rule, footprint } = answer;
        let mac_sensitive = self.snapshot.content.classifier.is_mac_sensitive(rule);
        Judgement { rule, footprint, epoch: self.epoch as u32, permitted: true, mac_sensitive }
    }

    /// The verdict where `rule` forbids: `silent` unless the sender is to be answered.
    fn forbidden(&self, rule: RuleId, silent: DropReason) -> Verdict {
        if rule.0 < self.wire.quarantine_rules && self.wire.mode == Mode::Observe {
            return Verdict::Drop(DropReason::Quarantine);
        }
        match self.snapshot.content.classifier.action(rule) {
            Action::Reject => Verdict::Reject,
            Action::Allow | Action::Deny => Verdict::Drop(silent),
        }
    }
}

/// What the classifier said about some headers.
#[derive(Clone, Copy, Debug)]
struct Answer {
    rule: RuleId,
    footprint: Footprint,
}

/// What was asked ahead of the frames' turns, a bit for each place, and the answers.
struct Asked {
    /// About the frame's own headers.
    frames: u64,
    /// About the headers that opened the frame's flow.
    initiators: u64,
    /// Nothing, because the sender has spent its budget for new flows.
    refused: u64,
    answers: [Answer; MAX_BURST],
}

impl Asked {
    const NOTHING: Self =
        Self { frames: 0, initiators: 0, refused: 0, answers: [Answer::DEFAULT; MAX_BURST] };

    fn is_refused(&self, place: usize) -> bool {
        self.refused >> place & 1 != 0
    }

    fn about_frame(&self, place: usize) -> Option<Answer> {
        (self.frames >> place & 1 != 0).then(|| self.answers[place])
    }

    #[inline]
    fn about_initiator(&self, place: usize) -> Option<Answer> {
        (self.initiators >> place & 1 != 0).then(|| self.answers[place])
    }
}

/// The tables and the working memory of one worker.
pub struct Judge {
    flows: FlowTable,
    fragments: FragmentTable,
    budget: NewFlowBudget,
    scratch: Scratch,
    keys: [FlowKey; MAX_BURST],
    hashes: [FlowHash; MAX_BURST],
    candidates: [Candidate; MAX_BURST],
    senders: [End; MAX_BURST],
    /// For frames without a flow, where one of their senders would go.
    rooms: [Room; MAX_BURST],
    found: [Option<FlowIndex>; MAX_BURST],
    /// The places whose frames are judged by flow and have none.
    missing: u64,
    /// The places whose flow an older epoch judged.
    aged: u64,
    /// The places whose verdict the flow alone gave.
    rode: u64,
    asked: Asked,
    batch: Batch,
    /// Whether a frame of this burst has inserted or removed a flow, so that what was found may be
    /// elsewhere.
    is_moved: bool,
    /// Of the burst at hand, a bit for each place.
    fragments_seen: FragmentsSeen,
    /// Frames that may claim addresses, likewise.
    claims: u64,
    /// Frames of forbidden flows that are followed, likewise.
    recorded: u64,
    /// Frames that are worth a copy, likewise.
    copied: u64,
    /// The flows that frames of this burst have inserted, by some bits of their hash.
    inserted: Inserted,
    /// When ageing goes on.
    age_next_ns: u64,
    epochs: Epochs,
    /// The worker's index, for what it counts in a snapshot.
    worker: usize,
    /// What the staged policy was asked about and has no flow.
    recently_denied: RecentlyDenied,
    revoked: u64,
    adopted: u64,
    reclassified: u64,
    reaffirmed: u64,
}

/// Fragments in a burst, a bit for each place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentsSeen {
    /// First ones, whatever their verdict.
    pub first: u64,
    /// Later ones whose first one the table does not know: it may be on its way.
    pub early: u64,
}

/// What is asked of the classifier at once.
struct Batch {
    headers: [Headers; MAX_BURST],
    rules: [RuleId; MAX_BURST],
    places: [u8; MAX_BURST],
    len: usize,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("flows", &self.flows.len()).finish_non_exhaustive()
    }
}

impl Judge {
    /// Allocates all that the worker will ever need.
    pub fn new(config: &WorkerConfig) -> Self {
        let (vacant, sender) = FlowKey::of(&Parsed::default(), 0);
        Self {
            flows: FlowTable::new(&config.flows),
            fragments: FragmentTable::new(&config.fragments),
            budget: NewFlowBudget::new(config.new_flows_per_source, config.flows.capacity),
            scratch: Scratch::default(),
            keys: [vacant; MAX_BURST],
            hashes: [FlowHash::default(); MAX_BURST],
            candidates: [Candidate::NONE; MAX_BURST],
            senders: [sender; MAX_BURST],
            rooms: [Room::default(); MAX_BURST],
            found: [None; MAX_BURST],
            missing: 0,
            aged: 0,
            rode: 0,
            asked: Asked::NOTHING,
            batch: Batch {
                headers: [Headers::default(); MAX_BURST],
                rules: [RuleId::DEFAULT; MAX_BURST],
                places: [0; MAX_BURST],
                len: 0,
            },
            is_moved: false,
            fragments_seen: FragmentsSeen::default(),
            claims: 0,
            recorded: 0,
            copied: 0,
            inserted: Inserted::default(),
            age_next_ns: 0,
            epochs: Epochs::new(),
            worker: 0,
            recently_denied: RecentlyDenied::new(),
            revoked: 0,
            adopted: 0,
            reclassified: 0,
            reaffirmed: 0,
        }
    }

    /// The same for the worker with this index, which is 0 unless told.
    #[must_use]
    pub fn for_worker(mut self, worker: usize) -> Self {
        self.worker = worker;
        self
    }

    /// Flows that the table has room for.
    pub fn flow_capacity(&self) -> usize {
        self.flows.capacity()
    }

    /// Moves on to the moment `now_ns` of the worker's clock, which is `at`, on a wire, to judge what
    /// came in by its inside or outside port.
    pub fn enter<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        at: PolicyTime,
        now_ns: u64,
        wire: &'a WirePolicy,
        group: u16,
        from_inside: bool,
    ) -> Moment<'a> {
        if let Some(records) = &mut self.flows.records {
            records.pass_to(now_ns);
        }
        if self.epochs.advance(snapshot, at) {
            self.flows.trust(self.epochs.trusted());
            if let Some(records) = &mut self.flows.records {
                records.take_up(snapshot, self.epochs.now());
            }
            if self.epochs.is_in_doubt() {
                self.flows.distrust_all();
                self.epochs.seen_all();
                self.epochs.seen_all();
            }
        }
        let adopts = wire.adopts(now_ns);
        Moment { snapshot, at, epoch: self.epochs.now(), now_ns, group, wire, adopts, from_inside }
    }

    /// Asks the classifier, in one batch, what will be needed to decide.
    #[inline(never)]
    pub fn classify(&mut self, columns: &Columns, moment: &Moment<'_>) {
        (self.asked.frames, self.asked.initiators, self.asked.refused) = (0, 0, 0);
        if self.missing | self.aged == 0 {
            return;
        }
        self.batch.len = 0;
        let (mut missed, mut refused) = (0, 0);
        for place in Places(self.missing) {
            if moment.adopts || Connection::opens(&columns.parsed[place]) {
                missed |= 1 << place;
                self.rooms[place] = self.flows.seek_room(self.hashes[place], self.host(place));
                self.budget.prefetch(self.source(place, moment));
            }
        }
        for place in Places(missed) {
            if self.budget.has(self.source(place, moment), moment.now_ns) {
                self.asked.frames |= 1 << place;
                self.batch.push(place, columns.parsed[place].headers);
            } else {
                refused |= 1 << place;
            }
        }
        self.asked.refused = refused;
        // By themselves: the processor then looks many of their pages up at once.
        for place in Places(self.asked.frames) {
            self.flows.prefetch_room(self.rooms[place], self.hashes[place]);
        }
        for place in Places(self.aged) {
            let stale = self.found[place].filter(|&index| !self.is_current(index, moment));
            if let Some(index) = stale {
                self.asked.initiators |= 1 << place;
                self.batch.push(place, self.flows.entry(index).initiator_headers());
            }
        }
        let Batch { headers, rules, places, len } = &mut self.batch;
        if *len == 0 {
            return;
        }
        let classifier = &moment.snapshot.content.classifier;
        classifier.classify(&headers[..*len], moment.at, &mut self.scratch, &mut rules[..*len]);
        for (nth, (place, &rule)) in places[..*len].iter().zip(rules.iter()).enumerate() {
            self.asked.answers[usize::from(*place)] =
                Answer { rule, footprint: self.scratch.footprint(nth) };
        }
    }

    /// Decides every frame that its flow alone has not decided, in order.
    #[inline(never)]
    pub fn decide<F: Frame>(
        &mut self,
        columns: &mut Columns,
        frames: &Burst<F>,
        moment: &Moment<'_>,
    ) {
        self.fragments_seen = FragmentsSeen::default();
        (self.claims, self.recorded, self.copied) = (0, 0, 0);
        for place in Places(columns.all() & !self.rode) {
            let (Some(frame), parsed) = (frames.get(place), &columns.parsed[place]) else { break };
            if !columns.is_undecided(place) {
                continue;
            }
            let (verdict, decided_by) = match parsed.kind {
                Kind::LinkControl => {
                    self.copied |= u64::from(is_announcement(&parsed.headers)) << place;
                    (Verdict::Forward, None)
                }
                Kind::Arp | Kind::NeighbourDiscovery => {
                    self.claims |= 1 << place;
                    let reason = guard::neighbour(frame.bytes(), parsed, moment);
                    (reason.map_or(Verdict::Forward, Verdict::Drop), None)
                }
                Kind::LaterFragment => {
                    self.later_fragment(place, parsed, frame.bytes().len(), moment)
                }
                Kind::IcmpError => self.icmp_error(frame.bytes(), parsed, moment),
                Kind::Dhcp => {
                    let bytes = frame.bytes();
                    self.dhcp(Packet { place, bytes, parsed, origin: F::ORIGIN }, moment)
                }
                Kind::Tcp | Kind::IcmpQuery | Kind::Other => {
                    let bytes = frame.bytes();
                    self.flow(Packet { place, bytes, parsed, origin: F::ORIGIN }, moment)
                }
            };
            columns.verdict[place] = self.first_fragment(place, parsed, verdict, moment);
            columns.decided_by[place] = decided_by;
        }
        if moment.has_quarantine() {
            self.hold_quarantined(columns, moment);
        }
        (columns.recorded, columns.copied) = (self.recorded, self.copied);
    }

    /// The fragments among the frames that were decided last.
    pub fn fragments_seen(&self) -> FragmentsSeen {
        self.fragments_seen
    }

    /// The places of the frames that were decided last and may claim addresses: ARP, neighbour
    /// discovery and DHCP.
    pub fn claims(&self) -> u64 {
        self.claims
    }

    /// Ends flows and fragments that were silent for too long, a few at a time.
    pub fn age(&mut self, now_ns: u64) {
        if let Some(records) = &mut self.flows.records {
            records.pass_to(now_ns);
            records.age(now_ns);
        }
        if now_ns >= self.age_next_ns {
            let passes = self.flows.passes();
            self.flows.age(now_ns, AGED_AT_ONCE);
            if self.flows.passes() != passes {
                self.epochs.seen_all();
            }
            let steps = (self.flows.capacity() / AGED_AT_ONCE).max(1) as u64;
            self.age_next_ns = now_ns + AGEING_SWEEP_NS / steps;
        }
        self.fragments.age(now_ns, FRAGMENTS_AGED_PER_LOOP);
    }

    /// Writes what the tables count to where others can read it.
    pub fn publish(&self, counters: &WorkerCounters) {
        let table = &self.flows.counters;
        counters.flows.set(self.flows.len() as u64);
        counters.flow_inserts.set(table.inserted);
        counters.flow_expired.set(&table.expired);
        counters.flow_evicted.set(&table.evicted);
        counters.flow_refused.set(table.refused_full + table.refused_source);
        counters.flow_revoked.set(self.revoked);
        counters.flow_adopted.set(self.adopted);
        counters.flow_reclassified.set(self.reclassified);
        counters.flow_reaffirmed.set(self.reaffirmed);
        let (seen, fragments) = (&self.fragments.counters, &counters.fragments);
        fragments.followed.set(self.fragments.len() as u64);
        fragments.capacity.set(self.fragments.capacity() as u64);
        fragments.started.set(seen.started);
        fragments.completed.set(seen.completed);
        fragments.expired.set(seen.expired);
        fragments.evicted.set(seen.evicted);
        fragments.poisoned.set(seen.poisoned);
        fragments.refused.set(seen.refused);
    }

    /// Where the frame's flow is after frames before it have inserted or removed others.
    fn find_again(&mut self, place: usize, moment: &Moment<'_>) -> Option<FlowIndex> {
        let (hash, key) = (self.hashes[place], &self.keys[place]);
        match self.found[place] {
            Some(index) if self.flows.is_at(index, key) => Some(index),
            None if !self.inserted.may_hold(hash) => None,
            _ => self.flows.find(hash, key, moment.now_ns),
        }
    }

    fn classify_one(&mut self, headers: &Headers, moment: &Moment<'_>) -> Answer {
        let mut rule = [RuleId::DEFAULT];
        let classifier = &moment.snapshot.content.classifier;
        classifier.classify(std::slice::from_ref(headers), moment.at, &mut self.scratch, &mut rule);
        Answer { rule: rule[0], footprint: self.scratch.footprint(0) }
    }

    /// Whether the flow's entry says what the present policy says. An entry of an older epoch that
    /// nothing has touched since is brought up to date without asking the classifier.
    #[inline]
    fn is_current(&mut self, index: FlowIndex, moment: &Moment<'_>) -> bool {
        let entry = self.flows.entry(index);
        if entry.epoch() == moment.epoch as u32 {
            return true;
        }
        let holds = self.epochs.holds(entry, moment.snapshot);
        if holds {
            self.flows.entry_mut(index).set_epoch(moment.epoch as u32);
            self.reaffirmed += 1;
        }
        holds
    }

    /// A packet that rides a flow, or opens one.
    #[inline]
    fn flow(&mut self, packet: Packet<'_>, moment: &Moment<'_>) -> (Verdict, Option<RuleId>) {
        let Packet { place, parsed, bytes, .. } = packet;
        if self.is_moved {
            self.found[place] = self.find_again(place, moment);
        }
        let Some(index) = self.found[place] else {
            return self.open(packet, moment);
        };
        let sender = self.senders[place];
        if moment.wire.mode == Mode::Enforce && !self.flows.entry(index).is_permitted() {
            // It was followed while the wire observed: where it enforces there is no such flow.
            self.flows.remove(index, Ending::Revoked);
            self.is_moved = true;
            return self.open(packet, moment);
        }
        let answer = self.asked.about_initiator(place);
        if let Err(decided) = self.judge_again(index, answer, moment) {
            return decided;
        }
        if !self.flows.entry(index).is_permitted() {
            return self.ride_forbidden(index, packet, moment);
        }
        let moved = match self.check_macs(index, sender, parsed, moment) {
            Ok(moved) => moved,
            Err(decided) => return decided,
        };
        let entry = self.flows.entry_mut(index);
        let direction = entry.direction(sender);
        let outcome = if parsed.kind == Kind::Tcp {
            packet.move_on(entry, direction)
        } else {
            entry.connection_mut().note(direction);
            Ok(Outcome::InState)
        };
        match outcome {
            Ok(outcome @ (Outcome::InState | Outcome::Tolerated)) => {
                entry.count(direction, bytes.len(), outcome == Outcome::InState, moment.now_ns);
                // What proves nothing does not move the flow to other MAC addresses either.
                if let (Some((judgement, macs)), Outcome::InState) = (moved, outcome) {
                    entry.judged(judgement, macs);
                    entry.initiator_is(moment.has_initiator_inside(direction));
                }
                if entry.is_watched() && packet.is_wanted_of(entry, direction) {
                    self.copied |= 1 << place;
                }
                (Verdict::Forward, None)
            }
            Ok(Outcome::Reopen) => self.reopen(index, packet, moment),
            Ok(Outcome::OpensBack) => self.open_back(index, packet, moment),
            Ok(Outcome::Turned) => self.turn(index, packet, moment),
            Err(reason) => (Verdict::Drop(reason), None),
        }
    }

    /// A packet like any other that rides a flow, and may claim addresses.
    #[cold]
    fn dhcp(&mut self, packet: Packet<'_>, moment: &Moment<'_>) -> (Verdict, Option<RuleId>) {
        self.claims |= 1 << packet.place;
        self.flow(packet, moment)
    }

    /// A SYN after the connection's end. Only one that may open another takes the place of what is left
    /// of the old one: what is dropped changes nothing.
    fn reopen(
        &mut self,
        index: FlowIndex,
        packet: Packet<'_>,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        let answer = self.classify_one(&packet.parsed.headers, moment);
        if !moment.permits(answer.rule) {
            return (moment.forbidden(answer.rule, DropReason::Policy), Some(answer.rule));
        }
        self.flows.remove(index, Ending::Replaced);
        self.is_moved = true;
        self.open(packet, moment)
    }

    /// The responder's SYN on a live connection: the policy may permit it to open, too.
    fn open_back(
        &mut self,
        index: FlowIndex,
        packet: Packet<'_>,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        let answer = self.classify_one(&packet.parsed.headers, moment);
        if !moment.permits(answer.rule) {
            return (Verdict::Drop(DropReason::TcpState), None);
        }
        let entry = self.flows.entry_mut(index);
        entry.connection_mut().opens_back(&packet.parsed.tcp);
        entry.count(Direction::FromResponder, packet.bytes.len(), false, moment.now_ns);
        (Verdict::Forward, None)
    }

    /// The initiator's answer to such a SYN: the flow makes place for one that the other side opened.
    fn turn(
        &mut self,
        index: FlowIndex,
        packet: Packet<'_>,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        let Packet { place, parsed, .. } = packet;
        let headers = parsed.headers.reversed();
        let answer = self.classify_one(&headers, moment);
        if !moment.permits(answer.rule) {
            return (Verdict::Drop(DropReason::TcpWindow), None);
        }
        self.flows.remove(index, Ending::Replaced);
        self.is_moved = true;
        self.rooms[place] = Room::unknown(self.host(place));
        let initiator = self.senders[place].opposite();
        let connection = Connection::answered(&parsed.tcp);
        let direction = Direction::FromResponder;
        let opening_seen = true;
        let headers = &headers;
        let opening = Opening { answer, headers, initiator, connection, direction, opening_seen };
        self.insert(packet, &opening, moment)
    }

    /// A packet without a flow: it opens one, if it can and may.
    fn open(&mut self, packet: Packet<'_>, moment: &Moment<'_>) -> (Verdict, Option<RuleId>) {
        let Packet { place, parsed, .. } = packet;
        let first = Connection::of_first(parsed, None);
        match first {
            Ok(_) => {}
            Err(DropReason::TcpNoFlow) if moment.adopts => {}
            Err(reason) => return (Verdict::Drop(reason), None),
        }
        let headers = &parsed.headers;
        if let Some(reason) = guard::opening(headers, moment.wire, moment.from_inside) {
            return (Verdict::Drop(reason), None);
        }
        if self.asked.is_refused(place) {
            return (Verdict::Drop(DropReason::NewFlowRate), None);
        }
        let answer = match self.asked.about_frame(place) {
            Some(answer) => answer,
            None => {
                // It had a flow when the burst was looked at.
                self.rooms[place] = Room::unknown(self.host(place));
                self.classify_one(headers, moment)
            }
        };
        let rule = answer.rule;
        let sender = self.senders[place];
        if let Ok(connection) = first {
            let (initiator, direction, opening_seen) = (sender, FROM_INITIATOR, true);
            let opening =
                Opening { answer, headers, initiator, connection, direction, opening_seen };
            if !moment.permits(rule) {
                let is_tcp = parsed.kind == Kind::Tcp;
                let denied = self.deny(place, (headers, is_tcp), rule, moment);
                self.follow_forbidden(packet, &opening, denied.0, moment);
                return denied;
            }
            return self.insert(packet, &opening, moment);
        }
        // From the middle of a connection: taken up in the direction that the policy permits.
        let backward = headers.reversed();
        let (answer, headers, initiator, direction) = if moment.permits(rule) {
            (answer, headers, sender, FROM_INITIATOR)
        } else {
            let other = self.classify_one(&backward, moment);
            if !moment.permits(other.rule) {
                let denied = self.deny(place, (headers, false), rule, moment);
                self.follow_forbidden_middle(packet, answer, denied.0, moment);
                return denied;
            }
            (other, &backward, sender.opposite(), Direction::FromResponder)
        };
        match Connection::of_first(parsed, Some(direction)) {
            Ok(connection) => {
                let opening_seen = false;
                let opening =
                    Opening { answer, headers, initiator, connection, direction, opening_seen };
                let decided = self.insert(packet, &opening, moment);
                self.adopted += u64::from(decided.0 == Verdict::Forward);
                decided
            }
            Err(reason) => (Verdict::Drop(reason), None),
        }
    }

    /// A packet that the policy lets open nothing: its headers, and whether it opens a connection beyond
    /// doubt.
    fn deny(
        &mut self,
        place: usize,
        opening: (&Headers, bool),
        rule: RuleId,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        self.budget.take_share(self.source(place, moment), moment.now_ns);
        if moment.snapshot.staged().is_some() {
            self.ask_staged_of_denied(place, opening, rule, moment);
        }
        (moment.forbidden(rule, DropReason::Policy), Some(rule))
    }

    /// The sender of a frame without a flow as its budget is kept: its address in its VLAN, on its side
    /// of the wire.
    #[inline]
    fn source(&self, place: usize, moment: &Moment<'_>) -> u64 {
        const INSIDE: u64 = 0x9e37_79b9_7f4a_7c15;
        self.rooms[place].source() ^ if moment.from_inside { INSIDE } else { 0 }
    }

    /// The hash of the sender's address in its VLAN.
    #[inline]
    fn host(&self, place: usize) -> u64 {
        self.flows.host_hash(&self.keys[place], self.senders[place])
    }

    fn insert(
        &mut self,
        packet: Packet<'_>,
        opening: &Opening<'_>,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        let Packet { place, parsed, bytes, .. } = packet;
        if parsed.kind == Kind::Tcp && !packet.is_taken() {
            return (Verdict::Drop(DropReason::TcpChecksum), None);
        }
        let &Opening { answer, headers, direction, .. } = opening;
        let judgement = moment.judgement(answer);
        let (in_tunnel, inside) = (parsed.tunnel != 0, moment.has_initiator_inside(direction));
        if judgement.mac_sensitive && guard::is_spoofed(in_tunnel, headers, inside, moment) {
            return (Verdict::Drop(DropReason::AddressSpoofed), None);
        }
        if !self.budget.take(self.source(place, moment), moment.now_ns) {
            return (Verdict::Drop(DropReason::NewFlowRate), None);
        }
        let inserted = self.give_entry(place, opening, judgement, moment);
        match inserted {
            Ok(index) => {
                if moment.snapshot.staged().is_some() {
                    self.ask_staged(headers, answer.rule, None, moment);
                }
                let entry = self.flows.entry_mut(index);
                entry.count(direction, bytes.len(), true, moment.now_ns);
                if parsed.kind == Kind::Tcp && has_few_hops(bytes, parsed) {
                    entry.expect_few_hops();
                }
                self.begun(index, packet, direction);
                (Verdict::Forward, Some(answer.rule))
            }
            Err(error) => (Verdict::Drop(error.into()), None),
        }
    }

    /// Inserts a flow that the frame in this place opens, for which room was sought if the frame's sender
    /// is the initiator.
    #[inline]
    fn give_entry(
        &mut self,
        place: usize,
        opening: &Opening<'_>,
        judgement: Judgement,
        moment: &Moment<'_>,
    ) -> Result<FlowIndex, InsertError> {
        let &Opening { headers, initiator, connection, direction, opening_seen, .. } = opening;
        let client_inside = moment.has_initiator_inside(direction);
        let new =
            NewFlow { initiator, headers, judgement, connection, client_inside, opening_seen };
        let (hash, key) = (self.hashes[place], &self.keys[place]);
        let inserted = if initiator == self.senders[place] {
            self.flows.insert_in(self.rooms[place], hash, key, &new, moment.now_ns)
        } else {
            self.flows.insert(hash, key, &new, moment.now_ns)
        };
        if inserted.is_ok() {
            self.is_moved = true;
            self.inserted.note(hash);
        }
        inserted
    }

    /// Brings a flow that an older epoch judged up to this one; ends it where it is now forbidden.
    #[inline]
    fn judge_again(
        &mut self,
        index: FlowIndex,
        answer: Option<Answer>,
        moment: &Moment<'_>,
    ) -> Result<(), (Verdict, Option<RuleId>)> {
        if self.is_current(index, moment) {
            return Ok(());
        }
        self.judge_aged(index, answer, moment)
    }

    #[cold]
    fn judge_aged(
        &mut self,
        index: FlowIndex,
        answer: Option<Answer>,
        moment: &Moment<'_>,
    ) -> Result<(), (Verdict, Option<RuleId>)> {
        let headers = self.flows.entry(index).initiator_headers();
        let answer = answer.unwrap_or_else(|| self.classify_one(&headers, moment));
        let rule = answer.rule;
        self.reclassified += 1;
        if moment.snapshot.staged().is_some() {
            self.ask_staged(&headers, rule, Some(index), moment);
        }
        if !moment.permits(rule) {
            let was_permitted = self.flows.entry(index).is_permitted();
            let reason = if was_permitted { DropReason::Revoked } else { DropReason::Policy };
            let verdict = moment.forbidden(rule, reason);
            if !self.keep_forbidden(index, answer, verdict, moment) {
                self.flows.remove(index, Ending::Revoked);
                self.is_moved = true;
            } else if !was_permitted {
                return Ok(());
            }
            self.revoked += u64::from(was_permitted);
            return Err((verdict, Some(rule)));
        }
        let judgement = moment.judgement(answer);
        // It may have begun before it was known who has its initiator's address.
        let entry = self.flows.entry(index);
        let (in_tunnel, inside) = (entry.key().is_tunnelled(), entry.has_initiator_inside());
        if judgement.mac_sensitive && guard::is_spoofed(in_tunnel, &headers, inside, moment) {
            self.flows.remove(index, Ending::Revoked);
            self.is_moved = true;
            self.revoked += 1;
            return Err((Verdict::Drop(DropReason::AddressSpoofed), None));
        }
        let macs = [headers.src_mac, headers.dst_mac];
        self.flows.entry_mut(index).judged(judgement, macs);
        Ok(())
    }

    /// A verdict that rests on MAC addresses holds for these only. Others are judged for this packet;
    /// where they are forbidden, or the sender has another's address, the flow of the right ones lives
    /// on. Where they are permitted the judgement is returned, for the flow to rest on once the packet
    /// has passed.
    ///
    /// With the right MAC addresses a packet comes from the side on which its sender is, or somebody else
    /// has sent it. A router that sends packets back by the wire that they came by lets each cross the
    /// wire in both ways, but the second time with its own address as the source.
    #[inline]
    fn check_macs(
        &mut self,
        index: FlowIndex,
        sender: End,
        parsed: &Parsed,
        moment: &Moment<'_>,
    ) -> Result<Option<OtherMacs>, (Verdict, Option<RuleId>)> {
        let (entry, headers) = (self.flows.entry(index), &parsed.headers);
        let (direction, macs) = (entry.direction(sender), [headers.src_mac, headers.dst_mac]);
        if entry.admits(direction, macs, moment.from_inside) {
            return Ok(None);
        }
        if !entry.has_macs(direction, macs[0], macs[1]) {
            return self.judge_other_macs(index, direction, parsed, moment);
        }
        let is_forged = moment.wire.fixed_sides;
        if is_forged { Err((Verdict::Drop(DropReason::FlowSide), None)) } else { Ok(None) }
    }

    #[cold]
    fn judge_other_macs(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        parsed: &Parsed,
        moment: &Moment<'_>,
    ) -> Result<Option<OtherMacs>, (Verdict, Option<RuleId>)> {
        let headers = &parsed.headers;
        let macs = match direction {
            Direction::FromInitiator => [headers.src_mac, headers.dst_mac],
            Direction::FromResponder => [headers.dst_mac, headers.src_mac],
        };
        let initiator = self.flows.entry(index).initiator_headers();
        let opened = Headers { src_mac: macs[0], dst_mac: macs[1], ..initiator };
        let answer = self.classify_one(&opened, moment);
        let rule = answer.rule;
        if !moment.permits(rule) {
            return Err((moment.forbidden(rule, DropReason::Policy), Some(rule)));
        }
        if guard::is_spoofed(parsed.tunnel != 0, headers, moment.from_inside, moment) {
            return Err((Verdict::Drop(DropReason::AddressSpoofed), None));
        }
        Ok(Some((moment.judgement(answer), macs)))
    }
}

/// The judgement of a flow with other MAC addresses than it had, and these.
type OtherMacs = (Judgement, [Mac; 2]);

const FROM_INITIATOR: Direction = Direction::FromInitiator;

/// A flow about to be inserted.
struct Opening<'a> {
    answer: Answer,
    headers: &'a Headers,
    initiator: End,
    connection: Connection,
    /// The direction of the packet at hand.
    direction: Direction,
    /// Whether the packet that opens such a flow was seen.
    opening_seen: bool,
}

impl Answer {
    const DEFAULT: Self = Self { rule: RuleId::DEFAULT, footprint: Footprint { src: 0, dst: 0 } };
}

impl Batch {
    fn push(&mut self, place: usize, headers: Headers) {
        self.headers[self.len] = headers;
        self.places[self.len] = place as u8;
        self.len += 1;
    }
}
