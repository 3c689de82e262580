//! Files that follow each other, bounded in bytes and in number.
//!
//! A file is `NAME-000000000001.ext`; the number grows and is never used again. Files are made anew
//! and never followed through links; only files that are called so are ever removed. What is written
//! is whole records: where one does not fit the disk, the file ends before it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::SinkCounts;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long records wait for others to be written with them.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing is tried after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Digits of a file's number.
const DIGITS: usize = 12;

/// What files are called, and how many there may be of what size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRing {
    /// The folder; made where it is missing.
    pub folder: PathBuf,
    /// Bytes after which a file is closed.
    pub most_bytes: u64,
    /// Files that are kept, the open one included.
    pub most_files: usize,
}

/// See the module's description.
pub(super) struct Files {
    ring: FileRing,
    name: &'static str,
    extension: &'static str,
    compresses: bool,
    /// The number of the last file; [`None`] before the folder was looked at.
    number: Option<u64>,
    open: Option<Open>,
    /// Whole records that wait, and how many they are.
    waiting: Vec<u8>,
    waiting_records: u64,
    written_at: Option<Instant>,
    failed_at: Option<Instant>,
    counts: SinkCounts,
    why: Option<String>,
    compressor: Option<JoinHandle<()>>,
}

struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Files {
    pub(super) fn new(ring: &FileRing, name: &'static str, extension: &'static str) -> Self {
        Self {
            ring: ring.clone(),
            name,
            extension,
            compresses: false,
            number: None,
            open: None,
            waiting: Vec::with_capacity(BUFFER_BYTES),
            waiting_records: 0,
            written_at: None,
            failed_at: None,
            counts: SinkCounts::default(),
            why: None,
            compressor: None,
        }
    }

    /// The same, but closed files are compressed, by a thread of their own.
    pub(super) fn compressed(mut self) -> Self {
        self.compresses = true;
        self
    }

    pub(super) fn folder(&self) -> &Path {
        &self.ring.folder
    }

    pub(super) fn counts(&self) -> (SinkCounts, Option<String>) {
        (self.counts, self.why.clone())
    }

    /// Whether the next record begins a file.
    pub(super) fn is_at_start(&self) -> bool {
        self.open.is_none() && self.waiting.is_empty()
    }

    /// Where to append a record. [`Self::appended`] is to be called after it.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.waiting
    }

    /// A record was appended. Where its file is full now, the next record begins another.
    pub(super) fn appended(&mut self) {
        self.waiting_records += 1;
        let in_file = self.open.as_ref().map_or(0, |open| open.bytes);
        if in_file + self.waiting.len() as u64 >= self.ring.most_bytes {
            self.write();
            self.close();
        } else if self.waiting.len() >= BUFFER_BYTES {
            self.write();
        }
    }

    /// Writes what has waited for long enough.
    pub(super) fn tend(&mut self, now: Instant) {
        if self.written_at.is_none_or(|at| now.duration_since(at) >= WRITE_INTERVAL) {
            self.written_at = Some(now);
            self.write();
        }
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match self.try_write() {
            Ok(()) => self.counts.written += self.waiting_records,
            Err(error) => {
                self.counts.lost += self.waiting_records;
                self.why = Some(format!("{}: {error}", self.ring.folder.display()));
                // The next record begins a file, which may fit where this one did not.
                self.close();
                self.failed_at = Some(Instant::now());
            }
        }
        self.waiting.clear();
        self.waiting_records = 0;
    }

    fn try_write(&mut self) -> io::Result<()> {
        if self.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(io::Error::other("writing has failed a moment ago"));
        }
        if self.open.is_none() {
            self.open = Some(self.make()?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(error) = open.file.write_all(&self.waiting) {
            // What was written in part is cut off again.
            let _ = open.file.set_len(open.bytes);
            return Err(error);
        }
        open.bytes += self.waiting.len() as u64;
        self.failed_at = None;
        Ok(())
    }

    /// Makes the next file, and removes the oldest ones that are too many.
    fn make(&mut self) -> io::Result<Open> {
        DirBuilder::new().recursive(true).mode(0o750).create(&self.ring.folder)?;
        let mine = self.mine()?;
        let last = mine.last().map_or(0, |(number, _)| *number);
        let number = self.number.map_or(last, |number| number.max(last)) + 1;
        let too_many = (mine.len() + 1).saturating_sub(self.ring.most_files.max(1));
        for (_, path) in &mine[..too_many.min(mine.len())] {
            fs::remove_file(path)?;
        }
        let name = format!("{}-{number:0DIGITS$}.{}", self.name, self.extension);
        let path = self.ring.folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path)?;
        self.number = Some(number);
        Ok(Open { file, path, bytes: 0 })
    }

    /// The files of this ring in their order, compressed or not.
    fn mine(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut mine = Vec::new();
        for entry in fs::read_dir(&self.ring.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| {
                let rest = name.strip_prefix(self.name)?.strip_prefix('-')?;
                let (number, rest) = rest.split_at_checked(DIGITS)?;
                let extension = rest.strip_prefix('.')?;
                let extension = extension.strip_suffix(".gz").unwrap_or(extension);
                let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                (is_number && extension == self.extension).then(|| number.parse().ok())?
            });
            if let (Some(number), true) = (number, entry.file_type()?.is_file()) {
                mine.push((number, entry.path()));
            }
        }
        mine.sort();
        Ok(mine)
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.bytes == 0 {
            let _ = fs::remove_file(&open.path);
        } else if self.compresses {
            // One at a time: a disk that is slower than the records is not given more at once.
            self.wait_for_compressor();
            let body = move || {
                // A file that cannot be compressed stays as it is.
                let _ = compress(&open.path);
            };
            self.compressor = thread::Builder::new().name("compress".to_owned()).spawn(body).ok();
        }
    }

    fn wait_for_compressor(&mut self) {
        if let Some(compressor) = self.compressor.take() {
            let _ = compressor.join();
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.write();
        self.close();
        self.wait_for_compressor();
    }
}

/// Puts a compressed file in the place of another.
fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let compressed = PathBuf::from(name);
    let compressing = || {
        let mut from = File::open(path)?;
        let to = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&compressed)?;
        let mut encoder = GzEncoder::new(to, Compression::fast());
        io::copy(&mut from, &mut encoder)?;
        encoder.finish()?.sync_all()
    };
    match compressing() {
        Ok(()) => fs::remove_file(path),
        Err(error) => {
            let _ = fs::remove_file(&compressed);
            Err(error)
        }
    }
}
