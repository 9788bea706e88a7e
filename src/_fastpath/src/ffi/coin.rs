//! The function table of the area `coin` (`fp_coin_t`).

/// `fp_coin_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
}

extern "C" fn version() -> u32 {
    1
}

static TABLE: Table = Table { version };

#[no_mangle]
pub extern "C" fn fp_coin() -> *const Table {
    &TABLE
}
