//! Who is logged in: in memory only, so that a restart logs everybody out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::secret::{self, Hash};
use super::users::User;

/// Sessions at a time.
const MAX_SESSIONS: usize = 2000;

/// Sessions of one user at a time; the one that was idle longest goes first.
const MAX_OF_USER: usize = 20;

/// The sessions.
#[derive(Debug)]
pub struct Sessions {
    idle: Duration,
    limit: Duration,
    open: Mutex<HashMap<Hash, Session>>,
}

#[derive(Debug)]
struct Session {
    shown: Arc<Shown>,
    version: u64,
    begun: Instant,
    last: Instant,
}

/// What a session is known by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The user.
    pub user: String,
    /// What requests that change something have to bring as well.
    pub csrf: String,
    hash: Hash,
}

impl Sessions {
    /// None yet; each ends after `idle` without a request, and after `limit`.
    pub fn new(idle: Duration, limit: Duration) -> Self {
        Self { idle, limit, open: Mutex::default() }
    }

    /// Begins a session. Returns what its cookie says.
    ///
    /// # Errors
    ///
    /// That the kernel has no random numbers.
    pub fn begin(&self, user: &User) -> Result<(String, Arc<Shown>), String> {
        let cookie = secret::new()?;
        let hash = secret::hash(&cookie).ok_or("a secret is too long")?;
        let shown = Arc::new(Shown { user: user.name.clone(), csrf: secret::new()?, hash });
        let now = Instant::now();
        let mut open = self.open();
        open.retain(|_, session| self.is_open(session, now));
        let of_user = |open: &HashMap<Hash, Session>| {
            open.values().filter(|session| session.shown.user == user.name).count()
        };
        while of_user(&open) >= MAX_OF_USER {
            remove_oldest(&mut open, |session| session.shown.user == user.name);
        }
        while open.len() >= MAX_SESSIONS {
            remove_oldest(&mut open, |_| true);
        }
        let version = user.version;
        open.insert(hash, Session { shown: Arc::clone(&shown), version, begun: now, last: now });
        Ok((cookie, shown))
    }

    /// The session of a cookie, if it is open, and since which change of its user. It counts as used where
    /// a person asks, `by_itself` where a page asks again by itself.
    pub fn find(&self, cookie: &str, by_itself: bool) -> Option<(Arc<Shown>, u64)> {
        let hash = secret::hash(cookie)?;
        let now = Instant::now();
        let mut open = self.open();
        let session = open.get_mut(&hash)?;
        if !self.is_open(session, now) {
            open.remove(&hash);
            return None;
        }
        if !by_itself {
            session.last = now;
        }
        Some((Arc::clone(&session.shown), session.version))
    }

    /// In how many seconds a session is over if nothing is asked any more.
    pub fn left(&self, session: &Shown) -> Duration {
        let open = self.open();
        let Some(session) = open.get(&session.hash) else { return Duration::ZERO };
        let idle = self.idle.saturating_sub(session.last.elapsed());
        idle.min(self.limit.saturating_sub(session.begun.elapsed()))
    }

    /// Whether a session is open, and begun or renewed after the latest change of its user.
    pub fn is_of(&self, session: &Shown, user: &User) -> bool {
        let open = self.open();
        let session = open.get(&session.hash);
        session.is_some_and(|s| s.version == user.version && self.is_open(s, Instant::now()))
    }

    /// How long a session may last.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Ends a session.
    pub fn end(&self, session: &Shown) {
        self.open().remove(&session.hash);
    }

    /// Ends all sessions of a user but one.
    pub fn end_others(&self, user: &str, but: Option<&Shown>) {
        let but = but.map(|session| session.hash);
        self.open().retain(|hash, session| session.shown.user != user || Some(*hash) == but);
    }

    /// A session goes on although its user was changed: by the user, here.
    pub fn renew(&self, session: &Shown, version: u64) {
        if let Some(session) = self.open().get_mut(&session.hash) {
            session.version = version;
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        let now = Instant::now();
        self.open().values().filter(|session| self.is_open(session, now)).count()
    }

    fn is_open(&self, session: &Session, now: Instant) -> bool {
        now.duration_since(session.last) < self.idle
            && now.duration_since(session.begun) < self.limit
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Hash, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_oldest(open: &mut HashMap<Hash, Session>, of: impl Fn(&Session) -> bool) {
    let oldest = open.iter().filter(|(_, session)| of(session)).min_by_key(|(_, s)| s.last);
    if let Some(hash) = oldest.map(|(hash, _)| *hash) {
        open.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Role, users::Users};
    use super::*;

    fn user() -> User {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let made = Users::new(folder.path()).add("ada", Role::Viewer, "correct horse");
        made.unwrap_or_else(|e| panic!("{e:?}"))
    }

    #[test]
    fn sessions_end_when_they_are_idle_and_when_they_are_old() {
        let hour = Duration::from_secs(3600);
        for (idle, limit) in [(Duration::ZERO, hour), (hour, Duration::ZERO)] {
            let sessions = Sessions::new(idle, limit);
            let (cookie, _) = sessions.begin(&user()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(sessions.find(&cookie, false), None, "{idle:?} {limit:?}");
            assert_eq!(sessions.count(), 0);
        }
    }

    #[test]
    fn who_watches_and_asks_nothing_is_as_idle_as_anybody() {
        let idle = Duration::from_millis(30);
        let sessions = Sessions::new(idle, Duration::from_secs(60));
        let ada = user();
        let (_, shown) = sessions.begin(&ada).unwrap_or_else(|e| panic!("{e}"));
        assert!(sessions.is_of(&shown, &ada));
        std::thread::sleep(idle);
        assert_eq!(sessions.left(&shown), Duration::ZERO, "nothing has asked for it meanwhile");
        assert!(!sessions.is_of(&shown, &ada));
    }

    #[test]
    fn a_page_that_asks_by_itself_keeps_no_session_open() {
        let idle = Duration::from_millis(200);
        let sessions = Sessions::new(idle, Duration::from_secs(60));
        let (cookie, _) = sessions.begin(&user()).unwrap_or_else(|e| panic!("{e}"));
        let begun = std::time::Instant::now();
        while begun.elapsed() < idle {
            std::thread::sleep(Duration::from_millis(20));
            let _ = sessions.find(&cookie, true);
        }
        assert_eq!(sessions.find(&cookie, false), None);
    }

    #[test]
    fn a_user_has_so_many_sessions_and_each_can_be_ended() {
        let sessions = Sessions::new(Duration::from_secs(60), Duration::from_secs(60));
        let user = user();
        let begin = || sessions.begin(&user).unwrap_or_else(|e| panic!("{e}"));
        let (first, _) = begin();
        let (mut cookies, mut all) = (Vec::new(), Vec::new());
        for _ in 0..MAX_OF_USER {
            let (cookie, shown) = begin();
            cookies.push(cookie);
            all.push(shown);
        }
        assert_eq!(sessions.count(), MAX_OF_USER);
        assert_eq!(sessions.find(&first, false), None, "the oldest made room");
        assert!(sessions.find(&cookies[0], false).is_some_and(|(shown, _)| shown == all[0]));
        sessions.end(&all[0]);
        assert_eq!(sessions.find(&cookies[0], false), None);
        sessions.end_others("ada", Some(&all[1]));
        assert_eq!((sessions.count(), sessions.find(&cookies[2], false)), (1, None));
        assert!(sessions.find(&cookies[1], false).is_some());
        assert_eq!(sessions.find("another", false), None);
    }
}
