//! A document back to text.

use std::fmt;

use super::document::{Addresses, Member, Selector, Term, Terms};

/// Characters of a label before it is cut.
const LABEL_CHARS: usize = 120;

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => write!(f, "{address}"),
            Self::Prefix(base, length) => write!(f, "{base}/{length}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Addresses(addresses) => addresses.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ports { protocol, to, from } => match (to.as_slice(), from.as_slice()) {
                (&[range], []) => write!(f, "{}/{}", protocol.label(), Range(range)),
                (to, []) => write!(f, "{{{}: {}}}", protocol.label(), Ranges(to)),
                (to, from) => {
                    let (to, from) = (Ranges(to), Ranges(from));
                    write!(f, "{{{}: {to}, from-port: {from}}}", protocol.label())
                }
            },
            Self::Icmp { v6, kind, code } => {
                write!(f, "{}/{kind}", if *v6 { "icmpv6" } else { "icmp" })?;
                code.map_or(Ok(()), |code| write!(f, "/{code}"))
            }
            Self::Ip(number) => write!(f, "ip/{number}"),
            Self::Ether(ether) => write!(f, "eth/0x{ether:04x}"),
        }
    }
}

struct Range((u16, u16));

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.0;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

struct Ranges<'r>(&'r [(u16, u16)]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("any"),
            [range] => Range(*range).fmt(f),
            many => list(f, many.iter().map(|range| Range(*range))),
        }
    }
}

fn list(
    f: &mut impl fmt::Write,
    items: impl IntoIterator<Item = impl fmt::Display>,
) -> fmt::Result {
    f.write_char('[')?;
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{item}")?;
    }
    f.write_char(']')
}

/// A selector as an operator would write it, cut where it is long.
pub(crate) fn selector_label(selector: &Selector) -> String {
    let mut label = Label::default();
    // A label that is full refuses further text, which ends the writing early.
    let _ = write_selector(&mut label, selector);
    label.finish()
}

/// Services as an operator would write them, cut where they are long.
pub(crate) fn terms_label(terms: &Terms) -> String {
    let mut label = Label::default();
    let _ = write_terms(&mut label, terms);
    label.finish()
}

fn write_selector(f: &mut impl fmt::Write, selector: &Selector) -> fmt::Result {
    let members = |f: &mut _, list_of: &[super::span::Spanned<Member>]| match list_of {
        [one] => write_to(f, &one.value),
        many => list(f, many.iter().map(|member| &member.value)),
    };
    if selector.except.is_empty() {
        return members(f, &selector.members);
    }
    f.write_str("{in: ")?;
    members(f, &selector.members)?;
    f.write_str(", except: ")?;
    members(f, &selector.except)?;
    f.write_char('}')
}

fn write_terms(f: &mut impl fmt::Write, terms: &Terms) -> fmt::Result {
    match terms.terms.as_slice() {
        [one] => write!(f, "{}", one.value),
        many => list(f, many.iter().map(|term| &term.value)),
    }
}

fn write_to(f: &mut impl fmt::Write, value: &impl fmt::Display) -> fmt::Result {
    write!(f, "{value}")
}

#[derive(Default)]
struct Label {
    text: String,
    full: bool,
}

impl Label {
    fn finish(mut self) -> String {
        if self.full {
            self.text.push('…');
        }
        self.text
    }
}

impl fmt::Write for Label {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.full || self.text.len() + s.len() > LABEL_CHARS {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(s);
        Ok(())
    }
}
