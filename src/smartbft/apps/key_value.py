"""A key-value store in plain Python: what a user's own application looks like.

Operations (little-endian): ``1 PUT | u16 key length | key | value``, ``2 GET | key``, ``3 DELETE | key``, ``4 COUNT``.
Answers: PUT and DELETE: the value before, as GET: ``1 | value``, or ``0`` if there was none; COUNT: ``u64``.
"""

from __future__ import annotations

import struct

from smartbft.arguments import bytes_of
from smartbft.errors import LocalProtocolError, MalformedMessage, Rejected
from smartbft.smr.application import ExecutionContext, StateMachine, open_result

#: Codes of rejected operations.
MALFORMED = 1
FULL = 2

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 32 * 1024

_PUT, _GET, _DELETE, _COUNT = 1, 2, 3, 4
_LENGTH = struct.Struct("<H")
_ENTRY = struct.Struct("<HI")
_COUNT_RESULT = struct.Struct("<Q")
_ABSENT, _PRESENT = b"\0", b"\1"


def put(key: bytes, value: bytes) -> bytes:
    """The operation that stores `value` under `key`. Raises LocalProtocolError: one is too long, or the key empty."""
    key, value = _check_key(key), bytes_of(value, "a value")
    if len(value) > MAX_VALUE_BYTES:
        raise LocalProtocolError(f"a value has at most {MAX_VALUE_BYTES} bytes, not {len(value)}")
    return bytes([_PUT]) + _LENGTH.pack(len(key)) + key + value


def get(key: bytes) -> bytes:
    """The operation that reads what is under `key`. Raises LocalProtocolError."""
    return bytes([_GET]) + _check_key(key)


def delete(key: bytes) -> bytes:
    """The operation that removes `key`. Raises LocalProtocolError."""
    return bytes([_DELETE]) + _check_key(key)


def count() -> bytes:
    """The operation that counts the keys."""
    return bytes([_COUNT])


def decode_value(result: bytes) -> bytes | None:
    """The value in the result of PUT, GET or DELETE (as it was before), or None.

    Raises Rejected, MalformedMessage.
    """
    body = open_result(result)
    if body == _ABSENT:
        return None
    if body[:1] != _PRESENT:
        raise MalformedMessage("not a result of the key-value store")
    return body[1:]


def decode_count(result: bytes) -> int:
    """How many keys there are, from the result of COUNT. Raises Rejected, MalformedMessage."""
    body = open_result(result)
    if len(body) != _COUNT_RESULT.size:
        raise MalformedMessage("not a result of the key-value store")
    return int(_COUNT_RESULT.unpack(body)[0])


class KeyValueStore(StateMachine):
    """Keys and values, both bytes.

    Args:
        max_bytes: most bytes of all keys and values together; a PUT beyond is rejected with FULL.
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.values: dict[bytes, bytes] = {}
        self.size = 0

    def check(self, operation: bytes) -> None:
        """Refuse what is no operation of the store."""
        _parse(operation)

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        """Carry out one operation. Rejects with FULL a PUT for which there is no room."""
        kind, key, value = _parse(operation)
        if kind == _COUNT:
            return _COUNT_RESULT.pack(len(self.values))
        before = self.values.get(key)
        if kind == _PUT:
            self._put(key, value)
        elif kind == _DELETE and before is not None:
            self.size -= len(key) + len(before)
            del self.values[key]
        return _ABSENT if before is None else _PRESENT + before

    def snapshot(self) -> bytes:
        """``u16 key length | u32 value length | key | value`` for each key, in the order of the keys."""
        entries = sorted(self.values.items())
        return b"".join(_ENTRY.pack(len(key), len(value)) + key + value for key, value in entries)

    def restore(self, snapshot: bytes) -> None:
        """Inverse of `snapshot`."""
        values: dict[bytes, bytes] = {}
        previous, at = b"", 0
        while at < len(snapshot):
            if len(snapshot) - at < _ENTRY.size:
                raise ValueError("the snapshot is cut short")
            key_bytes, value_bytes = _ENTRY.unpack_from(snapshot, at)
            middle = at + _ENTRY.size + key_bytes
            key, value = snapshot[at + _ENTRY.size : middle], snapshot[middle : middle + value_bytes]
            at = middle + value_bytes
            if at > len(snapshot):
                raise ValueError("the snapshot is cut short")
            if not previous < key or len(key) > MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
                raise ValueError("the snapshot is not canonical")
            values[key] = value
            previous = key
        self.values = values
        self.size = sum(len(key) + len(value) for key, value in values.items())

    def _put(self, key: bytes, value: bytes) -> None:
        before = self.values.get(key)
        size = self.size + len(value) - (len(before) if before is not None else -len(key))
        if size > self.max_bytes:
            raise Rejected("the store is full", FULL)
        self.values[key] = value
        self.size = size


def _parse(operation: bytes) -> tuple[int, bytes, bytes]:
    """Kind, key and value of an operation; raises Rejected."""
    kind, body = operation[0], operation[1:]
    if kind == _COUNT and not body:
        return kind, b"", b""
    if kind == _PUT and len(body) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(body)
        key, value = body[2 : 2 + length], body[2 + length :]
        if len(key) == length and 1 <= length <= MAX_KEY_BYTES and len(value) <= MAX_VALUE_BYTES:
            return kind, key, value
    if kind in (_GET, _DELETE) and 1 <= len(body) <= MAX_KEY_BYTES:
        return kind, body, b""
    raise Rejected("not an operation of the key-value store", MALFORMED)


def _check_key(key: bytes) -> bytes:
    key = bytes_of(key, "a key")
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise LocalProtocolError(f"a key has 1 to {MAX_KEY_BYTES} bytes, not {len(key)}")
    return key
