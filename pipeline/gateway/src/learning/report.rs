//! The store as the commands read it, while `bulkhead learn` goes on writing.
//!
//! Everything that one command reads is of one instant: one transaction, read-only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bulkhead_learn::observe::Service;
use bulkhead_rules::headers::Mac;
use clap::Args;
use rusqlite::{Connection, params};

use super::announce::{NameSource, Subject};
use super::database::{self, StoreError, count, endpoint_of, mac_of, vlan_of};
use super::ingest::{Endpoint, Seen};
use crate::candidate::unix_now_ms;
use crate::cli::{CONFIG_PATH, exit};
use crate::config::Config;

/// Which store is read, and which time of it.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// The gateway's configuration, which says where the store is
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    /// The store: its file, or its folder; without it, the one that the configuration names
    #[arg(long, value_name = "PATH")]
    pub store: Option<PathBuf>,
    /// Only what was seen since then: an instant (2026-11-24T06:00:00Z), or how long ago (30m, 24h,
    /// 7d)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Only what was seen until then, likewise
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
}

/// Why a command has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// For people.
    pub message: String,
    /// Of the process.
    pub code: u8,
}

impl Refusal {
    /// The question or a policy is wrong.
    pub fn refused(message: impl std::fmt::Display) -> Self {
        Self { message: format!("error: {message}"), code: exit::REFUSED }
    }

    /// The answer cannot be had.
    pub fn unavailable(message: impl std::fmt::Display) -> Self {
        Self { message: format!("error: {message}"), code: exit::UNAVAILABLE }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::unavailable(format!("{error}\n  = help: `bulkhead learn` keeps the store"))
    }
}

/// A stretch of time, in Unix milliseconds: from the first, to before the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first instant.
    pub since_ms: i64,
    /// The first instant after it.
    pub until_ms: i64,
}

impl Range {
    /// All times.
    pub const ALL: Self = Self { since_ms: i64::MIN, until_ms: i64::MAX };
}

/// An endpoint as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointRow {
    /// Its number.
    pub id: i64,
    /// What it is.
    pub endpoint: Endpoint,
    /// Where it was seen last: the wire.
    pub wire: String,
    /// `inside` or `outside` of it; empty where that is not known.
    pub side: String,
    /// VLAN identifiers, the outer one first.
    pub vlan: [u16; 2],
    /// When.
    pub seen: Seen,
}

/// What an edge came to in one period.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgeRow {
    /// When the period began, in seconds since the Unix epoch.
    pub period: i64,
    /// The client's number.
    pub client: i64,
    /// The server's.
    pub server: i64,
    /// What was opened.
    pub service: Service,
    /// On which wire.
    pub wire: String,
    /// VLAN identifiers.
    pub vlan: [u16; 2],
    /// Not 0, where client and server may be the other way round.
    pub client_port: u16,
    /// Flows that began.
    pub flows: u64,
    /// Records of flows with an answer.
    pub answered: u64,
    /// Flows that ended without one.
    pub failed: u64,
    /// Packets that were denied.
    pub denied: u64,
    /// Flows that an observing wire would have denied.
    pub would_deny: u64,
    /// Packets, both ways.
    pub packets: u64,
    /// Bytes, both ways.
    pub bytes: u64,
    /// When.
    pub seen: Seen,
    /// The rule that decided last.
    pub rule: String,
    /// Why it was dropped.
    pub reason: String,
}

/// A name as it was told.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NameRow {
    /// Whose.
    pub subject: Subject,
    /// Who says so.
    pub source: NameSource,
    /// The name.
    pub name: String,
}

/// The store, open for reading.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
    /// Seconds of a period.
    pub period_s: u32,
    /// What is asked about.
    pub range: Range,
}

impl Reader {
    /// Opens the store that the command line names.
    ///
    /// # Errors
    ///
    /// A command line that cannot be understood, or a store that cannot be read.
    pub fn open(args: &StoreArgs) -> Result<Self, Refusal> {
        let path = match &args.store {
            Some(path) => path.clone(),
            None => {
                let config = Config::load(&args.config)
                    .map_err(|error| Refusal { message: error.to_string(), code: exit::REFUSED })?;
                config.learn.folder
            }
        };
        let now_ms = unix_now_ms().unwrap_or(0);
        let instant = |text: &Option<String>| match text {
            Some(text) => instant(text, now_ms).map(Some).map_err(Refusal::refused),
            None => Ok(None),
        };
        let range = Range {
            since_ms: instant(&args.since)?.unwrap_or(i64::MIN),
            until_ms: instant(&args.until)?.unwrap_or(i64::MAX),
        };
        Ok(Self::open_path(&path, range)?)
    }

    /// Opens a store: its file, or its folder.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn open_path(path: &Path, range: Range) -> Result<Self, StoreError> {
        let path = if path.is_dir() { path.join(database::FILE) } else { path.to_owned() };
        let connection = database::open_read_only(&path)?;
        let failed = |error: rusqlite::Error| StoreError::of(&path, &error);
        connection.execute_batch("BEGIN").map_err(failed)?;
        let period_s = database::period_of(&connection).map_err(failed)?;
        Ok(Self { connection, path, period_s, range })
    }

    /// Every endpoint, by MAC address and address.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn endpoints(&self) -> Result<Vec<EndpointRow>, StoreError> {
        let text = "SELECT id, mac, address, wire, side, vlan, first_ms, last_ms FROM endpoints";
        let mut endpoints = self.rows(text, |row| {
            let (mac, address): (String, String) = (row.get(1)?, row.get(2)?);
            let vlan: String = row.get(5)?;
            Ok(endpoint_of(&mac, &address).map(|endpoint| {
                Ok(EndpointRow {
                    id: row.get(0)?,
                    endpoint,
                    wire: row.get(3)?,
                    side: row.get(4)?,
                    vlan: vlan_of(&vlan),
                    seen: Seen { first_ms: row.get(6)?, last_ms: row.get(7)? },
                })
            }))
        })?;
        endpoints.sort_unstable_by_key(|row: &EndpointRow| row.endpoint);
        Ok(endpoints)
    }

    /// Every name.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn names(&self) -> Result<Vec<NameRow>, StoreError> {
        let mut names = self.rows("SELECT subject, source, name FROM names", |row| {
            let (subject, source): (String, String) = (row.get(0)?, row.get(1)?);
            let subject = match subject.parse() {
                Ok(address) => Some(Subject::Address(address)),
                Err(_) => mac_of(&subject).map(Subject::Mac),
            };
            let source = NameSource::ALL.into_iter().find(|known| known.label() == source);
            Ok(subject
                .zip(source)
                .map(|(subject, source)| Ok(NameRow { subject, source, name: row.get(2)? })))
        })?;
        names.sort_unstable();
        Ok(names)
    }

    /// Every address that DHCP gave to a device.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn leases(&self) -> Result<Vec<Endpoint>, StoreError> {
        self.rows("SELECT mac, address FROM leases ORDER BY mac, address", |row| {
            let (mac, address): (String, String) = (row.get(0)?, row.get(1)?);
            Ok(endpoint_of(&mac, &address).map(Ok))
        })
    }

    /// Every device that says that it routes.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn routers(&self) -> Result<Vec<Mac>, StoreError> {
        self.rows("SELECT mac FROM routers ORDER BY mac", |row| {
            let mac: String = row.get(0)?;
            Ok(mac_of(&mac).map(Ok))
        })
    }

    /// Applications that were recognised: the server's number, the service, and what it is.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn services(&self) -> Result<Vec<(i64, Service, String)>, StoreError> {
        let text = "SELECT server, service, application FROM services \
                    ORDER BY server, service, application";
        self.rows(text, |row| {
            let service: String = row.get(1)?;
            Ok(service.parse().ok().map(|service| Ok((row.get(0)?, service, row.get(2)?))))
        })
    }

    /// Since when each enforcing wire enforces, in Unix milliseconds.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn enforcing_since(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let rows = self.rows("SELECT name, since_ms FROM wires WHERE enforces", |row| {
            Ok(Some(Ok((row.get(0)?, row.get(1)?))))
        })?;
        Ok(rows.into_iter().collect())
    }

    /// What was read, and what was lost.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let rows = self.rows("SELECT name, value FROM counters", |row| {
            Ok(Some(Ok((row.get(0)?, count(row.get(1)?)))))
        })?;
        Ok(rows.into_iter().collect())
    }

    /// Addresses at the end of their network (IPv4, `….255`) to which at least two hosts send and from
    /// which nothing ever came: broadcasts, though a router sent the frames on with a host's MAC address.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn silent_broadcasts(&self) -> Result<BTreeSet<i64>, StoreError> {
        let read = || -> rusqlite::Result<BTreeSet<i64>> {
            let mut last = self
                .connection
                .prepare("SELECT id FROM endpoints WHERE address LIKE '%.255' LIMIT 10000")?;
            let mut ids: BTreeSet<i64> =
                last.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            if ids.is_empty() {
                return Ok(ids);
            }
            let mut used: BTreeMap<i64, (BTreeSet<i64>, i64)> = BTreeMap::new();
            let mut edges = self.connection.prepare(
                "SELECT client, server, sum(answered) FROM edges GROUP BY client, server",
            )?;
            let mut rows = edges.query([])?;
            while let Some(row) = rows.next()? {
                let (client, server, answered): (i64, i64, i64) =
                    (row.get(0)?, row.get(1)?, row.get(2)?);
                ids.remove(&client);
                if ids.contains(&server) {
                    let used = used.entry(server).or_default();
                    // Two are enough to know.
                    if used.0.len() < 2 {
                        used.0.insert(client);
                    }
                    used.1 += answered;
                }
            }
            let is_many = |id: &i64| {
                used.get(id).is_some_and(|(senders, answered)| senders.len() > 1 && *answered == 0)
            };
            ids.retain(is_many);
            Ok(ids)
        };
        read().map_err(|error| StoreError::of(&self.path, &error))
    }

    /// Calls `each` with every edge of the range, in the order of time.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn edges(&self, mut each: impl FnMut(EdgeRow)) -> Result<(), StoreError> {
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare(
                "SELECT period, client, server, service, wire, vlan, client_port, flows, \
                 answered, failed, denied, would_deny, client_packets + server_packets, \
                 client_bytes + server_bytes, first_ms, last_ms, rule, reason FROM edges \
                 WHERE last_ms >= ?1 AND first_ms < ?2 ORDER BY period, client, server, service",
            )?;
            let mut rows = statement.query(params![self.range.since_ms, self.range.until_ms])?;
            while let Some(row) = rows.next()? {
                let (service, vlan): (String, String) = (row.get(3)?, row.get(5)?);
                // Nobody but us writes; what somebody else wrote is not ours to read.
                let Ok(service) = service.parse() else { continue };
                each(EdgeRow {
                    period: row.get(0)?,
                    client: row.get(1)?,
                    server: row.get(2)?,
                    service,
                    wire: row.get(4)?,
                    vlan: vlan_of(&vlan),
                    client_port: row.get(6)?,
                    flows: count(row.get(7)?),
                    answered: count(row.get(8)?),
                    failed: count(row.get(9)?),
                    denied: count(row.get(10)?),
                    would_deny: count(row.get(11)?),
                    packets: count(row.get(12)?),
                    bytes: count(row.get(13)?),
                    seen: Seen { first_ms: row.get(14)?, last_ms: row.get(15)? },
                    rule: row.get(16)?,
                    reason: row.get(17)?,
                });
            }
            Ok(())
        };
        read().map_err(|error| StoreError::of(&self.path, &error))
    }

    /// The rows of a query; those of which `read` says nothing are left out.
    fn rows<T>(
        &self,
        text: &str,
        read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Option<rusqlite::Result<T>>>,
    ) -> Result<Vec<T>, StoreError> {
        let all = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.connection.prepare(text)?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                if let Some(value) = read(row)? {
                    found.push(value?);
                }
            }
            Ok(found)
        };
        all().map_err(|error| StoreError::of(&self.path, &error))
    }
}

/// An instant as it is written on a command line, in Unix milliseconds.
///
/// # Errors
///
/// What is wrong with it.
pub fn instant(text: &str, now_ms: i64) -> Result<i64, String> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(instant.as_millisecond());
    }
    let units = [('s', 1000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];
    let ago = units.into_iter().find_map(|(unit, ms)| {
        let number: i64 = text.strip_suffix(unit)?.parse().ok().filter(|&number| number >= 0)?;
        now_ms.checked_sub(number.checked_mul(ms)?)
    });
    ago.ok_or_else(|| {
        format!(
            "`{text}` is no instant: write 2026-11-24T06:00:00Z, or how long ago, such as 30m, \
             24h or 7d"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_absolute_or_so_long_ago() {
        assert_eq!(instant("1970-01-01T00:00:05Z", 0), Ok(5000));
        assert_eq!(instant("2h", 7_200_001), Ok(1));
        for wrong in ["", "h", "-2h", "yesterday", "2w", "99999999999999999d"] {
            assert!(instant(wrong, 0).is_err(), "{wrong}");
        }
    }
}
