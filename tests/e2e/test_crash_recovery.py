"""``kill -9`` of all replica processes at random instants under load: nothing acknowledged is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from kit.crash_cycles import count_through_crashes, crash_cycles
from kit.patience import PATIENCE_SECONDS, status_of
from kit.processes import QUICK, Load, assert_level, client_of, run

from smartbft import ClientError, Indeterminate
from smartbft.apps import counter, key_value
from smartbft.config import Genesis
from smartbft.measurement.processes import ProcessCluster
from smartbft.storage import mark_never_started
from smartbft.testnet import Testnet, create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CYCLES = int(os.environ.get("SMARTBFT_CRASH_CYCLES", "3"))


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
                reads = [key_value.get(b"key %d" % number) for number in numbers]
                results = await asyncio.gather(*(client.invoke(read, PATIENCE_SECONDS) for read in reads))
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
                        await client.invoke(counter.add(1), timeout=PATIENCE_SECONDS)
                    else:
                        with pytest.raises(Indeterminate):
                            await client.invoke(counter.read(), timeout=1)
                        assert (await status_of(client, 0))["learns"]
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
