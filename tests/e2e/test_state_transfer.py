"""Replicas that lost their disk, on real processes: they come back by state transfer, whatever interrupts it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
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
# A state of several megabytes: its transfer and its checkpoints take long enough to be interrupted.
VALUES = 300
VALUE_BYTES = 32_000
REHEARSES = "of a snapshot begins"
LYING = Path(__file__).parent.parent / "kit" / "lying_seeder.py"

Fault = Callable[[ProcessCluster, AsyncClient, Load], Awaitable[None]]


class LyingCluster(ProcessCluster):
    """The liar changes a byte in every chunk that it sends."""

    def command(self, config: ReplicaConfig) -> list[str]:
        if config.replica != LIAR:
            return super().command(config)
        return [sys.executable, str(LYING), str(config.home)]


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


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again."""
    while not holds():
        await asyncio.sleep(0.002)


async def log_begins_after(client: AsyncClient, instance: int) -> None:
    """Wait until the log of replica 0 has lost its beginning."""
    while 0 not in client.connected:
        await asyncio.sleep(0.02)
    while (await client.status(0))["log_begins"] <= instance:
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
            await asyncio.gather(*(client.invoke(large(number), timeout=30) for number in range(values)))
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

    async def fault(cluster: ProcessCluster, client: AsyncClient, load: Load) -> None:
        await stop_and_wipe(cluster)
        for life in (1, 2):
            starting = asyncio.create_task(cluster.restart(VICTIM))
            await until(lambda life=life: told_by(network, VICTIM).count(REHEARSES) >= life)
            await cluster.kill(VICTIM)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            left.append(sorted(path.name for path in folder.iterdir()))
        await cluster.restart(VICTIM)

    run(lambda: under_load(network, writes(), fault, values=VALUES))
    assert left[0] == ["transfer.partial"], "no start may take it for a snapshot"
    assert told_by(network, VICTIM).count(REHEARSES) >= 3
    assert all(instance > INTERVAL for instance in decisions_of(network, VICTIM)), "it has fetched all decisions"
    assert not (folder / "transfer.partial").exists()


def test_a_transfer_survives_kill_9(tmp_path: Path) -> None:
    network = network_in(tmp_path, "key_value")
    partial = snapshots_of(network, VICTIM) / "transfer.partial"

    async def fault(cluster: ProcessCluster, client: AsyncClient, load: Load) -> None:
        await stop_and_wipe(cluster)
        for _ in range(2):
            starting = asyncio.create_task(cluster.restart(VICTIM))
            await until(partial.exists)
            await starting
            await cluster.kill(VICTIM)
        await cluster.restart(VICTIM)

    run(lambda: under_load(network, writes(), fault, values=VALUES))
    assert all(instance > INTERVAL for instance in decisions_of(network, VICTIM)), "it has fetched all decisions"
    assert not partial.exists()


def test_a_checkpoint_survives_kill_9(tmp_path: Path) -> None:
    network = network_in(tmp_path, "key_value")
    unfinished = snapshots_of(network, VICTIM) / "snapshot.tmp"
    interrupted = []

    async def fault(cluster: ProcessCluster, client: AsyncClient, load: Load) -> None:
        for _ in range(3):
            await until(unfinished.exists)
            await cluster.kill(VICTIM)
            interrupted.append(unfinished.exists())
            await cluster.restart(VICTIM)

    run(lambda: under_load(network, writes(), fault, values=VALUES))
    assert any(interrupted), "no kill has met an unfinished snapshot"
    verified = [verify_decisions(config.home) for config in network.replicas]
    assert all(verified[:VICTIM])


def test_a_sender_of_false_chunks_is_named_and_passed_over(tmp_path: Path) -> None:
    network = network_in(tmp_path, "key_value")

    async def fault(cluster: ProcessCluster, client: AsyncClient, load: Load) -> None:
        await stop_and_wipe(cluster)
        await cluster.restart(VICTIM)

    run(lambda: under_load(network, writes(), fault, LyingCluster, values=VALUES))
    told = told_by(network, VICTIM)
    assert f"replica {LIAR} broke the protocol: chunk" in told
    assert not any(f"replica {honest} broke the protocol" in told for honest in (0, 1))
    assert all(instance > INTERVAL for instance in decisions_of(network, VICTIM)), "it has fetched all decisions"
