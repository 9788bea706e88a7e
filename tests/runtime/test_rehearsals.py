"""Rehearsals on a running replica: whatever the application makes of a state on trial, the replica goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kit.requests import CHAIN, TestClient

from smartbft._fastpath.pool import join_requests
from smartbft.core.effects import BeginRehearsal, Execute, KeepSnapshot, RehearseBatch, RehearseSnapshot, TakeSnapshot
from smartbft.core.inputs import BatchRehearsed, Input, RehearsalFailed, SnapshotKept, SnapshotRehearsed
from smartbft.errors import LocalProtocolError
from smartbft.runtime.executor import SliceExecutor, ThreadExecutor
from smartbft.runtime.rehearsals import RehearsalStage
from smartbft.smr.application import ExecutionContext, StateMachine
from smartbft.smr.per_operation import as_batch
from smartbft.storage import MemoryFiles, SnapshotStore

BATCH = Execute(8, 1_000, bytes(32), join_requests([TestClient().request(b"x")]))


class Touchy(StateMachine):
    """Refuses the state b"refused", breaks on b"breaks", and cannot be captured in b"stuck"."""

    def __init__(self) -> None:
        self.state = b"fine"

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if self.state == b"breaks":
            raise ZeroDivisionError("what a state")
        return operation

    def snapshot(self) -> bytes:
        if self.state == b"stuck":
            raise KeyError("nothing")
        return self.state

    def restore(self, snapshot: bytes) -> None:
        if snapshot == b"refused":
            raise ValueError("no state of ours")
        self.state = snapshot


class Bound(Touchy):
    """What it has belongs to the thread that it was restored on first, as a connection of sqlite3 does."""

    threads: list[str] = []

    def restore(self, snapshot: bytes) -> None:
        self.threads.append(threading.current_thread().name)
        if threading.current_thread().name == "rehearse":
            raise RuntimeError("made in another thread")
        super().restore(snapshot)

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        assert threading.current_thread().name != "rehearse"
        return super().execute(operation, context)

    def snapshot(self) -> bytes:
        assert threading.current_thread().name != "rehearse"
        return super().snapshot()


class Sessions:
    """A captured table."""

    def export(self) -> bytes:
        return bytes(4)


class LostSessions:
    def export(self) -> bytes:
        raise LocalProtocolError("another table was installed meanwhile")


def take(sessions: Any) -> TakeSnapshot:
    return TakeSnapshot(0, 8, 1_000, bytes(32), b"core", sessions, b"proof", ())


def rehearse(kind: Any, *effects: Any, application: Any = Touchy) -> tuple[list[Input], SnapshotStore]:
    """What the core is told when it asks for this; an error of the application would end the replica."""
    events: list[Input] = []

    async def scenario() -> SnapshotStore:
        def fail(error: BaseException) -> None:
            raise AssertionError(error)

        executor = kind(as_batch(application()), lambda *_: None, fail)
        store = SnapshotStore(MemoryFiles(), CHAIN)
        loop = asyncio.get_running_loop()
        jobs: list[asyncio.Future[Any]] = []
        with ThreadPoolExecutor(1) as thread:

            def on_writer(job: Callable[[], Input | None]) -> None:
                jobs.append(loop.run_in_executor(thread, job))

            stage = RehearsalStage(store, executor, take=events.append, on_writer=on_writer)
            for effect in effects:
                stage.actions()[type(effect)](effect)
            asked = asyncio.Event()
            executor.ask(lambda *_: True, lambda _: asked.set())
            await asked.wait()
            events.extend([event for event in await asyncio.gather(*jobs) if event is not None])
            await executor.close()
        return store

    return events, asyncio.run(scenario())


@pytest.fixture(params=[ThreadExecutor, SliceExecutor])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_rehearsal_executes_and_describes(kind: Any) -> None:
    events, store = rehearse(
        kind, BeginRehearsal(3, b"other"), RehearseBatch(3, BATCH), RehearseSnapshot(3, take(Sessions()))
    )
    executed, rehearsed = events
    assert isinstance(executed, BatchRehearsed)
    assert isinstance(rehearsed, SnapshotRehearsed)
    assert executed.rehearsal == rehearsed.rehearsal == 3
    assert rehearsed.snapshot.state == b"other"
    assert rehearsed.manifest == store.describe(rehearsed.snapshot, b"proof")
    assert store.names() == [], "nothing is written"


def test_what_came_out_of_it_is_kept_on_demand(kind: Any) -> None:
    (rehearsed,), _ = rehearse(kind, RehearseSnapshot(1, take(Sessions())))
    assert isinstance(rehearsed, SnapshotRehearsed)
    (kept,), store = rehearse(kind, KeepSnapshot(rehearsed.manifest, rehearsed.snapshot))
    assert kept == SnapshotKept(rehearsed.manifest, rehearsed.snapshot)
    assert store.manifest(8, rehearsed.manifest.digest) == rehearsed.manifest


def test_what_works_on_its_own_thread_only_rehearses_there(kind: Any) -> None:
    Bound.threads.clear()
    steps = (RehearseBatch(3, BATCH), RehearseSnapshot(3, take(Sessions())))
    events, _ = rehearse(
        kind, BeginRehearsal(3, b"other"), *steps, BeginRehearsal(4, b"breaks"), *steps, application=Bound
    )
    assert [type(event) for event in events[:2]] == [BatchRehearsed, RehearsalFailed]
    assert all(not isinstance(event, RehearsalFailed) or "cannot execute" in event.reason for event in events)
    assert [name == "rehearse" for name in Bound.threads] == [True, False, False], "it is tried aside once"


@pytest.mark.parametrize(
    ("effects", "why"),
    [
        ((BeginRehearsal(3, b"refused"),), "refuses it: no state of ours"),
        (
            (BeginRehearsal(3, b"breaks"), RehearseBatch(3, BATCH)),
            "cannot execute instance 8 on it: the application failed at",
        ),
        ((BeginRehearsal(3, b"stuck"), RehearseSnapshot(3, take(Sessions()))), "cannot capture what became of it"),
        ((RehearseSnapshot(3, take(LostSessions())),), "it becomes no snapshot: another table"),
    ],
    ids=["restore", "execute", "capture", "sessions"],
)
def test_errors_end_the_rehearsal_and_not_the_replica(kind: Any, effects: tuple[Any, ...], why: str) -> None:
    (failed,), _ = rehearse(kind, *effects)
    assert isinstance(failed, RehearsalFailed)
    assert failed.rehearsal == 3
    assert why in failed.reason
