//! How a mistake in a file is shown: what, where, and what to write instead.

use std::fmt;
use std::ops::Range;

/// The longest source line that is shown whole; of a longer one only the neighbourhood of the
/// mistake is shown.
const MAX_SHOWN_COLUMNS: usize = 160;

/// One mistake in a text, with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The file's name as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that is known.
    pub help: Option<String>,
    source_line: String,
    underlined: usize,
}

impl Diagnostic {
    /// A mistake at the bytes `span` of `text`. A span that reaches beyond its first line is
    /// underlined to the end of that line; one that lies outside of the text points at its end.
    pub fn at(file: &str, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = floor_char_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let end = floor_char_boundary(text, span.end).clamp(start, line_end);
        Self {
            file: file.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            message: message.into(),
            help: None,
            source_line: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            underlined: text[start..end].chars().count().max(1),
        }
    }

    /// A mistake at a line and column (from 1, in characters) of `text`, `characters` long.
    pub fn at_place(
        file: &str,
        text: &str,
        (line, column): (u32, u32),
        characters: usize,
        message: impl Into<String>,
    ) -> Self {
        let lines = text.split_inclusive('\n').take(line.saturating_sub(1) as usize);
        let line_start: usize = lines.map(str::len).sum();
        let bytes = |from: usize, characters: usize| -> usize {
            text[from..].chars().take(characters).map(char::len_utf8).sum()
        };
        let start = line_start + bytes(line_start, column.saturating_sub(1) as usize);
        Self::at(file, text, start..start + bytes(start, characters), message)
    }

    /// The place, the source line and the caret, without the message.
    pub fn excerpt(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_excerpt(&mut out);
        out
    }

    fn write_excerpt(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let before = self.column - 1;
        // Of an overlong line only a window around the mistake is shown.
        let skipped = if before > MAX_SHOWN_COLUMNS - 40 { before - 40 } else { 0 };
        let shown: String = (self.source_line.chars().skip(skipped).take(MAX_SHOWN_COLUMNS))
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let indent = before - skipped;
        let carets = self.underlined.min(shown.chars().count().saturating_sub(indent)).max(1);
        writeln!(f, "{gutter}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {shown}")?;
        write!(f, "{gutter} | {}{}", " ".repeat(indent), "^".repeat(carets))
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        self.write_excerpt(f)?;
        if let Some(help) = &self.help {
            let gutter = " ".repeat(self.line.to_string().len());
            write!(f, "\n{gutter} = help: {help}")?;
        }
        Ok(())
    }
}

/// The mistakes of one file, in the order of their places; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate that was probably meant by `written`, if one is close enough to say so.
pub fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written = written.to_ascii_lowercase().replace('_', "-");
    let allowed = match written.chars().count() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    (candidates.into_iter())
        .map(|candidate| (edit_distance(&written, &candidate.to_ascii_lowercase()), candidate))
        .filter(|&(distance, candidate)| distance <= allowed && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two short words; words beyond 64
/// characters are never near.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut before_last: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_points_at_its_characters() {
        let text = "mtu = 1500\nmode = \"ünforce\" # x\n";
        let start = text.find("\"ü").unwrap();
        let shown = Diagnostic::at("g.toml", text, start..start + 10, "no such mode")
            .with_help("did you mean `enforce`?")
            .to_string();
        assert_eq!(
            shown,
            "error: no such mode\n --> g.toml:2:8\n  |\n2 | mode = \"ünforce\" # x\n  |        ^^^^^^^^^\n  = help: did you mean `enforce`?"
        );
    }

    #[test]
    fn spans_outside_of_the_text_and_within_a_character_are_tolerated() {
        for span in [0..0, 1..2, 5..9, 90..99] {
            let diagnostic = Diagnostic::at("f", "aü\nb", span.clone(), "m");
            assert!(diagnostic.to_string().contains("--> f:"), "{span:?}");
        }
    }

    #[test]
    fn an_overlong_line_is_cut_around_the_mistake() {
        let text = format!("{}HERE{}", "x".repeat(5000), "y".repeat(5000));
        let shown = Diagnostic::at("f", &text, 5000..5004, "m").to_string();
        assert!(shown.contains("HERE") && shown.len() < 600, "{}", shown.len());
        assert!(shown.contains("^^^^"));
    }

    #[test]
    fn near_words_are_proposed_and_far_ones_are_not() {
        let keys = ["mode", "inside", "outside", "link-propagation"];
        assert_eq!(did_you_mean("inisde", keys), Some("inside"));
        assert_eq!(did_you_mean("link_propagation", keys), Some("link-propagation"));
        assert_eq!(did_you_mean("colour", keys), None);
        assert_eq!(did_you_mean("", keys), None);
    }
}
