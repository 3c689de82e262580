//! What is printed reads back as the same document, whatever it holds.

use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_rules::headers::{Mac, VlanTags};
use bulkhead_rules::policy::{Action, Limits, Must};
use bulkhead_rules::syntax::document::{
    Addresses, Assertion, Device, Document, Group, Member, PortProtocol, Rule, Selector, Service,
    Sides, Term, Terms,
};
use bulkhead_rules::syntax::span::Spanned;
use bulkhead_rules::syntax::{Source, parse_document};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn at<T>(value: T) -> Spanned<T> {
    Spanned::unplaced(value)
}

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,12}"
        .prop_filter("reserved", |text| !matches!(&**text, "null" | "true" | "false"))
        .prop_map(Arc::from)
}

/// What turns the direction of text around is refused, and so are control characters.
fn is_text(c: char) -> bool {
    let refused = [0x61c..=0x61c, 0x200e..=0x200f, 0x2028..=0x202e, 0x2066..=0x2069];
    !c.is_control() && !refused.iter().any(|range| range.contains(&u32::from(c)))
}

fn prose() -> impl Strategy<Value = Spanned<Arc<str>>> {
    prop_oneof![
        "[a-zA-Z0-9 :#'\"\\\\,{}\\[\\]&*!|>%@`~-]{1,20}",
        "\\PC{1,20}",
        any::<char>().prop_filter("refused", |&c| is_text(c)).prop_map(String::from),
        Just("no".to_owned()),
        Just("~".to_owned()),
        Just("0x1f".to_owned()),
    ]
    .prop_map(|text| at(Arc::from(text)))
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(|[a, b, c, d, e, f]| Mac([a & 0xfe, b, c, d, e, f | 1]))
}

fn addresses() -> impl Strategy<Value = Addresses> {
    let v6 = any::<u128>().prop_map(|bits| IpAddr::from((bits | 1 << 127).to_be_bytes()));
    let v4 = any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes()));
    let range = |(a, b): (IpAddr, IpAddr)| Addresses::Range(a.min(b), a.max(b));
    prop_oneof![
        v4.clone().prop_map(Addresses::One),
        v6.clone().prop_map(Addresses::One),
        Just(Addresses::One("::".parse().expect("an address"))),
        Just(Addresses::One("fd00::".parse().expect("an address"))),
        (v4.clone(), v4).prop_map(range),
        (v6.clone(), v6).prop_map(range),
        (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Addresses::Prefix((bits & mask).to_be_bytes().into(), length)
        }),
        (any::<u128>(), 1..=128u8).prop_map(|(bits, length)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Addresses::Prefix(((bits | 1 << 127) & mask).to_be_bytes().into(), length)
        }),
    ]
}

fn members() -> impl Strategy<Value = Vec<Spanned<Member>>> {
    let member = prop_oneof![
        name().prop_map(Member::Name),
        addresses().prop_map(Member::Addresses),
        mac().prop_map(Member::Mac),
    ];
    vec(member.prop_map(at), 1..8)
}

fn selector() -> impl Strategy<Value = Selector> {
    let except = prop_oneof![Just(Vec::new()), members()];
    (members(), except).prop_map(|(members, except)| Selector { members, except, span: at(()) })
}

fn ports(at_least: usize) -> impl Strategy<Value = Vec<(u16, u16)>> {
    let range = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| (a.min(b), a.max(b)));
    vec(range, at_least..4)
}

fn terms() -> impl Strategy<Value = Terms> {
    let protocol = (0..3usize).prop_map(|at| PortProtocol::ALL[at]);
    let with_source = (protocol.clone(), ports(0), ports(1));
    let term = prop_oneof![
        name().prop_map(Term::Name),
        (protocol, ports(1))
            .prop_map(|(protocol, to)| { Term::Ports { protocol, to, from: Vec::new() } }),
        with_source.prop_map(|(protocol, to, from)| Term::Ports { protocol, to, from }),
        (any::<bool>(), any::<u8>(), option::of(any::<u8>()))
            .prop_map(|(v6, kind, code)| Term::Icmp { v6, kind, code }),
        any::<u8>().prop_map(Term::Ip),
        (0x0600..=u16::MAX).prop_map(Term::Ether),
    ];
    vec(term.prop_map(at), 1..4).prop_map(|terms| Terms { terms, span: at(()) })
}

fn vlans() -> impl Strategy<Value = Option<Spanned<Vec<VlanTags>>>> {
    let vid = 1..=4094u16;
    let tags = prop_oneof![
        Just(VlanTags::UNTAGGED),
        vid.clone().prop_map(VlanTags::single),
        (vid.clone(), vid).prop_map(|(outer, inner)| VlanTags { outer, inner }),
    ];
    option::of(vec(tags, 1..4).prop_map(at))
}

fn device() -> impl Strategy<Value = Device> {
    let macs = vec(mac().prop_map(at), 0..3);
    let labels = proptest::collection::btree_map(name(), prose(), 0..3);
    (name(), macs, vec(addresses().prop_map(at), 1..3), vlans(), labels).prop_map(
        |(name, macs, addresses, vlans, labels)| {
            let labels = labels.into_iter().map(|(key, text)| (at(key), text)).collect();
            Device { name: at(name), macs, addresses, vlans, labels }
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let directed = (selector(), selector())
        .prop_map(|(from, to)| Sides::Directed { from: Some(from), to: Some(to) });
    let between = (selector(), selector()).prop_map(|(one, other)| Sides::Between(one, other));
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Reject)];
    let instant = option::of((0..4_000_000_000_000i64).prop_map(at));
    let times = (instant.clone(), instant);
    let wires = vec(prose(), 0..3);
    let rest = (vlans(), wires, action, option::of(any::<bool>()), times, option::of(prose()));
    (name(), prop_oneof![directed, between], terms(), rest).prop_map(
        |(name, sides, service, (vlans, wires, action, log, (starts, expires), reason))| Rule {
            name: at(name),
            sides,
            service: Some(service),
            vlans,
            wires,
            action: at(action),
            log,
            starts,
            expires,
            reason,
        },
    )
}

fn assertion() -> impl Strategy<Value = Assertion> {
    let must = prop_oneof![Just(Must::Reach), Just(Must::NotReach)];
    (selector(), selector(), terms(), must).prop_map(|(from, to, service, must)| Assertion {
        from,
        to,
        service,
        must: at(must),
        span: at(()),
    })
}

fn document() -> impl Strategy<Value = Document> {
    let default = option::of(Just(at(Action::Reject)));
    // Within one section a name stands once; across documents resolution sees to it.
    fn distinct<T>(entries: Vec<T>, name: impl Fn(&T) -> Arc<str>) -> Vec<T> {
        let mut seen = std::collections::HashSet::new();
        entries.into_iter().filter(|entry| seen.insert(name(entry))).collect()
    }
    let groups = vec((name(), selector()), 0..4);
    let services = vec((name(), terms()), 0..4);
    let lists = (vec(rule(), 0..4), vec(assertion(), 0..3));
    (default, vec(device(), 0..4), groups, services, lists).prop_map(
        |(default, devices, groups, services, (rules, assertions))| Document {
            version: Some(at(1)),
            default,
            devices: distinct(devices, |device| Arc::clone(&device.name.value)),
            groups: distinct(groups, |(name, _)| Arc::clone(name))
                .into_iter()
                .map(|(name, members)| Group { name: at(name), members })
                .collect(),
            services: distinct(services, |(name, _)| Arc::clone(name))
                .into_iter()
                .map(|(name, terms)| Service { name: at(name), terms })
                .collect(),
            rules,
            assertions,
        },
    )
}

fn parse(text: &str) -> Document {
    parse_document(&Source::new("printed.yaml", text), &Limits::default()).unwrap_or_else(|all| {
        let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
        panic!("{}\n\n{text}", shown.join("\n"))
    })
}

proptest! {
    #[test]
    fn a_printed_document_reads_back(document in document()) {
        let text = document.to_string();
        prop_assert_eq!(parse(&text), document, "{}", text);
    }
}

#[test]
fn the_examples_read_back() {
    for text in [
        include_str!("../../deploy/examples/plant-line.yaml"),
        include_str!("../../deploy/examples/datacentre-three-tier.yaml"),
        include_str!("../../deploy/examples/hospital-ward.yaml"),
    ] {
        let document = parse(text);
        assert_eq!(parse(&document.to_string()), document);
    }
}

#[test]
fn a_long_group_is_printed_one_member_a_line() {
    let members: Vec<String> = (0..50).map(|host| format!("10.0.0.{host}")).collect();
    let text = format!("version: 1\ngroups:\n  all: [{}]\n", members.join(", "));
    let printed = parse(&text).to_string();
    assert!(printed.contains("\n    - 10.0.0.49\n"), "{printed}");
    assert_eq!(parse(&printed), parse(&text));
}

#[test]
fn an_empty_list_stays_an_error_when_printed() {
    let mut document = parse("version: 1\ngroups: {a: 10.0.0.1}\n");
    document.groups[0].members.members.clear();
    let source = Source::new("printed.yaml", document.to_string());
    let errors = parse_document(&source, &Limits::default()).expect_err("an empty group");
    assert_eq!(errors[0].code().label(), "empty-list");
}
