"""Batch BLAKE3 hashing and Merkle trees, computed by native code with the GIL released.

`Buffer` arguments take anything that exports a contiguous buffer of bytes: ``bytes``, ``bytearray``,
``memoryview``, ``mmap`` and NumPy arrays.
"""

from collections.abc import Sequence

from typing_extensions import Buffer

def hash_many(messages: Sequence[bytes]) -> bytes:
    """BLAKE3-256 of each message; returns ``32 * len(messages)`` bytes, in order."""

def hash_many_packed(data: Buffer, offsets: Buffer, key: bytes | None = None) -> bytes:
    """BLAKE3-256 of each slice ``data[offsets[i]:offsets[i + 1]]``.

    Args:
        data: one contiguous buffer that holds all messages.
        offsets: ``count + 1`` native 64-bit unsigned integers, not decreasing, the last at most ``len(data)``
            (a NumPy ``uint64`` array, for instance).
        key: 32 bytes for BLAKE3's keyed mode, or ``None`` for the plain hash.
    Returns:
        ``32 * count`` bytes.
    Raises:
        ValueError: the offsets are not 8-byte integers, decrease, or leave the buffer; the key is not 32 bytes.
    """

def keyed_hash(key: bytes, data: Buffer) -> bytes:
    """BLAKE3-256 of `data` in keyed mode (`key` has 32 bytes)."""

def derive_key(context: str, material: Buffer) -> bytes:
    """BLAKE3 key derivation: a 32-byte key for `context` from `material`. The domain separation of this project."""

def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root of the RFC 6962-shaped Merkle tree over `leaves`, BLAKE3 with separate leaf and node domains.

    The root of no leaves is the hash of the empty string in the leaf-free domain (see docs/wire-format.md).
    """

def merkle_root_packed(data: Buffer, offsets: Buffer) -> bytes:
    """As `merkle_root`, over the slices of one buffer (`offsets` as in `hash_many_packed`)."""

def merkle_proof(leaves: Sequence[bytes], index: int) -> bytes:
    """Inclusion proof (RFC 6962 section 2.1.1) for leaf `index`: the sibling hashes from the leaf upwards, 32 bytes each.

    Raises:
        IndexError: `index` is not a leaf.
    """

def merkle_verify(root: bytes, leaf: bytes, index: int, count: int, proof: Buffer) -> bool:
    """Whether `leaf` is leaf `index` of the tree of `count` leaves whose root is `root`. Malformed proofs are False."""
