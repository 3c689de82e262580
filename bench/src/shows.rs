//! What the classifier promises, and whether these figures keep it: a line for each promise.

use crate::report::Line;

/// A promise, and whether it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Show {
    /// In words, with the figure.
    pub text: String,
    /// Whether it is kept; [`None`] where there is nothing to compare with.
    pub kept: Option<bool>,
}

impl Show {
    /// As tables print it.
    pub fn line(&self) -> String {
        let mark = match self.kept {
            Some(true) => "kept",
            Some(false) => "MISSED",
            None => "open",
        };
        format!("{mark:<6} {}", self.text)
    }
}

const MIB: f64 = (1 << 20) as f64;

/// The promises that the lines are about.
pub fn shows(lines: &[Line]) -> Vec<Show> {
    let mut out = Vec::new();
    for line in lines {
        let name = format!("{} {}", line.set, line.family);
        if line.set.starts_with("segmentation") {
            segmentation(line, &name, &mut out);
        } else {
            lookups(line, lines, &name, &mut out);
            builds(line, &name, &mut out);
        }
        let text = format!("{name}: {} wrong of {}", line.wrong, line.wrong_checked_against);
        out.push(Show { text, kept: Some(line.wrong == 0) });
    }
    out
}

/// How large a set is: thousands of rules, rounded as their names are.
fn size(line: &Line) -> u32 {
    match line.rules {
        0..5_000 => 1,
        5_000..50_000 => 10,
        _ => 100,
    }
}

fn lookups(line: &Line, lines: &[Line], name: &str, out: &mut Vec<Show>) {
    let Line { ns_per_lookup: ours, ratio_to_fastest, .. } = line;
    if line.family == "v4" {
        let least = if size(line) == 1 { 1.5 } else { 2.0 };
        let text = match (ratio_to_fastest, &line.fastest_other) {
            (Some(ratio), Some(other)) => {
                format!(
                    "{name}: {ratio:.2} times the lookups of {other}, the fastest other; at least {least}"
                )
            }
            _ => format!(
                "{name}: {least} times the lookups of the fastest other, which is not measured"
            ),
        };
        out.push(Show { text, kept: ratio_to_fastest.map(|ratio| ratio >= least) });
        return;
    }
    let v4 = lines.iter().find(|other| other.set == line.set && other.family == "v4");
    let times = v4.map(|v4| ours / v4.ns_per_lookup);
    let text = match times {
        Some(times) => format!("{name}: {times:.2} times our IPv4 cost; at most 1.5"),
        None => format!("{name}: at most 1.5 times our IPv4 cost, which is not measured"),
    };
    out.push(Show { text, kept: times.map(|times| times <= 1.5) });
    if size(line) == 100 {
        let text = match line.ratio {
            Some(ratio) => {
                format!("{name}: {ratio:.2} times the lookups of librte_acl; at least 5")
            }
            None => format!("{name}: 5 times the lookups of librte_acl, which is not there"),
        };
        out.push(Show { text, kept: line.ratio.map(|ratio| ratio >= 5.0) });
    }
}

fn builds(line: &Line, name: &str, out: &mut Vec<Show>) {
    let most = match size(line) {
        1 => return,
        10 => 50.0,
        _ => 500.0,
    };
    out.push(Show {
        text: format!("{name}: built in {:.1} ms; under {most}", line.build_ms),
        kept: Some(line.build_ms < most),
    });
    if size(line) == 100 {
        within(line, name, 16.0, 256.0, out);
    }
}

fn segmentation(line: &Line, name: &str, out: &mut Vec<Show>) {
    if size(line) < 100 {
        return;
    }
    out.push(Show {
        text: format!(
            "{name}: built in {:.0} ms, read in {:.0}; under 1,000",
            line.build_ms, line.load_ms
        ),
        kept: Some(line.build_ms < 1_000.0),
    });
    within(line, name, 64.0, f64::INFINITY, out);
    out.push(Show {
        text: format!("{name}: {:.1} ns a lookup; at most 40", line.ns_per_lookup),
        kept: Some(line.ns_per_lookup <= 40.0),
    });
}

fn within(line: &Line, name: &str, size: f64, peak: f64, out: &mut Vec<Show>) {
    let (bytes, most) = (line.bytes as f64 / MIB, line.peak_bytes as f64 / MIB);
    out.push(Show {
        text: format!("{name}: {bytes:.1} MiB; under {size}"),
        kept: Some(bytes < size),
    });
    if peak.is_finite() {
        out.push(Show {
            text: format!("{name}: at most {most:.0} MiB while compiling; under {peak}"),
            kept: Some(most < peak),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(set: &str, rules: usize, family: &'static str, ns: f64) -> Line {
        Line { set: set.to_owned(), rules, family, ns_per_lookup: ns, ..Line::default() }
    }

    fn of(lines: &[Line], words: &str) -> Vec<Option<bool>> {
        let about = |show: &Show| show.text.contains(words);
        shows(lines).into_iter().filter(about).map(|show| show.kept).collect()
    }

    #[test]
    fn a_promise_is_kept_missed_or_open() {
        let mut lines = vec![line("acl1", 900, "v4", 10.0), line("acl1", 900, "v6", 16.0)];
        assert_eq!(of(&lines, "fastest other"), [None]);
        assert_eq!(of(&lines, "our IPv4 cost"), [Some(false)]);
        lines[0].ratio_to_fastest = Some(1.6);
        lines[0].fastest_other = Some("dbtable".to_owned());
        assert_eq!(of(&lines, "fastest other"), [Some(true)]);
        lines[0].rules = 100_000;
        (lines[0].bytes, lines[0].build_ms, lines[0].wrong) = (17 << 20, 499.0, 1);
        assert_eq!(of(&lines, "fastest other"), [Some(false)]);
        assert_eq!(of(&lines, "built in"), [Some(true)]);
        assert_eq!(of(&lines, "under 16"), [Some(false)]);
        assert_eq!(of(&lines, "wrong of"), [Some(false), Some(true)]);
        let policy = line("segmentation, 10,000 groups", 200_000, "v4", 41.0);
        assert_eq!(of(&[policy], "at most 40"), [Some(false)]);
    }
}
