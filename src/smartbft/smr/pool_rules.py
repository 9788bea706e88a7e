"""The rules of the request pool from proposing to replying: the second half of the oracle, see `pool_reception`."""

from __future__ import annotations

from dataclasses import replace

from smartbft._fastpath import pool as native
from smartbft._fastpath.pool import join_requests
from smartbft.errors import LocalProtocolError, MalformedMessage
from smartbft.smr.application import fitting
from smartbft.smr.hold_rules import HoldOracle
from smartbft.smr.pool_reception import NO_SOURCE, Reception, chunks, parse, result_list
from smartbft.smr.session_snapshot import KeptSession, decode_sessions, encode_sessions, keep, restore
from smartbft.smr.sessions import Pending, Place, Route, Session, SessionId, Standing


def _by_number(session: Session) -> tuple[int, bytes]:
    return session.id[1], session.id[0]


class SessionCaptureOracle:
    """As `SessionCapture`: the bytes are there from the start."""

    def __init__(self, pool: PoolOracle, sessions: bytes) -> None:
        self._pool = pool
        self._sessions = sessions

    def export(self) -> bytes:
        """As `SessionCapture.export`."""
        if self._pool.capture is not self:
            raise LocalProtocolError("a later capture or an import took the place of this one, or it was exported")
        self._pool.capture = None
        return self._sessions


class PoolOracle(Reception):
    """The pool, with the methods of `RequestPool`; a verification job is a list of pending requests."""

    capture: SessionCaptureOracle | None = None

    @property
    def holds(self) -> HoldOracle:
        """As `RequestPool.holds`."""
        return HoldOracle(self)

    # --- proposing and voting

    def ready(self) -> int:
        """As `RequestPool.ready`."""
        return len(self.ready_list)

    def form_batch(self, max_requests: int, max_bytes: int, timestamp: int) -> tuple[bytes, bytes]:
        """As `RequestPool.form_batch`."""
        chosen: list[Pending] = []
        for entry in self._in_turn(timestamp):
            size = sum(4 + len(other.request) for other in (*chosen, entry))
            if len(chosen) == max_requests or size > max_bytes:
                break
            chosen.append(entry)
        return b"".join(entry.digest for entry in chosen), join_requests([entry.request for entry in chosen])

    def _in_turn(self, timestamp: int) -> list[Pending]:
        """All ready requests that a batch with this timestamp may contain: the first of each session, then the second
        of each, and so on.
        """
        rounds: dict[int, list[Pending]] = {}
        opened: list[SessionId] = []
        for id in self.ring:
            session = self.table.sessions[id]
            if session.standing is not Standing.OPEN:
                if not self.table.may_open_all([*opened, id], timestamp):
                    continue
                opened.append(id)
            elif self.table.lapsed(session, timestamp):
                continue
            for number in range(session.ordered + 1, session.received + 1):
                rounds.setdefault(number - session.ordered, []).append(session.pending[number][0])
        return [entry for depth in sorted(rounds) for entry in rounds[depth]]

    def resolve(self, digests: bytes, bound: bool = False) -> tuple[bytes, bytes, int]:
        """As `RequestPool.resolve`."""
        named = [self.by_digest.get(digest) for digest in chunks(digests)]
        missing = b"".join(d for d, entry in zip(chunks(digests), named, strict=True) if entry is None)
        found = [entry for entry in named if entry is not None]
        counts = (Place.UNVOUCHED,) if bound else ()
        unverified = sum(not entry.verified and entry.place not in counts for entry in found)
        for entry in found:
            self._name(entry)
        complete = not missing and not unverified
        return join_requests([entry.request for entry in found]) if complete else b"", missing, unverified

    def collect(self, digests: bytes) -> bytes:
        """As `RequestPool.collect`."""
        named = [self.by_digest.get(digest) for digest in chunks(digests)]
        return join_requests([entry.request for entry in named if entry is not None and entry.verified])

    def check(self, data: bytes, timestamp: int, max_requests: int, max_bytes: int) -> int:
        """As `RequestPool.check`."""
        if not data:
            return native.EMPTY
        if len(data) > max_bytes:
            return native.TOO_LARGE
        try:
            batch = self._parse(data, NO_SOURCE)
        except MalformedMessage:
            return native.MALFORMED
        if len(batch) > max_requests:
            return native.TOO_LARGE
        return self.table.survey([(id, number) for _, id, number in batch], timestamp)

    def decide(self, digests: bytes, data: bytes, instance: int, timestamp: int) -> None:
        """As `RequestPool.decide`."""
        batch = [(id, number) for _, id, number in parse(data, self.rules.max_operation_bytes)]
        if instance <= self.decided_instance:
            raise LocalProtocolError(f"a decision of instance {instance} after that of {self.decided_instance}")
        if timestamp <= self.agreed_time or self.table.survey(batch, timestamp) != native.VALID:
            raise LocalProtocolError("a decided batch that does not follow the decided prefix")
        self.decided_instance = instance
        self.agreed_time = timestamp
        self.now = max(self.now, timestamp)
        self._end_leases(instance, timestamp)
        for (id, number), digest in zip(batch, chunks(digests), strict=True):
            self._order(id, number, digest, timestamp)
        for id in dict.fromkeys(id for id, _ in batch):
            if id in self.ring:  # behind those that had no request in this batch
                self.ring.remove(id)
            self._advance(self.table.sessions[id])
        self._keep_session_limits(dict.fromkeys(id[0] for id, _ in batch))

    def _end_leases(self, instance: int, timestamp: int) -> None:
        """Sessions lapse before others open; with those that can no longer be opened, their requests are refused.

        Those that were open belong to the executed state until this instance is executed.
        """
        oldest = timestamp - self.rules.lease
        for session in list(self.table.sessions.values()):
            is_open = session.standing is Standing.OPEN
            if self.table.lapsed(session, timestamp) if is_open else session.id[1] < oldest:
                for entry in session.all_pending():
                    self._detach(entry)
                    self._refuse(entry.route, entry.digest, native.SESSION_REFUSED)
                self._remove_session(session)
                if is_open:
                    self.ended[session.id] = (instance, session)

    def _order(self, id: SessionId, number: int, digest: bytes, timestamp: int) -> None:
        session = self.table.sessions.setdefault(id, Session(id))
        session.standing = Standing.OPEN
        route = Route(digest, 0)
        if self.rules.members:
            self.announcements.settle(digest)
        for entry in list(session.pending.get(number, [])):
            self._detach(entry)
            if entry.digest == digest:
                route = replace(route, source=entry.route)
        session.routes[number] = route
        session.routes.pop(number - 2 * self.rules.window, None)
        session.ordered = number
        session.received = max(session.received, number)
        session.last_activity = timestamp

    def _keep_session_limits(self, keys: dict[bytes, None]) -> None:
        """Sessions that others proposed may have taken the places of waiting ones: the newest of these lose theirs."""
        while waiting := sorted(self.table.standing(Standing.WAITING), key=_by_number):
            if self.table.has_room(self.now, len(waiting) - 1):
                break
            self._evict(waiting[-1])
        for key in keys:
            while waiting := sorted(self.table.waiting_of_key(key), key=_by_number):
                if self.table.key_has_room(key, self.now, len(waiting) - 1):
                    break
                self._evict(waiting[-1])

    def _evict(self, session: Session) -> None:
        self.room.end(session, native.OVERLOADED)

    # --- replies

    def executed(
        self, digests: bytes, data: bytes, results: bytes, instance: int, view: int, timestamp: int, level: int
    ) -> None:
        """As `RequestPool.executed`."""
        if not self.executed_instance < instance <= self.decided_instance:
            raise LocalProtocolError(f"instance {instance} was executed before, or before it was decided")
        self.view, self.instance = view, instance
        batch = parse(data, self.rules.max_operation_bytes)
        for (_, id, number), digest, result in zip(batch, chunks(digests), result_list(results), strict=True):
            session = self._ordered_session(id)
            if session is None:
                raise LocalProtocolError("a request was executed whose session no decision has opened")
            if number != session.executed + 1 or number > session.ordered:
                raise LocalProtocolError(f"request {number} was executed out of order")
            session.executed = number
            session.replies[number] = self._encode_reply(native.EXECUTED, level, timestamp, digest, fitting(result))
            session.replies.pop(number - self.rules.window, None)
        self.executed_instance = instance
        self.ended = {id: (by, session) for id, (by, session) in self.ended.items() if by > instance}

    def _ordered_session(self, id: SessionId) -> Session | None:
        """The session that an ordered request belongs to, also if it has ended since."""
        session = self.table.sessions.get(id)
        if session is not None and session.standing is Standing.OPEN:
            return session
        return self.ended[id][1] if id in self.ended else None

    def release(self, digests: bytes, data: bytes) -> None:
        """As `RequestPool.release`."""
        for _, id, number in parse(data, self.rules.max_operation_bytes):
            session = self.table.sessions.get(id)
            if session is None or session.standing is not Standing.OPEN:
                continue
            if number > session.executed:
                raise LocalProtocolError(f"request {number} is released before it was executed")
            if number <= session.released:
                continue
            session.released = number
            route = session.routes.get(number)
            if route is not None and number in session.replies:
                self._reply(route.source, session.replies[number])

    def cached_reply(self, key: bytes, session: int, sequence: int) -> bytes | None:
        """As `RequestPool.cached_reply`."""
        known = self.table.sessions.get((key, session))
        return known.replies.get(sequence) if known is not None else None

    # --- timers

    def oldest_pending(self) -> int:
        """As `RequestPool.oldest_pending`."""
        return self.ready_list[0].ready_at if self.ready_list else -1

    def overdue(self, before: int, max_bytes: int) -> bytes:
        """As `RequestPool.overdue`."""
        data = b""
        for entry in self.ready_list:
            one = join_requests([entry.request])
            if entry.ready_at >= before or len(data) + len(one) > max_bytes:
                break
            data += one
        return data

    def session(self, key: bytes, session: int) -> tuple[int, int, int] | None:
        """As `RequestPool.session`."""
        known = self.table.sessions.get((key, session))
        return (known.received, known.ordered, known.executed) if known is not None else None

    def sessions_of(self, key: bytes) -> list[tuple[int, int, int]]:
        """As `RequestPool.sessions_of`."""
        own = (session for session in self.table.standing(Standing.OPEN) if session.id[0] == key)
        lease = self.rules.lease
        return sorted((one.id[1], one.executed, max(one.last_activity, one.id[1]) + lease) for one in own)

    # --- checkpoints and state transfer

    def export_sessions(self, instance: int) -> bytes:
        """As `RequestPool.export_sessions`."""
        if self.executed_instance not in (0, instance):
            raise LocalProtocolError(f"sessions as of {instance}; the last executed is {self.executed_instance}")
        return encode_sessions(self._executed_sessions())

    def capture_sessions(self, instance: int) -> SessionCaptureOracle:
        """As `RequestPool.capture_sessions`."""
        self.capture = SessionCaptureOracle(self, self.export_sessions(instance))
        return self.capture

    def _executed_sessions(self) -> list[KeptSession]:
        """A session belongs to the executed state from the execution of the batch that opened it, which is the one with
        its first request, to that of the batch that ended it.
        """
        ended = [session for _, session in self.ended.values()]
        return [keep(session) for session in (*self.table.standing(Standing.OPEN), *ended) if session.executed > 0]

    def import_sessions(self, data: bytes, agreed_time: int, level: int = 0) -> None:
        """As `RequestPool.import_sessions`."""
        if agreed_time < self.agreed_time:
            raise LocalProtocolError(f"sessions as of {agreed_time}; the pool is at {self.agreed_time}")
        kept = decode_sessions(data, self.rules, agreed_time)
        for session in list(self.table.sessions.values()):
            for entry in session.all_pending():
                self._detach(entry)
            self._remove_session(session)
        self.ended = {}
        self.capture = None
        self.agreed_time = agreed_time
        self.now = max(self.now, agreed_time)
        self.decided_instance = self.executed_instance = 0
        for one in kept:
            self.table.sessions[one.id] = restore(one, self.rules.replica, level)
            self.view = max([self.view, *(reply.view for reply in one.replies)])
            self.instance = max([self.instance, *(reply.instance for reply in one.replies)])
