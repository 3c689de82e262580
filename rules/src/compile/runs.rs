//! Wide rules in the order of their services.
//!
//! A frame's service leaves few of many wide rules. Where rules of one service stand side by side, a
//! lookup reads of the long rows of its sides only the words of those, a run for each service that
//! holds the frame. Where frames are in many services at once, or the rules are few, going through all
//! of them in deciding order is less work.

use super::rows::{WideRule, ones};
use crate::classifier::tables::{BLOCK_RULES, FEW_WORDS, Rows};

/// The runs of each service class.
pub(super) struct Runs {
    /// From the first rule up to the one behind the last, of all classes one after the other; within a
    /// class in the order of their first rules.
    pub(super) all: Vec<[u32; 2]>,
    /// For each class where its runs begin, and how many there are.
    pub(super) of_classes: Vec<[u32; 2]>,
}

/// Runs cost about as much as two thirds of a block.
const MOST_RUNS_PER_BLOCKS: (usize, usize) = (3, 2);

/// Puts rules, which are in deciding order, in that of their services first, if that pays. `services`
/// says which of so many services hold each class.
pub(super) fn by_service(rules: &mut [WideRule], services: &Rows, count: usize) -> Option<Runs> {
    if rules.len().div_ceil(32) <= FEW_WORDS {
        return None;
    }
    let mut is_used = vec![false; count];
    rules.iter().for_each(|rule| is_used[rule.service as usize] = true);
    let used = |class: &[u64]| {
        let services = ones(&class[..services.bits]);
        services.filter(|&service| is_used[service as usize]).collect::<Vec<u32>>()
    };
    let classes = || services.words.items().chunks_exact(services.stride.max(1));
    let total: usize = classes().map(|class| used(class).len()).sum();
    let (times, per) = MOST_RUNS_PER_BLOCKS;
    let blocks = rules.len().div_ceil(BLOCK_RULES);
    if total * per > classes().len() * blocks * times {
        return None;
    }
    // Stable: rules of one service stay in deciding order.
    rules.sort_by_key(|rule| rule.service);
    let mut of_services = vec![[0_u32; 2]; count];
    for (place, rule) in rules.iter().enumerate() {
        let run = &mut of_services[rule.service as usize];
        if run[1] == 0 {
            run[0] = place as u32;
        }
        run[1] = place as u32 + 1;
    }
    let mut runs = Runs { all: Vec::with_capacity(total), of_classes: Vec::new() };
    for class in classes() {
        let first = runs.all.len();
        runs.all.extend(used(class).iter().map(|&service| of_services[service as usize]));
        runs.all[first..].sort_unstable_by_key(|&[start, _]| rules[start as usize].candidate);
        runs.of_classes.push([first as u32, (runs.all.len() - first) as u32]);
    }
    Some(runs)
}
