//! Which parts are wide, which get keys of their own, and which are listed by class.
//!
//! Each of a few pairs of thresholds on the number of classes that a part holds is tried on paper:
//! what it would cost is known from the sizes of the parts alone. The cheapest is taken.

use super::side::{Kind, Side, Treatment};

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
}

impl Plan {
    /// The cheapest plan.
    pub(super) fn of(src: &Side, dst: &Side, alternatives: &[Alternative]) -> Self {
        let largest = src.classes.all.len().max(dst.classes.all.len());
        let mut plans = Vec::new();
        for by_class in [0, 1, 4, 16, 64] {
            for by_key in [by_class, largest / 64, largest / 8] {
                if by_key >= by_class {
                    plans.push(Self { by_class, by_key, crossed: true });
                }
            }
        }
        let cost = |plan: &Self| plan.cost(src, dst, alternatives);
        let costs = plans.into_iter().map(|plan| (cost(&plan), plan));
        let none = Self { by_class: 16, by_key: 16, crossed: true };
        costs.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(none, |c| c.1)
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

    /// The cost of a lookup, roughly in instructions.
    fn cost(self, src: &Side, dst: &Side, alternatives: &[Alternative]) -> f64 {
        let widths = |side: &Side| -> Vec<(Kind, usize)> {
            side.parts.iter().map(|part| (part.kind, part.classes.len())).collect()
        };
        let (src_widths, dst_widths) = (widths(src), widths(dst));
        let (mut pairs, mut src_lists, mut dst_lists, mut wide) = (0.0, 0.0, 0.0, 0.0);
        for alternative in alternatives {
            let s = src_widths[alternative.src as usize];
            let d = dst_widths[alternative.dst as usize];
            let entries = |(kind, classes)| match self.treatment(kind, classes) {
                Treatment::ByClass => classes as f64,
                _ => 1.0,
            };
            match (self.treatment(s.0, s.1).is_narrow(), self.treatment(d.0, d.1).is_narrow()) {
                (true, true) => pairs += entries(s) * entries(d),
                (true, false) => src_lists += s.1 as f64,
                (false, true) => dst_lists += d.1 as f64,
                (false, false) => wide += 1.0,
            }
        }
        let keys = |widths: &[(Kind, usize)], classes: usize| {
            let of = |treatment| {
                let with = widths.iter().filter(|&&(kind, w)| self.treatment(kind, w) == treatment);
                with.map(|&(_, w)| w).sum::<usize>() as f64 / classes.max(1) as f64
            };
            of(Treatment::ByClass).min(1.0) + of(Treatment::ByKey)
        };
        let wide_parts = |widths: &[(Kind, usize)]| {
            widths.iter().filter(|&&(kind, w)| !self.treatment(kind, w).is_narrow()).count() as f64
        };
        let (src_keys, dst_keys) =
            (keys(&src_widths, src.classes.all.len()), keys(&dst_widths, dst.classes.all.len()));
        let (src_classes, dst_classes) =
            (src.classes.all.len() as f64, dst.classes.all.len() as f64);
        let list = src_lists / src_classes + dst_lists / dst_classes;
        // Bits come in vectors of 256.
        let vectors = |bits: f64| (bits / 256.0).ceil();
        let row_bytes =
            |widths, classes| (vectors(wide_parts(widths)) + vectors(wide)) * 32.0 * classes;
        let row_bytes = row_bytes(&src_widths, src_classes) + row_bytes(&dst_widths, dst_classes);
        let bytes = pairs * 43.0 + (src_lists + dst_lists) * 13.0 + row_bytes;
        let of_pairs = match src_keys.max(dst_keys) {
            few if few <= 1.01 => 0.0,
            _ => MANY_KEYS + KEY_PAIR * src_keys * dst_keys,
        };
        let of_narrow = if pairs + list > 0.0 { NARROW + LISTED * list } else { 0.0 };
        let of_wide = if wide > 0.0 { WIDE + WIDE_VECTOR * vectors(wide) } else { 0.0 };
        of_pairs + of_narrow + of_wide + MEBIBYTE * bytes / f64::from(1 << 20)
    }
}
