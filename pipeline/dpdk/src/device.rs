//! A port of a wire as the control side sees it: opened, started, watched, closed.

use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bulkhead_pipeline::owner::SymmetricRss;
use bulkhead_pipeline::port::DriverCounters;

use crate::eal::Eal;
use crate::error::{Error, ErrorKind, Result};
use crate::ethdev::{Ethdev, Info, Setup};
use crate::kernel::{self, KernelPort};
use crate::log;
use crate::name::PortName;
use crate::pool::Mempool;
use crate::port::DpdkPort;

/// Ethernet header and one VLAN tag: what the kernel lets pass on top of the MTU.
const KERNEL_OVERHEAD: usize = 14 + 4;

/// Ethernet header and two VLAN tags: what other drivers carry on top of the MTU.
const OVERHEAD: usize = 14 + 8;

/// The largest MTU of a port.
const MAX_MTU: u16 = 9_000;

/// How to open a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceConfig {
    /// Which device.
    pub name: PortName,
    /// Queue pairs: one for each worker.
    pub queues: u16,
    /// MTU in bytes, 68 to 9,000; [`None`] keeps the device's own.
    pub mtu: Option<u16>,
    /// Descriptors in each ring: a power of two.
    pub descriptors: u16,
    /// The hash of the addresses by which several queues are chosen, where the device can. All ports
    /// of a gateway need the same one for both directions of a flow to meet.
    pub rss: SymmetricRss,
}

impl DeviceConfig {
    /// One queue, the device's own MTU, rings of 1,024, a random hash.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: PortName::parse(name),
            queues: 1,
            mtu: None,
            descriptors: 1_024,
            rss: SymmetricRss::random(),
        }
    }
}

/// What drives a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// The kernel's AF_XDP sockets.
    AfXdp,
    /// The kernel's AF_PACKET sockets.
    AfPacket,
    /// Another driver of DPDK, by its name.
    Driver(String),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfXdp => "AF_XDP",
            Self::AfPacket => "AF_PACKET",
            Self::Driver(name) => name,
        })
    }
}

/// Whether a port has a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Frames can pass.
    Up,
    /// No carrier.
    Down,
    /// Taken down by [`Device::set_link`]: this says nothing about the cable.
    Held,
}

/// An opened port. It closes, and leaves its interface as it was, when this value and every
/// [`DpdkPort`] taken from it are gone.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
    pool: Mempool,
    backend: Backend,
    mtu: u16,
    hash_table_len: Option<u16>,
    notes: Vec<String>,
    /// Queues that were not taken yet.
    queues: Vec<Option<(u16, u16)>>,
}

impl Device {
    /// Opens a port and makes its queues. No frame passes before [`Device::start`].
    ///
    /// A kernel interface is opened over AF_XDP, and where that fails over AF_PACKET; the reason is
    /// among [`Device::notes`].
    ///
    /// # Errors
    ///
    /// Whatever DPDK or the kernel refuses, with the remedy: see [`ErrorKind`].
    pub fn open(eal: &Eal, pool: &Mempool, config: &DeviceConfig) -> Result<Self> {
        // What was logged before has nothing to do with this port.
        log::take_complaints();
        check_config(config)
            .and_then(|()| match (&config.name, config.name.interface()) {
                (PortName::Interface(name), _) => open_interface(eal, pool, config, name),
                (PortName::Device(devargs), Some(interface)) => {
                    open_kernel_device(eal, pool, config, devargs, interface)
                }
                (PortName::Device(device) | PortName::Pci(device), _) => {
                    open_device(eal, pool, config, device)
                }
            })
            .map_err(|error| error.on(&config.name.to_string()))
    }

    /// The port's name, as the configuration gives it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What drives the port.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What the operator should know about how the port was opened, in sentences for the log: why
    /// AF_PACKET was taken, which leftovers were cleared, what this port cannot do.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Entries of the table by which the device spreads frames over its queues by
    /// [`DeviceConfig::rss`]; [`None`] where it has one queue or spreads them as it likes.
    #[must_use]
    pub fn hash_table_len(&self) -> Option<u16> {
        self.hash_table_len
    }

    /// The port's own MAC address.
    ///
    /// # Errors
    ///
    /// Where the driver has none.
    pub fn mac(&self) -> Result<[u8; 6]> {
        self.shared.first()?.mac().map_err(|error| error.on(self.name()))
    }

    /// Queue pair `index` for its worker; [`None`] where it was taken before or does not exist.
    pub fn take_queue(&mut self, index: usize) -> Option<DpdkPort> {
        let (port, queue) = self.queues.get_mut(index)?.take()?;
        let socket = self.shared.packet_sockets.get(index).copied();
        Some(DpdkPort::new(port, queue, self.pool, Arc::clone(&self.shared), socket))
    }

    /// Lets frames pass: raises the interface and starts the queues. To be called once the workers
    /// judge.
    ///
    /// # Errors
    ///
    /// Where the driver refuses to start or the interface to come up.
    pub fn start(&self) -> Result<()> {
        self.shared.start().map_err(|error| error.on(self.name()))
    }

    /// Whether the port has a link.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where the interface has gone.
    pub fn link(&self) -> Result<LinkState> {
        self.shared.link().map_err(|error| error.on(self.name()))
    }

    /// Takes the link down, so that the other end of the cable sees it, or up again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the driver cannot.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.shared.set_link(up).map_err(|error| error.on(self.name()))
    }

    /// Says that another gateway takes the port over: closing it then leaves its link up, and with it
    /// what cannot be changed without taking that down.
    pub fn hand_over(&self) {
        if let Some(mut kernel) = self.shared.kernel() {
            kernel.hand_over();
        }
    }

    /// What the driver has counted since the port was opened.
    ///
    /// # Errors
    ///
    /// Where the driver does not answer.
    pub fn counters(&self) -> Result<DriverCounters> {
        let mut sum = DriverCounters::default();
        for lane in &self.shared.lanes {
            let each = lane.counters().map_err(|error| error.on(self.name()))?;
            sum.missed += each.missed;
            sum.receive_errors += each.receive_errors;
            sum.transmit_errors += each.transmit_errors;
            sum.no_buffer += each.no_buffer;
        }
        if let Some(mut kernel) = self.shared.kernel() {
            sum.missed += kernel.missed().map_err(|error| error.on(self.name()))?;
        }
        Ok(sum)
    }

    /// The driver's own statistics by name, at most 256 of them.
    ///
    /// # Errors
    ///
    /// Where the driver does not answer.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>> {
        let mut sums: Vec<(String, u64)> = Vec::new();
        for lane in &self.shared.lanes {
            for (name, value) in lane.xstats().map_err(|error| error.on(self.name()))? {
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name, value)),
                }
            }
        }
        Ok(sums)
    }
}

/// What a device and its queues have in common. Fields are dropped in order: the driver lets go of
/// the interface before the interface is put back as it was.
pub(crate) struct Shared {
    name: String,
    /// One DPDK device, or one for each queue of an AF_XDP port.
    lanes: Vec<Ethdev>,
    kernel: Option<Mutex<KernelPort>>,
    max_frame_len: usize,
    /// The sockets of an AF_PACKET port, by queue; none of others.
    packet_sockets: Vec<RawFd>,
    started: AtomicBool,
    held: AtomicBool,
}

impl Shared {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn max_frame_len(&self) -> usize {
        self.max_frame_len
    }

    /// Set once, and never cleared: a device stops only when nobody has a queue of it.
    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    fn first(&self) -> Result<&Ethdev> {
        self.lanes.first().ok_or_else(|| Error::refused(ErrorKind::NotFound, "no device", ""))
    }

    fn kernel(&self) -> Option<MutexGuard<'_, KernelPort>> {
        self.kernel.as_ref().map(|kernel| kernel.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn start(&self) -> Result<()> {
        if self.is_started() {
            return Ok(());
        }
        for lane in &self.lanes {
            lane.start()?;
            // An AF_PACKET socket hears every interface, the loopback too, from the moment it is made
            // until the driver binds it to its own.
            for (queue, _) in (0..).zip(&self.packet_sockets) {
                lane.discard_waiting(queue);
            }
            // The kernel's ports are promiscuous already.
            if self.kernel.is_none() {
                match lane.set_promiscuous(true) {
                    // Devices without addresses see everything anyway.
                    Err(error) if error.kind() == ErrorKind::Unsupported => {}
                    other => other?,
                }
            }
        }
        self.started.store(true, Ordering::Release);
        self.kernel().map_or(Ok(()), |mut kernel| kernel.set_up(true))
    }

    fn link(&self) -> Result<LinkState> {
        if self.held.load(Ordering::Acquire) {
            return Ok(LinkState::Held);
        }
        let up = match self.kernel() {
            Some(mut kernel) => kernel.carrier()?,
            None => self.first()?.link()?.0,
        };
        Ok(if up { LinkState::Up } else { LinkState::Down })
    }

    fn set_link(&self, up: bool) -> Result<()> {
        // Held is set before the link goes and cleared after it has come, so that our own doing is
        // never taken for a lost carrier.
        if !up {
            self.held.store(true, Ordering::Release);
        }
        let result = match self.kernel() {
            Some(mut kernel) => kernel.set_up(up),
            None => self.lanes.iter().try_for_each(|lane| lane.set_link(up)),
        };
        if up == result.is_ok() {
            self.held.store(false, Ordering::Release);
        }
        result
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

fn check_config(config: &DeviceConfig) -> Result<()> {
    if config.queues == 0 {
        return Err(Error::refused(
            ErrorKind::Config,
            "no queues asked for",
            "ask for one at least",
        ));
    }
    if !config.descriptors.is_power_of_two() {
        return Err(Error::refused(
            ErrorKind::Config,
            format!("rings of {} descriptors asked for", config.descriptors),
            "their number is a power of two",
        ));
    }
    match config.mtu {
        Some(mtu) if !(68..=MAX_MTU).contains(&mtu) => Err(Error::refused(
            ErrorKind::Mtu,
            format!("MTU {mtu} asked for"),
            format!("it lies between 68 and {MAX_MTU}"),
        )),
        _ => Ok(()),
    }
}

/// Opens a kernel interface over AF_XDP, or else over AF_PACKET.
fn open_interface(eal: &Eal, pool: &Mempool, config: &DeviceConfig, name: &str) -> Result<Device> {
    let mut kernel = KernelPort::claim(name)?;
    let mtu = settle_mtu(&mut kernel, pool, config)?;
    let mut notes = kernel.notes().to_vec();
    match af_xdp_lanes(eal, pool, config, &mut kernel, &mut notes, mtu) {
        Ok(lanes) => finish(config, pool, lanes, Backend::AfXdp, mtu, Some(kernel), notes),
        // One queue of AF_XDP is more than several of AF_PACKET.
        Err(refusal) if config.queues > 1 && refusal.kind() == ErrorKind::Queues => Err(refusal),
        Err(refusal) => {
            notes.push(format!("AF_PACKET instead of AF_XDP: {refusal}"));
            let lane = af_packet_lane(eal, pool, config, &kernel, name, mtu)
                .map_err(|error| error.after("AF_XDP", &refusal))?;
            finish(config, pool, vec![lane], Backend::AfPacket, mtu, Some(kernel), notes)
        }
    }
}

/// Opens a device string that names a kernel interface, with the same care for the interface.
fn open_kernel_device(
    eal: &Eal,
    pool: &Mempool,
    config: &DeviceConfig,
    devargs: &str,
    interface: &str,
) -> Result<Device> {
    let is_xdp = devargs.starts_with("net_af_xdp");
    if !is_xdp {
        check_packet_options(devargs)?;
    }
    let mut kernel = KernelPort::claim(interface)?;
    let mtu = settle_mtu(&mut kernel, pool, config)?;
    let mut notes = kernel.notes().to_vec();
    if is_xdp {
        check_af_xdp(pool, mtu)?;
        notes.extend(kernel.keep_tags()?);
        kernel.set_queues(u32::from(config.queues))?;
    }
    let mut lane = if is_xdp {
        af_xdp_lane(eal, pool, config, &mut kernel, devargs, (mtu, config.queues))?
    } else if config.queues == 1 || devargs.contains("qpairs=") {
        probe(eal, &format!("{devargs},{}", packet_ring(mtu)))?
    } else {
        probe(eal, &format!("{devargs},qpairs={},{}", config.queues, packet_ring(mtu)))?
    };
    let backend = if is_xdp { Backend::AfXdp } else { Backend::AfPacket };
    if !is_xdp {
        lane = configure(lane, pool, config, 0, config.queues)?.0;
        kernel.filter_packet_sockets(u32::from(mtu) + KERNEL_OVERHEAD as u32)?;
    }
    finish(config, pool, vec![lane], backend, mtu, Some(kernel), notes)
}

/// Opens a PCI device, or a virtual one that no kernel interface stands behind.
fn open_device(eal: &Eal, pool: &Mempool, config: &DeviceConfig, device: &str) -> Result<Device> {
    if config.name.is_pci() {
        crate::pci::check(device)?;
    }
    let lane = probe(eal, device)?;
    let info = lane.info()?;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => info.mtu.min(MAX_MTU),
    };
    let (lane, hash_table_len) = configure(lane, pool, config, mtu, config.queues)?;
    let backend = Backend::Driver(info.driver);
    let mut device = finish(config, pool, vec![lane], backend, mtu, None, Vec::new())?;
    device.hash_table_len = hash_table_len;
    Ok(device)
}

/// One AF_XDP device for each queue: a device with several is refused on veth.
fn af_xdp_lanes(
    eal: &Eal,
    pool: &Mempool,
    config: &DeviceConfig,
    kernel: &mut KernelPort,
    notes: &mut Vec<String>,
    mtu: u16,
) -> Result<Vec<Ethdev>> {
    check_af_xdp(pool, mtu)?;
    let note = kernel.keep_tags()?;
    kernel.set_queues(u32::from(config.queues))?;
    let name = kernel.name().to_owned();
    let lanes: Result<Vec<_>> = (0..config.queues)
        .map(|queue| {
            let devargs = format!("net_af_xdp{},iface={name},start_queue={queue}", serial());
            af_xdp_lane(eal, pool, config, kernel, &devargs, (mtu, 1))
        })
        .collect();
    notes.extend(note.filter(|_| lanes.is_ok()));
    lanes
}

/// An AF_XDP device with its sockets bound.
fn af_xdp_lane(
    eal: &Eal,
    pool: &Mempool,
    config: &DeviceConfig,
    kernel: &mut KernelPort,
    devargs: &str,
    (mtu, queues): (u16, u16),
) -> Result<Ethdev> {
    /// How long queues may stay taken, for all ports of this process together. The kernel gives them back once the
    /// last reader of the socket is known to be gone (an RCU grace period) and a thread of its own has had its turn:
    /// within some 10 ms, and on a busy machine several hundred, for one as for ten. The driver says the same of
    /// a queue that it will never get: ports that each waited would outlast the patience of whoever started us.
    static PATIENCE_MS: AtomicU32 = AtomicU32::new(2_000);
    /// So much longer each time: a gateway that takes another one's place waits for no more than it has to.
    const PAUSE_MS: u32 = 5;

    let mut pause = PAUSE_MS;
    loop {
        let lane = probe(eal, devargs)?;
        match kernel.watch_xdp_sockets(|| configure(lane, pool, config, mtu, queues)) {
            Ok((lane, _)) => return Ok(lane),
            Err(error)
                if error.call() == "rte_eth_rx_queue_setup"
                    && matches!(error.errno(), Some(libc::EINVAL | libc::EBUSY))
                    && take(&PATIENCE_MS, pause) =>
            {
                thread::sleep(Duration::from_millis(pause.into()));
                pause += PAUSE_MS;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes so much of what is left, if that much is.
fn take(left: &AtomicU32, much: u32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(much)).is_ok()
}

/// What AF_XDP asks of the process and of the buffers.
fn check_af_xdp(pool: &Mempool, mtu: u16) -> Result<()> {
    /// A chunk of AF_XDP memory is at most a page.
    const PAGE: u32 = 4_096;

    kernel::check_xdp_sockets()?;
    if pool.stride() > PAGE {
        return Err(Error::refused(
            ErrorKind::Mtu,
            format!(
                "AF_XDP takes buffers of up to {PAGE} bytes and the mempool's have {}, for frames \
                 of {} bytes (this port's MTU is {mtu})",
                pool.stride(),
                pool.config().max_frame_len
            ),
            "keep the `mtu` of every port to 3,400 or less, or use PCI ports for jumbo frames",
        ));
    }
    if !pool.is_contiguous() {
        return Err(Error::refused(
            ErrorKind::Memory,
            "AF_XDP needs the mempool in one piece of memory and it is in several",
            "configure fewer buffers, or reserve huge pages at boot (`hugepages=` on the kernel's \
             command line)",
        ));
    }
    Ok(())
}

fn af_packet_lane(
    eal: &Eal,
    pool: &Mempool,
    config: &DeviceConfig,
    kernel: &KernelPort,
    name: &str,
    mtu: u16,
) -> Result<Ethdev> {
    let devargs = format!(
        "net_af_packet{},iface={name},qpairs={},{}",
        serial(),
        config.queues,
        packet_ring(mtu)
    );
    let lane = probe(eal, &devargs)?;
    // Zero: the driver of 22.11 knows no MTU but 1,500, and the kernel looks after it.
    let (lane, _) = configure(lane, pool, config, 0, config.queues)?;
    kernel.filter_packet_sockets(u32::from(mtu) + KERNEL_OVERHEAD as u32)?;
    Ok(lane)
}

/// The options of an AF_PACKET ring that holds whole frames of an MTU.
fn packet_ring(mtu: u16) -> String {
    const PAGE: usize = 4_096;
    /// What the kernel writes before a frame in its ring.
    const RING_OVERHEAD: usize = 80;
    const FRAMES: usize = 2_048;

    let frame =
        (usize::from(mtu) + KERNEL_OVERHEAD + RING_OVERHEAD).next_multiple_of(128).max(2_048);
    // Whole frames and whole pages: the least common multiple, as `frame` is a multiple of 128.
    let block = frame * (PAGE / (1 << frame.trailing_zeros().min(12)));
    let count = FRAMES.next_multiple_of(block / frame);
    format!("blocksz={block},framesz={frame},framecnt={count}")
}

/// A ring of one's own would cut frames off that the MTU lets pass.
fn check_packet_options(devargs: &str) -> Result<()> {
    let own = ["blocksz", "framesz", "framecnt"]
        .into_iter()
        .find(|option| devargs.split(',').any(|part| part.split('=').next() == Some(*option)));
    own.map_or(Ok(()), |option| {
        Err(Error::refused(
            ErrorKind::Config,
            format!("`{option}` is given for an AF_PACKET ring, which is made to fit the MTU"),
            format!("leave `{option}` out of the device string and set the port's `mtu`"),
        ))
    })
}

fn probe(eal: &Eal, devargs: &str) -> Result<Ethdev> {
    Ethdev::probe(eal, devargs).map_err(|error| {
        let driver: String = devargs
            .split(',')
            .next()
            .unwrap_or_default()
            .trim_end_matches(|digit: char| digit.is_ascii_digit())
            .to_owned();
        match error.errno() {
            Some(libc::EEXIST) => error.because(
                ErrorKind::InUse,
                "a device of this name is open already",
                "name each port once",
            ),
            Some(libc::ENODEV | libc::ENOENT | libc::EFAULT) if driver.starts_with("net_") => error
                .because(
                    ErrorKind::NotFound,
                    format!("DPDK has no driver `{driver}`, or it found no such device"),
                    "check the device string; Debian has the drivers in `librte-meta-net`",
                ),
            _ => error,
        }
    })
}

/// Makes a device's queues. Returns it with how many entries its table from hash to queue has, where it hashes
/// as the configuration says. An `mtu` of zero leaves the MTU to the driver.
fn configure(
    lane: Ethdev,
    pool: &Mempool,
    config: &DeviceConfig,
    mtu: u16,
    queues: u16,
) -> Result<(Ethdev, Option<u16>)> {
    /// What most NICs have.
    const USUAL_TABLE_LEN: u16 = 128;

    let info = lane.info()?;
    check_limits(&info, pool, mtu, queues)?;
    let key =
        (queues > 1 && info.rss_key_len > 0).then(|| config.rss.key(usize::from(info.rss_key_len)));
    let lane = lane.configure(&Setup {
        pool,
        queues,
        mtu,
        descriptors: config.descriptors,
        rss_key: key.as_deref(),
    })?;
    lane.reset_counters()?;
    let table_len = if info.rss_table_len == 0 { USUAL_TABLE_LEN } else { info.rss_table_len };
    Ok((lane, key.filter(|_| info.rss_on_addresses).map(|_| table_len)))
}

fn check_limits(info: &Info, pool: &Mempool, mtu: u16, queues: u16) -> Result<()> {
    if queues > info.max_queues {
        return Err(Error::refused(
            ErrorKind::Queues,
            format!("{} has {} queue pairs, not {queues}", info.driver, info.max_queues),
            format!("configure {} workers for this wire", info.max_queues),
        ));
    }
    if mtu > info.max_mtu {
        return Err(Error::refused(
            ErrorKind::Mtu,
            format!("MTU {mtu} is over the limit of {}, {}", info.driver, info.max_mtu),
            "set a smaller `mtu`",
        ));
    }
    check_buffers(pool, usize::from(mtu) + OVERHEAD)
}

/// The MTU that a kernel interface will have.
fn settle_mtu(kernel: &mut KernelPort, pool: &Mempool, config: &DeviceConfig) -> Result<u16> {
    let found = kernel.own_mtu();
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => u16::try_from(found).ok().filter(|&mtu| mtu <= MAX_MTU).ok_or_else(|| {
            Error::refused(
                ErrorKind::Mtu,
                format!("the interface's MTU {found} is over the limit of {MAX_MTU}"),
                "set the port's `mtu`",
            )
        })?,
    };
    check_buffers(pool, usize::from(mtu) + OVERHEAD)?;
    kernel.set_mtu(u32::from(mtu))?;
    Ok(mtu)
}

/// Frames must fit the buffers.
fn check_buffers(pool: &Mempool, frame: usize) -> Result<()> {
    let room = pool.config().max_frame_len;
    if frame <= room {
        return Ok(());
    }
    Err(Error::refused(
        ErrorKind::Config,
        format!("frames of {frame} bytes do not fit the mempool's buffers of {room}"),
        "make the mempool for the largest MTU of all ports",
    ))
}

fn finish(
    config: &DeviceConfig,
    pool: &Mempool,
    lanes: Vec<Ethdev>,
    backend: Backend,
    mtu: u16,
    kernel: Option<KernelPort>,
    mut notes: Vec<String>,
) -> Result<Device> {
    let queues = if lanes.len() > 1 {
        lanes.iter().map(|lane| Some((lane.port(), 0))).collect()
    } else {
        let port = lanes.first().map_or(0, Ethdev::port);
        (0..config.queues).map(|queue| Some((port, queue))).collect()
    };
    if backend == Backend::AfPacket {
        notes.push(
            "over AF_PACKET, IPv4 fragments of packets longer than the MTU (the kernel joins them) \
             and frames with an outer 802.1ad tag are not received"
                .to_owned(),
        );
    }
    let packet_sockets = match &kernel {
        Some(kernel) if backend == Backend::AfPacket => kernel.packet_sockets()?,
        _ => Vec::new(),
    };
    let overhead = if kernel.is_some() { KERNEL_OVERHEAD } else { OVERHEAD };
    Ok(Device {
        shared: Arc::new(Shared {
            name: config.name.to_string(),
            lanes,
            kernel: kernel.map(Mutex::new),
            max_frame_len: usize::from(mtu) + overhead,
            packet_sockets,
            started: AtomicBool::new(false),
            held: AtomicBool::new(false),
        }),
        pool: *pool,
        backend,
        mtu,
        hash_table_len: None,
        notes,
        queues,
    })
}

/// A number for a virtual device that no configuration uses.
fn serial() -> u32 {
    static SERIAL: AtomicU32 = AtomicU32::new(10_000);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_ones_own_are_refused_and_ours_hold_whole_frames() {
        for option in ["blocksz=4096", "framesz=2048", "framecnt=512"] {
            let error = check_packet_options(&format!("net_af_packet0,iface=p1,{option}"));
            let name = option.split('=').next().unwrap_or_default();
            assert!(error.unwrap_err().to_string().contains(name), "{option}");
        }
        assert!(check_packet_options("net_af_packet0,iface=framesz,qpairs=2").is_ok());
        for mtu in [68, 1_500, 3_542, 9_000] {
            let ring = packet_ring(mtu);
            let number = |key: &str| -> usize {
                let part = ring.split(',').find_map(|part| part.strip_prefix(key));
                part.and_then(|number| number.parse().ok()).unwrap_or(0)
            };
            let (block, frame) = (number("blocksz="), number("framesz="));
            assert!(frame >= usize::from(mtu) + KERNEL_OVERHEAD + 80, "{ring}");
            assert!(block % 4_096 == 0 && block % frame == 0, "{ring}");
            assert_eq!(number("framecnt=") % (block / frame), 0, "{ring}");
        }
    }

    #[test]
    fn impossible_wishes_are_refused_before_anything_is_touched() {
        let good = DeviceConfig::new("net_null0");
        assert!(check_config(&good).is_ok());
        for (config, kind) in [
            (DeviceConfig { queues: 0, ..good.clone() }, ErrorKind::Config),
            (DeviceConfig { descriptors: 1_000, ..good.clone() }, ErrorKind::Config),
            (DeviceConfig { mtu: Some(67), ..good.clone() }, ErrorKind::Mtu),
            (DeviceConfig { mtu: Some(9_001), ..good.clone() }, ErrorKind::Mtu),
        ] {
            assert_eq!(check_config(&config).unwrap_err().kind(), kind, "{config:?}");
        }
    }
}
