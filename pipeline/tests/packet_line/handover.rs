//! Several workers on one wire judge as one does, however the ports spread frames over them.

use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::counters::{Balance, WorkerCounters};
use bulkhead_pipeline::frames::{DEFAULT_DST_MAC, DEFAULT_SRC_MAC, FrameBuilder};
use bulkhead_pipeline::handover;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::owner::{OwnerRule, SymmetricRss};
use bulkhead_pipeline::parse::{Tunnels, parse};
use bulkhead_pipeline::port::Frame;
use bulkhead_pipeline::port::loopback::{LoopbackPort, Options};
use bulkhead_pipeline::port::rss::{self, ASYMMETRIC_KEY, Fields, Rss, RssHost, SYMMETRIC_KEY};
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::{Clock, VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::{Mac, WireId};
use bulkhead_rules::sets::AddrSet;
use proptest::prelude::*;

use crate::common::content;
use crate::data;

const POLICY: &str = "
version: 1
groups:
  hosts: [10.0.0.0/24]
  servers: [10.0.1.0/24]
rules:
  - {name: refuse, from: hosts, to: servers, service: [tcp/23, udp/23], action: reject}
  - {name: work, from: hosts, to: servers, service: [tcp/502, udp/502, icmp/echo-request], action: allow}
  - {name: goose, from: any, to: any, service: eth/0x88b8, action: allow}
";

/// The same without what most flows rest on.
const NARROWER: &str = "
version: 1
groups:
  hosts: [10.0.0.0/24]
  servers: [10.0.1.0/24]
rules:
  - {name: work, from: hosts, to: servers, service: [udp/502], action: allow}
";

/// How the ports of a plant spread frames, and which rule its workers share.
#[derive(Clone, Debug)]
enum Spread {
    /// As NICs do unless told otherwise: by addresses and ports, each direction for itself.
    Asymmetric,
    /// By addresses and ports, both directions alike: fragments and errors go astray.
    Symmetric,
    /// By addresses, under the key that the owner rule knows.
    LikeTheRule,
}

impl Spread {
    fn all() -> impl Strategy<Value = Self> {
        prop_oneof![Just(Self::Asymmetric), Just(Self::Symmetric), Just(Self::LikeTheRule)]
    }

    fn rss(&self) -> Rss {
        match self {
            Self::Asymmetric => Rss::new(&ASYMMETRIC_KEY, Fields::AddressesAndPorts),
            Self::Symmetric => Rss::new(&SYMMETRIC_KEY, Fields::AddressesAndPorts),
            Self::LikeTheRule => Rss::new(&SYMMETRIC_KEY, Fields::Addresses),
        }
    }

    fn rule(&self, workers: usize) -> OwnerRule {
        match self {
            Self::LikeTheRule => {
                let rss = SymmetricRss::new(SymmetricRss::WELL_KNOWN);
                OwnerRule::like_nic(workers, rss, self.rss().table_len)
            }
            _ => OwnerRule::keyed(workers, Some([5, 6, 7, 8])),
        }
    }
}

/// Wires between two hosts, whose ports have a queue for each worker.
struct Plant {
    workers: Vec<Worker<LoopbackPort, VirtualClock>>,
    publisher: Publisher,
    clock: VirtualClock,
    /// For each wire, the hosts inside and outside.
    hosts: Vec<[RssHost; 2]>,
}

impl Plant {
    fn new(workers: usize, spread: &Spread) -> Self {
        Self::with(workers, spread, &[0], content(POLICY, Mode::Enforce, 0), 256)
    }

    /// One wire for each of `groups`, its redundancy group.
    fn with(
        workers: usize,
        spread: &Spread,
        groups: &[u16],
        content: Content,
        ring_frames: usize,
    ) -> Self {
        let options = Options { queue_frames: 512, pool_frames: 2048, max_frame_len: 1522 };
        let mut shares: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let mut hosts = Vec::new();
        let ids: Vec<WireId> = (0..groups.len()).map(|wire| WireId(wire as u16)).collect();
        for (&wire, &group) in ids.iter().zip(groups) {
            let (inside, inside_host) = rss::pair(options, spread.rss(), workers);
            let (outside, outside_host) = rss::pair(options, spread.rss(), workers);
            for (share, (inside, outside)) in shares.iter_mut().zip(inside.into_iter().zip(outside))
            {
                share.push(WirePorts { wire, group, inside, outside });
            }
            hosts.push([inside_host, outside_host]);
        }
        let (publisher, readers) = Publisher::new(content, workers);
        let clock = VirtualClock::default();
        let peers = handover::connect(&spread.rule(workers), &ids, ring_frames);
        let config = WorkerConfig { rejects_per_second: 1_000_000, ..WorkerConfig::default() };
        let workers = (shares.into_iter().zip(readers).zip(peers))
            .map(|((share, reader), peers)| {
                let counters = Arc::new(WorkerCounters::new(share.len()));
                let recorder = observe::channel(1).0;
                Worker::new(&config, share, reader, counters, recorder, clock.clone())
                    .with_peers(peers)
            })
            .collect();
        Self { workers, publisher, clock, hosts }
    }

    /// Lets all workers run until nothing moves.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            let frames: usize = self.workers.iter_mut().map(Worker::poll).sum();
            quiet = if frames == 0 { quiet + 1 } else { 0 };
        }
    }

    fn wait_ms(&self, ms: u64) {
        self.clock.advance_to(self.clock.now_ns() + ms * 1_000_000);
    }

    /// Sends one frame into a wire; what comes out of every wire, inside and outside.
    fn step(&mut self, wire: usize, from_inside: bool, frame: &[u8]) -> Vec<[Vec<Vec<u8>>; 2]> {
        self.hosts[wire][usize::from(!from_inside)].send(frame).expect("there is room");
        self.settle();
        (self.hosts.iter())
            .map(|hosts| {
                [&hosts[0], &hosts[1]].map(|host| {
                    std::iter::from_fn(|| host.receive()).map(|f| f.bytes().to_vec()).collect()
                })
            })
            .collect()
    }

    /// Whether the frame, and nothing else, comes out at the other side of its wire.
    fn passes(&mut self, wire: usize, from_inside: bool, frame: &[u8]) -> bool {
        let out = self.step(wire, from_inside, frame);
        let all: Vec<&Vec<u8>> = out.iter().flatten().flatten().collect();
        all == [frame] && out[wire][usize::from(from_inside)].len() == 1
    }

    fn total(&self) -> Balance {
        self.balances().into_iter().fold(Balance::default(), |sum, balance| sum + balance)
    }

    fn balances(&self) -> Vec<Balance> {
        self.workers.iter().map(|worker| worker.counters().balance()).collect()
    }

    /// Packets dropped for `reason`, and would-be drops, over all workers and ports.
    fn dropped(&self, reason: DropReason) -> u64 {
        (self.workers.iter())
            .flat_map(|worker| &worker.counters().wires)
            .flat_map(|wire| [&wire.inside, &wire.outside])
            .map(|port| port.dropped.of(reason).packets.value())
            .sum()
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for balance in self.balances() {
            assert!(balance.is_exact(), "a worker lost something uncounted: {balance:?}");
        }
        let total = self.total();
        assert_eq!(total.handed_in, total.handed_out, "nothing is left in a ring");
    }
}

/// What may happen at a wire.
#[derive(Clone, Debug)]
enum Event {
    Frame { from_inside: bool, frame: Vec<u8> },
    Wait { ms: u64 },
    Reload { narrower: bool },
}

/// Frames between a few hosts, such that they often concern one another.
fn event() -> impl Strategy<Value = Event> {
    let frame = (any::<bool>(), 0..3_u8, 0..2_u8, 0..3_u16, 0..16_u8).prop_flat_map(
        |(from_inside, host, server, port, kind)| {
            let payload = prop::collection::vec(any::<u8>(), 0..4);
            (Just((from_inside, host, server, port, kind)), payload)
        },
    );
    let frame = frame.prop_map(|((from_inside, host, server, port, kind), payload)| {
        let frame = one_frame(from_inside, host, server, 40_000 + port, kind, &payload);
        Event::Frame { from_inside, frame }
    });
    prop_oneof![
        40 => frame,
        2 => (1..3_000_u64).prop_map(|ms| Event::Wait { ms }),
        1 => any::<bool>().prop_map(|narrower| Event::Reload { narrower }),
    ]
}

pub(crate) fn one_frame(
    from_inside: bool,
    host: u8,
    server: u8,
    port: u16,
    kind: u8,
    payload: &[u8],
) -> Vec<u8> {
    let (host, server) = ([10, 0, 0, host + 1], [10, 0, 1, server + 1]);
    let towards = |service: u16| {
        let builder = if from_inside {
            FrameBuilder::new().ip(host, server)
        } else {
            FrameBuilder::new().macs(DEFAULT_DST_MAC, DEFAULT_SRC_MAC).ip(server, host)
        };
        let ports = if from_inside { (port, service) } else { (service, port) };
        (builder, ports)
    };
    let udp = |service| {
        let (builder, (src, dst)) = towards(service);
        builder.udp(src, dst).payload(payload)
    };
    let tcp = |service, flags, seq, ack| {
        let (builder, (src, dst)) = towards(service);
        builder.tcp(src, dst, flags).seq(seq, ack)
    };
    match kind {
        0 | 1 => udp(502).build(),
        2 => udp(23).build(),
        3 => udp(80).build(),
        4 if from_inside => tcp(502, flag::SYN, 100, 0).build(),
        4 => tcp(502, flag::SYN | flag::ACK, 900, 101).build(),
        5 if from_inside => tcp(502, flag::ACK, 101, 901).payload(payload).build(),
        5 => tcp(502, flag::ACK, 901, 101).payload(payload).build(),
        6 => tcp(502, flag::RST, if from_inside { 101 } else { 901 }, 0).build(),
        7 => tcp(23, flag::SYN, 1, 0).build(),
        // One of the two fragments of a datagram.
        8 => {
            let fragments = udp(502).payload(&[7; 64]).build_fragments(u32::from(port), 48);
            fragments[payload.len() % 2].clone()
        }
        // A router that is neither of the two says that the other side's packet did not arrive.
        9 => {
            let (src, dst, ports) =
                if from_inside { (server, host, (502, port)) } else { (host, server, (port, 502)) };
            let quoted = FrameBuilder::new().ip(src, dst).udp(ports.0, ports.1).build();
            let router = FrameBuilder::new().ip([192, 0, 2, 7], src);
            router.icmp(3, 1, 0).payload(&quoted[14..]).build()
        }
        // The same within a tunnel, whose ends are others and have no part in it.
        12.. => {
            let (near, far) = ([10, 9, 0, payload.len() as u8], [10, 9, 1, port as u8 & 1]);
            let (src, dst) = if from_inside { (near, far) } else { (far, near) };
            let inner =
                one_frame(from_inside, host[3] - 1, server[3] - 1, port, kind % 4 * 3, payload);
            let vxlan = [&[0x08, 0, 0, 0, 0, 0, 77, 0][..], &inner].concat();
            FrameBuilder::new().ip(src, dst).udp(port, 4789).payload(&vxlan).build()
        }
        10 if from_inside => towards(0).0.echo_request(port, 1).build(),
        10 => towards(0).0.echo_reply(port, 1).build(),
        _ => {
            let (a, b) = (Mac([2, 0, 0, 0, 0, host[3]]), Mac([2, 0, 0, 0, 1, server[3]]));
            let (src, dst) = if from_inside { (a, b) } else { (b, a) };
            FrameBuilder::new().macs(src, dst).ether_type(0x88b8).payload(payload).build()
        }
    }
}

fn every_tunnel() -> Arc<Tunnels> {
    let endpoints = AddrSet::any();
    Arc::new(Tunnels { vxlan: Some(4789), geneve: Some(6081), endpoints })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Frame by frame, the same comes out of every side, answers included.
    #[test]
    fn many_workers_judge_as_one_does(
        workers in 2_usize..4,
        spread in Spread::all(),
        observing: bool,
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mode = if observing { Mode::Observe } else { Mode::Enforce };
        let policy = |narrower| {
            let mut content = content(if narrower { NARROWER } else { POLICY }, mode, 0);
            content.wires[0].tunnels = Some(every_tunnel());
            content
        };
        let mut one = Plant::with(1, &spread, &[0], policy(false), 1);
        let mut many = Plant::with(workers, &spread, &[0], policy(false), 256);
        for event in &events {
            match event {
                Event::Frame { from_inside, frame } => {
                    let expected = one.step(0, *from_inside, frame);
                    prop_assert_eq!(many.step(0, *from_inside, frame), expected, "{:?}", event);
                }
                Event::Wait { ms } => {
                    [&one, &many].iter().for_each(|plant| plant.wait_ms(*ms));
                }
                Event::Reload { narrower } => {
                    one.publisher.publish(policy(*narrower));
                    many.publisher.publish(policy(*narrower));
                }
            }
        }
        for &reason in DropReason::ALL {
            prop_assert_eq!(one.dropped(reason), many.dropped(reason), "{:?}", reason);
        }
    }
}

#[test]
fn where_ports_spread_as_the_rule_does_nothing_is_handed_over() {
    for (spread, handed) in [(Spread::LikeTheRule, false), (Spread::Asymmetric, true)] {
        let mut plant = Plant::new(3, &spread);
        for host in 0..100 {
            let frame = one_frame(true, host, 0, 40_000, 0, b"");
            assert!(plant.passes(0, true, &frame));
            let reply = one_frame(false, host, 0, 40_000, 0, b"");
            assert!(plant.passes(0, false, &reply));
        }
        assert_eq!(plant.total().handed_out > 0, handed, "{spread:?}");
        assert!(plant.balances().iter().all(|balance| balance.transmitted > 20), "all work");
    }
}

#[test]
fn a_full_ring_drops_counts_and_holds_nobody_up() {
    let content = content(POLICY, Mode::Enforce, 0);
    let mut plant = Plant::with(2, &Spread::Asymmetric, &[0], content, 8);
    for host in 0..200 {
        plant.hosts[0][0].send(&one_frame(true, host, 0, 40_000, 0, b"")).expect("there is room");
    }
    // The second worker hangs.
    while plant.workers[0].poll() > 0 {}
    let counters = plant.workers[0].counters().clone();
    let balance = counters.balance();
    let inside = &counters.wires[0].inside;
    assert!(balance.is_exact(), "{balance:?}");
    assert_eq!(balance.handed_out, 8, "as many as the ring holds");
    let dropped = inside.dropped.of(DropReason::HandoverFull).packets.value();
    assert_eq!(dropped + 8 + balance.transmitted, balance.received);
    assert!(balance.transmitted > 20, "its own frames pass");
    assert!(dropped > 20, "its peer's do not");
    // The other comes back.
    plant.settle();
    assert_eq!(plant.workers[1].counters().balance().handed_in, 8);
}

#[test]
fn what_waits_in_a_ring_at_the_end_is_counted() {
    let mut plant = Plant::new(2, &Spread::Asymmetric);
    for host in 0..200 {
        plant.hosts[0][0].send(&one_frame(true, host, 0, 40_000, 0, b"")).expect("there is room");
    }
    while plant.workers[0].poll() > 0 {}
    let handed_out = plant.workers[0].counters().balance().handed_out;
    assert!(handed_out > 20);
    assert!(!plant.workers[0].leave(), "the other may still hand something in");
    assert!(plant.workers[1].leave(), "nothing more can come");
    assert!(plant.workers[0].leave());
    plant.workers.iter_mut().for_each(Worker::shut_down);
    let counters = plant.workers[1].counters();
    let dropped = counters.wires[0].inside.dropped.of(DropReason::Shutdown).packets.value();
    assert_eq!(dropped, handed_out);
}

#[test]
fn the_order_within_a_flow_is_kept() {
    for spread in [Spread::Asymmetric, Spread::Symmetric, Spread::LikeTheRule] {
        let mut plant = Plant::new(3, &spread);
        let frame = |host, nth: u32| {
            let builder = FrameBuilder::new().ip([10, 0, 0, host], [10, 0, 1, 1]);
            builder.udp(40_000, 502).payload(&nth.to_be_bytes()).build()
        };
        let mut seen = [0_u32; 20];
        for round in 0..300 {
            for burst in 0..2 {
                for host in 0..20 {
                    let sent = plant.hosts[0][0].send(&frame(host + 1, round * 2 + burst));
                    sent.expect("there is room");
                }
            }
            // Workers run in an order that changes, and not equally often.
            for turn in 0..4 {
                plant.workers[(round as usize * 7 + turn * turn) % 3].poll();
            }
            if round == 299 {
                plant.settle();
            }
            while let Some(out) = plant.hosts[0][1].receive() {
                let bytes = out.bytes();
                let nth = u32::from_be_bytes([bytes[42], bytes[43], bytes[44], bytes[45]]);
                let host = usize::from(bytes[29]) - 1;
                assert_eq!(nth, seen[host], "host {host} under {spread:?}");
                seen[host] += 1;
            }
        }
        let total = plant.total();
        let lost = plant.dropped(DropReason::HandoverFull);
        assert_eq!((lost, total.transmitted, total.dropped), (0, 12_000, 0), "{spread:?}");
        assert_eq!(seen, [600; 20]);
    }
}

/// The beginnings of all real captures: tunnels, routing protocols, scans, broken frames.
#[test]
fn many_workers_judge_real_traffic_as_one_does() {
    const FRAMES_OF_A_FILE: usize = 200;
    const OPEN: &str = "version: 1\nrules:\n  - {name: all, from: any, to: any, service: any, \
                        action: allow}\n";
    let test = "many_workers_judge_real_traffic_as_one_does";
    let Some(folder) = data::captures(test) else { return };
    let spread = Spread::Asymmetric;
    let open = || {
        let mut content = content(OPEN, Mode::Enforce, 0);
        content.wires[0].tunnels = Some(every_tunnel());
        content
    };
    let mut one = Plant::with(1, &spread, &[0], open(), 1);
    let mut many = Plant::with(3, &spread, &[0], open(), 256);
    let (mut file, mut of_file, mut inside) = (PathBuf::new(), 0, None);
    data::each_frame(&folder, |path, frame, _| {
        if path != file {
            // What was before is over.
            [&one, &many].iter().for_each(|plant| plant.wait_ms(86_400_000));
            (file, of_file, inside) = (path.to_path_buf(), 0, frame.get(6..12).map(<[u8]>::to_vec));
        }
        of_file += 1;
        if of_file > FRAMES_OF_A_FILE || frame.len() > 1522 {
            return;
        }
        [&one, &many].iter().for_each(|plant| plant.wait_ms(1));
        let from_inside = frame.get(6..12) == inside.as_deref();
        let expected = one.step(0, from_inside, frame);
        let came = many.step(0, from_inside, frame);
        assert!(
            came == expected,
            "frame {of_file} of {}: {:?}",
            path.display(),
            parse(frame, WireId(0))
        );
    });
    for &reason in DropReason::ALL {
        assert_eq!(one.dropped(reason), many.dropped(reason), "{reason:?}");
    }
    let total = many.total();
    println!("{total:?}");
    assert!(total.handed_out * 3 > total.received, "much was handed over");
    assert!(total.transmitted > 10_000 && total.dropped > 1_000);
}

/// The content for two wires of which a rule names the first.
fn two_wires(text: &str) -> Content {
    let mut content = content(text, Mode::Enforce, 0);
    content.wires.push(content.wires[0].clone());
    content
}

#[test]
fn redundant_wires_share_their_flows_and_others_do_not() {
    let there = one_frame(true, 0, 0, 40_000, 0, b"");
    let back = one_frame(false, 0, 0, 40_000, 0, b"");
    for workers in [1, 2, 3] {
        let spread = Spread::Asymmetric;
        let mut redundant = Plant::with(workers, &spread, &[0, 0], two_wires(POLICY), 64);
        assert!(!redundant.passes(1, false, &back), "nobody opened it");
        assert!(redundant.passes(0, true, &there));
        assert!(redundant.passes(1, false, &back), "the reply comes by the other wire");
        assert!(redundant.passes(1, true, &there), "and so does what follows");
        assert!(redundant.passes(0, false, &back));
        let flows: u64 = redundant.workers.iter().map(|w| w.counters().flow_inserts.value()).sum();
        assert_eq!(flows, 1);
        let mut separate = Plant::with(workers, &spread, &[0, 1], two_wires(POLICY), 64);
        assert!(separate.passes(0, true, &there));
        assert!(!separate.passes(1, false, &back));
    }
}

/// A rule for each of two wires. Wires are numbered in the order in which rules name them.
fn by_wire(first: &str, second: &str) -> String {
    format!(
        "version: 1\nrules:\n  \
         - {{name: first, wire: a, from: any, to: any, service: {first}, action: allow}}\n  \
         - {{name: second, wire: b, from: any, to: any, service: {second}, action: allow}}\n"
    )
}

#[test]
fn a_rule_looks_at_the_wire_by_which_a_flow_began() {
    let there = one_frame(true, 0, 0, 40_000, 0, b"");
    let back = one_frame(false, 0, 0, 40_000, 0, b"");
    let another = one_frame(true, 0, 0, 40_001, 0, b"");
    for workers in [1, 2, 3] {
        let content = two_wires(&by_wire("udp/502", "udp/503"));
        let mut plant = Plant::with(workers, &Spread::Asymmetric, &[0, 0], content, 64);
        assert!(!plant.passes(1, true, &another), "the second wire is for another service");
        assert!(plant.passes(0, true, &there));
        assert!(plant.passes(1, true, &there) && plant.passes(1, false, &back));
        // Judged again at a packet that comes by the second wire, it is still a flow of the first.
        plant.publisher.publish(two_wires(&by_wire("udp/500-510", "udp/503")));
        assert!(plant.passes(1, false, &back) && plant.passes(1, true, &there));
        plant.publisher.publish(two_wires(&by_wire("udp/503", "udp/502")));
        assert!(!plant.passes(1, true, &there), "what the second wire permits now is no matter");
        assert_eq!(plant.dropped(DropReason::Revoked), 1);
        assert!(plant.passes(1, true, &there), "it may begin anew there");
    }
}
