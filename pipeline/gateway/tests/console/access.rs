//! Who may ask for what.

use std::time::Duration;

use bulkhead_gateway::console::access::Role;
use bulkhead_gateway::console::{api, role_of};
use serde_json::{Value, json};

use crate::site::{PASSWORD, Site, Visitor};

/// A route of the document.
struct Route {
    method: String,
    /// With its parameters filled in.
    path: String,
    /// The least role; [`None`] for everybody.
    role: Option<Role>,
}

/// Every route that the document has.
fn routes() -> Vec<Route> {
    let document: Value = serde_json::from_str(&api::document_text().unwrap()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let role = operation.get(api::ROLE_EXTENSION).map(|role| role.as_str().unwrap());
            let path = path.replace("{id}", "x").replace("{name}", "x");
            assert!(!path.contains('{'), "say what to fill into {path}");
            let role = role.map(|role| role_of(role).unwrap());
            routes.push(Route { method: method.to_uppercase(), path, role });
        }
    }
    assert!(routes.len() > 40, "{}", routes.len());
    routes
}

#[test]
fn the_description_that_lies_in_the_repository_is_the_present_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../console-app/openapi.json");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == api::document_text().unwrap(),
        "pipeline/console-app/openapi.json is not what the types say: \
         `cargo run -p bulkhead-gateway -- console --openapi > pipeline/console-app/openapi.json`"
    );
}

#[test]
fn three_routes_are_for_everybody_and_no_other() {
    let mut open: Vec<String> = (routes().into_iter().filter(|route| route.role.is_none()))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    open.sort();
    assert_eq!(open, ["GET /api/v1/health", "POST /api/v1/login", "POST /api/v1/setup"]);
}

#[test]
fn who_only_looks_changes_nothing_but_what_is_their_own() {
    let mut changes: Vec<String> = (routes().into_iter())
        .filter(|route| route.method != "GET" && route.role.is_some_and(|r| r < Role::Operator))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    changes.sort();
    // Log-out, password and tokens are one's own; the others compute, and change nothing.
    let own = ["DELETE /tokens/x", "POST /logout", "POST /password", "POST /tokens"];
    let computed = ["POST /policy/check", "POST /policy/diff", "POST /policy/explain"];
    let mut expected: Vec<String> =
        (own.into_iter().chain(computed)).map(|route| route.replace(" /", " /api/v1/")).collect();
    expected.sort();
    assert_eq!(changes, expected);
    let admins = routes().into_iter().filter(|route| route.role == Some(Role::Admin));
    assert!(admins.map(|route| route.path).all(|path| path.starts_with("/api/v1/users")));
}

#[test]
fn every_route_asks_who_it_is_and_whether_that_role_may() {
    let site = Site::new();
    let nobody = Visitor::default();
    let stale = nobody.with("cookie", "bulkhead=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let (mut unauthenticated, mut forbidden, mut forged, mut admitted) = (0, 0, 0, 0);
    for Route { method, path, role } in routes() {
        let Some(needed) = role else { continue };
        for who in [&nobody, &stale, &nobody.with("authorization", "Bearer bulkhead_x")] {
            let answer = site.ask(&method, &path, who, None);
            assert_eq!(answer.status, 401, "{method} {path} for nobody");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            unauthenticated += 1;
        }
        for role in Role::ALL {
            // Log-out and the like end a session: each route gets one of its own.
            let who = site.visitor(role);
            let answer = site.ask(&method, &path, &who, None);
            if role < needed {
                assert_eq!(answer.status, 403, "{method} {path} for a {}", role.label());
                forbidden += 1;
            } else {
                let status = answer.status;
                assert!(![401, 403].contains(&status), "{method} {path} for {role:?}: {status}");
                admitted += 1;
            }
        }
        if method != "GET" {
            let who = site.visitor(needed);
            let token = |value| who.with("x-bulkhead-csrf", value);
            for who in [
                who.without("x-bulkhead-csrf"),
                token(""),
                token("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
                who.with("sec-fetch-site", "cross-site"),
                who.with("sec-fetch-site", "same-site"),
                who.with("origin", "https://elsewhere.example"),
                who.with("origin", "null"),
            ] {
                let answer = site.ask(&method, &path, &who, None);
                assert_eq!(answer.status, 403, "{method} {path} forged by {who:?}");
                forged += 1;
            }
            let own =
                who.with("origin", "http://console.example").with("sec-fetch-site", "same-origin");
            let status = site.ask(&method, &path, &own, None).status;
            assert!(![401, 403].contains(&status), "{method} {path} from its own pages: {status}");
        }
    }
    println!(
        "{unauthenticated} requests without a session: 401; {forbidden} beyond a role and {forged} \
         forged: 403; {admitted} admitted"
    );
    assert!(forbidden >= 15 && forged >= 100, "{forbidden} {forged}");
}

#[test]
fn guessing_a_password_is_slowed_down_and_log_in_sets_a_strict_cookie() {
    let site = Site::new();
    site.visitor(Role::Operator);
    let nobody = Visitor::default();
    let log_in = |password: &str, who: &Visitor| {
        site.post("/login", who, json!({"user": "the.operator", "password": password}))
    };
    let forged = log_in(PASSWORD, &nobody.with("sec-fetch-site", "cross-site"));
    assert_eq!(forged.status, 403, "not even to log in");
    let answer = log_in(PASSWORD, &nobody);
    assert_eq!((answer.status, &answer.body["role"]), (200, &json!("operator")));
    let cookie = &answer.headers["set-cookie"];
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap();
    let who = nobody.with("cookie", cookie);
    assert_eq!(site.get("/session", &who).body["user"], "the.operator");
    for _ in 0..5 {
        assert_eq!(log_in("not the password", &nobody).status, 401);
    }
    let answer = log_in(PASSWORD, &nobody);
    assert_eq!(answer.status, 429, "the right one has to wait, too");
    assert!(answer.headers["retry-after"].parse::<u64>().is_ok_and(|seconds| seconds > 0));
    assert_eq!(site.get("/session", &who).status, 200, "who is in stays in");
}

#[test]
fn tokens_do_what_their_scope_says_until_they_end() {
    let site = Site::new();
    let admin = site.visitor(Role::Admin);
    let expires = jiff::Timestamp::now() + Duration::from_secs(3600);
    let wanted = json!({"name": "export", "scope": "viewer", "expires": expires.to_string()});
    let made = site.post("/tokens", &admin, wanted.clone());
    assert_eq!(made.status, 201, "{}", made.body);
    let bearer = format!("Bearer {}", made.body["secret"].as_str().unwrap());
    let program = Visitor::default().with("authorization", &bearer);
    assert_eq!(site.get("/policy/rules", &program).status, 200);
    assert_eq!(site.get("/users", &program).status, 403, "its scope says viewer, whoever made it");
    assert_eq!(site.post("/tokens", &program, wanted).status, 409, "a token makes no tokens");
    let wanted = json!({"name": "orders", "scope": "operator", "expires": expires.to_string()});
    let orders = site.post("/tokens", &admin, wanted).body;
    let bearer = format!("Bearer {}", orders["secret"].as_str().unwrap());
    let program = Visitor::default().with("authorization", &bearer);
    let put = json!({"reason": "CHG-8"});
    let done = site.post("/devices/10.20.0.12/quarantine", &program, put);
    assert_eq!(done.status, 200, "a program needs no other token: {}", done.body);
    let audit = site.get("/audit", &program).body;
    let entries = audit["entries"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["what"] == "quarantine").unwrap();
    let name = format!("the.admin+{}", orders["id"].as_str().unwrap());
    assert_eq!(entry["who"]["on-behalf-of"], json!(name));
    let soon = jiff::Timestamp::now() + Duration::from_millis(300);
    let tokens = &site.console.access.tokens;
    let (_, short) = tokens.add("the.admin", "short", Role::Viewer, soon).unwrap();
    let program = Visitor::default().with("authorization", &format!("Bearer {short}"));
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(site.get("/policy/rules", &program).status, 401, "its time is over");
}

#[test]
fn a_change_of_role_or_password_ends_sessions_and_the_link_is_good_once() {
    let site = Site::new();
    let secret = site.console.access.setup.begin().unwrap();
    let nobody = Visitor::default();
    let answer = site.get("/session", &nobody);
    assert_eq!((answer.status, &answer.body["setup-needed"]), (401, &json!(true)));
    let set_up = |user: &str| {
        let body = json!({"token": secret, "user": user, "password": PASSWORD});
        site.post("/setup", &nobody, body)
    };
    let made = set_up("ada");
    assert_eq!((made.status, &made.body["role"]), (200, &json!("admin")));
    assert_eq!(set_up("eve").status, 403, "the link was used");
    let cookie = made.headers["set-cookie"].split(';').next().unwrap().to_owned();
    let csrf = made.body["csrf"].as_str().unwrap();
    let ada = nobody.with("cookie", &cookie).with("x-bulkhead-csrf", csrf);
    let wanted = json!({"name": "bob", "role": "operator", "password": PASSWORD});
    assert_eq!(site.post("/users", &ada, wanted).status, 201);
    let bob = site.console.access.users.find("bob").unwrap().unwrap();
    let (cookie, _) = site.console.access.sessions.begin(&bob).unwrap();
    let bob = nobody.with("cookie", &format!("bulkhead={cookie}"));
    assert_eq!(site.get("/session", &bob).body["role"], "operator");
    let change = Some(json!({"role": "viewer"}));
    assert_eq!(site.ask("PATCH", "/api/v1/users/bob", &ada, change).status, 200);
    assert_eq!(site.get("/session", &bob).status, 401);
    let last = site.ask("DELETE", "/api/v1/users/ada", &ada, None);
    assert_eq!(last.status, 409, "nobody would be left: {}", last.body);
}

#[test]
fn who_gets_a_name_that_somebody_had_gets_nothing_else_of_theirs() {
    let site = Site::new();
    let admin = site.visitor(Role::Admin);
    let users = &site.console.access.users;
    let eve = || users.add("eve", Role::Operator, PASSWORD).unwrap();
    let (cookie, _) = site.console.access.sessions.begin(&eve()).unwrap();
    let session = Visitor::default().with("cookie", &format!("bulkhead={cookie}"));
    let expires = jiff::Timestamp::now() + Duration::from_secs(3600);
    let tokens = &site.console.access.tokens;
    let (_, secret) = tokens.add("eve", "export", Role::Operator, expires).unwrap();
    let program = Visitor::default().with("authorization", &format!("Bearer {secret}"));
    for who in [&session, &program] {
        assert_eq!(site.get("/policy", who).status, 200);
    }
    // Removed on the machine itself, which the console is not told.
    users.remove("eve").unwrap();
    std::thread::sleep(Duration::from_millis(5));
    eve();
    for who in [&session, &program] {
        assert_eq!(site.get("/policy", who).status, 401, "{who:?}");
    }
    tokens.add("eve", "export", Role::Operator, expires).unwrap();
    let removed = site.ask("DELETE", "/api/v1/users/eve", &admin, None);
    assert_eq!(removed.status, 204);
    assert!(tokens.all().unwrap().iter().all(|token| token.user != "eve"), "they went, too");
}

#[test]
fn a_token_makes_no_users_and_its_doings_have_its_name() {
    let site = Site::new();
    let admin = site.visitor(Role::Admin);
    let expires = jiff::Timestamp::now() + Duration::from_secs(3600);
    let wanted = json!({"name": "all", "scope": "admin", "expires": expires.to_string()});
    let made = site.post("/tokens", &admin, wanted).body;
    let bearer = format!("Bearer {}", made["secret"].as_str().unwrap());
    let program = Visitor::default().with("authorization", &bearer);
    let eve = json!({"name": "eve", "role": "admin", "password": PASSWORD});
    assert_eq!(site.post("/users", &program, eve).status, 409);
    let change = Some(json!({"password": "another password"}));
    let changed = site.ask("PATCH", "/api/v1/users/the.admin", &program, change);
    assert_eq!(changed.status, 409, "{}", changed.body);
    assert_eq!(site.ask("DELETE", "/api/v1/users/the.admin", &program, None).status, 409);
    let id = made["id"].as_str().unwrap();
    assert_eq!(site.ask("DELETE", &format!("/api/v1/tokens/{id}"), &program, None).status, 204);
    crate::common::wait("it is entered", || {
        let audit = site.get("/audit", &admin).body;
        let entries = audit["entries"].as_array().unwrap();
        let ended = entries.iter().find(|e| e["detail"].as_str().unwrap().starts_with("ended the"));
        ended.is_some_and(|e| e["who"]["on-behalf-of"] == json!(format!("the.admin+{id}")))
    });
}

#[test]
fn nobody_fills_the_audit_log_with_changes_of_their_own() {
    let site = Site::new();
    let viewer = site.visitor(Role::Viewer);
    let expires = jiff::Timestamp::now() + Duration::from_secs(3600);
    let wanted = json!({"name": "x", "scope": "viewer", "expires": expires.to_string()});
    let mut made = 0;
    let refused = loop {
        let answer = site.post("/tokens", &viewer, wanted.clone());
        if answer.status != 201 {
            break answer;
        }
        made += 1;
        let path = format!("/api/v1/tokens/{}", answer.body["id"].as_str().unwrap());
        assert_eq!(site.ask("DELETE", &path, &viewer, None).status, 204);
    };
    assert_eq!((made, refused.status), (60, 429), "{}", refused.body);
    assert!(refused.headers["retry-after"].parse::<u64>().is_ok_and(|seconds| seconds > 3000));
    let operator = site.visitor(Role::Operator);
    assert_eq!(site.post("/tokens", &operator, wanted).status, 201, "others have their own");
    // All of it is there once the console ends.
    site.console.gateway.finish_notes(crate::common::PATIENCE);
    let log = std::fs::read_to_string(site.folder.path().join("state/audit.jsonl"));
    assert_eq!(log.unwrap().matches("made the token").count(), 61);
}

#[test]
fn a_reason_and_the_name_of_a_file_are_one_line() {
    let site = Site::new();
    let operator = site.visitor(Role::Operator);
    let forged = "x\n   812  2026-11-23T09:00:00Z  root (uid 0)  rollback: done";
    for text in [forged, "\u{1b}[2A\u{1b}[2K"] {
        let refused = site.post("/policy/reload", &operator, json!({"reason": text}));
        assert_eq!(refused.status, 400, "{}", refused.body);
        let files = json!({"files": [{"name": text, "text": "rules: []"}]});
        assert_eq!(site.post("/policy/check", &operator, files).status, 400);
    }
}
