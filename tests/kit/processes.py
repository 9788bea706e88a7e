"""Replica processes under a load that can be counted afterwards: what was acknowledged is there, exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from kit.patience import PATIENCE_SECONDS, status_of
from smartbft import AsyncClient, ClientError
from smartbft.apps import counter
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.measurement.processes import ProcessCluster
from smartbft.testnet import Testnet
from smartbft.types import Parameters

INVOKERS = 12
Answer = TypeVar("Answer")
QUICK = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=100_000)


@asynccontextmanager
async def client_of(network: Testnet) -> AsyncIterator[AsyncClient]:
    """A client with a key of its own, content with `f + 1` or `Q` replies as the mode says."""
    client = AsyncClient(
        network.genesis,
        Ed25519Signer(os.urandom(32)),
        transport=network.profile.transport,
        persistence=network.profile.persistence,
        retransmit=0.2,
    )
    try:
        await client.connect(PATIENCE_SECONDS)
        yield client
    finally:
        await client.aclose()


async def kill_all(cluster: ProcessCluster) -> None:
    """SIGKILL to every replica, one right after the other."""
    for replica in cluster.replicas:
        if replica.process.returncode is None:
            replica.process.send_signal(signal.SIGKILL)
    await asyncio.gather(*(replica.process.wait() for replica in cluster.replicas))


class Load:
    """Invokes without end until it is cancelled, and remembers what was acknowledged."""

    def __init__(self, operation: Callable[[int], bytes]) -> None:
        self._operation = operation
        self._next = 0
        self._news = asyncio.Event()
        self.acknowledged: dict[int, bytes] = {}

    @property
    def attempts(self) -> int:
        return self._next

    async def run(self, client: AsyncClient) -> None:
        async def invoker() -> None:
            while True:
                self._next += 1
                number = self._next
                try:
                    self.acknowledged[number] = await client.invoke(self._operation(number), timeout=PATIENCE_SECONDS)
                except ClientError:
                    continue
                self._news.set()

        await asyncio.gather(*(invoker() for _ in range(INVOKERS)))

    @asynccontextmanager
    async def running(self, client: AsyncClient) -> AsyncIterator[None]:
        """The load runs while the context lasts; what is outstanding then stays open."""
        running = asyncio.create_task(self.run(client))
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def more(self, count: int = 1) -> None:
        """Returns when so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:
            self._news.clear()
            await self._news.wait()


def additions() -> Load:
    """Increments of the counter, each of which tells the value it made."""
    return Load(lambda number: counter.add(1))


async def assert_counted(client: AsyncClient, load: Load) -> None:
    """What was acknowledged was executed once, and nothing more than was asked for."""
    values = [counter.decode_value(result) for result in load.acknowledged.values()]
    now = counter.decode_value(await client.invoke(counter.read(), timeout=PATIENCE_SECONDS))
    assert len(set(values)) == len(values), "two acknowledged additions were the same one"
    assert max(values) <= now, "acknowledged additions are lost"
    assert len(values) <= now <= load.attempts, "an addition was executed twice"


async def assert_level(client: AsyncClient, n: int) -> None:
    """Wait until all replicas are at one instance, and compare their states."""
    while True:
        states = [await status_of(client, replica, digest=True) for replica in range(n)]
        if len({state["digest_instance"] for state in states}) == 1:
            assert len({state["digest"] for state in states}) == 1, "replicas at one instance differ"
            return
        await asyncio.sleep(0.05)


def run(scenario: Callable[[], Awaitable[Answer]]) -> Answer:
    """On a loop of its own, and not for ever."""

    async def bounded() -> Answer:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await scenario()

    return asyncio.run(bounded())
