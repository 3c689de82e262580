//! A port that misbehaves on purpose, the same way each time for the same seed.
//!
//! It wraps any other port and injects, by chance: frames lost, doubled, out of order, damaged, cut
//! short or late; transmissions refused; and no buffer for a frame that the gateway originates.
//! What it injected is counted, so that a test can account for every frame.

use std::collections::VecDeque;

use super::{Burst, Frame, MAX_BURST, Port};

/// Which faults happen how often. Each field but the first and the last is a chance in a thousand,
/// tried per frame, or per call for the two refusals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Where the sequence of chances starts. The same seed and the same calls give the same faults.
    pub seed: u64,
    /// A received frame is lost.
    pub drop_permille: u16,
    /// A received frame arrives a second time, right after the first.
    pub duplicate_permille: u16,
    /// A received frame changes places with the one that arrived before it.
    pub reorder_permille: u16,
    /// One bit of a received frame is flipped.
    pub corrupt_permille: u16,
    /// A received frame loses one byte or more of its end.
    pub truncate_permille: u16,
    /// A received frame, and with it those that arrive later, waits for `delay_calls` calls.
    pub delay_permille: u16,
    /// A transmission takes fewer frames than the device would, perhaps none.
    pub refuse_transmit_permille: u16,
    /// There is no buffer for an originated frame.
    pub refuse_originate_permille: u16,
    /// For how many calls of `receive` a delay lasts.
    pub delay_calls: u32,
}

/// What a [`FaultPort`] injected so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Injected {
    /// Frames lost.
    pub dropped: u64,
    /// Frames that arrived twice.
    pub duplicated: u64,
    /// Pairs of frames that changed places.
    pub reordered: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Frames cut short.
    pub truncated: u64,
    /// Delays begun.
    pub delayed: u64,
    /// Frames that a transmission was not allowed to take, once for each attempt.
    pub transmit_refused: u64,
    /// Frames that were not originated.
    pub originate_refused: u64,
    /// Duplicates and truncations that did not happen because the inner port had no buffer.
    pub skipped: u64,
}

/// A port with faults. See [`Faults`].
#[derive(Debug)]
pub struct FaultPort<P: Port> {
    inner: P,
    faults: Faults,
    chance: Chance,
    injected: Injected,
    /// Received from the inner port and not yet handed out, in the order to come.
    held: VecDeque<P::Frame>,
    /// Calls of `receive` for which nothing is handed out.
    delay_left: u32,
}

impl<P: Port> FaultPort<P> {
    /// Puts `faults` between `inner` and its worker.
    pub fn new(inner: P, faults: Faults) -> Self {
        let held = VecDeque::with_capacity(4 * MAX_BURST);
        let chance = Chance::new(faults.seed);
        Self { inner, faults, chance, injected: Injected::default(), held, delay_left: 0 }
    }

    /// What was injected so far.
    pub fn injected(&self) -> Injected {
        self.injected
    }

    /// Frames that arrived at the inner port and have neither been handed out nor lost.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The port inside.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// From now on nothing more goes wrong; what is held still arrives.
    pub fn heal(&mut self) {
        self.faults = Faults { seed: self.faults.seed, ..Faults::default() };
        self.delay_left = 0;
    }

    /// Takes in one frame that arrived, with whatever happens to it.
    fn admit(&mut self, mut frame: P::Frame) {
        if self.chance.hits(self.faults.drop_permille) {
            self.injected.dropped += 1;
            return;
        }
        if self.chance.hits(self.faults.corrupt_permille) && !frame.bytes().is_empty() {
            let bit = self.chance.below(frame.bytes().len() * 8);
            frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            self.injected.corrupted += 1;
        }
        if self.chance.hits(self.faults.truncate_permille) && !frame.bytes().is_empty() {
            let len = self.chance.below(frame.bytes().len());
            if let Some(shorter) = self.copy(&frame.bytes()[..len]) {
                frame = shorter;
                self.injected.truncated += 1;
            }
        }
        let twin = if self.chance.hits(self.faults.duplicate_permille) {
            self.copy(frame.bytes())
        } else {
            None
        };
        let reorder = self.chance.hits(self.faults.reorder_permille);
        self.held.push_back(frame);
        let last = self.held.len() - 1;
        if reorder && last > 0 {
            self.held.swap(last - 1, last);
            self.injected.reordered += 1;
        }
        if let Some(twin) = twin {
            self.held.push_back(twin);
            self.injected.duplicated += 1;
        }
        if self.chance.hits(self.faults.delay_permille) {
            self.delay_left = self.faults.delay_calls;
            self.injected.delayed += 1;
        }
    }

    fn copy(&mut self, bytes: &[u8]) -> Option<P::Frame> {
        match self.inner.originate(bytes.len()) {
            Some(mut copy) => {
                copy.bytes_mut().copy_from_slice(bytes);
                Some(copy)
            }
            None => {
                self.injected.skipped += 1;
                None
            }
        }
    }
}

impl<P: Port> Port for FaultPort<P> {
    type Frame = P::Frame;

    fn receive(&mut self, burst: &mut Burst<P::Frame>) {
        // A delay must not make the port a bottomless store.
        if self.held.len() <= 2 * MAX_BURST {
            let mut arrived = Burst::new();
            self.inner.receive(&mut arrived);
            for frame in arrived {
                self.admit(frame);
            }
        }
        if self.delay_left > 0 {
            self.delay_left -= 1;
            return;
        }
        let count = self.held.len().min(burst.remaining_capacity());
        burst.extend(self.held.drain(..count));
    }

    fn transmit(&mut self, burst: &mut Burst<P::Frame>) {
        if burst.is_empty() || !self.chance.hits(self.faults.refuse_transmit_permille) {
            self.inner.transmit(burst);
            return;
        }
        let taken = self.chance.below(burst.len());
        let mut front: Burst<P::Frame> = burst.drain(..taken).collect();
        self.injected.transmit_refused += burst.len() as u64;
        self.inner.transmit(&mut front);
        front.extend(burst.drain(..));
        *burst = front;
    }

    fn release(&mut self, burst: &mut Burst<P::Frame>) {
        self.inner.release(burst);
    }

    fn originate(&mut self, length: usize) -> Option<P::Frame> {
        if self.chance.hits(self.faults.refuse_originate_permille) {
            self.injected.originate_refused += 1;
            return None;
        }
        self.inner.originate(length)
    }

    fn take_discarded(&mut self) -> (u64, u64) {
        self.inner.take_discarded()
    }

    fn max_frame_len(&self) -> usize {
        self.inner.max_frame_len()
    }

    fn is_exhausted(&self) -> bool {
        self.held.is_empty() && self.inner.is_exhausted()
    }
}

/// A small reproducible source of chances (SplitMix64, by Steele, Lea and Flood).
#[derive(Debug)]
struct Chance {
    state: u64,
}

impl Chance {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether a thing of this chance happens. A fault that is off draws no number, so that turning
    /// one fault on does not change where another one strikes before it.
    fn hits(&mut self, permille: u16) -> bool {
        permille > 0 && self.next() % 1000 < u64::from(permille)
    }

    /// A number from 0 up to and without `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::loopback::{self, Host, LoopbackPort, Options};
    use super::*;

    fn faulty(faults: Faults) -> (FaultPort<LoopbackPort>, Host) {
        let (port, host) = loopback::pair(Options::default());
        (FaultPort::new(port, faults), host)
    }

    /// Sends `count` numbered frames through and returns what arrives, in order.
    fn run(port: &mut FaultPort<LoopbackPort>, host: &Host, count: u32) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        for n in 0..count {
            let mut frame = [0u8; 60];
            frame[..4].copy_from_slice(&n.to_be_bytes());
            host.send(&frame).unwrap();
            let mut burst = Burst::new();
            port.receive(&mut burst);
            arrived.extend(burst.iter().map(|f| f.bytes().to_vec()));
        }
        while host.pending() > 0 || port.held() > 0 {
            let mut burst = Burst::new();
            port.receive(&mut burst);
            arrived.extend(burst.iter().map(|f| f.bytes().to_vec()));
        }
        arrived
    }

    #[test]
    fn without_faults_it_is_transparent() {
        let (mut port, host) = faulty(Faults { seed: 1, ..Faults::default() });
        let arrived = run(&mut port, &host, 500);
        assert_eq!(arrived.len(), 500);
        assert!(arrived.iter().zip(0u32..).all(|(frame, n)| frame[..4] == n.to_be_bytes()));
        assert_eq!(port.injected(), Injected::default());
    }

    #[test]
    fn every_fault_is_counted_and_the_sum_is_exact() {
        let faults = Faults {
            seed: 7,
            drop_permille: 50,
            duplicate_permille: 50,
            reorder_permille: 50,
            corrupt_permille: 50,
            truncate_permille: 50,
            delay_permille: 10,
            delay_calls: 20,
            ..Faults::default()
        };
        let (mut port, host) = faulty(faults);
        let arrived = run(&mut port, &host, 20_000);
        let injected = port.injected();
        assert_eq!(arrived.len() as u64, 20_000 - injected.dropped + injected.duplicated);
        for (count, expected) in [
            (injected.dropped, 1000),
            (injected.duplicated, 950),
            (injected.corrupted, 950),
            (injected.truncated, 950),
            (injected.delayed, 190),
        ] {
            assert!(count.abs_diff(expected) < expected / 4, "{injected:?}");
        }
        assert!(injected.reordered > 0);
        let short = arrived.iter().filter(|frame| frame.len() < 60).count() as u64;
        assert!(short >= injected.truncated);
        assert_eq!(host.free_buffers(), Options::default().pool_frames);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = Faults {
            seed: 3,
            drop_permille: 100,
            duplicate_permille: 100,
            reorder_permille: 100,
            corrupt_permille: 100,
            ..Faults::default()
        };
        let outcome = |faults| {
            let (mut port, host) = faulty(faults);
            (run(&mut port, &host, 1000), port.injected())
        };
        assert_eq!(outcome(faults), outcome(faults));
        assert_ne!(outcome(faults).0, outcome(Faults { seed: 4, ..faults }).0);
    }

    #[test]
    fn a_refused_transmission_keeps_the_rest_in_order() {
        let (mut port, host) =
            faulty(Faults { seed: 5, refuse_transmit_permille: 1000, ..Faults::default() });
        let mut burst = Burst::new();
        for n in 0..MAX_BURST as u8 {
            let mut frame = port.originate(60).unwrap();
            frame.bytes_mut()[0] = n;
            burst.push(frame);
        }
        let mut next = 0;
        for _ in 0..10_000 {
            port.transmit(&mut burst);
            while let Some(frame) = host.receive() {
                assert_eq!(frame.bytes()[0], next);
                next += 1;
            }
        }
        // The last frame never leaves: each attempt takes fewer frames than there are.
        assert_eq!((usize::from(next), burst.len()), (MAX_BURST - 1, 1));
        assert!(port.injected().transmit_refused >= 9_000);
        port.heal();
        port.transmit(&mut burst);
        assert!(burst.is_empty());
    }

    #[test]
    fn originating_can_fail() {
        let (mut port, _host) =
            faulty(Faults { seed: 5, refuse_originate_permille: 1000, ..Faults::default() });
        assert!(port.originate(60).is_none());
        assert_eq!(port.injected().originate_refused, 1);
    }
}
