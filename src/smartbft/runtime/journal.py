"""Persist before you speak: appends records to the log and says what may leave, in order, once they are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from smartbft.core.effects import Broadcast, Persist, Record, Send


class Log(Protocol):
    """What the journal needs of `smartbft.storage.ReplicaLog` (tests put a gate in its place)."""

    def append(self, records: Sequence[Record]) -> int:
        """Queue records; returns the log's number of the last one."""

    def released(self) -> int:
        """The highest number that is as durable as the mode promises."""


class Journal:
    """The tokens on their way to the disk.

    Args:
        log: the durable log, or None in memory mode: then everything is released as soon as it is asked for.

    Attributes:
        released: the highest token that is as durable as the mode promises.
    """

    def __init__(self, log: Log | None) -> None:
        self.released = 0
        self._log = log
        self._waiting: deque[tuple[int, int, tuple[Send | Broadcast, ...]]] = deque()

    def append(self, persist: Persist) -> None:
        """Take a `Persist` effect; what it releases comes out of `release`, never out of this call.

        Raises:
            DurabilityLost: an earlier write or sync failed.
        """
        sequence = 0
        if self._log is not None:
            sequence = self._log.append(persist.records)
        self._waiting.append((sequence, persist.token, persist.then))

    def release(self) -> list[Send | Broadcast]:
        """What may leave now, in order; `released` is the token that it goes up to.

        Raises:
            DurabilityLost: a write or a sync failed: nothing is released any more.
        """
        waiting = self._waiting
        if not waiting:
            return []
        done = self._log.released() if self._log is not None else 0
        messages: list[Send | Broadcast] = []
        while waiting and waiting[0][0] <= done:
            _, token, then = waiting.popleft()
            self.released = token
            messages += then
        return messages
