"""The connections of clients: requests into the pool, replies out, questions about the replica's status."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from smartbft._fastpath.frames import REQUEST, STATUS, STATUS_ANSWER, FrameReader, frame
from smartbft._fastpath.pool import RequestPool
from smartbft.errors import InvalidSignature, RemoteProtocolError
from smartbft.limits import (
    MAX_OPEN_QUESTIONS,
    MAX_REQUEST_BYTES,
    MAX_STATUS_QUESTION_BYTES,
    OFFENCES_TOLD_AT_ONCE,
    OFFENCES_TOLD_PER_SECOND,
)
from smartbft.net.connection import Connection
from smartbft.runtime.throttle import ClientReader
from smartbft.token_bucket import TokenBucket

logger = logging.getLogger(__name__)


class ClientGate:
    """Owner of the connections from clients. Each has a number in the pool, its *source*.

    Args:
        pool: takes the requests; the frame readers put them there.
        arrived: called after each socket read.
        question: called with the payload of a STATUS frame and a function that takes the answer's payload; raises
            RemoteProtocolError if it is bad.
        forgotten: called with a source that is gone.
        failed: called when our own code raised.
        proven: requests carry no signatures: only a client that has proven its key may send some, its own.
    """

    def __init__(
        self,
        pool: RequestPool,
        *,
        arrived: Callable[[], None],
        question: Callable[[bytes, Callable[[bytes], None]], None],
        forgotten: Callable[[int], None],
        failed: Callable[[BaseException], None],
        proven: bool = False,
    ) -> None:
        self._pool = pool
        self._proven = proven
        self._arrived = arrived
        self._question = question
        self._forgotten = forgotten
        self._failed = failed
        self._connections: dict[int, Connection] = {}
        self._sources: dict[Connection, int] = {}
        self._questions: dict[Connection, deque[bytes]] = {}
        self._told = TokenBucket(OFFENCES_TOLD_AT_ONCE, OFFENCES_TOLD_PER_SECOND)
        self._untold = 0
        self._last_source = 0
        self._paused = False

    def __len__(self) -> int:
        return len(self._connections)

    # --- effects ---

    def write(self, replies: list[tuple[int, bytes]]) -> None:
        """Write complete REPLY frames to the connections they are for."""
        connections = self._connections
        for source, frames in replies:
            connection = connections.get(source)
            if connection is not None:
                connection.write(frames)

    def punish(self, source: int) -> None:
        """Close a connection that sent too many bad signatures."""
        connection = self._connections.get(source)
        if connection is not None:
            connection.fail(InvalidSignature("too many requests with bad signatures"))

    def pause(self) -> None:
        """Read no client until `resume`: a queue is full."""
        if not self._paused:
            self._paused = True
            for connection in self._connections.values():
                connection.pause()

    def resume(self) -> None:
        """Read clients again."""
        if self._paused:
            self._paused = False
            for connection in self._connections.values():
                connection.resume()

    # --- Handler ---

    def opened(self, connection: Connection) -> ClientReader:
        """A client introduced itself."""
        self._last_source += 1
        source = self._last_source
        self._connections[source] = connection
        self._sources[connection] = source
        if self._paused:
            connection.pause()
        kinds = {REQUEST: MAX_REQUEST_BYTES, STATUS: MAX_STATUS_QUESTION_BYTES}
        key = connection.peer.key if connection.peer is not None else None
        if self._proven and key is None:
            del kinds[REQUEST]
        elif self._proven and key is not None:
            self._pool.holds.prove(source, key)
        return ClientReader(FrameReader(kinds, self._pool, source), self._pool, connection.rest)

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        """The requests of this read are in the pool already; what is left are questions."""
        for _, payload in frames:
            self._put_question(connection, payload)
        self._arrived()

    def closed(self, connection: Connection, error: Exception | None) -> None:
        """Forget the connection's unverified requests and its reply routes."""
        self._questions.pop(connection, None)
        source = self._sources.pop(connection, None)
        if source is not None:
            del self._connections[source]
            self._pool.drop_source(source)
            self._forgotten(source)
        if isinstance(error, RemoteProtocolError):
            self._tell(connection, error)

    def failed(self, error: BaseException) -> None:
        """Our own code raised."""
        self._failed(error)

    def _tell(self, connection: Connection, error: RemoteProtocolError) -> None:
        """Whoever offends again and again must not fill the log."""
        if not self._told.take(asyncio.get_running_loop().time()):
            self._untold += 1
            return
        before = f" ({self._untold} others before it)" if self._untold else ""
        self._untold = 0
        logger.info("the connection of client %s is closed: %s%s", connection.address, error, before)

    # --- questions: one at a time per connection, so that answers come in their order ---

    def _put_question(self, connection: Connection, payload: bytes) -> None:
        questions = self._questions.setdefault(connection, deque())
        questions.append(payload)
        if len(questions) > MAX_OPEN_QUESTIONS:
            raise RemoteProtocolError(f"more than {MAX_OPEN_QUESTIONS} questions are waiting for their answers")
        if len(questions) == 1:
            self._question(payload, lambda answer: self._answered(connection, answer))

    def _answered(self, connection: Connection, answer: bytes) -> None:
        questions = self._questions.get(connection)
        if questions is None:  # the connection is gone
            return
        connection.write(frame(STATUS_ANSWER, answer))
        questions.popleft()
        if not questions:
            return
        try:
            self._question(questions[0], lambda later: self._answered(connection, later))
        except RemoteProtocolError as error:
            connection.fail(error)
