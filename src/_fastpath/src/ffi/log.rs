//! The function table of the area `log` (`fp_log_t`).

/// `fp_log_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
}

extern "C" fn version() -> u32 {
    1
}

static TABLE: Table = Table { version };

#[no_mangle]
pub extern "C" fn fp_log() -> *const Table {
    &TABLE
}
