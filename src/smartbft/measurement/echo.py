"""An application that answers every operation with the same number of bytes: what is left is the cost of ordering."""

from __future__ import annotations

import struct

from smartbft.errors import LocalProtocolError
from smartbft.limits import MAX_RESULT_BYTES
from smartbft.smr.application import BatchStateMachine, ExecutionContext

_LENGTH = struct.Struct("<I")
_SNAPSHOT = struct.Struct("<Q")


class Echo(BatchStateMachine):
    """Counts operations; its results are zeros.

    Args:
        result_bytes: size of every result.
    """

    def __init__(self, result_bytes: int = 0) -> None:
        if not 0 <= result_bytes <= MAX_RESULT_BYTES:
            raise LocalProtocolError(f"a result has 0 to {MAX_RESULT_BYTES} bytes, not {result_bytes}")
        self._result = _LENGTH.pack(result_bytes) + bytes(result_bytes)
        self._executed = 0

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        """One result per request."""
        count = _count(data)
        self._executed += count
        return self._result * count

    def check_batch(self, data: bytes) -> bytes:
        """Everything is fine."""
        return b"\x01" * _count(data)

    def snapshot(self) -> bytes:
        """How many operations were executed."""
        return _SNAPSHOT.pack(self._executed)

    def restore(self, snapshot: bytes) -> None:
        """Take up the count of a snapshot. Raises ValueError."""
        if len(snapshot) != _SNAPSHOT.size:
            raise ValueError(f"a snapshot has {_SNAPSHOT.size} bytes, not {len(snapshot)}")
        (self._executed,) = _SNAPSHOT.unpack(snapshot)


def _count(data: bytes) -> int:
    """How many requests a list holds."""
    count = offset = 0
    while offset < len(data):
        offset += _LENGTH.size + _LENGTH.unpack_from(data, offset)[0]
        count += 1
    return count
