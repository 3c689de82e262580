//! Policy text to a document with spans, and back to text.
//!
//! In the order in which a text passes through: [`Source`] holds it, `reader` turns it into small
//! trees, `parse` into a [`Document`], with `atoms` for the single values; [`print`] goes the other
//! way. [`diagnostic`] is what comes out where something is wrong, and [`span`] is where.

mod atoms;
pub mod diagnostic;
pub mod document;
mod parse;
pub mod print;
mod reader;
pub mod span;

use std::net::IpAddr;
use std::sync::Arc;

pub use diagnostic::{Code, Diagnostic, Severity};
pub use document::Document;

pub(crate) use atoms::{nearest, quoted};
pub(crate) use diagnostic::{Findings, Problem};
pub(crate) use parse::{Parsed, parse};
pub(crate) use reader::Budget;
pub(crate) use span::SourceMap;

use crate::policy::Limits;
use crate::sets::{AddrSet, RangeSet};
use span::Span;

/// One file of policy text. Reading it is the caller's business; this crate does no I/O.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// What diagnostics call it, commonly its path.
    pub name: Arc<str>,
    /// Its text.
    pub text: String,
}

impl Source {
    /// A source with text that is known to be text.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// A source of the bytes of a file.
    ///
    /// # Errors
    ///
    /// Where the bytes are not UTF-8: a diagnostic that names line, column and byte.
    pub fn from_bytes(name: impl Into<Arc<str>>, bytes: Vec<u8>) -> Result<Self, Diagnostic> {
        let name = name.into();
        String::from_utf8(bytes).map(|text| Self { name: Arc::clone(&name), text }).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&e.into_bytes()).into_owned();
            not_utf8(Self { name, text }, at)
        })
    }
}

/// Reads one source on its own, without looking any name up.
///
/// # Errors
///
/// Everything that is wrong with the text, up to the limits.
pub fn parse_document(source: &Source, limits: &Limits) -> Result<Document, Vec<Diagnostic>> {
    let sources = std::slice::from_ref(source);
    let mut findings = Findings::new(limits.findings);
    let map = checked_text(sources, limits).map_err(|diagnostic| vec![diagnostic])?;
    let Parsed { document, .. } =
        parse(&source.text, 0, &mut Budget::new(limits.values), &mut findings);
    if findings.has_errors() { Err(findings.into_diagnostics(&map)) } else { Ok(document) }
}

/// Reads an address, a prefix or a range of IPv4 or IPv6, as a policy's groups hold them.
///
/// # Errors
///
/// What is wrong with it and, where that is known, what to write instead.
pub fn parse_addresses(text: &str) -> Result<AddrSet, (String, Option<String>)> {
    let addresses = atoms::addresses(text.trim()).map_err(|wrong| (wrong.message, wrong.help))?;
    let mut set = AddrSet::default();
    match addresses.ends() {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            set.v4 = RangeSet::<u32>::from_ranges([(first.into(), last.into())]);
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            set.v6 = RangeSet::<u128>::from_ranges([(first.into(), last.into())]);
        }
        // Ranges of two families do not parse.
        _ => {}
    }
    Ok(set)
}

/// Looks at sizes and characters before anything is built from the text.
pub(crate) fn checked_text<'s>(
    sources: &'s [Source],
    limits: &Limits,
) -> Result<SourceMap<'s>, Diagnostic> {
    let bytes: usize = sources.iter().map(|source| source.text.len()).sum();
    let limit = limits.text_bytes.min(u32::MAX as usize);
    if bytes > limit {
        let largest = sources.iter().max_by_key(|source| source.text.len());
        let name = largest.map_or("", |source| &source.name);
        let message = format!("the policy has {bytes} bytes of text, {name} the most of them");
        let help = format!("at most {limit} bytes are read: summarise addresses, or use groups");
        let problem = Problem::error(Code::TextTooLarge, None, message).help(help);
        return Err(problem.into_diagnostic(&SourceMap::new(&[])));
    }
    for (file, source) in sources.iter().enumerate() {
        let Some(at) = source.text.bytes().position(is_control) else { continue };
        let span = Span { file: file as u32, start: at as u32, end: at as u32 + 1 };
        let byte = source.text.as_bytes()[at];
        let message = format!("the file has a control character (0x{byte:02x}) at byte {at}");
        let help = "this is not a text file, or it was damaged: restore it or remove the character";
        let problem = Problem::error(Code::TextEncoding, span, message).help(help);
        return Err(problem.into_diagnostic(&SourceMap::new(sources)));
    }
    Ok(SourceMap::new(sources))
}

fn is_control(byte: u8) -> bool {
    (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')) || byte == 0x7f
}

/// `lossy` has the same bytes as the file up to `at`.
fn not_utf8(lossy: Source, at: usize) -> Diagnostic {
    let span = Span { file: 0, start: at as u32, end: at as u32 + 1 };
    let utf16 = at == 0 && lossy.text.as_bytes().contains(&0);
    let message = format!("the file is not UTF-8 at byte {at}");
    let help = if utf16 {
        "it looks like UTF-16: save it as UTF-8"
    } else {
        "save the file as UTF-8, without letters of an older encoding"
    };
    let problem = Problem::error(Code::TextEncoding, span, message).help(help);
    problem.into_diagnostic(&SourceMap::new(&[lossy]))
}
