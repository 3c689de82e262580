//! What the panels say, without where: rows of text and their order.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::Sort;
use super::model::Model;
use crate::status::{Counted, Status, duration};

/// A row of something counted.
#[derive(Clone, PartialEq, Debug)]
pub struct CountedRow {
    /// What.
    pub name: String,
    /// How often in a second; none where that is not known yet.
    pub rate: Option<f64>,
    /// How often since the start.
    pub total: u64,
    /// Whether it is what an observing wire would do.
    pub would: bool,
}

/// Counts with their rates, in an order.
pub fn counted(
    counts: &[Counted],
    rates: &BTreeMap<String, f64>,
    would: bool,
    sort: Sort,
) -> Vec<CountedRow> {
    let row = |counted: &Counted| CountedRow {
        name: counted.name.clone(),
        rate: rates.get(&counted.name).copied(),
        total: counted.count,
        would,
    };
    let mut rows: Vec<CountedRow> = counts.iter().map(row).collect();
    sort_rows(&mut rows, sort);
    rows
}

/// Drops, and what would be dropped, in one order.
pub fn verdicts(model: &Model, status: &Status, sort: Sort) -> Vec<CountedRow> {
    let mut rows = counted(&status.drops, &model.rates.drops, false, sort);
    rows.extend(counted(&status.would_drop, &model.rates.would_drops, true, sort));
    sort_rows(&mut rows, sort);
    rows
}

fn sort_rows(rows: &mut [CountedRow], sort: Sort) {
    let by_total = |a: &CountedRow, b: &CountedRow| b.total.cmp(&a.total);
    let by_name = |a: &CountedRow, b: &CountedRow| a.name.cmp(&b.name);
    rows.sort_by(|a, b| match sort {
        Sort::Rate => {
            let rates = b.rate.unwrap_or(0.0).partial_cmp(&a.rate.unwrap_or(0.0));
            rates
                .unwrap_or(Ordering::Equal)
                .then_with(|| by_total(a, b))
                .then_with(|| by_name(a, b))
        }
        Sort::Total => by_total(a, b).then_with(|| by_name(a, b)),
        Sort::Name => by_name(a, b).then_with(|| a.would.cmp(&b.would)),
    });
}

/// One line for one look.
pub fn line(model: &Model, at: Duration) -> String {
    if let Some((since, why)) = &model.gone {
        let silent = duration(at.saturating_sub(*since).as_secs());
        let bypassed = model.bypassed.as_ref().map(|by| format!("; {}", by.describe()));
        return format!("gone for {silent}: {why}{}", bypassed.unwrap_or_default());
    }
    let Some(status) = &model.status else { return "nothing is known yet".to_owned() };
    let r = &model.rates;
    let alarms = status.attention.iter().filter(|attention| attention.alarm).count();
    format!(
        "{} {} in {} {} forwarded {} dropped {} would-drop {} flows {} p99 {} busy {} alarms {alarms} \
         policy {}",
        time_of_day(status.unix_ms),
        if status.ready { "guarding" } else { "NOT-READY" },
        per_second(r.received),
        bits(r.received_bits),
        per_second(r.forwarded),
        per_second(r.dropped),
        per_second(r.would_drop),
        status.flows.open,
        time_ns(status.latency.p99_ns),
        percent(busiest(status)),
        status.policy.as_ref().map_or("none", |policy| short(&policy.hash)),
    )
}

/// The load of the busiest worker over the last second, from 0 to 1.
pub fn busiest(status: &Status) -> f64 {
    status.workers.iter().map(|worker| worker.busy_now).fold(0.0, f64::max)
}

/// The first digits of a hash.
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// The time of the day, UTC.
pub fn time_of_day(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A number with three digits and its unit of a thousand.
pub fn si(value: f64) -> String {
    let mut value = value.max(0.0);
    for unit in ["", "k", "M", "G", "T"] {
        // What would be rounded to a thousand takes the next unit.
        if value < 999.5 {
            return match (unit, value) {
                ("", _) if value.fract() == 0.0 => format!("{value:.0}"),
                (_, v) if v < 9.995 => format!("{value:.2}{unit}"),
                (_, v) if v < 99.95 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}

/// Packets, or whatever, a second.
pub fn per_second(rate: f64) -> String {
    format!("{}/s", si(rate))
}

/// Bits a second.
pub fn bits(rate: f64) -> String {
    format!("{}bit/s", si(rate))
}

/// Nanoseconds as a person reads them.
pub fn time_ns(ns: u64) -> String {
    match ns {
        0..=999 => format!("{ns} ns"),
        1_000..=999_999 => format!("{:.1} us", ns as f64 / 1e3),
        _ => format!("{:.1} ms", ns as f64 / 1e6),
    }
}

/// A share as a person reads it.
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (7.25, "7.25"),
            (999.0, "999"),
            (999.6, "1.00k"),
            (1_234.0, "1.23k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (1e9, "1.00G"),
            (-1.0, "0"),
        ] {
            assert_eq!(si(value), text);
        }
        assert_eq!((time_ns(999).as_str(), time_ns(12_345).as_str()), ("999 ns", "12.3 us"));
        assert_eq!(time_of_day(1_795_500_000_000), "06:00:00Z");
    }

    #[test]
    fn rows_come_in_the_order_that_was_chosen() {
        let counts: Vec<Counted> = [("a", 1), ("b", 3), ("c", 2)]
            .map(|(name, count)| Counted { name: name.to_owned(), count })
            .into();
        let rates = BTreeMap::from([("c".to_owned(), 5.0), ("a".to_owned(), 1.0)]);
        let names = |sort| {
            let rows = counted(&counts, &rates, false, sort);
            rows.into_iter().map(|row| row.name).collect::<String>()
        };
        assert_eq!([Sort::Rate, Sort::Total, Sort::Name].map(names), ["cab", "bca", "abc"]);
    }
}
