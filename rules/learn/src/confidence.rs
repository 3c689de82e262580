//! What a proposal would deny by mistake, estimated from the very time that it was learnt from.
//!
//! The learning time is cut into four blocks. The whole policy is learnt again without one of them and
//! tested on it, for each; then without two. Estimates from counts of rare edges (Good and Turing's)
//! were several times too low, because a policy's rules are more than its edges. A policy that lacks a
//! block denies more than one that has them all: how much less it takes with more time is known
//! from the two, and followed on.

use std::collections::HashMap;

use crate::learn::{self, Options, Proposal};
use crate::observe::Service;
use crate::store::{HostId, Store};

/// Blocks of the learning time.
pub const BLOCKS: u32 = 4;

/// A prediction of what will be denied by mistake.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Confidence {
    /// The share of edges in slots of time that the proposal will deny.
    pub denied: f64,
    /// The same as measured with one block held out, which is what is certain: at most so much.
    pub held_out: f64,
    /// The share of the block that fared best when held out.
    pub least: f64,
    /// The share of the block that fared worst.
    pub most: f64,
    /// Hours that were learnt from; below 24 the prediction means little.
    pub hours: u32,
}

/// Predicts what a proposal that was learnt from all of `store` will deny; [`None`] where fewer than
/// four slots of time were seen.
pub fn predict(store: &Store, options: &Options) -> Option<Confidence> {
    let slots = store.hours().div_ceil(store.slot_hours().max(1));
    if slots < BLOCKS {
        return None;
    }
    let block = |at: u32| {
        let (from, to) = (slots * at / BLOCKS, slots * (at + 1) / BLOCKS);
        (from..to).fold(0_u64, |bits, slot| bits | 1 << slot)
    };
    let held_out = |blocks: u32| {
        let (mut denied, mut all) = (0, 0);
        let mut shares: Vec<f64> = Vec::new();
        for chosen in choices(blocks) {
            let chosen = (0..BLOCKS).filter(|at| chosen >> at & 1 == 1);
            let out = chosen.fold(0, |bits, at| bits | block(at));
            let proposal = learn::learn_slots(store, !out, options);
            let (some, total) = denied_in(&proposal, store, out);
            denied += some;
            all += total;
            if total > 0 {
                shares.push(some as f64 / total as f64);
            }
        }
        (denied as f64 / all.max(1) as f64, shares)
    };
    let ((one, shares), (two, _)) = (held_out(1), held_out(2));
    let denied = extrapolate(one, two);
    let least = shares.iter().copied().reduce(f64::min).unwrap_or(one);
    let most = shares.iter().copied().reduce(f64::max).unwrap_or(one);
    Some(Confidence { denied, held_out: one, least, most, hours: store.hours() })
}

/// All ways to choose so many of the blocks, a bit for each.
pub fn choices(blocks: u32) -> impl Iterator<Item = u32> {
    (0_u32..1 << BLOCKS).filter(move |chosen| chosen.count_ones() == blocks)
}

/// What is denied with all blocks learnt, where `one` is denied without one of the four and `two`
/// without two: along a power of the time, as new edges become rarer (Heaps' law).
pub fn extrapolate(one: f64, two: f64) -> f64 {
    if one <= 0.0 || two <= one {
        return one;
    }
    let power = (two / one).ln() / 1.5_f64.ln();
    // From three blocks to four; twice as steep as the time itself is as far as one may trust it.
    one * 0.75_f64.powf(power.min(2.0))
}

/// How many edges in slots a proposal denies, of how many.
pub(crate) fn denied_in(proposal: &Proposal, store: &Store, slots: u64) -> (u64, u64) {
    let permits = Permits::new(proposal, store.hosts().len());
    let (mut denied, mut all) = (0, 0);
    for edge in store.edges() {
        let seen = u64::from((edge.slots & slots).count_ones());
        // What failed is not missed.
        if seen == 0 || edge.evidence.is_unanswered() {
            continue;
        }
        all += seen;
        if !permits.permits(edge.client, edge.server, edge.service) {
            denied += seen;
        }
    }
    (denied, all)
}

/// Which flows a proposal permits, ready to be asked often.
#[derive(Clone, Debug)]
pub struct Permits {
    /// For each host the rules by which it opens, and those by which it is opened to.
    opens: Vec<Vec<u32>>,
    serves: Vec<Vec<u32>>,
    /// Rules by service; dynamic ones apart.
    exact: HashMap<Service, Vec<u32>>,
    dynamic: Vec<(Service, u32)>,
}

impl Permits {
    /// For the hosts of the store that the proposal was learnt from.
    pub fn new(proposal: &Proposal, hosts: usize) -> Self {
        let mut permits = Self {
            opens: vec![Vec::new(); hosts],
            serves: vec![Vec::new(); hosts],
            exact: HashMap::new(),
            dynamic: Vec::new(),
        };
        for (rule, at) in proposal.rules.iter().zip(0..) {
            for host in proposal.hosts(&rule.clients) {
                permits.opens[host.0 as usize].push(at);
            }
            for host in proposal.hosts(&rule.servers) {
                permits.serves[host.0 as usize].push(at);
            }
            for &service in &rule.services {
                match service {
                    Service::Dynamic(..) => permits.dynamic.push((service, at)),
                    _ => permits.exact.entry(service).or_default().push(at),
                }
            }
        }
        permits
    }

    /// The first rule by which a flow passes.
    pub fn rule(&self, client: HostId, server: HostId, service: Service) -> Option<u32> {
        let opens = self.opens.get(client.0 as usize)?;
        let serves = self.serves.get(server.0 as usize)?;
        let exact = self.exact.get(&service).into_iter().flatten().copied();
        let dynamic = self.dynamic.iter().filter(|(range, _)| range.covers(service));
        exact
            .chain(dynamic.map(|&(_, rule)| rule))
            .filter(|rule| opens.binary_search(rule).is_ok() && serves.binary_search(rule).is_ok())
            .min()
    }

    /// Whether a flow passes.
    pub fn permits(&self, client: HostId, server: HostId, service: Service) -> bool {
        self.rule(client, server, service).is_some()
    }
}
