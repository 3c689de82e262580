//! When the policy's files may have changed.
//!
//! The kernel's notifications are hints that somebody touched a folder; whether anything changed is
//! told by the files' [`Signature`], and whether it matters by their content. So an editor that
//! writes beside the file and renames, a mounted config map whose link is swapped, and a folder that
//! gains a file all come out the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crossbeam::channel::Sender;
use notify::{RecursiveMode, Watcher};

use crate::audit::Who;
use crate::reload::{Request, Trigger};
use crate::signature;

/// The most entries of a folder that a signature looks at; the reader's own limit is lower or says
/// so.
const MAX_ENTRIES: usize = 100_000;

/// What tells one state of files from another without reading them: device, inode, size, time of
/// change of each, links followed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Signature(Vec<(PathBuf, [i64; 5])>);

impl Signature {
    /// The files at `path` as they are now; what is not there is left out.
    pub fn of(path: &Path) -> Self {
        // A signature that lies beside a file changes what becomes of it.
        let mut paths = vec![path.to_path_buf()];
        paths.extend(signature::places(path));
        if path.is_dir() {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            paths.extend(entries.take(MAX_ENTRIES).map(|entry| entry.path()));
        }
        let mut found: Vec<_> = (paths.into_iter())
            .filter_map(|path| fs::metadata(&path).ok().map(|metadata| (path, metadata)))
            // A folder's own times change with files in it that are no policy.
            .filter(|(_, metadata)| !metadata.is_dir())
            .map(|(path, m)| {
                let identity = [m.dev() as i64, m.ino() as i64];
                let state = [m.size() as i64, m.ctime(), m.ctime_nsec()];
                (path, [identity[0], identity[1], state[0], state[1], state[2]])
            })
            .collect();
        found.sort();
        found.dedup();
        Self(found)
    }
}

/// Watches the folders in which the policy's files lie, as long as it lives.
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// Sends a request whenever something happens where `path` lies, where a link there leads to, or
    /// in `path` if it is a folder.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to watch; the files are then still looked at now and then.
    pub fn new(path: &Path, requests: Sender<Request>) -> notify::Result<Self> {
        let changed = move |event: notify::Result<notify::Event>| {
            // Our own reading is no change.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                // A full queue holds requests that will read the same files.
                let (trigger, who) = (Trigger::File, Who::thing("file"));
                let _ = requests.try_send(Request::Reload { trigger, who, reply: None });
            }
        };
        let mut watcher = notify::recommended_watcher(changed)?;
        for folder in folders(path) {
            watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher })
    }
}

/// The folders to watch for `path`.
fn folders(path: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_path_buf(),
        None => path.to_path_buf(),
    };
    let mut folders = vec![parent(path)];
    if let Ok(real) = path.canonicalize() {
        folders.push(parent(&real));
        if real.is_dir() {
            folders.push(real);
        }
    }
    folders.sort();
    folders.dedup();
    folders.retain(|folder| folder.is_dir());
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;
    use crate::reload;

    #[test]
    fn a_signature_changes_with_the_files_and_with_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.yaml");
        let missing = Signature::of(&file);
        fs::write(&file, "one").unwrap();
        let first = Signature::of(&file);
        assert_ne!(missing, first);
        fs::write(dir.path().join("unrelated"), "x").unwrap();
        assert_eq!(first, Signature::of(&file));
        let beside = dir.path().join("p.yaml.new");
        fs::write(&beside, "two").unwrap();
        fs::rename(&beside, &file).unwrap();
        assert_ne!(first, Signature::of(&file), "an editor's rename, same size");
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("p.yaml"), text).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/p.yaml", dir.path().join("p.yaml")).unwrap();
        let whole = dir.path().to_path_buf();
        let before = (Signature::of(&whole), Signature::of(&whole.join("p.yaml")));
        let (requests, queue) = reload::queue();
        let _watch = Watch::new(&whole.join("p.yaml"), requests).unwrap();
        symlink("..2", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert!(queue.recv_timeout(Duration::from_secs(5)).is_ok(), "the kernel told");
        assert_ne!(before.0, Signature::of(&whole));
        assert_ne!(before.1, Signature::of(&whole.join("p.yaml")));
    }
}
