"""Mod-SMaRt's Algorithm 3, lines 4-18: STOP asks for the next regency, and enough of them install it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.chassis import Chassis
from smartbft.core.naming import name_members, name_some
from smartbft.core.regency_changes import RegencyChanges
from smartbft.messages import Stop
from smartbft.protocols.mod_smart.suspicions import Suspicions

if TYPE_CHECKING:
    from smartbft.protocols.mod_smart.ordering import ModSmart
    from smartbft.protocols.mod_smart.synchronization import Synchronization


class Stopping:
    """What one replica and the others have against the leader.

    Attributes:
        asked: the highest regency this replica has sent STOP for (`nreg` in the paper).
        changes: what is remembered of the changes, for operators.

    Args:
        chassis: of the replica.
        ordering: knows whether the leader is slow.
        phase: installs regencies.
    """

    def __init__(self, chassis: Chassis, ordering: ModSmart, phase: Synchronization) -> None:
        self.asked = 0
        self.changes = RegencyChanges()
        self._chassis = chassis
        self._ordering = ordering
        self._phase = phase
        self._suspicions = Suspicions(chassis)
        self._overdue = b""  # the requests that our STOP passes on

    @property
    def asks(self) -> bool:
        """Whether this replica asks for another regency than the installed one."""
        return self.asked > self._phase.regency

    def because(self, why: str) -> None:
        """Why the regency is about to change, in words; the first reason counts."""
        regency = self._phase.regency
        self.changes.begin(self._chassis.now, regency, self._chassis.view.leader(regency), why)

    def suspect(self, why: str, data: bytes) -> None:
        """Lines 4-10: forwarded requests (`data`) were not ordered in time, or the leader is too slow: ask for the next
        regency.

        A leader whose regency has not begun is given the time that the regency's own timer allows.
        """
        guard = self._chassis.guard
        if self._chassis.view.n > 1 and guard.synchronized and not guard.suspended:
            self.stop(self._phase.regency + 1, data, why)

    def stop(self, target: int, data: bytes, why: str) -> None:
        """Ask for regency `target` (lines 7-10), unless that has been done."""
        if target <= self.asked:
            return
        self.because(why)
        self._ask(target, data)
        self.count()

    def on_stop(self, sender: int, message: Stop) -> None:
        """Lines 11-18: adopt the requests, and join when a correct replica asks (more than `f`)."""
        if message.data:
            self._chassis.adopt(sender, message.data)
        self._suspicions.add(sender, message.target)
        if self._gives_up(sender, message.target):
            self.stop(message.target, self._chassis.overdue(), f"replica {sender} gives up the regency that it leads")
        self.count()

    def _gives_up(self, sender: int, target: int) -> bool:
        """Whether the leader of the installed regency asks for the next one itself, and nobody else can begin this one.

        It has, for example, made a SYNC that a key change voids, and must not make a second one.
        """
        guard, regency = self._chassis.guard, self._phase.regency
        is_leader = sender == self._chassis.view.leader(regency)
        return is_leader and target == regency + 1 and guard.awaits_sync and not guard.suspended

    def count(self) -> None:
        """Lines 15-19: join those who ask, and install what more than `2f` ask for."""
        view = self._chassis.view
        if self._chassis.guard.suspended:
            return
        joinable = self._suspicions.asked_by(view.f + 1)
        if joinable > max(self.asked, self._phase.regency):
            self.because(f"{name_members(self._suspicions.asking(joinable))} asked for regency {joinable}")
            self._ask(joinable, self._chassis.overdue())
        installable = self._suspicions.asked_by(2 * view.f + 1)
        if installable > self._phase.regency:
            self._phase.install(installable)

    def _ask(self, target: int, data: bytes) -> None:
        chassis = self._chassis
        self.asked, self._overdue = target, data
        self._suspicions.add(chassis.id, target)
        chassis.broadcast(Stop(chassis.view.number, self._phase.regency, target, data))

    def _withdraw(self) -> None:
        """A STOP that nobody needs any more is not repeated: what was overdue is ordered, the leader is quick, and
        others do not ask.
        """
        chassis = self._chassis
        suspects = chassis.suspects() or self._ordering.too_slow()
        if self._suspicions.others_asking(self.asked) <= chassis.view.f and not suspects:
            self.asked = self._phase.regency
            self.changes.withdraw()
            self._suspicions.forget(chassis.id)

    # Those who are further

    def heard(self, sender: int, regency: int) -> None:
        """`sender` is in a regency that is not installed here."""
        if self._suspicions.in_regency(sender, regency):
            self.follow()

    def follow(self) -> None:
        """Install what `f + 1` replicas are in or beyond: one of them is correct."""
        followed = self._suspicions.reached_by(self._chassis.view.f + 1)
        if followed > self._phase.regency:
            self.because(f"{self._chassis.view.f + 1} replicas are in regency {followed} or beyond")
            self._phase.install(followed)

    # What becomes of it

    def installed(self, regency: int) -> None:
        """A STOP for `regency`, or one before it, has its end."""
        self.asked = max(self.asked, regency)

    def began(self) -> None:
        """Line 39: the installed regency has begun, so nobody here asks for another one."""
        chassis, regency = self._chassis, self._phase.regency
        self.asked = regency
        self.changes.end(chassis.now, regency, chassis.view.leader(regency))
        self._suspicions.forget(chassis.id)

    def resend(self, to: int | None) -> None:
        """STOP as long as it is meant, to one peer or (None) to all."""
        chassis = self._chassis
        if self.asks and chassis.guard.synchronized:
            self._withdraw()
        if self.asks:
            self._suspicions.add(chassis.id, self.asked)
            chassis.tell(to, Stop(chassis.view.number, self._phase.regency, self.asked, self._overdue))

    def waiting_for(self) -> str:
        """Whose STOP is missing, in words; empty: this replica asks for nothing."""
        if not self.asks:
            return ""
        view, asking = self._chassis.view, self._suspicions.asking(self.asked)
        missing = 2 * view.f + 1 - len(asking)
        return f"STOP for regency {self.asked} from {name_some(missing, view.ids, asking)}"
