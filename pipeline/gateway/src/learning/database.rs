//! The communication store: an SQLite file that an operator can open with ordinary tools.
//!
//! `bulkhead learn` is its only writer; it writes a batch in one transaction, so that a kill loses no
//! more than what was not committed. Everybody else reads. `schema.sql` beside this file says what is
//! in it. A damaged file is set aside under a name with the time, and a new one begun.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bulkhead_rules::headers::Mac;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};

use super::announce::{Fact, Subject};
use super::ingest::{Batch, Counted, Counters, EdgeKey, EdgeSum, Endpoint, FlowKey, Place, Seen};
use crate::flow_stream::{Reached, Side};

/// The name of the store's file in its folder.
pub const FILE: &str = "communication.db";

/// The version of the schema.
pub const VERSION: i64 = 1;

const SCHEMA: &str = include_str!("schema.sql");

/// Endpoints whose numbers are remembered.
const MAX_KNOWN: usize = 500_000;

/// How long an open flow may be silent before it is forgotten, in milliseconds: longer than any
/// timeout of a flow table.
const OPEN_FLOW_MS: i64 = 8 * 24 * 3_600_000;

/// The most open flows that are remembered: as many as are followed in memory. Those that were silent
/// longest are forgotten first.
const MAX_OPEN_FLOWS: i64 = 500_000;

/// The most bytes of one page of the file.
const PAGE_BYTES: u64 = 4096;

/// The most names of one subject: who announces more is known by the last ones.
const MAX_NAMES: u64 = 16;

/// So many facts of a kind may be kept in the smallest file.
const MIN_FACTS: u64 = 1000;

/// The tables of facts, and their keys.
const FACTS: [(&str, &str); 5] = [
    ("endpoints", "mac, address"),
    ("names", "subject, source, name"),
    ("leases", "mac, address"),
    ("routers", "mac"),
    ("services", "server, service, application"),
];

/// How long the store keeps what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Days after which periods are forgotten.
    pub days: u32,
    /// The most rows of edges.
    pub rows: u64,
    /// The most facts of each kind: endpoints, names, leases, routers, services. Those that were seen
    /// last stay. In a small file it is one for each page, so that they leave room for edges.
    pub facts: u64,
    /// The most bytes of the file; beyond it, the oldest periods go.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { days: 90, rows: 20_000_000, facts: 1_000_000, bytes: 4 << 30 }
    }
}

/// What was forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pruned {
    /// Rows of edges.
    pub edges: u64,
    /// Endpoints, names, leases, services and open flows.
    pub facts: u64,
}

/// Why the store cannot be used.
#[derive(Debug)]
pub struct StoreError {
    kind: Kind,
    path: PathBuf,
    text: String,
}

/// What kind of trouble it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The disk, or the size that the file may have, is used up.
    Full,
    /// The file is damaged, or is no store.
    Damaged,
    /// A newer version of Bulkhead wrote it.
    Newer,
    /// Another process holds it.
    Busy,
    /// Anything else.
    Other,
}

impl StoreError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Kind::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Damaged,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Busy,
            _ => Kind::Other,
        };
        Self { kind, path: path.to_owned(), text: error.to_string() }
    }

    fn io(path: &Path, error: &io::Error) -> Self {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        let kind = if full.contains(&error.kind()) { Kind::Full } else { Kind::Other };
        Self { kind, path: path.to_owned(), text: error.to_string() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, text) = (self.path.display(), &self.text);
        match self.kind {
            Kind::Full => write!(f, "{path} cannot grow: {text}; make room on its disk"),
            Kind::Damaged => write!(f, "{path} is damaged or no communication store: {text}"),
            Kind::Newer => write!(f, "{path} {text}"),
            Kind::Busy => write!(f, "{path} is held by another process: {text}"),
            Kind::Other => write!(f, "{path} cannot be used: {text}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// The store, open for writing.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
    period_s: u32,
    retention: Retention,
    known: HashMap<Endpoint, i64>,
    stored: Counters,
    pending: Pruned,
}

impl Database {
    /// Opens the store in `folder`, or begins one with periods of `period_s` seconds; an existing one
    /// keeps its own. A damaged one is set aside: the second value is where it is now.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; never [`Kind::Damaged`], unless a damaged file cannot be renamed.
    pub fn open(
        folder: &Path,
        period_s: u32,
        retention: Retention,
    ) -> Result<(Self, Option<PathBuf>), StoreError> {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o750)
            .create(folder)
            .map_err(|e| StoreError::io(folder, &e))?;
        let path = folder.join(FILE);
        match Self::open_file(&path, period_s, retention) {
            Err(error) if error.kind == Kind::Damaged => {
                let aside = set_aside(&path)?;
                Ok((Self::open_file(&path, period_s, retention)?, Some(aside)))
            }
            opened => Ok((opened?, None)),
        }
    }

    fn open_file(path: &Path, period_s: u32, retention: Retention) -> Result<Self, StoreError> {
        let failed = |error: rusqlite::Error| StoreError::of(path, &error);
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
        let pages = (retention.bytes / PAGE_BYTES).max(64);
        let prepare = || -> rusqlite::Result<()> {
            connection.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            // The log is cut back to this after it was copied into the file.
            connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
            connection.pragma_update(None, "max_page_count", pages as i64)?;
            Ok(())
        };
        prepare().map_err(failed)?;
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if verdict != "ok" {
            return Err(StoreError { kind: Kind::Damaged, path: path.to_owned(), text: verdict });
        }
        begin(&connection, path, period_s)?;
        let period_s = period_of(&connection).map_err(failed)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            period_s,
            retention,
            known: HashMap::new(),
            stored: Counters::default(),
            pending: Pruned::default(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Seconds of one period.
    pub fn period_s(&self) -> u32 {
        self.period_s
    }

    /// The flows that were open when the store was written last.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn open_flows(&self) -> Result<HashMap<FlowKey, Counted>, StoreError> {
        let read = || -> rusqlite::Result<HashMap<FlowKey, Counted>> {
            let mut statement = self.connection.prepare(
                "SELECT flow, client_packets, server_packets, client_bytes, server_bytes, last_ms \
                 FROM open_flows",
            )?;
            let mut rows = statement.query([])?;
            let mut flows = HashMap::new();
            while let Some(row) = rows.next()? {
                let key: Vec<u8> = row.get(0)?;
                // One that another version wrote counts as new.
                let Ok(key) = postcard::from_bytes(&key) else { continue };
                let counted = Counted {
                    client_packets: count(row.get(1)?),
                    server_packets: count(row.get(2)?),
                    client_bytes: count(row.get(3)?),
                    server_bytes: count(row.get(4)?),
                    last_ms: row.get(5)?,
                };
                flows.insert(key, counted);
            }
            Ok(flows)
        };
        read().map_err(|error| StoreError::of(&self.path, &error))
    }

    /// Writes a batch, all or nothing. `counters` are this process's so far.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; nothing is written then. Where there is no room, facts beyond their bounds
    /// are forgotten, and where the file has the size that it may have, then the oldest periods.
    pub fn store(&mut self, batch: &Batch, counters: &Counters) -> Result<(), StoreError> {
        match self.try_store(batch, counters) {
            Err(error) if error.kind == Kind::Full => {
                // Who announces much must not drive out what others have done. Without room to forget
                // in, nothing is forgotten.
                if self.bound_facts().is_ok_and(|pruned| pruned != Pruned::default()) {
                    match self.try_store(batch, counters) {
                        Err(again) if again.kind == Kind::Full => {}
                        done => return done,
                    }
                }
                if !self.is_at_its_limit() {
                    return Err(error);
                }
                // A period at a time, until there is room.
                loop {
                    let Some(oldest) = self.oldest_period()? else { return Err(error) };
                    self.pending.edges += self.forget_period(oldest)?;
                    match self.try_store(batch, counters) {
                        Err(again) if again.kind == Kind::Full => {}
                        done => return done,
                    }
                }
            }
            done => done,
        }
    }

    /// Flow records whose sums are in the store, by whichever process they were read.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn flows_read(&self) -> Result<u64, StoreError> {
        let total = self.one("SELECT max(value) FROM counters WHERE name = 'flows-read'")?;
        Ok(count(total.unwrap_or(0)))
    }

    /// How far a gateway's stream was read when the last batch was stored.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn reached(&self) -> Result<Option<Reached>, StoreError> {
        let text = "SELECT value FROM meta WHERE key = 'stream-reached'";
        let value: Option<String> = self
            .connection
            .query_row(text, [], |row| row.get(0))
            .optional()
            .map_err(|error| StoreError::of(&self.path, &error))?;
        Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
    }

    fn try_store(&mut self, batch: &Batch, counters: &Counters) -> Result<(), StoreError> {
        let pruned = self.pending;
        let written = write(&mut self.connection, &mut self.known, batch, |transaction| {
            add_counters(transaction, &self.stored, counters, pruned)
        });
        match written {
            Ok(()) => {
                self.stored = *counters;
                self.pending = Pruned::default();
                if self.known.len() > MAX_KNOWN {
                    self.known.clear();
                }
                Ok(())
            }
            Err(error) => {
                // Numbers that were given in what was rolled back are nobody's.
                self.known.clear();
                Err(StoreError::of(&self.path, &error))
            }
        }
    }

    /// Forgets what is older than the retention says.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn prune(&mut self, now_ms: i64) -> Result<Pruned, StoreError> {
        let cutoff_ms = now_ms.saturating_sub(i64::from(self.retention.days) * 86_400_000);
        let mut pruned = self.bound_facts()?;
        while let Some(oldest) = self.oldest_period()? {
            let is_old = oldest.saturating_add(i64::from(self.period_s)) <= cutoff_ms / 1000;
            if !is_old && self.rows()? <= self.retention.rows {
                break;
            }
            let edges = self.forget_period(oldest)?;
            pruned.edges += edges;
            self.pending.edges += edges;
        }
        let forget = || -> rusqlite::Result<u64> {
            let mut facts = 0;
            for (table, _) in FACTS {
                let text = format!("DELETE FROM {table} WHERE last_ms < ?1");
                facts += self.connection.execute(&text, [cutoff_ms])? as u64;
            }
            let silent_ms = now_ms.saturating_sub(OPEN_FLOW_MS);
            let text = "DELETE FROM open_flows WHERE last_ms < ?1";
            facts += self.connection.execute(text, [silent_ms])? as u64;
            self.connection.execute_batch("PRAGMA incremental_vacuum(10000)")?;
            Ok(facts)
        };
        let facts = forget().map_err(|error| StoreError::of(&self.path, &error))?;
        self.known.clear();
        pruned.facts += facts;
        self.pending.facts += facts;
        Ok(pruned)
    }

    /// Forgets the oldest facts beyond their bounds, and with endpoints what refers to them: their
    /// numbers may be given anew. All or nothing.
    fn bound_facts(&mut self) -> Result<Pruned, StoreError> {
        let most = self.retention.facts.min((self.retention.bytes / PAGE_BYTES).max(MIN_FACTS));
        let pruned = forget_beyond(&mut self.connection, signed(most));
        let pruned = pruned.map_err(|error| StoreError::of(&self.path, &error))?;
        self.known.clear();
        self.pending.edges += pruned.edges;
        self.pending.facts += pruned.facts;
        Ok(pruned)
    }

    fn rows(&self) -> Result<u64, StoreError> {
        self.one("SELECT count(*) FROM edges").map(|rows| count(rows.unwrap_or(0)))
    }

    fn oldest_period(&self) -> Result<Option<i64>, StoreError> {
        self.one("SELECT min(period) FROM edges")
    }

    fn forget_period(&self, period: i64) -> Result<u64, StoreError> {
        let deleted = self.connection.execute("DELETE FROM edges WHERE period = ?1", [period]);
        deleted.map(|rows| rows as u64).map_err(|error| StoreError::of(&self.path, &error))
    }

    fn is_at_its_limit(&self) -> bool {
        let pages = self.one("PRAGMA page_count").ok().flatten().unwrap_or(0);
        let limit = self.one("PRAGMA max_page_count").ok().flatten().unwrap_or(i64::MAX);
        // The log may hold pages that the file would have grown by.
        pages.saturating_mul(100) >= limit.saturating_mul(90)
    }

    fn one(&self, query: &str) -> Result<Option<i64>, StoreError> {
        let found = self.connection.query_row(query, [], |row| row.get::<_, Option<i64>>(0));
        found.map_err(|error| StoreError::of(&self.path, &error))
    }
}

/// Opens a store for reading, beside the process that writes it.
///
/// # Errors
///
/// See [`StoreError`].
pub fn open_read_only(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error: rusqlite::Error| StoreError::of(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(failed)?;
    let first = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    let may_not_write =
        first.is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::ReadOnly));
    if may_not_write && !log_of(path).exists() {
        // Nobody writes, and whoever may not write cannot make the log that readers share: the file is
        // all there is.
        if let Some(name) = path.to_str() {
            let name = name.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            let uri = format!("file:{name}?immutable=1");
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            connection = Connection::open_with_flags(uri, flags).map_err(failed)?;
        }
    }
    check_version(&connection, path)?;
    Ok(connection)
}

/// The log of a store, which is there while somebody writes.
fn log_of(path: &Path) -> PathBuf {
    let mut log = path.to_owned().into_os_string();
    log.push("-wal");
    log.into()
}

/// Seconds of a period of the store.
///
/// # Errors
///
/// What SQLite answers.
pub fn period_of(connection: &Connection) -> rusqlite::Result<u32> {
    let text = "SELECT value FROM meta WHERE key = 'period-s'";
    let value: Option<String> = connection.query_row(text, [], |row| row.get(0)).optional()?;
    let period = value.and_then(|value| value.parse().ok()).filter(|&period| period > 0);
    Ok(period.unwrap_or(3600))
}

/// A number of the store, which has no unsigned ones.
pub fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// VLAN identifiers as the store has them: empty, `30` or `100.30`.
pub fn vlan_text(vlan: [u16; 2]) -> String {
    match vlan {
        [0, _] => String::new(),
        [outer, 0] => outer.to_string(),
        [outer, inner] => format!("{outer}.{inner}"),
    }
}

/// The reverse of [`vlan_text`].
pub fn vlan_of(text: &str) -> [u16; 2] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    [parts.next().unwrap_or(0), parts.next().unwrap_or(0)]
}

/// A MAC address as the store has it.
pub fn mac_of(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

/// An endpoint's two columns.
pub fn endpoint_of(mac: &str, address: &str) -> Option<Endpoint> {
    let address = match address {
        "" => None,
        text => Some(text.parse::<IpAddr>().ok()?),
    };
    Some(Endpoint { mac: mac_of(mac)?, address })
}

/// The word for a side of a wire.
pub fn side_text(side: Side) -> &'static str {
    match side {
        Side::Inside => "inside",
        Side::Outside => "outside",
    }
}

/// Makes the tables of an empty file; of another, checks the version.
fn begin(connection: &Connection, path: &Path, period_s: u32) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| StoreError::of(path, &error);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    if tables > 0 {
        return check_version(connection, path);
    }
    let make = || -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(SCHEMA)?;
        let text = "INSERT INTO meta (key, value) VALUES (?1, ?2)";
        connection.execute(text, ["schema-version", &VERSION.to_string()])?;
        connection.execute(text, ["period-s", &period_s.to_string()])?;
        connection.execute(text, ["software", env!("CARGO_PKG_VERSION")])?;
        connection.execute_batch("COMMIT")
    };
    make().map_err(failed)
}

fn check_version(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let text = "SELECT value FROM meta WHERE key = 'schema-version'";
    let found: Result<Option<String>, _> =
        connection.query_row(text, [], |row| row.get(0)).optional();
    let error = |kind, text: String| StoreError { kind, path: path.to_owned(), text };
    let version = match found {
        Ok(version) => version.and_then(|version| version.parse::<i64>().ok()),
        Err(e) if e.to_string().contains("no such table") => None,
        Err(e) => return Err(StoreError::of(path, &e)),
    };
    match version {
        Some(VERSION) => Ok(()),
        Some(newer) if newer > VERSION => Err(error(
            Kind::Newer,
            format!(
                "was written by a newer version of Bulkhead (schema {newer}, this one knows \
                 {VERSION}): use that version, or another folder"
            ),
        )),
        _ => Err(error(Kind::Damaged, "it has no version of a schema".to_owned())),
    }
}

/// Renames a damaged store, and its log.
fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let named = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut aside = named(&format!(".corrupt-{now}"));
    let mut next = 2;
    while aside.exists() {
        aside = named(&format!(".corrupt-{now}-{next}"));
        next += 1;
    }
    fs::rename(path, &aside).map_err(|e| StoreError::io(path, &e))?;
    for suffix in ["-wal", "-shm"] {
        let mut kept = aside.as_os_str().to_owned();
        kept.push(suffix);
        match fs::rename(named(suffix), kept) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::io(path, &e)),
            _ => {}
        }
    }
    Ok(aside)
}

fn write(
    connection: &mut Connection,
    known: &mut HashMap<Endpoint, i64>,
    batch: &Batch,
    counters: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    write_endpoints(&transaction, known, batch)?;
    write_edges(&transaction, known, batch)?;
    write_facts(&transaction, batch)?;
    write_services(&transaction, known, batch)?;
    write_flows(&transaction, batch)?;
    let mut wires = transaction.prepare_cached(
        "INSERT INTO wires (name, enforces, since_ms) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO \
         UPDATE SET since_ms = CASE WHEN enforces = excluded.enforces THEN since_ms \
         ELSE excluded.since_ms END, enforces = excluded.enforces",
    )?;
    for (wire, (enforces, since_ms)) in &batch.wires {
        wires.execute(params![&**wire, enforces, since_ms])?;
    }
    drop(wires);
    if let Some(reached) = &batch.reached {
        let text = "INSERT OR REPLACE INTO meta (key, value) VALUES ('stream-reached', ?1)";
        // Numbers become text, whatever they are.
        let value = serde_json::to_string(reached).unwrap_or_default();
        transaction.execute(text, [value])?;
    }
    counters(&transaction)?;
    transaction.commit()
}

fn forget_beyond(connection: &mut Connection, most: i64) -> rusqlite::Result<Pruned> {
    let transaction = connection.transaction()?;
    let mut pruned = Pruned::default();
    let of_one = "DELETE FROM names WHERE (subject, source, name) IN (SELECT subject, source, name \
                  FROM (SELECT subject, source, name, row_number() OVER (PARTITION BY subject \
                  ORDER BY last_ms DESC) AS nth FROM names) WHERE nth > ?1)";
    pruned.facts += transaction.execute(of_one, [signed(MAX_NAMES)])? as u64;
    for (table, key) in FACTS {
        let text = format!("SELECT count(*) FROM {table}");
        let rows: i64 = transaction.query_row(&text, [], |row| row.get(0))?;
        if rows <= most {
            continue;
        }
        let text = format!(
            "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} ORDER BY last_ms LIMIT ?1)"
        );
        pruned.facts += transaction.execute(&text, [rows - most])? as u64;
        if table == "endpoints" {
            let known = "(SELECT id FROM endpoints)";
            let text = format!("DELETE FROM services WHERE server NOT IN {known}");
            pruned.facts += transaction.execute(&text, [])? as u64;
            let text =
                format!("DELETE FROM edges WHERE client NOT IN {known} OR server NOT IN {known}");
            pruned.edges += transaction.execute(&text, [])? as u64;
        }
    }
    let open = most.min(MAX_OPEN_FLOWS);
    let rows: i64 =
        transaction.query_row("SELECT count(*) FROM open_flows", [], |row| row.get(0))?;
    if rows > open {
        let text = "DELETE FROM open_flows WHERE flow IN (SELECT flow FROM open_flows \
                    ORDER BY last_ms LIMIT ?1)";
        pruned.facts += transaction.execute(text, [rows - open])? as u64;
    }
    transaction.commit()?;
    Ok(pruned)
}

fn write_endpoints(
    transaction: &Transaction<'_>,
    known: &mut HashMap<Endpoint, i64>,
    batch: &Batch,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO endpoints (mac, address, wire, side, vlan, first_ms, last_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (mac, address) DO UPDATE SET \
         wire = excluded.wire, side = excluded.side, vlan = excluded.vlan, \
         first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms) \
         RETURNING id",
    )?;
    // In order, so that the same traffic gives the same numbers.
    let mut endpoints: Vec<(&Endpoint, &Place)> = batch.endpoints.iter().collect();
    endpoints.sort_unstable_by_key(|(endpoint, _)| **endpoint);
    for (endpoint, place) in endpoints {
        let Place { seen: Seen { first_ms, last_ms }, wire, side, vlan } = place;
        let (mac, address) = columns(endpoint);
        let (side, vlan) = (side_text(*side), vlan_text(*vlan));
        let row = params![mac, address, &**wire, side, vlan, first_ms, last_ms];
        let id: i64 = statement.query_row(row, |row| row.get(0))?;
        known.insert(*endpoint, id);
    }
    Ok(())
}

/// The number of an endpoint, which is new if need be: there may have been no room to tell of it.
fn id(
    transaction: &Transaction<'_>,
    known: &mut HashMap<Endpoint, i64>,
    endpoint: &Endpoint,
    seen: Seen,
) -> rusqlite::Result<i64> {
    if let Some(&id) = known.get(endpoint) {
        return Ok(id);
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO endpoints (mac, address, first_ms, last_ms) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (mac, address) DO UPDATE SET last_ms = max(last_ms, excluded.last_ms) \
         RETURNING id",
    )?;
    let (mac, address) = columns(endpoint);
    let row = params![mac, address, seen.first_ms, seen.last_ms];
    let id = statement.query_row(row, |row| row.get(0))?;
    known.insert(*endpoint, id);
    Ok(id)
}

fn columns(endpoint: &Endpoint) -> (String, String) {
    let address = endpoint.address.map(|address| address.to_string());
    (endpoint.mac.to_string(), address.unwrap_or_default())
}

fn write_edges(
    transaction: &Transaction<'_>,
    known: &mut HashMap<Endpoint, i64>,
    batch: &Batch,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO edges (period, client, server, service, wire, vlan, client_port, flows, \
         answered, failed, denied, would_deny, client_packets, server_packets, client_bytes, \
         server_bytes, first_ms, last_ms, rule, reason) \
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20) \
         ON CONFLICT DO UPDATE SET flows = flows + excluded.flows, \
         answered = answered + excluded.answered, failed = failed + excluded.failed, \
         denied = denied + excluded.denied, would_deny = would_deny + excluded.would_deny, \
         client_packets = client_packets + excluded.client_packets, \
         server_packets = server_packets + excluded.server_packets, \
         client_bytes = client_bytes + excluded.client_bytes, \
         server_bytes = server_bytes + excluded.server_bytes, \
         first_ms = min(first_ms, excluded.first_ms), \
         last_ms = max(last_ms, excluded.last_ms), \
         rule = excluded.rule, reason = excluded.reason",
    )?;
    let mut edges: Vec<(&EdgeKey, &EdgeSum)> = batch.edges.iter().collect();
    // Neighbours in the tree one after the other.
    edges.sort_unstable_by_key(|(key, _)| *key);
    for (key, sum) in edges {
        let seen = Seen { first_ms: sum.first_ms, last_ms: sum.last_ms };
        statement.execute(params![
            key.period,
            id(transaction, known, &key.client, seen)?,
            id(transaction, known, &key.server, seen)?,
            key.service.to_string(),
            &*key.wire,
            vlan_text(key.vlan),
            key.client_port,
            signed(sum.flows),
            signed(sum.answered),
            signed(sum.failed),
            signed(sum.denied),
            signed(sum.would_deny),
            signed(sum.client_packets),
            signed(sum.server_packets),
            signed(sum.client_bytes),
            signed(sum.server_bytes),
            sum.first_ms,
            sum.last_ms,
            sum.rule,
            sum.reason,
        ])?;
    }
    Ok(())
}

fn write_facts(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let seen = "first_ms = min(first_ms, excluded.first_ms), \
                last_ms = max(last_ms, excluded.last_ms)";
    let mut names = transaction.prepare_cached(&format!(
        "INSERT INTO names (subject, source, name, first_ms, last_ms) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT DO UPDATE SET {seen}"
    ))?;
    let mut leases = transaction.prepare_cached(&format!(
        "INSERT INTO leases (mac, address, first_ms, last_ms) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT DO UPDATE SET {seen}"
    ))?;
    let mut routers = transaction.prepare_cached(&format!(
        "INSERT INTO routers (mac, first_ms, last_ms) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO UPDATE SET {seen}"
    ))?;
    for (fact, &Seen { first_ms, last_ms }) in &batch.facts {
        match fact {
            Fact::Name { of, name, source } => {
                let subject = match of {
                    Subject::Mac(mac) => mac.to_string(),
                    Subject::Address(address) => address.to_string(),
                };
                names.execute(params![subject, source.label(), name, first_ms, last_ms])?;
            }
            Fact::Lease { mac, address } => {
                let (mac, address) = (mac.to_string(), address.to_string());
                leases.execute(params![mac, address, first_ms, last_ms])?;
            }
            Fact::Router(mac) => {
                routers.execute(params![mac.to_string(), first_ms, last_ms])?;
            }
        }
    }
    Ok(())
}

fn write_services(
    transaction: &Transaction<'_>,
    known: &mut HashMap<Endpoint, i64>,
    batch: &Batch,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO services (server, service, application, first_ms, last_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET \
         first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms)",
    )?;
    for (serves, &seen) in &batch.services {
        let server = id(transaction, known, &serves.server, seen)?;
        let (service, application) = (serves.service.to_string(), serves.application.label());
        let Seen { first_ms, last_ms } = seen;
        statement.execute(params![server, service, application, first_ms, last_ms])?;
    }
    Ok(())
}

fn write_flows(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut open = transaction.prepare_cached(
        "INSERT OR REPLACE INTO open_flows (flow, client_packets, server_packets, client_bytes, \
         server_bytes, last_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let mut over = transaction.prepare_cached("DELETE FROM open_flows WHERE flow = ?1")?;
    for (key, counted) in &batch.flows {
        // Writing plain data into a vector does not fail; one that did would count as new later.
        let Ok(key) = postcard::to_stdvec(key) else { continue };
        match counted {
            Some(c) => open.execute(params![
                key,
                signed(c.client_packets),
                signed(c.server_packets),
                signed(c.client_bytes),
                signed(c.server_bytes),
                c.last_ms
            ])?,
            None => over.execute([key])?,
        };
    }
    Ok(())
}

fn add_counters(
    transaction: &Transaction<'_>,
    before: &Counters,
    now: &Counters,
    pruned: Pruned,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO counters (name, value) VALUES (?1, ?2) \
         ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
    )?;
    let rows = [
        ("flows-read", now.flows_read.saturating_sub(before.flows_read)),
        ("frames-read", now.frames_read.saturating_sub(before.frames_read)),
        ("flows-lost", now.flows_lost.saturating_sub(before.flows_lost)),
        ("frames-lost", now.frames_lost.saturating_sub(before.frames_lost)),
        ("flows-dropped", now.flows_dropped.saturating_sub(before.flows_dropped)),
        ("flows-unstored", now.flows_unstored.saturating_sub(before.flows_unstored)),
        ("frames-unstored", now.frames_unstored.saturating_sub(before.frames_unstored)),
        ("facts-dropped", now.facts_dropped.saturating_sub(before.facts_dropped)),
        ("flows-not-followed", now.flows_not_followed.saturating_sub(before.flows_not_followed)),
        ("edges-pruned", pruned.edges),
        ("facts-pruned", pruned.facts),
    ];
    for (name, more) in rows {
        statement.execute(params![name, signed(more)])?;
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
