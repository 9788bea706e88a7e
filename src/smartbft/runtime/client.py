"""Clients: `AsyncClient` for asyncio programs, and `Client` for everything else.

A client sends each signed request to all replicas and believes what enough of them say alike. Requests of one session
are numbered without gaps: a number that the replicas refused is filled with an empty operation, which does nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from smartbft._fastpath.frames import REPLY, STATUS, STATUS_ANSWER, FrameReader, frame
from smartbft._fastpath.pool import BAD_SIGNATURE, EXECUTED, OVERLOADED, SESSION_REFUSED
from smartbft.config import ClientProfile, Genesis
from smartbft.config.replica import Persistence, Transport
from smartbft.crypto.keys import load_signer
from smartbft.crypto.signatures import Signer
from smartbft.errors import (
    HandshakeError,
    Indeterminate,
    LocalProtocolError,
    NotEnoughReplies,
    Overloaded,
    Rejected,
    RemoteProtocolError,
)
from smartbft.forks import check_process
from smartbft.limits import (
    CLIENT_RETRANSMIT_MAX_SECONDS,
    CLIENT_RETRANSMIT_SECONDS,
    MAX_OPEN_QUESTIONS,
    MAX_REPLY_BYTES,
    MAX_STATUS_BYTES,
)
from smartbft.net.connection import Connection, ReadBuffer
from smartbft.net.tls import dialer_context
from smartbft.net.transport import Dialer, Target
from smartbft.runtime.problems import name_problems, problem_lines
from smartbft.runtime.requests import STATUS_NAMES, Outcome, Pending, ReplyCollector, RequestBuilder, SignedRequest
from smartbft.runtime.status import Question, decode_answer, encode_question
from smartbft.types import SIGNATURES

_TICK_SECONDS = 0.25

_sessions_used: set[int] = set()


def _new_session(at: int = 0) -> int:
    """A session number that this process has not used: the time in microseconds (`at`, or the clock's)."""
    number = at or time.time_ns() // 1000
    while number in _sessions_used:  # two clients of one process may share a key
        number += 1
    _sessions_used.add(number)
    return number


class AsyncClient:
    """Invokes operations on a replicated application.

    Args:
        genesis: of the chain.
        signer: signs requests, or proves its key on each connection (as the genesis says); its public key is who the
            client is. ``Ed25519Signer(seed)`` makes one, `smartbft.crypto.keys.load_signer` reads one from a key file.
        transport: as the replicas have it.
        persistence: what the replicas promise: in ``sync`` mode `Q` equal replies make a result, else ``f + 1``.
        retransmit: seconds until the first retransmission; the pauses then double.

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
        retransmit: float = CLIENT_RETRANSMIT_SECONDS,
    ) -> None:
        view = genesis.view
        self.genesis = genesis
        self._needed = view.quorum if persistence == "sync" else view.f + 1
        self._n = view.n
        self._window = genesis.parameters.window
        signed = genesis.parameters.request_authentication == SIGNATURES
        self._builder = RequestBuilder(genesis.chain_id, signer, signed=signed)
        self._prover = None if signed else signer
        self._collector = ReplyCollector(view.f, self._needed)
        self._transport = transport
        self._retransmit = retransmit
        self._session = _new_session()
        self._next = 1
        self._pending: dict[int, Pending] = {}
        self._by_digest: dict[bytes, int] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._connections: dict[int, Connection] = {}
        self._questions: dict[int, deque[asyncio.Future[dict[str, Any]]]] = {}
        self._dialers: list[Dialer] = []
        self._changed = asyncio.Event()
        self._refusals: dict[str, HandshakeError] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False
        self._error: BaseException | None = None
        self._process = os.getpid()

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

    async def connect(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Dial all replicas; returns when enough for an answer are connected, and goes on dialing the others.

        Raises:
            NotEnoughReplies: too few could be reached within `timeout` seconds.
            HandshakeError: too many are on another chain, of another protocol version, or not who they should be.
            LocalProtocolError: the client is closed: make a new one.
        """
        self._check_open()
        if not self._dialers:
            self._dial()
        await self._enough(timeout)

    async def aclose(self) -> None:
        """Close the connections. What is in flight ends as `Indeterminate`."""
        if self._closed:
            return
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        for pending in self._pending.values():
            _fail(pending.future, Indeterminate("the client was closed before the replicas answered"))
        closed = LocalProtocolError("the client is closed")
        for waiting in self._waiting:
            _fail(waiting, closed)
        for question in chain(*self._questions.values()):
            _fail(question, closed)
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
            session: its number.
            executed: its numbers up to here are used up.
            used: its numbers up to here may have been given to requests.

        Raises:
            LocalProtocolError: something was invoked before, or more numbers are open than the window has.
        """
        if self._next > 1 or not 0 <= used - executed < self._window:
            raise LocalProtocolError("a session is resumed before anything is invoked, with less than a window open")
        self._session = session
        _sessions_used.add(session)
        self._next = used + 1
        for number in range(executed + 1, used + 1):
            self._fill(number)

    @property
    def connected(self) -> list[int]:
        """Ids of the replicas that are connected now."""
        return sorted(self._connections)

    @property
    def needed(self) -> int:
        """Equal replies that make a result."""
        return self._needed

    @property
    def problems(self) -> dict[int, str]:
        """Why replicas are not connected now, in words, by id."""
        unconnected = (dialer for dialer in self._dialers if dialer.replica not in self._connections)
        return {dialer.replica: dialer.problem or "no answer yet" for dialer in unconnected}

    async def invoke(self, operation: bytes, timeout: float = 30.0) -> bytes:  # noqa: ASYNC109
        """Have `operation` ordered and executed, and return the application's result.

        Up to `window` invocations (a parameter of the genesis) are in flight at once; more wait for their turn.

        Args:
            operation: what the application's `execute` gets; at most `limits.MAX_OPERATION_BYTES`.
            timeout: seconds for everything.

        Raises:
            Indeterminate: it was sent and no result came in time: it may or may not be executed, now or later.
            Overloaded: every replica that could be reached refused it for lack of room.
            Rejected: the replicas refuse it for what it is; it will never be executed.
            NotEnoughReplies: too few replicas are reachable; nothing was sent.
            LocalProtocolError: no bytes, or too many of them; or the client is not connected yet, or closed.
        """
        outcome = await self.submit(operation, timeout)
        return outcome.result

    async def submit(self, operation: bytes, timeout: float = 30.0) -> Outcome:  # noqa: ASYNC109
        """As `invoke`, with instance, agreed time and persistence level beside the result.

        Raises:
            ClientError: as `invoke`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        self._check_open()
        await self._enough(timeout)
        sequence, session = await self._slot(deadline)
        try:
            request = self._builder.build(session, sequence, operation)
        except BaseException:
            self._next = sequence  # nobody has heard of the number, and a gap would hold up the session for ever
            self._wake()
            raise
        future: asyncio.Future[Outcome] = loop.create_future()
        pending = self._send(request, future)
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():  # it came in the last moment
                return future.result()
            raise self._no_answer(pending, timeout) from None
        finally:
            # Whoever waits or not: the number stays in use until the replicas have settled it.
            pending.future = None

    async def status(self, replica: int, *, digest: bool = False, timeout: float = 5.0) -> dict[str, Any]:  # noqa: ASYNC109
        """Ask one replica how it is (see `smartbft.runtime.status`); `digest` includes the application's state
        digest and its figures, taken between two batches.

        Raises:
            NotEnoughReplies: it is not connected, or does not answer within `timeout` seconds.
            LocalProtocolError: there is no such replica.
        """
        return await self.look_up(replica, Question(digest=digest), timeout)

    async def look_up(self, replica: int, question: Question, timeout: float = 5.0) -> dict[str, Any]:  # noqa: ASYNC109
        """One replica's answer to a question; what it says is its word alone.

        Raises:
            NotEnoughReplies, LocalProtocolError: as `status`.
        """
        self._check_open()
        self.genesis.member(replica)
        connection = self._connections.get(replica)
        if connection is None:
            raise NotEnoughReplies(f"replica {replica} is not connected")
        if len(self._questions[replica]) >= MAX_OPEN_QUESTIONS:  # it would hang up on one more
            raise NotEnoughReplies(f"replica {replica} has not answered the last {MAX_OPEN_QUESTIONS} questions")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._questions[replica].append(future)
        connection.send(frame(STATUS, encode_question(question)))
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise NotEnoughReplies(f"replica {replica} did not answer within {timeout:g} seconds") from None

    # --- Handler ---

    def opened(self, connection: Connection) -> FrameReader:
        """A replica is connected: it gets what is in flight."""
        replica = self._replica_of(connection)
        self._refusals.pop(connection.address, None)
        self._connections[replica] = connection
        self._questions[replica] = deque()
        self._transmit(self._pending.values(), {replica: connection})
        self._changed.set()
        return FrameReader({REPLY: MAX_REPLY_BYTES, STATUS_ANSWER: MAX_STATUS_BYTES})

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        """Replies and answers of one socket read."""
        replica = self._replica_of(connection)
        for kind, payload in frames:
            if kind == REPLY:
                settled = self._collector.add(replica, payload)
                if settled is not None:
                    self._settle(*settled)
            else:
                self._answer(replica, payload)

    def closed(self, connection: Connection, error: Exception | None) -> None:
        """A replica is gone; its dialer dials again."""
        if isinstance(error, HandshakeError):
            self._refusals[connection.address] = error
            self._changed.set()
        if connection.peer is None or connection.peer.replica is None:
            return
        replica = connection.peer.replica
        if self._connections.get(replica) is connection:
            del self._connections[replica]
            for question in self._questions.pop(replica):
                _fail(question, NotEnoughReplies(f"replica {replica} closed the connection"))

    def failed(self, error: BaseException) -> None:
        """Nothing can be answered any more, for example because of a bug of ours: every call ends with `error`."""
        self._error = error
        for pending in self._pending.values():
            _fail(pending.future, error)
        for turn in self._waiting:
            _fail(turn, error)
        for question in chain(*self._questions.values()):
            _fail(question, error)
        self._changed.set()

    # --- connections ---

    def _dial(self) -> None:
        context = dialer_context() if self._transport == "tls" else None
        buffer = ReadBuffer()
        for member in self.genesis.members:
            target = Target(
                member.id,
                member.client_address.host,
                member.client_address.port,
                member.permanent_key,
                member.certificate_sha256 if context is not None else None,
            )
            dialer = Dialer(self.genesis.chain_id, target, None, self, buffer, tls=context, client=self._prover)
            dialer.start()
            self._dialers.append(dialer)
        self._ticker = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    async def _enough(self, timeout: float) -> None:  # noqa: ASYNC109
        if len(self._connections) >= self._needed:
            return
        if not self._dialers:
            raise LocalProtocolError("connect the client first: 'async with client:' or 'await client.connect()'")
        try:
            async with asyncio.timeout(timeout):
                while len(self._connections) < self._needed:
                    self._check_open()
                    if len(self._refusals) > self._n - self._needed:
                        raise next(iter(self._refusals.values()))
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NotEnoughReplies(
                f"{len(self._connections)} of {self._n} replicas could be reached within {timeout:g} seconds; "
                f"{self._needed} equal replies are needed ({name_problems(self.problems)})"
            ) from None

    def _check_open(self) -> None:
        check_process(self._process, "this client")
        if self._error is not None:
            raise self._error
        if self._closed:
            raise LocalProtocolError("the client is closed: make a new one")

    # --- numbers ---

    async def _slot(self, deadline: float) -> tuple[int, int]:
        """The next sequence number, when the window has room for it, and its session."""
        behind = len(self._waiting) > 0
        while behind or not self._has_room():
            await self._turn(deadline)
            behind = False
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
        """Use up a number that the replicas refused (or that was never sent): an empty operation does nothing."""
        self._send(self._builder.build(self._session, sequence, b""), None)

    # --- sending and settling ---

    def _send(self, request: SignedRequest, future: asyncio.Future[Outcome] | None) -> Pending:
        votes = self._collector.expect(request.digest)
        now = asyncio.get_running_loop().time()
        pending = Pending(request, votes, future, now + self._retransmit, self._retransmit)
        self._pending[request.sequence] = pending
        self._by_digest[request.digest] = request.sequence
        self._transmit([pending], self._connections)
        return pending

    @staticmethod
    def _transmit(several: Collection[Pending], connections: Mapping[int, Connection]) -> None:
        if not several:
            return
        frames = b"".join(pending.request.frame for pending in several)
        for replica, connection in connections.items():
            for pending in several:
                pending.votes.sent(replica)
            connection.send(frames)

    def _tick(self) -> None:
        """Retransmit what is overdue to all replicas, with growing pauses."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        overdue = [pending for pending in self._pending.values() if pending.resend_at <= now]
        for pending in overdue:
            pending.pause = min(2 * pending.pause, CLIENT_RETRANSMIT_MAX_SECONDS)
            pending.resend_at = now + pending.pause
        self._transmit(overdue, self._connections)
        self._ticker = loop.call_later(min(_TICK_SECONDS, self._retransmit), self._tick)

    def _settle(self, digest: bytes, outcome: Outcome) -> None:
        sequence = self._by_digest[digest]
        if outcome.status == SESSION_REFUSED:
            self._renew(outcome)
            return
        pending = self._drop(sequence)
        if outcome.status == EXECUTED:
            if pending.future is not None and not pending.future.done():
                pending.future.set_result(outcome)
            self._drop_used(sequence)
            self._wake()
            return
        reason = "its signature is bad" if outcome.status == BAD_SIGNATURE else "the application's check refuses it"
        _fail(pending.future, Rejected(f"the request was not ordered: {reason}"))
        self._fill_in_order(sequence)

    def _fill_in_order(self, sequence: int) -> None:
        """Fill a number, keeping `_pending` in the order of numbers."""
        self._fill(sequence)
        self._pending = dict(sorted(self._pending.items()))

    def _drop(self, sequence: int) -> Pending:
        pending = self._pending.pop(sequence)
        del self._by_digest[pending.request.digest]
        self._collector.forget(pending.request.digest)
        return pending

    def _drop_used(self, executed: int) -> None:
        """Numbers are executed without a gap: those before an executed one are used up, by whatever request."""
        while (lowest := next(iter(self._pending), executed)) < executed and self._pending[lowest].future is None:
            self._drop(lowest)

    def _renew(self, outcome: Outcome) -> None:
        """The replicas refuse the session: it lapsed, or our clock is wrong. Nothing is sent again under a new one."""
        refused, self._session = self._session, _new_session(outcome.agreed_time)
        self._next = 1
        error = Indeterminate(
            f"the replicas refuse session {refused} (their time is {outcome.agreed_time} microseconds): it lapsed, or "
            "this machine's clock is wrong; a new session was opened, and what was in flight may or may not be executed"
        )
        for sequence in list(self._pending):
            _fail(self._drop(sequence).future, error)
        self._wake()

    def _no_answer(self, pending: Pending, timeout: float) -> Overloaded | Indeterminate:
        statuses = pending.votes.statuses()
        refusals = sum(1 for status in statuses.values() if status == OVERLOADED)
        if refusals >= self._needed and pending.votes.held_by_nobody():
            # Nobody holds it, so its number would hold up the session; filled, it can never be executed later either.
            # (A liar may hold it all the same, and have it executed first: `_drop_used` does not wait for the filler.)
            self._drop(pending.request.sequence)
            self._fill_in_order(pending.request.sequence)
            return Overloaded(f"all {refusals} replicas that could be reached refused the request: try again later")
        said = ", ".join(f"replica {replica} {STATUS_NAMES[status]}" for replica, status in sorted(statuses.items()))
        told = "; ".join([said or "no replica answered", *problem_lines(self.problems)])
        return Indeterminate(
            f"no {self._needed} equal replies within {timeout:g} seconds ({told}): the operation may or may not be "
            "executed"
        )

    # --- status ---

    def _answer(self, replica: int, payload: bytes) -> None:
        questions = self._questions[replica]
        if not questions:
            raise RemoteProtocolError(f"replica {replica} answers a question that nobody asked")
        answer = decode_answer(payload)
        question = questions.popleft()
        if not question.done():
            question.set_result(answer)

    @staticmethod
    def _replica_of(connection: Connection) -> int:
        if connection.peer is None or connection.peer.replica is None:
            raise RemoteProtocolError("a client talks to replicas only")
        return connection.peer.replica


def _fail(future: asyncio.Future[Any] | None, error: BaseException) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
