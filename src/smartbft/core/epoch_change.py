"""What a set of collects allows a new leader to propose: the predicates of VP-Consensus (protocols.md section 1).

Every replica evaluates the same predicates over the set that a SYNC relays. They count replicas, never entries, and a
set that satisfies them goes on doing so when collects are added.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from smartbft.messages import Accepted, StopData


class Verdict(enum.Enum):
    """What a set of collects says about an instance."""

    UNSOUND = "unsound"  # more collects are needed
    UNBOUND = "unbound"  # the leader proposes a value of its own
    BOUND = "bound"  # only one value may be written


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict about `instance`; `digest` is the value's if one binds, else empty."""

    instance: int
    verdict: Verdict
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Collect:
    """The state of one replica in an instance: `(ts, val)`, and the write set."""

    accepted: Accepted | None
    written: dict[bytes, int]


_EMPTY = Collect(None, {})


def evaluate(stop_data: Iterable[StopData], n: int, f: int) -> Outcome:
    """Evaluate `sound`, `binds` and `unbound` over STOPDATA of distinct members, for the instance after the highest
    one that any of them proves.

    A collect for an earlier instance counts as empty: its signer had not decided what comes before, so it cannot have
    voted there (protocols.md 2.3).
    """
    statements = list(stop_data)
    instance = max((statement.instance for statement in statements), default=0)
    collects = [_collect(statement) if statement.instance == instance else _EMPTY for statement in statements]
    if len(collects) < n - f:
        return Outcome(instance, Verdict.UNSOUND)
    candidates = {(collect.accepted.regency, collect.accepted.digest) for collect in collects if collect.accepted}
    bound = [candidate for candidate in sorted(candidates) if _binds(*candidate, collects, n, f)]
    if bound:
        return Outcome(instance, Verdict.BOUND, bound[-1][1])
    empty = sum(1 for collect in collects if collect.accepted is None)
    return Outcome(instance, Verdict.UNBOUND if 2 * empty > n + f else Verdict.UNSOUND)


def _collect(statement: StopData) -> Collect:
    return Collect(statement.accepted, {entry.digest: entry.regency for entry in statement.write_set})


def _binds(regency: int, digest: bytes, collects: list[Collect], n: int, f: int) -> bool:
    return _quorum_highest(regency, digest, collects, n, f) and _certified(regency, digest, collects, f)


def _quorum_highest(regency: int, digest: bytes, collects: list[Collect], n: int, f: int) -> bool:
    """Strictly more than ``(n + f) / 2`` replicas saw nothing newer, or exactly this."""
    agreeing = 0
    for collect in collects:
        accepted = collect.accepted
        if accepted is None or accepted.regency < regency or accepted == Accepted(regency, digest):
            agreeing += 1
    return 2 * agreeing > n + f


def _certified(regency: int, digest: bytes, collects: list[Collect], f: int) -> bool:
    """More than `f` replicas wrote this value in that regency or later."""
    return sum(1 for collect in collects if collect.written.get(digest, -1) >= regency) > f
