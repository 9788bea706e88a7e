"""Mutated streams of frames, request lists, batches and replies: the native decoders agree with plain ones on every
byte, raise nothing but protocol errors, and keep no more than their limits allow.
"""

from __future__ import annotations

import contextlib
import struct

import pytest
from kit.mutation import Mutator, executions
from kit.pool_twins import RULES, START, make_request, native_pool, verdicts
from oracles import wire

from smartbft._fastpath.frames import HELLO, MESSAGE, REPLY, REQUEST, FrameReader, ReplyMatcher, frame
from smartbft._fastpath.pool import encode_request, join_requests, join_results, request_digests, split_requests
from smartbft.errors import FrameError, LocalProtocolError, MalformedMessage, RemoteProtocolError

LIMITS = {HELLO: 20, REQUEST: 400, MESSAGE: 300}
FIELDS = [bytes(4), b"\xff" * 4, b"\xff" * 8, b"\x01\0\0\0", b"\0\0\0\x80", b"\0\0\0\0\0\0\0\x80"]


def some_requests(mutator: Mutator) -> list[bytes]:
    random = mutator.random
    sequences, sizes = [1, 2, 3, 2**63], [0, 1, 64, 65, 200]
    return [
        make_request(random.randrange(3), START, random.choice(sequences), size=random.choice(sizes))
        for _ in range(random.randrange(1, 4))
    ]


class Streams:
    """One stream after another, mutated, cut anywhere, fed to a reader."""

    limits = LIMITS

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed, fields=FIELDS)
        self.last = frame(HELLO, b"first")

    def one(self) -> None:
        random = self.mutator.random
        kinds = [(HELLO, bytes(random.randrange(20))), (MESSAGE, bytes(random.choice([0, 255, 300])))]
        kinds += [(REQUEST, request) for request in some_requests(self.mutator)]
        stream = b"".join(frame(*random.choice(kinds)) for _ in range(random.randrange(1, 4)))
        mutated, self.last = self.mutator.mutate(stream, self.last), stream
        expected, broken = wire.frames(mutated, LIMITS)
        reader = FrameReader(self.limits)
        seen: list[tuple[int, bytes]] = []
        cut = random.randrange(len(mutated) + 1)
        try:
            for part in (mutated[:cut], mutated[cut:]):
                seen += reader.feed(part, 0)
        except FrameError:
            assert broken
            assert seen == expected[: len(seen)]
            return
        assert not broken
        assert seen == expected
        assert reader.buffered() == len(mutated) - sum(5 + len(payload) for _, payload in seen)


class RequestLists:
    """Mutated request lists, for everything that takes one."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed, fields=FIELDS)
        self.last = join_requests([make_request(1, START, 1)])
        self.pool = native_pool(RULES)
        self.now = START

    def one(self) -> None:
        random = self.mutator.random
        data = join_requests(some_requests(self.mutator))
        mutated, self.last = self.mutator.mutate(data, self.last), data
        expected = wire.requests(mutated)
        self.judge(mutated, expected)
        most = wire.REQUEST_OVERHEAD + RULES.max_operation_bytes
        bounded = expected is not None and all(len(one) <= most for one in expected)
        try:
            if random.random() < 0.5:
                self.pool.admit(mutated, random.randrange(3), self.now)
            else:
                self.pool.admit_body(mutated, self.now)
            assert bounded
        except MalformedMessage:
            assert not bounded
        self.go_on()

    @staticmethod
    def judge(data: bytes, expected: list[bytes] | None) -> None:
        try:
            requests = [encode_request(*request) for request in split_requests(data)]
            digests = request_digests(RULES.chain_id, data)
        except RemoteProtocolError:
            assert expected is None
        else:
            assert requests == expected
            assert join_requests(requests) == data
            assert len(digests) == 32 * len(requests)

    def go_on(self) -> None:
        """Whatever came in, the pool works and keeps its limits."""
        pool = self.pool
        job = pool.take_unverified(3)
        if job is not None:
            pool.apply_verdicts(job, verdicts(job.data))
        self.now += 1
        digests, data = pool.form_batch(4, 1500, self.now)
        if digests:
            # The clock moves with every decision and numbers them.
            pool.decide(digests, data, self.now, self.now)
            results = join_results([b"r"] * (len(digests) // 32))
            pool.executed(digests, data, results, self.now, 0, self.now, 0)
            pool.release(digests, data)
        pool.take_replies()
        stats = pool.stats()
        assert stats["pending"] <= 2 * RULES.max_requests
        assert stats["bytes"] <= 2 * RULES.max_bytes


class Batches(RequestLists):
    """Mutated batches, for what takes decided ones: a verdict or the caller's error, and nothing changes."""

    def one(self) -> None:
        data = join_requests(some_requests(self.mutator))
        mutated, self.last = self.mutator.mutate(data, self.last), data
        before = self.pool.stats()
        self.pool.check(mutated, self.mutator.random.choice([0, self.now, 2**64 - 1]), 2, 500)
        digests = self.mutator.mutate(bytes(32), mutated)
        for call in (
            lambda: self.pool.resolve(digests),
            lambda: self.pool.collect(digests),
            lambda: self.pool.decide(digests, mutated, 1, 0),
            lambda: self.pool.executed(bytes(32), mutated, mutated, 1, 0, 1, 0),
            lambda: self.pool.release(digests, mutated),
        ):
            with contextlib.suppress(LocalProtocolError):
                call()
        assert self.pool.stats() == before


class Replies:
    """Mutated reply streams from one replica do not hurt what the others say."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed, fields=FIELDS)
        self.last = frame(REPLY, self.reply(0, bytes(32)))
        self.number = 0

    @staticmethod
    def reply(replica: int, digest: bytes) -> bytes:
        return struct.pack("<HBBIQQ", replica, 0, 1, 0, 5, 6) + digest + b"result"

    def one(self) -> None:
        self.number += 1
        digest = self.number.to_bytes(32, "little")
        matcher = ReplyMatcher(4, 3)
        matcher.expect(digest, 0, 0)
        stream = frame(REPLY, self.reply(3, digest)) * self.mutator.random.randrange(1, 4)
        mutated, self.last = self.mutator.mutate(stream, self.last), stream
        completed = matcher.feed(0, frame(REPLY, self.reply(0, digest)), 0)
        with contextlib.suppress(RemoteProtocolError):
            completed += matcher.feed(3, mutated, 0)
        assert completed == 0
        for replica in (1, 2):
            completed += matcher.feed(replica, frame(REPLY, self.reply(replica, digest)), 0)
        assert completed == 1
        assert matcher.outstanding() == 0


Fuzzer = Streams | RequestLists | Replies


def assert_survives(fuzzer: Fuzzer, count: int) -> None:
    for _ in range(count):
        fuzzer.one()


@pytest.mark.parametrize("target", [Streams, RequestLists, Batches, Replies])
def test_mutated_bytes(target):
    assert_survives(target(seed=1), executions())


class LimitOneTooHigh(Streams):
    """Planted bug: a reader whose limits are off by one."""

    limits = {kind: limit + 1 for kind, limit in LIMITS.items()}


class MalformedIsEmpty(RequestLists):
    """Planted bug: a malformed list passes for an empty one."""

    @staticmethod
    def judge(data: bytes, expected: list[bytes] | None) -> None:
        RequestLists.judge(data, expected or [])


@pytest.mark.parametrize("mutant", [LimitOneTooHigh, MalformedIsEmpty])
def test_planted_bug_is_found(mutant):
    fuzzer = mutant(seed=1)
    with pytest.raises(AssertionError):
        assert_survives(fuzzer, 20_000)
