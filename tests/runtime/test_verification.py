"""Verdicts: the verifier's mask and the application's check in one byte per request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbft.errors import InvariantViolation
from smartbft.limits import MAX_BAD_SIGNATURES_PER_SOURCE, VERIFY_JOBS_IN_FLIGHT
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
        self.mask, self.data, self.source = mask, mask, source


class Pool:
    """Hands out the jobs it is given."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.applied: list[bytes] = []

    def take_unverified(self, most: int) -> Job | None:
        return self.jobs.pop(0) if self.jobs else None

    def apply_verdicts(self, job: Job, verdicts: bytes) -> list[tuple[int, int]]:
        self.applied.append(verdicts)
        return [(job.source, verdicts.count(0))]


class Verifier:
    def __init__(self) -> None:
        self.submitted: list[Job] = []

    def submit(self, job: Job) -> None:
        self.submitted.append(job)

    def drain(self) -> list[Job]:
        done, self.submitted = self.submitted, []
        return done


def pump(pool: Pool, verifier: Verifier, punished: list[int]) -> VerificationPump:
    return VerificationPump(pool, verifier, lambda data: b"\1" * len(data), punished.append)  # type: ignore[arg-type]


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
