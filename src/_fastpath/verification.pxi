# Requests on their way to the native threads that check signatures, and back; included by pool.pyx.

cdef class VerifyJob:
    """Requests on their way to the verifier: reference-counted bytes, no pool slots."""

    cdef fp_job_t *job
    cdef bytes list_bytes
    cdef public bytes mask

    def __init__(self) -> None:
        raise TypeError("jobs come from RequestPool.take_unverified")

    def __dealloc__(self) -> None:
        pool_table.jobs.free(self.job)

    cdef fp_job_t *handle(self) except NULL:
        if self.job == NULL:
            raise TypeError("jobs come from RequestPool.take_unverified")
        return self.job

    @property
    def count(self) -> int:
        """How many requests."""
        return pool_table.jobs.count(self.handle())

    @property
    def data(self) -> bytes:
        """The requests as a request list."""
        cdef fp_buffer_t out
        if self.list_bytes is None:
            check_status(pool_table.jobs.list(self.handle(), &out), NULL)
            self.list_bytes = take_buffer(&out)
        return self.list_bytes

    def items(self) -> list:
        """`(public key, signature, signed message)` of each."""
        cdef size_t number
        cdef fp_buffer_t out
        cdef list result = []
        for number in range(pool_table.jobs.count(self.handle())):
            check_status(pool_table.jobs.item(self.job, number, &out), NULL)
            item = take_buffer(&out)
            result.append((item[:32], item[32:96], item[96:]))
        return result

    def run(self) -> bytes:
        """Verify here and now, on this thread; returns the mask."""
        mask = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> pool_table.jobs.count(self.handle()))
        cdef uint8_t *out = <uint8_t *> PyBytes_AsString(mask)
        cdef int32_t status
        with nogil:
            status = pool_table.jobs.run(self.job, out)
        check_status(status, NULL)
        self.mask = mask
        return mask


cdef VerifyJob new_job(fp_job_t *job):
    cdef VerifyJob result = VerifyJob.__new__(VerifyJob)
    result.job = job
    return result


cdef class Verifier:
    """Jobs in, verdicts out, on native threads; completions through an eventfd."""

    cdef fp_verifier_t *verifier
    cdef dict jobs
    cdef uint64_t next_number
    cdef Py_ssize_t waiting
    cdef bint closed

    def __cinit__(self, Py_ssize_t threads, int nice = 10) -> None:
        if threads < 1:
            raise ValueError(f"a verifier has at least one thread, got {threads}")
        if not 0 <= nice <= 19:
            raise ValueError(f"the niceness of a thread is from 0 to 19, got {nice}")
        self.jobs = {}
        self.verifier = pool_table.jobs.verifier_create(<size_t> threads, nice)
        if self.verifier == NULL:
            raise OSError(f"the system refuses {threads} more threads or a file descriptor")

    def __dealloc__(self) -> None:
        pool_table.jobs.verifier_free(self.verifier)

    def submit(self, VerifyJob job not None) -> None:
        """Hand a job to the threads."""
        cdef int32_t status
        if self.closed:
            raise LocalProtocolError("the verifier is closed")
        status = pool_table.jobs.verifier_submit(self.verifier, job.handle(), self.next_number)
        if status == FP_INVALID:
            raise LocalProtocolError("a forked process needs a verifier of its own")
        check_status(status, NULL)
        self.jobs[self.next_number] = job
        self.next_number += 1
        self.waiting += job.count

    def fileno(self) -> int:
        """The descriptor that is readable while `drain` has something to return."""
        return pool_table.jobs.verifier_descriptor(self.verifier)

    def drain(self) -> list:
        """Jobs finished since the last call, in order of completion; clears the event."""
        cdef fp_buffer_t finished
        cdef const uint8_t *at
        cdef const uint8_t *end
        cdef VerifyJob job
        cdef Py_ssize_t length
        cdef list result = []
        check_status(pool_table.jobs.verifier_drain(self.verifier, &finished), NULL)
        try:
            at = finished.data
            end = at + finished.length
            while at < end:
                job = self.jobs.pop(get_native(at))
                length = <Py_ssize_t> get_native(at + 8)
                job.mask = PyBytes_FromStringAndSize(<const char *> at + 16, length)
                at += 16 + length
                self.waiting -= length
                result.append(job)
        finally:
            buffer_free(&finished)
        return result

    def in_flight(self) -> int:
        """Requests submitted and not yet drained."""
        return self.waiting

    def close(self) -> None:
        """End the threads once they have finished what was submitted. Idempotent."""
        self.closed = True
        check_status(pool_table.jobs.verifier_close(self.verifier), NULL)
