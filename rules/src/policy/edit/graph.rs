//! Which selector names which group, and what each stands for, kept so that a change of one member
//! reaches all that depend on it and costs what it changes.
//!
//! Groups and the selectors of rules are nodes. As long as nothing in a node asks for a MAC address
//! or a VLAN, it is plain: its members are counted ([`Counts`]), and what enters or leaves it is
//! exactly what its parents count in turn. Every other node is resolved anew when something in it
//! changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::counts::{Counts, Move, Piece, pieces, plain_pieces};
use crate::policy::boxes::{Meter, Union, device_box, weight};
use crate::policy::endpoints::{Host, Key, is_built_in, unknown};
use crate::policy::nesting::{contains_itself, too_deep};
use crate::policy::pages::{Pages, Sorted};
use crate::policy::services::Named;
use crate::policy::{EndpointBox, EndpointId, Limits};
use crate::syntax::document::{Device, Group, Member, Selector};
use crate::syntax::span::{Span, Spanned};
use crate::syntax::{Code, Findings, Problem, quoted};

/// What the text defines by name. No edit changes it.
#[derive(Debug, Default)]
pub(super) struct Names {
    hosts: HashMap<Arc<str>, Host>,
    devices: Vec<EndpointBox>,
    services: Named,
}

impl Names {
    pub(super) fn new(devices: &[Device], groups: &[Group], services: &Named) -> Self {
        let device_names = devices.iter().map(|device| &device.name.value);
        let device_names = device_names.enumerate().map(|(i, name)| (name, Host::Device(i)));
        let group_names = groups.iter().map(|group| &group.name.value);
        let group_names = group_names.enumerate().map(|(i, name)| (name, Host::Group(i)));
        let hosts = device_names.chain(group_names);
        Self {
            hosts: hosts.map(|(name, host)| (Arc::clone(name), host)).collect(),
            devices: devices.iter().map(device_box).collect(),
            services: services.clone(),
        }
    }

    /// The defined services.
    pub(super) fn services(&self) -> &Named {
        &self.services
    }

    /// The names of devices and groups, in no order.
    pub(super) fn host_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.keys()
    }

    /// Whether a device or a group has the name.
    pub(super) fn is_host(&self, name: &str) -> bool {
        self.hosts.contains_key(name)
    }

    /// The node of a group.
    pub(super) fn group(&self, name: &str) -> Option<u32> {
        match self.hosts.get(name) {
            Some(&Host::Group(index)) => Some(index as u32),
            _ => None,
        }
    }

    fn is_known(&self, member: &Spanned<Member>, findings: &mut Findings) -> bool {
        let Member::Name(name) = &member.value else { return true };
        let known = is_built_in(name) || self.hosts.contains_key(name);
        if !known {
            let hosts = self.hosts.keys().map(|name| &**name);
            let is_service = self.services.contains_key(name);
            findings.push(unknown(name, member.span, hosts, is_service));
        }
        known
    }
}

/// All nodes: groups first, in the order of their definition, then selectors of endpoints.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    names: Arc<Names>,
    nodes: Pages<Arc<Node>>,
    /// Nodes of endpoints that are no more.
    free: Sorted<u32>,
    limits: Limits,
    /// What resolving all nodes takes of [`Limits::ranges`].
    spent: usize,
    /// What it takes of [`Limits::steps`].
    steps: usize,
}

#[derive(Clone, Default, Debug)]
struct Node {
    /// The group's.
    name: Option<Arc<str>>,
    within: Side,
    except: Side,
    /// What of `within` is not in `except`, where there is an `except`. Plain nodes only.
    difference: Option<Counts>,
    /// What the node stands for where it is not plain.
    boxes: Option<Arc<Vec<EndpointBox>>>,
    /// The nodes that name this one, ascending.
    parents: Vec<u32>,
    /// The endpoint that stands for the same.
    endpoint: Option<EndpointId>,
    /// One more than the levels of the groups that it names.
    levels: usize,
    /// What naming it takes of [`Limits::ranges`].
    weight: usize,
    /// The weights of what it names. Plain nodes only.
    named: usize,
    spent: usize,
    steps: usize,
}

/// One list of members.
#[derive(Clone, Default, Debug)]
struct Side {
    members: Sorted<Member>,
    /// Plain nodes only.
    counts: Counts,
}

/// An endpoint whose hosts changed.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) endpoint: EndpointId,
    node: u32,
    /// What moved; [`None`] where that is not known.
    moves: Option<Arc<Vec<Move>>>,
}

/// What a node that another one names tells it.
struct Incoming {
    child: u32,
    weight_before: usize,
    moves: Option<Arc<Vec<Move>>>,
}

/// Where problems of an edit go.
pub(super) struct Report<'f> {
    pub(super) findings: &'f mut Findings,
    /// The edit's text.
    pub(super) span: Span,
    /// What resolving took of the ranges and of the steps before the edit.
    before: (usize, usize),
}

impl Node {
    /// What a plain node stands for.
    fn counts(&self) -> &Counts {
        self.difference.as_ref().unwrap_or(&self.within.counts)
    }

    /// What it takes that an endpoint is this group.
    fn reference(&self) -> usize {
        if self.name.is_some() && self.endpoint.is_some() { self.weight } else { 0 }
    }

    fn is_plain(&self) -> bool {
        self.boxes.is_none()
    }

    fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        // Names sort before everything else.
        [&self.within, &self.except].into_iter().flat_map(|side| {
            side.members.iter().map_while(|member| match member {
                Member::Name(name) => Some(name),
                _ => None,
            })
        })
    }

    /// Moves something into or out of one list; returns what thereby moves in the node.
    fn moved(&mut self, in_except: bool, moves: &[Move]) -> Vec<Move> {
        let mut out = Vec::with_capacity(moves.len());
        for &moved in moves {
            let side = if in_except { &mut self.except } else { &mut self.within };
            let side_moves = side.counts.change(moved);
            let Some(difference) = &mut self.difference else {
                out.extend(side_moves);
                continue;
            };
            for Move { piece, enters } in side_moves {
                let (pieces, enters) = if in_except {
                    (self.within.counts.held(piece), !enters)
                } else {
                    (self.except.counts.free(piece), enters)
                };
                for piece in pieces {
                    out.extend(difference.change(Move { piece, enters }));
                }
            }
        }
        out
    }
}

impl Graph {
    /// The graph of a policy that was loaded, and the nodes of its endpoints, whose selectors are
    /// given.
    pub(super) fn of(
        names: Arc<Names>,
        groups: &[Group],
        selectors: &[Key],
        limits: Limits,
    ) -> (Self, Pages<u32>) {
        let side = |members: &[Spanned<Member>]| Side {
            members: Sorted::from_ascending(crate::policy::endpoints::sorted(members)),
            counts: Counts::default(),
        };
        let nodes = groups.iter().map(|group| Node {
            name: Some(Arc::clone(&group.name.value)),
            within: side(&group.members.members),
            except: side(&group.members.except),
            ..Node::default()
        });
        let nodes = nodes.map(Arc::new).collect();
        // Loading has kept the limits, and told where each was exceeded.
        let unlimited =
            Limits { ranges: usize::MAX, steps: usize::MAX, boxes: usize::MAX, ..limits };
        let free = Sorted::default();
        let mut graph = Self { names, nodes, free, limits: unlimited, spent: 0, steps: 0 };
        for group in 0..groups.len() as u32 {
            graph.link(group, true);
        }
        let mut done = vec![false; groups.len()];
        for group in 0..groups.len() as u32 {
            graph.settle_all(group, &mut done);
        }
        let place = |(endpoint, (within, except)): (u32, &Key)| {
            let id = EndpointId(endpoint);
            let node = graph.place_selector(within.clone(), except.clone(), id);
            if graph.nodes[node as usize].name.is_none() {
                graph.resolve_loaded(node);
            }
            node
        };
        let nodes = (0..).zip(selectors).map(place).collect();
        graph.limits = limits;
        (graph, nodes)
    }

    /// A report of an edit of this graph.
    pub(super) fn report<'f>(&self, findings: &'f mut Findings, span: Span) -> Report<'f> {
        Report { findings, span, before: (self.spent, self.steps) }
    }

    pub(super) fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// What resolving all nodes takes of the ranges and the steps of [`Limits`].
    #[cfg(test)]
    pub(super) fn costs(&self) -> (usize, usize) {
        (self.spent, self.steps)
    }

    /// The names of all groups.
    pub(super) fn group_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|node| node.name.as_deref())
    }

    /// The members of a group, ascending.
    pub(super) fn members(&self, group: u32) -> &Sorted<Member> {
        &self.nodes[group as usize].within.members
    }

    /// Whether the node's selector has exactly these members and exceptions, each ascending.
    pub(super) fn is_selector(&self, node: u32, (within, except): &Key) -> bool {
        let node = &self.nodes[node as usize];
        match (&node.name, within.as_slice()) {
            (Some(name), [Member::Name(only)]) => except.is_empty() && name == only,
            (Some(_), _) => false,
            (None, _) => {
                node.within.members.iter().eq(within) && node.except.members.iter().eq(except)
            }
        }
    }

    /// Takes in the selector of a new endpoint. Returns its node.
    pub(super) fn add_selector(
        &mut self,
        selector: &Selector,
        key: Key,
        endpoint: EndpointId,
        findings: &mut Findings,
    ) -> Option<u32> {
        let mut known = true;
        for member in selector.members.iter().chain(&selector.except) {
            known &= self.names.is_known(member, findings);
        }
        if !known {
            return None;
        }
        let mut report = self.report(findings, selector.span());
        let node = self.place_selector(key.0, key.1, endpoint);
        self.check(node, &mut report).then_some(node)
    }

    /// Forgets the selector of an endpoint that nothing uses.
    pub(super) fn remove_selector(&mut self, node: u32) {
        if self.nodes[node as usize].name.is_some() {
            let group = self.node_mut(node);
            let weight = group.reference();
            group.spent -= weight;
            group.endpoint = None;
            self.spent -= weight;
            return;
        }
        self.link(node, false);
        let gone = std::mem::take(self.node_mut(node));
        self.spent -= gone.spent;
        self.steps -= gone.steps;
        self.free.insert(node);
    }

    /// What the node stands for.
    pub(super) fn boxes(&self, node: u32) -> Arc<Vec<EndpointBox>> {
        let node = &self.nodes[node as usize];
        match &node.boxes {
            Some(boxes) => Arc::clone(boxes),
            None => Arc::new(vec![node.counts().plain_box()]),
        }
    }

    /// What a changed endpoint has become, and where.
    pub(super) fn after(
        &self,
        changed: &Changed,
        before: &[EndpointBox],
    ) -> (Arc<Vec<EndpointBox>>, super::EndpointChange) {
        let node = &self.nodes[changed.node as usize];
        match (&changed.moves, before) {
            (Some(moves), [before]) => {
                let (addrs, change) = node.counts().after(&before.addrs, moves, changed.endpoint);
                (Arc::new(vec![super::counts::plain(addrs)]), change)
            }
            _ => (self.boxes(changed.node), super::EndpointChange::other(changed.endpoint)),
        }
    }

    /// Adds a member to a group that has it not, or removes one that it has. Returns the endpoints
    /// that changed; [`None`], and a graph that is of no more use, where the result is in error.
    pub(super) fn edit_member(
        &mut self,
        group: u32,
        member: &Spanned<Member>,
        adds: bool,
        report: &mut Report<'_>,
    ) -> Option<Vec<Changed>> {
        let host = match &member.value {
            Member::Name(name) => self.names.hosts.get(name).copied(),
            _ => None,
        };
        if adds && !self.names.is_known(member, report.findings) {
            return None;
        }
        if let (true, Some(Host::Group(child))) = (adds, host) {
            if let Some(cycle) = self.cycle_of(group, child as u32) {
                report.findings.push(self.cycle(&cycle, member.span));
                return None;
            }
        }
        let members = &mut self.node_mut(group).within.members;
        if adds {
            members.insert(member.value.clone());
        } else {
            members.remove(&member.value);
        }
        if let Some(Host::Group(child)) = host {
            self.relink(child as u32, group);
            self.relevel(group, report)?;
        }
        let weight_before = self.nodes[group as usize].weight;
        let named = self.weight_of(host);
        let pieces = self.pieces_of(&member.value);
        let is_plain = self.nodes[group as usize].is_plain();
        let moves = match pieces.filter(|_| is_plain) {
            Some(pieces) => {
                let node = self.node_mut(group);
                node.named = if adds { node.named + named } else { node.named - named };
                self.account(group);
                if !self.check_limits(report) {
                    return None;
                }
                let node = self.node_mut(group);
                let moves = pieces.into_iter().map(|piece| Move { piece, enters: adds });
                let moves = node.moved(false, &moves.collect::<Vec<_>>());
                self.account(group);
                Some(Arc::new(moves))
            }
            None => self.resolve_again(group, report)?,
        };
        let changed = self.propagate(group, weight_before, moves, report)?;
        self.check_limits(report).then_some(changed)
    }

    /// Tells the parents of a node what moved in it, theirs, and so on.
    fn propagate(
        &mut self,
        first: u32,
        weight_before: usize,
        moves: Option<Arc<Vec<Move>>>,
        report: &mut Report<'_>,
    ) -> Option<Vec<Changed>> {
        let mut changed = Vec::new();
        // By levels, so that a node has heard of all that it names when its turn comes.
        let mut waiting: BTreeMap<(usize, u32), Vec<Incoming>> = BTreeMap::new();
        let mut turn = Some((first, weight_before, moves));
        while let Some((id, weight_before, moves)) = turn.take() {
            let node = Arc::clone(&self.nodes[id as usize]);
            if moves.as_ref().is_none_or(|moves| !moves.is_empty()) {
                if node.is_plain() && node.counts().is_empty() {
                    report.findings.push(empty_selection(&node, report.span));
                    return None;
                }
                let moves = || moves.clone();
                changed.extend(node.endpoint.map(|endpoint| Changed {
                    endpoint,
                    node: id,
                    moves: moves(),
                }));
                for &parent in &node.parents {
                    let levels = self.nodes[parent as usize].levels;
                    let incoming = Incoming { child: id, weight_before, moves: moves() };
                    waiting.entry((levels, parent)).or_default().push(incoming);
                }
            }
            let Some(((_, next), incoming)) = waiting.pop_first() else { break };
            let weight_before = self.nodes[next as usize].weight;
            turn = Some((next, weight_before, self.hear(next, incoming, report)?));
        }
        Some(changed)
    }

    /// Takes in what the members of a node tell it. Returns what moved in it.
    fn hear(
        &mut self,
        id: u32,
        incoming: Vec<Incoming>,
        report: &mut Report<'_>,
    ) -> Option<Option<Arc<Vec<Move>>>> {
        let known = incoming.iter().all(|incoming| incoming.moves.is_some());
        if !known || !self.nodes[id as usize].is_plain() {
            return self.resolve_again(id, report);
        }
        let mut heard = Vec::new();
        for Incoming { child, weight_before, moves } in incoming {
            let child = Arc::clone(&self.nodes[child as usize]);
            let (Some(name), Some(moves)) = (&child.name, moves) else { continue };
            let name = Member::Name(Arc::clone(name));
            let node = self.node_mut(id);
            for in_except in [false, true] {
                let side = if in_except { &node.except } else { &node.within };
                if side.members.contains(&name) {
                    node.named = node.named + child.weight - weight_before;
                    heard.push((in_except, Arc::clone(&moves)));
                }
            }
        }
        // What is too much is not counted: a large group may be in thousands of others.
        self.account(id);
        if !self.check_limits(report) {
            return None;
        }
        let node = self.node_mut(id);
        let moves = heard.iter().flat_map(|(in_except, moves)| node.moved(*in_except, moves));
        let moves = moves.collect();
        self.account(id);
        Some(Some(Arc::new(moves)))
    }

    /// Resolves a node that is not plain, or was not. What moved is not known, unless it is nothing.
    fn resolve_again(
        &mut self,
        id: u32,
        report: &mut Report<'_>,
    ) -> Option<Option<Arc<Vec<Move>>>> {
        let before = self.nodes[id as usize].boxes.clone();
        self.resolve(id, report)?;
        let same = before.is_some() && before == self.nodes[id as usize].boxes;
        Some(same.then(Arc::default))
    }

    /// Resolves a node from its members.
    fn resolve(&mut self, id: u32, report: &mut Report<'_>) -> Option<()> {
        let node = &self.nodes[id as usize];
        let sides = (self.pieces(&node.within.members), self.pieces(&node.except.members));
        if let (Some(within), Some(except)) = sides {
            let named =
                node.names().map(|name| self.weight_of(self.names.hosts.get(name).copied()));
            let named = named.sum();
            let node = self.node_mut(id);
            node.named = named;
            node.boxes = None;
            node.within.counts = Counts::of(&within);
            node.except.counts = Counts::of(&except);
            node.difference = (node.except.members.len() > 0).then(|| {
                let except = node.except.counts.union().complement();
                Counts::of(&pieces(&node.within.counts.union().intersection(&except)))
            });
            self.account(id);
            return Some(());
        }
        let (node, findings) = (Arc::clone(node), &mut *report.findings);
        let (spent, steps) = (self.spent - node.spent, self.steps - node.steps);
        let mut meter = Meter::after(self.limits, spent, steps);
        let before = meter.taken();
        let mut boxes = self.union(&node.within.members, &mut meter, report.span, findings)?;
        if node.except.members.len() > 0 {
            let except = self.union(&node.except.members, &mut meter, report.span, findings)?;
            boxes = meter.subtract(boxes, &except, report.span, &|| None, findings)?;
            if boxes.is_empty() {
                findings.push(empty_selection(&node, report.span));
                return None;
            }
        }
        let after = meter.taken();
        let node = self.node_mut(id);
        node.within.counts = Counts::default();
        node.except.counts = Counts::default();
        node.difference = None;
        node.weight = weight(&boxes);
        node.boxes = Some(Arc::new(boxes));
        node.spent = after.0 - before.0 + node.reference();
        node.steps = after.1 - before.1;
        let (spent_now, steps_now) = (node.spent, node.steps);
        self.spent = spent + spent_now;
        self.steps = steps + steps_now;
        Some(())
    }

    /// Brings the costs of a plain node up to date.
    fn account(&mut self, id: u32) {
        let node = self.node_mut(id);
        let (spent, steps) = (node.spent, node.steps);
        node.weight = node.counts().weight();
        (node.spent, node.steps) = (node.named + node.reference(), 0);
        if node.difference.is_some() {
            node.spent += node.weight;
            node.steps = node.within.counts.weight() + node.except.counts.weight();
        }
        let (spent_now, steps_now) = (node.spent, node.steps);
        self.spent = self.spent - spent + spent_now;
        self.steps = self.steps - steps + steps_now;
    }

    /// The pieces of a list; [`None`] where it asks for a MAC address or a VLAN.
    fn pieces(&self, members: &Sorted<Member>) -> Option<Vec<Piece>> {
        let mut all = Vec::with_capacity(members.len());
        for member in members.iter() {
            all.extend(self.pieces_of(member)?);
        }
        Some(all)
    }

    fn pieces_of(&self, member: &Member) -> Option<Vec<Piece>> {
        let mut union = Union::default();
        match member {
            Member::Mac(_) => return None,
            Member::Addresses(addresses) => union.addresses(*addresses),
            Member::Name(name) if union.built_in(name) => {}
            Member::Name(name) => match *self.names.hosts.get(name)? {
                Host::Device(index) => {
                    let device = &self.names.devices[index];
                    let plain = device.macs.is_any() && device.vlans.is_any();
                    return plain.then(|| pieces(&device.addrs));
                }
                Host::Group(index) => {
                    let node = &self.nodes[index];
                    return node.is_plain().then(|| node.counts().pieces());
                }
            },
        }
        plain_pieces(&union)
    }

    /// The boxes of a list, as loading makes them.
    fn union(
        &self,
        members: &Sorted<Member>,
        meter: &mut Meter,
        span: Span,
        findings: &mut Findings,
    ) -> Option<Vec<EndpointBox>> {
        let mut union = Union::default();
        for member in members.iter() {
            match member {
                Member::Mac(mac) => union.macs.push(*mac),
                Member::Addresses(addresses) => union.addresses(*addresses),
                Member::Name(name) if union.built_in(name) => {}
                Member::Name(name) => {
                    let host = self.names.hosts.get(name).copied();
                    if !meter.spend(self.weight_of(host), span, &|| None, findings) {
                        return None;
                    }
                    match host? {
                        Host::Device(index) => union.boxes.push(self.names.devices[index].clone()),
                        Host::Group(index) => {
                            union.boxes.extend(self.boxes(index as u32).iter().cloned());
                        }
                    }
                }
            }
        }
        let boxes = union.finish();
        meter.check_boxes(&boxes, span, findings).then_some(boxes)
    }

    fn weight_of(&self, host: Option<Host>) -> usize {
        match host {
            Some(Host::Device(index)) => weight(std::slice::from_ref(&self.names.devices[index])),
            Some(Host::Group(index)) => self.nodes[index].weight,
            None => 0,
        }
    }

    /// Makes the node of an endpoint's selector, or finds the group that is the same.
    fn place_selector(
        &mut self,
        within: Vec<Member>,
        except: Vec<Member>,
        endpoint: EndpointId,
    ) -> u32 {
        if let ([Member::Name(name)], []) = (within.as_slice(), except.as_slice()) {
            if let Some(group) = self.names.group(name) {
                let node = self.node_mut(group);
                node.endpoint = Some(endpoint);
                let weight = node.reference();
                node.spent += weight;
                self.spent += weight;
                return group;
            }
        }
        let side =
            |members| Side { members: Sorted::from_ascending(members), counts: Counts::default() };
        let (within, except) = (side(within), side(except));
        let node = Node { within, except, endpoint: Some(endpoint), ..Node::default() };
        let first_free = self.free.iter().next().copied();
        let id = match first_free {
            Some(id) => {
                self.free.remove(&id);
                *self.node_mut(id) = node;
                id
            }
            None => {
                self.nodes.push(Arc::new(node));
                self.nodes.len() as u32 - 1
            }
        };
        self.link(id, true);
        self.node_mut(id).levels = self.levels_of(id);
        id
    }

    fn check(&mut self, node: u32, report: &mut Report<'_>) -> bool {
        if self.nodes[node as usize].name.is_some() {
            return self.check_limits(report);
        }
        if self.resolve(node, report).is_none() {
            return false;
        }
        let resolved = &self.nodes[node as usize];
        if resolved.is_plain() && resolved.counts().is_empty() {
            report.findings.push(empty_selection(resolved, report.span));
            return false;
        }
        self.check_limits(report)
    }

    /// Whether what an edit added is within the limits; what was there before was found to be.
    fn check_limits(&self, report: &mut Report<'_>) -> bool {
        let mut meter = Meter::new(self.limits);
        let before = report.before;
        let (span, findings) = (report.span, &mut *report.findings);
        let fits = |now: usize, before: usize| now <= before;
        (fits(self.spent, before.0) || meter.spend(self.spent, span, &|| None, findings))
            && (fits(self.steps, before.1) || meter.step(self.steps, usize::MAX, span, findings))
    }

    fn node_mut(&mut self, id: u32) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(id as usize))
    }

    /// The groups that a node names.
    fn children(&self, id: u32) -> Vec<u32> {
        let names = self.nodes[id as usize].names();
        names.filter_map(|name| self.names.group(name)).collect()
    }

    /// Enters the node with the groups that it names, or takes it out.
    fn link(&mut self, id: u32, enters: bool) {
        for child in self.children(id) {
            let parents = &mut self.node_mut(child).parents;
            match (parents.binary_search(&id), enters) {
                (Err(place), true) => parents.insert(place, id),
                (Ok(place), false) => {
                    parents.remove(place);
                }
                _ => {}
            }
        }
    }

    /// Enters `parent` with `child`, or takes it out, by whether it still names it.
    fn relink(&mut self, child: u32, parent: u32) {
        let node = &self.nodes[parent as usize];
        let name = self.nodes[child as usize].name.clone().map(Member::Name);
        let names = |side: &Side| name.as_ref().is_some_and(|name| side.members.contains(name));
        let enters = names(&node.within) || names(&node.except);
        let parents = &mut self.node_mut(child).parents;
        match (parents.binary_search(&parent), enters) {
            (Err(place), true) => parents.insert(place, parent),
            (Ok(place), false) => {
                parents.remove(place);
            }
            _ => {}
        }
    }

    fn levels_of(&self, id: u32) -> usize {
        let levels = self.children(id).into_iter().map(|child| self.nodes[child as usize].levels);
        1 + levels.max().unwrap_or(0)
    }

    /// Brings the levels of a node, and of all that contain it, up to date.
    fn relevel(&mut self, first: u32, report: &mut Report<'_>) -> Option<()> {
        let mut waiting = vec![first];
        while let Some(id) = waiting.pop() {
            let levels = self.levels_of(id);
            let node = self.node_mut(id);
            if node.levels == levels {
                continue;
            }
            node.levels = levels;
            waiting.extend(&node.parents);
            let limit = self.limits.depth;
            if let Some(name) = self.nodes[id as usize].name.as_ref().filter(|_| levels > limit) {
                report.findings.push(too_deep("group", name, limit, report.span));
                return None;
            }
        }
        Some(())
    }

    /// Resolves a group of a policy that was loaded, after the groups that it names.
    fn settle_all(&mut self, id: u32, done: &mut [bool]) {
        if std::mem::replace(&mut done[id as usize], true) {
            return;
        }
        for child in self.children(id) {
            self.settle_all(child, done);
        }
        self.node_mut(id).levels = self.levels_of(id);
        self.resolve_loaded(id);
    }

    fn resolve_loaded(&mut self, id: u32) {
        let mut findings = Findings::new(1);
        let mut report = self.report(&mut findings, Span::default());
        let resolved = self.resolve(id, &mut report);
        debug_assert!(resolved.is_some(), "what was loaded has no errors");
    }

    /// `inner`, `outer`, and what is between them: each contains the next, and the last one `inner`.
    /// [`None`] where `outer` does not contain `inner`.
    fn cycle_of(&self, inner: u32, outer: u32) -> Option<Vec<u32>> {
        let mut below = HashMap::from([(inner, inner)]);
        let mut waiting = vec![inner];
        while let Some(id) = waiting.pop() {
            if id == outer {
                let mut path = vec![inner];
                let mut next = outer;
                while next != inner {
                    path.push(next);
                    next = *below.get(&next)?;
                }
                return Some(path);
            }
            for &parent in &self.nodes[id as usize].parents {
                below.entry(parent).or_insert_with(|| {
                    waiting.push(parent);
                    id
                });
            }
        }
        None
    }

    fn cycle(&self, path: &[u32], span: Span) -> Problem {
        let name = |&id: &u32| self.nodes[id as usize].name.as_deref().unwrap_or("");
        contains_itself("group", &path.iter().map(name).collect::<Vec<_>>(), span)
    }
}

fn empty_selection(node: &Node, span: Span) -> Problem {
    let message = "`except` leaves nothing of the selection".to_owned();
    let problem = Problem::error(Code::EmptySelection, span, message);
    problem.help(match &node.name {
        Some(name) => format!("the group {} would have no member left", quoted(name)),
        None => "a side of a rule or assertion would stand for nothing".to_owned(),
    })
}
