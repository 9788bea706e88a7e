"""Replicas that lost their disk, on real processes: they vote again, and the cluster can do without another one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from kit.patience import status_of
from kit.processes import QUICK, additions, assert_counted, assert_level, client_of, run

from smartbft import AsyncClient
from smartbft.cli.log import verify_decisions
from smartbft.measurement.processes import ProcessCluster
from smartbft.testnet import create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def votes_again(client: AsyncClient, replica: int) -> None:
    """Wait until a replica takes part with a new key."""
    while True:
        status = await status_of(client, replica)
        if status["takes_part"] and not status["learns"]:
            return
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("checkpoints", [8, 1024])
def test_one_after_the_other_loses_its_disk_and_votes_again(tmp_path: Path, checkpoints: int) -> None:
    parameters = replace(QUICK, checkpoint_interval=checkpoints, max_batch_requests=4, max_batch_bytes=70_000)
    network = create_testnet(
        tmp_path / "net",
        4,
        application="counter",
        persistence="sync",
        transport="plain",
        parameters=parameters,
        segment_bytes=256 * 1024,
    )

    async def scenario() -> None:
        load, cluster = additions(), ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                async with load.running(client):
                    await load.more(30)
                    for lost in (1, 2, 1):
                        await cluster.kill(lost)
                        cluster.wipe(lost)
                        await cluster.restart(lost)
                        await votes_again(client, lost)
                        await load.more(30)
                    await cluster.kill(3)
                    await load.more(30)
                    await cluster.restart(3)
                    await load.more(10)
                await assert_level(client, 4)
                await assert_counted(client, load)  # and a decision that all of them have in their logs
                await assert_level(client, 4)
        finally:
            await cluster.stop()

    run(scenario)
    for config in network.replicas:
        assert verify_decisions(config.home) > 0, "each proof holds by the keys of its instance"
