//! A document back to text, as a careful person would write it.
//!
//! What is printed reads back as the same document. An empty list, which the language refuses, is
//! printed as one and so is refused again: a mistake in a program cannot turn into `any`.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::document::{
    Addresses, Assertion, Device, Document, Group, Member, Rule, Selector, Service, Sides, Term,
    Terms,
};
use super::span::Spanned;
use crate::headers::{FrameType, VlanTags};
use crate::policy::{Action, Must};

/// Bytes of a label before it is cut.
const LABEL_BYTES: usize = 120;

/// Columns after which a list is printed one member a line.
const LINE_COLUMNS: usize = 100;

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(version) = &self.version {
            writeln!(f, "version: {}", version.value)?;
        }
        if let Some(default) = &self.default {
            writeln!(f, "default: {}", action_label(default.value))?;
        }
        section(f, "devices", &self.devices, write_device)?;
        section(f, "groups", &self.groups, write_group)?;
        section(f, "services", &self.services, write_service)?;
        section(f, "rules", &self.rules, write_rule)?;
        section(f, "assert", &self.assertions, write_assertion)
    }
}

fn section<T>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    entries: &[T],
    each: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    if entries.is_empty() {
        return Ok(());
    }
    writeln!(f, "{key}:")?;
    entries.iter().try_for_each(|entry| each(f, entry))
}

fn write_device(f: &mut fmt::Formatter<'_>, device: &Device) -> fmt::Result {
    let mut fields = Vec::new();
    let macs = &device.macs;
    if !macs.is_empty() {
        fields.push(format!("mac: {}", one_or_list(macs, |mac| format!("\"{}\"", mac.value))));
    }
    let addresses = &device.addresses;
    if !addresses.is_empty() {
        fields.push(format!("ip: {}", one_or_list(addresses, |a| a.value.to_string())));
    }
    if let Some(vlans) = &device.vlans {
        fields.push(format!("vlan: {}", vlans_text(&vlans.value)));
    }
    if !device.labels.is_empty() {
        let labels = device.labels.iter();
        let labels = labels.map(|(key, text)| format!("{}: {}", key.value, Prose(text)));
        fields.push(format!("labels: {{{}}}", labels.collect::<Vec<_>>().join(", ")));
    }
    writeln!(f, "  {}: {{{}}}", device.name.value, fields.join(", "))
}

fn write_group(f: &mut fmt::Formatter<'_>, group: &Group) -> fmt::Result {
    let mut text = String::new();
    write_selector(&mut text, &group.members)?;
    let is_list = group.members.except.is_empty() && group.members.members.len() > 1;
    if !is_list || text.len() <= LINE_COLUMNS {
        return writeln!(f, "  {}: {text}", group.name.value);
    }
    writeln!(f, "  {}:", group.name.value)?;
    group.members.members.iter().try_for_each(|member| writeln!(f, "    - {}", member.value))
}

fn write_service(f: &mut fmt::Formatter<'_>, service: &Service) -> fmt::Result {
    write!(f, "  {}: ", service.name.value)?;
    write_terms(f, &service.terms)?;
    f.write_char('\n')
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &Rule) -> fmt::Result {
    writeln!(f, "  - name: {}", rule.name.value)?;
    match &rule.sides {
        Sides::Directed { from, to } => {
            for (key, side) in [("from", from), ("to", to)] {
                let Some(side) = side else { continue };
                write!(f, "    {key}: ")?;
                write_selector(f, side)?;
                f.write_char('\n')?;
            }
        }
        Sides::Between(one, other) => {
            f.write_str("    between: [")?;
            write_selector(f, one)?;
            f.write_str(", ")?;
            write_selector(f, other)?;
            f.write_str("]\n")?;
        }
    }
    if let Some(service) = &rule.service {
        f.write_str("    service: ")?;
        write_terms(f, service)?;
        f.write_char('\n')?;
    }
    if let Some(vlans) = &rule.vlans {
        writeln!(f, "    vlan: {}", vlans_text(&vlans.value))?;
    }
    if !rule.wires.is_empty() {
        let wires = one_or_list(&rule.wires, |wire| Prose(&wire.value).to_string());
        writeln!(f, "    wire: {wires}")?;
    }
    writeln!(f, "    action: {}", action_label(rule.action.value))?;
    if let Some(log) = rule.log {
        writeln!(f, "    log: {log}")?;
    }
    for (key, at) in [("starts", rule.starts), ("expires", rule.expires)] {
        let Some(at) = at.and_then(|at| jiff::Timestamp::from_millisecond(at.value).ok()) else {
            continue;
        };
        writeln!(f, "    {key}: {at}")?;
    }
    match &rule.reason {
        Some(reason) => writeln!(f, "    reason: {}", Prose(reason)),
        None => Ok(()),
    }
}

fn write_assertion(f: &mut fmt::Formatter<'_>, assertion: &Assertion) -> fmt::Result {
    f.write_str("  - {from: ")?;
    write_selector(f, &assertion.from)?;
    f.write_str(", to: ")?;
    write_selector(f, &assertion.to)?;
    f.write_str(", service: ")?;
    write_terms(f, &assertion.service)?;
    let must = match assertion.must.value {
        Must::Reach => "reach",
        Must::NotReach => "not-reach",
    };
    writeln!(f, ", must: {must}}}")
}

fn action_label(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    }
}

fn vlans_text(vlans: &[VlanTags]) -> String {
    let one = |tags: &VlanTags| match *tags {
        VlanTags::UNTAGGED => "untagged".to_owned(),
        VlanTags { outer, inner: 0 } => outer.to_string(),
        VlanTags { outer, inner } => format!("[{outer}, {inner}]"),
    };
    match vlans {
        [tags] => one(tags),
        many => format!("{{in: [{}]}}", many.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

fn one_or_list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    match items {
        [one] => text(one),
        many => format!("[{}]", many.iter().map(text).collect::<Vec<_>>().join(", ")),
    }
}

/// Free text: plain where YAML reads it back as it is in every place, else in double quotes with
/// whatever does not print escaped.
struct Prose<'t>(&'t str);

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = self.0.starts_with(|c: char| c.is_ascii_alphabetic())
            && self.0.ends_with(|c: char| c.is_ascii_alphanumeric())
            && self.0.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '.'));
        // Other tools read these as something that is not text.
        let is_word = matches!(
            self.0.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
        if is_plain && !is_word {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            let unprintable =
                c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}'..);
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                _ if unprintable => write!(f, "\\U{:08x}", u32::from(c))?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A colon may end a plain scalar: IPv6 is quoted everywhere, so that nobody has to know.
        match self {
            Self::One(address @ IpAddr::V6(_)) => write!(f, "\"{address}\""),
            Self::Prefix(base @ IpAddr::V6(_), length) => write!(f, "\"{base}/{length}\""),
            Self::Range(first @ IpAddr::V6(_), last) => write!(f, "\"{first}-{last}\""),
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
            Self::Mac(mac) => write!(f, "\"{mac}\""),
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
            Self::Ether(ether) => write!(f, "{}", FrameType(*ether)),
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
    let members = |f: &mut _, list_of: &[Spanned<Member>]| match list_of {
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
        if self.full || self.text.len() + s.len() > LABEL_BYTES {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(s);
        Ok(())
    }
}
