//! Who is there, and quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::flows::{instant, no_device};
use super::{Because, Body, Page, Paging, Params, Segment, heavy, reason};
use crate::console::Console;
use crate::console::access::Caller;
use crate::console::model::Picture;
use crate::console::problem::Problem;
use crate::workflow::overlay::Quarantine;
use crate::workflow::{Change, ChangeReport};

/// What a device does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceRole {
    /// It sends on what others send.
    Router,
    /// Others open something to it, and it opens nothing.
    Server,
    /// It opens something, and nobody opens anything to it.
    Client,
    /// Both.
    Both,
    /// Nothing that is known.
    Silent,
}

/// Which devices, by what is about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// In quarantine.
    Quarantined,
    /// In no group of the policy.
    Ungrouped,
    /// First seen within a day.
    New,
    /// Something of it was denied.
    Denied,
}

/// A device in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceRow {
    /// By what it is known: an address or a MAC address.
    pub id: String,
    /// What people call it, or its id.
    pub name: String,
    /// Its addresses, the latest first.
    pub addresses: Vec<String>,
    /// Its MAC address, where that is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maker: Option<String>,
    /// What it does.
    pub role: DeviceRole,
    /// The groups of the policy that it is in.
    pub groups: Vec<String>,
    /// Its group in the matrix.
    pub group: String,
    /// The wire on which it was seen last.
    pub wire: String,
    /// The side.
    pub side: String,
    /// VLAN identifiers: empty, `30` or `100.30`.
    pub vlan: String,
    /// When it was seen first.
    #[schema(format = DateTime)]
    pub first_seen: String,
    /// And last.
    #[schema(format = DateTime)]
    pub last_seen: String,
    /// Edges that it is an end of.
    pub connections: usize,
    /// Whether it is in quarantine.
    pub quarantined: bool,
}

/// An address over time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AddressTime {
    /// The address.
    pub address: String,
    /// When it was seen first.
    #[schema(format = DateTime)]
    pub first_seen: String,
    /// And last.
    #[schema(format = DateTime)]
    pub last_seen: String,
}

/// A service of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceUse {
    /// Such as `tcp/502`.
    pub service: String,
    /// What it was recognised as.
    pub applications: Vec<String>,
    /// How many others it is used with.
    pub peers: usize,
    /// Flows.
    pub flows: u64,
    /// Denied packets.
    pub denied: u64,
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceShown {
    /// What the list says.
    #[serde(flatten)]
    pub device: DeviceRow,
    /// Its addresses over time, the latest first.
    pub history: Vec<AddressTime>,
    /// What it serves.
    pub offers: Vec<ServiceUse>,
    /// What it uses.
    pub uses: Vec<ServiceUse>,
    /// How many others it talks to.
    pub neighbours_count: usize,
    /// Its quarantine, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
}

/// Which devices.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeviceQuery {
    /// A part of a name, address, MAC address, maker or group.
    pub search: Option<String>,
    /// What it does.
    pub role: Option<DeviceRole>,
    /// The wire on which it was seen last.
    pub wire: Option<String>,
    /// The group of the matrix that it is in, by its id.
    pub group: Option<String>,
    /// What is about it.
    pub state: Option<DeviceState>,
    /// What the page before said.
    #[param(pattern = r"^[0-9]{1,12}$")]
    pub cursor: Option<String>,
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// How a device is put in quarantine.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct QuarantineWanted {
    /// Why, for the audit log.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// Services that it may still open, such as `udp/123`.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub allow: Vec<String>,
}

/// Devices
#[utoipa::path(get, path = "/devices", operation_id = "devices", tag = "devices",
    params(DeviceQuery),
    responses((status = 200, description = "Those that are asked for, by name", body = Page<DeviceRow>)))]
pub async fn list(
    State(console): State<Arc<Console>>,
    Params(query): Params<DeviceQuery>,
) -> Result<Json<Page<DeviceRow>>, Problem> {
    let picture = console.model.picture()?;
    let quarantines = quarantines(&console);
    let page = heavy(&console, move || {
        let paging = Paging::new(query.cursor.as_deref(), query.limit)?;
        let search = query.search.as_deref().map(str::to_lowercase);
        let day_ago = picture.at.as_millisecond() - 24 * 3_600_000;
        let hosts = picture.network.hosts.iter().zip(0_u32..);
        let found = hosts.filter(|(host, at)| {
            let named = &picture.groups.named[*at as usize];
            !host.is_many
                && search.as_ref().is_none_or(|search| has(&picture, *at, search))
                && query.role.is_none_or(|role| role_of(&picture, *at) == role)
                && query.wire.as_ref().is_none_or(|wire| *host.wire == **wire)
                && query.group.as_ref().is_none_or(|group| group_id(&picture, *at) == group)
                && query.state.is_none_or(|state| match state {
                    DeviceState::Quarantined => {
                        quarantine_of(&quarantines, &picture, *at).is_some()
                    }
                    DeviceState::Ungrouped => named.is_empty(),
                    DeviceState::New => host.seen.first_ms >= day_ago,
                    DeviceState::Denied => edges(&picture, *at).any(|e| e.denied > 0),
                })
        });
        let mut found: Vec<u32> = found.map(|(_, at)| at).collect();
        found.sort_by(|&a, &b| {
            let key =
                |at: u32| (picture.network.label(at), &picture.network.hosts[at as usize].key);
            key(a).cmp(&key(b))
        });
        Ok(paging.of(&found, |&at| row(&picture, at, &quarantines)))
    });
    Ok(Json(page.await?))
}

/// A device
#[utoipa::path(get, path = "/devices/{id}", operation_id = "device", tag = "devices",
    params(("id" = String, Path, description = "By what it is known")),
    responses((status = 200, description = "All that is known of it", body = DeviceShown),
              (status = 404, description = "There is no such device", body = Problem,
               content_type = "application/problem+json")))]
pub async fn device(
    State(console): State<Arc<Console>>,
    Segment(id): Segment,
) -> Result<Json<DeviceShown>, Problem> {
    let picture = console.model.picture()?;
    let at = picture.network.find(&id).ok_or_else(|| no_device(&id))?;
    let quarantines = quarantines(&console);
    let shown = heavy(&console, move || {
        let network = &picture.network;
        let host = &network.hosts[at as usize];
        let mut history: Vec<_> = host.addresses.clone();
        history.sort_by_key(|seen| std::cmp::Reverse((seen.last_ms, seen.address)));
        let history = history.into_iter().map(|seen| AddressTime {
            address: seen.address.to_string(),
            first_seen: instant(seen.first_ms),
            last_seen: instant(seen.last_ms),
        });
        let neighbours: BTreeSet<u32> =
            edges(&picture, at).flat_map(|edge| [edge.client, edge.server]).collect();
        Ok(DeviceShown {
            device: row(&picture, at, &quarantines),
            history: history.collect(),
            offers: services(&picture, network.incoming(at)),
            uses: services(&picture, network.outgoing(at)),
            neighbours_count: neighbours.len().saturating_sub(1),
            quarantine: quarantine_of(&quarantines, &picture, at).cloned(),
        })
    });
    Ok(Json(shown.await?))
}

/// Put a device in quarantine
///
/// At once, above every rule, both ways, on wires that observe too. A device of the policy by its name, or
/// an address or a MAC address.
#[utoipa::path(post, path = "/devices/{id}/quarantine", operation_id = "quarantine", tag = "devices",
    params(("id" = String, Path, description = "A device of the policy, an address or a MAC address")),
    request_body = QuarantineWanted,
    responses((status = 200, description = "It is in quarantine", body = ChangeReport),
              (status = 409, description = "The gateway refuses", body = Problem,
               content_type = "application/problem+json")))]
pub async fn quarantine(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Segment(device): Segment,
    Body(QuarantineWanted { reason: why, allow }): Body<QuarantineWanted>,
) -> Result<Json<ChangeReport>, Problem> {
    let why = reason(&why)?;
    console.change(&caller, Change::Quarantine { device, allow }, why, false).await
}

/// Let a device out of quarantine
#[utoipa::path(delete, path = "/devices/{id}/quarantine", operation_id = "release", tag = "devices",
    params(("id" = String, Path, description = "As it was put there")),
    request_body = Because,
    responses((status = 200, description = "It is out", body = ChangeReport),
              (status = 409, description = "The gateway refuses", body = Problem,
               content_type = "application/problem+json")))]
pub async fn release(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Segment(device): Segment,
    Body(Because { reason: why }): Body<Because>,
) -> Result<Json<ChangeReport>, Problem> {
    let why = reason(&why)?;
    console.change(&caller, Change::Release { device }, why, false).await
}

fn quarantines(console: &Console) -> Vec<Quarantine> {
    let all = console.gateway.known_exceptions();
    all.map_or_else(Vec::new, |all| all.quarantines.clone())
}

fn quarantine_of<'q>(all: &'q [Quarantine], picture: &Picture, at: u32) -> Option<&'q Quarantine> {
    if all.is_empty() {
        return None;
    }
    let host = &picture.network.hosts[at as usize];
    let mac = host.mac.map(|mac| mac.to_string());
    all.iter().find(|one| {
        let mut named = one.hosts.iter().chain([&one.device]);
        named.any(|name| {
            mac.as_ref().is_some_and(|mac| mac.eq_ignore_ascii_case(name))
                || addresses(name).is_some_and(|(low, high)| {
                    let mut own = host.addresses.iter().filter(|own| {
                        low.is_ipv4() == own.address.is_ipv4()
                            && (low..=high).contains(&own.address)
                    });
                    own.any(|own| has_now(picture, at, own.address, own.last_ms))
                })
        })
    })
}

/// The first and the last of the addresses that are written as one, or as a range.
fn addresses(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some((low.parse().ok()?, high.parse().ok()?))
}

/// Whether nobody else was seen with an address of a device since then.
fn has_now(picture: &Picture, at: u32, address: IpAddr, last_ms: i64) -> bool {
    let others = picture.network.hosts.iter().zip(0..).filter(|(_, other)| *other != at);
    let mut seen = others.flat_map(|(host, _)| &host.addresses);
    !seen.any(|other| other.address == address && other.last_ms > last_ms)
}

fn edges(
    picture: &Picture,
    at: u32,
) -> impl Iterator<Item = &crate::console::model::network::Edge> {
    let network = &picture.network;
    let all = network.outgoing(at).iter().chain(network.incoming(at));
    all.map(|&edge| &network.edges[edge as usize])
}

fn role_of(picture: &Picture, at: u32) -> DeviceRole {
    let network = &picture.network;
    if network.hosts[at as usize].is_router {
        return DeviceRole::Router;
    }
    let uses = network.outgoing(at).iter().any(|&edge| network.edges[edge as usize].flows > 0);
    let serves = network.incoming(at).iter().any(|&edge| network.edges[edge as usize].answered > 0);
    match (serves, uses) {
        (true, true) => DeviceRole::Both,
        (true, false) => DeviceRole::Server,
        (false, true) => DeviceRole::Client,
        (false, false) => DeviceRole::Silent,
    }
}

fn group_id(picture: &Picture, at: u32) -> &str {
    &picture.groups.groups[usize::from(picture.groups.of[at as usize])].id
}

/// Whether a text, in small letters, is a part of what a device is known by.
fn has(picture: &Picture, at: u32, search: &str) -> bool {
    let network = &picture.network;
    let host = &network.hosts[at as usize];
    let has = |text: &str| text.to_lowercase().contains(search);
    has(&host.id)
        || host.name.as_deref().is_some_and(has)
        || host.mac.is_some_and(|mac| has(&mac.to_string()))
        || host.addresses.iter().any(|seen| has(&seen.address.to_string()))
        || network.vendor(at).is_some_and(has)
        || picture.groups.named[at as usize].iter().any(|name| has(name))
}

fn row(picture: &Picture, at: u32, quarantines: &[Quarantine]) -> DeviceRow {
    let network = &picture.network;
    let host = &network.hosts[at as usize];
    let mut addresses = host.addresses.clone();
    addresses.sort_by_key(|seen| std::cmp::Reverse((seen.last_ms, seen.address)));
    DeviceRow {
        id: host.id.clone(),
        name: network.label(at).to_owned(),
        addresses: addresses.iter().map(|seen| seen.address.to_string()).collect(),
        mac: host.mac.map(|mac| mac.to_string()),
        maker: network.vendor(at).map(str::to_owned),
        role: role_of(picture, at),
        groups: picture.groups.named[at as usize].iter().map(ToString::to_string).collect(),
        group: group_id(picture, at).to_owned(),
        wire: host.wire.to_string(),
        side: host.side.to_string(),
        vlan: crate::learning::database::vlan_text(host.vlan),
        first_seen: instant(host.seen.first_ms),
        last_seen: instant(host.seen.last_ms),
        connections: network.outgoing(at).len() + network.incoming(at).len(),
        quarantined: quarantine_of(quarantines, picture, at).is_some(),
    }
}

/// What edges of one service come to.
#[derive(Default)]
struct Sums {
    applications: BTreeSet<String>,
    peers: BTreeSet<(u32, u32)>,
    flows: u64,
    denied: u64,
}

fn services(picture: &Picture, edges: &[u32]) -> Vec<ServiceUse> {
    let network = &picture.network;
    let mut found: BTreeMap<u32, Sums> = BTreeMap::new();
    for &at in edges {
        let edge = &network.edges[at as usize];
        let sums = found.entry(edge.service).or_default();
        let known = network.applications.get(&(edge.server, edge.service));
        sums.applications.extend(known.into_iter().flatten().cloned());
        sums.peers.insert((edge.client, edge.server));
        sums.flows += edge.flows;
        sums.denied += edge.denied;
    }
    let mut uses: Vec<ServiceUse> = (found.into_iter())
        .map(|(service, sums)| ServiceUse {
            service: network.services[service as usize].to_string(),
            applications: sums.applications.into_iter().collect(),
            peers: sums.peers.len(),
            flows: sums.flows,
            denied: sums.denied,
        })
        .collect();
    uses.sort_by(|a, b| b.flows.cmp(&a.flows).then_with(|| a.service.cmp(&b.service)));
    uses
}
