//! Which selector names which group, and what each stands for, kept so that a change of one member
//! reaches all that depend on it and costs what it changes.
//!
//! Groups and the selectors of rules are nodes. The plain members of a node, in which nothing asks
//! for a MAC address or a VLAN, are counted ([`Counts`]), and what enters or leaves their union is
//! exactly what the node's parents count in turn. What is not plain is resolved anew when it changes,
//! and so is all of a node that has such things and an `except`.

use std::collections::BTreeMap;
use std::sync::Arc;

mod links;
mod resolve;

use super::counts::{Counts, Move, plain};
use super::names::Names;
use crate::policy::boxes::Meter;
use crate::policy::endpoints::{Host, Key};
use crate::policy::pages::{Pages, Sorted};
use crate::policy::{EndpointBox, EndpointId, Limits};
use crate::syntax::document::{Group, Member, Selector};
use crate::syntax::span::{Span, Spanned};
use crate::syntax::{Code, Findings, Problem, quoted};

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
    content: Content,
    /// The nodes that name this one, ascending.
    parents: Vec<u32>,
    /// The endpoint that stands for the same.
    endpoint: Option<EndpointId>,
    /// One more than the levels of the groups that it names.
    levels: usize,
    /// What naming it takes of [`Limits::ranges`].
    weight: usize,
    /// The weights of what it names. Not in [`Content::Boxes`].
    named: usize,
    spent: usize,
    steps: usize,
}

/// What a node stands for.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
enum Content {
    /// What is counted and nothing else.
    #[default]
    Plain,
    /// What is counted, and these boxes. The node has no `except`.
    Mixed(Arc<Vec<EndpointBox>>),
    /// These boxes; nothing is counted.
    Boxes(Arc<Vec<EndpointBox>>),
}

/// One list of members.
#[derive(Clone, Default, Debug)]
struct Side {
    members: Sorted<Member>,
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
    /// The plain part of what the node stands for.
    fn counts(&self) -> &Counts {
        self.difference.as_ref().unwrap_or(&self.within.counts)
    }

    /// What it takes that an endpoint is this group.
    fn reference(&self) -> usize {
        if self.name.is_some() && self.endpoint.is_some() { self.weight } else { 0 }
    }

    fn is_plain(&self) -> bool {
        self.content == Content::Plain
    }

    /// Whether the plain members are counted.
    fn is_counted(&self) -> bool {
        !matches!(self.content, Content::Boxes(_))
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
        match &node.content {
            Content::Plain => Arc::new(vec![node.counts().plain_box()]),
            Content::Mixed(others) => {
                let mut addrs = node.counts().union();
                // Conditions that exhaust each other, as VLAN 7 and all but 7, leave a plain box.
                for plain in others.iter().filter(|b| b.is_plain()) {
                    addrs = addrs.union(&plain.addrs);
                }
                let plain = (!addrs.is_empty()).then(|| plain(addrs));
                let any = plain.as_ref().is_some_and(EndpointBox::is_any);
                let others = others.iter().filter(|b| !any && !b.is_plain()).cloned();
                Arc::new(plain.into_iter().chain(others).collect())
            }
            Content::Boxes(boxes) => Arc::clone(boxes),
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
            (Some(moves), [before]) if node.is_plain() => {
                let (addrs, change) = node.counts().after(&before.addrs, moves, changed.endpoint);
                (Arc::new(vec![plain(addrs)]), change)
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
        let (pieces, is_whole) = self.pieces_of(&member.value);
        let is_counted = self.nodes[group as usize].is_counted();
        let moves = match is_counted && is_whole {
            true => {
                let node = self.node_mut(group);
                node.named = if adds { node.named + named } else { node.named - named };
                self.account(group);
                if !self.check_limits(0, report) {
                    return None;
                }
                let node = self.node_mut(group);
                let moves = pieces.into_iter().map(|piece| Move { piece, enters: adds });
                let moves = node.moved(false, &moves.collect::<Vec<_>>());
                self.account(group);
                Some(Arc::new(moves))
            }
            false => self.resolve_again(group, report)?,
        };
        let changed = self.propagate(group, weight_before, moves, report)?;
        self.check_limits(0, report).then_some(changed)
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
                // Each parent takes as much more, at least: told before anything is counted.
                let growth = node.weight.saturating_sub(weight_before) * node.parents.len();
                if !self.check_limits(growth, report) {
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
        if !known || !self.nodes[id as usize].is_counted() {
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
        if !self.check_limits(0, report) {
            return None;
        }
        let node = self.node_mut(id);
        let moves = heard.iter().flat_map(|(in_except, moves)| node.moved(*in_except, moves));
        let moves = moves.collect();
        self.account(id);
        Some(Some(Arc::new(moves)))
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
            return self.check_limits(0, report);
        }
        if self.resolve(node, report).is_none() {
            return false;
        }
        let resolved = &self.nodes[node as usize];
        if resolved.is_plain() && resolved.counts().is_empty() {
            report.findings.push(empty_selection(resolved, report.span));
            return false;
        }
        self.check_limits(0, report)
    }

    /// Whether what an edit added, and `growth` to come, is within the limits; what was there before
    /// was found to be.
    fn check_limits(&self, growth: usize, report: &mut Report<'_>) -> bool {
        let mut meter = Meter::new(self.limits);
        let (spent, steps) = (self.spent.saturating_add(growth), self.steps);
        let ((spent_before, steps_before), span) = (report.before, report.span);
        let findings = &mut *report.findings;
        (spent <= spent_before || meter.spend(spent, span, &|| None, findings))
            && (steps <= steps_before || meter.step(steps, usize::MAX, span, findings))
    }

    fn node_mut(&mut self, id: u32) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(id as usize))
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
}

fn empty_selection(node: &Node, span: Span) -> Problem {
    let message = "`except` leaves nothing of the selection".to_owned();
    let problem = Problem::error(Code::EmptySelection, span, message);
    problem.help(match &node.name {
        Some(name) => format!("the group {} would have no member left", quoted(name)),
        None => "a side of a rule or assertion would stand for nothing".to_owned(),
    })
}
