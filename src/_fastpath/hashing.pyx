"""Batch BLAKE3 hashing and Merkle trees; see hashing.pyi."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint64_t

from smartbft._fastpath.native cimport (
    FP_INVALID,
    Integers64,
    Slices,
    View,
    check,
    fp_buffer_t,
    fp_packed_t,
    hashing_table,
    take_buffer,
)

cdef size_t DIGEST_BYTES = 32


cdef const uint8_t *key_bytes(bytes key) except NULL:
    if <size_t> len(key) != DIGEST_BYTES:
        raise ValueError(f"a key has 32 bytes, got {len(key)}")
    return <const uint8_t *> PyBytes_AsString(key)


cdef bytes new_digests(size_t count):
    return PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (count * DIGEST_BYTES))


cdef int check_offsets(int32_t status) except -1:
    if status == FP_INVALID:
        raise ValueError("the offsets decrease or leave the buffer")
    return check(status)


def hash_many(messages: object) -> bytes:
    """BLAKE3-256 of each message; returns ``32 * len(messages)`` bytes, in order."""
    cdef Slices slices = Slices(messages)
    cdef bytes digests = new_digests(slices.count)
    cdef uint8_t *out = <uint8_t *> PyBytes_AsString(digests)
    cdef int32_t status
    with nogil:
        status = hashing_table.hash_many(slices.data, slices.count, NULL, out)
    check(status)
    return digests


cdef fp_packed_t packed_slices(View data, Integers64 offsets) except *:
    cdef fp_packed_t packed
    if offsets.count == 0:
        raise ValueError("there is one offset more than there are slices, so at least one")
    packed.data = data.slice
    packed.offsets = offsets.data
    packed.count = offsets.count - 1
    return packed


def hash_many_packed(data: object, offsets: object, bytes key = None) -> bytes:
    """BLAKE3-256 of each slice ``data[offsets[i]:offsets[i + 1]]``, keyed if there is a key."""
    cdef View view = View(data)
    cdef Integers64 ends = Integers64(offsets)
    cdef fp_packed_t packed = packed_slices(view, ends)
    cdef const uint8_t *native_key = NULL if key is None else key_bytes(key)
    cdef bytes digests = new_digests(packed.count)
    cdef uint8_t *out = <uint8_t *> PyBytes_AsString(digests)
    cdef int32_t status
    with nogil:
        status = hashing_table.hash_packed(&packed, native_key, out)
    check_offsets(status)
    return digests


def keyed_hash(bytes key not None, data: object) -> bytes:
    """BLAKE3-256 of `data` in keyed mode (`key` has 32 bytes)."""
    cdef View view = View(data)
    cdef const uint8_t *native_key = key_bytes(key)
    cdef bytes digest = new_digests(1)
    cdef uint8_t *out = <uint8_t *> PyBytes_AsString(digest)
    cdef int32_t status
    with nogil:
        status = hashing_table.hash_many(&view.slice, 1, native_key, out)
    check(status)
    return digest


def derive_key(str context not None, material: object) -> bytes:
    """BLAKE3 key derivation: a 32-byte key for `context` from `material`. The domain separation of this project."""
    cdef View name = View(context.encode())
    cdef View view = View(material)
    cdef bytes key = new_digests(1)
    check(hashing_table.derive_key(&name.slice, &view.slice, <uint8_t *> PyBytes_AsString(key)))
    return key


def merkle_root(leaves: object) -> bytes:
    """Root of the RFC 6962-shaped Merkle tree over `leaves`, BLAKE3 with separate leaf and node domains."""
    cdef Slices slices = Slices(leaves)
    cdef bytes root = new_digests(1)
    cdef uint8_t *out = <uint8_t *> PyBytes_AsString(root)
    cdef int32_t status
    with nogil:
        status = hashing_table.merkle_root(slices.data, slices.count, out)
    check(status)
    return root


def merkle_root_packed(data: object, offsets: object) -> bytes:
    """As `merkle_root`, over the slices of one buffer (`offsets` as in `hash_many_packed`)."""
    cdef View view = View(data)
    cdef Integers64 ends = Integers64(offsets)
    cdef fp_packed_t packed = packed_slices(view, ends)
    cdef bytes root = new_digests(1)
    cdef uint8_t *out = <uint8_t *> PyBytes_AsString(root)
    cdef int32_t status
    with nogil:
        status = hashing_table.merkle_root_packed(&packed, out)
    check_offsets(status)
    return root


def merkle_proof(leaves: object, Py_ssize_t index) -> bytes:
    """Inclusion proof for leaf `index`: the sibling hashes from the leaf upwards, 32 bytes each."""
    cdef Slices slices = Slices(leaves)
    cdef fp_buffer_t proof
    cdef int32_t status
    if not 0 <= index < len(slices.items):
        raise IndexError(f"there is no leaf {index} among {len(slices.items)}")
    with nogil:
        status = hashing_table.merkle_proof(slices.data, slices.count, <size_t> index, &proof)
    check(status)
    return take_buffer(&proof)


def merkle_verify(bytes root not None, bytes leaf not None, index: int, count: int, proof: object) -> bool:
    """Whether `leaf` is leaf `index` of the tree of `count` leaves whose root is `root`. Malformed proofs are False."""
    cdef View leaf_view = View(leaf)
    cdef View proof_view = View(proof)
    cdef uint64_t position
    cdef uint64_t leaves
    cdef const uint8_t *root_bytes
    cdef int32_t status
    if <size_t> len(root) != DIGEST_BYTES or not 0 <= index < count < 1 << 64:
        return False
    position = index
    leaves = count
    root_bytes = <const uint8_t *> PyBytes_AsString(root)
    with nogil:
        status = hashing_table.merkle_verify(root_bytes, &leaf_view.slice, position, leaves, &proof_view.slice)
    return check(status) == 1
