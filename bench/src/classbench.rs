//! ClassBench rule sets (Taylor and Turner, 2007) to policy text.
//!
//! One rule a line, the first match wins:
//! `@src/len dst/len sport : sport dport : dport protocol/mask flags/mask`. Prefixes, port ranges
//! and the protocol become a rule's `from`, `to` and `service`; the TCP flags have no counterpart
//! and are left out. Actions alternate between allow and deny.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Which addresses the policy is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// As in the set.
    V4,
    /// Each prefix `a.b.c.d/n` becomes `2001:db8:aabb:ccdd::/32+n`.
    V6,
}

/// The policy of a rule set.
///
/// # Errors
///
/// The line that is no rule, and what is wrong with it.
pub fn policy_text(set: &str, family: Family) -> Result<String, String> {
    let mut out = String::from("version: 1\ndefault: deny\nrules:\n");
    for (index, line) in set.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let rule = Rule::parse(line).ok_or_else(|| format!("line {}: `{line}`", index + 1))?;
        let action = if index % 2 == 0 { "allow" } else { "deny" };
        let (from, to) = (prefix(rule.from, family), prefix(rule.to, family));
        let service = rule.service();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  - {{name: r{}, from: \"{from}\", to: \"{to}\", service: {service}, action: {action}}}",
            index + 1,
        );
    }
    Ok(out)
}

struct Rule {
    from: (Ipv4Addr, u32),
    to: (Ipv4Addr, u32),
    src_ports: (u16, u16),
    dst_ports: (u16, u16),
    /// [`None`] for every protocol.
    protocol: Option<u8>,
}

impl Rule {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.trim().strip_prefix('@')?.split_whitespace().collect();
        let [from, to, src_low, ":", src_high, dst_low, ":", dst_high, protocol, ..] = fields[..]
        else {
            return None;
        };
        let (value, mask) = protocol.split_once('/')?;
        let value = u8::from_str_radix(value.strip_prefix("0x")?, 16).ok()?;
        let protocol = match mask {
            "0xFF" => Some(value),
            "0x00" => None,
            _ => return None,
        };
        let ports = |low: &str, high: &str| Some((low.parse().ok()?, high.parse().ok()?));
        Some(Self {
            from: parse_prefix(from)?,
            to: parse_prefix(to)?,
            src_ports: ports(src_low, src_high)?,
            dst_ports: ports(dst_low, dst_high)?,
            protocol,
        })
    }

    fn service(&self) -> String {
        let name = match self.protocol {
            None => return "any".to_owned(),
            Some(6) => "tcp",
            Some(17) => "udp",
            Some(number) => return format!("ip/{number}"),
        };
        let ports = |(low, high): (u16, u16)| match (low.max(1), high) {
            (1, u16::MAX) => "any".to_owned(),
            (low, high) if low == high => low.to_string(),
            (low, high) => format!("{low}-{high}"),
        };
        format!("{{{name}: {}, from-port: {}}}", ports(self.dst_ports), ports(self.src_ports))
    }
}

fn parse_prefix(text: &str) -> Option<(Ipv4Addr, u32)> {
    let (address, length) = text.split_once('/')?;
    let length = length.parse().ok().filter(|length| *length <= 32)?;
    let address: Ipv4Addr = address.parse().ok()?;
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Some((Ipv4Addr::from_bits(address.to_bits() & mask), length))
}

fn prefix((address, length): (Ipv4Addr, u32), family: Family) -> String {
    match family {
        Family::V4 => format!("{address}/{length}"),
        Family::V6 if length == 0 => "::/0".to_owned(),
        Family::V6 => {
            let bits = 0x2001_0db8 << 96 | u128::from(address.to_bits()) << 64;
            format!("{}/{}", Ipv6Addr::from_bits(bits), 32 + length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_rules::headers::PolicyTime;
    use bulkhead_rules::oracle;
    use bulkhead_rules::packet::Packet;
    use bulkhead_rules::policy::{Policy, RuleId};

    const SET: &str = "\
@10.1.0.0/16\t192.0.2.1/32\t53 : 53\t1024 : 65535\t0x11/0xFF\t0x0000/0x0000\t
@0.0.0.0/0\t192.0.2.0/24\t0 : 65535\t80 : 80\t0x06/0xFF\t0x1000/0x1000\t
@10.1.2.3/8\t0.0.0.0/0\t0 : 65535\t0 : 65535\t0x2f/0xFF\t0x0000/0x0000\t
@10.9.0.0/16\t0.0.0.0/0\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0000/0x0000\t
";

    #[test]
    fn a_rule_means_in_the_policy_what_it_means_in_the_set() {
        for (family, packets) in [
            (
                Family::V4,
                [
                    ("udp 10.1.200.1:53 -> 192.0.2.1:1024", Some(0)),
                    ("udp 10.1.200.1:54 -> 192.0.2.1:1024", None),
                    ("tcp 198.51.100.1 -> 192.0.2.255:80", Some(1)),
                    ("ip/47 10.255.0.1 -> 198.51.100.1", Some(2)),
                    ("icmp 10.9.0.1 -> 198.51.100.1", Some(3)),
                ],
            ),
            (
                Family::V6,
                [
                    ("udp [2001:db8:a01:c801::1]:53 -> [2001:db8:c000:201::1]:1024", Some(0)),
                    ("udp [2001:db8:a01:c801::1]:54 -> [2001:db8:c000:201::1]:1024", None),
                    ("tcp fd00::1 -> [2001:db8:c000:2ff::1]:80", Some(1)),
                    ("ip/47 2001:db8:aff::1 -> fd00::1", Some(2)),
                    ("icmp 2001:db8:a09::1 -> fd00::1", Some(3)),
                ],
            ),
        ] {
            let policy = Policy::parse(&policy_text(SET, family).unwrap()).unwrap();
            let at = PolicyTime { unix_ms: 0, synchronised: true };
            for (words, rule) in packets {
                let headers = Packet::read(words).unwrap().headers;
                let expected = rule.map_or(RuleId::DEFAULT, RuleId);
                assert_eq!(oracle::classify(&policy, &headers, at), expected, "{words}");
            }
        }
    }

    #[test]
    fn a_line_that_is_no_rule_is_named() {
        assert_eq!(
            policy_text("@10.0.0.0/8 x", Family::V4).unwrap_err(),
            "line 1: `@10.0.0.0/8 x`"
        );
    }
}
