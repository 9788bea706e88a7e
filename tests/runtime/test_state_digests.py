"""Digests of large states: the loop goes on meanwhile, so does everybody else, and a mistake in one ends nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from kit.coins import MINTER, SECONDS, coin_cluster
from kit.patience import PATIENCE_SECONDS, reach, until

from smartbft import LocalCluster
from smartbft.apps import coin
from smartbft.apps.coin import CoinApplication
from smartbft.apps.counter import Counter, add, decode_value
from smartbft.cli.digests import Digests
from smartbft.cli.status import Answers, _ask, _row, _watch
from smartbft.config import ClientProfile
from smartbft.crypto.keys import generate_key
from smartbft.errors import NotEnoughReplies
from smartbft.runtime import executor as executors
from smartbft.smr.application import ExecutionContext
from smartbft.smr.per_operation import PerOperation

Run = Callable[[Callable[[], Awaitable[None]]], None]


class Large(Counter):
    """Its snapshot is made when the test says so: the first replica's, or everybody's."""

    made = 0

    def __init__(self, may_end: threading.Event) -> None:
        super().__init__()
        self.may_end = may_end
        self.began = threading.Event()
        self.number = Large.made
        Large.made += 1

    def snapshot(self) -> bytes:
        self.began.set()
        self.may_end.wait(PATIENCE_SECONDS)
        return super().snapshot()


@pytest.fixture
def slow_first() -> tuple[Callable[[], Counter], list[Large]]:
    """Makes applications of which the first one is `Large`; it is in the list, once it is made."""
    made: list[Large] = []

    def make() -> Counter:
        if made:
            return Counter()
        made.append(Large(threading.Event()))
        return made[0]

    return make, made


def test_the_loop_and_everybody_else_go_on(run: Run, slow_first: Any) -> None:
    make, made = slow_first

    async def scenario() -> None:
        async with LocalCluster(4, make) as cluster, cluster.client() as client, cluster.client() as other:
            await reach(client)
            await reach(other)
            digest = asyncio.ensure_future(client.status(0, digest=True, timeout=PATIENCE_SECONDS))
            await until(made[0].began.is_set)
            assert decode_value(await other.invoke(add(1), SECONDS)) == 1
            facts = await other.status(0, timeout=PATIENCE_SECONDS)
            assert "digest" not in facts
            while (await other.status(0, timeout=PATIENCE_SECONDS))["decided"] == 0:
                continue
            assert not digest.done()
            made[0].may_end.set()
            answer = await digest
            assert (answer["digest_instance"], answer["digest"]) == (0, blake3(Counter().snapshot()).hexdigest())
            while (await other.status(0, timeout=PATIENCE_SECONDS))["executed"] == 0:
                continue

    run(scenario)


def test_planted_bug_the_loop_makes_the_snapshot(run: Run, slow_first: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing happens until the snapshot is made, which here gives up after a while."""
    make, made = slow_first
    monkeypatch.setattr(executors.SliceExecutor, "ask_apart", executors.SliceExecutor.ask)
    monkeypatch.setattr(
        Large, "snapshot", lambda self: Counter.snapshot(self) + (b"" if self.may_end.wait(0.2) else b"late")
    )

    async def scenario() -> None:
        async with LocalCluster(1, make) as cluster, cluster.client() as client:
            turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0.01)
                    turns += 1
                    made[0].may_end.set()

            turning = asyncio.ensure_future(turn())
            answer = await client.status(0, digest=True, timeout=PATIENCE_SECONDS)
            turning.cancel()
            assert answer["digest"] == blake3(Counter().snapshot()).hexdigest()

    with pytest.raises(AssertionError):
        run(scenario)


def test_a_stop_does_not_wait_for_a_digest(run: Run, slow_first: Any) -> None:
    make, made = slow_first

    async def scenario() -> None:
        async with LocalCluster(1, make) as cluster, cluster.client() as client:
            digest = asyncio.ensure_future(client.status(0, digest=True, timeout=PATIENCE_SECONDS))
            await until(made[0].began.is_set)
            await cluster.stop(0)
            with pytest.raises(NotEnoughReplies):
                await digest
        made[0].may_end.set()

    run(scenario)


class OfOneThread(Counter):
    """What it has belongs to the thread that made it, like a connection of sqlite3."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def snapshot(self) -> bytes:
        if threading.get_ident() != self.thread:
            raise RuntimeError("made in another thread")
        return super().snapshot()


class Broken(Counter):
    """Its snapshot raises."""

    def snapshot(self) -> bytes:
        raise ZeroDivisionError("no operations yet")


class NoBytes(Counter):
    """Its snapshot is none."""

    def snapshot(self) -> bytes:
        return "text"  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("application", "problem"),
    [(OfOneThread, ""), (Broken, "ZeroDivisionError: no operations yet"), (NoBytes, "is str, not bytes")],
)
def test_a_digest_that_cannot_be_made_ends_no_replica(run: Run, application: Callable[[], Any], problem: str) -> None:
    async def scenario() -> None:
        async with LocalCluster(1, application) as cluster, cluster.client() as client:
            for _ in range(2):
                answer = await client.status(0, digest=True, timeout=PATIENCE_SECONDS)
                assert problem in answer["application"].get("error", "")
                assert bool(answer["digest"]) == (not problem)
            assert decode_value(await client.invoke(add(1), SECONDS)) == 1

    run(scenario)


def test_a_captured_digest_is_of_the_moment_of_the_capture() -> None:
    coins = CoinApplication(bytes(32), [MINTER.public_key])
    counter = PerOperation(Counter())
    for application in (coins, counter):
        before, capture = application.digest(), application.capture_digest()
        assert capture() == before == blake3(application.snapshot()).digest()
    capture = counter.capture_digest()
    counter.machine.execute(add(1), ExecutionContext(1, 1, bytes(32)))
    assert capture() != counter.digest()


def test_the_coin_has_its_digest_made_beside_the_batches(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    def slow(application: CoinApplication) -> Callable[[], bytes]:
        digest = application.digest()
        return lambda: digest if may_end.wait(PATIENCE_SECONDS) else b""

    monkeypatch.setattr(CoinApplication, "capture_digest", slow)

    async def scenario() -> None:
        async with coin_cluster(1) as cluster, cluster.client(MINTER) as client, cluster.client() as other:
            digest = asyncio.ensure_future(other.status(0, digest=True, timeout=PATIENCE_SECONDS))
            for _ in range(3):
                coin.decode_created(await client.invoke(coin.mint([1]), SECONDS))
            assert not digest.done()
            may_end.set()
            assert len((await digest)["digest"]) == 64

    run(scenario)


# --- what the command makes of it ---


def profile_of(cluster: LocalCluster, folder: Path) -> ClientProfile:
    generate_key(folder / "client.key")
    return ClientProfile(folder / "client.toml", cluster.genesis, "plain", "memory", {"client": folder / "client.key"})


def test_a_replica_whose_digest_takes_long_has_a_row_without_it(run: Run, tmp_path: Path, slow_first: Any) -> None:
    make, made = slow_first

    async def scenario() -> None:
        async with LocalCluster(4, make) as cluster:
            profile = profile_of(cluster, tmp_path)
            answers, well = await _ask(profile, PATIENCE_SECONDS, 0.3, PATIENCE_SECONDS)
            assert well
            assert set(answers.facts) == {0, 1, 2, 3}
            assert answers.problems == {}
            assert [
                _row(replica, facts, 0, True)[-1] == "not yet" for replica, facts in sorted(answers.facts.items())
            ] == [
                True,
                False,
                False,
                False,
            ]
            made[0].may_end.set()
            answers, _ = await _ask(profile, PATIENCE_SECONDS, PATIENCE_SECONDS, None)
            assert len({facts["digest"] for facts in answers.facts.values()}) == 1

    run(scenario)


def test_a_watch_shows_rows_before_their_digests(
    run: Run, tmp_path: Path, slow_first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = slow_first
    shown: list[dict[int, bool]] = []

    def show(_profile: object, answers: Answers, *_: object, **__: object) -> None:
        shown.append({replica: "digest" in facts for replica, facts in answers.facts.items()})

    monkeypatch.setattr("smartbft.cli.status._print", show)
    monkeypatch.setattr("smartbft.cli.status._WATCH_SECONDS", 0.01)

    async def scenario() -> None:
        async with LocalCluster(4, make) as cluster:
            profile = profile_of(cluster, tmp_path)
            watching = asyncio.ensure_future(_watch(profile, PATIENCE_SECONDS, PATIENCE_SECONDS, True))
            await until(lambda: shown and shown[-1] == {0: False, 1: True, 2: True, 3: True})
            made[0].may_end.set()
            await until(lambda: shown[-1] == dict.fromkeys(range(4), True))
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    run(scenario)


class Asked:
    """Replica 1 never has a digest, and what replica 4 says is none; the others have one."""

    async def status(self, replica: int, **_: object) -> dict[str, Any]:
        if replica == 1:
            raise NotEnoughReplies("no answer in time")
        if replica == 4:
            return {"decided": 9, "digest": 7, "digest_instance": "none"}
        return {"decided": 9, "digest": "ab", "digest_instance": replica, "application": {}}


def test_digests_are_added_to_what_is_known() -> None:
    digests = Digests(Asked(), 1.0)  # type: ignore[arg-type]
    assert digests.missing() == ""
    asyncio.run(digests.ask([0, 1, 2, 4]))
    assert digests.missing() == ""
    facts = digests.add_to({0: {"decided": 7}, 1: {"decided": 7}, 3: {"decided": 7}, 4: {"decided": 7}})
    assert facts == {
        0: {"decided": 7, "digest": "ab", "digest_instance": 0, "application": {}},
        1: {"decided": 7},
        3: {"decided": 7},
        4: {"decided": 7},
    }
    digests.waiting = {2, 0}
    assert digests.missing() == "the digest of replicas 0 and 2: a large state, or a busy application"
