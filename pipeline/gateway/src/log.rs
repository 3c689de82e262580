//! The log: written by control threads only, to standard error, and never faster than a person
//! could use.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::cli::{Level, LogFormat, RunArgs};
use crate::config::LogLevel;
use crate::state::Gateway;

/// Lines that one place in the code may write in one window.
const LINES_PER_WINDOW: u32 = 200;

/// The window of the rate limit.
const WINDOW: Duration = Duration::from_secs(1);

/// Starts the log of this process. Lines that the rate limit keeps back are counted in `gateway`.
pub fn start(args: &RunArgs, gateway: &Arc<Gateway>) {
    let level = match args.log_level {
        Some(level) => from_command_line(level),
        None => from_config(gateway.config.log_level),
    };
    let limit = RateLimit::new(level, gateway.clone());
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match args.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_target(false).boxed(),
        LogFormat::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_target(false).with_ansi(terminal).boxed()
        }
    };
    // A second start (tests run several gateways in one process) keeps the first log.
    let _ = tracing_subscriber::registry().with(lines.with_filter(limit)).try_init();
}

/// Starts the log of a process beside the gateway's.
pub fn start_plain(level: Level, format: LogFormat) {
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_target(false).boxed(),
        LogFormat::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_target(false).with_ansi(terminal).boxed()
        }
    };
    let lines = lines.with_filter(from_command_line(level));
    // A second start (tests run several in one process) keeps the first log.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// Lets each place in the code write so many lines a second, and counts the others.
struct RateLimit {
    level: LevelFilter,
    gateway: Arc<Gateway>,
    windows: Mutex<HashMap<Identifier, (Instant, u32)>>,
}

impl RateLimit {
    fn new(level: LevelFilter, gateway: Arc<Gateway>) -> Self {
        Self { level, gateway, windows: Mutex::default() }
    }

    fn admits(&self, place: Identifier, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, lines) = windows.entry(place).or_insert((now, 0));
        if now.saturating_duration_since(*begun) >= WINDOW {
            (*begun, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        *lines <= LINES_PER_WINDOW
    }
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let admitted = self.admits(event.metadata().callsite(), Instant::now());
        if !admitted {
            self.gateway.log_suppressed.fetch_add(1, Relaxed);
        }
        admitted
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }
}

fn from_command_line(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

fn from_config(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
