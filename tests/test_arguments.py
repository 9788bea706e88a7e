"""What callers may pass: whatever is bytes-like, where bytes are wanted; and times in each of their forms."""

from __future__ import annotations

import array
import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from kit.played import Stage, executed

from smartbft import (
    AsyncClient,
    Client,
    Ed25519Signer,
    LocalProtocolError,
    join_results,
    open_result,
    split_requests,
)
from smartbft._fastpath.pool import encode_request, join_requests
from smartbft.apps import coin, counter, key_value
from smartbft.arguments import bytes_of
from smartbft.config import parse_seconds
from smartbft.errors import ArgumentTypeError
from smartbft.runtime.requests import RequestBuilder

LIKE = {
    "bytearray": bytearray,
    "memoryview": memoryview,
    "part of a memoryview": lambda data: memoryview(b"<" + data + b">")[1:-1],
    "array": lambda data: array.array("B", data),
    "every second byte": lambda data: memoryview(b"".join(bytes([byte, 0]) for byte in data))[::2],
}
KEY = bytes(range(32))
REQUEST = encode_request(KEY, 1, 1, b"operation", bytes(64))

# What takes bytes, by name, each with one good argument.
TAKERS: dict[str, tuple[Callable[[Any], Any], bytes]] = {
    "an operation": (lambda data: RequestBuilder(bytes(32), Ed25519Signer(KEY)).build(1, 1, data), b"operation"),
    "a seed": (lambda data: Ed25519Signer(data).public_key, KEY),
    "open_result": (open_result, b"\0result"),
    "split_requests": (split_requests, join_requests([REQUEST])),
    "put key": (lambda data: key_value.put(data, b"value"), b"key"),
    "put value": (lambda data: key_value.put(b"key", data), b"value"),
    "get": (key_value.get, b"key"),
    "delete": (key_value.delete, b"key"),
    "key_value.decode_value": (key_value.decode_value, b"\0\1value"),
    "decode_count": (key_value.decode_count, bytes(9)),
    "counter.decode_value": (counter.decode_value, bytes(9)),
    "memo": (lambda data: coin.mint([1], data), b"memo"),
    "coin id": (lambda data: coin.spend([data], [(KEY, 1)]), KEY),
    "address": (lambda data: coin.spend([KEY], [(data, 1)]), KEY),
    "balance": (coin.balance, KEY),
    "coins": (coin.coins, KEY),
    "coins after": (lambda data: coin.coins(KEY, after=data), KEY),
    "predict, chain": (lambda data: coin.predict_coin_ids(data, KEY, 1, 1, 1), KEY),
    "predict, key": (lambda data: coin.predict_coin_ids(KEY, data, 1, 1, 1), KEY),
    "decode_created": (coin.decode_created, b"\0\1" + KEY),
    "decode_balance": (coin.decode_balance, bytes(25)),
    "decode_coins": (coin.decode_coins, bytes(3)),
}


@pytest.mark.parametrize("like", LIKE.values(), ids=LIKE)
@pytest.mark.parametrize("taker", TAKERS)
def test_whatever_is_bytes_like_is_taken(taker: str, like: Callable[[bytes], Any]) -> None:
    take, data = TAKERS[taker]
    assert take(like(data)) == take(data)


@pytest.mark.parametrize("wrong", ["text", 7, [1, 2], object()], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("taker", [name for name in TAKERS if name not in ("split_requests", "coins after")])
def test_anything_else_is_refused_by_its_type(taker: str, wrong: object) -> None:
    take, _ = TAKERS[taker]
    with pytest.raises(TypeError, match=rf"is bytes, not {type(wrong).__name__}") as raised:
        take(wrong)
    assert isinstance(raised.value, LocalProtocolError)


def test_a_copy_is_taken() -> None:
    data = bytearray(b"operation")
    taken = bytes_of(data, "an operation")
    data[0] = 0
    assert taken == b"operation"


def test_results_are_joined_whatever_they_are() -> None:
    results = [bytes(3), bytearray(2), memoryview(b"one")]
    assert join_results(results) == join_results([bytes(result) for result in results])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(2, 2.0), (0.5, 0.5), (0, 0.0), ("2s", 2.0), ("250ms", 0.25), ("1.5 min", 90.0), (timedelta(minutes=1), 60.0)],
)
def test_times(value: Any, seconds: float) -> None:
    assert parse_seconds(value, "timeout") == seconds


@pytest.mark.parametrize(
    ("value", "kind", "why"),
    [
        ("2", LocalProtocolError, 'timeout: "2" is not a duration'),
        ("soon", LocalProtocolError, 'timeout: "soon" is not a duration'),
        ("", LocalProtocolError, "is not a duration"),
        (-1, LocalProtocolError, "a time from 0 on"),
        (float("nan"), LocalProtocolError, "a time from 0 on"),
        (timedelta(seconds=-1), LocalProtocolError, "a time from 0 on"),
        (None, ArgumentTypeError, 'is seconds, "2s" or a timedelta, not NoneType'),
        (True, ArgumentTypeError, "not bool"),
        (b"2s", ArgumentTypeError, "not bytes"),
    ],
)
def test_what_is_no_time(value: Any, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        parse_seconds(value, "timeout")


def test_clients_take_times_in_each_form_and_refuse_others_before_they_do_anything() -> None:
    async def scenario() -> None:
        async with Stage(executed) as stage:
            client = await stage.connected()
            for number, timeout in enumerate((100, "100s", timedelta(seconds=100))):
                assert await client.invoke(b"%d" % number, timeout=timeout) == b"done %d" % number
            for wrong in ("2", None, -1):
                for call in (client.invoke(b"x", wrong), client.submit(b"x", wrong), client.connect(wrong)):  # type: ignore[arg-type]
                    with pytest.raises(LocalProtocolError, match="timeout"):
                        await call
                with pytest.raises(LocalProtocolError, match="timeout"):
                    await client.status(0, timeout=wrong)  # type: ignore[arg-type]
                with pytest.raises(LocalProtocolError, match="retransmit"):
                    AsyncClient(stage.genesis, Ed25519Signer(KEY), retransmit=wrong)  # type: ignore[arg-type]
            with pytest.raises(LocalProtocolError, match="retransmit is no time at all"):
                AsyncClient(stage.genesis, Ed25519Signer(KEY), retransmit=0)
            assert not any(operation == b"x" for replica in stage.replicas for _, _, operation in replica.requests)

            def blocking() -> None:
                with Client(lambda: AsyncClient(stage.genesis, Ed25519Signer(KEY), transport="plain")) as other:
                    assert other.invoke(b"y", timeout="1min") == b"done y"
                    with pytest.raises(LocalProtocolError, match="timeout"):
                        other.submit(b"y", "soon")  # at once, and not when its future is asked

            await asyncio.to_thread(blocking)

    asyncio.run(scenario())
