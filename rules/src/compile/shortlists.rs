//! Rules to short lists: see [`crate::classifier::shortlists`].

use std::collections::HashMap;

use super::budget::Budget;
use super::cross::{classes_of_services, flat_map, grid};
use super::lists::{Compiler, DST, SRC};
use super::plan::Alternative;
use super::rows::ones;
use super::side::Side;
use crate::classifier::crossed::{Crossed, Decided, FlatMap, Grid};
use crate::classifier::shortlists::{
    FEW_SERVICES, GENERAL, IS_ANY, IS_LONG, LINK, NO_SERVICE, NUMBER, NUMBER_SHIFT, OF_CLASS,
    OF_PAIR, SERVICE_BITS, Shortlists,
};
use crate::classifier::tables::{CHECKED, NONE, Rows};
use crate::lanes::{Eight, LANES};
use crate::policy::RuleId;

/// Bytes that the tables may take: with more of them lists of classes are as fast.
const MOST_BYTES: usize = 8 << 20;
/// Pairs of classes that there may be, each a number of four bytes and one of two meanwhile.
const MOST_PAIRS: usize = 5 << 20;
const PAIR_BYTES: usize = 6;
/// Pairs that rules hold, each rule for itself, and lists that they lead through: about 20 ms.
const MOST_WORK: usize = 4 << 20;
const MOST_LISTS: usize = 1 << 18;
/// Words of bits that say which services hold which of their classes, and those that are compared to find out which
/// services cover which: a few milliseconds.
const MOST_BITS: usize = 4 << 20;
const MOST_COMPARED: usize = 32 << 20;
/// Rules of a list, which is read row by row.
const MOST_LISTED: usize = 4 * LANES;
/// Of all that is listed, what has to be compared exactly may be one in so many.
const GENERAL_SHARE: usize = 8;

/// Puts rules in short lists, if they are short.
pub(super) fn build(
    compiler: &Compiler,
    alternatives: &[Alternative],
    budget: &mut Budget,
) -> Option<Crossed> {
    // What is held until they are made.
    let service_bits = compiler.policy.services().len() * Order::service_words(compiler);
    let held = service_bits * size_of::<u64>()
        + alternatives.len() * size_of::<Listed>()
        + MOST_LISTS * size_of::<Node>();
    budget.spend(1, held).ok()?;
    let crossed = from_alternatives(compiler, alternatives, budget);
    budget.release(held);
    let crossed = crossed?;
    let size_bytes = crossed.size_bytes();
    // They have to fit, but edits, whose account goes on from this one, have them no more.
    let is_granted = budget.spend(1, size_bytes).is_ok();
    budget.release(size_bytes);
    (is_granted && size_bytes <= MOST_BYTES).then_some(crossed)
}

fn from_alternatives(
    compiler: &Compiler,
    alternatives: &[Alternative],
    budget: &mut Budget,
) -> Option<Crossed> {
    let order = Order::new(compiler, alternatives)?;
    budget.spend(order.named.len() + order.all.len(), 0).ok()?;
    let general = order.all.iter().filter(|listed| listed.is_checked()).count();
    if general > order.all.len() / GENERAL_SHARE {
        return None;
    }
    let crossed = from_order(compiler, &order, budget)?;
    let Decided::ByLists(lists) = &crossed.decided else { return Some(crossed) };
    // What most frames end at has to decide them: they would be looked up twice.
    let is_general =
        |&&word: &&u32| word != NONE && order.all[(word >> SERVICE_BITS) as usize].is_checked();
    let general = lists.any.iter().filter(is_general).count();
    (general <= lists.any.len() / GENERAL_SHARE).then_some(crossed)
}

fn from_order(compiler: &Compiler, order: &Order, budget: &mut Budget) -> Option<Crossed> {
    let [src, dst] = [&compiler.out.src.map.v4, &compiler.out.dst.map.v4];
    let maps = [flat_map(src)?, flat_map(dst)?];
    let [src, dst] = [SRC, DST].map(|side| Numbers::new(&compiler.sides[side], order, side));
    let pairs = src.count.checked_mul(dst.count).filter(|&pairs| pairs <= MOST_PAIRS)?;
    budget.spend(pairs / LANES, pairs * PAIR_BYTES).ok()?;
    let lists = Lists::new(order, &src, &dst, budget);
    budget.release(pairs * PAIR_BYTES);
    let (pairs, mut lists) = lists?;
    let classes = [
        lists.of_classes(&compiler.sides[SRC], &src, order, SRC, budget)?,
        lists.of_classes(&compiler.sides[DST], &dst, order, DST, budget)?,
    ];
    let rows = &compiler.out.services.rows;
    let (services, vectors) = order.services(rows);
    let rule = |listed: &Listed| match listed.is_checked() {
        true => GENERAL,
        false => listed.candidate as u32,
    };
    let shortlists = Shortlists {
        classes,
        rows: lists.rows,
        first_long: lists.first_long,
        services,
        vectors,
        any: order.any_by_class(rows),
        rules: order.all.iter().map(rule).chain([RuleId::DEFAULT.0]).collect(),
    };
    let decided = Decided::ByLists(Box::new(shortlists));
    Some(Crossed { maps, pairs, decided })
}

/// An alternative, with the number of its service among those that lists name.
struct Listed {
    candidate: u64,
    /// Its parts.
    sides: [u32; 2],
    service: u32,
    /// Whether its sides are any address.
    is_any: [bool; 2],
}

impl Listed {
    fn is_checked(&self) -> bool {
        self.candidate as u32 & CHECKED != 0
    }
}

/// All alternatives in deciding order.
struct Order {
    all: Vec<Listed>,
    any: [AnyAddress; 2],
    /// The services that lists name, and for each of them those of them that it covers.
    named: Vec<u32>,
    covers: Vec<ServiceBits>,
    /// For each service its classes, as bits.
    of_services: Vec<Vec<u64>>,
}

/// A bit for each service that lists name.
type ServiceBits = [u64; (NO_SERVICE as usize + 1) / 64];

impl Order {
    /// [`None`] where there is too much, or something to be found by MAC addresses.
    fn new(compiler: &Compiler, alternatives: &[Alternative]) -> Option<Self> {
        let has_macs = !compiler.out.src.macs.is_empty() || !compiler.out.dst.macs.is_empty();
        let classes = compiler.sides.each_ref().map(|side| side.classes.all.len());
        let is_small = classes.iter().all(|&classes| classes < usize::from(FlatMap::TABLE));
        let policy = &compiler.policy;
        let rows = &compiler.out.services.rows;
        let service_words = Self::service_words(compiler);
        let service_bits = service_words.saturating_mul(policy.services().len());
        if has_macs || !is_small || alternatives.len() > MOST_LISTS || service_bits > MOST_BITS {
            return None;
        }
        let any = compiler.sides.each_ref().map(AnyAddress::of);
        let listed = |alternative: &Alternative| {
            let sides = [alternative.src, alternative.dst];
            let is_any = [SRC, DST].map(|side| any[side].parts[sides[side] as usize]);
            let service = policy.rules()[alternative.rule as usize].service.0;
            Listed { candidate: compiler.candidate(policy, alternative), sides, service, is_any }
        };
        let mut all: Vec<Listed> = alternatives.iter().map(listed).collect();
        all.sort_by_key(|listed| listed.candidate);
        let services = policy.services().len();
        let (of_services, _) = classes_of_services(rows, services);
        let (mut numbers, mut named) = (vec![NO_SERVICE; services], Vec::new());
        for listed in all.iter_mut().filter(|listed| listed.is_any != [true; 2]) {
            let number = &mut numbers[listed.service as usize];
            if *number == NO_SERVICE {
                *number = named.len() as u32;
                named.push(listed.service);
            }
            listed.service = *number;
        }
        if named.len() > NO_SERVICE as usize
            || named.len() * named.len() * service_words > MOST_COMPARED
        {
            return None;
        }
        let covers = named.iter().map(|&service| {
            let holds = &of_services[service as usize];
            let mut covers = ServiceBits::default();
            for (number, &other) in named.iter().enumerate() {
                let mut words = of_services[other as usize].iter().zip(holds);
                let is_covered = words.all(|(other, holds)| other & !holds == 0);
                covers[number / 64] |= u64::from(is_covered) << (number % 64);
            }
            covers
        });
        let covers = covers.collect();
        Some(Self { all, any, named, covers, of_services })
    }

    /// Words of a bit for each service class.
    fn service_words(compiler: &Compiler) -> usize {
        let rows = &compiler.out.services.rows;
        (rows.words.len() / rows.stride.max(1)).div_ceil(64)
    }

    /// The words of what may decide among `places`, which ascend; [`None`] where that is too much.
    fn words(&self, places: impl Iterator<Item = u32>) -> Option<Vec<u32>> {
        let mut covered = ServiceBits::default();
        let mut words = Vec::new();
        for place in places {
            let listed = &self.all[place as usize];
            let number = listed.service as usize;
            if covered[number / 64] >> (number % 64) & 1 != 0 {
                continue;
            }
            words.push(place << SERVICE_BITS | listed.service);
            if !listed.is_checked() {
                covered.iter_mut().zip(self.covers[number]).for_each(|(all, own)| *all |= own);
            }
        }
        (words.len() <= MOST_LISTED).then_some(words)
    }

    /// For each service class the bits of the services that hold it, and how many vectors that takes.
    fn services(&self, rows: &Rows) -> (Vec<Eight>, usize) {
        let classes = rows.words.len() / rows.stride.max(1);
        let vectors = if self.named.len() <= FEW_SERVICES { 1 } else { 2 };
        let mut bits = vec![[0u32; LANES]; classes * vectors];
        for (number, &service) in self.named.iter().enumerate() {
            for class in ones(&self.of_services[service as usize]) {
                let words = bits[class as usize * vectors..][..vectors].as_flattened_mut();
                words[number / 32] |= 1 << (number % 32);
            }
        }
        (bits, vectors)
    }

    /// For each service class the first of any source and any destination.
    fn any_by_class(&self, rows: &Rows) -> Vec<u32> {
        let classes = rows.words.len() / rows.stride.max(1);
        let mut first = vec![NONE; classes];
        let mut left = vec![u64::MAX; classes.div_ceil(64)];
        let mut is_met = vec![false; self.of_services.len()];
        // Each service, and each of its classes, is met once.
        for (place, listed) in (0u32..).zip(&self.all).filter(|(_, of)| of.is_any == [true; 2]) {
            if std::mem::replace(&mut is_met[listed.service as usize], true) {
                continue;
            }
            let words = left.iter_mut().zip(&self.of_services[listed.service as usize]);
            for (word, (left, holds)) in words.enumerate() {
                let new = [*left & holds];
                *left &= !holds;
                ones(&new).for_each(|bit| first[word * 64 + bit as usize] = place << SERVICE_BITS);
            }
        }
        first
    }
}

/// What any address is on one side: whatever the widest part holds, if that is most of it.
struct AnyAddress {
    /// Which parts hold just that.
    parts: Vec<bool>,
    /// Which classes are in it.
    classes: Vec<bool>,
}

impl AnyAddress {
    fn of(side: &Side) -> Self {
        let all = &side.classes.all;
        let count = |classes: &mut dyn Iterator<Item = usize>| {
            let mut counts = vec![0usize; side.parts.len()];
            let parts = classes.flat_map(|class| all[class].parts.iter());
            parts.for_each(|&part| counts[part as usize] += 1);
            counts
        };
        let counts = count(&mut (0..all.len()));
        let widest = (0..counts.len()).max_by_key(|&part| counts[part]);
        let widest = widest.filter(|&part| 2 * counts[part] > all.len());
        let holds = |part: usize, class: usize| all[class].parts.contains(&(part as u32));
        let is_in = |class: usize| widest.is_some_and(|part| holds(part, class));
        let classes: Vec<bool> = (0..all.len()).map(is_in).collect();
        let shared = count(&mut (0..all.len()).filter(|&class| classes[class]));
        let most = widest.map_or(0, |part| counts[part]);
        let is_any = |(&count, shared)| most > 0 && count == most && shared == most;
        Self { parts: counts.iter().zip(shared).map(is_any).collect(), classes }
    }
}

/// The classes of a side as far as rules of two sides tell them apart.
struct Numbers {
    of_classes: Vec<u32>,
    of_parts: Vec<Vec<u32>>,
    count: usize,
}

impl Numbers {
    fn new(side: &Side, order: &Order, number: usize) -> Self {
        let mut is_paired = vec![false; side.parts.len()];
        for listed in order.all.iter().filter(|listed| listed.is_any == [false; 2]) {
            is_paired[listed.sides[number] as usize] = true;
        }
        let mut ids = HashMap::<Vec<u32>, u32>::from([(Vec::new(), 0)]);
        let mut of_parts = vec![Vec::new(); side.parts.len()];
        let of_class = |parts: &[u32]| {
            let parts = parts.iter().copied().filter(|&part| is_paired[part as usize]);
            let next = ids.len() as u32;
            *ids.entry(parts.collect()).or_insert_with_key(|parts| {
                parts.iter().for_each(|&part| of_parts[part as usize].push(next));
                next
            })
        };
        let all = side.classes.all.iter();
        let of_classes = all.map(|class| &*class.parts).map(of_class).collect();
        Self { of_classes, of_parts, count: ids.len() }
    }
}

/// A list while it is being made: another one and what comes behind it.
struct Node {
    before: u32,
    place: u32,
    /// Pairs that have this list.
    pairs: u32,
    /// The place that was added last to pairs of this list, and the list that they have since.
    next: (u32, u32),
}

/// Rows of lists.
struct Lists {
    rows: Vec<Eight>,
    first_long: u32,
}

impl Lists {
    /// The lists of pairs, and which pair has which.
    fn new(
        order: &Order,
        src: &Numbers,
        dst: &Numbers,
        budget: &mut Budget,
    ) -> Option<(Grid, Self)> {
        let (cells, nodes) = cross(order, src, dst, budget)?;
        let mut ids = HashMap::<Vec<u32>, u32>::from([(Vec::new(), 0)]);
        let mut all = vec![Vec::new()];
        let (mut of_nodes, mut places) = (vec![0; nodes.len()], Vec::new());
        for (of_node, mut node) in of_nodes.iter_mut().zip(&nodes).filter(|(_, of)| of.pairs > 0) {
            places.clear();
            while node.place != NONE {
                places.push(node.place);
                node = &nodes[node.before as usize];
            }
            let list = order.words(places.iter().rev().copied())?;
            *of_node = *ids.entry(list).or_insert_with_key(|list| {
                all.push(list.clone());
                all.len() as u32 - 1
            });
            if all.len() > usize::from(u16::MAX) {
                return None;
            }
        }
        // Those of more than one row come last.
        let mut ascending: Vec<u32> = (0..all.len() as u32).collect();
        ascending.sort_by_key(|&list| all[list as usize].len() > OF_PAIR);
        let mut row_of = vec![0; all.len()];
        (0u16..).zip(&ascending).for_each(|(row, &list)| row_of[list as usize] = row);
        let first_long = ascending.partition_point(|&list| all[list as usize].len() <= OF_PAIR);
        let rows = vec![[NONE; LANES]; all.len()];
        let mut lists = Self { rows, first_long: first_long as u32 };
        for (row, &list) in ascending.iter().enumerate() {
            lists.rows[row] = lists.row(&all[list as usize], OF_PAIR);
        }
        let row_of: Vec<u16> = of_nodes.iter().map(|&list| row_of[list as usize]).collect();
        let pairs: Vec<u16> = cells.iter().map(|&node| row_of[node as usize]).collect();
        Some((grid(&pairs, dst.count)?, lists))
    }

    /// A row of the first few words, with those of all others behind it.
    fn row(&mut self, words: &[u32], held: usize) -> Eight {
        let (here, behind) = words.split_at(words.len().min(held));
        let mut row = [NONE; LANES];
        row[..here.len()].copy_from_slice(here);
        if !behind.is_empty() {
            let next = self.row(behind, OF_PAIR);
            row[LINK] = (self.rows.len() as u32) << SERVICE_BITS | NO_SERVICE;
            self.rows.push(next);
        }
        row
    }

    /// The rows of the classes of one side: the rules whose other side is any address.
    fn of_classes(
        &mut self,
        side: &Side,
        numbers: &Numbers,
        order: &Order,
        number: usize,
        budget: &mut Budget,
    ) -> Option<Vec<Eight>> {
        let mut of_parts = vec![Vec::new(); side.parts.len()];
        for (place, listed) in (0u32..).zip(&order.all) {
            if !listed.is_any[number] && listed.is_any[1 - number] {
                of_parts[listed.sides[number] as usize].push(place);
            }
        }
        let parts = side.classes.all.iter().flat_map(|class| class.parts.iter());
        let work: usize = parts.map(|&part| of_parts[part as usize].len()).sum();
        if work > MOST_WORK {
            return None;
        }
        budget.spend(work / LANES, 0).ok()?;
        let mut rows = Vec::with_capacity(side.classes.all.len() + 1);
        for (class, of_class) in side.classes.all.iter().enumerate() {
            let parts = of_class.parts.iter();
            let mut places: Vec<u32> =
                parts.flat_map(|&part| &of_parts[part as usize]).copied().collect();
            places.sort_unstable();
            let words = order.words(places.into_iter())?;
            let is_any = if order.any[number].classes[class] { IS_ANY } else { 0 };
            let is_long = if words.len() > OF_CLASS { IS_LONG } else { 0 };
            let mut row = self.row(&words, OF_CLASS);
            row[NUMBER] = numbers.of_classes[class] << NUMBER_SHIFT | is_any | is_long | NO_SERVICE;
            rows.push(row);
        }
        rows.push([NONE; LANES]);
        Some(rows)
    }
}

/// For each pair the number of its list among those that are returned, too.
fn cross(
    order: &Order,
    src: &Numbers,
    dst: &Numbers,
    budget: &mut Budget,
) -> Option<(Vec<u32>, Vec<Node>)> {
    let mut cells = vec![0u32; src.count * dst.count];
    let root = Node { before: 0, place: NONE, pairs: cells.len() as u32, next: (NONE, 0) };
    let (mut nodes, mut work) = (vec![root], 0);
    for (place, listed) in (0u32..).zip(&order.all).filter(|(_, of)| of.is_any == [false; 2]) {
        let [rows, columns] =
            [&src.of_parts[listed.sides[SRC] as usize], &dst.of_parts[listed.sides[DST] as usize]];
        work += rows.len() * columns.len();
        if work > MOST_WORK || nodes.len() > MOST_LISTS {
            return None;
        }
        for &row in rows {
            let row = &mut cells[row as usize * dst.count..][..dst.count];
            for &column in columns {
                let cell = &mut row[column as usize];
                let next = nodes.len() as u32;
                let node = &mut nodes[*cell as usize];
                node.pairs -= 1;
                if node.next.0 != place {
                    node.next = (place, next);
                    nodes.push(Node { before: *cell, place, pairs: 0, next: (NONE, 0) });
                }
                *cell = nodes[*cell as usize].next.1;
                nodes[*cell as usize].pairs += 1;
            }
        }
    }
    budget.spend(work / LANES, 0).ok()?;
    Some((cells, nodes))
}

#[cfg(test)]
mod tests;
