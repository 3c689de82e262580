//! Connections: TLS, and limits in number, size and time. A client that dawdles costs a place, for a
//! while; one that floods is refused cheaply.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::Service as _;
use tracing::debug;

use super::Console;
use super::access::guard::Peer;
use super::problem::Problem;

/// Connections at a time, and from one address.
const MAX_CONNECTIONS: usize = 512;
const MAX_OF_ADDRESS: usize = 64;

/// Requests that are worked on at a time; event streams do not count once they have begun.
const MAX_REQUESTS: usize = 64;

/// How long a TLS handshake, and a request's head, may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const HEAD_LIMIT: Duration = Duration::from_secs(15);

/// How long an answer may take to begin: longer than the gateway may take for a change.
const ANSWER_LIMIT: Duration = Duration::from_secs(140);

/// A connection ends after so long, whatever is asked; event streams are begun anew by their clients.
const CONNECTION_LIMIT: Duration = Duration::from_secs(3600);

/// What pages of the console may do: run its own scripts, use its own styles, talk to it. Nothing inline,
/// nothing evaluated, nothing from elsewhere, in nobody's frame.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; \
    worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Headers of every answer.
const HEADERS: [(&str, &str); 8] = [
    ("content-security-policy", CONTENT_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
];

/// Serves until its runtime ends.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    console: Arc<Console>,
    router: Router,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let requests = Arc::new(Semaphore::new(MAX_REQUESTS));
    let addresses = Arc::new(Addresses::default());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors, commonly: others will close theirs.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(counted) = Addresses::enter(&addresses, peer.ip()) else {
            console.metrics.connection_refused();
            continue;
        };
        console.metrics.connection();
        let (console, router) = (Arc::clone(&console), router.clone());
        let (tls, requests) = (tls.clone(), Arc::clone(&requests));
        tokio::spawn(async move {
            let served =
                timeout(CONNECTION_LIMIT, connection(stream, peer, tls, console, router, requests));
            if served.await.is_err() {
                debug!(%peer, "a connection to the console was as old as one may be");
            }
            drop((place, counted));
        });
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    console: Arc<Console>,
    router: Router,
    requests: Arc<Semaphore>,
) {
    // Small answers go out at once.
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(stream, peer, console, router, requests).await,
        Some(tls) => match timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
            Ok(Ok(stream)) => http(stream, peer, console, router, requests).await,
            Ok(Err(error)) => debug!(%peer, "no TLS with a client of the console: {error}"),
            Err(_) => debug!(%peer, "a client of the console took too long over TLS"),
        },
    }
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    console: Arc<Console>,
    router: Router,
    requests: Arc<Semaphore>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (console, router, requests) =
            (Arc::clone(&console), router.clone(), Arc::clone(&requests));
        async move {
            let answer = respond(request, peer, &console, router, &requests).await;
            Ok::<_, Infallible>(finished(answer, &console))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%peer, "a client of the console was left: {error}");
    }
}

async fn respond(
    request: Request<Incoming>,
    peer: SocketAddr,
    console: &Console,
    mut router: Router,
    requests: &Semaphore,
) -> Response<Body> {
    let Ok(_place) = requests.try_acquire() else {
        console.metrics.busy();
        return Problem::too_many("the console has too much to do", 1).into_response();
    };
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Peer(peer));
    match timeout(ANSWER_LIMIT, router.call(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => Problem::unavailable("the answer takes too long").into_response(),
    }
}

fn finished(mut response: Response<Body>, console: &Console) -> Response<Body> {
    console.metrics.answered(response.status().as_u16());
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    // A certificate of its own is nothing that a browser should insist on.
    if matches!(console.settings.console.tls, crate::config::Tls::Given { .. }) {
        let value = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
    response
}

/// Connections of each address.
#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<IpAddr, usize>>);

/// A connection that is counted for as long as this lives.
struct Counted {
    of: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    fn enter(of: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let mut counts = of.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= MAX_OF_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Counted { of: Arc::clone(of), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_connections() {
        let addresses = Arc::new(Addresses::default());
        let enter = |last: u8| Addresses::enter(&addresses, IpAddr::from([192, 0, 2, last]));
        let mut all: Vec<_> = (0..MAX_OF_ADDRESS).map(|_| enter(1)).collect();
        assert!(all.iter().all(Option::is_some) && enter(1).is_none() && enter(2).is_some());
        all.pop();
        assert!(enter(1).is_some());
        all.clear();
        let counts = addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(counts.is_empty(), "nothing is remembered of who went");
    }

    #[test]
    fn pages_may_run_nothing_inline_and_nothing_from_elsewhere() {
        for forbidden in ["unsafe-inline", "unsafe-eval", "http:", "https:", "*"] {
            assert!(!CONTENT_POLICY.contains(forbidden), "{forbidden}");
        }
    }
}
