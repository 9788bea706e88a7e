"""Small value types that every layer shares: views, members, proposed values."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import msgspec

from smartbft.errors import LocalProtocolError, MalformedMessage
from smartbft.limits import (
    CLOCK_SKEW_MICROSECONDS,
    DEFAULT_CHECKPOINT_INTERVAL,
    DEFAULT_WINDOW,
    DIGEST_BYTES,
    KEY_BYTES,
    MAX_BATCH_REQUESTS,
    MAX_MEMBERS,
    MAX_SESSIONS,
    MAX_SESSIONS_PER_KEY,
    SESSION_LEASE_MICROSECONDS,
)
from smartbft.quorum import max_faulty, quorum


@dataclass(frozen=True, slots=True)
class Member:
    """A replica of a view.

    Attributes:
        id: its number, unique in the view.
        permanent_key: Ed25519 public key (32 bytes) that stands for the replica for ever.
        consensus_key: Ed25519 public key (32 bytes) that signs its votes in this view.
    """

    id: int
    permanent_key: bytes
    consensus_key: bytes

    def __post_init__(self) -> None:
        if len(self.permanent_key) != KEY_BYTES or len(self.consensus_key) != KEY_BYTES:
            raise LocalProtocolError(f"the keys of member {self.id} must have {KEY_BYTES} bytes each")


@dataclass(frozen=True, slots=True)
class View:
    """The membership: who replicates, and under which keys. Changed only by reconfiguration.

    Attributes:
        number: 0 for the genesis, one more with each reconfiguration.
        members: in the order that decides who leads.
        first_instance: the first consensus instance of this view.
    """

    number: int
    members: tuple[Member, ...]
    first_instance: int = 1
    n: int = field(init=False)
    f: int = field(init=False)
    quorum: int = field(init=False)
    ids: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        ids = tuple(member.id for member in self.members)
        if len(set(ids)) != len(ids):
            raise LocalProtocolError(f"view {self.number} names a member twice: {sorted(ids)}")
        if not 1 <= len(ids) <= MAX_MEMBERS:
            raise LocalProtocolError(f"a view has 1 to {MAX_MEMBERS} members, not {len(ids)}")
        object.__setattr__(self, "n", len(ids))
        object.__setattr__(self, "f", max_faulty(len(ids)))
        object.__setattr__(self, "quorum", quorum(len(ids)))
        object.__setattr__(self, "ids", ids)

    def leader(self, regency: int) -> int:
        """The id of the leader of `regency`: ``members[(first instance + regency) % n]`` (protocols.md section 0)."""
        return self.ids[(self.first_instance + regency) % self.n]

    def member(self, id: int) -> Member | None:
        """The member with this id, or None."""
        for member in self.members:
            if member.id == id:
                return member
        return None


_TIMESTAMP = struct.Struct("<Q")


class Value(msgspec.Struct, frozen=True, gc=False):
    """What a consensus instance decides: the agreed time and the digests of the requests, in order.

    Attributes:
        timestamp: microseconds since the epoch.
        digests: 32 bytes per request.
    """

    timestamp: int
    digests: bytes

    @property
    def count(self) -> int:
        """How many requests the value names."""
        return len(self.digests) // DIGEST_BYTES

    def encode(self) -> bytes:
        """Canonical bytes: the timestamp (8 bytes, little-endian), then the digests."""
        return _TIMESTAMP.pack(self.timestamp) + self.digests

    @classmethod
    def decode(cls, data: bytes) -> Value:
        """Raises MalformedMessage: too short, a partial digest, or more requests than a batch may hold."""
        size = len(data) - _TIMESTAMP.size
        if size < 0 or size % DIGEST_BYTES or size > MAX_BATCH_REQUESTS * DIGEST_BYTES:
            raise MalformedMessage(f"a proposed value of {len(data)} bytes is not 8 + 32 * requests")
        return cls(_TIMESTAMP.unpack_from(data)[0], data[_TIMESTAMP.size :])


# Values of `Parameters.request_authentication`.
SIGNATURES = "signatures"
CHANNEL = "channel"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Protocol parameters that all replicas of a chain share; part of the genesis.

    Times are microseconds. See `smartbft.limits` for the bounds.

    Attributes:
        request_authentication: "signatures": clients sign each request; "channel": they prove their key once per
            connection, and replicas vouch for what they heard (protocols.md 2.1). The latter proves to no third party
            who asked, so neither the coin nor a ledger can be had with it.
        checkpoint_interval: decisions between two checkpoints.
    """

    max_batch_requests: int = 2048
    max_batch_bytes: int = 1024 * 1024
    window: int = DEFAULT_WINDOW
    max_sessions: int = MAX_SESSIONS
    max_sessions_per_key: int = MAX_SESSIONS_PER_KEY
    session_lease: int = SESSION_LEASE_MICROSECONDS
    clock_skew: int = CLOCK_SKEW_MICROSECONDS
    request_timeout: int = 2_000_000
    max_request_timeout: int = 60_000_000
    proposal_timeout: int = 60_000
    resend_interval: int = 250_000
    progress_interval: int = 1_000_000
    fetch_grace: int = 20_000
    batch_delay: int = 5_000
    request_authentication: str = SIGNATURES
    checkpoint_interval: int = DEFAULT_CHECKPOINT_INTERVAL
