//! Few, readable rules from many: cells (role, role, service) are joined to boxes.
//!
//! First what costs nothing: cells that differ in their services, their clients or their servers
//! alone become one rule. Then what costs little: two rules become one where the rule that is saved
//! outweighs the pairs that nobody used.

use std::collections::{BTreeMap, HashMap};

use crate::mesh::Mesh;
use crate::roles::Roles;
use crate::view::Link;

/// What folding spends, in bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// A rule.
    pub rule: u32,
    /// A pair that a rule permits and nobody used.
    pub unused: u32,
    /// Naming one more role in a rule.
    pub name: u32,
    /// Unused pairs up to which a rule for a few members of a role is one for the role.
    pub slack: u64,
}

impl Costs {
    /// The same for a site of so many hosts and services. To write a rule takes some
    /// `4 + 2 log n + log P` bits: where there is little to choose from a rule is cheap, and pairs that
    /// nobody used are not worth permitting to save one. Beyond a few hundred hosts nothing changes.
    pub(crate) fn for_size(self, hosts: usize, services: usize) -> Self {
        let bits = 4 + 2 * hosts.max(1).ilog2() + services.max(1).ilog2();
        Self { rule: self.rule.min(2 * bits), ..self }
    }
}

/// Rules up to which each is compared with each for folding that costs something.
const COMPARED: usize = 1_500;

/// Hosts that a rule names together: a role, the members of a mesh, or some of a role's.
pub(crate) type UnitId = u32;

/// One rule: every client in the units to every server in the units over every service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Box {
    pub(crate) clients: Vec<UnitId>,
    pub(crate) servers: Vec<UnitId>,
    pub(crate) services: Vec<u32>,
    /// Whether it names hosts of a role apart from their fellows.
    pub(crate) is_exception: bool,
}

/// Rules over units of hosts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folded {
    /// Hosts of each unit in order: the roles in their order, then others.
    pub(crate) units: Vec<Vec<u32>>,
    pub(crate) boxes: Vec<Box>,
}

/// The rules that permit all links.
pub(crate) fn fold(roles: &Roles, links: &[Link], meshes: &[Mesh], costs: Costs) -> Folded {
    let mut units = Units::new(roles);
    let mut cells: BTreeMap<(u32, u32, u32), Vec<Link>> = BTreeMap::new();
    for link in links {
        let role = |host: u32| roles.of_host[host as usize];
        let cell = (role(link.client), role(link.server), link.service);
        cells.entry(cell).or_default().push(*link);
    }
    let mut boxes = Vec::with_capacity(cells.len() + meshes.len());
    let mut observed = HashMap::new();
    for (&(client, server, service), links) in &cells {
        let sides = units.sides(client, server, links, costs);
        if (sides.0, sides.1) == (client, server) {
            observed.insert((client, server, service), links.len() as u64);
        }
        boxes.push(Box {
            clients: vec![sides.0],
            servers: vec![sides.1],
            services: vec![service],
            is_exception: sides.2,
        });
    }
    for mesh in meshes {
        let (clients, servers) = (units.intern(&mesh.clients), units.intern(&mesh.servers));
        boxes.push(Box {
            clients: vec![clients],
            servers: vec![servers],
            services: vec![mesh.service],
            is_exception: false,
        });
    }
    let mut boxes = join_exactly(boxes);
    if boxes.len() <= COMPARED {
        boxes = Joining { units: &units, observed: &observed, costs }.run(boxes);
        boxes = join_exactly(boxes);
    }
    boxes.sort();
    Folded { units: units.members, boxes }
}

struct Units<'r> {
    roles: &'r Roles,
    members: Vec<Vec<u32>>,
    known: HashMap<Vec<u32>, UnitId>,
}

impl<'r> Units<'r> {
    fn new(roles: &'r Roles) -> Self {
        let known = roles.members.iter().zip(0..).map(|(hosts, at)| (hosts.clone(), at));
        Self { roles, members: roles.members.clone(), known: known.collect() }
    }

    fn intern(&mut self, hosts: &[u32]) -> UnitId {
        if let Some(&unit) = self.known.get(hosts) {
            return unit;
        }
        let unit = self.members.len() as UnitId;
        self.members.push(hosts.to_vec());
        self.known.insert(hosts.to_vec(), unit);
        unit
    }

    /// Who a cell's rule is for: both roles, or those members alone that use it where the rest are
    /// too many. Told last is whether it names one member of a role of several.
    fn sides(
        &mut self,
        client: u32,
        server: u32,
        links: &[Link],
        costs: Costs,
    ) -> (UnitId, UnitId, bool) {
        let area = |clients: usize, servers: usize| clients as u64 * servers as u64;
        let (all_clients, all_servers) =
            (&self.roles.members[client as usize], &self.roles.members[server as usize]);
        let whole = area(all_clients.len(), all_servers.len());
        if whole - links.len() as u64 <= costs.slack {
            return (client, server, false);
        }
        let distinct = |hosts: &mut Vec<u32>| {
            hosts.sort_unstable();
            hosts.dedup();
        };
        let mut clients: Vec<u32> = links.iter().map(|link| link.client).collect();
        let mut servers: Vec<u32> = links.iter().map(|link| link.server).collect();
        distinct(&mut clients);
        distinct(&mut servers);
        let tight = area(clients.len(), servers.len());
        let saved = u64::from(costs.unused) * (whole - tight);
        let are_most =
            2 * clients.len() >= all_clients.len() && 2 * servers.len() >= all_servers.len();
        let is_shared = clients.len() > 1 || all_clients.len() == 1;
        if saved <= u64::from(costs.rule) || (are_most && is_shared) {
            return (client, server, false);
        }
        let is_exception = clients.len() == 1 && all_clients.len() > 1;
        (self.intern(&clients), self.intern(&servers), is_exception)
    }
}

/// Joins rules that differ in one respect, until none are left.
fn join_exactly(mut boxes: Vec<Box>) -> Vec<Box> {
    loop {
        let before = boxes.len();
        boxes = join_by(boxes, |b| &mut b.services);
        boxes = join_by(boxes, |b| &mut b.clients);
        boxes = join_by(boxes, |b| &mut b.servers);
        if boxes.len() == before {
            return boxes;
        }
    }
}

fn join_by(boxes: Vec<Box>, field: impl Fn(&mut Box) -> &mut Vec<u32>) -> Vec<Box> {
    let mut same: BTreeMap<Box, Vec<u32>> = BTreeMap::new();
    for mut rule in boxes {
        let values = std::mem::take(field(&mut rule));
        same.entry(rule).or_default().extend(values);
    }
    same.into_iter()
        .map(|(mut rule, mut values)| {
            values.sort_unstable();
            values.dedup();
            *field(&mut rule) = values;
            rule
        })
        .collect()
}

/// Joins rules where that costs less than the rule that it saves.
struct Joining<'f> {
    units: &'f Units<'f>,
    /// Edges of the cells that are roles on both sides.
    observed: &'f HashMap<(u32, u32, u32), u64>,
    costs: Costs,
}

impl Joining<'_> {
    fn run(&self, boxes: Vec<Box>) -> Vec<Box> {
        let mut live: Vec<Option<(Box, i64)>> = boxes
            .into_iter()
            .map(|b| self.cost(&b).map_or((b.clone(), i64::MAX), |c| (b, c)))
            .map(Some)
            .collect();
        let mut best: Vec<Option<(i64, usize)>> =
            (0..live.len()).map(|at| self.best(&live, at)).collect();
        loop {
            let cheapest = best
                .iter()
                .enumerate()
                .filter_map(|(at, best)| best.map(|(change, other)| (change, at, other)))
                .min();
            let Some((change, one, other)) = cheapest.filter(|&(change, ..)| change < 0) else {
                break;
            };
            let (Some(a), Some(b)) = (live[one].take(), live[other].take()) else { break };
            let joined = union(&a.0, &b.0);
            let cost = a.1 + b.1 + change;
            live[one] = Some((joined, cost));
            // Only what was best with one of the two, or is better with both, changes.
            for (at, best) in best.iter_mut().enumerate() {
                let stale = best.is_some_and(|(_, to)| to == one || to == other);
                if at == one || at == other || stale {
                    *best = self.best(&live, at);
                } else if at < one {
                    let changed = self.change(&live, at, one).map(|change| (change, one));
                    if changed.is_some() && (best.is_none() || changed < *best) {
                        *best = changed;
                    }
                }
            }
        }
        live.into_iter().flatten().map(|(rule, _)| rule).collect()
    }

    /// The best join of a rule with a later one.
    fn best(&self, live: &[Option<(Box, i64)>], at: usize) -> Option<(i64, usize)> {
        live[at].as_ref()?;
        (at + 1..live.len()).filter_map(|other| Some((self.change(live, at, other)?, other))).min()
    }

    fn change(&self, live: &[Option<(Box, i64)>], one: usize, other: usize) -> Option<i64> {
        if one == other {
            return None;
        }
        let (a, a_cost) = live[one].as_ref()?;
        let (b, b_cost) = live[other].as_ref()?;
        if *a_cost == i64::MAX || *b_cost == i64::MAX {
            return None;
        }
        // Rules that share nothing have nothing to say together.
        let shares = |a: &[u32], b: &[u32]| a.iter().any(|x| b.binary_search(x).is_ok());
        let common = u8::from(shares(&a.clients, &b.clients))
            + u8::from(shares(&a.servers, &b.servers))
            + u8::from(shares(&a.services, &b.services));
        if common == 0 {
            return None;
        }
        Some(self.cost(&union(a, b))? - a_cost - b_cost)
    }

    /// What a rule costs; [`None`] for one that names others than roles.
    fn cost(&self, rule: &Box) -> Option<i64> {
        let roles = self.units.roles.members.len() as u32;
        if rule.is_exception || rule.clients.iter().chain(&rule.servers).any(|&u| u >= roles) {
            return None;
        }
        let hosts = |units: &[UnitId]| -> u64 {
            units.iter().map(|&u| self.units.members[u as usize].len() as u64).sum()
        };
        let area = hosts(&rule.clients) * hosts(&rule.servers) * rule.services.len() as u64;
        let mut observed = 0;
        for &client in &rule.clients {
            for &server in &rule.servers {
                for &service in &rule.services {
                    observed += self.observed.get(&(client, server, service)).unwrap_or(&0);
                }
            }
        }
        let names = (rule.clients.len() + rule.servers.len()) as i64 * i64::from(self.costs.name);
        let unused = area.saturating_sub(observed) as i64;
        Some(i64::from(self.costs.rule) + i64::from(self.costs.unused) * unused + names)
    }
}

fn union(a: &Box, b: &Box) -> Box {
    let both = |a: &[u32], b: &[u32]| {
        let mut both: Vec<u32> = a.iter().chain(b).copied().collect();
        both.sort_unstable();
        both.dedup();
        both
    };
    Box {
        clients: both(&a.clients, &b.clients),
        servers: both(&a.servers, &b.servers),
        services: both(&a.services, &b.services),
        is_exception: false,
    }
}
