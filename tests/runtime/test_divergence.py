"""An application that is not deterministic, on running replicas: each of them says so, in its log and its status."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from smartbft import LocalCluster, StateDiverged
from smartbft.apps import counter
from smartbft.cli.status import _diverged, _look
from smartbft.config import ClientProfile
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
EVERY_TWO = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=50_000, checkpoint_interval=2)


class Personal(counter.Counter):
    """Answers like a counter; its snapshot depends on whose it is."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.name = name

    def snapshot(self) -> bytes:
        return super().snapshot() + self.name


def personal(names: bytes | bytearray) -> Callable[[], Personal]:
    """Makes one application for each letter."""
    made = itertools.count()
    return lambda: Personal(bytes([names[next(made) % len(names)]]))


def loud(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    found = [record for record in caplog.records if record.levelno == level]
    return [record.getMessage() for record in found if "after instance" in record.getMessage()]


def test_states_that_differ_on_all_replicas_are_told_by_each(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, personal(b"abcd"), "sync", folder=tmp_path, parameters=EVERY_TWO)
        async with cluster, cluster.client() as client:
            for _ in range(3):
                await client.invoke(counter.add(1))
            while not all([await certain(cluster, replica) for replica in range(4)]):
                await asyncio.sleep(0.01)
            status = await cluster.replicas[2].status()
            assert "agreement on a checkpoint" in status["waiting_for"]
            assert "run 'smartbft check-application'" in status["waiting_for"]
            profile = ClientProfile(tmp_path / "client.toml", cluster.genesis, "plain", "sync", {})
            answers = await _look(client, 60.0)
            assert "say that correct replicas have different states" in _diverged(profile, answers)
            assert len(loud(caplog, logging.CRITICAL)) == 4, "one line from each"
            await client.invoke(counter.add(1))

    run(scenario)


async def certain(cluster: LocalCluster, replica: int) -> bool:
    found: Any = (await cluster.replicas[replica].status())["divergence"]
    return found is not None and bool(found["certain"])


def forget_snapshots(folder: Path) -> None:
    for snapshot in folder.glob("replica-*/data/snapshots/snapshot-*.bin"):
        snapshot.unlink()


def test_corrected_code_on_all_replicas_executes_the_log_again(run: Run, tmp_path: Path) -> None:
    """As the operations guide says."""

    async def scenario() -> None:
        names = bytearray(b"abcd")
        cluster = LocalCluster(4, personal(names), "sync", folder=tmp_path, parameters=EVERY_TWO)
        async with cluster, cluster.client(retransmit=0.1) as client:
            for _ in range(3):
                await client.invoke(counter.add(1))
            while not all([await certain(cluster, replica) for replica in range(4)]):
                await asyncio.sleep(0.01)
            for replica in range(4):
                await cluster.stop(replica)
            names[:] = b"aaaa"
            await asyncio.to_thread(forget_snapshots, tmp_path)
            for replica in range(4):
                await cluster.start(replica)
            assert counter.decode_value(await client.invoke(counter.add(1))) == 4
            while (await cluster.replicas[0].status())["checkpoint"] < 6:
                await client.invoke(counter.add(1))
            assert (await cluster.replicas[0].status())["divergence"] is None

    run(scenario)


def test_one_that_differs_stops_and_the_others_warn(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, personal(b"aaab"), "sync", folder=tmp_path, parameters=EVERY_TWO)
        async with cluster, cluster.client() as client:
            for _ in range(3):
                await client.invoke(counter.add(1))
            with pytest.raises(StateDiverged, match="check-application"):
                await cluster.replicas[3].wait()
            await client.invoke(counter.add(1))
            assert not any([await certain(cluster, replica) for replica in range(3)])

    run(scenario)
