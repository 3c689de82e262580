//! Wide rules in the order of their services.
//!
//! A frame's service leaves few of many wide rules. Where rules of one service stand side by side, a
//! lookup reads of the long rows of its sides only the words of those, a run for each service that
//! holds the frame. Where frames are in many services at once, or the rules are few, going through all
//! of them in deciding order is less work.

use super::rows::ones;
use super::wide::{WideBits, WideRule};
use crate::classifier::tables::{BLOCK_RULES, FEW_WORDS, Rows};

/// The runs of each service class.
pub(super) struct Runs {
    /// From the first rule's bit up to the one behind the last, of all classes one after the other;
    /// within a class in the order of their first rules.
    pub(super) all: Vec<[u32; 2]>,
    /// For each class where its runs begin, and how many there are.
    pub(super) of_classes: Vec<[u32; 2]>,
}

/// Runs cost about as much as two thirds of a block.
const MOST_RUNS_PER_BLOCKS: (usize, usize) = (3, 2);

/// Whether it pays to put rules in the order of their services first. `services` says which of so many
/// services hold each class.
pub(super) fn pay(rules: &[WideRule], services: &Rows, count: usize) -> bool {
    if rules.len().div_ceil(32) <= FEW_WORDS {
        return false;
    }
    let mut is_used = vec![false; count];
    rules.iter().for_each(|rule| is_used[rule.service as usize] = true);
    let runs = |class: &[u64]| ones(class).filter(|&service| is_used[service as usize]).count();
    let total: usize = classes(services).map(runs).sum();
    let (times, per) = MOST_RUNS_PER_BLOCKS;
    let blocks = rules.len().div_ceil(BLOCK_RULES);
    total * per <= classes(services).len() * blocks * times
}

/// For each class the services that hold it, as bits.
fn classes(services: &Rows) -> impl ExactSizeIterator<Item = &[u64]> {
    let rows = services.words.items().chunks_exact(services.stride.max(1));
    rows.map(|row| &row[..services.bits])
}

impl Runs {
    /// Those of rules in the order of their services.
    pub(super) fn of(rules: &WideBits, services: &Rows, count: usize) -> Self {
        let mut of_services = vec![None; count];
        for (bit, rule) in rules.iter() {
            let run = of_services[rule.service as usize].get_or_insert((rule.candidate, [bit; 2]));
            run.1[1] = bit + 1;
        }
        let mut runs = Self { all: Vec::new(), of_classes: Vec::new() };
        let mut of_class = Vec::new();
        for class in classes(services) {
            of_class.clear();
            of_class.extend(ones(class).filter_map(|service| of_services[service as usize]));
            of_class.sort_unstable();
            runs.of_classes.push([runs.all.len() as u32, of_class.len() as u32]);
            runs.all.extend(of_class.iter().map(|&(_, run)| run));
        }
        runs
    }
}
