//! The files of the log: the one that grows, and those that were full before it.
//!
//! A full `audit.jsonl` is renamed `audit-N.jsonl`, by its last entry, and another one begins, whose first
//! entry names the hash of that one: the chain goes through all files. So many are kept that the log
//! never fills a disk. What is removed is entered into the log, and `audit.start` beside it knows the
//! last entry that is gone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Head, LOG_FILE, Tail, read_head, write_head};

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

/// The entry after which the log in `folder` begins: the last one that was removed, if any was.
pub fn start(folder: &Path) -> Option<Head> {
    read_head(&folder.join(START_FILE))
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

/// The last entry of what is about to be removed for want of room, the oldest full file; [`None`] where
/// no more files are there than are `kept`.
///
/// # Errors
///
/// What the file system says.
pub(super) fn surplus(folder: &Path, kept: usize) -> io::Result<Option<Head>> {
    let full = full(folder)?;
    match full.first() {
        Some((_, oldest)) if full.len() > kept.max(1) => {
            Ok(Some(Tail::read(&mut File::open(oldest)?)?.head))
        }
        _ => Ok(None),
    }
}

/// Removes the full files up to that which ends with `last`.
///
/// # Errors
///
/// What the file system says; the next call goes on.
pub(super) fn remove_up_to(folder: &Path, last: &Head) -> io::Result<()> {
    if start(folder).as_ref() != Some(last) {
        write_head(folder, START_FILE, last)?;
    }
    for (sequence, path) in full(folder)? {
        if sequence <= last.sequence {
            fs::remove_file(path)?;
        }
    }
    Ok(())
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
