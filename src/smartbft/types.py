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
    KEY_STATEMENT_BYTES,
    MAX_BATCH_REQUESTS,
    MAX_KEY_STATEMENTS,
    MAX_MEMBERS,
    MAX_SESSIONS,
    MAX_SESSIONS_PER_KEY,
    SESSION_LEASE_MICROSECONDS,
    SIGNATURE_BYTES,
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
_STATEMENT = struct.Struct(f"<H{KEY_BYTES}s{KEY_BYTES}s{SIGNATURE_BYTES}s{SIGNATURE_BYTES}s")


class KeyStatement(msgspec.Struct, frozen=True, gc=False):
    """A member's word that one consensus key of it gives way to another, to be ordered (protocols.md section 3).

    It names the key that it replaces, so it can come into force once: it is no use to anybody afterwards.

    Attributes:
        member: whose keys they are.
        replaces: the consensus key in force.
        key: the one that follows it.
        possession: signature of the new key itself: nobody can claim a key that another member has announced.
        signature: of the member's permanent key.
    """

    member: int
    replaces: bytes
    key: bytes
    possession: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Canonical bytes: the fields in their order, the member in 2 bytes."""
        return _STATEMENT.pack(self.member, self.replaces, self.key, self.possession, self.signature)

    @classmethod
    def decode(cls, data: bytes) -> KeyStatement:
        """Raises MalformedMessage: not the size of a statement."""
        if len(data) != KEY_STATEMENT_BYTES:
            raise MalformedMessage(f"a key statement has {KEY_STATEMENT_BYTES} bytes, not {len(data)}")
        return cls(*_STATEMENT.unpack(data))


class Value(msgspec.Struct, frozen=True, gc=False):
    """What a consensus instance decides: the agreed time, the digests of the requests, in order, and key statements.

    Attributes:
        timestamp: microseconds since the epoch.
        digests: 32 bytes per request.
        statements: at most one per member, members ascending; they take effect with the next instance.
    """

    timestamp: int
    digests: bytes
    statements: tuple[KeyStatement, ...] = ()

    @property
    def count(self) -> int:
        """How many requests the value names."""
        return len(self.digests) // DIGEST_BYTES

    def encode(self) -> bytes:
        """Canonical bytes: the timestamp (8 bytes, little-endian), then the digests; where there are statements, these
        follow, and their number in one byte, which makes the length odd.
        """
        value = _TIMESTAMP.pack(self.timestamp) + self.digests
        if not self.statements:
            return value
        return value + b"".join(one.encode() for one in self.statements) + bytes([len(self.statements)])

    @classmethod
    def decode(cls, data: bytes) -> Value:
        """Raises MalformedMessage: too short, a partial digest, more requests than a batch may hold, or statements that
        are not one per member in order.
        """
        size = len(data) - _TIMESTAMP.size
        if size % DIGEST_BYTES and size > 0:
            return cls._with_statements(data)
        if size < 0 or size > MAX_BATCH_REQUESTS * DIGEST_BYTES:
            raise MalformedMessage(f"a proposed value of {len(data)} bytes is not 8 + 32 * requests")
        return cls(_TIMESTAMP.unpack_from(data)[0], data[_TIMESTAMP.size :])

    @classmethod
    def _with_statements(cls, data: bytes) -> Value:
        count = data[-1]
        at = len(data) - 1 - count * KEY_STATEMENT_BYTES
        size = at - _TIMESTAMP.size
        if (
            not 1 <= count <= MAX_KEY_STATEMENTS
            or size % DIGEST_BYTES
            or not 0 <= size <= MAX_BATCH_REQUESTS * DIGEST_BYTES
        ):
            raise MalformedMessage(f"a proposed value of {len(data)} bytes is not 8 + 32 * requests")
        statements = tuple(KeyStatement(*fields) for fields in _STATEMENT.iter_unpack(data[at:-1]))
        members = [one.member for one in statements]
        if members != sorted(set(members)):
            raise MalformedMessage(
                f"the key statements of a value are of members {members}: not distinct, or not in order"
            )
        return cls(_TIMESTAMP.unpack_from(data)[0], data[_TIMESTAMP.size : at], statements)


# Values of `Parameters.request_authentication`.
SIGNATURES = "signatures"
CHANNEL = "channel"

# Values of `Parameters.checkpoint_schedule`.
TOGETHER = "together"
SEQUENTIAL = "sequential"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Protocol parameters that all replicas of a chain share; part of the genesis.

    Times are microseconds, sizes bytes. docs/operations.md says what each is for, with its bounds.

    Attributes:
        request_authentication: "signatures": clients sign each request; "channel": they prove their key once per
            connection, and replicas vouch for what they heard (protocols.md 2.1). The latter proves to no third party
            who asked, so neither the coin nor a ledger can be had with it.
        checkpoint_interval: decisions between two checkpoints of one replica.
        checkpoint_schedule: "together": all replicas take their checkpoints after the same instances; "sequential":
            each at an instance of its own, so that at most one of them is slow at a time (protocols.md 2.4).
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
    proposal_timeout: int = 50_000
    resend_interval: int = 250_000
    progress_interval: int = 1_000_000
    fetch_grace: int = 20_000
    batch_delay: int = 5_000
    request_authentication: str = SIGNATURES
    checkpoint_interval: int = DEFAULT_CHECKPOINT_INTERVAL
    checkpoint_schedule: str = TOGETHER
