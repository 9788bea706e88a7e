//! The part of `fp_pool_t` that orders requests: batches and proposals, decisions, and what waits too long.

use super::pool::{hand_over, report, with, Batch, ExecutionFields, PoolHandle};
use super::{Buffer, Slice, OK};
use crate::requests::Execution;

pub(super) unsafe extern "C" fn ready(pool: *const PoolHandle, count: *mut usize) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            *count = pool.ready();
            OK
        })
    }
}

pub(super) unsafe extern "C" fn form_batch(
    pool: *const PoolHandle,
    max_requests: usize,
    max_bytes: usize,
    timestamp: u64,
    digests: *mut Buffer,
    data: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and places for the outcome.
    unsafe {
        with(pool, |pool| {
            let (names, list) = pool.form_batch(max_requests, max_bytes, timestamp);
            hand_over(digests, names);
            hand_over(data, list);
            OK
        })
    }
}

pub(super) unsafe extern "C" fn resolve(
    pool: *const PoolHandle,
    names: Slice,
    bound: bool,
    data: *mut Buffer,
    missing: *mut Buffer,
    unverified: *mut usize,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice, and places for the outcome.
    unsafe {
        with(pool, |pool| {
            let outcome = pool.resolve(names.as_bytes(), bound).map(|resolved| {
                hand_over(data, resolved.list);
                hand_over(missing, resolved.missing);
                *unverified = resolved.unverified;
            });
            report(outcome, error)
        })
    }
}

/// The verdict, or a negative status.
pub(super) unsafe extern "C" fn check(
    pool: *const PoolHandle,
    list: Slice,
    timestamp: u64,
    max_requests: usize,
    max_bytes: usize,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice.
    unsafe { with(pool, |pool| pool.check(list.as_bytes(), timestamp, max_requests, max_bytes) as i32) }
}

pub(super) unsafe extern "C" fn decide(
    pool: *const PoolHandle,
    batch: Batch,
    instance: u64,
    timestamp: u64,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and slices, and a place for an error.
    unsafe {
        let (names, list) = (batch.digests.as_bytes(), batch.data.as_bytes());
        with(pool, |pool| report(pool.decide(names, list, instance, timestamp), error))
    }
}

pub(super) unsafe extern "C" fn executed(
    pool: *const PoolHandle,
    batch: Batch,
    results: Slice,
    execution: *const ExecutionFields,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool, slices and fields, and a place for an error.
    unsafe {
        let fields = &*execution;
        let execution = Execution {
            instance: fields.instance,
            view: fields.view,
            timestamp: fields.timestamp,
            level: fields.level,
        };
        let (names, list) = (batch.digests.as_bytes(), batch.data.as_bytes());
        with(pool, |pool| report(pool.executed(names, list, results.as_bytes(), execution), error))
    }
}

pub(super) unsafe extern "C" fn collect(
    pool: *const PoolHandle,
    names: Slice,
    data: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice, and places for the outcome.
    unsafe { with(pool, |pool| report(pool.collect(names.as_bytes()).map(|list| hand_over(data, list)), error)) }
}

/// -1 if no request is ready.
pub(super) unsafe extern "C" fn oldest_pending(pool: *const PoolHandle, arrival: *mut i64) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            *arrival = pool.oldest_pending().map_or(-1, |time| i64::try_from(time).unwrap_or(i64::MAX));
            OK
        })
    }
}

pub(super) unsafe extern "C" fn overdue(
    pool: *const PoolHandle,
    before: u64,
    max_bytes: usize,
    data: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            hand_over(data, pool.overdue(before, max_bytes));
            OK
        })
    }
}

pub(super) unsafe extern "C" fn agreed_time(pool: *const PoolHandle, time: *mut u64) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            *time = pool.agreed_time();
            OK
        })
    }
}
