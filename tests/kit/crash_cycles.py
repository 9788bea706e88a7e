"""``kill -9`` of all replica processes at random instants under a load that can be counted afterwards (promise D1)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.patience import status_of
from kit.processes import INVOKERS, QUICK, Load, additions, assert_counted, assert_level, client_of, kill_all
from smartbft.measurement.processes import ProcessCluster
from smartbft.testnet import Testnet, create_testnet


async def crash_cycles(network: Testnet, load: Load, draw: random.Random, cycles: int) -> None:
    """Start all, load, kill all at a random instant after the first acknowledgement; again and again.

    In every third cycle the leader is killed before, so that the others are in a later regency when they crash.
    """
    for cycle in range(cycles):
        cluster = ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client, load.running(client):
                await load.more()
                if cycle % 3 == 1:
                    await cluster.kill((await status_of(client, 0))["leader"])
                    await load.more(INVOKERS + 1)
                await asyncio.sleep(draw.uniform(0.0, 0.4))
                await kill_all(cluster)
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
                assert (await status_of(client, 0))["regency"] > 0, "the regencies of the cycles are forgotten"
    finally:
        codes = await cluster.stop()
    return codes
