"""A member repeats what it has signed without end: its checks must not take the loop away from the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kit.cluster import Cluster, Node, make_view
from kit.regencies import accept, digest_of, value_of
from kit.requests import TestClient

from smartbft._fastpath.frames import MESSAGE
from smartbft._fastpath.pool import join_results
from smartbft.core.effects import Execute, Persist
from smartbft.limits import MAX_MEMBERS, USELESS_SECONDS_AT_ONCE, USELESS_SHARE
from smartbft.messages import Message, Propose, Write, encode
from smartbft.quorum import max_faulty
from smartbft.runtime import driver, throttle
from smartbft.runtime import peers as peers_module
from smartbft.runtime.driver import Driver
from smartbft.runtime.journal import Journal
from smartbft.runtime.peers import PeerChannels
from smartbft.runtime.throttle import peer_budget
from smartbft.token_bucket import TokenBucket
from smartbft.types import Parameters

LIAR = 3
COST = 0.001  # seconds of each call of the planted clock
VOTE_COST = 0.1  # much, so that a few instances use up what may be wasted at once


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
        asyncio.get_running_loop().time = lambda: 100.0  # type: ignore[method-assign]  # a budget grows with time
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


def seconds_to_rest(n: int) -> float:
    """A replica's loop does nothing but take the votes of 2f correct peers, always in the same order, and the others
    are silent; returns the longest rest that any of the peers would have to take."""
    node = Node(0, make_view(n), Parameters())
    node.introduce()
    driving = make_driver(node)
    driving._actions[Execute] = lambda batch: node.executed.append(batch)
    f = max_faulty(n)
    peers = range(1, 2 * f + 1)
    budgets = {peer: peer_budget(f) for peer in peers}
    longest = 0.0

    def take(sender: int, message: Message) -> None:
        nonlocal longest
        node.now += int(VOTE_COST * 1e6)
        rest = budgets[sender].charge(driving.message(sender, encode(message)), node.now / 1e6)
        longest = max(longest, rest)

    client = TestClient()
    for instance in range(1, 41):
        data = client.requests(b"%d" % instance)
        node.pool.admit(data, 7, node.now)
        while (job := node.pool.take_unverified(1)) is not None:
            node.pool.apply_verdicts(job, job.run())
        digest = digest_of(data, node.now)
        take(node.replica.leader, Propose(0, 0, instance, value_of(data, node.now)))
        for peer in peers:
            take(peer, Write(0, 0, instance, digest))
        for peer in peers:
            take(peer, accept(peer, 0, instance, digest))
        driving.executed(instance, join_results([b""]))
        assert node.replica.decided == instance
    driving.stop()
    return longest


@pytest.mark.parametrize("n", [4, 7, 31, MAX_MEMBERS])
def test_votes_that_a_quorum_did_not_need_are_not_held_against_correct_peers(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(1_000_000))
    monkeypatch.setattr(driver.time, "thread_time", lambda: next(ticks) * VOTE_COST)

    async def scenario() -> None:
        assert seconds_to_rest(n) == 0
        monkeypatch.setattr(throttle, "USELESS_SHARE", USELESS_SHARE / 2)
        assert seconds_to_rest(n) > 0, "planted bug: half of that share must show"

    asyncio.run(scenario())


def test_all_liars_together_leave_the_others_their_part_of_the_loop() -> None:
    for f in (1, 2, 10, 21):
        budgets = [peer_budget(f) for _ in range(f)]
        resting = sum(1 - 1 / (1 + budget.charge(USELESS_SECONDS_AT_ONCE + 1, 0.0)) for budget in budgets)
        assert f - resting <= USELESS_SHARE, "a second of waste, then the rest that it takes"


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
