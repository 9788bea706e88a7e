"""A replica whose data folder is gone gets a new consensus key, and the cluster can count on its vote again."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from smartbft import LocalCluster
from smartbft.apps import counter
from smartbft.core.effects import MakeConsensusKey
from smartbft.core.inputs import ConsensusKeyMade
from smartbft.core.taking_part import LOST_VOTES, NO_KEY
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ConfigError
from smartbft.runtime.new_key import KeyDesk
from smartbft.storage import ConsensusKeys, Lives
from smartbft.storage.lives import VOTES_LOST
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
QUICK = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=50_000)


def is_marked(home: Path) -> bool:
    """Whether the record of votes counts as lost."""
    return (home / VOTES_LOST).exists()


async def votes(cluster: LocalCluster, replica: int, home: Path) -> None:
    """Wait until a replica takes part again, and its record counts as intact."""
    while True:
        status = await cluster.replicas[replica].status()
        if status["takes_part"] and not status["learns"] and not is_marked(home):
            return
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("persistence", ["memory", "sync"])
def test_it_votes_again_and_another_one_may_die(run: Run, tmp_path: Path, persistence: Any) -> None:
    home = tmp_path / "replica-0"

    async def scenario() -> None:
        async with (
            LocalCluster(4, counter.Counter, persistence, folder=tmp_path, parameters=QUICK) as cluster,
            cluster.client(retransmit=0.2) as client,
        ):
            await client.invoke(counter.add(1))
            await cluster.stop(0)
            shutil.rmtree(home / "data")
            await cluster.start(0)
            assert (await cluster.replicas[0].status())["learns"] == LOST_VOTES
            await votes(cluster, 0, home)
            await cluster.stop(3)
            for _ in range(3):
                await client.invoke(counter.add(1))
            assert counter.decode_value(await client.invoke(counter.read())) == 4
            if persistence == "sync":
                await cluster.stop(0)
                await cluster.start(0)
                assert not (await cluster.replicas[0].status())["learns"], "its log is an intact record"
                await client.invoke(counter.add(1))

    run(scenario)


def test_without_the_key_file_it_needs_another_key(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "replica-0"

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter, "sync", folder=tmp_path, parameters=QUICK) as cluster:
            for lost in (LOST_VOTES, NO_KEY):
                await cluster.stop(0)
                if lost == LOST_VOTES:
                    shutil.rmtree(home / "data")
                else:
                    next((home / "data").glob("*.key")).unlink()
                await cluster.start(0)
                assert (await cluster.replicas[0].status())["learns"] == lost
                await votes(cluster, 0, home)

    run(scenario)


def test_key_files(tmp_path: Path) -> None:
    keys = ConsensusKeys(tmp_path / "data")
    assert keys.load() == []
    first = keys.make()
    (file,) = (tmp_path / "data").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert [signer.public_key for signer in keys.load()] == [first.public_key]
    second = keys.make()
    assert [signer.public_key for signer in keys.load()] == [second.public_key], "the old one lost its votes"
    (file,) = (tmp_path / "data").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert keys.load() == [], "a damaged file counts as missing"


def test_a_folder_that_takes_no_key(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ConfigError, match="data"):
        ConsensusKeys(tmp_path / "data").make()


def test_a_disk_that_fills_up_leaves_no_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as planted:
        planted.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            ConsensusKeys(tmp_path / "data").make()
    assert list((tmp_path / "data").iterdir()) == []
    ConsensusKeys(tmp_path / "data").make()


class FullAtFirst(ConsensusKeys):
    """A folder that takes the third key."""

    attempts = 0

    def make(self) -> Ed25519Signer:
        self.attempts += 1
        if self.attempts < 3:
            raise ConfigError("No space left on device")
        return super().make()


def test_a_key_is_made_when_there_is_room_for_it(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        made: list[ConsensusKeyMade] = []
        keys = FullAtFirst(tmp_path / "data")
        desk = KeyDesk(keys, Lives(tmp_path, tmp_path / "data", tmp_path / "run"), made.append, again=0.0)
        desk.make(MakeConsensusKey())
        while not made:
            await asyncio.sleep(0)
        assert (keys.attempts, len(keys.load())) == (3, 1)
        assert caplog.text.count("only learns for now") == 1
        await desk.close()

    run(scenario)


def test_closing_does_not_wait_for_room(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        keys = FullAtFirst(tmp_path / "data")
        desk = KeyDesk(keys, Lives(tmp_path, tmp_path / "data", tmp_path / "run"), lambda made: None, again=3600.0)
        desk.make(MakeConsensusKey())
        while not keys.attempts:
            await asyncio.sleep(0)
        await desk.close()
        assert keys.attempts == 1

    run(scenario)
