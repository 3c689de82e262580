//! The last accepted policy: what the gateway falls back to when it starts and the policy's files
//! are bad.
//!
//! It lies in the state directory as a folder of ordinary files, `accepted-HASH`, to which the link
//! `accepted` points. The link is replaced in one step after everything is on the disk, so a power
//! cut leaves the old policy or the new one. The folder's name is the hash of what it holds: a
//! damaged one is not used.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use crate::config::Limits;
use crate::policy_files::PolicyFiles;

const LINK: &str = "accepted";
const FOLDER_PREFIX: &str = "accepted-";

/// The folder of the last accepted policy, as a person would look at it.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(LINK)
}

/// Keeps `files` as the last accepted policy.
///
/// # Errors
///
/// What the file system says; the policy that was kept before is then kept on.
pub fn keep(state_dir: &Path, files: &PolicyFiles) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(state_dir)?;
    let name = format!("{FOLDER_PREFIX}{}", files.hash());
    let folder = state_dir.join(&name);
    if !is_whole(&folder, files) {
        files.write(&folder)?;
    }
    let link = state_dir.join(format!("{LINK}.new"));
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&name, &link)?;
    fs::rename(&link, path(state_dir))?;
    File::open(state_dir)?.sync_all()?;
    remove_others(state_dir, &name);
    Ok(())
}

/// The last accepted policy.
///
/// # Errors
///
/// A sentence: that there is none, or that it is damaged.
pub fn read(state_dir: &Path, limits: &Limits) -> Result<PolicyFiles, String> {
    let link = path(state_dir);
    let target = fs::read_link(&link)
        .map_err(|_| format!("no policy was ever accepted ({} is not there)", link.display()))?;
    let files = PolicyFiles::read(&link, limits).map_err(|error| error.to_string())?;
    let expected = format!("{FOLDER_PREFIX}{}", files.hash());
    if target.as_os_str() != expected.as_str() {
        return Err(format!("{} is damaged: it is not what was accepted", link.display()));
    }
    Ok(files)
}

fn is_whole(folder: &Path, files: &PolicyFiles) -> bool {
    let limits =
        Limits { policy_bytes: u64::MAX - 1, policy_files: usize::MAX, ..Limits::default() };
    PolicyFiles::read(folder, &limits).is_ok_and(|kept| kept.hash() == files.hash())
}

/// Earlier policies are of no more use; one that cannot be removed does no harm.
fn remove_others(state_dir: &Path, name: &str) {
    for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let kept = other.to_string_lossy();
        if kept.starts_with(FOLDER_PREFIX) && kept != name {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::syntax::Source;

    use super::*;

    fn limits() -> Limits {
        Limits { policy_bytes: 1 << 20, policy_files: 10, ..Limits::default() }
    }

    fn files(list: &[(&str, &str)]) -> PolicyFiles {
        let source = |&(name, text): &(&str, &str)| Source::new(name, text);
        PolicyFiles { sources: list.iter().map(source).collect(), left_out: Vec::new() }
    }

    #[test]
    fn the_last_of_several_is_kept_and_the_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(read(&state, &limits()).unwrap_err().contains("no policy was ever accepted"));
        let first = files(&[("/etc/p/00-a.yaml", "a"), ("/etc/p/80-b.yml", "b")]);
        let second = files(&[("/etc/p/00-a.yaml", "c")]);
        for kept in [&first, &second, &first, &first] {
            keep(&state, kept).unwrap();
            assert_eq!(read(&state, &limits()).unwrap().hash(), kept.hash());
            assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "one folder and the link");
        }
    }

    #[test]
    fn what_was_changed_behind_our_back_is_not_used_but_mended() {
        let dir = tempfile::tempdir().unwrap();
        let kept = files(&[("p.yaml", "allow: little")]);
        keep(dir.path(), &kept).unwrap();
        fs::write(path(dir.path()).join("p.yaml"), "allow: everything").unwrap();
        assert!(read(dir.path(), &limits()).unwrap_err().contains("damaged"));
        keep(dir.path(), &kept).unwrap();
        assert_eq!(read(dir.path(), &limits()).unwrap().sources[0].text, "allow: little");
    }

    #[test]
    fn a_policy_file_of_any_name_can_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = files(&[("/srv/.policy", "text")]);
        keep(dir.path(), &kept).unwrap();
        assert_eq!(read(dir.path(), &limits()).unwrap().hash(), kept.hash());
    }
}
