//! What the gateway's control threads share. Workers see none of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bulkhead_pipeline::bindings::Source;
use bulkhead_pipeline::counters::{PortCounters, WorkerCounters};
use bulkhead_pipeline::observe::Observer;
use bulkhead_pipeline::port::DriverCounters;
use bulkhead_pipeline::record::RecordSource;
use bulkhead_pipeline::snapshot::{Content, Publisher, WirePolicy};
use bulkhead_pipeline::trace::TraceSource;
use bulkhead_pipeline::worker::{Clock, MonotonicClock};
use bulkhead_rules::headers::PolicyTime;

use crate::audit::Audit;
use crate::bindings::Followed;
use crate::candidate::Candidate;
use crate::clock;
use crate::config::{Config, Mode};
use crate::failure::supervised::Supervision;
use crate::hardening::{Confinement, Powers, powers};
use crate::records::RecordStats;
use crate::reload::{ReloadOutcome, ReloadReport};
use crate::signature::ledger::Ledger;
use crate::talkers::Talkers;
use crate::workflow::stage::StagedState;
use crate::workflow::standing::Standing;

/// After so long without a round over its ports, a worker counts as hanging: a round takes
/// microseconds.
pub const HANGING: Duration = Duration::from_secs(2);

/// The control side of a running gateway.
pub struct Gateway {
    /// Its configuration.
    pub config: Config,
    /// When it started.
    pub started: Instant,
    /// The clock that all workers use copies of.
    pub clock: MonotonicClock,
    /// Set once the gateway is to stop.
    pub stopping: AtomicBool,
    /// Set once the workers judge and the ports are up.
    pub guarding: AtomicBool,
    /// Wakes whoever waits for a policy, or for the stop.
    pub wake: Condvar,
    /// The workers, once they run.
    pub workers: OnceLock<Vec<WorkerHandle>>,
    /// The wires, once their ports are open.
    pub wires: OnceLock<Vec<WireHandle>>,
    /// Who changed what.
    pub audit: Audit,
    /// Log lines that the rate limit kept back.
    pub log_suppressed: AtomicU64,
    /// Which signed policies were in force.
    pub signatures: Ledger,
    /// What becomes of flow records.
    pub records: RecordStats,
    /// What the process has given up, if it was told to.
    pub confinement: OnceLock<Confinement>,
    talkers: Mutex<Talkers>,
    /// Whether packets are traced: one at a time may ask for that.
    pub tracing: AtomicBool,
    /// The supervisor, where there is one.
    pub supervision: OnceLock<Arc<Supervision>>,
    /// Whether this gateway takes the place of one that runs.
    pub takes_over: AtomicBool,
    policy: Mutex<PolicyState>,
    bindings: Mutex<Followed>,
}

/// The policy in force, and how it came to be.
pub struct PolicyState {
    /// Publishes to the workers; [`None`] until they run.
    pub publisher: Option<Publisher>,
    /// The policy that is, or waits to be, in force.
    pub current: Option<Current>,
    /// How often each outcome was had.
    pub outcomes: BTreeMap<ReloadOutcome, u64>,
    /// The last reload, or the start.
    pub last: Option<ReloadReport>,
    /// Microseconds from the last publication until the last worker judged by the policy.
    pub last_publish_us: Option<u64>,
    /// Whether the last accepted policy stands in for bad files.
    pub fallback: bool,
    /// The texts behind the policy, the modes of the wires, and what the tool adds.
    pub standing: Standing,
    /// The policy that is staged, if there is one.
    pub staged: Option<StagedState>,
}

/// A policy in force.
#[derive(Clone)]
pub struct Current {
    /// The policy.
    pub candidate: Candidate,
    /// Where it was read from.
    pub source: String,
    /// When it was accepted.
    pub since: Instant,
    /// The same by the wall clock, in milliseconds since the Unix epoch.
    pub since_unix_ms: Option<i64>,
    /// Revoked flows, over all workers, when it was published.
    pub revoked_before: u64,
}

/// A worker, as control sees it.
pub struct WorkerHandle {
    /// The core that it is pinned to.
    pub core: Option<usize>,
    /// What it did.
    pub counters: Arc<WorkerCounters>,
    /// For each wire of `counters`, its index in the configuration.
    pub wires: Vec<usize>,
    /// Its histograms and verdict events.
    pub observer: Mutex<Observer>,
    /// What it has seen claimed of addresses.
    pub claims: Mutex<Source>,
    /// What it tells of flows.
    pub records: Mutex<RecordSource>,
    /// What it tells of packets that are followed.
    pub trace: Mutex<TraceSource>,
    /// Millionths of the last second that it was busy.
    pub busy_ppm: AtomicU64,
    /// Whether it has not been round its ports for [`HANGING`].
    pub hangs: AtomicBool,
}

impl WorkerHandle {
    /// The worker's histograms and events; a thread that panicked left them whole.
    pub fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the worker has seen claimed of addresses.
    pub fn claims(&self) -> MutexGuard<'_, Source> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the worker tells of flows.
    pub fn records(&self) -> MutexGuard<'_, RecordSource> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the worker tells of packets that are followed.
    pub fn trace(&self) -> MutexGuard<'_, TraceSource> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of the last second that it was busy, from 0 to 1.
    pub fn busy_ratio(&self) -> f64 {
        self.busy_ppm.load(Ordering::Relaxed) as f64 / 1e6
    }
}

/// A wire, as control sees it.
pub struct WireHandle {
    /// The port towards the protected side.
    pub inside: PortHandle,
    /// The other.
    pub outside: PortHandle,
}

/// A port, as control sees it.
pub struct PortHandle {
    /// What drives it, for people.
    pub driver: String,
    device: RwLock<Option<Box<dyn Device>>>,
    /// Whether it has carrier, as last seen.
    pub carrier: AtomicBool,
    /// Whether it is held down because the other port of its wire lost carrier.
    pub held_down: AtomicBool,
}

impl PortHandle {
    /// An open device.
    pub fn new(device: Box<dyn Device>) -> Self {
        Self {
            driver: device.driver(),
            device: RwLock::new(Some(device)),
            carrier: AtomicBool::new(true),
            held_down: AtomicBool::new(false),
        }
    }

    /// What `ask` says about the device; [`None`] once it is closed.
    pub fn device<T>(&self, ask: impl FnOnce(&dyn Device) -> T) -> Option<T> {
        let device = self.device.read().unwrap_or_else(PoisonError::into_inner);
        device.as_deref().map(ask)
    }

    /// Closes the device, which leaves its interface as it was once the workers' queues are gone too.
    pub fn close(&self) {
        drop(self.device.write().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What control does with the device behind a port.
pub trait Device: Send + Sync {
    /// The driver, for people.
    fn driver(&self) -> String;

    /// Lets frames in and out. Called once, after the workers judge.
    ///
    /// # Errors
    ///
    /// What failed, on which port, and the remedy.
    fn start(&self) -> Result<(), String>;

    /// Whether the device has carrier.
    fn has_carrier(&self) -> bool;

    /// Holds the link down towards its peer, or lets it rise.
    ///
    /// # Errors
    ///
    /// What failed, on which port, and the remedy.
    fn hold_down(&self, down: bool) -> Result<(), String>;

    /// What the driver counts.
    fn driver_counters(&self) -> DriverCounters;

    /// Says that another gateway takes the port over, so that closing it leaves its link up.
    fn hand_over(&self) {}
}

impl Gateway {
    /// A gateway that has not started anything yet.
    pub fn new(config: Config) -> Self {
        Self {
            bindings: Mutex::new(Followed::new(&config)),
            audit: Audit::new(&config.state_dir),
            signatures: Ledger::new(&config.state_dir),
            policy: Mutex::new(PolicyState {
                publisher: None,
                current: None,
                outcomes: ReloadOutcome::ALL.iter().map(|outcome| (*outcome, 0)).collect(),
                last: None,
                last_publish_us: None,
                fallback: false,
                standing: Standing::new(&config),
                staged: None,
            }),
            config,
            started: Instant::now(),
            clock: MonotonicClock::start(),
            stopping: AtomicBool::new(false),
            guarding: AtomicBool::new(false),
            wake: Condvar::new(),
            workers: OnceLock::new(),
            wires: OnceLock::new(),
            log_suppressed: AtomicU64::new(0),
            records: RecordStats::default(),
            confinement: OnceLock::new(),
            talkers: Mutex::default(),
            tracing: AtomicBool::new(false),
            supervision: OnceLock::new(),
            takes_over: AtomicBool::new(false),
        }
    }

    /// The policy's state. Held for moments only, but by a thread that panicked: then what it left
    /// is as whole as before, because every change is one assignment.
    pub fn policy(&self) -> MutexGuard<'_, PolicyState> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has which address. Taken before [`Self::policy`] where both are.
    pub fn bindings(&self) -> MutexGuard<'_, Followed> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the powers that only opening and minding ports takes. Every control thread that does
    /// neither begins with it.
    pub fn lower_powers(&self) {
        if self.confinement.get().is_some() {
            powers::lower(Powers::Files);
        }
    }

    /// Who talks most.
    pub fn talkers(&self) -> MutexGuard<'_, Talkers> {
        self.talkers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the start.
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits up to `timeout` for a change of the policy's state or the stop.
    pub fn wait_for_policy(&self, timeout: Duration) -> MutexGuard<'_, PolicyState> {
        let waited = self.wake.wait_timeout(self.policy(), timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Tells everybody to stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake.notify_all();
    }

    /// Whether the gateway is to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether workers judge by a policy and the ports are up.
    pub fn is_ready(&self) -> bool {
        self.is_guarding() && self.hanging().is_none()
    }

    /// Whether the gateway has come up, and is not told to stop. A worker may hang nevertheless.
    pub fn is_guarding(&self) -> bool {
        self.guarding.load(Ordering::SeqCst) && !self.is_stopping()
    }

    /// The first worker that has not been round its ports for [`HANGING`].
    pub fn hanging(&self) -> Option<usize> {
        self.workers().iter().position(|worker| worker.hangs.load(Ordering::Relaxed))
    }

    /// The workers; none until they run.
    pub fn workers(&self) -> &[WorkerHandle] {
        self.workers.get().map_or(&[], Vec::as_slice)
    }

    /// The wires; none until their ports are open.
    pub fn wires(&self) -> &[WireHandle] {
        self.wires.get().map_or(&[], Vec::as_slice)
    }

    /// Whether the gateway has come up and its ports are open still, whatever it was told.
    pub fn has_ports(&self) -> bool {
        self.guarding.load(Ordering::SeqCst)
    }

    /// Closes all ports.
    pub fn close_ports(&self) {
        self.guarding.store(false, Ordering::SeqCst);
        for wire in self.wires() {
            wire.inside.close();
            wire.outside.close();
        }
    }

    /// Has all ports keep their links up when they are closed, for another gateway.
    pub fn hand_over_ports(&self) {
        for port in self.wires().iter().flat_map(|wire| [&wire.inside, &wire.outside]) {
            port.device(|device| device.hand_over());
        }
    }

    /// The names of the configuration's wires.
    pub fn wire_names(&self) -> Vec<Arc<str>> {
        self.config.wires.iter().map(|wire| Arc::from(wire.name.as_str())).collect()
    }

    /// The instant at which packets are judged now.
    pub fn now(&self) -> PolicyTime {
        clock::read(&self.clock, self.config.clock).at(self.clock.now_ns())
    }

    /// Calls `each` with every worker's counters of the ports of a wire: whether the port is the
    /// inside one, and its counters.
    pub fn each_port_of(&self, wire: usize, mut each: impl FnMut(bool, &PortCounters)) {
        for worker in self.workers() {
            let Some(place) = worker.wires.iter().position(|&served| served == wire) else {
                continue;
            };
            if let Some(counters) = worker.counters.wires.get(place) {
                each(true, &counters.inside);
                each(false, &counters.outside);
            }
        }
    }

    /// Flows that a policy's change ended so far.
    pub fn flows_revoked(&self) -> u64 {
        self.workers().iter().map(|worker| worker.counters.flow_revoked.value()).sum()
    }

    /// The mode of each wire of the configuration, now.
    pub fn modes(&self) -> Vec<Mode> {
        self.policy().standing.modes.clone()
    }

    /// What is published for a candidate, with the clock as it is now. `grace` is the time in which
    /// connections are adopted mid-stream, for wires that do not have one from `before`.
    pub fn content(
        &self,
        candidate: &Candidate,
        standing: &Standing,
        before: Option<&[WirePolicy]>,
    ) -> Content {
        let grace_ns = u64::try_from(self.config.grace.as_nanos()).unwrap_or(u64::MAX);
        let grace_until_ns = self.clock.now_ns().saturating_add(grace_ns);
        let quarantine_rules = standing.overlay.quarantine_rules();
        let wires = self.config.wires.iter().zip(&standing.modes).enumerate();
        let wires = wires.map(|(index, (wire, &mode))| {
            let grace_until_ns = match before.and_then(|before| before.get(index)) {
                Some(before) if !is_lockdown(before.mode, mode) => before.grace_until_ns,
                _ => grace_until_ns,
            };
            WirePolicy {
                tcp: wire.tcp,
                routers: wire.routers,
                dhcp_servers: wire.dhcp_servers,
                fixed_sides: wire.fixed_sides,
                tunnels: wire.tunnels.clone(),
                quarantine_rules,
                ..WirePolicy::new(mode, grace_until_ns)
            }
        });
        Content {
            policy: candidate.policy.clone(),
            classifier: candidate.classifier.clone(),
            wires: wires.collect(),
            clock: clock::read(&self.clock, self.config.clock),
        }
    }
}

fn is_lockdown(before: Mode, now: Mode) -> bool {
    before == Mode::Observe && now == Mode::Enforce
}
