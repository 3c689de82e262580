//! Who signed a policy, and whether that is to be trusted.
//!
//! What is signed is a [`manifest`]: the names and hashes of the policy's files and when it was issued.
//! It lies beside the policy, as `policy.manifest` in its folder or as `FILE.manifest` beside its one
//! file, and its signature beside it as `ssh-keygen -Y sign` writes it. [`keys`] says whose signatures
//! count, [`verify`] whether one holds, [`ledger`] whether the policy is older than one that was in
//! force, and [`command`] writes manifests.
//!
//! Checked is what was read, not what lies on the disk a moment later. It is checked wherever texts come
//! into the gateway ([`gate`]): at a start, at a reload, whoever asked for it, and when they are staged or
//! locked down. What was in force before is not checked again: a rollback, and the last accepted policy that
//! stands in for bad files, come from the state directory, by their hashes. Grants, quarantines and
//! modes are orders of a person at the control socket: they are not signed but entered in the audit log.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ssh_key::SshSig;
use ssh_key::public::KeyData;

use crate::candidate::Finding;
use crate::config::Signatures;
use crate::policy_files::{PolicyFiles, read_text};

pub mod command;
pub mod gate;
pub mod keys;
pub mod ledger;
pub mod manifest;

use self::keys::{MAX_KEYS_BYTES, TrustedKey, TrustedKeys};
use self::manifest::{MAX_MANIFEST_BYTES, Manifest, instant};

/// What a signature says that it is for: `ssh-keygen -Y sign -n` takes it.
pub const NAMESPACE: &str = "bulkhead-policy";

/// The name of the manifest in a policy's folder; its signature has `.sig` at the end.
pub const MANIFEST_FILE: &str = "policy.manifest";

/// The most bytes of a signature.
pub const MAX_SIGNATURE_BYTES: u64 = 16 << 10;

/// How far ahead of a clock that can be believed a policy may be issued.
const AHEAD_S: i64 = 86_400;

/// Whether `name` is one of the files that a signature consists of, and so no policy that somebody
/// forgot to name `*.yaml`.
pub fn is_part(name: &[u8]) -> bool {
    name == MANIFEST_FILE.as_bytes() || name.strip_suffix(b".sig") == Some(MANIFEST_FILE.as_bytes())
}

/// Where manifest and signature of the policy at `path` lie.
pub fn places(path: &Path) -> [PathBuf; 2] {
    let manifest = match path.is_dir() {
        true => path.join(MANIFEST_FILE),
        false => with_suffix(path, ".manifest"),
    };
    let signature = with_suffix(&manifest, ".sig");
    [manifest, signature]
}

/// A manifest and its signature, as they were read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Envelope {
    /// The text of the manifest.
    pub manifest: String,
    /// The signature of its bytes, as `ssh-keygen` writes it.
    pub signature: String,
}

impl Envelope {
    /// What lies beside the policy at `path`; [`None`] where neither is there.
    ///
    /// # Errors
    ///
    /// One of the two is there alone, or cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, Refusal> {
        let [manifest, signature] = places(path);
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        let (missing, there) = match (is_there(&manifest), is_there(&signature)) {
            (false, false) => return Ok(None),
            (true, false) => (&signature, &manifest),
            (false, true) => (&manifest, &signature),
            (true, true) => {
                let read = |path: &Path, limit| {
                    read_text(path, limit)
                        .map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))
                };
                return Ok(Some(Self {
                    manifest: read(&manifest, MAX_MANIFEST_BYTES)?,
                    signature: read(&signature, MAX_SIGNATURE_BYTES)?,
                }));
            }
        };
        let message = format!("{} is there without {}", there.display(), missing.display());
        Err(Refusal::new(Reason::Unsigned, message))
    }
}

/// What is known of a policy whose signature holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Seal {
    /// The SHA-256 of the manifest.
    pub manifest: String,
    /// The hash by which the policy is known.
    pub policy: String,
    /// When it was issued, in seconds since the Unix epoch.
    pub issued_s: i64,
    /// Whose key signed it, as the file of trusted keys says.
    pub signer: String,
    /// The key, by its fingerprint.
    pub key: String,
}

impl Seal {
    /// Who signed it and when, for the log and the audit log.
    pub fn describe(&self) -> String {
        format!("signed by {} ({}), issued {}", self.signer, self.key, instant(self.issued_s))
    }
}

/// Why a signature does not hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There is none, or only half of one, where one is required.
    Unsigned,
    /// The file of trusted keys is not to be had.
    Keys,
    /// Manifest or signature is no such thing.
    Malformed,
    /// Nobody trusts the key.
    UnknownKey,
    /// The signature is not of this manifest.
    BadSignature,
    /// The files are not those of the manifest.
    OtherFiles,
    /// It is the policy of another gateway.
    OtherPolicy,
    /// It was issued in the future.
    Future,
    /// It is older than one that was in force.
    Older,
}

impl Reason {
    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::Unsigned,
        Self::Keys,
        Self::Malformed,
        Self::UnknownKey,
        Self::BadSignature,
        Self::OtherFiles,
        Self::OtherPolicy,
        Self::Future,
        Self::Older,
    ];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Keys => "keys",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::OtherFiles => "other_files",
            Self::OtherPolicy => "other_policy",
            Self::Future => "future",
            Self::Older => "older",
        }
    }

    /// The code of the finding.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Keys => "trusted-keys",
            Self::Malformed => "malformed-signature",
            Self::UnknownKey => "unknown-key",
            Self::BadSignature => "bad-signature",
            Self::OtherFiles => "not-as-signed",
            Self::OtherPolicy => "other-policy",
            Self::Future => "issued-in-future",
            Self::Older => "older",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Unsigned => {
                "sign it: `bulkhead sign POLICY --key KEY`, or set `required = false` under [signatures]"
            }
            Self::Keys => "correct `trusted-keys` under [signatures], or the file that it names",
            Self::Malformed => "sign the policy again: `bulkhead sign POLICY --key KEY`",
            Self::UnknownKey => {
                "let somebody sign it whose key is in the file of trusted keys; add the key there only if \
                 you know whose it is"
            }
            Self::BadSignature => {
                "the manifest was changed after it was signed: find out by whom; then sign it again"
            }
            Self::OtherFiles => {
                "look at what changed; if it is meant, sign the policy again: `bulkhead sign POLICY --key KEY`"
            }
            Self::OtherPolicy => "take this gateway's policy, or sign it with `--name`",
            Self::Future => "correct the clock here or where it was signed, and sign it again",
            Self::Older => {
                "sign it again to make it the newest, or `bulkhead reload --allow-older --reason TEXT`"
            }
        }
    }
}

/// That a signature does not hold, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Why, one sentence.
    pub message: String,
    /// The file and its line, where there is one.
    pub place: Option<(String, u32)>,
}

impl Refusal {
    /// Without a line.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), place: None }
    }

    fn at(self, file: impl Into<String>, line: u32) -> Self {
        Self { place: Some((file.into(), line)), ..self }
    }
}

impl From<&Refusal> for Finding {
    fn from(refusal: &Refusal) -> Self {
        refusal.finding(refusal.reason.help().to_owned())
    }
}

impl Refusal {
    /// The same about the policy that was read from `source`: where it is not signed, with the very command
    /// that signs it.
    pub fn of(&self, source: &str, config: &Signatures) -> Finding {
        let help = match self.reason {
            Reason::Unsigned => how_to_sign(source, config),
            _ => self.reason.help().to_owned(),
        };
        self.finding(help)
    }

    fn finding(&self, help: String) -> Finding {
        let (refusal, code) = (self, self.reason.code());
        let place = refusal.place.as_ref().map(|(file, line)| format!("{file}:{line}: "));
        let message = format!("{}{}", place.unwrap_or_default(), refusal.message);
        let mut finding = Finding::error(code, message, Some(help));
        if let Some((file, line)) = &refusal.place {
            (finding.file, finding.line) = (Some(file.clone()), Some(*line));
            finding.message.clone_from(&refusal.message);
        }
        finding
    }
}

/// The command that signs the policy that was read from `source`: a path, or else words.
fn how_to_sign(source: &str, config: &Signatures) -> String {
    let name = config.name.as_ref().map_or_else(String::new, |name| format!(" --name {name}"));
    if Path::new(source).is_absolute() {
        format!(
            "sign it, here or where the key is, and try again: `bulkhead sign {source} --key KEY{name}`; elsewhere \
             take the folder along, and bring {MANIFEST_FILE} and {MANIFEST_FILE}.sig back"
        )
    } else {
        format!(
            "let its manifest be signed, `ssh-keygen -Y sign -n {NAMESPACE} -f KEY {MANIFEST_FILE}`, and send \
             it and {MANIFEST_FILE}.sig along"
        )
    }
}

/// Whether `files` are as somebody who is trusted has signed them. [`None`] where nothing is signed and
/// nothing has to be. `now_s` is the time, where it can be believed.
///
/// Whether they are older than what was in force is [`ledger`]'s to say.
///
/// # Errors
///
/// Why not, and what to do.
pub fn verify(
    config: &Signatures,
    files: &PolicyFiles,
    envelope: Option<&Envelope>,
    now_s: Option<i64>,
) -> Result<Option<Seal>, Refusal> {
    let Some(keys) = &config.trusted_keys else { return Ok(None) };
    let Some(envelope) = envelope else {
        let message = "the policy is not signed, and only signed ones are taken";
        return if config.required {
            Err(Refusal::new(Reason::Unsigned, message))
        } else {
            Ok(None)
        };
    };
    let keys = read_keys(keys)?;
    let signer = check_signature(&keys, envelope)?;
    // Nothing that the manifest says is looked at before it is known who says it.
    let manifest = Manifest::parse(&envelope.manifest).map_err(|(line, what)| {
        Refusal::new(Reason::Malformed, format!("the manifest is none: {what}"))
            .at(MANIFEST_FILE, line)
    })?;
    if let Some(name) = &config.name {
        if manifest.policy.as_ref() != Some(name) {
            let of =
                manifest.policy.as_deref().map_or("no name".to_owned(), |of| format!("`{of}`"));
            let message =
                format!("the policy was signed for {of}, and this gateway takes `{name}`");
            return Err(Refusal::new(Reason::OtherPolicy, message));
        }
    }
    if let Some(difference) = manifest.difference(files) {
        return Err(Refusal::new(Reason::OtherFiles, difference));
    }
    if now_s.is_some_and(|now_s| manifest.issued_s > now_s.saturating_add(AHEAD_S)) {
        let message =
            format!("the policy was issued {}, which is in the future", manifest.issued());
        return Err(Refusal::new(Reason::Future, message));
    }
    Ok(Some(Seal {
        manifest: hex(&Sha256::digest(envelope.manifest.as_bytes())),
        policy: files.hash().to_string(),
        issued_s: manifest.issued_s,
        signer: signer.signer.clone(),
        key: signer.fingerprint(),
    }))
}

/// Reads the file of trusted keys.
///
/// # Errors
///
/// The line, and what is wrong.
pub fn read_keys(path: &Path) -> Result<TrustedKeys, Refusal> {
    let text = read_text(path, MAX_KEYS_BYTES).map_err(|error| {
        Refusal::new(Reason::Keys, format!("no signature can be checked: {error}"))
    })?;
    TrustedKeys::parse(&text).map_err(|(line, what)| {
        Refusal::new(Reason::Keys, what).at(path.display().to_string(), line)
    })
}

/// The key with which the manifest was signed.
///
/// # Errors
///
/// That there is none, that nobody trusts it, or that it has signed something else.
pub fn check_signature<'a>(
    keys: &'a TrustedKeys,
    envelope: &Envelope,
) -> Result<&'a TrustedKey, Refusal> {
    let malformed = |error: ssh_key::Error| {
        let message = format!("the signature is none that ssh-keygen makes: {error}");
        Refusal::new(Reason::Malformed, message)
    };
    let signature = SshSig::from_pem(&envelope.signature).map_err(malformed)?;
    if signature.namespace() != NAMESPACE {
        let message = format!(
            "the signature is for {:?} and not for `{NAMESPACE}` (ssh-keygen -Y sign -n {NAMESPACE})",
            signature.namespace()
        );
        return Err(Refusal::new(Reason::BadSignature, message));
    }
    let public = signature.public_key();
    let Some(trusted) = keys.find(public) else {
        let fingerprint = public.fingerprint(ssh_key::HashAlg::Sha256);
        let message =
            format!("the policy is signed with the key {fingerprint}, which is not trusted");
        return Err(Refusal::new(Reason::UnknownKey, message));
    };
    let wrong = |why: &str| {
        let message = format!("the manifest is not what {} has signed{why}", trusted.signer);
        Refusal::new(Reason::BadSignature, message)
    };
    let manifest = envelope.manifest.as_bytes();
    trusted.key.verify(NAMESPACE, manifest, &signature).map_err(|_| wrong(""))?;
    if !was_touched(&signature) {
        return Err(wrong(": nobody has touched the security key"));
    }
    Ok(trusted)
}

/// Whether somebody was there when a security key signed; other keys need nobody. What such a key has
/// signed ends with its flags, of which the lowest says it, and a counter.
fn was_touched(signature: &SshSig) -> bool {
    match signature.public_key() {
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
            let bytes = signature.signature_bytes();
            let flags = bytes.len().checked_sub(5).and_then(|place| bytes.get(place));
            flags.is_some_and(|flags| flags & 1 == 1)
        }
        _ => true,
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
