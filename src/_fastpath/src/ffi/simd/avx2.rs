//! The kernel of 8 lanes.

use std::arch::x86_64::*;

use super::{hash_lanes, Digests, Lanes, Messages, Mode, BLOCK_BYTES, MOST_LANES};

pub const LANES: usize = 8;

/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn hash(mode: Mode, messages: &Messages<'_>, digests: &mut Digests) {
    hash_lanes::<Words>(mode, messages, digests);
}

#[derive(Clone, Copy)]
struct Words(__m256i);

// SAFETY, for every block below: `hash` is the only user of this type, and its caller saw that there is AVX2. Loads and
// stores are unaligned ones, of memory that a reference covers.
impl Lanes for Words {
    const COUNT: usize = LANES;

    #[inline(always)]
    fn splat(word: u32) -> Self {
        unsafe { Words(_mm256_set1_epi32(word as i32)) }
    }

    #[inline(always)]
    fn from_words(words: &[u32; MOST_LANES]) -> Self {
        unsafe { Words(_mm256_loadu_si256(words.as_ptr().cast())) }
    }

    #[inline(always)]
    fn into_words(self) -> [u32; MOST_LANES] {
        let mut words = [0; MOST_LANES];
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), self.0) };
        words
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Words(_mm256_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        unsafe { Words(_mm256_xor_si256(self.0, other.0)) }
    }

    #[inline(always)]
    fn rotate_right_16(self) -> Self {
        const ORDER: [u8; 16] = [2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13];
        unsafe { shuffle_bytes(self, &ORDER) }
    }

    #[inline(always)]
    fn rotate_right_12(self) -> Self {
        unsafe { Words(_mm256_or_si256(_mm256_srli_epi32(self.0, 12), _mm256_slli_epi32(self.0, 20))) }
    }

    #[inline(always)]
    fn rotate_right_8(self) -> Self {
        const ORDER: [u8; 16] = [1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12];
        unsafe { shuffle_bytes(self, &ORDER) }
    }

    #[inline(always)]
    fn rotate_right_7(self) -> Self {
        unsafe { Words(_mm256_or_si256(_mm256_srli_epi32(self.0, 7), _mm256_slli_epi32(self.0, 25))) }
    }

    #[inline(always)]
    fn load_blocks(rows: &[&[u8; BLOCK_BYTES]; MOST_LANES]) -> [Self; 16] {
        unsafe {
            let low = transpose(std::array::from_fn(|row| _mm256_loadu_si256(rows[row].as_ptr().cast())));
            let high = transpose(std::array::from_fn(|row| _mm256_loadu_si256(rows[row].as_ptr().add(32).cast())));
            std::array::from_fn(|word| Words(if word < 8 { low[word] } else { high[word - 8] }))
        }
    }
}

/// # Safety
/// Inlined into a function with AVX2.
#[inline(always)]
unsafe fn shuffle_bytes(words: Words, order: &[u8; 16]) -> Words {
    // SAFETY: the caller's promise; `order` covers the load.
    unsafe {
        let order = _mm256_broadcastsi128_si256(_mm_loadu_si128(order.as_ptr().cast()));
        Words(_mm256_shuffle_epi8(words.0, order))
    }
}

/// Transposes a matrix of 8 rows of 8 words.
///
/// # Safety
/// Inlined into a function with AVX2.
#[inline(always)]
pub unsafe fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        // Pairs of words, then quadruples, then halves.
        let mut pairs = rows;
        for i in [0, 2, 4, 6] {
            pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        let mut fours = pairs;
        for i in [0, 4] {
            fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
        }
        let mut columns = fours;
        for i in 0..4 {
            columns[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
            columns[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
        }
        columns
    }
}
