"""Rehearsals on a running replica: the application works on a state that may be anything, so what it makes of it ends
the rehearsal, not the replica. It may also make nothing of it, for ever: it works on a thread of its own meanwhile, and
is stopped when the core gives the rehearsal up.

What an application has may belong to the thread that it was made on, as a connection of sqlite3 does. One that cannot
restore elsewhere rehearses there, where nothing can stop it.

A batch is executed in one go, also by an application in Python: a replica that rehearses votes on nothing that waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from smartbft.core.effects import AbandonRehearsal, BeginRehearsal, KeepSnapshot, RehearseBatch, RehearseSnapshot
from smartbft.core.inputs import BatchRehearsed, Input, RehearsalFailed, SnapshotKept, SnapshotRehearsed
from smartbft.errors import CorruptSnapshot, LocalProtocolError
from smartbft.runtime.aside import GivenUp
from smartbft.smr.application import BatchStateMachine, ExecutionContext, execute_decided
from smartbft.storage import SnapshotStore, Trials

logger = logging.getLogger(__name__)


class Application(Protocol):
    """The executor, as far as rehearsals need it."""

    def try_out(
        self,
        question: Callable[[BatchStateMachine, int], Any],
        done: Callable[[Any], None],
        again: Callable[[Any], bool] | None = None,
    ) -> None:
        """Call `question` between two batches, beside the loop, and `done` with the answer, not None, on it; where
        `again` says so of the answer, once more on the application's own thread, and later questions with it.
        """

    def give_up(self) -> None:
        """Nobody waits for the answers any more: stop the question that is being asked, and drop the others."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What an application made of a state on trial: an answer, or the error that it raised."""

    answer: Any
    error: BaseException | None = None


def _try(work: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(work())
    except (MemoryError, KeyboardInterrupt, GivenUp):  # not the fault of the state
        raise
    except BaseException as error:  # sys.exit() as well: a state must not end a replica
        return _Outcome(None, error)


def _attempt(work: Callable[[BatchStateMachine], Any]) -> Callable[[BatchStateMachine, int], _Outcome]:
    """A question to the application that ends in any case."""
    return lambda application, _: _try(lambda: work(application))


def _may_be_the_thread(outcome: _Outcome) -> bool:
    """Whether a restore may have failed because of the thread that it ran on; it can be repeated, a batch cannot."""
    return outcome.error is not None and not isinstance(outcome.error, ValueError)


def _never(_: _Outcome) -> bool:
    return False


class RehearsalStage:
    """Where one replica's application rehearses.

    Args:
        store: keeps what came out of a rehearsal.
        application: the executor.
        take: feeds an input to the core.
        on_writer: runs a job on the thread that writes snapshots; an input that it returns goes to the core.
        trials: remembers whose snapshot is rehearsed.
    """

    def __init__(
        self,
        store: SnapshotStore,
        application: Application,
        *,
        take: Callable[[Input], None],
        on_writer: Callable[[Callable[[], Input | None]], None],
        trials: Trials | None = None,
    ) -> None:
        self._trials = trials or Trials(None)
        self._store = store
        self._application = application
        self._take_input = take
        self._on_writer = on_writer

    def actions(self) -> dict[type[Any], Callable[[Any], None]]:
        """Who carries out which effect."""
        return {
            BeginRehearsal: self._begin,
            RehearseBatch: self._execute,
            RehearseSnapshot: self._capture,
            KeepSnapshot: self._keep,
            AbandonRehearsal: self._abandon,
        }

    def _begin(self, effect: BeginRehearsal) -> None:
        logger.info("rehearsal %d of a snapshot begins", effect.rehearsal)
        self._remember(effect.seeder)

        def restored(outcome: _Outcome) -> None:
            if isinstance(outcome.error, ValueError):
                reason = f"the application refuses it: {outcome.error}"
                self._take_input(RehearsalFailed(effect.rehearsal, reason, convicts=True))
            elif outcome.error is not None:
                reason = f"the application cannot restore it: {outcome.error!r}"
                self._take_input(RehearsalFailed(effect.rehearsal, reason))

        self._application.try_out(
            _attempt(lambda application: application.restore(effect.state)), restored, _may_be_the_thread
        )

    def _remember(self, seeder: int) -> None:
        if seeder >= 0:
            self._trials.begin(seeder)  # a few bytes, not synced, and before the application sees the state

    def _execute(self, effect: RehearseBatch) -> None:
        batch = effect.batch
        context = ExecutionContext(batch.instance, batch.timestamp, batch.seed)

        def executed(outcome: _Outcome) -> None:
            if outcome.error is None:
                self._take_input(BatchRehearsed(effect.rehearsal, outcome.answer))
            else:
                reason = f"the application cannot execute instance {batch.instance} on it: {outcome.error}"
                self._take_input(RehearsalFailed(effect.rehearsal, reason))

        self._application.try_out(
            _attempt(lambda application: execute_decided(application, batch.data, context)), executed, _never
        )

    def _capture(self, effect: RehearseSnapshot) -> None:
        def captured(outcome: _Outcome) -> None:
            self._on_writer(lambda: self._describe(effect, outcome))

        self._application.try_out(_attempt(lambda application: application.capture()), captured, _never)

    def _describe(self, effect: RehearseSnapshot, captured: _Outcome) -> Input:
        """The snapshot and its digest."""
        rendered = captured if captured.error is not None else _try(captured.answer)
        if rendered.error is not None:
            reason = f"the application cannot capture what became of it: {rendered.error}"
            return RehearsalFailed(effect.rehearsal, reason)
        try:
            snapshot = effect.take.snapshot(rendered.answer)
            return SnapshotRehearsed(effect.rehearsal, self._store.describe(snapshot, effect.take.proof), snapshot)
        except (CorruptSnapshot, LocalProtocolError) as error:
            return RehearsalFailed(effect.rehearsal, f"it becomes no snapshot: {error}")

    def _abandon(self, effect: AbandonRehearsal) -> None:
        if effect.reason:
            logger.warning(
                "rehearsal %d, of the snapshot of replica %d, came to nothing, which is held against nobody: %s",
                effect.rehearsal,
                effect.seeder,
                effect.reason,
            )
            self._remember(effect.seeder)  # if the application cannot be stopped, the next start tries others first
        self._application.give_up()

    def _keep(self, effect: KeepSnapshot) -> None:
        def keep() -> Input:
            self._store.keep_rehearsed(effect.snapshot, effect.manifest.proof)
            self._trials.end()
            return SnapshotKept(effect.manifest, effect.snapshot)

        self._on_writer(keep)
