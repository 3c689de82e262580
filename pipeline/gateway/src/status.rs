//! `bulkhead status`: what the running gateway does, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use bulkhead_pipeline::counters::{PortCounters, WorkerCounters};
use bulkhead_pipeline::verdict::DropReason;
use serde::{Deserialize, Serialize};

use crate::bindings::report::BindingsReport;
use crate::cli::{SocketArgs, exit};
use crate::config::{Fail, mode_label};
use crate::control::client;
use crate::failure::bypass::Means;
use crate::failure::bypassed::Bypassed;
use crate::hardening::Confinement;
use crate::reload::ReloadReport;
use crate::state::{Gateway, PolicyState, PortHandle};
pub(crate) mod figures;

pub use self::figures::{Amount, Attention, FlowsStatus, StagedStatus, TrafficStatus};
pub use crate::talkers::{Talker, TalkersStatus};

/// The most drop reasons and rules that a status lists.
const TOP: usize = 10;

/// What the running gateway does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// The gateway's version.
    pub version: String,
    /// Its process.
    #[serde(default)]
    pub pid: u32,
    /// Whether workers judge by a policy.
    pub ready: bool,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The policy in force, or waiting for the workers; absent where there is none.
    pub policy: Option<PolicyStatus>,
    /// The last reload, or the start.
    pub last_reload: Option<ReloadReport>,
    /// The wires of the configuration, in its order.
    pub wires: Vec<WireStatus>,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// Drops by reason over all ports, the most frequent first.
    pub drops: Vec<Counted>,
    /// What observing wires would have dropped, by reason, the most frequent first.
    pub would_drop: Vec<Counted>,
    /// Decisions by rule, the most frequent first.
    pub rules: Vec<Counted>,
    /// Bindings of addresses to hosts.
    #[serde(default)]
    pub bindings: u64,
    /// Claims to addresses in the last hour that contradict what is known, in words.
    #[serde(default)]
    pub alerts: Vec<String>,
    /// What commands have added or put in the place of the policy's files, in words.
    #[serde(default)]
    pub standing: Vec<String>,
    /// Whether everything that came in is accounted for, at a moment when frames may be in flight.
    pub in_flight: i64,
    /// How long packets take through the workers.
    #[serde(default)]
    pub latency: LatencyStatus,
    /// What the process has given up.
    #[serde(default)]
    pub confinement: Confinement,
    /// When this was so, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub unix_ms: i64,
    /// What passed all ports since the start.
    #[serde(default)]
    pub traffic: TrafficStatus,
    /// Flows since the start.
    #[serde(default)]
    pub flows: FlowsStatus,
    /// Who bypasses wires: while no worker judges, or where a bypass does not let go. Absent where nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypassed: Option<Bypassed>,
    /// The staged policy, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedStatus>,
    /// Who talks most.
    #[serde(default)]
    pub talkers: TalkersStatus,
    /// Flow records, copies of frames and log events that were lost since the start.
    #[serde(default)]
    pub telemetry_lost: u64,
    /// What a person should look at, alarms first.
    #[serde(default)]
    pub attention: Vec<Attention>,
}

/// Percentiles of packets' ways through the workers since the start, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LatencyStatus {
    /// The median.
    pub p50_ns: u64,
    /// The 90th.
    pub p90_ns: u64,
    /// The 99th.
    pub p99_ns: u64,
    /// The 99.9th.
    pub p999_ns: u64,
}

/// The policy in force.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PolicyStatus {
    /// Where it was read from.
    pub source: String,
    /// Its hash.
    pub hash: String,
    /// Its epoch now; absent until workers run.
    pub epoch: Option<u64>,
    /// Its rules.
    pub rules: usize,
    /// Seconds since it was accepted.
    pub age_s: u64,
    /// Whether the last accepted policy stands in for bad files.
    pub fallback: bool,
    /// Whether the clock counts as synchronised; while it does not, timed allow rules match nothing
    /// and timed denials always.
    pub clock_synchronised: bool,
    /// Flows that ended since because it forbids them.
    pub flows_revoked: u64,
}

/// A wire.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WireStatus {
    /// Its name.
    pub name: String,
    /// `observe` or `enforce`.
    pub mode: String,
    /// The redundancy group; absent where the wire is redundant with no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy_group: Option<String>,
    /// The port towards the protected side.
    pub inside: PortStatus,
    /// The other port.
    pub outside: PortStatus,
    /// What becomes of it while no gateway judges: `closed`, or `open` and by what (`kernel`, `command`, or
    /// `none`: nothing can bypass it, so it fails closed).
    #[serde(default)]
    pub fail: String,
}

/// A port.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PortStatus {
    /// Its device, as the configuration names it.
    pub device: String,
    /// What drives it.
    pub driver: String,
    /// `up`, `no carrier`, `held down` (the other port has no carrier) or `closed`.
    pub link: String,
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out, answers of the gateway's own included.
    pub transmitted: u64,
    /// Frames that came in and were dropped, and frames that could not be sent.
    pub dropped: u64,
    /// Frames that came in, were forwarded, and would have been dropped by an enforcing wire.
    pub would_drop: u64,
    /// Bytes that came in, from the destination MAC address on, without FCS.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes that went out, likewise.
    #[serde(default)]
    pub transmitted_bytes: u64,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkerStatus {
    /// Its core; absent where it has none of its own.
    pub core: Option<usize>,
    /// Its share of time since the start that it spent with frames, from 0 to 1.
    pub busy: f64,
    /// Flows in its table.
    pub flows: u64,
    /// Flows that its table can hold.
    pub flow_capacity: u64,
    /// Frames that it handed to the workers which judge their flows.
    pub handed_out: u64,
    /// Frames that other workers handed to it.
    pub handed_in: u64,
    /// The 99th percentile of a packet's way through the worker, in nanoseconds.
    pub latency_p99_ns: u64,
    /// Its share of the last second that it spent with frames, from 0 to 1.
    #[serde(default)]
    pub busy_now: f64,
    /// Whether it has not been round its ports for two seconds.
    #[serde(default)]
    pub hangs: bool,
}

/// Something counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Counted {
    /// What.
    pub name: String,
    /// How often.
    pub count: u64,
}

/// What `status` is told.
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Keys of --watch: q quits, p pauses, 1 to 6 or Tab choose a panel, s sorts, arrows \
    scroll, ? helps. It stays open through a restart of the gateway. Into a file or a pipe it writes a line \
    every interval, with --json the whole status."
)]
pub struct StatusArgs {
    /// Show it live
    #[arg(long)]
    pub watch: bool,
    /// Seconds between two looks, with --watch
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, requires = "watch")]
    pub interval: f64,
    /// The gateway
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Asks the gateway and prints its answer. Returns the exit code.
pub fn main(args: &StatusArgs) -> u8 {
    if args.watch {
        return crate::live::main(args);
    }
    let args = &args.socket;
    let socket = client::socket(args);
    match socket.clone().and_then(|socket| client::status_at(&socket)) {
        Ok(status) => {
            if args.json {
                client::print_json(&status);
            } else {
                print!("{}", text(&status));
            }
            exit::OK
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(bypassed) = socket.ok().and_then(|socket| Bypassed::read(&socket)) {
                eprintln!("ALARM: {}", bypassed.describe());
            }
            exit::UNAVAILABLE
        }
    }
}

impl Status {
    /// The state of `gateway` now.
    pub fn of(gateway: &Gateway) -> Self {
        let state = gateway.policy();
        let policy = policy_status(gateway, &state);
        let last_reload = state.last.clone();
        let rules = state.publisher.as_ref().map_or_else(Vec::new, |publisher| {
            let totals = publisher.rule_totals().into_iter();
            top(totals.map(|(name, t)| (name.to_string(), t.enforced + t.observed)))
        });
        drop(state);
        let mut latency = None;
        let workers = gateway.workers().iter().map(|worker| {
            let counters = &worker.counters;
            let balance = counters.balance();
            let (busy, idle) = (counters.busy_ns.value(), counters.idle_ns.value());
            let own = worker.observer().histograms().latency_ns_of_all();
            let latency_p99_ns = own.value_at_quantile(0.99);
            match &mut latency {
                None => latency = Some(own),
                // All are of one fixed size, so adding cannot fail.
                Some(all) => *all += own,
            }
            WorkerStatus {
                core: worker.core,
                busy: busy as f64 / (busy + idle).max(1) as f64,
                flows: counters.flows.value(),
                flow_capacity: counters.flow_capacity.value(),
                handed_out: balance.handed_out,
                handed_in: balance.handed_in,
                latency_p99_ns,
                busy_now: worker.busy_ratio(),
                hangs: worker.hangs.load(Relaxed),
            }
        });
        let workers = workers.collect();
        let (bindings, alerts) = BindingsReport::in_short(gateway);
        let mut status = Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            ready: gateway.is_ready(),
            uptime_s: gateway.started.elapsed().as_secs(),
            policy,
            last_reload,
            wires: wires(gateway),
            workers,
            drops: by_reason(gateway, |port, reason| port.dropped.of(reason).packets.value()),
            would_drop: by_reason(gateway, |port, reason| {
                port.would_drop.of(reason).packets.value()
            }),
            rules,
            bindings,
            alerts,
            standing: standing(gateway),
            in_flight: in_flight(gateway),
            latency: latency.map(|all| LatencyStatus::of(&all)).unwrap_or_default(),
            confinement: confinement(gateway),
            unix_ms: crate::candidate::unix_now_ms().unwrap_or_default(),
            traffic: figures::traffic(gateway),
            flows: figures::flows(gateway),
            bypassed: figures::bypassed(gateway),
            staged: figures::staged(gateway),
            talkers: gateway.talkers().status(std::time::Instant::now()),
            telemetry_lost: figures::telemetry_lost(gateway),
            attention: Vec::new(),
        };
        status.attention = figures::attention(gateway, &status);
        status
    }
}

impl LatencyStatus {
    fn of(all: &hdrhistogram::Histogram<u64>) -> Self {
        let [p50_ns, p90_ns, p99_ns, p999_ns] =
            [0.5, 0.9, 0.99, 0.999].map(|quantile| all.value_at_quantile(quantile));
        Self { p50_ns, p90_ns, p99_ns, p999_ns }
    }
}

fn policy_status(gateway: &Gateway, state: &PolicyState) -> Option<PolicyStatus> {
    let current = state.current.as_ref()?;
    let snapshot = state.publisher.as_ref().map(|publisher| publisher.current());
    let now = gateway.now();
    Some(PolicyStatus {
        source: current.source.clone(),
        hash: current.candidate.hash.to_string(),
        epoch: snapshot.map(|snapshot| snapshot.epoch_at(now)),
        rules: current.candidate.policy.rule_count(),
        age_s: current.since.elapsed().as_secs(),
        fallback: state.fallback,
        clock_synchronised: now.synchronised,
        flows_revoked: gateway.flows_revoked().saturating_sub(current.revoked_before),
    })
}

/// What the process has given up, and why not where it has not.
fn confinement(gateway: &Gateway) -> Confinement {
    match gateway.confinement.get() {
        Some(confinement) => confinement.clone(),
        None => Confinement::none("`confine = false` under `[hardening]`"),
    }
}

/// What an operator who looks only at the policy's files would not expect.
fn standing(gateway: &Gateway) -> Vec<String> {
    let mut lines = Vec::new();
    let state = gateway.policy();
    let standing = &state.standing;
    if standing.pinned.is_some() {
        lines.push(format!(
            "version {} stands in the place of the policy's files (`bulkhead history`)",
            standing.version
        ));
    }
    if let Some(seal) = standing.base.as_ref().and_then(|base| base.seal.as_ref()) {
        lines.push(seal.describe());
    } else if gateway.config.signatures.required && state.current.is_some() {
        lines.push(
            "the policy in force is not signed: it is from before signatures were required"
                .to_owned(),
        );
    }
    if let Some(staged) = &state.staged {
        let (source, age) = (&staged.base.source, staged.age().as_secs());
        lines.push(format!("{source} is staged for {} (`bulkhead stage --status`)", duration(age)));
    }
    let (grants, quarantines) = (&standing.overlay.grants, &standing.overlay.quarantines);
    if !grants.is_empty() {
        lines.push(format!("{} grants (`bulkhead grants`)", grants.len()));
    }
    for quarantine in quarantines.iter().take(TOP) {
        lines.push(format!("{} is in quarantine", quarantine.device));
    }
    if quarantines.len() > TOP {
        lines.push(format!("{} more are in quarantine", quarantines.len() - TOP));
    }
    let configured = gateway.config.wires.iter().zip(&standing.modes);
    for (wire, mode) in configured.filter(|(wire, mode)| wire.mode != **mode) {
        let (name, mode) = (&wire.name, mode_label(*mode));
        lines.push(format!("wire {name} is in {mode} by command, whatever the configuration says"));
    }
    drop(state);
    match gateway.audit.missing() {
        0 => {}
        missing => lines.push(format!("ALARM: the audit log has no room for {missing} entries")),
    }
    lines
}

fn wires(gateway: &Gateway) -> Vec<WireStatus> {
    let mut wires = Vec::new();
    let modes = gateway.modes();
    for (index, (wire, &mode)) in gateway.config.wires.iter().zip(&modes).enumerate() {
        let handle = gateway.wires().get(index);
        let port = |device: &str, handle: Option<&PortHandle>| PortStatus {
            device: device.to_owned(),
            driver: handle.map_or_else(String::new, |handle| handle.driver.clone()),
            link: link(handle).to_owned(),
            ..PortStatus::default()
        };
        let mut status = WireStatus {
            name: wire.name.clone(),
            mode: mode_label(mode).to_owned(),
            redundancy_group: wire.redundancy_group.clone(),
            inside: port(&wire.inside, handle.map(|handle| &handle.inside)),
            outside: port(&wire.outside, handle.map(|handle| &handle.outside)),
            fail: match wire.failure.fail {
                Fail::Closed => Fail::Closed.label().to_owned(),
                Fail::Open => format!("{}: {}", Fail::Open.label(), Means::of(wire).label()),
            },
        };
        gateway.each_port_of(index, |inside, counters| {
            let port = if inside { &mut status.inside } else { &mut status.outside };
            port.received += counters.received.packets.value();
            port.transmitted += counters.transmitted.packets.value();
            port.dropped += counters.dropped.packets();
            port.would_drop += counters.would_drop.packets();
            port.received_bytes += counters.received.bytes.value();
            port.transmitted_bytes += counters.transmitted.bytes.value();
        });
        wires.push(status);
    }
    wires
}

fn link(port: Option<&PortHandle>) -> &'static str {
    match port {
        None => "closed",
        Some(port) if port.held_down.load(Relaxed) => "held down",
        Some(port) if port.carrier.load(Relaxed) => "up",
        Some(_) => "no carrier",
    }
}

fn by_reason(gateway: &Gateway, count: impl Fn(&PortCounters, DropReason) -> u64) -> Vec<Counted> {
    let mut sums = vec![0; DropReason::ALL.len()];
    for wire in gateway.workers().iter().flat_map(|worker| &worker.counters.wires) {
        for port in [&wire.inside, &wire.outside] {
            for (sum, reason) in sums.iter_mut().zip(DropReason::ALL) {
                *sum += count(port, *reason);
            }
        }
    }
    top(DropReason::ALL.iter().map(|reason| reason.label().to_owned()).zip(sums))
}

/// Received and originated, less transmitted, dropped and held: what workers have in their hands.
fn in_flight(gateway: &Gateway) -> i64 {
    let of = |counters: &WorkerCounters| {
        let b = counters.balance();
        let (came, went) = (b.received + b.originated, b.transmitted + b.dropped + b.held);
        i64::try_from(i128::from(came) - i128::from(went)).unwrap_or(i64::MAX)
    };
    gateway.workers().iter().map(|worker| of(&worker.counters)).sum()
}

fn top(counts: impl Iterator<Item = (String, u64)>) -> Vec<Counted> {
    let mut counts: Vec<Counted> = (counts.filter(|(_, count)| *count > 0))
        .map(|(name, count)| Counted { name, count })
        .collect();
    counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    counts.truncate(TOP);
    counts
}

/// The status as a person reads it.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, status);
    out
}

fn write_text(out: &mut String, status: &Status) -> std::fmt::Result {
    let ready = if status.ready { "guarding" } else { "NOT READY: no worker judges" };
    writeln!(out, "bulkhead {}, up {}: {ready}", status.version, duration(status.uptime_s))?;
    if let Some(bypassed) = &status.bypassed {
        writeln!(out, "ALARM    {}", bypassed.describe())?;
    }
    match &status.policy {
        Some(policy) => {
            let epoch = policy.epoch.map_or_else(String::new, |epoch| format!(", epoch {epoch}"));
            writeln!(
                out,
                "policy   {} (hash {}), {} rules{epoch}, in force for {}, ended {} flows",
                policy.source,
                &policy.hash.get(..12).unwrap_or(&policy.hash),
                policy.rules,
                duration(policy.age_s),
                policy.flows_revoked
            )?;
            if policy.fallback {
                writeln!(
                    out,
                    "         ALARM: the policy's files are bad; this is the last accepted one"
                )?;
            }
            if !policy.clock_synchronised {
                writeln!(
                    out,
                    "         the clock is not synchronised: timed allow rules match nothing"
                )?;
            }
        }
        None => writeln!(out, "policy   none: the ports stay down")?,
    }
    for line in &status.standing {
        writeln!(out, "         {line}")?;
    }
    match status.confinement.gaps().as_slice() {
        [] => writeln!(out, "confined capabilities, files, ports and system calls")?,
        gaps => {
            writeln!(out, "confined NOT in everything:")?;
            for gap in gaps {
                writeln!(out, "         {gap}")?;
            }
        }
    }
    if let Some(last) = &status.last_reload {
        writeln!(out, "reload   last one {} ({})", last.outcome.label(), last.trigger.label())?;
        for finding in last.findings.iter().filter(|finding| finding.severity == "error") {
            let place = match (&finding.file, finding.line) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                _ => String::new(),
            };
            writeln!(out, "         {place}{}", finding.message)?;
        }
    }
    writeln!(
        out,
        "\nWIRE             MODE     PORT                     LINK        RECEIVED  TRANSMITTED      DROPPED   WOULD DROP"
    )?;
    for wire in &status.wires {
        for (side, port) in [("inside", &wire.inside), ("outside", &wire.outside)] {
            let (name, mode) =
                if side == "inside" { (wire.name.as_str(), wire.mode.as_str()) } else { ("", "") };
            writeln!(
                out,
                "{name:<16} {mode:<8} {side:<7} {:<16} {:<10} {:>9} {:>12} {:>12} {:>12}",
                port.device,
                port.link,
                port.received,
                port.transmitted,
                port.dropped,
                port.would_drop
            )?;
        }
    }
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for wire in &status.wires {
        if let Some(group) = &wire.redundancy_group {
            groups.entry(group).or_default().push(&wire.name);
        }
    }
    for wire in &status.wires {
        match wire.fail.as_str() {
            "open: kernel" => writeln!(out, "{} fails open, by the kernel", wire.name)?,
            "open: command" => writeln!(out, "{} fails open, by its bypass-command", wire.name)?,
            "open: none" => {
                writeln!(out, "{} is to fail open, but nothing can bypass it", wire.name)?;
            }
            _ => {}
        }
    }
    for (group, wires) in groups {
        writeln!(out, "redundant with each other ({group}): {}", wires.join(", "))?;
    }
    writeln!(
        out,
        "\nWORKER  CORE   BUSY      FLOWS   CAPACITY   P99 LATENCY   HANDED OUT    HANDED IN"
    )?;
    for (index, worker) in status.workers.iter().enumerate() {
        let core = worker.core.map_or_else(|| "-".to_owned(), |core| core.to_string());
        writeln!(
            out,
            "{index:<7} {core:<5} {:>5.1}% {:>9} {:>10} {:>10.1} us {:>12} {:>12}",
            worker.busy * 100.0,
            worker.flows,
            worker.flow_capacity,
            worker.latency_p99_ns as f64 / 1000.0,
            worker.handed_out,
            worker.handed_in
        )?;
    }
    writeln!(out, "\n{} addresses are bound to hosts (`bulkhead bindings`)", status.bindings)?;
    for alert in status.alerts.iter().take(TOP) {
        writeln!(out, "ALERT: {alert}")?;
    }
    for (title, counts) in [
        ("DROPPED", &status.drops),
        ("WOULD HAVE DROPPED", &status.would_drop),
        ("DECIDED BY RULE", &status.rules),
    ] {
        if !counts.is_empty() {
            writeln!(out, "\n{title}")?;
            for counted in counts {
                writeln!(out, "{:>12}  {}", counted.count, counted.name)?;
            }
        }
    }
    Ok(())
}

/// Seconds as a person says them.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
