//! The function table of the area `pool` (`fp_pool_t`): the request pool itself. Verification jobs are in `jobs`, frames
//! and the reply matcher in `frames`.
//!
//! A pool is shared with the frame readers that fill it, behind a lock: Python code on several threads cannot corrupt it.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{frames, guard, holds, jobs, sessions, Buffer, Slice, OK};
use crate::requests::{Execution, Misuse, PoolConfig, RequestPool, SessionLimits, VerifyJob, Vouching, MOST_MEMBERS};
use crate::wire::{self, SessionId, WireError};

/// A frame with an unknown kind or a length out of its bounds.
pub const FRAME: i32 = -10;
/// Bytes that do not decode.
pub const MALFORMED: i32 = -11;
/// The caller's mistake.
pub const MISUSE: i32 = -12;

pub type PoolHandle = Arc<Mutex<RequestPool>>;

/// `fp_pool_config_t`.
#[repr(C)]
pub struct Config {
    pub window: u64,
    pub max_requests: u64,
    pub max_bytes: u64,
    pub max_operation_bytes: u64,
    pub max_sessions: u64,
    pub max_sessions_per_key: u64,
    pub max_unverified_per_source: u64,
    pub lease: u64,
    pub skew: u64,
    /// Digests of requests that are not here, of one member; of no meaning without members.
    pub max_holds: u64,
    /// 0: requests are signed.
    pub members: u32,
    pub member: u32,
    pub replica: u16,
    pub admit_unverified: bool,
}

/// `fp_batch_t`: a batch as digests and request list.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Batch {
    pub digests: Slice,
    pub data: Slice,
}

/// `fp_execution_t`.
#[repr(C)]
pub struct ExecutionFields {
    pub instance: u64,
    pub timestamp: u64,
    pub view: u32,
    pub level: u8,
}

/// `fp_pool_stats_t`: the counters in the order of the header.
pub type StatFields = [u64; 10];

/// `fp_pool_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
    pub create: unsafe extern "C" fn(Slice, *const Config) -> *mut PoolHandle,
    pub free: unsafe extern "C" fn(*mut PoolHandle),
    pub admit: unsafe extern "C" fn(*const PoolHandle, Slice, u64, u64, *mut usize, *mut Buffer) -> i32,
    pub admit_body: unsafe extern "C" fn(*const PoolHandle, Slice, u64, *mut usize, *mut Buffer) -> i32,
    pub drop_source: unsafe extern "C" fn(*const PoolHandle, u64) -> i32,
    pub take_unverified: unsafe extern "C" fn(*const PoolHandle, usize, *mut *mut Arc<VerifyJob>) -> i32,
    pub apply_verdicts: unsafe extern "C" fn(*const PoolHandle, *const Arc<VerifyJob>, Slice, *mut Buffer) -> i32,
    pub form_batch: unsafe extern "C" fn(*const PoolHandle, usize, usize, u64, *mut Buffer, *mut Buffer) -> i32,
    pub resolve:
        unsafe extern "C" fn(*const PoolHandle, Slice, bool, *mut Buffer, *mut Buffer, *mut usize, *mut Buffer) -> i32,
    pub check: unsafe extern "C" fn(*const PoolHandle, Slice, u64, usize, usize) -> i32,
    pub decide: unsafe extern "C" fn(*const PoolHandle, Batch, u64, u64, *mut Buffer) -> i32,
    pub executed: unsafe extern "C" fn(*const PoolHandle, Batch, Slice, *const ExecutionFields, *mut Buffer) -> i32,
    pub release: unsafe extern "C" fn(*const PoolHandle, Batch, *mut Buffer) -> i32,
    pub take_replies: unsafe extern "C" fn(*const PoolHandle, *mut *mut Replies) -> i32,
    pub next_replies: unsafe extern "C" fn(*mut Replies, *mut u64, *mut Slice) -> i32,
    pub free_replies: unsafe extern "C" fn(*mut Replies),
    pub collect: unsafe extern "C" fn(*const PoolHandle, Slice, *mut Buffer, *mut Buffer) -> i32,
    pub overdue: unsafe extern "C" fn(*const PoolHandle, u64, usize, *mut Buffer) -> i32,
    pub oldest_pending: unsafe extern "C" fn(*const PoolHandle, *mut i64) -> i32,
    pub agreed_time: unsafe extern "C" fn(*const PoolHandle, *mut u64) -> i32,
    pub ready: unsafe extern "C" fn(*const PoolHandle, *mut usize) -> i32,
    pub set_accepting: unsafe extern "C" fn(*const PoolHandle, bool) -> i32,
    pub session: unsafe extern "C" fn(*const PoolHandle, *const u8, u64, *mut u64) -> i32,
    pub cached_reply: unsafe extern "C" fn(*const PoolHandle, *const u8, u64, u64, *mut Buffer) -> i32,
    pub stats: unsafe extern "C" fn(*const PoolHandle, *mut StatFields) -> i32,
    pub export_sessions: unsafe extern "C" fn(*const PoolHandle, u64, *mut Buffer, *mut Buffer) -> i32,
    pub capture_sessions: unsafe extern "C" fn(*const PoolHandle, u64, *mut u64, *mut Buffer) -> i32,
    pub export_capture: unsafe extern "C" fn(*const PoolHandle, u64, *mut Buffer, *mut Buffer) -> i32,
    pub import_sessions: unsafe extern "C" fn(*const PoolHandle, Slice, u64, u8, *mut Buffer) -> i32,
    pub digests: unsafe extern "C" fn(Slice, Slice, *mut Buffer, *mut Buffer) -> i32,
    pub jobs: jobs::Table,
    pub frames: frames::Table,
    pub holds: holds::Table,
}

/// Locks a pool; a panic while it was locked has left it in an unknown state, so every later call fails too.
pub fn lock(pool: &PoolHandle) -> MutexGuard<'_, RequestPool> {
    pool.lock().expect("a pool that no call has broken")
}

/// Runs `body` on a locked pool.
///
/// # Safety
/// `pool` came from `create` and was not freed.
pub unsafe fn with(pool: *const PoolHandle, body: impl FnOnce(&mut RequestPool) -> i32) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| body(&mut lock(unsafe { &*pool })))
}

/// Hands bytes over to the caller.
///
/// # Safety
/// `place` is valid for writing, and what is in it needs no freeing.
pub unsafe fn hand_over(place: *mut Buffer, bytes: Vec<u8>) {
    // SAFETY: the caller's promise.
    unsafe { place.write(Buffer::from(bytes)) }
}

/// Reports an error of the network's bytes with its message.
///
/// # Safety
/// As `hand_over`.
pub unsafe fn report_wire(error: WireError, place: *mut Buffer) -> i32 {
    let (status, message) = match error {
        WireError::Frame(message) => (FRAME, message),
        WireError::Malformed(message) => (MALFORMED, message),
    };
    // SAFETY: the caller's promise.
    unsafe { hand_over(place, message.into_bytes()) };
    status
}

/// The status of an outcome, its error reported.
///
/// # Safety
/// As `hand_over`.
pub(super) unsafe fn report(outcome: Result<(), Misuse>, place: *mut Buffer) -> i32 {
    match outcome {
        Ok(()) => OK,
        Err(Misuse(message)) => {
            // SAFETY: the caller's promise.
            unsafe { hand_over(place, message.into_bytes()) };
            MISUSE
        }
    }
}

extern "C" fn version() -> u32 {
    1
}

unsafe extern "C" fn create(chain_id: Slice, config: *const Config) -> *mut PoolHandle {
    // SAFETY: the caller passes a live slice and a filled configuration.
    let (chain_id, config) = unsafe { (chain_id.as_bytes(), &*config) };
    super::guard_or(std::ptr::null_mut(), || {
        let config = PoolConfig {
            replica: config.replica,
            window: config.window,
            max_requests: config.max_requests as usize,
            max_bytes: config.max_bytes as usize,
            max_operation_bytes: config.max_operation_bytes as usize,
            max_unverified_per_source: config.max_unverified_per_source as usize,
            admit_unverified: config.admit_unverified,
            vouching: (config.members > 0).then_some(Vouching {
                member: config.member,
                members: config.members.min(MOST_MEMBERS),
                quota: config.max_holds as usize,
            }),
            sessions: SessionLimits {
                max_sessions: config.max_sessions as usize,
                max_sessions_per_key: config.max_sessions_per_key as usize,
                lease: config.lease,
                skew: config.skew,
            },
        };
        Box::into_raw(Box::new(Arc::new(Mutex::new(RequestPool::new(chain_id, config)))))
    })
}

unsafe extern "C" fn free(pool: *mut PoolHandle) {
    if !pool.is_null() {
        // SAFETY: it came from `create`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(pool) });
    }
}

unsafe extern "C" fn admit(
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

unsafe extern "C" fn admit_body(
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

unsafe extern "C" fn drop_source(pool: *const PoolHandle, source: u64) -> i32 {
    // SAFETY: the caller passes a live pool.
    unsafe {
        with(pool, |pool| {
            pool.drop_source(source);
            OK
        })
    }
}

/// The job is null if nothing waits; else to be freed with `jobs.free`.
unsafe extern "C" fn take_unverified(pool: *const PoolHandle, most: usize, job: *mut *mut Arc<VerifyJob>) -> i32 {
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

/// `bad` gets pairs of native 64-bit integers: source, count.
unsafe extern "C" fn apply_verdicts(
    pool: *const PoolHandle,
    job: *const Arc<VerifyJob>,
    mask: Slice,
    bad: *mut Buffer,
) -> i32 {
    // SAFETY: the caller passes a live pool, job and mask, and a place for the outcome.
    unsafe {
        let (job, mask) = (&*job, mask.as_bytes());
        if mask.len() != job.items.len() {
            return super::INVALID;
        }
        with(pool, |pool| {
            let pairs = pool.apply_verdicts(job, mask);
            let packed = pairs.iter().flat_map(|(source, count)| [source.to_ne_bytes(), count.to_ne_bytes()]);
            hand_over(bad, packed.flatten().collect());
            OK
        })
    }
}

unsafe extern "C" fn form_batch(
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

unsafe extern "C" fn resolve(
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
unsafe extern "C" fn check(
    pool: *const PoolHandle,
    list: Slice,
    timestamp: u64,
    max_requests: usize,
    max_bytes: usize,
) -> i32 {
    // SAFETY: the caller passes a live pool and slice.
    unsafe { with(pool, |pool| pool.check(list.as_bytes(), timestamp, max_requests, max_bytes) as i32) }
}

unsafe extern "C" fn decide(
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

unsafe extern "C" fn executed(
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

unsafe extern "C" fn release(pool: *const PoolHandle, batch: Batch, error: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live pool and slices, and a place for an error.
    unsafe { with(pool, |pool| report(pool.release(batch.digests.as_bytes(), batch.data.as_bytes()), error)) }
}

/// What waited for the clients' connections, on its way to the caller.
pub struct Replies {
    waiting: std::vec::IntoIter<(u64, Vec<u8>)>,
    current: Vec<u8>,
}

/// Null if nothing waits; else to be freed with `free_replies`.
unsafe extern "C" fn take_replies(pool: *const PoolHandle, replies: *mut *mut Replies) -> i32 {
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
unsafe extern "C" fn next_replies(replies: *mut Replies, source: *mut u64, frames: *mut Slice) -> i32 {
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

unsafe extern "C" fn free_replies(replies: *mut Replies) {
    if !replies.is_null() {
        // SAFETY: it came from `take_replies`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(replies) });
    }
}

unsafe extern "C" fn collect(pool: *const PoolHandle, names: Slice, data: *mut Buffer, error: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live pool and slice, and places for the outcome.
    unsafe { with(pool, |pool| report(pool.collect(names.as_bytes()).map(|list| hand_over(data, list)), error)) }
}

unsafe extern "C" fn overdue(pool: *const PoolHandle, before: u64, max_bytes: usize, data: *mut Buffer) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            hand_over(data, pool.overdue(before, max_bytes));
            OK
        })
    }
}

/// -1 if no request is ready.
unsafe extern "C" fn oldest_pending(pool: *const PoolHandle, arrival: *mut i64) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            *arrival = pool.oldest_pending().map_or(-1, |time| i64::try_from(time).unwrap_or(i64::MAX));
            OK
        })
    }
}

unsafe extern "C" fn agreed_time(pool: *const PoolHandle, time: *mut u64) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            *time = pool.agreed_time();
            OK
        })
    }
}

unsafe extern "C" fn ready(pool: *const PoolHandle, count: *mut usize) -> i32 {
    // SAFETY: the caller passes a live pool and a place for the outcome.
    unsafe {
        with(pool, |pool| {
            *count = pool.ready();
            OK
        })
    }
}

unsafe extern "C" fn set_accepting(pool: *const PoolHandle, accepting: bool) -> i32 {
    // SAFETY: the caller passes a live pool.
    unsafe {
        with(pool, |pool| {
            pool.set_accepting(accepting);
            OK
        })
    }
}

/// Writes the cursors received, ordered, executed; 1 if the session is known, else 0.
unsafe extern "C" fn session(pool: *const PoolHandle, key: *const u8, number: u64, cursors: *mut u64) -> i32 {
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

/// 1 if there is one, else 0.
unsafe extern "C" fn cached_reply(
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

unsafe extern "C" fn stats(pool: *const PoolHandle, fields: *mut StatFields) -> i32 {
    // SAFETY: the caller passes a live pool and room for the counters.
    unsafe {
        with(pool, |pool| {
            let stats = pool.stats();
            *fields = [
                stats.pending,
                stats.verified,
                stats.unverified,
                stats.bytes,
                stats.sessions,
                stats.admitted,
                stats.duplicates,
                stats.bad_signatures,
                stats.refused,
                stats.signature_checks,
            ];
            OK
        })
    }
}

/// Digests of the requests of a request list.
unsafe extern "C" fn digests(chain_id: Slice, list: Slice, out: *mut Buffer, error: *mut Buffer) -> i32 {
    // SAFETY: the caller passes live slices and places for the outcome.
    let (chain_id, list) = unsafe { (chain_id.as_bytes(), list.as_bytes()) };
    guard(|| {
        let domains = wire::Domains::new(chain_id);
        let batch: Result<Vec<_>, _> = wire::requests(list, usize::MAX).map(|item| item.map(|r| r.bytes)).collect();
        let named = batch.map(|batch| domains.digest_many(&batch));
        // SAFETY: as above.
        unsafe {
            match named {
                Ok(named) => {
                    hand_over(out, named.concat());
                    OK
                }
                Err(wrong) => report_wire(wrong, error),
            }
        }
    })
}

static TABLE: Table = Table {
    version,
    create,
    free,
    admit,
    admit_body,
    drop_source,
    take_unverified,
    apply_verdicts,
    form_batch,
    resolve,
    check,
    decide,
    executed,
    release,
    take_replies,
    next_replies,
    free_replies,
    collect,
    overdue,
    oldest_pending,
    agreed_time,
    ready,
    set_accepting,
    session,
    cached_reply,
    stats,
    export_sessions: sessions::export_sessions,
    capture_sessions: sessions::capture_sessions,
    export_capture: sessions::export_capture,
    import_sessions: sessions::import_sessions,
    digests,
    jobs: jobs::TABLE,
    frames: frames::TABLE,
    holds: holds::TABLE,
};

#[no_mangle]
pub extern "C" fn fp_pool() -> *const Table {
    &TABLE
}
