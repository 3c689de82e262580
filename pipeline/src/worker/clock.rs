//! Where a worker's time comes from, and the stages that it may be measured by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Where a worker's time comes from.
pub trait Clock {
    /// Nanoseconds since an instant before the worker's start. Never goes back.
    fn now_ns(&self) -> u64;

    /// Told at the end of each stage. A clock that profiles keeps it; for all others it is nothing.
    #[inline]
    fn passed(&self, stage: Stage) {
        let _ = stage;
    }
}

/// The stages of the packet path, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stage {
    /// What a loop does once, before the first burst and after the last: time, policy, ageing,
    /// publication of what was counted.
    Loop,
    /// What waits is sent, and a burst received.
    Receive,
    /// Bytes to fields.
    Parse,
    /// Fields to flows.
    LookUp,
    /// Frames without a flow to rules.
    Classify,
    /// Verdicts, and the state of flows.
    Decide,
    /// Counters, events.
    Account,
    /// Answers of reject rules, and frames to where they go.
    Transmit,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 8] = [
        Self::Loop,
        Self::Receive,
        Self::Parse,
        Self::LookUp,
        Self::Classify,
        Self::Decide,
        Self::Account,
        Self::Transmit,
    ];
}

/// The machine's monotonic clock. Copies agree: the control thread and all workers use copies of one.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// A clock that reads zero now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// A clock that stands still until it is set: for captures, whose time is in the file, for tests and
/// for the simulator. Copies of one are one clock.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// Moves the clock to `now_ns`, or leaves it where that would take it back.
    pub fn advance_to(&self, now_ns: u64) {
        self.0.fetch_max(now_ns, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
