"""Merkle trees as RFC 6962, section 2.1 defines them (recursively), over BLAKE3 with a key for each kind of node."""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3


def domain_key(kind: str) -> bytes:
    return blake3(b"", derive_key_context=f"smartbft v1 merkle {kind}").digest()


def hashed(kind: str, data: bytes) -> bytes:
    return blake3(data, key=domain_key(kind)).digest()


def split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1


def root(leaves: Sequence[bytes], leaf_kind: str = "leaf") -> bytes:
    """MTH of the RFC.

    Args:
        leaf_kind: "node" takes the separation of the domains away: a bug that the tests must see.
    """
    if not leaves:
        return hashed("empty", b"")
    if len(leaves) == 1:
        return hashed(leaf_kind, leaves[0])
    k = split(len(leaves))
    return hashed("node", root(leaves[:k], leaf_kind) + root(leaves[k:], leaf_kind))


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of the RFC: the siblings from the leaf upwards."""
    if len(leaves) <= 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(leaves[:k], index), root(leaves[k:])]
    return [*path(leaves[k:], index - k), root(leaves[:k])]
