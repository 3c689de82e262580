//! What a proposal would deny by mistake, estimated from the very time that it was learnt from.
//!
//! Two things make a policy deny what it should not, and each is looked for in its own way.
//!
//! What comes and goes again, or had not been done often enough, is found by holding out: the whole
//! policy is learnt again without a stretch of the time, and tested on it, for stretches of a quarter
//! of the time and of half of it that overlap by half, so that no boundary decides. A policy that lacks
//! half of the time denies more than one that lacks a quarter: how much less it takes with all of it is
//! followed on along Heaps' law. Estimates from counts of rare edges (Good and Turing's) were several
//! times too low, because a policy's rules are more than its edges.
//!
//! Hosts that come to stay cannot be found so: once there, they are in every stretch that is learnt
//! from. They are counted as they arrived, with what they did from then on, and the more the further
//! one looks ahead.

use std::collections::HashMap;

use crate::learn::{self, Options, Proposal};
use crate::observe::Service;
use crate::store::{Edge, HostId, Store};

/// The least slots of time from which anything can be predicted.
pub const SLOTS: u32 = 4;

/// How far a prediction looks ahead where nobody asks for another time: a day of hours.
pub const AHEAD: u32 = 24;

/// Arrivals from which they have a rate. Fewer say nothing but that there may be more.
const ARRIVALS: usize = 3;

/// By how much less is denied with four quarters of the time than with three, at the most.
const STEEPEST: f64 = 0.75;

/// A prediction of what will be denied by mistake.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Confidence {
    /// The share of edges in slots of time that the proposal will deny.
    pub denied: f64,
    /// Of it what hosts will do that come to stay.
    pub newcomers: f64,
    /// The share that was denied with a quarter of the time held out, on the average.
    pub held_out: f64,
    /// At least so much: the stretch that fared best when held out, and few newcomers.
    pub least: f64,
    /// At most so much: the stretch that fared worst, and many newcomers.
    pub most: f64,
    /// Hours that were learnt from; below 24 the prediction means little.
    pub hours: u32,
    /// Hours that it looks ahead.
    pub ahead: u32,
}

/// Predicts what a proposal that was learnt from all of `store` will deny in the `ahead` hours that
/// follow; [`None`] where fewer than [`SLOTS`] slots of time were seen.
pub fn predict(store: &Store, options: &Options, ahead: u32) -> Option<Confidence> {
    let width = store.slot_hours().max(1);
    let slots = store.hours().div_ceil(width).min(u64::BITS);
    if slots < SLOTS {
        return None;
    }
    let first = first_slots(store);
    let quarters = held_out(store, options, &first, slots, slots / 4);
    let halves = held_out(store, options, &first, slots, slots / 2);
    let (one, two) = (mean(&quarters), mean(&halves));
    let going = extrapolate(one, two);
    let coming = arrivals(store, &first, slots).ahead(ahead.div_ceil(width).max(1));
    let least = quarters.iter().copied().fold(one, f64::min);
    let most = quarters.iter().copied().fold(one, f64::max);
    Some(Confidence {
        denied: (going + coming.expected).min(1.0),
        newcomers: coming.expected,
        held_out: one,
        least: least * STEEPEST + coming.least,
        most: (most + coming.most).min(1.0),
        hours: store.hours(),
        ahead,
    })
}

/// What is denied with all of the time learnt, where `one` is denied without a quarter of it and `two`
/// without half: along a power of the time, as new edges become rarer (Heaps' law, by which what is
/// new never becomes rarer than time grows longer).
pub fn extrapolate(one: f64, two: f64) -> f64 {
    if one <= 0.0 || two <= one {
        return one;
    }
    let power = (two / one).ln() / 1.5_f64.ln();
    one * STEEPEST.powf(power.min(1.0))
}

/// The slot in which each host was first seen, or was answered for the first time.
fn first_slots(store: &Store) -> Vec<u32> {
    let mut first = vec![u64::BITS; store.hosts().len()];
    for edge in store.edges().iter().filter(|edge| is_missed(edge)) {
        let slot = edge.slots.trailing_zeros();
        for host in [edge.client, edge.server] {
            let known = &mut first[host.0 as usize];
            *known = slot.min(*known);
        }
    }
    first
}

/// What failed is not missed.
fn is_missed(edge: &Edge) -> bool {
    !edge.evidence.is_unanswered()
}

fn mean(shares: &[f64]) -> f64 {
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

/// What is denied in each stretch of so many slots by a policy that was learnt without it. Stretches
/// overlap by half.
fn held_out(store: &Store, options: &Options, first: &[u32], slots: u32, length: u32) -> Vec<f64> {
    let starts = (0..=slots - length).step_by((length / 2).max(1) as usize);
    let share = |start: u32| {
        let out = bits(start..start + length);
        let proposal = learn::learn_slots(store, !out, options);
        // Who came in the last stretch may be there to stay, and is counted as such.
        let newest = if start + length == slots { start } else { u64::BITS };
        let (denied, all) =
            denied_in(&proposal, store, out, |host| first[host.0 as usize] >= newest);
        denied as f64 / all.max(1) as f64
    };
    starts.map(share).collect()
}

fn bits(slots: std::ops::Range<u32>) -> u64 {
    slots.fold(0, |bits, slot| bits | 1 << slot)
}

/// How many edges in slots a proposal denies, of how many; those of hosts that are left out count as
/// neither.
fn denied_in(
    proposal: &Proposal,
    store: &Store,
    slots: u64,
    is_left_out: impl Fn(HostId) -> bool,
) -> (u64, u64) {
    let permits = Permits::new(proposal, store.hosts().len());
    let (mut denied, mut all) = (0, 0);
    for edge in store.edges().iter().filter(|edge| is_missed(edge)) {
        let seen = u64::from((edge.slots & slots).count_ones());
        if seen == 0 || is_left_out(edge.client) || is_left_out(edge.server) {
            continue;
        }
        all += seen;
        if !permits.permits(edge.client, edge.server, edge.service) {
            denied += seen;
        }
    }
    (denied, all)
}

/// Hosts that came after the beginning, and stayed.
#[derive(Clone, Debug, Default)]
struct Arrivals {
    /// What each does in a slot, as a share of what all do.
    shares: Vec<f64>,
    /// What a host does in a slot on the average.
    ordinary: f64,
    /// Slots in which they could have come and been seen to stay.
    slots: u32,
}

/// What hosts that are yet to come will do.
#[derive(Clone, Copy, Debug)]
struct Coming {
    expected: f64,
    least: f64,
    most: f64,
}

/// Finds hosts that came after the first eighth of the time and before the last quarter, and were there
/// in most of the slots since: who came later may be gone again as soon.
fn arrivals(store: &Store, first: &[u32], slots: u32) -> Arrivals {
    let came = (slots / 8).max(1)..slots - slots / 4;
    let mut seen = vec![0_u64; first.len()];
    let mut does = vec![0_u64; first.len()];
    let mut all = 0;
    for edge in store.edges().iter().filter(|edge| is_missed(edge)) {
        let count = u64::from(edge.slots.count_ones());
        all += count;
        for host in [edge.client, edge.server] {
            seen[host.0 as usize] |= edge.slots;
            does[host.0 as usize] += count;
        }
    }
    let per_slot = (all as f64 / f64::from(slots)).max(1.0);
    let share = |host: usize| {
        let slots_since = slots.saturating_sub(first[host]).max(1);
        does[host] as f64 / f64::from(slots_since) / per_slot
    };
    let stays = |host: &usize| {
        let since = slots.saturating_sub(first[*host]);
        came.contains(&first[*host]) && seen[*host].count_ones() * 2 > since
    };
    let hosts = first.iter().filter(|&&slot| slot < slots).count().max(1);
    Arrivals {
        shares: (0..first.len()).filter(stays).map(share).collect(),
        ordinary: does.iter().sum::<u64>() as f64 / hosts as f64 / all.max(1) as f64,
        slots: came.end.saturating_sub(came.start).max(1),
    }
}

impl Arrivals {
    /// What those will do who come in the next so many slots, as a share of all: each from when it
    /// comes, which on the average is half of the time.
    fn ahead(&self, slots: u32) -> Coming {
        let count = self.shares.len();
        let each = if count == 0 { self.ordinary } else { mean(&self.shares) };
        let reach = f64::from(slots + 1) / 2.0 / f64::from(self.slots);
        // Few that do much count for fewer than they are (Kish).
        let squares: f64 = self.shares.iter().map(|share| share * share).sum();
        let sum: f64 = self.shares.iter().sum();
        let effective = if squares > 0.0 { sum * sum / squares } else { 0.0 };
        let weight = if effective > 0.0 { count as f64 / effective } else { 1.0 };
        let expected = if count < ARRIVALS { 0.0 } else { sum * reach };
        Coming {
            expected,
            least: (poisson_bound(effective, -1.0) * weight * each * reach).min(expected),
            most: poisson_bound(effective, 1.0) * weight * each * reach,
        }
    }
}

/// The 5 % (`side` −1) or 95 % (1) bound of the mean of a Poisson count (Wilson and Hilferty).
fn poisson_bound(count: f64, side: f64) -> f64 {
    let count = if side > 0.0 { count + 1.0 } else { count };
    if count <= 0.0 {
        return 0.0;
    }
    let root = 1.0 - 1.0 / (9.0 * count) + side * 1.645 / (3.0 * count.sqrt());
    count * root.max(0.0).powi(3)
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
