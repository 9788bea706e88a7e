"""Client side, sans-IO: building and signing requests, and finding enough equal replies to one."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field

from smartbft._fastpath.frames import REQUEST, frame
from smartbft._fastpath.hashing import derive_key, keyed_hash
from smartbft._fastpath.pool import BAD_SIGNATURE, EXECUTED, OVERLOADED, REJECTED, SESSION_REFUSED
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Signer
from smartbft.errors import LocalProtocolError, MalformedMessage
from smartbft.limits import CLIENT_RETRANSMIT_SECONDS, MAX_OPERATION_BYTES, REPLY_HEADER_BYTES, SIGNATURE_BYTES

_UNSIGNED = struct.Struct("<32sQQI")
_NO_SIGNATURE = bytes(SIGNATURE_BYTES)
_REPLY = struct.Struct("<HBBIQQ32s")
# Refusals that every correct replica gives alike: f + 1 of them mean that the request will never be executed.
_FINAL = frozenset((REJECTED, BAD_SIGNATURE))
STATUS_NAMES = {
    EXECUTED: "EXECUTED",
    OVERLOADED: "OVERLOADED",
    SESSION_REFUSED: "SESSION_REFUSED",
    REJECTED: "REJECTED",
    BAD_SIGNATURE: "BAD_SIGNATURE",
}


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request ready to send: its REQUEST frame and the digest that replies name."""

    sequence: int
    digest: bytes
    frame: bytes


class RequestBuilder:
    """Builds requests of one client key on one chain, and signs them unless the client proves its key otherwise."""

    __slots__ = ("_digest_key", "_prefix", "_signed", "_signer")

    def __init__(self, chain_id: bytes, signer: Signer, *, signed: bool = True) -> None:
        self._signer = signer
        self._signed = signed
        self._prefix = Domains(chain_id).request_prefix
        self._digest_key = derive_key("smartbft v1 request digest", chain_id)

    @property
    def key(self) -> bytes:
        """The client's public key."""
        return self._signer.public_key

    def build(self, session: int, sequence: int, operation: bytes) -> SignedRequest:
        """Sign `operation` as number `sequence` of `session`.

        Raises:
            LocalProtocolError: the operation is too large, or no bytes.
        """
        if not isinstance(operation, (bytes, bytearray)):
            raise LocalProtocolError(f"an operation is bytes, not {type(operation).__name__}: encode it first")
        if len(operation) > MAX_OPERATION_BYTES:
            raise LocalProtocolError(
                f"an operation of {len(operation)} bytes; at most {MAX_OPERATION_BYTES} are allowed: store large data "
                "elsewhere and replicate its digest"
            )
        unsigned = _UNSIGNED.pack(self._signer.public_key, session, sequence, len(operation)) + operation
        request = unsigned + (self._signer.sign(self._prefix + unsigned) if self._signed else _NO_SIGNATURE)
        return SignedRequest(sequence, keyed_hash(self._digest_key, request), frame(REQUEST, request))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What enough replicas agree on about one request.

    Attributes:
        status: EXECUTED, REJECTED, BAD_SIGNATURE or SESSION_REFUSED.
        result: the application's result (EXECUTED).
        instance: the consensus instance that ordered it (EXECUTED).
        agreed_time: microseconds; for SESSION_REFUSED one that a correct replica has reached.
        level: persistence of the replies (EXECUTED): 0 memory, 1 asynchronous, 2 synchronous.
    """

    status: int
    result: bytes
    instance: int
    agreed_time: int
    level: int


@dataclass(slots=True)
class ReplyVotes:
    """The newest reply of each replica to one request.

    Attributes:
        replies: by replica, without its id.
        open: by replica, how often it was sent the request and has not refused it for lack of room: it may hold it.
    """

    replies: dict[int, bytes] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)

    def sent(self, replica: int) -> None:
        """The request goes to a replica, perhaps again."""
        self.open[replica] = self.open.get(replica, 0) + 1

    def held_by_nobody(self) -> bool:
        """Whether every replica has refused it, each time that it was sent there."""
        return not any(self.open.values())

    def statuses(self) -> dict[int, int]:
        """The status each replica answered."""
        return {replica: reply[0] for replica, reply in self.replies.items()}


@dataclass(slots=True)
class Pending:
    """A number of the session that is not settled yet; nobody waits for it any more once `future` is None."""

    request: SignedRequest
    votes: ReplyVotes
    future: asyncio.Future[Outcome] | None
    resend_at: float
    pause: float = CLIENT_RETRANSMIT_SECONDS


class ReplyCollector:
    """Finds the outcome of requests in the replies of all replicas.

    Args:
        f: how many replicas may lie.
        needed: equal replies that make a result: `Q` in the synchronous mode, else ``f + 1`` (protocols.md 2.1).
    """

    def __init__(self, f: int, needed: int) -> None:
        self._f = f
        self._needed = needed
        self._votes: dict[bytes, ReplyVotes] = {}

    def expect(self, digest: bytes) -> ReplyVotes:
        """Collect replies to this request from now on."""
        votes = self._votes[digest] = ReplyVotes()
        return votes

    def forget(self, digest: bytes) -> None:
        """The request is settled or given up."""
        self._votes.pop(digest, None)

    def add(self, replica: int, payload: bytes) -> tuple[bytes, Outcome] | None:
        """Take a REPLY payload from the connection to `replica`; returns the digest and outcome that it completes.

        Raises:
            MalformedMessage: too short, or in the name of another replica.
        """
        if len(payload) < REPLY_HEADER_BYTES:
            raise MalformedMessage(f"a reply of {len(payload)} bytes is shorter than its header")
        sender, status, _, _, _, _, digest = _REPLY.unpack_from(payload)
        if sender != replica:
            raise MalformedMessage(f"a reply in the name of replica {sender} from replica {replica}")
        if status not in STATUS_NAMES:
            raise MalformedMessage(f"a reply with the unknown status {status}")
        votes = self._votes.get(digest)
        if votes is None:
            return None
        # Without the replica's id the replies of correct replicas are equal, byte for byte.
        body = payload[2:]
        votes.replies[replica] = body
        if status == OVERLOADED and votes.open.get(replica):
            votes.open[replica] -= 1
        if status == EXECUTED:
            if sum(1 for other in votes.replies.values() if other == body) < self._needed:
                return None
        elif status == OVERLOADED or sum(1 for other in votes.replies.values() if other[0] == status) <= self._f:
            return None
        return digest, self._outcome(status, payload, votes)

    def _outcome(self, status: int, payload: bytes, votes: ReplyVotes) -> Outcome:
        _, _, level, _, instance, agreed_time, _ = _REPLY.unpack_from(payload)
        if status == EXECUTED:
            return Outcome(status, payload[REPLY_HEADER_BYTES:], instance, agreed_time, level)
        if status in _FINAL:
            return Outcome(status, b"", 0, agreed_time, 0)
        # Of f + 1 readings the lowest was reached by a correct replica, or by one that says less than it could.
        readings = [_REPLY.unpack_from(b"\0\0" + body)[5] for body in votes.replies.values() if body[0] == status]
        return Outcome(status, b"", 0, sorted(readings, reverse=True)[self._f], 0)
