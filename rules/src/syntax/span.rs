//! Places in policy text.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::Source;
use crate::policy::Location;

/// A byte range of one source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Span {
    /// Index of the source among those that were loaded together.
    pub file: u32,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The span from the start of `self` to the end of `other`, which is in the same source.
    pub fn to(self, other: Self) -> Self {
        Self { end: other.end.max(self.start), ..self }
    }

    /// The byte range.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A value and where it is written. Two of them are equal when the values are: a document that was
/// printed and read again equals itself, although everything moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value with its place.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// A value that was not read from any text.
    pub fn unplaced(value: T) -> Self {
        Self { value, span: Span::default() }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: Hash> Hash for Spanned<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

/// Bytes between two checkpoints of a [`LineIndex`]: what a look-up counts through at most.
const CHECKPOINT_BYTES: usize = 512;

/// Finds line and column of a byte offset in bounded time and little memory, in files of one endless
/// line or of nothing but line breaks too.
#[derive(Debug)]
pub(crate) struct LineIndex {
    /// Ascending by offset, at most [`CHECKPOINT_BYTES`] apart; the first is where the text starts.
    checkpoints: Vec<Checkpoint>,
}

#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    offset: u32,
    /// From 1.
    line: u32,
    /// From 1, in characters.
    column: u32,
}

impl Checkpoint {
    /// The checkpoint after `text`, which follows this one.
    fn after(self, text: &str) -> Self {
        let offset = self.offset + text.len() as u32;
        let breaks = text.bytes().filter(|&byte| byte == b'\n').count() as u32;
        let last_line = text.rfind('\n').map_or(text, |at| &text[at + 1..]);
        let start = if breaks == 0 { self.column } else { 1 };
        let column = start + last_line.chars().count() as u32;
        Self { offset, line: self.line + breaks, column }
    }
}

impl LineIndex {
    pub(crate) fn new(text: &str) -> Self {
        // A byte-order mark is no column of the first line.
        let offset = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let mut last = Checkpoint { offset: offset as u32, line: 1, column: 1 };
        let mut checkpoints = vec![last];
        let mut rest = &text[offset..];
        while rest.len() > CHECKPOINT_BYTES {
            let (part, after) = rest.split_at(floor_boundary(rest, CHECKPOINT_BYTES));
            last = last.after(part);
            checkpoints.push(last);
            rest = after;
        }
        Self { checkpoints }
    }

    /// Line and column, both from 1, of the byte at `offset`.
    pub(crate) fn line_column(&self, text: &str, offset: u32) -> (u32, u32) {
        let after = self.checkpoints.partition_point(|c| c.offset <= offset);
        let base = self.checkpoints[after.saturating_sub(1)];
        let end = floor_boundary(text, offset as usize);
        let at = base.after(text.get(base.offset as usize..end).unwrap_or(""));
        (at.line, at.column)
    }
}

/// The last character boundary of `text` that is not after `at`.
pub(crate) fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The sources of one load with their line indices.
#[derive(Debug)]
pub(crate) struct SourceMap<'s> {
    sources: &'s [Source],
    lines: Vec<LineIndex>,
}

impl<'s> SourceMap<'s> {
    pub(crate) fn new(sources: &'s [Source]) -> Self {
        Self { sources, lines: sources.iter().map(|s| LineIndex::new(&s.text)).collect() }
    }

    pub(crate) fn source(&self, span: Span) -> Option<&'s Source> {
        self.sources.get(span.file as usize)
    }

    pub(crate) fn location(&self, span: Span) -> Location {
        match (self.source(span), self.lines.get(span.file as usize)) {
            (Some(source), Some(index)) => {
                let (line, column) = index.line_column(&source.text, span.start);
                Location { file: Arc::clone(&source.name), line, column }
            }
            _ => Location { file: Arc::from(""), line: 0, column: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_from_one() {
        let text = "a: é1\nbb: 2\n";
        let index = LineIndex::new(text);
        assert_eq!(index.line_column(text, 0), (1, 1));
        assert_eq!(index.line_column(text, 5), (1, 5));
        assert_eq!(index.line_column(text, 7), (2, 1));
        assert_eq!(index.line_column(text, 11), (2, 5));
        assert_eq!(index.line_column(text, 13), (3, 1));
    }

    #[test]
    fn long_lines_are_counted_from_a_checkpoint() {
        let text = format!("{}\n{}x", "é".repeat(10_000), "y".repeat(9_000));
        let index = LineIndex::new(&text);
        assert_eq!(index.line_column(&text, 19_998), (1, 10_000));
        assert_eq!(index.line_column(&text, 20_001 + 9_000), (2, 9_001));
    }

    #[test]
    fn a_byte_order_mark_takes_no_column() {
        let text = "\u{feff}ab";
        assert_eq!(LineIndex::new(text).line_column(text, 4), (1, 2));
    }
}
