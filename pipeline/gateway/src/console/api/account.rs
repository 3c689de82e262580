//! Log-in, log-out, set-up, passwords and tokens of one's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};
use utoipa::ToSchema;

use super::{Body, Segment};
use crate::console::Console;
use crate::console::access::guard::{self, Peer};
use crate::console::access::sessions::Shown;
use crate::console::access::users::{MAX_PASSWORD, User};
use crate::console::access::{By, Caller, Role, tokens};
use crate::console::problem::Problem;
use crate::control::questions::About;

/// How long a log-in may wait for the others before it: hashing takes memory.
const HASHING_LIMIT: Duration = Duration::from_secs(5);

/// Who is logged in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Session {
    /// The user.
    pub user: String,
    /// What the user may do.
    pub role: Role,
    /// What requests that change something send in X-Bulkhead-CSRF; absent for tokens, which need none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
    /// When the session ends if nothing more is asked; absent for tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub expires: Option<String>,
}

/// A user's name and password.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LogIn {
    /// The user.
    #[schema(max_length = 64)]
    pub user: String,
    /// The password.
    #[schema(max_length = 1024)]
    pub password: String,
}

/// What the one-time link is used for.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SetUp {
    /// The secret of the link.
    pub token: String,
    /// The name of the administrator to be.
    #[schema(max_length = 64, pattern = r"^[A-Za-z0-9._@-]+$")]
    pub user: String,
    /// The password.
    #[schema(min_length = 10, max_length = 1024)]
    pub password: String,
}

/// A password for another.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PasswordChange {
    /// The password until now.
    #[schema(max_length = 1024)]
    pub old: String,
    /// The password from now on.
    #[schema(min_length = 10, max_length = 1024)]
    pub new: String,
}

/// An API token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TokenShown {
    /// Its number.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do, where its user may.
    pub scope: Role,
    /// Who made it.
    pub user: String,
    /// When.
    #[schema(format = DateTime)]
    pub created: String,
    /// When it ends.
    #[schema(format = DateTime)]
    pub expires: String,
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TokenMade {
    /// The token.
    #[serde(flatten)]
    pub token: TokenShown,
    /// What a program sends as `Authorization: Bearer`. It is not shown again.
    pub secret: String,
}

/// Tokens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TokenList {
    /// One's own; an admin sees all.
    pub items: Vec<TokenShown>,
}

/// A token to make.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TokenWanted {
    /// What it is for.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// What it may do: no more than who makes it.
    pub scope: Role,
    /// When it ends: within a year.
    #[schema(format = DateTime)]
    pub expires: String,
}

impl From<tokens::Token> for TokenShown {
    fn from(token: tokens::Token) -> Self {
        let tokens::Token { id, name, scope, user, created, expires, .. } = token;
        Self { id, name, scope, user, created, expires }
    }
}

/// Who is logged in
///
/// 401 where nobody is; its `setup-needed` says that nobody can be yet.
#[utoipa::path(get, path = "/session", operation_id = "session", tag = "access",
    responses((status = 200, description = "Who is logged in", body = Session)))]
pub async fn session(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Json<Session> {
    Json(shown(&console, &caller.user, caller.role, &caller.by))
}

/// Log in
#[utoipa::path(post, path = "/login", operation_id = "log-in", tag = "access",
    request_body = LogIn,
    responses((status = 200, description = "Logged in; the cookie is set", body = Session),
              (status = 401, description = "Not this user, or not this password", body = Problem,
               content_type = "application/problem+json")))]
pub async fn log_in(
    State(console): State<Arc<Console>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Body(LogIn { user: name, password }): Body<LogIn>,
) -> Result<Response, Problem> {
    guard::check_origin(&console, &headers)?;
    let user = verified(&console, peer, &name, password).await?;
    let Some(user) = user else {
        return Err(Problem::unauthorized("the user or the password is wrong"));
    };
    let detail = format!("{} logged in at the console from {}", user.name, peer.ip());
    console.gateway.note(About::LogIn, &user.name, detail);
    console.metrics.log_in();
    begun(&console, &user)
}

/// Log out
#[utoipa::path(post, path = "/logout", operation_id = "log-out", tag = "access",
    responses((status = 204, description = "Logged out; the cookie is taken away")))]
pub async fn log_out(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    if let By::Session(session) = &caller.by {
        console.access.sessions.end(session);
    }
    with_cookie(&console, None, StatusCode::NO_CONTENT.into_response())
}

/// Use the one-time link
///
/// Makes an administrator, or gives one another password, and logs in.
#[utoipa::path(post, path = "/setup", operation_id = "set-up", tag = "access",
    request_body = SetUp,
    responses((status = 200, description = "Made and logged in; the link is used up", body = Session),
              (status = 403, description = "Not this link, or no more", body = Problem,
               content_type = "application/problem+json")))]
pub async fn set_up(
    State(console): State<Arc<Console>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Body(SetUp { token, user, password }): Body<SetUp>,
) -> Result<Response, Problem> {
    guard::check_origin(&console, &headers)?;
    wait_is_over(&console, peer, None)?;
    let _place = log_in_place(&console)?;
    let place = hashing(&console).await?;
    let worker = Arc::clone(&console);
    let made = tokio::task::spawn_blocking(move || {
        let _place = place;
        worker.access.setup.open(&token, || worker.access.users.put_admin(&user, &password))
    });
    let made = made.await.map_err(|error| Problem::internal(error.to_string()))?;
    match made {
        Ok(user) => {
            let detail = format!(
                "{} became an admin of the console by its one-time link, from {}",
                user.name,
                peer.ip()
            );
            console.gateway.note(About::Access, &user.name, detail);
            begun(&console, &user)
        }
        Err(problem) => {
            if problem.status == 403 {
                console.access.throttle.failed(peer.ip(), None, Instant::now());
            }
            Err(problem)
        }
    }
}

/// Change one's own password
///
/// All other sessions of the user end.
#[utoipa::path(post, path = "/password", operation_id = "change-password", tag = "access",
    request_body = PasswordChange,
    responses((status = 204, description = "Changed"),
              (status = 409, description = "Tokens cannot, or the old password is wrong", body = Problem,
               content_type = "application/problem+json")))]
pub async fn change_password(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Extension(peer): Extension<Peer>,
    Body(PasswordChange { old, new }): Body<PasswordChange>,
) -> Result<StatusCode, Problem> {
    let By::Session(session) = &caller.by else {
        return Err(Problem::conflict("a token cannot change its user's password"));
    };
    if verified(&console, peer, &caller.user, old).await?.is_none() {
        return Err(Problem::conflict("the old password is wrong"));
    }
    has_pace(&console, &caller)?;
    let place = hashing(&console).await?;
    let (worker, name) = (Arc::clone(&console), caller.user.clone());
    let changed = tokio::task::spawn_blocking(move || {
        let _place = place;
        worker.access.users.set(&name, None, Some(&new))
    });
    let user = changed.await.map_err(|error| Problem::internal(error.to_string()))??;
    console.access.sessions.renew(session, user.version);
    console.access.sessions.end_others(&caller.user, Some(session));
    let detail = format!("{} changed their password of the console", caller.user);
    console.gateway.note(About::Access, &caller.user, detail);
    Ok(StatusCode::NO_CONTENT)
}

/// API tokens
#[utoipa::path(get, path = "/tokens", operation_id = "tokens", tag = "access",
    responses((status = 200, description = "One's own; an admin sees all", body = TokenList)))]
pub async fn tokens(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<TokenList>, Problem> {
    let all = console.access.tokens.all()?.into_iter();
    let may_see = |token: &tokens::Token| caller.role == Role::Admin || token.user == caller.user;
    Ok(Json(TokenList { items: all.filter(may_see).map(TokenShown::from).collect() }))
}

/// Make an API token
///
/// By a person who is logged in: a token makes no tokens.
#[utoipa::path(post, path = "/tokens", operation_id = "make-token", tag = "access",
    request_body = TokenWanted,
    responses((status = 201, description = "Made; the secret is shown once", body = TokenMade),
              (status = 409, description = "A token makes no tokens", body = Problem,
               content_type = "application/problem+json")))]
pub async fn make_token(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(TokenWanted { name, scope, expires }): Body<TokenWanted>,
) -> Result<(StatusCode, Json<TokenMade>), Problem> {
    if matches!(caller.by, By::Token(_)) {
        return Err(Problem::conflict("a token makes no tokens"));
    }
    if scope > caller.role {
        return Err(Problem::forbidden("a token may do no more than who makes it"));
    }
    let expires: Timestamp = expires.parse().map_err(|_| {
        Problem::bad_request("`expires` is no instant").remedy("write 2026-11-24T06:00:00Z")
    })?;
    has_pace(&console, &caller)?;
    let (token, secret) = console.access.tokens.add(&caller.user, &name, scope, expires)?;
    let (id, role) = (&token.id, scope.label());
    let detail = format!("made the token {id} ({role}, until {expires}): {}", token.name);
    console.gateway.note(About::Access, &caller.user, detail);
    Ok((StatusCode::CREATED, Json(TokenMade { token: token.into(), secret })))
}

/// End an API token
#[utoipa::path(delete, path = "/tokens/{id}", operation_id = "end-token", tag = "access",
    params(("id" = String, Path, description = "Its number")),
    responses((status = 204, description = "Ended"),
              (status = 404, description = "There is no such token of one's own", body = Problem,
               content_type = "application/problem+json")))]
pub async fn end_token(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    let own = (caller.role != Role::Admin).then_some(caller.user.as_str());
    let token = console.access.tokens.remove(&id, own)?;
    let detail = format!("ended the token {id} of {}: {}", token.user, token.name);
    console.gateway.note(About::Access, &caller.audit_name(), detail);
    Ok(StatusCode::NO_CONTENT)
}

/// The user, if the password is right and nobody has to wait.
async fn verified(
    console: &Arc<Console>,
    peer: Peer,
    name: &str,
    password: String,
) -> Result<Option<User>, Problem> {
    if password.len() > MAX_PASSWORD {
        return Err(Problem::bad_request(format!("a password has at most {MAX_PASSWORD} bytes")));
    }
    let _place = log_in_place(console)?;
    // What is longer than any name is nobody's, and is not remembered.
    let name = name.chars().take(crate::config::MAX_USER_BYTES + 1).collect::<String>();
    wait_is_over(console, peer, Some(&name))?;
    let place = hashing(console).await?;
    // Of many at once, those before may have failed meanwhile.
    wait_is_over(console, peer, Some(&name))?;
    let (worker, wanted) = (Arc::clone(console), name.clone());
    let verified = tokio::task::spawn_blocking(move || {
        (worker.access.users.verify(&wanted, &password), place)
    });
    // The place is free again when the failure is counted, not before.
    let (user, _place) = verified.await.map_err(|error| Problem::internal(error.to_string()))?;
    let user = user?;
    let (throttle, now) = (&console.access.throttle, Instant::now());
    if user.is_some() {
        throttle.succeeded(peer.ip(), &name, now);
    } else {
        console.metrics.log_in_failed();
        if throttle.failed(peer.ip(), Some(&name), now) {
            // An unknown name may be a password that somebody typed in the wrong place.
            let known = console.access.users.find(&name)?.map(|user| user.name);
            let user = known.as_deref().unwrap_or("unknown");
            let detail = format!(
                "log-ins at the console as {user} failed and are slowed down; the last came from {}",
                peer.ip()
            );
            console.gateway.note(About::LogIn, user, detail);
        }
    }
    Ok(user)
}

/// Refuses a change that anybody may make of their own where there were too many: each is an entry of the
/// audit log.
fn has_pace(console: &Console, caller: &Caller) -> Result<(), Problem> {
    console.access.pace.change(&caller.user, Instant::now()).map_err(|wait| {
        let detail = format!("{} has changed passwords and tokens too often", caller.user);
        Problem::too_many(detail, wait.as_secs() + 1)
    })
}

fn wait_is_over(console: &Console, peer: Peer, user: Option<&str>) -> Result<(), Problem> {
    console.access.throttle.check(peer.ip(), user, Instant::now()).map_err(|wait| {
        console.metrics.log_in_throttled();
        Problem::too_many("too many attempts failed", wait.as_secs() + 1)
    })
}

/// A place for who wants to log in, so that there are always some for those who are in.
fn log_in_place(console: &Console) -> Result<SemaphorePermit<'_>, Problem> {
    let place = console.log_ins.try_acquire();
    place.map_err(|_| Problem::too_many("too many are logging in", 5))
}

/// A place to hash a password; it is kept until that is done, whether anybody waits for it still or not.
async fn hashing(console: &Console) -> Result<OwnedSemaphorePermit, Problem> {
    let place = Arc::clone(&console.hashing).acquire_owned();
    match tokio::time::timeout(HASHING_LIMIT, place).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(Problem::too_many("too many are logging in", 5)),
    }
}

fn begun(console: &Console, user: &User) -> Result<Response, Problem> {
    let (cookie, session) = console.access.sessions.begin(user)?;
    let by = By::Session(session);
    let answer = Json(shown(console, &user.name, user.role, &by)).into_response();
    Ok(with_cookie(console, Some(&cookie), answer))
}

fn shown(console: &Console, user: &str, role: Role, by: &By) -> Session {
    let session: Option<&Arc<Shown>> = match by {
        By::Session(session) => Some(session),
        By::Token(_) => None,
    };
    let left = session.map(|session| console.access.sessions.left(session));
    let left = left.map(|left| SignedDuration::try_from(left).unwrap_or(SignedDuration::ZERO));
    Session {
        user: user.to_owned(),
        role,
        csrf: session.map(|session| session.csrf.clone()),
        expires: left
            .and_then(|left| Timestamp::now().checked_add(left).ok())
            .map(|t| t.to_string()),
    }
}

fn with_cookie(console: &Console, value: Option<&str>, mut response: Response) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(&guard::cookie(console, value)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
