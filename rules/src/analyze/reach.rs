//! Who may open what to whom, and by which rules.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::model::Model;
use super::packets::{Packets, Words, Writer, merge};
use super::region::{Cut, Dimension, Region};
use super::work::{TooMuchWork, Work};
use crate::headers::{Headers, PolicyTime};
use crate::policy::{Action, Policy, RuleId};
use crate::sets::RangeSet;

/// Steps that all of it may take: a few seconds.
const WORK: usize = 1_000_000_000;

/// The most boxes that are collected before they are put together.
const MAX_BOXES: usize = 100_000;

/// What [`reach`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Service by service; no two of them have a packet in common.
    pub services: Vec<ServiceAccess>,
    /// Whether finding all of it takes too much work: then there may be more.
    pub is_incomplete: bool,
}

/// Who may open a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceAccess {
    /// The service.
    pub service: Words,
    /// Who may, in the order of the rules that permit it; no packet is in two of them.
    pub access: Vec<Access>,
}

/// Packets that a rule permits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// The packets; their time is the one that was asked for.
    pub packets: Packets,
    /// The rule that decides them.
    pub rule: RuleId,
    /// One of them.
    pub witness: Headers,
}

/// Everything that the policy permits at the instant `at` of what its assertion number `question`
/// speaks of. Whether the assertion demands or forbids it does not matter: it is the way to ask
/// about hosts and services by the names and with the forms of the policy's own language.
pub fn reach(policy: &Policy, question: usize, at: PolicyTime) -> Reach {
    let mut work = Work::new(WORK);
    let incomplete = Reach { is_incomplete: true, ..Reach::default() };
    let Some(assertion) = policy.assertions().get(question) else { return Reach::default() };
    let Ok(mut model) = Model::new(&[policy], &mut work) else { return incomplete };
    let class = model.universe.instants.class(at);
    let time = RangeSet::<u32>::from_ranges([(class, class)]);
    let queries = model.assertion(0, assertion, &time);
    let mut found: Vec<(usize, Region)> = Vec::new();
    let mut is_incomplete = false;
    let asked: Vec<Region> = queries.iter().map(|query| query.region.clone()).collect();
    for (place, query) in queries.iter().enumerate() {
        let all = 0..model.rules.len();
        let Ok(overlapping) = model.overlapping_query(query, all, &mut work) else {
            return incomplete;
        };
        // Parts of an endpoint may overlap; no packet is to be found twice.
        let earlier: Vec<u32> = (0..place as u32).collect();
        let mut parts = Vec::new();
        let distinct =
            Cut { boxes: &asked }.pieces(&query.region, &earlier, &mut work, &mut |part| {
                parts.push(part);
                ControlFlow::Continue(())
            });
        is_incomplete |= distinct.is_err();
        for part in parts {
            let default = policy.default_action();
            let done = collect(&model, &part, &overlapping, default, &mut found, &mut work);
            is_incomplete |= done.is_err();
        }
    }
    let found = apart_by_service(policy, &model, found);
    let always = Arc::new(model.universe.instants.all());
    let writer = Writer::new(&model.universe, &[policy]);
    let mut services: Vec<ServiceAccess> = Vec::new();
    for (rule, regions) in by_rule(found) {
        // The time was asked for; to repeat it in every line tells nothing.
        let timeless = regions.into_iter().map(|r| r.with(Dimension::Time, always.clone()));
        for (packets, region) in writer.packets(timeless.collect()) {
            let region = region.with(Dimension::Time, Arc::new(time.clone()));
            let witness = model.universe.example(&region, Some(at.unix_ms)).0;
            let id = model.rules.get(rule).map_or(RuleId::DEFAULT, |rule| rule.id);
            let service = packets.service.clone();
            let access = Access { packets, rule: id, witness };
            match services.iter_mut().find(|known| known.service == service) {
                Some(known) => known.access.push(access),
                None => services.push(ServiceAccess { service, access: vec![access] }),
            }
        }
    }
    Reach { services, is_incomplete }
}

/// Adds what is allowed of `region`, with the place of the rule that allows it.
fn collect(
    model: &Model,
    region: &Region,
    overlapping: &[u32],
    default: Action,
    found: &mut Vec<(usize, Region)>,
    work: &mut Work,
) -> Result<(), TooMuchWork> {
    let cut = model.cut();
    let mut take = |whole: &Region, cutters: &[u32], rule: usize, work: &mut Work| {
        cut.pieces(whole, cutters, work, &mut |piece| {
            found.push((rule, piece));
            if found.len() < MAX_BOXES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if found.len() < MAX_BOXES { Ok(()) } else { Err(TooMuchWork) }
    };
    for (before, &at) in overlapping.iter().enumerate() {
        let rule = model.owners[at as usize] as usize;
        work.spend(1)?;
        if model.rules[rule].action != Action::Allow {
            continue;
        }
        if let Some(part) = region.intersection(&model.boxes[at as usize]) {
            take(&part, &overlapping[..before], rule, work)?;
        }
    }
    if default == Action::Allow {
        take(region, overlapping, usize::MAX, work)?;
    }
    Ok(())
}

/// Cuts the boxes such that the services of any two are equal or have nothing in common, and where
/// they can in IPv4 and IPv6 alike.
fn apart_by_service(
    policy: &Policy,
    model: &Model,
    found: Vec<(usize, Region)>,
) -> Vec<(usize, Region)> {
    let mut sets: Vec<RangeSet<u32>> = Vec::new();
    let mut known: HashMap<RangeSet<u32>, u32> = HashMap::new();
    for (_, region) in &found {
        let set = RangeSet::clone(region.get(Dimension::Service));
        known.entry(set).or_insert_with_key(|set| {
            sets.push(set.clone());
            sets.len() as u32 - 1
        });
    }
    let rules: BTreeSet<usize> = found.iter().map(|&(rule, _)| rule).collect();
    let rules = rules.into_iter().filter_map(|rule| policy.rule(model.rules.get(rule)?.id));
    let services: BTreeSet<usize> = rules.map(|rule| rule.service.0 as usize).collect();
    for service in services {
        let families = model.universe.service(0, service).iter();
        let ranges = families.flat_map(|classes| classes.ranges()).copied();
        sets.push(RangeSet::<u32>::from_ranges(ranges));
    }
    let mut holding: HashMap<u32, Vec<u32>> = HashMap::new();
    for (place, set) in sets.iter().enumerate() {
        for class in set.ranges().iter().flat_map(|&(low, high)| low..=high) {
            holding.entry(class).or_default().push(place as u32);
        }
    }
    let mut atoms: HashMap<&[u32], Vec<u32>> = HashMap::new();
    for (class, places) in &holding {
        atoms.entry(places).or_default().push(*class);
    }
    let mut of_set: Vec<Vec<Arc<RangeSet<u32>>>> = vec![Vec::new(); sets.len()];
    for (places, classes) in atoms {
        let atom = Arc::new(RangeSet::<u32>::from_ranges(classes.into_iter().map(|c| (c, c))));
        places.iter().for_each(|&place| of_set[place as usize].push(atom.clone()));
    }
    of_set.iter_mut().for_each(|atoms| atoms.sort_by(|a, b| a.ranges().cmp(b.ranges())));
    let mut out = Vec::with_capacity(found.len());
    for (rule, region) in found {
        let place = known.get(&**region.get(Dimension::Service)).copied().unwrap_or_default();
        for atom in &of_set[place as usize] {
            out.push((rule, region.with(Dimension::Service, atom.clone())));
        }
    }
    out
}

/// The boxes of each rule, in the order of the rules, those of one service merged.
fn by_rule(found: Vec<(usize, Region)>) -> Vec<(usize, Vec<Region>)> {
    let mut groups: HashMap<(usize, RangeSet<u32>), Vec<Region>> = HashMap::new();
    for (rule, region) in found {
        let service = RangeSet::clone(region.get(Dimension::Service));
        groups.entry((rule, service)).or_default().push(region);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_unstable_by(|((a, x), _), ((b, y), _)| (a, x.ranges()).cmp(&(b, y.ranges())));
    let mut out: Vec<(usize, Vec<Region>)> = Vec::new();
    for ((rule, _), regions) in groups {
        let merged = merge(regions);
        match out.last_mut() {
            Some((last, known)) if *last == rule => known.extend(merged),
            _ => out.push((rule, merged)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analyze::Probes;
    use crate::compile::tests::policy;
    use crate::oracle;
    use crate::policy::{Assertion, EndpointId, Location, Must, ServiceId};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn what_reaches_is_what_the_scan_allows(
            policy in policy(),
            (from, to, service) in (0..5u32, 0..5u32, 0..4u32),
            seed in any::<u64>(),
        ) {
            let question = Assertion {
                from: EndpointId(from),
                to: EndpointId(to),
                service: ServiceId(service),
                must: Must::Reach,
                location: Location { file: "generated".into(), line: 1, column: 1 },
            };
            let policy = policy.with_assertions(vec![question]);
            let mut probes = Probes::new(&policy, seed);
            let at = probes.instant();
            let found = reach(&policy, 0, at);
            prop_assert!(!found.is_incomplete);
            let access: Vec<&Access> = found.services.iter().flat_map(|s| &s.access).collect();
            let witnesses: Vec<Headers> = access.iter().map(|access| access.witness).collect();
            let asked = &policy.assertions()[0];
            let (from, to) = (policy.endpoint(asked.from), policy.endpoint(asked.to));
            for h in witnesses.iter().copied().chain((0..300).map(|_| probes.headers().normalised())) {
                if h.src_mac.is_group() || (h.tags.outer == 0 && h.tags.inner > 0) {
                    continue;
                }
                let rule = oracle::classify(&policy, &h, at);
                let expected = policy.action(rule) == Action::Allow
                    && policy.service(asked.service).matches(&h)
                    && from.matches(h.ether_type, h.src, h.src_mac, h.tags)
                    && to.matches(h.ether_type, h.dst, h.dst_mac, h.tags);
                let holding: Vec<RuleId> = (access.iter())
                    .filter(|access| access.packets.contains(&h, at))
                    .map(|access| access.rule)
                    .collect();
                prop_assert_eq!(holding, if expected { vec![rule] } else { vec![] }, "{:?}", h);
            }
        }
    }

    #[test]
    fn the_answer_is_told_service_by_service() {
        let policy = Policy::parse(
            "version: 1\ngroups:\n  hmi: [10.20.0.11, 'fd00::11']\n  plc: [10.30.0.0/16, 'fd00:30::/64']\n\
             services:\n  modbus: tcp/502\nrules:\n  \
             - {name: not-yet, from: any, to: plc, service: any, action: allow, starts: 2030-01-01T00:00:00Z}\n  \
             - {name: blocked, from: 10.20.0.99, to: plc, service: any, action: deny}\n  \
             - {name: control, from: hmi, to: plc, service: [modbus, tcp/102], action: allow}\n  \
             - {name: office, from: 10.20.0.0/24, to: plc, service: modbus, action: allow}\n\
             assert:\n  - {from: any, to: plc, service: any, must: not-reach}\n",
        );
        let policy = policy.unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"));
        let found = reach(&policy, 0, PolicyTime { unix_ms: 0, synchronised: true });
        let lines: Vec<String> = (found.services.iter())
            .flat_map(|service| {
                let line = |access: &Access| {
                    let rule = policy.rule_name(access.rule);
                    format!("{}: {} by {rule}", service.service, access.packets.from)
                };
                service.access.iter().map(line).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(
            lines,
            [
                "tcp/102: hmi by control",
                "modbus: hmi by control",
                "modbus: 10.20.0.0/24 except 10.20.0.11, 10.20.0.99 by office",
            ]
        );
    }
}
