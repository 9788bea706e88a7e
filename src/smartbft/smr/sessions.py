"""The rules of the session table (protocols.md 2.1 and 2.2), in plain Python: together with `pool_rules` the oracle of
`smartbft._fastpath.pool.RequestPool`, which does the same natively.

They are written to be read, not to be fast: every question is answered by looking at everything. The tests run both
side by side on random histories.

A session has three cursors, `received >= ordered >= executed`: every number up to `received` is ordered, or pending
here, verified and reachable without a gap. Which sessions are open, what is ordered and what was executed depends on
the decided batches alone, never on what was received when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from smartbft._fastpath import pool as native
from smartbft.errors import InvariantViolation

SessionId = tuple[bytes, int]  # client key, session number


class Standing(Enum):
    """What a session is to this replica."""

    UNPLACED = auto()  # it has no request that could be proposed, and no place in the table
    WAITING = auto()  # it has one, and a place in the table is kept for it
    OPEN = auto()  # a decision opened it: replicated state


class Place(Enum):
    """Where a pending request is."""

    QUEUED = auto()
    PRIORITY = auto()  # queued, and named by a proposal
    AT_VERIFIER = auto()
    UNVOUCHED = auto()  # checked, but nobody vouches for it yet
    ANNOUNCED = auto()  # vouched for, but fewer than 2f + 1 hold it
    VERIFIED = auto()  # but it could not be proposed
    READY = auto()  # verified, and could be proposed


@dataclass(eq=False)
class Account:
    """The requests of one connection, member or client key, see `room_rules`."""

    guaranteed: int
    idle: Account | None = None  # those that could not be proposed
    entries: list[Pending] = field(default_factory=list)
    rank: int = 0
    gone: bool = False

    @property
    def of_idle(self) -> Account:
        """The account of what could not be proposed."""
        if self.idle is None:
            raise InvariantViolation("keys have no account of idle requests")
        return self.idle


@dataclass(eq=False)
class Pending:
    """A pending request."""

    request: bytes
    digest: bytes
    id: SessionId
    number: int
    source: int  # answers for its signature
    route: int  # where its reply goes
    arrival: int
    place: Place = Place.QUEUED
    ready_at: int = 0
    counted: bool = False  # in its source's share of unverified requests
    named: bool = False  # by a proposal
    reserve: bool = False  # in the room for bodies, not in that of the pool
    own: bool = False  # the client itself sent it, on a connection that proves its key
    holders: set[int] = field(default_factory=set)  # members that announced it
    unsaid: bool = False  # waits to be announced
    account: Account | None = None  # of its connection or member; None: in the room for bodies
    idle_since: int | None = None  # since when it could not be proposed, although it is verified

    @property
    def verified(self) -> bool:
        return self.place in (Place.ANNOUNCED, Place.VERIFIED, Place.READY)

    @property
    def proposable(self) -> bool:
        return self.place in (Place.VERIFIED, Place.READY)


@dataclass
class Route:
    """Where the reply to an ordered request goes when it may leave."""

    digest: bytes
    source: int


@dataclass
class Session:
    """One session: cursors, pending requests by number (the one to propose first), routes and replies."""

    id: SessionId
    standing: Standing = Standing.UNPLACED
    received: int = 0
    ordered: int = 0
    executed: int = 0
    released: int = 0  # replies up to here may leave
    last_activity: int = 0
    pending: dict[int, list[Pending]] = field(default_factory=dict)
    routes: dict[int, Route] = field(default_factory=dict)
    replies: dict[int, bytes] = field(default_factory=dict)

    def candidate(self, number: int) -> Pending | None:
        """A verified request with a number; if any can be proposed, one of these."""
        first = self.pending.get(number, [None])[0]
        return first if first is not None and first.verified else None

    def proposable(self, number: int) -> Pending | None:
        """The request that this replica would propose for a number."""
        first = self.candidate(number)
        return first if first is not None and first.proposable else None

    def all_pending(self) -> list[Pending]:
        return [entry for number in sorted(self.pending) for entry in self.pending[number]]


@dataclass(frozen=True)
class PoolRules:
    """The parameters of `RequestPool`, which see."""

    chain_id: bytes
    window: int
    max_requests: int
    max_bytes: int
    max_operation_bytes: int
    max_sessions: int
    max_sessions_per_key: int
    max_unverified_per_source: int
    lease: int
    skew: int
    replica: int = 0
    admit_unverified: bool = False
    members: int = 0
    member: int = 0
    max_holds: int = 1
    max_idle: int = 16_000_000

    @property
    def weak(self) -> int:
        """`f + 1`: announcements that vouch for a request."""
        return (self.members - 1) // 3 + 1

    @property
    def strong(self) -> int:
        """`2f + 1`: announcements with which it may be proposed."""
        return 2 * ((self.members - 1) // 3) + 1


class SessionTable:
    """Which sessions are open, which may be opened, and when they lapse."""

    def __init__(self, rules: PoolRules) -> None:
        self.rules = rules
        self.sessions: dict[SessionId, Session] = {}

    def standing(self, *standings: Standing) -> Iterator[Session]:
        """The sessions of some standings."""
        return (session for session in self.sessions.values() if session.standing in standings)

    def admissible(self, session_number: int, timestamp: int) -> bool:
        """Whether a session that is not open may be opened at this time."""
        return timestamp - self.rules.lease <= session_number <= timestamp + self.rules.skew

    def lapsed(self, session: Session, timestamp: int) -> bool:
        """An open session is over when it has been idle for longer than the lease and its number is as old.

        From then on no session with its number can be opened, so that nothing of it can be replayed.
        """
        return max(session.last_activity, session.id[1]) < timestamp - self.rules.lease

    def continues(self, session: Session | None, timestamp: int) -> bool:
        """Whether a batch with this timestamp finds the session open."""
        return session is not None and session.standing is Standing.OPEN and not self.lapsed(session, timestamp)

    def has_room(self, timestamp: int, taken: int) -> bool:
        """Whether one more session may be open at `timestamp`, beside `taken` others that are not open yet."""
        lasting = sum(not self.lapsed(session, timestamp) for session in self.standing(Standing.OPEN))
        return lasting + taken < self.rules.max_sessions

    def key_has_room(self, key: bytes, timestamp: int, taken: int) -> bool:
        """As `has_room`, for the sessions of one key."""
        own = (session for session in self.standing(Standing.OPEN) if session.id[0] == key)
        lasting = sum(not self.lapsed(session, timestamp) for session in own)
        return lasting + taken < self.rules.max_sessions_per_key

    def waiting_of_key(self, key: bytes) -> list[Session]:
        return [session for session in self.standing(Standing.WAITING) if session.id[0] == key]

    def may_open_all(self, ids: list[SessionId], timestamp: int) -> bool:
        """Whether a batch with this timestamp may open these sessions."""
        return all(
            self.admissible(id[1], timestamp)
            and self.has_room(timestamp, before)
            and self.key_has_room(id[0], timestamp, sum(other[0] == id[0] for other in ids[:before]))
            for before, id in enumerate(ids)
        )

    def survey(self, batch: Iterable[tuple[SessionId, int]], timestamp: int) -> int:
        """The verdict on a batch's sessions: numbers contiguous from the decided prefix, at most a window of them, and
        new sessions within the lease and the limits. It depends on decided batches and the timestamp only.
        """
        numbers = list(batch)
        if len(set(numbers)) < len(numbers):
            return native.DUPLICATE
        taken: dict[SessionId, int] = {}
        for id, number in numbers:
            session = self.sessions.get(id)
            prefix = session.ordered if session is not None and self.continues(session, timestamp) else 0
            taken[id] = taken.get(id, 0) + 1
            if number != prefix + taken[id] or taken[id] > self.rules.window:
                return native.NOT_CONTIGUOUS
        opened = [id for id in taken if not self.continues(self.sessions.get(id), timestamp)]
        return native.VALID if self.may_open_all(opened, timestamp) else native.SESSION_INVALID
