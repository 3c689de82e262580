//! IPv6 addresses to the classes of one side, by the bits in which its prefixes differ.
//!
//! However long addresses are, what tells the prefixes of a policy apart are few of their bits: those
//! at which two neighbours first differ. They are taken out of an address and make a word, which a
//! [`WordMap`] takes to one prefix as it would an IPv4 address. No other prefix agrees with more of
//! the address, though the bits between were not looked at (Morrison's PATRICIA, 1968, with all of its
//! tests at once). One row then has that prefix to compare with, and those that hold it: the longest
//! of them that the address agrees with decides. So no address takes longer than another, be it of
//! the policy or not.
//!
//! Only prefixes that hold no other ones are told apart. What holds them is in their rows.

use bytemuck::{Pod, Zeroable};

use super::addresses::WordMap;
use super::crossed::FlatMap;
use super::{Column, MAX_BATCH};
use crate::headers::{ETHER_IPV6, Headers};
use crate::lanes::{Eight, Kernel, LANES, Lanes, Words};

/// The IPv6 addresses of one side.
#[derive(Debug)]
pub(crate) struct Prefixes {
    /// The bits that tell prefixes apart, of the upper half of an address and of the lower.
    pub(crate) differing: [u64; 2],
    /// Those bits to the number of a row.
    pub(crate) map: KeyMap,
    pub(crate) rows: Vec<Row>,
}

/// Words to the numbers of rows.
#[derive(Debug)]
pub(crate) enum KeyMap {
    /// Where it stays small: the same steps for all.
    Flat(FlatMap),
    Nodes(WordMap),
}

/// A prefix that holds no other, and the classes of its addresses and of those near it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(32))]
pub(crate) struct Row {
    /// The words of any address of the prefix, the lowest first.
    pub(crate) address: [u32; 4],
    /// The longest prefixes of that address, longest first: a class, and above it the length.
    /// The first that an address agrees with decides; the last one always does. It may instead have
    /// [`Row::MORE`] set, above the number of a row with shorter ones.
    pub(crate) prefixes: [u32; Row::PREFIXES],
}

impl Row {
    pub(crate) const PREFIXES: usize = 4;
    pub(crate) const MORE: u32 = 1 << 31;
    /// Lengths are above this bit, classes below.
    pub(crate) const CLASS_BITS: u32 = 23;
    const CLASS: u32 = (1 << Self::CLASS_BITS) - 1;
}

const _: () = assert!(size_of::<Row>() == 32);

/// Takes addresses to the numbers of the rows of each side, and asks for those. Returns which frames
/// are of IPv6, a bit for each.
pub(super) struct FindRows<'a> {
    pub(super) headers: &'a [Headers],
    pub(super) sides: [Option<&'a Prefixes>; 2],
    pub(super) keys: &'a mut [Column; 2],
    pub(super) found: &'a mut [Column; 2],
}

impl Kernel for FindRows<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let Self { headers, sides, keys: [src, dst], found: [src_found, dst_found] } = self;
        let groups = headers.len().min(MAX_BATCH).div_ceil(LANES);
        let mut frames = 0;
        for group in 0..groups {
            let kind = lanes.fields(headers, group * LANES).kind;
            frames |= u64::from(lanes.bits(is_v6(lanes, kind))) << (group * LANES);
        }
        if let Some(prefixes) = sides[0] {
            let key = TakeKey::of(prefixes);
            for (header, word) in headers.iter().zip(src.as_flattened_mut()) {
                *word = key.of_address(lanes, header.src);
            }
        }
        if let Some(prefixes) = sides[1] {
            let key = TakeKey::of(prefixes);
            for (header, word) in headers.iter().zip(dst.as_flattened_mut()) {
                *word = key.of_address(lanes, header.dst);
            }
        }
        if let Some(prefixes) = sides[0] {
            prefixes.find(lanes, &src[..groups], &mut src_found[..groups]);
        }
        if let Some(prefixes) = sides[1] {
            prefixes.find(lanes, &dst[..groups], &mut dst_found[..groups]);
        }
        frames & u64::MAX >> (MAX_BATCH - headers.len().clamp(1, MAX_BATCH))
    }
}

/// Which frames are of IPv6, as masks.
#[inline(always)]
fn is_v6<L: Lanes>(lanes: L, kind: L::W) -> L::W {
    lanes.equal(lanes.and(kind, lanes.splat(0xffff)), lanes.splat(ETHER_IPV6.into()))
}

/// What takes the bits of an address out that tell prefixes apart.
struct TakeKey {
    differing: [u64; 2],
    of_lower: u32,
    shift: u32,
}

impl TakeKey {
    #[inline(always)]
    fn of(prefixes: &Prefixes) -> Self {
        let differing = prefixes.differing;
        let of_lower = differing[1].count_ones();
        Self { differing, of_lower, shift: Prefixes::shift(differing) }
    }

    #[inline(always)]
    fn of_address<L: Lanes>(&self, lanes: L, address: u128) -> u32 {
        let upper = lanes.take_bits((address >> 64) as u64, self.differing[0]);
        let lower = lanes.take_bits(address as u64, self.differing[1]);
        // There are 32 bits at most.
        ((upper << (self.of_lower & 63) | lower) << (self.shift & 63)) as u32
    }
}

/// Takes the numbers of rows to the classes of IPv6 addresses, in their lanes.
pub(super) struct ReadRows<'a> {
    pub(super) headers: &'a [Headers],
    pub(super) sides: [Option<&'a Prefixes>; 2],
    pub(super) found: &'a [Column; 2],
    pub(super) classes: &'a mut [Column; 2],
}

impl Kernel for ReadRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { headers, sides, found, classes: [src, dst] } = self;
        for group in 0..headers.len().min(MAX_BATCH).div_ceil(LANES) {
            let is_v6 = is_v6(lanes, lanes.fields(headers, group * LANES).kind);
            let [s0, s1, s2, s3, d0, d1, d2, d3] = lanes.addresses(headers, group * LANES);
            if let Some(prefixes) = sides[0] {
                let found = lanes.load(&found[0][group]);
                let class = read_rows(lanes, &prefixes.rows, found, [s0, s1, s2, s3]);
                let old = lanes.load(&src[group]);
                lanes.store(lanes.select(is_v6, class, old), &mut src[group]);
            }
            if let Some(prefixes) = sides[1] {
                let found = lanes.load(&found[1][group]);
                let class = read_rows(lanes, &prefixes.rows, found, [d0, d1, d2, d3]);
                let old = lanes.load(&dst[group]);
                lanes.store(lanes.select(is_v6, class, old), &mut dst[group]);
            }
        }
    }
}

/// The classes of addresses by the rows at `found` and those that these name.
#[inline(always)]
fn read_rows<L: Lanes>(lanes: L, rows: &[Row], found: L::W, address: [L::W; 4]) -> L::W {
    let rows = Words::new(bytemuck::cast_slice(rows));
    let mut prefix = read_row(lanes, rows, found, &address);
    loop {
        let is_more = lanes.signs(prefix);
        if lanes.bits(is_more) == 0 {
            return lanes.and(prefix, lanes.splat(Row::CLASS));
        }
        let place = lanes.and(lanes.without(prefix, lanes.splat(Row::MORE)), is_more);
        prefix = lanes.select(is_more, read_row(lanes, rows, place, &address), prefix);
    }
}

/// What rows say of addresses: classes with lengths, or where to look.
#[inline(always)]
fn read_row<L: Lanes>(lanes: L, rows: Words<'_>, found: L::W, address: &[L::W; 4]) -> L::W {
    let [a0, a1, a2, a3, first, second, third, last] = lanes.gather_rows(rows, found);
    let differing = lanes.xor(a3, address[3]);
    let is_same = lanes.equal(differing, lanes.splat(0));
    let word = lanes.splat(32);
    let before = lanes.and(is_same, word);
    let differing = lanes.select(is_same, lanes.xor(a2, address[2]), differing);
    let is_same = lanes.equal(differing, lanes.splat(0));
    let before = lanes.add(before, lanes.and(is_same, word));
    let differing = lanes.select(is_same, lanes.xor(a1, address[1]), differing);
    let is_same = lanes.equal(differing, lanes.splat(0));
    let before = lanes.add(before, lanes.and(is_same, word));
    let differing = lanes.select(is_same, lanes.xor(a0, address[0]), differing);
    let agreeing = lanes.add(before, lanes.leading_zeros(differing));
    let agreeing = lanes.shl::<{ Row::CLASS_BITS as i32 }>(agreeing);
    let agreeing = lanes.or(agreeing, lanes.splat(Row::CLASS));
    let prefix = lanes.select(lanes.at_most(third, agreeing), third, last);
    let prefix = lanes.select(lanes.at_most(second, agreeing), second, prefix);
    lanes.select(lanes.at_most(first, agreeing), first, prefix)
}

impl Prefixes {
    /// How far the bits that were taken out are shifted left: up to 16 of them are the number of a
    /// slot, of more the first 16 are.
    pub(crate) fn shift(differing: [u64; 2]) -> u32 {
        let bits: u32 = differing.iter().map(|half| half.count_ones()).sum();
        if bits <= 16 { 16 } else { u32::BITS.saturating_sub(bits) }
    }

    /// Takes keys to the numbers of rows, and asks for those.
    #[inline(always)]
    fn find<L: Lanes>(&self, lanes: L, keys: &[Eight], found: &mut [Eight]) {
        match &self.map {
            KeyMap::Flat(map) => map.find_all(lanes, keys, found),
            KeyMap::Nodes(map) => map.walk(lanes, keys, found),
        }
        let rows = Words::new(bytemuck::cast_slice(&self.rows));
        for found in found {
            lanes.prefetch_rows(rows, lanes.load(found));
        }
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        let map = match &self.map {
            KeyMap::Flat(map) => map.size_bytes(),
            KeyMap::Nodes(map) => map.size_bytes(),
        };
        map + size_of_val(&*self.rows)
    }
}

/// The classes of sources of IPv6, `other` where a frame is none.
#[cfg(test)]
pub(crate) fn find_all(prefixes: &Prefixes, headers: &[Headers], other: u32) -> Vec<u32> {
    use crate::lanes;
    let [mut keys, mut found, mut classes] =
        [0, 0, other].map(|word| [[[word; LANES]; MAX_BATCH / LANES]; 2]);
    let sides = [Some(prefixes), None];
    lanes::run(FindRows { headers, sides, keys: &mut keys, found: &mut found });
    lanes::run(ReadRows { headers, sides, found: &found, classes: &mut classes });
    classes[0].as_flattened()[..headers.len()].to_vec()
}
