//! The way to the wire over DPDK.

use std::any::Any;
use std::sync::OnceLock;

use bulkhead_dpdk::{
    Device as DpdkDevice, DeviceConfig, DpdkPort, Eal, EalConfig, LinkState, LogLevel, Mempool,
    MempoolConfig, PortName, register_worker, set_log_sink,
};
use bulkhead_pipeline::port::DriverCounters;
use tracing::{debug, info, warn};

use crate::config::{Config, HugePages, Wire};
use crate::launch::{Backend, OpenWire};
use crate::state::Device;

/// DPDK's environment, once it is up.
#[derive(Debug, Default)]
pub(crate) struct Dpdk {
    eal: OnceLock<Eal>,
}

impl Backend for Dpdk {
    type Port = DpdkPort;

    fn open(&self, config: &Config) -> Result<Vec<OpenWire<DpdkPort>>, String> {
        set_log_sink(log_line);
        let names = config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
        let names: Vec<PortName> = names.map(|name| PortName::parse(name)).collect();
        let queues = u32::try_from(names.len() * config.workers).unwrap_or(u32::MAX);
        let descriptors = descriptors(config);
        let pool = MempoolConfig::for_queues(queues, descriptors, config.mtu);
        let eal = EalConfig {
            huge_pages: match config.dpdk.huge_pages {
                HugePages::Auto => bulkhead_dpdk::HugePages::Auto,
                HugePages::Require => bulkhead_dpdk::HugePages::Require,
                HugePages::Never => bulkhead_dpdk::HugePages::Never,
            },
            memory_bytes: pool.memory_bytes(),
            pci: names.iter().any(PortName::is_pci),
        };
        let eal = Eal::init(&eal).map_err(|error| error.to_string())?;
        info!(
            version = Eal::version(),
            huge_pages = eal.has_huge_pages(),
            packet_memory_mib = pool.memory_bytes() >> 20,
            "DPDK is up"
        );
        let _ = self.eal.set(eal);
        let pool = Mempool::new(&eal, pool).map_err(|error| error.to_string())?;
        config.wires.iter().map(|wire| open_wire(&eal, &pool, config, wire)).collect()
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
        self.set_link(!down).map_err(|error| error.to_string())
    }

    fn driver_counters(&self) -> DriverCounters {
        self.counters().unwrap_or_default()
    }
}

/// Opens both ports of a wire: with a queue for every worker where both spread flows so that both
/// directions meet, with one otherwise.
fn open_wire(
    eal: &Eal,
    pool: &Mempool,
    config: &Config,
    wire: &Wire,
) -> Result<OpenWire<DpdkPort>, String> {
    let both = |queues| -> Result<[DpdkDevice; 2], String> {
        Ok([
            open(eal, pool, config, &wire.inside, queues)?,
            open(eal, pool, config, &wire.outside, queues)?,
        ])
    };
    // The kernel spreads what it hands to its sockets as it likes.
    let kernel = [&wire.inside, &wire.outside].map(|n| PortName::parse(n).interface().is_some());
    let wanted =
        if kernel.contains(&true) { 1 } else { u16::try_from(config.workers).unwrap_or(1) };
    let mut queues = wanted;
    let mut devices = both(queues)?;
    if !devices.iter().all(DpdkDevice::is_symmetric) {
        drop(devices);
        queues = 1;
        devices = both(queues)?;
    }
    if config.workers > 1 && queues == 1 {
        warn!(
            wire = wire.name,
            "its ports do not spread flows so that both directions meet: one worker serves this wire"
        );
    }
    for device in &devices {
        info!(
            wire = wire.name,
            port = device.name(),
            driver = %device.backend(),
            mtu = device.mtu(),
            queues,
            "port opened"
        );
        for note in device.notes() {
            warn!(wire = wire.name, port = device.name(), "{note}");
        }
    }
    let [mut inside, mut outside] = devices;
    let pairs = (0..usize::from(queues))
        .filter_map(|q| inside.take_queue(q).zip(outside.take_queue(q)))
        .collect();
    Ok(OpenWire { queues: pairs, inside: Box::new(inside), outside: Box::new(outside) })
}

fn open(
    eal: &Eal,
    pool: &Mempool,
    config: &Config,
    name: &str,
    queues: u16,
) -> Result<DpdkDevice, String> {
    let config = DeviceConfig {
        name: PortName::parse(name),
        queues,
        mtu: Some(config.mtu),
        descriptors: descriptors(config),
    };
    DpdkDevice::open(eal, pool, &config).map_err(|error| error.to_string())
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
