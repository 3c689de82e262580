//! Which signed policies were in force, so that an older one is known as such; and what was refused.
//!
//! `signatures.json` in the state directory holds the newest and the last ones. Where it is damaged,
//! the next signed policy is taken whatever its age, and the audit log says so.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::manifest::instant;
use super::{Reason, Refusal, Seal};
use crate::workflow::history::MAX_VERSIONS;
use crate::workflow::overlay::{NotRead, read_kept, write_whole};

const FILE: &str = "signatures.json";

/// The signed policies of one gateway.
pub struct Ledger {
    state_dir: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    kept: Kept,
    refused: BTreeMap<Reason, u64>,
    last_refused: Option<String>,
}

/// What the next start has to know.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    /// The one that no older one may follow.
    newest: Option<Seal>,
    /// Those whose texts may be kept still, so that a version that is brought back has its signer.
    seen: Vec<Seal>,
}

impl Ledger {
    /// Of a gateway with this state directory, before anything is read from it.
    pub fn new(state_dir: &Path) -> Self {
        let refused = Reason::ALL.iter().map(|reason| (*reason, 0)).collect();
        let inner = Inner { kept: Kept::default(), refused, last_refused: None };
        Self { state_dir: state_dir.to_path_buf(), inner: Mutex::new(inner) }
    }

    /// Takes up what an earlier run has kept.
    ///
    /// # Errors
    ///
    /// What is wrong with it: how old a policy may be is then not known.
    pub fn restore(&self) -> Result<(), String> {
        match read_kept::<Kept>(&self.state_dir, FILE) {
            Ok(kept) => {
                self.lock().kept = kept.unwrap_or_default();
                Ok(())
            }
            Err(NotRead::Damaged(error) | NotRead::Unreadable(error)) => Err(format!(
                "{error}; which signed policy was the newest is not known any more, and the next one is \
                 taken whatever its age"
            )),
        }
    }

    /// Refuses a policy that is older than one that was in force.
    ///
    /// # Errors
    ///
    /// Which one, and what to do.
    pub fn check_age(&self, seal: &Seal) -> Result<(), Refusal> {
        let inner = self.lock();
        let Some(newest) = &inner.kept.newest else { return Ok(()) };
        if seal.manifest == newest.manifest || seal.issued_s > newest.issued_s {
            return Ok(());
        }
        let (issued, since) = (instant(seal.issued_s), instant(newest.issued_s));
        let message = match seal.issued_s == newest.issued_s {
            true => {
                format!("another policy that was issued at the same instant, {since}, was in force")
            }
            false => format!("the policy was issued {issued}, and one of {since} was in force"),
        };
        Err(Refusal::new(Reason::Older, message))
    }

    /// Notes that a signed policy is in force: nothing older follows it.
    ///
    /// # Errors
    ///
    /// What the file system says: a restart will not know it.
    pub fn put_in_force(&self, seal: &Seal) -> io::Result<()> {
        self.note(seal, true)
    }

    /// Notes that a signed policy was staged, so that its signer is known when it is locked down.
    ///
    /// # Errors
    ///
    /// What the file system says: a restart will not know it.
    pub fn staged(&self, seal: &Seal) -> io::Result<()> {
        self.note(seal, false)
    }

    /// The seal of the policy with this hash, where it was seen.
    pub fn seal_of(&self, policy: &str) -> Option<Seal> {
        self.lock().kept.seen.iter().rev().find(|seal| seal.policy == policy).cloned()
    }

    /// Counts a refusal. Whether it is another one than the last.
    pub fn refuse(&self, refusal: &Refusal) -> bool {
        let mut inner = self.lock();
        *inner.refused.entry(refusal.reason).or_default() += 1;
        inner.last_refused.replace(refusal.message.clone()).as_ref() != Some(&refusal.message)
    }

    /// How often each reason was had.
    pub fn refused(&self) -> BTreeMap<Reason, u64> {
        self.lock().refused.clone()
    }

    fn note(&self, seal: &Seal, is_in_force: bool) -> io::Result<()> {
        let mut inner = self.lock();
        inner.last_refused = None;
        let is_newest = inner.kept.newest.as_ref() == Some(seal);
        if inner.kept.seen.last() == Some(seal) && (is_newest || !is_in_force) {
            return Ok(());
        }
        inner.kept.seen.retain(|seen| seen != seal);
        inner.kept.seen.push(seal.clone());
        // One more than there are versions: what is staged is none yet.
        let surplus = inner.kept.seen.len().saturating_sub(MAX_VERSIONS + 1);
        inner.kept.seen.drain(..surplus);
        if is_in_force {
            inner.kept.newest = Some(seal.clone());
        }
        write_whole(&self.state_dir, FILE, &serde_json::to_vec_pretty(&inner.kept)?)
    }

    /// What a thread that panicked left is whole: every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(manifest: &str, issued_s: i64) -> Seal {
        Seal {
            manifest: manifest.to_owned(),
            policy: format!("policy of {manifest}"),
            issued_s,
            signer: "ops".to_owned(),
            key: "SHA256:x".to_owned(),
        }
    }

    #[test]
    fn an_older_one_is_known_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        ledger.restore().unwrap();
        assert!(ledger.check_age(&seal("a", 10)).is_ok());
        ledger.put_in_force(&seal("a", 10)).unwrap();
        ledger.staged(&seal("c", 30)).unwrap();
        for ledger in [ledger, Ledger::new(dir.path())] {
            ledger.restore().unwrap();
            assert!(ledger.check_age(&seal("a", 10)).is_ok(), "the same once more");
            assert!(ledger.check_age(&seal("b", 11)).is_ok());
            for older in [seal("b", 10), seal("b", 9)] {
                assert_eq!(ledger.check_age(&older).map_err(|r| r.reason), Err(Reason::Older));
            }
            assert_eq!(ledger.seal_of("policy of c"), Some(seal("c", 30)));
        }
    }

    #[test]
    fn what_is_put_in_force_by_order_is_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        ledger.put_in_force(&seal("b", 20)).unwrap();
        ledger.put_in_force(&seal("a", 10)).unwrap();
        assert!(ledger.check_age(&seal("a", 10)).is_ok());
        assert!(ledger.check_age(&seal("b", 20)).is_ok());
        for number in 0..2 * MAX_VERSIONS as i64 {
            ledger.put_in_force(&seal(&number.to_string(), number)).unwrap();
        }
        assert_eq!(ledger.lock().kept.seen.len(), MAX_VERSIONS + 1);
    }

    #[test]
    fn a_damaged_file_is_told_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let ledger = Ledger::new(dir.path());
        assert!(ledger.restore().unwrap_err().contains("is damaged"));
        ledger.put_in_force(&seal("a", 10)).unwrap();
        Ledger::new(dir.path()).restore().unwrap();
    }

    #[test]
    fn refusals_are_counted_each_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        let refusal = Refusal::new(Reason::Unsigned, "not signed");
        assert!(ledger.refuse(&refusal));
        assert!(!ledger.refuse(&refusal));
        assert_eq!(ledger.refused()[&Reason::Unsigned], 2);
        ledger.put_in_force(&seal("a", 10)).unwrap();
        assert!(ledger.refuse(&refusal), "something else came between");
    }
}
