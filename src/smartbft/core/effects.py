"""What a replica wants done: the effects that `Replica.step` returns, in order.

Persist before you speak: a message that binds the sender exists only inside `Persist.then`, and the runtime releases
those effects when the write is released (at once in memory mode, when the operating system has the write in
asynchronous mode, after the sync in synchronous mode). The order of tokens is the order of the log.
"""

from __future__ import annotations

from typing import Union

import msgspec

from smartbft.core.evidence import Statement
from smartbft.core.inputs import Timer
from smartbft.messages import Message


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
    """Read the decisions `first` to `last` from the log and send them to a peer that lacks them."""

    to: int
    first: int
    last: int


class Penalise(msgspec.Struct, frozen=True, gc=False):
    """A peer broke the protocol in a way that only the core can see."""

    peer: int
    reason: str


class ReportEvidence(msgspec.Struct, frozen=True, gc=False):
    """A member signed two statements that contradict each other: worth keeping, for anybody to check.

    Attributes:
        accused: its member id.
        first, second: the signed messages.
    """

    accused: int
    first: Statement
    second: Statement


Effect = Union[  # noqa: UP007
    Persist, Send, Broadcast, SetTimer, CancelTimer, Execute, Reply, ServeDecisions, Penalise, ReportEvidence
]
