//! Learning at scale: 100,000 hosts, ten million distinct edges, and then one hour more.

use std::io;
use std::time::Instant;

use bulkhead_learn::learn::{self, Options};
use bulkhead_learn::observe::{HostKey, Outcome, PortProtocol, Service};
use bulkhead_learn::store::{HostId, Store};
use bulkhead_learn::update;
use serde::Serialize;

use crate::machine::PeakMemory;
use crate::random::Random;

/// Hosts of one role.
const ROLE: usize = 100;

/// What it took.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Hosts.
    pub hosts: usize,
    /// Distinct edges.
    pub edges: usize,
    /// Seconds to take all of it in.
    pub ingest_s: f64,
    /// Seconds to learn from it.
    pub learn_s: f64,
    /// Seconds to take in one hour more and fold it into what was learnt.
    pub hour_s: f64,
    /// Observations of that hour.
    pub hour_observations: usize,
    /// Edges of it that the rules do not permit.
    pub hour_pending: usize,
    /// Resident memory at the peak, bytes.
    pub peak_bytes: u64,
    /// Rules.
    pub rules: usize,
    /// Roles of two hosts or more.
    pub roles: usize,
}

/// Runs it.
///
/// # Errors
///
/// Where the store has no room for so many.
pub fn run(hosts: usize, edges: usize, seed: u64) -> io::Result<Report> {
    let memory = PeakMemory::start();
    let mut random = Random::new(seed);
    let mut store = Store::new();
    let start = Instant::now();
    let ids: Vec<HostId> =
        (0..hosts as u32).filter_map(|number| store.host(&HostKey::Number(number), 0)).collect();
    if ids.len() < hosts {
        return Err(io::Error::other(format!("the store has no room for {hosts} hosts")));
    }
    // Each role uses a few services of a few other roles, all hosts of them.
    let roles = hosts.div_ceil(ROLE);
    let per_role = (edges / roles / (ROLE * ROLE)).max(1);
    let mut uses = Vec::new();
    for role in 0..roles {
        for _ in 0..per_role {
            uses.push((role, random.below(roles), random.within(1, 1_000)));
        }
    }
    let mut hour_edges = Vec::new();
    for hour in 0..2 {
        for &(from, to, port) in &uses {
            for client in ids.iter().skip(from * ROLE).take(ROLE) {
                for server in ids.iter().skip(to * ROLE).take(ROLE) {
                    let service = Service::Port(PortProtocol::Tcp, port);
                    store.add(*client, *server, service, hour, Outcome::BothWays);
                }
            }
        }
    }
    let ingest_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let proposal = learn::learn(&store, &Options::default());
    let learn_s = start.elapsed().as_secs_f64();
    // A hundredth of the edges again, and a few new ones.
    for at in (0..store.edges().len()).step_by(100) {
        let edge = store.edges()[at];
        hour_edges.push((edge.client, edge.server, edge.service));
    }
    for _ in 0..1_000 {
        let service = Service::Port(PortProtocol::Tcp, random.within(2_000, 3_000));
        hour_edges.push((*random.pick(&ids), *random.pick(&ids), service));
    }
    let start = Instant::now();
    for &(client, server, service) in &hour_edges {
        store.add(client, server, service, 2, Outcome::BothWays);
    }
    let folded = update::fold_in(&proposal, &store, 2);
    let hour_s = start.elapsed().as_secs_f64();
    Ok(Report {
        hosts,
        edges: store.edges().len(),
        ingest_s,
        learn_s,
        hour_s,
        hour_observations: hour_edges.len(),
        hour_pending: folded.pending.len(),
        peak_bytes: memory.bytes(),
        rules: proposal.rules.len(),
        roles: proposal.units.iter().take(proposal.roles).filter(|unit| unit.len() > 1).count(),
    })
}
