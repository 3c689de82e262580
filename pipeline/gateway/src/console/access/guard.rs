//! What every request passes: who asks, whether it comes from the console's own pages, and whether that
//! role may.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::sessions::Shown;
use super::{By, Caller, Role, secret};
use crate::console::Console;
use crate::console::problem::Problem;

/// The header that a request brings which changes something and is known by a cookie.
pub const CSRF_HEADER: &str = "x-bulkhead-csrf";

/// The header of a request that a page makes by itself: it keeps no session open.
const BACKGROUND: &str = "x-bulkhead-background";

/// The cookie's name where browsers come over TLS: the prefix has browsers insist on `Secure`, on no `Domain` and on `/`.
const SECURE_COOKIE: &str = "__Host-bulkhead";

/// The same over plain HTTP on loopback.
const PLAIN_COOKIE: &str = "bulkhead";

/// The other end of a request's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer(pub SocketAddr);

impl Peer {
    /// Its address.
    pub fn ip(self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}

/// Lets a request pass that somebody with at least this role makes.
pub async fn guard(
    State((console, needed)): State<(Arc<Console>, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    let admitted = admit(&console, needed, request.method(), request.headers());
    match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            console.metrics.refused(problem.status);
            problem.into_response()
        }
    }
}

/// Who asks, if that may be asked.
///
/// # Errors
///
/// 401 where nobody is logged in, 403 for a forged request, or one that the role may not make.
pub fn admit(
    console: &Console,
    needed: Role,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    let caller = who(console, headers)?;
    if let (By::Session(session), false) = (&caller.by, is_safe(method)) {
        check_origin(console, headers)?;
        let brought = headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok());
        if !brought.is_some_and(|brought| secret::same(brought, &session.csrf)) {
            return Err(Problem::forbidden("the request lacks the session's token")
                .remedy(format!("send `csrf` of GET /api/v1/session in {CSRF_HEADER}")));
        }
    }
    if caller.role < needed {
        return Err(Problem::forbidden(format!(
            "this takes the role {}, and {} is {}",
            needed.label(),
            caller.user,
            caller.role.label()
        )));
    }
    Ok(caller)
}

/// Refuses what a browser says comes from another site. Other clients say nothing.
///
/// # Errors
///
/// That it does.
pub fn check_origin(console: &Console, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let forged = || Problem::forbidden("the request comes from another site");
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(forged());
    }
    let Some(origin) = text(header::ORIGIN.as_str()) else { return Ok(()) };
    // A proxy may ask for another host than the browser has asked it for.
    let public = console.settings.console.public_url.as_deref();
    if public.is_some_and(|public| origin.eq_ignore_ascii_case(public)) {
        return Ok(());
    }
    let origin = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    match (origin, text(header::HOST.as_str())) {
        (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(forged()),
    }
}

/// The session of a request's cookie, if it has one that is open.
pub fn session(console: &Console, headers: &HeaderMap) -> Option<(Arc<Shown>, u64)> {
    let name = cookie_name(console);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='));
    let (_, cookie) = pairs.find(|(key, _)| key.trim() == name)?;
    console.access.sessions.find(cookie.trim(), headers.contains_key(BACKGROUND))
}

/// What sets the cookie of a session, or with no value takes it away.
pub fn cookie(console: &Console, value: Option<&str>) -> String {
    let secure = if console.settings.is_reached_by_https() { "; Secure" } else { "" };
    let age = match value {
        Some(_) => console.access.sessions.limit().as_secs(),
        None => 0,
    };
    let (name, value) = (cookie_name(console), value.unwrap_or_default());
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

fn cookie_name(console: &Console) -> &'static str {
    if console.settings.is_reached_by_https() { SECURE_COOKIE } else { PLAIN_COOKIE }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn who(console: &Console, headers: &HeaderMap) -> Result<Caller, Problem> {
    let access = &console.access;
    if let Some(bearer) = headers.get(header::AUTHORIZATION) {
        let text = bearer.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
        let token =
            text.map(|text| access.tokens.find(text.trim(), Timestamp::now())).transpose()?;
        let unknown = || Problem::unauthorized("this token is not known, or its time is over");
        let token = token.flatten().ok_or_else(unknown)?;
        let user = access.users.find(&token.user)?;
        let user = user.filter(|user| token.is_of(user)).ok_or_else(unknown)?;
        let role = token.scope.min(user.role);
        return Ok(Caller { user: user.name, role, by: By::Token(token.id) });
    }
    let nobody = || {
        let setup_needed = access.users.lack_an_admin().is_ok_and(|lack| lack).then_some(true);
        Problem { setup_needed, ..Problem::unauthorized("nobody is logged in") }
    };
    let (session, version) = session(console, headers).ok_or_else(nobody)?;
    match access.users.find(&session.user)? {
        Some(user) if user.version == version => {
            Ok(Caller { user: user.name, role: user.role, by: By::Session(session) })
        }
        _ => {
            access.sessions.end(&session);
            Err(nobody())
        }
    }
}

/// Whether a caller may still do what it was let do before.
pub fn still_may(console: &Console, caller: &Caller) -> bool {
    let user = console.access.users.find(&caller.user).ok().flatten();
    let Some(user) = user.filter(|user| user.role >= caller.role) else { return false };
    let now = Timestamp::now();
    match &caller.by {
        By::Session(session) => console.access.sessions.is_of(session, &user),
        By::Token(id) => console.access.tokens.all().is_ok_and(|tokens| {
            let mut tokens = tokens.iter();
            tokens.any(|token| token.id == *id && !token.is_over(now) && token.is_of(&user))
        }),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use clap::Parser;

    use super::*;
    use crate::console::ConsoleArgs;
    use crate::console::settings::Settings;

    #[derive(Parser)]
    struct Told {
        #[command(flatten)]
        args: ConsoleArgs,
    }

    fn console(folder: &std::path::Path, public_url: Option<&str>) -> Console {
        let words = ["console", "--plain-http", "--config=none", "--socket=none", "--store=none"];
        let dir = format!("--dir={}", folder.display());
        let told = Told::parse_from(words.into_iter().chain([dir.as_str()]));
        let mut settings = Settings::read(&told.args).unwrap_or_else(|e| panic!("{e}"));
        settings.console.public_url = public_url.map(str::to_owned);
        Console::new(settings)
    }

    #[test]
    fn behind_a_proxy_cookies_are_for_https_and_its_pages_are_the_consoles() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let plain = console(folder.path(), None);
        let public = console(folder.path(), Some("https://console.plant.example:8443"));
        assert!(cookie(&plain, Some("x")).starts_with("bulkhead=x; "));
        let secure = cookie(&public, Some("x"));
        assert!(secure.starts_with("__Host-bulkhead=x; ") && secure.ends_with("; Secure"));
        assert!(cookie(&public, None).contains("Max-Age=0"), "and it can be taken away");
        let bound = SocketAddr::from(([127, 0, 0, 1], 10_443));
        assert_eq!(public.settings.address(bound), "https://console.plant.example:8443");
        let from = |console: &Console, origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:10443"));
            check_origin(console, &headers).is_ok()
        };
        assert!(from(&plain, "http://127.0.0.1:10443") && from(&public, "http://127.0.0.1:10443"));
        let own = "https://console.plant.example:8443";
        assert!(from(&public, own) && !from(&plain, own));
        for other in ["https://console.plant.example", "https://evil.example", "null"] {
            assert!(!from(&public, other), "{other}");
        }
    }
}
