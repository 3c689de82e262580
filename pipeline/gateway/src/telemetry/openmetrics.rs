//! OpenMetrics 1.0, the text format that Prometheus asks for first, over the families of a scrape.
//!
//! It differs from Prometheus' own text format in what an exposition promises: the family of a counter
//! is named without `_total`, a unit is declared, numbers have one spelling, and `# EOF` ends it, so
//! that a scrape that was cut off cannot be mistaken for a whole one.

use std::fmt::{self, Write as _};

use prometheus::proto::{Histogram, LabelPair, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

/// The text formats of `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// The units of the names of our metrics, which end in them.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

impl Format {
    /// What a client prefers who sends this `Accept` header (RFC 9110, section 12.5.1). Prometheus'
    /// format is for everybody who does not ask for OpenMetrics 1.0 at least as much.
    pub fn accepted(header: &str) -> Self {
        let (mut open, mut plain) = (0, 0);
        for range in header.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1000, None);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some((key, value)) if key.eq_ignore_ascii_case("q") => {
                        weight = per_mille(value)
                    }
                    Some((key, value)) if key.eq_ignore_ascii_case("version") => {
                        version = Some(value.trim_matches('"'));
                    }
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if version.is_none_or(|v| v == "1.0.0") => {
                    open = open.max(weight);
                }
                "text/plain" => plain = plain.max(weight),
                _ => {}
            }
        }
        if open > 0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The media type of an answer in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The families in this format.
    ///
    /// # Errors
    ///
    /// When a name, a label or a type breaks the format: a defect.
    pub(super) fn encode(self, families: &[MetricFamily]) -> prometheus::Result<String> {
        let failed = |error: &dyn fmt::Display| prometheus::Error::Msg(error.to_string());
        match self {
            Self::Prometheus => {
                let mut bytes = Vec::new();
                TextEncoder::new().encode(families, &mut bytes)?;
                String::from_utf8(bytes).map_err(|error| failed(&error))
            }
            Self::OpenMetrics => {
                let mut out = String::new();
                families
                    .iter()
                    .try_for_each(|one| family(&mut out, one))
                    .map_err(|e| failed(&e))?;
                out.push_str("# EOF\n");
                Ok(out)
            }
        }
    }
}

/// A weight of RFC 9110, from `0` to `1` with at most three decimals; what is none counts as 0.
fn per_mille(text: &str) -> u32 {
    let weight: f64 = text.trim().parse().unwrap_or(0.0);
    (weight.clamp(0.0, 1.0) * 1000.0) as u32
}

fn family(out: &mut String, family: &MetricFamily) -> fmt::Result {
    let kind = family.get_field_type();
    let (name, kind_word) = match (kind, family.name()) {
        (MetricType::COUNTER, name) => (name.strip_suffix("_total").ok_or(fmt::Error)?, "counter"),
        (MetricType::GAUGE, name) => match name.strip_suffix("_info") {
            Some(stem) => (stem, "info"),
            None => (name, "gauge"),
        },
        (MetricType::HISTOGRAM, name) => (name, "histogram"),
        _ => return Err(fmt::Error),
    };
    writeln!(out, "# TYPE {name} {kind_word}")?;
    let unit =
        UNITS.iter().find(|unit| name.strip_suffix(**unit).is_some_and(|n| n.ends_with('_')));
    if let Some(unit) = unit {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    if !family.help().is_empty() {
        writeln!(out, "# HELP {name} {}", Escaped(family.help()))?;
    }
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match kind {
            MetricType::COUNTER => {
                let value = metric.get_counter().get_value();
                sample(out, (name, "_total"), labels, None, value)?;
            }
            MetricType::HISTOGRAM => histogram(out, name, labels, metric.get_histogram())?,
            _ => sample(out, (family.name(), ""), labels, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

/// Buckets up to `+Inf`, count and sum.
fn histogram(
    out: &mut String,
    name: &str,
    labels: &[LabelPair],
    histogram: &Histogram,
) -> fmt::Result {
    let count = histogram.get_sample_count();
    for bucket in histogram.get_bucket() {
        let bound = bucket.upper_bound();
        let within = bucket.cumulative_count() as f64;
        sample(out, (name, "_bucket"), labels, Some(bound), within)?;
    }
    sample(out, (name, "_bucket"), labels, Some(f64::INFINITY), count as f64)?;
    sample(out, (name, "_count"), labels, None, count as f64)?;
    sample(out, (name, "_sum"), labels, None, histogram.get_sample_sum())
}

fn sample(
    out: &mut String,
    (name, suffix): (&str, &str),
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    let mut separator = '{';
    for label in labels {
        write!(out, "{separator}{}=\"{}\"", label.name(), Escaped(label.value()))?;
        separator = ',';
    }
    if let Some(bound) = bound {
        write!(out, "{separator}le=\"{}\"", Bound(bound))?;
        separator = ',';
    }
    let end = if separator == ',' { "}" } else { "" };
    writeln!(out, "{end} {}", Number(value))
}

/// Text in which what would end it early is escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A value. Counts stay whole numbers.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value}"),
        }
    }
}

/// The bound of a bucket in its canonical form, by which series stay the same whoever exposes them:
/// `1.0`, `0.0001`, `5e-06`, `1e+06`, `+Inf`.
struct Bound(f64);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bounds are products of a whole number and a unit: what is beyond twelve digits is rounding.
        let scientific = format!("{:.11e}", self.0);
        let Some((digits, exponent)) = scientific.split_once('e') else {
            return Number(self.0).fmt(f);
        };
        let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
        if (-4..6).contains(&exponent) {
            let value: f64 = scientific.parse().map_err(|_| fmt::Error)?;
            // Debug output keeps `.0` on whole numbers.
            return write!(f, "{value:?}");
        }
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{digits}e{sign}{:02}", exponent.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::super::families::Families;
    use super::*;

    #[test]
    fn what_prometheus_asks_for_is_what_it_gets() {
        use Format::{OpenMetrics, Prometheus};
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                            version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (header, expected) in [
            (prometheus_2, OpenMetrics),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.3", OpenMetrics),
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/plain", Prometheus),
            ("text/plain, application/openmetrics-text;q=0.9", Prometheus),
            ("application/openmetrics-text;q=0, */*", Prometheus),
            ("application/openmetrics-text;q=x", Prometheus),
            ("application/openmetrics-text; version=0.0.1", Prometheus),
            (";;,=,q=1;q=", Prometheus),
        ] {
            assert_eq!(Format::accepted(header), expected, "{header}");
        }
    }

    #[test]
    fn an_exposition_has_types_units_one_spelling_and_an_end() {
        let mut recorded = Histogram::<u64>::new_with_bounds(1, 1_000_000, 2).unwrap();
        recorded.record(3000).unwrap();
        let mut families = Families::default();
        families.counter("a_total", "Says \"a\\b\".\nTwice.").add(&[("wire", "x\"\\\n")], 3.0);
        families.gauge("b_info", "").add(&[("version", "1")], 1.0);
        families.gauge("c_bytes", "C.").add(&[], 1.5e12);
        families.gauge("megabytes", "Not a unit.").add(&[], f64::NAN);
        let mut family = families.histogram("d_seconds", "D.");
        family.add_histogram(&[], &recorded, &[1000, 5000, 1_000_000_000], 1e-9);
        let text = Format::OpenMetrics.encode(&families.finish()).unwrap();
        let expected = r#"# TYPE bulkhead_a counter
# HELP bulkhead_a Says \"a\\b\".\nTwice.
bulkhead_a_total{wire="x\"\\\n"} 3
# TYPE bulkhead_b info
bulkhead_b_info{version="1"} 1
# TYPE bulkhead_c_bytes gauge
# UNIT bulkhead_c_bytes bytes
# HELP bulkhead_c_bytes C.
bulkhead_c_bytes 1500000000000
# TYPE bulkhead_d_seconds histogram
# UNIT bulkhead_d_seconds seconds
# HELP bulkhead_d_seconds D.
bulkhead_d_seconds_bucket{le="1e-06"} 0
bulkhead_d_seconds_bucket{le="5e-06"} 1
bulkhead_d_seconds_bucket{le="1.0"} 1
bulkhead_d_seconds_bucket{le="+Inf"} 1
bulkhead_d_seconds_count 1
"#;
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.ends_with(
                "# HELP bulkhead_megabytes Not a unit.\nbulkhead_megabytes NaN\n# EOF\n"
            )
        );
    }

    #[test]
    fn bounds_are_spelt_as_every_exposer_spells_them() {
        for (bound, expected) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (64.0, "64.0"),
            (2_000.0 * 1e-9, "2e-06"),
            (20_000.0 * 1e-9, "2e-05"),
            (5_000_000.0 * 1e-9, "0.005"),
            (0.0001, "0.0001"),
            (1e6, "1e+06"),
            (1.25e-7, "1.25e-07"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(Bound(bound).to_string(), expected);
        }
    }
}
