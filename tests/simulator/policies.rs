//! Random policies over the world's hosts, so that everything meets everything.

use std::fmt::Write as _;
use std::sync::Arc;

use bulkhead_rules::policy::{LoadOptions, Policy};
use bulkhead_rules::syntax::Source;

use super::hosts::{HOSTS, Host};
use super::random::Random;

/// Milliseconds since the Unix epoch at the zero of the world's clock: 2026-11-24T06:00:00Z.
pub(super) const ZERO_MS: i64 = 1_795_500_000_000;

const GROUPS: usize = 4;
const SERVICES: [&str; 8] = [
    "tcp/80",
    "tcp/502",
    "tcp/5000-5999",
    "udp/80",
    "udp/502-5000",
    "[icmp/echo-request, icmpv6/echo-request]",
    "[ip/47, ip/50, ip/99, sctp]",
    "eth/0x8892",
];

/// A random policy, of which some rules begin or end within seconds of `now_s` (of the world's
/// clock).
pub(super) fn policy(random: &mut Random, wires: u16, now_s: u64) -> Policy {
    let text = text(random, wires, now_s);
    let wires = (0..wires).map(|wire| Arc::from(format!("w{wire}"))).collect();
    let options = LoadOptions { wires: Some(wires), ..LoadOptions::default() };
    match Policy::load(&[Source::new("policy.yaml", text.clone())], &options) {
        Ok(loaded) => loaded.policy,
        Err(errors) => unreachable!("the policy is well formed: {errors:?}\n{text}"),
    }
}

fn text(random: &mut Random, wires: u16, now_s: u64) -> String {
    let mut text = String::from("version: 1\n");
    let default = random.pick(&["deny", "deny", "reject"]);
    let mut lines = vec![format!("default: {default}"), "devices:".to_owned()];
    for inside in [true, false] {
        let host = Host { inside, number: 1 };
        let (name, mac) = (side_name(inside), host.mac());
        lines.push(format!(
            "  dev-{name}: {{mac: \"{mac}\", ip: [{}, \"{}\"]}}",
            host.v4(),
            host.v6()
        ));
        lines.push(format!("  card-{name}: {{mac: \"{mac}\"}}"));
    }
    lines.push("services:".to_owned());
    lines.extend(SERVICES.iter().enumerate().map(|(nth, service)| format!("  s{nth}: {service}")));
    lines.push("groups:".to_owned());
    for group in 0..GROUPS {
        let members: Vec<String> = (0..random.between(1, 4)).map(|_| member(random)).collect();
        let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
        members.sort_unstable();
        members.dedup();
        lines.push(format!("  g{group}: [{}]", members.join(", ")));
    }
    lines.push("  net-in: [10.0.1.0/24, \"fd00:1::/64\"]".to_owned());
    lines.push("  net-out: [10.0.2.0/24, \"fd00:2::/64\"]".to_owned());
    lines.push("rules:".to_owned());
    for rule in 0..random.between(4, 12) {
        lines.push(rule_line(random, rule, wires, now_s));
    }
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn side_name(inside: bool) -> &'static str {
    if inside { "in" } else { "out" }
}

fn member(random: &mut Random) -> String {
    let inside = random.permille(500);
    let host = Host { inside, number: random.below(HOSTS) };
    match random.below(8) {
        0..4 => host.v4().to_string(),
        4 => format!("dev-{}", side_name(inside)),
        5 if inside => "10.0.1.0/30".to_owned(),
        5 => "10.0.2.0/30".to_owned(),
        _ => format!("\"{}\"", host.v6()),
    }
}

fn rule_line(random: &mut Random, rule: u64, wires: u16, now_s: u64) -> String {
    let mut side = || {
        let inside = random.permille(500);
        match random.below(12) {
            0..4 => "any".to_owned(),
            4..8 => format!("g{}", random.below(GROUPS)),
            8 => format!("card-{}", side_name(inside)),
            9 => format!("dev-{}", side_name(inside)),
            10 => format!("net-{}", side_name(inside)),
            _ => Host::any(random, inside).v4().to_string(),
        }
    };
    let (from, to) = (side(), side());
    let sides = match random.below(8) {
        0 if from != to => format!("between: [{from}, {to}]"),
        _ => format!("from: {from}, to: {to}"),
    };
    let service = match random.below(4) {
        0 => "any".to_owned(),
        _ => {
            let count = random.between(1, 4);
            let mut services: Vec<usize> =
                (0..count).map(|_| random.below(SERVICES.len())).collect();
            services.sort_unstable();
            services.dedup();
            let names: Vec<String> = services.iter().map(|service| format!("s{service}")).collect();
            format!("[{}]", names.join(", "))
        }
    };
    let action = random.pick(&["allow", "allow", "allow", "allow", "deny", "reject"]);
    let mut line = format!("  - {{name: r{rule}, {sides}, service: {service}, action: {action}");
    if random.permille(200) {
        let vlan = random.pick(&["10", "20", "untagged", "[100, 10]"]);
        let _ = write!(line, ", vlan: {vlan}");
    }
    if wires > 1 && random.permille(150) {
        let _ = write!(line, ", wire: w{}", random.below(wires.into()));
    }
    let starts_s = random.permille(100).then(|| now_s + random.between(1, 20));
    let ends_after_s = random.permille(150).then(|| random.between(1, 20));
    if let Some(starts_s) = starts_s {
        let _ = write!(line, ", starts: {}", instant(starts_s));
    }
    if let Some(after_s) = ends_after_s {
        let _ = write!(line, ", expires: {}", instant(starts_s.unwrap_or(now_s) + after_s));
    }
    line.push('}');
    line
}

/// An instant in seconds of the world's clock, as a policy writes it.
fn instant(at_s: u64) -> String {
    let (days, rest) = (at_s / 86_400, at_s % 86_400);
    let (hours, minutes, seconds) = (6 + rest / 3600, rest / 60 % 60, rest % 60);
    // The clock begins at 06:00 on 2026-11-24.
    let (days, hours) = (days + hours / 24, hours % 24);
    let (month, day) = if days < 7 { (11, 24 + days) } else { (12, days - 6) };
    format!("2026-{month}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}Z")
}
