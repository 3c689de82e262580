//! YAML events to small spanned trees, one entry of a policy at a time.
//!
//! The parser is granit-parser, the one below serde-saphyr, used without serde: a rule set is then
//! read in one pass without a tree of the whole file, a plain scalar keeps the text that was written
//! (so that `02:00:00:00:30:01`, `no` and `010` are never turned into numbers or booleans), and one
//! mistake does not hide the next. Aliases, anchors, tags and further documents are refused as they
//! come, which leaves an alias bomb nothing to expand.

use std::borrow::Cow;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, StrInput, StructureStyle};

use super::diagnostic::{Code, Problem};
use super::span::{Span, floor_boundary};

/// Levels of lists and maps in a file; the language itself needs seven.
const NESTING_LIMIT: usize = 16;

/// A problem after which the rest of the file cannot be read.
pub(crate) type Fatal = Box<Problem>;

/// A subtree of the text.
#[derive(Debug)]
pub(crate) struct Node<'t> {
    pub(crate) value: Value<'t>,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) enum Value<'t> {
    /// Nothing was written.
    Empty,
    Scalar(Cow<'t, str>),
    List(Vec<Node<'t>>),
    Map(Vec<(Node<'t>, Node<'t>)>),
}

impl Value<'_> {
    /// What it is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Empty => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// What the reader met next.
#[derive(Debug)]
pub(crate) enum Token<'t> {
    Empty,
    Scalar(Cow<'t, str>),
    ListStart { flow: bool },
    MapStart { flow: bool },
    End,
    Finish,
}

/// How many values the sources of one load may hold in all.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    left: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, left: limit }
    }

    fn problem(&self, span: Span) -> Fatal {
        let message = format!("more than {} values in the policy", self.limit);
        let problem = Problem::error(Code::LimitExceeded, span, message);
        Box::new(problem.help("summarise addresses as prefixes or ranges, or use groups"))
    }
}

/// Pulls nodes out of one source.
pub(crate) struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    text: &'t str,
    file: u32,
    budget: &'t mut Budget,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str, file: u32, budget: &'t mut Budget) -> Self {
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: NESTING_LIMIT,
            block_nesting_limit: NESTING_LIMIT,
        };
        let parser = Parser::new_from_str_with_options(text, options);
        Self { parser, text, file, budget }
    }

    /// The next token and its place. [`Token::Finish`] ends the one document.
    pub(crate) fn token(&mut self) -> Result<(Token<'t>, Span), Fatal> {
        loop {
            let end = self.span_at(self.text.len());
            let Some(event) = self.parser.next_event() else { return Ok((Token::Finish, end)) };
            let (event, span) = event.map_err(|e| Box::new(self.syntax_problem(&e)))?;
            let span = Span {
                file: self.file,
                start: span.start.byte_offset().unwrap_or(0) as u32,
                end: span.end.byte_offset().unwrap_or(0) as u32,
            };
            let (token, anchor, tagged) = match event {
                Event::StreamStart | Event::Comment(..) => continue,
                Event::DocumentStart(_, _) => continue,
                Event::DocumentEnd => return self.finish(),
                Event::StreamEnd => return Ok((Token::Finish, end)),
                Event::Alias(_) => return Err(Box::new(feature_problem("aliases", span))),
                Event::Scalar(text, style, anchor, tag) => {
                    let written = style != ScalarStyle::Plain || span.start != span.end;
                    let token = if written { Token::Scalar(text) } else { Token::Empty };
                    (token, anchor, tag.is_some())
                }
                Event::SequenceStart(style, anchor, tag) => {
                    let flow = style == StructureStyle::Flow;
                    (Token::ListStart { flow }, anchor, tag.is_some())
                }
                Event::MappingStart(style, anchor, tag) => {
                    let flow = style == StructureStyle::Flow;
                    (Token::MapStart { flow }, anchor, tag.is_some())
                }
                Event::SequenceEnd | Event::MappingEnd => return Ok((Token::End, span)),
                _ => continue,
            };
            if anchor != 0 {
                return Err(Box::new(feature_problem("anchors", span)));
            }
            if tagged {
                return Err(Box::new(feature_problem("tags", span)));
            }
            self.budget.left =
                self.budget.left.checked_sub(1).ok_or_else(|| self.budget.problem(span))?;
            return Ok((token, span));
        }
    }

    /// Reads one node that starts with `token`, which is not [`Token::End`] or [`Token::Finish`].
    pub(crate) fn node(&mut self, token: Token<'t>, span: Span) -> Result<Node<'t>, Fatal> {
        match token {
            Token::Scalar(text) => Ok(Node { value: Value::Scalar(text), span }),
            Token::Empty | Token::End | Token::Finish => Ok(Node { value: Value::Empty, span }),
            Token::ListStart { flow } => {
                let (mut items, mut last) = (Vec::new(), span);
                loop {
                    let (token, at) = self.token()?;
                    if matches!(token, Token::End | Token::Finish) {
                        let span = span.to(if flow { at } else { last });
                        return Ok(Node { value: Value::List(items), span });
                    }
                    let item = self.node(token, at)?;
                    last = item.span;
                    items.push(item);
                }
            }
            Token::MapStart { flow } => {
                let (mut entries, mut last) = (Vec::new(), span);
                loop {
                    let (token, at) = self.token()?;
                    if matches!(token, Token::End | Token::Finish) {
                        let span = span.to(if flow { at } else { last });
                        return Ok(Node { value: Value::Map(entries), span });
                    }
                    let key = self.node(token, at)?;
                    let (token, at) = self.token()?;
                    let value = self.node(token, at)?;
                    last = value.span;
                    entries.push((key, value));
                }
            }
        }
    }

    /// After the end of the document: nothing may follow.
    fn finish(&mut self) -> Result<(Token<'t>, Span), Fatal> {
        let end = self.span_at(self.text.len());
        while let Some(event) = self.parser.next_event() {
            let (event, span) = event.map_err(|e| Box::new(self.syntax_problem(&e)))?;
            if let Event::DocumentStart(..) = event {
                let start = span.start.byte_offset().unwrap_or(0) as u32;
                let span = Span { start, end: start.saturating_add(3), file: self.file };
                let problem = Problem::error(
                    Code::YamlFeature,
                    span,
                    "a second YAML document starts here".to_owned(),
                );
                let help = "a policy file is one document: remove `---`, or use two files";
                return Err(Box::new(problem.help(help)));
            }
        }
        Ok((Token::Finish, end))
    }

    fn span_at(&self, offset: usize) -> Span {
        Span { file: self.file, start: offset as u32, end: offset as u32 }
    }

    fn syntax_problem(&self, error: &granit_parser::ScanError) -> Problem {
        let at = error.marker().byte_offset().unwrap_or(0);
        let span = self.span_at(at.min(self.text.len()));
        if *error.kind() == ErrorKind::RecursionLimitExceeded {
            let message = format!("lists and maps are nested more than {NESTING_LIMIT} deep");
            return Problem::error(Code::YamlNesting, span, message)
                .help("give the inner part a name: a group or a service");
        }
        if *error.kind() == ErrorKind::UnknownAnchor {
            return feature_problem("aliases", span);
        }
        let (message, help) = explain(error.kind());
        let help = ipv6_hint(self.line_before(at)).or(help.map(str::to_owned));
        Problem::error(Code::YamlSyntax, span, message).maybe_help(help)
    }

    /// The text of the line up to and with the character at `offset`.
    fn line_before(&self, offset: usize) -> &'t str {
        let end = floor_boundary(self.text, offset + 1);
        let start = self.text[..end].rfind('\n').map_or(0, |at| at + 1);
        &self.text[start..end]
    }
}

/// Help where the text before a syntax error ends with an IPv6 address that ends with a colon.
fn ipv6_hint(before: &str) -> Option<String> {
    let word = before.trim_end().rsplit([' ', '[', '{', ',']).next()?;
    let is_address =
        word.contains("::") && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    is_address.then(|| format!("quote IPv6 addresses that end with a colon: \"{word}\""))
}

fn feature_problem(what: &str, span: Span) -> Problem {
    let message = format!("the policy language does without YAML's {what}");
    let help = match what {
        "tags" => "remove the `!…`: every value is read as the text that is written",
        _ => {
            "give the repeated part a name: a group, a service or a device (and quote a value \
              that starts with `&` or `*`)"
        }
    };
    Problem::error(Code::YamlFeature, span, message).help(help)
}

/// A syntax error in words, and what to do about it.
fn explain(kind: &ErrorKind) -> (String, Option<&'static str>) {
    use ErrorKind as K;
    match kind {
        K::MappingValueNotAllowed => (
            "a second `:` on the line".to_owned(),
            Some("quote a value that contains a colon, and begin each key on a line of its own"),
        ),
        K::InvalidColonPlacement => (
            "a `:` is not possible here".to_owned(),
            Some("look whether a `[` or `{` on the lines above was left open"),
        ),
        K::TabNotAllowed | K::TabInBlockIndentation | K::TabInIndentation => (
            "a tab is used for indentation".to_owned(),
            Some("indent with spaces: YAML forbids tabs"),
        ),
        K::InvalidIndentation | K::ExpectedBlockMappingKey | K::ExpectedBlockSequenceEntry => (
            "the indentation does not fit the lines above".to_owned(),
            Some("align the keys of one map, and the dashes of one list, in one column"),
        ),
        K::UnclosedQuotedScalar | K::InvalidQuotedScalarIndent => {
            ("a quoted text is not closed".to_owned(), Some("add the missing quotation mark"))
        }
        K::UnclosedFlowCollection { open } => {
            (format!("the `{open}` is not closed"), Some("add the missing bracket"))
        }
        K::UnexpectedEofFlowSequence
        | K::UnexpectedEofFlowMapping
        | K::UnexpectedEofImplicitFlowMapping => {
            ("the file ends within brackets".to_owned(), Some("add the missing `]` or `}`"))
        }
        K::SimpleKeyExpected | K::InvalidSimpleKey => (
            "a key without `:` after it".to_owned(),
            Some("write `key: value`, with a space after the colon"),
        ),
        other => (format!("not well-formed YAML: {other}"), None),
    }
}
