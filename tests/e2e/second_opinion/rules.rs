//! Rules that both understand, from one table.

use std::fmt::Write as _;

/// A rule: who may, or may not, open what to whom. Prefixes of one family, or `any`.
pub(crate) struct Rule {
    from: &'static str,
    to: &'static str,
    /// `tcp/80`, `udp/5000-5010`, `icmp/8`, `tcp`, `ip/47`, or `any`.
    services: &'static [&'static str],
    allow: bool,
}

/// Rules in order; what none matches is forbidden.
pub(crate) struct Rules {
    pub(crate) name: &'static str,
    rules: &'static [Rule],
    /// Whether frames that are not IP pass.
    pub(crate) others_pass: bool,
}

const fn allow(from: &'static str, to: &'static str, services: &'static [&'static str]) -> Rule {
    Rule { from, to, services, allow: true }
}

const fn deny(from: &'static str, to: &'static str, services: &'static [&'static str]) -> Rule {
    Rule { from, to, services, allow: false }
}

/// What is compared.
pub(crate) const POLICIES: [Rules; 3] = [
    Rules { name: "everything", rules: &[allow("any", "any", &["any"])], others_pass: true },
    Rules {
        name: "services",
        rules: &[
            deny("any", "224.0.0.0/4", &["udp/1900"]),
            allow("any", "any", &["icmp/8", "icmpv6/128"]),
            allow("any", "any", &["udp/53", "udp/67-68", "udp/123", "udp/161-162", "udp/5353"]),
            allow("any", "any", &["tcp/20-25", "tcp/80", "tcp/102", "tcp/443", "tcp/502"]),
            deny("any", "any", &["tcp/1-1023"]),
            allow("any", "any", &["tcp/1024-20000", "udp/2222", "udp/44818", "udp/47808"]),
            allow("any", "any", &["sctp/1-65535", "ip/47", "ip/89"]),
        ],
        others_pass: false,
    },
    Rules {
        name: "networks",
        rules: &[
            deny("192.168.0.0/24", "any", &["udp"]),
            deny("any", "10.0.0.0/9", &["tcp/80"]),
            allow("192.168.0.0/16", "any", &["tcp", "udp", "icmp/8"]),
            allow("10.0.0.0/8", "any", &["any"]),
            allow("any", "172.16.0.0/12", &["tcp/1-65535"]),
            allow("141.81.0.0/16", "141.81.0.0/16", &["any"]),
            allow("fe80::/10", "any", &["udp", "icmpv6/128"]),
            allow("2000::/3", "any", &["tcp"]),
            allow("any", "2001:db8::/32", &["any"]),
        ],
        others_pass: false,
    },
];

impl Rules {
    /// As the gateway reads them.
    pub(crate) fn yaml(&self) -> String {
        let mut out = String::from("version: 1\ndefault: deny\nrules:\n");
        for (number, rule) in self.rules.iter().enumerate() {
            let services: Vec<String> =
                rule.services.iter().map(|name| yaml_service(name)).collect();
            let action = if rule.allow { "allow" } else { "deny" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "  - {{name: r{number}, from: \"{}\", to: \"{}\", service: [{}], action: {action}}}",
                rule.from,
                rule.to,
                services.join(", "),
            );
        }
        // `[any]` is no list of services.
        out.replace("[any]", "any")
    }

    /// The same for nftables, in the chain that forwards.
    pub(crate) fn nft(&self) -> String {
        let mut out = String::new();
        for rule in self.rules {
            for service in rule.services {
                let verdict = if rule.allow { "accept" } else { "drop" };
                let hosts = hosts("saddr", rule.from) + &hosts("daddr", rule.to);
                let _ = writeln!(out, "    {hosts}{}{verdict}", nft_service(service));
            }
        }
        out
    }
}

fn yaml_service(name: &str) -> String {
    name.to_owned()
}

fn hosts(field: &str, prefix: &str) -> String {
    match prefix {
        "any" => String::new(),
        v6 if v6.contains(':') => format!("ip6 {field} {v6} "),
        v4 => format!("ip {field} {v4} "),
    }
}

fn nft_service(name: &str) -> String {
    match name.split_once('/') {
        None if name == "any" => String::new(),
        None => format!("meta l4proto {name} "),
        // The protocols of ICMP belong to a family each.
        Some(("icmp", number)) => format!("meta protocol {{ ip, vlan }} icmp type {number} "),
        Some(("icmpv6", number)) => format!("icmpv6 type {number} "),
        Some(("ip", number)) => format!("meta l4proto {number} "),
        Some((protocol, ports)) => format!("{protocol} dport {ports} "),
    }
}
