"""Reading less from who sends what is a waste: requests that were here before or are refused, messages of no use.

A flood of them costs a replica the reading and checking alone, and yet takes its loop away from everybody else. A
client's connection therefore has a budget of wasted requests, and a peer one of the loop's time that was wasted on its
messages; when it is used up, the connection rests, and its bytes wait in the sender's socket.
"""

from __future__ import annotations

from collections.abc import Callable

from smartbft._fastpath.frames import FrameReader
from smartbft._fastpath.pool import RequestPool
from smartbft.limits import (
    USELESS_SECONDS_AT_ONCE,
    USELESS_SHARE,
    WASTED_REQUESTS_AT_ONCE,
    WASTED_REQUESTS_PER_SECOND,
)


class WasteBudget:
    """A bucket of tokens, by default of wasted requests.

    Args:
        at_once: tokens in a full bucket.
        per_second: as it fills.
    """

    __slots__ = ("_at", "_at_once", "_left", "_per_second")

    def __init__(self, at_once: float | None = None, per_second: float | None = None) -> None:
        self._at_once = WASTED_REQUESTS_AT_ONCE if at_once is None else at_once
        self._per_second = WASTED_REQUESTS_PER_SECOND if per_second is None else per_second
        self._left = float(self._at_once)
        self._at = 0

    def spend(self, wasted: float, now: int) -> float:
        """So many tokens more were wasted; `now` in microseconds; returns the seconds to rest."""
        filled = self._left + max(0, now - self._at) * self._per_second / 1_000_000
        self._left, self._at = min(filled, self._at_once) - wasted, now
        return max(0.0, -self._left / self._per_second)


def peer_budget(f: int) -> WasteBudget:
    """Of the loop's seconds that one peer may waste, where `f` may be faulty."""
    return WasteBudget(USELESS_SECONDS_AT_ONCE, USELESS_SHARE / max(1, f))


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
