//! Boxes of classes as an operator reads them: by the names of the policy where a set has one, else
//! by addresses, ports and VLANs; and as sets of frames that can be asked for any one.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::region::{DIMENSIONS, Dimension, Region};
use super::universe::{Cell, Family, FrameCell, Hosts, Universe};
use crate::headers::{ETHER_IPV4, ETHER_IPV6, FrameType, Headers, Mac, PolicyTime, protocol};
use crate::policy::Policy;
use crate::sets::{FiniteSet, RangeSet};

/// A set of packets and of instants, in words. All of its conditions are ANDed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packets {
    /// Who opens.
    pub from: Words,
    /// To whom.
    pub to: Words,
    /// What.
    pub service: Words,
    /// `IPv4`, `IPv6` or `not IP` where the words above would say more than is meant.
    pub family: Option<&'static str>,
    /// The VLANs; [`None`] for any.
    pub vlans: Option<Words>,
    /// The wires; [`None`] for any.
    pub wires: Option<Words>,
    /// The periods; [`None`] for ever.
    pub when: Option<Words>,
    boxes: Vec<PacketBox>,
}

/// A set in words: any of the items, but for the exceptions.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Words {
    /// Any of these.
    pub items: Vec<String>,
    /// But none of these.
    pub except: Vec<String>,
}

/// The most items that are printed; the rest is counted.
const MAX_ITEMS: usize = 8;

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.items)?;
        if !self.except.is_empty() {
            f.write_str(" except ")?;
            list(f, &self.except)?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[String]) -> fmt::Result {
    // One more is shown rather than counted.
    let shown = if items.len() <= MAX_ITEMS + 1 { items.len() } else { MAX_ITEMS };
    f.write_str(&items[..shown].join(", "))?;
    match items.len() - shown {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

impl fmt::Display for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}, service {}", self.from, self.to, self.service)?;
        if let Some(family) = self.family {
            write!(f, ", {family} only")?;
        }
        let conditions = [("VLAN", &self.vlans), ("wire", &self.wires)];
        for (name, words) in conditions {
            if let Some(words) = words {
                write!(f, ", {name} {words}")?;
            }
        }
        match &self.when {
            Some(when) => write!(f, ", {when}"),
            None => Ok(()),
        }
    }
}

impl Packets {
    /// Whether the frame at the instant belongs to the set. Wires are numbered as in the analysis
    /// that made the set.
    pub fn contains(&self, headers: &Headers, at: PolicyTime) -> bool {
        self.boxes.iter().any(|one| one.contains(headers, at))
    }
}

/// One family of a set.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PacketBox {
    family: Family,
    sources: Vec<Cell>,
    destinations: Vec<Cell>,
    frames: Vec<FrameCell>,
    /// EtherTypes that have a frame cell of their own.
    named_ether_types: Arc<[u16]>,
    tags: FiniteSet<crate::headers::VlanTags>,
    wires: FiniteSet<u16>,
    /// From and until, in milliseconds since the Unix epoch, while the clock is trusted.
    periods: Vec<(Option<i64>, Option<i64>)>,
    untrusted: bool,
}

impl PacketBox {
    fn contains(&self, h: &Headers, at: PolicyTime) -> bool {
        let family = match h.ether_type {
            ETHER_IPV4 => Family::V4,
            ETHER_IPV6 => Family::V6,
            _ => Family::Other,
        };
        let host = |cells: &[Cell], addr: u128, mac: Mac| {
            let addr = if family == Family::Other { 0 } else { addr };
            cells.iter().any(|cell| cell.addrs.contains(addr) && cell.macs.contains(mac))
        };
        let within = |(low, high): (u16, u16), port: u16| (low..=high).contains(&port);
        let frame = |cell: &FrameCell| {
            let is_type = match cell.ether_type {
                Some(ether) => ether == h.ether_type,
                None => !self.named_ether_types.contains(&h.ether_type),
            };
            is_type
                && cell.protocol == h.protocol
                && within(cell.src_ports, h.src_port)
                && within(cell.dst_ports, h.dst_port)
        };
        let during = |&(from, until): &(Option<i64>, Option<i64>)| {
            from.is_none_or(|from| from <= at.unix_ms)
                && until.is_none_or(|until| at.unix_ms < until)
        };
        family == self.family
            && if at.synchronised { self.periods.iter().any(during) } else { self.untrusted }
            && self.tags.contains(h.tags)
            && self.wires.contains(h.wire.0)
            && self.frames.iter().any(frame)
            && host(&self.sources, h.src, h.src_mac)
            && host(&self.destinations, h.dst, h.dst_mac)
    }
}

/// A set of hosts or services with a name, by family.
#[derive(Debug)]
struct Named {
    label: String,
    classes: [RangeSet<u32>; 3],
}

/// Named sets by family and classes.
type Equal = HashMap<(usize, RangeSet<u32>), Vec<usize>>;

/// Puts boxes into words.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    universe: &'a Universe,
    /// Named sets of sources, destinations and services.
    named: [Vec<Named>; 3],
    /// For each of them by family and set the places of those that are equal.
    equal: [Equal; 3],
    /// Names of sources and destinations that stand for other hosts in other VLANs.
    varied: [Vec<Varied>; 2],
}

/// A set of hosts with a name that depends on the VLAN.
#[derive(Debug)]
struct Varied {
    label: String,
    /// The tags, and the hosts by family that belong to it in frames with these.
    parts: Vec<(RangeSet<u32>, [RangeSet<u32>; 3])>,
}

const SRC: usize = 0;
const DST: usize = 1;
const SERVICE: usize = 2;

/// The names that the sets of a box may go by.
#[derive(Clone, Debug)]
struct Names {
    labels: [Vec<String>; 3],
    /// The service in words that need no name.
    literal: Option<String>,
}

/// Boxes of different families that the same words may stand for; never empty.
struct Group {
    regions: Vec<(Family, Region)>,
    names: Names,
}

/// Names for all three sets of a box.
struct Chosen<'n> {
    from: &'n str,
    to: &'n str,
    /// [`None`] where the service is put into words.
    service: Option<&'n str>,
    /// Whether the names stand for nothing else.
    is_exact: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(universe: &'a Universe, policies: &[&Policy]) -> Self {
        let any = |of: &dyn Fn(Family) -> RangeSet<u32>| Named {
            label: "any".to_owned(),
            classes: Family::ALL.map(of),
        };
        let mut named = [
            vec![any(&|family| universe.sources.all(family))],
            vec![any(&|family| universe.destinations.all(family))],
            vec![any(&|family| universe.frames.all(family))],
        ];
        let mut varied: [Vec<Varied>; 2] = Default::default();
        for (place, policy) in policies.iter().enumerate() {
            for (id, endpoint) in policy.endpoints().iter().enumerate() {
                let sides = [&universe.sources, &universe.destinations];
                for (side, hosts) in sides.into_iter().enumerate() {
                    let Some(known) = universe.endpoint(place, id, side) else { continue };
                    let label = endpoint.label.clone();
                    match hosts.parts(known) {
                        [part] if part.vlans.is_any() => {
                            named[side].push(Named { label, classes: part.classes.clone() });
                        }
                        parts => {
                            let parts = parts.iter().map(|part| {
                                (universe.tags.classes(&part.vlans), part.classes.clone())
                            });
                            varied[side].push(Varied { label, parts: parts.collect() });
                        }
                    }
                }
            }
            for (id, service) in policy.services().iter().enumerate() {
                let classes = universe.service(place, id).clone();
                named[SERVICE].push(Named { label: service.label.clone(), classes });
            }
        }
        drop_ambiguous(&mut named, &mut varied);
        // Short names first: `hmi` rather than a list that means the same.
        named.iter_mut().for_each(|named| named.sort_by_key(|n| (n.label.len(), n.label.clone())));
        let mut equal: [Equal; 3] = Default::default();
        for (equal, named) in equal.iter_mut().zip(&named) {
            for (place, name) in named.iter().enumerate() {
                for (family, classes) in name.classes.iter().enumerate() {
                    equal.entry((family, classes.clone())).or_default().push(place);
                }
            }
        }
        Self { universe, named, equal, varied }
    }

    /// The boxes in words, those of different families together where the same words mean both.
    pub(super) fn packets(&self, regions: Vec<Region>) -> Vec<(Packets, Region)> {
        let mut groups: Vec<Group> = Vec::new();
        for region in regions {
            let family = self.family(&region);
            let names = self.names(family, &region);
            let joined = groups.iter_mut().find_map(|group| {
                let joins = group.regions.iter().all(|(other, like)| {
                    let same = [Dimension::Tags, Dimension::Wire, Dimension::Time];
                    *other != family && same.iter().all(|&d| like.get(d) == region.get(d))
                });
                let common = group.names.in_common(&names);
                (joins && common.are_enough()).then_some((group, common))
            });
            match joined {
                Some((group, common)) => {
                    group.names = common;
                    group.regions.push((family, region));
                }
                None => groups.push(Group { regions: vec![(family, region)], names }),
            }
        }
        groups.into_iter().map(|group| self.write(group)).collect()
    }

    fn family(&self, region: &Region) -> Family {
        self.universe.frames.family(region.get(Dimension::Service).ranges()[0].0)
    }

    fn names(&self, family: Family, region: &Region) -> Names {
        let of = |what: usize, dimension| {
            let key = (family as usize, RangeSet::clone(region.get(dimension)));
            let places = self.equal[what].get(&key).map_or(&[][..], Vec::as_slice);
            let label = |&place: &usize| self.named[what][place].label.clone();
            places.iter().map(label).collect::<Vec<_>>()
        };
        let but = |what: usize, dimension, all: RangeSet<u32>| {
            let key = (family as usize, all.difference(region.get(dimension)));
            let places = self.equal[what].get(&key).filter(|_| !key.1.is_empty());
            let labels = places.into_iter().flatten().map(|&place| &self.named[what][place].label);
            labels.map(|label| format!("any except {label}")).collect::<Vec<_>>()
        };
        let (mut src, mut dst) = (of(SRC, Dimension::Source), of(DST, Dimension::Destination));
        src.extend(self.varied_names(SRC, family, region, Dimension::Source));
        dst.extend(self.varied_names(DST, family, region, Dimension::Destination));
        src.extend(but(SRC, Dimension::Source, self.universe.sources.all(family)));
        dst.extend(but(DST, Dimension::Destination, self.universe.destinations.all(family)));
        Names {
            labels: [src, dst, of(SERVICE, Dimension::Service)],
            literal: Some(self.service(family, region.get(Dimension::Service)).to_string()),
        }
    }

    /// The names that stand for the hosts of one side in frames with the region's tags.
    fn varied_names(
        &self,
        side: usize,
        family: Family,
        region: &Region,
        dimension: Dimension,
    ) -> Vec<String> {
        let tags = region.get(Dimension::Tags);
        let equal = |varied: &&Varied| {
            varied.hosts(family, tags).is_some_and(|hosts| hosts == **region.get(dimension))
        };
        self.varied[side].iter().filter(equal).map(|varied| varied.label.clone()).collect()
    }

    fn write(&self, group: Group) -> (Packets, Region) {
        let Group { regions, names } = group;
        let (family, region) = &regions[0];
        let held: Vec<Family> = regions.iter().map(|(family, _)| *family).collect();
        let chosen = self.choose(&names, &held);
        let label = |name: &str| Words { items: vec![name.to_owned()], except: Vec::new() };
        let host = |side: usize, name: Option<&str>, dimension| match name
            .or_else(|| names.labels[side].first().map(String::as_str))
        {
            Some(name) => label(name),
            None => self.hosts(side, *family, region, dimension),
        };
        let from = host(SRC, chosen.as_ref().map(|c| c.from), Dimension::Source);
        let to = host(DST, chosen.as_ref().map(|c| c.to), Dimension::Destination);
        let named = names.labels[SERVICE].first().map(String::as_str);
        let service = match chosen.as_ref().map_or(named, |chosen| chosen.service) {
            Some(name) => label(name),
            None => self.service(*family, region.get(Dimension::Service)),
        };
        let is_exact = chosen.is_some_and(|chosen| chosen.is_exact);
        let family = match (family, held.len()) {
            _ if is_exact || from.shows_family() || to.shows_family() => None,
            (Family::V4, 1) => Some("IPv4"),
            (Family::V6, 1) => Some("IPv6"),
            (Family::Other, 1) => Some("not IP"),
            _ => Some("IP").filter(|_| !held.contains(&Family::Other)),
        };
        let boxes = regions.iter().map(|(family, region)| self.concrete(*family, region));
        let packets = Packets {
            from,
            to,
            service,
            family,
            vlans: self.tags(region.get(Dimension::Tags)),
            wires: self.wires(region.get(Dimension::Wire)),
            when: self.when(region.get(Dimension::Time)),
            boxes: boxes.collect(),
        };
        let region = region.clone();
        (packets, region)
    }

    /// A name for each of the three sets, such that together they stand for nothing in other
    /// families than `held` where there are such names.
    fn choose<'n>(&self, names: &'n Names, held: &[Family]) -> Option<Chosen<'n>> {
        let others = || Family::ALL.into_iter().filter(|family| !held.contains(family));
        let stands_for = |what: usize, label: &str, family: Family| {
            let named = self.named[what].iter().find(|named| named.label == label);
            named.is_none_or(|named| !named.classes[family as usize].is_empty())
        };
        let literal = names.literal.is_some().then_some(None);
        let services = || names.labels[SERVICE].iter().map(|s| Some(s.as_str())).chain(literal);
        let mut first = None;
        for from in &names.labels[SRC] {
            for to in &names.labels[DST] {
                for service in services() {
                    let says_more = others().any(|family| {
                        let served = match service {
                            Some(service) => stands_for(SERVICE, service, family),
                            // A service in words is one of IP, or is not.
                            None => (family == Family::Other) == held.contains(&Family::Other),
                        };
                        served && stands_for(SRC, from, family) && stands_for(DST, to, family)
                    });
                    let chosen = Chosen { from, to, service, is_exact: !says_more };
                    if chosen.is_exact {
                        return Some(chosen);
                    }
                    first.get_or_insert(chosen);
                }
            }
        }
        first
    }

    /// Hosts without a name of their own: a named set but for a few, or their addresses.
    fn hosts(&self, side: usize, family: Family, region: &Region, dimension: Dimension) -> Words {
        let (set, tags) = (&**region.get(dimension), region.get(Dimension::Tags));
        let hosts = if side == SRC { &self.universe.sources } else { &self.universe.destinations };
        let plain = self.addresses(hosts, family, set);
        let mut best = Words { items: plain, except: Vec::new() };
        let named = self.named[side]
            .iter()
            .map(|named| (&named.label, Cow::Borrowed(&named.classes[family as usize])));
        let varied = self.varied[side].iter().filter_map(|varied| {
            varied.hosts(family, tags).map(|hosts| (&varied.label, Cow::Owned(hosts)))
        });
        for (label, within) in named.chain(varied) {
            if within.is_empty() || !set.is_subset(&within) {
                continue;
            }
            let rest = within.difference(set);
            let key = (family as usize, rest.clone());
            let except = match self.equal[side].get(&key).and_then(|equal| equal.first()) {
                Some(&place) => vec![self.named[side][place].label.clone()],
                None => self.addresses(hosts, family, &rest),
            };
            if best.items.len() > 1 && except.len() < best.items.len() + best.except.len() {
                best = Words { items: vec![label.clone()], except };
            }
        }
        best
    }

    fn addresses(&self, hosts: &Hosts, family: Family, set: &RangeSet<u32>) -> Vec<String> {
        let mut out = Vec::new();
        for cell in hosts.cells(family, set) {
            let mac = match &cell.macs {
                set if set.is_any() => String::new(),
                FiniteSet::Only(macs) => format!("MAC {}", joined(macs)),
                FiniteSet::AllBut(macs) => format!("any MAC but {}", joined(macs)),
            };
            let whole = cell.addrs.ranges() == [(0, family.last_address())];
            if whole {
                out.push(match (family, mac.as_str()) {
                    (Family::V4, "") => "any-ipv4".to_owned(),
                    (Family::V6, "") => "any-ipv6".to_owned(),
                    (Family::Other, "") => "any".to_owned(),
                    _ => mac,
                });
                continue;
            }
            for &range in cell.addrs.ranges() {
                let addrs = address_range(family, range);
                out.push(if mac.is_empty() { addrs } else { format!("{addrs} with {mac}") });
            }
        }
        out
    }

    /// A service without a name of its own: any but for some, or protocols and ports.
    fn service(&self, family: Family, set: &RangeSet<u32>) -> Words {
        let plain = self.terms(family, set);
        let rest = self.universe.frames.all(family).difference(set);
        if rest.is_empty() {
            return Words { items: vec!["any".to_owned()], except: Vec::new() };
        }
        let key = (family as usize, rest.clone());
        let except = match self.equal[SERVICE].get(&key).and_then(|equal| equal.first()) {
            Some(&place) => vec![self.named[SERVICE][place].label.clone()],
            None => self.terms(family, &rest),
        };
        if 1 + except.len() < plain.len() {
            return Words { items: vec!["any".to_owned()], except };
        }
        Words { items: plain, except: Vec::new() }
    }

    fn terms(&self, family: Family, set: &RangeSet<u32>) -> Vec<String> {
        let classes = set.ranges().iter().flat_map(|&(low, high)| low..=high);
        let mut cells: Vec<FrameCell> =
            classes.flat_map(|class| self.universe.frames.cells(class)).copied().collect();
        cells.sort_unstable();
        if family == Family::Other {
            let term = |cell: &FrameCell| match cell.ether_type {
                Some(ether) => FrameType(ether).to_string(),
                None => "any other EtherType".to_owned(),
            };
            return cells.iter().map(term).collect();
        }
        let mut out = Vec::new();
        let mut plain: Vec<(u16, u16)> = Vec::new();
        for of_protocol in cells.chunk_by(|a, b| a.protocol == b.protocol) {
            match of_protocol[0].protocol {
                number @ (protocol::TCP | protocol::UDP | protocol::SCTP) => {
                    port_terms(number, of_protocol, &mut out);
                }
                protocol::ICMP if family == Family::V4 => icmp_terms("icmp", of_protocol, &mut out),
                protocol::ICMPV6 if family == Family::V6 => {
                    icmp_terms("icmpv6", of_protocol, &mut out);
                }
                number => plain.push((number.into(), number.into())),
            }
        }
        for &(low, high) in RangeSet::<u16>::from_ranges(plain).ranges() {
            out.push(if low == high { format!("ip/{low}") } else { format!("ip/{low}-{high}") });
        }
        out
    }

    fn tags(&self, set: &RangeSet<u32>) -> Option<Words> {
        let tags = &self.universe.tags;
        let word = |class: u32| {
            tags.named.get(class as usize).map(|tags| match (tags.outer, tags.inner) {
                (0, _) => "untagged".to_owned(),
                (outer, 0) => outer.to_string(),
                (outer, inner) => format!("{outer}.{inner}"),
            })
        };
        some_of(set, &tags.all(), word, "any")
    }

    fn wires(&self, set: &RangeSet<u32>) -> Option<Words> {
        let wires = &self.universe.wires;
        let word = |class: u32| wires.name(class).map(ToString::to_string);
        some_of(set, &wires.all(), word, "any")
    }

    fn when(&self, set: &RangeSet<u32>) -> Option<Words> {
        let instants = &self.universe.instants;
        if *set == instants.all() {
            return None;
        }
        let instant = |ms: i64| {
            jiff::Timestamp::from_millisecond(ms)
                .map_or_else(|_| format!("{ms} ms"), |at| at.to_string())
        };
        let mut items: Vec<String> = Vec::new();
        for (from, until) in self.periods(set) {
            items.push(match (from, until) {
                (Some(from), Some(until)) => {
                    format!("from {} until {}", instant(from), instant(until))
                }
                (Some(from), None) => format!("from {} on", instant(from)),
                (None, Some(until)) => format!("until {}", instant(until)),
                (None, None) => "while the clock is synchronised".to_owned(),
            });
        }
        if set.contains(instants.untrusted()) {
            items.push("while the clock is not synchronised".to_owned());
        }
        Some(Words { items, except: Vec::new() })
    }

    /// The trusted periods of the set, those that follow one another as one.
    fn periods(&self, set: &RangeSet<u32>) -> Vec<(Option<i64>, Option<i64>)> {
        let instants = &self.universe.instants;
        let trusted = RangeSet::<u32>::from_ranges([(0, instants.untrusted() - 1)]);
        let set = set.intersection(&trusted);
        let bounds = |&(low, high): &(u32, u32)| {
            let from = instants.bounds(low).and_then(|(from, _)| from);
            (from, instants.bounds(high).and_then(|(_, until)| until))
        };
        set.ranges().iter().map(bounds).collect()
    }

    fn concrete(&self, family: Family, region: &Region) -> PacketBox {
        let universe = self.universe;
        let services = region.get(Dimension::Service).ranges().iter();
        let services = services.flat_map(|&(low, high)| low..=high);
        let (tags, wires) = (region.get(Dimension::Tags), region.get(Dimension::Wire));
        PacketBox {
            family,
            sources: universe.sources.cells(family, region.get(Dimension::Source)),
            destinations: universe.destinations.cells(family, region.get(Dimension::Destination)),
            frames: services.flat_map(|class| universe.frames.cells(class)).copied().collect(),
            named_ether_types: universe.frames.named_ether_types(),
            tags: finite(tags, &universe.tags.all(), |class| {
                universe.tags.named.get(class as usize).copied()
            }),
            wires: finite(wires, &universe.wires.all(), |class| universe.wires.number(class)),
            periods: self.periods(region.get(Dimension::Time)),
            untrusted: region.get(Dimension::Time).contains(universe.instants.untrusted()),
        }
    }
}

impl Varied {
    /// The hosts that it stands for in frames with any of `tags`, where these are the same in all.
    fn hosts(&self, family: Family, tags: &RangeSet<u32>) -> Option<RangeSet<u32>> {
        let mut hosts = RangeSet::<u32>::default();
        for (of, classes) in &self.parts {
            if tags.is_subset(of) {
                hosts = hosts.union(&classes[family as usize]);
            } else if !tags.is_disjoint(of) {
                return None;
            }
        }
        Some(hosts)
    }
}

/// Takes out names that two policies give to different sets: a reader could not tell them apart.
fn drop_ambiguous(named: &mut [Vec<Named>; 3], varied: &mut [Vec<Varied>; 2]) {
    for (side, named) in named.iter_mut().enumerate() {
        let mut meanings: HashMap<&str, Option<&[RangeSet<u32>; 3]>> = HashMap::new();
        for one in named.iter() {
            let meaning = meanings.entry(&one.label).or_insert(Some(&one.classes));
            *meaning = meaning.filter(|known| **known == one.classes);
        }
        let mut parts: HashMap<&str, &Varied> = HashMap::new();
        for one in varied.get(side).into_iter().flatten() {
            let known = parts.entry(&one.label).or_insert(one);
            if known.parts != one.parts || meanings.contains_key(&*one.label) {
                meanings.insert(&one.label, None);
            }
        }
        let is_ambiguous =
            |(label, meaning): (&str, Option<_>)| meaning.is_none().then(|| label.to_owned());
        let ambiguous: HashSet<String> = meanings.into_iter().filter_map(is_ambiguous).collect();
        named.retain(|one| !ambiguous.contains(&one.label));
        if let Some(varied) = varied.get_mut(side) {
            varied.retain(|one| !ambiguous.contains(&one.label));
        }
    }
}

impl Names {
    fn in_common(&self, other: &Self) -> Self {
        let common = |what: usize| {
            let theirs = &other.labels[what];
            self.labels[what].iter().filter(|name| theirs.contains(name)).cloned().collect()
        };
        Self {
            labels: [common(SRC), common(DST), common(SERVICE)],
            literal: self.literal.clone().filter(|_| self.literal == other.literal),
        }
    }

    /// Whether there is a name, or words, for everything.
    fn are_enough(&self) -> bool {
        let [src, dst, service] = &self.labels;
        !src.is_empty() && !dst.is_empty() && (!service.is_empty() || self.literal.is_some())
    }
}

impl Words {
    /// Whether a reader sees from the words which family is meant.
    fn shows_family(&self) -> bool {
        self.items.iter().all(|item| {
            let first = item.split([' ', '/', '-']).next().unwrap_or_default();
            first.parse::<std::net::IpAddr>().is_ok() || item.starts_with("any-ipv")
        })
    }
}

/// Merges boxes that differ in one dimension only, until none do.
pub(super) fn merge(mut regions: Vec<Region>) -> Vec<Region> {
    loop {
        let before = regions.len();
        for dimension in Dimension::ALL {
            let mut groups: HashMap<[RangeSet<u32>; DIMENSIONS - 1], usize> = HashMap::new();
            let mut merged: Vec<(Region, Vec<(u32, u32)>)> = Vec::new();
            for region in regions {
                let mut others = Dimension::ALL.into_iter().filter(|&d| d != dimension);
                let key = std::array::from_fn(|_| {
                    others.next().map(|d| RangeSet::clone(region.get(d))).unwrap_or_default()
                });
                let ranges = region.get(dimension).ranges().to_vec();
                match groups.get(&key) {
                    Some(&place) => merged[place].1.extend(ranges),
                    None => {
                        groups.insert(key, merged.len());
                        merged.push((region, ranges));
                    }
                }
            }
            let whole = |(region, ranges): (Region, Vec<(u32, u32)>)| {
                region.with(dimension, Arc::new(RangeSet::<u32>::from_ranges(ranges)))
            };
            regions = merged.into_iter().map(whole).collect();
        }
        if regions.len() == before {
            return regions;
        }
    }
}

/// The classes of `set` by their words; where it holds what has none, all but the others.
fn some_of(
    set: &RangeSet<u32>,
    all: &RangeSet<u32>,
    word: impl Fn(u32) -> Option<String>,
    any: &str,
) -> Option<Words> {
    if set == all {
        return None;
    }
    let words = |set: &RangeSet<u32>| -> Option<Vec<String>> {
        set.ranges().iter().flat_map(|&(low, high)| low..=high).map(&word).collect()
    };
    let rest = all.difference(set);
    Some(match (words(set), words(&rest)) {
        (Some(items), _) => Words { items, except: Vec::new() },
        (None, except) => Words { items: vec![any.to_owned()], except: except.unwrap_or_default() },
    })
}

fn finite<T: Ord + Copy>(
    set: &RangeSet<u32>,
    all: &RangeSet<u32>,
    value: impl Fn(u32) -> Option<T>,
) -> FiniteSet<T> {
    let values = |set: &RangeSet<u32>| -> Option<Vec<T>> {
        set.ranges().iter().flat_map(|&(low, high)| low..=high).map(&value).collect()
    };
    match values(set) {
        Some(values) => FiniteSet::only(values),
        None => FiniteSet::only(values(&all.difference(set)).unwrap_or_default()).complement(),
    }
}

fn joined(macs: &[Mac]) -> String {
    let mut words: Vec<String> = macs.iter().take(MAX_ITEMS).map(ToString::to_string).collect();
    if macs.len() > words.len() {
        words.push(format!("{} more", macs.len() - words.len()));
    }
    words.join(" or ")
}

/// An address, a prefix or a range.
fn address_range(family: Family, (low, high): (u128, u128)) -> String {
    let bits = if family == Family::V4 { 32 } else { 128 };
    let word = |addr: u128| match family {
        Family::V4 => Ipv4Addr::from_bits(addr as u32).to_string(),
        _ => Ipv6Addr::from_bits(addr).to_string(),
    };
    if low == high {
        return word(low);
    }
    let size = high - low;
    if size & size.wrapping_add(1) == 0 && low & size == 0 {
        return format!("{}/{}", word(low), bits - size.count_ones());
    }
    format!("{}-{}", word(low), word(high))
}

fn port_terms(number: u8, cells: &[FrameCell], out: &mut Vec<String>) {
    let name = match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        _ => "sctp",
    };
    let ports = |&(low, high): &(u16, u16)| match (low, high) {
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low}-{high}"),
    };
    // Columns of source ports with the same destination ports are one.
    let mut columns: Vec<((u16, u16), RangeSet<u16>)> = Vec::new();
    for column in cells.chunk_by(|a, b| a.src_ports == b.src_ports) {
        let dst = RangeSet::<u16>::from_ranges(column.iter().map(|cell| cell.dst_ports));
        match columns.last_mut() {
            Some((src, same)) if *same == dst && src.1 + 1 == column[0].src_ports.0 => {
                src.1 = column[0].src_ports.1;
            }
            _ => columns.push((column[0].src_ports, dst)),
        }
    }
    for (src, dst) in columns {
        let from = match src {
            (0, u16::MAX) => String::new(),
            src => format!(" from port {}", ports(&src)),
        };
        if dst.is_full() {
            out.push(format!("{name}{from}"));
        } else {
            out.extend(dst.ranges().iter().map(|dst| format!("{name}/{}{from}", ports(dst))));
        }
    }
}

fn icmp_terms(name: &str, cells: &[FrameCell], out: &mut Vec<String>) {
    let all = RangeSet::<u16>::from_ranges(cells.iter().map(|cell| cell.dst_ports));
    if all.is_full() {
        out.push(name.to_owned());
        return;
    }
    for &(low, high) in all.ranges() {
        let ([first, code], [last, last_code]) = (low.to_be_bytes(), high.to_be_bytes());
        out.push(match (code, last_code) {
            (0, 255) if first == last => format!("{name}/{first}"),
            (0, 255) => format!("{name}/{first}-{last}"),
            _ if low == high => format!("{name}/{first}/{code}"),
            _ => format!("{name}/{first}/{code}-{last}/{last_code}"),
        });
    }
}
