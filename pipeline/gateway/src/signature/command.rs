//! `bulkhead sign`: the manifest of a policy, and, with a key, its signature.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use jiff::Timestamp;

use super::manifest::Manifest;
use super::{NAMESPACE, places};
use crate::cli::exit;
use crate::config::Limits;
use crate::policy_files::{PolicyFiles, read_text};
use crate::signature::manifest::MAX_MANIFEST_BYTES;

/// What `sign` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The manifest lies beside the policy: policy.manifest in its folder, or FILE.manifest. \
    ssh-keygen signs it, so agents and security keys serve as they do for ssh; without --key the command \
    is printed. Which keys a gateway trusts its configuration says, under [signatures].\n\n\
    Sign a copy of a running gateway's policy and then put it in its place (`bulkhead stage`, or rsync): a \
    policy that is edited in place is refused, and says so, until it is signed."
)]
pub struct SignArgs {
    /// The policy: a file or a folder of *.yaml files
    #[arg(value_name = "POLICY")]
    pub policy: PathBuf,
    /// The key to sign with: a private key, or the public part of one that an agent holds
    #[arg(long, value_name = "KEY")]
    pub key: Option<PathBuf>,
    /// The policy's name, for gateways that take only one of that name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// When it was issued, such as 2026-11-23T06:30:00Z; now if not given, or a second after the manifest
    /// that is there
    #[arg(long, value_name = "INSTANT")]
    pub issued: Option<Timestamp>,
}

/// Writes a manifest and lets it be signed. Returns the exit code.
pub fn main(args: &SignArgs) -> u8 {
    let failed = |code: u8, why: String| {
        eprintln!("error: {why}");
        code
    };
    let limits =
        Limits { policy_bytes: u64::MAX - 1, policy_files: usize::MAX, ..Limits::default() };
    let files = match PolicyFiles::read(&args.policy, &limits) {
        Ok(files) => files,
        Err(error) => return failed(exit::UNAVAILABLE, error.to_string()),
    };
    let [place, signature] = places(&args.policy);
    let before = read_text(&place, MAX_MANIFEST_BYTES).ok();
    let before = before.and_then(|text| Manifest::parse(&text).ok());
    let name =
        args.name.clone().or_else(|| before.as_ref().and_then(|before| before.policy.clone()));
    let issued_s = args.issued.map_or_else(
        || {
            let after = before.as_ref().map_or(0, |before| before.issued_s.saturating_add(1));
            Timestamp::now().as_second().max(after)
        },
        Timestamp::as_second,
    );
    let manifest = match Manifest::of(&files, name, issued_s) {
        Ok(manifest) => manifest,
        Err(why) => return failed(exit::REFUSED, why),
    };
    match write(&manifest, args.key.as_deref(), &place, &signature) {
        Ok(()) => {}
        Err(Failure::Io(error)) => {
            return failed(exit::UNAVAILABLE, format!("{}: {error}", place.display()));
        }
        Err(Failure::NotSigned(why)) => return failed(exit::REFUSED, why),
    }
    let policy = manifest.policy.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
    println!(
        "{}: {} files{policy}, issued {}",
        place.display(),
        manifest.files.len(),
        manifest.issued()
    );
    if args.key.is_none() {
        println!("now sign it:\n  ssh-keygen -Y sign -n {NAMESPACE} -f KEY {}", place.display());
    }
    exit::OK
}

enum Failure {
    Io(io::Error),
    NotSigned(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Puts both in their places only once both are there: a signature of another manifest would be no help.
fn write(
    manifest: &Manifest,
    key: Option<&Path>,
    place: &Path,
    signature: &Path,
) -> Result<(), Failure> {
    let unfinished = hidden(place);
    let unsigned = with_sig(&unfinished);
    // ssh-keygen asks before it replaces a signature.
    remove(&unsigned)?;
    fs::write(&unfinished, manifest.to_string())?;
    let made = key.map_or(Ok(()), |key| sign(key, &unfinished));
    if made.is_err() {
        remove(&unfinished)?;
        return made;
    }
    match key {
        Some(_) => fs::rename(&unsigned, signature)?,
        None => remove(signature)?,
    }
    fs::rename(&unfinished, place)?;
    Ok(())
}

fn sign(key: &Path, manifest: &Path) -> Result<(), Failure> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key).arg(manifest);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::NotSigned(format!(
            "ssh-keygen did not sign ({status}); what was signed before is as it was"
        ))),
        Err(error) => Err(Failure::NotSigned(format!(
            "ssh-keygen cannot be run: {error}; install openssh-client, or sign elsewhere without --key"
        ))),
    }
}

/// A name in the same folder that no policy and no manifest has.
fn hidden(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".new");
    place.with_file_name(name)
}

fn with_sig(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
