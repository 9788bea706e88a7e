//! Ed25519 signature checks under the ZIP-215 rules, singly and in batches, with one verdict.
//!
//! The cryptography is `ed25519-zebra`'s: its single check, and its batch equation over random 128-bit coefficients,
//! which agree. Here is what surrounds them: batches of the right size, and the search for culprits. When the equation
//! fails, halves are tried until the culprits stand alone, and what a batch could not show valid is decided by the
//! single check. So a bad signature is never accepted but with probability 2^-128, and a good one never refused.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use curve25519_dalek::edwards::CompressedEdwardsY;
use ed25519_zebra::{batch, Signature, VerificationKey, VerificationKeyBytes};
use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Signatures per batch equation: beyond this the gain per signature is small, and points fall out of the cache.
pub const BATCH: usize = 256;
/// The last batches of a list are made smaller, so that all threads finish together, but not so small that the equation
/// is solved by the method for few points, which costs a tenth more per signature.
pub const SMALLEST_BATCH: usize = 96;
/// Groups of at most this many are checked singly: an equation costs about as much.
const SINGLY: usize = 2;

/// Once one in so many of a batch was found bad, the rest is checked singly: in a flood of bad signatures the search for
/// good groups costs more than it saves.
const CULPRIT_SHARE: usize = 16;

/// One signature to check. The signed message is `prefix` followed by `message`.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    pub public_key: &'a [u8; 32],
    pub signature: &'a [u8; 64],
    pub prefix: &'a [u8],
    pub message: &'a [u8],
}

/// A public key decoded once, for signers whose signatures are checked singly again and again.
#[derive(Clone, Copy)]
pub struct ParsedKey(VerificationKey);

impl ParsedKey {
    /// `None`: not the encoding of a point (ZIP-215 accepts non-canonical encodings).
    pub fn new(public_key: &[u8; 32]) -> Option<Self> {
        VerificationKey::try_from(*public_key).ok().map(ParsedKey)
    }

    pub fn verify(&self, signature: &[u8; 64], message: &[u8]) -> bool {
        self.0.verify(&Signature::from(*signature), message).is_ok()
    }
}

/// Whether the signature verifies.
pub fn verify(public_key: &[u8; 32], signature: &[u8; 64], message: &[u8]) -> bool {
    ParsedKey::new(public_key).is_some_and(|key| key.verify(signature, message))
}

/// Whether a public key is a point of small order, or no point at all: whoever holds such a key can make signatures
/// that fit many messages.
pub fn is_small_order(public_key: &[u8; 32]) -> bool {
    CompressedEdwardsY(*public_key).decompress().is_none_or(|point| point.is_small_order())
}

/// Checks all items on this thread; one byte each, 1 where the signature verifies, else 0.
pub fn verify_batch(items: &[Item<'_>]) -> Vec<u8> {
    let mut mask = Vec::with_capacity(items.len());
    let mut message = Vec::new();
    for chunk in items.chunks(BATCH) {
        let parsed = chunk.iter().map(|item| item.parse(&mut message)).collect();
        mask.extend(Batch::new(parsed).verdicts());
    }
    mask
}

impl Item<'_> {
    /// The item with its message hashed; `scratch` is where prefix and message meet.
    fn parse(&self, scratch: &mut Vec<u8>) -> batch::Item {
        scratch.clear();
        scratch.extend_from_slice(self.prefix);
        scratch.extend_from_slice(self.message);
        let key = VerificationKeyBytes::from(*self.public_key);
        batch::Item::from((key, Signature::from(*self.signature), &*scratch))
    }
}

/// Items to decide together.
struct Batch {
    items: Vec<batch::Item>,
    /// Where the coefficients of the equations come from; `None`: the system has no randomness to give.
    coefficients: Option<ChaCha8Rng>,
    /// Counts down with each culprit; at zero the rest is checked singly.
    patience: usize,
}

impl Batch {
    fn new(items: Vec<batch::Item>) -> Self {
        let mut seed = [0u8; 32];
        let coefficients = getrandom::fill(&mut seed).ok().map(|()| ChaCha8Rng::from_seed(seed));
        let patience = if coefficients.is_some() { items.len().div_ceil(CULPRIT_SHARE) } else { 0 };
        Batch { items, coefficients, patience }
    }

    fn verdicts(mut self) -> Vec<u8> {
        let mut mask = vec![0; self.items.len()];
        let all = 0..self.items.len();
        if self.items.len() > SINGLY && self.holds(all.clone()) {
            mask.fill(1);
        } else {
            self.bisect(all, &mut mask);
        }
        mask
    }

    /// Decides the items of a group for which the equation does not hold.
    fn bisect(&mut self, group: Range<usize>, mask: &mut [u8]) {
        if group.len() <= SINGLY || self.patience == 0 {
            for number in group {
                let valid = self.items[number].clone().verify_single().is_ok();
                self.patience = self.patience.saturating_sub(usize::from(!valid));
                mask[number] = u8::from(valid);
            }
            return;
        }
        let middle = group.start + group.len() / 2;
        let (left, right) = (group.start..middle, middle..group.end);
        if self.holds(left.clone()) {
            // The culprits are all in the right half: no need to ask the equation.
            mask[left].fill(1);
            self.bisect(right, mask);
        } else {
            self.bisect(left, mask);
            if self.holds(right.clone()) {
                mask[right].fill(1);
            } else {
                self.bisect(right, mask);
            }
        }
    }

    /// Whether the batch equation holds for a group of items.
    fn holds(&mut self, group: Range<usize>) -> bool {
        let Some(coefficients) = &mut self.coefficients else {
            return false;
        };
        let mut equation = batch::Verifier::new();
        for item in &self.items[group] {
            equation.queue(item.clone());
        }
        equation.verify(coefficients).is_ok()
    }
}

/// Hands out a list in batches to threads that ask for more: large ones first, then smaller, so that nobody waits
/// long for the last.
pub struct Schedule {
    next: AtomicUsize,
    count: usize,
    threads: usize,
}

impl Schedule {
    pub fn new(count: usize, threads: usize) -> Self {
        Schedule { next: AtomicUsize::new(0), count, threads: threads.max(1) }
    }

    /// The next batch for the calling thread; `None` when all are taken.
    pub fn claim(&self) -> Option<Range<usize>> {
        let mut start = self.next.load(Ordering::Relaxed);
        loop {
            if start >= self.count {
                return None;
            }
            let end = start + self.batch_size(self.count - start);
            match self.next.compare_exchange_weak(start, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(start..end),
                Err(current) => start = current,
            }
        }
    }

    fn batch_size(&self, remaining: usize) -> usize {
        if self.threads == 1 {
            return remaining.min(BATCH);
        }
        remaining.div_ceil(self.threads).clamp(SMALLEST_BATCH, BATCH).min(remaining)
    }
}

/// Writes the verdicts of one batch of a list; `get` gives an item by its number, `None` where it is not even one (a key
/// or signature of the wrong length).
pub fn verify_range<'a>(get: &(dyn Fn(usize) -> Option<Item<'a>> + Sync), range: Range<usize>, mask: &[AtomicU8]) {
    let mut items = Vec::with_capacity(range.len());
    let mut numbers = Vec::with_capacity(range.len());
    for number in range {
        if let Some(item) = get(number) {
            items.push(item);
            numbers.push(number);
        } else {
            mask[number].store(0, Ordering::Relaxed);
        }
    }
    for (number, verdict) in numbers.into_iter().zip(verify_batch(&items)) {
        mask[number].store(verdict, Ordering::Relaxed);
    }
}
