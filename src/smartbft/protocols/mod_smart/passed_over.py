"""Whether the leader passes requests over: its proposals come in time, but batches that have room leave old requests
out. With clients that wait for their replies, a leader that orders a few requests at a time keeps all the others
waiting, and none of them for as long as the request timeout.

A correct leader proposes all that it can, as far as it fits: what a batch with room leaves out, its leader did not
have, or had not verified. So a request that was ready here long before such an instance began is a sign, and no more:
its client may not have told the leader. The leader is sent what waits here. Once it has had time for that, every
instance that leaves any of it out, and has room, is lost time, as if nothing had been proposed. A batch without room is
never held against its leader.

What is lost counts like the wait for a late proposal: it must make up half of the time, and what is allowed doubles
with each change. A leader whose verification lags that far behind ours, under overload, is replaced as often as it
takes to allow for it, and then no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.chassis import Chassis
from smartbft.limits import MAX_REMINDER_BYTES
from smartbft.messages import Forward
from smartbft.protocols.mod_smart.left_out import has_room, waits_among
from smartbft.protocols.vp_consensus import VPConsensus

if TYPE_CHECKING:
    from smartbft.protocols.mod_smart.ordering import ModSmart

_NEVER = -1


class PassedOver:
    """What waits here, whether the leader was reminded of it, and what it does about it. Times are microseconds."""

    __slots__ = ("_before", "_chassis", "_ordering", "_reminded", "_said", "_since", "_waiting")

    def __init__(self, chassis: Chassis, ordering: ModSmart) -> None:
        self._chassis = chassis
        self._ordering = ordering
        self._waiting = b""  # request list: what the leader should propose; empty: nothing that matters
        self._since = 0  # when that was here, or the leader was reminded of it
        self._reminded = False
        self._said = 0  # when it was reminded the last time: a connection may have broken since
        self._before = _NEVER  # when the instance before began

    def forget(self) -> None:
        """Another leader, or instances were settled elsewhere."""
        self._waiting, self._reminded = b"", False
        self._before = _NEVER

    def decided(self, consensus: VPConsensus, began: int, half: int) -> int:
        """An instance is decided, and its requests have left the pool.

        Args:
            consensus: the instance.
            began: when the leader could have proposed something, as far as we know.
            half: how long a leader may take to have verified what is verified here, or what it was reminded of.

        Returns:
            How much of the instance is lost because it passes requests over.
        """
        before, self._before = self._before, began
        oldest = self._chassis.pool.oldest_pending()
        if oldest < 0:
            self._waiting, self._reminded = b"", False
            return 0
        if not self._waiting and oldest + half // 2 > began:
            return 0
        if not consensus.proposed_at or not self._has_room(consensus):
            return 0
        # A proposal that was here when the instance began here was made during the one before: we are behind a bit.
        made = began if consensus.proposed_at > began else before
        if not self._still_waits(oldest):
            self._waiting, self._reminded = b"", False
            if oldest + half // 2 <= made:
                self._note(reminded=False)
            return 0
        self._since = min(self._since, self._chassis.now)  # the clock was set back
        due = self._since + half
        if self._reminded:
            return self._lost(due, made, began, consensus.proposed_at)
        if due <= made:
            self._note(reminded=True)
            self._say()
        return 0

    def _lost(self, due: int, made: int, began: int, proposed: int) -> int:
        chassis = self._chassis
        if abs(chassis.now - self._said) >= chassis.parameters.resend_interval:
            self._say()
        if due <= made:
            return chassis.now - began
        # The batch was perhaps made before that, and then kept back: this part was the leader's.
        return max(0, proposed - began) if due <= proposed else 0

    def _has_room(self, consensus: VPConsensus) -> bool:
        return has_room(self._chassis, consensus)

    def _still_waits(self, oldest: int) -> bool:
        return waits_among(self._chassis, oldest, self._waiting)

    def _note(self, *, reminded: bool) -> None:
        self._since, self._reminded = self._chassis.now, reminded
        self._waiting = self._chassis.pool.overdue(self._since + 1, MAX_REMINDER_BYTES)

    def _say(self) -> None:
        chassis, ordering = self._chassis, self._ordering
        self._said = chassis.now
        chassis.send(ordering.leader, Forward(chassis.view.number, ordering.regency, self._waiting))
