"""Requests without signatures (protocols.md 2.1, channel-authenticated requests): replicas vouch for what they heard.

A replica announces what it has from clients themselves, a batch at a time. What `f + 1` members announced one correct
member has heard: whoever lacks it fetches it and announces it too. So all correct members will hold what `2f + 1`
announced, and the leader proposes it. Who holds what is counted in the pool; here are the messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smartbft._fastpath.pool import RequestPool
from smartbft.core.inputs import Timer
from smartbft.limits import (
    MAX_FETCH_HELD_DIGESTS,
    MAX_FORWARD_BYTES,
    MAX_HOLD_DIGESTS,
    MAX_HOLDS_PER_MEMBER,
    MAX_HOLDS_REPEATED,
    MAX_IDLE_REQUEST_TIMEOUTS,
)
from smartbft.messages import FetchHeld, HeldRequests, Hold
from smartbft.types import CHANNEL, Parameters, View

if TYPE_CHECKING:
    from smartbft.core.replica import Replica

# The shortest pause between two questions for missing requests, microseconds.
_SHORTEST_PAUSE = 1_000


def pool_arguments(parameters: Parameters, view: View, replica: int) -> dict[str, Any]:
    """The arguments of a replica's `RequestPool` that have to do with timeouts and, where requests carry no signatures,
    with vouching.
    """
    arguments: dict[str, Any] = {"max_idle": MAX_IDLE_REQUEST_TIMEOUTS * parameters.request_timeout}
    if parameters.request_authentication == CHANNEL:
        arguments |= {"members": view.n, "member": view.ids.index(replica), "max_holds": MAX_HOLDS_PER_MEMBER}
    return arguments


def waiting_for_room(pool: RequestPool) -> str:
    """What a pool that has nothing to propose waits for, in words, if it is full."""
    stats = pool.stats()
    if not stats["full"]:
        return ""
    return (
        f"room in the request pool, which is full: of its {stats['pending']} requests {stats['idle']} could not be"
        f" proposed (their predecessors are missing, or too few replicas hold them) and {stats['unverified']} are not"
        " verified yet"
    )


class Vouching:
    """One replica's part in vouching for requests; it does nothing where requests are signed."""

    __slots__ = ("_active", "_fetching", "_replica", "_turn")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._active = replica.parameters.request_authentication == CHANNEL
        self._fetching = False
        self._turn = 0

    def announce(self) -> None:
        """Tell all what this replica holds now and has not said."""
        if not self._active:
            return
        replica = self._replica
        while digests := replica.pool.holds.take(MAX_HOLD_DIGESTS):
            replica.broadcast(Hold(replica.view.number, replica.regency, digests))

    def repeat(self, to: int | None) -> None:
        """Say again what is pending and may not be known: to a peer whose channel is new, or now and then to all.

        A peer whose channel is new may have restarted, and hold nothing of what it announced. It says it again too.
        """
        if not self._active:
            return
        replica = self._replica
        if to is not None:
            replica.pool.holds.void(replica.view.ids.index(to))
        before, most = replica.now + 1, MAX_HOLD_DIGESTS
        if to is None:
            before, most = replica.now - replica.parameters.resend_interval, MAX_HOLDS_REPEATED
            self.announce()
        if digests := replica.pool.holds.held(max(0, before), most):
            replica.tell(to, Hold(replica.view.number, replica.regency, digests))

    def on_message(self, sender: int, message: Hold | FetchHeld | HeldRequests) -> None:
        """A peer announces, asks or answers."""
        replica = self._replica
        if isinstance(message, Hold):
            changed = replica.pool.holds.hold(replica.view.ids.index(sender), message.digests, replica.now)
            if changed:
                self.announce()
                replica.ordering.on_requests()
            self._watch()
        elif isinstance(message, FetchHeld):
            if not replica.may_answer(sender, HeldRequests):
                return
            data = replica.pool.holds.requests(message.digests, MAX_FORWARD_BYTES)
            if data:
                replica.answer(sender, HeldRequests(replica.view.number, replica.regency, data), len(data))
        else:
            replica.adopt(sender, message.data)

    def _watch(self) -> None:
        """Ask for requests that are missing here after a grace: the clients' own copies are usually on their way."""
        replica = self._replica
        if not self._fetching and replica.pool.holds.wanted(0, 0, replica.now, 0)[1]:
            self._fetching = True
            self._set_timer()

    def _set_timer(self) -> None:
        self._replica.set_timer(Timer.VOUCH, max(_SHORTEST_PAUSE, self._replica.parameters.fetch_grace))

    def on_timer(self) -> None:
        """Ask the next peer in turn that holds something of what is missing."""
        replica = self._replica
        ids = replica.view.ids
        before = max(0, replica.now - replica.parameters.fetch_grace + 1)
        left = False
        for _ in ids:
            self._turn = (self._turn + 1) % len(ids)
            digests, left = replica.pool.holds.wanted(self._turn, before, replica.now, MAX_FETCH_HELD_DIGESTS)
            if digests and ids[self._turn] != replica.id:
                replica.send(ids[self._turn], FetchHeld(replica.view.number, replica.regency, digests))
                break
        self._fetching = left
        if left:
            self._set_timer()
