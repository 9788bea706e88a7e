"""Executors: instance order, slices, questions between batches, failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.requests import TestClient

from smartbft._fastpath.pool import split_requests
from smartbft.core.effects import Execute
from smartbft.errors import ApplicationFailed
from smartbft.runtime import executor as module
from smartbft.runtime.executor import SliceExecutor, ThreadExecutor
from smartbft.smr.application import BatchStateMachine, ExecutionContext, StateMachine
from smartbft.smr.per_operation import as_batch

Run = Callable[[Callable[[], Awaitable[None]]], None]


class Journal(StateMachine):
    """Remembers operations, with the instance and thread that executed each."""

    def __init__(self) -> None:
        self.operations: list[tuple[int, bytes, str]] = []

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if operation == b"bug":
            raise KeyError("a bug of the application")
        self.operations.append((context.instance, operation, threading.current_thread().name))
        return b"%d" % len(self.operations)

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


class WholeBatches(BatchStateMachine):
    """The same, by batch."""

    def __init__(self) -> None:
        self.inner = as_batch(Journal())

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        return self.inner.execute_batch(data, context)

    def check_batch(self, data: bytes) -> bytes:
        return self.inner.check_batch(data)

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


def batch(instance: int, *operations: bytes) -> Execute:
    return Execute(instance, 1000 + instance, bytes(32), TestClient(1).requests(*operations))


class World:
    """What the executors report."""

    def __init__(self) -> None:
        self.executed: list[tuple[int, bytes]] = []
        self.failures: list[BaseException] = []
        self.news = asyncio.Event()

    def done(self, instance: int, results: bytes) -> None:
        self.executed.append((instance, results))
        self.news.set()

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()


MAKERS: list[Any] = [
    lambda world: ThreadExecutor(WholeBatches(), world.done, world.failed),
    lambda world: SliceExecutor(as_batch(Journal()), world.done, world.failed),
    lambda world: SliceExecutor(WholeBatches(), world.done, world.failed),
]


@pytest.mark.parametrize("make", MAKERS)
def test_batches_are_executed_in_order_with_questions_between_them(run: Run, make: Any) -> None:
    async def scenario() -> None:
        world = World()
        runner = make(world)
        answers: list[int] = []
        for instance in range(1, 6):
            runner.execute(batch(instance, *(b"op %d" % number for number in range(instance))))
            runner.ask(lambda application, last: last, answers.append)
        await world.until(lambda: len(world.executed) == 5)
        runner.ask(lambda application, last: last, lambda last: (answers.append(last), world.news.set()))
        await world.until(lambda: len(answers) == 6)
        assert [instance for instance, _ in world.executed] == [1, 2, 3, 4, 5]
        assert answers == [1, 2, 3, 4, 5, 5]
        # The last batch's results count on from the 10 operations before it: `code 0 | number`, with their lengths.
        assert world.executed[-1][1] == b"".join(b"\3\0\0\0\0%d" % (11 + number) for number in range(5))
        await runner.close()

    run(scenario)


@pytest.mark.parametrize("make", MAKERS)
def test_a_bug_of_the_application_is_reported_and_nothing_more_is_executed(run: Run, make: Any) -> None:
    async def scenario() -> None:
        world = World()
        runner = make(world)
        runner.execute(batch(1, b"fine", b"bug"))
        runner.execute(batch(2, b"never"))
        await world.until(lambda: bool(world.failures))
        runner.execute(batch(3, b"never either"))
        for _ in range(10):
            await asyncio.sleep(0)
        (error,) = world.failures
        assert isinstance(error, ApplicationFailed)
        assert isinstance(error.__cause__, KeyError)
        assert error.operation == b"bug"
        assert not world.executed
        await runner.close()

    run(scenario)


def test_native_applications_run_beside_the_loop_and_python_ones_on_it(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        beside, on_it = WholeBatches(), Journal()
        executors = [
            ThreadExecutor(beside, world.done, world.failed),
            SliceExecutor(as_batch(on_it), world.done, world.failed),
        ]
        for runner in executors:
            runner.execute(batch(1, b"x"))
        await world.until(lambda: len(world.executed) == 2)
        assert beside.inner.machine.operations[0][2] == "execute"  # type: ignore[attr-defined]
        assert on_it.operations[0][2] == threading.current_thread().name
        for runner in executors:
            await runner.close()

    run(scenario)


def test_a_long_batch_gives_way_to_others_after_each_slice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that advances a millisecond per look, a slice is two or three operations."""
    clock = iter(range(10**6))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock) / 1000)

    async def scenario() -> None:
        world = World()
        application = Journal()
        runner = SliceExecutor(as_batch(application), world.done, world.failed)
        operations = batch(1, *(b"%d" % number for number in range(20)))
        assert len(split_requests(operations.data)) == 20
        runner.execute(operations)
        progress = []
        while not world.executed:
            await asyncio.sleep(0)
            progress.append(len(application.operations))
        steps = [after - before for before, after in zip([0, *progress], progress, strict=False)]
        assert 1 < max(steps) <= 3
        await runner.close()

    run(scenario)


def test_closing_drops_what_waits(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        runner = SliceExecutor(as_batch(Journal()), world.done, world.failed)
        runner.execute(batch(1, b"x"))
        await runner.close()
        await asyncio.sleep(0)
        assert not world.executed

    run(scenario)
