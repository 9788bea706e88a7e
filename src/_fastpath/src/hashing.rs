//! BLAKE3 of many messages: short ones side by side in the lanes of the processor's vectors, long ones by the crate.

use crate::ffi::simd::{blocks, Kernel, Mode, BLOCK_BYTES, CHUNK_BYTES, MOST_LANES};

pub type Digest = [u8; 32];

/// From this many on, messages with the same number of blocks are cheaper side by side, empty lanes included.
const FEWEST_LANES: usize = 3;
const MOST_BLOCKS: usize = CHUNK_BYTES / BLOCK_BYTES;

/// BLAKE3-256 of a message, keyed if there is a key.
pub fn hash(key: Option<&[u8; 32]>, message: &[u8]) -> Digest {
    *key.map_or_else(|| blake3::hash(message), |key| blake3::keyed_hash(key, message)).as_bytes()
}

/// A 32-byte key for `context` from `material`: the domain separation of this project.
pub fn derive_key(context: &str, material: &[u8]) -> [u8; 32] {
    blake3::derive_key(context, material)
}

/// BLAKE3-256 of each message, keyed if there is a key.
///
/// # Panics
/// If there are not as many digests as messages.
pub fn hash_many(key: Option<&[u8; 32]>, messages: &[&[u8]], digests: &mut [Digest]) {
    hash_many_with(Kernel::widest(), key, messages, digests);
}

fn hash_many_with(kernel: Option<Kernel>, key: Option<&[u8; 32]>, messages: &[&[u8]], digests: &mut [Digest]) {
    assert_eq!(messages.len(), digests.len(), "one digest per message");
    let Some(kernel) = kernel else {
        for (message, digest) in messages.iter().zip(digests) {
            *digest = hash(key, message);
        }
        return;
    };
    let mode = Mode::new(key);
    let mut groups = [Group { count: 0, numbers: [0; MOST_LANES] }; MOST_BLOCKS];
    for (number, message) in messages.iter().enumerate() {
        if message.len() > CHUNK_BYTES {
            digests[number] = hash(key, message);
            continue;
        }
        let group = &mut groups[blocks(message.len()) - 1];
        group.numbers[group.count] = number;
        group.count += 1;
        if group.count == kernel.lanes() {
            group.hash(kernel, mode, messages, digests);
        }
    }
    for group in &mut groups {
        if group.count >= FEWEST_LANES {
            group.hash(kernel, mode, messages, digests);
        }
        for &number in &group.numbers[..group.count] {
            digests[number] = hash(key, messages[number]);
        }
    }
}

/// Messages with the same number of blocks that wait for the lanes to fill.
#[derive(Clone, Copy)]
struct Group {
    count: usize,
    numbers: [usize; MOST_LANES],
}

impl Group {
    /// Hashes the messages of the group and empties it.
    fn hash(&mut self, kernel: Kernel, mode: Mode, messages: &[&[u8]], digests: &mut [Digest]) {
        // Lanes without a message of their own repeat the first.
        let mut lanes = [messages[self.numbers[0]]; MOST_LANES];
        for (lane, &number) in lanes.iter_mut().zip(&self.numbers[..self.count]) {
            *lane = messages[number];
        }
        let mut results = [[0; 32]; MOST_LANES];
        kernel.hash(mode, &lanes, &mut results);
        for (&number, result) in self.numbers[..self.count].iter().zip(results) {
            digests[number] = result;
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kernel: Option<Kernel>, lengths: &[usize]) {
        let text: Vec<u8> = (0..4000u32).map(|i| (i % 251) as u8).collect();
        let messages: Vec<&[u8]> = lengths.iter().enumerate().map(|(i, &length)| &text[i % 100..][..length]).collect();
        let key = [7; 32];
        for key in [None, Some(&key)] {
            let mut digests = vec![[0; 32]; messages.len()];
            hash_many_with(kernel, key, &messages, &mut digests);
            for (message, digest) in messages.iter().zip(digests) {
                assert_eq!(digest, hash(key, message), "length {}", message.len());
            }
        }
    }

    #[test]
    fn agrees_with_the_crate_on_every_length_and_kernel() {
        for kernel in [None, Kernel::avx2(), Kernel::widest()] {
            check(kernel, &[]);
            check(kernel, &(0..=1100).collect::<Vec<_>>());
            for count in 0..40 {
                check(kernel, &vec![310; count]);
                check(kernel, &(0..count).map(|i| i * 97 % 1500).collect::<Vec<_>>());
            }
        }
    }
}
