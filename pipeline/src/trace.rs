//! Following single packets through every stage, while somebody asks for it.
//!
//! A control thread gives a worker a [`Filter`]; the worker then writes down what each stage made of
//! the frames that match, one [`Story`] each, and hands it over through a bounded ring. With nobody
//! asking, a worker reads one word once a loop and runs the ordinary loop body; with a trace running
//! it runs a second copy of that body, in which frames that do not match cost the comparison.
//!
//! Rings and working memory come with the order and go back with it, so that a worker neither allocates
//! nor frees. What finds a ring full is counted and never waited for.
//!
//! What a port discards itself (several buffers that did not fit one) was never seen by a worker and
//! has no story, and neither has an answer that the gateway originates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bulkhead_rules::headers::{PolicyTime, WireId};
use bulkhead_rules::policy::RuleId;
use crossbeam::queue::ArrayQueue;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::conntrack::Phase;
use crate::parse::Parsed;
use crate::snapshot::Mode;
use crate::verdict::{DropReason, Verdict};

mod filter;
mod follow;

pub use self::filter::{End, Filter, Outcome};
pub(crate) use self::follow::{Arrival, Decision, Follower, Queued};

/// No rule has this number; the default's is the greatest of 32 bits.
const NO_RULE: u64 = u64::MAX;

/// The longest frame, in bytes.
const LONGEST_FRAME: usize = 65_535;

/// What a trace is to follow, and how much of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    /// The frames.
    pub filter: Filter,
    /// Which bytes of each are copied.
    pub snap: Snap,
    /// Frames that one worker follows at most.
    pub packets: u64,
    /// Steps that may wait for the control thread, for each worker. At least 1.
    pub ring: usize,
    /// Bytes of frames that may wait, likewise. At least those of one frame.
    pub ring_bytes: usize,
}

/// Which bytes of a frame are copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Snap {
    /// Those up to the end of the upper-layer header, at most [`HEADERS_AT_MOST`]: nothing that an
    /// application said.
    Headers,
    /// So many from the front.
    Bytes(u32),
}

/// Bytes that count as headers at most: two tags, IPv6 with a few extension headers, TCP with options.
pub const HEADERS_AT_MOST: usize = 256;

/// What became of a frame at a stage after which this worker has no more to do with it for now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// It left by the wire's other port.
    Sent,
    /// It waits for room in the other port's transmit queue; a later step tells.
    Held,
    /// It was dropped, and counted on the port that it came by.
    Dropped(DropReason),
    /// It was dropped, and counted on the port that could not send it.
    NotSent(DropReason),
    /// It belongs to another worker and was handed to it.
    HandedOver {
        /// Which one.
        to: usize,
    },
    /// It waits for the first fragment of its packet.
    KeptBack,
}

/// How the flow of a frame looked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FlowSeen {
    /// Its state.
    pub phase: Phase,
    /// Whether the frame goes the way of the packet that opened it.
    pub from_initiator: bool,
    /// Whether it is permitted.
    pub permitted: bool,
    /// The rule that it rests on, in the policy of `judged_in`.
    pub rule: RuleId,
    /// The epoch that judged it last.
    pub judged_in: u64,
    /// Its packets so far, the initiator's first.
    pub packets: [u64; 2],
    /// How long ago it began, in nanoseconds.
    pub age_ns: u64,
}

/// What the lookup came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lookup {
    /// The frame is not judged by a flow of its own: see its kind.
    NotByFlow,
    /// There is no flow.
    Miss,
    /// There is one: how it looked before the frame.
    Hit(FlowSeen),
}

/// What the classifier was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Classified {
    /// Nothing.
    No,
    /// Nothing, because the sender has spent its budget for new flows.
    Refused,
    /// What this frame may open.
    Frame(RuleId),
    /// What the flow's initiator may open, because an older policy judged it.
    Flow(RuleId),
}

/// A frame's way through one worker.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Story {
    /// Its number in this trace and worker.
    pub id: u64,
    /// When it was judged.
    pub at: PolicyTime,
    /// The wire that it came on.
    pub wire: WireId,
    /// Whether it came by the wire's inside port.
    pub from_inside: bool,
    /// Whether another worker received it and handed it in.
    pub handed_in: bool,
    /// Whether it had waited for its first fragment.
    pub resumed: bool,
    /// Its length, in bytes without FCS.
    pub len: u32,
    /// What the parser learnt.
    pub parsed: Parsed,
    /// Why it did not parse, if so.
    pub malformed: Option<DropReason>,
    /// The wire's mode.
    pub mode: Mode,
    /// The epoch that judged.
    pub epoch: u64,
    /// What the lookup came to.
    pub lookup: Lookup,
    /// What the classifier was asked.
    pub classified: Classified,
    /// What an enforcing wire does with it; undecided where this worker judged nothing.
    pub verdict: Verdict,
    /// The rule that decided, where one did for this frame.
    pub decided_by: Option<RuleId>,
    /// The state of its flow afterwards, if there is one.
    pub phase_after: Option<Phase>,
    /// What became of it.
    pub fate: Fate,
    /// Bytes of it that come with the story.
    pub kept: u32,
}

/// What a worker tells of a trace.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are stories, and a worker allocates nothing"
)]
pub enum Step {
    /// A frame went through.
    Story(Story),
    /// What became of one that was held for transmission.
    Later {
        /// Its number.
        id: u64,
        /// What became of it.
        fate: Fate,
    },
}

/// What traces count, of one worker.
#[derive(Debug, Default)]
pub struct TraceCounters {
    /// Frames that matched.
    pub matched: AtomicU64,
    /// Steps that found a ring full: lost.
    pub lost: AtomicU64,
}

/// The states of a channel. Only the control thread offers and ends, only the worker takes and gives
/// back.
mod state {
    pub(super) const IDLE: u8 = 0;
    pub(super) const OFFERED: u8 = 1;
    pub(super) const RUNNING: u8 = 2;
    pub(super) const ENDING: u8 = 3;
}

/// What both ends share.
#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    offered: ArrayQueue<Box<Follower>>,
    returned: ArrayQueue<Box<Follower>>,
    /// The number of the rule that is asked for, in the policy in force; [`NO_RULE`] where none is.
    rule: AtomicU64,
    counters: TraceCounters,
}

/// The worker's end.
#[derive(Debug)]
pub struct Tracer {
    shared: Arc<Shared>,
    follower: Option<Box<Follower>>,
}

/// The control thread's end.
#[derive(Debug)]
pub struct TraceSource {
    shared: Arc<Shared>,
    steps: Option<(Consumer<Step>, Consumer<u8>)>,
}

/// Both ends.
pub fn channel() -> (Tracer, TraceSource) {
    let shared = Arc::new(Shared {
        state: AtomicU8::new(state::IDLE),
        offered: ArrayQueue::new(1),
        returned: ArrayQueue::new(1),
        rule: AtomicU64::new(NO_RULE),
        counters: TraceCounters::default(),
    });
    (Tracer { shared: shared.clone(), follower: None }, TraceSource { shared, steps: None })
}

impl Tracer {
    /// Whether there is anything to do: asked once a loop.
    #[inline]
    pub(crate) fn is_called(&self) -> bool {
        self.shared.state.load(Ordering::Relaxed) != state::IDLE
    }

    /// Takes an order, or gives one back that is over. Returns whether there is one to follow.
    #[cold]
    pub(crate) fn turn(&mut self) -> bool {
        let shared = &*self.shared;
        match shared.state.load(Ordering::Acquire) {
            state::OFFERED => {
                if let Some(follower) = shared.offered.pop() {
                    self.follower = Some(follower);
                    // Fails where the order is over already: then the next turn gives it back.
                    let _ = shared.state.compare_exchange(
                        state::OFFERED,
                        state::RUNNING,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
                }
            }
            state::ENDING => {
                // Never both: there is one at a time, and the queue for it has room.
                for follower in self.follower.take().into_iter().chain(shared.offered.pop()) {
                    let _ = shared.returned.push(follower);
                }
                shared.state.store(state::IDLE, Ordering::Release);
            }
            _ => {}
        }
        if let Some(follower) = &mut self.follower {
            let rule = u32::try_from(shared.rule.load(Ordering::Relaxed));
            follower.rule_is(rule.ok().map(RuleId));
        }
        self.follower.is_some()
    }

    /// What follows frames, where there is an order.
    #[inline]
    pub(crate) fn follower(&mut self) -> Option<&mut Follower> {
        self.follower.as_deref_mut()
    }

    /// Adds up what was counted over a loop.
    pub(crate) fn publish(&mut self) {
        if let Some(follower) = &mut self.follower {
            let (matched, lost) = follower.take_counts();
            self.shared.counters.matched.fetch_add(matched, Ordering::Relaxed);
            self.shared.counters.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

impl TraceSource {
    /// Gives the worker an order. False where it has not given the one before back yet: then it hangs,
    /// or it was told a moment ago.
    pub fn begin(&mut self, wanted: &Wanted) -> bool {
        if self.shared.state.load(Ordering::Acquire) != state::IDLE {
            return false;
        }
        drop(self.shared.returned.pop());
        let bytes = wanted.ring_bytes.max(LONGEST_FRAME);
        let (steps, step_source) = RingBuffer::new(wanted.ring.max(1));
        let (bytes, byte_source) = RingBuffer::new(bytes);
        self.steps = Some((step_source, byte_source));
        let _ = self.shared.offered.push(Box::new(Follower::new(wanted, steps, bytes)));
        self.shared.state.store(state::OFFERED, Ordering::Release);
        true
    }

    /// The number that the rule asked for has in the policy in force; none where no rule is asked for,
    /// or none has its name.
    pub fn rule_is(&self, rule: Option<RuleId>) {
        let number = rule.map_or(NO_RULE, |rule| rule.0.into());
        self.shared.rule.store(number, Ordering::Relaxed);
    }

    /// The next step, and the bytes that come with a story.
    pub fn step(&mut self) -> Option<(Step, Vec<u8>)> {
        let (steps, bytes) = self.steps.as_mut()?;
        let step = steps.pop().ok()?;
        let kept = match &step {
            Step::Story(story) => story.kept as usize,
            Step::Later { .. } => 0,
        };
        let kept = bytes.read_chunk(kept).map(|chunk| chunk.into_iter().collect());
        Some((step, kept.unwrap_or_default()))
    }

    /// Tells the worker that the order is over. What it wrote before still comes.
    pub fn end(&mut self) {
        let running = |now| (now != state::IDLE).then_some(state::ENDING);
        let _ = self.shared.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, running);
    }

    /// Whether the worker has given the order back: then nothing more comes.
    pub fn is_over(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == state::IDLE
    }

    /// Frees what an order took, once it is over.
    pub fn clear(&mut self) {
        if self.is_over() {
            drop(self.shared.returned.pop());
            self.steps = None;
        }
    }

    /// What all traces of this worker have counted.
    pub fn counters(&self) -> &TraceCounters {
        &self.shared.counters
    }
}

/// The ends of the rings that a follower writes.
#[derive(Debug)]
struct Rings {
    steps: Producer<Step>,
    bytes: Producer<u8>,
}
