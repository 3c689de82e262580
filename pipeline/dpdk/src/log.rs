//! Where DPDK's log goes: the last complaints are kept for the errors that they explain, and the
//! rest goes to whoever asked for it, so that the operator's log stays readable.
//!
//! DPDK calls the sink from C, with a pointer and a length.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::slice;
use std::sync::{Mutex, PoisonError, RwLock};

/// How grave a line of DPDK's log is; smaller is graver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// Emergencies, alerts, critical conditions and errors.
    Error,
    /// Warnings.
    Warning,
    /// What is usual.
    Info,
    /// What only a developer wants.
    Debug,
}

/// Takes a line of DPDK's log, without its end. Called from whichever thread logged.
pub type LogSink = fn(LogLevel, &str);

/// Most complaints kept for the next error.
const KEPT: usize = 8;

/// Longest line kept, in bytes.
const LINE_BYTES: usize = 400;

static SINK: RwLock<Option<LogSink>> = RwLock::new(None);
static COMPLAINTS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Sends every line that DPDK logs from now on to `sink` as well.
pub fn set_log_sink(sink: LogSink) {
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = Some(sink);
}

/// The warnings and errors logged since they were last taken, oldest first, at most [`KEPT`].
pub(crate) fn take_complaints() -> Vec<String> {
    COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
}

/// What the shim calls for each piece of log.
///
/// # Safety
///
/// `text` points to `len` readable bytes.
pub(crate) unsafe extern "C" fn receive(level: u32, text: *const libc::c_char, len: usize) {
    // SAFETY: the caller vouches for `text` and `len`.
    let bytes = unsafe { slice::from_raw_parts(text.cast::<u8>(), len) };
    let level = match level {
        0..=4 => LogLevel::Error,
        5 => LogLevel::Warning,
        6 | 7 => LogLevel::Info,
        _ => LogLevel::Debug,
    };
    for line in String::from_utf8_lossy(bytes).lines() {
        let line = line.trim();
        if !line.is_empty() {
            record(level, line);
        }
    }
}

fn record(level: LogLevel, line: &str) {
    if level <= LogLevel::Warning {
        let mut end = line.len().min(LINE_BYTES);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let mut kept = COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(line[..end].to_owned());
    }
    if let Some(sink) = *SINK.read().unwrap_or_else(PoisonError::into_inner) {
        sink(if is_advice(line) { level.max(LogLevel::Info) } else { level }, line);
    }
}

/// Lines that come as warnings on healthy machines: sizes of huge pages that were not asked for, and
/// what the AF_XDP libraries would have preferred. They explain a failure, but are no event.
fn is_advice(line: &str) -> bool {
    line.starts_with("libxdp: ")
        || line.starts_with("libbpf: ")
        || line.contains("hugepages reported on node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_kept_for_the_next_error_and_advice_is_not_alarming() {
        static SEEN: Mutex<Vec<(LogLevel, String)>> = Mutex::new(Vec::new());
        set_log_sink(|level, line| {
            SEEN.lock().unwrap().push((level, line.to_owned()));
        });
        let text = "first\n\n  libxdp: No bpffs found\nlast";
        // SAFETY: the text is as long as is said.
        unsafe { receive(5, text.as_ptr().cast(), text.len()) };
        // SAFETY: as above.
        unsafe { receive(7, text.as_ptr().cast(), 5) };
        let long = "é".repeat(400);
        // SAFETY: as above.
        unsafe { receive(4, long.as_ptr().cast(), long.len()) };
        *SINK.write().unwrap() = None;

        let kept = take_complaints();
        assert_eq!(kept[..3], ["first", "libxdp: No bpffs found", "last"]);
        assert_eq!(kept[3].len(), LINE_BYTES);
        let levels: Vec<_> = SEEN.lock().unwrap().iter().map(|(level, _)| *level).collect();
        let (warning, info) = (LogLevel::Warning, LogLevel::Info);
        assert_eq!(levels, [warning, info, warning, info, LogLevel::Error]);
    }
}
