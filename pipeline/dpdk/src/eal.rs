//! DPDK's environment: started once per process, before any port.
//!
//! Unsafe: the call into DPDK, and the affinity calls of the C library around it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::ffi;
use crate::log;

/// Where DPDK's memory comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HugePages {
    /// Huge pages where enough are free, ordinary memory otherwise.
    #[default]
    Auto,
    /// Huge pages or an error.
    Require,
    /// Ordinary memory: slower, and of no use to PCI devices.
    Never,
}

/// How the environment starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EalConfig {
    /// Where memory comes from.
    pub huge_pages: HugePages,
    /// Memory that the mempools will take, see [`crate::MempoolConfig::memory_bytes`].
    pub memory_bytes: u64,
    /// Whether a port is named by a PCI address.
    pub pci: bool,
}

/// Proof that DPDK's environment is up. It stays up until the process ends, and keeps no files.
#[derive(Clone, Copy, Debug)]
pub struct Eal {
    huge_pages: bool,
}

impl Eal {
    /// Starts DPDK's environment. The calling thread keeps the processors that it may run on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InUse`] when called again, [`ErrorKind::Memory`] where huge pages are required
    /// and there are too few, otherwise what DPDK said.
    pub fn init(config: &EalConfig) -> Result<Self> {
        static STARTED: AtomicBool = AtomicBool::new(false);

        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::refused(
                ErrorKind::InUse,
                "DPDK's environment was started before in this process",
                "it can be started once only",
            ));
        }
        let needed = config.memory_bytes + EAL_OWN_BYTES;
        let huge_pages = choose_memory(config, needed)?;

        // SAFETY: the sink is a function that lives forever and keeps to its contract.
        let status = unsafe { ffi::bh_log_to(log::receive) };
        if status != 0 {
            return Err(Error::dpdk("rte_openlog_stream", status));
        }
        let affinity = Affinity::current()?;
        let arguments = arguments(config, huge_pages, needed, &affinity);
        let result = init(&arguments);
        // rte_eal_init leaves its caller on one processor, which every later thread would inherit.
        affinity.restore()?;
        result?;
        Ok(Self { huge_pages })
    }

    /// Whether memory comes from huge pages.
    #[must_use]
    pub fn has_huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// The version of DPDK that runs, such as `DPDK 22.11.11`.
    #[must_use]
    pub fn version() -> String {
        // SAFETY: a string that lives forever.
        unsafe { CStr::from_ptr(ffi::bh_version()) }.to_string_lossy().into_owned()
    }
}

/// A thread that DPDK knows, so that it has a buffer cache of its own. Made and dropped on the
/// worker's thread.
#[derive(Debug)]
pub struct RegisteredWorker(PhantomData<*mut ()>);

/// Makes DPDK know the calling thread, which the caller has pinned already.
///
/// # Errors
///
/// [`ErrorKind::Refused`] where DPDK already knows as many threads as it can (128 as Debian builds
/// it).
pub fn register_worker(_eal: &Eal) -> Result<RegisteredWorker> {
    // SAFETY: EAL is up, which `_eal` proves.
    match unsafe { ffi::bh_thread_register() } {
        0 => Ok(RegisteredWorker(PhantomData)),
        status => Err(Error::dpdk("rte_thread_register", status)),
    }
}

impl Drop for RegisteredWorker {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself: the type cannot leave it.
        unsafe { ffi::bh_thread_unregister() }
    }
}

/// What EAL takes for itself, besides mempools.
const EAL_OWN_BYTES: u64 = 48 << 20;

/// Whether to use huge pages.
fn choose_memory(config: &EalConfig, needed: u64) -> Result<bool> {
    if config.huge_pages == HugePages::Never {
        return Ok(false);
    }
    let free = free_huge_bytes();
    if free >= needed {
        return Ok(true);
    }
    if config.huge_pages == HugePages::Auto && !config.pci {
        return Ok(false);
    }
    let pages = needed.div_ceil(2 << 20);
    Err(Error::refused(
        ErrorKind::Memory,
        format!(
            "{} MiB of huge pages are needed and {} MiB are free",
            needed.div_ceil(1 << 20),
            free >> 20
        ),
        format!("reserve them: `sysctl -w vm.nr_hugepages={pages}` (2 MiB pages)"),
    ))
}

/// Bytes in free huge pages of every size.
fn free_huge_bytes() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    sizes
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free = fs::read_to_string(entry.path().join("free_hugepages")).ok()?;
            Some(kib * 1024 * free.trim().parse::<u64>().ok()?)
        })
        .sum()
}

/// EAL's command line.
fn arguments(config: &EalConfig, huge: bool, needed: u64, affinity: &Affinity) -> Vec<String> {
    let mut arguments: Vec<String> = ["bulkhead", "--no-telemetry"].map(str::to_owned).into();
    // One logical core that may run wherever this process may: workers are threads of our own.
    arguments.push(format!("--lcores=0@({})", affinity.list()));
    if config.pci {
        // Nothing is probed at start (no device has this address): ports are opened one by one.
        arguments.push("--allow=0000:00:00.0".to_owned());
    } else {
        // Virtual devices need no physical addresses, and a pool in one piece is certain this way.
        arguments.extend(["--no-pci".to_owned(), "--iova-mode=va".to_owned()]);
    }
    if huge {
        // Huge pages without files.
        arguments.push("--in-memory".to_owned());
    } else {
        // The two options say the same for ordinary memory, but EAL refuses to combine the former.
        arguments.extend(["--no-huge", "--no-shconf", "-m"].map(str::to_owned));
        arguments.push(needed.div_ceil(1 << 20).to_string());
    }
    arguments
}

fn init(arguments: &[String]) -> Result<()> {
    let arguments: Vec<CString> = arguments
        .iter()
        .map(|argument| CString::new(argument.as_str()).unwrap_or_default())
        .collect();
    // DPDK reorders the array that it is given, and keeps the strings: they are never freed.
    let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let count = pointers.len() as i32;
    pointers.push(std::ptr::null_mut());
    // SAFETY: `count` strings that end with NUL, then a null pointer, as for `main`.
    let status = unsafe { ffi::bh_eal_init(count, pointers.as_mut_ptr()) };
    if status < 0 {
        return Err(Error::dpdk("rte_eal_init", status));
    }
    // SAFETY: no arguments; the libraries that it looks for are loaded or are not.
    unsafe { ffi::bh_log_hush_libraries() }
    Ok(())
}

/// The processors that a thread may run on.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn current() -> Result<Self> {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: `set` is writable and as long as is said.
        let status =
            unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
        if status != 0 {
            return Err(Error::kernel("sched_getaffinity", &io::Error::last_os_error()));
        }
        // SAFETY: the kernel has written it.
        Ok(Self(unsafe { set.assume_init() }))
    }

    fn restore(&self) -> Result<()> {
        // SAFETY: the set is readable and as long as is said.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) }
        {
            0 => Ok(()),
            _ => Err(Error::kernel("sched_setaffinity", &io::Error::last_os_error())),
        }
    }

    /// The processors as EAL's `--lcores` takes them: `0,1,5`.
    fn list(&self) -> String {
        let processors = (0..libc::CPU_SETSIZE as usize)
            // SAFETY: the index is below CPU_SETSIZE.
            .filter(|&index| unsafe { libc::CPU_ISSET(index, &self.0) })
            .map(|index| index.to_string());
        processors.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_huge_pages_that_are_not_there_are_named() {
        let config =
            EalConfig { huge_pages: HugePages::Require, memory_bytes: 1 << 50, pci: false };
        let error = choose_memory(&config, config.memory_bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(error.to_string().contains("sysctl -w vm.nr_hugepages=536870912"), "{error}");
    }

    #[test]
    fn without_huge_pages_ordinary_memory_serves_virtual_devices_only() {
        let mut config =
            EalConfig { huge_pages: HugePages::Auto, memory_bytes: 1 << 50, pci: false };
        assert!(!choose_memory(&config, config.memory_bytes).unwrap());
        config.pci = true;
        assert!(choose_memory(&config, config.memory_bytes).is_err());
    }
}
