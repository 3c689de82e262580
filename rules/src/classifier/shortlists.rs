//! Policies crossed out to lists so short that one comparison finds what decides.
//!
//! Most rules of a set of prefixes name two sides, some one, a few none. So each rule stands in one of
//! four lists: in that of a pair of classes; in that of its source's class where any destination will
//! do; in that of its destination's class where any source will; and with neither, what decides
//! stands by the class of the service alone. What only the pairs of rules with two sides have in
//! common is crossed: with the others among them there would be a list for nearly every pair.
//!
//! A list is a row of eight words, one a rule: its place in the deciding order, above the number of its
//! service. The three rows of a frame are compared with the bits of its service class, and the least word
//! that is left decides. No step depends on what was found before.
//!
//! Like [`super::crossed`] tables, whose first steps they share, they are made of policies of which they
//! stay small, and dropped by edits.

use super::crossed::Grid;
use super::tables::NONE;
use super::{Column, MAX_BATCH, ones};
use crate::lanes::{Eight, Kernel, LANES, Lanes, Words};
use crate::policy::RuleId;

/// Bits of a word that are the number of a service.
pub(crate) const SERVICE_BITS: u32 = 9;

/// The service of words that are no rule: no frame meets it.
pub(crate) const NO_SERVICE: u32 = (1 << SERVICE_BITS) - 1;

/// Services whose bits are one vector, the last one left out.
pub(crate) const FEW_SERVICES: usize = 8 * size_of::<Eight>() - 1;

/// The word of a row that is no rule but where the row behind it is, above [`NO_SERVICE`].
pub(crate) const LINK: usize = LANES - 1;

/// The word of a class's row that is no rule either: the class's number among the pairs, flags and
/// [`NO_SERVICE`].
pub(crate) const NUMBER: usize = LANES - 2;

/// Rules in a row of a pair, and in that of a class.
pub(crate) const OF_PAIR: usize = LINK;
pub(crate) const OF_CLASS: usize = NUMBER;

/// The flags: whether a side that is any holds the class, and whether its row has one behind it.
pub(crate) const IS_ANY: u32 = 1 << SERVICE_BITS;
pub(crate) const IS_LONG: u32 = IS_ANY << 1;
pub(crate) const NUMBER_SHIFT: u32 = SERVICE_BITS + 2;

/// In the place of a rule: what is found has to be compared exactly.
pub(crate) const GENERAL: u32 = RuleId::DEFAULT.0 - 1;

/// A policy in short lists.
#[derive(Debug, Default)]
pub(crate) struct Shortlists {
    /// Of sources and of destinations, by class. The last row of each is empty.
    pub(crate) classes: [Vec<Eight>; 2],
    /// By what [`super::crossed::Crossed::pairs`] says: the rows of pairs, those with another one behind
    /// them last, and further rows.
    pub(crate) rows: Vec<Eight>,
    /// The first row of a pair that has another one behind it.
    pub(crate) first_long: u32,
    /// By service class a bit for each service that holds it: one vector, or two where there are more
    /// than [`FEW_SERVICES`].
    pub(crate) services: Vec<Eight>,
    pub(crate) vectors: usize,
    /// By service class the first rule of any source and any destination, as a word, or [`NONE`].
    pub(crate) any: Vec<u32>,
    /// Rules in deciding order, [`GENERAL`] where more has to be compared, and behind them the default.
    pub(crate) rules: Vec<u32>,
}

impl Shortlists {
    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        let classes: usize = self.classes.iter().map(|rows| size_of_val(&**rows)).sum();
        classes
            + size_of_val(&*self.rows)
            + size_of_val(&*self.services)
            + size_of_val(&*self.any)
            + size_of_val(&*self.rules)
    }
}

/// Takes classes to rules. Returns which frames have to go the general way.
pub(super) struct FindFirst<'a> {
    pub(super) lists: &'a Shortlists,
    pub(super) pairs: &'a Grid,
    pub(super) classes: &'a [Column; 2],
    pub(super) services: &'a Column,
    /// Working memory: the rows of the classes of each frame; the row of its pair, and what decides about
    /// any source and destination.
    pub(super) places: [&'a mut [Column; 2]; 2],
    pub(super) rules: &'a mut Column,
    pub(super) frames: usize,
}

impl Kernel for FindFirst<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) -> u64 {
        let long = self.find_rows(lanes);
        match self.lists.vectors {
            1 => self.compare::<L, false>(lanes, long),
            _ => self.compare::<L, true>(lanes, long),
        }
    }
}

impl FindFirst<'_> {
    /// Finds the rows of frames, and asks for those of pairs. Returns which frames have rows with others
    /// behind them.
    #[inline(always)]
    fn find_rows<L: Lanes>(&mut self, lanes: L) -> u64 {
        let Self { lists, pairs, classes: [src_classes, dst_classes], services, .. } = *self;
        let [[of_src, of_dst], [of_pair, any]] = &mut self.places;
        let groups = self.frames.min(MAX_BATCH).div_ceil(LANES);
        let (rows, columns) = (&mut of_pair[..groups], &mut self.rules[..groups]);
        let [src_rows, dst_rows] = [&lists.classes[0], &lists.classes[1]];
        let src_words = Words::new(src_rows.as_flattened());
        let dst_words = Words::new(dst_rows.as_flattened());
        let first_any = Words::new(&lists.any);
        let empty = [src_rows, dst_rows].map(|rows| rows.len().saturating_sub(1) as u32);
        let (number, all) = (lanes.splat(NUMBER as u32), lanes.splat(u32::MAX));
        let mut long = 0;
        for group in 0..groups {
            let (src, dst) = (lanes.load(&src_classes[group]), lanes.load(&dst_classes[group]));
            let s = lanes.gather(src_words, lanes.add(lanes.shl::<3>(src), number));
            let d = lanes.gather(dst_words, lanes.add(lanes.shl::<3>(dst), number));
            let first = lanes.gather(first_any, lanes.load(&services[group]));
            const SHIFT: i32 = NUMBER_SHIFT as i32;
            lanes.store(lanes.shr::<SHIFT>(s), &mut rows[group]);
            lanes.store(lanes.shr::<SHIFT>(d), &mut columns[group]);
            // The flags as signs.
            const ANY: i32 = IS_ANY.leading_zeros() as i32;
            const LONG: i32 = IS_LONG.leading_zeros() as i32;
            let src_is_any = lanes.signs(lanes.shl::<ANY>(s));
            let dst_is_any = lanes.signs(lanes.shl::<ANY>(d));
            let both = lanes.and(src_is_any, dst_is_any);
            lanes.store(lanes.or(first, lanes.without(all, both)), &mut any[group]);
            // A source's rules are for any destination, but there may be what is none.
            lanes.store(lanes.select(dst_is_any, src, lanes.splat(empty[0])), &mut of_src[group]);
            lanes.store(lanes.select(src_is_any, dst, lanes.splat(empty[1])), &mut of_dst[group]);
            let is_long = lanes.bits(lanes.shl::<LONG>(lanes.or(s, d)));
            long |= u64::from(is_long) << (group * LANES);
        }
        pairs.find(lanes, rows, columns);
        let pair_words = Words::new(lists.rows.as_flattened());
        for (group, row) in rows.iter().enumerate() {
            let row = lanes.load(row);
            lanes.prefetch_rows(pair_words, row);
            let is_long = lanes.bits(lanes.at_most(lanes.splat(lists.first_long), row));
            long |= u64::from(is_long) << (group * LANES);
        }
        long
    }

    /// Compares the rows with the services of the frames.
    #[inline(always)]
    fn compare<L: Lanes, const TWO: bool>(self, lanes: L, long: u64) -> u64 {
        let Self { lists, services, places: [of_classes, [of_pair, any]], rules, frames, .. } =
            self;
        let [of_src, of_dst] = of_classes.each_ref().map(|column| column.as_flattened());
        let (of_pair, of_service) = (of_pair.as_flattened(), services.as_flattened());
        let mut general = 0;
        for group in 0..frames.min(MAX_BATCH).div_ceil(LANES) {
            let mut firsts = [[NONE; LANES]; LANES];
            let of_group = (long >> (group * LANES)) as u32 & 0xff;
            for (lane, first) in firsts.iter_mut().enumerate() {
                let frame = group * LANES + lane;
                let Some(rows) = lists.rows_of(of_src[frame], of_dst[frame], of_pair[frame]) else {
                    continue;
                };
                let Some(services) = lists.services_of::<TWO>(of_service[frame]) else { continue };
                let [src, dst, pair] = rows;
                let src = met::<L, TWO>(lanes, src, services);
                let dst = met::<L, TWO>(lanes, dst, services);
                let pair = met::<L, TWO>(lanes, pair, services);
                lanes.store(lanes.min(lanes.min(src, dst), pair), first);
            }
            for lane in ones(of_group.into()) {
                let frame = group * LANES + lane;
                let rows = lists.rows_of(of_src[frame], of_dst[frame], of_pair[frame]);
                let Some(services) = lists.services_of::<TWO>(of_service[frame]) else { continue };
                let mut first = lanes.load(&firsts[lane]);
                for row in rows.iter().flatten() {
                    let mut link = row[LINK];
                    while let Some(row) = lists.rows.get((link >> SERVICE_BITS) as usize) {
                        first = lanes.min(first, met::<L, TWO>(lanes, row, services));
                        link = row[LINK];
                    }
                }
                lanes.store(first, &mut firsts[lane]);
            }
            let each = lanes.load(&[0, 1, 2, 3, 4, 5, 6, 7]);
            let [a, b, c, d, e, f, g, h] =
                lanes.gather_rows(Words::new(firsts.as_flattened()), each);
            let (ab, cd) = (lanes.min(a, b), lanes.min(c, d));
            let (ef, gh) = (lanes.min(e, f), lanes.min(g, h));
            let least = lanes.min(lanes.min(ab, cd), lanes.min(ef, gh));
            let least = lanes.min(least, lanes.load(&any[group]));
            let place = lanes.shr::<{ SERVICE_BITS as i32 }>(least);
            let rule = lanes.gather(Words::new(&lists.rules), place);
            let is_general = lanes.equal(rule, lanes.splat(GENERAL));
            general |= u64::from(lanes.bits(is_general)) << (group * LANES);
            lanes.store(rule, &mut rules[group]);
        }
        general
    }
}

impl Shortlists {
    #[inline(always)]
    fn rows_of(&self, src: u32, dst: u32, pair: u32) -> Option<[&Eight; 3]> {
        let [of_src, of_dst] = &self.classes;
        let (src, dst) = (of_src.get(src as usize)?, of_dst.get(dst as usize)?);
        Some([src, dst, self.rows.get(pair as usize)?])
    }

    /// The bits of the services that hold a class; the second vector means nothing where there is one.
    #[inline(always)]
    fn services_of<const TWO: bool>(&self, class: u32) -> Option<[&Eight; 2]> {
        if !TWO {
            let one = self.services.get(class as usize)?;
            return Some([one, one]);
        }
        let [one, two] = self.services.get(2 * class as usize..)?.first_chunk()?;
        Some([one, two])
    }
}

/// The rules of a row whose services are among those of a frame; [`NONE`] in place of all others.
#[inline(always)]
fn met<L: Lanes, const TWO: bool>(lanes: L, row: &Eight, [one, two]: [&Eight; 2]) -> L::W {
    let (row, one_bit) = (lanes.load(row), lanes.splat(1));
    let mut word = lanes.permute(lanes.load(one), lanes.shr::<5>(row));
    if TWO {
        // The highest bit of the number says which vector.
        const SIGN: i32 = (u32::BITS - SERVICE_BITS) as i32;
        let of_two = lanes.permute(lanes.load(two), lanes.shr::<5>(row));
        word = lanes.select(lanes.signs(lanes.shl::<SIGN>(row)), of_two, word);
    }
    let is_met = lanes.and(lanes.shr_by(word, row), one_bit);
    lanes.or(row, lanes.sub(is_met, one_bit))
}
