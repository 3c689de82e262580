//! The endpoints of one side of the rules, in parts, and the classes that they tell apart.

use std::borrow::Cow;
use std::collections::HashMap;

use super::budget::{Budget, Cost, Exceeded};
use super::map::{MapBuilder, Piece};
use super::mixer::ByNumbers;
use super::partition::{Classes, Coordinate, cuts, intervals_between, points};
use crate::classifier::addresses::{AddressMap, SLOTS};
use crate::classifier::tables::Reach;
use crate::headers::Mac;
use crate::policy::{Endpoint, EndpointBox, EndpointId, Policy};
use crate::sets::{AddrSet, FiniteSet, MacSet};

/// The source side or the destination side of all rules.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) parts: Vec<Part>,
    free_parts: Vec<u32>,
    /// For each endpoint that rules use on this side its parts.
    by_endpoint: HashMap<u32, Vec<u32>>,
    pub(super) classes: ClassSet,
    map: MapBuilder,
}

/// Where the addresses of endpoints begin and end, in order: what both sides are cut by.
#[derive(Debug)]
pub(super) struct Cuts {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u32)>,
}

/// The classes of a side.
#[derive(Debug, Default)]
pub(super) struct ClassSet {
    pub(super) all: Vec<Class>,
    free: Vec<u32>,
    /// By their parts, which no class of addresses has in common with one of MAC addresses.
    ids: ByNumbers<Box<[u32]>, u32>,
}

/// What a change of addresses did to the classes of a side.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Classes that addresses have left.
    pub(super) left: Vec<u32>,
    /// Classes that there were not before.
    pub(super) created: Vec<u32>,
    /// Classes that have other parts than those that they had, which stand beside them.
    pub(super) renamed: Vec<(u32, Box<[u32]>)>,
    /// Bytes that the change may have added to the map and to the list of intervals: never fewer
    /// than it did.
    pub(super) bytes: usize,
}

/// What a part is to hold of the addresses in a region: its members and no others.
pub(super) struct PartChange<'a> {
    pub(super) part: u32,
    pub(super) region: &'a AddrSet,
    pub(super) members: &'a AddrSet,
}

/// The sets of parts that pieces of a change enter or leave, by number: ascending, each with whether
/// classes of the piece have the part.
#[derive(Default)]
struct Flips(Vec<Vec<(u32, bool)>>);

/// Those boxes of an endpoint that are found in the same way.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) endpoint: u32,
    pub(super) kind: Kind,
    /// Whether being in one of its classes is all that it asks for.
    pub(super) exact: bool,
    /// Whether the classes that it is a part of are those that it does *not* hold: an edit then adds
    /// "any but one address" to a policy of 100,000 without a new class for each of them. Such a part
    /// is wide, and holds no MAC addresses.
    pub(super) inverted: bool,
    pub(super) treatment: Treatment,
    /// The alternatives that use it.
    pub(super) uses: u32,
    /// Of a narrow part the rules whose other side is narrow too, each with its part there.
    pub(super) pairs: Vec<(u32, u32)>,
    /// Of those the parts there that have keys of their own, and some that there were.
    pub(super) reach: Reach,
    /// Of a narrow part the rules whose other side is wide.
    pub(super) lists: Vec<Listed>,
    /// The classes that it holds.
    pub(super) classes: Vec<u32>,
}

/// A rule of a narrow part whose other side is wide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) rule: u32,
    /// Its part there.
    pub(super) other: u32,
    /// What lists hold of it: looked up again for each class, rules are read from memory most of the time.
    pub(super) candidate: u64,
    pub(super) condition: u32,
}

/// What the boxes of a part are found by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Their addresses, which are all that they test.
    Address,
    /// Their addresses; they test more.
    AddressAndMore,
    /// Their MAC addresses.
    Mac,
}

pub(super) const KINDS: [Kind; 3] = [Kind::Address, Kind::AddressAndMore, Kind::Mac];

/// How the rules of a part are listed: see [`crate::classifier`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Treatment {
    /// Under each of its classes.
    ByClass,
    /// Under a key of its own.
    ByKey,
    /// Under the other side; the number is its bit.
    Wide(u32),
}

impl Treatment {
    pub(super) fn is_narrow(self) -> bool {
        !matches!(self, Self::Wide(_))
    }
}

/// What the same parts hold.
#[derive(Debug, Default)]
pub(super) struct Class {
    /// Ascending.
    pub(super) parts: Box<[u32]>,
    /// Intervals and MAC addresses of this class; with none it is free.
    pub(super) uses: u32,
}

impl Cuts {
    /// Those of the endpoints for which `used` holds.
    pub(super) fn of(policy: &Policy, used: impl Fn(usize) -> bool) -> Self {
        let mut sets = Vec::new();
        for (id, endpoint) in policy.endpoints().iter().enumerate().filter(|(id, _)| used(*id)) {
            for (kind, exact) in KINDS.into_iter().zip(kinds_of(endpoint)) {
                if kind != Kind::Mac && exact.is_some() {
                    sets.push((Self::number(id as u32, kind), addresses(endpoint, kind)));
                }
            }
        }
        let v4 = (sets.iter())
            .flat_map(|(id, set)| set.v4.ranges().iter().map(move |&(low, high)| (low, high, *id)));
        let v6 = (sets.iter())
            .flat_map(|(id, set)| set.v6.ranges().iter().map(move |&(low, high)| (low, high, *id)));
        Self { v4: cuts(v4), v6: cuts(v6) }
    }

    /// What stands for the addresses of an endpoint.
    fn number(endpoint: u32, kind: Kind) -> u32 {
        2 * endpoint + u32::from(kind == Kind::AddressAndMore)
    }
}

impl Side {
    /// Sorts the endpoints of which `used` is true into parts, and those into classes. No part has a
    /// rule yet. Returns where addresses and MAC addresses find their class, too.
    pub(super) fn new(
        policy: &Policy,
        used: &[bool],
        cuts: &Cuts,
        budget: &mut Budget,
    ) -> Result<(Self, AddressMap, HashMap<Mac, u32>), Exceeded> {
        let mut side = Self {
            parts: Vec::new(),
            free_parts: Vec::new(),
            by_endpoint: HashMap::new(),
            classes: ClassSet::default(),
            map: MapBuilder::default(),
        };
        for (id, _) in used.iter().enumerate().filter(|(_, used)| **used) {
            side.add_endpoint(policy, id as u32, budget)?;
        }
        let (map, macs) = side.cut(policy, cuts, budget)?;
        Ok((side, map, macs))
    }

    /// The parts of an endpoint.
    pub(super) fn parts_of(&self, endpoint: u32) -> &[u32] {
        self.by_endpoint.get(&endpoint).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add_endpoint(
        &mut self,
        policy: &Policy,
        id: u32,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let endpoint = &policy.endpoints()[id as usize];
        self.by_endpoint.insert(id, Vec::new());
        for (kind, exact) in KINDS.into_iter().zip(kinds_of(endpoint)) {
            if let Some(exact) = exact {
                budget.spend(endpoint.boxes.len(), 0)?;
                self.add_part(id, kind, exact, budget)?;
            }
        }
        Ok(())
    }

    /// Adds a part, which holds nothing yet, to an endpoint.
    pub(super) fn add_part(
        &mut self,
        endpoint: u32,
        kind: Kind,
        exact: bool,
        budget: &mut Budget,
    ) -> Result<u32, Exceeded> {
        budget.spend(1, size_of::<Part>())?;
        let part = Part {
            endpoint,
            kind,
            exact,
            inverted: false,
            treatment: Treatment::ByClass,
            uses: 0,
            pairs: Vec::new(),
            reach: Reach::default(),
            lists: Vec::new(),
            classes: Vec::new(),
        };
        let place = match self.free_parts.pop() {
            Some(place) => {
                self.parts[place as usize] = part;
                place
            }
            None => {
                self.parts.push(part);
                self.parts.len() as u32 - 1
            }
        };
        self.by_endpoint.entry(endpoint).or_default().push(place);
        Ok(place)
    }

    /// Takes a part, which no class holds any more, from its endpoint.
    pub(super) fn remove_part(&mut self, part: u32, budget: &mut Budget) {
        if let Some(parts) = self.by_endpoint.get_mut(&self.parts[part as usize].endpoint) {
            parts.retain(|&other| other != part);
        }
        self.free_parts.push(part);
        budget.release(size_of::<Part>());
    }

    /// Finds the classes of everything.
    fn cut(
        &mut self,
        policy: &Policy,
        cuts: &Cuts,
        budget: &mut Budget,
    ) -> Result<(AddressMap, HashMap<Mac, u32>), Exceeded> {
        let mut classes = Classes::default();
        let mut part_of = vec![None; 2 * policy.endpoints().len()];
        let mut non_ip = Vec::new();
        for (id, part) in (0..).zip(&self.parts).filter(|(_, part)| part.kind != Kind::Mac) {
            part_of[Cuts::number(part.endpoint, part.kind) as usize] = Some(id);
            let endpoint = policy.endpoint(EndpointId(part.endpoint));
            if boxes_of(endpoint, part.kind).any(|b| b.addrs.non_ip) {
                non_ip.push(id);
            }
        }
        let part_of = |set: u32| part_of[set as usize];
        budget.spend(cuts.v4.len() + cuts.v6.len(), 0)?;
        let v4 = cuts.v4.iter().filter_map(|&(at, set)| Some((at, part_of(set)?)));
        let v4 = intervals_between(v4, &mut classes, budget)?;
        let v6 = cuts.v6.iter().filter_map(|&(at, set)| Some((at, part_of(set)?)));
        let v6 = intervals_between(v6, &mut classes, budget)?;
        let non_ip = classes.id(&non_ip, budget)?;

        let of_macs: Vec<u32> = (0..self.parts.len() as u32)
            .filter(|&id| self.parts[id as usize].kind == Kind::Mac)
            .collect();
        let sets: Vec<MacSet> = (of_macs.iter())
            .map(|&id| {
                let endpoint = self.parts[id as usize].endpoint;
                MacSet::only(macs_of(&policy.endpoints()[endpoint as usize]))
            })
            .collect();
        let mut mac_classes = Classes::default();
        let macs = points(sets.iter(), &mut mac_classes, budget)?;

        let Classes { ids, members } = classes;
        let all = members.into_iter().map(|parts| Class { parts, uses: 0 }).collect();
        self.classes = ClassSet { all, free: Vec::new(), ids };
        let all = &mut self.classes.all;
        // MAC classes are apart from address classes, even where no part tells them so: a frame has
        // one of each.
        let first = all.len() as u32;
        for members in mac_classes.members {
            let parts: Box<[u32]> = members.iter().map(|&place| of_macs[place as usize]).collect();
            // That of all other MAC addresses leads nowhere, and no edit asks for it.
            if !parts.is_empty() {
                self.classes.ids.insert(parts.clone(), all.len() as u32);
            }
            all.push(Class { parts, uses: 0 });
        }
        let macs: HashMap<Mac, u32> =
            macs.named.into_iter().map(|(mac, class)| (mac, first + class)).collect();
        macs.values().for_each(|&class| all[class as usize].uses += 1);
        budget.spend(v4.len() + v6.len(), 0)?;
        let mut map = MapBuilder::empty_map(v4[0].1, non_ip);
        self.map.v4.set(&mut map.v4, SLOTS, &v4, |class| all[class as usize].uses += 1);
        v6.iter().for_each(|&(_, class)| all[class as usize].uses += 1);
        self.map.set6(&mut map, v6);
        all[non_ip as usize].uses += 1;
        budget.spend(1, map.size_bytes())?;
        for (id, class) in all.iter().enumerate() {
            budget.spend(class.parts.len(), size_of_val(&*class.parts))?;
            for &part in &class.parts {
                self.parts[part as usize].classes.push(id as u32);
            }
        }
        Ok((map, macs))
    }

    /// Makes each of several parts hold, of the addresses in a region, its members and no others. All
    /// at once, so that what several parts gain or lose goes from its class to the new one straight.
    pub(super) fn change(&mut self, map: &mut AddressMap, changes: &[PartChange<'_>]) -> Moves {
        let mut moves = Moves::default();
        let map_bytes = map.size_bytes();
        let mut flips = Flips::default();
        let mut pieces4 = flips.pieces(changes, &self.parts, |set| set.v4.ranges());
        let mut pieces6 = flips.pieces(changes, &self.parts, |set| set.v6.ranges());
        self.rename(map, &flips, (&mut pieces4, &mut pieces6), &mut moves);
        let (parts, classes) = (&self.parts, &mut self.classes);
        let uses = std::cell::RefCell::new(Vec::new());
        let mut change = |class: u32, flips_of: u32| {
            classes.changed(class, &flips.0[flips_of as usize], &mut moves)
        };
        let mut used = |class: u32, more: i32| uses.borrow_mut().push((class, more));
        if !pieces4.is_empty() {
            self.map.v4.change(&mut map.v4, &pieces4, &mut change, &mut used);
        }
        if !pieces6.is_empty() {
            self.map.change6(map, &pieces6, &mut change, &mut used);
        }
        let mut non_ip: Vec<(u32, bool)> = (changes.iter())
            .filter(|change| change.region.non_ip)
            .map(|change| change.flip(parts, change.members.non_ip))
            .collect();
        if !non_ip.is_empty() {
            non_ip.sort_unstable();
            used(map.non_ip, -1);
            map.non_ip = classes.changed(map.non_ip, &non_ip, &mut moves);
            used(map.non_ip, 1);
        }
        for (class, more) in uses.into_inner() {
            let uses = &mut self.classes.all[class as usize].uses;
            *uses = uses.wrapping_add_signed(more);
        }
        moves.left.sort_unstable();
        moves.left.dedup();
        // A piece begins one interval and ends another at most.
        moves.bytes = map.size_bytes().saturating_sub(map_bytes)
            + 2 * pieces4.len() * size_of::<(u32, u32)>()
            + 2 * pieces6.len() * size_of::<(u128, u32)>();
        moves
    }

    /// Gives classes, all addresses of which change alike, their new parts where they stand, unless
    /// there is a class of those: nothing has to be written of their addresses. Leaves the pieces that
    /// hold others. Nearly every address of many groups is of a class of its own.
    fn rename(
        &mut self,
        map: &AddressMap,
        flips: &Flips,
        (pieces4, pieces6): (&mut Vec<Piece<u32>>, &mut Vec<Piece<u128>>),
        moves: &mut Moves,
    ) {
        // Each interval's class, whether it changes as a whole and how, and the place of the piece.
        let mut found = Vec::new();
        self.map.overlaps(map, pieces4, pieces6, &mut |place, class, flips_of, is_whole| {
            found.push((class, flips_of, is_whole, place));
        });
        found.sort_unstable();
        let mut stay = vec![false; pieces4.len() + pieces6.len()];
        for of_class in found.chunk_by(|a, b| a.0 == b.0) {
            let &(id, flips_of, ..) = &of_class[0];
            let is_alike = of_class.iter().all(|one| one.1 == flips_of && one.2);
            let class = &mut self.classes.all[id as usize];
            if is_alike && of_class.len() == class.uses as usize {
                let parts = with_parts(&class.parts, &flips.0[flips_of as usize]);
                let Some(parts) = parts else { continue };
                if !self.classes.ids.contains_key(&parts) {
                    let before = std::mem::replace(&mut class.parts, parts.clone());
                    self.classes.ids.remove(&before);
                    self.classes.ids.insert(parts, id);
                    moves.renamed.push((id, before));
                    continue;
                }
            }
            of_class.iter().for_each(|one| stay[one.3] = true);
        }
        let mut stays = stay.into_iter();
        pieces4.retain(|_| stays.next().unwrap_or(true));
        pieces6.retain(|_| stays.next().unwrap_or(true));
    }

    /// Whether fewer intervals of addresses are outside of `addresses` than in it.
    pub(super) fn is_most(&self, map: &AddressMap, addresses: &AddrSet) -> bool {
        self.map.is_most(map, addresses)
    }

    /// Makes `part` hold each MAC address of `changes` or no longer do so.
    pub(super) fn change_macs(
        &mut self,
        map: &mut HashMap<Mac, u32>,
        part: u32,
        changes: impl Iterator<Item = (Mac, bool)>,
    ) -> Moves {
        let mut moves = Moves::default();
        for (mac, is_member) in changes {
            let old = map.get(&mac).copied();
            let before = old.map_or(&[][..], |class| &self.classes.all[class as usize].parts);
            let Some(parts) = with_parts(before, &[(part, is_member)]) else { continue };
            if let Some(old) = old {
                self.classes.all[old as usize].uses -= 1;
                moves.left.push(old);
            }
            if parts.is_empty() {
                map.remove(&mac);
            } else {
                let class = self.classes.of(parts, &mut moves);
                self.classes.all[class as usize].uses += 1;
                map.insert(mac, class);
            }
        }
        moves.left.sort_unstable();
        moves.left.dedup();
        moves
    }

    /// Forgets an endpoint, whose parts no class holds any more.
    pub(super) fn remove_endpoint(&mut self, endpoint: u32, budget: &mut Budget) {
        for part in self.by_endpoint.remove(&endpoint).into_iter().flatten() {
            self.free_parts.push(part);
            budget.release(size_of::<Part>());
        }
    }

    /// How many classes each endpoint holds: what its cost grows with.
    pub(super) fn costs(&self, policy: &Policy) -> Vec<Cost> {
        costs(policy, "classes", |id| {
            let parts = self.parts_of(id as u32).iter();
            parts.map(|&part| self.parts[part as usize].classes.len() as u64).sum()
        })
    }
}

/// How many ranges and MAC addresses each endpoint names: what its cost grows with before its
/// classes are known.
pub(super) fn size_costs(policy: &Policy) -> Vec<Cost> {
    let size = |b: &EndpointBox| {
        b.addrs.v4.ranges().len() + b.addrs.v6.ranges().len() + b.macs.named().len()
    };
    costs(policy, "ranges and MAC addresses", |id| {
        policy.endpoints()[id].boxes.iter().map(size).sum::<usize>() as u64
    })
}

fn costs(policy: &Policy, unit: &'static str, amount: impl Fn(usize) -> u64) -> Vec<Cost> {
    let cost = |id: usize| Cost {
        what: format!("endpoint `{}`", policy.endpoints()[id].label),
        amount: amount(id),
        unit,
    };
    (0..policy.endpoints().len()).map(cost).collect()
}

/// The boxes of an endpoint that are found in one way.
pub(super) fn boxes_of(endpoint: &Endpoint, kind: Kind) -> impl Iterator<Item = &EndpointBox> {
    endpoint.boxes.iter().filter(move |b| kind_of(b) == kind)
}

/// For each of [`KINDS`] whether being found in that way is all that the endpoint's boxes of that
/// kind ask for; [`None`] where there are none.
pub(super) fn kinds_of(endpoint: &Endpoint) -> [Option<bool>; KINDS.len()] {
    KINDS.map(|kind| {
        let mut boxes = boxes_of(endpoint, kind).peekable();
        boxes.peek()?;
        Some(boxes.all(|b| tests_only(kind, b)))
    })
}

/// The MAC addresses that boxes of an endpoint are found by.
pub(super) fn macs_of(endpoint: &Endpoint) -> impl Iterator<Item = Mac> {
    boxes_of(endpoint, Kind::Mac).flat_map(|b| b.macs.named()).copied()
}

/// All addresses that a part may match.
pub(super) fn addresses_of<'a>(policy: &'a Policy, part: &Part) -> Cow<'a, AddrSet> {
    addresses(&policy.endpoints()[part.endpoint as usize], part.kind)
}

/// All addresses that boxes of an endpoint may match that are found in one way.
pub(super) fn addresses(endpoint: &Endpoint, kind: Kind) -> Cow<'_, AddrSet> {
    let boxes: Vec<&EndpointBox> = boxes_of(endpoint, kind).collect();
    match *boxes {
        [single] => Cow::Borrowed(&single.addrs),
        _ => Cow::Owned(boxes.iter().fold(AddrSet::default(), |all, b| all.union(&b.addrs))),
    }
}

fn kind_of(b: &EndpointBox) -> Kind {
    if matches!(b.macs, FiniteSet::Only(_)) && is_wide(&b.addrs) {
        Kind::Mac
    } else if b.is_plain() {
        Kind::Address
    } else {
        Kind::AddressAndMore
    }
}

/// Whether being found in that way is all that the box asks for.
fn tests_only(kind: Kind, b: &EndpointBox) -> bool {
    match kind {
        Kind::Address => true,
        Kind::AddressAndMore => false,
        Kind::Mac => {
            b.addrs.is_any() && b.vlans.is_any() && b.beyond.is_none() && b.except_bound.is_empty()
        }
    }
}

/// Whether the set holds more than a few MAC addresses would: an IPv4 /8, an IPv6 /16.
fn is_wide(addrs: &AddrSet) -> bool {
    addrs.v4.ranges().iter().any(|(low, high)| high - low >= (1 << 24) - 1)
        || addrs.v6.ranges().iter().any(|(low, high)| high - low >= (1 << 112) - 1)
}

impl Class {
    /// What keeping a class of these parts takes.
    pub(super) fn bytes(parts: &[u32]) -> usize {
        Classes::class_bytes(parts) + size_of_val(parts)
    }
}

impl ClassSet {
    /// The class of the values of `class` once each of these parts holds them, or no longer does.
    fn changed(&mut self, class: u32, flips: &[(u32, bool)], moves: &mut Moves) -> u32 {
        let parts = with_parts(&self.all[class as usize].parts, flips);
        let Some(parts) = parts else { return class };
        moves.left.push(class);
        self.of(parts, moves)
    }

    /// The class of what exactly these parts hold.
    fn of(&mut self, parts: Box<[u32]>, moves: &mut Moves) -> u32 {
        if let Some(&id) = self.ids.get(&parts) {
            return id;
        }
        let class = Class { parts: parts.clone(), uses: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id as usize] = class;
                id
            }
            None => {
                self.all.push(class);
                self.all.len() as u32 - 1
            }
        };
        self.ids.insert(parts, id);
        moves.created.push(id);
        id
    }

    /// Forgets a class that nothing is of any more.
    pub(super) fn remove(&mut self, class: u32) -> Box<[u32]> {
        let parts = std::mem::take(&mut self.all[class as usize].parts);
        self.ids.remove(&parts);
        self.free.push(class);
        parts
    }
}

impl Moves {
    /// Classes whose addresses are held by other parts now, or some of them.
    pub(super) fn changed(&self) -> impl Iterator<Item = u32> + '_ {
        self.left.iter().copied().chain(self.renamed.iter().map(|&(class, _)| class))
    }
}

impl PartChange<'_> {
    /// Whether classes of what the part holds, or no longer does, are to have it.
    fn flip(&self, parts: &[Part], is_member: bool) -> (u32, bool) {
        (self.part, is_member != parts[self.part as usize].inverted)
    }
}

impl Flips {
    /// What changes of one family, in ascending disjoint pieces, each with the number of its set.
    fn pieces<T: Coordinate>(
        &mut self,
        changes: &[PartChange<'_>],
        parts: &[Part],
        ranges: impl Fn(&AddrSet) -> &[(T, T)],
    ) -> Vec<Piece<T>> {
        let mut bounds = Vec::new();
        for change in changes {
            for (low, high, is_member) in pieces(ranges(change.region), ranges(change.members)) {
                let flip = change.flip(parts, is_member);
                bounds.push((low, flip, true));
                bounds.extend(high.next().map(|after| (after, flip, false)));
            }
        }
        // Of one part they are in order already, which this sort sees.
        bounds.sort_by_key(|&(at, ..)| at);
        let (mut out, mut now) = (Vec::new(), Vec::<(u32, bool)>::new());
        let mut bounds = bounds.into_iter().peekable();
        while let Some((low, flip, begins)) = bounds.next() {
            match (now.binary_search(&flip), begins) {
                (Err(place), true) => now.insert(place, flip),
                (Ok(place), false) => drop(now.remove(place)),
                // One part's pieces do not overlap.
                (Ok(_), true) | (Err(_), false) => {}
            }
            let next = bounds.peek().map(|&(at, ..)| at);
            if next == Some(low) || now.is_empty() {
                continue;
            }
            let high = next.map_or(T::LAST, T::before);
            if self.0.last() != Some(&now) {
                self.0.push(now.clone());
            }
            out.push((low, high, self.0.len() as u32 - 1));
        }
        out
    }
}

/// `parts`, which are ascending, with those of `flips` that are true and without the others; [`None`]
/// where that is what they are.
fn with_parts(parts: &[u32], flips: &[(u32, bool)]) -> Option<Box<[u32]>> {
    let differs =
        |&(part, is_member): &(u32, bool)| parts.binary_search(&part).is_ok() != is_member;
    if !flips.iter().any(differs) {
        return None;
    }
    let is_flipped = |part: &u32| flips.binary_search_by_key(part, |&(flip, _)| flip).is_ok();
    let stay = parts.iter().copied().filter(|part| !is_flipped(part));
    let hold = flips.iter().filter(|(_, is_member)| *is_member).map(|&(part, _)| part);
    let mut all: Vec<u32> = stay.chain(hold).collect();
    all.sort_unstable();
    Some(all.into())
}

/// `region` in pieces that are in `members` or not.
fn pieces<T: Coordinate>(region: &[(T, T)], members: &[(T, T)]) -> Vec<(T, T, bool)> {
    let mut out = Vec::new();
    for &(low, high) in region {
        let mut at = Some(low);
        let first = members.partition_point(|&(_, last)| last < low);
        for &(from, to) in members[first..].iter().take_while(|&&(from, _)| from <= high) {
            if let Some(start) = at.filter(|&start| start < from) {
                out.push((start, from.before(), false));
            }
            out.push((from.max(low), to.min(high), true));
            at = to.next().filter(|&after| after <= high);
        }
        if let Some(start) = at {
            out.push((start, high, false));
        }
    }
    out
}
