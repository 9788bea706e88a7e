"""Runs the application on decided batches, in instance order, one at a time.

Native applications release the GIL and run on a thread of their own. Applications in Python would hold the loop up:
they run on the loop in slices of at most two milliseconds, so that votes and replies are never far away.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from smartbft._fastpath.pool import join_results
from smartbft.core.effects import Execute
from smartbft.smr.application import BatchStateMachine, ExecutionContext, execute_decided
from smartbft.smr.per_operation import PerOperation

SLICE_SECONDS = 0.002

# A job is a batch or a question to the application; it is done when its callback has been called on the loop.
_Done = Callable[[Any], None]


class ThreadExecutor:
    """Executes on one thread beside the loop.

    Args:
        application: its `execute_batch` releases the GIL.
        executed: called on the loop with instance and results.
        failed: called on the loop with what the application raised.
    """

    def __init__(
        self,
        application: BatchStateMachine,
        executed: Callable[[int, bytes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._application = application
        self._executed = executed
        self._failed = failed
        self._last = 0
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], _Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="execute", daemon=True)
        self._thread.start()

    def execute(self, batch: Execute) -> None:
        """Queue a batch."""
        self._jobs.put((lambda: self._run(batch), lambda results: self._executed(batch.instance, results)))

    def ask(self, question: Callable[[BatchStateMachine, int], Any], done: _Done) -> None:
        """Call `question` with the application and the last executed instance, between two batches, and `done` with the
        answer on the loop.
        """
        self._jobs.put((lambda: question(self._application, self._last), done))

    def restore(self, state: bytes, instance: int) -> None:
        """Replace the application's state by that after `instance`, in turn with the batches."""
        self._jobs.put((lambda: self._restore(state, instance), lambda _: None))

    async def close(self) -> None:
        """Finish the job that runs, drop the others."""
        while not self._jobs.empty():
            self._jobs.get()
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _restore(self, state: bytes, instance: int) -> None:
        self._application.restore(state)
        self._last = instance

    def _run(self, batch: Execute) -> bytes:
        context = ExecutionContext(batch.instance, batch.timestamp, batch.seed)
        results = execute_decided(self._application, batch.data, context)
        self._last = batch.instance
        return results

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, done = job
            try:
                answer = call()
            except BaseException as error:
                self._post(self._failed, error)
                return
            self._post(done, answer)

    def _post(self, callback: Callable[[Any], None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, argument)
        except RuntimeError:  # the loop is closed: nobody waits for this any more
            return


class SliceExecutor:
    """Executes on the loop, a few operations at a time (arguments as in `ThreadExecutor`)."""

    def __init__(
        self,
        application: BatchStateMachine,
        executed: Callable[[int, bytes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._application = application
        self._executed = executed
        self._failed = failed
        self._last = 0
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[tuple[Iterator[Any], _Done]] = deque()
        self._scheduled = False
        self._closed = False

    def execute(self, batch: Execute) -> None:
        """Queue a batch."""
        self._put(self._batch(batch), lambda results: self._executed(batch.instance, results))

    def ask(self, question: Callable[[BatchStateMachine, int], Any], done: _Done) -> None:
        """As `ThreadExecutor.ask`."""
        self._put(self._one(question), done)

    def restore(self, state: bytes, instance: int) -> None:
        """As `ThreadExecutor.restore`."""
        self._put(self._restoring(state, instance), lambda _: None)

    async def close(self) -> None:
        """Stop after the slice that runs."""
        self._closed = True
        self._jobs.clear()

    def _batch(self, batch: Execute) -> Iterator[Any]:
        """Steps of a batch: nothing between two operations, at last the result list."""
        context = ExecutionContext(batch.instance, batch.timestamp, batch.seed)
        if isinstance(self._application, PerOperation):
            results = []
            for result in self._application.slices(batch.data, context):
                results.append(result)
                yield None
            answer = join_results(results)
        else:
            answer = execute_decided(self._application, batch.data, context)
        self._last = batch.instance
        yield answer

    def _one(self, question: Callable[[BatchStateMachine, int], Any]) -> Iterator[Any]:
        yield question(self._application, self._last)

    def _restoring(self, state: bytes, instance: int) -> Iterator[Any]:
        self._application.restore(state)
        self._last = instance
        yield instance

    def _put(self, steps: Iterator[Any], done: _Done) -> None:
        self._jobs.append((steps, done))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._jobs:
            self._scheduled = True
            self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        """Work until the slice is over; the last value of a job's steps is its answer."""
        self._scheduled = False
        if self._closed or not self._jobs:
            return
        end = time.perf_counter() + SLICE_SECONDS
        steps, done = self._jobs[0]
        try:
            for answer in steps:
                if answer is not None:
                    self._jobs.popleft()
                    done(answer)
                    break
                if time.perf_counter() >= end:
                    break
        except Exception as error:
            self._failed(error)
            return
        self._schedule()
