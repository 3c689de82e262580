//! Resolved endpoints against the language's definition, member by member, over a small world of
//! hosts: normal form, differences of boxes and sharing must not change what belongs.

use std::collections::HashMap;
use std::sync::Arc;

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags};
use bulkhead_rules::policy::{Endpoint, Limits, Policy, Rule};
use bulkhead_rules::syntax::document::{
    Addresses, Device, Document, Group, Member, Selector, Sides,
};
use bulkhead_rules::syntax::{Code, Source, parse_document};
use proptest::prelude::*;

/// Members as text; `{}` is replaced by a number.
fn member(groups: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        (0..16u8).prop_map(|host| format!("10.0.0.{host}")),
        (0..4u8).prop_map(|quarter| format!("10.0.0.{}/30", quarter * 4)),
        (0..8u8, 8..16u8).prop_map(|(first, last)| format!("10.0.0.{first}-10.0.0.{last}")),
        (0..4u8).prop_map(|host| format!("\"fd00::{host}\"")),
        (0..3u8).prop_map(|mac| format!("\"02:00:00:00:00:0{mac}\"")),
        (0..4u8).prop_map(|device| format!("d{device}")),
        Just("any".to_owned()),
        Just("any-ipv4".to_owned()),
        Just("broadcast".to_owned()),
        (0..groups.max(1)).prop_map(move |group| {
            if groups == 0 { "d0".to_owned() } else { format!("g{group}") }
        }),
    ]
}

fn selector(groups: usize) -> impl Strategy<Value = String> {
    let list = || prop::collection::vec(member(groups), 1..4).prop_map(|list| list.join(", "));
    prop_oneof![
        list().prop_map(|within| format!("[{within}]")),
        (list(), list())
            .prop_map(|(within, except)| { format!("{{in: [{within}], except: [{except}]}}") }),
    ]
}

fn device() -> impl Strategy<Value = String> {
    let macs = prop::sample::subsequence(vec![0, 1, 2], 0..3);
    let hosts = prop::collection::vec(0..16u8, 0..3);
    let vlan = prop::sample::select(&["", ", vlan: 7", ", vlan: untagged", ", vlan: [7, 8]"][..]);
    (macs, hosts, vlan).prop_map(|(macs, hosts, vlan)| {
        let macs: Vec<_> = macs.iter().map(|mac| format!("\"02:00:00:00:00:0{mac}\"")).collect();
        let hosts: Vec<_> = hosts.iter().map(|host| format!("10.0.0.{host}")).collect();
        match (macs.is_empty(), hosts.is_empty()) {
            (true, _) => {
                format!("{{ip: [10.0.0.3, {}]{vlan}}}", hosts.join(", ")).replace(", ]", "]")
            }
            (false, true) => format!("{{mac: [{}]{vlan}}}", macs.join(", ")),
            (false, false) => {
                format!("{{mac: [{}], ip: [{}]{vlan}}}", macs.join(", "), hosts.join(", "))
            }
        }
    })
}

fn policy() -> impl Strategy<Value = String> {
    let groups = (selector(0), selector(1), selector(2), selector(3));
    (prop::collection::vec(device(), 4), groups, selector(4), selector(4)).prop_map(
        |(devices, (a, b, c, d), from, to)| {
            let mut text = "version: 1\ndevices:\n".to_owned();
            for (number, device) in devices.iter().enumerate() {
                text += &format!("  d{number}: {device}\n");
            }
            text += &format!("groups:\n  g0: {a}\n  g1: {b}\n  g2: {c}\n  g3: {d}\n");
            text + &format!("rules:\n  - {{name: r, from: {from}, to: {to}, action: deny}}\n")
        },
    )
}

/// A host as one frame shows it.
#[derive(Clone, Copy, Debug)]
struct Host {
    ether_type: u16,
    addr: u128,
    mac: Mac,
    tags: VlanTags,
}

fn world() -> Vec<Host> {
    let v4 = (0..18u128).map(|host| (ETHER_IPV4, 0x0a00_0000 + host));
    let v6 = (0..5u128).map(|host| (ETHER_IPV6, (0xfd00 << 112) + host));
    let other = [(ETHER_IPV4, u128::from(u32::MAX)), (ETHER_IPV6, 0x0a00_0001), (0x8892, 0)];
    let tags = [
        VlanTags::UNTAGGED,
        VlanTags::single(7),
        VlanTags { outer: 7, inner: 8 },
        VlanTags::single(8),
    ];
    let macs = (0..4).map(|last| Mac([2, 0, 0, 0, 0, last])).chain([Mac([0xff; 6])]);
    let macs: Vec<Mac> = macs.collect();
    let mut hosts = Vec::new();
    for (ether_type, addr) in v4.chain(v6).chain(other) {
        for &mac in &macs {
            hosts.extend(tags.map(|tags| Host { ether_type, addr, mac, tags }));
        }
    }
    hosts
}

/// The language's definition, written as it is told in the reference.
struct Definition<'d> {
    devices: HashMap<&'d str, &'d Device>,
    groups: HashMap<&'d str, &'d Group>,
}

impl<'d> Definition<'d> {
    fn of(document: &'d Document) -> Self {
        let devices = document.devices.iter().map(|device| (&*device.name.value, device));
        let groups = document.groups.iter().map(|group| (&*group.name.value, group));
        Self { devices: devices.collect(), groups: groups.collect() }
    }

    fn selects(&self, selector: &Selector, host: Host) -> bool {
        let any = |members: &[_]| members.iter().any(|m| self.is_member(m, host));
        any(&selector.members) && !any(&selector.except)
    }

    fn is_member(
        &self,
        member: &bulkhead_rules::syntax::span::Spanned<Member>,
        host: Host,
    ) -> bool {
        match &member.value {
            Member::Mac(mac) => *mac == host.mac,
            Member::Addresses(addresses) => holds(*addresses, host),
            Member::Name(name) => match &**name {
                "any" => true,
                "any-ipv4" => host.ether_type == ETHER_IPV4,
                "broadcast" => {
                    let limited = host.ether_type == ETHER_IPV4 && host.addr as u32 == u32::MAX;
                    limited || host.mac == Mac([0xff; 6])
                }
                name => match self.devices.get(name) {
                    Some(device) => is_device(device, host),
                    None => self.selects(&self.groups[name].members, host),
                },
            },
        }
    }
}

fn is_device(device: &Device, host: Host) -> bool {
    let mac = device.macs.is_empty() || device.macs.iter().any(|mac| mac.value == host.mac);
    let is_ip = matches!(host.ether_type, ETHER_IPV4 | ETHER_IPV6);
    let address = if is_ip {
        device.addresses.is_empty() || device.addresses.iter().any(|a| holds(a.value, host))
    } else {
        !device.macs.is_empty()
    };
    let vlan = device.vlans.as_ref().is_none_or(|tags| tags.value.contains(&host.tags));
    mac && address && vlan
}

fn holds(addresses: Addresses, host: Host) -> bool {
    let (first, last) = match addresses {
        Addresses::One(address) => (address, address),
        Addresses::Range(first, last) => (first, last),
        // The only prefixes of this world are /30.
        Addresses::Prefix(base, _) => match base {
            std::net::IpAddr::V4(v4) => (base, std::net::Ipv4Addr::from(u32::from(v4) + 3).into()),
            std::net::IpAddr::V6(_) => (base, base),
        },
    };
    match (first, last) {
        (std::net::IpAddr::V4(first), std::net::IpAddr::V4(last)) => {
            let range = u128::from(u32::from(first))..=u128::from(u32::from(last));
            host.ether_type == ETHER_IPV4 && range.contains(&host.addr)
        }
        (std::net::IpAddr::V6(first), std::net::IpAddr::V6(last)) => {
            let range = u128::from(first)..=u128::from(last);
            host.ether_type == ETHER_IPV6 && range.contains(&host.addr)
        }
        _ => false,
    }
}

fn differing(
    endpoint: &Endpoint,
    selector: &Selector,
    definition: &Definition<'_>,
) -> Option<Host> {
    world().into_iter().find(|&host| {
        let resolved = endpoint.matches(host.ether_type, host.addr, host.mac, host.tags);
        resolved != definition.selects(selector, host)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn endpoints_hold_what_the_language_says(text in policy()) {
        let policy = match Policy::parse(&text) {
            Ok(policy) => policy,
            // A difference that leaves nothing is refused, and nothing else is.
            Err(errors) => {
                let empty = errors.iter().any(|error| error.code() == Code::EmptySelection);
                prop_assert!(empty, "{} in {}", errors[0], text);
                return Err(TestCaseError::reject("nothing is left"));
            }
        };
        let source = Source::new("policy.yaml", text.clone());
        let document = parse_document(&source, &Limits::default()).expect("what loads, parses");
        let definition = Definition::of(&document);
        let Sides::Directed { from: Some(from), to: Some(to) } = &document.rules[0].sides else {
            panic!("the rule has two sides");
        };
        let rule = &policy.rules()[0];
        prop_assert_eq!(format!("{:?}", differing(policy.endpoint(rule.from), from, &definition)), "None", "from in {}", text);
        prop_assert_eq!(format!("{:?}", differing(policy.endpoint(rule.to), to, &definition)), "None", "to in {}", text);
    }
}

fn policy_of(rules: &str) -> Policy {
    let text = format!(
        "version: 1\ndevices:\n  a: {{mac: \"02:00:00:00:00:01\", ip: 10.0.0.1}}\n  b: {{ip: 10.0.0.2}}\n\
         groups:\n  g: [10.0.0.0/31, 10.0.0.2, 10.0.0.3, b]\n  m: [\"02:00:00:00:00:05\", \"02:00:00:00:00:06\"]\n\
         services:\n  dns: [udp/53, tcp/53]\n  web: [tcp/80, tcp/81-82, {{tcp: 443}}]\nrules:\n{rules}"
    );
    Policy::parse(&text).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

fn only_rule(rules: &str) -> (Policy, Rule) {
    let policy = policy_of(rules);
    let rule = Rule::clone(&policy.rules()[0]);
    (policy, rule)
}

#[test]
fn addresses_are_one_box_and_so_are_macs() {
    let (policy, rule) = only_rule("  - {name: r, from: g, to: m, action: deny}\n");
    let [addresses] = policy.endpoint(rule.from).boxes.as_slice() else { panic!("one box") };
    assert_eq!(addresses.addrs.v4.ranges(), [(0x0a00_0000, 0x0a00_0003)]);
    assert!(!addresses.addrs.non_ip && addresses.macs.is_any());
    let [macs] = policy.endpoint(rule.to).boxes.as_slice() else { panic!("one box") };
    assert_eq!(macs.macs.named().len(), 2);
    assert!(macs.addrs.is_any());
}

#[test]
fn services_join_ports_and_protocols() {
    let (policy, rule) = only_rule("  - {name: r, service: web, action: deny}\n");
    let [web] = policy.service(rule.service).terms.as_slice() else { panic!("one term") };
    assert_eq!(web.dst_ports.ranges(), [(80, 82), (443, 443)]);
    let (policy, rule) = only_rule("  - {name: r, service: dns, action: deny}\n");
    let [dns] = policy.service(rule.service).terms.as_slice() else { panic!("one term") };
    assert_eq!(dns.protocols.named(), [6, 17]);
}

#[test]
fn equal_references_share_one_endpoint_and_one_service() {
    let policy = policy_of(
        "  - {name: r, from: [a, g], to: any, service: [web, dns], action: deny}\n  \
         - {name: s, to: [g, a, g], service: [dns, web], action: deny}\n",
    );
    let (first, second) = (&policy.rules()[0], &policy.rules()[1]);
    assert_eq!(first.from, second.to);
    assert_eq!(first.to, second.from);
    assert_eq!(first.service, second.service);
    assert_eq!((policy.endpoints().len(), policy.services().len()), (2, 1));
    assert_eq!(policy.endpoint(first.from).label, "[a, g]");
}

#[test]
fn services_test_what_they_name() {
    let (policy, rule) = only_rule(
        "  - {name: r, service: [icmp/3/4, icmpv6/128, ip/47, eth/0x8892, {udp: 53, from-port: 1024-65535}], action: deny}\n",
    );
    let service = policy.service(rule.service);
    let ip = |ether_type, protocol, src_port, dst_port| Headers {
        ether_type,
        protocol,
        src_port,
        dst_port,
        ..Headers::default()
    };
    for (expected, headers) in [
        (true, ip(ETHER_IPV4, 1, 0, 3 << 8 | 4)),
        (false, ip(ETHER_IPV4, 1, 0, 3 << 8)),
        (false, ip(ETHER_IPV6, 1, 0, 3 << 8 | 4)),
        (true, ip(ETHER_IPV6, 58, 0, 128 << 8 | 9)),
        (true, ip(ETHER_IPV6, 47, 0, 0)),
        (true, ip(ETHER_IPV4, 47, 0, 0)),
        (true, ip(0x8892, 0, 0, 0)),
        (false, ip(0x8893, 0, 0, 0)),
        (true, ip(ETHER_IPV4, 17, 1024, 53)),
        (false, ip(ETHER_IPV4, 17, 1023, 53)),
        (false, ip(ETHER_IPV4, 6, 1024, 53)),
    ] {
        assert_eq!(service.matches(&headers), expected, "{headers:?}");
    }
}

#[test]
fn wires_are_numbered_by_the_gateway() {
    let text = "version: 1\nrules: [{name: r, wire: [lab, line-3], action: deny}]\n";
    let sources = [Source::new("policy.yaml", text)];
    let wires: Vec<Arc<str>> = ["line-1", "line-3", "lab"].map(Arc::from).to_vec();
    let options =
        bulkhead_rules::policy::LoadOptions { wires: Some(wires.clone()), ..Default::default() };
    let policy = Policy::load(&sources, &options).expect("a policy").policy;
    let ids: Vec<u16> = policy.rules()[0].wires.named().iter().map(|wire| wire.0).collect();
    assert_eq!((ids, policy.wires()), (vec![1, 2], wires.as_slice()));
    let without = Policy::parse(text).expect("a policy");
    assert_eq!(without.wires(), [Arc::from("lab"), Arc::from("line-3")]);
}
