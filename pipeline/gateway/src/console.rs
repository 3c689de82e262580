//! `bulkhead console`: what an operator opens. A process of its own, which asks the gateway over its control
//! socket and reads the communication store; when it dies, packets still flow.
//!
//! Read it in the order in which a request passes:
//!
//! 1. [`serve`]: connections and their limits, those of [`sources`] too, with the [`certificate`] of
//!    [`settings`].
//! 2. [`api`]: the routes, by who may ask for them, and the document that describes them.
//! 3. [`access`]: users, sessions, tokens, and the guard before every route but three.
//! 4. [`gateway`]: what the gateway is asked, and [`overview`], what it tells each second; [`events`] are
//!    the same, live.
//! 5. [`model`]: the network of the communication store as it is shown; [`proposals`] and [`drifts`]: what
//!    learning makes of it.
//! 6. [`assets`]: the web application, which is embedded in the binary.
//!
//! [`problem`] is what every error looks like, [`metrics`] what is counted, and [`users`] the commands for
//! who is locked out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use axum::Json;
use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use self::access::{Access, Caller, Role};
use self::drifts::Drifts;
use self::events::Events;
use self::gateway::Gateway;
use self::metrics::Metrics;
use self::model::Models;
use self::problem::Problem;
use self::proposals::Proposals;
use self::settings::Settings;
use crate::cli::{CONFIG_PATH, Level, LogFormat, exit};
use crate::workflow::{Change, ChangeReport};
use crate::{hardening, telemetry};

pub mod access;
pub mod api;
mod assets;
mod certificate;
pub mod drifts;
pub mod events;
pub mod gateway;
pub mod metrics;
pub mod model;
mod notes;
pub mod overview;
mod patience;
pub mod problem;
pub mod proposals;
pub mod serve;
pub mod settings;
pub mod sources;
pub mod users;

/// Passwords that are hashed at a time: each takes 19 MiB.
const HASHING: usize = 2;

/// Log-ins that are worked on, or wait for that, at a time.
const LOG_INS: usize = 8;

/// Answers that take a while and are made at a time.
const HEAVY: usize = 2;

/// How long a console that ends waits for the gateway to take its last notes.
const NOTES_LIMIT: Duration = Duration::from_secs(3);

/// Threads that serve.
const THREADS: usize = 2;

/// What `console` is told.
#[derive(Args, Clone, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "At its first start it prints a one-time link: whoever opens it first becomes the \
    administrator. It needs no power but to connect to the gateway's control socket and to read the \
    communication store."
)]
pub struct ConsoleArgs {
    #[command(subcommand)]
    command: Option<ConsoleCommand>,
    /// The gateway's configuration
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH, global = true)]
    pub config: PathBuf,
    /// The gateway's control socket; without it, the one that the configuration names
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The communication store: its file or its folder; without it, the one that the configuration names
    #[arg(long, value_name = "PATH")]
    pub store: Option<PathBuf>,
    /// The console's own folder; without it, the one that the configuration names
    #[arg(long, value_name = "FOLDER", global = true)]
    pub dir: Option<PathBuf>,
    /// Where to listen, in the place of what the configuration says
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// Serve plain HTTP, on loopback only
    #[arg(long)]
    pub plain_http: bool,
    /// Print the description of the API (OpenAPI) and end
    #[arg(long)]
    pub openapi: bool,
    /// Print a new one-time link, in the place of an older one, and end
    #[arg(long)]
    pub setup_link: bool,
    /// What is logged
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "info")]
    pub log_level: Level,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Subcommand, Clone, Debug)]
enum ConsoleCommand {
    /// Make, change, list and remove the console's users, on the machine itself
    User(users::UserArgs),
}

/// The console.
#[derive(Debug)]
pub struct Console {
    /// What it is told.
    pub settings: Settings,
    /// Who may use it.
    pub access: Access,
    /// The gateway.
    pub gateway: Gateway,
    /// The network.
    pub model: Models,
    /// What learning proposes.
    pub proposals: Proposals,
    /// What it makes of denials.
    pub drifts: Drifts,
    /// Live events.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// Places for those whose password is hashed.
    pub hashing: Arc<Semaphore>,
    /// Places for answers that take a while.
    pub heavy: Arc<Semaphore>,
    /// Places for those who send the texts of a policy.
    pub policy_bodies: Semaphore,
    /// Places for those who log in or wait for that.
    pub log_ins: Semaphore,
    /// The place for what has learning run.
    pub learning: Arc<Semaphore>,
    /// The place for whoever has a report made.
    pub reports: Arc<Semaphore>,
    /// The report that was made last, where that took long.
    pub made_reports: api::report::Reports,
    /// The place for whoever captures packets: the gateway follows them for one at a time.
    pub captures: Semaphore,
}

impl Console {
    /// A console that has asked nobody yet.
    pub fn new(settings: Settings) -> Self {
        let console = &settings.console;
        Self {
            access: Access::new(&console.folder, console.session_idle, console.session_limit),
            gateway: Gateway::new(settings.socket.clone()),
            model: Models::default(),
            proposals: Proposals::default(),
            drifts: Drifts::default(),
            events: Events::default(),
            metrics: Metrics::default(),
            hashing: Arc::new(Semaphore::new(HASHING)),
            heavy: Arc::new(Semaphore::new(HEAVY)),
            policy_bodies: Semaphore::new(api::POLICY_BODIES),
            log_ins: Semaphore::new(LOG_INS),
            learning: Arc::new(Semaphore::new(1)),
            reports: Arc::new(Semaphore::new(1)),
            made_reports: api::report::Reports::default(),
            captures: Semaphore::new(1),
            settings,
        }
    }

    /// Has the gateway change something.
    ///
    /// # Errors
    ///
    /// 409 where it refuses, 503 where it does not answer.
    pub async fn change(
        &self,
        caller: &Caller,
        change: Change,
        reason: String,
        force: bool,
    ) -> Result<Json<ChangeReport>, Problem> {
        let changed = self.gateway.change(caller, change, reason, force).await;
        match &changed {
            Ok(_) => self.metrics.change(),
            Err(_) => self.metrics.change_refused(),
        }
        changed.map(Json)
    }
}

/// Serves, or does what a sub-command says. Returns the exit code.
pub fn main(args: &ConsoleArgs) -> u8 {
    if args.openapi {
        return match api::document_text() {
            Ok(text) => {
                print!("{text}");
                exit::OK
            }
            Err(error) => refused(&error),
        };
    }
    let settings = match Settings::read(args) {
        Ok(settings) => settings,
        Err(message) => return refused(&message),
    };
    if let Err(error) = make_folder(&settings) {
        eprintln!("{error}");
        return exit::UNAVAILABLE;
    }
    match &args.command {
        Some(ConsoleCommand::User(user)) => return users::main(user, &settings),
        None if args.setup_link => return print_link(&settings),
        None => {}
    }
    if let Err(message) = users::check_who_serves(&settings) {
        return refused(&message);
    }
    crate::log::start_plain(args.log_level, args.log_format);
    if settings.confine {
        hardening::confine(&settings.profile(&args.config));
    }
    match run(settings) {
        Ok(()) => exit::OK,
        Err(message) => {
            error!("{message}");
            exit::UNAVAILABLE
        }
    }
}

fn refused(message: &str) -> u8 {
    eprintln!("{message}");
    exit::REFUSED
}

fn make_folder(settings: &Settings) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = &settings.console.folder;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        format!("error: cannot make the console's folder {}: {error}", folder.display())
    })
}

fn print_link(settings: &Settings) -> u8 {
    let made =
        users::become_its_user(settings).and_then(|()| link(settings, settings.console.listen));
    match made {
        Ok(link) => {
            println!("{link}");
            exit::OK
        }
        Err(error) => {
            eprintln!("error: {error}");
            exit::UNAVAILABLE
        }
    }
}

/// A new one-time link.
fn link(settings: &Settings, bound: std::net::SocketAddr) -> Result<String, String> {
    let setup = access::setup::Setup::new(&settings.console.folder);
    let secret = setup.begin()?;
    // After the number sign: browsers send it to nobody, and proxies do not log it.
    Ok(format!("{}/setup#{secret}", settings.address(bound)))
}

/// Prints the one-time link; but not into the journal, which others read, and which may be sent away.
fn tell_how_to_set_up(settings: &Settings, bound: std::net::SocketAddr) -> Result<(), String> {
    if crate::log::is_the_journal(std::io::stdout()) {
        println!(
            "set up the console, once: on this machine, `sudo bulkhead console --setup-link` prints a \
             link that is good for a day"
        );
    } else {
        println!("set up the console, once, within a day: {}", link(settings, bound)?);
    }
    Ok(())
}

fn run(settings: Settings) -> Result<(), String> {
    let protection = certificate::load(&settings)?;
    let address = settings.console.listen;
    let listener = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    });
    let (listener, bound) = listener.map_err(|error| {
        format!("cannot listen at {address}: {error}; correct `listen` under [console]")
    })?;
    let metrics = settings.console.metrics.map(telemetry::bind).transpose()?;
    let console = Arc::new(Console::new(settings));
    for (name, body) in [("gateway", gateway::watch as fn(&Console)), ("model", model::keep_up)] {
        let console = Arc::clone(&console);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || body(&console));
        thread.map_err(|error| format!("cannot start the thread `{name}`: {error}"))?;
    }
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the threads that serve: {error}"))?;
    let shown = console.settings.address(bound);
    runtime
        .block_on(async {
            let listener = TcpListener::from_std(listener).map_err(|error| error.to_string())?;
            if let Some(metrics) = metrics {
                let metrics = TcpListener::from_std(metrics).map_err(|error| error.to_string())?;
                let console = Arc::clone(&console);
                tokio::spawn(telemetry::serve_text(metrics, move || metrics::render(&console)));
            }
            let acceptor = protection.as_ref().map(|protection| protection.acceptor.clone());
            let router = api::router(&console);
            info!("the console is at {shown}");
            if let Some(protection) = &protection {
                info!("its certificate has the SHA-256 fingerprint {}", protection.fingerprint);
            }
            if !assets::are_there() {
                warn!("this binary was built without the web application: only the API is there");
            }
            if console.access.users.lack_an_admin()? {
                tell_how_to_set_up(&console.settings, bound)?;
            }
            crate::notice::ready("serving");
            tokio::spawn(serve::serve(listener, acceptor, Arc::clone(&console), router));
            let wait =
                |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
            let (mut term, mut interrupt) =
                (wait(SignalKind::terminate())?, wait(SignalKind::interrupt())?);
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            crate::notice::stopping();
            console.gateway.finish_notes(NOTES_LIMIT);
            Ok(())
        })
        .inspect(|()| runtime.shutdown_background())
}

/// The least role that may ask for something, as the document says it; for tests of every route.
pub fn role_of(label: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|role| role.label() == label)
}
