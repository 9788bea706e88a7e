"""Who was thrown out lately, and how long they have to wait: pure bookkeeping, told the time from outside."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Who = TypeVar("Who", bound=Hashable)


class Penalties(Generic[Who]):
    """Pauses that double with each offence, up to a maximum, and are forgotten after good behaviour for as long.

    Args:
        initial: seconds that the first offence costs.
        maximum: seconds that an offence costs at most.
        capacity: offenders remembered at most; the one whose offence is the longest ago goes first.
    """

    __slots__ = ("_capacity", "_initial", "_known", "_maximum")

    def __init__(self, initial: float, maximum: float, capacity: int) -> None:
        self._initial = initial
        self._maximum = maximum
        self._capacity = capacity
        self._known: dict[Who, tuple[float, float]] = {}  # until when, and how long the pause is

    def offence(self, who: Who, now: float) -> None:
        """`who` has broken the protocol; `now` is in seconds on any steady clock."""
        until, pause = self._known.pop(who, (0.0, 0.0))
        recently = bool(pause) and now - until < self._maximum
        pause = min(2 * pause, self._maximum) if recently else self._initial
        self._known[who] = (now + pause, pause)
        if len(self._known) > self._capacity:
            del self._known[next(iter(self._known))]

    def remaining(self, who: Who, now: float) -> float:
        """Seconds that `who` still has to wait; 0: it is welcome."""
        until, _ = self._known.get(who, (0.0, 0.0))
        return max(0.0, until - now)

    def __len__(self) -> int:
        return len(self._known)
