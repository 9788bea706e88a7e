"""Clocks that are set by hours while the replicas run, forwards and backwards: on one replica, on all at once, and on
the machine of whoever uses the command line.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kit import jumping_clock
from kit.patience import PATIENCE_SECONDS, status_of
from kit.processes import QUICK, additions, assert_counted, assert_level, client_of, run

from smartbft import AsyncClient
from smartbft.config import ReplicaConfig
from smartbft.config.replica import Transport
from smartbft.measurement.processes import ProcessCluster
from smartbft.testnet import create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HOUR = 3600  # as long as a session is kept that is not used


class JumpingCluster(ProcessCluster):
    """Replicas whose clocks can be set."""

    def command(self, config: ReplicaConfig) -> list[str]:
        return [sys.executable, str(jumping_clock.__file__), str(config.home), str(self.file(config.replica))]

    def file(self, replica: int) -> Path:
        return self.network.folder / f"clock-{replica}"

    def set_clock(self, replica: int, offset: int) -> None:
        whole = self.file(replica).with_suffix(".new")  # a signal of before may have it read at any moment
        whole.write_text(str(offset))
        whole.replace(self.file(replica))
        next(running for running in self.replicas if running.replica == replica).process.send_signal(signal.SIGUSR1)


@asynccontextmanager
async def jumping(
    folder: Path, application: str = "counter", transport: Transport = "plain"
) -> AsyncIterator[tuple[JumpingCluster, AsyncClient]]:
    """Four running replicas and a client; all of them must be there at the end."""
    network = create_testnet(folder, 4, application=application, transport=transport, parameters=QUICK)
    cluster = JumpingCluster(network)
    try:
        await cluster.start()
        async with client_of(network) as client:
            yield cluster, client
    finally:
        codes = await cluster.stop()
    assert codes == dict.fromkeys(range(4), 0)


def test_clocks_that_are_set_stop_nobody_for_long(tmp_path: Path) -> None:
    async def scenario() -> None:
        load = additions()
        async with jumping(tmp_path / "net") as (cluster, client):
            async with load.running(client):
                await load.more(50)
                for offset in (HOUR, -HOUR, 0):
                    for replica in (cluster.network.genesis.view.leader(0), 3):
                        cluster.set_clock(replica, offset)
                        await load.more(50)
                        cluster.set_clock(replica, 0)
                        await load.more(50)
                latest = before = (await status_of(client, 0))["agreed_time"]
                for offset in (HOUR // 2, 0, 2 * HOUR, 0):  # all of them: time never goes back, and sessions last
                    for replica in range(4):
                        cluster.set_clock(replica, offset)
                    await load.more(100)
                    at_least = before + min(offset, HOUR // 2) * 1_000_000
                    while (now := (await status_of(client, 0))["agreed_time"]) < at_least:
                        await load.more()
                    assert now >= latest
                    latest = now
                assert latest >= before + HOUR // 2 * 1_000_000
            await assert_counted(client, load)
            await assert_level(client, 4)

    run(scenario)


def test_a_leader_whose_clock_is_ahead_is_replaced_by_one_that_agrees_with_the_others(tmp_path: Path) -> None:
    """Nobody accepts a time that is far ahead: were it not looked at, the first leader would go on leading."""

    async def scenario() -> None:
        load = additions()
        async with jumping(tmp_path / "net") as (cluster, client):
            async with load.running(client):
                await load.more(50)
                before = await status_of(client, 3)
                cluster.set_clock(before["leader"], HOUR // 2)
                while (await status_of(client, 3))["regency"] == before["regency"]:
                    await asyncio.sleep(0.05)
                await load.more(50)
                while (await status_of(client, 3))["leader"] == before["leader"]:  # it may be its turn once more
                    await asyncio.sleep(0.05)
                await load.more(50)
            await assert_counted(client, load)

    run(scenario)


# `smartbft` on a machine whose clock is so many seconds off.
_COMMAND = """
import sys, time
true_clock, offset = time.time_ns, int(sys.argv[1]) * 1_000_000_000
time.time_ns = lambda: true_clock() + offset
from smartbft.cli import main
main(sys.argv[2:])
"""


async def mint(cluster: JumpingCluster, offset: int) -> int:
    """The exit code of a command on such a machine."""
    profile = cluster.network.folder / "client.toml"
    command = ["coin", "mint", "1", "--profile", str(profile), "--timeout", f"{PATIENCE_SECONDS:g}s"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _COMMAND, str(offset), *command)
    return await process.wait()


def test_commands_are_carried_out_whatever_the_clock_of_their_machine_shows(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with jumping(tmp_path / "net", "coin", "tls") as (cluster, client):
            offsets = (0, 90, -90, HOUR + 100, -HOUR - 100, -50 * 365 * 24 * HOUR)
            assert [await mint(cluster, offset) for offset in offsets] == [0] * len(offsets)
            for replica in range(4):
                cluster.set_clock(replica, 2 * HOUR)
            assert await mint(cluster, 2 * HOUR) == 0
            for replica in range(4):
                cluster.set_clock(replica, 0)
            assert [await mint(cluster, 0) for _ in range(2)] == [0, 0]
            assert (await status_of(client, 0, digest=True))["application"]["minted"] == len(offsets) + 3

    run(scenario)
