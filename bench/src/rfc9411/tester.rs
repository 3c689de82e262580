//! Clients and servers of many connections, on one thread beside the gateway's.

use std::collections::VecDeque;
use std::time::Duration;

use bulkhead_pipeline::port::{Burst, Frame, MAX_BURST, Port};
use bulkhead_pipeline::verdict::DropReason;
use hdrhistogram::Histogram;

use super::connection::{Connection, Event, Phase};
use crate::rfc::disturbance;
use crate::rfc::pace::Pace;
use crate::rfc::report::latency_histogram;
use crate::rfc::rig::Rig;
use crate::rfc::segment::{Client, Segment};
use crate::tsc;

/// Hosts that connections come from: no host needs more than a gateway allows each by default.
const HOSTS: u64 = 1024;

/// The first port of a client's, and how many it has.
const FIRST_PORT: u16 = 1024;
const PORTS: u64 = 64_512;

/// Connections until one has the addresses and ports of another: a multiple of every power of two up
/// to the most places that there are.
const PERIOD: u64 = HOSTS * PORTS;

/// A connection that makes no progress for so long, in seconds, has lost a frame.
pub(super) const PATIENCE_SECONDS: f64 = 2.0;

/// Connections opened in one turn, and places looked at for those that make no progress.
const STRIDE: usize = 16;

/// What is asked of the gateway.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Load<'a> {
    /// Connections a second; an infinite rate opens one as soon as another is over.
    pub(super) rate: f64,
    /// Connections at once, at most: a power of two.
    pub(super) at_once: usize,
    /// Objects that a connection asks for, one after the other.
    pub(super) transactions: u16,
    /// Bytes of each, in turns.
    pub(super) objects: &'a [u32],
}

/// What came of a load.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Seconds in which the load was held.
    pub(super) seconds: f64,
    /// In that time: connections that were opened, used and closed,
    pub(super) connections: u64,
    /// objects that came whole,
    pub(super) transactions: u64,
    /// and their bytes.
    pub(super) bytes: u64,
    /// Connections that were attempted, and those that lost a frame, to the end.
    pub(super) attempted: u64,
    pub(super) failed: u64,
    /// Nanoseconds in which the worker had frames to judge.
    pub(super) busy_ns: u64,
    /// Nanoseconds for which the machine kept one of the two threads from its processor.
    pub(super) waited_ns: u64,
    /// From when a connection was due until the first byte of its first object.
    pub(super) first_byte_ns: Histogram<u64>,
    /// The same until its last.
    pub(super) last_byte_ns: Histogram<u64>,
}

impl Outcome {
    pub(super) fn connections_per_second(&self) -> f64 {
        self.connections as f64 / self.seconds
    }

    pub(super) fn is_disturbed(&self) -> bool {
        disturbance::is_disturbed(self.waited_ns)
    }
}

/// What came of holding connections.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// What the table has room for.
    pub(super) capacity: u64,
    /// Connections that were open at once: each carried an object after the last one had opened.
    pub(super) open: u64,
    /// How many were open when the first one was refused, if any was.
    pub(super) first_refused_at: Option<u64>,
    /// Whether more could have been opened, had there been time.
    pub(super) ended_by_time: bool,
    /// Opened a second.
    pub(super) opened_per_second: f64,
    /// Connections that made room for others before the gateway had seen their handshake's end.
    pub(super) evicted_half_open: u64,
    /// From a request until the first byte, with all of them open.
    pub(super) first_byte_ns: Histogram<u64>,
    pub(super) waited_ns: u64,
}

/// A connection's place.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    connection: Connection,
    /// Which connection of the test.
    number: u64,
    /// When it, or its request, was due, and when something came last, in ticks.
    due: u64,
    progress: u64,
    left: u16,
    is_first: bool,
}

/// See the module's description.
pub(super) struct Tester<P: Port> {
    rig: Rig<P>,
    hertz: f64,
    places: Vec<Place>,
    /// The next connection's number: none is used twice, before [`PERIOD`] others were.
    next: u64,
    /// Segments to be sent, by port: clients are inside.
    queued: [VecDeque<Segment>; 2],
    /// Frames of these that the port had no room for.
    leaving: [Burst<P::Frame>; 2],
    arrived: Burst<P::Frame>,
    answers: Vec<Segment>,
    /// Frames that came, by their length: their payload is zeros.
    spare: Vec<(usize, Vec<P::Frame>)>,
    /// Where the search for connections without progress goes on.
    hand: usize,
}

impl<P: Port + Send + 'static> Tester<P> {
    pub(super) fn new(rig: Rig<P>) -> Self {
        Self {
            rig,
            hertz: tsc::hertz(),
            places: Vec::new(),
            next: 0,
            queued: Default::default(),
            leaving: [Burst::new(), Burst::new()],
            arrived: Burst::new(),
            answers: Vec::new(),
            spare: Vec::new(),
            hand: 0,
        }
    }

    /// What the gateway dropped so far, by reason and port.
    pub(super) fn drops(&self) -> Vec<(DropReason, u64)> {
        self.rig.drops().collect()
    }

    /// Holds a load for so many seconds, after a tenth of that which does not count.
    pub(super) fn run(&mut self, load: &Load<'_>, seconds: f64) -> Outcome {
        self.places = vec![Place::default(); load.at_once];
        let mut outcome = Outcome {
            seconds,
            connections: 0,
            transactions: 0,
            bytes: 0,
            attempted: 0,
            failed: 0,
            busy_ns: 0,
            waited_ns: 0,
            first_byte_ns: latency_histogram(),
            last_byte_ns: latency_histogram(),
        };
        let waited = self.rig.watch().waited();
        let ticks = |seconds: f64| (seconds * self.hertz) as u64;
        let began = tsc::now();
        let counted_from = began + ticks(seconds / 10.0);
        let ends = counted_from + ticks(seconds);
        let pace = Pace::new(began, load.rate, self.hertz);
        let (first, mut open) = (self.next, 0_u64);
        let (mut busy_from, mut busy_until) = (None, None);
        loop {
            let now = tsc::now();
            if now >= counted_from && busy_from.is_none() {
                busy_from = Some(self.rig.busy_ns());
            }
            let is_over = now >= ends;
            if is_over {
                busy_until = busy_until.or_else(|| Some(self.rig.busy_ns()));
                if open == 0 {
                    break;
                }
            } else {
                let due = pace.due(now, u64::MAX);
                for _ in 0..STRIDE {
                    let nth = self.next - first;
                    let at = (self.next % load.at_once as u64) as usize;
                    if nth >= due || self.places[at].connection.phase != Phase::Free {
                        break;
                    }
                    let due = if load.rate.is_finite() { pace.at(nth) } else { now };
                    self.open(at, due, now, load.transactions);
                    open += 1;
                }
            }
            let counts = now >= counted_from && !is_over;
            self.exchange(|place, client, event, now, out| {
                let (is_first, is_complete) = match event {
                    Event::First { complete } => (true, complete),
                    Event::Complete => (false, true),
                    _ => (false, false),
                };
                let object = load.objects[place.number as usize % load.objects.len()];
                let since = |place: &Place| now.saturating_sub(place.due);
                if place.is_first && counts && is_first {
                    outcome.first_byte_ns.saturating_record(since(place));
                }
                if is_complete && counts {
                    if place.is_first {
                        outcome.last_byte_ns.saturating_record(since(place));
                    }
                    outcome.transactions += 1;
                    outcome.bytes += u64::from(object);
                }
                match event {
                    Event::Opened => place.connection.request(client, object, out),
                    _ if is_complete && place.left > 1 => {
                        (place.left, place.is_first) = (place.left - 1, false);
                        place.connection.request(client, object, out);
                    }
                    _ if is_complete => place.connection.close(client, out),
                    Event::Closed => {
                        open -= 1;
                        outcome.connections += u64::from(counts);
                    }
                    _ => {}
                }
            });
            let lost = self.give_up(now);
            outcome.failed += lost;
            open -= lost;
        }
        let in_ns = |ticks: Histogram<u64>| scaled(&ticks, 1e9 / self.hertz);
        outcome.first_byte_ns = in_ns(outcome.first_byte_ns);
        outcome.last_byte_ns = in_ns(outcome.last_byte_ns);
        outcome.attempted = self.next - first;
        outcome.busy_ns = busy_until.unwrap_or(0).saturating_sub(busy_from.unwrap_or(0));
        outcome.waited_ns = self.rig.watch().waited().ns_since(waited);
        outcome
    }

    /// Opens connections until the table holds no more or `time` is over, lets each carry an object, and
    /// closes them.
    pub(super) fn hold(&mut self, capacity: u32, time: Duration) -> Held {
        /// Connections that are opened, used or closed at once.
        const BUSY: u64 = 256;
        /// Refusals after which the table counts as full.
        const REFUSALS: u64 = 64;
        const OBJECT: u32 = 1024;

        self.places = vec![Place::default(); capacity as usize];
        // Numbers and places go together.
        self.next = self.next.next_multiple_of(u64::from(capacity));
        let (first, waited) = (self.next, self.rig.watch().waited());
        let (began, mut ended) = (tsc::now(), None);
        let longest = (time.as_secs_f64() * self.hertz) as u64;
        let mut held = Held {
            capacity: self.rig.flows().1,
            open: 0,
            first_refused_at: None,
            ended_by_time: false,
            opened_per_second: 0.0,
            evicted_half_open: 0,
            first_byte_ns: latency_histogram(),
            waited_ns: 0,
        };
        let (mut busy, mut refused) = (0, 0);
        loop {
            let now = tsc::now();
            let attempted = self.next - first;
            let is_late = now - began > longest;
            let more = attempted < u64::from(capacity) && refused < REFUSALS && !is_late;
            held.ended_by_time |= is_late && attempted < u64::from(capacity);
            if !more && busy == 0 {
                break;
            }
            for _ in 0..STRIDE {
                let attempted = self.next - first;
                if !more || busy == BUSY || attempted == u64::from(capacity) {
                    break;
                }
                self.open(attempted as usize, now, now, 1);
                busy += 1;
            }
            self.exchange(|_, _, event, now, _| {
                if event == Event::Opened {
                    (held.open, busy, ended) = (held.open + 1, busy - 1, Some(now));
                }
            });
            let lost = self.give_up(now);
            if lost > 0 {
                held.first_refused_at.get_or_insert(held.open);
            }
            (busy, refused) = (busy - lost, refused + lost);
        }
        held.opened_per_second = held.open as f64 * self.hertz
            / ended.map_or(1.0, |ended| ended.saturating_sub(began).max(1) as f64);
        let used = self.each_open(BUSY, |tester, at, now| {
            let place = &mut tester.places[at];
            (place.due, place.progress) = (now, now);
            place.connection.request(client_of(place.number), OBJECT, &mut tester.answers);
            tester.queue_answers();
        });
        held.evicted_half_open = held.open - used.count;
        held.open = used.count;
        held.first_byte_ns = scaled(&used.first_byte_ticks, 1e9 / self.hertz);
        self.each_open(BUSY, |tester, at, now| {
            let place = &mut tester.places[at];
            place.progress = now;
            place.connection.close(client_of(place.number), &mut tester.answers);
            tester.queue_answers();
        });
        held.waited_ns = self.rig.watch().waited().ns_since(waited);
        held
    }

    /// Does something to each connection that is open and idle, to so many at once, and waits until all
    /// of them have got what they asked for.
    fn each_open(&mut self, most: u64, mut act: impl FnMut(&mut Self, usize, u64)) -> Used {
        let mut used = Used { count: 0, first_byte_ticks: latency_histogram() };
        let (mut at, mut busy) = (0, 0);
        while at < self.places.len() || busy > 0 {
            let now = tsc::now();
            for _ in 0..STRIDE {
                if at == self.places.len() || busy == most {
                    break;
                }
                if self.places[at].connection.phase == Phase::Idle {
                    act(self, at, now);
                    busy += 1;
                }
                at += 1;
            }
            self.exchange(|place, _, event, now, _| {
                if let Event::First { .. } = event {
                    used.first_byte_ticks.saturating_record(now.saturating_sub(place.due));
                }
                if matches!(
                    event,
                    Event::Complete | Event::First { complete: true } | Event::Closed
                ) {
                    (used.count, busy) = (used.count + 1, busy - 1);
                }
            });
            busy -= self.give_up(now);
        }
        used
    }

    /// Opens the next connection in a free place.
    fn open(&mut self, at: usize, due: u64, now: u64, transactions: u16) {
        let number = self.next;
        self.next += 1;
        let connection = Connection::open(client_of(number), &mut self.answers);
        self.places[at] =
            Place { connection, number, due, progress: now, left: transactions, is_first: true };
        self.queue_answers();
    }

    /// Takes what has come on both sides, answers it, tells `at_client` what it brought about, and sends
    /// what the ports take.
    fn exchange(
        &mut self,
        mut at_client: impl FnMut(&mut Place, Client, Event, u64, &mut Vec<Segment>),
    ) {
        for side in 0..2 {
            self.rig.ports[side].receive(&mut self.arrived);
            let now = tsc::now();
            while let Some(frame) = self.arrived.pop_at(0) {
                let got = Segment::read(frame.bytes());
                self.keep(frame);
                let Some(segment) = got else { continue };
                let number = number_of(segment.client);
                let at = (number % self.places.len() as u64) as usize;
                let place = &mut self.places[at];
                if place.number % PERIOD != number || segment.from_client == (side == 0) {
                    // Of a connection that was given up.
                    continue;
                }
                place.progress = now;
                if segment.from_client {
                    place.connection.at_server(&segment, &mut self.answers);
                } else {
                    let event = place.connection.at_client(&segment, &mut self.answers);
                    at_client(place, segment.client, event, now, &mut self.answers);
                }
            }
        }
        self.queue_answers();
        self.send();
    }

    fn queue_answers(&mut self) {
        for segment in self.answers.drain(..) {
            self.queued[usize::from(!segment.from_client)].push_back(segment);
        }
    }

    fn send(&mut self) {
        for side in 0..2 {
            loop {
                let has_frames = self.write_burst(side);
                self.rig.ports[side].transmit(&mut self.leaving[side]);
                let is_full = !self.leaving[side].is_empty();
                if is_full || !has_frames || self.queued[side].is_empty() {
                    break;
                }
            }
        }
    }

    /// Writes frames for the segments that come next. False where all buffers are under way: they come
    /// back.
    fn write_burst(&mut self, side: usize) -> bool {
        while self.leaving[side].len() < MAX_BURST {
            let Some(segment) = self.queued[side].front() else { break };
            let len = segment.frame_len();
            let spare = self.spare.iter_mut().find(|(of, _)| *of == len);
            let frame = spare
                .and_then(|(_, frames)| frames.pop())
                .or_else(|| self.rig.ports[side].originate(len));
            let Some(mut frame) = frame else { return false };
            segment.write(frame.bytes_mut());
            self.leaving[side].push(frame);
            self.queued[side].pop_front();
        }
        true
    }

    /// Keeps a frame for the next segment of its length.
    fn keep(&mut self, frame: P::Frame) {
        let len = frame.bytes().len();
        match self.spare.iter_mut().find(|(of, _)| *of == len) {
            Some((_, frames)) => frames.push(frame),
            None => self.spare.push((len, vec![frame])),
        }
    }

    /// Frees some places whose connections have made no progress for long. Returns how many.
    fn give_up(&mut self, now: u64) -> u64 {
        let patience = (PATIENCE_SECONDS * self.hertz) as u64;
        let mut count = 0;
        for _ in 0..STRIDE.min(self.places.len()) {
            self.hand = (self.hand + 1) % self.places.len();
            let place = &mut self.places[self.hand];
            let waits = !matches!(place.connection.phase, Phase::Free | Phase::Idle);
            if waits && now.saturating_sub(place.progress) > patience {
                place.connection.phase = Phase::Free;
                count += 1;
            }
        }
        count
    }
}

struct Used {
    count: u64,
    first_byte_ticks: Histogram<u64>,
}

/// Who opens a connection.
fn client_of(number: u64) -> Client {
    let number = number % PERIOD;
    Client { host: (number % HOSTS) as u16, port: FIRST_PORT + (number / HOSTS) as u16 }
}

/// Which connection it was, of a period.
fn number_of(client: Client) -> u64 {
    u64::from(client.port.wrapping_sub(FIRST_PORT)) * HOSTS + u64::from(client.host)
}

/// A histogram whose values are so many times those of another.
fn scaled(histogram: &Histogram<u64>, factor: f64) -> Histogram<u64> {
    let mut out = latency_histogram();
    for step in histogram.iter_recorded() {
        let value = (step.value_iterated_to() as f64 * factor) as u64;
        // Automatic resizing is off: a value over the bound counts as the bound.
        let _ = out.record_n(value.clamp(1, out.high()), step.count_at_value());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_tells_its_connection() {
        for number in [0, 1, HOSTS - 1, HOSTS, 12_345_678, PERIOD - 1] {
            assert_eq!(number_of(client_of(number)), number);
        }
        assert_eq!(client_of(PERIOD + 7), client_of(7));
        assert_eq!(client_of(PERIOD - 1).port, u16::MAX);
        assert_eq!(PERIOD % (1 << 20), 0);
    }

    #[test]
    fn scaling_keeps_counts() {
        let mut ticks = latency_histogram();
        ticks.saturating_record_n(26_000, 5);
        let ns = scaled(&ticks, 1.0 / 2.6);
        assert_eq!(ns.len(), 5);
        assert!((ns.mean() - 10_000.0).abs() < 20.0, "{}", ns.mean());
    }
}
