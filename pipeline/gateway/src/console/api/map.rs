//! Who talks to whom: groups by groups, then whatever one looks at more closely.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::flows::{
    EdgeShown, InRange, in_periods, instant, no_device, no_group, range, shown, state,
};
use super::policy::in_force;
use super::{Page, Paging, Params, Segment, heavy};
use crate::console::Console;
use crate::console::model::groups::GroupKind;
use crate::console::model::matrix::{CellState, Matrix};
use crate::console::model::network::Network;
use crate::console::model::{Picture, day_before};
use crate::console::problem::Problem;
use crate::console::proposals::Reach;

/// Objects that a graph has at most.
const MAX_NODES: usize = 2000;

/// Edges that a graph has at most: those of the least weight go first.
const MAX_GRAPH_EDGES: usize = 6000;

/// Devices of a step of a blast radius that are named; their number is told.
const MAX_NAMED: usize = 200;

/// Buckets of the time slider.
const BUCKETS: usize = 120;

/// A group of the matrix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MatrixGroup {
    /// By which it is asked for.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Where it comes from.
    pub kind: GroupKind,
    /// How many devices it has.
    pub devices: usize,
}

/// A cell: what one group opens to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MatrixCell {
    /// The group that opens.
    pub from: String,
    /// The group that is opened to.
    pub to: String,
    /// What it is.
    pub state: CellState,
    /// Edges: a client, a server and a service each.
    pub connections: u64,
    /// Of these, used and to stay so.
    pub used: u64,
    /// Of these, used now and blocked by what is staged, or by what is in force once the wire enforces.
    pub would_block: u64,
    /// Of these, denied.
    pub blocked: u64,
    /// Of these, new since `new-since`.
    pub new: u64,
    /// Flows.
    pub flows: u64,
    /// Bytes, both ways.
    pub bytes: u64,
    /// Denied packets.
    pub denied: u64,
    /// The services most used.
    pub services: Vec<String>,
}

/// Groups by groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MatrixShown {
    /// The groups: rows and columns.
    pub groups: Vec<MatrixGroup>,
    /// Cells of which anything can be said.
    pub cells: Vec<MatrixCell>,
    /// Since when what is seen first counts as new.
    #[schema(format = DateTime)]
    pub new_since: String,
    /// Whether a policy is staged: what would be blocked is by it.
    pub staged: bool,
    /// When this was so.
    #[schema(format = DateTime)]
    pub at: String,
    /// Edges of the store that had no room in the model.
    pub left_out: u64,
    /// Why the latest store is not what is shown, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Which stretch of time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MatrixQuery {
    /// Only what was used since then; periods of the store are not cut.
    #[param(format = DateTime)]
    pub from: Option<String>,
    /// Only what was used before then.
    #[param(format = DateTime)]
    pub to: Option<String>,
    /// What is seen first since then counts as new: the baseline. A day ago, unless told otherwise.
    #[param(format = DateTime)]
    pub new_since: Option<String>,
}

/// Which cell.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CellQuery {
    /// The group that opens, by its id.
    pub from: String,
    /// The group that is opened to, by its id.
    pub to: String,
    /// Only edges that are this.
    pub state: Option<CellStateWanted>,
    /// Only what was seen since then.
    #[param(format = DateTime)]
    pub since: Option<String>,
    /// Only what was seen before then.
    #[param(format = DateTime)]
    pub until: Option<String>,
    /// What the page before said.
    #[param(pattern = r"^[0-9]{1,12}$")]
    pub cursor: Option<String>,
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// What an edge is asked to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CellStateWanted {
    /// Permitted and used.
    Used,
    /// It passes, and would not.
    WouldBlock,
    /// It was denied.
    Blocked,
    /// Both.
    Mixed,
}

/// A group and who is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GroupShown {
    /// The group.
    #[serde(flatten)]
    pub group: MatrixGroup,
    /// Its devices, those with most edges first; the first thousand.
    pub members: Vec<Member>,
    /// What it opens to others.
    pub opens: Vec<MatrixCell>,
    /// What others open to it.
    pub serves: Vec<MatrixCell>,
}

/// A device of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Member {
    /// By what it is known.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Edges that it is an end of.
    pub connections: usize,
}

/// A graph to draw.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Graph {
    /// Groups and devices.
    pub nodes: Vec<Node>,
    /// Between them.
    pub edges: Vec<GraphEdge>,
    /// Whether groups stand for their devices because there are too many.
    pub aggregated: bool,
}

/// Something to draw.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// The id of the group or device.
    pub id: String,
    /// What people call it.
    pub label: String,
    /// Whether it is a group.
    pub is_group: bool,
    /// The group of a device, or the group itself.
    pub group: String,
    /// How many devices it stands for.
    pub devices: usize,
    /// A place that stays the same as long as the groups do, from -1 to 1.
    pub x: f64,
    /// Likewise.
    pub y: f64,
}

/// Between two of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GraphEdge {
    /// Who opens.
    pub from: String,
    /// To whom.
    pub to: String,
    /// What it is.
    pub state: CellState,
    /// How many edges it stands for.
    pub weight: u64,
}

/// What is drawn.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GraphQuery {
    /// A group whose devices are drawn one by one, by its id; the others are drawn as groups.
    pub focus: Option<String>,
    /// Objects at most.
    #[param(minimum = 1, maximum = 2000)]
    pub limit: Option<u32>,
}

/// Whose neighbours.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NeighboursQuery {
    /// The device, by its id.
    pub device: String,
    /// How far: 1, 2 or 3.
    #[param(minimum = 1, maximum = 3)]
    pub depth: Option<u32>,
}

/// Whose blast radius.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BlastQuery {
    /// The device that somebody took over, by its id.
    pub device: String,
    /// By which policy.
    #[param(inline)]
    pub policy: Option<WhichPolicy>,
    /// The proposal, by its id, where it is asked for what is proposed; the latest unless told otherwise.
    pub proposal: Option<String>,
}

/// A policy that the console knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhichPolicy {
    /// The one in force.
    #[default]
    Active,
    /// The staged one.
    Staged,
    /// The one in force, with what a proposal says in the place of what was learned before.
    Proposed,
}

/// What a device could reach.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Blast {
    /// The device.
    pub device: String,
    /// The policy that was asked.
    pub policy: WhichPolicy,
    /// Step by step: what it may open itself, what these may, and so on.
    pub steps: Vec<BlastStep>,
    /// Devices that it reaches without any policy: all that were seen.
    pub before: usize,
    /// Devices that it reaches with this one.
    pub after: usize,
    /// Whether hosts were put together because there are too many kinds of them.
    pub coarse: bool,
}

/// A step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlastStep {
    /// How many steps from the device.
    pub depth: usize,
    /// Devices that are reached in so many steps and no fewer: their number.
    pub count: usize,
    /// The first two hundred of them, by their ids.
    pub devices: Vec<String>,
    /// Their groups, with how many of each.
    pub groups: BTreeMap<String, usize>,
    /// Rules that permit it.
    pub via: Vec<String>,
}

/// When anything was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Times {
    /// When the first period begins; absent where nothing was seen.
    #[schema(format = DateTime)]
    pub first: Option<String>,
    /// When the last one ends.
    #[schema(format = DateTime)]
    pub last: Option<String>,
    /// Seconds of a period of the store.
    pub period_seconds: u32,
    /// Stretches of time of one length.
    pub buckets: Vec<Bucket>,
}

/// A stretch of time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Bucket {
    /// When it begins.
    #[schema(format = DateTime)]
    pub from: String,
    /// When it ends.
    #[schema(format = DateTime)]
    pub to: String,
    /// Flows that began.
    pub flows: u64,
    /// Denied packets.
    pub denied: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Groups by groups
#[utoipa::path(get, path = "/map/matrix", operation_id = "matrix", tag = "map",
    params(MatrixQuery),
    responses((status = 200, description = "What one group opens to another", body = MatrixShown)))]
pub async fn matrix(
    State(console): State<Arc<Console>>,
    Params(query): Params<MatrixQuery>,
) -> Result<Json<MatrixShown>, Problem> {
    let picture = console.model.picture()?;
    let trouble = console.model.trouble();
    let range = range(query.from.as_deref(), query.to.as_deref())?;
    let baseline = self::range(query.new_since.as_deref(), None)?.map(|(since, _)| since);
    let new_since = baseline.unwrap_or_else(|| day_before(picture.at));
    let shown = heavy(&console, move || {
        let policies = (picture.active.as_deref(), picture.staged.as_deref());
        let of =
            |range| Matrix::of(&picture.network, &picture.groups, policies, range, Some(new_since));
        let made = match (range, baseline) {
            (None, None) => Arc::clone(&picture.matrix),
            (range, _) => Arc::new(of(range)),
        };
        Ok(MatrixShown {
            groups: groups(&picture),
            cells: cells(&picture, &made),
            new_since: instant(new_since),
            staged: picture.staged.is_some(),
            at: picture.at.to_string(),
            left_out: picture.network.left_out,
            trouble,
        })
    });
    Ok(Json(shown.await?))
}

/// The edges of a cell
#[utoipa::path(get, path = "/map/cell", operation_id = "cell", tag = "map",
    params(CellQuery),
    responses((status = 200, description = "Those with most flows first", body = Page<EdgeShown>),
              (status = 404, description = "There is no such group", body = Problem,
               content_type = "application/problem+json")))]
pub async fn cell(
    State(console): State<Arc<Console>>,
    Params(query): Params<CellQuery>,
) -> Result<Json<Page<EdgeShown>>, Problem> {
    let picture = console.model.picture()?;
    let page = heavy(&console, move || {
        let paging = Paging::new(query.cursor.as_deref(), query.limit)?;
        let group = |id: &str| picture.groups.find(id).ok_or_else(|| no_group(id));
        let (from, to) = (group(&query.from)?, group(&query.to)?);
        let range = range(query.since.as_deref(), query.until.as_deref())?;
        let network = &picture.network;
        let matches = |&(at, sums): &(u32, InRange)| {
            let edge = &network.edges[at as usize];
            let group = |host: u32| picture.groups.of[host as usize];
            (group(edge.client), group(edge.server)) == (from, to)
                && (sums.is_some()
                    || range.is_none_or(|(since, until)| {
                        edge.seen.last_ms >= since && edge.seen.first_ms < until
                    }))
                && query.state.is_none_or(|wanted| state(&picture, at, sums) == wanted.state())
        };
        let mut found: Vec<(u32, InRange)> = match in_periods(&picture, range) {
            Some(seen) => seen.filter(matches).collect(),
            None => {
                // The smaller side is gone through.
                let members = |group: u16| &picture.groups.groups[usize::from(group)].members;
                let by_client = members(from).len() <= members(to).len();
                let hosts = if by_client { members(from) } else { members(to) };
                let edges = hosts.iter().flat_map(|&host| match by_client {
                    true => network.outgoing(host),
                    false => network.incoming(host),
                });
                edges.map(|&at| (at, None)).filter(matches).collect()
            }
        };
        let order = |&(at, sums): &(u32, InRange)| {
            let flows = sums.map_or(network.edges[at as usize].flows, |(flows, ..)| flows);
            (std::cmp::Reverse(flows), at)
        };
        // Only what the page shows has to be in order.
        let end = paging.from.saturating_add(paging.limit);
        if end < found.len() {
            found.select_nth_unstable_by_key(end, order);
            found[..end].sort_unstable_by_key(order);
        } else {
            found.sort_unstable_by_key(order);
        }
        Ok(paging.of(&found, |&(at, sums)| shown(&picture, at, sums)))
    });
    Ok(Json(page.await?))
}

/// A group
#[utoipa::path(get, path = "/map/group/{id}", operation_id = "group", tag = "map",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "Who is in it, and what it opens and serves", body = GroupShown),
              (status = 404, description = "There is no such group", body = Problem,
               content_type = "application/problem+json")))]
pub async fn group(
    State(console): State<Arc<Console>>,
    Segment(id): Segment,
) -> Result<Json<GroupShown>, Problem> {
    let picture = console.model.picture()?;
    let at = picture.groups.find(&id).ok_or_else(|| no_group(&id))?;
    Ok(Json(heavy(&console, move || Ok(group_of(&picture, at))).await?))
}

/// A group with what is asked of it.
fn group_of(picture: &Picture, at: u16) -> GroupShown {
    let group = &picture.groups.groups[usize::from(at)];
    let network = &picture.network;
    let mut members: Vec<Member> = (group.members.iter())
        .map(|&host| Member {
            id: network.hosts[host as usize].id.clone(),
            name: network.label(host).to_owned(),
            connections: network.outgoing(host).len() + network.incoming(host).len(),
        })
        .collect();
    members.sort_by(|a, b| b.connections.cmp(&a.connections).then_with(|| a.id.cmp(&b.id)));
    members.truncate(1000);
    let of = |is: fn(&crate::console::model::matrix::Cell) -> u16| {
        let cells = picture.matrix.cells.iter().filter(|cell| is(cell) == at).cloned().collect();
        self::cells(picture, &Matrix { cells })
    };
    GroupShown {
        group: group_shown(group),
        members,
        opens: of(|cell| cell.from),
        serves: of(|cell| cell.to),
    }
}

/// A device and whom it talks to
#[utoipa::path(get, path = "/map/neighbours", operation_id = "neighbours", tag = "map",
    params(NeighboursQuery),
    responses((status = 200, description = "A graph around the device", body = Graph),
              (status = 404, description = "There is no such device", body = Problem,
               content_type = "application/problem+json")))]
pub async fn neighbours(
    State(console): State<Arc<Console>>,
    Params(query): Params<NeighboursQuery>,
) -> Result<Json<Graph>, Problem> {
    let depth = query.depth.unwrap_or(1);
    if !(1..=3).contains(&depth) {
        return Err(Problem::bad_request("`depth` is from 1 to 3"));
    }
    let picture = console.model.picture()?;
    let start = picture.network.find(&query.device).ok_or_else(|| no_device(&query.device))?;
    let graph = heavy(&console, move || {
        let network = &picture.network;
        let mut drawn = BTreeSet::from([start]);
        let mut frontier = vec![start];
        let mut is_cut = false;
        for _ in 0..depth {
            let mut next = Vec::new();
            for host in std::mem::take(&mut frontier) {
                let servers =
                    network.outgoing(host).iter().map(|&at| network.edges[at as usize].server);
                let clients =
                    network.incoming(host).iter().map(|&at| network.edges[at as usize].client);
                for other in servers.chain(clients) {
                    if drawn.len() >= MAX_NODES {
                        is_cut = true;
                        break;
                    }
                    if drawn.insert(other) {
                        next.push(other);
                    }
                }
            }
            frontier = next;
        }
        let objects = drawn.into_iter().map(Object::Device).collect();
        let mut graph = drawn_graph(&picture, objects);
        graph.aggregated = is_cut;
        Ok(graph)
    });
    Ok(Json(graph.await?))
}

/// A graph to draw
///
/// Devices where there are few enough, groups where there are not; of `focus` the devices.
#[utoipa::path(get, path = "/map/graph", operation_id = "graph", tag = "map",
    params(GraphQuery),
    responses((status = 200, description = "At most so many objects", body = Graph),
              (status = 404, description = "There is no such group", body = Problem,
               content_type = "application/problem+json")))]
pub async fn graph(
    State(console): State<Arc<Console>>,
    Params(query): Params<GraphQuery>,
) -> Result<Json<Graph>, Problem> {
    let limit = query.limit.map_or(MAX_NODES, |limit| limit as usize);
    if !(1..=MAX_NODES).contains(&limit) {
        return Err(Problem::bad_request(format!("`limit` is from 1 to {MAX_NODES}")));
    }
    let picture = console.model.picture()?;
    let focus = match &query.focus {
        Some(id) => Some(picture.groups.find(id).ok_or_else(|| no_group(id))?),
        None => None,
    };
    let graph = heavy(&console, move || {
        let hosts = picture.network.hosts.len();
        let all = picture.groups.groups.iter().zip(0_u16..);
        let mut objects: BTreeSet<Object> = BTreeSet::new();
        let mut is_aggregated = false;
        for (group, at) in all {
            if focus == Some(at) || (focus.is_none() && hosts <= limit) {
                let room = limit.saturating_sub(objects.len());
                is_aggregated |= group.members.len() > room;
                objects.extend(group.members.iter().take(room).map(|&host| Object::Device(host)));
            } else if objects.len() < limit {
                is_aggregated = true;
                objects.insert(Object::Group(at));
            }
        }
        let mut graph = drawn_graph(&picture, objects);
        graph.aggregated = is_aggregated;
        Ok(graph)
    });
    Ok(Json(graph.await?))
}

/// What a device could reach if somebody took it over
#[utoipa::path(get, path = "/map/blast", operation_id = "blast", tag = "map",
    params(BlastQuery),
    responses((status = 200, description = "Step by step", body = Blast),
              (status = 404, description = "There is no such device, or policy", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "The proposal is still being made, or does not fit the policy",
               body = Problem, content_type = "application/problem+json")))]
pub async fn blast(
    State(console): State<Arc<Console>>,
    Params(query): Params<BlastQuery>,
) -> Result<Json<Blast>, Problem> {
    let picture = console.model.picture()?;
    let which = query.policy.unwrap_or_default();
    let device = picture.network.find(&query.device).ok_or_else(|| no_device(&query.device))?;
    if query.proposal.is_some() && which != WhichPolicy::Proposed {
        return Err(Problem::bad_request("`proposal` comes with `policy=proposed`"));
    }
    let asked = Arc::clone(&console);
    let blast = heavy(&console, move || {
        let network = &picture.network;
        let reach = reach(&asked, &picture, which, query.proposal.as_deref())?;
        let (classes, policy) = (&reach.classes, &reach.policy.candidate.policy);
        let steps: Vec<BlastStep> = (classes.steps(network, device).into_iter())
            .map(|step| {
                let mut groups: BTreeMap<String, usize> = BTreeMap::new();
                for &host in &step.devices {
                    let group = usize::from(picture.groups.of[host as usize]);
                    *groups.entry(picture.groups.groups[group].id.clone()).or_insert(0) += 1;
                }
                let id = |&host: &u32| network.hosts[host as usize].id.clone();
                let rules = step.rules.iter().map(|&rule| policy.rule_name(rule).to_owned());
                BlastStep {
                    depth: step.depth,
                    count: step.devices.len(),
                    devices: step.devices.iter().take(MAX_NAMED).map(id).collect(),
                    groups,
                    via: rules.take(MAX_NAMED).collect(),
                }
            })
            .collect();
        Ok(Blast {
            device: query.device,
            policy: which,
            before: network.hosts.iter().filter(|host| !host.is_many).count().saturating_sub(1),
            after: steps.iter().map(|step| step.count).sum(),
            steps,
            coarse: classes.is_coarse,
        })
    });
    Ok(Json(blast.await?))
}

/// What a policy that is known lets hosts reach.
fn reach(
    console: &Console,
    picture: &Picture,
    which: WhichPolicy,
    proposal: Option<&str>,
) -> Result<Reach, Problem> {
    let judged = match which {
        WhichPolicy::Active => &picture.active,
        WhichPolicy::Staged => &picture.staged,
        WhichPolicy::Proposed => {
            let proposals = &console.proposals;
            let proposal = proposal.map_or_else(|| proposals.latest(), |id| proposals.find(id))?;
            let shown = &in_force(console)?.shown;
            return proposal.reach(&console.settings, shown, &picture.network);
        }
    };
    let judged = judged.as_ref();
    let judged = judged.ok_or_else(|| Problem::not_found("there is no such policy now"))?;
    let classes = judged.classes(&picture.network);
    Ok(Reach { policy: Arc::clone(&judged.policy), classes })
}

/// When anything was seen: for the time slider
#[utoipa::path(get, path = "/map/times", operation_id = "times", tag = "map",
    responses((status = 200, description = "From the first to the last", body = Times)))]
pub async fn times(State(console): State<Arc<Console>>) -> Result<Json<Times>, Problem> {
    let picture = console.model.picture()?;
    Ok(Json(heavy(&console, move || Ok(times_of(&picture.network))).await?))
}

/// Flows, denials and bytes of a network, over time.
fn times_of(network: &Network) -> Times {
    let period_s = i64::from(network.period_s.max(1));
    let (Some(first), Some(last)) = (network.rows.first(), network.rows.last()) else {
        let (first, last, buckets) = (None, None, Vec::new());
        return Times { first, last, period_seconds: network.period_s, buckets };
    };
    let (first, last) = (i64::from(first.period), i64::from(last.period) + period_s);
    // Buckets are whole periods.
    let periods = (last - first).div_euclid(period_s).max(1);
    let length = period_s * (periods as usize).div_ceil(BUCKETS).max(1) as i64;
    let count = ((last - first) as usize).div_ceil(length as usize);
    let mut buckets: Vec<Bucket> = (0..count as i64)
        .map(|at| Bucket {
            from: instant((first + at * length) * 1000),
            to: instant((first + (at + 1) * length).min(last) * 1000),
            flows: 0,
            denied: 0,
            bytes: 0,
        })
        .collect();
    for row in &network.rows {
        let at = (i64::from(row.period) - first).div_euclid(length);
        if let Some(bucket) = usize::try_from(at).ok().and_then(|at| buckets.get_mut(at)) {
            bucket.flows += u64::from(row.flows);
            bucket.denied += u64::from(row.denied);
            bucket.bytes = bucket.bytes.saturating_add(row.bytes);
        }
    }
    let (first, last) = (Some(instant(first * 1000)), Some(instant(last * 1000)));
    Times { first, last, period_seconds: network.period_s, buckets }
}

impl CellStateWanted {
    fn state(self) -> CellState {
        match self {
            Self::Used => CellState::Used,
            Self::WouldBlock => CellState::WouldBlock,
            Self::Blocked => CellState::Blocked,
            Self::Mixed => CellState::Mixed,
        }
    }
}

fn group_shown(group: &crate::console::model::groups::Group) -> MatrixGroup {
    MatrixGroup {
        id: group.id.clone(),
        name: group.name.clone(),
        kind: group.kind,
        devices: group.members.len(),
    }
}

fn groups(picture: &Picture) -> Vec<MatrixGroup> {
    picture.groups.groups.iter().map(group_shown).collect()
}

fn cells(picture: &Picture, matrix: &Matrix) -> Vec<MatrixCell> {
    let id = |group: u16| picture.groups.groups[usize::from(group)].id.clone();
    let service = |&service: &u32| picture.network.services[service as usize].to_string();
    let cells = matrix.cells.iter().map(|cell| MatrixCell {
        from: id(cell.from),
        to: id(cell.to),
        state: cell.state,
        connections: cell.sums.edges,
        used: cell.sums.used,
        would_block: cell.sums.would_block,
        blocked: cell.sums.blocked,
        new: cell.sums.new,
        flows: cell.sums.flows,
        bytes: cell.sums.bytes,
        denied: cell.sums.denied,
        services: cell.services.iter().map(service).collect(),
    });
    cells.collect()
}

/// What is drawn as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Object {
    Group(u16),
    Device(u32),
}

fn drawn_graph(picture: &Picture, objects: BTreeSet<Object>) -> Graph {
    let network = &picture.network;
    let of_host = |host: u32| {
        let device = Object::Device(host);
        let group = Object::Group(picture.groups.of[host as usize]);
        [device, group].into_iter().find(|object| objects.contains(object))
    };
    let mut sums: HashMap<(Object, Object), (CellState, u64)> = HashMap::new();
    let mut add = |from: Object, to: Object, state: CellState, weight: u64| {
        let sum = sums.entry((from, to)).or_insert((state, 0));
        sum.1 += weight;
        // What would be blocked is what one looks for.
        sum.0 = match (sum.0, state) {
            (a, b) if a == b => a,
            (CellState::WouldBlock, _) | (_, CellState::WouldBlock) => CellState::WouldBlock,
            _ => CellState::Mixed,
        };
    };
    // Between groups the matrix has the sums already; the edges of devices are those at their ends.
    for cell in picture.matrix.cells.iter().filter(|cell| cell.sums.edges > 0) {
        let (from, to) = (Object::Group(cell.from), Object::Group(cell.to));
        if objects.contains(&from) && objects.contains(&to) {
            add(from, to, cell.state, cell.sums.edges);
        }
    }
    for &object in &objects {
        let Object::Device(device) = object else { continue };
        for &at in network.outgoing(device) {
            if let Some(to) = of_host(network.edges[at as usize].server) {
                add(object, to, state(picture, at, None), 1);
            }
        }
        for &at in network.incoming(device) {
            // One that another device opened is counted there.
            if let Some(from @ Object::Group(_)) = of_host(network.edges[at as usize].client) {
                add(from, object, state(picture, at, None), 1);
            }
        }
    }
    let id = |object: Object| match object {
        Object::Group(at) => picture.groups.groups[usize::from(at)].id.clone(),
        Object::Device(at) => network.hosts[at as usize].id.clone(),
    };
    let mut edges: Vec<_> = sums.into_iter().collect();
    edges.sort_unstable_by_key(|&(ends, (_, weight))| (std::cmp::Reverse(weight), ends));
    edges.truncate(MAX_GRAPH_EDGES);
    let edges = edges.into_iter().map(|((from, to), (state, weight))| GraphEdge {
        from: id(from),
        to: id(to),
        state,
        weight,
    });
    let nodes = objects.iter().map(|&object| {
        let group = match object {
            Object::Group(at) => at,
            Object::Device(at) => picture.groups.of[at as usize],
        };
        let (x, y) = place(picture, object, group);
        Node {
            id: id(object),
            label: match object {
                Object::Group(at) => picture.groups.groups[usize::from(at)].name.clone(),
                Object::Device(at) => network.label(at).to_owned(),
            },
            is_group: matches!(object, Object::Group(_)),
            group: picture.groups.groups[usize::from(group)].id.clone(),
            devices: match object {
                Object::Group(at) => picture.groups.groups[usize::from(at)].members.len(),
                Object::Device(_) => 1,
            },
            x,
            y,
        }
    });
    Graph { nodes: nodes.collect(), edges: edges.collect(), aggregated: false }
}

/// Groups on a circle in their order; the devices of a group in a spiral around its place.
fn place(picture: &Picture, object: Object, group: u16) -> (f64, f64) {
    let count = picture.groups.groups.len().max(1) as f64;
    let turn = std::f64::consts::TAU * f64::from(group) / count;
    let (x, y) = (0.8 * turn.cos(), 0.8 * turn.sin());
    let Object::Device(device) = object else { return (x, y) };
    let members = &picture.groups.groups[usize::from(group)].members;
    let at = members.binary_search(&device).unwrap_or(0) as f64;
    // The golden angle spreads points evenly.
    let angle = at * 2.399_963_229_728_653;
    let radius = (0.5 / count.sqrt()) * ((at + 0.5) / members.len().max(1) as f64).sqrt();
    (x + radius * angle.cos(), y + radius * angle.sin())
}
