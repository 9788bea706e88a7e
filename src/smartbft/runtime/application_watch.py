"""Watches the calls of an application: names the slow ones, and those that do not return, in the log."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from smartbft.limits import APPLICATION_WARNING_FACTOR

logger = logging.getLogger(__name__)

# Calls are looked at so often while they run, as parts of what they may take, and not more often than this.
_LOOKS = 2
_SHORTEST_LOOK_SECONDS = 0.02


@dataclass(slots=True)
class _Call:
    began: float
    what: Callable[[], str]
    thread: int
    told: bool = False


class ApplicationWatch:
    """The calls of one application, one at a time.

    A call that took longer than it may is warned about once, and again only when one takes much longer still: a slow
    application must not fill the log. One that has not returned after twice as long is warned about while it runs, with
    the line of code where it is: on the event loop nothing else could say why the replica stands still.

    Args:
        seconds: how long a call may take: half of the request timeout. `math.inf`: nothing is watched.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._seconds = seconds
        self._slowest = 0.0
        self._call: _Call | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def began(self, what: Callable[[], str]) -> None:
        """A call begins; `what` names it, if it turns out to be slow."""
        if self._seconds == math.inf:
            return
        self._call = _Call(time.perf_counter(), what, threading.get_ident())
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
            self._thread.start()

    def ended(self) -> None:
        """It has returned, or raised."""
        call, self._call = self._call, None
        if call is None:
            return
        took = time.perf_counter() - call.began
        if took <= self._seconds:
            return
        if call.told:
            logger.info("the application returned after %.3g s from %s", took, call.what())
        else:
            self._warn(took, call)

    def took(self, seconds: float, what: Callable[[], str]) -> None:
        """Something took so long that consists of several calls."""
        if seconds > self._seconds:
            self._warn(seconds, _Call(0.0, what, 0))

    def close(self) -> None:
        """Watch nothing any more."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _warn(self, took: float, call: _Call) -> None:
        if took < APPLICATION_WARNING_FACTOR * self._slowest:
            return
        self._slowest = took
        logger.warning(
            "the application is slow: %s took %.3g s, more than half of the request timeout (%.3g s): nothing else is "
            "executed meanwhile, and a leader that stands still is replaced",
            call.what(),
            took,
            self._seconds,
        )

    def _look(self) -> None:
        while not self._over.wait(max(_SHORTEST_LOOK_SECONDS, self._seconds / _LOOKS)):
            call = self._call
            if call is None or call.told:
                continue
            so_far = time.perf_counter() - call.began
            if so_far <= 2 * self._seconds or so_far < APPLICATION_WARNING_FACTOR * self._slowest:
                continue
            call.told = True
            self._slowest = so_far
            frame = sys._current_frames().get(call.thread)
            where = "".join(traceback.format_stack(frame)[-1:]).strip() if frame is not None else "unknown"
            logger.warning(
                "the application has been busy for %.3g s with %s, and has not returned; it is here: %s",
                so_far,
                call.what(),
                where,
            )
