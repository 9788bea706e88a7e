"""One framed connection on asyncio: a handshake, then one native call per socket read and one write per iteration."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Protocol, cast

from smartbft.crypto.certificates import fingerprint_of
from smartbft.errors import HandshakeError, RemoteProtocolError
from smartbft.forks import keep_from_children
from smartbft.limits import GOODBYE_SECONDS, READ_BUFFER_BYTES
from smartbft.net.handshake import Handshake, Peer
from smartbft.net.watch import ConnectionLimits, ConnectionWatch

# Why a connection is not being read; it is read again when no reason is left.
_OWN_WRITES = 1  # the other side does not take what we write
_OWNER = 2  # the owner's queues are full
_RESTING = 4  # the other side sends more than it should


class Reader(Protocol):
    """Takes the bytes of a connection: `smartbft._fastpath.frames.FrameReader`, or something round it."""

    def feed(self, data: bytes | memoryview, now: int) -> list[tuple[int, bytes]]:
        """What the socket delivered; returns the complete frames. Raises RemoteProtocolError."""

    def buffered(self) -> int:
        """Bytes of an incomplete frame."""


class Handler(Protocol):
    """The owner of a group of connections."""

    def opened(self, connection: Connection) -> Reader:
        """The handshake is done and `connection.peer` is set; returns the reader of its frames.

        Raises:
            RemoteProtocolError: the peer is not wanted; the connection is closed.
        """

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        """The frames of one socket read (requests went to the pool). Raises RemoteProtocolError to close."""

    def closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone; `opened` may never have been called for it."""

    def failed(self, error: BaseException) -> None:
        """The owner's own code raised: not the fault of the other side."""


class ReadBuffer:
    """The buffer that all connections of one loop read into: what is read is taken out before the next read starts."""

    __slots__ = ("view",)

    def __init__(self, size: int = READ_BUFFER_BYTES) -> None:
        self.view = memoryview(bytearray(size))


class Connection(asyncio.BufferedProtocol):
    """A connection between two replicas, or a replica and a client; made by `Listener` and `Dialer`.

    Args:
        handshake: the sans-IO state machine of this side.
        greeting: bytes that this side sends first (a dialer's hello, nothing for an acceptor).
        handler: the owner.
        buffer: where the loop's connections read to.
        connection_limits: timeouts and write limits.
        certificate: SHA-256 of the certificate that a dialer expects, compared before anything is sent; None on plain
            TCP and on the accepting side.
    """

    peer: Peer | None

    def __init__(
        self,
        handshake: Handshake,
        greeting: bytes,
        handler: Handler,
        buffer: ReadBuffer,
        connection_limits: ConnectionLimits,
        certificate: bytes | None = None,
    ) -> None:
        self.peer = None
        self.address = "?"
        self.done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.established = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._handshake: Handshake | None = handshake
        self._greeting = greeting
        self._handler = handler
        self._view = buffer.view
        self._limits = connection_limits
        self._certificate = certificate
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._received = 0
        self._outgoing: list[bytes] = []
        self._queued = 0  # bytes of them
        self._written = 0  # bytes handed to the transport
        self._taken = (0, 0.0)  # bytes that had gone from there at the last look that saw more, and when that was
        self._pauses = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self.last_resort = True  # whether the other side's name has no other address that may be the right one
        self.blameless = False  # whether it is closed although the other side broke no rule
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rested: asyncio.TimerHandle | None = None
        self._release: Callable[[], object] = lambda: None
        self._watch = ConnectionWatch(connection_limits, self._loop.time())

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the certificate, greet, and start the clock of the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        self.address = _describe(transport.get_extra_info("peername"))
        sock = transport.get_extra_info("socket")
        _send_at_once(sock)
        if sock is not None:
            self._release = keep_from_children(sock.fileno())
        self._transport.set_write_buffer_limits(high=self._limits.write_high_water)
        self._timer = self._loop.call_later(self._limits.handshake_timeout, self._handshake_expired)
        if self._certificate is not None and self._certificate != _certificate_of(transport):
            self.fail(HandshakeError(f"the TLS certificate of {self.address} is not the one the genesis names for it"))
        elif self._greeting:
            self._transport.write(self._greeting)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """One socket read: one native call, then the frames it completed."""
        self._received += nbytes
        reader = self._reader
        try:
            if reader is None:
                self._shake_hands(self._view[:nbytes])
            elif self._error is None:
                self._handler.received(self, reader.feed(self._view[:nbytes], time.time_ns() // 1000))
        except RemoteProtocolError as error:
            self.fail(error)
        except Exception as error:
            self._handler.failed(error)
            self.abort()

    def pause_writing(self) -> None:
        """The other side is slow to take what we write: stop reading from it."""
        self._drained.clear()
        self._pause(_OWN_WRITES)

    def resume_writing(self) -> None:
        """It caught up."""
        self._drained.set()
        self._resume(_OWN_WRITES)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        self._release()
        for timer in (self._timer, self._rested):
            if timer is not None:
                timer.cancel()
        error = self._error or exc
        self._reader = None
        self._handshake = None
        self._outgoing.clear()
        self._drained.set()
        if not self.established.done():
            self.established.set_result(None)
        if not self.done.done():
            self.done.set_result(error)
        self._handler.closed(self, error)

    # --- for the owner ---

    def send(self, frame: bytes) -> None:
        """Queue a frame; what is queued in one iteration of the loop leaves in one write, or in a few large ones.

        The limits hold within an iteration too: what one socket read brought may ask for more than memory holds.
        """
        if self._error is not None:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(frame)
        self._queued += len(frame)
        if self._queued > self._limits.write_high_water:
            self._flush()

    def write(self, frames: bytes) -> None:
        """Write frames that are already put together."""
        transport = self._transport
        if transport is None or self._error is not None:
            return
        self._written += len(frames)
        transport.write(frames)
        if self._pauses & _OWN_WRITES and transport.get_write_buffer_size() > self._limits.write_limit:
            self.fail(RemoteProtocolError(f"{self.address} does not read what is sent to it"))

    @property
    def heard(self) -> float:
        """When something was received, on the loop's clock, to the second or so."""
        return self._watch.heard

    @property
    def waiting(self) -> int:
        """Bytes that the other side has not taken yet."""
        return self._queued + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    async def writable(self) -> bool:
        """Wait until the other side keeps up with what we write; False if the connection is closed instead."""
        await self._drained.wait()
        return not self.done.done()

    def pause(self) -> None:
        """Stop reading (the owner's queues are full); the peer feels it as backpressure."""
        self._pause(_OWNER)

    def rest(self, seconds: float) -> None:
        """Read nothing for a while."""
        self._pause(_RESTING)
        if self._rested is not None:
            self._rested.cancel()
        self._rested = self._loop.call_later(seconds, self._resume, _RESTING)

    def resume(self) -> None:
        """Read again."""
        self._resume(_OWNER)

    @property
    def failed(self) -> bool:
        """Whether it is being closed because of an error: what came with what caused it does not count."""
        return self._error is not None

    def look(self, now: float) -> None:
        """Close the connection if it is idle, drips, or takes nothing; called now and then with the loop's time."""
        reader = self._reader
        if reader is None or self._error is not None:
            return
        if self._is_stuck(now):
            self.retire(RemoteProtocolError(f"{self.address} takes nothing of what is sent to it"))
            return
        reason = self._watch.look(now, self._received, reader.buffered())
        if reason is not None and not self._pauses:
            # Whoever says nothing has nothing to say, or is gone; whoever does not end what it began holds us up.
            end = self.fail if reader.buffered() else self.retire
            end(RemoteProtocolError(f"{self.address}: {reason}"))

    def _is_stuck(self, now: float) -> bool:
        """Whether much waits to be written and nothing of it goes: the other side has vanished, or means not to read.

        It is not read from meanwhile, so nobody would hear its silence.
        """
        if not self._pauses & _OWN_WRITES or self._transport is None:
            self._taken = (-1, now)
            return False
        gone = self._written - self._transport.get_write_buffer_size()
        if gone != self._taken[0]:
            self._taken = (gone, now)
        return now - self._taken[1] > self._limits.idle_timeout

    def fail(self, error: Exception) -> None:
        """Close at once because of `error`."""
        if self._error is None:
            self._error = error
        self.abort()

    def retire(self, error: Exception) -> None:
        """Close at once because of `error`, which is nobody's fault."""
        self.blameless = self.blameless or self._error is None
        self.fail(error)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Write what is queued, then close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    async def aclose(self) -> None:
        """As `close`, and wait until nothing is left of it: the loop may end then, and a socket that is left open is
        told as a warning. Who does not answer TLS's goodbye soon is not waited for.
        """
        self.close()
        if self._transport is None:
            return
        await asyncio.wait([self.done], timeout=GOODBYE_SECONDS)
        self.abort()
        await self.done

    # --- inside ---

    def _shake_hands(self, data: memoryview) -> None:
        handshake = self._handshake
        if handshake is None:
            return
        try:
            answer = handshake.receive(data)
        except HandshakeError as error:
            self._refuse(error, handshake.parting())
            return
        if answer and self._transport is not None:
            self._transport.write(answer)
        if handshake.peer is None:
            return
        self.peer = handshake.peer
        self._handshake = None
        if self._timer is not None:
            self._timer.cancel()
        self._reader = self._handler.opened(self)
        if not self.established.done():
            self.established.set_result(self.peer)
        if handshake.remainder:
            self._handler.received(self, self._reader.feed(handshake.remainder, time.time_ns() // 1000))

    def _refuse(self, error: HandshakeError, parting: bytes) -> None:
        """Say what the other side needs to understand the refusal, then close."""
        self._error = self._error or error
        self._handshake = None
        if self._transport is not None:
            self._transport.write(parting)
            self._transport.close()

    def _handshake_expired(self) -> None:
        if self._reader is None:
            timeout = self._limits.handshake_timeout
            self.fail(RemoteProtocolError(f"{self.address} did not complete the handshake within {timeout:g} seconds"))

    def _flush(self) -> None:
        if self._outgoing:
            frames = b"".join(self._outgoing)
            self._outgoing.clear()
            self._queued = 0
            self.write(frames)

    def _pause(self, reason: int) -> None:
        if not self._pauses and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._pauses |= reason

    def _resume(self, reason: int) -> None:
        had = self._pauses
        self._pauses &= ~reason
        if had and not self._pauses and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


def _send_at_once(sock: socket.socket | None) -> None:
    """Small frames must not wait for acknowledgements (asyncio sees to it only for sockets that it made itself)."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _certificate_of(transport: asyncio.BaseTransport) -> bytes | None:
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    return fingerprint_of(certificate) if certificate else None


def _describe(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return str(address) if address else "?"
