//! Everything that was observed, in a few bytes per distinct edge.
//!
//! An edge is (client, server, service). Taking in an observation is a look-up of two host keys and
//! one edge. Time is kept as 64 slots of equal width: an hour at first, twice as much whenever the
//! slots no longer reach, so that any stretch of time fits and blocks of it can be held out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::limits;
use crate::observe::{HostFacts, HostKey, Observation, Opening, Outcome, PortProtocol, Service};

/// A host by its place in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub u32);

/// An edge and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Who opens.
    pub client: HostId,
    /// To whom.
    pub server: HostId,
    /// What.
    pub service: Service,
    /// Distinct hours in which it was seen; those told out of order may count twice.
    pub hours: u16,
    /// What came of it.
    pub evidence: Evidence,
    /// The first hour.
    pub first: u32,
    /// The last hour.
    pub last: u32,
    /// The slots of time in which it was seen.
    pub slots: u64,
}

/// What an edge's flows came to, summed up: three bits in a byte, since there are millions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence(u8);

impl Evidence {
    const ANSWERED: u8 = 1;
    const FAILED: u8 = 2;
    const SWEPT: u8 = 4;

    /// Whether no flow had an answer, and some had to have one.
    pub fn is_unanswered(self) -> bool {
        self.0 & (Self::ANSWERED | Self::FAILED) == Self::FAILED
    }

    /// Whether the client met too many new peers in the hour in which it first used the edge.
    pub fn is_swept(self) -> bool {
        self.0 & Self::SWEPT != 0
    }

    fn add(&mut self, outcome: Outcome, swept: bool) {
        self.0 |= match outcome {
            Outcome::BothWays => Self::ANSWERED,
            Outcome::Failed => Self::FAILED,
            Outcome::Unknown => 0,
        };
        self.0 |= if swept { Self::SWEPT } else { 0 };
    }

    /// Both edges as one: it was swept if both were.
    pub(crate) fn merged(self, other: Self) -> Self {
        Self((self.0 | other.0) & !Self::SWEPT | self.0 & other.0 & Self::SWEPT)
    }
}

const _: () = assert!(size_of::<Edge>() == 32);

/// What a store had no room for. Nothing is lost uncounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    /// Observations of hosts beyond [`limits::HOSTS`].
    pub hosts: u64,
    /// Observations of edges beyond [`limits::EDGES`].
    pub edges: u64,
    /// Flows of unknown direction beyond [`limits::HELD_BACK`].
    pub held_back: u64,
    /// Broadcasts and multicasts beyond [`limits::TEMPLATES`].
    pub templates: u64,
    /// Observations older than the store's first hour by more than its slots can be moved.
    pub too_old: u64,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// What it is known by.
    pub key: HostKey,
    /// What else is known of it.
    pub facts: HostFacts,
    /// The hour in which it was first seen.
    pub first: u32,
    sweep: Sweep,
}

/// New peers of a client in the current hour; failures count [`Sweep::FAILURE`] times.
#[derive(Clone, Copy, Debug, Default)]
struct Sweep {
    hour: u32,
    score: u32,
}

impl Sweep {
    const FAILURE: u32 = 4;
    /// New peers in an hour from which a client's new edges are suspect. The first hours of
    /// learning make everything new, so answered edges have to be many.
    const LIMIT: u32 = 256;

    fn add(&mut self, hour: u32, failed: bool) -> bool {
        if self.hour != hour {
            *self = Self { hour, score: 0 };
        }
        self.score = self.score.saturating_add(if failed { Self::FAILURE } else { 1 });
        self.score > Self::LIMIT
    }
}

/// A flow that was seen in mid-stream: two sockets, in the order of their hosts.
type Sockets = (HostId, u16, HostId, u16, PortProtocol);

/// Everything that was observed.
#[derive(Clone, Debug, Default)]
pub struct Store {
    hosts: Vec<Host>,
    ids: HashMap<HostKey, HostId>,
    edges: Vec<Edge>,
    index: Index,
    held: BTreeMap<Sockets, Vec<(u32, Outcome)>>,
    templates: BTreeMap<(HostKey, Service), BTreeSet<HostId>>,
    losses: Losses,
    /// The hour at which slot 0 begins, and the width of a slot in hours.
    origin: Option<u32>,
    width: u32,
    last: u32,
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        Self { width: 1, ..Self::default() }
    }

    /// Takes in one observation.
    pub fn observe(&mut self, seen: &Observation) {
        if is_group(&seen.server) {
            self.add_template(seen);
            return;
        }
        let (Some(client), Some(server)) =
            (self.host(&seen.client, seen.hour), self.host(&seen.server, seen.hour))
        else {
            self.losses.hosts += 1;
            return;
        };
        match (seen.opening, seen.service) {
            (Opening::Unknown { client_port }, Service::Port(protocol, port)) => {
                self.hold_back(client, client_port, server, port, protocol, seen);
            }
            _ => self.add(client, server, seen.service, seen.hour, seen.outcome),
        }
    }

    /// Takes in an edge between hosts that are known already: the short way for callers that keep
    /// their own map of hosts.
    pub fn add(
        &mut self,
        client: HostId,
        server: HostId,
        service: Service,
        hour: u32,
        outcome: Outcome,
    ) {
        let Some(slot) = self.slot(hour) else {
            self.losses.too_old += 1;
            return;
        };
        let key = (client, server, service);
        let (at, is_new) = match self.index.find(key, &self.edges) {
            Some(at) => (at, false),
            None if self.edges.len() >= limits::EDGES => {
                self.losses.edges += 1;
                return;
            }
            None => {
                self.edges.push(Edge {
                    client,
                    server,
                    service,
                    hours: 0,
                    evidence: Evidence::default(),
                    first: hour,
                    last: hour,
                    slots: 0,
                });
                self.index.insert(&self.edges);
                (self.edges.len() - 1, true)
            }
        };
        let failed = outcome == Outcome::Failed;
        let swept = is_new && self.hosts[client.0 as usize].sweep.add(hour, failed);
        let edge = &mut self.edges[at];
        if edge.hours == 0 || edge.last != hour {
            edge.hours = edge.hours.saturating_add(1);
        }
        edge.first = edge.first.min(hour);
        edge.last = edge.last.max(hour);
        edge.slots |= 1 << slot;
        edge.evidence.add(outcome, swept);
    }

    /// The host with this key, which is new if need be; [`None`] where the store is full.
    pub fn host(&mut self, key: &HostKey, hour: u32) -> Option<HostId> {
        if let Some(&id) = self.ids.get(key) {
            return Some(id);
        }
        if self.hosts.len() >= limits::HOSTS {
            return None;
        }
        let id = HostId(self.hosts.len() as u32);
        let sweep = Sweep::default();
        let facts = HostFacts::default();
        self.hosts.push(Host { key: key.clone(), facts, first: hour, sweep });
        self.ids.insert(key.clone(), id);
        Some(id)
    }

    /// Says what else is known of a host, in place of what was said before.
    pub fn describe(&mut self, host: HostId, mut facts: HostFacts) {
        facts.addresses.sort_unstable();
        facts.addresses.dedup();
        facts.addresses.truncate(limits::ADDRESSES_PER_HOST);
        if let Some(host) = self.hosts.get_mut(host.0 as usize) {
            host.facts = facts;
        }
    }

    /// Finds the server of flows that were seen in mid-stream: the side on whose socket more peers
    /// meet, or that is known to serve there. The others stay held back and make no rule.
    pub fn settle(&mut self) {
        let mut fan_in: HashMap<(HostId, PortProtocol, u16), u32> = HashMap::new();
        for edge in &self.edges {
            if let Service::Port(protocol, port) = edge.service {
                // A server that is known counts as if several had met there.
                *fan_in.entry((edge.server, protocol, port)).or_default() += FAN_IN;
            }
        }
        for &(one, one_port, other, other_port, protocol) in self.held.keys() {
            for socket in [(one, protocol, one_port), (other, protocol, other_port)] {
                let count = fan_in.entry(socket).or_default();
                *count = count.saturating_add(1);
            }
        }
        let held = std::mem::take(&mut self.held);
        for (sockets, seen) in held {
            let (one, one_port, other, other_port, protocol) = sockets;
            let count = |host, port| fan_in.get(&(host, protocol, port)).copied().unwrap_or(0);
            let (ones, others) = (count(one, one_port), count(other, other_port));
            let (client, server, port) = if ones >= FAN_IN && ones >= others.saturating_mul(2) {
                (other, one, one_port)
            } else if others >= FAN_IN && others >= ones.saturating_mul(2) {
                (one, other, other_port)
            } else {
                self.held.insert(sockets, seen);
                continue;
            };
            for (hour, outcome) in seen {
                self.add(client, server, Service::Port(protocol, port), hour, outcome);
            }
        }
    }

    /// Forgets the edges that were last seen before `hour`. Hosts keep their ids.
    pub fn forget_before(&mut self, hour: u32) {
        self.edges.retain(|edge| edge.last >= hour);
        self.edges.shrink_to_fit();
        self.index.rebuild(&self.edges);
        self.held.retain(|_, seen| seen.iter().any(|&(at, _)| at >= hour));
    }

    /// All hosts; a [`HostId`] is the place in it.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// All edges, in the order in which they came.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Broadcasts and multicasts, with those who send them.
    pub fn templates(&self) -> &BTreeMap<(HostKey, Service), BTreeSet<HostId>> {
        &self.templates
    }

    /// Flows whose direction is not known.
    pub fn held_back(&self) -> usize {
        self.held.len()
    }

    /// What there was no room for.
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// The hours from the first to the last that anything was seen in; 0 where nothing was.
    pub fn hours(&self) -> u32 {
        self.origin.map_or(0, |origin| self.last - origin + 1)
    }

    /// The last hour in which anything was seen.
    pub fn last_hour(&self) -> u32 {
        self.last
    }

    /// Hours that one slot stands for.
    pub fn slot_hours(&self) -> u32 {
        self.width
    }

    fn add_template(&mut self, seen: &Observation) {
        let Some(client) = self.host(&seen.client, seen.hour) else {
            self.losses.hosts += 1;
            return;
        };
        let key = (seen.server.clone(), seen.service);
        if self.templates.len() >= limits::TEMPLATES && !self.templates.contains_key(&key) {
            self.losses.templates += 1;
            return;
        }
        self.templates.entry(key).or_default().insert(client);
    }

    fn hold_back(
        &mut self,
        client: HostId,
        client_port: u16,
        server: HostId,
        port: u16,
        protocol: PortProtocol,
        seen: &Observation,
    ) {
        let sockets = if (client, client_port) <= (server, port) {
            (client, client_port, server, port, protocol)
        } else {
            (server, port, client, client_port, protocol)
        };
        if self.held.len() >= limits::HELD_BACK && !self.held.contains_key(&sockets) {
            self.losses.held_back += 1;
            return;
        }
        let hours = self.held.entry(sockets).or_default();
        if hours.last() != Some(&(seen.hour, seen.outcome)) && hours.len() < HELD_HOURS {
            hours.push((seen.hour, seen.outcome));
        }
    }

    /// The slot of an hour, after making the slots reach it.
    fn slot(&mut self, hour: u32) -> Option<u32> {
        let origin = *self.origin.get_or_insert(hour);
        if hour < origin {
            // Late news of a time before the first: it counts for the first slot, if that is near.
            return (origin - hour <= self.width.max(LATE_HOURS)).then_some(0);
        }
        self.last = self.last.max(hour);
        while (hour - origin) / self.width >= u64::BITS {
            self.width *= 2;
            for edge in &mut self.edges {
                edge.slots = halved(edge.slots);
            }
        }
        Some((hour - origin) / self.width)
    }
}

/// Peers on one socket from which it is known to serve.
const FAN_IN: u32 = 3;

/// Hours of a flow of unknown direction that are kept.
const HELD_HOURS: usize = 64;

/// How late an observation may be before the store's first hour.
const LATE_HOURS: u32 = 2;

/// Each pair of slots made one.
fn halved(slots: u64) -> u64 {
    let pairs = (slots | slots >> 1) & 0x5555_5555_5555_5555;
    (0..32).fold(0, |sum, slot| sum | (pairs >> (2 * slot) & 1) << slot)
}

/// Whether a key stands for many hosts at once.
fn is_group(key: &HostKey) -> bool {
    match key {
        HostKey::Mac(mac) => mac.0[0] & 1 == 1,
        HostKey::Address(std::net::IpAddr::V4(address)) => {
            address.is_multicast() || address.is_broadcast()
        }
        HostKey::Address(std::net::IpAddr::V6(address)) => address.is_multicast(),
        HostKey::Name(_) | HostKey::Number(_) => false,
    }
}

/// Where each edge is: open addressing over places in the list of edges, four bytes each.
#[derive(Clone, Debug, Default)]
struct Index {
    places: Vec<u32>,
    used: usize,
}

const EMPTY: u32 = u32::MAX;

impl Index {
    fn find(&self, key: (HostId, HostId, Service), edges: &[Edge]) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let mask = self.places.len() - 1;
        let mut at = hash(key) as usize & mask;
        loop {
            let place = self.places[at];
            if place == EMPTY {
                return None;
            }
            let edge = &edges[place as usize];
            if (edge.client, edge.server, edge.service) == key {
                return Some(place as usize);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds the last of `edges`.
    fn insert(&mut self, edges: &[Edge]) {
        if (self.used + 1) * 4 > self.places.len() * 3 {
            self.rebuild(edges);
            return;
        }
        self.place(edges.len() - 1, edges);
    }

    fn rebuild(&mut self, edges: &[Edge]) {
        self.places = vec![EMPTY; (edges.len() * 2).next_power_of_two().max(64)];
        self.used = 0;
        for place in 0..edges.len() {
            self.place(place, edges);
        }
    }

    fn place(&mut self, place: usize, edges: &[Edge]) {
        let edge = &edges[place];
        let mask = self.places.len() - 1;
        let mut at = hash((edge.client, edge.server, edge.service)) as usize & mask;
        while self.places[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.places[at] = place as u32;
        self.used += 1;
    }
}

fn hash((client, server, service): (HostId, HostId, Service)) -> u64 {
    let hosts = u64::from(client.0) << 32 | u64::from(server.0);
    crate::mix(crate::mix(hosts) ^ u64::from(packed(service)))
}

/// A service in a word, each another one.
pub(crate) fn packed(service: Service) -> u32 {
    let (kind, value) = match service {
        Service::Port(protocol, port) => (protocol as u32, port),
        Service::Dynamic(protocol, first) => (4 + protocol as u32, first),
        Service::Icmp { v6, kind } => (8 + u32::from(v6), u16::from(kind)),
        Service::Ip(number) => (10, u16::from(number)),
        Service::Ether(number) => (11, number),
    };
    kind << 16 | u32::from(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: u32, server: u32, port: u16, hour: u32) -> Observation {
        Observation {
            hour,
            client: HostKey::Number(client),
            server: HostKey::Number(server),
            service: Service::Port(PortProtocol::Tcp, port),
            opening: Opening::Seen,
            outcome: Outcome::BothWays,
        }
    }

    #[test]
    fn slots_widen_as_time_goes_on() {
        let mut store = Store::new();
        for hour in [0, 1, 62, 63] {
            store.observe(&flow(1, 2, 80, hour));
        }
        assert_eq!(store.edges()[0].slots, 1 << 63 | 1 << 62 | 0b11);
        store.observe(&flow(1, 2, 80, 64));
        assert_eq!(store.slot_hours(), 2);
        assert_eq!(store.edges()[0].slots, 1 << 32 | 1 << 31 | 1);
        assert_eq!(store.edges()[0].hours, 5);
        assert_eq!(store.hours(), 65);
    }

    #[test]
    fn an_edge_is_kept_once_and_found_again_among_many() {
        let mut store = Store::new();
        for round in 0..2 {
            for client in 0..50 {
                for server in 0..40 {
                    store.observe(&flow(client, 100 + server, 443, round));
                }
            }
        }
        assert_eq!(store.edges().len(), 2_000);
        assert!(store.edges().iter().all(|edge| edge.hours == 2));
        store.forget_before(2);
        assert!(store.edges().is_empty());
    }

    #[test]
    fn the_side_where_peers_meet_is_the_server() {
        let mut store = Store::new();
        for client in 0..5 {
            let mut seen = flow(9, client, 40_000 + client as u16, 0);
            seen.opening = Opening::Unknown { client_port: 443 };
            store.observe(&seen);
        }
        let mut lone = flow(20, 21, 5_000, 0);
        lone.opening = Opening::Unknown { client_port: 6_000 };
        store.observe(&lone);
        assert!(store.edges().is_empty());
        store.settle();
        assert_eq!(store.edges().len(), 5);
        let served = Service::Port(PortProtocol::Tcp, 443);
        let server = store.ids[&HostKey::Number(9)];
        assert!(store.edges().iter().all(|e| e.server == server && e.service == served));
        assert_eq!(store.held_back(), 1);
    }

    #[test]
    fn a_client_that_meets_many_at_once_without_answers_is_marked() {
        let mut store = Store::new();
        for server in 0..100 {
            let outcome = Outcome::Failed;
            store.observe(&Observation { outcome, ..flow(1, 2 + server, 445, 0) });
            store.observe(&flow(200, 2 + server, 443, 0));
        }
        let swept = store.edges().iter().filter(|edge| edge.evidence.is_swept()).count();
        assert_eq!(swept, 36);
    }
}
