//! What two policies decide differently: exactly, whatever their texts look like.
//!
//! Rules that both have, in the same order, differ in no packet; so every difference is decided by a
//! rule that only one of them has, and only these are looked at. What such a rule decides in its
//! policy, cut by what the rules of the other decide there, is the difference, box by box.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::model::Model;
use super::packets::{Packets, Writer, merge};
use super::region::Region;
use super::work::{TooMuchWork, Work};
use crate::headers::{Headers, PolicyTime};
use crate::policy::{Action, Policy, RuleId};

/// Steps that all of it may take: some seconds.
const WORK: usize = 1_000_000_000;

/// The most boxes that are collected before they are put together.
const MAX_BOXES: usize = 200_000;

/// How two policies differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diff {
    /// In the order of the old policy's rules, then of the new one's; no packet is in two of them.
    pub differences: Vec<Difference>,
    /// How many more there are than were asked for.
    pub more: usize,
    /// Whether finding all of them takes too much work: then there may be others.
    pub is_incomplete: bool,
    /// The names of the wires that the packets' numbers stand for.
    pub wires: Vec<Arc<str>>,
}

/// Packets that the policies judge differently, all by the same two rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The packets.
    pub packets: Packets,
    /// The rule of the old policy that decides them.
    pub before: RuleId,
    /// The rule of the new policy that does.
    pub after: RuleId,
    /// One of the packets, and an instant.
    pub witness: (Headers, PolicyTime),
}

impl Diff {
    /// Whether the policies are known to judge every packet alike at every instant.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty() && !self.is_incomplete
    }
}

/// Compares the verdicts of two policies: for every packet, at every instant, also while the clock
/// is not synchronised. At most `limit` differences are returned, and the others counted. That a
/// verdict is logged or not is no difference.
pub fn diff(old: &Policy, new: &Policy, limit: usize) -> Diff {
    let mut work = Work::new(WORK);
    let Ok(model) = Model::new(&[old, new], &mut work) else {
        return Diff { is_incomplete: true, ..Diff::default() };
    };
    let defaults = [old.default_action(), new.default_action()];
    let mut search = Search { model, defaults, found: HashMap::new(), boxes: 0 };
    let is_complete = search.run(&mut work).is_ok();
    let Search { model, found, .. } = search;
    let mut pairs: Vec<(Pair, Vec<Region>)> = found.into_iter().collect();
    pairs.sort_unstable_by_key(|&(pair, _)| pair);
    let writer = Writer::new(&model.universe, &[old, new]);
    let id = |rule: usize| model.rules.get(rule).map_or(RuleId::DEFAULT, |rule| rule.id);
    let mut out = Diff {
        wires: model.universe.wires.names.clone(),
        is_incomplete: !is_complete,
        ..Diff::default()
    };
    for ((before, after), regions) in pairs {
        let regions = merge(regions);
        if out.differences.len() >= limit {
            out.more += regions.len();
            continue;
        }
        for (packets, region) in writer.packets(regions) {
            if out.differences.len() >= limit {
                out.more += 1;
                continue;
            }
            let witness = model.universe.example(&region, None);
            let (before, after) = (id(before), id(after));
            out.differences.push(Difference { packets, before, after, witness });
        }
    }
    out
}

/// A rule of the old policy and one of the new, by their places in the model; [`DEFAULT`] for the
/// default.
type Pair = (usize, usize);

const DEFAULT: usize = usize::MAX;

struct Search {
    model: Model,
    defaults: [Action; 2],
    found: HashMap<Pair, Vec<Region>>,
    boxes: usize,
}

impl Search {
    fn run(&mut self, work: &mut Work) -> Result<(), TooMuchWork> {
        let common = self.common();
        let same_default = self.defaults[0] == self.defaults[1];
        let differing = |place: &usize| !common[*place];
        for place in self.model.policies[0].clone().filter(differing) {
            self.decided_by(Some(place), 0, &Against { rules: None, default: true }, work)?;
        }
        if !same_default {
            self.decided_by(None, 0, &Against { rules: None, default: true }, work)?;
        }
        // What is left is decided by a rule of the new policy alone and one that both have.
        let against = Against { rules: Some(&common), default: same_default };
        for place in self.model.policies[1].clone().filter(differing) {
            self.decided_by(Some(place), 1, &against, work)?;
        }
        if !same_default {
            self.decided_by(None, 1, &Against { default: false, ..against }, work)?;
        }
        Ok(())
    }

    /// Rules that both policies have in the same order: their boxes and actions are equal.
    fn common(&self) -> Vec<bool> {
        let [old, new] = [&self.model.policies[0], &self.model.policies[1]];
        let mut common = vec![false; self.model.rules.len()];
        let mut places: HashMap<(Action, &[Region]), Vec<usize>> = HashMap::new();
        for place in new.clone().rev() {
            let rule = &self.model.rules[place];
            let boxes = &self.model.boxes[rule.boxes.clone()];
            places.entry((rule.action, boxes)).or_default().push(place);
        }
        // The nth of equal rules in one is the nth of them in the other.
        let pairs: Vec<Pair> = old
            .clone()
            .filter_map(|place| {
                let rule = &self.model.rules[place];
                let equal =
                    places.get_mut(&(rule.action, &self.model.boxes[rule.boxes.clone()]))?;
                Some((place, equal.pop()?))
            })
            .collect();
        for (before, after) in longest_ascending(&pairs) {
            (common[before], common[after]) = (true, true);
        }
        common
    }

    /// The differences that the rule at `place` of the policy `own`, or its default, decides there
    /// and `against` in the other policy.
    fn decided_by(
        &mut self,
        place: Option<usize>,
        own: usize,
        against: &Against<'_>,
        work: &mut Work,
    ) -> Result<(), TooMuchWork> {
        let (before, other) =
            (self.model.policies[own].clone(), self.model.policies[1 - own].clone());
        let (action, boxes) = match place {
            Some(place) => {
                let rule = &self.model.rules[place];
                (rule.action, self.model.boxes[rule.boxes.clone()].to_vec())
            }
            None => (self.defaults[own], self.model.everything.clone()),
        };
        for (n, whole) in boxes.iter().enumerate() {
            let (earlier, others) = match place {
                Some(place) => {
                    // The earlier boxes of the rule itself too: no packet is to be found twice.
                    let at = self.model.rules[place].boxes.start + n;
                    let until = before.start..place + 1;
                    let mut earlier = self.model.overlapping(whole, &[at], until, work)?;
                    earlier.retain(|&other| (other as usize) < at);
                    (earlier, self.model.overlapping(whole, &[at], other.clone(), work)?)
                }
                None => (self.all_boxes(before.clone()), self.all_boxes(other.clone())),
            };
            let cut = self.model.cut();
            if cut.uncovered(whole, &earlier, &mut Vec::new(), work)?.is_none() {
                continue;
            }
            for (before, &rival) in others.iter().enumerate() {
                let owner = self.model.owners[rival as usize] as usize;
                let is_wanted = against.rules.is_none_or(|wanted| wanted[owner]);
                work.spend(1)?;
                if !is_wanted || self.model.rules[owner].action == action {
                    continue;
                }
                let Some(part) = whole.intersection(&self.model.boxes[rival as usize]) else {
                    continue;
                };
                let cutters = [&earlier[..], &others[..before]].concat();
                self.collect(&part, &cutters, pair(own, place, Some(owner)), work)?;
            }
            if against.default && self.defaults[1 - own] != action {
                let cutters = [&earlier[..], &others[..]].concat();
                self.collect(whole, &cutters, pair(own, place, None), work)?;
            }
        }
        Ok(())
    }

    fn all_boxes(&self, rules: Range<usize>) -> Vec<u32> {
        self.model.boxes_of(rules).map(|at| at as u32).collect()
    }

    fn collect(
        &mut self,
        whole: &Region,
        cutters: &[u32],
        pair: Pair,
        work: &mut Work,
    ) -> Result<(), TooMuchWork> {
        work.spend(cutters.len())?;
        let (mut left, found) = (MAX_BOXES - self.boxes, &mut self.found);
        self.model.cut().pieces(whole, cutters, work, &mut |piece| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            found.entry(pair).or_default().push(piece);
            ControlFlow::Continue(())
        })?;
        self.boxes = MAX_BOXES - left;
        if left == 0 { Err(TooMuchWork) } else { Ok(()) }
    }
}

/// Which rules of the other policy are looked at.
struct Against<'a> {
    /// Those marked here; [`None`] for all.
    rules: Option<&'a [bool]>,
    /// Whether its default is.
    default: bool,
}

/// The rule `own` of policy 0 or 1 with one of the other policy.
fn pair(policy: usize, own: Option<usize>, other: Option<usize>) -> Pair {
    let (own, other) = (own.unwrap_or(DEFAULT), other.unwrap_or(DEFAULT));
    if policy == 0 { (own, other) } else { (other, own) }
}

/// A longest subsequence of `pairs`, which ascend in the first place, that ascends in the second.
fn longest_ascending(pairs: &[Pair]) -> Vec<Pair> {
    // For each length the place of the pair with the least end of a subsequence so long.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (place, &(_, second)) in pairs.iter().enumerate() {
        let length = ends.partition_point(|&end| pairs[end].1 < second);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = place,
            None => ends.push(place),
        }
    }
    let mut out = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some(place) = next {
        out.push(pairs[place]);
        next = before[place];
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analyze::Probes;
    use crate::compile::tests::policy;
    use crate::oracle;

    fn parse(text: &str) -> Policy {
        Policy::parse(text).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"))
    }

    /// Probes the difference at the edges of both policies.
    fn compare(old: &Policy, new: &Policy, seed: u64) -> Result<(), TestCaseError> {
        let found = diff(old, new, usize::MAX);
        prop_assert!(!found.is_incomplete && found.more == 0);
        for one in &found.differences {
            let (headers, at) = one.witness;
            prop_assert!(one.packets.contains(&headers, at), "{one:?}");
        }
        for probed in [old, new] {
            let mut probes = Probes::new(probed, seed);
            let witnesses = found.differences.iter().map(|one| one.witness);
            let probes =
                std::iter::repeat_with(|| (probes.headers().normalised(), probes.instant()));
            for (headers, at) in witnesses.chain(probes.take(200)) {
                if headers.src_mac.is_group() || (headers.tags.outer == 0 && headers.tags.inner > 0)
                {
                    continue;
                }
                let before = oracle::classify(old, &headers, at);
                let after = oracle::classify(new, &headers, at);
                let holding: Vec<&Difference> =
                    found.differences.iter().filter(|d| d.packets.contains(&headers, at)).collect();
                if old.action(before) == new.action(after) {
                    prop_assert!(holding.is_empty(), "{headers:?} {at:?} {holding:?}");
                } else {
                    prop_assert_eq!(holding.len(), 1, "{:?} {:?}", headers, at);
                    prop_assert_eq!((holding[0].before, holding[0].after), (before, after));
                }
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn a_difference_is_what_the_scans_of_both_decide(
            old in policy(),
            new in policy(),
            seed in any::<u64>(),
        ) {
            compare(&old, &new, seed)?;
            compare(&new, &old, seed)?;
            prop_assert!(diff(&old, &old, 1).is_same());
        }
    }

    #[test]
    fn what_only_moved_differs_nowhere() {
        let head = "version: 1\ngroups:\n  hmi: [10.20.0.11, 10.20.0.12, 'fd00::11']\nrules:\n";
        let one = "  - {name: a, from: hmi, to: 10.30.0.0/16, service: tcp/502, action: allow}\n";
        let two = "  - {name: b, from: 10.20.0.11, to: 10.30.1.1, service: tcp, action: allow}\n";
        let three = "  - {name: c, from: any, to: 10.30.1.1, service: tcp/22, action: reject}\n";
        let old = parse(&format!("{head}{one}{two}{three}"));
        let new = parse(&format!("{head}{two}{one}{three}"));
        assert!(diff(&old, &new, 9).is_same());
        let new = parse(&format!("{head}{three}{one}{two}"));
        let found = diff(&old, &new, 9);
        let texts: Vec<String> = found.differences.iter().map(|d| d.packets.to_string()).collect();
        assert_eq!(texts, ["from 10.20.0.11 to 10.30.1.1, service tcp/22"]);
        assert_eq!(
            (found.differences[0].before, found.differences[0].after),
            (RuleId(1), RuleId(0))
        );
    }

    #[test]
    fn names_are_used_where_they_say_exactly_what_is_meant() {
        let text = |rules: &str| {
            parse(&format!(
                "version: 1\ngroups:\n  hmi: [10.20.0.11, 'fd00::11']\n  plc: [10.30.0.0/16, \
                 'fd00:30::/64']\nservices:\n  modbus: tcp/502\nrules:\n  - {{name: keep, from: hmi, \
                 to: plc, service: udp/1, action: deny}}\n{rules}"
            ))
        };
        let words = |old: &str, new: &str| -> Vec<String> {
            let found = diff(&text(old), &text(new), 9);
            found.differences.iter().map(|d| d.packets.to_string()).collect()
        };
        let rule = |from: &str, more: &str| {
            format!(
                "  - {{name: r, from: {from}, to: plc, service: modbus, action: allow{more}}}\n"
            )
        };
        assert_eq!(words("", &rule("hmi", "")), ["from hmi to plc, service modbus"]);
        assert_eq!(
            words(&rule("10.20.0.11", ""), &rule("hmi", "")),
            ["from hmi to plc, service modbus, IPv6 only"]
        );
        assert_eq!(
            words(&rule("hmi", ""), &rule("hmi", ", vlan: 30")),
            ["from hmi to plc, service modbus, VLAN any except 30"]
        );
        assert_eq!(
            words(&rule("any", ""), &rule("hmi", ", starts: 2030-01-01T00:00:00Z")),
            [
                "from hmi to plc, service modbus, until 2030-01-01T00:00:00Z, while the clock is not \
                 synchronised",
                "from any except hmi to plc, service modbus",
            ]
        );
    }
}
