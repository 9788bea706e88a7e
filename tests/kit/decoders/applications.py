"""Decoders of the applications: operations that clients send, results that replicas send, snapshots."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from oracles import coin as oracle
from oracles import wire

from kit.fuzzing import Decoder
from kit.mutation import Mutator
from kit.requests import CHAIN
from smartbft._fastpath.coin import CoinState
from smartbft._fastpath.pool import encode_request, join_requests, split_requests
from smartbft.apps import coin, counter, key_value
from smartbft.apps.counter import Counter
from smartbft.apps.key_value import KeyValueStore
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import MalformedMessage, Rejected, ResultTooLarge
from smartbft.smr.application import ExecutionContext, StateMachine, open_result
from smartbft.smr.per_operation import PerOperation

_KEY = Ed25519Signer(bytes(31) + b"\1").public_key
_CONTEXT = ExecutionContext(1, 0, bytes(32))
_REFUSED = (MalformedMessage, Rejected, ResultTooLarge)


def _request(operation: bytes, sequence: int = 1) -> bytes:
    return encode_request(_KEY, 1, sequence, operation, bytes(64))


# --- the coin ---

_MINT = join_requests([_request(coin.mint([5, 7], b"memo"))])
_BATCH = join_requests([_request(coin.mint([5, 7])), _request(coin.balance(_KEY), 2), _request(coin.coins(_KEY), 3)])
_state = CoinState(CHAIN, _KEY)
_state.execute_batch(_MINT)
_SNAPSHOT = _state.snapshot()
_other_state = CoinState(CHAIN, _KEY)
_other_state.restore(_SNAPSHOT)
# Beyond it the state is restored: the checks that look at every coin stay quick.
_MOST_COINS = 200
_COINS = [_SNAPSHOT[at : at + 32] for at in (64, 136)]
_OPERATIONS = [
    coin.mint([5, 7], b"memo"),
    coin.spend(_COINS, [(_KEY, 12)]),
    coin.balance(_KEY),
    coin.coins(_KEY, 3),
    b"",
]


def _run_coin(data: bytes) -> bytes:
    """Both entrances: what the check lets through and what is executed; money is conserved."""
    if _state.coins() > _MOST_COINS:
        if _state.supply() != _state.minted():
            raise AssertionError("money was made or lost")
        _state.restore(_SNAPSHOT)
    before = _state.coins(), _state.minted()
    try:
        passed = _state.check_batch(data)
    except MalformedMessage:
        _refused_by_all(data)
        if (_state.coins(), _state.minted()) != before:
            raise AssertionError("a part of a malformed batch was executed") from None
        raise
    results = _state.execute_batch(data)
    if len(passed) != len(split_requests(data)) or len(results) < 4 * len(passed):
        raise AssertionError("not one verdict and one result per request")
    return data


def _refused_by_all(data: bytes) -> None:
    """What the coin refuses as a request list, everybody does."""
    for decode in (_state.execute_batch, split_requests):
        try:
            decode(data)
        except MalformedMessage:
            continue
        raise AssertionError(f"{decode.__name__} took what check_batch refused")


def _run_operation(operation: bytes) -> None:
    _run_coin(join_requests([_request(operation, 2)]))


def _guide(operation: bytes) -> int:
    return oracle.Coin(CHAIN, [_KEY]).check(operation)


def _decode_operation(operation: bytes) -> None:
    """Planted bug: operations are read without looking at their length."""
    if operation:
        struct.unpack_from("<32sQ" if operation[0] == coin.SPEND else "<B", operation, 1)


_restored_from = [_SNAPSHOT]


def _restore_coin(snapshot: bytes) -> bytes:
    try:
        _other_state.restore(snapshot)
    except ValueError:
        if _other_state.snapshot() != _restored_from[0]:
            raise AssertionError("a refused snapshot changed the state") from None
        raise
    _restored_from[0] = snapshot
    return snapshot


def _encode_coin(_: bytes) -> bytes:
    return _other_state.snapshot()


def _sorted_coins(snapshot: bytes) -> bytes:
    """Planted bug: coins are taken in any order."""
    entries = [snapshot[at : at + 72] for at in range(64, len(snapshot), 72)]
    return _restore_coin(snapshot[:64] + b"".join(sorted(entries)))


def _resealed_snapshot(mutator: Mutator, data: bytes) -> bytes:
    """A snapshot of coins that are mutated, lost, repeated or out of order, whose count and sum are right."""
    random = mutator.random
    entries = [_SNAPSHOT[at : at + 72] for at in range(64, len(_SNAPSHOT), 72)]
    for _ in range(int(random.random() * 3)):
        entry = mutator.pick(entries)
        changed = mutator.mutate(entry, most=1)[:72].ljust(72, b"\1")
        entries.insert(int(random.random() * (len(entries) + 1)), changed)
    if random.random() < 0.7:
        entries.sort()
    minted = sum(int.from_bytes(entry[64:], "little") for entry in entries)
    head = _SNAPSHOT[:40] + minted.to_bytes(16, "little") + struct.pack("<Q", len(entries))
    snapshot = head + b"".join(entries)
    return mutator.mutate(snapshot, data) if random.random() < 0.3 else snapshot


def _coin_result(result: bytes) -> None:
    for decode in (coin.decode_created, coin.decode_balance, coin.decode_coins):
        try:
            decode(result)
        except MalformedMessage:
            continue
        return
    raise MalformedMessage("no result of the coin")


def _hasty_result(result: bytes) -> None:
    """Planted bug: the number of ids is believed."""
    if result and result[0] == 0:
        for index in range(result[1]):
            struct.unpack_from("<32s", result, 2 + 32 * index)


_CREATED = b"\0\2" + _COINS[0] + _COINS[1]
_RESULTS = [_CREATED, _CREATED + bytes(10), b"\0" + struct.pack("<QQQ", 12, 0, 2)]
_RESULTS += [b"\0" + struct.pack("<H32sQ", 1, _COINS[0], 5)]


# --- applications in Python ---


def _operation_of(machine: Callable[[], StateMachine]) -> Callable[[bytes], bytes]:
    """The runtime's way in: whatever the bytes, one verdict and one result, and no error."""

    def execute(operation: bytes) -> bytes:
        batch = join_requests([_request(operation)])
        application = PerOperation(machine())
        verdict = application.check_batch(batch)
        result = application.execute_batch(batch, _CONTEXT)
        if len(verdict) != 1 or int.from_bytes(result[:4], "little") != len(result) - 4:
            raise AssertionError("not one verdict and one result")
        if operation and not verdict[0] and result[4] == 0:
            raise AssertionError("executed in spite of the check")
        return operation

    return execute


class _Careless(KeyValueStore):
    """Planted bug: the key's length is believed."""

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if operation[0] == 1:
            (length,) = struct.unpack_from("<H", operation, 1)
            return bytes([operation[3 : 3 + length][length - 1]])
        return super().execute(operation, context)


class _Unchecked(Counter):
    """Planted bug: `execute` relies on `check` having been asked."""

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if operation[0] == 1:
            self.value = struct.unpack_from("<q", operation, 1)[0]
        return struct.pack("<q", self.value)


def _restored(machine: StateMachine) -> Callable[[bytes], StateMachine]:
    def restore(snapshot: bytes) -> StateMachine:
        machine.restore(snapshot)
        return machine

    return restore


class _Unsorted(KeyValueStore):
    """Planted bug: keys in any order are restored."""

    def restore(self, snapshot: bytes) -> None:
        super().restore(snapshot[12:] + snapshot[:12] if snapshot[12:] < snapshot[:12] else snapshot)


def _snapshot(machine: StateMachine) -> bytes:
    return machine.snapshot()


def _short(snapshot: bytes) -> StateMachine:
    """Planted bug: a counter whose snapshot may have any length."""
    return Counter(int.from_bytes(snapshot, "little") % 2**63)


def _result(result: bytes) -> Any:
    try:
        return key_value.decode_value(result), counter.decode_value(result), key_value.decode_count(result)
    except MalformedMessage:
        return open_result(result)


def _unopened(result: bytes) -> Any:
    """Planted bug: an empty result is not thought of."""
    return result[1:] if result[0] == 0 else _result(result)


_ENTRIES = [struct.pack("<HI", 2, 4) + b"k%d" % n + b"long" for n in range(3)]
_MARKS = [_KEY, bytes(32), b"\xff" * 8, b"\1", b"\2", b"\3", b"\4", struct.pack("<H", 513), struct.pack("<H", 1025)]

DECODERS = [
    Decoder(
        "operation of the coin",
        _run_operation,
        _OPERATIONS,
        _REFUSED,
        _decode_operation,
        fields=_MARKS,
        guide=_guide,
    ),
    Decoder(
        "batch of the coin",
        _run_coin,
        [_BATCH, _MINT, b""],
        MalformedMessage,
        lambda data: _run_coin(data[: len(data) // 8 * 8]),
        lambda data: data,
        _MARKS,
        guide=lambda data: [_guide(request[52:-64]) for request in wire.requests(data) or ()],
    ),
    Decoder(
        "snapshot of the coin",
        _restore_coin,
        [_SNAPSHOT],
        ValueError,
        _sorted_coins,
        _encode_coin,
        _COINS,
        generate=_resealed_snapshot,
    ),
    Decoder("result of the coin", _coin_result, _RESULTS, _REFUSED, _hasty_result),
    Decoder(
        "operation of the counter",
        _operation_of(Counter),
        [counter.add(1), counter.add(-(2**63)), counter.read(), b""],
        (),
        _operation_of(_Unchecked),
    ),
    Decoder(
        "operation of the key-value store",
        _operation_of(KeyValueStore),
        [key_value.put(b"key", b"value"), key_value.get(b"key"), key_value.delete(b"key"), key_value.count()],
        (),
        _operation_of(_Careless),
        fields=_MARKS,
    ),
    Decoder("snapshot of the counter", _restored(Counter()), [Counter(7).snapshot()], ValueError, _short, _snapshot),
    Decoder(
        "snapshot of the key-value store",
        _restored(KeyValueStore()),
        [b"", b"".join(_ENTRIES)],
        ValueError,
        _restored(_Unsorted()),
        _snapshot,
        _ENTRIES,
    ),
    Decoder(
        "result of an application",
        _result,
        [b"\0\1value", b"\0" + bytes(8), b"\0\0", b""],
        _REFUSED,
        _unopened,
    ),
]
