//! Eight words at a time.
//!
//! The stages of a lookup are written once, as [`Kernel`]s over any [`Lanes`], and compiled for each
//! kind of machine: [`run`] takes the best that this one has. Both kinds give the same words for
//! the same input, which a property test asserts operation by operation. Vectors of sixteen words
//! gain nothing, and words are looked up by loads, not by gathers: see `bench/results/prototypes.md`.

#[cfg(target_endian = "big")]
compile_error!("tables of wider and narrower numbers are read as words, the lower half first");

#[cfg(target_arch = "x86_64")]
mod avx2;
mod plain;

use crate::headers::Headers;

/// How many words there are in one vector.
pub(crate) const LANES: usize = 8;

/// The words of one vector.
pub(crate) type Eight = [u32; LANES];

/// Words that are looked up by number. There is always one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a> {
    words: &'a [u32],
    rows: &'a [Eight],
}

impl<'a> Words<'a> {
    /// Words beyond the first 2^30 cannot be reached: the number of a byte is a word itself.
    const MOST: usize = 1 << 30;
    /// The bytes of those.
    pub(crate) const MOST_BYTES: usize = 4 * Self::MOST;

    #[inline(always)]
    pub(crate) fn new(words: &'a [u32]) -> Self {
        const ZEROS: &[Eight] = &[[0; LANES]];
        let words = if words.is_empty() { ZEROS.as_flattened() } else { words };
        let words = &words[..words.len().min(Self::MOST)];
        let rows = bytemuck::cast_slice(&words[..words.len() / LANES * LANES]);
        Self { words, rows: if rows.is_empty() { ZEROS } else { rows } }
    }

    #[inline(always)]
    fn last(self) -> u32 {
        (self.words.len() - 1) as u32
    }

    /// The rows of eight words, of which there is one at least.
    #[inline(always)]
    fn rows(self) -> &'a [Eight] {
        self.rows
    }

    #[inline(always)]
    fn last_row(self) -> u32 {
        (self.rows.len() - 1) as u32
    }

    /// The number of the last two words of the rows.
    #[inline(always)]
    fn last_two(self) -> u32 {
        (self.rows.len() * (LANES / 2) - 1) as u32
    }
}

/// Numbers of 16 bits that are looked up one by one. There are always two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Halves<'a> {
    halves: &'a [u16],
}

impl<'a> Halves<'a> {
    /// The last one is never found: what is read is a word.
    #[inline(always)]
    pub(crate) fn new(halves: &'a [u16]) -> Self {
        let halves = if halves.len() < 2 { &[0, 0] } else { halves };
        Self { halves: &halves[..halves.len().min(Words::MOST)] }
    }

    #[inline(always)]
    fn last(self) -> u32 {
        (self.halves.len() - 2) as u32
    }
}

/// The words of [`Headers`] that [`Lanes::fields`] reads.
#[cfg(target_arch = "x86_64")]
mod header_words {
    use std::mem::offset_of;

    use crate::headers::Headers;

    /// The word of the ports; the EtherType and the protocol are in the next one.
    pub(super) const PORTS: usize = offset_of!(Headers, src_port) / 4;

    // The addresses are the first row of eight words.
    const _: () = assert!(offset_of!(Headers, src) == 0 && offset_of!(Headers, dst) == 16);

    // What is read as words has no byte between or behind its fields: the four words from the ports on
    // end within the MAC addresses.
    const _: () = assert!(offset_of!(Headers, src_port) == 4 * PORTS);
    const _: () = assert!(offset_of!(Headers, dst_port) == 4 * PORTS + 2);
    const _: () = assert!(offset_of!(Headers, ether_type) == 4 * PORTS + 4);
    const _: () = assert!(offset_of!(Headers, protocol) == 4 * PORTS + 6);
    const _: () = assert!(offset_of!(Headers, src_mac) == 4 * PORTS + 7);
    const _: () = assert!(offset_of!(Headers, dst_mac) == 4 * PORTS + 13);
    const _: () = assert!(offset_of!(Headers, wire) >= 4 * PORTS + 16);
}

/// Fields of frames, a word of each.
pub(crate) struct Fields<W> {
    /// The lowest words of the addresses.
    pub(crate) src: W,
    pub(crate) dst: W,
    /// The source port below, the destination port above.
    pub(crate) ports: W,
    /// The EtherType below, the protocol above; the uppermost byte means nothing.
    pub(crate) kind: W,
}

/// Eight frames from `first` on, if there are so many.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn full_group(headers: &[Headers], first: usize) -> Option<&[Headers; LANES]> {
    headers.get(first..).and_then(<[Headers]>::first_chunk)
}

/// The frames from `first` on, the last one where there is none. There is one at least.
#[inline(always)]
fn last_group(headers: &[Headers], first: usize) -> [&Headers; LANES] {
    assert!(!headers.is_empty(), "the fields of no frame");
    std::array::from_fn(|lane| &headers[(first + lane).min(headers.len() - 1)])
}

/// A kind of machine. All numbers are unsigned and wrap around.
pub(crate) trait Lanes: Copy {
    /// Eight words.
    type W: Copy;

    fn splat(self, word: u32) -> Self::W;
    fn load(self, words: &Eight) -> Self::W;
    fn store(self, vector: Self::W, words: &mut Eight);
    fn add(self, a: Self::W, b: Self::W) -> Self::W;
    fn sub(self, a: Self::W, b: Self::W) -> Self::W;
    /// The lower halves of the products.
    fn mul(self, a: Self::W, b: Self::W) -> Self::W;
    fn and(self, a: Self::W, b: Self::W) -> Self::W;
    fn or(self, a: Self::W, b: Self::W) -> Self::W;
    fn xor(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a` without the bits of `b`.
    fn without(self, a: Self::W, b: Self::W) -> Self::W;
    fn shl<const BITS: i32>(self, a: Self::W) -> Self::W;
    fn shr<const BITS: i32>(self, a: Self::W) -> Self::W;
    /// Each word shifted left by its own number of bits, which is below 32.
    fn shl_by(self, a: Self::W, bits: Self::W) -> Self::W;
    /// Each word shifted right by its own number of bits, the lowest five of `bits`.
    fn shr_by(self, a: Self::W, bits: Self::W) -> Self::W;
    /// Each word shifted right by its own number of bits: nothing is left of it from 32 on.
    fn shr_far(self, a: Self::W, bits: Self::W) -> Self::W;
    fn min(self, a: Self::W, b: Self::W) -> Self::W;
    /// All bits of a word where the words are equal, else none: a mask.
    fn equal(self, a: Self::W, b: Self::W) -> Self::W;
    /// All bits of the words whose upper bit is set: a mask.
    fn signs(self, words: Self::W) -> Self::W;
    /// `a` where the mask is set, else `b`.
    fn select(self, mask: Self::W, a: Self::W, b: Self::W) -> Self::W;
    /// The words at `places`, of which the lowest three bits count.
    fn permute(self, words: Self::W, places: Self::W) -> Self::W;
    /// The upper bit of each word, that of the first lowest.
    fn bits(self, mask: Self::W) -> u32;
    /// The words of `table` at `places`, the last one where there is none.
    fn gather(self, table: Words<'_>, places: Self::W) -> Self::W;
    /// The numbers of `table` at `places`, the last but one where there is none.
    fn gather_halves(self, table: Halves<'_>, places: Self::W) -> Self::W;
    /// The words of `table` at twice `places`, and the ones behind them, of the whole rows that there
    /// are: the last two where there is none, zeros where there is no whole row.
    fn gather_two(self, table: Words<'_>, places: Self::W) -> [Self::W; 2];
    /// The fields of the frames from `first` on, those of the last one where there is none. There
    /// is one at least.
    fn fields(self, headers: &[Headers], first: usize) -> Fields<Self::W>;
    /// The words of the sources of the same frames, the lowest first, and then of the destinations.
    fn addresses(self, headers: &[Headers], first: usize) -> [Self::W; LANES];

    /// All bits of each half of a word where `a`'s is at most `b`'s.
    fn halves_at_most(self, a: Self::W, b: Self::W) -> Self::W;
    /// `counts` with those halves one greater that are all ones in `mask`, which has no others than
    /// these and zeros.
    fn count_halves(self, counts: Self::W, mask: Self::W) -> Self::W;
    /// The number of zeros below the lowest bit that is set; anything for zero.
    fn trailing_zeros(self, words: Self::W) -> Self::W;
    /// The number of zeros above the highest bit that is set; 32 for zero.
    fn leading_zeros(self, words: Self::W) -> Self::W;
    /// The rows of eight words at `rows`, the last one where there is none, transposed: the first
    /// word of each, the second of each, and so on.
    fn gather_rows(self, table: Words<'_>, rows: Self::W) -> [Self::W; LANES];
    /// Asks for rows of eight words.
    fn prefetch_rows(self, table: Words<'_>, rows: Self::W);
    /// The bits of `word` that are set in `mask`, side by side from the lowest on.
    fn take_bits(self, word: u64, mask: u64) -> u64;
    /// `of`, which is below 2^31, times the words as fractions of 2^32.
    fn fraction(self, words: Self::W, of: u32) -> Self::W;

    /// `a` is at most `b`, as a mask.
    #[inline(always)]
    fn at_most(self, a: Self::W, b: Self::W) -> Self::W {
        self.equal(self.min(a, b), a)
    }

    /// `a` is below `b`, as a mask.
    #[inline(always)]
    fn below(self, a: Self::W, b: Self::W) -> Self::W {
        self.without(self.splat(u32::MAX), self.at_most(b, a))
    }
}

/// Something that can be done with any [`Lanes`].
pub(crate) trait Kernel {
    /// What comes out.
    type Output;
    /// Does it. Implementations are `#[inline(always)]`, and so is all that they call with `lanes`:
    /// what is not inlined is not compiled for the machine. Closures cannot be, and so none of them has
    /// to do with `lanes`.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs the kernel with the best lanes that the machine has.
#[inline(always)]
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(lanes) = avx2::Avx2::detect().filter(|_| !is_plain_forced()) {
        return lanes.run(kernel);
    }
    kernel.run(plain::Plain)
}

#[cfg(not(test))]
#[inline(always)]
fn is_plain_forced() -> bool {
    false
}

#[cfg(test)]
use tests::is_plain_forced;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::plain::Plain;
    use super::*;

    thread_local!(static PLAIN: Cell<bool> = const { Cell::new(false) });

    pub(super) fn is_plain_forced() -> bool {
        PLAIN.get()
    }

    /// Has this thread's kernels run as on a machine without vectors, or as usual again.
    pub(crate) fn force_plain(plain: bool) {
        PLAIN.set(plain);
    }

    /// Every operation on the same words.
    struct Everything<'a> {
        a: Eight,
        b: Eight,
        mask: Eight,
        table: &'a [u32],
        headers: &'a [Headers],
    }

    impl Kernel for Everything<'_> {
        type Output = Vec<Eight>;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> Vec<Eight> {
            let (a, b) = (lanes.load(&self.a), lanes.load(&self.b));
            let mask = lanes.equal(lanes.load(&self.mask), lanes.splat(0));
            let words = Words::new(self.table);
            let halves = Halves::new(bytemuck::cast_slice(self.table));
            let fields = lanes.fields(self.headers, self.a[0] as usize % 64);
            let [first, second] = lanes.gather_two(words, a);
            let [s0, s1, s2, s3, d0, d1, d2, d3] =
                lanes.addresses(self.headers, self.a[0] as usize % 64);
            let few = lanes.and(b, lanes.splat(15));
            let [first_few, second_few] = lanes.gather_two(words, few);
            let [r0, r1, r2, r3, r4, r5, r6, r7] = lanes.gather_rows(words, a);
            let odd = lanes.or(a, lanes.splat(1 << 31));
            let all = [
                lanes.splat(self.a[0]),
                lanes.add(a, b),
                lanes.sub(a, b),
                lanes.mul(a, b),
                lanes.and(a, b),
                lanes.or(a, b),
                lanes.xor(a, b),
                lanes.without(a, b),
                lanes.shl::<5>(a),
                lanes.shr::<15>(a),
                lanes.shr_by(a, b),
                lanes.shr_far(a, b),
                lanes.shr_far(a, few),
                lanes.shr_far(a, lanes.add(few, lanes.splat(24))),
                lanes.min(a, b),
                lanes.equal(a, b),
                lanes.at_most(a, b),
                lanes.below(a, b),
                lanes.halves_at_most(a, b),
                lanes.count_halves(b, lanes.halves_at_most(a, b)),
                lanes.signs(a),
                lanes.trailing_zeros(odd),
                lanes.trailing_zeros(lanes.without(odd, lanes.splat(0xffff))),
                lanes.trailing_zeros(lanes.splat(1 << 31)),
                lanes.select(mask, a, b),
                lanes.permute(a, b),
                lanes.gather(words, a),
                lanes.gather(words, few),
                lanes.gather_halves(halves, a),
                lanes.gather_halves(halves, few),
                lanes.shl_by(a, few),
                first,
                second,
                first_few,
                second_few,
                fields.src,
                fields.dst,
                fields.ports,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3,
                lanes.leading_zeros(a),
                lanes.leading_zeros(few),
                // Nobody says what the uppermost byte is.
                lanes.and(fields.kind, lanes.splat(0xff_ffff)),
                lanes.fraction(a, self.b[0] >> 1),
                r0,
                r1,
                r2,
                r3,
                r4,
                r5,
                r6,
                r7,
            ];
            lanes.prefetch_rows(words, a);
            let mut out: Vec<Eight> = Vec::new();
            for vector in all {
                let mut words = [0; LANES];
                lanes.store(vector, &mut words);
                out.push(words);
            }
            let word = u64::from(self.a[0]) << 32 | u64::from(self.a[1]);
            let of_mask = u64::from(self.b[0]) << 32 | u64::from(self.b[1]);
            let taken = lanes.take_bits(word, of_mask);
            let taken = [taken as u32, (taken >> 32) as u32];
            out.push([lanes.bits(mask), lanes.bits(a), taken[0], taken[1], 0, 0, 0, 0]);
            out
        }
    }

    /// Distinct ones: which one a vector's word is of tells by its fields.
    fn frames(count: usize) -> Vec<Headers> {
        (0..count)
            .map(|n| Headers {
                src: (n as u128 + 1) << 100 | (n as u128 + 2) << 70 | (n as u128) << 33 | n as u128,
                dst: u128::from(u64::MAX - n as u64) << 40 | (n as u128) << 8,
                src_port: 3 * n as u16,
                dst_port: u16::MAX - n as u16,
                ether_type: 0x0800 + n as u16,
                protocol: u8::MAX - n as u8,
                src_mac: crate::headers::Mac([n as u8 ^ 0xaa; 6]),
                ..Headers::default()
            })
            .collect()
    }

    fn word() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), 0..40u32, Just(u32::MAX), any::<u8>().prop_map(|n| 1 << (n % 32))]
    }

    proptest! {
        #[test]
        fn vectors_and_plain_code_agree(
            a in prop::array::uniform8(word()),
            b in prop::array::uniform8(word()),
            mask in prop::array::uniform8(0..2u32),
            table in prop::collection::vec(any::<u32>(), 0..40),
            frame_count in 1..65usize,
        ) {
            let headers = frames(frame_count);
            let everything = || Everything { a, b, mask, table: &table, headers: &headers };
            prop_assert_eq!(run(everything()), everything().run(Plain));
        }
    }
}
