//! Decides which edges may make rules at all.
//!
//! An attacker who is there while the gateway learns wants its traffic learnt. What it does not
//! control is how everybody else behaves: an edge has to succeed, to come back in another hour, and
//! to come from a client that is not feeling its way over many peers.

use std::collections::HashMap;

use crate::view::{Candidate, View};

/// Distinct hours that an edge has to be seen in.
pub const HOURS: u32 = 2;

/// Peers that a client may meet rarely before its rare edges look like a probe.
const RARE_PEERS: usize = 8;

/// Hours of learning under which nothing but a single hour is rare.
const SHORT: u32 = 12;

/// Why an edge makes no rule by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Doubt {
    /// Nobody ever answered.
    Unanswered,
    /// It was seen in one hour only: more time will tell.
    Once,
    /// Its client met too many new peers in the hour in which the edge began.
    Sweep,
    /// Its client met many peers, each rarely: a slow probe, or a job that somebody knows about.
    Probe,
}

impl Doubt {
    /// As reports say it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unanswered => "never answered",
            Self::Once => "seen in one hour only",
            Self::Sweep => "its client met too many new peers at once",
            Self::Probe => "its client met many peers, each rarely",
        }
    }
}

/// Edges of a view, told apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admission {
    pub(crate) admitted: Vec<Candidate>,
    pub(crate) doubted: Vec<(Candidate, Doubt)>,
}

/// Tells the edges that may make rules from those that somebody has to look at.
pub(crate) fn admit(view: View) -> Admission {
    // Over a short time everything is rare.
    let rare_hours = if view.hours < SHORT { 1 } else { HOURS.max(view.hours / 12) };
    let probing = probing(&view, rare_hours);
    let mut doubted = Vec::new();
    let mut admitted = view.edges;
    // In place: there may be millions.
    admitted.retain(|edge| {
        let is_probe = u32::from(edge.hours) <= rare_hours
            && probing.get(&edge.client).is_some_and(|&peers| peers >= RARE_PEERS);
        let doubt = if edge.evidence.is_unanswered() {
            Doubt::Unanswered
        } else if edge.evidence.is_swept() {
            Doubt::Sweep
        } else if is_probe {
            Doubt::Probe
        } else if u32::from(edge.hours) < HOURS {
            Doubt::Once
        } else {
            return true;
        };
        doubted.push((*edge, doubt));
        false
    });
    Admission { admitted, doubted }
}

/// How many peers each client meets over nothing but rare edges.
fn probing(view: &View, rare_hours: u32) -> HashMap<u32, usize> {
    let mut pairs: Vec<(u32, u32, u16)> =
        view.edges.iter().map(|edge| (edge.client, edge.server, edge.hours)).collect();
    pairs.sort_unstable();
    let mut peers = HashMap::new();
    for same in pairs.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        // In order: the last is the pair's steadiest.
        if same.last().is_some_and(|&(.., hours)| u32::from(hours) <= rare_hours) {
            *peers.entry(same[0].0).or_insert(0) += 1;
        }
    }
    peers
}
