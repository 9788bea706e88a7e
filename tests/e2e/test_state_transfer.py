"""Replicas that lost their disk, on real processes: they come back by state transfer, whatever interrupts it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kit.processes import QUICK, Load, additions, assert_counted, assert_level, client_of, run

from smartbft import AsyncClient
from smartbft.cli.log import verify_decisions
from smartbft.core.records import DECISION
from smartbft.measurement.processes import ProcessCluster
from smartbft.storage.reading import read_records
from smartbft.testnet import Testnet, create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

INTERVAL = 8
VICTIM = 3


def network_in(folder: Path) -> Testnet:
    parameters = replace(QUICK, checkpoint_interval=INTERVAL, max_batch_requests=4, max_batch_bytes=70_000)
    return create_testnet(
        folder / "net",
        4,
        application="counter",
        persistence="sync",
        transport="plain",
        parameters=parameters,
        segment_bytes=256 * 1024,
    )


async def status_when(client: AsyncClient, replica: int, holds: Callable[[dict[str, object]], bool]) -> None:
    """Ask a replica where it is until the answer is as wanted."""
    while not holds(await client.status(replica)):
        await asyncio.sleep(0.02)


async def wipe(cluster: ProcessCluster, replica: int) -> None:
    await cluster.kill(replica)
    cluster.wipe(replica)
    await cluster.restart(replica)


def decisions_of(network: Testnet, replica: int) -> list[int]:
    """The instances whose decisions are in a stopped replica's log."""
    config = network.replicas[replica]
    records = read_records(config.data_folder, network.genesis.chain_id, replica)
    return [instance for kind, instance, _ in records if kind == DECISION]


async def under_load(network: Testnet, fault: Callable[[ProcessCluster, AsyncClient, Load], Awaitable[None]]) -> None:
    """Run a fault under load; afterwards everybody is level, and nothing is lost or done twice."""
    cluster, load = ProcessCluster(network), additions()
    try:
        await cluster.start()
        async with client_of(network) as client:
            running = asyncio.create_task(load.run(client))
            await status_when(client, 0, lambda status: int(str(status["log_begins"])) > 2 * INTERVAL)
            await fault(cluster, client, load)
            await load.more(20)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await assert_counted(client, load)
            await assert_level(client, 4)
    finally:
        codes = await cluster.stop()
    assert codes == dict.fromkeys(range(4), 0)


def test_a_wiped_replica_comes_back_by_state_transfer(tmp_path: Path) -> None:
    network = network_in(tmp_path)

    async def fault(cluster: ProcessCluster, client: AsyncClient, load: Load) -> None:
        await wipe(cluster, VICTIM)

    run(lambda: under_load(network, fault))
    decisions = decisions_of(network, VICTIM)
    assert decisions[0] > INTERVAL, "it has fetched all decisions"
    for config in network.replicas:
        assert verify_decisions(config.home) > 0
