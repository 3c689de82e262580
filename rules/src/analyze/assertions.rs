//! Whether a policy keeps the promises that it makes about itself.
//!
//! An assertion is checked on one packet of every class that the policy tells apart, by the rules'
//! own linear scan: exactly where the classes are few enough to judge them all, by a sample where
//! they are not. This is no proof, and the result says so.

use std::fmt::Write as _;
use std::time::Duration;

use super::space::{Space, endpoints_meet, services_meet};
use crate::compile::Limits;
use crate::compile::budget::{Budget, Exceeded};
use crate::headers::{Headers, PolicyTime};
use crate::packet::in_words;
use crate::policy::{Action, Assertion, EndpointId, Must, Policy, Rule, RuleId};

/// Comparisons of packets with rules that all assertions of a policy together may take: a second
/// or a few.
const JUDGING_WORK: usize = 100_000_000;

/// Steps that finding the packets to judge may take for all assertions together: a second or a few.
const FINDING_WORK: usize = 200_000_000;

/// What all of it may take besides: the time only for the case that the work is no measure of it.
const LIMITS: Limits = Limits { memory_bytes: 256 << 20, time: Duration::from_secs(30) };

/// The most packets that one assertion is checked on at one instant.
const MAX_PACKETS: usize = 1 << 20;

/// A sample of fewer packets than this at one instant would not be worth its name.
const LEAST_SAMPLE: usize = 64;

/// What became of one assertion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssertionResult {
    /// Its place in [`Policy::assertions`].
    pub assertion: usize,
    /// The instants for which it was checked: now, and each later one at which a rule that could
    /// matter starts or expires.
    pub instants: Vec<PolicyTime>,
    /// Representative packets that were judged, over all instants.
    pub packets: u64,
    /// Representative packets that there are, over all instants: more than [`Self::packets`] where
    /// they were too many and a sample had to do, or where the first failure ended the check.
    pub representatives: u64,
    /// The instants for which it was not checked at all, because the policy's assertions together
    /// take more work than a load may. Above zero the promise cannot count as kept.
    pub unchecked: u64,
    /// The first packet found that breaks the assertion.
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
    /// Whether it was checked for every instant and no packet was found that breaks it.
    pub fn holds(&self) -> bool {
        self.failure.is_none() && self.unchecked == 0
    }

    /// Whether there were more representatives than could be judged.
    pub fn is_sampled(&self) -> bool {
        self.holds() && self.packets < self.representatives
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
        let instants = self.instants.len();
        // Writing to a String cannot fail.
        let _ = match &self.failure {
            Some(failure) => write!(text, "broken\n  {}", failure.describe(policy)),
            None if self.unchecked > 0 => write!(
                text,
                "not checked at {} of {} instants: the policy's {} assertions, at the {} instants \
                 at which its rules start or expire, take more work than a load may",
                self.unchecked,
                self.unchecked.saturating_add(instants as u64),
                policy.assertions().len(),
                policy.schedule().len(),
            ),
            None if self.representatives == 0 => write!(text, "no packet is in question"),
            None if self.is_sampled() => write!(
                text,
                "no breach in a sample of {} of {} representative packets at {instants} instants \
                 (sampled, not proved)",
                self.packets, self.representatives,
            ),
            None => write!(
                text,
                "holds for all {} representative packets at {instants} instants \
                 (checked by representatives, not proved)",
                self.packets,
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
        let by = match policy.rules().get(self.rule.0 as usize) {
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

/// Checks every assertion of `policy`: for the instant `now`, and again just after each later
/// instant at which a rule starts or expires. The work of all of them together is bounded; what
/// that leaves unchecked, [`AssertionResult`] says.
pub fn check_assertions(policy: &Policy, now: PolicyTime) -> Vec<AssertionResult> {
    let mut work = Work { finding: Budget::with_work(LIMITS, FINDING_WORK), judging: JUDGING_WORK };
    let count = policy.assertions().len();
    (policy.assertions().iter().enumerate())
        .map(|(index, assertion)| {
            let share = work.judging / (count - index);
            check(policy, index, assertion, now, share, &mut work)
        })
        .collect()
}

/// What is left of the work that the assertions of a policy share.
struct Work {
    finding: Budget,
    judging: usize,
}

/// Now, what now becomes once the clock is synchronised, and each later change of one of `rules`.
fn instants(policy: &Policy, rules: &[usize], now: PolicyTime) -> Vec<PolicyTime> {
    let synchronised = |unix_ms| PolicyTime { unix_ms, synchronised: true };
    let changes = |&id: &usize| [policy.rules()[id].starts, policy.rules()[id].expires];
    let mut later: Vec<i64> =
        rules.iter().flat_map(changes).flatten().filter(|&at| at > now.unix_ms).collect();
    later.sort_unstable();
    later.dedup();
    let mut out = vec![now];
    if !now.synchronised {
        out.push(synchronised(now.unix_ms));
    }
    out.extend(later.into_iter().map(synchronised));
    out
}

/// `share` is this assertion's part of the judging; it may take more where its least sample does.
fn check(
    policy: &Policy,
    index: usize,
    assertion: &Assertion,
    now: PolicyTime,
    share: usize,
    work: &mut Work,
) -> AssertionResult {
    let mut result = AssertionResult {
        assertion: index,
        instants: Vec::new(),
        packets: 0,
        representatives: 0,
        unchecked: 0,
        failure: None,
    };
    let Ok(relevant) = relevant_rules(policy, assertion, &mut work.finding) else {
        result.unchecked = 1;
        return result;
    };
    let instants = instants(policy, &relevant, now);
    let reserve = work.judging.saturating_sub(share);
    let mut previous: Option<Vec<usize>> = None;
    for (place, &at) in instants.iter().enumerate() {
        let left = instants.len() - place;
        let spent = work.finding.spend(relevant.len(), 0).and_then(|()| work.finding.check_time());
        if spent.is_err() {
            result.unchecked += left as u64;
            break;
        }
        let active = |&id: &usize| policy.rules()[id].is_active(at);
        let active: Vec<usize> = relevant.iter().copied().filter(active).collect();
        if previous.as_ref() == Some(&active) {
            continue; // The same rules decide as before.
        }
        let share = work.judging.saturating_sub(reserve) / left;
        if check_at(policy, assertion, &active, at, share, work, &mut result).is_err() {
            result.unchecked += 1;
        }
        if result.failure.is_some() {
            break;
        }
        previous = Some(active);
    }
    result
}

/// The rules that may match a packet of the assertion; every other rule matches none of them.
fn relevant_rules(
    policy: &Policy,
    assertion: &Assertion,
    budget: &mut Budget,
) -> Result<Vec<usize>, Exceeded> {
    let mut meets = |id: EndpointId| -> Result<Vec<bool>, Exceeded> {
        let asserted = policy.endpoint(id);
        policy.endpoints().iter().map(|e| endpoints_meet(e, asserted, budget)).collect()
    };
    let (from, to) = (meets(assertion.from)?, meets(assertion.to)?);
    let service = policy.service(assertion.service);
    let mut services = Vec::with_capacity(policy.services().len());
    for other in policy.services() {
        budget.spend(service.terms.len() * other.terms.len(), 0)?;
        services.push(services_meet(service, other));
    }
    let is_relevant = |rule: &Rule| {
        let (a, b) = (rule.from.0 as usize, rule.to.0 as usize);
        services[rule.service.0 as usize]
            && ((from[a] && to[b]) || (rule.between && from[b] && to[a]))
    };
    budget.spend(policy.rules().len(), 0)?;
    let deciding = policy.order().map(|id| id.0 as usize);
    Ok(deciding.filter(|&id| is_relevant(&policy.rules()[id])).collect())
}

/// Fails where not even a sample could be judged.
fn check_at(
    policy: &Policy,
    assertion: &Assertion,
    active: &[usize],
    at: PolicyTime,
    share: usize,
    work: &mut Work,
    result: &mut AssertionResult,
) -> Result<(), Exceeded> {
    let rules: Vec<&Rule> = active.iter().map(|&id| &*policy.rules()[id]).collect();
    let space = Space::of(policy, assertion, &rules, &mut work.finding)?;
    let total = space.len();
    let cost = 1 + rules.iter().map(|rule| comparison_cost(policy, rule)).sum::<usize>();
    let least = total.min(LEAST_SAMPLE as u64) as usize;
    let limit = (share / cost).clamp(least, MAX_PACKETS);
    if cost.saturating_mul(least) > work.judging {
        return Err(Exceeded::Time);
    }
    let breaks = |headers: &Headers| {
        let deciding = rules.iter().position(|rule| rule.matches(policy, headers));
        let action = deciding.map_or(policy.default_action(), |place| rules[place].action);
        (action == Action::Allow) != (assertion.must == Must::Reach)
    };
    let mut judged = 0;
    let mut judge = |headers: &Headers| {
        judged += 1;
        breaks(headers)
    };
    let found = if total <= limit as u64 {
        space.all().find(|headers| judge(headers))
    } else {
        let mut state = 0;
        let random = move || super::probes::split_mix(&mut state);
        space.some(random).take(limit).find(|headers| judge(headers))
    };
    work.judging = work.judging.saturating_sub(cost.saturating_mul(judged));
    result.instants.push(at);
    result.representatives = result.representatives.saturating_add(total);
    result.packets += judged as u64;
    result.failure = found.map(|headers| {
        let deciding = rules.iter().position(|rule| rule.matches(policy, &headers));
        let rule = deciding.map_or(RuleId::DEFAULT, |place| RuleId(active[place] as u32));
        Failure { headers, at, rule }
    });
    Ok(())
}

/// What comparing a packet with `rule` costs: one, and more for a rule of many alternatives.
fn comparison_cost(policy: &Policy, rule: &Rule) -> usize {
    let sides = policy.endpoint(rule.from).boxes.len() + policy.endpoint(rule.to).boxes.len();
    let sides = if rule.between { 2 * sides } else { sides };
    1 + (sides + policy.service(rule.service).terms.len()) / 4
}
