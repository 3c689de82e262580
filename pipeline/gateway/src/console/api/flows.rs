//! Edges one by one: who opened what to whom, filtered, and what was denied.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bulkhead_learn::observe::{PortProtocol, Service};
use bulkhead_rules::analyze;
use bulkhead_rules::policy::RuleId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Page, Paging, Params, heavy};
use crate::console::Console;
use crate::console::model::Picture;
use crate::console::model::judged::{Judged, now};
use crate::console::model::matrix::{CellState, state_of, sums_of};
use crate::console::problem::Problem;

/// The most rules that are looked through for one that nearly permits what was denied.
const MAX_COMPARED: usize = 20_000;

/// A client, a server and what was opened.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EdgeShown {
    /// By what the client is known.
    pub client: String,
    /// What people call it.
    pub client_name: String,
    /// Its group.
    pub client_group: String,
    /// By what the server is known.
    pub server: String,
    /// What people call it.
    pub server_name: String,
    /// Its group.
    pub server_group: String,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, `ip` or `eth`.
    pub protocol: String,
    /// The server's port, where the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What was opened, as policies write it.
    pub service: String,
    /// What it was recognised as.
    pub applications: Vec<String>,
    /// The wire.
    pub wire: String,
    /// VLAN identifiers: empty, `30` or `100.30`.
    pub vlan: String,
    /// Whether client and server may be the other way round.
    pub direction_unsure: bool,
    /// When it was seen first.
    #[schema(format = DateTime)]
    pub first_seen: String,
    /// And last.
    #[schema(format = DateTime)]
    pub last_seen: String,
    /// Flows that began.
    pub flows: u64,
    /// Records of flows with an answer.
    pub answered: u64,
    /// Packets, both ways.
    pub packets: u64,
    /// Bytes, both ways.
    pub bytes: u64,
    /// Packets that were denied.
    pub denied: u64,
    /// What it is, by the policies of now.
    pub state: CellState,
    /// `allow`, `deny` or `reject`: what the policy in force says now; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The rule that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What the staged policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_verdict: Option<String>,
    /// The rule that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_rule: Option<String>,
    /// The rule that decided when it was seen last.
    pub decided_by: String,
}

/// What was denied, and what would let it pass.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeniedShown {
    /// The edge.
    #[serde(flatten)]
    pub edge: EdgeShown,
    /// Why it was dropped: the gateway's reason.
    pub reason: String,
    /// The rule that would let it pass but for what is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// What to do, if it is to pass.
    pub remedy: String,
}

/// Which edges.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EdgeQuery {
    /// A device at either end, by its id.
    pub device: Option<String>,
    /// A group at either end, by its id.
    pub group: Option<String>,
    /// A service, such as tcp/502, or a part of one or of an application.
    pub service: Option<String>,
    /// The rule that decides now, or decided last.
    pub rule: Option<String>,
    /// What it is.
    pub verdict: Option<EdgeVerdict>,
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
pub enum EdgeVerdict {
    /// The policy in force permits it.
    Allow,
    /// It does not.
    Deny,
    /// It was denied.
    Blocked,
    /// It passes, and would not.
    WouldBlock,
}

/// Flows
///
/// Edges (a client, a server and a service each), those seen last first. Of a stretch of time their flows,
/// bytes and denied packets are those of its periods.
#[utoipa::path(get, path = "/flows", operation_id = "flows", tag = "flows",
    params(EdgeQuery),
    responses((status = 200, description = "Those that are asked for", body = Page<EdgeShown>)))]
pub async fn flows(
    State(console): State<Arc<Console>>,
    Params(query): Params<EdgeQuery>,
) -> Result<Json<Page<EdgeShown>>, Problem> {
    let picture = console.model.picture()?;
    let page = heavy(&console, move || {
        let paging = Paging::new(query.cursor.as_deref(), query.limit)?;
        let found = find(&picture, &query, false)?;
        Ok(paging.of(&found, |&(edge, sums)| shown(&picture, edge, sums)))
    });
    Ok(Json(page.await?))
}

/// What was denied
///
/// Those seen last first, each with the rule that came nearest to permitting it. Of a stretch of time what
/// was denied in its periods.
#[utoipa::path(get, path = "/denied", operation_id = "denied", tag = "flows",
    params(EdgeQuery),
    responses((status = 200, description = "Those that are asked for", body = Page<DeniedShown>)))]
pub async fn denied(
    State(console): State<Arc<Console>>,
    Params(query): Params<EdgeQuery>,
) -> Result<Json<Page<DeniedShown>>, Problem> {
    let picture = console.model.picture()?;
    let page = heavy(&console, move || {
        let paging = Paging::new(query.cursor.as_deref(), query.limit)?;
        let found = find(&picture, &query, true)?;
        Ok(paging.of(&found, |&(edge, sums)| denied_shown(&picture, edge, sums)))
    });
    Ok(Json(page.await?))
}

/// A stretch of time of a query, in Unix milliseconds; [`None`] where it is all time.
///
/// # Errors
///
/// 400 for what is no instant.
pub fn range(since: Option<&str>, until: Option<&str>) -> Result<Option<(i64, i64)>, Problem> {
    let instant = |text: Option<&str>, otherwise: i64| match text {
        None => Ok(otherwise),
        Some(text) => text.parse::<Timestamp>().map(Timestamp::as_millisecond).map_err(|_| {
            Problem::bad_request("this is no instant").remedy("write 2026-11-24T06:00:00Z")
        }),
    };
    let range = (instant(since, i64::MIN)?, instant(until, i64::MAX)?);
    Ok((since.is_some() || until.is_some()).then_some(range))
}

/// An instant as the API writes it.
pub fn instant(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// What an edge came to in a stretch of time: flows, denied packets and bytes; [`None`] for all time.
pub type InRange = Option<(u64, u64, u64)>;

/// What edges came to in the periods of a stretch of time; [`None`] where the model has not all of them, and
/// only first and last can be compared.
pub fn in_periods(
    picture: &Picture,
    range: Option<(i64, i64)>,
) -> Option<impl Iterator<Item = (u32, InRange)> + use<'_>> {
    let network = &picture.network;
    let (since_ms, until_ms) = range?;
    let is_whole = network.rows_since_s.is_none_or(|from| since_ms >= i64::from(from) * 1000);
    is_whole.then(|| sums_of(network, since_ms, until_ms).map(|(at, sums)| (at, Some(sums))))
}

/// The edges of a query, those seen last first.
fn find(
    picture: &Picture,
    query: &EdgeQuery,
    denied: bool,
) -> Result<Vec<(u32, InRange)>, Problem> {
    let network = &picture.network;
    let device = match &query.device {
        Some(id) => Some(network.find(id).ok_or_else(|| no_device(id))?),
        None => None,
    };
    let group = match &query.group {
        Some(id) => Some(picture.groups.find(id).ok_or_else(|| no_group(id))?),
        None => None,
    };
    let services: Option<Vec<bool>> = query.service.as_ref().map(|wanted| {
        let wanted = wanted.to_lowercase();
        network.services.iter().map(|service| service.to_string().contains(&wanted)).collect()
    });
    let is_application = |server: u32, service: u32| {
        let applications = network.applications.get(&(server, service));
        let wanted = query.service.as_deref().unwrap_or_default().to_lowercase();
        applications.is_some_and(|all| all.iter().any(|one| one.to_lowercase().contains(&wanted)))
    };
    let rule = query.rule.as_deref();
    let range = range(query.since.as_deref(), query.until.as_deref())?;
    let matches = |&(at, sums): &(u32, InRange)| {
        let Some(edge) = network.edges.get(at as usize) else { return false };
        let ends = [edge.client, edge.server];
        let group_of = |host: u32| picture.groups.of.get(host as usize).copied();
        (!denied || sums.map_or(edge.denied, |(_, denied, _)| denied) > 0)
            && device.is_none_or(|device| ends.contains(&device))
            && group.is_none_or(|group| ends.iter().any(|&host| group_of(host) == Some(group)))
            && services.as_ref().is_none_or(|wanted| {
                wanted[edge.service as usize] || is_application(edge.server, edge.service)
            })
            && rule.is_none_or(|rule| {
                network.words.text(edge.rule) == rule
                    || picture.active.as_ref().and_then(|judged| judged.rule_name(at)) == Some(rule)
            })
            && (sums.is_some()
                || range.is_none_or(|(since, until)| {
                    edge.seen.last_ms >= since && edge.seen.first_ms < until
                }))
            && query.verdict.is_none_or(|verdict| is_verdict(picture, at, sums, verdict))
    };
    let mut found: Vec<(u32, InRange)> = match (in_periods(picture, range), device) {
        (Some(seen), _) => seen.filter(matches).collect(),
        (None, Some(device)) => {
            let both = [network.outgoing(device), network.incoming(device)].concat();
            both.into_iter().map(|at| (at, None)).filter(matches).collect()
        }
        (None, None) => {
            (0..network.edges.len() as u32).map(|at| (at, None)).filter(matches).collect()
        }
    };
    found.sort_unstable_by_key(|&(at, _)| {
        (std::cmp::Reverse(network.edges[at as usize].seen.last_ms), at)
    });
    found.dedup();
    Ok(found)
}

fn is_verdict(picture: &Picture, at: u32, sums: InRange, verdict: EdgeVerdict) -> bool {
    let allows = picture.active.as_ref().and_then(|judged| judged.allows(at));
    match verdict {
        EdgeVerdict::Allow => allows == Some(true),
        EdgeVerdict::Deny => allows == Some(false),
        EdgeVerdict::Blocked => {
            let edge = picture.network.edges.get(at as usize);
            edge.is_some_and(|edge| sums.map_or(edge.denied, |(_, denied, _)| denied) > 0)
        }
        EdgeVerdict::WouldBlock => state(picture, at, sums) == CellState::WouldBlock,
    }
}

/// 404: there is no such device.
pub fn no_device(id: &str) -> Problem {
    Problem::not_found(format!("there is no device `{id}` in the store"))
}

/// 404: there is no such group.
pub fn no_group(id: &str) -> Problem {
    Problem::not_found(format!("there is no group `{id}`"))
        .remedy("GET /api/v1/map/matrix names the groups; those of the policy change with it")
}

/// What an edge is, over all time or a stretch of it.
pub fn state(picture: &Picture, at: u32, sums: InRange) -> CellState {
    let Some(edge) = picture.network.edges.get(at as usize) else { return CellState::Unused };
    let policies = (picture.active.as_deref(), picture.staged.as_deref());
    let (flows, denied) = sums.map_or_else(
        || (edge.flows.max(edge.answered), edge.denied),
        |(flows, denied, _)| (flows, denied),
    );
    state_of(&picture.network, policies, at, flows, denied)
}

/// An edge as it is shown.
pub fn shown(picture: &Picture, at: u32, sums: InRange) -> EdgeShown {
    let network = &picture.network;
    let edge = &network.edges[at as usize];
    let id = |host: u32| network.hosts[host as usize].id.clone();
    let group = |host: u32| {
        let group = picture.groups.of.get(host as usize).map(|&group| usize::from(group));
        let group = group.and_then(|group| picture.groups.groups.get(group));
        group.map_or_else(String::new, |group| group.id.clone())
    };
    let service = network.services[edge.service as usize];
    let (protocol, port) = protocol_and_port(service);
    let applications = network.applications.get(&(edge.server, edge.service));
    let verdict = |judged: Option<&Judged>| {
        let rule = judged?.rule(at)?;
        let policy = &judged?.policy.candidate.policy;
        let word = crate::analysis::action_word(policy.action(rule));
        Some((word.to_owned(), policy.rule_name(rule).to_owned()))
    };
    let (verdict, rule, staged) = {
        let active = verdict(picture.active.as_deref());
        let staged = verdict(picture.staged.as_deref());
        let (verdict, rule) = active.unzip();
        (verdict, rule, staged)
    };
    let (staged_verdict, staged_rule) = staged.unzip();
    let (flows, denied, bytes) = sums.unwrap_or((edge.flows, edge.denied, edge.bytes));
    EdgeShown {
        client: id(edge.client),
        client_name: network.label(edge.client).to_owned(),
        client_group: group(edge.client),
        server: id(edge.server),
        server_name: network.label(edge.server).to_owned(),
        server_group: group(edge.server),
        protocol: protocol.to_owned(),
        port,
        service: service.to_string(),
        applications: applications.into_iter().flatten().cloned().collect(),
        wire: network.words.text(edge.wire).to_owned(),
        vlan: crate::learning::database::vlan_text(edge.vlan),
        direction_unsure: edge.is_unsure,
        first_seen: instant(edge.seen.first_ms),
        last_seen: instant(edge.seen.last_ms),
        flows,
        answered: edge.answered,
        packets: edge.packets,
        bytes,
        denied,
        state: state(picture, at, sums),
        verdict,
        rule,
        staged_verdict,
        staged_rule,
        decided_by: network.words.text(edge.rule).to_owned(),
    }
}

fn denied_shown(picture: &Picture, at: u32, sums: InRange) -> DeniedShown {
    let edge = shown(picture, at, sums);
    let reason = picture.network.words.text(picture.network.edges[at as usize].reason).to_owned();
    let active = picture.active.as_ref();
    let nearest = active.and_then(|judged| nearest(picture, judged, at));
    let remedy = match (&nearest, edge.verdict.as_deref()) {
        (_, Some("allow")) => "nothing: the policy in force permits it by now".to_owned(),
        (Some(nearest), _) => format!(
            "if it is to pass, widen the rule that {nearest}; or for a time, grant it: bulkhead grant \
             --from {} --to {} --service {} --for 4h --reason …",
            edge.client, edge.server, edge.service
        ),
        (None, _) => format!(
            "if it is to pass, write a rule; or for a time, grant it: bulkhead grant --from {} --to {} \
             --service {} --for 4h --reason …",
            edge.client, edge.server, edge.service
        ),
    };
    DeniedShown { edge, reason, nearest, remedy }
}

/// The rule that would decide otherwise but for one thing or two.
fn nearest(picture: &Picture, judged: &Judged, at: u32) -> Option<String> {
    let policy = &judged.policy.candidate.policy;
    if policy.rule_count() > MAX_COMPARED
        || judged.rule(at).is_none_or(|rule| is_allowed(judged, rule))
    {
        return None;
    }
    let headers = picture.network.headers(&picture.network.edges[at as usize], policy.wires())?;
    let explanation = analyze::explain(policy, &headers, now());
    let miss =
        explanation.nearest(policy, 1).into_iter().next().filter(|miss| miss.failed.len() <= 2)?;
    let failed: Vec<String> = miss.failed.iter().map(ToString::to_string).collect();
    Some(format!("is nearest, {}: {}", policy.rule_name(miss.rule), failed.join(" and ")))
}

fn is_allowed(judged: &Judged, rule: RuleId) -> bool {
    judged.policy.candidate.policy.action(rule) == bulkhead_rules::policy::Action::Allow
}

fn protocol_and_port(service: Service) -> (&'static str, Option<u16>) {
    let label = |over: PortProtocol| over.label();
    match service {
        Service::Port(over, port) | Service::Dynamic(over, port) => (label(over), Some(port)),
        Service::Icmp { v6: false, .. } => ("icmp", None),
        Service::Icmp { v6: true, .. } => ("icmpv6", None),
        Service::Ip(_) => ("ip", None),
        Service::Ether(_) => ("eth", None),
    }
}
