"""Keeps the signature verifier busy: takes unverified requests out of the pool and brings the verdicts back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from smartbft._fastpath.pool import FROM_MEMBER, RequestPool, Verifier, VerifyJob, join_results, split_requests
from smartbft.errors import ApplicationFailed
from smartbft.limits import (
    LOOP_TICK_SECONDS,
    MAX_BAD_SIGNATURES_PER_SOURCE,
    MAX_REASON_BYTES,
    MAX_REASONS_PER_JOB,
    VERIFY_ENOUGH_REQUESTS,
    VERIFY_JOB_REQUESTS,
    VERIFY_JOBS_IN_FLIGHT,
    VERIFY_PAUSE_SECONDS,
)

BAD_SIGNATURE = 0
REFUSED = 2
# A check byte (1 passes, 0 refused) as the verdict it makes of a good signature.
_AS_VERDICT = bytes([REFUSED, 1]) + bytes(254)


def combine(mask: bytes, checks: bytes) -> bytes:
    """One verdict per request: 0 bad signature, 1 valid, 2 refused by the application's stateless check.

    Args:
        mask: the verifier's bytes, 1 for a good signature, else 0.
        checks: the application's bytes, 1 if the operation passes, else 0.
    """
    if len(mask) != len(checks):
        raise ApplicationFailed(
            f"{len(checks)} verdicts of the application for {len(mask)} requests: correct its check_batch on all "
            "replicas, and start this one again"
        )
    if 0 not in checks:
        return mask
    size = len(mask)
    wide = int.from_bytes(mask, "little") * 0xFF & int.from_bytes(checks.translate(_AS_VERDICT), "little")
    return wide.to_bytes(size, "little")


def _no_reason(operation: bytes) -> tuple[int, str]:
    return 0, ""


class Loop(Protocol):
    """What the pump needs of an event loop."""

    def time(self) -> float:
        """Seconds on the loop's clock."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        """Call `callback` after `delay` seconds."""


class VerificationPump:
    """The traffic between the pool and the verifier.

    Args:
        pool: where requests wait for their verdicts.
        verifier: the native threads.
        check_batch: the application's stateless check, one byte per request of a request list.
        punish: called with a connection's pool source when it sent too many bad signatures.
        loop: tells the time, and wakes the pump when a pause is over.
        why_refused: code and text for the client of an operation that the check refuses.

    Signatures are cheaper together. While requests trickle in, from many connections one at a time, jobs are submitted
    no closer than a short pause, unless enough requests wait. After a pause without jobs, a request is verified at
    once.
    """

    def __init__(
        self,
        pool: RequestPool,
        verifier: Verifier,
        check_batch: Callable[[bytes], bytes],
        punish: Callable[[int], None],
        loop: Loop,
        why_refused: Callable[[bytes], tuple[int, str]] = _no_reason,
    ) -> None:
        self._loop = loop
        self._why_refused = why_refused
        self._not_before = 0.0
        self._wakes = False
        self._closed = False
        self._submitted = 0
        self._pool = pool
        self._verifier = verifier
        self._check_batch = check_batch
        self._punish = punish
        self._jobs = 0
        self._bad: dict[int, int] = {}
        self._liars: dict[int, int] = {}  # member -> requests that it should not have passed on

    def fill(self) -> None:
        """Submit jobs while there are requests and the verifier has room."""
        while self._jobs < VERIFY_JOBS_IN_FLIGHT and not self._pauses():
            job = self._pool.take_unverified(VERIFY_JOB_REQUESTS)
            if job is None:
                return
            self._jobs += 1
            self._submitted += job.count
            self._not_before = self._loop.time() + VERIFY_PAUSE_SECONDS
            self._verifier.submit(job)

    def _pauses(self) -> bool:
        """Whether to wait for company: a job left a moment ago, and few requests wait."""
        pause = self._not_before - self._loop.time()
        enough = self._submitted + VERIFY_ENOUGH_REQUESTS
        if pause < LOOP_TICK_SECONDS / 2 or self._pool.stats()["unverified"] >= enough:
            return False
        if not self._wakes:
            self._wakes = True
            self._loop.call_later(pause, self._wake)
        return True

    def _wake(self) -> None:
        self._wakes = False
        if not self._closed:
            self.fill()

    def close(self) -> None:
        """Submit nothing more: the verifier is about to be closed."""
        self._closed = True

    def drain(self) -> bool:
        """Apply the verdicts that are ready; returns whether there were any."""
        jobs = self._verifier.drain()
        self._jobs -= len(jobs)
        for job in jobs:
            self._submitted -= job.count
            self._apply(job)
        self.fill()
        return bool(jobs)

    def take_liars(self) -> tuple[tuple[int, int], ...]:
        """Members that passed on requests with bad signatures, and how many, since the last call."""
        liars, self._liars = tuple(self._liars.items()), {}
        return liars

    def forget(self, source: int) -> None:
        """The connection is gone."""
        self._bad.pop(source, None)

    def _apply(self, job: VerifyJob) -> None:
        verdicts = combine(job.mask, self._check_batch(job.data))
        for source, count in self._pool.apply_verdicts(job, verdicts, self._reasons(job, verdicts)):
            if source >= FROM_MEMBER:
                member = source - FROM_MEMBER
                self._liars[member] = self._liars.get(member, 0) + count
                continue
            bad = self._bad.get(source, 0) + count
            self._bad[source] = bad
            if source and bad > MAX_BAD_SIGNATURES_PER_SOURCE:
                self._punish(source)

    def _reasons(self, job: VerifyJob, verdicts: bytes) -> bytes:
        """What the clients of the first refused requests get, as a list of items; nobody else is looked at."""
        if REFUSED not in verdicts:
            return b""
        requests = split_requests(job.data)
        refused = [number for number, verdict in enumerate(verdicts) if verdict == REFUSED][:MAX_REASONS_PER_JOB]
        return join_results([_reason(*self._why_refused(requests[number][3])) for number in refused])


def _reason(code: int, text: str) -> bytes:
    """Code and text of a refusal, as they travel; nothing if there is nothing to say."""
    if not code and not text:
        return b""
    return bytes([code]) + text.encode("utf-8", "replace")[: MAX_REASON_BYTES - 1]
