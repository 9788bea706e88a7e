"""Seeded, structure-aware mutators of bytes for the fuzz tests, and how long they run."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

BOUNDARIES = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    512,
    513,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_BYTES = (0, 1, 2, 3, 4, 5, 127, 128, 254, 255)
_SIZES = (1, 1, 2, 8, 32, 40)


def executions(default: int = 5_000) -> int:
    """How many inputs a fuzz test tries: SMARTBFT_FUZZ_EXECUTIONS, or the default."""
    return int(os.environ.get("SMARTBFT_FUZZ_EXECUTIONS", default))


class Mutator:
    """Changes bytes at random: bits, bytes, numbers at the limits of their width, cuts, repeats, pieces of others.

    Args:
        seed: the same seed, the same mutations.
        fields: values that mean something to the format (keys, ids, lengths, markers), to be written over parts of the
            input or put between them.
    """

    def __init__(self, seed: int, fields: Sequence[bytes] | None = None) -> None:
        self.random = random.Random(seed)
        self.fields = list(fields) if fields is not None else []
        # `random.randint` and `choice` cost several times what the change itself does.
        self._uniform = self.random.random

    def mutate(self, data: bytes, other: bytes = b"", most: int = 3) -> bytes:
        """`data` after one to `most` changes; `other` is an input to take pieces from."""
        mutated = bytearray(data)
        changes = self._CHANGES
        uniform, count = self._uniform, len(changes)
        for _ in range(1 + int(uniform() * most)):
            changes[int(uniform() * count)](self, mutated, other)
        return bytes(mutated)

    def pick(self, items: Sequence[bytes]) -> bytes:
        """One of the items."""
        return items[int(self._uniform() * len(items))]

    def _place(self, data: bytearray) -> int:
        return int(self._uniform() * (len(data) + 1))

    def _size(self) -> int:
        return _SIZES[int(self._uniform() * len(_SIZES))]

    def _flip_bit(self, data: bytearray, other: bytes) -> None:
        if data:
            bit = int(self._uniform() * 8 * len(data))
            data[bit >> 3] ^= 1 << (bit & 7)

    def _set_byte(self, data: bytearray, other: bytes) -> None:
        if data:
            data[int(self._uniform() * len(data))] = _BYTES[int(self._uniform() * len(_BYTES))]

    def _set_number(self, data: bytearray, other: bytes) -> None:
        self._write_number(data, BOUNDARIES[int(self._uniform() * len(BOUNDARIES))], add=False)

    def _add_to_number(self, data: bytearray, other: bytes) -> None:
        self._write_number(data, (-2, -1, 1, 2)[int(self._uniform() * 4)], add=True)

    def _write_number(self, data: bytearray, number: int, *, add: bool) -> None:
        """Over bytes anywhere, in any of the usual widths; both byte orders, for MessagePack's is the other one."""
        width = (1, 2, 4, 8)[int(self._uniform() * 4)]
        order = "little" if self._uniform() < 0.75 else "big"
        at = self._place(data)
        if at + width <= len(data):
            if add:
                number += int.from_bytes(data[at : at + width], order)
            data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)

    def _set_field(self, data: bytearray, other: bytes) -> None:
        if self.fields:
            field = self.pick(self.fields)
            at = self._place(data)
            data[at : at + len(field)] = field

    def _insert_field(self, data: bytearray, other: bytes) -> None:
        if self.fields:
            at = self._place(data)
            data[at:at] = self.pick(self.fields)

    def _insert(self, data: bytearray, other: bytes) -> None:
        at = self._place(data)
        data[at:at] = self.random.randbytes(self._size())

    def _delete(self, data: bytearray, other: bytes) -> None:
        at = self._place(data)
        del data[at : at + self._size()]

    def _truncate(self, data: bytearray, other: bytes) -> None:
        del data[self._place(data) :]

    def _repeat(self, data: bytearray, other: bytes) -> None:
        at = self._place(data)
        data[at:at] = data[at : at + self._size()]

    def _splice(self, data: bytearray, other: bytes) -> None:
        if other:
            data[self._place(data) :] = other[int(self._uniform() * len(other)) :]

    _CHANGES = (
        _flip_bit,
        _set_byte,
        _set_number,
        _add_to_number,
        _set_field,
        _insert_field,
        _insert,
        _delete,
        _truncate,
        _repeat,
        _splice,
    )


class TextMutator(Mutator):
    """For text in lines (TOML, key files): whole lines are lost, repeated and moved as well."""

    def _drop_line(self, data: bytearray, other: bytes) -> None:
        lines = data.splitlines(keepends=True)
        if lines:
            del lines[int(self._uniform() * len(lines))]
            data[:] = b"".join(lines)

    def _copy_line(self, data: bytearray, other: bytes) -> None:
        lines = data.splitlines(keepends=True)
        if lines:
            line = lines[int(self._uniform() * len(lines))]
            lines.insert(int(self._uniform() * (len(lines) + 1)), line)
            data[:] = b"".join(lines)

    _CHANGES = (*Mutator._CHANGES, _drop_line, _copy_line)
