//! Figures over the whole gateway: traffic, flows, what is staged, and what needs attention.

use std::sync::atomic::Ordering::Relaxed;

use bulkhead_pipeline::counters::Volume;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Status, WireStatus};
use crate::failure::bypassed::Bypassed;
use crate::state::Gateway;
use crate::workflow::stage::StageReport;

/// What passed all ports since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TrafficStatus {
    /// Frames that came in.
    pub received: Amount,
    /// Frames that went out, answers of the gateway's own included.
    pub transmitted: Amount,
    /// Frames that the verdict sent on.
    pub forwarded: Amount,
    /// Frames that were dropped, or could not be sent.
    pub dropped: Amount,
    /// Frames that an observing wire sent on and an enforcing one would not.
    pub would_drop: Amount,
    /// Of what was or would be dropped, what reject rules deny.
    pub rejected: Amount,
    /// Answers of the gateway's own.
    pub originated: Amount,
    /// Frames that wait for room in transmit queues, or for the first fragment of their packet, now.
    pub held: u64,
}

/// Frames and their bytes, from the destination MAC address on, without FCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Amount {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Flows since the start, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FlowsStatus {
    /// In the tables, now.
    pub open: u64,
    /// That the tables can hold.
    pub capacity: u64,
    /// Created.
    pub opened: u64,
    /// Ended because they were silent for too long.
    pub expired: u64,
    /// Half-open, unanswered or ended ones that made room for others.
    pub evicted: u64,
    /// Permitted, and refused because a table was full or their source held too many.
    pub refused: u64,
    /// Ended by a newer policy, or by a rule's time.
    pub revoked: u64,
}

/// The staged policy, in short.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StagedStatus {
    /// Where it was read from.
    pub source: String,
    /// Seconds since it was staged.
    pub age_s: u64,
    /// Flows that were asked about.
    pub flows: u64,
    /// Of these, those that pass now and would not.
    pub cut: u64,
    /// Those that do not pass now, and would.
    pub opened: u64,
}

/// Something that a person should look at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Attention {
    /// Whether it is an alarm; otherwise it may wait.
    pub alarm: bool,
    /// What is the matter.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Amount {
    fn add(&mut self, volume: &Volume) {
        self.packets += volume.packets.value();
        self.bytes += volume.bytes.value();
    }
}

/// What passed all ports.
pub(super) fn traffic(gateway: &Gateway) -> TrafficStatus {
    let mut sum = TrafficStatus::default();
    let wires = gateway.workers().iter().flat_map(|worker| &worker.counters.wires);
    for port in wires.flat_map(|wire| [&wire.inside, &wire.outside]) {
        sum.received.add(&port.received);
        sum.transmitted.add(&port.transmitted);
        sum.forwarded.add(&port.forwarded);
        sum.rejected.add(&port.rejected);
        sum.originated.add(&port.originated);
        port.dropped.iter().for_each(|(_, volume)| sum.dropped.add(volume));
        port.would_drop.iter().for_each(|(_, volume)| sum.would_drop.add(volume));
        sum.held += port.held.value() + port.waiting.value();
    }
    sum
}

/// Flows over all workers.
pub(super) fn flows(gateway: &Gateway) -> FlowsStatus {
    let mut sum = FlowsStatus::default();
    for counters in gateway.workers().iter().map(|worker| &worker.counters) {
        sum.open += counters.flows.value();
        sum.capacity += counters.flow_capacity.value();
        sum.opened += counters.flow_inserts.value();
        sum.expired += counters.flow_expired.total();
        sum.evicted += counters.flow_evicted.total();
        sum.refused += counters.flow_refused.value();
        sum.revoked += counters.flow_revoked.value();
    }
    sum
}

/// Who bypasses wires: nobody once workers judge, unless a bypass does not let go.
pub(super) fn bypassed(gateway: &Gateway) -> Option<Bypassed> {
    Bypassed::read(&gateway.config.control_socket)
}

/// What is staged.
pub(super) fn staged(gateway: &Gateway) -> Option<StagedStatus> {
    gateway.policy().staged.as_ref()?;
    let report = StageReport::in_short(gateway);
    let staged = report.staged?;
    Some(StagedStatus {
        source: staged.source,
        age_s: staged.age_s,
        flows: report.flows,
        cut: report.cut,
        opened: report.opened,
    })
}

/// Flow records and copies of frames that somebody lost: workers to a full ring, readers because they
/// were slow.
pub(super) fn telemetry_lost(gateway: &Gateway) -> u64 {
    let of_workers = gateway.workers().iter().map(|worker| {
        let source = worker.records();
        let events = worker.counters.events_lost.value();
        source.counters().lost_in_all() + source.copy_counters().lost.value() + events
    });
    let stats = &gateway.records;
    let of_readers = stats.flows_lost.load(Relaxed) + stats.frames_lost.load(Relaxed);
    of_workers.sum::<u64>() + of_readers
}

/// What needs attention, alarms first.
pub(super) fn attention(gateway: &Gateway, status: &Status) -> Vec<Attention> {
    let mut all = Vec::new();
    let mut say = |alarm: bool, what: String, remedy: &str| {
        all.push(Attention { alarm, what, remedy: remedy.to_owned() });
    };
    for (index, _) in status.workers.iter().enumerate().filter(|(_, worker)| worker.hangs) {
        let what = format!("worker {index} hangs: its wires are cut");
        say(
            true,
            what,
            "the service manager restarts the gateway; `journalctl -u bulkhead` says more",
        );
    }
    match &status.policy {
        None => say(
            true,
            "no policy is in force: the ports stay down".to_owned(),
            "`bulkhead check` says what is wrong with the files",
        ),
        Some(policy) if policy.fallback => say(
            true,
            "the policy's files are bad: the last accepted policy is in force".to_owned(),
            "`bulkhead check` says what is wrong with them",
        ),
        Some(_) => {}
    }
    if let Some(bypassed) = &status.bypassed {
        say(true, bypassed.describe(), "`journalctl -u bulkhead` says why it does not end");
    }
    if !status.ready && status.policy.is_some() && !status.workers.iter().any(|w| w.hangs) {
        say(true, "no worker judges".to_owned(), "`journalctl -u bulkhead` says why");
    }
    if status.policy.as_ref().is_some_and(|policy| !policy.clock_synchronised) {
        say(
            false,
            "the clock is not synchronised: timed allow rules match nothing".to_owned(),
            "`chronyc tracking`, or `timedatectl`",
        );
    }
    if let Some(last) = status.last_reload.as_ref().filter(|last| !last.outcome.is_success()) {
        let what = format!("the last reload was {}: the policy before stays", last.outcome.label());
        say(true, what, "`bulkhead status` shows the mistakes");
    }
    status.wires.iter().for_each(|wire| of_wire(wire, &mut say));
    match gateway.audit.missing() {
        0 => {}
        missing => say(
            true,
            format!("the audit log has no room for {missing} entries"),
            "make room on the disk of the state folder",
        ),
    }
    let flows = &status.flows;
    if flows.open.saturating_mul(10) > flows.capacity.saturating_mul(9) && flows.capacity > 0 {
        let what = format!("the flow tables are full to {} %", flows.open * 100 / flows.capacity);
        say(false, what, "look for a flood, or raise `flows.capacity`");
    }
    for alert in &status.alerts {
        say(false, alert.clone(), "`bulkhead bindings`");
    }
    match status.telemetry_lost {
        0 => {}
        lost => say(
            false,
            format!("{lost} flow records, copies or log events were lost since the start"),
            "is the learning process running, and the disk fast enough? packets are not affected",
        ),
    }
    all.sort_by_key(|attention| !attention.alarm);
    all
}

fn of_wire(wire: &WireStatus, say: &mut impl FnMut(bool, String, &str)) {
    for (side, port) in [("inside", &wire.inside), ("outside", &wire.outside)] {
        let name = &wire.name;
        match port.link.as_str() {
            "no carrier" => {
                let what = format!("{} ({name}, {side}) has no carrier", port.device);
                say(true, what, "look at the cable and the device at its other end");
            }
            "closed" => say(true, format!("{} ({name}, {side}) is closed", port.device), ""),
            _ => {}
        }
    }
}
