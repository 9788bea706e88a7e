"""A client of four replicas, of which one is a liar that leads: a model of what the others do, and of what it may do.

The client is the real `AsyncClient`; the replicas are rules. The liar keeps every request that was ever sent, says what
it likes, and has ordered what the rules of sessions allow, at any time that the others accept. What is executed in the
end is compared with what the client was told.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from random import Random
from typing import Any

from smartbft import AsyncClient, Indeterminate, NotEnoughReplies, Overloaded, Rejected
from smartbft._fastpath.frames import REPLY, REQUEST, STATUS, FrameReader
from smartbft._fastpath.pool import (
    EXECUTED,
    OVERLOADED,
    REJECTED,
    SESSION_REFUSED,
    join_requests,
    request_digests,
    split_requests,
)
from smartbft.config import Address, Genesis, GenesisMember
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import MAX_REQUEST_BYTES, MAX_STATUS_QUESTION_BYTES
from smartbft.net.handshake import Peer
from smartbft.runtime.clocks import ReplicaClocks, SessionNumbers
from smartbft.types import Parameters

SECOND = 1_000_000
LEASE, SKEW = 100 * SECOND, 10 * SECOND  # short: the client looks at its timers four times a second
START = 1_700_000_000 * SECOND
LIAR = 3
REPLICAS = range(4)
_KEYS = [Ed25519Signer(bytes([number]) * 32).public_key for number in range(1, 9)]
GENESIS = Genesis(
    "lied to",
    0,
    tuple(
        GenesisMember(
            replica,
            _KEYS[2 * replica],
            _KEYS[2 * replica + 1],
            bytes([replica]) * 32,
            Address("127.0.0.1", 1 + replica),
            Address("127.0.0.1", 11 + replica),
        )
        for replica in REPLICAS
    ),
    Parameters(session_lease=LEASE, clock_skew=SKEW),
    "lied_to",
)


class Wire:
    """The client's end of the connection to one replica."""

    def __init__(self, world: World, replica: int) -> None:
        self.world = world
        self.replica = replica
        self.address = str(replica)
        self.peer = Peer(replica, clock=world.told(replica), agreed_time=world.agreed if replica != LIAR else 0)
        self.reader = FrameReader({REQUEST: MAX_REQUEST_BYTES, STATUS: MAX_STATUS_QUESTION_BYTES})

    def send(self, frames: bytes) -> None:
        requests = [payload for kind, payload in self.reader.feed(frames, 0) if kind == REQUEST]
        for request in requests:  # nobody answers questions
            asyncio.get_running_loop().call_soon(self.world.arrives, self.replica, request)


@dataclass
class Session:
    """An open session: how far it is executed, until when it lasts, the last replies."""

    executed: int = 0
    used_at: int = 0
    replies: dict[bytes, bytes] = field(default_factory=dict)


class World:
    """Three correct replicas, as one; the liar; the client.

    Attributes:
        clock: of the correct replicas, microseconds.
        agreed: the last agreed time.
        executed: operations in the order of execution.
        told: what the client was told of each operation.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.offset = 0
        self.agreed = START - self.random.choice([0, 5, 300]) * SECOND
        self.full: set[int] = set()
        self.losing = self.random.choice([0.0, 0.2, 0.6])
        self.calm = False
        self.sessions: dict[int, Session] = {}
        self.pool: dict[bytes, bytes] = {}  # what any correct replica holds
        self.seen: dict[bytes, bytes] = {}  # what the liar has seen
        self.executed: list[bytes] = []
        self.results: dict[bytes, bytes] = {}
        self.undone: dict[bytes, BaseException] = {}
        self.unknown: dict[bytes, Indeterminate] = {}
        wrong = self.random.choice([0, 0, 0, 4, -4, 15, -15, 150, -150, -50 * 365 * 86400]) * SECOND
        self.client = AsyncClient(GENESIS, Ed25519Signer(bytes(32)), transport="plain")
        self.client._clocks = ReplicaClocks(1, wall=lambda: self.steady() + wrong, steady=self.steady)
        self.client._numbers = SessionNumbers(self.client._clocks, LEASE, SKEW)
        self.client._session = self.client._numbers.choose()
        self.client._tick()
        self.wires: list[Any] = []

    # --- time ---

    @staticmethod
    def steady() -> int:
        return START + int(asyncio.get_running_loop().time() * SECOND)

    @property
    def clock(self) -> int:
        return self.steady() + self.offset

    def now(self) -> int:
        """What correct replicas judge sessions by."""
        return max(self.clock, self.agreed)

    def told(self, replica: int) -> int:
        """The clock that a replica tells."""
        return self.clock if replica != LIAR else self.random.choice([0, 1, self.clock, 2**61, START - 2 * LEASE])

    # --- replicas ---

    def connect(self) -> None:
        self.wires = [Wire(self, replica) for replica in self.random.sample(REPLICAS, 4)]
        for wire in self.wires:
            self.client.opened(wire)

    def admissible(self, number: int, time: int) -> bool:
        return time - LEASE <= number <= time + SKEW

    def arrives(self, replica: int, request: bytes) -> None:
        digest = request_digests(GENESIS.chain_id, join_requests([request]))
        self.seen[digest] = request
        if replica == LIAR:
            self.lie(digest)
            return
        ((_, number, sequence, operation, _),) = split_requests(join_requests([request]))
        session = self.sessions.get(number)
        if session is not None and sequence <= session.executed:
            if digest in session.replies:
                self.answer(replica, session.replies[digest])
        elif session is None and not any(self.admissible(number, time) for time in (self.now(), self.agreed + 1)):
            self.answer(replica, self.reply(SESSION_REFUSED, digest, time=self.now()))
        elif operation.startswith(b"bad"):
            self.answer(replica, self.reply(REJECTED, digest))
        elif replica in self.full:
            self.answer(replica, self.reply(OVERLOADED, digest))
        else:
            self.pool[digest] = request

    def reply(self, status: int, digest: bytes, result: bytes = b"", time: int = 0) -> bytes:
        return struct.pack("<BBIQQ32s", status, 2, 0, len(self.executed), time or self.agreed, digest) + result

    def answer(self, replica: int, body: bytes) -> None:
        if not self.calm and self.random.random() < self.losing:
            return
        loop = asyncio.get_running_loop()
        delay = 0.0 if self.calm else self.random.choice([0, 0, 0.1, 3])
        wire = next(wire for wire in self.wires if wire.replica == replica)
        loop.call_later(delay, self.client.received, wire, [(REPLY, struct.pack("<H", replica) + body)])

    def lie(self, digest: bytes) -> None:
        status = self.random.choice(
            [None, OVERLOADED, OVERLOADED, SESSION_REFUSED, SESSION_REFUSED, REJECTED, EXECUTED]
        )
        if status is not None:
            time = self.random.choice([1, self.agreed, self.clock, START - 2 * LEASE, 2**61])
            self.answer(LIAR, self.reply(status, digest, b"a lie" if status == EXECUTED else b"", time))

    def executable(self, request: bytes, time: int) -> bool:
        ((_, number, sequence, operation, _),) = split_requests(join_requests([request]))
        session = self.sessions.get(number)
        if operation.startswith(b"bad"):
            return False
        if session is not None and max(session.used_at, number) >= time - LEASE:
            return sequence == session.executed + 1
        return sequence == 1 and self.admissible(number, time)

    def order(self, *, liar: bool) -> bool:
        """One more batch, of one request."""
        times = [max(self.clock, self.agreed + 1), self.agreed + 1]
        if liar:
            times.append(max(self.clock + SKEW, self.agreed + 1))
            self.random.shuffle(times)
        source = self.seen if liar else self.pool
        for time in times:
            ready = [digest for digest, request in source.items() if self.executable(request, time)]
            if ready:
                self.execute(self.random.choice(ready), time)
                return True
        return False

    def execute(self, digest: bytes, time: int) -> None:
        ((_, number, sequence, operation, _),) = split_requests(join_requests([self.seen[digest]]))
        self.agreed = time
        self.sessions = {n: session for n, session in self.sessions.items() if max(session.used_at, n) >= time - LEASE}
        session = self.sessions.setdefault(number, Session())
        session.executed, session.used_at = sequence, time
        self.pool.pop(digest, None)
        if operation:
            self.executed.append(operation)
        session.replies[digest] = self.reply(EXECUTED, digest, b"done " + operation)
        for replica in REPLICAS:
            if replica != LIAR:
                self.answer(replica, session.replies[digest])

    # --- a run ---

    async def invoke(self, operation: bytes, seconds: float) -> None:
        """Have it executed, and remember what the client was told."""
        try:
            self.results[operation] = await self.client.invoke(operation, timeout=seconds)
        except (Overloaded, NotEnoughReplies, Rejected) as error:
            self.undone[operation] = error
        except Indeterminate as error:
            self.unknown[operation] = error

    async def ask(self) -> None:
        """Ask for something whose outcome is unknown."""
        operation = self.random.choice(list(self.unknown))
        try:
            self.results[operation] = await self.client.ask(self.unknown[operation], timeout=5)
            self.unknown.pop(operation, None)
        except (Overloaded, NotEnoughReplies, Rejected) as error:
            self.undone[operation] = error
            self.unknown.pop(operation, None)
        except Indeterminate:
            pass

    async def play(self, steps: int) -> None:
        """Anything, in any order; then calm, in which the client must get on; then the liar does what it can."""
        self.connect()
        random, tasks = self.random, []
        for step in range(steps):
            what = random.random()
            if what < 0.4:
                name = random.choice([b"%d", b"%d", b"%d", b"bad %d"]) % step
                tasks.append(asyncio.create_task(self.invoke(name, random.choice([0.05, 1, 20]))))
            elif what < 0.5 and self.unknown:
                tasks.append(asyncio.create_task(self.ask()))
            elif what < 0.7:
                self.order(liar=random.random() < 0.5)
            elif what < 0.8:
                self.full = set(random.sample(REPLICAS, random.choice([0, 0, 3, 4])))
            elif what < 0.83:
                self.offset = random.choice([0, 2 * LEASE, -LEASE])
            await asyncio.sleep(random.choice([0, 0.01, 0.5, 5, 5, 40, 2 * LEASE / SECOND]))
        await asyncio.gather(*tasks)
        await self.calm_down()
        while self.order(liar=True):
            pass
        await self.client.aclose()
        self.check()

    async def calm_down(self) -> None:
        """The liar lies on; nothing else is in the way."""
        self.calm, self.full = True, set()
        for attempt in range(4):
            asked = asyncio.create_task(self.invoke(b"calm %d" % attempt, 60))
            while not asked.done():
                await asyncio.sleep(1)
                while self.order(liar=False):
                    await asyncio.sleep(0)
            if b"calm %d" % attempt in self.results:
                return
        raise AssertionError(f"the client does not get on: {self.unknown}")

    def check(self) -> None:
        twice = [operation for operation in self.executed if self.executed.count(operation) > 1]
        if twice:
            raise AssertionError(f"executed twice: {twice}")
        for operation, result in self.results.items():
            if result != b"done " + operation or operation not in self.executed:
                raise AssertionError(f"a result of what was not executed: {operation!r}")
        for operation, error in self.undone.items():
            if operation in self.executed:
                raise AssertionError(f"executed, and the client was told {error!r}")
