//! What the communication store says: who is there, who talked to whom, and what is missing in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bulkhead_rules::packet::mac;
use bulkhead_rules::syntax::Source;

use super::{Asset, Conduit, Conversation, Observed};
use crate::devices::{self, DeviceReport};
use crate::learning::database::StoreError;
use crate::learning::direction::Directions;
use crate::learning::identity::{Identities, Who};
use crate::learning::report::Reader;
use crate::learning::vendor::Vendors;
use crate::map::Groups;

/// Conversations without permission that are listed at most.
const MAX_CONVERSATIONS: usize = 500;

/// An instant as reports write it (RFC 3339, UTC).
pub fn instant(unix_ms: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(unix_ms).ok().map(|at| at.to_string())
}

/// The same; absent where nothing was seen.
fn seen(unix_ms: i64) -> Option<String> {
    (unix_ms > 0 && unix_ms < i64::MAX).then(|| instant(unix_ms)).flatten()
}

/// Every host of the store, with the groups of the policy that it is in.
///
/// # Errors
///
/// See [`StoreError`].
pub fn assets(reader: &Reader, sources: &[Source]) -> Result<Vec<Asset>, StoreError> {
    let groups = Groups::of_texts(sources);
    let devices = devices::list(reader, &Vendors::of_this_machine())?;
    Ok(devices.into_iter().map(|device| asset(device, &groups)).collect())
}

fn asset(device: DeviceReport, groups: &Groups) -> Asset {
    let addresses: Vec<IpAddr> = device.addresses.iter().map(|seen| seen.address).collect();
    let mac = device.mac.as_deref().and_then(mac);
    let names = groups.names_of(mac, &addresses);
    let place = [device.wire, device.side].join(" ");
    Asset {
        name: device.name,
        mac: device.mac,
        vendor: device.vendor,
        addresses: addresses.iter().map(IpAddr::to_string).collect(),
        role: device.role.to_owned(),
        place: place.trim().to_owned(),
        zones: names.iter().map(ToString::to_string).collect(),
        first_seen: seen(device.first_ms),
        last_seen: seen(device.last_ms),
    }
}

/// What was seen, against `conduits`, whose last hits are filled in.
///
/// # Errors
///
/// See [`StoreError`].
pub fn observed(reader: &Reader, conduits: &mut [Conduit]) -> Result<Observed, StoreError> {
    let identities = Identities::read(reader)?;
    let directions = Directions::read(reader)?;
    let name = |id: i64| {
        let (Who::Host(key) | Who::Group(key)) = identities.who(id)?;
        let known = identities.name(key);
        Some(known.map_or_else(|| key.to_string(), |name| format!("{name} ({key})")))
    };
    let allowing: BTreeSet<String> = conduits.iter().map(|c| c.rule.clone()).collect();
    let mut last_hits: BTreeMap<String, i64> = BTreeMap::new();
    let mut talks: BTreeMap<(String, String, String), (bool, i64, Conversation)> = BTreeMap::new();
    reader.edges(|mut edge| {
        directions.settle(&mut edge);
        let (Some(client), Some(server)) = (name(edge.client), name(edge.server)) else { return };
        let is_denied = edge.denied > 0 || edge.would_deny > 0;
        let passed = edge.flows > edge.would_deny;
        if passed && allowing.contains(&edge.rule) {
            let last = last_hits.entry(edge.rule.clone()).or_default();
            *last = (*last).max(edge.seen.last_ms);
        }
        let key = (client.clone(), server.clone(), edge.service.to_string());
        let (permitted, last, talk) = talks.entry(key).or_insert_with(|| {
            let service = edge.service.to_string();
            (false, 0, Conversation { client, server, service, ..Conversation::default() })
        });
        *permitted |= passed;
        if is_denied {
            talk.denied_packets += edge.denied;
            talk.let_through += edge.would_deny;
            talk.rule = edge.rule;
            *last = (*last).max(edge.seen.last_ms);
        }
    })?;
    for conduit in conduits.iter_mut() {
        conduit.last_hit = last_hits.get(&conduit.rule).copied().and_then(seen);
    }
    let unused = conduits.iter().filter(|c| c.last_hit.is_none() && c.hits.unwrap_or(0) == 0);
    let unused = unused.map(|conduit| conduit.rule.clone()).collect();
    let conversations = talks.len() as u64;
    let permitted = talks.values().filter(|(permitted, ..)| *permitted).count() as u64;
    let denied = |talk: &Conversation| talk.denied_packets + talk.let_through;
    let mut refused: Vec<(i64, Conversation)> = talks
        .into_values()
        .filter(|(_, _, talk)| denied(talk) > 0)
        .map(|(_, last, talk)| (last, talk))
        .collect();
    refused.sort_by_key(|(_, talk)| std::cmp::Reverse(denied(talk)));
    let more = refused.len().saturating_sub(MAX_CONVERSATIONS) as u64;
    refused.truncate(MAX_CONVERSATIONS);
    let not_permitted = refused
        .into_iter()
        .map(|(last, talk)| Conversation { last_seen: seen(last), ..talk })
        .collect();
    Ok(Observed { conversations, permitted, unused, not_permitted, more })
}
