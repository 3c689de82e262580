//! The plant of `deploy/quickstart.sh` in memory: the same hosts, the same wires and the production
//! worker, over loopback ports, for machines that permit no namespaces.
//!
//! Hosts are small automatons that answer as a TCP, UDP or ICMP stack would; a switch carries frames
//! between them by MAC address. The worker runs on a thread of its own, as it does in the gateway.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_pipeline::counters::{Balance, WorkerCounters};
use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
use bulkhead_pipeline::observe;
use bulkhead_pipeline::parse::{Kind, Parsed, parse};
use bulkhead_pipeline::port::Frame as _;
use bulkhead_pipeline::port::loopback::{Host as Plug, LoopbackPort, Options, pair};
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, WallClock, WirePolicy};
use bulkhead_pipeline::worker::{MonotonicClock, PollMode, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::compile::{self, compile};
use bulkhead_rules::headers::{ETHER_IPV4, Mac, WireId, protocol};
use bulkhead_rules::policy::Policy;

use crate::flows::Outcome;

/// Ports from here on are those of clients.
const FIRST_CLIENT_PORT: u16 = 40_000;
/// How long nothing must happen for nothing to come.
const QUIET: Duration = Duration::from_millis(40);

/// A host of the plant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the names are those of the example policy's devices")]
pub enum Name {
    Hmi,
    Engineer,
    Intruder,
    Plc1,
    Plc2,
    Historian,
}

/// What is asked of another host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ask {
    /// A TCP connection and an exchange over it.
    Tcp(u16),
    /// A datagram and its echo.
    Udp(u16),
    /// An echo request.
    Ping,
}

/// The address family of an [`Ask`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Family {
    V4,
    V6,
}

impl Name {
    /// Every host.
    pub const ALL: [Self; 6] =
        [Self::Hmi, Self::Engineer, Self::Intruder, Self::Plc1, Self::Plc2, Self::Historian];

    /// Its name in the example policy.
    pub fn label(self) -> &'static str {
        ["hmi", "engineer", "intruder", "plc-1", "plc-2", "historian"][self as usize]
    }

    /// Its address, as in the example policy.
    pub fn address(self, family: Family) -> IpAddr {
        let text = match family {
            Family::V4 => {
                ["10.20.0.11", "10.50.0.7", "10.66.0.66", "10.30.3.11", "10.30.3.12", "10.40.0.5"]
                    [self as usize]
            }
            Family::V6 => [
                "fd00:20::11",
                "fd00:50::7",
                "fd00:66::66",
                "fd00:30::11",
                "fd00:30::12",
                "fd00:40::5",
            ][self as usize],
        };
        text.parse().expect("the table holds addresses")
    }

    fn mac(self) -> Mac {
        Mac([0x02, 0x1b, 0x1d, 0, 0, self as u8 + 1])
    }

    fn by_mac(mac: Mac) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.mac() == mac)
    }

    /// The wire behind which it sits, where it has one.
    fn wire(self) -> Option<usize> {
        WIRED.iter().position(|wired| *wired == self)
    }
}

/// The hosts behind the wires, in the order of their [`WireId`].
const WIRED: [Name; 3] = [Name::Plc1, Name::Plc2, Name::Historian];

/// The plant, with its worker running.
pub struct MemoryPlant {
    /// What the hosts see of each wire: the inside plug and the outside plug.
    plugs: Vec<(Plug, Plug)>,
    publisher: Publisher,
    counters: Arc<WorkerCounters>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
    next_port: u16,
    /// What came back for each client port.
    outcomes: HashMap<u16, Outcome>,
    /// Packets that reached a host, by their source.
    arrived: HashMap<(Name, IpAddr), u64>,
}

impl MemoryPlant {
    /// Builds the plant and starts its worker with a policy.
    ///
    /// # Errors
    ///
    /// What is wrong with the policy.
    pub fn start(policy: &str) -> Result<Self, String> {
        let (mut ports, mut plugs) = (Vec::new(), Vec::new());
        for wire in 0..WIRED.len() {
            let ((inside, near), (outside, far)) =
                (pair(Options::default()), pair(Options::default()));
            let wire = WireId(wire as u16);
            ports.push(WirePorts { wire, group: wire.0, inside, outside });
            plugs.push((near, far));
        }
        let (publisher, mut readers) = Publisher::new(content(policy)?, 1);
        let reader = readers.remove(0);
        let counters = Arc::new(WorkerCounters::new(WIRED.len()));
        let stop = Arc::new(AtomicBool::new(false));
        let (recorder, _) = observe::channel(1024);
        let mut worker: Worker<LoopbackPort, _> = Worker::new(
            &WorkerConfig::default(),
            ports,
            reader,
            Arc::clone(&counters),
            recorder,
            MonotonicClock::start(),
        );
        let flag = Arc::clone(&stop);
        let worker = Some(std::thread::spawn(move || worker.run(&flag, PollMode::Adaptive)));
        Ok(Self {
            plugs,
            publisher,
            counters,
            stop,
            worker,
            next_port: FIRST_CLIENT_PORT,
            outcomes: HashMap::new(),
            arrived: HashMap::new(),
        })
    }

    /// Replaces the policy and waits until the worker judges by it: how long that took.
    ///
    /// # Errors
    ///
    /// What is wrong with the policy: the old one stays.
    pub fn reload(&mut self, policy: &str) -> Result<Duration, String> {
        self.publisher.publish(content(policy)?);
        let took = self.publisher.wait(Duration::from_secs(5));
        self.publisher.collect();
        took.map_err(|stalled| {
            format!("worker {} does not judge by the new policy", stalled.worker)
        })
    }

    /// Asks another host and waits for what comes of it.
    pub fn ask(&mut self, from: Name, to: Name, ask: Ask, family: Family) -> Outcome {
        let port = self.open(from, to, ask, family);
        self.settle();
        self.outcomes.get(&port).copied().unwrap_or(Outcome::Silent)
    }

    /// Asks without waiting: the client port under which [`Self::outcome`] will tell.
    pub fn open(&mut self, from: Name, to: Name, ask: Ask, family: Family) -> u16 {
        let port = self.next_port;
        self.next_port = if port == u16::MAX { FIRST_CLIENT_PORT } else { port + 1 };
        self.outcomes.remove(&port);
        let frame = between(from, to, family);
        let frame = match ask {
            Ask::Tcp(service) => frame.tcp(port, service, tcp_flags::SYN).seq(100, 0).window(8192),
            Ask::Udp(service) => frame.udp(port, service).payload(b"bulkhead"),
            Ask::Ping => frame.echo_request(port, 1).payload(b"bulkhead"),
        };
        self.send(from, &frame.build());
        port
    }

    /// Sends data over a connection that [`Self::open`] opened a while ago.
    pub fn exchange(&mut self, from: Name, to: Name, service: u16, port: u16) -> Outcome {
        self.outcomes.remove(&port);
        // As the connection stands after `exchanges` of these: each carries eight bytes both ways.
        let frame = between(from, to, Family::V4)
            .tcp(port, service, tcp_flags::PSH | tcp_flags::ACK)
            .seq(109, 1009)
            .window(8192)
            .payload(b"bulkhead");
        self.send(from, &frame.build());
        self.settle();
        self.outcomes.get(&port).copied().unwrap_or(Outcome::Silent)
    }

    /// What came of an [`Self::open`], so far.
    pub fn outcome(&self, port: u16) -> Option<Outcome> {
        self.outcomes.get(&port).copied()
    }

    /// Packets from one host that reached another.
    pub fn arrived(&self, from: Name, to: Name) -> u64 {
        let count = |family| self.arrived.get(&(to, from.address(family))).copied().unwrap_or(0);
        count(Family::V4) + count(Family::V6)
    }

    /// Carries every frame that waits to its next stop. Returns how many moved.
    pub fn carry(&mut self) -> usize {
        let mut moved = Vec::new();
        for (wire, (near, far)) in self.plugs.iter().enumerate() {
            // What the gateway sent to the device, and what it sent towards the switch.
            while let Some(frame) = near.receive() {
                moved.push((Some(WIRED[wire]), frame.bytes().to_vec()));
            }
            while let Some(frame) = far.receive() {
                moved.push((None, frame.bytes().to_vec()));
            }
        }
        for (at, frame) in &moved {
            match at {
                Some(host) => self.take(*host, frame),
                None => self.switch(frame),
            }
        }
        moved.len()
    }

    /// Carries frames until nothing has moved for a while.
    pub fn settle(&mut self) {
        let mut last = Instant::now();
        while last.elapsed() < QUIET {
            if self.carry() > 0 {
                last = Instant::now();
            }
            std::thread::yield_now();
        }
    }

    /// Stops the worker and returns the exact account of all its frames.
    pub fn stop(mut self) -> Balance {
        self.end();
        self.counters.balance()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// A host sends: into its wire, or onto the switch.
    fn send(&mut self, from: Name, frame: &[u8]) {
        match from.wire() {
            Some(wire) => self.push(wire, true, frame),
            None => self.switch(frame),
        }
    }

    /// The switch forwards by destination: into a wire, or to a host of its own.
    fn switch(&mut self, frame: &[u8]) {
        let Some(to) = destination(frame) else { return };
        match to.wire() {
            Some(wire) => self.push(wire, false, frame),
            None => self.take(to, frame),
        }
    }

    /// Puts a frame on a wire; a full queue has room again once the worker has caught up.
    fn push(&self, wire: usize, inside: bool, frame: &[u8]) {
        let plug = if inside { &self.plugs[wire].0 } else { &self.plugs[wire].1 };
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(why) = plug.send(frame) {
            assert!(Instant::now() < deadline, "the worker does not take frames: {why}");
            std::thread::yield_now();
        }
    }

    /// A host takes a frame, answers it, and remembers what it means to its client.
    fn take(&mut self, host: Name, frame: &[u8]) {
        let Ok(parsed) = parse(frame, WireId::default()) else { return };
        let (src, dst) = addresses(&parsed);
        if ![host.address(Family::V4), host.address(Family::V6)].contains(&dst) {
            return;
        }
        *self.arrived.entry((host, src)).or_default() += 1;
        let Some(peer) = Name::by_mac(parsed.headers.src_mac) else { return };
        let answer = between(host, peer, if dst.is_ipv4() { Family::V4 } else { Family::V6 });
        if let Some(answer) = self.answer(&parsed, frame, answer) {
            self.send(host, &answer.build());
        }
    }

    fn answer(
        &mut self,
        parsed: &Parsed,
        frame: &[u8],
        answer: FrameBuilder,
    ) -> Option<FrameBuilder> {
        let (h, tcp) = (&parsed.headers, &parsed.tcp);
        let is_client = h.dst_port >= FIRST_CLIENT_PORT;
        let (syn, ack, rst) = (
            tcp.flags & tcp_flags::SYN != 0,
            tcp.flags & tcp_flags::ACK != 0,
            tcp.flags & tcp_flags::RST != 0,
        );
        let end = usize::from(parsed.packet_end);
        match (parsed.kind, h.protocol) {
            (Kind::Tcp, _) if rst => {
                self.outcomes.insert(h.dst_port, Outcome::Refused);
                None
            }
            (Kind::Tcp, _) => {
                let data = frame.get(end - usize::from(tcp.payload_len)..end)?;
                let next = tcp.seq.wrapping_add(u32::from(tcp.payload_len)) + u32::from(syn);
                if syn && !ack {
                    let reply = answer.tcp(h.dst_port, h.src_port, tcp_flags::SYN | tcp_flags::ACK);
                    return Some(reply.seq(1000, next).window(8192));
                }
                if is_client && !syn {
                    self.outcomes.insert(h.dst_port, Outcome::Answered);
                    return None;
                }
                if data.is_empty() && !syn {
                    return None;
                }
                // A client sends its request, a server echoes it.
                let payload = if is_client { b"bulkhead" } else { data };
                let reply = answer.tcp(h.dst_port, h.src_port, tcp_flags::PSH | tcp_flags::ACK);
                Some(reply.seq(tcp.ack, next).window(8192).payload(payload))
            }
            (_, protocol::UDP) if is_client => {
                self.outcomes.insert(h.dst_port, Outcome::Answered);
                None
            }
            (_, protocol::UDP) => {
                let payload = frame.get(usize::from(parsed.upper_offset) + 8..end)?;
                Some(answer.udp(h.dst_port, h.src_port).payload(payload))
            }
            (Kind::IcmpQuery, _) => {
                let identifier = parsed.flow_ports.0;
                if matches!(h.dst_port >> 8, 8 | 128) {
                    return Some(answer.echo_reply(identifier, 1).payload(b"bulkhead"));
                }
                self.outcomes.insert(identifier, Outcome::Answered);
                None
            }
            (Kind::IcmpError, _) => {
                let (_, ports) = bulkhead_pipeline::parse::parse_quoted(frame, parsed).ok()?;
                self.outcomes.insert(ports.0, Outcome::Refused);
                None
            }
            _ => None,
        }
    }
}

impl Drop for MemoryPlant {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn content(policy: &str) -> Result<Content, String> {
    let said = |found: Vec<bulkhead_rules::syntax::Diagnostic>| {
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let policy = Policy::parse(policy).map_err(said)?;
    let classifier = compile(&policy, &compile::Limits::default()).map_err(|e| e.to_string())?;
    Ok(Content {
        policy: Arc::new(policy),
        classifier: Arc::new(classifier),
        wires: vec![WirePolicy::new(Mode::Enforce, 0); WIRED.len()],
        clock: WallClock { offset_ms: 0, synchronised: true },
    })
}

fn between(from: Name, to: Name, family: Family) -> FrameBuilder {
    FrameBuilder::new().macs(from.mac(), to.mac()).ip(from.address(family), to.address(family))
}

fn destination(frame: &[u8]) -> Option<Name> {
    Name::by_mac(Mac(frame.get(..6)?.try_into().ok()?))
}

fn addresses(parsed: &Parsed) -> (IpAddr, IpAddr) {
    let h = &parsed.headers;
    let address = |bits: u128| -> IpAddr {
        if h.ether_type == ETHER_IPV4 {
            (bits as u32).to_be_bytes().into()
        } else {
            bits.to_be_bytes().into()
        }
    };
    (address(h.src), address(h.dst))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "version: 1\ndefault: deny\nrules:\n  - {name: a, from: 10.20.0.11, \
        to: 10.30.3.11, service: [tcp/502, icmp/echo-request], action: allow}\n  - {name: b, \
        from: 10.50.0.7, to: any, service: any, action: reject}\n  - {name: c, \
        between: [\"fd00:30::11\", \"fd00:30::12\"], service: udp/2222, action: allow}\n";

    #[test]
    fn hosts_get_the_answers_that_the_policy_permits() {
        let mut plant = MemoryPlant::start(POLICY).unwrap();
        use Ask::{Ping, Tcp, Udp};
        use Family::{V4, V6};
        use Name::{Engineer, Hmi, Intruder, Plc1, Plc2};
        for (from, to, ask, family, expected) in [
            (Hmi, Plc1, Tcp(502), V4, Outcome::Answered),
            (Hmi, Plc1, Ping, V4, Outcome::Answered),
            (Hmi, Plc1, Tcp(22), V4, Outcome::Silent),
            (Hmi, Plc1, Ping, V6, Outcome::Silent),
            (Plc2, Plc1, Udp(2222), V6, Outcome::Answered),
            (Plc1, Hmi, Tcp(502), V4, Outcome::Silent),
            (Engineer, Plc1, Tcp(502), V4, Outcome::Refused),
            (Engineer, Plc2, Udp(7), V4, Outcome::Refused),
            (Intruder, Plc1, Tcp(502), V4, Outcome::Silent),
            (Intruder, Hmi, Tcp(502), V4, Outcome::Answered), // No wire lies between the two.
        ] {
            assert_eq!(plant.ask(from, to, ask, family), expected, "{from:?} {to:?} {ask:?}");
        }
        assert_eq!(plant.arrived(Intruder, Plc1), 0);
        assert!(plant.stop().is_exact());
    }

    #[test]
    fn a_connection_ends_with_the_rule_that_permitted_it() {
        let mut plant = MemoryPlant::start(POLICY).unwrap();
        let port = plant.open(Name::Hmi, Name::Plc1, Ask::Tcp(502), Family::V4);
        plant.settle();
        assert_eq!(plant.outcome(port), Some(Outcome::Answered));
        assert_eq!(plant.exchange(Name::Hmi, Name::Plc1, 502, port), Outcome::Answered);
        plant.reload(&POLICY.replace("tcp/502", "tcp/503")).unwrap();
        assert_eq!(plant.exchange(Name::Hmi, Name::Plc1, 502, port), Outcome::Silent);
        assert!(plant.reload("version: 2").is_err());
        assert!(plant.stop().is_exact());
    }
}
