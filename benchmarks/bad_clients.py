"""A client that misbehaves until it is stopped; says when it is ready to. For `faults.py`.

python benchmarks/bad_clients.py GENESIS ATTACK [tls]

one-replica     tells every request to one replica only, which does not lead
bad-signatures  signs garbage, and connects again whenever it is thrown out
gaps            leaves out every second sequence number
full-of-gaps    leaves out the first one, as fast as it can sign: fills the pools with what nobody can order
flood           sends the same valid requests to all replicas, over and over, as fast as the sockets take them
connections     opens thousands of connections a second to all ports, for clients and for replicas, and says nothing
handshakes      the same, and begins a handshake on each
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from smartbft.config import Genesis, GenesisMember
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import SIGNATURE_BYTES
from smartbft.measurement.requests import SPEND, Job, sign_rounds, split_frames, traffic
from smartbft.net.handshake import NO_CHANNEL, NONCE_BYTES, ClientDialer

CONNECTING = ("connections", "handshakes")
ATTACKS = ("one-replica", "bad-signatures", "gaps", "full-of-gaps", "flood", *CONNECTING)
KEYS = 64
ROUNDS = 40
# Requests per second, but for those that come as fast as they can.
RATE = 1000
# Connections opened per second, and kept open until the other side closes them or so many newer ones are open.
CONNECTIONS_PER_SECOND = 4000
KEPT = 4000
# A connection speaks when so many others were opened after it: by then it is made.
SPEAKS_AFTER = 64


def rounds_of(genesis: Genesis) -> Iterator[list[bytes]]:
    """Frames of well-formed SPENDs of coins that do not exist; a round has one of each key. New keys each time."""
    seeds = [os.urandom(32) for _ in range(KEYS)]
    keys = [Ed25519Signer(seed).public_key for seed in seeds]
    job = Job(SPEND, genesis.chain_id, time.time_ns() // 1000, seeds, keys, keys, 10**6, 2, 200, ROUNDS)
    for requests in sign_rounds(job):
        size = job.request_bytes
        pieces = [requests[start : start + size] for start in range(0, len(requests), size)]
        packed = traffic(genesis.chain_id, pieces, KEYS)
        bounds = list(packed.bounds)
        yield [packed.frames[first:last] for first, last in itertools.pairwise(bounds)]
        assert split_frames(packed) == pieces


class Victim:
    """A connection to one replica, made again whenever it is closed; what is said is not read."""

    def __init__(self, genesis: Genesis, member: GenesisMember) -> None:
        self._genesis = genesis
        self._member = member
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        try:
            if self._writer is None or self._writer.is_closing():
                await self._connect()
            assert self._writer is not None
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            self._writer = None
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._writer is not None:
            self._writer.close()

    async def _connect(self) -> None:
        member = self._member
        reader, writer = await asyncio.open_connection(member.client_address.host, member.client_address.port)
        dialer = ClientDialer(
            self._genesis.chain_id, member.id, member.permanent_key, os.urandom(NONCE_BYTES), NO_CHANNEL
        )
        writer.write(dialer.start())
        while dialer.peer is None:
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError("the handshake was refused")
            if answer := dialer.receive(data):
                writer.write(answer)
        self._writer = writer
        self._reading = asyncio.ensure_future(self._read(reader, writer))

    @staticmethod
    async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                pass
        except OSError:
            pass
        writer.close()


async def attack(genesis: Genesis, kind: str) -> None:
    leader = genesis.view.leader(0)
    victims = [Victim(genesis, member) for member in genesis.members]
    follower = next(victim for victim, member in zip(victims, genesis.members, strict=True) if member.id != leader)
    while True:
        rounds = list(rounds_of(genesis))
        print("ready", flush=True)
        if kind == "flood":
            everything = b"".join(b"".join(frames) for frames in rounds)
            until = time.monotonic() + 5
            while time.monotonic() < until:
                await asyncio.gather(*(victim.send(everything) for victim in victims))
            continue
        for number, frames in enumerate(rounds):
            if (kind == "gaps" and number % 2 == 0) or (kind == "full-of-gaps" and number == 0):
                continue
            if kind == "bad-signatures":
                frames = [frame[:-SIGNATURE_BYTES] + os.urandom(SIGNATURE_BYTES) for frame in frames]
            told = [follower] if kind == "one-replica" else victims
            await asyncio.gather(*(victim.send(b"".join(frames)) for victim in told))
            await asyncio.sleep(0 if kind == "full-of-gaps" else KEYS / RATE)


def first_words(genesis: Genesis, tls: bool) -> bytes:
    """What makes a replica work: the same bytes every time, which cost us nothing."""
    if not tls:
        member = genesis.members[0]
        return ClientDialer(genesis.chain_id, member.id, member.permanent_key, bytes(NONCE_BYTES), NO_CHANNEL).start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def crowd(genesis: Genesis, words: bytes) -> None:
    """Open connections without end; on each of them say `words`."""
    addresses = [address for member in genesis.members for address in (member.client_address, member.replica_address)]
    opened: deque[socket.socket] = deque()
    print("ready", flush=True)
    began = time.monotonic()
    for number in itertools.count():
        address = addresses[number % len(addresses)]
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((address.host, address.port))
        opened.append(sock)
        if words and len(opened) > SPEAKS_AFTER:
            with contextlib.suppress(OSError):  # not taken yet, or closed already
                opened[-SPEAKS_AFTER].send(words)
        if len(opened) > KEPT:
            opened.popleft().close()
        early = number / CONNECTIONS_PER_SECOND - (time.monotonic() - began)
        if early > 0.005:
            time.sleep(early)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[2] not in ATTACKS:
        sys.exit(__doc__)
    of = Genesis.load(Path(sys.argv[1]))
    if sys.argv[2] in CONNECTING:
        crowd(of, first_words(of, tls=sys.argv[3:] == ["tls"]) if sys.argv[2] == "handshakes" else b"")
    else:
        asyncio.run(attack(of, sys.argv[2]))
