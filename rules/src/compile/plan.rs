//! Which parts are wide, which get keys of their own, and which are listed by class.
//!
//! Each of a few pairs of thresholds on the number of classes that a part holds is tried on paper:
//! what it would cost is known from the sizes of the parts alone. The cheapest is taken.

use super::side::{Kind, Side, Treatment};

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
}

impl Plan {
    /// The cheapest plan.
    pub(super) fn of(src: &Side, dst: &Side, alternatives: &[Alternative]) -> Self {
        let largest = src.classes.all.len().max(dst.classes.all.len());
        let mut plans = Vec::new();
        for by_class in [1, 4, 16, 64] {
            for by_key in [by_class, largest / 64, largest / 8] {
                if by_key >= by_class {
                    plans.push(Self { by_class, by_key });
                }
            }
        }
        let cost = |plan: &Self| plan.cost(src, dst, alternatives);
        let costs = plans.into_iter().map(|plan| (cost(&plan), plan));
        costs.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(Self { by_class: 16, by_key: 16 }, |c| c.1)
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

    /// The cost of a lookup, roughly in nanoseconds.
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
        let row_bytes =
            (wide_parts(&src_widths) * src_classes + wide_parts(&dst_widths) * dst_classes) / 8.0;
        let bytes = pairs * 43.0 + (src_lists + dst_lists) * 13.0 + row_bytes;
        let many = if src_keys.max(dst_keys) > 1.01 { 5.0 } else { 0.0 };
        2.0 * src_keys * dst_keys + many + 1.5 * list + wide / 64.0 + bytes / f64::from(1 << 20)
    }
}
