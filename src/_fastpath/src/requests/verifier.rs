//! Jobs in, verdicts out: signature checks on threads of their own, with the masks coming back through an eventfd.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::Arc;

use super::verification::{VerifyJob, ACCEPTED};
use crate::verify::{verify_range, Item, Schedule, SMALLEST_BATCH};
use crate::wire::{KEY_BYTES, SIGNATURE_BYTES};
use crate::workers::{Completions, Workers};

/// A finished job: the number it was submitted with, and one verdict per request.
pub struct Finished {
    pub number: u64,
    pub mask: Vec<u8>,
}

impl VerifyJob {
    /// Request `number` as the signature check wants it.
    fn item(&self, number: usize) -> Option<Item<'_>> {
        let request = self.items[number].request();
        let public_key: &[u8; KEY_BYTES] = request.key().try_into().ok()?;
        let signature: &[u8; SIGNATURE_BYTES] = request.signature().try_into().ok()?;
        Some(Item { public_key, signature, prefix: &self.prefix, message: request.signed() })
    }

    /// Verifies all requests on this thread.
    pub fn run(&self) -> Vec<u8> {
        if !self.signed {
            return vec![ACCEPTED; self.items.len()];
        }
        let mask: Vec<AtomicU8> = self.items.iter().map(|_| AtomicU8::new(0)).collect();
        verify_range(&|number| self.item(number), 0..self.items.len(), &mask);
        mask.into_iter().map(AtomicU8::into_inner).collect()
    }
}

/// A job that several threads share. Whoever finishes its last part reports it.
struct Shared {
    number: u64,
    job: Arc<VerifyJob>,
    schedule: Schedule,
    mask: Vec<AtomicU8>,
    left: AtomicUsize,
    completions: Arc<Completions<Finished>>,
}

impl Shared {
    fn work(&self) {
        while let Some(range) = self.schedule.claim() {
            // Counted even if the check panics: its requests then count as unverifiable, and the job still ends.
            let _part = Part { shared: self, requests: range.len() };
            verify_range(&|number| self.job.item(number), range, &self.mask);
        }
    }
}

struct Part<'a> {
    shared: &'a Shared,
    requests: usize,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let shared = self.shared;
        if shared.left.fetch_sub(self.requests, Ordering::AcqRel) == self.requests {
            let mask = shared.mask.iter().map(|verdict| verdict.load(Ordering::Relaxed)).collect();
            shared.completions.push(Finished { number: shared.number, mask });
        }
    }
}

/// A pool of threads for signature checks.
pub struct Verifier {
    workers: Workers,
    completions: Arc<Completions<Finished>>,
}

impl Verifier {
    /// # Errors
    /// The system refuses threads or descriptors.
    pub fn new(threads: usize, nice: i32) -> std::io::Result<Self> {
        Ok(Verifier { completions: Arc::new(Completions::new()?), workers: Workers::new(threads, nice)? })
    }

    /// Whether this process made it: its threads do not survive a fork.
    pub fn is_ours(&self) -> bool {
        self.workers.is_ours()
    }

    /// Shares a job among the threads; `number` names it when it is done. A job holds at least one request.
    pub fn submit(&self, number: u64, job: Arc<VerifyJob>) {
        let count = job.items.len();
        if !job.signed {
            self.completions.push(Finished { number, mask: job.run() });
            return;
        }
        let threads = self.workers.threads().min(count.div_ceil(SMALLEST_BATCH)).max(1);
        let shared = Arc::new(Shared {
            number,
            schedule: Schedule::new(count, threads),
            mask: (0..count).map(|_| AtomicU8::new(0)).collect(),
            left: AtomicUsize::new(count),
            completions: Arc::clone(&self.completions),
            job,
        });
        for _ in 0..threads {
            let shared = Arc::clone(&shared);
            self.workers.submit(Box::new(move || shared.work()));
        }
    }

    pub fn drain(&self) -> Vec<Finished> {
        self.completions.drain()
    }

    pub fn descriptor(&self) -> i32 {
        self.completions.descriptor()
    }

    /// The threads end when what was submitted is done.
    pub fn close(&self) {
        self.workers.close();
    }
}
