//! The staged policy, as control sees it: what it would change, flow by flow, while it changes nothing.

use std::collections::HashMap;
use std::time::Instant;

use bulkhead_pipeline::snapshot::staged::{Difference, Live, Tally};
use bulkhead_rules::analyze;
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::packet::in_words;
use bulkhead_rules::policy::{Policy, RuleId};
use serde::{Deserialize, Serialize};

use super::lockdown::{is_default, obstacles};
use super::standing::Base;
use crate::candidate::Candidate;
use crate::state::{Gateway, PolicyState};

/// Flows that are remembered one by one; the tally counts all.
const MAX_FLOWS: usize = 4096;

/// Of these, so many go at once when there is no room.
const MAKE_ROOM: usize = MAX_FLOWS / 4;

/// Differences of one worker that are taken at a time: others wait for the lock.
const PER_TURN: usize = 512;

/// Flows that one report lists at most.
const MAX_LISTED: usize = 500;

/// Rules that are compared with the flows of a report at most, for the one that is nearest.
const MAX_COMPARED: usize = 4_000_000;

/// Rules that one report lists at most.
const MAX_RULES: usize = 50;

/// A staged policy.
pub struct StagedState {
    /// The policy, with what the tool adds.
    pub candidate: Candidate,
    /// Its texts.
    pub base: Base,
    /// When it was staged.
    pub since: Instant,
    /// The rules that somebody has to look at first.
    pub unreviewed: Vec<String>,
    flows: Flows,
}

/// Flows that it would treat otherwise, by what they have in common.
#[derive(Default)]
struct Flows {
    /// The tally that they belong to.
    tally: u64,
    seen: HashMap<Alike, Seen>,
    forgotten: u64,
}

/// What flows have in common that are listed as one: all but the client's port, where a protocol has
/// one, and MAC addresses, where there are others.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Alike {
    headers: Headers,
    passes: bool,
}

struct Seen {
    last: Difference,
    first_ms: i64,
    count: u64,
    rule: String,
    live: Option<Live>,
}

/// What the staged policy would change.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageReport {
    /// The staged policy; absent where there is none.
    pub staged: Option<StagedShown>,
    /// Flows that were asked about: live, new and denied ones, each once.
    pub flows: u64,
    /// Of these, those that pass now.
    pub passing: u64,
    /// Of these, those that would not.
    pub cut: u64,
    /// Of these, those that no rule of the staged policy names.
    pub cut_by_default: u64,
    /// Of the cut ones, those that the policy in force permits; the others pass because their wire
    /// observes.
    pub cut_permitted: u64,
    /// Flows that do not pass now, and would.
    pub opened: u64,
    /// `cut-by-default` of `passing`.
    pub denied_ratio: f64,
    /// Denied packets that were asked about.
    pub denied_packets: u64,
    /// Differences that were counted but not listed, for want of room.
    pub unlisted: u64,
    /// What its rules would change, the most first.
    pub rules: Vec<RuleShown>,
    /// Flows that it would treat otherwise, the latest first.
    pub differing: Vec<FlowShown>,
    /// What stands in the way of a lockdown.
    pub obstacles: Vec<String>,
}

/// The staged policy in a report.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StagedShown {
    /// Where it was read from.
    pub source: String,
    /// The hash of its texts.
    pub hash: String,
    /// Its rules.
    pub rules: usize,
    /// Seconds since it was staged.
    pub age_s: u64,
    /// Rules that wait for somebody to approve or remove them.
    pub unreviewed: Vec<String>,
}

/// What one rule would change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleShown {
    /// Its name, or `default`.
    pub name: String,
    /// Flows that pass now and that it would not let pass.
    pub cut: u64,
    /// Flows that do not pass now and that it would let pass.
    pub opened: u64,
    /// Whether it is the default, or denies everything as the default does.
    pub by_default: bool,
}

/// A flow that would be treated otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FlowShown {
    /// The packet that opens it, in the words of `bulkhead explain`.
    pub flow: String,
    /// Whether it passes now; if so it would not, and the other way round.
    pub passes: bool,
    /// The rule in force that decides.
    pub rule: String,
    /// The staged rule that decides.
    pub staged_rule: String,
    /// The rule that would decide otherwise but for what is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// Such flows so far; they differ in the client's port.
    pub count: u64,
    /// When the first one came, in milliseconds since the Unix epoch.
    pub first_unix_ms: i64,
    /// When the last one did.
    pub last_unix_ms: i64,
    /// Seconds that a session had been open when it was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_s: Option<u64>,
    /// Packets that it had carried by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

impl StagedState {
    /// A policy that is staged now.
    pub fn new(candidate: Candidate, base: Base) -> Self {
        let unreviewed = super::lockdown::unreviewed(&candidate.policy);
        Self { candidate, base, since: Instant::now(), unreviewed, flows: Flows::default() }
    }
}

/// Takes what workers tell of flows that the staged policy would treat otherwise.
pub fn collect(gateway: &Gateway) {
    let mut state = gateway.policy();
    let PolicyState { publisher: Some(publisher), staged: Some(staged), .. } = &mut *state else {
        return;
    };
    let Some(tally) = publisher.current().staged().map(|staged| staged.tally.clone()) else {
        return;
    };
    if staged.flows.tally != tally.number() {
        staged.flows = Flows { tally: tally.number(), ..Flows::default() };
    }
    for worker in tally.workers() {
        for difference in std::iter::from_fn(|| worker.difference()).take(PER_TURN) {
            let rule = publisher.rule_name(difference.rule, difference.epoch);
            staged.flows.note(difference, rule.unwrap_or("a rule that is gone"));
        }
    }
}

impl Flows {
    fn note(&mut self, difference: Difference, rule: &str) {
        let Difference { headers, passes, unix_ms, .. } = difference;
        let alike = Alike { headers: without_client_port(&headers), passes };
        if self.seen.len() >= MAX_FLOWS && !self.seen.contains_key(&alike) {
            self.make_room();
        }
        let seen = self.seen.entry(alike).or_insert_with(|| Seen {
            last: difference,
            first_ms: unix_ms,
            count: 0,
            rule: rule.to_owned(),
            live: None,
        });
        (seen.last, seen.rule) = (difference, rule.to_owned());
        seen.count += 1;
        let age = |live: &Option<Live>| live.map_or(0, |live| live.age_ns);
        if difference.live.is_some() && age(&difference.live) >= age(&seen.live) {
            seen.live = difference.live;
        }
    }

    /// Those that came longest ago go, though sessions that are open stay as long as they can.
    fn make_room(&mut self) {
        let mut order: Vec<(bool, i64, Alike)> = (self.seen.iter())
            .map(|(alike, seen)| (seen.live.is_some(), seen.last.unix_ms, *alike))
            .collect();
        order.select_nth_unstable_by_key(MAKE_ROOM, |&(live, last, _)| (live, last));
        for (_, _, alike) in &order[..MAKE_ROOM] {
            if let Some(gone) = self.seen.remove(alike) {
                self.forgotten += gone.count;
            }
        }
    }
}

fn without_client_port(headers: &Headers) -> Headers {
    let mut headers = *headers;
    headers.src_port = 0;
    if headers.is_ip() {
        (headers.src_mac, headers.dst_mac) = Default::default();
    }
    headers
}

impl StageReport {
    /// What is staged now, with at most `limit` flows.
    pub fn of(gateway: &Gateway, limit: usize) -> Self {
        collect(gateway);
        let at = gateway.now();
        let mut report = Self::in_short(gateway);
        report.obstacles = obstacles(&report, &gateway.config.lockdown);
        let (policy, mut listed) = {
            let state = gateway.policy();
            let Some(staged) = &state.staged else { return report };
            let mut seen: Vec<_> = staged.flows.seen.values().collect();
            seen.sort_by_key(|seen| std::cmp::Reverse(seen.last.unix_ms));
            seen.truncate(limit.min(MAX_LISTED));
            let listed: Vec<_> = seen.into_iter().map(|seen| (seen.last, seen.shown())).collect();
            (staged.candidate.policy.clone(), listed)
        };
        // Beside the lock: many rules take their time.
        let compared = MAX_COMPARED / policy.rule_count().max(1);
        for (place, (difference, shown)) in listed.iter_mut().enumerate() {
            shown.flow = in_words(&difference.headers, policy.wires());
            shown.staged_rule = policy.rule_name(difference.staged_rule).to_owned();
            if place < compared {
                shown.nearest = nearest(&policy, &difference.headers, at);
            }
        }
        report.differing = listed.into_iter().map(|(_, shown)| shown).collect();
        report
    }

    /// The same without flows, and without what stands in the way of a lockdown.
    pub fn in_short(gateway: &Gateway) -> Self {
        let mut report = Self::default();
        let (live, forgotten) = {
            let state = gateway.policy();
            let Some(staged) = &state.staged else { return report };
            report.staged = Some(StagedShown {
                source: staged.base.source.clone(),
                hash: staged.base.hash.to_string(),
                rules: staged.candidate.policy.rule_count(),
                age_s: staged.since.elapsed().as_secs(),
                unreviewed: staged.unreviewed.clone(),
            });
            let publisher = state.publisher.as_ref();
            let live = publisher.and_then(|publisher| publisher.current().staged().cloned());
            (live, staged.flows.forgotten)
        };
        // Beside the lock: many rules take their time.
        if let Some(live) = live {
            report.count(&live.content.policy, &live.tally, forgotten);
        }
        report
    }

    fn count(&mut self, policy: &Policy, tally: &Tally, forgotten: u64) {
        for worker in tally.workers() {
            self.flows += worker.flows.value();
            self.passing += worker.passing.value();
            self.cut += worker.cut.value();
            self.cut_permitted += worker.cut_permitted.value();
            self.opened += worker.opened.value();
            self.denied_packets += worker.denied_packets.value();
            self.unlisted += worker.lost.value();
        }
        self.unlisted += forgotten;
        for rule in policy.order().chain([RuleId::DEFAULT]) {
            let totals = tally.totals(rule);
            if (totals.cut, totals.opened) == (0, 0) {
                continue;
            }
            let by_default = is_default(policy, rule);
            self.cut_by_default += if by_default { totals.cut } else { 0 };
            let name = policy.rule_name(rule).to_owned();
            let (cut, opened) = (totals.cut, totals.opened);
            self.rules.push(RuleShown { name, cut, opened, by_default });
        }
        self.rules.sort_by_key(|rule| std::cmp::Reverse(rule.cut + rule.opened));
        self.rules.truncate(MAX_RULES);
        self.denied_ratio = self.cut_by_default as f64 / self.passing.max(1) as f64;
    }
}

impl Seen {
    /// All but what takes the policy.
    fn shown(&self) -> FlowShown {
        FlowShown {
            flow: String::new(),
            passes: self.last.passes,
            rule: self.rule.clone(),
            staged_rule: String::new(),
            nearest: None,
            count: self.count,
            first_unix_ms: self.first_ms,
            last_unix_ms: self.last.unix_ms,
            open_s: self.live.map(|live| live.age_ns / 1_000_000_000),
            packets: self.live.map(|live| live.packets),
        }
    }
}

/// The rule that would decide otherwise if one condition were wider, in words.
fn nearest(policy: &Policy, headers: &Headers, at: PolicyTime) -> Option<String> {
    let explanation = analyze::explain(policy, headers, at);
    let nearest = explanation.nearest(policy, 1);
    let miss = nearest.first().filter(|miss| miss.failed.len() == 1)?;
    let failed = miss.failed.first()?;
    Some(format!("{}, but for its {failed}", policy.rule_name(miss.rule)))
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::headers::ETHER_IPV4;

    use super::*;

    fn difference(dst: u128, src_port: u16, unix_ms: i64, age_s: Option<u64>) -> Difference {
        let headers = Headers {
            ether_type: ETHER_IPV4,
            src: 1,
            dst,
            src_port,
            dst_port: 502,
            protocol: 6,
            ..Headers::default()
        };
        Difference {
            unix_ms,
            headers,
            passes: true,
            rule: RuleId(0),
            permitted: true,
            epoch: 1,
            staged_rule: RuleId::DEFAULT,
            live: age_s.map(|s| Live { age_ns: s * 1_000_000_000, packets: 1, bytes: 60 }),
        }
    }

    #[test]
    fn flows_of_one_client_are_one_line_and_remember_the_oldest_session() {
        let mut flows = Flows::default();
        flows.note(difference(2, 1000, 10, Some(90)), "old");
        flows.note(difference(2, 1001, 20, None), "new");
        let [seen] = &flows.seen.values().collect::<Vec<_>>()[..] else { panic!("one line") };
        let shown = seen.shown();
        assert_eq!((shown.count, shown.open_s, shown.rule.as_str()), (2, Some(90), "new"));
        assert_eq!((shown.first_unix_ms, shown.last_unix_ms), (10, 20));
    }

    #[test]
    fn a_flood_of_flows_forgets_the_oldest_and_keeps_open_sessions() {
        let mut flows = Flows::default();
        flows.note(difference(0, 1, 0, Some(1)), "session");
        for dst in 1..=(3 * MAX_FLOWS as u128) {
            flows.note(difference(dst, 1, dst as i64, None), "scan");
            assert!(flows.seen.len() <= MAX_FLOWS);
        }
        assert_eq!(flows.forgotten + flows.seen.len() as u64, 3 * MAX_FLOWS as u64 + 1);
        assert!(flows.seen.values().any(|seen| seen.live.is_some()));
        let latest = flows.seen.values().map(|seen| seen.last.unix_ms).max();
        assert_eq!(latest, Some(3 * MAX_FLOWS as i64));
    }

    #[test]
    fn the_nearest_rule_names_the_one_condition() {
        let text = "version: 1\nrules:\n  - {name: hmi, from: 0.0.0.1, to: 0.0.0.2, service: tcp/503, \
                    action: allow}\n  - {name: far, from: 9.9.9.9, to: 9.9.9.9, service: tcp/502, action: \
                    allow}\n";
        let policy = Policy::parse(text).unwrap_or_else(|found| panic!("{found:?}"));
        let at = PolicyTime { unix_ms: 0, synchronised: true };
        let near = nearest(&policy, &difference(2, 1, 0, None).headers, at);
        assert_eq!(near.as_deref(), Some("hmi, but for its service"));
        assert_eq!(nearest(&policy, &difference(3, 1, 0, None).headers, at), None);
    }
}
