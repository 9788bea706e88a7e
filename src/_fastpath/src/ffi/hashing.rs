//! The function table of the area `hashing` (`fp_hashing_t`).

/// `fp_hashing_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
}

extern "C" fn version() -> u32 {
    1
}

static TABLE: Table = Table { version };

#[no_mangle]
pub extern "C" fn fp_hashing() -> *const Table {
    &TABLE
}
