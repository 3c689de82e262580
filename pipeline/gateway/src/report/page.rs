//! A report as sections of paragraphs and tables: what the text and the HTML form print.

use std::fmt::Write as _;

use super::{Change, Report};
use crate::live::panels::short;
use crate::status::duration;

/// A part of a report.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Section {
    /// What it is about.
    pub title: &'static str,
    /// What there is to say.
    pub says: Vec<String>,
    /// Tables, each with its head.
    pub tables: Vec<(Vec<&'static str>, Vec<Vec<String>>)>,
}

/// The sections of a report, in order.
pub fn sections(report: &Report) -> Vec<Section> {
    vec![
        head(report),
        unavailable(report),
        scope(report),
        zones(report),
        conduits(report),
        denial(report),
        observed(report),
        assets(report),
        exceptions(report),
        log("Modes, starts and failures", &report.events),
        changes(report),
        telemetry(report),
        not_shown(report),
        standards(report),
    ]
}

/// The report for a terminal.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for section in sections(report) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}\n{}", section.title, "=".repeat(section.title.len()));
        for says in &section.says {
            let _ = writeln!(out, "{says}");
        }
        for (head, rows) in &section.tables {
            let mut table = crate::learning::table::Table::new(head);
            rows.iter().for_each(|row| table.row(row.iter().cloned()));
            let _ = write!(out, "{table}");
        }
        out.push('\n');
    }
    out
}

fn head(report: &Report) -> Section {
    let mut says = vec![format!("Made {} by {}", report.made, report.made_by)];
    if let Some(host) = &report.host {
        says.push(format!("On the host {host}"));
    }
    let or = |time: &Option<String>, otherwise: &str| {
        time.clone().unwrap_or_else(|| otherwise.to_owned())
    };
    let (since, until) = (or(&report.since, "the first record"), or(&report.until, "now"));
    says.push(format!("Observations and changes from {since} until {until}"));
    Section { title: "Evidence of segmentation", says, ..Section::default() }
}

fn unavailable(report: &Report) -> Section {
    let says = match report.unavailable.as_slice() {
        [] => vec!["Everything that was asked for could be had.".to_owned()],
        all => all.iter().map(|u| format!("{}: {}", u.what, u.why)).collect(),
    };
    Section { title: "What could not be had", says, ..Section::default() }
}

fn scope(report: &Report) -> Section {
    let scope = &report.scope;
    let mut says = Vec::new();
    if let (Some(version), Some(uptime)) = (&scope.gateway, scope.uptime_s) {
        let up = duration(uptime);
        says.push(format!(
            "Gateway bulkhead {version}, up for {up}; its counters are of that time"
        ));
    }
    says.push(match (&scope.clock_source, scope.clock_synchronised) {
        (_, None) => "Whether the clock is synchronised is not known".to_owned(),
        (source, Some(synchronised)) => format!(
            "The clock is {}synchronised{}",
            if synchronised { "" } else { "NOT " },
            match source.as_deref() {
                Some("trusted") => ", because the configuration says so (clock = \"trusted\")",
                Some(_) => ", as the kernel was told by its NTP or PTP daemon",
                None => "",
            }
        ),
    });
    if let Some(policy) = &report.policy {
        says.push(format!(
            "Policy {} with {} rules, SHA-256 {}, in force for {}",
            policy.source,
            policy.rules,
            policy.hash,
            duration(policy.age_s)
        ));
        if policy.fallback {
            says.push("The policy's files are bad: this is the last accepted one".to_owned());
        }
        says.extend(policy.standing.iter().cloned());
    }
    let port = |port: &[String; 3]| format!("{} ({}, {})", port[0], port[1], port[2]);
    let rows = scope.wires.iter().map(|wire| {
        vec![
            wire.name.clone(),
            match &wire.fail {
                Some(fail) => format!("{}, fails {fail}", wire.mode),
                None => wire.mode.clone(),
            },
            port(&wire.inside),
            port(&wire.outside),
            wire.received.to_string(),
            wire.dropped.to_string(),
            wire.would_drop.to_string(),
        ]
    });
    let head = vec!["wire", "mode", "inside", "outside", "received", "dropped", "would drop"];
    Section { title: "Scope", says, tables: vec![(head, rows.collect())] }
}

fn zones(report: &Report) -> Section {
    let rows = report.zones.iter().map(|zone| {
        vec![zone.name.clone(), zone.kind.clone(), zone.members.join(", "), zone.except.join(", ")]
    });
    let tables = vec![(vec!["zone", "kind", "members", "except"], rows.collect())];
    Section { title: "Zones", says: Vec::new(), tables }
}

fn conduits(report: &Report) -> Section {
    let rows = report.conduits.iter().map(|conduit| {
        let (from, to) = (&conduit.from, &conduit.to);
        let way = if conduit.either_way { "between" } else { "to" };
        let time = match (&conduit.starts, &conduit.expires) {
            (None, None) => String::new(),
            (starts, expires) => {
                let or = |at: &Option<String>| at.clone().unwrap_or_default();
                format!("{} to {}", or(starts), or(expires))
            }
        };
        vec![
            conduit.rule.clone(),
            format!("{from} {way} {to}"),
            conduit.service.clone(),
            conduit.purpose.clone().unwrap_or_else(|| "none stated".to_owned()),
            conduit.tickets.join(", "),
            conduit.owner.clone().unwrap_or_else(|| "not recorded".to_owned()),
            time,
            conduit.hits.map_or_else(|| "unknown".to_owned(), |hits| hits.to_string()),
            conduit.last_hit.clone().unwrap_or_else(|| "none seen".to_owned()),
            conduit.at.clone(),
        ]
    });
    let head = vec![
        "rule",
        "who",
        "service",
        "purpose",
        "ticket",
        "owner",
        "time",
        "hits",
        "last hit",
        "written at",
    ];
    let says = vec![
        "Everything that the policy permits. Hits are decisions (new flows) since the gateway's start \
         or the rule's; the last hit is by the communication store. Tickets are words of the purpose; \
         the policy language does not record owners."
            .to_owned(),
    ];
    Section { title: "Conduits", says, tables: vec![(head, rows.collect())] }
}

fn denial(report: &Report) -> Section {
    let title = "Default denial";
    let Some(denial) = &report.default_deny else {
        return Section { title, says: vec!["Not available.".to_owned()], ..Section::default() };
    };
    let hits = denial.hits.map_or_else(|| "an unknown number of".to_owned(), |h| h.to_string());
    let mut says = vec![format!(
        "Where no rule matches, the policy says {}: {hits} decisions.",
        denial.default
    )];
    if denial.assertions.is_empty() {
        says.push("The policy has no assertions.".to_owned());
    }
    for assertion in &denial.assertions {
        let word = if assertion.holds { "holds" } else { "DOES NOT HOLD" };
        says.push(format!("Assertion {word}: {}", assertion.says));
    }
    says.push(
        "Below is all that anybody may open to each group, found by analysis of the whole policy for \
         every packet at this instant. What is not listed is denied."
            .to_owned(),
    );
    let rows = denial.reach.iter().flat_map(|zone| {
        let mut rows: Vec<Vec<String>> = (zone.access.iter())
            .map(|access| {
                let row = [&zone.zone, &access.service, &access.from, &access.rule];
                row.map(Clone::clone).into()
            })
            .collect();
        if !zone.complete {
            let note = "this is not all: finding the rest takes too much work";
            rows.push(vec![zone.zone.clone(), note.to_owned(), String::new(), String::new()]);
        } else if rows.is_empty() {
            let nothing = "nothing, by nobody".to_owned();
            rows.push(vec![zone.zone.clone(), nothing, String::new(), String::new()]);
        }
        rows
    });
    let head = vec!["to", "service", "may be opened by", "rule"];
    Section { title, says, tables: vec![(head, rows.collect())] }
}

fn observed(report: &Report) -> Section {
    let title = "Declared against observed";
    let Some(observed) = &report.observed else {
        return Section { title, says: vec!["Not available.".to_owned()], ..Section::default() };
    };
    let mut says = vec![format!(
        "{} conversations (client, server, service) were seen; {} of them were permitted when they were.",
        observed.conversations, observed.permitted
    )];
    says.push(match observed.unused.as_slice() {
        [] => "Every rule that permits something was used.".to_owned(),
        unused => format!("Permitted and used by nobody: {}.", unused.join(", ")),
    });
    if observed.more > 0 {
        says.push(format!("{} more were not permitted than are listed.", observed.more));
    }
    let rows = observed.not_permitted.iter().map(|talk| {
        vec![
            talk.client.clone(),
            talk.server.clone(),
            talk.service.clone(),
            talk.denied_packets.to_string(),
            talk.let_through.to_string(),
            talk.rule.clone(),
            talk.last_seen.clone().unwrap_or_default(),
        ]
    });
    let head = vec![
        "not permitted: client",
        "server",
        "service",
        "denied packets",
        "flows let through",
        "rule",
        "last seen",
    ];
    Section { title, says, tables: vec![(head, rows.collect())] }
}

fn assets(report: &Report) -> Section {
    let rows = report.assets.iter().map(|asset| {
        let or = |text: &Option<String>| text.clone().unwrap_or_default();
        vec![
            or(&asset.name),
            or(&asset.mac),
            or(&asset.vendor),
            asset.addresses.join(", "),
            asset.role.clone(),
            asset.place.clone(),
            asset.zones.join(", "),
            or(&asset.last_seen),
        ]
    });
    let head = vec!["name", "mac", "vendor", "addresses", "role", "where", "zones", "last seen"];
    let says = vec!["Who was heard, by their own packets; names are what hosts say.".to_owned()];
    Section { title: "Assets", says, tables: vec![(head, rows.collect())] }
}

fn exceptions(report: &Report) -> Section {
    let says = match report.exceptions.as_slice() {
        [] => vec!["None is in force.".to_owned()],
        _ => Vec::new(),
    };
    let rows = report.exceptions.iter().map(|exception| {
        let or = |text: &Option<String>, otherwise: &str| {
            text.clone().unwrap_or_else(|| otherwise.to_owned())
        };
        vec![
            exception.kind.clone(),
            exception.what.clone(),
            exception.who.clone(),
            or(&exception.reason, "none stated"),
            or(&exception.since, ""),
            or(&exception.until, "until released"),
        ]
    });
    let head = vec!["kind", "what", "who", "reason", "since", "until"];
    Section { title: "Exceptions", says, tables: vec![(head, rows.collect())] }
}

fn log(title: &'static str, entries: &[Change]) -> Section {
    let rows = entries.iter().map(|entry| {
        let policies = entry.policies.as_ref().map_or_else(String::new, |[before, after]| {
            let short = |hash: &str| if hash.is_empty() { "none" } else { short(hash) }.to_owned();
            format!("{} -> {}", short(before), short(after))
        });
        vec![
            entry.sequence.to_string(),
            entry.time.clone(),
            entry.who.clone(),
            entry.about.clone(),
            entry.detail.clone(),
            entry.reason.clone().unwrap_or_default(),
            policies,
        ]
    });
    let head = vec!["no", "time", "who", "about", "what", "reason", "policy"];
    Section { title, says: Vec::new(), tables: vec![(head, rows.collect())] }
}

fn changes(report: &Report) -> Section {
    let mut section = log("Changes", &report.changes);
    section.says.push(match &report.audit {
        None => "The audit log is not available.".to_owned(),
        Some(audit) => match (&audit.broken, audit.verified) {
            (Some(why), _) => format!("THE AUDIT LOG IS NOT WHOLE: {why}"),
            (None, false) => "THE AUDIT LOG IS NOT WHOLE".to_owned(),
            (None, true) => format!(
                "The hash chain of the audit log holds over the files of these {} entries.",
                audit.entries
            ),
        },
    });
    if report.audit.as_ref().is_some_and(|audit| audit.more) {
        section.says.push("There are earlier entries: ask for a shorter time.".to_owned());
    }
    section
}

fn telemetry(report: &Report) -> Section {
    let title = "Losses in these records";
    let Some(telemetry) = &report.telemetry else {
        return Section { title, says: vec!["Not available.".to_owned()], ..Section::default() };
    };
    let mut says = Vec::new();
    if let Some(in_flight) = telemetry.in_flight {
        says.push(format!(
            "Frames that came in or were originated, less those sent, dropped or held: {in_flight} (those \
             that workers had in their hands just then)"
        ));
    }
    if let Some(lost) = telemetry.gateway_lost {
        says.push(format!("Flow records, copies and log events that the gateway lost: {lost}"));
    }
    let rows = telemetry.store.iter().map(|(name, count)| vec![name.clone(), count.to_string()]);
    let tables = match telemetry.store.is_empty() {
        true => Vec::new(),
        false => vec![(vec!["the store's keeper counted", ""], rows.collect())],
    };
    Section { title, says, tables }
}

fn not_shown(report: &Report) -> Section {
    let says = report.not_shown.iter().map(|line| format!("- {line}")).collect();
    Section { title: "What this does not show", says, ..Section::default() }
}

fn standards(report: &Report) -> Section {
    let rows = report.standards.iter().map(|row| {
        [&row.standard, &row.requirement, &row.evidence, &row.remains].map(Clone::clone).into()
    });
    let head = vec!["standard", "requirement", "what speaks to it here", "what remains"];
    let says = vec![
        "Which requirements these sections are evidence for. Whether they are met is for people to \
         judge."
            .to_owned(),
    ];
    Section { title: "Standards", says, tables: vec![(head, rows.collect())] }
}
