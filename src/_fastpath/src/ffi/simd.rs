//! BLAKE3 over several messages at once, one per lane of the processor's vectors, for messages of one chunk.
//!
//! The `blake3` crate is parallel within a message, from 2 KiB on. Requests are a few hundred bytes, so the lanes here
//! hold different messages instead: 4 to 6 times faster. What does not fit these kernels goes to the crate.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(all(target_arch = "x86_64", fastpath_avx512))]
mod avx512;

/// The largest number of lanes of any kernel.
pub const MOST_LANES: usize = 16;
pub const BLOCK_BYTES: usize = 64;
pub const CHUNK_BYTES: usize = 1024;

const CHUNK_START: u32 = 1 << 0;
const CHUNK_END: u32 = 1 << 1;
const ROOT: u32 = 1 << 3;
const KEYED_HASH: u32 = 1 << 4;

/// BLAKE3 specification, section 2.2, table 1.
const IV: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];
/// The order of the message words in each round: table 2, applied once more each time.
const SCHEDULE: [[usize; 16]; 7] = {
    let permutation = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
    let mut schedule = [[0; 16]; 7];
    let (mut round, mut word) = (0, 0);
    while word < 16 {
        schedule[0][word] = word;
        word += 1;
    }
    while round < 6 {
        word = 0;
        while word < 16 {
            schedule[round + 1][word] = schedule[round][permutation[word]];
            word += 1;
        }
        round += 1;
    }
    schedule
};

/// What starts a hash: the initial chaining value, and the flags of every block.
#[derive(Clone, Copy)]
pub struct Mode {
    words: [u32; 8],
    flags: u32,
}

impl Mode {
    /// The plain hash, or the keyed hash.
    pub fn new(key: Option<&[u8; 32]>) -> Self {
        let Some(key) = key else { return Mode { words: IV, flags: 0 } };
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Mode { words, flags: KEYED_HASH }
    }
}

/// How many blocks a message of one chunk has; the empty message has one.
pub fn blocks(length: usize) -> usize {
    length.div_ceil(BLOCK_BYTES).max(1)
}

type Messages<'a> = [&'a [u8]; MOST_LANES];
type Digests = [[u8; 32]; MOST_LANES];

/// A kernel that the processor can run.
#[derive(Clone, Copy)]
pub struct Kernel {
    lanes: usize,
    hash: unsafe fn(Mode, &Messages<'_>, &mut Digests),
}

impl Kernel {
    /// The widest kernel of this processor; `None` if it has none.
    pub fn widest() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", fastpath_avx512))]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            return Some(Kernel { lanes: avx512::LANES, hash: avx512::hash });
        }
        Self::avx2()
    }

    /// The kernel of 8 lanes, for processors without AVX-512.
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return Some(Kernel { lanes: avx2::LANES, hash: avx2::hash });
        }
        None
    }

    pub fn lanes(self) -> usize {
        self.lanes
    }

    /// Hashes the first [`Kernel::lanes`] messages; the rest of both arrays is left alone.
    ///
    /// # Panics
    /// If these messages have not all the same number of blocks, or more than a chunk has.
    pub fn hash(self, mode: Mode, messages: &Messages<'_>, digests: &mut Digests) {
        let count = blocks(messages[0].len());
        assert!(count <= CHUNK_BYTES / BLOCK_BYTES, "longer than a chunk");
        assert!(messages[..self.lanes].iter().all(|message| blocks(message.len()) == count), "different block counts");
        // SAFETY: `widest` and `avx2` saw that the processor has the kernel's instructions.
        unsafe { (self.hash)(mode, messages, digests) }
    }
}

/// A vector of 32-bit words, one lane per message.
///
/// The methods compile to the instructions of the function that they are inlined into, which must enable them.
trait Lanes: Copy {
    const COUNT: usize;

    fn splat(word: u32) -> Self;
    fn from_words(words: &[u32; MOST_LANES]) -> Self;
    fn into_words(self) -> [u32; MOST_LANES];
    fn add(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn rotate_right_16(self) -> Self;
    fn rotate_right_12(self) -> Self;
    fn rotate_right_8(self) -> Self;
    fn rotate_right_7(self) -> Self;
    /// The 16 words of one block of each message: a transposition.
    fn load_blocks(rows: &[&[u8; BLOCK_BYTES]; MOST_LANES]) -> [Self; 16];
}

/// The quarter round: table 3 and figure 2 of the specification.
#[inline(always)]
fn mix<V: Lanes>(v: &mut [V; 16], [a, b, c, d]: [usize; 4], x: V, y: V) {
    v[a] = v[a].add(v[b]).add(x);
    v[d] = v[d].xor(v[a]).rotate_right_16();
    v[c] = v[c].add(v[d]);
    v[b] = v[b].xor(v[c]).rotate_right_12();
    v[a] = v[a].add(v[b]).add(y);
    v[d] = v[d].xor(v[a]).rotate_right_8();
    v[c] = v[c].add(v[d]);
    v[b] = v[b].xor(v[c]).rotate_right_7();
}

#[inline(always)]
fn compress<V: Lanes>(chaining: &mut [V; 8], block: &[V; 16], lengths: V, flags: u32) {
    let [h0, h1, h2, h3, h4, h5, h6, h7] = *chaining;
    let [i0, i1, i2, i3] = [V::splat(IV[0]), V::splat(IV[1]), V::splat(IV[2]), V::splat(IV[3])];
    // The counter is 0: these messages are one chunk.
    let zero = V::splat(0);
    let mut v = [h0, h1, h2, h3, h4, h5, h6, h7, i0, i1, i2, i3, zero, zero, lengths, V::splat(flags)];
    for order in &SCHEDULE {
        mix(&mut v, [0, 4, 8, 12], block[order[0]], block[order[1]]);
        mix(&mut v, [1, 5, 9, 13], block[order[2]], block[order[3]]);
        mix(&mut v, [2, 6, 10, 14], block[order[4]], block[order[5]]);
        mix(&mut v, [3, 7, 11, 15], block[order[6]], block[order[7]]);
        mix(&mut v, [0, 5, 10, 15], block[order[8]], block[order[9]]);
        mix(&mut v, [1, 6, 11, 12], block[order[10]], block[order[11]]);
        mix(&mut v, [2, 7, 8, 13], block[order[12]], block[order[13]]);
        mix(&mut v, [3, 4, 9, 14], block[order[14]], block[order[15]]);
    }
    for (word, (low, high)) in chaining.iter_mut().zip(v[..8].iter().zip(&v[8..])) {
        *word = low.xor(*high);
    }
}

/// Hashes `V::COUNT` messages that have the same number of blocks.
#[inline(always)]
fn hash_lanes<V: Lanes>(mode: Mode, messages: &Messages<'_>, digests: &mut Digests) {
    let mut chaining = [V::splat(0); 8];
    for (word, value) in chaining.iter_mut().zip(mode.words) {
        *word = V::splat(value);
    }
    let last = blocks(messages[0].len()) - 1;
    let empty = [0u8; BLOCK_BYTES];
    let mut rows = [&empty; MOST_LANES];
    let mut start = CHUNK_START;
    for block in 0..last {
        for (row, message) in rows[..V::COUNT].iter_mut().zip(messages) {
            *row = whole_block(message, block);
        }
        compress(&mut chaining, &V::load_blocks(&rows), V::splat(BLOCK_BYTES as u32), mode.flags | start);
        start = 0;
    }

    let mut tails = [[0u8; BLOCK_BYTES]; MOST_LANES];
    let mut lengths = [0u32; MOST_LANES];
    for lane in 0..V::COUNT {
        let tail = &messages[lane][last * BLOCK_BYTES..];
        tails[lane][..tail.len()].copy_from_slice(tail);
        lengths[lane] = tail.len() as u32;
    }
    let rows = std::array::from_fn(|lane| &tails[lane]);
    let flags = mode.flags | start | CHUNK_END | ROOT;
    compress(&mut chaining, &V::load_blocks(&rows), V::from_words(&lengths), flags);

    for (number, word) in chaining.into_iter().enumerate() {
        for (digest, word) in digests[..V::COUNT].iter_mut().zip(word.into_words()) {
            digest[4 * number..4 * number + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

#[inline(always)]
fn whole_block(message: &[u8], number: usize) -> &[u8; BLOCK_BYTES] {
    let start = number * BLOCK_BYTES;
    message[start..start + BLOCK_BYTES].try_into().expect("a whole block")
}
