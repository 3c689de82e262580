//! Messages of the gateway to sums for the store: who opened what to whom in each period.
//!
//! Everything is bounded. What there is no room for is counted and told, here as everywhere. Records of
//! a flow carry its totals so far; what was counted already is remembered, in the store too, so that
//! neither a restart of this process nor a flow of a month counts anything twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_learn::observe::{PortProtocol, Service};
use bulkhead_pipeline::parse::{self, Kind, Origin, Parsed};
use bulkhead_rules::headers::{Headers, Mac, WireId, protocol};
use serde::{Deserialize, Serialize};

use super::announce::{self, Datagram, Fact};
use super::application::{self, Application, Payload, Sender, Transport};
use super::templates::ANSWERS;
use crate::flow_stream::{End, Event, Flow, Frame, FrameKind, Lost, Message, Reached, Side};

/// How much may wait for the store, in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Distinct sums of edges.
    pub edges: usize,
    /// Distinct endpoints, names, leases and services each.
    pub facts: usize,
    /// Flows that are open and followed.
    pub open_flows: usize,
}

impl Default for Limits {
    /// About 300 MB at most.
    fn default() -> Self {
        Self { edges: 500_000, facts: 200_000, open_flows: 500_000 }
    }
}

/// One end of a conversation: a MAC address, with the network address that came with it. Behind a
/// router many addresses come with its one MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// The MAC address in its frames.
    pub mac: Mac,
    /// Its address; nothing where its frames are not IP.
    pub address: Option<IpAddr>,
}

/// What tells the sums of edges apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EdgeKey {
    /// When the period began, in seconds since the Unix epoch.
    pub period: i64,
    /// Who opened.
    pub client: Endpoint,
    /// To whom.
    pub server: Endpoint,
    /// What.
    pub service: Service,
    /// On which wire.
    pub wire: Arc<str>,
    /// VLAN identifiers, the outer one first.
    pub vlan: [u16; 2],
    /// The client's port, where it is not sure which end is the client; else 0.
    pub client_port: u16,
}

/// What an edge came to in a period.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EdgeSum {
    /// Flows that began, or were first heard of.
    pub flows: u64,
    /// Flows that were answered first in this period, or went on with answers.
    pub answered: u64,
    /// Flows that ended without an answer, or were refused.
    pub failed: u64,
    /// Packets that an enforcing wire denied.
    pub denied: u64,
    /// Flows that an observing wire would have denied if it had enforced.
    pub would_deny: u64,
    /// Packets of the client.
    pub client_packets: u64,
    /// Packets of the server.
    pub server_packets: u64,
    /// Bytes of the client's frames.
    pub client_bytes: u64,
    /// Bytes of the server's frames.
    pub server_bytes: u64,
    /// When it was seen first in the period, in Unix milliseconds.
    pub first_ms: i64,
    /// And last.
    pub last_ms: i64,
    /// The rule that decided last.
    pub rule: String,
    /// Why it was dropped, or would have been.
    pub reason: String,
}

/// When something was seen first and last, in Unix milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// First.
    pub first_ms: i64,
    /// Last.
    pub last_ms: i64,
}

impl Seen {
    fn at(ms: i64) -> Self {
        Self { first_ms: ms, last_ms: ms }
    }

    /// Together with another time.
    pub fn widen(&mut self, other: Self) {
        self.first_ms = self.first_ms.min(other.first_ms);
        self.last_ms = self.last_ms.max(other.last_ms);
    }
}

/// Where an endpoint was seen last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// When.
    pub seen: Seen,
    /// On which wire.
    pub wire: Arc<str>,
    /// On which side of it.
    pub side: Side,
    /// In which VLAN.
    pub vlan: [u16; 2],
}

/// A flow that is open, and what of it is counted already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Packets of the client.
    pub client_packets: u64,
    /// Packets of the server.
    pub server_packets: u64,
    /// Bytes of the client.
    pub client_bytes: u64,
    /// Bytes of the server.
    pub server_bytes: u64,
    /// When it was heard of last, in Unix milliseconds.
    pub last_ms: i64,
}

/// What tells flows apart, over all times.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FlowKey {
    #[serde(with = "wire_text")]
    wire: Arc<str>,
    vlan: [u16; 2],
    ether_type: u16,
    protocol: u8,
    client: Option<IpAddr>,
    server: Option<IpAddr>,
    macs: ([u8; 6], [u8; 6]),
    ports: (u16, u16),
    first_ms: i64,
}

/// A shared text as the text that it is.
mod wire_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Arc::from)
    }
}

/// An application on a service of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Serves {
    /// Who serves.
    pub server: Endpoint,
    /// By what.
    pub service: Service,
    /// What it is.
    pub application: Application,
}

/// What waits for the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// Sums since the last batch.
    pub edges: HashMap<EdgeKey, EdgeSum>,
    /// Endpoints that were seen.
    pub endpoints: HashMap<Endpoint, Place>,
    /// Names, leases and routers that were told.
    pub facts: HashMap<Fact, Seen>,
    /// Applications that were recognised.
    pub services: HashMap<Serves, Seen>,
    /// Open flows that changed, or ended ([`None`]).
    pub flows: HashMap<FlowKey, Option<Counted>>,
    /// For each wire whether it enforces, and since when that was seen.
    pub wires: HashMap<Arc<str>, (bool, i64)>,
    /// How far the gateway's stream was read: the store knows all before, or what became of it.
    pub reached: Option<Reached>,
}

impl Batch {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
            && self.endpoints.is_empty()
            && self.facts.is_empty()
            && self.services.is_empty()
            && self.flows.is_empty()
            && self.wires.is_empty()
    }
}

/// What was counted since this process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Counters {
    /// Records of flows that were read.
    pub flows_read: u64,
    /// Copies of frames that were read.
    pub frames_read: u64,
    /// Records of flows that the gateway lost before.
    pub flows_lost: u64,
    /// Copies of frames that the gateway lost before.
    pub frames_lost: u64,
    /// Records of flows for whose edge there was no room while the store could not be written.
    pub flows_dropped: u64,
    /// Endpoints, names and services for which there was no room.
    pub facts_dropped: u64,
    /// Records of flows that the gateway told a process which ended before it had stored them.
    pub flows_unstored: u64,
    /// Copies of frames, likewise.
    pub frames_unstored: u64,
    /// Flows that were not followed, because too many were open: they count when they end.
    pub flows_not_followed: u64,
}

/// An open flow.
#[derive(Clone, Copy, Debug)]
struct Open {
    counted: Counted,
    /// Whether the store knows it, or soon will.
    is_stored: bool,
}

/// Sums up what the gateway tells.
#[derive(Clone, Debug)]
pub struct Ingest {
    limits: Limits,
    period_s: i64,
    open: HashMap<FlowKey, Open>,
    wires: HashMap<String, Arc<str>>,
    modes: HashMap<Arc<str>, bool>,
    scratch: Vec<u8>,
    /// How far the gateway's stream was read, by this process or the one before.
    reached: Option<Reached>,
    /// What is told again, because the one before had it already.
    again: Lost,
    /// What waits.
    pub batch: Batch,
    /// What was counted.
    pub counters: Counters,
}

impl Ingest {
    /// Sums over periods of so many seconds. `open` are the flows that the store knows as open.
    pub fn new(period_s: u32, limits: Limits, open: HashMap<FlowKey, Counted>) -> Self {
        let open = open.into_iter().map(|(key, counted)| (key, Open { counted, is_stored: true }));
        Self {
            limits,
            period_s: i64::from(period_s.max(1)),
            open: open.collect(),
            wires: HashMap::new(),
            modes: HashMap::new(),
            scratch: Vec::new(),
            reached: None,
            again: Lost::default(),
            batch: Batch::default(),
            counters: Counters::default(),
        }
    }

    /// Goes on where the store has got to.
    pub fn go_on_from(&mut self, reached: Option<Reached>) {
        self.reached = reached;
    }

    /// Takes in one message.
    pub fn add(&mut self, message: &Message) {
        let again = match message {
            Message::Hello(hello) => return self.hello(hello.at),
            Message::Flow(_) => &mut self.again.flows,
            Message::Frame(_) => &mut self.again.frames,
            Message::Lost(_) => &mut 0,
        };
        if *again > 0 {
            *again -= 1;
            return;
        }
        let mut before = self.reached.unwrap_or_default().before;
        match message {
            Message::Hello(_) => {}
            Message::Flow(flow) => {
                before.flows += 1;
                self.flow(flow);
            }
            Message::Frame(frame) => {
                before.frames += 1;
                self.frame(frame);
            }
            Message::Lost(Lost { flows, frames }) => {
                before.flows = before.flows.saturating_add(*flows);
                before.frames = before.frames.saturating_add(*frames);
                self.counters.flows_lost = self.counters.flows_lost.saturating_add(*flows);
                self.counters.frames_lost = self.counters.frames_lost.saturating_add(*frames);
            }
        }
        if let Some(reached) = &mut self.reached {
            reached.before = before;
        }
    }

    /// The stream begins, or goes on, at this place.
    fn hello(&mut self, at: Reached) {
        self.again = Lost::default();
        // Of what another run told after the last record that is known here, nobody knows.
        if let Some(Reached { before, .. }) = self.reached.filter(|reached| reached.run == at.run) {
            let gone = |now: u64, then: u64| now.saturating_sub(then);
            let flows = gone(at.before.flows, before.flows);
            let frames = gone(at.before.frames, before.frames);
            self.counters.flows_unstored = self.counters.flows_unstored.saturating_add(flows);
            self.counters.frames_unstored = self.counters.frames_unstored.saturating_add(frames);
            self.again.flows = gone(before.flows, at.before.flows);
            self.again.frames = gone(before.frames, at.before.frames);
            // What comes again has been reached already.
            let before = Lost {
                flows: before.flows.max(at.before.flows),
                frames: before.frames.max(at.before.frames),
            };
            self.reached = Some(Reached { run: at.run, before });
            return;
        }
        self.reached = Some(at);
    }

    /// What waits, for the store: it is the store's to keep from now on.
    pub fn take_batch(&mut self) -> Batch {
        let mut batch = std::mem::take(&mut self.batch);
        batch.reached = self.reached;
        for key in batch.flows.keys() {
            if let Some(open) = self.open.get_mut(key) {
                open.is_stored = true;
            }
        }
        batch
    }

    /// Flows that are open and followed.
    pub fn open_flows(&self) -> usize {
        self.open.len()
    }

    fn flow(&mut self, flow: &Flow) {
        self.counters.flows_read += 1;
        let wire = self.wire(&flow.wire);
        self.mode(&wire, flow);
        let key = self.edge_key(flow, Arc::clone(&wire));
        if self.batch.edges.len() >= self.limits.edges && !self.batch.edges.contains_key(&key) {
            self.counters.flows_dropped += 1;
            return;
        }
        let delta = match flow.event {
            Event::Denied => of_denied(flow),
            Event::Started | Event::Continues | Event::Ended => {
                let Some(delta) = self.of_flow(flow, &wire) else { return };
                delta
            }
        };
        let seen = Seen { first_ms: delta.first_ms, last_ms: delta.last_ms };
        let other = opposite(flow.client_side);
        self.endpoint(key.client, seen, &wire, flow.client_side, flow.vlan);
        self.endpoint(key.server, seen, &wire, other, flow.vlan);
        add_sum(self.batch.edges.entry(key), delta);
    }

    /// What a record adds to what was counted of its flow. Nothing where the flow is not followed
    /// and goes on: it counts when it ends.
    fn of_flow(&mut self, flow: &Flow, wire: &Arc<str>) -> Option<EdgeSum> {
        let key = flow_key(flow, Arc::clone(wire));
        let known = self.open.get(&key).copied();
        if known.is_none()
            && flow.event != Event::Ended
            && self.open.len() >= self.limits.open_flows
        {
            self.counters.flows_not_followed += 1;
            return None;
        }
        let before = known.map(|known| known.counted).unwrap_or_default();
        let is_stored = known.is_some_and(|known| known.is_stored);
        let is_over = flow.event == Event::Ended;
        let now = Counted {
            client_packets: flow.client_packets,
            server_packets: flow.server_packets,
            client_bytes: flow.client_bytes,
            server_bytes: flow.server_bytes,
            last_ms: flow.last_ms,
        };
        if is_over {
            self.open.remove(&key);
            // What begins and ends between two batches never was open for the store.
            if is_stored {
                self.batch.flows.insert(key, None);
            } else {
                self.batch.flows.remove(&key);
            }
        } else {
            self.open.insert(key.clone(), Open { counted: now, is_stored });
            self.batch.flows.insert(key, Some(now));
        }
        let refused = flow.end == Some(End::Reset)
            && flow.protocol == protocol::TCP
            && flow.server_packets <= 1;
        let answered = flow.answered && !refused;
        let is_new = known.is_none();
        Some(EdgeSum {
            flows: u64::from(is_new),
            answered: u64::from(answered),
            failed: u64::from(is_over && !answered),
            denied: 0,
            would_deny: u64::from(is_new && !flow.allowed && !flow.enforced),
            client_packets: now.client_packets.saturating_sub(before.client_packets),
            server_packets: now.server_packets.saturating_sub(before.server_packets),
            client_bytes: now.client_bytes.saturating_sub(before.client_bytes),
            server_bytes: now.server_bytes.saturating_sub(before.server_bytes),
            first_ms: if is_new { flow.first_ms } else { before.last_ms },
            last_ms: flow.last_ms,
            rule: flow.rule.clone(),
            reason: flow.reason.clone().unwrap_or_default(),
        })
    }

    fn edge_key(&self, flow: &Flow, wire: Arc<str>) -> EdgeKey {
        let service = service_of(flow.ether_type, flow.protocol, flow.client, flow.server_port);
        let is_sure = flow.opening_seen && !looks_like_an_answer(flow, service);
        EdgeKey {
            period: flow.last_ms.div_euclid(1000).div_euclid(self.period_s) * self.period_s,
            client: Endpoint { mac: flow.client_mac.0, address: flow.client },
            server: Endpoint { mac: flow.server_mac.0, address: flow.server },
            service,
            wire,
            vlan: flow.vlan,
            client_port: if is_sure { 0 } else { flow.client_port },
        }
    }

    fn endpoint(
        &mut self,
        endpoint: Endpoint,
        seen: Seen,
        wire: &Arc<str>,
        side: Side,
        vlan: [u16; 2],
    ) {
        let endpoints = &mut self.batch.endpoints;
        if endpoints.len() >= self.limits.facts && !endpoints.contains_key(&endpoint) {
            self.counters.facts_dropped += 1;
            return;
        }
        let place = Place { seen, wire: Arc::clone(wire), side, vlan };
        match endpoints.entry(endpoint) {
            Entry::Vacant(entry) => {
                entry.insert(place);
            }
            Entry::Occupied(mut entry) => {
                let mut place = place;
                place.seen.widen(entry.get().seen);
                entry.insert(place);
            }
        }
    }

    fn frame(&mut self, frame: &Frame) {
        self.counters.frames_read += 1;
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        bytes.extend_from_slice(&frame.bytes);
        // Copies are cut: headers are checked against the length on the wire, and what is made up
        // here is not looked at.
        bytes.resize((frame.len as usize).clamp(frame.bytes.len(), MAX_FRAME_BYTES), 0);
        let mut parsed = Parsed::default();
        let is_whole = parse::parse_into(&bytes, WireId(0), Origin::Capture, &mut parsed).is_ok();
        self.scratch = bytes;
        if !is_whole || parsed.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return;
        }
        match frame.kind {
            FrameKind::Denied => {}
            FrameKind::FirstPayload => self.first_payload(frame, &parsed),
            FrameKind::Announcement => self.announcement(frame, &parsed),
        }
    }

    fn announcement(&mut self, frame: &Frame, parsed: &Parsed) {
        let headers = &parsed.headers;
        let facts = if headers.ether_type == ETHER_LLDP {
            let payload = frame.bytes.get(usize::from(parsed.network_offset)..);
            announce::of_lldp(headers.src_mac, payload.unwrap_or_default())
        } else {
            let Some((src, _)) = addresses(headers) else { return };
            let Some((Transport::Udp, payload, _)) = payload(frame, parsed) else { return };
            let (src_port, dst_port) = (headers.src_port, headers.dst_port);
            announce::of_datagram(&Datagram { src, src_port, dst_port, payload })
        };
        for fact in facts {
            let known = &mut self.batch.facts;
            if known.len() >= self.limits.facts && !known.contains_key(&fact) {
                self.counters.facts_dropped += 1;
                continue;
            }
            let seen = Seen::at(frame.unix_ms);
            known.entry(fact).and_modify(|known| known.widen(seen)).or_insert(seen);
        }
    }

    fn first_payload(&mut self, frame: &Frame, parsed: &Parsed) {
        let headers = &parsed.headers;
        let Some((src, dst)) = addresses(headers) else { return };
        let Some((transport, bytes, len)) = payload(frame, parsed) else { return };
        let (src_port, dst_port) = (headers.src_port, headers.dst_port);
        let found = application::recognise(&Payload { transport, src_port, dst_port, bytes, len });
        let Some((application, sender)) = found else { return };
        let source = Endpoint { mac: headers.src_mac, address: Some(src) };
        let target = Endpoint { mac: headers.dst_mac, address: Some(dst) };
        let (server, port) = match sender {
            Sender::Client => (target, dst_port),
            Sender::Server => (source, src_port),
            // The lower port is the service's, as a rule.
            Sender::Unknown if src_port < dst_port => (source, src_port),
            Sender::Unknown => (target, dst_port),
        };
        let protocol = match transport {
            Transport::Tcp => PortProtocol::Tcp,
            Transport::Udp => PortProtocol::Udp,
        };
        let serves = Serves { server, service: Service::Port(protocol, port), application };
        let known = &mut self.batch.services;
        if known.len() >= self.limits.facts && !known.contains_key(&serves) {
            self.counters.facts_dropped += 1;
            return;
        }
        let seen = Seen::at(frame.unix_ms);
        known.entry(serves).and_modify(|known| known.widen(seen)).or_insert(seen);
    }

    /// Notes when a wire goes from observing to enforcing, or back.
    fn mode(&mut self, wire: &Arc<str>, flow: &Flow) {
        if self.modes.get(wire) != Some(&flow.enforced) {
            self.modes.insert(Arc::clone(wire), flow.enforced);
            self.batch.wires.insert(Arc::clone(wire), (flow.enforced, flow.last_ms));
        }
    }

    fn wire(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.wires.get(name) {
            return Arc::clone(known);
        }
        // A gateway has no more wires; who tells of more costs memory only once.
        if self.wires.len() >= crate::config::MAX_WIRES * 2 {
            self.wires.clear();
        }
        let wire: Arc<str> = Arc::from(name);
        self.wires.insert(name.to_owned(), Arc::clone(&wire));
        wire
    }
}

/// What a flow of these numbers uses.
pub fn service_of(
    ether_type: u16,
    protocol: u8,
    client: Option<IpAddr>,
    server_port: u16,
) -> Service {
    match (client, protocol) {
        (None, _) => Service::Ether(ether_type),
        (_, protocol::TCP) => Service::Port(PortProtocol::Tcp, server_port),
        (_, protocol::UDP) => Service::Port(PortProtocol::Udp, server_port),
        (_, protocol::SCTP) => Service::Port(PortProtocol::Sctp, server_port),
        (_, protocol::ICMP) => Service::Icmp { v6: false, kind: (server_port >> 8) as u8 },
        (_, protocol::ICMPV6) => Service::Icmp { v6: true, kind: (server_port >> 8) as u8 },
        (_, other) => Service::Ip(other),
    }
}

const ETHER_LLDP: u16 = 0x88cc;

/// The longest frame that offsets of 16 bits can describe.
const MAX_FRAME_BYTES: usize = u16::MAX as usize;

/// The first port that systems choose for clients.
const EPHEMERAL: u16 = 32_768;

/// A datagram from a well-known port to one that clients use: a gateway that was put in between
/// the question and the answer takes the answer for the beginning.
fn looks_like_an_answer(flow: &Flow, service: Service) -> bool {
    matches!(service, Service::Port(PortProtocol::Udp, port) if port >= EPHEMERAL)
        && ((1..1024).contains(&flow.client_port) || ANSWERS.contains(&flow.client_port))
}

/// What opened no flow. Where the wire enforces it was dropped; where it only observes, it crossed, and
/// counts as a flow of which nothing more is known, unless the gateway takes it for a lie.
fn of_denied(flow: &Flow) -> EdgeSum {
    let packets = flow.client_packets.max(1);
    let is_honest = matches!(flow.reason.as_deref(), None | Some("policy" | "tcp_no_flow"));
    EdgeSum {
        flows: u64::from(!flow.enforced && is_honest),
        denied: if flow.enforced { packets } else { 0 },
        would_deny: u64::from(!flow.enforced),
        client_packets: flow.client_packets,
        client_bytes: flow.client_bytes,
        first_ms: flow.first_ms,
        last_ms: flow.last_ms,
        rule: flow.rule.clone(),
        reason: flow.reason.clone().unwrap_or_default(),
        ..EdgeSum::default()
    }
}

fn add_sum(entry: Entry<'_, EdgeKey, EdgeSum>, delta: EdgeSum) {
    let sum = match entry {
        Entry::Vacant(entry) => {
            entry.insert(delta);
            return;
        }
        Entry::Occupied(entry) => entry.into_mut(),
    };
    sum.flows += delta.flows;
    sum.answered += delta.answered;
    sum.failed += delta.failed;
    sum.denied = sum.denied.saturating_add(delta.denied);
    sum.would_deny += delta.would_deny;
    sum.client_packets = sum.client_packets.saturating_add(delta.client_packets);
    sum.server_packets = sum.server_packets.saturating_add(delta.server_packets);
    sum.client_bytes = sum.client_bytes.saturating_add(delta.client_bytes);
    sum.server_bytes = sum.server_bytes.saturating_add(delta.server_bytes);
    sum.first_ms = sum.first_ms.min(delta.first_ms);
    sum.last_ms = sum.last_ms.max(delta.last_ms);
    sum.rule = delta.rule;
    sum.reason = delta.reason;
}

fn flow_key(flow: &Flow, wire: Arc<str>) -> FlowKey {
    FlowKey {
        wire,
        vlan: flow.vlan,
        ether_type: flow.ether_type,
        protocol: flow.protocol,
        client: flow.client,
        server: flow.server,
        macs: match flow.client {
            Some(_) => ([0; 6], [0; 6]),
            None => (flow.client_mac.0.0, flow.server_mac.0.0),
        },
        ports: (flow.client_port, flow.server_port),
        first_ms: flow.first_ms,
    }
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Inside => Side::Outside,
        Side::Outside => Side::Inside,
    }
}

/// Source and destination of an IP packet.
pub fn addresses(headers: &Headers) -> Option<(IpAddr, IpAddr)> {
    let address = |value: u128| match headers.ether_type {
        bulkhead_rules::headers::ETHER_IPV4 => Some(IpAddr::V4((value as u32).into())),
        bulkhead_rules::headers::ETHER_IPV6 => Some(IpAddr::V6(value.into())),
        _ => None,
    };
    Some((address(headers.src)?, address(headers.dst)?))
}

/// The payload of TCP or UDP: as much as was copied, and its length on the wire.
fn payload<'f>(frame: &'f Frame, parsed: &Parsed) -> Option<(Transport, &'f [u8], usize)> {
    let upper = usize::from(parsed.upper_offset);
    let (transport, start) = match (parsed.kind, parsed.headers.protocol) {
        (Kind::Tcp, _) => {
            let words = usize::from(frame.bytes.get(upper + 12)? >> 4);
            (Transport::Tcp, upper + words * 4)
        }
        (_, protocol::UDP) => (Transport::Udp, upper + 8),
        _ => return None,
    };
    let end = usize::from(parsed.packet_end);
    let len = end.checked_sub(start).filter(|&len| len > 0)?;
    let bytes = frame.bytes.get(start..end.min(frame.bytes.len()))?;
    Some((transport, bytes, len))
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
