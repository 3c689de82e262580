//! The rules in lists, each rule where few frames have to be compared with it.

use crate::headers::{Headers, Mac, PolicyTime, VlanTags, WireId};
use crate::policy::EndpointBox;
use crate::sets::{FiniteSet, VlanSet};

use super::hosts::NO_KEY;
use super::services::ServiceMap;

/// [`Entry::check`] where nothing but the service is left to compare.
pub(crate) const NO_CHECK: u32 = u32::MAX;

/// A rule in a list, with what its place in the list does not say already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) rule: u32,
    /// The service, as a row of the service map.
    pub(crate) service: u32,
    /// Place in [`Parts::checks`], or [`NO_CHECK`].
    pub(crate) check: u32,
}

/// Entries in the order of their rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct List {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// The conditions of a rule besides its service, compared exactly.
#[derive(Debug)]
pub(crate) struct Check {
    /// Place in [`Parts::boxes`] of what the source must match; [`None`] where the list says that
    /// it does.
    pub(crate) src: Option<u32>,
    /// The same for the destination.
    pub(crate) dst: Option<u32>,
    pub(crate) vlans: VlanSet,
    pub(crate) wires: FiniteSet<WireId>,
    pub(crate) times: Option<Times>,
}

/// When a rule is in force: see [`crate::policy::Rule::is_active`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) starts: Option<i64>,
    pub(crate) expires: Option<i64>,
    /// Whether it is while the clock is not synchronised, whatever the times say.
    pub(crate) unsynchronised: bool,
}

/// Every rule is in one of the parts, once for each pair of a part of its source and a part of its
/// destination, and a rule that matches a frame is in one of the lists that [`Parts::first_match`]
/// reads for it.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Rules whose two sides are narrow.
    pub(crate) pairs: PairTable,
    /// Rules whose source is narrow, by source key.
    pub(crate) by_src: Vec<List>,
    /// Rules whose destination is narrow, by destination key.
    pub(crate) by_dst: Vec<List>,
    /// Rules whose sides are both wide, by service class.
    pub(crate) by_service: Vec<List>,
    /// What is left: compared with every frame.
    pub(crate) rest: List,
    pub(crate) entries: Vec<Entry>,
    pub(crate) checks: Vec<Check>,
    /// What checks compare a side of a frame with.
    pub(crate) boxes: Vec<Boxes>,
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

    fn hold(&self, ether_type: u16, addr: u128, mac: Mac, tags: VlanTags) -> bool {
        let matches =
            |place: &u32| self.boxes[*place as usize].matches(ether_type, addr, mac, tags);
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
}

/// What the classes of one frame are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keys {
    /// Address key and MAC key of the source.
    pub(crate) src: [u32; 2],
    /// Address key and MAC key of the destination.
    pub(crate) dst: [u32; 2],
    /// Service class.
    pub(crate) service: u32,
}

impl Parts {
    /// The first rule that matches, `u32::MAX` where none does.
    pub(crate) fn first_match(
        &self,
        keys: &Keys,
        headers: &Headers,
        at: PolicyTime,
        services: &ServiceMap,
    ) -> u32 {
        let mut best = u32::MAX;
        let mut scan = |list: List| {
            let (start, end) = (list.start as usize, (list.start + list.len) as usize);
            for entry in &self.entries[start..end] {
                if entry.rule >= best {
                    return;
                }
                if services.holds(entry.service, keys.service)
                    && (entry.check == NO_CHECK || self.check(entry.check, headers, at))
                {
                    best = entry.rule;
                    return;
                }
            }
        };
        let listed = |key: &u32| *key != NO_KEY;
        for src in keys.src.into_iter().filter(listed) {
            for dst in keys.dst.into_iter().filter(listed) {
                scan(self.pairs.list(src, dst));
            }
            scan(self.by_src[src as usize]);
        }
        for dst in keys.dst.into_iter().filter(listed) {
            scan(self.by_dst[dst as usize]);
        }
        scan(self.by_service[keys.service as usize]);
        scan(self.rest);
        best
    }

    fn check(&self, check: u32, h: &Headers, at: PolicyTime) -> bool {
        let check = &self.checks[check as usize];
        let boxes = |place: Option<u32>| place.map(|place| &self.boxes[place as usize]);
        check.times.is_none_or(|times| times.hold(at))
            && check.wires.contains(h.wire)
            && check.vlans.contains(h.tags)
            && boxes(check.src).is_none_or(|b| b.hold(h.ether_type, h.src, h.src_mac, h.tags))
            && boxes(check.dst).is_none_or(|b| b.hold(h.ether_type, h.dst, h.dst_mac, h.tags))
    }

    /// Heap bytes, without those of the VLAN and wire sets of checks.
    pub(crate) fn size_bytes(&self) -> usize {
        self.pairs.size_bytes()
            + [&self.by_src, &self.by_dst, &self.by_service]
                .iter()
                .map(|lists| size_of_val(&***lists))
                .sum::<usize>()
            + size_of_val(&*self.entries)
            + size_of_val(&*self.checks)
            + self.boxes.iter().map(Boxes::size_bytes).sum::<usize>()
    }
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

/// Pairs of a source key and a destination key, each with its list: open addressing, at most half
/// full.
#[derive(Debug, Default)]
pub(crate) struct PairTable {
    /// Key and list; an empty list marks a free slot.
    slots: Vec<(u64, List)>,
}

impl PairTable {
    /// `lists` have distinct keys, see [`Self::key`], and are not empty.
    pub(crate) fn new(lists: &[(u64, List)]) -> Self {
        if lists.is_empty() {
            return Self::default();
        }
        let slots = (lists.len() * 2).next_power_of_two();
        let mut table = Self { slots: vec![(0, List::default()); slots] };
        for &(key, list) in lists {
            let mut slot = table.home(key);
            while table.slots[slot].1.len != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            table.slots[slot] = (key, list);
        }
        table
    }

    /// The bytes of a table of `lists` lists.
    pub(crate) fn bytes_for(lists: usize) -> usize {
        (lists * 2).next_power_of_two() * size_of::<(u64, List)>()
    }

    /// The key of a pair.
    pub(crate) fn key(src: u32, dst: u32) -> u64 {
        u64::from(src) << 32 | u64::from(dst)
    }

    fn home(&self, key: u64) -> usize {
        // Fibonacci hashing, folded first so that both halves reach the leading bits.
        let mixed = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ key;
        let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.slots.len() - 1)
    }

    fn list(&self, src: u32, dst: u32) -> List {
        if self.slots.is_empty() {
            return List::default();
        }
        let key = Self::key(src, dst);
        let mut slot = self.home(key);
        loop {
            let (held, list) = self.slots[slot];
            if held == key || list.len == 0 {
                return list;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    fn size_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}
