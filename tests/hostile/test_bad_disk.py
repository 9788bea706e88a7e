"""Bad disks under a whole cluster: full, failing, damaged, in use. What was acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from kit.patience import PATIENCE_SECONDS, reach, until

from smartbft import (
    AsyncClient,
    CorruptLog,
    DurabilityLost,
    Indeterminate,
    LocalCluster,
    Overloaded,
    Replica,
    StorageError,
)
from smartbft.apps import counter, key_value
from smartbft.limits import MAX_REQUEST_BYTES
from smartbft.runtime import assembly
from smartbft.storage import ReplicaLog
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
Faults = Callable[[int, list[tuple[str, int, str]]], None]

SEGMENT = 80 * 1024
# Batches that fit into such segments.
SMALL = Parameters(max_batch_requests=64, max_batch_bytes=4 + MAX_REQUEST_BYTES)
QUICK = replace(SMALL, request_timeout=400_000, resend_interval=50_000, progress_interval=50_000)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Gives the logs of replicas that are started from now on a fault plan; an empty one for a good disk."""
    plans: dict[int, list[tuple[str, int, str]]] = {}

    def opened(folder: Path, chain_id: bytes, replica: int, **settings: object) -> ReplicaLog:
        return partial(ReplicaLog, folder, chain_id, replica, **settings)(fault_plan=plans.get(replica, []))

    monkeypatch.setattr(assembly, "ReplicaLog", opened)
    return plans.__setitem__


def key(number: int) -> bytes:
    return b"key %d" % number


async def put(client: AsyncClient, number: int, seconds: float = PATIENCE_SECONDS) -> None:
    result = await client.invoke(key_value.put(key(number), bytes(1000)), seconds)
    assert key_value.decode_value(result) is None


async def assert_all_there(client: AsyncClient, numbers: Iterable[int]) -> None:
    """Every acknowledged value is there."""
    for number in numbers:
        assert key_value.decode_value(await client.invoke(key_value.get(key(number)))) == bytes(1000)


async def fill(client: AsyncClient) -> list[int]:
    """Put until replicas refuse; returns the numbers that were acknowledged."""
    acknowledged = []
    for number in itertools.count():
        try:
            await put(client, number, 1.0)
            acknowledged.append(number)
        except Overloaded:
            break
        except Indeterminate as error:
            # Where some refuse and others do not, nobody knows; where nobody does, it was slow.
            if "OVERLOADED" in str(error):
                break
    return acknowledged


async def restart_with_good_disks(cluster: LocalCluster, faults: Faults) -> None:
    for replica in range(4):
        await cluster.stop(replica)
        faults(replica, [])
    for replica in range(4):
        await cluster.start(replica)


def test_a_disk_that_fills_up_refuses_in_time_and_loses_nothing(run: Run, faults: Faults, tmp_path: Path) -> None:
    """No disk has room for a third segment: clients are told, nobody stops, and all goes on once there is room."""

    async def scenario() -> None:
        for replica in range(4):
            faults(replica, [("allocate+", 4, "ENOSPC")])
        cluster = LocalCluster(
            4, key_value.KeyValueStore, "sync", folder=tmp_path, segment_bytes=SEGMENT, parameters=SMALL
        )
        async with cluster:
            async with cluster.client() as client:
                acknowledged = await fill(client)
                assert len(acknowledged) > 20, "the first segments were used"
                assert len(cluster.replicas) == 4
            await restart_with_good_disks(cluster, faults)
            async with cluster.client() as client:
                await assert_all_there(client, acknowledged)
                await put(client, 1_000_000)

    run(scenario)


def test_clients_are_told_that_all_disks_are_full(run: Run, faults: Faults, tmp_path: Path) -> None:
    """There is room for the first segment only: new requests are refused, and the client says by whom. It does not say
    that nothing happened: a leader that lies about its room might have the request ordered.
    """

    async def scenario() -> None:
        for replica in range(4):
            faults(replica, [("allocate+", 2, "ENOSPC")])
        cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path, segment_bytes=SEGMENT, parameters=QUICK)
        async with cluster, cluster.client() as client:
            await reach(client)
            said = ""
            while not all(f"replica {replica} OVERLOADED" in said for replica in range(4)):
                try:
                    await client.invoke(counter.add(1), 1.0)
                except Indeterminate as error:  # at first not all of them have noticed
                    said = str(error)
            for replica in cluster.replicas.values():
                assert (await replica.status())["pool"]["refused"] > 0

    run(scenario)


def test_one_full_disk_stops_nobody_else(run: Run, faults: Faults, tmp_path: Path) -> None:
    async def scenario() -> None:
        faults(3, [("allocate+", 3, "ENOSPC")])
        cluster = LocalCluster(
            4, key_value.KeyValueStore, "sync", folder=tmp_path, segment_bytes=SEGMENT, parameters=QUICK
        )
        async with cluster, cluster.client() as client:
            # Far beyond what the two segments of replica 3 take.
            for number in range(80):
                await put(client, number)
            await assert_all_there(client, range(80))

    run(scenario)


@pytest.mark.parametrize(("call", "fault"), [("write", "EIO"), ("write", "ENOSPC"), ("sync", "EIO")])
def test_a_disk_that_fails_stops_its_replica_and_nobody_else(
    run: Run, faults: Faults, tmp_path: Path, call: str, fault: str
) -> None:
    async def scenario() -> None:
        faults(0, [(call + "+", 25, fault)])
        cluster = LocalCluster(4, key_value.KeyValueStore, "sync", folder=tmp_path, parameters=QUICK)
        async with cluster:
            async with cluster.client() as client:
                number = 0
                ended = asyncio.create_task(cluster.replicas[0].wait())
                while not ended.done():
                    await put(client, number)
                    number += 1
                with pytest.raises(DurabilityLost):
                    await ended
                for more in range(number, number + 10):
                    await put(client, more)
                number += 10
            await restart_with_good_disks(cluster, faults)
            async with cluster.client() as client:
                await assert_all_there(client, range(number))

    run(scenario)


def test_a_log_that_is_damaged_in_the_middle_is_named_and_its_replica_does_not_start(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(
            4, key_value.KeyValueStore, "sync", folder=tmp_path, segment_bytes=SEGMENT, parameters=QUICK
        )
        async with cluster, cluster.client() as client:
            for number in range(60):
                await put(client, number)
            await cluster.stop(2)
            damaged = min((tmp_path / "replica-2" / "data").glob("segment-*"))
            content = bytearray(damaged.read_bytes())
            content[SEGMENT // 2] ^= 0x10
            damaged.write_bytes(content)
            with pytest.raises(CorruptLog) as caught:
                await cluster.start(2)
            assert caught.value.segment == damaged.name
            assert SEGMENT // 2 - 3000 < caught.value.offset <= SEGMENT // 2
            assert damaged.name in str(caught.value)
            assert damaged.read_bytes() == bytes(content), "nothing is cut or repaired"
            for number in range(60, 70):
                await put(client, number)
            await assert_all_there(client, range(70))

    run(scenario)


def test_a_replica_whose_newest_segment_reads_as_zeros_does_not_start(run: Run, tmp_path: Path) -> None:
    """Its newest votes were in there: as if it had never cast them, it would vote again."""

    async def scenario() -> None:
        cluster = LocalCluster(
            4, key_value.KeyValueStore, "sync", folder=tmp_path, segment_bytes=SEGMENT, parameters=QUICK
        )
        async with cluster, cluster.client() as client:
            for number in range(60):
                await put(client, number)
            data = tmp_path / "replica-2" / "data"
            await until(lambda: not any(max(data.glob("segment-*.log")).read_bytes()))  # the next one is prepared
            await cluster.stop(2)
            *_, newest, prepared = sorted(data.glob("segment-*.log"))
            assert any(newest.read_bytes())
            assert not any(prepared.read_bytes())
            newest.write_bytes(bytes(SEGMENT))
            with pytest.raises(CorruptLog, match="nothing but zeros") as caught:
                await cluster.start(2)
            assert caught.value.segment == newest.name
            await put(client, 60)
            await assert_all_there(client, range(61))

    run(scenario)


def test_a_data_folder_in_use_is_refused_and_its_owner_goes_on(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter, "sync", folder=tmp_path) as cluster, cluster.client() as client:
            running = cluster.replicas[1]
            second = Replica(running.config, counter.Counter(), genesis=cluster.genesis, secrets=cluster._secrets[1])
            with pytest.raises(StorageError, match="in use"):
                await second.start()
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1

    run(scenario)
