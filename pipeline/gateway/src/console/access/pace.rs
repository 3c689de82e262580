//! How often one user may change what the audit log has an entry for, without the gateway being asked: the
//! log has room for so many entries, and nobody is to push out what others did.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Changes of one user within [`WITHIN`].
const MOST: usize = 60;
const WITHIN: Duration = Duration::from_secs(3600);

/// When each user changed something.
#[derive(Debug, Default)]
pub struct Pace {
    changes: Mutex<HashMap<String, VecDeque<Instant>>>,
}

impl Pace {
    /// One more change of `user`, who has to exist: users are bounded, and others are not forgotten.
    ///
    /// # Errors
    ///
    /// How long to wait.
    pub fn change(&self, user: &str, now: Instant) -> Result<(), Duration> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WITHIN;
        changes.retain(|_, times| times.back().is_some_and(is_recent));
        let times = changes.entry(user.to_owned()).or_default();
        while times.front().is_some_and(|at| !is_recent(at)) {
            times.pop_front();
        }
        if let (true, Some(first)) = (times.len() >= MOST, times.front()) {
            return Err(WITHIN.saturating_sub(now.saturating_duration_since(*first)));
        }
        times.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_so_many_changes_an_hour() {
        let (pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..MOST {
            assert_eq!(pace.change("ada", now), Ok(()));
            now += Duration::from_secs(1);
        }
        let first_is_over = WITHIN - Duration::from_secs(MOST as u64);
        assert_eq!(pace.change("ada", now), Err(first_is_over));
        assert_eq!(pace.change("bob", now), Ok(()), "others have their own");
        now += first_is_over;
        assert_eq!(pace.change("ada", now), Ok(()));
        assert_eq!(pace.change("ada", now), Err(Duration::from_secs(1)), "one at a time");
        now += WITHIN;
        assert_eq!(pace.change("bob", now), Ok(()));
        let changes = pace.changes.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(changes.len(), 1, "who rests is forgotten");
    }
}
