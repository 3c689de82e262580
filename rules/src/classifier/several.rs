//! Classes of several keys: which pairs of their keys are listed, and what those lead to.
//!
//! Two classes of three keys each make nine pairs, of which one is listed, or none. Each block of keys
//! says which keys of the other side its own may be listed with, so that of the nine one or none is
//! left to look for. Those of a batch are written down, one after the other however many a frame has,
//! and then looked for in the marks of [`Pairs`] eight at a time. Few are left, whose buckets are read
//! eight at a time again.

use super::choice::{Choice, Found, Frame, look_up_pairs, where_set};
use super::tables::{KEYS, Keys, LINES, NONE, Pairs, Record};
use super::{Classifier, MAX_BATCH, ones};
use crate::headers::{Headers, PolicyTime};
use crate::intrinsics::prefetch;
use crate::lanes::{Eight, Kernel, LANES, Lanes, Words};

/// Pairs that there is room for; when it runs short, those that are there are looked up first.
const PAIRS: usize = 1024;

/// The most that two blocks of keys add, and what is written beyond them.
const BLOCK_PAIRS: usize = KEYS * KEYS + LANES;

/// Pairs of keys of a batch, by columns.
#[repr(align(64))]
pub(super) struct Several {
    src: [u32; PAIRS],
    dst: [u32; PAIRS],
    /// The place in the batch of the frame whose they are.
    frames: [u32; PAIRS],
    /// The buckets in which their chains begin, of those that are marked.
    homes: [u32; PAIRS],
}

impl Default for Several {
    fn default() -> Self {
        Self { src: [0; PAIRS], dst: [0; PAIRS], frames: [0; PAIRS], homes: [0; PAIRS] }
    }
}

/// Lowers what was chosen for frames with several keys to the first rules of the pairs of those.
pub(super) struct ReadKeys<'a> {
    pub(super) classifier: &'a Classifier,
    pub(super) headers: &'a [Headers],
    pub(super) at: PolicyTime,
    pub(super) found: Found<'a>,
    /// The frames, a bit each.
    pub(super) several: u64,
    pub(super) choice: &'a mut Choice,
    pub(super) pairs: &'a mut Several,
}

impl Kernel for ReadKeys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let Classifier { src, dst, .. } = self.classifier;
        self.ask_for_next_blocks();
        let mut count = 0;
        for frame in ones(self.several) {
            let (s, d) = self.classifier.records(self.found, frame);
            // A class without a block of keys stands for a block of at most one.
            let (s_single, d_single) = (Keys::of(s.key), Keys::of(d.key));
            let mut s_place = s.keys;
            loop {
                let s_keys = if s_place == NONE { &s_single } else { src.keys.get(s_place) };
                let mut d_place = d.keys;
                loop {
                    let d_keys = if d_place == NONE { &d_single } else { dst.keys.get(d_place) };
                    count = self.pairs.write_down(lanes, count, s_keys, d_keys, frame as u32);
                    if count > PAIRS - BLOCK_PAIRS {
                        self.look_up(lanes, count);
                        count = 0;
                    }
                    d_place = d_keys.next;
                    if d_place == NONE {
                        break;
                    }
                }
                s_place = s_keys.next;
                if s_place == NONE {
                    break;
                }
            }
        }
        self.look_up(lanes, count);
    }
}

impl ReadKeys<'_> {
    /// Asks for the second blocks of keys of all frames: of groups in groups, most classes have one.
    #[inline(always)]
    fn ask_for_next_blocks(&self) {
        let Classifier { src, dst, .. } = self.classifier;
        for frame in ones(self.several) {
            let (s, d) = self.classifier.records(self.found, frame);
            for (keys, place) in [(&src.keys, s.keys), (&dst.keys, d.keys)] {
                let next = keys.items().get(place as usize).map(|block| block.next as usize);
                if let Some(next) = next.and_then(|next| keys.items().get(next)) {
                    prefetch(next);
                }
            }
        }
    }

    /// Looks up the pairs that are written down.
    #[inline(always)]
    fn look_up<L: Lanes>(&mut self, lanes: L, count: usize) {
        let Self { classifier, found, choice, pairs, .. } = self;
        let count = pairs.keep_marked(lanes, &classifier.pairs, count);
        let buckets = classifier.pairs.buckets.words();
        let service_rows = &classifier.services.rows;
        let services = Words::new(found.services.as_flattened());
        for group in 0..count.div_ceil(LANES) {
            let (src, dst) = (column(&pairs.src, group), column(&pairs.dst, group));
            let (frames, homes) = (column(&pairs.frames, group), column(&pairs.homes, group));
            let (s, d, home) = (lanes.load(src), lanes.load(dst), lanes.load(homes));
            let (rank, rule, condition) = look_up_pairs(lanes, buckets, s, d, home);
            let service = lanes.gather(services, lanes.load(frames));
            let is_list = lanes.equal(condition, lanes.splat(LINES));
            let holds = service_rows.are_set(lanes, service, condition);
            let of_pair = lanes.or(where_set(lanes, holds, rank), is_list);
            let is_nothing = lanes.equal(of_pair, lanes.splat(NONE));
            let is_checked = lanes.without(rule, is_nothing);
            let is_rare = lanes.bits(lanes.or(is_list, is_checked));
            // What has to be compared exactly, and lists, are gone through one by one.
            let of_pair = lanes.or(of_pair, lanes.signs(is_checked));
            let (mut ranks, mut rules) = ([0; LANES], [0; LANES]);
            lanes.store(of_pair, &mut ranks);
            lanes.store(rule, &mut rules);
            for ((&frame, rank), rule) in frames.iter().zip(ranks).zip(rules) {
                choice.lower(frame as usize % MAX_BATCH, rank, rule);
            }
            for lane in ones(is_rare.into()) {
                let frame = frames[lane] as usize % MAX_BATCH;
                let Some(headers) = self.headers.get(frame) else { continue };
                let services = found.services.as_flattened()[frame];
                let of_frame = Frame { headers, at: self.at, services };
                let mut best = choice.best(frame);
                classifier.look_up_pair(homes[lane], src[lane], dst[lane], &of_frame, &mut best);
                choice.set_best(frame, best);
            }
        }
    }
}

impl Several {
    /// Writes down those pairs of two blocks of keys that may be listed, behind `count` others. Returns
    /// how many there are then.
    #[inline(always)]
    fn write_down<L: Lanes>(
        &mut self,
        lanes: L,
        mut count: usize,
        s_keys: &Keys,
        d_keys: &Keys,
        frame: u32,
    ) -> usize {
        let (s, d) = (lanes.load(s_keys.words()), lanes.load(d_keys.words()));
        let s_bits = d_keys.reach.meets(lanes, s);
        let d_bits = s_keys.reach.meets(lanes, d);
        let d = lanes.permute(d, lanes.load(&PACKED[d_bits as usize]));
        let (frame, more) = (lanes.splat(frame), d_bits.count_ones() as usize);
        for place in ones(s_bits.into()) {
            put(lanes, &mut self.src, count, lanes.splat(s_keys.words()[place]));
            put(lanes, &mut self.dst, count, d);
            put(lanes, &mut self.frames, count, frame);
            count += more;
        }
        count
    }

    /// Keeps those of the first `count` pairs that are marked; asks for their buckets. Returns how many
    /// there are. Up to a whole vector, pairs of no keys follow.
    #[inline(always)]
    fn keep_marked<L: Lanes>(&mut self, lanes: L, pairs: &Pairs, count: usize) -> usize {
        let (marks, buckets) = (pairs.marks.words(), pairs.buckets.words());
        let shift = lanes.splat(pairs.mark_shift());
        let mut kept = 0;
        for group in 0..count.div_ceil(LANES) {
            let (s, d) = (column(&self.src, group), column(&self.dst, group));
            let (s, d) = (lanes.load(s), lanes.load(d));
            let frames = lanes.load(column(&self.frames, group));
            let mixed = Pairs::mixed_lanes(lanes, s, d);
            let mark = lanes.shr_by(mixed, shift);
            let word = lanes.gather(marks, lanes.shr::<5>(mark));
            let is_marked = lanes.bits(lanes.shl::<31>(lanes.shr_by(word, mark)));
            let left = count - group * LANES;
            let kept_bits = is_marked & (0xff >> (LANES - left.min(LANES)));
            let order = lanes.load(&PACKED[kept_bits as usize]);
            // Nothing is written where nothing has been read yet.
            put(lanes, &mut self.src, kept, lanes.permute(s, order));
            put(lanes, &mut self.dst, kept, lanes.permute(d, order));
            put(lanes, &mut self.frames, kept, lanes.permute(frames, order));
            let homes = lanes.fraction(mixed, pairs.homes);
            put(lanes, &mut self.homes, kept, lanes.permute(homes, order));
            kept += kept_bits.count_ones() as usize;
        }
        put(lanes, &mut self.src, kept, lanes.splat(NONE));
        put(lanes, &mut self.homes, kept, lanes.splat(0));
        for group in 0..kept.div_ceil(LANES) {
            let homes = lanes.load(column(&self.homes, group));
            lanes.prefetch_rows(buckets, lanes.shl::<1>(homes));
        }
        kept
    }
}

/// For each set of bits the places of those that are set, in order, before those of the others.
pub(super) const PACKED: [Eight; 1 << LANES] = {
    let mut all = [[0; LANES]; 1 << LANES];
    let mut bits = 0;
    while bits < all.len() {
        let (mut at, mut place) = (0, 0);
        while place < 2 * LANES {
            // First the places whose bits are set, then the others.
            if (bits >> (place % LANES) & 1 == 1) == (place < LANES) {
                all[bits][at] = (place % LANES) as u32;
                at += 1;
            }
            place += 1;
        }
        bits += 1;
    }
    all
};

/// Eight words of a column.
#[inline(always)]
fn column(words: &[u32; PAIRS], group: usize) -> &Eight {
    let groups: &[Eight] = bytemuck::cast_slice(words);
    &groups[group % groups.len()]
}

/// Writes eight words of a column from `at` on, where there is room.
#[inline(always)]
pub(super) fn put<L: Lanes, const N: usize>(
    lanes: L,
    words: &mut [u32; N],
    at: usize,
    vector: L::W,
) {
    if let Some(words) = words.get_mut(at..).and_then(<[u32]>::first_chunk_mut) {
        lanes.store(vector, words);
    }
}

impl Classifier {
    /// Lowers `best` to the first rule that is listed under any pair of keys of two classes and
    /// matches.
    #[inline(never)]
    pub(super) fn look_up_pairs(&self, s: &Record, d: &Record, frame: &Frame<'_>, best: &mut u64) {
        let (s_single, d_single) = (Keys::of(s.key), Keys::of(d.key));
        let mut s_place = s.keys;
        loop {
            let s_keys = if s_place == NONE { &s_single } else { self.src.keys.get(s_place) };
            let mut d_place = d.keys;
            loop {
                let d_keys = if d_place == NONE { &d_single } else { self.dst.keys.get(d_place) };
                for &s in s_keys.keys.iter().take_while(|&&key| key != NONE) {
                    for &d in d_keys.keys.iter().take_while(|&&key| key != NONE) {
                        if self.pairs.is_marked(s, d) {
                            self.look_up_pair(self.pairs.home(s, d), s, d, frame, best);
                        }
                    }
                }
                d_place = d_keys.next;
                if d_place == NONE {
                    break;
                }
            }
            s_place = s_keys.next;
            if s_place == NONE {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_first_and_in_order() {
        for (bits, order) in PACKED.iter().enumerate() {
            let kept: Vec<u32> = (0..LANES as u32).filter(|place| bits >> place & 1 == 1).collect();
            assert_eq!(order[..kept.len()], kept, "{bits:b}");
            let mut all = *order;
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }
}
