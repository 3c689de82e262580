//! What was denied since the lockdown, and what to make of it: learnt in the background, kept, and asked for
//! by many pages.
//!
//! Learning takes a core for seconds to minutes. So there is one run at a time in the process, that of
//! proposals included; a page gets what was made last until its successor is there, and a run is not
//! followed by the next one before twenty times its length is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Console;
use super::api::policy::in_force;
use super::model::Picture;
use super::problem::Problem;
use super::proposals::{refused, surroundings};
use crate::drift::{self, DriftReport};
use crate::learning::report::{Range, Reader};

/// Reports that are kept: the latest of each time that was asked for.
const MAX_KEPT: usize = 8;

/// How long a report is good at least, and how many times as long as its making took.
const LEAST: Duration = Duration::from_secs(20);
const SHARE: u32 = 20;

/// How long whoever asks waits for the first one.
const PATIENCE: Duration = Duration::from_secs(100);

/// The reports that were made.
#[derive(Debug, Default)]
pub struct Drifts(Mutex<Vec<Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    /// Since when, as it was asked for.
    since: Option<i64>,
    /// The picture that there was.
    of: Timestamp,
    made: Instant,
    took: Duration,
    report: Arc<DriftReport>,
}

impl Kept {
    fn is_good(&self, picture: &Picture) -> bool {
        self.of == picture.at || self.made.elapsed() < LEAST.max(self.took * SHARE)
    }
}

impl Drifts {
    fn latest(&self, since: Option<i64>) -> Option<Kept> {
        self.kept().iter().find(|kept| kept.since == since).cloned()
    }

    fn put(&self, new: Kept) {
        let mut kept = self.kept();
        kept.retain(|known| known.since != new.since);
        kept.truncate(MAX_KEPT - 1);
        kept.insert(0, new);
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was denied since `since` (Unix milliseconds), or since the first wire enforces.
///
/// # Errors
///
/// 409 where no wire enforces, 503 while it is being made for the first time, or where the store or the
/// policy in force is not to be had.
pub async fn report(
    console: &Arc<Console>,
    since: Option<i64>,
) -> Result<Arc<DriftReport>, Problem> {
    let picture = console.model.picture()?;
    let known = console.drifts.latest(since);
    if let Some(kept) = known.as_ref().filter(|kept| kept.is_good(&picture)) {
        return Ok(Arc::clone(&kept.report));
    }
    let later = |why: &str| match &known {
        Some(kept) => Ok(Arc::clone(&kept.report)),
        None => Err(Problem {
            retry_after_s: Some(10),
            ..Problem::unavailable(format!("{why}: ask again in a while"))
        }),
    };
    let shown = in_force(console)?.shown.clone();
    let Ok(place) = Arc::clone(&console.learning).try_acquire_owned() else {
        return later("a proposal, or another report, is being learnt");
    };
    let worker = Arc::clone(console);
    let run = tokio::task::spawn_blocking(move || {
        // Held until it is made, whether anybody waits for it still or not.
        let _place = place;
        let begun = Instant::now();
        let around = surroundings(&worker, &shown)?;
        let reader = Reader::open_path(&worker.settings.store, Range::ALL);
        let reader = reader.map_err(|error| Problem::unavailable(error.to_string()))?;
        let report = Arc::new(drift::of(reader, &around, since).map_err(refused)?);
        let (made, took) = (Instant::now(), begun.elapsed());
        let kept = Kept { since, of: picture.at, made, took, report: Arc::clone(&report) };
        worker.drifts.put(kept);
        Ok(report)
    });
    match tokio::time::timeout(PATIENCE, run).await {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => Err(Problem::internal(format!("learning failed: {error}"))),
        Err(_) => later("this is being learnt"),
    }
}
