//! Unions and differences of boxes, what they may cost, and their normal form.

use std::net::IpAddr;
use std::sync::Arc;

use super::normal::join;
use super::{EndpointBox, Limits};
use crate::headers::Mac;
use crate::sets::{AddrSet, FiniteSet, RangeSet, VlanSet};
use crate::syntax::document::{Addresses, Device};
use crate::syntax::span::Span;
use crate::syntax::{Code, Findings, Problem};

/// What is left of the limits while selectors are resolved.
pub(super) struct Meter {
    limits: Limits,
    ranges_left: usize,
    steps_left: usize,
    /// The most steps that one `except` took, and where it is.
    costliest: Option<(usize, Span)>,
    /// Set once the budget is gone: everything after it fails without another message.
    exhausted: bool,
}

/// What the largest group weighs, and where it is, asked for when the budget is gone.
pub(super) type Largest<'a> = &'a dyn Fn() -> Option<(usize, Span)>;

impl Meter {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            ranges_left: limits.ranges,
            steps_left: limits.steps,
            costliest: None,
            limits,
            exhausted: false,
        }
    }

    /// One with so much taken already.
    pub(super) fn after(limits: Limits, spent: usize, steps: usize) -> Self {
        let mut meter = Self::new(limits);
        meter.ranges_left = limits.ranges.saturating_sub(spent);
        meter.steps_left = limits.steps.saturating_sub(steps);
        meter
    }

    /// What was taken of the ranges and of the steps.
    pub(super) fn taken(&self) -> (usize, usize) {
        (self.limits.ranges - self.ranges_left, self.limits.steps - self.steps_left)
    }

    /// What is left of `within` outside of `except`; [`None`] where that costs more than a limit.
    pub(super) fn subtract(
        &mut self,
        within: Vec<EndpointBox>,
        except: &[EndpointBox],
        span: Span,
        largest: Largest<'_>,
        findings: &mut Findings,
    ) -> Option<Vec<EndpointBox>> {
        let holes = Holes::new(except);
        let before = self.steps_left;
        let mut rest = Vec::with_capacity(within.len());
        for piece in within {
            let hit = holes.meeting(&piece);
            let mut parts = vec![piece];
            for hole in hit {
                let mut next = Vec::with_capacity(parts.len() + 2);
                let steps = parts.len() * weight(std::slice::from_ref(hole)) + weight(&parts);
                if !self.step(steps, before, span, findings) {
                    return None;
                }
                for part in parts {
                    let cut = pierce(part, hole, &mut next);
                    let pushed = &next[next.len().saturating_sub(3)..];
                    if cut && !self.spend(weight(pushed), span, largest, findings) {
                        return None;
                    }
                }
                if !self.check_boxes(&next, span, findings) {
                    return None;
                }
                parts = next;
            }
            rest.append(&mut parts);
            if !self.check_boxes(&rest, span, findings) {
                return None;
            }
        }
        let took = before - self.steps_left;
        if self.costliest.is_none_or(|(most, _)| took > most) {
            self.costliest = Some((took, span));
        }
        Some(normalise(rest))
    }

    /// Takes `amount` steps from those that `except` may take in all. Where they are gone, says
    /// which `except` took most, once; the one at `span` began with `before` of them left.
    pub(super) fn step(
        &mut self,
        amount: usize,
        before: usize,
        span: Span,
        findings: &mut Findings,
    ) -> bool {
        if let Some(left) = self.steps_left.checked_sub(amount) {
            self.steps_left = left;
            return true;
        }
        if !std::mem::replace(&mut self.exhausted, true) {
            let limit = self.limits.steps;
            let message = format!("taking out what `except` names takes more than {limit} steps");
            let here = (before, span);
            let (took, place) = self.costliest.filter(|&(took, _)| took > before).unwrap_or(here);
            let help = "name fewer devices or addresses in it, or give the devices either MAC or \
                        IP addresses";
            findings.push(
                Problem::error(Code::LimitExceeded, span, message)
                    .label(place, format!("the costliest `except`: {took} steps or more"))
                    .help(help),
            );
        }
        self.steps_left = 0;
        false
    }

    /// Whether the boxes are not too many for one endpoint.
    pub(super) fn check_boxes(
        &self,
        boxes: &[EndpointBox],
        span: Span,
        findings: &mut Findings,
    ) -> bool {
        if boxes.len() <= self.limits.boxes {
            return true;
        }
        let message = format!(
            "{} alternatives of MAC and IP address where {} are the limit",
            boxes.len(),
            self.limits.boxes
        );
        let help = "give the devices either MAC or IP addresses, or split the group";
        findings.push(Problem::error(Code::LimitExceeded, span, message).help(help));
        false
    }

    /// Takes `amount` from the budget. Where it is gone, says which group costs most, once.
    pub(super) fn spend(
        &mut self,
        amount: usize,
        span: Span,
        largest: Largest<'_>,
        findings: &mut Findings,
    ) -> bool {
        if let Some(left) = self.ranges_left.checked_sub(amount) {
            self.ranges_left = left;
            return true;
        }
        if !std::mem::replace(&mut self.exhausted, true) {
            let limit = self.limits.ranges;
            let message = format!("the groups stand for more than {limit} addresses and ranges");
            let problem = Problem::error(Code::LimitExceeded, span, message);
            findings.push(match largest() {
                Some((weight, span)) => problem
                    .label(span, format!("the largest group: {weight} ranges"))
                    .help("summarise its addresses as prefixes, or use it in fewer places"),
                None => problem,
            });
        }
        self.ranges_left = 0;
        false
    }
}

/// What an `except` takes out, by MAC address: of thousands of devices that have one, a piece with a
/// MAC address of its own is compared with its namesakes only.
struct Holes<'b> {
    holes: &'b [EndpointBox],
    /// For each MAC address that a hole holds alone or with some others the hole's place, ascending.
    named: Vec<(Mac, usize)>,
    /// The places of the other holes.
    others: Vec<usize>,
}

impl<'b> Holes<'b> {
    fn new(holes: &'b [EndpointBox]) -> Self {
        let (mut named, mut others) = (Vec::new(), Vec::new());
        for (place, hole) in holes.iter().enumerate() {
            match &hole.macs {
                FiniteSet::Only(macs) => named.extend(macs.iter().map(|&mac| (mac, place))),
                FiniteSet::AllBut(_) => others.push(place),
            }
        }
        named.sort_unstable();
        Self { holes, named, others }
    }

    /// The holes that may cut `piece`, in their order.
    fn meeting(&self, piece: &EndpointBox) -> Vec<&'b EndpointBox> {
        let FiniteSet::Only(macs) = &piece.macs else { return self.holes.iter().collect() };
        let mut places = self.others.clone();
        for &mac in macs {
            let first = self.named.partition_point(|&(named, _)| named < mac);
            let of_mac = self.named[first..].iter().take_while(|&&(named, _)| named == mac);
            places.extend(of_mac.map(|&(_, place)| place));
        }
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| &self.holes[place]).collect()
    }
}

/// The alternatives of a union while they are collected.
#[derive(Default)]
pub(super) struct Union {
    pub(super) v4: Vec<(u32, u32)>,
    pub(super) v6: Vec<(u128, u128)>,
    pub(super) non_ip: bool,
    pub(super) macs: Vec<Mac>,
    pub(super) boxes: Vec<EndpointBox>,
}

impl Union {
    pub(super) fn addresses(&mut self, addresses: Addresses) {
        match addresses.ends() {
            (IpAddr::V4(first), IpAddr::V4(last)) => self.v4.push((first.into(), last.into())),
            (IpAddr::V6(first), IpAddr::V6(last)) => self.v6.push((first.into(), last.into())),
            // Ranges of two families do not parse.
            _ => {}
        }
    }

    /// Adds what a built-in name stands for; false where it is none.
    pub(super) fn built_in(&mut self, name: &str) -> bool {
        match name {
            "any" => {
                self.v4.push((0, u32::MAX));
                self.v6.push((0, u128::MAX));
                self.non_ip = true;
            }
            "any-ipv4" => self.v4.push((0, u32::MAX)),
            "any-ipv6" => self.v6.push((0, u128::MAX)),
            "unspecified" => {
                self.v4.push((0, 0));
                self.v6.push((0, 0));
            }
            "broadcast" => {
                self.v4.push((u32::MAX, u32::MAX));
                self.macs.push(Mac([0xff; 6]));
            }
            "multicast" => {
                self.built_in("multicast-ipv4");
                self.built_in("multicast-ipv6");
            }
            "multicast-ipv4" => self.v4.push((0xe000_0000, 0xefff_ffff)),
            "multicast-ipv6" => self.v6.push((0xff << 120, u128::MAX)),
            "link-local" => {
                self.v4.push((0xa9fe_0000, 0xa9fe_ffff));
                self.v6.push((0xfe80 << 112, (0xfec0 << 112) - 1));
            }
            "link-local-multicast" => {
                self.v4.push((0xe000_0000, 0xe000_00ff));
                self.v6.push((0xff02 << 112, (0xff03 << 112) - 1));
            }
            "private" => {
                self.v4.push((0x0a00_0000, 0x0aff_ffff));
                self.v4.push((0xac10_0000, 0xac1f_ffff));
                self.v4.push((0xc0a8_0000, 0xc0a8_ffff));
                self.v6.push((0xfc << 120, (0xfe << 120) - 1));
            }
            _ => return false,
        }
        true
    }

    pub(super) fn finish(self) -> Vec<EndpointBox> {
        let mut boxes = self.boxes;
        let addrs = AddrSet {
            v4: RangeSet::<u32>::from_ranges(self.v4),
            v6: RangeSet::<u128>::from_ranges(self.v6),
            non_ip: self.non_ip,
        };
        if !addrs.is_empty() {
            boxes.push(EndpointBox {
                addrs,
                macs: FiniteSet::any(),
                vlans: VlanSet::any(),
                beyond: None,
                except_bound: Arc::default(),
            });
        }
        if !self.macs.is_empty() {
            let macs = FiniteSet::only(self.macs);
            boxes.push(EndpointBox {
                addrs: AddrSet::any(),
                macs,
                vlans: VlanSet::any(),
                beyond: None,
                except_bound: Arc::default(),
            });
        }
        normalise(boxes)
    }
}

/// A device's fields, ANDed. A frame that is not IP has no address to contradict: where the device
/// has a MAC address, that alone identifies it.
pub(super) fn device_box(device: &Device) -> EndpointBox {
    let has_mac = !device.macs.is_empty();
    let addrs = if device.addresses.is_empty() {
        AddrSet::any()
    } else {
        let mut union = Union::default();
        device.addresses.iter().for_each(|addresses| union.addresses(addresses.value));
        AddrSet {
            v4: RangeSet::<u32>::from_ranges(union.v4),
            v6: RangeSet::<u128>::from_ranges(union.v6),
            non_ip: has_mac,
        }
    };
    let macs = if has_mac {
        FiniteSet::only(device.macs.iter().map(|mac| mac.value))
    } else {
        FiniteSet::any()
    };
    let vlans = device
        .vlans
        .as_ref()
        .map_or(VlanSet::any(), |tags| FiniteSet::only(tags.value.iter().copied()));
    EndpointBox { addrs, macs, vlans, beyond: None, except_bound: Arc::default() }
}

/// Pushes what is left of `piece` outside of `hole`, up to three disjoint boxes; tells whether
/// anything was cut off. MAC addresses are split first: devices with one each then cut each other's
/// remains no further.
fn pierce(piece: EndpointBox, hole: &EndpointBox, out: &mut Vec<EndpointBox>) -> bool {
    let macs = piece.macs.intersection(&hole.macs);
    let vlans = piece.vlans.intersection(&hole.vlans);
    if macs.is_empty() || vlans.is_empty() {
        out.push(piece);
        return false;
    }
    let addrs = piece.addrs.intersection(&hole.addrs);
    if addrs.is_empty() {
        out.push(piece);
        return false;
    }
    let outside_macs = piece.macs.intersection(&hole.macs.complement());
    let outside_vlans = piece.vlans.intersection(&hole.vlans.complement());
    let outside_addrs = piece.addrs.intersection(&hole.addrs.complement());
    if !outside_addrs.is_empty() {
        let (macs, vlans) = (macs.clone(), vlans.clone());
        out.push(EndpointBox {
            addrs: outside_addrs,
            macs,
            vlans,
            beyond: None,
            except_bound: Arc::default(),
        });
    }
    if !outside_vlans.is_empty() {
        out.push(EndpointBox {
            addrs: piece.addrs.clone(),
            macs,
            vlans: outside_vlans,
            beyond: None,
            except_bound: Arc::default(),
        });
    }
    if !outside_macs.is_empty() {
        out.push(EndpointBox {
            addrs: piece.addrs,
            macs: outside_macs,
            vlans: piece.vlans,
            beyond: None,
            except_bound: Arc::default(),
        });
    }
    true
}

/// Joins boxes that differ in one condition only, so that a group of addresses is one box, and so is
/// one of MAC addresses.
fn normalise(mut boxes: Vec<EndpointBox>) -> Vec<EndpointBox> {
    while boxes.len() > 1 {
        if let Some(all) = boxes.iter().find(|b| b.is_any()) {
            return vec![all.clone()];
        }
        let by_addrs = join(
            boxes,
            |b| ((b.macs, b.vlans), b.addrs),
            |(macs, vlans), parts: Vec<AddrSet>| {
                let addrs = join_addrs(&parts);
                EndpointBox { addrs, macs, vlans, beyond: None, except_bound: Arc::default() }
            },
        );
        let before = by_addrs.len();
        let by_macs = join(
            by_addrs,
            |b| ((b.addrs, b.vlans), b.macs),
            |(addrs, vlans), parts| EndpointBox {
                addrs,
                macs: FiniteSet::union_all(parts),
                vlans,
                beyond: None,
                except_bound: Arc::default(),
            },
        );
        boxes = join(
            by_macs,
            |b| ((b.addrs, b.macs), b.vlans),
            |(addrs, macs), parts| EndpointBox {
                addrs,
                macs,
                vlans: FiniteSet::union_all(parts),
                beyond: None,
                except_bound: Arc::default(),
            },
        );
        if boxes.len() == before {
            break;
        }
        // What was freed of a condition may be like others now.
    }
    boxes
}

fn join_addrs(parts: &[AddrSet]) -> AddrSet {
    AddrSet {
        v4: RangeSet::<u32>::from_ranges(parts.iter().flat_map(|p| p.v4.ranges()).copied()),
        v6: RangeSet::<u128>::from_ranges(parts.iter().flat_map(|p| p.v6.ranges()).copied()),
        non_ip: parts.iter().any(|p| p.non_ip),
    }
}

/// What handling the boxes costs.
pub(super) fn weight(boxes: &[EndpointBox]) -> usize {
    let one = |b: &EndpointBox| {
        1 + b.addrs.v4.ranges().len()
            + b.addrs.v6.ranges().len()
            + b.macs.named().len()
            + b.vlans.named().len()
    };
    boxes.iter().map(one).sum()
}
