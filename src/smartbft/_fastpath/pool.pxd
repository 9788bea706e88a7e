"""What the module `frames` shares with `pool`."""

from libc.stdint cimport int32_t, uint8_t

from smartbft._fastpath.native cimport fp_buffer_t, fp_request_pool_t, fp_slice_t


cdef class View:
    cdef Py_buffer view
    cdef const uint8_t *data(self) noexcept
    cdef fp_slice_t slice(self) noexcept


cdef class RequestPool:
    cdef fp_request_pool_t *pool


cdef int check_status(int32_t status, fp_buffer_t *error) except -1
cdef bytes take_buffer(fp_buffer_t *buffer)
