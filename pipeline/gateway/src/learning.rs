//! `bulkhead learn`: keeps what the gateway tells about flows, and who is there.
//!
//! A process of its own: when it dies, packets still flow, and it goes on from its store. Read the
//! modules in the order in which a record passes:
//!
//! 1. [`service`]: off the gateway's socket, through two bounded queues, into the store.
//! 2. [`ingest`]: records to sums for each edge and period; [`application`] tells what a first payload
//!    is, [`announce`] what hosts say of themselves.
//! 3. [`database`]: the communication store.
//!
//! From captures instead of a gateway: [`captures`].
//!
//! What is read back: [`report`] opens the store, [`identity`] says which endpoints are one device
//! ([`vendor`] who made it), [`direction`] which end serves, [`model`] gives the learner what it learns from, and [`proposal`] makes
//! policy text of it, with [`templates`] for what is sent to everybody.

pub mod announce;
pub mod application;
pub mod captures;
pub mod database;
pub mod direction;
pub mod identity;
pub mod ingest;
pub mod model;
pub mod proposal;
pub mod report;
pub mod service;
mod socket;
pub mod table;
pub mod templates;
pub mod vendor;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use tracing::error;

use crate::cli::{CONFIG_PATH, Level, LogFormat, exit};
use crate::config::{Config, LearnConfig};
use crate::export::Exports;
use crate::hardening::{self, Profile};
use crate::replay::sides::Inside;
use crate::telemetry;
use service::{Settings, Shared};

/// What `learn` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "It reads the records that `bulkhead run` writes to its records socket, waits for a \
    gateway that is not there, and keeps them in an SQLite file that others may read meanwhile."
)]
pub struct LearnArgs {
    /// The gateway's configuration
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    /// The gateway's socket of records; without it, the one that the configuration names
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The folder of the communication store; without it, the one that the configuration names
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Make a store of captures (pcap or pcapng, plain or in gzip, or folders of them) in --dir,
    /// instead of listening to a gateway
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "dir", conflicts_with = "status")]
    pub from_capture: Vec<PathBuf>,
    /// Who is on the inside port in the captures, repeatable; without it, a host is on the side on
    /// which it is first seen
    #[arg(long, value_name = "CIDR|MAC", requires = "from_capture")]
    pub inside: Vec<Inside>,
    /// Ask the process that runs what it does
    #[arg(long)]
    pub status: bool,
    /// Print JSON, with --status and --from-capture
    #[arg(long)]
    pub json: bool,
    /// What is logged
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "info")]
    pub log_level: Level,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// Runs the service, or asks one. Returns the exit code.
pub fn main(args: &LearnArgs) -> u8 {
    if let (Some(folder), [_, ..]) = (&args.dir, args.from_capture.as_slice()) {
        return import(args, folder);
    }
    let (settings, listen, mut exports) = match settings(args) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("{message}");
            return exit::REFUSED;
        }
    };
    if args.status {
        return socket::show(&settings.folder, args.json);
    }
    crate::log::start_plain(args.log_level, args.log_format);
    // Where the command line says everything, there need not be a configuration.
    if let Some(config) = Config::load(&args.config).ok().filter(|config| config.hardening.confine)
    {
        hardening::confine(&Profile::learn(&config, &args.config, &settings.folder));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            error!("cannot listen for signals: {error}");
            return exit::UNAVAILABLE;
        }
    }
    let status = Shared::default();
    socket::serve(&settings.folder, &status);
    if let Some(Err(error)) = listen.map(|address| telemetry::start_learning(address, &status)) {
        error!("{error}");
        return exit::UNAVAILABLE;
    }
    crate::notice::ready("learning");
    let ran = service::run(&settings, &status, &stop, &mut exports);
    crate::notice::stopping();
    match ran {
        Ok(()) => exit::OK,
        Err(error) => {
            error!("{error}");
            exit::UNAVAILABLE
        }
    }
}

fn import(args: &LearnArgs, folder: &Path) -> u8 {
    match captures::import(&args.from_capture, &args.inside, folder) {
        Ok(imported) => {
            if args.json {
                crate::control::client::print_json(&imported);
            } else {
                println!(
                    "{} captures, {} frames: {} records of flows, {} copies of frames, in periods \
                     of {} s",
                    imported.captures,
                    imported.frames,
                    imported.flow_records,
                    imported.copies,
                    imported.period_s,
                );
            }
            imported.errors.iter().for_each(|error| eprintln!("error: {error}"));
            if imported.errors.is_empty() { exit::OK } else { exit::UNAVAILABLE }
        }
        Err(report::Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

/// What the command line says, and else the configuration. Where it says everything there need not
/// be a configuration.
fn settings(args: &LearnArgs) -> Result<(Settings, Option<SocketAddr>, Exports), String> {
    let (socket, learn, exports) = match (&args.socket, &args.dir) {
        (Some(socket), Some(dir)) if !args.config.exists() => {
            let learn = LearnConfig { folder: dir.clone(), ..LearnConfig::default() };
            (socket.clone(), learn, Exports::default())
        }
        (socket, dir) => {
            let config = Config::load(&args.config).map_err(|error| error.to_string())?;
            let socket = socket.clone().or(config.records.socket).ok_or(
                "error: the configuration says `records-socket = \"off\"`: there is nothing to \
                 learn from",
            )?;
            let folder = dir.clone().unwrap_or(config.learn.folder);
            (socket, LearnConfig { folder, ..config.learn }, Exports::new(&config.export))
        }
    };
    let settings = Settings {
        socket,
        folder: learn.folder,
        retention: learn.retention,
        period_s: learn.period_s,
        limits: ingest::Limits::default(),
        interval: Duration::from_secs(1),
    };
    Ok((settings, learn.listen, exports))
}

/// A time for people: UTC, to the second.
pub fn time_text(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => unix_ms.to_string(),
    }
}
