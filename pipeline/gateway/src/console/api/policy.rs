//! The policy: its texts and rules, what an edit would change, and versions.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use bulkhead_rules::analyze;
use bulkhead_rules::headers::{PolicyTime, WireId};
use bulkhead_rules::packet::Packet;
use bulkhead_rules::policy::{Action, Policy, Rule, RuleId};
use bulkhead_rules::syntax::Source;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::flows::instant;
use super::{Because, Body, Page, Paging, Params, Segment, heavy, reason, signing};
use crate::analysis::{action_word, packet_at};
use crate::candidate::{self, Candidate, Finding};
use crate::console::Console;
use crate::console::access::Caller;
use crate::console::gateway::Compiled;
use crate::console::model::judged::now;
use crate::console::problem::Problem;
use crate::control::client::ANOTHER_QUESTION;
use crate::control::questions::{PolicyShown, TextShown, Which};
use crate::control::{Answer, Ask};
use crate::learning::proposal::HEAD;
use crate::policy_files::PolicyFiles;
use crate::reload::ReloadReport;
use crate::signature::Envelope;
use crate::workflow::commands::HistoryReport;
use crate::workflow::{Change, ChangeReport, PolicyTexts};

/// Differences that are listed; the others are counted.
const MAX_DIFFERENCES: usize = 200;

/// Rules that are listed because they nearly decided otherwise.
const MAX_NEAREST: usize = 3;

/// A policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyReport {
    /// The hash of its files.
    pub hash: String,
    /// Where it was read from.
    pub source: String,
    /// Its texts in the order in which they are read.
    pub files: Vec<FileShown>,
    /// When it came into force; absent for another than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub loaded_at: Option<String>,
    /// Its rules.
    pub rules: usize,
    /// What a person should look at.
    pub warnings: Vec<Finding>,
}

/// A text of a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FileShown {
    /// Its name.
    pub name: String,
    /// The text.
    pub text: String,
    /// Whether learning wrote it.
    pub learned: bool,
    /// Whether the tool added it (grants, quarantines): it is no file, and not to be sent back.
    pub added: bool,
}

/// A text to look at or to stage.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileGiven {
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// The text.
    pub text: String,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RuleRow {
    /// Its name.
    pub name: String,
    /// The file that it is written in.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// `allow`, `deny` or `reject`.
    pub action: String,
    /// The side that opens.
    pub from: String,
    /// The side that is opened to.
    pub to: String,
    /// Whether either side may open.
    pub between: bool,
    /// What is opened.
    pub service: String,
    /// Decisions since the gateway started, on wires that enforce and that observe.
    pub hits: u64,
    /// When it decided last, as far as the communication store knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub last_hit: Option<String>,
    /// When it begins to match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub starts: Option<String>,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub expires: Option<String>,
    /// Why it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether learning wrote it.
    pub learned: bool,
    /// What the analysis says of it.
    pub warnings: Vec<String>,
}

/// A rule and what it decided.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RuleDetails {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleRow,
    /// Its text.
    pub text: String,
    /// Edges that it decides now, those seen last first; the first hundred. For a learned rule they are
    /// its evidence.
    pub evidence: Vec<super::flows::EdgeShown>,
    /// How many it decides.
    pub evidence_total: u64,
}

/// Texts to look at.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CheckWanted {
    /// A whole policy.
    #[schema(max_items = 1000)]
    pub files: Vec<FileGiven>,
}

/// What is wrong with a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// Whether the gateway would accept it.
    pub ok: bool,
    /// Errors and warnings.
    pub diagnostics: Vec<Finding>,
    /// Its rules, where it is sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<usize>,
    /// The hash by which it would be known, where it is sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// What is compared with the policy in force: one of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiffWanted {
    /// These texts.
    #[serde(default)]
    pub files: Option<Vec<FileGiven>>,
    /// An earlier version.
    #[serde(default)]
    pub version: Option<u64>,
    /// The policy of a proposal, put in the place of what was learned before.
    #[serde(default)]
    pub proposal_id: Option<String>,
    /// The staged policy.
    #[serde(default)]
    pub staged: bool,
}

/// How two policies differ: exactly, packet by packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DiffReport {
    /// The hash of the policy in force.
    pub before: String,
    /// The hash of the other.
    pub after: String,
    /// The differences.
    pub differences: Vec<DifferenceShown>,
    /// How many more there are.
    pub more: usize,
    /// Whether these are all, listed and counted; where not, finding the others takes too much work.
    pub complete: bool,
}

/// Packets that the two judge differently.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DifferenceShown {
    /// What happens to them now.
    pub before: String,
    /// What would.
    pub after: String,
    /// The rule that decides now.
    pub rule_before: String,
    /// The rule that would.
    pub rule_after: String,
    /// From whom.
    pub from: String,
    /// To whom.
    pub to: String,
    /// What is opened.
    pub service: String,
    /// One of them, in the words of `bulkhead explain`.
    pub witness: String,
}

/// A packet to be explained.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExplainWanted {
    /// In words: `tcp 10.20.0.11 -> 10.30.3.11:502`.
    #[schema(min_length = 1, max_length = 500)]
    pub packet: String,
    /// By the staged policy instead of the one in force.
    #[serde(default)]
    pub staged: bool,
}

/// What a policy does with a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainReport {
    /// The packet as it was understood.
    pub packet: String,
    /// What was assumed of it.
    pub assumed: Vec<String>,
    /// `allow`, `deny` or `reject`.
    pub verdict: String,
    /// The rule that decides; `default` where none matches.
    pub rule: String,
    /// Where it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Rules that would decide otherwise but for what is named.
    pub nearest: Vec<NearestRule>,
}

/// A rule that nearly decided otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NearestRule {
    /// Its name.
    pub rule: String,
    /// What does not match.
    pub but_for: Vec<String>,
}

/// What is put beside the policy in force: one of them.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StageWanted {
    /// Why, for the audit log.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// These texts.
    #[serde(default)]
    pub files: Option<Vec<FileGiven>>,
    /// A proposal, put in the place of what was learned before.
    #[serde(default)]
    pub proposal_id: Option<String>,
    /// An earlier version.
    #[serde(default)]
    pub version: Option<u64>,
    /// Of a proposal: the hash of the text that was looked at. Another one is refused.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub expect: Option<String>,
    /// Their manifest (`POST /policy/manifest`) and its signature, where the gateway takes only signed
    /// policies.
    #[serde(default)]
    pub envelope: Option<Envelope>,
}

/// What is brought back.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RollBackWanted {
    /// Why, for the audit log.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// The version; the one before without it.
    #[serde(default)]
    pub to: Option<u64>,
    /// Whether it is to be done although something stands in the way.
    #[serde(default)]
    pub force: bool,
}

/// Which policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PolicyQuery {
    /// The staged one.
    #[serde(default)]
    pub staged: Option<bool>,
    /// An earlier version.
    pub version: Option<u64>,
}

/// Which rules.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RulesQuery {
    /// A part of a name, a side, a service, a file or a reason.
    pub search: Option<String>,
    /// What the page before said.
    #[param(pattern = r"^[0-9]{1,12}$")]
    pub cursor: Option<String>,
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// The policy in force, or another
#[utoipa::path(get, path = "/policy", operation_id = "policy", tag = "policy",
    params(PolicyQuery),
    responses((status = 200, description = "Its texts", body = PolicyReport),
              (status = 404, description = "There is no such policy", body = Problem,
               content_type = "application/problem+json")))]
pub async fn policy(
    State(console): State<Arc<Console>>,
    Params(PolicyQuery { staged, version }): Params<PolicyQuery>,
) -> Result<Json<PolicyReport>, Problem> {
    let which = match (staged, version) {
        (_, Some(version)) => Which::Version(version),
        (Some(true), None) => Which::Staged,
        _ => Which::InForce,
    };
    let is_in_force = which == Which::InForce;
    let shown = console.gateway.policy(which).await?;
    let overview = crate::console::overview::Overview::of(&console, console.gateway.moment());
    let in_force = overview.gateway.and_then(|gateway| gateway.policy).filter(|_| is_in_force);
    let limits = console.settings.limits.clone();
    let report = heavy(&console, move || {
        let files = shown.files.iter().map(file_shown).collect();
        let (hash, source) = (shown.hash.clone(), shown.source.clone());
        let compiled = Compiled::of(shown, &limits).map_err(Problem::internal)?;
        Ok(PolicyReport {
            hash,
            source,
            files,
            loaded_at: in_force.map(|policy| policy.loaded_at),
            rules: compiled.candidate.policy.rule_count(),
            warnings: compiled.candidate.warnings,
        })
    });
    Ok(Json(report.await?))
}

/// Rules of the policy in force
#[utoipa::path(get, path = "/policy/rules", operation_id = "rules", tag = "policy",
    params(RulesQuery),
    responses((status = 200, description = "In the order in which they decide", body = Page<RuleRow>)))]
pub async fn rules(
    State(console): State<Arc<Console>>,
    Params(query): Params<RulesQuery>,
) -> Result<Json<Page<RuleRow>>, Problem> {
    let compiled = in_force(&console)?;
    let hits = hits(&console).await?;
    let worker = Arc::clone(&console);
    let page = heavy(&console, move || {
        let paging = Paging::new(query.cursor.as_deref(), query.limit)?;
        let search = query.search.map(|search| search.to_lowercase());
        let policy = &compiled.candidate.policy;
        let has = |id: &RuleId| {
            let Some(search) = &search else { return true };
            let Some(rule) = policy.rule(*id) else { return false };
            let has = |text: &str| text.to_lowercase().contains(search);
            has(&rule.name)
                || has(&policy.endpoint(rule.from).label)
                || has(&policy.endpoint(rule.to).label)
                || has(&policy.service(rule.service).label)
                || has(&rule.location.file)
                || rule.reason.as_deref().is_some_and(has)
        };
        let found: Vec<RuleId> = policy.order().filter(has).collect();
        let shown = |&id: &RuleId| row(&worker, &compiled, id, &hits);
        let page = paging.of(&found, shown);
        let items = page.items.into_iter().flatten().collect();
        Ok(Page { items, next_cursor: page.next_cursor, total: page.total })
    });
    Ok(Json(page.await?))
}

/// A rule of the policy in force
#[utoipa::path(get, path = "/policy/rules/{name}", operation_id = "rule", tag = "policy",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "With the edges that it decides", body = RuleDetails),
              (status = 404, description = "There is no such rule", body = Problem,
               content_type = "application/problem+json")))]
pub async fn rule(
    State(console): State<Arc<Console>>,
    Segment(name): Segment,
) -> Result<Json<RuleDetails>, Problem> {
    let compiled = in_force(&console)?;
    let hits = hits(&console).await?;
    let worker = Arc::clone(&console);
    let shown = heavy(&console, move || {
        let policy = &compiled.candidate.policy;
        let found = policy.order().find(|&id| policy.rule_name(id) == name);
        let found = found.and_then(|id| Some((id, row(&worker, &compiled, id, &hits)?)));
        let (id, rule) = found.ok_or_else(|| {
            Problem::not_found(format!("there is no rule `{name}` in the policy in force"))
        })?;
        let mut edges: Vec<u32> = Vec::new();
        let picture = worker.model.picture().ok();
        if let Some((picture, judged)) =
            picture.as_ref().and_then(|p| Some((p, p.active.as_ref()?)))
        {
            let own = &judged.policy.candidate.policy;
            // The model may be of the policy before for a moment.
            let id = own.order().find(|&other| own.rule_name(other) == policy.rule_name(id));
            let all = 0..picture.network.edges.len() as u32;
            edges.extend(all.filter(|&at| id.is_some() && judged.rule(at) == id));
            edges.sort_by_key(|&at| {
                std::cmp::Reverse(picture.network.edges[at as usize].seen.last_ms)
            });
        }
        let total = edges.len() as u64;
        edges.truncate(100);
        let evidence = picture.map_or_else(Vec::new, |picture| {
            edges.into_iter().map(|at| super::flows::shown(&picture, at, None)).collect()
        });
        let text = text_of(&compiled, &rule);
        Ok(RuleDetails { rule, text, evidence, evidence_total: total })
    });
    Ok(Json(shown.await?))
}

/// Check texts
///
/// With the gateway's own parser and limits; nothing changes.
#[utoipa::path(post, path = "/policy/check", operation_id = "check", tag = "policy",
    request_body = CheckWanted,
    responses((status = 200, description = "What is wrong with them, if anything", body = CheckReport)))]
pub async fn check(
    State(console): State<Arc<Console>>,
    Body(CheckWanted { files }): Body<CheckWanted>,
) -> Result<Json<CheckReport>, Problem> {
    let wires = wires(&console);
    let limits = console.settings.limits.clone();
    let files = bounded(files)?;
    let report = heavy(&console, move || {
        Ok(match made(files, &wires, &limits) {
            Ok(candidate) => CheckReport {
                ok: true,
                rules: Some(candidate.policy.rule_count()),
                hash: Some(candidate.hash.to_string()),
                diagnostics: candidate.warnings,
            },
            Err(diagnostics) => CheckReport { ok: false, rules: None, hash: None, diagnostics },
        })
    });
    Ok(Json(report.await?))
}

/// Compare with the policy in force
///
/// What is compared is verdicts, not texts: every packet, at every instant.
#[utoipa::path(post, path = "/policy/diff", operation_id = "diff", tag = "policy",
    request_body = DiffWanted,
    responses((status = 200, description = "What the two judge differently", body = DiffReport),
              (status = 404, description = "There is no such policy", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "The texts are not sound", body = Problem,
               content_type = "application/problem+json")))]
pub async fn diff(
    State(console): State<Arc<Console>>,
    Body(wanted): Body<DiffWanted>,
) -> Result<Json<DiffReport>, Problem> {
    let DiffWanted { files, version, proposal_id, staged } = wanted;
    let before = in_force(&console)?;
    let files = if staged {
        console.gateway.policy(Which::Staged).await?.files.into_iter().map(given).collect()
    } else {
        let texts = texts(&console, files, version, proposal_id).await?;
        let mut files: Vec<FileGiven> =
            texts.files.into_iter().map(|(name, text)| FileGiven { name, text }).collect();
        // What the tool adds stays whatever the files say.
        let added = before.shown.files.iter().filter(|file| file.added).cloned().map(given);
        files.splice(0..0, added);
        files
    };
    let wires = wires(&console);
    let limits = console.settings.limits.clone();
    let report = heavy(&console, move || {
        let after = made(files, &wires, &limits).map_err(unsound)?;
        let (old, new) = (&before.candidate.policy, &after.policy);
        let diff = analyze::diff(old, new, MAX_DIFFERENCES);
        let word = |policy: &Policy, rule| action_word(policy.action(rule)).to_owned();
        let shown = diff.differences.iter().map(|difference| DifferenceShown {
            before: word(old, difference.before),
            after: word(new, difference.after),
            rule_before: old.rule_name(difference.before).to_owned(),
            rule_after: new.rule_name(difference.after).to_owned(),
            from: difference.packets.from.to_string(),
            to: difference.packets.to.to_string(),
            service: difference.packets.service.to_string(),
            witness: packet_at(old, &difference.witness.0, difference.witness.1),
        });
        Ok(DiffReport {
            before: before.candidate.hash.to_string(),
            after: after.hash.to_string(),
            differences: shown.collect(),
            more: diff.more,
            complete: !diff.is_incomplete,
        })
    });
    Ok(Json(report.await?))
}

/// Explain a packet
#[utoipa::path(post, path = "/policy/explain", operation_id = "explain", tag = "policy",
    request_body = ExplainWanted,
    responses((status = 200, description = "What the policy does with it, and why", body = ExplainReport),
              (status = 404, description = "No policy is staged", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "The packet cannot be understood", body = Problem,
               content_type = "application/problem+json")))]
pub async fn explain(
    State(console): State<Arc<Console>>,
    Body(ExplainWanted { packet, staged }): Body<ExplainWanted>,
) -> Result<Json<ExplainReport>, Problem> {
    let compiled = match staged {
        false => in_force(&console)?,
        true => {
            let staged = console.gateway.policies().and_then(|policies| policies.staged.clone());
            staged.ok_or_else(|| Problem::not_found("no policy is staged"))?
        }
    };
    if packet.len() > 2000 {
        return Err(Problem::bad_request("no packet takes so many words"));
    }
    let report = heavy(&console, move || {
        let mut read =
            Packet::read(&packet).map_err(|error| Problem::conflict(error.to_string()))?;
        let policy = &compiled.candidate.policy;
        let wires = policy.wires();
        let wire = match &read.wire {
            Some(name) => wires
                .iter()
                .position(|wire| **wire == **name)
                .ok_or_else(|| Problem::conflict(format!("there is no wire `{name}`")))?,
            None if wires.len() == 1 => 0,
            None => wires.len(),
        };
        read.headers.wire = WireId(u16::try_from(wire).unwrap_or(u16::MAX));
        let unix_ms = read.at_ms.unwrap_or(now().unix_ms);
        let at = PolicyTime { unix_ms, synchronised: true };
        let rule = bulkhead_rules::oracle::classify(policy, &read.headers, at);
        let location = policy.rule(rule).map(|rule| &rule.location);
        let explanation = analyze::explain(policy, &read.headers, at);
        let nearest =
            explanation.nearest(policy, MAX_NEAREST).into_iter().map(|miss| NearestRule {
                rule: policy.rule_name(miss.rule).to_owned(),
                but_for: miss.failed.iter().map(ToString::to_string).collect(),
            });
        Ok(ExplainReport {
            packet: packet_at(policy, &read.headers, at),
            assumed: read.assumed,
            verdict: action_word(policy.action(rule)).to_owned(),
            rule: policy.rule_name(rule).to_owned(),
            file: location.map(|location| location.file.to_string()),
            line: location.map(|location| location.line),
            nearest: nearest.collect(),
        })
    });
    Ok(Json(report.await?))
}

/// Versions that were in force
#[utoipa::path(get, path = "/policy/history", operation_id = "history", tag = "policy",
    responses((status = 200, description = "Those that are kept, the oldest first", body = HistoryReport)))]
pub async fn history(State(console): State<Arc<Console>>) -> Result<Json<HistoryReport>, Problem> {
    match console.gateway.ask(Ask::History {}).await? {
        Answer::History(report) => Ok(Json(*report)),
        _ => Err(Problem::unavailable(ANOTHER_QUESTION)),
    }
}

/// Put a policy beside the one in force
///
/// It changes nothing; `GET /staged` says what it would.
#[utoipa::path(post, path = "/policy/stage", operation_id = "stage", tag = "policy",
    request_body = StageWanted,
    responses((status = 200, description = "It is staged", body = ChangeReport),
              (status = 404, description = "There is no such proposal or version", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "The policy is not sound", body = Problem,
               content_type = "application/problem+json")))]
pub async fn stage(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(wanted): Body<StageWanted>,
) -> Result<Json<ChangeReport>, Problem> {
    let StageWanted { reason: why, files, proposal_id, version, expect, envelope } = wanted;
    let why = reason(&why)?;
    match (&expect, &proposal_id) {
        (Some(expect), Some(id)) => console.proposals.find(id)?.expect(expect)?,
        (Some(_), None) => return Err(Problem::bad_request("`expect` is of a proposal")),
        (None, _) => {}
    }
    let policy = texts(&console, files, version, proposal_id).await?;
    let policy = PolicyTexts { envelope, ..policy };
    console.change(&caller, Change::Stage { policy }, why, false).await.map_err(signing::remedy)
}

/// Stage nothing any more
#[utoipa::path(post, path = "/policy/unstage", operation_id = "unstage", tag = "policy",
    request_body = Because,
    responses((status = 200, description = "Nothing is staged", body = ChangeReport),
              (status = 409, description = "Nothing was", body = Problem,
               content_type = "application/problem+json")))]
pub async fn unstage(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(Because { reason: why }): Body<Because>,
) -> Result<Json<ChangeReport>, Problem> {
    let why = reason(&why)?;
    console.change(&caller, Change::Unstage {}, why, false).await
}

/// Take the policy's files into force
#[utoipa::path(post, path = "/policy/reload", operation_id = "reload", tag = "policy",
    request_body = Because,
    responses((status = 200, description = "They are in force", body = ReloadReport),
              (status = 409, description = "They are wrong; what was in force still is", body = Problem,
               content_type = "application/problem+json")))]
pub async fn reload(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(Because { reason: why }): Body<Because>,
) -> Result<Json<ReloadReport>, Problem> {
    let why = reason(&why)?;
    let on_behalf_of = Some(caller.audit_name());
    match console.gateway.ask(Ask::Reload { on_behalf_of, reason: Some(why) }).await? {
        Answer::Reload(report) if report.outcome.is_success() => {
            console.metrics.change();
            Ok(Json(*report))
        }
        Answer::Reload(report) => {
            console.metrics.change_refused();
            let outcome = report.outcome.label();
            let problem = Problem::conflict(format!(
                "the files are {outcome}: the policy before stays in force"
            ));
            Err(Problem { findings: report.findings.into(), ..problem })
        }
        _ => Err(Problem::unavailable(ANOTHER_QUESTION)),
    }
}

/// Put an earlier version in force
///
/// Its policy, and the modes that wires had then.
#[utoipa::path(post, path = "/policy/rollback", operation_id = "roll-back", tag = "policy",
    request_body = RollBackWanted,
    responses((status = 200, description = "It is in force", body = ChangeReport),
              (status = 409, description = "The gateway refuses", body = Problem,
               content_type = "application/problem+json")))]
pub async fn roll_back(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(RollBackWanted { reason: why, to, force }): Body<RollBackWanted>,
) -> Result<Json<ChangeReport>, Problem> {
    let why = reason(&why)?;
    console.change(&caller, Change::Rollback { version: to }, why, force).await
}

/// The policy in force as the console has compiled it.
///
/// # Errors
///
/// 503 where the gateway has not told it.
pub fn in_force(console: &Console) -> Result<Arc<Compiled>, Problem> {
    let active = console.gateway.policies().and_then(|policies| policies.active.clone());
    active.ok_or_else(|| Problem::unavailable("the gateway has not told its policy"))
}

/// The texts that a request means, without what the tool adds.
pub(super) async fn texts(
    console: &Arc<Console>,
    files: Option<Vec<FileGiven>>,
    version: Option<u64>,
    proposal_id: Option<String>,
) -> Result<PolicyTexts, Problem> {
    match (files, version, proposal_id) {
        (Some(files), None, None) => {
            let files = bounded(files)?.into_iter();
            let files = files.map(|FileGiven { name, text }| (name, text)).collect();
            Ok(PolicyTexts { source: "the console's editor".to_owned(), files, envelope: None })
        }
        (None, Some(version), None) => {
            let shown = console.gateway.policy(Which::Version(version)).await?;
            let source = format!("version {version} ({})", shown.source);
            Ok(PolicyTexts { source, files: own_files(&shown), envelope: None })
        }
        (None, None, Some(id)) => {
            let proposal = console.proposals.find(&id)?;
            let shown = console.gateway.policy(Which::InForce).await?;
            let source = format!("proposal {id} of the console");
            Ok(PolicyTexts { source, files: proposal.with(own_files(&shown))?, envelope: None })
        }
        _ => Err(Problem::bad_request("say one of `files`, `version` and `proposal-id`")),
    }
}

/// The files of a policy, without what the tool adds.
pub fn own_files(shown: &PolicyShown) -> Vec<(String, String)> {
    let own = shown.files.iter().filter(|file| !file.added);
    own.map(|file| (file.name.clone(), file.text.clone())).collect()
}

fn given(file: TextShown) -> FileGiven {
    FileGiven { name: file.name, text: file.text }
}

fn file_shown(file: &TextShown) -> FileShown {
    FileShown {
        name: file.name.clone(),
        text: file.text.clone(),
        learned: file.text.starts_with(HEAD),
        added: file.added,
    }
}

/// Texts as many, and with names as long, as the document says.
fn bounded(files: Vec<FileGiven>) -> Result<Vec<FileGiven>, Problem> {
    // Names go into findings and logs, each on a line of its own.
    let is_name =
        |name: &str| (1..=255).contains(&name.chars().count()) && !name.contains(char::is_control);
    if files.len() > 1000 || !files.iter().all(|file| is_name(&file.name)) {
        return Err(Problem::bad_request(
            "a policy has at most 1000 files, with names of 1 to 255 characters, each on one line",
        ));
    }
    Ok(files)
}

/// The gateway's wires, where it has told them.
pub fn wires(console: &Console) -> Option<Vec<Arc<str>>> {
    let active = console.gateway.policies()?.active.clone()?;
    Some(active.shown.wires.iter().map(|wire| Arc::from(&**wire)).collect())
}

fn made(
    files: Vec<FileGiven>,
    wires: &Option<Vec<Arc<str>>>,
    limits: &crate::config::Limits,
) -> Result<Candidate, Vec<Finding>> {
    let sources: Vec<Source> =
        files.into_iter().map(|file| Source::new(file.name, file.text)).collect();
    if sources.is_empty() {
        let message = "a policy has at least one file".to_owned();
        return Err(vec![Finding::error("empty", message, None)]);
    }
    candidate::make(&PolicyFiles { sources, left_out: Vec::new() }, wires.as_deref(), limits)
}

fn unsound(findings: Vec<Finding>) -> Problem {
    Problem { findings: findings.into(), ..Problem::conflict("the texts are not a sound policy") }
}

/// Decisions by rule. Without an answer of the gateway there are none.
async fn hits(console: &Console) -> Result<HashMap<String, u64>, Problem> {
    match console.gateway.ask(Ask::Rules {}).await? {
        Answer::Rules(report) => {
            let rules = report.rules.into_iter();
            Ok(rules.map(|rule| (rule.name, rule.enforced + rule.observed)).collect())
        }
        _ => Err(Problem::unavailable(ANOTHER_QUESTION)),
    }
}

fn row(
    console: &Console,
    compiled: &Compiled,
    id: RuleId,
    hits: &HashMap<String, u64>,
) -> Option<RuleRow> {
    let policy = &compiled.candidate.policy;
    let rule: &Rule = policy.rule(id)?;
    let time = |ms: Option<i64>| ms.map(instant);
    let warnings = compiled.candidate.warnings.iter().filter(|warning| {
        let place = (warning.file.as_deref(), warning.line);
        place == (Some(&*rule.location.file), Some(rule.location.line))
    });
    let picture = console.model.picture().ok();
    let last_hit = picture.and_then(|picture| {
        let word = picture.network.words.find(&rule.name)?;
        picture.network.rules_seen.get(&word).map(|seen| instant(seen.last_ms))
    });
    let file = compiled.shown.files.iter().find(|file| *file.name == *rule.location.file);
    Some(RuleRow {
        name: rule.name.to_string(),
        file: rule.location.file.to_string(),
        line: rule.location.line,
        action: word(rule.action).to_owned(),
        from: policy.endpoint(rule.from).label.clone(),
        to: policy.endpoint(rule.to).label.clone(),
        between: rule.between,
        service: policy.service(rule.service).label.clone(),
        hits: hits.get(&*rule.name).copied().unwrap_or(0),
        last_hit,
        starts: time(rule.starts),
        expires: time(rule.expires),
        reason: rule.reason.as_ref().map(ToString::to_string),
        learned: file.is_some_and(|file| file.text.starts_with(HEAD)),
        warnings: warnings.map(|warning| warning.message.clone()).collect(),
    })
}

fn word(action: Action) -> &'static str {
    action_word(action)
}

/// The lines of a rule, up to the next one.
fn text_of(compiled: &Compiled, rule: &RuleRow) -> String {
    let file = compiled.shown.files.iter().find(|file| file.name == rule.file);
    let Some(file) = file else { return String::new() };
    let skipped = rule.line.saturating_sub(1) as usize;
    let mut lines = file.text.lines().skip(skipped);
    let mut text = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        let is_next = line.trim_start().starts_with("- ") && indent(line) <= indent(&text);
        if is_next || (!line.trim().is_empty() && indent(line) == 0) || text.len() > 8192 {
            break;
        }
        text.push('\n');
        text.push_str(line);
    }
    text.trim_end().to_owned()
}

fn indent(text: &str) -> usize {
    text.len() - text.trim_start().len()
}
