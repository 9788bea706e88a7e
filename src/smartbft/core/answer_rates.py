"""How much one peer is answered: the one table of all questions, their answers and the rate of each answer.

A question is small and its answer may be large, and a member that lies can ask all day. So each peer has a budget of
each kind of answer, and what does not fit into it is not said. Nobody who is honest notices: what an honest replica
asks for fits, and whoever gets no answer asks again, or asks another peer (the table says when).

The budgets run on the `now` of the steps. That is a wall clock, which may be set back; then no budget fills before it
goes on, and none is lost.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartbft.core.inputs import PeerConnected
from smartbft.limits import (
    ANSWER_COST_BYTES,
    BULK_ANSWER_BYTES_AT_ONCE,
    BULK_ANSWER_BYTES_PER_SECOND,
    HELD_ANSWER_BYTES_AT_ONCE,
    REPEATED_ANSWERS_AT_ONCE,
    REPEATED_ANSWERS_PER_RESEND,
    RESERVED_DECISION_BYTES,
    SNAPSHOT_ANSWER_BYTES_AT_ONCE,
    TRANSFER_BYTES_PER_SECOND,
    VALUE_ANSWER_BYTES_AT_ONCE,
    VALUE_ANSWER_BYTES_PER_SECOND,
)
from smartbft.messages import (
    Accept,
    Checkpoint,
    Decision,
    FetchCheckpoints,
    FetchChunk,
    FetchDecisions,
    FetchHeld,
    FetchManifest,
    FetchRequests,
    FetchStanding,
    FetchSync,
    FetchValue,
    Forward,
    Gone,
    HeldRequests,
    Hold,
    KeyAnnouncement,
    Message,
    Progress,
    Propose,
    ProposedValue,
    RequestBodies,
    SnapshotChunk,
    SnapshotManifest,
    Standing,
    Stop,
    StopData,
    Sync,
    Write,
)
from smartbft.token_bucket import TokenBucket

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class Unit(enum.Enum):
    """What a rate counts, and in what time its budget fills."""

    BYTES_PER_SECOND = "bytes per second"  # each answer counts for `ANSWER_COST_BYTES` at least
    ANSWERS_PER_RESEND = "answers per resend interval"


@dataclass(frozen=True, slots=True)
class Rate:
    """A row of the table.

    Attributes:
        at_once: what a peer gets without time passing. The answer that uses it up may go beyond it.
        refill: what it gets after that.
        unit: of both.
        reason: why an honest peer needs no more, and what it does if it gets no answer.
    """

    at_once: int
    refill: int
    unit: Unit
    reason: str


def _repeated(reason: str) -> Rate:
    return Rate(REPEATED_ANSWERS_AT_ONCE, REPEATED_ANSWERS_PER_RESEND, Unit.ANSWERS_PER_RESEND, reason)


def _bulk(reason: str) -> Rate:
    return Rate(BULK_ANSWER_BYTES_AT_ONCE, BULK_ANSWER_BYTES_PER_SECOND, Unit.BYTES_PER_SECOND, reason)


def _snapshot(reason: str) -> Rate:
    return Rate(SNAPSHOT_ANSWER_BYTES_AT_ONCE, TRANSFER_BYTES_PER_SECOND, Unit.BYTES_PER_SECOND, reason)


# The rate of each kind of answer, for each peer.
RATES: dict[type, Rate] = {
    Decision: _bulk(
        "who catches up asks for the next decisions when it has the last ones, and otherwise asks the next peer after "
        "a resend interval"
    ),
    Gone: _repeated("asked once per resend interval, of one peer after the other"),
    RequestBodies: _bulk(
        "all bodies of every proposal, at full throughput, of one peer; asked of the next one after a resend interval"
    ),
    HeldRequests: Rate(
        HELD_ANSWER_BYTES_AT_ONCE,
        TRANSFER_BYTES_PER_SECOND,
        Unit.BYTES_PER_SECOND,
        "asked once in `fetch_grace`, of one peer after the other, until all is here",
    ),
    ProposedValue: Rate(
        VALUE_ANSWER_BYTES_AT_ONCE,
        VALUE_ANSWER_BYTES_PER_SECOND,
        Unit.BYTES_PER_SECOND,
        "a few times in an instance whose leader fails; asked again in half of `proposal_timeout` or a resend interval",
    ),
    Sync: _repeated("asked once per resend interval, of all peers"),
    Standing: _repeated("asked at a start, and then once per resend interval, of all peers"),
    Checkpoint: _repeated("asked once per resend or progress interval, of all peers"),
    SnapshotManifest: _snapshot("asked once per resend interval, of one peer after the other"),
    SnapshotChunk: _snapshot(
        "the next one is asked for when one has come, and a peer that brings none is asked again, then passed over",
    ),
    PeerConnected: _repeated(
        "what is said to a peer whose channel is new: said at the next resend interval if the channel comes and goes"
    ),
}

# What is answered to each message. Beside these, any message of an older regency than ours may be answered with a SYNC.
_OF_OLD_INSTANCES = (Decision, Gone)
ANSWERS: dict[type[Message], tuple[type, ...]] = {
    Propose: _OF_OLD_INSTANCES,
    Write: _OF_OLD_INSTANCES,
    Accept: _OF_OLD_INSTANCES,
    Decision: (),
    FetchRequests: (RequestBodies, *_OF_OLD_INSTANCES),
    RequestBodies: (),
    Forward: (),
    FetchDecisions: (Decision, Gone),
    Progress: (),
    Stop: (),
    StopData: (Sync,),
    Sync: (),
    FetchSync: (Sync,),
    FetchValue: (ProposedValue, *_OF_OLD_INSTANCES),
    ProposedValue: (),
    Hold: (),
    FetchHeld: (HeldRequests,),
    HeldRequests: (),
    Checkpoint: (),
    FetchCheckpoints: (Checkpoint,),
    Gone: (),
    FetchManifest: (SnapshotManifest, Checkpoint),
    SnapshotManifest: (),
    FetchChunk: (SnapshotChunk, Checkpoint),
    SnapshotChunk: (),
    FetchStanding: (Standing,),
    Standing: (),
    KeyAnnouncement: (),
}


class AnswerRates:
    """What is left of each peer's budgets at one replica.

    Args:
        replica: whose answers they are.
    """

    __slots__ = ("_budgets", "_replica", "_seconds", "_seen")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._budgets: dict[tuple[int, type], TokenBucket] = {}
        self._seconds = 0.0  # that have passed, by a clock that never goes back
        self._seen = replica.now

    def may(self, peer: int, answer: type) -> bool:
        """Whether a peer may get another answer of this kind now."""
        return not self._budget(peer, answer).wait(self._now())

    def charge(self, peer: int, answer: type, size: int = 0) -> None:
        """A peer gets an answer of this kind; `size` in bytes matters where bytes are counted."""
        per_answer = RATES[answer].unit is Unit.ANSWERS_PER_RESEND
        self._budget(peer, answer).charge(1 if per_answer else max(size, ANSWER_COST_BYTES), self._now())

    def reserve(self, peer: int, count: int) -> None:
        """`count` decisions are about to be read from the log for a peer, and nobody knows yet how large they are."""
        self._budget(peer, Decision).charge(count * RESERVED_DECISION_BYTES, self._now())

    def settle(self, peer: int, count: int, size: int) -> None:
        """They were `size` bytes together, and that is what counts, whatever was reserved."""
        reserved = count * RESERVED_DECISION_BYTES
        self._budget(peer, Decision).charge(max(size, ANSWER_COST_BYTES) - reserved, self._now())

    def _budget(self, peer: int, answer: type) -> TokenBucket:
        budget = self._budgets.get((peer, answer))
        if budget is None:
            rate = RATES[answer]
            interval = self._replica.parameters.resend_interval / 1_000_000
            per_second = rate.refill / interval if rate.unit is Unit.ANSWERS_PER_RESEND else rate.refill
            budget = self._budgets[peer, answer] = TokenBucket(rate.at_once, per_second)
        return budget

    def _now(self) -> float:
        now = self._replica.now
        self._seconds += max(0, now - self._seen) / 1_000_000
        self._seen = now
        return self._seconds
