//! The packet path, as a table of contents.
//!
//! A worker serves the queues of its wires in turn. Each direction of a wire is a burst that goes
//! through the stages one after the other, every stage over the whole burst: receive, parse, hand
//! over what belongs to other workers, look the flows up, classify the misses, decide, account,
//! transmit. Verdicts start as drop. Nothing on
//! this path takes a lock, allocates, calls the system, logs or panics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_rules::headers::{PolicyTime, WireId};

use crate::bindings::Tap;
use crate::burst::Columns;
use crate::counters::{LinkState, PortCounters, Volume, WorkerCounters};
use crate::fragment::FragmentKey;
use crate::handover::{Lane, Peers, Sorter};
use crate::judge::{FragmentsSeen, Judge};
use crate::observe::{Recorder, VerdictEvent};
use crate::parse::parse;
use crate::port::{Burst, Frame, Port};
use crate::record::Records;
use crate::reject::{Answer, RejectLimiter};
use crate::snapshot::{Mode, Reader, Snapshot};
use crate::trace::{Arrival, Decision, Queued, Tracer};
use crate::verdict::{DropReason, Verdict};
use crate::waiting::{Place, Waiting};

mod clock;
mod config;

pub use self::clock::{Clock, MonotonicClock, Stage, VirtualClock};
pub use self::config::WorkerConfig;

/// The two ports of a wire, as one worker sees them.
#[derive(Debug)]
pub struct WirePorts<P> {
    /// The wire's index in the gateway's configuration.
    pub wire: WireId,
    /// Flows of wires of one group are judged by one state; the wire's own index unless wires are
    /// declared redundant.
    pub group: u16,
    /// The port that the configuration calls `inside`.
    pub inside: P,
    /// The port that the configuration calls `outside`.
    pub outside: P,
}

/// What a worker does when it has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PollMode {
    /// Poll on: the core is the worker's own.
    Busy,
    /// Sleep for microseconds, longer the longer nothing comes.
    Adaptive,
}

/// Loops without a packet after which an adaptive worker starts to sleep.
const IDLE_LOOPS_BEFORE_SLEEP: u32 = 256;
/// The first sleep of an adaptive worker.
const SHORTEST_SLEEP: Duration = Duration::from_micros(10);
/// The longest one: what it adds to the latency of the first packet after a pause.
const LONGEST_SLEEP: Duration = Duration::from_micros(160);

/// How long a worker that stops waits for those that may still hand frames to it.
const LONGEST_LEAVE: Duration = Duration::from_millis(200);

/// The most later fragments that may wait for their first one.
const MAX_WAITING: usize = 4096;

/// One worker, generic over its ports and its clock.
pub struct Worker<P: Port, C> {
    wires: Vec<Wire<P>>,
    judge: Judge,
    limiter: RejectLimiter,
    reader: Reader,
    counters: Arc<WorkerCounters>,
    recorder: Recorder,
    /// Set where somebody wants to know who has which address.
    tap: Option<Box<Tap>>,
    /// Set where somebody may want to follow single frames.
    tracer: Option<Tracer>,
    clock: C,
    patience_ns: u64,
    loop_began_ns: u64,
    was_busy: bool,
    columns: Box<Columns>,
    received: Box<Burst<P::Frame>>,
    dropped: Box<Burst<P::Frame>>,
    /// Later fragments that came before their first one.
    waiting: Waiting<P::Frame>,
    /// Set where other workers serve some of the wires, too.
    sorter: Option<Box<Sorter<P::Frame>>>,
}

struct Wire<P: Port> {
    id: WireId,
    group: u16,
    inside: Side<P>,
    outside: Side<P>,
    /// Rings to and from the other workers of the wire, for frames from the inside and the outside.
    lanes: Option<[Lane<P::Frame>; 2]>,
}

/// A port, and the frames that wait for room in its transmit queue.
struct Side<P: Port> {
    port: P,
    held: Box<Burst<P::Frame>>,
    /// Their bytes.
    held_bytes: u64,
    blocked_since_ns: Option<u64>,
}

impl<P: Port> Side<P> {
    fn new(port: P) -> Self {
        Self { port, held: Box::default(), held_bytes: 0, blocked_since_ns: None }
    }
}

impl<P: Port, C: Clock> Worker<P, C> {
    /// A worker for `wires`, whose counters are those of `counters.wires` in the same order.
    ///
    /// # Panics
    ///
    /// When `counters` was made for another number of wires.
    pub fn new(
        config: &WorkerConfig,
        wires: Vec<WirePorts<P>>,
        reader: Reader,
        counters: Arc<WorkerCounters>,
        recorder: Recorder,
        clock: C,
    ) -> Self {
        Self::with_judge(Judge::new(config), config, wires, reader, counters, recorder, clock)
    }

    /// The same around tables that were made before by the same configuration, which takes longest.
    pub fn with_judge(
        judge: Judge,
        config: &WorkerConfig,
        wires: Vec<WirePorts<P>>,
        reader: Reader,
        counters: Arc<WorkerCounters>,
        recorder: Recorder,
        clock: C,
    ) -> Self {
        assert_eq!(wires.len(), counters.wires.len(), "one set of counters for each wire");
        let judge = judge.for_worker(reader.worker());
        counters.flow_capacity.set(judge.flow_capacity() as u64);
        Self {
            wires: (wires.into_iter())
                .map(|wire| Wire {
                    id: wire.wire,
                    group: wire.group,
                    inside: Side::new(wire.inside),
                    outside: Side::new(wire.outside),
                    lanes: None,
                })
                .collect(),
            judge,
            limiter: RejectLimiter::new(config.rejects_per_second, config.rejects_per_second),
            reader,
            counters,
            recorder,
            tap: None,
            tracer: None,
            loop_began_ns: clock.now_ns(),
            was_busy: false,
            clock,
            patience_ns: config.transmit_patience_ns,
            columns: Box::default(),
            received: Box::default(),
            dropped: Box::default(),
            waiting: Waiting::new(
                config.fragments.wait_frames.min(MAX_WAITING),
                u64::from(config.fragments.wait_ms) * 1_000_000,
            ),
            sorter: None,
        }
    }

    /// Connects the worker with the others that serve wires of its. Before the first poll.
    #[must_use]
    pub fn with_peers(mut self, peers: Peers<P::Frame>) -> Self {
        for (id, lanes) in peers.lanes {
            if let Some(wire) = self.wires.iter_mut().find(|wire| wire.id == id) {
                wire.lanes = Some(lanes);
            }
        }
        self.sorter = Some(Box::new(peers.sorter));
        self
    }

    /// Hands on what hosts and DHCP servers claim about addresses. Before the first poll.
    #[must_use]
    pub fn with_tap(mut self, tap: Tap) -> Self {
        self.tap = Some(Box::new(tap));
        self
    }

    /// Follows single frames when told to. Before the first poll.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Tells what becomes of flows. Before the first poll.
    #[must_use]
    pub fn with_records(mut self, records: Records) -> Self {
        self.judge.tell(records);
        self
    }

    /// Serves every direction of every wire once. Returns how many frames came in.
    pub fn poll(&mut self) -> usize {
        match &self.tracer {
            Some(tracer) if tracer.is_called() => self.poll_called(),
            _ => self.poll_as::<false>(),
        }
    }

    /// A trace begins, goes on or ends.
    #[cold]
    #[inline(never)]
    fn poll_called(&mut self) -> usize {
        if !self.tracer.as_mut().is_some_and(Tracer::turn) {
            return self.poll_as::<false>();
        }
        let frames = self.poll_as::<true>();
        if let Some(tracer) = &mut self.tracer {
            tracer.publish();
        }
        frames
    }

    /// The loop's body, with or without what a trace adds: without, it costs nothing.
    #[inline(always)]
    fn poll_as<const TRACED: bool>(&mut self) -> usize {
        let worker = self.reader.worker();
        let snapshot: &Snapshot = self.reader.refresh();
        let mut now_ns = self.clock.now_ns();
        // The time since the last loop began belongs to what that loop was, sleep included.
        let since_ns = std::mem::replace(&mut self.loop_began_ns, now_ns);
        let spent = if self.was_busy { &self.counters.busy_ns } else { &self.counters.idle_ns };
        spent.add(now_ns.saturating_sub(since_ns));
        let (mut frames, mut is_fresh) = (0, true);
        self.clock.passed(Stage::Loop);
        // None at compile time where nothing is traced.
        let mut follower =
            if TRACED { self.tracer.as_mut().and_then(Tracer::follower) } else { None };
        let wires = self.wires.iter_mut().zip(&self.counters.wires);
        for (nth, (wire, counters)) in wires.enumerate() {
            for from_inside in [true, false] {
                let lane = wire.lanes.as_mut().map(|lanes| &mut lanes[usize::from(!from_inside)]);
                let (ingress, egress, ingress_counters, egress_counters, link) = if from_inside {
                    let (a, b) = (&counters.inside, &counters.outside);
                    (&mut wire.inside, &mut wire.outside, a, b, &counters.outside_link)
                } else {
                    let (a, b) = (&counters.outside, &counters.inside);
                    (&mut wire.outside, &mut wire.inside, a, b, &counters.inside_link)
                };
                let mut crossing = Crossing {
                    from_inside,
                    ingress,
                    egress,
                    ingress_counters,
                    egress_counters,
                    egress_link: link,
                    patience_ns: self.patience_ns,
                    lane,
                    handed_in: 0,
                };
                let is_timed = self.recorder.is_due();
                if is_timed && !is_fresh {
                    (now_ns, is_fresh) = (self.clock.now_ns(), true);
                }
                // The table of contents.
                let place = (nth, from_inside);
                let queue = TRACED.then(|| crossing.queued());
                let is_empty = crossing.flush(now_ns);
                if let (Some(follower), Some(before)) = (&mut follower, queue) {
                    follower.served(place, (before, crossing.queued()), crossing.cannot_send());
                }
                if !is_empty {
                    continue;
                }
                let mode = &snapshot.content.wires[wire.id.0 as usize];
                let all = mode.mode == Mode::Observe;
                let resumes = crossing.resume(&mut self.waiting, place, all, &mut self.received);
                if !resumes && !crossing.receive(&mut self.received) {
                    continue;
                }
                self.clock.passed(Stage::Receive);
                let at = snapshot.content.clock.at(now_ns);
                let moment = self.judge.enter(snapshot, at, now_ns, mode, wire.group, from_inside);
                frames += self.received.len();
                self.columns.parse(&self.received, wire.id, mode.tunnels.as_deref());
                self.clock.passed(Stage::Parse);
                if let Some(follower) = &mut follower {
                    let (wire, handed_in, mode) = (wire.id, crossing.handed_in, mode.mode);
                    let (resumed, place, epoch) = (resumes, nth, moment.epoch());
                    let arrival =
                        Arrival { wire, from_inside, handed_in, resumed, mode, at, epoch, place };
                    follower.parsed(&self.columns, arrival);
                }
                if let Some(sorter) = &mut self.sorter {
                    let (columns, received) = (&mut self.columns, &mut self.received);
                    if let Some(follower) = &mut follower {
                        let (handed_in, own) = (crossing.handed_in, sorter.worker());
                        follower.sorted(columns, received, own, |place| match place < handed_in {
                            true => own,
                            false => sorter.owner(columns, place, &received[place]),
                        });
                    }
                    crossing.hand_over(sorter, columns, received, |owner, taken| {
                        if let Some(follower) = &mut follower {
                            follower.handed_over(owner, taken);
                        }
                    });
                    if let Some(follower) = &mut follower {
                        follower.leave_handed_over();
                    }
                    if self.received.is_empty() {
                        continue;
                    }
                }
                if let Some(follower) = &mut follower {
                    follower.before_lookup(&mut self.judge, &self.columns, &moment);
                }
                self.judge.look_up(&mut self.columns, &moment);
                self.clock.passed(Stage::LookUp);
                self.judge.classify(&self.columns, &moment);
                self.clock.passed(Stage::Classify);
                if let Some(follower) = &mut follower {
                    follower.classified(&self.judge);
                }
                self.judge.decide(&mut self.columns, &self.received, &moment);
                let claims = self.judge.claims();
                if let (Some(tap), 1..) = (&mut self.tap, claims) {
                    tap.watch(&self.columns, &self.received, claims, (mode, from_inside), now_ns);
                }
                let fragments = self.judge.fragments_seen();
                if fragments != FragmentsSeen::default() && mode.mode == Mode::Enforce {
                    let early = if resumes { 0 } else { fragments.early };
                    let seen = FragmentsSeen { early, ..fragments };
                    let (columns, received) = (&mut self.columns, &mut self.received);
                    let at = (place, wire.group, now_ns);
                    if let Some(follower) = &mut follower {
                        follower.before_keeping(columns, seen.early);
                    }
                    let kept = crossing.keep_back(&mut self.waiting, seen, columns, received, at);
                    if let Some(follower) = &mut follower {
                        follower.kept_back(kept, self.columns.count);
                    }
                    if self.received.is_empty() {
                        continue;
                    }
                }
                self.clock.passed(Stage::Decide);
                crossing.check_length(&mut self.columns, mode.mode);
                let is_smooth = self.columns.is_smooth();
                if is_smooth {
                    add_all(&crossing.ingress_counters.forwarded, &self.columns);
                } else {
                    account(&self.columns, &crossing, snapshot, worker, mode.mode, at, |event| {
                        if !self.recorder.event(event) {
                            self.counters.events_lost.add(1);
                        }
                    });
                }
                if !is_smooth || self.columns.copied != 0 {
                    let (columns, received) = (&self.columns, &self.received);
                    self.judge.tell_frames(columns, received, wire.id, from_inside);
                }
                self.clock.passed(Stage::Account);
                if mode.mode == Mode::Enforce && !is_smooth {
                    crossing.answer(&self.columns, &self.received, &mut self.limiter, now_ns);
                }
                if let Some(follower) = &mut follower {
                    let link_up = crossing.egress_link.is_up();
                    let decision = Decision { columns: &self.columns, link_up };
                    follower.decided(&mut self.judge, &self.received, &decision, &moment);
                }
                if is_smooth && crossing.egress.held.is_empty() {
                    crossing.pass_all(&self.columns, &mut self.received);
                } else {
                    let (received, dropped) = (&mut self.received, &mut self.dropped);
                    crossing.sort(&self.columns, received, dropped, mode.mode);
                }
                let queue = TRACED.then(|| crossing.queued());
                crossing.flush(now_ns);
                if let (Some(follower), Some(before)) = (&mut follower, queue) {
                    let (now, reason) = (crossing.queued(), crossing.cannot_send());
                    follower.flushed(&self.columns, (before, now), reason);
                }
                is_fresh = is_timed;
                let took_ns = is_timed.then(|| {
                    let received_ns = std::mem::replace(&mut now_ns, self.clock.now_ns());
                    now_ns.saturating_sub(received_ns)
                });
                self.recorder.record_burst(self.columns.by_fate(is_smooth), took_ns);
                self.clock.passed(Stage::Transmit);
            }
        }
        if !self.waiting.is_empty() {
            self.give_up_waiting(now_ns);
        }
        self.judge.age(now_ns);
        self.judge.publish(&self.counters);
        self.counters.fragments.waited.set(self.waiting.waited);
        self.recorder.exchange(now_ns);
        self.counters.loops.add(1);
        self.was_busy = frames > 0;
        self.clock.passed(Stage::Loop);
        frames
    }

    /// Drops the fragments that waited long enough.
    fn give_up_waiting(&mut self, now_ns: u64) {
        while let Some((place, frame)) = self.waiting.expired(now_ns) {
            self.drop_waiting(place, frame, DropReason::FragmentOrphan);
        }
    }

    fn drop_waiting(&mut self, place: Place, frame: P::Frame, reason: DropReason) {
        let (nth, from_inside) = place;
        let (wire, counters) = (&mut self.wires[nth], &self.counters.wires[nth]);
        if let Some(follower) = self.tracer.as_mut().and_then(Tracer::follower) {
            if let Ok(parsed) = parse(frame.bytes(), wire.id) {
                follower.gave_up(&parsed, frame.bytes(), (wire.id, from_inside, reason));
            }
        }
        let (side, counters) = if from_inside {
            (&mut wire.inside, &counters.inside)
        } else {
            (&mut wire.outside, &counters.outside)
        };
        counters.dropped.of(reason).add_frame(frame.bytes().len());
        counters.waiting.set(self.waiting.count_from(place) as u64);
        self.dropped.push(frame);
        side.port.release(&mut self.dropped);
    }

    /// Polls until `stop` is set, then gives up what is still held.
    pub fn run(&mut self, stop: &AtomicBool, mode: PollMode) {
        let mut idle_loops = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            if self.poll() > 0 {
                idle_loops = 0;
                continue;
            }
            idle_loops = idle_loops.saturating_add(1);
            if mode == PollMode::Adaptive && idle_loops > IDLE_LOOPS_BEFORE_SLEEP {
                let doublings = ((idle_loops - IDLE_LOOPS_BEFORE_SLEEP) / 64).min(4);
                std::thread::sleep((SHORTEST_SLEEP * (1 << doublings)).min(LONGEST_SLEEP));
            } else {
                std::hint::spin_loop();
            }
        }
        // Peers stop about now, too: what they hand over until then is not to be lost uncounted.
        let begun = Instant::now();
        while !self.leave() && begun.elapsed() < LONGEST_LEAVE {
            std::thread::yield_now();
        }
        self.shut_down();
    }

    /// Hands nothing over any more, and drops what other workers have handed in. Returns whether none
    /// of them can hand in more.
    pub fn leave(&mut self) -> bool {
        let mut is_finished = true;
        for (wire, counters) in self.wires.iter_mut().zip(&self.counters.wires) {
            let sides =
                [(&mut wire.inside, &counters.inside), (&mut wire.outside, &counters.outside)];
            for (lane, (side, counters)) in wire.lanes.iter_mut().flatten().zip(sides) {
                lane.close();
                // Asked before: what came in meanwhile is taken the next time.
                let finished = lane.is_abandoned();
                loop {
                    lane.take(&mut self.received);
                    if self.received.is_empty() {
                        break;
                    }
                    add(&counters.handed_in, &self.received);
                    add(counters.dropped.of(DropReason::Shutdown), &self.received);
                    side.port.release(&mut self.received);
                }
                is_finished &= finished;
            }
        }
        is_finished
    }

    /// Sends what is held if the ports take it at once, drops and counts the rest, and gives the
    /// last histograms away. Other workers must have left before, if there are any.
    pub fn shut_down(&mut self) {
        self.leave();
        while let Some((place, frame)) = self.waiting.pop() {
            self.drop_waiting(place, frame, DropReason::Shutdown);
        }
        for (wire, counters) in self.wires.iter_mut().zip(&self.counters.wires) {
            for (side, counters) in
                [(&mut wire.inside, &counters.inside), (&mut wire.outside, &counters.outside)]
            {
                side.transmit(counters);
                side.drop_held(counters, DropReason::Shutdown);
            }
        }
        self.judge.stop();
        self.judge.publish(&self.counters);
        self.recorder.exchange_now();
    }

    /// The ports, once the worker has ended, in the order in which they were given.
    pub fn into_ports(self) -> Vec<WirePorts<P>> {
        (self.wires.into_iter())
            .map(|wire| WirePorts {
                wire: wire.id,
                group: wire.group,
                inside: wire.inside.port,
                outside: wire.outside.port,
            })
            .collect()
    }

    /// The ports of one of the worker's wires, by its place.
    pub fn ports_mut(&mut self, place: usize) -> Option<(&mut P, &mut P)> {
        self.wires.get_mut(place).map(|wire| (&mut wire.inside.port, &mut wire.outside.port))
    }

    /// What the worker did.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }
}

/// One direction of one wire.
struct Crossing<'a, P: Port> {
    from_inside: bool,
    ingress: &'a mut Side<P>,
    egress: &'a mut Side<P>,
    ingress_counters: &'a PortCounters,
    egress_counters: &'a PortCounters,
    egress_link: &'a LinkState,
    patience_ns: u64,
    /// Rings to and from the other workers of the wire, if there are any.
    lane: Option<&'a mut Lane<P::Frame>>,
    /// How many frames of the burst, from its front, came from these.
    handed_in: usize,
}

impl<P: Port> Crossing<'_, P> {
    /// Sends what the egress port holds. False where frames still wait: then nothing more may be
    /// received for it.
    fn flush(&mut self, now_ns: u64) -> bool {
        let (side, counters) = (&mut *self.egress, self.egress_counters);
        if side.held.is_empty() {
            return true;
        }
        if !self.egress_link.is_up() {
            side.drop_held(counters, DropReason::LinkDown);
            return true;
        }
        let held_before = side.held.len();
        side.transmit(counters);
        if side.held.len() < held_before {
            // A slow queue is not a stuck one: what moves is waited for.
            side.blocked_since_ns = None;
        }
        if side.held.is_empty() {
            return true;
        }
        let since_ns = *side.blocked_since_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since_ns) < self.patience_ns {
            return false;
        }
        side.drop_held(counters, DropReason::TransmitFull);
        true
    }

    /// The transmit queue of the egress port, now.
    #[inline(always)]
    fn queued(&self) -> Queued {
        let transmitted = self.egress_counters.transmitted.packets.value();
        Queued { held: self.egress.held.len(), transmitted }
    }

    /// Why what is held is given up, if it is.
    #[inline(always)]
    fn cannot_send(&self) -> DropReason {
        if self.egress_link.is_up() { DropReason::TransmitFull } else { DropReason::LinkDown }
    }

    /// Fills `burst` with what other workers have handed in and from the ingress port. False where
    /// nothing came.
    fn receive(&mut self, burst: &mut Burst<P::Frame>) -> bool {
        let counters = self.ingress_counters;
        if let Some(lane) = &mut self.lane {
            lane.take(burst);
            self.handed_in = burst.len();
            add(&counters.handed_in, burst);
        }
        self.ingress.port.receive(burst);
        let (discarded, bytes) = self.ingress.port.take_discarded();
        if discarded > 0 {
            counters.received.packets.add(discarded);
            counters.received.bytes.add(bytes);
            let dropped = counters.dropped.of(DropReason::Multisegment);
            dropped.packets.add(discarded);
            dropped.bytes.add(bytes);
        }
        add(&counters.received, &burst[self.handed_in..]);
        !burst.is_empty()
    }

    /// Fills `burst` with fragments whose first one has been judged since they came, or with `all`
    /// that wait. False where there are none.
    fn resume(
        &mut self,
        waiting: &mut Waiting<P::Frame>,
        place: Place,
        all: bool,
        burst: &mut Burst<P::Frame>,
    ) -> bool {
        if waiting.is_empty() {
            return false;
        }
        waiting.release(place, all, burst);
        self.ingress_counters.waiting.set(waiting.count_from(place) as u64);
        !burst.is_empty()
    }

    /// Keeps back the fragments of a judged burst that came before their first one, and remembers
    /// which first ones came. Returns the places of those that are kept.
    fn keep_back(
        &mut self,
        waiting: &mut Waiting<P::Frame>,
        seen: FragmentsSeen,
        columns: &mut Columns,
        burst: &mut Burst<P::Frame>,
        at: (Place, u16, u64),
    ) -> u64 {
        let (place, group, _) = at;
        // Asked before places shift.
        let first = |nth: usize| seen.first >> nth & 1 == 1;
        let mut came: Burst<FragmentKey> = Burst::new();
        for parsed in (0..columns.count).filter(|&nth| first(nth)).map(|nth| &columns.parsed[nth]) {
            came.extend(FragmentKey::of_parsed(parsed, group));
        }
        let kept = match seen.early {
            0 => 0,
            early => waiting.keep(early, columns, burst, at),
        };
        if !waiting.is_empty() {
            came.iter().for_each(|key| waiting.first_came(key));
            self.ingress_counters.waiting.set(waiting.count_from(place) as u64);
        }
        kept
    }

    /// Hands the frames that belong to other workers to these, and keeps the others. `taken` is told
    /// how many the ring to each had room for.
    #[inline(always)]
    fn hand_over(
        &mut self,
        sorter: &mut Sorter<P::Frame>,
        columns: &mut Columns,
        burst: &mut Burst<P::Frame>,
        mut taken: impl FnMut(usize, usize),
    ) {
        let Some(lane) = &mut self.lane else { return };
        if sorter.sort(columns, burst, self.handed_in) == 0 {
            return;
        }
        let counters = self.ingress_counters;
        for (owner, staged) in sorter.staged() {
            let (packets, bytes) = (staged.len(), total_bytes(staged));
            lane.send(owner, staged);
            taken(owner, packets - staged.len());
            counters.handed_out.packets.add((packets - staged.len()) as u64);
            counters.handed_out.bytes.add(bytes - total_bytes(staged));
            if !staged.is_empty() {
                add(counters.dropped.of(DropReason::HandoverFull), staged);
                self.ingress.port.release(staged);
            }
        }
    }

    /// A frame that the egress port cannot send is dropped, whatever was decided.
    fn check_length(&self, columns: &mut Columns, mode: Mode) {
        let longest = self.egress.port.max_frame_len();
        let most = columns.len[..columns.count].iter().fold(0, |most, &len| len.max(most));
        if most as usize <= longest {
            return;
        }
        for place in 0..columns.count {
            let sent = is_sent(columns.verdict[place], mode);
            if sent && columns.len[place] as usize > longest {
                columns.verdict[place] = Verdict::Drop(DropReason::FrameTooLong);
            }
        }
    }

    /// Originates the answers of reject rules towards the senders.
    fn answer(
        &mut self,
        columns: &Columns,
        burst: &Burst<P::Frame>,
        limiter: &mut RejectLimiter,
        now_ns: u64,
    ) {
        for (place, frame) in burst.iter().enumerate() {
            if columns.verdict[place] != Verdict::Reject {
                continue;
            }
            let Some(answer) = Answer::to(frame.bytes(), &columns.parsed[place]) else { continue };
            let port = &mut self.ingress.port;
            let length = answer.len();
            let moves = !self.ingress.held.is_full() && self.ingress.blocked_since_ns.is_none();
            let room = moves && length <= port.max_frame_len();
            let buffer = (room && limiter.admit(now_ns)).then(|| port.originate(length)).flatten();
            let Some(mut originated) = buffer else {
                self.ingress_counters.answers_suppressed.add(1);
                continue;
            };
            // The frame has the length that the answer asked for.
            let _ = answer.write(originated.bytes_mut());
            self.ingress_counters.originated.add_frame(length);
            self.ingress.held.push(originated);
            self.ingress.held_bytes += length as u64;
            self.ingress_counters.held.set(self.ingress.held.len() as u64);
        }
    }

    /// Makes the burst the egress port's queue, which is empty here.
    fn pass_all(&mut self, columns: &Columns, received: &mut Box<Burst<P::Frame>>) {
        for (place, frame) in received.iter_mut().enumerate() {
            frame.judged(&columns.parsed[place], Verdict::Forward, None);
        }
        std::mem::swap(&mut self.egress.held, received);
        self.egress.held_bytes = columns.bytes();
        self.egress_counters.held.set(self.egress.held.len() as u64);
    }

    /// Moves the frames to the egress port's queue, which is empty here, or gives their buffers back.
    fn sort(
        &mut self,
        columns: &Columns,
        received: &mut Burst<P::Frame>,
        dropped: &mut Burst<P::Frame>,
        mode: Mode,
    ) {
        for (place, mut frame) in received.drain(..).enumerate() {
            let verdict = columns.verdict[place];
            frame.judged(&columns.parsed[place], verdict, columns.decided_by[place]);
            // The queue was flushed before the burst was received; a full one would fail closed.
            if is_sent(verdict, mode) && !self.egress.held.is_full() {
                self.egress.held_bytes += frame.bytes().len() as u64;
                self.egress.held.push(frame);
            } else {
                if is_sent(verdict, mode) {
                    let dropped = self.egress_counters.dropped.of(DropReason::TransmitFull);
                    dropped.add_frame(frame.bytes().len());
                }
                dropped.push(frame);
            }
        }
        self.egress_counters.held.set(self.egress.held.len() as u64);
        self.ingress.port.release(dropped);
    }
}

impl<P: Port> Side<P> {
    fn transmit(&mut self, counters: &PortCounters) {
        let packets = self.held.len();
        debug_assert_eq!(self.held_bytes, total_bytes(&self.held));
        if packets > 0 {
            self.port.transmit(&mut self.held);
            let left = total_bytes(&self.held);
            counters.transmitted.packets.add((packets - self.held.len()) as u64);
            counters.transmitted.bytes.add(self.held_bytes - left);
            counters.held.set(self.held.len() as u64);
            self.held_bytes = left;
        }
    }

    fn drop_held(&mut self, counters: &PortCounters, reason: DropReason) {
        let dropped = counters.dropped.of(reason);
        dropped.packets.add(self.held.len() as u64);
        dropped.bytes.add(self.held_bytes);
        self.port.release(&mut self.held);
        self.held_bytes = 0;
        self.blocked_since_ns = None;
        counters.held.set(0);
    }
}

/// Counts every frame of a burst under what was decided. What is counted as forwarded here may yet be
/// dropped on transmission, which counts it again, on the port that could not send.
fn account<P: Port>(
    columns: &Columns,
    crossing: &Crossing<'_, P>,
    snapshot: &Snapshot,
    worker: usize,
    mode: Mode,
    at: PolicyTime,
    mut event: impl FnMut(VerdictEvent),
) {
    let counters = crossing.ingress_counters;
    for place in 0..columns.count {
        let (verdict, len) = (columns.verdict[place], columns.len[place] as usize);
        if let Some(rule) = columns.decided_by[place] {
            let hits = snapshot.hits(worker, rule);
            if mode == Mode::Enforce { &hits.enforced } else { &hits.observed }.add(1);
            if snapshot.is_logged(rule) {
                event(VerdictEvent {
                    unix_ms: at.unix_ms,
                    headers: columns.parsed[place].headers,
                    from_inside: crossing.from_inside,
                    rule,
                    epoch: snapshot.first_epoch(),
                    verdict,
                    enforced: mode == Mode::Enforce,
                    frame_len: columns.len[place],
                });
            }
        }
        if is_sent(verdict, mode) {
            counters.forwarded.add_frame(len);
        }
        let reason = match verdict {
            Verdict::Forward => continue,
            Verdict::Drop(reason) => reason,
            Verdict::Reject => {
                counters.rejected.add_frame(len);
                DropReason::Policy
            }
        };
        let sink = if is_sent(verdict, mode) { &counters.would_drop } else { &counters.dropped };
        sink.of(reason).add_frame(len);
    }
}

/// Whether a frame with this verdict leaves by the other port. An observing wire forwards everything
/// but what is no frame at all, what no port could send, what is in quarantine, and PAUSE, which belongs
/// to one link.
pub(crate) fn is_sent(verdict: Verdict, mode: Mode) -> bool {
    use DropReason::{EthernetTooShort, FrameTooLong, Pause, Quarantine};
    match (verdict, mode) {
        (Verdict::Forward, _) => true,
        (Verdict::Drop(EthernetTooShort | FrameTooLong | Pause | Quarantine), Mode::Observe) => {
            false
        }
        (_, Mode::Observe) => true,
        (_, Mode::Enforce) => false,
    }
}

fn add_all(volume: &Volume, columns: &Columns) {
    volume.packets.add(columns.count as u64);
    volume.bytes.add(columns.bytes());
}

fn add<F: Frame>(volume: &Volume, frames: &[F]) {
    volume.packets.add(frames.len() as u64);
    volume.bytes.add(total_bytes(frames));
}

fn total_bytes<F: Frame>(burst: &[F]) -> u64 {
    burst.iter().map(|frame| frame.bytes().len() as u64).sum()
}
