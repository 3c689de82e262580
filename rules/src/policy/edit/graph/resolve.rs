//! What a node stands for, from its members.

use std::sync::Arc;

use super::{Content, Graph, Move, Node, Report, empty_selection};
use crate::policy::EndpointBox;
use crate::policy::boxes::{Meter, Union, weight};
use crate::policy::edit::counts::{Counts, Piece, pieces, plain_pieces};
use crate::policy::endpoints::Host;
use crate::policy::pages::Sorted;
use crate::syntax::Findings;
use crate::syntax::document::Member;
use crate::syntax::span::Span;

impl Graph {
    /// Resolves a node whose changes are not counted. What moved is not known, unless it is nothing.
    pub(super) fn resolve_again(
        &mut self,
        id: u32,
        report: &mut Report<'_>,
    ) -> Option<Option<Arc<Vec<Move>>>> {
        let content = |graph: &Self| graph.nodes[id as usize].content.clone();
        let before = content(self);
        self.resolve(id, report)?;
        let same = matches!(before, Content::Boxes(_)) && before == content(self);
        Some(same.then(Arc::default))
    }

    /// Resolves a node from its members.
    pub(super) fn resolve(&mut self, id: u32, report: &mut Report<'_>) -> Option<()> {
        let node = Arc::clone(&self.nodes[id as usize]);
        let (within, mut is_plain) = self.pieces(&node.within.members);
        let (except, except_is_plain) = self.pieces(&node.except.members);
        is_plain &= except_is_plain;
        let has_except = node.except.members.len() > 0;
        if !is_plain && has_except {
            return self.resolve_boxes(id, &node, report);
        }
        let content = if is_plain {
            Content::Plain
        } else {
            Content::Mixed(Arc::new(self.others(&node.within.members, report)?))
        };
        let named = node.names().map(|name| self.weight_of(self.names.hosts.get(name).copied()));
        let named = named.sum();
        let node = self.node_mut(id);
        node.named = named;
        node.content = content;
        node.within.counts = Counts::of(&within);
        node.except.counts = Counts::of(&except);
        node.difference = has_except.then(|| {
            let except = node.except.counts.union().complement();
            Counts::of(&pieces(&node.within.counts.union().intersection(&except)))
        });
        self.account(id);
        Some(())
    }

    /// Resolves a node with an `except` where MAC addresses or VLANs matter, as loading does.
    fn resolve_boxes(&mut self, id: u32, node: &Node, report: &mut Report<'_>) -> Option<()> {
        let findings = &mut *report.findings;
        let (spent, steps) = (self.spent - node.spent, self.steps - node.steps);
        let mut meter = Meter::after(self.limits, spent, steps);
        let before = meter.taken();
        let within = self.union(&node.within.members, &mut meter, report.span, findings)?;
        let except = self.union(&node.except.members, &mut meter, report.span, findings)?;
        let boxes = meter.subtract(within, &except, report.span, &|| None, findings)?;
        if boxes.is_empty() {
            findings.push(empty_selection(node, report.span));
            return None;
        }
        let after = meter.taken();
        let node = self.node_mut(id);
        node.within.counts = Counts::default();
        node.except.counts = Counts::default();
        node.difference = None;
        node.weight = weight(&boxes);
        node.content = Content::Boxes(Arc::new(boxes));
        node.spent = after.0 - before.0 + node.reference();
        node.steps = after.1 - before.1;
        let (spent_now, steps_now) = (node.spent, node.steps);
        self.spent = spent + spent_now;
        self.steps = steps + steps_now;
        Some(())
    }

    /// Brings the costs of a node that is counted up to date.
    pub(super) fn account(&mut self, id: u32) {
        let node = self.node_mut(id);
        let (spent, steps) = (node.spent, node.steps);
        let others = match &node.content {
            Content::Mixed(others) => weight(others),
            Content::Plain | Content::Boxes(_) => 0,
        };
        node.weight = node.counts().weight() + others;
        (node.spent, node.steps) = (node.named + node.reference(), 0);
        if node.difference.is_some() {
            node.spent += node.weight;
            node.steps = node.within.counts.weight() + node.except.counts.weight();
        }
        let (spent_now, steps_now) = (node.spent, node.steps);
        self.spent = self.spent - spent + spent_now;
        self.steps = self.steps - steps + steps_now;
    }

    /// The plain part of a list in pieces, and whether that is all of it.
    fn pieces(&self, members: &Sorted<Member>) -> (Vec<Piece>, bool) {
        let (mut all, mut whole) = (Vec::with_capacity(members.len()), true);
        for member in members.iter() {
            let (pieces, is_whole) = self.pieces_of(member);
            all.extend(pieces);
            whole &= is_whole;
        }
        (all, whole)
    }

    /// The plain part of a member in pieces, and whether that is all of it.
    pub(super) fn pieces_of(&self, member: &Member) -> (Vec<Piece>, bool) {
        let mut union = Union::default();
        match member {
            Member::Mac(_) => return (Vec::new(), false),
            Member::Addresses(addresses) => union.addresses(*addresses),
            Member::Name(name) if union.built_in(name) => {}
            Member::Name(name) => match self.names.hosts.get(name) {
                Some(&Host::Device(index)) => {
                    let device = &self.names.devices[index];
                    let is_plain = device.is_plain();
                    return (if is_plain { pieces(&device.addrs) } else { Vec::new() }, is_plain);
                }
                Some(&Host::Group(index)) => {
                    let node = &self.nodes[index];
                    let mut plain_part = node.counts().pieces();
                    if let Content::Boxes(boxes) = &node.content {
                        let plain = boxes.iter().filter(|b| b.is_plain());
                        plain_part.extend(plain.flat_map(|b| pieces(&b.addrs)));
                    }
                    return (plain_part, node.is_plain());
                }
                None => return (Vec::new(), true),
            },
        }
        (plain_pieces(&union), union.macs.is_empty())
    }

    /// What of a list is not in [`Self::pieces`].
    fn others(
        &self,
        members: &Sorted<Member>,
        report: &mut Report<'_>,
    ) -> Option<Vec<EndpointBox>> {
        let mut union = Union::default();
        for member in members.iter() {
            let name = match member {
                Member::Addresses(_) => continue,
                Member::Mac(mac) => {
                    union.macs.push(*mac);
                    continue;
                }
                Member::Name(name) => name,
            };
            match self.names.hosts.get(name) {
                Some(&Host::Device(index)) => {
                    let device = &self.names.devices[index];
                    union.boxes.extend((!device.is_plain()).then(|| device.clone()));
                }
                Some(&Host::Group(index)) => match &self.nodes[index].content {
                    Content::Plain => {}
                    Content::Mixed(boxes) => union.boxes.extend(boxes.iter().cloned()),
                    Content::Boxes(boxes) => {
                        union.boxes.extend(boxes.iter().filter(|b| !b.is_plain()).cloned());
                    }
                },
                None => {
                    let mut built_in = Union::default();
                    built_in.built_in(name);
                    union.macs.append(&mut built_in.macs);
                }
            }
        }
        let boxes = union.finish();
        let meter = Meter::new(self.limits);
        meter.check_boxes(&boxes, report.span, report.findings).then_some(boxes)
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

    pub(super) fn weight_of(&self, host: Option<Host>) -> usize {
        match host {
            Some(Host::Device(index)) => weight(std::slice::from_ref(&self.names.devices[index])),
            Some(Host::Group(index)) => self.nodes[index].weight,
            None => 0,
        }
    }
}
