//! `bulkhead bindings`: who has which address, and who else says so.

use std::collections::HashMap;
use std::fmt::Write as _;

use bulkhead_pipeline::bindings::table::{Conflict, ConflictKind};
use bulkhead_rules::headers::{Mac, VlanTags, WireId};
use bulkhead_rules::policy::Policy;
use serde::{Deserialize, Serialize};

use super::Followed;
use crate::cli::{BindingsArgs, exit};
use crate::control::client;
use crate::state::Gateway;

/// For how long a conflict is an alert, in seconds.
const ALERT_S: u64 = 3600;

/// What is known of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BindingsReport {
    /// Every binding, by wire, VLAN and address.
    pub bindings: Vec<BindingRow>,
    /// The latest conflicts, the last one first.
    pub conflicts: Vec<ConflictRow>,
    /// How many bindings were let go, where that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<usize>,
}

/// A binding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BindingRow {
    /// The address.
    pub address: String,
    /// The MAC address that has it.
    pub mac: String,
    /// The policy's device with this MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whose word it is: `policy`, `dhcp` or `announced`.
    pub origin: String,
    /// The wire on which it was seen last.
    pub wire: String,
    /// The side.
    pub side: String,
    /// The VLAN tags, such as `30`; empty where there are none.
    pub vlan: String,
    /// For how many seconds it has held.
    pub age_s: u64,
    /// In how many seconds it runs out; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
}

/// A conflict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConflictRow {
    /// What the claim contradicts: `address`, `policy`, `side` or `wire`.
    pub kind: String,
    /// In words, for people.
    pub text: String,
    /// The MAC address that claims.
    pub mac: String,
    /// The address that it claims.
    pub address: String,
    /// How often it did.
    pub count: u64,
    /// How many seconds ago it did last.
    pub age_s: u64,
}

impl BindingsReport {
    /// What the gateway knows now. Lets go of `forget` first.
    pub fn of(gateway: &Gateway, forget: Option<std::net::IpAddr>) -> Self {
        let now_ms = gateway.uptime_ms();
        let mut followed = gateway.bindings();
        let forgotten = forget.map(|address| followed.table.forget(address));
        let devices = followed.base().map_or_else(HashMap::new, |policy| devices(policy));
        let rows = followed.table.iter().map(|(network, address, binding)| BindingRow {
            address: address.to_string(),
            mac: binding.mac.to_string(),
            device: devices.get(&binding.mac).cloned(),
            origin: binding.origin.label().to_owned(),
            wire: wire_name(gateway, binding.wire).to_owned(),
            side: side(binding.inside).to_owned(),
            vlan: vlan(network.tags),
            age_s: now_ms.saturating_sub(binding.since_ms) / 1000,
            expires_s: binding.expires_ms.map(|at_ms| at_ms.saturating_sub(now_ms) / 1000),
        });
        let bindings = rows.collect();
        Self { bindings, conflicts: conflicts(gateway, &followed, now_ms), forgotten }
    }

    /// How many bindings there are, and the conflicts that are an alert, in words.
    pub fn in_short(gateway: &Gateway) -> (u64, Vec<String>) {
        let followed = gateway.bindings();
        let all = conflicts(gateway, &followed, gateway.uptime_ms()).into_iter();
        let recent = all.filter(|conflict| conflict.age_s < ALERT_S);
        let in_words =
            |c: ConflictRow| format!("{}, {} times, last {} s ago", c.text, c.count, c.age_s);
        (followed.table.len() as u64, recent.map(in_words).collect())
    }
}

/// Asks the gateway and prints its answer. Returns the exit code.
pub fn main(args: &BindingsArgs) -> u8 {
    match client::bindings(&args.socket, args.forget) {
        Ok(report) => {
            if args.socket.json {
                client::print_json(&report);
            } else {
                print!("{}", text(&report));
            }
            exit::OK
        }
        Err(error) => {
            eprintln!("error: {error}");
            exit::UNAVAILABLE
        }
    }
}

/// The report as a person reads it.
pub fn text(report: &BindingsReport) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &BindingsReport) -> std::fmt::Result {
    if let Some(count) = report.forgotten {
        writeln!(out, "let go of {count} binding(s): whoever claims the address next has it\n")?;
    }
    writeln!(
        out,
        "{:<39} {:<17} {:<20} {:<9} {:<16} {:<7} {:<9} {:>8} {:>8}",
        "ADDRESS", "MAC", "DEVICE", "ORIGIN", "WIRE", "SIDE", "VLAN", "AGE S", "LEFT S"
    )?;
    for row in &report.bindings {
        let left = row.expires_s.map_or_else(|| "-".to_owned(), |left| left.to_string());
        writeln!(
            out,
            "{:<39} {:<17} {:<20} {:<9} {:<16} {:<7} {:<9} {:>8} {left:>8}",
            row.address,
            row.mac,
            row.device.as_deref().unwrap_or("-"),
            row.origin,
            row.wire,
            row.side,
            if row.vlan.is_empty() { "-" } else { &row.vlan },
            row.age_s
        )?;
    }
    if !report.conflicts.is_empty() {
        writeln!(out, "\nCONFLICTS (ignored; if a claim is right: --forget ADDRESS)")?;
        for conflict in &report.conflicts {
            let (count, age_s) = (conflict.count, conflict.age_s);
            writeln!(out, "{count:>8} times, last {age_s} s ago: {}", conflict.text)?;
        }
    }
    Ok(())
}

fn conflicts(gateway: &Gateway, followed: &Followed, now_ms: u64) -> Vec<ConflictRow> {
    let row = |conflict: &Conflict| {
        let claim = &conflict.claim;
        ConflictRow {
            kind: conflict.kind.label().to_owned(),
            text: in_words(gateway, conflict),
            mac: claim.mac.to_string(),
            address: claim.address.to_string(),
            count: conflict.count,
            age_s: now_ms.saturating_sub(conflict.at_ms) / 1000,
        }
    };
    let mut rows: Vec<_> = followed.table.conflicts().map(row).collect();
    rows.reverse();
    rows
}

fn in_words(gateway: &Gateway, conflict: &Conflict) -> String {
    let claim = &conflict.claim;
    let (mac, address, by) = (claim.mac, claim.address, claim.kind.label());
    let place = format!("{} of wire {}", side(claim.inside), wire_name(gateway, claim.wire));
    let known = match (conflict.kind, conflict.holder) {
        (ConflictKind::Address, Some(holder)) => format!("{holder} has it"),
        (ConflictKind::Address, None) => "another host had it".to_owned(),
        (ConflictKind::Policy, _) => "the policy gives it to another device".to_owned(),
        (ConflictKind::Side, _) => format!("{mac} is on the other side"),
        (ConflictKind::Wire, _) => format!("{mac} is inside another wire"),
        (ConflictKind::Unasked, _) => format!("{mac} has not asked for it"),
    };
    if address.is_unspecified() {
        return format!("{mac} speaks ({by}) on the {place}, but {known}");
    }
    format!("{mac} claims {address} ({by}) on the {place}, but {known}")
}

fn devices(policy: &Policy) -> HashMap<Mac, String> {
    let devices = policy.devices();
    devices
        .flat_map(|device| {
            device.macs.iter().map(|&mac| (mac, device.name.to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

fn wire_name(gateway: &Gateway, wire: WireId) -> &str {
    let wire = gateway.config.wires.get(usize::from(wire.0));
    wire.map_or("", |wire| wire.name.as_str())
}

fn side(inside: bool) -> &'static str {
    if inside { "inside" } else { "outside" }
}

fn vlan(tags: VlanTags) -> String {
    match (tags.outer, tags.inner) {
        (0, 0) => String::new(),
        (outer, 0) => outer.to_string(),
        (outer, inner) => format!("{outer}.{inner}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_bindings_and_conflicts() {
        let report = BindingsReport {
            bindings: vec![BindingRow {
                address: "10.0.0.1".to_owned(),
                mac: "02:00:00:00:00:07".to_owned(),
                device: Some("plc-7".to_owned()),
                origin: "dhcp".to_owned(),
                wire: "line".to_owned(),
                side: "inside".to_owned(),
                vlan: "30".to_owned(),
                age_s: 5,
                expires_s: Some(60),
            }],
            conflicts: vec![ConflictRow {
                kind: "address".to_owned(),
                text: "somebody claims it".to_owned(),
                mac: "02:00:00:00:00:66".to_owned(),
                address: "10.0.0.1".to_owned(),
                count: 3,
                age_s: 2,
            }],
            forgotten: Some(0),
        };
        let text = text(&report);
        for part in ["let go of 0", "plc-7", "dhcp", "3 times, last 2 s ago: somebody claims it"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
