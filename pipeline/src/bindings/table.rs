//! Which claims hold.
//!
//! Of several claims to an address on one network the policy's own word counts most (a device with MAC
//! and IP addresses), then a DHCP server's, then a host's. Among equals the first one holds until it is
//! given back, runs out, or its host has gone elsewhere; what contradicts it meanwhile is a conflict:
//! counted, remembered for people, and without effect. So is a claim that comes from where its MAC
//! address does not live: from the other side of the wire, or from the inside of another one. A host
//! moves there once it was silent for long enough, or as soon as a DHCP server answers it there.
//!
//! A lease counts where it answers a request: the host has asked a moment ago, in the same transaction
//! and from where it is. Who can speak from the servers' side alone gives nobody an address. A lease may
//! be heard before its request, by another worker: it waits for that, but not long.
//!
//! The table knows neither clock nor I/O: whoever owns it says what time it is, in milliseconds of any
//! clock that never goes back.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_rules::headers::{Mac, VlanTags, WireId};
use bulkhead_rules::policy::{Bindings, BoundAddress, Holder, Link, is_routed};

use super::dhcp::INFINITE_S;
use super::{Observation, ObservationKind};

/// How large the table may grow, and how long it remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableConfig {
    /// Bindings, and twice as many places of hosts; three times with those that rules name.
    pub capacity: usize,
    /// Addresses that one MAC address may hold on one network.
    pub per_mac: usize,
    /// After so long without a word a host's own claims run out, in milliseconds, and it may turn up
    /// elsewhere.
    pub age_ms: u64,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self { capacity: 65_536, per_mac: 32, age_ms: 1_200_000 }
    }
}

/// Where an address means one host: a redundancy group of wires, and the VLAN tags.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Network {
    /// The number of the group.
    pub group: u16,
    /// The tags.
    pub tags: VlanTags,
}

/// Whose word a binding rests on, the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Origin {
    /// The host's own, in ARP or neighbour discovery.
    Announced,
    /// A DHCP server's.
    Dhcp,
    /// The policy's: a device with this MAC address and this address.
    Policy,
}

impl Origin {
    /// The word in reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Dhcp => "dhcp",
            Self::Policy => "policy",
        }
    }
}

/// Who has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The MAC address.
    pub mac: Mac,
    /// Whether the host is on the inside.
    pub inside: bool,
    /// The wire on which it was seen last.
    pub wire: WireId,
    /// Whose word that is.
    pub origin: Origin,
    /// Since when.
    pub since_ms: u64,
    /// When it runs out; [`None`] for never.
    pub expires_ms: Option<u64>,
}

/// What a claim contradicts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ConflictKind {
    /// Another host has the address.
    Address,
    /// The policy gives the address to another device.
    Policy,
    /// The MAC address is on the other side of the wire.
    Side,
    /// The MAC address is on the inside of another wire.
    Wire,
    /// A lease that its host has not asked for.
    Unasked,
}

impl ConflictKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: &'static [Self] =
        &[Self::Address, Self::Policy, Self::Side, Self::Wire, Self::Unasked];

    /// Its name in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Policy => "policy",
            Self::Side => "side",
            Self::Wire => "wire",
            Self::Unasked => "unasked",
        }
    }
}

/// What became of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A new binding, or one that passed to this host.
    Bound,
    /// It says what was known.
    Renewed,
    /// The binding is gone.
    Released,
    /// It contradicts what holds, and changes nothing.
    Conflict(ConflictKind),
    /// The end of a lease that nobody knows.
    Unknown,
    /// A lease that nobody has asked for yet. It has no effect unless the request comes at once.
    Waits,
    /// There is no room.
    Full,
}

/// A conflict, for people. The same claim again counts up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// What it contradicts.
    pub kind: ConflictKind,
    /// The last claim.
    pub claim: Observation,
    /// The MAC address that has the address; none where that is not the question.
    pub holder: Option<Mac>,
    /// How often it was made.
    pub count: u64,
    /// When last.
    pub at_ms: u64,
}

/// Conflicts that are remembered for people.
const REMEMBERED: usize = 64;

/// How long a host waits, at most, for the answer of a DHCP server.
const DHCP_PATIENCE_MS: u64 = 30_000;

/// How long a lease waits for the request that it answers.
const REQUEST_IS_LATE_MS: u64 = 500;

/// Leases that may wait so.
const WAITING_LEASES: usize = 1024;

/// Requests of a host that an answer is known by. Of each transaction one, the oldest ones go.
const REQUESTS: usize = 4;

/// Where a MAC address lives on a network.
#[derive(Clone, Copy, Debug)]
struct Place {
    inside: bool,
    /// [`None`] where it does not live, and has asked a DHCP server only.
    seen_ms: Option<u64>,
    /// What was asked of DHCP servers in its name, from wherever.
    requests: [Option<Request>; REQUESTS],
}

/// A request to DHCP servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Request {
    xid: u32,
    inside: bool,
    at_ms: u64,
}

impl Place {
    fn ask(&mut self, request: Request) {
        let is_same = |known: &Request| (known.xid, known.inside) == (request.xid, request.inside);
        let place = self.requests.iter().position(|known| known.as_ref().is_some_and(is_same));
        let oldest = || {
            // What others ask in its name does not take the place of what it asks itself.
            let value = |known: &Request| (known.inside == self.inside, known.at_ms);
            let values = self.requests.iter().map(|known| known.as_ref().map(value));
            values.enumerate().min_by_key(|&(_, value)| value).map_or(0, |(place, _)| place)
        };
        self.requests[place.unwrap_or_else(oldest)] = Some(request);
    }

    /// The requests of the last moments.
    fn recent(&self, now_ms: u64) -> impl Iterator<Item = &Request> {
        let is_recent =
            move |request: &&Request| now_ms <= request.at_ms.saturating_add(DHCP_PATIENCE_MS);
        self.requests.iter().flatten().filter(is_recent)
    }

    /// Whether it has asked from where it lives.
    fn has_asked(&self, now_ms: u64) -> bool {
        self.seen_ms.is_some() && self.recent(now_ms).any(|request| request.inside == self.inside)
    }
}

/// All bindings.
#[derive(Debug)]
pub struct BindingTable {
    config: TableConfig,
    bindings: HashMap<(Network, IpAddr), Binding>,
    places: HashMap<(Network, Mac), Place>,
    /// The network on whose inside a MAC address lives.
    homes: HashMap<Mac, (Network, u64)>,
    /// How many addresses a MAC address holds on a network.
    counts: HashMap<(Network, Mac), usize>,
    /// The MAC addresses that may have an address, by the policy.
    fixed: HashMap<IpAddr, Vec<Mac>>,
    conflicts: VecDeque<Conflict>,
    conflict_counts: [u64; ConflictKind::ALL.len()],
    refused: u64,
    changes: u64,
    renewals: u64,
    /// MAC addresses that rules name, ascending: others give way to them.
    named: Vec<Mac>,
    /// Leases without a request so far, and since when, the oldest first.
    waiting: VecDeque<(Network, Observation, u64)>,
    /// When there last was no room, and silent hosts were looked for.
    swept_ms: Option<u64>,
}

impl BindingTable {
    /// An empty table.
    pub fn new(config: TableConfig) -> Self {
        Self {
            config,
            bindings: HashMap::new(),
            places: HashMap::new(),
            homes: HashMap::new(),
            counts: HashMap::new(),
            fixed: HashMap::new(),
            conflicts: VecDeque::new(),
            conflict_counts: Default::default(),
            refused: 0,
            changes: 0,
            renewals: 0,
            named: Vec::new(),
            waiting: VecDeque::new(),
            swept_ms: None,
        }
    }

    /// Takes a claim that was made on a wire of `group`.
    pub fn observe(&mut self, claim: &Observation, group: u16, now_ms: u64) -> Outcome {
        let network = Network { group, tags: claim.tags };
        let outcome = match claim.kind {
            ObservationKind::DhcpAck => self.lease(network, claim, now_ms),
            ObservationKind::DhcpClient => self.ask(network, claim, now_ms),
            ObservationKind::DhcpRelease | ObservationKind::DhcpDecline => {
                self.give_back(network, claim, now_ms)
            }
            ObservationKind::Arp | ObservationKind::NeighbourDiscovery => {
                self.announce(network, claim, now_ms)
            }
        };
        self.count(outcome, network, claim, now_ms);
        outcome
    }

    fn count(&mut self, outcome: Outcome, network: Network, claim: &Observation, now_ms: u64) {
        match outcome {
            Outcome::Conflict(kind) => self.remember(kind, network, claim, now_ms),
            Outcome::Full => self.refused += 1,
            Outcome::Renewed => self.renewals += 1,
            Outcome::Bound | Outcome::Released | Outcome::Unknown | Outcome::Waits => {}
        }
    }

    /// Tells which MAC addresses rules name, ascending: where the table is full, what other hosts only
    /// say of themselves gives way to these.
    pub fn prefer(&mut self, named: &[Mac]) {
        self.named = named.to_vec();
    }

    /// Gives addresses to devices by the policy: `fixed` are the MAC addresses that may have each.
    /// What contradicts it goes.
    pub fn fix(&mut self, fixed: HashMap<IpAddr, Vec<Mac>>, now_ms: u64) {
        self.fixed = fixed;
        let keys: Vec<(Network, IpAddr)> = self.bindings.keys().copied().collect();
        for key in keys {
            let Some(binding) = self.bindings.get_mut(&key) else { continue };
            match self.fixed.get(&key.1) {
                Some(macs) if !macs.contains(&binding.mac) => self.remove(key),
                Some(_) => (binding.origin, binding.expires_ms) = (Origin::Policy, None),
                None if binding.origin == Origin::Policy => {
                    binding.origin = Origin::Announced;
                    binding.expires_ms = Some(now_ms.saturating_add(self.config.age_ms));
                }
                None => {}
            }
        }
    }

    /// Drops what has run out. Returns how many bindings that were.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let is_over = |binding: &Binding| binding.expires_ms.is_some_and(|at| at <= now_ms);
        let over = self.bindings.iter().filter(|(_, binding)| is_over(binding));
        let over: Vec<(Network, IpAddr)> = over.map(|(key, _)| *key).collect();
        over.iter().for_each(|key| self.remove(*key));
        self.give_up_waiting(now_ms, WAITING_LEASES);
        self.forget_places(now_ms, self.config.age_ms);
        over.len()
    }

    /// Lets go of an address, on every network, because a person says so: whoever claims it next has
    /// it. Returns how many bindings that were.
    pub fn forget(&mut self, address: IpAddr) -> usize {
        let keys = self.bindings.iter().filter(|(key, _)| key.1 == address);
        let keys: Vec<_> = keys.map(|(key, binding)| (*key, binding.mac)).collect();
        for &(key, mac) in &keys {
            self.remove(key);
            self.places.remove(&(key.0, mac));
            self.homes.remove(&mac);
        }
        keys.len()
    }

    /// Every binding, in the order of networks and addresses.
    pub fn iter(&self) -> impl Iterator<Item = (Network, IpAddr, &Binding)> {
        let mut all: Vec<_> = self.bindings.iter().map(|(k, b)| (k.0, k.1, b)).collect();
        all.sort_unstable_by_key(|&(network, address, _)| (network, address));
        all.into_iter()
    }

    /// Who has an address.
    pub fn get(&self, network: Network, address: IpAddr) -> Option<&Binding> {
        self.bindings.get(&(network, address))
    }

    /// How many bindings there are.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    /// The latest conflicts, the last one last.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.iter()
    }

    /// How many conflicts of a kind there were.
    pub fn conflict_count(&self, kind: ConflictKind) -> u64 {
        self.conflict_counts[kind as usize]
    }

    /// How many claims found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Grows with every change that [`Self::bindings`] may show.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Grows as [`Self::changes`] does not: with every claim that says what was known. Bindings then
    /// run out later.
    pub fn renewals(&self) -> u64 {
        self.renewals
    }

    /// Takes a binding over from an earlier run. False where there is no room, or another.
    pub fn restore(
        &mut self,
        (network, address): (Network, IpAddr),
        binding: Binding,
        now_ms: u64,
    ) -> bool {
        let key = (network, address);
        let is_new = !self.bindings.contains_key(&key);
        let fits = is_new && self.has_room(network, binding.mac);
        if fits {
            self.place(network, binding.mac, binding.inside, now_ms);
            self.insert(key, binding);
        }
        fits
    }

    /// What the policy is told: the addresses of the MAC addresses that it names, which are `named`,
    /// ascending; and, where `holds`, that nobody else may have these. `wires` gives the wires of a
    /// group.
    pub fn bindings<'w>(
        &self,
        named: &[Mac],
        holds: bool,
        wires: impl Fn(u16) -> &'w [WireId],
    ) -> Bindings {
        let is_named = |mac: &Mac| named.binary_search(mac).is_ok();
        let mut seen: HashMap<Mac, Vec<Network>> = HashMap::new();
        let lives = |(key, place): (&(Network, Mac), &Place)| place.seen_ms.map(|_| *key);
        for (network, mac) in self.places.iter().filter_map(lives).filter(|key| is_named(&key.1)) {
            seen.entry(mac).or_default().push(network);
        }
        let mut claimed: HashMap<IpAddr, Vec<(Network, Mac)>> = HashMap::new();
        for ((network, address), binding) in &self.bindings {
            claimed.entry(*address).or_default().push((*network, binding.mac));
        }
        let hosts = OnceCell::new();
        let links = |network: Network| {
            wires(network.group).iter().map(move |&wire| Link { wire, tags: network.tags })
        };
        let mut by_mac: BTreeMap<Mac, BTreeMap<IpAddr, BoundAddress>> = BTreeMap::new();
        for ((_, address), binding) in self.bindings.iter().filter(|(_, b)| is_named(&b.mac)) {
            let addresses = by_mac.entry(binding.mac).or_default();
            addresses.entry(*address).or_insert_with(|| {
                let seen = seen.get(&binding.mac).into_iter().flatten().copied();
                let claimed = claimed.get(address).map_or(&[][..], Vec::as_slice);
                let networks = seen.chain(claimed.iter().map(|claim| claim.0));
                let others = claimed.iter().filter(|claim| claim.1 != binding.mac);
                let others = others.filter(|claim| {
                    let hosts = hosts.get_or_init(|| self.hosts_of_one_address());
                    hosts.contains(&(claim.0, claim.1, address.is_ipv4()))
                });
                let namesakes =
                    others.flat_map(|&(network, mac)| links(network).map(move |l| (l, mac)));
                BoundAddress {
                    address: *address,
                    links: ascending(networks.flat_map(links)),
                    namesakes: ascending(namesakes),
                }
            });
        }
        let by_mac = by_mac.into_iter();
        let by_mac = by_mac.map(|(mac, addresses)| (mac, addresses.into_values().collect()));
        // Who of all others has an address decides nothing, and addresses pass between hosts by design:
        // in clusters, through proxies, when a machine is replaced.
        let is_held = |binding: &Binding| holds && is_named(&binding.mac);
        let mut holders = HashMap::new();
        for ((network, address), binding) in self.bindings.iter().filter(|(_, b)| is_held(b)) {
            let holder = Holder { mac: binding.mac, inside: binding.inside };
            for &wire in wires(network.group) {
                holders.insert((Link { wire, tags: network.tags }, *address), holder);
            }
        }
        Bindings::new(by_mac.collect(), holders)
    }

    /// The hosts that have one address of a family (IPv4: true) on a network, as no router has that
    /// answers for others there: if it is to be heard, it has one of its own.
    fn hosts_of_one_address(&self) -> HashSet<(Network, Mac, bool)> {
        let (mut hosts, mut others) = (HashSet::new(), HashSet::new());
        for ((network, address), binding) in
            self.bindings.iter().filter(|(key, _)| is_routed(key.1))
        {
            let host = (*network, binding.mac, address.is_ipv4());
            if !hosts.insert(host) {
                others.insert(host);
            }
        }
        hosts.retain(|host| !others.contains(host));
        hosts
    }

    /// A host says that an address is its own.
    fn announce(&mut self, network: Network, claim: &Observation, now_ms: u64) -> Outcome {
        if let Err(outcome) = self.settle(network, claim, now_ms) {
            return outcome;
        }
        let fixed = self.fixed.get(&claim.address);
        if fixed.is_some_and(|macs| !macs.contains(&claim.mac)) {
            return Outcome::Conflict(ConflictKind::Policy);
        }
        let origin = if fixed.is_some() { Origin::Policy } else { Origin::Announced };
        let runs_out = now_ms.saturating_add(self.config.age_ms);
        let expires_ms = (origin == Origin::Announced).then_some(runs_out);
        let key = (network, claim.address);
        let new = Binding {
            mac: claim.mac,
            inside: claim.inside,
            wire: claim.wire,
            origin,
            since_ms: now_ms,
            expires_ms,
        };
        match self.bindings.get(&key).copied() {
            Some(binding) if binding.mac == claim.mac => {
                let runs_out = binding.origin == Origin::Announced;
                let expires_ms = if runs_out { expires_ms } else { binding.expires_ms };
                let (inside, wire) = (claim.inside, claim.wire);
                self.bindings.insert(key, Binding { inside, wire, expires_ms, ..binding });
                Outcome::Renewed
            }
            // Two MAC addresses of one device take turns.
            Some(binding) if fixed.is_none_or(|macs| !macs.contains(&binding.mac)) => {
                Outcome::Conflict(ConflictKind::Address)
            }
            Some(_) => self.rebind(key, new),
            None if self.has_room(network, claim.mac) => self.rebind(key, new),
            None if self.is_named(claim.mac) && self.make_room(network, claim.mac, now_ms) => {
                self.rebind(key, new)
            }
            None => Outcome::Full,
        }
    }

    /// A client asks for a lease, or talks about one. What has answered it already has waited for it.
    fn ask(&mut self, network: Network, claim: &Observation, now_ms: u64) -> Outcome {
        let outcome = match self.settle(network, claim, now_ms) {
            Ok(()) => Outcome::Renewed,
            Err(outcome) => outcome,
        };
        let answers = |(on, lease, _): &(Network, Observation, u64)| {
            (*on, lease.mac, lease.xid) == (network, claim.mac, claim.xid)
        };
        while let Some(nth) = self.waiting.iter().position(answers) {
            let Some((_, lease, since_ms)) = self.waiting.remove(nth) else { break };
            let is_late = now_ms > since_ms.saturating_add(REQUEST_IS_LATE_MS);
            let leased = match self.place_of_client(network, &lease, now_ms) {
                Some(inside) if !is_late => self.lease_to(network, inside, &lease, now_ms),
                _ => Outcome::Conflict(ConflictKind::Unasked),
            };
            self.count(leased, network, &lease, now_ms);
        }
        outcome
    }

    /// A server leases an address. It does not know where its client is; the client's own frames do.
    fn lease(&mut self, network: Network, claim: &Observation, now_ms: u64) -> Outcome {
        if let Some(inside) = self.place_of_client(network, claim, now_ms) {
            return self.lease_to(network, inside, claim, now_ms);
        }
        self.give_up_waiting(now_ms, WAITING_LEASES - 1);
        self.waiting.push_back((network, *claim, now_ms));
        Outcome::Waits
    }

    /// Counts leases that nobody has asked for, and keeps so many others.
    fn give_up_waiting(&mut self, now_ms: u64, most: usize) {
        let is_over = |since_ms: u64| now_ms > since_ms.saturating_add(REQUEST_IS_LATE_MS);
        while self.waiting.front().is_some_and(|w| is_over(w.2)) || self.waiting.len() > most {
            let Some((network, claim, _)) = self.waiting.pop_front() else { break };
            self.remember(ConflictKind::Unasked, network, &claim, now_ms);
        }
    }

    fn lease_to(
        &mut self,
        network: Network,
        inside: bool,
        claim: &Observation,
        now_ms: u64,
    ) -> Outcome {
        if self.fixed.get(&claim.address).is_some_and(|macs| !macs.contains(&claim.mac)) {
            return Outcome::Conflict(ConflictKind::Policy);
        }
        let key = (network, claim.address);
        let held = self.bindings.get(&key).copied();
        let is_fixed = self.fixed.contains_key(&claim.address);
        let is_others = held.is_some_and(|held| held.mac != claim.mac);
        if is_others && held.is_some_and(|held| held.origin >= Origin::Dhcp) && !is_fixed {
            return Outcome::Conflict(ConflictKind::Address);
        }
        if held.is_none() && !self.make_room(network, claim.mac, now_ms) {
            return Outcome::Full;
        }
        let since_ms = held.filter(|_| !is_others).map_or(now_ms, |held| held.since_ms);
        self.leave_others(key, claim.mac);
        self.leave_home(network, claim.mac, inside);
        self.place(network, claim.mac, inside, now_ms);
        let lease_ms = u64::from(claim.lease_s) * 1000;
        let ends_ms = (claim.lease_s != INFINITE_S).then(|| now_ms.saturating_add(lease_ms));
        let (origin, expires_ms) =
            if is_fixed { (Origin::Policy, None) } else { (Origin::Dhcp, ends_ms) };
        let (mac, wire) = (claim.mac, claim.wire);
        let new = Binding { mac, inside, wire, origin, since_ms, expires_ms };
        match held {
            Some(was) if was.mac == mac && was.inside == inside => {
                self.bindings.insert(key, new);
                Outcome::Renewed
            }
            _ => self.rebind(key, new),
        }
    }

    /// On which side the client of a lease is that has asked for it; [`None`] where none has. It is
    /// where it lives, unless it asked from elsewhere, the answer goes there, and it did not ask where
    /// it lives: then the answer would be its own, and the one who asked elsewhere another host.
    fn place_of_client(&self, network: Network, claim: &Observation, now_ms: u64) -> Option<bool> {
        let place = self.places.get(&(network, claim.mac))?;
        let home = self.homes.get(&claim.mac);
        let home = home.and_then(|home| self.places.get(&(home.0, claim.mac)));
        let asked_itself = place.has_asked(now_ms) || home.is_some_and(|p| p.has_asked(now_ms));
        let asked_from = |inside: bool| {
            let mut recent = place.recent(now_ms);
            recent.any(|request| request.xid == claim.xid && request.inside == inside)
        };
        let lives = |inside: bool| place.seen_ms.is_some() && place.inside == inside;
        if !asked_itself && !lives(claim.inside) && asked_from(claim.inside) {
            return Some(claim.inside);
        }
        (place.seen_ms.is_some() && asked_from(place.inside)).then_some(place.inside)
    }

    /// A host that now lives on the inside of this group has left that of any other.
    fn leave_home(&mut self, network: Network, mac: Mac, inside: bool) {
        let home = self.homes.get(&mac).map(|home| home.0);
        let Some(home) = home.filter(|home| inside && home.group != network.group) else { return };
        let own = self.bindings.iter().filter(|(key, b)| key.0.group == home.group && b.mac == mac);
        let own: Vec<_> = own.filter(|(_, b)| b.inside).map(|(key, _)| *key).collect();
        own.into_iter().for_each(|key| self.remove(key));
        self.places.retain(|key, place| key.1 != mac || key.0.group != home.group || !place.inside);
    }

    /// A client of IPv4 has one lease: with a new one it has left the old one.
    fn leave_others(&mut self, key: (Network, IpAddr), mac: Mac) {
        if !self.counts.contains_key(&(key.0, mac)) || !key.1.is_ipv4() {
            return;
        }
        let is_left = |(other, binding): (&(Network, IpAddr), &Binding)| {
            let of_client = binding.mac == mac && binding.origin == Origin::Dhcp;
            other.0 == key.0 && other.1 != key.1 && other.1.is_ipv4() && of_client
        };
        let left = self.bindings.iter().filter(|&entry| is_left(entry));
        let left: Vec<_> = left.map(|(key, _)| *key).collect();
        left.into_iter().for_each(|key| self.remove(key));
    }

    fn give_back(&mut self, network: Network, claim: &Observation, now_ms: u64) -> Outcome {
        if let Err(outcome) = self.settle(network, claim, now_ms) {
            return outcome;
        }
        let key = (network, claim.address);
        match self.bindings.get(&key) {
            None => Outcome::Unknown,
            Some(held) if held.mac != claim.mac => Outcome::Conflict(ConflictKind::Address),
            Some(held) if held.origin == Origin::Policy => Outcome::Renewed,
            Some(_) => {
                self.remove(key);
                Outcome::Released
            }
        }
    }

    /// Notes where the MAC address of a claim is, unless it lives elsewhere.
    fn settle(
        &mut self,
        network: Network,
        claim: &Observation,
        now_ms: u64,
    ) -> Result<(), Outcome> {
        let age_ms = self.config.age_ms;
        let is_alive = |seen_ms: u64| now_ms < seen_ms.saturating_add(age_ms);
        let home = self.homes.get(&claim.mac).filter(|home| home.0.group != network.group);
        let lives_elsewhere = claim.inside && home.is_some_and(|home| is_alive(home.1));
        let place = self.places.get(&(network, claim.mac)).copied();
        let is_other_side =
            place.is_some_and(|p| p.inside != claim.inside && p.seen_ms.is_some_and(is_alive));
        let kind = match (is_other_side, lives_elsewhere) {
            (true, _) => ConflictKind::Side,
            (_, true) => ConflictKind::Wire,
            _ => {
                let is_known = place.is_some();
                if !is_known && !self.has_room_for_place(claim.mac, now_ms) {
                    return Err(Outcome::Full);
                }
                self.leave_home(network, claim.mac, claim.inside);
                self.place(network, claim.mac, claim.inside, now_ms);
                self.note_request(network, claim, now_ms);
                return Ok(());
            }
        };
        // Where it asks a server it may be, if the server answers.
        let asks = claim.kind == ObservationKind::DhcpClient;
        if asks && (place.is_some() || self.has_room_for_place(claim.mac, now_ms)) {
            self.note_request(network, claim, now_ms);
        }
        Err(Outcome::Conflict(kind))
    }

    fn note_request(&mut self, network: Network, claim: &Observation, now_ms: u64) {
        let Observation { xid, inside, .. } = *claim;
        if claim.kind == ObservationKind::DhcpClient {
            let nowhere = Place { inside, seen_ms: None, requests: [None; REQUESTS] };
            let place = self.places.entry((network, claim.mac)).or_insert(nowhere);
            place.ask(Request { xid, inside, at_ms: now_ms });
        }
    }

    fn place(&mut self, network: Network, mac: Mac, inside: bool, now_ms: u64) {
        let requests = self.places.get(&(network, mac)).map_or([None; REQUESTS], |p| p.requests);
        let new = Place { inside, seen_ms: Some(now_ms), requests };
        let before = self.places.insert((network, mac), new).filter(|p| p.seen_ms.is_some());
        self.changes += u64::from(before.is_none_or(|before| before.inside != inside));
        if inside {
            self.homes.insert(mac, (network, now_ms));
        }
        if before.is_some_and(|before| before.inside != inside) {
            // All that the host has comes with it.
            let own = self.bindings.iter_mut().filter(|(key, b)| key.0 == network && b.mac == mac);
            own.for_each(|(_, binding)| binding.inside = inside);
        }
    }

    fn has_room(&self, network: Network, mac: Mac) -> bool {
        let held = self.counts.get(&(network, mac)).copied().unwrap_or(0);
        self.bindings.len() < self.config.capacity && held < self.config.per_mac
    }

    fn is_named(&self, mac: Mac) -> bool {
        self.named.binary_search(&mac).is_ok()
    }

    /// Room for a lease or a host that rules name: what others only say of themselves gives way.
    fn make_room(&mut self, network: Network, mac: Mac, now_ms: u64) -> bool {
        if !self.places.contains_key(&(network, mac)) && !self.has_room_for_place(mac, now_ms) {
            return false;
        }
        if self.counts.get(&(network, mac)).is_some_and(|&held| held >= self.config.per_mac) {
            return false;
        }
        if self.bindings.len() >= self.config.capacity {
            let announced = self
                .bindings
                .iter()
                .filter(|(_, b)| b.origin == Origin::Announced && !self.is_named(b.mac));
            let oldest =
                announced.min_by_key(|(key, b)| (b.expires_ms, **key)).map(|(key, _)| *key);
            oldest.into_iter().for_each(|key| self.remove(key));
        }
        self.has_room(network, mac)
    }

    fn has_room_for_place(&mut self, mac: Mac, now_ms: u64) -> bool {
        const IDLE_MS: u64 = 10_000;
        const SWEEP_MS: u64 = 1_000;
        let most = self.config.capacity.saturating_mul(2);
        // It looks at all of them: in a flood, not for every claim.
        let is_due = self.swept_ms.is_none_or(|at| now_ms >= at.saturating_add(SWEEP_MS));
        if self.places.len() >= most && is_due {
            self.swept_ms = Some(now_ms);
            self.forget_places(now_ms, IDLE_MS);
        }
        self.places.len() < if self.is_named(mac) { most + most / 2 } else { most }
    }

    /// Forgets where hosts are that have no address and were silent for so long.
    fn forget_places(&mut self, now_ms: u64, idle_ms: u64) {
        let counts = &self.counts;
        let before = self.places.len();
        let is_recent = |seen_ms: u64| now_ms < seen_ms.saturating_add(idle_ms);
        self.places.retain(|key, place| {
            let asks = place.requests.iter().flatten().any(|request| is_recent(request.at_ms));
            place.seen_ms.is_some_and(is_recent) || asks || counts.contains_key(key)
        });
        let places = &self.places;
        self.homes.retain(|mac, home| places.contains_key(&(home.0, *mac)));
        self.changes += (before - self.places.len()) as u64;
    }

    fn insert(&mut self, key: (Network, IpAddr), binding: Binding) {
        *self.counts.entry((key.0, binding.mac)).or_default() += 1;
        self.bindings.insert(key, binding);
        self.changes += 1;
    }

    fn rebind(&mut self, key: (Network, IpAddr), binding: Binding) -> Outcome {
        self.remove(key);
        self.insert(key, binding);
        Outcome::Bound
    }

    fn remove(&mut self, key: (Network, IpAddr)) {
        let Some(binding) = self.bindings.remove(&key) else { return };
        self.changes += 1;
        if let Some(count) = self.counts.get_mut(&(key.0, binding.mac)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(key.0, binding.mac));
            }
        }
    }

    fn remember(&mut self, kind: ConflictKind, network: Network, claim: &Observation, now_ms: u64) {
        self.conflict_counts[kind as usize] += 1;
        let holder = self.bindings.get(&(network, claim.address)).map(|held| held.mac);
        let is_same = |known: &Conflict| {
            let (a, b) = (&known.claim, claim);
            known.kind == kind
                && (a.mac, a.address, a.wire, a.tags, a.inside)
                    == (b.mac, b.address, b.wire, b.tags, b.inside)
        };
        let known =
            self.conflicts.iter().position(is_same).and_then(|at| self.conflicts.remove(at));
        let count = known.map_or(1, |known| known.count + 1);
        if self.conflicts.len() == REMEMBERED {
            self.conflicts.pop_front();
        }
        let claim = *claim;
        self.conflicts.push_back(Conflict { kind, claim, holder, count, at_ms: now_ms });
    }
}

fn ascending<T: Ord>(all: impl Iterator<Item = T>) -> Arc<[T]> {
    let mut all: Vec<T> = all.collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

#[cfg(test)]
mod tests;
