"""Slow applications are named in the log: once, with the time and the operation; also one that never returns."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.requests import TestClient

from smartbft.core.effects import Execute
from smartbft.runtime import application_watch as module
from smartbft.runtime.application_watch import ApplicationWatch
from smartbft.runtime.executor import SliceExecutor, ThreadExecutor
from smartbft.smr.application import ExecutionContext, StateMachine
from smartbft.smr.per_operation import as_batch

Run = Callable[[Callable[[], Awaitable[None]]], None]
HALF = 1.0
NEVER_LOOKS = 3600.0


class Clock:
    """A clock that only operations move."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Slow(StateMachine):
    """An operation says how many tenths of a second it takes."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.clock.now += int(operation) / 10
        return b""

    def snapshot(self) -> bytes:
        self.clock.now += 30
        return b""

    def restore(self, snapshot: bytes) -> None:
        self.clock.now += 30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("smartbft.runtime.executor.time.perf_counter", made.perf_counter)
    monkeypatch.setattr(module, "_SHORTEST_LOOK_SECONDS", NEVER_LOOKS)
    return made


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def execute(
    kind: Any, clock: Clock, *batches: tuple[bytes, ...], snapshot: bool = False, restore: bool = False
) -> None:
    async def scenario() -> None:
        failures: list[BaseException] = []
        runner = kind(as_batch(Slow(clock)), lambda *_: None, failures.append, ApplicationWatch(HALF))
        if restore:
            runner.restore(b"", 4)
        for instance, operations in enumerate(batches, 5):
            runner.execute(Execute(instance, instance, bytes(32), TestClient(1).requests(*operations)))
        if snapshot:
            runner.ask(lambda application, _: application.snapshot(), lambda _: None)
        over = asyncio.Event()
        runner.ask(lambda *_: True, lambda _: over.set())
        await over.wait()
        await runner.close()
        assert failures == []

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [SliceExecutor, ThreadExecutor])
def test_a_slow_operation_is_named_once(kind: Any, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    execute(kind, clock, (b"1", b"12"), (b"12",), (b"15",))
    (line,) = told(caplog)
    assert "the application is slow" in line
    assert "1.2 s" in line or kind is ThreadExecutor
    assert f"operation 0x{b'12'.hex()} (2 bytes) of instance 5" in line


def test_one_that_is_much_slower_is_named_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    execute(SliceExecutor, clock, (b"12",), (b"90",))
    assert ["1.2 s" in told(caplog)[0], "9 s" in told(caplog)[1], len(told(caplog))] == [True, True, 2]


def test_many_operations_that_are_slow_together_are_named(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    execute(SliceExecutor, clock, (b"4", b"4", b"4"))
    (line,) = told(caplog)
    assert "the batch of instance 5 took 1.2 s" in line


@pytest.mark.parametrize("kind", [SliceExecutor, ThreadExecutor])
@pytest.mark.parametrize("what", ["snapshot", "restore"])
def test_so_are_other_calls(kind: Any, what: str, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    execute(kind, clock, (b"1",), **{what: True})
    (line,) = told(caplog)
    assert what in line
    assert "30 s" in line


def test_what_is_quick_enough_is_not(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    execute(SliceExecutor, clock, (b"9",), (b"1", b"8"))
    assert told(caplog) == []


def test_one_that_does_not_return_is_named_while_it_runs(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """On the loop nothing else could say it. The line of code where it is stands with it."""
    named = threading.Event()

    class Watched(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has not returned" in record.getMessage():
                named.set()

    class Stuck(Slow):
        def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
            named.wait()  # stuck here
            return b""

    handler = Watched()
    module.logger.addHandler(handler)

    async def scenario() -> None:
        done = asyncio.Event()
        watch = ApplicationWatch(0.01)
        runner = SliceExecutor(as_batch(Stuck(Clock())), lambda *_: done.set(), lambda _: None, watch)
        runner.execute(Execute(7, 7, bytes(32), TestClient(1).requests(b"stuck")))
        await done.wait()
        await runner.close()

    try:
        run(scenario)
    finally:
        module.logger.removeHandler(handler)
    (line,) = told(caplog)
    assert f"operation 0x{b'stuck'.hex()} (5 bytes) of instance 7" in line
    assert "threading.py" in line
