//! What the gateway does, second by second: rates from one moment to the next, and what needs a decision.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::Console;
use super::model::groups::GroupKind;
use crate::audit::Entry;
use crate::candidate::unix_now_ms;
use crate::failure::bypassed::Bypassed;
use crate::status::{Counted, PortStatus, Status};
use crate::workflow::stage::StageReport;

/// Decisions that are listed.
const MAX_DECISIONS: usize = 50;

/// Entries of the audit log that are listed.
const MAX_CHANGES: usize = 20;

/// How long a device counts as new.
const NEW_MS: i64 = 24 * 3_600_000;

/// A grant that ends sooner needs a decision.
const ENDS_SOON_MS: i64 = 4 * 3_600_000;

/// What the gateway did up to a moment.
#[derive(Clone, Debug)]
pub struct Moment {
    /// All that it told.
    pub status: Arc<Status>,
    /// What the staged policy would change.
    pub staged: Option<Arc<StageReport>>,
    /// When it told that.
    at: Instant,
    rates: Rates,
    drop_rates: Arc<HashMap<String, f64>>,
}

/// What happened in the last second.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Rates {
    /// Packets that came in, a second.
    pub packets: f64,
    /// Bits that came in, a second.
    pub bits: f64,
    /// Packets that went out, a second.
    pub forwarded: f64,
    /// Packets that were dropped, a second.
    pub dropped: f64,
    /// Packets that an enforcing wire would have dropped, a second.
    pub would_drop: f64,
}

/// Packets since the gateway started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Verdicts {
    /// That came in.
    pub received: u64,
    /// That went out.
    pub forwarded: u64,
    /// That were dropped.
    pub dropped: u64,
    /// That were forwarded, and that an enforcing wire would have dropped.
    pub would_drop: u64,
}

/// Drops for one reason.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DropCount {
    /// The reason.
    pub reason: String,
    /// Packets since the gateway started.
    pub count: u64,
    /// Packets a second.
    pub rate: f64,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct WorkerLoad {
    /// Its core; absent where it has none of its own.
    pub core: Option<usize>,
    /// The share of the last second that it was busy, from 0 to 1.
    pub busy_ratio: f64,
    /// Whether it hangs.
    pub hung: bool,
    /// Flows in its table.
    pub flows: u64,
    /// Flows that its table can hold.
    pub flow_capacity: u64,
    /// The 99th percentile of a packet's way through it, in nanoseconds.
    pub latency_p99_ns: u64,
}

/// Percentiles of packets' ways through the workers, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// The 90th.
    pub p90: u64,
    /// The 99th.
    pub p99: u64,
    /// The 99.9th.
    pub p999: u64,
}

/// Flow tables, all together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowTables {
    /// Flows.
    pub used: u64,
    /// Flows that there is room for.
    pub capacity: u64,
}

/// A port of a wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortShown {
    /// `inside` or `outside`.
    pub name: String,
    /// Its device.
    pub device: String,
    /// `up`, `no carrier`, `held down` or `closed`.
    pub link: String,
}

/// A wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct WireShown {
    /// Its name.
    pub name: String,
    /// `observe` or `enforce`.
    pub mode: String,
    /// What becomes of it while no gateway judges: `closed`, or `open` and by what.
    pub fail: String,
    /// Its ports.
    pub ports: Vec<PortShown>,
}

/// Wires that pass everything unjudged, or may.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BypassShown {
    /// Their names.
    pub wires: Vec<String>,
    /// Who bypasses them: `the supervisor`, `systemd`, or a user.
    pub by: String,
    /// Why, in words.
    pub why: String,
    /// Since when.
    #[schema(format = DateTime)]
    pub since: String,
}

impl From<&Bypassed> for BypassShown {
    fn from(bypassed: &Bypassed) -> Self {
        let since =
            Timestamp::from_millisecond(bypassed.since_unix_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            wires: bypassed.may_pass(),
            by: bypassed.by.clone(),
            why: bypassed.why.clone(),
            since: since.to_string(),
        }
    }
}

/// The policy in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyInForce {
    /// The hash of its files.
    pub hash: String,
    /// Where it was read from.
    pub source: String,
    /// When it came into force.
    #[schema(format = DateTime)]
    pub loaded_at: String,
    /// Its rules.
    pub rules: usize,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// Whether the last accepted policy stands in for bad files.
    pub fallback: bool,
}

/// The gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GatewayShown {
    /// Its version.
    pub version: String,
    /// Whether workers judge by a policy.
    pub ready: bool,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The policy in force.
    pub policy: Option<PolicyInForce>,
    /// Its wires.
    pub wires: Vec<WireShown>,
    /// Whether the clock counts as synchronised.
    pub clock_synchronised: bool,
    /// What commands have added or put in the place of the policy's files, in words.
    pub standing: Vec<String>,
}

/// What needs a decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Decision {
    /// What kind it is.
    pub kind: DecisionKind,
    /// What it is about, in a sentence.
    pub what: String,
    /// The page of the console where it is made.
    pub link: String,
}

/// Kinds of decisions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionKind {
    /// An exception that learning found waits for approval.
    Exception,
    /// A grant ends soon, or makes no sense any more.
    Grant,
    /// A device was seen for the first time, and is in no group.
    UnknownDevice,
    /// A reload was refused.
    RefusedReload,
    /// Two devices claim one address.
    BindingConflict,
    /// Something else is wrong.
    Alarm,
}

/// What the gateway does now.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Overview {
    /// When this was so.
    #[schema(format = DateTime)]
    pub at: String,
    /// The gateway; absent while it does not answer.
    pub gateway: Option<GatewayShown>,
    /// Why it does not, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    /// Since when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub unreachable_since: Option<String>,
    /// Who lets wires pass unjudged: while the gateway does not answer, or where a bypass does not let go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypassed: Option<BypassShown>,
    /// The last second.
    pub rates: Rates,
    /// Since the gateway started.
    pub verdicts: Verdicts,
    /// Drops by reason, the most frequent first.
    pub drops: Vec<DropCount>,
    /// What observing wires would have dropped, likewise.
    pub would_drops: Vec<DropCount>,
    /// The workers.
    pub workers: Vec<WorkerLoad>,
    /// How long packets take.
    pub latency: Latency,
    /// The flow tables.
    pub flows: FlowTables,
    /// Rules by decisions, the most frequent first.
    pub rules: Vec<DropCount>,
    /// What was changed in the last day, the latest first.
    pub changes_since: Vec<Entry>,
    /// What needs a decision.
    pub decisions: Vec<Decision>,
}

impl Moment {
    /// What the gateway tells now, after `before`.
    pub fn new(status: Status, staged: Option<StageReport>, before: Option<&Self>) -> Self {
        let at = Instant::now();
        // A gateway that started anew counts from zero.
        let before = before.filter(|before| before.status.uptime_s <= status.uptime_s);
        let seconds = before.map_or(0.0, |before| at.duration_since(before.at).as_secs_f64());
        let rate = |now: u64, then: u64| match seconds > 0.0 {
            true => now.saturating_sub(then) as f64 / seconds,
            false => 0.0,
        };
        let sum = |status: &Status, of: fn(&PortStatus) -> u64| -> u64 {
            status.wires.iter().map(|wire| of(&wire.inside) + of(&wire.outside)).sum()
        };
        let rate_of = |of: fn(&PortStatus) -> u64| {
            rate(sum(&status, of), before.map_or(0, |before| sum(&before.status, of)))
        };
        let rates = Rates {
            packets: rate_of(|port| port.received),
            bits: 8.0 * rate_of(|port| port.received_bytes),
            forwarded: rate_of(|port| port.transmitted),
            dropped: rate_of(|port| port.dropped),
            would_drop: rate_of(|port| port.would_drop),
        };
        let mut drop_rates = HashMap::new();
        for (kind, list) in lists(&status) {
            for counted in list {
                let then = before.and_then(|before| {
                    let (_, list) = lists(&before.status).into_iter().find(|(k, _)| *k == kind)?;
                    Some(list.iter().find(|then| then.name == counted.name)?.count)
                });
                if let Some(then) = then {
                    drop_rates
                        .insert(format!("{kind} {}", counted.name), rate(counted.count, then));
                }
            }
        }
        Self {
            status: Arc::new(status),
            staged: staged.map(Arc::new),
            at,
            rates,
            drop_rates: Arc::new(drop_rates),
        }
    }

    /// How long ago it was told.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    fn counts(&self, kind: &str, list: &[Counted]) -> Vec<DropCount> {
        let counted = list.iter().map(|counted| DropCount {
            reason: counted.name.clone(),
            count: counted.count,
            rate: self.drop_rates.get(&format!("{kind} {}", counted.name)).copied().unwrap_or(0.0),
        });
        counted.collect()
    }
}

fn lists(status: &Status) -> [(&'static str, &Vec<Counted>); 3] {
    [("drop", &status.drops), ("would", &status.would_drop), ("rule", &status.rules)]
}

impl Overview {
    /// What is shown of a moment, or of a gateway that does not answer since then.
    pub fn of(console: &Console, moment: Result<Moment, (Timestamp, String)>) -> Self {
        let now = Timestamp::now();
        let mut overview = Self {
            at: now.to_string(),
            gateway: None,
            unreachable: None,
            unreachable_since: None,
            bypassed: None,
            rates: Rates::default(),
            verdicts: Verdicts::default(),
            drops: Vec::new(),
            would_drops: Vec::new(),
            workers: Vec::new(),
            latency: Latency::default(),
            flows: FlowTables::default(),
            rules: Vec::new(),
            changes_since: changes_since(console, now),
            decisions: Vec::new(),
        };
        match moment {
            Ok(moment) => {
                overview.show(&moment, now);
                overview.decisions = decisions(console, &moment);
            }
            Err((since, why)) => {
                let what = format!("the gateway does not answer: {why}");
                let link = "/overview".to_owned();
                overview.decisions.push(Decision { kind: DecisionKind::Alarm, what, link });
                if let Some(bypassed) = Bypassed::read(&console.settings.socket) {
                    overview.bypassed = Some(BypassShown::from(&bypassed));
                    let (what, link) = (bypassed.describe(), "/overview".to_owned());
                    overview.decisions.push(Decision { kind: DecisionKind::Alarm, what, link });
                }
                overview.unreachable = Some(why);
                overview.unreachable_since = Some(since.to_string());
            }
        }
        overview
    }

    /// Only the figures, for the record of the last hour.
    #[must_use]
    pub fn without_lists(&self) -> Self {
        let (changes_since, decisions, gateway) = (Vec::new(), Vec::new(), None);
        let rules = Vec::new();
        Self { changes_since, decisions, gateway, rules, ..self.clone() }
    }

    fn show(&mut self, moment: &Moment, now: Timestamp) {
        let status = &moment.status;
        let port = |name: &str, port: &PortStatus| PortShown {
            name: name.to_owned(),
            device: port.device.clone(),
            link: port.link.clone(),
        };
        let ports = || status.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
        self.gateway = Some(GatewayShown {
            version: status.version.clone(),
            ready: status.ready,
            uptime_seconds: status.uptime_s,
            policy: status.policy.as_ref().map(|policy| PolicyInForce {
                hash: policy.hash.clone(),
                source: policy.source.clone(),
                loaded_at: ago(now, policy.age_s),
                rules: policy.rules,
                epoch: policy.epoch,
                fallback: policy.fallback,
            }),
            wires: (status.wires.iter())
                .map(|wire| WireShown {
                    name: wire.name.clone(),
                    mode: wire.mode.clone(),
                    fail: wire.fail.clone(),
                    ports: vec![port("inside", &wire.inside), port("outside", &wire.outside)],
                })
                .collect(),
            clock_synchronised: status.policy.as_ref().is_none_or(|p| p.clock_synchronised),
            standing: status.standing.clone(),
        });
        self.bypassed = status.bypassed.as_ref().map(BypassShown::from);
        self.rates = moment.rates;
        self.verdicts = Verdicts {
            received: ports().map(|port| port.received).sum(),
            forwarded: ports().map(|port| port.transmitted).sum(),
            dropped: ports().map(|port| port.dropped).sum(),
            would_drop: ports().map(|port| port.would_drop).sum(),
        };
        self.drops = moment.counts("drop", &status.drops);
        self.would_drops = moment.counts("would", &status.would_drop);
        self.rules = moment.counts("rule", &status.rules);
        self.workers = (status.workers.iter())
            .map(|worker| WorkerLoad {
                core: worker.core,
                busy_ratio: worker.busy_now,
                hung: worker.hangs,
                flows: worker.flows,
                flow_capacity: worker.flow_capacity,
                latency_p99_ns: worker.latency_p99_ns,
            })
            .collect();
        let latency = status.latency;
        self.latency = Latency {
            p50: latency.p50_ns,
            p90: latency.p90_ns,
            p99: latency.p99_ns,
            p999: latency.p999_ns,
        };
        self.flows = FlowTables {
            used: status.workers.iter().map(|worker| worker.flows).sum(),
            capacity: status.workers.iter().map(|worker| worker.flow_capacity).sum(),
        };
    }
}

fn ago(now: Timestamp, seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN).to_string()
}

fn changes_since(console: &Console, now: Timestamp) -> Vec<Entry> {
    let day_ago = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now);
    let recent = console.gateway.recent();
    let is_recent =
        |entry: &&Entry| entry.time.parse::<Timestamp>().is_ok_and(|time| time >= day_ago);
    recent.iter().filter(is_recent).take(MAX_CHANGES).cloned().collect()
}

/// What needs a decision, the worst first.
fn decisions(console: &Console, moment: &Moment) -> Vec<Decision> {
    let mut found = Vec::new();
    let mut add = |kind: DecisionKind, what: String, link: &str| {
        if found.len() < MAX_DECISIONS {
            found.push(Decision { kind, what, link: link.to_owned() });
        }
    };
    let status = &moment.status;
    for line in status.standing.iter().filter(|line| line.starts_with("ALARM")) {
        add(DecisionKind::Alarm, line.clone(), "/report");
    }
    for (at, _) in status.workers.iter().enumerate().filter(|(_, worker)| worker.hangs) {
        add(DecisionKind::Alarm, format!("worker {at} hangs: its wires are cut"), "/overview");
    }
    if let Some(trouble) = console.model.trouble() {
        let what = format!("the map, devices and flows are not of now: {trouble}");
        add(DecisionKind::Alarm, what, "/map");
    }
    let last = status.last_reload.as_ref().filter(|last| !last.outcome.is_success());
    if let Some(last) = last {
        let why = last.findings.iter().find(|finding| finding.severity == "error");
        let why = why.map_or("", |finding| finding.message.as_str());
        let outcome = last.outcome.label();
        add(
            DecisionKind::RefusedReload,
            format!("the last reload was {outcome}: {why}"),
            "/policy",
        );
    }
    for alert in &status.alerts {
        add(DecisionKind::BindingConflict, alert.clone(), "/devices");
    }
    let staged = moment.staged.as_ref().and_then(|report| report.staged.as_ref());
    for rule in staged.iter().flat_map(|staged| &staged.unreviewed) {
        let what = format!("the exception {rule} of the staged policy waits for approval");
        add(DecisionKind::Exception, what, "/learn");
    }
    let now = unix_now_ms().unwrap_or_default();
    let exceptions = console.gateway.known_exceptions();
    for grant in exceptions.iter().flat_map(|all| &all.grants) {
        let name = &grant.name;
        if grant.suspended {
            let what = format!("{name} makes no sense beside the policy and is left out");
            add(DecisionKind::Grant, what, "/grants");
        } else if grant.expires_unix_ms - now < ENDS_SOON_MS {
            let minutes = (grant.expires_unix_ms - now).max(0) / 60_000;
            let what = format!("{name} ends in {minutes} minutes");
            add(DecisionKind::Grant, what, "/grants");
        }
    }
    if let Ok(picture) = console.model.picture() {
        let network = &picture.network;
        let hosts = network.hosts.iter().zip(0_u32..).filter(|(host, at)| {
            let group = picture.groups.of.get(*at as usize).map(|&group| usize::from(group));
            let kind = group.and_then(|group| picture.groups.groups.get(group)).map(|g| g.kind);
            let in_none = kind != Some(GroupKind::Declared) && kind != Some(GroupKind::Learned);
            in_none && !host.is_many && now - host.seen.first_ms < NEW_MS
        });
        // Where all is new, nothing is news: then the store is.
        let first = network.hosts.iter().map(|host| host.seen.first_ms).min();
        if first.is_some_and(|first| now - first > NEW_MS) {
            for (host, at) in hosts {
                let what = format!("{} is new and in no group", network.label(at));
                add(DecisionKind::UnknownDevice, what, &format!("/devices/{}", host.id));
            }
        }
    }
    found
}
