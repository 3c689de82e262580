//! A policy as five-tuples in the order in which they decide: what other engines can load.

use std::fmt;

use bulkhead_dpdk::{AclKey, AclRule};
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers};
use bulkhead_rules::policy::{Endpoint, Policy, Rule, RuleId, ServiceTerm};
use bulkhead_rules::sets::FiniteSet;

/// The address family of five-tuples: every engine but ours takes one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The EtherType of its packets.
    pub fn ether_type(self) -> u16 {
        match self {
            Self::V4 => ETHER_IPV4,
            Self::V6 => ETHER_IPV6,
        }
    }

    /// Bits of an address.
    pub fn width(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The mask of a prefix; IPv4 addresses are in the low 32 bits.
    pub fn mask(self, len: u8) -> u128 {
        let all = u128::MAX >> (128 - self.width());
        match len {
            0 => 0,
            len => all & !(all.checked_shr(len.into()).unwrap_or(0)),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

/// One of the five-tuples that a rule multiplies out to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FiveTuple {
    /// The five conditions.
    pub tuple: AclRule,
    /// The rule that it comes from.
    pub rule: RuleId,
}

impl FiveTuple {
    /// Whether the packet, which is of the family, meets all five conditions.
    pub fn matches(&self, family: Family, key: &AclKey) -> bool {
        let within =
            |(prefix, len): (u128, u8), address: u128| address & family.mask(len) == prefix;
        let between = |(low, high): (u16, u16), port: u16| low <= port && port <= high;
        let AclRule { src, dst, src_ports, dst_ports, protocol } = self.tuple;
        within(src, key.src)
            && within(dst, key.dst)
            && between(src_ports, key.src_port)
            && between(dst_ports, key.dst_port)
            && protocol.is_none_or(|protocol| protocol == key.protocol)
    }
}

/// Why a policy has no form in five-tuples.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inexpressible {
    /// The rule tests something else.
    Rule(String),
    /// More would be needed than are allowed.
    TooMany {
        /// How many.
        needed: u64,
        /// How many are allowed.
        limit: u64,
    },
}

impl fmt::Display for Inexpressible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(name) => write!(f, "rule {name} tests more than a five-tuple"),
            Self::TooMany { needed, limit } => {
                write!(f, "{needed} five-tuples; at most {limit} are tried")
            }
        }
    }
}

/// The key of a packet.
pub fn key(headers: &Headers) -> AclKey {
    AclKey {
        src: headers.src,
        dst: headers.dst,
        src_port: headers.src_port,
        dst_port: headers.dst_port,
        protocol: headers.protocol,
    }
}

/// Multiplies the rules of a policy out, those of one family.
///
/// # Errors
///
/// Where a rule tests what a five-tuple does not have, or more than `limit` would be needed.
pub fn expand(
    policy: &Policy,
    family: Family,
    limit: u64,
) -> Result<Vec<FiveTuple>, Inexpressible> {
    let mut sides = Vec::new();
    for endpoint in policy.endpoints() {
        sides.push(prefixes(endpoint, family));
    }
    let mut services = Vec::new();
    for service in policy.services() {
        services
            .push(service.terms.iter().map(|term| terms(term, family)).collect::<Option<Vec<_>>>());
    }
    let mut needed = 0;
    let mut out = Vec::new();
    for (index, rule) in policy.rules().iter().enumerate() {
        let inexpressible = || Inexpressible::Rule(rule.name.to_string());
        let (from, to) = (&sides[rule.from.0 as usize], &sides[rule.to.0 as usize]);
        let (Some(from), Some(to)) = (from, to) else { return Err(inexpressible()) };
        let Some(terms) = &services[rule.service.0 as usize] else { return Err(inexpressible()) };
        let terms: Vec<Term> = terms.iter().flatten().copied().collect();
        if !is_plain(rule) {
            return Err(inexpressible());
        }
        let ways = 1 + u64::from(rule.between);
        needed += from.len() as u64 * to.len() as u64 * terms.len() as u64 * ways;
        if needed > limit {
            continue;
        }
        let directions = [(from, to), (to, from)];
        for (from, to) in &directions[..ways as usize] {
            for &src in *from {
                for &dst in *to {
                    out.extend(terms.iter().map(|&(protocol, src_ports, dst_ports)| FiveTuple {
                        tuple: AclRule { src, dst, src_ports, dst_ports, protocol },
                        rule: RuleId(index as u32),
                    }));
                }
            }
        }
    }
    if needed > limit { Err(Inexpressible::TooMany { needed, limit }) } else { Ok(out) }
}

/// The prefixes that a range of addresses falls into, ascending: at most twice the width.
pub fn range_prefixes(family: Family, low: u128, high: u128, out: &mut Vec<(u128, u8)>) {
    let width = u32::from(family.width());
    let mut next = low;
    loop {
        // The largest block that starts here and does not reach beyond the end.
        let mut bits = next.trailing_zeros().min(width);
        while bits > 0 && (u128::MAX >> (128 - bits)) > high - next {
            bits -= 1;
        }
        out.push((next, (width - bits) as u8));
        let last = next + if bits == 0 { 0 } else { u128::MAX >> (128 - bits) };
        if last >= high {
            return;
        }
        next = last + 1;
    }
}

type Term = (Option<u8>, (u16, u16), (u16, u16));

fn is_plain(rule: &Rule) -> bool {
    rule.vlans.is_any() && rule.wires.is_any() && rule.starts.is_none() && rule.expires.is_none()
}

/// The prefixes of one side; [`None`] where it tests more than addresses.
fn prefixes(endpoint: &Endpoint, family: Family) -> Option<Vec<(u128, u8)>> {
    let mut out = Vec::new();
    for one in endpoint.boxes.iter() {
        if !one.is_plain() {
            return None;
        }
        let addrs = &one.addrs;
        match family {
            Family::V4 => addrs.v4.ranges().iter().for_each(|&(low, high)| {
                range_prefixes(family, low.into(), high.into(), &mut out);
            }),
            Family::V6 => addrs.v6.ranges().iter().for_each(|&(low, high)| {
                range_prefixes(family, low, high, &mut out);
            }),
        }
    }
    Some(out)
}

/// The protocols and ports of one alternative of a service, none where it is about another family;
/// [`None`] where there is no such form.
fn terms(term: &ServiceTerm, family: Family) -> Option<Vec<Term>> {
    if !term.ether_types.contains(family.ether_type()) {
        return Some(Vec::new());
    }
    let protocols: Vec<Option<u8>> = match &term.protocols {
        FiniteSet::Only(protocols) => protocols.iter().copied().map(Some).collect(),
        FiniteSet::AllBut(none) if none.is_empty() => vec![None],
        FiniteSet::AllBut(_) => return None,
    };
    let mut out = Vec::new();
    for protocol in protocols {
        for &src in term.src_ports.ranges() {
            out.extend(term.dst_ports.ranges().iter().map(|&dst| (protocol, src, dst)));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_rules::analyze::Probes;
    use bulkhead_rules::headers::PolicyTime;
    use bulkhead_rules::oracle;

    #[test]
    fn ranges_fall_into_prefixes() {
        let prefixes = |low, high| {
            let mut out = Vec::new();
            range_prefixes(Family::V4, low, high, &mut out);
            out
        };
        assert_eq!(prefixes(0, 0xffff_ffff), [(0, 0)]);
        assert_eq!(prefixes(7, 7), [(7, 32)]);
        assert_eq!(prefixes(1, 6), [(1, 32), (2, 31), (4, 31), (6, 32)]);
        assert_eq!(prefixes(0xffff_fffe, 0xffff_ffff), [(0xffff_fffe, 31)]);
        let mut out = Vec::new();
        range_prefixes(Family::V6, 0, u128::MAX, &mut out);
        assert_eq!(out, [(0, 0)]);
    }

    const POLICY: &str = "
version: 1
groups:
  a: [10.0.0.1-10.0.0.6, \"fd00::/16\"]
  b: {in: [10.0.0.0/8, \"fd00::7\"], except: 10.0.0.4/31}
rules:
  - {name: one, between: [a, b], service: [tcp/80-90, icmp/8, {udp: 53, from-port: 53}], action: allow}
  - {name: two, from: any, to: a, service: ip/47, action: deny}
  - {name: three, from: b, to: any, service: any, action: reject}
";

    #[test]
    fn five_tuples_decide_as_the_policy_does() {
        let policy = Policy::parse(POLICY).unwrap();
        let at = PolicyTime { unix_ms: 0, synchronised: true };
        for family in [Family::V4, Family::V6] {
            let tuples = expand(&policy, family, 10_000).unwrap();
            let mut matched = 0;
            let mut probes = Probes::new(&policy, 1);
            for _ in 0..20_000 {
                let headers = probes.headers().normalised();
                if headers.ether_type != family.ether_type() {
                    continue;
                }
                let found = tuples.iter().find(|tuple| tuple.matches(family, &key(&headers)));
                let found = found.map_or(RuleId::DEFAULT, |tuple| tuple.rule);
                assert_eq!(found, oracle::classify(&policy, &headers, at), "{headers:?}");
                matched += u32::from(found != RuleId::DEFAULT);
            }
            assert!(matched > 1_000, "{family}: {matched}");
        }
    }

    #[test]
    fn what_has_no_form_is_said() {
        let policy = Policy::parse(POLICY).unwrap();
        let needed = expand(&policy, Family::V4, 1).unwrap_err();
        assert!(matches!(needed, Inexpressible::TooMany { needed: 2.., limit: 1 }), "{needed}");
        let text = POLICY.replace("10.0.0.1-10.0.0.6", "\"02:00:00:00:00:01\"");
        let policy = Policy::parse(&text).unwrap();
        let refused = expand(&policy, Family::V4, 10_000).unwrap_err();
        assert_eq!(refused, Inexpressible::Rule("one".to_owned()));
    }
}
