"""Frames, request lists and MessagePack in plain Python, written from docs/wire-format.md. Slow and obvious."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REQUEST_OVERHEAD = 116


def frames(stream: bytes, limits: Mapping[int, int]) -> tuple[list[tuple[int, bytes]], bool]:
    """The whole frames of a stream, and whether an error ends it; `limits`: the largest payload of each kind."""
    found = []
    while len(stream) >= 4:
        length = int.from_bytes(stream[:4], "little")
        if length == 0 or length - 1 > max(limits.values()):
            return found, True
        if len(stream) < 5:
            break
        if stream[4] not in limits or length - 1 > limits[stream[4]]:
            return found, True
        if len(stream) < 4 + length:
            break
        found.append((stream[4], stream[5 : 4 + length]))
        stream = stream[4 + length :]
    return found, False


def requests(data: bytes) -> list[bytes] | None:
    """The requests of a list, or None if it is malformed."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "little")
        request = data[4 : 4 + length]
        if len(data) < 4 + length or length < REQUEST_OVERHEAD:
            return None
        operation, sequence = int.from_bytes(request[48:52], "little"), int.from_bytes(request[40:48], "little")
        if operation + REQUEST_OVERHEAD != length or sequence == 0:
            return None
        found.append(request)
        data = data[4 + length :]
    return found


def message_pack(data: bytes) -> Any:
    """The one value that is packed in `data`: whole numbers, byte strings and arrays, in their shortest encodings.

    Raises:
        ValueError: anything else.
    """
    value, rest = _unpack(data)
    if rest:
        raise ValueError("bytes follow")
    return value


def _unpack(data: bytes) -> tuple[Any, bytes]:
    if not data:
        raise ValueError("nothing is left")
    marker, rest = data[0], data[1:]
    if marker <= 0x7F:
        return marker, rest
    if 0x90 <= marker <= 0x9F:
        return _array(marker & 15, rest)
    if marker == 0xDC:
        size, rest = _number(2, rest, least=16)
        return _array(size, rest)
    if 0xCC <= marker <= 0xCF:
        width = 1 << marker - 0xCC
        return _number(width, rest, least=0x80 if width == 1 else 1 << 4 * width)
    if 0xC4 <= marker <= 0xC6:
        width = 1 << marker - 0xC4
        size, rest = _number(width, rest, least=0 if width == 1 else 1 << 4 * width)
        if size > len(rest):
            raise ValueError("a byte string is cut short")
        return rest[:size], rest[size:]
    raise ValueError(f"marker {marker:#x} is not one of ours")


def _number(width: int, data: bytes, *, least: int) -> tuple[int, bytes]:
    number = int.from_bytes(data[:width], "big")
    if len(data) < width or number < least:
        raise ValueError("a number is cut short, or longer than it has to be")
    return number, data[width:]


def _array(size: int, rest: bytes) -> tuple[list[Any], bytes]:
    items = []
    for _ in range(size):
        item, rest = _unpack(rest)
        items.append(item)
    return items, rest
