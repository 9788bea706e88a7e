"""From the records of a log to what a replica must remember: decisions in order, and the votes after them.

Pure: the product hands over the records of its files, the simulator those of its simulated disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from smartbft.core.records import (
    ACCEPT,
    DECISION,
    REGENCY,
    SYNC,
    VALUE,
    AcceptRecord,
    ValueRecord,
    parse_accept,
    parse_decision,
    parse_regency,
    parse_sync,
    parse_value,
)
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Signer
from smartbft.errors import CorruptLog
from smartbft.messages import Proof, StopData, Sync
from smartbft.snapshots import FoundSnapshots


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
        snapshots: those found on disk; the state begins with the newest.
        decisions: decided instances after that snapshot (else 1, 2, 3, ...), without a gap.
        first: the first instance whose decision the log can still give to others.
        votes: the votes for the next instance.
        stop_data: the STOPDATA of the last regency installed; None: regency 0, which needs none.
        sync: the SYNC of that regency, if it had come.
        records: how many records were read.
        intact: whether every vote that may ever have left is in the log. Without that a replica only learns.
        signers: sign with consensus keys that were made after the first one, as far as they are here.
    """

    snapshots: FoundSnapshots = field(default_factory=FoundSnapshots)
    decisions: list[Decided] = field(default_factory=list)
    first: int = 1
    votes: RecoveredVotes = field(default_factory=RecoveredVotes)
    stop_data: StopData | None = None
    sync: Sync | None = None
    records: int = 0
    intact: bool = True
    signers: list[Signer] = field(default_factory=list)

    @property
    def base(self) -> int:
        """The instance of the snapshot that the state begins with; 0: it begins with nothing."""
        return self.snapshots.newest.instance if self.snapshots.newest is not None else 0


def recover(
    records: Iterable[tuple[int, int, bytes]], domains: Domains, snapshots: FoundSnapshots | None = None
) -> RecoveredState:
    """Rebuild the state from the snapshots and the `(kind, instance, body)` records in log order.

    Of instances that the newest snapshot covers only what binds beyond them counts: the installed regency.

    Raises:
        CorruptLog: an unknown kind, a gap in the decisions, a decision whose value is not in the log, or a regency that
            goes back.
    """
    state = RecoveredState(snapshots or FoundSnapshots())
    base, last = state.base, 0
    begins_with: list[bytes] = []  # digests of the values before the first decision
    for kind, instance, body in records:
        state.records += 1
        expected = base + len(state.decisions) + 1
        if instance > base and instance != expected:
            raise CorruptLog(f"record {state.records} is for instance {instance}, but instance {expected} is next")
        if kind == REGENCY:
            _install(state, parse_regency(body))
        elif kind == SYNC:
            _synchronize(state, parse_sync(body))
        elif kind not in (VALUE, ACCEPT, DECISION):
            raise CorruptLog(f"record {state.records} has the unknown kind {kind}")
        elif instance > base:
            _take_up(state, kind, instance, body, domains)
        if kind == VALUE and not last:
            begins_with.append(domains.value_digest(parse_value(body).value))
        if kind == DECISION:
            # At the beginning of what is left of a log, and after a gap, the value of a decision may be gone.
            is_whole = instance == last + 1 and (last > 0 or not base or _has_value(body, begins_with))
            state.first = state.first if is_whole else instance + 1
            last = instance
    if last < base or not last:
        # Decisions between those of the log and the snapshot, which was transferred, are missing.
        state.first = base + 1
    return state


def _has_value(body: bytes, digests: list[bytes]) -> bool:
    """Whether a decision's value is in its record, or among those written before it."""
    record = parse_decision(body)
    return bool(record.value) or record.proof.digest in digests


def _take_up(state: RecoveredState, kind: int, instance: int, body: bytes, domains: Domains) -> None:
    """A vote or a decision after the snapshot."""
    if kind == VALUE:
        state.votes.values.append(parse_value(body))
    elif kind == ACCEPT:
        state.votes.accepts.append(parse_accept(body))
    else:
        state.decisions.append(_decision(instance, body, state.votes, domains))
        state.votes = RecoveredVotes()


def _install(state: RecoveredState, stop_data: StopData) -> None:
    before = state.stop_data
    if stop_data == before:
        return  # written again before older records were dropped
    if before is not None:
        # The same regency is promised again, in a later instance, by a replica that votes with a new key.
        again = stop_data.regency == before.regency and stop_data.instance > before.instance
        if stop_data.regency <= before.regency and not again:
            raise CorruptLog(f"regency {stop_data.regency} follows regency {before.regency} in the log")
    state.stop_data, state.sync = stop_data, None


def _synchronize(state: RecoveredState, sync: Sync) -> None:
    if sync == state.sync or (state.stop_data is None and state.base):
        return  # written again; or what it belongs to was dropped, and both were written again later
    if state.stop_data is None or sync.regency != state.stop_data.regency or state.sync is not None:
        raise CorruptLog(f"a SYNC of regency {sync.regency}, which is not the one installed before it")
    state.sync = sync


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
