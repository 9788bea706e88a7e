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
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from smartbft import limits
from smartbft._fastpath.pool import join_results
from smartbft.core.effects import Execute
from smartbft.errors import POISON_ADVICE, ApplicationFailed
from smartbft.runtime.application_watch import ApplicationWatch
from smartbft.runtime.aside import Aside
from smartbft.smr.application import (
    BatchStateMachine,
    ExecutionContext,
    execute_decided,
    name_operation,
)
from smartbft.smr.per_operation import PerOperation

SLICE_SECONDS = 0.002
# How often it is looked whether a call has ended that nobody waits for.
_LOOK_SECONDS = 0.02

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
        aside: whether it has a thread of its own, while the jobs after it wait.
        generation: of one that can be given up: it is void once a later generation has begun. None: it is finished.
        again: whether an answer from aside may be a matter of the thread; None: it is not.
        afresh: the steps once more, where there is an `again`.
    """

    steps: Iterator[Any]
    done: _Done
    what: Callable[[], str]
    instance: int = 0
    seconds: float = 0.0
    aside: bool = False
    generation: int | None = None
    again: Callable[[Any], bool] | None = None
    afresh: Callable[[], Iterator[Any]] | None = None

    def restart(self) -> None:
        """Begin again, not aside."""
        if self.afresh is not None:
            self.steps, self.aside = self.afresh(), False


class _Jobs:
    """Makes the jobs of an executor.

    Attributes:
        application: it.
        last: the instance that its state is of.
        generation: of the jobs that may be given up.
        bound: whether the application works on its own thread only.
    """

    def __init__(self, application: BatchStateMachine) -> None:
        self.application = application
        self.last = 0
        self.generation = 0
        self.bound = False

    def runs_aside(self, job: _Job) -> bool:
        """Whether a job has a thread of its own, as long as the application can work there."""
        if job.aside and self.bound and job.again is not None:
            job.restart()
        return job.aside

    def asks_again(self, job: _Job, answer: Any) -> bool:
        """Whether what a job gave aside may be a matter of the thread: then it begins again on the right one."""
        if job.again is None or not job.again(answer):
            return False
        job.restart()
        return True

    def asked_here(self, job: _Job, answer: Any) -> None:
        """What a job has given on the application's own thread."""
        if job.again is not None and not job.again(answer):
            self.bound = True

    def is_void(self, job: _Job) -> bool:
        """Whether nobody waits for it any more."""
        return job.generation is not None and job.generation != self.generation

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

    def trial(self, question: _Question, done: _Done, again: Callable[[Any], bool] | None) -> _Job:
        """Ask something that may never be answered."""

        def ask() -> Iterator[Any]:
            yield question(self.application, self.last)

        job = _Job(ask(), done, str, again=again, afresh=ask)
        job.aside, job.generation, job.what = True, self.generation, lambda: "a snapshot that is rehearsed"
        return job

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


def _answer(job: _Job, watch: ApplicationWatch) -> Any:
    """All steps of a job at once."""
    watch.began(job.what)
    try:
        return next(step for step in job.steps if step is not None)
    finally:
        watch.ended()


def _end(
    loop: asyncio.AbstractEventLoop,
    aside: Aside,
    failed: Callable[[BaseException], None],
    ended: Callable[[], None] | None = None,
    looks: int = 0,
) -> None:
    """Look again and again until a call that nobody waits for has ended."""
    if not aside.running:
        if ended is not None:
            ended()
        return
    if looks * _LOOK_SECONDS > limits.GIVING_UP_SECONDS:
        failed(
            ApplicationFailed(
                "the application hangs on a snapshot that it was to rehearse, and cannot be stopped: start this "
                "replica again, and the snapshots of others are tried first"
            )
        )
        return
    aside.give_up()
    loop.call_later(_LOOK_SECONDS, _end, loop, aside, failed, ended, looks + 1)


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
        self._closing = False
        self._aside: Aside | None = None
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

    def try_out(self, question: _Question, done: _Done, again: Callable[[Any], bool] | None = None) -> None:
        """As `ask`, for a question that may never be answered: `give_up` ends it. It has a thread of its own.

        What an application has may belong to its own thread, as a connection of sqlite3 does. So where `again` says so
        of the answer, the question is asked once more, there; and if that helped, all later ones are asked there, too.
        """
        self._jobs.put(self._make.trial(question, done, again))

    def give_up(self) -> None:
        """Drop the questions of `try_out`, and end the one that is being asked: nobody waits for the answers any more,
        and the next job waits until the application is free. If it cannot be freed, `failed` is called with
        ApplicationFailed.
        """
        self._make.generation += 1
        if self._aside is not None:
            _end(self._loop, self._aside, self._failed)

    def restore(self, state: bytes, instance: int) -> None:
        """Replace the application's state by that after `instance`, in turn with the batches."""
        self._jobs.put(self._make.restoration(state, instance))

    def halt(self) -> None:
        """Begin no job any more."""
        self._closing = True

    async def close(self) -> None:
        """Finish the job that runs, drop the others."""
        self._closing = True
        while not self._jobs.empty():
            self._jobs.get()
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        await self._loop.run_in_executor(None, self._watch.close)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._closing or self._make.is_void(job):
                continue
            try:
                answer = self._aside_answer(job) if self._make.runs_aside(job) else None
                if not job.aside or (answer is not None and self._make.asks_again(job, answer)):
                    answer = _answer(job, self._watch)
                    self._make.asked_here(job, answer)
            except BaseException as error:
                self._post(self._failed, _failure(error, job))
                return
            if answer is not None:
                self._post(job.done, answer)

    def _aside_answer(self, job: _Job) -> Any:
        """The answer of a job with a thread of its own; None: it was given up."""
        aside = self._aside = Aside(lambda: _answer(job, self._watch), lambda: None)
        if self._make.is_void(job):  # whoever gave it up a moment ago did not see it
            aside.give_up()
        aside.start()
        while aside.running and not self._closing:
            aside.join(_LOOK_SECONDS)
        self._aside = None
        if aside.given_up or aside.running:
            return None
        if aside.error is not None:
            raise aside.error
        return aside.answer

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
        self._aside: Aside | None = None  # of the first job, which runs apart

    def execute(self, batch: Execute) -> None:
        """Queue a batch."""
        self._put(self._make.batch(batch, self._executed))

    def ask(self, question: _Question, done: _Done) -> None:
        """As `ThreadExecutor.ask`."""
        self._put(self._make.question(question, done))

    def ask_apart(self, question: _Question, done: _Done) -> None:
        """As `ThreadExecutor.ask_apart`: on a thread of its own, while the batches after it wait."""
        job = self._make.question(question, done)
        job.aside = True
        self._put(job)

    def try_out(self, question: _Question, done: _Done, again: Callable[[Any], bool] | None = None) -> None:
        """As `ThreadExecutor.try_out`."""
        self._put(self._make.trial(question, done, again))

    def give_up(self) -> None:
        """As `ThreadExecutor.give_up`."""
        self._make.generation += 1
        if self._aside is not None and self._make.is_void(self._jobs[0]):
            job = self._jobs[0]
            _end(self._loop, self._aside, self._failed, lambda: self._come_back(job))

    def restore(self, state: bytes, instance: int) -> None:
        """As `ThreadExecutor.restore`."""
        self._put(self._make.restoration(state, instance))

    def halt(self) -> None:
        """As `ThreadExecutor.halt`."""
        self._closed = True

    async def close(self) -> None:
        """Stop after the slice that runs."""
        self._closed = True
        self._jobs.clear()
        if self._aside is not None:
            self._aside.give_up()
        await self._loop.run_in_executor(None, self._watch.close)

    def _put(self, job: _Job) -> None:
        self._jobs.append(job)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._jobs and self._aside is None:
            self._scheduled = True
            self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        """Work until the slice is over; the last value of a job's steps is its answer."""
        self._scheduled = False
        if self._closed or not self._jobs:
            return
        while self._jobs and self._make.is_void(self._jobs[0]):
            self._jobs.popleft()
        if not self._jobs:
            return
        job = self._jobs[0]
        if self._make.runs_aside(job):
            self._aside = Aside(lambda: _answer(job, self._watch), lambda: self._aside_over(job))
            self._aside.start()
            return
        try:
            answer = self._advance(job)
        except KeyboardInterrupt:  # somebody wants the program to end
            raise
        except BaseException as error:
            self._closed = True  # its state is not known any more
            self._failed(_failure(error, job))
            return
        if answer is not None:
            self._jobs.popleft()
            self._make.asked_here(job, answer)
            if job.instance:
                self._watch.took(job.seconds, lambda: f"the batch of instance {job.instance}")
            try:
                job.done(answer)
            except Exception as error:
                self._failed(error)
                return
        self._schedule()

    def _aside_over(self, job: _Job) -> None:
        """On the thread of a job that runs apart."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
            self._loop.call_soon_threadsafe(self._come_back, job)

    def _come_back(self, job: _Job) -> None:
        """A job that ran apart is over, or was given up and has ended."""
        aside = self._aside
        if aside is None or self._closed or self._jobs[0] is not job:
            return
        self._aside = None
        if aside.error is None and not aside.given_up and self._make.asks_again(job, aside.answer):
            self._schedule()
            return
        self._jobs.popleft()
        if aside.error is not None and not aside.given_up:
            self._closed = True
            self._failed(_failure(aside.error, job))
            return
        if not aside.given_up:
            try:
                job.done(aside.answer)
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
