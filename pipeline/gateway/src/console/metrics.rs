//! What the console counts of itself, for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Console;

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    connections: AtomicU64,
    connections_refused: AtomicU64,
    answers: [AtomicU64; 5],
    busy: AtomicU64,
    too_often: AtomicU64,
    unauthenticated: AtomicU64,
    forbidden: AtomicU64,
    log_ins: AtomicU64,
    log_ins_failed: AtomicU64,
    log_ins_throttled: AtomicU64,
    streams: AtomicU64,
    streams_refused: AtomicU64,
    events: AtomicU64,
    gateway_errors: AtomicU64,
    changes: AtomicU64,
    changes_refused: AtomicU64,
    model_builds: AtomicU64,
    model_errors: AtomicU64,
    model_build_ms: AtomicU64,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $method:ident => $field:ident;)*) => {
        impl Metrics {
            $($(#[$doc])* pub fn $method(&self) {
                self.$field.fetch_add(1, Relaxed);
            })*
        }
    };
}

counts! {
    /// A connection was taken.
    connection => connections;
    /// One was not: its source has as many as one may, or asks too often.
    connection_refused => connections_refused;
    /// A request was refused because too many were worked on.
    busy => busy;
    /// A request was refused because its source asks too often.
    too_often => too_often;
    /// Somebody logged in.
    log_in => log_ins;
    /// Somebody failed to.
    log_in_failed => log_ins_failed;
    /// Somebody was told to wait.
    log_in_throttled => log_ins_throttled;
    /// A stream of events was refused.
    stream_refused => streams_refused;
    /// An event was sent.
    event => events;
    /// The gateway did not answer.
    gateway_error => gateway_errors;
    /// A change was made.
    change => changes;
    /// A change was refused.
    change_refused => changes_refused;
    /// The model could not be built.
    model_error => model_errors;
}

impl Metrics {
    /// An answer with this status was sent.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Relaxed);
    }

    /// The guard refused a request.
    pub fn refused(&self, status: u16) {
        let counter = if status == 401 { &self.unauthenticated } else { &self.forbidden };
        counter.fetch_add(1, Relaxed);
    }

    /// The model was built in so many milliseconds.
    pub fn model_built(&self, ms: u64) {
        self.model_builds.fetch_add(1, Relaxed);
        self.model_build_ms.store(ms, Relaxed);
    }

    /// Streams of events: one more, if there is room for it among `most`.
    pub fn stream(&self, most: u64) -> bool {
        let taken =
            self.streams.fetch_update(Relaxed, Relaxed, |open| (open < most).then_some(open + 1));
        taken.is_ok()
    }

    /// One less.
    pub fn stream_ended(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }
}

/// All of them, in Prometheus' text format.
pub fn render(console: &Console) -> String {
    let m = &console.metrics;
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP bulkhead_console_{name} {help}");
        let _ = writeln!(out, "# TYPE bulkhead_console_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "bulkhead_console_{name}{labels} {value}");
        }
    };
    let of = |counter: &AtomicU64| counter.load(Relaxed);
    let one = |counter: &AtomicU64| [("", of(counter))];
    let answers = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| format!("{{class=\"{class}\"}}"));
    let answers: Vec<(&str, u64)> = answers
        .iter()
        .zip(&m.answers)
        .map(|(labels, count)| (labels.as_str(), of(count)))
        .collect();
    let counter = "counter";
    family("connections_total", counter, "Connections taken.", &one(&m.connections));
    family(
        "connections_refused_total",
        counter,
        "Connections refused because their source had as many as one may, or asked too often.",
        &one(&m.connections_refused),
    );
    family("answers_total", counter, "Answers sent, by class of their status.", &answers);
    family("busy_total", counter, "Requests refused for want of room.", &one(&m.busy));
    family(
        "too_often_total",
        counter,
        "Requests refused because their source asked too often.",
        &one(&m.too_often),
    );
    family(
        "refused_total",
        counter,
        "Requests that the guard refused.",
        &[
            ("{why=\"unauthenticated\"}", of(&m.unauthenticated)),
            ("{why=\"forbidden\"}", of(&m.forbidden)),
        ],
    );
    family(
        "log_ins_total",
        counter,
        "Attempts to log in, by outcome.",
        &[
            ("{outcome=\"succeeded\"}", of(&m.log_ins)),
            ("{outcome=\"failed\"}", of(&m.log_ins_failed)),
            ("{outcome=\"throttled\"}", of(&m.log_ins_throttled)),
        ],
    );
    family("streams", "gauge", "Open streams of events.", &one(&m.streams));
    family(
        "streams_refused_total",
        counter,
        "Streams of events refused for want of room.",
        &one(&m.streams_refused),
    );
    family("events_total", counter, "Events sent.", &one(&m.events));
    family(
        "gateway_errors_total",
        counter,
        "Questions that the gateway did not answer.",
        &one(&m.gateway_errors),
    );
    family(
        "notes_lost_total",
        counter,
        "Doings at the console that the gateway's audit log could not take.",
        &[("", console.gateway.notes_lost())],
    );
    family(
        "changes_total",
        counter,
        "Changes asked of the gateway, by outcome.",
        &[
            ("{outcome=\"made\"}", of(&m.changes)),
            ("{outcome=\"refused\"}", of(&m.changes_refused)),
        ],
    );
    let sessions = console.access.sessions.count() as u64;
    family("sessions", "gauge", "Open sessions.", &[("", sessions)]);
    family(
        "model_builds_total",
        counter,
        "How often the model of the network was built.",
        &one(&m.model_builds),
    );
    family(
        "model_errors_total",
        counter,
        "How often it could not be built.",
        &one(&m.model_errors),
    );
    family(
        "model_build_milliseconds",
        "gauge",
        "What the last build took.",
        &one(&m.model_build_ms),
    );
    let size = console.model.size();
    family("model_devices", "gauge", "Devices in the model.", &[("", size.devices)]);
    family("model_edges", "gauge", "Edges in the model.", &[("", size.edges)]);
    family("model_bytes", "gauge", "Bytes of the model, estimated.", &[("", size.bytes)]);
    out
}
