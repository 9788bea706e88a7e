"""Simulated clients: sessions that keep requests in flight, retransmit, and accept a result on enough equal replies."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from smartbft._fastpath.frames import REPLY, REQUEST, frame
from smartbft._fastpath.pool import EXECUTED, encode_request, join_requests, request_digests
from smartbft.limits import FRAME_HEADER_BYTES, REPLY_HEADER_BYTES, SIGNATURE_BYTES
from smartbft.testing.trace import Kind

if TYPE_CHECKING:
    from smartbft.crypto.domains import Domains
    from smartbft.crypto.signatures import Signer
    from smartbft.testing.simulation import Simulation

_FRAME = struct.Struct("<IB")
_REPLY = struct.Struct("<HBBIQQ32s")
_SIGNED_REQUEST = struct.Struct("<32sQQI")

# Endpoint numbers of clients in the simulated network start here; replica ids are below.
FIRST_CLIENT_ENDPOINT = 1 << 14
RETRANSMIT_MICROSECONDS = 150_000
RETRANSMIT_MOST_MICROSECONDS = 2_000_000
# How often a client that has all its answers goes on in a new session, and how many it opens in all.
NEW_SESSION_RATE = 0.02
MOST_SESSIONS = 8


class Reply:
    """A reply as it lies on the wire.

    Attributes:
        replica, status, level, view, instance, time, digest, result: its fields.
        content: all of it but the replica: what must be equal.
    """

    __slots__ = ("content", "digest", "instance", "level", "replica", "result", "status", "time", "view")

    def __init__(self, payload: bytes) -> None:
        fields = _REPLY.unpack_from(payload)
        self.replica, self.status, self.level, self.view, self.instance, self.time, self.digest = fields
        self.result = payload[REPLY_HEADER_BYTES:]
        self.content = payload[2:]


def parse_replies(frames: bytes) -> list[Reply]:
    """The replies in a run of complete REPLY frames."""
    replies = []
    at = 0
    while at < len(frames):
        length, kind = _FRAME.unpack_from(frames, at)
        end = at + FRAME_HEADER_BYTES - 1 + length
        if kind == REPLY:
            replies.append(Reply(frames[at + FRAME_HEADER_BYTES : end]))
        at = end
    return replies


def sign_request(
    domains: Domains, signer: Signer, session: int, sequence: int, operation: bytes, *, signed: bool = True
) -> bytes:
    """A request in the name of `signer`'s key, with its signature or none."""
    key = signer.public_key
    if not signed:
        return encode_request(key, session, sequence, operation, bytes(SIGNATURE_BYTES))
    unsigned = _SIGNED_REQUEST.pack(key, session, sequence, len(operation)) + operation
    return encode_request(key, session, sequence, operation, signer.sign(domains.request_prefix + unsigned))


class ClientFigures:
    """What the honest clients of a run went through; times are virtual microseconds.

    Attributes:
        retransmissions: requests sent again because no answer had come.
        longest_wait: the longest time from sending a request to its answer.
        last_answer: when the last request was answered.
    """

    __slots__ = ("last_answer", "longest_wait", "retransmissions")

    def __init__(self) -> None:
        self.retransmissions = 0
        self.longest_wait = 0
        self.last_answer = 0

    def answered(self, sent_at: int, now: int) -> None:
        """A request that was sent first at `sent_at` has its answer."""
        self.longest_wait = max(self.longest_wait, now - sent_at)
        self.last_answer = now


def make_request(world: Simulation, signer: Signer, session: int, sequence: int, operation: bytes) -> bytes:
    """A request as this simulation's chain wants it."""
    signed = not world.scenario.channel
    return sign_request(world.domains, signer, session, sequence, operation, signed=signed)


class _Outstanding:
    """A request on its way."""

    __slots__ = ("frame", "pause", "replies", "resend_at", "sent_at", "sequence")

    def __init__(self, sequence: int, framed: bytes, now: int) -> None:
        self.sequence = sequence
        self.frame = framed
        self.sent_at = now
        self.resend_at = now + RETRANSMIT_MICROSECONDS
        self.pause = RETRANSMIT_MICROSECONDS
        self.replies: dict[bytes, int] = {}  # content -> bit mask of replicas


class SimulatedClient:
    """A client, with one session at a time.

    Args:
        world: the simulation it is part of.
        index: its number among the clients, from 0.
        signer: its key.
        session: the number of its first session.
        operation: makes the operation of the request with a given sequence number.

    Attributes:
        answered: requests with enough equal replies.
    """

    __slots__ = (
        "_operation",
        "_outstanding",
        "_resend_running",
        "_sequence",
        "_sessions",
        "_waking",
        "_world",
        "answered",
        "endpoint",
        "index",
        "session",
        "signer",
        "source",
    )

    def __init__(
        self, world: Simulation, index: int, signer: Signer, session: int, operation: Callable[[int], bytes]
    ) -> None:
        self._world = world
        self.index = index
        self.endpoint = FIRST_CLIENT_ENDPOINT + index
        self.source = index + 1  # the pool's source 0 means 'no client connection'
        self.signer = signer
        self.session = session
        self.answered = 0
        self._operation = operation
        self._sequence = 0
        self._sessions = 1
        self._outstanding: dict[bytes, _Outstanding] = {}
        self._resend_running = False
        self._waking = False

    def wake(self, _: None = None) -> None:
        """Send new requests, as many as may be in flight."""
        self._waking = False
        world = self._world
        frames = []
        while self._may_send() and world.wants_requests():
            frames.append(self._next_request())
        if frames:
            self._send_first(b"".join(frames))
        self._keep_resending()

    def _keep_resending(self) -> None:
        if not self._resend_running and self._outstanding:
            self._resend_running = True
            self._world.scheduler.after(RETRANSMIT_MICROSECONDS, self._on_resend)

    def probe(self) -> None:
        """One more request after the network is healed: somebody must want something for progress to show."""
        if self._may_send():
            self._send(self._next_request())
            self._keep_resending()

    def _may_send(self) -> bool:
        if not self._outstanding:
            return True
        # Replies are cached for a window of numbers only: the oldest unanswered request holds back the newest.
        oldest = next(iter(self._outstanding.values())).sequence
        room = self._sequence + 1 - oldest < self._world.scenario.parameters.window
        return room and len(self._outstanding) < self._world.options.in_flight

    def _next_request(self) -> bytes:
        world = self._world
        self._sequence += 1
        operation = self._operation(self._sequence)
        request = make_request(world, self.signer, self.session, self._sequence, operation)
        digest = request_digests(world.chain_id, join_requests([request]))
        framed = frame(REQUEST, request)
        self._outstanding[digest] = _Outstanding(self._sequence, framed, world.scheduler.now)
        world.outstanding += 1
        world.recent_requests.append(request)
        world.checkers.validity.sent(digest, self.signer.public_key, self.session, self._sequence)
        world.checkers.replies.expect(digest)
        if world.history is not None:
            world.history.invoked(digest, self.index, operation, world.scheduler.now)
        return framed

    def _send_first(self, frames: bytes) -> None:
        """To all replicas; in some runs now and then only to one, whose business it is then to forward."""
        world = self._world
        if world.scenario.tell_one and world.scheduler.chance(world.scenario.tell_one):
            host = world.hosts[int(world.scheduler.random.random() * len(world.hosts))]
            world.network.send(self.endpoint, host.id, host.deliver_requests, (self.source, frames))
        else:
            self._send(frames)

    def _send(self, frames: bytes) -> None:
        network = self._world.network
        packet = (self.source, frames)
        for host in self._world.machines:
            network.send(self.endpoint, host.endpoint, host.deliver_requests, packet)

    def _on_resend(self, _: None) -> None:
        """Retransmit what is overdue, each request with growing pauses."""
        now = self._world.scheduler.now
        frames = []
        for request in self._outstanding.values():
            if request.resend_at <= now:
                request.pause = min(2 * request.pause, RETRANSMIT_MOST_MICROSECONDS)
                request.resend_at = now + request.pause
                frames.append(request.frame)
        if frames:
            self._world.client_figures.retransmissions += len(frames)
            self._send(b"".join(frames))
        self._resend_running = bool(self._outstanding)
        if self._resend_running:
            self._world.scheduler.after(RETRANSMIT_MICROSECONDS, self._on_resend)

    def receive(self, packet: tuple[int, bytes]) -> None:
        """Replies from a replica: count equal ones of distinct replicas."""
        replica, frames = packet
        world = self._world
        for reply in parse_replies(frames):
            request = self._outstanding.get(reply.digest)
            if request is None or reply.status != EXECUTED:
                continue  # answered already, or to be sent again later (a refusal is for the checkers)
            mask = request.replies.get(reply.content, 0) | 1 << replica
            request.replies[reply.content] = mask
            if mask.bit_count() >= world.enough_replies:
                self._accept(reply, mask)

    def _accept(self, reply: Reply, replicas: int) -> None:
        world = self._world
        request = self._outstanding.pop(reply.digest)
        self.answered += 1
        world.client_figures.answered(request.sent_at, world.scheduler.now)
        if world.history is not None:
            world.history.answered(reply.digest, reply.result, world.scheduler.now)
        world.checkers.durability.acknowledged(reply.instance, reply.digest, replicas)
        world.trace.note(world.scheduler.now, Kind.CLIENT, self.endpoint, reply.instance)
        world.answered_one()
        if not self._outstanding and world.scheduler.chance(NEW_SESSION_RATE) and self._sessions < MOST_SESSIONS:
            self._sessions += 1
            self.session += 1
            self._sequence = 0
        if not self._waking:
            self._waking = True
            world.scheduler.after(world.scheduler.between(0, world.scenario.think_time), self.wake)

    def outstanding(self) -> int:
        """Requests without an answer."""
        return len(self._outstanding)
