//! Histograms and verdict events that leave a worker without a lock, an allocation or a wait.
//!
//! A worker records into histograms of its own and now and then exchanges them for an emptied set;
//! the control thread adds what it gets to its totals and gives the set back. One set is with the
//! worker, one travels. Verdict events go into a bounded ring; a full ring loses the event and
//! counts it.

use std::sync::Arc;

use bulkhead_rules::headers::Headers;
use bulkhead_rules::policy::RuleId;
use crossbeam::queue::ArrayQueue;
use hdrhistogram::Histogram;

use crate::port::MAX_BURST;
use crate::verdict::Verdict;

/// Latencies above this are recorded as this: ten seconds, in nanoseconds.
pub const MAX_LATENCY_NS: u64 = 10_000_000_000;

/// How often, at most, a worker gives its histograms away, in nanoseconds.
const EXCHANGE_INTERVAL_NS: u64 = 100_000_000;

/// What a worker measures.
#[derive(Clone, Debug)]
pub struct Histograms {
    /// Nanoseconds from the receive call that brought a packet to the end of the transmit call that
    /// took it, by packet.
    pub latency_ns: Histogram<u64>,
    /// Frames in a burst, for bursts that were not empty.
    pub burst_packets: Histogram<u64>,
}

impl Histograms {
    /// Empty histograms of fixed size; recording never allocates. Two significant digits, so that
    /// every value is within 1 %.
    pub fn new() -> Self {
        Self { latency_ns: fixed(MAX_LATENCY_NS), burst_packets: fixed(MAX_BURST as u64) }
    }

    fn add(&mut self, other: &Self) {
        // Both sides are of one fixed size, so adding cannot fail.
        self.latency_ns += &other.latency_ns;
        self.burst_packets += &other.burst_packets;
    }

    fn clear(&mut self) {
        self.latency_ns.reset();
        self.burst_packets.reset();
    }
}

impl Default for Histograms {
    fn default() -> Self {
        Self::new()
    }
}

fn fixed(high: u64) -> Histogram<u64> {
    let high = high.max(2);
    match Histogram::new_with_bounds(1, high, 2) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants within the crate's limits: {error}"),
    }
}

/// A verdict of a rule that says `log: true`.
#[derive(Clone, Copy, Debug)]
pub struct VerdictEvent {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// The packet's headers.
    pub headers: Headers,
    /// Whether the packet came in on the wire's inside port.
    pub from_inside: bool,
    /// The rule that decided, in the policy of `epoch`.
    pub rule: RuleId,
    /// The epoch of the snapshot that judged.
    pub epoch: u64,
    /// The verdict of an enforcing wire.
    pub verdict: Verdict,
    /// Whether the wire enforced it.
    pub enforced: bool,
    /// The frame's bytes.
    pub frame_len: u32,
}

/// What a worker and the control thread share.
#[derive(Debug)]
struct Exchange {
    filled: ArrayQueue<Box<Histograms>>,
    emptied: ArrayQueue<Box<Histograms>>,
    events: ArrayQueue<VerdictEvent>,
}

/// The worker's end.
#[derive(Debug)]
pub struct Recorder {
    exchange: Arc<Exchange>,
    histograms: Box<Histograms>,
    next_exchange_ns: u64,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Observer {
    exchange: Arc<Exchange>,
    totals: Histograms,
}

/// Both ends for one worker; `events` is the number of verdict events that may wait.
pub fn channel(events: usize) -> (Recorder, Observer) {
    let exchange = Arc::new(Exchange {
        filled: ArrayQueue::new(1),
        emptied: ArrayQueue::new(1),
        events: ArrayQueue::new(events.max(1)),
    });
    // The queue is new and has room for one.
    let _ = exchange.emptied.push(Box::default());
    let recorder =
        Recorder { exchange: exchange.clone(), histograms: Box::default(), next_exchange_ns: 0 };
    (recorder, Observer { exchange, totals: Histograms::new() })
}

impl Recorder {
    /// Records a burst of `packets`, which took `latency_ns` from receive to transmit.
    pub fn record_burst(&mut self, packets: usize, latency_ns: u64) {
        let packets = packets as u64;
        self.histograms.burst_packets.saturating_record(packets);
        self.histograms.latency_ns.saturating_record_n(latency_ns.max(1), packets);
    }

    /// Gives the histograms away, if it is time and an emptied set is there.
    pub fn exchange(&mut self, now_ns: u64) {
        if now_ns >= self.next_exchange_ns {
            self.next_exchange_ns = now_ns + EXCHANGE_INTERVAL_NS;
            self.exchange_now();
        }
    }

    /// Gives the histograms away if an emptied set is there.
    pub fn exchange_now(&mut self) {
        if let Some(emptied) = self.exchange.emptied.pop() {
            let filled = std::mem::replace(&mut self.histograms, emptied);
            // Only one set travels, and it was in `emptied`: there is room.
            let _ = self.exchange.filled.push(filled);
        }
    }

    /// Hands an event to the control thread. False where the ring is full and the event lost.
    pub fn event(&self, event: VerdictEvent) -> bool {
        self.exchange.events.push(event).is_ok()
    }
}

impl Observer {
    /// Everything that the worker has recorded and given away so far.
    pub fn histograms(&mut self) -> &Histograms {
        if let Some(mut filled) = self.exchange.filled.pop() {
            self.totals.add(&filled);
            filled.clear();
            let _ = self.exchange.emptied.push(filled);
        }
        &self.totals
    }

    /// The next verdict event.
    pub fn event(&self) -> Option<VerdictEvent> {
        self.exchange.events.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_arrives_once() {
        let (mut recorder, mut observer) = channel(1);
        recorder.record_burst(3, 1000);
        assert_eq!(observer.histograms().latency_ns.len(), 0, "nothing was given away yet");
        recorder.exchange(0);
        recorder.record_burst(2, MAX_LATENCY_NS * 2);
        recorder.exchange_now(); // No emptied set is there: what is recorded stays.
        assert_eq!(observer.histograms().latency_ns.len(), 3);
        recorder.exchange(EXCHANGE_INTERVAL_NS - 1);
        assert_eq!(observer.histograms().latency_ns.len(), 3, "it was not time yet");
        recorder.exchange(EXCHANGE_INTERVAL_NS);
        let totals = observer.histograms();
        assert_eq!(totals.latency_ns.len(), 5);
        assert_eq!(totals.burst_packets.len(), 2);
        assert!(totals.latency_ns.max() >= MAX_LATENCY_NS);
    }
}
