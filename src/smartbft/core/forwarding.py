"""Requests that are not ordered in time (Mod-SMaRt Algorithm 3, lines 1-4): forward them, then suspect the leader.

The pool keeps arrival order, so one deadline for the oldest request that a leader could propose is enough: half of the
timeout after its arrival it is forwarded to everybody, after the whole of it the leader is suspected. The deadline
begins again with each regency, and does not run while the leader may not propose (a slow application is not the
leader's fault; field notes B10).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smartbft._fastpath.pool import FROM_MEMBER
from smartbft.core.inputs import Timer
from smartbft.limits import MAX_FORWARD_BYTES, MAX_REQUEST_BYTES, REQUEST_LOOKS_PER_TIMEOUT
from smartbft.messages import Forward

if TYPE_CHECKING:
    from smartbft.core.replica import Replica

_WAITS, _FORWARDED, _SUSPECTED = range(3)


class Due(enum.Enum):
    """What is to be done about something that is not ordered in time."""

    NOTHING = enum.auto()
    FORWARD = enum.auto()
    SUSPECT = enum.auto()


class Deadline:
    """The time that a leader has: half of the timeout until everybody is told, the whole until it is suspected."""

    __slots__ = ("_looks", "_replica", "_since", "_stage")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._since = 0
        self._looks = 0
        self._stage = _WAITS

    @property
    def passed(self) -> bool:
        """Whether the leader is suspected."""
        return self._stage == _SUSPECTED

    def begin(self, since: int) -> None:
        """Something new waits; `since`: microseconds."""
        self._since, self._looks, self._stage = since, 0, _WAITS

    def hold(self) -> None:
        """The leader cannot propose now, or need not."""
        self._since, self._looks = self._replica.now, 0

    def watch_again(self) -> None:
        """A new regency: what was forwarded is known to its leader; it has the whole timeout."""
        self.hold()
        self._stage = min(self._stage, _FORWARDED)

    def look(self) -> Due:
        """What is due; to be called at every look, of which there are so many in a timeout."""
        timeout = self._replica.ordering.timeout
        # A clock that was set back must not put the suspicion off: so many looks take as long, whatever it shows.
        waited = max(self._replica.now - self._since, self._looks * (timeout // REQUEST_LOOKS_PER_TIMEOUT))
        self._looks += 1
        if waited >= timeout and self._stage != _WAITS:
            # At every look: a replica that did not take part yet when the time was over could not ask for anything.
            self._stage = _SUSPECTED
            return Due.SUSPECT
        if waited >= timeout // 2 and self._stage == _WAITS:
            self._stage = _FORWARDED
            return Due.FORWARD
        return Due.NOTHING


class Forwarding:
    """Watches the oldest pending request of one replica."""

    __slots__ = ("_deadline", "_first", "_oldest", "_replica")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._oldest = -1  # when it arrived; -1: nothing is pending
        self._first = b""  # its bytes: many requests may arrive in the same microsecond
        self._deadline = Deadline(replica)

    @property
    def suspects(self) -> bool:
        """Whether the oldest request was forwarded and is still not ordered."""
        return self._deadline.passed

    def on_timer(self) -> None:
        """Look at the oldest pending request; forward what is overdue, suspect the leader when that did not help."""
        replica = self._replica
        timeout = replica.ordering.timeout
        oldest = replica.pool.oldest_pending()
        first = _first_of(replica.pool.overdue(oldest + 1, 4 + MAX_REQUEST_BYTES)) if oldest >= 0 else b""
        if (oldest, first) != (self._oldest, self._first):
            # Its turn came when the one before it was ordered: a long queue is no reason for suspicion.
            before, self._oldest, self._first = self._oldest, oldest, first
            self._deadline.begin(oldest if before < 0 else replica.now)
        if oldest < 0 or not replica.may_propose() or not replica.could_propose():
            self._deadline.hold()
        due = self._deadline.look()
        if due is Due.SUSPECT:
            replica.ordering.suspect(self.overdue())
        elif due is Due.FORWARD and (data := self.overdue()):
            replica.broadcast(Forward(replica.view.number, replica.regency, data))
        replica.set_timer(Timer.REQUEST, timeout // REQUEST_LOOKS_PER_TIMEOUT)

    def blame(self, liars: tuple[tuple[int, int], ...]) -> None:
        """The verdicts on what members passed on (FORWARD, STOP, HELD-REQUESTS): a correct one has checked before.

        The verdict on some bytes is the same everywhere, and whoever brought them here first answers for them: nobody
        is blamed for what had come from a client, or from another member. What is left of a liar's is not checked.
        (Where requests carry no signatures none is bad.)
        """
        for member, count in liars:
            self._replica.pool.drop_source(FROM_MEMBER + member)
            self._replica.penalise(
                member, f"passed on requests of which {count} had bad signatures, without checking them"
            )

    def watch_again(self) -> None:
        """A new regency: its leader has the whole timeout."""
        self._deadline.watch_again()

    def overdue(self) -> bytes:
        """The requests that have waited for half of the timeout, as far as one message holds them."""
        before = max(self._replica.now - self._replica.ordering.timeout // 2, self._oldest) + 1
        return self._replica.pool.overdue(before, MAX_FORWARD_BYTES)


def _first_of(data: bytes) -> bytes:
    """The first request of a request list."""
    return data[4 : 4 + int.from_bytes(data[:4], "little")]
