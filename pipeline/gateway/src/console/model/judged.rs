//! What a policy decides of every edge, and what it permits that nobody uses.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bulkhead_rules::classifier::{MAX_BATCH, Scratch};
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, PolicyTime, VlanTags, WireId};
use bulkhead_rules::policy::{Action, Endpoint, EndpointId, Policy, Rule, RuleId, ServiceTerm};

use super::blast::Classes;
use super::groups::Grouping;
use super::network::{Host, Network, bits};
use crate::candidate::unix_now_ms;
use crate::console::gateway::Compiled;

/// Members of a group that are asked about: they are spread over it.
const SAMPLE: usize = 24;

/// Services of a rule that are tried for a packet that it permits.
const TRIED: usize = 8;

/// What a policy decides.
#[derive(Debug)]
pub struct Judged {
    /// The policy.
    pub policy: Arc<Compiled>,
    /// The rule that decides each edge; [`None`] where no packet of it can be made up.
    rules: Vec<Option<RuleId>>,
    /// For each pair of groups whether the policy permits anything, found with examples.
    permitted: Vec<bool>,
    groups: usize,
    classes: OnceLock<Arc<Classes>>,
}

impl Judged {
    /// Asks the compiled policy about every edge.
    pub fn of(network: &Network, groups: &Grouping, policy: Arc<Compiled>) -> Self {
        let wires = policy.candidate.policy.wires().to_vec();
        let mut rules = vec![None; network.edges.len()];
        let at = now();
        let mut scratch = Scratch::default();
        let mut batch: Vec<(usize, Headers)> = Vec::with_capacity(MAX_BATCH);
        let mut ask = |batch: &mut Vec<(usize, Headers)>| {
            let headers: Vec<Headers> = batch.iter().map(|(_, headers)| *headers).collect();
            let mut out = vec![RuleId::DEFAULT; headers.len()];
            policy.candidate.classifier.classify(&headers, at, &mut scratch, &mut out);
            for ((edge, _), rule) in batch.drain(..).zip(out) {
                rules[edge] = Some(rule);
            }
        };
        for (place, edge) in network.edges.iter().enumerate() {
            let Some(headers) = network.headers(edge, &wires) else { continue };
            batch.push((place, headers));
            if batch.len() == MAX_BATCH {
                ask(&mut batch);
            }
        }
        ask(&mut batch);
        let permitted = permitted(network, groups, &policy, at);
        Self { policy, rules, permitted, groups: groups.groups.len(), classes: OnceLock::new() }
    }

    /// The rule that decides an edge, where that can be said.
    pub fn rule(&self, edge: u32) -> Option<RuleId> {
        self.rules.get(edge as usize).copied().flatten()
    }

    /// Whether the policy permits an edge, where that can be said.
    pub fn allows(&self, edge: u32) -> Option<bool> {
        self.rule(edge).map(|rule| self.policy.candidate.policy.action(rule) == Action::Allow)
    }

    /// The name of the rule that decides an edge.
    pub fn rule_name(&self, edge: u32) -> Option<&str> {
        self.rule(edge).map(|rule| self.policy.candidate.policy.rule_name(rule))
    }

    /// Whether the policy permits anything from one group to another, as far as examples show.
    pub fn permits(&self, from: u16, to: u16) -> bool {
        self.permitted.get(usize::from(from) * self.groups + usize::from(to)) == Some(&true)
    }

    /// Hosts that the policy cannot tell apart, and what they reach.
    pub fn classes(&self, network: &Network) -> Arc<Classes> {
        Arc::clone(self.classes.get_or_init(|| Arc::new(Classes::of(network, &self.policy))))
    }
}

/// The instant at which policies are asked: now, by a clock that is trusted.
pub fn now() -> PolicyTime {
    PolicyTime { unix_ms: unix_now_ms().unwrap_or(0), synchronised: true }
}

/// Which of its groups have members on each side of a rule, and whether an example passes.
fn permitted(network: &Network, groups: &Grouping, policy: &Compiled, at: PolicyTime) -> Vec<bool> {
    let count = groups.groups.len();
    let mut permitted = vec![false; count * count];
    let sample: Vec<Vec<u32>> = groups.groups.iter().map(|group| spread(&group.members)).collect();
    let checked = &policy.candidate.policy;
    let mut sides: HashMap<EndpointId, Arc<Vec<(usize, u32)>>> = HashMap::new();
    let mut asking = Asking::new(policy, at);
    for rule in checked.order().filter_map(|id| checked.rule(id)) {
        if rule.action != Action::Allow || !rule.is_active(at) {
            continue;
        }
        let mut members = |id: EndpointId| {
            let found = sides.entry(id).or_insert_with(|| {
                let endpoint = checked.endpoint(id);
                let first = |(group, members): (usize, &Vec<u32>)| {
                    let mut hosts = members.iter().copied();
                    let host = hosts.find(|&at| is_in(&network.hosts[at as usize], endpoint))?;
                    Some((group, host))
                };
                Arc::new(sample.iter().enumerate().filter_map(first).collect())
            });
            Arc::clone(found)
        };
        let (from, to) = (members(rule.from), members(rule.to));
        let ways = [(&from, &to), (&to, &from)];
        for (from, to) in ways.into_iter().take(if rule.between { 2 } else { 1 }) {
            for &(a, client) in from.iter() {
                for &(b, server) in to.iter() {
                    let cell = &mut permitted[a * count + b];
                    if !*cell && client != server {
                        let host = |at: u32| &network.hosts[at as usize];
                        *cell = asking.passes(rule, host(client), host(server));
                    }
                }
            }
        }
    }
    permitted
}

/// Some of many, from the first to the last.
fn spread(all: &[u32]) -> Vec<u32> {
    let step = all.len().div_ceil(SAMPLE).max(1);
    all.iter().copied().step_by(step).collect()
}

/// Whether a host is on the side of a rule, by any of its addresses.
pub fn is_in(host: &Host, endpoint: &Endpoint) -> bool {
    let tags = VlanTags { outer: host.vlan[0], inner: host.vlan[1] };
    let mac = host.mac.unwrap_or_default();
    if host.addresses.is_empty() {
        return endpoint.matches(0, 0, mac, tags);
    }
    host.addresses.iter().any(|seen| {
        let ether_type = if seen.address.is_ipv4() { ETHER_IPV4 } else { ETHER_IPV6 };
        endpoint.matches(ether_type, bits(seen.address), mac, tags)
    })
}

/// Asks a policy about packets that are made up after a rule.
pub struct Asking<'p> {
    policy: &'p Compiled,
    at: PolicyTime,
    scratch: Scratch,
}

impl<'p> Asking<'p> {
    /// Asks this policy.
    pub fn new(policy: &'p Compiled, at: PolicyTime) -> Self {
        Self { policy, at, scratch: Scratch::default() }
    }

    /// Whether the policy lets something pass that `rule` is about, from one host to another. What passes
    /// is sure; what does not might, by a service that was not tried.
    pub fn passes(&mut self, rule: &Rule, client: &Host, server: &Host) -> bool {
        let checked: &Policy = &self.policy.candidate.policy;
        let wire = rule.wires.named().first().copied().unwrap_or(WireId(0));
        let mut packets = Vec::new();
        for term in checked.service(rule.service).terms.iter().take(TRIED) {
            packets
                .extend(made_up(term, client, server).into_iter().map(|h| Headers { wire, ..h }));
        }
        packets.truncate(MAX_BATCH);
        let mut out = vec![RuleId::DEFAULT; packets.len()];
        self.policy.candidate.classifier.classify(&packets, self.at, &mut self.scratch, &mut out);
        out.into_iter().any(|rule| checked.action(rule) == Action::Allow)
    }
}

/// Packets that a term matches, from one host to another: one for each pair of families that they share.
fn made_up(term: &ServiceTerm, client: &Host, server: &Host) -> Vec<Headers> {
    let base = Headers {
        src_mac: client.mac.unwrap_or_default(),
        dst_mac: server.mac.unwrap_or_default(),
        tags: VlanTags { outer: client.vlan[0], inner: client.vlan[1] },
        ..Headers::default()
    };
    let first_port = |ranges: &[(u16, u16)], liked: u16| {
        let likes = ranges.iter().any(|&(from, to)| (from..=to).contains(&liked));
        if likes { liked } else { ranges.first().map_or(liked, |&(from, _)| from) }
    };
    let mut packets = Vec::new();
    for (ether_type, v4) in [(ETHER_IPV4, true), (ETHER_IPV6, false)] {
        if !term.ether_types.contains(ether_type) {
            continue;
        }
        let latest = |host: &Host| {
            let family = host.addresses.iter().filter(|seen| seen.address.is_ipv4() == v4);
            family.max_by_key(|seen| seen.last_ms).map(|seen| bits(seen.address))
        };
        let (Some(src), Some(dst)) = (latest(client), latest(server)) else { continue };
        let protocols = term.protocols.named();
        let protocol = match protocols.first() {
            Some(&named) if term.protocols.contains(named) => named,
            _ => 6,
        };
        packets.push(
            Headers {
                ether_type,
                src,
                dst,
                protocol,
                src_port: first_port(term.src_ports.ranges(), 50_000),
                dst_port: first_port(term.dst_ports.ranges(), 443),
                ..base
            }
            .normalised(),
        );
    }
    let other =
        term.ether_types.named().iter().find(|&&kind| {
            kind != ETHER_IPV4 && kind != ETHER_IPV6 && term.ether_types.contains(kind)
        });
    if let Some(&ether_type) = other {
        packets.push(Headers { ether_type, ..base });
    }
    packets
}
