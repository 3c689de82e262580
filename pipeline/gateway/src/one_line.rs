//! What somebody else has written, as it is printed for a person: it stays on its line, and moves nothing
//! on a terminal.

use std::borrow::Cow;

/// The text with what breaks lines, steers terminals or turns the direction of writing spelt out, such as
/// `\n` and `\u{1b}`.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match steers(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Control characters, line and paragraph separators, and the marks of the Unicode Bidirectional
/// Algorithm (UAX #9) that let a text look like another.
fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_spelt_out_and_all_else_is_as_it_was() {
        for plain in ["", "CHG-7: Ölpumpe \\n «läuft» 机", "a\u{a0}b"] {
            assert!(matches!(one_line(plain), Cow::Borrowed(same) if same == plain), "{plain:?}");
        }
        for (written, shown) in [
            ("x\n   812  root  rollback", "x\\n   812  root  rollback"),
            ("\u{1b}[2A\u{1b}[2K\u{9b}1A", "\\u{1b}[2A\\u{1b}[2K\\u{9b}1A"),
            ("a\u{202e}b\u{2028}", "a\\u{202e}b\\u{2028}"),
        ] {
            assert_eq!(one_line(written), shown);
        }
    }
}
