//! Live events (server-sent events). A client that is slow gets the newest, never a backlog.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::watch;

use super::Console;
use super::access::{Caller, guard};
use super::overview::Overview;
use super::problem::Problem;

/// Streams at a time: fewer than the connections that one source may have, so that many who come through
/// one tunnel can still ask.
pub const MAX_STREAMS: u64 = 48;

/// Streams of one user, for the same reason.
pub const MAX_OF_USER: usize = 8;

/// How often a comment is sent to keep proxies from giving up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is published: the overview, and how often the gateway went and came back until then.
#[derive(Clone, Debug, Default)]
struct Latest {
    overview: Option<Arc<Overview>>,
    gone: u64,
    back: u64,
}

/// Where events come from.
#[derive(Debug)]
pub struct Events {
    sender: watch::Sender<Latest>,
    /// Streams of each user who has some.
    watching: Mutex<HashMap<String, usize>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: watch::channel(Latest::default()).0, watching: Mutex::default() }
    }
}

impl Events {
    /// Publishes what the gateway does now, and whether it came back (true) or went (false).
    pub fn put(&self, overview: Arc<Overview>, came_back: Option<bool>) {
        self.sender.send_modify(|latest| {
            latest.overview = Some(overview);
            latest.back += u64::from(came_back == Some(true));
            latest.gone += u64::from(came_back == Some(false));
        });
    }

    fn watching(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the streams, for as long as it lives.
struct Place {
    console: Arc<Console>,
    user: String,
}

impl Place {
    /// A place for one more stream of `user`, if there is one.
    fn take(console: &Arc<Console>, user: &str) -> Option<Self> {
        let mut watching = console.events.watching();
        let count = watching.get(user).copied().unwrap_or(0);
        if count >= MAX_OF_USER || !console.metrics.stream(MAX_STREAMS) {
            return None;
        }
        watching.insert(user.to_owned(), count + 1);
        Some(Self { console: Arc::clone(console), user: user.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.console.metrics.stream_ended();
        let mut watching = self.console.events.watching();
        match watching.get_mut(&self.user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(watching.remove(&self.user)),
        }
    }
}

struct Stream {
    console: Arc<Console>,
    caller: Caller,
    events: watch::Receiver<Latest>,
    sent: Latest,
    waiting: Vec<Event>,
    _place: Place,
}

/// Live events
///
/// `overview` each second with what `GET /overview` says; `staged` with it while a policy is staged, as
/// `GET /staged` says (a few flows only); `gone` and `back` when the gateway stops to answer and answers
/// again. A slow client gets the newest. The stream ends with the session.
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "events",
    tag = "live",
    responses((status = 200, description = "A stream that does not end", content_type = "text/event-stream", body = String)),
)]
pub async fn events(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let Some(place) = Place::take(&console, &caller.user) else {
        console.metrics.stream_refused();
        return Problem::too_many("too many pages are watching already", 30).into_response();
    };
    let mut events = console.events.sender.subscribe();
    // What is there already is sent at once.
    events.mark_changed();
    let sent = events.borrow().clone();
    let stream = Stream { console, caller, events, sent, waiting: Vec::new(), _place: place };
    let stream = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

impl Stream {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop() {
                self.console.metrics.event();
                return Some(event);
            }
            self.events.changed().await.ok()?;
            if !guard::still_may(&self.console, &self.caller) {
                return None;
            }
            let latest = self.events.borrow_and_update().clone();
            // The last one is taken first.
            if let Some(overview) = &latest.overview {
                if let Some(event) = self.staged() {
                    self.waiting.push(event);
                }
                self.waiting.extend(event("overview", &**overview));
            }
            if latest.back != self.sent.back {
                self.waiting.push(Event::default().event("back").data("{}"));
            }
            if latest.gone != self.sent.gone {
                self.waiting.push(Event::default().event("gone").data("{}"));
            }
            self.sent = latest;
        }
    }

    fn staged(&self) -> Option<Event> {
        let moment = self.console.gateway.moment().ok()?;
        let report = moment.staged.filter(|report| report.staged.is_some())?;
        event("staged", &*report)
    }
}

fn event(name: &str, value: &impl serde::Serialize) -> Option<Event> {
    Event::default().event(name).json_data(value).ok()
}
