//! Whether a policy keeps the promises that it makes about itself.
//!
//! An assertion is checked on one packet of every class that the policy tells apart, by the rules'
//! own linear scan: exactly where the classes are few enough to judge them all, by a sample where
//! they are not. This is no proof, and the result says so.

use std::fmt::Write as _;

use super::space::{Space, endpoints_meet, services_meet};
use crate::headers::{Headers, PolicyTime};
use crate::oracle;
use crate::packet::in_words;
use crate::policy::{Action, Assertion, EndpointId, Must, Policy, Rule, RuleId};

/// Rule comparisons that all assertions of a policy together may take: about a second.
const TOTAL_WORK: usize = 100_000_000;

/// Rule comparisons that one assertion may always take at one instant.
const LEAST_WORK: usize = 50_000;

/// The most packets that one assertion is checked on at one instant.
const MAX_PACKETS: usize = 1 << 20;

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
    /// Whether no packet was found that breaks the assertion.
    pub fn holds(&self) -> bool {
        self.failure.is_none()
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
            None if self.representatives == 0 => write!(text, "no packet is in question"),
            None if self.packets == 0 => {
                write!(text, "not checked: its packets fall into too many classes")
            }
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
/// instant at which a rule starts or expires. The work is bounded, see [`AssertionResult`].
pub fn check_assertions(policy: &Policy, now: PolicyTime) -> Vec<AssertionResult> {
    let instants = instants(policy, now);
    let shares = policy.assertions().len() * instants.len();
    let work = (TOTAL_WORK / shares.max(1)).max(LEAST_WORK);
    (policy.assertions().iter().enumerate())
        .map(|(index, assertion)| check(policy, index, assertion, &instants, work))
        .collect()
}

/// Now, what now becomes once the clock is synchronised, and each later change.
fn instants(policy: &Policy, now: PolicyTime) -> Vec<PolicyTime> {
    let synchronised = |unix_ms| PolicyTime { unix_ms, synchronised: true };
    let later = policy.schedule().into_iter().filter(|&instant| instant > now.unix_ms);
    let mut out = vec![now];
    if !now.synchronised {
        out.push(synchronised(now.unix_ms));
    }
    out.extend(later.map(synchronised));
    out
}

fn check(
    policy: &Policy,
    index: usize,
    assertion: &Assertion,
    instants: &[PolicyTime],
    work: usize,
) -> AssertionResult {
    let mut result = AssertionResult {
        assertion: index,
        instants: Vec::new(),
        packets: 0,
        representatives: 0,
        failure: None,
    };
    let relevant = relevant_rules(policy, assertion);
    let mut previous: Option<Vec<usize>> = None;
    for &at in instants {
        let active = |&id: &usize| policy.rules()[id].is_active(at);
        let active: Vec<usize> = relevant.iter().copied().filter(active).collect();
        if previous.as_ref() == Some(&active) {
            continue; // The same rules decide as before.
        }
        check_at(policy, assertion, &active, at, work, &mut result);
        if result.failure.is_some() {
            break;
        }
        previous = Some(active);
    }
    result
}

/// The rules that may match a packet of the assertion; every other rule matches none of them.
fn relevant_rules(policy: &Policy, assertion: &Assertion) -> Vec<usize> {
    let endpoints = policy.endpoints();
    let meets = |id: EndpointId| -> Vec<bool> {
        endpoints.iter().map(|e| endpoints_meet(e, policy.endpoint(id))).collect()
    };
    let (from, to) = (meets(assertion.from), meets(assertion.to));
    let service = policy.service(assertion.service);
    let services: Vec<bool> =
        policy.services().iter().map(|other| services_meet(service, other)).collect();
    let is_relevant = |rule: &Rule| {
        let (a, b) = (rule.from.0 as usize, rule.to.0 as usize);
        services[rule.service.0 as usize]
            && ((from[a] && to[b]) || (rule.between && from[b] && to[a]))
    };
    (0..policy.rules().len()).filter(|&id| is_relevant(&policy.rules()[id])).collect()
}

fn check_at(
    policy: &Policy,
    assertion: &Assertion,
    active: &[usize],
    at: PolicyTime,
    work: usize,
    result: &mut AssertionResult,
) {
    let rules: Vec<&Rule> = active.iter().map(|&id| &policy.rules()[id]).collect();
    result.instants.push(at);
    let limit = (work / rules.len().max(1)).clamp(1, MAX_PACKETS);
    let Ok(space) = Space::of(policy, assertion, &rules) else {
        // Not even the classes could be told apart within bounds: nothing was judged.
        result.representatives = u64::MAX;
        return;
    };
    let breaks = |headers: &Headers| {
        let deciding = rules.iter().position(|rule| rule.matches(policy, headers));
        let action = deciding.map_or(policy.default_action(), |place| rules[place].action);
        (action == Action::Allow) != (assertion.must == Must::Reach)
    };
    let total = space.len();
    result.representatives = result.representatives.saturating_add(total);
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
    result.packets += judged;
    // The whole policy's scan has the last word.
    result.failure =
        found.map(|headers| Failure { headers, at, rule: oracle::classify(policy, &headers, at) });
}
