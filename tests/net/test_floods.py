"""Floods of connections: strangers cannot keep others out, and whoever was thrown out may not come back at once."""

from __future__ import annotations

import asyncio

import pytest

from smartbft._fastpath.frames import MESSAGE, frame
from smartbft.net.lobby import Lobby, address_group
from smartbft.net.penalties import Penalties
from smartbft.net.watch import ConnectionLimits
from tests.net.test_transport import Pair, client_of, run

FEW = ConnectionLimits(connections=32, strangers=4, handshake_timeout=30.0)
HAS_TO_WAIT = "its address broke the protocol a moment ago and has to wait"
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


async def welcome(pair: Pair) -> bool:
    """Whether a client is let in now."""
    turned_away = pair.listener.lobby.turned_away
    known, refused = set(pair.listener.strangers), turned_away.get(HAS_TO_WAIT, 0)
    _, writer = await pair.raw()
    while not (set(pair.listener.strangers) - known or turned_away.get(HAS_TO_WAIT, 0) > refused):
        await asyncio.sleep(0)
    writer.close()
    return turned_away.get(HAS_TO_WAIT, 0) == refused


def test_whoever_was_thrown_out_has_to_wait() -> None:
    async def scenario() -> None:
        penalties: Penalties[str] = Penalties(30.0, 60.0, 8)
        async with Pair(limits=FEW, clients=True, penalties=penalties) as pair:
            neighbour = await client_of(pair)
            await thrown_out(pair)
            assert not await welcome(pair)
            # Waiting is no new offence, and who was connected before stays so.
            now = asyncio.get_running_loop().time()
            assert penalties.remaining("127.0.0.1", now) <= 30.0
            neighbour[1].write(frame(MESSAGE, b"served"))
            await pair.accepting.frames.get()

    run(scenario)


def test_an_address_that_somebody_has_many_of_is_one() -> None:
    async def scenario() -> None:
        penalties: Penalties[str] = Penalties(30.0, 60.0, 8)
        async with Pair(limits=FEW, clients=True, penalties=penalties) as pair:
            penalties.offence(address_group("2001:db8::1"), asyncio.get_running_loop().time())
            assert pair.listener._why_not_welcome("2001:db8::2")
            assert not pair.listener._why_not_welcome("2001:db8:0:1::2")

    run(scenario)


def test_the_pause_is_short_at_first() -> None:
    async def scenario() -> None:
        penalties: Penalties[str] = Penalties(0.01, 0.02, 8)
        async with Pair(limits=FEW, clients=True, penalties=penalties) as pair:
            for pause in (0.01, 0.02, 0.02):
                await thrown_out(pair)
                assert penalties.remaining("127.0.0.1", asyncio.get_running_loop().time()) <= pause
                while not await welcome(pair):
                    await asyncio.sleep(0)

    run(scenario)


def test_good_manners_cost_nothing() -> None:
    async def scenario() -> None:
        penalties: Penalties[str] = Penalties(30.0, 60.0, 8)
        async with Pair(limits=FEW, clients=True, penalties=penalties) as pair:
            for _ in range(3):
                _, writer = await client_of(pair)
                writer.close()
                await pair.accepting.closed_now.get()
            for _ in range(2 * FEW.strangers):
                await pair.raw()
            while not pair.listener.lobby.turned_away:
                await asyncio.sleep(0)
            assert len(penalties) == 0

    run(scenario)


# --- planted bugs ---


def test_planted_bug_nobody_counts_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lobby, "_make_room", lambda self, why: None)
    with pytest.raises(AssertionError):
        test_strangers_who_say_nothing_make_room_for_those_who_do()


def test_planted_bug_offences_are_forgotten_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Penalties, "remaining", lambda self, who, now: 0.0)
    with pytest.raises(AssertionError):
        test_whoever_was_thrown_out_has_to_wait()
