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
        sink(level, line);
    }
}
