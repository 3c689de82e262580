//! Ports and workers from the configuration, for whatever way to the wire there is.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bulkhead_pipeline::bindings;
use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::fragment::FragmentTableConfig;
use bulkhead_pipeline::handover::{self, Peers};
use bulkhead_pipeline::judge::Judge;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::owner::OwnerRule;
use bulkhead_pipeline::port::{Frame, MAX_BURST, Port};
use bulkhead_pipeline::record;
use bulkhead_pipeline::snapshot::staged::Staging;
use bulkhead_pipeline::snapshot::{Content, Publisher, Reader};
use bulkhead_pipeline::trace;
use bulkhead_pipeline::worker::{MonotonicClock, PollMode, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::WireId;
use tracing::{info, warn};

use crate::audit::{Draft, What, Who};
use crate::candidate::unix_now_ms;
use crate::config::{Config, Poll};
use crate::cores::Cores;
use crate::failure::bypass;
use crate::failure::bypassed::Bypassed;
use crate::failure::channel::Said;
use crate::hardening;
use crate::log::kind;
use crate::notice::Watchdog;
use crate::run::enter_last_failure;
use crate::state::{Device, Gateway, PortHandle, WireHandle, WorkerHandle};
use crate::workflow::apply::staged_policy;

/// Verdict events that may wait for the log, for each worker.
const EVENTS: usize = 4096;

/// Claims to addresses that may wait for the table, for each worker.
const CLAIMS: usize = 8192;

/// How long workers may take to judge by their first policy.
const FIRST_JUDGEMENT: Duration = Duration::from_secs(10);

/// How long workers may take to stop.
pub const STOP_LIMIT: Duration = Duration::from_millis(700);

/// What is said of a worker that takes longer.
pub const LEFT_BEHIND: &str = "a worker hangs and was left behind";

/// How long a frame waits for room in a transmit queue, in nanoseconds.
const TRANSMIT_PATIENCE_NS: u64 = 2_000_000;

/// A way to the wire.
pub trait Backend: Send + Sync + 'static {
    /// Its ports.
    type Port: Port + Send + 'static;

    /// Opens the ports of every wire of the configuration, in their order. They carry nothing until
    /// [`Device::start`].
    ///
    /// # Errors
    ///
    /// What failed, on which port, and the remedy.
    fn open(&self, config: &Config) -> Result<Vec<OpenWire<Self::Port>>, String>;

    /// Makes what [`Self::open`] needs and what no port has to be free for, so that another gateway may
    /// run meanwhile. Once it was called, [`Self::open`] takes less time.
    ///
    /// # Errors
    ///
    /// What failed and the remedy.
    fn prepare(&self, _config: &Config) -> Result<(), String> {
        Ok(())
    }

    /// Which worker judges a frame, for `workers` workers over the ports that are open: by the hash
    /// of the ports where they spread frames by addresses.
    fn owner_rule(&self, workers: usize) -> OwnerRule {
        OwnerRule::keyed(workers, None)
    }

    /// Called on each worker's thread before it polls; what it returns is dropped on the same thread
    /// at its end.
    ///
    /// # Errors
    ///
    /// What failed and the remedy.
    fn enter_worker(&self) -> Result<Box<dyn Any>, String>;
}

/// A wire whose ports are open.
pub struct OpenWire<P> {
    /// The queues of both ports, inside first: one pair, which one worker serves, or one for every
    /// worker. As many at all wires of a redundancy group.
    pub queues: Vec<(P, P)>,
    /// The device behind the inside port.
    pub inside: Box<dyn Device>,
    /// The device behind the outside port.
    pub outside: Box<dyn Device>,
}

/// The workers' threads.
pub struct Crew {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Opens the ports, starts the workers with the policy that waits in `gateway`, and, once all of
/// them judge, lets the ports rise. [`None`] when the gateway is told to stop meanwhile; then nothing
/// is left running.
///
/// # Errors
///
/// What failed and the remedy; nothing is left running.
pub fn launch<B: Backend>(
    backend: &Arc<B>,
    gateway: &Gateway,
    cores: &Cores,
) -> Result<Option<Crew>, String> {
    let config = &gateway.config;
    let mut judges = build_judges(config, cores).into_iter();
    if !has_ports(gateway) {
        return Ok(None);
    }
    let opened = backend.open(config)?;
    let wires: Vec<_> = config.wires.iter().map(|wire| wire.name.clone()).collect();
    let mut handles = Vec::new();
    let mut queues = Vec::new();
    for wire in opened {
        queues.push(wire.queues);
        handles.push(WireHandle {
            inside: PortHandle::new(wire.inside),
            outside: PortHandle::new(wire.outside),
        });
    }
    let groups: Vec<usize> = (0..queues.len()).map(|wire| config.group_of(wire)).collect();
    let spread = spread_wires(&queues);
    let shares = share_out(queues, &groups, config.workers);
    report_shares(&shares, &wires, config.workers);
    let workers = shares.len();
    let mut peers = connect(&backend.owner_rule(workers), &spread, config).into_iter();

    let readers = first_snapshot(gateway, workers)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut crew = Crew { stop: stop.clone(), threads: Vec::new() };
    let mut worker_handles = Vec::new();
    for (index, (share, reader)) in shares.into_iter().zip(readers).enumerate() {
        let (peers, judge) = (peers.next(), judges.next().flatten());
        let core = cores.workers.get(index).copied().flatten();
        let counters = Arc::new(WorkerCounters::new(share.len()));
        let (recorder, observer) = observe::channel(EVENTS);
        let (tap, claims) = bindings::channel(CLAIMS);
        let (records, source) = record::channel(&config.records.worker);
        let (tracer, traces) = trace::channel();
        worker_handles.push(WorkerHandle {
            core,
            counters: counters.clone(),
            wires: share.iter().map(|ports| usize::from(ports.wire.0)).collect(),
            observer: Mutex::new(observer),
            claims: Mutex::new(claims),
            records: Mutex::new(source),
            trace: Mutex::new(traces),
            busy_ppm: AtomicU64::new(0),
            hangs: AtomicBool::new(false),
        });
        let (backend, stop) = (backend.clone(), stop.clone());
        let (settings, clock) = (worker_config(config), gateway.clock);
        let is_confined = gateway.confinement.get().is_some();
        let calls = hardening::calls_of_workers(config);
        let poll = poll_mode(config.poll);
        // The worker is built on its own thread and core, so that its memory is near.
        let body = move || {
            pin(index, core);
            let _registration = match backend.enter_worker() {
                Ok(registration) => registration,
                Err(error) => {
                    tracing::error!(worker = index, "{error}");
                    return;
                }
            };
            let judge = judge.unwrap_or_else(|| Judge::new(&settings));
            let mut worker: Worker<B::Port, MonotonicClock> =
                Worker::with_judge(judge, &settings, share, reader, counters, recorder, clock)
                    .with_tap(tap)
                    .with_records(records)
                    .with_tracer(tracer);
            if let Some(peers) = peers {
                worker = worker.with_peers(peers);
            }
            if is_confined {
                hardening::confine_worker(index, calls);
            }
            worker.run(&stop, poll);
        };
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(body);
        crew.threads.push(thread.map_err(|error| format!("cannot start a worker: {error}"))?);
    }
    // Both are set once: a process launches once.
    let _ = gateway.workers.set(worker_handles);
    let _ = gateway.wires.set(handles);
    let risen = wait_for_judgement(gateway, &crew)
        .and_then(|()| end_bypass(gateway))
        .and_then(|()| raise(gateway));
    if risen.is_ok() && !gateway.is_stopping() {
        gateway.guarding.store(true, Ordering::SeqCst);
        return Ok(Some(crew));
    }
    let stopped_in_time = crew.stop(STOP_LIMIT);
    gateway.close_ports();
    risen?;
    if stopped_in_time { Ok(None) } else { Err(LEFT_BEHIND.to_owned()) }
}

impl Crew {
    /// The first worker that ended although nobody told it to.
    pub fn casualty(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Tells the workers to stop, and waits until they have, at most `limit`. False where one hangs.
    pub fn stop(&self, limit: Duration) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if begun.elapsed() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// The wires of one worker.
type Share<P> = Vec<WirePorts<P>>;

/// Gives each worker its queues: one of every wire that is spread, all of a wire that is not; of such
/// wires, those of one redundancy group go to one worker. `groups` has the group of each wire. Workers
/// that would have nothing to do are left out.
fn share_out<P>(queues: Vec<Vec<(P, P)>>, groups: &[usize], workers: usize) -> Vec<Share<P>> {
    let mut shares: Vec<Share<P>> = (0..workers.max(1)).map(|_| Vec::new()).collect();
    let mut homes: HashMap<usize, usize> = HashMap::new();
    for (index, (pairs, &group)) in queues.into_iter().zip(groups).enumerate() {
        let wire = WireId(u16::try_from(index).unwrap_or(u16::MAX));
        let turn = homes.len();
        let first = if pairs.len() > 1 { 0 } else { *homes.entry(group).or_insert(turn) };
        for (offset, (inside, outside)) in pairs.into_iter().enumerate() {
            let worker = (first + offset) % shares.len();
            let group = u16::try_from(group).unwrap_or(u16::MAX);
            shares[worker].push(WirePorts { wire, group, inside, outside });
        }
    }
    shares.retain(|share| !share.is_empty());
    shares
}

/// The wires that every worker serves.
fn spread_wires<P>(queues: &[Vec<(P, P)>]) -> Vec<WireId> {
    let numbers = (0..queues.len()).filter(|&wire| queues[wire].len() > 1);
    numbers.map(|wire| WireId(u16::try_from(wire).unwrap_or(u16::MAX))).collect()
}

/// The rings between the workers of spread wires, for each worker in turn; none where there are no
/// such wires. All that a worker's peers may hand to it at a port is as much as the port's own queue
/// holds.
fn connect<F: Frame>(rule: &OwnerRule, spread: &[WireId], config: &Config) -> Vec<Peers<F>> {
    if spread.is_empty() {
        return Vec::new();
    }
    let others = rule.workers().saturating_sub(1).max(1);
    let frames = (usize::from(config.dpdk.queue_size) / others).max(2 * MAX_BURST);
    handover::connect(rule, spread, frames)
}

fn report_shares<P>(shares: &[Share<P>], wires: &[String], wanted: usize) {
    if shares.len() < wanted {
        warn!(
            "{} of {wanted} workers would have nothing to do and are not started: the ports of these \
             wires have one queue each",
            wanted - shares.len()
        );
    }
    for (worker, share) in shares.iter().enumerate() {
        let names: Vec<&str> = (share.iter())
            .filter_map(|ports| wires.get(usize::from(ports.wire.0)))
            .map(String::as_str)
            .collect();
        info!(worker, wires = names.join(","), "worker");
    }
}

fn first_snapshot(gateway: &Gateway, workers: usize) -> Result<Vec<Reader>, String> {
    let mut followed = gateway.bindings();
    let mut state = gateway.policy();
    let (Some(current), Some((policy, classifier))) = (&state.current, followed.taken_up()) else {
        return Err("there is no policy to judge by".to_owned());
    };
    let content = gateway.content(&current.candidate, &state.standing, None);
    let content = Content { policy, classifier, ..content };
    let (mut publisher, readers) = Publisher::new(content, workers);
    if let Some(staged) = &state.staged {
        publisher.stage(followed.up_to_date(Staging::Put(staged_policy(&staged.candidate))));
    }
    state.publisher = Some(publisher);
    Ok(readers)
}

/// Returns when all workers judge, or the gateway is told to stop.
fn wait_for_judgement(gateway: &Gateway, crew: &Crew) -> Result<(), String> {
    let begun = Instant::now();
    let mut watchdog = Watchdog::default();
    while !gateway.is_stopping() {
        watchdog.alive();
        if let Some(worker) = crew.casualty() {
            return Err(format!("worker {worker} ended at its start: see the log"));
        }
        // A worker has judged when it has been round its ports once.
        if gateway.workers().iter().all(|worker| worker.counters.loops.value() > 0) {
            return Ok(());
        }
        if begun.elapsed() > FIRST_JUDGEMENT {
            return Err("the workers did not begin to judge: is the machine overloaded?".to_owned());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The tables of the workers, each made on its worker's core, so that its memory is near. Before any port
/// is opened: from then on until its worker goes round, a wire is cut.
fn build_judges(config: &Config, cores: &Cores) -> Vec<Option<Judge>> {
    let settings = worker_config(config);
    thread::scope(|scope| {
        let builders: Vec<_> = (0..config.workers.max(1))
            .map(|index| {
                let core = cores.workers.get(index).copied().flatten();
                let settings = &settings;
                scope.spawn(move || {
                    pin(index, core);
                    Judge::new(settings)
                })
            })
            .collect();
        // One that could not be made is tried again by its worker, which says why it cannot.
        builders.into_iter().map(|builder| builder.join().ok()).collect()
    })
}

/// Waits until a gateway whose place this one takes has closed its ports. False where it goes on.
fn has_ports(gateway: &Gateway) -> bool {
    match gateway.supervision.get() {
        Some(supervision) if gateway.takes_over.load(Ordering::SeqCst) => {
            supervision.say(&Said::WantsPorts);
            let has_ports = supervision.wait_for_ports(gateway);
            // The one that had them may have failed since this one began.
            enter_last_failure(gateway);
            has_ports
        }
        _ => true,
    }
}

/// From here on a wire that fails open carries what its workers let through, and nothing else. What its
/// ports got until now was carried by the kernel too, and is discarded when they start.
fn end_bypass(gateway: &Gateway) -> Result<(), String> {
    let released = bypass::release_all(&gateway.config)?;
    if released.is_empty() {
        return Ok(());
    }
    let wires = released.join(", ");
    for wire in &released {
        info!(target: kind::BYPASS, wire, "the kernel's bypass is taken away: the gateway judges what passes");
    }
    let socket = &gateway.config.control_socket;
    let written = Bypassed::read(socket);
    // Where a program works relays, the supervisor ends that once it hears that this gateway guards.
    if written.as_ref().is_some_and(|by| {
        by.relays.is_empty() && by.wires.iter().all(|wire| released.contains(wire))
    }) {
        if let Err(error) = Bypassed::end(socket) {
            warn!("`bulkhead status` still says that wires are bypassed: {error}");
        }
    }
    let since = gateway.supervision.get().and_then(|s| s.history().bypassed_since_unix_ms);
    let since = since.or(written.as_ref().map(|by| by.since_unix_ms));
    let took_ms = since.zip(unix_now_ms()).map(|(since, now)| now.saturating_sub(since));
    if let (Some(supervision), Some(took_ms)) = (gateway.supervision.get(), took_ms) {
        let took_ms = u64::try_from(took_ms).unwrap_or(0);
        supervision.ended_bypass_ms.store(took_ms, Ordering::Relaxed);
    }
    let lasted = took_ms.map_or("for an unknown time".to_owned(), |ms| format!("for {ms} ms"));
    let by = written.map_or_else(String::new, |by| format!(", by {}: {}", by.by, by.why));
    let detail = format!("judged again: {wires}; everything passed unjudged there {lasted}{by}");
    gateway.audit.enter_anyway(Draft::new(Who::gateway(), What::Failure, detail));
    Ok(())
}

/// Lets the ports rise, but for those that are left when the gateway is told to stop.
fn raise(gateway: &Gateway) -> Result<(), String> {
    for wire in gateway.wires() {
        for port in [&wire.inside, &wire.outside] {
            if gateway.is_stopping() {
                return Ok(());
            }
            port.device(|device| device.start()).unwrap_or(Ok(()))?;
        }
    }
    Ok(())
}

fn worker_config(config: &Config) -> WorkerConfig {
    let flows = &config.flows;
    WorkerConfig {
        flows: FlowTableConfig {
            capacity: flows.capacity,
            timeouts: flows.timeouts,
            per_source_limit: flows.per_source_limit,
            seed: None,
        },
        new_flows_per_source: flows.new_flows_per_source,
        fragments: FragmentTableConfig {
            capacity: config.fragments.capacity,
            timeout_s: config.fragments.timeout_s,
            wait_frames: config.fragments.wait_frames,
            wait_ms: config.fragments.wait_ms,
            seed: None,
        },
        rejects_per_second: flows.rejects_per_second,
        transmit_patience_ns: TRANSMIT_PATIENCE_NS,
    }
}

fn poll_mode(poll: Poll) -> PollMode {
    match poll {
        Poll::Busy => PollMode::Busy,
        Poll::Adaptive => PollMode::Adaptive,
    }
}

fn pin(worker: usize, core: Option<usize>) {
    if let Some(id) = core {
        if !core_affinity::set_for_current(core_affinity::CoreId { id }) {
            warn!(worker, core = id, "the worker could not be pinned to its core");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which wires each worker serves. A wire's group is its own index unless `groups` says otherwise.
    fn shares(queues: &[usize], groups: &[usize], workers: usize) -> Vec<Vec<u16>> {
        let alone: Vec<usize> = (0..queues.len()).collect();
        let groups = if groups.is_empty() { &alone } else { groups };
        let queues = queues.iter().map(|&n| (0..n).map(|q| (q, q)).collect()).collect();
        (share_out(queues, groups, workers).into_iter())
            .map(|share| share.iter().map(|ports| ports.wire.0).collect())
            .collect()
    }

    #[test]
    fn wires_with_one_queue_are_shared_out_in_turn() {
        assert_eq!(shares(&[1, 1, 1], &[], 2), [vec![0, 2], vec![1]]);
        assert_eq!(shares(&[1], &[], 4), [vec![0]]);
    }

    #[test]
    fn redundant_wires_with_one_queue_have_one_worker() {
        assert_eq!(shares(&[1, 1, 1, 1], &[0, 1, 0, 3], 3), [vec![0, 2], vec![1], vec![3]]);
    }

    #[test]
    fn spread_wires_are_served_by_every_worker() {
        assert_eq!(shares(&[2, 1, 2, 1], &[], 2), [vec![0, 1, 2], vec![0, 2, 3]]);
        assert_eq!(shares(&[2, 2], &[0, 0], 2), [vec![0, 1], vec![0, 1]]);
    }
}
