//! A small file of JSON that several processes read and write: the console that serves, and commands.
//!
//! A reader sees a whole file or the one before; a writer holds a lock beside it. What another process
//! wrote is noticed by the file's identity and time, looked at whenever it is asked for. Links are not
//! followed: whoever has taken over the console must not have a command write through one.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// The file.
pub struct Kept<T> {
    path: PathBuf,
    cached: Mutex<Option<(Stamp, Arc<T>)>>,
    of: PhantomData<T>,
}

/// By what a file is known to be the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<T: Serialize + DeserializeOwned + Default + Clone> Kept<T> {
    /// The file `name` in `folder`; it need not be there.
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(name), cached: Mutex::new(None), of: PhantomData }
    }

    /// What is in it; nothing where there is no file.
    ///
    /// # Errors
    ///
    /// That it cannot be read, or is damaged, and what to do.
    pub fn read(&self) -> Result<Arc<T>, String> {
        let stamp = match fs::metadata(&self.path) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(self.failed(&error)),
        };
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = cached.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(Arc::clone(value));
        }
        let (stamp, value) = self.load()?;
        *cached = Some((stamp, Arc::clone(&value)));
        Ok(value)
    }

    /// Changes what is in it, unless `change` refuses, while nobody else can.
    ///
    /// # Errors
    ///
    /// Why `change` refuses, or that the file cannot be read or written.
    pub fn change<R, E: From<String>>(
        &self,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E> {
        let failed = |error: io::Error| E::from(self.failed(&error));
        let lock = self.path.with_extension("lock");
        let lock = private().read(true).create(true).truncate(false).open(lock).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut value = match self.path.exists() {
            true => (*self.load().map_err(E::from)?.1).clone(),
            false => T::default(),
        };
        let done = change(&mut value)?;
        self.write(&value).map_err(failed)?;
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(done)
    }

    fn load(&self) -> Result<(Stamp, Arc<T>), String> {
        let read = || -> io::Result<(Stamp, Vec<u8>)> {
            let mut file = plainly(OpenOptions::new().read(true)).open(&self.path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
            }
            let stamp = Stamp::of(&metadata);
            let mut bytes = Vec::new();
            (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            Ok((stamp, bytes))
        };
        let (stamp, bytes) = read().map_err(|error| self.failed(&error))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("{} is larger than {MAX_BYTES} bytes", self.path.display()));
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            let path = self.path.display();
            format!("{path} is damaged: {error}; put it back from a copy, or move it away")
        })?;
        Ok((stamp, Arc::new(value)))
    }

    fn write(&self, value: &T) -> io::Result<()> {
        let hidden = self.path.with_extension("new");
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private().create_new(true).open(&hidden)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&hidden, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }

    fn failed(&self, error: &io::Error) -> String {
        format!("{} cannot be used: {error}", self.path.display())
    }
}

/// A file that nobody else may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    plainly(options.write(true).mode(0o600));
    options
}

/// Opens what has the name itself, no link's target, and does not wait for the other end of a pipe.
fn plainly(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_writes_another_reads_and_nobody_else_may() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let [one, other]: [Kept<Vec<u32>>; 2] =
            [(); 2].map(|()| Kept::new(folder.path(), "numbers.json"));
        assert_eq!(*one.read().unwrap_or_else(|e| panic!("{e}")), [0; 0]);
        for number in [1, 2] {
            let changed = one.change(|numbers| {
                numbers.push(number);
                Ok::<_, String>(())
            });
            assert_eq!(changed, Ok(()));
            assert_eq!(other.read().map(|numbers| numbers.last().copied()), Ok(Some(number)));
        }
        let refused = one.change(|numbers| {
            numbers.clear();
            Err::<(), _>("no".to_owned())
        });
        assert_eq!(refused, Err("no".to_owned()));
        assert_eq!(other.read().map(|numbers| numbers.len()), Ok(2));
        let path = folder.path().join("numbers.json");
        let mode = fs::metadata(&path).map(|metadata| metadata.mode() & 0o777);
        assert_eq!(mode.ok(), Some(0o600));
        fs::write(&path, "[1, 2").unwrap_or_else(|e| panic!("{e}"));
        assert!(other.read().is_err_and(|error| error.contains("is damaged")));
        let change = one.change(|_| Ok::<_, String>(()));
        assert!(change.is_err(), "what cannot be read is not written over");
    }

    #[test]
    fn links_and_pipes_that_somebody_laid_there_are_not_followed() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = |name: &str| folder.path().join(name);
        let kept: Kept<Vec<u32>> = Kept::new(folder.path(), "numbers.json");
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(path(target), path(name)).unwrap_or_else(|e| panic!("{e}"));
        };
        let change = || {
            kept.change(|numbers| {
                numbers.push(1);
                Ok::<_, String>(())
            })
        };
        link("elsewhere", "numbers.lock");
        assert!(change().is_err());
        assert!(!path("elsewhere").exists(), "nothing was made through the link");
        fs::remove_file(path("numbers.lock")).unwrap_or_else(|e| panic!("{e}"));
        fs::write(path("elsewhere"), "[7]").unwrap_or_else(|e| panic!("{e}"));
        link("elsewhere", "numbers.json");
        assert!(kept.read().is_err() && change().is_err());
        fs::remove_file(path("numbers.json")).unwrap_or_else(|e| panic!("{e}"));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let pipe = rustix::fs::mkfifoat(rustix::fs::CWD, path("numbers.json"), mode);
        pipe.unwrap_or_else(|e| panic!("{e}"));
        assert!(kept.read().is_err(), "and nobody waits for a pipe");
        assert_eq!(fs::read_to_string(path("elsewhere")).ok().as_deref(), Some("[7]"));
    }
}
