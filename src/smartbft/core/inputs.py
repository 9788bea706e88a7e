"""What can happen to a replica: the inputs of `Replica.step`.

An input carries no time of its own: `step(input, now)` is told the wall clock in microseconds at which the runtime
(or the simulator) hands it over.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Union

import msgspec

from smartbft.snapshots import Manifest, Snapshot

if TYPE_CHECKING:
    from smartbft.core.effects import ServeDecisions
    from smartbft.core.recovery import RecoveredState
    from smartbft.core.validation import Verified
    from smartbft.crypto.signatures import Signer


class Timer(enum.IntEnum):
    """The timers of a replica. Setting one that runs replaces it."""

    RESEND = 1  # an instance that made no progress: send our own messages of i and i - 1 again
    PROGRESS = 2  # tell the others how far we are
    REQUEST = 3  # a pending request that was not ordered in time
    FETCH = 4  # bodies that a proposal names and the pool lacks
    HOLD = 5  # a proposal whose timestamp is ahead of our clock
    CATCH_UP = 6  # decisions we asked for and did not get
    BATCH = 7  # a leader that lets requests under verification join its batch
    REGENCY = 8  # an installed regency whose SYNC has not come in time
    VALUE = 9  # a new leader that lacks the value it must propose
    TRANSFER = 20  # a snapshot that is asked for, or arriving
    VOUCH = 30  # requests that others hold, and that are not here
    PROPOSAL = 31  # the leader takes long for a proposal
    KEYS = 32  # a new consensus key is old enough to be replaced


class Start(msgspec.Struct, frozen=True, gc=False):
    """The first input: what the log held (empty on a new replica)."""

    recovered: RecoveredState


class MessageReceived(msgspec.Struct, frozen=True, gc=False):
    """A protocol message that validation has passed."""

    verified: Verified


class RequestsVerified(msgspec.Struct, frozen=True, gc=False):
    """The pool holds requests whose verdict has come since the last step.

    Attributes:
        liars: members, and how many of the requests that they were the first to pass on have bad signatures.
    """

    liars: tuple[tuple[int, int], ...] = ()


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer set by `SetTimer` has expired."""

    timer: Timer


class Persisted(msgspec.Struct, frozen=True, gc=False):
    """Everything up to and including this token is as durable as the mode promises."""

    token: int


class Executed(msgspec.Struct, frozen=True, gc=False):
    """The application has executed an instance; `results` is the result list, one per request."""

    instance: int
    results: bytes


class DecisionsServed(msgspec.Struct, frozen=True, gc=False):
    """`ServeDecisions` was carried out, as far as it could be: so many bytes were sent; 0: nothing was."""

    served: ServeDecisions
    size: int


class SnapshotTaken(msgspec.Struct, frozen=True, gc=False):
    """The snapshot asked for by `TakeSnapshot` is durable."""

    instance: int
    size: int
    digest: bytes


class SnapshotSkipped(msgspec.Struct, frozen=True, gc=False):
    """The snapshot asked for by `TakeSnapshot` could not be written for want of space: the next one may."""

    instance: int


class SnapshotLoaded(msgspec.Struct, frozen=True, gc=False):
    """A snapshot has arrived whole, is checked and durable."""

    manifest: Manifest
    snapshot: Snapshot


class SnapshotLost(msgspec.Struct, frozen=True, gc=False):
    """What had arrived of a snapshot was damaged on disk, and is gone."""


class BatchRehearsed(msgspec.Struct, frozen=True, gc=False):
    """Answer to `RehearseBatch`; `results` is the result list, one per request."""

    rehearsal: int
    results: bytes


class SnapshotRehearsed(msgspec.Struct, frozen=True, gc=False):
    """Answer to `RehearseSnapshot`."""

    rehearsal: int
    manifest: Manifest
    snapshot: Snapshot


class RehearsalFailed(msgspec.Struct, frozen=True, gc=False):
    """The application does not take a state on trial, or cannot go on with it.

    Attributes:
        convicts: whether it says that this is no state of the application at all. Whatever else it raises may be a
            matter of this machine, or of this copy of the code, and says nothing about the seeder.
    """

    rehearsal: int
    reason: str
    convicts: bool = False


class SnapshotKept(msgspec.Struct, frozen=True, gc=False):
    """Answer to `KeepSnapshot`: it is durable."""

    manifest: Manifest
    snapshot: Snapshot


class PeerConnected(msgspec.Struct, frozen=True, gc=False):
    """The channel to a peer is up (again): what binds us is sent again."""

    peer: int


class ConsensusKeyMade(msgspec.Struct, frozen=True, gc=False):
    """Answer to `MakeConsensusKey`: `signer` signs with the new key, whose secret is on disk."""

    signer: Signer


Input = Union[  # noqa: UP007
    Start,
    MessageReceived,
    RequestsVerified,
    TimerFired,
    Persisted,
    Executed,
    DecisionsServed,
    SnapshotTaken,
    SnapshotSkipped,
    SnapshotLoaded,
    SnapshotLost,
    BatchRehearsed,
    SnapshotRehearsed,
    RehearsalFailed,
    SnapshotKept,
    PeerConnected,
    ConsensusKeyMade,
]
