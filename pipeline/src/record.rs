//! Flow records and copies of frames that leave a worker without a lock, an allocation or a wait.
//!
//! A record is made where a flow begins and ends, and now and then while it goes on: the ageing of
//! the flow table comes by every entry anyway, so that packets of known flows cost nothing. What is
//! denied has no flow: packets of one tuple are summed in a small table, so that a flood is a handful
//! of records. Everything goes into bounded rings; what finds them full is
//! lost and counted, never waited for.
//!
//! Counters of flows are totals since the flow's first packet, those of denied packets are what came
//! since the last record of the same tuple: the sum over the records is what was denied.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_rules::headers::{Headers, WireId};
use bulkhead_rules::policy::RuleId;
use rtrb::{Consumer, Producer, RingBuffer};

pub(crate) use self::copies::is_announcement;
use self::copies::{Copies, CopySource};
pub use self::copies::{CopyCounters, CopyKind, Decided, FrameCopy, LONG_BYTES, SHORT_BYTES};
use self::denied::{Attempt, DeniedTable};
use crate::burst::Columns;
use crate::conntrack::{Direction, Phase, is_bare_syn};
use crate::counters::Counter;
use crate::flow_table::FlowEntry;
use crate::parse::Kind;
use crate::port::{Burst, Frame};
use crate::snapshot::staged::StagedWord;
use crate::snapshot::{Mode, Snapshot, WallClock};
use crate::verdict::{DropReason, Verdict};

mod copies;
mod denied;

/// How long a worker that stops waits for room in the rings, for all of its flows together: a worker
/// is left behind after a few times as long.
const STOP_PATIENCE: Duration = Duration::from_millis(150);

/// How a worker's records are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordConfig {
    /// Flow records that may wait for the control thread. At least 1.
    pub ring: usize,
    /// Seconds after which there is another record of a flow that goes on, where packets came. At
    /// least 1.
    pub interval_s: u32,
    /// Whether frames are copied.
    pub copies: bool,
    /// Denied frames that are copied in a second, at most.
    pub denied_copies_per_second: u32,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { ring: 1 << 14, interval_s: 60, copies: true, denied_copies_per_second: 100 }
    }
}

/// Why there is a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Event {
    /// A flow began.
    Started,
    /// It goes on.
    Continues,
    /// It is over.
    Ended,
    /// Packets that opened none.
    Denied,
}

impl Event {
    /// Every event, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Started, Self::Continues, Self::Ended, Self::Denied];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Continues => "continues",
            Self::Ended => "ended",
            Self::Denied => "denied",
        }
    }
}

/// How a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// Both sides closed it.
    Closed,
    /// One side reset it.
    Reset,
    /// It was silent for longer than its timeout.
    Idle,
    /// It made room for another.
    Evicted,
    /// A newer policy, or a rule's time, forbade it.
    Revoked,
    /// A new flow took its place.
    Replaced,
    /// The worker stopped.
    Stopped,
}

impl Ending {
    /// How a flow in this phase ended, where nobody but itself had a part in it or `otherwise` came
    /// to it.
    fn of(phase: Phase, otherwise: Self) -> Self {
        match (phase, otherwise) {
            (_, Self::Revoked) => otherwise,
            (Phase::TimeWait | Phase::Closing, _) => Self::Closed,
            (Phase::Closed, _) => Self::Reset,
            _ => otherwise,
        }
    }
}

/// What became of a flow, or of packets that opened none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FlowRecord {
    /// Why there is a record.
    pub event: Event,
    /// How it ended, if it did.
    pub ending: Option<Ending>,
    /// The headers of the packet that opened it, with the MAC addresses that it was judged by last.
    pub headers: Headers,
    /// Whether the client is behind the wire's inside port.
    pub client_inside: bool,
    /// Whether the packet that opens such a flow was seen: not so of a connection taken up in its
    /// middle.
    pub opening_seen: bool,
    /// Whether the server answered, by more than a refusal.
    pub answered: bool,
    /// When the first packet came, in milliseconds since the Unix epoch, to a tick of the flow table
    /// (17 ms).
    pub first_ms: i64,
    /// When the last packet that kept it alive did.
    pub last_ms: i64,
    /// Packets by direction, the client's first.
    pub packets: [u64; 2],
    /// Bytes of their frames, without FCS.
    pub bytes: [u64; 2],
    /// The verdict of an enforcing wire.
    pub verdict: Verdict,
    /// The rule that decided, where one did.
    pub rule: Option<RuleId>,
    /// The epoch in which it did.
    pub epoch: u64,
    /// Whether the wire enforces.
    pub enforced: bool,
    /// What the staged policy says, where there is one.
    pub staged: Option<StagedWord>,
}

/// What a worker counts of its records.
#[derive(Debug, Default)]
pub struct RecordCounters {
    told: [Counter; Event::ALL.len()],
    lost: [Counter; Event::ALL.len()],
    /// Denied packets whose record was lost.
    pub denied_packets_lost: Counter,
}

impl RecordCounters {
    /// Records of an event that were handed over.
    pub fn told(&self, event: Event) -> &Counter {
        &self.told[event as usize]
    }

    /// Records of an event that found the ring full.
    pub fn lost(&self, event: Event) -> &Counter {
        &self.lost[event as usize]
    }

    /// Records of every event that found the ring full.
    pub fn lost_in_all(&self) -> u64 {
        self.lost.iter().map(Counter::value).sum()
    }
}

/// The worker's end.
pub struct Records {
    out: Out,
    copies: Option<Copies>,
    denied: DeniedTable,
    moment: Moment,
    interval_ns: u64,
}

/// The control thread's end.
#[derive(Debug)]
pub struct RecordSource {
    flows: Consumer<FlowRecord>,
    counters: Arc<RecordCounters>,
    copies: CopySource,
}

/// Both ends. All memory is allocated here.
pub fn channel(config: &RecordConfig) -> (Records, RecordSource) {
    let (producer, consumer) = RingBuffer::new(config.ring.max(1));
    let counters = Arc::new(RecordCounters::default());
    let (copies, copy_source) = copies::channel(config.denied_copies_per_second);
    let records = Records {
        out: Out { flows: producer, counters: counters.clone() },
        copies: config.copies.then_some(copies),
        denied: DeniedTable::new(),
        moment: Moment {
            now_ns: 0,
            clock: WallClock::default(),
            epoch: 0,
            enforcing: Box::new([0; WIRES / 64]),
        },
        interval_ns: u64::from(config.interval_s.max(1)) * 1_000_000_000,
    };
    (records, RecordSource { flows: consumer, counters, copies: copy_source })
}

/// The ring's end and what is counted of it.
struct Out {
    flows: Producer<FlowRecord>,
    counters: Arc<RecordCounters>,
}

impl Out {
    /// Hands a record over. False where there is no room, which is counted.
    fn tell(&mut self, record: FlowRecord) -> bool {
        let (event, packets) = (record.event, record.packets[0]);
        let told = self.flows.push(record).is_ok();
        if told {
            self.counters.told(event).add(1);
        } else {
            self.counters.lost(event).add(1);
            if event == Event::Denied {
                self.counters.denied_packets_lost.add(packets);
            }
        }
        told
    }

    fn has_room(&self) -> bool {
        self.flows.slots() > 0
    }

    /// For a worker that stops: until there is room, or `begun` is too long ago.
    fn wait_for_room(&self, begun: Instant) {
        while !self.has_room() && begun.elapsed() < STOP_PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Wires that a flow entry can tell apart.
pub(crate) const WIRES: usize = 1 << 14;

/// Under what records are made.
struct Moment {
    now_ns: u64,
    clock: WallClock,
    epoch: u64,
    /// A bit for each wire.
    enforcing: Box<[u64; WIRES / 64]>,
}

impl Moment {
    fn is_enforcing(&self, wire: WireId) -> bool {
        let word = self.enforcing.get(usize::from(wire.0) / 64).copied().unwrap_or(0);
        word >> (wire.0 % 64) & 1 != 0
    }

    fn unix_ms(&self, ago_ns: u64) -> i64 {
        self.clock.at(self.now_ns).unix_ms.saturating_sub((ago_ns / 1_000_000) as i64)
    }

    fn record(&self, entry: &FlowEntry, event: Event, ending: Option<Ending>) -> FlowRecord {
        let headers = entry.initiator_headers();
        let by_direction = [Direction::FromInitiator, Direction::FromResponder];
        let judged = u64::from((self.epoch as u32).wrapping_sub(entry.epoch()));
        FlowRecord {
            event,
            ending,
            headers,
            client_inside: entry.has_initiator_inside(),
            opening_seen: entry.is_opening_seen(),
            answered: entry.connection().is_answered(),
            first_ms: self.unix_ms(entry.age_ns(self.now_ns)),
            last_ms: self.unix_ms(entry.silent_ns(self.now_ns)),
            packets: by_direction.map(|direction| entry.packets(direction)),
            bytes: by_direction.map(|direction| entry.bytes(direction)),
            verdict: if entry.is_permitted() {
                Verdict::Forward
            } else {
                Verdict::Drop(DropReason::Policy)
            },
            rule: Some(entry.rule()),
            epoch: self.epoch.saturating_sub(judged),
            enforced: self.is_enforcing(headers.wire),
            staged: None,
        }
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("room", &self.out.flows.slots()).finish_non_exhaustive()
    }
}

impl Records {
    /// Moves on to the worker's present instant.
    #[inline]
    pub(crate) fn pass_to(&mut self, now_ns: u64) {
        self.moment.now_ns = now_ns;
    }

    /// Moves on to a policy, or to an epoch of it.
    #[cold]
    pub(crate) fn take_up(&mut self, snapshot: &Snapshot, epoch: u64) {
        self.moment.epoch = epoch;
        self.moment.clock = snapshot.content.clock;
        self.moment.enforcing.fill(0);
        for (wire, policy) in snapshot.content.wires.iter().enumerate().take(WIRES) {
            let bit = u64::from(policy.mode == Mode::Enforce);
            self.moment.enforcing[wire / 64] |= bit << (wire % 64);
        }
    }

    /// A flow has begun; its first packet is counted.
    pub(crate) fn started(&mut self, entry: &FlowEntry) {
        self.out.tell(self.moment.record(entry, Event::Started, None));
    }

    /// A flow ends; `otherwise` is how, unless it was over before.
    pub(crate) fn ended(&mut self, entry: &FlowEntry, otherwise: Ending) {
        let ending = Ending::of(entry.phase(), otherwise);
        self.out.tell(self.moment.record(entry, Event::Ended, Some(ending)));
    }

    /// A worker stops, and with it this flow. Waits a little for room: until `begun` is too long ago.
    pub(crate) fn stopped(&mut self, entry: &FlowEntry, begun: Instant) {
        self.out.wait_for_room(begun);
        self.ended(entry, Ending::Stopped);
    }

    /// Nanoseconds between two records of a flow that goes on.
    pub(crate) fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// A flow goes on.
    pub(crate) fn continues(&mut self, entry: &FlowEntry) {
        self.out.tell(self.moment.record(entry, Event::Continues, None));
    }

    /// Whether frames are copied.
    pub(crate) fn copies_frames(&self) -> bool {
        self.copies.is_some()
    }

    /// Takes note of the frames of a burst that open no flow, or would not if the wire enforced, and
    /// copies those that are worth it.
    #[cold]
    #[inline(never)]
    pub(crate) fn note<F: Frame>(
        &mut self,
        columns: &Columns,
        frames: &Burst<F>,
        wire: WireId,
        from_inside: bool,
    ) {
        let enforced = self.moment.is_enforcing(wire);
        for (place, frame) in frames.iter().enumerate().take(columns.count) {
            let (verdict, parsed) = (columns.verdict[place], &columns.parsed[place]);
            let is_copied = columns.is_copied(place);
            let is_denied = is_denial(verdict)
                && parsed.kind.is_judged_by_flow()
                && !columns.is_recorded(place);
            if !is_copied && !is_denied {
                continue;
            }
            let announces = is_announcement(&parsed.headers);
            if is_copied {
                let kind = if announces { CopyKind::Announcement } else { CopyKind::FirstPayload };
                self.copy(kind, columns, place, from_inside, frame.bytes());
            }
            if !is_denied {
                continue;
            }
            let attempt = Attempt {
                headers: parsed.headers,
                verdict,
                rule: columns.decided_by[place],
                client_inside: from_inside,
                opening_seen: parsed.kind != Kind::Tcp || is_bare_syn(&parsed.tcp),
                enforced,
                len: columns.len[place],
                epoch: self.moment.epoch,
                now_ns: self.moment.now_ns,
                unix_ms: self.moment.unix_ms(0),
            };
            let is_first = self.denied.note(&attempt, &mut self.out);
            if announces {
                self.copy(CopyKind::Announcement, columns, place, from_inside, frame.bytes());
            } else if is_first {
                self.copy(CopyKind::Denied, columns, place, from_inside, frame.bytes());
            }
        }
    }

    fn copy(
        &mut self,
        kind: CopyKind,
        columns: &Columns,
        place: usize,
        from_inside: bool,
        bytes: &[u8],
    ) {
        let Some(copies) = &mut self.copies else { return };
        let about = Decided {
            unix_ms: self.moment.unix_ms(0),
            wire: columns.parsed[place].headers.wire,
            from_inside,
            verdict: columns.verdict[place],
            rule: columns.decided_by[place],
            epoch: self.moment.epoch,
        };
        copies.copy(kind, about, bytes, self.moment.now_ns);
    }

    /// Tells, a few at a time, how often denied packets were repeated.
    #[inline]
    pub(crate) fn age(&mut self, now_ns: u64) {
        if self.denied.is_due(now_ns) {
            self.denied.age(now_ns, &mut self.out);
        }
    }

    /// Tells the rest of what was denied: the worker stops.
    pub(crate) fn finish(&mut self, begun: Instant) {
        self.denied.tell_all(&mut self.out, begun);
    }
}

impl RecordSource {
    /// The next flow record.
    pub fn flow(&mut self) -> Option<FlowRecord> {
        self.flows.pop().ok()
    }

    /// The next copy of a denied frame, or of one with a first payload.
    pub fn short_copy(&mut self) -> Option<FrameCopy<SHORT_BYTES>> {
        self.copies.short.pop().ok()
    }

    /// The next copy of an announcement.
    pub fn long_copy(&mut self) -> Option<FrameCopy<LONG_BYTES>> {
        self.copies.long.pop().ok()
    }

    /// How many flow records, and copies of frames, wait to be taken.
    pub fn waiting(&self) -> (usize, usize) {
        (self.flows.slots(), self.copies.short.slots() + self.copies.long.slots())
    }

    /// What the worker counts.
    pub fn counters(&self) -> &Arc<RecordCounters> {
        &self.counters
    }

    /// What it counts of its copies.
    pub fn copy_counters(&self) -> &Arc<CopyCounters> {
        &self.copies.counters
    }
}

/// Whether a frame with this verdict is told as denied: it is sound, and belongs to no flow that is
/// permitted.
pub fn is_denial(verdict: Verdict) -> bool {
    use DropReason::{
        AddressSpoofed, DhcpServerSide, FlowSourceLimit, FlowTableFull, IcmpNoFlow, NewFlowRate,
        Policy, Quarantine, Revoked, TcpNoFlow,
    };
    match verdict {
        Verdict::Forward => false,
        Verdict::Reject => true,
        Verdict::Drop(reason) => matches!(
            reason,
            Policy
                | Quarantine
                | Revoked
                | TcpNoFlow
                | IcmpNoFlow
                | DhcpServerSide
                | AddressSpoofed
                | FlowTableFull
                | FlowSourceLimit
                | NewFlowRate
        ),
    }
}

const _: () = assert!(size_of::<FlowRecord>() == 144);
