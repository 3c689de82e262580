//! `bulkhead audit`: shows the log, or checks it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::files::{self, START_FILE, Start};
use super::verify::{Broken, Failure, Verifier};
use super::{Entry, HEAD_FILE, LOG_FILE, read_head};
use crate::cli::{CONFIG_PATH, exit};
use crate::config::Config;
use crate::control::client::print_json;
use crate::one_line::one_line;

/// What `audit` is told.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditArgs {
    /// Show the entries, the last ones
    #[command(flatten)]
    show: ShowArgs,
    #[command(subcommand)]
    command: Option<AuditCommand>,
}

#[derive(Subcommand, Clone, Debug)]
enum AuditCommand {
    /// Check that nothing was changed, removed or inserted
    Verify(VerifyArgs),
}

#[derive(Args, Clone, Debug)]
struct ShowArgs {
    /// The gateway's configuration
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    config: PathBuf,
    /// How many entries, the last ones
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    last: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct VerifyArgs {
    /// The log, or the folder that it lies in: what was full before is checked with it. Of one that was
    /// moved away in pieces, all of them, the oldest first. Without any, the one of the configuration
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The gateway's configuration
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    config: PathBuf,
    /// The file that knows the last entry; without it, `audit.head` beside the log, where it is
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// A hash that was noted elsewhere: the log must have an entry with it
    #[arg(long, value_name = "HASH")]
    expect_head: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows or checks the log. Returns the exit code.
pub fn main(args: &AuditArgs) -> u8 {
    let done = match &args.command {
        Some(AuditCommand::Verify(args)) => verify(args),
        None => show(&args.show),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        exit::UNAVAILABLE
    })
}

fn show(args: &ShowArgs) -> Result<u8, String> {
    let mut last = VecDeque::new();
    let mut read = Ok(());
    let log = Log::of(&[], &args.config)?;
    let mut verifier = Verifier::new(None).starting_after(log.start);
    for path in &log.files {
        read = verifier.read(open(path)?, |entry, hash| {
            if last.len() >= args.last {
                last.pop_front();
            }
            last.push_back((entry.clone(), hash.to_owned()));
        });
        match &mut read {
            Ok(()) => {}
            Err(Failure::Broken(broken)) => {
                broken.why = format!("{} ({})", broken.why, path.display());
                break;
            }
            Err(Failure::Io(error)) => {
                return Err(format!("cannot read {}: {error}", path.display()));
            }
        }
    }
    if args.json {
        let entries: Vec<_> = last.iter().map(|(entry, hash)| with_hash(entry, hash)).collect();
        print_json(&entries);
    } else {
        last.iter().for_each(|(entry, _)| print!("{}", shown(entry)));
    }
    match read {
        Err(Failure::Broken(broken)) => {
            eprintln!("error: the log is broken at {broken}; what comes after is not shown");
            Ok(exit::REFUSED)
        }
        _ => Ok(exit::OK),
    }
}

/// An entry for a person: nothing in it can look like a line of its own.
fn shown(entry: &Entry) -> String {
    let mut who = match entry.who.uid {
        Some(uid) => format!("{} (uid {uid})", entry.who.name),
        None => entry.who.name.clone(),
    };
    if let Some(user) = &entry.who.on_behalf_of {
        who.push_str(&format!(" for {user}"));
    }
    let line = format!("{}  {who}  {}: {}", entry.time, entry.what, entry.detail);
    let mut out = format!("{:>6}  {}\n", entry.sequence, one_line(&line));
    if let Some(reason) = &entry.reason {
        out.push_str(&format!("        reason: {}\n", one_line(reason)));
    }
    let short = |hash: &Option<String>| {
        let short = hash.as_deref().map(|hash| hash.chars().take(12).collect::<String>());
        short.map_or_else(|| "none".to_owned(), |hash| one_line(&hash).into_owned())
    };
    if entry.policy_before != entry.policy_after {
        let (before, after) = (short(&entry.policy_before), short(&entry.policy_after));
        out.push_str(&format!("        policy: {before} -> {after}\n"));
    }
    out
}

fn verify(args: &VerifyArgs) -> Result<u8, String> {
    let Log { files, start } = Log::of(&args.files, &args.config)?;
    let beside = || {
        let last = files.last()?;
        Some(last.parent().unwrap_or(Path::new("")).join(HEAD_FILE)).filter(|path| path.exists())
    };
    let head = match args.head.clone().or_else(beside) {
        Some(path) => Some(
            read_head(&path).ok_or_else(|| format!("{} is not a head of a log", path.display()))?,
        ),
        None => None,
    };
    let mut verifier = Verifier::new(args.expect_head.clone()).starting_after(start);
    let refuse = |broken: Broken, file: Option<&PathBuf>| {
        let file = file.filter(|_| files.len() > 1);
        refuse(args.json, broken.line, file.map(PathBuf::as_path), &broken.why)
    };
    for path in &files {
        match verifier.read(open(path)?, |_, _| ()) {
            Ok(()) => {}
            Err(Failure::Io(error)) => {
                return Err(format!("cannot read {}: {error}", path.display()));
            }
            Err(Failure::Broken(broken)) => return Ok(refuse(broken, Some(path))),
        }
    }
    let first = verifier.first();
    let whole = match verifier.finish(head.as_ref()) {
        Ok(whole) => whole,
        Err(broken) => return Ok(refuse(broken, files.last())),
    };
    if !whole.has_expected {
        let why = "no entry has the hash that was expected: the end was removed, or all of it is \
                   another history";
        let broken = Broken { line: whole.head.sequence + 1, why: why.to_owned() };
        return Ok(refuse(broken, None));
    }
    let entries = (whole.head.sequence + 1).saturating_sub(first);
    let is_end_known = head.is_some() || args.expect_head.is_some();
    if args.json {
        print_json(&VerifyReport {
            whole: true,
            entries: Some(entries),
            first: Some(first),
            files: Some(files.len()),
            head: Some(whole.head.hash.clone()),
            end_known: Some(is_end_known),
            ..VerifyReport::default()
        });
        return Ok(exit::OK);
    }
    println!("whole: {entries} entries, the last one with hash {}", whole.head.hash);
    if first > 1 {
        println!(
            "note: it begins with entry {first}, as {START_FILE} says; those before it were removed \
             when there were too many"
        );
    }
    if !is_end_known {
        println!(
            "note: without {HEAD_FILE} or --expect-head nobody can tell whether entries are missing \
             at the end"
        );
    }
    Ok(exit::OK)
}

fn refuse(json: bool, line: u64, file: Option<&Path>, why: &str) -> u8 {
    if json {
        print_json(&VerifyReport {
            line: Some(line),
            file: file.map(|file| file.display().to_string()),
            why: Some(why.to_owned()),
            ..VerifyReport::default()
        });
    } else {
        let of = file.map_or_else(String::new, |file| format!(" of {}", file.display()));
        println!("BROKEN at line {line}{of}: {why}");
    }
    exit::REFUSED
}

/// An entry, and the hash by which the next one knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct HashedEntry {
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
    /// Its hash.
    pub hash: String,
}

fn with_hash(entry: &Entry, hash: &str) -> HashedEntry {
    HashedEntry { entry: entry.clone(), hash: hash.to_owned() }
}

/// Whether a log is whole, for programs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VerifyReport {
    /// Whether nothing was changed, removed or inserted.
    pub whole: bool,
    /// Entries of a whole log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// The number of its first entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The files that it lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<usize>,
    /// The hash of its last entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Whether anybody can tell that nothing is missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_known: Option<bool>,
    /// The line at which a log is broken, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The file, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The files of a log, the oldest first, and where it may begin.
struct Log {
    files: Vec<PathBuf>,
    start: Option<Start>,
}

impl Log {
    /// The log that is meant by `named`, or by the configuration where nothing is.
    fn of(named: &[PathBuf], config: &Path) -> Result<Self, String> {
        let folder = match named {
            [] => {
                let config = Config::load(config).map_err(|error| {
                    format!("the configuration does not say where the log is:\n{error}")
                })?;
                config.state_dir
            }
            [folder] if folder.is_dir() => folder.clone(),
            [file] if file.file_name().is_some_and(|name| name == LOG_FILE) => {
                let folder = file.parent().filter(|folder| *folder != Path::new(""));
                folder.unwrap_or(Path::new(".")).to_path_buf()
            }
            files => return Ok(Self { files: files.to_vec(), start: None }),
        };
        let files = files::of(&folder)
            .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
        Ok(Self { files, start: files::start(&folder) })
    }
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    let file =
        File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(BufReader::new(file))
}

#[cfg(test)]
mod tests {
    use super::super::Who;
    use super::*;

    #[test]
    fn a_reason_cannot_look_like_an_entry() {
        let forged = "x\n   812  2026-11-23T09:00:00Z  root (uid 0)  rollback: done\u{1b}[2K";
        let entry = Entry {
            sequence: 7,
            time: "2026-11-23T08:00:00Z".to_owned(),
            who: Who { on_behalf_of: Some("ada".to_owned()), ..Who::thing("console") },
            what: "stage".to_owned(),
            detail: forged.to_owned(),
            reason: Some(forged.to_owned()),
            policy_before: None,
            policy_after: None,
            removed: None,
            previous: String::new(),
        };
        let text = shown(&entry);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.starts_with("     7  2026-11-23T08:00:00Z  console for ada  stage: x\\n   812")
        );
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
