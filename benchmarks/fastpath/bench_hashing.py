"""Batch hashing beside what a Python user would write without us: ``pytest benchmarks/fastpath/bench_hashing.py``.

One thread everywhere; the figure is the time of one call for the whole batch. ``--benchmark-group-by=group`` puts the
rivals side by side.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

import numpy
import pytest
from blake3 import blake3
from pytest_benchmark.fixture import BenchmarkFixture

from smartbft._fastpath import hashing

COUNT = 1024
SIZES = (32, 310, 1024, 4096)

HashMany = Callable[[Sequence[bytes]], object]

RIVALS: dict[str, HashMany] = {
    "smartbft hash_many": hashing.hash_many,
    "blake3, one by one": lambda messages: b"".join([blake3(message).digest() for message in messages]),
    "hashlib sha256": lambda messages: b"".join([hashlib.sha256(message).digest() for message in messages]),
    "hashlib blake2b": lambda messages: b"".join(
        [hashlib.blake2b(message, digest_size=32).digest() for message in messages]
    ),
}


@pytest.fixture(params=SIZES)
def messages(request: pytest.FixtureRequest) -> list[bytes]:
    return [os.urandom(request.param) for _ in range(COUNT)]


@pytest.mark.parametrize("rival", RIVALS)
def test_hash_many(benchmark: BenchmarkFixture, messages: list[bytes], rival: str) -> None:
    benchmark.group = f"{COUNT} messages of {len(messages[0])} bytes"
    benchmark(RIVALS[rival], messages)


def test_hash_many_packed(benchmark: BenchmarkFixture, messages: list[bytes]) -> None:
    benchmark.group = f"{COUNT} messages of {len(messages[0])} bytes"
    data, size = b"".join(messages), len(messages[0])
    offsets = numpy.arange(COUNT + 1, dtype=numpy.uint64) * size
    benchmark(hashing.hash_many_packed, data, offsets)


def merkle_root_in_python(leaves: Sequence[bytes]) -> bytes:
    """A Merkle tree over the `blake3` package, with prefix bytes for its domains as RFC 6962 has them."""
    level = [blake3(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [blake3(b"\1" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)] + odd
    return level[0]


@pytest.mark.parametrize("rival", [hashing.merkle_root, merkle_root_in_python], ids=["smartbft", "blake3, one by one"])
def test_merkle_root(benchmark: BenchmarkFixture, rival: HashMany) -> None:
    benchmark.group = f"Merkle root of {COUNT} leaves of 310 bytes"
    benchmark(rival, [os.urandom(310) for _ in range(COUNT)])
