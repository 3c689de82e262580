//! What the gateway does now, who changed what, and this document.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Params;
use crate::audit::Entry;
use crate::console::Console;
use crate::console::overview::Overview;
use crate::console::problem::Problem;

/// Entries of a page of the audit log unless asked otherwise.
const ENTRIES: u32 = 100;

/// That the console answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Health {
    /// Always true.
    pub ok: bool,
}

/// The last hour or less.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct OverviewHistory {
    /// The overview, second by second, the oldest first; without lists of changes and decisions.
    pub items: Vec<Overview>,
}

/// How far back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Minutes {
    /// Minutes, 1 to 60.
    #[param(minimum = 1, maximum = 60)]
    pub minutes: Option<u32>,
}

/// Which entries.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// What the page before said.
    #[param(pattern = r"^[0-9]{1,18}$")]
    pub cursor: Option<String>,
    /// Entries at most, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

/// Entries of the gateway's audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AuditEntries {
    /// The entries, the latest first.
    pub entries: Vec<Entry>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Whether the hash chain holds over every file that these entries are in, up to the log's head.
    pub verified: bool,
    /// Where it does not, what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// That the console answers
#[utoipa::path(get, path = "/health", operation_id = "health", tag = "meta",
    responses((status = 200, description = "It does", body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { ok: true })
}

/// This document
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "meta",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)))]
pub async fn openapi() -> Result<Response, Problem> {
    let text = super::document_text()?;
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// What the gateway does now
///
/// Answered while the gateway does not, too: then `gateway` is null and `unreachable` says why.
#[utoipa::path(get, path = "/overview", operation_id = "overview", tag = "live",
    responses((status = 200, description = "Now", body = Overview)))]
pub async fn overview(State(console): State<Arc<Console>>) -> Json<Overview> {
    Json(Overview::of(&console, console.gateway.moment()))
}

/// What it did in the last hour, second by second
#[utoipa::path(get, path = "/overview/history", operation_id = "overview-history", tag = "live",
    params(Minutes),
    responses((status = 200, description = "As far as the console has watched", body = OverviewHistory)))]
pub async fn overview_history(
    State(console): State<Arc<Console>>,
    Params(Minutes { minutes }): Params<Minutes>,
) -> Result<Json<OverviewHistory>, Problem> {
    let minutes = minutes.unwrap_or(10);
    if !(1..=60).contains(&minutes) {
        return Err(Problem::bad_request("`minutes` is from 1 to 60"));
    }
    let history = console.gateway.history(60 * minutes as usize);
    let copied = super::heavy(&console, move || {
        Ok(OverviewHistory { items: history.iter().map(|one| (**one).clone()).collect() })
    });
    Ok(Json(copied.await?))
}

/// Who changed what
#[utoipa::path(get, path = "/audit", operation_id = "audit", tag = "audit",
    params(AuditQuery),
    responses((status = 200, description = "The gateway's audit log", body = AuditEntries)))]
pub async fn audit(
    State(console): State<Arc<Console>>,
    Params(AuditQuery { cursor, limit }): Params<AuditQuery>,
) -> Result<Json<AuditEntries>, Problem> {
    let before = cursor.as_deref().map(str::parse).transpose();
    let before = before.map_err(|_| Problem::bad_request("this is no cursor"))?;
    let limit = limit.unwrap_or(ENTRIES);
    if !(1..=500).contains(&limit) {
        return Err(Problem::bad_request("`limit` is from 1 to 500"));
    }
    let page = console.gateway.audit(before, limit as usize).await?;
    let last = page.entries.last().filter(|_| page.more);
    Ok(Json(AuditEntries {
        next_cursor: last.map(|entry| entry.sequence.to_string()),
        entries: page.entries,
        verified: page.verified,
        broken: page.broken,
    }))
}
