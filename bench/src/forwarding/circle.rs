//! Frames that go round: a pair of devices over which every frame that is forwarded comes again, so that
//! no source and no sink take part. Two `net_memif` that are each other's other end, or two `net_ring`,
//! each of which receives what it sends.
//!
//! `testpmd` puts its first bursts on them by `start tx_first`. For the gateway this module is a
//! process of its own, with a production worker on the devices and the same number of frames, of the
//! same length, in buffers of the same size from a pool of as many.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{process, thread};

use bulkhead_dpdk::{
    Device, DeviceConfig, Eal, EalConfig, HugePages, LinkState, Mempool, MempoolConfig,
};
use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::port::{Burst, Frame, Port};
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, WallClock, WirePolicy};
use bulkhead_pipeline::worker::{
    Clock, MonotonicClock, PollMode, Stage, WirePorts, Worker, WorkerConfig,
};
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::WireId;

use crate::data;
use crate::rfc::frame::datagram;
use crate::tsc;

/// Bursts that each port sends at the beginning, of 64 frames: half of what a ring holds.
pub(super) const SEED_BURSTS: usize = 8;

/// Buffers of the pool.
pub(super) const BUFFERS: u32 = 16_384;

/// Which devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Circle {
    /// Each frame is copied into shared memory and out of it.
    Memif,
    /// Frames are handed over by their address.
    Ring,
}

impl Circle {
    /// The two devices; `folder` is for a socket.
    pub(super) fn devices(self, folder: &Path) -> [String; 2] {
        let memif = |port: usize, role: &str| {
            let socket = folder.join("memif.sock");
            format!(
                "net_memif{port},role={role},id=0,socket-abstract=no,socket={}",
                socket.display()
            )
        };
        match self {
            Self::Memif => [memif(0, "server"), memif(1, "client")],
            Self::Ring => ["net_ring0".to_owned(), "net_ring1".to_owned()],
        }
    }
}

/// The worker's clock; takes the time of each stage where it is told to.
struct StageClock {
    base: MonotonicClock,
    last: AtomicU64,
    stages: Option<Arc<[AtomicU64; Stage::ALL.len()]>>,
}

impl Clock for StageClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.base.now_ns()
    }

    #[inline]
    fn passed(&self, stage: Stage) {
        let Some(stages) = &self.stages else { return };
        let now = tsc::now();
        let spent = &stages[stage as usize];
        spent.store(spent.load(Relaxed) + now.saturating_sub(self.last.load(Relaxed)), Relaxed);
        self.last.store(now, Relaxed);
    }
}

/// Forwards what goes round until the standard input ends, on core `core`. For each line of it, prints
/// the frames received so far, and with `staged` the ticks of each stage so far.
///
/// # Errors
///
/// What DPDK refuses.
pub(super) fn forward(circle: Circle, folder: &Path, core: usize, staged: bool) -> io::Result<()> {
    let config = MempoolConfig { buffers: BUFFERS, max_frame_len: 1522 };
    let memory_bytes = config.memory_bytes() + (64 << 20);
    let eal = EalConfig { huge_pages: HugePages::Auto, memory_bytes, pci: false };
    let eal = Eal::init(&eal).map_err(io::Error::other)?;
    let pool = Mempool::new(&eal, config).map_err(io::Error::other)?;
    let mut devices = Vec::new();
    for name in circle.devices(folder) {
        let device =
            Device::open(&eal, &pool, &DeviceConfig::new(&name)).map_err(io::Error::other)?;
        device.start().map_err(io::Error::other)?;
        devices.push(device);
    }
    let give_up = Instant::now() + Duration::from_secs(10);
    while !devices.iter().all(|device| matches!(device.link(), Ok(LinkState::Up))) {
        if Instant::now() > give_up {
            return Err(io::Error::other("the devices do not connect"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let queue =
        |device: &mut Device| device.take_queue(0).ok_or_else(|| io::Error::other("no queue"));
    let (mut inside, mut outside) = (queue(&mut devices[0])?, queue(&mut devices[1])?);

    if let Some(core) = core_affinity::get_core_ids().into_iter().flatten().nth(core) {
        core_affinity::set_for_current(core);
    }
    // The receiver of shared memory gives the sender its buffers: both look before anything is sent.
    for _ in 0..4 {
        inside.receive(&mut Burst::new());
        outside.receive(&mut Burst::new());
    }
    for burst in 0..SEED_BURSTS {
        seed(&mut inside, burst, false)?;
        seed(&mut outside, burst, true)?;
    }
    let counters = Arc::new(WorkerCounters::new(1));
    let stages: Option<Arc<[AtomicU64; Stage::ALL.len()]>> = staged.then(Arc::default);
    answer(Arc::clone(&counters), stages.clone());
    let clock =
        StageClock { base: MonotonicClock::start(), last: AtomicU64::new(tsc::now()), stages };
    let policy = data::load("policy.yaml", POLICY.to_owned())?;
    let classifier = compile(&policy, &Limits::default()).map_err(io::Error::other)?;
    let content = Content {
        policy: Arc::new(policy),
        classifier: Arc::new(classifier),
        wires: vec![WirePolicy::new(Mode::Enforce, 0)],
        clock: WallClock::default(),
    };
    let (_publisher, mut readers) = Publisher::new(content, 1);
    let reader = readers.pop().ok_or_else(|| io::Error::other("no worker"))?;
    let wire = WirePorts { wire: WireId(0), group: 0, inside, outside };
    let (recorder, _observer) = observe::channel(1);
    let flows = FlowTableConfig { capacity: 1 << 17, ..FlowTableConfig::default() };
    let config = WorkerConfig { flows, ..WorkerConfig::default() };
    let mut worker = Worker::new(&config, vec![wire], reader, counters, recorder, clock);
    // The thread that answers ends the process.
    worker.run(&AtomicBool::new(false), PollMode::Busy);
    Ok(())
}

/// Both ends of the flows that the frames belong to may open them.
const POLICY: &str = "version: 1\nrules:\n  - {name: circle, between: [198.18.0.0/16, 198.19.0.0/16], \
                      service: udp/1-65535, action: allow}\n";

/// Sends one burst, each frame of another flow.
fn seed(port: &mut impl Port, nth: usize, from_inside: bool) -> io::Result<()> {
    const PER_BURST: usize = 64;
    let mut burst = Burst::new();
    for flow in nth * PER_BURST..(nth + 1) * PER_BURST {
        let bytes = datagram(flow as u16, from_inside, 64);
        let mut frame =
            port.originate(bytes.len()).ok_or_else(|| io::Error::other("no buffers"))?;
        frame.bytes_mut().copy_from_slice(&bytes);
        burst.push(frame);
    }
    port.transmit(&mut burst);
    if burst.is_empty() { Ok(()) } else { Err(io::Error::other("the device takes too few frames")) }
}

/// Answers the lines of the standard input; ends the process with it.
fn answer(counters: Arc<WorkerCounters>, stages: Option<Arc<[AtomicU64; Stage::ALL.len()]>>) {
    thread::spawn(move || {
        for _ in io::stdin().lock().lines().map_while(Result::ok) {
            let wire = &counters.wires[0];
            let received = [&wire.inside, &wire.outside]
                .map(|port| port.received.packets.value())
                .iter()
                .sum();
            let ticks = stages.iter().flat_map(|stages| stages.iter().map(|at| at.load(Relaxed)));
            let words: Vec<String> = std::iter::once::<u64>(received)
                .chain(ticks)
                .map(|word| word.to_string())
                .collect();
            let mut out = io::stdout().lock();
            if writeln!(out, "{}", words.join(" ")).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        process::exit(0);
    });
}
