"""Reading less from who sends what is a waste: requests that were here before or are refused, messages of no use.

A flood of them costs a replica the reading and checking alone, and yet takes its loop away from everybody else. A
client's connection therefore has a budget of wasted requests, and a peer one of the loop's time that was wasted on its
messages; when it is used up, the connection rests, and its bytes wait in the sender's socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from smartbft._fastpath.frames import FrameReader
from smartbft._fastpath.pool import RequestPool
from smartbft.limits import (
    USELESS_SECONDS_AT_ONCE,
    USELESS_SHARE,
    WASTED_REQUESTS_AT_ONCE,
    WASTED_REQUESTS_PER_SECOND,
)
from smartbft.token_bucket import TokenBucket


def peer_budget(f: int) -> TokenBucket:
    """Of the loop's seconds that one peer may waste, where `f` may be faulty."""
    return TokenBucket(USELESS_SECONDS_AT_ONCE, USELESS_SHARE / max(1, f))


class ClientReader:
    """The frames of a client.

    Args:
        frames: reads them.
        pool: gets their requests.
        rest: called with the seconds to rest when too many requests were wasted.
        clock: seconds; steady, unlike the time that `feed` is told.
    """

    def __init__(
        self,
        frames: FrameReader,
        pool: RequestPool,
        rest: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._frames = frames
        self._pool = pool
        self._rest = rest
        self._clock = clock
        self._budget = TokenBucket(WASTED_REQUESTS_AT_ONCE, WASTED_REQUESTS_PER_SECOND)

    def feed(self, data: bytes | memoryview, now: int) -> list[tuple[int, bytes]]:
        """As in `FrameReader`."""
        before = self._pool.stats()
        frames = self._frames.feed(data, now)
        after = self._pool.stats()
        wasted = after["duplicates"] - before["duplicates"] + after["refused"] - before["refused"]
        if wasted and (seconds := self._budget.charge(wasted, self._clock())):
            self._rest(seconds)
        return frames

    def buffered(self) -> int:
        """As in `FrameReader`."""
        return self._frames.buffered()
