//! Recognises servers that choose their ports as they go, and makes one service of those ports.
//!
//! A pair of hosts has dynamic ports where the client uses several ports of the server that nobody
//! else uses, each for a short while, and goes on to new ones as time passes. A scan of a server's
//! ports looks alike but for its failures and its haste, so failed edges and those of a sweep do
//! not count, and neither do ports that all begin within one slot of time.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::observe::{PortProtocol, Service};
use crate::view::{Candidate, View};

/// Ports of a pair from which they may be dynamic.
const PORTS: usize = 4;

/// Distinct slots in which dynamic ports of a pair have to begin.
const BEGINNINGS: u32 = 3;

/// Hours that a port may be used for and still count as brief, however short the learning was.
const BRIEF_HOURS: u32 = 3;

/// The share of the learning time that a port may be used for and still count as brief.
const BRIEF_SHARE: u32 = 4;

type Pair = (u32, u32, PortProtocol);

/// Where a pair's dynamic ports begin.
pub(crate) type Pairs = BTreeMap<Pair, u16>;

/// Replaces dynamic ports in a view by one service for each pair.
pub(crate) fn collapse(view: &mut View, ports_are_ordered: bool) -> Pairs {
    let pairs = find(view, ports_are_ordered);
    if pairs.is_empty() {
        return pairs;
    }
    let covered = covered(view, &pairs);
    let mut merged: BTreeMap<Pair, Candidate> = BTreeMap::new();
    let mut covered = covered.into_iter();
    // In place: there may be millions.
    view.edges.retain(|edge| {
        let is_covered = covered.next().unwrap_or(false);
        let (Service::Port(protocol, _), true) = (edge.service, is_covered) else { return true };
        let pair = (edge.client, edge.server, protocol);
        let sum = merged.entry(pair).or_insert_with(|| Candidate {
            service: Service::Dynamic(protocol, pairs[&pair]),
            hours: 0,
            slots: 0,
            ..*edge
        });
        sum.slots |= edge.slots;
        sum.hours = sum.hours.max(edge.hours).max(sum.slots.count_ones() as u16);
        sum.evidence = sum.evidence.merged(edge.evidence);
        false
    });
    view.edges.extend(merged.into_values());
    view.edges.sort_unstable_by_key(|e| (e.server, e.service, e.client));
    pairs
}

fn find(view: &View, ports_are_ordered: bool) -> Pairs {
    let brief_hours = BRIEF_HOURS.max(view.hours / BRIEF_SHARE);
    let mut ports: HashMap<Pair, (Vec<u16>, u64)> = HashMap::new();
    // Edges are in the order of (server, service, client): those of one port lie together.
    for same in view.edges.chunk_by(|a, b| (a.server, a.service) == (b.server, b.service)) {
        let [edge] = same else { continue };
        let Service::Port(protocol, port) = edge.service else { continue };
        let is_brief = u32::from(edge.hours) <= brief_hours;
        if !is_brief || edge.evidence.is_unanswered() || edge.evidence.is_swept() {
            continue;
        }
        let (ports, beginnings) = ports.entry((edge.client, edge.server, protocol)).or_default();
        ports.push(port);
        *beginnings |= edge.slots & edge.slots.wrapping_neg();
    }
    ports.retain(|_, (ports, beginnings)| {
        ports.len() >= PORTS && beginnings.count_ones() >= BEGINNINGS
    });
    let first = |ports: &[u16]| {
        let lowest = ports.iter().copied().min().unwrap_or(1);
        // The ranges that systems take ports from: RFC 6335's, Linux's, and all but the
        // well-known ones. Anonymised ports have no order.
        [49_152, 32_768, 1_024]
            .into_iter()
            .find(|&first| ports_are_ordered && lowest >= first)
            .unwrap_or(1)
    };
    ports.into_iter().map(|(pair, (ports, _))| (pair, first(&ports))).collect()
}

/// Which edges are dynamic ones: their ports are used by nobody but clients with dynamic ports on
/// the server.
fn covered(view: &View, pairs: &Pairs) -> Vec<bool> {
    let servers: HashSet<u32> = pairs.keys().map(|&(_, server, _)| server).collect();
    let mut covered = Vec::with_capacity(view.edges.len());
    for same in view.edges.chunk_by(|a, b| (a.server, a.service) == (b.server, b.service)) {
        let is_covered = match same[0].service {
            Service::Port(protocol, port) if servers.contains(&same[0].server) => {
                same.iter().all(|edge| {
                    pairs
                        .get(&(edge.client, edge.server, protocol))
                        .is_some_and(|&first| port >= first)
                })
            }
            _ => false,
        };
        covered.extend(std::iter::repeat_n(is_covered, same.len()));
    }
    covered
}
