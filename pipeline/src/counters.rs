//! What a worker did, readable by anyone without disturbing it.
//!
//! Every counter has one writer, its worker, which adds with a plain load and store; there is no
//! locked instruction on the packet path. At any quiescent point the sums over all ports of a worker
//! satisfy `received + originated + handed in = transmitted + Σ dropped + held + handed out` exactly;
//! a drop is counted where it is decided and never computed as a difference.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::conntrack::Phase;
use crate::verdict::DropReason;

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the counter's owner may call this: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the value, for gauges. Only the owner may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value, a moment ago.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Packets and their bytes (from the destination MAC address on, without FCS).
#[derive(Debug, Default)]
pub struct Volume {
    /// Frames.
    pub packets: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

impl Volume {
    /// Adds one frame.
    pub fn add_frame(&self, bytes: usize) {
        self.packets.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// A volume for each drop reason.
#[derive(Debug)]
pub struct VolumeByReason(Box<[Volume]>);

impl Default for VolumeByReason {
    fn default() -> Self {
        Self(DropReason::ALL.iter().map(|_| Volume::default()).collect())
    }
}

impl VolumeByReason {
    /// The volume of one reason.
    pub fn of(&self, reason: DropReason) -> &Volume {
        &self.0[reason as usize]
    }

    /// Every reason with its volume.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, &Volume)> {
        DropReason::ALL.iter().copied().zip(&*self.0)
    }

    /// Packets over all reasons.
    pub fn packets(&self) -> u64 {
        self.0.iter().map(|volume| volume.packets.value()).sum()
    }
}

/// What one worker did on its queues of one port.
#[derive(Debug, Default)]
#[repr(align(128))] // A cache line pair of its own: neighbours must not share what they write.
pub struct PortCounters {
    /// Frames that came in.
    pub received: Volume,
    /// Frames handed to the device, originated ones included.
    pub transmitted: Volume,
    /// Answers of the gateway's own that were queued for this port.
    pub originated: Volume,
    /// Frames that came in here at another worker's queue and belong to this worker.
    pub handed_in: Volume,
    /// Frames that came in here and were handed to the workers that they belong to.
    pub handed_out: Volume,
    /// Frames that came in here and were sent on, on an enforcing wire because the policy permits
    /// them, on an observing one because it forwards everything.
    pub forwarded: Volume,
    /// Frames that came in here and were dropped; transmission reasons count on the port that could
    /// not send.
    pub dropped: VolumeByReason,
    /// Frames that came in here on an observing wire, were forwarded, and would have been dropped.
    pub would_drop: VolumeByReason,
    /// Frames of `dropped` or `would_drop` whose rule says reject. (The answer is `originated`, where
    /// one may be sent.)
    pub rejected: Volume,
    /// Answers that the rate limit or a full queue kept back.
    pub answers_suppressed: Counter,
    /// Frames that wait for room in the device's transmit queue, now.
    pub held: Counter,
    /// Later fragments that came in here and wait for their first one, now.
    pub waiting: Counter,
}

/// Whether a port has carrier: written by the control thread, read by the worker.
#[derive(Debug)]
pub struct LinkState(AtomicBool);

impl Default for LinkState {
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl LinkState {
    /// Sets whether the port can send.
    pub fn set(&self, up: bool) {
        self.0.store(up, Relaxed);
    }

    /// Whether the port can send.
    pub fn is_up(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// The two ports of a wire.
#[derive(Debug, Default)]
pub struct WireCounters {
    /// The port that the configuration calls `inside`.
    pub inside: PortCounters,
    /// The port that the configuration calls `outside`.
    pub outside: PortCounters,
    /// Carrier of the inside port.
    pub inside_link: LinkState,
    /// Carrier of the outside port.
    pub outside_link: LinkState,
}

/// What one worker did.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// One for each wire that the worker serves, in the order in which it was given them.
    pub wires: Vec<WireCounters>,
    /// Loops over all ports, with or without work. A worker that runs and whose count stands still
    /// hangs.
    pub loops: Counter,
    /// Nanoseconds in loops that received something.
    pub busy_ns: Counter,
    /// Nanoseconds in loops that received nothing, sleep included.
    pub idle_ns: Counter,
    /// Flows in the table, now.
    pub flows: Counter,
    /// Flows that the table can hold.
    pub flow_capacity: Counter,
    /// Flows created.
    pub flow_inserts: Counter,
    /// Flows that ended because they were silent for too long, by the phase that they were in.
    pub flow_expired: ByPhase,
    /// Half-open, unanswered or ended flows that made room for new ones, by the phase that they were
    /// in.
    pub flow_evicted: ByPhase,
    /// Permitted flows refused because the table was full or their source held too many.
    pub flow_refused: Counter,
    /// Flows that a newer policy, or a rule's time, ended.
    pub flow_revoked: Counter,
    /// Flows adopted in mid-stream during the grace time.
    pub flow_adopted: Counter,
    /// Flows classified again because the policy had changed.
    pub flow_reclassified: Counter,
    /// Flows that kept their verdict without being classified again, because no edit of the policy
    /// had touched them.
    pub flow_reaffirmed: Counter,
    /// Verdict events for logging that found their ring full.
    pub events_lost: Counter,
    /// Packets of which fragments are awaited.
    pub fragments: FragmentCounters,
}

/// A counter for each phase of a flow's life.
#[derive(Debug, Default)]
pub struct ByPhase([Counter; Phase::COUNT]);

impl ByPhase {
    /// Replaces all of them by what a table counted, in the order of [`Phase::ALL`]. Only the owner
    /// may call this.
    pub fn set(&self, counts: &[u64; Phase::COUNT]) {
        for (counter, count) in self.0.iter().zip(counts) {
            counter.set(*count);
        }
    }

    /// Every phase with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Phase, u64)> {
        Phase::ALL.iter().copied().zip(self.0.iter().map(Counter::value))
    }

    /// Over all phases.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Counter::value).sum()
    }
}

/// What the fragment table of a worker holds and did: see
/// [`crate::fragment::FragmentTableCounters`].
#[derive(Debug, Default)]
pub struct FragmentCounters {
    /// Packets that are being followed, now.
    pub followed: Counter,
    /// Packets that the table has room for.
    pub capacity: Counter,
    /// Packets whose first fragment was noted.
    pub started: Counter,
    /// Packets of which every fragment came.
    pub completed: Counter,
    /// Packets given up by the timeout.
    pub expired: Counter,
    /// Packets given up to make room.
    pub evicted: Counter,
    /// Packets given up because fragments overlapped or disagreed.
    pub poisoned: Counter,
    /// First fragments for which there was no room.
    pub refused: Counter,
    /// Later fragments that waited for their first one.
    pub waited: Counter,
}

impl WorkerCounters {
    /// Counters for a worker that serves `wires` wires.
    pub fn new(wires: usize) -> Self {
        Self { wires: (0..wires).map(|_| WireCounters::default()).collect(), ..Self::default() }
    }

    /// The exact balance of all ports: see [`Balance`].
    pub fn balance(&self) -> Balance {
        let mut sum = Balance::default();
        for port in self.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]) {
            sum.received += port.received.packets.value();
            sum.originated += port.originated.packets.value();
            sum.handed_in += port.handed_in.packets.value();
            sum.handed_out += port.handed_out.packets.value();
            sum.transmitted += port.transmitted.packets.value();
            sum.dropped += port.dropped.packets();
            sum.held += port.held.value() + port.waiting.value();
        }
        sum
    }
}

/// The two sides of the accounting identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Balance {
    /// Frames that came in.
    pub received: u64,
    /// Frames of the gateway's own.
    pub originated: u64,
    /// Frames that other workers handed to this one.
    pub handed_in: u64,
    /// Frames that this worker handed to others.
    pub handed_out: u64,
    /// Frames handed to devices.
    pub transmitted: u64,
    /// Frames dropped, all reasons.
    pub dropped: u64,
    /// Frames waiting to be sent.
    pub held: u64,
}

impl Balance {
    /// Whether nothing is lost uncounted. Meaningful at a quiescent point only: while the worker
    /// runs, its counters are read one after the other.
    pub fn is_exact(&self) -> bool {
        self.received + self.originated + self.handed_in
            == self.transmitted + self.dropped + self.held + self.handed_out
    }
}

impl std::ops::Add for Balance {
    type Output = Self;

    /// The balance of two workers together.
    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            originated: self.originated + other.originated,
            handed_in: self.handed_in + other.handed_in,
            handed_out: self.handed_out + other.handed_out,
            transmitted: self.transmitted + other.transmitted,
            dropped: self.dropped + other.dropped,
            held: self.held + other.held,
        }
    }
}
