//! Connections: TLS, and limits in number, size and time. A client that dawdles costs a place, for a
//! while; one that floods is refused cheaply.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
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

use super::access::guard::Peer;
use super::patience::Patient;
use super::problem::Problem;
use super::sources::{Connection, Sources};
use super::{Console, api};

/// Connections at a time; see [`super::sources`] for those of one source.
const MAX_CONNECTIONS: usize = 512;

/// Requests that are worked on at a time; event streams do not count once they have begun.
const MAX_REQUESTS: usize = 64;

/// How long a TLS handshake, and a request's head, may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const HEAD_LIMIT: Duration = Duration::from_secs(15);

/// Bytes of a request's body, but where a policy is expected, and how long it may take to come.
const MAX_BODY: usize = 64 << 10;
const BODY_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer may take to begin: longer than the gateway may take for a change.
const ANSWER_LIMIT: Duration = Duration::from_secs(140);

/// How long a client may take to read anything of its answer.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// A connection ends after so long, whatever is asked; event streams are begun anew by their clients.
const CONNECTION_LIMIT: Duration = Duration::from_secs(3600);

/// What is said to a source that asks too often: the answer is the same for all, and nothing is looked up
/// for it.
const TOO_OFTEN: &str = r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"too many requests come from there","remedy":"ask less often: a page needs a few requests a second at most","retry-after-s":1}"#;

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

/// What serves every connection.
struct Serving {
    tls: Option<TlsAcceptor>,
    console: Arc<Console>,
    router: Router,
    /// Places for requests that are worked on.
    requests: Semaphore,
}

/// The other end of a connection.
struct Client {
    peer: SocketAddr,
    connection: Connection,
}

/// Serves until its runtime ends.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    console: Arc<Console>,
    router: Router,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sources = Arc::new(Sources::default());
    let requests = Semaphore::new(MAX_REQUESTS);
    let serving = Arc::new(Serving { tls, console, router, requests });
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors, commonly: others will close theirs.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Whoever finds no place is told so at once, and tries again.
        let place = Arc::clone(&places).try_acquire_owned();
        let connection = sources.connect(peer.ip(), Instant::now());
        let (Ok(place), Some(connection)) = (place, connection) else {
            serving.console.metrics.connection_refused();
            continue;
        };
        serving.console.metrics.connection();
        let serving = Arc::clone(&serving);
        tokio::spawn(async move {
            let served = serving.connection(stream, Client { peer, connection });
            if timeout(CONNECTION_LIMIT, served).await.is_err() {
                debug!(%peer, "a connection to the console was as old as one may be");
            }
            drop(place);
        });
    }
}

impl Serving {
    async fn connection(self: &Arc<Self>, stream: TcpStream, client: Client) {
        // Small answers go out at once.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, READ_LIMIT);
        let peer = client.peer;
        match &self.tls {
            None => self.http(stream, client).await,
            Some(tls) => match timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.http(stream, client).await,
                Ok(Err(error)) => debug!(%peer, "no TLS with a client of the console: {error}"),
                Err(_) => debug!(%peer, "a client of the console took too long over TLS"),
            },
        }
    }

    async fn http(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        client: Client,
    ) {
        let client = &client;
        let service = service_fn(move |request: Request<Incoming>| async move {
            let answer = self.respond(request, client).await;
            Ok::<_, Infallible>(finished(answer, &self.console))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            debug!(peer = %client.peer, "a client of the console was left: {error}");
        }
    }

    async fn respond(&self, request: Request<Incoming>, client: &Client) -> Response<Body> {
        if !client.connection.may_ask(Instant::now()) {
            self.console.metrics.too_often();
            return too_often();
        }
        // Whoever dawdles over a body has no place among those that are worked on, nor takes one from
        // others who come the same way.
        let mut request = match api::takes_a_policy(request.uri().path()) {
            true => request.map(Body::new),
            false => match whole(request).await {
                Ok(request) => request,
                Err(problem) => return problem.into_response(),
            },
        };
        let Some(_asking) = client.connection.ask() else {
            self.console.metrics.too_often();
            return too_often();
        };
        let Ok(_place) = self.requests.try_acquire() else {
            self.console.metrics.busy();
            return Problem::too_many("the console has too much to do", 1).into_response();
        };
        request.extensions_mut().insert(Peer(client.peer));
        match timeout(ANSWER_LIMIT, self.router.clone().call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => Problem::unavailable("the answer takes too long").into_response(),
        }
    }
}

/// The request with its body, all of it.
async fn whole(request: Request<Incoming>) -> Result<Request<Body>, Problem> {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return Ok(Request::from_parts(head, Body::empty()));
    }
    let too_long = || {
        let most = MAX_BODY >> 10;
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has {most} KiB at most here"))
    };
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_long());
    }
    match timeout(BODY_LIMIT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(whole)) => Ok(Request::from_parts(head, Body::from(whole.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(Problem::bad_request(format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body takes too long")),
    }
}

/// 429 to a source that asks too often.
fn too_often() -> Response<Body> {
    let mut response = Response::new(Body::from(TOO_OFTEN));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_who_asks_too_often_is_a_problem() {
        let said: serde_json::Value = serde_json::from_str(TOO_OFTEN).unwrap_or_default();
        assert_eq!((&said["status"], &said["title"]), (&429.into(), &"Too Many Requests".into()));
        assert_eq!(too_often().headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn pages_may_run_nothing_inline_and_nothing_from_elsewhere() {
        for forbidden in ["unsafe-inline", "unsafe-eval", "http:", "https:", "*"] {
            assert!(!CONTENT_POLICY.contains(forbidden), "{forbidden}");
        }
    }
}
