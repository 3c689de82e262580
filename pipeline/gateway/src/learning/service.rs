//! The process `bulkhead learn`: three threads around two bounded queues.
//!
//! The reader takes messages off the gateway's socket, the middle one sums them up, the writer brings
//! a batch a second into the store. A store that cannot be written stops neither of the others: one
//! batch waits with the writer, the next one grows in memory up to its limits, and what goes beyond
//! them is counted. A gateway that is not there is asked again, with growing patience.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::database::{Database, Kind, Retention, StoreError};
use super::ingest::{Batch, Counters, Ingest, Limits};
use crate::candidate::unix_now_ms;
use crate::export::Exports;
use crate::flow_stream::{self, Message, StreamError};

/// Messages that may wait between reader and summing. When they do, the gateway's own queue fills,
/// and it counts what it loses.
const QUEUE: usize = 16_384;

/// Seconds of one period in the store.
pub const PERIOD_S: u32 = 3600;

/// How long the service waits before it asks again, at first and at most: for the gateway, and for
/// a store that could not be written.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How often trouble that goes on is logged again.
const REMINDER: Duration = Duration::from_secs(60);

/// How often the retention is looked at.
const PRUNING: Duration = Duration::from_secs(600);

/// How long the writer may take for the last batch when the process ends.
const FAREWELL: Duration = Duration::from_secs(10);

/// What the service is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's socket of records.
    pub socket: PathBuf,
    /// The folder of the store.
    pub folder: PathBuf,
    /// What the store keeps.
    pub retention: Retention,
    /// Seconds of a period of a store that is begun; one that is there keeps its own.
    pub period_s: u32,
    /// What may wait in memory.
    pub limits: Limits,
    /// How often a batch is stored.
    pub interval: Duration,
}

/// What the service does, for people and programs.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Status {
    /// Whether the gateway's stream is read.
    pub connected: bool,
    /// Connections so far.
    pub connections: u64,
    /// The gateway's version.
    pub gateway: String,
    /// What was counted since the process began.
    pub counters: Counters,
    /// Flows that are open.
    pub open_flows: u64,
    /// Sums of edges that wait for the store.
    pub edges_waiting: u64,
    /// Sums of edges that were stored.
    pub edges_stored: u64,
    /// Batches that were stored.
    pub batches: u64,
    /// Flow records whose sums are in the store, those of earlier processes too.
    pub flows_in_store: u64,
    /// Rows of edges that the retention forgot.
    pub edges_pruned: u64,
    /// Endpoints, names, leases, services and open flows that it forgot.
    pub facts_pruned: u64,
    /// When a batch was stored last, in Unix milliseconds; 0 for never.
    pub stored_ms: i64,
    /// Why the store cannot be written now.
    pub trouble: Option<String>,
    /// Damaged stores that were set aside.
    pub set_aside: Vec<String>,
    /// What became of the records in each export.
    pub exports: Vec<ExportStatus>,
    /// Where the store is.
    pub store: String,
    /// Sums of edges that the writer has.
    #[serde(skip)]
    writing: u64,
    /// The counters that went to the store last.
    #[serde(skip)]
    told: Counters,
}

/// What became of the records in one export.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct ExportStatus {
    /// Which one.
    pub name: String,
    /// Records that were written or sent.
    pub written: u64,
    /// Records that were not.
    pub lost: u64,
}

/// The status, shared with who shows it.
pub type Shared = Arc<Mutex<Status>>;

/// Changes the shared status.
fn with<T>(status: &Shared, change: impl FnOnce(&mut Status) -> T) -> T {
    change(&mut status.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs until `stop` is set, then stores what it has.
///
/// # Errors
///
/// A store that a newer version wrote: it is left as it is.
pub fn run(
    settings: &Settings,
    status: &Shared,
    stop: &Arc<AtomicBool>,
    exports: &mut Exports,
) -> Result<(), StoreError> {
    with(status, |status| {
        status.store = settings.folder.join(super::database::FILE).display().to_string();
    });
    let (database, open) = first_open(settings, status)?;
    let period_s = database.as_ref().map_or(settings.period_s, Database::period_s);
    let mut ingest = Ingest::new(period_s, settings.limits, open);
    ingest.go_on_from(database.as_ref().and_then(|database| database.reached().ok().flatten()));
    let (to_sum, messages) = bounded(QUEUE);
    let (to_write, batches) = bounded::<(Batch, Counters)>(1);
    let writer_is_busy = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| read(&settings.socket, to_sum, status, stop));
        let mut writer = Writer::new(settings, status, stop, database);
        let busy = &writer_is_busy;
        scope.spawn(move || writer.run(&batches, busy));
        // Both ends of the queues go with it, so that the other two come to an end as well.
        Summing { settings, ingest: &mut ingest, exports, to_write, busy, status, stop }
            .run(messages);
    });
    Ok(())
}

type OpenFlows = HashMap<super::ingest::FlowKey, super::ingest::Counted>;

/// Opens the store before anything is read, for the flows that it knows as open. One that cannot be
/// opened now is tried again by the writer.
fn first_open(
    settings: &Settings,
    status: &Shared,
) -> Result<(Option<Database>, OpenFlows), StoreError> {
    match open(settings, status) {
        Ok(database) => {
            let open = database.open_flows().unwrap_or_else(|error| {
                warn!("{error}; flows that are open now count as new");
                OpenFlows::new()
            });
            info!("keeping records in {}", database.path().display());
            Ok((Some(database), open))
        }
        Err(error) if error.kind() == Kind::Newer => Err(error),
        Err(error) => {
            warn!("{error}; records are kept in memory meanwhile");
            with(status, |status| status.trouble = Some(error.to_string()));
            Ok((None, OpenFlows::new()))
        }
    }
}

fn open(settings: &Settings, status: &Shared) -> Result<Database, StoreError> {
    let (database, aside) =
        Database::open(&settings.folder, settings.period_s, settings.retention)?;
    if let Some(aside) = aside {
        let aside = aside.display().to_string();
        error!(
            "the communication store was damaged: it is set aside as {aside}, and a new one begun; \
             learning begins anew, packets are not concerned"
        );
        with(status, |status| status.set_aside.push(aside));
    }
    Ok(database)
}

/// What the reader tells.
enum Told {
    Message(Message),
    Broken,
}

/// Reads the gateway's stream, for as long as there is one.
fn read(socket: &Path, to_sum: Sender<Told>, status: &Shared, stop: &AtomicBool) {
    let mut patience = PATIENCE.0;
    let mut reminder = Reminder::default();
    while !stop.load(Relaxed) {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                let began = Instant::now();
                match read_stream(stream, &to_sum, status, stop) {
                    Ok(()) => info!("the gateway closed its stream of records"),
                    Err(error) if stop.load(Relaxed) => drop(error),
                    Err(error) => warn!("{error}"),
                }
                with(status, |status| status.connected = false);
                if to_sum.send(Told::Broken).is_err() {
                    return;
                }
                if began.elapsed() > PATIENCE.1 {
                    patience = PATIENCE.0;
                }
                reminder = Reminder::default();
            }
            Err(error) => {
                if reminder.is_due() {
                    let socket = socket.display();
                    warn!("no gateway at {socket}: {error}; asking again until there is one");
                }
            }
        }
        wait(patience, stop);
        patience = (patience * 2).min(PATIENCE.1);
    }
}

fn read_stream(
    stream: UnixStream,
    to_sum: &Sender<Told>,
    status: &Shared,
    stop: &AtomicBool,
) -> Result<(), StreamError> {
    let mut reader = BufReader::with_capacity(1 << 18, Patient { stream, stop });
    reader.get_ref().stream.set_read_timeout(Some(PATIENCE.0)).map_err(StreamError::Io)?;
    let mut scratch = Vec::new();
    while let Some(message) = flow_stream::read(&mut reader, &mut scratch)? {
        if let Message::Hello(hello) = &message {
            if hello.version != flow_stream::VERSION {
                warn!(
                    "the gateway speaks version {} of the stream, this process {}: run the same \
                     version of both",
                    hello.version,
                    flow_stream::VERSION
                );
                return Ok(());
            }
            info!("reading the records of a gateway of version {}", hello.software);
            with(status, |status| {
                status.connected = true;
                status.connections += 1;
                status.gateway.clone_from(&hello.software);
            });
        }
        if to_sum.send(Told::Message(message)).is_err() {
            break;
        }
    }
    Ok(())
}

/// A stream that is waited for until the process ends.
struct Patient<'s> {
    stream: UnixStream,
    stop: &'s AtomicBool,
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.stop.load(Relaxed) {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
                done => return done,
            }
        }
    }
}

/// Sums up what is read, and gives a batch to the writer whenever it is time and it is free.
struct Summing<'s> {
    settings: &'s Settings,
    ingest: &'s mut Ingest,
    exports: &'s mut Exports,
    to_write: Sender<(Batch, Counters)>,
    busy: &'s AtomicBool,
    status: &'s Shared,
    stop: &'s AtomicBool,
}

impl Summing<'_> {
    fn run(mut self, messages: Receiver<Told>) {
        let mut next = Instant::now() + self.settings.interval;
        let mut lost = (Reminder::default(), 0);
        while !self.stop.load(Relaxed) {
            let left = next.saturating_duration_since(Instant::now());
            match messages.recv_timeout(left.min(PATIENCE.0)) {
                Ok(Told::Message(message)) => {
                    self.exports.write(&message);
                    self.ingest.add(&message);
                }
                Ok(Told::Broken) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= next {
                next = Instant::now() + self.settings.interval;
                self.tick(&mut lost);
            }
        }
        // What the reader had read already.
        for told in messages.try_iter().take(QUEUE) {
            if let Told::Message(message) = told {
                self.exports.write(&message);
                self.ingest.add(&message);
            }
        }
        self.exports.tend(Instant::now());
        show(self.ingest, self.status);
        let last = (self.ingest.take_batch(), self.ingest.counters);
        if self.to_write.send_timeout(last, FAREWELL).is_err() {
            warn!("the last records could not be stored");
        }
    }

    fn tick(&mut self, (reminder, told): &mut (Reminder, u64)) {
        crate::log::tell_left_out();
        show(self.ingest, self.status);
        self.exports.tend(Instant::now());
        let sinks = self.exports.counts().into_iter();
        let sinks = sinks.map(|(name, c)| ExportStatus { name, written: c.written, lost: c.lost });
        with(self.status, |status| status.exports = sinks.collect());
        let counters = self.ingest.counters;
        let all = counters.flows_lost + counters.flows_dropped + counters.flows_unstored;
        if all > *told && reminder.is_due() {
            let (gateway, here) = (counters.flows_lost, counters.flows_dropped);
            let ended = counters.flows_unstored;
            warn!(
                "records of flows were lost: {gateway} in the gateway, {here} here, {ended} with an \
                 earlier process that ended before it had stored them, so far"
            );
            *told = all;
        }
        let is_free = self.to_write.is_empty() && !self.busy.load(Relaxed);
        let is_told = counters == with(self.status, |status| status.told);
        if is_free && !(self.ingest.batch.is_empty() && is_told) {
            let batch = self.ingest.take_batch();
            with(self.status, |status| {
                status.told = counters;
                status.writing = batch.edges.len() as u64;
            });
            // There is room for one, and nobody else sends.
            let _ = self.to_write.try_send((batch, counters));
        }
    }
}

fn show(ingest: &Ingest, status: &Shared) {
    with(status, |status| {
        status.counters = ingest.counters;
        status.open_flows = ingest.open_flows() as u64;
        status.edges_waiting = ingest.batch.edges.len() as u64 + status.writing;
    });
}

struct Writer<'w> {
    settings: &'w Settings,
    status: &'w Shared,
    stop: &'w AtomicBool,
    database: Option<Database>,
    reminder: Reminder,
    next_pruning: Instant,
}

impl<'w> Writer<'w> {
    fn new(
        settings: &'w Settings,
        status: &'w Shared,
        stop: &'w AtomicBool,
        database: Option<Database>,
    ) -> Self {
        let (reminder, next_pruning) = (Reminder::default(), Instant::now());
        Self { settings, status, stop, database, reminder, next_pruning }
    }

    fn run(&mut self, batches: &Receiver<(Batch, Counters)>, busy: &AtomicBool) {
        while let Ok((batch, counters)) = batches.recv() {
            busy.store(true, Relaxed);
            self.keep(&batch, &counters);
            busy.store(false, Relaxed);
        }
    }

    /// Stores a batch, however long it takes; once when the process ends.
    fn keep(&mut self, batch: &Batch, counters: &Counters) {
        let mut patience = PATIENCE.0;
        loop {
            match self.try_keep(batch, counters) {
                Ok(()) => {
                    let edges = batch.edges.len() as u64;
                    let recovered = with(self.status, |status| {
                        status.edges_stored += edges;
                        status.edges_waiting = status.edges_waiting.saturating_sub(edges);
                        status.writing = 0;
                        status.batches += 1;
                        status.stored_ms = unix_now_ms().unwrap_or(0);
                        status.trouble.take()
                    });
                    if recovered.is_some() {
                        info!("the communication store can be written again");
                    }
                    self.reminder = Reminder::default();
                    return;
                }
                Err(error) => {
                    if self.reminder.is_due() {
                        error!("{error}; records are kept in memory meanwhile");
                    }
                    with(self.status, |status| status.trouble = Some(error.to_string()));
                    if error.kind() != Kind::Full && error.kind() != Kind::Busy {
                        // Whatever is wrong with the file, a new look at it may tell.
                        self.database = None;
                    }
                }
            }
            if self.stop.load(Relaxed) {
                let edges = batch.edges.len();
                warn!("{edges} sums of edges are lost: the process ends and cannot store them");
                return;
            }
            wait(patience, self.stop);
            patience = (patience * 2).min(PATIENCE.1);
        }
    }

    fn try_keep(&mut self, batch: &Batch, counters: &Counters) -> Result<(), StoreError> {
        // A store that somebody removed while it was open would take records to nowhere.
        self.database = self.database.take().filter(|database| database.path().exists());
        let database = match &mut self.database {
            Some(database) => database,
            None => self.database.insert(open(self.settings, self.status)?),
        };
        // Before the batch, so that one for which there is no room does not keep it from making some.
        if Instant::now() >= self.next_pruning {
            self.next_pruning = Instant::now() + PRUNING;
            match database.prune(unix_now_ms().unwrap_or(0)) {
                Ok(pruned) => with(self.status, |status| {
                    status.edges_pruned += pruned.edges;
                    status.facts_pruned += pruned.facts;
                }),
                // The batch shows whether there is room for it.
                Err(error) if error.kind() == Kind::Full => {}
                Err(error) => return Err(error),
            }
        }
        database.store(batch, counters)?;
        if let Ok(flows) = database.flows_read() {
            with(self.status, |status| status.flows_in_store = flows);
        }
        Ok(())
    }
}

/// Says when something that goes on may be logged again.
#[derive(Debug, Default)]
struct Reminder(Option<Instant>);

impl Reminder {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.0.is_none_or(|last| now.duration_since(last) >= REMINDER);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

fn wait(patience: Duration, stop: &AtomicBool) {
    let end = Instant::now() + patience;
    while Instant::now() < end && !stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(50).min(patience));
    }
}
