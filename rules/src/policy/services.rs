//! Services to sets of terms: names looked up, equal references shared.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::endpoints::{duplicate, reserved};
use super::nesting::{Nesting, Visit};
use super::normal::join;
use super::{Limits, ServiceId, ServiceSet, ServiceTerm};
use crate::headers::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6, FrameType, protocol};
use crate::sets::{FiniteSet, RangeSet};
use crate::syntax::document::{PortProtocol, Service, Term, Terms};
use crate::syntax::print;
use crate::syntax::span::{Span, Spanned};
use crate::syntax::{Code, Findings, Problem, nearest, quoted};

/// Names for services that need no definition, with what they stand for.
pub(crate) const BUILT_IN: &[(&str, &str)] = &[
    ("any", "every frame, IP or not"),
    ("tcp", "TCP to any port"),
    ("udp", "UDP to any port"),
    ("sctp", "SCTP to any port"),
    ("icmp", "ICMP of any type, in IPv4"),
    ("icmpv6", "ICMPv6 of any type, in IPv6"),
    ("ip", "every IPv4 and IPv6 packet"),
];

/// Kept for terms, although they mean nothing alone.
const RESERVED: &[&str] = &["eth"];

/// EtherTypes that are never judged by rules, and why.
const NEVER_CLASSIFIED: &[(u16, &str)] = &[
    (ETHER_ARP, "ARP passes under its own guard"),
    (0x8100, "VLAN tags are taken off before a frame is judged: use `vlan`"),
    (0x88a8, "VLAN tags are taken off before a frame is judged: use `vlan`"),
    (0x8808, "PAUSE frames never cross"),
    (0x8809, "LACP crosses untouched"),
    (0x88cc, "LLDP crosses untouched"),
    (0x0042, "spanning tree crosses untouched, at its own addresses only"),
];

/// Resolves services; every named one is resolved once.
pub(super) struct Services<'d> {
    names: HashMap<&'d str, usize>,
    services: Vec<&'d Service>,
    broken: HashSet<Arc<str>>,
    hosts: HashSet<&'d str>,
    nesting: Nesting<'d, Arc<Vec<ServiceTerm>>>,
    interned: HashMap<Vec<Term>, ServiceId>,
    sets: Vec<ServiceSet>,
    terms_left: usize,
    limit: usize,
    exhausted: bool,
}

impl<'d> Services<'d> {
    /// Takes the definitions; a name that is defined twice is reported.
    pub(super) fn new(
        services: Vec<&'d Service>,
        limits: &Limits,
        findings: &mut Findings,
    ) -> Self {
        let mut names: HashMap<&str, usize> = HashMap::with_capacity(services.len());
        for (index, service) in services.iter().enumerate() {
            let name = &service.name;
            let built_in = BUILT_IN.iter().map(|(name, _)| name).chain(RESERVED);
            if built_in.into_iter().any(|built_in| *built_in == &***name) {
                findings.push(reserved(name));
            } else if let Some(&first) = names.get(&***name) {
                findings.push(duplicate("the service", name, services[first].name.span));
            } else {
                names.insert(name, index);
            }
        }
        Self {
            names,
            nesting: Nesting::new(
                "service",
                services.iter().map(|service| &service.name).collect(),
                limits.depth,
            ),
            services,
            broken: HashSet::new(),
            hosts: HashSet::new(),
            interned: HashMap::new(),
            sets: Vec::new(),
            terms_left: limits.terms,
            limit: limits.terms,
            exhausted: false,
        }
    }

    /// Names whose definitions are in error already, and those of hosts, for better messages.
    pub(super) fn with_known(
        mut self,
        broken: &HashSet<Arc<str>>,
        hosts: HashSet<&'d str>,
    ) -> Self {
        self.broken.clone_from(broken);
        self.hosts = hosts;
        self
    }

    /// The set of a rule's or an assertion's service; [`None`] where it had errors.
    pub(super) fn service(&mut self, terms: &Terms, findings: &mut Findings) -> Option<ServiceId> {
        let mut key: Vec<Term> = terms.terms.iter().map(|term| term.value.clone()).collect();
        key.sort_unstable();
        key.dedup();
        if let Some(&known) = self.interned.get(&key) {
            return Some(known);
        }
        let set = self.union(&terms.terms, findings)?;
        self.sets.push(ServiceSet { label: print::terms_label(terms), terms: set });
        let id = ServiceId(self.sets.len() as u32 - 1);
        self.interned.insert(key, id);
        Some(id)
    }

    /// The service that everything belongs to, for a key that was left out.
    pub(super) fn any(&mut self, findings: &mut Findings) -> Option<ServiceId> {
        self.service(&any_terms(), findings)
    }

    /// Resolves what nothing used, for its errors, and warns of it where all rules were understood.
    pub(super) fn check_unreferenced(&mut self, findings: &mut Findings) {
        let understood = !findings.has_errors();
        for name in self.nesting.untouched().filter(|_| understood) {
            let message = format!("no rule and no assertion uses the service {}", quoted(name));
            findings.push(Problem::warning(Code::Unreferenced, name.span, message));
        }
        for index in 0..self.services.len() {
            let span = self.services[index].name.span;
            self.named(index, span, findings);
        }
    }

    /// The sets; and, for edits, what each was made of, what the named services stand for, and how
    /// many terms resolving took.
    pub(super) fn into_sets(self) -> (Vec<ServiceSet>, Vec<Vec<Term>>, Named, usize) {
        let mut keys = vec![Vec::new(); self.sets.len()];
        for (key, id) in self.interned {
            keys[id.0 as usize] = key;
        }
        let named = self.nesting.values();
        let named = named.map(|(name, terms)| (Arc::clone(&name.value), Arc::clone(terms)));
        let named = named.collect();
        (self.sets, keys, named, self.limit - self.terms_left)
    }

    fn union(
        &mut self,
        terms: &[Spanned<Term>],
        findings: &mut Findings,
    ) -> Option<Vec<ServiceTerm>> {
        let mut union = Vec::with_capacity(terms.len());
        let mut complete = true;
        for term in terms {
            if let Some(simple) = simple_term(&term.value) {
                warn_never_matching(&term.value, term.span, findings);
                union.push(simple);
                continue;
            }
            let Term::Name(name) = &term.value else { continue };
            let resolved = match self.names.get(&**name) {
                Some(&index) => self.named(index, term.span, findings),
                None if self.broken.contains(name) => None,
                None => {
                    let known = self.names.keys().copied();
                    findings.push(unknown(name, term.span, known, self.hosts.contains(&**name)));
                    None
                }
            };
            match resolved {
                Some(resolved) if self.spend(resolved.len(), term.span, findings) => {
                    union.extend(resolved.iter().cloned());
                }
                _ => complete = false,
            }
        }
        complete.then(|| normalise(union))
    }

    fn named(
        &mut self,
        index: usize,
        reference: Span,
        findings: &mut Findings,
    ) -> Option<Arc<Vec<ServiceTerm>>> {
        match self.nesting.enter(index, reference, findings) {
            Visit::Known(terms) => terms,
            Visit::Resolve(outer) => {
                let service = self.services[index];
                let terms = self.union(&service.terms.terms, findings).map(Arc::new);
                self.nesting.leave(outer, terms, findings)
            }
        }
    }

    fn spend(&mut self, amount: usize, span: Span, findings: &mut Findings) -> bool {
        if let Some(left) = self.terms_left.checked_sub(amount) {
            self.terms_left = left;
            return true;
        }
        self.terms_left = 0;
        if !std::mem::replace(&mut self.exhausted, true) {
            findings.push(too_many_terms(self.limit, span));
        }
        false
    }
}

/// What stands for a service that was left out.
pub(super) fn any_terms() -> Terms {
    let any = Spanned::unplaced(Term::Name(Arc::from("any")));
    Terms { terms: vec![any], span: Spanned::unplaced(()) }
}

fn too_many_terms(limit: usize, span: Span) -> Problem {
    let message = format!("the services stand for more than {limit} terms");
    Problem::error(Code::LimitExceeded, span, message)
}

/// A name for services that none of the `known` ones is.
fn unknown<'n>(
    name: &str,
    span: Span,
    known: impl Iterator<Item = &'n str>,
    is_host: bool,
) -> Problem {
    let near = nearest(name, known.chain(BUILT_IN.iter().map(|(name, _)| *name)));
    let message = format!("no service is named {}", quoted(name));
    Problem::error(Code::UnknownName, span, message).help(match near {
        _ if is_host => "it is a device or a group: write it under `from` or `to`".to_owned(),
        Some(near) => format!("did you mean `{near}`?"),
        None => "define it under `services`, or write it as tcp/502".to_owned(),
    })
}

/// Named services as they were resolved.
pub(super) type Named = HashMap<Arc<str>, Arc<Vec<ServiceTerm>>>;

/// What the terms of a rule stand for where the named services are resolved already, and how many
/// terms that took of at most `left`.
pub(super) fn resolve(
    terms: &Terms,
    services: &Named,
    is_host: impl Fn(&str) -> bool,
    (left, limit): (usize, usize),
    findings: &mut Findings,
) -> Option<(Vec<ServiceTerm>, usize)> {
    let (mut union, mut spent, mut known) = (Vec::with_capacity(terms.terms.len()), 0, true);
    for term in &terms.terms {
        let Term::Name(name) = &term.value else {
            warn_never_matching(&term.value, term.span, findings);
            union.extend(simple_term(&term.value));
            continue;
        };
        match (simple_term(&term.value), services.get(name)) {
            (Some(simple), _) => union.push(simple),
            (None, Some(resolved)) => {
                spent += resolved.len();
                if spent > left {
                    findings.push(too_many_terms(limit, term.span));
                    return None;
                }
                union.extend(resolved.iter().cloned());
            }
            (None, None) => {
                let names = services.keys().map(|name| &**name);
                findings.push(unknown(name, term.span, names, is_host(name)));
                known = false;
            }
        }
    }
    known.then(|| (normalise(union), spent))
}

/// What a term stands for that is no defined name.
fn simple_term(term: &Term) -> Option<ServiceTerm> {
    let ip = || FiniteSet::only([ETHER_IPV4, ETHER_IPV6]);
    let full = RangeSet::<u16>::full;
    let of = |ether_types: FiniteSet<u16>, protocols: FiniteSet<u8>| ServiceTerm {
        ether_types,
        protocols,
        src_ports: full(),
        dst_ports: full(),
    };
    Some(match term {
        Term::Name(name) => match &**name {
            "any" => of(FiniteSet::any(), FiniteSet::any()),
            "tcp" => of(ip(), FiniteSet::only([protocol::TCP])),
            "udp" => of(ip(), FiniteSet::only([protocol::UDP])),
            "sctp" => of(ip(), FiniteSet::only([protocol::SCTP])),
            "icmp" => of(FiniteSet::only([ETHER_IPV4]), FiniteSet::only([protocol::ICMP])),
            "icmpv6" => of(FiniteSet::only([ETHER_IPV6]), FiniteSet::only([protocol::ICMPV6])),
            "ip" => of(ip(), FiniteSet::any()),
            _ => return None,
        },
        Term::Ports { protocol, to, from } => {
            let number = match protocol {
                PortProtocol::Tcp => protocol::TCP,
                PortProtocol::Udp => protocol::UDP,
                PortProtocol::Sctp => protocol::SCTP,
            };
            ServiceTerm {
                src_ports: ports(from),
                dst_ports: ports(to),
                ..of(ip(), FiniteSet::only([number]))
            }
        }
        &Term::Icmp { v6, kind, code } => {
            let (ether, number) =
                if v6 { (ETHER_IPV6, protocol::ICMPV6) } else { (ETHER_IPV4, protocol::ICMP) };
            let (low, high) = code.map_or((0, 0xff), |code| (u16::from(code), u16::from(code)));
            let base = u16::from(kind) << 8;
            ServiceTerm {
                dst_ports: RangeSet::<u16>::from_ranges([(base | low, base | high)]),
                ..of(FiniteSet::only([ether]), FiniteSet::only([number]))
            }
        }
        &Term::Ip(number) => of(ip(), FiniteSet::only([number])),
        &Term::Ether(ether) => of(FiniteSet::only([ether]), FiniteSet::any()),
    })
}

fn ports(ranges: &[(u16, u16)]) -> RangeSet<u16> {
    if ranges.is_empty() {
        RangeSet::<u16>::full()
    } else {
        RangeSet::<u16>::from_ranges(ranges.iter().copied())
    }
}

fn warn_never_matching(term: &Term, span: Span, findings: &mut Findings) {
    let Term::Ether(ether) = term else { return };
    if let Some((_, why)) = NEVER_CLASSIFIED.iter().find(|(known, _)| known == ether) {
        let message = format!("no rule ever sees {}", FrameType(*ether));
        findings.push(Problem::warning(Code::NeverMatches, span, message).help(*why));
    }
}

/// Joins terms that differ in their destination ports only, then those that differ in their
/// protocols only, so that `[udp/53, tcp/53]` is one term.
fn normalise(terms: Vec<ServiceTerm>) -> Vec<ServiceTerm> {
    if terms.len() < 2 {
        return terms;
    }
    let is_any = |t: &ServiceTerm| {
        t.ether_types.is_any()
            && t.protocols.is_any()
            && t.src_ports.is_full()
            && t.dst_ports.is_full()
    };
    if let Some(all) = terms.iter().find(|term| is_any(term)) {
        return vec![all.clone()];
    }
    let by_ports = join(
        terms,
        |t| ((t.ether_types, t.protocols, t.src_ports), t.dst_ports),
        |(ether_types, protocols, src_ports), parts: Vec<RangeSet<u16>>| {
            let ranges = parts.iter().flat_map(|part| part.ranges()).copied();
            let dst_ports = RangeSet::<u16>::from_ranges(ranges);
            ServiceTerm { ether_types, protocols, src_ports, dst_ports }
        },
    );
    join(
        by_ports,
        |t| ((t.ether_types, t.src_ports, t.dst_ports), t.protocols),
        |(ether_types, src_ports, dst_ports), parts: Vec<FiniteSet<u8>>| {
            let protocols = FiniteSet::union_all(parts);
            ServiceTerm { ether_types, protocols, src_ports, dst_ports }
        },
    )
}
