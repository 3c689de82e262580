//! Grants: what is permitted for a time.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Because, Body, Segment, reason};
use crate::console::Console;
use crate::console::access::Caller;
use crate::console::problem::Problem;
use crate::workflow::commands::Exceptions;
use crate::workflow::{Change, ChangeReport};

/// Something to permit for a time.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GrantWanted {
    /// What.
    pub permit: Permit,
    /// For how many seconds: 30 days at most.
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub for_seconds: u64,
    /// Why, for the audit log.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// Whether to grant it although a rule before it denies some of it.
    #[serde(default)]
    pub force: bool,
}

/// What is permitted, as in a rule.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Permit {
    /// The side that opens.
    #[schema(min_length = 1, max_length = 1000)]
    pub from: String,
    /// The side that is opened to.
    #[schema(min_length = 1, max_length = 1000)]
    pub to: String,
    /// What is opened.
    #[schema(min_length = 1, max_length = 1000)]
    pub service: String,
}

/// Grants and quarantines
#[utoipa::path(get, path = "/grants", operation_id = "grants", tag = "exceptions",
    responses((status = 200, description = "Those that are there now", body = Exceptions)))]
pub async fn grants(State(console): State<Arc<Console>>) -> Result<Json<Exceptions>, Problem> {
    Ok(Json(console.gateway.exceptions().await?))
}

/// Permit something for a time
///
/// The workers end it when its time is over, whatever becomes of the rest.
#[utoipa::path(post, path = "/grants", operation_id = "make-grant", tag = "exceptions",
    request_body = GrantWanted,
    responses((status = 201, description = "Granted; `name` says which", body = ChangeReport),
              (status = 409, description = "The gateway refuses", body = Problem,
               content_type = "application/problem+json")))]
pub async fn make_grant(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(wanted): Body<GrantWanted>,
) -> Result<(StatusCode, Json<ChangeReport>), Problem> {
    let GrantWanted { permit: Permit { from, to, service }, for_seconds, reason: why, force } =
        wanted;
    let why = reason(&why)?;
    let change = Change::Grant { from, to, service, for_s: for_seconds };
    let report = console.change(&caller, change, why, force).await?;
    Ok((StatusCode::CREATED, report))
}

/// End a grant before its time
#[utoipa::path(delete, path = "/grants/{name}", operation_id = "end-grant", tag = "exceptions",
    params(("name" = String, Path, description = "Its name")),
    request_body = Because,
    responses((status = 200, description = "It has ended", body = ChangeReport),
              (status = 409, description = "There is none with this name", body = Problem,
               content_type = "application/problem+json")))]
pub async fn end_grant(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Segment(name): Segment,
    Body(Because { reason: why }): Body<Because>,
) -> Result<Json<ChangeReport>, Problem> {
    let why = reason(&why)?;
    console.change(&caller, Change::Revoke { name }, why, false).await
}
