//! The analysis of policies against the truth of the linear scan.
//!
//! The addresses, ports and families that the rules of a set tell apart are so few that one packet
//! of each kind can be judged by the scan: what a rule decides, and what would be decided without
//! it, is then known of every rule, and so is every difference between two policies.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use bulkhead_rules::analyze::{self, FindingKind, Probes};
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, PolicyTime, protocol};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Action, LoadOptions, Policy, Rule, RuleId};
use bulkhead_rules::syntax::Source;
use serde::Serialize;

use crate::classbench::Family;
use crate::data;
use crate::random::Random;
use crate::segmentation::{self, Families, Shape};

/// Hosts on either side that rules name: 10.0.0.0 and up, 10.1.0.0 and up.
const HOSTS: u32 = 96;

/// Ports that rules name: 1 and up.
const PORTS: u16 = 4;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rules of the generated policies.
    #[arg(long, default_value_t = 10_000)]
    rules: usize,
    /// Rules of them that are planted to be shadowed, and as many to be contradicted.
    #[arg(long, default_value_t = 100)]
    planted: usize,
    /// Seed of the policies.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON, a line for each set.
    #[arg(long)]
    json: bool,
}

/// Findings, and what is known of them besides.
#[derive(Clone, Debug, Default, Serialize)]
struct Report {
    set: String,
    rules: usize,
    /// Rules that are said never to decide, and rules that are said to make no difference.
    shadowed: usize,
    redundant: usize,
    /// What takes too much work.
    not_analysed: usize,
    /// Packets that were judged by the scan.
    packets: usize,
    /// Whether they are one of every kind, so that the truth is known of every rule.
    exhaustive: bool,
    planted: usize,
    planted_found: usize,
    /// True of a rule and not reported; known only where exhaustive.
    missed: usize,
    /// Reported of a rule and not true.
    wrong: usize,
    check_ms: f64,
}

/// Packets at the edges of rules by which the findings of a set are tried where its packets are too
/// many kinds to judge one of each.
const PROBES: usize = 2_000;

/// Runs everything and returns the number of wrong answers.
///
/// # Errors
///
/// Where a set cannot be read or is no policy.
pub fn run(options: &Options) -> io::Result<u64> {
    let mut wrong = 0;
    let dense = Dense::generate(options.rules, options.planted, options.seed);
    let policy = dense.policy()?;
    let (mut report, found) = findings(&format!("dense {}", options.rules), &policy);
    judge(&policy, &dense.planted, &found, &mut report);
    wrong += print(&report, options.json)?;
    let edited = dense.edited(options.planted, options.seed);
    wrong += differences(&format!("dense {} edited", options.rules), &policy, &edited, options)?;
    let small = options.rules / 10;
    let [one, other] =
        [2, 3].map(|seed| Dense::generate(small, 0, options.seed.wrapping_add(seed)));
    wrong += differences(&format!("dense {small} other"), &one.policy()?, &other, options)?;

    let shape = Shape {
        groups: options.rules.div_ceil(10),
        addresses: options.rules.max(1),
        rules: options.rules,
        ..Shape::large(Families::Mixed)
    };
    let policy = load("segmentation.yaml", segmentation::text(options.seed, &shape))?;
    wrong += tried(&format!("segmentation {}", options.rules), &policy, options)?;
    let Some(folder) = data::folder() else {
        println!("skipped: ClassBench sets: no data folder; BULKHEAD_DATA names it");
        return Ok(wrong);
    };
    for kind in data::CLASSBENCH_KINDS {
        for rules in [1_000, 10_000] {
            let policy = data::classbench(&folder, kind, rules, Family::V4)?;
            wrong += tried(&format!("{kind} {rules}"), &policy, options)?;
        }
    }
    Ok(wrong)
}

fn load(name: &str, text: String) -> io::Result<Policy> {
    match Policy::load(&[Source::new(name, text)], &LoadOptions::default()) {
        Ok(loaded) => Ok(loaded.policy),
        Err(found) => Err(io::Error::other(format!("{:?}", found.first()))),
    }
}

fn findings(set: &str, policy: &Policy) -> (Report, Found) {
    let begun = Instant::now();
    let all = analyze::findings(policy, false);
    let check_ms = milliseconds(begun.elapsed());
    let mut found = Found::default();
    for finding in &all.findings {
        match finding.kind {
            FindingKind::Redundant { .. } => found.redundant.insert(finding.rule),
            _ => found.shadowed.insert(finding.rule),
        };
    }
    let report = Report {
        set: set.to_owned(),
        rules: policy.rule_count(),
        shadowed: found.shadowed.len(),
        redundant: found.redundant.len(),
        not_analysed: all.not_analysed.len(),
        check_ms,
        ..Report::default()
    };
    (report, found)
}

/// Rules that are reported.
#[derive(Debug, Default)]
struct Found {
    shadowed: BTreeSet<RuleId>,
    redundant: BTreeSet<RuleId>,
}

/// Counts what was found against what the scan says of every packet.
fn judge(policy: &Policy, planted: &BTreeSet<u32>, found: &Found, report: &mut Report) {
    let truth = Truth::of(policy, packets());
    let Found { shadowed, redundant } = found;
    (report.packets, report.exhaustive) = (truth.packets, true);
    report.planted = planted.len();
    let silent: BTreeSet<RuleId> =
        policy.order().filter(|id| !truth.decides.contains(id)).collect();
    let idle: BTreeSet<RuleId> = truth.decides.difference(&truth.matters).copied().collect();
    report.missed = silent.difference(shadowed).count() + idle.difference(redundant).count();
    report.wrong = shadowed.difference(&silent).count() + redundant.difference(&idle).count();
    report.planted_found = planted.iter().filter(|&&id| shadowed.contains(&RuleId(id))).count();
}

/// Times the findings of a set and tries them on packets at the edges of its rules.
fn tried(set: &str, policy: &Policy, options: &Options) -> io::Result<u64> {
    let (mut report, found) = findings(set, policy);
    let mut probes = Probes::new(policy, options.seed);
    let kept = |h: &Headers| *h == h.normalised() && !h.src_mac.is_group();
    let packets: Vec<Headers> =
        std::iter::repeat_with(|| probes.headers()).filter(kept).take(PROBES).collect();
    let truth = Truth::of(policy, packets);
    report.packets = truth.packets;
    report.wrong = truth.decides.intersection(&found.shadowed).count()
        + truth.matters.intersection(&found.redundant).count();
    print(&report, options.json)
}

fn print(report: &Report, json: bool) -> io::Result<u64> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!(
            "{:<19} {:>6} rules, check {:>7.1} ms: {} shadowed or contradicted, {} redundant, {} \
             not analysed; ",
            report.set,
            report.rules,
            report.check_ms,
            report.shadowed,
            report.redundant,
            report.not_analysed,
        );
        if report.exhaustive {
            println!(
                "by the scan of all {} kinds of packets {} missed, {} wrong, {} of {} planted found",
                report.packets, report.missed, report.wrong, report.planted_found, report.planted,
            );
        } else {
            println!("tried on {} packets, {} wrong", report.packets, report.wrong);
        }
    }
    let lost = report.planted - report.planted_found;
    Ok((report.missed + report.wrong + lost) as u64)
}

/// A difference of two policies against the truth.
#[derive(Clone, Debug, Default, Serialize)]
struct DiffReport {
    set: String,
    rules: usize,
    packets: usize,
    /// Packets that the scans of both policies judge differently.
    differing: usize,
    /// Differences that were listed.
    differences: usize,
    /// Packets that differ and are in no difference; that are in one and do not differ, are in
    /// several, or were decided by other rules than it says.
    missed: usize,
    wrong: usize,
    diff_ms: f64,
}

/// Compares the listed differences of two policies with those of every packet.
fn differences(set: &str, old: &Policy, new: &Dense, options: &Options) -> io::Result<u64> {
    let new = &new.policy()?;
    let begun = Instant::now();
    let found = analyze::diff(old, new, usize::MAX);
    let mut report = DiffReport {
        set: set.to_owned(),
        rules: old.rule_count(),
        differences: found.differences.len(),
        diff_ms: milliseconds(begun.elapsed()),
        wrong: usize::from(found.is_incomplete),
        ..DiffReport::default()
    };
    let now = PolicyTime { unix_ms: 0, synchronised: true };
    for packet in packets() {
        report.packets += 1;
        let (before, after) =
            (oracle::classify(old, &packet, now), oracle::classify(new, &packet, now));
        let differs = old.action(before) != new.action(after);
        report.differing += usize::from(differs);
        let mut holding = found.differences.iter().filter(|one| one.packets.contains(&packet, now));
        match (holding.next(), holding.next()) {
            (None, _) => report.missed += usize::from(differs),
            (Some(one), None) if differs && (one.before, one.after) == (before, after) => {}
            _ => report.wrong += 1,
        }
    }
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "{:<19} {:>6} rules, diff  {:>7.1} ms: {} differences; by the scans of all {} kinds of \
             packets {} differ, {} missed, {} wrong",
            report.set,
            report.rules,
            report.diff_ms,
            report.differences,
            report.packets,
            report.differing,
            report.missed,
            report.wrong,
        );
    }
    Ok((report.missed + report.wrong) as u64)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A policy whose rules overlap all the time, as text.
#[derive(Clone, Debug)]
struct Dense {
    rules: Vec<Line>,
    /// The places of rules that earlier ones take whole.
    planted: BTreeSet<u32>,
}

/// One rule: hosts `from.0..=from.1` and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Line {
    from: Option<(u32, u32)>,
    to: Option<(u32, u32)>,
    ports: (u16, u16),
    action: Action,
}

impl Dense {
    fn generate(rules: usize, planted: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut dense = Self { rules: Vec::with_capacity(rules), planted: BTreeSet::new() };
        let plain = rules.saturating_sub(2 * planted);
        let mut left = 2 * planted;
        for n in 0..plain {
            dense.rules.push(Line::random(&mut random));
            // Spread what is planted evenly over the policy, behind what it is taken by.
            while n > 0 && left > 0 && (2 * planted - left) * plain < n * 2 * planted {
                left -= 1;
                dense.plant(&mut random, left % 2 == 0);
            }
        }
        dense
    }

    /// The same with so many rules changed, taken out or moved.
    fn edited(&self, edits: usize, seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let mut edited = self.clone();
        for _ in 0..edits {
            let place = random.below(edited.rules.len());
            match random.below(3) {
                0 => edited.rules[place] = Line::random(&mut random),
                1 => {
                    edited.rules.remove(place);
                }
                _ => {
                    let moved = edited.rules.remove(place);
                    edited.rules.insert(random.below(edited.rules.len() + 1), moved);
                }
            }
        }
        edited
    }

    /// Adds a rule within an earlier one, with the same action or another.
    fn plant(&mut self, random: &mut Random, contradicts: bool) {
        let cause = self.rules[random.below(self.rules.len())];
        let narrow = |range: Option<(u32, u32)>, random: &mut Random| {
            let (low, high) = range.unwrap_or((3, 40));
            let within = low + random.below((high - low + 1) as usize) as u32;
            Some((within, high))
        };
        let action = match cause.action {
            other if !contradicts => other,
            Action::Allow => Action::Deny,
            _ => Action::Allow,
        };
        self.planted.insert(self.rules.len() as u32);
        let (from, to) = (narrow(cause.from, random), narrow(cause.to, random));
        self.rules.push(Line { from, to, action, ..cause });
    }

    fn policy(&self) -> io::Result<Policy> {
        let mut text = "version: 1\nrules:\n".to_owned();
        for (n, line) in self.rules.iter().enumerate() {
            let host = |range: Option<(u32, u32)>, net: u32| match range {
                None => "any".to_owned(),
                Some((low, high)) if low == high => format!("10.{net}.0.{low}"),
                Some((low, high)) => format!("10.{net}.0.{low}-10.{net}.0.{high}"),
            };
            let (from, to) = (host(line.from, 0), host(line.to, 1));
            let ports = match line.ports {
                (low, high) if low == high => low.to_string(),
                (low, high) => format!("{low}-{high}"),
            };
            let action = match line.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Reject => "reject",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  - {{name: r{n}, from: {from}, to: {to}, service: tcp/{ports}, action: {action}}}"
            );
        }
        load("dense.yaml", text)
    }
}

impl Line {
    fn random(random: &mut Random) -> Self {
        let mut hosts = || {
            if random.below(200) == 0 {
                return None;
            }
            let low = random.below(HOSTS as usize) as u32;
            Some((low, (low + random.below(3) as u32).min(HOSTS - 1)))
        };
        let (from, to) = (hosts(), hosts());
        let low = 1 + random.below(usize::from(PORTS)) as u16;
        let ports = (low, if random.percent(20) { PORTS } else { low });
        let action = [Action::Allow, Action::Allow, Action::Deny, Action::Reject][random.below(4)];
        Self { from, to, ports, action }
    }
}

/// One packet of every kind that dense policies tell apart.
fn packets() -> Vec<Headers> {
    let sources = (0..=HOSTS).map(|host| 0x0a00_0000 + u128::from(host));
    let tcp = Headers { protocol: protocol::TCP, src_port: 49_152, ..Headers::default() };
    let mut out = Vec::new();
    let ports = 1..=PORTS + 1;
    for src in sources {
        for dst in (0..=HOSTS).map(|host| 0x0a01_0000 + u128::from(host)) {
            let of_port = |dst_port| Headers { ether_type: ETHER_IPV4, src, dst, dst_port, ..tcp };
            out.extend(ports.clone().map(of_port));
        }
    }
    out.extend(ports.map(|dst_port| Headers { ether_type: ETHER_IPV6, dst_port, ..tcp }));
    out.push(Headers { protocol: protocol::UDP, ..out[0] });
    out.push(Headers { ether_type: 0x88b5, ..Headers::default() });
    out
}

/// What the linear scan says of the rules of a set, none of which has times.
struct Truth {
    packets: usize,
    /// Rules that decide some packet.
    decides: BTreeSet<RuleId>,
    /// Rules without which some packet would get another verdict.
    matters: BTreeSet<RuleId>,
}

impl Truth {
    fn of(policy: &Policy, packets: Vec<Headers>) -> Self {
        let rules: Vec<(RuleId, &Rule)> =
            policy.order().filter_map(|id| Some((id, policy.rule(id)?))).collect();
        let (mut decides, mut matters) = (BTreeSet::new(), BTreeSet::new());
        for packet in &packets {
            let mut matching = rules.iter().filter(|(_, rule)| rule.matches(policy, packet));
            let Some((first, rule)) = matching.next() else { continue };
            let without = matching.next().map_or(policy.default_action(), |(_, next)| next.action);
            decides.insert(*first);
            if without != rule.action {
                matters.insert(*first);
            }
        }
        Self { packets: packets.len(), decides, matters }
    }
}
