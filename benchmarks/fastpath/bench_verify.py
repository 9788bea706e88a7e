"""Signature checks beside what a Python user would write without us: ``pytest benchmarks/fastpath/bench_verify.py``.

The figure is the time of one call for a whole batch: 1024 signatures by 1024 keys over messages of 310 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.signing import SigningKey, VerifyKey
from pytest_benchmark.fixture import BenchmarkFixture

from smartbft._fastpath import verify

COUNT = 1024
MESSAGE_BYTES = 310
BATCH_SIZES = (1, 8, 64, 256)

Batch = tuple[list[bytes], list[bytes], list[bytes]]


@pytest.fixture(scope="module")
def batch() -> Batch:
    signing_keys = [SigningKey.generate() for _ in range(COUNT)]
    messages = [os.urandom(MESSAGE_BYTES) for _ in range(COUNT)]
    signatures = [key.sign(message).signature for key, message in zip(signing_keys, messages, strict=True)]
    return [bytes(key.verify_key) for key in signing_keys], signatures, messages


def pynacl(keys: list[bytes], signatures: list[bytes], messages: list[bytes]) -> None:
    for key, signature, message in zip(keys, signatures, messages, strict=True):
        VerifyKey(key).verify(message, signature)


def openssl(keys: list[bytes], signatures: list[bytes], messages: list[bytes]) -> None:
    for key, signature, message in zip(keys, signatures, messages, strict=True):
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)


def singly(keys: list[bytes], signatures: list[bytes], messages: list[bytes]) -> None:
    for key, signature, message in zip(keys, signatures, messages, strict=True):
        assert verify.verify(key, signature, message)


def with_threads(threads: int) -> Callable[..., None]:
    def verify_many(keys: list[bytes], signatures: list[bytes], messages: list[bytes]) -> None:
        assert 0 not in verify.verify_many(keys, signatures, messages, threads=threads)

    return verify_many


RIVALS: dict[str, Callable[..., None]] = {
    "smartbft verify_many, 1 thread": with_threads(1),
    "smartbft verify_many, 2 threads": with_threads(2),
    "smartbft verify, one by one": singly,
    "PyNaCl, one by one": pynacl,
    "cryptography, one by one": openssl,
}


@pytest.mark.parametrize("rival", RIVALS)
def test_verify(benchmark: BenchmarkFixture, batch: Batch, rival: str) -> None:
    benchmark.group = f"{COUNT} signatures"
    benchmark(RIVALS[rival], *batch)


@pytest.mark.parametrize("size", BATCH_SIZES)
def test_verify_small_batches(benchmark: BenchmarkFixture, batch: Batch, size: int) -> None:
    benchmark.group = "small batches, one thread"
    benchmark(verify.verify_many, *(column[:size] for column in batch), threads=1)


@pytest.mark.parametrize("bad", [1, 16, COUNT])
def test_verify_with_bad_signatures(benchmark: BenchmarkFixture, batch: Batch, bad: int) -> None:
    benchmark.group = f"bad signatures among {COUNT}, one thread"
    keys, signatures, messages = batch
    spoiled = [signatures[i - 1] if i % (COUNT // bad) == 0 else signatures[i] for i in range(COUNT)]
    mask = benchmark(verify.verify_many, keys, spoiled, messages, threads=1)
    assert mask.count(0) == bad


def test_parsed_key(benchmark: BenchmarkFixture, batch: Batch) -> None:
    benchmark.group = "one signature"
    key, signature, message = (column[0] for column in batch)
    benchmark(verify.ParsedKey(key).verify, signature, message)
