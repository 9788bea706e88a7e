"""Leaders that die or freeze under load: clients go on, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kit.patience import status_of
from kit.processes import QUICK, additions, assert_counted, assert_level, client_of, run

from smartbft import AsyncClient, Indeterminate, NotEnoughReplies
from smartbft.apps import counter
from smartbft.measurement.processes import ProcessCluster
from smartbft.measurement.status import ask_all
from smartbft.testnet import create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def leader_of(client: AsyncClient, asked: int) -> tuple[int, int]:
    """Regency and leader, as one replica sees them."""
    facts = await status_of(client, asked)
    return facts["regency"], facts["leader"]


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_leaders_that_are_killed_and_frozen_are_replaced(tmp_path: Path, transport: str) -> None:
    network = create_testnet(
        tmp_path / "net", 4, application="counter", transport=transport, parameters=QUICK, log_level="warning"
    )

    async def scenario() -> None:
        load = additions()
        cluster = ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                async with load.running(client):
                    await load.more(50)
                    first, killed = await leader_of(client, 0)
                    await cluster.kill(killed)
                    await load.more(50)
                    witness = (killed + 2) % 4
                    second, frozen = await leader_of(client, witness)
                    while second <= first or frozen == killed:
                        second, frozen = await leader_of(client, witness)
                    await cluster.restart(killed)
                    await load.more(50)

                    cluster.freeze(frozen)
                    await load.more(50)
                    regency = second
                    while regency <= second:
                        facts = await ask_all(client, within=0.5)
                        assert frozen not in facts
                        regency = max([second, *(answer["regency"] for answer in facts.values())])
                    cluster.thaw(frozen)
                    await load.more(50)

                await assert_counted(client, load)
                await assert_level(client, 4)
                while (await leader_of(client, frozen))[0] <= second:
                    await asyncio.sleep(0.05)
                change = (await status_of(client, witness))["last_regency_change"]
                assert change["to"] > change["from"]
                assert change["reason"]
        finally:
            assert await cluster.stop() == dict.fromkeys(range(4), 0)
        told = (network.homes[witness] / "run" / "replica.log").read_text()
        assert "the leader was replaced" in told
        assert f"leader_before={killed}" in told

    run(scenario)


def test_without_a_quorum_everybody_says_whom_it_misses(tmp_path: Path) -> None:
    """The planted stall: two of four are gone, and status names them."""
    network = create_testnet(tmp_path / "net", 4, application="counter", transport="plain", parameters=QUICK)

    async def scenario() -> None:
        cluster = ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                while not (await status_of(client, 0))["takes_part"]:
                    await asyncio.sleep(0.05)
                for replica in (1, 2):
                    await cluster.kill(replica)
                while (await status_of(client, 0))["waiting_for"] != "a connection to 1 of replicas 1 and 2":
                    await asyncio.sleep(0.05)
                with pytest.raises((NotEnoughReplies, Indeterminate)):
                    await client.invoke(counter.add(1), timeout=1)
        finally:
            await cluster.stop()

    run(scenario)
