//! The function table of the area `verify` (`fp_verify_t`).

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};

use super::fork_join::fork_join;
use super::process::PerProcess;
use super::{bytes, guard, guard_or, items, Packed, Slice, INVALID, OK};
use crate::verify::{self, Item, ParsedKey, Schedule};
use crate::workers::Workers;

/// `fp_verify_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
    pub verify: unsafe extern "C" fn(*const u8, *const u8, *const u8, usize) -> i32,
    pub verify_many: unsafe extern "C" fn(*const VerifyItem, usize, usize, *mut u8) -> i32,
    pub verify_packed: unsafe extern "C" fn(*const PackedItems, usize, *mut u8) -> i32,
    pub key_parse: unsafe extern "C" fn(*const u8) -> *mut ParsedKey,
    pub key_verify: unsafe extern "C" fn(*const ParsedKey, *const u8, *const u8, usize) -> i32,
    pub key_free: unsafe extern "C" fn(*mut ParsedKey),
    pub is_small_order: unsafe extern "C" fn(*const u8) -> i32,
    pub set_threads: extern "C" fn(usize, i32) -> i32,
}

/// `fp_verify_item_t`: a null key or signature (one of the wrong length) makes the verdict 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VerifyItem {
    pub public_key: *const u8,
    pub signature: *const u8,
    pub message: Slice,
}

/// `fp_verify_packed_t`: items in contiguous buffers.
#[repr(C)]
pub struct PackedItems {
    pub public_keys: *const u8,
    pub signatures: *const u8,
    pub messages: Slice,
    pub offsets: *const u8,
    pub count: usize,
}

/// The items of one call. They are read by several threads while the call lasts.
struct Items<'a>(&'a [VerifyItem]);

// SAFETY: the pointers are only read, and what they point to does not change during the call.
unsafe impl Sync for Items<'_> {}

impl<'a> Items<'a> {
    fn get(&self, number: usize) -> Option<Item<'a>> {
        let item = self.0[number];
        // SAFETY: the caller's promise to `verify_many`: null, or valid for 32, 64 and `length` bytes.
        unsafe {
            Some(Item {
                public_key: item.public_key.cast::<[u8; 32]>().as_ref()?,
                signature: item.signature.cast::<[u8; 64]>().as_ref()?,
                prefix: &[],
                message: item.message.as_bytes(),
            })
        }
    }
}

static WORKERS: PerProcess<Option<Workers>> = PerProcess::new();
/// Threads of the pool; 0 stands for one per core.
static THREADS: AtomicUsize = AtomicUsize::new(0);
static NICE: AtomicI32 = AtomicI32::new(10);

fn configured_threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// The pool of this process; `None` where the system starts no more threads: the caller then works alone.
fn workers() -> Option<&'static Workers> {
    let made = WORKERS.get(|| Ok::<_, ()>(Workers::new(configured_threads(), NICE.load(Ordering::Relaxed)).ok()));
    made.ok()?.as_ref()
}

extern "C" fn version() -> u32 {
    1
}

/// 1 if the signature verifies, else 0, or a negative status.
unsafe extern "C" fn verify_one(key: *const u8, signature: *const u8, message: *const u8, length: usize) -> i32 {
    guard(|| {
        // SAFETY: the caller passes 32, 64 and `length` bytes.
        let (key, signature, message) =
            unsafe { (&*key.cast::<[u8; 32]>(), &*signature.cast::<[u8; 64]>(), bytes(message, length)) };
        i32::from(verify::verify(key, signature, message))
    })
}

/// Writes `count` verdicts to `mask`; `threads` 0 stands for the whole pool.
unsafe extern "C" fn verify_many(list: *const VerifyItem, count: usize, threads: usize, mask: *mut u8) -> i32 {
    guard(|| {
        // SAFETY: the caller passes `count` items and a mask of `count` bytes that nobody else touches.
        let (list, mask) = unsafe { (Items(items(list, count)), verdict_cells(mask, count)) };
        verify_shared(&|number| list.get(number), mask, threads);
        OK
    })
}

/// As `verify_many`; [`INVALID`] if the offsets decrease or leave the buffer of messages.
unsafe extern "C" fn verify_packed(list: *const PackedItems, threads: usize, mask: *mut u8) -> i32 {
    guard(|| {
        // SAFETY: the caller passes buffers for `count` items, `count + 1` offsets, and a mask of `count` bytes that
        // nobody else touches.
        let (keys, signatures, data, offsets, mask) = unsafe {
            let list = &*list;
            (
                items(list.public_keys.cast::<[u8; 32]>(), list.count),
                items(list.signatures.cast::<[u8; 64]>(), list.count),
                list.messages.as_bytes(),
                items(list.offsets.cast::<[u8; 8]>(), list.count + 1),
                verdict_cells(mask, list.count),
            )
        };
        let Some(messages) = Packed::new(data, offsets) else { return INVALID };
        let get = |number: usize| {
            let (public_key, signature) = (&keys[number], &signatures[number]);
            Some(Item { public_key, signature, prefix: &[], message: messages.get(number) })
        };
        verify_shared(&get, mask, threads);
        OK
    })
}

/// The mask as cells that several threads may write.
///
/// # Safety
/// `mask` is valid for `count` bytes, and nobody else touches them while the result is used.
unsafe fn verdict_cells<'a>(mask: *mut u8, count: usize) -> &'a [AtomicU8] {
    // SAFETY: an `AtomicU8` has the layout of a `u8`; the rest is the caller's promise.
    unsafe { items(mask.cast::<AtomicU8>().cast_const(), count) }
}

/// Verifies items on up to `threads` threads (0: the whole pool), of which the caller is one.
fn verify_shared<'a>(get: &(dyn Fn(usize) -> Option<Item<'a>> + Sync), mask: &[AtomicU8], threads: usize) {
    let wanted = if threads == 0 { configured_threads() } else { threads };
    let threads = wanted.min(mask.len().div_ceil(verify::SMALLEST_BATCH)).max(1);
    let schedule = Schedule::new(mask.len(), threads);
    let body = || {
        while let Some(range) = schedule.claim() {
            verify::verify_range(get, range, mask);
        }
    };
    match (threads > 1).then(workers).flatten() {
        Some(workers) => fork_join(workers, (threads - 1).min(workers.threads()), &body),
        None => body(),
    }
}

/// A parsed key, to be freed with `key_free`; null if the 32 bytes are no point.
unsafe extern "C" fn key_parse(key: *const u8) -> *mut ParsedKey {
    guard_or(std::ptr::null_mut(), || {
        // SAFETY: the caller passes 32 bytes.
        let key = unsafe { &*key.cast::<[u8; 32]>() };
        ParsedKey::new(key).map_or(std::ptr::null_mut(), |parsed| Box::into_raw(Box::new(parsed)))
    })
}

/// As `verify_one`, with a key from `key_parse`.
unsafe extern "C" fn key_verify(key: *const ParsedKey, signature: *const u8, message: *const u8, length: usize) -> i32 {
    guard(|| {
        // SAFETY: the caller passes a live key, 64 and `length` bytes.
        let (key, signature, message) = unsafe { (&*key, &*signature.cast::<[u8; 64]>(), bytes(message, length)) };
        i32::from(key.verify(signature, message))
    })
}

unsafe extern "C" fn key_free(key: *mut ParsedKey) {
    if !key.is_null() {
        // SAFETY: it came from `key_parse`, and the caller lets go of it.
        drop(unsafe { Box::from_raw(key) });
    }
}

/// 1 if the key is no point or one of small order, else 0.
unsafe extern "C" fn is_small_order(key: *const u8) -> i32 {
    // SAFETY: the caller passes 32 bytes.
    guard(|| i32::from(verify::is_small_order(unsafe { &*key.cast::<[u8; 32]>() })))
}

/// Sets the size and niceness of this process's pool; a pool that exists is replaced when it is next needed.
extern "C" fn set_threads(threads: usize, nice: i32) -> i32 {
    guard(|| {
        if !(0..=19).contains(&nice) {
            return INVALID;
        }
        THREADS.store(threads, Ordering::Relaxed);
        NICE.store(nice, Ordering::Relaxed);
        if let Some(Some(replaced)) = WORKERS.reset() {
            replaced.close();
        }
        OK
    })
}

static TABLE: Table = Table {
    version,
    verify: verify_one,
    verify_many,
    verify_packed,
    key_parse,
    key_verify,
    key_free,
    is_small_order,
    set_threads,
};

#[no_mangle]
pub extern "C" fn fp_verify() -> *const Table {
    &TABLE
}
