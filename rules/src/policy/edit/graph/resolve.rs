//! What a node stands for, from its members.

use std::sync::Arc;

use super::{Graph, Move, Report, empty_selection};
use crate::policy::EndpointBox;
use crate::policy::boxes::{Meter, Union, weight};
use crate::policy::edit::counts::{Counts, Piece, pieces, plain_pieces};
use crate::policy::endpoints::Host;
use crate::policy::pages::Sorted;
use crate::syntax::Findings;
use crate::syntax::document::Member;
use crate::syntax::span::Span;

impl Graph {
    /// Resolves a node that is not plain, or was not. What moved is not known, unless it is nothing.
    pub(super) fn resolve_again(
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
    pub(super) fn resolve(&mut self, id: u32, report: &mut Report<'_>) -> Option<()> {
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
    pub(super) fn account(&mut self, id: u32) {
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

    pub(super) fn pieces_of(&self, member: &Member) -> Option<Vec<Piece>> {
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

    pub(super) fn weight_of(&self, host: Option<Host>) -> usize {
        match host {
            Some(Host::Device(index)) => weight(std::slice::from_ref(&self.names.devices[index])),
            Some(Host::Group(index)) => self.nodes[index].weight,
            None => 0,
        }
    }
}
