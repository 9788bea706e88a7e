"""``kill -9`` of all replica processes at random instants under load: nothing acknowledged is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.processes import INVOKERS, QUICK, Load, additions, assert_counted, assert_level, client_of, kill_all, run

from smartbft import ClientError, Indeterminate
from smartbft.apps import counter, key_value
from smartbft.config import Genesis
from smartbft.measurement.processes import ProcessCluster
from smartbft.storage import mark_never_started
from smartbft.testnet import Testnet, create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CYCLES = int(os.environ.get("SMARTBFT_CRASH_CYCLES", "3"))


async def crash_cycles(network: Testnet, load: Load, draw: random.Random, cycles: int) -> None:
    """Start all, load, kill all at a random instant after the first acknowledgement; again and again.

    In every third cycle the leader is killed before, so that the others are in a later regency when they crash.
    """
    for cycle in range(cycles):
        cluster = ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                running = asyncio.create_task(load.run(client))
                await load.more()
                if cycle % 3 == 1:
                    await cluster.kill((await client.status(0))["leader"])
                    await load.more(INVOKERS + 1)
                await asyncio.sleep(draw.uniform(0.0, 0.4))
                await kill_all(cluster)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        finally:
            await cluster.stop()


async def count_through_crashes(
    folder: Path,
    persistence: Any,
    seed: int,
    cycles: int,
    restarted: Callable[[Testnet], None] = lambda network: None,
) -> dict[int, int]:
    """Count on, over crashes of everybody; returns the exit codes of the last life, which ends in peace."""
    network = create_testnet(
        folder / "net", 4, application="counter", persistence=persistence, transport="plain", parameters=QUICK
    )
    load = additions()
    await crash_cycles(network, load, random.Random(seed), cycles)
    restarted(network)
    cluster = ProcessCluster(network)
    try:
        await cluster.start()
        async with client_of(network) as client:
            await assert_counted(client, load)
            await assert_level(client, 4)
            if cycles > 1 and persistence == "sync":
                assert (await client.status(0))["regency"] > 0, "the regencies of the cycles are forgotten"
    finally:
        codes = await cluster.stop()
    return codes


@pytest.mark.parametrize("persistence", ["sync", "async"])
def test_nothing_acknowledged_is_lost_or_done_twice(tmp_path: Path, persistence: str) -> None:
    cycles = CYCLES if persistence == "sync" else max(2, CYCLES // 5)
    codes = run(lambda: count_through_crashes(tmp_path, persistence, seed=CYCLES, cycles=cycles))
    assert codes == dict.fromkeys(range(4), 0)


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
                await assert_level(client, 4)
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
