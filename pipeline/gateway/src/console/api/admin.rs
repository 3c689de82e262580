//! Who may use the console: for admins.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, Segment};
use crate::console::Console;
use crate::console::access::users::User;
use crate::console::access::{By, Caller, Role};
use crate::console::problem::Problem;
use crate::control::questions::About;

/// A user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct UserShown {
    /// The name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// When the user was made.
    #[schema(format = DateTime)]
    pub created: String,
}

/// The users.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct UserList {
    /// By name.
    pub items: Vec<UserShown>,
}

/// A user to make.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserWanted {
    /// The name.
    #[schema(max_length = 64, pattern = r"^[A-Za-z0-9._@-]+$")]
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// A first password, which the user should change.
    #[schema(min_length = 10, max_length = 1024)]
    pub password: String,
}

/// What is to be changed of a user. All sessions of the user end.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserChange {
    /// What the user may do from now on.
    #[serde(default)]
    pub role: Option<Role>,
    /// Another password.
    #[serde(default)]
    #[schema(min_length = 10, max_length = 1024)]
    pub password: Option<String>,
}

impl From<User> for UserShown {
    fn from(user: User) -> Self {
        let User { name, role, created, .. } = user;
        Self { name, role, created }
    }
}

/// Users of the console
#[utoipa::path(get, path = "/users", operation_id = "users", tag = "access",
    responses((status = 200, description = "All of them", body = UserList)))]
pub async fn users(State(console): State<Arc<Console>>) -> Result<Json<UserList>, Problem> {
    let items = console.access.users.all()?.into_iter().map(UserShown::from).collect();
    Ok(Json(UserList { items }))
}

/// Make a user
#[utoipa::path(post, path = "/users", operation_id = "add-user", tag = "access",
    request_body = UserWanted,
    responses((status = 201, description = "Made", body = UserShown),
              (status = 409, description = "There is one with this name, or a token asks", body = Problem,
               content_type = "application/problem+json")))]
pub async fn add_user(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(UserWanted { name, role, password }): Body<UserWanted>,
) -> Result<(StatusCode, Json<UserShown>), Problem> {
    by_a_person(&caller)?;
    let user =
        hashed(&console, move |console| console.access.users.add(&name, role, &password)).await?;
    let detail = format!("made the user {} of the console, {}", user.name, role.label());
    console.gateway.note(About::Access, &caller.audit_name(), detail);
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// Change a user
#[utoipa::path(patch, path = "/users/{name}", operation_id = "change-user", tag = "access",
    params(("name" = String, Path, description = "The user's name")),
    request_body = UserChange,
    responses((status = 200, description = "Changed; the user's sessions ended", body = UserShown),
              (status = 404, description = "There is no such user", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "No admin would be left, or a token asks", body = Problem,
               content_type = "application/problem+json")))]
pub async fn change_user(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Segment(name): Segment,
    Body(UserChange { role, password }): Body<UserChange>,
) -> Result<Json<UserShown>, Problem> {
    by_a_person(&caller)?;
    let has_password = password.is_some();
    let wanted = name.clone();
    let change =
        move |console: &Console| console.access.users.set(&wanted, role, password.as_deref());
    let user = hashed(&console, change).await?;
    let own = match &caller.by {
        By::Session(session) if caller.user == name => Some(&**session),
        _ => None,
    };
    console.access.sessions.end_others(&name, own);
    if let Some(session) = own {
        console.access.sessions.renew(session, user.version);
    }
    let mut what = Vec::new();
    what.extend(role.map(|role| format!("the role {}", role.label())));
    what.extend(has_password.then(|| "another password".to_owned()));
    let detail = format!("gave the user {name} of the console {}", what.join(" and "));
    console.gateway.note(About::Access, &caller.audit_name(), detail);
    Ok(Json(user.into()))
}

/// Remove a user
///
/// The user's sessions end, and tokens are worth nothing any more.
#[utoipa::path(delete, path = "/users/{name}", operation_id = "remove-user", tag = "access",
    params(("name" = String, Path, description = "The user's name")),
    responses((status = 204, description = "Removed"),
              (status = 404, description = "There is no such user", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "No admin would be left, or a token asks", body = Problem,
               content_type = "application/problem+json")))]
pub async fn remove_user(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    by_a_person(&caller)?;
    console.access.users.remove(&name)?;
    console.access.tokens.remove_of(&name)?;
    console.access.sessions.end_others(&name, None);
    let detail = format!("removed the user {name} of the console");
    console.gateway.note(About::Access, &caller.audit_name(), detail);
    Ok(StatusCode::NO_CONTENT)
}

/// A token that leaked must not make itself a user.
fn by_a_person(caller: &Caller) -> Result<(), Problem> {
    match caller.by {
        By::Session(_) => Ok(()),
        By::Token(_) => Err(Problem::conflict("a token does not change who uses the console")
            .remedy("log in, or use `bulkhead console user` on the machine")),
    }
}

/// Does what hashes a password, with as few others at a time as memory allows.
async fn hashed(
    console: &Arc<Console>,
    change: impl FnOnce(&Console) -> Result<User, Problem> + Send + 'static,
) -> Result<User, Problem> {
    let place = Arc::clone(&console.hashing).acquire_owned().await;
    let place = place.map_err(|_| Problem::unavailable("stopping"))?;
    let worker = Arc::clone(console);
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        change(&worker)
    });
    done.await.map_err(|error| Problem::internal(error.to_string()))?
}
