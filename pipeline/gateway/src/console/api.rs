//! The routes, and the document (OpenAPI) that describes them.
//!
//! A route stands in one of four lists: for everybody, viewers, operators or admins. The list is what the
//! guard asks for and what the document says, so that a route cannot be forgotten in either.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, routing};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder,
    SecurityRequirement,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Console;
use super::access::Role;
use super::access::guard::guard;
use super::problem::Problem;
use super::{assets, events};

pub mod account;
pub mod admin;
pub mod captures;
pub mod devices;
pub mod exceptions;
pub mod flows;
pub mod learning;
pub mod live;
pub mod map;
pub mod policy;
pub mod report;
pub mod signing;

/// Where all routes of the API are.
pub const BASE: &str = "/api/v1";

/// The extension of an operation that names the least role that may ask for it.
pub const ROLE_EXTENSION: &str = "x-bulkhead-role";

/// Routes that take the texts of a policy.
const TAKE_A_POLICY: [&str; 3] = ["/policy/check", "/policy/diff", "/policy/stage"];

/// Requests to them that are worked on at a time.
pub const POLICY_BODIES: usize = 2;

/// Bytes of their bodies at most, as JSON quotes texts, and how long one may take to come.
const MAX_POLICY_BODY: usize = 16 << 20;
const POLICY_BODY_LIMIT: Duration = Duration::from_secs(60);

/// Items of a page unless asked otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// A page of a list.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// How many there are on all pages.
    pub total: u64,
}

/// Which page of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    from: usize,
    limit: usize,
}

impl Paging {
    /// Reads what a request says. `cursor` is what a page before said.
    ///
    /// # Errors
    ///
    /// 400 for a cursor that no page has said, or a limit beyond [`MAX_PAGE`].
    pub fn new(cursor: Option<&str>, limit: Option<u32>) -> Result<Self, Problem> {
        let cursor = cursor.map(|cursor| if cursor.len() > 12 { "" } else { cursor });
        let from = cursor.map_or(Ok(0), str::parse).map_err(|_| {
            Problem::bad_request("this is no cursor")
                .remedy("take `next-cursor` of the page before")
        })?;
        let limit = limit.map_or(PAGE, |limit| limit as usize);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::bad_request(format!("`limit` is from 1 to {MAX_PAGE}")));
        }
        Ok(Self { from, limit })
    }

    /// The page of all items, of which there are so many.
    pub fn of<I, T>(self, all: &[I], shown: impl FnMut(&I) -> T) -> Page<T> {
        let to = self.from.saturating_add(self.limit).min(all.len());
        let items = all.get(self.from..to).unwrap_or(&[]).iter().map(shown).collect();
        let next_cursor = (to < all.len()).then(|| to.to_string());
        Page { items, next_cursor, total: all.len() as u64 }
    }
}

/// A body of JSON. What is wrong with it is a [`Problem`].
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        let mut read = Request::new(body);
        // They say how long it may be.
        read.extensions_mut().clone_from(&head.extensions);
        let body = Bytes::from_request(read, state).await;
        let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
        // What is read into fields would take a list of their values, too.
        if matches!(body.trim_ascii_start().first(), Some(first) if *first != b'{') {
            return Err(Problem::bad_request("the body has to be an object of JSON"));
        }
        let request = Request::from_parts(head, HttpBody::from(body));
        let read = Json::<T>::from_request(request, state).await;
        read.map(|Json(value)| Self(value)).map_err(|rejection| {
            let detail = match &rejection {
                JsonRejection::MissingJsonContentType(_) => {
                    "the body has to be application/json".to_owned()
                }
                other => other.body_text(),
            };
            // What has the wrong shape is as wrong as what is no JSON.
            let status = match rejection.status() {
                StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                status => status,
            };
            Problem::new(status, detail)
        })
    }
}

/// The query of a request, likewise.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        let wrong = |rejection: QueryRejection| Problem::bad_request(rejection.body_text());
        read.map(|Query(value)| Self(value)).map_err(wrong)
    }
}

/// A part of a request's path, likewise.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        let wrong = |rejection: PathRejection| Problem::bad_request(rejection.body_text());
        read.map(|Path(value)| Self(value)).map_err(wrong)
    }
}

/// Why a change is made.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Because {
    /// Why, for the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    pub reason: String,
}

/// A reason as it is entered.
///
/// # Errors
///
/// 400 where there is none, or too much of it.
pub fn reason(text: &str) -> Result<String, Problem> {
    let trimmed = text.trim();
    let is_fit = !trimmed.is_empty() && !trimmed.contains(char::is_control);
    if !is_fit || text.chars().count() > 1000 {
        return Err(Problem::bad_request(
            "a change needs a reason: one line of 1 to 1000 characters",
        )
        .remedy("say why in `reason`, with the number of its ticket"));
    }
    Ok(trimmed.to_owned())
}

/// Does what takes a while off the threads that serve, a few at a time.
///
/// # Errors
///
/// What `work` fails with.
pub async fn heavy<R: Send + 'static>(
    console: &Console,
    work: impl FnOnce() -> Result<R, Problem> + Send + 'static,
) -> Result<R, Problem> {
    let place = Arc::clone(&console.heavy).acquire_owned().await;
    let place = place.map_err(|_| Problem::unavailable("stopping"))?;
    let done = tokio::task::spawn_blocking(move || {
        // Held until it is done, whether anybody waits for it still or not.
        let _place = place;
        work()
    });
    done.await
        .map_err(|error| Problem::internal(format!("the answer could not be made: {error}")))?
}

type Routes = OpenApiRouter<Arc<Console>>;

fn for_everybody() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(account::log_in))
        .routes(routes!(account::set_up))
        .routes(routes!(live::health))
}

fn for_viewers() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(account::session))
        .routes(routes!(account::log_out))
        .routes(routes!(account::change_password))
        .routes(routes!(account::tokens, account::make_token))
        .routes(routes!(account::end_token))
        .routes(routes!(live::openapi))
        .routes(routes!(live::overview))
        .routes(routes!(live::overview_history))
        .routes(routes!(live::audit))
        .routes(routes!(events::events))
        .routes(routes!(map::matrix))
        .routes(routes!(map::cell))
        .routes(routes!(map::group))
        .routes(routes!(map::neighbours))
        .routes(routes!(map::graph))
        .routes(routes!(map::blast))
        .routes(routes!(map::times))
        .routes(routes!(devices::list))
        .routes(routes!(devices::device))
        .routes(routes!(policy::policy))
        .routes(routes!(policy::rules))
        .routes(routes!(policy::rule))
        .routes(routes!(policy::explain))
        .routes(routes!(policy::history))
        .routes(routes!(learning::learning))
        .routes(routes!(learning::proposal))
        .routes(routes!(learning::staged))
        .routes(routes!(learning::drift))
        .routes(routes!(exceptions::grants))
        .routes(routes!(flows::flows))
        .routes(routes!(flows::denied))
        .routes(routes!(report::report))
}

fn for_operators() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(devices::quarantine, devices::release))
        .routes(routes!(policy::unstage))
        .routes(routes!(policy::reload))
        .routes(routes!(policy::roll_back))
        .routes(routes!(learning::propose))
        .routes(routes!(learning::approve))
        .routes(routes!(learning::lock_down))
        .routes(routes!(learning::observe))
        .routes(routes!(exceptions::make_grant))
        .routes(routes!(exceptions::end_grant))
        .routes(routes!(captures::capture))
}

/// Routes for viewers that take the texts of a policy; see [`TAKE_A_POLICY`].
fn with_policies_for_viewers() -> Routes {
    OpenApiRouter::new().routes(routes!(policy::check)).routes(routes!(policy::diff))
}

/// Likewise for operators.
fn with_policies_for_operators() -> Routes {
    OpenApiRouter::new().routes(routes!(policy::stage)).routes(routes!(signing::manifest))
}

fn for_admins() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(admin::users, admin::add_user))
        .routes(routes!(admin::change_user, admin::remove_user))
}

/// All routes of the console.
pub fn router(console: &Arc<Console>) -> Router {
    let guarded = |routes: Routes, role: Role| {
        routes.route_layer(from_fn_with_state((Arc::clone(console), role), guard))
    };
    let with_policies = |routes: Routes| {
        let limited = routes.route_layer(DefaultBodyLimit::max(MAX_POLICY_BODY));
        limited.route_layer(from_fn_with_state(Arc::clone(console), with_policy))
    };
    let api = for_everybody()
        .merge(guarded(for_viewers(), Role::Viewer))
        .merge(guarded(with_policies(with_policies_for_viewers()), Role::Viewer))
        .merge(guarded(for_operators(), Role::Operator))
        .merge(guarded(with_policies(with_policies_for_operators()), Role::Operator))
        .merge(guarded(for_admins(), Role::Admin));
    let (api, _) = api.split_for_parts();
    let api = api
        .fallback(|| async {
            Problem::not_found("there is no such route; see /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not by this method")
        })
        .layer(from_fn(to_the_end));
    Router::new()
        .nest(BASE, api)
        .fallback(routing::get(assets::asset))
        .with_state(Arc::clone(console))
}

/// Whether a route takes the texts of a policy: other bodies are small.
pub fn takes_a_policy(path: &str) -> bool {
    path.strip_prefix(BASE).is_some_and(|path| TAKE_A_POLICY.contains(&path))
}

/// Receives the texts of a policy, from somebody who may send them, a few at a time.
async fn with_policy(
    State(console): State<Arc<Console>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_place) = console.policy_bodies.try_acquire() else {
        return Problem::too_many("others send policies just now", 2).into_response();
    };
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_POLICY_BODY);
    match tokio::time::timeout(POLICY_BODY_LIMIT, bytes).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, HttpBody::from(bytes))).await,
        Ok(Err(error)) => {
            let most = MAX_POLICY_BODY >> 20;
            let detail = format!("the body broke off, or has more than {most} MiB: {error}");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response()
        }
        Err(_) => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "the body takes too long").into_response()
        }
    }
}

/// Does what changes something to its end, with its entry in the audit log, though the client hangs up.
async fn to_the_end(request: Request, next: Next) -> Response {
    let is_question = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // A capture ends with whoever waits for it.
    if is_question || request.uri().path().ends_with("/captures") {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(error) => {
            Problem::internal(format!("the request came to no end: {error}")).into_response()
        }
    }
}

/// The document that describes all routes of the API.
pub fn document() -> OpenApi {
    let mut document = describe(for_everybody(), None);
    document.merge(describe(for_viewers(), Some(Role::Viewer)));
    document.merge(describe(with_policies_for_viewers(), Some(Role::Viewer)));
    document.merge(describe(for_operators(), Some(Role::Operator)));
    document.merge(describe(with_policies_for_operators(), Some(Role::Operator)));
    document.merge(describe(for_admins(), Some(Role::Admin)));
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths =
        paths.into_iter().map(|(path, item)| (format!("{BASE}{path}"), item)).collect();
    document.info = InfoBuilder::new()
        .title("Bulkhead console")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "What the console of a Bulkhead gateway knows and does. Every change is made by the gateway, \
             which enters it into its audit log with the user and the reason. Errors are RFC 9457 problems.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Problem".to_owned(), Problem::schema());
    let mut needed = Vec::new();
    Problem::schemas(&mut needed);
    // What only queries name is not found by itself.
    needed.push((devices::DeviceState::name().into_owned(), devices::DeviceState::schema()));
    needed.push((flows::EdgeVerdict::name().into_owned(), flows::EdgeVerdict::schema()));
    needed.push((map::CellStateWanted::name().into_owned(), map::CellStateWanted::schema()));
    for (name, schema) in needed {
        components.schemas.entry(name).or_insert(schema);
    }
    let cookie = ApiKeyValue::with_description(
        "__Host-bulkhead",
        "A session, begun by POST /login. Requests that change something also send X-Bulkhead-CSRF. Over \
         plain HTTP the cookie is called `bulkhead`.",
    );
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("token", bearer);
    document
}

/// The document as text, with a line break at its end.
///
/// # Errors
///
/// What stands in the way of JSON.
pub fn document_text() -> Result<String, String> {
    let mut text = document().to_pretty_json().map_err(|error| error.to_string())?;
    text.push('\n');
    Ok(text)
}

/// The description of routes that take a role, or none.
fn describe(routes: Routes, role: Option<Role>) -> OpenApi {
    let (_, mut document) =
        OpenApiRouter::<Arc<Console>>::with_openapi(OpenApiBuilder::new().build())
            .merge(routes)
            .split_for_parts();
    for item in document.paths.paths.values_mut() {
        let operations =
            [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            mark(operation, role);
        }
    }
    document
}

fn mark(operation: &mut Operation, role: Option<Role>) {
    let problem = |description: &str| {
        let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
        let content = Content::new(Some(schema));
        let response = ResponseBuilder::new().description(description);
        RefOr::T(response.content("application/problem+json", content).build())
    };
    let responses = &mut operation.responses.responses;
    let mut add = |status: &str, description: &str| {
        responses.entry(status.to_owned()).or_insert_with(|| problem(description));
    };
    add("400", "The request is wrong");
    add("429", "Too much is asked: wait for Retry-After seconds");
    add("503", "What is needed for the answer does not answer itself");
    add("default", "Another problem");
    let Some(role) = role else {
        operation.security = Some(vec![SecurityRequirement::default()]);
        return;
    };
    add("401", "Nobody is logged in");
    add("403", "The role may not, or the request is forged");
    operation.security = Some(vec![
        SecurityRequirement::new("session", [] as [&str; 0]),
        SecurityRequirement::new("token", [] as [&str; 0]),
    ]);
    let extension = ExtensionsBuilder::new().add(ROLE_EXTENSION, json!(role.label())).build();
    operation.extensions.get_or_insert_default().merge(extension);
}
