"""Who broke the protocol lately, and what that costs them: pure bookkeeping, told the time from outside."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from smartbft.token_bucket import TokenBucket

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


class Probation:
    """Addresses whose connections broke the protocol lately: they are let in more slowly, and never kept out.

    Others may share an address, and nobody can tell a newcomer who is honest from one who offended a moment ago. So
    newcomers of such an address get in at a bounded rate, and in the order in which they came.

    Args:
        seconds: how long after its last offence an address is on probation.
        per_second: newcomers of an address that may come in per second.
        capacity: addresses remembered at most; the one whose offence is the longest ago goes first.
    """

    __slots__ = ("_capacity", "_known", "_per_second", "_seconds")

    def __init__(self, seconds: float, per_second: float, capacity: int) -> None:
        self._seconds = seconds
        self._per_second = per_second
        self._capacity = capacity
        self._known: dict[str, tuple[float, TokenBucket]] = {}  # until when, and how fast

    def offence(self, address: str, pause: float, now: float) -> None:
        """A connection of `address` broke the protocol.

        Args:
            pause: seconds in which nobody of the address comes in; they do not add up.
            now: seconds on any steady clock.
        """
        _, bucket = self._known.pop(address, (0.0, None))
        bucket = bucket or TokenBucket(1, self._per_second)
        bucket.charge(max(0.0, pause - bucket.wait(now)) * self._per_second, now)
        self._known[address] = (now + self._seconds, bucket)
        if len(self._known) > self._capacity:
            del self._known[next(iter(self._known))]

    def includes(self, address: str, now: float) -> bool:
        """Whether an address is on probation."""
        until, _ = self._known.get(address, (now, None))
        return until > now

    def wait(self, address: str, now: float) -> float:
        """Seconds until somebody of the address may come in; 0: now."""
        until, bucket = self._known.get(address, (now, None))
        return bucket.wait(now) if bucket is not None and until > now else 0.0

    def enter(self, address: str, now: float) -> None:
        """Somebody of the address comes in."""
        if address in self._known:
            self._known[address][1].take(now)

    def __len__(self) -> int:
        return len(self._known)
