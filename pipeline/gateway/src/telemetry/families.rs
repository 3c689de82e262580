//! Metric families out of numbers that live elsewhere.

use hdrhistogram::Histogram;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as ProtoHistogram, LabelPair, Metric, MetricFamily,
    MetricType,
};

/// The families of one scrape.
#[derive(Default)]
pub(super) struct Families(pub(super) Vec<MetricFamily>);

/// One family under construction.
pub(super) struct Family<'a> {
    family: &'a mut MetricFamily,
    kind: MetricType,
}

impl Families {
    /// A family of counters; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::COUNTER)
    }

    /// A family of gauges.
    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::GAUGE)
    }

    /// A family of histograms.
    pub(super) fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::HISTOGRAM)
    }

    /// The families that say anything, in the order of their names.
    pub(super) fn finish(mut self) -> Vec<MetricFamily> {
        self.0.retain(|family| !family.get_metric().is_empty());
        self.0.sort_by(|a, b| a.name().cmp(b.name()));
        self.0
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> Family<'_> {
        let mut family = MetricFamily::default();
        family.set_name(format!("bulkhead_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.0.push(family);
        let last = self.0.len() - 1;
        Family { family: &mut self.0[last], kind }
    }
}

impl Family<'_> {
    /// Adds a sample of a counter or a gauge.
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let mut metric = Metric::from_label(pairs(labels));
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
        self
    }

    /// Adds a histogram with the buckets `bounds`; recorded values times `unit` are what is shown.
    pub(super) fn add_histogram(
        &mut self,
        labels: &[(&str, &str)],
        recorded: &Histogram<u64>,
        bounds: &[u64],
        unit: f64,
    ) -> &mut Self {
        let mut cumulative = vec![0; bounds.len()];
        let mut sum = 0.0;
        for step in recorded.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), step.count_at_value());
            sum += recorded.median_equivalent(value) as f64 * count as f64;
            // A recorded value stands for a range; it counts where the range begins.
            let least = recorded.lowest_equivalent(value);
            let first = bounds.partition_point(|&bound| bound < least);
            if let Some(bucket) = cumulative.get_mut(first) {
                *bucket += count;
            }
        }
        let mut total = 0;
        let buckets = bounds.iter().zip(cumulative).map(|(&bound, count)| {
            total += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound as f64 * unit);
            bucket.set_cumulative_count(total);
            bucket
        });
        let mut histogram = ProtoHistogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(recorded.len());
        histogram.set_sample_sum(sum * unit);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.family.mut_metric().push(metric);
        self
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_the_last_one_holds_all() {
        let mut recorded = Histogram::<u64>::new_with_bounds(1, 1_000_000, 2).unwrap();
        for value in [1, 10, 10, 500, 900_000] {
            recorded.record(value).unwrap();
        }
        let mut families = Families::default();
        let mut family = families.histogram("x_seconds", "x");
        family.add_histogram(&[("worker", "0")], &recorded, &[1, 10, 100, 1000], 1e-9);
        let families = families.finish();
        let histogram = families[0].get_metric()[0].get_histogram();
        let counts: Vec<u64> =
            histogram.get_bucket().iter().map(Bucket::cumulative_count).collect();
        assert_eq!(counts, [1, 3, 3, 4]);
        assert_eq!(histogram.get_sample_count(), 5);
        assert!((histogram.get_sample_sum() - 900_521e-9).abs() < 10_000e-9);
    }
}
