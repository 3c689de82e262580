//! The staged policy over a restart: an operator who stages for a week expects a week.
//!
//! In the state directory, `staged` holds the texts and `staged.json` what was seen of them so far.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use bulkhead_pipeline::snapshot::staged::Staging;
use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::StagedState;
use super::counts::Counts;
use crate::audit::{Draft, What, Who};
use crate::bindings;
use crate::candidate::Finding;
use crate::config::Limits;
use crate::headroom;
use crate::policy_files::{PolicyFiles, remove_if_there};
use crate::signature::Envelope;
use crate::state::Gateway;
use crate::workflow::overlay::{NotRead, read_kept, write_whole};
use crate::workflow::standing::{self, Base};

const FOLDER: &str = "staged";
const FILE: &str = "staged.json";

/// What of a staged policy is kept beside its texts.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Kept {
    /// Where the texts were read from.
    pub(super) source: String,
    /// The hash of the texts.
    pub(super) hash: String,
    /// How long it was staged, in seconds in which the gateway ran.
    pub(super) watched_s: u64,
    /// How often the gateway was started since.
    pub(super) restarts: u64,
    /// What was counted.
    pub(super) counts: Counts,
    /// Manifest and signature of the texts, where they are signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) envelope: Option<Envelope>,
}

/// Keeps what is staged for the next start, if anything is: first its texts, unless they are kept
/// already, and then what was seen of it.
///
/// # Errors
///
/// What the file system says; the next start then may not know what is staged.
pub fn keep(gateway: &Gateway) -> io::Result<()> {
    let state_dir = &gateway.config.state_dir;
    let (base, mut kept, tallies, texts_are_kept) = {
        let state = gateway.policy();
        let Some(staged) = &state.staged else { return Ok(()) };
        let tallies = staged.tallies(state.publisher.as_ref());
        (staged.base.clone(), staged.to_keep(), tallies, staged.texts_are_kept)
    };
    // Beside the lock: many rules take their time.
    for tally in &tallies {
        kept.counts.raise_to(&Counts::of(tally));
    }
    if !texts_are_kept {
        fs::create_dir_all(state_dir)?;
        base.files.write(&state_dir.join(FOLDER))?;
        let mut state = gateway.policy();
        if let Some(staged) = state.staged.as_mut().filter(|staged| staged.base.hash == base.hash) {
            staged.texts_are_kept = true;
        }
    }
    write_whole(state_dir, FILE, &serde_json::to_vec_pretty(&kept)?)
}

/// Stages again what was staged when an earlier run ended. What cannot be staged is told, and entered.
/// Returns the bytes of its texts where nothing but memory is wanting: it is kept for another try.
pub fn restore(gateway: &Gateway) -> Option<u64> {
    let state_dir = &gateway.config.state_dir;
    match read(state_dir, &gateway.config.limits) {
        Ok(None) => {}
        Ok(Some((kept, files))) => {
            let text_bytes = files.text_bytes();
            match put(gateway, kept, files) {
                Ok(()) => {}
                Err(found) if headroom::is_short(&found) => {
                    lost(gateway, &format!("{}; it is kept, and tried again", first(&found)));
                    return Some(text_bytes);
                }
                Err(found) => {
                    lost(gateway, &format!("it no longer is a policy: {}", first(&found)));
                    remove(state_dir);
                }
            }
        }
        // Of what could not be read this time nothing is removed: the next start tries again.
        Err(why @ NotRead::Unreadable(_)) => lost(gateway, &why.to_string()),
        Err(why @ NotRead::Damaged(_)) => {
            lost(gateway, &why.to_string());
            remove(state_dir);
        }
    }
    None
}

fn first(found: &[Finding]) -> &str {
    found.first().map_or("it was refused", |finding| finding.message.as_str())
}

fn put(gateway: &Gateway, kept: Kept, files: PolicyFiles) -> Result<(), Vec<Finding>> {
    let mut overlay = gateway.policy().standing.overlay.clone();
    let candidate = standing::make(gateway, &files, &mut overlay)?;
    let detail = format!(
        "{} is staged again; it was so for {} s before this start",
        kept.source, kept.watched_s
    );
    let policy = bindings::staged::prepare(gateway, &candidate);
    let base = Base::seen(gateway, files, kept.source.clone());
    let staged = StagedState::of_earlier_run(candidate, base, kept);
    gateway.audit.enter_anyway(Draft::new(Who::gateway(), What::Stage, &detail));
    info!("{detail}");
    let mut followed = gateway.bindings();
    let staging = followed.up_to_date(Staging::Put(policy));
    let mut state = gateway.policy();
    state.staged = Some(staged);
    // Where the workers do not run yet they find it when they start.
    if let Some(publisher) = &mut state.publisher {
        publisher.stage(staging);
    }
    Ok(())
}

fn lost(gateway: &Gateway, why: &str) {
    let detail = format!("what was staged is staged no longer: {why}");
    error!("{detail}");
    gateway.audit.enter_anyway(Draft::new(Who::gateway(), What::Stage, detail));
}

fn read(state_dir: &Path, limits: &Limits) -> Result<Option<(Kept, PolicyFiles)>, NotRead> {
    let Some(kept) = read_kept::<Kept>(state_dir, FILE)? else { return Ok(None) };
    let folder = state_dir.join(FOLDER);
    let limits = Limits { policy_bytes: u64::MAX - 1, ..limits.clone() };
    if matches!(fs::symlink_metadata(&folder), Err(error) if error.kind() == io::ErrorKind::NotFound)
    {
        return Err(NotRead::Damaged(format!("{} is gone", folder.display())));
    }
    let files = PolicyFiles::read(&folder, &limits)
        .map_err(|error| NotRead::Unreadable(error.to_string()))?;
    if files.hash().to_string() != kept.hash {
        let why = format!("{} is damaged: it is not what was staged", folder.display());
        return Err(NotRead::Damaged(why));
    }
    Ok(Some((kept, files)))
}

fn remove(state_dir: &Path) {
    if let Err(error) = forget(state_dir) {
        error!("what was staged could not be removed: {error}");
    }
}

/// Keeps that nothing is staged.
///
/// # Errors
///
/// What the file system says.
pub fn forget(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    remove_if_there(&state_dir.join(FOLDER))
}

impl StagedState {
    fn to_keep(&self) -> Kept {
        let mut counts = self.earlier.clone();
        counts.raise_to(&self.carried);
        Kept {
            source: self.base.source.clone(),
            hash: self.base.hash.to_string(),
            watched_s: self.age().as_secs(),
            restarts: self.restarts,
            counts,
            envelope: self.envelope.clone(),
        }
    }

    fn of_earlier_run(candidate: crate::candidate::Candidate, base: Base, kept: Kept) -> Self {
        let mut staged = Self::new(candidate, base, kept.envelope);
        staged.watched_before = Duration::from_secs(kept.watched_s);
        staged.restarts = kept.restarts + 1;
        staged.earlier = kept.counts;
        staged.texts_are_kept = true;
        staged
    }
}
