//! What classes do not say about a rule, compared exactly.

use std::sync::Arc;

use crate::headers::{Headers, Mac, PolicyTime, WireId};
use crate::policy::EndpointBox;
use crate::sets::{FiniteSet, VlanSet};

/// The conditions of a rule, all but its service.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) from: Arc<Boxes>,
    pub(crate) to: Arc<Boxes>,
    /// Whether the sides may stand the other way round too.
    pub(crate) between: bool,
    pub(crate) vlans: VlanSet,
    pub(crate) wires: FiniteSet<WireId>,
    pub(crate) times: Option<Times>,
}

impl Check {
    pub(crate) fn holds(&self, h: &Headers, at: PolicyTime) -> bool {
        let opens = |from: &Boxes, to: &Boxes| {
            from.any(h.src_mac, |b| b.matches(h.ether_type, h.src, h.src_mac, h.tags))
                && to.any(h.dst_mac, |b| b.receives(h))
        };
        self.times.is_none_or(|times| times.hold(at))
            && self.wires.contains(h.wire)
            && self.vlans.contains(h.tags)
            && (opens(&self.from, &self.to) || (self.between && opens(&self.to, &self.from)))
    }

    /// The same with other sides.
    pub(crate) fn with_boxes(&self, from: Arc<Boxes>, to: Arc<Boxes>) -> Self {
        let (vlans, wires) = (self.vlans.clone(), self.wires.clone());
        Self { from, to, between: self.between, vlans, wires, times: self.times }
    }

    /// Bytes, without those of the boxes, which rules share.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(self.vlans.named()) + size_of_val(self.wires.named())
    }
}

/// When a rule is in force: see [`crate::policy::Rule::is_active`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) starts: Option<i64>,
    pub(crate) expires: Option<i64>,
    /// Whether it is while the clock is not synchronised, whatever the times say.
    pub(crate) unsynchronised: bool,
}

impl Times {
    fn hold(self, at: PolicyTime) -> bool {
        if !at.synchronised {
            return self.unsynchronised;
        }
        self.starts.is_none_or(|starts| starts <= at.unix_ms)
            && self.expires.is_none_or(|expires| at.unix_ms < expires)
    }
}

/// Boxes of which a host must match one. Devices that have a MAC address are one box each, so that
/// a group of them is found by the frame's address, not by looking at all.
#[derive(Debug)]
pub(crate) struct Boxes {
    boxes: Vec<EndpointBox>,
    /// For each MAC address that a box holds alone or with some others the box's place, ascending.
    named: Vec<(Mac, u32)>,
    /// The places of the other boxes.
    others: Vec<u32>,
}

impl Boxes {
    pub(crate) fn new(boxes: Vec<EndpointBox>) -> Self {
        let (mut named, mut others) = (Vec::new(), Vec::new());
        for (place, b) in (0u32..).zip(&boxes) {
            match &b.macs {
                FiniteSet::Only(macs) => named.extend(macs.iter().map(|&mac| (mac, place))),
                FiniteSet::AllBut(_) => others.push(place),
            }
        }
        named.sort_unstable();
        Self { boxes, named, others }
    }

    /// Whether any of the boxes that a host with this MAC address may match does.
    fn any(&self, mac: Mac, matches: impl Fn(&EndpointBox) -> bool) -> bool {
        let matches = |place: &u32| matches(&self.boxes[*place as usize]);
        let first = self.named.partition_point(|&(named, _)| named < mac);
        let of_mac = self.named[first..].iter().take_while(|&&(named, _)| named == mac);
        of_mac.map(|(_, place)| place).chain(&self.others).any(matches)
    }

    /// Bytes, those of the sets included.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.boxes.iter().map(box_bytes).sum::<usize>()
            + size_of_val(&*self.named)
            + size_of_val(&*self.others)
    }
}

fn box_bytes(b: &EndpointBox) -> usize {
    size_of_val(b)
        + size_of_val(b.addrs.v4.ranges())
        + size_of_val(b.addrs.v6.ranges())
        + size_of_val(b.macs.named())
        + size_of_val(b.vlans.named())
        + size_of_val(&*b.except_bound)
}
