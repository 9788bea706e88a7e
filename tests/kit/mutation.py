"""A seeded, structure-aware mutator of bytes for the fuzz tests, and how long they run."""

from __future__ import annotations

import os
import random

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


def executions(default: int = 5_000) -> int:
    """How many inputs a fuzz test tries: SMARTBFT_FUZZ_EXECUTIONS, or the default."""
    return int(os.environ.get("SMARTBFT_FUZZ_EXECUTIONS", default))


class Mutator:
    """Changes bytes at random: bits, bytes, numbers at the limits of their width, cuts, repeats, pieces of others.

    Args:
        seed: the same seed, the same mutations.
        fields: values that mean something to the format (keys, ids, lengths), to be written over parts of the input.
    """

    def __init__(self, seed: int, fields: list[bytes] | None = None) -> None:
        self.random = random.Random(seed)
        self.fields = fields if fields is not None else []

    def mutate(self, data: bytes, other: bytes = b"", most: int = 3) -> bytes:
        """`data` after one to `most` changes; `other` is an input to take pieces from."""
        mutated = bytearray(data)
        for _ in range(self.random.randint(1, most)):
            self.random.choice(self._CHANGES)(self, mutated, other)
        return bytes(mutated)

    def _place(self, data: bytearray) -> int:
        return self.random.randint(0, len(data))

    def _flip_bit(self, data: bytearray, other: bytes) -> None:
        if data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)

    def _set_byte(self, data: bytearray, other: bytes) -> None:
        if data:
            data[self.random.randrange(len(data))] = self.random.choice((0, 1, 2, 3, 4, 5, 127, 128, 254, 255))

    def _set_number(self, data: bytearray, other: bytes) -> None:
        width = self.random.choice((2, 4, 8))
        at = self._place(data)
        if at + width <= len(data):
            number = self.random.choice(BOUNDARIES) % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, "little")

    def _add_to_number(self, data: bytearray, other: bytes) -> None:
        width = self.random.choice((1, 2, 4, 8))
        at = self._place(data)
        if at + width <= len(data):
            number = int.from_bytes(data[at : at + width], "little") + self.random.choice((-2, -1, 1, 2))
            data[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")

    def _set_field(self, data: bytearray, other: bytes) -> None:
        if self.fields:
            field = self.random.choice(self.fields)
            at = self._place(data)
            data[at : at + len(field)] = field

    def _insert(self, data: bytearray, other: bytes) -> None:
        at = self._place(data)
        data[at:at] = self.random.randbytes(self.random.choice((1, 1, 2, 8, 32, 40)))

    def _delete(self, data: bytearray, other: bytes) -> None:
        at = self._place(data)
        del data[at : at + self.random.choice((1, 1, 2, 8, 32, 40))]

    def _truncate(self, data: bytearray, other: bytes) -> None:
        del data[self._place(data) :]

    def _repeat(self, data: bytearray, other: bytes) -> None:
        at = self._place(data)
        size = self.random.choice((1, 8, 32, 40))
        data[at:at] = data[at : at + size]

    def _splice(self, data: bytearray, other: bytes) -> None:
        if other:
            at = self.random.randrange(len(other))
            data[self._place(data) :] = other[at:]

    _CHANGES = (
        _flip_bit,
        _set_byte,
        _set_number,
        _add_to_number,
        _set_field,
        _insert,
        _delete,
        _truncate,
        _repeat,
        _splice,
    )
