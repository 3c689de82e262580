//! Addresses to the classes of one side, a batch at a time.
//!
//! IPv4: a table over the leading 16 bits, where many intervals share those one over the next 8, where
//! many share those too one over the last 8, else nodes over the trailing 16. IPv6: by the bits in which prefixes differ ([`super::prefixes`]), or,
//! where those are too many and after edits, nodes over the upper 64 bits, then nodes over the lower
//! 64. A node holds ascending bounds and one target more than bounds: that of the values below the
//! first bound, and from each bound on. Every node is half a cache line, or a whole one: most of the
//! slots that need any bound need very few.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::prefixes::Prefixes;
use super::store::Store;
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

/// By the third byte of an IPv4 address, or by the last.
pub(crate) type Table = [Target; 256];

/// Values of the leading 16 bits of an IPv4 address.
pub(crate) const SLOTS: usize = 1 << 16;

/// Words to small numbers: IPv4 addresses to their classes, for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct WordMap {
    /// By the upper 16 bits, as far as there are words.
    pub(crate) slots: Store<Target>,
    pub(crate) tables: Store<Table>,
    pub(crate) nodes: Units,
}

/// The addresses of one side.
#[derive(Clone, Debug)]
pub(crate) struct AddressMap {
    pub(crate) v4: WordMap,
    /// All of IPv6, if there are any; [`Self::root6`] and its nodes are not kept then.
    pub(crate) prefixes6: Option<Arc<Prefixes>>,
    pub(crate) root6: Target,
    pub(crate) nodes6: Units,
    /// The class of frames without an address.
    pub(crate) non_ip: u32,
}

/// Takes every lane of a column of words to its number.
struct Walk<'a> {
    map: &'a WordMap,
    addresses: &'a [Eight],
    found: &'a mut [Eight],
}

impl Kernel for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { map, addresses, found } = self;
        let (slots, tables) = (map.slots.words(), map.tables.words());
        let nodes = map.nodes.words();
        let mut nodes_ahead = 0;
        for (address, found) in addresses.iter().zip(found.iter_mut()) {
            let address = lanes.load(address);
            let target = lanes.gather(slots, lanes.shr::<16>(address));
            let target = follow_table(lanes, tables, lanes.shr::<8>(address), target);
            lanes.store(target, found);
            let is_table = lanes.at_most(lanes.splat(Target::TABLE), target);
            if lanes.bits(is_table) != 0 {
                let row = lanes.shr::<3>(place_in_table(lanes, address, target));
                // What is no table asks for the first one, which is there already.
                lanes.prefetch_rows(tables, lanes.and(row, is_table));
            }
        }
        for (group, (address, found)) in addresses.iter().zip(found.iter_mut()).enumerate() {
            let target = follow_table(lanes, tables, lanes.load(address), lanes.load(found));
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

/// Takes those of eight targets that are tables to what stands there for the lowest bytes.
#[inline(always)]
fn follow_table<L: Lanes>(lanes: L, tables: Words<'_>, bytes: L::W, targets: L::W) -> L::W {
    let is_table = lanes.at_most(lanes.splat(Target::TABLE), targets);
    if lanes.bits(is_table) == 0 {
        return targets;
    }
    let place = lanes.and(place_in_table(lanes, bytes, targets), is_table);
    lanes.select(is_table, lanes.gather(tables, place), targets)
}

/// Where the lowest bytes stand in tables.
#[inline(always)]
fn place_in_table<L: Lanes>(lanes: L, bytes: L::W, tables: L::W) -> L::W {
    let table = lanes.shl::<8>(place(lanes, tables));
    lanes.or(table, lanes.and(bytes, lanes.splat(0xff)))
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

/// Takes lanes to the classes of IPv6 addresses.
struct Walk6<'a> {
    map: &'a AddressMap,
    addresses: [&'a [Eight]; 4],
    is_v6: &'a [Eight],
    found: &'a mut [Eight],
}

impl Kernel for Walk6<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { map, addresses, is_v6, found } = self;
        let nodes = map.nodes6.words();
        let mut nodes_ahead = 0;
        for (group, (is_v6, found)) in is_v6.iter().zip(found.iter_mut()).enumerate() {
            let root = lanes.splat(map.root6.word());
            let target = lanes.select(lanes.load(is_v6), root, lanes.load(found));
            lanes.store(target, found);
            nodes_ahead |= u32::from(ask_ahead(lanes, nodes, target)) << group;
        }
        let [a, b, c, d] = addresses;
        while nodes_ahead != 0 {
            let mut groups = std::mem::take(&mut nodes_ahead);
            while groups != 0 {
                let group = groups.trailing_zeros() as usize;
                groups &= groups - 1;
                let (Some(a), Some(b), Some(c), Some(d), Some(found)) =
                    (a.get(group), b.get(group), c.get(group), d.get(group), found.get_mut(group))
                else {
                    return;
                };
                let address = [lanes.load(a), lanes.load(b), lanes.load(c), lanes.load(d)];
                let target = follow6(lanes, nodes, address, lanes.load(found));
                lanes.store(target, found);
                nodes_ahead |= u32::from(ask_ahead(lanes, nodes, target)) << group;
            }
        }
    }
}

/// Takes those of eight targets that are nodes to what follows for the half of the addresses that
/// they ask for.
#[inline(always)]
fn follow6<L: Lanes>(lanes: L, nodes: Words<'_>, addresses: [L::W; 4], targets: L::W) -> L::W {
    const { assert!(BOUNDS6[0] == 2 && BOUNDS6[1] == 5, "the bounds are compared one by one") };
    let is_node = lanes.at_most(lanes.splat(Target::SMALL), targets);
    let is_big = lanes.and(lanes.at_most(lanes.splat(Target::BIG), targets), is_node);
    let lower = lanes.splat(Target::LOWER);
    let is_lower = lanes.equal(lanes.and(targets, lower), lower);
    let [a, b, c, d] = addresses;
    let value = (lanes.select(is_lower, c, a), lanes.select(is_lower, d, b));
    let unit = lanes.and(place(lanes, targets), is_node);
    let base = lanes.shl::<3>(unit);
    let words = lanes.gather_rows(nodes, unit);
    let first = is_at_most(lanes, (words[1], words[0]), value);
    let second = is_at_most(lanes, (words[3], words[2]), value);
    // Masks are minus one.
    let mut count = lanes.sub(lanes.splat(0), lanes.add(first, second));
    if lanes.bits(is_big) != 0 {
        let low = lanes.gather(nodes, lanes.add(base, lanes.splat(8)));
        let high = lanes.gather(nodes, lanes.add(base, lanes.splat(9)));
        let third = is_at_most(lanes, (words[5], words[4]), value);
        let fourth = is_at_most(lanes, (words[7], words[6]), value);
        let fifth = is_at_most(lanes, (high, low), value);
        let passed = lanes.add(lanes.add(third, fourth), fifth);
        count = lanes.sub(count, lanes.and(passed, is_big));
    }
    let [small, big] = BOUNDS6;
    let first = lanes.select(is_big, lanes.splat(2 * big as u32), lanes.splat(2 * small as u32));
    let next = lanes.gather(nodes, lanes.add(lanes.add(base, first), count));
    lanes.select(is_node, next, targets)
}

/// Whether numbers of two words, the greater one first, are at most others.
#[inline(always)]
fn is_at_most<L: Lanes>(lanes: L, a: (L::W, L::W), b: (L::W, L::W)) -> L::W {
    let is_below = lanes.below(a.0, b.0);
    let is_equal = lanes.equal(a.0, b.0);
    lanes.or(is_below, lanes.and(is_equal, lanes.at_most(a.1, b.1)))
}

impl WordMap {
    /// Takes words to their numbers.
    #[inline(always)]
    pub(crate) fn walk<L: Lanes>(&self, lanes: L, words: &[Eight], found: &mut [Eight]) {
        Walk { map: self, addresses: words, found }.run(lanes);
    }

    /// The same, with the best lanes that the machine has.
    pub(crate) fn find(&self, words: &[Eight], found: &mut [Eight]) {
        lanes::run(Walk { map: self, addresses: words, found });
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.slots.size_bytes() + self.tables.size_bytes() + self.nodes.size_bytes()
    }
}

impl AddressMap {
    /// Takes the lanes of `is_v6`, as masks, to the classes of their IPv6 addresses, whose words come
    /// greatest first. Not where there are [`Self::prefixes6`].
    pub(crate) fn find6(&self, addresses: [&[Eight]; 4], is_v6: &[Eight], found: &mut [Eight]) {
        lanes::run(Walk6 { map: self, addresses, is_v6, found });
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

    /// Heap bytes of what leads IPv6 addresses to their classes.
    pub(crate) fn bytes6(&self) -> usize {
        let prefixes = self.prefixes6.iter().map(|prefixes| prefixes.size_bytes());
        self.nodes6.size_bytes() + prefixes.sum::<usize>()
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.v4.size_bytes() + self.bytes6()
    }
}
