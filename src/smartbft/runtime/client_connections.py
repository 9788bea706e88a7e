"""A client's connections to all replicas, and the questions about their status that go over them."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Any

from smartbft._fastpath.frames import STATUS, frame
from smartbft.config import Genesis, Seconds, parse_seconds
from smartbft.config.replica import Transport
from smartbft.crypto.signatures import Signer
from smartbft.errors import HandshakeError, LocalProtocolError, NotEnoughReplies, RemoteProtocolError
from smartbft.forks import check_process
from smartbft.limits import MAX_OPEN_QUESTIONS
from smartbft.net.connection import Connection, Handler, ReadBuffer
from smartbft.net.tls import dialer_context
from smartbft.net.transport import Dialer, Target
from smartbft.runtime.problems import name_problems
from smartbft.runtime.status import Question, decode_answer, encode_question

CONNECT_FIRST = "connect the client first: 'async with client:' or 'await client.connect()'"


class ClientConnections:
    """Keeps a connection to each replica, and tells why there is none. The base of `AsyncClient`.

    Args:
        genesis: of the chain.
        transport: as the replicas have it.
        needed: equal replies that make a result, and so connections without which nothing is sent.
        prover: proves the client's key on each connection; None where requests are signed.
    """

    def __init__(self, genesis: Genesis, transport: Transport, needed: int, prover: Signer | None) -> None:
        self.genesis = genesis
        self._transport = transport
        self._needed = needed
        self._n = genesis.view.n
        self._prover = prover
        self._connections: dict[int, Connection] = {}
        self._questions: dict[int, deque[asyncio.Future[dict[str, Any]]]] = {}
        self._dialers: list[Dialer] = []
        self._changed = asyncio.Event()
        self._refusals: dict[str, HandshakeError] = {}
        self._closed = False
        self._error: BaseException | None = None
        self._process = os.getpid()

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

    async def status(self, replica: int, *, digest: bool = False, timeout: Seconds = 5.0) -> dict[str, Any]:  # noqa: ASYNC109
        """Ask one replica how it is (see `smartbft.runtime.status`); `digest` includes the application's state
        digest and its figures, taken between two batches.

        Raises:
            NotEnoughReplies: it is not connected, or does not answer within `timeout`.
            LocalProtocolError: there is no such replica, or `timeout` is no time.
        """
        return await self.look_up(replica, Question(digest=digest), timeout)

    async def look_up(self, replica: int, question: Question, timeout: Seconds = 5.0) -> dict[str, Any]:  # noqa: ASYNC109
        """One replica's answer to a question; what it says is its word alone.

        Raises:
            NotEnoughReplies, LocalProtocolError: as `status`.
        """
        seconds = parse_seconds(timeout, "timeout")
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
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise NotEnoughReplies(f"replica {replica} did not answer within {seconds:g} seconds") from None

    # --- Handler ---

    def closed(self, connection: Connection, error: Exception | None) -> None:
        """A replica is gone; its dialer dials again."""
        if isinstance(error, HandshakeError) and connection.last_resort:
            self._refusals[connection.address] = error
            self._changed.set()
        if connection.peer is None or connection.peer.replica is None:
            return
        replica = connection.peer.replica
        if self._connections.get(replica) is connection:
            del self._connections[replica]
            for question in self._questions.pop(replica):
                fail(question, NotEnoughReplies(f"replica {replica} closed the connection"))

    # --- connections ---

    def _dial(self, handler: Handler) -> None:
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
            dialer = Dialer(self.genesis.chain_id, target, None, handler, buffer, tls=context, client=self._prover)
            dialer.start()
            self._dialers.append(dialer)

    async def _enough(self, seconds: float) -> None:
        if len(self._connections) >= self._needed:
            return
        if not self._dialers:
            raise LocalProtocolError(CONNECT_FIRST)
        try:
            async with asyncio.timeout(seconds):
                while len(self._connections) < self._needed:
                    self._check_open()
                    if len(self._refusals) > self._n - self._needed:
                        raise next(iter(self._refusals.values()))
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NotEnoughReplies(
                f"{len(self._connections)} of {self._n} replicas could be reached within {seconds:g} seconds; "
                f"{self._needed} equal replies are needed ({name_problems(self.problems)})"
            ) from None

    def _check_open(self) -> None:
        check_process(self._process, "this client")
        if self._error is not None:
            raise self._error
        if self._closed:
            raise LocalProtocolError("the client is closed: make a new one")

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


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Have a future end with an error, unless it has ended before."""
    if not future.done():
        future.set_exception(error)
