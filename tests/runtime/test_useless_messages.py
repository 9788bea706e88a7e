"""A member repeats what it has signed without end: its checks must not take the loop away from the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import accept, digest_of, value_of
from kit.requests import TestClient

from smartbft._fastpath.frames import MESSAGE
from smartbft.core.effects import Persist
from smartbft.limits import USELESS_SECONDS_AT_ONCE, USELESS_SHARE
from smartbft.messages import Message, Propose, Write, encode
from smartbft.net.token_bucket import TokenBucket
from smartbft.runtime import driver
from smartbft.runtime import peers as peers_module
from smartbft.runtime.driver import Driver
from smartbft.runtime.journal import Journal
from smartbft.runtime.peers import PeerChannels
from smartbft.runtime.throttle import peer_budget

LIAR = 3
COST = 0.001  # seconds of each call of the planted clock


class Connection:
    """A channel that notes how long it is not read."""

    failed = False
    address = "?"

    def __init__(self) -> None:
        self.peer = SimpleNamespace(replica=LIAR)
        self.rests: list[float] = []

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)

    def abort(self) -> None:
        pass


def channels(cost: float) -> PeerChannels:
    def failed(error: BaseException) -> None:
        raise error

    return PeerChannels(lambda _: None, lambda *_: cost, failed, 1)


def opened(peers: PeerChannels) -> Connection:
    connection = Connection()
    peers.opened(connection)  # type: ignore[arg-type]
    return connection


def receive(peers: PeerChannels, connection: Connection, count: int) -> None:
    peers.received(connection, [(MESSAGE, b"")] * count)  # type: ignore[arg-type]


def test_who_wastes_the_loop_s_time_is_read_more_slowly() -> None:
    async def scenario() -> None:
        peers = channels(COST)
        connection = opened(peers)
        allowed = int(USELESS_SECONDS_AT_ONCE / COST)
        receive(peers, connection, allowed - 100)
        assert connection.rests == []
        receive(peers, connection, 1100)
        [seconds] = connection.rests
        assert seconds == pytest.approx(1000 * COST / USELESS_SHARE, rel=0.1)
        again = opened(peers)
        receive(peers, again, 1)
        assert again.rests, "a new channel brings a new budget"

    asyncio.run(scenario())


def test_planted_bug_no_end_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "peer_budget", lambda _: TokenBucket(1e9, 1.0))
    with pytest.raises(ValueError, match="not enough values"):
        test_who_wastes_the_loop_s_time_is_read_more_slowly()


def test_who_is_useful_is_not() -> None:
    async def scenario() -> None:
        peers = channels(0.0)
        connection = opened(peers)
        receive(peers, connection, 100_000)
        assert connection.rests == []

    asyncio.run(scenario())


def test_all_that_may_be_faulty_have_one_share_together() -> None:
    seconds = {f: peer_budget(f).charge(USELESS_SECONDS_AT_ONCE + 1, 0) for f in (0, 1, 5)}
    assert seconds == {f: pytest.approx(max(1, f) / USELESS_SHARE) for f in (0, 1, 5)}


def test_what_is_answered_after_a_bad_message_does_not_count() -> None:
    """Nothing that came in one read with the message that closes the channel is looked at."""

    async def scenario() -> None:
        seen: list[int] = []

        def message(_: int, __: bytes) -> float:
            seen.append(1)
            connection.failed = True
            return 0.0

        peers = channels(0.0)
        peers._message = message
        connection = opened(peers)
        receive(peers, connection, 5)
        assert seen == [1]

    asyncio.run(scenario())


# --- what is of use ---


def make_driver(node: Node) -> Driver:
    def ignored(*_: Any) -> None:
        pass

    nobody: Any = SimpleNamespace(
        send=ignored,
        broadcast=ignored,
        penalise=ignored,
        write=ignored,
        execute=ignored,
        make=ignored,
        on_record=ignored,
        actions=dict,
    )

    def fail(error: BaseException) -> None:
        raise error

    return Driver(
        node.replica,
        node.validator,
        node.pool,
        Journal(None),
        immediate=True,
        peers=nobody,
        clients=nobody,
        executor=nobody,
        snapshots=nobody,
        serve=ignored,
        report=ignored,
        keys=nobody,
        regulate=ignored,
        fail=fail,
        clock=lambda: node.now,
    )


def test_a_message_is_of_use_if_something_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1_000_000))
    monkeypatch.setattr(driver.time, "thread_time", lambda: next(ticks) * COST)

    async def scenario() -> None:
        node = Cluster().nodes[0]
        data = TestClient().requests(b"x")
        node.admit(data)
        driving = make_driver(node)

        def waste(sender: int, message: Message) -> float:
            return driving.message(sender, encode(message))

        proposal = Propose(0, 0, 1, value_of(data))
        assert waste(1, proposal) == 0, "a vote came of it"
        assert waste(1, proposal) == pytest.approx(COST)
        vote = accept(LIAR, 0, 1, digest_of(data))
        assert [waste(LIAR, vote) for _ in range(3)] == [pytest.approx(COST)] * 3
        assert waste(2, Write(0, 0, 1, digest_of(data))) == pytest.approx(COST), "two are no quorum"
        assert waste(1, Write(0, 0, 1, digest_of(data))) == 0, "an ACCEPT came of it"
        driving.stop()
        assert Persist in driving._actions

    asyncio.run(scenario())
