//! A policy file or folder to bounded texts.
//!
//! What is read is hostile until parsed: only regular files (behind symbolic links too) are read,
//! never more bytes than the limit, and a file's size is looked at before its first byte.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bulkhead_rules::syntax::Source;
use sha2::{Digest, Sha256};

use crate::config::Limits;
use crate::signature;

/// The texts of a policy, in the order in which they are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyFiles {
    /// Each is named by its path as an operator would type it; never empty.
    pub sources: Vec<Source>,
    /// What lies in the folder, is not hidden, and is not read: perhaps it was meant to be.
    pub left_out: Vec<PathBuf>,
}

impl PolicyFiles {
    /// Bytes of their text.
    pub fn text_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.text.len() as u64).sum()
    }

    /// Reads `path`: a file, or a folder whose `*.yaml` and `*.yml` files, in any case, are read in the order
    /// of their names; folders inside it are not entered, files that start with a dot are left out.
    ///
    /// # Errors
    ///
    /// Which file, what is wrong with it and what to do.
    pub fn read(path: &Path, limits: &Limits) -> Result<Self, ReadError> {
        let metadata = fs::metadata(path).map_err(|error| ReadError::io(path, &error))?;
        let (paths, left_out) = match metadata.is_dir() {
            true => list(path, limits)?,
            false => (vec![path.to_path_buf()], Vec::new()),
        };
        let mut left = limits.policy_bytes;
        let mut sources = Vec::with_capacity(paths.len());
        for path in paths {
            let text = read_text(&path, left).map_err(|error| match error.kind {
                ErrorKind::TooLarge(_) => {
                    ReadError { path: error.path, kind: ErrorKind::TooLarge(limits.policy_bytes) }
                }
                _ => error,
            })?;
            left -= text.len() as u64;
            sources.push(Source::new(path.display().to_string(), text));
        }
        Ok(Self { sources, left_out })
    }

    /// Writes them as a folder of ordinary files, `place`, in the place of whatever is there. After a
    /// power cut the folder is there as a whole or not at all.
    ///
    /// # Errors
    ///
    /// What the file system says; nothing is there then.
    pub fn write(&self, place: &Path) -> io::Result<()> {
        let mut unfinished = place.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        for old in [place, &unfinished] {
            remove_if_there(old)?;
        }
        fs::DirBuilder::new().mode(0o750).create(&unfinished)?;
        for source in &self.sources {
            let path = unfinished.join(short_name(source));
            let mut kept = File::options().write(true).create_new(true).mode(0o640).open(path)?;
            kept.write_all(source.text.as_bytes())?;
            kept.sync_all()?;
        }
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, place)?;
        // The new name is on the disk once the folder above is.
        File::open(place.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The hash by which the policy is known: SHA-256 over short names and texts.
    pub fn hash(&self) -> PolicyHash {
        let mut hasher = Sha256::new();
        for source in &self.sources {
            let name = short_name(source);
            for part in [name.as_bytes(), source.text.as_bytes()] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        PolicyHash(hasher.finalize().into())
    }
}

/// The name under which a source is kept: without its folders, and such that it is read again with a
/// folder, whatever it was called.
pub fn short_name(source: &Source) -> String {
    let name = Path::new(&*source.name).file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.');
    if is_policy_name(Path::new(name)) { name.to_owned() } else { format!("{name}.yaml") }
}

/// Removes a folder and what is in it. That there is none is no error.
///
/// # Errors
///
/// What the file system says.
pub fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The SHA-256 of a policy's files.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyHash(pub [u8; 32]);

impl PolicyHash {
    /// The first twelve digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a regular file of UTF-8 text of at most `limit` bytes.
///
/// # Errors
///
/// When it is something else; a file over the limit is refused before it is read.
pub fn read_text(path: &Path, limit: u64) -> Result<String, ReadError> {
    let fail = |kind| ReadError { path: path.to_path_buf(), kind };
    // Opening a FIFO would wait for its writer, and a terminal could become ours.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| ReadError::io(path, &error))?;
    let metadata = file.metadata().map_err(|error| ReadError::io(path, &error))?;
    if !metadata.is_file() {
        return Err(fail(ErrorKind::NotAFile));
    }
    if metadata.len() > limit {
        return Err(fail(ErrorKind::TooLarge(limit)));
    }
    let bytes = read_at_most(file, metadata.len(), limit)
        .map_err(|error| ReadError::io(path, &error))?
        .ok_or_else(|| fail(ErrorKind::TooLarge(limit)))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        fail(ErrorKind::NotUtf8 { line })
    })
}

/// Why a file was not read.
#[derive(Debug)]
pub struct ReadError {
    path: PathBuf,
    kind: ErrorKind,
}

#[derive(Debug)]
enum ErrorKind {
    Io(io::Error),
    NotAFile,
    TooLarge(u64),
    TooMany(usize),
    NoFiles,
    NotUtf8 { line: usize },
}

impl ReadError {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io(path: &Path, error: &io::Error) -> Self {
        // `io::Error` cannot be cloned; its kind and its number are all that is shown.
        let error = match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        Self { path: path.to_path_buf(), kind: ErrorKind::Io(error) }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            ErrorKind::Io(error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::NotFound => ": check the path",
                    io::ErrorKind::PermissionDenied => ": the user of this process may not read it",
                    _ => "",
                };
                write!(f, "cannot read {path}: {error}{remedy}")
            }
            ErrorKind::NotAFile => {
                write!(f, "{path} is not a regular file: only files and folders of files are read")
            }
            ErrorKind::TooLarge(limit) => write!(
                f,
                "{path} takes the policy over {} MiB: nothing of it was read; \
                 split it, or raise `policy-mib` under `[limits]`",
                limit >> 20
            ),
            ErrorKind::TooMany(limit) => write!(
                f,
                "{path} holds more than {limit} entries: nothing of it was read; \
                 raise `policy-files` under `[limits]` if that is meant"
            ),
            ErrorKind::NoFiles => {
                write!(f, "{path} holds no *.yaml file: an empty folder is not a policy")
            }
            ErrorKind::NotUtf8 { line } => {
                write!(f, "{path}:{line}: not UTF-8 text: save the file as UTF-8")
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// The policy files of a folder, and what else is there and not hidden, each sorted by the bytes of
/// their names.
fn list(folder: &Path, limits: &Limits) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ReadError> {
    let mut names: Vec<OsString> = Vec::new();
    let mut others: Vec<OsString> = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| ReadError::io(folder, &error))?;
    for (index, entry) in entries.enumerate() {
        if index >= limits.policy_files {
            let kind = ErrorKind::TooMany(limits.policy_files);
            return Err(ReadError { path: folder.to_path_buf(), kind });
        }
        let name = entry.map_err(|error| ReadError::io(folder, &error))?.file_name();
        if is_policy_name(Path::new(&name)) && !folder.join(&name).is_dir() {
            names.push(name);
        } else if !name.as_encoded_bytes().starts_with(b".")
            && !signature::is_part(name.as_encoded_bytes())
        {
            others.push(name);
        }
    }
    if names.is_empty() {
        return Err(ReadError { path: folder.to_path_buf(), kind: ErrorKind::NoFiles });
    }
    let sorted = |mut names: Vec<OsString>| {
        names.sort();
        names.into_iter().map(|name| folder.join(name)).collect()
    };
    Ok((sorted(names), sorted(others)))
}

fn is_policy_name(name: &Path) -> bool {
    let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
    let is = |extension: &str| name.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    !hidden && (is("yaml") || is("yml"))
}

/// At most `limit` bytes, however the file grows meanwhile; [`None`] when there are more.
fn read_at_most(file: File, expected: u64, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, Instant};

    use super::*;

    fn limits() -> Limits {
        Limits { policy_bytes: 1 << 20, policy_files: 10, ..Limits::default() }
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("80-b.YAML", "b"),
            ("90-c.Yml", "c"),
            ("00-a.yml", "a"),
            (".hidden.yaml", "x"),
            ("notes.txt", "x"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        let read = PolicyFiles::read(dir.path(), &limits()).unwrap();
        let texts: Vec<&str> = read.sources.iter().map(|source| source.text.as_str()).collect();
        assert_eq!(texts, ["a", "b", "c"]);
        let left_out = ["notes.txt", "sub.yaml"].map(|name| dir.path().join(name));
        assert_eq!(read.left_out, left_out);
        let found = crate::candidate::make(&read, None, &limits()).unwrap_err();
        let warned =
            |f: &crate::candidate::Finding| f.code == "left-out" && f.severity == "warning";
        assert_eq!(found.iter().filter(|finding| warned(finding)).count(), 2, "{found:?}");
    }

    #[test]
    fn symbolic_links_are_followed_as_a_mounted_config_map_needs() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2026")).unwrap();
        fs::write(dir.path().join("..2026/p.yaml"), "text").unwrap();
        symlink("..2026", dir.path().join("..data")).unwrap();
        symlink("..data/p.yaml", dir.path().join("p.yaml")).unwrap();
        assert_eq!(PolicyFiles::read(dir.path(), &limits()).unwrap().sources[0].text, "text");
        let file = dir.path().join("p.yaml");
        assert_eq!(PolicyFiles::read(&file, &limits()).unwrap().sources[0].text, "text");
    }

    #[test]
    fn a_sparse_gigabyte_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.yaml");
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let begun = Instant::now();
        let error = PolicyFiles::read(&path, &limits()).unwrap_err().to_string();
        assert!(begun.elapsed() < Duration::from_millis(200));
        assert!(error.contains("over 1 MiB") && error.contains("policy-mib"), "{error}");
    }

    #[test]
    fn the_limit_counts_all_files_together() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yaml", "c.yaml"] {
            fs::write(dir.path().join(name), vec![b'#'; 400 << 10]).unwrap();
        }
        let error = PolicyFiles::read(dir.path(), &limits()).unwrap_err().to_string();
        assert!(error.contains("c.yaml takes the policy over 1 MiB"), "{error}");
    }

    #[test]
    fn what_is_not_a_file_is_not_waited_for() {
        for device in ["/dev/zero", "/dev/tty", "/dev/null"] {
            assert!(PolicyFiles::read(Path::new(device), &limits()).is_err(), "{device}");
        }
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("p.yaml");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let error = PolicyFiles::read(&fifo, &limits()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn other_encodings_and_empty_folders_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = PolicyFiles::read(dir.path(), &limits()).unwrap_err().to_string();
        assert!(error.contains("holds no *.yaml file"), "{error}");
        fs::write(dir.path().join("p.yaml"), b"a: 1\nb: \xff\n").unwrap();
        let error = PolicyFiles::read(dir.path(), &limits()).unwrap_err().to_string();
        assert!(error.contains("p.yaml:2: not UTF-8"), "{error}");
        for index in 0..11 {
            fs::write(dir.path().join(format!("{index}.yaml")), "").unwrap();
        }
        let error = PolicyFiles::read(dir.path(), &limits()).unwrap_err().to_string();
        assert!(error.contains("more than 10 entries"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_again_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("kept");
        let source = |name: &str, text: &str| Source::new(name, text);
        let two = vec![source("/etc/p/00-a.yaml", "a"), source("/etc/p/.80-b", "b")];
        let one = vec![source("/etc/p/00-a.yaml", "c")];
        fs::create_dir(dir.path().join("kept.unfinished")).unwrap();
        fs::write(dir.path().join("kept.unfinished/00-a.yaml"), "half of it").unwrap();
        for sources in [two, one] {
            let files = PolicyFiles { sources, left_out: Vec::new() };
            files.write(&place).unwrap();
            assert_eq!(PolicyFiles::read(&place, &limits()).unwrap().hash(), files.hash());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_hash_sees_names_and_texts_but_not_folders() {
        let files = |list: &[(&str, &str)]| {
            let source = |&(name, text): &(&str, &str)| Source::new(name, text);
            PolicyFiles { sources: list.iter().map(source).collect(), left_out: Vec::new() }.hash()
        };
        assert_eq!(files(&[("/a/p.yaml", "x")]), files(&[("/b/p.yaml", "x")]));
        assert_ne!(files(&[("p.yaml", "x")]), files(&[("p.yaml", "y")]));
        assert_ne!(files(&[("p.yaml", "x")]), files(&[("q.yaml", "x")]));
        assert_ne!(files(&[("a", "b"), ("c", "")]), files(&[("a", ""), ("c", "b")]));
    }
}
