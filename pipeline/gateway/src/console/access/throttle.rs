//! Slows down whoever guesses: per source of requests, per user that is guessed at, and per both.
//!
//! After a few failures each further one costs twice the time, up to a quarter of an hour. So that nobody
//! can lock a user out by guessing, a source from which the user logged in before waits for its own
//! failures only. A log-in takes back the failures of the same user from there, not those with others.
//! Behind loopback there are many people, who come through a tunnel or a proxy: they wait for failures
//! with their own name first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::console::sources::network;

/// Failures that cost nothing, and those of everybody who comes over loopback.
const FREE: u32 = 5;
const FREE_OVER_LOOPBACK: u32 = 50;

/// The first wait, and the longest.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(900);

/// After so long without a failure all is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(1800);

/// Sources and users that are remembered; those whose last failure is longest ago go first.
const MAX_KEYS: usize = 8192;

/// Sources from which a user is known to log in.
const MAX_KNOWN: usize = 1024;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Key {
    Source(IpAddr),
    User(String),
    Both(IpAddr, String),
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

/// What is remembered of failures.
#[derive(Debug, Default)]
pub struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: HashMap<Key, Failures>,
    known: HashMap<(IpAddr, String), Instant>,
}

impl Throttle {
    /// Whether somebody at `source` may try to be `user` now.
    ///
    /// # Errors
    ///
    /// How long to wait.
    pub fn check(&self, source: IpAddr, user: Option<&str>, now: Instant) -> Result<(), Duration> {
        let state = self.state();
        let source = network(source);
        let both = user.map(|user| (source, user.to_owned()));
        let is_known = both.as_ref().is_some_and(|both| state.known.contains_key(both));
        // Whoever has come through the tunnel before does not wait for all others who come through it.
        let mut wait = match is_known && source.is_loopback() {
            true => Duration::ZERO,
            false => state.wait(&Key::Source(source), now),
        };
        if let Some((source, user)) = both {
            let key = if is_known { Key::Both(source, user) } else { Key::User(user) };
            wait = wait.max(state.wait(&key, now));
        }
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// It failed. Returns whether this is the failure from which on there is a wait.
    pub fn failed(&self, source: IpAddr, user: Option<&str>, now: Instant) -> bool {
        let mut state = self.state();
        let source = Key::Source(network(source));
        let mut is_first = state.count(source.clone(), now) == source.free();
        if let (Some(user), Key::Source(source)) = (user, source) {
            let keys = [Key::User(user.to_owned()), Key::Both(source, user.to_owned())];
            is_first |= keys.map(|key| state.count(key, now) == FREE).contains(&true);
        }
        is_first
    }

    /// It did not.
    pub fn succeeded(&self, source: IpAddr, user: &str, now: Instant) {
        let mut state = self.state();
        let source = network(source);
        let own = state.failures.remove(&Key::Both(source, user.to_owned()));
        for key in [Key::Source(source), Key::User(user.to_owned())] {
            if let (Some(failures), Some(own)) = (state.failures.get_mut(&key), own) {
                failures.count = failures.count.saturating_sub(own.count);
            }
        }
        if state.known.len() >= MAX_KNOWN {
            let oldest = state.known.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
            oldest.map(|key| state.known.remove(&key));
        }
        state.known.insert((source, user.to_owned()), now);
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.state().failures.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self, key: &Key, now: Instant) -> Duration {
        let Some(failures) = self.failures.get(key) else { return Duration::ZERO };
        let Some(over) = failures.count.checked_sub(key.free()) else { return Duration::ZERO };
        let wait = FIRST.saturating_mul(1 << over.min(16)).min(LONGEST);
        wait.saturating_sub(now.saturating_duration_since(failures.last))
    }

    fn count(&mut self, key: Key, now: Instant) -> u32 {
        if self.failures.len() >= MAX_KEYS && !self.failures.contains_key(&key) {
            self.make_room(now);
        }
        let failures = self.failures.entry(key).or_insert(Failures { count: 0, last: now });
        if now.saturating_duration_since(failures.last) > FORGOTTEN {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        failures.count
    }

    /// Forgets what is old, and an eighth of all in any case, so that it is seldom needed.
    fn make_room(&mut self, now: Instant) {
        self.failures.retain(|_, f| now.saturating_duration_since(f.last) <= FORGOTTEN);
        if self.failures.len() < MAX_KEYS {
            return;
        }
        let mut times: Vec<Instant> =
            self.failures.values().map(|failures| failures.last).collect();
        let place = times.len() / 8;
        let (_, limit, _) = times.select_nth_unstable(place);
        let limit = *limit;
        self.failures.retain(|_, failures| failures.last > limit);
    }
}

impl Key {
    /// Failures that cost nothing.
    fn free(&self) -> u32 {
        match self {
            Self::Source(source) if source.is_loopback() => FREE_OVER_LOOPBACK,
            _ => FREE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn guessing_costs_ever_more_time_and_waiting_ends_it() {
        let throttle = Throttle::default();
        let (source, mut now) = (ip("192.0.2.1"), Instant::now());
        for _ in 0..FREE {
            assert_eq!(throttle.check(source, Some("ada"), now), Ok(()));
            throttle.failed(source, Some("ada"), now);
        }
        assert_eq!(throttle.check(source, Some("bob"), now), Err(FIRST), "whoever it tries to be");
        assert_eq!(throttle.check(ip("192.0.2.2"), Some("ada"), now), Err(FIRST), "from anywhere");
        assert_eq!(throttle.check(ip("192.0.2.2"), Some("bob"), now), Ok(()));
        now += FIRST;
        assert_eq!(throttle.check(source, Some("ada"), now), Ok(()));
        for _ in 0..40 {
            throttle.failed(source, Some("ada"), now);
        }
        assert_eq!(throttle.check(source, Some("ada"), now), Err(LONGEST));
        now += FORGOTTEN + FIRST;
        throttle.failed(source, Some("ada"), now);
        assert_eq!(throttle.check(source, Some("ada"), now), Ok(()), "long ago is forgotten");
    }

    #[test]
    fn guessing_does_not_lock_out_a_user_who_is_known() {
        let throttle = Throttle::default();
        let (now, home) = (Instant::now(), ip("2001:db8::1"));
        throttle.succeeded(home, "ada", now);
        for last in 0..100_u16 {
            throttle.failed(ip(&format!("2001:db8:{last:x}:1::7")), Some("ada"), now);
        }
        assert_eq!(throttle.check(ip("2001:db8::2"), Some("ada"), now), Ok(()), "the same network");
        assert!(throttle.check(ip("2001:db8:f::1"), Some("ada"), now).is_err());
    }

    #[test]
    fn logging_in_does_not_pay_for_guesses_at_others() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for source in [ip("192.0.2.1"), ip("127.0.0.1")] {
            throttle.succeeded(source, "ada", now);
            for _ in 0..FREE {
                assert_eq!(throttle.check(source, Some("ada"), now), Ok(()));
                throttle.failed(source, Some("ada"), now);
                throttle.succeeded(source, "mallory", now);
            }
            assert_eq!(throttle.check(source, Some("ada"), now), Err(FIRST), "{source}");
        }
        assert_eq!(throttle.check(ip("127.0.0.1"), Some("bob"), now), Ok(()), "through a tunnel");
        assert_eq!(throttle.check(ip("192.0.2.1"), Some("bob"), now), Err(FIRST));
        throttle.succeeded(ip("192.0.2.1"), "ada", now);
        assert_eq!(throttle.check(ip("192.0.2.1"), Some("ada"), now), Ok(()), "they were ada's");
        for at in 0..FREE_OVER_LOOPBACK {
            throttle.failed(ip("127.0.0.1"), Some(&at.to_string()), now);
        }
        assert!(throttle.check(ip("127.0.0.1"), Some("bob"), now).is_err(), "that is too much");
        let mallory = throttle.check(ip("127.0.0.1"), Some("mallory"), now);
        assert_eq!(
            mallory,
            Ok(()),
            "who was there before waits for nobody's failures but their own"
        );
    }

    #[test]
    fn there_is_room_for_so_many() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..2 * MAX_KEYS as u32 {
            let at = now + Duration::from_millis(u64::from(number));
            throttle.failed(std::net::Ipv4Addr::from_bits(number).into(), None, at);
        }
        assert!((MAX_KEYS / 2..=MAX_KEYS).contains(&throttle.len()), "{}", throttle.len());
    }
}
