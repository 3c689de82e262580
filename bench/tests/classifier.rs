//! The classifier equals the linear scan on real rule sets. The full count is
//! `cargo run --release -p bulkhead-bench -- verify-classifier`.

use bulkhead_bench::classbench::Family;
use bulkhead_bench::data;
use bulkhead_bench::segmentation::{self, Families, Shape};
use bulkhead_bench::verify::{SecondEngine, compare, compare_all};
use bulkhead_rules::headers::{ETHER_IPV6, Headers};
use bulkhead_rules::policy::Policy;

fn assert_equal(name: &str, policy: &Policy, packets: u64, wanted: fn(&Headers) -> bool) {
    let report = compare(policy, packets, 7, wanted).expect(name);
    assert_eq!(report.first_wrong, None, "{name}");
    assert_eq!(report.packets, packets, "{name}");
    assert!(report.matched > packets / 10, "{name}: {} matched", report.matched);
}

#[test]
fn example_policies() {
    let examples = data::examples().expect("the examples are policies");
    assert!(!examples.is_empty(), "deploy/examples holds policies");
    for (name, policy) in examples {
        assert_equal(&name, &policy, 50_000, |_| true);
        assert_equal(&name, &policy, 50_000, |headers| headers.ether_type == ETHER_IPV6);
    }
}

#[test]
fn segmentation_policies() {
    for families in [Families::V4, Families::V6, Families::Mixed] {
        let shape = Shape { groups: 500, addresses: 5_000, rules: 3_000, ..Shape::large(families) };
        let policy = data::load("segmentation", segmentation::text(7, &shape)).expect("a policy");
        let headers = segmentation::headers(&policy, 7, 4_000);
        let report = compare_all(&policy, &headers).expect("it compiles");
        assert_eq!(report.first_wrong, None, "{families:?}");
        assert_eq!(report.packets, 4_000);
        assert!(report.matched > 1_600, "{families:?}: {} matched", report.matched);
        assert_eq!(compare(&policy, 2_000, 7, |_| true).expect("as before").first_wrong, None);
    }
}

/// ClassBench sets, or [`None`] where they are absent, which only a developer's machine may say.
fn classbench(kind: &str, rules: u32, family: Family) -> Option<Policy> {
    let Some(folder) = data::folder() else {
        assert!(std::env::var_os("CI").is_none(), "BULKHEAD_DATA names no folder");
        println!("SKIPPED: classbench {kind} {rules}: no data folder; BULKHEAD_DATA names it");
        return None;
    };
    Some(data::classbench(&folder, kind, rules, family).expect(kind))
}

#[test]
fn classbench_1k() {
    for kind in data::CLASSBENCH_KINDS {
        for family in [Family::V4, Family::V6] {
            let Some(policy) = classbench(kind, 1_000, family) else { return };
            assert_equal(kind, &policy, 50_000, |_| true);
        }
    }
}

/// Hundreds of thousands a second: more packets than the linear scan takes.
#[test]
fn classbench_against_tuple_space_search() {
    for family in [Family::V4, Family::V6] {
        for kind in data::CLASSBENCH_KINDS {
            let Some(policy) = classbench(kind, 1_000, family) else { return };
            let second = SecondEngine::new(&policy, family, None).expect(kind);
            let report = second.compare(&policy, 200_000, 7).expect(kind);
            assert_eq!(report.first_wrong, None, "{kind}");
            assert_eq!(report.packets, 200_000, "{kind}");
            assert!(report.matched > 100_000, "{kind}: {} matched", report.matched);
        }
    }
}

#[test]
fn classbench_10k() {
    for kind in data::CLASSBENCH_KINDS {
        for family in [Family::V4, Family::V6] {
            let Some(policy) = classbench(kind, 10_000, family) else { return };
            assert_equal(kind, &policy, 5_000, |_| true);
        }
    }
}

/// Reading 100,000 rules in a debug build takes most of the time: one set, or all with
/// `BULKHEAD_FULL`.
#[test]
fn classbench_100k() {
    let full = std::env::var_os("BULKHEAD_FULL").is_some_and(|value| !value.is_empty());
    for kind in &data::CLASSBENCH_KINDS[..if full { 3 } else { 1 }] {
        let Some(policy) = classbench(kind, 100_000, Family::V4) else { return };
        assert_equal(kind, &policy, 300, |_| true);
    }
}
