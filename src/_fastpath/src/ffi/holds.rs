//! What members hold, where requests carry no signatures (`fp_holds_t`).

use super::pool::{hand_over, report, with, PoolHandle};
use super::{Buffer, Slice, OK};

/// `fp_holds_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub prove: unsafe extern "C" fn(*const PoolHandle, u64, *const u8) -> i32,
    pub hold: unsafe extern "C" fn(*const PoolHandle, u32, Slice, u64, *mut usize, *mut Buffer) -> i32,
    pub forget: unsafe extern "C" fn(*const PoolHandle, u32, *mut Buffer) -> i32,
    pub take: unsafe extern "C" fn(*const PoolHandle, usize, *mut Buffer) -> i32,
    pub held: unsafe extern "C" fn(*const PoolHandle, u64, usize, *mut Buffer) -> i32,
    pub wanted:
        unsafe extern "C" fn(*const PoolHandle, u32, u64, u64, usize, *mut Buffer, *mut usize, *mut Buffer) -> i32,
    pub requests: unsafe extern "C" fn(*const PoolHandle, Slice, usize, *mut Buffer, *mut Buffer) -> i32,
}

unsafe extern "C" fn prove(pool: *const PoolHandle, source: u64, key: *const u8) -> i32 {
    // SAFETY: the caller passes a live pool and 32 bytes of key.
    unsafe {
        let key = *key.cast::<[u8; 32]>();
        with(pool, |pool| {
            pool.prove(source, key);
            OK
        })
    }
}

unsafe extern "C" fn hold(
    pool: *const PoolHandle,
    member: u32,
    names: Slice,
    now: u64,
    changed: *mut usize,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice, and places for the outcome.
    unsafe { with(pool, |pool| report(pool.hold(member, names.as_bytes(), now).map(|count| *changed = count), error)) }
}

unsafe extern "C" fn forget(pool: *const PoolHandle, member: u32, error: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the error.
    unsafe { with(pool, |pool| report(pool.void_holds(member), error)) }
}

unsafe extern "C" fn take(pool: *const PoolHandle, most: usize, names: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            hand_over(names, pool.take_holds(most));
            OK
        })
    }
}

unsafe extern "C" fn held(pool: *const PoolHandle, before: u64, most: usize, names: *mut Buffer) -> i32 {
    // SAFETY: as `take`.
    unsafe {
        with(pool, |pool| {
            hand_over(names, pool.held(before, most));
            OK
        })
    }
}

unsafe extern "C" fn wanted(
    pool: *const PoolHandle,
    member: u32,
    before: u64,
    now: u64,
    most: usize,
    names: *mut Buffer,
    any: *mut usize,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and places for the outcome.
    unsafe {
        with(pool, |pool| {
            let outcome = pool.wanted(member, before, now, most).map(|(digests, left)| {
                hand_over(names, digests);
                *any = usize::from(left);
            });
            report(outcome, error)
        })
    }
}

unsafe extern "C" fn requests(
    pool: *const PoolHandle,
    names: Slice,
    max_bytes: usize,
    data: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice, and places for the outcome.
    unsafe {
        with(pool, |pool| {
            report(pool.held_requests(names.as_bytes(), max_bytes).map(|list| hand_over(data, list)), error)
        })
    }
}

pub const TABLE: Table = Table { prove, hold, forget, take, held, wanted, requests };
