"""Who is let in first, and who has to go, when more connections come than a replica has time for (promise H2)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from smartbft._fastpath.frames import HELLO, MESSAGE, frame
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import FRAME_HEADER_BYTES, KNOCKS_AT_ONCE, LOOP_TICK_SECONDS, MEMBER_KNOCKS_AT_ONCE
from smartbft.net.handshake import NO_CHANNEL, ClientDialer
from smartbft.net.knock import KNOCK_BYTES, KNOCK_HEADER, Door, knock
from smartbft.net.lobby import Guest, Lobby, address_group
from smartbft.net.transport import Listener
from smartbft.net.watch import ConnectionLimits
from smartbft.token_bucket import TokenBucket
from tests.net.test_transport import CHAIN, PATIENT, SIGNERS, Pair, client_of, hung_up, run, tls

assert tls  # a fixture

FEW = ConnectionLimits(strangers=4, handshake_timeout=30.0)
NO_HANDSHAKES = replace(PATIENT, handshakes_at_once=0, handshakes_per_second=1e-6)
# The beginning of a TLS handshake: whoever says this and no more holds one open.
TLS_BEGINS = struct.pack(">BHH", 22, 0x0301, 500)
PLAIN_BEGINS = struct.pack("<IB", 100, HELLO)
TLS = list[tuple[ssl.SSLContext, bytes]]


async def raw_from(pair: Pair, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from another address of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.port, local_addr=(host, 0))
    pair._writers.append(writer)
    return reader, writer


async def introduced(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A client's handshake on a connection."""
    dialer = ClientDialer(CHAIN, 1, SIGNERS[1].public_key, os.urandom(32), NO_CHANNEL)
    writer.write(dialer.start())
    while dialer.peer is None:
        data = await reader.read(1024)
        assert data, "closed"
        dialer.receive(data)


async def arrived(pair: Pair, count: int) -> None:
    """Wait until so many strangers have been seen, whether they are still here or not."""
    lobby = pair.listener.lobby
    while len(lobby.guests) + sum(lobby.turned_away.values()) < count:
        await asyncio.sleep(0)


# --- addresses ---


def test_what_counts_as_one_address() -> None:
    assert address_group("192.0.2.1") != address_group("192.0.2.2")
    assert address_group("2001:db8::1") == address_group("2001:db8::ffff:1") != address_group("2001:db8:0:1::1")
    assert address_group("::ffff:192.0.2.1") == address_group("192.0.2.1")
    assert address_group("fe80::1%eth0") == address_group("fe80::2%eth0")
    assert address_group("?") == "?"


# --- before a handshake ---


def test_nothing_is_made_for_a_connection_that_says_nothing() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW) as pair:
            _, writer = await pair.raw()
            writer.write(PLAIN_BEGINS[:-1])
            await arrived(pair, 1)
            assert not pair.listener.connections
            writer.write(PLAIN_BEGINS[-1:])
            while not pair.listener.connections:
                await asyncio.sleep(0)

    run(scenario)


def test_tls_handshakes_that_do_not_end_make_room_for_those_that_do(tls: TLS) -> None:
    async def scenario() -> None:
        async with Pair(tls=tls[0], limits=FEW) as pair:
            for _ in range(3 * FEW.strangers):
                _, writer = await pair.raw()
                writer.write(TLS_BEGINS)
            pair.dial()
            await pair.accepting.opened_now.get()
            await arrived(pair, 3 * FEW.strangers)
            assert len(pair.listener.strangers) <= FEW.strangers

    run(scenario)


def test_one_address_does_not_push_out_another() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True) as pair:
            early = await raw_from(pair, "127.0.0.2")
            await arrived(pair, 1)
            for _ in range(3 * FEW.strangers):
                await pair.raw()
            await arrived(pair, 3 * FEW.strangers + 1)
            await introduced(*early)

    run(scenario)


def test_without_descriptors_strangers_go_and_the_listener_stays() -> None:
    async def scenario() -> None:
        async with Pair(limits=FEW, clients=True) as pair:
            known = await client_of(pair)
            waiting, _ = await pair.raw()
            await arrived(pair, 1)

            class Exhausted:
                def fileno(self) -> int:
                    return next(iter(pair.listener.lobby._sockets)).fileno()

                def accept(self) -> None:
                    raise OSError(errno.EMFILE, "Too many open files")

            pair.listener.lobby._accept(Exhausted())  # type: ignore[arg-type]
            await hung_up(waiting)
            known[1].write(frame(MESSAGE, b"still here"))
            await pair.accepting.frames.get()

    run(scenario)


# --- whose turn it is ---


class Entrance:
    """A lobby whose handshakes are only noted; whoever comes speaks at once."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.begun: list[str] = []
        self.lobby = Lobby(limits, tls=False, door=None, probation=None, begin=self._begin)
        self._others: list[socket.socket] = []

    async def _begin(self, guest: Guest, sock: socket.socket) -> None:
        self.begun.append(sock.recv(FRAME_HEADER_BYTES + 9)[FRAME_HEADER_BYTES:].decode())
        sock.close()
        self.lobby.left(guest)

    async def comes(self, host: str, name: str) -> None:
        ours, theirs = socket.socketpair()
        self._others.append(theirs)
        theirs.sendall(PLAIN_BEGINS + name.encode())
        self.lobby._receive(ours, host)
        waiting = sum(map(len, self.lobby._ready.values())) + len(self.begun)
        while sum(map(len, self.lobby._ready.values())) + len(self.begun) == waiting:
            await asyncio.sleep(0)

    def close(self) -> None:
        self.lobby.close()
        for other in self._others:
            other.close()


def test_the_loop_does_not_turn_in_circles_until_a_moment_has_passed() -> None:
    async def scenario() -> None:
        entrance = Entrance(NO_HANDSHAKES)
        now = asyncio.get_running_loop().time()
        entrance.lobby._later(1e-9, lambda: None)
        assert [timer.when() >= now + LOOP_TICK_SECONDS for timer in entrance.lobby._timers] == [True]
        entrance.close()

    run(scenario)


def test_addresses_take_turns_and_the_newest_of_each_comes_first() -> None:
    async def scenario() -> None:
        entrance = Entrance(NO_HANDSHAKES)
        for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
            await entrance.comes(f"192.0.2.{name[0]}", name)
        assert entrance.begun == []
        entrance.lobby._handshakes = TokenBucket(5, 1e-6)
        entrance.lobby._serve_again()
        while len(entrance.begun) < 5:
            await asyncio.sleep(0)
        assert entrance.begun == ["a4", "b2", "c1", "a3", "b1"]
        assert len(entrance.lobby.guests) == 2
        entrance.close()
        assert not entrance.lobby.guests

    run(scenario)


def test_handshakes_begin_at_a_bounded_rate() -> None:
    async def scenario() -> None:
        entrance = Entrance(replace(PATIENT, handshakes_at_once=1, handshakes_per_second=1e-6))
        for number in range(10):
            await entrance.comes("192.0.2.1", str(number))
        await asyncio.sleep(0)
        begun, waiting = len(entrance.begun), len(entrance.lobby.guests)
        entrance.close()
        assert (begun, waiting) == (5, 5), "five handshakes without TLS cost as much as one with it"

    run(scenario)


# --- knocks ---


@pytest.mark.parametrize("with_tls", [False, True])
def test_a_replica_that_knocks_waits_for_nobody(tls: TLS, with_tls: bool) -> None:
    async def scenario() -> None:
        async with Pair(tls=tls[0] if with_tls else None, limits=NO_HANDSHAKES) as pair:
            for _ in range(20):
                _, writer = await pair.raw()
                writer.write(TLS_BEGINS if with_tls else PLAIN_BEGINS)
            await arrived(pair, 20)
            pair.dial()
            connection = await pair.accepting.opened_now.get()
            assert connection.peer is not None
            assert connection.peer.replica == 0
            assert len(pair.listener.connections) == 1

    run(scenario)


def test_a_replica_that_is_not_believed_takes_its_turn() -> None:
    async def scenario() -> None:
        async with Pair(limits=PATIENT) as pair:
            pair.listener.lobby._door = Door(bytes([9]) * 32, 1, {0: SIGNERS[0].public_key})
            pair.dial()
            await pair.accepting.opened_now.get()

    run(scenario)


def a_door(replica: int = 1, chain_id: bytes = CHAIN) -> Door:
    return Door(chain_id, replica, {0: SIGNERS[0].public_key, 2: SIGNERS[2].public_key})


def test_a_door_opens_to_whoever_may_dial_once_per_knock() -> None:
    door = a_door()
    first = knock(CHAIN, SIGNERS[0], 0, 1, 1000)
    assert len(first) == KNOCK_BYTES
    assert first[:FRAME_HEADER_BYTES] == KNOCK_HEADER
    assert door.opens(first, 5.0)
    assert not door.opens(first, 5.0), "repeated by somebody who overheard it"
    assert not door.opens(knock(CHAIN, SIGNERS[0], 0, 1, 999), 5.0)
    assert door.opens(knock(CHAIN, SIGNERS[2], 2, 1, 7), 5.0)
    assert door.opens(knock(CHAIN, SIGNERS[0], 0, 1, 1001), 5.0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (knock(CHAIN, SIGNERS[1], 0, 1, 5), "another key"),
        (knock(CHAIN, SIGNERS[1], 1, 1, 5), "not one that dials here"),
        (knock(CHAIN, SIGNERS[0], 0, 2, 5), "another door"),
        (knock(bytes([1]) * 32, SIGNERS[0], 0, 1, 5), "another chain"),
        (knock(CHAIN, SIGNERS[0], 0, 1, 5)[:-1] + b"\0", "a spoilt signature"),
    ],
)
def test_a_door_stays_shut(data: bytes, why: str) -> None:
    door = a_door()
    assert not door.opens(data, 5.0), why
    assert door.opens(knock(CHAIN, SIGNERS[0], 0, 1, 1), 5.0), "a false knock in its name must not shut it out"


def test_a_replica_that_knocks_without_end_takes_its_turn_with_the_others() -> None:
    door = a_door()
    opened = [door.opens(knock(CHAIN, SIGNERS[0], 0, 1, time), 5.0) for time in range(3 * MEMBER_KNOCKS_AT_ONCE)]
    assert sum(opened) == MEMBER_KNOCKS_AT_ONCE
    assert door.opens(knock(CHAIN, SIGNERS[2], 2, 1, 1), 5.0)


def test_false_knocks_cost_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr("smartbft.net.knock.verify", lambda *arguments: bool(checked.append(arguments)))
    door, liar = a_door(), Ed25519Signer(bytes([77]) * 32)
    false = knock(CHAIN, liar, 0, 1, 5)
    assert not any(door.opens(false, 5.0) for _ in range(2 * KNOCKS_AT_ONCE))
    assert len(checked) == KNOCKS_AT_ONCE


# --- connections that were let in ---


def test_a_silent_connection_makes_room_when_there_is_none() -> None:
    async def scenario() -> None:
        limits = replace(PATIENT, connections=2, yielding_silence=0.0, look_interval=0.01)
        async with Pair(limits=limits, clients=True) as pair:
            kept = [await client_of(pair) for _ in range(2)]
            while not pair.listener._quiet:
                await asyncio.sleep(0)
            newest = await client_of(pair)
            _, error = await pair.accepting.closed_now.get()
            assert "was silent, and others need the room" in str(error)
            newest[1].write(frame(MESSAGE, b"at work"))
            await pair.accepting.frames.get()
            for _, writer in [*kept, newest]:
                writer.close()

    run(scenario)


# --- planted bugs ---


def assert_fails(test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """It notices, or waits in vain for what takes a moment."""
    patiently = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: patiently(min(seconds, 1.0)))
    with pytest.raises((AssertionError, TimeoutError, ConnectionError)):
        test()


def test_planted_bug_the_oldest_goes_whatever_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lobby, "_make_room", lambda self, why: self._turn_away(next(iter(self.guests)), why))
    assert_fails(test_one_address_does_not_push_out_another, monkeypatch)


def test_planted_bug_no_knock_is_believed(monkeypatch: pytest.MonkeyPatch, tls: TLS) -> None:
    monkeypatch.setattr(Door, "opens", lambda self, data, now: False)
    assert_fails(lambda: test_a_replica_that_knocks_waits_for_nobody(tls, with_tls=False), monkeypatch)


def test_planted_bug_handshakes_begin_at_any_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenBucket, "wait", lambda self, now: 0.0)
    assert_fails(test_handshakes_begin_at_a_bounded_rate, monkeypatch)


def test_planted_bug_silence_is_never_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "make_room", lambda self: "no" if len(self.connections) > 2 else "")
    assert_fails(test_a_silent_connection_makes_room_when_there_is_none, monkeypatch)
