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
from dataclasses import dataclass
from typing import Any

from smartbft._fastpath.pool import join_results
from smartbft.core.effects import Execute
from smartbft.errors import POISON_ADVICE, ApplicationFailed
from smartbft.runtime.application_watch import ApplicationWatch
from smartbft.smr.application import (
    BatchStateMachine,
    ExecutionContext,
    execute_decided,
    name_operation,
)
from smartbft.smr.per_operation import PerOperation

SLICE_SECONDS = 0.002

# A job is a batch or a question to the application; it is done when its callback has been called on the loop.
_Done = Callable[[Any], None]
_Question = Callable[[BatchStateMachine, int], Any]


@dataclass(slots=True)
class _Job:
    """Something that the application has to do.

    Attributes:
        steps: nothing, again and again, where others may have their turn; at last the answer, which is not None.
        done: called with the answer.
        what: names it.
        instance: that is executed; 0: none.
        seconds: how long it has taken so far.
    """

    steps: Iterator[Any]
    done: _Done
    what: Callable[[], str]
    instance: int = 0
    seconds: float = 0.0
    apart: bool = False  # on a thread of its own, while the jobs after it wait


class _Jobs:
    """Makes the jobs of an executor.

    Attributes:
        application: it.
        last: the instance that its state is of.
    """

    def __init__(self, application: BatchStateMachine) -> None:
        self.application = application
        self.last = 0

    def batch(self, batch: Execute, done: Callable[[int, bytes], None]) -> _Job:
        """Execute a batch."""

        def what() -> str:
            if isinstance(self.application, PerOperation):
                return f"operation {name_operation(self.application.operation)} of instance {batch.instance}"
            return f"the batch of instance {batch.instance}, {len(batch.data)} bytes of requests,"

        return _Job(self._execute(batch), lambda results: done(batch.instance, results), what, batch.instance)

    def question(self, question: _Question, done: _Done) -> _Job:
        """Ask something between two batches."""

        def ask() -> Iterator[Any]:
            yield question(self.application, self.last)

        return _Job(ask(), done, lambda: f"a snapshot or digest after instance {self.last}")

    def restoration(self, state: bytes, instance: int) -> _Job:
        """Replace the state."""

        def restore() -> Iterator[Any]:
            self.application.restore(state)
            self.last = instance
            yield instance

        return _Job(restore(), lambda _: None, lambda: f"'restore' of the snapshot after instance {instance}")

    def _execute(self, batch: Execute) -> Iterator[Any]:
        context = ExecutionContext(batch.instance, batch.timestamp, batch.seed)
        if isinstance(self.application, PerOperation):
            results = []
            for result in self.application.slices(batch.data, context):
                results.append(result)
                yield None
            answer = join_results(results)
        else:
            answer = execute_decided(self.application, batch.data, context)
            if not isinstance(answer, bytes):
                raise ApplicationFailed(
                    f"the application returned {type(answer).__name__}, not bytes, for the batch of instance "
                    f"{batch.instance}: {POISON_ADVICE}",
                    batch.instance,
                )
        self.last = batch.instance
        yield answer


def _failure(error: BaseException, job: _Job) -> ApplicationFailed:
    """What an application raised, as the error that ends the replica."""
    if isinstance(error, ApplicationFailed):
        return error
    advice = POISON_ADVICE if job.instance else "correct it on all replicas, and start this one again"
    failure = ApplicationFailed(f"the application failed at {job.what()}: {error!r}: {advice}", job.instance)
    failure.__cause__ = error
    return failure


class ThreadExecutor:
    """Executes on one thread beside the loop.

    Args:
        application: its `execute_batch` releases the GIL.
        executed: called on the loop with instance and results.
        failed: called on the loop with ApplicationFailed.
        watch: names slow calls; None: nobody does.
    """

    def __init__(
        self,
        application: BatchStateMachine,
        executed: Callable[[int, bytes], None],
        failed: Callable[[BaseException], None],
        watch: ApplicationWatch | None = None,
    ) -> None:
        self._make = _Jobs(application)
        self._executed = executed
        self._failed = failed
        self._watch = watch or ApplicationWatch()
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="execute", daemon=True)
        self._thread.start()

    def execute(self, batch: Execute) -> None:
        """Queue a batch."""
        self._jobs.put(self._make.batch(batch, self._executed))

    def ask(self, question: _Question, done: _Done) -> None:
        """Call `question` with the application and the last executed instance, between two batches, and `done` with the
        answer on the loop.
        """
        self._jobs.put(self._make.question(question, done))

    def ask_apart(self, question: _Question, done: _Done) -> None:
        """As `ask`, for a question that takes longer than the loop may be held up. It raises nothing."""
        self.ask(question, done)

    def restore(self, state: bytes, instance: int) -> None:
        """Replace the application's state by that after `instance`, in turn with the batches."""
        self._jobs.put(self._make.restoration(state, instance))

    async def close(self) -> None:
        """Finish the job that runs, drop the others."""
        while not self._jobs.empty():
            self._jobs.get()
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        await self._loop.run_in_executor(None, self._watch.close)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._watch.began(job.what)
            try:
                answer = next(step for step in job.steps if step is not None)
            except BaseException as error:
                self._post(self._failed, _failure(error, job))
                return
            finally:
                self._watch.ended()
            self._post(job.done, answer)

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
        watch: ApplicationWatch | None = None,
    ) -> None:
        self._make = _Jobs(application)
        self._executed = executed
        self._failed = failed
        self._watch = watch or ApplicationWatch()
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job] = deque()
        self._scheduled = False
        self._closed = False
        self._waits = False  # for a job that runs apart

    def execute(self, batch: Execute) -> None:
        """Queue a batch."""
        self._put(self._make.batch(batch, self._executed))

    def ask(self, question: _Question, done: _Done) -> None:
        """As `ThreadExecutor.ask`."""
        self._put(self._make.question(question, done))

    def ask_apart(self, question: _Question, done: _Done) -> None:
        """As `ThreadExecutor.ask_apart`: on a thread of its own, while the batches after it wait."""
        job = self._make.question(question, done)
        job.apart = True
        self._put(job)

    def restore(self, state: bytes, instance: int) -> None:
        """As `ThreadExecutor.restore`."""
        self._put(self._make.restoration(state, instance))

    async def close(self) -> None:
        """Stop after the slice that runs."""
        self._closed = True
        self._jobs.clear()
        await self._loop.run_in_executor(None, self._watch.close)

    def _put(self, job: _Job) -> None:
        self._jobs.append(job)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._jobs and not self._waits:
            self._scheduled = True
            self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        """Work until the slice is over; the last value of a job's steps is its answer."""
        self._scheduled = False
        if self._closed or not self._jobs:
            return
        job = self._jobs[0]
        if job.apart:
            self._waits = True
            threading.Thread(target=self._work_apart, args=(job,), name="execute", daemon=True).start()
            return
        try:
            answer = self._advance(job)
        except KeyboardInterrupt:  # somebody wants the program to end
            raise
        except BaseException as error:
            self._closed = True  # its state is not known any more
            self._failed(_failure(error, job))
            return
        self._answered(job, answer)

    def _work_apart(self, job: _Job) -> None:
        answer = next(job.steps)
        try:
            self._loop.call_soon_threadsafe(self._came_back, job, answer)
        except RuntimeError:  # the loop is closed: nobody waits for this any more
            return

    def _came_back(self, job: _Job, answer: Any) -> None:
        self._waits = False
        if not self._closed:
            self._answered(job, answer)

    def _answered(self, job: _Job, answer: Any) -> None:
        """A job has its answer, or none yet: go on."""
        if answer is not None:
            self._jobs.popleft()
            if job.instance:
                self._watch.took(job.seconds, lambda: f"the batch of instance {job.instance}")
            try:
                job.done(answer)
            except Exception as error:
                self._failed(error)
                return
        self._schedule()

    def _advance(self, job: _Job) -> Any:
        """Have a job go on for the time of a slice. Returns its answer, or None: it has none yet."""
        watch, began = self._watch, time.perf_counter()
        end = began + SLICE_SECONDS
        try:
            watch.began(job.what)
            for answer in job.steps:
                watch.ended()
                if answer is not None:
                    return answer
                if time.perf_counter() >= end:
                    break
                watch.began(job.what)
        finally:
            watch.ended()
            job.seconds += time.perf_counter() - began
        return None
