//! The staged policy, as control sees it: what it would change, flow by flow, while it changes nothing.
//!
//! [`counts`] is what becomes of its tallies, of which there are many; [`kept`] is how it survives a
//! restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_pipeline::snapshot::Publisher;
use bulkhead_pipeline::snapshot::staged::{Difference, Live, Staged};
use bulkhead_rules::analyze;
use bulkhead_rules::classifier::Scratch;
use bulkhead_rules::headers::{Headers, PolicyTime};
use bulkhead_rules::packet::in_words;
use bulkhead_rules::policy::Policy;
use serde::{Deserialize, Serialize};

use self::counts::{Counts, Remembered};
use super::lockdown::obstacles;
use super::standing::Base;
use crate::candidate::Candidate;
use crate::signature::Envelope;
use crate::state::{Gateway, PolicyState};

pub mod counts;
pub mod kept;

/// Flows that are remembered one by one; the tally counts all.
const MAX_FLOWS: usize = 4096;

/// Of these, so many go at once when there is no room.
const MAKE_ROOM: usize = MAX_FLOWS / 4;

/// Differences of one worker that are taken at a time: others wait for the lock.
const PER_TURN: usize = 512;

/// The same of a tally that is over: no fewer than can wait.
const PER_LAST_TURN: usize = 2048;

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
    /// Their manifest and its signature, where they are signed: it has to hold when they are locked down, too.
    pub envelope: Option<Envelope>,
    /// When it was staged, or this run began.
    since: Instant,
    /// How long it was staged in earlier runs.
    watched_before: Duration,
    /// How often the gateway was started since it was staged.
    restarts: u64,
    /// The rules that somebody has to look at first.
    pub unreviewed: Vec<String>,
    /// What earlier runs have counted. Of these flows nothing else is known: no grant takes them out.
    earlier: Counts,
    /// What the tallies of this run before the present one have counted.
    carried: Counts,
    /// Whether its texts are kept for the next start.
    texts_are_kept: bool,
    /// The tally before, in which workers may still count.
    leaving: Option<Arc<Staged>>,
    flows: Flows,
}

/// What a publication does about what control keeps of the staged policy.
pub enum Next {
    /// It stays; its tally begins anew where the publication says so.
    Keep,
    /// The same policy with other exceptions.
    Adapt(Box<Candidate>),
    /// Another one is staged.
    Put(Box<StagedState>),
    /// Nothing is.
    Drop,
}

/// Flows that it would treat otherwise, by what they have in common.
#[derive(Default)]
struct Flows {
    seen: HashMap<Alike, Seen>,
    forgotten: u64,
    /// Of those that were forgotten, the ones that would be cut.
    forgotten_cut: Remembered,
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
    /// Such flows in this tally.
    count: u64,
    /// The most in one before.
    count_before: u64,
    rule: String,
    staged_rule: String,
    live: Option<Live>,
}

/// What the staged policy would change.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StageReport {
    /// The staged policy; absent where there is none.
    pub staged: Option<StagedShown>,
    /// Flows that were asked about: live, new and denied ones, each once. All begin to count anew when
    /// the policy in force changes, an exception is made, or the gateway starts; of this figure, and of
    /// those below, the largest is shown that was counted since the policy was staged. What a grant
    /// covers now is left out where it is remembered flow by flow; it counts again when the grant ends.
    pub flows: u64,
    /// Of these, those that pass now.
    pub passing: u64,
    /// Of these, those that would not.
    pub cut: u64,
    /// Of these, those that no rule of the staged policy names.
    pub cut_by_default: u64,
    /// `cut-by-default` of earlier runs of the gateway, which no grant lowers: the flows themselves are
    /// not known any more.
    #[serde(default)]
    pub cut_in_earlier_runs: u64,
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StagedShown {
    /// Where it was read from.
    pub source: String,
    /// The hash of its texts.
    pub hash: String,
    /// Its rules.
    pub rules: usize,
    /// Seconds since it was staged in which the gateway ran.
    pub age_s: u64,
    /// How often the gateway was started since it was staged.
    #[serde(default)]
    pub restarts: u64,
    /// Rules that wait for somebody to approve or remove them.
    pub unreviewed: Vec<String>,
}

/// What one rule would change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
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
    pub fn new(candidate: Candidate, base: Base, envelope: Option<Envelope>) -> Self {
        let unreviewed = super::lockdown::unreviewed(&candidate.policy);
        Self {
            candidate,
            base,
            envelope,
            since: Instant::now(),
            watched_before: Duration::ZERO,
            restarts: 0,
            unreviewed,
            earlier: Counts::default(),
            carried: Counts::default(),
            texts_are_kept: false,
            leaving: None,
            flows: Flows::default(),
        }
    }

    /// How long it has been staged while the gateway ran.
    pub fn age(&self) -> Duration {
        self.watched_before + self.since.elapsed()
    }

    /// The same policy, with what the tool adds now.
    pub(crate) fn adapt(&mut self, candidate: Candidate) {
        self.unreviewed = super::lockdown::unreviewed(&candidate.policy);
        self.candidate = candidate;
    }

    /// `counted`, the tally so far, is about to be followed by another one.
    pub(crate) fn leave(&mut self, counted: Option<&Arc<Staged>>, publisher: &Publisher) {
        let Some(counted) = counted else { return };
        if let Some(before) = self.leaving.replace(Arc::clone(counted)) {
            // A worker hangs that might count in it.
            self.flows.take(&before, publisher, PER_LAST_TURN);
            self.carried.raise_to(&Counts::of(&before));
        }
        self.flows.take(counted, publisher, PER_LAST_TURN);
        self.flows.begin_anew();
    }

    /// The tallies that workers may count in.
    fn tallies(&self, publisher: Option<&Publisher>) -> Vec<Arc<Staged>> {
        let current = publisher.and_then(|publisher| publisher.current().staged());
        self.leaving.iter().chain(current).cloned().collect()
    }
}

/// Takes what workers tell of flows that the staged policy would treat otherwise.
pub fn collect(gateway: &Gateway) {
    collect_up_to(gateway, PER_TURN);
}

fn collect_up_to(gateway: &Gateway, most: usize) {
    let mut state = gateway.policy();
    let PolicyState { publisher: Some(publisher), staged: Some(staged), .. } = &mut *state else {
        return;
    };
    for told in staged.tallies(Some(&*publisher)) {
        staged.flows.take(&told, publisher, most);
    }
}

/// Takes in what was counted in the tally before the present one, once no worker counts in it.
pub fn settle(gateway: &Gateway) {
    let leaving = gateway.policy().staged.as_ref().and_then(|staged| staged.leaving.clone());
    let Some(leaving) = leaving else { return };
    // Beside the lock: many rules take their time.
    let counts = Counts::of(&leaving);
    let mut state = gateway.policy();
    let PolicyState { publisher: Some(publisher), staged: Some(staged), .. } = &mut *state else {
        return;
    };
    if staged.leaving.as_ref().is_some_and(|other| Arc::ptr_eq(other, &leaving)) {
        staged.flows.take(&leaving, publisher, PER_LAST_TURN);
        staged.carried.raise_to(&counts);
        staged.leaving = None;
    }
}

impl Flows {
    /// Takes up to `most` differences from each worker.
    fn take(&mut self, told: &Staged, publisher: &Publisher, most: usize) {
        let policy = &told.content.policy;
        for worker in told.tally.workers() {
            for difference in std::iter::from_fn(|| worker.difference()).take(most) {
                let rule = publisher.rule_name(difference.rule, difference.epoch);
                let staged_rule = policy.rule_name(difference.staged_rule);
                self.note(difference, rule.unwrap_or("a rule that is gone"), staged_rule);
            }
        }
    }

    /// Counts from zero, as the tally does. What was counted is no less for that.
    fn begin_anew(&mut self) {
        for seen in self.seen.values_mut() {
            seen.count_before = seen.most();
            seen.count = 0;
        }
    }

    fn note(&mut self, difference: Difference, rule: &str, staged_rule: &str) {
        let Difference { headers, passes, unix_ms, .. } = difference;
        let alike = Alike { headers: without_client_port(&headers), passes };
        if self.seen.len() >= MAX_FLOWS && !self.seen.contains_key(&alike) {
            self.make_room();
        }
        let seen = self.seen.entry(alike).or_insert_with(|| Seen {
            last: difference,
            first_ms: unix_ms,
            count: 0,
            count_before: 0,
            rule: String::new(),
            staged_rule: String::new(),
            live: None,
        });
        seen.last = difference;
        (seen.rule, seen.staged_rule) = (rule.to_owned(), staged_rule.to_owned());
        seen.count += 1;
        let age = |live: &Option<Live>| live.map_or(0, |live| live.age_ns);
        if difference.live.is_some() && age(&difference.live) >= age(&seen.live) {
            seen.live = difference.live;
        }
    }

    /// Those that would be cut: a packet of each, the rule that cut it, and how many there were.
    fn cut(&self) -> Vec<(Headers, String, u64)> {
        let cut = self.seen.values().filter(|seen| seen.last.passes);
        cut.map(|seen| (seen.last.headers, seen.staged_rule.clone(), seen.most())).collect()
    }

    /// Those that came longest ago go, though sessions that are open stay as long as they can.
    fn make_room(&mut self) {
        let mut order: Vec<(bool, i64, Alike)> = (self.seen.iter())
            .map(|(alike, seen)| (seen.live.is_some(), seen.last.unix_ms, *alike))
            .collect();
        order.select_nth_unstable_by_key(MAKE_ROOM, |&(live, last, _)| (live, last));
        for (_, _, alike) in &order[..MAKE_ROOM] {
            if let Some(gone) = self.seen.remove(alike) {
                self.forgotten += gone.most();
                if gone.last.passes {
                    self.forgotten_cut.add(&gone.staged_rule, true, gone.most());
                }
            }
        }
    }
}

/// Whether the staged policy would cut a flow `now` that it would have cut once: an exception may cover it
/// by now, until its time is over.
fn is_cut_now(
    now: Option<&Arc<Staged>>,
    headers: &Headers,
    at: PolicyTime,
    scratch: &mut Scratch,
) -> bool {
    now.is_none_or(|now| !now.ask(headers, at, scratch).permitted)
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
        // All of it: what is not known here cannot be told from what a grant covers.
        collect_up_to(gateway, PER_LAST_TURN);
        let at = gateway.now();
        let mut report = Self::in_short(gateway);
        report.obstacles = obstacles(&report, &gateway.config.lockdown);
        let (policy, mut listed) = {
            let state = gateway.policy();
            let Some(staged) = &state.staged else { return report };
            let now = state.publisher.as_ref().and_then(|publisher| publisher.current().staged());
            let mut scratch = Scratch::default();
            let mut seen: Vec<_> = staged.flows.seen.values().collect();
            seen.sort_by_key(|seen| std::cmp::Reverse(seen.last.unix_ms));
            let differs = |seen: &&Seen| {
                !seen.last.passes || is_cut_now(now, &seen.last.headers, at, &mut scratch)
            };
            let listed = seen.into_iter().filter(differs).take(limit.min(MAX_LISTED));
            let listed: Vec<_> = listed.map(|seen| (seen.last, seen.shown())).collect();
            (staged.candidate.policy.clone(), listed)
        };
        // Beside the lock: many rules take their time.
        let compared = MAX_COMPARED / policy.rule_count().max(1);
        for (place, (difference, shown)) in listed.iter_mut().enumerate() {
            shown.flow = in_words(&difference.headers, policy.wires());
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
        let at = gateway.now();
        let (mut counts, earlier, tallies, now, seen, mut remembered) = {
            let state = gateway.policy();
            let Some(staged) = &state.staged else { return report };
            report.staged = Some(StagedShown {
                source: staged.base.source.clone(),
                hash: staged.base.hash.to_string(),
                rules: staged.candidate.policy.rule_count(),
                age_s: staged.age().as_secs(),
                restarts: staged.restarts,
                unreviewed: staged.unreviewed.clone(),
            });
            let tallies = staged.tallies(state.publisher.as_ref());
            let now = state.publisher.as_ref().and_then(|publisher| publisher.current().staged());
            report.unlisted = staged.flows.forgotten;
            (
                staged.carried.clone(),
                staged.earlier.clone(),
                tallies,
                now.cloned(),
                staged.flows.cut(),
                staged.flows.forgotten_cut.clone(),
            )
        };
        // Beside the lock: many rules take their time.
        for tally in &tallies {
            counts.raise_to(&Counts::of(tally));
        }
        let mut scratch = Scratch::default();
        for (headers, rule, count) in &seen {
            let is_cut = is_cut_now(now.as_ref(), headers, at, &mut scratch);
            remembered.add(rule, is_cut, *count);
        }
        counts.lower_by(&remembered);
        counts.raise_to(&earlier);
        report.cut_in_earlier_runs = earlier.cut_by_default;
        report.show(counts);
        report
    }

    fn show(&mut self, counts: Counts) {
        self.denied_ratio = counts.denied_ratio();
        (self.flows, self.passing) = (counts.flows, counts.passing);
        (self.cut, self.opened) = (counts.cut, counts.opened);
        (self.cut_by_default, self.cut_permitted) = (counts.cut_by_default, counts.cut_permitted);
        self.denied_packets = counts.denied_packets;
        self.unlisted += counts.untold;
        let shown = |(name, rule): (String, counts::RuleCounts)| {
            let counts::RuleCounts { cut, opened, by_default } = rule;
            RuleShown { name, cut, opened, by_default }
        };
        self.rules = counts.rules.into_iter().map(shown).collect();
        self.rules.sort_by_key(|rule| std::cmp::Reverse(rule.cut + rule.opened));
        self.rules.truncate(MAX_RULES);
    }
}

impl Seen {
    /// The most such flows in one tally.
    fn most(&self) -> u64 {
        self.count.max(self.count_before)
    }

    /// All but what takes the policy.
    fn shown(&self) -> FlowShown {
        FlowShown {
            flow: String::new(),
            passes: self.last.passes,
            rule: self.rule.clone(),
            staged_rule: self.staged_rule.clone(),
            nearest: None,
            count: self.most(),
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
    use bulkhead_rules::policy::RuleId;

    use super::counts::RuleCounts;
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
        flows.note(difference(2, 1000, 10, Some(90)), "old", "default");
        flows.note(difference(2, 1001, 20, None), "new", "default");
        let [seen] = &flows.seen.values().collect::<Vec<_>>()[..] else { panic!("one line") };
        let shown = seen.shown();
        assert_eq!((shown.count, shown.open_s, shown.rule.as_str()), (2, Some(90), "new"));
        assert_eq!((shown.first_unix_ms, shown.last_unix_ms), (10, 20));
        // In another tally all are counted again.
        flows.begin_anew();
        flows.note(difference(2, 1001, 30, None), "new", "default");
        assert_eq!(flows.seen.values().map(Seen::most).sum::<u64>(), 2);
    }

    #[test]
    fn a_flood_of_flows_forgets_the_oldest_and_keeps_open_sessions() {
        let mut flows = Flows::default();
        flows.note(difference(0, 1, 0, Some(1)), "session", "default");
        for dst in 1..=(3 * MAX_FLOWS as u128) {
            flows.note(difference(dst, 1, dst as i64, None), "scan", "default");
            assert!(flows.seen.len() <= MAX_FLOWS);
        }
        assert_eq!(flows.forgotten + flows.seen.len() as u64, 3 * MAX_FLOWS as u64 + 1);
        assert!(flows.seen.values().any(|seen| seen.live.is_some()));
        let latest = flows.seen.values().map(|seen| seen.last.unix_ms).max();
        assert_eq!(latest, Some(3 * MAX_FLOWS as i64));
        // Nobody knows whether a grant covers what was forgotten: it still counts.
        let cut = flows.forgotten + 7;
        let rules =
            [("default".to_owned(), RuleCounts { cut, opened: 0, by_default: true })].into();
        let mut counts = Counts { cut, cut_by_default: cut, rules, ..Counts::default() };
        let mut remembered = flows.forgotten_cut.clone();
        flows.cut().iter().for_each(|(_, rule, count)| remembered.add(rule, false, *count));
        counts.lower_by(&remembered);
        assert_eq!((counts.cut, counts.cut_by_default), (flows.forgotten, flows.forgotten));
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
