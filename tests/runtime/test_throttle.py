"""A client that repeats itself without end is read more slowly, and nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from kit.cluster import make_pool
from kit.hostile import client_of
from kit.requests import NOW, TestClient

from smartbft import LocalCluster
from smartbft._fastpath.frames import REQUEST, FrameReader, frame
from smartbft.apps.counter import Counter, add
from smartbft.limits import MAX_REQUEST_BYTES, READ_BUFFER_BYTES, WASTED_REQUESTS_PER_SECOND
from smartbft.runtime import throttle
from smartbft.runtime.throttle import ClientReader
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]


def reader(rests: list[float]) -> ClientReader:
    pool = make_pool(Parameters())
    return ClientReader(FrameReader({REQUEST: MAX_REQUEST_BYTES}, pool, 1), pool, rests.append, lambda: 1.0)


def requests(*operations: bytes) -> bytes:
    client = TestClient()
    return b"".join(frame(REQUEST, client.request(operation)) for operation in operations)


def test_new_requests_are_no_waste() -> None:
    rests: list[float] = []
    reading = reader(rests)
    reading.feed(requests(*(b"%d" % k for k in range(64))), NOW)
    assert rests == []


def test_repetitions_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "WASTED_REQUESTS_AT_ONCE", 100)
    rests: list[float] = []
    reading = reader(rests)
    again = requests(*(b"%d" % k for k in range(32)))
    for _ in range(4):
        reading.feed(again, NOW)
    assert rests == []  # 96 repetitions
    reading.feed(again, NOW)
    assert rests == [pytest.approx(28 / WASTED_REQUESTS_PER_SECOND)]


def test_a_flood_waits_in_its_own_socket(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "WASTED_REQUESTS_AT_ONCE", 100)
    monkeypatch.setattr(throttle, "WASTED_REQUESTS_PER_SECOND", 100)

    async def scenario() -> None:
        async with LocalCluster(1, Counter) as cluster, cluster.client() as client:
            replica = cluster.replicas[0]
            async with client_of(cluster, 0) as flooder:
                mallory = TestClient(9, cluster.genesis.created, cluster.genesis.chain_id)
                again = frame(REQUEST, mallory.request(add(1)))
                began = asyncio.get_running_loop().time()
                flooding = asyncio.ensure_future(flooder.send(*[again * 100] * 1000))
                for _ in range(50):
                    await client.invoke(add(1))
                await asyncio.sleep(0.2)
                pool = (await replica.status())["pool"]
                # A hundred at once and a hundred a second, however long this took; and what one read brings beyond it.
                seconds = asyncio.get_running_loop().time() - began
                allowed = 100 + 100 * seconds + 2 * READ_BUFFER_BYTES / len(again)
                assert pool["duplicates"] < allowed
                assert not flooding.done() or allowed > 100_000, "a hundred thousand repetitions were read"
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)

    run(scenario)
