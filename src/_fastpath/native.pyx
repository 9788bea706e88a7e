"""Links the native crate, holds its function tables, and what else the compiled modules share: they cimport it here."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc

from smartbft.errors import InvariantViolation


cdef extern from "fastpath.h" nogil:
    const fp_hashing_t *fp_hashing()
    const fp_verify_t *fp_verify()
    const fp_log_t *fp_log()
    const fp_pool_t *fp_pool()
    const fp_coin_t *fp_coin()
    void fp_buffer_free(fp_buffer_t *buffer)


hashing_table = fp_hashing()
verify_table = fp_verify()
log_table = fp_log()
pool_table = fp_pool()
coin_table = fp_coin()
buffer_free = fp_buffer_free


def versions() -> dict[str, int]:
    """The version of each function table, by area (for ``smartbft version`` and for tests of the linkage)."""
    return {
        "hashing": hashing_table.version(),
        "verify": verify_table.version(),
        "log": log_table.version(),
        "pool": pool_table.version(),
        "coin": coin_table.version(),
    }


cdef class View:
    def __cinit__(self, source: object) -> None:
        PyObject_GetBuffer(source, &self.buffer, PyBUF_SIMPLE)
        self.slice.data = <const uint8_t *> self.buffer.buf
        self.slice.length = <size_t> self.buffer.len

    def __dealloc__(self) -> None:
        PyBuffer_Release(&self.buffer)


cdef class Slices:
    def __cinit__(self, source: object) -> None:
        cdef Py_ssize_t index
        cdef Py_ssize_t length
        cdef char *start
        # A tuple of our own keeps every item alive while the GIL is released, whatever others do to the sequence.
        self.items = tuple(source)
        self.count = <size_t> len(self.items)
        self.data = <fp_slice_t *> PyMem_Malloc(max(self.count, 1) * sizeof(fp_slice_t))
        if self.data == NULL:
            raise MemoryError
        for index, item in enumerate(self.items):
            PyBytes_AsStringAndSize(item, &start, &length)
            self.data[index].data = <const uint8_t *> start
            self.data[index].length = <size_t> length

    def __dealloc__(self) -> None:
        PyMem_Free(self.data)


cdef class Integers64:
    def __cinit__(self, source: object) -> None:
        PyObject_GetBuffer(source, &self.buffer, PyBUF_ND | PyBUF_FORMAT)
        if self.buffer.itemsize != 8 or self.buffer.format == NULL or self.buffer.format[0] not in b"QLNqln":
            raise ValueError("the offsets must be native 64-bit integers, for instance a NumPy uint64 array")
        self.data = <const uint8_t *> self.buffer.buf
        self.count = <size_t> self.buffer.len // 8

    def __dealloc__(self) -> None:
        PyBuffer_Release(&self.buffer)


cdef bytes take_buffer(fp_buffer_t *buffer):
    """The bytes that native code handed over; frees its buffer."""
    try:
        return (<const char *> buffer.data)[:buffer.length] if buffer.length else b""
    finally:
        buffer_free(buffer)


cdef int check(int32_t status) except -1:
    """Raise what a negative status stands for that is not the caller's fault; returns any other status."""
    if status < 0:
        raise InvariantViolation(f"a native call failed (status {status}): this is a bug in smartbft")
    return status
