"""Which number a client's session has: its own clock may be wrong, the replicas' may jump, and `f` of them may lie."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.patience import let_pass, until
from kit.played import PlayedReplica, Stage, executed, silent

from smartbft import AsyncClient, Indeterminate, LocalCluster
from smartbft._fastpath.pool import EXECUTED, SESSION_REFUSED
from smartbft.apps import counter
from smartbft.runtime.clocks import ReplicaClocks, SessionNumbers, wall_clock

Run = Callable[[Callable[[], Awaitable[None]]], None]
SECOND = 1_000_000
HOUR = 3600 * SECOND
LEASE, SKEW = HOUR, 60 * SECOND
NOW = 1_700_000_000 * SECOND
OFFSETS = [0, 90, -90, 3700, -3700, 10 * 365 * 86400, -50 * 365 * 86400]


class Watch:
    """A clock for tests."""

    def __init__(self, time: int) -> None:
        self.time = time

    def __call__(self) -> int:
        return self.time


def clocks(f: int = 1, own: int = NOW) -> tuple[ReplicaClocks, Watch]:
    steady = Watch(5 * HOUR)
    return ReplicaClocks(f, wall=Watch(own), steady=steady), steady


# --- what time it is ---


def test_fewer_than_2f_plus_1_replicas_do_not_say_what_time_it_is() -> None:
    some, _ = clocks(f=2)
    for replica in range(4):
        some.told(replica, NOW, 0)
        assert some.now() is None
    some.told(4, NOW, 0)
    assert some.now() == NOW
    some.told(4, 0, 0)  # says nothing, and has not said anything else
    assert some.now() == NOW


@pytest.mark.parametrize("lies", [(0, 0), (1, 2**61), (2**61, 2**61), (NOW - HOUR, NOW - HOUR)])
def test_f_liars_do_not_move_the_time(lies: tuple[int, int]) -> None:
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [0, 5, 1, 6, 2, 3, 4]):
        some, _ = clocks(f=2)
        for replica in order:
            said = (NOW + replica * SECOND, 0) if replica < 5 else (lies[replica - 5], lies[6 - replica])
            some.told(replica, *said)
            now = some.now()
            assert now is None or NOW <= now <= NOW + 4 * SECOND
        for time in (*lies, 1, 2**62):
            some.judged(5, time)
            some.judged(6, time)
            assert NOW <= (some.now() or 0) <= NOW + 4 * SECOND


def test_a_clock_goes_on_and_an_agreed_time_stands_still() -> None:
    some, steady = clocks(f=0)
    some.told(0, NOW, NOW + 2 * HOUR)
    assert some.now() == NOW + 2 * HOUR
    steady.time += HOUR
    assert some.now() == NOW + 2 * HOUR
    steady.time += 2 * HOUR
    assert some.now() == NOW + 3 * HOUR


def test_a_refusal_tells_the_time() -> None:
    some, steady = clocks(f=0)
    some.judged(0, NOW)
    steady.time += SECOND
    assert some.now() == NOW + SECOND
    some.judged(0, NOW + 2 * HOUR)  # ahead of its clock: the agreed time, until the clock says the same
    steady.time += HOUR
    assert some.now() == NOW + 2 * HOUR
    some.judged(0, NOW - HOUR)  # the clock was set back
    assert some.now() == NOW - HOUR


def test_a_time_that_f_plus_1_replicas_agree_on_has_been_reached() -> None:
    some, _ = clocks(f=0)
    some.told(0, NOW, 0)
    some.reached(NOW + HOUR)
    assert some.now() == NOW + HOUR


# --- numbers ---


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_number_is_one_that_the_replicas_take(offset: int) -> None:
    some, _ = clocks(own=NOW + offset * SECOND)
    numbers = SessionNumbers(some, LEASE, SKEW)
    assert numbers.choose() >= NOW + offset * SECOND  # nobody says anything else
    for replica in range(3):
        some.told(replica, NOW, 0)
    for _ in range(100):
        assert NOW - LEASE <= numbers.choose() <= NOW + SKEW


def test_clients_that_hear_of_one_agreed_time_choose_different_numbers() -> None:
    chosen = set()
    for _ in range(50):
        some, _ = clocks(own=NOW)
        for replica in range(3):
            some.told(replica, NOW, NOW + 2 * HOUR)
        SessionNumbers._used.clear()  # other processes
        chosen.add(SessionNumbers(some, LEASE, SKEW).choose())
    assert len(chosen) == 50


def test_a_session_fits_for_half_of_its_lease() -> None:
    some, steady = clocks()
    for replica in range(3):
        some.told(replica, NOW, 0)
    numbers = SessionNumbers(some, LEASE, SKEW)
    assert numbers.fits(NOW, 0)
    assert numbers.fits(NOW + SKEW, 0)
    assert not numbers.fits(NOW + SKEW + 1, 0)
    assert numbers.fits(NOW + SKEW + 1, NOW)  # it is open
    steady.time += LEASE // 2 + 1
    assert not numbers.fits(NOW, 0)
    assert numbers.fits(NOW, NOW + SECOND)


# --- a client ---


def with_clock(client: AsyncClient, offset: int) -> AsyncClient:
    """A client on a machine whose clock is so many seconds off."""
    client._clocks._wall = lambda: wall_clock() + offset * SECOND
    client._session = client._numbers.choose()
    return client


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("persistence", ["sync", "memory"])
def test_a_client_whose_clock_is_wrong_gets_its_results(run: Run, offset: int, persistence: Any) -> None:
    async def scenario() -> None:
        async with (
            LocalCluster(4, counter.Counter, persistence) as cluster,
            with_clock(cluster.client(), offset) as client,
        ):
            for number in range(1, 4):
                assert counter.decode_value(await client.invoke(counter.add(1))) == number

    run(scenario)


@pytest.mark.parametrize("lie", [1, 2**61, 4_000_000_000_000_000 - 30 * 60 * SECOND])
def test_one_liar_does_not_move_a_session(run: Run, lie: int) -> None:
    """Whether it says so when the client connects, or refuses each request first."""

    def only_then(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        now = 4_000_000_000_000_000
        if replica.id == 3:
            return [(SESSION_REFUSED, b"")]
        if not now - LEASE <= replica.requests[-1][0] <= now + SKEW:
            return [(SESSION_REFUSED, b"")]
        return executed(replica, sequence, operation) if replica.attempts(sequence) > 1 else []

    async def scenario() -> None:
        async with Stage(only_then, retransmit=0.05) as stage:
            stage.replicas[3].time = lambda: lie  # type: ignore[method-assign]
            client = await stage.connected()
            session = client.session
            for number in range(1, 20):
                assert await client.invoke(b"%d" % number) == b"done %d" % number
            assert client.session == session

    run(scenario)


def test_a_client_that_the_liar_answers_first_gets_on_after_its_session_is_over(run: Run) -> None:
    """The liar and one correct replica refuse, the time runs out: the next number is not the liar's."""

    async def scenario() -> None:
        async with Stage(silent) as stage:
            now = stage.replicas[0].time()
            stage.replicas[3].time = lambda: 1  # type: ignore[method-assign]
            client = await stage.connected()
            over = client.session

            def two_refuse(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
                if replica.requests[-1][0] == over:
                    return [(SESSION_REFUSED, b"")] if replica.id in (0, 3) else []
                return executed(replica, sequence, operation)

            stage.answer_with(two_refuse)
            asked = asyncio.create_task(client.invoke(b"x", timeout=30))
            await until(lambda: any(len(pending.votes.statuses()) == 2 for pending in client._pending.values()))
            let_pass(30)
            with pytest.raises(Indeterminate, match=r"replica 0 SESSION_REFUSED, replica 3 SESSION_REFUSED"):
                await asked
            assert now <= client.session <= now + HOUR
            assert client.session != over
            assert await client.invoke(b"y") == b"done y"

    run(scenario)


def test_a_refused_session_takes_nothing_with_it_that_may_have_been_executed(run: Run) -> None:
    """All refuse it after a jump of their clocks: what was in flight is unknown, and not sent in the next session."""

    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            before = client.session
            for replica in stage.replicas:
                replica.time = lambda: 4_000_000_000_000_000 + 2 * HOUR  # type: ignore[method-assign]

            def jumped(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
                old = replica.requests[-1][0] < replica.time() - LEASE
                return [(SESSION_REFUSED, b"")] if old else executed(replica, sequence, operation)

            stage.answer_with(jumped)
            with pytest.raises(Indeterminate, match=f"refuse session {before}"):
                await client.invoke(b"old")
            assert await client.invoke(b"new") == b"done new"
            assert {request for replica in stage.replicas for request in replica.requests} == {
                (before, 1, b"old"),
                (client.session, 1, b"new"),
            }

    run(scenario)


def test_a_session_that_was_not_used_for_half_of_its_lease_gives_way_unless_somebody_waits(run: Run) -> None:
    def late(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return [] if operation == b"slow" else [(EXECUTED, operation)]

    async def scenario() -> None:
        async with Stage(late) as stage:
            client = await stage.connected()
            first = client.session
            await client.invoke(b"1")
            slow = asyncio.create_task(client.invoke(b"slow"))
            await until(lambda: client._pending)
            steady = client._clocks._steady
            client._clocks._steady = lambda: steady() + LEASE
            await client.invoke(b"2")
            assert client.session == first
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            await client.invoke(b"3")
            assert client.session > first
            assert not client._apart  # nobody waits for anything of the old one

    run(scenario)


def test_a_client_in_doubt_about_the_time_waits_for_more_replicas(run: Run) -> None:
    """Of f + 1 that are connected one may lie; where none contradicts, there is nothing to wait for."""
    now = wall_clock()

    async def scenario() -> None:
        for reachable, offset, waits in [(2, 0, False), (2, 3700, True), (4, 3700, False)]:
            async with Stage(executed, reachable=reachable, persistence="memory") as stage:
                for replica in stage.replicas:
                    replica.time = lambda: now  # type: ignore[method-assign]
                client = with_clock(stage.client, offset)
                connecting = asyncio.create_task(client.connect(30))
                await until(lambda client=client, reachable=reachable: len(client.connected) == reachable)
                if waits:
                    for _ in range(100):
                        await asyncio.sleep(0)
                    assert not connecting.done()
                    let_pass(30)
                await connecting
                assert await client.invoke(b"x") == b"done x"

    run(scenario)
