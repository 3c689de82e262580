//! What the console asks: the texts of policies, decisions by rule, the audit log, and to enter who
//! logged in. The console reads no file of the gateway.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Answer, Ask};
use crate::audit::files::{self, Start};
use crate::audit::verify::{Failure, Verifier};
use crate::audit::{Draft, Entry, Head, What, Who, unsealed};
use crate::candidate::unix_now_ms;
use crate::policy_files::PolicyFiles;
use crate::state::Gateway;
use crate::workflow::history::History;
use crate::workflow::standing::Base;

/// Entries of the audit log that one answer has at most.
const MAX_ENTRIES: usize = 500;

/// The longest detail of a [`Note`], in bytes.
const MAX_DETAIL_BYTES: usize = 1000;

/// Which policy is meant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The one in force, with what the tool adds (grants, quarantines).
    InForce,
    /// The one that is staged, with the same.
    Staged,
    /// An earlier version, as its files were.
    Version(u64),
}

/// The texts of a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyShown {
    /// Where it was read from.
    pub source: String,
    /// The hash of its files, without what the tool adds.
    pub hash: String,
    /// The first epoch that workers judge by it; absent where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The names of the gateway's wires, in their order.
    pub wires: Vec<String>,
    /// Its texts in the order in which they are read.
    pub files: Vec<TextShown>,
}

/// A text of a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TextShown {
    /// The file's name, or what added it.
    pub name: String,
    /// The text.
    pub text: String,
    /// Whether the tool added it: it is no file.
    pub added: bool,
}

/// How often each rule decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RulesReport {
    /// The rules in the order in which they decide; the default is last, as `default`.
    pub rules: Vec<RuleHits>,
}

/// How often a rule decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RuleHits {
    /// Its name.
    pub name: String,
    /// Decisions on wires that enforce.
    pub enforced: u64,
    /// Decisions on wires that observe.
    pub observed: u64,
}

/// Entries of the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AuditPage {
    /// The entries, the latest first.
    pub entries: Vec<Entry>,
    /// Whether there are earlier ones.
    pub more: bool,
    /// Whether the hash chain holds over every file that these entries are in, up to the log's head.
    pub verified: bool,
    /// Where it does not, what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// What the console has entered into the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Note {
    /// What it is about.
    pub about: About,
    /// The console's user.
    pub on_behalf_of: String,
    /// What happened, in a sentence.
    pub detail: String,
}

/// What a [`Note`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// A log-in.
    LogIn,
    /// Who may use the console.
    Access,
    /// What a proposal may do.
    Proposal,
}

/// Answers one of the console's questions, off the thread that serves.
pub(super) async fn answer(gateway: Arc<Gateway>, who: Who, ask: Ask) -> Answer {
    let answered = tokio::task::spawn_blocking(move || match ask {
        Ask::Policy { which } => policy(&gateway, &which).map(|shown| Answer::Policy(shown.into())),
        Ask::Rules {} => Ok(Answer::Rules(Box::new(rules(&gateway)))),
        Ask::Audit { before, limit } => {
            page(&gateway, before, limit.min(MAX_ENTRIES)).map(|page| Answer::Audit(page.into()))
        }
        Ask::Note(note) => enter(&gateway, who, note).map(|()| Answer::Noted {}),
        _ => Err("this is not a question of the console".to_owned()),
    });
    match answered.await {
        Ok(answer) => answer.unwrap_or_else(Answer::Error),
        Err(error) => Answer::Error(format!("the answer could not be made: {error}")),
    }
}

fn policy(gateway: &Gateway, which: &Which) -> Result<PolicyShown, String> {
    let now = unix_now_ms().unwrap_or_default();
    let shown = |base: &Base, files: &PolicyFiles, epoch| PolicyShown {
        source: base.source.clone(),
        hash: base.hash.to_string(),
        epoch,
        wires: gateway.config.wires.iter().map(|wire| wire.name.clone()).collect(),
        files: texts(files, |name| !base.files.sources.iter().any(|own| &*own.name == name)),
    };
    let state = gateway.policy();
    let overlay = &state.standing.overlay;
    match which {
        Which::InForce => {
            let base = state.standing.base.as_ref().ok_or("no policy is in force")?;
            let publisher = state.publisher.as_ref();
            let epoch = publisher.map(|publisher| publisher.current().epoch_at(gateway.now()));
            Ok(shown(base, &overlay.without_suspended().over(&base.files, now), epoch))
        }
        Which::Staged => {
            let staged = state.staged.as_ref().ok_or("no policy is staged")?;
            let overlay = overlay.without_suspended();
            Ok(shown(&staged.base, &overlay.over(&staged.base.files, now), None))
        }
        Which::Version(number) => {
            drop(state);
            let config = &gateway.config;
            let history = History::read(&config.state_dir)?;
            let version = history.version(*number).ok_or_else(|| {
                format!("version {number} is not kept: `bulkhead history` lists those that are")
            })?;
            let files = History::files(&config.state_dir, version, &config.limits)?;
            Ok(PolicyShown {
                source: version.source.clone(),
                hash: version.hash.clone(),
                epoch: None,
                wires: config.wires.iter().map(|wire| wire.name.clone()).collect(),
                files: texts(&files, |_| false),
            })
        }
    }
}

fn texts(files: &PolicyFiles, is_added: impl Fn(&str) -> bool) -> Vec<TextShown> {
    let shown = files.sources.iter().map(|source| TextShown {
        name: source.name.to_string(),
        text: source.text.clone(),
        added: is_added(&source.name),
    });
    shown.collect()
}

fn rules(gateway: &Gateway) -> RulesReport {
    let state = gateway.policy();
    let totals = state.publisher.as_ref().map(|publisher| publisher.rule_totals());
    let rules = totals.into_iter().flatten().map(|(name, total)| RuleHits {
        name: name.to_string(),
        enforced: total.enforced,
        observed: total.observed,
    });
    RulesReport { rules: rules.collect() }
}

/// The last `limit` entries before the one with the number `before`. The files that they are in are
/// read whole, which checks their chain, from the newest one back.
fn page(gateway: &Gateway, before: Option<u64>, limit: usize) -> Result<AuditPage, String> {
    let folder = &gateway.config.state_dir;
    let before = before.unwrap_or(u64::MAX);
    let cannot = |error: std::io::Error| format!("the audit log cannot be read: {error}");
    let files = files::of(folder).map_err(cannot)?;
    let mut entries: VecDeque<Entry> = VecDeque::new();
    let mut broken = None;
    let mut unread = files.len();
    // Taken first: what is entered meanwhile comes after it.
    let head = gateway.audit.head();
    let mut is_head_seen = head.sequence == 0;
    let mut next_file_follows: Option<String> = None;
    for path in files.iter().rev() {
        if entries.len() > limit {
            break;
        }
        unread -= 1;
        let Some(first) = first_entry(path) else { continue };
        let mut last_hash = first.previous.clone();
        let after = Head { sequence: first.sequence.saturating_sub(1), hash: first.previous };
        let start = Start { last: after.clone(), before: None };
        let mut verifier = Verifier::new(None).starting_after(Some(start));
        let mut found = VecDeque::new();
        let read =
            verifier.read(BufReader::new(File::open(path).map_err(cannot)?), |entry, hash| {
                is_head_seen |= entry.sequence == head.sequence && *hash == *head.hash;
                hash.clone_into(&mut last_hash);
                if entry.sequence < before {
                    found.push_back(entry.clone());
                    if found.len() > limit + 1 {
                        found.pop_front();
                    }
                }
            });
        match read {
            Ok(()) => {}
            Err(Failure::Io(error)) => return Err(cannot(error)),
            Err(Failure::Broken(place)) => {
                broken = Some(format!("{}, {place}", path.display()));
            }
        }
        if next_file_follows.is_some_and(|previous| previous != last_hash) {
            broken = Some(format!("{} does not end where the next file begins", path.display()));
        }
        next_file_follows = Some(after.hash);
        while let Some(entry) = found.pop_back() {
            entries.push_front(entry);
        }
    }
    if !is_head_seen && broken.is_none() {
        broken = Some(format!("entry {}, the last that was written, is missing", head.sequence));
    }
    let surplus = entries.len().saturating_sub(limit);
    entries.drain(..surplus);
    Ok(AuditPage {
        entries: entries.into_iter().rev().collect(),
        more: surplus > 0 || unread > 0,
        verified: broken.is_none(),
        broken,
    })
}

fn first_entry(path: &std::path::Path) -> Option<Entry> {
    use std::io::{BufRead, Read};
    let mut line = Vec::new();
    let limit = crate::audit::MAX_LINE_BYTES as u64 + 1;
    BufReader::new(File::open(path).ok()?.take(limit)).read_until(b'\n', &mut line).ok()?;
    unsealed(line.strip_suffix(b"\n")?).map(|(entry, ..)| entry)
}

fn enter(gateway: &Gateway, who: Who, note: Note) -> Result<(), String> {
    let who = gateway.config.console.acts_for(who, Some(note.on_behalf_of))?;
    let what = match note.about {
        About::LogIn => What::LogIn,
        About::Access => What::Access,
        About::Proposal => What::Approve,
    };
    let mut detail = note.detail;
    if detail.len() > MAX_DETAIL_BYTES {
        let cut = (0..=MAX_DETAIL_BYTES).rev().find(|&at| detail.is_char_boundary(at));
        detail.truncate(cut.unwrap_or(0));
    }
    gateway.audit.enter(Draft::new(who, what, detail))
}
