//! Lanes as AVX2 registers. With [`crate::intrinsics`] the only unsafe code of the crate.
#![allow(unsafe_code, reason = "the intrinsics are unsafe outside functions compiled for AVX2")]

use std::arch::x86_64::*;

use super::{
    Eight, Fields, Halves, Kernel, LANES, Lanes, Words, full_group, header_words, last_group,
};
use crate::headers::Headers;

/// That the machine has AVX2: there is no other way to get one than [`Avx2::detect`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[inline(always)]
    pub(crate) fn detect() -> Option<Self> {
        let has_bits = is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        (is_x86_feature_detected!("avx2") && has_bits).then_some(Self(()))
    }

    /// Runs a kernel, compiled for such machines.
    #[inline(always)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn compiled<K: Kernel>(lanes: Avx2, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` says that the machine has AVX2, BMI1, BMI2, LZCNT and POPCNT.
        // JUSTIFICATION: a lookup is about three times as fast. See `bench/results/classify.md`.
        unsafe { compiled(self, kernel) }
    }
}

/// Calls an intrinsic in a method of [`Avx2`].
macro_rules! avx2 {
    ($call:expr) => {
        // SAFETY: the method's `self` says that the machine has AVX2. Nothing here touches memory
        // but through references to as many bytes as are loaded or stored.
        unsafe { $call }
    };
}

impl Avx2 {
    /// [`Lanes::fields`] of eight frames.
    #[inline(always)]
    fn fields_of(self, frames: [&Headers; LANES]) -> Fields<__m256i> {
        let [src, _, _, _, dst, ..] = self.addresses_of(frames);
        let [a, b, c, d, e, f, g, h] = frames.map(|frame| {
            std::ptr::from_ref(frame).cast::<i32>().wrapping_add(header_words::PORTS).cast()
        });
        // SAFETY: the machine has AVX2; the four words of each frame are within it, and have no byte
        // that is not of a field.
        unsafe {
            let (ae, bf) = (_mm256_loadu2_m128i(e, a), _mm256_loadu2_m128i(f, b));
            let (cg, dh) = (_mm256_loadu2_m128i(g, c), _mm256_loadu2_m128i(h, d));
            let (first, second) = (_mm256_unpacklo_epi32(ae, bf), _mm256_unpacklo_epi32(cg, dh));
            let ports = _mm256_unpacklo_epi64(first, second);
            Fields { src, dst, ports, kind: _mm256_unpackhi_epi64(first, second) }
        }
    }

    /// [`Lanes::addresses`] of eight frames.
    #[inline(always)]
    fn addresses_of(self, frames: [&Headers; LANES]) -> [__m256i; LANES] {
        let [a, b, c, d, e, f, g, h] =
            frames.map(|frame| std::ptr::from_ref(frame).cast::<Eight>());
        // SAFETY: the first 32 bytes of a frame are its addresses.
        let rows = unsafe {
            [
                self.load(&*a),
                self.load(&*b),
                self.load(&*c),
                self.load(&*d),
                self.load(&*e),
                self.load(&*f),
                self.load(&*g),
                self.load(&*h),
            ]
        };
        avx2!(transposed(rows))
    }

    /// The words, one by one, of which there are two in each register that is read out.
    #[inline(always)]
    fn words(self, vector: __m256i) -> [usize; LANES] {
        let [ab, cd, ef, gh] = avx2!({
            let low = _mm256_castsi256_si128(vector);
            let high = _mm256_extracti128_si256::<1>(vector);
            [
                _mm_cvtsi128_si64(low) as u64,
                _mm_extract_epi64::<1>(low) as u64,
                _mm_cvtsi128_si64(high) as u64,
                _mm_extract_epi64::<1>(high) as u64,
            ]
        });
        let [a, c, e, g] = [ab, cd, ef, gh].map(|two| two as u32 as usize);
        let [b, d, f, h] = [ab, cd, ef, gh].map(|two| (two >> 32) as usize);
        [a, b, c, d, e, f, g, h]
    }

    /// The words of which `bytes` are the first ones, counted from `first`. They are loaded one by one:
    /// an instruction that gathers them takes more operations on some machines (39 on Zen 4), and
    /// far longer on those where it has been mended against Downfall (CVE-2022-40982).
    ///
    /// # Safety
    ///
    /// Each of these words can be read.
    #[inline(always)]
    unsafe fn load_each(self, first: *const u8, bytes: __m256i) -> __m256i {
        let words = self.words(bytes);
        // SAFETY: the machine has AVX2; the caller's.
        unsafe {
            let [a, b, c, d, e, f, g, h] = words.map(|byte| _mm_loadu_si32(first.add(byte)));
            let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (ef, gh) = (_mm_unpacklo_epi32(e, f), _mm_unpacklo_epi32(g, h));
            _mm256_set_m128i(_mm_unpacklo_epi64(ef, gh), _mm_unpacklo_epi64(ab, cd))
        }
    }
}

impl Lanes for Avx2 {
    type W = __m256i;

    #[inline(always)]
    fn splat(self, word: u32) -> __m256i {
        avx2!(_mm256_set1_epi32(word as i32))
    }

    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_sub_epi32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn without(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_andnot_si256(b, a))
    }

    #[inline(always)]
    fn shl<const BITS: i32>(self, a: __m256i) -> __m256i {
        avx2!(_mm256_slli_epi32::<BITS>(a))
    }

    #[inline(always)]
    fn shr<const BITS: i32>(self, a: __m256i) -> __m256i {
        avx2!(_mm256_srli_epi32::<BITS>(a))
    }

    #[inline(always)]
    fn shr_by(self, a: __m256i, bits: __m256i) -> __m256i {
        avx2!(_mm256_srlv_epi32(a, _mm256_and_si256(bits, _mm256_set1_epi32(31))))
    }

    #[inline(always)]
    fn shr_far(self, a: __m256i, bits: __m256i) -> __m256i {
        avx2!(_mm256_srlv_epi32(a, bits))
    }

    #[inline(always)]
    fn min(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_min_epu32(a, b))
    }

    #[inline(always)]
    fn equal(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_cmpeq_epi32(a, b))
    }

    #[inline(always)]
    fn signs(self, words: __m256i) -> __m256i {
        avx2!(_mm256_srai_epi32::<31>(words))
    }

    #[inline(always)]
    fn select(self, mask: __m256i, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_blendv_epi8(b, a, mask))
    }

    #[inline(always)]
    fn permute(self, words: __m256i, places: __m256i) -> __m256i {
        avx2!(_mm256_permutevar8x32_epi32(words, places))
    }

    #[inline(always)]
    fn bits(self, mask: __m256i) -> u32 {
        avx2!(_mm256_movemask_ps(_mm256_castsi256_ps(mask)) as u32)
    }

    #[inline(always)]
    fn gather(self, table: Words<'_>, places: __m256i) -> __m256i {
        let places = self.min(places, self.splat(table.last()));
        // SAFETY: every place is at most that of the last word, which is below 2^30.
        unsafe { self.load_each(table.words.as_ptr().cast(), self.shl::<2>(places)) }
    }

    #[inline(always)]
    fn shl_by(self, a: __m256i, bits: __m256i) -> __m256i {
        avx2!(_mm256_sllv_epi32(a, bits))
    }

    #[inline(always)]
    fn gather_halves(self, table: Halves<'_>, places: __m256i) -> __m256i {
        let places = self.min(places, self.splat(table.last()));
        // SAFETY: every place is at most that of the last half but one, which is below 2^30, and two
        // halves are read.
        let words = unsafe { self.load_each(table.halves.as_ptr().cast(), self.shl::<1>(places)) };
        self.and(words, self.splat(0xffff))
    }

    #[inline(always)]
    fn gather_two(self, table: Words<'_>, places: __m256i) -> [__m256i; 2] {
        let places = self.min(places, self.splat(table.last_two()));
        let first: *const u8 = table.rows().as_ptr().cast();
        let bytes = self.words(self.shl::<3>(places));
        // SAFETY: every place is at most that of the last two words, which is below 2^29.
        let [a, b, c, d, e, f, g, h] =
            bytes.map(|byte| unsafe { _mm_loadl_epi64(first.add(byte).cast()) });
        let (low, high) = avx2!((
            _mm256_set_m128i(_mm_unpacklo_epi64(c, d), _mm_unpacklo_epi64(a, b)),
            _mm256_set_m128i(_mm_unpacklo_epi64(g, h), _mm_unpacklo_epi64(e, f))
        ));
        avx2!({
            let (low, high) = (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
            let first = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(low, high));
            let second = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(low, high));
            [
                _mm256_permute4x64_epi64::<0b11_01_10_00>(first),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(second),
            ]
        })
    }

    #[inline(always)]
    fn fields(self, headers: &[Headers], first: usize) -> Fields<__m256i> {
        match full_group(headers, first) {
            Some(frames) => self.fields_of(frames.each_ref()),
            None => self.fields_of(last_group(headers, first)),
        }
    }

    #[inline(always)]
    fn addresses(self, headers: &[Headers], first: usize) -> [__m256i; LANES] {
        match full_group(headers, first) {
            Some(frames) => self.addresses_of(frames.each_ref()),
            None => self.addresses_of(last_group(headers, first)),
        }
    }

    #[inline(always)]
    fn load(self, words: &Eight) -> __m256i {
        avx2!(_mm256_loadu_si256(words.as_ptr().cast()))
    }

    #[inline(always)]
    fn store(self, vector: __m256i, words: &mut Eight) {
        avx2!(_mm256_storeu_si256(words.as_mut_ptr().cast(), vector))
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_xor_si256(a, b))
    }

    #[inline(always)]
    fn halves_at_most(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_cmpeq_epi16(_mm256_min_epu16(a, b), a))
    }

    #[inline(always)]
    fn count_halves(self, counts: __m256i, mask: __m256i) -> __m256i {
        avx2!(_mm256_sub_epi16(counts, mask))
    }

    #[inline(always)]
    fn trailing_zeros(self, words: __m256i) -> __m256i {
        avx2!({
            let lowest = _mm256_and_si256(words, _mm256_sub_epi32(_mm256_setzero_si256(), words));
            // A power of two as a float has its logarithm in the exponent, 127 above; the sign of the
            // greatest is shifted out.
            let float = _mm256_castps_si256(_mm256_cvtepi32_ps(lowest));
            let exponent = _mm256_srli_epi32::<23>(float);
            _mm256_and_si256(
                _mm256_sub_epi32(exponent, _mm256_set1_epi32(127)),
                _mm256_set1_epi32(31),
            )
        })
    }

    #[inline(always)]
    fn leading_zeros(self, words: __m256i) -> __m256i {
        avx2!({
            // No float is rounded up to the next power of two where only eight bits are left below
            // the highest.
            let upper = _mm256_andnot_si256(_mm256_srli_epi32::<8>(words), words);
            let float = _mm256_castps_si256(_mm256_cvtepi32_ps(upper));
            // The exponent is 127 above the logarithm; below the sign of what has no zeros, and none
            // of nothing.
            let exponent = _mm256_srli_epi32::<23>(float);
            let zeros = _mm256_subs_epu16(_mm256_set1_epi32(127 + 31), exponent);
            _mm256_min_epi16(zeros, _mm256_set1_epi32(32))
        })
    }

    #[inline(always)]
    fn gather_rows(self, table: Words<'_>, rows: __m256i) -> [__m256i; LANES] {
        let rows = self.min(rows, self.splat(table.last_row()));
        let first: *const u8 = table.rows().as_ptr().cast();
        let bytes = self.words(self.shl::<5>(rows));
        // SAFETY: the machine has AVX2; every row is at most the last, whose number is below 2^27.
        let rows = bytes.map(|byte| unsafe { _mm256_loadu_si256(first.add(byte).cast()) });
        avx2!(transposed(rows))
    }

    #[inline(always)]
    fn prefetch_rows(self, table: Words<'_>, rows: __m256i) {
        let first: *const u8 = table.rows().as_ptr().cast();
        for byte in self.words(self.shl::<5>(rows)) {
            // SAFETY: the instruction neither faults nor changes memory, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(byte).cast()) };
        }
    }

    #[inline(always)]
    fn take_bits(self, word: u64, mask: u64) -> u64 {
        avx2!(_pext_u64(word, mask))
    }

    #[inline(always)]
    fn fraction(self, words: __m256i, of: u32) -> __m256i {
        let of = self.splat(of);
        avx2!({
            let even = _mm256_srli_epi64::<32>(_mm256_mul_epu32(words, of));
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(words), of);
            _mm256_blend_epi32::<0b1010_1010>(even, odd)
        })
    }
}

/// # Safety
///
/// The machine has AVX2.
#[inline(always)]
unsafe fn transposed(rows: [__m256i; LANES]) -> [__m256i; LANES] {
    // SAFETY: the caller's.
    unsafe {
        let [a, b, c, d, e, f, g, h] = rows;
        // Words of two rows side by side: 0 and 1 of either half, and 2 and 3.
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm256_unpacklo_epi32(e, f), _mm256_unpacklo_epi32(g, h));
        let (ab_2, cd_2) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        let (ef_2, gh_2) = (_mm256_unpackhi_epi32(e, f), _mm256_unpackhi_epi32(g, h));
        // One word of four rows in either half.
        let (abcd_0, efgh_0) = (_mm256_unpacklo_epi64(ab, cd), _mm256_unpacklo_epi64(ef, gh));
        let (abcd_1, efgh_1) = (_mm256_unpackhi_epi64(ab, cd), _mm256_unpackhi_epi64(ef, gh));
        let (abcd_2, efgh_2) =
            (_mm256_unpacklo_epi64(ab_2, cd_2), _mm256_unpacklo_epi64(ef_2, gh_2));
        let (abcd_3, efgh_3) =
            (_mm256_unpackhi_epi64(ab_2, cd_2), _mm256_unpackhi_epi64(ef_2, gh_2));
        [
            _mm256_permute2x128_si256::<0x20>(abcd_0, efgh_0),
            _mm256_permute2x128_si256::<0x20>(abcd_1, efgh_1),
            _mm256_permute2x128_si256::<0x20>(abcd_2, efgh_2),
            _mm256_permute2x128_si256::<0x20>(abcd_3, efgh_3),
            _mm256_permute2x128_si256::<0x31>(abcd_0, efgh_0),
            _mm256_permute2x128_si256::<0x31>(abcd_1, efgh_1),
            _mm256_permute2x128_si256::<0x31>(abcd_2, efgh_2),
            _mm256_permute2x128_si256::<0x31>(abcd_3, efgh_3),
        ]
    }
}
