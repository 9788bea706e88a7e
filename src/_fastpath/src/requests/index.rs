//! Keyed hash functions for the lookup tables: the keys in them are chosen by clients, so that the functions are seeded
//! at random per process. The tables are only looked up, never walked: the seed shows in no result.

use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

/// Multiply-and-fold over 64-bit words, seeded.
#[derive(Clone)]
pub struct Seeded {
    seed: u64,
    factor: u64,
}

impl Default for Seeded {
    fn default() -> Self {
        let random = RandomState::new();
        Seeded { seed: random.hash_one(1u8), factor: random.hash_one(2u8) | 1 }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding { state: self.seed, factor: self.factor }
    }
}

pub struct Folding {
    state: u64,
    factor: u64,
}

fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ (product >> 64) as u64
}

impl Hasher for Folding {
    fn finish(&self) -> u64 {
        fold(self.state ^ 0x9e37_79b9_7f4a_7c15, self.factor)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut raw = [0; 8];
            raw.copy_from_slice(word);
            self.write_u64(u64::from_le_bytes(raw));
        }
        for byte in words.remainder() {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.factor).wrapping_add(word.rotate_left(32));
    }

    /// Array lengths are fixed per table and carry nothing.
    fn write_usize(&mut self, _: usize) {}
}

pub type Map<K, V> = HashMap<K, V, Seeded>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_matters() {
        let seeded = Seeded::default();
        let base = [7u8; 40];
        let mut seen = std::collections::BTreeSet::from([seeded.hash_one(base)]);
        for at in 0..40 {
            let mut changed = base;
            changed[at] ^= 1;
            assert!(seen.insert(seeded.hash_one(changed)), "byte {at}");
        }
    }

    #[test]
    fn close_keys_spread() {
        let seeded = Seeded::default();
        let mut buckets = [0u32; 256];
        for number in 0..25_600u64 {
            buckets[(seeded.hash_one(number) >> 56) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| (20..500).contains(count)), "{buckets:?}");
    }
}
