//! What somebody did at the console, on its way into the gateway's audit log: one entry after the other, by
//! a thread of its own, however many ask.
//!
//! The log has room for so many entries. Whoever logs in again and again has two a minute, the second of
//! which says how many there were.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::control::client::ask;
use crate::control::questions::{About, Note};
use crate::control::{Answer, Ask};

/// Entries that wait for being made at most.
const MAX_WAITING: usize = 256;

/// How long the same log-in is no entry of its own.
const WITHIN: Duration = Duration::from_secs(60);

/// Log-ins that are known again; of further ones each is an entry.
const MAX_KNOWN: usize = 1024;

/// The way into the audit log.
#[derive(Debug)]
pub(super) struct Notes {
    sender: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

enum Order {
    Enter(Note),
    /// Enters what is left, and says so.
    End(SyncSender<()>),
}

impl Notes {
    /// Starts the thread that has notes entered by the gateway at `socket`.
    pub(super) fn start(socket: PathBuf) -> Self {
        let (sender, orders) = sync_channel(MAX_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let enter = move |note: Note| {
            let user = note.on_behalf_of.clone();
            let why = match ask(&socket, Ask::Note(note)) {
                Ok(Answer::Noted {}) => return,
                Ok(Answer::Error(error)) | Err(error) => error,
                Ok(_) => "it answered another question".to_owned(),
            };
            counted.fetch_add(1, Relaxed);
            warn!(user, "the gateway's audit log does not have this: {why}");
        };
        let thread = std::thread::Builder::new().name("notes".to_owned());
        if let Err(error) = thread.spawn(move || work(&orders, enter)) {
            // Each note says so then.
            warn!("cannot start the thread that enters notes: {error}");
        }
        Self { sender, lost }
    }

    /// Has a note entered. Where too many wait it is lost, which the console's own log tells.
    pub(super) fn enter(&self, note: Note) {
        let user = note.on_behalf_of.clone();
        if self.sender.try_send(Order::Enter(note)).is_err() {
            self.lost.fetch_add(1, Relaxed);
            warn!(user, "the gateway's audit log does not have this: too much waits for it");
        }
    }

    /// How many could not be entered.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Waits until what was noted is entered, or for `limit`.
    pub(super) fn finish(&self, limit: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.sender.try_send(Order::End(done)).is_ok() {
            // Whoever ends does so anyway.
            let _ = is_done.recv_timeout(limit);
        }
    }
}

fn work(orders: &Receiver<Order>, mut enter: impl FnMut(Note)) {
    let mut repeated = Repeated::default();
    loop {
        let now = Instant::now();
        repeated.due(Some(now)).into_iter().for_each(&mut enter);
        let order = match repeated.next() {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(next) => orders.recv_timeout(next.saturating_duration_since(now)),
        };
        match order {
            Ok(Order::Enter(note)) => {
                repeated.admit(note, Instant::now()).into_iter().for_each(&mut enter);
            }
            Ok(Order::End(done)) => {
                repeated.due(None).into_iter().for_each(&mut enter);
                // Nobody may wait any more.
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Log-ins of the last minute: by user and words, until when, and how often since.
#[derive(Default)]
struct Repeated {
    known: HashMap<(String, String), (Instant, u64)>,
}

impl Repeated {
    /// The note, unless it is a log-in that was entered just now.
    fn admit(&mut self, note: Note, now: Instant) -> Option<Note> {
        if note.about != About::LogIn {
            return Some(note);
        }
        let key = (note.on_behalf_of.clone(), note.detail.clone());
        if let Some((_, count)) = self.known.get_mut(&key) {
            *count += 1;
            return None;
        }
        if self.known.len() < MAX_KNOWN {
            self.known.insert(key, (now + WITHIN, 0));
        }
        Some(note)
    }

    /// When the next is due.
    fn next(&self) -> Option<Instant> {
        self.known.values().map(|(until, _)| *until).min()
    }

    /// Sums of those whose minute is over by `now`, or of all.
    fn due(&mut self, now: Option<Instant>) -> Vec<Note> {
        let is_due = |until: Instant| now.is_none_or(|now| until <= now);
        let mut sums = Vec::new();
        self.known.retain(|(user, detail), (until, count)| {
            if is_due(*until) && *count > 0 {
                let detail = format!("{detail}; {count} times more within a minute");
                sums.push(Note { about: About::LogIn, on_behalf_of: user.clone(), detail });
            }
            !is_due(*until)
        });
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(about: About, user: &str, detail: &str) -> Note {
        Note { about, on_behalf_of: user.to_owned(), detail: detail.to_owned() }
    }

    #[test]
    fn who_logs_in_again_and_again_has_two_entries_a_minute() {
        let (mut repeated, mut now) = (Repeated::default(), Instant::now());
        let log_in = || note(About::LogIn, "ada", "ada logged in from 192.0.2.1");
        assert_eq!(repeated.admit(log_in(), now), Some(log_in()));
        for _ in 0..50 {
            now += Duration::from_secs(1);
            assert_eq!(repeated.admit(log_in(), now), None);
        }
        let other = note(About::LogIn, "ada", "ada logged in from 192.0.2.2");
        assert_eq!(repeated.admit(other.clone(), now), Some(other), "from elsewhere");
        for _ in 0..2 {
            let access = note(About::Access, "ada", "made a token");
            assert_eq!(repeated.admit(access.clone(), now), Some(access), "no change is left out");
        }
        assert_eq!(repeated.due(Some(now)), []);
        now += Duration::from_secs(10);
        let sum = "ada logged in from 192.0.2.1; 50 times more within a minute";
        assert_eq!(repeated.due(Some(now)), [note(About::LogIn, "ada", sum)]);
        assert_eq!(repeated.due(None), [], "once is told already");
        assert_eq!(repeated.admit(log_in(), now), Some(log_in()));
    }

    #[test]
    fn so_many_are_known_again_and_what_is_left_is_entered_at_the_end() {
        let mut repeated = Repeated::default();
        let now = Instant::now();
        for at in 0..2 * MAX_KNOWN {
            let admitted = repeated.admit(note(About::LogIn, &at.to_string(), "in"), now);
            assert!(admitted.is_some());
        }
        assert_eq!(repeated.known.len(), MAX_KNOWN);
        let (sender, orders) = sync_channel(8);
        let (done, is_done) = sync_channel(1);
        for _ in 0..3 {
            let sent = sender.send(Order::Enter(note(About::LogIn, "ada", "ada logged in")));
            assert!(sent.is_ok());
        }
        assert!(sender.send(Order::End(done)).is_ok());
        drop(sender);
        let mut entered = Vec::new();
        work(&orders, |note| entered.push(note.detail));
        assert_eq!(entered, ["ada logged in", "ada logged in; 2 times more within a minute"]);
        assert_eq!(is_done.recv(), Ok(()));
    }
}
