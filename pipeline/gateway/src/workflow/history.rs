//! Every policy that was in force, with the modes of the wires: what `bulkhead rollback` goes back to.
//!
//! In the state directory, `history/versions.json` lists the versions, and a folder for each text,
//! named by its hash, holds its files. Both are bounded: the oldest versions go first, and with the
//! last version of a text its folder.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::overlay::{NotRead, read_kept, write_whole};
use crate::audit::Who;
use crate::config::Limits;
use crate::policy_files::PolicyFiles;

const FOLDER: &str = "history";
const INDEX: &str = "versions.json";
const TEXT_PREFIX: &str = "policy-";

/// Versions that are kept.
pub const MAX_VERSIONS: usize = 200;

/// Bytes of all texts together, whatever the number of versions; the last two are always kept.
const MAX_BYTES: u64 = 512 << 20;

/// A policy that was in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Version {
    /// The number, from 1.
    pub number: u64,
    /// When it came into force, in milliseconds since the Unix epoch.
    pub at_unix_ms: i64,
    /// The hash of the policy's files.
    pub hash: String,
    /// Bytes of their texts.
    pub bytes: u64,
    /// Its rules.
    pub rules: usize,
    /// Where it was read from.
    pub source: String,
    /// Who put it in force.
    pub who: Who,
    /// How: `start`, `file change`, `lockdown`, `rollback`, `observe` and the like.
    pub by: String,
    /// The mode of each wire.
    pub modes: BTreeMap<String, String>,
    /// The version that it brought back, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought_back: Option<u64>,
}

/// The versions that are kept, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct History {
    /// The versions.
    pub versions: Vec<Version>,
}

impl History {
    /// What is kept; nothing where nothing is.
    ///
    /// # Errors
    ///
    /// What is wrong with the list.
    pub fn read(state_dir: &Path) -> Result<Self, String> {
        match read_kept(&state_dir.join(FOLDER), INDEX) {
            Ok(kept) => Ok(kept.unwrap_or_default()),
            Err(error @ NotRead::Damaged(_)) => {
                Err(format!("{error}; move it away to begin a new history"))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The version with this number.
    pub fn version(&self, number: u64) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// The version to go back to from `number`: the one before it, or before the one that it brought
    /// back, so that going back again goes further back. From 0, which was not kept, to the last one
    /// that was.
    pub fn before(&self, number: u64) -> Option<&Version> {
        if number == 0 {
            return self.versions.last();
        }
        let of = self.version(number).and_then(|version| version.brought_back).unwrap_or(number);
        self.versions.iter().rev().find(|version| version.number < of)
    }

    /// Adds a version, whose number is given here, and keeps it. One that says the same as the last
    /// one is that. Returns its number.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn add(
        &mut self,
        state_dir: &Path,
        files: &PolicyFiles,
        mut version: Version,
    ) -> io::Result<u64> {
        if let Some(last) = self.versions.last() {
            if last.hash == version.hash && last.modes == version.modes {
                return Ok(last.number);
            }
        }
        version.number = self.versions.last().map_or(1, |last| last.number + 1);
        let folder = state_dir.join(FOLDER);
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder)?;
        let place = text_folder(&folder, &version.hash);
        if !place.is_dir() {
            files.write(&place)?;
        }
        let number = version.number;
        self.versions.push(version);
        self.shorten();
        write_whole(&folder, INDEX, &serde_json::to_vec_pretty(self)?)?;
        self.remove_others(&folder);
        Ok(number)
    }

    /// The files of a version.
    ///
    /// # Errors
    ///
    /// A sentence: that they are gone, or damaged.
    pub fn files(
        state_dir: &Path,
        version: &Version,
        limits: &Limits,
    ) -> Result<PolicyFiles, String> {
        let folder = text_folder(&state_dir.join(FOLDER), &version.hash);
        let limits = Limits { policy_bytes: u64::MAX - 1, ..limits.clone() };
        let files = PolicyFiles::read(&folder, &limits).map_err(|error| error.to_string())?;
        if files.hash().to_string() != version.hash {
            return Err(format!("{} is damaged: it is not what was accepted", folder.display()));
        }
        Ok(files)
    }

    fn shorten(&mut self) {
        let surplus = self.versions.len().saturating_sub(MAX_VERSIONS);
        self.versions.drain(..surplus);
        while self.versions.len() > 2 && self.bytes() > MAX_BYTES {
            self.versions.remove(0);
        }
    }

    fn bytes(&self) -> u64 {
        let texts: BTreeMap<&str, u64> =
            self.versions.iter().map(|version| (version.hash.as_str(), version.bytes)).collect();
        texts.values().sum()
    }

    /// Texts of no version are of no more use; one that cannot be removed does no harm.
    fn remove_others(&self, folder: &Path) {
        let kept: HashSet<&str> = self.versions.iter().map(|v| v.hash.as_str()).collect();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.strip_prefix(TEXT_PREFIX).is_some_and(|hash| !kept.contains(hash)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn text_folder(folder: &Path, hash: &str) -> PathBuf {
    folder.join(format!("{TEXT_PREFIX}{hash}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use bulkhead_rules::syntax::Source;

    use super::*;

    fn files(text: &str) -> PolicyFiles {
        PolicyFiles { sources: vec![Source::new("/etc/policy.yaml", text)], left_out: Vec::new() }
    }

    fn version(files: &PolicyFiles, mode: &str) -> Version {
        Version {
            number: 0,
            at_unix_ms: 1,
            hash: files.hash().to_string(),
            bytes: 1,
            rules: 1,
            source: "policy.yaml".to_owned(),
            who: Who::thing("test"),
            by: "reload".to_owned(),
            modes: [("w".to_owned(), mode.to_owned())].into(),
            brought_back: None,
        }
    }

    #[test]
    fn versions_are_kept_read_again_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::default();
        let first = files("first");
        for (text, mode, number) in
            [("first", "observe", 1), ("first", "observe", 1), ("first", "enforce", 2)]
        {
            let files = files(text);
            let added = history.add(dir.path(), &files, version(&files, mode)).unwrap();
            assert_eq!(added, number);
        }
        assert_eq!(History::read(dir.path()).unwrap(), history);
        let kept = History::files(dir.path(), &history.versions[0], &Limits::default()).unwrap();
        assert_eq!(kept.hash(), first.hash());
        for number in 0..MAX_VERSIONS {
            let files = files(&format!("text {number}"));
            history.add(dir.path(), &files, version(&files, "enforce")).unwrap();
        }
        assert_eq!(history.versions.len(), MAX_VERSIONS);
        assert_eq!(history.versions[0].number, 3);
        let entries = fs::read_dir(dir.path().join(FOLDER)).unwrap().count();
        assert_eq!(entries, MAX_VERSIONS + 1, "a folder for each, and the list");
        assert!(history.version(1).is_none() && history.version(3).is_some());
    }

    #[test]
    fn going_back_twice_goes_further_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::default();
        for text in ["a", "b", "c"] {
            let files = files(text);
            history.add(dir.path(), &files, version(&files, "enforce")).unwrap();
        }
        assert_eq!(history.before(3).unwrap().number, 2);
        let files = files("b");
        let back = Version { brought_back: Some(2), ..version(&files, "enforce") };
        let number = history.add(dir.path(), &files, back).unwrap();
        assert_eq!((number, history.before(number).unwrap().number), (4, 1));
        assert_eq!(history.before(1), None);
        assert_eq!(history.before(0).unwrap().number, 4, "what is in force was not kept");
    }

    #[test]
    fn a_changed_text_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let (mut history, files) = (History::default(), files("allow: little"));
        history.add(dir.path(), &files, version(&files, "enforce")).unwrap();
        let version = &history.versions[0];
        let folder = text_folder(&dir.path().join(FOLDER), &version.hash);
        fs::write(folder.join("policy.yaml"), "allow: everything").unwrap();
        let error = History::files(dir.path(), version, &Limits::default()).unwrap_err();
        assert!(error.contains("damaged"), "{error}");
        fs::write(dir.path().join(FOLDER).join(INDEX), "[").unwrap();
        assert!(History::read(dir.path()).is_err());
    }
}
