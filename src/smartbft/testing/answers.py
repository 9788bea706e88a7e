"""No peer is answered without end: small questions must not be turned into large answers as often as somebody asks.

Counted from outside, by what a replica sends to one peer in one resend interval.
"""

from __future__ import annotations

from smartbft.messages import (
    Checkpoint,
    Decision,
    Gone,
    HeldRequests,
    Message,
    ProposedValue,
    SnapshotChunk,
    SnapshotManifest,
    Standing,
    Sync,
)

# The most of each in a resend interval, with room for a clock that jumps and for a channel that comes and goes.
_MOST: dict[type, int] = {
    Standing: 24,
    Sync: 24,
    Gone: 24,
    Checkpoint: 240,  # one for each snapshot
    ProposedValue: 300,
    HeldRequests: 700,
    SnapshotManifest: 600,
    SnapshotChunk: 600,
}
# How often the decision of one instance is given.
_MOST_OF_ONE_DECISION = 6


class AnswersChecker:
    """15: how much one peer is answered has a bound, whatever it asks.

    Args:
        resend_interval: microseconds; so long counts together.
    """

    __slots__ = ("_counts", "_resend_interval")

    def __init__(self, resend_interval: int) -> None:
        self._resend_interval = resend_interval
        self._counts: dict[tuple[int, int, type, int], tuple[int, int]] = {}  # with the instance; since when, how many

    def restarted(self, replica: int) -> None:
        """The replica has forgotten whom it has answered."""
        self._counts = {asked: count for asked, count in self._counts.items() if asked[0] != replica}

    def sent(self, replica: int, to: int, message: Message, now: int) -> str:
        """What is wrong with it that a replica sends this to one peer; empty: nothing."""
        kind = type(message)
        instance = message.instance if isinstance(message, Decision) else 0
        most = _MOST_OF_ONE_DECISION if isinstance(message, Decision) else _MOST.get(kind)
        if most is None:
            return ""
        key = replica, to, kind, instance
        since, count = self._counts.get(key, (now, 0))
        if now - since >= self._resend_interval:
            since, count = now, 0
        self._counts[key] = since, count + 1
        if count < most:
            return ""
        what = f"the decision of instance {instance}" if instance else kind.__name__
        return f"replica {replica} has sent replica {to} {what} {count + 1} times within a resend interval"
