"""Listeners and dialers: they make `Connection` objects on the caller's loop, and look after them.

Between two replicas there is one connection, dialed by the one with the lower id: one channel has one order of messages
and one state, and a replica that is penalised or restarts is dialed again, or dials again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from smartbft.crypto.signatures import Signer
from smartbft.errors import ConfigError, HandshakeError, RemoteProtocolError
from smartbft.limits import RECONNECT_INITIAL_SECONDS, RECONNECT_MAX_SECONDS
from smartbft.net.connection import Connection, Handler, ReadBuffer
from smartbft.net.handshake import (
    NO_CHANNEL,
    NONCE_BYTES,
    Acceptor,
    ClientDialer,
    Handshake,
    Identity,
    ReplicaDialer,
)
from smartbft.net.penalties import Penalties
from smartbft.net.watch import ConnectionLimits

logger = logging.getLogger(__name__)

_BACKLOG = 1024


def plain(error: OSError) -> str:
    """What the system says about a failed operation on a socket, without the number and the loop's words around it."""
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or str(error)
        return f"it does not speak TLS as it should ({reason.lower().replace('_', ' ')})"
    if error.errno in errno.errorcode:
        return os.strerror(error.errno or 0).lower()
    return error.strerror or str(error) or "no answer in time"


@dataclass(frozen=True, slots=True)
class Target:
    """A replica to dial.

    Attributes:
        replica: its id.
        host, port: where it listens.
        key: its permanent key.
        certificate: SHA-256 of its TLS certificate, None on plain TCP.
    """

    replica: int
    host: str
    port: int
    key: bytes
    certificate: bytes | None


class Listener:
    """Accepts connections on one address.

    Args:
        chain_id: hash of the genesis.
        identity: of this replica.
        peers: permanent keys of the replicas that may dial here; None on the port for clients.
        handler: the owner of the connections.
        tls: the context, None for plain TCP.
        certificate: SHA-256 of this replica's certificate, None for plain TCP.
        connection_limits: how many connections, and their timeouts.
        penalties: makes addresses wait whose connections were closed for what they did; None: the owner sees to that.

    Attributes:
        connections: all that are open.
        strangers: those of them that have not introduced themselves, oldest first.
    """

    def __init__(
        self,
        chain_id: bytes,
        identity: Identity,
        peers: Mapping[int, bytes] | None,
        handler: Handler,
        buffer: ReadBuffer,
        *,
        tls: ssl.SSLContext | None = None,
        certificate: bytes | None = None,
        connection_limits: ConnectionLimits | None = None,
        penalties: Penalties[str] | None = None,
    ) -> None:
        self._chain_id = chain_id
        self._identity = identity
        self._peers = peers
        self._handler = handler
        self._buffer = buffer
        self._tls = tls
        self._channel = certificate or NO_CHANNEL
        self._limits = connection_limits or ConnectionLimits()
        self._server: asyncio.Server | None = None
        self._looking: asyncio.TimerHandle | None = None
        self.penalties = penalties
        self.connections: set[Connection] = set()
        self.strangers: dict[_Accepted, None] = {}

    async def start(self, host: str, port: int, sock: socket.socket | None = None) -> None:
        """Listen on `host`:`port`, or on `sock` if it is given (bound already).

        Raises:
            ConfigError: the address cannot be used.
        """
        loop = asyncio.get_running_loop()
        where = {"sock": sock} if sock is not None else {"host": host, "port": port}
        timeout = self._limits.handshake_timeout if self._tls else None
        try:
            self._server = await loop.create_server(
                self._make, ssl=self._tls, ssl_handshake_timeout=timeout, backlog=_BACKLOG, **where
            )
        except OSError as error:
            hint = " (is another replica running?)" if error.errno == errno.EADDRINUSE else ""
            raise ConfigError(f"cannot listen on {host}:{port}: {plain(error)}{hint}") from None
        self._looking = loop.call_later(self._limits.look_interval, self._look)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.abort()
        if self._server is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 1.0)

    def _make(self) -> Connection:
        acceptor = Acceptor(self._chain_id, self._identity, self._peers, os.urandom(NONCE_BYTES), self._channel)
        return _Accepted(acceptor, b"", self._handler, self._buffer, self._limits, self)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self.connections):
            connection.look(now)
        self._looking = loop.call_later(self._limits.look_interval, self._look)


class _Accepted(Connection):
    """A connection that its listener counts."""

    def __init__(
        self,
        handshake: Handshake,
        greeting: bytes,
        handler: Handler,
        buffer: ReadBuffer,
        connection_limits: ConnectionLimits,
        listener: Listener,
    ) -> None:
        super().__init__(handshake, greeting, handler, buffer, connection_limits)
        self._listener = listener
        self._host = ""
        self._turned_away = False  # not for what it did

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        listener = self._listener
        super().connection_made(transport)
        self._host = self.address.rpartition(":")[0]
        waits = listener.penalties.remaining(self._host, self._loop.time()) if listener.penalties is not None else 0.0
        if len(listener.connections) >= self._limits.connections:
            self._turn_away(f"{len(listener.connections)} connections are open, which is the limit")
        elif waits:
            self._turn_away(f"its address broke the protocol a moment ago and has to wait for {waits:.1f} seconds")
        listener.connections.add(self)
        listener.strangers[self] = None
        if len(listener.strangers) > self._limits.strangers:
            next(iter(listener.strangers))._turn_away("too many connections have not introduced themselves")

    def connection_lost(self, exc: Exception | None) -> None:
        listener, error = self._listener, self._error
        listener.connections.discard(self)
        listener.strangers.pop(self, None)
        # Who is on another chain is told so and was not rude; whoever breaks the protocol has to wait.
        rude = isinstance(error, RemoteProtocolError) and not isinstance(error, HandshakeError)
        if rude and not self._turned_away and listener.penalties is not None:
            listener.penalties.offence(self._host, self._loop.time())
        super().connection_lost(exc)

    def _shake_hands(self, data: memoryview) -> None:
        super()._shake_hands(data)
        if self.peer is not None:
            self._listener.strangers.pop(self, None)

    def _turn_away(self, why: str) -> None:
        self._turned_away = True
        self._listener.strangers.pop(self, None)
        self.fail(RemoteProtocolError(f"{self.address}: {why}"))


class Dialer:
    """Keeps a connection to one replica: dials, waits until it is lost, dials again after a growing pause.

    Args:
        chain_id: hash of the genesis.
        target: whom to dial.
        identity: of this replica, None when a client dials.
        handler: the owner of the connection.
        tls: the context, None for plain TCP.
        connection_limits: timeouts.
        client: proves a client's key, where requests are not signed.
    """

    def __init__(
        self,
        chain_id: bytes,
        target: Target,
        identity: Identity | None,
        handler: Handler,
        buffer: ReadBuffer,
        *,
        tls: ssl.SSLContext | None = None,
        connection_limits: ConnectionLimits | None = None,
        client: Signer | None = None,
    ) -> None:
        self._chain_id = chain_id
        self._client = client
        self._target = target
        self._identity = identity
        self._handler = handler
        self._buffer = buffer
        self._tls = tls
        self._limits = connection_limits or ConnectionLimits()
        self._connection: Connection | None = None
        self._pause = RECONNECT_INITIAL_SECONDS
        self._last_problem = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def replica(self) -> int:
        """Whom it dials."""
        return self._target.replica

    @property
    def problem(self) -> str:
        """Why the last attempt failed, or the last connection ended, in words; empty while there is a connection."""
        return self._last_problem

    def start(self) -> None:
        """Dial from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop dialing and close the connection."""
        try:
            if self._task is not None:
                self._task.cancel()
                # Not `await` alone: a cancellation of whoever closes would look like that of the task.
                await asyncio.wait((self._task,))
                if not self._task.cancelled():
                    self._task.result()
        finally:
            if self._connection is not None:
                self._connection.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                connection = await self._dial()
                await self._watch(connection)
                problem = _end_of(connection)
            except OSError as error:
                problem = plain(error)
            self._connection = None
            if loop.time() - began > RECONNECT_MAX_SECONDS:
                self._pause = RECONNECT_INITIAL_SECONDS
            self._report(problem)
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, RECONNECT_MAX_SECONDS)

    async def _dial(self) -> Connection:
        target = self._target
        timeout = self._limits.handshake_timeout if self._tls is not None else None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._limits.handshake_timeout):
            _, connection = await loop.create_connection(
                self._make, target.host, target.port, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        self._connection = connection
        return connection

    async def _watch(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if await asyncio.shield(connection.established) is not None:
            self._last_problem = ""
        while not connection.done.done():
            await asyncio.wait([connection.done], timeout=self._limits.look_interval)
            connection.look(loop.time())

    def _make(self) -> Connection:
        target = self._target
        nonce = os.urandom(NONCE_BYTES)
        channel = target.certificate if self._tls is not None and target.certificate else NO_CHANNEL
        dialer: ClientDialer | ReplicaDialer
        if self._identity is None:
            dialer = ClientDialer(self._chain_id, target.replica, target.key, nonce, channel, self._client)
        else:
            dialer = ReplicaDialer(self._chain_id, self._identity, target.replica, target.key, nonce, channel)
        certificate = target.certificate if self._tls is not None else None
        return Connection(dialer, dialer.start(), self._handler, self._buffer, self._limits, certificate)

    def _report(self, problem: str) -> None:
        """Log a problem once, not at every attempt."""
        if problem != self._last_problem:
            self._last_problem = problem
            logger.info("replica %d at %s:%d: %s", self._target.replica, self._target.host, self._target.port, problem)


def _end_of(connection: Connection) -> str:
    """Why a connection that is gone ended."""
    error = connection.done.result()
    if isinstance(error, OSError):
        return plain(error)
    if error is None and connection.peer is None:
        return "closed by the other side before it said who it is: is 'transport' the same on both sides?"
    return str(error or "closed by the other side")
