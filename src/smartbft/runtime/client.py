"""Clients: `AsyncClient` for asyncio programs, and `Client` for everything else.

A client sends each signed request to all replicas and believes what enough of them say alike. Requests of one session
are numbered without gaps: a number that the replicas refused is filled with an empty operation, which does nothing.

What `f` replicas say moves nothing: no session, no clock. And only what cannot happen any more is reported as not
done: a request that was sent once may be with a liar who leads, whatever all others say; its outcome is unknown until
the replicas have executed it, or something else with its number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType

from smartbft._fastpath.frames import REPLY, STATUS_ANSWER, FrameReader
from smartbft._fastpath.pool import EXECUTED, OVERLOADED, SESSION_REFUSED
from smartbft.config import ClientProfile, Genesis, Seconds, parse_seconds
from smartbft.config.replica import Persistence, Transport
from smartbft.crypto.keys import load_signer
from smartbft.crypto.signatures import Signer
from smartbft.errors import (
    ArgumentTypeError,
    Indeterminate,
    LocalProtocolError,
    Overloaded,
    Rejected,
)
from smartbft.limits import (
    CLIENT_RETRANSMIT_MAX_SECONDS,
    CLIENT_RETRANSMIT_SECONDS,
    MAX_LATE_OUTCOMES,
    MAX_REPLY_BYTES,
    MAX_STATUS_BYTES,
)
from smartbft.net.connection import Connection
from smartbft.runtime.client_connections import CONNECT_FIRST, ClientConnections, fail
from smartbft.runtime.clocks import ReplicaClocks, SessionNumbers
from smartbft.runtime.key_sessions import learn_limit
from smartbft.runtime.problems import problem_lines
from smartbft.runtime.requests import (
    RESULTS_DIFFER,
    STATUS_NAMES,
    Outcome,
    Pending,
    ReplyCollector,
    RequestBuilder,
    SignedRequest,
    check_operation,
    reading_of,
    rejection,
)
from smartbft.types import SIGNATURES

_TICK_SECONDS = 0.25
_STATUS_AT = 2  # in a reply

# What became of a request: its outcome, or what makes the error of an invocation.
_Settled = Outcome | Callable[[], BaseException]


class AsyncClient(ClientConnections):
    """Invokes operations on a replicated application.

    Args:
        genesis: of the chain.
        signer: signs requests, or proves its key on each connection (as the genesis says); its public key is who the
            client is. ``Ed25519Signer(seed)`` makes one, `smartbft.crypto.keys.load_signer` reads one from a key file.
        transport: as the replicas have it.
        persistence: what the replicas promise: in ``sync`` mode `Q` equal replies make a result, else ``f + 1``.
        retransmit: the time until the first retransmission; the pauses then double.

    Times are seconds, or ``"2s"``, or a `timedelta`.

    Raises:
        LocalProtocolError: `retransmit` is no time, or zero.

    Example:
        >>> async def pay(profile: str) -> bytes:
        ...     async with AsyncClient.from_profile(profile) as client:
        ...         return await client.invoke(b"operation", timeout=10)
    """

    def __init__(
        self,
        genesis: Genesis,
        signer: Signer,
        *,
        transport: Transport = "tls",
        persistence: Persistence = "sync",
        retransmit: Seconds = CLIENT_RETRANSMIT_SECONDS,
    ) -> None:
        view, parameters = genesis.view, genesis.parameters
        signed = parameters.request_authentication == SIGNATURES
        needed = view.quorum if persistence == "sync" else view.f + 1
        super().__init__(genesis, transport, needed, None if signed else signer)
        self._f = view.f
        self._window = parameters.window
        self._builder = RequestBuilder(genesis.chain_id, signer, signed=signed)
        self._collector = ReplyCollector(view.f, needed, view.n)
        self._retransmit = parse_seconds(retransmit, "retransmit")
        if not self._retransmit:
            raise LocalProtocolError("retransmit is no time at all: replicas would get each request without end")
        self._clocks = ReplicaClocks(view.f)
        self._numbers = SessionNumbers(self._clocks, parameters.session_lease, parameters.clock_skew)
        self._session = self._numbers.choose()
        self._used_at = 0  # the agreed time of the session's last result
        self._next = 1
        self._executed = 0  # the highest number of the session of which that is known
        self._pending: dict[int, Pending] = {}
        self._by_digest: dict[bytes, int] = {}
        self._apart: dict[bytes, Pending] = {}  # requests of other sessions, or asked for again, by digest
        self._late: dict[bytes, _Settled] = {}  # what became of requests after an invocation had given up, by digest
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ticker: asyncio.TimerHandle | None = None
        self._limit: asyncio.Task[str] | None = None  # learns why no session is opened

    @classmethod
    def from_profile(cls, profile: ClientProfile | Path | str, key: str = "client") -> AsyncClient:
        """A client of a profile (or its file), with one of the keys that the profile names.

        Raises:
            ConfigError: the profile or the key file is wrong.
        """
        if not isinstance(profile, ClientProfile):
            profile = ClientProfile.load(profile)
        signer = load_signer(profile.key_path(key))
        return cls(profile.genesis, signer, transport=profile.transport, persistence=profile.persistence)

    # --- life ---

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def connect(self, timeout: Seconds = 5.0) -> None:  # noqa: ASYNC109
        """Dial all replicas; returns when enough for an answer are connected, and goes on dialing the others.

        Where a replica contradicts this machine's clock it waits for more of them, to know what time it is.

        Raises:
            NotEnoughReplies: too few could be reached within `timeout`.
            HandshakeError: too many are on another chain, of another protocol version, or not who they should be.
            LocalProtocolError: the client is closed: make a new one; or `timeout` is no time.
        """
        seconds = parse_seconds(timeout, "timeout")
        self._check_open()
        deadline = asyncio.get_running_loop().time() + seconds
        if not self._dialers:
            self._dial(self)
            self._ticker = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        await self._enough(seconds)
        with contextlib.suppress(TimeoutError):  # then our own clock will do
            async with asyncio.timeout_at(deadline):
                while self._numbers.in_doubt() and not self._closed:
                    self._changed.clear()
                    await self._changed.wait()
        self._renew_if_stale()

    async def aclose(self) -> None:
        """Close the connections. What is in flight ends as `Indeterminate`."""
        if self._closed:
            return
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._limit is not None:
            self._limit.cancel()
        for pending in self._all_pending():
            pending.fail(partial(pending.request.unknown, "the client was closed before the replicas answered"))
        closed = LocalProtocolError("the client is closed")
        for waiting in self._waiting:
            fail(waiting, closed)
        for question in chain(*self._questions.values()):
            fail(question, closed)
        self._changed.set()
        for dialer in self._dialers:
            await dialer.close()

    # --- use ---

    @property
    def key(self) -> bytes:
        """The client's public key."""
        return self._builder.key

    @property
    def session(self) -> int:
        """The number of the current session."""
        return self._session

    @property
    def used(self) -> int:
        """How many numbers of the session were given to requests."""
        return self._next - 1

    def resume(self, session: int, executed: int, used: int) -> None:
        """Go on with a session that an earlier client of this key left, before the first invocation.

        Numbers that were given to requests and are not known to be executed are filled with empty operations: an
        earlier request with such a number may still be executed, an empty one does nothing.

        Args:
            session: its number; the replicas say that it is open.
            executed: its numbers up to here are used up.
            used: its numbers up to here may have been given to requests.

        Raises:
            LocalProtocolError: something was invoked before, or more numbers are open than the window has.
        """
        if self._next > 1 or not 0 <= used - executed < self._window:
            raise LocalProtocolError("a session is resumed before anything is invoked, with less than a window open")
        self._numbers.use(session)
        self._session, self._used_at = session, self._clocks.now() or self._clocks.own()
        self._next, self._executed = used + 1, executed
        for number in range(executed + 1, used + 1):
            self._fill(number)

    async def invoke(self, operation: bytes, timeout: Seconds = 30.0) -> bytes:  # noqa: ASYNC109
        """Have `operation` ordered and executed, and return the application's result.

        Up to `window` invocations (a parameter of the genesis) are in flight at once; more wait for their turn.

        Args:
            operation: what the application's `execute` gets, bytes or bytes-like; at most `limits.MAX_OPERATION_BYTES`.
            timeout: for everything: seconds, ``"2s"`` or a `timedelta`.

        Raises:
            Indeterminate: it was sent and no result came in time: it may or may not be executed, now or later. `ask`
                for it; a second invocation is a second operation.
            Overloaded: too many invocations were in flight; this one was not sent.
            Rejected: the replicas refuse it for what it is; it will never be executed.
            NotEnoughReplies: too few replicas are reachable; nothing was sent.
            LocalProtocolError: no bytes, or too many of them; or the client is not connected yet, or closed.
        """
        outcome = await self.submit(operation, timeout)
        return outcome.result

    async def submit(self, operation: bytes, timeout: Seconds = 30.0) -> Outcome:  # noqa: ASYNC109
        """As `invoke`, with instance, agreed time and persistence level beside the result.

        Raises:
            ClientError: as `invoke`.
        """
        seconds = parse_seconds(timeout, "timeout")
        operation = check_operation(operation)
        deadline = asyncio.get_running_loop().time() + seconds
        self._check_open()
        await self._enough(seconds)
        sequence, session = await self._slot(deadline)
        try:
            request = self._builder.build(session, sequence, operation)
        except BaseException:
            self._next = sequence  # nobody has heard of the number, and a gap would hold up the session for ever
            self._wake()
            raise
        return await self._outcome_of(self._send(request), deadline, seconds)

    async def ask(self, unknown: Indeterminate, timeout: Seconds = 30.0) -> bytes:  # noqa: ASYNC109
        """Ask for the result of a request whose outcome is unknown.

        The very same request is sent again. Replicas that have executed it repeat their result, as long as they keep it
        (for the last `window` requests of a session, while that is open); otherwise they execute it now. It is executed
        once at most, however often it is asked for. Another client with the same key may ask, too.

        Args:
            unknown: what `invoke`, `submit` or `ask` raised.
            timeout: as of `invoke`.

        Raises:
            Indeterminate: its outcome is still unknown.
            Rejected: the replicas refuse it for what it is; it was not executed, and never will be.
            LocalProtocolError: the error names no request, or none of this client on this chain; or the client is not
                connected yet, or closed.
        """
        seconds = parse_seconds(timeout, "timeout")
        if not isinstance(unknown, Indeterminate):
            raise ArgumentTypeError(f"ask with the Indeterminate that was raised, not with {type(unknown).__name__}")
        if not unknown.request:
            raise LocalProtocolError("this error names no request to ask for")
        request = self._builder.rebuild(unknown.request)
        self._check_open()
        if not self._dialers and not self._connections:
            raise LocalProtocolError(CONNECT_FIRST)
        settled = self._late.get(request.digest)
        if isinstance(settled, Outcome):
            return settled.result
        if settled is not None:
            raise settled()
        pending = self._pending_of(request.digest)
        if pending is None:
            pending = self._send_apart(request)
        else:
            self._transmit([pending], self._connections)
        outcome = await self._outcome_of(pending, asyncio.get_running_loop().time() + seconds, seconds)
        return outcome.result

    async def _outcome_of(self, pending: Pending, deadline: float, seconds: float) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        pending.waiting.append(future)
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():  # it came in the last moment
                return future.result()
            pending.unknown = True
            raise self._with_limit(self._no_answer(pending, seconds), pending) from None
        finally:
            # Whether anybody waits or not: the number stays in use until the replicas have settled it.
            pending.waiting.remove(future)

    # --- Handler ---

    def opened(self, connection: Connection) -> FrameReader:
        """A replica is connected: it gets what is in flight."""
        replica = self._replica_of(connection)
        self._refusals.pop(connection.address, None)
        self._connections[replica] = connection
        self._questions[replica] = deque()
        self._clocks.told(replica, getattr(connection.peer, "clock", 0), getattr(connection.peer, "agreed_time", 0))
        self._transmit(self._all_pending(), {replica: connection})
        self._changed.set()
        return FrameReader({REPLY: MAX_REPLY_BYTES, STATUS_ANSWER: MAX_STATUS_BYTES})

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        """Replies and answers of one socket read."""
        replica = self._replica_of(connection)
        for kind, payload in frames:
            if kind == REPLY:
                settled = self._collector.add(replica, payload)
                if payload[_STATUS_AT] == SESSION_REFUSED:
                    self._clocks.judged(replica, reading_of(payload))
                if settled is not None:
                    self._settle(*settled)
            else:
                self._answer(replica, payload)

    def failed(self, error: BaseException) -> None:
        """Nothing can be answered any more, for example because of a bug of ours: every call ends with `error`."""
        self._error = error
        for pending in self._all_pending():
            pending.fail(lambda: error)
        for turn in self._waiting:
            fail(turn, error)
        for question in chain(*self._questions.values()):
            fail(question, error)
        self._changed.set()

    # --- numbers ---

    async def _slot(self, deadline: float) -> tuple[int, int]:
        """The next sequence number, when the window has room for it, and its session."""
        behind = len(self._waiting) > 0
        while behind or not self._has_room():
            await self._turn(deadline)
            behind = False
        self._renew_if_stale()
        sequence = self._next
        self._next += 1
        self._wake()
        return sequence, self._session

    async def _turn(self, deadline: float) -> None:
        """Queue up for a number."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            self._wake()
            raise Overloaded(
                f"{self._window} requests of this client are in flight and none was answered in time; nothing was sent"
            ) from None
        except BaseException:
            self._wake()  # the turn may have been ours already: pass it on
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _has_room(self) -> bool:
        lowest = next(iter(self._pending), self._next)
        return self._next < lowest + self._window

    def _wake(self) -> None:
        while self._waiting and self._has_room():
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _fill(self, sequence: int) -> None:
        """Use up a number whose request the replicas refused for good: an empty operation does nothing."""
        self._send(self._builder.build(self._session, sequence, b""))
        self._pending = dict(sorted(self._pending.items()))

    # --- sessions ---

    def _renew_if_stale(self) -> None:
        """Begin a new session where the replicas may not take this one any more, or not yet: its lease is half over,
        or it began with a wrong clock. Nothing of it may be in flight: what is sent in a session that they refuse may
        still be executed, so a request that was sent in one is never sent in another.
        """
        if not any(pending.waiting for pending in self._pending.values()) and not self._numbers.fits(
            self._session, self._used_at
        ):
            self._begin_session()

    def _begin_session(self) -> None:
        """The next requests belong to a new session. Those who wait for one of this session go on waiting."""
        for sequence in list(self._pending):
            pending = self._drop(sequence)
            self._apart[pending.request.digest] = pending
            self._collector.resume(pending.request.digest, pending.votes)
        self._session, self._used_at, self._next, self._executed = self._numbers.choose(), 0, 1, 0
        self._forget_abandoned()
        self._wake()

    def _refused(self, session: int, time: int) -> None:
        """So many replicas refuse a session that none of its requests can get an answer any more."""
        why = (
            f"the replicas refuse session {session} (their time is {time} microseconds): it lapsed, or this machine's "
            "clock is wrong; what was in flight may or may not be executed, and nobody can say any more"
        )
        if session == self._session:
            self._begin_session()
        for digest, pending in list(self._apart.items()):
            if pending.request.session == session:
                self._drop_apart(digest)
                pending.fail(partial(pending.request.unknown, why))

    def _forget_abandoned(self) -> None:
        """Drop requests apart in whose session nobody waits, unless the replicas still keep what came of them."""
        awaited = {pending.request.session for pending in self._apart.values() if pending.waiting}
        for digest, pending in list(self._apart.items()):
            request = pending.request
            kept = request.session == self._session and request.sequence > self._executed - self._window
            if request.session not in awaited and not kept:
                self._drop_apart(digest)

    # --- sending and settling ---

    def _send(self, request: SignedRequest) -> Pending:
        pending = self._make_pending(request)
        self._pending[request.sequence] = pending
        self._by_digest[request.digest] = request.sequence
        self._transmit([pending], self._connections)
        return pending

    def _send_apart(self, request: SignedRequest) -> Pending:
        """Send a request that takes no number of the current session: it has one."""
        pending = self._apart[request.digest] = self._make_pending(request)
        self._transmit([pending], self._connections)
        return pending

    def _make_pending(self, request: SignedRequest) -> Pending:
        now = asyncio.get_running_loop().time()
        votes = self._collector.expect(request.digest)
        return Pending(request, votes, now + self._retransmit, self._retransmit)

    def _all_pending(self) -> list[Pending]:
        return [*self._apart.values(), *self._pending.values()]

    def _pending_of(self, digest: bytes) -> Pending | None:
        sequence = self._by_digest.get(digest)
        return self._apart.get(digest) if sequence is None else self._pending[sequence]

    @staticmethod
    def _transmit(several: Collection[Pending], connections: Mapping[int, Connection]) -> None:
        if not several:
            return
        frames = b"".join(pending.request.frame for pending in several)
        for connection in connections.values():
            connection.send(frames)

    def _tick(self) -> None:
        """Retransmit what is overdue to all replicas, with growing pauses."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._forget_abandoned()
        overdue = [pending for pending in self._all_pending() if pending.resend_at <= now]
        for pending in overdue:
            pending.pause = min(2 * pending.pause, CLIENT_RETRANSMIT_MAX_SECONDS)
            pending.resend_at = now + pending.pause
        self._transmit(overdue, self._connections)
        self._look_for_limit()
        self._ticker = loop.call_later(min(_TICK_SECONDS, self._retransmit), self._tick)

    def _settle(self, digest: bytes, outcome: Outcome) -> None:
        pending = self._pending_of(digest)
        if pending is None:
            return
        request = pending.request
        if outcome.status == SESSION_REFUSED:
            self._refused(request.session, outcome.agreed_time)
            return
        if digest in self._apart:
            self._drop_apart(digest)
        else:
            self._drop(request.sequence)
            if outcome.status in (EXECUTED, RESULTS_DIFFER):
                self._drop_used(request.sequence)
                self._used_at = max(self._used_at, outcome.agreed_time)
            else:
                self._fill(request.sequence)
        self._clocks.reached(outcome.agreed_time)
        self._conclude(pending, outcome)
        self._wake()

    def _conclude(self, pending: Pending, outcome: Outcome) -> None:
        """Tell those who wait, or keep it for those who gave up and may ask."""
        settled: _Settled
        if outcome.status == EXECUTED:
            settled = outcome
            pending.succeed(outcome)
        elif outcome.status == RESULTS_DIFFER:
            settled = partial(pending.request.unknown, pending.votes.difference())
            pending.fail(settled)
        else:
            pending.fail(settled := partial(rejection, outcome))
        if pending.unknown:
            self._late[pending.request.digest] = settled
            if len(self._late) > MAX_LATE_OUTCOMES:
                del self._late[next(iter(self._late))]

    def _drop(self, sequence: int) -> Pending:
        pending = self._pending.pop(sequence)
        del self._by_digest[pending.request.digest]
        self._collector.forget(pending.request.digest)
        return pending

    def _drop_apart(self, digest: bytes) -> None:
        del self._apart[digest]
        self._collector.forget(digest)

    def _drop_used(self, executed: int) -> None:
        """Numbers are executed without a gap: those before an executed one are used up, by whatever request.

        Where somebody may still ask for the outcome the replicas are asked for it now: they keep it for a window only.
        """
        self._executed = max(self._executed, executed)
        while (lowest := next(iter(self._pending), executed)) < executed and not self._pending[lowest].waiting:
            pending = self._drop(lowest)
            if pending.unknown:
                self._apart[pending.request.digest] = pending
                self._collector.resume(pending.request.digest, pending.votes)
                self._transmit([pending], self._connections)
        self._forget_abandoned()

    def _look_for_limit(self) -> None:
        """Have it found out which limit keeps a session from being opened, while its first request is refused."""
        first = self._pending.get(1)
        if self._limit is None and first is not None and first.votes.count(OVERLOADED) > self._f:
            self._limit = asyncio.get_running_loop().create_task(learn_limit(self))

    def _with_limit(self, error: Exception, pending: Pending) -> Exception:
        """An error that says, if that is known, why no session was opened."""
        limit, request = self._limit, pending.request
        if request.sequence != 1 or limit is None or not limit.done() or limit.cancelled() or not limit.result():
            return error
        return request.unknown(f"{error}; {limit.result()}") if isinstance(error, Indeterminate) else error

    def _no_answer(self, pending: Pending, seconds: float) -> Indeterminate | Rejected:
        """The error of an invocation whose time is over.

        Where all replicas have no room nothing is known either: a leader that lies about that may have the request
        ordered all the same, and a replica that refused it may take it when it comes again.
        """
        request, votes = pending.request, pending.votes
        statuses = votes.statuses()
        final = votes.final(self._f)
        if final is not None:  # and they give different reasons
            refused = self._collector.refusal(final, votes)
            self._settle(request.digest, refused)
            return rejection(refused)
        if votes.count(SESSION_REFUSED) > self._f and request.session == self._session:
            self._begin_session()
        said = ", ".join(f"replica {replica} {STATUS_NAMES[status]}" for replica, status in sorted(statuses.items()))
        told = "; ".join(
            [said or "no replica answered", *filter(None, [votes.difference()]), *problem_lines(self.problems)]
        )
        return request.unknown(
            f"no {self._needed} equal replies within {seconds:g} seconds ({told}): request {request.sequence} of "
            f"session {request.session} may or may not be executed; ask for it before you repeat the operation"
        )
