"""Ed25519 signature verification under the ZIP-215 rules: one verdict, singly or in batches, on any thread count.

Batches are checked by real batch verification over a persistent pool of native threads (keyed by process id, so that a
forked child builds its own), with the GIL released; a failing batch is bisected to find the culprits.
"""

from collections.abc import Sequence

from typing_extensions import Buffer

def verify(public_key: Buffer, signature: Buffer, message: Buffer) -> bool:
    """Whether `signature` (64 bytes) over `message` verifies under `public_key` (32 bytes). Wrong lengths are False."""

def verify_many(
    public_keys: Sequence[bytes], signatures: Sequence[bytes], messages: Sequence[bytes], *, threads: int = 0
) -> bytes:
    """Verify many signatures; returns a mask: one byte per item, 1 where it is valid, else 0.

    Args:
        threads: at most this many pool threads share the work; 0 means one per core.
    Raises:
        ValueError: the three sequences differ in length, or `threads` is negative.
    """

def verify_packed(
    public_keys: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 0
) -> bytes:
    """As `verify_many`, over contiguous buffers: ``32 * count`` and ``64 * count`` bytes, and message slices
    ``messages[offsets[i]:offsets[i + 1]]`` (offsets are ``count + 1`` native unsigned 64-bit integers)."""

class ParsedKey:
    """A public key decoded once and kept, for signers whose signatures are checked singly again and again (members)."""

    def __init__(self, public_key: bytes) -> None:
        """Raises ValueError: not a valid ZIP-215 encoding of a point, or not 32 bytes."""
    public_key: bytes
    def verify(self, signature: Buffer, message: Buffer) -> bool:
        """The same verdict as `verify(public_key, signature, message)`."""

def is_small_order(public_key: bytes) -> bool:
    """Whether the key is a point of small order (or no point at all): such keys are refused as members or accounts."""

def set_threads(threads: int, nice: int = 10) -> None:
    """Size of the process's verification pool and the niceness of its threads. Call before the first verification."""
