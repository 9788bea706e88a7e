"""What a replica remembers of its regency changes, for operators: why each began, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RegencyChange:
    """One change, from the first suspicion to the SYNC; regencies that failed in between are part of it.

    Attributes:
        before, after: the regencies, and their leaders.
        reason: why this replica took part, in words.
        began: microseconds since the epoch.
        took: microseconds.
    """

    before: int
    after: int
    leader_before: int
    leader_after: int
    reason: str
    began: int
    took: int

    def as_dict(self) -> dict[str, Any]:
        """For the status and the log."""
        return {
            "from": self.before,
            "to": self.after,
            "leader_before": self.leader_before,
            "leader_after": self.leader_after,
            "reason": self.reason,
            "began": self.began,
            "took_seconds": self.took / 1_000_000,
        }


class RegencyChanges:
    """The changes of one replica since it was started.

    Attributes:
        count: how many ended.
        last: the last of them.
    """

    __slots__ = ("_before", "_began", "_leader_before", "_reason", "count", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last: RegencyChange | None = None
        self._reason = ""
        self._began = 0
        self._before = 0
        self._leader_before = 0

    def begin(self, now: int, regency: int, leader: int, reason: str) -> None:
        """Something speaks against `regency`; only the first reason of a change counts."""
        if not self._reason:
            self._reason, self._began = reason, now
            self._before, self._leader_before = regency, leader

    def withdraw(self) -> None:
        """The change that had begun is not needed any more."""
        self._reason = ""

    def end(self, now: int, regency: int, leader: int) -> None:
        """`regency` has begun."""
        if self._reason:
            self.count += 1
            self.last = RegencyChange(
                self._before, regency, self._leader_before, leader, self._reason, self._began, now - self._began
            )
            self._reason = ""
