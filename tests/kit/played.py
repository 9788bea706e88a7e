"""Replicas that a test plays, so that a client sees exactly what the test is about."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

from kit.patience import PATIENCE_SECONDS, reach
from smartbft import AsyncClient, Genesis
from smartbft._fastpath.frames import REPLY, REQUEST, STATUS, STATUS_ANSWER, FrameReader, frame
from smartbft._fastpath.pool import EXECUTED, join_requests, request_digests, split_requests
from smartbft.config import Address, GenesisMember
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import MAX_REQUEST_BYTES
from smartbft.net.connection import Connection, ReadBuffer
from smartbft.net.handshake import Identity
from smartbft.net.transport import Listener
from smartbft.runtime.local import _bind
from smartbft.types import Parameters

Script = Callable[["PlayedReplica", int, bytes], list[tuple[int, bytes]]]


class PlayedReplica:
    """A replica that answers as the script says: `(status, result)` of each reply to a request."""

    def __init__(self, id: int, genesis: Genesis, script: Script) -> None:
        self.id = id
        self.chain_id = genesis.chain_id
        self.script = script
        self.requests: list[tuple[int, int, bytes]] = []  # session, sequence number, operation
        self.payloads: list[bytes] = []  # the same as they came
        self.answered: dict[tuple[int, int], int] = {}

    def opened(self, connection: Connection) -> FrameReader:
        return FrameReader({REQUEST: MAX_REQUEST_BYTES, STATUS: 100})

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        for kind, payload in frames:
            if kind == STATUS:
                connection.send(
                    frame(STATUS_ANSWER, b"not json" if self.id == 3 else json.dumps({"n": self.id}).encode())
                )
                continue
            self.payloads.append(payload)
            data = join_requests([payload])
            ((_, session, sequence, operation, _),) = split_requests(data)
            self.requests.append((session, sequence, operation))
            digest = request_digests(self.chain_id, data)
            for status, result in self.script(self, sequence, operation):
                head = struct.pack("<HBBIQQ32s", self.id, status, 2, 0, sequence, self.time(), digest)
                connection.send(frame(REPLY, head + result))

    def closed(self, connection: Connection, error: Exception | None) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        raise error

    def time(self) -> int:
        return 4_000_000_000_000_000

    def times(self) -> tuple[int, int]:
        """Clock and agreed time that it tells whoever connects."""
        return self.time(), 0

    def attempts(self, sequence: int) -> int:
        return sum(1 for _, number, _ in self.requests if number == sequence)


class Stage:
    """Four played replicas and a client of them, which does not repeat itself unless it is told when: `retransmit`."""

    def __init__(self, script: Script, *, reachable: int = 4, window: int = 64, **client: Any) -> None:
        self.signers = [Ed25519Signer(bytes([replica + 1]) * 32) for replica in range(4)]
        self.sockets = [_bind() for _ in range(4)]
        members = tuple(
            GenesisMember(
                replica,
                signer.public_key,
                Ed25519Signer(bytes([replica + 101]) * 32).public_key,
                bytes([replica]) * 32,
                Address("127.0.0.1", 1 + replica),
                Address("127.0.0.1", self.sockets[replica].getsockname()[1]),
            )
            for replica, signer in enumerate(self.signers)
        )
        self.genesis = Genesis("played", 0, members, Parameters(window=window), "played")
        self.replicas = [PlayedReplica(replica, self.genesis, script) for replica in range(4)]
        self._reachable = reachable
        settings = {"transport": "plain", "persistence": "sync", "retransmit": 3600.0} | client
        self.client = AsyncClient(self.genesis, Ed25519Signer(os.urandom(32)), **settings)
        self._listeners: list[Listener] = []

    async def __aenter__(self) -> Stage:
        for replica in range(self._reachable):
            identity = Identity(replica, self.signers[replica], 0, 2, self.replicas[replica].times)
            listener = Listener(self.genesis.chain_id, identity, None, self.replicas[replica], ReadBuffer())
            await listener.start("127.0.0.1", 0, self.sockets[replica].dup())
            self._listeners.append(listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        for listener in self._listeners:
            await listener.close()
        for sock in self.sockets:
            sock.close()

    def answer_with(self, script: Script) -> None:
        """Have all replicas play another script from now on."""
        for replica in self.replicas:
            replica.script = script

    async def connected(self) -> AsyncClient:
        await self.client.connect(PATIENCE_SECONDS)
        await reach(self.client, self._reachable)
        return self.client


def executed(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
    return [(EXECUTED, b"done " + operation)]


def silent(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
    return []
