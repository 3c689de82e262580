//! Which places of the lists are free, and when edits have made them so large or so full that the
//! policy is better compiled as a whole.

use super::lists::Compiler;
use super::map::Places;
use crate::classifier::Classifier;

/// Rules, and bytes of tables, that are too few to be worth compiling a policy as a whole for.
const FEW_RULES: usize = 64;
const SMALL_BYTES: u128 = 1 << 14;

/// The places in the classifier's tables.
#[derive(Debug, Default)]
pub(super) struct ListPlaces {
    pub(super) lines: Places,
    pub(super) keys: [Places; 2],
    pub(super) overflow: Places,
    /// Entries of the table of pairs.
    pub(super) entries: usize,
    /// Marks that are set there, which edits never take back, and how many the compilation set.
    pub(super) marks: usize,
    pub(super) marks_planned: usize,
    /// Rules both of whose sides are wide that the plan was made for.
    pub(super) wide_planned: usize,
}

/// Tables without a free entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compact {
    bytes: usize,
    rules: usize,
}

impl Compact {
    /// Those of a policy that was just compiled.
    pub(super) fn of(out: &Classifier, rules: usize) -> Self {
        Self { bytes: grown_bytes(out), rules }
    }
}

/// Bytes of the tables that edits change place by place. Those of IPv6 addresses are made anew.
fn grown_bytes(out: &Classifier) -> usize {
    out.tables_bytes() - out.src.map.bytes6() - out.dst.map.bytes6()
}

impl Compiler {
    /// Whether the table of pairs has become too small, its marks or the rules with two wide sides
    /// too many.
    pub(super) fn is_crowded(&self) -> bool {
        let marks = self.out.pairs.marks.len() * u32::BITS as usize;
        if self.places.marks > (marks / 4).max(2 * self.places.marks_planned) {
            return true;
        }
        self.places.entries > 3 * self.out.pairs.homes as usize + 64
            || self.wide_rules.len() > 2 * self.places.wide_planned + 1024
    }

    /// Whether edits have left the tables a fifth larger than so many rules need by the last whole
    /// compilation: entries that are given back are taken again, but where the shapes of lists drift
    /// they pile up.
    pub(super) fn is_overgrown(&self, rules: usize) -> bool {
        let Compact { bytes, rules: planned } = self.compact;
        let rules = (rules + FEW_RULES) as u128;
        let needed = bytes as u128 * rules / (planned + FEW_RULES) as u128;
        grown_bytes(&self.out) as u128 > needed * 6 / 5 + SMALL_BYTES
    }
}
