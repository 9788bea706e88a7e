"""The coin's rules in plain Python, written from coin.pyi and not from the native code; slow and obvious."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from blake3 import blake3

OK, MALFORMED, NOT_AUTHORISED, UNKNOWN_COIN, NOT_OWNER, DUPLICATE_INPUT = range(6)
UNBALANCED, OVERFLOW, ZERO_AMOUNT, BAD_SIGNATURE, BAD_ADDRESS, COIN_EXISTS = range(6, 12)

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


class RejectedError(Exception):
    """A check failed; the argument is the code."""


@dataclass(frozen=True)
class Request:
    key: bytes
    session: int
    sequence: int
    operation: bytes
    signature: bytes = bytes(64)

    def unsigned(self) -> bytes:
        return self.key + struct.pack("<QQI", self.session, self.sequence, len(self.operation)) + self.operation

    def encode(self) -> bytes:
        return self.unsigned() + self.signature


def request_list(requests: list[Request]) -> bytes:
    return b"".join(struct.pack("<I", len(request.encode())) + request.encode() for request in requests)


def split(items: bytes) -> list[bytes]:
    """The items of ``u32 length | item`` repeated."""
    found = []
    while items:
        length = int.from_bytes(items[:4], "little")
        found.append(items[4 : 4 + length])
        assert len(found[-1]) == length
        items = items[4 + length :]
    return found


def mint(values: list[int], memo: bytes = b"") -> bytes:
    return struct.pack(f"<BB{len(values)}QH", 1, len(values), *values, len(memo)) + memo


def spend(inputs: list[bytes], outputs: list[tuple[bytes, int]], memo: bytes = b"") -> bytes:
    packed = b"".join(address + struct.pack("<Q", amount) for address, amount in outputs)
    head = bytes([2, len(inputs)]) + b"".join(inputs) + bytes([len(outputs)])
    return head + packed + struct.pack("<H", len(memo)) + memo


def balance(address: bytes) -> bytes:
    return b"\x03" + address


def coins(address: bytes, most: int, after: bytes = b"") -> bytes:
    return b"\x04" + address + struct.pack("<H", most) + after


def coin_id(chain_id: bytes, key: bytes, session: int, sequence: int, index: int) -> bytes:
    derived = blake3(chain_id, derive_key_context="smartbft v1 coin id").digest()
    return blake3(key + struct.pack("<QQI", session, sequence, index), key=derived).digest()


@cache
def is_small_order(address: bytes) -> bool:
    """By the curve's arithmetic: eight times the point is the neutral element."""
    y = int.from_bytes(address, "little") % 2**255 % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return False
    for _ in range(3):
        product = D * x * x * y * y % P
        x, y = 2 * x * y * pow(1 + product, -1, P) % P, (y * y + x * x) * pow(1 - product, -1, P) % P
    return (x, y) == (0, 1)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, size: int) -> bytes:
        if len(self.rest) < size:
            raise RejectedError(MALFORMED)
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def count(self) -> int:
        count = self.number(1)
        if count == 0:
            raise RejectedError(MALFORMED)
        return count

    def memo(self) -> None:
        size = self.number(2)
        if size > 512:
            raise RejectedError(MALFORMED)
        self.take(size)

    def end(self) -> None:
        if self.rest:
            raise RejectedError(MALFORMED)


class Coin:
    """The state machine. `verify(key, signature, message)` checks signatures when the execution is asked to."""

    def __init__(
        self,
        chain_id: bytes,
        minters: list[bytes],
        receipt_bytes: tuple[int, int] = (0, 0),
        verify: Callable[[bytes, bytes, bytes], bool] | None = None,
    ) -> None:
        self.chain_id = chain_id
        self.minters = minters
        self.receipt_bytes = {1: receipt_bytes[0], 2: receipt_bytes[1]}
        self.verify = verify
        self.coins: dict[bytes, tuple[bytes, int]] = {}
        self.minted = 0

    def check(self, operation: bytes) -> int:
        """The code of the stateless checks."""
        try:
            self._parse(operation)
        except RejectedError as rejection:
            return int(rejection.args[0])
        return OK

    def execute_batch(self, requests: list[Request], *, verify_signatures: bool = False) -> list[bytes]:
        return [self.execute(request, verify_signatures) for request in requests]

    def execute(self, request: Request, verify_signatures: bool = False) -> bytes:
        if not request.operation:
            return b""
        try:
            if verify_signatures:
                self._check_signature(request)
            result = bytes([OK]) + self._apply(request)
        except RejectedError as rejection:
            result = bytes([rejection.args[0]])
        return result.ljust(self.receipt_bytes.get(request.operation[0], 0), b"\0")

    def supply(self) -> int:
        return sum(value for _, value in self.coins.values())

    def snapshot(self) -> bytes:
        head = b"SBCOIN\0\1" + self.chain_id + self.minted.to_bytes(16, "little") + struct.pack("<Q", len(self.coins))
        return head + b"".join(
            key + owner + struct.pack("<Q", value) for key, (owner, value) in sorted(self.coins.items())
        )

    def _check_signature(self, request: Request) -> None:
        domain = blake3(self.chain_id, derive_key_context="smartbft v1 request signature").digest()
        assert self.verify is not None
        if not self.verify(request.key, request.signature, domain + request.unsigned()):
            raise RejectedError(BAD_SIGNATURE)

    def _parse(self, operation: bytes) -> tuple:
        reader = _Reader(operation)
        kind = reader.number(1)
        if kind == 1:
            values = [reader.number(8) for _ in range(reader.count())]
            reader.memo()
            reader.end()
            self._check_amounts(values)
            self._check_sum(values)
            return kind, values
        if kind == 2:
            inputs = [reader.take(32) for _ in range(reader.count())]
            outputs = [(reader.take(32), reader.number(8)) for _ in range(reader.count())]
            reader.memo()
            reader.end()
            self._check_amounts([amount for _, amount in outputs])
            if any(is_small_order(address) for address, _ in outputs):
                raise RejectedError(BAD_ADDRESS)
            if len(set(inputs)) < len(inputs):
                raise RejectedError(DUPLICATE_INPUT)
            self._check_sum([amount for _, amount in outputs])
            return kind, inputs, outputs
        if kind not in (3, 4):
            raise RejectedError(MALFORMED)
        address = reader.take(32)
        most = reader.number(2) if kind == 4 else 1
        after = reader.take(32) if kind == 4 and reader.rest else b""
        reader.end()
        if not 1 <= most <= 1024:
            raise RejectedError(MALFORMED)
        return kind, address, most, after

    def _check_amounts(self, amounts: list[int]) -> None:
        if 0 in amounts:
            raise RejectedError(ZERO_AMOUNT)

    def _check_sum(self, amounts: list[int]) -> None:
        if sum(amounts) >= 2**64:
            raise RejectedError(OVERFLOW)

    def _apply(self, request: Request) -> bytes:
        kind, *fields = self._parse(request.operation)
        if kind == 1:
            return self._mint(request, *fields)
        if kind == 2:
            return self._spend(request, *fields)
        return self._answer(kind, *fields)

    def read(self, operation: bytes) -> bytes | None:
        """The result that a query would have if it were executed next."""
        try:
            kind, *fields = self._parse(operation)
        except RejectedError:
            return None
        return bytes([OK]) + self._answer(kind, *fields) if kind in (3, 4) else None

    def _answer(self, kind: int, address: bytes, most: int, after: bytes) -> bytes:
        owned = sorted((key, value) for key, (owner, value) in self.coins.items() if owner == address)
        if kind == 3:
            return sum(value for _, value in owned).to_bytes(16, "little") + struct.pack("<Q", len(owned))
        listed = [coin for coin in owned if coin[0] > after][:most]
        return struct.pack("<H", len(listed)) + b"".join(key + struct.pack("<Q", value) for key, value in listed)

    def _mint(self, request: Request, values: list[int]) -> bytes:
        if request.key not in self.minters:
            raise RejectedError(NOT_AUTHORISED)
        made = self._new_ids(request, len(values))
        self.minted += sum(values)
        self.coins.update(zip(made, [(request.key, value) for value in values], strict=True))
        return bytes([len(made)]) + b"".join(made)

    def _spend(self, request: Request, inputs: list[bytes], outputs: list[tuple[bytes, int]]) -> bytes:
        for key in inputs:
            if key not in self.coins:
                raise RejectedError(UNKNOWN_COIN)
            if self.coins[key][0] != request.key:
                raise RejectedError(NOT_OWNER)
        self._check_balance(sum(self.coins[key][1] for key in inputs), sum(amount for _, amount in outputs))
        made = self._new_ids(request, len(outputs))
        for key in inputs:
            del self.coins[key]
        self.coins.update(zip(made, outputs, strict=True))
        return bytes([len(made)]) + b"".join(made)

    def _check_balance(self, available: int, wanted: int) -> None:
        if available != wanted:
            raise RejectedError(UNBALANCED)

    def _new_ids(self, request: Request, count: int) -> list[bytes]:
        made = [coin_id(self.chain_id, request.key, request.session, request.sequence, index) for index in range(count)]
        if any(key in self.coins for key in made):
            raise RejectedError(COIN_EXISTS)
        return made
