"""The channels to the other replicas: who is connected, frames in and out, penalties."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from smartbft._fastpath.frames import MESSAGE, FrameReader
from smartbft.errors import RemoteProtocolError
from smartbft.limits import MAX_MEMBERS, MAX_MESSAGE_BYTES, RECONNECT_INITIAL_SECONDS, RECONNECT_MAX_SECONDS
from smartbft.net.connection import Connection
from smartbft.net.penalties import Penalties
from smartbft.runtime.throttle import peer_budget
from smartbft.token_bucket import TokenBucket

logger = logging.getLogger(__name__)


class PeerChannels:
    """Owner of the connections between replicas.

    Args:
        connected: called with a peer's id whenever its channel is up (again).
        message: called with a peer's id and a MESSAGE payload; returns the seconds of the loop's time that it wasted;
            raises RemoteProtocolError if it is bad.
        failed: called when our own code raised.
        f: how many peers may be faulty.
    """

    def __init__(
        self,
        connected: Callable[[int], None],
        message: Callable[[int, bytes], float],
        failed: Callable[[BaseException], None],
        f: int,
    ) -> None:
        self._connected = connected
        self._message = message
        self._failed = failed
        self._f = f
        self._channels: dict[int, Connection] = {}
        self._heard: dict[int, float] = {}  # when the channel last brought something
        self._budgets: dict[int, TokenBucket] = {}  # by peer: a new channel brings no new budget
        self._penalties: Penalties[int] = Penalties(RECONNECT_INITIAL_SECONDS, RECONNECT_MAX_SECONDS, MAX_MEMBERS)

    # --- effects ---

    def send(self, to: int, frame: bytes) -> None:
        """Send a frame to one replica; lost if its channel is down."""
        channel = self._channels.get(to)
        if channel is not None:
            channel.send(frame)

    def broadcast(self, frame: bytes) -> None:
        """Send a frame to every connected replica."""
        for channel in self._channels.values():
            channel.send(frame)

    def penalise(self, peer: int, reason: str) -> None:
        """Drop the channel of a peer that broke the protocol."""
        channel = self._channels.get(peer)
        if channel is not None:
            channel.fail(RemoteProtocolError(reason))

    async def writable(self, peer: int) -> bool:
        """Wait until `peer` has taken what we wrote; False if it is not connected any more."""
        channel = self._channels.get(peer)
        return channel is not None and await channel.writable()

    def connected(self) -> list[int]:
        """Ids of the replicas whose channels are up."""
        return sorted(self._channels)

    def silent(self, seconds: float) -> list[int]:
        """Ids of the replicas that are connected and have said nothing for so long: frozen, or cut off."""
        since = asyncio.get_running_loop().time() - seconds
        return sorted(peer for peer in self._channels if self._heard[peer] < since)

    def close(self) -> None:
        """Close every channel."""
        for channel in list(self._channels.values()):
            channel.close()

    # --- Handler ---

    def opened(self, connection: Connection) -> FrameReader:
        """A replica has proven who it is; a newer channel of the same replica replaces the older.

        Raises:
            RemoteProtocolError: it broke the protocol a moment ago, and has to wait.
        """
        peer = self._peer_of(connection)
        if self._penalties.remaining(peer, asyncio.get_running_loop().time()):
            raise RemoteProtocolError(f"replica {peer} broke the protocol a moment ago and has to wait")
        older = self._channels.get(peer)
        self._channels[peer] = connection
        self._heard[peer] = asyncio.get_running_loop().time()
        if older is not None:
            older.abort()
        logger.info("replica %d is connected (%s)", peer, connection.address)
        asyncio.get_running_loop().call_soon(self._announce, peer, connection)
        return FrameReader({MESSAGE: MAX_MESSAGE_BYTES})

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        """Protocol messages of one socket read, until one of them closes the channel."""
        peer = self._peer_of(connection)
        now = self._heard[peer] = asyncio.get_running_loop().time()
        wasted = 0.0
        for _, payload in frames:
            if connection.failed:
                return
            wasted += self._message(peer, payload)
        if wasted:
            budget = self._budgets.get(peer) or self._budgets.setdefault(peer, peer_budget(self._f))
            if seconds := budget.charge(wasted, now):
                connection.rest(seconds)

    def closed(self, connection: Connection, error: Exception | None) -> None:
        """The channel is gone; if that was the peer's fault, it has to wait before it is let in again."""
        if connection.peer is None or connection.peer.replica is None:
            if error is not None:
                logger.info("a connection from %s failed: %s", connection.address, error)
            return
        peer = connection.peer.replica
        if self._channels.get(peer) is not connection:
            return  # replaced by a newer one, or never let in: waiting for the end of a penalty is no new offence
        del self._channels[peer]
        logger.info("replica %d is disconnected: %s", peer, error or "closed")
        if isinstance(error, RemoteProtocolError):
            self._penalties.offence(peer, asyncio.get_running_loop().time())
            logger.warning("replica %d broke the protocol: %s", peer, error)

    def failed(self, error: BaseException) -> None:
        """Our own code raised."""
        self._failed(error)

    def _announce(self, peer: int, connection: Connection) -> None:
        if self._channels.get(peer) is connection:
            self._connected(peer)

    @staticmethod
    def _peer_of(connection: Connection) -> int:
        peer = connection.peer
        if peer is None or peer.replica is None:
            raise RemoteProtocolError("only replicas may speak here")
        return peer.replica
