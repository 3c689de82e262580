//! What figures were measured on, and what they come to.

use std::process::Command;
use std::{fs, io, thread};

use serde::Serialize;

/// Where the benchmark was built.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What the numbers were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Its nominal frequency.
    pub mhz: f64,
    /// Processors that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// DPDK's version.
    pub dpdk: String,
    /// The commit that is checked out where the benchmark was built.
    pub commit: String,
    /// The load of 1, 5 and 15 minutes before the measurement: a busy machine measures badly.
    pub load_before: String,
    /// The same after it.
    pub load_after: String,
}

impl Machine {
    /// This machine, after a measurement.
    ///
    /// # Errors
    ///
    /// Where the kernel does not say.
    pub fn read(load_before: String) -> io::Result<Self> {
        let first_line = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.unwrap_or_default().lines().next().unwrap_or("unknown").trim().to_owned()
        };
        Ok(Self {
            processor: cpuinfo("model name").unwrap_or_default(),
            mhz: processor_mhz(),
            cores: thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            dpdk: format!("DPDK {}", first_line("pkg-config", &["--modversion", "libdpdk"])),
            commit: first_line(
                "git",
                &["-C", REPOSITORY, "describe", "--always", "--dirty", "--exclude=*"],
            ),
            load_before,
            load_after: load(),
        })
    }
}

/// The processor's nominal frequency.
pub fn processor_mhz() -> f64 {
    cpuinfo("cpu MHz").and_then(|mhz| mhz.parse().ok()).unwrap_or(f64::NAN)
}

/// The load of 1, 5 and 15 minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The middle of the values, NaN where there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The most resident memory that the process has from a moment on, beyond what it had then.
#[derive(Debug)]
pub struct PeakMemory {
    before: u64,
}

impl PeakMemory {
    /// From now on.
    pub fn start() -> Self {
        // Resets the kernel's note of the peak (proc_pid_clear_refs(5)).
        let _ = fs::write("/proc/self/clear_refs", "5");
        Self { before: status_bytes("VmRSS:") }
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        status_bytes("VmHWM:").saturating_sub(self.before)
    }
}

/// Memory that processes can still have.
pub fn available_bytes() -> u64 {
    kernel_bytes("/proc/meminfo", "MemAvailable:")
}

fn status_bytes(key: &str) -> u64 {
    kernel_bytes("/proc/self/status", key)
}

fn kernel_bytes(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB"));
    value.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn cpuinfo(key: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split(':').nth(1).map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
