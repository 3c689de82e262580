//! Groups by groups: what the policy permits, what is used of it, and what a change would block.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::groups::Grouping;
use super::judged::Judged;
use super::network::Network;

/// Services that a cell names, the most used first.
const NAMED_SERVICES: usize = 3;

/// What a cell of the matrix, or an edge, is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CellState {
    /// Permitted and used.
    Used,
    /// Permitted, and nobody used it.
    Unused,
    /// It passes now, and the staged policy would block it; where none is staged, the one in force would
    /// if the wire enforced it.
    WouldBlock,
    /// It was denied.
    Blocked,
    /// Some of it was denied, and some is used.
    Mixed,
}

/// The sums of a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    /// Edges: a client, a server and a service each.
    pub edges: u64,
    /// Of these, used and to stay so.
    pub used: u64,
    /// Of these, used and blocked by what is staged.
    pub would_block: u64,
    /// Of these, denied.
    pub blocked: u64,
    /// Of these, not seen before the instant that was asked for.
    pub new: u64,
    /// Flows.
    pub flows: u64,
    /// Bytes, both ways.
    pub bytes: u64,
    /// Denied packets.
    pub denied: u64,
}

/// A cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// The group that opens.
    pub from: u16,
    /// The group that is opened to.
    pub to: u16,
    /// What it is.
    pub state: CellState,
    /// Its sums.
    pub sums: Sums,
    /// The services most used, by their places in the network.
    pub services: Vec<u32>,
}

/// The matrix.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matrix {
    /// Cells of which anything can be said, by row and column.
    pub cells: Vec<Cell>,
}

/// What the policies say of one edge that came to so many flows and denied packets. What the policy in
/// force does not permit on a wire that enforces is blocked, however much of it was seen before.
pub fn state_of(
    network: &Network,
    (active, staged): (Option<&Judged>, Option<&Judged>),
    edge: u32,
    flows: u64,
    denied: u64,
) -> CellState {
    let shown = network.edges.get(edge as usize);
    let is_denied = active.and_then(|judged| judged.allows(edge)) == Some(false);
    if is_denied && shown.is_some_and(|edge| network.is_enforced(edge)) {
        return CellState::Blocked;
    }
    let would_deny = shown.map_or(0, |edge| edge.would_deny);
    let verdict = staged.or(active).and_then(|judged| judged.allows(edge));
    let would_block = match verdict {
        Some(allows) => !allows,
        None => would_deny > 0,
    };
    match (flows > 0, denied > 0) {
        (true, _) if would_block => CellState::WouldBlock,
        (true, true) => CellState::Mixed,
        (true, false) => CellState::Used,
        (false, _) => CellState::Blocked,
    }
}

impl Matrix {
    /// Sums up the edges, or of `range` (Unix milliseconds) the rows. What was not seen before `new_since_ms`
    /// counts as new.
    pub fn of(
        network: &Network,
        groups: &Grouping,
        policies: (Option<&Judged>, Option<&Judged>),
        range: Option<(i64, i64)>,
        new_since_ms: Option<i64>,
    ) -> Self {
        let count = groups.groups.len();
        let mut sums = vec![Sums::default(); count * count];
        let mut services = Uses::new(count * count, network.services.len());
        let mut add = |at: u32, flows: u64, denied: u64, bytes: u64| {
            let Some(edge) = network.edges.get(at as usize) else { return };
            let [from, to] =
                [edge.client, edge.server].map(|host| usize::from(groups.of[host as usize]));
            let cell = from * count + to;
            let sum = &mut sums[cell];
            sum.edges += 1;
            sum.flows += flows;
            sum.bytes = sum.bytes.saturating_add(bytes);
            sum.denied += denied;
            sum.new += u64::from(new_since_ms.is_some_and(|since| edge.seen.first_ms >= since));
            match state_of(network, policies, at, flows, denied) {
                CellState::WouldBlock => sum.would_block += 1,
                CellState::Blocked => sum.blocked += 1,
                CellState::Mixed => (sum.used, sum.blocked) = (sum.used + 1, sum.blocked + 1),
                CellState::Used | CellState::Unused => sum.used += 1,
            }
            services.add(cell, edge.service);
        };
        match range {
            None => {
                for (edge, at) in network.edges.iter().zip(0..) {
                    add(at, edge.flows.max(edge.answered), edge.denied, edge.bytes);
                }
            }
            Some((since_ms, until_ms)) => {
                for (at, (flows, denied, bytes)) in sums_of(network, since_ms, until_ms) {
                    add(at, flows, denied, bytes);
                }
            }
        }
        let mut top = services.by_cell();
        let mut cells = Vec::new();
        for (at, sums) in sums.into_iter().enumerate() {
            let (from, to) = ((at / count) as u16, (at % count) as u16);
            let active = policies.0;
            let permitted = active.is_some_and(|judged| judged.permits(from, to));
            if sums.edges == 0 && !permitted {
                continue;
            }
            let state = match sums {
                Sums { edges: 0, .. } => CellState::Unused,
                Sums { would_block: 1.., .. } => CellState::WouldBlock,
                Sums { used: 1.., blocked: 1.., .. } => CellState::Mixed,
                Sums { used: 0, blocked: 1.., .. } if permitted => CellState::Mixed,
                Sums { used: 0, .. } => CellState::Blocked,
                _ => CellState::Used,
            };
            let mut services = top.remove(&(at as u32)).unwrap_or_default();
            services.sort_unstable_by_key(|&(uses, service)| (std::cmp::Reverse(uses), service));
            let services = services.into_iter().take(NAMED_SERVICES).map(|(_, service)| service);
            cells.push(Cell { from, to, state, sums, services: services.collect() });
        }
        Self { cells }
    }
}

/// How often each service is used in each cell.
enum Uses {
    /// Where there are few enough of both: one place for each.
    Dense {
        services: usize,
        counts: Vec<u32>,
    },
    Sparse(HashMap<(u32, u32), u32>),
}

/// Places that are counted in without looking for them.
const MAX_DENSE: usize = 8 << 20;

impl Uses {
    fn new(cells: usize, services: usize) -> Self {
        match cells.saturating_mul(services) {
            places @ ..=MAX_DENSE => Self::Dense { services, counts: vec![0; places] },
            _ => Self::Sparse(HashMap::new()),
        }
    }

    fn add(&mut self, cell: usize, service: u32) {
        match self {
            Self::Dense { services, counts } => counts[cell * *services + service as usize] += 1,
            Self::Sparse(counts) => *counts.entry((cell as u32, service)).or_insert(0) += 1,
        }
    }

    /// For each cell that has any, how often which service is used.
    fn by_cell(self) -> HashMap<u32, Vec<(u32, u32)>> {
        let mut by_cell: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
        match self {
            Self::Dense { services, counts } => {
                let used = counts.into_iter().enumerate().filter(|(_, uses)| *uses > 0);
                for (place, uses) in used {
                    let (cell, service) = (place / services, place % services);
                    by_cell.entry(cell as u32).or_default().push((uses, service as u32));
                }
            }
            Self::Sparse(counts) => {
                for ((cell, service), uses) in counts {
                    by_cell.entry(cell).or_default().push((uses, service));
                }
            }
        }
        by_cell
    }
}

/// What each edge came to in a stretch of time: flows, denied packets and bytes.
pub fn sums_of(
    network: &Network,
    since_ms: i64,
    until_ms: i64,
) -> impl Iterator<Item = (u32, (u64, u64, u64))> {
    let rows = network.rows_of(since_ms, until_ms);
    let mut places = vec![u32::MAX; if rows.is_empty() { 0 } else { network.edges.len() }];
    let mut sums: Vec<(u32, (u64, u64, u64))> = Vec::new();
    for row in rows {
        let place = &mut places[row.edge as usize];
        if *place == u32::MAX {
            *place = sums.len() as u32;
            sums.push((row.edge, (0, 0, 0)));
        }
        let sum = &mut sums[*place as usize].1;
        sum.0 += u64::from(row.flows);
        sum.1 += u64::from(row.denied);
        sum.2 = sum.2.saturating_add(row.bytes);
    }
    sums.into_iter()
}
