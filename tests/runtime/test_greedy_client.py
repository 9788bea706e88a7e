"""One client against four replicas with the limits of the product: it fills their pools, leaves, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.bad_clients import Victim
from smartbft import LocalCluster, StateMachine, limits
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.runtime.requests import RequestBuilder
from smartbft.smr.application import ExecutionContext
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
# Either fills a pool: with the bytes of its requests, or with their number.
SIZES = {"largest operations": limits.MAX_OPERATION_BYTES, "smallest operations": 0}
# What cannot be proposed stays until something needs its room, however slow the machine is.
PATIENT = Parameters(request_timeout=3_000_000_000, max_request_timeout=3_000_000_000)


class Tally(StateMachine):
    """Counts; checks nothing, like any application that leaves `check` out."""

    def __init__(self) -> None:
        self.count = 0

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.count += 1
        return self.count.to_bytes(8, "little")

    def snapshot(self) -> bytes:
        return self.count.to_bytes(8, "little")

    def restore(self, snapshot: bytes) -> None:
        self.count = int.from_bytes(snapshot, "little")


async def flood(victims: list[Victim], chain_id: bytes, size: int) -> None:
    """The windows of all sessions that a key may have, each without its first request."""
    now = time.time_ns() // 1000
    builder = RequestBuilder(chain_id, Ed25519Signer(os.urandom(32)))
    for session in range(limits.MAX_SESSIONS_PER_KEY):
        window = range(2, limits.DEFAULT_WINDOW + 1)
        frames = b"".join(builder.build(now + session, number, bytes(size)).frame for number in window)
        await asyncio.gather(*(victim.send(frames) for victim in victims))


async def all_full(cluster: LocalCluster) -> bool:
    """Whether all replicas say that their pools are full."""
    statuses = [await replica.status() for replica in cluster.replicas.values()]
    return all("the request pool, which is full" in status["waiting_for"] for status in statuses)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_client_that_fills_all_pools_stops_nobody(run: Run, name: str) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, Tally, parameters=PATIENT) as cluster, cluster.client() as known:
            first = await known.invoke(b"before")
            victims = [Victim(cluster.genesis, member) for member in cluster.genesis.members]
            while not await all_full(cluster):
                await flood(victims, cluster.genesis.chain_id, SIZES[name])
            for victim in victims:
                victim.close()
            second = await known.invoke(b"again")
            async with cluster.client(Ed25519Signer(os.urandom(32))) as new:
                third = await new.invoke(b"new")
            counts = [int.from_bytes(result[-8:], "little") for result in (first, second, third)]
            assert counts == [1, 2, 3]
            statuses = [await replica.status() for replica in cluster.replicas.values()]
            assert max(status["pool"]["evicted"] for status in statuses) > 0
            assert [status["regency"] for status in statuses] == [0] * 4

    run(scenario)
