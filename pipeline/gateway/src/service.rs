//! The one thread on which everything that listens runs: the metrics endpoint and the control
//! socket. It touches nothing that a worker waits for.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::control::{self, Rights, SocketFile};
use crate::reload::Request;
use crate::state::Gateway;
use crate::telemetry;

/// How long the listeners may take to close.
const END_LIMIT: Duration = Duration::from_millis(500);

/// What listens; it ends when this is dropped.
pub struct Service {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    sockets: Vec<SocketFile>,
}

impl Service {
    /// Ends it, and waits a moment until others may listen there.
    pub fn end(self) {
        drop((self.end, self.sockets));
        let begun = Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < END_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Opens the listeners and serves them on a thread of their own.
///
/// # Errors
///
/// What cannot be opened, and the remedy.
pub fn start(gateway: Arc<Gateway>, requests: Sender<Request>) -> Result<Service, String> {
    let config = &gateway.config;
    let groups = &config.hardening;
    let socket = control::bind(&config.control_socket, groups.control_group.as_deref())?;
    let mut files = vec![SocketFile(config.control_socket.clone())];
    let mut sockets = vec![(socket, Rights::Change)];
    if let Some(group) = &groups.control_read_group {
        let path = control::questions_beside(&config.control_socket);
        sockets.push((control::bind_questions(&path, group)?, Rights::Question));
        files.push(SocketFile(path));
    }
    info!(socket = %config.control_socket.display(), "the control socket is open");
    let http = config.metrics.listen.map(telemetry::bind).transpose()?;
    let (end, ended) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        // Those that wait for a reload; each client has one at most.
        .max_blocking_threads(32)
        .build()
        .map_err(|error| format!("cannot start the service thread: {error}"))?;
    let body = move || {
        gateway.lower_powers();
        runtime.block_on(async move {
            for (socket, rights) in sockets {
                match UnixListener::from_std(socket) {
                    Ok(socket) => {
                        let (gateway, requests) = (gateway.clone(), requests.clone());
                        tokio::spawn(control::serve(socket, rights, gateway, requests));
                    }
                    Err(error) => warn!("a control socket does not serve: {error}"),
                }
            }
            if let Some(http) = http {
                match TcpListener::from_std(http) {
                    Ok(http) => {
                        tokio::spawn(telemetry::serve(http, gateway));
                    }
                    Err(error) => warn!("the metrics endpoint does not serve: {error}"),
                }
            }
            // Ends with the sender, whether it said so or was dropped.
            let _ = ended.await;
        });
        // Whoever still waits for a reload is not waited for.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("service".to_owned()).spawn(body);
    let thread = thread.map_err(|error| format!("cannot start the service thread: {error}"))?;
    Ok(Service { end, thread, sockets: files })
}
