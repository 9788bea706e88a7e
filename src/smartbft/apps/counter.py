"""A counter: the smallest replicated application, in plain Python.

Operations: ``1 | i64 amount`` adds, ``2`` reads (little-endian). Both answer with the counter's value, ``i64``.
"""

from __future__ import annotations

import struct

from smartbft.errors import LocalProtocolError, MalformedMessage, Rejected
from smartbft.smr.application import ExecutionContext, StateMachine, open_result

#: Codes of rejected operations.
MALFORMED = 1
OVERFLOW = 2

_ADD, _READ = 1, 2
_VALUE = struct.Struct("<q")
_LEAST, _MOST = -(2**63), 2**63 - 1


def add(amount: int = 1) -> bytes:
    """The operation that adds `amount`, which may be negative. Raises LocalProtocolError: more than 64 bits."""
    if not _LEAST <= amount <= _MOST:
        raise LocalProtocolError(f"{amount} does not fit in 64 bits")
    return bytes([_ADD]) + _VALUE.pack(amount)


def read() -> bytes:
    """The operation that reads the counter."""
    return bytes([_READ])


def decode_value(result: bytes) -> int:
    """The counter's value after an operation, from its result. Raises Rejected, MalformedMessage."""
    body = open_result(result)
    if len(body) != _VALUE.size:
        raise MalformedMessage("not a result of the counter")
    return int(_VALUE.unpack(body)[0])


class Counter(StateMachine):
    """Counts within 64 bits.

    Args:
        start: the first value.
    """

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def check(self, operation: bytes) -> None:
        """Refuse what is no operation of the counter."""
        adds = len(operation) == 1 + _VALUE.size and operation[0] == _ADD
        if not adds and operation != read():
            raise Rejected("not an operation of the counter", MALFORMED)

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        """Add or read; the result is the value. Rejects with OVERFLOW what would not fit in 64 bits."""
        self.check(operation)
        if operation[0] == _ADD:
            value = self.value + _VALUE.unpack_from(operation, 1)[0]
            if not _LEAST <= value <= _MOST:
                raise Rejected("the counter would not fit in 64 bits", OVERFLOW)
            self.value = value
        return _VALUE.pack(self.value)

    def snapshot(self) -> bytes:
        """The value, 8 bytes."""
        return _VALUE.pack(self.value)

    def restore(self, snapshot: bytes) -> None:
        """Inverse of `snapshot`."""
        if len(snapshot) != _VALUE.size:
            raise ValueError(f"a counter's snapshot has {_VALUE.size} bytes, not {len(snapshot)}")
        (self.value,) = _VALUE.unpack(snapshot)
