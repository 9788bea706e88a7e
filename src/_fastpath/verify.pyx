"""Ed25519 signature verification under the ZIP-215 rules; see verify.pyi."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_AsStringAndSize, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, uint8_t

from smartbft._fastpath.native cimport (
    FP_INVALID,
    Integers64,
    View,
    check,
    fp_parsed_key_t,
    fp_verify_item_t,
    fp_verify_packed_t,
    verify_table,
)

cdef size_t KEY_BYTES = 32
cdef size_t SIGNATURE_BYTES = 64


def verify(public_key: object, signature: object, message: object) -> bool:
    """Whether `signature` (64 bytes) over `message` verifies under `public_key` (32 bytes). Wrong lengths are False."""
    cdef View key = View(public_key)
    cdef View signed = View(signature)
    cdef View body = View(message)
    cdef int32_t status
    if key.slice.length != KEY_BYTES or signed.slice.length != SIGNATURE_BYTES:
        return False
    with nogil:
        status = verify_table.verify(key.slice.data, signed.slice.data, body.slice.data, body.slice.length)
    return check(status) == 1


cdef const uint8_t *fixed_bytes(object item, size_t length) except? NULL:
    """The bytes of `item`, or NULL if there are not `length` of them."""
    cdef char *data
    cdef Py_ssize_t found
    PyBytes_AsStringAndSize(item, &data, &found)
    return <const uint8_t *> data if <size_t> found == length else NULL


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
    check(status)
    return mask


def verify_packed(
    public_keys: object, signatures: object, messages: object, offsets: object, *, Py_ssize_t threads = 0
) -> bytes:
    """As `verify_many`, over contiguous buffers and message slices ``messages[offsets[i]:offsets[i + 1]]``."""
    cdef View keys = View(public_keys)
    cdef View signed = View(signatures)
    cdef View bodies = View(messages)
    cdef Integers64 ends = Integers64(offsets)
    cdef size_t count = keys.slice.length // KEY_BYTES
    cdef fp_verify_packed_t packed
    cdef int32_t status
    cdef uint8_t *verdicts
    check_threads(threads)
    if keys.slice.length != count * KEY_BYTES or signed.slice.length != count * SIGNATURE_BYTES:
        raise ValueError(
            "32 bytes of public key and 64 of signature each: "
            f"got {keys.slice.length} and {signed.slice.length} bytes")
    if ends.count != count + 1:
        raise ValueError(f"{count} messages have {count + 1} offsets, got {ends.count}")
    packed.public_keys = keys.slice.data
    packed.signatures = signed.slice.data
    packed.messages = bodies.slice
    packed.offsets = ends.data
    packed.count = count
    mask = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> count)
    verdicts = <uint8_t *> PyBytes_AsString(mask)
    with nogil:
        status = verify_table.verify_packed(&packed, <size_t> threads, verdicts)
    if status == FP_INVALID:
        raise ValueError("the offsets decrease or leave the buffer of messages")
    check(status)
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
        cdef View signed = View(signature)
        cdef View body = View(message)
        cdef int32_t status
        if self.key == NULL:
            raise ValueError("the key was not initialised")
        if signed.slice.length != SIGNATURE_BYTES:
            return False
        with nogil:
            status = verify_table.key_verify(self.key, signed.slice.data, body.slice.data, body.slice.length)
        return check(status) == 1

    def __repr__(self) -> str:
        return f"ParsedKey({self.public_key.hex()})"


def is_small_order(bytes public_key not None) -> bool:
    """Whether the key is a point of small order (or no point at all): such keys are refused as members or accounts."""
    if len(public_key) != KEY_BYTES:
        return True
    return check(verify_table.is_small_order(<const uint8_t *> PyBytes_AsString(public_key))) == 1


def set_threads(Py_ssize_t threads, int nice = 10) -> None:
    """Size of the process's verification pool and the niceness of its threads. Call before the first verification."""
    check_threads(threads)
    if verify_table.set_threads(<size_t> threads, nice) == FP_INVALID:
        raise ValueError(f"the niceness of a thread is from 0 to 19, got {nice}")
