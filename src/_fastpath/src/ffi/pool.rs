//! The function table of the area `pool` (`fp_pool_t`): the request pool itself, whose functions are here and in
//! `reception`, `ordering`, `replies` and `sessions`. Verification jobs are in `jobs`, frames and the reply matcher in
//! `frames`.
//!
//! A pool is shared with the frame readers that fill it, behind a lock: Python code on several threads cannot corrupt it.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{frames, guard, holds, jobs, ordering, reception, replies, sessions, Buffer, Slice, OK};
use crate::requests::{Misuse, PoolConfig, RequestPool, SessionLimits, VerifyJob, Vouching, MOST_MEMBERS};
use crate::wire::{self, WireError};

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
    /// Microseconds for which a request stays that could not be proposed.
    pub max_idle: u64,
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
pub type StatFields = [u64; 13];

/// `fp_pool_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
    pub create: unsafe extern "C" fn(Slice, *const Config) -> *mut PoolHandle,
    pub free: unsafe extern "C" fn(*mut PoolHandle),
    pub admit: unsafe extern "C" fn(*const PoolHandle, Slice, u64, u64, *mut usize, *mut Buffer) -> i32,
    pub admit_body: unsafe extern "C" fn(*const PoolHandle, Slice, u64, *mut usize, *mut Buffer) -> i32,
    pub drop_source: unsafe extern "C" fn(*const PoolHandle, u64) -> i32,
    pub pass_time: unsafe extern "C" fn(*const PoolHandle, u64) -> i32,
    pub take_unverified: unsafe extern "C" fn(*const PoolHandle, usize, *mut *mut Arc<VerifyJob>) -> i32,
    pub apply_verdicts:
        unsafe extern "C" fn(*const PoolHandle, *const Arc<VerifyJob>, Slice, Slice, *mut Buffer) -> i32,
    pub form_batch: unsafe extern "C" fn(*const PoolHandle, usize, usize, u64, *mut Buffer, *mut Buffer) -> i32,
    pub resolve:
        unsafe extern "C" fn(*const PoolHandle, Slice, bool, *mut Buffer, *mut Buffer, *mut usize, *mut Buffer) -> i32,
    pub check: unsafe extern "C" fn(*const PoolHandle, Slice, u64, usize, usize) -> i32,
    pub decide: unsafe extern "C" fn(*const PoolHandle, Batch, u64, u64, *mut Buffer) -> i32,
    pub executed: unsafe extern "C" fn(*const PoolHandle, Batch, Slice, *const ExecutionFields, *mut Buffer) -> i32,
    pub release: unsafe extern "C" fn(*const PoolHandle, Batch, *mut Buffer) -> i32,
    pub take_replies: unsafe extern "C" fn(*const PoolHandle, *mut *mut replies::Replies) -> i32,
    pub next_replies: unsafe extern "C" fn(*mut replies::Replies, *mut u64, *mut Slice) -> i32,
    pub free_replies: unsafe extern "C" fn(*mut replies::Replies),
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
    pub key_sessions: unsafe extern "C" fn(*const PoolHandle, *const u8, *mut Buffer) -> i32,
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
            max_idle: config.max_idle,
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

unsafe extern "C" fn set_accepting(pool: *const PoolHandle, accepting: bool) -> i32 {
    // SAFETY: the caller passes a live pool.
    unsafe {
        with(pool, |pool| {
            pool.set_accepting(accepting);
            OK
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
                stats.idle,
                stats.evicted,
                u64::from(stats.full),
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
    admit: reception::admit,
    admit_body: reception::admit_body,
    drop_source: reception::drop_source,
    pass_time: reception::pass_time,
    take_unverified: reception::take_unverified,
    apply_verdicts: reception::apply_verdicts,
    form_batch: ordering::form_batch,
    resolve: ordering::resolve,
    check: ordering::check,
    decide: ordering::decide,
    executed: ordering::executed,
    release: replies::release,
    take_replies: replies::take_replies,
    next_replies: replies::next_replies,
    free_replies: replies::free_replies,
    collect: ordering::collect,
    overdue: ordering::overdue,
    oldest_pending: ordering::oldest_pending,
    agreed_time: ordering::agreed_time,
    ready: ordering::ready,
    set_accepting,
    session: sessions::session,
    cached_reply: replies::cached_reply,
    stats,
    export_sessions: sessions::export_sessions,
    capture_sessions: sessions::capture_sessions,
    export_capture: sessions::export_capture,
    import_sessions: sessions::import_sessions,
    digests,
    jobs: jobs::TABLE,
    frames: frames::TABLE,
    holds: holds::TABLE,
    key_sessions: sessions::key_sessions,
};

#[no_mangle]
pub extern "C" fn fp_pool() -> *const Table {
    &TABLE
}
