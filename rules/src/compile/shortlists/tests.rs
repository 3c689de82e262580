//! Policies in short lists against the oracle.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::blocks::tests::{Draws, flat_policy};
use super::super::budget::Budget;
use super::super::lists::alternatives;
use super::super::plan::Plan;
use super::super::tests::classify_and_compare;
use super::super::{Compiler, Limits, compile};
use super::*;
use crate::classifier::{Classifier, MAX_BATCH, Scratch};
use crate::headers::Headers;
use crate::policy::Policy;

const LISTED: Option<Plan> = Some(Plan { by_class: 1, by_key: 2, crossed: false, blocks: false });

/// The policy in short lists, whatever else would be faster.
fn shortlisted(policy: &Policy) -> Option<Classifier> {
    let limits = Limits::default();
    let mut compiler =
        Compiler::with_plan(policy, &limits, LISTED).expect("a small policy compiles");
    let [src, dst] = &compiler.sides;
    let alternatives = alternatives(policy, src, dst);
    let order = Order::new(&compiler, &alternatives)?;
    let crossed = from_order(&compiler, &order, &mut Budget::new(limits))?;
    compiler.out.crossed = Some(Arc::new(crossed));
    Some(compiler.into_classifier())
}

/// Whether a policy is put in short lists.
fn build(policy: &Policy) -> bool {
    let compiler = Compiler::with_plan(policy, &Limits::default(), LISTED).expect("compiles");
    let [src, dst] = &compiler.sides;
    let alternatives = alternatives(policy, src, dst);
    super::build(&compiler, &alternatives, &mut Budget::new(Limits::default())).is_some()
}

fn lists(classifier: &Classifier) -> &Shortlists {
    match classifier.crossed.as_deref() {
        Some(Crossed { decided: Decided::ByLists(lists), .. }) => lists,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn short_lists_equal_the_oracle(seed in any::<u64>(), rules in 1..80u64) {
        let policy = flat_policy(seed, rules);
        let classifier = shortlisted(&policy).expect("short lists");
        classify_and_compare(&policy, &classifier, seed, 500)?;
    }

    #[test]
    fn long_lists_and_many_services_equal_the_oracle(
        seed in any::<u64>(),
        ports in prop_oneof![Just(40u64), Just(400)],
    ) {
        let policy = policy_of_ports(seed, 8, 600, ports);
        let classifier = shortlisted(&policy).expect("short lists");
        let lists = lists(&classifier);
        prop_assert_eq!(lists.vectors, if ports > 255 { 2 } else { 1 });
        if ports > 255 {
            prop_assert!((lists.first_long as usize) < lists.rows.len());
        }
        classify_and_compare(&policy, &classifier, seed, 1000)?;
        let mut out = [RuleId::DEFAULT; MAX_BATCH];
        let crossed = classifier.crossed.as_deref().expect("short lists");
        let headers = [Headers::default(); MAX_BATCH];
        let decides =
            classifier.classify_crossed(crossed, &headers, &mut Scratch::default(), &mut out);
        prop_assert!(decides, "no rule asks for more, so that lists of classes are not asked");
    }
}

/// Rules of hosts to any, and as many `wide` ones of all of them, to any too.
fn policy_of_any(hosts: usize, wide: usize, first: &str) -> Policy {
    let mut text = format!("version: 1\nrules:\n{first}");
    for host in 0..hosts {
        let (c, d) = (host / 250, host % 250);
        text += &format!(
            "  - {{name: h{host}, from: 10.0.{c}.{d}, to: any, service: tcp/443, action: allow}}\n"
        );
    }
    for number in 0..wide {
        let from = ["10.0.0.0/8", "10.0.0.0-10.255.255.254"][number % 2];
        text += &format!(
            "  - {{name: w{number}, from: {from}, to: any, service: tcp/80, action: allow}}\n"
        );
    }
    text += "  - {name: one, from: 10.0.0.1, to: 10.0.0.2, service: tcp/22, action: allow}\n";
    text += "  - {name: rest, from: any, to: any, service: udp/53, action: allow}\n";
    Policy::parse(&text).expect("a policy")
}

#[test]
fn rules_that_every_class_is_in_end_in_no_short_lists_and_at_once() {
    assert!(build(&policy_of_any(200, 100, "")));
    assert!(!build(&policy_of_any(2100, 2100, "")), "each host is in all wide ones");
    let guard = "  - {name: g, from: any, to: any, service: any, vlan: 666, action: deny}\n";
    assert!(!build(&policy_of_any(200, 100, guard)), "every frame would be looked up twice");
}

/// Rules between so many hosts, a quarter of their sides any, on so many ports.
fn policy_of_ports(seed: u64, hosts: u64, rules: u64, ports: u64) -> Policy {
    let mut draws = Draws(seed);
    let mut text = String::from("version: 1\nrules:\n");
    for number in 0..rules {
        let [from, to] = [0, 1].map(|side| match draws.below(4) {
            0 => "any".to_owned(),
            _ => format!("10.0.{side}.{}", draws.below(hosts)),
        });
        let port = 1 + draws.below(ports);
        text += &format!(
            "  - {{name: r{number}, from: {from}, to: {to}, service: tcp/{port}, action: allow}}\n"
        );
    }
    Policy::parse(&text).expect("a policy")
}

#[test]
fn a_policy_of_long_lists_or_exact_checks_is_put_in_none() {
    assert!(build(&policy_of_ports(1, 8, 600, 400)));
    // Fifty rules for each pair of hosts.
    assert!(!build(&policy_of_ports(1, 2, 600, 400)));
    // More services than there are numbers.
    assert!(!build(&policy_of_ports(1, 30, 3000, 3000)));
    let timed = |rules: u64| {
        let rules = (0..rules).map(|number| {
            let expires = if number < 4 { ", expires: \"2026-11-24T06:00:00Z\"" } else { "" };
            format!(
                "  - {{name: r{number}, from: 10.0.0.{number}, to: any, service: any, \
                 action: allow{expires}}}\n"
            )
        });
        Policy::parse(&format!("version: 1\nrules:\n{}", rules.collect::<String>())).unwrap()
    };
    assert!(!build(&timed(31)));
    assert!(build(&timed(32)));
}

#[test]
fn a_policy_that_cannot_be_crossed_out_is_put_in_short_lists() {
    let policy = policy_of_ports(1, 250, 6000, 250);
    let classifier = compile(&policy, &Limits::default()).expect("compiles");
    let lists = lists(&classifier);
    assert!(lists.rows.len() > 1000, "{} rows", lists.rows.len());
    classify_and_compare(&policy, &classifier, 1, 20_000).expect("equal");
}
