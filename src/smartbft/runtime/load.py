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
import contextlib
import os
import ssl
import time
from array import array
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from smartbft.config import Genesis, GenesisMember
from smartbft.errors import Indeterminate, LocalProtocolError, NotEnoughReplies, RemoteProtocolError, SmartBFTError
from smartbft.limits import HANDSHAKE_TIMEOUT_SECONDS, READ_BUFFER_BYTES, RESERVED_DESCRIPTORS
from smartbft.net.descriptors import raise_limit
from smartbft.net.dialing import connect
from smartbft.net.handshake import NO_CHANNEL, NONCE_BYTES, ClientDialer
from smartbft.net.tls import dialer_context
from smartbft.runtime.lanes import Lane, Link, Pace, Pauses, Traffic
from smartbft.types import SIGNATURES

__all__ = ["CLOSED_LOOP", "MULTIPLEXED", "LoadGenerator", "LoadResult", "Pace", "Traffic"]

MULTIPLEXED = "multiplexed"
CLOSED_LOOP = "closed-loop"

# Nothing completed for so long although requests are outstanding: the cluster has stopped, and so does the load.
STALL_SECONDS = 15.0
# After the load has stopped, what is outstanding gets so long to complete.
DRAIN_SECONDS = 10.0
_TICK_SECONDS = 0.2
# Connections opened at once: their handshakes cost the replicas a signature each.
_CONNECT_AT_ONCE = 64
# A persistent load tries so often to reach a replica that is gone, and repeats what is outstanding so often.
_REDIAL_SECONDS = 0.1
_REPEAT_SECONDS = 1.0
# A paced load sends what its time has come for so often.
_PACE_SECONDS = 0.005

Progress = Callable[[float, int], None]


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
        persistent: dial replicas that are lost again and repeat what is outstanding, as real clients do; otherwise a
            load without enough connections ends.
        pace: how fast new requests are sent at most; None: as fast as the windows allow.

    Raises:
        LocalProtocolError: the requests of the cluster carry no signatures.

    Attributes:
        pauses: when nothing was acknowledged for a while.
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
        persistent: bool = False,
        pace: Pace | None = None,
    ) -> None:
        if genesis.parameters.request_authentication != SIGNATURES:
            raise LocalProtocolError("a load is signed ahead: it needs a chain whose requests are signed")
        self.pauses = Pauses()
        self.n = len(genesis.members)
        self.needed = needed
        self._genesis = genesis
        self._traffic = lanes
        self._window = window
        self._tls: ssl.SSLContext | None = dialer_context() if tls else None
        self._model = model
        self._persistent = persistent
        self._pace = pace
        self._held: set[Lane] = set()  # what they want to send must wait for its time
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialing: set[tuple[Lane, int]] = set()
        self._buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._lanes: list[Lane] = []
        self._error: SmartBFTError | None = None
        self._wake = asyncio.Event()
        self._dry = False

    async def __aenter__(self) -> LoadGenerator:
        """Connect every lane to every replica.

        Raises:
            NotEnoughReplies: fewer replicas than `needed` can be reached.
            HandshakeError: one of them is on another chain, or is not who it should be.
        """
        raise_limit(len(self._traffic) * self.n + 2 * RESERVED_DESCRIPTORS)
        self._lanes = [Lane(self, traffic, self._window) for traffic in self._traffic]
        gate = asyncio.Semaphore(_CONNECT_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    group.create_task(self._connect(lane, gate))
        except* SmartBFTError as errors:
            await self._close()
            raise errors.exceptions[0] from None
        if self._persistent:
            self._spawn(self._repeat())
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
        until: asyncio.Future[None] | None = None,
    ) -> LoadResult:
        """Send for `warm_up` plus `seconds`, or until the traffic is used up, then wait for what is outstanding.

        On a machine that stands still for so long, the measured interval goes on until something was completed in it.

        Args:
            progress: called a few times a second with the elapsed time and the transactions completed so far.
            at_boundary: called where the measured interval begins and where it ends.
            until: go on until this is done, too.

        Raises:
            Indeterminate: the cluster stopped answering.
            NotEnoughReplies: too many connections were lost.
        """
        started = time.monotonic()
        if self._pace is not None:
            self._pace.begin(started)
            self._spawn(self._keep_pace(self._pace))
        for lane in self._lanes:
            lane.start()
        await self._wait(started + warm_up, started, progress)
        for lane in self._lanes:
            lane.matcher.latencies()
        mark = at_boundary or _nothing
        mark()
        before, cpu, began = self.completed, time.process_time(), time.monotonic()
        await self._wait(began + seconds, started, progress, until, more_than=before)
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

    def moved(self, now: int) -> None:
        """Something was completed."""
        self.pauses.moved(now)

    def lost(self, lane: Lane, replica: int, error: Exception | None) -> None:
        """A connection is gone: dialed again by a persistent load; else fine as long as enough others can answer."""
        if self._persistent:
            self._dial_again(lane, replica)
        elif len(lane.links) < self.needed:
            self._error = self._error or NotEnoughReplies(
                f"the connection to replica {replica} is lost ({error or 'closed'})"
            )
            self._wake.set()

    def dry(self) -> None:
        """A lane has sent all its traffic: from here on the load is no longer what it should be."""
        self._dry = True
        self._wake.set()

    def grant(self, lane: Lane, wanted: int) -> int:
        """How many requests `lane` may send now; it is asked to `Lane.refill` when there are more."""
        granted = wanted if self._pace is None else self._pace.take(wanted)
        if granted < wanted:
            self._held.add(lane)
        return granted

    # --- internals ---

    async def _connect(self, lane: Lane, gate: asyncio.Semaphore) -> None:
        async with gate:
            results = await asyncio.gather(
                *(self._dial(lane, index, member) for index, member in enumerate(self._genesis.members)),
                return_exceptions=True,
            )
        for result in results:
            if isinstance(result, RemoteProtocolError):
                raise result
        lane.links = [result for result in results if isinstance(result, Link) and result.transport is not None]
        if self._persistent:
            for index, result in enumerate(results):
                if result not in lane.links:
                    self._dial_again(lane, index)
        if len(lane.links) < self.needed:
            closed = ConnectionResetError("closed by the replica")
            first = next((result for result in results if isinstance(result, BaseException)), closed)
            problem = str(first) or type(first).__name__
            raise NotEnoughReplies(
                f"only {len(lane.links)} of {self.n} replicas can be reached and {self.needed} are needed: {problem}"
            )

    async def _dial(self, lane: Lane, index: int, member: GenesisMember) -> Link:
        pinned = member.certificate_sha256 if self._tls else None
        channel = pinned or NO_CHANNEL
        nonce = os.urandom(NONCE_BYTES)
        dialer = ClientDialer(self._genesis.chain_id, member.id, member.permanent_key, nonce, channel)
        address = member.client_address
        async with asyncio.timeout(2 * HANDSHAKE_TIMEOUT_SECONDS):
            _, link = await asyncio.get_running_loop().create_connection(
                lambda: Link(lane, index, dialer, self._buffer, pinned),
                sock=await connect(address.host, address.port),
                ssl=self._tls,
                server_hostname=address.host if self._tls is not None else None,
            )
            try:
                await link.ready
            except BaseException:
                if link.transport is not None:
                    link.transport.abort()
                raise
        return link

    def _dial_again(self, lane: Lane, index: int) -> None:
        if (lane, index) not in self._dialing:
            self._dialing.add((lane, index))
            self._spawn(self._redial(lane, index))

    async def _redial(self, lane: Lane, index: int) -> None:
        """Until the replica is back."""
        while True:
            await asyncio.sleep(_REDIAL_SECONDS)
            with contextlib.suppress(OSError, TimeoutError, RemoteProtocolError):
                link = await self._dial(lane, index, self._genesis.members[index])
                if link.transport is not None:
                    self._dialing.discard((lane, index))
                    lane.joined(index, link)
                    return

    async def _keep_pace(self, pace: Pace) -> None:
        total = sum(traffic.count for traffic in self._traffic)
        while True:
            await asyncio.sleep(_PACE_SECONDS)
            pace.earn(time.monotonic(), total - sum(lane.sent for lane in self._lanes))
            held, self._held = self._held, set()
            for lane in held:
                lane.refill()

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(_REPEAT_SECONDS)
            for lane in self._lanes:
                lane.repeat()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self) -> None:
        self._persistent = False
        for task in self._tasks:
            task.cancel()
        for lane in self._lanes:
            lane.stop()
            for link in lane.links:
                if link.transport is not None:
                    link.transport.abort()
            lane.links = []
        await asyncio.sleep(0)

    async def _wait(
        self,
        end: float,
        started: float,
        progress: Progress | None,
        until: asyncio.Future[None] | None = None,
        more_than: int = -1,
    ) -> None:
        """Until `end` and `until` and so many completed, an error, or a lane that ran dry; watches for a standstill
        meanwhile.
        """
        seen, moved = self.completed, time.monotonic()
        while not self._dry:
            now = time.monotonic()
            completed = self.completed
            if completed != seen or not self.outstanding:
                seen, moved = completed, now
            self._check(now - moved)
            if progress is not None:
                progress(now - started, completed)
            if now >= end and completed > more_than and (until is None or until.done()):
                return
            await self._pause(min(_TICK_SECONDS, end - now) if now < end else _TICK_SECONDS)
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
