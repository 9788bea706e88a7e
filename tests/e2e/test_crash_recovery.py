"""``kill -9`` of all replica processes at random instants under load: nothing acknowledged is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from smartbft import AsyncClient, ClientError, Indeterminate
from smartbft.apps import counter, key_value
from smartbft.config import Genesis
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.measurement.processes import ProcessCluster
from smartbft.storage import mark_never_started
from smartbft.testnet import Testnet, create_testnet
from smartbft.types import Parameters

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CYCLES = int(os.environ.get("SMARTBFT_CRASH_CYCLES", "3"))
INVOKERS = 12
QUICK = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=100_000)


def client_of(network: Testnet) -> AsyncClient:
    """A client with a key of its own, content with `f + 1` or `Q` replies as the mode says."""
    return AsyncClient(
        network.genesis,
        Ed25519Signer(os.urandom(32)),
        transport=network.profile.transport,
        persistence=network.profile.persistence,
        retransmit=0.2,
    )


async def kill(cluster: ProcessCluster) -> None:
    """SIGKILL to every replica, one right after the other."""
    for replica in cluster.replicas:
        replica.process.send_signal(signal.SIGKILL)
    await asyncio.gather(*(replica.process.wait() for replica in cluster.replicas))


class Load:
    """Invokes without end until it is cancelled, and remembers what was acknowledged."""

    def __init__(self, operation: Callable[[int], bytes]) -> None:
        self._operation = operation
        self._next = 0
        self.acknowledged: dict[int, bytes] = {}
        self.first = asyncio.Event()

    @property
    def attempts(self) -> int:
        return self._next

    async def run(self, client: AsyncClient) -> None:
        async def invoker() -> None:
            while True:
                self._next += 1
                number = self._next
                try:
                    self.acknowledged[number] = await client.invoke(self._operation(number), timeout=20)
                except ClientError:
                    continue
                self.first.set()

        await asyncio.gather(*(invoker() for _ in range(INVOKERS)))


async def crash_cycles(network: Testnet, load: Load, draw: random.Random, cycles: int) -> None:
    """Start all, load, kill all at a random instant after the first acknowledgement; again and again."""
    for _ in range(cycles):
        cluster = ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                load.first.clear()
                running = asyncio.create_task(load.run(client))
                await asyncio.wait_for(load.first.wait(), 30)
                await asyncio.sleep(draw.uniform(0.0, 0.4))
                await kill(cluster)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        finally:
            await cluster.stop()


async def settled(client: AsyncClient, n: int) -> None:
    """Wait until all replicas are at one instance, and compare their states."""
    while len(client.connected) < n:
        await asyncio.sleep(0.02)
    while True:
        states = [await client.status(replica, digest=True) for replica in range(n)]
        if len({state["digest_instance"] for state in states}) == 1:
            assert len({state["digest"] for state in states}) == 1, "replicas at one instance differ"
            return
        await asyncio.sleep(0.05)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(110):
            await scenario()

    asyncio.run(bounded())


async def count_through_crashes(
    folder: Path,
    persistence: Any,
    seed: int,
    cycles: int = CYCLES,
    restarted: Callable[[Testnet], None] = lambda network: None,
) -> None:
    network = create_testnet(
        folder / "net", 4, application="counter", persistence=persistence, transport="plain", parameters=QUICK
    )
    load = Load(lambda number: counter.add(1))
    await crash_cycles(network, load, random.Random(seed), cycles)
    restarted(network)
    cluster = ProcessCluster(network)
    try:
        await cluster.start()
        async with client_of(network) as client:
            values = [counter.decode_value(result) for result in load.acknowledged.values()]
            now = counter.decode_value(await client.invoke(counter.read(), timeout=30))
            assert len(set(values)) == len(values), "two acknowledged additions were the same one"
            assert max(values) <= now, "acknowledged additions are lost"
            assert len(values) <= now <= load.attempts, "an addition was executed twice"
            await settled(client, 4)
    finally:
        codes = await cluster.stop()
    assert codes == dict.fromkeys(range(4), 0)


@pytest.mark.parametrize("persistence", ["sync", "async"])
def test_nothing_acknowledged_is_lost_or_done_twice(tmp_path: Path, persistence: str) -> None:
    run(lambda: count_through_crashes(tmp_path, persistence, seed=CYCLES))


def test_each_acknowledged_write_is_there_afterwards(tmp_path: Path) -> None:
    async def scenario() -> None:
        network = create_testnet(
            tmp_path / "net", 4, application="key_value", persistence="sync", transport="tls", parameters=QUICK
        )
        load = Load(lambda number: key_value.put(b"key %d" % number, b"value %d" % number))
        await crash_cycles(network, load, random.Random(1), cycles=2)
        cluster = ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                numbers = sorted(load.acknowledged)
                results = await asyncio.gather(*(client.invoke(key_value.get(b"key %d" % n)) for n in numbers))
                lost = [
                    number
                    for number, result in zip(numbers, results, strict=True)
                    if key_value.decode_value(result) != b"value %d" % number
                ]
                assert not lost
                await settled(client, 4)
        finally:
            await cluster.stop()

    run(scenario)


def test_replicas_that_keep_nothing_are_noticed(tmp_path: Path) -> None:
    """A planted bug: the replicas write nothing, and are told that they have never run."""

    def pretend(network: Testnet) -> None:
        for replica in network.replicas:
            mark_never_started(replica.home)

    with pytest.raises(AssertionError, match="acknowledged additions are lost"):
        run(lambda: count_through_crashes(tmp_path, "memory", seed=3, cycles=1, restarted=pretend))


def test_a_cluster_that_has_forgotten_everything_does_not_begin_again(tmp_path: Path) -> None:
    """Without a log nobody knows what was promised: rather no answer than a second history."""

    async def scenario() -> None:
        network = create_testnet(tmp_path / "net", 4, application="counter", persistence="memory", transport="plain")
        for acknowledged in (True, False):
            cluster = ProcessCluster(network)
            try:
                await cluster.start()
                async with client_of(network) as client:
                    if acknowledged:
                        await client.invoke(counter.add(1), timeout=30)
                    else:
                        with pytest.raises(Indeterminate):
                            await client.invoke(counter.read(), timeout=1)
                        assert (await client.status(0))["learns"]
            finally:
                await cluster.stop()

    run(scenario)


def test_a_genesis_of_another_chain_is_not_started_on_this_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        network = create_testnet(tmp_path / "net", 1, application="counter", persistence="sync", transport="plain")
        cluster = ProcessCluster(network)
        await cluster.start()
        await cluster.stop()
        genesis = Genesis.load(network.replicas[0].genesis_path)
        other = Genesis("another", genesis.created, genesis.members, genesis.parameters, genesis.application)
        other.dump(network.replicas[0].genesis_path)
        again = ProcessCluster(network)
        with pytest.raises(ClientError, match="another chain"):
            await again.start()
        await again.stop()

    run(scenario)
