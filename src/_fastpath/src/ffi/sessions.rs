//! The part of the function table `fp_pool_t` that takes the session table out of a pool and puts it into one.

use super::pool::{hand_over, with, PoolHandle, MISUSE};
use super::{Buffer, Slice, OK};
use crate::requests::{ImportError, Misuse};

/// A session table that is not canonical or beyond the pool's limits.
pub const REFUSED: i32 = -13;

/// # Safety
/// `pool` is live; the places are valid for writing.
pub unsafe extern "C" fn export_sessions(
    pool: *const PoolHandle,
    instance: u64,
    data: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and places for the outcome.
    unsafe {
        with(pool, |pool| match pool.export_sessions(instance) {
            Ok(bytes) => {
                hand_over(data, bytes);
                OK
            }
            Err(Misuse(message)) => {
                hand_over(error, message.into_bytes());
                MISUSE
            }
        })
    }
}

/// # Safety
/// `pool` and `data` are live; the place is valid for writing.
pub unsafe extern "C" fn import_sessions(
    pool: *const PoolHandle,
    data: Slice,
    agreed_time: u64,
    level: u8,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice, and a place for an error.
    unsafe {
        with(pool, |pool| {
            let (status, message) = match pool.import_sessions(data.as_bytes(), agreed_time, level) {
                Ok(()) => return OK,
                Err(ImportError::Refused(message)) => (REFUSED, message),
                Err(ImportError::Misuse(Misuse(message))) => (MISUSE, message),
            };
            hand_over(error, message.into_bytes());
            status
        })
    }
}
