//! The log: written by control threads only, to standard error, and never faster than a person
//! could use.
//!
//! Where standard error is the journal, entries go to it with fields of their own instead of as lines:
//! `BULKHEAD_RULE`, `BULKHEAD_WIRE` and so on, one for each field of an event, and for the few [`kind`]s
//! that somebody may want to be told of a `MESSAGE_ID`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, warn};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::cli::{Level, LogFormat, RunArgs};
use crate::config::LogLevel;
use crate::state::Gateway;

/// Kinds of events that the journal knows by a `MESSAGE_ID`: an event is of a kind by its target. The
/// identifiers are part of what operators build on (`journalctl MESSAGE_ID=…`): they never change.
pub mod kind {
    /// The policy's files are refused; what was in force stays in force.
    pub const RELOAD_REFUSED: &str = "bulkhead::reload_refused";
    /// Wires enforce by command.
    pub const LOCKDOWN: &str = "bulkhead::lockdown";
    /// Wires observe by command, or an earlier policy and its modes are back.
    pub const LOOSENED: &str = "bulkhead::loosened";
    /// A worker does not go round its ports.
    pub const WORKER_HANGS: &str = "bulkhead::worker_hangs";
    /// A wire passes frames that no worker judges, or does so no more.
    pub const BYPASS: &str = "bulkhead::bypass";

    /// Each with its `MESSAGE_ID`.
    pub const ALL: [(&str, &str); 5] = [
        (RELOAD_REFUSED, "8853bb3e28214d03b9169ed54c812019"),
        (LOCKDOWN, "32ff9199877141d5ab424d20536e02f9"),
        (LOOSENED, "1695250d205749709210ff277ae2e9f7"),
        (WORKER_HANGS, "27b8c95a86fc496f92d3b7a42a95a772"),
        (BYPASS, "c74b420eb4a4416eb9a9ef0411cd2451"),
    ];
}

/// Lines that one place in the code may write in one window.
const LINES_PER_WINDOW: u32 = 200;

/// The window of the rate limit.
const WINDOW: Duration = Duration::from_secs(1);

/// The most of a line that is repeated where others like it are left out, in bytes.
const EXAMPLE_BYTES: usize = 200;

/// The rate limit of this process' log.
static LIMIT: OnceLock<Arc<Limit>> = OnceLock::new();

/// Starts the log of this process. Lines that the rate limit keeps back are counted in `gateway`.
pub fn start(args: &RunArgs, gateway: &Arc<Gateway>) {
    let level = match args.log_level {
        Some(level) => from_command_line(level),
        None => from_config(gateway.config.log_level),
    };
    start_with(level, args.log_format, Some(gateway.clone()));
}

/// Starts the log of a process beside the gateway's.
pub fn start_plain(level: Level, format: LogFormat) {
    start_with(from_command_line(level), format, None);
}

/// Says of which lines there were more than the rate limit lets through, and how many more. Called
/// about once a second: a filter cannot write lines of its own.
pub fn tell_left_out() {
    let Some(limit) = LIMIT.get() else { return };
    for (count, example) in limit.left_out(Instant::now()) {
        warn!(count, "so many more lines were left out like: {example}");
    }
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

fn start_with(level: LevelFilter, format: LogFormat, gateway: Option<Arc<Gateway>>) {
    let limit = Arc::new(Limit { gateway, ..Limit::default() });
    let admit = |only| Admission { level, only, limit: limit.clone() };
    let journal = match format {
        LogFormat::Text if is_the_journal(std::io::stderr()) => journal(&admit),
        LogFormat::Text | LogFormat::Json => None,
    };
    let layers = journal.unwrap_or_else(|| {
        let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
        let lines: Boxed = match format {
            LogFormat::Json => {
                lines.json().flatten_event(true).with_filter(admit(Only::All)).boxed()
            }
            LogFormat::Text => {
                let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
                lines.with_ansi(terminal).with_filter(admit(Only::All)).boxed()
            }
        };
        vec![lines]
    });
    // A second start (tests run several gateways in one process) keeps the first log.
    if tracing_subscriber::registry().with(layers).try_init().is_ok() {
        let _ = LIMIT.set(limit);
    }
}

/// A way to the journal for each kind of event, and one for all others; [`None`] where it does not
/// answer.
fn journal(admit: &dyn Fn(Only) -> Admission) -> Option<Vec<Boxed>> {
    let layer = || tracing_journald::layer().ok();
    let mut layers: Vec<Boxed> = Vec::new();
    for (kind, id) in kind::ALL {
        let layer = dressed(layer()?).with_custom_fields([("MESSAGE_ID", id)]);
        layers.push(layer.with_filter(admit(Only::Kind(kind))).boxed());
    }
    layers.push(dressed(layer()?).with_filter(admit(Only::NoKind)).boxed());
    Some(layers)
}

/// The priorities are those that `journalctl -p` is asked for: 3 error, 4 warning, 6 information.
fn dressed(layer: tracing_journald::Layer) -> tracing_journald::Layer {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    layer
        .with_field_prefix(Some("BULKHEAD".to_owned()))
        .with_syslog_identifier("bulkhead".to_owned())
        .with_priority_mappings(priorities)
}

/// Whether what is written to `output` goes to the journal: systemd.exec(5) has the service compare
/// `JOURNAL_STREAM` with what the descriptor is.
pub fn is_the_journal(output: impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(output) = output.as_fd().try_clone_to_owned() else { return false };
    let Ok(metadata) = File::from(output).metadata() else { return false };
    is_stream(&stream, metadata.dev(), metadata.ino())
}

/// Whether `stream`, device and inode with a colon between them, is that one.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    let Some((d, i)) = stream.split_once(':') else { return false };
    d.parse() == Ok(device) && i.parse() == Ok(inode)
}

/// Lets each place in the code write so many lines a second, and counts the others.
#[derive(Default)]
struct Limit {
    gateway: Option<Arc<Gateway>>,
    windows: Mutex<HashMap<Identifier, Window>>,
    /// Whether lines were left out that nobody was told of.
    is_owing: AtomicBool,
}

/// What one place has written.
struct Window {
    begun: Instant,
    lines: u32,
    /// Lines that were left out, since that was told.
    left_out: u64,
    /// The first of them.
    example: String,
}

impl Limit {
    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Window { begun: now, lines: 0, left_out: 0, example: String::new() };
        let window = windows.entry(event.metadata().callsite()).or_insert_with(new);
        if now.saturating_duration_since(window.begun) >= WINDOW {
            (window.begun, window.lines) = (now, 0);
        }
        window.lines = window.lines.saturating_add(1);
        if window.lines <= LINES_PER_WINDOW {
            return true;
        }
        if window.left_out == 0 {
            event.record(&mut Example(&mut window.example));
        }
        window.left_out += 1;
        self.is_owing.store(true, Relaxed);
        if let Some(gateway) = &self.gateway {
            gateway.log_suppressed.fetch_add(1, Relaxed);
        }
        false
    }

    /// What was left out in windows that are over, by place: how much, and an example.
    fn left_out(&self, now: Instant) -> Vec<(u64, String)> {
        if !self.is_owing.load(Relaxed) {
            return Vec::new();
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |window: &Window| now.saturating_duration_since(window.begun) >= WINDOW;
        let over = windows.values_mut().filter(|w| w.left_out > 0 && is_over(w));
        let told = over
            .map(|window| {
                (std::mem::take(&mut window.left_out), std::mem::take(&mut window.example))
            })
            .collect();
        self.is_owing.store(windows.values().any(|window| window.left_out > 0), Relaxed);
        told
    }
}

/// Writes an event's message, and its fields after it, to the length of an example.
struct Example<'a>(&'a mut String);

impl Visit for Example<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if self.0.len() >= EXAMPLE_BYTES {
            return;
        }
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
        if self.0.len() > EXAMPLE_BYTES {
            let end = (0..=EXAMPLE_BYTES).rev().find(|&at| self.0.is_char_boundary(at));
            self.0.truncate(end.unwrap_or_default());
            self.0.push('…');
        }
    }
}

/// Which events a layer is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    All,
    Kind(&'static str),
    NoKind,
}

/// What one layer writes.
struct Admission {
    level: LevelFilter,
    only: Only,
    limit: Arc<Limit>,
}

impl<S: Subscriber> Filter<S> for Admission {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        let is_for_it = match self.only {
            Only::All => true,
            Only::Kind(kind) => metadata.target() == kind,
            Only::NoKind => kind::ALL.iter().all(|(kind, _)| metadata.target() != *kind),
        };
        is_for_it && *metadata.level() <= self.level
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.limit.admits(event, Instant::now())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tracing::subscriber::with_default;
    use tracing::{error, info};

    use super::*;

    #[derive(Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = String::new();
            event.record(&mut Example(&mut line));
            self.0.lock().unwrap().push(line);
        }
    }

    /// What layers for `only` let through of what `write` writes.
    fn written(only: Only, limit: &Arc<Limit>, write: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let kept = lines.0.clone();
        let admission = Admission { level: LevelFilter::INFO, only, limit: limit.clone() };
        with_default(tracing_subscriber::registry().with(lines.with_filter(admission)), write);
        kept.lock().unwrap().clone()
    }

    #[test]
    fn a_chatty_place_is_cut_short_and_what_was_left_out_is_told_once() {
        let limit = Arc::new(Limit::default());
        let lines = written(Only::All, &limit, || {
            for n in 0..LINES_PER_WINDOW + 50 {
                info!(n, "verdict");
            }
            info!("somebody else");
        });
        // A slow machine may need more than one window, so that less is left out.
        let left_out: u64 = {
            let windows = limit.windows.lock().unwrap();
            windows.values().map(|window| window.left_out).sum()
        };
        assert_eq!(lines.len() as u64 + left_out, u64::from(LINES_PER_WINDOW) + 51);
        assert_eq!(lines.last().map(String::as_str), Some("somebody else "));
        let told = limit.left_out(Instant::now() + WINDOW);
        assert_eq!(told.iter().map(|(count, _)| count).sum::<u64>(), left_out);
        assert!(told.iter().all(|(_, example)| example.starts_with("verdict n=")), "{told:?}");
        assert_eq!(limit.left_out(Instant::now() + WINDOW * 2), []);
    }

    #[test]
    fn an_event_of_a_kind_goes_to_its_layer_and_no_other() {
        let limit = Arc::new(Limit::default());
        let write = || {
            error!(target: kind::WORKER_HANGS, worker = 1, "it hangs");
            error!("something else");
            tracing::debug!(target: kind::WORKER_HANGS, "too much detail");
        };
        let hangs = ["it hangs worker=1 ".to_owned()];
        assert_eq!(written(Only::Kind(kind::WORKER_HANGS), &limit, write), hangs);
        assert_eq!(written(Only::Kind(kind::LOCKDOWN), &limit, write), [""; 0]);
        assert_eq!(written(Only::NoKind, &limit, write), ["something else ".to_owned()]);
        assert_eq!(written(Only::All, &limit, write).len(), 2);
    }

    #[test]
    fn message_identifiers_are_what_the_journal_takes() {
        let distinct: BTreeSet<_> = kind::ALL.iter().map(|(_, id)| id).collect();
        assert_eq!(distinct.len(), kind::ALL.len());
        let is_id =
            |id: &str| id.len() == 32 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        assert!(kind::ALL.iter().all(|(_, id)| is_id(id)));
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_stream("9:41255", 9, 41_255));
        for other in ["9:41256", "8:41255", "9:", ":41255", "9", "", "9:41255:1", "x:y"] {
            assert!(!is_stream(other, 9, 41_255), "{other}");
        }
    }

    #[test]
    fn an_example_is_short_whatever_the_line() {
        let limit = Arc::new(Limit::default());
        let long = "ü".repeat(5000);
        let lines = written(Only::All, &limit, || info!("{long}"));
        assert!(lines[0].len() <= EXAMPLE_BYTES + '…'.len_utf8(), "{}", lines[0].len());
    }
}
