"""A call on a thread of its own that can be given up: for work on bytes that nobody vouches for."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any


class GivenUp(BaseException):
    """Raised inside a call that nobody waits for any more, at its next line of Python."""


class Aside:
    """One call, which begins with `start`.

    Args:
        call: what to do; what it raises is its error.
        over: called on its thread when it has returned or raised.

    Attributes:
        answer: what it returned; None: it has not.
        error: what it raised; None: it has not.
        given_up: whether nobody waits for it any more.
    """

    def __init__(self, call: Callable[[], Any], over: Callable[[], None]) -> None:
        self.answer: Any = None
        self.error: BaseException | None = None
        self.given_up = False
        self._call = call
        self._over = over
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="rehearse", daemon=True)

    def start(self) -> None:
        """Begin, unless it was given up already."""
        with self._lock:
            if not self.given_up:
                self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it may still touch anything."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for its end, but no longer."""
        self._thread.join(seconds)

    def give_up(self) -> None:
        """Have it end, if Python gets to see it; may be said again. A call that waits outside Python goes on."""
        with self._lock:
            self.given_up = True
            thread = self._thread.ident
            if thread is not None and self._thread.is_alive():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(GivenUp))

    def _run(self) -> None:
        try:
            try:
                self.answer = self._call()
            except BaseException as error:
                self.error = error
            self._over()
        except GivenUp:  # it came when the work was over: whoever gave up looks whether the thread is alive
            return
