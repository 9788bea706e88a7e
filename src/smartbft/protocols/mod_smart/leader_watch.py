"""Watching how long the leader takes for each proposal (`smartbft.core.proposal_delays` judges it), and what it leaves
out of them (`smartbft.protocols.mod_smart.passed_over`, and `left_out` for what the average request waits).

The hard part is a client that tells only some replicas: they wait for a proposal that a correct leader cannot make. So
nobody is late who was not asked: after half of the time that is allowed, a replica sends the leader what it could
propose (the oldest request alone, where much is not verified yet); only if as much time again brings no proposal, it is
late. A correct leader answers within a trip, whatever clients do, and a client that tells few replicas costs the others
a message per instance.

A proposal has come when the leader's part is done here: the value, the bodies that it names, a timestamp that is not
ahead of our clock. Verification of what is here, votes, execution and the disk are not the leader's part. A leader that
proposes to `f + 1` correct replicas in time, so that too few suspect it, and to the others late gains nothing: what
`f + 1` write, one of them correct, the others ask them for.

Everything hangs on a timer that fires although nothing came. A replica that stood still finds the proposal among what
waits to be read, so its own pauses speak against nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.chassis import Chassis
from smartbft.core.inputs import Timer
from smartbft.core.proposal_delays import ProposalDelays
from smartbft.limits import MAX_REQUEST_BYTES
from smartbft.messages import Forward
from smartbft.protocols.mod_smart.left_out import LeftOut
from smartbft.protocols.mod_smart.passed_over import PassedOver
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import Value

if TYPE_CHECKING:
    from smartbft.protocols.mod_smart.ordering import ModSmart

_NEVER = -1


class LeaderWatch:
    """Watches the leader of one replica's running instance."""

    __slots__ = (
        "_armed",
        "_asked",
        "_chassis",
        "_due",
        "_left_out",
        "_ordering",
        "_passed_over",
        "_since",
        "_waited",
        "delays",
    )

    def __init__(self, chassis: Chassis, ordering: ModSmart) -> None:
        self.delays = ProposalDelays(chassis.parameters)
        self._chassis = chassis
        self._ordering = ordering
        self._passed_over = PassedOver(chassis, ordering)
        self._left_out = LeftOut(chassis, ordering)
        self._armed = False  # one timer serves many instances: it looks how long the present one has waited
        self._since = _NEVER  # since when the leader has had something to propose, as far as we know
        self._due = 0  # the next look at this instance
        self._asked = False
        self._waited = 0

    def look(self) -> None:
        """Something changed: the leader may have something to propose now."""
        if self._since != _NEVER or not self._watches():
            return
        chassis = self._chassis
        if chassis.pool.ready() or self._ordering.current.proposal is not None:
            half = self._half()
            self._since, self._due = chassis.now, chassis.now + half
            self._asked, self._waited = False, 0
            if not self._armed:
                self._arm(half)

    def decided(self, consensus: VPConsensus) -> None:
        """The instance is over. One whose proposal did not come here was decided by others: we were not in time."""
        since, self._since = self._since, _NEVER
        if since != _NEVER and consensus.proposal is not None:
            duration = self._chassis.now - since
            passed_over = self._passed_over.decided(consensus, since, self._half())
            self.delays.decided(self._waited, duration, passed_over)
            left = self._left_out.decided(consensus, since, self._half())
            allowed = self.delays.allowed(self._chassis.now)
            ordered = Value.decode(consensus.proposal).count
            wait = self._wait(consensus.proposed_at - since, allowed)
            self.delays.requests.decided(wait, duration, ordered, left, allowed)

    def _wait(self, wait: int, allowed: int) -> int:
        """How long the proposal took. We may have stood still ourselves: what is not late did not take that long."""
        return max(0, self._waited or min(wait, allowed - allowed // 8))

    def forget(self) -> None:
        """The instance was settled elsewhere, and says nothing about the leader."""
        self._since = _NEVER
        self._passed_over.forget()
        self._left_out.forget()

    def leave(self, failed: bool) -> None:
        """The leader is replaced; `failed`: the regency did not end for a reason that has nothing to do with it."""
        self._since = _NEVER
        self._passed_over.forget()
        self._left_out.forget()
        self.delays.leader_replaced(self._chassis.now, failed)

    def on_timer(self) -> None:
        """Time went by, and the proposal may still be missing."""
        self._armed = False
        if self._since == _NEVER:
            return
        if not self._watches():
            self._since = _NEVER  # if it is we who are not ready, the leader has time again once we are
            return
        chassis, half = self._chassis, self._half()
        left = min(self._due - chassis.now, half)  # a clock that was set back does not put it off for long
        if left <= 0:
            if not self._waits():
                return
            self._next_stage(half)
            left = half
        self._arm(left)

    def _next_stage(self, half: int) -> None:
        chassis = self._chassis
        self._since, self._due = min(self._since, chassis.now), chassis.now + half
        if self._asked:
            self._waited = chassis.now - self._since
            self._ordering.current.ask_for_proposal()  # again: what was asked may be lost, or had no answer
        else:
            self._asked = True
            self._ask()

    def _ask(self) -> None:
        chassis, ordering = self._chassis, self._ordering
        current = ordering.current
        if current.proposal is None:
            oldest = chassis.pool.oldest_pending()
            if self._left_out.caught_up():
                self._left_out.tell()
            elif data := chassis.pool.overdue(oldest + 1, 4 + MAX_REQUEST_BYTES):
                chassis.send(ordering.leader, Forward(chassis.view.number, ordering.regency, data))
            current.ask_for_proposal()

    def _waits(self) -> bool:
        """Whether the leader has still not done its part."""
        current = self._ordering.current
        waits = current.waits_for_leader()
        if current is not self._ordering.current:
            return False  # looking at it has decided it
        if current.proposal is None and not self._chassis.could_propose():
            self._since = _NEVER
            return False
        return waits

    def _watches(self) -> bool:
        """Whether there is a leader to be watched: not ourselves, and we could follow it."""
        chassis, guard = self._chassis, self._chassis.guard
        return (
            self._ordering.leader != chassis.id
            and self.delays.active
            and guard.synchronized
            and not guard.suspended
            and chassis.may_propose()
        )

    def _half(self) -> int:
        return max(1, self.delays.allowed(self._chassis.now) // 2)

    def _arm(self, delay: int) -> None:
        self._armed = True
        self._chassis.set_timer(Timer.PROPOSAL, delay)
