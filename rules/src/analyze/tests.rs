//! Assertions against packets that were not chosen by the checker.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;

use super::{AssertionResult, Condition, Probes, check_assertions, explain, failed};
use crate::compile::tests::{bound_policy, policy};
use crate::headers::{Headers, PolicyTime};
use crate::oracle;
use crate::packet::Packet;
use crate::policy::{
    Action, Assertion, Endpoint, EndpointBox, EndpointId, Location, Must, Parts, Policy, Rule,
    RuleId, ServiceId, ServiceTerm,
};
use crate::sets::{AddrSet, FiniteSet, MacSet, RangeSet, VlanSet};

const NOW: PolicyTime = PolicyTime { unix_ms: 1_795_700_000_000, synchronised: true };

fn holds_packet(policy: &Policy, assertion: &Assertion, h: &Headers) -> bool {
    let (from, to) = (policy.endpoint(assertion.from), policy.endpoint(assertion.to));
    policy.service(assertion.service).matches(h)
        && from.matches(h.ether_type, h.src, h.src_mac, h.tags)
        && to.matches(h.ether_type, h.dst, h.dst_mac, h.tags)
}

fn breaks(policy: &Policy, assertion: &Assertion, h: &Headers, at: PolicyTime) -> bool {
    let allowed = policy.action(oracle::classify(policy, h, at)) == Action::Allow;
    holds_packet(policy, assertion, h) && allowed != (assertion.must == Must::Reach)
}

fn assertion() -> impl Strategy<Value = Assertion> {
    (0..5u32, 0..5u32, 0..4u32, select(vec![Must::Reach, Must::NotReach])).prop_map(
        |(from, to, service, must)| Assertion {
            from: EndpointId(from),
            to: EndpointId(to),
            service: ServiceId(service),
            must,
            location: Location { file: "generated".into(), line: 1, column: 1 },
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn proofs_miss_no_breach_and_invent_none(
        policy in policy(),
        assertion in assertion(),
        seed in any::<u64>(),
        unix_ms in -1..5i64,
        synchronised in any::<bool>(),
    ) {
        let policy = policy.with_assertions(vec![assertion.clone()]);
        let now = PolicyTime { unix_ms, synchronised };
        let result = check_assertions(&policy, now).remove(0);
        if let Some(failure) = result.failure {
            prop_assert!(breaks(&policy, &assertion, &failure.headers, failure.at));
            prop_assert_eq!(failure.rule, oracle::classify(&policy, &failure.headers, failure.at));
            return Ok(());
        }
        prop_assert!(result.is_decided(), "a small policy is no work");
        let mut probes = Probes::new(&policy, seed);
        for _ in 0..500 {
            let headers = probes.headers();
            // No parser produces other headers, so assertions do not speak of them.
            let is_tagged = headers.tags.outer != 0 || headers.tags.inner == 0;
            if headers == headers.normalised() && !headers.src_mac.is_group() && is_tagged {
                prop_assert!(!breaks(&policy, &assertion, &headers, now), "{headers:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_rule_misses_exactly_when_some_condition_of_it_fails(
        policy in policy(),
        seed in any::<u64>(),
    ) {
        let mut probes = Probes::new(&policy, seed);
        for _ in 0..50 {
            let (headers, at) = (probes.headers(), probes.instant());
            let explanation = explain(&policy, &headers, at);
            let decided = explanation.rule;
            prop_assert_eq!(decided, oracle::classify(&policy, &headers, at));
            let before = policy.rules().len().min(decided.0 as usize);
            prop_assert_eq!(explanation.misses.len(), before);
            prop_assert!(explanation.misses.iter().all(|miss| !miss.failed.is_empty()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The linear scan over the rule alone is the judge, with the conditions that are said to fail
    /// taken out of the rule, and with all of them but one.
    #[test]
    fn a_rule_is_said_to_miss_what_the_oracle_says_it_misses(
        policy in prop_oneof![policy(), bound_policy()],
        seed in any::<u64>(),
    ) {
        let mut probes = Probes::new(&policy, seed);
        for _ in 0..20 {
            let (headers, at) = (probes.headers(), probes.instant());
            for rule in policy.rules().iter() {
                let matches = |without: &[Condition]| {
                    let alone = alone(&policy, rule, without);
                    oracle::classify(&alone, &headers, at) == RuleId(0)
                };
                let failed = failed(&policy, rule, &headers, at);
                prop_assert_eq!(matches(&[]), failed.is_empty(), "{:?} {:?}", rule, headers);
                if rule.between {
                    // A side that fails either way round has no meaning of its own.
                    continue;
                }
                prop_assert!(matches(&failed), "{failed:?} of {rule:?}, {headers:?}");
                for left_in in 0..failed.len() {
                    let mut without = failed.clone();
                    without.remove(left_in);
                    prop_assert!(!matches(&without), "{failed:?} of {rule:?}, {headers:?}");
                }
            }
        }
    }
}

/// A policy of one rule without some of its conditions.
fn alone(policy: &Policy, rule: &Rule, without: &[Condition]) -> Policy {
    use Condition::{From, FromMac, FromVlan, Service, Time, To, ToMac, ToVlan, Vlan, Wire};
    let any_box = EndpointBox {
        addrs: AddrSet::any(),
        macs: MacSet::any(),
        vlans: VlanSet::any(),
        beyond: None,
        except_bound: Arc::default(),
    };
    let any_host = Endpoint { label: "any".to_owned(), boxes: Arc::new(vec![any_box]) };
    let side = |id, dropped: &[Condition]| match dropped.iter().any(|c| without.contains(c)) {
        true => any_host.clone(),
        false => policy.endpoint(id).clone(),
    };
    let endpoints =
        vec![side(rule.from, &[From, FromMac, FromVlan]), side(rule.to, &[To, ToMac, ToVlan])];
    let mut service = policy.service(rule.service).clone();
    let mut rule = rule.clone();
    (rule.from, rule.to, rule.service) = (EndpointId(0), EndpointId(1), ServiceId(0));
    for condition in without {
        match condition {
            Service => {
                service.terms = vec![ServiceTerm {
                    ether_types: FiniteSet::any(),
                    protocols: FiniteSet::any(),
                    src_ports: RangeSet::<u16>::full(),
                    dst_ports: RangeSet::<u16>::full(),
                }];
            }
            Vlan => rule.vlans = VlanSet::any(),
            Wire => rule.wires = FiniteSet::any(),
            Time => (rule.starts, rule.expires) = (None, None),
            From | FromMac | FromVlan | To | ToMac | ToVlan => {}
        }
    }
    Policy::new(Parts {
        default: Action::Deny,
        rules: vec![rule],
        endpoints,
        services: vec![service],
        assertions: Vec::new(),
        wires: Vec::new(),
        wires_known: false,
    })
}

#[test]
fn the_nearest_miss_says_what_is_wrong() {
    let policy = parse(PLANT);
    let miss = |words: &str| {
        let explanation = explain(&policy, &Packet::read(words).unwrap().headers, NOW);
        let nearest = explanation.nearest(&policy, 1)[0].clone();
        (explanation.rule, nearest.rule, nearest.failed)
    };
    use Condition::{From, Service, Time};
    assert_eq!(
        miss("tcp 10.20.0.11 -> 10.30.3.7:503"),
        (RuleId::DEFAULT, RuleId(1), vec![Service])
    );
    assert_eq!(miss("tcp 10.20.0.13 -> 10.30.3.7:502"), (RuleId::DEFAULT, RuleId(1), vec![From]));
    assert_eq!(miss("tcp 10.9.9.9 -> 10.30.3.7:22"), (RuleId::DEFAULT, RuleId(2), vec![Time]));
}

#[test]
fn a_device_with_another_mac_address_or_vlan_is_told_from_a_stranger() {
    let policy = parse(
        r#"
version: 1
devices:
  plc-1: {mac: "02:00:00:00:00:07", ip: 10.30.3.7, vlan: 30}
rules:
  - {name: from-plc, from: plc-1, to: any, service: tcp/1, action: allow}
  - {name: to-plc, from: any, to: plc-1, service: tcp/2, action: allow}
"#,
    );
    let failed = |words: &str| {
        let explanation = explain(&policy, &Packet::read(words).unwrap().headers, NOW);
        let failed = explanation.misses.into_iter().map(|miss| miss.failed);
        failed.collect::<Vec<_>>()
    };
    use Condition::{From, FromMac, FromVlan, Service, To, ToMac, ToVlan};
    let plc = "from-mac 02:00:00:00:00:07";
    let source = |address: &str, rest: &str| {
        failed(&format!("tcp {address} -> 10.1.1.1:9 {rest}")).remove(0)
    };
    assert_eq!(source("10.30.3.7", &format!("vlan 30 {plc}")), [Service]);
    assert_eq!(source("10.30.3.7", "vlan 30 from-mac 02:00:00:00:00:66"), [FromMac, Service]);
    assert_eq!(source("10.30.3.7", &format!("vlan 31 {plc}")), [FromVlan, Service]);
    assert_eq!(source("10.30.3.8", &format!("vlan 30 {plc}")), [From, Service]);
    let destination = |address: &str, rest: &str| {
        failed(&format!("tcp 10.1.1.1 -> {address}:9 {rest}")).remove(1)
    };
    let plc = "to-mac 02:00:00:00:00:07";
    assert_eq!(destination("10.30.3.7", &format!("vlan 30 {plc}")), [Service]);
    assert_eq!(destination("10.30.3.7", "vlan 30 to-mac 02:00:00:00:00:66"), [ToMac, Service]);
    assert_eq!(destination("10.30.3.7", &format!("vlan 31 {plc}")), [ToVlan, Service]);
    assert_eq!(destination("10.30.3.8", &format!("vlan 30 {plc}")), [To, Service]);
}

#[test]
fn between_is_explained_by_the_nearer_way_round() {
    let policy = parse(
        "version: 1\nrules:\n  - {name: sync, between: [10.0.0.1, 10.0.0.2], service: tcp/1, action: allow}",
    );
    let failed = |words: &str| {
        explain(&policy, &Packet::read(words).unwrap().headers, NOW).misses[0].failed.clone()
    };
    assert_eq!(failed("tcp 10.0.0.2 -> 10.0.0.1:2"), [Condition::Service]);
    assert_eq!(failed("tcp 10.0.0.2 -> 10.0.0.3:1"), [Condition::To]);
    assert_eq!(failed("tcp 10.0.0.3 -> 10.0.0.1:1"), [Condition::From]);
}

fn parse(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"))
}

const PLANT: &str = r"
version: 1
groups:
  hmi: [10.20.0.11, 10.20.0.12]
  plc: [10.30.3.0/24]
rules:
  - {name: no-broadcast, from: any, to: 10.30.3.255, service: any, action: deny}
  - {name: modbus, from: hmi, to: plc, service: tcp/502, action: allow}
  - name: maintenance
    from: any
    to: plc
    service: tcp/22
    action: allow
    starts: 2026-11-28T06:00:00Z
    expires: 2026-11-29T06:00:00Z
";

#[test]
fn a_breach_comes_with_a_packet_and_the_rule() {
    let policy = parse(&format!(
        "{PLANT}assert:\n  - {{from: hmi, to: plc, service: tcp/502, must: reach}}"
    ));
    let result = check_assertions(&policy, NOW).remove(0);
    let failure = result.failure.expect("the last address is denied");
    assert_eq!((failure.headers.dst, failure.rule), (0x0a1e_03ff, RuleId(0)));
    let text = result.describe(&policy);
    assert!(text.contains("policy.yaml:"), "{text}");
    assert!(text.contains("`hmi` must reach `plc` by `tcp/502`: broken"), "{text}");
    assert!(text.contains("-> 10.30.3.255:502\n  is denied by rule `no-broadcast`"), "{text}");
    let witness = text.lines().nth(1).unwrap().trim().strip_prefix("witness: ").unwrap();
    assert_eq!(Packet::read(witness).unwrap().headers, failure.headers);
}

#[test]
fn what_a_later_instant_breaks_is_found_now() {
    let policy = parse(&format!(
        "{PLANT}assert:\n  - {{from: any, to: plc, service: tcp/22, must: not-reach}}"
    ));
    let result = check_assertions(&policy, NOW).remove(0);
    let failure = result.failure.expect("maintenance begins later");
    assert_eq!(failure.rule, RuleId(2));
    assert_eq!(Some(failure.at.unix_ms), policy.rules()[2].starts);
    let after = PolicyTime { unix_ms: policy.rules()[2].expires.unwrap(), ..NOW };
    let result = check_assertions(&policy, after).remove(0);
    assert!(result.holds());
    assert!(result.describe(&policy).ends_with("holds, proved for every packet"));
}

#[test]
fn an_unsynchronised_clock_is_no_excuse() {
    let policy = parse(&format!(
        "{PLANT}assert:\n  - {{from: any, to: plc, service: tcp/22, must: not-reach}}"
    ));
    let during = PolicyTime { unix_ms: policy.rules()[2].starts.unwrap(), synchronised: false };
    let failure = check_assertions(&policy, during).remove(0).failure.expect("once it is");
    assert!(failure.at.synchronised);
}

#[test]
fn assertions_about_nothing_say_so() {
    let policy = parse(&format!(
        "{PLANT}assert:\n  - {{from: hmi, to: 'fd00::1', service: any, must: not-reach}}"
    ));
    let result = check_assertions(&policy, NOW).remove(0);
    assert!(result.holds());
    assert!(result.describe(&policy).contains("no packet is in question"));
}

#[test]
fn ten_thousand_rules_are_decided_in_bounded_time() {
    let rules: String = (0..10_000u32)
        .map(|n| {
            let (a, b, port) = (n / 100, n % 100, 1 + n % 300);
            format!("  - {{name: r{n}, from: 10.{a}.0.0/16, to: 10.{b}.{a}.0/24, service: tcp/{port}, action: allow}}\n")
        })
        .collect();
    let policy = parse(&format!(
        "version: 1\nrules:\n{rules}assert:\n  - {{from: any, to: any, service: any, must: not-reach}}\n  \
         - {{from: any, to: any, service: udp/53, must: not-reach}}\n  \
         - {{from: 192.0.2.0/24, to: 10.0.0.0/8, service: any, must: not-reach}}\n  \
         - {{from: 10.7.0.0/16, to: 10.12.7.0/24, service: tcp/112, must: not-reach}}\n  \
         - {{from: 10.7.0.0/16, to: 10.12.7.0/24, service: tcp/113, must: reach}}\n"
    ));
    let started = std::time::Instant::now();
    let results = check_assertions(&policy, NOW);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    assert!(results[0].failure.is_some());
    assert!(results[1..].iter().all(AssertionResult::holds), "{results:?}");
}

/// `rules` denials that end one after another, and `assertions` equal promises about everything.
fn timed(rules: usize, assertions: usize) -> Policy {
    let mut text = "version: 1\nrules:\n".to_owned();
    for n in 0..rules {
        let (high, low, port) = (n >> 8, n & 255, n + 1);
        let expires = jiff::Timestamp::from_second(1_893_456_000 + n as i64).expect("in 2030");
        text.push_str(&format!(
            "  - {{name: r{n}, from: 10.{high}.{low}.0/24, to: any, service: tcp/{port}, \
             action: deny, expires: {expires}}}\n"
        ));
    }
    text.push_str("  - {name: rest, from: any, to: any, service: any, action: deny}\n");
    text.push_str("  - {name: hole, from: any, to: any, service: tcp, action: allow}\nassert:\n");
    for _ in 0..assertions {
        text.push_str("  - {from: any, to: any, service: any, must: not-reach}\n");
    }
    parse(&text)
}

#[test]
fn assertions_times_instants_are_bounded_together_and_what_is_left_out_is_said() {
    let policy = timed(4_000, 4_000);
    let started = std::time::Instant::now();
    let results = check_assertions(&policy, NOW);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    assert_eq!(results.len(), 4_000);
    for result in &results {
        assert!(result.failure.is_none());
        if !result.is_decided() {
            assert!(!result.holds());
            assert!(result.describe(&policy).contains("takes more work than a load may"));
        }
    }
}

#[test]
fn a_plant_s_worth_of_timed_rules_is_proved_at_every_instant() {
    let policy = timed(40, 40);
    for result in check_assertions(&policy, NOW) {
        assert!(result.holds());
        assert_eq!(result.instants.len(), 41);
        assert!(result.describe(&policy).contains("after each of 40 later starts and expiries"));
    }
}

#[test]
fn the_earliest_breach_is_the_one_that_is_shown() {
    let mut text = "version: 1\nrules:\n".to_owned();
    for n in 0..20 {
        text.push_str(&format!(
            "  - {{name: r{n}, from: 10.0.{n}.0/24, to: any, service: any, action: deny, \
             expires: 2030-01-{:02}T00:00:00Z}}\n",
            20 - n
        ));
    }
    text.push_str(
        "  - {name: rest, from: 10.0.0.0-10.0.19.255, to: any, service: any, action: allow}\n",
    );
    text.push_str("assert:\n  - {from: any, to: any, service: any, must: not-reach}\n");
    let policy = parse(&text);
    let failure = check_assertions(&policy, NOW)[0].failure.expect("once the denials expire");
    assert_eq!(Some(failure.at.unix_ms), policy.rule(RuleId(19)).and_then(|rule| rule.expires));
    assert_eq!((failure.rule, failure.headers.src >> 8), (RuleId(20), 0x000a_0013));
}
