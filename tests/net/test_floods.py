"""Floods of connections: strangers cannot keep others out, nor can whoever breaks the protocol keep out neighbours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from kit.patience import until

from smartbft._fastpath.frames import MESSAGE, frame
from smartbft.errors import InvalidSignature
from smartbft.limits import COSTLY_OFFENCE_PAUSE_SECONDS
from smartbft.net import lobby
from smartbft.net.handshake import NO_CHANNEL, ClientDialer
from smartbft.net.lobby import Guest, Lobby, address_group
from smartbft.net.penalties import Probation
from smartbft.net.watch import ConnectionLimits
from tests.net.test_lobby import assert_fails, introduced, raw_from
from tests.net.test_transport import SIGNERS, Pair, client_of, run

FEW = ConnectionLimits(connections=32, strangers=4, handshake_timeout=30.0)
ONE_IN_AGES = 1e-9  # newcomers per second: none comes in unless the test says so
BAD = b"\xff\xff\xff\xff\x63"


def test_strangers_who_say_nothing_make_room_for_those_who_do() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True) as pair:
            known = [await client_of(pair) for _ in range(6)]
            for _ in range(3 * FEW.strangers):
                await pair.raw()
            later = await client_of(pair)
            assert len(pair.listener.strangers) <= FEW.strangers
            assert (
                pair.listener.lobby.turned_away["too many connections have not introduced themselves"] > FEW.strangers
            )
            for _, writer in [*known, later]:
                writer.write(frame(MESSAGE, b"still here"))
            said = [await pair.accepting.frames.get() for _ in range(7)]
            assert len({connection for connection, _, _ in said}) == 7

    run(scenario)


def test_the_port_for_replicas_stays_open_to_them() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW) as pair:
            for _ in range(20):
                await pair.raw()
            pair.dial()
            connection = await pair.accepting.opened_now.get()
            assert connection.peer is not None
            assert connection.peer.replica == 0

    run(scenario)


async def thrown_out(pair: Pair) -> None:
    _, writer = await client_of(pair)
    writer.write(BAD)
    await pair.accepting.closed_now.get()
    writer.close()


def probation(per_second: float, seconds: float = 3600.0) -> Probation:
    return Probation(seconds, per_second, 8)


async def held(pair: Pair, count: int) -> None:
    """Wait until so many of the address wait for their turn."""
    await until(lambda: sum(map(len, pair.listener.lobby._held.values())) == count)


def test_an_address_that_offended_is_let_in_more_slowly_and_not_kept_out() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True, probation=probation(ONE_IN_AGES)) as pair:
            neighbour = await client_of(pair)
            await thrown_out(pair)
            entered = [asyncio.ensure_future(client_of(pair)) for _ in range(3)]
            # The first one comes in at once, as the address had not used its share; the others wait.
            done, waiting = await asyncio.wait(entered, return_when=asyncio.FIRST_COMPLETED)
            await held(pair, 2)
            assert (len(done), len(waiting)) == (1, 2)
            for left in (1, 0):
                # Ages pass: somebody else comes in.
                pair.listener.probation._known["127.0.0.1"][1]._at -= 2 / ONE_IN_AGES  # type: ignore[union-attr]
                pair.listener.lobby._release("127.0.0.1", pair.listener.probation)  # type: ignore[arg-type]
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                assert (len(done), len(waiting)) == (1, left)
            assert not pair.listener.lobby.turned_away
            # Who was connected before stays so.
            neighbour[1].write(frame(MESSAGE, b"served"))
            await pair.accepting.frames.get()

    run(scenario)


def test_whoever_offended_does_not_come_back_before_those_who_wait() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True, probation=probation(ONE_IN_AGES)) as pair:
            await thrown_out(pair)
            await client_of(pair)  # the share of the address is used up
            waiting = []
            for number in range(3):
                waiting.append(asyncio.ensure_future(client_of(pair)))
                await held(pair, number + 1)
            offender = asyncio.ensure_future(thrown_out(pair))
            await held(pair, 4)
            order = []
            for number, one in enumerate([*waiting, offender]):
                one.add_done_callback(lambda _, number=number: order.append(number))
            pair.listener.probation._known.clear()  # type: ignore[union-attr]
            for left in range(3, -1, -1):
                guest = next(iter(pair.listener.lobby._held["127.0.0.1"]))
                pair.listener.lobby._unhold(guest)
                pair.listener.lobby._enqueue(guest)
                await until(lambda left=left: len(order) == 4 - left)
            assert order == [0, 1, 2, 3]

    run(scenario)


def test_an_honest_client_comes_in_beside_one_that_offends_without_end() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True, probation=probation(200.0)) as pair:

            async def offend() -> None:
                while True:
                    with contextlib.suppress(ConnectionError, AssertionError):
                        _, writer = await client_of(pair)
                        writer.write(BAD)

            offenders = [asyncio.ensure_future(offend()) for _ in range(3)]
            for _ in range(20):
                await pair.accepting.closed_now.get()
            for _ in range(5):
                await client_of(pair)
            for offender in offenders:
                offender.cancel()
            await asyncio.gather(*offenders, return_exceptions=True)

    run(scenario)


def test_too_many_of_an_address_that_offended_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "PROBATION_NEWCOMERS_WAITING", 2)

    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True, probation=probation(ONE_IN_AGES)) as pair:
            await thrown_out(pair)
            await client_of(pair)
            waiting = []
            for number in range(2):
                waiting.append(asyncio.ensure_future(client_of(pair)))
                await held(pair, number + 1)
            with pytest.raises((AssertionError, ConnectionError)):
                await client_of(pair)
            assert pair.listener.lobby.turned_away == {
                "its address broke the protocol lately, and many others of it wait": 1
            }
            await held(pair, 2)  # those who waited go on waiting
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    run(scenario)


def test_who_waits_and_leaves_is_forgotten() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True, probation=probation(ONE_IN_AGES)) as pair:
            await thrown_out(pair)
            await client_of(pair)
            waiting = asyncio.ensure_future(client_of(pair))
            await held(pair, 1)
            waiting.cancel()
            pair.listener.lobby._expire(next(iter(pair.listener.strangers)))
            assert not pair.listener.lobby._held
            assert not pair.listener.strangers

    run(scenario)


def test_other_addresses_are_not_held_up() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True, probation=probation(ONE_IN_AGES)) as pair:
            await thrown_out(pair)
            await client_of(pair)
            await introduced(*await raw_from(pair, "127.0.0.2"))

    run(scenario)


def test_an_address_that_somebody_has_many_of_is_one() -> None:
    on_probation = probation(1.0)
    on_probation.offence(address_group("2001:db8::1"), 0.0, 5.0)
    assert on_probation.includes(address_group("2001:db8::2"), 5.0)
    assert not on_probation.includes(address_group("2001:db8:0:1::2"), 5.0)


def test_bad_signatures_cost_their_address_a_moment() -> None:
    async def scenario() -> None:
        on_probation = probation(100.0)
        async with Pair(limits=FEW, clients=True, probation=on_probation) as pair:
            await client_of(pair)
            connection = await pair.accepting.opened_now.get()
            connection.fail(InvalidSignature("too many requests with bad signatures"))
            await pair.accepting.closed_now.get()
            _, bucket = on_probation._known["127.0.0.1"]
            assert bucket._left == pytest.approx(1 - 100.0 * COSTLY_OFFENCE_PAUSE_SECONDS)

    run(scenario)


async def idle(pair: Pair) -> None:
    """A client that says nothing for too long."""
    await client_of(pair)
    connection = await pair.accepting.opened_now.get()
    now = asyncio.get_running_loop().time()
    for later in (0.0, 2 * FEW.idle_timeout):
        connection.look(now + later)


async def silent_when_room_is_needed(pair: Pair) -> None:
    await client_of(pair)
    connection = await pair.accepting.opened_now.get()
    pair.listener._quiet = [connection]
    pair.listener._limits = replace(FEW, connections=0)
    assert pair.listener.make_room() == ""


async def one_too_many(pair: Pair) -> None:
    pair.listener._limits = replace(FEW, connections=0)
    with pytest.raises((AssertionError, ConnectionError)):
        await client_of(pair)


async def another_chain(pair: Pair) -> None:
    _, writer = await pair.raw()
    writer.write(ClientDialer(bytes([9]) * 32, 1, SIGNERS[1].public_key, bytes(32), NO_CHANNEL).start())


@pytest.mark.parametrize("end", [idle, silent_when_room_is_needed, one_too_many, another_chain])
def test_what_is_nobodys_fault_costs_nothing(end: Callable[[Pair], Awaitable[None]]) -> None:
    async def scenario() -> None:
        on_probation = probation(1.0)
        async with Pair(limits=FEW, clients=True, probation=on_probation) as pair:
            await end(pair)
            await pair.accepting.closed_now.get()
            assert len(on_probation) == 0

    run(scenario)


def test_good_manners_cost_nothing() -> None:
    async def scenario() -> None:
        on_probation = probation(1.0)
        async with Pair(limits=FEW, clients=True, probation=on_probation) as pair:
            for _ in range(3):
                _, writer = await client_of(pair)
                writer.close()
                await pair.accepting.closed_now.get()
            for _ in range(2 * FEW.strangers):
                await pair.raw()
            while not pair.listener.lobby.turned_away:
                await asyncio.sleep(0)
            assert len(on_probation) == 0

    run(scenario)


# --- planted bugs ---


def test_planted_bug_nobody_counts_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lobby, "_make_room", lambda self, why: None)
    with pytest.raises(AssertionError):
        test_strangers_who_say_nothing_make_room_for_those_who_do()


def test_planted_bug_offences_are_forgotten_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probation, "includes", lambda self, address, now: False)
    assert_fails(test_an_address_that_offended_is_let_in_more_slowly_and_not_kept_out, monkeypatch)


def test_planted_bug_an_address_that_offended_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probation, "wait", lambda self, address, now: 2.0)
    assert_fails(test_an_honest_client_comes_in_beside_one_that_offends_without_end, monkeypatch)


def test_planted_bug_the_newest_of_an_address_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Lobby._hold

    def overtake(self: Lobby, guest: Guest, on_probation: Probation) -> None:
        before = self._held.pop(guest.group, {})
        hold(self, guest, on_probation)
        self._held[guest.group] = {**self._held.get(guest.group, {}), **before}

    monkeypatch.setattr(Lobby, "_hold", overtake)
    assert_fails(test_whoever_offended_does_not_come_back_before_those_who_wait, monkeypatch)
