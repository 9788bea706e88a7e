"""Work that may never come back: it leaves the loop alone, can be stopped, and the application is free afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kit.patience import until
from kit.requests import CHAIN

from smartbft import limits
from smartbft.core.effects import AbandonRehearsal, BeginRehearsal
from smartbft.core.inputs import Input, RehearsalFailed
from smartbft.errors import ApplicationFailed
from smartbft.runtime.executor import SliceExecutor, ThreadExecutor
from smartbft.runtime.rehearsals import RehearsalStage
from smartbft.smr.application import ExecutionContext, StateMachine
from smartbft.smr.per_operation import as_batch
from smartbft.storage import MemoryFiles, SnapshotStore, Trials

Run = Callable[[Callable[[], Awaitable[None]]], None]


class Careful(StateMachine):
    """Restores b"loop" for ever in Python, and b"stuck" for ever outside of it, until `released`."""

    def __init__(self) -> None:
        self.restored: list[bytes] = []
        self.began = threading.Event()
        self.released = threading.Event()

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return operation

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        self.began.set()
        while snapshot == b"loop" and not self.released.is_set():
            pass
        if snapshot == b"stuck":
            self.released.wait()
        if snapshot == b"refused":
            raise ValueError("no state of mine")
        if snapshot == b"exits":
            sys.exit(0)
        if snapshot == b"broken":
            raise OSError("no space left on device")
        self.restored.append(snapshot)


class World:
    """A rehearsal stage on an executor, and what both report."""

    def __init__(self, kind: Any, folder: Path | None = None) -> None:
        self.application = Careful()
        self.failures: list[BaseException] = []
        self.events: list[Input] = []
        self.executor = kind(as_batch(self.application), lambda *_: None, self.failures.append)
        self.trials = Trials(folder)
        store = SnapshotStore(MemoryFiles(), CHAIN)
        stage = RehearsalStage(
            store, self.executor, take=self.events.append, on_writer=lambda job: None, trials=self.trials
        )
        self.actions = stage.actions()

    def do(self, effect: Any) -> None:
        self.actions[type(effect)](effect)

    async def close(self) -> None:
        self.application.released.set()
        await self.executor.close()


@pytest.fixture(params=[ThreadExecutor, SliceExecutor])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_state_that_hangs_leaves_the_loop_alone_and_is_given_up(run: Run, kind: Any) -> None:
    async def scenario() -> None:
        world = World(kind)
        world.do(BeginRehearsal(1, b"loop", 2))
        world.do(BeginRehearsal(1, b"dropped", 2))
        await until(world.application.began.is_set)
        world.do(AbandonRehearsal(1, 2, "it hangs"))
        world.do(BeginRehearsal(2, b"fine", 3))
        await until(lambda: world.application.restored)
        assert world.application.restored == [b"fine"]
        assert world.failures == []
        await world.close()

    run(scenario)


def test_what_cannot_be_stopped_ends_the_replica(run: Run, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits outside Python, with the application in its hands."""
    monkeypatch.setattr(limits, "GIVING_UP_SECONDS", 0.0)

    async def scenario() -> None:
        world = World(kind)
        world.do(BeginRehearsal(1, b"stuck", 2))
        await until(world.application.began.is_set)
        world.do(AbandonRehearsal(1, 2, "it hangs"))
        world.do(BeginRehearsal(2, b"fine", 3))
        await until(lambda: world.failures)
        (failure,) = world.failures
        assert isinstance(failure, ApplicationFailed)
        assert "cannot be stopped" in str(failure)
        assert world.application.restored == []
        await world.close()

    run(scenario)


def test_closing_waits_for_nothing_that_hangs(run: Run, kind: Any) -> None:
    async def scenario() -> None:
        world = World(kind)
        world.do(BeginRehearsal(1, b"stuck", 2))
        await until(world.application.began.is_set)
        await world.executor.close()
        world.application.released.set()

    run(scenario)


def test_giving_up_what_is_over_harms_nothing(run: Run, kind: Any) -> None:
    async def scenario() -> None:
        world = World(kind)
        for number in range(20):
            world.do(BeginRehearsal(number, b"%d" % number, 2))
            if number % 2:
                await until(lambda number=number: b"%d" % number in world.application.restored)
            world.do(AbandonRehearsal(number, 2))
        world.do(BeginRehearsal(99, b"last", 2))
        await until(lambda: b"last" in world.application.restored)
        assert world.failures == []
        await world.close()

    run(scenario)


def test_only_a_state_that_is_none_convicts(run: Run, kind: Any) -> None:
    async def scenario() -> None:
        world = World(kind)
        world.do(BeginRehearsal(1, b"refused", 2))
        world.do(BeginRehearsal(2, b"broken", 3))
        world.do(BeginRehearsal(3, b"exits", 1))
        await until(lambda: len(world.events) == 3)
        refused, broken, exits = world.events
        assert isinstance(exits, RehearsalFailed)
        assert not exits.convicts
        assert world.failures == []
        assert isinstance(refused, RehearsalFailed)
        assert isinstance(broken, RehearsalFailed)
        assert (refused.convicts, broken.convicts) == (True, False)
        assert "no space left" in broken.reason
        await world.close()

    run(scenario)


def test_what_ends_the_process_again_and_again_is_remembered(run: Run, kind: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(kind, tmp_path)
        assert world.trials.read() is None
        for seeder, count in ((2, 1), (2, 2), (3, 1)):
            world.do(BeginRehearsal(1, b"fine", seeder))
            assert Trials(tmp_path).read() == (seeder, count)
        world.do(AbandonRehearsal(1, 3, "it hangs"))
        assert Trials(tmp_path).read() == (3, 2), "if it cannot be stopped, others come first at the next start"
        world.trials.end()
        assert Trials(tmp_path).read() is None
        await world.close()

    run(scenario)


@pytest.mark.parametrize("content", [b"", b"x y", b"1", b"1 2 3", b"-1 2", bytes(1000)])
def test_a_mark_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rehearsal.trial").write_bytes(content)
    assert Trials(tmp_path).read() is None
