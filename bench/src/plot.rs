//! Groups of horizontal bars on a logarithmic scale, as SVG.

use std::fmt::Write as _;

/// One bar: a median, and the range that its rounds were in.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Who; the colour follows from its place in the group.
    pub engine: String,
    /// The length; none where there is nothing to show.
    pub value: Option<f64>,
    /// From, to; drawn where both are finite.
    pub spread: (f64, f64),
}

/// Bars about one thing. All groups have their engines in the same order.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they are about.
    pub name: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

const COLOURS: [&str; 4] = ["#1b6ca8", "#d9822b", "#9aa5ae", "#6b8f3c"];
const LEFT: f64 = 230.0;
const WIDTH: f64 = 620.0;
const TOP: f64 = 64.0;
const BAR: f64 = 9.0;
const GAP: f64 = 8.0;

/// The picture. Values are positive.
pub fn svg(title: &str, groups: &[Group]) -> String {
    let most = groups.iter().map(|group| group.bars.len()).max().unwrap_or(0) as f64;
    let pitch = most * BAR + GAP;
    let height = TOP + pitch * groups.len() as f64 + 24.0;
    let values = || groups.iter().flat_map(|group| &group.bars).filter_map(|bar| bar.value);
    let low = values().fold(f64::INFINITY, f64::min).log10().floor().min(1.0);
    let high = values().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    let x = |value: f64| LEFT + WIDTH * ((value.log10() - low) / (high - low)).clamp(0.0, 1.0);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"13\">{}</text>",
        LEFT + WIDTH + 60.0,
        escaped(title)
    );
    legend(groups, &mut out);
    for decade in (low as i32)..=(high as i32) {
        for step in 1..10 {
            let value = f64::from(step) * 10_f64.powi(decade);
            if value.log10() > high + 1e-9 {
                break;
            }
            let (at, colour) = (x(value), if step == 1 { "#888" } else { "#e4e4e4" });
            let _ = writeln!(
                out,
                "<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"{colour}\" stroke-width=\"0.6\"/>",
                height - 24.0
            );
            if matches!(step, 1 | 2 | 5) {
                let _ = writeln!(
                    out,
                    "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
                    height - 8.0
                );
            }
        }
    }
    for (index, group) in groups.iter().enumerate() {
        let top = TOP + GAP / 2.0 + pitch * index as f64;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            top + most * BAR / 2.0 + 4.0,
            escaped(&group.name)
        );
        for (place, bar) in group.bars.iter().enumerate() {
            let y = top + BAR * place as f64;
            let Some(value) = bar.value else { continue };
            let colour = COLOURS[place % COLOURS.len()];
            let _ = writeln!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\">{value:.0}</text>",
                x(value) - LEFT,
                BAR - 1.0,
                x(value).max(x(bar.spread.1.max(value))) + 4.0,
                y + BAR - 2.0,
            );
            if bar.spread.0.is_finite() && bar.spread.1.is_finite() {
                let _ = writeln!(
                    out,
                    "<path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"black\" stroke-width=\"1\"/>",
                    x(bar.spread.0),
                    y + BAR / 2.0 - 0.5,
                    x(bar.spread.1)
                );
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn legend(groups: &[Group], out: &mut String) {
    let Some(group) = groups.iter().max_by_key(|group| group.bars.len()) else { return };
    for (place, bar) in group.bars.iter().enumerate() {
        let at = LEFT + 150.0 * place as f64;
        let colour = COLOURS[place % COLOURS.len()];
        let _ = writeln!(
            out,
            "<rect x=\"{at}\" y=\"34\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"43\">{}</text>",
            at + 15.0,
            escaped(&bar.engine)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_times_are_longer_bars_and_names_are_escaped() {
        let bar = |value| Bar {
            engine: "ours".to_owned(),
            value,
            spread: (f64::INFINITY, f64::NEG_INFINITY),
        };
        let groups = [
            Group { name: "a & b".to_owned(), bars: vec![bar(Some(20.0))] },
            Group { name: "c".to_owned(), bars: vec![bar(Some(200.0)), bar(None)] },
        ];
        let picture = svg("<title>", &groups);
        assert!(picture.contains("a &amp; b") && picture.contains("&lt;title>"));
        let widths: Vec<f64> = picture
            .lines()
            .filter(|line| line.starts_with(&format!("<rect x=\"{LEFT}\" y=\"")))
            .filter(|line| line.contains("height=\"8\""))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 2, "{picture}");
        assert!(widths[1] > widths[0] * 2.0, "{widths:?}");
    }
}
