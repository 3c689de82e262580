//! Why a rule is proposed: who witnesses it, what it opens that nobody used, what it saves.

use std::collections::{HashMap, HashSet};

use crate::learn::{Options, Proposal};
use crate::observe::Service;
use crate::store::{HostId, Store};

/// Examples of witnesses and of unused pairs that are listed.
pub const EXAMPLES: usize = 8;

/// The evidence for one rule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Explanation {
    /// Edges that the rule permits and that were seen.
    pub witnesses: u64,
    /// Some of them: client, server, service.
    pub seen: Vec<(HostId, HostId, Service)>,
    /// (Client, server, service) triples that it permits and nobody used.
    pub unused: u64,
    /// Some of them.
    pub unseen: Vec<(HostId, HostId, Service)>,
    /// Distinct hours of the witness that was seen most.
    pub hours: u32,
    /// Bits that the rule saves beside one rule for each of its edges.
    pub saved: i64,
    /// The merge of one of its roles with another that would have cost least: role, other role, bits.
    pub nearest: Option<(u32, u32, i64)>,
}

/// Explains every rule of a proposal, in its order.
pub fn explain(store: &Store, proposal: &Proposal, options: &Options) -> Vec<Explanation> {
    let hours: HashMap<(HostId, HostId, Service), u32> = store
        .edges()
        .iter()
        .map(|edge| ((edge.client, edge.server, edge.service), u32::from(edge.hours)))
        .collect();
    let witnesses: HashSet<(HostId, HostId, Service)> =
        proposal.witnesses.iter().copied().collect();
    let mut by_service: HashMap<Service, Vec<(HostId, HostId)>> = HashMap::new();
    for &(client, server, service) in &proposal.witnesses {
        by_service.entry(service).or_default().push((client, server));
    }
    let explain = |rule: &crate::learn::Rule| {
        let (clients, servers) = (proposal.hosts(&rule.clients), proposal.hosts(&rule.servers));
        let mut found = Explanation::default();
        for &service in &rule.services {
            for &(client, server) in by_service.get(&service).into_iter().flatten() {
                if clients.binary_search(&client).is_err()
                    || servers.binary_search(&server).is_err()
                {
                    continue;
                }
                let edge = (client, server, service);
                found.witnesses += 1;
                found.hours = found.hours.max(hours.get(&edge).copied().unwrap_or(0));
                if found.seen.len() < EXAMPLES {
                    found.seen.push(edge);
                }
            }
        }
        let own = clients.iter().filter(|host| servers.binary_search(host).is_ok()).count() as u64;
        let pairs = clients.len() as u64 * servers.len() as u64 - own;
        let area = pairs * rule.services.len() as u64;
        found.unused = area.saturating_sub(found.witnesses);
        found.unseen = rule
            .services
            .iter()
            .flat_map(|&service| clients.iter().map(move |&client| (client, service)))
            .flat_map(|(client, service)| {
                servers.iter().map(move |&server| (client, server, service))
            })
            .filter(|edge| edge.0 != edge.1 && !witnesses.contains(edge))
            .take(EXAMPLES)
            .collect();
        let (each, unused) = (i64::from(options.rules.rule), i64::from(options.rules.unused));
        found.saved = (found.witnesses as i64 - 1) * each - found.unused as i64 * unused;
        let units = rule.clients.iter().chain(&rule.servers);
        found.nearest = units
            .filter_map(|&role| {
                let (other, cost) = (*proposal.nearest.get(role as usize)?)?;
                Some((role, other, cost))
            })
            .min_by_key(|&(role, other, cost)| (cost, role, other));
        found
    };
    proposal.rules.iter().map(explain).collect()
}
