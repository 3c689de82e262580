//! What is wrong with a policy, told to a person or to a program.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::span::{SourceMap, Span, floor_boundary};
use crate::policy::Location;

/// One list makes the codes, their labels and their explanations, so that they cannot drift apart.
macro_rules! codes {
    ($($variant:ident, $label:literal, $help:literal;)*) => {
        /// The kind of a [`Diagnostic`]. Labels are stable: scripts may depend on them.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $help] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable name, in kebab case.
            pub fn label(self) -> &'static str {
                match self { $(Code::$variant => $label,)* }
            }

            /// One sentence: what the code stands for.
            pub fn help(self) -> &'static str {
                match self { $(Code::$variant => $help,)* }
            }
        }
    };
}

codes! {
    // The text.
    TextEncoding, "text-encoding", "The file is not UTF-8 text, or contains control characters.";
    TextTooLarge, "text-too-large", "The files are larger than the limit.";
    YamlSyntax, "yaml-syntax", "The text is not well-formed YAML.";
    YamlFeature, "yaml-feature", "A YAML feature that policies do not use: aliases, anchors, tags, several documents, complex keys.";
    YamlNesting, "yaml-nesting", "Lists and maps are nested deeper than any policy needs.";
    EmptyFile, "empty-file", "The file holds no policy at all, as after an interrupted write.";
    // The shape.
    WrongType, "wrong-type", "A list, a map or a plain value stands where another of them belongs.";
    UnknownKey, "unknown-key", "A key that the language does not know.";
    DuplicateKey, "duplicate-key", "A key that stands twice in one map.";
    MissingKey, "missing-key", "A key that must be written is not.";
    ConflictingKeys, "conflicting-keys", "Keys that exclude one another stand together.";
    EmptyList, "empty-list", "A list or value is empty; it would silently match nothing.";
    MissingVersion, "missing-version", "The file does not state the version of the language.";
    UnsupportedVersion, "unsupported-version", "A version of the language that this release does not know.";
    // The values.
    InvalidName, "invalid-name", "Not a name: lower-case letters, digits and hyphens, starting with a letter.";
    ReservedName, "reserved-name", "A name that the language keeps for itself.";
    InvalidAddress, "invalid-address", "Not an IP address, prefix or range.";
    HostBits, "host-bits", "A prefix with bits set beyond its length.";
    InvalidRange, "invalid-range", "A range whose ends do not fit each other.";
    InvalidMac, "invalid-mac", "Not a MAC address, or one that no host can have.";
    InvalidVlan, "invalid-vlan", "Not a VLAN: 1 to 4094, `untagged`, or two of them.";
    InvalidService, "invalid-service", "Not a service.";
    InvalidPort, "invalid-port", "Not a port: 1 to 65535.";
    InvalidTime, "invalid-time", "Not an RFC 3339 instant with date, time and offset.";
    InvalidValue, "invalid-value", "A value outside of what the key accepts.";
    // The names.
    DuplicateName, "duplicate-name", "One name is defined twice.";
    UnknownName, "unknown-name", "A name that nothing defines.";
    UnknownWire, "unknown-wire", "A wire that the gateway's configuration does not have.";
    Cycle, "cycle", "A definition that contains itself.";
    // The meaning.
    ConflictingDefault, "conflicting-default", "Two files state different defaults.";
    EmptySelection, "empty-selection", "Nothing is left of a selection after its `except`.";
    TimeOrder, "time-order", "`starts` is not before `expires`.";
    LimitExceeded, "limit-exceeded", "The policy is larger than a limit.";
    TooManyFindings, "too-many-findings", "There is more than is shown.";
    // Warnings only.
    DefaultAllow, "default-allow", "The default lets through whatever no rule names.";
    Expired, "expired", "The rule expired and never matches again.";
    Unreferenced, "unreferenced", "A definition that nothing uses.";
    NeverMatches, "never-matches", "A condition that no frame can fulfil.";
    NoRules, "no-rules", "The policy has no rule: the default decides everything.";
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// Whether a policy with the finding is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is accepted; a person should look.
    Warning,
}

/// A place in a source, with enough of its text to show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// The source's name as it was given.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Bytes of the source.
    pub bytes: Range<usize>,
    /// The line, or a part of one that is very long.
    #[serde(skip)]
    excerpt: Box<str>,
    /// The place's bytes within the excerpt.
    #[serde(skip)]
    marked: Range<usize>,
}

/// One finding about a policy. [`fmt::Display`] shows it as a person wants it: message, source
/// line, caret, help. Serialised, it is what `bulkhead check --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Diagnostic {
    finding: Box<Finding>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    severity: Severity,
    code: Code,
    message: String,
    place: Option<Place>,
    labels: Vec<Label>,
    help: Option<String>,
}

/// A second place that a finding is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Label {
    /// Where.
    pub place: Place,
    /// What is there, as `first defined here`.
    pub text: String,
}

impl Diagnostic {
    /// Whether it refuses the policy.
    pub fn severity(&self) -> Severity {
        self.finding.severity
    }

    /// The kind of finding.
    pub fn code(&self) -> Code {
        self.finding.code
    }

    /// What is wrong, one sentence without a place.
    pub fn message(&self) -> &str {
        &self.finding.message
    }

    /// Where it is; [`None`] for a finding about the policy as a whole.
    pub fn place(&self) -> Option<&Place> {
        self.finding.place.as_ref()
    }

    /// File, line and column; [`None`] for a finding about the policy as a whole.
    pub fn location(&self) -> Option<Location> {
        let place = self.finding.place.as_ref()?;
        Some(Location { file: Arc::clone(&place.file), line: place.line, column: place.column })
    }

    /// Other places that it is about.
    pub fn labels(&self) -> &[Label] {
        &self.finding.labels
    }

    /// What to do.
    pub fn help(&self) -> Option<&str> {
        self.finding.help.as_deref()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: {}", self.finding.code.label(), self.finding.message)?;
        if let Some(place) = &self.finding.place {
            write_place(f, place, "")?;
        }
        for label in &self.finding.labels {
            write_place(f, &label.place, &label.text)?;
        }
        if let Some(help) = &self.finding.help {
            write!(f, "\n  = help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// Writes the place, its line and a caret line with `text`.
fn write_place(f: &mut fmt::Formatter<'_>, place: &Place, text: &str) -> fmt::Result {
    let number = place.line.to_string();
    let gutter = " ".repeat(number.len());
    write!(f, "\n{gutter}--> {}:{}:{}", place.file, place.line, place.column)?;
    let before = &place.excerpt[..place.marked.start];
    let carets = place.excerpt[place.marked.clone()].chars().count().max(1);
    let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    write!(f, "\n{gutter} |\n{number} | {}", place.excerpt)?;
    write!(f, "\n{gutter} | {indent}{}", "^".repeat(carets))?;
    if text.is_empty() { Ok(()) } else { write!(f, " {text}") }
}

/// A finding before its places are looked up.
#[derive(Debug)]
pub(crate) struct Problem {
    severity: Severity,
    code: Code,
    message: String,
    span: Option<Span>,
    labels: Vec<(Span, String)>,
    help: Option<String>,
}

impl Problem {
    pub(crate) fn error(code: Code, span: impl Into<Option<Span>>, message: String) -> Self {
        let span = span.into();
        Self { severity: Severity::Error, code, message, span, labels: Vec::new(), help: None }
    }

    pub(crate) fn warning(code: Code, span: impl Into<Option<Span>>, message: String) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    pub(crate) fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push((span, text.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds help where there is some.
    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    pub(crate) fn into_diagnostic(self, map: &SourceMap<'_>) -> Diagnostic {
        placed(self, map)
    }
}

/// Collects findings up to a limit, so that a file of nonsense costs no more than a page of errors.
#[derive(Debug)]
pub(crate) struct Findings {
    problems: Vec<Problem>,
    errors: usize,
    warnings: usize,
    limit: usize,
}

impl Findings {
    /// Keeps at most `limit` errors and as many warnings.
    pub(crate) fn new(limit: usize) -> Self {
        Self { problems: Vec::new(), errors: 0, warnings: 0, limit: limit.max(1) }
    }

    pub(crate) fn push(&mut self, problem: Problem) {
        let count = match problem.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= self.limit {
            self.problems.push(problem);
        }
    }

    /// Adds an error that explains the ones that end where it starts, and takes those back.
    pub(crate) fn supersede(&mut self, problem: Problem) {
        if let Some(span) = problem.span {
            let explained = |p: &Problem| {
                p.severity == Severity::Error
                    && p.span.is_some_and(|s| s.file == span.file && s.end == span.start)
            };
            let before = self.problems.len();
            self.problems.retain(|p| !explained(p));
            self.errors -= before - self.problems.len();
        }
        self.push(problem);
    }

    /// How many errors were found.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether more errors than the limit were found: going on would show nothing new.
    pub(crate) fn is_full(&self) -> bool {
        self.errors > self.limit
    }

    /// The findings with their places, in the order of the text, errors first.
    pub(crate) fn into_diagnostics(self, map: &SourceMap<'_>) -> Vec<Diagnostic> {
        let mut problems = self.problems;
        problems.sort_by_key(|p| (p.severity, p.span.is_none(), p.span));
        let mut out: Vec<_> = problems.into_iter().map(|p| placed(p, map)).collect();
        for (count, severity, what) in [
            (self.errors, Severity::Error, "errors"),
            (self.warnings, Severity::Warning, "warnings"),
        ] {
            if count > self.limit {
                let message = format!("only the first {} {what} are shown", self.limit);
                let problem = Problem::error(Code::TooManyFindings, None, message);
                out.push(placed(Problem { severity, ..problem }, map));
            }
        }
        out
    }
}

fn placed(problem: Problem, map: &SourceMap<'_>) -> Diagnostic {
    let labels = problem.labels.into_iter();
    let finding = Finding {
        severity: problem.severity,
        code: problem.code,
        message: problem.message,
        place: problem.span.map(|span| place(span, map)),
        labels: labels.map(|(span, text)| Label { place: place(span, map), text }).collect(),
        help: problem.help,
    };
    Diagnostic { finding: Box::new(finding) }
}

/// Bytes of a line that are shown on each side of the place.
const EXCERPT_BYTES: usize = 100;

/// A place outside of every source, or of the whole policy, has an empty excerpt.
pub(crate) fn place(span: Span, map: &SourceMap<'_>) -> Place {
    let Location { file, line, column } = map.location(span);
    let text = map.source(span).map_or("", |source| source.text.as_str());
    let start = floor_boundary(text, span.start as usize);
    let end = floor_boundary(text, (span.end as usize).max(start));
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find(['\n', '\r']).map_or(text.len(), |at| start + at);
    let from = floor_boundary(text, line_start.max(start.saturating_sub(EXCERPT_BYTES)));
    let to = floor_boundary(text, line_end.min(start.saturating_add(EXCERPT_BYTES)));
    let shown_end = end.clamp(start, to);
    let mut excerpt = shown(text[from..start].trim_start_matches('\u{feff}'));
    let marked_start = excerpt.len();
    excerpt.push_str(&shown(&text[start..shown_end]));
    let marked = marked_start..excerpt.len();
    excerpt.push_str(&shown(&text[shown_end..to]));
    Place { file, line, column, bytes: start..end, excerpt: excerpt.into(), marked }
}

/// Text that a terminal shows as it is stored: what would steer the terminal or turn the direction
/// of writing is replaced.
fn shown(text: &str) -> String {
    let steers = |c: char| (c.is_control() && c != '\t') || is_directional(c);
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether the character changes the direction in which its neighbours are shown (Unicode annex 9):
/// with it a text can look like another.
pub(crate) fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
