//! Where texts come into the gateway: admitted, or refused, counted and entered in the audit log.

use std::path::Path;

use tracing::warn;

use super::{Envelope, Refusal, Seal, verify};
use crate::audit::{Draft, What, Who};
use crate::candidate::Finding;
use crate::policy_files::PolicyFiles;
use crate::state::Gateway;

/// Whether a policy may be older than one that was in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    /// It must not.
    Newest,
    /// It may: it is not in force yet, or somebody has said so.
    Any,
}

/// Whether what was read from `path` may be put in force. [`None`] where nothing is signed and nothing
/// has to be.
///
/// # Errors
///
/// Why not, and what to do.
pub fn admit_files(
    gateway: &Gateway,
    path: &Path,
    files: &PolicyFiles,
    age: Age,
    who: &Who,
) -> Result<Option<Seal>, Box<Finding>> {
    if gateway.config.signatures.trusted_keys.is_none() {
        return Ok(None);
    }
    let envelope = Envelope::read(path);
    let source = path.display().to_string();
    envelope
        .and_then(|envelope| admit(gateway, files, envelope.as_ref(), age))
        .map_err(|refusal| refused(gateway, &source, &refusal, who))
}

/// The same for texts that came over the control socket, from `source`.
///
/// # Errors
///
/// Why not, and what to do.
pub fn admit_texts(
    gateway: &Gateway,
    source: &str,
    (files, envelope): (&PolicyFiles, Option<&Envelope>),
    age: Age,
    who: &Who,
) -> Result<Option<Seal>, Box<Finding>> {
    admit(gateway, files, envelope, age).map_err(|refusal| refused(gateway, source, &refusal, who))
}

/// Notes who has signed what is in force now. What could not be kept is said.
pub fn in_force(gateway: &Gateway, seal: Option<&Seal>) -> Option<Finding> {
    let error = gateway.signatures.put_in_force(seal?).err()?;
    Some(not_kept(&error))
}

/// Notes who has signed what is staged now. What could not be kept is said.
pub fn staged(gateway: &Gateway, seal: Option<&Seal>) -> Option<Finding> {
    let error = gateway.signatures.staged(seal?).err()?;
    Some(not_kept(&error))
}

/// What follows "the policy …" in the audit log.
pub fn words(seal: Option<&Seal>) -> String {
    seal.map_or_else(String::new, |seal| format!("; {}", seal.describe()))
}

fn admit(
    gateway: &Gateway,
    files: &PolicyFiles,
    envelope: Option<&Envelope>,
    age: Age,
) -> Result<Option<Seal>, Refusal> {
    let now = gateway.now();
    let now_s = now.synchronised.then_some(now.unix_ms / 1000);
    let seal = verify(&gateway.config.signatures, files, envelope, now_s)?;
    if let (Some(seal), Age::Newest) = (&seal, age) {
        gateway.signatures.check_age(seal)?;
    }
    Ok(seal)
}

fn refused(gateway: &Gateway, source: &str, refusal: &Refusal, who: &Who) -> Box<Finding> {
    let finding = Box::new(refusal.of(source, &gateway.config.signatures));
    // A file that is refused whenever somebody touches it fills no log.
    if gateway.signatures.refuse(refusal) {
        let detail = format!("the policy {source} was refused: {}", refusal.message);
        warn!(reason = refusal.reason.label(), "{detail}");
        gateway.audit.enter_anyway(Draft::new(who.clone(), What::Refused, detail));
    }
    finding
}

fn not_kept(error: &std::io::Error) -> Finding {
    let message = format!(
        "who signed the policy could not be kept: {error}; after a restart an older signed policy is not \
         known to be older"
    );
    Finding::warning("not-kept", message)
}
