//! `bulkhead run`: from the configuration to a gateway that guards its wires, and to its clean end.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use crate::audit::{Draft, What, Who};
use crate::cli::{RunArgs, exit};
use crate::config::{Config, Mode};
use crate::cores::{self, Cores};
use crate::failure::channel::Said;
use crate::failure::supervised::{self, Supervision};
use crate::failure::{bypass, supervisor};
use crate::flow_stream::Lost;
use crate::hardening::{self, Profile};
use crate::launch::{Backend, Crew, LEFT_BEHIND, STOP_LIMIT, launch};
use crate::link::{self, WireLink};
use crate::notice::Watchdog;
use crate::records::RecordThread;
use crate::reload::{self, Reloader, Request, Trigger};
use crate::service::Service;
use crate::state::{Gateway, HANGING};
use crate::workflow::{stage, standing};
use crate::{bindings, clock, control, headroom, log, notice, records, service, verdicts};

/// How often the control thread looks after things.
const TICK: Duration = Duration::from_millis(50);

/// How often the clock is compared with what the workers go by.
const CLOCK_INTERVAL: Duration = Duration::from_millis(500);

/// How often carrier is looked at.
const LINK_INTERVAL: Duration = Duration::from_millis(100);

/// How long whoever still writes may take when another gateway takes over.
const HANDOVER_LIMIT: Duration = Duration::from_secs(30);

/// How long the bindings may take to be written down at the end.
const BINDINGS_KEPT: Duration = Duration::from_millis(200);

/// Runs until told to stop. Returns the exit code.
pub fn main(args: &RunArgs) -> u8 {
    let is_handed = args.supervised || args.adopt.is_some();
    let handed = is_handed.then(|| std::env::var(supervisor::HANDED_CONFIG).ok()).flatten();
    let handed = handed.and_then(|text| Config::of_text(&args.config, &text).ok());
    let config = match handed.map_or_else(|| Config::load(&args.config), Ok) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return error.exit_code();
        }
    };
    if args.is_supervisor(&config) {
        log::start_plain(args.level(&config), args.log_format);
        return supervisor::main(args, config);
    }
    let gateway = Arc::new(Gateway::new(config));
    log::start(args, &gateway);
    if let Err(error) = link_to_supervisor(args, &gateway) {
        error!("{error}");
        return exit::UNAVAILABLE;
    }
    info!(version = env!("CARGO_PKG_VERSION"), config = %args.config.display(), "bulkhead starts");
    if gateway.config.hardening.confine {
        let confinement = hardening::confine(&Profile::gateway(&gateway.config, &args.config));
        // Set once: a process runs one gateway.
        let _ = gateway.confinement.set(confinement);
    }
    match with_backend(&gateway) {
        Ok(()) => {
            info!("bulkhead has stopped");
            exit::OK
        }
        Err(error) => {
            error!("{error}");
            notice::status(&error);
            exit::UNAVAILABLE
        }
    }
}

#[cfg(feature = "dpdk")]
fn with_backend(gateway: &Arc<Gateway>) -> Result<(), String> {
    serve(gateway, &Arc::new(crate::dpdk::Dpdk::default()))
}

#[cfg(not(feature = "dpdk"))]
fn with_backend(_gateway: &Arc<Gateway>) -> Result<(), String> {
    Err("this bulkhead was built without DPDK, which is its way to the wire; check, explain and \
         replay work, run does not. Install DPDK 22.11 or later with its headers (Debian: \
         `apt install libdpdk-dev pkg-config`) and build with the feature `dpdk`, which is on by \
         default: `cargo build --release -p bulkhead-gateway`"
        .to_owned())
}

/// Links a gateway to the supervisor that started it.
fn link_to_supervisor(args: &RunArgs, gateway: &Arc<Gateway>) -> Result<(), String> {
    if !args.supervised {
        return Ok(());
    }
    let history = args.history.as_deref().map(serde_json::from_str).transpose();
    let history = history.map_err(|error| format!("--history makes no sense: {error}"))?;
    let supervision = Supervision::from_stdin(history.unwrap_or_default()).map_err(|error| {
        format!("the standard input is no supervisor: {error}; run without --supervised")
    })?;
    notice::supervised();
    gateway.takes_over.store(args.takeover, SeqCst);
    // Set once.
    let _ = gateway.supervision.set(supervision);
    Ok(())
}

/// Runs a gateway over any way to the wire until it is told to stop.
///
/// # Errors
///
/// Why it could not start, or why it had to end.
pub fn serve<B: Backend>(gateway: &Arc<Gateway>, backend: &Arc<B>) -> Result<(), String> {
    let config = &gateway.config;
    let cores = Cores::share(&cores::allowed()?, &config.cores, config.workers)?;
    cores.warn(config.poll);
    // Before any thread is started: all inherit it, but the workers, which go to their cores.
    cores::keep_to(&cores.control)?;
    let supervision = gateway.supervision.get().cloned();
    if let Some(supervision) = supervision.clone() {
        let listener = supervision.clone();
        spawn("supervised", gateway, powerless(move |_| listen(&listener)))?;
        spawn("alive", gateway, move |gateway| supervised::beat(gateway, &supervision))?;
    }
    if !gateway.takes_over.load(SeqCst) {
        // Before anything is written: a second gateway has no business in the first one's audit log.
        control::refuse_another(&config.control_socket)?;
    }
    bypass::clear_closed(config)?;
    if let Some(supervision) = supervision.filter(|_| gateway.takes_over.load(SeqCst)) {
        backend.prepare(config)?;
        supervision.say(&Said::Prepared);
        if !supervision.wait_for_state(gateway) {
            return Ok(());
        }
    }
    for (observing, enforcing) in config.mixed_groups() {
        warn!(
            wire = observing.name,
            "this wire observes and {}, which is redundant with it, enforces: what the one drops may \
             take the other; give all wires of a redundancy group one mode",
            enforcing.name
        );
    }

    gateway.audit.begin();
    enter_last_failure(gateway);
    standing::restore(gateway);
    let modes = gateway.modes();
    for (wire, _) in config.wires.iter().zip(modes).filter(|(_, mode)| *mode == Mode::Observe) {
        warn!(
            wire = wire.name,
            "this wire observes: every frame is forwarded, whatever the policy says, until its mode \
             is \"enforce\": `bulkhead lockdown` makes it so"
        );
    }
    bindings::restore(gateway);
    let (sender, requests) = reload::queue();
    let signals = signals(gateway, sender.clone())?;
    let service = service::start(gateway.clone(), sender.clone())?;
    let records = records::start(gateway)?;
    let wake = sender.clone();
    let reloader = {
        let gateway = gateway.clone();
        let body = move || {
            gateway.lower_powers();
            let mut reloader = Reloader::new(gateway);
            reloader.start();
            reloader.run(&sender, &requests);
        };
        thread::Builder::new().name("reload".to_owned()).spawn(body)
    };
    let reloader = reloader.map_err(|error| format!("cannot start a thread: {error}"))?;

    let mut control = Some(Control { service, records, reloader, wake });
    let result = guard(gateway, backend, &cores, &mut control);
    gateway.stop();
    signals.close();
    if let Some(control) = control {
        control.end(gateway, &result);
    }
    result
}

/// Has the audit log say what became of the gateway before this one, where it failed.
pub(crate) fn enter_last_failure(gateway: &Gateway) {
    if let Some(last) = gateway.supervision.get().and_then(|supervision| supervision.to_enter()) {
        gateway.audit.enter_anyway(Draft::new(Who::thing("supervisor"), What::Failure, last));
    }
}

/// What runs beside the workers and belongs to whoever has the state directory and the sockets.
struct Control {
    service: Service,
    records: RecordThread,
    reloader: JoinHandle<()>,
    /// Wakes the reloader.
    wake: Sender<Request>,
}

impl Control {
    /// Ends it once the gateway was told to stop, and writes down what a restart is to know. Returns what readers of
    /// flow records were told that the workers have lost.
    fn end(self, gateway: &Gateway, result: &Result<(), String>) -> Lost {
        let told = self.records.finish(gateway);
        self.service.end();
        if let Err(error) = stage::kept::keep(gateway) {
            warn!("a restart may not know all that was seen of the staged policy: {error}");
        }
        let detail = match result {
            Ok(()) => "stopped".to_owned(),
            Err(error) => format!("stopped: {error}"),
        };
        let hash = gateway.policy().current.as_ref().map(|c| c.candidate.hash.to_string());
        let draft = Draft::new(Who::gateway(), What::Stop, detail).policies(hash, None);
        gateway.audit.enter_anyway(draft);
        told
    }

    /// Ends it for another gateway, to which state and sockets belong afterwards: whatever still writes
    /// is waited for. Returns the same.
    fn hand_over(self, gateway: &Gateway, follower: JoinHandle<()>) -> Lost {
        gateway.stop();
        let (trigger, who) = (Trigger::Signal, Who::gateway());
        // A full queue wakes it as well.
        let _ = self.wake.try_send(Request::Reload { trigger, who, reply: None });
        let begun = Instant::now();
        let ended = |thread: &JoinHandle<()>| thread.is_finished();
        while !(ended(&self.reloader) && ended(&follower)) && begun.elapsed() < HANDOVER_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
        self.end(gateway, &Ok(()))
    }
}

/// Waits for a policy, then guards the wires.
fn guard<B: Backend>(
    gateway: &Arc<Gateway>,
    backend: &Arc<B>,
    cores: &Cores,
    control: &mut Option<Control>,
) -> Result<(), String> {
    if !wait_for_policy(gateway) {
        return Ok(());
    }
    notice::status("there is a policy: opening the ports and starting the workers");
    let Some(crew) = launch(backend, gateway, cores)? else { return Ok(()) };
    info!("the workers judge and the ports are up");
    let wires = gateway.config.wires.len();
    notice::ready(&format!("guarding {wires} wire(s)"));
    spawn("links", gateway, links)?;
    spawn("verdicts", gateway, powerless(verdicts::write))?;
    let follower = spawn("bindings", gateway, powerless(bindings::follow))?;
    let supervision = gateway.supervision.get();
    if let Some(supervision) = supervision {
        supervision.say(&Said::Guards);
    }
    let ended = look_after(gateway, &crew);
    let retires = supervision.filter(|s| s.is_to_retire() && ended.is_none());
    let mut told = Lost::default();
    let follower = match (retires, control.take()) {
        (Some(supervision), Some(control)) => {
            let begun = Instant::now();
            told = control.hand_over(gateway, follower);
            gateway.hand_over_ports();
            supervised::retire(supervision, begun);
            None
        }
        (_, taken) => {
            *control = taken;
            notice::stopping();
            Some(follower)
        }
    };
    info!("stopping");
    let stopped_in_time = crew.stop(STOP_LIMIT);
    gateway.close_ports();
    if let Some(supervision) = retires {
        supervision.say(&Said::Unread(records::unread(gateway, told)));
        supervision.say(&Said::Closed);
    }
    verdicts::write_rest(gateway);
    // It writes down what it knows: an error of the disk must not hold up the end.
    let waited = Instant::now();
    while follower.as_ref().is_some_and(|follower| !follower.is_finished())
        && waited.elapsed() < BINDINGS_KEPT
    {
        thread::sleep(Duration::from_millis(1));
    }
    log_balance(gateway);
    match ended {
        Some(worker) => Err(format!(
            "worker {worker} ended unexpectedly, so the gateway stops and its wires are cut: this is \
             a defect of the gateway; the log above says where"
        )),
        None if stopped_in_time => Ok(()),
        None => Err(LEFT_BEHIND.to_owned()),
    }
}

/// False when the gateway is told to stop before there is a policy.
fn wait_for_policy(gateway: &Gateway) -> bool {
    let mut told = false;
    let mut watchdog = Watchdog::default();
    loop {
        watchdog.alive();
        log::tell_left_out();
        let state = gateway.wait_for_policy(Duration::from_millis(200));
        if gateway.is_stopping() {
            return false;
        }
        if state.current.is_some() {
            return true;
        }
        if !told && state.last.as_ref().is_some_and(|last| !last.outcome.is_success()) {
            told = true;
            // Not ready, and not failed either: a restart would not help.
            let found = state.last.as_ref().map_or(&[][..], |last| &last.findings);
            notice::status(match headroom::is_short(found) {
                true => {
                    "no policy is in force: there is too little memory to read it, and the ports stay \
                     down until there is enough; then it is taken at once"
                }
                false => {
                    "no policy is in force: the ports stay down until there is a sound one, which is \
                     taken at once; the log and `bulkhead check` say what is wrong"
                }
            });
        }
    }
}

/// Looks after clock, memory and workers until the stop. Returns the worker that ended by itself.
fn look_after(gateway: &Gateway, crew: &Crew) -> Option<usize> {
    let mut clock_looked_at = Instant::now();
    let mut load = Load::default();
    let mut rounds = Rounds::default();
    let mut watchdog = Watchdog::default();
    let supervision = gateway.supervision.get();
    while !gateway.is_stopping() && !supervision.is_some_and(|s| s.is_to_retire()) {
        if let Some(worker) = crew.casualty() {
            return Some(worker);
        }
        for worker in gateway.workers() {
            worker.observer().histograms();
        }
        load.look(gateway);
        log::tell_left_out();
        stage::collect(gateway);
        if clock_looked_at.elapsed() >= CLOCK_INTERVAL {
            clock_looked_at = Instant::now();
            look_at_clock(gateway);
            rounds.look(gateway);
        }
        // A worker that hangs cuts its wires: then the service manager starts us anew.
        if gateway.hanging().is_none() {
            watchdog.alive();
        }
        thread::sleep(TICK);
    }
    None
}

/// Whether workers go round their ports.
#[derive(Default)]
struct Rounds {
    /// The rounds of each worker, and when they were last seen to grow.
    seen: Vec<(u64, Instant)>,
}

impl Rounds {
    fn look(&mut self, gateway: &Gateway) {
        let now = Instant::now();
        for (index, worker) in gateway.workers().iter().enumerate() {
            let loops = worker.counters.loops.value();
            let Some((before, since)) = self.seen.get_mut(index) else {
                self.seen.push((loops, now));
                continue;
            };
            if *before != loops {
                (*before, *since) = (loops, now);
            }
            let hangs = now.duration_since(*since) >= HANGING;
            match (worker.hangs.swap(hangs, Relaxed), hangs) {
                (false, true) => error!(
                    target: log::kind::WORKER_HANGS,
                    worker = index,
                    "the worker hangs: its wires are cut"
                ),
                (true, false) => warn!(worker = index, "the worker goes on"),
                _ => {}
            }
        }
    }
}

/// How busy workers were over the last second.
#[derive(Default)]
struct Load {
    looked_at: Option<Instant>,
    before: Vec<(u64, u64)>,
}

impl Load {
    fn look(&mut self, gateway: &Gateway) {
        if self.looked_at.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.looked_at = Some(Instant::now());
        let now = gateway.workers().iter();
        let now: Vec<_> =
            now.map(|w| (w.counters.busy_ns.value(), w.counters.idle_ns.value())).collect();
        for ((worker, now), before) in gateway.workers().iter().zip(&now).zip(&self.before) {
            let (busy, idle) = (now.0.wrapping_sub(before.0), now.1.wrapping_sub(before.1));
            let ppm = busy.saturating_mul(1_000_000) / (busy.saturating_add(idle)).max(1);
            worker.busy_ppm.store(ppm, Relaxed);
        }
        self.before = now;
    }
}

/// Tells the workers of a wall clock that was set, and frees what they no longer need.
fn look_at_clock(gateway: &Gateway) {
    let mut state = gateway.policy();
    let Some(publisher) = &mut state.publisher else { return };
    publisher.collect();
    let now = clock::read(&gateway.clock, gateway.config.clock);
    let mut content = publisher.current().content.clone();
    if clock::has_changed(content.clock, now) {
        let stepped_ms = now.offset_ms.saturating_sub(content.clock.offset_ms);
        content.clock = now;
        publisher.publish(content);
        drop(state);
        warn!(stepped_ms, synchronised = now.synchronised, "the wall clock changed");
    }
}

/// Watches carrier and carries its loss across each wire.
fn links(gateway: &Gateway) {
    let now = Instant::now();
    let config = &gateway.config.wires;
    let mut machines: Vec<_> = config.iter().map(|wire| WireLink::new(wire, now)).collect();
    while !gateway.is_stopping() {
        let wires = gateway.wires().iter().zip(config).zip(&mut machines).enumerate();
        for (index, ((wire, config), machine)) in wires {
            link::look_after(gateway, index, config, wire, machine);
        }
        thread::sleep(LINK_INTERVAL);
    }
}

fn listen(supervision: &Supervision) {
    if let Err(error) = supervision.listen() {
        // It is missed at the first word that matters: the supervisor ends a gateway that does not act on one.
        error!("the supervisor is not heard: {error}");
    }
}

fn spawn(
    name: &str,
    gateway: &Arc<Gateway>,
    body: impl FnOnce(&Gateway) + Send + 'static,
) -> Result<JoinHandle<()>, String> {
    let gateway = gateway.clone();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || body(&gateway));
    thread.map_err(|error| format!("cannot start a thread: {error}"))
}

/// The body of a thread that leaves ports alone.
fn powerless(body: impl FnOnce(&Gateway)) -> impl FnOnce(&Gateway) {
    |gateway| {
        gateway.lower_powers();
        body(gateway);
    }
}

/// SIGTERM and SIGINT stop, SIGHUP reloads.
fn signals(
    gateway: &Arc<Gateway>,
    requests: Sender<Request>,
) -> Result<signal_hook::iterator::Handle, String> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| format!("cannot catch signals: {error}"))?;
    let handle = signals.handle();
    spawn("signals", gateway, move |gateway| {
        gateway.lower_powers();
        for signal in signals.forever() {
            if signal == SIGHUP {
                // A full queue holds requests that will read the same files.
                let (trigger, who) = (Trigger::Signal, Who::thing("signal"));
                let _ = requests.try_send(Request::Reload { trigger, who, reply: None });
            } else {
                gateway.stop();
            }
        }
    })?;
    Ok(handle)
}

fn log_balance(gateway: &Gateway) {
    for (index, worker) in gateway.workers().iter().enumerate() {
        let balance = worker.counters.balance();
        info!(
            worker = index,
            received = balance.received,
            originated = balance.originated,
            handed_in = balance.handed_in,
            handed_out = balance.handed_out,
            transmitted = balance.transmitted,
            dropped = balance.dropped,
            held = balance.held,
            exact = balance.is_exact(),
            "final account"
        );
    }
}
