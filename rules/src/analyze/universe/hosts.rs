//! The hosts of one side of a frame, sorted into classes: two hosts (an address and a MAC address)
//! are in one class when they belong to the same parts of endpoints.
//!
//! Few MAC addresses are named by any policy. So the addresses are cut once for a host whose MAC
//! address nobody names, and for each kind of named MAC address only those stretches are cut again
//! in which it makes a difference.

use std::collections::HashMap;

use super::super::work::{TooMuchWork, Work};
use super::Family;
use crate::headers::Mac;
use crate::policy::{Endpoint, EndpointBox};
use crate::sets::{FiniteSet, RangeSet, VlanSet};

/// Addresses, those of IPv4 in the low 32 bits; of a frame without any, zero.
pub(in crate::analyze) type Addrs = RangeSet<u128>;

/// The classes of one side.
#[derive(Debug)]
pub(in crate::analyze) struct Hosts {
    /// For each endpoint its parts.
    parts: Vec<Vec<Part>>,
    families: [Slice; 3],
    kinds: Vec<MacKind>,
    /// A MAC address that nobody names.
    unnamed: Mac,
}

/// The boxes of an endpoint that agree in their VLANs.
#[derive(Debug)]
pub(in crate::analyze) struct Part {
    pub(in crate::analyze) vlans: VlanSet,
    /// The classes that belong to it, by family.
    pub(in crate::analyze) classes: [RangeSet<u32>; 3],
}

/// MAC addresses that the same boxes name.
#[derive(Debug)]
struct MacKind {
    macs: Vec<Mac>,
    /// Places of boxes, ascending.
    boxes: Vec<u32>,
}

/// The hosts of one family.
#[derive(Debug, Default)]
struct Slice {
    /// The classes are `first..end`.
    first: u32,
    end: u32,
    /// The last address of the family.
    last: u128,
    /// Where a stretch of addresses begins, ascending from zero, and its class for hosts whose MAC
    /// address nobody names.
    usual: Vec<(u128, u32)>,
    /// For each kind of MAC address the stretches in which it makes a difference, ascending.
    special: Vec<Vec<(u128, u128, u32)>>,
}

/// Some hosts: these addresses with these MAC addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::analyze) struct Cell {
    pub(in crate::analyze) addrs: Addrs,
    pub(in crate::analyze) macs: FiniteSet<Mac>,
}

impl Hosts {
    /// Sorts the hosts that may stand on one side; `possible` tells which MAC addresses may.
    pub(super) fn new(
        endpoints: &[&Endpoint],
        possible: impl Fn(Mac) -> bool,
        work: &mut Work,
    ) -> Result<Self, TooMuchWork> {
        let (grouped, boxes) = group(endpoints);
        let kinds = kinds(&boxes, possible, work)?;
        let mut names: Vec<Mac> = kinds.iter().flat_map(|kind| &kind.macs).copied().collect();
        names.sort_unstable();
        let numbered = (1..=u32::MAX).map(|n| {
            let [a, b, c, d] = n.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        });
        let mut candidates = [Mac::default()].into_iter().chain(numbered);
        let unnamed = candidates.find(|mac| names.binary_search(mac).is_err()).unwrap_or_default();

        let (known, members) = (HashMap::new(), Vec::new());
        let (family, parts) = (Family::V4, grouped.len());
        let mut sorter = Sorter { boxes: &boxes, parts, family, known, members, work };
        let mut families: [Slice; 3] = Default::default();
        for family in Family::ALL {
            families[family as usize] = sorter.slice(family, &kinds)?;
        }
        let mut classes = vec![Vec::new(); grouped.len()];
        for (class, parts) in sorter.members.iter().enumerate() {
            parts.iter().for_each(|&part| classes[part as usize].push(class as u32));
        }
        let mut parts: Vec<Vec<Part>> = endpoints.iter().map(|_| Vec::new()).collect();
        for ((endpoint, vlans), classes) in grouped.into_iter().zip(classes) {
            let of = |family: Family| {
                let slice = &families[family as usize];
                let within =
                    classes.iter().filter(|class| (slice.first..slice.end).contains(class));
                RangeSet::<u32>::from_ranges(within.map(|&class| (class, class)))
            };
            parts[endpoint].push(Part { vlans: vlans.clone(), classes: Family::ALL.map(of) });
        }
        Ok(Self { parts, families, kinds, unnamed })
    }

    pub(in crate::analyze) fn parts(&self, endpoint: usize) -> &[Part] {
        &self.parts[endpoint]
    }

    /// Every class of a family.
    pub(in crate::analyze) fn all(&self, family: Family) -> RangeSet<u32> {
        let slice = &self.families[family as usize];
        RangeSet::<u32>::from_ranges([(slice.first, slice.end - 1)])
    }

    /// A host of the class.
    pub(in crate::analyze) fn example(&self, class: u32) -> (u128, Mac) {
        let family = self.families.iter().find(|f| (f.first..f.end).contains(&class));
        let Some(slice) = family else { return (0, self.unnamed) };
        if let Some(place) = slice.usual.iter().position(|&(_, of)| of == class) {
            let start = slice.usual[place].0;
            let next = slice.usual.get(place + 1);
            let end = next.map_or(slice.last, |&(next, _)| next - 1);
            return (presentable(start, end), self.unnamed);
        }
        for (kind, stretches) in self.kinds.iter().zip(&slice.special) {
            if let Some(&(low, high, _)) = stretches.iter().find(|&&(_, _, of)| of == class) {
                return (presentable(low, high), kind.macs[0]);
            }
        }
        (0, self.unnamed)
    }

    /// The hosts of `classes`, as few cells as the kinds of MAC addresses allow.
    pub(in crate::analyze) fn cells(&self, family: Family, classes: &RangeSet<u32>) -> Vec<Cell> {
        let slice = &self.families[family as usize];
        let ends = slice.usual.iter().skip(1).map(|&(next, _)| next - 1).chain([slice.last]);
        let stretches =
            slice.usual.iter().zip(ends).map(|(&(low, class), high)| (low, high, class));
        let usual = Addrs::from_ranges(
            (stretches.filter(|&(_, _, class)| classes.contains(class)))
                .map(|(low, high, _)| (low, high)),
        );
        let mut differing: Vec<(Addrs, Vec<Mac>)> = Vec::new();
        for (kind, stretches) in self.kinds.iter().zip(&slice.special) {
            let all = Addrs::from_ranges(stretches.iter().map(|&(low, high, _)| (low, high)));
            let held = stretches.iter().filter(|&&(_, _, class)| classes.contains(class));
            let held = Addrs::from_ranges(held.map(|&(low, high, _)| (low, high)));
            let addrs = usual.difference(&all).union(&held);
            if addrs == usual {
                continue;
            }
            match differing.iter_mut().find(|(known, _)| *known == addrs) {
                Some((_, macs)) => macs.extend(&kind.macs),
                None => differing.push((addrs, kind.macs.clone())),
            }
        }
        let mut cells = Vec::new();
        if !usual.is_empty() {
            let mut others: Vec<Mac> =
                differing.iter().flat_map(|(_, macs)| macs).copied().collect();
            others.sort_unstable();
            cells.push(Cell { addrs: usual, macs: FiniteSet::AllBut(others) });
        }
        differing.retain(|(addrs, _)| !addrs.is_empty());
        cells.extend(
            differing.into_iter().map(|(addrs, macs)| Cell { addrs, macs: FiniteSet::only(macs) }),
        );
        cells
    }
}

/// An address that looks like a host's, where the stretch has one.
fn presentable(low: u128, high: u128) -> u128 {
    if low & 0xff == 0 && low < high { low + 1 } else { low }
}

/// A box and the place of its part.
type PlacedBox<'a> = (u32, &'a EndpointBox);

/// The parts of all endpoints: whose it is and which VLANs its boxes share; and all boxes.
#[allow(clippy::type_complexity, reason = "used once, and taken apart at once")]
fn group<'a>(endpoints: &[&'a Endpoint]) -> (Vec<(usize, &'a VlanSet)>, Vec<PlacedBox<'a>>) {
    let (mut parts, mut boxes) = (Vec::new(), Vec::new());
    for (place, endpoint) in endpoints.iter().enumerate() {
        let mut of_vlans: HashMap<&VlanSet, u32> = HashMap::new();
        for one in endpoint.boxes.iter() {
            let part = *of_vlans.entry(&one.vlans).or_insert_with(|| {
                parts.push((place, &one.vlans));
                parts.len() as u32 - 1
            });
            boxes.push((part, one));
        }
    }
    (parts, boxes)
}

/// The named MAC addresses that may stand on this side, by the boxes that name them.
fn kinds(
    boxes: &[PlacedBox<'_>],
    possible: impl Fn(Mac) -> bool,
    work: &mut Work,
) -> Result<Vec<MacKind>, TooMuchWork> {
    let mut named: Vec<(Mac, u32)> = Vec::new();
    for (place, (_, one)) in boxes.iter().enumerate() {
        named.extend(one.macs.named().iter().map(|&mac| (mac, place as u32)));
    }
    work.spend(boxes.len() + 4 * named.len())?;
    named.retain(|&(mac, _)| possible(mac));
    named.sort_unstable();
    let mut by_boxes: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut kinds: Vec<MacKind> = Vec::new();
    for of_mac in named.chunk_by(|a, b| a.0 == b.0) {
        let boxes: Vec<u32> = of_mac.iter().map(|&(_, place)| place).collect();
        let kind = *by_boxes.entry(boxes.clone()).or_insert_with(|| {
            kinds.push(MacKind { macs: Vec::new(), boxes });
            kinds.len() - 1
        });
        kinds[kind].macs.push(of_mac[0].0);
    }
    Ok(kinds)
}

/// Sorts the hosts of one family after the other.
struct Sorter<'a, 'w> {
    boxes: &'a [PlacedBox<'a>],
    parts: usize,
    family: Family,
    /// The classes of the family that are known by now, by the parts that hold them.
    known: HashMap<Box<[u32]>, u32>,
    /// For each class of any family the parts that hold it.
    members: Vec<Box<[u32]>>,
    work: &'w mut Work,
}

impl Sorter<'_, '_> {
    fn slice(&mut self, family: Family, kinds: &[MacKind]) -> Result<Slice, TooMuchWork> {
        let first = self.members.len() as u32;
        (self.family, self.known) = (family, HashMap::new());
        let mut ranges = vec![Vec::new(); self.parts];
        let mut others: Vec<Vec<u32>> = vec![Vec::new(); self.parts];
        for (place, (part, one)) in self.boxes.iter().enumerate() {
            if matches!(one.macs, FiniteSet::AllBut(_)) {
                let before = ranges[*part as usize].len();
                ranges[*part as usize].extend(family.addresses(one));
                self.work.spend(1 + ranges[*part as usize].len() - before)?;
                others[*part as usize].push(place as u32);
            }
        }
        let usual: Vec<Addrs> = ranges.into_iter().map(Addrs::from_ranges).collect();
        let cut = self.cut(&usual)?;
        let mut special = Vec::with_capacity(kinds.len());
        for kind in kinds {
            special.push(self.special(kind, &usual, &others, &cut)?);
        }
        Ok(Slice {
            first,
            end: self.members.len() as u32,
            last: family.last_address(),
            usual: cut,
            special,
        })
    }

    /// Cuts the whole range of addresses where any part begins or ends.
    fn cut(&mut self, parts: &[Addrs]) -> Result<Vec<(u128, u32)>, TooMuchWork> {
        let last = self.family.last_address();
        let mut cuts: Vec<(u128, u32)> = Vec::new();
        for (part, addrs) in parts.iter().enumerate() {
            for &(low, high) in addrs.ranges() {
                cuts.push((low, part as u32));
                if high < last {
                    cuts.push((high + 1, part as u32));
                }
            }
        }
        self.work.spend(4 * cuts.len())?;
        cuts.sort_unstable();
        let (mut holding, mut out) = (Vec::new(), Vec::<(u128, u32)>::new());
        let mut cuts = cuts.into_iter().peekable();
        let mut start = 0;
        loop {
            while let Some((_, part)) = cuts.next_if(|&(at, _)| at == start) {
                toggle(&mut holding, part);
            }
            let class = self.class(&holding)?;
            if out.last().is_none_or(|&(_, last)| last != class) {
                out.push((start, class));
            }
            match cuts.peek() {
                Some(&(at, _)) => start = at,
                None => return Ok(out),
            }
        }
    }

    /// The stretches in which hosts with a MAC address of `kind` belong to other parts than usual.
    fn special(
        &mut self,
        kind: &MacKind,
        usual: &[Addrs],
        others: &[Vec<u32>],
        cut: &[(u128, u32)],
    ) -> Result<Vec<(u128, u128, u32)>, TooMuchWork> {
        let mut changed: Vec<(u32, Addrs)> = Vec::new();
        let mut parts: Vec<u32> =
            kind.boxes.iter().map(|&place| self.boxes[place as usize].0).collect();
        parts.sort_unstable();
        parts.dedup();
        for part in parts {
            let is_named = |place: &u32| kind.boxes.binary_search(place).is_ok();
            let always = others[part as usize].iter().filter(|place| !is_named(place));
            let named = kind.boxes.iter().filter(|&&place| {
                let (of, one) = self.boxes[place as usize];
                of == part && matches!(one.macs, FiniteSet::Only(_))
            });
            let places: Vec<u32> = always.chain(named).copied().collect();
            let of_box = |&place: &u32| self.family.addresses(self.boxes[place as usize].1);
            let addrs = Addrs::from_ranges(places.iter().flat_map(of_box));
            self.work.spend(1 + places.len() + 2 * addrs.ranges().len())?;
            if addrs != usual[part as usize] {
                changed.push((part, addrs));
            }
        }
        let mut differing = Vec::new();
        for (part, addrs) in &changed {
            let before = &usual[*part as usize];
            self.work.spend(before.ranges().len())?;
            differing.extend_from_slice(addrs.difference(before).ranges());
            differing.extend_from_slice(before.difference(addrs).ranges());
        }
        let mut out: Vec<(u128, u128, u32)> = Vec::new();
        for &stretch in Addrs::from_ranges(differing).ranges() {
            self.cut_again(stretch, &changed, cut, &mut out)?;
        }
        Ok(out)
    }

    /// Cuts a stretch, in which `changed` hold other addresses than usual, into classes.
    fn cut_again(
        &mut self,
        (low, high): (u128, u128),
        changed: &[(u32, Addrs)],
        cut: &[(u128, u32)],
        out: &mut Vec<(u128, u128, u32)>,
    ) -> Result<(), TooMuchWork> {
        let within = |&at: &u128| low < at && at <= high;
        let first = cut.partition_point(|&(start, _)| start <= low);
        let mut starts = vec![low];
        starts.extend(cut[first..].iter().map(|&(start, _)| start).take_while(within));
        for (_, addrs) in changed {
            for &(begin, end) in addrs.ranges() {
                let ends = [Some(begin), end.checked_add(1)];
                starts.extend(ends.into_iter().flatten().filter(within));
            }
            self.work.spend(addrs.ranges().len())?;
        }
        starts.sort_unstable();
        starts.dedup();
        self.work.spend((4 + changed.len()) * starts.len())?;
        for (place, &start) in starts.iter().enumerate() {
            let end = starts.get(place + 1).map_or(high, |next| next - 1);
            let usual = cut[cut.partition_point(|&(at, _)| at <= start) - 1].1;
            let mut holding = self.members[usual as usize].to_vec();
            for (part, addrs) in changed {
                if holding.binary_search(part).is_ok() != addrs.contains(start) {
                    toggle(&mut holding, *part);
                }
            }
            let class = self.class(&holding)?;
            match out.last_mut() {
                Some(last) if last.2 == class && last.1 + 1 == start => last.1 = end,
                _ => out.push((start, end, class)),
            }
        }
        Ok(())
    }

    /// The class of the hosts that exactly the parts `holding` hold.
    fn class(&mut self, holding: &[u32]) -> Result<u32, TooMuchWork> {
        self.work.spend(2 + holding.len())?;
        if let Some(&class) = self.known.get(holding) {
            return Ok(class);
        }
        let class = self.members.len() as u32;
        self.known.insert(holding.into(), class);
        self.members.push(holding.into());
        Ok(class)
    }
}

/// Adds `part` to the ascending `holding`, or removes it.
fn toggle(holding: &mut Vec<u32>, part: u32) {
    match holding.binary_search(&part) {
        Ok(place) => {
            holding.remove(place);
        }
        Err(place) => holding.insert(place, part),
    }
}
