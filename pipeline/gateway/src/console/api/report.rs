//! The evidence report, as `bulkhead report --format json` has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Params;
use super::flows::range;
use crate::console::Console;
use crate::console::problem::Problem;
use crate::console::proposals::refused;
use crate::learning::report::Range;
use crate::report::Report;
use crate::report::collect::{Inputs, collect_from};

/// How long whoever asks waits for a report.
const PATIENCE: Duration = Duration::from_secs(100);

/// A report that took so long is kept, for as many times as long.
const SLOW: Duration = Duration::from_secs(3);
const SHARE: u32 = 10;

/// The latest report that took long: who asks again has it, and others who ask for the same.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    range: Range,
    made: Instant,
    took: Duration,
    report: Arc<Report>,
}

impl Reports {
    fn find(&self, range: Range) -> Option<Arc<Report>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = |kept: &&Kept| kept.range == range && kept.made.elapsed() < kept.took * SHARE;
        kept.as_ref().filter(is_good).map(|kept| Arc::clone(&kept.report))
    }

    fn put(&self, kept: Kept) {
        if kept.took > SLOW {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
    }
}

/// Which time a report looks at.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportQuery {
    /// Only what was observed and changed since then.
    #[param(format = DateTime)]
    pub since: Option<String>,
    /// Only what was observed and changed before then.
    #[param(format = DateTime)]
    pub until: Option<String>,
}

/// Evidence of what the gateway does
///
/// As `bulkhead report --format json` prints it: asked of the gateway, read in the communication store, or
/// computed from the policy. What could not be had is listed under `unavailable`, what it does not show
/// under `not-shown`. One is made at a time; where that takes long the answer is 503, and the report once it
/// is there: `made` says of when it is.
#[utoipa::path(get, path = "/report", operation_id = "report", tag = "audit",
    params(ReportQuery),
    responses((status = 200, description = "The report", body = Report)))]
pub async fn report(
    State(console): State<Arc<Console>>,
    Params(query): Params<ReportQuery>,
) -> Result<Json<Report>, Problem> {
    let range = range(query.since.as_deref(), query.until.as_deref())?;
    let range = range.map_or(Range::ALL, |(since_ms, until_ms)| Range { since_ms, until_ms });
    if let Some(report) = console.made_reports.find(range) {
        return Ok(Json((*report).clone()));
    }
    let place = Arc::clone(&console.reports).try_acquire_owned();
    let place = place.map_err(|_| Problem::too_many("another report is being made", 5))?;
    let made = tokio::task::spawn_blocking(move || {
        // Held until it is made, whether anybody waits for it still or not.
        let _place = place;
        let begun = Instant::now();
        let settings = &console.settings;
        let config = settings.config.as_ref();
        let report = collect_from(&Inputs {
            config: config.ok_or_else(|| "the console was started without one".to_owned()),
            socket: Some(&settings.socket),
            store: Some(&settings.store),
            range,
        });
        let report = Arc::new(report.map_err(refused)?);
        let (made, took, kept) = (Instant::now(), begun.elapsed(), Arc::clone(&report));
        console.made_reports.put(Kept { range, made, took, report: kept });
        Ok(report)
    });
    match tokio::time::timeout(PATIENCE, made).await {
        Ok(Ok(made)) => made.map(|report| Json((*report).clone())),
        Ok(Err(error)) => Err(Problem::internal(error.to_string())),
        Err(_) => Err(Problem {
            retry_after_s: Some(10),
            ..Problem::unavailable("the report is being made, of much: ask again in a while")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_kept_for_a_while_and_for_the_same_time() {
        let reports = Reports::default();
        let put = |took: Duration, made: Instant| {
            let report = Arc::new(Report::default());
            reports.put(Kept { range: Range::ALL, made, took, report });
        };
        put(SLOW, Instant::now());
        assert!(reports.find(Range::ALL).is_none(), "the next one is made as quickly");
        put(2 * SLOW, Instant::now());
        assert!(reports.find(Range::ALL).is_some());
        assert!(reports.find(Range { since_ms: 0, ..Range::ALL }).is_none());
        if let Some(long_ago) = Instant::now().checked_sub(2 * SLOW * SHARE) {
            put(2 * SLOW, long_ago);
            assert!(reports.find(Range::ALL).is_none(), "it is old");
        }
    }
}
