"""From the records of a log to what a replica must remember: decisions in order, and the votes after them.

Pure: the product hands over the records of its files, the simulator those of its simulated disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from smartbft.core.records import (
    ACCEPT,
    DECISION,
    VALUE,
    AcceptRecord,
    ValueRecord,
    parse_accept,
    parse_decision,
    parse_value,
)
from smartbft.crypto.domains import Domains
from smartbft.errors import CorruptLog
from smartbft.messages import Proof


@dataclass(frozen=True, slots=True)
class Decided:
    """A decided instance: its encoded value, its request list and its proof."""

    instance: int
    value: bytes
    data: bytes
    proof: Proof


@dataclass(slots=True)
class RecoveredVotes:
    """The votes for the instance after the last decision, as far as they were promised before the restart.

    Attributes:
        values: VALUE records, oldest first (at most one per regency).
        accepts: ACCEPT records, oldest first.
    """

    values: list[ValueRecord] = field(default_factory=list)
    accepts: list[AcceptRecord] = field(default_factory=list)


@dataclass(slots=True)
class RecoveredState:
    """What the log held.

    Attributes:
        decisions: decided instances 1, 2, 3, ... without a gap.
        votes: the votes for the next instance.
        records: how many records were read.
    """

    decisions: list[Decided] = field(default_factory=list)
    votes: RecoveredVotes = field(default_factory=RecoveredVotes)
    records: int = 0


def recover(records: Iterable[tuple[int, int, bytes]], domains: Domains) -> RecoveredState:
    """Rebuild the state from `(kind, instance, body)` records in log order.

    Raises:
        CorruptLog: an unknown kind, a gap in the decisions, or a decision whose value is not in the log.
    """
    state = RecoveredState()
    for kind, instance, body in records:
        state.records += 1
        expected = len(state.decisions) + 1
        if instance != expected:
            raise CorruptLog(f"record {state.records} is for instance {instance}, but instance {expected} is next")
        if kind == VALUE:
            state.votes.values.append(parse_value(body))
        elif kind == ACCEPT:
            state.votes.accepts.append(parse_accept(body))
        elif kind == DECISION:
            state.decisions.append(_decision(instance, body, state.votes, domains))
            state.votes = RecoveredVotes()
        else:
            raise CorruptLog(f"record {state.records} has the unknown kind {kind}")
    return state


def decisions_in(
    records: Iterable[tuple[int, int, bytes]], domains: Domains, first: int, last: int
) -> Iterator[Decided]:
    """The decisions `first` to `last` found in `records` (log order, starting anywhere), for a peer that lacks them."""
    votes = RecoveredVotes()
    current = -1
    for kind, instance, body in records:
        if instance < first or instance > last:
            continue
        if instance != current:
            current, votes = instance, RecoveredVotes()
        if kind == VALUE:
            votes.values.append(parse_value(body))
        elif kind == DECISION:
            yield _decision(instance, body, votes, domains)


def _decision(instance: int, body: bytes, votes: RecoveredVotes, domains: Domains) -> Decided:
    record = parse_decision(body)
    if record.proof.instance != instance:
        raise CorruptLog(f"the decision of instance {instance} has a proof for instance {record.proof.instance}")
    value, data = record.value, record.data
    if not value:
        for written in votes.values:
            if domains.value_digest(written.value) == record.proof.digest:
                value, data = written.value, written.data
    if not value or domains.value_digest(value) != record.proof.digest:
        raise CorruptLog(f"the log holds a decision of instance {instance} without its value")
    return Decided(instance, value, data, record.proof)
