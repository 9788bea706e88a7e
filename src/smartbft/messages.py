"""Every protocol message between replicas: one schema, with its size limits, coded as MessagePack arrays.

Decoding is strict and canonical: ``encode(decode(b)) == b``, or `MalformedMessage`. Requests, replies and digest
lists have fixed layouts of their own (docs/wire-format.md) and travel here as byte fields. The sender is not part of
a message: it is the peer at the other end of the authenticated channel; a message that must convince third parties
carries a signature.
"""

from __future__ import annotations

from typing import Annotated, Union

import msgspec

from smartbft.errors import MalformedMessage
from smartbft.limits import (
    DIGEST_BYTES,
    KEY_STATEMENT_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_REQUESTS,
    MAX_FETCH_DIGESTS,
    MAX_FETCH_HELD_DIGESTS,
    MAX_FORWARD_BYTES,
    MAX_MEMBERS,
    MAX_REQUEST_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_SNAPSHOT_CHUNKS,
    MAX_VALUE_BYTES,
    MAX_WRITE_SET_ENTRIES,
    SIGNATURE_BYTES,
    SNAPSHOT_CHUNK_BYTES,
)

Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
ReplicaId = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
ValueBytes = Annotated[bytes, msgspec.Meta(min_length=8, max_length=MAX_VALUE_BYTES)]
StatementBytes = Annotated[bytes, msgspec.Meta(min_length=KEY_STATEMENT_BYTES, max_length=KEY_STATEMENT_BYTES)]
Digests = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES * MAX_FETCH_DIGESTS)]
HeldDigests = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES * MAX_FETCH_HELD_DIGESTS)]
# A request list: each request has a length of four bytes before it.
BatchData = Annotated[bytes, msgspec.Meta(max_length=MAX_BATCH_BYTES + 4 * MAX_BATCH_REQUESTS)]
ForwardData = Annotated[bytes, msgspec.Meta(max_length=MAX_FORWARD_BYTES + MAX_REQUEST_BYTES + 4 * MAX_BATCH_REQUESTS)]
# The value of a SYNC may be empty: nothing is proposed yet.
ValueOrNothing = Annotated[bytes, msgspec.Meta(max_length=MAX_VALUE_BYTES)]
SnapshotSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_SNAPSHOT_BYTES)]
ChunkIndex = Annotated[int, msgspec.Meta(ge=0, le=MAX_SNAPSHOT_CHUNKS - 1)]
ChunkHashes = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES * MAX_SNAPSHOT_CHUNKS)]
ChunkData = Annotated[bytes, msgspec.Meta(min_length=1, max_length=SNAPSHOT_CHUNK_BYTES)]
Signatures = Annotated[tuple[tuple[ReplicaId, Signature], ...], msgspec.Meta(max_length=MAX_MEMBERS)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Common fields: the view (membership) and the regency (leader epoch) the sender is in."""

    view: Number
    regency: Number


class Propose(_Message, frozen=True, tag=1, gc=False):
    """PROPOSE: the leader's value for an instance (VP-Consensus step 1)."""

    instance: Number
    value: ValueBytes


class Write(_Message, frozen=True, tag=2, gc=False):
    """WRITE: the sender saw a valid proposal with this value digest (step 2)."""

    instance: Number
    digest: Digest


class Accept(_Message, frozen=True, tag=3, gc=False):
    """ACCEPT: the sender saw a WRITE quorum for this digest; signed with its consensus key (step 3)."""

    instance: Number
    digest: Digest
    signature: Signature


class Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Proof of a decision: `Q` ACCEPT signatures of distinct members, sorted by member id."""

    view: Number
    regency: Number
    instance: Number
    digest: Digest
    signatures: Signatures


class Accepted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """`(ts, val)` of VP-Consensus: the newest WRITE quorum a replica saw in an instance."""

    regency: Number
    digest: Digest


class Written(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An entry of the write set: a value digest, and the newest regency the replica sent WRITE for it in."""

    digest: Digest
    regency: Number


WriteSet = Annotated[tuple[Written, ...], msgspec.Meta(max_length=MAX_WRITE_SET_ENTRIES)]


class Decision(_Message, frozen=True, tag=4, gc=False):
    """A decided value with its requests and its proof, for a replica that lacks it."""

    instance: Number
    value: ValueBytes
    data: BatchData
    proof: Proof


class FetchRequests(_Message, frozen=True, tag=5, gc=False):
    """Asks for the bodies of requests that a proposal names."""

    instance: Number
    digests: Digests


class RequestBodies(_Message, frozen=True, tag=6, gc=False):
    """Answer to FetchRequests: those of the requests that the sender holds."""

    instance: Number
    data: BatchData


class Forward(_Message, frozen=True, tag=7, gc=False):
    """FORWARDED (Mod-SMaRt Algorithm 3, line 3): requests that were not ordered in time, for everybody's pool."""

    data: ForwardData


class FetchDecisions(_Message, frozen=True, tag=8, gc=False):
    """Asks for the decisions `first` to `last`."""

    first: Number
    last: Number


class Progress(_Message, frozen=True, tag=9, gc=False):
    """The sender has decided all instances up to `decided`. A hint only: it is worth nothing without a proof."""

    decided: Number


class Stop(_Message, frozen=True, tag=10, gc=False):
    """STOP (Mod-SMaRt Algorithm 3, line 10): the sender suspects the leader and asks for regency `target`."""

    target: Number
    data: ForwardData  # pending requests that were not ordered in time


class StopData(_Message, frozen=True, tag=11, gc=False):
    """STOPDATA (Algorithm 3, line 23): what the signer promises when it installs `regency`, for the new leader.

    The bounded form of protocols.md 2.3: the last decision's proof, and the COLLECT of VP-Consensus for the instance
    after it. One signature covers all of it but the proof, which proves itself.
    """

    signer: ReplicaId
    instance: Number  # the last decided one + 1
    accepted: Accepted | None
    write_set: WriteSet  # sorted by digest, one entry per value
    proof: Proof | None  # of instance - 1; None before the first decision of the view
    signature: Signature


StopDataSet = Annotated[tuple[StopData, ...], msgspec.Meta(max_length=MAX_MEMBERS)]


class Sync(_Message, frozen=True, tag=12, gc=False):
    """SYNC (Algorithm 3, line 29): the new leader's STOPDATA from `n - f` replicas, unchanged and sorted by signer, and
    the value to propose in the instance after the highest proven one.

    Attributes:
        value: empty: nothing binds and nothing is pending; the instance is free for a PROPOSE.
        signature: of the leader of `regency`, so that any holder may pass it on.
    """

    stop_data: StopDataSet
    value: ValueOrNothing
    signature: Signature


class FetchSync(_Message, frozen=True, tag=13, gc=False):
    """The sender has installed `regency` and lacks its SYNC."""


class FetchValue(_Message, frozen=True, tag=14, gc=False):
    """Asks for the value with this digest, proposed in an instance: it binds there, or the receiver writes it."""

    instance: Number
    digest: Digest


class ProposedValue(_Message, frozen=True, tag=15, gc=False):
    """Answer to FetchValue."""

    instance: Number
    value: ValueBytes


class Checkpoint(_Message, frozen=True, tag=20, gc=False):
    """CHECKPOINT: the sender has a snapshot after `instance` with this digest on disk; signed by its consensus key."""

    instance: Number
    size: SnapshotSize
    digest: Digest
    signature: Signature


class FetchCheckpoints(_Message, frozen=True, tag=21, gc=False):
    """The sender needs a snapshot: which ones are there?"""


class Gone(_Message, frozen=True, tag=22, gc=False):
    """The sender's log begins with the decision of instance `first`: what was asked for is not in it any more."""

    first: Number


class FetchManifest(_Message, frozen=True, tag=23, gc=False):
    """Asks for the list of chunk hashes of a snapshot."""

    instance: Number
    digest: Digest


class SnapshotManifest(_Message, frozen=True, tag=24, gc=False):
    """Answer to FetchManifest. The hashes are checked against the digest, the proof is the sender's own."""

    instance: Number
    size: SnapshotSize
    digest: Digest
    hashes: ChunkHashes
    proof: Proof


class FetchChunk(_Message, frozen=True, tag=25, gc=False):
    """Asks for a chunk of a snapshot."""

    instance: Number
    digest: Digest
    index: ChunkIndex


class SnapshotChunk(_Message, frozen=True, tag=26, gc=False):
    """Answer to FetchChunk."""

    instance: Number
    digest: Digest
    index: ChunkIndex
    data: ChunkData


class Vote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where the highest vote stands that somebody saw of a replica."""

    instance: Number
    regency: Number


class FetchStanding(_Message, frozen=True, tag=30, gc=False):
    """The sender has started: it asks where the others are and what they have seen of it (protocols.md section 3)."""

    token: Number  # tells this life's question from an earlier one's


class Standing(_Message, frozen=True, tag=31, gc=False):
    """Answer to FetchStanding, beside the view and the regency."""

    token: Number
    proof: Proof | None  # of the last decision
    vote: Vote | None  # the highest vote seen from the asker
    accept: Accept | None  # its highest signed one: shows that the vote was made


class Hold(_Message, frozen=True, tag=16, gc=False):
    """HOLD (protocols.md 2.1): the sender has these requests from their clients, or `f + 1` others have."""

    digests: Digests


class FetchHeld(_Message, frozen=True, tag=17, gc=False):
    """Asks for requests that the receiver holds."""

    digests: HeldDigests


class HeldRequests(_Message, frozen=True, tag=18, gc=False):
    """Answer to FetchHeld: as many of them as one message has room for."""

    data: ForwardData


class KeyAnnouncement(_Message, frozen=True, tag=32, gc=False):
    """A member has lost the record of its votes and asks for a new consensus key; anybody may pass it on."""

    statement: StatementBytes


Message = Union[  # noqa: UP007 - msgspec builds its decoder from this union
    Propose,
    Write,
    Accept,
    Decision,
    FetchRequests,
    RequestBodies,
    Forward,
    FetchDecisions,
    Progress,
    Stop,
    StopData,
    Sync,
    FetchSync,
    FetchValue,
    ProposedValue,
    Hold,
    FetchHeld,
    HeldRequests,
    Checkpoint,
    FetchCheckpoints,
    Gone,
    FetchManifest,
    SnapshotManifest,
    FetchChunk,
    SnapshotChunk,
    FetchStanding,
    Standing,
    KeyAnnouncement,
]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_proof_decoder = msgspec.msgpack.Decoder(Proof)
_unsigned = b"\0" * SIGNATURE_BYTES


def encode(message: Message) -> bytes:
    """Canonical bytes of a message."""
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Decode one message.

    Raises:
        MalformedMessage: not MessagePack, unknown type, a field missing, extra, out of bounds, or not canonical.
    """
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"a protocol message does not decode: {error}") from None
    if _encoder.encode(message) != data:
        raise MalformedMessage(f"a {type(message).__name__} is not in canonical form")
    return message


def encode_proof(proof: Proof) -> bytes:
    """Canonical bytes of a proof, as the log keeps it."""
    return _encoder.encode(proof)


def decode_proof(data: bytes) -> Proof:
    """Inverse of `encode_proof`. Raises MalformedMessage."""
    try:
        proof = _proof_decoder.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"a decision proof does not decode: {error}") from None
    if _encoder.encode(proof) != data:
        raise MalformedMessage("a decision proof is not in canonical form")
    return proof


def stop_data_statement(message: StopData) -> bytes:
    """The bytes that a STOPDATA's signature covers, beside its domain: everything but the proof and the signature."""
    return _encoder.encode(msgspec.structs.replace(message, proof=None, signature=_unsigned))


def sync_statement(message: Sync) -> bytes:
    """The bytes that a SYNC's signature covers, beside its domain: everything but the signature."""
    return _encoder.encode(msgspec.structs.replace(message, signature=_unsigned))
