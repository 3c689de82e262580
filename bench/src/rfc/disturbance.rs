//! How long the machine kept a thread from its processor.
//!
//! A machine whose processors others use as well stops the gateway for milliseconds, and then its
//! rings overflow. RFC 2544 knows nothing of that: a trial that lost frames while this happened says
//! nothing about the gateway, and is repeated.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Below this a ring of 1,024 frames bridges the gap, at 20 million frames a second.
const NEGLIGIBLE_NS: u64 = 50_000;

/// The threads that must not be kept waiting.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// `/proc/PID/task/TID/schedstat` of each.
    threads: Vec<PathBuf>,
}

/// Until a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waited {
    /// Nanoseconds for which threads were ready to run and others ran.
    queued_ns: u64,
    /// Ticks (of 10 ms) for which the hypervisor ran others.
    stolen: u64,
}

impl Watch {
    /// A watch of these threads, see [`current_thread`].
    pub(crate) fn new(threads: Vec<PathBuf>) -> Self {
        Self { threads }
    }

    /// What they waited since they began.
    pub(crate) fn waited(&self) -> Waited {
        let queued = self.threads.iter().map(|thread| queued_ns(thread).unwrap_or(0));
        Waited { queued_ns: queued.sum(), stolen: stolen().unwrap_or(0) }
    }
}

impl Waited {
    /// Nanoseconds since an earlier moment.
    pub(crate) fn ns_since(self, earlier: Self) -> u64 {
        const TICK_NS: u64 = 10_000_000;
        let stolen = self.stolen.saturating_sub(earlier.stolen) * TICK_NS;
        self.queued_ns.saturating_sub(earlier.queued_ns) + stolen
    }
}

/// Whether so long a wait may have cost frames.
pub(crate) fn is_disturbed(waited_ns: u64) -> bool {
    waited_ns > NEGLIGIBLE_NS
}

/// Where the kernel tells what the calling thread waited.
///
/// # Errors
///
/// Where `/proc` is not there.
pub(crate) fn current_thread() -> io::Result<PathBuf> {
    // `PID/task/TID`, relative to `/proc`.
    let thread = fs::read_link("/proc/thread-self")?;
    Ok(Path::new("/proc").join(thread).join("schedstat"))
}

/// The second number: the first is the time on a processor.
fn queued_ns(thread: &Path) -> Option<u64> {
    fs::read_to_string(thread).ok()?.split(' ').nth(1)?.trim().parse().ok()
}

/// The eighth number of all processors' line.
fn stolen() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().next()?.split_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_can_be_watched() {
        let thread = current_thread().expect("Linux has /proc");
        assert!(queued_ns(&thread).is_some(), "{}", thread.display());
        assert!(stolen().is_some());
    }

    #[test]
    fn waits_add_up() {
        let earlier = Waited { queued_ns: 1_000, stolen: 4 };
        let later = Waited { queued_ns: 61_000, stolen: 4 };
        assert_eq!(later.ns_since(earlier), 60_000);
        assert!(is_disturbed(60_000) && !is_disturbed(40_000));
        assert_eq!(Waited { stolen: 5, ..earlier }.ns_since(earlier), 10_000_000);
    }
}
