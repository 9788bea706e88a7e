"""Requests that are not ordered in time (Mod-SMaRt Algorithm 3, lines 1-3): forward them to everybody.

The pool keeps arrival order, so one timer for the oldest request that a leader could propose is enough. The second
expiry of the same request forwards again, with growing pauses; suspecting the leader belongs to the synchronization
phase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.inputs import Timer
from smartbft.limits import MAX_FORWARD_BYTES, MAX_FORWARD_PAUSE_FACTOR
from smartbft.messages import Forward

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class Forwarding:
    """Watches the oldest pending request of one replica."""

    __slots__ = ("_expiries", "_next", "_oldest", "_replica")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._oldest = -1
        self._expiries = 0
        self._next = 0

    def on_timer(self) -> None:
        """Look at the oldest pending request; forward what is overdue."""
        replica = self._replica
        timeout = replica.parameters.request_timeout
        oldest = replica.pool.oldest_pending()
        if oldest != self._oldest:
            self._oldest, self._expiries, self._next = oldest, 0, oldest + timeout
        if oldest >= 0 and replica.now >= self._next:
            self._forward(timeout)
        replica.set_timer(Timer.REQUEST, timeout // 2)

    def _forward(self, timeout: int) -> None:
        replica = self._replica
        data = replica.pool.overdue(replica.now - timeout + 1, MAX_FORWARD_BYTES)
        if data:
            replica.broadcast(Forward(replica.view.number, replica.regency, data))
        self._expiries += 1
        self._next = replica.now + timeout * min(2**self._expiries, MAX_FORWARD_PAUSE_FACTOR)
