//! The part of `fp_pool_t` that takes requests in: admission, and the way to the verifier and back.

use std::sync::Arc;

use super::pool::{hand_over, report_wire, with, PoolHandle};
use super::{Buffer, Slice, INVALID, OK};
use crate::requests::VerifyJob;

pub(super) unsafe extern "C" fn admit(
    pool: *const PoolHandle,
    list: Slice,
    source: u64,
    now: u64,
    new: *mut usize,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice, and places for the outcome.
    unsafe {
        with(pool, |pool| match pool.admit(list.as_bytes(), source, now) {
            Ok(count) => {
                *new = count;
                OK
            }
            Err(wrong) => report_wire(wrong, error),
        })
    }
}

pub(super) unsafe extern "C" fn admit_body(
    pool: *const PoolHandle,
    list: Slice,
    now: u64,
    new: *mut usize,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: as `admit`.
    unsafe {
        with(pool, |pool| match pool.admit_body(list.as_bytes(), now) {
            Ok(count) => {
                *new = count;
                OK
            }
            Err(wrong) => report_wire(wrong, error),
        })
    }
}

pub(super) unsafe extern "C" fn drop_source(pool: *const PoolHandle, source: u64) -> i32 {
    // SAFETY: the caller passes a live pool.
    unsafe {
        with(pool, |pool| {
            pool.drop_source(source);
            OK
        })
    }
}

pub(super) unsafe extern "C" fn pass_time(pool: *const PoolHandle, now: u64) -> i32 {
    // SAFETY: the caller passes a live pool.
    unsafe {
        with(pool, |pool| {
            pool.pass_time(now);
            OK
        })
    }
}

/// The job is null if nothing waits; else to be freed with `jobs.free`.
pub(super) unsafe extern "C" fn take_unverified(
    pool: *const PoolHandle,
    most: usize,
    job: *mut *mut Arc<VerifyJob>,
) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the job.
    unsafe {
        with(pool, |pool| {
            *job = match pool.take_unverified(most) {
                Some(taken) => Box::into_raw(Box::new(Arc::new(taken))),
                None => std::ptr::null_mut(),
            };
            OK
        })
    }
}

/// `reasons` are items. `bad` gets pairs of native 64-bit integers: source, count.
pub(super) unsafe extern "C" fn apply_verdicts(
    pool: *const PoolHandle,
    job: *const Arc<VerifyJob>,
    mask: Slice,
    reasons: Slice,
    bad: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and job, mask and reasons, and a place for the outcome.
    unsafe {
        let (job, mask, reasons) = (&*job, mask.as_bytes(), reasons.as_bytes());
        if mask.len() != job.items.len() {
            return INVALID;
        }
        with(pool, |pool| {
            let pairs = pool.apply_verdicts(job, mask, reasons);
            let packed = pairs.iter().flat_map(|(source, count)| [source.to_ne_bytes(), count.to_ne_bytes()]);
            hand_over(bad, packed.flatten().collect());
            OK
        })
    }
}
