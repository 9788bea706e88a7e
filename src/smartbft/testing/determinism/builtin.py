"""Operations for the applications that come with the package, so that each can be checked by its name alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from smartbft.apps import coin, counter, key_value
from smartbft.testing.determinism.script import CHAIN_ID, CLIENTS, SESSION, OperationMaker, client_key

_KEYS = 6


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """How to check an application of the package.

    Attributes:
        operations: makes a maker of operations.
        parameters: of the genesis.
    """

    operations: Callable[[], OperationMaker]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def counter_operation(draw: random.Random, client: int, number: int) -> bytes:
    """Adds and reads; now and then an amount that does not fit any more."""
    if draw.random() < 0.2:
        return counter.read()
    if draw.random() < 0.1:
        return counter.add(2**63 - 1)
    return counter.add(draw.randint(-1000, 1000))


def key_value_operation(draw: random.Random, client: int, number: int) -> bytes:
    """Puts, gets, deletes and counts over a few keys."""
    key = b"key-%d" % draw.randrange(_KEYS)
    kind = draw.random()
    if kind < 0.5:
        return key_value.put(key, draw.randbytes(draw.randrange(40)))
    if kind < 0.7:
        return key_value.get(key)
    return key_value.delete(key) if kind < 0.9 else key_value.count()


class CoinOperations:
    """Mints, spends and queries; each client spends what it was given, and sometimes what it has spent before."""

    def __init__(self) -> None:
        self._owned: list[list[tuple[bytes, int]]] = [[] for _ in range(CLIENTS)]
        self._spent: list[tuple[bytes, int]] = []

    def __call__(self, draw: random.Random, client: int, number: int) -> bytes:
        """The next operation of a client."""
        kind = draw.random()
        if kind < 0.1:
            return coin.balance(client_key(draw.randrange(CLIENTS)))
        if kind < 0.2:
            after = draw.choice((b"", draw.randbytes(32)))
            return coin.coins(client_key(draw.randrange(CLIENTS)), draw.randint(1, 20), after)
        if kind < 0.3 and self._spent:
            spent, value = draw.choice(self._spent)
            return coin.spend([spent], [(client_key(client), value)])
        if kind < 0.7 and self._owned[client]:
            return self._spend(draw, client, number)
        values = [draw.randint(2, 1000) for _ in range(draw.randint(1, 3))]
        self._own(client, number, [(client, value) for value in values])
        return coin.mint(values)

    def _spend(self, draw: random.Random, client: int, number: int) -> bytes:
        owned = self._owned[client]
        one, value = owned.pop(draw.randrange(len(owned)))
        self._spent.append((one, value))
        to = draw.randrange(CLIENTS)
        parts = [(client, value)] if value < 2 else [(to, value // 2), (client, value - value // 2)]
        self._own(client, number, parts)
        return coin.spend([one], [(client_key(owner), amount) for owner, amount in parts])

    def _own(self, client: int, number: int, parts: list[tuple[int, int]]) -> None:
        """Note the coins that a request makes, each with its owner."""
        ids = coin.predict_coin_ids(CHAIN_ID, client_key(client), SESSION, number, len(parts))
        for made, (owner, value) in zip(ids, parts, strict=True):
            self._owned[owner].append((made, value))


_MINTERS = {"minters": [client_key(client).hex() for client in range(CLIENTS)]}

#: By the names of `smartbft.apps.BUILT_IN`.
BUILT_IN: Mapping[str, BuiltIn] = {
    "counter": BuiltIn(lambda: counter_operation),
    "key_value": BuiltIn(lambda: key_value_operation, {"max_bytes": 100}),
    "coin": BuiltIn(CoinOperations, _MINTERS),
    "coin_ledger": BuiltIn(CoinOperations, _MINTERS),
}
