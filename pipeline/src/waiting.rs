//! Later fragments that came before their first one.
//!
//! Networks with several paths deliver fragments out of order, and only the first one tells what is to
//! be judged. A worker of an enforcing wire keeps the others back for a moment: a bounded number of
//! frames, and for a bounded time. When the first fragment has been judged, those that wait for it go
//! through the stages as a burst of their own, in the order of their arrival, before anything else is
//! received on their port. Those whose time is over are dropped under
//! [`DropReason::FragmentOrphan`]; what comes when as many as may wait already, under
//! [`DropReason::FragmentWaitFull`].
//!
//! An observing wire keeps nothing back: it forwards at once, what waited when it began to observe
//! included, and reports what it could not follow.

use std::collections::VecDeque;

use crate::burst::Columns;
use crate::fragment::FragmentKey;
use crate::parse::Parsed;
use crate::port::{Burst, Frame};
use crate::verdict::{DropReason, Verdict};

/// Frames of one packet that may wait: more than a datagram over the least MTU of Ethernet networks
/// has, so that no packet takes all the room.
const OF_ONE_PACKET: usize = 48;

/// Where a frame came from: the place of its wire, and whether by the inside port.
pub(crate) type Place = (usize, bool);

/// The fragments that wait in one worker, in the order of their arrival.
pub(crate) struct Waiting<F> {
    frames: VecDeque<Waits<F>>,
    capacity: usize,
    patience_ns: u64,
    /// How many frames have waited, ever.
    pub(crate) waited: u64,
}

struct Waits<F> {
    frame: F,
    parsed: Parsed,
    key: FragmentKey,
    from: Place,
    since_ns: u64,
    /// Whether the first fragment has been judged.
    ready: bool,
}

impl<F: Frame> Waiting<F> {
    /// Room for `capacity` frames, which wait for at most `patience_ns`. All memory is allocated here.
    pub(crate) fn new(capacity: usize, patience_ns: u64) -> Self {
        Self { frames: VecDeque::with_capacity(capacity), capacity, patience_ns, waited: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes the frames in the `places` of a judged burst, a bit for each, out of it; those that find
    /// no room stay, to be dropped. Returns the places of those that it took.
    pub(crate) fn keep(
        &mut self,
        places: u64,
        columns: &mut Columns,
        burst: &mut Burst<F>,
        (from, group, now_ns): (Place, u16, u64),
    ) -> u64 {
        let (mut kept, mut taken) = (Burst::new(), 0);
        for (place, frame) in burst.drain(..).enumerate() {
            let parsed = columns.parsed[place];
            let key = FragmentKey::of_parsed(&parsed, group).filter(|_| places >> place & 1 == 1);
            match key {
                Some(key) if self.has_room(&key) => {
                    let (since_ns, ready) = (now_ns, false);
                    self.frames.push_back(Waits { frame, parsed, key, from, since_ns, ready });
                    self.waited += 1;
                    taken |= 1 << place;
                    continue;
                }
                Some(_) if self.capacity > 0 => {
                    columns.verdict[place] = Verdict::Drop(DropReason::FragmentWaitFull);
                }
                _ => {}
            }
            columns.shift(place, kept.len());
            kept.push(frame);
        }
        std::mem::swap(burst, &mut kept);
        columns.count = burst.len();
        taken
    }

    /// The first fragment of this packet has been judged, whatever the verdict.
    pub(crate) fn first_came(&mut self, key: &FragmentKey) {
        for waits in self.frames.iter_mut().filter(|waits| waits.key == *key) {
            waits.ready = true;
        }
    }

    /// Moves the frames from one port whose first fragment has been judged, or `all` of them, to
    /// `burst`, as many as it has room for.
    pub(crate) fn release(&mut self, from: Place, all: bool, burst: &mut Burst<F>) {
        let mut at = 0;
        while at < self.frames.len() && !burst.is_full() {
            if (all || self.frames[at].ready) && self.frames[at].from == from {
                burst.extend(self.frames.remove(at).map(|waits| waits.frame));
            } else {
                at += 1;
            }
        }
    }

    /// Takes out one frame whose time is over, and tells where it came from.
    pub(crate) fn expired(&mut self, now_ns: u64) -> Option<(Place, F)> {
        // The first has waited longest.
        let since_ns = self.frames.front()?.since_ns;
        let is_over = now_ns.saturating_sub(since_ns) >= self.patience_ns;
        is_over.then(|| self.give_up(DropReason::FragmentOrphan)).flatten()
    }

    /// Takes out any frame, because the worker stops.
    pub(crate) fn pop(&mut self) -> Option<(Place, F)> {
        self.give_up(DropReason::Shutdown)
    }

    /// How many frames from one port wait.
    pub(crate) fn count_from(&self, from: Place) -> usize {
        self.frames.iter().filter(|waits| waits.from == from).count()
    }

    fn give_up(&mut self, reason: DropReason) -> Option<(Place, F)> {
        let Waits { mut frame, parsed, from, .. } = self.frames.pop_front()?;
        frame.judged(&parsed, Verdict::Drop(reason), None);
        Some((from, frame))
    }

    fn has_room(&self, key: &FragmentKey) -> bool {
        // Under a flood there is no room, and nothing is counted.
        let of_packet = || self.frames.iter().filter(|waits| waits.key == *key).count();
        self.frames.len() < self.capacity && of_packet() < OF_ONE_PACKET
    }
}
