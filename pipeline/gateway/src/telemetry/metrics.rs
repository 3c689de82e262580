//! Every metric of the gateway.

use std::sync::atomic::Ordering::Relaxed;

use bulkhead_pipeline::bindings::ObservationKind;
use bulkhead_pipeline::bindings::table::ConflictKind;
use bulkhead_pipeline::counters::{ByPhase, PortCounters, Volume, WorkerCounters};
use bulkhead_pipeline::observe::Fate;
use bulkhead_pipeline::record::{CopyKind, Event};
use bulkhead_pipeline::verdict::DropReason;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

use super::families::Families;
use super::openmetrics::Format;
use crate::config::{Mode, mode_label};
use crate::state::{Gateway, PolicyState, PortHandle, WorkerHandle};
use crate::workflow::stage::StageReport;

/// Latency buckets in nanoseconds: 1, 2 and 5 of each decade from 1 µs to 10 ms.
const LATENCY_BOUNDS_NS: &[u64] = &[
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

/// Burst-size buckets in frames.
const BURST_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64];

/// The metrics in Prometheus' text format.
///
/// # Errors
///
/// When a name or a label breaks the format: a defect.
pub fn render(gateway: &Gateway) -> prometheus::Result<String> {
    render_as(Format::Prometheus, gateway)
}

/// The metrics in a text format.
///
/// # Errors
///
/// When a name or a label breaks the format: a defect.
pub fn render_as(format: Format, gateway: &Gateway) -> prometheus::Result<String> {
    let mut families = Families::default();
    gateway_families(gateway, &mut families);
    ports(gateway, &mut families);
    drops(gateway, &mut families);
    links(gateway, &mut families);
    workers(gateway, &mut families);
    flows(gateway, &mut families);
    fragments(gateway, &mut families);
    bindings(gateway, &mut families);
    records(gateway, &mut families);
    traces(gateway, &mut families);
    histograms(gateway, &mut families);
    workflow(gateway, &mut families);
    super::failure::render(gateway, &mut families);
    {
        let state = gateway.policy();
        policy(gateway, &state, &mut families);
        rules(gateway, &state, &mut families);
    }
    let mut families = families.finish();
    families.extend(process());
    format.encode(&families)
}

fn gateway_families(gateway: &Gateway, families: &mut Families) {
    families
        .gauge("build_info", "The build; always 1.")
        .add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    families
        .gauge("ready", "Whether workers judge by a policy.")
        .add(&[], f64::from(u8::from(gateway.is_ready())));
    if let Some(confinement) = gateway.confinement.get() {
        let help = "Whether the process has given up what it does not need, by part.";
        let mut confined = families.gauge("confined", help);
        for (name, part) in confinement.parts() {
            confined.add(&[("part", name)], f64::from(u8::from(part.in_force)));
        }
    }
    families
        .counter("log_lines_suppressed_total", "Log lines that the rate limit kept back.")
        .add(&[], gateway.log_suppressed.load(Relaxed) as f64);
    families
        .gauge("audit_entries", "The number of the audit log's last entry.")
        .add(&[], gateway.audit.head().sequence as f64);
    families
        .gauge("audit_entries_missing", "Entries that the audit log had no room for.")
        .add(&[], gateway.audit.missing() as f64);
    families
        .counter("audit_failures_total", "How often the audit log could not be written.")
        .add(&[], gateway.audit.failures() as f64);
    let mut modes = families.gauge("wire_mode", "The mode of each wire: 1 for the one it is in.");
    let now = gateway.modes();
    for (wire, now) in gateway.config.wires.iter().zip(now) {
        for mode in [Mode::Observe, Mode::Enforce] {
            let labels = [("wire", wire.name.as_str()), ("mode", mode_label(mode))];
            modes.add(&labels, f64::from(u8::from(now == mode)));
        }
    }
}

/// What commands have added to the policy's files, and what the staged policy would change.
fn workflow(gateway: &Gateway, families: &mut Families) {
    let (grants, quarantines, pinned) = {
        let state = gateway.policy();
        let standing = &state.standing;
        let overlay = &standing.overlay;
        (overlay.grants.len(), overlay.quarantines.len(), standing.pinned.is_some())
    };
    families.gauge("grants", "Grants whose time is not over.").add(&[], grants as f64);
    families.gauge("quarantines", "Devices in quarantine.").add(&[], quarantines as f64);
    families
        .gauge("policy_pinned", "Whether a version stands in the place of the policy's files.")
        .add(&[], f64::from(u8::from(pinned)));
    let staged = StageReport::in_short(gateway);
    families
        .gauge("staged", "Whether a policy is staged.")
        .add(&[], f64::from(u8::from(staged.staged.is_some())));
    if staged.staged.is_none() {
        return;
    }
    let mut flows = families.gauge(
        "staged_flows",
        "Flows that the staged policy was asked about: all, those that pass now, those of them that \
         would not, that would not for want of a rule, and those that would pass and do not.",
    );
    for (what, count) in [
        ("asked", staged.flows),
        ("passing", staged.passing),
        ("cut", staged.cut),
        ("cut_by_default", staged.cut_by_default),
        ("opened", staged.opened),
    ] {
        flows.add(&[("what", what)], count as f64);
    }
}

fn bindings(gateway: &Gateway, families: &mut Families) {
    let mut dropped = [("limited", 0), ("ring_full", 0), ("table_full", 0)];
    let (mut observed, mut repeated) = ([0; ObservationKind::ALL.len()], 0);
    for worker in gateway.workers() {
        let counters = worker.claims().counters().clone();
        for (sum, &kind) in observed.iter_mut().zip(ObservationKind::ALL) {
            *sum += counters.observed(kind).value();
        }
        repeated += counters.repeated.value();
        dropped[0].1 += counters.limited.value();
        dropped[1].1 += counters.ring_full.value();
    }
    let followed = gateway.bindings();
    let table = &followed.table;
    dropped[2].1 = table.refused();
    families.gauge("bindings", "Addresses that are bound to hosts.").add(&[], table.len() as f64);
    let help = "Claims to addresses that workers have seen, by kind, repetitions left out.";
    let mut family = families.counter("binding_observations_total", help);
    for (kind, count) in ObservationKind::ALL.iter().zip(observed) {
        family.add(&[("kind", kind.label())], count as f64);
    }
    families
        .counter("binding_observations_repeated_total", "Claims that were repeated within moments.")
        .add(&[], repeated as f64);
    let help = "Claims that were lost: beyond what a host may claim, or without room.";
    let mut family = families.counter("binding_observations_dropped_total", help);
    for (reason, count) in dropped {
        family.add(&[("reason", reason)], count as f64);
    }
    let help = "Claims that contradict what is known and were ignored, by what they contradict.";
    let mut family = families.counter("binding_conflicts_total", help);
    for &kind in ConflictKind::ALL {
        family.add(&[("kind", kind.label())], table.conflict_count(kind) as f64);
    }
}

fn records(gateway: &Gateway, families: &mut Families) {
    let (mut told, mut lost) = ([0; Event::ALL.len()], [0; Event::ALL.len()]);
    let (mut copied, mut limited) = ([0; CopyKind::ALL.len()], [0; CopyKind::ALL.len()]);
    let (mut copies_lost, mut packets_lost) = (0, 0);
    for worker in gateway.workers() {
        let source = worker.records();
        for (nth, &event) in Event::ALL.iter().enumerate() {
            told[nth] += source.counters().told(event).value();
            lost[nth] += source.counters().lost(event).value();
        }
        for (nth, &kind) in CopyKind::ALL.iter().enumerate() {
            copied[nth] += source.copy_counters().told(kind).value();
            limited[nth] += source.copy_counters().limited(kind).value();
        }
        copies_lost += source.copy_counters().lost.value();
        packets_lost += source.counters().denied_packets_lost.value();
    }
    for (name, help, counts) in [
        ("flow_records_total", "Flow records that workers handed over, by event.", told),
        ("flow_records_lost_total", "Flow records that found a worker's ring full.", lost),
    ] {
        let mut family = families.counter(name, help);
        for (event, count) in Event::ALL.iter().zip(counts) {
            family.add(&[("event", event.label())], count as f64);
        }
    }
    let help = "Denied packets whose flow records were lost.";
    families.counter("flow_records_lost_denied_packets_total", help).add(&[], packets_lost as f64);
    for (name, help, counts) in [
        ("frame_copies_total", "Copies of frames that workers handed over, by kind.", copied),
        (
            "frame_copies_limited_total",
            "Frames that were not copied because there were too many of their kind in a second.",
            limited,
        ),
    ] {
        let mut family = families.counter(name, help);
        for (kind, count) in CopyKind::ALL.iter().zip(counts) {
            family.add(&[("kind", kind.label())], count as f64);
        }
    }
    let help = "Copies of frames that found a worker's ring full.";
    families.counter("frame_copies_lost_total", help).add(&[], copies_lost as f64);
    let stats = &gateway.records;
    families
        .gauge("record_readers", "Readers of the stream of flow records.")
        .add(&[], stats.readers.load(Relaxed) as f64);
    families
        .counter("record_readers_refused_total", "Readers that came when there were four already.")
        .add(&[], stats.readers_refused.load(Relaxed) as f64);
    families
        .gauge("record_backlog_bytes", "Bytes of records that are kept for readers.")
        .add(&[], stats.log_bytes.load(Relaxed) as f64);
    let help = "Messages that readers lost because they were slow, or not there for too long.";
    let mut family = families.counter("record_readers_lost_total", help);
    family.add(&[("message", "flow")], stats.flows_lost.load(Relaxed) as f64);
    family.add(&[("message", "frame")], stats.frames_lost.load(Relaxed) as f64);
}

fn traces(gateway: &Gateway, families: &mut Families) {
    let (mut matched, mut lost) = (0, 0);
    for worker in gateway.workers() {
        let source = worker.trace();
        matched += source.counters().matched.load(Relaxed);
        lost += source.counters().lost.load(Relaxed);
    }
    let help = "Packets that `bulkhead trace` followed.";
    families.counter("trace_packets_total", help).add(&[], matched as f64);
    let help = "Steps of followed packets that found a worker's ring full.";
    families.counter("trace_lost_total", help).add(&[], lost as f64);
}

/// Calls `each` with wire, port and counters summed over workers by `read`.
fn sum_by_port<const N: usize>(
    gateway: &Gateway,
    read: impl Fn(&PortCounters) -> [u64; N],
    mut each: impl FnMut(&str, &str, [u64; N]),
) {
    for (index, wire) in gateway.config.wires.iter().enumerate() {
        let mut sums = [[0; N]; 2];
        gateway.each_port_of(index, |inside, counters| {
            let sums = &mut sums[usize::from(!inside)];
            for (sum, value) in sums.iter_mut().zip(read(counters)) {
                *sum += value;
            }
        });
        each(&wire.name, "inside", sums[0]);
        each(&wire.name, "outside", sums[1]);
    }
}

fn ports(gateway: &Gateway, families: &mut Families) {
    type Read = fn(&PortCounters) -> [u64; 2];
    let volumes: [(&str, &str, Read); 5] = [
        ("received", "that came in at a port", |c| {
            [c.received.packets.value(), c.received.bytes.value()]
        }),
        (
            "transmitted",
            "that were handed to a port's device, the gateway's own answers included",
            |c| [c.transmitted.packets.value(), c.transmitted.bytes.value()],
        ),
        ("originated", "that are answers of the gateway's own", |c| {
            [c.originated.packets.value(), c.originated.bytes.value()]
        }),
        ("forwarded", "that came in at a port and were sent on: verdict forward", |c| {
            [c.forwarded.packets.value(), c.forwarded.bytes.value()]
        }),
        (
            "rejected",
            "that a reject rule decided, among those dropped, or on an observing wire among those that would be",
            |c| [c.rejected.packets.value(), c.rejected.bytes.value()],
        ),
    ];
    for (name, what, read) in volumes {
        for (place, unit, title) in [(0, "packets", "Frames"), (1, "bytes", "Bytes of frames")] {
            let mut family =
                families.counter(&format!("{name}_{unit}_total"), &format!("{title} {what}."));
            sum_by_port(gateway, read, |wire, port, sums| {
                family.add(&[("wire", wire), ("port", port)], sums[place] as f64);
            });
        }
    }
    handed_over(gateway, families);
    let mut held = families.gauge(
        "held_packets",
        "Frames that wait for room in a transmit queue, or came in and wait for the first fragment of \
         their packet.",
    );
    sum_by_port(
        gateway,
        |c| [c.held.value() + c.waiting.value()],
        |wire, port, [sum]| {
            held.add(&[("wire", wire), ("port", port)], sum as f64);
        },
    );
    let mut kept = families.counter(
        "answers_suppressed_total",
        "Answers of reject rules that the rate limit or a full queue kept back.",
    );
    sum_by_port(
        gateway,
        |c| [c.answers_suppressed.value()],
        |wire, port, [sum]| {
            kept.add(&[("wire", wire), ("port", port)], sum as f64);
        },
    );
}

/// What workers gave to and took from each other: the same frames, unless some are in a ring.
fn handed_over(gateway: &Gateway, families: &mut Families) {
    type Read = fn(&PortCounters) -> &Volume;
    let directions: [(&str, &str, Read); 2] = [
        ("out", "that a worker handed to the one that judges their flow", |c| &c.handed_out),
        ("in", "that a worker was handed by the one at whose queue they came in", |c| &c.handed_in),
    ];
    for (direction, what, read) in directions {
        for (unit, title) in [("packets", "Frames"), ("bytes", "Bytes of frames")] {
            let mut family = families.counter(
                &format!("handed_{direction}_{unit}_total"),
                &format!("{title} {what}, by worker."),
            );
            by_worker(gateway, |name, worker| {
                let ports = worker.counters.wires.iter().flat_map(|w| [&w.inside, &w.outside]);
                let volumes = ports.map(read);
                let sum: u64 = match unit {
                    "packets" => volumes.map(|volume| volume.packets.value()).sum(),
                    _ => volumes.map(|volume| volume.bytes.value()).sum(),
                };
                family.add(&[("worker", name)], sum as f64);
            });
        }
    }
}

fn drops(gateway: &Gateway, families: &mut Families) {
    let names = [
        ("dropped", "dropped, by the reason; verdict drop"),
        (
            "would_drop",
            "forwarded by an observing wire that an enforcing one would have dropped, by the reason",
        ),
    ];
    for (name, what) in names {
        for (unit, title) in [("packets", "Frames"), ("bytes", "Bytes of frames")] {
            let mut family =
                families.counter(&format!("{name}_{unit}_total"), &format!("{title} {what}."));
            for reason in DropReason::ALL {
                let read = |counters: &PortCounters| {
                    let all =
                        if name == "dropped" { &counters.dropped } else { &counters.would_drop };
                    let volume = all.of(*reason);
                    [if unit == "packets" { volume.packets.value() } else { volume.bytes.value() }]
                };
                sum_by_port(gateway, read, |wire, port, [sum]| {
                    let labels = [("wire", wire), ("port", port), ("reason", reason.label())];
                    family.add(&labels, sum as f64);
                });
            }
        }
    }
}

/// Calls `each` with the labels, the handle and the device's name of every open port.
fn each_port(gateway: &Gateway, mut each: impl FnMut(&[(&str, &str); 2], &PortHandle, &str)) {
    for (config, wire) in gateway.config.wires.iter().zip(gateway.wires()) {
        let sides =
            [("inside", &wire.inside, &config.inside), ("outside", &wire.outside, &config.outside)];
        for (side, port, device) in sides {
            each(&[("wire", &config.name), ("port", side)], port, device);
        }
    }
}

fn links(gateway: &Gateway, families: &mut Families) {
    let mut up = families.gauge("link_up", "Whether a port has carrier and is not held down.");
    each_port(gateway, |labels, port, _| {
        let value = port.carrier.load(Relaxed) && !port.held_down.load(Relaxed);
        up.add(labels, f64::from(u8::from(value)));
    });
    let mut held = families.gauge(
        "link_held_down",
        "Whether a port is held down because the other port of its wire lost carrier.",
    );
    each_port(gateway, |labels, port, _| {
        held.add(labels, f64::from(u8::from(port.held_down.load(Relaxed))));
    });
    let mut info = families.gauge("port_info", "The device behind a port; always 1.");
    each_port(gateway, |labels, port, device| {
        let driver = port.driver.as_str();
        info.add(&[labels[0], labels[1], ("device", device), ("driver", driver)], 1.0);
    });
    type Read = fn(&bulkhead_pipeline::port::DriverCounters) -> u64;
    let counted: [(&str, &str, Read); 4] = [
        (
            "driver_missed_packets_total",
            "Frames that a device received and could not hand over.",
            |c| c.missed,
        ),
        ("driver_receive_errors_total", "Frames that arrived damaged.", |c| c.receive_errors),
        ("driver_transmit_errors_total", "Frames that a device could not send.", |c| {
            c.transmit_errors
        }),
        ("driver_no_buffer_total", "Receptions that failed for want of a buffer.", |c| c.no_buffer),
    ];
    for (name, help, read) in counted {
        let mut family = families.counter(name, help);
        each_port(gateway, |labels, port, _| {
            family.add(
                labels,
                port.device(|device| read(&device.driver_counters())).unwrap_or(0) as f64,
            );
        });
    }
}

fn by_worker(gateway: &Gateway, mut each: impl FnMut(&str, &WorkerHandle)) {
    for (index, worker) in gateway.workers().iter().enumerate() {
        each(&index.to_string(), worker);
    }
}

fn workers(gateway: &Gateway, families: &mut Families) {
    let mut busy = families.counter(
        "worker_busy_seconds_total",
        "Time that a worker spent in rounds that received something.",
    );
    by_worker(gateway, |name, worker| {
        busy.add(&[("worker", name)], worker.counters.busy_ns.value() as f64 * 1e-9);
    });
    let mut idle = families.counter(
        "worker_idle_seconds_total",
        "Time that a worker spent in rounds that received nothing, sleep included.",
    );
    by_worker(gateway, |name, worker| {
        idle.add(&[("worker", name)], worker.counters.idle_ns.value() as f64 * 1e-9);
    });
    let mut ratio = families.gauge(
        "worker_busy_ratio",
        "The share of the last second that a worker spent with frames, from 0 to 1.",
    );
    by_worker(gateway, |name, worker| {
        ratio.add(&[("worker", name)], worker.busy_ratio());
    });
    let mut loops = families.counter(
        "worker_loops_total",
        "Rounds of a worker over its ports; one that stands still hangs.",
    );
    by_worker(gateway, |name, worker| {
        loops.add(&[("worker", name)], worker.counters.loops.value() as f64);
    });
    let mut hangs = families.gauge(
        "worker_hangs",
        "Whether a worker has not been round its ports for two seconds: what it judges is cut.",
    );
    by_worker(gateway, |name, worker| {
        hangs.add(&[("worker", name)], f64::from(u8::from(worker.hangs.load(Relaxed))));
    });
    let mut lost = families.counter(
        "verdict_events_lost_total",
        "Verdicts of rules with `log: true` that were not logged because the ring was full.",
    );
    by_worker(gateway, |name, worker| {
        lost.add(&[("worker", name)], worker.counters.events_lost.value() as f64);
    });
}

fn flows(gateway: &Gateway, families: &mut Families) {
    let mut flows = families.gauge("flows", "Flows in a worker's table.");
    by_worker(gateway, |name, worker| {
        flows.add(&[("worker", name)], worker.counters.flows.value() as f64);
    });
    let mut capacity = families.gauge("flow_capacity", "Flows that a worker's table can hold.");
    by_worker(gateway, |name, worker| {
        capacity.add(&[("worker", name)], worker.counters.flow_capacity.value() as f64);
    });
    let mut inserts = families.counter("flow_inserts_total", "Flows created.");
    by_worker(gateway, |name, worker| {
        inserts.add(&[("worker", name)], worker.counters.flow_inserts.value() as f64);
    });
    let mut ends = families.counter(
        "flow_ends_total",
        "Flows that ended: expired (silent for too long, or closed), evicted (unanswered ones, to make \
         room), revoked (a newer policy or a rule's time forbids them).",
    );
    by_worker(gateway, |name, worker| {
        let counters = &worker.counters;
        for (reason, counter) in [
            ("expired", counters.flow_expired.total()),
            ("evicted", counters.flow_evicted.total()),
            ("revoked", counters.flow_revoked.value()),
        ] {
            ends.add(&[("worker", name), ("reason", reason)], counter as f64);
        }
    });
    type Read = fn(&WorkerCounters) -> &ByPhase;
    let by_phase: [(&str, &str, Read); 2] = [
        (
            "flow_expired_total",
            "Flows that were silent for longer than the timeout of the phase that they were in.",
            |counters| &counters.flow_expired,
        ),
        (
            "flow_evicted_total",
            "Flows that made room for new ones, by the phase that they were in: half-open, unanswered \
             or over.",
            |counters| &counters.flow_evicted,
        ),
    ];
    for (name, help, read) in by_phase {
        let mut family = families.counter(name, help);
        by_worker(gateway, |worker, handle| {
            for (phase, count) in read(&handle.counters).iter() {
                family.add(&[("worker", worker), ("phase", phase.label())], count as f64);
            }
        });
    }
    let mut refused = families.counter(
        "flow_refused_total",
        "Permitted flows refused because the table was full or their source held too many.",
    );
    by_worker(gateway, |name, worker| {
        refused.add(&[("worker", name)], worker.counters.flow_refused.value() as f64);
    });
    let mut adopted =
        families.counter("flow_adopted_total", "Flows adopted mid-stream during the grace time.");
    by_worker(gateway, |name, worker| {
        adopted.add(&[("worker", name)], worker.counters.flow_adopted.value() as f64);
    });
    let mut again = families.counter(
        "flow_reclassified_total",
        "Flows classified again because the policy had changed.",
    );
    by_worker(gateway, |name, worker| {
        again.add(&[("worker", name)], worker.counters.flow_reclassified.value() as f64);
    });
    let mut kept = families.counter(
        "flow_reaffirmed_total",
        "Flows that kept their verdict after an edit of the policy without being classified again, \
         because the edit had not touched them.",
    );
    by_worker(gateway, |name, worker| {
        kept.add(&[("worker", name)], worker.counters.flow_reaffirmed.value() as f64);
    });
}

fn fragments(gateway: &Gateway, families: &mut Families) {
    let mut followed = families.gauge(
        "fragmented_packets",
        "Packets whose first fragment passed and whose others are awaited.",
    );
    by_worker(gateway, |name, worker| {
        followed.add(&[("worker", name)], worker.counters.fragments.followed.value() as f64);
    });
    let mut capacity = families
        .gauge("fragmented_packet_capacity", "Packets that a worker's fragment table can hold.");
    by_worker(gateway, |name, worker| {
        capacity.add(&[("worker", name)], worker.counters.fragments.capacity.value() as f64);
    });
    let mut started = families
        .counter("fragmented_packets_started_total", "Packets whose first fragment passed.");
    by_worker(gateway, |name, worker| {
        started.add(&[("worker", name)], worker.counters.fragments.started.value() as f64);
    });
    let mut waited = families.counter(
        "fragments_waited_total",
        "Fragments that came before the first one of their packet and waited for it.",
    );
    by_worker(gateway, |name, worker| {
        waited.add(&[("worker", name)], worker.counters.fragments.waited.value() as f64);
    });
    let mut ends = families.counter(
        "fragmented_packets_ended_total",
        "Packets whose fragments are awaited no more: completed, expired (the rest did not come in \
         time), evicted (to make room), poisoned (fragments overlapped or disagreed), refused (the \
         table had no room).",
    );
    by_worker(gateway, |name, worker| {
        let counters = &worker.counters.fragments;
        for (reason, counter) in [
            ("completed", &counters.completed),
            ("expired", &counters.expired),
            ("evicted", &counters.evicted),
            ("poisoned", &counters.poisoned),
            ("refused", &counters.refused),
        ] {
            ends.add(&[("worker", name), ("reason", reason)], counter.value() as f64);
        }
    });
}

fn histograms(gateway: &Gateway, families: &mut Families) {
    let mut latency = families.histogram(
        "packet_latency_seconds",
        "From the receive call that brought a packet, or the call that took it from another worker, to the \
         end of the transmit call that took it, by what an enforcing wire does with it. Of bursts of 64, \
         one in 8 is timed and stands for the others.",
    );
    by_worker(gateway, |name, worker| {
        let mut observer = worker.observer();
        let recorded = observer.histograms();
        for fate in Fate::ALL {
            let labels = [("worker", name), ("verdict", fate.label())];
            latency.add_histogram(&labels, recorded.latency_ns(fate), LATENCY_BOUNDS_NS, 1e-9);
        }
    });
    let mut bursts = families.histogram("burst_packets", "Frames in a burst that was not empty.");
    by_worker(gateway, |name, worker| {
        let mut observer = worker.observer();
        let recorded = &observer.histograms().burst_packets;
        bursts.add_histogram(&[("worker", name)], recorded, BURST_BOUNDS, 1.0);
    });
}

fn signatures(gateway: &Gateway, state: &PolicyState, families: &mut Families) {
    let seal = state.standing.base.as_ref().and_then(|base| base.seal.as_ref());
    let flag = |value: bool| f64::from(u8::from(value));
    families
        .gauge("policy_signed", "Whether somebody who is trusted has signed the policy in force.")
        .add(&[], flag(seal.is_some()));
    families
        .gauge("policy_signature_required", "Whether only signed policies are taken.")
        .add(&[], flag(gateway.config.signatures.required));
    if let Some(seal) = seal {
        families
            .gauge("policy_issued_timestamp_seconds", "When the policy in force was issued.")
            .add(&[], seal.issued_s as f64);
    }
    let help = "Policies that were refused for their signature, by reason.";
    let mut refusals = families.counter("policy_signature_refusals_total", help);
    for (reason, count) in gateway.signatures.refused() {
        refusals.add(&[("reason", reason.label())], count as f64);
    }
}

fn policy(gateway: &Gateway, state: &PolicyState, families: &mut Families) {
    let mut reloads =
        families.counter("policy_reload_total", "Reloads, the start included, by result.");
    for (outcome, count) in &state.outcomes {
        reloads.add(&[("result", outcome.label())], *count as f64);
    }
    let flag = |value: bool| f64::from(u8::from(value));
    if let Some(last) = &state.last {
        families
            .gauge(
                "policy_last_reload_successful",
                "Whether the policy's files as they were last read are in force.",
            )
            .add(&[], flag(last.outcome.is_success()));
        if let Some(at_ms) = last.at_unix_ms {
            families
                .gauge("policy_last_reload_timestamp_seconds", "When they were last read.")
                .add(&[], at_ms as f64 / 1000.0);
        }
    }
    families
        .gauge(
            "policy_fallback",
            "Whether the last accepted policy stands in for files that were bad at the start.",
        )
        .add(&[], flag(state.fallback));
    signatures(gateway, state, families);
    let now = gateway.now();
    families
        .gauge(
            "clock_synchronised",
            "Whether the clock counts as synchronised; while not, timed allow rules match nothing and timed denials always.",
        )
        .add(&[], flag(now.synchronised));
    if let Some(publisher) = &state.publisher {
        families
            .gauge("policy_epoch", "The epoch in which packets are judged.")
            .add(&[], publisher.current().epoch_at(now) as f64);
        families
            .counter("policy_edits_total", "Edits of the policy in force that were published.")
            .add(&[], publisher.edits() as f64);
    }
    let Some(current) = &state.current else { return };
    let hash = current.candidate.hash.to_string();
    families
        .gauge("policy_info", "The policy in force; always 1.")
        .add(&[("hash", &hash), ("source", &current.source)], 1.0);
    families
        .gauge("policy_age_seconds", "Time since the policy in force was accepted.")
        .add(&[], current.since.elapsed().as_secs_f64());
    families
        .gauge("policy_rules", "Rules of the policy in force.")
        .add(&[], current.candidate.policy.rule_count() as f64);
    families
        .gauge("policy_warnings", "Warnings about the policy in force.")
        .add(&[], current.candidate.warnings.len() as f64);
    let cost = current.candidate.cost;
    families
        .gauge("policy_compile_seconds", "What it took to compile the policy in force.")
        .add(&[], cost.compile_us as f64 * 1e-6);
    families
        .gauge("policy_classifier_bytes", "Memory of the compiled policy in force.")
        .add(&[], cost.classifier_bytes as f64);
    if let Some(publish_us) = state.last_publish_us {
        families
            .gauge(
                "policy_publish_seconds",
                "From the last publication until the last worker judged by the policy.",
            )
            .add(&[], publish_us as f64 * 1e-6);
    }
}

/// The first rules of the policy have series of their own; the hits of the others are summed, so
/// that a policy of any size costs a bounded number of series.
fn rules(gateway: &Gateway, state: &PolicyState, families: &mut Families) {
    let Some(publisher) = &state.publisher else { return };
    let totals = publisher.rule_totals();
    let (default, rules) = match totals.split_last() {
        Some((default, rules)) => (Some(default), rules),
        None => (None, &[][..]),
    };
    let shown = rules.len().min(gateway.config.metrics.rule_limit);
    let mut hits = families.counter(
        "rule_hits_total",
        "Decisions of a rule by the mode of the wire: flows that it opened, and packets that it kept \
         from opening one; `default` is the policy's default, `other` are the rules over the limit.",
    );
    for (name, total) in rules[..shown].iter().chain(default) {
        hits.add(&[("rule", name), ("mode", "enforce")], total.enforced as f64);
        hits.add(&[("rule", name), ("mode", "observe")], total.observed as f64);
    }
    if shown < rules.len() {
        let others = &rules[shown..];
        let enforced: u64 = others.iter().map(|(_, total)| total.enforced).sum();
        let observed: u64 = others.iter().map(|(_, total)| total.observed).sum();
        hits.add(&[("rule", "other"), ("mode", "enforce")], enforced as f64);
        hits.add(&[("rule", "other"), ("mode", "observe")], observed as f64);
    }
}

/// Memory, time and descriptors of the process, under Prometheus' usual names.
fn process() -> Vec<MetricFamily> {
    ProcessCollector::for_self().collect()
}
