//! What a device could reach, step by step: the blast radius if somebody takes it over.
//!
//! Hosts that are on the same sides of the same rules are one class: the policy cannot tell them apart. So
//! classes are asked about, not ten thousand hosts by ten thousand. Whether one class may open anything to
//! another is found by examples that the compiled policy is asked about: what is found is sure.

use std::collections::HashMap;

use bulkhead_rules::policy::{Action, EndpointId, RuleId};

use super::judged::{Asking, is_in, now};
use super::network::Network;
use crate::console::gateway::Compiled;

/// Classes that are told apart at most: of more, hosts are put to those that came first by the first
/// rules that name them.
const MAX_CLASSES: usize = 1500;

/// Hosts that a policy cannot tell apart.
#[derive(Debug)]
pub struct Classes {
    /// The members of each class.
    members: Vec<Vec<u32>>,
    /// The class of each host.
    of: Vec<u32>,
    /// For each class those that it may open something to, with the rule of one such packet.
    reach: Vec<Vec<(u32, RuleId)>>,
    /// Whether there are more classes than are told apart.
    pub is_coarse: bool,
}

/// One step further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// How many steps from the device: 1 for what it may open itself.
    pub depth: usize,
    /// Devices that are reached in so many steps and not in fewer.
    pub devices: Vec<u32>,
    /// Rules that permit it.
    pub rules: Vec<RuleId>,
}

impl Classes {
    /// Puts the hosts of a network into classes.
    pub fn of(network: &Network, policy: &Compiled) -> Self {
        let checked = &policy.candidate.policy;
        let at = now();
        let rules: Vec<RuleId> = checked.order().collect();
        let active = || {
            let rules = rules.iter().filter_map(|&id| Some((id, checked.rule(id)?)));
            rules.filter(|(_, rule)| rule.is_active(at))
        };
        let mut endpoints: Vec<EndpointId> =
            active().flat_map(|(_, rule)| [rule.from, rule.to]).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let place: HashMap<EndpointId, usize> = endpoints.iter().copied().zip(0..).collect();
        let mut classes: HashMap<Vec<u64>, u32> = HashMap::new();
        let mut found = Self {
            members: Vec::new(),
            of: Vec::with_capacity(network.hosts.len()),
            reach: Vec::new(),
            is_coarse: false,
        };
        let mut signatures: Vec<Vec<u64>> = Vec::new();
        for (host, at) in network.hosts.iter().zip(0_u32..) {
            let mut signature = vec![0_u64; endpoints.len() / 64 + 1];
            for (bit, &id) in endpoints.iter().enumerate() {
                if is_in(host, checked.endpoint(id)) {
                    signature[bit / 64] |= 1 << (bit % 64);
                }
            }
            // Families and many-at-once are told apart too: no rule opens from one to the other.
            let families = host
                .addresses
                .iter()
                .fold(0, |all, seen| all | if seen.address.is_ipv4() { 1 } else { 2 });
            signature.push(families | u64::from(host.is_many) << 2);
            let next = found.members.len();
            let class = match classes.get(&signature) {
                Some(&class) => class,
                None if next >= MAX_CLASSES => {
                    found.is_coarse = true;
                    nearest(&signatures, &signature)
                }
                None => {
                    classes.insert(signature.clone(), next as u32);
                    signatures.push(signature);
                    found.members.push(Vec::new());
                    next as u32
                }
            };
            found.members[class as usize].push(at);
            found.of.push(class);
        }
        let mut asking = Asking::new(policy, at);
        let has = |class: &[u64], id: EndpointId| {
            place.get(&id).is_some_and(|&bit| class[bit / 64] >> (bit % 64) & 1 == 1)
        };
        let allowing: Vec<_> = active().filter(|(_, rule)| rule.action == Action::Allow).collect();
        for (a, from) in signatures.iter().enumerate() {
            let mut reached: Vec<Option<RuleId>> = vec![None; signatures.len()];
            for (id, rule) in &allowing {
                let opens = has(from, rule.from);
                let opens_back = rule.between && has(from, rule.to);
                if !opens && !opens_back {
                    continue;
                }
                for (b, to) in signatures.iter().enumerate() {
                    let goes = (opens && has(to, rule.to)) || (opens_back && has(to, rule.from));
                    if goes && reached[b].is_none() {
                        let [client, server] = found.example(a, b);
                        let host = |at: u32| &network.hosts[at as usize];
                        if client != server && asking.passes(rule, host(client), host(server)) {
                            reached[b] = Some(*id);
                        }
                    }
                }
            }
            let list = reached.into_iter().zip(0..).filter_map(|(rule, b)| Some((b, rule?)));
            found.reach.push(list.collect());
        }
        found
    }

    /// A member of each of two classes; not the same one, where there is another.
    fn example(&self, a: usize, b: usize) -> [u32; 2] {
        let client = self.members[a].first().copied().unwrap_or(0);
        let server = self.members[b].iter().copied().find(|&at| at != client).unwrap_or(client);
        [client, server]
    }

    /// What a device could reach, step by step.
    pub fn steps(&self, network: &Network, device: u32) -> Vec<Step> {
        let Some(&class) = self.of.get(device as usize) else { return Vec::new() };
        let mut seen = vec![false; self.members.len()];
        let mut steps = Vec::new();
        let mut frontier = vec![class];
        for depth in 1.. {
            let mut next: Vec<u32> = Vec::new();
            let mut rules: Vec<RuleId> = Vec::new();
            for &from in &frontier {
                for &(to, rule) in &self.reach[from as usize] {
                    rules.push(rule);
                    if !std::mem::replace(&mut seen[to as usize], true) {
                        next.push(to);
                    }
                }
            }
            let members =
                next.iter().flat_map(|&class| self.members[class as usize].iter().copied());
            let devices: Vec<u32> =
                members.filter(|&at| at != device && !network.hosts[at as usize].is_many).collect();
            rules.sort_unstable();
            rules.dedup();
            if !devices.is_empty() {
                steps.push(Step { depth, devices, rules });
            }
            if next.is_empty() {
                break;
            }
            frontier = next;
        }
        steps
    }
}

/// The class that has most in common with a host.
fn nearest(signatures: &[Vec<u64>], signature: &[u64]) -> u32 {
    let distance = |other: &Vec<u64>| -> u32 {
        other.iter().zip(signature).map(|(a, b)| (a ^ b).count_ones()).sum()
    };
    let best = signatures.iter().zip(0..).min_by_key(|(other, _)| distance(other));
    best.map_or(0, |(_, class)| class)
}
