//! The C boundary: the only place with `unsafe`. One file per area; each fills the function table of that area which
//! `include/fastpath.h` declares. Nothing here computes: a function turns pointers into slices, calls safe code inside
//! [`guard`] and turns the outcome into a status.
#![allow(unsafe_code)]

use std::panic::{catch_unwind, AssertUnwindSafe};

pub mod coin;
pub mod fork_join;
pub mod frames;
pub mod hashing;
pub mod holds;
pub mod jobs;
pub mod log;
mod ordering;
pub mod pool;
pub mod process;
mod reception;
mod replies;
pub mod sessions;
pub mod simd;
pub mod verify;

/// The call did what it should.
pub const OK: i32 = 0;
/// A panic was caught at the boundary: a bug in this crate.
pub const PANIC: i32 = -1;
/// An argument is out of its bounds.
pub const INVALID: i32 = -2;

/// Runs `body`, turning a panic into [`PANIC`]: unwinding must not cross into C.
pub fn guard(body: impl FnOnce() -> i32) -> i32 {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANIC)
}

/// Runs `body`, turning a panic into `fallback`, for functions that do not return a status.
pub fn guard_or<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}

/// `fp_slice_t`: a view of bytes that the caller owns and keeps alive during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    pub data: *const u8,
    pub length: usize,
}

impl Slice {
    /// # Safety
    /// `data` is null with length 0, or valid for `length` bytes for as long as the result is used.
    pub unsafe fn as_bytes<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { bytes(self.data, self.length) }
    }
}

/// The bytes behind a pointer; a null pointer is the empty slice.
///
/// # Safety
/// `data` is null, or valid for `length` bytes for as long as the result is used.
pub unsafe fn bytes<'a>(data: *const u8, length: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { items(data, length) }
}

/// The `count` items behind a pointer; a null pointer is the empty slice.
///
/// # Safety
/// `data` is null, or aligned and valid for `count` items for as long as the result is used.
pub unsafe fn items<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if data.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, count) }
}

/// The `count` items behind a pointer, to be written; a null pointer is the empty slice.
///
/// # Safety
/// `data` is null, or aligned, valid for `count` items and not aliased for as long as the result is used.
pub unsafe fn items_mut<'a, T>(data: *mut T, count: usize) -> &'a mut [T] {
    if data.is_null() || count == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(data, count) }
}

/// Slices of one buffer, as a caller describes them: the `i`-th is `data[offsets[i]..offsets[i + 1]]`.
pub struct Packed<'a> {
    data: &'a [u8],
    /// Native 64-bit integers, perhaps not aligned.
    offsets: &'a [[u8; 8]],
}

impl<'a> Packed<'a> {
    /// `None`: there is no offset, they decrease, or they leave the buffer.
    pub fn new(data: &'a [u8], offsets: &'a [[u8; 8]]) -> Option<Self> {
        let mut previous = u64::from_ne_bytes(*offsets.first()?);
        for offset in &offsets[1..] {
            let offset = u64::from_ne_bytes(*offset);
            if offset < previous {
                return None;
            }
            previous = offset;
        }
        usize::try_from(previous).is_ok_and(|end| end <= data.len()).then_some(Packed { data, offsets })
    }

    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn get(&self, number: usize) -> &'a [u8] {
        &self.data[self.offset(number)..self.offset(number + 1)]
    }

    /// Lossless: `new` found every offset within the buffer.
    fn offset(&self, number: usize) -> usize {
        u64::from_ne_bytes(self.offsets[number]) as usize
    }
}

/// `fp_buffer_t`: bytes that this crate allocated and hands over; freed with `fp_buffer_free`.
#[repr(C)]
pub struct Buffer {
    pub data: *mut u8,
    pub length: usize,
    pub capacity: usize,
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        Buffer { data: bytes.as_mut_ptr(), length: bytes.len(), capacity: bytes.capacity() }
    }
}

/// Frees a buffer and leaves it empty, so that freeing it twice is harmless.
///
/// # Safety
/// `buffer` is null, or points to a zeroed `fp_buffer_t` or to one that this crate filled.
#[no_mangle]
pub unsafe extern "C" fn fp_buffer_free(buffer: *mut Buffer) {
    if buffer.is_null() {
        return;
    }
    // SAFETY: the caller's promise; the parts come from `Buffer::from`.
    unsafe {
        let parts = std::ptr::replace(buffer, Buffer { data: std::ptr::null_mut(), length: 0, capacity: 0 });
        if !parts.data.is_null() {
            drop(Vec::from_raw_parts(parts.data, parts.length, parts.capacity));
        }
    }
}
