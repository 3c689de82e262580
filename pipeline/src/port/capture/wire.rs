//! A wire that runs from a capture file: two ports that share one reader.
//!
//! The ports keep the file's order between them. A port receives only while the file's next frame is
//! its own, and only frames whose time the caller has let come ([`Session::advance`]); so a worker
//! that serves both ports in turn judges every frame in the order of the file, at its own time.
//!
//! Every frame is settled exactly once, as transmitted or as released, and the handler hears of it
//! in the order of the file, however the worker reorders its sends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_rules::policy::RuleId;

use super::{CaptureError, CaptureReader, MAX_FRAME_BYTES, Record};
use crate::parse::{self, Parsed};
use crate::port::{Burst, Frame, Port};
use crate::verdict::Verdict;

/// A side of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// The side of the port that the configuration calls `inside`.
    Inside,
    /// The other one.
    Outside,
}

impl Side {
    /// The other side.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }
}

/// What becomes of a record before any worker sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Assign {
    /// It is no frame of the wire. It does not count as received.
    Skip,
    /// It arrives at this side, as captured.
    Arrive(Side),
    /// It arrives at this side at its original length: what the capture left out reads as zero.
    ArriveRestored(Side),
}

/// What a worker decided on a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// What the parser learnt of the frame: where it did not parse, of the layers before the fault.
    pub parsed: Parsed,
    /// The verdict of an enforcing wire.
    pub verdict: Verdict,
    /// The rule that gave it, where one did.
    pub rule: Option<RuleId>,
}

/// A frame of the file that has left the worker.
#[derive(Clone, Copy, Debug)]
pub struct Settled<'a> {
    /// The frame's number in its file, from 1; skipped records count.
    pub number: u64,
    /// Where it arrived.
    pub side: Side,
    /// Nanoseconds since the Unix epoch, as the file has it.
    pub timestamp_ns: u64,
    /// Bytes that the frame had when it was captured.
    pub original_len: u32,
    /// The bytes that the file holds.
    pub bytes: &'a [u8],
    /// Bytes that the worker saw: more than `bytes` where the frame was restored.
    pub arrived_len: usize,
    /// Whether it was sent on the other port. Otherwise it was released.
    pub transmitted: bool,
    /// What was decided; [`None`] where the worker gave the frame up unjudged.
    pub judgement: Option<Judgement>,
}

/// Decides on the records of a capture and hears what became of them.
pub trait CaptureHandler: Send {
    /// Where a record arrives. Called once for each, in the order of the file.
    fn assign(&mut self, record: &Record<'_>) -> Assign;

    /// What became of a frame. Called once for each that arrived, in the order of the file.
    ///
    /// # Errors
    ///
    /// Ends the capture: nothing more arrives, and [`Session::finish`] returns the error.
    fn settled(&mut self, frame: &Settled<'_>) -> Result<(), CaptureError>;

    /// A frame that the gateway originated is sent towards `side`.
    fn originated(&mut self, side: Side, bytes: &[u8]) {
        let _ = (side, bytes);
    }
}

/// Makes the two ports, `inside` and `outside`, of a wire on which the frames of `reader` arrive.
pub fn wire<H: CaptureHandler>(
    reader: CaptureReader,
    handler: H,
) -> (CapturePort<H>, CapturePort<H>, Session<H>) {
    let shared = Arc::new(Mutex::new(Shared {
        reader,
        handler: Some(handler),
        error: None,
        ended: false,
        now_ns: 0,
        next: None,
        records: 0,
        first_open: 0,
        open: VecDeque::new(),
        spare: Vec::new(),
    }));
    let port = |side| CapturePort { side, shared: Arc::clone(&shared) };
    (port(Side::Inside), port(Side::Outside), Session { shared: Arc::clone(&shared) })
}

/// One side of a wire that runs from a capture file.
pub struct CapturePort<H: CaptureHandler> {
    side: Side,
    shared: Arc<Mutex<Shared<H>>>,
}

/// The caller's hold on a running capture.
pub struct Session<H: CaptureHandler> {
    shared: Arc<Mutex<Shared<H>>>,
}

/// A frame of a capture file, or one that the gateway originates on such a wire.
pub struct CaptureFrame<H: CaptureHandler> {
    buffer: Vec<u8>,
    /// [`None`] in an originated frame, and once the frame is settled.
    origin: Option<Origin>,
    judgement: Option<Judgement>,
    shared: Arc<Mutex<Shared<H>>>,
}

/// Where a frame comes from.
#[derive(Clone, Copy)]
struct Origin {
    /// Its place among the frames that arrived, from 0.
    place: u64,
    number: u64,
    side: Side,
    timestamp_ns: u64,
    original_len: u32,
    captured_len: usize,
}

/// A frame that waits to arrive.
struct Waiting {
    origin: Origin,
    buffer: Vec<u8>,
}

/// A frame that left the worker before one that stands before it in the file.
struct Left {
    origin: Origin,
    buffer: Vec<u8>,
    transmitted: bool,
    judgement: Option<Judgement>,
}

struct Shared<H> {
    reader: CaptureReader,
    /// [`None`] once the session has finished.
    handler: Option<H>,
    error: Option<CaptureError>,
    /// Whether nothing more will be read.
    ended: bool,
    /// The time up to which frames arrive.
    now_ns: u64,
    next: Option<Waiting>,
    records: u64,
    /// The place of the front of `open`.
    first_open: u64,
    /// The frames that arrived from the first unsettled one on; [`None`] while the worker has it.
    open: VecDeque<Option<Left>>,
    /// Buffers for frames to come.
    spare: Vec<Vec<u8>>,
}

impl<H: CaptureHandler> Session<H> {
    /// The time of the next frame, in nanoseconds since the Unix epoch; [`None`] at the end.
    pub fn next_arrival_ns(&self) -> Option<u64> {
        let mut shared = lock(&self.shared);
        shared.look_ahead();
        shared.next.as_ref().map(|waiting| waiting.origin.timestamp_ns)
    }

    /// Lets the frames arrive whose time is at most `now_ns`. Time never goes back: a frame whose
    /// time stamp lies before that of one before it arrives together with it.
    pub fn advance(&self, now_ns: u64) {
        let mut shared = lock(&self.shared);
        shared.now_ns = shared.now_ns.max(now_ns);
    }

    /// Records read so far, skipped ones included.
    pub fn records(&self) -> u64 {
        lock(&self.shared).records
    }

    /// Ends the capture and gives the handler back, with the error that cut it short, if one did.
    /// Frames that a worker still holds are not heard of any more: end the worker first. [`None`] in
    /// place of a handler means that the session was finished before.
    pub fn finish(&self) -> (Option<H>, Option<CaptureError>) {
        let mut shared = lock(&self.shared);
        shared.ended = true;
        (shared.handler.take(), shared.error.take())
    }
}

impl<H: CaptureHandler> Port for CapturePort<H> {
    type Frame = CaptureFrame<H>;

    fn receive(&mut self, burst: &mut Burst<CaptureFrame<H>>) {
        let mut shared = lock(&self.shared);
        while burst.remaining_capacity() > 0 {
            shared.look_ahead();
            let now_ns = shared.now_ns;
            let due = |next: &Waiting| {
                next.origin.side == self.side && next.origin.timestamp_ns <= now_ns
            };
            if !shared.next.as_ref().is_some_and(due) {
                break;
            }
            let Some(Waiting { mut origin, buffer }) = shared.next.take() else { break };
            origin.place = shared.first_open + shared.open.len() as u64;
            shared.open.push_back(None);
            burst.push(CaptureFrame {
                buffer,
                origin: Some(origin),
                judgement: None,
                shared: Arc::clone(&self.shared),
            });
        }
    }

    fn transmit(&mut self, burst: &mut Burst<CaptureFrame<H>>) {
        let mut shared = lock(&self.shared);
        for mut frame in burst.drain(..) {
            let buffer = std::mem::take(&mut frame.buffer);
            match frame.origin.take() {
                Some(origin) => shared.settle(origin, buffer, true, frame.judgement),
                None => {
                    if let Some(handler) = &mut shared.handler {
                        handler.originated(self.side, &buffer);
                    }
                    shared.spare.push(buffer);
                }
            }
        }
    }

    fn originate(&mut self, length: usize) -> Option<CaptureFrame<H>> {
        if length > MAX_FRAME_BYTES {
            return None;
        }
        let mut buffer = lock(&self.shared).spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(length, 0);
        let shared = Arc::clone(&self.shared);
        Some(CaptureFrame { buffer, origin: None, judgement: None, shared })
    }

    fn max_frame_len(&self) -> usize {
        MAX_FRAME_BYTES
    }

    fn is_exhausted(&self) -> bool {
        let shared = lock(&self.shared);
        shared.ended && shared.next.is_none()
    }
}

impl<H: CaptureHandler> Frame for CaptureFrame<H> {
    const ORIGIN: parse::Origin = parse::Origin::Capture;

    fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn timestamp_ns(&self) -> Option<u64> {
        self.origin.map(|origin| origin.timestamp_ns)
    }

    fn judged(&mut self, parsed: &Parsed, verdict: Verdict, rule: Option<RuleId>) {
        self.judgement = Some(Judgement { parsed: *parsed, verdict, rule });
    }
}

impl<H: CaptureHandler> Drop for CaptureFrame<H> {
    /// A frame that is not transmitted is released, wherever that happens.
    fn drop(&mut self) {
        let Some(origin) = self.origin.take() else { return };
        let buffer = std::mem::take(&mut self.buffer);
        lock(&self.shared).settle(origin, buffer, false, self.judgement);
    }
}

impl<H: CaptureHandler> Shared<H> {
    /// Reads up to the next record that arrives, unless it has been read already.
    fn look_ahead(&mut self) {
        while self.next.is_none() && !self.ended {
            let Some(handler) = &mut self.handler else {
                self.ended = true;
                return;
            };
            let record = match self.reader.next_record() {
                Ok(Some(record)) => record,
                end => {
                    self.ended = true;
                    self.error = end.err().or(self.error.take());
                    return;
                }
            };
            self.records += 1;
            let (side, restore) = match handler.assign(&record) {
                Assign::Skip => continue,
                Assign::Arrive(side) => (side, false),
                Assign::ArriveRestored(side) => (side, true),
            };
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(record.bytes);
            if restore && record.is_cut() {
                buffer.resize((record.original_len as usize).min(MAX_FRAME_BYTES), 0);
            }
            let origin = Origin {
                place: 0,
                number: self.records,
                side,
                timestamp_ns: record.timestamp_ns,
                original_len: record.original_len,
                captured_len: record.bytes.len(),
            };
            self.next = Some(Waiting { origin, buffer });
        }
    }

    /// Takes note of what became of a frame, and tells the handler of all that are next in order.
    fn settle(
        &mut self,
        origin: Origin,
        buffer: Vec<u8>,
        transmitted: bool,
        judgement: Option<Judgement>,
    ) {
        let index = origin.place.wrapping_sub(self.first_open) as usize;
        if let Some(slot) = self.open.get_mut(index) {
            *slot = Some(Left { origin, buffer, transmitted, judgement });
        }
        while let Some(Some(_)) = self.open.front() {
            let Some(Some(left)) = self.open.pop_front() else { return };
            self.first_open += 1;
            self.tell(&left);
            self.spare.push(left.buffer);
        }
    }

    fn tell(&mut self, left: &Left) {
        let Some(handler) = &mut self.handler else { return };
        let settled = Settled {
            number: left.origin.number,
            side: left.origin.side,
            timestamp_ns: left.origin.timestamp_ns,
            original_len: left.origin.original_len,
            bytes: &left.buffer[..left.origin.captured_len],
            arrived_len: left.buffer.len(),
            transmitted: left.transmitted,
            judgement: left.judgement,
        };
        if let Err(error) = handler.settled(&settled) {
            self.ended = true;
            self.error.get_or_insert(error);
        }
    }
}

/// The ports of a capture belong to one thread at a time, so the lock is never waited for. A panic
/// elsewhere while it was held leaves counts that are still right.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: CaptureHandler> std::fmt::Debug for CapturePort<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CapturePort").field("side", &self.side).finish_non_exhaustive()
    }
}

impl<H: CaptureHandler> std::fmt::Debug for Session<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl<H: CaptureHandler> std::fmt::Debug for CaptureFrame<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureFrame").field("len", &self.buffer.len()).finish_non_exhaustive()
    }
}
