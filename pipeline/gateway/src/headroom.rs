//! How much memory there is for a policy. A process that runs out ends, and with it what it guards; so a
//! policy that would take more than is left is refused before it is read.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::candidate::Finding;

/// The code of the finding that there is too little memory: it says nothing about the policy, and may be
/// over a moment later.
pub const NO_MEMORY: &str = "no-memory";

/// What is left to everything else, in bytes.
const RESERVE_BYTES: u64 = 32 << 20;

/// Bytes that reading and checking takes for one of a policy's text. Measured with rules of 100 bytes: 4 MB
/// of them took 200 MB, and another 400 MB to compile, which has a limit of its own.
const BYTES_FOR_ONE: u64 = 64;

/// Bytes that are left, beyond a reserve, to what is to come; [`None`] where nothing limits them that the
/// kernel tells of.
pub fn left() -> Option<u64> {
    let limits = [available(), address_space(), control_group()];
    let least = limits.into_iter().flatten().min()?;
    Some(least.saturating_sub(RESERVE_BYTES))
}

/// Whether a policy of so many bytes of text can be read with what is left.
///
/// # Errors
///
/// A sentence with both figures.
pub fn suffices(text_bytes: u64) -> Result<(), String> {
    let needed = text_bytes.saturating_mul(BYTES_FOR_ONE);
    match left() {
        Some(left) if left < needed => Err(format!(
            "there is too little memory to take a policy of {} KiB: reading it may take {} MiB, and {} MiB \
             are left",
            text_bytes.div_ceil(1 << 10),
            needed.div_ceil(1 << 20),
            left >> 20,
        )),
        _ => Ok(()),
    }
}

/// Whether what was found says that memory is short, and nothing else about a policy.
pub fn is_short(found: &[Finding]) -> bool {
    let mut errors = found.iter().filter(|finding| finding.severity == "error").peekable();
    errors.peek().is_some() && errors.all(|finding| finding.code == NO_MEMORY)
}

/// What the machine has.
fn available() -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// What `RLIMIT_AS` leaves.
fn address_space() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    let taken = field(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(limit.saturating_sub(taken))
}

/// What the control group of the process leaves (`MemoryMax=` of its unit), if it has one of the second
/// version. What the kernel holds of files it would let go of.
fn control_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let taken: u64 = read("memory.current")?.trim().parse().ok()?;
    let files = read("memory.stat").and_then(|text| value(&text, "inactive_file"));
    Some(limit.saturating_sub(taken.saturating_sub(files.unwrap_or(0))))
}

/// A figure in kilobytes, in bytes.
fn field(text: &str, key: &str) -> Option<u64> {
    value(text, key)?.checked_mul(1 << 10)
}

fn value(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_kernel_are_read() {
        let meminfo = "MemTotal:       24000000 kB\nMemAvailable:   21000000 kB\n";
        assert_eq!(field(meminfo, "MemAvailable:"), Some(21_000_000 << 10));
        assert_eq!(value("anon 1\ninactive_file 4096\n", "inactive_file"), Some(4096));
        assert_eq!(field(meminfo, "VmSize:"), None);
    }

    #[test]
    fn a_small_policy_is_read_and_one_that_no_machine_could_is_not() {
        assert_eq!(suffices(1000), Ok(()));
        let Some(left) = left() else { return };
        let error = suffices(left).err().unwrap_or_default();
        assert!(error.contains("MiB are left"), "{error}");
    }
}
