//! Nodes to a [`Document`]: which keys there are, what they hold, every mistake reported.

use std::collections::HashSet;
use std::sync::Arc;

use super::atoms::{self, Invalid, quoted};
use super::diagnostic::{Code, Findings, Problem};
use super::document::{
    Addresses, Assertion, Device, Document, Group, Member, Name, PortProtocol, Rule, Selector,
    Service, Sides, Term, Terms,
};
use super::reader::{Budget, Fatal, Node, Reader, Token, Value};
use super::span::{Span, Spanned};
use crate::headers::{Mac, VlanTags};
use crate::policy::{Action, Must};

/// The version of the language.
const VERSION: &str = "1";

const TOP_KEYS: &[&str] =
    &["version", "default", "devices", "groups", "services", "rules", "assert"];
const DEVICE_KEYS: &[&str] = &["mac", "ip", "vlan", "labels"];
const SELECTOR_KEYS: &[&str] = &["in", "except"];
const PORT_KEYS: &[&str] = &["tcp", "udp", "sctp", "from-port"];
const RULE_KEYS: &[&str] = &[
    "name", "from", "to", "between", "service", "vlan", "wire", "action", "log", "starts",
    "expires", "reason",
];
const ASSERT_KEYS: &[&str] = &["from", "to", "service", "must"];

/// Longest `reason` and label in bytes.
const PROSE_BYTES: usize = 1000;

/// Most labels of one device.
const LABELS: usize = 64;

/// Reads one source. What could be read is returned even where `findings` got errors; it is then
/// good for finding more of them, not for a policy.
pub(crate) fn parse(text: &str, file: u32, budget: &mut Budget, findings: &mut Findings) -> Parsed {
    let mut parse = Parse { findings, document: Document::default(), broken: Vec::new() };
    let mut reader = Reader::new(text, file, budget);
    let ended = parse.file(&mut reader);
    let whole = ended.is_ok();
    if let Err(problem) = ended {
        parse.findings.supersede(*problem);
    }
    Parsed { document: parse.document, broken: parse.broken, whole }
}

/// What could be read of a source.
pub(crate) struct Parsed {
    pub(crate) document: Document,
    /// Names whose definitions are not in the document because of errors: a reference to one is no
    /// second error.
    pub(crate) broken: Vec<Arc<str>>,
    /// Whether the text could be read to its end.
    pub(crate) whole: bool,
}

struct Parse<'f> {
    findings: &'f mut Findings,
    document: Document,
    broken: Vec<Arc<str>>,
}

/// A map's entries, keys checked.
struct Fields<'t> {
    entries: Vec<(&'static str, Span, Node<'t>)>,
    span: Span,
}

impl<'t> Fields<'t> {
    fn take(&mut self, key: &str) -> Option<Node<'t>> {
        let at = self.entries.iter().position(|(k, ..)| *k == key)?;
        Some(self.entries.swap_remove(at).2)
    }

    fn key_span(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|(k, ..)| *k == key).map(|&(_, span, _)| span)
    }
}

impl Parse<'_> {
    fn file(&mut self, reader: &mut Reader<'_>) -> Result<(), Fatal> {
        let (token, span) = reader.token()?;
        match token {
            Token::MapStart { .. } => {}
            Token::Finish | Token::Empty => {
                let message = "the file is empty".to_owned();
                let help = "an empty policy would deny everything: write at least `version: 1`";
                return Err(Box::new(Problem::error(Code::EmptyFile, span, message).help(help)));
            }
            _ => {
                let message = "a policy is a map of `version`, `rules` and other keys".to_owned();
                let help = "start the file with `version: 1`";
                return Err(Box::new(Problem::error(Code::WrongType, span, message).help(help)));
            }
        }
        let mut seen: Vec<(&str, Span)> = Vec::new();
        loop {
            let (token, at) = reader.token()?;
            if matches!(token, Token::End | Token::Finish) {
                break;
            }
            let key = reader.node(token, at)?;
            let known = self.key(&key, TOP_KEYS, "a policy");
            let duplicate = known.and_then(|k| seen.iter().find(|(s, _)| *s == k));
            if let Some(&(_, first)) = duplicate {
                self.duplicate_key(&key, first);
                let (token, at) = reader.token()?;
                reader.node(token, at)?;
                continue;
            }
            seen.extend(known.map(|known| (known, key.span)));
            self.section(known.unwrap_or(""), reader)?;
            if self.findings.is_full() {
                return Ok(());
            }
        }
        // The end of the document, or what must not follow it.
        reader.token()?;
        if self.document.version.is_none() && !seen.iter().any(|(key, _)| *key == "version") {
            let message = "the file does not state its version".to_owned();
            let start = Span { end: span.start, ..span };
            let problem = Problem::error(Code::MissingVersion, start, message);
            self.findings.push(problem.help("begin the file with `version: 1`"));
        }
        Ok(())
    }

    fn section(&mut self, key: &str, reader: &mut Reader<'_>) -> Result<(), Fatal> {
        match key {
            "devices" => self.definitions(reader, key, |parse, name, node| {
                let device = parse.device(name, node);
                parse.document.devices.extend(device);
            }),
            "groups" => self.definitions(reader, key, |parse, name, node| {
                let group = parse.selector(node).map(|members| Group { name, members });
                parse.document.groups.extend(group);
            }),
            "services" => self.definitions(reader, key, |parse, name, node| {
                let service = parse.terms(node).map(|terms| Service { name, terms });
                parse.document.services.extend(service);
            }),
            "rules" => self.entries(reader, key, |parse, node| {
                let rule = parse.rule(node);
                parse.document.rules.extend(rule);
            }),
            "assert" => self.entries(reader, key, |parse, node| {
                let assertion = parse.assertion(node);
                parse.document.assertions.extend(assertion);
            }),
            _ => {
                let (token, at) = reader.token()?;
                let node = reader.node(token, at)?;
                match key {
                    "version" => self.document.version = self.version(&node),
                    "default" => self.document.default = self.action(&node),
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// Reads a map of names, entry by entry.
    fn definitions(
        &mut self,
        reader: &mut Reader<'_>,
        section: &str,
        mut each: impl FnMut(&mut Self, Name, Node<'_>),
    ) -> Result<(), Fatal> {
        let (token, span) = reader.token()?;
        if !matches!(token, Token::MapStart { .. }) {
            let node = reader.node(token, span)?;
            self.wrong_type(&node, &format!("`{section}` is a map from names to definitions"));
            return Ok(());
        }
        let mut seen: HashSet<Name> = HashSet::new();
        loop {
            let (token, at) = reader.token()?;
            if matches!(token, Token::End | Token::Finish) {
                if seen.is_empty() && !self.findings.has_errors() {
                    self.empty(span, &format!("`{section}` is empty"));
                }
                return Ok(());
            }
            let key = reader.node(token, at)?;
            let (token, at) = reader.token()?;
            let node = reader.node(token, at)?;
            let Some(name) = self.name(&key) else { continue };
            if let Some(first) = seen.get(&name) {
                let first = first.span;
                self.duplicate_key(&key, first);
                continue;
            }
            seen.insert(name.clone());
            let (errors, broken) = (self.findings.errors(), Arc::clone(&name.value));
            each(self, name, node);
            if self.findings.errors() > errors {
                self.broken.push(broken);
            }
            if self.findings.is_full() {
                return Ok(());
            }
        }
    }

    /// Reads a list, entry by entry.
    fn entries(
        &mut self,
        reader: &mut Reader<'_>,
        section: &str,
        mut each: impl FnMut(&mut Self, Node<'_>),
    ) -> Result<(), Fatal> {
        let (token, span) = reader.token()?;
        if !matches!(token, Token::ListStart { .. }) {
            let node = reader.node(token, span)?;
            self.wrong_type(&node, &format!("`{section}` is a list"));
            return Ok(());
        }
        let mut any = false;
        loop {
            let (token, at) = reader.token()?;
            if matches!(token, Token::End | Token::Finish) {
                if !any {
                    self.empty(span, &format!("`{section}` is an empty list"));
                }
                return Ok(());
            }
            any = true;
            let node = reader.node(token, at)?;
            each(self, node);
            if self.findings.is_full() {
                return Ok(());
            }
        }
    }

    fn device(&mut self, name: Name, node: Node<'_>) -> Option<Device> {
        let mut fields = self.fields(node, DEVICE_KEYS, "a device")?;
        let is_identified = fields.key_span("mac").is_some() || fields.key_span("ip").is_some();
        if !is_identified {
            let message = format!("device {} has neither `mac` nor `ip`", quoted(&name));
            let problem = Problem::error(Code::MissingKey, name.span, message);
            self.findings.push(problem.help(
                "a device is told by its MAC address, its IP addresses, or both; a whole VLAN is \
                 written as `vlan` in a rule",
            ));
        }
        let macs = fields.take("mac").map_or(Some(Vec::new()), |node| self.macs(node));
        let addresses = fields.take("ip").map_or(Some(Vec::new()), |node| self.addresses(node));
        let vlans = fields.take("vlan").map_or(Some(None), |node| self.vlans(node).map(Some));
        let labels = fields.take("labels").map_or(Some(Vec::new()), |node| self.labels(node));
        let complete =
            Device { name, macs: macs?, addresses: addresses?, vlans: vlans?, labels: labels? };
        is_identified.then_some(complete)
    }

    fn macs(&mut self, node: Node<'_>) -> Option<Vec<Spanned<Mac>>> {
        let macs = self.list(node, "a MAC address", atoms::mac)?;
        for mac in macs.iter().filter(|mac| mac.is_group()) {
            let message = format!("{} is a group address: no device has it", mac.value);
            let problem = Problem::error(Code::InvalidMac, mac.span, message);
            self.findings.push(problem.help("group addresses may stand in groups and rules"));
        }
        Some(macs)
    }

    fn addresses(&mut self, node: Node<'_>) -> Option<Vec<Spanned<Addresses>>> {
        self.list(node, "an address", atoms::addresses)
    }

    fn labels(&mut self, node: Node<'_>) -> Option<Vec<(Name, Spanned<Arc<str>>)>> {
        let span = node.span;
        let Value::Map(entries) = node.value else {
            self.wrong_type(&node, "`labels` is a map from keys to text");
            return None;
        };
        if entries.is_empty() {
            self.empty(span, "`labels` is empty");
            return None;
        }
        if entries.len() > LABELS {
            let message = format!("a device with {} labels", entries.len());
            let problem = Problem::error(Code::LimitExceeded, span, message);
            self.findings.push(problem.help(format!("at most {LABELS} labels fit a device")));
            return None;
        }
        let mut labels: Vec<(Name, Spanned<Arc<str>>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(name) = self.name(&key) else { continue };
            if let Some((first, _)) = labels.iter().find(|(known, _)| *known == name) {
                let first = first.span;
                self.duplicate_key(&key, first);
                continue;
            }
            labels.extend(self.prose(&value, "a label").map(|text| (name, text)));
        }
        Some(labels)
    }

    /// `name`, `[a, b]` or `{in: …, except: …}`.
    fn selector(&mut self, node: Node<'_>) -> Option<Selector> {
        let span = Spanned::new((), node.span);
        if !matches!(node.value, Value::Map(_)) {
            let members = self.members(node)?;
            return Some(Selector { members, except: Vec::new(), span });
        }
        if let Some(problem) = colon_trap(&node) {
            self.findings.push(problem);
            return None;
        }
        let mut fields = self.fields(node, SELECTOR_KEYS, "a selection")?;
        let Some(within) = fields.take("in") else {
            let message = "`except` without `in`".to_owned();
            let problem = Problem::error(Code::MissingKey, fields.span, message);
            self.findings.push(problem.help("write {in: any, except: […]} for all but these"));
            return None;
        };
        let members = self.members(within);
        let except = fields.take("except").map_or(Some(Vec::new()), |node| self.members(node));
        Some(Selector { members: members?, except: except?, span })
    }

    fn members(&mut self, node: Node<'_>) -> Option<Vec<Spanned<Member>>> {
        self.list(node, "a name or an address", atoms::member)
    }

    /// `tcp/502`, a name, `{udp: 53, from-port: …}` or a list of them.
    fn terms(&mut self, node: Node<'_>) -> Option<Terms> {
        let span = Spanned::new((), node.span);
        let nodes = match node.value {
            Value::List(items) if items.is_empty() => {
                self.empty(node.span, "the list of services is empty");
                return None;
            }
            Value::List(items) => items,
            _ => vec![node],
        };
        let count = nodes.len();
        let terms: Vec<_> = nodes.into_iter().filter_map(|node| self.term(node)).collect();
        (terms.len() == count).then_some(Terms { terms, span })
    }

    fn term(&mut self, node: Node<'_>) -> Option<Spanned<Term>> {
        let span = node.span;
        if !matches!(node.value, Value::Map(_)) {
            return self.scalar(&node, "a service", atoms::term);
        }
        let mut fields = self.fields(node, PORT_KEYS, "a service")?;
        let from = match fields.take("from-port") {
            Some(node) => self.ports(node)?,
            None => Vec::new(),
        };
        let mut found = None;
        for protocol in PortProtocol::ALL {
            let Some(node) = fields.take(protocol.label()) else { continue };
            if found.is_some() {
                let message = "a service map names one protocol".to_owned();
                let problem = Problem::error(Code::ConflictingKeys, span, message);
                self.findings.push(problem.help("write a list of maps: [{tcp: 53}, {udp: 53}]"));
                return None;
            }
            found = Some((protocol, self.ports(node)?));
        }
        let Some((protocol, to)) = found else {
            let message = "the service does not name its protocol".to_owned();
            let problem = Problem::error(Code::MissingKey, span, message);
            self.findings.push(problem.help("write {tcp: 80}, {udp: 53, from-port: 1024-65535}…"));
            return None;
        };
        let term = if to.is_empty() && from.is_empty() {
            Term::Name(Arc::from(protocol.label()))
        } else {
            Term::Ports { protocol, to, from }
        };
        Some(Spanned::new(term, span))
    }

    /// Port ranges; `any` is the empty list and stands alone.
    fn ports(&mut self, node: Node<'_>) -> Option<Vec<(u16, u16)>> {
        let lists = self.list(node, "a port", atoms::ports)?;
        if lists.iter().any(|list| list.is_empty()) {
            return Some(Vec::new());
        }
        Some(lists.into_iter().flat_map(|list| list.value).collect())
    }

    fn rule(&mut self, node: Node<'_>) -> Option<Rule> {
        let span = node.span;
        let mut fields = self.fields(node, RULE_KEYS, "a rule")?;
        let name = fields.take("name");
        let name = match name {
            Some(node) => self.name(&node),
            None => {
                let at = fields.entries.first().map_or(span, |&(_, key, _)| key);
                self.missing("name", at, "the rule has no name", "every rule has a unique `name`");
                None
            }
        };
        let at = name.as_ref().map_or(span, |name| name.span);
        let action = match fields.take("action") {
            Some(node) => self.action(&node),
            None => {
                let help = "write `action: allow`, `deny` or `reject`";
                self.missing("action", at, "the rule has no action", help);
                None
            }
        };
        let sides = self.sides(&mut fields);
        let service = fields.take("service").map_or(Some(None), |node| self.terms(node).map(Some));
        let vlans = fields.take("vlan").map_or(Some(None), |node| self.vlans(node).map(Some));
        let wires = fields
            .take("wire")
            .map_or(Some(Vec::new()), |node| self.list(node, "a wire", |text| Ok(Arc::from(text))));
        let log = fields.take("log").map_or(Some(None), |node| self.flag(&node).map(Some));
        let starts = fields.take("starts").map_or(Some(None), |node| self.instant(&node).map(Some));
        let expires =
            fields.take("expires").map_or(Some(None), |node| self.instant(&node).map(Some));
        let reason = fields
            .take("reason")
            .map_or(Some(None), |node| self.prose(&node, "a reason").map(Some));
        let rule = Rule {
            name: name?,
            sides: sides?,
            service: service?,
            vlans: vlans?,
            wires: wires?,
            action: action?,
            log: log?,
            starts: starts?,
            expires: expires?,
            reason: reason?,
        };
        self.demand_explicit_allow(&rule);
        Some(rule)
    }

    /// An allow says everything: what is left out is more often forgotten than meant.
    fn demand_explicit_allow(&mut self, rule: &Rule) {
        if rule.action.value != Action::Allow {
            return;
        }
        let (from, to) = match &rule.sides {
            Sides::Directed { from, to } => (from.is_some(), to.is_some()),
            Sides::Between(..) => (true, true),
        };
        for (key, present) in [("from", from), ("to", to), ("service", rule.service.is_some())] {
            if !present {
                let message = format!("the allow rule {} has no `{key}`", quoted(&rule.name));
                let help = format!("write `{key}: any` if you mean it");
                self.missing(key, rule.name.span, &message, &help);
            }
        }
    }

    fn sides(&mut self, fields: &mut Fields<'_>) -> Option<Sides> {
        let between_key = fields.key_span("between");
        for key in ["from", "to"] {
            if let (Some(between), Some(at)) = (between_key, fields.key_span(key)) {
                let message = format!("`between` and `{key}` exclude each other");
                let problem = Problem::error(Code::ConflictingKeys, at, message)
                    .label(between, "`between` already names both sides");
                self.findings.push(problem.help("keep `between`, or write `from` and `to`"));
                return None;
            }
        }
        if let Some(node) = fields.take("between") {
            return self.between(node);
        }
        let from = fields.take("from").map_or(Some(None), |node| self.selector(node).map(Some));
        let to = fields.take("to").map_or(Some(None), |node| self.selector(node).map(Some));
        Some(Sides::Directed { from: from?, to: to? })
    }

    fn between(&mut self, node: Node<'_>) -> Option<Sides> {
        let help = "write [a, b]; a side of several members is a list: [[a, b], c]";
        let span = node.span;
        let Value::List(sides) = node.value else {
            self.wrong_type(&node, "`between` is a list of two sides");
            return None;
        };
        let count = sides.len();
        let mut sides = sides.into_iter();
        let (Some(one), Some(other), None) = (sides.next(), sides.next(), sides.next()) else {
            let message = format!("`between` takes two sides, not {count}");
            let problem = Problem::error(Code::InvalidValue, span, message);
            self.findings.push(problem.help(help));
            return None;
        };
        let (one, other) = (self.selector(one), self.selector(other));
        Some(Sides::Between(one?, other?))
    }

    fn assertion(&mut self, node: Node<'_>) -> Option<Assertion> {
        let span = Spanned::new((), node.span);
        let mut fields = self.fields(node, ASSERT_KEYS, "an assertion")?;
        for key in ASSERT_KEYS {
            if fields.key_span(key).is_none() {
                let message = format!("the assertion has no `{key}`");
                let help = match *key {
                    "must" => "write `must: reach` or `must: not-reach`".to_owned(),
                    _ => format!("write `{key}: any` if you mean it"),
                };
                self.missing(key, span.span, &message, &help);
            }
        }
        let from = fields.take("from").and_then(|node| self.selector(node));
        let to = fields.take("to").and_then(|node| self.selector(node));
        let service = fields.take("service").and_then(|node| self.terms(node));
        let must = fields.take("must").and_then(|node| {
            let choices = [("reach", Must::Reach), ("not-reach", Must::NotReach)];
            self.choice(&node, "must", &choices)
        });
        Some(Assertion { from: from?, to: to?, service: service?, must: must?, span })
    }

    /// `210`, `untagged`, `[outer, inner]` or `{in: [those]}`.
    fn vlans(&mut self, node: Node<'_>) -> Option<Spanned<Vec<VlanTags>>> {
        let span = node.span;
        if !matches!(node.value, Value::Map(_)) {
            return self.vlan(node).map(|tags| Spanned::new(vec![tags], span));
        }
        let mut fields = self.fields(node, &["in"], "a set of VLANs")?;
        let items = match fields.take("in") {
            Some(Node { value: Value::List(items), .. }) if !items.is_empty() => items,
            _ => {
                self.empty(span, "the set of VLANs is empty");
                return None;
            }
        };
        let count = items.len();
        let tags: Vec<_> = items.into_iter().filter_map(|node| self.vlan(node)).collect();
        (tags.len() == count).then_some(Spanned::new(tags, span))
    }

    fn vlan(&mut self, node: Node<'_>) -> Option<VlanTags> {
        let Value::List(items) = &node.value else {
            return self.scalar(&node, "a VLAN", atoms::vlan).map(|tags| tags.value);
        };
        let [outer, inner] = items.as_slice() else {
            let message = format!("a list of {} tags where two belong", items.len());
            let problem = Problem::error(Code::InvalidVlan, node.span, message);
            self.findings.push(problem.help(
                "[outer, inner] is one pair of stacked tags; several VLANs are {in: [10, 20]}",
            ));
            return None;
        };
        let outer = self.scalar(outer, "an outer tag", atoms::vid);
        let inner = self.scalar(inner, "an inner tag", atoms::vid);
        Some(VlanTags { outer: outer?.value, inner: inner?.value })
    }

    fn version(&mut self, node: &Node<'_>) -> Option<Spanned<u32>> {
        let version = self.scalar(node, "a version", |text| Ok(text.to_owned()))?;
        if version.value == VERSION {
            return Some(Spanned::new(1, version.span));
        }
        let message = format!("version {} of the language is unknown", quoted(&version));
        let problem = Problem::error(Code::UnsupportedVersion, version.span, message);
        self.findings.push(problem.help("this release reads `version: 1`"));
        None
    }

    fn action(&mut self, node: &Node<'_>) -> Option<Spanned<Action>> {
        let choices =
            [("allow", Action::Allow), ("deny", Action::Deny), ("reject", Action::Reject)];
        self.choice(node, "an action", &choices)
    }

    fn flag(&mut self, node: &Node<'_>) -> Option<bool> {
        self.choice(node, "log", &[("true", true), ("false", false)]).map(|flag| flag.value)
    }

    fn instant(&mut self, node: &Node<'_>) -> Option<Spanned<i64>> {
        self.scalar(node, "an instant", atoms::instant)
    }

    fn prose(&mut self, node: &Node<'_>, what: &str) -> Option<Spanned<Arc<str>>> {
        self.scalar(node, what, |text| {
            if text.len() > PROSE_BYTES {
                let message = format!("a text of {} bytes", text.len());
                let help = format!("at most {PROSE_BYTES} bytes fit here");
                return Err(Invalid::new(Code::InvalidValue, message).help(help));
            }
            match text.chars().find(|&c| !is_prose(c)) {
                None => Ok(Arc::from(text)),
                Some(c) => {
                    let code = u32::from(c);
                    let message = format!("a text with the control character U+{code:04X}");
                    let help = "it could forge what terminals and logs show: write plain text on \
                                one line (a folded one begins with `>-`)";
                    Err(Invalid::new(Code::InvalidValue, message).help(help))
                }
            }
        })
    }

    fn name(&mut self, node: &Node<'_>) -> Option<Name> {
        self.scalar(node, "a name", atoms::name)
    }

    fn choice<T: Copy>(
        &mut self,
        node: &Node<'_>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<Spanned<T>> {
        self.scalar(node, what, |text| {
            let found = choices.iter().find(|(label, _)| *label == text);
            found.map(|&(_, value)| value).ok_or_else(|| {
                let labels: Vec<String> =
                    choices.iter().map(|(label, _)| format!("`{label}`")).collect();
                let near = atoms::nearest(text, choices.iter().map(|(label, _)| *label));
                let invalid = Invalid::new(
                    Code::InvalidValue,
                    format!("{} is not possible here", quoted(text)),
                );
                invalid.help(match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write {}", labels.join(" or ")),
                })
            })
        })
    }

    /// One value or a list of them; nothing at all is an error.
    fn list<T>(
        &mut self,
        node: Node<'_>,
        what: &str,
        atom: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<Vec<Spanned<T>>> {
        let Value::List(items) = node.value else {
            return self.scalar(&node, what, atom).map(|value| vec![value]);
        };
        if items.is_empty() {
            self.empty(node.span, "the list is empty");
            return None;
        }
        let mut out = Vec::with_capacity(items.len());
        let count = items.len();
        for item in items {
            out.extend(self.scalar(&item, what, &atom));
            if self.findings.is_full() {
                return None;
            }
        }
        (out.len() == count).then_some(out)
    }

    fn scalar<T>(
        &mut self,
        node: &Node<'_>,
        what: &str,
        atom: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<Spanned<T>> {
        match &node.value {
            Value::Scalar(text) if !text.is_empty() => match atom(text) {
                Ok(value) => return Some(Spanned::new(value, node.span)),
                Err(invalid) => {
                    let problem = Problem::error(invalid.code, node.span, invalid.message);
                    self.findings.push(problem.maybe_help(invalid.help));
                }
            },
            Value::Scalar(_) | Value::Empty => self.empty(node.span, &format!("{what} is missing")),
            Value::List(_) | Value::Map(_) => match colon_trap(node) {
                Some(problem) => self.findings.push(problem),
                None => self.wrong_type(node, &format!("{what} is expected")),
            },
        }
        None
    }

    fn fields<'t>(
        &mut self,
        node: Node<'t>,
        known: &'static [&'static str],
        what: &str,
    ) -> Option<Fields<'t>> {
        let span = node.span;
        let Value::Map(map) = node.value else {
            self.wrong_type(&node, &format!("{what} is a map of {}", known.join(", ")));
            return None;
        };
        let mut entries: Vec<(&'static str, Span, Node<'t>)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            let Some(found) = self.key(&key, known, what) else { continue };
            if let Some(&(_, first, _)) = entries.iter().find(|(k, ..)| *k == found) {
                self.duplicate_key(&key, first);
                continue;
            }
            entries.push((found, key.span, value));
        }
        Some(Fields { entries, span })
    }

    fn key(
        &mut self,
        key: &Node<'_>,
        known: &'static [&'static str],
        what: &str,
    ) -> Option<&'static str> {
        let Value::Scalar(text) = &key.value else {
            let message = format!("{} cannot be a key", key.value.describe());
            self.findings.push(Problem::error(Code::YamlFeature, key.span, message));
            return None;
        };
        if let Some(found) = known.iter().find(|k| **k == *text) {
            return Some(found);
        }
        let message = format!("{what} has no key {}", quoted(text));
        let help = match (atoms::nearest(text, known.iter().copied()), text.as_ref()) {
            (_, "<<") => "merge keys are not part of the policy language".to_owned(),
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, _) => format!("it knows {}", known.join(", ")),
        };
        self.findings.push(Problem::error(Code::UnknownKey, key.span, message).help(help));
        None
    }

    fn duplicate_key(&mut self, key: &Node<'_>, first: Span) {
        let text = match &key.value {
            Value::Scalar(text) => quoted(text),
            _ => String::new(),
        };
        let message = format!("{text} stands twice in the same map");
        let problem = Problem::error(Code::DuplicateKey, key.span, message);
        self.findings.push(problem.label(first, "first here"));
    }

    fn missing(&mut self, key: &str, span: Span, message: &str, help: &str) {
        debug_assert!(message.contains(key));
        let problem = Problem::error(Code::MissingKey, span, message.to_owned());
        self.findings.push(problem.help(help));
    }

    fn empty(&mut self, span: Span, message: &str) {
        let problem = Problem::error(Code::EmptyList, span, message.to_owned());
        self.findings
            .push(problem.help("fill it in, or remove its key; `any` stands for everything"));
    }

    fn wrong_type(&mut self, node: &Node<'_>, expected: &str) {
        if matches!(node.value, Value::Empty) {
            return self.empty(node.span, &format!("{expected}, but nothing is written"));
        }
        let message = format!("{expected}, not {}", node.value.describe());
        self.findings.push(Problem::error(Code::WrongType, node.span, message));
    }
}

/// `[fd00::]` reads as the map `{"fd00:": }` in YAML: says so.
fn colon_trap(node: &Node<'_>) -> Option<Problem> {
    let Value::Map(entries) = &node.value else { return None };
    let [(Node { value: Value::Scalar(key), span }, Node { value: Value::Empty, .. })] =
        entries.as_slice()
    else {
        return None;
    };
    let is_address = key.contains(':') && key.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    is_address.then(|| {
        let message = "YAML reads an unquoted colon at the end as a map".to_owned();
        Problem::error(Code::YamlSyntax, *span, message)
            .help(format!("quote the address: \"{key}:\""))
    })
}

/// Whether a character may stand in prose: none that moves the cursor, ends a line or turns the
/// direction of the text around.
fn is_prose(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !(c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}'))
}
