"""Verdicts: the verifier's mask and the application's check in one byte per request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbft.errors import InvariantViolation
from smartbft.limits import (
    MAX_BAD_SIGNATURES_PER_SOURCE,
    VERIFY_ENOUGH_REQUESTS,
    VERIFY_JOBS_IN_FLIGHT,
    VERIFY_PAUSE_SECONDS,
)
from smartbft.runtime import verification
from smartbft.runtime.verification import VerificationPump, combine


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=600))
def test_a_bad_signature_wins_over_a_refusal(verdicts: list[tuple[bool, bool]]) -> None:
    mask, checks = bytes(good for good, _ in verdicts), bytes(passes for _, passes in verdicts)
    expected = bytes((1 if passes else 2) if good else 0 for good, passes in verdicts)
    assert combine(mask, checks) == expected


def test_an_application_that_judges_another_number_of_requests_is_a_bug() -> None:
    with pytest.raises(InvariantViolation, match="2 verdicts of the application for 3 requests"):
        combine(bytes(3), bytes(2))


class Job:
    def __init__(self, mask: bytes, source: int = 1) -> None:
        self.mask, self.data, self.source, self.count = mask, mask, source, len(mask)


class Pool:
    """Hands out the jobs it is given."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.applied: list[bytes] = []
        self.out = 0

    def take_unverified(self, most: int) -> Job | None:
        if not self.jobs:
            return None
        job = self.jobs.pop(0)
        self.out += job.count
        return job

    def stats(self) -> dict[str, int]:
        return {"unverified": self.out + sum(job.count for job in self.jobs)}

    def apply_verdicts(self, job: Job, verdicts: bytes, reasons: bytes) -> list[tuple[int, int]]:
        self.applied.append(verdicts)
        self.out -= job.count
        return [(job.source, verdicts.count(0))]


class Verifier:
    def __init__(self) -> None:
        self.submitted: list[Job] = []

    def submit(self, job: Job) -> None:
        self.submitted.append(job)

    def drain(self) -> list[Job]:
        done, self.submitted = self.submitted, []
        return done


class Loop:
    """A clock that moves when it is asked to wait for its timers; `jump` moves it with every look at it."""

    def __init__(self, jump: float = 0.0) -> None:
        self.now = 100.0
        self.jump = jump
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        self.now += self.jump
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now + delay, callback))

    def advance(self) -> None:
        timers, self.timers = self.timers, []
        for at, callback in timers:
            self.now = max(self.now, at)
            callback()


def pump(pool: Pool, verifier: Verifier, punished: list[int], loop: Loop | None = None) -> VerificationPump:
    checks = lambda data: b"\1" * len(data)  # noqa: E731
    return VerificationPump(pool, verifier, checks, punished.append, loop or Loop(jump=1.0))  # type: ignore[arg-type]


def test_a_request_after_a_pause_is_verified_at_once_and_those_behind_it_wait_for_company() -> None:
    pool, verifier, loop = Pool([Job(b"\1")]), Verifier(), Loop()
    traffic = pump(pool, verifier, [], loop)
    traffic.fill()
    assert len(verifier.submitted) == 1
    pool.jobs.append(Job(b"\1\1"))
    traffic.fill()
    traffic.fill()
    assert len(verifier.submitted) == 1
    assert [at for at, _ in loop.timers] == [100.0 + VERIFY_PAUSE_SECONDS]
    loop.advance()
    assert [job.count for job in verifier.submitted] == [1, 2]


def test_the_rest_of_a_pause_that_no_timer_can_wait_for_is_none() -> None:
    pool, verifier, loop = Pool([Job(b"\1")]), Verifier(), Loop()
    traffic = pump(pool, verifier, [], loop)
    traffic.fill()
    pool.jobs.append(Job(b"\1"))
    loop.now += VERIFY_PAUSE_SECONDS - 0.001
    traffic.fill()
    assert len(verifier.submitted) == len(loop.timers) == 1
    loop.now += 0.0009  # the timer fires as early as a clock of milliseconds lets it
    traffic._wake()
    assert len(verifier.submitted) == 2
    assert len(loop.timers) == 1, "the loop turns in circles until the pause is over"


def test_a_pump_that_is_closed_in_a_pause_submits_nothing_more() -> None:
    pool, verifier, loop = Pool([Job(b"\1"), Job(b"\1")]), Verifier(), Loop()
    traffic = pump(pool, verifier, [], loop)
    traffic.fill()
    traffic.close()
    loop.advance()
    assert len(verifier.submitted) == 1
    assert len(pool.jobs) == 1


def test_enough_requests_do_not_wait() -> None:
    pool, verifier, loop = Pool([Job(b"\1"), Job(b"\1" * VERIFY_ENOUGH_REQUESTS)]), Verifier(), Loop()
    pump(pool, verifier, [], loop).fill()
    assert len(verifier.submitted) == 2
    assert not loop.timers


def test_a_few_jobs_are_out_at_a_time_so_that_priorities_bite() -> None:
    pool, verifier = Pool([Job(b"\1") for _ in range(5)]), Verifier()
    traffic = pump(pool, verifier, [])
    traffic.fill()
    assert len(verifier.submitted) == VERIFY_JOBS_IN_FLIGHT
    assert traffic.drain()
    assert len(verifier.submitted) == VERIFY_JOBS_IN_FLIGHT
    assert traffic.drain()
    assert len(pool.applied) == 2 * VERIFY_JOBS_IN_FLIGHT
    assert traffic.drain()
    assert not traffic.drain()
    assert pool.applied == [b"\1"] * 5


def test_a_connection_with_too_many_bad_signatures_is_punished_and_only_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(punish_after: int) -> list[int]:
        monkeypatch.setattr(verification, "MAX_BAD_SIGNATURES_PER_SOURCE", punish_after)
        punished: list[int] = []
        bad = bytes(MAX_BAD_SIGNATURES_PER_SOURCE)
        traffic = pump(
            Pool([Job(bad, 1), Job(b"\0\1", 2), Job(b"\0", 1), Job(bad, 0), Job(bad, 0)]), Verifier(), punished
        )
        traffic.fill()
        while traffic.drain():
            pass
        return punished

    assert run(MAX_BAD_SIGNATURES_PER_SOURCE) == [1]
    with pytest.raises(AssertionError):  # a planted bug: one bad signature is enough
        assert run(0) == [1]
