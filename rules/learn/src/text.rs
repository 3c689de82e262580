//! A proposal as policy text, with the evidence for each rule in its `reason`.
//!
//! The text enters the rule line at its start, like any human's. Every rule says how many edges stand
//! behind it, how many pairs it permits that nobody used, and where somebody has to look: exceptions
//! come last and are marked, since lockdown waits for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bulkhead_rules::policy::Action;
use bulkhead_rules::syntax::document::{
    Addresses, Device, Document, Group, Member, Rule as RuleText, Selector, Sides, Term, Terms,
};
use bulkhead_rules::syntax::span::{Span, Spanned};

use crate::confidence::Confidence;
use crate::explain::Explanation;
use crate::learn::{Kind, Proposal};
use crate::observe::{HostKey, Service};
use crate::store::{Host, HostId, Store};

/// Longest name that the language takes.
const NAME_BYTES: usize = 63;

/// Rules and groups for a proposal, in the file that the learner owns.
#[derive(Clone, PartialEq, Debug)]
pub struct PolicyText {
    /// The document; its text is what [`fmt::Display`] writes, below the head.
    pub document: Document,
    /// The name of each rule of the proposal, in its order; [`None`] where it was left out because
    /// its hosts cannot be written, or somebody wrote the same by hand.
    pub rules: Vec<Option<Arc<str>>>,
    /// Hosts that no rule can name, because neither an address nor a MAC address of theirs is known.
    pub nameless: usize,
    head: String,
}

impl fmt::Display for PolicyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head)?;
        self.document.fmt(f)
    }
}

/// What is written around a proposal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'c> {
    /// Names of the units, by [`crate::names`]; roles without one are called `role-` and a number.
    pub names: &'c [Arc<str>],
    /// What is expected to be denied.
    pub confidence: Option<Confidence>,
    /// Names of devices, groups and rules that other files define.
    pub taken: Option<&'c BTreeSet<Arc<str>>>,
    /// Seconds that one of the store's hours stands for, where it is not one; 0 where it is.
    pub period_s: u32,
}

/// Writes a proposal. `is_by_hand` says of an edge whether a rule that a person wrote permits it
/// already: a rule whose witnesses are all of that kind is not repeated.
pub fn write(
    store: &Store,
    proposal: &Proposal,
    explanations: &[Explanation],
    context: Context<'_>,
    is_by_hand: impl Fn(HostId, HostId, Service) -> bool,
) -> PolicyText {
    let mut writer = Writer::new(store, proposal, context);
    let repeated = by_hand(proposal, is_by_hand);
    let mut order: Vec<usize> = (0..proposal.rules.len()).collect();
    order.sort_by_key(|&at| (proposal.rules[at].kind == Kind::Exception, at));
    let mut names = vec![None; proposal.rules.len()];
    let mut rules = Vec::new();
    for at in order {
        if repeated[at] {
            continue;
        }
        if let Some(rule) = writer.rule(at, explanations.get(at)) {
            names[at] = Some(Arc::clone(&rule.name.value));
            rules.push(rule);
        }
    }
    let head = head(store, proposal, context, repeated.iter().filter(|r| **r).count());
    let document = Document {
        version: Some(Spanned::unplaced(1)),
        devices: writer.devices.into_values().collect(),
        groups: writer.groups.into_values().collect(),
        rules,
        ..Document::default()
    };
    let nameless = writer.members.iter().filter(|member| member.is_none()).count();
    PolicyText { document, rules: names, nameless, head }
}

/// Which rules have no witness that a rule written by hand does not permit.
fn by_hand(proposal: &Proposal, is_by_hand: impl Fn(HostId, HostId, Service) -> bool) -> Vec<bool> {
    let permits = crate::confidence::Permits::new(proposal, proposal.role_of.len());
    let mut witnessed = vec![false; proposal.rules.len()];
    let mut repeated = vec![true; proposal.rules.len()];
    for &(client, server, service) in &proposal.witnesses {
        if let Some(rule) = permits.rule(client, server, service) {
            witnessed[rule as usize] = true;
            repeated[rule as usize] &= is_by_hand(client, server, service);
        }
    }
    repeated.iter().zip(witnessed).map(|(repeated, witnessed)| *repeated && witnessed).collect()
}

struct Writer<'w> {
    proposal: &'w Proposal,
    context: Context<'w>,
    /// What stands for each host.
    members: Vec<Option<Vec<Member>>>,
    devices: BTreeMap<Arc<str>, Device>,
    groups: BTreeMap<Arc<str>, Group>,
    unit_members: HashMap<u32, Option<Member>>,
    taken: BTreeSet<Arc<str>>,
    rule_names: BTreeSet<Arc<str>>,
}

impl<'w> Writer<'w> {
    fn new(store: &'w Store, proposal: &'w Proposal, context: Context<'w>) -> Self {
        let mut writer = Self {
            proposal,
            context,
            members: Vec::new(),
            devices: BTreeMap::new(),
            groups: BTreeMap::new(),
            unit_members: HashMap::new(),
            taken: context.taken.cloned().unwrap_or_default(),
            rule_names: context.taken.cloned().unwrap_or_default(),
        };
        let mut used = vec![false; store.hosts().len()];
        for rule in &proposal.rules {
            for host in rule.clients.iter().chain(&rule.servers) {
                for member in &proposal.units[*host as usize] {
                    used[member.0 as usize] = true;
                }
            }
        }
        for (host, used) in store.hosts().iter().zip(used) {
            let members = if used { writer.host(host) } else { Some(Vec::new()) };
            writer.members.push(members);
        }
        writer
    }

    /// What stands for a host: its addresses, or a device where it has a MAC address or a name.
    fn host(&mut self, host: &Host) -> Option<Vec<Member>> {
        let facts = &host.facts;
        let mut addresses = facts.addresses.clone();
        let mut mac = facts.mac;
        match host.key {
            HostKey::Address(address) => addresses.push(address),
            HostKey::Mac(key) => mac = Some(key),
            HostKey::Name(_) => {}
            HostKey::Number(number) => {
                // Anonymised hosts are written in the benchmarking range of RFC 5180.
                addresses.push(std::net::Ipv6Addr::from(BENCHMARKING | u128::from(number)).into());
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        let named = facts.name.as_deref().or(match &host.key {
            HostKey::Name(name) => Some(name),
            _ => None,
        });
        if addresses.is_empty() && mac.is_none() {
            return None;
        }
        if mac.is_none() && named.is_none() {
            let one = |address| Member::Addresses(Addresses::One(address));
            return Some(addresses.into_iter().map(one).collect());
        }
        let wanted = named.map_or_else(|| format!("host-{}", host.key), str::to_owned);
        let name = self.fresh(&wanted);
        // Where there is a MAC address the bindings find its addresses; what it has now may change.
        let device = Device {
            name: Spanned::unplaced(Arc::clone(&name)),
            macs: mac.map(Spanned::unplaced).into_iter().collect(),
            addresses: if mac.is_some() {
                Vec::new()
            } else {
                addresses.into_iter().map(|a| Spanned::unplaced(Addresses::One(a))).collect()
            },
            vlans: None,
            labels: Vec::new(),
        };
        self.devices.insert(Arc::clone(&name), device);
        Some(vec![Member::Name(name)])
    }

    /// The group that stands for a unit, or its only host.
    fn unit(&mut self, unit: u32) -> Option<Member> {
        if let Some(known) = self.unit_members.get(&unit) {
            return known.clone();
        }
        let hosts = &self.proposal.units[unit as usize];
        let members: Vec<Member> = hosts
            .iter()
            .filter_map(|host| self.members[host.0 as usize].clone())
            .flatten()
            .collect();
        let member = match members.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            _ => {
                let wanted = self.context.names.get(unit as usize);
                let wanted = wanted.map_or_else(|| format!("role-{unit}"), |name| name.to_string());
                let name = self.fresh(&wanted);
                let group = Group {
                    name: Spanned::unplaced(Arc::clone(&name)),
                    members: selector(members),
                };
                self.groups.insert(Arc::clone(&name), group);
                Some(Member::Name(name))
            }
        };
        self.unit_members.insert(unit, member.clone());
        member
    }

    fn side(&mut self, units: &[u32]) -> Option<Selector> {
        let members: Vec<Member> = units.iter().filter_map(|&unit| self.unit(unit)).collect();
        (!members.is_empty()).then(|| selector(members))
    }

    fn rule(&mut self, at: usize, explanation: Option<&Explanation>) -> Option<RuleText> {
        let rule = &self.proposal.rules[at];
        let (from, to) = (self.side(&rule.clients)?, self.side(&rule.servers)?);
        let terms: Vec<Term> = rule.services.iter().copied().map(term).collect();
        let prefix = match rule.kind {
            Kind::Roles => "learned",
            Kind::Mesh => "learned-mesh",
            Kind::Exception => "exception",
        };
        let service = rule.services.first().copied();
        let (client, server) = (
            self.label(&from, &rule.clients, service, false),
            self.label(&to, &rule.servers, service, true),
        );
        let wanted = format!("{prefix}-{client}-to-{server}");
        let name = fresh(&wanted, &mut self.rule_names);
        let period_s = self.context.period_s;
        let reason = explanation.map(|explanation| reason(rule.kind, explanation, period_s));
        Some(RuleText {
            name: Spanned::unplaced(name),
            sides: Sides::Directed { from: Some(from), to: Some(to) },
            service: Some(Terms { terms: unplaced(terms), span: Spanned::unplaced(()) }),
            vlans: None,
            wires: Vec::new(),
            action: Spanned::unplaced(Action::Allow),
            log: None,
            starts: None,
            expires: None,
            reason: reason.map(|reason| Spanned::unplaced(Arc::from(reason))),
        })
    }

    /// What a rule's name calls one of its sides: by the name of its device or group; a single host
    /// that has none by what it does and the end of its address, so that it keeps the name whoever else
    /// comes; several by what they have in common, which is the rule's service.
    fn label(
        &self,
        selector: &Selector,
        units: &[u32],
        service: Option<Service>,
        serves: bool,
    ) -> String {
        let hosts = self.proposal.hosts(units).len();
        let side = service.map(|service| crate::names::side(service, serves, hosts));
        match (selector.members.as_slice(), side) {
            ([one], side) => match (&one.value, side) {
                (Member::Name(name), _) => name.to_string(),
                (Member::Addresses(Addresses::One(address)), Some(side)) => {
                    format!("{side}-{}", end_of(*address))
                }
                (other, _) => slug(&other.to_string()),
            },
            (_, Some(side)) => side,
            (several, None) => format!("{}-hosts", several.len()),
        }
    }

    fn fresh(&mut self, wanted: &str) -> Arc<str> {
        fresh(wanted, &mut self.taken)
    }
}

/// The end of an address by which a site's people tell hosts apart.
fn end_of(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(address) => {
            let [.., third, fourth] = address.octets();
            format!("{third}-{fourth}")
        }
        std::net::IpAddr::V6(address) => {
            let [.., seventh, eighth] = address.segments();
            format!("{seventh:x}-{eighth:x}")
        }
    }
}

/// 2001:2::/48.
const BENCHMARKING: u128 = 0x2001_0002 << 96;

fn reason(kind: Kind, explanation: &Explanation, period_s: u32) -> String {
    let Explanation { witnesses, unused, hours, .. } = explanation;
    let hours = periods(*hours, period_s);
    let mut text = format!(
        "origin learned; {witnesses} edges seen over {hours}; \
         {unused} permitted pairs that nobody used"
    );
    if kind == Kind::Exception {
        text.push_str("; APPROVE OR REMOVE: only one member of its role does this");
    }
    text
}

/// So many hours, or other periods.
pub fn periods(count: u32, period_s: u32) -> String {
    match period_s {
        0 | 3600 => format!("{count} hours"),
        seconds => format!("{count} periods of {seconds} s"),
    }
}

fn head(store: &Store, proposal: &Proposal, context: Context<'_>, by_hand: usize) -> String {
    let exceptions = proposal.rules.iter().filter(|rule| rule.kind == Kind::Exception).count();
    let mut head = format!(
        "# Proposed by learning from {}: {} hosts, {} edges.\n",
        periods(store.hours(), context.period_s),
        store.hosts().len(),
        proposal.witnesses.len(),
    );
    match context.confidence {
        Some(confidence) => head.push_str(&format!(
            "# Expected to deny {:.4} % of what is used in the next {}, from {:.4} % to {:.4} %: {:.4} %\n\
             # of hosts that are yet to come; {:.4} % was denied with a quarter of the time held out.\n",
            confidence.denied * 100.0,
            periods(confidence.ahead, context.period_s),
            confidence.least * 100.0,
            confidence.most * 100.0,
            confidence.newcomers * 100.0,
            confidence.held_out * 100.0,
        )),
        None => head.push_str("# Too little was seen to say what this would deny.\n"),
    }
    head.push_str(&format!(
        "# {exceptions} exceptions to approve; {} edges made no rule; {} flows of unknown direction.\n",
        proposal.doubtful.len(),
        store.held_back(),
    ));
    if by_hand > 0 {
        head.push_str(&format!(
            "# {by_hand} rules left out: rules written by hand permit the same.\n"
        ));
    }
    head
}

fn term(service: Service) -> Term {
    let ports =
        |protocol, first, last| Term::Ports { protocol, to: vec![(first, last)], from: Vec::new() };
    match service {
        Service::Port(protocol, port) => ports(protocol, port.max(1), port.max(1)),
        Service::Dynamic(protocol, first) => ports(protocol, first, u16::MAX),
        Service::Icmp { v6, kind } => Term::Icmp { v6, kind, code: None },
        Service::Ip(number) => Term::Ip(number),
        Service::Ether(number) => Term::Ether(number),
    }
}

fn selector(mut members: Vec<Member>) -> Selector {
    members.sort();
    members.dedup();
    let span = Spanned::unplaced(());
    Selector { members: unplaced(members), except: Vec::new(), span }
}

fn unplaced<T>(values: Vec<T>) -> Vec<Spanned<T>> {
    values.into_iter().map(|value| Spanned::new(value, Span::default())).collect()
}

/// A name of the language that nothing has yet.
fn fresh(wanted: &str, taken: &mut BTreeSet<Arc<str>>) -> Arc<str> {
    let base = slug(wanted);
    let mut name: Arc<str> = Arc::from(base.as_str());
    let mut next = 2;
    while taken.contains(&name) {
        let suffix = format!("-{next}");
        let kept = &base[..base.len().min(NAME_BYTES - suffix.len())];
        name = Arc::from(format!("{}{suffix}", kept.trim_end_matches('-')));
        next += 1;
    }
    taken.insert(Arc::clone(&name));
    name
}

/// Free text as a name: lower-case letters, digits and hyphens, starting with a letter. Names that
/// the language keeps for itself get a prefix.
pub(crate) fn slug(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    let name = name.trim_matches('-');
    let reads_otherwise = RESERVED.contains(&name)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name
            .split('-')
            .all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()));
    let mut name = if reads_otherwise { format!("x-{name}") } else { name.to_owned() };
    name.truncate(NAME_BYTES);
    name.trim_end_matches('-').to_owned()
}

const RESERVED: [&str; 16] = [
    "any",
    "any-ipv4",
    "any-ipv6",
    "unspecified",
    "broadcast",
    "multicast",
    "multicast-ipv4",
    "multicast-ipv6",
    "link-local",
    "link-local-multicast",
    "private",
    "null",
    "true",
    "false",
    "default",
    "other",
];
