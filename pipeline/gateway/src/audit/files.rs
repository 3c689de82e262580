//! The files of the log: the one that grows, and those that were full before it.
//!
//! A full `audit.jsonl` is renamed `audit-N.jsonl`, by its last entry, and another one begins, whose first
//! entry names the hash of that one: the chain goes through all files. So many are kept that the log
//! never fills a disk. Before a file is removed the log has an entry that names its last one, and then
//! `audit.start` beside the log knows it: where a log begins later than with its first entry, it must
//! itself say so.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Head, LOG_FILE, Tail, read_json, write_json};

/// The name of the file that knows the last entry that was removed.
pub const START_FILE: &str = "audit.start";

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

/// How much of the log is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// A file of at least so many bytes is full.
    pub file_bytes: u64,
    /// Full files that are kept, beside the one that grows. At least 1.
    pub files: usize,
}

impl Default for Keep {
    /// Half a gigabyte, or about a million entries.
    fn default() -> Self {
        Self { file_bytes: 8 << 20, files: 64 }
    }
}

/// The files of the log in `folder` that are there, in the order of their entries.
///
/// # Errors
///
/// What the file system says of the folder.
pub fn of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = full(folder)?.into_iter().map(|(_, path)| path).collect();
    let growing = folder.join(LOG_FILE);
    if growing.exists() || files.is_empty() {
        files.push(growing);
    }
    Ok(files)
}

/// Where a log begins of which something was removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Start {
    /// The last entry that was removed.
    #[serde(flatten)]
    pub last: Head,
    /// The one that was so before: the log still begins after it until the file with `last` is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Head>,
}

/// Where the log in `folder` begins, as the file beside it says; [`None`] where nothing was removed.
pub fn start(folder: &Path) -> Option<Start> {
    read_json(&folder.join(START_FILE))
}

/// The last entry of the newest full file.
///
/// # Errors
///
/// What the file system says.
pub(super) fn last_entry(folder: &Path) -> io::Result<Option<Head>> {
    let Some((_, path)) = full(folder)?.pop() else { return Ok(None) };
    Ok(Some(Tail::read(&mut File::open(path)?)?.head))
}

/// Puts the file that grows, whose last entry has this number, among the full ones.
///
/// # Errors
///
/// What the file system says; it goes on growing then.
pub(super) fn set_apart(folder: &Path, sequence: u64) -> io::Result<()> {
    let name = format!("{PREFIX}{sequence:012}{SUFFIX}");
    fs::rename(folder.join(LOG_FILE), folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// What is to be done about the oldest full file, for want of room.
#[derive(Debug)]
pub(super) enum Surplus {
    /// It is removed. Its last entry is this one.
    Remove(PathBuf, Head),
    /// It does not end with the entry that its name says: it is damaged, or no file of this log. It is
    /// evidence, and set aside.
    SetAside(PathBuf),
}

/// The oldest full file, where more are there than are `kept`.
///
/// # Errors
///
/// What the file system says.
pub(super) fn surplus(folder: &Path, kept: usize) -> io::Result<Option<Surplus>> {
    let mut full = full(folder)?;
    if full.len() <= kept.max(1) {
        return Ok(None);
    }
    let (sequence, oldest) = full.swap_remove(0);
    Ok(Some(match last_of(&oldest)? {
        Some(last) if last.sequence == sequence => Surplus::Remove(oldest, last),
        _ => Surplus::SetAside(oldest),
    }))
}

/// How many full files there are.
///
/// # Errors
///
/// What the file system says.
pub(super) fn count(folder: &Path) -> io::Result<usize> {
    Ok(full(folder)?.len())
}

/// Notes that the log begins after `last`, and removes the file that ends with it. Until it is gone the
/// log begins where it began before.
///
/// # Errors
///
/// What the file system says.
pub(super) fn remove(folder: &Path, file: &Path, last: &Head) -> io::Result<()> {
    let before = start(folder);
    if before.as_ref().map(|start| &start.last) != Some(last) {
        let before = before.map(|start| start.last);
        write_json(folder, START_FILE, &Start { last: last.clone(), before })?;
    }
    fs::remove_file(file)?;
    File::open(folder)?.sync_all()
}

/// Removes what was being removed when an earlier run ended, if anything was.
///
/// # Errors
///
/// What the file system says.
pub(super) fn finish_removal(folder: &Path) -> io::Result<()> {
    let Some(Start { last, .. }) = start(folder) else { return Ok(()) };
    let Some((sequence, oldest)) = full(folder)?.into_iter().next() else { return Ok(()) };
    if sequence == last.sequence && last_of(&oldest)?.as_ref() == Some(&last) {
        fs::remove_file(oldest)?;
    }
    Ok(())
}

/// Gives a file a name that is none of the log's. Returns it.
///
/// # Errors
///
/// What the file system says.
pub(super) fn set_aside(folder: &Path, file: &Path) -> io::Result<String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let aside = format!("{name}.aside-{}", Timestamp::now().as_nanosecond());
    fs::rename(file, folder.join(&aside))?;
    File::open(folder)?.sync_all()?;
    Ok(aside)
}

/// The last entry of a file that ends with a whole one.
fn last_of(file: &Path) -> io::Result<Option<Head>> {
    let tail = Tail::read(&mut File::open(file)?)?;
    Ok(Some(tail.head).filter(|head| tail.torn.is_empty() && head.sequence > 0))
}

/// The full files, the oldest first, with the numbers of their last entries.
fn full(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            files.push((number, folder.join(name)));
        }
    }
    files.sort_unstable();
    Ok(files)
}
