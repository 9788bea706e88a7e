"""Listeners, dialers and connections on loopback sockets, with short limits and hostile other ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from kit.patience import PATIENCE_SECONDS, let_pass, until

from smartbft._fastpath.frames import HELLO, MESSAGE, FrameReader, frame
from smartbft.crypto.certificates import fingerprint, make_certificate
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ConfigError, HandshakeError, RemoteProtocolError
from smartbft.net.connection import Connection, ReadBuffer
from smartbft.net.handshake import NO_CHANNEL, ClientDialer, Identity
from smartbft.net.penalties import Probation
from smartbft.net.tls import acceptor_context, dialer_context
from smartbft.net.transport import Dialer, Listener, Target, _end_of, plain
from smartbft.net.watch import ConnectionLimits

CHAIN = bytes(32)
SIGNERS = [Ed25519Signer(bytes([replica + 1]) * 32) for replica in range(3)]
PATIENT = ConnectionLimits(handshake_timeout=30.0)
# One of these is over soon, and by nothing else a connection can end.
IMPATIENT = {
    limit: replace(PATIENT, look_interval=0.01, **{limit: 0.05})
    for limit in ("handshake_timeout", "idle_timeout", "frame_timeout")
}


class Owner:
    """Records what happens to its connections."""

    def __init__(self) -> None:
        self.opened_now: asyncio.Queue[Connection] = asyncio.Queue()
        self.frames: asyncio.Queue[tuple[Connection, int, bytes]] = asyncio.Queue()
        self.closed_now: asyncio.Queue[tuple[Connection, Exception | None]] = asyncio.Queue()
        self.failures: list[BaseException] = []
        self.bug: Exception | None = None

    def opened(self, connection: Connection) -> FrameReader:
        self.opened_now.put_nowait(connection)
        return FrameReader({MESSAGE: 1 << 20})

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        if self.bug is not None:
            raise self.bug
        for kind, payload in frames:
            self.frames.put_nowait((connection, kind, payload))

    def closed(self, connection: Connection, error: Exception | None) -> None:
        self.closed_now.put_nowait((connection, error))

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)


class Pair:
    """Replica 1 listens, replica 0 dials it."""

    def __init__(
        self,
        *,
        tls: tuple[ssl.SSLContext, bytes] | None = None,
        pin: bytes | None = None,
        limits: ConnectionLimits = PATIENT,
        clients: bool = False,
        probation: Probation | None = None,
    ) -> None:
        self._probation = probation
        self._writers: list[asyncio.StreamWriter] = []
        self.accepting, self.dialing = Owner(), Owner()
        self._tls = tls
        self._pin = pin or (tls[1] if tls else None)
        self._limits = limits
        self._clients = clients
        self.dialer: Dialer | None = None

    async def __aenter__(self) -> Pair:
        identity = Identity(1, SIGNERS[1], 0, 2)
        peers = None if self._clients else {0: SIGNERS[0].public_key}
        context, certificate = self._tls or (None, None)
        self.listener = Listener(
            CHAIN,
            identity,
            peers,
            self.accepting,
            ReadBuffer(),
            tls=context,
            certificate=certificate,
            connection_limits=self._limits,
            probation=self._probation,
        )
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        await self.listener.start("127.0.0.1", self.port, sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        if self.dialer is not None:
            await self.dialer.close()
        await self.listener.close()

    def dial(self, limits: ConnectionLimits = PATIENT) -> None:
        target = Target(1, "127.0.0.1", self.port, SIGNERS[1].public_key, self._pin)
        identity = None if self._clients else Identity(0, SIGNERS[0], 0, 2)
        context = dialer_context() if self._tls else None
        self.dialer = Dialer(CHAIN, target, identity, self.dialing, ReadBuffer(), tls=context, connection_limits=limits)
        self.dialer.start()

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has closed, without a word."""
    with contextlib.suppress(ConnectionError):  # what it left unread makes it a reset
        assert await reader.read() == b""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await scenario()

    asyncio.run(bounded())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[ssl.SSLContext, bytes]]:
    """Contexts and fingerprints of two replicas."""
    return [certificate(tmp_path_factory.mktemp("tls")) for _ in range(2)]


def certificate(folder: Path) -> tuple[ssl.SSLContext, bytes]:
    key, pem = make_certificate("replica")
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.crt").write_bytes(pem)
    return acceptor_context(folder / "tls.crt", folder / "tls.key"), fingerprint(folder / "tls.crt")


# --- what waits to be written ---


class Waiting:
    """A connection for which so many bytes wait."""

    heard = 0.0
    address = "?"

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.failed_with = ""

    def look(self, now: float) -> None:
        pass

    def fail(self, error: Exception) -> None:
        self.failed_with = str(error)


def test_those_that_most_waits_for_go_when_too_much_waits_for_all() -> None:
    async def scenario() -> None:
        async with Pair(limits=replace(PATIENT, waiting_limit=100), clients=True) as pair:
            connections = [Waiting(size) for size in (10, 60, 30, 50)]
            pair.listener.connections = set(connections)  # type: ignore[arg-type]
            pair.listener._bound_waiting()
            assert [bool(connection.failed_with) for connection in connections] == [False, True, False, False]
            connections[1].waiting = 0
            connections[1].failed_with = ""
            pair.listener._bound_waiting()
            assert not any(connection.failed_with for connection in connections)
            pair.listener.connections = set()

    run(scenario)


def test_what_waits_for_a_connection_is_known() -> None:
    async def scenario() -> None:
        async with Pair(clients=True) as pair:
            _, _ = await client_of(pair)
            connection = await pair.accepting.opened_now.get()
            assert connection.waiting == 0
            connection.send(bytes(1000))
            assert connection.waiting == 1000
            connection._flush()
            connection.write(bytes(32 * 1024 * 1024))
            assert 0 < connection.waiting <= 1000 + 32 * 1024 * 1024

    run(scenario)


# --- two replicas ---


@pytest.mark.parametrize("secure", [False, True])
def test_frames_travel_both_ways(tls: list[tuple[ssl.SSLContext, bytes]], secure: bool) -> None:
    async def scenario() -> None:
        async with Pair(tls=tls[0] if secure else None) as pair:
            pair.dial()
            there, here = await pair.accepting.opened_now.get(), await pair.dialing.opened_now.get()
            assert there.peer is not None
            assert there.peer.replica == 0
            assert here.peer is not None
            assert here.peer.replica == 1
            large = os.urandom(700_000)
            here.send(frame(MESSAGE, b"one"))
            here.send(frame(MESSAGE, large))
            there.send(frame(MESSAGE, b"two"))
            assert await pair.accepting.frames.get() == (there, MESSAGE, b"one")
            assert await pair.accepting.frames.get() == (there, MESSAGE, large)
            assert await pair.dialing.frames.get() == (here, MESSAGE, b"two")

    run(scenario)


def test_frames_of_one_iteration_leave_in_one_write() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial()
            await pair.accepting.opened_now.get()
            here = await pair.dialing.opened_now.get()
            writes: list[bytes] = []
            here.write = writes.append  # type: ignore[method-assign]
            for number in range(5):
                here.send(frame(MESSAGE, bytes([number])))
            await asyncio.sleep(0)
            assert writes == [b"".join(frame(MESSAGE, bytes([number])) for number in range(5))]

    run(scenario)


@pytest.mark.parametrize("secure", [False, True])
def test_small_frames_do_not_wait_for_acknowledgements(tls: list[tuple[ssl.SSLContext, bytes]], secure: bool) -> None:
    async def scenario() -> None:
        async with Pair(tls=tls[0] if secure else None) as pair:
            pair.dial()
            for owner in (pair.accepting, pair.dialing):
                connection = await owner.opened_now.get()
                assert connection._transport is not None
                sock = connection._transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(scenario)


def test_a_lost_connection_is_dialed_again() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial()
            first = await pair.accepting.opened_now.get()
            first.fail(RemoteProtocolError("you broke the protocol"))
            connection, error = await pair.accepting.closed_now.get()
            assert connection is first
            assert "you broke the protocol" in str(error)
            second = await pair.accepting.opened_now.get()
            assert second is not first

    run(scenario)


# --- TLS ---


def test_a_certificate_that_the_genesis_does_not_name_is_refused(tls: list[tuple[ssl.SSLContext, bytes]]) -> None:
    async def scenario() -> None:
        async with Pair(tls=tls[0], pin=tls[1][1]) as pair:
            pair.dial()
            _, error = await pair.dialing.closed_now.get()
            assert isinstance(error, HandshakeError)
            assert "not the one the genesis names" in str(error)
            assert pair.accepting.opened_now.empty()

    run(scenario)


def test_older_tls_is_refused(tls: list[tuple[ssl.SSLContext, bytes]]) -> None:
    async def scenario() -> None:
        async with Pair(tls=tls[0]) as pair:
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname = False
            old.verify_mode = ssl.CERT_NONE
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", pair.port, ssl=old)

    run(scenario)


def test_a_certificate_without_its_key_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "tls.key").write_bytes(make_certificate("a")[0])
    (tmp_path / "tls.crt").write_bytes(make_certificate("b")[1])
    with pytest.raises(ConfigError, match=r"tls\.crt: cannot be used with"):
        acceptor_context(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_an_address_in_use_is_a_configuration_error() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            second = Listener(CHAIN, Identity(1, SIGNERS[1], 0, 2), {}, Owner(), ReadBuffer())
            with pytest.raises(ConfigError, match=f"127.0.0.1:{pair.port}: address already in use "):
                await second.start("127.0.0.1", pair.port)

    run(scenario)


def test_a_dialer_says_in_plain_words_why_there_is_no_connection() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial()
            await pair.dialing.opened_now.get()
            assert pair.dialer is not None
            await pair.listener.close()
            seen = []
            while "connection refused" not in seen:
                await asyncio.sleep(0)
                seen.append(pair.dialer.problem)
            assert seen[0] == ""
            assert not any("Errno" in problem for problem in seen)

    run(scenario)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EADDRINUSE, "error while attempting to bind on address ('127.0.0.1', 1)"), "address already in"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (TimeoutError(), "no answer in time"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "does not speak TLS"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OSError) else None,
)
def test_errors_of_sockets_are_plain_words(error: OSError, words: str) -> None:
    assert words in plain(error)
    assert "Errno" not in plain(error)
    assert "bind" not in plain(error)


@pytest.mark.parametrize("error", [None, ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")])
def test_who_leaves_before_it_says_who_it_is_may_have_another_transport(error: OSError | None) -> None:
    stranger = SimpleNamespace(done=SimpleNamespace(result=lambda: error), peer=None)
    assert "is 'transport' the same on both sides?" in _end_of(stranger)  # type: ignore[arg-type]
    known = SimpleNamespace(done=stranger.done, peer=object())
    assert "transport" not in _end_of(known)  # type: ignore[arg-type]


# --- hostile other ends ---


def test_silence_in_the_handshake_ends_with_its_timeout() -> None:
    async def scenario() -> None:
        async with Pair(limits=IMPATIENT["handshake_timeout"]) as pair:
            reader, writer = await pair.raw()
            assert await reader.read() == b""
            assert list(pair.listener.lobby.turned_away) == ["it did not begin a handshake within 0.05 seconds"]
            writer.close()

    run(scenario)


def test_a_handshake_that_does_not_go_on_ends_with_its_timeout() -> None:
    async def scenario() -> None:
        async with Pair(limits=PATIENT) as pair:
            reader, writer = await pair.raw()
            writer.write(struct.pack("<IB", 100, HELLO))
            await until(lambda: pair.listener.connections)
            let_pass(30)
            assert await reader.read() == b""
            _, error = await pair.accepting.closed_now.get()
            assert "did not complete the handshake within 30 seconds" in str(error)
            writer.close()

    run(scenario)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack("<IB", 0, 1), struct.pack("<IB", 2**31, 1), bytes(range(64)), bytes(64)],
)
def test_garbage_in_the_handshake_closes_that_connection_only(garbage: bytes) -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            reader, writer = await pair.raw()
            writer.write(garbage)
            await hung_up(reader)
            assert list(pair.listener.lobby.turned_away) == ["what it said is no handshake"]
            writer.close()
            pair.dial()
            await pair.accepting.opened_now.get()

    run(scenario)


async def client_of(pair: Pair) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw connection with a completed handshake."""
    reader, writer = await pair.raw()
    dialer = ClientDialer(CHAIN, 1, SIGNERS[1].public_key, os.urandom(32), NO_CHANNEL)
    writer.write(dialer.start())
    while dialer.peer is None:
        data = await reader.read(1024)
        assert data, "closed in the handshake"
        dialer.receive(data)
    return reader, writer


def test_a_slow_drip_is_closed() -> None:
    async def scenario() -> None:
        async with Pair(limits=IMPATIENT["frame_timeout"], clients=True) as pair:
            reader, writer = await client_of(pair)

            async def drip() -> None:
                for byte in struct.pack("<IB", 1000, MESSAGE) + bytes(1000):
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.005)

            dripping = asyncio.create_task(drip())
            with contextlib.suppress(ConnectionError):  # a byte that was on its way resets the connection
                assert await reader.read() == b""
            dripping.cancel()
            _, error = await pair.accepting.closed_now.get()
            assert "a frame is not complete after 0.05 seconds" in str(error)
            writer.close()

    run(scenario)


def test_an_idle_connection_is_closed() -> None:
    async def scenario() -> None:
        async with Pair(limits=IMPATIENT["idle_timeout"], clients=True) as pair:
            reader, writer = await client_of(pair)
            assert await reader.read() == b""
            _, error = await pair.accepting.closed_now.get()
            assert "nothing was received for 0.05 seconds" in str(error)
            writer.close()

    run(scenario)


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async def scenario() -> None:
        async with Pair(limits=replace(PATIENT, connections=2, yielding_silence=3600.0), clients=True) as pair:
            kept = [await client_of(pair) for _ in range(2)]
            reader, writer = await pair.raw()
            writer.write(struct.pack("<IB", 100, HELLO))
            await hung_up(reader)
            _, error = await pair.accepting.closed_now.get()
            assert "2 connections are open, which is the limit" in str(error)
            kept[0][1].close()
            await pair.accepting.closed_now.get()
            kept.append(await client_of(pair))
            for _, other in [*kept, (reader, writer)]:
                other.close()

    run(scenario)


@pytest.mark.parametrize(
    "header", [struct.pack("<IB", 2**32 - 1, MESSAGE), struct.pack("<IB", 0, MESSAGE), b"\1\0\0\0\x63"]
)
def test_a_bad_frame_closes_the_connection(header: bytes) -> None:
    async def scenario() -> None:
        async with Pair(clients=True) as pair:
            reader, writer = await client_of(pair)
            writer.write(header)
            assert await reader.read() == b""
            _, error = await pair.accepting.closed_now.get()
            assert isinstance(error, RemoteProtocolError)
            writer.close()

    run(scenario)


def test_who_does_not_read_is_not_read_and_at_last_closed() -> None:
    async def scenario() -> None:
        limits = replace(PATIENT, write_high_water=1 << 16, write_limit=1 << 20)
        async with Pair(limits=limits, clients=True) as pair:
            _, writer = await client_of(pair)
            connection = await pair.accepting.opened_now.get()
            full = asyncio.create_task(connection.writable())
            for _ in range(400):
                connection.write(bytes(1 << 16))
                await asyncio.sleep(0)
            _, error = await pair.accepting.closed_now.get()
            assert "does not read what is sent to it" in str(error)
            assert await full in (True, False)
            assert not await connection.writable()
            writer.close()

    run(scenario)


def test_what_is_sent_within_one_iteration_of_the_loop_is_bounded_too() -> None:
    """One socket read may bring thousands of questions, and each answer may be large."""
    few = ConnectionLimits(handshake_timeout=30.0, write_high_water=1 << 16, write_limit=1 << 20)

    async def scenario() -> None:
        async with Pair(limits=few) as pair:
            pair.dial()
            there = await pair.accepting.opened_now.get()
            answer = frame(MESSAGE, bytes(1 << 18))
            for _ in range(10_000):
                there.send(answer)
            assert there.failed
            assert sum(len(waiting) for waiting in there._outgoing) <= few.write_high_water + len(answer)
            assert there._transport is not None
            assert there._transport.get_write_buffer_size() <= few.write_limit + 2 * len(answer)
            _, error = await pair.accepting.closed_now.get()
            assert "does not read what is sent to it" in str(error)

    run(scenario)


@pytest.mark.parametrize("reads", [True, False])
def test_who_takes_nothing_is_gone(reads: bool) -> None:
    """A machine that lost its power says nothing; whoever has much to send it does not listen for its silence."""
    limits = ConnectionLimits(
        write_high_water=1 << 16,
        write_limit=1 << 30,
        idle_timeout=30.0,
        handshake_timeout=30.0,
        look_interval=3600.0,  # it is looked at when the test says so
    )

    async def scenario() -> None:
        async with Pair(limits=limits, clients=True) as pair:
            reader, writer = await client_of(pair)
            connection = await pair.accepting.opened_now.get()
            now = asyncio.get_running_loop().time()
            while connection._transport is None or connection._transport.get_write_buffer_size() < 1 << 25:
                connection.write(bytes(1 << 20))
                await asyncio.sleep(0)
            for seconds in range(0, 100, 10):
                connection.look(now + seconds)
                if connection.failed:
                    break
                waits = connection._transport.get_write_buffer_size()
                while reads and connection._transport.get_write_buffer_size() == waits:
                    await reader.read(1 << 18)
            assert connection.failed != reads
            if not reads:
                _, error = await pair.accepting.closed_now.get()
                assert "takes nothing" in str(error)
            writer.close()

    run(scenario)


def test_pausing_stops_reading_until_resumed() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial()
            there, here = await pair.accepting.opened_now.get(), await pair.dialing.opened_now.get()
            there.pause()
            here.send(frame(MESSAGE, b"later"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert pair.accepting.frames.empty()
            there.resume()
            assert (await pair.accepting.frames.get())[2] == b"later"

    run(scenario)


def test_a_bug_of_the_owner_is_told_and_is_not_the_peers_fault() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial()
            await pair.accepting.opened_now.get()
            here = await pair.dialing.opened_now.get()
            pair.accepting.bug = KeyError("ours")
            here.send(frame(MESSAGE, b"harmless"))
            _, error = await pair.accepting.closed_now.get()
            assert error is None
            assert [type(failure) for failure in pair.accepting.failures] == [KeyError]

    run(scenario)


def test_who_closes_a_dialer_can_still_be_cancelled() -> None:
    """A Ctrl-C while a client closes its connections must not get lost."""

    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial()
            await pair.dialing.opened_now.get()
            closing = asyncio.ensure_future(pair.dialer.close())
            await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing

    run(scenario)


def test_a_connection_rests_and_is_read_again() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial()
            near = await pair.dialing.opened_now.get()
            far = await pair.accepting.opened_now.get()
            loop = asyncio.get_running_loop()
            began = loop.time()
            far.rest(0.1)
            near.send(frame(MESSAGE, b"later"))
            _, _, payload = await pair.accepting.frames.get()
            assert payload == b"later"
            assert loop.time() - began >= 0.09, "a resting connection was read"

    run(scenario)
