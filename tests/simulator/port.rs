//! What the worker is plugged into: queues of the world's making, frames with a number, and a clock
//! that stands where the world puts it. A call of `receive` is also where the world can put an event
//! into the middle of a worker's loop.
//!
//! Everything that the worker does with a frame is written down as an [`Event`], in order, by the
//! frame itself or by its port: nothing rests on what the worker says that it did.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_pipeline::parse::Parsed;
use bulkhead_pipeline::port::{Burst, Frame, Port};
use bulkhead_pipeline::verdict::Verdict;
use bulkhead_pipeline::worker::Clock;
use bulkhead_rules::headers::Headers;
use bulkhead_rules::policy::RuleId;

use super::defects::Sabotage;

/// Which frame: numbered in the order in which workers received or originated them.
pub(super) type FrameId = u64;

/// Where a port is: the wire's number and whether it is the inside port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Place {
    pub(super) wire: u16,
    pub(super) inside: bool,
}

impl Place {
    /// The port at the wire's other end.
    pub(super) fn opposite(self) -> Self {
        Self { inside: !self.inside, ..self }
    }

    /// Its place in an array of all ports.
    pub(super) fn index(self) -> usize {
        usize::from(self.wire) * 2 + usize::from(!self.inside)
    }
}

/// What became of a frame.
#[derive(Debug)]
pub(super) enum Event {
    /// A worker received it. `tag` is what the world wrote on it.
    Received { frame: FrameId, tag: u64, place: Place, now_ns: u64 },
    /// The port had to discard it before a worker saw it.
    Discarded { place: Place, len: usize },
    /// A worker told its verdict, when its clock last read `now_ns`.
    Judged(Opinion),
    /// A worker asked for a frame of its own.
    Originated { frame: FrameId, place: Place, len: usize },
    /// It left by a port.
    Sent { frame: FrameId, place: Place, bytes: Vec<u8> },
    /// It was given up.
    Gone { frame: FrameId },
}

/// What a worker says of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opinion {
    pub(super) frame: FrameId,
    /// What its parser has read; nothing where the frame showed it something else.
    pub(super) headers: Option<Headers>,
    pub(super) verdict: Verdict,
    pub(super) rule: Option<RuleId>,
    pub(super) now_ns: u64,
    /// The last frame that had come by then.
    pub(super) last: FrameId,
}

/// What is to happen in the middle of a worker's loop: after so many calls of `receive`.
pub(super) type Interrupt = Rc<RefCell<Option<(u32, Box<dyn FnOnce()>)>>>;

/// What frames and ports write down, and the clock.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) events: Vec<Event>,
    next_frame: FrameId,
    now_ns: u64,
    /// Readings of the clock until it jumps, and by how much: the worker was not running.
    stall: Option<(u32, u64)>,
}

/// The ledger, as everything that writes in it holds it. Frames have to be [`Send`].
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// One thread uses it, so it is never waited for.
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frame(&self, bytes: Vec<u8>, shown: Option<Vec<u8>>) -> SimFrame {
        let mut ledger = self.lock();
        ledger.next_frame += 1;
        SimFrame { id: ledger.next_frame, bytes, shown, ledger: self.clone(), sent: false }
    }
}

impl Ledger {
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn advance_ns(&mut self, by_ns: u64) {
        self.now_ns += by_ns;
    }

    /// After `readings` more of the clock it jumps by `by_ns`.
    pub(super) fn stall(&mut self, readings: u32, by_ns: u64) {
        self.stall = Some((readings, by_ns));
    }
}

/// The world's clock.
#[derive(Clone, Debug)]
pub(super) struct SimClock(pub(super) SharedLedger);

impl Clock for SimClock {
    fn now_ns(&self) -> u64 {
        let mut ledger = self.0.lock();
        match ledger.stall {
            Some((0, by_ns)) => {
                ledger.now_ns += by_ns;
                ledger.stall = None;
            }
            Some((readings, by_ns)) => ledger.stall = Some((readings - 1, by_ns)),
            None => {}
        }
        ledger.now_ns
    }
}

/// A frame in the gateway's hands.
#[derive(Debug)]
pub(super) struct SimFrame {
    id: FrameId,
    bytes: Vec<u8>,
    /// What the worker sees in place of the bytes, where a planted defect blinds it.
    shown: Option<Vec<u8>>,
    ledger: SharedLedger,
    sent: bool,
}

impl Frame for SimFrame {
    fn bytes(&self) -> &[u8] {
        self.shown.as_ref().unwrap_or(&self.bytes)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn judged(&mut self, parsed: &Parsed, verdict: Verdict, rule: Option<RuleId>) {
        let mut ledger = self.ledger.lock();
        let opinion = Opinion {
            frame: self.id,
            headers: self.shown.is_none().then_some(parsed.headers),
            verdict,
            rule,
            now_ns: ledger.now_ns,
            last: ledger.next_frame,
        };
        ledger.events.push(Event::Judged(opinion));
    }
}

impl Drop for SimFrame {
    fn drop(&mut self) {
        if !self.sent {
            self.ledger.lock().events.push(Event::Gone { frame: self.id });
        }
    }
}

/// A frame that waits to be received.
#[derive(Debug)]
pub(super) struct Arriving {
    /// What the world wants to recognise it by.
    pub(super) tag: u64,
    pub(super) bytes: Vec<u8>,
    /// Spread over several buffers that do not fit one: the port has to discard it.
    pub(super) multisegment: bool,
}

/// The device behind a port, which the world holds too.
pub(super) struct Device {
    pub(super) arriving: VecDeque<Arriving>,
    /// Frames that the transmit queue takes until the world says otherwise.
    pub(super) room: usize,
    /// Originated frames that there are buffers for.
    pub(super) buffers: usize,
    pub(super) max_frame_len: usize,
    pub(super) interrupt: Interrupt,
    /// What goes wrong in the gateway on purpose.
    pub(super) sabotage: Option<Rc<RefCell<Sabotage>>>,
}

/// A port of the worker.
pub(super) struct SimPort {
    pub(super) place: Place,
    pub(super) device: Rc<RefCell<Device>>,
    pub(super) ledger: SharedLedger,
    discarded: (u64, u64),
}

impl SimPort {
    pub(super) fn new(place: Place, device: Rc<RefCell<Device>>, ledger: SharedLedger) -> Self {
        Self { place, device, ledger, discarded: (0, 0) }
    }
}

impl Port for SimPort {
    type Frame = SimFrame;

    fn receive(&mut self, burst: &mut Burst<SimFrame>) {
        let interrupt = self.device.borrow().interrupt.clone();
        let mut waiting = interrupt.borrow_mut();
        match waiting.take() {
            Some((0, happens)) => happens(),
            Some((calls, happens)) => *waiting = Some((calls - 1, happens)),
            None => {}
        }
        let mut device = self.device.borrow_mut();
        while burst.remaining_capacity() > 0 {
            let Some(Arriving { tag, bytes, multisegment }) = device.arriving.pop_front() else {
                break;
            };
            if multisegment {
                let (frames, sum) = self.discarded;
                self.discarded = (frames + 1, sum + bytes.len() as u64);
                let event = Event::Discarded { place: self.place, len: bytes.len() };
                self.ledger.lock().events.push(event);
                continue;
            }
            let sabotage = device.sabotage.as_ref();
            let shown = sabotage.and_then(|s| s.borrow_mut().disguise(self.place, &bytes));
            let frame = self.ledger.frame(bytes, shown);
            let mut ledger = self.ledger.lock();
            let (id, now_ns) = (frame.id, ledger.now_ns);
            ledger.events.push(Event::Received { frame: id, tag, place: self.place, now_ns });
            drop(ledger);
            burst.push(frame);
        }
    }

    fn transmit(&mut self, burst: &mut Burst<SimFrame>) {
        let mut device = self.device.borrow_mut();
        let taken = burst.len().min(device.room);
        device.room -= taken;
        if let Some(sabotage) = &device.sabotage {
            sabotage.borrow_mut().reorder(&mut burst[..taken]);
        }
        for mut frame in burst.drain(..taken) {
            frame.sent = true;
            let (mut place, mut bytes) = (self.place, std::mem::take(&mut frame.bytes));
            if let Some(sabotage) = &device.sabotage {
                if !sabotage.borrow_mut().send(&mut place, &mut bytes) {
                    continue;
                }
            }
            self.ledger.lock().events.push(Event::Sent { frame: frame.id, place, bytes });
        }
    }

    fn originate(&mut self, length: usize) -> Option<SimFrame> {
        let mut device = self.device.borrow_mut();
        device.buffers = device.buffers.checked_sub(1)?;
        let frame = self.ledger.frame(vec![0; length], None);
        let event = Event::Originated { frame: frame.id, place: self.place, len: length };
        self.ledger.lock().events.push(event);
        Some(frame)
    }

    fn take_discarded(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.discarded)
    }

    fn max_frame_len(&self) -> usize {
        self.device.borrow().max_frame_len
    }
}
