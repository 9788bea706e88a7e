//! The function table of the area `coin` (`fp_coin_t`).

use super::{bytes, guard, guard_or, items, items_mut, Buffer, Slice, INVALID, OK, PANIC};
use crate::coin::execute::{check_batch, Machine, MalformedList, Parameters};
use crate::coin::operation::is_small_order;
use crate::coin::snapshot::Capture;
use crate::coin::{coin_id, coin_key};
use crate::verify::verify;
use std::sync::Mutex;

/// The request list is malformed; nothing was executed.
const MALFORMED: i32 = 1;
/// The snapshot is not one of this coin; the reason is in the buffer.
const REFUSED: i32 = 2;

/// `fp_coin_state_t`. Batches run with the interpreter's lock released, so another thread may ask meanwhile: it waits. No
/// holder ever takes the interpreter's lock. A panic poisons the state: every later call reports it.
pub struct State(Mutex<Machine>);

/// `fp_coin_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
    pub create: unsafe extern "C" fn(*const u8, *const u8, usize, usize, usize, *mut *mut State) -> i32,
    pub destroy: unsafe extern "C" fn(*mut State),
    pub check_batch: unsafe extern "C" fn(Slice, *mut Buffer) -> i32,
    pub execute_batch: unsafe extern "C" fn(*const State, Slice, i32, *mut Buffer) -> i32,
    pub coins: unsafe extern "C" fn(*const State, *mut u64) -> i32,
    pub supply: unsafe extern "C" fn(*const State, *mut u8) -> i32,
    pub minted: unsafe extern "C" fn(*const State, *mut u8) -> i32,
    pub restore: unsafe extern "C" fn(*const State, Slice, *mut Buffer) -> i32,
    pub capture: unsafe extern "C" fn(*const State, *mut *mut Capture) -> i32,
    pub capture_free: unsafe extern "C" fn(*mut Capture),
    pub capture_bytes: unsafe extern "C" fn(*const Capture) -> usize,
    pub capture_snapshot: unsafe extern "C" fn(*const Capture, *mut u8, usize) -> i32,
    pub capture_digest: unsafe extern "C" fn(*const Capture, *mut u8) -> i32,
    pub coin_id: unsafe extern "C" fn(*const u8, *const u8, u64, u64, u32, *mut u8) -> i32,
    pub read: unsafe extern "C" fn(*const State, Slice, *mut Buffer) -> i32,
}

extern "C" fn version() -> u32 {
    2
}

/// Runs `body` on the state, one caller at a time.
///
/// # Safety
/// `state` comes from `create` and was not destroyed.
unsafe fn with(state: *const State, body: impl FnOnce(&mut Machine) -> i32) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let state = unsafe { &*state };
        match state.0.lock() {
            Ok(mut machine) => body(&mut machine),
            Err(_) => PANIC,
        }
    })
}

/// The 32 bytes behind a pointer.
///
/// # Safety
/// `data` is valid for 32 bytes for as long as the result is used.
unsafe fn key<'a>(data: *const u8) -> &'a [u8; 32] {
    // SAFETY: the caller's promise.
    unsafe { &*data.cast() }
}

fn hand_over(outcome: Result<Vec<u8>, MalformedList>, out: &mut Buffer) -> i32 {
    match outcome {
        Ok(bytes) => {
            *out = bytes.into();
            OK
        }
        Err(MalformedList) => MALFORMED,
    }
}

/// # Safety
/// `chain_id` is valid for 32 bytes, `minters` for 32 times `count`, `out` for a pointer.
unsafe extern "C" fn create(
    chain_id: *const u8,
    minters: *const u8,
    count: usize,
    receipt_bytes_mint: usize,
    receipt_bytes_spend: usize,
    out: *mut *mut State,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (chain_id, minters) = unsafe { (*key(chain_id), items(minters.cast::<[u8; 32]>(), count).to_vec()) };
        if minters.iter().any(is_small_order) {
            return INVALID;
        }
        let machine = Machine::new(Parameters { chain_id, minters, receipt_bytes_mint, receipt_bytes_spend });
        // SAFETY: the caller's promise.
        unsafe { *out = Box::into_raw(Box::new(State(Mutex::new(machine)))) };
        OK
    })
}

/// # Safety
/// `state` is null or comes from `create`, and is not used again.
unsafe extern "C" fn destroy(state: *mut State) {
    if !state.is_null() {
        guard(|| {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(state) });
            OK
        });
    }
}

/// # Safety
/// `data` is valid, `mask` points to a buffer that holds nothing.
unsafe extern "C" fn check(data: Slice, mask: *mut Buffer) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| hand_over(check_batch(unsafe { data.as_bytes() }), unsafe { &mut *mask }))
}

/// # Safety
/// As for [`with`]; `data` is valid, `results` points to a buffer that holds nothing.
unsafe extern "C" fn execute(state: *const State, data: Slice, verify_signatures: i32, results: *mut Buffer) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(state, |machine| {
            let verifier = (verify_signatures != 0).then_some(verify as _);
            hand_over(machine.execute_batch(data.as_bytes(), verifier), &mut *results)
        })
    }
}

/// # Safety
/// As for [`with`]; `query` is valid, `result` points to a buffer that holds nothing.
unsafe extern "C" fn read(state: *const State, query: Slice, result: *mut Buffer) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(state, |machine| match machine.read(query.as_bytes()) {
            Some(bytes) => {
                *result = bytes.into();
                OK
            }
            None => INVALID,
        })
    }
}

/// # Safety
/// As for [`with`]; `out` is valid.
unsafe extern "C" fn coins(state: *const State, out: *mut u64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(state, |machine| {
            *out = machine.state.coins() as u64;
            OK
        })
    }
}

/// # Safety
/// As for [`with`]; `out` is valid for 16 bytes, which get a little-endian number.
unsafe extern "C" fn supply(state: *const State, out: *mut u8) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(state, |machine| {
            items_mut(out, 16).copy_from_slice(&machine.state.supply().to_le_bytes());
            OK
        })
    }
}

/// # Safety
/// As for [`supply`].
unsafe extern "C" fn minted(state: *const State, out: *mut u8) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(state, |machine| {
            items_mut(out, 16).copy_from_slice(&machine.state.minted.to_le_bytes());
            OK
        })
    }
}

/// # Safety
/// As for [`with`]; `out` is valid for a pointer, to be freed with `capture_free`.
unsafe extern "C" fn capture(state: *const State, out: *mut *mut Capture) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(state, |machine| {
            *out = Box::into_raw(Box::new(machine.capture()));
            OK
        })
    }
}

/// # Safety
/// `capture` is null or comes from `capture`, and is not used again.
unsafe extern "C" fn capture_free(capture: *mut Capture) {
    if !capture.is_null() {
        guard(|| {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(capture) });
            OK
        });
    }
}

/// Bytes of the snapshot; 0 only after a panic.
///
/// # Safety
/// `capture` comes from `capture` and lives.
unsafe extern "C" fn capture_bytes(capture: *const Capture) -> usize {
    // SAFETY: the caller's promise. Nothing changes a capture, so that it needs no lock.
    guard_or(0, || unsafe { (*capture).snapshot_bytes() })
}

/// # Safety
/// `capture` comes from `capture` and lives; `out` is valid for `length` bytes.
unsafe extern "C" fn capture_snapshot(capture: *const Capture, out: *mut u8, length: usize) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        if length != (*capture).snapshot_bytes() {
            return INVALID;
        }
        (*capture).fill(items_mut(out, length));
        OK
    })
}

/// # Safety
/// `capture` comes from `capture` and lives; `out` is valid for 32 bytes.
unsafe extern "C" fn capture_digest(capture: *const Capture, out: *mut u8) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        items_mut(out, 32).copy_from_slice(&(*capture).digest());
        OK
    })
}

/// # Safety
/// As for [`with`]; `data` is valid, `reason` points to a buffer that holds nothing.
unsafe extern "C" fn restore(state: *const State, data: Slice, reason: *mut Buffer) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(state, |machine| match machine.restore(bytes(data.data, data.length)) {
            Ok(()) => OK,
            Err(why) => {
                *reason = why.as_bytes().to_vec().into();
                REFUSED
            }
        })
    }
}

/// # Safety
/// `chain_id`, `client` and `out` are valid for 32 bytes each.
unsafe extern "C" fn id(
    chain_id: *const u8,
    client: *const u8,
    session: u64,
    sequence: u64,
    index: u32,
    out: *mut u8,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let id = coin_id(&coin_key(key(chain_id)), key(client), session, sequence, index);
            items_mut(out, 32).copy_from_slice(&id);
        }
        OK
    })
}

static TABLE: Table = Table {
    version,
    create,
    destroy,
    check_batch: check,
    execute_batch: execute,
    coins,
    supply,
    minted,
    restore,
    capture,
    capture_free,
    capture_bytes,
    capture_snapshot,
    capture_digest,
    coin_id: id,
    read,
};

#[no_mangle]
pub extern "C" fn fp_coin() -> *const Table {
    &TABLE
}
