//! Addresses to the classes of one side, a batch at a time.
//!
//! IPv4: a table over the leading 16 bits, where many intervals share those one over the next 8, then
//! nodes over the trailing 16. IPv6: nodes over the
//! upper 64 bits, then nodes over the lower 64. A node holds ascending bounds and one target more
//! than bounds: that of the values below the first bound, and from each bound on. Every node is half
//! a cache line, or a whole one: most of the slots that need any bound need very few.

use bytemuck::{Pod, Zeroable};

use super::ones;
use super::store::Store;
use crate::headers::{ETHER_IPV6, Headers};
use crate::lanes::{self, Eight, Kernel, Lanes, Words};

/// A class, or the node or table that goes on: two bits of kind, and for a node a bit that says to go
/// on with the lower half of the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(transparent)]
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
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(32))]
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

/// Takes every lane of a column of IPv4 addresses to its class.
struct Walk<'a> {
    map: &'a AddressMap,
    addresses: &'a [Eight],
    found: &'a mut [Eight],
}

impl Kernel for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { map, addresses, found } = self;
        let (slots, tables) = (map.slots4.words(), map.tables4.words());
        let nodes = map.nodes4.words();
        let mut nodes_ahead = 0;
        for (group, (address, found)) in addresses.iter().zip(found.iter_mut()).enumerate() {
            let address = lanes.load(address);
            let mut target = lanes.gather(slots, lanes.shr::<16>(address));
            let is_table = lanes.at_most(lanes.splat(Target::TABLE), target);
            if lanes.bits(is_table) != 0 {
                let table = lanes.shl::<8>(place(lanes, target));
                let byte = lanes.and(lanes.shr::<8>(address), lanes.splat(0xff));
                let place = lanes.and(lanes.or(table, byte), is_table);
                target = lanes.select(is_table, lanes.gather(tables, place), target);
            }
            lanes.store(target, found);
            nodes_ahead |= u32::from(ask_ahead(lanes, nodes, target)) << group;
        }
        while nodes_ahead != 0 {
            let mut groups = std::mem::take(&mut nodes_ahead);
            while groups != 0 {
                let group = groups.trailing_zeros() as usize;
                groups &= groups - 1;
                let (Some(address), Some(found)) = (addresses.get(group), found.get_mut(group))
                else {
                    return;
                };
                let target = follow4(lanes, nodes, lanes.load(address), lanes.load(found));
                lanes.store(target, found);
                nodes_ahead |= u32::from(ask_ahead(lanes, nodes, target)) << group;
            }
        }
    }
}

/// [`Target::place`].
#[inline(always)]
fn place<L: Lanes>(lanes: L, targets: L::W) -> L::W {
    lanes.and(targets, lanes.splat(Target::LIMIT - 1))
}

/// Asks for the nodes that targets are. Whether there is any.
#[inline(always)]
fn ask_ahead<L: Lanes>(lanes: L, nodes: Words<'_>, targets: L::W) -> bool {
    let is_node = lanes.at_most(lanes.splat(Target::SMALL), targets);
    let is_any = lanes.bits(is_node) != 0;
    if is_any {
        lanes.prefetch_rows(nodes, lanes.and(place(lanes, targets), is_node));
    }
    is_any
}

/// Takes those of eight targets that are nodes to what follows for the lower halves of `addresses`.
#[inline(always)]
fn follow4<L: Lanes>(lanes: L, nodes: Words<'_>, addresses: L::W, targets: L::W) -> L::W {
    const SMALL: u32 = BOUNDS4[0] as u32 / 2;
    const BIG: u32 = BOUNDS4[1] as u32 / 2;
    let is_node = lanes.at_most(lanes.splat(Target::SMALL), targets);
    let is_big = lanes.and(lanes.at_most(lanes.splat(Target::BIG), targets), is_node);
    let base = lanes.and(lanes.shl::<3>(place(lanes, targets)), is_node);
    let value = lanes.and(addresses, lanes.splat(0xffff));
    let value = lanes.or(value, lanes.shl::<16>(value));
    // Each half of a word counts its bounds.
    let mut count = lanes.splat(0);
    for word in 0..SMALL {
        let bounds = lanes.gather(nodes, lanes.add(base, lanes.splat(word)));
        count = lanes.count_halves(count, lanes.halves_at_most(bounds, value));
    }
    if lanes.bits(is_big) != 0 {
        for word in SMALL..BIG {
            let bounds = lanes.gather(nodes, lanes.add(base, lanes.splat(word)));
            let passed = lanes.and(lanes.halves_at_most(bounds, value), is_big);
            count = lanes.count_halves(count, passed);
        }
    }
    let count = lanes.add(lanes.and(count, lanes.splat(0xffff)), lanes.shr::<16>(count));
    let first = lanes.select(is_big, lanes.splat(BIG), lanes.splat(SMALL));
    let next = lanes.gather(nodes, lanes.add(lanes.add(base, first), count));
    lanes.select(is_node, next, targets)
}

impl AddressMap {
    /// Takes IPv4 addresses to their classes.
    pub(crate) fn find4(&self, addresses: &[Eight], found: &mut [Eight]) {
        lanes::run(Walk { map: self, addresses, found });
    }

    /// Takes other frames to their classes: `lanes` has a bit for each of them.
    #[inline(never)]
    pub(crate) fn find_others(
        &self,
        headers: &[Headers],
        lanes: u64,
        address: impl Fn(&Headers) -> u128,
        found: &mut [u32],
    ) {
        let mut ahead = 0;
        for (lane, headers) in ones(lanes).map(|lane| (lane, &headers[lane])) {
            let is_v6 = headers.ether_type == ETHER_IPV6;
            found[lane] = if is_v6 { self.root6.word() } else { self.non_ip };
            ahead |= u64::from(is_v6 && self.root6.is_node()) << lane;
        }
        while ahead != 0 {
            for lane in ones(std::mem::take(&mut ahead)) {
                let (address, target) = (address(&headers[lane]), Target(found[lane]));
                let half = if target.is_lower() { address } else { address >> 64 };
                let next = self.follow6(target, half as u64);
                found[lane] = next.word();
                ahead |= u64::from(next.is_node()) << lane;
                self.nodes6.prefetch_if(next.is_node(), next.place());
            }
        }
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
