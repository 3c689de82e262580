//! A console and the gateway that it asks, without a socket between test and routes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use axum::{Extension, Router};
use bulkhead_gateway::config::{ConsoleConfig, Limits, Tls};
use bulkhead_gateway::console::access::Role;
use bulkhead_gateway::console::access::guard::Peer;
use bulkhead_gateway::console::settings::Settings;
use bulkhead_gateway::console::{Console, api};
use bulkhead_gateway::flow_stream::{Event, Flow, MacAddress, Message, Side};
use bulkhead_gateway::learning::database::{Database, Retention};
use bulkhead_gateway::learning::ingest::{self, Ingest};
use bulkhead_rules::headers::Mac;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::common::{Running, policy};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    /// What came, where it is JSON.
    pub(crate) body: Value,
    pub(crate) bytes: Vec<u8>,
}

/// Who asks, with what it takes to be believed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visitor {
    pub(crate) headers: Vec<(String, String)>,
}

impl Visitor {
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut headers = self.headers.clone();
        headers.retain(|(known, _)| known != name);
        headers.push((name.to_owned(), value.to_owned()));
        Self { headers }
    }

    pub(crate) fn without(&self, name: &str) -> Self {
        Self { headers: self.headers.iter().filter(|(known, _)| known != name).cloned().collect() }
    }
}

pub(crate) struct Site {
    pub(crate) running: Running,
    pub(crate) console: Arc<Console>,
    pub(crate) folder: tempfile::TempDir,
    router: Router,
    runtime: tokio::runtime::Runtime,
}

impl Site {
    /// A gateway that observes, a store in which two clients use one server, and a console.
    pub(crate) fn new() -> Self {
        Self::prepared(|_| String::new())
    }

    /// The same with what `prepare` puts into the folder beside the policy, and adds to the configuration.
    pub(crate) fn prepared(prepare: impl FnOnce(&std::path::Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // In a test the console is the user who runs the test.
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
        std::fs::write(folder.path().join("policy.yaml"), policy(502)).unwrap();
        let more = format!("[console]\nuser = \"{uid}\"\n{}", prepare(folder.path()));
        let running = Running::start(folder.path(), "observe", &more);
        running.wait_ready();
        let store = folder.path().join("store");
        fill(&store);
        let own = folder.path().join("console");
        std::fs::create_dir(&own).unwrap();
        let settings = Settings {
            console: ConsoleConfig { folder: own, tls: Tls::Off, ..ConsoleConfig::default() },
            socket: running.socket(),
            store,
            limits: Limits::default(),
            confine: false,
            config: Some(running.gateway.config.clone()),
        };
        let console = Arc::new(Console::new(settings));
        let watched = Arc::clone(&console);
        std::thread::spawn(move || bulkhead_gateway::console::gateway::watch(&watched));
        crate::common::wait("the console knows the policy", || {
            console.gateway.policies().is_some()
        });
        let policies = console.gateway.policies();
        bulkhead_gateway::console::model::refresh(&console, policies.as_deref());
        let peer = Peer(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000));
        let router = api::router(&console).layer(Extension(peer));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { running, console, folder, router, runtime }
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        who: &Visitor,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap());
        request = request.uri(path).header("host", "console.example");
        for (name, value) in &who.headers {
            request = request.header(name, value);
        }
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        let router = self.router.clone();
        self.runtime.block_on(async {
            let response = router.oneshot(request.unwrap()).await.unwrap();
            let status = response.status().as_u16();
            let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
            let headers: HashMap<String, String> = response
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect();
            // A stream of events does not end.
            let streams =
                headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
            let bytes = match streams {
                true => Default::default(),
                false => response.into_body().collect().await.unwrap().to_bytes(),
            };
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Answer { status, headers, body, bytes: bytes.to_vec() }
        })
    }

    /// Begins to ask for what does not end: the answer's body is still to come.
    pub(crate) fn begin(&self, path: &str, who: &Visitor) -> axum::response::Response {
        let mut request = Request::builder().uri(format!("/api/v1{path}"));
        for (name, value) in &who.headers {
            request = request.header(name, value);
        }
        let request = request.body(Body::empty()).unwrap();
        self.runtime.block_on(self.router.clone().oneshot(request)).unwrap()
    }

    /// What comes of a body within a moment; [`None`] at its end.
    pub(crate) fn next(&self, body: &mut Body) -> Option<String> {
        let limit = std::time::Duration::from_millis(50);
        self.runtime.block_on(async {
            match tokio::time::timeout(limit, body.frame()).await {
                Ok(None) => None,
                Ok(Some(frame)) => {
                    let data = frame.unwrap().into_data().unwrap();
                    Some(String::from_utf8_lossy(&data).into_owned())
                }
                Err(_) => Some(String::new()),
            }
        })
    }

    pub(crate) fn get(&self, path: &str, who: &Visitor) -> Answer {
        self.ask("GET", &format!("/api/v1{path}"), who, None)
    }

    pub(crate) fn post(&self, path: &str, who: &Visitor, body: Value) -> Answer {
        self.ask("POST", &format!("/api/v1{path}"), who, Some(body))
    }

    /// Somebody with this role who is logged in.
    pub(crate) fn visitor(&self, role: Role) -> Visitor {
        self.user(&format!("the.{}", role.label()), role)
    }

    /// A user with this name who is logged in.
    pub(crate) fn user(&self, name: &str, role: Role) -> Visitor {
        let users = &self.console.access.users;
        let user = match users.find(name).unwrap() {
            Some(user) => user,
            None => users.add(name, role, PASSWORD).unwrap(),
        };
        let (cookie, session) = self.console.access.sessions.begin(&user).unwrap();
        let header = |name: &str, value: String| (name.to_owned(), value);
        Visitor {
            headers: vec![
                header("cookie", format!("bulkhead={cookie}")),
                header("x-bulkhead-csrf", session.csrf.clone()),
            ],
        }
    }
}

/// A store in which 10.20.0.11 and 10.20.0.12 use tcp/502 of 10.30.3.11; the latter is in no group.
fn fill(folder: &std::path::Path) {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let (mut database, _) = Database::open(folder, 3600, Retention::default()).unwrap();
    let mut ingest = Ingest::new(3600, ingest::Limits::default(), HashMap::new());
    for client in [11, 12] {
        ingest.add(&Message::Flow(Box::new(Flow {
            event: Event::Ended,
            first_ms: now_ms - 5000,
            last_ms: now_ms - 1000,
            wire: "line3".to_owned(),
            client_side: Side::Outside,
            vlan: [0, 0],
            ether_type: 0x0800,
            protocol: 6,
            client: Some(IpAddr::from([10, 20, 0, client])),
            server: Some(IpAddr::from([10, 30, 3, 11])),
            client_port: 40_000,
            server_port: 502,
            client_mac: MacAddress(Mac([2, 0, 0, 0, 1, client])),
            server_mac: MacAddress(Mac([2, 0, 0, 0, 0, 2])),
            opening_seen: true,
            answered: true,
            client_packets: 5,
            server_packets: 5,
            client_bytes: 300,
            server_bytes: 400,
            end: None,
            allowed: client == 11,
            reason: None,
            rule: if client == 11 { "only" } else { "default" }.to_owned(),
            epoch: 1,
            enforced: false,
            staged: None,
        })));
    }
    database.store(&ingest.take_batch(), &ingest.counters).unwrap();
}
