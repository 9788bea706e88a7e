"""Replies and votes on real sockets wait for the log: with a log whose releases the test holds back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
from kit.patience import PATIENCE_SECONDS, reach

from smartbft import DurabilityLost, Indeterminate, LocalCluster
from smartbft.apps import counter
from smartbft.core.effects import Effect, Persist, Reply
from smartbft.core.records import DECISION, VALUE
from smartbft.limits import FRAME_HEADER_BYTES
from smartbft.messages import FetchStanding, Forward, Message, Progress, decode
from smartbft.runtime import assembly
from smartbft.runtime.driver import Driver
from smartbft.runtime.peers import PeerChannels
from smartbft.storage import ReplicaLog
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
# While a gate is shut nobody loses patience with the leader: suspicions are no votes.
PATIENT = Parameters(request_timeout=60_000_000)


class GatedLog(ReplicaLog):
    """Holds back every release from the first record of the gated kind on, while the gate is shut."""

    gated_kind = 0
    shut = False
    lost = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._first_held: int | None = None

    def append(self, records: Iterable[Any]) -> int:
        records = list(records)
        token = super().append(records)
        if self.shut and self._first_held is None and any(record.kind == self.gated_kind for record in records):
            self._first_held = token
        return token

    def released(self) -> int:
        if self.lost:
            raise DurabilityLost("planted: the disk is gone")
        done = super().released()
        if not self.shut or self._first_held is None:
            return done
        return min(done, self._first_held - 1)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> type[GatedLog]:
    class Gate(GatedLog):
        pass

    monkeypatch.setattr(assembly, "ReplicaLog", Gate)
    return Gate


async def reopen(gate: type[GatedLog], cluster: LocalCluster) -> None:
    """Open the gate, and have the drivers look at their logs again."""
    gate.shut = False
    for replica in cluster.replicas.values():
        assert replica._running()._driver is not None
        replica._running()._driver.log_ready()


class Asking:
    """Invocations in the background, which end with the block."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[bytes]] = []

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, invocation: Coroutine[Any, Any, bytes]) -> asyncio.Task[bytes]:
        self._tasks.append(asyncio.create_task(invocation))
        return self._tasks[-1]


async def assert_replies_wait(gate: type[GatedLog], folder: Path) -> None:
    """Every replica has executed the request, and no reply leaves before its DECISION record is released."""
    cluster = LocalCluster(4, counter.Counter, "sync", folder=folder, parameters=PATIENT)
    async with cluster, cluster.client() as client, Asking() as asking:
        await reach(client)
        gate.gated_kind, gate.shut = DECISION, True
        asked = asking.start(client.invoke(counter.add(1)))
        for replica in cluster.replicas.values():
            while (await replica.status())["executed"] < 1:
                await asyncio.sleep(0.01)
        # A status answer travels behind replies that were written before it: by now they would be here.
        for replica in cluster.replicas:
            await client.status(replica, timeout=PATIENCE_SECONDS)
        assert not asked.done(), "a reply left before its decision was durable"
        assert not any(pending.votes.replies for pending in client._pending.values()), "a reply left too early"
        await reopen(gate, cluster)
        assert counter.decode_value(await asked) == 1


async def assert_votes_wait(gate: type[GatedLog], folder: Path, said: list[Message]) -> None:
    """No PROPOSE and no WRITE leaves before its VALUE record is released."""
    gate.gated_kind, gate.shut = VALUE, True
    cluster = LocalCluster(4, counter.Counter, "sync", folder=folder, parameters=PATIENT)
    async with cluster, cluster.client() as client, Asking() as asking:
        asked = asking.start(client.invoke(counter.add(1)))
        leader = cluster.replicas[(await cluster.replicas[0].status())["leader"]]
        while (await leader.status())["log"]["records"] < 1:
            await asyncio.sleep(0.01)
        spoken = {type(message) for message in said}
        assert spoken <= {Progress, Forward, FetchStanding}, f"{spoken} left before the VALUE record was durable"
        await reopen(gate, cluster)
        assert counter.decode_value(await asked) == 1


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Every message that any replica has broadcast."""
    messages: list[Message] = []
    broadcast = PeerChannels.broadcast

    def listening(self: PeerChannels, frame: bytes) -> None:
        messages.append(decode(frame[FRAME_HEADER_BYTES:]))
        broadcast(self, frame)

    monkeypatch.setattr(PeerChannels, "broadcast", listening)
    return messages


def test_replies_wait_for_the_decision_record(run: Run, gate: type[GatedLog], tmp_path: Path) -> None:
    run(lambda: assert_replies_wait(gate, tmp_path))


def test_proposals_wait_for_the_value_record(
    run: Run, gate: type[GatedLog], said: list[Message], tmp_path: Path
) -> None:
    run(lambda: assert_votes_wait(gate, tmp_path, said))


def test_a_driver_that_replies_before_the_token_is_noticed(
    run: Run, gate: type[GatedLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hasty(self: Driver, effect: Reply) -> None:
        self._pool.release(effect.digests, effect.data)

    monkeypatch.setattr(Driver, "_reply", hasty)
    with pytest.raises(AssertionError, match=r"left (before|too early)"):
        run(lambda: assert_replies_wait(gate, tmp_path))


def test_a_driver_that_speaks_before_the_log_is_noticed(
    run: Run, gate: type[GatedLog], said: list[Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = Driver._carry_out

    def hasty(self: Driver, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                carry_out(self, list(effect.then))
        carry_out(self, effects)

    monkeypatch.setattr(Driver, "_carry_out", hasty)
    with pytest.raises(AssertionError, match="before the VALUE record was durable"):
        run(lambda: assert_votes_wait(gate, tmp_path, said))


def test_a_lost_disk_ends_the_replica_and_acknowledges_nothing(run: Run, gate: type[GatedLog], tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path)
        async with cluster, cluster.client() as client:
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1
            gate.lost = True
            with pytest.raises(Indeterminate):
                await client.invoke(counter.add(1), timeout=0.3)
            with pytest.raises(DurabilityLost, match="planted"):
                await cluster.replicas[1].wait()

    run(scenario)
