//! Segmentation policies: groups × groups × services over many addresses, as an operator's file.
//!
//! Hosts live in subnets of about a hundred. Each is named in one to [`Shape::memberships`] groups:
//! one that it shares with its neighbours (the tier of an application), the others anywhere (what
//! backs it up, what monitors it, which system it runs). Some groups hold groups, up to
//! [`Shape::nesting`] levels. Rules join groups by services from a pool of a few hundred; a few have
//! a wide side. Everything follows from the seed.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, protocol};
use bulkhead_rules::policy::{Action, Endpoint, Policy, ServiceTerm};
use bulkhead_rules::sets::FiniteSet;

use crate::random::Random;

/// Which addresses the hosts have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Every other host of a group has an IPv6 address, the rest IPv4.
    Mixed,
}

/// How large a policy is, and of what kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Groups, of every level together.
    pub groups: usize,
    /// Addresses; at least as many as groups.
    pub addresses: usize,
    /// Rules.
    pub rules: usize,
    /// In how many groups an address is at most: 1 or 6. With 6 the mean is 3.
    pub memberships: usize,
    /// Whether that counts the groups that name the address, and the groups that hold those come on
    /// top (9 in the mean, up to 50); otherwise it is all groups that the address is in.
    pub nesting_on_top: bool,
    /// Levels of groups: 1 is groups of addresses only, at most 4.
    pub nesting: usize,
    /// How many of a hundred rules have a wide side: any, or a group of the highest level.
    pub wide_percent: u32,
    /// Whether rules name only services of one protocol and one range of ports.
    pub plain_services: bool,
    /// Which addresses the hosts have.
    pub families: Families,
}

impl Shape {
    /// A large data centre: 10,000 groups over 100,000 addresses in 200,000 rules.
    pub const fn large(families: Families) -> Self {
        Self {
            groups: 10_000,
            addresses: 100_000,
            rules: 200_000,
            memberships: 6,
            nesting_on_top: true,
            nesting: 4,
            wide_percent: 5,
            plain_services: false,
            families,
        }
    }

    /// The same size, but groups of every level are counted among the 1 to 6 of an address.
    pub const fn large_counted(families: Families) -> Self {
        Self { nesting_on_top: false, ..Self::large(families) }
    }

    /// What engines of five-tuples can still load: 60 groups of 20 hosts in 250 rules are 100,000
    /// five-tuples when multiplied out.
    pub const fn expandable(families: Families) -> Self {
        Self {
            groups: 60,
            addresses: 1_200,
            rules: 250,
            memberships: 1,
            nesting_on_top: false,
            nesting: 1,
            wide_percent: 0,
            plain_services: true,
            families,
        }
    }
}

/// The policy's text.
///
/// # Panics
///
/// Where the shape has fewer addresses than groups, or no groups.
pub fn text(seed: u64, shape: &Shape) -> String {
    let mut random = Random::new(seed);
    let levels = levels(shape);
    assert!(shape.addresses >= levels[0] && levels[0] > 0, "{shape:?}");
    let mut out = String::from("version: 1\ndefault: deny\n");
    services(&mut out);
    let groups = groups(shape, &levels, &mut random);
    out.push_str("groups:\n");
    for (group, members) in groups.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {}: [{}]", group_name(&levels, group), members.join(", "));
    }
    rules(&mut out, shape, &levels, &mut random);
    out
}

/// Headers for a policy, in uniformly random order: half are permitted by a rule (unless an earlier
/// one denies them), the others go between random members of the policy, a tenth of those from or
/// to strangers.
///
/// # Panics
///
/// Where the policy has no allow rule about IP addresses.
pub fn headers(policy: &Policy, seed: u64, count: usize) -> Vec<Headers> {
    let mut random = Random::new(seed);
    let members = Members::of(policy);
    let allows: Vec<usize> = (0..policy.rules().len())
        .filter(|&rule| policy.rules()[rule].action == Action::Allow)
        .collect();
    assert!(!allows.is_empty(), "a policy without an allow rule");
    let services: Vec<usize> = policy.rules().iter().map(|rule| rule.service.0 as usize).collect();
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let permitted = random.below(2) == 0;
        let drawn = if permitted {
            let rule = &policy.rules()[*random.pick(&allows)];
            let (from, to) = (policy.endpoint(rule.from), policy.endpoint(rule.to));
            members.permitted(from, to, rule.service.0 as usize, policy, &mut random)
        } else {
            let service = *random.pick(&services);
            Some(members.between_any(service, policy, &mut random))
        };
        out.extend(drawn);
    }
    out
}

/// How many groups each level has, the lowest first.
fn levels(shape: &Shape) -> [usize; 4] {
    // Of a thousand groups.
    const SHARES: [usize; 4] = [0, 110, 24, 6];
    let mut levels = [0; 4];
    for level in 1..shape.nesting.min(4) {
        levels[level] = (shape.groups * SHARES[level] / 1000).max(1);
    }
    levels[0] = shape.groups.saturating_sub(levels.iter().sum());
    levels
}

/// Applications' tiers are `t…`, what holds them `a…`, `z…` and `s…` (application, zone, site).
fn group_name(levels: &[usize; 4], mut group: usize) -> String {
    for (letter, count) in ["tier", "app", "zone", "site"].iter().zip(levels) {
        if group < *count {
            return format!("{letter}-{group}");
        }
        group -= count;
    }
    unreachable!("a group of the {levels:?}")
}

/// The members of each group as they are written, the lowest level first.
fn groups(shape: &Shape, levels: &[usize; 4], random: &mut Random) -> Vec<Vec<String>> {
    let holders = holders(shape, levels, random);
    // In how many groups a member of a lowest group is through it.
    let depth = |tier: usize| {
        std::iter::successors(Some(tier), |&group| holders[group].first().copied()).count()
    };
    let mut members = vec![Vec::new(); levels[0]];
    for (host, address) in addresses(shape, random).into_iter().enumerate() {
        // The tier that it shares with its neighbours; then others.
        let mut named = vec![host * levels[0] / shape.addresses];
        let wanted = memberships(shape, random);
        let mut in_all = if shape.nesting_on_top { 1 } else { depth(named[0]) };
        for _ in 1..wanted.min(levels[0]) {
            let other = random.below(levels[0]);
            let more = if shape.nesting_on_top { 1 } else { depth(other) };
            if !named.contains(&other) && in_all + more <= wanted {
                named.push(other);
                in_all += more;
            }
        }
        for group in named {
            members[group].push(address.clone());
        }
    }
    members.resize(levels.iter().sum(), Vec::new());
    for (group, holders) in holders.iter().enumerate() {
        for &holder in holders {
            members[holder].push(group_name(levels, group));
        }
    }
    members
}

/// The groups that hold each group; one at most where they count.
fn holders(shape: &Shape, levels: &[usize; 4], random: &mut Random) -> Vec<Vec<usize>> {
    let mut holders = vec![Vec::new(); levels.iter().sum()];
    let mut below = 0;
    for level in 1..4 {
        let first = below + levels[level - 1];
        // Where each group is held once at most, they are dealt from a shuffled deck.
        let mut deck: Vec<usize> = (below..first).collect();
        random.shuffle(&mut deck);
        for group in first..first + levels[level] {
            let held: Vec<usize> = if shape.nesting_on_top {
                let count = 3 + random.below(if level == 1 { 6 } else { 4 });
                (0..count).map(|_| below + random.below(levels[level - 1])).collect()
            } else {
                let count = if level == 1 { 1 + random.below(2) } else { 3 + random.below(2) };
                // No group is empty: the last of the deck is held twice rather than not at all.
                (0..count)
                    .filter_map(|_| if deck.len() > 1 { deck.pop() } else { deck.first().copied() })
                    .collect()
            };
            for held in held {
                if !holders[held].contains(&group) {
                    holders[held].push(group);
                }
            }
        }
        below = first;
    }
    holders
}

/// In how many groups a host is to be: 1 to 6, 3 in the mean.
fn memberships(shape: &Shape, random: &mut Random) -> usize {
    if shape.memberships == 1 {
        return 1;
    }
    let at = random.below(100);
    1 + [15, 40, 65, 85, 95].iter().filter(|&&up_to| at >= up_to).count()
}

/// Distinct addresses; neighbours are in one subnet.
fn addresses(shape: &Shape, random: &mut Random) -> Vec<String> {
    const HOSTS_PER_SUBNET: usize = 100;
    let subnets = shape.addresses.div_ceil(HOSTS_PER_SUBNET);
    // Some of the 65,536 subnets of 10.0.0.0/8, in an order of no meaning.
    let mut numbers: Vec<u16> = (0..=u16::MAX).collect();
    random.shuffle(&mut numbers);
    let mut out = Vec::with_capacity(shape.addresses);
    for subnet in numbers.into_iter().take(subnets) {
        let mut hosts: Vec<u8> = (1..=254).collect();
        random.shuffle(&mut hosts);
        for host in hosts.into_iter().take(HOSTS_PER_SUBNET.min(shape.addresses - out.len())) {
            let v4 = 10 << 24 | u32::from(subnet) << 8 | u32::from(host);
            let v6 = match shape.families {
                Families::V4 => false,
                Families::V6 => true,
                Families::Mixed => out.len() % 2 == 1,
            };
            out.push(if v6 { quoted(v6_address(subnet, host, random)) } else { plain(v4) });
        }
    }
    out
}

fn plain(address: u32) -> String {
    Ipv4Addr::from_bits(address).to_string()
}

/// A unique local address (RFC 4193): 256 sites of a /48 with 256 subnets of a /64 each. Half of
/// the hosts are numbered by hand, half have interface identifiers without meaning (RFC 8064).
fn v6_address(subnet: u16, host: u8, random: &mut Random) -> u128 {
    let site = 0xfd5e_9a00_0000_u128 | u128::from(subnet >> 8);
    let identifier = if host % 2 == 0 { u64::from(host) } else { random.bits() };
    site << 80 | u128::from(subnet & 0xff) << 64 | u128::from(identifier)
}

fn quoted(address: u128) -> String {
    format!("\"{}\"", Ipv6Addr::from_bits(address))
}

/// What the rules of such policies are about, as name and value.
const SERVICES: [(&str, &str); 64] = [
    ("ssh", "tcp/22"),
    ("telnet", "tcp/23"),
    ("smtp", "[tcp/25, tcp/587]"),
    ("dns", "[udp/53, tcp/53]"),
    ("dhcp", "udp/67-68"),
    ("tftp", "udp/69"),
    ("http", "tcp/80"),
    ("kerberos", "[tcp/88, udp/88, tcp/464, udp/464]"),
    ("ntp", "udp/123"),
    ("rpc", "[tcp/135, tcp/49152-65535]"),
    ("netbios", "[udp/137-138, tcp/139]"),
    ("imap", "[tcp/143, tcp/993]"),
    ("snmp", "udp/161"),
    ("snmp-trap", "udp/162"),
    ("ldap", "[tcp/389, udp/389, tcp/636]"),
    ("https", "tcp/443"),
    ("smb", "tcp/445"),
    ("ipsec", "[udp/500, udp/4500, ip/50]"),
    ("syslog", "[udp/514, tcp/6514]"),
    ("rtsp", "tcp/554"),
    ("modbus", "tcp/502"),
    ("rsync", "tcp/873"),
    ("ftp", "[tcp/20-21, tcp/30000-30999]"),
    ("s7", "tcp/102"),
    ("dicom", "[tcp/104, tcp/11112]"),
    ("hl7", "tcp/2575-2579"),
    ("mssql", "[tcp/1433, udp/1434]"),
    ("oracle", "tcp/1521-1526"),
    ("radius", "udp/1812-1813"),
    ("mqtt", "[tcp/1883, tcp/8883]"),
    ("nfs", "[tcp/2049, udp/2049, tcp/111, udp/111]"),
    ("etcd", "tcp/2379-2380"),
    ("zookeeper", "tcp/2181"),
    ("iscsi", "tcp/3260"),
    ("global-catalog", "tcp/3268-3269"),
    ("mysql", "tcp/3306"),
    ("rdp", "[tcp/3389, udp/3389]"),
    ("opc-ua", "tcp/4840"),
    ("vxlan", "udp/4789"),
    ("sip", "[udp/5060, tcp/5060-5061]"),
    ("rtp", "udp/16384-32767"),
    ("postgres", "tcp/5432"),
    ("amqp", "tcp/5671-5672"),
    ("vnc", "tcp/5900-5909"),
    ("winrm", "tcp/5985-5986"),
    ("x11", "tcp/6000-6063"),
    ("redis", "[tcp/6379, tcp/16379]"),
    ("kube-api", "tcp/6443"),
    ("cassandra", "[tcp/7000-7001, tcp/9042]"),
    ("http-alternative", "[tcp/8000, tcp/8080, tcp/8443]"),
    ("backup", "tcp/9102-9103"),
    ("node-metrics", "tcp/9100"),
    ("kafka", "tcp/9092-9094"),
    ("elastic", "[tcp/9200, tcp/9300]"),
    ("printing", "[tcp/515, tcp/631, tcp/9100]"),
    ("kubelet", "tcp/10250"),
    ("zabbix", "tcp/10050-10051"),
    ("memcached", "[tcp/11211, udp/11211]"),
    ("dnp3", "[tcp/20000, udp/20000]"),
    ("ethernet-ip", "[tcp/44818, udp/2222]"),
    ("bacnet", "udp/47808"),
    ("mongodb", "tcp/27017-27019"),
    ("ping", "[icmp/echo-request, icmpv6/echo-request]"),
    ("gre", "ip/47"),
];

/// Services of the site's own applications: one port each, or a few in a row.
const OWN_SERVICES: usize = 136;

fn services(out: &mut String) {
    out.push_str("services:\n");
    for (name, value) in SERVICES {
        let _ = writeln!(out, "  {name}: {value}");
    }
    for own in 0..OWN_SERVICES {
        let port = 7100 + 97 * own;
        let _ = match own % 4 {
            0 => writeln!(out, "  own-{own}: tcp/{port}-{}", port + own % 13 + 1),
            1 => writeln!(out, "  own-{own}: udp/{port}"),
            _ => writeln!(out, "  own-{own}: tcp/{port}"),
        };
    }
}

fn rules(out: &mut String, shape: &Shape, levels: &[usize; 4], random: &mut Random) {
    out.push_str("rules:\n");
    let total: usize = levels.iter().sum();
    let highest = levels.iter().rposition(|&count| count > 0).unwrap_or(0);
    let narrow = if highest == 0 { total } else { total - levels[highest] };
    for rule in 0..shape.rules {
        let mut sides =
            [random.below(narrow), random.below(narrow)].map(|group| group_name(levels, group));
        if random.percent(shape.wide_percent) {
            sides[random.below(2)] = if narrow == total || random.below(2) == 0 {
                "any".to_owned()
            } else {
                group_name(levels, narrow + random.below(total - narrow))
            };
        }
        let [from, to] = sides;
        let service = service(shape, random);
        let action = match random.below(100) {
            0..85 => "allow",
            85..95 => "deny",
            _ => "reject",
        };
        let _ = writeln!(
            out,
            "  - {{name: r{}, from: {from}, to: {to}, service: {service}, action: {action}}}",
            rule + 1,
        );
    }
}

/// Half of the rules name one of twenty, the others any of the pool.
fn service(shape: &Shape, random: &mut Random) -> String {
    let total = SERVICES.len() + OWN_SERVICES;
    loop {
        let index = if random.below(2) == 0 { random.below(20) * 3 } else { random.below(total) };
        match SERVICES.get(index) {
            Some((_, value)) if shape.plain_services && value.starts_with('[') => {}
            Some((name, _)) => return (*name).to_owned(),
            None => return format!("own-{}", index - SERVICES.len()),
        }
    }
}

/// Every host that the policy names.
struct Members {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Members {
    fn of(policy: &Policy) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for b in policy.endpoints().iter().flat_map(|endpoint| endpoint.boxes.iter()) {
            if !b.addrs.is_any() {
                v4.extend_from_slice(b.addrs.v4.ranges());
                v6.extend_from_slice(b.addrs.v6.ranges());
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self { v4, v6 }
    }

    /// A packet from one side to the other; [`None`] where the sides have no family in common, or
    /// the service is not about it.
    fn permitted(
        &self,
        from: &Endpoint,
        to: &Endpoint,
        service: usize,
        policy: &Policy,
        random: &mut Random,
    ) -> Option<Headers> {
        let term = random.pick(&policy.services()[service].terms);
        let ether_type = self.family(term, random);
        let (src, dst) = match ether_type {
            ETHER_IPV4 => (self.v4_of(from, random)?.into(), self.v4_of(to, random)?.into()),
            _ => (self.v6_of(from, random)?, self.v6_of(to, random)?),
        };
        Some(packet(ether_type, src, dst, term, random))
    }

    /// A packet between two members, or a member and a stranger.
    fn between_any(&self, service: usize, policy: &Policy, random: &mut Random) -> Headers {
        let term = random.pick(&policy.services()[service].terms);
        let ether_type = self.family(term, random);
        let mut ends = [(); 2].map(|()| match ether_type {
            ETHER_IPV4 => v4_in(random.pick(&self.v4), random).into(),
            _ => v6_in(random.pick(&self.v6), random),
        });
        if random.below(10) == 0 {
            let stranger = random.bits128();
            ends[random.below(2)] =
                if ether_type == ETHER_IPV4 { stranger & 0xffff_ffff } else { stranger };
        }
        packet(ether_type, ends[0], ends[1], term, random)
    }

    /// The family of a packet: one that has members, and that the service is about if it can be.
    fn family(&self, term: &ServiceTerm, random: &mut Random) -> u16 {
        let either = [ETHER_IPV4, ETHER_IPV6][random.below(2)];
        match (self.v4.is_empty(), self.v6.is_empty()) {
            (false, true) => ETHER_IPV4,
            (true, false) => ETHER_IPV6,
            _ if term.ether_types.contains(either) => either,
            _ => either ^ ETHER_IPV4 ^ ETHER_IPV6,
        }
    }

    fn v4_of(&self, endpoint: &Endpoint, random: &mut Random) -> Option<u32> {
        let b = random.pick(&endpoint.boxes[..]);
        let ranges = if b.addrs.is_any() { &*self.v4 } else { b.addrs.v4.ranges() };
        (!ranges.is_empty()).then(|| v4_in(random.pick(ranges), random))
    }

    fn v6_of(&self, endpoint: &Endpoint, random: &mut Random) -> Option<u128> {
        let b = random.pick(&endpoint.boxes[..]);
        let ranges = if b.addrs.is_any() { &*self.v6 } else { b.addrs.v6.ranges() };
        (!ranges.is_empty()).then(|| v6_in(random.pick(ranges), random))
    }
}

fn v4_in(&(low, high): &(u32, u32), random: &mut Random) -> u32 {
    low + random.below((high - low) as usize + 1) as u32
}

fn v6_in(&(low, high): &(u128, u128), random: &mut Random) -> u128 {
    match (high - low).checked_add(1) {
        Some(size) => low + random.bits128() % size,
        None => random.bits128(),
    }
}

/// A packet of the service, from a port that stacks choose for themselves where it leaves that open.
fn packet(
    ether_type: u16,
    src: u128,
    dst: u128,
    term: &ServiceTerm,
    random: &mut Random,
) -> Headers {
    let protocol = match &term.protocols {
        FiniteSet::Only(protocols) if !protocols.is_empty() => *random.pick(protocols),
        _ => protocol::TCP,
    };
    let port = |ranges: &[(u16, u16)], random: &mut Random| {
        if ranges.is_empty() {
            return 0;
        }
        let &(low, high) = random.pick(ranges);
        random.within(low, high)
    };
    let src_port = match term.src_ports.is_full() {
        true => random.within(32_768, 60_999),
        false => port(term.src_ports.ranges(), random),
    };
    let dst_port = port(term.dst_ports.ranges(), random);
    Headers { src, dst, src_port, dst_port, ether_type, protocol, ..Headers::default() }
        .normalised()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_rules::headers::PolicyTime;
    use bulkhead_rules::oracle;
    use std::collections::HashMap;

    const AT: PolicyTime = PolicyTime { unix_ms: 0, synchronised: true };

    fn small(families: Families) -> Shape {
        Shape { groups: 300, addresses: 3_000, rules: 1_000, ..Shape::large(families) }
    }

    fn permitted(policy: &Policy, headers: &[Headers]) -> usize {
        let verdict = |h| policy.action(oracle::classify(policy, h, AT));
        headers.iter().filter(|h| verdict(h) == Action::Allow).count()
    }

    #[test]
    fn a_seed_means_one_policy_and_about_half_of_the_headers_are_permitted() {
        for families in [Families::V4, Families::V6, Families::Mixed] {
            let text_of = |seed| text(seed, &small(families));
            assert_eq!(text_of(1), text_of(1));
            assert_ne!(text_of(1), text_of(2));
            let policy = Policy::parse(&text_of(1)).unwrap();
            assert_eq!(policy.rules().len(), 1_000);
            let headers = headers(&policy, 1, 1_000);
            let types = |wanted| headers.iter().filter(|h| h.ether_type == wanted).count();
            let expected = match families {
                Families::V4 => 1_000..=1_000,
                Families::V6 => 0..=0,
                Families::Mixed => 350..=650,
            };
            assert!(expected.contains(&types(ETHER_IPV4)), "{families:?}");
            assert_eq!(types(ETHER_IPV4) + types(ETHER_IPV6), 1_000);
            let permitted = permitted(&policy, &headers);
            assert!((400..700).contains(&permitted), "{families:?}: {permitted}");
        }
    }

    #[test]
    fn addresses_are_named_in_one_to_six_groups_and_groups_nest() {
        let text = text(1, &small(Families::V4));
        let groups = text.lines().filter_map(|line| line.trim().split_once(": ["));
        let mut named: HashMap<&str, usize> = HashMap::new();
        let mut depths: HashMap<&str, usize> = HashMap::new();
        for (group, members) in groups.take_while(|(name, _)| !name.starts_with("- ")) {
            let members: Vec<&str> = members.trim_end_matches(']').split(", ").collect();
            if group.split('-').next().is_some_and(|kind| kind == "tier") {
                members.iter().for_each(|host| *named.entry(host).or_default() += 1);
                depths.insert(group, 1);
            } else if depths.contains_key(members[0]) {
                let depth = members.iter().map(|held| depths[held]).max().unwrap();
                depths.insert(group, depth + 1);
            }
        }
        assert_eq!((named.len(), depths.len()), (3_000, 300));
        assert_eq!(depths.values().max(), Some(&4));
        assert_eq!((named.values().min(), named.values().max()), (Some(&1), Some(&6)));
        let mean = named.values().sum::<usize>() as f64 / 3_000.0;
        assert!((2.8..3.1).contains(&mean), "{mean}");
    }

    #[test]
    fn counted_groups_are_one_to_six_in_all() {
        let shape =
            Shape { groups: 300, addresses: 3_000, rules: 1, ..Shape::large_counted(Families::V4) };
        let text = text(1, &shape);
        let groups = text.lines().filter_map(|line| line.trim().split_once(": ["));
        let mut holders: HashMap<&str, Vec<&str>> = HashMap::new();
        for (group, members) in groups.take_while(|(name, _)| !name.starts_with("- ")) {
            if ["tier", "app", "zone", "site"].contains(&group.split('-').next().unwrap()) {
                for member in members.trim_end_matches(']').split(", ") {
                    holders.entry(member).or_default().push(group);
                }
            }
        }
        let mut counts = Vec::new();
        for host in holders.keys().filter(|name| name.starts_with("10.")) {
            let mut all = holders[host].clone();
            let mut next = 0;
            while let Some(group) = all.get(next) {
                all.extend(holders.get(group).into_iter().flatten());
                next += 1;
            }
            counts.push(all.len());
        }
        assert_eq!((counts.len(), counts.iter().max()), (3_000, Some(&6)));
        let mean = counts.iter().sum::<usize>() as f64 / 3_000.0;
        assert!((2.6..3.4).contains(&mean), "{mean}");
    }

    #[test]
    fn the_expandable_shape_is_a_hundred_thousand_five_tuples() {
        let policy = Policy::parse(&text(1, &Shape::expandable(Families::V4))).unwrap();
        let hosts = |id| policy.endpoint(id).boxes[0].addrs.v4.ranges().iter();
        let size = |id| hosts(id).map(|(low, high)| (high - low + 1) as usize).sum::<usize>();
        let terms = |id| policy.service(id).terms.len();
        let tuples = policy.rules().iter().map(|r| size(r.from) * size(r.to) * terms(r.service));
        assert_eq!(tuples.sum::<usize>(), 100_000);
    }
}
