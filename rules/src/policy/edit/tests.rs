//! Edited policies against policies that are loaded from the edited text.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::analyze::Probes;
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags};
use crate::oracle;
use crate::policy::{EndpointBox, Limits, LoadOptions};
use crate::syntax::parse_document;

/// Members as text, of groups below `groups`.
fn member(groups: usize) -> impl Strategy<Value = String> {
    let host = || prop_oneof![4 => 0..24u8, 1 => 250..=255u8];
    prop_oneof![
        6 => host().prop_map(|host| format!("10.0.0.{host}")),
        2 => (0..6u8).prop_map(|quarter| format!("10.0.0.{}/30", quarter * 4)),
        2 => (0..8u8, 8..16u8).prop_map(|(first, last)| format!("10.0.0.{first}-10.0.0.{last}")),
        2 => (0..6u8).prop_map(|host| format!("\"fd00::{host}\"")),
        1 => Just("\"fd00::/126\"".to_owned()),
        1 => (0..3u8).prop_map(|mac| format!("\"02:00:00:00:00:0{mac}\"")),
        3 => (0..5u8).prop_map(|device| format!("d{device}")),
        1 => select(vec!["any", "any-ipv4", "broadcast", "private"]).prop_map(str::to_owned),
        (4 * groups as u32).min(6) => (0..groups.max(1)).prop_map(|group| format!("g{group}")),
    ]
}

/// A selector as text. `plain` ones have neither devices nor MAC addresses directly.
fn selector_text(groups: usize) -> impl Strategy<Value = String> {
    let list = move || prop::collection::vec(member(groups), 1..4).prop_map(|l| l.join(", "));
    prop_oneof![
        3 => list().prop_map(|within| format!("[{within}]")),
        1 => (list(), list()).prop_map(|(within, except)| {
            format!("{{in: [{within}], except: [{except}]}}")
        }),
        1 => list().prop_map(|except| format!("{{in: [10.0.0.0/26, \"fd00::/124\"], except: [{except}]}}")),
    ]
}

const DEVICES: &str = "devices:\n  \
    d0: {ip: 10.0.0.3}\n  \
    d1: {ip: [10.0.0.4, \"fd00::4\", 10.0.0.20-10.0.0.22]}\n  \
    d2: {mac: \"02:00:00:00:00:01\", ip: 10.0.0.5}\n  \
    d3: {mac: \"02:00:00:00:00:02\"}\n  \
    d4: {ip: 10.0.0.6, vlan: 7}\n";

fn rule_text() -> impl Strategy<Value = String> {
    let sides = prop_oneof![
        3 => (selector_text(6), selector_text(6)).prop_map(|(a, b)| format!("from: {a}, to: {b}")),
        2 => (0..6usize, 0..6usize).prop_map(|(a, b)| format!("from: g{a}, to: g{b}")),
        1 => (0..6usize, selector_text(6)).prop_map(|(a, b)| format!("between: [g{a}, {b}]")),
    ];
    let service = select(vec!["any", "web", "[web, dns]", "dns", "tcp/22", "icmp", "eth/0x8892"]);
    let more = select(vec![
        "",
        "",
        "",
        ", vlan: 7",
        ", wire: north",
        ", starts: 2026-01-01T00:00:00Z",
        ", starts: 2026-01-01T00:00:00Z, expires: 2026-02-01T00:00:00Z, log: true",
    ]);
    let action = select(vec!["allow", "deny", "reject"]);
    (sides, service, more, action).prop_map(|(sides, service, more, action)| {
        format!("{sides}, service: {service}{more}, action: {action}")
    })
}

pub(crate) fn policy_text() -> impl Strategy<Value = String> {
    let group = |index: usize| selector_text(index);
    let groups = (group(0), group(1), group(2), group(3), group(4), group(5));
    let asserted = prop::option::of(selector_text(6));
    (groups, prop::collection::vec(rule_text(), 0..6), asserted).prop_map(
        |((a, b, c, d, e, f), rules, asserted)| {
            let mut text = format!(
                "version: 1\n{DEVICES}groups:\n  g0: {a}\n  g1: {b}\n  g2: {c}\n  g3: {d}\n  \
                 g4: {e}\n  g5: {f}\nservices:\n  web: [tcp/80, tcp/443]\n  dns: [udp/53, web]\n"
            );
            if !rules.is_empty() {
                text.push_str("rules:\n");
            }
            for (number, rule) in rules.iter().enumerate() {
                text += &format!("  - {{name: r{number}, {rule}}}\n");
            }
            if let Some(asserted) = asserted {
                text += &format!(
                    "assert:\n  - {{from: {asserted}, to: g0, service: any, must: not-reach}}\n"
                );
            }
            text
        },
    )
}

/// What a proptest draws instead of an edit: valid or not, it is an edit of the policy above.
fn any_edit() -> impl Strategy<Value = (usize, String, bool, String)> {
    (0..7usize, member(6), any::<bool>(), rule_text())
}

fn document_of(text: &str) -> Document {
    parse_document(&Source::new("policy.yaml", text), &Limits::default())
        .unwrap_or_else(|errors| panic!("{} in {text}", errors[0]))
}

/// The edit that was drawn; it may be one that is refused.
fn drawn_edit(
    policy: &Policy,
    (number, member, adds, rule): &(usize, String, bool, String),
) -> Edit {
    let group = format!("g{number}");
    let document = document_of(&format!(
        "version: 1\ngroups:\n  x: [{member}]\nrules:\n  - {{name: drawn{number}, {rule}}}\n"
    ));
    let member = document.groups[0].members.members[0].value.clone();
    let existing: Vec<_> = policy.order().collect();
    let some_rule = existing.get(*number).map(|&id| Arc::from(policy.rule_name(id)));
    match (number % 7, adds, some_rule) {
        (0..4, true, _) => Edit::AddMember { group: group.into(), member },
        (0..4, false, _) => Edit::RemoveMember { group: group.into(), member },
        (_, true, Some(name)) if number % 2 == 0 => {
            Edit::AddRule { rule: Box::new(document.rules[0].clone()), place: Place::After(name) }
        }
        (_, true, Some(name)) => {
            Edit::AddRule { rule: Box::new(document.rules[0].clone()), place: Place::Before(name) }
        }
        (_, true, None) => {
            Edit::AddRule { rule: Box::new(document.rules[0].clone()), place: Place::First }
        }
        (_, false, Some(name)) => Edit::RemoveRule { name },
        (_, false, None) => Edit::RemoveRule { name: "none-such".into() },
    }
}

/// Hosts as frames show them, enough to tell any two endpoints of the test apart.
fn world() -> Vec<(u16, u128, Mac, VlanTags)> {
    let v4 = (0..70u128).chain(248..258).map(|host| (ETHER_IPV4, 0x0a00_0000 + host));
    let v6 = (0..20u128).map(|host| (ETHER_IPV6, (0xfd00 << 112) + host));
    let other = [(ETHER_IPV4, u128::from(u32::MAX)), (ETHER_IPV4, 0xac10_0000), (0x8892, 0)];
    let hosts: Vec<_> = v4.chain(v6).chain(other).collect();
    let macs = [0, 1, 2, 3].map(|last| Mac([2, 0, 0, 0, 0, last])).into_iter();
    let macs: Vec<Mac> = macs.chain([Mac([0xff; 6])]).collect();
    let mut all = Vec::new();
    for &(ether_type, addr) in &hosts {
        for &mac in &macs {
            for tags in [VlanTags::UNTAGGED, VlanTags::single(7)] {
                all.push((ether_type, addr, mac, tags));
            }
        }
    }
    all
}

fn is_plain(endpoint: &Endpoint) -> bool {
    endpoint.boxes.iter().all(EndpointBox::is_plain)
}

/// Equal boxes, or, where the order of members made other boxes of the same hosts, equal hosts.
fn same_endpoint(one: &Endpoint, other: &Endpoint, world: &[(u16, u128, Mac, VlanTags)]) -> bool {
    let plain_boxes = |e: &Endpoint| e.boxes.iter().filter(|b| b.is_plain()).count();
    assert!(plain_boxes(one) < 2 && plain_boxes(other) < 2);
    if is_plain(one) && is_plain(other) {
        return one.boxes == other.boxes;
    }
    let holds = |e: &Endpoint, &(ether, addr, mac, tags): &_| e.matches(ether, addr, mac, tags);
    world.iter().all(|host| holds(one, host) == holds(other, host))
}

/// The policies are equal but for ids, places in the text and the numbers of wires.
fn same_policy(edited: &Policy, loaded: &Policy, world: &[(u16, u128, Mac, VlanTags)]) {
    assert_eq!(edited.default_action(), loaded.default_action());
    assert_eq!(edited.rule_count(), loaded.rule_count());
    assert_eq!(edited.schedule(), loaded.schedule());
    assert_eq!(edited.assertions().len(), loaded.assertions().len());
    let wires = |policy: &Policy, rule: &Rule| -> BTreeSet<Arc<str>> {
        rule.wires.named().iter().map(|id| policy.wires()[id.0 as usize].clone()).collect()
    };
    for (id, other_id) in edited.order().zip(loaded.order()) {
        let (rule, other) = (edited.rule(id).unwrap(), loaded.rule(other_id).unwrap());
        let renumbered = Rule {
            from: other.from,
            to: other.to,
            service: other.service,
            wires: other.wires.clone(),
            location: other.location.clone(),
            ..rule.clone()
        };
        assert_eq!(&renumbered, other);
        assert_eq!(wires(edited, rule), wires(loaded, other));
        for (id, other) in [(rule.from, other.from), (rule.to, other.to)] {
            let (one, other) = (edited.endpoint(id), loaded.endpoint(other));
            assert!(same_endpoint(one, other, world), "{}: {one:?} {other:?}", rule.name);
        }
        let (one, other) = (edited.service(rule.service), loaded.service(other.service));
        assert_eq!(one.terms, other.terms);
    }
    for (one, other) in edited.assertions().iter().zip(loaded.assertions()) {
        for (id, other) in [(one.from, other.from), (one.to, other.to)] {
            let (one, other) = (edited.endpoint(id), loaded.endpoint(other));
            assert!(same_endpoint(one, other, world), "{one:?} {other:?}");
        }
    }
    let (one, other) = (edited.editing.state(edited), loaded.editing.state(loaded));
    assert_eq!(one.graph.costs(), other.graph.costs(), "what resolving took is told right");
    assert_eq!(one.endpoints.len(), other.endpoints.len(), "what nothing uses is given up");
    assert_eq!(one.services.len(), other.services.len());
}

/// The order and the indices are as they say.
fn well_formed(policy: &Policy) {
    let ranks: Vec<u32> = policy.order().map(|id| policy.rank(id)).collect();
    assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(ranks.iter().all(|&rank| rank > 0 && rank < policy.rank(RuleId::DEFAULT)));
    let live: BTreeSet<RuleId> = policy.order().collect();
    for (id, rule) in (0..).map(RuleId).zip(policy.rules()) {
        assert_eq!(live.contains(&id), !rule.is_removed());
        if !rule.is_removed() {
            assert!(!policy.endpoint(rule.from).boxes.is_empty());
            assert!(!policy.endpoint(rule.to).boxes.is_empty());
            assert!(!policy.service(rule.service).terms.is_empty());
        }
    }
}

/// The delta says of every endpoint, service and rule whether and where it changed.
fn delta_is_complete(old: &Policy, new: &Policy, delta: &Delta) {
    let changes: BTreeMap<EndpointId, &EndpointChange> =
        delta.endpoints.iter().map(|change| (change.endpoint, change)).collect();
    assert_eq!(changes.len(), delta.endpoints.len());
    for (id, after) in (0..).map(EndpointId).zip(new.endpoints()) {
        if delta.endpoints_added.contains(&id) {
            assert!(old.endpoints().get(id.0 as usize).is_none_or(|e| e.boxes.is_empty()));
            continue;
        }
        let before = old.endpoint(id);
        if delta.endpoints_removed.contains(&id) {
            assert!(after.boxes.is_empty() && !before.boxes.is_empty());
            continue;
        }
        let Some(change) = changes.get(&id).filter(|change| !change.other) else {
            assert!(*before == **after || changes.contains_key(&id), "{before:?} {after:?}");
            continue;
        };
        assert!(is_plain(before) && is_plain(after));
        let ([before], [after]) = (before.boxes.as_slice(), after.boxes.as_slice()) else {
            panic!("a plain endpoint is one box: {before:?} {after:?}");
        };
        let outside = |set: &RangeSet<u32>| set.intersection(&change.v4.complement());
        assert_eq!(outside(&before.addrs.v4), outside(&after.addrs.v4));
        let outside = |set: &RangeSet<u128>| set.intersection(&change.v6.complement());
        assert_eq!(outside(&before.addrs.v6), outside(&after.addrs.v6));
        assert!(change.non_ip || before.addrs.non_ip == after.addrs.non_ip);
    }
    for (id, after) in (0..).map(ServiceId).zip(new.services()) {
        if !delta.services_added.contains(&id) && !delta.services_removed.contains(&id) {
            assert_eq!(old.service(id), &**after);
        }
    }
    for (id, after) in (0..).map(RuleId).zip(new.rules()) {
        if !delta.rules_added.contains(&id) && !delta.rules_removed.contains(&id) {
            assert_eq!(old.rule(id), Some(&**after));
            assert!(delta.respread || old.rank(id) == new.rank(id));
        }
    }
}

/// Whether the delta says that the policies may judge these headers differently.
fn is_touched(old: &Policy, new: &Policy, delta: &Delta, h: &Headers) -> bool {
    let matches = |policy: &Policy, id: &RuleId| policy.rule(*id).unwrap().matches(policy, h);
    // A removed rule is a tombstone in the new policy, and was a rule in the old one.
    delta.rules_added.iter().any(|id| matches(new, id))
        || delta.rules_removed.iter().any(|id| matches(old, id))
        || delta.endpoints.iter().any(|change| {
            change.other
                || [h.src, h.dst].iter().any(|&addr| match h.ether_type {
                    ETHER_IPV4 => change.v4.contains(addr as u32),
                    ETHER_IPV6 => change.v6.contains(addr),
                    _ => change.non_ip,
                })
        })
}

/// Makes the edit and compares it with a load of the edited text. Returns the policy that follows.
fn follow(
    policy: &Policy,
    documents: &mut [Document],
    edit: &Edit,
    probes: usize,
    world: &[(u16, u128, Mac, VlanTags)],
) -> Option<Policy> {
    let mut changed = documents.to_vec();
    let fits = edit.apply(&mut changed);
    let texts: Vec<Source> =
        changed.iter().map(|document| Source::new("policy.yaml", document.to_string())).collect();
    let loaded = fits.map(|_| Policy::load(&texts, &LoadOptions::default()));
    let edited = policy.edited(edit);
    let (loaded, (edited, delta)) = match (loaded, edited) {
        (None, Err(_)) => return None,
        (Some(Err(errors)), Err(found)) => {
            assert_eq!(found[0].code(), errors[0].code(), "{} {}", found[0], errors[0]);
            return None;
        }
        (Some(Ok(loaded)), Ok(edited)) => (loaded.policy, edited),
        (loaded, edited) => {
            panic!("{edit:?} in {}: loaded {loaded:?}, edited {edited:?}", texts[0].text)
        }
    };
    documents.clone_from_slice(&changed);
    well_formed(&edited);
    delta_is_complete(policy, &edited, &delta);
    same_policy(&edited, &loaded, world);
    for (probed, seed) in [(policy, 1), (&edited, 2), (&loaded, 3)] {
        let mut stream = Probes::new(probed, seed);
        for _ in 0..probes {
            let (headers, at) = (stream.headers(), stream.instant());
            // The numbers of wires differ where no gateway has numbered them.
            let headers = Headers { wire: crate::headers::WireId(u16::MAX), ..headers };
            let found = oracle::classify(&edited, &headers, at);
            let expected = oracle::classify(&loaded, &headers, at);
            assert_eq!(edited.rule_name(found), loaded.rule_name(expected), "{headers:?} {at:?}");
            if oracle::classify(policy, &headers, at) != found {
                assert!(is_touched(policy, &edited, &delta, &headers), "{headers:?} {delta:?}");
            }
        }
    }
    Some(edited)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        max_global_rejects: 100_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_edited_policy_equals_the_edited_text(
        text in policy_text(),
        drawn in prop::collection::vec(any_edit(), 0..12),
        seed in any::<u64>(),
    ) {
        let Ok(mut policy) = Policy::parse(&text) else {
            return Err(TestCaseError::reject("an `except` leaves nothing"));
        };
        let (world, mut documents) = (world(), vec![document_of(&text)]);
        for drawn in &drawn {
            let edit = drawn_edit(&policy, drawn);
            policy = follow(&policy, &mut documents, &edit, 40, &world).unwrap_or(policy);
        }
        let mut edits = RandomEdits::new(&policy, seed).with_rule_percent(40);
        for _ in 0..12 {
            let edit = edits.next(&policy);
            let followed = follow(&policy, &mut documents, &edit, 40, &world);
            policy = followed.expect("random edits are valid");
        }
    }
}
