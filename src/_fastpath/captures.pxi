# The session table as of an executed prefix, written down by any thread while the pool goes on; included by pool.pyx.

cdef class SessionCapture:
    """A capture of a pool's session table."""

    cdef RequestPool pool
    cdef uint64_t number

    def __init__(self) -> None:
        raise TypeError("captures come from RequestPool.capture_sessions")

    def export(self) -> bytes:
        """What `RequestPool.export_sessions` would have returned at the time of the capture; once."""
        cdef fp_buffer_t data
        cdef fp_buffer_t error
        cdef int32_t status
        if self.pool is None:
            raise TypeError("captures come from RequestPool.capture_sessions")
        with nogil:
            status = pool_table.export_capture(self.pool.pool, self.number, &data, &error)
        check_status(status, &error)
        return copy_without_gil(&data)


cdef bytes copy_without_gil(fp_buffer_t *buffer):
    """As `take_buffer`, for so many bytes that copying them would keep other threads waiting."""
    cdef bytes taken
    cdef char *place
    try:
        taken = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> buffer.length)
        place = PyBytes_AsString(taken)
        with nogil:
            memcpy(place, buffer.data, buffer.length)
        return taken
    finally:
        buffer_free(buffer)


cdef SessionCapture new_capture(RequestPool pool, uint64_t instance):
    cdef SessionCapture capture = SessionCapture.__new__(SessionCapture)
    cdef fp_buffer_t error
    check_status(pool_table.capture_sessions(pool.pool, instance, &capture.number, &error), &error)
    capture.pool = pool
    return capture
