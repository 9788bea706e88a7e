"""A replica whose application has failed: it stops, but not before its votes have left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from smartbft.limits import FAILURE_PAUSE_RESENDS, MAX_FAILURE_PAUSE_SECONDS


class Failing:
    """Nothing more is executed, and the replica stops a moment later. Stopped at once, it would leave those that are a
    moment behind without a quorum: they would wait, instead of meeting the same operation and saying so.

    Args:
        resend_interval: how often replicas repeat their votes, microseconds.
        fail: called with the error in the end.
    """

    def __init__(self, resend_interval: int, fail: Callable[[BaseException], None]) -> None:
        self._pause = min(FAILURE_PAUSE_RESENDS * resend_interval / 1_000_000, MAX_FAILURE_PAUSE_SECONDS)
        self._fail = fail
        self._error: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, error: BaseException) -> None:
        """The application has failed; what comes of that later is no news."""
        if self._error is not None:
            return
        self._error = error
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._fail, error)

    def cancel(self) -> None:
        """The replica stops now."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self) -> None:
        """Raises ApplicationFailed: the application has failed."""
        if self._error is not None:
            raise self._error
