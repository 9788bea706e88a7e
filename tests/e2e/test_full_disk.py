"""A replica process whose disk is full: it refuses or stops, the others go on, and it comes back when there is room.

The disk is full by a limit on the size of files, which needs no privileges: new log segments cannot be made.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from kit.patience import PATIENCE_SECONDS, status_of
from kit.processes import QUICK, Load, assert_level, client_of, run

from smartbft import AsyncClient
from smartbft.apps import key_value
from smartbft.cli.exit_codes import ExitCode
from smartbft.config import ReplicaConfig
from smartbft.limits import MAX_REQUEST_BYTES
from smartbft.measurement.processes import ProcessCluster
from smartbft.measurement.status import ask_all
from smartbft.storage import SNAPSHOT_FOLDER
from smartbft.testnet import create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEGMENT = 80 * 1024
SMALL = replace(QUICK, max_batch_requests=64, max_batch_bytes=4 + MAX_REQUEST_BYTES)


def fill_disk(cluster: ProcessCluster, replica: int) -> None:
    """From now on the process cannot make a file as large as a segment."""
    psutil.Process(cluster.process(replica).pid).rlimit(resource.RLIMIT_FSIZE, (SEGMENT - 4096, SEGMENT - 4096))


async def refuses_or_stops(cluster: ProcessCluster, client: AsyncClient, replica: int, load: Load) -> None:
    """Under load, until the replica says that its disk is full, or has ended because of it."""
    process = cluster.process(replica)
    while process.process.returncode is None:
        await load.more(10)
        facts = await ask_all(client)  # it may end while it is asked
        if replica in facts and "disk" in facts[replica]["waiting_for"]:
            return
    await process.process.wait()
    assert process.process.returncode == ExitCode.STORAGE
    assert "segment" in process.problem()


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_one_full_disk_stops_nobody_else(tmp_path: Path, who: str) -> None:
    async def scenario() -> None:
        network = create_testnet(
            tmp_path / "net",
            4,
            application="key_value",
            transport="plain",
            parameters=SMALL,
            segment_bytes=SEGMENT,
            log_level="warning",
        )
        load = Load(lambda number: key_value.put(b"key %d" % number, bytes(1000)))
        cluster = ProcessCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                async with load.running(client):
                    await load.more(50)
                    leader = (await status_of(client, 0))["leader"]
                    full = leader if who == "leader" else (leader + 1) % 4
                    fill_disk(cluster, full)
                    await refuses_or_stops(cluster, client, full, load)
                    await load.more(200)  # much more than its last segment holds
                    await cluster.kill(full)
                    await cluster.restart(full)  # without the limit: there is room again
                    await load.more(20)
                numbers = sorted(load.acknowledged)
                for start in range(0, len(numbers), 50):
                    reads = [key_value.get(b"key %d" % number) for number in numbers[start : start + 50]]
                    found = await asyncio.gather(*(client.invoke(read, PATIENCE_SECONDS) for read in reads))
                    assert all(key_value.decode_value(result) == bytes(1000) for result in found)
                await assert_level(client, 4)
        finally:
            await cluster.stop()

    run(scenario)


ROOM = 2 * 1024 * 1024
VICTIM = 3
VALUES = 200
LIMITED = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (%d, %d)); os.execv(sys.argv[1], sys.argv[1:])"
)


class FullCluster(ProcessCluster):
    """While its disk is full, the victim cannot write a file as large as a snapshot."""

    full = False

    def command(self, config: ReplicaConfig) -> list[str]:
        command = super().command(config)
        if config.replica != VICTIM or not self.full:
            return command
        return [sys.executable, "-c", LIMITED % (ROOM, ROOM), *command]


def test_a_full_disk_while_a_snapshot_arrives_loses_nothing_that_arrived(tmp_path: Path) -> None:
    async def scenario() -> None:
        parameters = replace(QUICK, checkpoint_interval=8, max_batch_requests=4, max_batch_bytes=200_000)
        network = create_testnet(
            tmp_path / "net",
            4,
            application="key_value",
            transport="plain",
            parameters=parameters,
            segment_bytes=512 * 1024,
            log_level="warning",
        )
        partial = network.replicas[VICTIM].data_folder / SNAPSHOT_FOLDER / "transfer.partial"
        cluster = FullCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                writes = (key_value.put(b"key %d" % number, bytes(32_000)) for number in range(VALUES))
                await asyncio.gather(*(client.invoke(write, PATIENCE_SECONDS) for write in writes))
                for replica in range(VICTIM):  # nobody has the decisions from the first one on
                    while (await status_of(client, replica))["log_begins"] <= 16:
                        await client.invoke(key_value.put(b"more", b""), PATIENCE_SECONDS)
                await cluster.kill(VICTIM)
                cluster.wipe(VICTIM)
                cluster.full = True
                await cluster.restart(VICTIM)
                process = cluster.process(VICTIM)
                await process.process.wait()
                assert process.process.returncode == ExitCode.STORAGE
                assert str(partial) in process.problem(), "which file"
                assert "make room for the state and start the replica again" in process.problem()
                with partial.open("rb") as before:  # held open, so that no other file gets its number
                    arrived = os.fstat(before.fileno())
                    assert arrived.st_size <= ROOM
                    cluster.full = False
                    await cluster.restart(VICTIM)
                    await assert_level(client, 4)
                    found = [path.stat().st_ino for path in partial.parent.glob("snapshot-*.bin")]
                    assert arrived.st_ino in found, "the transfer began again"
        finally:
            await cluster.stop()

    run(scenario)


def test_planted_bug_what_had_arrived_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restart = FullCluster.restart

    async def forgetful(self: FullCluster, replica: int) -> None:
        for path in self.network.replicas[replica].data_folder.glob("snapshots/transfer.partial"):
            path.unlink()
        await restart(self, replica)

    monkeypatch.setattr(FullCluster, "restart", forgetful)
    with pytest.raises(AssertionError, match="began again"):
        test_a_full_disk_while_a_snapshot_arrives_loses_nothing_that_arrived(tmp_path)
