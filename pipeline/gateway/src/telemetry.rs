//! The metrics endpoint: `/metrics`, `/healthz`, `/readyz`.
//!
//! Metrics come in Prometheus' text format, or as OpenMetrics to those who ask for it (`Accept:
//! application/openmetrics-text`), as Prometheus itself does.
//!
//! A scrape reads what workers have written to memory; no worker notices. Connections are limited in
//! number and in time, and a slow or silent client costs a place, not a thread.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::state::Gateway;

mod failure;
mod families;
pub mod learning;
mod metrics;
mod openmetrics;

pub use learning::{render as render_learning, start as start_learning};
pub use metrics::{render, render_as};
pub use openmetrics::Format;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 32;

/// How long a client may take to send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection may last, whatever its client reads or writes meanwhile: one request and
/// its answer. It is long enough for a scrape over a slow line, and short enough that clients that
/// dawdle cannot keep the places from a scraper whose patience is its interval.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);

/// Opens the endpoint.
///
/// # Errors
///
/// What stands in the way, and the remedy.
pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, String> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = bound.map_err(|error| {
        format!(
            "cannot listen at {address} for metrics: {error}; correct `listen` under `[metrics]`"
        )
    })?;
    info!(%address, "the metrics endpoint is open");
    if !address.ip().is_loopback() {
        warn!(
            %address,
            "metrics are served to whoever reaches this address, without encryption and without asking who \
             they are: they name wires, rules and groups; a firewall must let nobody but Prometheus through"
        );
    }
    Ok(listener)
}

/// Serves clients until its runtime ends.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>) {
    serve_with(listener, Arc::new(move |path: &str, format| answer(path, format, &gateway))).await;
}

/// Serves a process' own metrics, which `render` makes, until its runtime ends.
pub async fn serve_text(
    listener: TcpListener,
    render: impl Fn() -> String + Send + Sync + 'static,
) {
    let answer = move |path: &str, _: Format| match path {
        "/metrics" => metrics_text(Ok(render()), Format::Prometheus),
        "/healthz" | "/readyz" => plain(StatusCode::OK, "alive\n"),
        _ => not_found(),
    };
    serve_with(listener, Arc::new(answer)).await;
}

/// What is answered at a path, metrics in a format.
type Answer = dyn Fn(&str, Format) -> Response<Full<Bytes>> + Send + Sync;

async fn serve_with(listener: TcpListener, answer: Arc<Answer>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    connection(stream, answer).await;
                    drop(place);
                });
            }
            // Out of descriptors, commonly: others will close theirs.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(stream: TcpStream, answer: Arc<Answer>) {
    let service = service_fn(move |request| {
        let response = respond(&request, &*answer);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(16 << 10)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a client of the metrics endpoint was left: {error}"),
        Err(_) => debug!("a client of the metrics endpoint was too slow"),
    }
}

fn respond(request: &Request<Incoming>, answer: &Answer) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
    }
    let accept = request.headers().get_all(ACCEPT).iter();
    let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
    answer(request.uri().path(), Format::accepted(&accept.join(",")))
}

fn answer(path: &str, format: Format, gateway: &Gateway) -> Response<Full<Bytes>> {
    match path {
        "/metrics" => metrics_text(render_as(format, gateway), format),
        "/healthz" if gateway.hanging().is_some() => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "a worker hangs\n")
        }
        "/healthz" => plain(StatusCode::OK, "alive\n"),
        "/readyz" if gateway.is_ready() => plain(StatusCode::OK, "the workers judge\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no worker judges\n"),
        _ => not_found(),
    }
}

fn metrics_text(rendered: prometheus::Result<String>, format: Format) -> Response<Full<Bytes>> {
    match rendered {
        Ok(text) => response(StatusCode::OK, format.content_type(), text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn not_found() -> Response<Full<Bytes>> {
    plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n")
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn response(status: StatusCode, kind: &str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    for (name, value) in [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store"), (VARY, "accept")] {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
