"""What a replica writes to its standard streams, on a thread of its own: a reader that stops must not stop the replica.

A write to a pipe that nobody reads waits for ever, and with it whoever writes. So lines wait here, up to a limit; what
comes beyond it is dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO, cast

from smartbft.limits import STREAM_DRAIN_SECONDS, STREAM_QUEUE_BYTES

logger = logging.getLogger(__name__)


class Outlet:
    """Writes to a descriptor on a thread of its own.

    Args:
        descriptor: where to.
        name: for messages.
        limit: bytes that wait at most.

    Attributes:
        dropped: how many pieces were dropped since that was last told.
    """

    def __init__(self, descriptor: int, name: str, limit: int = STREAM_QUEUE_BYTES) -> None:
        self._descriptor = descriptor
        self._name = name
        self._limit = limit
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of those that wait, and of the one that is being written
        self.dropped = 0
        self._failing = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"smartbft-{name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue a piece, or drop it where there is no room; never waits."""
        if not data:
            return
        with self._changed:
            if self._bytes + len(data) > self._limit:
                self.dropped += 1
                return
            self._bytes += len(data)
            self._waiting.append(data)
            self._changed.notify_all()

    def end(self) -> None:
        """Write nothing more, whatever waits."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written, for so long at most; whether it is."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._bytes:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                data = self._waiting.popleft()
            problem = self._write(data)
            if problem and not self._failing:
                logger.warning("%s takes nothing: %s", self._name, problem)
            self._failing = bool(problem)
            with self._changed:
                self._bytes -= len(data)
                if problem:
                    self.dropped += 1
                dropped = 0 if problem else self.dropped
                self.dropped -= dropped
                self._changed.notify_all()
            if dropped:
                logger.warning("%d pieces of output to %s were dropped: nobody took them", dropped, self._name)

    def _write(self, data: bytes) -> str:
        """Write all of it, however long that takes; why it cannot be, or ""."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever shares the other end has made it so
                select.select((), (self._descriptor,), ())
            except OSError as error:
                return str(error)
        return ""


class _OutletStream:
    """A text stream that ends in an outlet; what else it is asked, the stream in whose place it stands answers."""

    def __init__(self, inner: TextIO, outlet: Outlet) -> None:
        self._inner = inner
        self._outlet = outlet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, text: str) -> int:
        """Queue it; never waits."""
        self._outlet.write(text.encode(self._inner.encoding or "utf-8", "backslashreplace"))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Queue them; never waits."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing: whoever wants to be sure drains the outlet."""

    @property
    def buffer(self) -> _OutletBuffer:
        """For bytes."""
        return _OutletBuffer(self._outlet)


class _OutletBuffer:
    """The same for bytes."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def write(self, data: bytes) -> int:
        """Queue it; never waits."""
        self._outlet.write(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing."""


_outlets: list[tuple[str, TextIO, Outlet]] = []


def detach_streams() -> None:
    """From now on, what this process writes to stdout and stderr goes through outlets."""
    for name in ("stdout", "stderr"):
        inner: TextIO = getattr(sys, name)
        with contextlib.suppress(OSError, ValueError):
            inner.flush()
        outlet = Outlet(inner.fileno(), name)
        _outlets.append((name, inner, outlet))
        setattr(sys, name, cast(TextIO, _OutletStream(inner, outlet)))


def settle_streams(null: Callable[[int], None]) -> None:
    """The process ends: wait a moment until everything is written. What nobody takes by then is given up.

    Args:
        null: leads a descriptor to the null device, so that whatever else is written there does not wait either.
    """
    while _outlets:
        name, inner, outlet = _outlets.pop()
        if not outlet.drain(STREAM_DRAIN_SECONDS):
            null(inner.fileno())
        outlet.end()
        setattr(sys, name, inner)
