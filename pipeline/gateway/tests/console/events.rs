//! Live events: how many may watch, what a slow one gets, and when it is over.

use std::sync::Arc;

use axum::body::Body;
use bulkhead_gateway::console::access::Role;
use bulkhead_gateway::console::events::{MAX_OF_USER, MAX_STREAMS};
use bulkhead_gateway::console::overview::Overview;
use serde_json::json;

use crate::site::{Site, Visitor};

/// Publishes an overview that is known again by its time.
fn put(site: &Site, mark: &str) {
    let console = &site.console;
    let overview = Overview::of(console, console.gateway.moment());
    console.events.put(Arc::new(Overview { at: mark.to_owned(), ..overview }), None);
}

fn watch(site: &Site, who: &Visitor) -> Body {
    let response = site.begin("/events", who);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body()
}

#[test]
fn a_slow_client_gets_the_newest_and_no_backlog() {
    let site = Site::new();
    let mut stream = watch(&site, &site.visitor(Role::Viewer));
    for at in 0..100 {
        put(&site, &format!("mark {at} end"));
    }
    let mut read = String::new();
    let mut events = 0;
    loop {
        let text = site.next(&mut stream).expect("it goes on");
        if text.is_empty() {
            break;
        }
        read += &text;
        events += 1;
    }
    // The thread that watches the gateway may have published another one meanwhile.
    let marks: Vec<&str> = read.split("mark ").skip(1).collect();
    assert!(marks.iter().all(|rest| rest.starts_with("99 end")), "{read}");
    assert!(events <= 6, "{events} events for 100: {read}");
}

#[test]
fn so_many_watch_at_a_time_and_who_goes_makes_room() {
    let site = Site::new();
    let viewer = site.visitor(Role::Viewer);
    let mut streams: Vec<Body> = (0..MAX_OF_USER).map(|_| watch(&site, &viewer)).collect();
    assert_eq!(site.begin("/events", &viewer).status(), 429, "one user has so many");
    streams.pop();
    streams.push(watch(&site, &viewer));
    assert_eq!(site.begin("/events", &viewer).status(), 429);
    let users = (1..).map(|at| site.user(&format!("user{at}"), Role::Viewer));
    let others = users.flat_map(|user| (0..MAX_OF_USER).map(move |_| user.clone()));
    let left = MAX_STREAMS as usize - streams.len();
    streams.extend(others.take(left).map(|user| watch(&site, &user)));
    let operator = site.visitor(Role::Operator);
    assert_eq!(site.begin("/events", &operator).status(), 429, "all have so many");
    streams.pop();
    assert_eq!(site.begin("/events", &operator).status(), 200);
}

#[test]
fn a_stream_ends_with_its_session() {
    let site = Site::new();
    let ended = |who: &Visitor, end: &dyn Fn()| {
        let mut stream = watch(&site, who);
        assert!(site.next(&mut stream).is_some_and(|text| text.contains("overview")));
        end();
        crate::common::wait("the stream ends", || {
            put(&site, "later");
            site.next(&mut stream).is_none()
        });
    };
    let viewer = site.visitor(Role::Viewer);
    ended(&viewer, &|| assert_eq!(site.post("/logout", &viewer, json!({})).status, 204));
    let viewer = site.visitor(Role::Viewer);
    site.visitor(Role::Admin);
    // On the machine itself: the session is still there, and the user has changed.
    ended(&viewer, &|| {
        site.console.access.users.set("the.viewer", None, Some("another password")).unwrap();
    });
}
