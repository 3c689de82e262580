//! A production worker on a thread of its own, between two ports of the tester's.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use bulkhead_dpdk::{
    Device, DeviceConfig, DpdkPort, Eal, EalConfig, HugePages, LinkState, Mempool, MempoolConfig,
    register_worker,
};
use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::port::Port;
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, WallClock, WirePolicy};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::{MonotonicClock, PollMode, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::Policy;
use tempfile::TempDir;

use super::cable::{self, Plug, RING_FRAMES};
use super::disturbance::{self, Watch};

/// Frames that the tester needs at most: its own stock, full rings, and what the worker holds.
pub(crate) const BUFFERS: usize = 8 * RING_FRAMES;

/// Both cables of the wire, inside first: what the tester and what the gateway has of them.
pub(crate) struct Links<P> {
    tester: [P; 2],
    gateway: [P; 2],
    /// DPDK, where frames go through it.
    dpdk: Option<Dpdk>,
}

/// What has to live as long as its ports.
struct Dpdk {
    eal: Eal,
    _devices: Vec<Device>,
    _socket: TempDir,
}

impl Links<Plug> {
    /// Rings in memory.
    pub(crate) fn memory() -> Self {
        let [inside, outside] = [cable::plugs(BUFFERS), cable::plugs(BUFFERS)];
        Self { tester: [inside.0, outside.0], gateway: [inside.1, outside.1], dpdk: None }
    }
}

impl Links<DpdkPort> {
    /// Two pairs of DPDK's shared memory interfaces. Starts DPDK, which a process can do once.
    ///
    /// # Errors
    ///
    /// What DPDK refuses, or a pair that does not connect within ten seconds.
    pub(crate) fn memif() -> io::Result<Self> {
        // Four ports, each with its descriptors' worth of buffers under way, and the tester's stock.
        let config = MempoolConfig { buffers: 2 * BUFFERS as u32, max_frame_len: 1522 };
        let memory_bytes = config.memory_bytes();
        let eal = EalConfig { huge_pages: HugePages::Auto, memory_bytes, pci: false };
        let eal = Eal::init(&eal).map_err(io::Error::other)?;
        let pool = Mempool::new(&eal, config).map_err(io::Error::other)?;
        let socket = tempfile::tempdir()?;
        let mut devices = Vec::new();
        let mut open = |id: usize, role: &str| -> io::Result<DpdkPort> {
            let name = format!(
                "net_memif{},role={role},id={id},socket-abstract=no,socket={}",
                devices.len(),
                socket.path().join("memif.sock").display()
            );
            let config = DeviceConfig::new(&name);
            let mut device = Device::open(&eal, &pool, &config).map_err(io::Error::other)?;
            let port = device.take_queue(0).ok_or_else(|| io::Error::other("no queue"))?;
            device.start().map_err(io::Error::other)?;
            devices.push(device);
            Ok(port)
        };
        let tester = [open(0, "server")?, open(1, "server")?];
        let gateway = [open(0, "client")?, open(1, "client")?];
        wait_for_links(&devices)?;
        let dpdk = Dpdk { eal, _devices: devices, _socket: socket };
        Ok(Self { tester, gateway, dpdk: Some(dpdk) })
    }
}

fn wait_for_links(devices: &[Device]) -> io::Result<()> {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let links: Result<Vec<_>, _> = devices.iter().map(Device::link).collect();
        if links.map_err(io::Error::other)?.iter().all(|link| *link == LinkState::Up) {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(io::Error::other("the shared memory interfaces do not connect"));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The worker at work, and the tester's ends of its cables. Ends with the value.
pub(crate) struct Rig<P> {
    /// Inside, outside.
    pub(crate) ports: [P; 2],
    counters: Arc<WorkerCounters>,
    watch: Watch,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Dropped last.
    _dpdk: Option<Dpdk>,
}

impl<P: Port + Send + 'static> Rig<P> {
    /// Lets a worker judge by `policy` on the last processor, and binds the caller to the first.
    ///
    /// # Errors
    ///
    /// A policy over the compiler's limits, or a thread that does not start.
    pub(crate) fn start(links: Links<P>, policy: Policy, config: WorkerConfig) -> io::Result<Self> {
        let Links { tester, gateway: [inside, outside], dpdk } = links;
        let classifier = compile(&policy, &Limits::default()).map_err(io::Error::other)?;
        let content = Content {
            policy: Arc::new(policy),
            classifier: Arc::new(classifier),
            wires: vec![WirePolicy::new(Mode::Enforce, 0)],
            clock: WallClock::default(),
        };
        let (publisher, mut readers) = Publisher::new(content, 1);
        let reader = readers.pop().ok_or_else(|| io::Error::other("no worker"))?;
        let counters = Arc::new(WorkerCounters::new(1));
        let stop = Arc::new(AtomicBool::new(false));
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let (tell, told) = mpsc::channel::<io::Result<PathBuf>>();
        let eal = dpdk.as_ref().map(|dpdk| dpdk.eal);
        let of_thread = (Arc::clone(&counters), Arc::clone(&stop), cores.last().copied());
        let thread = thread::Builder::new().name("worker-0".to_owned()).spawn(move || {
            // Snapshots live until the worker has ended.
            let _publisher = publisher;
            let (counters, stop, core) = of_thread;
            core.map(core_affinity::set_for_current);
            let registered = eal.as_ref().map(register_worker).transpose();
            let _registered = match registered {
                Ok(registered) => registered,
                Err(error) => {
                    let _ = tell.send(Err(io::Error::other(error)));
                    return;
                }
            };
            let wire = WirePorts { wire: WireId(0), group: 0, inside, outside };
            let (recorder, _observer) = observe::channel(1);
            let clock = MonotonicClock::start();
            let mut worker = Worker::new(&config, vec![wire], reader, counters, recorder, clock);
            // The starter waits for this.
            let _ = tell.send(disturbance::current_thread());
            worker.run(&stop, PollMode::Busy);
        })?;
        let worker = told.recv().map_err(io::Error::other)??;
        if let Some(core) = cores.first() {
            core_affinity::set_for_current(*core);
        }
        let watch = Watch::new(vec![worker, disturbance::current_thread()?]);
        Ok(Self { ports: tester, counters, watch, stop, thread: Some(thread), _dpdk: dpdk })
    }
}

impl<P> Rig<P> {
    /// Frames that the worker dropped, by reason and port.
    pub(crate) fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        let ports = self.counters.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
        ports
            .flat_map(|port| port.dropped.iter())
            .map(|(reason, volume)| (reason, volume.packets.value()))
            .filter(|(_, count)| *count > 0)
    }

    /// Flows in the table, and what it has room for.
    pub(crate) fn flows(&self) -> (u64, u64) {
        (self.counters.flows.value(), self.counters.flow_capacity.value())
    }

    /// What the machine makes the two wait.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Nanoseconds in which the worker had frames to judge.
    pub(crate) fn busy_ns(&self) -> u64 {
        self.counters.busy_ns.value()
    }
}

impl<P> Drop for Rig<P> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl<P> fmt::Debug for Rig<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig").finish_non_exhaustive()
    }
}

/// Whether tester and worker have a processor each. Where not, figures mean little.
pub(crate) fn has_two_processors() -> bool {
    core_affinity::get_core_ids().is_some_and(|cores| cores.len() > 1)
}
