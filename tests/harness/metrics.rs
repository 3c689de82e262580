//! What the gateway says that it did, and whether that adds up.

use std::collections::BTreeMap;

/// One scrape of `/metrics`.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Clone, PartialEq, Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the Prometheus text format.
    ///
    /// # Panics
    ///
    /// On a line that is none of it.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            Series::parse(line).unwrap_or_else(|| panic!("not a line of metrics: {line}"))
        });
        Self { series: series.collect() }
    }

    /// The sum of the series with this name that carry all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|series| series.value).sum()
    }

    /// The same as a whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name}{labels:?} is no count: {sum}");
        sum as u64
    }

    /// The buckets of a histogram, summed over its series: upper bounds, rising, and how many values are
    /// not above them.
    pub fn buckets(&self, name: &str) -> Vec<(f64, u64)> {
        let name = format!("{name}_bucket");
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for series in self.matching(&name, &[]) {
            let bound = series
                .labels
                .get("le")
                .and_then(|bound| bound.trim_start_matches('+').parse().ok());
            let Some(bound) = bound else { continue };
            match buckets.iter_mut().find(|(b, _)| *b == bound) {
                Some((_, count)) => *count += series.value as u64,
                None => buckets.push((bound, series.value as u64)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }

    /// Whether there is such a series at all.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// Drops by reason, those above zero.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for series in self.matching(DROPS, &[]) {
            let reason = series.labels.get("reason").cloned().unwrap_or_default();
            *drops.entry(reason).or_default() += series.value as u64;
        }
        drops.retain(|_, count| *count > 0);
        drops
    }

    /// Hits of one rule.
    pub fn rule_hits(&self, rule: &str) -> u64 {
        self.count("bulkhead_rule_hits_total", &[("rule", rule)])
    }

    /// Frames that the workers received.
    pub fn received(&self) -> u64 {
        self.count("bulkhead_received_packets_total", &[])
    }

    /// Frames that they transmitted.
    pub fn transmitted(&self) -> u64 {
        self.count("bulkhead_transmitted_packets_total", &[])
    }

    /// Promise 2: `received + originated = transmitted + drops + held`, exactly; and no frame was
    /// left undecided.
    ///
    /// # Panics
    ///
    /// When it does not hold.
    pub fn assert_accounted(&self) {
        let originated = self.count("bulkhead_originated_packets_total", &[]);
        let held = self.count("bulkhead_held_packets", &[]);
        let drops = self.drops();
        let dropped: u64 = drops.values().sum();
        assert_eq!(
            self.received() + originated,
            self.transmitted() + dropped + held,
            "received {} + originated {originated} is not transmitted {} + dropped {drops:?} + held {held}",
            self.received(),
            self.transmitted(),
        );
        assert_eq!(drops.get("undecided"), None, "frames that no stage decided");
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| {
            series.name == name
                && labels.iter().all(|(k, v)| series.labels.get(*k).is_some_and(|have| have == v))
        })
    }
}

const DROPS: &str = "bulkhead_dropped_packets_total";

impl Series {
    fn parse(line: &str) -> Option<Self> {
        let (name, rest) = match line.split_once('{') {
            Some((name, rest)) => (name, rest),
            None => {
                let (name, value) = line.split_once(' ')?;
                let value = value.trim().parse().ok()?;
                return Some(Self { name: name.into(), labels: BTreeMap::new(), value });
            }
        };
        let mut labels = BTreeMap::new();
        let mut rest = rest;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(value) = rest.strip_prefix('}') {
                let value = value.trim().parse().ok()?;
                return Some(Self { name: name.into(), labels, value });
            }
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after;
        }
    }
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x y\n# TYPE x counter\n\
        bulkhead_dropped_packets_total{reason=\"policy\",wire=\"a,b}\"} 3\n\
        bulkhead_dropped_packets_total{reason=\"pause\"} 0\n\
        bulkhead_received_packets_total{port=\"in\\\"0\"} 5\n\
        bulkhead_transmitted_packets_total 2\n\
        bulkhead_x_bucket{le=\"+Inf\",v=\"a\"} 4\nbulkhead_x_bucket{le=\"0.1\",v=\"a\"} 3\n\
        bulkhead_x_bucket{le=\"0.1\",v=\"b\"} 1\n";

    #[test]
    fn buckets_are_summed_and_in_order() {
        assert_eq!(Metrics::parse(TEXT).buckets("bulkhead_x"), [(0.1, 4), (f64::INFINITY, 4)]);
    }

    #[test]
    fn labels_may_hold_what_separates_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.count(DROPS, &[("wire", "a,b}")]), 3);
        assert!(metrics.has("bulkhead_received_packets_total", &[("port", "in\"0")]));
        assert_eq!(metrics.drops(), BTreeMap::from([("policy".to_owned(), 3)]));
        metrics.assert_accounted();
    }

    #[test]
    #[should_panic(expected = "is not transmitted")]
    fn a_lost_frame_is_found() {
        Metrics::parse(&TEXT.replace("total 2", "total 1")).assert_accounted();
    }
}
