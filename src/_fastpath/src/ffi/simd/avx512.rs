//! The kernel of 16 lanes.

// Compiled only where the compiler has these intrinsics (see setup.py).
#![allow(clippy::incompatible_msrv)]

use std::arch::x86_64::*;

use super::avx2::transpose;
use super::{hash_lanes, Digests, Lanes, Messages, Mode, BLOCK_BYTES, MOST_LANES};

pub const LANES: usize = 16;

/// # Safety
/// The processor has AVX-512 F and VL.
#[target_feature(enable = "avx512f,avx512vl")]
pub unsafe fn hash(mode: Mode, messages: &Messages<'_>, digests: &mut Digests) {
    hash_lanes::<Words>(mode, messages, digests);
}

#[derive(Clone, Copy)]
struct Words(__m512i);

// SAFETY, for every block below: `hash` is the only user of this type, and its caller saw that there is AVX-512. Loads
// and stores are unaligned ones, of memory that a reference covers.
impl Lanes for Words {
    const COUNT: usize = LANES;

    #[inline(always)]
    fn splat(word: u32) -> Self {
        unsafe { Words(_mm512_set1_epi32(word as i32)) }
    }

    #[inline(always)]
    fn from_words(words: &[u32; MOST_LANES]) -> Self {
        unsafe { Words(_mm512_loadu_si512(words.as_ptr().cast())) }
    }

    #[inline(always)]
    fn into_words(self) -> [u32; MOST_LANES] {
        let mut words = [0; MOST_LANES];
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), self.0) };
        words
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Words(_mm512_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        unsafe { Words(_mm512_xor_si512(self.0, other.0)) }
    }

    #[inline(always)]
    fn rotate_right_16(self) -> Self {
        unsafe { Words(_mm512_ror_epi32(self.0, 16)) }
    }

    #[inline(always)]
    fn rotate_right_12(self) -> Self {
        unsafe { Words(_mm512_ror_epi32(self.0, 12)) }
    }

    #[inline(always)]
    fn rotate_right_8(self) -> Self {
        unsafe { Words(_mm512_ror_epi32(self.0, 8)) }
    }

    #[inline(always)]
    fn rotate_right_7(self) -> Self {
        unsafe { Words(_mm512_ror_epi32(self.0, 7)) }
    }

    #[inline(always)]
    fn load_blocks(rows: &[&[u8; BLOCK_BYTES]; MOST_LANES]) -> [Self; 16] {
        unsafe {
            let mut words = [Self::splat(0); 16];
            for half in 0..2 {
                let load = |row: usize| _mm256_loadu_si256(rows[row].as_ptr().add(32 * half).cast());
                let low = transpose(std::array::from_fn(load));
                let high = transpose(std::array::from_fn(|row| load(8 + row)));
                for word in 0..8 {
                    words[8 * half + word] =
                        Words(_mm512_inserti64x4(_mm512_castsi256_si512(low[word]), high[word], 1));
                }
            }
            words
        }
    }
}
