//! The endpoints of one side of the rules to the keys under which rules are listed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::budget::{Budget, Cost, Exceeded};
use super::partition::{Classes, intervals, points};
use crate::classifier::hosts::{HostMap, Intervals, NO_KEY, V4Map};
use crate::headers::Mac;
use crate::policy::{EndpointBox, Policy};
use crate::sets::{AddrSet, FiniteSet, MacSet};

/// The source side or the destination side of all rules.
#[derive(Debug)]
pub(super) struct Side<'a> {
    pub(super) map: HostMap,
    pub(super) parts: Vec<Part<'a>>,
    /// For each endpoint of the policy its parts.
    by_endpoint: Vec<Range<u32>>,
}

/// Those boxes of an endpoint whose rules are listed in the same way.
#[derive(Debug)]
pub(super) struct Part<'a> {
    kind: Kind,
    pub(super) boxes: Vec<&'a EndpointBox>,
    /// The keys of the frames that may match; [`None`] where any frame may.
    pub(super) keys: Option<Vec<u32>>,
    /// Whether a frame with one of the keys does match.
    pub(super) implied: bool,
}

/// What a box is listed under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Its addresses, which are all that it tests.
    Address,
    /// Its addresses; it tests more.
    AddressAndMore,
    /// Its MAC addresses.
    Mac,
    /// Nothing: it holds too much.
    Wide,
}

const KINDS: [Kind; 4] = [Kind::Address, Kind::AddressAndMore, Kind::Mac, Kind::Wide];

impl<'a> Side<'a> {
    /// The parts of an endpoint, with their numbers.
    pub(super) fn parts_of(&self, endpoint: u32) -> impl Iterator<Item = (u32, &Part<'a>)> {
        let range = self.by_endpoint[endpoint as usize].clone();
        range.map(|part| (part, &self.parts[part as usize]))
    }

    /// How many keys each endpoint is listed under: what its cost grows with.
    pub(super) fn costs(&self, policy: &Policy) -> Vec<Cost> {
        let keys = |id: usize| {
            let parts = self.parts_of(id as u32);
            parts.map(|(_, part)| part.keys.as_ref().map_or(0, Vec::len) as u64).sum()
        };
        costs(policy, "classes", keys)
    }
}

/// Sorts the endpoints for which `used` holds into parts and classes.
pub(super) fn build<'a>(
    policy: &'a Policy,
    used: &[bool],
    budget: &mut Budget,
) -> Result<Side<'a>, Exceeded> {
    let (mut parts, mut by_endpoint) = (Vec::new(), Vec::new());
    for (endpoint, used) in policy.endpoints().iter().zip(used) {
        let start = parts.len() as u32;
        for kind in KINDS.into_iter().filter(|_| *used) {
            let boxes: Vec<_> = endpoint.boxes.iter().filter(|b| kind_of(b) == kind).collect();
            if !boxes.is_empty() {
                budget.spend(boxes.len(), size_of::<Part<'_>>())?;
                // Keys come from all boxes of a part, so all have to be content with them; without keys
                // one box that holds everything is enough.
                let content = |b: &&EndpointBox| tests_only(kind, b);
                let implied = match kind {
                    Kind::Wide => boxes.iter().any(content),
                    _ => boxes.iter().all(content),
                };
                parts.push(Part { kind, boxes, keys: None, implied });
            }
        }
        by_endpoint.push(start..parts.len() as u32);
    }
    let map = key_parts(&mut parts, budget)?;
    Ok(Side { map, parts, by_endpoint })
}

/// How many ranges and MAC addresses each endpoint names: what its cost grows with before its
/// classes are known.
pub(super) fn size_costs(policy: &Policy) -> Vec<Cost> {
    let size = |b: &EndpointBox| {
        b.addrs.v4.ranges().len() + b.addrs.v6.ranges().len() + b.macs.named().len()
    };
    costs(policy, "ranges and MAC addresses", |id| {
        policy.endpoints()[id].boxes.iter().map(size).sum::<usize>() as u64
    })
}

fn costs(policy: &Policy, unit: &'static str, amount: impl Fn(usize) -> u64) -> Vec<Cost> {
    let cost = |id: usize| Cost {
        what: format!("endpoint `{}`", policy.endpoints()[id].label),
        amount: amount(id),
        unit,
    };
    (0..policy.endpoints().len()).map(cost).collect()
}

/// Fills in the keys of `parts`, and makes the map that finds a frame's keys.
fn key_parts(parts: &mut [Part<'_>], budget: &mut Budget) -> Result<HostMap, Exceeded> {
    let mut classes = Classes::default();
    let addresses: Vec<(u32, Cow<'_, AddrSet>)> = (parts.iter().enumerate())
        .filter(|(_, part)| matches!(part.kind, Kind::Address | Kind::AddressAndMore))
        .map(|(id, part)| (id as u32, union_of(&part.boxes)))
        .collect();
    let v4 = addresses
        .iter()
        .flat_map(|(id, set)| set.v4.ranges().iter().map(move |&(low, high)| (low, high, *id)));
    let v4 = intervals(v4, &mut classes, budget)?;
    let v6 = addresses
        .iter()
        .flat_map(|(id, set)| set.v6.ranges().iter().map(move |&(low, high)| (low, high, *id)));
    let v6 = intervals(v6, &mut classes, budget)?;
    let non_ip: Vec<u32> =
        addresses.iter().filter(|(_, set)| set.non_ip).map(|(id, _)| *id).collect();
    let non_ip = classes.id(&non_ip, budget)?;

    let mac_parts: Vec<usize> =
        (0..parts.len()).filter(|&id| parts[id].kind == Kind::Mac).collect();
    let mac_sets: Vec<MacSet> = (mac_parts.iter())
        .map(|&id| MacSet::only(parts[id].boxes.iter().flat_map(|b| b.macs.named()).copied()))
        .collect();
    let mut mac_classes = Classes::default();
    let macs = points(mac_sets.iter(), &mut mac_classes, budget)?;
    let first_mac_key = classes.members.len() as u32;
    let keys = classes.members.len() + mac_classes.members.len();

    let by_address_part = classes.by_set(parts.len());
    for (part, keys) in parts.iter_mut().zip(by_address_part) {
        if matches!(part.kind, Kind::Address | Kind::AddressAndMore) {
            budget.spend(keys.len(), size_of_val(&*keys))?;
            part.keys = Some(keys);
        }
    }
    for (&part, mut keys) in mac_parts.iter().zip(mac_classes.by_set(mac_parts.len())) {
        keys.iter_mut().for_each(|key| *key += first_mac_key);
        budget.spend(keys.len(), size_of_val(&*keys))?;
        parts[part].keys = Some(keys);
    }
    budget.release(classes.size_bytes() + mac_classes.size_bytes());
    let macs: HashMap<Mac, u32> =
        macs.named.into_iter().map(|(mac, class)| (mac, first_mac_key + class)).collect();
    debug_assert!(!macs.values().any(|&key| key == NO_KEY));
    Ok(HostMap { v4: V4Map::new(v4), v6: Intervals::new(v6), non_ip, macs, keys })
}

fn union_of<'a>(boxes: &[&'a EndpointBox]) -> Cow<'a, AddrSet> {
    match boxes {
        [single] => Cow::Borrowed(&single.addrs),
        _ => Cow::Owned(boxes.iter().fold(AddrSet::default(), |all, b| all.union(&b.addrs))),
    }
}

fn kind_of(b: &EndpointBox) -> Kind {
    let few_macs = matches!(b.macs, FiniteSet::Only(_));
    if few_macs && is_wide(&b.addrs) {
        Kind::Mac
    } else if is_everything(&b.addrs) {
        Kind::Wide
    } else if b.macs.is_any() && b.vlans.is_any() {
        Kind::Address
    } else {
        Kind::AddressAndMore
    }
}

/// Whether being in the part's keys is all that the box asks for.
fn tests_only(kind: Kind, b: &EndpointBox) -> bool {
    match kind {
        Kind::Address => true,
        Kind::AddressAndMore => false,
        Kind::Mac => b.addrs.is_any() && b.vlans.is_any(),
        Kind::Wide => b.addrs.is_any() && b.macs.is_any() && b.vlans.is_any(),
    }
}

/// Whether the set tells families apart at most: no list gets shorter by it.
fn is_everything(addrs: &AddrSet) -> bool {
    (addrs.v4.is_empty() || addrs.v4.is_full()) && (addrs.v6.is_empty() || addrs.v6.is_full())
}

/// Whether the set holds more than a few MAC addresses would: an IPv4 /8, an IPv6 /16.
fn is_wide(addrs: &AddrSet) -> bool {
    addrs.v4.ranges().iter().any(|(low, high)| high - low >= (1 << 24) - 1)
        || addrs.v6.ranges().iter().any(|(low, high)| high - low >= (1 << 112) - 1)
}
