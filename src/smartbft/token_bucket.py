"""So many at once, and so many a second after that: pure bookkeeping, told the time from outside."""

from __future__ import annotations


class TokenBucket:
    """A bucket of `at_once` tokens, full at first, filled again at `per_second`.

    Times are in seconds on any steady clock. One that goes back fills nothing until it is where it was.
    """

    __slots__ = ("_at", "_at_once", "_left", "_per_second")

    def __init__(self, at_once: float, per_second: float) -> None:
        self._at_once = at_once
        self._per_second = per_second
        self._left = float(at_once)
        self._at = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0: there is one now."""
        self._fill(now)
        return max(0.0, (1 - self._left) / self._per_second)

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if self.wait(now):
            return False
        self._left -= 1
        return True

    def charge(self, tokens: float, now: float) -> float:
        """Take so many tokens for what has happened already, there or not; returns the seconds until none is owed.

        A negative number gives tokens back: no more than fit into the bucket.
        """
        self._fill(now)
        self._left = min(self._at_once, self._left - tokens)
        return max(0.0, -self._left / self._per_second)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._left = min(self._at_once, self._left + (now - self._at) * self._per_second)
            self._at = now
