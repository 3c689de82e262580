//! Addresses to the classes of one side, a batch at a time.
//!
//! IPv4: a table over the leading 16 bits, where many intervals share those one over the next 8, then
//! nodes over the trailing 16. IPv6: nodes over the
//! upper 64 bits, then nodes over the lower 64. A node holds ascending bounds and one target more
//! than bounds: that of the values below the first bound, and from each bound on. Every node is half
//! a cache line, or a whole one: most of the slots that need any bound need very few.

use super::MAX_BATCH;
use super::store::Store;
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers};
use crate::intrinsics::at_most;

/// A class, or the node or table that goes on: two bits of kind, and for a node a bit that says to go
/// on with the lower half of the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target(u32);

impl Target {
    const SMALL: u32 = 1 << 30;
    const BIG: u32 = 1 << 31;
    const TABLE: u32 = Self::SMALL | Self::BIG;
    const LOWER: u32 = 1 << 29;
    /// Classes, and units of nodes, are below this.
    pub(crate) const LIMIT: u32 = Self::LOWER;

    pub(crate) const fn class(class: u32) -> Self {
        Self(class)
    }

    pub(crate) const fn node(unit: u32, is_big: bool, is_lower: bool) -> Self {
        let lower = if is_lower { Self::LOWER } else { 0 };
        Self(unit | lower | if is_big { Self::BIG } else { Self::SMALL })
    }

    pub(crate) const fn table(place: u32) -> Self {
        Self(place | Self::TABLE)
    }

    #[inline(always)]
    pub(crate) const fn is_table(self) -> bool {
        self.0 >= Self::TABLE
    }

    /// A table counts as one.
    #[inline(always)]
    pub(crate) const fn is_node(self) -> bool {
        self.0 >= Self::SMALL
    }

    #[inline(always)]
    pub(crate) const fn is_big(self) -> bool {
        self.0 & Self::BIG != 0
    }

    #[inline(always)]
    pub(crate) const fn is_lower(self) -> bool {
        self.0 & Self::LOWER != 0
    }

    pub(crate) const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// As it stands in nodes.
    pub(crate) const fn word(self) -> u32 {
        self.0
    }

    /// The class, or the node's first unit.
    #[inline(always)]
    pub(crate) const fn place(self) -> u32 {
        self.0 & (Self::LIMIT - 1)
    }
}

/// Half a cache line: a small node, or half a big one. IPv4: 4 bounds of 16 bits and 5 targets, or
/// 10 and 11. IPv6: 2 bounds of 64 bits and 3 targets, or 5 and 6. Bounds stand first, the lower
/// halves of words before the upper ones; unused bounds repeat the greatest value, and their targets
/// the last one that is used.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(crate) struct Unit(pub(crate) [u32; 8]);

/// Units by number; a big node begins at an even one.
pub(crate) type Units = Store<Unit>;

/// The bounds of a small and of a big node.
pub(crate) const BOUNDS4: [usize; 2] = [4, 10];
/// The bounds of a small and of a big node.
pub(crate) const BOUNDS6: [usize; 2] = [2, 5];

/// By the third byte of an IPv4 address.
pub(crate) type Table = [Target; 256];

/// Values of the leading 16 bits of an IPv4 address.
pub(crate) const SLOTS: usize = 1 << 16;

/// The addresses of one side.
#[derive(Clone, Debug)]
pub(crate) struct AddressMap {
    pub(crate) slots4: Store<Target>,
    pub(crate) tables4: Store<Table>,
    pub(crate) nodes4: Units,
    pub(crate) root6: Target,
    pub(crate) nodes6: Units,
    /// The class of frames without an address.
    pub(crate) non_ip: u32,
}

/// Lanes of a batch that stand before a node.
#[derive(Clone, Copy)]
struct Queue {
    lanes: [u8; MAX_BATCH],
    len: usize,
}

impl Queue {
    const EMPTY: Self = Self { lanes: [0; MAX_BATCH], len: 0 };

    #[inline(always)]
    fn push_if(&mut self, condition: bool, lane: u8) {
        // Written whether it counts or not: no branch that could go either way.
        self.lanes[self.len & (MAX_BATCH - 1)] = lane;
        self.len += usize::from(condition);
    }
}

/// The classes of a batch, and the memory to find them.
#[derive(Clone)]
pub(crate) struct Search {
    /// In the end each a class.
    pub(crate) found: [Target; MAX_BATCH],
    v4: Queue,
    v6: Queue,
}

impl Default for Search {
    fn default() -> Self {
        Self { found: [Target::class(0); MAX_BATCH], v4: Queue::EMPTY, v6: Queue::EMPTY }
    }
}

impl AddressMap {
    /// Takes the first step of every lane.
    #[inline(never)]
    pub(crate) fn enter(
        &self,
        headers: &[Headers],
        address: impl Fn(&Headers) -> u128,
        search: &mut Search,
    ) {
        let Search { found, v4, v6 } = search;
        (v4.len, v6.len) = (0, 0);
        for (lane, (headers, found)) in headers.iter().zip(found).enumerate() {
            *found = match headers.ether_type {
                ETHER_IPV4 => {
                    let address = address(headers) as u32;
                    let mut target = *self.slots4.get(address >> 16);
                    if target.is_table() {
                        target = self.tables4.get(target.place())[(address >> 8) as usize & 0xff];
                    }
                    v4.push_if(target.is_node(), lane as u8);
                    self.nodes4.prefetch_if(target.is_node(), target.place());
                    target
                }
                ETHER_IPV6 => {
                    v6.push_if(self.root6.is_node(), lane as u8);
                    self.root6
                }
                _ => Target::class(self.non_ip),
            };
        }
    }

    /// Takes all steps that are left.
    #[inline(never)]
    pub(crate) fn finish(
        &self,
        headers: &[Headers],
        address: impl Fn(&Headers) -> u128,
        search: &mut Search,
    ) {
        let Search { found, v4, v6 } = search;
        while v4.len > 0 {
            let now = std::mem::replace(&mut v4.len, 0);
            for at in 0..now.min(MAX_BATCH) {
                let lane = v4.lanes[at];
                let value = address(&headers[lane as usize]) as u16;
                let found = &mut found[lane as usize & (MAX_BATCH - 1)];
                *found = self.follow4(*found, value);
                v4.push_if(found.is_node(), lane);
                self.nodes4.prefetch_if(found.is_node(), found.place());
            }
        }
        while v6.len > 0 {
            let now = std::mem::replace(&mut v6.len, 0);
            for at in 0..now.min(MAX_BATCH) {
                let lane = v6.lanes[at];
                let address = address(&headers[lane as usize]);
                let found = &mut found[lane as usize & (MAX_BATCH - 1)];
                let lower = found.is_lower();
                *found = self
                    .follow6(*found, if lower { address as u64 } else { (address >> 64) as u64 });
                v6.push_if(found.is_node(), lane);
                self.nodes6.prefetch_if(found.is_node(), found.place());
            }
        }
    }

    #[inline(always)]
    fn follow4(&self, target: Target, value: u16) -> Target {
        let bounds = BOUNDS4[usize::from(target.is_big())];
        // Bounds ascend: those at most `value` come first.
        let holds = at_most(&self.nodes4.get(target.place()).0, value);
        let passed = (!holds | 1 << bounds).trailing_zeros() as usize;
        let word = bounds / 2 + passed;
        Target(self.nodes4.get(target.place() + (word / 8) as u32).0[word % 8])
    }

    #[inline(always)]
    fn follow6(&self, target: Target, value: u64) -> Target {
        let bound = |unit: &Unit, place: usize| {
            u64::from(unit.0[2 * place]) | u64::from(unit.0[2 * place + 1]) << 32
        };
        let first = self.nodes6.get(target.place());
        let passed = |unit: &Unit, place: usize| usize::from(bound(unit, place) <= value);
        let two = passed(first, 0) + passed(first, 1);
        if target.is_big() {
            let second = self.nodes6.get(target.place() + 1);
            let five = two + passed(first, 2) + passed(first, 3) + passed(second, 0);
            Target(second.0[2 + five])
        } else {
            Target(first.0[4 + two])
        }
    }

    /// The units of a node.
    pub(crate) fn node(units: &Units, target: Target) -> [u32; 16] {
        let mut words = [0; 16];
        words[..8].copy_from_slice(&units.get(target.place()).0);
        if target.is_big() {
            words[8..].copy_from_slice(&units.get(target.place() + 1).0);
        }
        words
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.slots4.size_bytes()
            + self.tables4.size_bytes()
            + self.nodes4.size_bytes()
            + self.nodes6.size_bytes()
    }
}
