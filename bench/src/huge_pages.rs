//! Huge pages for as long as a benchmark needs them, and DPDK in them.

use std::{fs, io, process, thread};

use bulkhead_dpdk::{Eal, EalConfig, HugePages};
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::iterator::Signals;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";
const PAGE_BYTES: u64 = 2 << 20;

/// DPDK, and the huge pages that were reserved for it.
#[derive(Debug)]
pub struct Environment {
    /// Proof that it is up.
    pub eal: Eal,
    _pages: Option<Reserved>,
}

impl Environment {
    /// Starts it with so many bytes for contexts of `librte_acl`.
    ///
    /// # Errors
    ///
    /// Where DPDK does not start.
    pub fn start(bytes: u64) -> io::Result<Self> {
        let pages = Reserved::at_least(bytes);
        Ok(Self { eal: eal(HugePages::Auto, bytes)?, _pages: pages })
    }

    /// Starts it in ordinary memory: slower, but it works where little address space is left, as under
    /// valgrind.
    ///
    /// # Errors
    ///
    /// Where DPDK does not start.
    pub fn start_without(bytes: u64) -> io::Result<Self> {
        Ok(Self { eal: eal(HugePages::Never, bytes)?, _pages: None })
    }
}

fn eal(huge_pages: HugePages, bytes: u64) -> io::Result<Eal> {
    // An eighth is left for what EAL itself needs.
    let config = EalConfig { huge_pages, memory_bytes: bytes / 8 * 7, pci: false };
    Eal::init(&config).map_err(io::Error::other)
}

/// Huge pages of 2 MiB that were reserved on top of those that were there; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    before: u64,
}

impl Reserved {
    /// Makes sure that `bytes` are free in huge pages. [`None`] where nothing had to be done, or where
    /// this process may not: DPDK then makes do with ordinary memory.
    pub fn at_least(bytes: u64) -> Option<Self> {
        let before: u64 = fs::read_to_string(COUNT).ok()?.trim().parse().ok()?;
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        let free: u64 = free.ok()?.trim().parse().ok()?;
        let lacking =
            bytes.div_ceil(PAGE_BYTES).checked_sub(free).filter(|&lacking| lacking > 0)?;
        // Also where the benchmark is interrupted.
        let mut signals = Signals::new(TERM_SIGNALS).ok()?;
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                put_back(before);
                process::exit(128 + signal);
            }
        });
        fs::write(COUNT, (before + lacking).to_string()).ok()?;
        Some(Self { before })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        put_back(self.before);
    }
}

fn put_back(before: u64) {
    if let Err(error) = fs::write(COUNT, before.to_string()) {
        eprintln!("{COUNT} could not be set back to {before}: {error}");
    }
}
