//! Records found by a 32-byte key: a slab of records and an open-addressing index over it.
//!
//! Slots are stable while a record lives, so that records can refer to each other by slot (four bytes, no hash). Freed
//! slots are reused, last freed first: a state that takes in as many records as it lets go does not grow. Records do not
//! change while they live, and a freed slot keeps its record until it is used again, so that a capture of the table costs
//! little afterwards ([`Chunks`]). The hash is
//! keyed with this process's randomness, because a client chooses the addresses it pays to and could otherwise aim them
//! at one bucket. Nothing observable may depend on the order of buckets or slots.

use super::chunks::Chunks;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Coin ids and addresses.
pub type Key = [u8; 32];

/// No slot. Also the number of records a table can never reach.
pub const NONE: u32 = u32::MAX;

/// A record that knows the key it is found by.
pub trait Keyed: Copy + Default {
    fn key(&self) -> &Key;
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Low half of the key's hash: compared before the record is touched, and enough to rehash without touching it.
    tag: u32,
    slot: u32,
}

const VACANT: Bucket = Bucket { tag: 0, slot: NONE };

pub struct Table<T> {
    records: Chunks<T>,
    /// One bit for each slot: whether it is occupied.
    occupied: Vec<u64>,
    free: Vec<u32>,
    /// Linear probing; a power of two long; deletion shifts back, so there are no tombstones to collect.
    buckets: Vec<Bucket>,
    hasher: RandomState,
}

/// The records that were in a table at a moment, by slot.
pub struct Captured<T> {
    records: Chunks<T>,
    occupied: Vec<u64>,
    len: usize,
}

impl<T: Keyed> Captured<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, slot: u32) -> &T {
        self.records.get(slot as usize)
    }

    /// The slots that were occupied.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        slots(&self.occupied)
    }
}

/// The numbers of the bits that are set.
fn slots(occupied: &[u64]) -> impl Iterator<Item = u32> + '_ {
    (0u32..).zip(occupied).flat_map(|(word, bits)| {
        let after = |bits: &u64| Some(bits & (bits - 1)).filter(|rest| *rest != 0);
        let rests = std::iter::successors(Some(*bits).filter(|bits| *bits != 0), after);
        rests.map(move |rest| word * 64 + rest.trailing_zeros())
    })
}

impl<T: Keyed> Table<T> {
    /// A table with room for `expected` records before it grows.
    pub fn with_capacity(expected: usize) -> Self {
        let buckets = (expected.max(4) * 3 / 2).next_power_of_two();
        Table {
            records: Chunks::with_capacity(expected),
            occupied: Vec::with_capacity(expected.div_ceil(64)),
            free: Vec::new(),
            buckets: vec![VACANT; buckets],
            hasher: RandomState::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    pub fn get(&self, slot: u32) -> &T {
        self.records.get(slot as usize)
    }

    /// The table as it is now, whatever happens to it later.
    pub fn capture(&self) -> Captured<T> {
        Captured { records: self.records.clone(), occupied: self.occupied.clone(), len: self.len() }
    }

    pub fn find(&self, key: &Key) -> Option<u32> {
        let tag = self.tag(key);
        let mask = self.mask();
        let mut at = tag as usize & mask;
        loop {
            let bucket = self.buckets[at];
            if bucket.slot == NONE {
                return None;
            }
            if bucket.tag == tag && self.get(bucket.slot).key() == key {
                return Some(bucket.slot);
            }
            at = (at + 1) & mask;
        }
    }

    /// Add a record whose key is not in the table; returns its slot.
    pub fn insert(&mut self, record: T) -> u32 {
        if (self.len() + 1) * 3 > self.buckets.len() * 2 {
            self.grow();
        }
        let tag = self.tag(record.key());
        let slot = match self.free.pop() {
            Some(slot) => {
                self.records.set(slot as usize, record);
                slot
            }
            None => {
                self.records.push(record);
                (self.records.len() - 1) as u32
            }
        };
        place(&mut self.buckets, Bucket { tag, slot });
        self.flip(slot);
        slot
    }

    /// Take out the record in `slot`.
    pub fn remove(&mut self, slot: u32) -> T {
        let record = *self.get(slot);
        let mask = self.mask();
        let mut hole = self.tag(record.key()) as usize & mask;
        while self.buckets[hole].slot != slot {
            hole = (hole + 1) & mask;
        }
        let mut at = (hole + 1) & mask;
        while self.buckets[at].slot != NONE {
            let home = self.buckets[at].tag as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.buckets[hole] = self.buckets[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.buckets[hole] = VACANT;
        self.free.push(slot);
        self.flip(slot);
        record
    }

    /// A free slot is occupied from now on, or an occupied one free.
    fn flip(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word == self.occupied.len() {
            self.occupied.push(0);
        }
        self.occupied[word] ^= 1 << (slot % 64);
    }

    /// The occupied slots, in an order that means nothing: the caller sorts, or does something that commutes.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        slots(&self.occupied)
    }

    #[cfg(test)]
    pub fn allocated(&self) -> usize {
        self.records.len() + self.buckets.len()
    }

    fn mask(&self) -> usize {
        self.buckets.len() - 1
    }

    fn tag(&self, key: &Key) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish() as u32
    }

    fn grow(&mut self) {
        let larger = vec![VACANT; self.buckets.len() * 2];
        for bucket in std::mem::replace(&mut self.buckets, larger) {
            if bucket.slot != NONE {
                place(&mut self.buckets, bucket);
            }
        }
    }
}

fn place(buckets: &mut [Bucket], bucket: Bucket) {
    let mask = buckets.len() - 1;
    let mut at = bucket.tag as usize & mask;
    while buckets[at].slot != NONE {
        at = (at + 1) & mask;
    }
    buckets[at] = bucket;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default, Clone, Copy, PartialEq, Debug)]
    struct Record {
        key: Key,
        value: u64,
    }

    impl Keyed for Record {
        fn key(&self) -> &Key {
            &self.key
        }
    }

    fn key(number: u64) -> Key {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    #[test]
    fn behaves_like_a_map_under_random_insertions_and_removals() {
        let mut table: Table<Record> = Table::with_capacity(0);
        let mut model = BTreeMap::new();
        let mut captured = Vec::new();
        let mut state = 1u64;
        for step in 0..20_000u64 {
            if step % 1_500 == 0 {
                captured.push((table.capture(), model.clone()));
            }
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let key = key(state >> 33 & 1023);
            match table.find(&key) {
                Some(slot) => assert_eq!(table.remove(slot).value, model.remove(&key).unwrap()),
                None => {
                    assert!(!model.contains_key(&key));
                    let slot = table.insert(Record { key, value: step });
                    assert_eq!(table.get(slot).value, step);
                    model.insert(key, step);
                }
            }
            assert_eq!(table.len(), model.len());
        }
        captured.push((table.capture(), model));
        for (table, model) in captured {
            let mut found: Vec<_> = table.slots().map(|slot| (table.get(slot).key, table.get(slot).value)).collect();
            found.sort_unstable();
            assert_eq!(found.len(), table.len());
            assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn replacing_records_reuses_their_slots() {
        let mut table: Table<Record> = Table::with_capacity(8);
        let mut slot = table.insert(Record { key: key(0), value: 0 });
        for number in 1..10_000 {
            table.remove(slot);
            slot = table.insert(Record { key: key(number), value: number });
        }
        assert_eq!((table.records.len(), table.buckets.len()), (1, 16));
    }
}
