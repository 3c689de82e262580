//! Who belongs together: the groups of the policy in force, and for who is in none, the network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_learn::observe::HostKey;
use serde::Serialize;
use utoipa::ToSchema;

use super::network::{Host, Network};
use crate::map::Groups;

/// Groups that a matrix has at most: of more, the smallest are put together.
pub const MAX_GROUPS: usize = 200;

/// Where a group comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKind {
    /// A person wrote it into the policy.
    Declared,
    /// Learning proposed it.
    Learned,
    /// Its members are in no group of the policy: it is their network.
    Network,
    /// Nothing is known but MAC addresses, or it is what had no room.
    Unknown,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// By which it is asked for.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Where it comes from.
    pub kind: GroupKind,
    /// The places of its members among the hosts.
    pub members: Vec<u32>,
}

/// Every host in one group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grouping {
    /// The groups: those of the policy by name, then the others.
    pub groups: Vec<Group>,
    /// The group of each host.
    pub of: Vec<u16>,
    /// All groups of the policy that each host is in.
    pub named: Vec<Vec<Arc<str>>>,
}

/// The prefix lengths by which hosts in no group are put together, from the finest to the coarsest.
const PREFIXES: [(u32, u32); 3] = [(24, 64), (16, 48), (8, 32)];

impl Grouping {
    /// Groups hosts by the groups of a policy, where there is one.
    pub fn of(network: &Network, policy: Option<&Groups>) -> Self {
        let named: Vec<Vec<Arc<str>>> = network
            .hosts
            .iter()
            .map(|host| match policy {
                Some(policy) if !host.is_many => {
                    let addresses: Vec<IpAddr> =
                        host.addresses.iter().map(|seen| seen.address).collect();
                    policy.names_of(host.mac, &addresses)
                }
                _ => Vec::new(),
            })
            .collect();
        let mut sizes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for name in named.iter().flatten() {
            *sizes.entry(name).or_insert(0) += 1;
        }
        // Of several groups the smallest says most of a host.
        let smallest = |names: &[Arc<str>]| {
            let size = |name: &Arc<str>| (sizes.get(name).copied().unwrap_or(0), Arc::clone(name));
            names.iter().min_by_key(|name| size(name)).cloned()
        };
        let declared = sizes.len();
        let mut found = Self::default();
        for (v4, v6) in PREFIXES {
            let mut groups: BTreeMap<(GroupKind, String, String), Vec<u32>> = BTreeMap::new();
            for ((host, names), at) in network.hosts.iter().zip(&named).zip(0..) {
                let key = match smallest(names) {
                    Some(name) => {
                        let learned = policy.is_some_and(|policy| policy.is_learned(&name));
                        let kind = if learned { GroupKind::Learned } else { GroupKind::Declared };
                        (kind, name.to_string(), name.to_string())
                    }
                    None => network_of(host, v4, v6),
                };
                groups.entry(key).or_default().push(at);
            }
            let few_enough = groups.len() <= MAX_GROUPS.max(declared);
            found.groups = (groups.into_iter())
                .map(|((kind, id, name), members)| Group { id, name, kind, members })
                .collect();
            if few_enough {
                break;
            }
        }
        found.put_small_ones_together();
        found.tell_apart();
        found.of = vec![0; network.hosts.len()];
        for (group, at) in found.groups.iter().zip(0_u16..) {
            for &member in &group.members {
                found.of[member as usize] = at;
            }
        }
        found.named = named;
        found
    }

    /// The place of the group with this name of [`Group::id`].
    pub fn find(&self, id: &str) -> Option<u16> {
        (self.groups.iter().zip(0..)).find(|(group, _)| group.id == id).map(|(_, at)| at)
    }

    /// Gives a group that the policy does not name an id that no name of the policy is.
    fn tell_apart(&mut self) {
        let is_named =
            |group: &Group| matches!(group.kind, GroupKind::Declared | GroupKind::Learned);
        let named: BTreeSet<String> =
            self.groups.iter().filter(|group| is_named(group)).map(|g| g.id.clone()).collect();
        for group in self.groups.iter_mut().filter(|group| !is_named(group)) {
            if named.contains(&group.id) {
                group.id.insert(0, ':');
            }
        }
    }

    fn put_small_ones_together(&mut self) {
        if self.groups.len() <= MAX_GROUPS {
            return;
        }
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order
            .sort_by_key(|&at| std::cmp::Reverse((self.groups[at].members.len(), usize::MAX - at)));
        let mut small: Vec<usize> = order.split_off(MAX_GROUPS - 1);
        small.sort_unstable();
        let mut rest = Group {
            id: "others".to_owned(),
            name: format!("{} smaller groups", small.len()),
            kind: GroupKind::Unknown,
            members: Vec::new(),
        };
        for &at in &small {
            rest.members.append(&mut self.groups[at].members);
        }
        let mut place = 0;
        self.groups.retain(|_| {
            place += 1;
            small.binary_search(&(place - 1)).is_err()
        });
        self.groups.push(rest);
    }
}

/// The network of a host that is in no group.
fn network_of(host: &Host, v4: u32, v6: u32) -> (GroupKind, String, String) {
    let network = |id: &str, name: &str| (GroupKind::Network, id.to_owned(), name.to_owned());
    if host.is_many {
        return network("many", "broadcast and multicast");
    }
    let address = match &host.key {
        HostKey::Address(address) => Some(*address),
        _ => host.addresses.iter().max_by_key(|s| s.last_ms).map(|seen| seen.address),
    };
    let Some(address) = address else {
        return (GroupKind::Unknown, "no-address".to_owned(), "no address".to_owned());
    };
    let (prefix, length) = match address {
        IpAddr::V4(address) if is_public(address) => return network("internet", "internet"),
        IpAddr::V4(address) => {
            let mask = u32::MAX << (32 - v4);
            (IpAddr::from(std::net::Ipv4Addr::from_bits(address.to_bits() & mask)), v4)
        }
        IpAddr::V6(address) if address.to_bits() >> 125 == 1 => {
            return network("internet", "internet");
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - v6);
            (IpAddr::from(std::net::Ipv6Addr::from_bits(address.to_bits() & mask)), v6)
        }
    };
    network(&format!("net-{prefix}-{length}"), &format!("{prefix}/{length}"))
}

/// Whether an address is none of those that networks use inside, tests or documents.
fn is_public(address: std::net::Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (b == 18 || b == 19)))
}
