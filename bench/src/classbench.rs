//! ClassBench rule sets (Taylor and Turner, 2007) to policy text.
//!
//! One rule a line, the first match wins:
//! `@src/len dst/len sport : sport dport : dport protocol/mask flags/mask`. Prefixes, port ranges
//! and the protocol become a rule's `from`, `to` and `service`; the TCP flags have no counterpart
//! and are left out. Policies have no port 0: a range that starts there starts at 1, and a rule on
//! port 0 alone is left out. Actions alternate between allow and deny.
//!
//! There are no such sets for IPv6. Ours have the same structure over the whole of the space: see
//! [`spread`].

use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use flate2::read::GzDecoder;

pub use crate::five_tuples::Family;
use crate::random::mix;

/// The text of a file that may be compressed with gzip.
///
/// # Errors
///
/// Where the file cannot be read or is no text.
pub fn read(path: &Path) -> io::Result<String> {
    let bytes = std::fs::read(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return String::from_utf8(bytes).map_err(io::Error::other);
    }
    let mut text = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut text)?;
    Ok(text)
}

/// The policy of a rule set. For [`Family::V6`] its prefixes are [`spread`].
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
        let Some(service) = rule.service() else { continue };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  - {{name: r{}, from: \"{from}\", to: \"{to}\", service: {service}, action: {action}}}",
            index + 1,
        );
    }
    Ok(out)
}

/// The IPv6 prefix that stands for an IPv4 prefix. 0.0.0.0/0 is ::/0; a longer one, of n bits, has
/// 16 + 3.5 n: one fixed half of a group, then each bit of the address followed by two or three that
/// depend on the bits before it. So order and containment are kept (children are inside of
/// their parents, siblings disjoint), lengths are spread over /19 to /128, and no run of bits is
/// the same in all addresses but the first 16.
pub fn spread(address: u32, len: u32) -> (u128, u32) {
    const SEED: u64 = 0x6275_6c6b_6865_6164;
    let mut out = 0x2a0c_u128;
    for bit in 0..len {
        let before = address.checked_shr(32 - bit).unwrap_or(0);
        let own = address >> (31 - bit) & 1;
        let more = 2 + bit % 2;
        let noise = mix(SEED ^ u64::from(bit) << 40 ^ u64::from(before) << 1 ^ u64::from(own));
        let noise = u128::from(noise) & ((1 << more) - 1);
        out = (out << 1 | u128::from(own)) << more | noise;
    }
    match 16 + 7 * len / 2 {
        16 => (0, 0),
        bits => (out << (128 - bits), bits),
    }
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

    /// [`None`] for one on port 0 alone.
    fn service(&self) -> Option<String> {
        let name = match self.protocol {
            None => return Some("any".to_owned()),
            Some(6) => "tcp",
            Some(17) => "udp",
            Some(number) => return Some(format!("ip/{number}")),
        };
        if self.src_ports.1 == 0 || self.dst_ports.1 == 0 {
            return None;
        }
        let ports = |(low, high): (u16, u16)| match (low.max(1), high) {
            (1, u16::MAX) => "any".to_owned(),
            (low, high) if low == high => low.to_string(),
            (low, high) => format!("{low}-{high}"),
        };
        Some(format!("{{{name}: {}, from-port: {}}}", ports(self.dst_ports), ports(self.src_ports)))
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
        Family::V6 => {
            let (bits, length) = spread(address.to_bits(), length);
            format!("{}/{length}", Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use bulkhead_rules::headers::{ETHER_IPV6, PolicyTime};
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
        let packets = [
            ("udp 10.1.200.1:53 -> 192.0.2.1:1024", Some(0)),
            ("udp 10.1.200.1:54 -> 192.0.2.1:1024", None),
            ("tcp 198.51.100.1 -> 192.0.2.255:80", Some(1)),
            ("ip/47 10.255.0.1 -> 198.51.100.1", Some(2)),
            ("icmp 10.9.0.1 -> 198.51.100.1", Some(3)),
        ];
        for family in [Family::V4, Family::V6] {
            let policy = Policy::parse(&policy_text(SET, family).unwrap()).unwrap();
            let at = PolicyTime { unix_ms: 0, synchronised: true };
            for (words, rule) in packets {
                let mut headers = Packet::read(words).unwrap().headers;
                if family == Family::V6 {
                    headers.ether_type = ETHER_IPV6;
                    (headers.src, headers.dst) =
                        (spread(headers.src as u32, 32).0, spread(headers.dst as u32, 32).0);
                }
                let expected = rule.map_or(RuleId::DEFAULT, RuleId);
                assert_eq!(oracle::classify(&policy, &headers, at), expected, "{words}");
            }
        }
    }

    #[test]
    fn spreading_keeps_order_and_containment() {
        let mut random = Random::new(1);
        let mut lengths = [0_u32; 129];
        for _ in 0..10_000 {
            // Two prefixes that often have a part in common.
            let shared = random.below(33) as u32;
            let mask = u32::MAX.checked_shl(32 - shared).unwrap_or(0);
            let a = random.bits() as u32;
            let b = a & mask | random.bits() as u32 & !mask;
            let (m, n) = (random.below(33) as u32, random.below(33) as u32);
            let v4 = |len| Family::V4.mask(len as u8) as u32;
            let (a, b) = (a & v4(m), b & v4(n));
            let ((a6, m6), (b6, n6)) = (spread(a, m), spread(b, n));
            lengths[m6 as usize] += 1;
            let contains = m <= n && b & v4(m) == a;
            assert_eq!(contains, m6 <= n6 && b6 & Family::V6.mask(m6 as u8) == a6);
            assert_eq!(a6 & !Family::V6.mask(m6 as u8), 0, "no bits beyond the length");
            if m > 0 && n > 0 {
                assert_eq!(a.cmp(&b).is_lt() && !contains, a6.cmp(&b6).is_lt() && !contains);
            }
        }
        assert_eq!(lengths.iter().filter(|&&count| count > 0).count(), 33);
        assert!(lengths[0] > 0 && lengths[19] > 0 && lengths[128] > 0);
    }

    #[test]
    fn port_0_is_left_out() {
        let set = "@10.0.0.0/8 0.0.0.0/0 0 : 65535 0 : 0 0x06/0xFF\n\
                   @10.0.0.0/8 0.0.0.0/0 0 : 9 0 : 65535 0x11/0xFF\n";
        let text = policy_text(set, Family::V4).unwrap();
        assert!(text.contains("service: {udp: any, from-port: 1-9}"), "{text}");
        assert_eq!(text.matches("name:").count(), 1, "{text}");
    }

    #[test]
    fn a_line_that_is_no_rule_is_named() {
        assert_eq!(
            policy_text("@10.0.0.0/8 x", Family::V4).unwrap_err(),
            "line 1: `@10.0.0.0/8 x`"
        );
    }
}
