"""Mutated operations: the native coin and the plain one agree on every byte (see also `kit.decoders.applications`)."""

from __future__ import annotations

import pytest
from blake3 import blake3
from kit.mutation import Mutator, executions
from oracles import coin as oracle
from oracles.coin import Request, request_list, split

from smartbft._fastpath.coin import CoinState

CHAIN = bytes(range(32))
KEYS = [blake3(bytes([number])).digest() for number in range(4)]
MINTERS = KEYS[:2]
BATCH = 20


class Generator:
    """Operations that are mostly valid in the oracle's current state, and mutations of them."""

    def __init__(self, seed: int, state: oracle.Coin) -> None:
        self.mutator = Mutator(seed, fields=[*KEYS, bytes(32), bytes(40), b"\xff" * 8])
        self.random = self.mutator.random
        self.state = state
        self.sequence = 0
        self.last = oracle.mint([1])

    def request(self) -> Request:
        self.sequence += 1
        key = self.random.choice(KEYS)
        operation = self.valid(key)
        if self.random.random() < 0.7:
            operation, self.last = self.mutator.mutate(operation, self.last), operation
        return Request(key, 1, self.sequence, operation)

    def valid(self, key: bytes) -> bytes:
        draw = self.random.random()
        memo = bytes(self.random.choice((0, 0, 3, 512)))
        if draw < 0.3:
            return oracle.mint([self.random.choice((1, 7, 2**64 - 1)) for _ in range(self.random.randint(1, 3))], memo)
        if draw < 0.4:
            return oracle.balance(self.random.choice(KEYS))
        if draw < 0.5:
            after = self.random.choice([b"", bytes(32), *self.state.coins])
            return oracle.coins(self.random.choice(KEYS), self.random.choice((1, 2, 1024)), after)
        owned = [name for name, (owner, _) in self.state.coins.items() if owner == key]
        inputs = self.random.sample(owned, min(len(owned), self.random.randint(1, 3)))
        if not inputs or self.random.random() < 0.2:
            inputs.append(self.random.choice([bytes(32), *self.state.coins]))
        total = sum(self.state.coins[name][1] for name in inputs if name in self.state.coins) or 1
        first = self.random.randint(1, total)
        outputs = [(self.random.choice(KEYS), amount % 2**64) for amount in (first, total - first) if amount]
        return oracle.spend(inputs, outputs, memo)


def assert_coins_agree(make: type[oracle.Coin], count: int, seed: int) -> None:
    """Feed `count` operations to both coins, in batches; any difference fails."""
    plain = make(CHAIN, MINTERS, (40, 70))
    native = CoinState(CHAIN, b"".join(MINTERS), receipt_bytes_mint=40, receipt_bytes_spend=70)
    generator = Generator(seed, plain)
    for _ in range(-(-count // BATCH)):
        requests = [generator.request() for _ in range(BATCH)]
        data = request_list(requests)
        checked = [not request.operation or plain.check(request.operation) == oracle.OK for request in requests]
        assert native.check_batch(data) == bytes(checked)
        assert split(native.execute_batch(data)) == plain.execute_batch(requests)
        assert native.digest() == blake3(plain.snapshot()).digest()
        assert native.supply() == native.minted()
        if len(plain.coins) > 60:
            plain.coins.clear()
            plain.minted = 0
            native.restore(plain.snapshot())


def test_mutated_operations() -> None:
    assert_coins_agree(oracle.Coin, executions(), seed=1)


class ForgetsOneOwner(oracle.Coin):
    """A planted bug: only the first input's owner is looked at."""

    def _spend(self, request: Request, inputs: list[bytes], outputs: list[tuple[bytes, int]]) -> bytes:
        if len(inputs) > 1 and inputs[0] in self.coins and self.coins[inputs[0]][0] == request.key:
            for name in inputs[1:]:
                if name in self.coins:
                    self.coins[name] = (request.key, self.coins[name][1])
        return super()._spend(request, inputs, outputs)


def test_a_planted_bug_is_found() -> None:
    with pytest.raises(AssertionError):
        assert_coins_agree(ForgetsOneOwner, 20_000, seed=1)
