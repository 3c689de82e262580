//! The way to the wire over DPDK.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use bulkhead_dpdk::{
    Device as DpdkDevice, DeviceConfig, DpdkPort, Eal, EalConfig, ErrorKind, LinkState, LogLevel,
    Mempool, MempoolConfig, PortName, check_interface, redirect, register_worker, set_log_sink,
};
use bulkhead_pipeline::owner::{OwnerRule, SymmetricRss};
use bulkhead_pipeline::port::DriverCounters;
use tracing::{debug, info, warn};

use crate::config::{Config, HugePages, Wire};
use crate::launch::{Backend, OpenWire};
use crate::state::Device;

/// DPDK's environment, once it is up.
#[derive(Debug, Default)]
pub(crate) struct Dpdk {
    eal: OnceLock<Eal>,
    /// The buffers of all ports.
    pool: OnceLock<Mempool>,
    /// The hash by which ports spread frames, and the entries of its table, where one does.
    hash: OnceLock<(SymmetricRss, u16)>,
}

impl Backend for Dpdk {
    type Port = DpdkPort;

    fn prepare(&self, config: &Config) -> Result<(), String> {
        set_log_sink(log_line);
        crate::failure::bypass::keep_found(config);
        let names = || config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
        // Before another gateway is told to go: with ports that cannot be opened this one takes no place.
        for name in names() {
            if let Some(interface) = PortName::parse(name).interface() {
                check_interface(interface, config.mtu).map_err(|error| error.to_string())?;
            }
        }
        let pool = pool_of(config);
        let eal = EalConfig {
            huge_pages: match config.dpdk.huge_pages {
                HugePages::Auto => bulkhead_dpdk::HugePages::Auto,
                HugePages::Require => bulkhead_dpdk::HugePages::Require,
                HugePages::Never => bulkhead_dpdk::HugePages::Never,
            },
            memory_bytes: pool.memory_bytes(),
            pci: names().any(|name| PortName::parse(name).is_pci()),
        };
        let eal = Eal::init(&eal).map_err(|error| error.to_string())?;
        info!(
            version = Eal::version(),
            huge_pages = eal.has_huge_pages(),
            packet_memory_mib = pool.memory_bytes() >> 20,
            "DPDK is up"
        );
        let pool = Mempool::new(&eal, pool).map_err(|error| error.to_string())?;
        let _ = (self.eal.set(eal), self.pool.set(pool));
        Ok(())
    }

    fn open(&self, config: &Config) -> Result<Vec<OpenWire<DpdkPort>>, String> {
        if self.pool.get().is_none() {
            self.prepare(config)?;
        }
        let (Some(eal), Some(pool)) = (self.eal.get(), self.pool.get()) else {
            return Err("DPDK is not up".to_owned());
        };
        let rss = SymmetricRss::random();
        let opener = Opener { eal, pool, config, rss: rss.clone() };
        let opened = opener.open_all()?;
        // What a gateway before this one had, and this one has not: its wires were taken out of the configuration.
        let names = config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
        let own: Vec<String> =
            names.filter_map(|name| PortName::parse(name).interface().map(str::to_owned)).collect();
        for interface in redirect::put_back(&own, true) {
            info!(interface, "no wire has this interface any more: it is as it was found");
        }
        if let Some(table_len) = opened.iter().flatten().find_map(DpdkDevice::hash_table_len) {
            let _ = self.hash.set((rss, table_len));
        }
        let wires = config.wires.iter().zip(opened);
        Ok(wires.map(|(wire, devices)| hand_out(wire, devices, config.workers)).collect())
    }

    fn owner_rule(&self, workers: usize) -> OwnerRule {
        match self.hash.get() {
            Some((rss, table_len)) => OwnerRule::like_nic(workers, rss.clone(), *table_len),
            None => OwnerRule::keyed(workers, None),
        }
    }

    fn enter_worker(&self) -> Result<Box<dyn Any>, String> {
        let eal = self.eal.get().ok_or("DPDK is not up")?;
        match register_worker(eal) {
            Ok(registration) => Ok(Box::new(registration)),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Device for DpdkDevice {
    fn driver(&self) -> String {
        self.backend().to_string()
    }

    fn start(&self) -> Result<(), String> {
        DpdkDevice::start(self).map_err(|error| error.to_string())
    }

    fn has_carrier(&self) -> bool {
        matches!(self.link(), Ok(LinkState::Up))
    }

    fn hold_down(&self, down: bool) -> Result<(), String> {
        match self.set_link(!down) {
            // A driver that cannot set the link has never held it.
            Err(error) if !down && error.kind() == ErrorKind::Unsupported => Ok(()),
            other => other.map_err(|error| error.to_string()),
        }
    }

    fn driver_counters(&self) -> DriverCounters {
        self.counters().unwrap_or_default()
    }

    fn hand_over(&self) {
        DpdkDevice::hand_over(self);
    }
}

/// Bytes that the packets of a gateway of this configuration lie in.
pub(crate) fn packet_memory(config: &Config) -> u64 {
    pool_of(config).memory_bytes()
}

/// The pool from which all ports of `config` take their buffers.
fn pool_of(config: &Config) -> MempoolConfig {
    let mut queues = 2 * config.wires.len() * config.workers;
    if config.workers > 1 {
        // What workers hand each other is at most a ring more for each queue, of about four.
        queues += queues.div_ceil(4);
    }
    let queues = u32::try_from(queues).unwrap_or(u32::MAX);
    MempoolConfig::for_queues(queues, descriptors(config), config.mtu)
}

/// Opens ports for the gateway's configuration.
struct Opener<'a> {
    eal: &'a Eal,
    pool: &'a Mempool,
    config: &'a Config,
    rss: SymmetricRss,
}

impl Opener<'_> {
    /// Opens the ports of all wires, in their order.
    fn open_all(&self) -> Result<Vec<[DpdkDevice; 2]>, String> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for wire in 0..self.config.wires.len() {
            groups.entry(self.config.group_of(wire)).or_default().push(wire);
        }
        let mut opened = BTreeMap::new();
        for members in groups.values() {
            let wires: Vec<&Wire> = members.iter().map(|&wire| &self.config.wires[wire]).collect();
            opened.extend(members.iter().copied().zip(self.open_group(&wires, groups.len())?));
        }
        Ok(opened.into_values().collect())
    }

    /// Opens the ports of the wires of one redundancy group, of which there are `groups`: with a queue
    /// for every worker or, where that is impossible or not worth it, with one.
    fn open_group(&self, wires: &[&Wire], groups: usize) -> Result<Vec<[DpdkDevice; 2]>, String> {
        let workers = self.config.workers;
        let names = wires.iter().map(|wire| wire.name.as_str()).collect::<Vec<_>>().join(",");
        let mut ports = wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
        let is_kernel = ports.any(|name| PortName::parse(name).interface().is_some());
        // The kernel spreads frames as it likes; where each worker can have wires of its own, none of
        // them needs to be handed over.
        if workers > 1 && !(is_kernel && groups >= workers) {
            match self.try_queues(wires, workers) {
                Ok(devices) => {
                    if devices.iter().flatten().any(|device| device.hash_table_len().is_none()) {
                        info!(
                            wires = names,
                            "these ports do not spread frames by pairs of addresses: workers hand \
                             each other what came to the wrong one"
                        );
                    }
                    return Ok(devices);
                }
                Err(error) => {
                    warn!(wires = names, "one worker serves what {workers} were meant to: {error}");
                }
            }
        }
        self.try_queues(wires, 1)
    }

    fn try_queues(&self, wires: &[&Wire], queues: usize) -> Result<Vec<[DpdkDevice; 2]>, String> {
        let queues = u16::try_from(queues).unwrap_or(u16::MAX);
        let both = |wire: &&Wire| -> Result<[DpdkDevice; 2], String> {
            Ok([self.open(&wire.inside, queues)?, self.open(&wire.outside, queues)?])
        };
        wires.iter().map(both).collect()
    }

    fn open(&self, name: &str, queues: u16) -> Result<DpdkDevice, String> {
        let config = DeviceConfig {
            name: PortName::parse(name),
            queues,
            mtu: Some(self.config.mtu),
            descriptors: descriptors(self.config),
            rss: self.rss.clone(),
        };
        DpdkDevice::open(self.eal, self.pool, &config).map_err(|error| error.to_string())
    }
}

/// A wire whose ports are open, for its workers.
fn hand_out(wire: &Wire, devices: [DpdkDevice; 2], workers: usize) -> OpenWire<DpdkPort> {
    let [mut inside, mut outside] = devices;
    let queues: Vec<_> = (0..workers)
        .map_while(|queue| inside.take_queue(queue).zip(outside.take_queue(queue)))
        .collect();
    for device in [&inside, &outside] {
        info!(
            wire = wire.name,
            port = device.name(),
            driver = %device.backend(),
            mtu = device.mtu(),
            queues = queues.len(),
            "port opened"
        );
        for note in device.notes() {
            warn!(wire = wire.name, port = device.name(), "{note}");
        }
    }
    OpenWire { queues, inside: Box::new(inside), outside: Box::new(outside) }
}

/// Rings are powers of two.
fn descriptors(config: &Config) -> u16 {
    config.dpdk.queue_size.checked_next_power_of_two().unwrap_or(1 << 15)
}

fn log_line(level: LogLevel, line: &str) {
    // DPDK complains of much that is tried and done another way; what matters comes back as an error
    // of the call, in words of our own.
    match level {
        LogLevel::Error => warn!("DPDK: {line}"),
        LogLevel::Warning | LogLevel::Info => debug!("DPDK: {line}"),
        LogLevel::Debug => tracing::trace!("DPDK: {line}"),
    }
}
