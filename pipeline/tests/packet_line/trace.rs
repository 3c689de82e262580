//! A trace tells what the workers did: the stories of all frames add up to the verdict counters,
//! reason by reason and port by port, whatever happens to the frames.

use std::collections::HashMap;
use std::sync::Arc;

use bulkhead_pipeline::conntrack::Phase;
use bulkhead_pipeline::counters::{PortCounters, WorkerCounters};
use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
use bulkhead_pipeline::handover;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::owner::OwnerRule;
use bulkhead_pipeline::port::loopback::{LoopbackPort, Options};
use bulkhead_pipeline::port::rss::{self, ASYMMETRIC_KEY, Fields, Rss, RssHost};
use bulkhead_pipeline::snapshot::{Mode, Publisher};
use bulkhead_pipeline::trace::{
    Classified, Fate, Filter, Lookup, Outcome, Snap, Step, Story, TraceSource, Tracer, Wanted,
    channel,
};
use bulkhead_pipeline::verdict::{DropReason, Verdict};
use bulkhead_pipeline::worker::{Clock, VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::WireId;
use proptest::prelude::*;

use crate::common::content;
use crate::handover::one_frame;

const POLICY: &str = "
version: 1
groups:
  hosts: [10.0.0.0/24]
  servers: [10.0.1.0/24]
rules:
  - {name: refuse, from: hosts, to: servers, service: [tcp/23, udp/23], action: reject}
  - {name: work, from: hosts, to: servers, service: [tcp/502, udp/502, icmp/echo-request], action: allow}
";

fn everything() -> Wanted {
    let filter = Filter::default();
    Wanted { filter, snap: Snap::Headers, packets: u64::MAX, ring: 1 << 14, ring_bytes: 1 << 22 }
}

/// Workers on one wire, each with a tracer. No answers are originated, so that what is sent is what
/// came.
struct Plant {
    workers: Vec<Worker<LoopbackPort, VirtualClock>>,
    sources: Vec<TraceSource>,
    publisher: Publisher,
    clock: VirtualClock,
    hosts: [RssHost; 2],
}

impl Plant {
    fn new(workers: usize, mode: Mode, ring_frames: usize) -> Self {
        let options = Options { queue_frames: 512, pool_frames: 4096, max_frame_len: 1522 };
        let spread = Rss::new(&ASYMMETRIC_KEY, Fields::AddressesAndPorts);
        let (inside, inside_host) = rss::pair(options, spread.clone(), workers);
        let (outside, outside_host) = rss::pair(options, spread, workers);
        let (publisher, readers) = Publisher::new(content(POLICY, mode, 0), workers);
        let clock = VirtualClock::default();
        let rule = OwnerRule::keyed(workers, Some([5, 6, 7, 8]));
        let peers = handover::connect(&rule, &[WireId(0)], ring_frames);
        let mut config = WorkerConfig { rejects_per_second: 0, ..WorkerConfig::default() };
        config.flows.capacity = 1 << 10;
        let (tracers, sources): (Vec<Tracer>, Vec<_>) = (0..workers).map(|_| channel()).unzip();
        let workers = (inside.into_iter().zip(outside).zip(readers).zip(peers).zip(tracers))
            .map(|((((inside, outside), reader), peers), tracer)| {
                let ports = WirePorts { wire: WireId(0), group: 0, inside, outside };
                let counters = Arc::new(WorkerCounters::new(1));
                let recorder = observe::channel(1).0;
                Worker::new(&config, vec![ports], reader, counters, recorder, clock.clone())
                    .with_peers(peers)
                    .with_tracer(tracer)
            })
            .collect();
        let hosts = [inside_host, outside_host];
        Self { workers, sources, publisher, clock, hosts }
    }

    fn poll(&mut self) -> usize {
        self.workers.iter_mut().map(Worker::poll).sum()
    }

    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            quiet = if self.poll() == 0 { quiet + 1 } else { 0 };
        }
    }

    fn send(&mut self, from_inside: bool, frame: &[u8]) {
        self.hosts[usize::from(!from_inside)].send(frame).expect("there is room");
    }

    fn wait_ms(&self, ms: u64) {
        self.clock.advance_to(self.clock.now_ns() + ms * 1_000_000);
    }

    fn begin(&mut self, wanted: &Wanted) {
        assert!(self.sources.iter_mut().all(|source| source.begin(wanted)));
        self.poll();
    }

    /// What each worker told so far.
    fn steps(&mut self) -> Vec<Vec<(Step, Vec<u8>)>> {
        let steps = |source: &mut TraceSource| std::iter::from_fn(|| source.step()).collect();
        self.sources.iter_mut().map(steps).collect()
    }

    /// The only story of a worker's.
    fn story(&mut self) -> (Story, Vec<u8>) {
        match &self.steps()[0][..] {
            [(Step::Story(story), bytes)] => (*story, bytes.clone()),
            other => panic!("not one story: {other:?}"),
        }
    }
}

/// What stories say of one port.
#[derive(PartialEq, Eq, Debug, Default)]
struct Said {
    received: u64,
    handed_in: u64,
    handed_out: u64,
    forwarded: u64,
    transmitted: u64,
    held: u64,
    waiting: u64,
    dropped: HashMap<DropReason, u64>,
    would_drop: HashMap<DropReason, u64>,
}

impl Said {
    fn counted(port: &PortCounters) -> Self {
        let some = |volumes: &bulkhead_pipeline::counters::VolumeByReason| {
            let all = volumes.iter().map(|(reason, volume)| (reason, volume.packets.value()));
            all.filter(|(_, count)| *count > 0).collect()
        };
        Self {
            received: port.received.packets.value(),
            handed_in: port.handed_in.packets.value(),
            handed_out: port.handed_out.packets.value(),
            forwarded: port.forwarded.packets.value(),
            transmitted: port.transmitted.packets.value(),
            held: port.held.value(),
            waiting: port.waiting.value(),
            dropped: some(&port.dropped),
            would_drop: some(&port.would_drop),
        }
    }
}

/// The two ports of a worker, inside first, by what was told of every frame.
fn said(steps: &[(Step, Vec<u8>)]) -> [Said; 2] {
    let mut ports = [Said::default(), Said::default()];
    let mut held = HashMap::new();
    for (step, _) in steps {
        match step {
            Step::Story(story) => say(&mut ports, story, &mut held),
            Step::Later { id, fate } => {
                let egress: usize = held.remove(id).expect("it was held");
                ports[egress].held -= 1;
                match fate {
                    Fate::Sent => ports[egress].transmitted += 1,
                    Fate::NotSent(why) => *ports[egress].dropped.entry(*why).or_default() += 1,
                    other => panic!("no end: {other:?}"),
                }
            }
        }
    }
    ports
}

fn say(ports: &mut [Said; 2], story: &Story, held: &mut HashMap<u64, usize>) {
    let ingress = usize::from(!story.from_inside);
    let egress = 1 - ingress;
    match (story.resumed, story.handed_in) {
        (true, _) => ports[ingress].waiting -= 1,
        (false, true) => ports[ingress].handed_in += 1,
        (false, false) => ports[ingress].received += 1,
    }
    let leaves = matches!(story.fate, Fate::Sent | Fate::Held | Fate::NotSent(_));
    if leaves {
        ports[ingress].forwarded += 1;
        let reason = match story.verdict {
            Verdict::Forward => None,
            Verdict::Reject => Some(DropReason::Policy),
            Verdict::Drop(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            *ports[ingress].would_drop.entry(reason).or_default() += 1;
        }
    }
    match story.fate {
        Fate::Sent => ports[egress].transmitted += 1,
        Fate::Held => {
            ports[egress].held += 1;
            held.insert(story.id, egress);
        }
        Fate::NotSent(why) => *ports[egress].dropped.entry(why).or_default() += 1,
        Fate::Dropped(why) => *ports[ingress].dropped.entry(why).or_default() += 1,
        Fate::HandedOver { .. } => ports[ingress].handed_out += 1,
        Fate::KeptBack => ports[ingress].waiting += 1,
    }
}

#[derive(Clone, Debug)]
enum Event {
    Frame { from_inside: bool, frame: Vec<u8> },
    Poll,
    Wait { ms: u64 },
    Mode { observe: bool },
    Link { inside: bool, up: bool },
    Refuse { inside: bool, refuse: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let frame = (any::<bool>(), 0..3_u8, 0..2_u8, 0..3_u16, 0..13_u8, any::<bool>()).prop_flat_map(
        |(from_inside, host, server, port, kind, damage)| {
            let payload = prop::collection::vec(any::<u8>(), 0..4);
            (Just((from_inside, host, server, port, kind, damage)), payload)
        },
    );
    let frame = frame.prop_map(|((from_inside, host, server, port, kind, damage), payload)| {
        let kind = kind.min(11);
        let mut frame = one_frame(from_inside, host, server, 40_000 + port, kind, &payload);
        if damage && port == 0 {
            frame[16 + usize::from(host) * 2] ^= 0x55;
        }
        Event::Frame { from_inside, frame }
    });
    prop_oneof![
        40 => frame,
        12 => Just(Event::Poll),
        3 => (1..800_u64).prop_map(|ms| Event::Wait { ms }),
        1 => any::<bool>().prop_map(|observe| Event::Mode { observe }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(inside, up)| Event::Link { inside, up }),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(inside, refuse)| Event::Refuse { inside, refuse }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_stories_of_all_frames_add_up_to_the_counters(
        workers in 1_usize..4,
        ring_frames in 1_usize..8,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut plant = Plant::new(workers, Mode::Enforce, ring_frames);
        plant.begin(&everything());
        for event in &events {
            match event {
                Event::Frame { from_inside, frame } => plant.send(*from_inside, frame),
                Event::Poll => {
                    plant.poll();
                }
                Event::Wait { ms } => plant.wait_ms(*ms),
                Event::Mode { observe } => {
                    let mode = if *observe { Mode::Observe } else { Mode::Enforce };
                    plant.publisher.publish(content(POLICY, mode, 0));
                }
                Event::Link { inside, up } => {
                    for worker in &plant.workers {
                        let wire = &worker.counters().wires[0];
                        if *inside { &wire.inside_link } else { &wire.outside_link }.set(*up);
                    }
                }
                Event::Refuse { inside, refuse } => {
                    let host = &plant.hosts[usize::from(!*inside)];
                    host.queues().iter().for_each(|queue| queue.refuse_transmit(*refuse));
                }
            }
        }
        for _ in 0..200 {
            plant.poll();
        }
        let told = plant.steps();
        for (worker, (source, steps)) in plant.sources.iter().zip(&told).enumerate() {
            let lost = source.counters().lost.load(std::sync::atomic::Ordering::Relaxed);
            prop_assert_eq!(lost, 0);
            let wire = &plant.workers[worker].counters().wires[0];
            let counted = [Said::counted(&wire.inside), Said::counted(&wire.outside)];
            prop_assert_eq!(said(steps), counted, "worker {}", worker);
        }
    }
}

fn tcp(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    FrameBuilder::new()
        .ip([10, 0, 0, 1], [10, 0, 1, 1])
        .tcp(40_000, 502, flags)
        .seq(seq, ack)
        .build()
}

#[test]
fn a_connection_is_followed_from_its_first_segment() {
    let mut plant = Plant::new(1, Mode::Enforce, 1);
    plant.begin(&everything());
    plant.send(true, &tcp(tcp_flags::SYN, 100, 0));
    plant.settle();
    let (story, bytes) = plant.story();
    assert_eq!((story.lookup, story.fate), (Lookup::Miss, Fate::Sent));
    assert_eq!(story.phase_after, Some(Phase::SynSent));
    assert!(matches!(story.classified, Classified::Frame(rule) if Some(rule) == story.decided_by));
    assert_eq!(bytes.len(), 54, "headers, and not the padding");
    plant.send(true, &tcp(tcp_flags::ACK, 500_000, 7));
    plant.settle();
    let (story, _) = plant.story();
    let Lookup::Hit(flow) = story.lookup else { panic!("{story:?}") };
    assert_eq!((flow.phase, flow.packets, flow.from_initiator), (Phase::SynSent, [1, 0], true));
    assert!(matches!(story.fate, Fate::Dropped(_)), "{story:?}");
    plant.send(false, &tcp(tcp_flags::ACK, 1, 1));
    plant.settle();
    assert!(!plant.story().0.from_inside);
}

#[test]
fn only_what_matches_is_followed_and_no_more_than_is_wanted() {
    let mut plant = Plant::new(1, Mode::Enforce, 1);
    let filter = Filter { outcome: Outcome::Reason(DropReason::Policy), ..Filter::default() };
    plant.begin(&Wanted { filter, packets: 3, snap: Snap::Bytes(20), ..everything() });
    let udp = |port| FrameBuilder::new().ip([10, 0, 0, 1], [10, 0, 1, 1]).udp(7, port).build();
    for _ in 0..5 {
        plant.send(true, &udp(502));
        plant.send(true, &udp(503));
    }
    plant.settle();
    let steps = plant.steps().remove(0);
    assert_eq!(steps.len(), 3);
    for (step, bytes) in &steps {
        let Step::Story(story) = step else { panic!("{step:?}") };
        assert_eq!(story.parsed.headers.dst_port, 503);
        assert_eq!(bytes[..], udp(503)[..20]);
    }
}

#[test]
fn rules_are_asked_for_by_their_number() {
    let mut plant = Plant::new(1, Mode::Enforce, 1);
    let filter = Filter { by_rule: true, ..Filter::default() };
    let policy = plant.publisher.current().content.policy.clone();
    let rule = (0..).map(bulkhead_rules::policy::RuleId).find(|&id| policy.rule_name(id) == "work");
    plant.sources[0].rule_is(rule);
    plant.begin(&Wanted { filter, ..everything() });
    for seq in [0, 1] {
        // The first is decided by the rule, the second rides the flow that rests on it.
        plant.send(
            true,
            &tcp(if seq == 0 { tcp_flags::SYN } else { tcp_flags::ACK }, 100 + seq, seq),
        );
        plant.send(true, &FrameBuilder::new().ip([10, 0, 0, 1], [10, 0, 1, 1]).udp(7, 9).build());
        plant.settle();
        assert_eq!(plant.story().0.parsed.headers.dst_port, 502);
    }
}

#[test]
fn what_finds_the_rings_full_is_counted_and_nothing_waits() {
    let mut plant = Plant::new(1, Mode::Enforce, 1);
    plant.begin(&Wanted { ring: 4, ..everything() });
    for _ in 0..10 {
        plant.send(true, &tcp(tcp_flags::SYN, 100, 0));
    }
    plant.settle();
    assert_eq!(plant.workers[0].counters().wires[0].outside.transmitted.packets.value(), 10);
    assert_eq!(plant.steps()[0].len(), 4);
    let counters = plant.sources[0].counters();
    assert_eq!(counters.matched.load(std::sync::atomic::Ordering::Relaxed), 10);
    assert_eq!(counters.lost.load(std::sync::atomic::Ordering::Relaxed), 6);
}

#[test]
fn a_trace_that_is_over_leaves_nothing_behind_and_another_may_begin() {
    let mut plant = Plant::new(1, Mode::Enforce, 1);
    for round in 0..3 {
        plant.begin(&everything());
        assert!(!plant.sources[0].begin(&everything()), "one at a time");
        plant.send(true, &tcp(tcp_flags::SYN, 100, 0));
        plant.settle();
        plant.sources[0].end();
        assert!(!plant.sources[0].is_over());
        plant.poll();
        assert!(plant.sources[0].is_over());
        assert_eq!(plant.steps()[0].len(), 1, "what was told before still comes, in round {round}");
        plant.sources[0].clear();
        plant.send(true, &tcp(tcp_flags::SYN, 100, 0));
        plant.settle();
        assert!(plant.sources[0].step().is_none());
    }
    // Over before the worker has taken it.
    assert!(plant.sources[0].begin(&everything()));
    plant.sources[0].end();
    plant.poll();
    assert!(plant.sources[0].is_over());
}
