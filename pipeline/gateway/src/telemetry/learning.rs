//! The metrics of `bulkhead learn`, on an endpoint of its own.

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::thread;

use hyper::StatusCode;
use tokio::net::TcpListener;
use tokio::runtime;
use tracing::warn;

use super::families::Families;
use super::openmetrics::Format;
use super::{metrics_text, not_found, plain, serve_with};
use crate::learning::service::{Shared, Status};

/// Serves `/metrics`, `/healthz` and `/readyz` from a thread of its own, for as long as the process
/// lives.
///
/// # Errors
///
/// What stands in the way, and the remedy.
pub fn start(address: SocketAddr, status: &Shared) -> Result<(), String> {
    let failed = |error: std::io::Error| {
        format!("cannot listen at {address} for metrics: {error}; correct `listen` under `[learn]`")
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let status = Shared::clone(status);
    let answer = move |path: &str, format: Format| {
        // Copied, so that who reads slowly holds nobody up.
        let status = status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match path {
            "/metrics" => metrics_text(render_as(format, &status), format),
            "/healthz" => plain(StatusCode::OK, "alive\n"),
            "/readyz" if status.connected && status.trouble.is_none() => {
                plain(StatusCode::OK, "it learns\n")
            }
            "/readyz" => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "no gateway, or no store to write to\n")
            }
            _ => not_found(),
        }
    };
    let body = move || {
        runtime.block_on(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve_with(listener, Arc::new(answer)).await,
                Err(error) => warn!("the metrics endpoint does not serve: {error}"),
            }
        });
    };
    thread::Builder::new().name("metrics".to_owned()).spawn(body).map_err(failed)?;
    Ok(())
}

/// All metrics of the learning process in Prometheus' text format.
///
/// # Errors
///
/// What the encoder refuses.
pub fn render(status: &Status) -> prometheus::Result<String> {
    render_as(Format::Prometheus, status)
}

/// All metrics of the learning process in a text format.
///
/// # Errors
///
/// What the encoder refuses.
pub fn render_as(format: Format, status: &Status) -> prometheus::Result<String> {
    let mut families = Families::default();
    let counters = &status.counters;
    let yes = |is_so: bool| f64::from(u8::from(is_so));
    for (name, help, value) in [
        (
            "learn_connections_total",
            "Times that the gateway's stream was found.",
            status.connections,
        ),
        ("learn_flow_records_read_total", "Flow records read.", counters.flows_read),
        ("learn_frame_copies_read_total", "Copies of frames read.", counters.frames_read),
        (
            "learn_facts_lost_total",
            "Endpoints, names and services for which there was no room in memory.",
            counters.facts_dropped,
        ),
        (
            "learn_flows_not_followed_total",
            "Records of flows that count when they end, since too many were open.",
            counters.flows_not_followed,
        ),
        ("learn_edges_stored_total", "Sums of edges brought into the store.", status.edges_stored),
        ("learn_batches_total", "Batches brought into the store.", status.batches),
    ] {
        families.counter(name, help).add(&[], value as f64);
    }
    let help = "Flow records lost: before they were read, for want of room in memory, or with an earlier process that \
                ended before it had stored them.";
    families
        .counter("learn_flow_records_lost_total", help)
        .add(&[("where", "gateway")], counters.flows_lost as f64)
        .add(&[("where", "learn")], counters.flows_dropped as f64)
        .add(&[("where", "earlier_process")], counters.flows_unstored as f64);
    families
        .counter("learn_frame_copies_lost_total", "Copies of frames lost before they were read.")
        .add(&[], counters.frames_lost as f64);
    families
        .counter("learn_rows_pruned_total", "Rows that the store forgot to keep within its bounds.")
        .add(&[("table", "edges")], status.edges_pruned as f64)
        .add(&[("table", "facts")], status.facts_pruned as f64);
    let help = "Damaged stores that were set aside.";
    families.counter("learn_stores_set_aside_total", help).add(&[], status.set_aside.len() as f64);
    let help = "Records that went to an export, or were lost on the way.";
    let mut exports = families.counter("learn_export_records_total", help);
    for export in &status.exports {
        exports
            .add(&[("export", &export.name), ("result", "written")], export.written as f64)
            .add(&[("export", &export.name), ("result", "lost")], export.lost as f64);
    }
    for (name, help, value) in [
        ("learn_connected", "Whether the gateway's stream is read.", yes(status.connected)),
        (
            "learn_store_writable",
            "Whether the store can be written.",
            yes(status.trouble.is_none()),
        ),
        ("learn_open_flows", "Flows that are open and followed.", status.open_flows as f64),
        (
            "learn_edges_waiting",
            "Sums of edges that wait in memory for the store.",
            status.edges_waiting as f64,
        ),
        (
            "learn_last_store_timestamp_seconds",
            "When a batch was stored last; 0 for never.",
            status.stored_ms as f64 / 1000.0,
        ),
        (
            "learn_store_flow_records",
            "Flow records whose sums are in the store, by whichever process they were read.",
            status.flows_in_store as f64,
        ),
        ("learn_store_size_bytes", "The store and its log on disk.", store_bytes(&status.store)),
    ] {
        families.gauge(name, help).add(&[], value);
    }
    format.encode(&families.finish())
}

fn store_bytes(path: &str) -> f64 {
    let bytes = |path: String| fs::metadata(path).map_or(0, |metadata| metadata.len());
    (bytes(path.to_owned()) + bytes(format!("{path}-wal"))) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::service::ExportStatus;

    #[test]
    fn what_is_lost_is_told_apart_from_what_is_kept() {
        let mut status = Status::default();
        status.connected = true;
        status.counters.flows_read = 10;
        status.counters.flows_lost = 4;
        status.counters.flows_dropped = 2;
        status.exports.push(ExportStatus { name: "json".to_owned(), written: 5, lost: 1 });
        let text = render(&status).unwrap_or_else(|error| panic!("{error}"));
        for line in [
            "bulkhead_learn_flow_records_read_total 10",
            "bulkhead_learn_flow_records_lost_total{where=\"gateway\"} 4",
            "bulkhead_learn_flow_records_lost_total{where=\"learn\"} 2",
            "bulkhead_learn_export_records_total{export=\"json\",result=\"lost\"} 1",
            "bulkhead_learn_connected 1",
            "bulkhead_learn_store_size_bytes 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
