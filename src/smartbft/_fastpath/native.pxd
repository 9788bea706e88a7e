"""The function tables of the native crate, for the other compiled modules to cimport.

Only the module `native` links the crate; the others reach it through these pointers. One section per area: the C header
`include/fastpath.h` is the truth, and a section repeats what Cython must know of it.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "fastpath.h" nogil:
    const int FP_OK
    const int FP_PANIC
    const int FP_INVALID

    ctypedef struct fp_slice_t:
        const uint8_t *data
        size_t length

    ctypedef struct fp_buffer_t:
        uint8_t *data
        size_t length
        size_t capacity


# --- hashing ----------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_hashing_t:
        uint32_t (*version)()

# --- verify -----------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_verify_t:
        uint32_t (*version)()

# --- log --------------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_log_t:
        uint32_t (*version)()

# --- pool and frames --------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_pool_t:
        uint32_t (*version)()

# --- coin -------------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_coin_t:
        uint32_t (*version)()


cdef const fp_hashing_t *hashing_table
cdef const fp_verify_t *verify_table
cdef const fp_log_t *log_table
cdef const fp_pool_t *pool_table
cdef const fp_coin_t *coin_table
cdef void (*buffer_free)(fp_buffer_t *buffer) noexcept nogil
