"""Serving decisions from the log: whoever asks and does not read holds nobody else up, and nothing is read for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from kit.cluster import Cluster
from kit.patience import PATIENCE_SECONDS
from kit.requests import CHAIN, TestClient

from smartbft._fastpath.frames import MESSAGE, FrameReader
from smartbft.core.effects import ServeDecisions
from smartbft.core.inputs import DecisionsServed, Input
from smartbft.crypto.domains import Domains
from smartbft.errors import CorruptLog, StorageError
from smartbft.limits import MAX_MESSAGE_BYTES
from smartbft.messages import Decision, decode
from smartbft.runtime import serving
from smartbft.runtime.serving import DecisionServer

STUCK, READER = 1, 2
COUNT = 5


class Peers:
    """Channels of which one never takes what we wrote."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.served: list[Input] = []  # what the core is told
        self.arrived = asyncio.Semaphore(0)

    async def writable(self, peer: int) -> bool:
        if peer == STUCK:
            await asyncio.Event().wait()
        return True

    def send(self, to: int, frame: bytes) -> None:
        self.sent.append((to, frame))
        self.arrived.release()


class Log:
    """The records of a replica that has decided a few instances."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[int] = []
        self._error = error
        cluster, client = Cluster(), TestClient()
        for _ in range(COUNT):
            cluster.submit(client.requests(b"x"))
            cluster.run()
        self._records = [(r.kind, r.instance, b"".join(r.parts)) for r in cluster.nodes[0].log]

    def read(self, first: int, last: int) -> Iterator[tuple[int, int, bytes]]:
        self.asked.append(first)
        if self._error is not None:
            raise self._error
        return iter([record for record in self._records if first <= record[1] <= last])


def server(log: Log, peers: Peers, failures: list[BaseException]) -> DecisionServer:
    return DecisionServer(log, Domains(CHAIN), 0, lambda: 0, peers, peers.served.append, failures.append)  # type: ignore[arg-type]


def instances(frames: list[tuple[int, bytes]]) -> list[tuple[int, int]]:
    found = []
    for to, frame in frames:
        [(_, payload)] = FrameReader({MESSAGE: MAX_MESSAGE_BYTES}).feed(frame, 0)
        message = decode(payload)
        assert isinstance(message, Decision)
        found.append((to, message.instance))
    return found


async def check_one_reads_and_one_does_not() -> None:
    peers, log = Peers(), Log()
    serves = server(log, peers, [])
    for first in range(1, 1000):
        serves.serve(ServeDecisions(STUCK, first, first + 15))
    serves.serve(ServeDecisions(READER, 2, 4))
    serves.serve(ServeDecisions(READER, 2, 4))
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(3):
            await peers.arrived.acquire()
    assert instances(peers.sent) == [(READER, 2), (READER, 3), (READER, 4)]
    assert log.asked == [2, 3, 4]
    await serves.close()


def test_a_peer_that_does_not_read_holds_no_other_up() -> None:
    asyncio.run(check_one_reads_and_one_does_not())


def test_the_core_is_told_what_each_range_has_cost() -> None:
    """What is not sent costs nothing: a range that waits already, one too many, one of a peer that is gone."""

    async def scenario() -> None:
        peers = Peers()
        serves = server(Log(), peers, [])
        for first in range(1, 8):
            serves.serve(ServeDecisions(STUCK, first, first))
        dropped = [event.served.first for event in peers.served if isinstance(event, DecisionsServed)]
        assert dropped == [5, 6, 7]
        serves.serve(ServeDecisions(READER, 2, 3))
        serves.serve(ServeDecisions(READER, 2, 3))
        serves.serve(ServeDecisions(READER, COUNT + 1, COUNT + 1))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(peers.served) < 6:
                await asyncio.sleep(0)
        sent = sum(len(frame) for _, frame in peers.sent)
        assert peers.served[3:] == [
            DecisionsServed(ServeDecisions(READER, 2, 3), 0),
            DecisionsServed(ServeDecisions(READER, 2, 3), sent),
            DecisionsServed(ServeDecisions(READER, COUNT + 1, COUNT + 1), 0),
        ]
        await serves.close()

    asyncio.run(scenario())


def test_planted_bug_one_queue_for_all_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One peer that asks and does not read keeps every replica that is behind from ever catching up."""

    def serve(self: DecisionServer, effect: ServeDecisions) -> None:
        original(self, effect)
        for peer in (STUCK, READER):
            self._queues[peer] = self._queues[effect.to]

    original = DecisionServer.serve
    monkeypatch.setattr(DecisionServer, "serve", serve)
    monkeypatch.setattr(serving, "_MAX_QUEUED", 10_000)
    monkeypatch.setattr(asyncio, "timeout", lambda _, bounded=asyncio.timeout: bounded(0.2))
    with pytest.raises(TimeoutError):
        asyncio.run(check_one_reads_and_one_does_not())


@pytest.mark.parametrize("error", [CorruptLog("planted"), StorageError("planted"), OSError("planted")])
def test_a_log_that_cannot_be_read_ends_the_replica(error: Exception) -> None:
    async def scenario() -> None:
        failures: list[BaseException] = []
        serves = server(Log(error), Peers(), failures)
        serves.serve(ServeDecisions(READER, 1, 1))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not failures:
                await asyncio.sleep(0)
        assert failures == [error]
        await serves.close()

    asyncio.run(scenario())
