"""A native pool and short words for what happens to it, for tests that read like stories."""

from __future__ import annotations

import dataclasses

from kit.pool_twins import RULES, START, make_request, native_pool, split_frames, verdicts
from smartbft._fastpath.pool import VALID, join_requests, join_results, request_digests, split_requests
from smartbft.smr.sessions import PoolRules

WIDE = dataclasses.replace(
    RULES,
    window=8,
    max_requests=1000,
    max_bytes=1 << 20,
    max_sessions=100,
    max_sessions_per_key=50,
    max_unverified_per_source=500,
)


class Pool:
    """A native pool and short words for what happens to it."""

    def __init__(self, rules: PoolRules = WIDE) -> None:
        self.rules = rules
        self.pool = native_pool(rules)
        self.now = START
        self.instance = 0
        self.decided: dict[tuple[bytes, bytes], tuple[int, int]] = {}  # instance and agreed time of batches

    def digest(self, request: bytes) -> bytes:
        return request_digests(self.rules.chain_id, join_requests([request]))

    def receive(self, *requests: bytes, source: int = 1) -> int:
        return self.pool.admit(join_requests(requests), source, self.now)

    def verify(self, most: int = 1000) -> None:
        while (job := self.pool.take_unverified(most)) is not None:
            self.pool.apply_verdicts(job, verdicts(job.data))

    def accept(self, *requests: bytes, source: int = 1) -> None:
        self.receive(*requests, source=source)
        self.verify()

    def form(self, max_requests: int = 100, max_bytes: int = 1 << 20) -> tuple[bytes, bytes]:
        return self.pool.form_batch(max_requests, max_bytes, max(self.now, self.pool.agreed_time + 1))

    def order(self, *requests: bytes) -> tuple[bytes, bytes]:
        """These requests are decided, wherever they come from."""
        data = join_requests(requests)
        digests = request_digests(self.rules.chain_id, data)
        self.now = max(self.now, self.pool.agreed_time + 1)
        assert self.pool.check(data, self.now, 100, 1 << 20) == VALID
        self.decide(digests, data, self.now)
        return digests, data

    def decide(self, digests: bytes, data: bytes, timestamp: int) -> None:
        self.pool.decide(digests, data, self.instance + 1, timestamp)
        self.instance += 1
        self.decided[digests, data] = (self.instance, timestamp)

    def execute(self, batch: tuple[bytes, bytes]) -> None:
        results = join_results([b"r%d" % n for n in range(len(batch[0]) // 32)])
        instance, timestamp = self.decided[batch]
        self.pool.executed(*batch, results, instance, 0, timestamp, 2)

    def answered(self) -> list[tuple[int, int, bytes]]:
        """`(source, status, digest)` of every reply that leaves."""
        replies = [(s, split_frames(frames)) for s, frames in self.pool.take_replies()]
        return [(source, one[5 + 2], one[5 + 24 : 5 + 56]) for source, frames in replies for one in frames]

    def statuses(self) -> list[tuple[int, int]]:
        return [(source, status) for source, status, _ in self.answered()]


def numbers(data: bytes) -> list[tuple[int, int]]:
    """`(first byte of the key, sequence number)` of each request of a list."""
    return [(key[0], sequence) for key, _, sequence, _, _ in split_requests(data)]


def r(key: int = 1, sequence: int = 1, session: int = START, **rest: int) -> bytes:
    """A request."""
    return make_request(key, session, sequence, **rest)
