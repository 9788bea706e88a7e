"""Listeners and dialers: they make `Connection` objects on the caller's loop, and look after them.

Between two replicas there is one connection, dialed by the one with the lower id: one channel has one order of messages
and one state, and a replica that is penalised or restarts is dialed again, or dials again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import cast

from smartbft.crypto.signatures import Signer
from smartbft.errors import HandshakeError, InvalidSignature, RemoteProtocolError
from smartbft.limits import COSTLY_OFFENCE_PAUSE_SECONDS, RECONNECT_INITIAL_SECONDS, RECONNECT_MAX_SECONDS
from smartbft.net.connection import Connection, Handler, ReadBuffer
from smartbft.net.dialing import Trials, connect_any, listen, listen_on, plain, server_name
from smartbft.net.handshake import (
    NO_CHANNEL,
    NONCE_BYTES,
    Acceptor,
    ClientDialer,
    Handshake,
    Identity,
    ReplicaDialer,
)
from smartbft.net.knock import Door, knock
from smartbft.net.lobby import Guest, Lobby
from smartbft.net.names import RESOLVER, Place, Places
from smartbft.net.penalties import Probation
from smartbft.net.watch import ConnectionLimits

logger = logging.getLogger(__name__)


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
        probation: lets addresses in more slowly whose connections broke the protocol; None: the owner sees to that.

    Attributes:
        connections: all whose handshake has begun (with TLS: ours, after that one).
        strangers: connections that have not introduced themselves, oldest first.
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
        probation: Probation | None = None,
    ) -> None:
        self._chain_id = chain_id
        self._identity = identity
        self._peers = peers
        self._handler = handler
        self._buffer = buffer
        self._tls = tls
        self._channel = certificate or NO_CHANNEL
        self._limits = connection_limits or ConnectionLimits()
        self._looking: asyncio.TimerHandle | None = None
        self._quiet: list[Connection] = []  # those that would make room for others, the most silent one last
        self.probation = probation
        self.connections: set[Connection] = set()
        door = None if peers is None else Door(chain_id, identity.replica, peers)
        self.lobby = Lobby(self._limits, tls=tls is not None, door=door, probation=probation, begin=self._begin)

    async def start(self, host: str, port: int, sock: socket.socket | None = None) -> None:
        """Listen on `host`:`port`, or on `sock` if it is given (bound already).

        Raises:
            ConfigError: the address cannot be used.
        """
        for listening in await listen(host, port) if sock is None else [listen_on(sock, host, port)]:
            self.lobby.open(listening)
        self._looking = asyncio.get_running_loop().call_later(self._limits.look_interval, self._look)

    @property
    def strangers(self) -> Collection[Guest]:
        """Connections that have not introduced themselves, oldest first."""
        return self.lobby.guests

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._looking is not None:
            self._looking.cancel()
        self.lobby.close()
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    def make_room(self) -> str:
        """If too many are open, one that has been silent for long goes; why there is no room, if there is none such."""
        if len(self.connections) <= self._limits.connections:
            return ""
        while self._quiet:
            connection = self._quiet.pop()
            if connection in self.connections:
                connection.retire(RemoteProtocolError(f"{connection.address} was silent, and others need the room"))
                return ""
        return f"{self._limits.connections} connections are open, which is the limit"

    async def _begin(self, guest: Guest, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        timeout = self._limits.handshake_timeout if self._tls else None
        await loop.connect_accepted_socket(
            lambda: self._make(guest), sock, ssl=self._tls, ssl_handshake_timeout=timeout
        )

    def _make(self, guest: Guest) -> Connection:
        acceptor = Acceptor(self._chain_id, self._identity, self._peers, os.urandom(NONCE_BYTES), self._channel)
        return _Accepted(acceptor, b"", self._handler, self._buffer, self._limits, self, guest)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self.connections):
            connection.look(now)
        silent = (one for one in self.connections if now - one.heard > self._limits.yielding_silence)
        self._quiet = sorted(silent, key=lambda one: -one.heard)
        self._bound_waiting()
        self._looking = loop.call_later(self._limits.look_interval, self._look)

    def _bound_waiting(self) -> None:
        """Close those that most waits for, until what waits for all together is within its limit."""
        waiting = {connection: connection.waiting for connection in self.connections}
        total = sum(waiting.values())
        if total <= self._limits.waiting_limit:
            return
        for connection, size in sorted(waiting.items(), key=lambda one: -one[1]):
            connection.fail(RemoteProtocolError(f"{connection.address} reads too little of what is sent to it"))
            total -= size
            if total <= self._limits.waiting_limit:
                return


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
        guest: Guest,
    ) -> None:
        super().__init__(handshake, greeting, handler, buffer, connection_limits)
        self._listener = listener
        self._guest = guest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._listener.connections.add(self)
        self._guest.turn_away = self._turn_away
        super().connection_made(transport)
        if why := self._listener.make_room():
            self._turn_away(why)

    def connection_lost(self, exc: Exception | None) -> None:
        listener, error = self._listener, self._error
        listener.connections.discard(self)
        listener.lobby.left(self._guest)
        # Who is on another chain is told so and was not rude; whoever breaks the protocol is on probation.
        rude = isinstance(error, RemoteProtocolError) and not isinstance(error, HandshakeError) and not self.blameless
        if rude and listener.probation is not None:
            pause = COSTLY_OFFENCE_PAUSE_SECONDS if isinstance(error, InvalidSignature) else 0.0
            listener.probation.offence(self._guest.group, pause, self._loop.time())
        super().connection_lost(exc)

    def _shake_hands(self, data: memoryview) -> None:
        super()._shake_hands(data)
        if self.peer is not None:
            self._listener.lobby.left(self._guest)

    def _turn_away(self, why: str) -> None:
        self.retire(RemoteProtocolError(f"{self.address}: {why}"))


class _BeforeTls(asyncio.Protocol):
    """Nothing is read before TLS begins, not even that the other side has closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).pause_reading()


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
        self._trials = Trials()
        self._place: Place | None = None  # where it dials now, or is connected
        self._last_resort = True
        self._knocked = 0  # when, microseconds

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
                await self._connection.aclose()
            else:
                await asyncio.sleep(0)  # a connection that was being made is taken down in the next turn

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began, led_nowhere = loop.time(), True
            try:
                connection = await self._dial()
                await self._watch(connection)
                problem = _end_of(connection)
                led_nowhere = connection.peer is None
            except OSError as error:
                problem = plain(error)
            except Exception as error:  # a bug costs an attempt, and not the connection for ever
                logger.exception("dialing replica %d failed", self._target.replica)
                problem = str(error)
            self._connection = None
            if led_nowhere and self._place is not None:
                self._trials.failed(self._place)
            if loop.time() - began > RECONNECT_MAX_SECONDS:
                self._pause = RECONNECT_INITIAL_SECONDS
            self._report(problem)
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, RECONNECT_MAX_SECONDS)

    async def _dial(self) -> Connection:
        loop, longest = asyncio.get_running_loop(), self._limits.handshake_timeout
        places = self._trials.order(await self._find())
        self._place = None
        async with asyncio.timeout(longest):
            try:
                sock, self._place = await connect_any(places)
            except OSError:
                self._trials.failed(*places)
                raise
            limits = replace(self._limits, handshake_timeout=self._trials.seconds(self._place, places, longest))
            self._last_resort = self._trials.is_last_resort(self._place, places)
            try:
                if self._tls is not None:
                    connection = await self._dial_tls(sock, self._tls, limits)
                else:
                    _, connection = await loop.create_connection(lambda: self._make(self._knock(), limits), sock=sock)
            except BaseException:
                sock.close()
                raise
        self._connection = connection
        return connection

    async def _find(self) -> Places:
        """Where the replica is now. Raises OSError: its name is not found."""
        target = self._target
        try:
            async with asyncio.timeout(self._limits.handshake_timeout):
                return await RESOLVER.find(target.host, target.port)
        except TimeoutError:
            raise OSError(f"the look-up of its name, {target.host}, has not ended yet") from None

    async def _dial_tls(self, sock: socket.socket, context: ssl.SSLContext, limits: ConnectionLimits) -> Connection:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(_BeforeTls, sock=sock)
        try:
            transport.write(self._knock())
            if transport.is_closing():
                raise ConnectionResetError("closed by the other side")
            connection = self._make(b"", limits)
            secured = await loop.start_tls(
                transport,
                connection,
                context,
                server_hostname=server_name(self._target.host),
                ssl_handshake_timeout=limits.handshake_timeout,
            )
        except ConnectionError as error:
            transport.abort()
            # Python hangs up without the alert that would say why.
            raise ConnectionResetError(
                f"{plain(error)} in the TLS handshake: is 'transport' the same on both sides, and does no policy of "
                "OpenSSL on one of them forbid Ed25519 or TLS 1.3?"
            ) from None
        except BaseException:
            transport.abort()
            raise
        if secured is not None and not connection.done.done():
            connection.connection_made(secured)
        return connection

    def _knock(self) -> bytes:
        """A replica says at once who it is, so that no crowd of others keeps it waiting; a client says nothing."""
        identity = self._identity
        if identity is None:
            return b""
        self._knocked = max(self._knocked + 1, time.time_ns() // 1000)
        return knock(self._chain_id, identity.signer, identity.replica, self._target.replica, self._knocked)

    async def _watch(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if await asyncio.shield(connection.established) is not None:
            self._last_problem = ""
            if self._place is not None:
                self._trials.succeeded(self._place)
        while not connection.done.done():
            await asyncio.wait([connection.done], timeout=self._limits.look_interval)
            connection.look(loop.time())

    def _make(self, first: bytes, limits: ConnectionLimits) -> Connection:
        """A connection that says `first` before its handshake."""
        target = self._target
        nonce = os.urandom(NONCE_BYTES)
        channel = target.certificate if self._tls is not None and target.certificate else NO_CHANNEL
        dialer: ClientDialer | ReplicaDialer
        if self._identity is None:
            dialer = ClientDialer(self._chain_id, target.replica, target.key, nonce, channel, self._client)
        else:
            dialer = ReplicaDialer(self._chain_id, self._identity, target.replica, target.key, nonce, channel)
        certificate = target.certificate if self._tls is not None else None
        connection = Connection(dialer, first + dialer.start(), self._handler, self._buffer, limits, certificate)
        connection.last_resort = self._last_resort
        return connection

    def _report(self, problem: str) -> None:
        """Log a problem once, not at every attempt."""
        if problem != self._last_problem:
            self._last_problem = problem
            logger.info("replica %d at %s:%d: %s", self._target.replica, self._target.host, self._target.port, problem)


def _end_of(connection: Connection) -> str:
    """Why a connection that is gone ended."""
    error = connection.done.result()
    ended = plain(error) if isinstance(error, OSError) else str(error or "closed by the other side")
    if connection.peer is None and (error is None or isinstance(error, ConnectionError)):
        return f"{ended} before it said who it is: is 'transport' the same on both sides?"
    return ended
