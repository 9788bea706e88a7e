"""The request pool, its verification jobs, and the layouts of requests and results; see pool.pyi."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from smartbft._fastpath.native cimport (
    FP_FRAME,
    FP_INVALID,
    FP_MALFORMED,
    FP_MISUSE,
    FP_REFUSED,
    View,
    buffer_free,
    fp_batch_t,
    fp_buffer_t,
    fp_execution_t,
    fp_job_t,
    fp_pool_config_t,
    fp_pool_stats_t,
    fp_replies_t,
    fp_slice_t,
    fp_verifier_t,
    pool_table,
    take_buffer,
)

import struct

from smartbft.arguments import bytes_of
from smartbft.errors import FrameError, InvariantViolation, LocalProtocolError, MalformedMessage

EXECUTED = 0
OVERLOADED = 1
SESSION_REFUSED = 2
REJECTED = 3
BAD_SIGNATURE = 4

FROM_MEMBER = 1 << 63

VALID = 0
EMPTY = 1
TOO_LARGE = 2
MALFORMED = 3
DUPLICATE = 4
NOT_CONTIGUOUS = 5
SESSION_INVALID = 6

cdef Py_ssize_t KEY_BYTES = 32
cdef Py_ssize_t SIGNATURE_BYTES = 64
cdef Py_ssize_t HEADER_BYTES = 52
cdef Py_ssize_t DIGEST_BYTES = 32
cdef object MOST_U32 = (1 << 32) - 1
cdef object MOST_U64 = (1 << 64) - 1


cdef int check_status(int32_t status, fp_buffer_t *error) except -1:
    """Raise the error that a native call reports."""
    if status >= 0:
        return 0
    if status == FP_FRAME:
        raise FrameError(take_buffer(error).decode())
    if status == FP_MALFORMED:
        raise MalformedMessage(take_buffer(error).decode())
    if status == FP_MISUSE:
        raise LocalProtocolError(take_buffer(error).decode())
    if status == FP_REFUSED:
        raise ValueError(take_buffer(error).decode())
    raise InvariantViolation(f"native code failed with status {status}; this is a bug in smartbft")


cdef const uint8_t *fixed(bytes value, Py_ssize_t length, object name) except NULL:
    """The bytes of a value that has a fixed length."""
    if value is None or len(value) != length:
        raise ValueError(f"{name} has {length} bytes, got {None if value is None else len(value)}")
    return <const uint8_t *> PyBytes_AsString(value)


cdef uint64_t unsigned(object value, object name) except? 0xFFFFFFFFFFFFFFFF:
    """A 64-bit unsigned integer, or a clear error."""
    if not 0 <= value <= MOST_U64:
        raise ValueError(f"{name} must be from 0 to 2**64 - 1, got {value}")
    return <uint64_t> value


include "layouts.pxi"
include "verification.pxi"


cdef fp_batch_t batch_of(View digests, View data):
    cdef fp_batch_t batch
    batch.digests = digests.slice
    batch.data = data.slice
    return batch


cdef list unpack_pairs(fp_buffer_t *buffer):
    """Pairs of integers that native code handed over."""
    cdef const uint8_t *at = buffer.data
    cdef size_t number
    cdef list result = []
    try:
        for number in range(buffer.length // 16):
            result.append((get_native(at + 16 * number), get_native(at + 16 * number + 8)))
    finally:
        buffer_free(buffer)
    return result


cdef class RequestPool:
    """The bounded pool of pending requests and the session table."""

    def __cinit__(
        self,
        bytes chain_id not None,
        *,
        object replica = 0,
        object window,
        object max_requests,
        object max_bytes,
        object max_operation_bytes,
        object max_sessions,
        object max_sessions_per_key,
        object max_unverified_per_source,
        object lease,
        object skew,
        bint admit_unverified = False,
        object members = 0,
        object member = 0,
        object max_holds = 1,
        object max_idle = 16_000_000,
    ) -> None:
        cdef fp_pool_config_t config
        cdef View chain = View(chain_id)
        if not 0 <= replica < 65536:
            raise ValueError(f"a replica number is from 0 to 65535, got {replica}")
        config.replica = replica
        config.window = positive(window, "window")
        config.max_requests = positive(max_requests, "max_requests")
        config.max_bytes = positive(max_bytes, "max_bytes")
        config.max_operation_bytes = unsigned(max_operation_bytes, "max_operation_bytes")
        config.max_sessions = positive(max_sessions, "max_sessions")
        config.max_sessions_per_key = positive(max_sessions_per_key, "max_sessions_per_key")
        config.max_unverified_per_source = positive(max_unverified_per_source, "max_unverified_per_source")
        config.lease = unsigned(lease, "lease")
        config.skew = unsigned(skew, "skew")
        config.admit_unverified = admit_unverified
        if not (0 <= members <= 64 and 0 <= member < max(1, members)):
            raise ValueError(f"member {member} of {members}: a view has at most 64 members")
        config.members = members
        config.member = member
        config.max_holds = positive(max_holds, "max_holds")
        config.max_idle = positive(max_idle, "max_idle")
        if config.max_operation_bytes + HEADER_BYTES + SIGNATURE_BYTES > config.max_bytes:
            raise ValueError(f"max_bytes ({max_bytes}) must have room for a request with the largest operation")
        self.pool = pool_table.create(chain.slice, &config)
        if self.pool == NULL:
            raise MemoryError

    def __dealloc__(self) -> None:
        pool_table.free(self.pool)

    @property
    def holds(self) -> Holds:
        """Who holds which request, where requests carry no signatures."""
        return Holds(self)

    # reception

    def admit(self, object data, uint64_t source, uint64_t now) -> int:
        """Admit a request list; returns how many requests were new."""
        cdef View view = View(data)
        cdef fp_slice_t requests = view.slice
        cdef fp_buffer_t error
        cdef size_t count = 0
        cdef int32_t status
        with nogil:
            status = pool_table.admit(self.pool, requests, source, now, &count, &error)
        check_status(status, &error)
        return count

    def admit_body(self, object data, uint64_t now) -> int:
        """Admit bodies that a proposal names; returns how many requests were new."""
        cdef View view = View(data)
        cdef fp_slice_t requests = view.slice
        cdef fp_buffer_t error
        cdef size_t count = 0
        cdef int32_t status
        with nogil:
            status = pool_table.admit_body(self.pool, requests, now, &count, &error)
        check_status(status, &error)
        return count

    def drop_source(self, uint64_t source) -> None:
        """The connection is gone."""
        check_status(pool_table.drop_source(self.pool, source), NULL)

    def pass_time(self, uint64_t now) -> None:
        """It is `now`: what could not be proposed for long goes."""
        check_status(pool_table.pass_time(self.pool, now), NULL)

    def take_unverified(self, size_t max_requests) -> VerifyJob | None:
        """The next requests to verify."""
        cdef fp_job_t *job = NULL
        check_status(pool_table.take_unverified(self.pool, max_requests, &job), NULL)
        return None if job == NULL else new_job(job)

    def apply_verdicts(self, VerifyJob job not None, object mask, object reasons=b"") -> list:
        """Apply a mask; returns `(source, bad)` for each source with bad signatures."""
        cdef View view = View(mask)
        cdef View why = View(reasons)
        cdef fp_slice_t verdicts = view.slice
        cdef fp_slice_t texts = why.slice
        cdef fp_buffer_t bad
        cdef fp_job_t *handle = job.handle()
        cdef int32_t status
        with nogil:
            status = pool_table.apply_verdicts(self.pool, handle, verdicts, texts, &bad)
        if status == FP_INVALID:
            raise ValueError(f"a mask of {view.buffer.len} bytes for a job of {job.count} requests")
        check_status(status, NULL)
        return unpack_pairs(&bad)

    # proposing and voting

    def ready(self) -> int:
        """Requests a leader could propose now."""
        cdef size_t count = 0
        check_status(pool_table.ready(self.pool, &count), NULL)
        return count

    def form_batch(self, size_t max_requests, size_t max_bytes, uint64_t timestamp) -> tuple:
        """A fair batch `(digests, data)`. Does not change the pool."""
        cdef fp_buffer_t digests
        cdef fp_buffer_t data
        cdef int32_t status
        with nogil:
            status = pool_table.form_batch(self.pool, max_requests, max_bytes, timestamp, &digests, &data)
        check_status(status, NULL)
        names = take_buffer(&digests)
        return names, take_buffer(&data)

    def resolve(self, object digests, bint bound = False) -> tuple:
        """`(data, missing, unverified)` of a proposal."""
        cdef View view = View(digests)
        cdef fp_slice_t names = view.slice
        cdef fp_buffer_t data
        cdef fp_buffer_t missing
        cdef fp_buffer_t error
        cdef size_t unverified = 0
        cdef int32_t status
        with nogil:
            status = pool_table.resolve(self.pool, names, bound, &data, &missing, &unverified, &error)
        check_status(status, &error)
        requests = take_buffer(&data)
        return requests, take_buffer(&missing), unverified

    def check(self, object data, uint64_t timestamp, size_t max_requests, size_t max_bytes) -> int:
        """The sessions' part of the predicate gamma: VALID or why not."""
        cdef View view = View(data)
        cdef fp_slice_t requests = view.slice
        cdef int32_t verdict
        with nogil:
            verdict = pool_table.check(self.pool, requests, timestamp, max_requests, max_bytes)
        check_status(verdict, NULL)
        return verdict

    def decide(self, object digests, object data, uint64_t instance, uint64_t timestamp) -> None:
        """The batch was decided in `instance` at agreed time `timestamp`.

        Raises:
            LocalProtocolError: it does not follow the decided prefix, or the time does not advance.
        """
        cdef View names = View(digests)
        cdef View requests = View(data)
        cdef fp_batch_t batch = batch_of(names, requests)
        cdef fp_buffer_t error
        cdef int32_t status
        with nogil:
            status = pool_table.decide(self.pool, batch, instance, timestamp, &error)
        check_status(status, &error)

    def executed(self, object digests, object data, object results, uint64_t instance, unsigned int view,
                 uint64_t timestamp, unsigned char level) -> None:
        """Store the replies in the sessions' reply caches.

        Raises:
            LocalProtocolError: not one result per request, or not the next requests of their sessions.
        """
        cdef View names = View(digests)
        cdef View requests = View(data)
        cdef View outcomes = View(results)
        cdef fp_batch_t batch = batch_of(names, requests)
        cdef fp_slice_t result_slice = outcomes.slice
        cdef fp_execution_t execution
        cdef fp_buffer_t error
        cdef int32_t status
        execution.instance = instance
        execution.view = view
        execution.timestamp = timestamp
        execution.level = level
        with nogil:
            status = pool_table.executed(self.pool, batch, result_slice, &execution, &error)
        check_status(status, &error)

    def release(self, object digests, object data) -> None:
        """Replies may leave.

        Raises:
            LocalProtocolError: the batch has not been executed.
        """
        cdef View names = View(digests)
        cdef View requests = View(data)
        cdef fp_batch_t batch = batch_of(names, requests)
        cdef fp_buffer_t error
        cdef int32_t status
        with nogil:
            status = pool_table.release(self.pool, batch, &error)
        check_status(status, &error)

    def take_replies(self) -> list:
        """`(source, frames)`: what waits to be written to each client connection."""
        cdef fp_replies_t *replies = NULL
        cdef fp_slice_t frames
        cdef uint64_t source = 0
        cdef list result = []
        check_status(pool_table.take_replies(self.pool, &replies), NULL)
        if replies == NULL:
            return result
        try:
            while pool_table.next_replies(replies, &source, &frames) == 1:
                waiting = PyBytes_FromStringAndSize(<const char *> frames.data, <Py_ssize_t> frames.length)
                result.append((source, waiting))
        finally:
            pool_table.free_replies(replies)
        return result

    def collect(self, object digests) -> bytes:
        """Request list of those among `digests` that the pool holds verified."""
        cdef View view = View(digests)
        cdef fp_slice_t names = view.slice
        cdef fp_buffer_t data
        cdef fp_buffer_t error
        cdef int32_t status
        with nogil:
            status = pool_table.collect(self.pool, names, &data, &error)
        check_status(status, &error)
        return take_buffer(&data)

    # timers

    def oldest_pending(self) -> int:
        """Arrival time of the oldest request that a leader could propose, or -1."""
        cdef int64_t arrival = -1
        check_status(pool_table.oldest_pending(self.pool, &arrival), NULL)
        return arrival

    def overdue(self, uint64_t before, size_t max_bytes) -> bytes:
        """Request list of the ready requests from before `before`, oldest first."""
        cdef fp_buffer_t data
        cdef int32_t status
        with nogil:
            status = pool_table.overdue(self.pool, before, max_bytes, &data)
        check_status(status, NULL)
        return take_buffer(&data)

    @property
    def agreed_time(self) -> int:
        """Timestamp of the last decided batch."""
        cdef uint64_t time = 0
        check_status(pool_table.agreed_time(self.pool, &time), NULL)
        return time

    def set_accepting(self, bint accepting) -> None:
        """False: every new request is refused with OVERLOADED."""
        check_status(pool_table.set_accepting(self.pool, accepting), NULL)

    def session(self, bytes key not None, uint64_t session) -> tuple | None:
        """Cursors `(received, ordered, executed)` of a session."""
        cdef uint64_t cursors[3]
        cdef int32_t status = pool_table.session(self.pool, fixed(key, KEY_BYTES, "a client key"), session, cursors)
        check_status(status, NULL)
        return (cursors[0], cursors[1], cursors[2]) if status == 1 else None

    def sessions_of(self, bytes key not None) -> list:
        """`(number, executed, end of the lease)` of the open sessions of a key, by number."""
        cdef fp_buffer_t data
        check_status(pool_table.key_sessions(self.pool, fixed(key, KEY_BYTES, "a client key"), &data), NULL)
        return sorted(struct.iter_unpack("<QQQ", take_buffer(&data)))

    def cached_reply(self, bytes key not None, uint64_t session, uint64_t sequence) -> bytes | None:
        """The kept reply to an executed request."""
        cdef fp_buffer_t reply
        cdef int32_t status = pool_table.cached_reply(
            self.pool, fixed(key, KEY_BYTES, "a client key"), session, sequence, &reply)
        check_status(status, NULL)
        return take_buffer(&reply) if status == 1 else None

    def export_sessions(self, uint64_t instance) -> bytes:
        """The session table as of the executed prefix, which ends with `instance`."""
        cdef fp_buffer_t data
        cdef fp_buffer_t error
        cdef int32_t status
        with nogil:
            status = pool_table.export_sessions(self.pool, instance, &data, &error)
        check_status(status, &error)
        return take_buffer(&data)

    def capture_sessions(self, uint64_t instance) -> SessionCapture:
        """The session table as of the executed prefix, to be written down by any thread."""
        return new_capture(self, instance)

    def import_sessions(self, object data, uint64_t agreed_time, unsigned char level = 0) -> None:
        """Replace the session table by an exported one.

        Raises:
            ValueError: not canonical, or beyond the limits of this pool.
        """
        cdef View view = View(data)
        cdef fp_slice_t table = view.slice
        cdef fp_buffer_t error
        cdef int32_t status
        with nogil:
            status = pool_table.import_sessions(self.pool, table, agreed_time, level, &error)
        check_status(status, &error)

    def stats(self) -> dict:
        """Counters and gauges, by name."""
        cdef fp_pool_stats_t stats
        check_status(pool_table.stats(self.pool, &stats), NULL)
        return {
            "pending": stats.pending,
            "verified": stats.verified,
            "unverified": stats.unverified,
            "bytes": stats.bytes,
            "sessions": stats.sessions,
            "admitted": stats.admitted,
            "duplicates": stats.duplicates,
            "bad_signatures": stats.bad_signatures,
            "refused": stats.refused,
            "signature_checks": stats.signature_checks,
            "idle": stats.idle,
            "evicted": stats.evicted,
            "full": stats.full,
        }


include "holds.pxi"


cdef uint64_t positive(object value, object name) except 0:
    if not 1 <= value < 1 << 63:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return <uint64_t> value


include "captures.pxi"
