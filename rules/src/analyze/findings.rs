//! Rules that do nothing, or not what they say.

use std::collections::HashMap;

use super::model::{Model, RuleBoxes};
use super::region::Region;
use super::work::{TooMuchWork, Work};
use crate::headers::{Headers, PolicyTime};
use crate::policy::{Action, Policy, RuleId};

/// Steps that all of it may take: some seconds.
const WORK: usize = 400_000_000;

/// Steps for one rule, so that a single one cannot keep all others from being looked at.
const RULE_WORK: usize = 50_000_000;

/// Steps for leaving out causes that are not needed, for one rule.
const CAUSES_WORK: usize = 2_000_000;

/// The most rules that a finding names as its cause.
const MAX_CAUSES: usize = 8;

/// What [`findings`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// In the order of the rules that they are about; at most one for a rule, but for
    /// [`FindingKind::Correlated`].
    pub findings: Vec<Finding>,
    /// Rules about which nothing is known, because finding it out takes too much work.
    pub not_analysed: Vec<RuleId>,
}

/// Something odd about a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: RuleId,
    /// What is odd about it.
    pub kind: FindingKind,
    /// The rules that make it so, in the order in which they decide, each of them needed;
    /// [`RuleId::DEFAULT`] is the policy's default. Where they are more than a person reads, the
    /// first of them.
    pub causes: Vec<RuleId>,
    /// How many causes are left out.
    pub more_causes: usize,
    /// A packet that shows it, and when: for [`FindingKind::Redundant`] one that the rule decides,
    /// and whose verdict would change without all of the rules reported so far, if there is any;
    /// for [`FindingKind::Correlated`] one that both match and the cause decides.
    pub witness: Option<(Headers, PolicyTime)>,
}

/// What is odd about a rule. All of it is exact: it holds for every packet that can reach the
/// gateway and for every instant, also while the clock is not synchronised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FindingKind {
    /// Its conditions contradict each other: no packet meets them all, whatever the other rules.
    Impossible,
    /// It never decides: earlier rules with the same action match every packet that it matches.
    Shadowed,
    /// It never decides: earlier rules match every packet that it matches, but not without some
    /// that do something else than it says.
    Contradicted,
    /// It decides, but without it later rules, or the default, would decide the same.
    Redundant {
        /// Whether it is known to stay so when every rule that an earlier finding is about is
        /// removed: then all of these may be removed at once.
        independently: bool,
    },
    /// An earlier rule with another action takes some of its packets, and neither matches all that
    /// the other does. Often meant so, and reported on request only.
    Correlated,
}

/// Finds rules that never decide or make no difference. With `correlations`, pairs of rules that
/// quarrel about a part of what they match too.
pub fn findings(policy: &Policy, correlations: bool) -> Findings {
    search(policy, correlations, WORK)
}

fn search(policy: &Policy, correlations: bool, steps: usize) -> Findings {
    let mut work = Work::new(steps);
    let mut out = Findings::default();
    let Ok(model) = Model::new(&[policy], &mut work) else {
        out.not_analysed = super::model::in_order(policy).map(|(id, _)| id).collect();
        return out;
    };
    let mut search = Search { model, default: policy.default_action(), gone: Vec::new() };
    search.gone = vec![false; search.model.rules.len()];
    for place in 0..search.model.rules.len() {
        let id = search.model.rules[place].id;
        if work.left() == 0 {
            out.not_analysed.push(id);
            continue;
        }
        let found = work.share(RULE_WORK, |work| search.rule(place, work));
        match found {
            Ok(finding) => out.findings.extend(finding),
            Err(TooMuchWork) => out.not_analysed.push(id),
        }
        if correlations {
            let found = work.share(RULE_WORK, |work| search.correlations(place, work));
            match found {
                Ok(found) => out.findings.extend(found),
                Err(TooMuchWork) => out.not_analysed.push(id),
            }
        }
    }
    out.not_analysed.dedup();
    search.settle(&mut out, &mut work);
    out
}

/// What becomes of the verdicts without a rule.
enum Removal {
    /// Those of these frames change.
    Changes(Region),
    /// None changes, thanks to these later rules: none where the default alone sees to it.
    Nothing(Vec<u32>),
}

struct Search {
    model: Model,
    default: Action,
    /// Rules that are left out of consideration.
    gone: Vec<bool>,
}

impl Search {
    fn rule(&mut self, place: usize, work: &mut Work) -> Result<Option<Finding>, TooMuchWork> {
        let rule = self.model.rules[place].clone();
        let finding = |kind, causes: Vec<RuleId>, witness| {
            let more_causes = causes.len().saturating_sub(MAX_CAUSES);
            let causes = causes.into_iter().take(MAX_CAUSES).collect();
            Finding { rule: rule.id, kind, causes, more_causes, witness }
        };
        if rule.boxes.is_empty() {
            return Ok(Some(finding(FindingKind::Impossible, Vec::new(), None)));
        }
        let mut causes = Vec::new();
        match self.reached(place, |_| true, &mut causes, work)? {
            None => {
                let (mut alike, same) = (Vec::new(), |action| action == rule.action);
                let kind = match self.reached(place, same, &mut alike, work)? {
                    None => {
                        causes = alike;
                        FindingKind::Shadowed
                    }
                    Some(_) => FindingKind::Contradicted,
                };
                let causes = work.share(CAUSES_WORK, |work| self.shadowing(place, causes, work));
                Ok(Some(finding(kind, self.ids(&causes), None)))
            }
            Some(point) => {
                let Removal::Nothing(causes) = self.removal(place, work)? else { return Ok(None) };
                let causes = work.share(CAUSES_WORK, |work| self.replacing(place, causes, work));
                let mut ids = self.ids(&causes);
                if ids.is_empty() {
                    ids.push(RuleId::DEFAULT);
                }
                let witness = Some(self.model.universe.example(&point, None));
                let kind = FindingKind::Redundant { independently: true };
                Ok(Some(finding(kind, ids, witness)))
            }
        }
    }

    /// A point of the rule that no earlier rule with such an action takes; if there is none, boxes
    /// that take it all are in `causes`.
    fn reached(
        &mut self,
        place: usize,
        takes: impl Fn(Action) -> bool,
        causes: &mut Vec<u32>,
        work: &mut Work,
    ) -> Result<Option<Region>, TooMuchWork> {
        for at in self.model.rules[place].boxes.clone() {
            let whole = self.model.boxes[at].clone();
            let mut earlier = self.overlapping(&whole, &[at], 0..place, work)?;
            earlier.retain(|&at| takes(self.action(at)));
            if let Some(point) = self.uncovered(&whole, &earlier, causes, work)? {
                return Ok(Some(point));
            }
        }
        Ok(None)
    }

    /// What changes where the rule is left out.
    fn removal(&mut self, place: usize, work: &mut Work) -> Result<Removal, TooMuchWork> {
        let rule = self.model.rules[place].clone();
        let mut causes = Vec::new();
        let later = place + 1..self.model.rules.len();
        for at in rule.boxes.clone() {
            let whole = self.model.boxes[at].clone();
            let mut cutters = self.overlapping(&whole, &[at], 0..place, work)?;
            let earlier = cutters.len();
            let after = self.overlapping(&whole, &[at], later.clone(), work)?;
            let (same, others): (Vec<u32>, Vec<u32>) =
                after.into_iter().partition(|&at| self.action(at) == rule.action);
            cutters.extend(&same);
            if self.default != rule.action {
                if let Some(point) = self.uncovered(&whole, &cutters, &mut causes, work)? {
                    return Ok(Removal::Changes(point));
                }
            }
            for other in others {
                let other = other as usize;
                work.spend(whole.ranges() + self.model.boxes[other].ranges())?;
                let Some(part) = whole.intersection(&self.model.boxes[other]) else { continue };
                // Rules with yet other actions need not be looked at: what they take is another
                // difference, which is found in their own turn.
                let owner = self.model.owners[other];
                let before = same.partition_point(|&at| self.model.owners[at as usize] < owner);
                let cutters = &cutters[..earlier + before];
                work.spend(cutters.len())?;
                if let Some(point) = self.uncovered(&part, cutters, &mut causes, work)? {
                    return Ok(Removal::Changes(point));
                }
            }
        }
        let place = place as u32;
        let mut causes: Vec<u32> =
            causes.into_iter().map(|at| self.model.owners[at as usize]).collect();
        causes.retain(|&owner| owner > place);
        causes.sort_unstable();
        causes.dedup();
        Ok(Removal::Nothing(causes))
    }

    /// Few of the rules `causes` (their boxes) that still shadow the rule.
    fn shadowing(&mut self, place: usize, causes: Vec<u32>, work: &mut Work) -> Vec<u32> {
        let boxes: Vec<Region> = self.model.boxes[self.model.rules[place].boxes.clone()].to_vec();
        let mut causes: Vec<u32> =
            causes.into_iter().map(|at| self.model.owners[at as usize]).collect();
        causes.sort_unstable();
        causes.dedup();
        self.fewest(causes, work, |search, causes, work| {
            let cutters = search.boxes_of(causes);
            for whole in &boxes {
                let cut = search.model.cut();
                if cut.uncovered(whole, &cutters, &mut Vec::new(), work)?.is_some() {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Few of the later rules `causes` that still replace the rule.
    fn replacing(&mut self, place: usize, causes: Vec<u32>, work: &mut Work) -> Vec<u32> {
        self.fewest(causes, work, |search, kept, work| {
            let action = search.model.rules[place].action;
            let hidden: Vec<usize> = (place + 1..search.model.rules.len())
                .filter(|&later| {
                    let rule = &search.model.rules[later];
                    let is_kept = kept.binary_search(&(later as u32)).is_ok();
                    rule.action == action && !is_kept && !search.gone[later]
                })
                .collect();
            work.spend(search.model.rules.len())?;
            hidden.iter().for_each(|&later| search.gone[later] = true);
            let found = search.removal(place, work);
            hidden.iter().for_each(|&later| search.gone[later] = false);
            found.map(|found| matches!(found, Removal::Nothing(_)))
        })
    }

    /// Leaves out of `causes` what `suffice` can do without, as far as the work allows.
    fn fewest(
        &mut self,
        mut causes: Vec<u32>,
        work: &mut Work,
        mut suffice: impl FnMut(&mut Self, &[u32], &mut Work) -> Result<bool, TooMuchWork>,
    ) -> Vec<u32> {
        // Large steps first, so that one cause among thousands is found soon.
        let mut step = causes.len().next_power_of_two();
        while step > 0 && causes.len() > 1 {
            let mut from = 0;
            while from < causes.len() {
                let to = (from + step).min(causes.len());
                let rest = [&causes[..from], &causes[to..]].concat();
                match suffice(self, &rest, work) {
                    Ok(true) => causes = rest,
                    Ok(false) => from = to,
                    Err(TooMuchWork) => return causes,
                }
            }
            step /= 2;
        }
        causes
    }

    /// The earlier rules with another action that quarrel with the rule.
    fn correlations(&mut self, place: usize, work: &mut Work) -> Result<Vec<Finding>, TooMuchWork> {
        let rule = self.model.rules[place].clone();
        let mut rivals: Vec<usize> = Vec::new();
        for at in rule.boxes.clone() {
            let whole = self.model.boxes[at].clone();
            for other in self.overlapping(&whole, &[at], 0..place, work)? {
                rivals.push(self.model.owners[other as usize] as usize);
            }
        }
        rivals.sort_unstable();
        rivals.dedup();
        let mut out = Vec::new();
        for rival in rivals {
            let other = self.model.rules[rival].clone();
            if other.action == rule.action
                || self.contains(&rule, &other, work)?
                || self.contains(&other, &rule, work)?
            {
                continue;
            }
            if let Some(point) = self.taken(rival, &rule, work)? {
                let witness = Some(self.model.universe.example(&point, None));
                let (kind, causes) = (FindingKind::Correlated, vec![other.id]);
                out.push(Finding { rule: rule.id, kind, causes, more_causes: 0, witness });
            }
        }
        Ok(out)
    }

    /// A point of `rule` that the earlier rule at `rival` decides.
    fn taken(
        &mut self,
        rival: usize,
        rule: &RuleBoxes,
        work: &mut Work,
    ) -> Result<Option<Region>, TooMuchWork> {
        for at in self.model.rules[rival].boxes.clone() {
            for own in rule.boxes.clone() {
                work.spend(1 + self.model.boxes[at].ranges() + self.model.boxes[own].ranges())?;
                let both = self.model.boxes[at].intersection(&self.model.boxes[own]);
                let Some(both) = both else { continue };
                let earlier = self.overlapping(&both, &[at, own], 0..rival, work)?;
                if let Some(point) = self.uncovered(&both, &earlier, &mut Vec::new(), work)? {
                    return Ok(Some(point));
                }
            }
        }
        Ok(None)
    }

    /// Whether `outer` matches all that `inner` does.
    fn contains(
        &self,
        outer: &RuleBoxes,
        inner: &RuleBoxes,
        work: &mut Work,
    ) -> Result<bool, TooMuchWork> {
        let cutters: Vec<u32> = outer.boxes.clone().map(|at| at as u32).collect();
        for whole in &self.model.boxes[inner.boxes.clone()] {
            if self.uncovered(whole, &cutters, &mut Vec::new(), work)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells the redundant rules that may go together with all before them from those that may
    /// not. A rule that never decides may always go.
    fn settle(&mut self, out: &mut Findings, work: &mut Work) {
        let rules = self.model.rules.iter().enumerate();
        let places: HashMap<RuleId, usize> = rules.map(|(place, rule)| (rule.id, place)).collect();
        for finding in &out.findings {
            use FindingKind::{Contradicted, Impossible, Shadowed};
            if let (Impossible | Shadowed | Contradicted, Some(&place)) =
                (finding.kind, places.get(&finding.rule))
            {
                self.gone[place] = true;
            }
        }
        for finding in &mut out.findings {
            let (FindingKind::Redundant { independently }, Some(&place)) =
                (&mut finding.kind, places.get(&finding.rule))
            else {
                continue;
            };
            let found = work.share(RULE_WORK, |work| self.removal(place, work));
            *independently = matches!(found, Ok(Removal::Nothing(_)));
            if let Ok(Removal::Changes(_)) = found {
                // That point may be one that an earlier rule, now left out, decides.
                let earlier = self.gone[..place].to_vec();
                self.gone[..place].fill(false);
                let found = work.share(RULE_WORK, |work| self.removal(place, work));
                self.gone[..place].copy_from_slice(&earlier);
                if let Ok(Removal::Changes(point)) = found {
                    finding.witness = Some(self.model.universe.example(&point, None));
                }
            }
            self.gone[place] = *independently;
        }
    }

    fn overlapping(
        &mut self,
        region: &Region,
        like: &[usize],
        among: std::ops::Range<usize>,
        work: &mut Work,
    ) -> Result<Vec<u32>, TooMuchWork> {
        let mut found = self.model.overlapping(region, like, among, work)?;
        found.retain(|&at| !self.gone[self.model.owners[at as usize] as usize]);
        Ok(found)
    }

    fn uncovered(
        &self,
        whole: &Region,
        cutters: &[u32],
        used: &mut Vec<u32>,
        work: &mut Work,
    ) -> Result<Option<Region>, TooMuchWork> {
        self.model.cut().uncovered(whole, cutters, used, work)
    }

    /// The action of a box's rule.
    fn action(&self, at: u32) -> Action {
        self.model.rules[self.model.owners[at as usize] as usize].action
    }

    fn boxes_of(&self, rules: &[u32]) -> Vec<u32> {
        let boxes = rules.iter().flat_map(|&rule| self.model.rules[rule as usize].boxes.clone());
        boxes.map(|at| at as u32).collect()
    }

    fn ids(&self, rules: &[u32]) -> Vec<RuleId> {
        rules.iter().map(|&rule| self.model.rules[rule as usize].id).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analyze::Probes;
    use crate::compile::tests::policy;
    use crate::oracle;
    use crate::policy::{Endpoint, Parts, ServiceSet};

    /// The verdict, which is all that a removed rule may change.
    fn verdict(policy: &Policy, headers: &Headers, at: PolicyTime) -> Action {
        policy.action(oracle::classify(policy, headers, at))
    }

    fn without(policy: &Policy, rules: &[RuleId]) -> Policy {
        let kept = policy.order().filter(|id| !rules.contains(id));
        Policy::new(Parts {
            default: policy.default_action(),
            rules: kept.filter_map(|id| policy.rule(id).cloned()).collect(),
            endpoints: policy.endpoints().iter().map(|e| Endpoint::clone(e)).collect(),
            services: policy.services().iter().map(|s| ServiceSet::clone(s)).collect(),
            assertions: Vec::new(),
            wires: policy.wires().to_vec(),
            wires_known: policy.knows_all_wires(),
        })
    }

    fn removable(finding: &Finding) -> bool {
        !matches!(
            finding.kind,
            FindingKind::Redundant { independently: false } | FindingKind::Correlated
        )
    }

    /// Frames and instants at the edges of the policy's rules, such as a parser produces.
    fn probes(policy: &Policy, seed: u64) -> impl Iterator<Item = (Headers, PolicyTime)> {
        let mut probes = Probes::new(policy, seed);
        std::iter::repeat_with(move || (probes.headers().normalised(), probes.instant()))
            .filter(|(h, _)| !h.src_mac.is_group() && (h.tags.outer != 0 || h.tags.inner == 0))
    }

    #[test]
    fn a_redundant_rule_is_shown_by_a_packet_that_it_decides_itself() {
        // The first rule may go for the second's sake, which then may not go any more: not for a
        // packet of the first, which does not show that.
        let text = "version: 1\ndefault: deny\ngroups: {both: [192.0.2.1, '2001:db8::1']}\nrules:\n\
            - {name: part, from: 0.0.0.0/0, to: both, service: any, action: reject}\n\
            - {name: all, from: any, to: both, service: any, action: reject}\n\
            - {name: again, from: any, to: both, service: any, action: reject}\n";
        let policy = Policy::parse(text).unwrap();
        let found = findings(&policy, false);
        let redundant = found.findings.iter().find(|finding| finding.rule == RuleId(1)).unwrap();
        assert_eq!(redundant.kind, FindingKind::Redundant { independently: false });
        let (headers, at) = redundant.witness.unwrap();
        assert_eq!(oracle::classify(&policy, &headers, at), RuleId(1), "{headers:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn what_is_reported_is_true(policy in policy(), seed in any::<u64>()) {
            let found = findings(&policy, true);
            prop_assert!(found.not_analysed.is_empty());
            let together: Vec<RuleId> =
                found.findings.iter().filter(|f| removable(f)).map(|f| f.rule).collect();
            let mut others = vec![(without(&policy, &together), "all together".to_owned())];
            for finding in &found.findings {
                if let FindingKind::Redundant { .. } = finding.kind {
                    others.push((without(&policy, &[finding.rule]), format!("{finding:?}")));
                    let (headers, at) = finding.witness.unwrap();
                    prop_assert_eq!(oracle::classify(&policy, &headers, at), finding.rule);
                }
            }
            for (headers, at) in probes(&policy, seed).take(300) {
                let decides = oracle::classify(&policy, &headers, at);
                let action = policy.action(decides);
                for finding in &found.findings {
                    if finding.rule == decides {
                        use FindingKind::{Correlated, Redundant};
                        let decides = matches!(finding.kind, Redundant { .. } | Correlated);
                        prop_assert!(decides, "{finding:?} decides {headers:?}");
                    }
                }
                for (other, what) in &others {
                    prop_assert_eq!(verdict(other, &headers, at), action, "{}", what);
                }
            }
        }

        #[test]
        fn what_takes_too_much_work_is_named_and_nothing_is_claimed(policy in policy()) {
            let all = search(&policy, false, WORK);
            for steps in (0..14).map(|n| 1 << n) {
                let some = search(&policy, false, steps);
                for id in policy.order() {
                    let of = |found: &Findings| -> Vec<std::mem::Discriminant<FindingKind>> {
                        let own = found.findings.iter().filter(|finding| finding.rule == id);
                        own.map(|finding| std::mem::discriminant(&finding.kind)).collect()
                    };
                    let is_known = !some.not_analysed.contains(&id);
                    prop_assert_eq!(of(&some), if is_known { of(&all) } else { Vec::new() });
                }
            }
        }

        #[test]
        fn what_is_not_reported_has_a_packet_that_shows_why(policy in policy()) {
            let found = findings(&policy, false);
            let mut work = Work::new(WORK);
            let model = Model::new(&[&policy], &mut work).unwrap();
            let gone = vec![false; model.rules.len()];
            let mut search = Search { model, default: policy.default_action(), gone };
            for place in 0..policy.rules().len() {
                let id = RuleId(place as u32);
                if found.findings.iter().any(|finding| finding.rule == id) {
                    continue;
                }
                let point = search.reached(place, |_| true, &mut Vec::new(), &mut work).unwrap();
                let (headers, at) = search.model.universe.example(&point.unwrap(), None);
                prop_assert_eq!(oracle::classify(&policy, &headers, at), id);
                let Ok(Removal::Changes(point)) = search.removal(place, &mut work) else {
                    panic!("redundant and not reported");
                };
                let (headers, at) = search.model.universe.example(&point, None);
                prop_assert_eq!(oracle::classify(&policy, &headers, at), id);
                let rest = without(&policy, &[id]);
                prop_assert_ne!(verdict(&rest, &headers, at), policy.action(id));
            }
        }
    }
}
