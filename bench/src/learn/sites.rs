//! Sites with known roles: offices, plants, data centre tiers and hospitals, seeded.
//!
//! A site is a list of segments of a kind; a segment has roles, and uses: hosts of one role open a
//! service on hosts of another, always the same few or all of them, in some share of the hours.
//! Around them are what makes learning hard: ephemeral ports, devices that come and go, jobs at the
//! end of the month, a sweep, and a slow probe that takes its time and is answered.

use std::collections::{HashMap, HashSet};

use bulkhead_learn::observe::{PortProtocol, Service};

use super::data::{Flow, Hours};
use crate::random::Random;

/// A site and the truth about it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its flows.
    pub hours: Hours,
    /// The role of each host.
    pub truth: HashMap<u32, u32>,
    /// Edges that only the attackers use.
    pub attacks: HashSet<(u32, u32, Service)>,
}

/// How many of the servers each client uses.
#[derive(Clone, Copy)]
enum Fan {
    All,
    Few(usize),
}

/// Clients' role, servers' role, protocol and port, how many servers, percent of hours.
type Use = (&'static str, &'static str, PortProtocol, u16, Fan, u32);

/// Roles with their shares of a segment in percent, and the uses among them. Roles whose names begin
/// with a capital are the site's and shared by all segments.
struct Kind {
    roles: &'static [(&'static str, u32)],
    uses: &'static [Use],
}

impl Kind {
    /// Whether hosts of a role speak with hosts of their own segment at all.
    fn has_peers_within(&self, role: &str) -> bool {
        let is_within = |name: &str| self.roles.iter().any(|&(other, _)| other == name);
        self.uses
            .iter()
            .any(|&(from, to, ..)| (from == role || to == role) && is_within(from) && is_within(to))
    }
}

use Fan::{All, Few};
use PortProtocol::{Tcp, Udp};

const OFFICE: Kind = Kind {
    roles: &[("desk", 72), ("phone", 16), ("printer", 7), ("files", 3), ("print-server", 2)],
    uses: &[
        ("desk", "files", Tcp, 445, All, 70),
        ("desk", "print-server", Tcp, 631, All, 25),
        ("print-server", "printer", Tcp, 9100, All, 60),
        ("phone", "Voice", Tcp, 5061, All, 95),
        ("desk", "Mail", Tcp, 993, All, 90),
        ("desk", "Proxy", Tcp, 3128, Few(2), 95),
    ],
};

const PLANT: Kind = Kind {
    roles: &[("plc", 50), ("drive", 30), ("hmi", 12), ("historian", 4), ("engineering", 4)],
    uses: &[
        ("hmi", "plc", Tcp, 502, All, 100),
        ("hmi", "plc", Tcp, 44818, All, 90),
        ("plc", "drive", Udp, 2222, Few(3), 100),
        ("historian", "plc", Tcp, 102, All, 100),
        ("engineering", "plc", Tcp, 102, Few(4), 15),
        ("historian", "Reports", Tcp, 1433, All, 80),
    ],
};

const TIERS: Kind = Kind {
    roles: &[("web", 35), ("app", 40), ("db", 10), ("cache", 10), ("balancer", 5)],
    uses: &[
        ("balancer", "web", Tcp, 8443, All, 100),
        ("web", "app", Tcp, 8080, All, 90),
        ("app", "db", Tcp, 5432, All, 95),
        ("app", "cache", Tcp, 6379, All, 95),
        ("db", "db", Tcp, 5433, All, 90),
        ("cache", "cache", Udp, 7946, All, 60),
    ],
};

const HOSPITAL: Kind = Kind {
    roles: &[("ward-pc", 45), ("modality", 18), ("pump", 30), ("interface", 4), ("viewer", 3)],
    uses: &[
        ("modality", "Pacs", Tcp, 104, All, 60),
        ("viewer", "Pacs", Tcp, 11112, All, 80),
        ("pump", "interface", Tcp, 3001, All, 95),
        ("interface", "Records", Tcp, 2575, All, 100),
        ("ward-pc", "Records", Tcp, 443, All, 90),
    ],
};

/// What every host of a site uses.
const COMMON: &[(&str, PortProtocol, u16, u32)] =
    &[("Names", Udp, 53, 95), ("Clock", Udp, 123, 60)];

/// Servers of each shared role.
const SHARED_SERVERS: usize = 2;

/// Hosts of one segment, on the average.
const SEGMENT: usize = 60;

/// Of a thousand clients so many leave before the end, and as many come.
const CHURN_PERMILLE: usize = 10;

struct Edge {
    client: u32,
    server: u32,
    service: Option<u16>,
    protocol: PortProtocol,
    percent: u32,
}

/// The site of so many hosts over so many hours that belongs to `seed`.
pub fn generate(hosts: usize, hours: usize, seed: u64) -> Site {
    let mut random = Random::new(seed);
    let mut truth = HashMap::new();
    let mut edges: Vec<Edge> = Vec::new();
    let mut next_host = 0_u32;
    let mut next_role = 0_u32;
    let mut shared: HashMap<&str, Vec<u32>> = HashMap::new();
    // Phones of all segments do the same to the same servers: nothing tells their segments apart, so
    // that they are one role of the site.
    let mut of_site: HashMap<&str, u32> = HashMap::new();
    let mut new_role = |count: usize, truth: &mut HashMap<u32, u32>| -> Vec<u32> {
        let members: Vec<u32> = (next_host..).take(count).collect();
        next_host += count as u32;
        truth.extend(members.iter().map(|&host| (host, next_role)));
        next_role += 1;
        members
    };
    let kinds = [&OFFICE, &PLANT, &TIERS, &HOSPITAL];
    let segments = (hosts / SEGMENT).max(1);
    for segment in 0..segments {
        let kind = kinds[segment % kinds.len()];
        let size = SEGMENT * 3 / 4 + random.below(SEGMENT / 2);
        let mut roles: HashMap<&str, Vec<u32>> = HashMap::new();
        for &(name, share) in kind.roles {
            let count = (size * share as usize / 100).max(1);
            let members = new_role(count, &mut truth);
            if !kind.has_peers_within(name) {
                let role = *of_site.entry(name).or_insert(truth[&members[0]]);
                truth.extend(members.iter().map(|&host| (host, role)));
            }
            roles.insert(name, members);
        }
        for &(from, to, protocol, port, fan, percent) in kind.uses {
            let clients = roles[from].clone();
            let servers = match roles.get(to) {
                Some(servers) => servers.clone(),
                None => {
                    shared.entry(to).or_insert_with(|| new_role(SHARED_SERVERS, &mut truth)).clone()
                }
            };
            connect(&mut edges, &clients, &servers, (protocol, port, fan, percent), &mut random);
        }
        for &(to, protocol, port, percent) in COMMON {
            let servers = shared.entry(to).or_insert_with(|| new_role(SHARED_SERVERS, &mut truth));
            let servers = servers.clone();
            for &(name, _) in kind.roles {
                let use_ = (protocol, port, All, percent);
                connect(&mut edges, &roles[name], &servers, use_, &mut random);
            }
        }
        // One pair of a segment speaks over ports that the server chooses.
        if let Some(members) = roles.get("app").or_else(|| roles.get("interface")) {
            if let &[client, server, ..] = members.as_slice() {
                let (protocol, percent) = (Tcp, 90);
                edges.push(Edge { client, server, service: None, protocol, percent });
            }
        }
    }
    let count = next_host;
    let mut all: Vec<Vec<Flow>> =
        (0..hours).map(|hour| hour_of(&edges, hour, hours, (count, seed), &mut random)).collect();
    let attacks = attack(&mut all, &edges, count, &mut random);
    Site { hours: all, truth, attacks }
}

fn connect(
    edges: &mut Vec<Edge>,
    clients: &[u32],
    servers: &[u32],
    (protocol, port, fan, percent): (PortProtocol, u16, Fan, u32),
    random: &mut Random,
) {
    for &client in clients {
        let mut chosen: Vec<u32> = servers.iter().copied().filter(|&s| s != client).collect();
        if let Few(count) = fan {
            random.shuffle(&mut chosen);
            chosen.truncate(count);
        }
        edges.extend(chosen.into_iter().map(|server| Edge {
            client,
            server,
            service: Some(port),
            protocol,
            percent,
        }));
    }
}

/// The flows of one hour. Jobs at the end of the month are those of rare uses: each hour of a day in
/// which they run, they run on all hosts.
fn hour_of(
    edges: &[Edge],
    hour: usize,
    hours: usize,
    (hosts, seed): (u32, u64),
    random: &mut Random,
) -> Vec<Flow> {
    // Who leaves and when is another matter than what is done in each hour.
    let lots = seed.wrapping_sub(1) << 32 ^ 0x1eaf;
    let leaves = |host: u32| {
        let lot = crate::random::mix(u64::from(host) ^ lots) as usize;
        (lot % 1_000 < CHURN_PERMILLE).then_some(1 + lot / 1_000 % hours.max(2))
    };
    let is_month_end = hour % 24 == 23;
    let mut flows = Vec::with_capacity(edges.len());
    for edge in edges {
        let percent = if is_month_end && edge.percent < 30 { 100 } else { edge.percent };
        let is_away = |host: u32| leaves(host).is_some_and(|at| hour >= at);
        if is_away(edge.server) || !random.percent(percent) {
            continue;
        }
        // Whoever left was replaced by a new device that does the same.
        let client = if is_away(edge.client) { edge.client + hosts } else { edge.client };
        let port = edge.service.unwrap_or_else(|| random.within(49_152, 65_535));
        let service = Service::Port(edge.protocol, port);
        flows.push(Flow { client, server: edge.server, service, failed: false });
    }
    flows.sort_unstable();
    flows.dedup();
    flows
}

/// A host sweeps the network for file shares within an hour; another asks one server after the other
/// for a shell, twice each in different hours, and is answered by half of them.
fn attack(
    hours: &mut Hours,
    edges: &[Edge],
    hosts: u32,
    random: &mut Random,
) -> HashSet<(u32, u32, Service)> {
    let used: HashSet<(u32, u32, u16)> =
        edges.iter().filter_map(|edge| Some((edge.client, edge.server, edge.service?))).collect();
    let mut attacks = HashSet::new();
    let (sweeper, prober) = (edges[0].client, edges[edges.len() / 2].client);
    let sweep_hour = 5.min(hours.len() - 1);
    let targets: Vec<u32> =
        (0..hosts.min(500)).map(|_| random.below(hosts as usize) as u32).collect();
    for server in targets {
        let is_open = random.percent(15);
        if server != sweeper && !used.contains(&(sweeper, server, 445)) {
            let service = Service::Port(Tcp, 445);
            hours[sweep_hour].push(Flow { client: sweeper, server, service, failed: !is_open });
            attacks.insert((sweeper, server, service));
        }
    }
    for hour in 0..hours.len().saturating_sub(2) {
        let server = random.below(hosts as usize) as u32;
        let failed = random.percent(50);
        if server == prober {
            continue;
        }
        let service = Service::Port(Tcp, 22);
        for at in [hour, hour + 2] {
            hours[at].push(Flow { client: prober, server, service, failed });
        }
        attacks.insert((prober, server, service));
    }
    for flows in hours {
        flows.sort_unstable();
        flows.dedup_by_key(|flow| (flow.client, flow.server, flow.service));
    }
    attacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_site() {
        let (one, same) = (generate(100, 6, 7), generate(100, 6, 7));
        assert_eq!(one.hours, same.hours);
        assert_ne!(one.hours, generate(100, 6, 8).hours);
        assert!(one.truth.len() > 40 && !one.attacks.is_empty());
    }
}
