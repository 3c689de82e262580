//! Policies in blocks against the oracle, and after edits.

use proptest::prelude::*;

use super::super::budget::Budget;
use super::super::plan::Plan;
use super::super::tests::{Edited, classify_and_compare, edit_and_compare};
use super::super::{Compiler, Edits, Limits, compile};
use super::{FEW_RULES, MANY_RULES};
use crate::policy::edit::{Edit, Place};
use crate::policy::{self, Policy};
use crate::syntax::{Source, parse_document};

/// In blocks, however few the rules are.
const IN_BLOCKS: Option<Plan> = Some(Plan { by_class: 1, by_key: 2, crossed: false, blocks: true });

/// Numbers that follow from a seed.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % count
    }

    /// A prefix of one of few addresses, so that prefixes hold each other.
    fn prefix(&mut self) -> String {
        match self.below(12) {
            0 => "any".into(),
            1 => "0.0.0.0/0".into(),
            2 => "\"::/0\"".into(),
            3 => ["a", "b", "c"][self.below(3) as usize].into(),
            4..=9 => {
                let length = [32, 32, 30, 24, 20, 16, 14, 9, 8, 1][self.below(10) as usize];
                let address = [10u32, 10, 11, 192][self.below(4) as usize] << 24
                    | (self.below(3) as u32) << 16
                    | (self.below(40) as u32) << 8
                    | self.below(8) as u32;
                let address = address & !u32::MAX.checked_shr(length).unwrap_or(0);
                format!("{}/{length}", std::net::Ipv4Addr::from(address))
            }
            _ => {
                let length = [128, 127, 64, 48, 33, 16][self.below(6) as usize];
                let address = 0xfd00u128 << 112
                    | u128::from(self.below(20)) << 80
                    | u128::from(self.below(4)) << 64
                    | u128::from(self.below(8));
                let address = address & !u128::MAX.checked_shr(length).unwrap_or(0);
                format!("\"{}/{length}\"", std::net::Ipv6Addr::from(address))
            }
        }
    }

    fn rule(&mut self, number: u64) -> String {
        const SERVICES: [&str; 8] =
            ["any", "any", "tcp/80", "tcp/1-1000", "udp/53", "[tcp/443, udp/500]", "ip/47", "web"];
        let (from, to) = (self.prefix(), self.prefix());
        let service = SERVICES[self.below(8) as usize];
        let more = match self.below(16) {
            0 => ", vlan: 30",
            1 => ", starts: \"1970-01-01T00:00:00.001Z\"",
            2 => ", expires: \"1970-01-01T00:00:00.002Z\"",
            _ => "",
        };
        let action = ["allow", "deny", "reject"][self.below(3) as usize];
        let sides = match self.below(8) {
            0 => format!("between: [{from}, {to}]"),
            _ => format!("from: {from}, to: {to}"),
        };
        format!("  - {{name: r{number}, {sides}, service: {service}{more}, action: {action}}}\n")
    }
}

/// A policy of rules between prefixes and small groups.
pub(crate) fn flat_policy(seed: u64, rules: u64) -> Policy {
    let mut draws = Draws(seed);
    let rules: String = (0..rules).map(|number| draws.rule(number)).collect();
    let text = format!(
        "version: 1\ngroups:\n  a: [10.0.1.1, \"fd00::1\"]\n  b: [10.1.0.0/24, 10.0.2.0/23]\n  \
         c: [10.0.0.0-10.0.0.6, \"fd00:0:1::/48\"]\nservices:\n  web: [tcp/80, tcp/443]\n\
         rules:\n{rules}"
    );
    Policy::parse(&text).unwrap_or_else(|errors| panic!("{} in {text}", errors[0]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn blocks_equal_the_oracle(seed in any::<u64>(), rules in 1..150u64) {
        let policy = flat_policy(seed, rules);
        let compiler = Compiler::with_plan(&policy, &Limits::default(), IN_BLOCKS).unwrap();
        // One rule from "b" to "c" both ways may be more prefixes than such a policy may have.
        let classifier = compiler.into_classifier();
        prop_assert!(classifier.blocks.is_some() || rules < 50);
        classify_and_compare(&policy, &classifier, seed, 400)?;
    }

    #[test]
    fn edited_blocks_equal_those_of_a_policy_compiled_as_a_whole(
        seed in any::<u64>(),
        rules in 1..80u64,
    ) {
        edit_and_compare(flat_policy(seed, rules), IN_BLOCKS, seed, 20)?;
    }
}

#[test]
fn edits_of_blocks_say_which_flows_they_concern() {
    let (mut edits, mut in_blocks, mut told) = (0, 0, 0);
    for seed in 0..12 {
        let seen = edit_and_compare(flat_policy(seed, 100), IN_BLOCKS, seed, 20).unwrap();
        let Edited { edits: Edits { incremental, whole }, .. } = seen;
        (edits, in_blocks) = (edits + incremental + whole, in_blocks + seen.in_blocks);
        told += seen.told;
    }
    assert!(in_blocks * 10 >= edits * 9, "{in_blocks} of {edits} edits left blocks");
    assert!(told * 10 >= edits, "{told} of {edits} edits named footprints");
}

#[test]
fn ipv6_addresses_are_told_apart_in_more_bits_than_keys_have() {
    // Neighbours differ first in a bit of their own each.
    let address = |bit: u32| std::net::Ipv6Addr::from((0xfd << 120 | 0x5a5a) ^ 1 << bit);
    let mut text = "version: 1\nrules:\n".to_owned();
    for bit in 0..120 {
        let (from, to) = (address(bit), address(119 - bit));
        let length = if bit % 3 == 0 { 128 } else { 128 - bit };
        let from = std::net::Ipv6Addr::from(from.to_bits() & super::mask(length as u8));
        text += &format!(
            "  - {{name: r{bit}, from: \"{from}/{length}\", to: \"{to}\", service: tcp/{}, \
             action: allow}}\n",
            1 + bit % 7
        );
    }
    let policy = Policy::parse(&text).unwrap_or_else(|errors| panic!("{}", errors[0]));
    let budget = &mut Budget::new(Limits::default());
    let entries = super::all_entries(&policy, budget).unwrap();
    let all = entries[super::V6].iter().flat_map(|entry| entry.addresses);
    let mut all: Vec<u128> = all.collect();
    all.sort_unstable();
    all.dedup();
    let differing = all
        .windows(2)
        .fold(0u128, |bits, pair| bits | 1 << (127 - (pair[0] ^ pair[1]).leading_zeros()));
    assert!(differing.count_ones() > 32, "{differing:x}");
    let compiler = Compiler::with_plan(&policy, &Limits::default(), IN_BLOCKS).unwrap();
    let classifier = compiler.into_classifier();
    assert!(classifier.blocks.is_some());
    for seed in 0..8 {
        classify_and_compare(&policy, &classifier, seed, 1_000).unwrap();
    }
    let seen = edit_and_compare(policy, IN_BLOCKS, 3, 20).unwrap();
    assert!(seen.in_blocks > 0);
}

/// An edit of a policy of [`flat_policy`] that adds or removes a rule or an address of a group.
fn flat_edit(policy: &Policy, draws: &mut Draws, number: u64) -> Edit {
    let (address, rule) = (draws.below(8), draws.rule(1_000_000 + number));
    let text = format!("version: 1\ngroups:\n  x: [10.0.0.{}]\nrules:\n{}", address, rule);
    let parsed = parse_document(&Source::new("edit.yaml", &text), &policy::Limits::default());
    let mut document = parsed.unwrap_or_else(|errors| panic!("{} in {text}", errors[0]));
    let group = || ["a", "b"][address as usize % 2].into();
    let member = document.groups[0].members.members[0].value.clone();
    match draws.below(6) {
        0 => Edit::AddMember { group: group(), member },
        1 => Edit::RemoveMember { group: group(), member },
        2..=3 => {
            let rules = policy.rule_count() as u64;
            let name = policy.order().nth(draws.below(rules) as usize).unwrap();
            Edit::RemoveRule { name: policy.rule_name(name).into() }
        }
        _ => Edit::AddRule { rule: Box::new(document.rules.remove(0)), place: Place::First },
    }
}

#[test]
fn edits_change_the_blocks_that_they_are_about() {
    let mut policy = flat_policy(7, 300);
    let mut compiler = Compiler::with_plan(&policy, &Limits::default(), IN_BLOCKS).unwrap();
    let (mut draws, mut edits) = (Draws(7), 0);
    for number in 0..600 {
        let edit = flat_edit(&policy, &mut draws, number);
        let Ok((edited, delta)) = policy.edited(&edit) else { continue };
        compiler.edit(&edited, &delta).unwrap();
        assert!(compiler.out.blocks.is_some());
        (policy, edits) = (edited, edits + 1);
    }
    let Edits { incremental, whole } = compiler.edits();
    assert!(edits > 300 && whole <= incremental / 10, "{incremental} in place, {whole} whole");
    let published = compiler.publish();
    let whole = Compiler::with_plan(&policy, &Limits::default(), IN_BLOCKS).unwrap();
    let (edited, fresh) = (published.size_bytes(), whole.into_classifier().size_bytes());
    assert!(4 * edited <= 5 * fresh, "{edited} bytes after edits, {fresh} compiled as a whole");
    classify_and_compare(&policy, &published, 7, 2_000).unwrap();
}

/// A policy of rules between prefixes that hardly ever hold each other.
fn wide_policy(rules: u64) -> Policy {
    let mut draws = Draws(3);
    let mut side = |leading: u64| {
        let length = [32, 28, 24, 22][draws.below(4) as usize];
        let address = 10u64 << 24 | leading << 23 | draws.below(1 << 23);
        let address = address as u32 & (u32::MAX << (32 - length));
        format!("{}/{length}", std::net::Ipv4Addr::from(address))
    };
    let mut text = "version: 1\nrules:\n".to_owned();
    for number in 0..rules {
        text += &format!(
            "  - {{name: r{number}, from: {}, to: {}, service: tcp/{}, action: allow}}\n",
            side(1),
            side(0),
            1 + number % 90
        );
    }
    Policy::parse(&text).unwrap()
}

#[test]
fn many_rules_of_few_addresses_are_put_in_blocks() {
    // Both where lists are tried before and where they are not.
    for rules in [FEW_RULES + 500, MANY_RULES] {
        let policy = wide_policy(rules as u64);
        let classifier = compile(&policy, &Limits::default()).unwrap();
        assert!(classifier.blocks.is_some(), "{rules} rules");
        classify_and_compare(&policy, &classifier, 3, 1_000).unwrap();
    }
    let few = compile(&wide_policy(FEW_RULES as u64 - 1), &Limits::default()).unwrap();
    assert!(few.blocks.is_none());
}

#[test]
fn endpoints_are_split_once_and_charged() {
    // A group of a hundred addresses, no two of which are a prefix, on one side of ten rules.
    let hosts: Vec<String> = (0..100).map(|n| format!("10.0.0.{}", n * 2)).collect();
    let mut text = format!("version: 1\ngroups:\n  a: [{}]\nrules:\n", hosts.join(", "));
    for n in 0..1_000 {
        let (high, low) = (n / 100, n % 100);
        let from = if n < 10 { "a".into() } else { format!("10.1.{high}.{low}") };
        let to = format!("10.2.{high}.{low}");
        text +=
            &format!("  - {{name: r{n}, from: {from}, to: {to}, service: any, action: allow}}\n");
    }
    let policy = Policy::parse(&text).unwrap();
    let entries_within = |work, limits| {
        let mut budget = Budget::with_work(limits, work);
        let entries = super::entries_of(&policy, policy.order(), &mut budget);
        (entries.map(|entries| entries.len()), budget.spent_bytes())
    };
    let prefixes = 100 + 990 + 1_000;
    let entries = 10 * 100 + 990;
    let work = prefixes + 1_000 + entries;
    // All memory is given back.
    assert_eq!(entries_within(work, Limits::default()), (Some(entries), 0));
    assert_eq!(entries_within(work - 1, Limits::default()).0, None);
    let few = Limits { memory_bytes: 16 << 10, ..Limits::default() };
    assert_eq!(entries_within(work, few), (None, 0));
}
