"""The coin's cost per transaction: native, and a plain-Python coin beside it.

Run with ``pytest benchmarks/fastpath/bench_coin.py``. Requests have the paper's sizes (MINT 180 bytes, SPEND 310 with
one input and two outputs, results 209 and 319); 1024 clients; `coins` unspent coins in the state to begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from blake3 import blake3
from nacl.signing import SigningKey
from oracles import coin as oracle
from oracles.coin import Request, request_list
from pytest_benchmark.fixture import BenchmarkFixture

from smartbft._fastpath.coin import CoinState
from smartbft.apps import coin

CHAIN = bytes(range(32))
KEYS = [blake3(number.to_bytes(2, "little")).digest() for number in range(1024)]
RECEIPTS = (coin.PAPER_MINT_RECEIPT_BYTES, coin.PAPER_SPEND_RECEIPT_BYTES)
BATCH = 1000
ROUNDS = 30


class Load:
    """Transactions of 1024 clients in turn; every SPEND spends a coin that its client minted."""

    def __init__(self) -> None:
        self.sequences = dict.fromkeys(KEYS, 0)
        self.unspent: dict[bytes, list[bytes]] = {key: [] for key in KEYS}
        self.turn = 0

    def _next(self) -> bytes:
        key = KEYS[self.turn % len(KEYS)]
        self.turn += 1
        self.sequences[key] += 1
        return key

    def mint(self) -> Request:
        key = self._next()
        self.unspent[key] += coin.predict_coin_ids(CHAIN, key, 1, self.sequences[key], 1)
        return Request(key, 1, self.sequences[key], coin.paper_mint(2))

    def spend(self) -> Request:
        key = self._next()
        other = KEYS[self.turn * 7 % len(KEYS)]
        spent = self.unspent[key].pop(0)
        return Request(key, 1, self.sequences[key], coin.paper_spend(spent, [(other, 1), (key, 1)]))


def batches(make: Callable[[], Request], count: int) -> Iterator[list[Request]]:
    for _ in range(count):
        yield [make() for _ in range(BATCH)]


def native_coin() -> CoinState:
    return CoinState(CHAIN, b"".join(KEYS), receipt_bytes_mint=RECEIPTS[0], receipt_bytes_spend=RECEIPTS[1])


def report(benchmark: BenchmarkFixture) -> None:
    benchmark.extra_info["us per transaction"] = round(benchmark.stats.stats.median / BATCH * 1e6, 3)


@pytest.mark.parametrize("coins", [100_000, 1_000_000])
@pytest.mark.parametrize("kind", ["mint", "spend"])
def bench_native(benchmark: BenchmarkFixture, kind: str, coins: int) -> None:
    load, state = Load(), native_coin()
    for batch in batches(load.mint, coins // BATCH):
        state.execute_batch(request_list(batch))
    waiting = [request_list(batch) for batch in batches(getattr(load, kind), ROUNDS + 1)]
    benchmark.pedantic(state.execute_batch, setup=lambda: ((waiting.pop(0),), {}), rounds=ROUNDS, warmup_rounds=1)
    report(benchmark)
    assert state.supply() == state.minted()


@pytest.mark.parametrize("kind", ["mint", "spend"])
def bench_plain_python(benchmark: BenchmarkFixture, kind: str) -> None:
    load, state = Load(), oracle.Coin(CHAIN, KEYS, RECEIPTS)
    for batch in batches(load.mint, 3 * ROUNDS):
        state.execute_batch(batch)
    waiting = list(batches(getattr(load, kind), 6))
    benchmark.pedantic(state.execute_batch, setup=lambda: ((waiting.pop(0),), {}), rounds=5, warmup_rounds=1)
    report(benchmark)


def bench_sequential_signatures(benchmark: BenchmarkFixture) -> None:
    """The paper's left columns: each signature checked inside the execution, one after the other."""
    signer = SigningKey(bytes(32))
    key = bytes(signer.verify_key)
    domain = blake3(CHAIN, derive_key_context="smartbft v1 request signature").digest()
    requests = []
    for sequence in range(1, BATCH + 1):
        bare = Request(key, 1, sequence, coin.paper_mint(2))
        requests.append(replace(bare, signature=signer.sign(domain + bare.unsigned()).signature))
    data = request_list(requests)
    benchmark.pedantic(
        lambda state: state.execute_batch(data, verify_signatures=True),
        setup=lambda: ((CoinState(CHAIN, key),), {}),
        rounds=5,
    )
    report(benchmark)


@pytest.mark.parametrize("kind", ["mint", "spend"])
def bench_check(benchmark: BenchmarkFixture, kind: str) -> None:
    load, state = Load(), native_coin()
    minted = [request_list(batch) for batch in batches(load.mint, 2)]
    data = minted[0] if kind == "mint" else request_list(next(batches(load.spend, 1)))
    benchmark(state.check_batch, data)
    report(benchmark)


@pytest.mark.parametrize("what", ["capture", "snapshot", "digest", "restore"])
def bench_whole_state(benchmark: BenchmarkFixture, what: str) -> None:
    load, state = Load(), native_coin()
    for batch in batches(load.mint, 200):
        state.execute_batch(request_list(batch))
    snapshot = state.snapshot()
    arguments = (snapshot,) if what == "restore" else ()
    benchmark.pedantic(getattr(state, what), arguments, rounds=3)
    benchmark.extra_info["ns per coin"] = round(benchmark.stats.stats.median / 200_000 * 1e9)
