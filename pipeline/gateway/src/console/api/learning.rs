//! From observing to enforcing: what was learnt, what it proposes, what that would change, lockdown.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::flows::instant;
use super::{Body, Params, Segment, heavy, policy, reason};
use crate::console::Console;
use crate::console::access::Caller;
use crate::console::drifts;
use crate::console::model::network::Network;
use crate::console::problem::Problem;
use crate::console::proposals::ProposalShown;
use crate::control::questions::About;
use crate::drift::DriftReport;
use crate::learning::report::Range;
use crate::workflow::stage::StageReport;
use crate::workflow::{Change, ChangeReport};

/// Exceptions that are approved at once.
const MAX_NAMES: usize = 1000;

/// Exceptions that an entry of the audit log names.
const MAX_NOTED: usize = 20;

/// What was observed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LearningReport {
    /// Since when; absent where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub observed_since: Option<String>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub observed_until: Option<String>,
    /// Periods in which anything was seen.
    pub periods: usize,
    /// Seconds of a period.
    pub period_seconds: u32,
    /// Devices.
    pub devices: usize,
    /// Edges: a client, a server and a service each.
    pub edges: usize,
    /// What was lost on the way into the store, and what it forgot, by its own count.
    pub losses: Vec<Loss>,
    /// Where the store is.
    pub store: String,
    /// Wires that enforce, as the store knows.
    pub enforcing: Vec<EnforcingWire>,
}

/// Something that was lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Loss {
    /// What.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// A wire that enforces.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EnforcingWire {
    /// Its name.
    pub wire: String,
    /// Since when.
    #[schema(format = DateTime)]
    pub since: String,
}

/// From which time to learn.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ProposeWanted {
    /// Only what was seen since then.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub since: Option<String>,
    /// Only what was seen before then.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub until: Option<String>,
}

/// A proposal that is being made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProposalBegun {
    /// By which it is asked for.
    pub id: String,
}

/// Exceptions that somebody approves.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApproveWanted {
    /// The names of their rules.
    #[schema(min_items = 1, max_items = 1000)]
    pub names: Vec<String>,
    /// Why, for the audit log.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: Option<String>,
}

/// Wires that are to enforce.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockDownWanted {
    /// Why, for the audit log.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// Their names; all of them where there is none.
    #[serde(default)]
    #[schema(max_items = 128)]
    pub wires: Vec<String>,
    /// Whether it is to be done although something stands in the way.
    #[serde(default)]
    pub force: bool,
    /// The hash of the policy that was looked at, as `GET /staged` has it: no other one is put in force,
    /// forced or not.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub expect: String,
}

/// Wires that are to observe.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ObserveWanted {
    /// Why, for the audit log.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// Their names; all of them where there is none.
    #[serde(default)]
    #[schema(max_items = 128)]
    pub wires: Vec<String>,
}

/// How many flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StagedQuery {
    /// Flows that are listed at most.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

/// Since when.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DriftQuery {
    /// Since then; since the first wire enforces, unless told otherwise.
    #[param(format = DateTime)]
    pub since: Option<String>,
}

/// What was observed
#[utoipa::path(get, path = "/learning", operation_id = "learning", tag = "learning",
    responses((status = 200, description = "And for how long", body = LearningReport)))]
pub async fn learning(
    State(console): State<Arc<Console>>,
) -> Result<Json<LearningReport>, Problem> {
    let picture = console.model.picture()?;
    let store = console.settings.store.display().to_string();
    let report = heavy(&console, move || Ok(learnt(&picture.network, store)));
    Ok(Json(report.await?))
}

/// What a network was learnt from.
fn learnt(network: &Network, store: String) -> LearningReport {
    let mut periods: Vec<u32> = network.rows.iter().map(|row| row.period).collect();
    periods.dedup();
    let first = network.edges.iter().map(|edge| edge.seen.first_ms).min();
    let last = network.edges.iter().map(|edge| edge.seen.last_ms).max();
    let is_loss = |name: &str| {
        ["lost", "dropped", "unstored", "pruned"].iter().any(|word| name.ends_with(word))
    };
    let counters = network.counters.iter().filter(|(name, _)| is_loss(name));
    let losses = counters.map(|(what, &count)| Loss { what: what.clone(), count });
    let enforcing = network.enforcing_since.iter();
    LearningReport {
        observed_since: first.map(instant),
        observed_until: last.map(instant),
        periods: periods.len(),
        period_seconds: network.period_s,
        devices: network.hosts.iter().filter(|host| !host.is_many).count(),
        edges: network.edges.len(),
        losses: losses.collect(),
        store,
        enforcing: enforcing
            .map(|(wire, &since)| EnforcingWire { wire: wire.clone(), since: instant(since) })
            .collect(),
    }
}

/// Learn a policy
///
/// Begins to make a proposal from what the store knows; it may take some seconds. Nothing changes.
#[utoipa::path(post, path = "/learning/proposals", operation_id = "propose", tag = "learning",
    request_body = ProposeWanted,
    responses((status = 202, description = "It is being made: ask for it by its id", body = ProposalBegun)))]
pub async fn propose(
    State(console): State<Arc<Console>>,
    Body(ProposeWanted { since, until }): Body<ProposeWanted>,
) -> Result<(StatusCode, Json<ProposalBegun>), Problem> {
    let range = super::flows::range(since.as_deref(), until.as_deref())?;
    let range = range.map_or(Range::ALL, |(since_ms, until_ms)| Range { since_ms, until_ms });
    // Without the policy in force there are no guardrails to learn beside.
    let shown = policy::in_force(&console)?.shown.clone();
    let id = console.proposals.begin(&console, shown, range)?;
    Ok((StatusCode::ACCEPTED, Json(ProposalBegun { id })))
}

/// A proposal
#[utoipa::path(get, path = "/learning/proposals/{id}", operation_id = "proposal", tag = "learning",
    params(("id" = String, Path, description = "As it was begun")),
    responses((status = 200, description = "The proposal, or that it is being made", body = ProposalShown),
              (status = 404, description = "There is no such proposal, or no more", body = Problem,
               content_type = "application/problem+json")))]
pub async fn proposal(
    State(console): State<Arc<Console>>,
    Segment(id): Segment,
) -> Result<Json<ProposalShown>, Problem> {
    Ok(Json(console.proposals.find(&id)?.shown()))
}

/// Approve exceptions of a proposal
///
/// An exception is what one member of a role does and its fellows do not. A lockdown is refused while any
/// waits.
#[utoipa::path(post, path = "/learning/proposals/{id}/approve", operation_id = "approve", tag = "learning",
    params(("id" = String, Path, description = "As it was begun")),
    request_body = ApproveWanted,
    responses((status = 200, description = "The proposal with these approved", body = ProposalShown),
              (status = 404, description = "There is no such proposal, or no more", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "It is still being made, or has no such exception", body = Problem,
               content_type = "application/problem+json")))]
pub async fn approve(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    Body(ApproveWanted { names, reason: why }): Body<ApproveWanted>,
) -> Result<Json<ProposalShown>, Problem> {
    if !(1..=MAX_NAMES).contains(&names.len()) {
        return Err(Problem::bad_request(format!("say 1 to {MAX_NAMES} `names`")));
    }
    let why = why.map(|why| reason(&why)).transpose()?;
    let proposal = console.proposals.find(&id)?;
    proposal.approve(&names)?;
    let shown: Vec<&str> = names.iter().take(MAX_NOTED).map(String::as_str).collect();
    let more = match names.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let detail = format!("approved {}{more} of the proposal {id}{why}", shown.join(", "));
    console.gateway.note(About::Proposal, &caller.audit_name(), detail);
    Ok(Json(proposal.shown()))
}

/// What the staged policy would change
#[utoipa::path(get, path = "/staged", operation_id = "staged", tag = "learning",
    params(StagedQuery),
    responses((status = 200, description = "Counted by the workers, flow by flow", body = StageReport)))]
pub async fn staged(
    State(console): State<Arc<Console>>,
    Params(StagedQuery { limit }): Params<StagedQuery>,
) -> Result<Json<StageReport>, Problem> {
    let limit = limit.unwrap_or(100);
    if !(1..=500).contains(&limit) {
        return Err(Problem::bad_request("`limit` is from 1 to 500"));
    }
    Ok(Json(console.gateway.staged(limit as usize).await?))
}

/// Lock down
///
/// Puts the staged policy in force and lets wires enforce it. Refused, with what stands in the way, while
/// it would cut too much, was not watched for long enough, or exceptions wait for approval.
#[utoipa::path(post, path = "/lockdown", operation_id = "lock-down", tag = "learning",
    request_body = LockDownWanted,
    responses((status = 200, description = "The wires enforce", body = ChangeReport),
              (status = 409, description = "`obstacles` say what stands in the way", body = Problem,
               content_type = "application/problem+json")))]
pub async fn lock_down(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(LockDownWanted { reason: why, wires, force, expect }): Body<LockDownWanted>,
) -> Result<Json<ChangeReport>, Problem> {
    let why = reason(&why)?;
    let change = Change::Lockdown { wires, policy: None, expect: Some(expect) };
    console.change(&caller, change, why, force).await
}

/// Let wires observe
///
/// They forward everything, and count what would be dropped.
#[utoipa::path(post, path = "/observe", operation_id = "observe", tag = "learning",
    request_body = ObserveWanted,
    responses((status = 200, description = "The wires observe", body = ChangeReport),
              (status = 409, description = "The gateway refuses", body = Problem,
               content_type = "application/problem+json")))]
pub async fn observe(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(ObserveWanted { reason: why, wires }): Body<ObserveWanted>,
) -> Result<Json<ChangeReport>, Problem> {
    let why = reason(&why)?;
    console.change(&caller, Change::Observe { wires }, why, false).await
}

/// What was denied since wires enforce, and what to make of it
///
/// It is learnt in the background: the latest one that was made is answered, and 503 until there is one.
#[utoipa::path(get, path = "/drift", operation_id = "drift", tag = "learning",
    params(DriftQuery),
    responses((status = 200, description = "As `bulkhead drift` says", body = DriftReport),
              (status = 409, description = "No wire enforces, as far as the store knows", body = Problem,
               content_type = "application/problem+json")))]
pub async fn drift(
    State(console): State<Arc<Console>>,
    Params(DriftQuery { since }): Params<DriftQuery>,
) -> Result<Json<DriftReport>, Problem> {
    let since = super::flows::range(since.as_deref(), None)?.map(|(since, _)| since);
    let report = drifts::report(&console, since).await?;
    Ok(Json((*report).clone()))
}
