"""The client side of measurements: keeps a window of pre-signed requests in flight and measures what comes back.

No Python statement runs once per transaction with pipelined connections: replies are matched by native code, and when
`k` requests complete, the next `k` leave in one write per replica. Two client models, always named with a figure:

``multiplexed``
    many client keys over one pipelined connection to each replica, as in a service that embeds the client;
``closed-loop``
    one connection to each replica for every client, each with one request outstanding, as in the papers.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from smartbft._fastpath.frames import ReplyMatcher
from smartbft.config import Genesis, GenesisMember
from smartbft.crypto.certificates import fingerprint_of
from smartbft.errors import HandshakeError, Indeterminate, NotEnoughReplies, RemoteProtocolError, SmartBFTError
from smartbft.limits import DIGEST_BYTES, HANDSHAKE_TIMEOUT_SECONDS, READ_BUFFER_BYTES
from smartbft.net.handshake import NO_CHANNEL, NONCE_BYTES, ClientDialer
from smartbft.net.tls import dialer_context

MULTIPLEXED = "multiplexed"
CLOSED_LOOP = "closed-loop"

# Nothing completed for so long although requests are outstanding: the cluster has stopped, and so does the load.
STALL_SECONDS = 15.0
# After the load has stopped, what is outstanding gets so long to complete.
DRAIN_SECONDS = 10.0
_TICK_SECONDS = 0.2
# Connections opened at once: their handshakes cost the replicas a signature each.
_CONNECT_AT_ONCE = 64

Progress = Callable[[float, int], None]


@dataclass(frozen=True)
class Traffic:
    """Signed requests in the order of sending, as frames.

    Attributes:
        frames: complete REQUEST frames, one after the other.
        bounds: `count + 1` offsets of the frames.
        digests: the digest of each request, 32 bytes each.
        keys: how many client keys signed them.
    """

    frames: bytes
    bounds: Sequence[int]
    digests: bytes
    keys: int

    @property
    def count(self) -> int:
        """How many requests there are."""
        return len(self.digests) // DIGEST_BYTES


@dataclass(frozen=True)
class LoadResult:
    """What was measured between the end of the warm-up and the end of the load.

    Attributes:
        model: ``multiplexed`` or ``closed-loop``.
        clients: client keys.
        connections: connections to each replica.
        window: requests outstanding at once, over all clients.
        seconds: length of the measured interval.
        completed: transactions completed in it: enough equal replies received.
        latencies: microseconds, one per completed transaction, sorted.
        client_cpu_seconds: CPU time (user and system) of this process in it.
        total: transactions completed from the first to the last, warm-up included.
        statuses: how many replies had each status, over `total`.
        results: how many executed transactions had each application code, over `total`.
        acknowledged: digests of all executed transactions, 32 bytes each.
    """

    model: str
    clients: int
    connections: int
    window: int
    seconds: float
    completed: int
    latencies: array[int]
    client_cpu_seconds: float
    total: int
    statuses: dict[int, int]
    results: dict[int, int]
    acknowledged: bytes

    @property
    def transactions_per_second(self) -> float:
        """Throughput in the measured interval."""
        return self.completed / self.seconds if self.seconds else 0.0

    def latency(self, quantile: float) -> float:
        """A quantile of the latency in seconds (nearest rank); 0 if nothing completed."""
        if not self.latencies:
            return 0.0
        rank = min(len(self.latencies) - 1, int(quantile * len(self.latencies)))
        return self.latencies[rank] / 1_000_000


class _Link(asyncio.BufferedProtocol):
    """One connection to one replica: handshake, then raw replies to the lane's matcher."""

    def __init__(
        self, lane: _Lane, replica: int, dialer: ClientDialer, buffer: memoryview, pinned: bytes | None
    ) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._lane = lane
        self._replica = replica
        self._dialer = dialer
        self._buffer = buffer
        self._pinned = pinned
        self._shaken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No flow control: a replica that lags must not stop the others, and what waits for it is a view of the traffic.
        self.transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if self._pinned is not None and fingerprint_of(tls.getpeercert(binary_form=True)) != self._pinned:
            self._fail(HandshakeError(f"replica {self._replica} shows a certificate that the genesis does not name"))
            return
        self.transport.write(self._dialer.start())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer[:nbytes]
        try:
            if not self._shaken:
                data = self._shake_hands(data)
            if data:
                self._lane.received(self._replica, data)
        except RemoteProtocolError as error:
            self._fail(error)

    def _shake_hands(self, data: memoryview) -> memoryview:
        """Continue the handshake; returns what follows it."""
        answer = self._dialer.receive(data)
        if answer and self.transport is not None:
            self.transport.write(answer)
        self._shaken = self._dialer.peer is not None
        if self._shaken and not self.ready.done():  # whoever waited may have been cancelled
            self.ready.set_result(None)
        return memoryview(self._dialer.remainder)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionResetError("closed by the replica during the handshake"))
        else:
            self._lane.lost(self._replica, exc)

    def _fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        if self.transport is not None:
            self.transport.abort()


class _Lane:
    """One set of connections, one to each replica, and the traffic on it."""

    def __init__(self, owner: LoadGenerator, traffic: Traffic, window: int) -> None:
        self.links: list[_Link] = []
        self.matcher = ReplyMatcher(owner.n, owner.needed)
        self.matcher.keep_replies(False)
        self.completed = 0
        self.sent = 0
        self._owner = owner
        self._traffic = traffic
        self._frames = memoryview(traffic.frames)
        self._digests = memoryview(traffic.digests)
        self._window = window
        self._scheduled = False
        self._sending = False

    @property
    def outstanding(self) -> int:
        """Requests sent and not completed."""
        return self.sent - self.completed

    def start(self) -> None:
        """Fill the window."""
        self._sending = True
        self._refill()

    def stop(self) -> None:
        """Send nothing new."""
        self._sending = False

    def received(self, replica: int, data: memoryview) -> None:
        """Replies from one replica. The refill comes after all sockets of this iteration of the loop have been read."""
        done = self.matcher.feed(replica, data, time.monotonic_ns() // 1000)
        if done:
            self.completed += done
            if not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._refill)

    def lost(self, replica: int, error: Exception | None) -> None:
        """The connection to a replica is gone: fine as long as enough others can answer."""
        self.links = [link for link in self.links if link.transport is not None]
        if len(self.links) < self._owner.needed:
            self._owner.fail(NotEnoughReplies(f"the connection to replica {replica} is lost ({error or 'closed'})"))

    def _refill(self) -> None:
        self._scheduled = False
        first = self.sent
        count = min(self._window - self.outstanding, self._traffic.count - first)
        if not self._sending or count <= 0:
            if first == self._traffic.count:
                self._owner.dry()
            return
        self.sent = last = first + count
        bounds = self._traffic.bounds
        chunk = self._frames[bounds[first] : bounds[last]]
        self.matcher.expect(
            self._digests[DIGEST_BYTES * first : DIGEST_BYTES * last], first, time.monotonic_ns() // 1000
        )
        for link in self.links:
            if link.transport is not None:
                link.transport.write(chunk)


class LoadGenerator:
    """Sends pre-signed traffic to a cluster.

    Use as an asynchronous context manager: entering it connects, leaving it closes the connections.

    Args:
        genesis: of the cluster.
        lanes: the traffic of each set of connections: one for ``multiplexed``, one per client for ``closed-loop``.
        window: requests outstanding at once in each lane.
        needed: how many equal replies complete a request.
        tls: whether the replicas expect TLS.
        model: the name of the client model, for the result.
    """

    def __init__(
        self,
        genesis: Genesis,
        lanes: Sequence[Traffic],
        *,
        window: int,
        needed: int,
        tls: bool,
        model: str = MULTIPLEXED,
    ) -> None:
        self.n = len(genesis.members)
        self.needed = needed
        self._genesis = genesis
        self._traffic = lanes
        self._window = window
        self._tls: ssl.SSLContext | None = dialer_context() if tls else None
        self._model = model
        self._buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._lanes: list[_Lane] = []
        self._error: SmartBFTError | None = None
        self._wake = asyncio.Event()
        self._dry = False

    async def __aenter__(self) -> LoadGenerator:
        """Connect every lane to every replica.

        Raises:
            NotEnoughReplies: fewer replicas than `needed` can be reached.
            HandshakeError: one of them is on another chain, or is not who it should be.
        """
        self._lanes = [_Lane(self, traffic, self._window) for traffic in self._traffic]
        gate = asyncio.Semaphore(_CONNECT_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    group.create_task(self._connect(lane, gate))
        except* SmartBFTError as errors:
            await self._close()
            raise errors.exceptions[0] from None
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections."""
        await self._close()

    @property
    def completed(self) -> int:
        """Transactions completed so far."""
        return sum(lane.completed for lane in self._lanes)

    @property
    def outstanding(self) -> int:
        """Requests sent and not completed."""
        return sum(lane.outstanding for lane in self._lanes)

    async def run(
        self,
        seconds: float,
        warm_up: float = 0.0,
        *,
        progress: Progress | None = None,
        at_boundary: Callable[[], None] | None = None,
    ) -> LoadResult:
        """Send for `warm_up` plus `seconds`, or until the traffic is used up, then wait for what is outstanding.

        Args:
            progress: called a few times a second with the elapsed time and the transactions completed so far.
            at_boundary: called where the measured interval begins and where it ends.

        Raises:
            Indeterminate: the cluster stopped answering.
            NotEnoughReplies: too many connections were lost.
        """
        started = time.monotonic()
        for lane in self._lanes:
            lane.start()
        await self._wait(started + warm_up, started, progress)
        for lane in self._lanes:
            lane.matcher.latencies()
        mark = at_boundary or _nothing
        mark()
        before, cpu, began = self.completed, time.process_time(), time.monotonic()
        await self._wait(began + seconds, started, progress)
        ended, completed = time.monotonic(), self.completed - before
        cpu = time.process_time() - cpu
        mark()
        latencies = array("I")
        for lane in self._lanes:
            lane.stop()
            latencies.frombytes(lane.matcher.latencies())
        await self._drain()
        return self._result(ended - began, completed, latencies, cpu)

    async def run_all(self) -> LoadResult:
        """Send all the traffic and wait until everything is complete (raises as `run` does)."""
        return await self.run(seconds=float("inf"))

    # --- for the lanes ---

    def fail(self, error: SmartBFTError) -> None:
        """End the run with `error`."""
        self._error = self._error or error
        self._wake.set()

    def dry(self) -> None:
        """A lane has sent all its traffic: from here on the load is no longer what it should be."""
        self._dry = True
        self._wake.set()

    # --- internals ---

    async def _connect(self, lane: _Lane, gate: asyncio.Semaphore) -> None:
        async with gate:
            results = await asyncio.gather(
                *(self._dial(lane, index, member) for index, member in enumerate(self._genesis.members)),
                return_exceptions=True,
            )
        for result in results:
            if isinstance(result, RemoteProtocolError):
                raise result
        lane.links = [result for result in results if isinstance(result, _Link)]
        if len(lane.links) < self.needed:
            first = next(result for result in results if isinstance(result, BaseException))
            problem = str(first) or type(first).__name__
            raise NotEnoughReplies(
                f"only {len(lane.links)} of {self.n} replicas can be reached and {self.needed} are needed: {problem}"
            )

    async def _dial(self, lane: _Lane, index: int, member: GenesisMember) -> _Link:
        pinned = member.certificate_sha256 if self._tls else None
        channel = pinned or NO_CHANNEL
        nonce = os.urandom(NONCE_BYTES)
        dialer = ClientDialer(self._genesis.chain_id, member.id, member.permanent_key, nonce, channel)
        address = member.client_address
        async with asyncio.timeout(2 * HANDSHAKE_TIMEOUT_SECONDS):
            _, link = await asyncio.get_running_loop().create_connection(
                lambda: _Link(lane, index, dialer, self._buffer, pinned), address.host, address.port, ssl=self._tls
            )
            await link.ready
        return link

    async def _close(self) -> None:
        for lane in self._lanes:
            lane.stop()
            for link in lane.links:
                if link.transport is not None:
                    link.transport.abort()
            lane.links = []
        await asyncio.sleep(0)

    async def _wait(self, until: float, started: float, progress: Progress | None) -> None:
        """Until `until`, an error, or a lane that ran dry; watches for a standstill meanwhile."""
        seen, moved = self.completed, time.monotonic()
        while not self._dry:
            now = time.monotonic()
            completed = self.completed
            if completed != seen or not self.outstanding:
                seen, moved = completed, now
            self._check(now - moved)
            if progress is not None:
                progress(now - started, completed)
            if now >= until:
                return
            await self._pause(min(_TICK_SECONDS, until - now))
        self._check(0.0)

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.outstanding:
            self._check(STALL_SECONDS if time.monotonic() > deadline else 0.0)
            await asyncio.sleep(0.005)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _check(self, idle: float) -> None:
        if self._error is not None:
            raise self._error
        if idle >= STALL_SECONDS:
            raise Indeterminate(f"{self.outstanding} requests are outstanding and no quorum answers any more")

    def _result(self, seconds: float, completed: int, latencies: array[int], cpu: float) -> LoadResult:
        statuses: dict[int, int] = {}
        results: dict[int, int] = {}
        for lane in self._lanes:
            for status, count in lane.matcher.statuses().items():
                statuses[status] = statuses.get(status, 0) + count
            for code, count in lane.matcher.results().items():
                results[code] = results.get(code, 0) + count
        return LoadResult(
            model=self._model,
            clients=sum(traffic.keys for traffic in self._traffic),
            connections=len(self._lanes),
            window=self._window * len(self._lanes),
            seconds=seconds,
            completed=completed,
            latencies=array("I", sorted(latencies)),
            client_cpu_seconds=cpu,
            total=self.completed,
            statuses=statuses,
            results=results,
            acknowledged=b"".join(lane.matcher.acknowledged() for lane in self._lanes),
        )


def _nothing() -> None:
    """No boundary is watched."""
