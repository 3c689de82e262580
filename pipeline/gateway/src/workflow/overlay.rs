//! What the tool adds to the policy's files: quarantines above everything, and grants.
//!
//! Both lie in the state directory, never among the files of a person: the policy's folder may be
//! read-only, under version control, or a mounted config map. They are put among the texts each time
//! that a policy is made. Quarantines come first and name addresses, not names, so that no change of
//! the files can lift one. Grants come where a file `50-grants.yaml` would be read: after
//! `00-guardrails.yaml`, before `80-learned.yaml`; where the policy is one file, after it, so that
//! what it denies by name stays denied. They may use the policy's names. A grant that no longer makes
//! sense beside the files is left out and reported: it must not keep a person's change out.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use bulkhead_rules::syntax::Source;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::Who;
use crate::policy_files::{PolicyFiles, PolicyHash, short_name};

const FILE: &str = "exceptions.json";

/// Where grants are read, in the order of names.
const GRANTS_NAME: &str = "50-grants.yaml";

/// What the texts are called in diagnostics.
const QUARANTINE_SOURCE: &str = "what `bulkhead quarantine` added";
const GRANTS_SOURCE: &str = "what `bulkhead grant` added";

/// Grants at a time, and devices in quarantine at a time.
pub const MAX_EXCEPTIONS: usize = 1000;

/// Rules of one quarantine.
const QUARANTINE_RULES: usize = 3;

/// A time-limited exception.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Grant {
    /// The name, and that of its rule.
    pub name: String,
    /// The side that opens, as in a rule.
    pub from: String,
    /// The side that is opened to.
    pub to: String,
    /// What is opened.
    pub service: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// When it ends, likewise: in the workers, whatever becomes of everything else.
    pub expires_unix_ms: i64,
    /// Who made it.
    pub who: Who,
    /// Why.
    pub reason: String,
    /// Whether it makes no sense beside the policy's files, and is left out.
    #[serde(default)]
    pub suspended: bool,
}

/// A device that may do nothing but the essentials.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Quarantine {
    /// The device's name in the policy, or its address, as it was given.
    pub device: String,
    /// Its addresses and MAC addresses.
    pub hosts: Vec<String>,
    /// What it may still open, to anybody, beside DHCP.
    pub allow: Vec<String>,
    /// When it was put there, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// Who put it there.
    pub who: Who,
    /// Why.
    pub reason: Option<String>,
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Overlay {
    /// Exceptions, the oldest first.
    pub grants: Vec<Grant>,
    /// Quarantines, the oldest first.
    pub quarantines: Vec<Quarantine>,
}

impl Grant {
    /// Whether its time is over.
    pub fn is_over(&self, now_unix_ms: i64) -> bool {
        now_unix_ms >= self.expires_unix_ms
    }

    fn text(&self) -> String {
        let expires = Timestamp::from_millisecond(self.expires_unix_ms).unwrap_or(Timestamp::MAX);
        format!(
            "  - name: {}\n    from: {}\n    to: {}\n    service: {}\n    action: allow\n    expires: \
             {expires}\n    reason: {}\n",
            self.name,
            written(&self.from),
            written(&self.to),
            written(&self.service),
            quoted(&self.reason),
        )
    }
}

impl Quarantine {
    /// What its rules are called, before their last word.
    fn prefix(&self) -> String {
        rule_name("quarantine", &self.device)
    }

    fn text(&self) -> String {
        let hosts = list(&self.hosts);
        let essentials = ["{udp: 67, from-port: 68}", "{udp: 547, from-port: 546}"];
        let essentials = essentials.iter().map(|&service| service.to_owned());
        let allowed: Vec<String> =
            essentials.chain(self.allow.iter().map(|service| written(service))).collect();
        let (prefix, allowed) = (self.prefix(), allowed.join(", "));
        let reason = quoted(self.reason.as_deref().unwrap_or("no reason was given"));
        format!(
            "  - {{name: {prefix}-essentials, from: {hosts}, to: any, service: [{allowed}], action: \
             allow}}\n  - {{name: {prefix}-from, from: {hosts}, to: any, service: any, action: deny, \
             log: true, reason: {reason}}}\n  - {{name: {prefix}-to, from: any, to: {hosts}, service: \
             any, action: deny, log: true, reason: {reason}}}\n"
        )
    }
}

impl Overlay {
    /// What an earlier run has kept; nothing where there is no such file.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or that it cannot be read.
    pub fn read(state_dir: &Path) -> Result<Self, NotRead> {
        read_kept(state_dir, FILE).map(Option::unwrap_or_default)
    }

    /// Sets aside a file that cannot be read.
    pub fn set_aside(state_dir: &Path) {
        let aside = format!("{FILE}.damaged-{}", Timestamp::now().as_millisecond());
        let _ = fs::rename(state_dir.join(FILE), state_dir.join(aside));
    }

    /// Keeps it for the next start.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn keep(&self, state_dir: &Path) -> io::Result<()> {
        write_whole(state_dir, FILE, &serde_json::to_vec_pretty(self)?)
    }

    /// A name that no grant has.
    pub fn free_name(&self) -> String {
        let is_free = |name: &String| self.grants.iter().all(|grant| grant.name != *name);
        let mut names = (1_u64..).map(|number| format!("grant-{number}"));
        names.find(is_free).unwrap_or_default()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty() && self.quarantines.is_empty()
    }

    /// Takes in what was kept by an earlier run and is only known now. A device that was put in
    /// quarantine since then is as it was put there last.
    pub fn take_in(&mut self, kept: Self) {
        for mut grant in kept.grants {
            if self.grants.iter().any(|other| other.name == grant.name) {
                grant.name = self.free_name();
            }
            self.grants.push(grant);
        }
        for quarantine in kept.quarantines {
            if self.quarantines.iter().all(|other| other.device != quarantine.device) {
                self.quarantines.push(quarantine);
            }
        }
        self.grants.sort_by_key(|grant| grant.since_unix_ms);
        self.quarantines.sort_by_key(|quarantine| quarantine.since_unix_ms);
    }

    /// The rules, from the policy's first one on, that are quarantines.
    pub fn quarantine_rules(&self) -> u32 {
        (self.quarantines.len() * QUARANTINE_RULES) as u32
    }

    /// What is added in truth: without grants that make no sense beside the policy.
    #[must_use]
    pub fn without_suspended(&self) -> Self {
        let mut added = self.clone();
        added.grants.retain(|grant| !grant.suspended);
        added
    }

    /// The policy of `files` with what is added. A grant that is over is left out.
    pub fn over(&self, files: &PolicyFiles, now_unix_ms: i64) -> PolicyFiles {
        let mut sources = files.sources.clone();
        let lives = |grant: &&Grant| !grant.suspended && !grant.is_over(now_unix_ms);
        let grants: String = self.grants.iter().filter(lives).map(Grant::text).collect();
        if !grants.is_empty() {
            let is_before =
                |source: &Source| sources.len() == 1 || short_name(source).as_str() <= GRANTS_NAME;
            let place = sources.iter().take_while(|&source| is_before(source)).count();
            sources.insert(place, Source::new(GRANTS_SOURCE, in_full(&grants)));
        }
        if !self.quarantines.is_empty() {
            let rules: String = self.quarantines.iter().map(Quarantine::text).collect();
            sources.insert(0, Source::new(QUARANTINE_SOURCE, in_full(&rules)));
        }
        PolicyFiles { sources, left_out: files.left_out.clone() }
    }
}

/// A name for a rule about `what`, which leaves room for a last word as long as `-essentials`: letters,
/// digits and `-`. Where that cannot be `what` itself, a hash keeps it apart from others like it.
pub fn rule_name(prefix: &str, what: &str) -> String {
    /// Of the 63 that a name may have.
    const LONGEST: usize = 63 - "-essentials".len();
    const HASH_DIGITS: usize = 8;
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let whole = format!("{prefix}-{}", what.to_ascii_lowercase());
    let mut name: String = whole.chars().map(plain).collect();
    // Nothing else that has a name in the policy starts with a digit.
    let is_told = name == format!("{prefix}-{what}") || what.parse::<Ipv4Addr>().is_ok();
    if is_told && name.len() <= LONGEST && !name.ends_with('-') {
        return name;
    }
    name.truncate(LONGEST - HASH_DIGITS - 1);
    let hash = PolicyHash(Sha256::digest(what).into()).to_string();
    format!("{}-{}", name.trim_end_matches('-'), &hash[..HASH_DIGITS])
}

/// A value as the policy's language has it: lists and maps as they are; whatever else it is, one value.
pub fn written(value: &str) -> String {
    let value: String =
        value.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.starts_with(['[', '{']) { value } else { quoted(&value) }
}

/// Why what an earlier run has kept is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotRead {
    /// The file makes no sense, whenever it is read.
    Damaged(String),
    /// It could not be read this time: what it holds must not be written over.
    Unreadable(String),
}

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Damaged(why) | Self::Unreadable(why)) = self;
        f.write_str(why)
    }
}

/// Reads what [`write_whole`] has written of a value; [`None`] where there is no such file.
///
/// # Errors
///
/// What is wrong with the file, or that it cannot be read.
pub fn read_kept<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, NotRead> {
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| NotRead::Damaged(format!("{} is damaged: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NotRead::Unreadable(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Writes a file so that after a power cut there is the old one or the new one.
///
/// # Errors
///
/// What the file system says; the old file is then there still.
pub fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    let unfinished = folder.join(format!("{name}.new"));
    let mut file = fs::File::options();
    let mut file = file.write(true).create(true).truncate(true).mode(0o640).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(name))?;
    fs::File::open(folder)?.sync_all()
}

fn in_full(rules: &str) -> String {
    format!("version: 1\nrules:\n{rules}")
}

fn list(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    format!("[{}]", quoted.join(", "))
}

/// Within double quotes YAML reads what JSON does.
fn quoted(value: &str) -> String {
    let plain: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::policy::Policy;

    use super::*;

    fn files(list: &[(&str, &str)]) -> PolicyFiles {
        let source = |&(name, text): &(&str, &str)| Source::new(name, text);
        PolicyFiles { sources: list.iter().map(source).collect(), left_out: Vec::new() }
    }

    fn grant(name: &str, from: &str) -> Grant {
        Grant {
            name: name.to_owned(),
            from: from.to_owned(),
            to: "10.0.0.2".to_owned(),
            service: "tcp/22".to_owned(),
            since_unix_ms: 0,
            expires_unix_ms: 4_000_000_000_000,
            who: Who::thing("test"),
            reason: "say \"CHG-1\"\nand \\ more".to_owned(),
            suspended: false,
        }
    }

    fn quarantine() -> Quarantine {
        Quarantine {
            device: "10.0.0.66".to_owned(),
            hosts: vec!["10.0.0.66".to_owned(), "02:00:00:00:00:66".to_owned()],
            allow: vec!["udp/123".to_owned()],
            since_unix_ms: 0,
            who: Who::thing("test"),
            reason: None,
        }
    }

    fn names(overlay: &Overlay, files: &PolicyFiles) -> Vec<String> {
        let over = overlay.over(files, 1);
        let loaded = Policy::load(&over.sources, &Default::default());
        let policy = loaded.unwrap_or_else(|found| panic!("{found:?}")).policy;
        policy.order().map(|rule| policy.rule_name(rule).to_owned()).collect()
    }

    #[test]
    fn quarantines_come_first_and_grants_where_their_file_would() {
        let rule = |name: &str| {
            format!(
                "version: 1\nrules:\n  - {{name: {name}, from: any, to: any, service: tcp/1, action: \
                 deny}}\n"
            )
        };
        let texts = [rule("guard"), rule("own"), rule("learned")];
        let folder = files(&[
            ("/p/00-guardrails.yaml", texts[0].as_str()),
            ("/p/50-a.yaml", texts[1].as_str()),
            ("/p/80-learned.yaml", texts[2].as_str()),
        ]);
        let overlay = Overlay {
            grants: vec![grant("grant-1", "10.0.0.1"), grant("grant-2", "[10.0.0.3, 10.0.0.4]")],
            quarantines: vec![quarantine()],
        };
        let quarantined =
            ["essentials", "from", "to"].map(|last| format!("quarantine-10-0-0-66-{last}"));
        let expected = ["guard", "own", "grant-1", "grant-2", "learned"].map(str::to_owned);
        assert_eq!(names(&overlay, &folder), [&quarantined[..], &expected[..]].concat());
        assert_eq!(overlay.quarantine_rules(), 3);
        let one = files(&[("/etc/policy.yaml", texts[0].as_str())]);
        let expected = ["guard", "grant-1", "grant-2"].map(str::to_owned);
        assert_eq!(names(&overlay, &one), [&quarantined[..], &expected[..]].concat());
        let over = Overlay::default().over(&one, 0);
        assert_eq!(over.hash(), one.hash(), "without exceptions it is the same policy");
    }

    #[test]
    fn rules_of_different_devices_have_different_names() {
        assert_eq!(rule_name("quarantine", "plc-7"), "quarantine-plc-7");
        let long = "2001:db8:1234:5678:9abc:def0:1234:5678";
        let mut devices = vec!["10.0.0.66".to_owned(), "fd00::1".to_owned(), "fd00--1".to_owned()];
        devices.extend(["plc", "plc-", "PLC", "-"].map(str::to_owned));
        devices.extend((0..50).map(|last| format!("{long}{last}")));
        devices.extend((0..50).map(|last| format!("{}{last}", "d".repeat(61))));
        let quarantines = devices.into_iter().map(|device| Quarantine { device, ..quarantine() });
        let overlay = Overlay { grants: Vec::new(), quarantines: quarantines.collect() };
        let names = names(&overlay, &files(&[("p.yaml", "version: 1\ndefault: deny\n")]));
        assert_eq!(names.len() as u32, overlay.quarantine_rules());
    }

    #[test]
    fn a_grant_that_is_over_or_suspended_is_left_out() {
        let one = files(&[("p.yaml", "version: 1\ndefault: deny\n")]);
        let mut overlay =
            Overlay { grants: vec![grant("grant-1", "10.0.0.1")], ..Overlay::default() };
        assert_eq!(names(&overlay, &one), ["grant-1"]);
        overlay.grants[0].suspended = true;
        assert!(names(&overlay, &one).is_empty());
        (overlay.grants[0].suspended, overlay.grants[0].expires_unix_ms) = (false, 1);
        assert!(names(&overlay, &one).is_empty());
    }

    #[test]
    fn what_is_kept_is_read_again_and_a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let overlay = Overlay { grants: vec![grant("a", "b")], quarantines: vec![quarantine()] };
        assert_eq!(Overlay::read(dir.path()), Ok(Overlay::default()));
        overlay.keep(dir.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Overlay::read(dir.path()), Ok(overlay));
        fs::write(dir.path().join(FILE), "{").unwrap_or_else(|e| panic!("{e}"));
        let damaged = |read: &NotRead| matches!(read, NotRead::Damaged(_));
        assert!(Overlay::read(dir.path()).is_err_and(|error| damaged(&error)));
        Overlay::set_aside(dir.path());
        assert_eq!(Overlay::read(dir.path()), Ok(Overlay::default()));
    }
}
