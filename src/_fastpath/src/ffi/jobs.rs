//! Verification jobs and the verifier (`fp_jobs_t`).

use std::sync::Arc;

use super::pool::hand_over;
use super::{guard, guard_or, items_mut, Buffer, INVALID, OK};
use crate::requests::{Verifier, VerifyJob};

/// `fp_jobs_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub free: unsafe extern "C" fn(*mut Arc<VerifyJob>),
    pub count: unsafe extern "C" fn(*const Arc<VerifyJob>) -> usize,
    pub list: unsafe extern "C" fn(*const Arc<VerifyJob>, *mut Buffer) -> i32,
    pub item: unsafe extern "C" fn(*const Arc<VerifyJob>, usize, *mut Buffer) -> i32,
    pub run: unsafe extern "C" fn(*const Arc<VerifyJob>, *mut u8) -> i32,
    pub verifier_create: unsafe extern "C" fn(usize, i32) -> *mut Verifier,
    pub verifier_free: unsafe extern "C" fn(*mut Verifier),
    pub verifier_submit: unsafe extern "C" fn(*const Verifier, *const Arc<VerifyJob>, u64) -> i32,
    pub verifier_drain: unsafe extern "C" fn(*const Verifier, *mut Buffer) -> i32,
    pub verifier_descriptor: unsafe extern "C" fn(*const Verifier) -> i32,
    pub verifier_close: unsafe extern "C" fn(*const Verifier) -> i32,
}

unsafe extern "C" fn free(job: *mut Arc<VerifyJob>) {
    if !job.is_null() {
        // SAFETY: it came from `take_unverified`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(job) });
    }
}

unsafe extern "C" fn count(job: *const Arc<VerifyJob>) -> usize {
    // SAFETY: the caller passes a live job.
    unsafe { (&*job).items.len() }
}

unsafe extern "C" fn list(job: *const Arc<VerifyJob>, out: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live job and a place for the outcome.
    guard(|| unsafe {
        hand_over(out, (*job).list());
        OK
    })
}

/// One request as `public key 32 | signature 64 | signed message`.
unsafe extern "C" fn item(job: *const Arc<VerifyJob>, number: usize, out: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live job and a place for the outcome.
    guard(|| unsafe {
        let job = &*job;
        let Some(item) = job.items.get(number) else { return INVALID };
        let request = item.request();
        hand_over(out, [request.key(), request.signature(), &job.message(item)].concat());
        OK
    })
}

/// Writes one verdict per request.
unsafe extern "C" fn run(job: *const Arc<VerifyJob>, mask: *mut u8) -> i32 {
    // SAFETY: the caller passes a live job and a mask with a byte for each of its requests.
    guard(|| unsafe {
        let job = &*job;
        items_mut(mask, job.items.len()).copy_from_slice(&job.run());
        OK
    })
}

/// Null: the system refuses threads or descriptors.
unsafe extern "C" fn verifier_create(threads: usize, nice: i32) -> *mut Verifier {
    guard_or(std::ptr::null_mut(), || {
        Verifier::new(threads, nice).map_or(std::ptr::null_mut(), |verifier| Box::into_raw(Box::new(verifier)))
    })
}

unsafe extern "C" fn verifier_free(verifier: *mut Verifier) {
    if !verifier.is_null() {
        // SAFETY: it came from `verifier_create`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(verifier) });
    }
}

/// [`INVALID`] in a forked child, which has none of the verifier's threads.
unsafe extern "C" fn verifier_submit(verifier: *const Verifier, job: *const Arc<VerifyJob>, number: u64) -> i32 {
    // SAFETY: the caller passes a live verifier and job.
    guard(|| unsafe {
        if !(*verifier).is_ours() {
            return INVALID;
        }
        (*verifier).submit(number, Arc::clone(&*job));
        OK
    })
}

/// `finished` gets `u64 number | u64 count | verdicts` repeated, native integers.
unsafe extern "C" fn verifier_drain(verifier: *const Verifier, finished: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live verifier and a place for the outcome.
    guard(|| unsafe {
        let mut packed = Vec::new();
        for job in (*verifier).drain() {
            packed.extend_from_slice(&job.number.to_ne_bytes());
            packed.extend_from_slice(&(job.mask.len() as u64).to_ne_bytes());
            packed.extend_from_slice(&job.mask);
        }
        hand_over(finished, packed);
        OK
    })
}

unsafe extern "C" fn verifier_descriptor(verifier: *const Verifier) -> i32 {
    // SAFETY: the caller passes a live verifier.
    unsafe { (*verifier).descriptor() }
}

unsafe extern "C" fn verifier_close(verifier: *const Verifier) -> i32 {
    // SAFETY: the caller passes a live verifier.
    guard(|| unsafe {
        (*verifier).close();
        OK
    })
}

pub const TABLE: Table = Table {
    free,
    count,
    list,
    item,
    run,
    verifier_create,
    verifier_free,
    verifier_submit,
    verifier_drain,
    verifier_descriptor,
    verifier_close,
};
