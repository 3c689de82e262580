//! Rules with as many different masks as possible, and packets that touch as many as possible.
//!
//! Classifiers that keep a hash table for each combination of masks ("tuple space search") are slow
//! where there are many. Open vSwitch's cache of flows can be made to have thousands by packets
//! alone, under a policy of three rules (Csikor, Divakaran, Kang, Kőrösi, Sonkoly, Haja, Pezaros,
//! Schmid and Rétvári, "Tuple Space Explosion", CoNEXT 2019). Here there is no cache that packets could
//! fill with masks; [`open_vswitch`] sends their packets all the same. [`prefixes`] is the other way
//! to many masks: a policy that has them, as an attacker may bring about who can have rules added.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use bulkhead_rules::classifier::{MAX_BATCH, Scratch};
use bulkhead_rules::compile::Limits;
use bulkhead_rules::headers::{Headers, PolicyTime, protocol};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::RuleId;

use super::report::Case;
use super::rig::{self, Sender, Twins};
use super::{Compiled, Options, compiled, unharmed};
use crate::classbench::Family;
use crate::five_tuples;
use crate::machine::median;
use crate::pipeline::rig::BLOCK;
use crate::pipeline::traffic::{Flow, Step};
use crate::random::Random;
use crate::segmentation::{self, Families, Shape};
use crate::shows::Show;
use crate::tsc;
use crate::tuple_space::TupleSpace;

/// Ranges of ports that each pair of prefix lengths has a rule for: IPv4.
const RANGES: u16 = 16;

/// How many times as much a lookup may take that an attacker chose.
const MOST_TIMES: f64 = 3.0;

/// The flows that are established ([`rig::established`]), by one rule that comes first.
const ESTABLISHED_RULE: &str = "  - {name: established, from: [10.0.0.0/16, \"fd5e:9a00:0:1::/64\"], to: \
                                [10.200.0.0/16, \"fd5e:9a00:0:c8::/64\"], service: [tcp/443, \
                                udp/514], action: allow}\n";

/// The three rules of the paper, and its 8,192 packets: each combination of one bit flipped in source
/// address, source port and destination port.
///
/// # Errors
///
/// None that the options could cause: the policy compiles.
pub(super) fn open_vswitch(options: &Options) -> io::Result<Case> {
    let text = format!(
        "version: 1\ndefault: deny\nrules:\n{ESTABLISHED_RULE}\
         \x20 - {{name: port, from: any, to: any, service: tcp/80, action: allow}}\n\
         \x20 - {{name: host, from: 11.0.0.10, to: any, service: any, action: allow}}\n\
         \x20 - {{name: source-port, from: any, to: any, service: {{tcp: 1-65535, from-port: 12345}}, \
         action: allow}}\n"
    );
    let policy = compiled(text)?;
    let mut attack = Vec::new();
    for address in 0..32 {
        for src_port in 0..16 {
            for dst_port in 0..16 {
                attack.push(Flow {
                    src: 0x0b00_000a ^ 1 << address,
                    dst: 0x0ac8_0001,
                    src_port: 12345 ^ 1 << src_port,
                    dst_port: 80 ^ 1 << dst_port,
                    is_tcp: true,
                });
            }
        }
    }
    let mut random = Random::new(options.seed);
    let benign: Vec<Flow> = (0..attack.len())
        .map(|_| Flow {
            src: 0x0c00_0000 + random.below(1 << 16) as u128,
            dst: 0x0ac8_0001,
            src_port: random.within(20_000, 60_000),
            dst_port: 80,
            is_tcp: true,
        })
        .collect();
    let all = |flows: &[Flow]| flows.iter().map(|flow| headers(flow, Family::V4)).collect();
    let benign = Benign {
        what: "web requests under the same rules",
        policy: policy.clone(),
        headers: all(&benign),
    };
    let packets = [("that would make 8,192 masks in Open vSwitch's cache", attack)];
    mount(options, &policy, Family::V4, &packets, &benign)
}

/// A rule for each pair of prefix lengths around one address on each side, and each of a few ranges of
/// ports; packets that are in many of these prefixes and in few of the ranges.
///
/// # Errors
///
/// Where the policy does not compile within the default limits: then the attack succeeds.
pub(super) fn prefixes(options: &Options, v6: bool) -> io::Result<Case> {
    let family = if v6 { Family::V6 } else { Family::V4 };
    let policy = compiled(all_prefixes(family))?;
    let count = 8 * BLOCK;
    let packets = [
        ("within all prefixes at once", nested(family, options.seed, count, false)),
        ("one bit beside the centre of all prefixes", nested(family, options.seed, count, true)),
        ("between random hosts", scattered(family, options.seed, count)),
    ];
    let benign = segmented(family, options.seed, policy.policy.rule_count())?;
    mount(options, &policy, family, &packets, &benign)
}

/// What costs are compared with.
struct Benign {
    what: &'static str,
    policy: Compiled,
    headers: Vec<Headers>,
}

/// A policy of groups with as many rules, and packets as its hosts send them.
fn segmented(family: Family, seed: u64, rules: usize) -> io::Result<Benign> {
    let families = if family == Family::V4 { Families::V4 } else { Families::V6 };
    let shape = Shape { groups: rules / 20, addresses: rules / 2, rules, ..Shape::large(families) };
    let policy = compiled(segmentation::text(seed, &shape))?;
    let headers = segmentation::headers(&policy.policy, seed, 8 * BLOCK);
    Ok(Benign { what: "packets under as many rules of a segmentation policy", policy, headers })
}

/// The centre of all prefixes, source and destination.
fn centre(family: Family) -> (u128, u128) {
    match family {
        Family::V4 => (0x5a5a_a5a5, 0xa5a5_5a5a),
        Family::V6 => {
            (0x2a5a_a5a5_5a5a_a5a5_5a5a_a5a5_5a5a_a5a5, 0x25a5_5a5a_a5a5_5a5a_a5a5_5a5a_a5a5_5a5a)
        }
    }
}

fn width(family: Family) -> u32 {
    if family == Family::V4 { 32 } else { 128 }
}

fn prefix(family: Family, address: u128, len: u32) -> String {
    let host_bits = width(family) - len;
    let address = address.checked_shr(host_bits).unwrap_or(0).checked_shl(host_bits).unwrap_or(0);
    match family {
        Family::V4 => format!("{}/{len}", Ipv4Addr::from(address as u32)),
        Family::V6 => format!("{}/{len}", Ipv6Addr::from(address)),
    }
}

/// The policy. The longest prefixes come last, so that the first match is found late. IPv4: 33 x 33
/// lengths x 16 ranges; IPv6: 129 x 129 lengths, one range each.
fn all_prefixes(family: Family) -> String {
    let (src, dst) = centre(family);
    let mut out = format!("version: 1\ndefault: deny\nrules:\n{ESTABLISHED_RULE}");
    let ranges = if family == Family::V4 { RANGES } else { 1 };
    for src_len in 0..=width(family) {
        for dst_len in 0..=width(family) {
            for range in 0..ranges {
                let (from, to) = (prefix(family, src, src_len), prefix(family, dst, dst_len));
                // Which range a pair begins with depends on the pair: no two rules say the same.
                let low = 1 + 3000 * u32::from(range) + (src_len * 131 + dst_len * 7) % 2000;
                // Writing to a String cannot fail.
                let _ = writeln!(
                    out,
                    "  - {{name: r{src_len}-{dst_len}-{range}, from: \"{from}\", to: \"{to}\", service: \
                     tcp/{low}-{}, action: allow}}",
                    low + 500
                );
            }
        }
    }
    out
}

/// Packets at the centre, in all prefixes at once, or beside it: each leaves it at a random bit of both
/// addresses, and so touches another pair of lengths. Ports are random.
fn nested(family: Family, seed: u64, count: usize, beside: bool) -> Vec<Flow> {
    let mut random = Random::new(seed);
    let (src, dst) = centre(family);
    let near = |address: u128, random: &mut Random| match beside {
        true => address ^ 1 << random.below(width(family) as usize),
        false => address,
    };
    (0..count)
        .map(|_| Flow {
            src: near(src, &mut random),
            dst: near(dst, &mut random),
            src_port: random.within(1024, u16::MAX),
            dst_port: random.within(1, u16::MAX),
            is_tcp: true,
        })
        .filter(|flow| rig::is_possible(flow, family))
        .collect()
}

/// Packets between random hosts.
fn scattered(family: Family, seed: u64, count: usize) -> Vec<Flow> {
    let mut random = Random::new(!seed);
    let host = |random: &mut Random| match family {
        Family::V4 => 0x0b00_0000 + random.below(0x6f00_0000) as u128,
        Family::V6 => 0x2001_0db8 << 96 | random.bits128() >> 32,
    };
    (0..count)
        .map(|_| Flow {
            src: host(&mut random),
            dst: host(&mut random),
            src_port: random.within(1024, u16::MAX),
            dst_port: random.within(1, u16::MAX),
            is_tcp: true,
        })
        .filter(|flow| rig::is_possible(flow, family))
        .collect()
}

fn mount(
    options: &Options,
    policy: &Compiled,
    family: Family,
    packets: &[(&str, Vec<Flow>)],
    benign: &Benign,
) -> io::Result<Case> {
    let sets: Vec<Vec<Headers>> = (packets.iter())
        .map(|(_, flows)| flows.iter().map(|flow| headers(flow, family)).collect())
        .collect();
    let wrong: usize = sets.iter().map(|set| wrong_answers(policy, set)).sum();
    let asked: usize = sets.iter().map(Vec::len).sum();
    let cycles = lookups(policy, &sets, benign, options.rounds);
    let (worst, attack_cycles) = (0..sets.len())
        .map(|set| (set, cycles[set]))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .ok_or_else(|| io::Error::other("no packets"))?;
    let benign_cycles = cycles[sets.len()];
    let tuple_family = match family {
        Family::V4 => five_tuples::Family::V4,
        Family::V6 => five_tuples::Family::V6,
    };
    let tuples = five_tuples::expand(&policy.policy, tuple_family, 1_000_000)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let space = TupleSpace::new(tuple_family, &tuples);
    let space_cycles = lookups_of(&space, &sets[worst]);
    let attack = &packets[worst].1;

    // Each packet asks the policy: nobody's budget ends.
    let mut config = rig::default_config();
    (config.new_flows_per_source, config.flows.per_source_limit) = (u32::MAX, u32::MAX);
    let mut twins = Twins::new(policy, family, &config, options.seed);
    let mut next = attack.iter().cycle();
    let mut blocks = 64;
    let mut wave = |target: &mut rig::Target| {
        for _ in 0..BLOCK {
            if let Some(flow) = next.next() {
                target.send(flow, Step::Open, Sender::Attacker);
            }
        }
    };
    twins.attack(|target| {
        wave(target);
        blocks -= 1;
        blocks > 0
    });
    twins.measure(options.rounds, wave);
    let limits = Limits::default();
    let mut shows = vec![Show {
        text: format!(
            "{} rules compile in {:.0} ms to {:.1} MiB; the limits are {:.0} s and {} MiB",
            policy.policy.rule_count(),
            policy.build_ms,
            policy.classifier.size_bytes() as f64 / (1 << 20) as f64,
            limits.time.as_secs_f64(),
            limits.memory_bytes >> 20
        ),
        kept: Some(policy.build_ms < limits.time.as_secs_f64() * 1e3),
    }];
    for ((what, _), cycles) in packets.iter().zip(&cycles) {
        let times = cycles / benign_cycles;
        shows.push(Show {
            text: format!(
                "packets {what}: {cycles:.0} cycles a lookup, {}: {benign_cycles:.0}; {times:.2} times, \
                 at most {MOST_TIMES}",
                benign.what
            ),
            kept: Some(times <= MOST_TIMES),
        });
    }
    shows.push(Show {
        text: format!(
            "tuple space search takes {space_cycles:.0} cycles for the worst of them, over {} tables",
            space.tables()
        ),
        kept: Some(attack_cycles < space_cycles),
    });
    shows.push(Show {
        text: format!("{wrong} of {asked} answers differ from the linear scan's"),
        kept: Some(wrong == 0),
    });
    shows.extend(unharmed(&twins, 1.5));
    Ok(Case::of(&twins).shows(shows).rules(policy.policy.rule_count()))
}

/// Cycles a lookup, in batches as workers ask, for each set of packets and for the benign ones: in
/// turns.
fn lookups(policy: &Compiled, sets: &[Vec<Headers>], benign: &Benign, rounds: usize) -> Vec<f64> {
    let attacks = sets.iter().map(|set| (&policy.classifier, set));
    let all: Vec<_> = attacks.chain([(&benign.policy.classifier, &benign.headers)]).collect();
    let mut scratch = Scratch::default();
    let mut figures = vec![Vec::new(); all.len()];
    for _ in 0..=rounds {
        for ((classifier, headers), figures) in all.iter().zip(&mut figures) {
            let batches = headers.chunks(MAX_BATCH).map(|batch| {
                let mut rules = [RuleId::DEFAULT; MAX_BATCH];
                let began = tsc::now();
                classifier.classify(batch, NOW, &mut scratch, &mut rules);
                std::hint::black_box(rules);
                (tsc::now() - began) as f64 / batch.len() as f64
            });
            figures.push(median(batches.collect()));
        }
    }
    // The first round is not like the others: nothing was in any cache.
    figures.into_iter().map(|figures| median(figures[1..].to_vec())).collect()
}

const NOW: PolicyTime = PolicyTime { unix_ms: 0, synchronised: false };

/// Cycles a lookup by tuple space search, which has no batches. Asked for a second at most.
fn lookups_of(space: &TupleSpace, headers: &[Headers]) -> f64 {
    let begun = Instant::now();
    let mut figures = Vec::new();
    for batch in headers.chunks(64).take_while(|_| begun.elapsed().as_secs() < 1) {
        let began = tsc::now();
        for headers in batch {
            std::hint::black_box(space.classify(&five_tuples::key(headers)));
        }
        figures.push((tsc::now() - began) as f64 / batch.len() as f64);
    }
    median(figures)
}

/// Answers of the classifier that are not the linear scan's.
fn wrong_answers(policy: &Compiled, headers: &[Headers]) -> usize {
    let mut scratch = Scratch::default();
    let mut wrong = 0;
    for batch in headers.chunks(MAX_BATCH) {
        let mut rules = [RuleId::DEFAULT; MAX_BATCH];
        policy.classifier.classify(batch, NOW, &mut scratch, &mut rules);
        let expected = batch.iter().map(|headers| oracle::classify(&policy.policy, headers, NOW));
        wrong += expected.zip(rules).filter(|(expected, found)| expected != found).count();
    }
    wrong
}

fn headers(flow: &Flow, family: Family) -> Headers {
    Headers {
        src: flow.src,
        dst: flow.dst,
        src_port: flow.src_port,
        dst_port: flow.dst_port,
        ether_type: family.ether_type(),
        protocol: if flow.is_tcp { protocol::TCP } else { protocol::UDP },
        ..Headers::default()
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::policy::Action;

    use super::*;

    #[test]
    fn prefixes_have_all_lengths_and_established_flows_pass() {
        for family in [Family::V4, Family::V6] {
            let policy = compiled(all_prefixes(family)).expect("it compiles within the limits");
            let pairs = (width(family) as usize + 1).pow(2);
            let ranges = if family == Family::V4 { usize::from(RANGES) } else { 1 };
            assert_eq!(policy.policy.rule_count(), pairs * ranges + 1);
            for number in [0, 513, rig::ESTABLISHED - 1] {
                let headers = headers(&rig::established(number, family), family);
                let rule = oracle::classify(&policy.policy, &headers, NOW);
                assert_eq!(policy.policy.action(rule), Action::Allow);
            }
            let attack: Vec<Headers> =
                nested(family, 1, 256, true).iter().map(|flow| headers(flow, family)).collect();
            assert!(attack.len() > 128, "most of them are frames that hosts can send");
            assert_eq!(wrong_answers(&policy, &attack), 0);
        }
    }
}
