"""Clients that break the rules: they may cost themselves everything, and others nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartbft._fastpath.frames import REQUEST, frame
from smartbft._fastpath.pool import join_requests, request_digests
from smartbft.limits import SIGNATURE_BYTES
from smartbft.testing.clients import FIRST_CLIENT_ENDPOINT, make_request
from smartbft.testing.trace import Kind

if TYPE_CHECKING:
    from smartbft.crypto.signatures import Signer
    from smartbft.testing.simulation import Simulation

# Honest requests that a troublemaker can still forge or replay.
RECENT_REQUESTS = 16
# What one troublemaker does in a run at most: some runs are long in virtual time.
MOST_DEEDS = 80
# Requests of a flood.
FLOOD = 100
# Session numbers that are out of bounds, microseconds from the present.
LONG_AGO = 10 * 3600 * 1_000_000
FAR_AHEAD = 600 * 1_000_000


class Troublemaker:
    """A client that forges, replays, leaves gaps, says different things to different replicas, and sends garbage.

    Args:
        world: the simulation it is part of.
        index: its number among all clients; the honest ones come first.
        signer: its key.
        session: its first session number.
        operation: makes an operation from a sequence number.
    """

    __slots__ = (
        "_deeds_left",
        "_mischief",
        "_operation",
        "_sequence",
        "_session",
        "_world",
        "endpoint",
        "signer",
        "source",
    )

    def __init__(
        self, world: Simulation, index: int, signer: Signer, session: int, operation: Callable[[int], bytes]
    ) -> None:
        self._world = world
        self._operation = operation
        self.endpoint = FIRST_CLIENT_ENDPOINT + index
        self.source = index + 1
        self.signer = signer
        self._session = session
        self._sequence = 0
        self._deeds_left = MOST_DEEDS
        self._mischief: tuple[Callable[[], None], ...] = (
            self._forge,
            self._forge,
            self._replay,
            self._equivocate,
            self._equivocate,
            self._tell_one,
            self._leave_gap,
            self._tell_one,
            self._sign_badly,
            self._open_session,
            self._send_garbage,
        )

    def wake(self, _: None = None) -> None:
        """Do something wrong, and again a little later, until the network is healed."""
        world = self._world
        if world.healed or not self._deeds_left:
            return
        self._deeds_left -= 1
        draw = world.scheduler.random
        self._mischief[int(draw.random() * len(self._mischief))]()
        world.scheduler.after(world.scheduler.between(1, world.scenario.mischief_pause), self.wake)

    def receive(self, packet: tuple[int, bytes]) -> None:
        """Whatever comes back is of no interest."""

    def _forge(self) -> None:
        """A copy of somebody's request with another signature: must not stand in the way of the good one."""
        request = self._recent()
        if request:
            position = len(request) - 1 - int(self._world.scheduler.random.random() * SIGNATURE_BYTES)
            forged = bytearray(request)
            forged[position] ^= 1
            self._send_to_some(bytes(forged))

    def _replay(self) -> None:
        """Somebody's request from our connection: at most, its reply comes here too."""
        request = self._recent()
        if request:
            self._send_to_some(request)

    def _recent(self) -> bytes:
        recent = self._world.recent_requests
        return recent[int(self._world.scheduler.random.random() * len(recent))] if recent else b""

    def _equivocate(self) -> None:
        """Two requests with one number, each to some replicas."""
        self._sequence += 1
        one, other = self._request(), self._request(b"\0")
        for replica in self._world.replica_ids:
            self._send(one if self._world.scheduler.chance(0.5) else other, replica)

    def _leave_gap(self) -> None:
        """A number that does not follow the last one, near or far."""
        self._sequence += 2 if self._world.scheduler.chance(0.8) else 2_000
        self._send_to_some(self._request())

    def _tell_one(self) -> None:
        """A good request, but only one replica hears of it."""
        self._sequence += 1
        self._send(self._request(), self._one())

    def _sign_badly(self) -> None:
        """A request of our own with a bad signature."""
        request = self._request()
        self._send_to_some(request[:-SIGNATURE_BYTES] + b"\x01" * SIGNATURE_BYTES)

    def _open_session(self) -> None:
        """One request in a session that is too old or from the future; then go on in the next session."""
        session = self._session
        self._session += -LONG_AGO if self._world.scheduler.chance(0.5) else FAR_AHEAD
        self._send_to_some(self._request())
        self._session = session + 1
        self._sequence = 0

    def _flood(self) -> None:
        """A window full of requests at once, and some beyond it."""
        for _ in range(FLOOD):
            self._sequence += 1
            request = self._request()
            for replica in self._world.replica_ids:
                self._send(request, replica)

    def _send_garbage(self) -> None:
        """Bytes that are no frame."""
        self._send_bytes(bytes(self._world.scheduler.random.getrandbits(8) for _ in range(12)), self._one())

    def _request(self, more: bytes = b"") -> bytes:
        world = self._world
        number = max(1, self._sequence)
        operation = self._operation(number) + more
        request = make_request(world, self.signer, self._session, number, operation)
        digest = request_digests(world.chain_id, join_requests([request]))
        world.checkers.validity.sent(digest, self.signer.public_key, self._session, number)
        return request

    def _one(self) -> int:
        return int(self._world.scheduler.random.random() * self._world.options.n)

    def _send_to_some(self, request: bytes) -> None:
        for replica in self._world.replica_ids:
            if self._world.scheduler.chance(0.7):
                self._send(request, replica)

    def _send(self, request: bytes, replica: int) -> None:
        self._send_bytes(frame(REQUEST, request), replica)

    def _send_bytes(self, data: bytes, replica: int) -> None:
        world = self._world
        world.trace.note(world.scheduler.now, Kind.CLIENT, self.endpoint, replica)
        world.network.send(self.endpoint, replica, world.hosts[replica].deliver_requests, (self.source, data))
