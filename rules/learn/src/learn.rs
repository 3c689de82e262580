//! Observations to a proposal: roles, and the rules among them.

use crate::admit::{self, Doubt};
use crate::observe::Service;
use crate::roles::{self, Roles};
use crate::store::{Edge, HostId, Store};
use crate::view::{self, Candidate, Link, View};
use crate::{dynamic, fold, mesh};

/// How to learn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What roles cost.
    pub roles: roles::Costs,
    /// What rules cost.
    pub rules: fold::Costs,
    /// Whether ports have an order, so that dynamic ones begin at the start of a usual range. They
    /// do, but for anonymised data.
    pub ports_are_ordered: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            roles: roles::Costs { rule: 30, unused: 14, by_rarity: true },
            rules: fold::Costs { rule: 45, unused: 4, name: 2, slack: 4 },
            ports_are_ordered: true,
        }
    }
}

/// What a rule is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Roles to roles.
    Roles,
    /// What the members of a large set of hosts use among themselves.
    Mesh,
    /// What one member of a role does and its fellows do not: somebody has to approve it.
    Exception,
}

/// One proposed rule: each client may open each service on each server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What it is.
    pub kind: Kind,
    /// The units of hosts that may open.
    pub clients: Vec<u32>,
    /// The units of hosts that may be opened to.
    pub servers: Vec<u32>,
    /// Services, in order.
    pub services: Vec<Service>,
}

/// An edge that makes no rule, and why.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Doubtful {
    /// Who opens.
    pub client: HostId,
    /// To whom.
    pub server: HostId,
    /// What.
    pub service: Service,
    /// Distinct hours in which it was seen.
    pub hours: u32,
    /// Why it makes no rule.
    pub doubt: Doubt,
}

/// What was learnt.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proposal {
    /// Hosts that rules name together; the first [`Proposal::roles`] of them are the roles, and
    /// every host belongs to exactly one of those.
    pub units: Vec<Vec<HostId>>,
    /// How many units are roles.
    pub roles: usize,
    /// The role of each host.
    pub role_of: Vec<u32>,
    /// Rules. They all permit, so their order does not matter.
    pub rules: Vec<Rule>,
    /// Edges that make no rule.
    pub doubtful: Vec<Doubtful>,
    /// The edges that made the rules, dynamic ports as one.
    pub witnesses: Vec<(HostId, HostId, Service)>,
    /// For each role the merge with another that would have cost least, and its cost in bits.
    pub nearest: Vec<Option<(u32, i64)>>,
}

/// Learns from everything in a store.
pub fn learn(store: &Store, options: &Options) -> Proposal {
    learn_slots(store, u64::MAX, options)
}

/// Learns from what was seen in some slots of time.
pub fn learn_slots(store: &Store, slots: u64, options: &Options) -> Proposal {
    let mut view = View::new(store, slots);
    dynamic::collapse(&mut view, options.ports_are_ordered);
    let order = view.hosts.clone();
    let admit::Admission { admitted, doubted } = admit::admit(view);
    let (services, links) = view::links(&admitted);
    drop(admitted);
    let (meshes, rest) = mesh::find(&links, order.len());
    let roles = roles::find(order.len(), &rest, options.roles);
    let rules = options.rules.for_size(order.len(), services.len());
    let folded = fold::fold(&roles, &rest, &meshes, rules);
    propose(&order, &services, &links, &roles, folded, &doubted)
}

impl Proposal {
    /// The hosts of some units, in order.
    pub fn hosts(&self, units: &[u32]) -> Vec<HostId> {
        let mut hosts: Vec<HostId> =
            units.iter().flat_map(|&unit| self.units[unit as usize].iter().copied()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }
}

/// Edges of a store with dynamic ports as one service, as learning sees them: for baselines that
/// are measured beside it.
pub fn collapsed(store: &Store, options: &Options) -> Vec<(HostId, HostId, Service)> {
    let mut view = View::new(store, u64::MAX);
    dynamic::collapse(&mut view, options.ports_are_ordered);
    let host = |at: u32| view.hosts[at as usize];
    view.edges.iter().map(|e| (host(e.client), host(e.server), e.service)).collect()
}

/// Roles over all admitted edges, meshes and common tokens as heavy as the rest, in the usual
/// objective: the role of each host.
pub fn plain_roles(store: &Store, options: &Options) -> Vec<u32> {
    plain_learn(store, options, false).role_of
}

/// The rules of [`plain_roles`], folded.
pub fn plain_fold(store: &Store, options: &Options) -> Proposal {
    plain_learn(store, options, true)
}

/// The plain edges of a store, likewise.
pub fn plain(store: &Store) -> Vec<(HostId, HostId, Service)> {
    store
        .edges()
        .iter()
        .map(|Edge { client, server, service, .. }| (*client, *server, *service))
        .collect()
}

fn plain_learn(store: &Store, options: &Options, is_folded: bool) -> Proposal {
    let mut view = View::new(store, u64::MAX);
    dynamic::collapse(&mut view, options.ports_are_ordered);
    let order = view.hosts.clone();
    let (services, links) = view::links(&view.edges);
    let costs = roles::Costs { unused: options.rules.unused, by_rarity: false, ..options.roles };
    let roles = roles::find(order.len(), &links, costs);
    let none = fold::Costs { rule: 0, unused: 1, name: 0, slack: u64::MAX };
    let folded = fold::fold(&roles, if is_folded { &links } else { &[] }, &[], none);
    propose(&order, &services, &links, &roles, folded, &[])
}

fn propose(
    order: &[HostId],
    services: &[Service],
    links: &[Link],
    roles: &Roles,
    folded: fold::Folded,
    doubted: &[(Candidate, Doubt)],
) -> Proposal {
    let host = |at: u32| order[at as usize];
    let mut role_of = vec![0; order.len()];
    for (at, &role) in roles.of_host.iter().enumerate() {
        role_of[order[at].0 as usize] = role;
    }
    let mesh_or_roles = |rule: &fold::Box| {
        let roles = roles.members.len() as u32;
        let is_mesh = rule.clients.iter().chain(&rule.servers).any(|&unit| unit >= roles);
        match (rule.is_exception, is_mesh) {
            (true, _) => Kind::Exception,
            (false, true) => Kind::Mesh,
            (false, false) => Kind::Roles,
        }
    };
    let rules = folded.boxes.iter().map(|rule| Rule {
        kind: mesh_or_roles(rule),
        clients: rule.clients.clone(),
        servers: rule.servers.clone(),
        services: rule.services.iter().map(|&at| services[at as usize]).collect(),
    });
    let mut doubtful: Vec<Doubtful> = doubted
        .iter()
        .map(|&(edge, doubt)| Doubtful {
            client: host(edge.client),
            server: host(edge.server),
            service: edge.service,
            hours: u32::from(edge.hours),
            doubt,
        })
        .collect();
    doubtful.sort_unstable_by_key(|edge| (edge.client, edge.server, edge.service));
    let witness =
        |link: &Link| (host(link.client), host(link.server), services[link.service as usize]);
    Proposal {
        rules: rules.collect(),
        units: folded.units.iter().map(|unit| unit.iter().map(|&at| host(at)).collect()).collect(),
        roles: roles.members.len(),
        role_of,
        doubtful,
        witnesses: links.iter().map(witness).collect(),
        nearest: roles.rejected.iter().map(|r| r.map(|r| (r.other, r.cost))).collect(),
    }
}
