"""The other ends that a replica must survive: connections that shake hands properly and then say anything at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from smartbft import LocalCluster
from smartbft._fastpath.frames import MESSAGE, REPLY, FrameReader, frame
from smartbft.config import Address
from smartbft.limits import MAX_REPLY_BYTES, REPLY_HEADER_BYTES
from smartbft.messages import Message, encode
from smartbft.net.handshake import NO_CHANNEL, ClientDialer, Identity, ReplicaDialer

_READ_BYTES = 65536


@dataclass
class RawConnection:
    """A connection whose bytes the test writes itself."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: FrameReader = field(default_factory=lambda: FrameReader({REPLY: MAX_REPLY_BYTES}))

    async def read(self) -> bytes:
        """What comes next; empty once the other side has closed."""
        try:
            return await self.reader.read(_READ_BYTES)
        except ConnectionError:  # it closed with bytes of ours unread
            return b""

    async def closed(self) -> bytes:
        """Wait until the other side closes; returns what it said before."""
        said = b""
        while data := await self.read():
            said += data
        return said

    async def send(self, *pieces: bytes) -> None:
        """Write; a connection that is closed meanwhile takes no more, which is not an error here."""
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
        except ConnectionError:
            return

    async def reply(self, status: int) -> bytes:
        """Wait for a reply with this status; returns its result. Raises ConnectionError: the connection is closed."""
        while True:
            data = await self.read()
            if not data:
                raise ConnectionError(f"closed without a reply of status {status}")
            for _, payload in self.frames.feed(data, 0):
                if payload[2] == status:
                    return payload[REPLY_HEADER_BYTES:]

    async def introduce(self, dialer: ClientDialer | ReplicaDialer) -> None:
        """Go through a handshake. Raises ConnectionError: the other side closes instead."""
        await self.send(dialer.start())
        while dialer.peer is None:
            data = await self.read()
            if not data:
                raise ConnectionError("the handshake was refused")
            await self.send(dialer.receive(data))

    async def say(self, message: Message) -> None:
        """Write a protocol message."""
        await self.send(frame(MESSAGE, encode(message)))


@asynccontextmanager
async def stranger_at(address: Address) -> AsyncIterator[RawConnection]:
    """A connection to an address, nothing said yet."""
    connection = RawConnection(*await asyncio.open_connection(address.host, address.port))
    try:
        yield connection
    finally:
        connection.writer.close()
        with suppress(ConnectionError):
            await connection.writer.wait_closed()


@asynccontextmanager
async def client_of(cluster: LocalCluster, replica: int) -> AsyncIterator[RawConnection]:
    """A client's connection to one replica, the handshake done."""
    member = cluster.genesis.members[replica]
    async with stranger_at(member.client_address) as connection:
        dialer = ClientDialer(cluster.genesis.chain_id, replica, member.permanent_key, os.urandom(32), NO_CHANNEL)
        await connection.introduce(dialer)
        yield connection


@asynccontextmanager
async def peer_of(cluster: LocalCluster, replica: int, *, own: int) -> AsyncIterator[RawConnection]:
    """The connection of replica `own` (which must not run) to a replica with a higher id, with its real key."""
    member = cluster.genesis.members[replica]
    identity = Identity(own, cluster._secrets[own].permanent, 0, 0)
    dialer = ReplicaDialer(
        cluster.genesis.chain_id, identity, replica, member.permanent_key, os.urandom(32), NO_CHANNEL
    )
    async with stranger_at(member.replica_address) as connection:
        await connection.introduce(dialer)
        yield connection


@asynccontextmanager
async def client_of_all(cluster: LocalCluster) -> AsyncIterator[list[RawConnection]]:
    """A client's connections to every replica that runs."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client_of(cluster, replica)) for replica in sorted(cluster.replicas)]
