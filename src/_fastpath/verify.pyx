"""Ed25519 signature verification under the ZIP-215 rules; see verify.pyi."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_AsStringAndSize, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, uint8_t

from smartbft._fastpath.native cimport (
    FP_INVALID,
    fp_parsed_key_t,
    fp_slice_t,
    fp_verify_item_t,
    fp_verify_packed_t,
    verify_table,
)

cdef Py_ssize_t KEY_BYTES = 32
cdef Py_ssize_t SIGNATURE_BYTES = 64


cdef bint verdict(int32_t status) except -1:
    """The answer of a native check, or the error that it reports."""
    if status < 0:
        raise SystemError("the native signature check failed; this is a bug in smartbft")
    return status == 1


cdef class Bytes:
    """A contiguous view of the bytes of an object, released with this."""

    cdef Py_buffer view

    def __cinit__(self, source: object, int flags = PyBUF_SIMPLE) -> None:
        PyObject_GetBuffer(source, &self.view, flags)

    def __dealloc__(self) -> None:
        PyBuffer_Release(&self.view)

    cdef const uint8_t *data(self) noexcept:
        return <const uint8_t *> self.view.buf

    cdef fp_slice_t slice(self) noexcept:
        cdef fp_slice_t result
        result.data = self.data()
        result.length = <size_t> self.view.len
        return result


def verify(public_key: object, signature: object, message: object) -> bool:
    """Whether `signature` (64 bytes) over `message` verifies under `public_key` (32 bytes). Wrong lengths are False."""
    cdef Bytes key_view = Bytes(public_key)
    cdef Bytes signature_view = Bytes(signature)
    cdef fp_slice_t body
    cdef Bytes message_view = Bytes(message)
    cdef int32_t status
    if key_view.view.len != KEY_BYTES or signature_view.view.len != SIGNATURE_BYTES:
        return False
    body = message_view.slice()
    with nogil:
        status = verify_table.verify(
            <const uint8_t *> key_view.view.buf, <const uint8_t *> signature_view.view.buf, body.data, body.length)
    return verdict(status)


cdef const uint8_t *fixed_bytes(object item, Py_ssize_t length) except? NULL:
    """The bytes of `item`, or NULL if there are not `length` of them."""
    cdef char *data
    cdef Py_ssize_t found
    PyBytes_AsStringAndSize(item, &data, &found)
    return <const uint8_t *> data if found == length else NULL


cdef int fill_item(fp_verify_item_t *item, object public_key, object signature, object message) except -1:
    cdef char *data
    cdef Py_ssize_t length
    item.public_key = fixed_bytes(public_key, KEY_BYTES)
    item.signature = fixed_bytes(signature, SIGNATURE_BYTES)
    PyBytes_AsStringAndSize(message, &data, &length)
    item.message.data = <const uint8_t *> data
    item.message.length = <size_t> length
    return 0


cdef int check_threads(Py_ssize_t threads) except -1:
    if threads < 0:
        raise ValueError(f"threads must not be negative (0 means one per core), got {threads}")
    return 0


def verify_many(public_keys: object, signatures: object, messages: object, *, Py_ssize_t threads = 0) -> bytes:
    """Verify many signatures; returns a mask: one byte per item, 1 where it is valid, else 0."""
    # Tuples of our own keep every item alive while the GIL is released, whatever others do to the arguments.
    cdef tuple keys = tuple(public_keys)
    cdef tuple signed = tuple(signatures)
    cdef tuple bodies = tuple(messages)
    cdef Py_ssize_t count = len(keys)
    cdef Py_ssize_t index
    cdef int32_t status
    cdef fp_verify_item_t *items
    cdef uint8_t *verdicts
    if len(signed) != count or len(bodies) != count:
        raise ValueError(
            f"one public key, signature and message each: got {count}, {len(signed)} and {len(bodies)}")
    check_threads(threads)
    mask = PyBytes_FromStringAndSize(NULL, count)
    verdicts = <uint8_t *> PyBytes_AsString(mask)
    items = <fp_verify_item_t *> PyMem_Malloc(max(count, 1) * sizeof(fp_verify_item_t))
    if items == NULL:
        raise MemoryError
    try:
        for index in range(count):
            fill_item(&items[index], keys[index], signed[index], bodies[index])
        with nogil:
            status = verify_table.verify_many(items, <size_t> count, <size_t> threads, verdicts)
    finally:
        PyMem_Free(items)
    verdict(status)
    return mask


def verify_packed(
    public_keys: object, signatures: object, messages: object, offsets: object, *, Py_ssize_t threads = 0
) -> bytes:
    """As `verify_many`, over contiguous buffers and message slices ``messages[offsets[i]:offsets[i + 1]]``."""
    cdef Bytes keys = Bytes(public_keys)
    cdef Bytes signed = Bytes(signatures)
    cdef Bytes bodies = Bytes(messages)
    cdef Bytes ends = Bytes(offsets, PyBUF_ND | PyBUF_FORMAT)
    cdef Py_ssize_t count = keys.view.len // KEY_BYTES
    cdef fp_verify_packed_t packed
    cdef int32_t status
    cdef uint8_t *verdicts
    check_threads(threads)
    if keys.view.len != count * KEY_BYTES or signed.view.len != count * SIGNATURE_BYTES:
        raise ValueError(
            f"32 bytes of public key and 64 of signature each: got {keys.view.len} and {signed.view.len} bytes")
    if ends.view.itemsize != 8 or ends.view.format == NULL or ends.view.format[0] not in b"QLNqln":
        raise ValueError("the offsets must be native 64-bit integers")
    if ends.view.len != (count + 1) * 8:
        raise ValueError(f"{count} messages have {count + 1} offsets, got {ends.view.len // 8}")
    packed.public_keys = keys.data()
    packed.signatures = signed.data()
    packed.messages = bodies.slice()
    packed.offsets = ends.data()
    packed.count = <size_t> count
    mask = PyBytes_FromStringAndSize(NULL, count)
    verdicts = <uint8_t *> PyBytes_AsString(mask)
    with nogil:
        status = verify_table.verify_packed(&packed, <size_t> threads, verdicts)
    if status == FP_INVALID:
        raise ValueError("the offsets decrease or leave the buffer of messages")
    verdict(status)
    return mask


cdef class ParsedKey:
    """A public key decoded once and kept, for signers whose signatures are checked singly again and again (members)."""

    cdef fp_parsed_key_t *key
    cdef readonly bytes public_key

    def __init__(self, bytes public_key not None) -> None:
        if len(public_key) != KEY_BYTES:
            raise ValueError(f"a public key has 32 bytes, got {len(public_key)}")
        if self.key != NULL:
            raise ValueError("the key is parsed already")
        self.key = verify_table.key_parse(<const uint8_t *> PyBytes_AsString(public_key))
        if self.key == NULL:
            raise ValueError(f"not the encoding of a point of the curve: {public_key.hex()}")
        self.public_key = public_key

    def __dealloc__(self) -> None:
        verify_table.key_free(self.key)

    def verify(self, signature: object, message: object) -> bool:
        """The same verdict as `verify(public_key, signature, message)`."""
        cdef Bytes signature_view = Bytes(signature)
        cdef Bytes message_view = Bytes(message)
        cdef fp_slice_t body = message_view.slice()
        cdef int32_t status
        if self.key == NULL:
            raise ValueError("the key was not initialised")
        if signature_view.view.len != SIGNATURE_BYTES:
            return False
        with nogil:
            status = verify_table.key_verify(
                self.key, <const uint8_t *> signature_view.view.buf, body.data, body.length)
        return verdict(status)

    def __repr__(self) -> str:
        return f"ParsedKey({self.public_key.hex()})"


def is_small_order(bytes public_key not None) -> bool:
    """Whether the key is a point of small order (or no point at all): such keys are refused as members or accounts."""
    if len(public_key) != KEY_BYTES:
        return True
    return verdict(verify_table.is_small_order(<const uint8_t *> PyBytes_AsString(public_key)))


def set_threads(Py_ssize_t threads, int nice = 10) -> None:
    """Size of the process's verification pool and the niceness of its threads. Call before the first verification."""
    check_threads(threads)
    if verify_table.set_threads(<size_t> threads, nice) == FP_INVALID:
        raise ValueError(f"the niceness of a thread is from 0 to 19, got {nice}")
