//! The packets that an assertion speaks of, one of each class that the policy tells apart.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::rc::Rc;

use super::probes::split_mix;
use crate::compile::budget::{Budget, Exceeded};
use crate::compile::partition::{Classes, Coordinate, intervals, points};
use crate::compile::services;
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags, WireId};
use crate::policy::{Assertion, Endpoint, EndpointBox, EndpointId, Policy, Rule, ServiceSet};
use crate::sets::{AddrSet, FiniteSet, RangeSet};

/// The most hosts of one side, family and VLAN that are looked at. Beyond it each address class is
/// paired with one MAC class and each MAC class with one address class, and others at random.
const MAX_HOSTS: usize = 1 << 14;

/// The most comparisons of hosts with endpoints that may be spent on finding equal hosts.
const MAX_COMPARISONS: usize = 1 << 20;

/// The most pairs of boxes that are compared to find whether two endpoints meet.
const MAX_PAIRS: usize = 1 << 16;

/// Representatives of an assertion's packets with regard to some rules: every packet of the
/// assertion is judged as one of the packets of the space is.
#[derive(Debug)]
pub(super) struct Space {
    wires: Vec<WireId>,
    /// For each family of addresses and each VLAN.
    slices: Vec<Slice>,
}

#[derive(Debug)]
struct Slice {
    tags: VlanTags,
    frames: Rc<[Headers]>,
    src: Hosts,
    dst: Hosts,
}

/// The hosts of one side of a slice.
#[derive(Debug)]
struct Hosts {
    hosts: Vec<Host>,
    /// How many there are, if `hosts` is only a selection.
    of: u64,
}

/// What a space takes at the least: its 512 pairs of a family and an IP protocol, each looked up.
const LEAST_STEPS: usize = 512;

/// One side of a frame.
type Host = (u128, Mac);

impl Space {
    /// The number of packets that there are.
    pub(super) fn len(&self) -> u64 {
        let size = |slice: &Slice| {
            let hosts = slice.src.of.saturating_mul(slice.dst.of);
            hosts.saturating_mul((slice.frames.len() * self.wires.len()) as u64)
        };
        self.slices.iter().map(size).fold(0, u64::saturating_add)
    }

    /// Every packet, or every one of the selection.
    pub(super) fn all(&self) -> impl Iterator<Item = Headers> {
        self.slices.iter().flat_map(move |slice| {
            let places = [slice.frames.len(), self.wires.len(), slice.src.len(), slice.dst.len()];
            (0..places.iter().product()).map(move |index| {
                let mut rest = index;
                let mut next = |places: usize| {
                    let place = rest % places;
                    rest /= places;
                    place
                };
                self.packet(slice, places.map(&mut next))
            })
        })
    }

    /// A packet of every slice in turn, picked by `random`, without end.
    pub(super) fn some(&self, mut random: impl FnMut() -> u64) -> impl Iterator<Item = Headers> {
        self.slices.iter().cycle().map(move |slice| {
            let places = [slice.frames.len(), self.wires.len(), slice.src.len(), slice.dst.len()];
            self.packet(slice, places.map(|places| (random() % places as u64) as usize))
        })
    }

    fn packet(&self, slice: &Slice, [frame, wire, src, dst]: [usize; 4]) -> Headers {
        let (src, src_mac) = slice.src.hosts[src];
        let (dst, dst_mac) = slice.dst.hosts[dst];
        let (wire, tags) = (self.wires[wire], slice.tags);
        Headers { src, src_mac, dst, dst_mac, wire, tags, ..slice.frames[frame] }
    }

    /// The space of `assertion` with regard to `rules`, which are all that may match its packets.
    /// What it holds is returned to the budget's memory, since no two spaces are held at once.
    pub(super) fn of(
        policy: &Policy,
        assertion: &Assertion,
        rules: &[&Rule],
        budget: &mut Budget,
    ) -> Result<Self, Exceeded> {
        let held = budget.spent_bytes();
        let space = Self::build(policy, assertion, rules, budget);
        budget.release(budget.spent_bytes() - held);
        space
    }

    fn build(
        policy: &Policy,
        assertion: &Assertion,
        rules: &[&Rule],
        budget: &mut Budget,
    ) -> Result<Self, Exceeded> {
        budget.spend(LEAST_STEPS + rules.len() + policy.services().len(), 0)?;
        let service = policy.service(assertion.service);
        let mut frames = frames(policy, assertion, rules, budget)?;
        budget.spend(frames.len() * service.terms.len(), 0)?;
        frames.retain(|headers| service.matches(headers));
        let sides = [
            Side::new(policy, assertion.from, rules, |rule| (rule.from, rule.to)),
            Side::new(policy, assertion.to, rules, |rule| (rule.to, rule.from)),
        ];
        let vlans = (rules.iter().map(|rule| &rule.vlans))
            .chain(sides.iter().flat_map(Side::boxes).map(|b| &b.vlans));
        let tags = representatives(vlans, unnamed_tags(), budget)?;
        let wires = rules.iter().map(|rule| &rule.wires);
        let last_wire =
            if policy.knows_all_wires() { policy.wires().len().max(1) } else { 1 << 16 };
        let unnamed_wires = (0..last_wire).map(|wire| WireId(wire as u16));
        let wires = representatives(wires, unnamed_wires, budget)?;

        let mut slices = Vec::new();
        for family in [Some(ETHER_IPV4), Some(ETHER_IPV6), None] {
            let of_family = |h: &Headers| h.is_ip().then_some(h.ether_type) == family;
            let frames: Rc<[Headers]> = frames.iter().copied().filter(of_family).collect();
            let Some(&frame) = frames.first() else { continue };
            let src = sides[0].classes(frame.ether_type, |mac| !mac.is_group(), budget)?;
            let dst = sides[1].classes(frame.ether_type, |_| true, budget)?;
            for &tags in &tags {
                let frame = Headers { tags, ..frame };
                let src = sides[0].hosts(&src, &frame, budget)?;
                let dst = sides[1].hosts(&dst, &frame, budget)?;
                if src.len() > 0 && dst.len() > 0 {
                    slices.push(Slice { tags, frames: frames.clone(), src, dst });
                }
            }
        }
        Ok(Self { wires, slices })
    }
}

impl Hosts {
    fn len(&self) -> usize {
        self.hosts.len()
    }
}

/// One frame of each service class.
fn frames(
    policy: &Policy,
    assertion: &Assertion,
    rules: &[&Rule],
    budget: &mut Budget,
) -> Result<Vec<Headers>, Exceeded> {
    let mut used = vec![false; policy.services().len()];
    used[assertion.service.0 as usize] = true;
    for rule in rules {
        used[rule.service.0 as usize] = true;
    }
    let services = services::build(policy, &used, budget)?;
    Ok(services::representatives(&services.map))
}

/// The endpoints that one side of a packet is compared with.
struct Side<'a> {
    asserted: &'a Endpoint,
    compared: Vec<&'a Endpoint>,
}

impl<'a> Side<'a> {
    /// `sides` gives a rule's endpoint of this side and of the other.
    fn new(
        policy: &'a Policy,
        asserted: EndpointId,
        rules: &[&Rule],
        sides: impl Fn(&Rule) -> (EndpointId, EndpointId),
    ) -> Self {
        let mut ids: Vec<EndpointId> = (rules.iter())
            .flat_map(|rule| {
                let (this, other) = sides(rule);
                [Some(this), rule.between.then_some(other)]
            })
            .flatten()
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let compared = ids.into_iter().map(|id| policy.endpoint(id)).collect();
        Self { asserted: policy.endpoint(asserted), compared }
    }

    fn boxes(&self) -> impl Iterator<Item = &'a EndpointBox> {
        let compared = self.compared.iter().flat_map(|endpoint| &*endpoint.boxes);
        self.asserted.boxes.iter().chain(compared)
    }

    /// The address classes and the MAC classes that the assertion can hold in frames with this
    /// EtherType.
    fn classes(
        &self,
        ether_type: u16,
        possible: impl Fn(Mac) -> bool,
        budget: &mut Budget,
    ) -> Result<(Vec<u128>, Vec<Mac>), Exceeded> {
        let mut addrs = self.addresses(ether_type, budget)?;
        budget.spend(addrs.len() * self.asserted.boxes.len(), 0)?;
        addrs
            .retain(|&addr| self.asserted.boxes.iter().any(|b| b.addrs.contains(ether_type, addr)));
        let numbered = (1..=u32::MAX).map(|n| {
            let [a, b, c, d] = n.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        });
        let unnamed = [Mac::default()].into_iter().chain(numbered);
        let mut macs = representatives(self.boxes().map(|b| &b.macs), unnamed, budget)?;
        budget.spend(macs.len() * self.asserted.boxes.len(), 0)?;
        macs.retain(|&mac| {
            possible(mac) && self.asserted.boxes.iter().any(|b| b.macs.contains(mac))
        });
        Ok((addrs, macs))
    }

    /// One host of each class that frames such as `frame` can have on this side and the assertion
    /// holds.
    fn hosts(
        &self,
        (addrs, macs): &(Vec<u128>, Vec<Mac>),
        frame: &Headers,
        budget: &mut Budget,
    ) -> Result<Hosts, Exceeded> {
        let matches = |endpoint: &Endpoint, (addr, mac): Host| {
            endpoint.matches(frame.ether_type, addr, mac, frame.tags)
        };
        let all = addrs.len() * macs.len();
        let host = |index: usize| (addrs[index / macs.len()], macs[index % macs.len()]);
        let mut state = 0;
        let mut hosts: Vec<Host> = if all <= MAX_HOSTS {
            (0..all).map(host).collect()
        } else {
            let random = (0..MAX_HOSTS).map(|_| (split_mix(&mut state) % all as u64) as usize);
            let edges = (0..macs.len()).chain((0..addrs.len()).map(|addr| addr * macs.len()));
            edges.chain(random).map(host).collect()
        };
        budget.spend(hosts.len() * self.asserted.boxes.len().max(1), size_of_val(&*hosts))?;
        hosts.retain(|&host| matches(self.asserted, host));
        if all > MAX_HOSTS {
            // A selection without a single host would pass for an assertion about nothing.
            let missed = hosts.is_empty();
            return if missed {
                Err(Exceeded::Memory)
            } else {
                Ok(Hosts { hosts, of: all as u64 })
            };
        }
        // Address classes differ by themselves; together with MAC classes they may not.
        let mut seen = HashSet::new();
        let boxes: usize = self.compared.iter().map(|endpoint| endpoint.boxes.len()).sum();
        let affordable = hosts.len() * boxes <= budget.work_left() / 16;
        if macs.len() > 1 && hosts.len() * self.compared.len() <= MAX_COMPARISONS && affordable {
            budget.spend(hosts.len() * boxes, 0)?;
            hosts.retain(|&host| {
                let matched: Vec<u32> = (0..self.compared.len() as u32)
                    .filter(|&place| matches(self.compared[place as usize], host))
                    .collect();
                seen.insert(matched)
            });
        }
        Ok(Hosts { of: hosts.len() as u64, hosts })
    }

    /// One address of each class.
    fn addresses(&self, ether_type: u16, budget: &mut Budget) -> Result<Vec<u128>, Exceeded> {
        let mut sets: Vec<&AddrSet> = self.boxes().map(|b| &b.addrs).collect();
        let ranges = |set: &&AddrSet| 1 + set.v4.ranges().len() + set.v6.ranges().len();
        budget.spend(sets.iter().map(ranges).sum(), 0)?;
        let mut ids = HashMap::new();
        sets.retain(|set| {
            let next = ids.len();
            *ids.entry(*set).or_insert(next) == next
        });
        Ok(match ether_type {
            ETHER_IPV4 => {
                let usual = u32::from_be_bytes([10, 0, 0, 1]);
                let low = first_addresses(sets.iter().map(|set| &set.v4), usual, budget)?;
                low.into_iter().map(u128::from).collect()
            }
            ETHER_IPV6 => {
                first_addresses(sets.iter().map(|set| &set.v6), (0xfd00 << 112) | 1, budget)?
            }
            _ => vec![0],
        })
    }
}

/// A value of each class of `T`: `usual` for its own, and the first of the class for the others.
fn first_addresses<'a, T>(
    sets: impl Iterator<Item = &'a RangeSet<T>>,
    usual: T,
    budget: &mut Budget,
) -> Result<Vec<T>, Exceeded>
where
    T: Coordinate + Hash + 'a,
    RangeSet<T>: Ranges<T>,
{
    let mut classes = Classes::default();
    let ranges = sets.enumerate().flat_map(|(id, set)| {
        set.inclusive().iter().map(move |&(low, high)| (low, high, id as u32))
    });
    let cut = intervals(ranges, &mut classes, budget)?;
    budget.release(classes.size_bytes());
    let of_usual = cut[cut.partition_point(|&(start, _)| start <= usual) - 1].1;
    let mut seen = HashSet::from([of_usual]);
    let first = cut.iter().filter(|&&(_, class)| seen.insert(class)).map(|&(start, _)| start);
    Ok([usual].into_iter().chain(first).collect())
}

/// The ranges of a set, whatever their type.
trait Ranges<T> {
    fn inclusive(&self) -> &[(T, T)];
}

impl Ranges<u32> for RangeSet<u32> {
    fn inclusive(&self) -> &[(u32, u32)] {
        self.ranges()
    }
}

impl Ranges<u128> for RangeSet<u128> {
    fn inclusive(&self) -> &[(u128, u128)] {
        self.ranges()
    }
}

/// A value of each class of values that `sets` tell apart; the class of those that none of them
/// names is represented by the first of `unnamed` that is not named, if there is one.
fn representatives<'a, T: Ord + Copy + Hash + 'a>(
    sets: impl Iterator<Item = &'a FiniteSet<T>>,
    mut unnamed: impl Iterator<Item = T>,
    budget: &mut Budget,
) -> Result<Vec<T>, Exceeded> {
    let mut steps = 0;
    let distinct: HashSet<&FiniteSet<T>> =
        sets.inspect(|set| steps += 1 + set.named().len()).collect();
    budget.spend(steps, 0)?;
    let mut distinct: Vec<&FiniteSet<T>> = distinct.into_iter().collect();
    distinct.sort_unstable_by(|a, b| a.named().cmp(b.named()));
    let mut classes = Classes::default();
    let cut = points(distinct.into_iter(), &mut classes, budget)?;
    budget.release(classes.size_bytes());
    let is_named = |value: &T| cut.named.binary_search_by_key(value, |&(named, _)| named).is_ok();
    let (mut out, mut seen) = (Vec::new(), HashSet::new());
    if let Some(value) = unnamed.find(|value| !is_named(value)) {
        seen.insert(cut.other);
        out.push(value);
    }
    out.extend(cut.named.iter().filter(|&&(_, class)| seen.insert(class)).map(|&(value, _)| value));
    Ok(out)
}

fn unnamed_tags() -> impl Iterator<Item = VlanTags> {
    let double = (1..=4094).map(|inner| VlanTags { outer: 4094, inner });
    [VlanTags::UNTAGGED].into_iter().chain((1..=4094).rev().map(VlanTags::single)).chain(double)
}

/// Whether some frame may belong to both services. May err towards yes.
pub(super) fn services_meet(a: &ServiceSet, b: &ServiceSet) -> bool {
    a.terms.iter().any(|x| {
        b.terms.iter().any(|y| {
            finite_meet(&x.ether_types, &y.ether_types)
                && finite_meet(&x.protocols, &y.protocols)
                && ranges_meet(x.src_ports.ranges(), y.src_ports.ranges())
                && ranges_meet(x.dst_ports.ranges(), y.dst_ports.ranges())
        })
    })
}

/// Whether some host may belong to both endpoints. May err towards yes.
pub(super) fn endpoints_meet(
    a: &Endpoint,
    b: &Endpoint,
    budget: &mut Budget,
) -> Result<bool, Exceeded> {
    if a.boxes.len() * b.boxes.len() > MAX_PAIRS {
        return Ok(true);
    }
    for (x, y) in a.boxes.iter().flat_map(|x| b.boxes.iter().map(move |y| (x, y))) {
        budget.spend(1 + x.macs.named().len().min(y.macs.named().len()), 0)?;
        if !finite_meet(&x.macs, &y.macs) || !finite_meet(&x.vlans, &y.vlans) {
            continue;
        }
        let (v4, v6) = (x.addrs.v4.ranges(), x.addrs.v6.ranges());
        let steps =
            v4.len().min(y.addrs.v4.ranges().len()) + v6.len().min(y.addrs.v6.ranges().len());
        budget.spend(steps, 0)?;
        if (x.addrs.non_ip && y.addrs.non_ip)
            || ranges_meet(v4, y.addrs.v4.ranges())
            || ranges_meet(v6, y.addrs.v6.ranges())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn finite_meet<T: Ord + Copy>(a: &FiniteSet<T>, b: &FiniteSet<T>) -> bool {
    match (a, b) {
        (FiniteSet::Only(values), set) | (set, FiniteSet::Only(values)) => {
            values.iter().any(|&value| set.contains(value))
        }
        // Two complements of finite lists: in a type too small for that nothing is lost.
        (FiniteSet::AllBut(_), FiniteSet::AllBut(_)) => true,
    }
}

fn ranges_meet<T: Ord + Copy>(a: &[(T, T)], b: &[(T, T)]) -> bool {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().any(|&(low, high)| {
        let candidate = many.partition_point(|&(_, end)| end < low);
        many.get(candidate).is_some_and(|&(start, _)| start <= high)
    })
}
