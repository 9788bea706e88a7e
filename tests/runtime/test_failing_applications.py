"""Applications that fail or are slow on running replicas: `LocalCluster` ends with their error, the log names them."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from kit.patience import PATIENCE_SECONDS, until

from smartbft import ApplicationFailed, BatchStateMachine, LocalCluster, join_results, split_requests
from smartbft.apps import counter
from smartbft.core.delivery import what_is_wrong
from smartbft.runtime import local
from smartbft.smr.application import ExecutionContext
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
QUICK = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=50_000)


class Poisoned(counter.Counter):
    """Does not survive the number 13."""

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if operation == counter.add(13):
            raise KeyError("a bug")
        return super().execute(operation, context)


class Exits(counter.Counter):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        sys.exit(0)


class NoBytes(counter.Counter):
    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return "text"  # type: ignore[return-value]


class NoSnapshot(counter.Counter):
    def snapshot(self) -> bytes:
        raise KeyError("a bug")


class Batches(BatchStateMachine):
    """Answers with what its subclasses make of it."""

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        return join_results([b"\0" for _ in split_requests(data)])

    def check_batch(self, data: bytes) -> bytes:
        return b"\1" * len(split_requests(data))

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


class TooFew(Batches):
    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        return b""


class Nothing(Batches):
    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        return None  # type: ignore[return-value]


class Raises(Batches):
    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        raise KeyError("a bug")


class RaisesNatively(Raises):
    native = True


class RendersText(Batches):
    def capture(self) -> Any:
        return lambda: "text"


FAILING = [Exits, NoBytes, NoSnapshot, TooFew, Nothing, Raises, RaisesNatively, RendersText]


@pytest.mark.parametrize("application", FAILING, ids=lambda kind: kind.__name__)
def test_pending_calls_and_the_block_end_with_the_applications_error(run: Run, application: Any) -> None:
    calls: list[asyncio.Task[bytes]] = []

    async def use() -> None:
        parameters = replace(QUICK, checkpoint_interval=1)
        async with LocalCluster(4, application, parameters=parameters) as cluster, cluster.client() as client:
            calls.append(asyncio.create_task(client.invoke(counter.add(1), timeout=PATIENCE_SECONDS)))
            calls.extend(asyncio.create_task(client.invoke(counter.add(1), PATIENCE_SECONDS)) for _ in range(200))
            await asyncio.Event().wait()

    async def scenario() -> None:
        with pytest.raises(ApplicationFailed, match="the application"):
            await use()
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert any(isinstance(outcome, ApplicationFailed) for outcome in ended)
        assert all(isinstance(outcome, bytes | ApplicationFailed) for outcome in ended)

    run(scenario)


def test_the_body_hears_the_error_from_its_own_call_first(run: Run) -> None:
    async def use() -> None:
        async with LocalCluster(4, Poisoned, parameters=QUICK) as cluster, cluster.client() as client:
            await client.invoke(counter.add(1))
            with pytest.raises(ApplicationFailed):
                await client.invoke(counter.add(13), timeout=PATIENCE_SECONDS)
            with pytest.raises(ApplicationFailed):
                await client.invoke(counter.add(1))
            with pytest.raises(ApplicationFailed):
                cluster.client()

    async def scenario() -> None:
        with pytest.raises(ApplicationFailed, match="request 0 of instance 2"):
            await use()

    run(scenario)


@pytest.mark.parametrize("application", [Exits, TooFew, RaisesNatively], ids=lambda kind: kind.__name__)
def test_every_replica_meets_the_operation(run: Run, application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """None stops so quickly that another lacks its vote, and waits for a quorum instead."""
    monkeypatch.setattr(local, "_LAST_WORDS_SECONDS", PATIENCE_SECONDS)
    ends: list[Any] = []

    async def use() -> None:
        async with LocalCluster(4, application, parameters=QUICK) as cluster, cluster.client() as client:
            with pytest.raises(ApplicationFailed):
                await client.invoke(counter.add(1), timeout=PATIENCE_SECONDS)
            waiting = [replica.wait() for replica in cluster.replicas.values()]
            ends.extend(await asyncio.gather(*waiting, return_exceptions=True))

    async def scenario() -> None:
        with pytest.raises(ApplicationFailed):
            await use()
        assert [type(end) for end in ends] == [ApplicationFailed] * 4

    run(scenario)


def test_up_to_f_that_fail_end_nothing(run: Run) -> None:
    kinds: Iterator[type[counter.Counter]] = iter([Poisoned] + [counter.Counter] * 3)

    async def scenario() -> None:
        cluster = LocalCluster(4, lambda: next(kinds)(), parameters=QUICK)
        async with cluster, cluster.client() as client:
            await client.invoke(counter.add(13), timeout=PATIENCE_SECONDS)
            with pytest.raises(ApplicationFailed):
                await cluster.replicas[0].wait()
            assert counter.decode_value(await client.invoke(counter.add(1), timeout=PATIENCE_SECONDS)) == 14

    run(scenario)


def test_a_slow_operation_is_named_by_each_replica(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    quick = replace(QUICK, request_timeout=50_000, resend_interval=20_000)

    class Slow(counter.Counter):
        def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
            time.sleep(0.03)
            return super().execute(operation, context)

    def named() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        return [line for line in lines if f"operation 0x{counter.add(13).hex()}" in line]

    async def scenario() -> None:
        async with LocalCluster(4, Slow, parameters=quick) as cluster, cluster.client() as client:
            await client.invoke(counter.add(13), timeout=PATIENCE_SECONDS)
            await until(lambda: len(named()) >= 4)
            assert all("of instance 1" in line for line in named())

    run(scenario)


@pytest.mark.parametrize(
    ("results", "requests", "wrong"),
    [
        (join_results([b"a", b""]), 2, ""),
        (b"", 0, ""),
        (b"", 1, "0 results for 1"),
        (join_results([b"a"] * 3), 2, "3 results for 2"),
        (join_results([b"abc"])[:-1], 1, "breaks off"),
        (b"\1\0", 1, "breaks off"),
    ],
)
def test_what_is_wrong_with_results(results: bytes, requests: int, wrong: str) -> None:
    found = what_is_wrong(results, requests)
    assert wrong in found
    assert bool(wrong) == bool(found)
