//! Every frame that a gateway may judge, at every instant, cut into as few classes as the policies
//! in question tell apart.
//!
//! Frames are told apart in six dimensions: the instant, the wire, the VLAN tags, the service, and
//! the host on either side. In each of them two values that the same rules test alike are one
//! class. So a rule is a small number of boxes, products of sets of classes, and whatever is asked
//! of a policy is a question about boxes: exact, and independent of how many addresses there are.
//!
//! Only frames count that a parser produces: see [`Headers::normalised`], and no frame comes from a
//! group MAC address.

mod frames;
mod hosts;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub(super) use frames::{FrameCell, Frames};
pub(super) use hosts::{Cell, Hosts};

use super::region::{DIMENSIONS, Dimension, Region};
use super::work::{TooMuchWork, Work};
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers, PolicyTime, VlanTags, WireId};
use crate::policy::{
    Action, Assertion, Endpoint, EndpointBox, EndpointId, Policy, Rule, ServiceId,
};
use crate::sets::{FiniteSet, RangeSet, VlanSet};

/// What decides how the addresses of a frame read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Family {
    V4,
    V6,
    /// Not IP: no addresses.
    Other,
}

impl Family {
    pub(super) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Other];

    /// The EtherType, where the family has but one.
    fn ether_type(self) -> Option<u16> {
        match self {
            Self::V4 => Some(ETHER_IPV4),
            Self::V6 => Some(ETHER_IPV6),
            Self::Other => None,
        }
    }

    pub(super) fn last_address(self) -> u128 {
        match self {
            Self::V4 => u32::MAX.into(),
            Self::V6 => u128::MAX,
            Self::Other => 0,
        }
    }

    /// The addresses of the family that a box holds.
    fn addresses(self, of: &EndpointBox) -> Vec<(u128, u128)> {
        let wide = |&(low, high): &(u32, u32)| (low.into(), high.into());
        match self {
            Self::V4 => of.addrs.v4.ranges().iter().map(wide).collect(),
            Self::V6 => of.addrs.v6.ranges().to_vec(),
            Self::Other => of.addrs.non_ip.then_some((0, 0)).into_iter().collect(),
        }
    }
}

/// The classes of every dimension for some policies.
#[derive(Debug)]
pub(super) struct Universe {
    pub(super) instants: Instants,
    pub(super) wires: Wires,
    pub(super) tags: Tags,
    pub(super) frames: Frames,
    pub(super) sources: Hosts,
    pub(super) destinations: Hosts,
    /// For each policy and each of its endpoints its place among the sources, and among the
    /// destinations; none where no rule uses it on that side.
    endpoints: Vec<Vec<[Option<u32>; 2]>>,
    /// For each policy and each of its service sets its place among the frames' sets.
    services: Vec<Vec<u32>>,
}

/// The periods between two changes of a policy, and the time for which no clock is trusted.
#[derive(Debug)]
pub(super) struct Instants {
    /// Where a period begins, ascending; one more lies before the first. The class after the last
    /// period is that of an untrusted clock.
    changes: Vec<i64>,
}

/// The wires by their names.
#[derive(Debug)]
pub(super) struct Wires {
    /// Their names; for a single policy in the order of its own numbers.
    pub(super) names: Vec<Arc<str>>,
    /// Numbers without a name, after all names.
    nameless: Vec<u16>,
    /// Whether there may be other wires.
    others: bool,
    /// For each policy the classes of its wires.
    of_policy: Vec<Vec<u32>>,
}

/// The VLAN tags that are named, ascending; the class after the last is that of all others.
#[derive(Debug)]
pub(super) struct Tags {
    pub(super) named: Vec<VlanTags>,
}

/// What a rule and an assertion have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matter<'a> {
    pub(super) from: EndpointId,
    pub(super) to: EndpointId,
    pub(super) between: bool,
    pub(super) service: ServiceId,
    pub(super) vlans: Option<&'a VlanSet>,
    pub(super) wires: Option<&'a FiniteSet<WireId>>,
}

impl<'a> Matter<'a> {
    pub(super) fn of_rule(rule: &'a Rule) -> Self {
        let &Rule { from, to, between, service, .. } = rule;
        let (vlans, wires) = (Some(&rule.vlans), Some(&rule.wires));
        Self { from, to, between, service, vlans, wires }
    }

    pub(super) fn of_assertion(assertion: &Assertion) -> Self {
        let &Assertion { from, to, service, .. } = assertion;
        Self { from, to, between: false, service, vlans: None, wires: None }
    }
}

impl Universe {
    /// The classes that `policies` together tell apart.
    pub(super) fn new(policies: &[&Policy], work: &mut Work) -> Result<Self, TooMuchWork> {
        let mut instants: Vec<i64> = policies.iter().flat_map(|policy| policy.schedule()).collect();
        instants.sort_unstable();
        instants.dedup();
        let wires = Wires::new(policies);
        let tags = Tags::new(policies);

        let mut services = Vec::with_capacity(policies.len());
        let (mut sets, mut known) = (Vec::new(), HashMap::new());
        for policy in policies {
            let of_policy = policy.services().iter().map(|service| {
                *known.entry(&service.terms).or_insert_with(|| {
                    sets.push(&**service);
                    sets.len() as u32 - 1
                })
            });
            services.push(of_policy.collect());
        }
        let frames = Frames::new(&sets, work)?;

        let mut endpoints: Vec<Vec<[Option<u32>; 2]>> = Vec::with_capacity(policies.len());
        let mut sides: [Vec<&Endpoint>; 2] = Default::default();
        let mut known: [HashMap<&[EndpointBox], u32>; 2] = Default::default();
        for policy in policies {
            let mut of_policy = vec![[None; 2]; policy.endpoints().len()];
            for (id, side) in uses(policy) {
                let endpoint = policy.endpoint(id);
                let sides = &mut sides[side];
                of_policy[id.0 as usize][side] =
                    Some(*known[side].entry(&endpoint.boxes).or_insert_with(|| {
                        sides.push(endpoint);
                        sides.len() as u32 - 1
                    }));
            }
            endpoints.push(of_policy);
        }
        let sources = Hosts::new(&sides[0], |mac| !mac.is_group(), work)?;
        let destinations = Hosts::new(&sides[1], |_| true, work)?;
        let instants = Instants { changes: instants };
        Ok(Self { instants, wires, tags, frames, sources, destinations, endpoints, services })
    }

    /// The boxes of all frames that belong to `matter` of the policy at `place`, during `times`.
    pub(super) fn regions(
        &self,
        place: usize,
        matter: Matter<'_>,
        times: &RangeSet<u32>,
        make: &mut impl FnMut(Dimension, RangeSet<u32>) -> Arc<RangeSet<u32>>,
    ) -> Vec<Region> {
        let mut out = Vec::new();
        let wires =
            matter.wires.map_or_else(|| self.wires.all(), |wires| self.wires.classes(place, wires));
        if times.is_empty() || wires.is_empty() {
            return out;
        }
        let (from, to) = (matter.from.0 as usize, matter.to.0 as usize);
        let endpoints = &self.endpoints[place];
        let mut ways = vec![(endpoints[from][0], endpoints[to][1])];
        if matter.between && from != to {
            ways.push((endpoints[to][0], endpoints[from][1]));
        }
        let service = self.frames.classes(self.services[place][matter.service.0 as usize] as usize);
        for (from, to) in ways {
            let (Some(from), Some(to)) = (from, to) else { continue };
            for source in self.sources.parts(from as usize) {
                for destination in self.destinations.parts(to as usize) {
                    let mut vlans = source.vlans.intersection(&destination.vlans);
                    if let Some(narrowed) = matter.vlans {
                        vlans = vlans.intersection(narrowed);
                    }
                    let tags = self.tags.classes(&vlans);
                    for family in Family::ALL.map(|family| family as usize) {
                        let sets = [
                            (Dimension::Destination, &destination.classes[family]),
                            (Dimension::Source, &source.classes[family]),
                            (Dimension::Service, &service[family]),
                            (Dimension::Tags, &tags),
                            (Dimension::Wire, &wires),
                            (Dimension::Time, times),
                        ];
                        if sets.iter().all(|(_, set)| !set.is_empty()) {
                            out.push(Region::new(sets.map(|(d, set)| make(d, set.clone()))));
                        }
                    }
                }
            }
        }
        out
    }

    /// Every frame at every instant, a box for each family.
    pub(super) fn everything(
        &self,
        make: &mut impl FnMut(Dimension, RangeSet<u32>) -> Arc<RangeSet<u32>>,
    ) -> Vec<Region> {
        let of_family = |family| {
            [
                (Dimension::Destination, self.destinations.all(family)),
                (Dimension::Source, self.sources.all(family)),
                (Dimension::Service, self.frames.all(family)),
                (Dimension::Tags, self.tags.all()),
                (Dimension::Wire, self.wires.all()),
                (Dimension::Time, self.instants.all()),
            ]
        };
        let sets = Family::ALL.map(of_family);
        sets.into_iter().map(|sets| Region::new(sets.map(|(d, set)| make(d, set)))).collect()
    }

    /// The place of a policy's endpoint among the sources (side 0) or destinations (side 1).
    pub(super) fn endpoint(&self, policy: usize, endpoint: usize, side: usize) -> Option<usize> {
        self.endpoints[policy][endpoint][side].map(|place| place as usize)
    }

    /// The classes of a policy's service set, by family.
    pub(super) fn service(&self, policy: usize, service: usize) -> &[RangeSet<u32>; 3] {
        self.frames.classes(self.services[policy][service] as usize)
    }

    /// A frame of the box and the instant at which it is one: not before `now` where that is
    /// possible.
    pub(super) fn example(&self, region: &Region, now: Option<i64>) -> (Headers, PolicyTime) {
        let [dst, src, service, tags, wire, time]: [u32; DIMENSIONS] = region.first();
        let service = self.preferred_service(region.get(Dimension::Service), service);
        let ((src, src_mac), (dst, dst_mac)) =
            (self.sources.example(src), self.destinations.example(dst));
        let cell = self.frames.cells(service)[0];
        let ether_type = cell.ether_type.unwrap_or_else(|| self.frames.unnamed_ether_type());
        let tags = self.tags.example(self.tags.preferred(region.get(Dimension::Tags), tags));
        let headers = Headers {
            src,
            dst,
            src_port: preferred_port(cell.src_ports),
            dst_port: cell.dst_ports.0,
            ether_type,
            protocol: cell.protocol,
            wire: self.wires.example(wire),
            tags,
            src_mac,
            dst_mac,
        };
        (headers, self.instants.example(time, now))
    }

    /// A service that an operator knows, where the set has one: TCP or UDP rather than protocol 0.
    fn preferred_service(&self, set: &RangeSet<u32>, otherwise: u32) -> u32 {
        const WELL_KNOWN: [u8; 4] = [6, 17, 1, 58];
        let rank = |class: u32| {
            let cell = self.frames.cells(class)[0];
            match cell.ether_type {
                Some(ETHER_IPV4 | ETHER_IPV6) => {
                    WELL_KNOWN.iter().position(|&p| p == cell.protocol).unwrap_or(9)
                }
                _ => 5,
            }
        };
        let classes = set.ranges().iter().flat_map(|&(low, high)| low..=high).take(64);
        classes.min_by_key(|&class| rank(class)).unwrap_or(otherwise)
    }
}

/// A source port as clients choose it, where it may be one (RFC 6335 section 6).
fn preferred_port((low, high): (u16, u16)) -> u16 {
    if (low..=high).contains(&49_152) { 49_152 } else { low }
}

/// Which endpoints rules and assertions use as sources (0) and as destinations (1).
fn uses(policy: &Policy) -> BTreeSet<(EndpointId, usize)> {
    let mut uses = BTreeSet::new();
    for (_, rule) in super::model::in_order(policy) {
        uses.extend([(rule.from, 0), (rule.to, 1)]);
        if rule.between {
            uses.extend([(rule.to, 0), (rule.from, 1)]);
        }
    }
    for assertion in policy.assertions() {
        uses.extend([(assertion.from, 0), (assertion.to, 1)]);
    }
    uses
}

impl Instants {
    /// The class of an untrusted clock.
    pub(super) fn untrusted(&self) -> u32 {
        self.changes.len() as u32 + 1
    }

    pub(super) fn all(&self) -> RangeSet<u32> {
        RangeSet::<u32>::from_ranges([(0, self.untrusted())])
    }

    /// The class of an instant.
    pub(super) fn class(&self, at: PolicyTime) -> u32 {
        match at.synchronised {
            true => self.changes.partition_point(|&change| change <= at.unix_ms) as u32,
            false => self.untrusted(),
        }
    }

    /// When a rule is in force: see [`Rule::is_active`].
    pub(super) fn of_rule(&self, rule: &Rule) -> RangeSet<u32> {
        if rule.starts.is_none() && rule.expires.is_none() {
            return self.all();
        }
        let place = |at: i64| self.changes.partition_point(|&change| change <= at) as u32;
        let first = rule.starts.map_or(0, place);
        let end = rule.expires.map_or(self.untrusted(), place);
        let trusted = (first < end).then(|| (first, end - 1));
        let untrusted =
            (rule.action != Action::Allow).then_some((self.untrusted(), self.untrusted()));
        RangeSet::<u32>::from_ranges(trusted.into_iter().chain(untrusted))
    }

    /// An instant of the class: its first, or `now` if the class holds it.
    pub(super) fn example(&self, class: u32, now: Option<i64>) -> PolicyTime {
        let synchronised = class != self.untrusted();
        let now = now.unwrap_or_else(|| self.changes.first().map_or(0, |first| first - 1));
        if !synchronised || self.class(PolicyTime { unix_ms: now, synchronised }) == class {
            return PolicyTime { unix_ms: now, synchronised };
        }
        let unix_ms = match (class as usize).checked_sub(1) {
            Some(change) => self.changes[change],
            None => self.changes[0] - 1,
        };
        PolicyTime { unix_ms, synchronised }
    }

    /// The trusted instant from which on the class lasts, and until when; [`None`] for no bound.
    pub(super) fn bounds(&self, class: u32) -> Option<(Option<i64>, Option<i64>)> {
        let start = (class as usize).checked_sub(1).map(|change| self.changes.get(change).copied());
        let end = self.changes.get(class as usize).copied();
        (class != self.untrusted()).then(|| (start.flatten(), end))
    }
}

impl Wires {
    fn new(policies: &[&Policy]) -> Self {
        let mut names: Vec<Arc<str>> = Vec::new();
        for name in policies.iter().flat_map(|policy| policy.wires()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let mut nameless = BTreeSet::new();
        for policy in policies {
            for (_, rule) in super::model::in_order(policy) {
                let ids = rule.wires.named().iter().map(|wire| wire.0);
                nameless.extend(ids.filter(|&id| usize::from(id) >= policy.wires().len()));
            }
        }
        let others = policies.iter().any(|policy| !policy.knows_all_wires()) || names.is_empty();
        // A policy without wires still judges frames that came on some wire.
        let nameless = nameless.into_iter().filter(|&id| usize::from(id) >= names.len()).collect();
        let place =
            |name: &Arc<str>| names.iter().position(|known| known == name).unwrap_or(0) as u32;
        let of_policy = policies.iter().map(|p| p.wires().iter().map(place).collect()).collect();
        Self { names, nameless, others, of_policy }
    }

    fn end(&self) -> u32 {
        (self.names.len() + self.nameless.len()) as u32 + u32::from(self.others)
    }

    pub(super) fn all(&self) -> RangeSet<u32> {
        RangeSet::<u32>::from_ranges([(0, self.end() - 1)])
    }

    /// The classes of wires as the policy at `place` numbers them.
    fn classes(&self, place: usize, wires: &FiniteSet<WireId>) -> RangeSet<u32> {
        let class = |wire: &WireId| {
            let named = self.of_policy[place].get(usize::from(wire.0)).copied();
            named.or_else(|| {
                let nameless = self.nameless.binary_search(&wire.0).ok()?;
                Some((self.names.len() + nameless) as u32)
            })
        };
        let named = wires.named().iter().filter_map(class).map(|class| (class, class));
        let named = RangeSet::<u32>::from_ranges(named);
        match wires {
            FiniteSet::Only(_) => named,
            FiniteSet::AllBut(_) => self.all().difference(&named),
        }
    }

    pub(super) fn example(&self, class: u32) -> WireId {
        let named = self.names.len();
        let number = match self.nameless.get((class as usize).wrapping_sub(named)) {
            Some(&number) => number,
            None if (class as usize) < named => class as u16,
            None => {
                let free = |id: &u16| !self.nameless.contains(id);
                (named as u16..=u16::MAX).find(free).unwrap_or(u16::MAX)
            }
        };
        WireId(number)
    }

    /// The number of a class; [`None`] for wires of which nobody knows any.
    pub(super) fn number(&self, class: u32) -> Option<u16> {
        let nameless = (class as usize).checked_sub(self.names.len());
        nameless.map_or(Some(class as u16), |place| self.nameless.get(place).copied())
    }

    /// The name of a class; [`None`] for wires that are not named.
    pub(super) fn name(&self, class: u32) -> Option<&Arc<str>> {
        self.names.get(class as usize)
    }
}

impl Tags {
    fn new(policies: &[&Policy]) -> Self {
        let mut named = BTreeSet::new();
        for policy in policies {
            for (_, rule) in super::model::in_order(policy) {
                named.extend(rule.vlans.named());
            }
            for one in policy.endpoints().iter().flat_map(|endpoint| endpoint.boxes.iter()) {
                named.extend(one.vlans.named());
            }
        }
        named.retain(|tags| is_possible(*tags));
        Self { named: named.into_iter().collect() }
    }

    pub(super) fn all(&self) -> RangeSet<u32> {
        RangeSet::<u32>::from_ranges([(0, self.named.len() as u32)])
    }

    pub(super) fn classes(&self, vlans: &VlanSet) -> RangeSet<u32> {
        let place = |tags: &VlanTags| self.named.binary_search(tags).ok().map(|i| i as u32);
        let named = vlans.named().iter().filter_map(place).map(|i| (i, i));
        let named = RangeSet::<u32>::from_ranges(named);
        match vlans {
            FiniteSet::Only(_) => named,
            FiniteSet::AllBut(_) => self.all().difference(&named),
        }
    }

    fn example(&self, class: u32) -> VlanTags {
        let free = |tags: &VlanTags| self.named.binary_search(tags).is_err();
        let single = (1..=4094).rev().map(VlanTags::single);
        let double = (1..=4094).map(|inner| VlanTags { outer: 4094, inner });
        let unnamed = [VlanTags::UNTAGGED].into_iter().chain(single).chain(double);
        match self.named.get(class as usize) {
            Some(&tags) => tags,
            None => unnamed.into_iter().find(free).unwrap_or_default(),
        }
    }

    /// Frames without a tag, where the set holds them.
    fn preferred(&self, set: &RangeSet<u32>, otherwise: u32) -> u32 {
        let untagged = self.named.binary_search(&VlanTags::UNTAGGED);
        let class = untagged.map_or(self.named.len(), |class| class) as u32;
        if set.contains(class) { class } else { otherwise }
    }
}

/// Whether a parser produces such tags: a priority tag counts as none.
fn is_possible(tags: VlanTags) -> bool {
    let vid = 1..=4094;
    match tags {
        VlanTags { outer: 0, inner } => inner == 0,
        VlanTags { outer, inner } => vid.contains(&outer) && (inner == 0 || vid.contains(&inner)),
    }
}
