//! The manifest: what is signed of a policy.
//!
//! A text that `sha256sum --check` reads as well: its head is comments, then comes a line for each
//! file, in the order of the names.
//!
//! ```text
//! # bulkhead policy manifest 1
//! # policy plant-7
//! # issued 2026-11-23T06:30:00Z
//! 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae  00-guardrails.yaml
//! fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9  10-site.yaml
//! ```
//!
//! There is one way to write each manifest: what parses prints as the same bytes again.

use std::fmt;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::policy_files::{PolicyFiles, short_name};

/// The most bytes of a manifest: a hundred thousand files have room.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 20;

const HEAD: &str = "# bulkhead policy manifest 1";
const POLICY: &str = "# policy ";
const ISSUED: &str = "# issued ";
const MAX_NAME_BYTES: usize = 255;

/// The names and hashes of a policy's files, and since when it is meant to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Which policy of several it is, such as a site's name; a gateway that has a name takes no other.
    pub policy: Option<String>,
    /// When it was issued, in seconds since the Unix epoch: of two policies the later one counts.
    pub issued_s: i64,
    /// Name and SHA-256 of each file, in the order of the names.
    pub files: Vec<(String, [u8; 32])>,
}

impl Manifest {
    /// The manifest of `files`.
    ///
    /// # Errors
    ///
    /// A name that cannot stand in a manifest, or stands there twice.
    pub fn of(files: &PolicyFiles, policy: Option<String>, issued_s: i64) -> Result<Self, String> {
        let made = Self { policy, issued_s, files: hashes(files) };
        if let Some(name) = made.policy.as_deref().filter(|name| !is_policy(name)) {
            return Err(format!(
                "`{name}` cannot be the name of a policy: letters, digits, `-`, `_` and `.`, at most 63"
            ));
        }
        if let Some((name, _)) = made.files.iter().find(|(name, _)| !is_file_name(name)) {
            return Err(format!(
                "the file name {name:?} cannot stand in a manifest: rename the file"
            ));
        }
        if let Some([(name, _), _]) = made.files.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(format!("the file name {name:?} is there twice, or not in its place"));
        }
        if timestamp(issued_s).is_none() {
            return Err("this is no instant at which a policy can be issued".to_owned());
        }
        Ok(made)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// The line, from 1, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (u32, String)> {
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err((1, format!("it is longer than {} MiB", MAX_MANIFEST_BYTES >> 20)));
        }
        let mut reader = Reader { rest: text, line: 0 };
        if reader.next()? != HEAD {
            return Err(reader.wrong(format!("the first line is not `{HEAD}`")));
        }
        let mut line = reader.next()?;
        let policy = match line.strip_prefix(POLICY) {
            Some(name) if is_policy(name) => {
                line = reader.next()?;
                Some(name.to_owned())
            }
            Some(_) => return Err(reader.wrong("the name of the policy is none")),
            None => None,
        };
        let issued = line.strip_prefix(ISSUED).and_then(seconds);
        let Some(issued_s) = issued else {
            return Err(reader.wrong(format!(
                "`{ISSUED}` and an instant such as 2026-11-23T06:30:00Z are expected"
            )));
        };
        let mut files: Vec<(String, [u8; 32])> = Vec::new();
        while !reader.rest.is_empty() {
            let line = reader.next()?;
            let Some((hash, name)) = line.split_once("  ") else {
                return Err(reader.wrong("a hash, two spaces and a file name are expected"));
            };
            let Some(hash) = unhex(hash) else {
                return Err(reader.wrong("64 hexadecimal digits in lower case are expected"));
            };
            if !is_file_name(name) {
                return Err(reader.wrong("this cannot be the name of a policy's file"));
            }
            if files.last().is_some_and(|(before, _)| before.as_str() >= name) {
                return Err(
                    reader.wrong("the files are not in the order of their names, each once")
                );
            }
            files.push((name.to_owned(), hash));
        }
        if files.is_empty() {
            return Err(reader.wrong("it names no file"));
        }
        Ok(Self { policy, issued_s, files })
    }

    /// What differs between the manifest and `files`, as a sentence; [`None`] where nothing does.
    pub fn difference(&self, files: &PolicyFiles) -> Option<String> {
        let there = hashes(files);
        if there == self.files {
            return None;
        }
        let of = |list: &[(String, [u8; 32])], wanted: &str| {
            list.iter().find(|(name, _)| name == wanted).map(|(_, hash)| *hash)
        };
        for (name, hash) in &there {
            match of(&self.files, name) {
                None => {
                    return Some(format!(
                        "{name} is not in the manifest: it was added after signing"
                    ));
                }
                Some(signed) if signed != *hash => {
                    return Some(format!("{name} is not as it was signed: it was changed since"));
                }
                Some(_) => {}
            }
        }
        let missing = self.files.iter().find(|(name, _)| of(&there, name).is_none());
        Some(match missing {
            Some((name, _)) => {
                format!("{name} is in the manifest and not among the files: it was removed")
            }
            None => "the files are not in the order of the manifest".to_owned(),
        })
    }

    /// When it was issued, for people.
    pub fn issued(&self) -> String {
        instant(self.issued_s)
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        if let Some(policy) = &self.policy {
            writeln!(f, "{POLICY}{policy}")?;
        }
        writeln!(f, "{ISSUED}{}", instant(self.issued_s))?;
        for (name, hash) in &self.files {
            hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            writeln!(f, "  {name}")?;
        }
        Ok(())
    }
}

/// An instant as manifests write it.
pub fn instant(unix_s: i64) -> String {
    timestamp(unix_s).map_or_else(|| format!("second {unix_s}"), |at| at.to_string())
}

/// Whether `name` can be the name of a policy.
pub fn is_policy(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&name.len()) && name.chars().all(known)
}

fn hashes(files: &PolicyFiles) -> Vec<(String, [u8; 32])> {
    let hash = |text: &str| Sha256::digest(text.as_bytes()).into();
    files.sources.iter().map(|source| (short_name(source), hash(&source.text))).collect()
}

/// From the year 1970 to 9999, so that an instant has 20 characters.
fn timestamp(unix_s: i64) -> Option<Timestamp> {
    (0..=253_402_207_200).contains(&unix_s).then(|| Timestamp::from_second(unix_s).ok()).flatten()
}

/// The instant as it is printed, and no other spelling of it.
fn seconds(written: &str) -> Option<i64> {
    let at: Timestamp = written.parse().ok()?;
    let unix_s = at.as_second();
    (timestamp(unix_s).is_some() && instant(unix_s) == written).then_some(unix_s)
}

/// A name that stands in one line, that `sha256sum` writes as it is, and that stays in its folder.
fn is_file_name(name: &str) -> bool {
    let odd = |c: char| c == '/' || c == '\\' || c.is_control();
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with('.')
        && !name.contains(odd)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (place, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *place = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

struct Reader<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<&'a str, (u32, String)> {
        self.line += 1;
        let Some((line, rest)) = self.rest.split_once('\n') else {
            return Err(self.wrong("it ends in the middle"));
        };
        self.rest = rest;
        Ok(line)
    }

    fn wrong(&self, what: impl Into<String>) -> (u32, String) {
        (self.line, what.into())
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::syntax::Source;

    use super::*;

    fn files(list: &[(&str, &str)]) -> PolicyFiles {
        let source = |&(name, text): &(&str, &str)| Source::new(name, text);
        PolicyFiles { sources: list.iter().map(source).collect(), left_out: Vec::new() }
    }

    #[test]
    fn what_is_printed_parses_and_names_what_changed() {
        let signed = files(&[("/p/00-a.yaml", "a"), ("/p/10-b.yaml", "b")]);
        for policy in [None, Some("plant-7".to_owned())] {
            let manifest = Manifest::of(&signed, policy, 1_795_415_400).unwrap();
            assert_eq!(Manifest::parse(&manifest.to_string()), Ok(manifest.clone()));
            assert_eq!(manifest.difference(&signed), None);
            for (other, said) in [
                (files(&[("00-a.yaml", "x"), ("10-b.yaml", "b")]), "00-a.yaml is not as it was"),
                (files(&[("00-a.yaml", "a")]), "10-b.yaml is in the manifest and not among"),
                (
                    files(&[("00-a.yaml", "a"), ("10-b.yaml", "b"), ("80-learned.yaml", "c")]),
                    "80-learned.yaml is not in the manifest",
                ),
                (files(&[("10-b.yaml", "b"), ("00-a.yaml", "a")]), "not in the order"),
            ] {
                let difference = manifest.difference(&other).unwrap_or_default();
                assert!(difference.contains(said), "{difference}");
            }
        }
    }

    #[test]
    fn there_is_one_spelling_of_each_manifest() {
        let manifest = Manifest::of(&files(&[("a.yaml", "a"), ("b.yaml", "b")]), None, 0).unwrap();
        let text = manifest.to_string();
        let hash = &text.lines().nth(2).unwrap()[..64];
        for (wrong, line) in [
            (String::new(), 1),
            (text.replace('\n', "\r\n"), 1),
            (text.replace("manifest 1", "manifest 2"), 1),
            (text.replace("# issued", "# policy a/b\n# issued"), 2),
            (text.replace("1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"), 2),
            (text.replace("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.5Z"), 2),
            (text.replace("1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z"), 2),
            (text.replace(hash, &hash.to_uppercase()), 3),
            (text.replace("  a.yaml", "  ../a.yaml"), 3),
            (text.replace("  a.yaml", " *a.yaml"), 3),
            (text.replace("  b.yaml", "  a.yaml"), 4),
            (text.trim_end().to_owned(), 4),
            (text.lines().take(2).map(|line| format!("{line}\n")).collect(), 2),
            (format!("{text}\n"), 5),
        ] {
            assert_eq!(Manifest::parse(&wrong).map_err(|(line, _)| line), Err(line), "{wrong}");
        }
    }

    #[test]
    fn names_that_cannot_stand_in_a_manifest_are_not_signed() {
        for list in
            [&[("a\nb.yaml", "")][..], &[("a\\b.yaml", "")], &[("a.yaml", ""), ("a.yaml", "")]]
        {
            assert!(Manifest::of(&files(list), None, 0).is_err(), "{list:?}");
        }
        assert!(Manifest::of(&files(&[("a.yaml", "")]), Some("a b".to_owned()), 0).is_err());
        assert!(Manifest::of(&files(&[("a.yaml", "")]), None, -1).is_err());
    }
}
