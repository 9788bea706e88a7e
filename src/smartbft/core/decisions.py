"""The last decisions, kept in memory for peers that lack them. Older ones are served from the log."""

from __future__ import annotations

from collections import OrderedDict

from smartbft.core.recovery import Decided


class RecentDecisions:
    """A bounded window of decided instances.

    Args:
        count: decisions kept at most.
        size_bytes: bytes of requests kept at most (the newest decision is always kept).
    """

    __slots__ = ("_bytes", "_count", "_decisions", "_size_bytes")

    def __init__(self, count: int, size_bytes: int) -> None:
        self._count = count
        self._size_bytes = size_bytes
        self._bytes = 0
        self._decisions: OrderedDict[int, tuple[Decided, int]] = OrderedDict()

    def add(self, decision: Decided, token: int) -> None:
        """Keep a decision; `token` tells when its record is durable."""
        self._decisions[decision.instance] = (decision, token)
        self._bytes += len(decision.data)
        while len(self._decisions) > 1 and (len(self._decisions) > self._count or self._bytes > self._size_bytes):
            _, (dropped, _) = self._decisions.popitem(last=False)
            self._bytes -= len(dropped.data)

    def first(self) -> int:
        """The oldest instance that is here; 0: none."""
        return next(iter(self._decisions), 0)

    def clear(self) -> None:
        """Forget all."""
        self._decisions.clear()
        self._bytes = 0

    def get(self, instance: int) -> tuple[Decided, int] | None:
        """The decision and the token of its record, if it is still here."""
        return self._decisions.get(instance)
