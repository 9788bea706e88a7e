//! The part of `fp_pool_t` for sessions: where one is, and the table as a whole, taken out of a pool or put into one.

use std::time::Duration;

use super::pool::{hand_over, report, with, PoolHandle, MISUSE};
use super::{guard, Buffer, Slice, OK};
use crate::requests::{join_sessions, ImportError, Misuse};
use crate::wire::SessionId;

/// Sessions that a capture writes down while it holds the pool's lock: a fraction of a millisecond, if they are full.
const SESSIONS_AT_ONCE: usize = 16;
/// How long it leaves the lock to others.
const BETWEEN: Duration = Duration::from_micros(50);

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
    unsafe { with(pool, |pool| report(pool.export_sessions(instance).map(|bytes| hand_over(data, bytes)), error)) }
}

/// # Safety
/// `pool` is live; the places are valid for writing.
pub unsafe extern "C" fn capture_sessions(
    pool: *const PoolHandle,
    instance: u64,
    capture: *mut u64,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool and places for the outcome.
    unsafe { with(pool, |pool| report(pool.capture_sessions(instance).map(|number| *capture = number), error)) }
}

/// Writes a capture down, holding the pool's lock for a few sessions at a time and leaving it to others in between.
///
/// # Safety
/// `pool` is live; the places are valid for writing.
pub unsafe extern "C" fn export_capture(
    pool: *const PoolHandle,
    capture: u64,
    data: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    let mut written = None;
    while written.is_none() {
        // SAFETY: the caller passes a live pool and a place for an error.
        let status = unsafe {
            with(pool, |pool| {
                let outcome = pool.continue_capture(capture, SESSIONS_AT_ONCE).map(|progress| written = progress);
                report(outcome, error)
            })
        };
        if status != OK {
            return status;
        }
        std::thread::sleep(BETWEEN);
    }
    guard(|| {
        // SAFETY: the caller passes a place for the outcome.
        unsafe { hand_over(data, join_sessions(written.unwrap_or_default())) };
        OK
    })
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

/// Session number, last executed number and end of the lease of each open session of a key: three numbers of 8 bytes each.
///
/// # Safety
/// `pool` is live, `key` has 32 bytes; the place is valid for writing.
pub(super) unsafe extern "C" fn key_sessions(pool: *const PoolHandle, key: *const u8, data: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live pool, 32 bytes of key and a place for the outcome.
    unsafe {
        let key = &*key.cast::<[u8; 32]>();
        with(pool, |pool| {
            let numbers = pool.sessions_of(key);
            hand_over(data, numbers.iter().flatten().flat_map(|number| number.to_le_bytes()).collect());
            OK
        })
    }
}

/// Writes the cursors received, ordered, executed; 1 if the session is known, else 0.
pub(super) unsafe extern "C" fn session(
    pool: *const PoolHandle,
    key: *const u8,
    number: u64,
    cursors: *mut u64,
) -> i32 {
    // SAFETY: the caller passes a live pool, 32 bytes of key and room for three cursors.
    unsafe {
        let id = SessionId { key: *key.cast::<[u8; 32]>(), number };
        with(pool, |pool| match pool.session(&id) {
            Some((received, ordered, executed)) => {
                cursors.cast::<[u64; 3]>().write([received, ordered, executed]);
                1
            }
            None => 0,
        })
    }
}
