//! The tester: sends by a schedule, counts what comes back, and takes its time.

use std::collections::VecDeque;
use std::io;

use bulkhead_pipeline::port::{Burst, Frame, MAX_BURST, Port};
use bulkhead_pipeline::verdict::DropReason;
use hdrhistogram::Histogram;

use super::Size;
use crate::rfc::disturbance;
use crate::rfc::frame::{UDP_PAYLOAD_AT, datagram};
use crate::rfc::pace::Pace;
use crate::rfc::report::latency_histogram;
use crate::rfc::rig::{BUFFERS, Rig};
use crate::tsc;

/// Where a frame says when it was due, in ticks, eight bytes.
const DUE_AT: usize = UDP_PAYLOAD_AT;

/// Frames that the tester keeps ready for each direction: more than all rings and the worker hold, so
/// that it never waits for one to come back.
const READY: usize = BUFFERS / 2;

/// Frames of one test; a burst never ends in the middle of the mix.
const VARIANTS: usize = 12 * 1024;

/// What a trial is given at least: preparing frames takes that.
const LEAST_SECONDS: f64 = 0.5;

/// A trial's result.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// Frames that were offered: all that were due, unless that took too long.
    pub(super) offered: u64,
    /// Frames that came out on the other side.
    pub(super) received: u64,
    /// Offered frames a second, which is less than asked for where the tester cannot.
    pub(super) offered_rate: f64,
    /// Received frames a second, while frames were offered.
    pub(super) received_rate: f64,
    /// The share of time in which the worker had frames to judge.
    pub(super) busy: f64,
    /// Nanoseconds for which the machine kept one of the two threads from its processor.
    pub(super) waited_ns: u64,
    /// Nanoseconds from when a frame was due until it came back, where that was asked for.
    pub(super) latency_ns: Option<Histogram<u64>>,
}

impl Trial {
    pub(super) fn lost(&self) -> u64 {
        self.offered.saturating_sub(self.received)
    }

    pub(super) fn is_disturbed(&self) -> bool {
        disturbance::is_disturbed(self.waited_ns)
    }
}

/// See the module's description.
pub(super) struct Tester<P: Port> {
    rig: Rig<P>,
    flows: u16,
    hertz: f64,
    /// Ticks after which a trial offers no more.
    longest: u64,
    /// What is written into new frames, by direction: inside first.
    templates: [Vec<Vec<u8>>; 2],
    /// Which template comes next.
    next: [usize; 2],
    /// Frames that are written and may be sent, by direction; in turns, so that all flows are used.
    ready: [VecDeque<P::Frame>; 2],
    burst: Burst<P::Frame>,
}

impl<P: Port + Send + 'static> Tester<P> {
    /// A tester whose trials take `seconds` where it can offer what is asked for, and no more than three
    /// times that where it cannot.
    pub(super) fn new(rig: Rig<P>, flows: u16, seconds: f64) -> Self {
        let hertz = tsc::hertz();
        Self {
            rig,
            flows,
            hertz,
            longest: (seconds.max(LEAST_SECONDS) * 3.0 * hertz) as u64,
            templates: [Vec::new(), Vec::new()],
            next: [0; 2],
            ready: [VecDeque::new(), VecDeque::new()],
            burst: Burst::new(),
        }
    }

    /// Prepares frames of this size, and opens their flows.
    ///
    /// # Errors
    ///
    /// Where there are no buffers, or the gateway forwards nothing.
    pub(super) fn load(&mut self, size: Size) -> io::Result<()> {
        for (side, ready) in self.ready.iter_mut().enumerate() {
            while !ready.is_empty() {
                self.burst.extend(ready.drain(..ready.len().min(MAX_BURST)));
                self.rig.ports[side].release(&mut self.burst);
            }
            let count = match size {
                Size::Bytes(_) => usize::from(self.flows),
                Size::Imix => VARIANTS,
            };
            self.templates[side] = (0..count)
                .map(|nth| {
                    datagram((nth % usize::from(self.flows)) as u16, side == 0, size.of(nth))
                })
                .collect();
            self.next[side] = 0;
        }
        for _ in 0..READY {
            for side in 0..2 {
                let frame = self.written(side).ok_or_else(|| io::Error::other("no buffers"))?;
                self.ready[side].push_back(frame);
            }
        }
        // Slowly, so that nothing is lost; every flow sends at least once in each direction.
        let trial = self.trial(200_000.0, (4 * READY) as u64, false);
        if trial.received == 0 {
            return Err(io::Error::other("the gateway forwards nothing"));
        }
        Ok(())
    }

    /// Offers `total` frames at `rate` a second (which may be infinite), bursts of both sides in turns.
    pub(super) fn trial(&mut self, rate: f64, total: u64, with_latency: bool) -> Trial {
        let mut latency = with_latency.then(latency_histogram);
        // What a trial before this one gave up is not this one's.
        while self.collect(None) > 0 {}
        let (waited, busy_ns) = (self.rig.watch().waited(), self.rig.busy_ns());
        let began = tsc::now();
        let pace = Pace::new(began, rate, self.hertz);
        let (mut offered, mut received, mut side) = (0, 0, 0);
        while offered < total {
            let now = tsc::now();
            if now - began > self.longest {
                break;
            }
            let due = pace.due(now, total);
            if due > offered {
                offered += self.offer(side, offered, due, &pace);
                side = 1 - side;
            }
            received += self.collect(latency.as_mut());
        }
        let ended = tsc::now();
        let (elapsed, in_time) = ((ended - began) as f64 / self.hertz, received);
        let busy = (self.rig.busy_ns() - busy_ns) as f64 / (elapsed * 1e9);
        // What is under way takes less, even where a processor is taken away for a while.
        let patience = (self.hertz * 0.02) as u64;
        let mut last = tsc::now();
        while received < offered && tsc::now() - last < patience {
            let came = self.collect(latency.as_mut());
            if came > 0 {
                (received, last) = (received + came, tsc::now());
            }
        }
        Trial {
            offered,
            received,
            offered_rate: offered as f64 / elapsed,
            received_rate: in_time as f64 / elapsed,
            busy: busy.min(1.0),
            waited_ns: self.rig.watch().waited().ns_since(waited),
            latency_ns: latency,
        }
    }

    /// Frames that the gateway dropped although it had time for them.
    pub(super) fn wrongly_dropped(&self) -> Vec<(DropReason, u64)> {
        self.rig.drops().filter(|(reason, _)| *reason != DropReason::TransmitFull).collect()
    }

    /// Sends up to a burst of the frames from `offered` to `due`. Returns how many: what the cable has
    /// no room for is lost, as on a NIC whose ring is full.
    fn offer(&mut self, side: usize, offered: u64, due: u64, pace: &Pace) -> u64 {
        let count = (due - offered).min(MAX_BURST as u64);
        for nth in offered..offered + count {
            let ready = self.ready[side].pop_front();
            let Some(mut frame) = ready.or_else(|| self.written(side)) else { break };
            if let Some(out) = frame.bytes_mut()[DUE_AT..].first_chunk_mut() {
                *out = pace.at(nth).to_le_bytes();
            }
            self.burst.push(frame);
        }
        let written = self.burst.len() as u64;
        self.rig.ports[side].transmit(&mut self.burst);
        self.ready[side].extend(self.burst.drain(..));
        written
    }

    /// Takes what has come on both sides. Returns how many frames.
    fn collect(&mut self, mut latency: Option<&mut Histogram<u64>>) -> u64 {
        let mut count = 0;
        for side in 0..2 {
            self.rig.ports[side].receive(&mut self.burst);
            if self.burst.is_empty() {
                continue;
            }
            count += self.burst.len() as u64;
            if let Some(latency) = &mut latency {
                let now = tsc::now();
                for frame in &self.burst {
                    let due = frame.bytes()[DUE_AT..].first_chunk().copied();
                    let ticks = now.saturating_sub(due.map_or(now, u64::from_le_bytes));
                    latency.saturating_record((ticks as f64 * 1e9 / self.hertz) as u64);
                }
            }
            // It came from the other side, and can be sent there again as it is.
            self.ready[1 - side].extend(self.burst.drain(..));
        }
        count
    }

    /// A new frame; [`None`] while all buffers are under way.
    fn written(&mut self, side: usize) -> Option<P::Frame> {
        let template = &self.templates[side][self.next[side]];
        let mut frame = self.rig.ports[side].originate(template.len())?;
        frame.bytes_mut().copy_from_slice(template);
        self.next[side] = (self.next[side] + 1) % self.templates[side].len();
        Some(frame)
    }
}
