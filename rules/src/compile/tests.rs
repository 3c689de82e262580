//! The classifier against the oracle over small dense policies.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::NoUninit;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::budget::{Budget, Exceeded, MOST_NUMBERS};
use super::lists::{DST, SRC};
use super::plan::Plan;
use super::{Compiler, Edits, Limits, compile};
use crate::analyze::Probes;
use crate::classifier::store::Store;
use crate::classifier::{Changes, Classifier, Footprint, MAX_BATCH, Scratch};
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, PolicyTime, VlanTags, WireId};
use crate::oracle;
use crate::policy::edit::tests::policy_text;
use crate::policy::edit::{Delta, Edit, Place, RandomEdits};
use crate::policy::{
    Action, BoundAddress, Endpoint, EndpointBox, EndpointId, Link, Location, Parts, Policy, Rule,
    RuleId, ServiceId, ServiceSet, ServiceTerm,
};
use crate::sets::{AddrSet, FiniteSet, MacSet, RangeSet, VlanSet};
use crate::syntax::document::{self, Addresses, Member, Selector, Sides, Term, Terms};
use crate::syntax::span::Spanned;

/// A universe so small that rules overlap all the time: eight values at each end of a field.
fn edge(max: u128) -> impl Strategy<Value = u128> + Clone {
    (0..8u128, any::<bool>()).prop_map(move |(value, low)| if low { value } else { max - value })
}

fn ranges(max: u128) -> impl Strategy<Value = Vec<(u128, u128)>> + Clone {
    prop_oneof![
        3 => vec((edge(max), edge(max)).prop_map(|(a, b)| (a.min(b), a.max(b))), 0..3),
        1 => Just(vec![(0, max)]),
    ]
}

fn addrs() -> impl Strategy<Value = AddrSet> {
    let some =
        (ranges(u32::MAX.into()), ranges(u128::MAX), any::<bool>()).prop_map(|(v4, v6, non_ip)| {
            AddrSet {
                v4: RangeSet::<u32>::from_ranges(v4.iter().map(|&(a, b)| (a as u32, b as u32))),
                v6: RangeSet::<u128>::from_ranges(v6),
                non_ip,
            }
        });
    prop_oneof![
        4 => some.clone(),
        2 => Just(AddrSet::any()),
        1 => (some.clone(), some).prop_map(|(group, except)| {
            group.intersection(&except.complement())
        }),
    ]
}

fn finite<T: Ord + Copy + std::fmt::Debug + 'static>(
    values: Vec<T>,
) -> impl Strategy<Value = FiniteSet<T>> {
    let some = vec(select(values), 0..3).prop_map(FiniteSet::only);
    prop_oneof![
        3 => Just(FiniteSet::any()),
        2 => some.clone(),
        1 => some.prop_map(|set| set.complement()),
    ]
}

const MACS: [Mac; 3] =
    [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]), Mac([0xff, 0xff, 0xff, 0xff, 0xff, 0xff])];

const TAGS: [VlanTags; 4] = [
    VlanTags::UNTAGGED,
    VlanTags::single(30),
    VlanTags { outer: 30, inner: 40 },
    VlanTags { outer: 0, inner: 30 },
];

fn macs() -> impl Strategy<Value = MacSet> {
    finite(MACS.to_vec())
}

fn vlans() -> impl Strategy<Value = VlanSet> {
    finite(TAGS.to_vec())
}

fn plain_box(addrs: AddrSet) -> EndpointBox {
    EndpointBox {
        addrs,
        macs: MacSet::any(),
        vlans: VlanSet::any(),
        beyond: None,
        except_bound: Arc::default(),
    }
}

fn link() -> impl Strategy<Value = Link> + Clone {
    (0..3u16, select(TAGS.to_vec())).prop_map(|(wire, tags)| Link { wire: WireId(wire), tags })
}

fn ascending<T: Ord>(mut all: Vec<T>) -> Arc<[T]> {
    all.sort_unstable();
    all.into()
}

/// What bound addresses do to a box: the links beyond which it holds, and what it leaves out.
type Bound = (Option<Arc<[Link]>>, Arc<[BoundAddress]>);

fn bound() -> impl Strategy<Value = Bound> + Clone {
    let address = prop_oneof![
        edge(u32::MAX.into()).prop_map(|a| IpAddr::V4((a as u32).into())),
        edge(u128::MAX).prop_map(|a| IpAddr::V6(a.into())),
    ];
    let namesakes = vec((link(), select(MACS.to_vec())), 0..3).prop_map(ascending);
    let one = (address, namesakes).prop_map(|(address, namesakes)| BoundAddress {
        address,
        links: Arc::default(),
        namesakes,
    });
    let links = vec(link(), 0..3).prop_map(ascending);
    (proptest::option::weighted(0.25, links), vec(one, 0..6).prop_map(ascending))
}

fn endpoint(bound: impl Strategy<Value = Bound>) -> impl Strategy<Value = Endpoint> {
    let plain = addrs().prop_map(plain_box);
    let any_box = (addrs(), macs(), vlans(), bound);
    let any_box = any_box.prop_map(|(addrs, macs, vlans, (beyond, except_bound))| {
        let except_bound = if macs.is_any() { Arc::default() } else { except_bound };
        EndpointBox { addrs, macs, vlans, beyond, except_bound }
    });
    vec(prop_oneof![plain, any_box], 0..4)
        .prop_map(|boxes| Endpoint { label: "generated".into(), boxes: Arc::new(boxes) })
}

fn ports() -> impl Strategy<Value = RangeSet<u16>> {
    ranges(u16::MAX.into()).prop_map(|ranges| {
        RangeSet::<u16>::from_ranges(ranges.iter().map(|&(a, b)| (a as u16, b as u16)))
    })
}

fn service() -> impl Strategy<Value = ServiceSet> {
    let term = (
        finite(vec![ETHER_IPV4, ETHER_IPV6, 0x8892, 0]),
        finite(vec![0u8, 1, 6, 17, 58, 255]),
        ports(),
        ports(),
    );
    let term = term.prop_map(|(ether_types, protocols, src_ports, dst_ports)| ServiceTerm {
        ether_types,
        protocols,
        src_ports,
        dst_ports,
    });
    vec(term, 0..4).prop_map(|terms| ServiceSet { label: "generated".into(), terms })
}

fn rule() -> impl Strategy<Value = Rule> {
    let times =
        (proptest::option::weighted(0.2, 0..4i64), proptest::option::weighted(0.2, 0..4i64));
    let action = select(vec![Action::Allow, Action::Deny, Action::Reject]);
    let wires = finite(vec![WireId(0), WireId(1), WireId(u16::MAX)]);
    (0..5u32, 0..5u32, 0..4u32, any::<bool>(), vlans(), wires, action, times).prop_map(
        |(from, to, service, between, vlans, wires, action, (starts, expires))| Rule {
            name: "generated".into(),
            from: EndpointId(from),
            to: EndpointId(to),
            between,
            service: ServiceId(service),
            vlans,
            wires,
            action,
            log: false,
            starts,
            expires,
            reason: None,
            location: Location { file: "generated".into(), line: 1, column: 1 },
            removed: false,
        },
    )
}

/// A policy such as a text may be.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    policy_of(Just(Bound::default()))
}

/// One with addresses that are bound to something.
pub(crate) fn bound_policy() -> impl Strategy<Value = Policy> {
    policy_of(bound())
}

fn policy_of(bound: impl Strategy<Value = Bound>) -> impl Strategy<Value = Policy> {
    (vec(rule(), 0..24), vec(endpoint(bound), 5), vec(service(), 4)).prop_map(
        |(rules, endpoints, services)| {
            Policy::new(Parts {
                default: Action::Deny,
                rules,
                endpoints,
                services,
                assertions: Vec::new(),
                wires: Vec::new(),
                wires_known: false,
            })
        },
    )
}

/// Classifies `packets` probes in batches and compares each with the linear scan, under one of the
/// plans.
fn compare(policy: &Policy, seed: u64, packets: usize) -> Result<(), TestCaseError> {
    let plan = PLANS[seed as usize % PLANS.len()];
    let classifier = Compiler::with_plan(policy, &Limits::default(), plan)
        .expect("a small policy compiles")
        .into_classifier();
    classify_and_compare(policy, &classifier, seed, packets)
}

/// Classifies `packets` probes in batches and compares each with the linear scan.
pub(super) fn classify_and_compare(
    policy: &Policy,
    classifier: &Classifier,
    seed: u64,
    packets: usize,
) -> Result<(), TestCaseError> {
    let mut probes = Probes::new(policy, seed);
    let (mut scratch, mut out) = (Scratch::default(), [RuleId::DEFAULT; MAX_BATCH]);
    let mut left = packets;
    while left > 0 {
        crate::lanes::tests::force_plain(left % 3 == 0);
        let size = left.min(1 + (seed as usize + left) % MAX_BATCH);
        let batch: Vec<Headers> = (0..size).map(|_| probes.headers()).collect();
        let at = probes.instant();
        classifier.classify(&batch, at, &mut scratch, &mut out);
        for (headers, &found) in batch.iter().zip(&out) {
            let expected = oracle::classify(policy, headers, at);
            prop_assert_eq!(found, expected, "{:?} at {:?}", headers, at);
        }
        left -= size;
    }
    crate::lanes::tests::force_plain(false);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn classifier_equals_oracle(policy in bound_policy(), seed in any::<u64>()) {
        compare(&policy, seed, 500)?;
    }

    #[test]
    fn mac_sensitivity_covers_every_rule_that_a_mac_could_change(policy in bound_policy()) {
        let classifier = compile(&policy, &Limits::default()).expect("a small policy compiles");
        let first = policy.rules().iter().position(|rule| {
            [rule.from, rule.to].iter().any(|&id| policy.endpoint(id).tests_mac())
        });
        for id in (0..policy.rules().len() as u32).map(RuleId).chain([RuleId::DEFAULT]) {
            let expected = first.is_some_and(|first| first as u32 <= id.0);
            prop_assert_eq!(classifier.is_mac_sensitive(id), expected);
        }
    }
}

/// Some of what two policies are probed with, and the verdicts.
struct Probed {
    headers: Vec<Headers>,
    at: PolicyTime,
}

impl Probed {
    /// Probes in turns: what an edit took out of a policy is at no boundary of the edited one.
    fn new(policies: [&Policy; 2], seed: u64, count: usize) -> Self {
        let mut probes = policies.map(|policy| Probes::new(policy, seed));
        let at = probes[0].instant();
        Self { headers: (0..count).map(|place| probes[place % 2].headers()).collect(), at }
    }

    /// In batches of every size, with what other classifiers have left in `scratch`.
    fn classify(&self, classifier: &Classifier, scratch: &mut Scratch) -> Vec<(RuleId, Footprint)> {
        let mut out = [RuleId::DEFAULT; MAX_BATCH];
        let mut all = Vec::with_capacity(self.headers.len());
        let (mut left, mut size) = (&*self.headers, self.headers.len() % MAX_BATCH);
        while !left.is_empty() {
            size = (size * 5 + 7) % MAX_BATCH;
            let (batch, rest) = left.split_at(left.len().min(size + 1));
            left = rest;
            classifier.classify(batch, self.at, scratch, &mut out);
            let found = out[..batch.len()].iter().enumerate();
            all.extend(found.map(|(place, &rule)| (rule, scratch.footprint(place))));
        }
        all
    }
}

/// What random edits led through.
#[derive(Default)]
pub(super) struct Edited {
    pub(super) edits: Edits,
    /// Edits after which the policy was in blocks, and those that said which flows they concern.
    pub(super) in_blocks: u64,
    pub(super) told: u64,
}

/// Applies `edits` random edits and compares after each of them the compiler's classifier with the
/// linear scan, with a whole compilation, and with what flows were told.
pub(super) fn edit_and_compare(
    mut policy: Policy,
    plan: Option<Plan>,
    seed: u64,
    edits: usize,
) -> Result<Edited, TestCaseError> {
    let mut seen = Edited::default();
    let limits = &Limits::default();
    let mut compiler = Compiler::with_plan(&policy, limits, plan).expect("a small policy compiles");
    let mut stream = RandomEdits::new(&policy, seed);
    let mut published = compiler.publish();
    let scratch = &mut Scratch::default();
    for step in 0..edits as u64 {
        let edit = stream.next(&policy);
        let Ok((edited, delta)) = policy.edited(&edit) else { continue };
        let changes = compiler.edit(&edited, &delta).expect("an edited policy compiles");
        let probed = Probed::new([&edited, &policy], seed ^ step, 300);
        let before = probed.classify(&published, scratch);
        let next = compiler.publish();
        assert_same_tables(&next, &compiler.out);
        seen.in_blocks += u64::from(next.blocks.is_some());
        seen.told += u64::from(matches!(changes, Changes::Footprints { .. }));
        let after = probed.classify(&next, scratch);
        let whole = compile(&edited, limits).expect("it compiles as a whole");
        let whole = probed.classify(&whole, scratch);
        let again = probed.classify(&published, scratch);
        prop_assert_eq!(&before, &again, "what is published stays as it is");
        for (place, headers) in probed.headers.iter().enumerate() {
            let expected = oracle::classify(&edited, headers, probed.at);
            prop_assert_eq!(after[place].0, expected, "{:?} after {:?}", headers, edit);
            prop_assert_eq!(whole[place].0, expected, "{:?} compiled as a whole", headers);
            let Footprint { src, dst } = before[place].1;
            let is_told = match &changes {
                Changes::Everything => true,
                Changes::Footprints { src: s, dst: d } => s.contains(&src) || d.contains(&dst),
            };
            if !is_told {
                let at = probed.at;
                prop_assert_eq!(oracle::classify(&policy, headers, at), expected, "{:?}", edit);
                prop_assert_eq!(before[place].1, after[place].1, "a flow keeps a class that is");
            }
        }
        (policy, published) = (edited, next);
    }
    Ok(Edited { edits: compiler.edits(), ..seen })
}

/// Everything by class, by key and wide, and between; crossed out as well, and not; in blocks.
const PLANS: [Option<Plan>; 8] = [
    None,
    Some(Plan { by_class: usize::MAX, by_key: usize::MAX, crossed: false, blocks: false }),
    Some(Plan { by_class: 0, by_key: usize::MAX, crossed: false, blocks: false }),
    Some(Plan { by_class: 0, by_key: 0, crossed: false, blocks: false }),
    Some(Plan { by_class: 1, by_key: 2, crossed: false, blocks: false }),
    Some(Plan { by_class: 2, by_key: 2, crossed: false, blocks: false }),
    Some(Plan { by_class: 1, by_key: 2, crossed: true, blocks: false }),
    Some(Plan { by_class: 1, by_key: 2, crossed: false, blocks: true }),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_classifier_equals_one_compiled_as_a_whole(
        text in policy_text(),
        seed in any::<u64>(),
        plan in select(PLANS.to_vec()),
    ) {
        if let Ok(policy) = Policy::parse(&text) {
            edit_and_compare(policy, plan, seed, 30)?;
        }
    }
}

#[test]
fn members_and_rules_are_compiled_for_what_they_change() {
    let text = "version: 1\ndevices:\n  pinned: {mac: \"02:00:00:00:00:02\", ip: 10.0.0.9}\n  \
                tagged: {mac: \"02:00:00:00:00:03\", vlan: 30}\n  \
                bare: {mac: \"02:00:00:00:00:02\"}\n\
                groups:\n  a: [10.0.0.0/24, 10.1.0.7]\n  b: {in: [a, 10.2.0.0/16], \
                except: [10.2.1.0/24]}\n  c: [\"fd00::/64\", 192.0.2.0/24]\nrules:\n  \
                - {name: one, from: a, to: c, service: tcp/80, action: allow}\n  \
                - {name: two, from: any, to: b, service: udp/53, action: deny}\n  \
                - {name: three, from: b, to: a, service: any, action: allow}\n";
    for plan in PLANS {
        for only_addresses in [true, false] {
            let policy = Policy::parse(text).unwrap();
            let mut compiler = Compiler::with_plan(&policy, &Limits::default(), plan).unwrap();
            let mut stream = RandomEdits::new(&policy, 7);
            if only_addresses {
                stream = stream.with_addresses_only();
            }
            let mut policy = policy;
            for _ in 0..200 {
                let edit = stream.next(&policy);
                let (edited, delta) = policy.edited(&edit).unwrap();
                compiler.edit(&edited, &delta).unwrap();
                policy = edited;
            }
            let Edits { incremental, whole } = compiler.edits();
            assert!(
                whole <= incremental / 10,
                "{plan:?}: {incremental} of what changed, {whole} whole"
            );
        }
    }
}

#[test]
fn an_edit_that_does_not_fit_leaves_what_was_in_force() {
    let text = |members: &str| {
        format!(
            "version: 1\ngroups:\n  a: [10.0.0.1{members}]\nrules:\n  \
             - {{name: one, from: a, to: any, service: any, action: allow}}\n"
        )
    };
    let policy = Policy::parse(&text("")).unwrap();
    let many: String = (0..20_000).map(|n| format!(", 10.{}.{}.1", n / 200, n % 200)).collect();
    let large = Policy::parse(&text(&many)).unwrap();
    let limits = (12..40).map(|bits| Limits { memory_bytes: 1 << bits, ..Limits::default() });
    let mut compiler = limits
        .filter_map(|limits| Compiler::new(&policy, &limits).ok())
        .next()
        .expect("a small policy compiles in some memory");
    let published = compiler.publish();
    let everything = Delta { respread: true, ..Delta::default() };
    let error = compiler.edit(&large, &everything).unwrap_err().to_string();
    assert!(error.contains("limit"), "{error}");
    assert_eq!(compiler.policy(), &policy);
    assert!(Arc::ptr_eq(&published, &compiler.publish()), "the same goes on");
    // Its classes have other numbers now than those that flows remember.
    let mut stream = RandomEdits::new(&policy, 1).with_addresses_only().with_rule_percent(0);
    let (edited, delta) = policy.edited(&stream.next(&policy)).unwrap();
    assert_eq!(compiler.edit(&edited, &delta).unwrap(), Changes::Everything);
    let (probed, next) = (Probed::new([&edited; 2], 1, 500), compiler.publish());
    let scratch = &mut Scratch::default();
    for ((found, _), headers) in probed.classify(&next, scratch).into_iter().zip(&probed.headers) {
        assert_eq!(found, oracle::classify(&edited, headers, probed.at));
    }
}

#[test]
fn many_rules_in_every_kind_of_list_equal_the_oracle() {
    // More rules than one block of bits holds, more of a pair and of a class than one line holds.
    let mut text = "version: 1\nrules:\n".to_owned();
    for n in 0..1500 {
        let (from, to) = match n % 4 {
            0 => (format!("10.{}.0.0/16", n % 40), "any".to_owned()),
            1 => ("10.0.0.0/9".to_owned(), format!("10.1.{}.0/24", n % 8)),
            2 => (format!("10.0.0.{}", n % 5), format!("10.1.0.{}", n % 3)),
            _ => (format!("fd00:{:x}::/32", n % 9), format!("fd00:1:{:x}::/48", n % 6)),
        };
        let (port, action) = (1 + n * 7 % 600, if n % 3 == 0 { "deny" } else { "allow" });
        text += &format!(
            "- {{name: r{n}, from: \"{from}\", to: \"{to}\", service: tcp/{port}-{}, action: {action}}}\n",
            port + n % 11
        );
    }
    let policy = Policy::parse(&text).unwrap();
    for seed in 0..PLANS.len() as u64 {
        compare(&policy, seed, 3000).unwrap();
    }
}

#[test]
fn a_rule_that_is_checked_hides_none_behind_it_in_its_line() {
    let mut text = "version: 1\nrules:\n".to_owned();
    for n in 0..24 {
        let (from, to) = if n % 2 == 0 { ("10.0.0.1", "any") } else { ("any", "10.0.0.2") };
        let vlan = if n % 3 == 2 { "" } else { ", vlan: 30" };
        text += &format!(
            "- {{name: r{n}, from: {from}, to: {to}, service: tcp/{}, action: allow{vlan}}}\n",
            80 + n / 12
        );
    }
    // What makes `any` wider than what plans list by key.
    for n in 0..6 {
        text += &format!(
            "- {{name: s{n}, from: 10.0.1.{n}, to: 10.0.1.{n}, service: any, action: allow}}\n"
        );
    }
    let policy = Policy::parse(&text).unwrap();
    for seed in 0..PLANS.len() as u64 {
        compare(&policy, seed, 2000).unwrap();
    }
}

#[test]
fn a_full_subnet_is_edited_host_by_host() {
    // No two neighbours are of one class.
    let group = |n: u32| {
        let hosts: Vec<String> =
            (0..250).filter(|host| host % 5 == n).map(|host| format!("10.0.1.{host}")).collect();
        format!("  g{n}: [{}]\n", hosts.join(", "))
    };
    let groups: String = (0..5).map(group).collect();
    let text = format!(
        "version: 1\ngroups:\n{groups}rules:\n  \
         - {{name: one, from: g0, to: g1, service: tcp/80, action: allow}}\n  \
         - {{name: two, from: g2, to: g3, service: tcp/80-81, action: deny}}\n  \
         - {{name: three, from: g4, to: any, service: tcp/81, action: allow}}\n"
    );
    let policy = Policy::parse(&text).unwrap();
    let plan = Some(Plan { by_class: 0, by_key: usize::MAX, crossed: false, blocks: false });
    edit_and_compare(policy.clone(), plan, 1, 40).unwrap();
    let mut compiler = Compiler::with_plan(&policy, &Limits::default(), plan).unwrap();
    let tables = |compiler: &Compiler| compiler.out.src.map.v4.tables.len();
    assert_eq!(tables(&compiler), 2, "of the leading 16 bits, and of the last 8");
    let mut stream = RandomEdits::new(&policy, 1).with_addresses_only();
    let mut policy = policy;
    for _ in 0..100 {
        let (edited, delta) = policy.edited(&stream.next(&policy)).unwrap();
        compiler.edit(&edited, &delta).unwrap();
        policy = edited;
    }
    assert!(tables(&compiler) < 20, "{} tables: none is given back", tables(&compiler));
}

#[test]
fn an_empty_policy_leaves_everything_to_the_default() {
    let policy = Policy::new(Parts {
        default: Action::Reject,
        rules: Vec::new(),
        endpoints: Vec::new(),
        services: Vec::new(),
        assertions: Vec::new(),
        wires: Vec::new(),
        wires_known: false,
    });
    compare(&policy, 1, 1000).unwrap();
    let classifier = compile(&policy, &Limits::default()).unwrap();
    assert_eq!(classifier.action(RuleId::DEFAULT), Action::Reject);
    assert_eq!(classifier.rules(), 0);
}

#[test]
fn a_service_without_a_number_is_refused_and_never_taken_for_another() {
    let service = |port: u16| ServiceSet {
        label: format!("tcp/{port}"),
        terms: vec![ServiceTerm {
            ether_types: FiniteSet::any(),
            protocols: FiniteSet::only([6]),
            src_ports: RangeSet::<u16>::full(),
            dst_ports: RangeSet::<u16>::from_ranges([(port, port)]),
        }],
    };
    let anybody = || AddrSet::any();
    let boxes = vec![plain_box(anybody())];
    let with_last = |services: usize| {
        Policy::new(Parts {
            default: Action::Deny,
            rules: vec![Rule {
                name: "last".into(),
                from: EndpointId(0),
                to: EndpointId(0),
                between: false,
                service: ServiceId(services as u32 - 1),
                vlans: VlanSet::any(),
                wires: FiniteSet::any(),
                action: Action::Allow,
                log: false,
                starts: None,
                expires: None,
                reason: None,
                location: Location { file: "test".into(), line: 1, column: 1 },
                removed: false,
            }],
            endpoints: vec![Endpoint { label: "any".into(), boxes: Arc::new(boxes.clone()) }],
            services: (0..services).map(|port| service(port as u16)).collect(),
            assertions: Vec::new(),
            wires: Vec::new(),
            wires_known: false,
        })
    };
    compare(&with_last(1 << 16), 1, 500).unwrap();
    let error = compile(&with_last((1 << 16) + 1), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("takes more than the 65536 numbers"), "{error}");
}

#[test]
fn what_is_tried_one_after_the_other_ends_together() {
    let (limits, policy) = (Limits::default(), policy_of_groups(4));
    let now = Instant::now();
    Compiler::since(now, &policy, &limits, None).unwrap();
    let long_ago = now.checked_sub(limits.time + Duration::from_secs(1)).unwrap();
    let late = Compiler::since(long_ago, &policy, &limits, None).unwrap_err().to_string();
    assert!(late.contains("takes longer than the limit of 30000 ms"), "{late}");
}

#[test]
fn limits_are_errors_that_name_what_costs_most() {
    let addrs = AddrSet {
        v4: RangeSet::<u32>::from_ranges((0..50_000).map(|i| (i * 4, i * 4 + 1))),
        ..AddrSet::default()
    };
    let sprawling = Endpoint { label: "sprawling".into(), boxes: Arc::new(vec![plain_box(addrs)]) };
    let term = ServiceTerm {
        ether_types: FiniteSet::any(),
        protocols: FiniteSet::any(),
        src_ports: RangeSet::<u16>::full(),
        dst_ports: RangeSet::<u16>::full(),
    };
    let rule = Rule {
        name: "wide".into(),
        from: EndpointId(0),
        to: EndpointId(0),
        between: false,
        service: ServiceId(0),
        vlans: VlanSet::any(),
        wires: FiniteSet::any(),
        action: Action::Allow,
        log: false,
        starts: None,
        expires: None,
        reason: None,
        location: Location { file: "test".into(), line: 1, column: 1 },
        removed: false,
    };
    let policy = Policy::new(Parts {
        default: Action::Deny,
        rules: vec![rule],
        endpoints: vec![sprawling],
        services: vec![ServiceSet { label: "any".into(), terms: vec![term] }],
        assertions: Vec::new(),
        wires: Vec::new(),
        wires_known: false,
    });
    let limits = Limits { memory_bytes: 1 << 19, ..Limits::default() };
    let error = compile(&policy, &limits).unwrap_err().to_string();
    assert!(error.contains("more than the limit of 0 MiB"), "{error}");
    assert!(error.contains("endpoint `sprawling` (50000 ranges and MAC addresses)"), "{error}");
    let limits = Limits { time: Duration::ZERO, ..Limits::default() };
    let error = compile(&policy, &limits).unwrap_err().to_string();
    assert!(error.contains("takes longer than the limit of 0 ms"), "{error}");
}

/// The memory that a policy takes to compile, and `more`.
fn tight(policy: &Policy, plan: Option<Plan>, more: usize) -> Limits {
    let whole = Compiler::with_plan(policy, &Limits::default(), plan);
    let taken = whole.expect("a small policy compiles").spent.bytes;
    Limits { memory_bytes: taken + more, ..Limits::default() }
}

/// Edits a policy until the limits refuse an edit, and returns the error and how many there were
/// before. Whatever was accepted has to load again.
fn edit_until_refused(
    mut policy: Policy,
    mut edit: impl FnMut(u32) -> Edit,
    every: u32,
) -> (String, u32) {
    let limits = tight(&policy, None, 64 << 10);
    let mut compiler = Compiler::new(&policy, &limits).unwrap();
    for n in 0..4_000 {
        let (edited, delta) = policy.edited(&edit(n)).unwrap();
        if let Err(error) = compiler.edit(&edited, &delta) {
            assert_eq!(compiler.policy(), &policy);
            Compiler::new(&policy, &limits).expect("the last policy in force loads again");
            return (error.to_string(), n);
        }
        policy = edited;
        if n % every == every - 1 {
            Compiler::new(&policy, &limits).expect("what edits made loads again");
        }
    }
    panic!("4,000 edits fit {} bytes: {limits:?}", compiler.publish().size_bytes());
}

#[test]
fn members_do_not_grow_a_policy_past_its_limit() {
    let text = "version: 1\ngroups:\n  a: [10.0.0.1, \"fd00::1\"]\n  b: [10.9.0.1]\nrules:\n  \
                - {name: one, from: a, to: b, service: any, action: allow}\n";
    let v4 = |n: u32| IpAddr::V4((0x0a10_0000 + n * 4).into());
    let v6 = |n: u32| IpAddr::V6((0xfd00_u128 << 112 | u128::from(n + 1) << 64).into());
    for (address, every) in [(&v4 as &dyn Fn(u32) -> IpAddr, 100), (&v6, 50)] {
        let edit = |n| {
            let member = Member::Addresses(Addresses::One(address(n)));
            Edit::AddMember { group: "a".into(), member }
        };
        let (error, edits) = edit_until_refused(Policy::parse(text).unwrap(), edit, every);
        assert!(edits > 100, "refused after {edits}: {error}");
        assert!(error.contains("needs more than the limit of"), "{error}");
        assert!(error.contains("endpoint `a`"), "{error}");
    }
}

/// A policy of so many groups of a prefix each, and one rule between two of them.
fn policy_of_groups(groups: u32) -> Policy {
    let group = |n: u32| format!("  g{n}: [10.{}.{}.0/24]\n", n / 256, n % 256);
    let groups: String = (0..groups).map(group).collect();
    let text = format!(
        "version: 1\ngroups:\n{groups}rules:\n  \
         - {{name: one, from: g0, to: g1, service: any, action: allow}}\n"
    );
    Policy::parse(&text).unwrap()
}

/// Adds a rule between two of its groups.
fn add_rule(number: u32, groups: [u32; 2]) -> Edit {
    add_rule_at(Place::Last, number, groups)
}

/// The same at any place.
fn add_rule_at(place: Place, number: u32, [from, to]: [u32; 2]) -> Edit {
    let side = |group: u32| Selector {
        members: vec![Spanned::unplaced(Member::Name(Arc::from(format!("g{group}"))))],
        except: Vec::new(),
        span: Spanned::unplaced(()),
    };
    let service = Spanned::unplaced(Term::Ip((number % 256) as u8));
    let rule = document::Rule {
        name: Spanned::unplaced(Arc::from(format!("rule-{number}"))),
        sides: Sides::Directed { from: Some(side(from)), to: Some(side(to)) },
        service: Some(Terms { terms: vec![service], span: Spanned::unplaced(()) }),
        vlans: None,
        wires: Vec::new(),
        action: Spanned::unplaced(Action::Deny),
        log: None,
        starts: None,
        expires: None,
        reason: None,
    };
    Edit::AddRule { rule: Box::new(rule), place }
}

#[test]
fn rules_do_not_grow_a_policy_past_its_limit() {
    let edit = |n: u32| add_rule(n, [n % 40, (n * 7 + n / 40) % 40]);
    let (error, edits) = edit_until_refused(policy_of_groups(40), edit, 20);
    assert!(edits > 50, "refused after {edits}: {error}");
    assert!(error.contains("needs more than the limit of"), "{error}");
}

#[test]
fn edits_may_add_any_number_of_wide_rules_and_parts() {
    // Rows of bits grow at 256 wide parts, and are read in another way from 384 wide rules on.
    let mut policy = policy_of_groups(300);
    let wide = Some(Plan { by_class: 0, by_key: 0, crossed: false, blocks: false });
    let mut compiler = Compiler::with_plan(&policy, &Limits::default(), wide).unwrap();
    let scratch = &mut Scratch::default();
    for n in 0..420 {
        let place = match n % 3 {
            0 => Place::Last,
            1 => Place::First,
            _ => Place::After(format!("rule-{}", n - 1).into()),
        };
        let edit = add_rule_at(place, n, [n % 300, n * 7 % 300]);
        let (edited, delta) = policy.edited(&edit).unwrap();
        compiler.edit(&edited, &delta).unwrap();
        policy = edited;
        if n % 64 == 0 || [254, 255, 256, 257, 382, 383, 384, 385, 419].contains(&n) {
            let probed = Probed::new([&policy; 2], n.into(), 200);
            let found = probed.classify(&compiler.publish(), scratch);
            for ((found, _), headers) in found.into_iter().zip(&probed.headers) {
                assert_eq!(
                    found,
                    oracle::classify(&policy, headers, probed.at),
                    "{n}: {headers:?}"
                );
            }
        }
    }
    assert_eq!(compiler.edits(), Edits { incremental: 420, whole: 0 });
    assert!(compiler.bits.iter().all(|bits| bits.len() > 256), "{:?}", compiler.bits);
    assert!(compiler.wide_rules.len() > 384);
}

#[test]
fn wide_parts_have_numbers_of_sixteen_bits_after_edits_too() {
    let wide = Some(Plan { by_class: 0, by_key: 0, crossed: false, blocks: false });
    let policy = policy_of_groups(30);
    let mut compiler = Compiler::with_plan(&policy, &Limits::default(), wide).unwrap();
    let mut budget = Budget::new(Limits::default());
    assert!(compiler.write_new_rows(&mut budget).is_ok());
    while compiler.bits[0].len() <= MOST_NUMBERS {
        compiler.bits[0].take_place();
    }
    // As many as rows have room for that leave words to spare.
    compiler.out.src.rows.bits = MOST_NUMBERS / 64 + 2;
    let outcome = compiler.write_new_rows(&mut budget);
    assert!(matches!(outcome, Err(Exceeded::Numbers)), "{outcome:?}");
}

#[test]
fn a_wide_rule_between_others_writes_the_rows_that_it_is_about() {
    let mut policy = policy_of_groups(300);
    for n in 0..100 {
        policy = policy.edited(&add_rule(n, [n, n * 7 % 300])).unwrap().0;
    }
    let wide = Some(Plan { by_class: 0, by_key: 0, crossed: false, blocks: false });
    let mut compiler = Compiler::with_plan(&policy, &Limits::default(), wide).unwrap();
    compiler.out.take_written();
    let adds = (100..114).map(|n| {
        let place = Place::After(format!("rule-{}", n * 37 % 100).into());
        add_rule_at(place, n, [n * 3 % 100, n * 17 % 100 * 7 % 300])
    });
    let removals = (100..114).map(|n| Edit::RemoveRule { name: format!("rule-{n}").into() });
    let scratch = &mut Scratch::default();
    for edit in adds.chain(removals) {
        let (edited, delta) = policy.edited(&edit).unwrap();
        compiler.edit(&edited, &delta).unwrap();
        policy = edited;
        // Each rule has a row of its own on either side: all behind the new one are 50 on average.
        for written in compiler.out.take_written().row_words() {
            assert!(written.is_some_and(|words| words <= 24), "{written:?} words after {edit:?}");
        }
        let probed = Probed::new([&policy; 2], 1, 100);
        for ((found, _), headers) in
            probed.classify(&compiler.out, scratch).into_iter().zip(&probed.headers)
        {
            assert_eq!(found, oracle::classify(&policy, headers, probed.at), "{headers:?}");
        }
    }
    assert_eq!(compiler.edits(), Edits { incremental: 28, whole: 0 });
}

/// Rules between wide groups, of services that overlap, some with conditions that are compared exactly.
fn policy_of_wide_rules(rules: u32, services: &[&str]) -> Policy {
    let group = |n: u32| format!("  g{n}: [10.0.{}.0/24, 10.0.{}.0/24, 10.1.0.0/20]\n", n, 2 * n);
    let groups: String = (0..40).map(group).collect();
    let rule = |n: u32| {
        let service = services[(n * n + n / 7) as usize % services.len()];
        let vlan = if n % 11 == 3 { ", vlan: 30" } else { "" };
        let action = ["allow", "deny"][n as usize % 2];
        let (from, to) = (n % 40, (n * 7 + n / 40) % 40);
        format!(
            "  - {{name: r{n}, from: g{from}, to: g{to}, service: {service}, action: {action}{vlan}}}\n"
        )
    };
    let rules: String = (0..rules).map(rule).collect();
    Policy::parse(&format!("version: 1\ngroups:\n{groups}rules:\n{rules}")).unwrap()
}

#[test]
fn many_wide_rules_are_found_whatever_order_they_stand_in() {
    const DISTINCT: [&str; 6] =
        ["tcp/80", "tcp/81-90", "udp/53", "tcp/443", "ip/47", "udp/500-600"];
    const OVERLAPPING: [&str; 6] =
        ["any", "tcp/1-65535", "tcp/80", "tcp/70-90", "[tcp/80, udp/53]", "udp/1-100"];
    let wide = Some(Plan { by_class: 0, by_key: 0, crossed: false, blocks: false });
    let scratch = &mut Scratch::default();
    for (rules, services, by_service) in [
        (300, DISTINCT, false),
        (500, DISTINCT, true),
        (500, OVERLAPPING, false),
        (2000, OVERLAPPING, true),
        (3000, DISTINCT, true),
    ] {
        let policy = policy_of_wide_rules(rules, &services);
        let mut compiler = Compiler::with_plan(&policy, &Limits::default(), wide).unwrap();
        let classifier = compiler.publish();
        assert_eq!(classifier.wide_runs.is_some(), by_service, "{rules} of {services:?}");
        let probed = Probed::new([&policy; 2], rules.into(), 3000);
        let mut found_any = 0;
        for ((found, _), headers) in
            probed.classify(&classifier, scratch).into_iter().zip(&probed.headers)
        {
            assert_eq!(found, oracle::classify(&policy, headers, probed.at), "{headers:?}");
            found_any += usize::from(found != RuleId::DEFAULT);
        }
        assert!(found_any > 100, "{found_any} of {rules} rules of {services:?} decide anything");
    }
}

/// Whether tables are equal, byte by byte: what a copy misses may be looked up by few frames.
pub(super) fn assert_same_tables(one: &Classifier, other: &Classifier) {
    fn same<T: NoUninit>(what: &str, [one, other]: [&Store<T>; 2]) {
        let [one, other] = [one, other].map(|store| bytemuck::cast_slice::<T, u8>(store.items()));
        assert!(one == other, "{what} differ: {} and {} bytes", one.len(), other.len());
    }
    let both = [one, other];
    assert_eq!(one.actions.items(), other.actions.items());
    same("ranks", both.map(|of| &of.ranks));
    same("buckets", both.map(|of| &of.pairs.buckets));
    same("marks", both.map(|of| &of.pairs.marks));
    same("lines", both.map(|of| &of.lines));
    for side in [SRC, DST] {
        let both = both.map(|of| [&of.src, &of.dst][side]);
        same("slots", both.map(|side| &side.map.v4.slots));
        same("tables", both.map(|side| &side.map.v4.tables));
        same("nodes of IPv4", both.map(|side| &side.map.v4.nodes));
        same("nodes of IPv6", both.map(|side| &side.map.nodes6));
        same("records", both.map(|side| &side.records));
        same("keys", both.map(|side| &side.keys));
        same("rows", both.map(|side| &side.rows.words));
    }
    let [Some(one), Some(other)] = both.map(|of| of.blocks.as_ref()) else {
        assert_eq!(one.blocks.is_some(), other.blocks.is_some());
        return;
    };
    for family in [0, 1] {
        let both = [one, other].map(|blocks| &blocks.families[family]);
        same("places of blocks", both.map(|family| &family.slots));
        same("lists of blocks", both.map(|family| &family.lists));
        same("blocks", both.map(|family| &family.rows));
        same("rules of blocks", both.map(|family| &family.rules));
        same("addresses of blocks", both.map(|family| &family.full));
    }
}

#[test]
fn copies_hold_what_is_written_where_there_was_something_else_before() {
    // The rows of 257 rules are longer than those of 256: with one rule less, what is in a row that
    // comes then was in two others before.
    let mut policy = policy_of_groups(200);
    let wide = Some(Plan { by_class: 0, by_key: 0, crossed: false, blocks: false });
    let mut compiler = Compiler::with_plan(&policy, &Limits::default(), wide).unwrap();
    let mut held = compiler.publish();
    let rules = (1..256).map(|n| add_rule(n, [n % 200, n * 7 % 200]));
    let rounds = (0..20).flat_map(|n: u32| {
        let member = Member::Addresses(Addresses::One(IpAddr::V4((0x0a00_0001 + (n << 8)).into())));
        [
            add_rule(256, [n, n]),
            Edit::RemoveRule { name: "rule-256".into() },
            Edit::AddMember { group: format!("g{}", n + 20).into(), member },
        ]
    });
    for edit in rules.chain(rounds) {
        let (edited, delta) = policy.edited(&edit).unwrap();
        compiler.edit(&edited, &delta).unwrap();
        policy = edited;
        // A worker goes on with the last one while the next is written.
        let next = compiler.publish();
        assert_same_tables(&next, &compiler.out);
        held = next;
    }
    assert_eq!((compiler.edits().whole, compiler.wide_rules.len()), (0, 256));
    let rows = &held.src.rows;
    assert!(rows.words.len() / rows.stride >= 220, "a row for each set of groups");
}

/// Whether each of ten edits fits limits that leave `more` bytes exactly where the policy that it makes
/// does, compiled as a whole.
fn edits_fit_as_a_whole(
    text: &str,
    seed: u64,
    plan: Option<Plan>,
    more: usize,
) -> Result<(), TestCaseError> {
    let Ok(mut policy) = Policy::parse(text) else { return Ok(()) };
    let limits = tight(&policy, plan, more);
    // What is given back on the way may have been too much.
    let Ok(mut compiler) = Compiler::with_plan(&policy, &limits, plan) else { return Ok(()) };
    let mut stream = RandomEdits::new(&policy, seed);
    for _ in 0..10 {
        let edit = stream.next(&policy);
        let Ok((edited, delta)) = policy.edited(&edit) else { continue };
        let whole = Compiler::with_plan(&edited, &limits, plan);
        match compiler.edit(&edited, &delta) {
            Ok(_) => {
                prop_assert!(whole.is_ok(), "{:?} after {:?}", whole.err(), edit);
                policy = edited;
            }
            Err(_) => prop_assert!(whole.is_err(), "{:?} is refused", edit),
        }
    }
    Ok(())
}

#[test]
fn a_side_of_nearly_everything_fits_the_limits_as_a_whole() {
    // Listed in full, the rule from "any but one address" is more than the limit; inverted, it is not.
    let text = "version: 1\ndevices:\n  d0: {ip: 10.0.0.3}\n  d1: {ip: [10.0.0.4, \"fd00::4\", \
                10.0.0.20-10.0.0.22]}\n  d2: {mac: \"02:00:00:00:00:01\", ip: 10.0.0.5}\n  d3: {mac: \
                \"02:00:00:00:00:02\"}\n  d4: {ip: 10.0.0.6, vlan: 7}\ngroups:\n  g0: [10.0.0.0]\n  g1: \
                {in: [10.0.0.0], except: [\"02:00:00:00:00:00\"]}\n  g2: [10.0.0.0]\n  g3: [g1, \
                10.0.0.0, d0]\n  g4: [10.0.0.4, 10.0.0.5, 10.0.0.2]\n  g5: [g4]\nservices:\n  web: \
                [tcp/80, tcp/443]\n  dns: [udp/53, web]\nrules:\n  - {name: r0, from: [10.0.0.4/30], \
                to: [d0], service: web, action: allow}\n  - {name: r1, from: {in: [10.0.0.0/30], \
                except: [\"fd00::0\"]}, to: [10.0.0.1], service: any, action: allow}\n";
    let plan =
        Some(Plan { by_class: usize::MAX, by_key: usize::MAX, crossed: false, blocks: false });
    edits_fit_as_a_whole(text, 8_767_208_175_213_006_094, plan, 2097).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Under plans that do not depend on how many classes a part holds.
    #[test]
    fn what_edits_make_fits_the_limits_as_a_whole(
        text in policy_text(),
        seed in any::<u64>(),
        plan in select(PLANS[1..4].to_vec()),
        more in 0..20_000usize,
    ) {
        edits_fit_as_a_whole(&text, seed, plan, more)?;
    }
}
