"""Client side, sans-IO: building and signing requests, and finding enough equal replies to one."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from smartbft._fastpath.frames import REQUEST, frame
from smartbft._fastpath.hashing import derive_key, keyed_hash
from smartbft._fastpath.pool import BAD_SIGNATURE, EXECUTED, OVERLOADED, REJECTED, SESSION_REFUSED
from smartbft._fastpath.verify import verify
from smartbft.arguments import bytes_of
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Signer
from smartbft.errors import Indeterminate, LocalProtocolError, MalformedMessage, Rejected
from smartbft.limits import (
    CLIENT_RETRANSMIT_SECONDS,
    FRAME_HEADER_BYTES,
    MAX_OPERATION_BYTES,
    REPLY_HEADER_BYTES,
    REQUEST_HEADER_BYTES,
    SIGNATURE_BYTES,
)

_UNSIGNED = struct.Struct("<32sQQI")
_NO_SIGNATURE = bytes(SIGNATURE_BYTES)
_REPLY = struct.Struct("<HBBIQQ32s")
# Bytes of a reply before what correct replicas say alike.
_REPLICA_FIELD_BYTES = 2
_LEVEL_AT = 1  # after them
# Refusals that every correct replica gives alike, at all times.
_FINAL = (REJECTED, BAD_SIGNATURE)
STATUS_NAMES = {
    EXECUTED: "EXECUTED",
    OVERLOADED: "OVERLOADED",
    SESSION_REFUSED: "SESSION_REFUSED",
    REJECTED: "REJECTED",
    BAD_SIGNATURE: "BAD_SIGNATURE",
}
#: Status of an outcome, on no wire: the request was executed, and the replicas' results differ too much to believe any.
RESULTS_DIFFER = -1


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request ready to send: its REQUEST frame and the digest that replies name."""

    session: int
    sequence: int
    digest: bytes
    frame: bytes

    def unknown(self, why: str) -> Indeterminate:
        """The error of an invocation of this request that ends without a result."""
        request = self.frame[FRAME_HEADER_BYTES:]
        return Indeterminate(why, session=self.session, sequence=self.sequence, request=request)


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
            LocalProtocolError: see `check_operation`.
        """
        operation = check_operation(operation)
        unsigned = _UNSIGNED.pack(self._signer.public_key, session, sequence, len(operation)) + operation
        request = unsigned + (self._signer.sign(self._prefix + unsigned) if self._signed else _NO_SIGNATURE)
        return self._framed(session, sequence, request)

    def rebuild(self, request: bytes) -> SignedRequest:
        """A request that was built before, from its bytes: the very same one, not a second one with its number.

        Raises:
            LocalProtocolError: it is no request of this client on this chain.
        """
        request = bytes_of(request, "a request")
        if len(request) < REQUEST_HEADER_BYTES + SIGNATURE_BYTES:
            raise LocalProtocolError(f"{len(request)} bytes are no request: it has {REQUEST_HEADER_BYTES} and more")
        key, session, sequence, length = _UNSIGNED.unpack_from(request)
        if len(request) != REQUEST_HEADER_BYTES + length + SIGNATURE_BYTES:
            raise LocalProtocolError(f"a request of {len(request)} bytes that declares an operation of {length}")
        if key != self.key:
            raise LocalProtocolError(f"a request of the client with key {key.hex()[:16]}: ask with its key")
        unsigned, signature = request[:-SIGNATURE_BYTES], request[-SIGNATURE_BYTES:]
        if self._signed and not verify(key, signature, self._prefix + unsigned):
            raise LocalProtocolError("the request is not signed for this chain: ask with a client of its chain")
        return self._framed(session, sequence, request)

    def _framed(self, session: int, sequence: int, request: bytes) -> SignedRequest:
        return SignedRequest(session, sequence, keyed_hash(self._digest_key, request), frame(REQUEST, request))


def check_operation(operation: object) -> bytes:
    """An operation as it travels.

    Raises:
        LocalProtocolError: the operation is too large (`ArgumentTypeError`: or not bytes-like).
    """
    operation = bytes_of(operation, "an operation")
    if len(operation) > MAX_OPERATION_BYTES:
        raise LocalProtocolError(
            f"an operation of {len(operation)} bytes; at most {MAX_OPERATION_BYTES} are allowed: store large data "
            "elsewhere and replicate its digest"
        )
    return operation


@dataclass(frozen=True, slots=True)
class Outcome:
    """What enough replicas agree on about one request.

    Attributes:
        status: EXECUTED, REJECTED, BAD_SIGNATURE or SESSION_REFUSED; or `RESULTS_DIFFER`.
        result: the application's result (EXECUTED), or code and text of its check (REJECTED).
        instance: the consensus instance that ordered it (EXECUTED).
        agreed_time: microseconds; for SESSION_REFUSED one between the clocks of correct replicas.
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
    """

    replies: dict[int, bytes] = field(default_factory=dict)

    def statuses(self) -> dict[int, int]:
        """The status each replica answered."""
        return {replica: reply[0] for replica, reply in self.replies.items()}

    def count(self, status: int) -> int:
        """How many replicas answered with this status."""
        return sum(1 for reply in self.replies.values() if reply[0] == status)

    def executed(self) -> list[bytes]:
        """The replies of those that executed it."""
        return [reply for reply in self.replies.values() if reply[0] == EXECUTED]

    def results(self) -> Counter[bytes]:
        """How many replicas gave which result."""
        return Counter(map(_result_of, self.executed()))

    def reasons(self, status: int) -> Counter[bytes]:
        """How many replicas that answered with this status gave which reason."""
        return Counter(_result_of(reply) for reply in self.replies.values() if reply[0] == status)

    def final(self, f: int) -> int | None:
        """The status of a refusal that more than `f` replicas give and that is final, if there is one."""
        return next((status for status in _FINAL if self.count(status) > f), None)

    def difference(self) -> str:
        """How the replies of those that executed the request differ, in words; empty if they do not."""
        executed, results = self.executed(), self.results()
        if len(results) > 1:
            return (
                f"{len(executed)} replicas executed it and gave {len(results)} different results: the application is "
                "not deterministic; run check-application"
            )
        if len({reply[_LEVEL_AT] for reply in executed}) > 1:
            return f"{len(executed)} replicas executed it with different persistence: give all of them the same"
        if len(set(executed)) > 1:
            return f"{len(executed)} replicas executed it, and not all in the same instance: some of them lie"
        return ""


@dataclass(eq=False, slots=True)
class Pending:
    """A request that is not settled yet: it is sent again and again.

    Attributes:
        waiting: those who wait for its outcome; nobody, once they have given up.
        unknown: somebody gave up, and may ask for the outcome later.
        resend_at: on the loop's clock.
        pause: seconds from the last transmission to the next one.
    """

    request: SignedRequest
    votes: ReplyVotes
    resend_at: float
    pause: float = CLIENT_RETRANSMIT_SECONDS
    waiting: list[asyncio.Future[Outcome]] = field(default_factory=list)
    unknown: bool = False

    def succeed(self, outcome: Outcome) -> None:
        """Give everybody who waits the outcome."""
        for future in self.waiting:
            if not future.done():
                future.set_result(outcome)

    def fail(self, error: Callable[[], BaseException]) -> None:
        """Give everybody who waits an error of their own."""
        for future in self.waiting:
            if not future.done():
                future.set_exception(error())


class ReplyCollector:
    """Finds the outcome of requests in the replies of all replicas.

    Args:
        f: how many replicas may lie.
        needed: equal replies that make a result: `Q` in the synchronous mode, else ``f + 1`` (protocols.md 2.1).
        n: how many replicas there are; ``3f + 1`` unless given.
    """

    def __init__(self, f: int, needed: int, n: int | None = None) -> None:
        self._f = f
        self._needed = needed
        self._n = 3 * f + 1 if n is None else n
        self._votes: dict[bytes, ReplyVotes] = {}

    def expect(self, digest: bytes) -> ReplyVotes:
        """Collect replies to this request from now on."""
        votes = self._votes[digest] = ReplyVotes()
        return votes

    def resume(self, digest: bytes, votes: ReplyVotes) -> None:
        """Go on collecting where `forget` had ended it."""
        self._votes[digest] = votes

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
        votes.replies[replica] = payload[_REPLICA_FIELD_BYTES:]
        settled = self._settles(status, votes.replies[replica], votes)
        return None if settled is None else (digest, self._outcome(settled, payload, votes))

    def _settles(self, status: int, body: bytes, votes: ReplyVotes) -> int | None:
        """The status of the outcome, if this reply completes one.

        Every correct replica judges an operation and a signature alike: the refusal of one of them is final, and it is
        among ``f + 1``. They give one reason; should a liar have given another, one more is waited for. A session is
        judged by the clock: only of ``2f + 1`` readings does the middle one lie between those of two correct replicas.
        And OVERLOADED is never an outcome: a liar may keep what the others do not take, and have it ordered.
        """
        if status == EXECUTED:
            same = Counter(votes.executed())
            if same[body] >= self._needed:
                return EXECUTED
            # No result can come, whatever the others say. More than f replicas differ from the most frequent reply: so
            # f + 1 say that they executed it, and one of them is correct.
            return RESULTS_DIFFER if max(same.values()) + self._n - same.total() < self._needed else None
        count = votes.count(status)
        if status == SESSION_REFUSED:
            return status if count > 2 * self._f else None
        if status not in _FINAL or count <= self._f:
            return None
        return status if count > 2 * self._f or votes.reasons(status)[_result_of(body)] > self._f else None

    def _outcome(self, status: int, payload: bytes, votes: ReplyVotes) -> Outcome:
        if status == EXECUTED:
            _, _, level, _, instance, agreed_time, _ = _REPLY.unpack_from(payload)
            return Outcome(status, payload[REPLY_HEADER_BYTES:], instance, agreed_time, level)
        if status == SESSION_REFUSED:
            readings = sorted(
                time for answered, time in map(_status_and_time, votes.replies.values()) if answered == status
            )
            return Outcome(status, b"", 0, readings[(len(readings) - 1) // 2], 0)
        return self.refusal(status, votes)

    def refusal(self, status: int, votes: ReplyVotes) -> Outcome:
        """The outcome of a request that is refused for good, with the reason that ``f + 1`` replicas give, if any."""
        reasons = [reason for reason, count in votes.reasons(status).items() if count > self._f]
        return Outcome(status, reasons[0] if reasons else b"", 0, 0, 0)


def _result_of(body: bytes) -> bytes:
    return body[REPLY_HEADER_BYTES - _REPLICA_FIELD_BYTES :]


def _status_and_time(body: bytes) -> tuple[int, int]:
    return body[0], reading_of(bytes(_REPLICA_FIELD_BYTES) + body)


def rejection(outcome: Outcome) -> Rejected:
    """The error of an invocation whose request was refused for good before it was ordered."""
    if outcome.status == BAD_SIGNATURE:
        return Rejected("the request was not ordered: its signature is bad")
    code, text = outcome.result[:1], outcome.result[1:].decode("utf-8", "replace")
    shown = "".join(character if character.isprintable() else " " for character in text).strip()
    why = f": {shown}" if shown else ""
    named = f" (code {code[0]})" if code and code[0] else ""
    return Rejected(f"the request was not ordered: the application's check refuses it{why}{named}", *code)


def reading_of(payload: bytes) -> int:
    """The time in a reply, microseconds."""
    time: int = _REPLY.unpack_from(payload)[5]
    return time
