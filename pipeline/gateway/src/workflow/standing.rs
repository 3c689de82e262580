//! What stands: the policy's files, the modes of the wires, exceptions; and how it survives a restart.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::history::{History, Version};
use super::overlay::{NotRead, Overlay, read_kept, write_whole};
use crate::audit::{Draft, What, Who};
use crate::candidate::{self, Candidate, Finding, unix_now_ms};
use crate::config::{Config, Mode, mode_label};
use crate::policy_files::{PolicyFiles, PolicyHash};
use crate::signature::Seal;
use crate::state::Gateway;

const FILE: &str = "standing.json";

/// The texts of a policy, without what the tool adds.
#[derive(Clone, Debug)]
pub struct Base {
    /// The texts.
    pub files: Arc<PolicyFiles>,
    /// Their hash.
    pub hash: PolicyHash,
    /// Where they were read from.
    pub source: String,
    /// Who signed them, where that is known.
    pub seal: Option<Seal>,
}

impl Base {
    /// Files that were read from `source`.
    pub fn new(files: PolicyFiles, source: String) -> Self {
        Self { hash: files.hash(), files: Arc::new(files), source, seal: None }
    }

    /// The same, signed.
    #[must_use]
    pub fn sealed(self, seal: Option<Seal>) -> Self {
        Self { seal, ..self }
    }

    /// What was in force, or staged, before: who signed it the gateway knows.
    pub fn seen(gateway: &Gateway, files: PolicyFiles, source: String) -> Self {
        let base = Self::new(files, source);
        let seal = gateway.signatures.seal_of(&base.hash.to_string());
        base.sealed(seal)
    }
}

/// A version that is in force in place of the files that lie where the configuration says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pinned {
    /// The version; 0 where it could not be kept. A restart then finds the files.
    pub version: u64,
    /// The hash of the files that lay there; absent where they could not be read.
    pub files: Option<String>,
}

/// What stands beside the compiled policy.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The texts in force, once there are any.
    pub base: Option<Base>,
    /// The mode of each wire of the configuration.
    pub modes: Vec<Mode>,
    /// What the tool adds to the texts.
    pub overlay: Overlay,
    /// Set where a version stands in the place of the files.
    pub pinned: Option<Pinned>,
    /// The version in force; 0 where it is not kept.
    pub version: u64,
    /// Whether exceptions of an earlier run lie in a file that could not be read yet.
    pub overlay_is_unread: bool,
}

/// What of it is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    /// Those that are not what the configuration says.
    modes: BTreeMap<String, String>,
    pinned: Option<Pinned>,
    version: u64,
}

impl Standing {
    /// What the configuration says, before anything else is known.
    pub fn new(config: &Config) -> Self {
        Self {
            base: None,
            modes: config.wires.iter().map(|wire| wire.mode).collect(),
            overlay: Overlay::default(),
            pinned: None,
            version: 0,
            overlay_is_unread: false,
        }
    }

    /// Keeps the exceptions for the next start.
    ///
    /// # Errors
    ///
    /// What the file system says: of the file that is there too, where it could not be read.
    pub fn keep_overlay(&self, state_dir: &Path) -> Result<(), String> {
        if self.overlay_is_unread {
            return Err(
                "the exceptions of an earlier run cannot be read, and are not written over; \
                        `bulkhead audit` says why"
                    .to_owned(),
            );
        }
        self.overlay.keep(state_dir).map_err(|error| error.to_string())
    }

    /// Keeps modes and version for the next start.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn keep(&self, config: &Config) -> io::Result<()> {
        // What the configuration says, it says itself: an edit of it is heeded at the next start.
        let wires = config.wires.iter().zip(&self.modes);
        let commanded = wires.filter(|(wire, mode)| wire.mode != **mode);
        let modes = commanded.map(|(wire, &mode)| (wire.name.clone(), mode_label(mode).to_owned()));
        // A version that is not kept can stand in for nothing.
        let pinned = self.pinned.clone().filter(|pinned| pinned.version != 0);
        let kept = Kept { modes: modes.collect(), pinned, version: self.version };
        write_whole(&config.state_dir, FILE, &serde_json::to_vec_pretty(&kept)?)
    }
}

/// The modes by the names of the wires.
pub fn named_modes(config: &Config, modes: &[Mode]) -> BTreeMap<String, String> {
    let named = config.wires.iter().zip(modes);
    named.map(|(wire, &mode)| (wire.name.clone(), mode_label(mode).to_owned())).collect()
}

/// The modes that `named` gives to the wires of the configuration; `otherwise` for those that it does
/// not name.
pub fn modes_of(
    config: &Config,
    named: &BTreeMap<String, String>,
    otherwise: &[Mode],
) -> Vec<Mode> {
    let wires = config.wires.iter().zip(otherwise);
    let mode = |name: &str, otherwise: Mode| match named.get(name).map(String::as_str) {
        Some("enforce") => Mode::Enforce,
        Some("observe") => Mode::Observe,
        _ => otherwise,
    };
    wires.map(|(wire, &otherwise)| mode(&wire.name, otherwise)).collect()
}

/// Takes up what an earlier run has kept, before there is a policy.
pub fn restore(gateway: &Gateway) {
    let config = &gateway.config;
    let mut standing = Standing::new(config);
    if let Err(error) = gateway.signatures.restore() {
        damaged(gateway, &error);
    }
    match read_kept::<Kept>(&config.state_dir, FILE) {
        Ok(None) => {}
        Ok(Some(kept)) => {
            standing.modes = modes_of(config, &kept.modes, &standing.modes);
            (standing.pinned, standing.version) = (kept.pinned, kept.version);
            // A mode that the configuration says by now is its own again.
            if let Err(error) = standing.keep(config) {
                warn!("{FILE} cannot be written: {error}");
            }
        }
        Err(error) => {
            damaged(gateway, &format!("{error}; modes are those of the configuration"));
        }
    }
    for (wire, &mode) in config.wires.iter().zip(&standing.modes) {
        if wire.mode != mode {
            warn!(
                wire = wire.name,
                configured = mode_label(wire.mode),
                mode = mode_label(mode),
                "this wire keeps the mode that it was given by command; `bulkhead observe` and \
                 `bulkhead lockdown` change it, the configuration only where no command has"
            );
        }
    }
    match Overlay::read(&config.state_dir) {
        Ok(overlay) => standing.overlay = overlay,
        Err(error @ NotRead::Damaged(_)) => {
            Overlay::set_aside(&config.state_dir);
            damaged(
                gateway,
                &format!(
                    "{error}; quarantines and grants of earlier runs are lost: what is left of them was \
                     set aside beside it"
                ),
            );
        }
        Err(error @ NotRead::Unreadable(_)) => {
            standing.overlay_is_unread = true;
            damaged(
                gateway,
                &format!(
                    "{error}; quarantines and grants of earlier runs do not hold until it can be read, \
                     which is tried again all the time"
                ),
            );
        }
    }
    for quarantine in &standing.overlay.quarantines {
        info!(device = quarantine.device, "this device is in quarantine");
    }
    gateway.policy().standing = standing;
}

fn damaged(gateway: &Gateway, error: &str) {
    error!("{error}");
    gateway.audit.enter_anyway(Draft::new(Who::gateway(), What::Log, error));
}

/// Makes the policy of `base` with what the tool adds. Grants that make no sense beside it are
/// suspended in `overlay`, and reported: they must not keep a person's change out.
///
/// # Errors
///
/// Everything that is wrong with the files; never empty.
pub fn make(
    gateway: &Gateway,
    base: &PolicyFiles,
    overlay: &mut Overlay,
) -> Result<Candidate, Vec<Finding>> {
    let (wires, limits) = (gateway.wire_names(), &gateway.config.limits);
    let now = unix_now_ms().unwrap_or_default();
    overlay.grants.iter_mut().for_each(|grant| grant.suspended = false);
    let make = |overlay: &Overlay| candidate::make(&overlay.over(base, now), Some(&wires), limits);
    let found = match make(overlay) {
        Ok(candidate) => return Ok(candidate),
        Err(found) => found,
    };
    let without = Overlay { grants: Vec::new(), quarantines: overlay.quarantines.clone() };
    if overlay.grants.iter().all(|grant| grant.is_over(now)) {
        return Err(found);
    }
    let candidate = make(&without)?;
    // It is the grants. Each is tried beside those before it that make sense.
    let mut kept = without;
    let mut suspended = Vec::new();
    for grant in &mut overlay.grants {
        kept.grants.push(grant.clone());
        let loads = candidate::load(&kept.over(base, now).sources, Some(&wires), limits);
        if let Err(why) = loads {
            kept.grants.pop();
            grant.suspended = true;
            suspended.push((grant.name.clone(), why));
        }
    }
    let mut candidate = match make(&kept) {
        Ok(candidate) => candidate,
        Err(why) => {
            // Together they break a promise of the policy.
            overlay.grants.iter_mut().for_each(|grant| grant.suspended = true);
            let names: Vec<&str> = overlay.grants.iter().map(|grant| grant.name.as_str()).collect();
            suspended.push((names.join(", "), why));
            candidate
        }
    };
    for (name, why) in suspended {
        let why = why.first().map_or("", |finding| finding.message.as_str());
        candidate.warnings.push(Finding::warning(
            "grant-suspended",
            format!("{name} makes no sense beside this policy and is left out: {why}"),
        ));
    }
    Ok(candidate)
}

/// Adds what is about to be in force to the history, and keeps what stands for the next start. It is in
/// force all the same where that fails: the error says what a restart will not know.
///
/// # Errors
///
/// What could not be kept, why, and what to do.
pub fn add_version(
    gateway: &Gateway,
    standing: &mut Standing,
    rules: usize,
    who: &Who,
    by: &str,
    brought_back: Option<u64>,
) -> Result<(), String> {
    let Some(base) = &standing.base else { return Ok(()) };
    let config = &gateway.config;
    let version = Version {
        number: 0,
        at_unix_ms: unix_now_ms().unwrap_or_default(),
        hash: base.hash.to_string(),
        bytes: base.files.text_bytes(),
        rules,
        source: base.source.clone(),
        who: who.clone(),
        by: by.to_owned(),
        modes: named_modes(config, &standing.modes),
        brought_back,
    };
    let added = History::read(&config.state_dir).and_then(|mut history| {
        let added = history.add(&config.state_dir, &base.files, version);
        added.map_err(|error| format!("the history in {}: {error}", config.state_dir.display()))
    });
    standing.version = *added.as_ref().unwrap_or(&0);
    if let Some(pinned) = &mut standing.pinned {
        // Nothing but what the history has can stand in for the files at the next start.
        pinned.version = standing.version;
    }
    // The modes above all: a lockdown that a restart forgets is none.
    let kept = standing.keep(config);
    let files = match &standing.pinned {
        Some(_) => ", and a restart takes the policy's files in its place",
        None => "",
    };
    match (added, kept) {
        (Ok(_), Ok(())) => Ok(()),
        (Ok(_), Err(error)) => {
            Err(format!("this is in force, but a restart will not know it: {error}"))
        }
        (Err(error), Ok(())) => Err(format!(
            "this is in force, but not kept for `bulkhead rollback`{files}: {error}; it is tried again \
             every minute"
        )),
        (Err(error), Err(other)) => Err(format!(
            "this is in force, but neither kept for `bulkhead rollback` ({error}) nor for a restart, \
             which will not know it ({other})"
        )),
    }
}
