"""What the module `frames` shares with `pool`."""

from libc.stdint cimport int32_t

from smartbft._fastpath.native cimport fp_buffer_t, fp_request_pool_t


cdef class RequestPool:
    cdef fp_request_pool_t *pool


cdef int check_status(int32_t status, fp_buffer_t *error) except -1
