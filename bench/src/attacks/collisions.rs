//! Flows whose keys are chosen so that they crowd into few sets of the flow table.
//!
//! The attacker knows the source, but not the random keys of a running gateway's hash. He can
//! look for flows that collide under keys of his own choice, or choose keys with as little entropy as
//! possible and hope that the hash does not spread them.

use std::io;

use bulkhead_pipeline::conntrack::{Connection, Direction};
use bulkhead_pipeline::flow_table::{
    FlowKey, FlowTable, FlowTableConfig, Judgement, NewFlow, WAYS,
};
use bulkhead_pipeline::parse::{Kind, Parsed};
use bulkhead_rules::classifier::Footprint;
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, protocol};
use bulkhead_rules::policy::RuleId;

use super::report::Case;
use super::rig::{self, Sender, Twins};
use super::{Options, compiled, unharmed};
use crate::classbench::Family;
use crate::pipeline::traffic::{self, Flow, Step};
use crate::random::Random;
use crate::shows::Show;

/// Flows that the tables here have room for: a worker's by default.
const CAPACITY: usize = 1 << 18;

/// Keys that an attacker may assume, in a build of his own.
const ASSUMED_KEYS: [u64; 4] = [1, 2, 3, 4];

/// Crafted flows: twice as many as the sets at which they are aimed have room for.
const CRAFTED: usize = 8_192;

/// Sets at which they are aimed.
const AIMED_SETS: usize = CRAFTED / 2 / WAYS;

/// How much more crowded than random ones a pattern's sets may be: one set in 8,192 is the fullest
/// of many patterns, and random ones differ by as much.
const MOST_CROWDED: f64 = 1.25;

/// Flows that all have both of their candidate sets among a 64th of the table, under keys that are not
/// the gateway's.
///
/// # Errors
///
/// None that the options could cause: the policy compiles.
pub(super) fn crafted(options: &Options, v6: bool) -> io::Result<Case> {
    let family = if v6 { Family::V6 } else { Family::V4 };
    let flows = craft(family, options.seed);
    let aimed = fill(&flows, family, Some(ASSUMED_KEYS));
    let own = fill(&flows, family, None);
    let random = fill(&random_flows(family, options.seed, flows.len()), family, None);

    let policy = compiled(traffic::PERMISSIVE.to_owned())?;
    let mut twins = Twins::new(&policy, family, &rig::default_config(), options.seed);
    let mut opened = answered_flows(&flows);
    twins.attack(|target| {
        for _ in 0..crate::pipeline::rig::BLOCK / 2 {
            let Some((flow, step)) = opened.next() else { return false };
            target.send(flow, step, Sender::Attacker);
        }
        true
    });
    let mut again = flows.iter().cycle();
    twins.measure(options.rounds, |target| {
        while again.next().is_some_and(|flow| target.send(flow, Step::Data, Sender::Attacker)) {}
    });
    let tally = twins.attacked.tally();
    let mut shows = vec![
        Show {
            text: format!(
                "{} flows are crafted for {AIMED_SETS} of {} sets: under the keys that they were \
                 crafted for the fullest set is wanted by {}, and {} are refused",
                flows.len(),
                CAPACITY / WAYS,
                aimed.fullest,
                aimed.refused
            ),
            // An attack that would not work anyway shows nothing.
            kept: Some(aimed.refused * 2 >= flows.len() as u64 - (AIMED_SETS * WAYS) as u64),
        },
        Show {
            text: format!(
                "under random keys the fullest set is wanted by {}, random flows want {} of one; none \
                 refused: {}",
                own.fullest, random.fullest, own.refused
            ),
            kept: Some(own.refused == 0 && own.fullest <= 2 * random.fullest),
        },
        Show {
            text: format!(
                "through the worker {} of their frames are stopped",
                tally.attack_stopped
            ),
            kept: Some(tally.attack_stopped == 0),
        },
    ];
    shows.extend(unharmed(&twins, 1.5));
    Ok(Case::of(&twins).shows(shows).rules(policy.policy.rule_count()))
}

/// Flows as alike as addresses and ports can be: counters, strides, single bits, mirrored ends.
///
/// # Errors
///
/// None that the options could cause: the policy compiles.
pub(super) fn low_entropy(options: &Options) -> io::Result<Case> {
    let count = CAPACITY * 4 / 5;
    let mut shows = Vec::new();
    let mut worst: Option<(f64, Vec<Flow>, Family)> = None;
    for family in [Family::V4, Family::V6] {
        let random = fill(&random_flows(family, options.seed, count), family, None);
        for (name, pattern) in PATTERNS {
            let flows: Vec<Flow> =
                (0..count as u64).map(|number| pattern(number, family)).collect();
            let filled = fill(&flows, family, None);
            let crowded = filled.variance / random.variance;
            shows.push(Show {
                text: format!(
                    "{family:?} {name}: the fullest first set is wanted by {} flows (random: {}), \
                     variance over the sets {:.2} times random's; {} of {count} refused",
                    filled.fullest, random.fullest, crowded, filled.refused
                ),
                kept: Some(filled.refused == 0 && crowded <= MOST_CROWDED),
            });
            if worst.as_ref().is_none_or(|(most, ..)| crowded > *most) {
                worst = Some((crowded, flows, family));
            }
        }
    }
    let Some((_, flows, family)) = worst else { return Ok(Case::default()) };
    let policy = compiled(traffic::PERMISSIVE.to_owned())?;
    // One host stands for many: what it may open is not the question here.
    let mut config = rig::default_config();
    (config.new_flows_per_source, config.flows.per_source_limit) = (u32::MAX, u32::MAX);
    let mut twins = Twins::new(&policy, family, &config, options.seed);
    let mut possible = flows.iter().filter(|flow| rig::is_possible(flow, family));
    twins.attack(|target| {
        for _ in 0..crate::pipeline::rig::BLOCK {
            let Some(flow) = possible.next() else { return false };
            target.send(flow, Step::Open, Sender::Attacker);
        }
        true
    });
    twins.measure(options.rounds, |_| ());
    let tally = twins.attacked.tally();
    shows.push(Show {
        text: format!(
            "of the most crowded pattern's frames {} of {} are stopped by the worker",
            tally.attack_stopped, tally.attack
        ),
        kept: Some(tally.attack_stopped == 0 && tally.attack > 0),
    });
    shows.extend(unharmed(&twins, 1.5));
    Ok(Case::of(&twins).shows(shows).rules(policy.policy.rule_count()))
}

/// How flows filled a table.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Filled {
    /// Flows that have the same set as their first one: the most that any set has.
    fullest: u32,
    /// The variance of that number over the sets.
    variance: f64,
    /// Flows that got no entry.
    refused: u64,
}

/// Puts flows into a table of [`CAPACITY`], each answered, so that none makes room for another.
fn fill(flows: &[Flow], family: Family, seed: Option<[u64; 4]>) -> Filled {
    let config = FlowTableConfig {
        capacity: CAPACITY,
        per_source_limit: u32::MAX,
        seed,
        ..FlowTableConfig::default()
    };
    let mut table = FlowTable::new(&config);
    let mut wanted = vec![0_u32; CAPACITY / WAYS];
    for flow in flows {
        let parsed = parsed(flow, family);
        let (key, initiator) = FlowKey::of(&parsed, 0);
        let hash = table.hash(&key);
        wanted[table.sets(hash)[0] as usize] += 1;
        let Ok(connection) = Connection::of_first(&parsed, None) else { continue };
        let judgement = Judgement {
            rule: RuleId(0),
            footprint: Footprint::default(),
            epoch: 1,
            permitted: true,
            mac_sensitive: false,
        };
        let new = NewFlow {
            initiator,
            headers: &parsed.headers,
            judgement,
            connection,
            client_inside: true,
            opening_seen: true,
        };
        // What is refused, the table counts.
        if let Ok(index) = table.insert(hash, &key, &new, 0) {
            table.entry_mut(index).connection_mut().note(Direction::FromResponder);
        }
    }
    let mean = flows.len() as f64 / wanted.len() as f64;
    let squares = wanted.iter().map(|count| (f64::from(*count) - mean).powi(2));
    Filled {
        fullest: wanted.iter().copied().max().unwrap_or(0),
        variance: squares.sum::<f64>() / wanted.len() as f64,
        refused: table.counters.refused_full,
    }
}

fn parsed(flow: &Flow, family: Family) -> Parsed {
    let headers = Headers {
        src: flow.src,
        dst: flow.dst,
        src_port: flow.src_port,
        dst_port: flow.dst_port,
        ether_type: if family == Family::V4 { ETHER_IPV4 } else { ETHER_IPV6 },
        protocol: protocol::UDP,
        ..Headers::default()
    };
    let flow_ports = (flow.src_port, flow.dst_port);
    Parsed { headers, kind: Kind::Other, flow_ports, ..Parsed::default() }
}

/// [`CRAFTED`] flows that all want the first [`AIMED_SETS`] sets, under [`ASSUMED_KEYS`].
fn craft(family: Family, seed: u64) -> Vec<Flow> {
    let config = FlowTableConfig {
        capacity: CAPACITY,
        seed: Some(ASSUMED_KEYS),
        ..FlowTableConfig::default()
    };
    let table = FlowTable::new(&config);
    let mut random = Random::new(seed);
    let mut found = Vec::with_capacity(CRAFTED);
    while found.len() < CRAFTED {
        let flow = random_flow(family, &mut random);
        let (key, _) = FlowKey::of(&parsed(&flow, family), 0);
        if table.sets(table.hash(&key)).iter().all(|set| (*set as usize) < AIMED_SETS) {
            found.push(flow);
        }
    }
    found
}

/// A flow between hosts and ports that an attacker may choose.
fn random_flow(family: Family, random: &mut Random) -> Flow {
    let bits = random.bits();
    let (src, dst) = ends(family, u128::from(bits >> 48), u128::from(bits >> 32 & 0xffff));
    let port = |bits: u64| (bits as u16).max(1024);
    Flow { src, dst, src_port: port(bits), dst_port: port(bits >> 16), is_tcp: false }
}

fn random_flows(family: Family, seed: u64, count: usize) -> Vec<Flow> {
    let mut random = Random::new(!seed);
    (0..count).map(|_| random_flow(family, &mut random)).collect()
}

/// Each flow's first packet, and its answer.
fn answered_flows(flows: &[Flow]) -> impl Iterator<Item = (&Flow, Step)> {
    flows.iter().flat_map(|flow| [(flow, Step::Open), (flow, Step::Answer)])
}

/// Addresses of a source and a destination network, each with so many bits of its own.
fn ends(family: Family, src: u128, dst: u128) -> (u128, u128) {
    match family {
        Family::V4 => (0x0b00_0000 + (src & 0xff_ffff), 0x0ac8_0000 + (dst & 0xffff)),
        Family::V6 => (0x2001_0db8 << 96 | src, 0xfd5e_9a00_0000_00c8 << 64 | dst),
    }
}

type Pattern = fn(u64, Family) -> Flow;

/// Flows by number, all of them different.
const PATTERNS: [(&str, Pattern); 7] = [
    ("one pair of hosts, ports counted up", |number, family| {
        let (src, dst) = ends(family, 1, 1);
        let [low, high] = [number as u16 & 0x3ff, (number >> 10) as u16];
        Flow { src, dst, src_port: 1024 + low, dst_port: 1024 + high, is_tcp: false }
    }),
    ("sources counted up", |number, family| {
        let (src, dst) = ends(family, u128::from(number), 1);
        Flow { src, dst, src_port: 1024, dst_port: 53, is_tcp: false }
    }),
    ("sources by strides of 64", |number, family| {
        let (src, dst) = ends(family, u128::from(number << 6), 1);
        Flow { src, dst, src_port: 1024 + (number >> 18) as u16, dst_port: 53, is_tcp: false }
    }),
    ("source and port of one sum", |number, family| {
        let port = 1024 + (number & 0x3fff) as u16;
        let (src, dst) = ends(family, u128::from(number), u128::from(0xffff - port));
        Flow { src, dst, src_port: port, dst_port: !port, is_tcp: false }
    }),
    ("destination mirrors the source", |number, family| {
        let low = u128::from(number & 0xffff);
        let (src, dst) = ends(family, low, low);
        let port = 1024 + (number >> 16) as u16;
        Flow { src, dst, src_port: port, dst_port: port, is_tcp: false }
    }),
    ("source bits reversed", |number, family| {
        let (src, dst) = ends(family, u128::from((number as u32).reverse_bits() >> 8), 1);
        Flow { src, dst, src_port: 1024 + (number >> 24) as u16, dst_port: 53, is_tcp: false }
    }),
    ("Gray codes of the ports", |number, family| {
        let (src, dst) = ends(family, 1, 1);
        let gray = number ^ (number >> 1);
        let (low, high) = (gray as u16 & 0x1ff, (gray >> 9) as u16);
        Flow { src, dst, src_port: 1024 + low, dst_port: 1024 + high, is_tcp: false }
    }),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn patterns_never_repeat_a_flow() {
        for (name, pattern) in PATTERNS {
            for family in [Family::V4, Family::V6] {
                let mut seen = HashSet::new();
                for number in 0..(CAPACITY as u64 * 4 / 5) {
                    assert!(seen.insert(pattern(number, family)), "{name} {family:?} {number}");
                }
            }
        }
    }

    #[test]
    fn a_bad_hash_would_be_seen() {
        // Flows that are crafted for the keys under which they are looked at.
        let flows = craft(Family::V4, 1);
        let aimed = fill(&flows, Family::V4, Some(ASSUMED_KEYS));
        assert!(aimed.refused >= (CRAFTED - AIMED_SETS * WAYS) as u64);
        let random = fill(&random_flows(Family::V4, 1, CRAFTED), Family::V4, None);
        assert!(aimed.variance > 10.0 * random.variance && random.refused == 0);
    }
}
