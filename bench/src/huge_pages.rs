//! Huge pages for as long as a benchmark needs them.

use std::fs;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";
const PAGE_BYTES: u64 = 2 << 20;

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
        fs::write(COUNT, (before + lacking).to_string()).ok()?;
        Some(Self { before })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Err(error) = fs::write(COUNT, self.before.to_string()) {
            eprintln!("{COUNT} could not be set back to {}: {error}", self.before);
        }
    }
}
