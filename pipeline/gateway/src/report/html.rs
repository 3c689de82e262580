//! The HTML form: one file, no script, nothing that has to be fetched, made to be printed.

use std::fmt::Write as _;

use super::Report;
use super::page::sections;

const STYLE: &str = "\
body{font:10pt/1.4 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#111;background:#fff}\
h1{font-size:1.5em;margin:0 0 .5em}h2{font-size:1.15em;margin:1.6em 0 .4em;border-bottom:1px solid #999}\
p{margin:.25em 0}table{border-collapse:collapse;width:100%;margin:.6em 0;font-variant-numeric:tabular-nums}\
th,td{border:1px solid #bbb;padding:.2em .45em;text-align:left;vertical-align:top;overflow-wrap:anywhere}\
th{background:#eee}@media print{body{margin:0;max-width:none;font-size:8pt}h2{break-after:avoid}\
tr{break-inside:avoid}thead{display:table-header-group}@page{size:A4 landscape;margin:12mm}}";

/// The report as one HTML file.
pub fn html(report: &Report) -> String {
    let mut out = String::new();
    let mut sections = sections(report).into_iter();
    let title = sections.next().unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}, {1}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n",
        escaped(title.title),
        escaped(&report.made)
    );
    for says in &title.says {
        let _ = writeln!(out, "<p>{}</p>", escaped(says));
    }
    for section in sections {
        let _ = writeln!(out, "<h2>{}</h2>", escaped(section.title));
        for says in &section.says {
            let _ = writeln!(out, "<p>{}</p>", escaped(says));
        }
        for (head, rows) in section.tables.iter().filter(|(_, rows)| !rows.is_empty()) {
            out.push_str("<table><thead><tr>");
            for cell in head {
                let _ = write!(out, "<th>{}</th>", escaped(cell));
            }
            out.push_str("</tr></thead><tbody>\n");
            for row in rows {
                out.push_str("<tr>");
                for cell in row {
                    let _ = write!(out, "<td>{}</td>", escaped(cell));
                }
                out.push_str("</tr>\n");
            }
            out.push_str("</tbody></table>\n");
        }
    }
    out.push_str("</body></html>\n");
    out
}

/// Text that cannot be taken for markup: names come from the wire and from files.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Asset;

    #[test]
    fn names_from_the_wire_stay_text() {
        let name = Some("<script>alert('x')</script>\u{0}&\"".to_owned());
        let report =
            Report { assets: vec![Asset { name, ..Asset::default() }], ..Report::default() };
        let page = html(&report);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(&#39;x&#39;)"));
        for fetched in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(fetched), "{fetched}");
        }
    }
}
