//! Selectors to endpoints: names looked up, unions and differences taken, equal references shared.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::boxes::{Meter, Union, device_box, weight};
use super::nesting::{Nesting, Visit};
use super::{Endpoint, EndpointBox, EndpointId, Limits};
use crate::syntax::document::{Device, Group, Member, Name, Selector};
use crate::syntax::print;
use crate::syntax::span::{Span, Spanned};
use crate::syntax::{Code, Findings, Problem, nearest, quoted};

/// Names for hosts that need no definition, with what they stand for.
pub(crate) const BUILT_IN: &[(&str, &str)] = &[
    ("any", "every frame, IP or not"),
    ("any-ipv4", "0.0.0.0/0"),
    ("any-ipv6", "::/0"),
    ("unspecified", "0.0.0.0 and ::, as hosts send from before they have an address"),
    ("broadcast", "255.255.255.255, and every frame to ff:ff:ff:ff:ff:ff"),
    ("multicast", "multicast-ipv4 and multicast-ipv6"),
    ("multicast-ipv4", "224.0.0.0/4"),
    ("multicast-ipv6", "ff00::/8"),
    ("link-local", "169.254.0.0/16 and fe80::/10"),
    ("link-local-multicast", "224.0.0.0/24 and ff02::/16, which no router forwards"),
    ("private", "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 and fc00::/7"),
];

/// Whether the language keeps `name` for itself.
pub(crate) fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|(built_in, _)| *built_in == name)
}

/// What a name for hosts stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Host {
    Device(usize),
    Group(usize),
}

/// Resolves selectors; every group is resolved once.
pub(super) struct Endpoints<'d> {
    names: HashMap<&'d str, Host>,
    devices: Vec<&'d Device>,
    groups: Vec<&'d Group>,
    broken: HashSet<Arc<str>>,
    services: HashSet<&'d str>,
    device_used: Vec<bool>,
    nesting: Nesting<'d, Arc<Vec<EndpointBox>>>,
    meter: Meter,
    interned: HashMap<Key, Option<EndpointId>>,
    endpoints: Vec<Endpoint>,
}

/// Members and exceptions, sorted and distinct.
pub(super) type Key = (Vec<Member>, Vec<Member>);

impl<'d> Endpoints<'d> {
    /// Takes the definitions; a name that is defined twice is reported.
    pub(super) fn new(
        devices: Vec<&'d Device>,
        groups: Vec<&'d Group>,
        limits: Limits,
        findings: &mut Findings,
    ) -> Self {
        let mut names = HashMap::with_capacity(devices.len() + groups.len());
        let mut spans: HashMap<&str, Span> = HashMap::with_capacity(names.capacity());
        let device_names = devices.iter().enumerate().map(|(i, d)| (&d.name, Host::Device(i)));
        let group_names = groups.iter().enumerate().map(|(i, g)| (&g.name, Host::Group(i)));
        for (name, host) in device_names.chain(group_names) {
            if is_built_in(name) {
                findings.push(reserved(name));
            } else if let Some(&first) = spans.get(&***name) {
                findings.push(duplicate("the name", name, first));
            } else {
                spans.insert(name, name.span);
                names.insert(&***name, host);
            }
        }
        Self {
            names,
            device_used: vec![false; devices.len()],
            nesting: Nesting::new("group", groups.iter().map(|g| &g.name).collect(), limits.depth),
            devices,
            groups,
            broken: HashSet::new(),
            services: HashSet::new(),
            interned: HashMap::new(),
            endpoints: Vec::new(),
            meter: Meter::new(limits),
        }
    }

    /// Names whose definitions are in error already, and those of services, for better messages.
    pub(super) fn with_known(
        mut self,
        broken: &HashSet<Arc<str>>,
        services: HashSet<&'d str>,
    ) -> Self {
        self.broken.clone_from(broken);
        self.services = services;
        self
    }

    /// The endpoint of a selector in a rule or assertion; [`None`] where it had errors.
    pub(super) fn endpoint(
        &mut self,
        selector: &Selector,
        findings: &mut Findings,
    ) -> Option<EndpointId> {
        let key = (sorted(&selector.members), sorted(&selector.except));
        // One that had errors is resolved again: each mention of an unknown name is reported.
        if let Some(&Some(known)) = self.interned.get(&key) {
            return Some(known);
        }
        let boxes = self.selection(selector, findings);
        let id = boxes.map(|boxes| {
            let label = print::selector_label(selector);
            self.endpoints.push(Endpoint { label, boxes: Arc::new(boxes) });
            EndpointId(self.endpoints.len() as u32 - 1)
        });
        self.interned.insert(key, id);
        id
    }

    /// The endpoint that everything belongs to, for a key that was left out.
    pub(super) fn any(&mut self, findings: &mut Findings) -> Option<EndpointId> {
        self.endpoint(&any_selector(), findings)
    }

    /// Resolves what nothing used, for its errors, and warns of it where all rules were understood.
    pub(super) fn check_unreferenced(&mut self, findings: &mut Findings) {
        if !findings.has_errors() {
            let devices = self.devices.iter().zip(&self.device_used);
            let devices = devices.filter(|(_, used)| !**used).map(|(d, _)| ("device", &d.name));
            let groups = self.nesting.untouched().map(|name| ("group", name));
            for (kind, name) in devices.chain(groups) {
                let message = format!("no rule and no assertion uses the {kind} {}", quoted(name));
                findings.push(Problem::warning(Code::Unreferenced, name.span, message));
            }
        }
        for index in 0..self.groups.len() {
            let span = self.groups[index].name.span;
            self.group(index, span, findings);
        }
    }

    /// The endpoints, and the members and exceptions of each.
    pub(super) fn into_endpoints(self) -> (Vec<Endpoint>, Vec<Key>) {
        let mut keys = vec![Key::default(); self.endpoints.len()];
        for (key, id) in self.interned {
            if let Some(id) = id {
                keys[id.0 as usize] = key;
            }
        }
        (self.endpoints, keys)
    }

    fn selection(
        &mut self,
        selector: &Selector,
        findings: &mut Findings,
    ) -> Option<Vec<EndpointBox>> {
        let within = self.union(&selector.members, findings);
        if selector.except.is_empty() {
            return within;
        }
        let except = self.union(&selector.except, findings);
        let largest = || largest(&self.nesting);
        let boxes = self.meter.subtract(within?, &except?, selector.span(), &largest, findings)?;
        if boxes.is_empty() {
            let message = "`except` leaves nothing of the selection".to_owned();
            let problem = Problem::error(Code::EmptySelection, selector.span(), message);
            findings.push(problem.help("remove the rule, or correct `in` or `except`"));
            return None;
        }
        Some(boxes)
    }

    fn union(
        &mut self,
        members: &[Spanned<Member>],
        findings: &mut Findings,
    ) -> Option<Vec<EndpointBox>> {
        let mut union = Union::default();
        let mut complete = true;
        for member in members {
            match &member.value {
                Member::Mac(mac) => union.macs.push(*mac),
                Member::Addresses(addresses) => union.addresses(*addresses),
                Member::Name(name) if union.built_in(name) => {}
                Member::Name(name) => {
                    let boxes = self.named(name, member.span, findings);
                    match boxes {
                        Some(boxes) if self.spend(&boxes, member.span, findings) => {
                            union.boxes.extend(boxes.iter().cloned());
                        }
                        _ => complete = false,
                    }
                }
            }
        }
        let boxes = complete.then(|| union.finish())?;
        let span = members.first()?.span;
        self.meter.check_boxes(&boxes, span, findings).then_some(boxes)
    }

    fn named(
        &mut self,
        name: &str,
        span: Span,
        findings: &mut Findings,
    ) -> Option<Arc<Vec<EndpointBox>>> {
        match self.names.get(name) {
            Some(&Host::Device(index)) => {
                self.device_used[index] = true;
                Some(Arc::new(vec![device_box(self.devices[index])]))
            }
            Some(&Host::Group(index)) => self.group(index, span, findings),
            None if self.broken.contains(name) => None,
            None => {
                let is_service = self.services.contains(name);
                findings.push(unknown(name, span, self.names.keys().copied(), is_service));
                None
            }
        }
    }

    fn spend(&mut self, boxes: &[EndpointBox], span: Span, findings: &mut Findings) -> bool {
        self.meter.spend(weight(boxes), span, &|| largest(&self.nesting), findings)
    }

    fn group(
        &mut self,
        index: usize,
        reference: Span,
        findings: &mut Findings,
    ) -> Option<Arc<Vec<EndpointBox>>> {
        match self.nesting.enter(index, reference, findings) {
            Visit::Known(boxes) => boxes,
            Visit::Resolve(outer) => {
                let group = self.groups[index];
                let boxes = self.selection(&group.members, findings).map(Arc::new);
                self.nesting.leave(outer, boxes, findings)
            }
        }
    }
}

/// What stands for a side that was left out.
pub(super) fn any_selector() -> Selector {
    let any = Spanned::unplaced(Member::Name(Arc::from("any")));
    Selector { members: vec![any], except: Vec::new(), span: Spanned::unplaced(()) }
}

/// What the largest group so far weighs, and where it is.
fn largest(nesting: &Nesting<'_, Arc<Vec<EndpointBox>>>) -> Option<(usize, Span)> {
    nesting
        .values()
        .map(|(name, boxes)| (weight(boxes), name.span))
        .max_by_key(|&(weight, _)| weight)
}

/// A name for hosts that none of the `known` ones is.
pub(super) fn unknown<'n>(
    name: &str,
    span: Span,
    known: impl Iterator<Item = &'n str>,
    is_service: bool,
) -> Problem {
    let near = nearest(name, known.chain(BUILT_IN.iter().map(|(name, _)| *name)));
    let message = format!("nothing is named {}", quoted(name));
    Problem::error(Code::UnknownName, span, message).help(match near {
        _ if is_service => "it is a service: write it under `service`".to_owned(),
        Some(near) => format!("did you mean `{near}`?"),
        None => "define it under `devices` or `groups`".to_owned(),
    })
}

pub(super) fn sorted(members: &[Spanned<Member>]) -> Vec<Member> {
    let mut members: Vec<Member> = members.iter().map(|member| member.value.clone()).collect();
    members.sort_unstable();
    members.dedup();
    members
}

pub(super) fn reserved(name: &Name) -> Problem {
    let message = format!("{} has a meaning of its own and cannot be defined", quoted(name));
    Problem::error(Code::ReservedName, name.span, message).help("choose another name")
}

pub(super) fn duplicate(what: &str, name: &Name, first: Span) -> Problem {
    let message = format!("{what} {} is defined twice", quoted(name));
    Problem::error(Code::DuplicateName, name.span, message)
        .label(first, "first defined here")
        .help("rename one of them; all files of a policy share their names")
}
