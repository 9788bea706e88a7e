"""A client and a liar who leads, in random histories: what the client is told is true, and the liar moves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.lied_to import World
from kit.virtual_loop import run_virtually

from smartbft import AsyncClient, Overloaded
from smartbft._fastpath.pool import OVERLOADED, SESSION_REFUSED
from smartbft.runtime.clocks import ReplicaClocks, SessionNumbers
from smartbft.runtime.requests import Pending, ReplyCollector

SEEDS = range(60)
STEPS = 60


async def history(seed: int) -> None:
    await World(seed).play(STEPS)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_client_is_told_is_true(seed: int) -> None:
    run_virtually(history(seed))


# --- planted bugs ---


def believes_refusals(patch: pytest.MonkeyPatch) -> None:
    """What all replicas have no room for did not happen."""
    honest = AsyncClient._no_answer

    def no_answer(client: AsyncClient, pending: Pending, seconds: float) -> Any:
        if pending.votes.count(OVERLOADED) >= client.needed:
            return Overloaded("all replicas refused the request")
        return honest(client, pending, seconds)

    patch.setattr(AsyncClient, "_no_answer", no_answer)


def takes_the_lowest_reading(patch: pytest.MonkeyPatch) -> None:
    """Of f + 1 refusals of a session the lowest time counts."""

    def now(clocks: ReplicaClocks) -> int | None:
        times = [reading.now(clocks._steady()) for reading in clocks._readings.values()]
        return min(times) if len(times) >= 2 else None

    patch.setattr(ReplicaClocks, "now", now)


def takes_any_reading(patch: pytest.MonkeyPatch) -> None:
    """The last replica that spoke knows what time it is."""

    def now(clocks: ReplicaClocks) -> int | None:
        times = [reading.now(clocks._steady()) for reading in clocks._readings.values()]
        return times[-1] if times else None

    patch.setattr(ReplicaClocks, "now", now)


def goes_by_its_own_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SessionNumbers, "choose", lambda numbers: numbers._clocks.own())


def sends_again_in_a_new_session(patch: pytest.MonkeyPatch) -> None:
    """What was sent in a session that the replicas refuse is sent in the next one."""

    def refused(client: AsyncClient, session: int, time: int) -> None:
        waiting = [pending for pending in client._all_pending() if pending.waiting]
        for pending in client._all_pending():
            client._collector.forget(pending.request.digest)
        client._pending.clear()
        client._by_digest.clear()
        client._apart.clear()
        client._begin_session()
        for old in waiting:
            operation = old.request.frame[57:-64]
            pending = client._send(client._builder.build(client._session, client._next, operation))
            client._next += 1
            pending.waiting = old.waiting

    patch.setattr(AsyncClient, "_refused", refused)


def believes_one_refusal(patch: pytest.MonkeyPatch) -> None:
    """One replica's word ends a session, or rejects a request."""
    honest = ReplyCollector._settles

    def settles(collector: ReplyCollector, status: int, body: bytes, votes: Any) -> int | None:
        one = status not in (0, OVERLOADED, SESSION_REFUSED)
        return status if one else honest(collector, status, body, votes)

    patch.setattr(ReplyCollector, "_settles", settles)


def fills_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    """An empty operation takes the number of a request that nobody had room for, which is then called undone."""
    honest = AsyncClient._no_answer

    def no_answer(client: AsyncClient, pending: Pending, seconds: float) -> Any:
        sequence = pending.request.sequence
        if pending.votes.count(OVERLOADED) >= client.needed and client._pending.get(sequence) is pending:
            client._drop(sequence)
            client._fill(sequence)
            return Overloaded("its number is filled")
        return honest(client, pending, seconds)

    patch.setattr(AsyncClient, "_no_answer", no_answer)


BUGS = [
    believes_refusals,
    takes_the_lowest_reading,
    takes_any_reading,
    goes_by_its_own_clock,
    sends_again_in_a_new_session,
    believes_one_refusal,
    fills_what_was_refused,
]


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None]) -> None:
    def differs(seed: int) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            bug(patch)
            try:
                run_virtually(history(seed))
            except AssertionError:
                return True
            return False

    assert any(map(differs, SEEDS)), "no history told this bug from the rule"
