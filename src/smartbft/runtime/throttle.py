"""Reading less from a client whose requests are a waste: those that were here before, and those that are refused.

A flood of them costs a replica the reading and hashing alone, and yet takes its loop away from everybody else. A
connection therefore has a budget of wasted requests; when it is used up, the connection rests, and its bytes wait in
the sender's socket.
"""

from __future__ import annotations

from collections.abc import Callable

from smartbft._fastpath.frames import FrameReader
from smartbft._fastpath.pool import RequestPool
from smartbft.limits import WASTED_REQUESTS_AT_ONCE, WASTED_REQUESTS_PER_SECOND


class WasteBudget:
    """A bucket of `WASTED_REQUESTS_AT_ONCE` tokens, filled at `WASTED_REQUESTS_PER_SECOND`. Times in microseconds."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = float(WASTED_REQUESTS_AT_ONCE)
        self._at = 0

    def spend(self, wasted: int, now: int) -> float:
        """So many requests more were wasted; returns the seconds to rest."""
        filled = self._left + max(0, now - self._at) * WASTED_REQUESTS_PER_SECOND / 1_000_000
        self._left, self._at = min(filled, WASTED_REQUESTS_AT_ONCE) - wasted, now
        return max(0.0, -self._left / WASTED_REQUESTS_PER_SECOND)


class ClientReader:
    """The frames of a client, whose requests go to `pool`; `rest` is called with seconds when too many were wasted."""

    def __init__(self, frames: FrameReader, pool: RequestPool, rest: Callable[[float], None]) -> None:
        self._frames = frames
        self._pool = pool
        self._rest = rest
        self._budget = WasteBudget()

    def feed(self, data: bytes | memoryview, now: int) -> list[tuple[int, bytes]]:
        """As in `FrameReader`."""
        before = self._pool.stats()
        frames = self._frames.feed(data, now)
        after = self._pool.stats()
        wasted = after["duplicates"] - before["duplicates"] + after["refused"] - before["refused"]
        if wasted and (seconds := self._budget.spend(wasted, now)):
            self._rest(seconds)
        return frames

    def buffered(self) -> int:
        """As in `FrameReader`."""
        return self._frames.buffered()
