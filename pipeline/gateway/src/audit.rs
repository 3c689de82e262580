//! The audit log: who changed what, when, why, and from which policy to which.
//!
//! `audit.jsonl` in the state directory has a line for each [`Entry`]. A line ends with the SHA-256
//! of what stands before it and names that of the line before, so that whoever changes, removes or
//! inserts a line breaks the chain there: [`verify`] finds the place, without a gateway. What is
//! missing at the end the chain cannot show; the file `audit.head` beside it can, and so can a head
//! that was noted elsewhere (every entry's hash goes to the gateway's log as well). The chain has no
//! key: who may write the folder may write another history, which only a head kept elsewhere shows.
//!
//! A full file is followed by another one: see [`files`].
//!
//! An entry is on the disk before what it tells is in force. Where it cannot be written, what loosens
//! is refused; what tightens goes on, loudly, and its entry is written once there is room again.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{error, info, warn};

use self::files::{Keep, Surplus};

pub mod command;
pub mod files;
pub mod verify;

/// The log's name in the state directory.
pub const LOG_FILE: &str = "audit.jsonl";

/// The name of the file that knows the last entry.
pub const HEAD_FILE: &str = "audit.head";

/// The hash that the first entry names as the one before it.
pub const BEFORE_THE_FIRST: &str =
    "0000000000000000000000000000000000000000000000000000000000000000";

/// The longest line of a log, in bytes.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The longest reason or detail that an entry takes, in bytes; what is longer is cut.
const MAX_TEXT_BYTES: usize = 4096;

/// The most entries that wait for room on the disk; of more, only their number is kept.
const MAX_WAITING: usize = 1000;

/// What an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The gateway started.
    Start,
    /// The gateway stopped.
    Stop,
    /// Another policy is in force.
    Policy,
    /// A wire has another mode.
    Mode,
    /// A policy is staged, or no longer.
    Stage,
    /// A staged policy was put in force, and wires enforce.
    Lockdown,
    /// A lockdown, or another change, was refused.
    Refused,
    /// An earlier version is in force again.
    Rollback,
    /// A time-limited exception was made.
    Grant,
    /// An exception ended before its time.
    Revoke,
    /// An exception's time is over.
    Expired,
    /// A device was put in quarantine.
    Quarantine,
    /// A device was let out of quarantine.
    Release,
    /// A binding of an address was forgotten.
    Forget,
    /// Packets were traced.
    Trace,
    /// A gateway ended otherwise than it was told to, or frames passed unjudged.
    Failure,
    /// The log itself was damaged.
    Log,
    /// Somebody logged in at the console, or was kept out.
    LogIn,
    /// Who may use the console, and as what, was changed.
    Access,
    /// Exceptions of a proposal were approved.
    Approve,
}

impl What {
    /// The word in the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Policy => "policy",
            Self::Mode => "mode",
            Self::Stage => "stage",
            Self::Lockdown => "lockdown",
            Self::Refused => "refused",
            Self::Rollback => "rollback",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::Expired => "expired",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Forget => "forget",
            Self::Trace => "trace",
            Self::Failure => "failure",
            Self::Log => "log",
            Self::LogIn => "log-in",
            Self::Access => "access",
            Self::Approve => "approve",
        }
    }
}

/// Who did it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Who {
    /// The user at the other end of the control socket, as the kernel knows it; absent where it was
    /// no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The user's name, or what it was if no user: `gateway`, `file`, `signal`.
    pub name: String,
    /// The process at the other end, as the kernel knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The console's user for whom it was done. Believed of nobody but the console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
}

impl Who {
    /// The gateway itself.
    pub fn gateway() -> Self {
        Self::thing("gateway")
    }

    /// Something that is no user.
    pub fn thing(name: &str) -> Self {
        Self { uid: None, name: name.to_owned(), pid: None, on_behalf_of: None }
    }

    /// Whoever is at the other end of a socket, by what the kernel says of them.
    pub fn peer(uid: u32, pid: Option<i32>) -> Self {
        // 0 is a process that this one cannot see: of another namespace.
        Self { pid: pid.filter(|&pid| pid > 0), ..Self::user(uid) }
    }

    /// A user of this machine, by the number. The name is that of `/etc/passwd`, where there is one.
    pub fn user(uid: u32) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, number) = (fields.next()?, fields.nth(1)?);
            (number.parse() == Ok(uid)).then(|| name.to_owned())
        });
        let name = name.unwrap_or_else(|| format!("uid {uid}"));
        Self { uid: Some(uid), name, pid: None, on_behalf_of: None }
    }
}

/// What is to be entered. Its time is that of its making.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    time: Timestamp,
    who: Who,
    what: What,
    detail: String,
    reason: Option<String>,
    policies: [Option<String>; 2],
    removed: Option<Head>,
}

impl Draft {
    /// Something happened now.
    pub fn new(who: Who, what: What, detail: impl Into<String>) -> Self {
        let detail = shortened(detail.into());
        Self {
            time: Timestamp::now(),
            who,
            what,
            detail,
            reason: None,
            policies: [None, None],
            removed: None,
        }
    }

    /// Why, in the words of whoever did it.
    #[must_use]
    pub fn because(mut self, reason: Option<&str>) -> Self {
        self.reason = reason.map(|reason| shortened(reason.to_owned()));
        self
    }

    /// The hashes of the policy before and after.
    #[must_use]
    pub fn policies(mut self, before: Option<String>, after: Option<String>) -> Self {
        self.policies = [before, after];
        self
    }

    /// The last of the entries that are about to be removed.
    fn removing(mut self, last: Head) -> Self {
        self.removed = Some(last);
        self
    }
}

/// A line of the log, without its own hash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// The number, from 1.
    pub sequence: u64,
    /// When it happened (RFC 3339, UTC).
    pub time: String,
    /// Who did it.
    pub who: Who,
    /// What it is about: a word of [`What::label`].
    pub what: String,
    /// What happened, in a sentence.
    pub detail: String,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
    /// The hash of the policy in force before, where there was one.
    pub policy_before: Option<String>,
    /// The hash of the policy in force after.
    pub policy_after: Option<String>,
    /// The last of the entries that are about to be removed for want of room, where this is about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Head>,
    /// The hash of the entry before.
    pub previous: String,
}

/// The last entry, as `audit.head` has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Head {
    /// Its number; 0 where there is none.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
}

impl Head {
    /// Of a log without entries.
    pub fn none() -> Self {
        Self { sequence: 0, hash: BEFORE_THE_FIRST.to_owned() }
    }
}

/// The log of a running gateway.
#[derive(Debug)]
pub struct Audit {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    head: Head,
    /// The file's length, if it was read.
    len: Option<u64>,
    waiting: VecDeque<Draft>,
    /// Entries that no longer wait, because there were too many.
    lost: u64,
    failures: u64,
    keep: Keep,
}

impl Audit {
    /// The log in `folder`; nothing is read or written until [`Self::begin`].
    pub fn new(folder: &Path) -> Self {
        Self::keeping(folder, Keep::default())
    }

    /// The same, with another size.
    pub fn keeping(folder: &Path, keep: Keep) -> Self {
        let (head, waiting) = (Head::none(), VecDeque::new());
        let state = State { head, len: None, waiting, lost: 0, failures: 0, keep };
        Self { folder: folder.to_path_buf(), state: Mutex::new(state) }
    }

    /// Takes the log up where an earlier run has left it. Half a line, as a power cut leaves it, is
    /// set aside; that, and a log that ends before its head, is the subject of the next entry.
    pub fn begin(&self) {
        let mut state = self.state();
        if let Err(error) = state.take_up(&self.folder) {
            state.failures += 1;
            error!(
                "the audit log in {} cannot be written: {error}; what loosens the policy is refused \
                 until it can",
                self.folder.display()
            );
        }
    }

    /// Enters something that must not happen without an entry.
    ///
    /// # Errors
    ///
    /// Why it cannot be entered, and that it therefore must not happen.
    pub fn enter(&self, draft: Draft) -> Result<(), String> {
        let mut state = self.state();
        state.write_waiting(&self.folder).and_then(|()| state.write(&self.folder, &draft)).map_err(
            |error| {
                state.failures += 1;
                format!(
                    "this cannot be entered into the audit log {}: {error}; nothing was changed: \
                     make room on the disk and try again",
                    self.folder.join(LOG_FILE).display()
                )
            },
        )
    }

    /// Enters something that happens whether it can be entered or not. Where it cannot, the entry
    /// waits.
    pub fn enter_anyway(&self, draft: Draft) {
        let mut state = self.state();
        let written =
            state.write_waiting(&self.folder).and_then(|()| state.write(&self.folder, &draft));
        if let Err(error) = written {
            state.failures += 1;
            error!(
                what = draft.what.label(),
                detail = draft.detail,
                "the audit log {} cannot be written: {error}; this goes on all the same and is \
                 entered once there is room",
                self.folder.join(LOG_FILE).display()
            );
            if state.waiting.len() < MAX_WAITING {
                state.waiting.push_back(draft);
            } else {
                state.lost += 1;
            }
        }
    }

    /// Writes what waits, if anything does.
    pub fn catch_up(&self) {
        let mut state = self.state();
        if !state.waiting.is_empty() || state.lost > 0 {
            match state.write_waiting(&self.folder) {
                Ok(()) => info!("the audit log can be written again, and nothing waits for it"),
                Err(_) => state.failures += 1,
            }
        }
    }

    /// The last entry.
    pub fn head(&self) -> Head {
        self.state().head.clone()
    }

    /// Entries that wait for room on the disk, or were lost waiting.
    pub fn missing(&self) -> u64 {
        let state = self.state();
        state.waiting.len() as u64 + state.lost
    }

    /// How often an entry could not be written.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_up(&mut self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        let told = read_head(&folder.join(HEAD_FILE));
        let mut file = open(folder)?;
        let mut tail = Tail::read(&mut file)?;
        if tail.head.sequence == 0 {
            // It has just begun: the chain comes from the file before.
            tail.head = files::last_entry(folder)?.unwrap_or(tail.head);
        }
        if let Err(error) = files::finish_removal(folder) {
            warn!("audit log: what was about to be removed of it could not be: {error}");
        }
        let mut findings = Vec::new();
        if !tail.torn.is_empty() {
            let name = format!("{LOG_FILE}.torn-{}", Timestamp::now().as_nanosecond());
            let mut aside = File::options()
                .write(true)
                .create_new(true)
                .mode(0o640)
                .open(folder.join(&name))?;
            aside.write_all(&tail.torn)?;
            aside.sync_all()?;
            file.set_len(tail.end)?;
            file.sync_all()?;
            findings.push(format!(
                "the log ended in {} bytes that are no entry, as after a power cut; they were set \
                 aside as {name}",
                tail.torn.len()
            ));
        }
        (self.head, self.len) = (tail.head, Some(tail.end));
        match told {
            Some(told) if told.sequence > self.head.sequence => findings.push(format!(
                "the log ends with entry {}, but {HEAD_FILE} knows entry {} with hash {}: entries were \
                 removed at its end",
                self.head.sequence, told.sequence, told.hash
            )),
            Some(told) if told.sequence == self.head.sequence && told.hash != self.head.hash => {
                findings.push(format!(
                    "the last entry, {}, is not the one that {HEAD_FILE} knows, which has hash {}",
                    told.sequence, told.hash
                ));
            }
            _ => {}
        }
        for finding in findings {
            warn!("audit log: {finding}");
            self.write(folder, &Draft::new(Who::gateway(), What::Log, finding))?;
        }
        Ok(())
    }

    fn write_waiting(&mut self, folder: &Path) -> io::Result<()> {
        if self.len.is_none() {
            self.take_up(folder)?;
        }
        while let Some(draft) = self.waiting.front().cloned() {
            self.write(folder, &draft)?;
            self.waiting.pop_front();
        }
        if self.lost > 0 {
            let detail = format!("{} entries were lost while the disk had no room", self.lost);
            self.write(folder, &Draft::new(Who::gateway(), What::Log, detail))?;
            self.lost = 0;
        }
        Ok(())
    }

    /// Writes one line, and then the head; before that, it begins another file where this one is full.
    fn write(&mut self, folder: &Path, draft: &Draft) -> io::Result<()> {
        let len = fs::metadata(folder.join(LOG_FILE)).map_or(0, |metadata| metadata.len());
        if len < self.keep.file_bytes || self.head.sequence == 0 {
            return self.append(folder, draft);
        }
        if let Err(error) = files::set_apart(folder, self.head.sequence) {
            warn!("audit log: it is full, and goes on all the same: {error}");
            return self.append(folder, draft);
        }
        self.len = Some(0);
        self.append(folder, draft)?;
        if let Err(error) = self.make_room(folder) {
            warn!("audit log: what is too much of it could not be removed: {error}");
        }
        Ok(())
    }

    fn make_room(&mut self, folder: &Path) -> io::Result<()> {
        // One file at a time: each is gone, or has another name, before the next one's turn comes.
        for _ in 0..files::count(folder)? {
            match files::surplus(folder, self.keep.files)? {
                None => break,
                Some(Surplus::Remove(file, last)) => {
                    let detail = format!(
                        "the entries up to {}, whose hash is {}, are removed: {} full files are kept",
                        last.sequence, last.hash, self.keep.files
                    );
                    let draft = Draft::new(Who::gateway(), What::Log, detail);
                    self.append(folder, &draft.removing(last.clone()))?;
                    files::remove(folder, &file, &last)?;
                }
                Some(Surplus::SetAside(file)) => {
                    let aside = files::set_aside(folder, &file)?;
                    let detail = format!(
                        "{} does not end with the entry that its name says: it is damaged, or no file \
                         of this log; it is kept as {aside}",
                        file.display()
                    );
                    warn!("audit log: {detail}");
                    self.append(folder, &Draft::new(Who::gateway(), What::Log, detail))?;
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, folder: &Path, draft: &Draft) -> io::Result<()> {
        let mut file = open(folder)?;
        let len = file.metadata()?.len();
        if self.len.is_some_and(|known| known != len) && len > 0 {
            warn!("audit log: it was changed by another: `bulkhead audit verify` says where");
        }
        let [policy_before, policy_after] = draft.policies.clone();
        let entry = Entry {
            sequence: self.head.sequence + 1,
            time: draft.time.to_string(),
            who: draft.who.clone(),
            what: draft.what.label().to_owned(),
            detail: draft.detail.clone(),
            reason: draft.reason.clone(),
            policy_before,
            policy_after,
            removed: draft.removed.clone(),
            previous: self.head.hash.clone(),
        };
        let (line, hash) = sealed(&entry)?;
        let written = file.write_all(&line).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a line would stand before the next one.
            let _ = file.set_len(len);
            return Err(error);
        }
        self.len = Some(len + line.len() as u64);
        self.head = Head { sequence: entry.sequence, hash };
        info!(
            sequence = entry.sequence,
            who = entry.who.name,
            what = entry.what,
            reason = entry.reason.as_deref().unwrap_or(""),
            hash = self.head.hash,
            "audit: {}",
            entry.detail
        );
        // The entry is written: a head that lags behind is told apart from one that is ahead.
        if let Err(error) = write_json(folder, HEAD_FILE, &self.head) {
            warn!("{HEAD_FILE} could not be written: {error}");
        }
        Ok(())
    }
}

/// The line of an entry, with its end, and its hash.
fn sealed(entry: &Entry) -> io::Result<(Vec<u8>, String)> {
    let body = serde_json::to_vec(entry)?;
    let hash = hex(&Sha256::digest(&body));
    let mut line = body;
    line.pop();
    line.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
    Ok((line, hash))
}

/// A line without its end to the entry and the hash that it states and has; [`None`] where it is no
/// entry.
pub(crate) fn unsealed(line: &[u8]) -> Option<(Entry, String, String)> {
    const HASH: usize = 64;
    let seal = line.len().checked_sub(b",\"hash\":\"\"}".len() + HASH)?;
    let (body, seal) = line.split_at(seal);
    let stated = seal.strip_prefix(b",\"hash\":\"")?.strip_suffix(b"\"}")?;
    let body = [body, b"}"].concat();
    let entry = serde_json::from_slice(&body).ok()?;
    let stated = std::str::from_utf8(stated).ok()?.to_owned();
    Some((entry, stated, hex(&Sha256::digest(&body))))
}

/// How a log ends.
struct Tail {
    head: Head,
    /// Where the last whole line ends.
    end: u64,
    /// What comes after it.
    torn: Vec<u8>,
}

impl Tail {
    fn read(file: &mut File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        // Room for the last line and for half a one after it.
        let from = len.saturating_sub(2 * MAX_LINE_BYTES as u64 + 2);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(len - from).read_to_end(&mut bytes)?;
        // A last line that is whole and yet no entry was torn as well: blocks may reach the disk in
        // any order.
        let mut end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut last = last_line(&bytes[..end]);
        if !last.is_empty() && unsealed(last).is_none_or(|(_, stated, is)| stated != is) {
            end -= last.len() + 1;
            last = last_line(&bytes[..end]);
        }
        let head = match unsealed(last) {
            Some((entry, hash, _)) => Head { sequence: entry.sequence, hash },
            None => Head::none(),
        };
        Ok(Self { head, end: from + end as u64, torn: bytes.split_off(end) })
    }
}

/// The last line of `bytes`, which ends with the end of a line, without it.
fn last_line(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let start = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    &bytes[start..]
}

fn open(folder: &Path) -> io::Result<File> {
    // Opened for each entry: there are few, and so a log that was moved away goes on in a new file.
    let path = folder.join(LOG_FILE);
    File::options().read(true).append(true).create(true).mode(0o640).open(path)
}

/// The head that a file knows; [`None`] where there is none, or none that makes sense.
pub fn read_head(path: &Path) -> Option<Head> {
    read_json(path)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut bytes = vec![0; 4096];
    let len = File::open(path).ok()?.read_at(&mut bytes, 0).ok()?;
    serde_json::from_slice(&bytes[..len]).ok()
}

fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let unfinished = folder.join(format!("{name}.new"));
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o640).open(&unfinished)?;
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(name))?;
    File::open(folder)?.sync_all()
}

fn shortened(mut text: String) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
