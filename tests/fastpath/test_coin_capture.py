"""A capture of the coin is of its moment, whatever is executed, restored, captured or dropped afterwards."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from blake3 import blake3
from oracles.coin import Request, mint, request_list, spend

from smartbft._fastpath import coin as native
from smartbft._fastpath.coin import CoinCapture, CoinState
from smartbft.apps.coin import CoinApplication

CHAIN = bytes(range(32))
ALICE = blake3(b"alice").digest()
ADDRESSES = [blake3(bytes([number])).digest() for number in range(20)]
Capture = Callable[[CoinState], CoinCapture]


class Chain:
    """A stream of valid batches: mints, and spends that scatter over all coins; owners come and go."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.sequences: dict[bytes, int] = {}
        self.live: list[tuple[bytes, bytes]] = []

    def batch(self, size: int) -> bytes:
        growing = self.random.random() < 0.5
        return request_list(
            [self._mint() if growing and self.random.random() < 0.3 else self._spend() for _ in range(size)]
        )

    def _request(self, key: bytes, operation: bytes, owners: list[bytes]) -> Request:
        sequence = self.sequences[key] = self.sequences.get(key, 0) + 1
        names = [native.coin_id(CHAIN, key, 1, sequence, index) for index in range(len(owners))]
        self.live += zip(names, owners, strict=True)
        return Request(key, 1, sequence, operation)

    def _mint(self) -> Request:
        count = self.random.randint(1, 60)
        return self._request(ALICE, mint([1] * count), [ALICE] * count)

    def _spend(self) -> Request:
        if not self.live:
            return self._mint()
        at = self.random.randrange(len(self.live))
        (name, owner), self.live[at] = self.live[at], self.live[-1]
        self.live.pop()
        receiver = self.random.choice([ALICE, *ADDRESSES])
        return self._request(owner, spend([name], [(receiver, 1)]), [receiver])


def empty_coin() -> CoinState:
    return CoinState(CHAIN, ALICE)


def walk(seed: int, capture: Capture = CoinState.capture, steps: int = 60) -> tuple[int, int]:
    """Batches into a state that is captured now and then, and into one that never is.

    Returns how many captures were compared, and the most coins there were.
    """
    random, chain = Random(seed), Chain(seed)
    state, twin, compared, most = empty_coin(), empty_coin(), 0, 0
    held: list[tuple[CoinCapture, bytes]] = []
    for _ in range(steps):
        choice = random.random()
        if choice < 0.6:
            batch = chain.batch(random.randint(1, 40))
            assert state.execute_batch(batch) == twin.execute_batch(batch)
        elif choice < 0.8:
            held.append((capture(state), twin.snapshot()))
        elif choice < 0.95 and held:
            captured, expected = held.pop(random.randrange(len(held)))
            assert_of_its_moment(captured, expected)
            compared += 1
        else:
            state.restore(state.snapshot())
        most = max(most, state.coins())
    for captured, expected in held:
        assert_of_its_moment(captured, expected)
    assert state.snapshot() == twin.snapshot()
    assert state.supply() == state.minted()
    return compared + len(held), most


def assert_of_its_moment(captured: CoinCapture, expected: bytes) -> None:
    assert captured.digest() == blake3(expected).digest(), "the digest is of another moment"
    assert captured.snapshot() == expected, "the capture is of another moment"
    assert captured.snapshot() == expected, "once more"


@pytest.mark.parametrize("seed", range(25))
def test_captures_are_of_their_moment(seed: int) -> None:
    compared, _ = walk(seed)
    assert compared > 0


def test_walks_reach_many_chunks() -> None:
    assert max(walk(seed)[1] for seed in range(10)) > 40 * 64


def test_captures_on_other_threads_while_batches_are_executed() -> None:
    """Each snapshot is one of those between two batches, and the one of its moment."""
    chain = Chain(3)
    batches = [chain.batch(200) for _ in range(40)]
    state, twin = empty_coin(), empty_coin()
    with ThreadPoolExecutor(2) as workers:
        futures = []
        for batch in batches:
            state.execute_batch(batch)
            twin.execute_batch(batch)
            captured = state.capture()
            futures.append((workers.submit(captured.snapshot), workers.submit(captured.digest), twin.snapshot()))
        for snapshot, digest, expected in futures:
            assert snapshot.result() == expected
            assert digest.result() == blake3(expected).digest()


def test_captures_by_another_thread_are_between_two_batches() -> None:
    chain = Chain(4)
    batches = [chain.batch(100) for _ in range(60)]
    twin, between = empty_coin(), {empty_coin().snapshot(): 0}
    for number, batch in enumerate(batches, 1):
        twin.execute_batch(batch)
        between[twin.snapshot()] = number
    state = empty_coin()
    worker = threading.Thread(target=lambda: [state.execute_batch(batch) for batch in batches])
    worker.start()
    captures = [state.capture()]
    while worker.is_alive():
        captures.append(state.capture())
        if len(captures) > 50:
            del captures[::2]
    worker.join()
    numbers = [between[captured.snapshot()] for captured in captures]
    assert numbers == sorted(numbers)
    assert between[state.snapshot()] == len(batches)


def test_a_capture_outlives_its_state() -> None:
    state = empty_coin()
    state.execute_batch(Chain(1).batch(300))
    expected, captured = state.snapshot(), state.capture()
    del state
    assert_of_its_moment(captured, expected)


def test_a_capture_of_nothing() -> None:
    captured = empty_coin().capture()
    assert captured.snapshot() == b"SBCOIN\0\1" + CHAIN + struct.pack("<QQQ", 0, 0, 0)


def test_captures_are_made_by_the_state_only() -> None:
    with pytest.raises(TypeError, match=r"CoinState\.capture"):
        CoinCapture()
    with pytest.raises(TypeError, match=r"CoinState\.capture"):
        CoinCapture.__new__(CoinCapture).snapshot()


def test_the_application_captures_natively() -> None:
    application = CoinApplication(CHAIN, [ALICE])
    chain = Chain(5)
    application.state.execute_batch(chain.batch(100))
    before, captured = application.snapshot(), application.capture()
    application.state.execute_batch(chain.batch(100))
    assert application.snapshot() != before
    assert captured() == before


# --- planted bugs ---


class Late:
    """A snapshot of the state as it is when somebody asks for it."""

    def __init__(self, state: CoinState) -> None:
        self._state = state

    def snapshot(self) -> bytes:
        return self._state.snapshot()

    def digest(self) -> bytes:
        return self._state.digest()


class HalfLate(Late):
    """The digest is of the moment, the snapshot is not."""

    def __init__(self, state: CoinState) -> None:
        super().__init__(state)
        self._digest = state.digest()

    def digest(self) -> bytes:
        return self._digest


class MixedUp(Late):
    """Coins that were replaced in their chunk show up in the capture: the copy comes too late."""

    def __init__(self, state: CoinState) -> None:
        super().__init__(state)
        self._captured = state.snapshot()

    def snapshot(self) -> bytes:
        now = self._state.snapshot()
        return self._captured if len(now) != len(self._captured) else self._captured[:-72] + now[-72:]

    def digest(self) -> bytes:
        return blake3(self._captured).digest()


@pytest.mark.parametrize("mutant", [Late, HalfLate, MixedUp])
def test_a_planted_bug_is_found(mutant: Capture) -> None:
    found = 0
    for seed in range(25):
        try:
            walk(seed, mutant)
        except AssertionError:
            found += 1
    assert found >= 1
