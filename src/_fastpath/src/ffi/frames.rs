//! Frame readers and the reply matcher (`fp_frames_t`).

use std::sync::{Arc, Mutex, MutexGuard};

use super::pool::{hand_over, lock, report_wire, PoolHandle};
use super::{guard, guard_or, items, Buffer, Slice, INVALID, OK};
use crate::frames::{FrameLimits, FrameReader};
use crate::matcher::{ReplyMatcher, MAX_REPLICAS};
use crate::requests::Arrival;
use crate::wire::{push_frame_header, WireError, DIGEST_BYTES};

/// `fp_frame_limit_t`: the largest payload of a kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Limit {
    pub largest: u32,
    pub kind: u8,
}

/// `fp_reader_t`: the frames of one connection, and where its requests go.
pub struct Reader {
    frames: Mutex<FrameReader>,
    pool: Option<PoolHandle>,
    source: u64,
}

/// `fp_matcher_t`.
pub type Matcher = Mutex<ReplyMatcher>;

/// What a matcher has collected, as `matcher_take` packs it.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum Collected {
    /// `u64 tag | u64 status | u64 length | reply` repeated.
    Completed = 0,
    /// `u64 replica | u64 kind | u64 length | payload` repeated.
    Others = 1,
    /// 32-bit integers.
    Latencies = 2,
    /// `u64 status | u64 count` repeated.
    Statuses = 3,
    /// `u64 code | u64 count` repeated.
    Results = 4,
    /// 32 bytes each.
    Acknowledged = 5,
}

/// `fp_frames_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub reader_create: unsafe extern "C" fn(*const Limit, usize, *const PoolHandle, u64) -> *mut Reader,
    pub reader_free: unsafe extern "C" fn(*mut Reader),
    pub reader_feed: unsafe extern "C" fn(*const Reader, Slice, u64, *mut Buffer, *mut Buffer) -> i32,
    pub reader_buffered: unsafe extern "C" fn(*const Reader, *mut usize) -> i32,
    pub matcher_create: unsafe extern "C" fn(usize, usize, *const Limit, usize) -> *mut Matcher,
    pub matcher_free: unsafe extern "C" fn(*mut Matcher),
    pub matcher_expect: unsafe extern "C" fn(*const Matcher, Slice, u64, u64) -> i32,
    pub matcher_forget: unsafe extern "C" fn(*const Matcher, *const u8) -> i32,
    pub matcher_reset: unsafe extern "C" fn(*const Matcher, usize) -> i32,
    pub matcher_feed: unsafe extern "C" fn(*const Matcher, usize, Slice, u64, *mut usize, *mut Buffer) -> i32,
    pub matcher_keep_replies: unsafe extern "C" fn(*const Matcher, bool) -> i32,
    pub matcher_outstanding: unsafe extern "C" fn(*const Matcher, *mut usize) -> i32,
    pub matcher_take: unsafe extern "C" fn(*const Matcher, u32, *mut Buffer) -> i32,
}

/// # Safety
/// `limits` is valid for `count` items.
unsafe fn limits_of(limits: *const Limit, count: usize) -> FrameLimits {
    // SAFETY: the caller's promise.
    FrameLimits::new(unsafe { items(limits, count) }.iter().map(|limit| (limit.kind, limit.largest)))
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("an object that no call has broken")
}

/// `pool` may be null: then requests are returned like other frames.
unsafe extern "C" fn reader_create(
    limits: *const Limit,
    count: usize,
    pool: *const PoolHandle,
    source: u64,
) -> *mut Reader {
    guard_or(std::ptr::null_mut(), || {
        // SAFETY: the caller passes `count` limits, and a live pool or null.
        let (limits, pool) = unsafe { (limits_of(limits, count), pool.as_ref().map(Arc::clone)) };
        Box::into_raw(Box::new(Reader { frames: Mutex::new(FrameReader::new(limits)), pool, source }))
    })
}

unsafe extern "C" fn reader_free(reader: *mut Reader) {
    if !reader.is_null() {
        // SAFETY: it came from `reader_create`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(reader) });
    }
}

impl Reader {
    /// Returns the frames that were no requests for the pool, one after another as they came.
    fn feed(&self, data: &[u8], now: u64) -> Result<Vec<u8>, WireError> {
        let mut frames = held(&self.frames);
        if let Some(pool) = &self.pool {
            return lock(pool).receive(&mut frames, data, Arrival::new(self.source, now));
        }
        let mut out = Vec::new();
        frames.feed(data, &mut |kind: u8, payload: &[u8]| {
            push_frame_header(&mut out, kind, payload.len());
            out.extend_from_slice(payload);
            Ok(())
        })?;
        Ok(out)
    }
}

/// `frames` gets the complete frames other than admitted requests, with their headers.
unsafe extern "C" fn reader_feed(
    reader: *const Reader,
    data: Slice,
    now: u64,
    frames: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live reader and slice, and places for the outcome.
    guard(|| unsafe {
        match (*reader).feed(data.as_bytes(), now) {
            Ok(out) => {
                hand_over(frames, out);
                OK
            }
            Err(wrong) => report_wire(wrong, error),
        }
    })
}

unsafe extern "C" fn reader_buffered(reader: *const Reader, bytes: *mut usize) -> i32 {
    // SAFETY: the caller passes a live reader and a place for the outcome.
    guard(|| unsafe {
        *bytes = held(&(*reader).frames).buffered();
        OK
    })
}

/// Null: no replicas, too many, or a quorum that they cannot reach.
unsafe extern "C" fn matcher_create(
    replicas: usize,
    quorum: usize,
    limits: *const Limit,
    count: usize,
) -> *mut Matcher {
    guard_or(std::ptr::null_mut(), || {
        if !(1..=MAX_REPLICAS).contains(&replicas) || !(1..=replicas).contains(&quorum) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller passes `count` limits.
        let limits = unsafe { limits_of(limits, count) };
        Box::into_raw(Box::new(Mutex::new(ReplyMatcher::new(replicas, quorum, limits))))
    })
}

unsafe extern "C" fn matcher_free(matcher: *mut Matcher) {
    if !matcher.is_null() {
        // SAFETY: it came from `matcher_create`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(matcher) });
    }
}

/// Runs `body` on a locked matcher.
///
/// # Safety
/// `matcher` came from `matcher_create` and was not freed.
unsafe fn with(matcher: *const Matcher, body: impl FnOnce(&mut ReplyMatcher) -> i32) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| body(&mut held(unsafe { &*matcher })))
}

unsafe extern "C" fn matcher_expect(matcher: *const Matcher, digests: Slice, first_tag: u64, now: u64) -> i32 {
    // SAFETY: the caller passes a live matcher and slice.
    unsafe {
        let digests = digests.as_bytes();
        if digests.len() % DIGEST_BYTES != 0 {
            return INVALID;
        }
        with(matcher, |matcher| {
            matcher.expect(digests, first_tag, now);
            OK
        })
    }
}

unsafe extern "C" fn matcher_forget(matcher: *const Matcher, digest: *const u8) -> i32 {
    // SAFETY: the caller passes a live matcher and 32 bytes.
    unsafe {
        with(matcher, |matcher| {
            matcher.forget(&*digest.cast::<[u8; DIGEST_BYTES]>());
            OK
        })
    }
}

/// [`INVALID`]: no such replica.
unsafe extern "C" fn matcher_reset(matcher: *const Matcher, replica: usize) -> i32 {
    // SAFETY: the caller passes a live matcher.
    unsafe {
        with(matcher, |matcher| {
            if replica >= matcher.replicas() {
                return INVALID;
            }
            matcher.reset(replica);
            OK
        })
    }
}

/// [`INVALID`]: no such replica.
unsafe extern "C" fn matcher_feed(
    matcher: *const Matcher,
    replica: usize,
    data: Slice,
    now: u64,
    completed: *mut usize,
    error: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live matcher and slice, and places for the outcome.
    unsafe {
        with(matcher, |matcher| {
            if replica >= matcher.replicas() {
                return INVALID;
            }
            match matcher.feed(replica, data.as_bytes(), now) {
                Ok(count) => {
                    *completed = count;
                    OK
                }
                Err(wrong) => report_wire(wrong, error),
            }
        })
    }
}

unsafe extern "C" fn matcher_keep_replies(matcher: *const Matcher, keep: bool) -> i32 {
    // SAFETY: the caller passes a live matcher.
    unsafe {
        with(matcher, |matcher| {
            matcher.keep_replies(keep);
            OK
        })
    }
}

unsafe extern "C" fn matcher_outstanding(matcher: *const Matcher, count: *mut usize) -> i32 {
    // SAFETY: the caller passes a live matcher and a place for the outcome.
    unsafe {
        with(matcher, |matcher| {
            *count = matcher.outstanding();
            OK
        })
    }
}

/// What was collected of one sort (`Collected`); completed, others and latencies are handed over once.
unsafe extern "C" fn matcher_take(matcher: *const Matcher, sort: u32, out: *mut Buffer) -> i32 {
    const COMPLETED: u32 = Collected::Completed as u32;
    const OTHERS: u32 = Collected::Others as u32;
    const LATENCIES: u32 = Collected::Latencies as u32;
    const STATUSES: u32 = Collected::Statuses as u32;
    const RESULTS: u32 = Collected::Results as u32;
    const ACKNOWLEDGED: u32 = Collected::Acknowledged as u32;
    // SAFETY: the caller passes a live matcher and a place for the outcome.
    unsafe {
        with(matcher, |matcher| {
            let packed = match sort {
                COMPLETED => {
                    let completed = matcher.take_completed();
                    pack(completed.iter().map(|done| (done.tag, done.status, done.payload.as_slice())))
                }
                OTHERS => {
                    let others = matcher.take_others();
                    pack(others.iter().map(|(replica, kind, payload)| (*replica as u64, *kind, payload.as_slice())))
                }
                LATENCIES => matcher.take_latencies().iter().flat_map(|latency| latency.to_ne_bytes()).collect(),
                STATUSES => pack_counts(matcher.statuses()),
                RESULTS => pack_counts(matcher.results()),
                ACKNOWLEDGED => matcher.acknowledged().to_vec(),
                _ => return INVALID,
            };
            hand_over(out, packed);
            OK
        })
    }
}

fn pack<'a>(records: impl Iterator<Item = (u64, u8, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (first, second, bytes) in records {
        for field in [first, u64::from(second), bytes.len() as u64] {
            out.extend_from_slice(&field.to_ne_bytes());
        }
        out.extend_from_slice(bytes);
    }
    out
}

fn pack_counts(counts: &std::collections::BTreeMap<u8, u64>) -> Vec<u8> {
    counts.iter().flat_map(|(key, count)| [u64::from(*key).to_ne_bytes(), count.to_ne_bytes()]).flatten().collect()
}

pub const TABLE: Table = Table {
    reader_create,
    reader_free,
    reader_feed,
    reader_buffered,
    matcher_create,
    matcher_free,
    matcher_expect,
    matcher_forget,
    matcher_reset,
    matcher_feed,
    matcher_keep_replies,
    matcher_outstanding,
    matcher_take,
};
