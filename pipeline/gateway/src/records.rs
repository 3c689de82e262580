//! Flow records from the workers' rings to those who keep them: one thread empties the rings, puts
//! names to numbers, and serves the socket on which [`crate::flow_stream`] is spoken.
//!
//! Readers share one bounded log. A slow reader falls behind, loses the log's oldest part and is told
//! how much; the workers notice nothing of any of it. While nobody reads, the log keeps what there is
//! room for, so that a reader that starts again misses little: a new one goes on where the last one
//! that left was.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bulkhead_pipeline::record::{self, CopyKind, Decided, FlowRecord, FrameCopy};
use bulkhead_pipeline::snapshot::staged::Staged as StagedPolicy;
use bulkhead_pipeline::verdict::{DropReason, Verdict};
use bulkhead_rules::classifier::Scratch;
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::policy::RuleId;
use tracing::info;

use crate::control::{self, SocketFile};
use crate::flow_stream::{
    End, Event, Flow, Frame, FrameKind, Hello, Lost, MacAddress, Message, Reached, Side, Staged,
    VERSION,
};
use crate::state::{Gateway, PolicyState};

mod log;
mod stream;

use self::log::Log;
use self::stream::Stream;

/// How often the rings are emptied while nobody waits for more than came.
const TURN: Duration = Duration::from_millis(10);

/// How long the thread rests while readers have yet to take what there is.
const SHORT_TURN: Duration = Duration::from_millis(1);

/// Records of one worker that are taken at once.
const BATCH: usize = 256;

/// Copies of frames of either length, likewise.
const COPIES: usize = 64;

/// How long the rings may take to be empty when the gateway stops, and then readers for what there is.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the thread tells everybody else, for metrics.
#[derive(Debug, Default)]
pub struct RecordStats {
    /// Readers, now.
    pub readers: AtomicU64,
    /// Readers that were turned away because there were as many as there may be.
    pub readers_refused: AtomicU64,
    /// Bytes of the log, now.
    pub log_bytes: AtomicU64,
    /// Flow records that readers lost because they were slow, over all of them.
    pub flows_lost: AtomicU64,
    /// Copies of frames, likewise.
    pub frames_lost: AtomicU64,
    /// Set at the end: what is in the rings then is the last, though workers may judge on for another gateway.
    finish: AtomicBool,
}

/// The running thread.
pub struct RecordThread {
    /// What it returns is what readers were told that the workers have lost.
    thread: JoinHandle<Lost>,
    _socket: Option<SocketFile>,
}

/// Opens the socket and starts the thread.
///
/// # Errors
///
/// What stands in the way, and the remedy.
pub fn start(gateway: &Arc<Gateway>) -> Result<RecordThread, String> {
    let path = gateway.config.records.socket.clone();
    let group = gateway.config.records.group.clone();
    let listener =
        path.as_deref().map(|path| control::bind_records(path, group.as_deref())).transpose()?;
    if let Some(path) = &path {
        info!(socket = %path.display(), "the socket of flow records is open");
    }
    let gateway = gateway.clone();
    let body = move || {
        let config = &gateway.config;
        let hello = Hello {
            version: VERSION,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            wires: config.wires.iter().map(|wire| wire.name.clone()).collect(),
            at: Reached { run: random_number(), before: Lost::default() },
        };
        gateway.lower_powers();
        let log = Log::new(config.records.log_bytes);
        Drain {
            gateway: &gateway,
            stream: Stream::new(listener, hello),
            log,
            lost: Lost::default(),
            batch: Vec::with_capacity(BATCH),
            message: Message::Flow(Box::new(blank())),
            scratch: Scratch::default(),
        }
        .run()
    };
    let thread = thread::Builder::new().name("records".to_owned()).spawn(body);
    let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(RecordThread { thread, _socket: path.map(SocketFile) })
}

impl RecordThread {
    /// Has the thread hand the rest over, and waits a moment for that. Returns what readers were told that the workers
    /// have lost: for [`unread`], where these judge on.
    pub fn finish(self, gateway: &Gateway) -> Lost {
        gateway.records.finish.store(true, Relaxed);
        let begun = Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < 3 * LAST_WORDS {
            thread::sleep(Duration::from_millis(1));
        }
        match self.thread.is_finished() {
            true => self.thread.join().unwrap_or_else(|_| lost(gateway)),
            false => lost(gateway),
        }
    }
}

/// What the workers have lost so far for want of room in their rings.
fn lost(gateway: &Gateway) -> Lost {
    let mut lost = Lost::default();
    for worker in gateway.workers() {
        let source = worker.records();
        lost.flows += source.counters().lost_in_all();
        lost.frames += source.copy_counters().lost.value();
    }
    lost
}

/// What nobody reads any more, as this thread has ended: what the workers have lost since readers were `told` of that
/// last, and what is in their rings.
pub fn unread(gateway: &Gateway, told: Lost) -> Lost {
    let now = lost(gateway);
    let mut unread = Lost {
        flows: now.flows.saturating_sub(told.flows),
        frames: now.frames.saturating_sub(told.frames),
    };
    for worker in gateway.workers() {
        let (flows, frames) = worker.records().waiting();
        unread.flows += flows as u64;
        unread.frames += frames as u64;
    }
    unread
}

/// A number that no other run of a gateway has.
fn random_number() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// What the thread has.
struct Drain<'a> {
    gateway: &'a Gateway,
    stream: Stream,
    log: Log,
    /// What the workers have lost so far and readers were told of.
    lost: Lost,
    batch: Vec<FlowRecord>,
    /// The message that is written next: its strings are used again.
    message: Message,
    /// What the staged policy is asked with.
    scratch: Scratch,
}

impl Drain<'_> {
    fn run(&mut self) -> Lost {
        let mut ends: Option<Instant> = None;
        loop {
            if ends.is_none() && self.gateway.records.finish.load(Relaxed) {
                ends = Some(Instant::now() + LAST_WORDS);
            }
            let took_all = self.turn();
            let is_behind = self.stream.serve(&mut self.log, &self.gateway.records);
            // Workers that judge on may tell faster than all is taken.
            if ends.is_some_and(|ends| took_all || Instant::now() >= ends) {
                self.leave();
                return self.lost;
            }
            match (took_all, is_behind) {
                (false, _) => {}
                (true, true) => thread::sleep(SHORT_TURN),
                (true, false) => thread::sleep(TURN),
            }
        }
    }

    /// Gives readers a moment to take the rest.
    fn leave(&mut self) {
        let begun = Instant::now();
        while self.stream.serve(&mut self.log, &self.gateway.records)
            && begun.elapsed() < LAST_WORDS
        {
            thread::sleep(SHORT_TURN);
        }
    }

    /// Moves some of what is in the rings into the log. Returns whether that was all.
    fn turn(&mut self) -> bool {
        let mut took_all = true;
        for worker in self.gateway.workers() {
            self.batch.clear();
            let mut source = worker.records();
            self.batch.extend(std::iter::from_fn(|| source.flow()).take(BATCH));
            let short: Vec<_> = std::iter::from_fn(|| source.short_copy()).take(COPIES).collect();
            let long: Vec<_> = std::iter::from_fn(|| source.long_copy()).take(COPIES).collect();
            drop(source);
            took_all &= self.batch.len() < BATCH && short.len() < COPIES && long.len() < COPIES;
            if !self.batch.is_empty() {
                let (mut talkers, now) = (self.gateway.talkers(), Instant::now());
                self.batch.iter().for_each(|record| talkers.take(record, now));
            }
            let at = self.gateway.now();
            let state = self.gateway.policy();
            let publisher = state.publisher.as_ref();
            let staged = publisher.and_then(|publisher| publisher.current().staged());
            for record in &self.batch {
                if let Message::Flow(flow) = &mut self.message {
                    write_flow(flow, record, &state, self.gateway);
                    flow.staged =
                        staged.map(|staged| word_of(staged, record, at, &mut self.scratch));
                }
                self.log.append(&self.message);
            }
            for copy in &short {
                self.log.append(&frame(copy, &state, self.gateway));
            }
            for copy in &long {
                self.log.append(&frame(copy, &state, self.gateway));
            }
        }
        self.tell_lost();
        self.log.close_chunk();
        took_all
    }

    /// Tells what the workers have lost since the last time.
    fn tell_lost(&mut self) {
        let lost = lost(self.gateway);
        let flows = lost.flows.saturating_sub(self.lost.flows);
        let frames = lost.frames.saturating_sub(self.lost.frames);
        if flows > 0 || frames > 0 {
            self.lost = lost;
            self.log.append(&Message::Lost(Lost { flows, frames }));
        }
    }
}

/// Says in names what a worker said in numbers.
fn write_flow(flow: &mut Flow, record: &FlowRecord, state: &PolicyState, gateway: &Gateway) {
    let wire = gateway.config.wires.get(usize::from(record.headers.wire.0));
    replace(&mut flow.wire, wire.map_or("", |wire| wire.name.as_str()));
    write_numbers(flow, record);
    write_rule(&mut flow.rule, record.rule, record.epoch, state);
}

/// What a worker said, on this wire, where no gateway runs.
pub(crate) fn flow_of(record: &FlowRecord, wire: &str, rule: &str) -> Flow {
    let mut flow = Flow { wire: wire.to_owned(), rule: rule.to_owned(), ..blank() };
    write_numbers(&mut flow, record);
    flow
}

/// Everything but names.
fn write_numbers(flow: &mut Flow, record: &FlowRecord) {
    let headers = &record.headers;
    let [client_packets, server_packets] = record.packets;
    let [client_bytes, server_bytes] = record.bytes;
    flow.event = event(record.event);
    flow.first_ms = record.first_ms;
    flow.last_ms = record.last_ms;
    flow.client_side = side(record.client_inside);
    flow.vlan = [headers.tags.outer, headers.tags.inner];
    flow.ether_type = headers.ether_type;
    flow.protocol = headers.protocol;
    (flow.client, flow.server) = addresses(headers);
    (flow.client_port, flow.server_port) = (headers.src_port, headers.dst_port);
    flow.client_mac = MacAddress(headers.src_mac);
    flow.server_mac = MacAddress(headers.dst_mac);
    flow.opening_seen = record.opening_seen;
    flow.answered = record.answered;
    (flow.client_packets, flow.server_packets) = (client_packets, server_packets);
    (flow.client_bytes, flow.server_bytes) = (client_bytes, server_bytes);
    flow.end = record.ending.map(end);
    flow.allowed = record.verdict == Verdict::Forward;
    flow.reason = reason(record.verdict);
    flow.epoch = record.epoch;
    flow.enforced = record.enforced;
}

/// What the staged policy says of a flow. Where its beginning was not seen, nobody knows which end
/// opened it: either will do.
fn word_of(
    staged: &StagedPolicy,
    record: &FlowRecord,
    at: PolicyTime,
    scratch: &mut Scratch,
) -> Staged {
    let mut word = staged.ask(&record.headers, at, scratch);
    if !word.permitted && !record.opening_seen {
        let other = staged.ask(&record.headers.reversed(), at, scratch);
        word = if other.permitted { other } else { word };
    }
    let rule = staged.content.policy.rule_name(word.rule).to_owned();
    Staged { allowed: word.permitted, rule }
}

fn frame<const BYTES: usize>(
    copy: &FrameCopy<BYTES>,
    state: &PolicyState,
    gateway: &Gateway,
) -> Message {
    let Decided { unix_ms, wire, from_inside, verdict, rule, epoch } = copy.about;
    let wire = gateway.config.wires.get(usize::from(wire.0));
    let mut name = String::new();
    write_rule(&mut name, rule, epoch, state);
    Message::Frame(Box::new(Frame {
        kind: match copy.kind {
            CopyKind::Denied => FrameKind::Denied,
            CopyKind::FirstPayload => FrameKind::FirstPayload,
            CopyKind::Announcement => FrameKind::Announcement,
        },
        unix_ms,
        wire: wire.map_or_else(String::new, |wire| wire.name.clone()),
        from: side(from_inside),
        rule: rule.map(|_| name),
        reason: reason(verdict),
        len: copy.len,
        bytes: copy.bytes().to_vec(),
    }))
}

/// The name of a rule in the policy that decided; nothing where no rule did.
fn write_rule(out: &mut String, rule: Option<RuleId>, epoch: u64, state: &PolicyState) {
    out.clear();
    let Some(rule) = rule else { return };
    match state.publisher.as_ref().and_then(|publisher| publisher.rule_name(rule, epoch)) {
        Some(name) => out.push_str(name),
        None => out.push_str(&format!("rule {} of an earlier policy", rule.0)),
    }
}

fn replace(out: &mut String, text: &str) {
    out.clear();
    out.push_str(text);
}

fn reason(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Forward => None,
        Verdict::Reject => Some(DropReason::Policy.label().to_owned()),
        Verdict::Drop(reason) => Some(reason.label().to_owned()),
    }
}

fn addresses(headers: &Headers) -> (Option<std::net::IpAddr>, Option<std::net::IpAddr>) {
    let address = |bits: u128| match headers.ether_type {
        bulkhead_rules::headers::ETHER_IPV4 => Some(std::net::Ipv4Addr::from(bits as u32).into()),
        bulkhead_rules::headers::ETHER_IPV6 => Some(std::net::Ipv6Addr::from(bits).into()),
        _ => None,
    };
    (address(headers.src), address(headers.dst))
}

fn side(inside: bool) -> Side {
    if inside { Side::Inside } else { Side::Outside }
}

fn event(event: record::Event) -> Event {
    match event {
        record::Event::Started => Event::Started,
        record::Event::Continues => Event::Continues,
        record::Event::Ended => Event::Ended,
        record::Event::Denied => Event::Denied,
    }
}

fn end(ending: record::Ending) -> End {
    match ending {
        record::Ending::Closed => End::Closed,
        record::Ending::Reset => End::Reset,
        record::Ending::Idle => End::Idle,
        record::Ending::Evicted => End::Evicted,
        record::Ending::Revoked => End::Revoked,
        record::Ending::Replaced => End::Replaced,
        record::Ending::Stopped => End::Stopped,
    }
}

/// A flow of which nothing is known.
fn blank() -> Flow {
    Flow {
        event: Event::Started,
        first_ms: 0,
        last_ms: 0,
        wire: String::new(),
        client_side: Side::Inside,
        vlan: [0; 2],
        ether_type: 0,
        protocol: 0,
        client: None,
        server: None,
        client_port: 0,
        server_port: 0,
        client_mac: MacAddress::default(),
        server_mac: MacAddress::default(),
        opening_seen: false,
        answered: false,
        client_packets: 0,
        server_packets: 0,
        client_bytes: 0,
        server_bytes: 0,
        end: None,
        allowed: false,
        reason: None,
        rule: String::new(),
        epoch: 0,
        enforced: false,
        staged: None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use bulkhead_pipeline::counters::WorkerCounters;
    use bulkhead_pipeline::{bindings, observe, trace};

    use super::*;
    use crate::config::Config;
    use crate::state::WorkerHandle;

    #[test]
    fn what_is_lost_after_the_last_that_readers_were_told_is_unread() {
        let text = "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"a\"\noutside = \"b\"\n";
        let config = Config::parse("gateway.toml", Path::new(""), text);
        let gateway = Arc::new(Gateway::new(config.unwrap_or_else(|e| panic!("{e}"))));
        let (_worker, source) = record::channel(&gateway.config.records.worker);
        let counters = source.counters().clone();
        let worker = WorkerHandle {
            core: None,
            counters: Arc::new(WorkerCounters::new(1)),
            wires: vec![0],
            observer: Mutex::new(observe::channel(1).1),
            claims: Mutex::new(bindings::channel(1).1),
            records: Mutex::new(source),
            trace: Mutex::new(trace::channel().1),
            busy_ppm: AtomicU64::new(0),
            hangs: AtomicBool::new(false),
        };
        assert!(gateway.workers.set(vec![worker]).is_ok());
        let thread = start(&gateway).unwrap();
        counters.lost(record::Event::Denied).add(5);
        let told = thread.finish(&gateway);
        assert_eq!(told, Lost { flows: 5, frames: 0 });
        counters.lost(record::Event::Denied).add(7);
        assert_eq!(unread(&gateway, told), Lost { flows: 7, frames: 0 });
    }
}
