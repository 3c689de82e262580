//! Which parts are wide, which get keys of their own, and which are listed by class.
//!
//! Each of a few pairs of thresholds on the number of classes that a part holds is tried on paper:
//! what it would cost is known from the sizes of the parts alone. The cheapest of those that fit the
//! memory is taken.

use super::lists::{PAIR_BYTES, mark_words_for};
use super::side::{Kind, Side, Treatment};
use crate::classifier::tables::{KEYS, Keys, Line, Record, row_words, wide_words};

/// Instructions of a lookup, counted by callgrind on the sets of `bench`: with any narrow rules, for
/// each that is listed with one narrow side, with classes of several keys, for each pair of those,
/// with any wide rules, and for each 256 of those. A mebibyte more costs as much time as some
/// instructions, by its cache misses.
const NARROW: f64 = 80.0;
const LISTED: f64 = 25.0;
const MANY_KEYS: f64 = 100.0;
const KEY_PAIR: f64 = 30.0;
const WIDE: f64 = 40.0;
const WIDE_VECTOR: f64 = 10.0;
const MEBIBYTE: f64 = 8.0;

/// A rule's part of the source and its part of the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Alternative {
    pub(super) rule: u32,
    pub(super) src: u32,
    pub(super) dst: u32,
}

/// Parts with up to `by_class` classes are listed by class, those with more but up to `by_key` by a
/// key of their own, and all others are wide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) by_class: usize,
    pub(super) by_key: usize,
    /// Whether the rules are crossed out as well where that takes little.
    pub(super) crossed: bool,
    /// Whether they are put in blocks instead where they can be.
    pub(super) blocks: bool,
}

impl Plan {
    /// One for a policy of nothing.
    pub(super) const NONE: Self = Self { by_class: 16, by_key: 16, crossed: true, blocks: true };

    /// The cheapest plan of those that surely take no more than `room` bytes, or, where there is none,
    /// the one that takes the least.
    pub(super) fn of(
        src: &Side,
        dst: &Side,
        alternatives: &[Alternative],
        services: usize,
        room: usize,
    ) -> Self {
        let largest = src.classes.all.len().max(dst.classes.all.len());
        let mut plans = Vec::new();
        for by_class in [0, 1, 4, 16, 64] {
            for by_key in [by_class, largest / 64, largest / 8] {
                if by_key >= by_class {
                    plans.push(Self { by_class, by_key, crossed: true, blocks: true });
                }
            }
        }
        let widths = Widths::new([src, dst], alternatives);
        let order = |plan: Self| {
            let sizes = plan.sizes(&widths);
            let bytes = sizes.bytes_at_most(services);
            // What does not fit comes behind all that does, by its size.
            if bytes <= room { (false, sizes.cost()) } else { (true, bytes as f64) }
        };
        let plans = plans.into_iter().map(|plan| (order(plan), plan));
        let least = plans.min_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        least.map_or(Self::NONE, |(_, plan)| plan)
    }

    /// What becomes of a part that holds so many classes; a wide one is numbered later.
    pub(super) fn treatment(self, kind: Kind, classes: usize) -> Treatment {
        match classes {
            few if few <= self.by_class => Treatment::ByClass,
            // Wide bits belong to the classes of addresses.
            some if some <= self.by_key || kind == Kind::Mac => Treatment::ByKey,
            _ => Treatment::Wide(0),
        }
    }

    /// The classes that edits may give a part before a new plan is needed.
    pub(super) fn most_classes(self, treatment: Treatment) -> usize {
        match treatment {
            Treatment::ByClass => self.by_class.max(64).saturating_mul(4),
            Treatment::ByKey => self.by_key.max(1 << 12).saturating_mul(4),
            Treatment::Wide(_) => usize::MAX,
        }
    }

    /// What there would be to list.
    fn sizes(self, widths: &Widths) -> Sizes {
        let mut sizes = Sizes::default();
        for &[s, d] in &widths.alternatives {
            let [src, dst] = [s, d].map(|(kind, classes)| self.treatment(kind, classes));
            let entries = |treatment, classes| match treatment {
                Treatment::ByClass => classes,
                _ => 1,
            };
            match (src.is_narrow(), dst.is_narrow()) {
                (true, true) => {
                    let pairs = entries(src, s.1).saturating_mul(entries(dst, d.1));
                    sizes.pairs = sizes.pairs.saturating_add(pairs);
                }
                (true, false) => sizes.sides[0].listed += s.1,
                (false, true) => sizes.sides[1].listed += d.1,
                (false, false) => sizes.wide_rules += 1,
            }
        }
        let sides = widths.parts.iter().zip(widths.classes);
        for (of_side, (parts, classes)) in sizes.sides.iter_mut().zip(sides) {
            of_side.classes = classes;
            for &(kind, width) in parts {
                match self.treatment(kind, width) {
                    Treatment::ByClass => of_side.in_classes += width,
                    Treatment::ByKey => of_side.in_keys += width,
                    Treatment::Wide(_) => of_side.wide_parts += 1,
                }
            }
        }
        sizes
    }
}

/// How many classes there are, of each side, and how many each part holds.
struct Widths {
    classes: [usize; 2],
    parts: [Vec<(Kind, usize)>; 2],
    /// Those of the parts of each alternative.
    alternatives: Vec<[(Kind, usize); 2]>,
}

impl Widths {
    fn new(sides: [&Side; 2], alternatives: &[Alternative]) -> Self {
        let parts = sides.map(|side| {
            side.parts.iter().map(|part| (part.kind, part.classes.len())).collect::<Vec<_>>()
        });
        let of_parts = |&Alternative { src, dst, .. }: &Alternative| {
            [parts[0][src as usize], parts[1][dst as usize]]
        };
        Self {
            classes: sides.map(|side| side.classes.all.len()),
            alternatives: alternatives.iter().map(of_parts).collect(),
            parts,
        }
    }
}

/// What a plan lists.
#[derive(Default)]
struct Sizes {
    pairs: usize,
    wide_rules: usize,
    sides: [SideSizes; 2],
}

#[derive(Default)]
struct SideSizes {
    classes: usize,
    /// Rules whose other side is wide, under each of their classes.
    listed: usize,
    wide_parts: usize,
    /// Classes that the parts listed by class hold, and those listed by key, together.
    in_classes: usize,
    in_keys: usize,
}

impl SideSizes {
    /// Keys of a class, on average.
    fn keys(&self) -> f64 {
        let of = |width: usize| width as f64 / self.classes.max(1) as f64;
        of(self.in_classes).min(1.0) + of(self.in_keys)
    }
}

impl Sizes {
    /// The cost of a lookup, roughly in instructions.
    fn cost(&self) -> f64 {
        // Bits come in vectors of 256.
        let vectors = |bits: usize| bits.div_ceil(256) as f64;
        let (wide, pairs) = (vectors(self.wide_rules), self.pairs as f64);
        let of_side = |side: &SideSizes| {
            let classes = side.classes as f64;
            (side.listed as f64 / classes, (vectors(side.wide_parts) + wide) * 32.0 * classes)
        };
        let [(src_list, src_bytes), (dst_list, dst_bytes)] = self.sides.each_ref().map(of_side);
        let [src_keys, dst_keys] = self.sides.each_ref().map(SideSizes::keys);
        let (list, listed) = (src_list + dst_list, self.sides[0].listed + self.sides[1].listed);
        let bytes = pairs * 43.0 + listed as f64 * 13.0 + src_bytes + dst_bytes;
        let of_pairs = match src_keys.max(dst_keys) {
            few if few <= 1.01 => 0.0,
            _ => MANY_KEYS + KEY_PAIR * src_keys * dst_keys,
        };
        let of_narrow = if pairs + list > 0.0 { NARROW + LISTED * list } else { 0.0 };
        let of_wide = if self.wide_rules > 0 { WIDE + WIDE_VECTOR * wide } else { 0.0 };
        of_pairs + of_narrow + of_wide + MEBIBYTE * bytes / f64::from(1 << 20)
    }

    /// Bytes that listing it takes, with rows for so many classes of services.
    fn bytes_at_most(&self, services: usize) -> usize {
        let of_side = |side: &SideSizes| {
            let [_, words] = row_words(side.wide_parts, self.wide_rules);
            let row = words * size_of::<u64>();
            // Of the rules of a class all but the first are in lines, two of them in one at worst,
            // and only its last block of keys is not full.
            let of_class = size_of::<Record>() + size_of::<Keys>() + row;
            let lines = side.listed.saturating_mul(size_of::<Line>() / 2);
            let keys = (side.in_keys + side.in_classes).div_ceil(KEYS) * size_of::<Keys>();
            side.classes.saturating_mul(of_class).saturating_add(lines + keys)
        };
        let [src, dst] = self.sides.each_ref().map(of_side);
        let pairs = self.pairs.saturating_mul(PAIR_BYTES);
        let marks = mark_words_for(self.pairs) * size_of::<u32>();
        let wide = wide_words(self.wide_rules);
        let services = services.saturating_mul(wide * size_of::<u64>());
        [src, dst, pairs, marks, services].into_iter().fold(0, usize::saturating_add)
    }
}
