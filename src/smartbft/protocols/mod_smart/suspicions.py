"""Who asks for which regency, and who is in which: what a replica has heard from the others about the leader."""

from __future__ import annotations

from smartbft.core.chassis import Chassis
from smartbft.limits import STOP_LIFETIME_RESENDS


class Suspicions:
    """Counts distinct members; the newest word of each counts.

    A STOP for a regency is one for all regencies before it too, so that replicas whose timers ran differently find
    together. It counts as long as its sender repeats it.
    """

    __slots__ = ("_asked", "_chassis", "_reached")

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis
        self._asked: dict[int, tuple[int, int]] = {}  # member -> regency asked for, when it was heard
        self._reached: dict[int, int] = {}  # member -> the highest regency it has shown to be in

    def add(self, member: int, target: int) -> None:
        """A STOP for `target`."""
        self._asked[member] = (target, self._chassis.now)

    def forget(self, member: int) -> None:
        """The member withdraws its STOP."""
        self._asked.pop(member, None)

    def in_regency(self, member: int, regency: int) -> bool:
        """The member is in `regency`; True if that is news."""
        if regency <= self._reached.get(member, 0):
            return False
        self._reached[member] = regency
        return True

    def asking(self, target: int) -> list[int]:
        """Who asks for `target` or a later regency now; what was heard before the clock was set back is long ago."""
        now, lifetime = self._chassis.now, STOP_LIFETIME_RESENDS * self._chassis.parameters.resend_interval
        asking = self._asked.items()
        return [member for member, (asked, heard) in asking if asked >= target and abs(now - heard) <= lifetime]

    def others_asking(self, target: int) -> int:
        """How many other members ask for `target` or a later regency now."""
        return sum(1 for member in self.asking(target) if member != self._chassis.id)

    def asked_by(self, count: int) -> int:
        """The highest regency that `count` members ask for; 0 if none."""
        return _nth_highest([self._asked[member][0] for member in self.asking(1)], count)

    def reached_by(self, count: int) -> int:
        """The highest regency that `count` members are in or beyond; 0 if none."""
        return _nth_highest(list(self._reached.values()), count)


def _nth_highest(regencies: list[int], count: int) -> int:
    return sorted(regencies, reverse=True)[count - 1] if len(regencies) >= count else 0
