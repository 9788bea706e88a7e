"""The durable log: segmented, zero-filled ahead, checksummed, chained, group-committed on its own native thread.

Format, verdicts and failure rule: docs/log-format.md. A record is `(kind, instance, body)`.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport UINT64_MAX, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from smartbft._fastpath.native cimport (
    FP_INVALID,
    FP_LOG_CORRUPT,
    FP_LOG_LOST,
    FP_LOG_STORAGE,
    FP_OK,
    buffer_free,
    fp_buffer_t,
    fp_log_encoder_t,
    fp_log_error_t,
    fp_log_header_t,
    fp_log_identity_t,
    fp_log_log_t,
    fp_log_parser_t,
    fp_log_position_t,
    fp_log_record_t,
    fp_log_records_t,
    fp_log_settings_t,
    fp_log_statistics_t,
    fp_slice_t,
    log_table,
)

from smartbft.errors import CorruptLog, DurabilityLost, InvariantViolation, LocalProtocolError, StorageError
from smartbft.forks import keep_from_children

MEMORY = 0
ASYNC = 1
SYNC = 2

HEADER_SIZE = 72
SEGMENT_HEADER_SIZE = 512

_VERDICTS = ("complete", "torn tail", "corrupt")

# A body shorter than this is copied and hashed faster than the interpreter's lock changes hands.
cdef size_t RELEASE_GIL_FROM = 2048


cdef object _error(int32_t status, fp_log_error_t *error):
    """The exception for a failed call."""
    if status == FP_LOG_STORAGE or status == FP_LOG_CORRUPT or status == FP_LOG_LOST:
        message = error.message.decode("utf-8", "replace")
        if status == FP_LOG_STORAGE:
            return StorageError(message)
        if status == FP_LOG_LOST:
            return DurabilityLost(message)
        segment = "" if error.segment == UINT64_MAX else f"segment-{error.segment:016x}.log"
        place = f"{segment}, offset {error.offset}" if segment else f"offset {error.offset}"
        return CorruptLog(f"the log is corrupt at {place}: {message}", error.offset, segment)
    if status == FP_INVALID:
        return LocalProtocolError("an argument of the log is out of its bounds")
    return InvariantViolation("the native log panicked")


cdef int _fill_identity(fp_log_identity_t *identity, bytes chain_id, replica) except -1:
    if len(chain_id) != 32:
        raise LocalProtocolError(f"a chain id has 32 bytes, not {len(chain_id)}")
    if not 0 <= replica < 1 << 32:
        raise LocalProtocolError(f"replica {replica} is not between 0 and 4294967295")
    memcpy(identity.chain_id, <const uint8_t *>chain_id, 32)
    identity.replica = replica
    return 0


cdef int _check_record(kind, instance) except -1:
    if not 1 <= kind <= 65535:
        raise LocalProtocolError(f"record kind {kind} is not between 1 and 65535")
    if not 0 <= instance < 1 << 64:
        raise LocalProtocolError(f"instance {instance} is not between 0 and 2**64 - 1")
    return 0


cdef class _Parts:
    """The buffers of a record's parts, held while the crate reads them."""

    cdef Py_buffer *views
    cdef fp_slice_t *slices
    cdef size_t count
    cdef size_t length

    def __cinit__(self, parts):
        if isinstance(parts, (bytes, bytearray, memoryview)):
            raise TypeError("parts is a sequence of buffers, not one buffer: put it into a tuple")
        cdef Py_ssize_t total = len(parts)
        self.views = <Py_buffer *>PyMem_Calloc(total + 1, sizeof(Py_buffer))
        self.slices = <fp_slice_t *>PyMem_Calloc(total + 1, sizeof(fp_slice_t))
        if self.views == NULL or self.slices == NULL:
            raise MemoryError
        for part in parts:
            if self.count == <size_t>total:
                break
            PyObject_GetBuffer(part, &self.views[self.count], PyBUF_SIMPLE)
            self.slices[self.count].data = <const uint8_t *>self.views[self.count].buf
            self.slices[self.count].length = self.views[self.count].len
            self.length += self.views[self.count].len
            self.count += 1

    def __dealloc__(self):
        cdef size_t index
        if self.views != NULL:
            for index in range(self.count):
                PyBuffer_Release(&self.views[index])
        PyMem_Free(self.views)
        PyMem_Free(self.slices)


cdef list _take_records(fp_log_records_t *handle, list offsets):
    """The records of a handle as tuples; frees it."""
    cdef fp_log_record_t record
    cdef size_t count = log_table.records_count(handle)
    cdef size_t index
    result = []
    try:
        for index in range(count):
            log_table.records_get(handle, index, &record)
            result.append((record.kind, record.instance, (<const char *>record.body)[:record.length]))
            if offsets is not None:
                offsets.append(record.offset)
    finally:
        log_table.records_free(handle)
    return result


def read_segment_header(segment):
    """What the header of a segment says, as a dict; None when it has none or a damaged one."""
    cdef fp_log_header_t header
    cdef const uint8_t[::1] view = memoryview(segment).cast("B")
    cdef const uint8_t *data = &view[0] if view.shape[0] else NULL
    if log_table.read_header(data, view.shape[0], &header) != FP_OK:
        return None
    return {
        "chain_id": (<const char *>header.identity.chain_id)[:32],
        "replica": header.identity.replica,
        "segment": header.segment,
        "size": header.size,
        "previous": (<const char *>header.previous)[:16],
        "nonce": (<const char *>header.nonce)[:16],
    }


cdef class LogEncoder:
    """Sans-IO encoder: turns records into the exact bytes of the log, carrying the checksum chain along."""

    cdef fp_log_encoder_t *encoder

    def __cinit__(self, bytes chain_id, replica, segment=0, bytes previous=b"", *, size=0, bytes nonce=b""):
        cdef fp_log_header_t header
        memset(&header, 0, sizeof(header))
        _fill_identity(&header.identity, chain_id, replica)
        if len(previous) not in (0, 16) or len(nonce) not in (0, 16):
            raise LocalProtocolError("a chain value and a nonce have 16 bytes, or none")
        if not 0 <= segment < 1 << 64 or not 0 <= size < 1 << 32:
            raise LocalProtocolError("the number or the size of a segment is out of its bounds")
        header.segment = segment
        header.size = size
        memcpy(header.previous, <const uint8_t *>previous, len(previous))
        memcpy(header.nonce, <const uint8_t *>nonce, len(nonce))
        if log_table.encoder_new(&header, &self.encoder) != FP_OK:
            raise InvariantViolation("the native log panicked")

    def __dealloc__(self):
        if self.encoder != NULL:
            log_table.encoder_free(self.encoder)

    cdef bytes _taken(self, fp_buffer_t *buffer):
        try:
            return (<const char *>buffer.data)[:buffer.length]
        finally:
            buffer_free(buffer)

    def segment_header(self):
        """The bytes a segment begins with. They must be synced before records follow."""
        cdef fp_buffer_t buffer
        if log_table.encoder_header(self.encoder, &buffer) != FP_OK:
            raise InvariantViolation("the native log panicked")
        return self._taken(&buffer)

    def encode(self, kind, instance, parts):
        """Header, body (the parts joined), padding to 8 bytes."""
        cdef fp_buffer_t buffer
        cdef _Parts held = _Parts(parts)
        _check_record(kind, instance)
        cdef int32_t status = log_table.encoder_encode(
            self.encoder, kind, instance, held.slices, held.count, &buffer
        )
        if status == FP_INVALID:
            raise StorageError(f"a record of {held.length} bytes does not fit into the segment")
        if status != FP_OK:
            raise InvariantViolation("the native log panicked")
        return self._taken(&buffer)

    def mark_synced(self):
        """Everything encoded so far is on disk: what is damaged there later was not torn."""
        log_table.encoder_mark_synced(self.encoder)

    cdef fp_log_position_t _position(self) noexcept:
        cdef fp_log_position_t position
        memset(&position, 0, sizeof(position))
        log_table.encoder_position(self.encoder, &position)
        return position

    @property
    def previous(self):
        """The header checksum of the last record: the chain value that the next segment begins with."""
        cdef fp_log_position_t position = self._position()
        return (<const char *>position.previous)[:16]

    @property
    def offset(self):
        """Where the next record goes in the segment."""
        return self._position().offset


cdef class LogParser:
    """Sans-IO parser of the bytes of one segment after another; the simulator's log is read with it too."""

    cdef fp_log_parser_t *parser
    cdef readonly list offsets

    def __cinit__(self, bytes chain_id, replica):
        cdef fp_log_identity_t identity
        _fill_identity(&identity, chain_id, replica)
        if log_table.parser_new(&identity, &self.parser) != FP_OK:
            raise InvariantViolation("the native log panicked")
        self.offsets = []

    def __dealloc__(self):
        if self.parser != NULL:
            log_table.parser_free(self.parser)

    def parse(self, segment, last):
        """Records `(kind, instance, body)` of the next segment; `last` when no further segment follows."""
        return self._parse(segment, 1 if last else 0)

    def parse_intact(self, segment):
        """The intact records at the start of a segment that may be being written; no verdict on what follows them."""
        return self._parse(segment, 2)

    cdef list _parse(self, segment, uint32_t how):
        cdef const uint8_t[::1] view = memoryview(segment).cast("B")
        cdef size_t length = view.shape[0]
        cdef const uint8_t *data = &view[0] if length else NULL
        cdef fp_log_records_t *records = NULL
        cdef fp_log_error_t error
        cdef int32_t status
        with nogil:
            status = log_table.parser_parse(self.parser, data, length, how, &records, &error)
        self.offsets = []
        if status != FP_OK:
            raise _error(status, &error)
        return _take_records(records, self.offsets)

    cdef fp_log_position_t _position(self) noexcept:
        cdef fp_log_position_t position
        memset(&position, 0, sizeof(position))
        log_table.parser_position(self.parser, &position)
        return position

    @property
    def verdict(self):
        """`complete`, `torn tail` or `corrupt`: of the last segment parsed."""
        return _VERDICTS[self._position().verdict]

    @property
    def offset(self):
        """Where the next record of the last segment would go: everything before is intact."""
        return self._position().offset

    @property
    def segment(self):
        """The number of the last segment parsed."""
        return self._position().segment

    @property
    def previous(self):
        """The header checksum of the last intact record: the chain value of what is encoded next."""
        cdef fp_log_position_t position = self._position()
        return (<const char *>position.previous)[:16]


cdef class DurableLog:
    """Appender with group commit. One process per folder (exclusive lock)."""

    cdef fp_log_log_t *log
    cdef object release

    def __cinit__(
        self, folder, bytes chain_id, replica, *, mode, segment_bytes, sync_floor_seconds=0.0, fault_plan=()
    ):
        cdef fp_log_settings_t settings
        cdef fp_log_error_t error
        cdef int32_t status
        cdef bytes path = os.fsencode(folder)
        cdef bytes plan = "\n".join(f"{call} {k} {fault}" for call, k, fault in fault_plan).encode()
        memset(&settings, 0, sizeof(settings))
        _fill_identity(&settings.identity, chain_id, replica)
        if mode not in (MEMORY, ASYNC, SYNC):
            raise LocalProtocolError(f"unknown log mode {mode!r}: use MEMORY, ASYNC or SYNC")
        if not 0 <= segment_bytes < 1 << 63:
            raise LocalProtocolError(f"a segment of {segment_bytes} bytes is out of bounds")
        if not 0 <= sync_floor_seconds <= 60:
            raise LocalProtocolError(f"a sync floor of {sync_floor_seconds} seconds is not between 0 and 60")
        settings.folder.data = path
        settings.folder.length = len(path)
        settings.fault_plan.data = plan
        settings.fault_plan.length = len(plan)
        settings.mode = mode
        settings.segment_bytes = segment_bytes
        settings.sync_floor_seconds = sync_floor_seconds
        with nogil:
            status = log_table.open(&settings, &self.log, &error)
        if status != FP_OK:
            raise _error(status, &error)
        lock = log_table.lock_fileno(self.log)
        self.release = keep_from_children(lock) if lock >= 0 else None

    def __dealloc__(self):
        if self.log != NULL:
            with nogil:
                log_table.free(self.log)

    def recovered(self):
        """The records found when the log was opened, handed over once (the memory is released afterwards)."""
        cdef fp_log_records_t *records = NULL
        cdef int32_t status = log_table.recovered(self.log, &records)
        if status != FP_OK:
            raise InvariantViolation("the native log panicked")
        return _take_records(records, None)

    def append(self, kind, instance, parts, *, more=False):
        """Queue one record; returns its sequence number (1, 2, ...). Never blocks on the disk."""
        cdef _Parts held = _Parts(parts)
        cdef uint16_t record_kind
        cdef uint64_t record_instance, sequence = 0
        cdef uint32_t record_more = 1 if more else 0
        cdef fp_log_error_t error
        cdef int32_t status
        _check_record(kind, instance)
        record_kind = kind
        record_instance = instance
        if held.length < RELEASE_GIL_FROM:
            status = log_table.append(
                self.log, record_kind, record_instance, held.slices, held.count, record_more, &sequence, &error
            )
        else:
            with nogil:
                status = log_table.append(
                    self.log, record_kind, record_instance, held.slices, held.count, record_more, &sequence, &error
                )
        if status != FP_OK:
            raise _error(status, &error)
        return sequence

    def completed(self):
        """The highest sequence number that has reached the level of the mode; clears the event."""
        cdef uint64_t sequence = 0
        cdef fp_log_error_t error
        cdef int32_t status = log_table.completed(self.log, &sequence, &error)
        if status != FP_OK:
            raise _error(status, &error)
        return sequence

    def wait(self, uint64_t sequence):
        """Block (GIL released) until `sequence` is complete."""
        cdef fp_log_error_t error
        cdef int32_t status
        with nogil:
            status = log_table.wait(self.log, sequence, &error)
        if status != FP_OK:
            raise _error(status, &error)

    def forget(self, uint64_t instance):
        """Remove the oldest finished segments whose records are all of earlier instances; returns how many went."""
        cdef uint64_t removed = 0
        cdef fp_log_error_t error
        cdef int32_t status
        with nogil:
            status = log_table.forget(self.log, instance, &removed, &error)
        if status != FP_OK:
            raise _error(status, &error)
        return removed

    def fileno(self):
        """The eventfd that becomes readable when `completed` has something new."""
        return log_table.fileno(self.log)

    def space_low(self):
        """True when the next segment could not be prepared: admit no new requests (`Overloaded`)."""
        return log_table.space_low(self.log) != 0

    def pending_bytes(self):
        """Bytes of records that were appended and are not complete."""
        return log_table.pending_bytes(self.log)

    def stats(self):
        """Counters since opening; times in seconds, percentiles over the last 4096 syncs."""
        cdef fp_log_statistics_t statistics
        memset(&statistics, 0, sizeof(statistics))
        log_table.statistics(self.log, &statistics)
        return {
            "bytes": float(statistics.bytes),
            "records": float(statistics.records),
            "syncs": float(statistics.syncs),
            "segments": float(statistics.segments),
            "sync_seconds": statistics.sync_seconds,
            "sync_p50": statistics.sync_p50,
            "sync_p99": statistics.sync_p99,
            "group_records_mean": statistics.group_records_mean,
        }

    def close(self):
        """Write and sync everything queued, stop the thread, release the lock. Idempotent."""
        cdef fp_log_error_t error
        cdef int32_t status
        if self.release is not None:
            self.release()
        with nogil:
            status = log_table.close(self.log, &error)
        if status != FP_OK:
            raise _error(status, &error)
