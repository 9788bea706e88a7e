"""The connections of a load: one set of links, one to each replica, and the traffic that flows over them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from smartbft._fastpath.frames import ReplyMatcher
from smartbft.crypto.certificates import fingerprint_of
from smartbft.errors import HandshakeError, RemoteProtocolError
from smartbft.limits import DIGEST_BYTES
from smartbft.net.handshake import ClientDialer


@dataclass(frozen=True)
class Traffic:
    """Signed requests in the order of sending, as frames.

    Attributes:
        frames: complete REQUEST frames, one after the other.
        bounds: `count + 1` offsets of the frames.
        digests: the digest of each request, 32 bytes each.
        keys: how many client keys signed them.
    """

    frames: bytes
    bounds: Sequence[int]
    digests: bytes
    keys: int

    @property
    def count(self) -> int:
        """How many requests there are."""
        return len(self.digests) // DIGEST_BYTES


# Shorter ones are the rhythm of batches.
_SHORTEST_PAUSE_MICROSECONDS = 5_000
# A paced load that was held up does not make up for more than this.
_LONGEST_CREDIT_SECONDS = 0.05
# A lane at a standstill sends what is outstanding again at every n-th call only.
_MOST_PATIENCE = 4


class Owner(Protocol):
    """Whoever runs the lanes.

    Attributes:
        n: replicas.
        needed: how many equal replies complete a request.
    """

    n: int
    needed: int

    def moved(self, now: int) -> None:
        """Requests were completed; `now` in microseconds of the monotonic clock."""

    def lost(self, lane: Lane, replica: int, error: Exception | None) -> None:
        """A lane's connection to a replica is gone."""

    def dry(self) -> None:
        """A lane has sent all its traffic."""

    def grant(self, lane: Lane, wanted: int) -> int:
        """How many requests the lane may send now; if fewer than `wanted`, its `refill` is called again soon."""


class Pace:
    """At most so many requests a second, evenly; fewer once little traffic is left, so that it is never used up.

    Args:
        per_second: requests a second.
        reserve_seconds: when what is left would last no longer than this, the pace falls with what is left.

    Times are seconds of the monotonic clock.
    """

    def __init__(self, per_second: float, reserve_seconds: float) -> None:
        self._per_second = per_second
        self._reserve_seconds = reserve_seconds
        self._credit = 0.0
        self._seen = 0.0

    def begin(self, now: float) -> None:
        """Nothing was saved up before `now`."""
        self._credit, self._seen = 0.0, now

    def earn(self, now: float, left: int) -> None:
        """Time has passed, and `left` requests are not sent yet; what nobody takes is soon forfeited."""
        rate = min(self._per_second, left / self._reserve_seconds)
        self._credit = min(self._credit + rate * (now - self._seen), max(1.0, rate * _LONGEST_CREDIT_SECONDS))
        self._seen = now

    def take(self, wanted: int) -> int:
        """How many of `wanted` requests may be sent."""
        granted = min(wanted, int(self._credit))
        self._credit -= granted
        return granted


class Pauses:
    """When nothing was acknowledged for a while.

    Times are seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self._last = 0
        self._pauses: list[tuple[int, int]] = []

    def moved(self, now: int) -> None:
        """Something was acknowledged; `now` in microseconds."""
        if self._last and now - self._last >= _SHORTEST_PAUSE_MICROSECONDS:
            self._pauses.append((self._last, now))
        self._last = now

    def longest(self, first: float, last: float) -> float:
        """The longest pause that began or ended between `first` and `last`, or lay around them; what lasts until
        `last` counts up to there.
        """
        pauses = [*self._pauses, (self._last, int(last * 1e6))]
        return max((end - begin for begin, end in pauses if end > first * 1e6 and begin < last * 1e6), default=0) / 1e6


class Link(asyncio.BufferedProtocol):
    """One connection to one replica: handshake, then raw replies to the lane's matcher."""

    def __init__(
        self, lane: Lane, replica: int, dialer: ClientDialer, buffer: memoryview, pinned: bytes | None
    ) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._lane = lane
        self._replica = replica
        self._dialer = dialer
        self._buffer = buffer
        self._pinned = pinned
        self._shaken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No flow control: a replica that lags must not stop the others, and what waits for it is a view of the traffic.
        self.transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if self._pinned is not None and fingerprint_of(tls.getpeercert(binary_form=True)) != self._pinned:
            self._fail(HandshakeError(f"replica {self._replica} shows a certificate that the genesis does not name"))
            return
        self.transport.write(self._dialer.start())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer[:nbytes]
        try:
            if not self._shaken:
                data = self._shake_hands(data)
            if data:
                self._lane.received(self._replica, data)
        except RemoteProtocolError as error:
            self._fail(error)

    def _shake_hands(self, data: memoryview) -> memoryview:
        """Continue the handshake; returns what follows it."""
        answer = self._dialer.receive(data)
        if answer and self.transport is not None:
            self.transport.write(answer)
        self._shaken = self._dialer.peer is not None
        if self._shaken and not self.ready.done():  # whoever waited may have been cancelled
            self.ready.set_result(None)
        return memoryview(self._dialer.remainder)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionResetError("closed by the replica during the handshake"))
        else:
            self._lane.lost(self, self._replica, exc)

    def _fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        if self.transport is not None:
            self.transport.abort()


class _Outstanding:
    """Which requests of a lane are not completed. Only looked up when a connection broke or something is late: what
    was acknowledged since the last look is then gone through, one by one.
    """

    def __init__(self, digests: memoryview) -> None:
        self._digests = digests
        self._numbers: dict[bytes, int] = {}
        self._listed = 0
        self._settled = 0

    def numbers(self, sent: int, acknowledged: bytes) -> list[int]:
        """The numbers of those among the first `sent` requests, in order; `acknowledged` only grows."""
        for number in range(self._listed, sent):
            self._numbers[bytes(self._digests[DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)])] = number
        self._listed = sent
        for start in range(self._settled, len(acknowledged), DIGEST_BYTES):
            del self._numbers[acknowledged[start : start + DIGEST_BYTES]]
        self._settled = len(acknowledged)
        return list(self._numbers.values())


class Lane:
    """One set of connections, one to each replica, and the traffic on it."""

    def __init__(self, owner: Owner, traffic: Traffic, window: int) -> None:
        self.links: list[Link] = []
        self.matcher = ReplyMatcher(owner.n, owner.needed)
        self.matcher.keep_replies(False)
        self.completed = 0
        self.sent = 0
        self._owner = owner
        self._traffic = traffic
        self._frames = memoryview(traffic.frames)
        self._digests = memoryview(traffic.digests)
        self._window = window
        self._scheduled = False
        self._sending = False
        self._late = _Outstanding(self._digests)
        self._mark = 0  # requests sent before the last look at what is late
        self._repeated_at = 0
        self._patience = 1
        self._skipped = 0

    @property
    def outstanding(self) -> int:
        """Requests sent and not completed."""
        return self.sent - self.completed

    def start(self) -> None:
        """Fill the window."""
        self._sending = True
        self.refill()

    def stop(self) -> None:
        """Send nothing new."""
        self._sending = False

    def refill(self) -> None:
        """Send as many new requests as the window, the traffic and the owner's pace allow."""
        self._scheduled = False
        first = self.sent
        count = min(self._window - self.outstanding, self._traffic.count - first)
        if first == self._traffic.count:
            self._owner.dry()
        if self._sending and count > 0:
            count = self._owner.grant(self, count)
            if count:
                self._send(first, first + count)

    def _send(self, first: int, last: int) -> None:
        self.sent = last
        bounds = self._traffic.bounds
        chunk = self._frames[bounds[first] : bounds[last]]
        self.matcher.expect(
            self._digests[DIGEST_BYTES * first : DIGEST_BYTES * last], first, time.monotonic_ns() // 1000
        )
        for link in self.links:
            if link.transport is not None:
                link.transport.write(chunk)

    def received(self, replica: int, data: memoryview) -> None:
        """Replies from one replica. The refill comes after all sockets of this iteration of the loop have been read."""
        now = time.monotonic_ns() // 1000
        done = self.matcher.feed(replica, data, now)
        if done:
            self.completed += done
            self._owner.moved(now)
            if not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self.refill)

    def lost(self, link: Link, replica: int, error: Exception | None) -> None:
        """The connection to a replica is gone: the owner knows whether that matters."""
        if link in self.links:
            self.links.remove(link)
            self._owner.lost(self, replica, error)

    def joined(self, replica: int, link: Link) -> None:
        """The connection to a replica was made anew: it gets whatever is outstanding."""
        self.matcher.reset(replica)
        self.links.append(link)
        self._write(self._numbers_outstanding(), [link])

    def repeat(self) -> None:
        """Send again, to every replica, what was outstanding at the last call and still is.

        While nothing at all completes, only every second, fourth, ... call does so.
        """
        if self.completed != self._repeated_at:
            self._repeated_at, self._patience, self._skipped = self.completed, 1, 0
        self._skipped += 1
        if self._skipped >= self._patience:
            self._skipped = 0
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
            self._write([number for number in self._numbers_outstanding() if number < self._mark], self.links)
        self._mark = self.sent

    def _numbers_outstanding(self) -> list[int]:
        return self._late.numbers(self.sent, self.matcher.acknowledged())

    def _write(self, numbers: Sequence[int], links: Sequence[Link]) -> None:
        bounds = self._traffic.bounds
        for first, last in _ranges(numbers):
            for link in links:
                if link.transport is not None:
                    link.transport.write(self._frames[bounds[first] : bounds[last]])


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs `first, last + 1` without gaps."""
    begin = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            yield numbers[begin], numbers[index - 1] + 1
            begin = index
