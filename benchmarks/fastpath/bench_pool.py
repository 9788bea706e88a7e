"""What a request costs on its way through frames and pool, stage by stage.

Run with ``pytest benchmarks/fastpath/bench_pool.py``.

1024 clients with one session each, requests of 310 bytes and replies of 380 (the paper's SPEND), batches of 1024
requests, eight connections, 64 KiB per reception. Signature checks are not part of it (see ``bench_verify.py``): the
masks are all ones. One round of a stage handles 4096 requests; the figure that counts is ``us per request`` in the
extra info, the median over all rounds. `bench_plain_python` is what `feed` costs in plain Python.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from time import perf_counter

import pytest
from blake3 import blake3
from pytest_benchmark.fixture import BenchmarkFixture

from smartbft import limits
from smartbft._fastpath.frames import REPLY, REQUEST, FrameReader, ReplyMatcher, frame
from smartbft._fastpath.pool import RequestPool, encode_request, join_results

CHAIN = bytes(range(32))
START = 1_700_000_000_000_000
CLIENTS = 1024
CONNECTIONS = 8
BATCH = 1024
BATCHES = 4
COUNT = BATCH * BATCHES
REQUEST_BYTES, REPLY_BYTES = 310, 380
RECEPTION_BYTES = 64 * 1024
RESULTS = join_results([bytes(REPLY_BYTES - limits.REPLY_HEADER_BYTES)] * BATCH)
STAGES = (
    "feed",
    "take_unverified",
    "apply_verdicts",
    "form_batch",
    "resolve",
    "check",
    "decide",
    "executed",
    "release",
    "take_replies",
)


def new_pool() -> RequestPool:
    return RequestPool(
        CHAIN,
        window=limits.DEFAULT_WINDOW,
        max_requests=limits.MAX_POOL_REQUESTS,
        max_bytes=limits.MAX_POOL_BYTES,
        max_operation_bytes=limits.MAX_OPERATION_BYTES,
        max_sessions=limits.MAX_SESSIONS,
        max_sessions_per_key=limits.MAX_SESSIONS_PER_KEY,
        max_unverified_per_source=limits.MAX_UNVERIFIED_PER_SOURCE,
        lease=limits.SESSION_LEASE_MICROSECONDS,
        skew=limits.CLOCK_SKEW_MICROSECONDS,
    )


class Cycle:
    """Rounds of `COUNT` requests through one pool, each stage timed apart."""

    def __init__(self) -> None:
        self.keys = [os.urandom(32) for _ in range(CLIENTS)]
        self.pool = new_pool()
        self.readers = [
            FrameReader({REQUEST: limits.MAX_REQUEST_BYTES}, self.pool, number + 1) for number in range(CONNECTIONS)
        ]
        self.sequence = 0
        self.instance = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def streams(self) -> list[bytes]:
        """The next requests of all clients, as they come over the connections."""
        frames: list[list[bytes]] = [[] for _ in self.readers]
        operation = bytes(REQUEST_BYTES - limits.REQUEST_OVERHEAD_BYTES)
        for _ in range(COUNT // CLIENTS):
            self.sequence += 1
            for number, key in enumerate(self.keys):
                request = encode_request(key, START, self.sequence, operation, os.urandom(64))
                frames[number % CONNECTIONS].append(frame(REQUEST, request))
        return [b"".join(stream) for stream in frames]

    def timed(self, stage: str, call: Callable[..., object], *arguments: object) -> object:
        start = perf_counter()
        result = call(*arguments)
        self.seconds[stage] += perf_counter() - start
        return result

    def round(self, streams: list[bytes]) -> None:
        now = START + self.sequence * 1000
        for reader, stream in zip(self.readers, streams, strict=True):
            view = memoryview(stream)
            for at in range(0, len(stream), RECEPTION_BYTES):
                self.timed("feed", reader.feed, view[at : at + RECEPTION_BYTES], now)
        jobs = []
        while (job := self.timed("take_unverified", self.pool.take_unverified, limits.VERIFY_JOB_REQUESTS)) is not None:
            jobs.append(job)
        for job in jobs:
            self.timed("apply_verdicts", self.pool.apply_verdicts, job, b"\1" * job.count)  # type: ignore[attr-defined]
        for number in range(BATCHES):
            self.instance += 1
            self.order(now + number)

    def order(self, timestamp: int) -> None:
        pool, size = self.pool, (BATCH, limits.MAX_BATCH_BYTES)
        digests, data = self.timed("form_batch", pool.form_batch, *size, timestamp)  # type: ignore[misc]
        assert self.timed("resolve", pool.resolve, digests) == (data, b"", 0)
        assert self.timed("check", pool.check, data, timestamp, *size) == 0
        self.timed("decide", pool.decide, digests, data, self.instance, timestamp)
        self.timed("executed", pool.executed, digests, data, RESULTS, self.instance, 0, timestamp, 2)
        self.timed("release", pool.release, digests, data)
        replies = self.timed("take_replies", pool.take_replies)
        assert sum(len(frames) for _, frames in replies) == BATCH * (REPLY_BYTES + 5)  # type: ignore[attr-defined]


def report(benchmark: BenchmarkFixture, count: int = COUNT) -> None:
    benchmark.extra_info["us per request"] = round(benchmark.stats.stats.median / count * 1e6, 3)


def bench_cycle(benchmark: BenchmarkFixture) -> None:
    """All stages; their shares are in the extra info."""
    cycle = Cycle()
    cycle.round(cycle.streams())
    cycle.seconds = dict.fromkeys(STAGES, 0.0)
    rounds = 20
    benchmark.pedantic(cycle.round, setup=lambda: ((cycle.streams(),), {}), rounds=rounds)
    for stage in STAGES:
        benchmark.extra_info[f"us per request, {stage}"] = round(cycle.seconds[stage] / rounds / COUNT * 1e6, 3)
    report(benchmark)


@pytest.mark.parametrize("replicas", [1, 4])
def bench_matcher(benchmark: BenchmarkFixture, replicas: int) -> None:
    """The client's side: `replicas` equal replies per request, all of them needed."""
    digests = [os.urandom(32) for _ in range(COUNT)]
    result = bytes(REPLY_BYTES - limits.REPLY_HEADER_BYTES)
    streams = [
        b"".join(
            frame(REPLY, struct.pack("<HBBIQQ", replica, 0, 2, 0, 1, START) + digest + result) for digest in digests
        )
        for replica in range(replicas)
    ]

    def fresh() -> tuple[tuple[ReplyMatcher], dict[str, object]]:
        matcher = ReplyMatcher(replicas, replicas)
        matcher.keep_replies(False)
        matcher.expect(b"".join(digests), 0, 0)
        return (matcher,), {}

    def collect(matcher: ReplyMatcher) -> None:
        for replica, stream in enumerate(streams):
            view = memoryview(stream)
            for at in range(0, len(stream), RECEPTION_BYTES):
                matcher.feed(replica, view[at : at + RECEPTION_BYTES], 100)
        assert matcher.outstanding() == 0

    benchmark.pedantic(collect, setup=fresh, rounds=20)
    report(benchmark)


def plain_feed(stream: bytes, key: bytes, pool: dict[bytes, tuple[bytes, int, int, bytes]]) -> None:
    """Parse, digest and index the requests of a stream, with nothing checked that the native reader checks besides."""
    at = 0
    while at < len(stream):
        length, _ = struct.unpack_from("<IB", stream, at)
        request = stream[at + 5 : at + 4 + length]
        session, sequence, _ = struct.unpack_from("<QQI", request, 32)
        pool[blake3(request, key=key).digest()] = (request[:32], session, sequence, request)
        at += 4 + length


def bench_plain_python(benchmark: BenchmarkFixture) -> None:
    """The stage `feed` as a Python user would write it without us."""
    streams = Cycle().streams()

    def feed() -> None:
        pool: dict[bytes, tuple[bytes, int, int, bytes]] = {}
        for stream in streams:
            plain_feed(stream, CHAIN, pool)
        assert len(pool) == COUNT

    benchmark.pedantic(feed, rounds=10)
    report(benchmark)
