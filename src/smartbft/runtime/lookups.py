"""What a replica answers to particular questions: the sessions of a client key, and queries that need no ordering."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from smartbft._fastpath.pool import RequestPool
from smartbft.core.replica import Replica as Core
from smartbft.runtime.executor import SliceExecutor, ThreadExecutor
from smartbft.runtime.status import Question, read_from
from smartbft.smr.application import BatchStateMachine

Answer = dict[str, Any]

_ABSENT: Answer = {"problem": "the replica does not take part"}


class Lookups:
    """Answers particular questions of one replica.

    Args:
        core: tells whether the replica takes part, and how far it has voted.
        pool: has the sessions.
    """

    def __init__(self, core: Core, pool: RequestPool) -> None:
        self._core = core
        self._pool = pool

    def answer(
        self,
        executor: ThreadExecutor | SliceExecutor,
        questions: Sequence[Question],
        done: Callable[[list[Answer], float], None],
    ) -> None:
        """Call `done` with the answers and the seconds that the application took for them.

        A read is answered with the instance that it is as of, and with the last one in which this replica voted
        ACCEPT: whoever compares them among `Q` replicas knows whether anything was acknowledged since
        (`smartbft.runtime.reading`).
        """
        if self._core.transfer.paused or self._core.guard.suspended:
            # The state is one on trial, or the record of our votes has gaps: nobody could tell how old the state is.
            done([self._sessions(asked.sessions) or _ABSENT for asked in questions], 0.0)
            return

        def look(application: BatchStateMachine, instance: int) -> tuple[list[Answer], float]:
            began = time.perf_counter()
            read = [read_from(application, asked.read) | {"instance": instance} for asked in questions if asked.read]
            return read, time.perf_counter() - began

        def looked(found: tuple[list[Answer], float]) -> None:
            accepted = {"accepted": self._core.accepted}
            read = iter(found[0])
            done([self._sessions(asked.sessions) or next(read) | accepted for asked in questions], found[1])

        executor.ask(look, looked)

    def _sessions(self, key: bytes) -> Answer:
        """The open sessions of a client key, each with the microseconds that it has left; nothing without a key."""
        if not key:
            return {}
        now = max(self._pool.agreed_time, time.time_ns() // 1000)
        sessions = [[number, executed, max(0, end - now)] for number, executed, end in self._pool.sessions_of(key)]
        return {"sessions": sessions}
