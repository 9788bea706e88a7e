"""What a replica wants done: the effects that `Replica.step` returns, in order.

Persist before you speak: a message that binds the sender exists only inside `Persist.then`, and the runtime releases
those effects when the write is released (at once in memory mode, when the operating system has the write in
asynchronous mode, after the sync in synchronous mode). The order of tokens is the order of the log.
"""

from __future__ import annotations

from typing import Union

import msgspec

from smartbft._fastpath.pool import SessionCapture
from smartbft.core.divergence import Divergence
from smartbft.core.evidence import Statement
from smartbft.core.inputs import Timer
from smartbft.messages import Message
from smartbft.snapshots import Manifest, Snapshot


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of the log; the body is the parts, joined (see `smartbft.core.records`)."""

    kind: int
    instance: int
    parts: tuple[bytes, ...]


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a message to one peer. Lost if the channel is down: progress never depends on one copy."""

    to: int
    message: Message


class Broadcast(msgspec.Struct, frozen=True, gc=False):
    """Send a message to every other member of the view."""

    message: Message


class Persist(msgspec.Struct, frozen=True, gc=False):
    """Append `records` to the log; when the last of them is released, carry out `then` and feed `Persisted(token)`
    back.

    Tokens are 1, 2, 3, ... in the order of the effects.
    """

    token: int
    records: tuple[Record, ...]
    then: tuple[Send | Broadcast, ...] = ()


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Feed `TimerFired(timer)` after `delay` microseconds; replaces a running timer of that name."""

    timer: Timer
    delay: int


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    """Stop a timer; no effect if it does not run."""

    timer: Timer


class Execute(msgspec.Struct, frozen=True, gc=False):
    """Execute a decided batch; feed `Executed(instance, results)` back. Comes in instance order.

    Attributes:
        timestamp: agreed time of the batch, microseconds.
        seed: 32 bytes, ``H(chain id, instance, value digest)``: the application's only randomness.
        data: the request list.
    """

    instance: int
    timestamp: int
    seed: bytes
    data: bytes


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The replies of an executed batch are ready in the pool; release them once token `after` is released."""

    instance: int
    digests: bytes
    data: bytes
    after: int


class ServeDecisions(msgspec.Struct, frozen=True, gc=False):
    """Read the decisions `first` to `last` from the log and send them to a peer that lacks them; feed `DecisionsServed`
    back, also if the peer is gone or has too many waiting for it.
    """

    to: int
    first: int
    last: int


class TakeSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Capture the application after exactly this instance (no later `Execute` was emitted before), write the snapshot
    in the background, and feed `SnapshotTaken` back once it is durable (or `SnapshotSkipped`).

    Attributes:
        view, agreed_time, value_digest: of the instance.
        core: what the core keeps beside the sessions (`Snapshot.core`).
        sessions: the session table as of the instance, written down when the snapshot is.
        proof: of the decision, encoded; kept beside the snapshot.
        keep: instances of older snapshots to be kept, because somebody is fetching them.
    """

    view: int
    instance: int
    agreed_time: int
    value_digest: bytes
    core: bytes
    sessions: SessionCapture
    proof: bytes
    keep: tuple[int, ...]

    def snapshot(self, state: bytes) -> Snapshot:
        """The whole, with the application's state; may be called on another thread.

        Raises LocalProtocolError: another session table was installed meanwhile.
        """
        sessions = self.sessions.export()
        return Snapshot(self.view, self.instance, self.agreed_time, self.value_digest, self.core, sessions, state)


class ForgetDecisions(msgspec.Struct, frozen=True, gc=False):
    """What the log holds of instances before this one is not needed any more."""

    before: int


class ServeSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Send a peer the manifest (`chunk` -1) or a chunk of a snapshot, if it is here; not faster than the limit."""

    to: int
    instance: int
    digest: bytes
    chunk: int


class BeginTransfer(msgspec.Struct, frozen=True, gc=False):
    """Make room for a snapshot that is about to arrive."""

    manifest: Manifest


class StoreChunk(msgspec.Struct, frozen=True, gc=False):
    """Store a chunk of that snapshot; it was checked."""

    index: int
    data: bytes


class FinishTransfer(msgspec.Struct, frozen=True, gc=False):
    """All chunks are stored: feed `SnapshotLoaded` or `SnapshotLost` back.

    Attributes:
        keep: it is trusted: keep it as a snapshot, durably. Else it stays apart, so that no start takes it for one.
    """

    keep: bool = True


class InstallSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Replace the application's state, in its turn between the `Execute` effects before and after this."""

    instance: int
    state: bytes


class BeginRehearsal(msgspec.Struct, frozen=True, gc=False):
    """Replace the application's state by one that nobody trusts yet, in its turn; feed `RehearsalFailed` back if it
    cannot be: the state may be anything.

    Attributes:
        rehearsal: tells what belongs to it from what is left of an earlier one.
        seeder: whose snapshot it is; worth remembering beyond the end of the process, which it may bring about.
    """

    rehearsal: int
    state: bytes
    seeder: int = -1


class RehearseBatch(msgspec.Struct, frozen=True, gc=False):
    """Execute a batch on that state: feed `BatchRehearsed` or `RehearsalFailed` back. Nobody gets a reply."""

    rehearsal: int
    batch: Execute


class RehearseSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Capture that state, and feed `SnapshotRehearsed` or `RehearsalFailed` back; nothing is written to the disk."""

    rehearsal: int
    take: TakeSnapshot


class AbandonRehearsal(msgspec.Struct, frozen=True, gc=False):
    """A rehearsal is over, and came to nothing: stop what the application still does for it. The next one begins when
    the application is free.

    Attributes:
        rehearsal: which.
        seeder: whose snapshot it was.
        reason: why, where that is held against nobody; else empty.
    """

    rehearsal: int
    seeder: int
    reason: str = ""


class KeepSnapshot(msgspec.Struct, frozen=True, gc=False):
    """A snapshot from a rehearsal is trusted: keep it, durably, and feed `SnapshotKept` back."""

    manifest: Manifest
    snapshot: Snapshot


class Penalise(msgspec.Struct, frozen=True, gc=False):
    """A peer broke the protocol in a way that only the core can see."""

    peer: int
    reason: str


class ReportEvidence(msgspec.Struct, frozen=True, gc=False):
    """A member signed two statements that contradict each other: worth keeping, for anybody to check.

    Attributes:
        accused: its member id.
        first, second: the signed messages.
        key: the member's encoded statement about the consensus key that signed them; empty: the view names it.
    """

    accused: int
    first: Statement
    second: Statement
    key: bytes = b""


class ReportDivergence(msgspec.Struct, frozen=True, gc=False):
    """Members have different states after the same instance: tell the operator, loudly where that is certain."""

    divergence: Divergence


class ReportFault(msgspec.Struct, frozen=True, gc=False):
    """Something is wrong with this replica or its application, for certain: tell the operator, loudly."""

    reason: str


class MakeConsensusKey(msgspec.Struct, frozen=True, gc=False):
    """The replica has lost the record of its votes and needs a new consensus key: make one that nobody has seen, have
    it on disk beside the log, and feed `ConsensusKeyMade` back.
    """


class VotesOnRecord(msgspec.Struct, frozen=True, gc=False):
    """Every vote that this replica may make with the key in force will be in its log, and the promise that covers what
    it has forgotten is there: a restart may take the log for an intact record again.
    """


Effect = Union[  # noqa: UP007
    Persist,
    Send,
    Broadcast,
    SetTimer,
    CancelTimer,
    Execute,
    Reply,
    ServeDecisions,
    TakeSnapshot,
    ForgetDecisions,
    ServeSnapshot,
    BeginTransfer,
    StoreChunk,
    FinishTransfer,
    InstallSnapshot,
    BeginRehearsal,
    RehearseBatch,
    RehearseSnapshot,
    AbandonRehearsal,
    KeepSnapshot,
    Penalise,
    ReportEvidence,
    ReportDivergence,
    ReportFault,
    MakeConsensusKey,
    VotesOnRecord,
]
