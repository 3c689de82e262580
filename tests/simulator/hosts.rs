//! The hosts on both sides of the wires, and what they have to say to each other.
//!
//! Every host has an IPv4 and an IPv6 address and a MAC address. A [`Talk`] is one conversation
//! between two of them, over one wire, in one VLAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_rules::headers::Mac;

use super::frame::{InFlight, Origin, Sender};
use super::port::Place;
use super::random::Random;
use super::tcp::{Endpoint, Segment};

/// Hosts on each side.
pub(super) const HOSTS: usize = 5;
/// VLAN tags that conversations use, outer first.
pub(super) const VLANS: [&[u16]; 4] = [&[], &[10], &[20], &[100, 10]];
/// A conversation that has not come to its end after so many turns is left alone.
const MOST_POKES: u32 = 80;
/// Destination ports of TCP and UDP.
pub(super) const PORTS: [u16; 3] = [80, 502, 5000];

/// A host: its side and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Host {
    pub(super) inside: bool,
    pub(super) number: usize,
}

impl Host {
    pub(super) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, if self.inside { 1 } else { 2 }, self.number as u8 + 1)
    }

    pub(super) fn v6(self) -> Ipv6Addr {
        let side = if self.inside { 1 } else { 2 };
        Ipv6Addr::new(0xfd00, side, 0, 0, 0, 0, 0, self.number as u16 + 1)
    }

    pub(super) fn addr(self, is_v6: bool) -> IpAddr {
        if is_v6 { self.v6().into() } else { self.v4().into() }
    }

    pub(super) fn mac(self) -> Mac {
        Mac([2, 0, 0, 0, if self.inside { 1 } else { 2 }, self.number as u8 + 1])
    }

    pub(super) fn any(random: &mut Random, inside: bool) -> Self {
        Self { inside, number: random.below(HOSTS) }
    }
}

/// Between whom, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) wire: u16,
    pub(super) vlan: usize,
    pub(super) is_v6: bool,
    pub(super) client: Host,
    pub(super) server: Host,
    pub(super) client_port: u16,
    pub(super) server_port: u16,
}

impl Path {
    pub(super) fn any(random: &mut Random, wires: u16) -> Self {
        let inside = random.permille(600);
        Self {
            wire: random.below(wires.into()) as u16,
            vlan: if random.permille(400) { 0 } else { random.below(VLANS.len()) },
            is_v6: random.permille(400),
            client: Host::any(random, inside),
            server: Host::any(random, !inside),
            client_port: random.between(20_000, 60_000) as u16,
            server_port: random.pick(&PORTS),
        }
    }

    /// Sender and receiver.
    pub(super) fn ends(&self, from_client: bool) -> (Host, Host) {
        if from_client { (self.client, self.server) } else { (self.server, self.client) }
    }

    /// Source and destination port.
    pub(super) fn ports(&self, from_client: bool) -> (u16, u16) {
        let ports = (self.client_port, self.server_port);
        if from_client { ports } else { (ports.1, ports.0) }
    }

    /// The port of the gateway that the sender's frames reach.
    pub(super) fn place(&self, from_client: bool) -> Place {
        Place { wire: self.wire, inside: self.ends(from_client).0.inside }
    }

    /// A frame up to its tags.
    pub(super) fn link(&self, from_client: bool) -> FrameBuilder {
        let (from, to) = self.ends(from_client);
        let frame = FrameBuilder::new().macs(from.mac(), to.mac());
        VLANS[self.vlan].iter().fold(frame, |frame, vid| frame.vlan(*vid))
    }

    /// A frame up to its IP header.
    pub(super) fn ip(&self, from_client: bool) -> FrameBuilder {
        let (from, to) = self.ends(from_client);
        self.link(from_client).ip(from.addr(self.is_v6), to.addr(self.is_v6))
    }

    /// A frame with a segment.
    pub(super) fn tcp(&self, from_client: bool, segment: &Segment) -> FrameBuilder {
        let (src, dst) = self.ports(from_client);
        let frame = self.ip(from_client).tcp(src, dst, segment.flags);
        let frame = frame.seq(segment.seq, segment.ack).window(segment.window);
        let frame = match segment.scale {
            Some(shift) => frame.tcp_options(&[3, 3, shift]),
            None => frame,
        };
        frame.payload_len(segment.len.into())
    }
}

/// What is said.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Tcp {
        client: Box<Endpoint>,
        server: Box<Endpoint>,
    },
    /// Datagrams, answered or not, whole or in fragments.
    Udp {
        left: u32,
        answers: bool,
        payload_len: usize,
    },
    Echo {
        left: u32,
        payload_len: usize,
    },
    /// Another IP protocol, which has no ports.
    Protocol {
        left: u32,
        number: u8,
    },
    /// Frames of an EtherType that the gateway does not look into.
    Raw {
        left: u32,
        ether_type: u16,
    },
    /// ARP and neighbour discovery, or link control.
    Control {
        left: u32,
    },
}

/// What a talk sends, and how it is to be sent on.
pub(super) struct Outbox {
    pub(super) frames: Vec<InFlight>,
    segments: Vec<Segment>,
}

/// One conversation.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub(super) path: Path,
    pub(super) kind: Kind,
    sender: Sender,
    /// When it next does something of its own accord.
    next_ns: u64,
    sequence: u16,
    pokes: u32,
    pub(super) is_over: bool,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { frames: Vec::new(), segments: Vec::new() }
    }
}

impl Talk {
    /// A new conversation; `place` and `number` are what its frames are recognised by.
    pub(super) fn new(random: &mut Random, wires: u16, id: (usize, u64), jumbo: bool) -> Self {
        let path = Path::any(random, wires);
        let left = random.between(1, 12) as u32;
        let longest = if jumbo { 4000 } else { 2400 };
        let len = |random: &mut Random| match random.below(4) {
            0 => random.below(longest),
            _ => random.below(200),
        };
        let kind = match random.below(20) {
            0..9 => Kind::Tcp {
                client: Box::new(Endpoint::new(true, random)),
                server: Box::new(Endpoint::new(false, random)),
            },
            9..14 => Kind::Udp { left, answers: random.permille(700), payload_len: len(random) },
            14..17 => Kind::Echo { left, payload_len: len(random) },
            17 => Kind::Protocol { left, number: random.pick(&[47, 50, 99]) },
            18 => Kind::Raw { left, ether_type: 0x8892 },
            _ => Kind::Control { left },
        };
        let sender = Sender { origin: Origin::Honest, talk: Some(id) };
        Self { path, kind, sender, next_ns: 0, sequence: 0, pokes: 0, is_over: false }
    }

    /// The same ends talk again over the same ports: a new connection in the place of an old one.
    pub(super) fn again(&self, random: &mut Random, id: (usize, u64)) -> Option<Self> {
        let Kind::Tcp { .. } = self.kind else { return None };
        // Sometimes it is the old server that opens: another flow to the policy.
        let mut path = self.path;
        if random.permille(300) {
            path = Path {
                client: path.server,
                server: path.client,
                client_port: path.server_port,
                server_port: path.client_port,
                ..path
            };
        }
        let kind = Kind::Tcp {
            client: Box::new(Endpoint::new(true, random)),
            server: Box::new(Endpoint::new(false, random)),
        };
        let sender = Sender { talk: Some(id), ..self.sender };
        Some(Self { path, kind, sender, next_ns: 0, sequence: 0, pokes: 0, is_over: false })
    }

    /// Whether a frame belongs to this conversation and not to an earlier one in its place.
    pub(super) fn owns(&self, sender: &Sender) -> bool {
        self.sender.talk == sender.talk
    }

    /// Whether a TCP connection was opened and closed in good order.
    pub(super) fn is_closed(&self) -> bool {
        match &self.kind {
            Kind::Tcp { client, server } => client.is_closed() && server.is_closed(),
            _ => false,
        }
    }

    /// Does what it does of its own accord at `now_ns`.
    pub(super) fn poke(&mut self, now_ns: u64, random: &mut Random, out: &mut Outbox) {
        if now_ns < self.next_ns || self.is_over {
            return;
        }
        // Mostly at once, sometimes after a pause that a timeout may outrun.
        self.next_ns = now_ns + random.pick(&[0, 1, 20, 200, 2_000]) * 1_000_000;
        match &mut self.kind {
            Kind::Tcp { client, .. } => {
                client.poke(now_ns, &mut out.segments);
                self.post_segments(true, out);
                if let Kind::Tcp { server, .. } = &mut self.kind {
                    server.poke(now_ns, &mut out.segments);
                }
                self.post_segments(false, out);
                self.pokes += 1;
                self.is_over = self.are_endpoints_done() || self.pokes > MOST_POKES;
            }
            Kind::Udp { left, .. }
            | Kind::Echo { left, .. }
            | Kind::Protocol { left, .. }
            | Kind::Raw { left, .. }
            | Kind::Control { left } => {
                *left -= 1;
                self.is_over = *left == 0;
                self.say(true, random, out);
            }
        }
    }

    /// A frame of this conversation has reached its receiver.
    pub(super) fn hear(
        &mut self,
        frame: &InFlight,
        now_ns: u64,
        random: &mut Random,
        out: &mut Outbox,
    ) {
        let from_client = frame.place.inside != self.path.client.inside;
        if let Kind::Tcp { client, server } = &mut self.kind {
            let Some(segment) = read_segment(&frame.bytes) else { return };
            let hearer = if from_client { server } else { client };
            hearer.receive(&segment, now_ns, &mut out.segments);
            self.post_segments(!from_client, out);
            return;
        }
        let answers = match self.kind {
            Kind::Udp { answers, .. } => answers,
            Kind::Echo { .. } => true,
            Kind::Protocol { .. } | Kind::Raw { .. } => random.permille(500),
            Kind::Tcp { .. } | Kind::Control { .. } => false,
        };
        if from_client && answers {
            self.say(false, random, out);
        } else if matches!(self.kind, Kind::Udp { .. }) && random.permille(100) {
            self.complain(frame, out);
        }
    }

    /// The receiver of a datagram has no use for it, and says so.
    fn complain(&self, frame: &InFlight, out: &mut Outbox) {
        let by_client = frame.place.inside == self.path.client.inside;
        let at = 14 + 4 * VLANS[self.path.vlan].len();
        let Some(quoted) = frame.bytes.get(at..frame.bytes.len().min(at + 96)) else { return };
        let (kind, code) = if self.path.is_v6 { (1, 4) } else { (3, 3) };
        let bytes = self.path.ip(by_client).icmp(kind, code, 0).payload(quoted).build();
        let place = self.path.place(by_client);
        out.frames.push(InFlight::new(self.sender, place, bytes));
    }

    /// A frame of the client's or the server's, where it is not TCP.
    fn say(&mut self, from_client: bool, random: &mut Random, out: &mut Outbox) {
        self.sequence += 1;
        let path = &self.path;
        let (src, dst) = path.ports(from_client);
        // No two packets of one host that are under way at the same time have the same one.
        let number = self.sender.talk.map_or(0, |(_, number)| number as u32);
        let packet_id = (number * 32 + u32::from(self.sequence)) & 0xffff;
        let frames = match &self.kind {
            Kind::Udp { payload_len, .. } => {
                let frame = path.ip(from_client).udp(src, dst).payload_len(*payload_len);
                fragments(frame, *payload_len, packet_id, random)
            }
            Kind::Echo { payload_len, .. } => {
                let (id, nth) = (path.client_port, self.sequence);
                let frame = path.ip(from_client);
                let frame = if from_client {
                    frame.echo_request(id, nth)
                } else {
                    frame.echo_reply(id, nth)
                };
                fragments(frame.payload_len(*payload_len), *payload_len, packet_id, random)
            }
            Kind::Protocol { number, .. } => {
                vec![path.ip(from_client).protocol(*number).payload_len(40).build()]
            }
            Kind::Raw { ether_type, .. } => {
                vec![path.link(from_client).ether_type(*ether_type).payload_len(46).build()]
            }
            Kind::Control { .. } => vec![control(path, random)],
            Kind::Tcp { .. } => Vec::new(),
        };
        let place = path.place(from_client);
        out.frames.extend(frames.into_iter().map(|f| InFlight::new(self.sender, place, f)));
    }

    fn post_segments(&self, from_client: bool, out: &mut Outbox) {
        let place = self.path.place(from_client);
        for segment in out.segments.drain(..) {
            let bytes = self.path.tcp(from_client, &segment).build();
            out.frames.push(InFlight::new(self.sender, place, bytes));
        }
    }

    fn are_endpoints_done(&self) -> bool {
        match &self.kind {
            Kind::Tcp { client, server } => client.is_done() && server.is_done(),
            _ => true,
        }
    }
}

/// The datagram whole, or in fragments, the first one first or not.
fn fragments(
    frame: FrameBuilder,
    payload_len: usize,
    packet_id: u32,
    random: &mut Random,
) -> Vec<Vec<u8>> {
    if payload_len <= 1400 && !random.permille(50) {
        return vec![frame.build()];
    }
    let data_len = random.pick(&[1400, 1400, 600, 104]);
    let mut fragments = frame.build_fragments(packet_id, data_len);
    match random.below(4) {
        0 => fragments.reverse(),
        1 => {
            let at = random.below(fragments.len());
            fragments.swap(0, at);
        }
        _ => {}
    }
    fragments
}

/// ARP, neighbour discovery or spanning tree.
fn control(path: &Path, random: &mut Random) -> Vec<u8> {
    let (client, server) = (path.client, path.server);
    match random.below(3) {
        0 => path.link(true).arp(1, client.v4(), server.v4()).build(),
        1 => {
            let mut message = vec![0; 4];
            message.extend(server.v6().octets());
            let frame = path.link(true).ip(client.v6(), server.v6()).hop_limit(255);
            frame.icmp(135, 0, 0).payload(&message[4..]).build()
        }
        _ => {
            let group = Mac([1, 0x80, 0xc2, 0, 0, 0]);
            let frame = FrameBuilder::new().macs(client.mac(), group).llc();
            frame.payload(&[0x42, 0x42, 3, 0, 0, 0, 0]).build()
        }
    }
}

/// The segment of a frame that a host has received, if its checksum is right.
fn read_segment(frame: &[u8]) -> Option<Segment> {
    let parsed = bulkhead_pipeline::parse::parse(frame, Default::default()).ok()?;
    let tcp = parsed.tcp;
    Some(Segment {
        flags: tcp.flags,
        seq: tcp.seq,
        ack: tcp.ack,
        window: tcp.window,
        scale: tcp.window_scale,
        len: tcp.payload_len,
    })
}
