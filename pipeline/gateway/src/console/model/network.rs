//! Who talks to whom: the store's endpoints as devices, its rows as edges with their periods.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_learn::observe::{HostKey, PortProtocol, Service};
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags, WireId};

use crate::learning::database::StoreError;
use crate::learning::direction::Directions;
use crate::learning::identity::{Identities, Who};
use crate::learning::ingest::Seen;
use crate::learning::report::Reader;
use crate::learning::vendor::Vendors;

/// Bytes that a device takes, with its names and addresses, about.
const HOST_BYTES: u64 = 400;

/// Bytes that an edge takes with its places in the lists by client and by server, and while it is built.
const EDGE_BYTES: u64 = size_of::<Edge>() as u64 + 8 + 64;

/// A device, or many at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// By what it is known: an address or a MAC address.
    pub key: HostKey,
    /// The same as text.
    pub id: String,
    /// Whether it stands for many: a broadcast or multicast address.
    pub is_many: bool,
    /// Whether it is a router.
    pub is_router: bool,
    /// What people call it.
    pub name: Option<Arc<str>>,
    /// Its MAC address, where that is its own.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: Vec<AddressSeen>,
    /// The wire on which it was seen last.
    pub wire: Arc<str>,
    /// The side.
    pub side: Arc<str>,
    /// VLAN identifiers, the outer one first.
    pub vlan: [u16; 2],
    /// When it was seen.
    pub seen: Seen,
}

/// An address of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AddressSeen {
    /// The address.
    pub address: IpAddr,
    /// When it was seen first and last, in Unix milliseconds.
    pub first_ms: i64,
    /// And last.
    pub last_ms: i64,
}

/// What a client opened on a server, over all time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edge {
    /// Its place among the hosts.
    pub client: u32,
    /// The server's.
    pub server: u32,
    /// The place among the services.
    pub service: u32,
    /// The place among the words: the wire.
    pub wire: u32,
    /// VLAN identifiers, the outer one first.
    pub vlan: [u16; 2],
    /// Whether it may be the other way round.
    pub is_unsure: bool,
    /// Flows that began.
    pub flows: u64,
    /// Records of flows with an answer.
    pub answered: u64,
    /// Packets that were denied.
    pub denied: u64,
    /// Flows that an observing wire would have denied.
    pub would_deny: u64,
    /// Packets, both ways.
    pub packets: u64,
    /// Bytes, both ways.
    pub bytes: u64,
    /// When it was seen.
    pub seen: Seen,
    /// The place among the words: the rule that decided last.
    pub rule: u32,
    /// Likewise why it was dropped.
    pub reason: u32,
}

/// What an edge came to in one period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// When the period began, in seconds since the Unix epoch.
    pub period: u32,
    /// The edge.
    pub edge: u32,
    /// Flows that began or were answered; at most `u32::MAX`.
    pub flows: u32,
    /// Packets that were denied, likewise.
    pub denied: u32,
    /// Bytes, both ways.
    pub bytes: u64,
}

/// When a rule decided last, as far as the store knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleSeen {
    /// In Unix milliseconds.
    pub last_ms: i64,
    /// Edges whose last decision it was.
    pub edges: u64,
}

/// Who talks to whom.
#[derive(Debug, Default)]
pub struct Network {
    /// Devices, and what stands for many.
    pub hosts: Vec<Host>,
    /// Edges.
    pub edges: Vec<Edge>,
    /// What the edges came to, period by period, in the order of time.
    pub rows: Vec<Row>,
    /// Services of edges.
    pub services: Vec<Service>,
    /// Wires, rules and reasons.
    pub words: Words,
    /// Seconds of a period.
    pub period_s: u32,
    /// From which instant on there are rows, where the first ones had no room.
    pub rows_since_s: Option<u32>,
    /// Edges that had no room; half a million stands for more.
    pub left_out: u64,
    /// What was read and what was lost, by the store's own count.
    pub counters: BTreeMap<String, u64>,
    /// Since when each enforcing wire enforces, in Unix milliseconds.
    pub enforcing_since: BTreeMap<String, i64>,
    /// Applications that were recognised, by server and service.
    pub applications: HashMap<(u32, u32), BTreeSet<String>>,
    /// Rules and when they decided last.
    pub rules_seen: HashMap<u32, RuleSeen>,
    by_id: HashMap<String, u32>,
    outgoing: Lists,
    incoming: Lists,
    vendors: Vec<Option<Arc<str>>>,
    /// Wires that enforce, by their places among the words.
    enforcing: Vec<u32>,
}

/// Texts that occur often, each once.
#[derive(Clone, Debug, Default)]
pub struct Words {
    texts: Vec<Arc<str>>,
    places: HashMap<Arc<str>, u32>,
}

impl Words {
    fn place(&mut self, text: &str) -> u32 {
        if let Some(&place) = self.places.get(text) {
            return place;
        }
        let place = self.texts.len() as u32;
        let text: Arc<str> = Arc::from(text);
        self.texts.push(Arc::clone(&text));
        self.places.insert(text, place);
        place
    }

    /// The text at a place.
    pub fn text(&self, place: u32) -> &str {
        self.texts.get(place as usize).map_or("", |text| text)
    }

    /// The place of a text.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.places.get(text).copied()
    }
}

/// Edges of each host, one after the other.
#[derive(Debug, Default)]
struct Lists {
    starts: Vec<u32>,
    edges: Vec<u32>,
}

impl Lists {
    fn new(hosts: usize, ends: impl Iterator<Item = u32> + Clone) -> Self {
        let mut starts = vec![0_u32; hosts + 1];
        for end in ends.clone() {
            starts[end as usize + 1] += 1;
        }
        for at in 0..hosts {
            starts[at + 1] += starts[at];
        }
        let mut next = starts.clone();
        let mut edges = vec![0; starts[hosts] as usize];
        for (edge, end) in ends.enumerate() {
            edges[next[end as usize] as usize] = edge as u32;
            next[end as usize] += 1;
        }
        Self { starts, edges }
    }

    fn of(&self, host: u32) -> &[u32] {
        match self.starts.get(host as usize..host as usize + 2) {
            Some(&[from, to]) => &self.edges[from as usize..to as usize],
            _ => &[],
        }
    }
}

impl Network {
    /// Reads a store. What takes more than `memory_bytes` is left out: the oldest rows first, which leaves
    /// their sums, then edges, which are counted.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn read(reader: &Reader, memory_bytes: u64) -> Result<Self, StoreError> {
        let identities = Identities::read(reader)?;
        let directions = Directions::read(reader)?;
        let mut building = Building::new(&identities, memory_bytes);
        reader.edges(|mut row| {
            directions.settle(&mut row);
            building.add(&row);
        })?;
        let mut network = building.network;
        network.period_s = reader.period_s;
        network.counters = reader.counters()?;
        network.enforcing_since = reader.enforcing_since()?;
        for (server, service, application) in reader.services()? {
            let host = building.places.get(&server);
            let service = building.services.get(&service);
            if let (Some(&host), Some(&service)) = (host, service) {
                network.applications.entry((host, service)).or_default().insert(application);
            }
        }
        network.index();
        Ok(network)
    }

    /// Whether the wire of an edge enforces.
    pub fn is_enforced(&self, edge: &Edge) -> bool {
        self.enforcing.contains(&edge.wire)
    }

    fn index(&mut self) {
        let wires = self.enforcing_since.keys();
        self.enforcing = wires.filter_map(|wire| self.words.find(wire)).collect();
        self.edges.shrink_to_fit();
        self.rows.shrink_to_fit();
        let hosts = self.hosts.len();
        self.outgoing = Lists::new(hosts, self.edges.iter().map(|edge| edge.client));
        self.incoming = Lists::new(hosts, self.edges.iter().map(|edge| edge.server));
        self.by_id = (self.hosts.iter().zip(0..)).map(|(host, at)| (host.id.clone(), at)).collect();
        for edge in &self.edges {
            let seen = self.rules_seen.entry(edge.rule).or_default();
            seen.last_ms = seen.last_ms.max(edge.seen.last_ms);
            seen.edges += 1;
        }
        let vendors = Vendors::of_this_machine();
        let vendor = |host: &Host| host.mac.and_then(|mac| vendors.of(mac)).map(Arc::from);
        self.vendors = self.hosts.iter().map(vendor).collect();
    }

    /// The place of the host with this name of [`Host::id`].
    pub fn find(&self, id: &str) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// Edges of which a host is the client.
    pub fn outgoing(&self, host: u32) -> &[u32] {
        self.outgoing.of(host)
    }

    /// Edges of which a host is the server.
    pub fn incoming(&self, host: u32) -> &[u32] {
        self.incoming.of(host)
    }

    /// Who made a host.
    pub fn vendor(&self, host: u32) -> Option<&str> {
        self.vendors.get(host as usize)?.as_deref()
    }

    /// What people call a host, or what it is known by.
    pub fn label(&self, host: u32) -> &str {
        let Some(host) = self.hosts.get(host as usize) else { return "" };
        host.name.as_deref().unwrap_or(&host.id)
    }

    /// The rows whose periods begin in a stretch of time, in Unix milliseconds.
    pub fn rows_of(&self, since_ms: i64, until_ms: i64) -> &[Row] {
        let period_ms = i64::from(self.period_s) * 1000;
        let from =
            self.rows.partition_point(|row| i64::from(row.period) * 1000 + period_ms <= since_ms);
        let to = self.rows.partition_point(|row| i64::from(row.period) * 1000 < until_ms);
        self.rows.get(from..to).unwrap_or(&[])
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> u64 {
        self.hosts.len() as u64 * HOST_BYTES
            + self.edges.len() as u64 * EDGE_BYTES
            + self.rows.len() as u64 * size_of::<Row>() as u64
    }

    /// A packet that opens an edge, on the `wires` of a policy; [`None`] where the two have no addresses
    /// of one family.
    pub fn headers(&self, edge: &Edge, wires: &[Arc<str>]) -> Option<Headers> {
        let wire = self.words.text(edge.wire);
        let wire = wires.iter().position(|known| **known == *wire).unwrap_or(wires.len());
        let service = self.services.get(edge.service as usize)?;
        let headers = opening(
            self.hosts.get(edge.client as usize)?,
            self.hosts.get(edge.server as usize)?,
            *service,
        )?;
        Some(Headers {
            wire: WireId(u16::try_from(wire).unwrap_or(u16::MAX)),
            tags: VlanTags { outer: edge.vlan[0], inner: edge.vlan[1] },
            ..headers
        })
    }
}

/// A packet by which `client` opens a service of `server`, on no wire in particular.
pub fn opening(client: &Host, server: &Host, service: Service) -> Option<Headers> {
    let mac = |host: &Host| match (&host.key, host.mac) {
        (HostKey::Mac(mac), _) => *mac,
        (_, mac) => mac.unwrap_or_default(),
    };
    let mut headers = Headers { src_mac: mac(client), dst_mac: mac(server), ..Headers::default() };
    if let Service::Ether(ether_type) = service {
        headers.ether_type = ether_type;
        return Some(headers);
    }
    let (src, dst) = pair(client, server)?;
    headers.ether_type = if src.is_ipv4() { ETHER_IPV4 } else { ETHER_IPV6 };
    (headers.src, headers.dst) = (bits(src), bits(dst));
    match service {
        Service::Port(over, port) | Service::Dynamic(over, port) => {
            headers.protocol = match over {
                PortProtocol::Tcp => 6,
                PortProtocol::Udp => 17,
                PortProtocol::Sctp => 132,
            };
            (headers.src_port, headers.dst_port) = (50_000, port);
        }
        Service::Icmp { v6, kind } => {
            headers.protocol = if v6 { 58 } else { 1 };
            headers.dst_port = u16::from(kind) << 8;
        }
        Service::Ip(number) => headers.protocol = number,
        Service::Ether(_) => {}
    }
    Some(headers)
}

/// Addresses of one family of two hosts; the latest ones.
fn pair(client: &Host, server: &Host) -> Option<(IpAddr, IpAddr)> {
    let latest = |host: &Host, v4: bool| {
        let family = host.addresses.iter().filter(|seen| seen.address.is_ipv4() == v4);
        family.max_by_key(|seen| (seen.last_ms, seen.address)).map(|seen| seen.address)
    };
    [true, false].into_iter().find_map(|v4| latest(client, v4).zip(latest(server, v4)))
}

/// An address as [`Headers`] have it.
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// Edges without room that are told apart, to be counted once.
const MAX_LEFT_OUT: usize = 500_000;

/// What makes edges the same.
type EdgeKey = (u32, u32, u32, u32, [u16; 2], bool);

struct Building {
    network: Network,
    /// The place of the host of each endpoint of the store.
    places: HashMap<i64, u32>,
    services: HashMap<Service, u32>,
    edges: HashMap<EdgeKey, u32>,
    /// Edges that had no room.
    left_out: HashSet<EdgeKey>,
    memory_bytes: u64,
}

impl Building {
    fn new(identities: &Identities, memory_bytes: u64) -> Self {
        let mut network = Network::default();
        network.words.place("");
        let mut places = HashMap::new();
        let mut hosts: HashMap<&Who, u32> = HashMap::new();
        for row in identities.rows() {
            let Some(who) = identities.who(row.id) else { continue };
            let (Who::Host(key) | Who::Group(key)) = who;
            let at = *hosts.entry(who).or_insert_with(|| {
                network.hosts.push(Host {
                    key: key.clone(),
                    id: key.to_string(),
                    is_many: matches!(who, Who::Group(_)),
                    is_router: false,
                    name: identities.name(key).cloned(),
                    mac: None,
                    addresses: Vec::new(),
                    wire: Arc::from(&*row.wire),
                    side: Arc::from(&*row.side),
                    vlan: row.vlan,
                    seen: row.seen,
                });
                (network.hosts.len() - 1) as u32
            });
            places.insert(row.id, at);
            let host = &mut network.hosts[at as usize];
            if row.seen.last_ms > host.seen.last_ms {
                (host.wire, host.side) = (Arc::from(&*row.wire), Arc::from(&*row.side));
                host.vlan = row.vlan;
            }
            host.seen.widen(row.seen);
            let mac = row.endpoint.mac;
            if identities.is_router(mac) {
                // What is behind a router has its MAC address, and is none. Its own address is.
                host.is_router |= *key == HostKey::Mac(mac);
            } else if mac != Mac::default() && !mac.is_group() {
                host.mac = Some(mac);
            }
            let address = row.endpoint.address.filter(|address| !address.is_unspecified());
            if let Some(address) = address {
                let Seen { first_ms, last_ms } = row.seen;
                match host.addresses.iter_mut().find(|seen| seen.address == address) {
                    Some(seen) => {
                        seen.first_ms = seen.first_ms.min(first_ms);
                        seen.last_ms = seen.last_ms.max(last_ms);
                    }
                    None => host.addresses.push(AddressSeen { address, first_ms, last_ms }),
                }
            }
        }
        let (services, edges, left_out) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { network, places, services, edges, left_out, memory_bytes }
    }

    fn add(&mut self, row: &crate::learning::report::EdgeRow) {
        let place = |id: i64| self.places.get(&id).copied();
        let (Some(client), Some(server)) = (place(row.client), place(row.server)) else { return };
        let network = &mut self.network;
        let service = *self.services.entry(row.service).or_insert_with(|| {
            network.services.push(row.service);
            (network.services.len() - 1) as u32
        });
        let wire = network.words.place(&row.wire);
        let is_unsure = row.client_port != 0;
        let key = (client, server, service, wire, row.vlan, is_unsure);
        let at = match self.edges.get(&key) {
            Some(&at) => at,
            None => {
                if (network.edges.len() as u64 + 1) * EDGE_BYTES > self.memory_bytes * 3 / 4 {
                    if self.left_out.len() < MAX_LEFT_OUT {
                        self.left_out.insert(key);
                        network.left_out = self.left_out.len() as u64;
                    }
                    return;
                }
                let at = network.edges.len() as u32;
                network.edges.push(Edge {
                    client,
                    server,
                    service,
                    wire,
                    vlan: row.vlan,
                    is_unsure,
                    flows: 0,
                    answered: 0,
                    denied: 0,
                    would_deny: 0,
                    packets: 0,
                    bytes: 0,
                    seen: row.seen,
                    rule: 0,
                    reason: 0,
                });
                self.edges.insert(key, at);
                at
            }
        };
        let (rule, reason) = (network.words.place(&row.rule), network.words.place(&row.reason));
        let edge = &mut network.edges[at as usize];
        edge.flows = edge.flows.saturating_add(row.flows);
        edge.answered = edge.answered.saturating_add(row.answered);
        edge.denied = edge.denied.saturating_add(row.denied);
        edge.would_deny = edge.would_deny.saturating_add(row.would_deny);
        edge.packets = edge.packets.saturating_add(row.packets);
        edge.bytes = edge.bytes.saturating_add(row.bytes);
        if row.seen.last_ms >= edge.seen.last_ms {
            (edge.rule, edge.reason) = (rule, reason);
        }
        edge.seen.widen(row.seen);
        let few = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        network.rows.push(Row {
            period: u32::try_from(row.period).unwrap_or(0),
            edge: at,
            // What goes on from an earlier period passes in this one too.
            flows: few(row.flows.max(row.answered)),
            denied: few(row.denied),
            bytes: row.bytes,
        });
        if network.bytes() > self.memory_bytes {
            self.forget_rows();
        }
    }

    /// Leaves out the older half of the rows, whole periods. Their sums stay in the edges.
    fn forget_rows(&mut self) {
        let rows = &mut self.network.rows;
        let Some(middle) = rows.get(rows.len() / 2).map(|row| row.period) else { return };
        // Where all are of one period, none can be told from the others.
        let cut = rows.partition_point(|row| row.period <= middle);
        rows.drain(..cut);
        self.network.rows_since_s = Some(middle.saturating_add(1));
    }
}
