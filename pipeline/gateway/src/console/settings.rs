//! What the console is told: the command line, and else `[console]` of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::ConsoleArgs;
use crate::config::{Config, ConsoleConfig, Limits, Tls};
use crate::hardening::Profile;

/// What the console is told.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Its part of the configuration.
    pub console: ConsoleConfig,
    /// The gateway's control socket.
    pub socket: PathBuf,
    /// The folder of the communication store, or its file.
    pub store: PathBuf,
    /// What a policy may cost.
    pub limits: Limits,
    /// Whether the process gives up what it does not need.
    pub confine: bool,
    /// All of the configuration, as it was at the start; absent where there is none.
    pub config: Option<Config>,
}

impl Settings {
    /// Reads the configuration. Where the command line says where socket, store and folder are there
    /// need not be one.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or that plain HTTP is asked for beyond loopback.
    pub fn read(args: &ConsoleArgs) -> Result<Self, String> {
        let mut settings = match (&args.socket, &args.store, &args.dir) {
            (Some(socket), Some(store), Some(dir)) if !args.config.exists() => Self {
                console: ConsoleConfig { folder: dir.clone(), ..ConsoleConfig::default() },
                socket: socket.clone(),
                store: store.clone(),
                limits: Limits::default(),
                confine: true,
                config: None,
            },
            _ => {
                let config = Config::load(&args.config).map_err(|error| error.to_string())?;
                Self {
                    socket: config.control_socket.clone(),
                    store: config.learn.folder.clone(),
                    limits: config.limits.clone(),
                    confine: config.hardening.confine,
                    console: config.console.clone(),
                    config: Some(config),
                }
            }
        };
        if let Some(socket) = &args.socket {
            settings.socket.clone_from(socket);
        }
        if let Some(store) = &args.store {
            settings.store.clone_from(store);
        }
        if let Some(dir) = &args.dir {
            settings.console.folder.clone_from(dir);
        }
        if let Some(listen) = args.listen {
            settings.console.listen = listen;
        }
        if args.plain_http {
            settings.console.tls = Tls::Off;
        }
        let listen = settings.console.listen;
        if settings.console.tls == Tls::Off && !listen.ip().is_loopback() {
            return Err(format!(
                "error: without TLS the console listens on loopback, not at {listen}\n  = help: leave \
                 --plain-http (or `tls = \"off\"`) away, or listen at 127.0.0.1"
            ));
        }
        Ok(settings)
    }

    /// Whether connections are protected.
    pub fn is_tls(&self) -> bool {
        self.console.tls != Tls::Off
    }

    /// Whether browsers reach it over HTTPS: its own, or that of the proxy before it.
    pub fn is_reached_by_https(&self) -> bool {
        self.is_tls() || self.console.public_url.is_some()
    }

    /// What the process keeps: it reads the store and the certificate, writes its own folder, and listens.
    pub fn profile(&self, config: &std::path::Path) -> Profile {
        let mut read = vec![config.to_path_buf(), self.store.clone()];
        read.extend(self.socket.parent().map(std::path::Path::to_path_buf));
        if let Tls::Given { certificate, key } = &self.console.tls {
            read.extend([certificate.clone(), key.clone()]);
        }
        let folder = self.console.folder.clone();
        // SQLite sorts large results there.
        let write = vec![folder, PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
        let metrics = self.console.metrics;
        let listen = [Some(self.console.listen), metrics].into_iter().flatten();
        Profile::console(read, write, listen.map(|address| address.port()).collect())
    }

    /// Where browsers find it.
    pub fn address(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.console.public_url {
            return url.clone();
        }
        let scheme = if self.is_tls() { "https" } else { "http" };
        let host = match bound.ip() {
            ip if ip.is_unspecified() => host_name(),
            ip if ip.is_ipv6() => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        format!("{scheme}://{host}:{}", bound.port())
    }
}

/// This machine's name.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}
