"""The session table as canonical bytes (docs/snapshot-format.md, Sessions), in plain Python: the oracle of the native
`RequestPool.export_sessions` and `import_sessions`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from smartbft.limits import DIGEST_BYTES, KEY_BYTES
from smartbft.smr.sessions import PoolRules, Session, SessionId, Standing

_COUNT = struct.Struct("<I")
_SESSION = struct.Struct(f"<{KEY_BYTES}sQQI")
_REPLY = struct.Struct(f"<IQQ{DIGEST_BYTES}sI")
_REPLY_HEADER = struct.Struct(f"<HBBIQQ{DIGEST_BYTES}s")
_EXECUTED = 0


@dataclass(frozen=True)
class KeptReply:
    """A reply that a session keeps, without what differs between replicas.

    Attributes:
        view, instance: where the request was executed.
        agreed_time: of the batch, in microseconds.
        digest: of the request.
    """

    view: int
    instance: int
    agreed_time: int
    digest: bytes
    result: bytes


@dataclass(frozen=True)
class KeptSession:
    """An open session as of an executed prefix.

    Attributes:
        executed: how many of its requests were executed.
        replies: to the last of them, at most `window`.
    """

    id: SessionId
    executed: int
    replies: tuple[KeptReply, ...]

    @property
    def last_activity(self) -> int:
        """Agreed time of the last executed request."""
        return self.replies[-1].agreed_time


def keep(session: Session) -> KeptSession:
    """What of an open session belongs to the executed state."""
    kept = []
    for number in sorted(session.replies):
        payload = session.replies[number]
        _, _, _, view, instance, time, digest = _REPLY_HEADER.unpack_from(payload)
        kept.append(KeptReply(view, instance, time, digest, payload[_REPLY_HEADER.size :]))
    return KeptSession(session.id, session.executed, tuple(kept))


def restore(kept: KeptSession, replica: int, level: int) -> Session:
    """An open session, with replies that are this replica's own."""
    first = kept.executed - len(kept.replies) + 1
    replies = {
        number: _REPLY_HEADER.pack(replica, _EXECUTED, level, r.view, r.instance, r.agreed_time, r.digest) + r.result
        for number, r in enumerate(kept.replies, start=first)
    }
    done = kept.executed
    return Session(kept.id, Standing.OPEN, done, done, done, done, kept.last_activity, replies=replies)


def encode_sessions(sessions: Iterable[KeptSession]) -> bytes:
    """The canonical bytes of a session table."""
    ordered = sorted(sessions, key=lambda session: session.id)
    parts = [_COUNT.pack(len(ordered))]
    for session in ordered:
        parts.append(_SESSION.pack(*session.id, session.executed, len(session.replies)))
        for reply in session.replies:
            header = _REPLY.pack(reply.view, reply.instance, reply.agreed_time, reply.digest, len(reply.result))
            parts += [header, reply.result]
    return b"".join(parts)


def decode_sessions(data: bytes, rules: PoolRules, agreed_time: int) -> list[KeptSession]:
    """The sessions of a table as of `agreed_time`.

    Raises:
        ValueError: not canonical, or beyond the limits of `rules`.
    """
    reader = _Reader(data)
    (count,) = reader.unpack(_COUNT)
    _require(count <= rules.max_sessions, f"{count} sessions; the limit is {rules.max_sessions}")
    sessions: list[KeptSession] = []
    for _ in range(count):
        session = reader.session(rules.window)
        _require(not sessions or sessions[-1].id < session.id, "sessions that are not in ascending order")
        _check_lease(session, rules, agreed_time)
        sessions.append(session)
    of_key = Counter(key for session in sessions for key in [session.id[0]])
    _require(all(used <= rules.max_sessions_per_key for used in of_key.values()), "too many sessions of one key")
    _require(reader.at == len(data), f"{len(data) - reader.at} bytes after the last session")
    return sessions


def executed_requests(data: bytes) -> int:
    """How many requests the open sessions of a table have executed in all.

    Raises:
        ValueError: the bytes end too early.
    """
    reader = _Reader(data)
    (count,) = reader.unpack(_COUNT)
    total = 0
    for _ in range(count):
        _, _, executed, replies = reader.unpack(_SESSION)
        total += executed
        for _ in range(replies):
            reader.take(reader.unpack(_REPLY)[-1])
    return total


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_lease(session: KeptSession, rules: PoolRules, agreed_time: int) -> None:
    active, number = session.last_activity, session.id[1]
    _require(active <= agreed_time, f"a reply with time {active}, later than the agreed time {agreed_time}")
    _require(number <= active + rules.skew, f"session number {number}, which no batch up to time {active} could open")
    over = max(active, number) < agreed_time - rules.lease
    _require(not over, f"a session that was over before the agreed time {agreed_time}")


def _follows(last: KeptReply, reply: KeptReply) -> bool:
    """Of one instance, or of a later one that was decided at a later time."""
    if reply.instance == last.instance:
        return reply.agreed_time == last.agreed_time and reply.view == last.view
    return reply.instance > last.instance and reply.agreed_time > last.agreed_time and reply.view >= last.view


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        _require(length <= len(self.data) - self.at, f"{length} bytes announced, {len(self.data) - self.at} left")
        self.at += length
        return self.data[self.at - length : self.at]

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def session(self, window: int) -> KeptSession:
        key, number, executed, count = _SESSION.unpack(self.take(_SESSION.size))
        _require(executed > 0, "a session without an executed request")
        _require(count == min(executed, window), f"{count} replies for {executed} executed requests, window {window}")
        replies: list[KeptReply] = []
        for _ in range(count):
            view, instance, time, digest, length = _REPLY.unpack(self.take(_REPLY.size))
            reply = KeptReply(view, instance, time, digest, self.take(length))
            _require(not replies or _follows(replies[-1], reply), "replies whose instances or times are not in order")
            replies.append(reply)
        return KeptSession((key, number), executed, tuple(replies))
