//! Ed25519 signature checks under the ZIP-215 rules, singly and in batches, with one verdict.
//!
//! A single check is `ed25519-zebra`'s. A batch is checked with one equation over all its signatures,
//!
//! `8 * (sum(z_i * s_i) * B - sum(z_i * R_i) - sum(z_i * k_i * A_i)) = 0`,
//!
//! where `z_i` are random 128-bit coefficients (Bernstein et al., "High-speed high-security signatures", section 5;
//! the multiplication by the cofactor makes it agree with ZIP-215's single equation). Points are decoded and messages
//! hashed once; when the equation fails, halves are tried until the culprits stand alone, and what a batch could not
//! show valid is decided by the single check. So a bad signature is never accepted but with probability 2^-128, and a
//! good one never refused.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use ed25519_zebra::{Signature, VerificationKey};
use sha2::{Digest, Sha512};

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
    for batch in items.chunks(BATCH) {
        mask.extend(Batch::new(batch).map_or_else(|| verify_singly(batch), Batch::verdicts));
    }
    mask
}

fn verify_singly(items: &[Item<'_>]) -> Vec<u8> {
    items.iter().map(|item| u8::from(item.verify())).collect()
}

impl Item<'_> {
    fn verify(&self) -> bool {
        if self.prefix.is_empty() {
            return verify(self.public_key, self.signature, self.message);
        }
        verify(self.public_key, self.signature, &[self.prefix, self.message].concat())
    }

    /// `k` of RFC 8032 section 5.1.7: the hash of R, the key and the message, modulo the group's order.
    fn challenge(&self) -> Scalar {
        let hash = Sha512::new()
            .chain_update(&self.signature[..32])
            .chain_update(self.public_key)
            .chain_update(self.prefix)
            .chain_update(self.message);
        Scalar::from_hash(hash)
    }
}

/// A batch with its points decoded and its coefficients drawn.
struct Batch<'a> {
    items: &'a [Item<'a>],
    /// The distinct public keys that are points: signatures by one key share one term of the equation.
    keys: Vec<EdwardsPoint>,
    /// The items whose parts all decode, in the order of `items`.
    terms: Vec<Term>,
}

/// What one item adds to the equation.
struct Term {
    item: usize,
    key: usize,
    nonce_point: EdwardsPoint,
    coefficient: Scalar,
    key_coefficient: Scalar,
    base_coefficient: Scalar,
}

impl<'a> Batch<'a> {
    /// `None`: the system has no randomness to give.
    fn new(items: &'a [Item<'a>]) -> Option<Self> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).ok()?;
        let mut coefficients = blake3::Hasher::new_keyed(&seed).finalize_xof();

        let mut keys = Vec::with_capacity(items.len());
        let mut key_numbers: HashMap<&[u8; 32], Option<usize>> = HashMap::with_capacity(items.len());
        let mut terms = Vec::with_capacity(items.len());
        for (number, item) in items.iter().enumerate() {
            let key = *key_numbers.entry(item.public_key).or_insert_with(|| {
                keys.push(CompressedEdwardsY(*item.public_key).decompress()?);
                Some(keys.len() - 1)
            });
            let mut random = [0u8; 16];
            coefficients.fill(&mut random);
            terms.extend(key.and_then(|key| Term::new(number, item, key, u128::from_le_bytes(random))));
        }
        Some(Batch { items, keys, terms })
    }

    fn verdicts(self) -> Vec<u8> {
        let mut mask = vec![0; self.items.len()];
        let mut patience = self.terms.len().div_ceil(CULPRIT_SHARE);
        if self.holds(0..self.terms.len()) {
            self.accept(0..self.terms.len(), &mut mask);
        } else {
            self.bisect(0..self.terms.len(), &mut patience, &mut mask);
        }
        mask
    }

    /// Decides the terms of a group for which the equation does not hold. `patience` counts down with each culprit.
    fn bisect(&self, group: Range<usize>, patience: &mut usize, mask: &mut [u8]) {
        if group.len() <= SINGLY || *patience == 0 {
            for term in &self.terms[group] {
                let valid = self.items[term.item].verify();
                *patience = patience.saturating_sub(usize::from(!valid));
                mask[term.item] = u8::from(valid);
            }
            return;
        }
        let middle = group.start + group.len() / 2;
        let (left, right) = (group.start..middle, middle..group.end);
        if self.holds(left.clone()) {
            // The culprits are all in the right half: no need to ask the equation.
            self.accept(left, mask);
            self.bisect(right, patience, mask);
        } else {
            self.bisect(left, patience, mask);
            if self.holds(right.clone()) {
                self.accept(right, mask);
            } else {
                self.bisect(right, patience, mask);
            }
        }
    }

    fn accept(&self, group: Range<usize>, mask: &mut [u8]) {
        for term in &self.terms[group] {
            mask[term.item] = 1;
        }
    }

    /// Whether the batch equation holds for a group of terms.
    fn holds(&self, group: Range<usize>) -> bool {
        let group = &self.terms[group];
        let mut base_coefficient = Scalar::ZERO;
        let mut key_coefficients = vec![Scalar::ZERO; self.keys.len()];
        for term in group {
            base_coefficient -= term.base_coefficient;
            key_coefficients[term.key] += term.key_coefficient;
        }
        let (mut scalars, mut points) = (vec![base_coefficient], vec![ED25519_BASEPOINT_POINT]);
        for (coefficient, key) in key_coefficients.into_iter().zip(&self.keys) {
            if coefficient != Scalar::ZERO {
                scalars.push(coefficient);
                points.push(*key);
            }
        }
        for term in group {
            scalars.push(term.coefficient);
            points.push(term.nonce_point);
        }
        EdwardsPoint::vartime_multiscalar_mul(&scalars, &points).mul_by_cofactor().is_identity()
    }
}

impl Term {
    /// `None`: R is not a point, or s is not canonical.
    fn new(number: usize, item: &Item<'_>, key: usize, coefficient: u128) -> Option<Self> {
        let (nonce_bytes, response_bytes) = item.signature.split_at(32);
        let nonce_point = CompressedEdwardsY::from_slice(nonce_bytes).ok()?.decompress()?;
        let response: Scalar = Option::from(Scalar::from_canonical_bytes(response_bytes.try_into().ok()?))?;
        let coefficient = Scalar::from(coefficient);
        Some(Term {
            item: number,
            key,
            nonce_point,
            coefficient,
            key_coefficient: coefficient * item.challenge(),
            base_coefficient: coefficient * response,
        })
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
