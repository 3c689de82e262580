//! Lists to tables that say what decides: see [`crate::classifier::crossed`].

use std::collections::hash_map::Entry;

use super::budget::Budget;
use super::lists::{Compiler, DST, SRC};
use super::map::intervals_of_slot;
use super::mixer::ByNumbers;
use super::plan::Alternative;
use super::side::Class;
use crate::classifier::addresses::WordMap;
use crate::classifier::crossed::{
    BLOCK_SHIFT, Crossed, Decided, FlatMap, GENERAL, Grid, MOST_RULES, NO_RULE,
};
use crate::classifier::tables::{CHECKED, Rows};

/// Bytes that the tables may take: more would be read from beyond the second cache most of the time,
/// and lists are as fast then.
const MOST_BYTES: usize = 4 << 20;
/// Pairs of classes that are crossed at most.
const MOST_PAIRS: usize = 5 << 20;
/// Words of bits of all pairs, a bit for each rule, that are gone through: for more, the pairs are
/// written rule by rule.
const MOST_BITS: usize = 4 << 20;
/// Steps after which crossing is given up: about 20 ms.
const MOST_WORK: usize = 8 << 20;
/// Numbers in rows before equal blocks are shared.
const MOST_NUMBERS: usize = 8 << 20;
/// Numbers of a [`Grid`] without blocks, at most.
const MOST_PLAIN: usize = 1 << 18;
/// Parts of the other side with so many classes are put in rows that several classes share.
const SHARED_FROM: usize = 16;
/// Of the rows, what has to be compared exactly may be one in so many.
const GENERAL_SHARE: usize = 8;

/// Crosses out what was listed, if that takes little.
pub(super) fn build(
    compiler: &Compiler,
    alternatives: &[Alternative],
    budget: &mut Budget,
) -> Option<Crossed> {
    let [src, dst] = [SRC, DST].map(|side| compiler.sides[side].classes.all.len());
    let fits = src.checked_mul(dst).is_some_and(|pairs| pairs <= MOST_PAIRS)
        && src.max(dst) < usize::from(FlatMap::TABLE)
        && compiler.policy.rules().len() <= MOST_RULES;
    let rows = &compiler.out.services.rows;
    let service_words = (rows.words.len() / rows.stride.max(1)).div_ceil(64);
    let services = compiler.policy.services().len();
    let fits = fits && service_words.saturating_mul(services) <= MOST_BITS;
    let has_macs = !compiler.out.src.macs.is_empty() || !compiler.out.dst.macs.is_empty();
    if !fits || has_macs {
        return None;
    }
    let mut lists = Lists::new(compiler, alternatives);
    let words = lists.order.len().div_ceil(64);
    let pairs = match (src * dst).saturating_mul(words) <= MOST_BITS {
        true => pairs_of_few(compiler, alternatives, &mut lists)?,
        false => pairs_of_many(compiler, alternatives, &mut lists)?,
    };
    let (pairs, rules) = lists.rows_of(pairs)?;
    let maps = [flat_map(&compiler.out.src.map.v4)?, flat_map(&compiler.out.dst.map.v4)?];
    let decided = Decided::ByService(grid(&rules, lists.classes)?);
    let crossed = Crossed { maps, pairs: grid(&pairs, dst)?, decided };
    let size_bytes = crossed.size_bytes();
    // They have to fit, but edits, whose account goes on from this one, have them no more.
    let is_granted = budget.spend(lists.work, size_bytes).is_ok();
    budget.release(size_bytes);
    let fits = is_granted && size_bytes <= MOST_BYTES;
    fits.then_some(crossed)
}

/// For each source class a row of the lists of its pairs with the destination classes: what both
/// hold, bit by bit.
fn pairs_of_few(
    compiler: &Compiler,
    alternatives: &[Alternative],
    lists: &mut Lists,
) -> Option<Vec<u16>> {
    let words = lists.order.len().div_ceil(64);
    let [src, dst] = [SRC, DST].map(|side| {
        let mut rules_of = vec![Vec::new(); compiler.sides[side].parts.len()];
        for (place, &(_, alternative)) in lists.order.iter().enumerate() {
            let Alternative { src, dst, .. } = alternatives[alternative as usize];
            rules_of[if side == SRC { src } else { dst } as usize].push(place);
        }
        let of_class = |class: &Class| {
            let mut bits = vec![0u64; words];
            for &place in class.parts.iter().flat_map(|&part| &rules_of[part as usize]) {
                bits[place / 64] |= 1 << (place % 64);
            }
            bits
        };
        compiler.sides[side].classes.all.iter().map(of_class).collect::<Vec<_>>()
    });
    let used = compiler.service_uses.iter().filter(|&&uses| uses > 0).count();
    let holds = used.saturating_mul(used).saturating_mul(lists.everything.len());
    lists.work = lists.work.saturating_add(holds).saturating_add(used.saturating_mul(words));
    if lists.work > MOST_WORK {
        return None;
    }
    let covered = lists.covered(compiler.policy.services().len(), words);
    let mut ids: ByNumbers<Box<[u64]>, u16> = ByNumbers::default();
    let mut pairs = Vec::with_capacity(src.len() * dst.len());
    let (mut last, mut list) = (vec![0u64; words], 0);
    let mut both = vec![0u64; words];
    for src in &src {
        for dst in &dst {
            both.iter_mut().zip(src).zip(dst).for_each(|((both, src), dst)| *both = src & dst);
            if both != last {
                list = match ids.get(&*both) {
                    Some(&id) => id,
                    None => {
                        let (mut left, mut steps) = (both.clone(), 0);
                        let list = lists.pruned(std::iter::from_fn(|| {
                            steps += 1;
                            lists.next_place(&covered, &mut left)
                        }));
                        lists.work += steps * (words / 2 + 1);
                        let id = lists.id(list)?;
                        ids.insert(both.clone().into(), id);
                        id
                    }
                };
                last.copy_from_slice(&both);
            }
            pairs.push(list);
        }
        lists.work += dst.len() * words / 8;
    }
    Some(pairs)
}

/// The same, rule by rule.
fn pairs_of_many(
    compiler: &Compiler,
    alternatives: &[Alternative],
    lists: &mut Lists,
) -> Option<Vec<u16>> {
    let dst_classes = compiler.sides[DST].classes.all.len();
    let mut classes_of = vec![Vec::new(); compiler.sides[DST].parts.len()];
    for (class, of_class) in (0u16..).zip(&compiler.sides[DST].classes.all) {
        of_class.parts.iter().for_each(|&part| classes_of[part as usize].push(class));
    }
    let mut rules_of = vec![Vec::new(); compiler.sides[SRC].parts.len()];
    let mut dst_of = Vec::with_capacity(lists.order.len());
    for (place, &(_, alternative)) in (0u32..).zip(&lists.order) {
        let Alternative { src, dst, .. } = alternatives[alternative as usize];
        rules_of[src as usize].push(place);
        dst_of.push(dst);
    }
    let classes = |place: u32| &*classes_of[dst_of[place as usize] as usize];
    // Most rules that have a wide other side are shared by many classes of this one.
    let mut shared_rows: ByNumbers<Vec<u32>, Vec<u16>> = ByNumbers::default();
    let mut pairs = Vec::with_capacity(compiler.sides[SRC].classes.all.len() * dst_classes);
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for class in &compiler.sides[SRC].classes.all {
        shared.clear();
        own.clear();
        for &place in class.parts.iter().flat_map(|&part| &rules_of[part as usize]) {
            let is_shared = classes(place).len() >= SHARED_FROM;
            if is_shared { &mut shared } else { &mut own }.push(place);
        }
        shared.sort_unstable();
        own.sort_unstable();
        let first = pairs.len();
        match shared_rows.get(&shared) {
            Some(row) => pairs.extend_from_slice(row),
            None => {
                let mut row = vec![0; dst_classes];
                for &place in &shared {
                    lists.add(&mut row, place, classes(place))?;
                }
                pairs.extend_from_slice(&row);
                shared_rows.insert(shared.clone(), row);
            }
        }
        for &place in &own {
            lists.add(&mut pairs[first..], place, classes(place))?;
        }
        lists.work += dst_classes / 4;
    }
    Some(pairs)
}

/// Lists of what may decide, in deciding order. List 0 is empty.
struct Lists {
    /// All alternatives in deciding order: their candidates, and their places among all.
    order: Vec<(u64, u32)>,
    /// Service classes, and for each service those that it holds, as bits.
    classes: usize,
    services: Vec<Vec<u64>>,
    /// All service classes.
    everything: Vec<u64>,
    /// The service of each alternative in order.
    service_of: Vec<u32>,
    /// Places in `order`, ascending.
    all: Vec<Box<[u32]>>,
    ids: ByNumbers<Box<[u32]>, u16>,
    /// A list and a place, to the list with that.
    with: ByNumbers<u64, u16>,
    work: usize,
}

impl Lists {
    fn new(compiler: &Compiler, alternatives: &[Alternative]) -> Self {
        let policy = &compiler.policy;
        let mut order: Vec<(u64, u32)> = (0u32..)
            .zip(alternatives)
            .map(|(place, alternative)| (compiler.candidate(policy, alternative), place))
            .collect();
        order.sort_unstable();
        let service_of = |&(candidate, _): &(u64, u32)| {
            policy.rules()[(candidate as u32 & !CHECKED) as usize].service.0
        };
        let service_of = order.iter().map(service_of).collect();
        let rows = &compiler.out.services.rows;
        let (services, classes) = classes_of_services(rows, policy.services().len());
        let mut everything = vec![0; classes.div_ceil(64)];
        (0..classes).for_each(|class| everything[class / 64] |= 1 << (class % 64));
        let mut lists = Self {
            order,
            classes,
            services,
            everything,
            service_of,
            all: vec![Box::default()],
            ids: ByNumbers::default(),
            with: ByNumbers::default(),
            work: 0,
        };
        lists.ids.insert(Box::default(), 0);
        lists
    }

    /// For each service the places of those that it covers, itself among them: what comes behind it
    /// in a list decides nothing there.
    fn covered(&self, services: usize, words: usize) -> Vec<Vec<u64>> {
        let mut places = vec![Vec::new(); services];
        for (place, &service) in self.service_of.iter().enumerate() {
            let of_service = &mut places[service as usize];
            of_service.resize(words, 0u64);
            of_service[place / 64] |= 1 << (place % 64);
        }
        let mut covered = vec![Vec::new(); services];
        for (service, covered) in covered.iter_mut().enumerate() {
            if places[service].is_empty() {
                continue;
            }
            covered.resize(words, 0);
            let holds = &self.services[service];
            for (other, places) in places.iter().enumerate().filter(|(_, all)| !all.is_empty()) {
                let of_other = self.services[other].iter();
                if of_other.zip(holds).all(|(other, holds)| other & !holds == 0) {
                    or(covered, places);
                }
            }
        }
        covered
    }

    /// Takes the first place, and those that it covers.
    fn next_place(&self, covered: &[Vec<u64>], left: &mut [u64]) -> Option<u32> {
        let place = ones(left).next()?;
        if self.is_checked(place as u32) {
            left[place / 64] &= !(1 << (place % 64));
        } else {
            let covered = &covered[self.service_of[place] as usize];
            left.iter_mut().zip(covered).for_each(|(left, covered)| *left &= !covered);
        }
        Some(place as u32)
    }

    /// Adds an alternative to those lists of a row that are of its classes.
    fn add(&mut self, row: &mut [u16], place: u32, classes: &[u16]) -> Option<()> {
        // Neighbours are alike.
        let mut last = None;
        for &class in classes {
            let list = &mut row[usize::from(class)];
            *list = match last {
                Some((old, with)) if old == *list => with,
                _ => {
                    let with = self.with(*list, place)?;
                    last = Some((*list, with));
                    with
                }
            };
        }
        self.work += classes.len() / 4;
        (self.work <= MOST_WORK).then_some(())
    }

    /// The list with one more. None once it has taken too much.
    fn with(&mut self, list: u16, place: u32) -> Option<u16> {
        let key = u64::from(list) << 32 | u64::from(place);
        self.work += 1;
        if let Some(&with) = self.with.get(&key) {
            return Some(with);
        }
        let old = &self.all[usize::from(list)];
        let id = match old.binary_search(&place) {
            Ok(_) => list,
            Err(at) => {
                let places = old[..at].iter().chain([&place]).chain(&old[at..]);
                self.id(self.pruned(places.copied()))?
            }
        };
        self.with.insert(key, id);
        Some(id)
    }

    /// The number of a list. None once the work has become too much.
    fn id(&mut self, list: Box<[u32]>) -> Option<u16> {
        self.work += 16 + list.len() * (1 + self.classes / 64);
        if let Some(&id) = self.ids.get(&*list) {
            return Some(id);
        }
        let id = u16::try_from(self.all.len()).ok().filter(|&id| id < u16::MAX)?;
        self.all.push(list.clone());
        self.ids.insert(list, id);
        self.work += self.classes / 4;
        (self.work <= MOST_WORK).then_some(id)
    }

    /// Of places in deciding order those that may decide.
    fn pruned(&self, places: impl Iterator<Item = u32>) -> Box<[u32]> {
        let mut decided = vec![0u64; self.classes.div_ceil(64)];
        let mut pruned = Vec::new();
        for place in places {
            let services = &self.services[self.service_of[place as usize] as usize];
            if services.iter().zip(&decided).all(|(service, decided)| service & !decided == 0) {
                continue;
            }
            pruned.push(place);
            if !self.is_checked(place) {
                or(&mut decided, services);
                if decided == self.everything {
                    break;
                }
            }
        }
        pruned.into()
    }

    fn is_checked(&self, place: u32) -> bool {
        self.order[place as usize].0 as u32 & CHECKED != 0
    }

    /// Pairs with lists to pairs with rows, and for each row what decides, by service class. None
    /// where too much has to be compared.
    fn rows_of(&self, mut pairs: Vec<u16>) -> Option<(Vec<u16>, Vec<u16>)> {
        const UNUSED: u16 = u16::MAX;
        let (mut row_of, mut used) = (vec![UNUSED; self.all.len()], Vec::new());
        for pair in &mut pairs {
            let row = &mut row_of[usize::from(*pair)];
            if *row == UNUSED {
                *row = used.len() as u16;
                used.push(&self.all[usize::from(*pair)]);
            }
            *pair = *row;
        }
        if used.len().saturating_mul(self.classes) > MOST_NUMBERS {
            return None;
        }
        let mut rows = vec![NO_RULE; used.len() * self.classes];
        for (row, list) in rows.chunks_exact_mut(self.classes).zip(used) {
            for &place in list.iter().rev() {
                let rule = match self.is_checked(place) {
                    true => GENERAL,
                    false => self.order[place as usize].0 as u16,
                };
                let services = &self.services[self.service_of[place as usize] as usize];
                for (word, &bits) in services.iter().enumerate() {
                    let of_word = &mut row[word * 64..];
                    if bits == u64::MAX {
                        of_word[..64].fill(rule);
                    } else {
                        ones(&[bits]).for_each(|class| of_word[class] = rule);
                    }
                }
            }
        }
        let general = rows.iter().filter(|&&rule| rule == GENERAL).count();
        (general <= rows.len() / GENERAL_SHARE).then_some((pairs, rows))
    }
}

/// For each service the classes that it holds, as bits, and how many classes there are.
pub(super) fn classes_of_services(rows: &Rows, services: usize) -> (Vec<Vec<u64>>, usize) {
    let classes = rows.words.len() / rows.stride.max(1);
    let mut of_services = vec![vec![0u64; classes.div_ceil(64)]; services];
    for (class, row) in rows.words.items().chunks_exact(rows.stride.max(1)).enumerate() {
        for service in ones(&row[..rows.bits]) {
            of_services[service][class / 64] |= 1 << (class % 64);
        }
    }
    (of_services, classes)
}

fn or(words: &mut [u64], others: &[u64]) {
    words.iter_mut().zip(others).for_each(|(word, other)| *word |= other);
}

/// The bits that are set.
fn ones(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(word, &bits)| {
        let mut bits = bits;
        std::iter::from_fn(move || {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
            (bit < 64).then_some(64 * word + bit)
        })
    })
}

/// Numbers in rows of `columns`, in blocks of which equal ones are shared if there are many.
pub(super) fn grid(numbers: &[u16], columns: usize) -> Option<Grid> {
    if numbers.len() <= MOST_PLAIN {
        let mut numbers = numbers.to_vec();
        numbers.push(0);
        return Some(Grid { blocks: Vec::new(), pitch: columns as u32, numbers });
    }
    const BLOCK: usize = 1 << BLOCK_SHIFT;
    let mut ids: ByNumbers<[u64; BLOCK / 4], u16> = ByNumbers::default();
    let mut grid = Grid {
        blocks: Vec::with_capacity(numbers.len() / BLOCK * 5 / 4 + 1),
        pitch: columns.div_ceil(BLOCK) as u32,
        numbers: Vec::new(),
    };
    for first in (0..numbers.len()).step_by(columns) {
        for start in (first..first + columns).step_by(BLOCK) {
            let block = &numbers[start..(start + BLOCK).min(first + columns)];
            // Neighbours are alike.
            let above = start.checked_sub(columns).map(|above| &numbers[above..][..block.len()]);
            if above == Some(block) {
                grid.blocks.push(grid.blocks[grid.blocks.len() - grid.pitch as usize]);
                continue;
            }
            let mut filled = [block[block.len() - 1]; BLOCK];
            filled[..block.len()].copy_from_slice(block);
            let next = u16::try_from(ids.len());
            let id = match ids.entry(bytemuck::cast::<[u16; BLOCK], [u64; BLOCK / 4]>(filled)) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    grid.numbers.extend(filled);
                    *entry.insert(next.ok()?)
                }
            };
            grid.blocks.push(id);
        }
    }
    grid.blocks.push(0);
    grid.numbers.push(0);
    Some(grid)
}

/// Words in a plain trie, of which equal tables are shared. Their numbers are below
/// [`FlatMap::TABLE`].
pub(super) fn flat_map(map: &WordMap) -> Option<FlatMap> {
    let slots = map.slots.len();
    let mut flat = FlatMap { slots: Vec::with_capacity(slots + 1), tables: Vec::new(), steps: 1 };
    let mut ids: ByNumbers<Vec<u32>, u16> = ByNumbers::default();
    let (mut intervals, mut of_byte) = (Vec::new(), Vec::new());
    for slot in 0..slots as u32 {
        intervals_of_slot(map, slot, &mut intervals);
        if let [(_, class)] = *intervals {
            flat.slots.push(class as u16);
            continue;
        }
        // Where the number of a byte differs from the one before: the number, below the byte.
        let (mut at, mut of_slot) = (0, Vec::new());
        for byte in 0..=0xff_u32 {
            of_byte.clear();
            of_byte.push(intervals[at].1);
            while let Some(&(start, class)) =
                intervals.get(at + 1).filter(|next| u32::from(next.0) >> 8 <= byte)
            {
                at += 1;
                if start & 0xff == 0 {
                    of_byte.clear();
                }
                of_byte.push(u32::from(start & 0xff) << 16 | class);
            }
            let number = match *of_byte {
                [class] => class & 0xffff,
                _ => {
                    flat.steps = 3;
                    u32::from(table(&mut flat.tables, &mut ids, &of_byte)?)
                }
            };
            if of_slot.last().is_none_or(|last| last & 0xffff != number) {
                of_slot.push(byte << 16 | number);
            }
        }
        let table = table(&mut flat.tables, &mut ids, &of_slot)?;
        flat.steps = flat.steps.max(2);
        flat.slots.push(table);
    }
    flat.slots.push(0);
    flat.tables.push(0);
    Some(flat)
}

/// A table of numbers, each from a byte on.
fn table(
    tables: &mut Vec<u16>,
    ids: &mut ByNumbers<Vec<u32>, u16>,
    numbers: &[u32],
) -> Option<u16> {
    if let Some(&id) = ids.get(numbers) {
        return Some(id);
    }
    let id = u16::try_from(ids.len()).ok().filter(|&id| id < FlatMap::TABLE)? | FlatMap::TABLE;
    let first = tables.len();
    if first * 2 > MOST_BYTES {
        return None;
    }
    tables.resize(first + 256, 0);
    for (place, &number) in numbers.iter().enumerate() {
        let end = numbers.get(place + 1).map_or(256, |next| (next >> 16) as usize);
        tables[first..][(number >> 16) as usize..end].fill(number as u16);
    }
    ids.insert(numbers.into(), id);
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Limits, compile};
    use crate::policy::Policy;

    /// The steps of the sources that such sides of rules make.
    fn steps_of(sides: &[&str]) -> usize {
        let rule = |(number, side): (usize, &&str)| {
            format!(
                "  - {{name: r{number}, from: \"{side}\", to: any, service: any, action: allow}}\n"
            )
        };
        let rules: String = sides.iter().enumerate().map(rule).collect();
        let policy = format!("version: 1\ndefault: deny\nrules:\n{rules}");
        let classifier =
            compile(&Policy::parse(&policy).unwrap(), &Limits::default()).expect("a small policy");
        classifier.crossed.expect("a policy that is crossed out").maps[SRC].steps
    }

    #[test]
    fn addresses_take_no_more_steps_than_their_prefixes_need() {
        assert_eq!(steps_of(&["10.1.0.0/16"]), 1);
        assert_eq!(steps_of(&["10.1.2.0/24"]), 2);
        assert_eq!(steps_of(&["10.1.2.3"]), 3);
        assert_eq!(steps_of(&["10.1.2.3", "10.9.2.0/24", "10.10.0.0/16"]), 3);
    }
}
