"""Serving snapshots: whoever asks and does not read holds nobody else up, and fills no memory."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from kit.patience import PATIENCE_SECONDS

from smartbft.core.effects import ServeSnapshot
from smartbft.limits import MAX_TRANSFER_QUEUE
from smartbft.runtime.snapshots import SnapshotKeeper

DIGEST = bytes(32)
STUCK, READER = 1, 2


class Peers:
    """Channels of which one never takes what we wrote."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.arrived = asyncio.Event()

    async def writable(self, peer: int) -> bool:
        if peer == STUCK:
            await asyncio.Event().wait()
        return True

    def send(self, to: int, frame: bytes) -> None:
        self.sent.append(to)
        self.arrived.set()


class Store:
    """One snapshot of many chunks."""

    def __init__(self) -> None:
        self.loaded = 0

    def manifest(self, instance: int, digest: bytes) -> object:
        return SimpleNamespace(instance=instance)

    def chunk(self, instance: int, digest: bytes, index: int) -> bytes:
        self.loaded += 1
        return b"chunk"


def keeper(store: Store, peers: Peers) -> SnapshotKeeper:
    def unused(*arguments: object) -> None:
        raise AssertionError(arguments)

    return SnapshotKeeper(
        store,  # type: ignore[arg-type]
        view=0,
        regency=lambda: 0,
        application=unused,  # type: ignore[arg-type]
        peers=peers,
        forget=unused,  # type: ignore[arg-type]
        take=unused,
        installed=unused,
        failed=unused,
    )


def test_a_peer_that_does_not_read_holds_no_other_up() -> None:
    async def scenario() -> None:
        peers, store = Peers(), Store()
        snapshots = keeper(store, peers)
        serve = snapshots.actions()[ServeSnapshot]
        for index in range(2 * MAX_TRANSFER_QUEUE):
            serve(ServeSnapshot(STUCK, 7, DIGEST, index))
        serve(ServeSnapshot(READER, 7, DIGEST, 0))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await peers.arrived.wait()
        assert peers.sent == [READER]
        assert store.loaded == 1  # nothing is read for somebody who does not take it
        await snapshots.close()

    asyncio.run(scenario())
