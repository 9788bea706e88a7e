"""Replicas that lost their disk, on real processes: they come back by state transfer, whatever interrupts it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit import stands_still
from kit.patience import PATIENCE_SECONDS, status_of, until
from kit.processes import QUICK, Load, additions, assert_counted, assert_level, client_of, run

from smartbft import AsyncClient
from smartbft.apps import key_value
from smartbft.cli.log import verify_decisions
from smartbft.config import ReplicaConfig
from smartbft.core.records import DECISION
from smartbft.measurement.processes import ProcessCluster
from smartbft.storage.reading import read_records
from smartbft.testnet import Testnet, create_testnet
from smartbft.types import SEQUENTIAL, TOGETHER

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

INTERVAL = 8
VICTIM = 3
LIAR = 2
# A state of several megabytes, in many chunks.
VALUES = 300
VALUE_BYTES = 32_000
REHEARSES = "of a snapshot begins"
LYING = Path(__file__).parent.parent / "kit" / "lying_seeder.py"
HONEST = (0, 1)

Fault = Callable[[Any, AsyncClient, Load], Awaitable[None]]


class LyingCluster(ProcessCluster):
    """The liar changes a byte in every chunk that it sends."""

    def command(self, config: ReplicaConfig) -> list[str]:
        if config.replica != LIAR:
            return super().command(config)
        return [sys.executable, str(LYING), str(config.home)]


class StandingCluster(ProcessCluster):
    """While `moment` is set, lives of the victim that begin then come to a standstill there."""

    moment = ""

    def command(self, config: ReplicaConfig) -> list[str]:
        if config.replica != VICTIM or not self.moment:
            return super().command(config)
        return [sys.executable, str(stands_still.__file__), str(config.home), self.moment]

    async def kill_at(self, moment: str) -> None:
        """Start the victim, which does not run, and kill it in the middle of that."""
        self.moment = moment
        before = self.process(VICTIM)
        starting = asyncio.create_task(self.restart(VICTIM))
        await until(lambda: self.process(VICTIM) is not before)
        life = psutil.Process(self.process(VICTIM).pid)
        await until(lambda: life.status() == psutil.STATUS_STOPPED)
        await self.kill(VICTIM)
        starting.cancel()  # it may never have become ready
        await asyncio.gather(starting, return_exceptions=True)
        self.moment = ""


def network_in(folder: Path, application: str = "counter", schedule: str = TOGETHER) -> Testnet:
    """Checkpoints all the time, and a log whose segments fill up quickly."""
    parameters = replace(
        QUICK,
        checkpoint_interval=INTERVAL,
        checkpoint_schedule=schedule,
        max_batch_requests=4,
        max_batch_bytes=200_000,
    )
    return create_testnet(
        folder / "net",
        4,
        application=application,
        persistence="sync",
        transport="plain",
        parameters=parameters,
        segment_bytes=512 * 1024,
    )


async def log_begins_after(client: AsyncClient, instance: int) -> None:
    """Wait until all logs have lost their beginning: whoever comes back gets it from nobody."""
    for replica in range(4):
        while (await status_of(client, replica))["log_begins"] <= instance:
            await asyncio.sleep(0.02)


async def stop_and_wipe(cluster: ProcessCluster) -> None:
    """The victim dies and loses its data."""
    await cluster.kill(VICTIM)
    cluster.wipe(VICTIM)


def snapshots_of(network: Testnet, replica: int) -> Path:
    """The folder of a replica's snapshots."""
    return network.replicas[replica].data_folder / "snapshots"


def told_by(network: Testnet, replica: int) -> str:
    """The messages of a replica's process so far."""
    path = network.replicas[replica].home / "run" / "replica.log"
    return path.read_text() if path.exists() else ""


def decisions_of(network: Testnet, replica: int) -> list[int]:
    """The instances whose decisions are in a stopped replica's log."""
    config = network.replicas[replica]
    records = read_records(config.data_folder, network.genesis.chain_id, replica)
    return [instance for kind, instance, _ in records if kind == DECISION]


async def under_load(
    network: Testnet, load: Load, fault: Fault, kind: type[ProcessCluster] = ProcessCluster, values: int = 0
) -> None:
    """Run a fault under load; afterwards everybody is level, and stops cleanly."""
    cluster = kind(network)
    try:
        await cluster.start()
        async with client_of(network) as client:
            await asyncio.gather(*(client.invoke(large(number), PATIENCE_SECONDS) for number in range(values)))
            running = asyncio.create_task(load.run(client))
            await log_begins_after(client, 2 * INTERVAL)
            await fault(cluster, client, load)
            await load.more(20)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await assert_level(client, 4)
            if not values:
                await assert_counted(client, load)
    finally:
        codes = await cluster.stop()
    assert codes == dict.fromkeys(range(4), 0)


def large(number: int) -> bytes:
    """A write that makes the state larger."""
    return key_value.put(b"large %d" % number, b"%d" % number * (VALUE_BYTES // len(b"%d" % number)))


def writes() -> Load:
    """Small writes beside the large ones."""
    return Load(lambda number: key_value.put(b"key %d" % (number % 100), b"value %d" % number))


@pytest.mark.parametrize("schedule", [TOGETHER, SEQUENTIAL])
def test_a_wiped_replica_comes_back_by_state_transfer(tmp_path: Path, schedule: str) -> None:
    network = network_in(tmp_path, schedule=schedule)

    async def fault(cluster: ProcessCluster, client: AsyncClient, load: Load) -> None:
        await stop_and_wipe(cluster)
        await cluster.restart(VICTIM)

    run(lambda: under_load(network, additions(), fault))
    assert all(instance > INTERVAL for instance in decisions_of(network, VICTIM)), "it has fetched all decisions"
    assert (REHEARSES in told_by(network, VICTIM)) == (schedule == SEQUENTIAL)
    assert not any(f"replica {honest} broke the protocol" in told_by(network, VICTIM) for honest in (0, 1, 2))
    verified = [verify_decisions(config.home) for config in network.replicas]
    assert all(verified[:VICTIM])


def test_a_rehearsal_survives_kill_9(tmp_path: Path) -> None:
    network = network_in(tmp_path, "key_value", SEQUENTIAL)
    folder = snapshots_of(network, VICTIM)
    left: list[list[str]] = []

    async def fault(cluster: StandingCluster, client: AsyncClient, load: Load) -> None:
        await stop_and_wipe(cluster)
        for life in (1, 2):
            await cluster.kill_at(stands_still.REHEARSAL)
            assert told_by(network, VICTIM).count(REHEARSES) == life
            left.append(sorted(path.name for path in folder.iterdir()))
        await cluster.restart(VICTIM)

    run(lambda: under_load(network, writes(), fault, StandingCluster, values=VALUES))
    assert left[0] == ["transfer.partial"], "no start may take it for a snapshot"
    assert told_by(network, VICTIM).count(REHEARSES) >= 3
    assert all(instance > INTERVAL for instance in decisions_of(network, VICTIM)), "it has fetched all decisions"
    assert not (folder / "transfer.partial").exists()


def test_a_transfer_survives_kill_9(tmp_path: Path) -> None:
    network = network_in(tmp_path, "key_value")
    partial = snapshots_of(network, VICTIM) / "transfer.partial"

    async def fault(cluster: StandingCluster, client: AsyncClient, load: Load) -> None:
        await stop_and_wipe(cluster)
        for _ in range(2):
            await cluster.kill_at(stands_still.TRANSFER)
            assert partial.exists()
        await cluster.restart(VICTIM)

    run(lambda: under_load(network, writes(), fault, StandingCluster, values=VALUES))
    assert all(instance > INTERVAL for instance in decisions_of(network, VICTIM)), "it has fetched all decisions"
    assert not partial.exists()


def test_a_checkpoint_survives_kill_9(tmp_path: Path) -> None:
    network = network_in(tmp_path, "key_value")
    unfinished = snapshots_of(network, VICTIM) / "snapshot.tmp"

    async def fault(cluster: StandingCluster, client: AsyncClient, load: Load) -> None:
        await cluster.kill(VICTIM)
        for _ in range(3):
            await cluster.kill_at(stands_still.CHECKPOINT)
            assert unfinished.exists()
        await cluster.restart(VICTIM)

    run(lambda: under_load(network, writes(), fault, StandingCluster, values=VALUES))
    verified = [verify_decisions(config.home) for config in network.replicas]
    assert all(verified[:VICTIM])


def test_a_sender_of_false_chunks_is_named_and_passed_over(tmp_path: Path) -> None:
    network = network_in(tmp_path, "key_value")

    async def fault(cluster: ProcessCluster, client: AsyncClient, load: Load) -> None:
        await stop_and_wipe(cluster)
        cluster.freeze(HONEST[1])  # so that the liar is one of the two who have what the victim needs
        await cluster.restart(VICTIM)
        await until(lambda: "broke the protocol: chunk" in told_by(network, VICTIM))
        cluster.thaw(HONEST[1])

    run(lambda: under_load(network, writes(), fault, LyingCluster, values=VALUES))
    told = told_by(network, VICTIM)
    assert f"replica {LIAR} broke the protocol: chunk" in told
    assert not any(f"replica {honest} broke the protocol" in told for honest in HONEST)
    assert all(instance > INTERVAL for instance in decisions_of(network, VICTIM)), "it has fetched all decisions"
