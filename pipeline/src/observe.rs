//! Histograms and verdict events that leave a worker without a lock, an allocation or a wait.
//!
//! A worker records into histograms of its own and now and then exchanges them for an emptied set;
//! the control thread adds what it gets to its totals and gives the set back. One set is with the
//! worker, one travels. Verdict events go into a bounded ring; a full ring loses the event and
//! counts it.
//!
//! Reading the clock costs as much as half a packet's judgement, so a worker that is busy does not
//! read it for every burst. Bursts that are not full are all timed. Of full ones, which come one after
//! the other, one in [`FULL_BURSTS_PER_TIMED`] is, and what came since the last one counts as if it
//! had taken as long: the histograms hold every packet.

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

/// Full bursts for one whose time is taken.
pub const FULL_BURSTS_PER_TIMED: u32 = 8;

/// What an enforcing wire does with a packet, in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fate {
    /// It leaves by the other port.
    Forward,
    /// It is dropped.
    Drop,
    /// It is dropped and, where that is possible, answered.
    Reject,
}

impl Fate {
    /// Every fate, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Drop, Self::Reject];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Drop => "drop",
            Self::Reject => "reject",
        }
    }
}

impl From<Verdict> for Fate {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Forward => Self::Forward,
            Verdict::Drop(_) => Self::Drop,
            Verdict::Reject => Self::Reject,
        }
    }
}

/// Packets of a burst by their fate.
pub type ByFate = [u64; Fate::ALL.len()];

/// What a worker measures.
#[derive(Clone, Debug)]
pub struct Histograms {
    /// Nanoseconds from the receive call that brought a packet to the end of the transmit call that
    /// took it, by packet: for each [`Fate`].
    latency_ns: [Histogram<u64>; Fate::ALL.len()],
    /// Frames in a burst, for bursts that were not empty.
    pub burst_packets: Histogram<u64>,
}

impl Histograms {
    /// Empty histograms of fixed size; recording never allocates. Two significant digits, so that
    /// every value is within 1 %.
    pub fn new() -> Self {
        Self {
            latency_ns: Fate::ALL.map(|_| fixed(MAX_LATENCY_NS)),
            burst_packets: fixed(MAX_BURST as u64),
        }
    }

    /// Nanoseconds from the receive call that brought a packet to the end of the transmit call that
    /// took it, by packet: for those of one fate.
    pub fn latency_ns(&self, fate: Fate) -> &Histogram<u64> {
        &self.latency_ns[fate as usize]
    }

    /// The same for all packets. Allocates.
    pub fn latency_ns_of_all(&self) -> Histogram<u64> {
        let mut all = fixed(MAX_LATENCY_NS);
        self.latency_ns.iter().for_each(|latency| all += latency);
        all
    }

    fn add(&mut self, other: &Self) {
        // Both sides are of one fixed size, so adding cannot fail.
        for (mine, other) in self.latency_ns.iter_mut().zip(&other.latency_ns) {
            *mine += other;
        }
        self.burst_packets += &other.burst_packets;
    }

    fn clear(&mut self) {
        self.latency_ns.iter_mut().for_each(Histogram::reset);
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
    /// Bursts that will not be timed before the next that is.
    untimed_left: u32,
    /// Packets, and full bursts, since the last one that was timed.
    untimed: ByFate,
    untimed_bursts: u64,
    last_latency_ns: u64,
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
    let recorder = Recorder {
        exchange: exchange.clone(),
        histograms: Box::default(),
        next_exchange_ns: 0,
        untimed_left: 0,
        untimed: ByFate::default(),
        untimed_bursts: 0,
        last_latency_ns: 0,
    };
    (recorder, Observer { exchange, totals: Histograms::new() })
}

impl Recorder {
    /// Whether the next burst is to be timed.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.untimed_left == 0
    }

    /// Records a burst. If it was timed, `latency_ns` is what it took from receive to transmit.
    pub fn record_burst(&mut self, packets: ByFate, latency_ns: Option<u64>) {
        let count: u64 = packets.iter().sum();
        for (untimed, packets) in self.untimed.iter_mut().zip(packets) {
            *untimed += packets;
        }
        let is_full = count == MAX_BURST as u64;
        if is_full {
            self.untimed_bursts += 1;
        } else {
            self.histograms.burst_packets.saturating_record(count);
        }
        match latency_ns {
            Some(latency_ns) => {
                self.last_latency_ns = latency_ns;
                self.settle();
                self.untimed_left = FULL_BURSTS_PER_TIMED - 1;
            }
            None => self.untimed_left = self.untimed_left.saturating_sub(1),
        }
        if !is_full {
            self.untimed_left = 0;
        }
    }

    /// Counts what was not timed as if it had taken as long as what was timed last.
    fn settle(&mut self) {
        let latency_ns = self.last_latency_ns.max(1);
        for (histogram, untimed) in self.histograms.latency_ns.iter_mut().zip(&mut self.untimed) {
            let packets = std::mem::take(untimed);
            if packets > 0 {
                histogram.saturating_record_n(latency_ns, packets);
            }
        }
        let bursts = std::mem::take(&mut self.untimed_bursts);
        self.histograms.burst_packets.saturating_record_n(MAX_BURST as u64, bursts);
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
        self.settle();
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

    fn recorded(observer: &mut Observer) -> u64 {
        observer.histograms().latency_ns_of_all().len()
    }

    #[test]
    fn what_is_recorded_arrives_once() {
        let (mut recorder, mut observer) = channel(1);
        recorder.record_burst([3, 0, 0], Some(1000));
        assert_eq!(recorded(&mut observer), 0, "nothing was given away yet");
        recorder.exchange(0);
        recorder.record_burst([0, 1, 1], Some(MAX_LATENCY_NS * 2));
        recorder.exchange_now(); // No emptied set is there: what is recorded stays.
        assert_eq!(recorded(&mut observer), 3);
        recorder.exchange(EXCHANGE_INTERVAL_NS - 1);
        assert_eq!(recorded(&mut observer), 3, "it was not time yet");
        recorder.exchange(EXCHANGE_INTERVAL_NS);
        let totals = observer.histograms();
        assert_eq!(Fate::ALL.map(|fate| totals.latency_ns(fate).len()), [3, 1, 1]);
        assert_eq!(totals.burst_packets.len(), 2);
        assert!(totals.latency_ns(Fate::Drop).max() >= MAX_LATENCY_NS);
        assert!(totals.latency_ns(Fate::Forward).max() < 1100);
    }

    #[test]
    fn one_in_so_many_full_bursts_is_timed_and_all_are_recorded() {
        const FULL: ByFate = [MAX_BURST as u64 - 1, 1, 0];
        const BURSTS: u64 = 10 * FULL_BURSTS_PER_TIMED as u64 + 3;
        let (mut recorder, mut observer) = channel(1);
        let mut timed = 0;
        for _ in 0..BURSTS {
            let latency_ns = recorder.is_due().then_some(500);
            timed += u64::from(latency_ns.is_some());
            recorder.record_burst(FULL, latency_ns);
        }
        assert_eq!(timed, 11);
        recorder.exchange_now();
        let totals = observer.histograms();
        assert_eq!(totals.latency_ns(Fate::Forward).len(), BURSTS * FULL[0]);
        assert_eq!(totals.latency_ns(Fate::Drop).len(), BURSTS);
        assert_eq!(totals.burst_packets.len(), BURSTS);
        // After a burst that is not full every one is timed, until they are full again.
        recorder.record_burst([1, 0, 0], None);
        assert!(recorder.is_due());
        recorder.record_burst([5, 0, 0], Some(1));
        assert!(recorder.is_due());
        recorder.record_burst(FULL, Some(1));
        assert!(!recorder.is_due());
    }
}
