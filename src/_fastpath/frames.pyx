"""Frame readers and the client's reply matcher; see frames.pyi."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from smartbft._fastpath.native cimport (
    FP_ACKNOWLEDGED,
    FP_COMPLETED,
    FP_INVALID,
    FP_LATENCIES,
    FP_OTHERS,
    FP_RESULTS,
    FP_STATUSES,
    View,
    buffer_free,
    fp_buffer_t,
    fp_frame_limit_t,
    fp_matcher_t,
    fp_reader_t,
    fp_slice_t,
    pool_table,
    take_buffer,
)
from smartbft._fastpath.pool cimport RequestPool, check_status

HELLO = 1
REQUEST = 2
REPLY = 3
MESSAGE = 4
STATUS = 5
STATUS_ANSWER = 6

cdef Py_ssize_t HEADER_BYTES = 5
# What a client accepts from a replica unless it says otherwise.
cdef dict CLIENT_LIMITS = {HELLO: 1024, REPLY: 128 * 1024, STATUS_ANSWER: 64 * 1024}


cdef uint32_t get_length(const uint8_t *data) noexcept:
    return data[0] | (<uint32_t> data[1] << 8) | (<uint32_t> data[2] << 16) | (<uint32_t> data[3] << 24)


cdef uint64_t get_native(const uint8_t *data) noexcept:
    cdef uint64_t value
    memcpy(&value, data, 8)
    return value


cdef size_t fill_limits(dict max_payload, fp_frame_limit_t *limits) except 0:
    """Copies at most 256 limits; returns how many."""
    cdef size_t count = 0
    if not max_payload:
        raise ValueError("a connection that accepts no kind of frame")
    for kind, largest in max_payload.items():
        if not 0 <= kind <= 255:
            raise ValueError(f"a kind of frame is from 0 to 255, got {kind}")
        if not 0 <= largest < 0xFFFFFFFF:
            raise ValueError(f"the largest payload of kind {kind} must be from 0 to 2**32 - 2 bytes, got {largest}")
        limits[count].kind = kind
        limits[count].largest = largest
        count += 1
    return count


def frame(object kind, object payload) -> bytes:
    """One frame: length, kind, payload."""
    cdef View view = View(payload)
    cdef Py_ssize_t length = view.buffer.len
    cdef uint32_t declared
    cdef uint8_t *out
    cdef int index
    if not 0 <= kind <= 255:
        raise ValueError(f"a kind of frame is from 0 to 255, got {kind}")
    if length >= 0xFFFFFFFF:
        raise ValueError(f"a payload of {length} bytes does not fit the length field of a frame")
    result = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + length)
    out = <uint8_t *> PyBytes_AsString(result)
    declared = <uint32_t> (length + 1)
    for index in range(4):
        out[index] = <uint8_t> ((declared >> (8 * index)) & 0xFF)
    out[4] = kind
    if length > 0:
        memcpy(out + HEADER_BYTES, view.buffer.buf, length)
    return result


cdef class FrameReader:
    """Reassembles the frames of one connection."""

    cdef fp_reader_t *reader

    def __cinit__(self, dict max_payload not None, RequestPool pool = None, uint64_t source = 0) -> None:
        cdef fp_frame_limit_t limits[256]
        cdef size_t count = fill_limits(max_payload, limits)
        self.reader = pool_table.frames.reader_create(limits, count, NULL if pool is None else pool.pool, source)
        if self.reader == NULL:
            raise MemoryError

    def __dealloc__(self) -> None:
        pool_table.frames.reader_free(self.reader)

    def feed(self, object data, uint64_t now) -> list:
        """Take what the socket delivered; returns the frames `(kind, payload)` other than admitted requests."""
        cdef View view = View(data)
        cdef fp_slice_t received = view.slice
        cdef fp_buffer_t frames
        cdef fp_buffer_t error
        cdef const uint8_t *at
        cdef const uint8_t *end
        cdef Py_ssize_t length
        cdef int32_t status
        cdef list result = []
        with nogil:
            status = pool_table.frames.reader_feed(self.reader, received, now, &frames, &error)
        check_status(status, &error)
        try:
            at = frames.data
            end = at + frames.length
            while at < end:
                length = <Py_ssize_t> get_length(at) - 1
                result.append((at[4], PyBytes_FromStringAndSize(<const char *> at + HEADER_BYTES, length)))
                at += HEADER_BYTES + length
        finally:
            buffer_free(&frames)
        return result

    def buffered(self) -> int:
        """Bytes kept of a frame that is not complete yet."""
        cdef size_t count = 0
        check_status(pool_table.frames.reader_buffered(self.reader, &count), NULL)
        return count


cdef class ReplyMatcher:
    """Client side: collects replies of many requests from all replicas and finds those with enough equal ones."""

    cdef fp_matcher_t *matcher

    def __cinit__(self, Py_ssize_t replicas, Py_ssize_t quorum, dict max_payload = None) -> None:
        cdef fp_frame_limit_t limits[256]
        cdef size_t count = fill_limits(CLIENT_LIMITS if max_payload is None else max_payload, limits)
        if not 1 <= replicas <= 64:
            raise ValueError(f"there are from 1 to 64 replicas, got {replicas}")
        if not 1 <= quorum <= replicas:
            raise ValueError(f"a quorum of {quorum} among {replicas} replicas")
        self.matcher = pool_table.frames.matcher_create(<size_t> replicas, <size_t> quorum, limits, count)
        if self.matcher == NULL:
            raise MemoryError

    def __dealloc__(self) -> None:
        pool_table.frames.matcher_free(self.matcher)

    def expect(self, object digests, uint64_t first_tag, uint64_t now) -> None:
        """Requests just sent get the tags from `first_tag` on."""
        cdef View view = View(digests)
        cdef int32_t status = pool_table.frames.matcher_expect(self.matcher, view.slice, first_tag, now)
        if status == FP_INVALID:
            raise ValueError(f"digests of 32 bytes each, got {view.buffer.len} bytes")
        check_status(status, NULL)

    def forget(self, bytes digest not None) -> None:
        """Expect a request no longer."""
        if len(digest) != 32:
            raise ValueError(f"a digest has 32 bytes, got {len(digest)}")
        check_status(
            pool_table.frames.matcher_forget(self.matcher, <const uint8_t *> PyBytes_AsString(digest)), NULL)

    def reset(self, Py_ssize_t replica) -> None:
        """The connection to a replica was replaced: what was left of a frame on the old one is void."""
        cdef int32_t status = FP_INVALID
        if replica >= 0:
            status = pool_table.frames.matcher_reset(self.matcher, <size_t> replica)
        if status == FP_INVALID:
            raise ValueError(f"there is no replica {replica}")
        check_status(status, NULL)

    def feed(self, Py_ssize_t replica, object data, uint64_t now) -> int:
        """Take bytes from the connection to `replica`; returns how many requests were completed by them."""
        cdef View view = View(data)
        cdef fp_slice_t received = view.slice
        cdef fp_buffer_t error
        cdef size_t completed = 0
        cdef int32_t status = FP_INVALID
        if replica >= 0:
            with nogil:
                status = pool_table.frames.matcher_feed(
                    self.matcher, <size_t> replica, received, now, &completed, &error)
        if status == FP_INVALID:
            raise ValueError(f"there is no replica {replica}")
        check_status(status, &error)
        return completed

    cdef bytes take(self, uint32_t sort):
        cdef fp_buffer_t out
        cdef int32_t status
        with nogil:
            status = pool_table.frames.matcher_take(self.matcher, sort, &out)
        check_status(status, NULL)
        return take_buffer(&out)

    cdef list take_records(self, uint32_t sort):
        """Records of two integers and bytes."""
        cdef bytes packed = self.take(sort)
        cdef const uint8_t *at = <const uint8_t *> PyBytes_AsString(packed)
        cdef const uint8_t *end = at + len(packed)
        cdef Py_ssize_t length
        cdef list result = []
        while at < end:
            length = <Py_ssize_t> get_native(at + 16)
            value = PyBytes_FromStringAndSize(<const char *> at + 24, length)
            result.append((get_native(at), get_native(at + 8), value))
            at += 24 + length
        return result

    cdef dict take_counts(self, uint32_t sort):
        cdef bytes packed = self.take(sort)
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AsString(packed)
        cdef Py_ssize_t number
        cdef dict result = {}
        for number in range(len(packed) // 16):
            result[get_native(data + 16 * number)] = get_native(data + 16 * number + 8)
        return result

    def completed(self) -> list:
        """`(tag, status, reply)` of the requests completed since the last call."""
        return self.take_records(FP_COMPLETED)

    def keep_replies(self, bint keep) -> None:
        """Whether `completed` is wanted."""
        check_status(pool_table.frames.matcher_keep_replies(self.matcher, keep), NULL)

    def others(self) -> list:
        """Frames `(replica, kind, payload)` that were no replies, since the last call."""
        return self.take_records(FP_OTHERS)

    def outstanding(self) -> int:
        """Requests expected and not completed."""
        cdef size_t count = 0
        check_status(pool_table.frames.matcher_outstanding(self.matcher, &count), NULL)
        return count

    def latencies(self) -> bytes:
        """Latencies in microseconds of the requests completed since the last call, native unsigned 32-bit."""
        return self.take(FP_LATENCIES)

    def statuses(self) -> dict:
        """How many requests completed with each reply status since the start."""
        return self.take_counts(FP_STATUSES)

    def results(self) -> dict:
        """How many requests with status EXECUTED had each first result byte since the start."""
        return self.take_counts(FP_RESULTS)

    def acknowledged(self) -> bytes:
        """Digests of all requests completed with status EXECUTED since the start."""
        return self.take(FP_ACKNOWLEDGED)
