//! Whether a policy keeps the promises that it makes about itself: proved, or refuted by a packet.
//!
//! An assertion and the rules are boxes (see `model`). That nothing reaches is proved by showing
//! that the denials before each permission cover what both it and the assertion hold; that
//! everything reaches, by the same of the permissions before each denial and the default.

use std::fmt::Write as _;

use super::model::{Model, Query};
use super::region::{Dimension, Region};
use super::work::{TooMuchWork, Work};
use crate::headers::{Headers, PolicyTime};
use crate::oracle;
use crate::packet::in_words;
use crate::policy::{Action, Assertion, Must, Policy, RuleId};
use crate::sets::RangeSet;

/// Steps that the proofs of all assertions of a policy may take together: a few seconds.
const WORK: usize = 400_000_000;

/// Every assertion may take so many steps of them, whatever is left for the others.
const LEAST_WORK: usize = 100_000;

/// What became of one assertion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssertionResult {
    /// Its place in [`Policy::assertions`].
    pub assertion: usize,
    /// The instants for which it was decided: now, and each later one at which a rule that could
    /// matter starts or expires. Empty where deciding it takes more work than a load may: then the
    /// promise cannot count as kept.
    pub instants: Vec<PolicyTime>,
    /// Whether it speaks of any packet that there can be.
    pub in_question: bool,
    /// The first packet that breaks it, at the earliest instant at which one does.
    pub failure: Option<Failure>,
}

/// A packet that breaks an assertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The packet.
    pub headers: Headers,
    /// When it does.
    pub at: PolicyTime,
    /// The rule that decides it.
    pub rule: RuleId,
}

impl AssertionResult {
    /// Whether it is proved for every packet at every instant.
    pub fn holds(&self) -> bool {
        self.failure.is_none() && self.is_decided()
    }

    /// Whether it is proved or refuted: [`false`] where that takes more work than a load may.
    pub fn is_decided(&self) -> bool {
        !self.instants.is_empty()
    }

    /// What was found, for people: one line if the assertion holds, else two.
    pub fn describe(&self, policy: &Policy) -> String {
        let Some(assertion) = policy.assertions().get(self.assertion) else {
            return String::new();
        };
        let place = &assertion.location;
        let must = match assertion.must {
            Must::Reach => "must reach",
            Must::NotReach => "must not reach",
        };
        let mut text = format!(
            "{}:{}:{}: `{}` {must} `{}` by `{}`: ",
            place.file,
            place.line,
            place.column,
            policy.endpoint(assertion.from).label,
            policy.endpoint(assertion.to).label,
            policy.service(assertion.service).label,
        );
        // Writing to a String cannot fail.
        let _ = match (&self.failure, self.instants.len()) {
            (Some(failure), _) => write!(text, "broken\n  {}", failure.describe(policy)),
            (None, 0) => write!(text, "not decided: the proof takes more work than a load may"),
            (None, _) if !self.in_question => write!(text, "holds: no packet is in question"),
            (None, 1) => write!(text, "holds, proved for every packet"),
            (None, instants) => write!(
                text,
                "holds, proved for every packet now and after each of {} later starts and \
                 expiries of rules",
                instants - 1
            ),
        };
        text
    }
}

impl Failure {
    fn describe(&self, policy: &Policy) -> String {
        let verdict = match policy.action(self.rule) {
            Action::Allow => "allowed",
            Action::Deny => "denied",
            Action::Reject => "rejected",
        };
        let by = match policy.rule(self.rule) {
            Some(rule) => {
                let place = &rule.location;
                format!("rule `{}` ({}:{}:{})", rule.name, place.file, place.line, place.column)
            }
            None => "the default".to_owned(),
        };
        let when = jiff::Timestamp::from_millisecond(self.at.unix_ms)
            .map_or_else(|_| format!("{} ms", self.at.unix_ms), |at| at.to_string());
        let clock = if self.at.synchronised { "" } else { ", while the clock is not synchronised" };
        let packet = in_words(&self.headers, policy.wires());
        format!("witness: {packet}\n  is {verdict} by {by} at {when}{clock}")
    }
}

/// Decides every assertion of `policy`: for the instant `now`, and again after each later instant at
/// which a rule starts or expires. While the clock is not synchronised now, both for that case and
/// for a synchronised one. The work of all of them together is bounded; what that leaves undecided,
/// [`AssertionResult`] says.
pub fn check_assertions(policy: &Policy, now: PolicyTime) -> Vec<AssertionResult> {
    let count = policy.assertions().len();
    if count == 0 {
        return Vec::new();
    }
    let mut work = Work::new(WORK);
    let mut model = Model::new(&[policy], &mut work).ok();
    let mut results = Vec::with_capacity(count);
    for (index, assertion) in policy.assertions().iter().enumerate() {
        let undecided = AssertionResult {
            assertion: index,
            instants: Vec::new(),
            in_question: true,
            failure: None,
        };
        let share = (work.left() / (count - index)).max(LEAST_WORK);
        let decided = model.as_mut().and_then(|model| {
            let mut proof = Proof { policy, model, assertion, now };
            work.share(share, |work| proof.decide(index, work)).ok()
        });
        results.push(decided.unwrap_or(undecided));
    }
    results
}

/// The proof of one assertion.
struct Proof<'a> {
    policy: &'a Policy,
    model: &'a mut Model,
    assertion: &'a Assertion,
    now: PolicyTime,
}

/// A box that the assertion speaks of, and the boxes of the rules that overlap it.
struct Case {
    region: Region,
    overlapping: Vec<u32>,
}

impl Proof<'_> {
    fn decide(&mut self, index: usize, work: &mut Work) -> Result<AssertionResult, TooMuchWork> {
        let periods = self.periods();
        let times = RangeSet::<u32>::from_ranges(periods.iter().map(|&p| (p, p)));
        let queries = self.model.assertion(0, self.assertion, &times);
        let in_question = !queries.is_empty();
        let cases = self.cases(queries, work)?;
        let instants = self.instants(&cases);
        let failure = match self.breach(&cases, &times, work)? {
            Some(point) => Some(self.earliest(&cases, &periods, point, work)?),
            None => None,
        };
        Ok(AssertionResult { assertion: index, instants, in_question, failure })
    }

    /// The classes of instants in question, in the order in which they matter.
    fn periods(&self) -> Vec<u32> {
        let instants = &self.model.universe.instants;
        let trusted = instants.class(PolicyTime { synchronised: true, ..self.now });
        let untrusted = instants.class(PolicyTime { synchronised: false, ..self.now });
        let first = (!self.now.synchronised).then_some(untrusted);
        first.into_iter().chain(trusted..untrusted).collect()
    }

    fn cases(&mut self, queries: Vec<Query>, work: &mut Work) -> Result<Vec<Case>, TooMuchWork> {
        let all = 0..self.model.rules.len();
        let mut cases = Vec::with_capacity(queries.len());
        for query in queries {
            let overlapping = self.model.overlapping_query(&query, all.clone(), work)?;
            cases.push(Case { region: query.region, overlapping });
        }
        Ok(cases)
    }

    /// Now, what now becomes once the clock is synchronised, and each later change of a rule that
    /// could matter.
    fn instants(&self, cases: &[Case]) -> Vec<PolicyTime> {
        let synchronised = |unix_ms| PolicyTime { unix_ms, synchronised: true };
        let boxes = cases.iter().flat_map(|case| &case.overlapping);
        let owners = boxes.map(|&at| self.model.owners[at as usize] as usize);
        let rules = owners.filter_map(|owner| self.policy.rule(self.model.rules[owner].id));
        let mut later: Vec<i64> = rules
            .flat_map(|rule| [rule.starts, rule.expires])
            .flatten()
            .filter(|&at| at > self.now.unix_ms)
            .collect();
        later.sort_unstable();
        later.dedup();
        let mut out = vec![self.now];
        if !self.now.synchronised {
            out.push(synchronised(self.now.unix_ms));
        }
        out.extend(later.into_iter().map(synchronised));
        out
    }

    /// A point that breaks the assertion during `times`.
    fn breach(
        &self,
        cases: &[Case],
        times: &RangeSet<u32>,
        work: &mut Work,
    ) -> Result<Option<Region>, TooMuchWork> {
        let (model, times) = (&*self.model, std::sync::Arc::new(times.clone()));
        for case in cases {
            let region = case.region.with(Dimension::Time, times.clone());
            let (breaking, keeping): (Vec<u32>, Vec<u32>) =
                (case.overlapping.iter()).partition(|&&at| {
                    self.breaks(model.rules[model.owners[at as usize] as usize].action)
                });
            work.spend(case.overlapping.len())?;
            let cut = model.cut();
            if self.breaks(self.policy.default_action()) {
                let found = cut.uncovered(&region, &keeping, &mut Vec::new(), work)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            for at in breaking {
                work.spend(1)?;
                let Some(part) = region.intersection(&model.boxes[at as usize]) else { continue };
                // Earlier rules that break it too are no excuse: they are looked at themselves.
                let before = keeping
                    .partition_point(|&k| model.owners[k as usize] < model.owners[at as usize]);
                let found = cut.uncovered(&part, &keeping[..before], &mut Vec::new(), work)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// The failure at the earliest of `periods` at which there is one; `point` is some breach.
    fn earliest(
        &self,
        cases: &[Case],
        periods: &[u32],
        point: Region,
        work: &mut Work,
    ) -> Result<Failure, TooMuchWork> {
        let time = |point: &Region| point.get(Dimension::Time).ranges()[0].0;
        let place = |class: u32| periods.iter().position(|&p| p == class).unwrap_or(0);
        let (mut low, mut high, mut found) = (0, place(time(&point)), point);
        while low < high {
            // The first is tried alone: what is broken is mostly broken now.
            let middle = if low == 0 { 0 } else { low + (high - low) / 2 };
            let times = periods[low..=middle].iter().map(|&p| (p, p));
            let times = RangeSet::<u32>::from_ranges(times);
            match self.breach(cases, &times, work)? {
                Some(point) => (high, found) = (place(time(&point)).min(middle), point),
                None => low = middle + 1,
            }
        }
        let (headers, at) = self.model.universe.example(&found, Some(self.now.unix_ms));
        Ok(Failure { headers, at, rule: oracle::classify(self.policy, &headers, at) })
    }

    fn breaks(&self, action: Action) -> bool {
        (action == Action::Allow) != (self.assertion.must == Must::Reach)
    }
}
