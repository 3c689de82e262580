//! Frames that reached another worker than the one that owns their flow.
//!
//! The worker that received such a frame hands it, as it is, to the owner, which judges it in its own
//! poll and sends it from its own queue of the wire's other port. Who owns a frame is the
//! [`OwnerRule`]'s; where the ports spread frames in the same way, handover is rare.
//!
//! For every wire and direction there is a ring from each worker to each other one: bounded, with one
//! writer and one reader, moved over by the burst. A ring to each wire and direction by itself keeps
//! bursts of one kind, so that they take the ordinary stages, and lets an owner leave alone what it
//! could not send on. A ring that is full drops the frame under [`DropReason::HandoverFull`], counted
//! where it happened; nobody ever waits for another worker, so one that hangs costs what it owns and
//! nothing else.
//!
//! A frame keeps no verdict on its way: it is judged once, by the owner, by one whole policy.
//!
//! PERF: `examples/handover_cost.rs` on two cores of an Intel Xeon: from one core to another a frame
//! takes 3.5 ns through these rings, by bursts of 32, and 28 ns one by one through a queue that any
//! thread may write; knowing its owner takes 3 to 4 ns, and being handed over 46 ns in all, the second
//! parsing included.
//!
//! [`DropReason::HandoverFull`]: crate::verdict::DropReason::HandoverFull

use bulkhead_rules::headers::WireId;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::burst::Columns;
use crate::owner::OwnerRule;
use crate::port::{Burst, Frame, MAX_BURST};

/// Frames that are taken from peers at once; the rest of a burst is the worker's own.
const TAKEN_AT_ONCE: usize = MAX_BURST / 2;

/// What one worker needs to hand frames to its peers and to take theirs: see [`connect`].
#[derive(Debug)]
pub struct Peers<F> {
    pub(crate) sorter: Sorter<F>,
    pub(crate) lanes: Vec<(WireId, [Lane<F>; 2])>,
}

/// Connects `rule.workers()` workers that all serve `wires`, by rings of `ring_frames` frames each.
/// Gives one [`Peers`] for each worker, in the order of the rule's numbers. All memory that they will
/// use is allocated here.
pub fn connect<F: Frame>(rule: &OwnerRule, wires: &[WireId], ring_frames: usize) -> Vec<Peers<F>> {
    let workers = rule.workers();
    let mut peers: Vec<Peers<F>> = (0..workers)
        .map(|worker| Peers {
            sorter: Sorter {
                rule: rule.clone(),
                worker,
                staged: (0..workers).map(|_| Burst::new()).collect(),
                sorted: Burst::new(),
            },
            lanes: wires.iter().map(|&wire| (wire, [Lane::new(), Lane::new()])).collect(),
        })
        .collect();
    for place in 0..wires.len() {
        for direction in 0..2 {
            for from in 0..workers {
                for to in 0..workers {
                    let (sender, receiver) = if from == to {
                        (None, None)
                    } else {
                        let (sender, receiver) = RingBuffer::new(ring_frames.max(1));
                        (Some(sender), Some(receiver))
                    };
                    peers[from].lanes[place].1[direction].senders.push(sender);
                    peers[to].lanes[place].1[direction].receivers.extend(receiver);
                }
            }
        }
    }
    peers
}

/// Tells a worker's own frames from those of its peers.
#[derive(Debug)]
pub(crate) struct Sorter<F> {
    rule: OwnerRule,
    worker: usize,
    /// By owner, what of the burst at hand is to be handed over.
    staged: Vec<Burst<F>>,
    sorted: Burst<F>,
}

impl<F: Frame> Sorter<F> {
    /// Takes the frames that belong to others out of a parsed burst; those before the place
    /// `first` were handed in and stay. Returns how many were taken out; [`Sorter::staged`] has them.
    pub(crate) fn sort(
        &mut self,
        columns: &mut Columns,
        burst: &mut Burst<F>,
        first: usize,
    ) -> usize {
        let mut owners = [self.worker; MAX_BURST];
        let mut foreign = 0;
        for (place, frame) in burst.iter().enumerate().skip(first) {
            owners[place] = self.owner(columns, place, frame);
            foreign += usize::from(owners[place] != self.worker);
        }
        if foreign == 0 {
            return 0;
        }
        for (place, frame) in burst.drain(..).enumerate() {
            if owners[place] == self.worker {
                columns.shift(place, self.sorted.len());
                self.sorted.push(frame);
            } else {
                self.staged[owners[place]].push(frame);
            }
        }
        std::mem::swap(burst, &mut self.sorted);
        columns.count = burst.len();
        foreign
    }

    /// The worker that a frame belongs to; one that did not parse belongs to whoever has it.
    #[inline]
    pub(crate) fn owner(&self, columns: &Columns, place: usize, frame: &F) -> usize {
        let undecided = columns.is_undecided(place);
        let owner = undecided.then(|| self.rule.of(frame.bytes(), &columns.parsed[place]));
        owner.flatten().unwrap_or(self.worker)
    }

    /// This worker.
    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    /// The bursts for each owner.
    pub(crate) fn staged(&mut self) -> impl Iterator<Item = (usize, &mut Burst<F>)> {
        self.staged.iter_mut().enumerate().filter(|(_, staged)| !staged.is_empty())
    }
}

/// The rings of one wire and direction, as one worker holds them.
#[derive(Debug)]
pub(crate) struct Lane<F> {
    /// To each worker; none to this one, and none once it is closed.
    senders: Vec<Option<Producer<F>>>,
    /// From each other worker.
    receivers: Vec<Consumer<F>>,
    /// Which of these is first to be taken from.
    turn: usize,
}

impl<F> Lane<F> {
    fn new() -> Self {
        Self { senders: Vec::new(), receivers: Vec::new(), turn: 0 }
    }

    /// Hands frames from the front of `staged` to a worker; what its ring has no room for stays.
    pub(crate) fn send(&mut self, to: usize, staged: &mut Burst<F>) {
        let Some(Some(sender)) = self.senders.get_mut(to) else { return };
        // What nobody will take would be lost uncounted.
        if sender.is_abandoned() {
            return;
        }
        let count = match sender.write_chunk_uninit(staged.len()) {
            Ok(chunk) => {
                chunk.fill_from_iter(staged.drain(..));
                return;
            }
            Err(rtrb::chunks::ChunkError::TooFewSlots(free)) => free,
        };
        if let Ok(chunk) = sender.write_chunk_uninit(count) {
            chunk.fill_from_iter(staged.drain(..count));
        }
    }

    /// Appends what peers have handed in to `burst`, at most half a burst, from each in turn.
    pub(crate) fn take(&mut self, burst: &mut Burst<F>) {
        for _ in 0..self.receivers.len() {
            let room = TAKEN_AT_ONCE.saturating_sub(burst.len());
            self.turn = (self.turn + 1) % self.receivers.len();
            let receiver = &mut self.receivers[self.turn];
            let count = receiver.slots().min(room);
            if count > 0 {
                if let Ok(chunk) = receiver.read_chunk(count) {
                    burst.extend(chunk);
                }
            }
        }
    }

    /// Hands nothing over any more.
    pub(crate) fn close(&mut self) {
        self.senders.clear();
    }

    /// Whether no other worker hands anything in any more; what they did before may still wait.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.receivers.iter().all(Consumer::is_abandoned)
    }
}
