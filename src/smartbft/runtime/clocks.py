"""What time it is on the replicas, for a client whose own clock may be wrong, and which of them may lie."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

# Time goes on while a laptop sleeps, and no other clock of ours says by how much.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_clock() -> int:
    """Microseconds of a clock that nobody sets."""
    return time.clock_gettime_ns(_STEADY_CLOCK) // 1000


def wall_clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class _Reading:
    """One replica's word.

    Attributes:
        clock: of the replica, which goes on.
        agreed_time: the last one decided there, which stands still while nothing is ordered.
        at: when, by our steady clock.
    """

    clock: int
    agreed_time: int
    at: int

    def now(self, steady: int) -> int:
        """What the replica judges sessions by: the later of the two."""
        return max(self.clock + steady - self.at, self.agreed_time)


class ReplicaClocks:
    """Readings of the replicas' clocks, one of each. All times are microseconds.

    A time is taken only from readings of ``2f + 1`` replicas: the middle one of so many lies between those of two
    correct replicas, so that `f` liars can move nothing.

    Args:
        f: how many replicas may lie.
        wall: this machine's clock.
        steady: a clock of this machine that nobody sets.
    """

    def __init__(
        self, f: int, *, wall: Callable[[], int] = wall_clock, steady: Callable[[], int] = steady_clock
    ) -> None:
        self._f = f
        self._wall = wall
        self._steady = steady
        self._readings: dict[int, _Reading] = {}
        self._reached = 0

    def told(self, replica: int, clock: int, agreed_time: int) -> None:
        """A replica says what its clock shows, and the last agreed time there; 0: it does not say."""
        if clock or agreed_time:
            self._readings[replica] = _Reading(clock, agreed_time, self._steady())

    def judged(self, replica: int, time: int) -> None:
        """A replica refused a session because it is `time` there, by its clock or by the last agreed time."""
        steady = self._steady()
        before = self._readings.get(replica)
        if before is None:
            self._readings[replica] = _Reading(time, 0, steady)
        elif time > before.clock + steady - before.at:
            before.agreed_time = time  # which stands still; should the clock itself have been set, it says so next time
        else:
            self._readings[replica] = _Reading(time, min(before.agreed_time, time), steady)

    def reached(self, agreed_time: int) -> None:
        """``f + 1`` replicas say that the agreed time had come so far."""
        self._reached = max(self._reached, agreed_time)

    def own(self) -> int:
        """What this machine's clock shows."""
        return self._wall()

    def now(self) -> int | None:
        """What time it is on the replicas; None: too few have said."""
        if len(self._readings) <= 2 * self._f:
            return None
        steady = self._steady()
        times = sorted(reading.now(steady) for reading in self._readings.values())
        return max(times[(len(times) - 1) // 2], self._reached)

    def contradicts(self, earliest: int, latest: int) -> bool:
        """Whether any replica says that it is earlier, or later; `earliest` and `latest` around our own time."""
        steady = self._steady()
        return any(not earliest <= reading.now(steady) <= latest for reading in self._readings.values())


class SessionNumbers:
    """Chooses the numbers of a client's sessions, and says when one should give way to the next.

    A session's number is the time at which it begins. Replicas take one that is at most `lease` before their own time,
    and at most `skew` after it; an open one ends when nothing of it was ordered for `lease`. Numbers come from this
    machine's clock while that agrees well enough with the replicas', and else from theirs. All times are microseconds.
    """

    _used: ClassVar[set[int]] = set()  # by this process: two of its clients may share a key

    def __init__(self, clocks: ReplicaClocks, lease: int, skew: int) -> None:
        self._clocks = clocks
        self._lease = lease
        self._skew = skew

    def choose(self) -> int:
        """The number of a session that begins now."""
        own, now = self._clocks.own(), self._clocks.now()
        if now is None or now - self._lease // 2 <= own <= now + self._skew // 2:
            number = own
        else:
            # Two clients of one key may hear of one agreed time, which stands still: they need different numbers.
            number = now + secrets.randbelow(self._skew // 2 + 1)
        while number in self._used:
            number += 1
        self._used.add(number)
        return number

    def use(self, number: int) -> None:
        """No session that begins in this process gets this number."""
        self._used.add(number)

    def fits(self, number: int, used_at: int) -> bool:
        """Whether the replicas take a request of a session of which nothing is in flight.

        Args:
            number: of the session.
            used_at: the agreed time of its last result; 0: there was none.
        """
        now = self._clocks.now() or self._clocks.own()
        if max(number, used_at) < now - self._lease // 2:
            return False
        return used_at > 0 or number <= now + self._skew

    def in_doubt(self) -> bool:
        """Whether a replica contradicts this machine's clock, and too few have said what time it is."""
        own = self._clocks.own()
        return self._clocks.now() is None and self._clocks.contradicts(own - self._skew // 2, own + self._lease // 2)
