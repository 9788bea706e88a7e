"""Keeps the signature verifier busy: takes unverified requests out of the pool and brings the verdicts back."""

from __future__ import annotations

from collections.abc import Callable

from smartbft._fastpath.pool import RequestPool, Verifier, VerifyJob
from smartbft.errors import invariant
from smartbft.limits import MAX_BAD_SIGNATURES_PER_SOURCE, VERIFY_JOB_REQUESTS, VERIFY_JOBS_IN_FLIGHT

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
    invariant(len(mask) == len(checks), f"{len(checks)} verdicts of the application for {len(mask)} requests")
    if 0 not in checks:
        return mask
    size = len(mask)
    wide = int.from_bytes(mask, "little") * 0xFF & int.from_bytes(checks.translate(_AS_VERDICT), "little")
    return wide.to_bytes(size, "little")


class VerificationPump:
    """The traffic between the pool and the verifier.

    Args:
        pool: where requests wait for their verdicts.
        verifier: the native threads.
        check_batch: the application's stateless check, one byte per request of a request list.
        punish: called with a connection's pool source when it sent too many bad signatures.
    """

    def __init__(
        self,
        pool: RequestPool,
        verifier: Verifier,
        check_batch: Callable[[bytes], bytes],
        punish: Callable[[int], None],
    ) -> None:
        self._pool = pool
        self._verifier = verifier
        self._check_batch = check_batch
        self._punish = punish
        self._jobs = 0
        self._bad: dict[int, int] = {}

    def fill(self) -> None:
        """Submit jobs while there are requests and the verifier has room."""
        while self._jobs < VERIFY_JOBS_IN_FLIGHT:
            job = self._pool.take_unverified(VERIFY_JOB_REQUESTS)
            if job is None:
                return
            self._jobs += 1
            self._verifier.submit(job)

    def drain(self) -> bool:
        """Apply the verdicts that are ready; returns whether there were any."""
        jobs = self._verifier.drain()
        self._jobs -= len(jobs)
        for job in jobs:
            self._apply(job)
        self.fill()
        return bool(jobs)

    def forget(self, source: int) -> None:
        """The connection is gone."""
        self._bad.pop(source, None)

    def _apply(self, job: VerifyJob) -> None:
        verdicts = combine(job.mask, self._check_batch(job.data))
        for source, count in self._pool.apply_verdicts(job, verdicts):
            bad = self._bad.get(source, 0) + count
            self._bad[source] = bad
            if source and bad > MAX_BAD_SIGNATURES_PER_SOURCE:
                self._punish(source)
