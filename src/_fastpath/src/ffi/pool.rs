//! The function table of the area `pool` (`fp_pool_t`).

/// `fp_pool_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
}

extern "C" fn version() -> u32 {
    1
}

static TABLE: Table = Table { version };

#[no_mangle]
pub extern "C" fn fp_pool() -> *const Table {
    &TABLE
}
