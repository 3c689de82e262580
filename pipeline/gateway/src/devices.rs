//! `bulkhead devices`: who is there, by what was heard of them: nobody is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bulkhead_learn::observe::{HostKey, Service};
use bulkhead_rules::headers::Mac;
use clap::Args;
use serde::Serialize;

use crate::cli::exit;
use crate::learning::announce::Subject;
use crate::learning::direction::Directions;
use crate::learning::identity::{Identities, Who};
use crate::learning::ingest::Seen;
use crate::learning::report::{Reader, Refusal, StoreArgs};
use crate::learning::table::Table;
use crate::learning::time_text;
use crate::learning::vendor::Vendors;

/// What `devices` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "A device is a MAC address with its addresses; behind a router, an address. Names \
    are what devices say of themselves, and what DNS says of them: nobody vouches for them."
)]
pub struct DevicesArgs {
    /// The store and the time that is looked at
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// An address, and when a device had it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AddressSeen {
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Whether DHCP gave it.
    pub leased: bool,
    /// When it was seen first, in Unix milliseconds.
    pub first_ms: i64,
    /// And last.
    pub last_ms: i64,
}

/// A service, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceSeen {
    /// Such as `tcp/502`.
    pub service: String,
    /// The applications that were recognised.
    pub applications: Vec<String>,
    /// How many others it was used with.
    pub peers: usize,
    /// Flows.
    pub flows: u64,
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceReport {
    /// Its MAC address; absent where only an address is known, behind a router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// The router that it is behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Every name: who says so, and what.
    pub names: Vec<(String, String)>,
    /// `router`, `server`, `client`, or `both`.
    pub role: &'static str,
    /// Its addresses over time.
    pub addresses: Vec<AddressSeen>,
    /// The wire on which it was seen last.
    pub wire: String,
    /// The side.
    pub side: String,
    /// VLAN identifiers.
    pub vlan: String,
    /// When it was seen first, in Unix milliseconds.
    pub first_ms: i64,
    /// And last.
    pub last_ms: i64,
    /// What it serves: somebody had an answer.
    pub offers: Vec<ServiceSeen>,
    /// What it uses.
    pub uses: Vec<ServiceSeen>,
}

/// What a device is told by in the inventory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum DeviceKey {
    Mac(Mac),
    Behind(IpAddr),
}

#[derive(Clone, Debug, Default)]
struct Usage {
    peers: BTreeSet<DeviceKey>,
    applications: BTreeSet<String>,
    flows: u64,
}

#[derive(Clone, Debug, Default)]
struct Draft {
    endpoints: Vec<usize>,
    offers: BTreeMap<Service, Usage>,
    uses: BTreeMap<Service, Usage>,
}

/// Lists. Returns the exit code.
pub fn main(args: &DevicesArgs) -> u8 {
    let reports = Reader::open(&args.store)
        .and_then(|reader| Ok(list(&reader, &Vendors::of_this_machine())?));
    match reports {
        Ok(reports) => {
            if args.json {
                crate::control::client::print_json(&reports);
            } else {
                print!("{}", text(&reports));
            }
            exit::OK
        }
        Err(Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

/// Every device of a store that was seen in its range.
///
/// # Errors
///
/// See [`crate::learning::database::StoreError`].
pub fn list(
    reader: &Reader,
    vendors: &Vendors,
) -> Result<Vec<DeviceReport>, crate::learning::database::StoreError> {
    let identities = Identities::read(reader)?;
    let leases: BTreeSet<_> =
        reader.leases()?.into_iter().map(|lease| (lease.mac, lease.address)).collect();
    let rows = identities.rows();
    let mut drafts: BTreeMap<DeviceKey, Draft> = BTreeMap::new();
    let mut keys: BTreeMap<i64, DeviceKey> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let Some(key) = key_of(&identities, row.id, row.endpoint) else { continue };
        keys.insert(row.id, key);
        let Seen { first_ms, last_ms } = row.seen;
        if last_ms >= reader.range.since_ms && first_ms < reader.range.until_ms {
            drafts.entry(key).or_default().endpoints.push(at);
        }
    }
    let directions = Directions::read(reader)?;
    reader.edges(|mut edge| {
        directions.settle(&mut edge);
        let (client, server) = (keys.get(&edge.client), keys.get(&edge.server));
        // Of what was only denied, or may be the other way round, nothing can be said.
        if edge.flows + edge.answered == 0 || edge.client_port != 0 {
            return;
        }
        if let Some(draft) = client.and_then(|key| drafts.get_mut(key)) {
            let usage = draft.uses.entry(edge.service).or_default();
            usage.flows += edge.flows;
            usage.peers.extend(server);
        }
        if let Some(draft) =
            server.filter(|_| edge.answered > 0).and_then(|key| drafts.get_mut(key))
        {
            let usage = draft.offers.entry(edge.service).or_default();
            usage.flows += edge.flows;
            usage.peers.extend(client);
        }
    })?;
    add_applications(reader, &keys, &mut drafts)?;
    let names = reader.names()?;
    let names_of = |draft: &Draft| {
        let of_endpoint = |at: &usize| {
            let endpoint = rows[*at].endpoint;
            let mac = Some(Subject::Mac(endpoint.mac))
                .filter(|_| !identities.is_router(endpoint.mac) || draft.endpoints.len() > 1);
            mac.into_iter().chain(endpoint.address.map(Subject::Address))
        };
        let subjects: BTreeSet<Subject> = draft.endpoints.iter().flat_map(of_endpoint).collect();
        let mut found: Vec<_> =
            names.iter().filter(|name| subjects.contains(&name.subject)).collect();
        found.sort_by_key(|name| (name.source, &name.name));
        found.iter().map(|n| (n.source.label().to_owned(), n.name.clone())).collect::<Vec<_>>()
    };
    let reports = drafts.iter().filter(|(_, draft)| !draft.endpoints.is_empty());
    Ok(reports
        .map(|(&key, draft)| {
            let names = names_of(draft);
            report(key, draft, &identities, &leases, vendors, names)
        })
        .collect())
}

fn key_of(
    identities: &Identities,
    id: i64,
    endpoint: crate::learning::ingest::Endpoint,
) -> Option<DeviceKey> {
    let Who::Host(host) = identities.who(id)? else { return None };
    match (host, endpoint.address) {
        (HostKey::Address(address), Some(own))
            if identities.is_router(endpoint.mac) || endpoint.mac == Mac::default() =>
        {
            // The router's own link-local address is its own.
            let is_local = matches!(own, IpAddr::V6(own) if own.is_unicast_link_local());
            Some(if is_local { DeviceKey::Mac(endpoint.mac) } else { DeviceKey::Behind(*address) })
        }
        _ => Some(DeviceKey::Mac(endpoint.mac)),
    }
}

fn add_applications(
    reader: &Reader,
    keys: &BTreeMap<i64, DeviceKey>,
    drafts: &mut BTreeMap<DeviceKey, Draft>,
) -> Result<(), crate::learning::database::StoreError> {
    for (server, service, application) in reader.services()? {
        let Some(server) = keys.get(&server) else { continue };
        if let Some(draft) = drafts.get_mut(server) {
            draft.offers.entry(service).or_default().applications.insert(application.clone());
        }
        for draft in drafts.values_mut() {
            if let Some(usage) = draft.uses.get_mut(&service) {
                if usage.peers.contains(server) {
                    usage.applications.insert(application.clone());
                }
            }
        }
    }
    Ok(())
}

fn report(
    key: DeviceKey,
    draft: &Draft,
    identities: &Identities,
    leases: &BTreeSet<(Mac, Option<IpAddr>)>,
    vendors: &Vendors,
    names: Vec<(String, String)>,
) -> DeviceReport {
    let rows = || draft.endpoints.iter().map(|&at| &identities.rows()[at]);
    let addresses = rows().filter_map(|row| {
        let address = row.endpoint.address.filter(|address| !address.is_unspecified())?;
        Some(AddressSeen {
            address,
            leased: leases.contains(&(row.endpoint.mac, Some(address))),
            first_ms: row.seen.first_ms,
            last_ms: row.seen.last_ms,
        })
    });
    let last = rows().max_by_key(|row| row.seen.last_ms);
    let mac = match key {
        DeviceKey::Mac(mac) => Some(mac),
        DeviceKey::Behind(_) => None,
    };
    let behind = match key {
        DeviceKey::Behind(_) => last.map(|row| row.endpoint.mac).filter(|&m| m != Mac::default()),
        DeviceKey::Mac(_) => None,
    };
    let is_router = mac.is_some_and(|mac| identities.is_router(mac));
    let role = match (draft.offers.is_empty(), draft.uses.is_empty()) {
        _ if is_router => "router",
        (false, true) => "server",
        (true, _) => "client",
        (false, false) => "both",
    };
    DeviceReport {
        mac: mac.map(|mac| mac.to_string()),
        vendor: mac.and_then(|mac| vendors.of(mac)).map(str::to_owned),
        behind: behind.map(|mac| mac.to_string()),
        name: names.first().map(|(_, name)| name.clone()),
        names,
        role,
        addresses: addresses.collect(),
        wire: last.map(|row| row.wire.clone()).unwrap_or_default(),
        side: last.map(|row| row.side.clone()).unwrap_or_default(),
        vlan: last.map(|row| crate::learning::database::vlan_text(row.vlan)).unwrap_or_default(),
        first_ms: rows().map(|row| row.seen.first_ms).min().unwrap_or(0),
        last_ms: rows().map(|row| row.seen.last_ms).max().unwrap_or(0),
        offers: services(&draft.offers),
        uses: services(&draft.uses),
    }
}

fn services(used: &BTreeMap<Service, Usage>) -> Vec<ServiceSeen> {
    let seen = used.iter().map(|(service, usage)| ServiceSeen {
        service: service.to_string(),
        applications: usage.applications.iter().cloned().collect(),
        peers: usage.peers.len(),
        flows: usage.flows,
    });
    seen.collect()
}

/// Services that are shown of one device.
const MAX_SERVICES: usize = 6;

fn text(reports: &[DeviceReport]) -> String {
    let head =
        ["device", "name", "vendor", "role", "addresses", "where", "offers", "uses", "last seen"];
    let mut table = Table::new(&head);
    for device in reports {
        let who = device.mac.clone().unwrap_or_else(|| {
            format!("behind {}", device.behind.as_deref().unwrap_or("a router"))
        });
        let addresses: Vec<String> =
            device.addresses.iter().map(|seen| seen.address.to_string()).collect();
        let vlan =
            if device.vlan.is_empty() { String::new() } else { format!(" vlan {}", device.vlan) };
        table.row([
            who,
            device.name.clone().unwrap_or_default(),
            device.vendor.clone().unwrap_or_default(),
            device.role.to_owned(),
            addresses.join(" "),
            format!("{} {}{vlan}", device.wire, device.side),
            in_short(&device.offers),
            in_short(&device.uses),
            time_text(device.last_ms),
        ]);
    }
    table.to_string()
}

fn in_short(services: &[ServiceSeen]) -> String {
    let mut by_flows: Vec<&ServiceSeen> = services.iter().collect();
    by_flows.sort_by_key(|seen| std::cmp::Reverse(seen.flows));
    let mut shown: Vec<String> = by_flows
        .iter()
        .take(MAX_SERVICES)
        .map(|seen| match seen.applications.as_slice() {
            [] => seen.service.clone(),
            applications => format!("{} ({})", seen.service, applications.join(", ")),
        })
        .collect();
    if services.len() > MAX_SERVICES {
        shown.push(format!("and {} more", services.len() - MAX_SERVICES));
    }
    shown.join(", ")
}
