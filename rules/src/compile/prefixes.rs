//! Intervals of IPv6 addresses to [`Prefixes`].
//!
//! First the intervals become prefixes, the longest of which decides, and as few as there can be:
//! what a hole is in belongs to what is around it (Draves, King, Venkatachary and Zill's ORTC, 1999,
//! over a trie whose paths are compressed). Then those that hold no other get a row each, and the bits
//! at which neighbours among them differ say which row an address is compared with.

use super::cross::flat_map;
use super::map::WordMapBuilder;
use super::mixer::ByNumbers;
use crate::classifier::addresses::WordMap;
use crate::classifier::crossed::FlatMap;
use crate::classifier::prefixes::{KeyMap, Prefixes, Row};

/// Bytes up to which keys are looked up in a plain trie: more would not stay in the second cache.
const MOST_FLAT_BYTES: usize = 1 << 20;

/// What prefixes take at most for each interval, and for a few more: steps in the trie, and twice as
/// many prefixes. Ranges that are no prefixes take a hundred times as much, and are not worth it.
const STEPS: usize = 16;
const FEW: usize = 4096;

/// The prefixes of a cut of all addresses, which begins with zero; [`None`] where more than 32 bits
/// tell them apart, where they are many more than the intervals, or numbers are too large for a row.
pub(super) fn of_cut(cut: &[(u128, u32)]) -> Option<Prefixes> {
    with_flat(cut, MOST_FLAT_BYTES)
}

/// The same with so many bytes of a plain trie at most.
fn with_flat(cut: &[(u128, u32)], most_bytes: usize) -> Option<Prefixes> {
    if cut.iter().any(|&(_, class)| class >> Row::CLASS_BITS != 0) {
        return None;
    }
    let mut trie = Trie { nodes: Vec::new(), steps_left: STEPS * cut.len() + FEW };
    let all = trie.of_region(Prefix::ALL, cut[0].1, &cut[1..]);
    if trie.steps_left == 0 {
        return None;
    }
    let mut chains = Chains { most: 2 * cut.len() + FEW, ..Chains::default() };
    let class = trie.candidates(all).first();
    chains.above.push((0, class));
    trie.choose(all, Prefix::ALL, class, &mut chains);
    chains.close(0, Prefix::ALL);
    if chains.is_full() {
        return None;
    }
    chains.leaves.sort_unstable_by_key(|leaf| leaf.address);

    let pairs = chains.leaves.windows(2).map(|pair| (pair[0].address, pair[1].address));
    let differing = pairs.fold(0_u128, |bits, (a, b)| bits | 1 << (a ^ b).ilog2());
    if differing.count_ones() > u32::BITS {
        return None;
    }
    let rows = chains.rows()?;
    let differing = [(differing >> 64) as u64, differing as u64];
    let map = map_of(&chains.leaves, differing);
    let flat = match rows.len() < usize::from(FlatMap::TABLE) {
        true => flat_map(&map).filter(|flat| flat.size_bytes() <= most_bytes),
        false => None,
    };
    let map = flat.map_or(KeyMap::Nodes(map), KeyMap::Flat);
    Some(Prefixes { differing, map, rows })
}

/// Keys to the rows of the same number as leaves: of two neighbours, each gets the keys that agree
/// with more of it.
fn map_of(leaves: &[Leaf], differing: [u64; 2]) -> WordMap {
    let shift = Prefixes::shift(differing);
    let bits: Vec<u32> = (0..u128::BITS)
        .rev()
        .filter(|bit| differing[usize::from(*bit < 64)] >> (bit % 64) & 1 != 0)
        .collect();
    let key = |address: u128| {
        let taken = bits.iter().fold(0_u64, |key, bit| key << 1 | (address >> bit & 1) as u64);
        (taken << shift) as u32
    };
    let mut cut = vec![(0, 0)];
    let mut before = leaves.first().map_or(0, |leaf| key(leaf.address));
    for (row, leaf) in leaves.iter().enumerate().skip(1) {
        let key = key(leaf.address);
        let first = key >> (before ^ key).ilog2() << (before ^ key).ilog2();
        cut.push((first, row as u32));
        before = key;
    }
    let slots = 1 << (bits.len() as u32 + shift).saturating_sub(16).min(16);
    let mut map = WordMap::default();
    WordMapBuilder::default().set(&mut map, slots, &cut, |_| {});
    map.slots.settle();
    map.tables.settle();
    map.nodes.settle();
    map
}

/// The addresses that agree with one in so many bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Prefix {
    first: u128,
    len: u32,
}

impl Prefix {
    const ALL: Self = Self { first: 0, len: 0 };

    fn of(address: u128, len: u32) -> Self {
        Self { first: address & !host_bits(len), len }
    }

    fn last(self) -> u128 {
        self.first | host_bits(self.len)
    }

    /// The halves; there are two bits at least.
    fn halves(self) -> [Self; 2] {
        let len = self.len + 1;
        [0, 1].map(|half: u128| Self { first: self.first | half << (u128::BITS - len), len })
    }
}

/// The bits after the first `len`.
fn host_bits(len: u32) -> u128 {
    u128::MAX.checked_shr(len).unwrap_or(0)
}

/// Classes that may be around a prefix at the least cost: a few of them, one at least.
#[derive(Clone, Copy, Debug)]
struct Few {
    classes: [u32; Self::MOST],
    len: usize,
}

impl Few {
    const MOST: usize = 3;

    fn one(class: u32) -> Self {
        Self { classes: [class; Self::MOST], len: 1 }
    }

    fn all(&self) -> &[u32] {
        &self.classes[..self.len]
    }

    fn first(&self) -> u32 {
        self.classes[0]
    }

    fn has(&self, class: u32) -> bool {
        self.all().contains(&class)
    }

    /// One more, in the place of the last where they are many.
    fn push(&mut self, class: u32) {
        self.len = Self::MOST.min(self.len + 1);
        self.classes[self.len - 1] = class;
    }

    /// What both have, or else what either has.
    fn joined(&self, other: &Self) -> Self {
        let mut both = Self { len: 0, ..*self };
        self.all().iter().filter(|&&class| other.has(class)).for_each(|&class| both.push(class));
        if both.len == 0 {
            both = *self;
            other.all().iter().for_each(|&class| both.push(class));
        }
        both
    }
}

/// A region: all of one class, or what a node says.
#[derive(Clone, Copy, Debug)]
enum Region {
    Uniform(u32),
    Node(u32),
}

/// A region of several classes: `before` and `after` are around the prefix of it that matters.
#[derive(Clone, Copy, Debug)]
struct Node {
    inner: Prefix,
    before: u32,
    after: u32,
    /// Either the class of all of `inner`, or its halves.
    halves: Result<[Region; 2], u32>,
    /// The candidates of `inner`, and those of the region.
    of_inner: Few,
    of_region: Few,
}

impl Node {
    /// Two bits beside the inner prefix, what is around it is one class at best, if it is one: no
    /// bits before these make a difference. The first that may, of a region of such a length.
    fn shortest_open(&self, region: u32) -> u32 {
        if self.before != self.after {
            region
        } else {
            region.max(self.inner.len.saturating_sub(2))
        }
    }

    /// The class of the addresses in the shortest prefix that holds the first `len` bits of the inner
    /// one and not the next.
    fn beside(&self, len: u32) -> u32 {
        let is_after = self.inner.first >> (u128::BITS - 1 - len) & 1 == 0;
        if is_after { self.after } else { self.before }
    }
}

/// What an interval cut looks like as a binary trie whose paths are compressed.
struct Trie {
    nodes: Vec<Node>,
    /// Bits beside nodes that may still be looked at. With none, the trie means nothing.
    steps_left: usize,
}

impl Trie {
    /// The region of a prefix that begins with a class and goes on with a cut.
    fn of_region(&mut self, region: Prefix, before: u32, cut: &[(u128, u32)]) -> Region {
        let (Some(&(first, next)), Some(&(end, after))) = (cut.first(), cut.last()) else {
            return Region::Uniform(before);
        };
        let inner = Prefix::of(first, (first ^ (end - 1)).leading_zeros());
        let cut = if end - 1 == inner.last() { &cut[..cut.len() - 1] } else { cut };
        let (class, cut) = match cut {
            [_, rest @ ..] if first == inner.first => (next, rest),
            _ => (before, cut),
        };
        let halves = if cut.is_empty() {
            Err(class)
        } else {
            let [lower, upper] = inner.halves();
            let (low, high) = cut.split_at(cut.partition_point(|&(start, _)| start < upper.first));
            let middle = low.last().map_or(class, |&(_, class)| class);
            let (middle, high) = match high {
                [(start, class), rest @ ..] if *start == upper.first => (*class, rest),
                _ => (middle, high),
            };
            Ok([self.of_region(lower, class, low), self.of_region(upper, middle, high)])
        };
        let of_inner = match halves {
            Ok([low, high]) => self.candidates(low).joined(&self.candidates(high)),
            Err(class) => Few::one(class),
        };
        let mut node = Node { inner, before, after, halves, of_inner, of_region: of_inner };
        let from = node.shortest_open(region.len);
        self.steps_left = self.steps_left.saturating_sub(inner.len.saturating_sub(from) as usize);
        if self.steps_left == 0 {
            return Region::Uniform(before);
        }
        for len in (from..inner.len).rev() {
            node.of_region = node.of_region.joined(&Few::one(node.beside(len)));
        }
        self.nodes.push(node);
        Region::Node(self.nodes.len() as u32 - 1)
    }

    fn candidates(&self, region: Region) -> Few {
        match region {
            Region::Uniform(class) => Few::one(class),
            Region::Node(node) => self.nodes[node as usize].of_region,
        }
    }

    /// Chooses the prefixes of a region that is within a prefix of `class`.
    fn choose(&self, region: Region, prefix: Prefix, mut class: u32, chains: &mut Chains) {
        let above = chains.above.len();
        if chains.is_full() {
            return;
        }
        let node = match region {
            Region::Uniform(own) if own == class => return,
            Region::Uniform(own) => {
                let open = chains.open(prefix.len, own);
                return chains.end(above, Some((open, prefix)));
            }
            Region::Node(node) => &self.nodes[node as usize],
        };
        // Where all that is beside it is of the class, nothing is chosen until shortly before it.
        let from = if node.before == class { node.shortest_open(prefix.len) } else { prefix.len };
        let mut candidates = vec![node.of_inner];
        for len in (from..node.inner.len).rev() {
            let shorter = candidates[candidates.len() - 1].joined(&Few::one(node.beside(len)));
            candidates.push(shorter);
        }
        let mut last = None;
        for (len, candidates) in (from..=node.inner.len).zip(candidates.iter().rev()) {
            if !candidates.has(class) {
                class = candidates.first();
                let open = chains.open(len, class);
                last = Some((open, Prefix::of(node.inner.first, len)));
            }
            if len < node.inner.len && node.beside(len) != class {
                let beside = node.inner.first ^ 1 << (u128::BITS - 1 - len);
                let before = chains.above.len();
                let open = chains.open(len + 1, node.beside(len));
                chains.end(before, Some((open, Prefix::of(beside, len + 1))));
            }
        }
        if let Ok(halves) = node.halves {
            for (half, prefix) in halves.into_iter().zip(node.inner.halves()) {
                self.choose(half, prefix, class, chains);
            }
        }
        chains.end(above, last);
    }
}

/// A prefix that holds no other.
struct Leaf {
    address: u128,
    /// Where it and those that hold it stand in [`Chains::prefixes`], the shortest first.
    first: usize,
    end: usize,
}

/// Prefixes, and which hold which.
#[derive(Default)]
struct Chains {
    /// Leaves that there may be at most.
    most: usize,
    /// The lengths and classes of the prefixes that the present place is in, the shortest first.
    above: Vec<(u32, u32)>,
    leaves: Vec<Leaf>,
    prefixes: Vec<(u32, u32)>,
}

impl Chains {
    /// Goes into a prefix. Returns how many leaves there are before its own.
    fn open(&mut self, len: u32, class: u32) -> usize {
        self.above.push((len, class));
        self.leaves.len()
    }

    /// Leaves all but the first `above` prefixes, of which `last` is the longest: a leaf, if there
    /// were none since.
    fn end(&mut self, above: usize, last: Option<(usize, Prefix)>) {
        if let Some((open, prefix)) = last {
            self.close(open, prefix);
        }
        self.above.truncate(above);
    }

    /// Whether there are more leaves than there may be, or more prefixes than they may have.
    fn is_full(&self) -> bool {
        self.leaves.len() > self.most || self.prefixes.len() / 8 > self.most
    }

    /// Makes a prefix a leaf if there were none in it.
    fn close(&mut self, open: usize, prefix: Prefix) {
        if self.leaves.len() == open && !self.is_full() {
            let first = self.prefixes.len();
            self.prefixes.extend(&self.above);
            let end = self.prefixes.len();
            self.leaves.push(Leaf { address: prefix.first, first, end });
        }
    }

    /// The rows of leaves, by number, and behind them those that they share.
    fn rows(&self) -> Option<Vec<Row>> {
        let mut rows = Vec::with_capacity(self.leaves.len());
        // What of a leaf is still to be said, and where.
        let mut left: Vec<(u128, &[(u32, u32)])> = Vec::new();
        let mut shared: ByNumbers<Prefix, u32> = ByNumbers::default();
        for leaf in &self.leaves {
            left.push((leaf.address, &self.prefixes[leaf.first..leaf.end]));
        }
        let mut at = 0;
        while let Some(&(address, prefixes)) = left.get(at) {
            let mut words = [0; Row::PREFIXES];
            let (rest, own) = match prefixes.len() {
                few if few <= Row::PREFIXES => prefixes.split_at(0),
                many => prefixes.split_at(many + 1 - Row::PREFIXES),
            };
            let mut own = own.iter().rev().map(|&(len, class)| len << Row::CLASS_BITS | class);
            words.fill_with(|| own.next().unwrap_or_default());
            if let Some(&(len, _)) = rest.last() {
                let place = shared.entry(Prefix::of(address, len)).or_insert_with(|| {
                    left.push((address, rest));
                    left.len() as u32 - 1
                });
                words[Row::PREFIXES - 1] = Row::MORE | *place;
            }
            let words_of = |word: usize| (address >> (32 * word)) as u32;
            rows.push(Row { address: std::array::from_fn(words_of), prefixes: words });
            at += 1;
        }
        (rows.len() < Row::MORE as usize).then_some(rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::classifier::prefixes::find_all;
    use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers};
    use crate::lanes::tests::force_plain;

    /// Addresses that share much and differ in little: a few words, and bits flipped in one.
    fn address() -> impl Strategy<Value = u128> + Clone {
        let word = prop_oneof![Just(0), Just(u32::MAX), 0..4_u32, any::<u32>()];
        let flips = vec(0..u128::BITS, 0..3);
        let base =
            prop_oneof![Just(0x2001_0db8_u128 << 96), word.prop_map(|w| u128::from(w) << 64)];
        (base, flips).prop_map(|(base, flips)| flips.iter().fold(base, |a, bit| a ^ 1 << bit))
    }

    /// Prefixes painted one over the other, or any ranges, as a cut.
    fn cut(ranges: bool) -> impl Strategy<Value = Vec<(u128, u32)>> {
        let one = (address(), 0..=128_u32, address(), 0..6_u32);
        vec(one, 0..40).prop_map(move |painted| {
            let mut cut = vec![(0, 9)];
            for (at, len, other, class) in painted {
                let (low, high) = match (ranges, Prefix::of(at, len)) {
                    (true, _) => (at.min(other), at.max(other)),
                    (false, prefix) => (prefix.first, prefix.last()),
                };
                let class_at = |cut: &[(u128, u32)], address| {
                    cut[cut.partition_point(|&(start, _)| start <= address) - 1].1
                };
                let after = high.checked_add(1).map(|after| (after, class_at(&cut, after)));
                cut.retain(|&(start, _)| start < low || start > high);
                cut.push((low, class));
                cut.extend(after);
                cut.sort_unstable();
                cut.dedup_by_key(|&mut (start, _)| start);
            }
            cut
        })
    }

    fn check(cut: &[(u128, u32)], others: &[u128], plain: bool) -> Result<bool, TestCaseError> {
        let flat_bytes = if others.len() % 2 == 0 { MOST_FLAT_BYTES } else { 0 };
        let Some(prefixes) = with_flat(cut, flat_bytes) else { return Ok(false) };
        prop_assert_eq!(matches!(prefixes.map, KeyMap::Flat(_)), flat_bytes > 0);
        let around = cut.iter().flat_map(|&(start, _)| [start.wrapping_sub(1), start, start + 1]);
        let near = cut.iter().flat_map(|&(start, _)| others.iter().map(move |other| start ^ other));
        let addresses: Vec<u128> = around.chain(near).chain(others.iter().copied()).collect();
        force_plain(plain);
        for batch in addresses.chunks(61) {
            let headers: Vec<Headers> = (batch.iter())
                .map(|&src| Headers { src, ether_type: ETHER_IPV6, ..Headers::default() })
                .chain([Headers { ether_type: ETHER_IPV4, ..Headers::default() }])
                .collect();
            let found = find_all(&prefixes, &headers, u32::MAX);
            for (&address, &class) in batch.iter().zip(&found) {
                let place = cut.partition_point(|&(start, _)| start <= address) - 1;
                prop_assert_eq!(class, cut[place].1, "{:032x} of {:x?}", address, cut);
            }
            prop_assert_eq!(found[batch.len()], u32::MAX, "a frame of IPv4");
        }
        force_plain(false);
        Ok(true)
    }

    proptest! {
        #[test]
        fn every_address_is_of_the_class_of_its_interval(
            cut in prop_oneof![3 => cut(false), 1 => cut(true)],
            others in vec(address(), 0..8),
            plain in any::<bool>(),
        ) {
            check(&cut, &others, plain)?;
        }
    }

    #[test]
    fn long_chains_of_prefixes_share_rows() {
        // Thirty prefixes in each other, and in the last of them two hosts.
        let base = 0x2001_0db8_u128 << 96;
        let lens = || (1..=30).map(|n| (Prefix::of(base, 32 + 3 * n), n));
        let mut cut = vec![(0, 0)];
        cut.extend(lens().next_back().map(|(prefix, class)| (prefix.first, class)));
        cut.extend([(base + 1, 31), (base + 2, 30), (base + 4, 32), (base + 5, 30)]);
        cut.extend(lens().rev().map(|(prefix, class)| (prefix.last() + 1, class - 1)));
        for others in [&[1, 2, 1 << 60, 1 << 90][..], &[1, 2, 1 << 90]] {
            assert!(check(&cut, others, false).is_ok_and(|is_made| is_made));
        }
        let rows = of_cut(&cut).map_or(Vec::new(), |prefixes| prefixes.rows);
        // Two hosts in 31 prefixes, of which a row holds three: what holds both hosts is kept once.
        let more = rows.iter().filter(|row| row.prefixes[Row::PREFIXES - 1] & Row::MORE != 0);
        assert!((8..=14).contains(&more.count()) && rows.len() < 16, "{rows:x?}");
    }
    #[test]
    fn thousands_of_ranges_that_are_no_prefixes_are_refused() {
        // Of each /108 what no few prefixes are; 32 bits tell all of them apart.
        let cut = |ranges: u128| {
            let base = 0x2001_0db8_u128 << 96;
            let bounds = |n: u128| [(base | n << 20 | 0x5_5555, 1), (base | n << 20 | 0xa_aaab, 0)];
            [(0, 0)].into_iter().chain((0..ranges).flat_map(bounds)).collect::<Vec<_>>()
        };
        for others in [&[1, 1 << 15][..], &[1 << 16]] {
            assert!(check(&cut(64), others, false).is_ok_and(|is_made| is_made));
        }
        assert!(of_cut(&cut(4096)).is_none());
    }
}
