//! The part of `fp_pool_t` for replies: when they may leave, their way out, and the ones that are kept.

use super::pool::{hand_over, report, with, Batch, PoolHandle};
use super::{guard, Buffer, Slice, OK};
use crate::wire::SessionId;

pub(super) unsafe extern "C" fn release(pool: *const PoolHandle, batch: Batch, error: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live pool and slices, and a place for an error.
    unsafe { with(pool, |pool| report(pool.release(batch.digests.as_bytes(), batch.data.as_bytes()), error)) }
}

/// What waited for the clients' connections, on its way to the caller.
pub struct Replies {
    waiting: std::vec::IntoIter<(u64, Vec<u8>)>,
    current: Vec<u8>,
}

/// Null if nothing waits; else to be freed with `free_replies`.
pub(super) unsafe extern "C" fn take_replies(pool: *const PoolHandle, replies: *mut *mut Replies) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            let waiting = pool.take_replies();
            *replies = match waiting.is_empty() {
                true => std::ptr::null_mut(),
                false => Box::into_raw(Box::new(Replies { waiting: waiting.into_iter(), current: Vec::new() })),
            };
            OK
        })
    }
}

/// 1 and the frames for one source, valid until the next call; 0 at the end.
pub(super) unsafe extern "C" fn next_replies(replies: *mut Replies, source: *mut u64, frames: *mut Slice) -> i32 {
    // SAFETY: the caller passes what `take_replies` made, and places for the outcome.
    guard(|| unsafe {
        let replies = &mut *replies;
        let Some((next, bytes)) = replies.waiting.next() else { return 0 };
        replies.current = bytes;
        *source = next;
        *frames = Slice { data: replies.current.as_ptr(), length: replies.current.len() };
        1
    })
}

pub(super) unsafe extern "C" fn free_replies(replies: *mut Replies) {
    if !replies.is_null() {
        // SAFETY: it came from `take_replies`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(replies) });
    }
}

/// 1 if there is one, else 0.
pub(super) unsafe extern "C" fn cached_reply(
    pool: *const PoolHandle,
    key: *const u8,
    number: u64,
    sequence: u64,
    reply: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool, 32 bytes of key and a place for the outcome.
    unsafe {
        let id = SessionId { key: *key.cast::<[u8; 32]>(), number };
        with(pool, |pool| match pool.cached_reply(&id, sequence) {
            Some(kept) => {
                hand_over(reply, kept.to_vec());
                1
            }
            None => 0,
        })
    }
}
