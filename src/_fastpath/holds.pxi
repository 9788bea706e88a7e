# Which members hold which request, where requests carry no signatures; included by pool.pyx.

cdef class Holds:
    """What members announce to have from clients."""

    cdef RequestPool pool

    def __cinit__(self, RequestPool pool not None) -> None:
        self.pool = pool

    def prove(self, uint64_t source, bytes key not None) -> None:
        """The client of connection `source` has proven `key`."""
        check_status(pool_table.holds.prove(self.pool.pool, source, fixed(key, KEY_BYTES, "a client key")), NULL)

    def hold(self, unsigned int member, object digests, uint64_t now) -> int:
        """A member announces what it holds; returns how many requests that are here can be used now."""
        cdef View view = View(digests)
        cdef fp_slice_t names = view.slice
        cdef fp_buffer_t error
        cdef size_t changed = 0
        cdef int32_t status
        with nogil:
            status = pool_table.holds.hold(self.pool.pool, member, names, now, &changed, &error)
        check_status(status, &error)
        return changed

    def void(self, unsigned int member) -> None:
        """The channel to a member is new: what it announced before counts no longer."""
        cdef fp_buffer_t error
        check_status(pool_table.holds.forget(self.pool.pool, member, &error), &error)

    def take(self, size_t most) -> bytes:
        """What is to be announced now."""
        cdef fp_buffer_t digests
        check_status(pool_table.holds.take(self.pool.pool, most, &digests), NULL)
        return take_buffer(&digests)

    def held(self, uint64_t before, size_t most) -> bytes:
        """What is to be announced again."""
        cdef fp_buffer_t digests
        check_status(pool_table.holds.held(self.pool.pool, before, most, &digests), NULL)
        return take_buffer(&digests)

    def wanted(self, unsigned int member, uint64_t before, uint64_t now, size_t most) -> tuple:
        """What to ask a member for, and whether anything is wanted at all."""
        cdef fp_buffer_t digests
        cdef fp_buffer_t error
        cdef size_t left = 0
        check_status(
            pool_table.holds.wanted(self.pool.pool, member, before, now, most, &digests, &left, &error), &error)
        return take_buffer(&digests), left == 1

    def requests(self, object digests, size_t max_bytes) -> bytes:
        """Request list of those among `digests` that are here and vouched for, as far as they fit."""
        cdef View view = View(digests)
        cdef fp_slice_t names = view.slice
        cdef fp_buffer_t data
        cdef fp_buffer_t error
        cdef int32_t status
        with nogil:
            status = pool_table.holds.requests(self.pool.pool, names, max_bytes, &data, &error)
        check_status(status, &error)
        return take_buffer(&data)
