//! A store's edges in an order that does not depend on how they came, over chosen slots of time.

use std::collections::BTreeMap;

use crate::observe::Service;
use crate::store::{Edge, Evidence, HostId, Store};

/// One edge of a view. Hosts and services are places in the view's lists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Link {
    pub(crate) service: u32,
    pub(crate) client: u32,
    pub(crate) server: u32,
}

/// An edge within the chosen time, before it is admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) client: u32,
    pub(crate) server: u32,
    pub(crate) service: Service,
    /// Distinct hours at least.
    pub(crate) hours: u16,
    pub(crate) slots: u64,
    pub(crate) evidence: Evidence,
}

const _: () = assert!(size_of::<Candidate>() == 24);

/// Hosts in the order of their keys, and the edges among them within the chosen time.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) hosts: Vec<HostId>,
    pub(crate) edges: Vec<Candidate>,
    /// Hours that the chosen slots stand for.
    pub(crate) hours: u32,
}

impl View {
    /// The edges that were seen in one of `slots`.
    pub(crate) fn new(store: &Store, slots: u64) -> Self {
        let hosts = ordered_hosts(store);
        let mut rank = vec![0; hosts.len()];
        for (at, host) in hosts.iter().enumerate() {
            rank[host.0 as usize] = at as u32;
        }
        let seen = store.edges().iter().filter(|edge| edge.slots & slots != 0);
        let mut edges: Vec<Candidate> = seen
            .map(|edge| Candidate {
                client: rank[edge.client.0 as usize],
                server: rank[edge.server.0 as usize],
                service: edge.service,
                hours: hours_within(edge, slots, store.slot_hours()),
                slots: edge.slots & slots,
                evidence: edge.evidence,
            })
            .collect();
        edges.sort_unstable_by_key(|e| (e.server, e.service, e.client));
        let width = store.slot_hours();
        let last = store.hours().div_ceil(width.max(1)).min(u64::BITS);
        let reached = if last == 0 { 0 } else { u64::MAX >> (u64::BITS - last) };
        Self { hosts, edges, hours: (slots & reached).count_ones() * width }
    }
}

/// The hosts of a store by their keys.
pub(crate) fn ordered_hosts(store: &Store) -> Vec<HostId> {
    let mut hosts: Vec<HostId> = (0..store.hosts().len() as u32).map(HostId).collect();
    hosts.sort_by(|a, b| {
        let key = |id: &HostId| &store.hosts()[id.0 as usize].key;
        key(a).cmp(key(b))
    });
    hosts
}

/// Links of admitted edges, with the services in order.
pub(crate) fn links(edges: &[Candidate]) -> (Vec<Service>, Vec<Link>) {
    let mut services: BTreeMap<Service, u32> = edges.iter().map(|e| (e.service, 0)).collect();
    for (at, place) in services.values_mut().enumerate() {
        *place = at as u32;
    }
    let mut links: Vec<Link> = edges
        .iter()
        .map(|e| Link { service: services[&e.service], client: e.client, server: e.server })
        .collect();
    links.sort_unstable();
    links.dedup();
    (services.into_keys().collect(), links)
}

/// Distinct hours of an edge within `slots`: exact for all of them or for slots of an hour, else at
/// least so many.
fn hours_within(edge: &Edge, slots: u64, width: u32) -> u16 {
    if edge.slots & !slots == 0 {
        return edge.hours;
    }
    let inside = (edge.slots & slots).count_ones();
    if width == 1 {
        return inside as u16;
    }
    // Hours spread over the slots as evenly as may be: never more than there can have been.
    let share = u32::from(edge.hours) * inside / edge.slots.count_ones().max(1);
    share.max(inside).min(u32::from(u16::MAX)) as u16
}
