//! The network between the hosts and the gateway: it loses, doubles, damages, cuts, delays and so
//! reorders frames, on their way in and on their way out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::frame::InFlight;
use super::random::Random;

/// How the network treats frames, each in a thousand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss: u32,
    pub(super) duplicates: u32,
    pub(super) corruption: u32,
    pub(super) truncation: u32,
    /// Frames that are late, and so out of order.
    pub(super) delay: u32,
    /// The longest that a late frame is late, in nanoseconds.
    pub(super) longest_delay_ns: u64,
}

/// How many frames the network did something to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetworkFaults {
    /// Lost.
    pub lost: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// A bit of them was flipped.
    pub corrupted: u64,
    /// Lost a part of their end.
    pub truncated: u64,
    /// Were late, so that others overtook them.
    pub delayed: u64,
}

/// Frames under way.
pub(super) struct Cable {
    weather: Weather,
    random: Random,
    under_way: BinaryHeap<Reverse<Due>>,
    next_number: u64,
    pub(super) faults: NetworkFaults,
}

/// A frame and when it arrives.
struct Due {
    at_ns: u64,
    number: u64,
    frame: InFlight,
}

impl Cable {
    pub(super) fn new(weather: Weather, random: Random) -> Self {
        let faults = NetworkFaults::default();
        Self { weather, random, under_way: BinaryHeap::new(), next_number: 0, faults }
    }

    /// Takes a frame that is sent at `now_ns`.
    pub(super) fn send(&mut self, mut frame: InFlight, now_ns: u64) {
        let Weather { loss, duplicates, corruption, truncation, .. } = self.weather;
        if self.random.permille(loss) {
            self.faults.lost += 1;
            return;
        }
        if self.random.permille(duplicates) {
            self.faults.duplicated += 1;
            self.put(frame.clone(), now_ns);
        }
        if self.random.permille(corruption) {
            self.faults.corrupted += 1;
            let bit = self.random.below(frame.bytes.len() * 8);
            frame.bytes[bit / 8] ^= 1 << (bit % 8);
            frame.is_damaged = true;
        }
        if self.random.permille(truncation) {
            self.faults.truncated += 1;
            frame.bytes.truncate(1 + self.random.below(frame.bytes.len()));
            frame.is_damaged = true;
        }
        self.put(frame, now_ns);
    }

    /// The next frame that has arrived by `now_ns`.
    pub(super) fn arrived(&mut self, now_ns: u64) -> Option<InFlight> {
        let Reverse(next) = self.under_way.peek()?;
        if next.at_ns > now_ns {
            return None;
        }
        self.under_way.pop().map(|Reverse(due)| due.frame)
    }

    fn put(&mut self, frame: InFlight, now_ns: u64) {
        let mut at_ns = now_ns;
        if self.random.permille(self.weather.delay) {
            self.faults.delayed += 1;
            at_ns += self.random.between(1, self.weather.longest_delay_ns.max(1));
        }
        self.next_number += 1;
        self.under_way.push(Reverse(Due { at_ns, number: self.next_number, frame }));
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}
