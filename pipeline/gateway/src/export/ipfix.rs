//! Flow records as IPFIX (RFC 7011) over UDP or TCP, both directions in one record (RFC 5103).
//!
//! Counters are what came since the last record of the same flow, as collectors add them up: a flow
//! that goes on is told with `flowEndReason` 2 (active timeout) and `firewallEvent` 5 (update), one
//! that is over with 2 (deleted), what was denied with 3. That a flow has begun is not told: its first
//! packets are in the next record.
//!
//! Over UDP templates are sent again every minute, over TCP once for each connection. The sequence
//! number counts records whether or not they could be sent, so that a collector sees what it misses.
//! TCP has a thread of its own, which may wait for the collector; what finds the queue to it full is
//! lost and counted.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead_rules::headers::protocol;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::{Sink, SinkCounts};
use crate::flow_stream::{End, Event, Flow, Message, Side};

const VERSION: u16 = 10;
const HEADER_BYTES: usize = 16;
const TEMPLATE_SET: u16 = 2;
/// The private enterprise number of the reverse direction's elements, RFC 5103.
const REVERSE: u32 = 29_305;

/// Bytes of a message: with IPv6 and UDP headers it fits an MTU of 1,500.
const MESSAGE_BYTES: usize = 1_400;
const TEMPLATE_INTERVAL: Duration = Duration::from_secs(60);
/// How long records wait for others to be sent with them.
const SEND_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that may wait for a TCP collector.
const QUEUE: usize = 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long a TCP collector that is away is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// Flows that go on and whose counters are remembered; of others only the end is told.
const REMEMBERED: usize = 1 << 18;

/// How a collector is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
}

/// A collector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Collector {
    /// How it is spoken to.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
}

impl std::fmt::Display for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// An information element: its number, its length in bytes, and whether it is of the reverse
/// direction.
type Element = (u16, u16, bool);

/// The elements that every record begins with. Their order is that of [`write_common`].
const COMMON: [Element; 14] = [
    (152, 8, false), // flowStartMilliseconds
    (153, 8, false), // flowEndMilliseconds
    (1, 8, false),   // octetDeltaCount
    (2, 8, false),   // packetDeltaCount
    (1, 8, true),
    (2, 8, true),
    (233, 1, false), // firewallEvent
    (136, 1, false), // flowEndReason
    (239, 1, false), // biflowDirection
    (10, 4, false),  // ingressInterface: two for each wire, the inside's before the outside's
    (58, 2, false),  // vlanId
    (245, 2, false), // dot1qCustomerVlanId
    (56, 6, false),  // sourceMacAddress
    (80, 6, false),  // destinationMacAddress
];

/// The kinds of records: what follows the common elements.
const OF_IPV4: (u16, &[Element]) = (
    256,
    &[(8, 4, false), (12, 4, false), (7, 2, false), (11, 2, false), (4, 1, false), (32, 2, false)],
);
const OF_IPV6: (u16, &[Element]) = (
    257,
    &[
        (27, 16, false),
        (28, 16, false),
        (7, 2, false),
        (11, 2, false),
        (4, 1, false),
        (139, 2, false),
    ],
);
/// Frames that are not IP: their EtherType.
const OF_LINK: (u16, &[Element]) = (258, &[(256, 2, false)]);

/// What tells one flow from others.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FlowKey {
    wire: String,
    vlan: [u16; 2],
    client: Option<IpAddr>,
    server: Option<IpAddr>,
    ports: (u16, u16),
    protocol: u8,
    ether_type: u16,
    macs: [[u8; 6]; 2],
}

/// Packets and bytes, the client's before the server's.
type Counters = [u64; 4];

/// Records of one kind, as they are sent, and how many they are.
struct Batch {
    records: Vec<u8>,
    count: u32,
}

/// A sink for one collector.
pub(super) struct Exporter {
    collector: Collector,
    wires: Vec<String>,
    told: HashMap<FlowKey, Counters>,
    set: Vec<u8>,
    set_template: u16,
    count: u32,
    sent_at: Option<Instant>,
    line: Line,
    counts: Arc<Counts>,
}

/// What became of records; the thread of a TCP collector counts here, too.
#[derive(Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
    why: Mutex<Option<String>>,
}

/// The way to the collector.
enum Line {
    Udp { writer: Writer, socket: Option<UdpSocket>, templates_at: Option<Instant> },
    Tcp(Sender<Batch>),
}

/// Puts headers before sets.
struct Writer {
    domain: u32,
    sequence: u32,
}

impl Exporter {
    pub(super) fn new(collector: Collector, domain: u32) -> Self {
        let counts = Arc::new(Counts::default());
        let line = match collector.transport {
            Transport::Udp => {
                let writer = Writer { domain, sequence: 0 };
                Line::Udp { writer, socket: None, templates_at: None }
            }
            Transport::Tcp => {
                let (sender, batches) = bounded(QUEUE);
                let shared = counts.clone();
                let body = move || Connection::new(collector.address, domain, shared).run(&batches);
                let thread = thread::Builder::new().name("ipfix".to_owned()).spawn(body);
                if let Err(error) = thread {
                    counts.lose(0, format!("cannot start a thread: {error}"));
                }
                Line::Tcp(sender)
            }
        };
        Self {
            collector,
            wires: Vec::new(),
            told: HashMap::new(),
            set: Vec::new(),
            set_template: 0,
            count: 0,
            sent_at: None,
            line,
            counts,
        }
    }

    fn flow(&mut self, flow: &Flow) {
        let Some(counters) = self.counters_since(flow) else { return };
        let (template, _) = kind_of(flow);
        let is_full = self.set.len() + HEADER_BYTES + longest_record() > MESSAGE_BYTES;
        if is_full || (self.count > 0 && template != self.set_template) {
            self.send();
        }
        if self.count == 0 {
            self.set_template = template;
            self.set.clear();
            self.set.extend(template.to_be_bytes());
            self.set.extend([0; 2]);
        }
        self.count += 1;
        let interface = self.interface(flow);
        write_common(&mut self.set, flow, counters, interface);
        write_specific(&mut self.set, flow);
    }

    /// What came since the last record of the flow; [`None`] where there is to be no record.
    fn counters_since(&mut self, flow: &Flow) -> Option<Counters> {
        let now = [flow.client_packets, flow.server_packets, flow.client_bytes, flow.server_bytes];
        let since = |before: &Counters| {
            // Less than before: it is another flow, and the end of the first one was lost.
            let is_same = now.iter().zip(before).all(|(now, before)| now >= before);
            let mut more = now;
            if is_same {
                more.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
            }
            more
        };
        match flow.event {
            Event::Started => None,
            Event::Denied => Some(now),
            Event::Ended => {
                let before = self.told.remove(&key_of(flow)).unwrap_or_default();
                Some(since(&before))
            }
            Event::Continues => {
                let key = key_of(flow);
                if self.told.len() >= REMEMBERED && !self.told.contains_key(&key) {
                    return None;
                }
                let before = self.told.insert(key, now).unwrap_or_default();
                Some(since(&before))
            }
        }
    }

    fn interface(&self, flow: &Flow) -> u32 {
        let wire = self.wires.iter().position(|wire| *wire == flow.wire);
        let side = u32::from(flow.client_side == Side::Outside);
        // 0 is the element's word for unknown.
        wire.and_then(|wire| u32::try_from(wire).ok()).map_or(0, |wire| 1 + 2 * wire + side)
    }

    fn send(&mut self) {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return;
        }
        let mut records = std::mem::take(&mut self.set);
        let length = (records.len() as u16).to_be_bytes();
        records[2..4].copy_from_slice(&length);
        match &mut self.line {
            Line::Tcp(sender) => match sender.try_send(Batch { records, count }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    self.counts.lose(count, "the collector takes less than comes".to_owned());
                }
                Err(TrySendError::Disconnected(_)) => {
                    self.counts.lose(count, "the sending thread has ended".to_owned());
                }
            },
            Line::Udp { writer, socket, templates_at } => {
                let now = Instant::now();
                if templates_at.is_none_or(|at| now.duration_since(at) >= TEMPLATE_INTERVAL) {
                    *templates_at = Some(now);
                    let _ = send_datagram(socket, self.collector.address, &writer.templates());
                }
                let message = writer.message(&records, count);
                match send_datagram(socket, self.collector.address, &message) {
                    Ok(()) => {
                        self.counts.written.fetch_add(u64::from(count), Relaxed);
                    }
                    Err(error) => self.counts.lose(count, error.to_string()),
                }
                self.set = records;
            }
        }
    }
}

impl Sink for Exporter {
    fn name(&self) -> String {
        format!("ipfix {}", self.collector)
    }

    fn write(&mut self, message: &Message) {
        match message {
            Message::Hello(hello) => self.wires.clone_from(&hello.wires),
            Message::Flow(flow) => self.flow(flow),
            Message::Frame(_) | Message::Lost(_) => {}
        }
    }

    fn tend(&mut self, now: Instant) {
        if self.sent_at.is_none_or(|at| now.duration_since(at) >= SEND_INTERVAL) {
            self.sent_at = Some(now);
            self.send();
        }
    }

    fn counts(&self) -> (SinkCounts, Option<String>) {
        let counts = SinkCounts {
            written: self.counts.written.load(Relaxed),
            lost: self.counts.lost.load(Relaxed),
        };
        let why = self.counts.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (counts, why)
    }
}

impl Counts {
    fn lose(&self, records: u32, why: String) {
        self.lost.fetch_add(u64::from(records), Relaxed);
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

fn send_datagram(
    socket: &mut Option<UdpSocket>,
    address: SocketAddr,
    message: &[u8],
) -> std::io::Result<()> {
    let open = match socket.take() {
        Some(open) => open,
        None => {
            let any: SocketAddr = if address.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let open = UdpSocket::bind(any)?;
            open.connect(address)?;
            open.set_nonblocking(true)?;
            open
        }
    };
    let sent = open.send(message);
    *socket = Some(open);
    sent.map(|_| ())
}

/// The connection to a TCP collector, on a thread of its own. Ends with its sender.
struct Connection {
    address: SocketAddr,
    writer: Writer,
    stream: Option<TcpStream>,
    failed_at: Option<Instant>,
    counts: Arc<Counts>,
}

impl Connection {
    fn new(address: SocketAddr, domain: u32, counts: Arc<Counts>) -> Self {
        let writer = Writer { domain, sequence: 0 };
        Self { address, writer, stream: None, failed_at: None, counts }
    }

    fn run(&mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            match self.send(&batch) {
                Ok(()) => {
                    self.counts.written.fetch_add(u64::from(batch.count), Relaxed);
                }
                Err(error) => {
                    self.counts.lose(batch.count, error.to_string());
                    if self.stream.take().is_some() || self.failed_at.is_none() {
                        self.failed_at = Some(Instant::now());
                    }
                }
            }
        }
    }

    fn send(&mut self, batch: &Batch) -> std::io::Result<()> {
        if self.stream.is_none() {
            if self.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
                return Err(std::io::Error::other("the collector is away"));
            }
            self.failed_at = None;
            let mut stream = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT)?;
            stream.set_write_timeout(Some(WRITE_LIMIT))?;
            stream.set_nodelay(true)?;
            // Each connection is a session of its own.
            self.writer.sequence = 0;
            stream.write_all(&self.writer.templates())?;
            self.stream = Some(stream);
        }
        let message = self.writer.message(&batch.records, batch.count);
        match &mut self.stream {
            Some(stream) => stream.write_all(&message),
            None => Ok(()),
        }
    }
}

impl Writer {
    /// A message with all templates.
    fn templates(&self) -> Vec<u8> {
        let mut set = Vec::new();
        set.extend(TEMPLATE_SET.to_be_bytes());
        set.extend([0; 2]);
        for (number, specific) in [OF_IPV4, OF_IPV6, OF_LINK] {
            set.extend(number.to_be_bytes());
            set.extend(((COMMON.len() + specific.len()) as u16).to_be_bytes());
            for &(element, length, is_reverse) in COMMON.iter().chain(specific) {
                let enterprise = if is_reverse { 0x8000 } else { 0 };
                set.extend((element | enterprise).to_be_bytes());
                set.extend(length.to_be_bytes());
                if is_reverse {
                    set.extend(REVERSE.to_be_bytes());
                }
            }
        }
        let length = (set.len() as u16).to_be_bytes();
        set[2..4].copy_from_slice(&length);
        self.header(&set)
    }

    /// A message with one set of `count` records.
    fn message(&mut self, set: &[u8], count: u32) -> Vec<u8> {
        let message = self.header(set);
        self.sequence = self.sequence.wrapping_add(count);
        message
    }

    fn header(&self, set: &[u8]) -> Vec<u8> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut message = Vec::with_capacity(HEADER_BYTES + set.len());
        message.extend(VERSION.to_be_bytes());
        message.extend(((HEADER_BYTES + set.len()) as u16).to_be_bytes());
        // 32 bits of seconds, as the RFC has it.
        message.extend((since_epoch.as_secs() as u32).to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(self.domain.to_be_bytes());
        message.extend(set);
        message
    }
}

fn kind_of(flow: &Flow) -> (u16, &'static [Element]) {
    match flow.client {
        Some(IpAddr::V4(_)) => OF_IPV4,
        Some(IpAddr::V6(_)) => OF_IPV6,
        None => OF_LINK,
    }
}

fn longest_record() -> usize {
    let bytes = |elements: &[Element]| elements.iter().map(|e| usize::from(e.1)).sum::<usize>();
    bytes(&COMMON) + bytes(OF_IPV6.1)
}

fn write_common(out: &mut Vec<u8>, flow: &Flow, counters: Counters, interface: u32) {
    let [client_packets, server_packets, client_bytes, server_bytes] = counters;
    let ms = |ms: i64| u64::try_from(ms).unwrap_or(0);
    for word in [
        ms(flow.first_ms),
        ms(flow.last_ms),
        client_bytes,
        client_packets,
        server_bytes,
        server_packets,
    ] {
        out.extend(word.to_be_bytes());
    }
    /// The initiator is the source.
    const INITIATOR: u8 = 1;
    out.extend([firewall_event(flow.event), end_reason(flow), INITIATOR]);
    out.extend(interface.to_be_bytes());
    out.extend(flow.vlan[0].to_be_bytes());
    out.extend(flow.vlan[1].to_be_bytes());
    out.extend(flow.client_mac.0.0);
    out.extend(flow.server_mac.0.0);
}

fn write_specific(out: &mut Vec<u8>, flow: &Flow) {
    let is_icmp = matches!(flow.protocol, protocol::ICMP | protocol::ICMPV6);
    let (client_port, server_port, icmp) =
        if is_icmp { (0, 0, flow.server_port) } else { (flow.client_port, flow.server_port, 0) };
    match (flow.client, flow.server) {
        (Some(IpAddr::V4(client)), server) => {
            out.extend(client.octets());
            let server = match server {
                Some(IpAddr::V4(server)) => server,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            out.extend(server.octets());
        }
        (Some(IpAddr::V6(client)), server) => {
            out.extend(client.octets());
            let server = match server {
                Some(IpAddr::V6(server)) => server,
                _ => std::net::Ipv6Addr::UNSPECIFIED,
            };
            out.extend(server.octets());
        }
        (None, _) => {
            out.extend(flow.ether_type.to_be_bytes());
            return;
        }
    }
    out.extend(client_port.to_be_bytes());
    out.extend(server_port.to_be_bytes());
    out.push(flow.protocol);
    out.extend(icmp.to_be_bytes());
}

/// IANA's values of `firewallEvent`.
fn firewall_event(event: Event) -> u8 {
    match event {
        Event::Started => 1,
        Event::Ended => 2,
        Event::Denied => 3,
        Event::Continues => 5,
    }
}

/// IANA's values of `flowEndReason`.
fn end_reason(flow: &Flow) -> u8 {
    match flow.end {
        Some(End::Idle) => 1,
        None if flow.event == Event::Continues => 2,
        Some(End::Closed | End::Reset | End::Replaced) => 3,
        Some(End::Revoked | End::Stopped) | None => 4,
        Some(End::Evicted) => 5,
    }
}

fn key_of(flow: &Flow) -> FlowKey {
    FlowKey {
        wire: flow.wire.clone(),
        vlan: flow.vlan,
        client: flow.client,
        server: flow.server,
        ports: (flow.client_port, flow.server_port),
        protocol: flow.protocol,
        ether_type: flow.ether_type,
        macs: if flow.client.is_some() {
            [[0; 6]; 2]
        } else {
            [flow.client_mac.0.0, flow.server_mac.0.0]
        },
    }
}
