//! The function table of the area `hashing` (`fp_hashing_t`).

use super::{guard, items, items_mut, Buffer, Packed, Slice, INVALID, OK};
use crate::hashing::{self, Digest};
use crate::merkle;

/// `fp_hashing_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
    pub hash_many: unsafe extern "C" fn(*const Slice, usize, *const u8, *mut u8) -> i32,
    pub hash_packed: unsafe extern "C" fn(*const PackedSlices, *const u8, *mut u8) -> i32,
    pub derive_key: unsafe extern "C" fn(*const Slice, *const Slice, *mut u8) -> i32,
    pub merkle_root: unsafe extern "C" fn(*const Slice, usize, *mut u8) -> i32,
    pub merkle_root_packed: unsafe extern "C" fn(*const PackedSlices, *mut u8) -> i32,
    pub merkle_proof: unsafe extern "C" fn(*const Slice, usize, usize, *mut Buffer) -> i32,
    pub merkle_verify: unsafe extern "C" fn(*const u8, *const Slice, u64, u64, *const Slice) -> i32,
}

/// `fp_packed_t`: slices of one buffer, `count + 1` offsets.
#[repr(C)]
pub struct PackedSlices {
    pub data: Slice,
    pub offsets: *const u8,
    pub count: usize,
}

impl PackedSlices {
    /// # Safety
    /// The buffers are valid for as long as the result is used.
    unsafe fn slices<'a>(&self) -> Option<Vec<&'a [u8]>> {
        // SAFETY: the caller's promise.
        let packed =
            unsafe { Packed::new(self.data.as_bytes(), items(self.offsets.cast::<[u8; 8]>(), self.count + 1))? };
        Some((0..packed.count()).map(|number| packed.get(number)).collect())
    }
}

/// # Safety
/// `list` is valid for `count` slices, which are valid for as long as the result is used.
unsafe fn slices<'a>(list: *const Slice, count: usize) -> Vec<&'a [u8]> {
    // SAFETY: the caller's promise.
    unsafe { items(list, count).iter().map(|slice| slice.as_bytes()).collect() }
}

/// # Safety
/// `key` is null or valid for 32 bytes; `out` is valid for 32 bytes per message.
unsafe fn hash_into(key: *const u8, messages: &[&[u8]], out: *mut u8) {
    // SAFETY: the caller's promise.
    let (key, digests) = unsafe { (key.cast::<[u8; 32]>().as_ref(), items_mut(out.cast::<Digest>(), messages.len())) };
    hashing::hash_many(key, messages, digests);
}

extern "C" fn version() -> u32 {
    1
}

unsafe extern "C" fn hash_many(list: *const Slice, count: usize, key: *const u8, out: *mut u8) -> i32 {
    guard(|| {
        // SAFETY: the caller passes `count` slices, a key or null, and room for `count` digests.
        unsafe { hash_into(key, &slices(list, count), out) };
        OK
    })
}

unsafe extern "C" fn hash_packed(list: *const PackedSlices, key: *const u8, out: *mut u8) -> i32 {
    guard(|| {
        // SAFETY: the caller passes live buffers, a key or null, and room for `count` digests.
        unsafe {
            let Some(messages) = (*list).slices() else { return INVALID };
            hash_into(key, &messages, out);
        }
        OK
    })
}

/// [`INVALID`] if the context is not UTF-8.
unsafe extern "C" fn derive_key(context: *const Slice, material: *const Slice, out: *mut u8) -> i32 {
    guard(|| {
        // SAFETY: the caller passes two slices and room for 32 bytes.
        let (context, material, out) =
            unsafe { ((*context).as_bytes(), (*material).as_bytes(), &mut *out.cast::<[u8; 32]>()) };
        let Ok(context) = std::str::from_utf8(context) else { return INVALID };
        *out = hashing::derive_key(context, material);
        OK
    })
}

unsafe extern "C" fn merkle_root(list: *const Slice, count: usize, out: *mut u8) -> i32 {
    guard(|| {
        // SAFETY: the caller passes `count` slices and room for 32 bytes.
        unsafe { *out.cast::<Digest>() = merkle::root(&slices(list, count)) };
        OK
    })
}

unsafe extern "C" fn merkle_root_packed(list: *const PackedSlices, out: *mut u8) -> i32 {
    guard(|| {
        // SAFETY: the caller passes live buffers and room for 32 bytes.
        unsafe {
            let Some(leaves) = (*list).slices() else { return INVALID };
            *out.cast::<Digest>() = merkle::root(&leaves);
        }
        OK
    })
}

/// Writes a buffer to be freed; [`INVALID`] if there is no such leaf.
unsafe extern "C" fn merkle_proof(list: *const Slice, count: usize, index: usize, proof: *mut Buffer) -> i32 {
    guard(|| {
        // SAFETY: the caller passes `count` slices and an empty buffer.
        unsafe {
            let Some(siblings) = merkle::proof(&slices(list, count), index) else { return INVALID };
            proof.write(Buffer::from(siblings));
        }
        OK
    })
}

/// 1 if the proof holds, else 0.
unsafe extern "C" fn merkle_verify(
    root: *const u8,
    leaf: *const Slice,
    index: u64,
    count: u64,
    proof: *const Slice,
) -> i32 {
    guard(|| {
        // SAFETY: the caller passes 32 bytes and two slices.
        unsafe {
            let (leaf, proof) = ((*leaf).as_bytes(), (*proof).as_bytes());
            i32::from(merkle::verify(&*root.cast::<Digest>(), leaf, index, count, proof))
        }
    })
}

static TABLE: Table =
    Table { version, hash_many, hash_packed, derive_key, merkle_root, merkle_root_packed, merkle_proof, merkle_verify };

#[no_mangle]
pub extern "C" fn fp_hashing() -> *const Table {
    &TABLE
}
