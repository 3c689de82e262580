//! Exact accounting: what went in, came out or was dropped, by the world's own count, beside what the
//! gateway's counters say.

use std::collections::HashMap;

use ahash::RandomState;
use bulkhead_pipeline::counters::{Balance, PortCounters, WorkerCounters};
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_pipeline::verdict::{DropReason, Verdict};

use super::frame::InFlight;
use super::port::{Event, FrameId, Place};
use super::reader::{Key, Seen, What, read};

/// What a port did, as the world saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    received: (u64, u64),
    transmitted: (u64, u64),
    originated: (u64, u64),
    /// By reason, on an enforcing wire and on an observing one.
    dropped: Vec<u64>,
    would_drop: Vec<u64>,
    rejected: u64,
    /// Frames to be sent from here that were given up.
    unsent: u64,
    /// Frames that came in here and were given up before a worker judged them.
    unjudged: u64,
}

/// A frame in the gateway.
#[derive(Debug)]
pub(super) struct Inside {
    /// As the world sent it; [`None`] for one of the gateway's own.
    pub(super) frame: Option<InFlight>,
    place: Place,
    /// When it came in.
    since_ns: u64,
    verdict: Option<Verdict>,
    /// Whether it is to leave by the other port.
    is_to_leave: bool,
    seen: Option<Seen>,
}

/// The books.
pub(super) struct Books {
    ports: Vec<Tally>,
    inside: HashMap<FrameId, Inside, RandomState>,
    /// Rejected packets whose answers are yet to be seen, by the answer's way.
    unanswered: HashMap<Way, u64, RandomState>,
    /// The last frame of each conversation that left by a port.
    last_sent: HashMap<(Key, Place), FrameId, RandomState>,
    pub(super) dropped: Vec<u64>,
    pub(super) would_drop: u64,
}

/// From where to where an answer goes, and on which wire.
type Way = (Place, bulkhead_rules::headers::VlanTags, u128, u128);

impl Books {
    pub(super) fn new(ports: usize) -> Self {
        let reasons = DropReason::ALL.len();
        let hasher = || RandomState::with_seeds(5, 6, 7, 8);
        let none =
            Tally { dropped: vec![0; reasons], would_drop: vec![0; reasons], ..Tally::default() };
        Self {
            ports: vec![none; ports],
            inside: HashMap::with_hasher(hasher()),
            unanswered: HashMap::with_hasher(hasher()),
            last_sent: HashMap::with_hasher(hasher()),
            dropped: vec![0; reasons],
            would_drop: 0,
        }
    }

    /// A frame in the gateway.
    pub(super) fn inside(&self, frame: FrameId) -> Option<&Inside> {
        self.inside.get(&frame)
    }

    /// Frames in the gateway.
    pub(super) fn held(&self) -> usize {
        self.inside.len()
    }

    /// A worker received `frame`.
    pub(super) fn received(&mut self, id: FrameId, frame: InFlight, place: Place, since_ns: u64) {
        let len = frame.bytes.len();
        add(&mut self.ports[place.index()].received, len);
        let inside = Inside {
            frame: Some(frame),
            place,
            since_ns,
            verdict: None,
            is_to_leave: false,
            seen: None,
        };
        self.inside.insert(id, inside);
    }

    /// Takes in all other events. A frame that leaves is returned.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn note(&mut self, event: Event, mode: Mode) -> Result<Option<InFlight>, String> {
        match event {
            Event::Received { .. } => Ok(None),
            Event::Discarded { place, len } => {
                let tally = &mut self.ports[place.index()];
                add(&mut tally.received, len);
                tally.dropped[DropReason::Multisegment as usize] += 1;
                self.dropped[DropReason::Multisegment as usize] += 1;
                Ok(None)
            }
            Event::Judged(opinion) => self.judged(opinion.frame, opinion.verdict, mode),
            Event::Originated { frame, place, len } => {
                add(&mut self.ports[place.index()].originated, len);
                let inside = Inside {
                    frame: None,
                    place,
                    since_ns: 0,
                    verdict: None,
                    is_to_leave: true,
                    seen: None,
                };
                self.inside.insert(frame, inside);
                Ok(None)
            }
            Event::Sent { frame, place, bytes } => self.sent(frame, place, bytes).map(Some),
            Event::Gone { frame } => self.gone(frame),
        }
    }

    /// Compares with what the workers count: equal to the last frame, for every port and reason.
    ///
    /// # Errors
    ///
    /// What differs.
    pub(super) fn compare(&self, workers: &[&WorkerCounters]) -> Result<(), String> {
        let balances = workers.iter().map(|worker| worker.balance());
        if let Some(balance) = balances.clone().find(|balance| !balance.is_exact()) {
            return Err(format!("what came in is not what went out: {balance:?}"));
        }
        let sum = balances.fold(Balance::default(), |sum, balance| sum + balance);
        let handed = sum.handed_out - sum.handed_in;
        if sum.held + handed != self.held() as u64 {
            let held = self.held();
            return Err(format!("{held} frames are in the gateway, which says {sum:?}"));
        }
        for (index, tally) in self.ports.iter().enumerate() {
            let ports = workers.iter().map(|worker| {
                let wire = &worker.wires[index / 2];
                if index % 2 == 0 { &wire.inside } else { &wire.outside }
            });
            let counted = Tally::counted(ports);
            if *tally != counted {
                return Err(format!("port {index}: {}", tally.differences(&counted)));
            }
        }
        Ok(())
    }

    /// Compares once the workers have stopped and hold nothing any more. What they had to give up then
    /// is counted on the port that it came by or on the one that it was to leave by.
    ///
    /// # Errors
    ///
    /// What differs.
    pub(super) fn compare_last(&self, workers: &[&WorkerCounters]) -> Result<(), String> {
        let given_up = |tally: &Tally| tally.unsent + tally.unjudged;
        let own: u64 = self.ports.iter().map(given_up).sum();
        let counted: u64 = workers
            .iter()
            .flat_map(|worker| worker.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]))
            .map(|port| given_up(&Tally::counted(std::iter::once(port))))
            .sum();
        let balances = workers.iter().map(|worker| worker.balance());
        let sum = balances.fold(Balance::default(), |sum, balance| sum + balance);
        let is_quiet = sum.is_exact() && sum.held == 0 && sum.handed_in == sum.handed_out;
        if self.inside.is_empty() && is_quiet && own == counted {
            return Ok(());
        }
        let held = self.inside.len();
        Err(format!("stopped with {held} frames; {own} given up, {counted} counted: {sum:?}"))
    }

    /// Forgets what conversations sent long ago.
    pub(super) fn forget_order(&mut self) {
        self.last_sent.clear();
    }

    fn judged(
        &mut self,
        id: FrameId,
        verdict: Verdict,
        mode: Mode,
    ) -> Result<Option<InFlight>, String> {
        let Some(inside) = self.inside.get_mut(&id) else {
            return Err("a verdict on a frame that is not in the gateway".to_owned());
        };
        let Some(frame) = &inside.frame else {
            return Err("a verdict on the gateway's own answer".to_owned());
        };
        if inside.verdict.replace(verdict).is_some() {
            return Err("a frame was judged twice".to_owned());
        }
        inside.seen = read(&frame.bytes, inside.place.wire);
        let tally = &mut self.ports[inside.place.index()];
        let reason = match verdict {
            Verdict::Forward => {
                inside.is_to_leave = true;
                return Ok(None);
            }
            Verdict::Reject => DropReason::Policy,
            Verdict::Drop(reason) => reason,
        };
        if reason == DropReason::Shutdown {
            tally.unjudged += 1;
            return Ok(None);
        }
        if reason == DropReason::Undecided {
            return Err("no stage decided".to_owned());
        }
        let never = [DropReason::EthernetTooShort, DropReason::FrameTooLong, DropReason::Pause];
        inside.is_to_leave = mode == Mode::Observe && !never.contains(&reason);
        tally.rejected += u64::from(verdict == Verdict::Reject);
        if inside.is_to_leave {
            tally.would_drop[reason as usize] += 1;
            self.would_drop += 1;
        } else {
            tally.dropped[reason as usize] += 1;
            self.dropped[reason as usize] += 1;
        }
        if let (Verdict::Reject, Mode::Enforce, Some(seen)) = (verdict, mode, &inside.seen) {
            let h = &seen.headers;
            *self.unanswered.entry((inside.place, h.tags, h.dst, h.src)).or_default() += 1;
        }
        Ok(None)
    }

    fn sent(&mut self, id: FrameId, place: Place, bytes: Vec<u8>) -> Result<InFlight, String> {
        let Some(inside) = self.inside.remove(&id) else {
            return Err("a frame left that was not in the gateway".to_owned());
        };
        add(&mut self.ports[place.index()].transmitted, bytes.len());
        let Some(frame) = inside.frame else { return self.answered(&inside, place, bytes) };
        if !inside.is_to_leave {
            return Err(format!("a frame left in spite of its verdict {:?}", inside.verdict));
        }
        if place != inside.place.opposite() {
            return Err(format!("a frame of {:?} left by {place:?}", inside.place));
        }
        if bytes != frame.bytes {
            return Err("a frame was altered".to_owned());
        }
        if let Some(seen) = inside.seen.filter(|seen| !is_outside_of_order(seen)) {
            let last = self.last_sent.insert((seen.key, place), id);
            if last.is_some_and(|last| last > id) {
                return Err("a frame overtook another of its conversation".to_owned());
            }
        }
        Ok(InFlight { place, ..frame })
    }

    /// An answer of the gateway's own: well formed, and to somebody whose packet was rejected.
    fn answered(
        &mut self,
        inside: &Inside,
        place: Place,
        bytes: Vec<u8>,
    ) -> Result<InFlight, String> {
        if place != inside.place {
            return Err("an answer left by the wrong port".to_owned());
        }
        let Some(seen) = read(&bytes, place.wire) else {
            return Err("the gateway sent an answer that no host can read".to_owned());
        };
        let is_answer = match seen.what {
            What::Tcp { flags, .. } => flags & 0x04 != 0,
            What::Error { .. } => true,
            _ => false,
        };
        let h = &seen.headers;
        let due = self.unanswered.get_mut(&(place, h.tags, h.src, h.dst));
        match due.filter(|due| **due > 0 && is_answer) {
            Some(due) => *due -= 1,
            None => return Err("an answer to nobody".to_owned()),
        }
        Ok(InFlight::new(super::frame::Sender::HOSTILE, place, bytes))
    }

    fn gone(&mut self, id: FrameId) -> Result<Option<InFlight>, String> {
        let Some(inside) = self.inside.remove(&id) else {
            return Err("a frame was given up that was not in the gateway".to_owned());
        };
        if inside.frame.is_some() && inside.verdict.is_none() {
            // One worker could not hand it to another, or both were stopped: the counters say so.
            self.ports[inside.place.index()].unjudged += 1;
        }
        if inside.is_to_leave {
            let own = inside.frame.is_none();
            let egress = if own { inside.place } else { inside.place.opposite() };
            self.ports[egress.index()].unsent += 1;
        }
        Ok(None)
    }
}

impl Inside {
    /// Where it came in.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// When it came in.
    pub(super) fn since_ns(&self) -> u64 {
        self.since_ns
    }
}

impl Tally {
    /// What the counters say otherwise.
    fn differences(&self, counted: &Self) -> String {
        let mut lines = Vec::new();
        for (what, own, theirs) in [
            ("received", self.received, counted.received),
            ("transmitted", self.transmitted, counted.transmitted),
            ("originated", self.originated, counted.originated),
            ("rejected", (self.rejected, 0), (counted.rejected, 0)),
            ("not sent", (self.unsent, 0), (counted.unsent, 0)),
            ("not judged", (self.unjudged, 0), (counted.unjudged, 0)),
        ] {
            if own != theirs {
                lines.push(format!("{what} {own:?}, counted {theirs:?}"));
            }
        }
        for &reason in DropReason::ALL {
            let at = reason as usize;
            for (what, own, theirs) in [
                ("dropped", self.dropped[at], counted.dropped[at]),
                ("would drop", self.would_drop[at], counted.would_drop[at]),
            ] {
                if own != theirs {
                    lines.push(format!("{what} as {} {own}, counted {theirs}", reason.label()));
                }
            }
        }
        lines.join("; ")
    }

    /// What the workers say that they did on a port.
    fn counted<'a>(workers: impl Iterator<Item = &'a PortCounters>) -> Self {
        let reasons = DropReason::ALL.len();
        let mut sum =
            Self { dropped: vec![0; reasons], would_drop: vec![0; reasons], ..Self::default() };
        let machine = [DropReason::TransmitFull, DropReason::LinkDown, DropReason::Shutdown];
        for port in workers {
            for (volume, counter) in [
                (&mut sum.received, &port.received),
                (&mut sum.transmitted, &port.transmitted),
                (&mut sum.originated, &port.originated),
            ] {
                volume.0 += counter.packets.value();
                volume.1 += counter.bytes.value();
            }
            for (reason, volume) in port.dropped.iter() {
                if reason == DropReason::HandoverFull {
                    sum.unjudged += volume.packets.value();
                } else if machine.contains(&reason) {
                    sum.unsent += volume.packets.value();
                } else {
                    sum.dropped[reason as usize] += volume.packets.value();
                }
            }
            for (reason, volume) in port.would_drop.iter() {
                sum.would_drop[reason as usize] += volume.packets.value();
            }
            sum.rejected += port.rejected.packets.value();
        }
        sum
    }
}

/// Fragments wait for their first one, and control frames belong to nothing.
fn is_outside_of_order(seen: &Seen) -> bool {
    seen.piece.is_some() || matches!(seen.what, What::Control | What::Error { .. })
}

fn add(volume: &mut (u64, u64), len: usize) {
    volume.0 += 1;
    volume.1 += len as u64;
}
